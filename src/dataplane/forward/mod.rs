//! Forwarding modes. Each file reads alone, both directions included; this `match` is the only
//! place that compares modes on a packet's way.

mod direct_route;
pub(super) mod edit;
mod nat;
mod quoted;

use super::burst::{Slot, Verdict};
use super::classify::Kind;
use super::flow_table::Hit;
use super::next_hop;
use super::reply;
use super::state::WorkerState;
use crate::counters::{DropReason, ReplyKind};
use crate::model::{ForwardMode, NextHopId, Snapshot};

/// Rewrites a packet of a flow and says where it goes.
pub(super) fn rewrite(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    slot: &mut Slot,
    hit: Hit,
) -> Result<Verdict, DropReason> {
    let core = *state.flows.core(hit.id).ok_or(DropReason::Internal)?;
    if slot.packet.ttl <= u8::from(core.decrements_ttl()) {
        return expired(state, snapshot, slot);
    }
    match core.mode() {
        ForwardMode::DirectRoute => direct_route::rewrite(state, snapshot, slot, &core),
        ForwardMode::Nat | ForwardMode::FullNat => nat::rewrite(state, snapshot, slot, hit),
        ForwardMode::Tunnel => Err(DropReason::Internal),
        // As it came: its addresses are the director's own.
        ForwardMode::Local => Ok(Verdict::ToKernel(slot.rx.nic)),
    }
}

/// Time exceeded, to the sender; the packet was scheduled and counted before, as in the kernel.
fn expired(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    slot: &mut Slot,
) -> Result<Verdict, DropReason> {
    // A TTL of 0 should never have been sent.
    if slot.packet.ttl == 0 || is_never_answered(slot) {
        return Err(DropReason::TtlExpired);
    }
    let nic = snapshot.nics.get(slot.rx.nic.index()).ok_or(DropReason::Internal)?;
    reply::time_exceeded(slot, nic, snapshot)?;
    state.counters.dropped(DropReason::TtlExpired);
    state.counters.replied(ReplyKind::TimeExceeded);
    Ok(Verdict::Transmit(nic.id))
}

/// Errors and further fragments cause no error (RFC 1122 section 3.2.2).
fn is_never_answered(slot: &Slot) -> bool {
    matches!(slot.packet.kind, Kind::IcmpError | Kind::Fragment)
}

/// Whether a packet of `ip_bytes` fits the path behind `hop`.
fn fits(state: &WorkerState, hop: NextHopId, ip_bytes: usize) -> bool {
    next_hop::get(state, hop).is_none_or(|hop| !hop.resolved || ip_bytes <= usize::from(hop.mtu))
}

/// Tells the sender what fits (RFC 1191, RFC 8201). IPv4 senders that allow fragments get the same
/// answer: gyre does not fragment.
fn too_big(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    slot: &mut Slot,
    hop: NextHopId,
) -> Result<Verdict, DropReason> {
    if is_never_answered(slot) {
        return Err(DropReason::TooBig);
    }
    let nic = snapshot.nics.get(slot.rx.nic.index()).ok_or(DropReason::Internal)?;
    let mtu = next_hop::get(state, hop).map_or(nic.mtu, |hop| hop.mtu);
    reply::too_big(slot, (nic, snapshot), mtu)?;
    state.counters.dropped(DropReason::TooBig);
    state.counters.replied(ReplyKind::TooBig);
    Ok(Verdict::Transmit(nic.id))
}
