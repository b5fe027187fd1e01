//! What the service manager hears while gyre runs: ready once every worker has the configuration,
//! the status line, reloads from beginning to end, and a heartbeat while all workers turn.

use std::time::Instant;

use tokio::sync::oneshot;
use tracing::info;

use super::Core;
use crate::control::api::rpc::Outcome;

type Reply = oneshot::Sender<Outcome>;

impl Core {
    /// Tells what is new; to be called after workers' turns were looked at.
    pub(super) fn report(&mut self, now: Instant) {
        if self.status_told.is_none() {
            // A worker that does not turn has not adopted: then gyre is not ready.
            if self.adopted() < self.snapshot.revision {
                return;
            }
            info!("ready: every worker has the configuration");
            self.supervisor.ready();
        }
        let line = self.status_line();
        if self.status_told.as_ref() != Some(&line) {
            self.supervisor.status(&line);
            self.status_told = Some(line);
        }
        let stalled = (0..self.workers.len()).any(|worker| self.watch.is_stalled(worker));
        let heartbeat = self.heartbeat.as_mut().filter(|_| !stalled);
        if heartbeat.is_some_and(|heartbeat| heartbeat.is_due(&self.counts.workers, now)) {
            self.supervisor.alive();
        }
    }

    fn status_line(&self) -> String {
        let revision = self.history.current().unwrap_or(0);
        let services = self.snapshot.service_by_key.len();
        let stalled = (0..self.workers.len()).filter(|worker| self.watch.is_stalled(*worker));
        let stalled: Vec<String> = stalled.map(|worker| worker.to_string()).collect();
        let workers = match stalled.as_slice() {
            [] => format!("{} workers turn", self.workers.len()),
            some => format!("stalled: worker {}", some.join(", ")),
        };
        format!("revision {revision}, {services} services; {workers}")
    }

    /// Has the service manager hear of a reload, and of its end when `reply` is answered.
    pub(super) fn tell_of_reload(&self, reply: Reply) -> Reply {
        let supervisor = self.supervisor.clone();
        supervisor.reloading();
        let (inner, outcome) = oneshot::channel();
        tokio::spawn(async move {
            let outcome = outcome.await;
            supervisor.ready();
            if let Ok(outcome) = outcome {
                // Who asked may have gone.
                let _ = reply.send(outcome);
            }
        });
        inner
    }
}
