//! A new flow on a source port whose last connection the server may still hold in TIME_WAIT.
//!
//! A server in TIME_WAIT accepts a SYN whose sequence number lies above the last one it expected
//! (RFC 9293 section 3.10.7.4, RFC 6191) unless its timestamp is older than the last one seen
//! (PAWS, RFC 7323 section 5). So both are shifted above the old connection's, for life.

use super::burst::Slot;
use super::flow::flag;
use super::flow_table::FlowId;
use super::segment::Timestamps;
use super::state::WorkerState;
use crate::message::FlowState;
use crate::wire::tcp::SeqNum;

/// Distance to the old connection's last sequence number: beyond any window it advertised
/// without scaling.
const SEQUENCE_GAP: u32 = 1 << 16;

/// What the server remembers of a source port's last connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Heir {
    /// Sequence number that it expected next, if it may be in TIME_WAIT.
    next_seq: Option<SeqNum>,
    /// Last timestamp value that it saw; 0 is none.
    timestamp: u32,
}

impl Heir {
    /// What closed flow `old` noted.
    pub(super) fn of(state: &WorkerState, old: FlowId) -> Self {
        let side = state.flows.side(old);
        // After a reset the server holds nothing, and nothing was noted.
        let in_time_wait =
            state.flows.core(old).is_some_and(|core| core.state() == FlowState::TimeWait);
        if !in_time_wait {
            return Heir::default();
        }
        Heir { next_seq: Some(SeqNum(side.client_seq)), timestamp: side.server_seq }
    }
}

/// Sets the new flow's shifts so that its SYN is sure to be accepted; without need, none.
pub(super) fn shift_above(state: &mut WorkerState, id: FlowId, syn: &Slot, heir: &Heir) {
    let Some(core) = state.flows.core_mut(id) else { return };
    if let Some(next_seq) = heir.next_seq
        && !syn.packet.seq.after(next_seq)
    {
        core.in_delta = next_seq.wrapping_add(SEQUENCE_GAP).since(syn.packet.seq);
    }
    if heir.timestamp != 0
        && let Some(Timestamps { value, .. }) = Timestamps::of(syn.frame.bytes(), &syn.packet)
        && SeqNum(value).before(SeqNum(heir.timestamp))
    {
        core.in_ts_delta = heir.timestamp.wrapping_add(1).wrapping_sub(value);
    }
    if core.in_delta != 0 || core.in_ts_delta != 0 {
        core.flags |= flag::ADJUST;
    }
}
