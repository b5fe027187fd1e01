//! What a worker does when it runs short of flow entries: `drop_packet`, `drop_entry`, and the
//! sign by which `secure_tcp` goes up.
//!
//! The kernel looks at free memory; gyre's memory is taken at start, so it looks at free entries.
//! Established flows are never dropped for others, which the kernel may do after long idleness.

use super::flow_table::FlowId;
use super::state::WorkerState;
use super::track;
use crate::limits::SWEEP_PER_TURN_MAX;
use crate::message::FlowState;
use crate::model::{Defence, Snapshot};
use crate::time::{NANOS_PER_SECOND, Nanos};

/// First packets of which one is dropped while `drop_packet` is always up: the kernel's
/// `am_droprate`.
const DROP_RATE: u64 = 10;
/// Part of the table that `drop_entry` looks at in a second: the kernel's.
const PART_PER_SECOND: u32 = 32;

/// Where the defences stand.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Defences {
    /// First packets since one was dropped.
    passed: u64,
    /// When the next part of the table is due.
    next_part: Nanos,
    /// The place to look at next, and how many of the part are left.
    at: u32,
    left: u32,
}

/// Whether a first packet is to be dropped.
pub(super) fn drops_packet(state: &mut WorkerState, snapshot: &Snapshot, is_ipv4: bool) -> bool {
    let defence = snapshot.semantics.drop_packet;
    if !defence.is_up(state.is_short) {
        return false;
    }
    let rate = match defence {
        Defence::Pressure => state.flows.shortage(is_ipv4).map_or(u64::MAX, |(spare, missing)| {
            // As in the kernel: the fewer are free, the more are dropped, all when none is.
            spare / missing.max(1)
        }),
        _ => DROP_RATE,
    };
    state.defences.passed += 1;
    let drops = state.defences.passed >= rate;
    if drops {
        state.defences.passed = 0;
    }
    drops
}

impl WorkerState {
    /// Looks how many entries are free, and drops half-open flows where `drop_entry` says so: a
    /// bounded number a call.
    pub(super) fn defend(&mut self, snapshot: &Snapshot, now: Nanos) {
        self.is_short = [true, false].into_iter().any(|v4| self.flows.shortage(v4).is_some());
        if !snapshot.semantics.drop_entry.is_up(self.is_short) {
            return;
        }
        if now >= self.defences.next_part {
            self.defences.next_part = now + NANOS_PER_SECOND;
            self.defences.left = self.flows.places().div_ceil(PART_PER_SECOND);
        }
        let part = self.defences.left.min(SWEEP_PER_TURN_MAX as u32);
        self.defences.left -= part;
        let (from, places) = (self.defences.at, self.flows.places());
        let to = from.saturating_add(part).min(places);
        self.defences.at = if to >= places { 0 } else { to };
        let mut at = from;
        while let Some(id) = self.flows.next_live(at).filter(|id| id.0 < to) {
            self.drop_half_open(id);
            at = id.0 + 1;
        }
    }

    fn drop_half_open(&mut self, id: FlowId) {
        let half_open = [FlowState::SynRecv, FlowState::SynSent, FlowState::SynAck];
        if self.flows.core(id).is_some_and(|core| half_open.contains(&core.state())) {
            self.counters.flows_shed.add(1);
            track::end(self, id);
        }
    }
}
