//! One burst through all stages. This file is the packet's story.

use super::admit::admit;
use super::advance;
use super::burst::{Arrival, Burst, Errand, Slot, Verdict};
use super::classify::{self, Kind, Packet};
use super::fast_path::{self, Fast};
use super::flow::flag;
use super::flow_table::{Hit, Probe};
use super::glance::{Changes, Glance};
use super::observe::{Nobody, Observer, Part};
use super::persistence;
use super::reuse::{self, Fate};
use super::state::WorkerState;
use super::{forward, fragment, ftp, glance, icmp_error, steer, synproxy, track};
use crate::counters::{DropReason, ReplyKind};
use crate::model::{KernelMode, NicModel, Snapshot, VirtualService};
use crate::time::Nanos;
use crate::wire::tcp::TcpFlags;

/// Decides every frame of `burst`; what has to be sent besides is in `state.outbox`.
///
/// Counts drops, hand-offs and replies; frames and bytes per port are the caller's to count.
pub fn process_burst(state: &mut WorkerState, snapshot: &Snapshot, burst: &mut Burst, now: Nanos) {
    process_observed(state, snapshot, burst, now, &mut Nobody);
}

/// As `process_burst`, while somebody looks.
#[inline(always)]
pub fn process_observed(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    burst: &mut Burst,
    now: Nanos,
    observer: &mut impl Observer,
) {
    state.now = now;
    state.now_ms = now.as_millis_u32();
    let mut glances = glance::over(state, snapshot, burst, observer);
    glance::reach_for_counters(state, snapshot, &glances);
    let mut strangers = synproxy::Strangers::new();
    if glances.has_strangers && snapshot.has_synproxy {
        strangers.prepare(state, snapshot, burst, &glances.each);
    }
    let (mut changes, mut general_frames) = (Changes::None, 0);
    let before = state.flows.changes();
    let mut glanced = glances.each.iter_mut();
    for (at, arrival) in burst.slots.iter_mut().enumerate() {
        // One for each frame.
        let Some(glance) = glanced.next() else { break };
        if changes != Changes::None {
            glance.look_again(&state.flows, changes);
        }
        let decided = match fast_path::forward(state, snapshot, arrival, glance, observer) {
            // Written down here: where the ways meet again it would be copied whole.
            Fast::Sent(nic) => {
                arrival.verdict = Some(Verdict::Transmit(nic));
                observer.ended(Part::Rewrite);
                continue;
            }
            Fast::Dropped(reason) => Some(Verdict::Drop(reason)),
            Fast::Moves => advance::forward(state, snapshot, arrival, glance),
            Fast::Left => strangers.answer(state, snapshot, arrival, (at, glance)),
        };
        arrival.verdict = decided.or_else(|| {
            general_frames += 1;
            let verdict = general(state, snapshot, arrival, glance, now);
            changes = state.flows.changes().since(before);
            Some(verdict)
        });
        observer.ended(Part::Rewrite);
    }
    state.counters.fast_frames.add(burst.slots.len() as u64 - general_frames);
}

/// The general path: every frame that is not the usual one of an established flow.
#[inline(never)]
fn general(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    arrival: &mut Arrival,
    glance: &Glance,
    now: Nanos,
) -> Verdict {
    let verdict = match glance::packet(&arrival.frame, glance) {
        Some(packet) => {
            let probe = match glance.candidate() {
                Some(_) => Probe::of(glance.hash),
                None => Probe::NOBODYS,
            };
            let (frame, rx) = (std::mem::take(&mut arrival.frame), arrival.rx);
            let mut slot = Slot { frame, rx, packet, probe, plain: Some(glance.facts()) };
            let verdict = transport(state, snapshot, &mut slot, now);
            (arrival.frame, arrival.rx) = (slot.frame, slot.rx);
            verdict
        }
        None => classified(state, snapshot, arrival, now),
    };
    let verdict = verdict.unwrap_or_else(Verdict::Drop);
    match verdict {
        Verdict::Drop(reason) => state.counters.dropped(reason),
        Verdict::HandOff(_, cause) => state.counters.hand_offs[cause as usize].add(1),
        _ => {}
    }
    verdict
}

/// A frame of which nothing is known yet.
#[inline(never)]
fn classified(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    arrival: &mut Arrival,
    now: Nanos,
) -> Result<Verdict, DropReason> {
    let mut slot = Slot::new(std::mem::take(&mut arrival.frame), arrival.rx);
    let verdict = classify::frame(&mut slot, snapshot).and_then(|()| {
        if slot.packet.kind == Kind::Transport {
            slot.probe = state.flows.probe(&slot.packet.key);
        }
        decide(state, snapshot, &mut slot, now)
    });
    (arrival.frame, arrival.rx) = (slot.frame, slot.rx);
    verdict
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
        Kind::TunnelError => icmp_error::relay_wrapped(state, snapshot, slot),
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
    if let Errand::Ask(asker) = slot.rx.errand {
        return persistence::answer(state, snapshot, slot, asker);
    }
    if let Some(hit) = state.flows.settle(&slot.packet.key, &slot.probe) {
        match reuse::fate(state, snapshot, slot, hit) {
            Fate::Follows => return tracked(state, snapshot, slot, hit, now),
            Fate::Opens => track::make_way(state, hit.id),
            Fate::OpensOnceProven => {}
            Fate::EndsFlow => track::end_unserved(state, snapshot, hit.id),
            Fate::Dropped => return Err(DropReason::ServerRemoved),
            Fate::Kernel => return Ok(Verdict::ToKernel(slot.rx.nic)),
        }
    }
    if let Some((owner, cause)) = steer::elsewhere(state, snapshot, slot) {
        return Ok(Verdict::HandOff(owner, cause));
    }
    if let Some(hit) = ftp::expected(state, snapshot, slot) {
        return forward_tracked(state, snapshot, slot, hit, now);
    }
    match snapshot.match_service(&steer::destination(&slot.packet.key)) {
        // The kernel: "packets destined for other services on the VIP may get here".
        Some(service) if !service.schedules(slot.packet.key.dst_port) => {
            unannounced(state, snapshot, service, slot)
        }
        Some(service) => admit(state, snapshot, service, slot, now),
        None => unmatched(state, snapshot, slot),
    }
}

/// A packet to a free port of an FTP service's VIP that nobody announced: the host's. Where the
/// service has a helper the rules on shared ports keep these ports from the kernel.
fn unannounced(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    service: &VirtualService,
    slot: &mut Slot,
) -> Result<Verdict, DropReason> {
    if service.data_traffic().next().is_none() {
        return Ok(Verdict::ToKernel(slot.rx.nic));
    }
    leave_to_kernel(state, snapshot, slot, DropReason::Unclassified)
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
    if !track::packet(state, snapshot, &slot.packet, hit, now) {
        return forward::rewrite(state, snapshot, slot, hit);
    }
    let packet: Packet = slot.packet;
    let verdict = forward::rewrite(state, snapshot, slot, hit);
    track::closing(state, &packet, hit);
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
        return leave_to_kernel(state, snapshot, slot, DropReason::StrayReply);
    }
    let is_stray = snapshot.semantics.nat_icmp_send
        && snapshot.nat_server(key.protocol, (key.src, key.src_port)).is_some()
        && !slot.packet.flags.contains(TcpFlags::RST);
    if is_stray { nobodys_reply(state, snapshot, slot) } else { Ok(Verdict::ToKernel(slot.rx.nic)) }
}

/// A NAT server's packet without a flow, where `nat_icmp_send` has the server told.
fn nobodys_reply(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    slot: &mut Slot,
) -> Result<Verdict, DropReason> {
    let nic: &NicModel = snapshot.nics.get(slot.rx.nic.index()).ok_or(DropReason::Internal)?;
    super::reply::no_flow(slot, nic)?;
    state.counters.dropped(DropReason::StrayReply);
    state.counters.replied(ReplyKind::PortUnreachable);
    Ok(Verdict::Transmit(nic.id))
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
