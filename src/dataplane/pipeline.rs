//! One burst through all stages. This file is the packet's story.

use super::admit::admit;
use super::burst::{Burst, Slot, Verdict};
use super::classify::{self, Kind, Packet};
use super::flow::{Direction, flag};
use super::flow_table::Hit;
use super::state::WorkerState;
use super::{forward, fragment, icmp_error, steer, synproxy, tcp_state, track};
use crate::counters::{DropReason, ReplyKind};
use crate::model::{KernelMode, NicModel, Snapshot};
use crate::time::Nanos;
use crate::wire::tcp::{SeqNum, TcpFlags};

/// Decides every frame of `burst`; what has to be sent besides is in `state.outbox`.
///
/// Counts drops, hand-offs and replies; frames and bytes per port are the caller's to count.
pub fn process_burst(state: &mut WorkerState, snapshot: &Snapshot, burst: &mut Burst, now: Nanos) {
    state.now = now;
    classify::all(burst, snapshot);
    state.flows.probe_all(burst);
    for slot in &mut burst.slots {
        let verdict = slot
            .verdict
            .unwrap_or_else(|| decide(state, snapshot, slot, now).unwrap_or_else(Verdict::Drop));
        match verdict {
            Verdict::Drop(reason) => state.counters.dropped(reason),
            Verdict::HandOff(_, cause) => state.counters.hand_offs[cause as usize].add(1),
            _ => {}
        }
        slot.verdict = Some(verdict);
    }
}

fn decide(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    slot: &mut Slot,
    now: Nanos,
) -> Result<Verdict, DropReason> {
    match slot.packet.kind {
        Kind::Other => Ok(Verdict::ToKernel(slot.rx.nic)),
        Kind::IcmpError => icmp_error::relay(state, snapshot, slot),
        Kind::Fragment => fragment::follow(state, snapshot, slot, now),
        Kind::Transport => transport(state, snapshot, slot, now),
    }
}

/// A TCP or UDP packet, whole or the first piece of one. The flow table is asked before the owner
/// is computed: a hit proves that this worker owns the flow, so established packets pay for no
/// steering at all.
pub(super) fn transport(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    slot: &mut Slot,
    now: Nanos,
) -> Result<Verdict, DropReason> {
    if let Some(hit) = state.flows.settle(&slot.packet.key, &slot.probe) {
        match reopens(state, snapshot, slot, hit) {
            Reopens::No => return tracked(state, snapshot, slot, hit, now),
            Reopens::Now => track::make_way(state, hit.id),
            Reopens::OnceProven => {}
        }
    }
    if let Some((owner, cause)) = steer::elsewhere(state, snapshot, slot) {
        return Ok(Verdict::HandOff(owner, cause));
    }
    match snapshot.match_service(&steer::destination(&slot.packet.key)) {
        Some(service) => admit(state, snapshot, service, slot, now),
        None => unmatched(state, snapshot, slot),
    }
}

/// What a packet of an ended flow is.
enum Reopens {
    /// The old connection's.
    No,
    /// A new connection: the old flow makes way.
    Now,
    /// Perhaps a new connection: the client has to prove itself first, so the old flow stays.
    OnceProven,
}

/// A client's SYN on a flow that has ended is a new connection; with SYNPROXY it only asks for a
/// cookie, and the ACK that proves it is.
fn reopens(state: &mut WorkerState, snapshot: &Snapshot, slot: &Slot, hit: Hit) -> Reopens {
    let Some(core) = state.flows.core(hit.id) else { return Reopens::No };
    if hit.direction == Direction::Outbound || !tcp_state::has_ended(core) {
        return Reopens::No;
    }
    let (packet, is_syn) = (&slot.packet, tcp_state::reschedules(core, slot.packet.flags));
    // The old connection's last segments stand before its end: they are never taken for a proof.
    let end = SeqNum(state.flows.side(hit.id).client_seq);
    let is_old = end.since(packet.seq.wrapping_add(core.in_delta)) < 1 << 16;
    let proxied = snapshot.service(core.service()).is_some_and(|service| service.synproxy);
    match (proxied, is_syn) {
        (false, true) => Reopens::Now,
        (true, _) if synproxy::is_plain_syn(packet.flags) => Reopens::OnceProven,
        (true, false) if !is_old && synproxy::proves(state, packet) => Reopens::Now,
        _ => Reopens::No,
    }
}

/// A packet of a known flow: forwarded, unless its server has yet to be heard of.
fn tracked(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    slot: &mut Slot,
    hit: Hit,
    now: Nanos,
) -> Result<Verdict, DropReason> {
    match state.flows.core(hit.id) {
        Some(core) if core.has(flag::AWAITS_SERVER) => {
            synproxy::waiting(state, snapshot, slot, hit)
        }
        _ => forward_tracked(state, snapshot, slot, hit, now),
    }
}

/// A packet of a known flow, either direction: no service look-up.
pub(super) fn forward_tracked(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    slot: &mut Slot,
    hit: Hit,
    now: Nanos,
) -> Result<Verdict, DropReason> {
    let core = state.flows.core(hit.id).ok_or(DropReason::Internal)?;
    if hit.direction == Direction::Inbound && snapshot.is_removed(core.server()) {
        return Err(DropReason::ServerRemoved);
    }
    let packet: Packet = slot.packet;
    let may_close = track::packet(state, snapshot, &packet, hit, now);
    let verdict = forward::rewrite(state, snapshot, slot, hit);
    if may_close {
        track::closing(state, &packet, hit);
    }
    verdict
}

/// Neither flow nor service: the kernel's, unless it is a reply that nobody waits for.
fn unmatched(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    slot: &mut Slot,
) -> Result<Verdict, DropReason> {
    let key = &slot.packet.key;
    let ours =
        snapshot.lips.get(&key.dst).is_some_and(|local| local.ports.owner(key.dst_port).is_some());
    if ours {
        leave_to_kernel(state, snapshot, slot, DropReason::StrayReply)
    } else {
        Ok(Verdict::ToKernel(slot.rx.nic))
    }
}

/// Whether a stray segment with these flags gets a reset; a datagram has none.
fn answers(flags: TcpFlags) -> bool {
    flags != TcpFlags::NONE && !flags.contains(TcpFlags::RST)
}

/// A segment to one of gyre's own address-port pairs that is no flow's: the kernel resets it
/// where it can see it; where nftables keeps it from the kernel, the reset comes from here.
pub(super) fn leave_to_kernel(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    slot: &mut Slot,
    reason: DropReason,
) -> Result<Verdict, DropReason> {
    let nic: &NicModel = snapshot.nics.get(slot.rx.nic.index()).ok_or(DropReason::Internal)?;
    match nic.kernel {
        KernelMode::Tap => Ok(Verdict::ToKernel(nic.id)),
        // A reset is never answered (RFC 9293 section 3.10.7.1).
        KernelMode::Shared if answers(slot.packet.flags) => {
            super::reply::reset(slot, nic)?;
            state.counters.dropped(reason);
            state.counters.replied(ReplyKind::TcpReset);
            Ok(Verdict::Transmit(nic.id))
        }
        KernelMode::Shared | KernelMode::None => Err(reason),
    }
}
