//! Where a service's scheduler stands on one worker.

use super::weighted_round_robin;
use crate::model::{Change, Scheduler, ServerId, VirtualService};

/// Position of `rr` and `wrr`, and which changes of the service were seen.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cursor {
    /// The server picked last; `None` is the list's head.
    pub last: Option<ServerId>,
    /// Its position when it was picked: the first to look at.
    pub last_at: usize,
    /// wrr: the weight of the present round.
    pub weight: u32,
    /// wrr: greatest common divisor of the weights.
    pub weight_gcd: u32,
    /// wrr: the weight a full turn starts with.
    pub weight_top: u32,
    /// Changes of the service replayed so far.
    seen: u64,
    /// Changes of the service whose thresholds were taken over.
    limits_seen: u64,
}

impl Cursor {
    /// Moves the cursor as the kernel moves it at each add, edit and delete.
    pub fn catch_up(&mut self, service: &VirtualService) {
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

    /// Whether the servers changed since this was asked last.
    pub fn sees_new_limits(&mut self, service: &VirtualService) -> bool {
        let next = service.changes.next();
        std::mem::replace(&mut self.limits_seen, next) != next
    }
}
