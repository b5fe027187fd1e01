//! Tells each worker what the others hold of its servers, a few times a second.
//!
//! Schedulers that count connections, and connection thresholds, then err by no more than what
//! other workers opened and ended on a server since the last round. Reading counters and storing
//! sums is all there is to it: no message, and workers read nobody's memory but their own.

use std::sync::Arc;
use std::time::Duration;

use crate::counters::{WorkerCounters, tell_others};
use crate::model::Snapshot;

/// How often.
pub const SHARE_EVERY: Duration = Duration::from_millis(200);
/// Counters of one server and worker that one round reads: some milliseconds even when every one
/// is on its way from another core. What is left waits for the next round.
const READS_PER_ROUND: usize = 1 << 16;

/// Where the rounds are.
#[derive(Debug, Default)]
pub struct Loads {
    /// Service slot to go on with.
    next: usize,
}

impl Loads {
    /// One round: all services whose scheduler or thresholds need it, or a bounded part of them.
    pub fn share(&mut self, workers: &[Arc<WorkerCounters>], snapshot: &Snapshot) {
        let slots = snapshot.services.len();
        if workers.len() < 2 || slots == 0 {
            return;
        }
        let first = self.next;
        let mut reads = 0;
        for step in 0..slots {
            let at = (first + step) % slots;
            self.next = (at + 1) % slots;
            let Some(service) = &snapshot.services[at] else { continue };
            if !service.is_limited && !service.scheduler.weighs_connections() {
                continue;
            }
            service.servers.iter().for_each(|server| tell_others(workers, server.id.index()));
            reads += service.servers.len() * workers.len();
            if reads >= READS_PER_ROUND {
                return;
            }
        }
    }
}
