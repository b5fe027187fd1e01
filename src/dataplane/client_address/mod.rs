//! How a FULLNAT server learns the client's address: by a TCP option (`toa`), by a header before
//! the client's first byte (`proxy`), or in UDP by the IP header (`uoa`). All concern a flow's
//! first packets; what stays for life, the shift by the header's size, is `sequence`'s.

mod header;
mod proxy;
mod splice;
mod toa;
mod uoa;

pub(super) use proxy::resend;

use super::burst::Slot;
use super::flow::{Direction, FlowCore, Side, flag};
use super::flow_table::{FlowId, Hit};
use super::ftp;
use super::next_hop;
use super::sequence::{self, Shifts};
use super::state::WorkerState;
use crate::counters::DropReason;
use crate::model::{ClientAddress, Protocol, Snapshot, VirtualService};
use crate::wire::ipv4::IPV4_HEADER_BYTES;
use crate::wire::ipv6::IPV6_HEADER_BYTES;
use crate::wire::tcp::SeqNum;

/// Prepares a new FULLNAT flow, whose shifts by `takeover` are set. `first` is the client's first
/// sequence number.
pub(super) fn begin(state: &mut WorkerState, service: &VirtualService, id: FlowId, first: SeqNum) {
    let Some(core) = state.flows.core_mut(id) else { return };
    let is_udp = core.protocol() == Protocol::Udp;
    match service.client_address {
        ClientAddress::Toa { .. } if !is_udp => core.flags |= flag::TOA,
        ClientAddress::Uoa if is_udp => core.flags |= flag::TOA,
        _ => {}
    }
    if is_udp {
        return;
    }
    if let Some(side) = state.flows.side_mut(id) {
        side.client_seq = first.0;
    }
    match service.client_address {
        ClientAddress::None | ClientAddress::Toa { .. } | ClientAddress::Uoa => {}
        ClientAddress::ProxyV1 => proxy::begin(state, id, proxy::Version::One),
        ClientAddress::ProxyV2 => proxy::begin(state, id, proxy::Version::Two),
    }
}

/// Bytes of MSS that the service's way to tell the client's address costs.
pub(super) fn mss_cost(service: &VirtualService) -> u16 {
    match service.client_address {
        ClientAddress::Toa { .. } => toa::option_bytes(service.is_ipv4()),
        _ => 0,
    }
}

/// Size of the header that lies between the server's numbers before the client's first byte and
/// those behind it; 0 for none.
pub(super) fn header_bytes(core: &FlowCore, side: &Side) -> u32 {
    if core.has(flag::INSERTING) { proxy::header_bytes(side) } else { 0 }
}

/// What to add to the sequence number of a quoted segment so that its sender knows it again. An
/// error goes against the segment it quotes: `hit` is the error's way.
pub(super) fn quoted_shift(core: &FlowCore, side: &Side, hit: Hit, quoted: SeqNum) -> u32 {
    match hit.direction {
        Direction::Inbound => core.out_delta.wrapping_neg(),
        Direction::Outbound => {
            let inserted = proxy::inserted_behind(core, side, quoted);
            inserted.wrapping_sub(core.in_delta)
        }
    }
}

/// Bytes by which clients' segments grow on their way: what fits is so much less for the client,
/// to whom an error in that direction goes.
pub(super) fn overhead_bytes(core: &FlowCore, snapshot: &Snapshot, direction: Direction) -> u16 {
    match snapshot.service(core.service()) {
        Some(service) if core.has(flag::TOA) && direction == Direction::Outbound => {
            match service.client_address {
                ClientAddress::Uoa => uoa::overhead_bytes(service.is_ipv4()),
                _ => mss_cost(service),
            }
        }
        _ => 0,
    }
}

/// Largest packet of the client's that the server's link takes, once it is of the server's family.
fn size_max(state: &WorkerState, id: FlowId, core: &FlowCore) -> usize {
    let hop = next_hop::get(state, core.hop(Direction::Inbound));
    let mtu = hop.map_or(0, |hop| usize::from(hop.mtu));
    let growth = IPV6_HEADER_BYTES - IPV4_HEADER_BYTES;
    let addresses = state.flows.addresses(id);
    match addresses.map(|all| (all.client.is_ipv4(), all.server.is_ipv4())) {
        Some((true, false)) => mtu.saturating_sub(growth),
        Some((false, true)) => mtu + growth,
        _ => mtu,
    }
}

/// All that a segment of a flow with a `flag::SLOW` bit needs besides new addresses.
pub(super) fn adjust(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    slot: &mut Slot,
    hit: Hit,
) -> Result<(), DropReason> {
    let core = *state.flows.core(hit.id).ok_or(DropReason::Internal)?;
    let side = state.flows.side(hit.id);
    let mut shifts = Shifts::of(&core, &side, hit.direction);
    let (mut insert, mut replace) = (None, None);
    if core.has(flag::INSERTING) {
        insert = proxy::prepare(state, snapshot, slot, hit, &mut shifts)?;
    } else if side.header != 0 && hit.direction == Direction::Outbound {
        proxy::look_back(slot, &core, &side, &mut shifts)?;
    }
    if core.is_helped() {
        replace = ftp::read(state, snapshot, slot, hit, &mut shifts)?;
    }
    if core.has(flag::ADJUST) {
        sequence::translate(slot.frame.bytes_mut(), &slot.packet, &shifts)?;
    }
    if let Some(header) = insert {
        splice::put_payload(slot, &header)?;
    }
    if let Some(ftp::Replacement { span, text }) = replace {
        splice::replace_payload(slot, span, text.as_bytes())?;
    }
    if core.has(flag::TOA) && core.protocol() == Protocol::Udp {
        uoa::datagram(state, slot, hit)?;
    } else if core.has(flag::TOA) {
        toa::segment(state, snapshot, slot, hit)?;
    }
    Ok(())
}
