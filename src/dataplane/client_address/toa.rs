//! TOA: the client's address in a TCP option, as LVS's servers read it.
//!
//! It rides on each of the client's segments until the server has acknowledged data, on the SYN
//! only where asked for. A segment without room for it (40 bytes of options, or the path's MTU)
//! goes without; the next one tries again. Both SYNs' MSS is lowered by its size, so that this
//! does not happen to full segments.

use std::net::IpAddr;

use arrayvec::ArrayVec;

use super::super::burst::Slot;
use super::super::flow::{Direction, FlowCore, flag};
use super::super::flow_table::{FlowId, Hit};
use super::super::mss;
use super::super::state::WorkerState;
use super::splice;
use crate::counters::DropReason;
use crate::model::{ClientAddress, Snapshot};
use crate::wire::tcp::{SeqNum, TCP_HEADER_BYTES, TCP_OPTIONS_BYTES_MAX, TcpFlags};

/// Size of the option for IPv4: kind, length, port, address.
const OPTION_BYTES_V4: u16 = 8;
/// Size of the option for IPv6.
const OPTION_BYTES_V6: u16 = 20;

/// Size of the option for a client of that family.
pub(super) fn option_bytes(is_ipv4: bool) -> u16 {
    if is_ipv4 { OPTION_BYTES_V4 } else { OPTION_BYTES_V6 }
}

/// Edits a segment of a flow with `flag::TOA`, whose numbers are shifted already.
pub(super) fn segment(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    slot: &mut Slot,
    hit: Hit,
) -> Result<(), DropReason> {
    let core = *state.flows.core(hit.id).ok_or(DropReason::Internal)?;
    let service = snapshot.service(core.service());
    let told = service.map(|service| (service.client_address, service.is_ipv4()));
    let Some((ClientAddress::Toa { kind, on_syn }, is_ipv4)) = told else {
        stop(state, hit.id);
        return Ok(());
    };
    let flags = slot.packet.flags;
    let is_syn = flags.contains(TcpFlags::SYN);
    if is_syn {
        mss::lower(slot.frame.bytes_mut(), &slot.packet, option_bytes(is_ipv4))?;
    }
    match hit.direction {
        Direction::Outbound => watch(state, slot, hit.id, &core),
        Direction::Inbound if flags.contains(TcpFlags::RST) || is_syn && !on_syn => {}
        Direction::Inbound if has_room(state, slot, hit.id, &core) => {
            splice::put_option(slot, &option(slot.packet.key.src, slot.packet.key.src_port, kind))?;
        }
        Direction::Inbound => {}
    }
    Ok(())
}

/// Stops once the server has acknowledged more than the client's SYN.
fn watch(state: &mut WorkerState, slot: &Slot, id: FlowId, core: &FlowCore) {
    let first = SeqNum(state.flows.side(id).client_seq).wrapping_add(core.in_delta).wrapping_add(1);
    if slot.packet.flags.contains(TcpFlags::ACK) && slot.packet.ack.after(first) {
        stop(state, id);
    }
}

fn stop(state: &mut WorkerState, id: FlowId) {
    if let Some(core) = state.flows.core_mut(id) {
        core.flags &= !flag::TOA;
    }
}

fn has_room(state: &WorkerState, slot: &Slot, id: FlowId, core: &FlowCore) -> bool {
    let packet = &slot.packet;
    let bytes = usize::from(option_bytes(packet.key.src.is_ipv4()));
    let options = packet.payload - packet.l4 - TCP_HEADER_BYTES;
    options + bytes <= TCP_OPTIONS_BYTES_MAX
        && packet.ip_bytes() + bytes <= super::size_max(state, id, core)
}

fn option(client: IpAddr, src_port: u16, kind: u8) -> ArrayVec<u8, { OPTION_BYTES_V6 as usize }> {
    let mut option = ArrayVec::new();
    let mut put = |bytes: &[u8]| {
        let _ = option.try_extend_from_slice(bytes);
    };
    put(&[kind, option_bytes(client.is_ipv4()) as u8]);
    put(&src_port.to_be_bytes());
    match client {
        IpAddr::V4(v4) => put(&v4.octets()),
        IpAddr::V6(v6) => put(&v6.octets()),
    }
    option
}
