//! Forwarding modes. Each file reads alone, both directions included; the `match` in `rewrite` is
//! where ways part. Beside it only `fast_path` rewrites, plain frames of established flows, and in
//! the same way. Elsewhere a mode is asked only for what it has: a source port, replies.

mod direct_route;
pub(super) mod edit;
mod family;
mod family_error;
mod nat;
mod pieces;
mod quoted;
pub(super) mod tunnel;
mod tunnel_error;

use super::burst::{Slot, Verdict};
use super::classify::{Kind, L3};
use super::flow::{Direction, FlowCore};
use super::flow_table::Hit;
use super::mss;
use super::next_hop;
use super::reply;
use super::state::WorkerState;
use crate::counters::{DropReason, ReplyKind};
use crate::model::{ForwardMode, NextHopId, Snapshot};
use crate::wire::ipv4::Ipv4;
use crate::wire::tcp::TcpFlags;

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
    let in_vain = hit.direction == Direction::Inbound
        && next_hop::leads_nowhere(state, core.hop(Direction::Inbound));
    if slot.packet.flags.contains(TcpFlags::SYN) {
        limit_mss(snapshot, slot, &core)?;
    }
    match core.mode() {
        // As it came: its addresses are the director's own.
        ForwardMode::Local => Ok(Verdict::ToKernel(slot.rx.nic)),
        _ if in_vain => no_way(state, snapshot, slot),
        ForwardMode::DirectRoute => direct_route::rewrite(state, snapshot, slot, &core),
        ForwardMode::Nat | ForwardMode::FullNat => nat::rewrite(state, snapshot, slot, hit, &core),
        ForwardMode::Tunnel => tunnel::rewrite(state, snapshot, slot, hit, &core),
    }
}

/// Whether a flow's client and server are of two families, and the director translates.
pub(super) fn is_across(state: &WorkerState, hit: Hit) -> bool {
    let mode = state.flows.core(hit.id).map(|core| core.mode());
    let addresses = state.flows.addresses(hit.id);
    mode == Some(ForwardMode::FullNat)
        && addresses.is_some_and(|all| all.client.is_ipv4() != all.server.is_ipv4())
}

/// An error about a packet that a tunnel carried.
pub(super) fn relay_wrapped(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    slot: &mut Slot,
    hit: Hit,
) -> Result<Verdict, DropReason> {
    match state.flows.core(hit.id).map(|core| core.mode()) {
        Some(ForwardMode::Tunnel) => tunnel_error::relay(state, snapshot, slot, hit),
        _ => Ok(Verdict::ToKernel(slot.rx.nic)),
    }
}

/// Keeps a SYN's MSS within what the service allows.
fn limit_mss(snapshot: &Snapshot, slot: &mut Slot, core: &FlowCore) -> Result<(), DropReason> {
    match snapshot.service(core.service()).and_then(|service| service.mss_max) {
        Some(max) if slot.packet.kind == Kind::Transport => {
            mss::limit(slot.frame.bytes_mut(), &slot.packet, max)
        }
        _ => Ok(()),
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

/// Host unreachable, to the client, as the kernel does at a server that its routes do not reach.
fn no_way(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    slot: &mut Slot,
) -> Result<Verdict, DropReason> {
    if is_never_answered(slot) {
        return Err(DropReason::NoRoute);
    }
    let nic = snapshot.nics.get(slot.rx.nic.index()).ok_or(DropReason::Internal)?;
    reply::host_unreachable(slot, nic)?;
    state.counters.dropped(DropReason::NoRoute);
    state.counters.replied(ReplyKind::HostUnreachable);
    Ok(Verdict::Transmit(nic.id))
}

/// Errors and further fragments cause no error (RFC 1122 section 3.2.2).
fn is_never_answered(slot: &Slot) -> bool {
    matches!(slot.packet.kind, Kind::IcmpError | Kind::Fragment)
}

/// What of a packet's way is too small for it, and whether it may be cut.
enum Fit {
    /// Nothing.
    Whole,
    /// Cut to pieces of so many bytes.
    Cut(u16),
    /// Refused: so many bytes fit.
    Refused(u16),
}

/// Whether the frame's packet fits the path behind `hop` as it is.
fn fit(state: &WorkerState, slot: &Slot, hop: NextHopId) -> Fit {
    let Some(mtu) = next_hop::link_mtu(state, hop) else { return Fit::Whole };
    if slot.packet.ip_bytes() <= usize::from(mtu) {
        Fit::Whole
    } else if may_be_cut(slot) {
        Fit::Cut(mtu)
    } else {
        Fit::Refused(mtu)
    }
}

/// Whether the sender lets routers cut the packet: IPv4 without "do not fragment".
fn may_be_cut(slot: &Slot) -> bool {
    let l3 = slot.frame.bytes().get(L3..);
    matches!(l3.map(Ipv4::parse), Some(Ok((ip, _))) if !ip.dont_fragment())
}

/// Tells the sender what fits (RFC 1191, RFC 8201).
fn too_big(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    slot: &mut Slot,
    mtu: u16,
) -> Result<Verdict, DropReason> {
    if is_never_answered(slot) {
        return Err(DropReason::TooBig);
    }
    let nic = snapshot.nics.get(slot.rx.nic.index()).ok_or(DropReason::Internal)?;
    reply::too_big(slot, (nic, snapshot), mtu)?;
    state.counters.dropped(DropReason::TooBig);
    state.counters.replied(ReplyKind::TooBig);
    Ok(Verdict::Transmit(nic.id))
}

/// As `too_big` on the way to the server: the kernel takes the TTL's one off before it looks at
/// the size, so that the quoted packet shows it (recordings mtu-*).
fn too_big_inbound(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    slot: &mut Slot,
    (core, mtu): (&FlowCore, u16),
) -> Result<Verdict, DropReason> {
    if core.decrements_ttl() {
        edit::decrement_ttl(slot.frame.bytes_mut(), &slot.packet)?;
    }
    too_big(state, snapshot, slot, mtu)
}
