//! The rings between control and one worker, both ends. Who runs the worker is not known here.

use std::sync::Arc;

use crate::counters::WorkerCounters;
use crate::limits::{WORKER_COMMANDS_MAX, WORKER_EVENTS_MAX, WORKER_SNAPSHOTS_MAX};
use crate::message::{FromWorker, ToWorker};
use crate::model::{Snapshot, WorkerId};
use crate::ring::{self, Receiver, Sender, SnapshotReceiver, SnapshotSender};

/// Control's ends.
#[derive(Debug)]
pub struct WorkerLink {
    /// Which worker.
    pub worker: WorkerId,
    /// Snapshots down, retired ones up.
    pub snapshots: SnapshotSender<Snapshot>,
    /// Commands down.
    pub commands: Sender<ToWorker>,
    /// Events up.
    pub events: Receiver<FromWorker>,
    /// What the worker counts.
    pub counters: Arc<WorkerCounters>,
}

/// The worker's ends.
#[derive(Debug)]
pub struct WorkerEnds {
    /// The snapshot in force and those that wait.
    pub snapshots: SnapshotReceiver<Snapshot>,
    /// Commands, at most one a turn.
    pub commands: Receiver<ToWorker>,
    /// Events; what does not fit is tried again later.
    pub events: Sender<FromWorker>,
}

impl WorkerLink {
    /// Both ends for `worker`, which starts with `first` and counts in `counters`.
    pub fn new(
        worker: WorkerId,
        first: &Arc<Snapshot>,
        counters: &Arc<WorkerCounters>,
    ) -> (WorkerLink, WorkerEnds) {
        let (down, current) =
            ring::snapshots(first.revision, Arc::clone(first), WORKER_SNAPSHOTS_MAX);
        let (command_in, command_out) = ring::bounded(WORKER_COMMANDS_MAX);
        let (event_in, event_out) = ring::bounded(WORKER_EVENTS_MAX);
        let link = WorkerLink {
            worker,
            snapshots: down,
            commands: command_in,
            events: event_out,
            counters: Arc::clone(counters),
        };
        (link, WorkerEnds { snapshots: current, commands: command_out, events: event_in })
    }
}
