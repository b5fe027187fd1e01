//! A new flow on a source port whose last connection the server may still hold in TIME_WAIT.
//!
//! A server in TIME_WAIT accepts a SYN whose sequence number lies above the last one it expected
//! (RFC 9293 section 3.10.7.4, RFC 6191) unless its timestamp is older than the last one seen
//! (PAWS, RFC 7323 section 5). So both are shifted above the old connection's, for life.

use super::burst::Slot;
use super::flow::flag;
use super::flow_table::FlowId;
use super::sequence;
use super::state::WorkerState;
use crate::wire::tcp::SeqNum;

/// Distance to the old connection's last sequence number: beyond any window it advertised
/// without scaling.
const SEQUENCE_GAP: u32 = 1 << 16;

/// What the server remembers of a source port's last connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heir {
    /// Sequence number that it expected next.
    next_seq: SeqNum,
    /// Last timestamp value that it saw; 0 is none.
    timestamp: u32,
}

impl Heir {
    /// What closed flow `old` noted.
    pub(super) fn of(state: &WorkerState, old: FlowId) -> Self {
        let side = state.flows.side(old);
        Heir { next_seq: SeqNum(side.client_seq), timestamp: side.server_seq }
    }
}

/// Sets the new flow's shifts so that its SYN is sure to be accepted; without need, none.
pub(super) fn shift_above(state: &mut WorkerState, id: FlowId, syn: &Slot, heir: &Heir) {
    let Some(core) = state.flows.core_mut(id) else { return };
    let floor = heir.next_seq.wrapping_add(SEQUENCE_GAP);
    if !syn.packet.seq.after(heir.next_seq) {
        core.in_delta = floor.since(syn.packet.seq);
    }
    if heir.timestamp != 0
        && let Some(value) = sequence::timestamp(syn.frame.bytes(), &syn.packet)
        && SeqNum(value).before(SeqNum(heir.timestamp))
    {
        core.in_ts_delta = heir.timestamp.wrapping_add(1).wrapping_sub(value);
    }
    if core.in_delta != 0 || core.in_ts_delta != 0 {
        core.flags |= flag::ADJUST;
    }
}
