//! Shifted sequence numbers and timestamps: what one side says is moved into the other's view.
//!
//! A shift exists where a source port was taken over from a server's TIME_WAIT, where bytes were
//! inserted before the client's first, and under SYNPROXY. It holds for the flow's life.

use super::classify::Packet;
use super::flow::{Direction, FlowCore, Side, flag};
use super::flow_table::Hit;
use super::segment::Timestamps;
use super::state::WorkerState;
use crate::counters::DropReason;
use crate::message::FlowState;
use crate::wire::checksum::ChecksumDelta;
use crate::wire::tcp::{
    SeqNum, TCP_HEADER_BYTES, TCP_OPTIONS_BYTES_MAX, Tcp, TcpFlags, TcpOption, TcpOptions,
    TcpOptionsMut, kind,
};

/// What to add to each number of a segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shifts {
    /// To the sequence number.
    pub sequence: u32,
    /// To the acknowledgment number and the edges of SACK blocks.
    pub acknowledgment: u32,
    /// To the timestamp value.
    pub timestamp: u32,
    /// To the timestamp's echo.
    pub echo: u32,
    /// Bits to shift the window field left by.
    pub window: i8,
}

impl Shifts {
    /// What the other side said comes back in acknowledgments and echoes, so those take its
    /// shift backwards.
    pub fn of(core: &FlowCore, side: &Side, direction: Direction) -> Self {
        match direction {
            Direction::Inbound => Shifts {
                sequence: core.in_delta,
                acknowledgment: core.out_delta.wrapping_neg(),
                timestamp: core.in_ts_delta,
                echo: side.out_ts_delta.wrapping_neg(),
                window: 0,
            },
            Direction::Outbound => Shifts {
                sequence: core.out_delta,
                acknowledgment: core.in_delta.wrapping_neg(),
                timestamp: side.out_ts_delta,
                echo: core.in_ts_delta.wrapping_neg(),
                window: side.window_shift,
            },
        }
    }
}

/// Moves a segment's numbers by the flow's shifts and patches its checksum.
pub(super) fn translate(
    bytes: &mut [u8],
    packet: &Packet,
    shifts: &Shifts,
) -> Result<(), DropReason> {
    let l4 = bytes.get_mut(packet.l4..packet.end).ok_or(DropReason::Internal)?;
    let (mut tcp, options, _) =
        Tcp::parse_with_options_mut(l4).map_err(|_| DropReason::Internal)?;
    let has_ack = packet.flags.contains(TcpFlags::ACK);
    let sequence = packet.seq.wrapping_add(shifts.sequence);
    let mut delta = ChecksumDelta::new().replace_u32(packet.seq.0, sequence.0);
    tcp.set_sequence(sequence);
    if has_ack {
        let acknowledgment = packet.ack.wrapping_add(shifts.acknowledgment);
        delta = delta.replace_u32(packet.ack.0, acknowledgment.0);
        tcp.set_acknowledgment(acknowledgment);
    }
    // The window of a SYN is never scaled (RFC 7323 section 2.2).
    if shifts.window != 0 && !packet.flags.contains(TcpFlags::SYN) {
        let window = scale(tcp.window(), shifts.window);
        delta = delta.replace_u16(tcp.window(), window);
        tcp.set_window(window);
    }
    let shift_echo = if has_ack { shifts.echo } else { 0 };
    for option in TcpOptionsMut::new(options) {
        let at = option.offset + 2;
        match option.kind {
            kind::SACK => {
                for (block, edge) in option.data.chunks_exact_mut(4).enumerate() {
                    delta = delta.merge(shift(edge, at + 4 * block, shifts.acknowledgment));
                }
            }
            kind::TIMESTAMPS if option.data.len() == 8 => {
                let (value, echo) = option.data.split_at_mut(4);
                delta = delta.merge(shift(value, at, shifts.timestamp));
                delta = delta.merge(shift(echo, at + 4, shift_echo));
            }
            _ => {}
        }
    }
    tcp.set_checksum(delta.apply(tcp.checksum()));
    Ok(())
}

/// A window field in units of another size: rounded down, at most what the field holds.
fn scale(window: u16, left: i8) -> u16 {
    let bits = u32::from(left.unsigned_abs()).min(14);
    let scaled = if left < 0 { u32::from(window) >> bits } else { u32::from(window) << bits };
    scaled.min(u32::from(u16::MAX)) as u16
}

/// Adds to a number at `offset` of the options, which may be odd.
fn shift(bytes: &mut [u8], offset: usize, by: u32) -> ChecksumDelta {
    let Ok(old) = <[u8; 4]>::try_from(&*bytes) else { return ChecksumDelta::new() };
    let new = u32::from_be_bytes(old).wrapping_add(by).to_be_bytes();
    bytes.copy_from_slice(&new);
    ChecksumDelta::new().replace_bytes_at(offset, &old, &new)
}

/// Whether a SACK block of a segment begins before `limit`.
pub(super) fn sack_reaches_below(bytes: &[u8], packet: &Packet, limit: SeqNum) -> bool {
    let segment = bytes.get(packet.l4..packet.end).unwrap_or_default();
    let Ok((_, options, _)) = Tcp::parse_with_options(segment) else { return false };
    TcpOptions::new(options).any(|(_, option)| match option {
        TcpOption::Sack(blocks) => blocks.iter().any(|(left, _)| left.before(limit)),
        _ => false,
    })
}

/// Overwrites the SACK option of a segment with padding.
pub(super) fn erase_sack(bytes: &mut [u8], packet: &Packet) -> Result<(), DropReason> {
    let segment = bytes.get_mut(packet.l4..packet.end).ok_or(DropReason::Internal)?;
    let (mut tcp, options, _) =
        Tcp::parse_with_options_mut(segment).map_err(|_| DropReason::Internal)?;
    let Some((at, end)) = find(options, kind::SACK) else { return Ok(()) };
    let option = options.get_mut(at..end).ok_or(DropReason::Internal)?;
    const PADDING: [u8; TCP_OPTIONS_BYTES_MAX] = [kind::NOP; TCP_OPTIONS_BYTES_MAX];
    let padding = PADDING.get(..option.len()).ok_or(DropReason::Internal)?;
    let delta = ChecksumDelta::new().replace_bytes_at(at, option, padding);
    option.copy_from_slice(padding);
    tcp.set_checksum(delta.apply(tcp.checksum()));
    Ok(())
}

/// Where the first option of a kind starts and ends.
fn find(options: &[u8], kind: u8) -> Option<(usize, usize)> {
    let mut walk = TcpOptions::new(options);
    while let Some((at, _)) = walk.next() {
        if options.get(at) == Some(&kind) {
            return Some((at, walk.offset()));
        }
    }
    None
}

/// Whether one side has closed, and something may still come.
pub(super) fn is_closing(core: &FlowCore) -> bool {
    matches!(
        core.state(),
        FlowState::FinWait | FlowState::CloseWait | FlowState::TimeWait | FlowState::LastAck
    )
}

/// While a flow closes, notes what its server will remember in TIME_WAIT: the sequence number it
/// expects next (its own acknowledgment) and the client's last timestamp. `takeover` uses both.
pub(super) fn note_closing(state: &mut WorkerState, bytes: &[u8], packet: &Packet, hit: Hit) {
    let Some(core) = state.flows.core(hit.id) else { return };
    if !is_closing(core) || core.has(flag::INSERTING | flag::AWAITS_SERVER) {
        return;
    }
    // Until the server has acknowledged data, the client's first number is still needed.
    let has_acked = packet.flags.contains(TcpFlags::ACK) && !core.has(flag::TOA);
    let Some(side) = state.flows.side_mut(hit.id) else { return };
    match hit.direction {
        Direction::Outbound if has_acked => side.client_seq = packet.ack.0,
        Direction::Outbound => {}
        Direction::Inbound => {
            // The frame is shifted already: it says what the server will see.
            let has_options = packet.payload > packet.l4 + TCP_HEADER_BYTES;
            if has_options && let Some(seen) = Timestamps::of(bytes, packet) {
                side.server_seq = seen.value;
            }
        }
    }
}
