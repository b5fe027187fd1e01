//! `workers.list`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkerRow {
    /// Number, from 0.
    pub id: u8,
    /// Whether it completed no turn for a second.
    pub stalled: bool,
    /// Loop turns completed.
    pub turns: u64,
    /// Turns without a frame or other work.
    pub idle_turns: u64,
    /// Time in turns that had work, nanoseconds.
    pub busy_ns: u64,
    /// The same in cycles of the processor's clock: with `rx_frames`, cycles a packet.
    pub busy_cycles: u64,
    /// Snapshot revision in force.
    pub revision: u64,
    /// Live flows.
    pub flows: u64,
    /// Flows created.
    pub flows_created: u64,
    /// Flows ended by their timer.
    pub flows_expired: u64,
    /// Half-open flows that `drop_entry` dropped.
    pub flows_shed: u64,
    /// Destinations that `lblc` or `lblcr` had no room to remember.
    pub locality_full: u64,
    /// Frames that wait for a neighbour right now.
    pub pending: u64,
    /// Frames of established flows that took the fast way, and SYNs that a cookie answered so, or
    /// ACKs that were none; the others were looked at in full.
    pub fast_frames: u64,
    /// Frames received on its queues.
    pub rx_frames: u64,
    /// Frames sent on its queues.
    pub tx_frames: u64,
    /// Frames handed to other workers.
    pub hand_offs: u64,
    /// Frames dropped.
    pub drops: u64,
}

/// Result of `workers.list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkersResult {
    /// The workers, by number.
    pub workers: Vec<WorkerRow>,
}
