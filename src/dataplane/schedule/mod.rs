//! Schedulers: which server gets a new flow.
//!
//! One file each. A scheduler reads the service and moves its own worker's cursor; cursors are
//! keyed by service and outlive snapshots. Exact (as the kernel picks) with one worker; with
//! several, each worker walks on its own. Next to come here: lc, wlc, sed, nq (they read the
//! servers' counters), dh, mh, lblc, lblcr, fo, ovf.

mod maglev;
mod round_robin;
mod source_hash;
mod weighted_round_robin;

use super::flow::FlowKey;
use crate::model::{Change, RealServer, Scheduler, ServerId, VirtualService};

/// Where a service's scheduler stands on one worker.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cursor {
    /// The server picked last; `None` is the list's head.
    last: Option<ServerId>,
    /// wrr: the weight of the present round.
    weight: u32,
    /// wrr: greatest common divisor of the weights.
    weight_gcd: u32,
    /// wrr: the weight a full turn starts with.
    weight_top: u32,
    /// Changes of the service replayed so far.
    seen: u64,
}

impl Cursor {
    /// Moves the cursor as the kernel moves it at each add, edit and delete.
    fn catch_up(&mut self, service: &VirtualService) {
        if self.seen == service.changes.next() {
            return;
        }
        for change in service.changes.since(self.seen) {
            match service.scheduler {
                Scheduler::WeightedRoundRobin => weighted_round_robin::replay(self, change),
                _ => self.step_off(change),
            }
        }
        self.seen = service.changes.next();
    }

    fn step_off(&mut self, change: &Change) {
        if change.removed.is_some() && change.removed == self.last {
            self.last = change.predecessor;
        }
    }
}

/// Whether the server may take a new flow.
pub fn is_usable(server: &RealServer) -> bool {
    server.effective_weight() > 0
}

/// Picks a server for a new flow of `service`; `None` when no server is usable.
pub fn pick<'s>(
    service: &'s VirtualService,
    cursor: &mut Cursor,
    key: &FlowKey,
) -> Option<&'s RealServer> {
    cursor.catch_up(service);
    let at = match &service.scheduler {
        Scheduler::RoundRobin => round_robin::pick(service, cursor),
        Scheduler::WeightedRoundRobin => weighted_round_robin::pick(service, cursor),
        Scheduler::SourceHash(flags, table) => source_hash::pick(service, *flags, table, key),
        Scheduler::Maglev(table) => maglev::pick(service, table, key),
    }?;
    service.servers.get(at)
}

/// Positions of the kernel's list walk that starts behind `last`: the list has the server added
/// last in front, so it runs from the highest position to the lowest, and ends with `last` itself.
fn walk(service: &VirtualService, last: Option<ServerId>) -> impl Iterator<Item = usize> + use<> {
    let count = service.servers.len();
    let start = last
        .and_then(|id| service.servers.iter().position(|server| server.id == id))
        .unwrap_or(count);
    (0..start).rev().chain((start..count).rev())
}
