//! What workers tell the core, and what their turns tell about them.

use std::time::Instant;

use tracing::{debug, error, info, warn};

use super::Core;
use super::watch::Notice;
use crate::control::api::Event;
use crate::limits::CONTROL_EVENTS_PER_TURN_MAX;
use crate::message::FromWorker;

impl Core {
    /// Fetches what workers have to say.
    pub(super) fn take_events(&mut self) {
        for at in 0..self.workers.len() {
            for _ in 0..CONTROL_EVENTS_PER_TURN_MAX {
                let Some(event) = self.workers[at].next_event() else { break };
                self.event(at, event);
            }
        }
    }

    fn event(&mut self, at: usize, event: FromWorker) {
        let worker = self.workers[at].link().worker.0;
        match event {
            FromWorker::Row(job, behind, row) => self.sweeps.row(worker, (job, behind), &row),
            FromWorker::SweepDone(job, matched) => {
                let retired = self.sweeps.done(worker, (job, matched), &mut self.workers);
                for hop in retired {
                    self.next_hops.reclaim(hop);
                }
            }
            FromWorker::Resolve(nic, address) => {
                if let Some((ifindex, address)) = self.next_hops.resolve(nic, address) {
                    self.kernel.resolve(ifindex, address);
                }
                self.flush_hops();
                // The slot may have been resolved before the worker knew that it is this one's,
                // because another had asked: then no update is on its way, and the frame waits.
                if let Some(hop) = self.next_hops.resolved(nic, address) {
                    self.workers[at].hops(&[hop]);
                }
            }
            FromWorker::NoRoute(address) => debug!(worker, %address, "no route"),
            FromWorker::Ended(_) => {
                self.ended[at] = true;
                if !self.stop.is_requested() {
                    error!(worker, "the worker ended by itself; gyre stops. Please report this");
                    self.stop.request();
                }
            }
        }
    }

    /// Looks whether all workers turn.
    pub(super) fn look(&mut self, now: Instant) {
        for notice in self.watch.look(&self.counts.workers, now) {
            match notice {
                Notice::Stalled(worker) => {
                    self.notices.tell(Event::WorkerStalled { worker: worker as u8 });
                    warn!(
                        worker,
                        "the worker has completed no turn for a second and its frames wait; \
                         does something else take its core? `gyre workers` shows it"
                    );
                }
                Notice::Recovered(worker) => {
                    self.notices.tell(Event::WorkerRecovered { worker: worker as u8 });
                    info!(worker, "the worker turns again");
                }
            }
        }
    }
}
