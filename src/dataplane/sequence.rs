//! Shifted sequence numbers and timestamps: what one side says is moved into the other's view.
//!
//! A shift exists where a source port was taken over from a server's TIME_WAIT, where bytes were
//! inserted before the client's first, and under SYNPROXY. It holds for the flow's life.

use super::burst::Slot;
use super::classify::Packet;
use super::flow::{Direction, FlowCore, Side, flag};
use super::flow_table::Hit;
use super::state::WorkerState;
use crate::counters::DropReason;
use crate::message::FlowState;
use crate::wire::checksum::ChecksumDelta;
use crate::wire::tcp::{Tcp, TcpFlags, TcpOption, TcpOptions, TcpOptionsMut, kind};

/// What to add to each number of a segment.
#[derive(Clone, Copy, Debug)]
struct Shifts {
    sequence: u32,
    acknowledgment: u32,
    timestamp: u32,
    echo: u32,
}

impl Shifts {
    /// What the other side said comes back in acknowledgments and echoes, so those take its
    /// shift backwards.
    fn of(core: &FlowCore, side: &Side, direction: Direction) -> Self {
        match direction {
            Direction::Inbound => Shifts {
                sequence: core.in_delta,
                acknowledgment: core.out_delta.wrapping_neg(),
                timestamp: core.in_ts_delta,
                echo: side.out_ts_delta.wrapping_neg(),
            },
            Direction::Outbound => Shifts {
                sequence: core.out_delta,
                acknowledgment: core.in_delta.wrapping_neg(),
                timestamp: side.out_ts_delta,
                echo: core.in_ts_delta.wrapping_neg(),
            },
        }
    }
}

/// Moves a segment's numbers by the flow's shifts and patches its checksum.
pub(super) fn translate(
    bytes: &mut [u8],
    packet: &Packet,
    core: &FlowCore,
    side: &Side,
    direction: Direction,
) -> Result<(), DropReason> {
    let shifts = Shifts::of(core, side, direction);
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
                if has_ack {
                    delta = delta.merge(shift(echo, at + 4, shifts.echo));
                }
            }
            _ => {}
        }
    }
    tcp.set_checksum(delta.apply(tcp.checksum()));
    Ok(())
}

/// Adds to a number at `offset` of the options, which may be odd.
fn shift(bytes: &mut [u8], offset: usize, by: u32) -> ChecksumDelta {
    let Ok(old) = <[u8; 4]>::try_from(&*bytes) else { return ChecksumDelta::new() };
    let new = u32::from_be_bytes(old).wrapping_add(by).to_be_bytes();
    bytes.copy_from_slice(&new);
    ChecksumDelta::new().replace_bytes_at(offset, &old, &new)
}

/// The timestamp value of a segment, if it carries one.
pub(super) fn timestamp(bytes: &[u8], packet: &Packet) -> Option<u32> {
    let (_, options, _) = Tcp::parse_with_options(bytes.get(packet.l4..packet.end)?).ok()?;
    TcpOptions::new(options).find_map(|(_, option)| match option {
        TcpOption::Timestamps { value, .. } => Some(value),
        _ => None,
    })
}

/// While a flow closes, notes what its server will remember in TIME_WAIT: the sequence number it
/// expects next (its own acknowledgment) and the client's last timestamp. `takeover` uses both.
pub(super) fn note_closing(state: &mut WorkerState, slot: &Slot, hit: Hit) {
    let Some(core) = state.flows.core(hit.id) else { return };
    let closing = matches!(
        core.state(),
        FlowState::FinWait | FlowState::CloseWait | FlowState::TimeWait | FlowState::LastAck
    );
    if !closing || core.has(flag::INSERTING | flag::AWAITS_SERVER) {
        return;
    }
    let Some(side) = state.flows.side_mut(hit.id) else { return };
    match hit.direction {
        Direction::Outbound if slot.packet.flags.contains(TcpFlags::ACK) => {
            side.client_seq = slot.packet.ack.0;
        }
        Direction::Outbound => {}
        Direction::Inbound => {
            // The frame is shifted already: it says what the server will see.
            if let Some(value) = timestamp(slot.frame.bytes(), &slot.packet) {
                side.server_seq = value;
            }
        }
    }
}
