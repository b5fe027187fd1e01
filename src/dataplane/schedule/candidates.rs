//! A service's servers as a scheduler sees them: weight, overload mark, load.

use super::cursor::Cursor;
use super::limits::{Limits, Load};
use crate::counters::WorkerCounters;
use crate::model::RealServer;

/// The servers of one service, by position in the order of adding.
#[derive(Debug)]
pub(super) struct Candidates<'a> {
    pub servers: &'a [RealServer],
    limits: &'a mut Limits,
    counters: &'a WorkerCounters,
}

impl<'a> Candidates<'a> {
    pub fn new(
        servers: &'a [RealServer],
        limits: &'a mut Limits,
        counters: &'a WorkerCounters,
    ) -> Self {
        Candidates { servers, limits, counters }
    }

    /// Positions in the kernel's list order: the server added last comes first.
    pub fn order(&self) -> impl Iterator<Item = usize> + use<> {
        (0..self.servers.len()).rev()
    }

    /// Positions of the kernel's walk that starts behind `cursor` and ends with its own server.
    pub fn walk(&self, cursor: &Cursor) -> impl Iterator<Item = usize> + use<> {
        let (start, count) = (self.behind(cursor), self.servers.len());
        (0..start).rev().chain((start..count).rev())
    }

    /// How many positions the kernel's walk behind `cursor` has until the list's end.
    pub fn behind(&self, cursor: &Cursor) -> usize {
        let Some(last) = cursor.last else { return self.servers.len() };
        if self.servers.get(cursor.last_at).is_some_and(|server| server.id == last) {
            return cursor.last_at;
        }
        let found = self.servers.iter().position(|server| server.id == last);
        found.unwrap_or(self.servers.len())
    }

    /// The weight that counts: 0 while draining.
    pub fn weight(&self, at: usize) -> u32 {
        self.servers.get(at).map_or(0, RealServer::effective_weight)
    }

    /// Whether the server has as many connections as its upper threshold allows.
    pub fn is_overloaded(&mut self, at: usize) -> bool {
        let Some(server) = self.servers.get(at) else { return true };
        server.upper_threshold > 0 && self.limits.is_overloaded(server, self.counters)
    }

    /// Whether the server may take a new flow.
    pub fn is_usable(&mut self, at: usize) -> bool {
        self.weight(at) > 0 && !self.is_overloaded(at)
    }

    /// What the server carries, all workers together as far as is known here.
    pub fn load(&self, at: usize) -> Load {
        self.servers.get(at).map_or(Load::default(), |server| Load::of(server.id, self.counters))
    }

    /// Counts a destination that could not be remembered.
    pub fn locality_full(&self) {
        self.counters.locality_full.add(1);
    }
}
