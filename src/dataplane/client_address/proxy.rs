//! A PROXY header before the client's first byte.
//!
//! `in_delta` holds the header's size from the start, so the client's bytes need no further
//! thought. What does need it is all that lies before the first byte: SYN, the handshake's ACK,
//! and acknowledgments of the header alone. While the header is not acknowledged
//! (`flag::INSERTING`) it goes in front of every segment that stands at the first byte, in a
//! segment of its own before one that leaves no room, and by a timer for a client that waits for
//! the server to speak first.

use super::super::burst::Slot;
use super::super::flow::{Direction, FlowCore, Side, flag};
use super::super::flow_table::{FlowId, Hit};
use super::super::mss;
use super::super::segment::{self, Options, Timestamps, Words};
use super::super::sequence::{self, Shifts};
use super::super::state::WorkerState;
use super::header::{self, Header};
use super::splice;
use crate::counters::{DropReason, ReplyKind};
use crate::limits::{PROXY_RESEND_MS, PROXY_RESENDS_MAX};
use crate::message::FlowState;
use crate::model::Snapshot;
use crate::time::NANOS_PER_MILLI;
use crate::wire::tcp::{SeqNum, TCP_HEADER_BYTES, TcpFlags};

/// Version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    One,
    Two,
}

/// In `Side::header`: the header is binary.
const PROXY_V2: u8 = 1 << 7;
/// In `Side::progress`: how often the timer sent the header.
const RESENDS: u8 = 0b111;
/// In `Side::progress`: the header was sent at least once.
const SENT: u8 = 1 << 3;
/// In `Side::progress`: it was sent again because the server missed it.
const REPAIRED: u8 = 1 << 4;
/// In `Side::progress`: the server's MSS, as `mss` names it, in the bits from here.
const MSS_SHIFT: u32 = 5;

const _: () = assert!(header::HEADER_BYTES_MAX < PROXY_V2 as usize);
const _: () = assert!(PROXY_RESENDS_MAX <= RESENDS);

/// Starts inserting: the flow's shift grows by the header's size.
pub(super) fn begin(state: &mut WorkerState, id: FlowId, version: Version) {
    let Some(header) = write_header(state, id, version) else { return };
    let bytes = header.len() as u8;
    if let Some(side) = state.flows.side_mut(id) {
        side.header = if version == Version::Two { bytes | PROXY_V2 } else { bytes };
        // The least that a server without the option takes.
        side.progress = mss::index_of(536) << MSS_SHIFT;
    }
    if let Some(core) = state.flows.core_mut(id) {
        core.in_delta = core.in_delta.wrapping_add(u32::from(bytes));
        core.flags |= flag::INSERTING | flag::ADJUST;
    }
}

fn write_header(state: &WorkerState, id: FlowId, version: Version) -> Option<Header> {
    let (core, addresses) = (state.flows.core(id)?, state.flows.addresses(id)?);
    let client = (addresses.client, core.client_port());
    let service = (addresses.vip, core.virtual_port());
    let header = match version {
        Version::One => header::version_1(client, service),
        Version::Two => header::version_2(client, service),
    };
    (!header.is_empty()).then_some(header)
}

pub(super) fn header_bytes(side: &Side) -> u32 {
    u32::from(side.header & !PROXY_V2)
}

/// Size of the header if `number`, as the server knows it, lies before the header's end: the
/// client's numbers there are shifted by so much less.
pub(super) fn inserted_behind(core: &FlowCore, side: &Side, number: SeqNum) -> u32 {
    let first = if core.has(flag::INSERTING) {
        SeqNum(side.client_seq).wrapping_add(1).wrapping_add(core.in_delta)
    } else {
        SeqNum(side.newer)
    };
    let is_known = !core.has(flag::CLOSED | flag::AWAITS_SERVER);
    if is_known && side.header != 0 && number.before(first) { header_bytes(side) } else { 0 }
}

/// Looks at a segment of a flow with `flag::INSERTING`: corrects its shifts, and says what to put
/// in front of its payload.
pub(super) fn prepare(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    slot: &mut Slot,
    hit: Hit,
    shifts: &mut Shifts,
) -> Result<Option<Header>, DropReason> {
    match hit.direction {
        Direction::Inbound => inbound(state, snapshot, slot, hit.id, shifts),
        Direction::Outbound => outbound(state, snapshot, slot, hit.id, shifts).map(|()| None),
    }
}

fn inbound(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    slot: &mut Slot,
    id: FlowId,
    shifts: &mut Shifts,
) -> Result<Option<Header>, DropReason> {
    let side = state.flows.side(id);
    let flags = slot.packet.flags;
    let before_header = shifts.sequence.wrapping_sub(header_bytes(&side));
    if flags.contains(TcpFlags::SYN) {
        shifts.sequence = before_header;
        note_first(state, slot, id, &side);
        // Data on the SYN would stand where the header belongs: the client sends it again.
        return cut_payload(slot).map(|()| None);
    }
    if flags.contains(TcpFlags::RST) {
        if side.progress & SENT == 0 {
            shifts.sequence = before_header;
        }
        finish(state, id);
        return Ok(None);
    }
    if !flags.contains(TcpFlags::ACK) {
        return Ok(None);
    }
    note_client(state, slot, id);
    let first = SeqNum(side.client_seq).wrapping_add(1);
    let is_probe = slot.packet.seq.wrapping_add(1) == first;
    if is_probe {
        // A keep-alive: its number, and the byte it may have, lie where the header goes.
        shifts.sequence = shifts.sequence.wrapping_add(1);
        cut_payload(slot)?;
    }
    if is_probe || slot.packet.seq == first {
        arm(state, id, &side);
        if has_room(state, slot, id, &side) {
            shifts.sequence = shifts.sequence.wrapping_sub(header_bytes(&side));
            return Ok(stored_header(state, id, &side));
        }
        send_alone(state, snapshot, id, &side_words(slot, first));
    } else if side.progress & SENT == 0 {
        arm(state, id, &side);
        send_alone(state, snapshot, id, &side_words(slot, first));
    }
    Ok(None)
}

fn cut_payload(slot: &mut Slot) -> Result<(), DropReason> {
    if slot.packet.payload_bytes() == 0 { Ok(()) } else { splice::cut_payload(slot) }
}

/// Before the header is sent, a SYN with another number starts the connection anew.
fn note_first(state: &mut WorkerState, slot: &Slot, id: FlowId, side: &Side) {
    if side.progress & SENT == 0
        && let Some(side) = state.flows.side_mut(id)
    {
        side.client_seq = slot.packet.seq.0;
    }
}

/// Keeps what a header that the timer sends has to say on the client's behalf.
fn note_client(state: &mut WorkerState, slot: &Slot, id: FlowId) {
    let words = side_words(slot, slot.packet.seq);
    let timestamps = Timestamps::of(slot.frame.bytes(), &slot.packet);
    let Some(side) = state.flows.side_mut(id) else { return };
    side.server_seq = words.ack.0;
    side.window = (words.window >> 8) as u8;
    (side.older, side.newer) = timestamps.map_or((0, 0), |seen| (seen.value, seen.echo));
}

/// What the client says in this segment, but for its payload.
fn side_words(slot: &Slot, seq: SeqNum) -> Words {
    let window = slot.frame.bytes().get(slot.packet.l4 + 14..slot.packet.l4 + 16);
    let window = window.map_or(0, |bytes| u16::from(bytes[0]) << 8 | u16::from(bytes[1]));
    let timestamps = Timestamps::of(slot.frame.bytes(), &slot.packet);
    let options = Options::default().timestamps(timestamps);
    Words { seq, ack: slot.packet.ack, flags: TcpFlags::ACK, window, options }
}

fn stored_header(state: &WorkerState, id: FlowId, side: &Side) -> Option<Header> {
    let version = if side.header & PROXY_V2 != 0 { Version::Two } else { Version::One };
    write_header(state, id, version)
}

/// Whether the header fits in front of the payload: the server's MSS covers options and data.
fn has_room(state: &WorkerState, slot: &Slot, id: FlowId, side: &Side) -> bool {
    let packet = &slot.packet;
    let bytes = header_bytes(side) as usize;
    let segment = packet.end - packet.l4 - TCP_HEADER_BYTES + bytes;
    let size_max = state.flows.core(id).map_or(0, |core| super::size_max(state, id, core));
    packet.payload_bytes() == 0
        || segment <= usize::from(mss::by_index(side.progress >> MSS_SHIFT))
            && packet.ip_bytes() + bytes <= size_max
}

/// Notes that the header is sent, and has the timer look after it from the first time on.
fn arm(state: &mut WorkerState, id: FlowId, side: &Side) {
    if let Some(side) = state.flows.side_mut(id) {
        side.progress |= SENT;
    }
    if side.progress & SENT == 0 {
        let deadline = state.now + u64::from(PROXY_RESEND_MS) * NANOS_PER_MILLI;
        state.flows.wheel.arm(id.0, deadline);
    }
}

/// Sends the header in a segment of its own: a bare ACK at the first byte, which `inbound` then
/// puts it into. Where it cannot go, the timer or the client's next segment tries again.
fn send_alone(state: &mut WorkerState, snapshot: &Snapshot, id: FlowId, words: &Words) {
    let hit = Hit { id, direction: Direction::Inbound };
    match segment::speak(state, snapshot, hit, words) {
        Ok(_) => state.counters.replied(ReplyKind::ProxyHeader),
        Err(reason) => state.counters.dropped(reason),
    }
}

fn outbound(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    slot: &mut Slot,
    id: FlowId,
    shifts: &mut Shifts,
) -> Result<(), DropReason> {
    let core = *state.flows.core(id).ok_or(DropReason::Internal)?;
    let side = state.flows.side(id);
    let packet = slot.packet;
    if packet.flags.contains(TcpFlags::SYN) {
        note_server(state, slot, id);
    }
    if packet.flags.contains(TcpFlags::RST) {
        finish(state, id);
    }
    if !packet.flags.contains(TcpFlags::ACK) {
        return Ok(());
    }
    let first = SeqNum(side.client_seq).wrapping_add(1);
    let header_end = first.wrapping_add(core.in_delta);
    if !packet.ack.before(header_end) {
        hide_header(slot, header_end)?;
        finish(state, id);
        return Ok(());
    }
    // No block may tell the client that its first byte has arrived while it is not acknowledged.
    sequence::erase_sack(slot.frame.bytes_mut(), &packet)?;
    shifts.acknowledgment = first.since(packet.ack);
    if is_repairable(&core, &side, slot) {
        if let Some(side) = state.flows.side_mut(id) {
            side.progress |= REPAIRED;
        }
        send_alone(state, snapshot, id, &stored_words(&side));
    }
    Ok(())
}

/// A server's segment after the header was acknowledged. One that was overtaken on its way may
/// still acknowledge less than the header, and one may say that the header came twice (RFC 2883):
/// the client knows of no such bytes.
pub(super) fn look_back(
    slot: &mut Slot,
    core: &FlowCore,
    side: &Side,
    shifts: &mut Shifts,
) -> Result<(), DropReason> {
    if core.has(flag::CLOSED) {
        // The number is gone; nothing that a block says matters any more.
        return sequence::erase_sack(slot.frame.bytes_mut(), &slot.packet);
    }
    let header_end = SeqNum(side.newer);
    if slot.packet.ack.before(header_end) && slot.packet.flags.contains(TcpFlags::ACK) {
        let first = header_end.wrapping_sub(core.in_delta);
        shifts.acknowledgment = first.since(slot.packet.ack);
        return sequence::erase_sack(slot.frame.bytes_mut(), &slot.packet);
    }
    hide_header(slot, header_end)
}

/// Takes off SACK blocks that begin in the header.
fn hide_header(slot: &mut Slot, header_end: SeqNum) -> Result<(), DropReason> {
    if sequence::sack_reaches_below(slot.frame.bytes(), &slot.packet, header_end) {
        sequence::erase_sack(slot.frame.bytes_mut(), &slot.packet)?;
    }
    Ok(())
}

/// Whether the server shows that it has later bytes but not the header: it acknowledges nothing
/// new in a bare segment, though the header is on its way. Done once; then the timer's turn.
fn is_repairable(core: &FlowCore, side: &Side, slot: &Slot) -> bool {
    let is_bare = slot.packet.sequence_bytes() == 0;
    is_bare
        && side.progress & (SENT | REPAIRED) == SENT
        && core.state() == FlowState::Established
        && slot.packet.flags == TcpFlags::ACK
}

/// Remembers the server's MSS.
fn note_server(state: &mut WorkerState, slot: &Slot, id: FlowId) {
    let Some(mss) = mss::of(slot.frame.bytes(), &slot.packet) else { return };
    if let Some(side) = state.flows.side_mut(id) {
        let kept = side.progress & !(0b111 << MSS_SHIFT);
        side.progress = kept | mss::index_of(mss) << MSS_SHIFT;
    }
}

/// The header is acknowledged, or nobody waits for it any more.
fn finish(state: &mut WorkerState, id: FlowId) {
    let Some(core) = state.flows.core_mut(id) else { return };
    core.flags &= !flag::INSERTING;
    let (delta, shift) = (core.in_delta, core.in_ts_delta);
    if let Some(side) = state.flows.side_mut(id) {
        // From now on this is the last timestamp that the server saw.
        side.server_seq = if side.older == 0 { 0 } else { side.older.wrapping_add(shift) };
        side.older = 0;
        side.newer = side.client_seq.wrapping_add(1).wrapping_add(delta);
    }
}

/// What the client said last, but for its payload.
fn stored_words(side: &Side) -> Words {
    let timestamps =
        (side.older != 0).then_some(Timestamps { value: side.older, echo: side.newer });
    Words {
        seq: SeqNum(side.client_seq).wrapping_add(1),
        ack: SeqNum(side.server_seq),
        flags: TcpFlags::ACK,
        // A closed window would stop the server until the client's next segment.
        window: (u16::from(side.window) << 8).max(1),
        options: Options::default().timestamps(timestamps),
    }
}

/// The timer of a flow with `flag::INSERTING`: sends the header again, and says after how many
/// milliseconds the next time is; none when it was not sent yet or was sent often enough.
pub(in super::super) fn resend(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    id: FlowId,
) -> Option<u32> {
    let side = state.flows.side(id);
    let resends = side.progress & RESENDS;
    if side.progress & SENT == 0 || resends >= PROXY_RESENDS_MAX {
        return None;
    }
    state.flows.side_mut(id)?.progress += 1;
    send_alone(state, snapshot, id, &stored_words(&side));
    Some(PROXY_RESEND_MS << (resends + 1))
}
