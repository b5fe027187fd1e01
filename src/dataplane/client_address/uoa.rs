//! UOA: a UDP client's address in the IP header, as the servers of Alibaba's LVS and of DPVS read
//! it (their `uoa` kernel module).
//!
//! It rides on the client's first datagrams, until the server answers. Over IPv4 it is an IP option
//! that hosts without the module skip. Over IPv6 a header of its own stands before UDP, protocol
//! 248, which only the module understands. A datagram without room for it (40 bytes of options, the
//! path's MTU; over IPv6 other extension headers) goes without.

use std::net::IpAddr;

use arrayvec::ArrayVec;

use super::super::burst::Slot;
use super::super::classify::L3;
use super::super::flow::{Direction, FlowCore, flag};
use super::super::flow_table::Hit;
use super::super::next_hop;
use super::super::state::WorkerState;
use super::splice;
use crate::counters::DropReason;
use crate::limits::UOA_DATAGRAMS_MAX;
use crate::wire::ip::IpProtocol;
use crate::wire::ipv4::IPV4_HEADER_BYTES;
use crate::wire::ipv6::IPV6_HEADER_BYTES;

/// Number of the IPv4 option.
const OPTION: u8 = 31;
/// Size of the option with an IPv4 address: number, size, port, address.
const OPTION_BYTES_V4: u16 = 8;
/// Size of the option with an IPv6 address.
const OPTION_BYTES_V6: u16 = 20;
/// Size of what stands before the option over IPv6: version 2 and four bits of zero, the next
/// protocol, and the size of it all.
const HEADER_BYTES: u16 = 4;
/// Most bytes of IPv4 options.
const IPV4_OPTIONS_BYTES_MAX: usize = 40;

/// The option, or the header with the option.
type Bytes = ArrayVec<u8, { (HEADER_BYTES + OPTION_BYTES_V6) as usize }>;

/// Bytes by which a datagram grows.
pub(super) fn overhead_bytes(is_ipv4: bool) -> u16 {
    if is_ipv4 { OPTION_BYTES_V4 } else { HEADER_BYTES + OPTION_BYTES_V6 }
}

/// Looks at a datagram of a flow with `flag::TOA`, whose addresses are still the client's.
pub(super) fn datagram(
    state: &mut WorkerState,
    slot: &mut Slot,
    hit: Hit,
) -> Result<(), DropReason> {
    let core = *state.flows.core(hit.id).ok_or(DropReason::Internal)?;
    if hit.direction == Direction::Outbound || core.packets > UOA_DATAGRAMS_MAX {
        if let Some(core) = state.flows.core_mut(hit.id) {
            core.flags &= !flag::TOA;
        }
        return Ok(());
    }
    let bytes = write(slot.packet.key.src, slot.packet.key.src_port);
    if has_room(state, slot, &core, bytes.len()) {
        splice::put_in_ip(slot, &bytes, IpProtocol::UOA)?;
    }
    Ok(())
}

fn has_room(state: &WorkerState, slot: &Slot, core: &FlowCore, bytes: usize) -> bool {
    let packet = &slot.packet;
    let mtu = next_hop::get(state, core.hop(Direction::Inbound)).map_or(0, |hop| hop.mtu);
    let has_place = if packet.key.src.is_ipv4() {
        packet.l4 - L3 - IPV4_HEADER_BYTES + bytes <= IPV4_OPTIONS_BYTES_MAX
    } else {
        // A piece has its own header there, and the other pieces know where they belong.
        packet.l4 == L3 + IPV6_HEADER_BYTES && packet.piece.is_none()
    };
    has_place && packet.ip_bytes() + bytes <= usize::from(mtu)
}

fn write(client: IpAddr, src_port: u16) -> Bytes {
    let mut bytes = Bytes::new();
    let mut put = |more: &[u8]| {
        let _ = bytes.try_extend_from_slice(more);
    };
    let port = src_port.to_be_bytes();
    match client {
        IpAddr::V4(v4) => {
            put(&[OPTION, OPTION_BYTES_V4 as u8]);
            put(&port);
            put(&v4.octets());
        }
        IpAddr::V6(v6) => {
            put(&[2 << 4, IpProtocol::UDP.0]);
            put(&(HEADER_BYTES + OPTION_BYTES_V6).to_be_bytes());
            put(&[OPTION, OPTION_BYTES_V6 as u8]);
            put(&port);
            put(&v6.octets());
        }
    }
    bytes
}
