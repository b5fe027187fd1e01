//! A service's servers as a scheduler sees them: weight, overload mark, load.

use super::limits::{Limits, Load};
use crate::counters::WorkerCounters;
use crate::model::{RealServer, ServerId};

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

    /// Positions of the kernel's walk that starts behind `last` and ends with `last` itself.
    pub fn walk(&self, last: Option<ServerId>) -> impl Iterator<Item = usize> + use<> {
        let (start, count) = (self.behind(last), self.servers.len());
        (0..start).rev().chain((start..count).rev())
    }

    /// How many positions the kernel's walk behind `last` has until the list's end.
    pub fn behind(&self, last: Option<ServerId>) -> usize {
        last.and_then(|id| self.servers.iter().position(|server| server.id == id))
            .unwrap_or(self.servers.len())
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
