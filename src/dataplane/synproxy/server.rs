//! The server's half of a proxied handshake: joined to the client's when the server answers, or
//! undone when it refuses.

use super::super::burst::{Slot, Verdict};
use super::super::flow::{Direction, flag};
use super::super::flow_table::{FlowId, Hit};
use super::super::segment::{self, Options, SCRATCH_BYTES, Timestamps, Words};
use super::super::state::WorkerState;
use super::super::{client_address, pipeline, reply, track};
use super::early_data::Chain;
use super::options::{OFFERED_SCALE, SynOptions};
use super::{Waiting, stop_waiting};
use crate::counters::{DropReason, ReplyKind};
use crate::message::FlowState;
use crate::model::Snapshot;
use crate::wire::tcp::{SeqNum, TcpFlags};

/// A packet from the server of a flow that waits for it.
pub(in super::super) fn answer(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    slot: &mut Slot,
    hit: Hit,
) -> Result<Verdict, DropReason> {
    let packet = slot.packet;
    let fits = packet.flags.contains(TcpFlags::ACK) && packet.ack == expected(state, hit.id)?;
    if packet.flags.contains(TcpFlags::RST) {
        return if fits {
            refuse(state, snapshot, slot, hit)
        } else {
            Err(DropReason::OutOfWindow)
        };
    }
    if !fits {
        // The server holds an old connection of that source port: as from a client in SYN-SENT, a
        // reset clears it away (RFC 9293 section 3.10.7.3), and the next SYN gets in.
        let nic = snapshot.nics.get(slot.rx.nic.index()).ok_or(DropReason::Internal)?;
        reply::reset(slot, nic)?;
        state.counters.replied(ReplyKind::TcpReset);
        return Ok(Verdict::Transmit(nic.id));
    }
    if !packet.flags.contains(TcpFlags::SYN) {
        return Err(DropReason::OutOfWindow);
    }
    establish(state, snapshot, slot, hit)
}

/// What the server acknowledges when it answers the SYN.
fn expected(state: &WorkerState, id: FlowId) -> Result<SeqNum, DropReason> {
    let core = state.flows.core(id).ok_or(DropReason::Internal)?;
    let side = state.flows.side(id);
    let shift = core.in_delta.wrapping_sub(client_address::header_bytes(core, &side));
    Ok(SeqNum(side.client_seq).wrapping_add(shift).wrapping_add(1))
}

/// The server answered: both halves become one flow. The client's ACK, or its early data, goes to
/// the server; the server's frame becomes the window update that the client waits for.
fn establish(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    slot: &mut Slot,
    hit: Hit,
) -> Result<Verdict, DropReason> {
    let side = state.flows.side(hit.id);
    let Waiting { agreed, chain, window } = Waiting::of(&side);
    let took = SynOptions::of(slot.frame.bytes(), &slot.packet);
    let service = state.flows.core(hit.id).and_then(|core| snapshot.service(core.service()));
    if let Some(service) = service
        && let Some(profile) = state.synproxy.profile(service.id)
    {
        profile.learn(service, &agreed, &took);
    }
    if !took.covers(&agreed) {
        return refuse_both(state, snapshot, slot, hit.id);
    }
    let client = Timestamps { value: side.older, echo: side.out_ts_delta };
    let acknowledges = Words {
        seq: SeqNum(side.client_seq).wrapping_add(1),
        ack: SeqNum(side.server_seq).wrapping_add(1),
        flags: TcpFlags::ACK,
        window,
        options: Options::default().timestamps(agreed.timestamps.then_some(client)),
    };
    join(state, slot, hit.id, &took);
    track::enter(state, snapshot, hit.id, FlowState::Established, state.now);
    // First the client's, so that it is not taken for the server's answer to what comes next.
    update_window(slot, &took)?;
    let verdict = pipeline::forward_tracked(state, snapshot, slot, hit, state.now);
    if chain == Chain::EMPTY {
        let inbound = Hit { direction: Direction::Inbound, ..hit };
        // Lost, it is the client's answer to the server's next SYN-ACK that takes its place.
        if let Err(reason) = segment::speak(state, snapshot, inbound, &acknowledges) {
            state.counters.dropped(reason);
        }
    } else {
        flush(state, snapshot, hit.id, chain);
    }
    verdict
}

/// Fixes the shifts between the cookie's numbers and the server's, for life.
fn join(state: &mut WorkerState, slot: &Slot, id: FlowId, took: &SynOptions) {
    let side = state.flows.side(id);
    let agreed = Waiting::of(&side).agreed;
    if let Some(core) = state.flows.core_mut(id) {
        core.out_delta = side.server_seq.wrapping_sub(slot.packet.seq.0);
        core.flags = core.flags & !flag::AWAITS_SERVER | flag::ADJUST;
    }
    // The chain goes on with `flush`, so nothing is given back here.
    stop_waiting(state, id);
    let Some(place) = state.flows.side_mut(id) else { return };
    if let Some(stamps) = took.timestamps.filter(|_| agreed.timestamps) {
        // What the client was shown last is what the server's clock says now.
        place.out_ts_delta = side.out_ts_delta.wrapping_sub(stamps.value);
    }
    if let Some(scale) = took.window_scale.filter(|_| agreed.window_scale.is_some()) {
        place.window_shift = scale as i8 - OFFERED_SCALE as i8;
    }
}

/// Sends early data on, as if it came only now.
fn flush(state: &mut WorkerState, snapshot: &Snapshot, id: FlowId, mut chain: Chain) {
    let hit = Hit { id, direction: Direction::Inbound };
    let mut buffer = [0; SCRATCH_BYTES];
    let mut slot = segment::scratch(&mut buffer);
    while state.synproxy.early.take(&mut chain, &mut slot) {
        let packet = slot.packet;
        let may_close = track::packet(state, snapshot, &packet, hit, state.now);
        if let Err(reason) = segment::send_besides(state, snapshot, &mut slot, hit) {
            state.counters.dropped(reason);
        }
        if may_close {
            track::closing(state, &packet, hit);
        }
        slot = segment::scratch(&mut buffer);
    }
}

/// Writes the server's first ACK over its SYN-ACK: same acknowledgment, and the window in the
/// units that the server uses from now on.
fn update_window(slot: &mut Slot, took: &SynOptions) -> Result<(), DropReason> {
    let packet = slot.packet;
    let words = Words {
        seq: packet.seq.wrapping_add(1),
        ack: packet.ack,
        flags: TcpFlags::ACK,
        window: super::window_field(slot) >> took.window_scale.unwrap_or(0),
        options: Options::default().timestamps(took.timestamps),
    };
    slot.packet = segment::write(&mut slot.frame, &packet.key, &words)?;
    Ok(())
}

/// The server refused: its reset, with the cookie's numbers, goes on to the client.
fn refuse(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    slot: &mut Slot,
    hit: Hit,
) -> Result<Verdict, DropReason> {
    resettle(state, hit.id, slot.packet.seq);
    count_refused(state);
    pipeline::forward_tracked(state, snapshot, slot, hit, state.now)
}

/// The server lacks what the client was promised: both are reset, and the next client is promised
/// less.
fn refuse_both(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    slot: &mut Slot,
    id: FlowId,
) -> Result<Verdict, DropReason> {
    give_up(state, snapshot, id);
    let nic = snapshot.nics.get(slot.rx.nic.index()).ok_or(DropReason::Internal)?;
    reply::reset(slot, nic)?;
    state.counters.replied(ReplyKind::TcpReset);
    Ok(Verdict::Transmit(nic.id))
}

/// Resets the client of a waiting flow, in the server's name.
pub(super) fn give_up(state: &mut WorkerState, snapshot: &Snapshot, id: FlowId) {
    let Ok(ack) = expected(state, id) else { return };
    let words = Words { ack, flags: TcpFlags::RST | TcpFlags::ACK, ..Words::default() };
    resettle(state, id, words.seq);
    count_refused(state);
    let hit = Hit { id, direction: Direction::Outbound };
    match segment::speak(state, snapshot, hit, &words) {
        Ok(said) => {
            if track::packet(state, snapshot, &said, hit, state.now) {
                track::closing(state, &said, hit);
            }
        }
        Err(reason) => {
            state.counters.dropped(reason);
            track::refused(state, id);
            track::enter(state, snapshot, id, FlowState::Close, state.now);
        }
    }
}

/// Ends the wait such that the server's `seq` becomes the number the client expects next.
fn resettle(state: &mut WorkerState, id: FlowId, seq: SeqNum) {
    let next = SeqNum(state.flows.side(id).server_seq).wrapping_add(1);
    stop_waiting(state, id);
    if let Some(core) = state.flows.core_mut(id) {
        core.out_delta = next.since(seq);
        core.flags |= flag::ADJUST;
    }
}

/// The server's own count follows from the reset, as for any flow.
fn count_refused(state: &WorkerState) {
    state.counters.dropped(DropReason::SynproxyServerRefused);
    state.counters.replied(ReplyKind::TcpReset);
}
