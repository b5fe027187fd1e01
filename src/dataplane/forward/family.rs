//! FULLNAT between IPv4 and IPv6: the packet gets the other family's header (RFC 7915), and the
//! endpoints that the flow says.
//!
//! Only whole TCP and UDP packets: fragments and ICMP errors of such flows are counted and dropped.
//! IPv4 options and IPv6 extension headers mean nothing on the other side and are left out, as the
//! RFC has it.

use std::net::IpAddr;

use super::super::burst::Slot;
use super::super::classify::{Kind, L3, Packet};
use super::super::segment::{ipv4_header, ipv6_header};
use super::super::state::WorkerState;
use super::super::{mss, next_hop};
use super::edit::{self, Endpoints};
use super::{Fit, may_be_cut};
use crate::counters::DropReason;
use crate::model::{NextHopId, NicModel, Protocol};
use crate::wire::checksum::ChecksumDelta;
use crate::wire::ethernet::{EtherType, Ethernet};
use crate::wire::ip::IpProtocol;
use crate::wire::ipv4::{DONT_FRAGMENT, IPV4_HEADER_BYTES, Ipv4};
use crate::wire::ipv6::{IPV6_HEADER_BYTES, Ipv6};
use crate::wire::tcp::{TCP_HEADER_BYTES, TcpFlags};

/// The least MTU of IPv6: what its sender always gets through.
const IPV6_MTU_MIN: usize = 1280;
/// What a packet of that size is in IPv4: up to here it says nothing about fragments (RFC 7915
/// section 5.1).
const IPV4_FREE_BYTES: usize = IPV6_MTU_MIN - (IPV6_HEADER_BYTES - IPV4_HEADER_BYTES);

/// Whether a packet's tuple is to become one of the other family.
#[inline]
pub(super) fn changes(packet: &Packet, to: &Endpoints) -> bool {
    to.src.0.is_ipv4() != packet.key.src.is_ipv4()
}

/// Refuses what is not translated.
pub(super) fn check(packet: &Packet) -> Result<(), DropReason> {
    let is_whole = packet.kind == Kind::Transport && packet.piece.is_none();
    is_whole.then_some(()).ok_or(DropReason::OtherFamily)
}

/// As `super::fit`, for the size that the packet will have.
pub(super) fn fit(state: &WorkerState, slot: &Slot, hop: NextHopId) -> Fit {
    let Some(mtu) = next_hop::link_mtu(state, hop) else { return Fit::Whole };
    let (packet, own) = (&slot.packet, usize::from(mtu));
    let body = packet.end.saturating_sub(packet.l4);
    let shift = (IPV6_HEADER_BYTES - IPV4_HEADER_BYTES) as u16;
    if packet.key.src.is_ipv4() {
        match body + IPV6_HEADER_BYTES <= own {
            true => Fit::Whole,
            false if may_be_cut(slot) => Fit::Cut(mtu),
            false => Fit::Refused(mtu.saturating_sub(shift)),
        }
    } else {
        let bytes = body + IPV4_HEADER_BYTES;
        match bytes <= own {
            true => Fit::Whole,
            // An IPv6 sender cannot go lower: IPv4 has to cut.
            false if bytes <= IPV4_FREE_BYTES => Fit::Cut(mtu),
            false => Fit::Refused(mtu.saturating_add(shift).max(IPV6_MTU_MIN as u16)),
        }
    }
}

/// The largest MSS whose segments fit both families on both links: the IPv6 header is the longer.
pub(super) fn limit_mss(
    state: &WorkerState,
    nic: &NicModel,
    slot: &mut Slot,
    hop: NextHopId,
) -> Result<(), DropReason> {
    if !slot.packet.flags.contains(TcpFlags::SYN) {
        return Ok(());
    }
    let towards = next_hop::link_mtu(state, hop).unwrap_or(nic.mtu);
    let headers = (IPV6_HEADER_BYTES + TCP_HEADER_BYTES) as u16;
    let max = nic.mtu.min(towards).saturating_sub(headers);
    mss::limit(slot.frame.bytes_mut(), &slot.packet, max)
}

/// Turns the frame's packet into one of the other family with new endpoints. A wrong transport
/// checksum stays wrong; where IPv4 had none, IPv6 gets one (RFC 7915 section 4.5).
pub(super) fn translate(slot: &mut Slot, to: &Endpoints, id: u16) -> Result<(), DropReason> {
    let packet = slot.packet;
    slot.frame.set_len(packet.end).map_err(|_| DropReason::Internal)?;
    let delta = address(ChecksumDelta::new(), packet.key.src, to.src.0);
    let delta = address(delta, packet.key.dst, to.dst.0);
    let bytes = slot.frame.bytes_mut();
    if packet.key.protocol == Protocol::Udp && packet.key.src.is_ipv4() {
        edit::fill_udp_checksum(bytes, &packet)?;
    }
    edit::transport(bytes, &packet, to, delta)?;
    let (class, ttl) = carried(bytes)?;
    match (to.src.0, to.dst.0) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            replace_header(slot, IPV4_HEADER_BYTES, EtherType::IPV4)?;
            let l3 = slot.frame.bytes_mut().get_mut(L3..).ok_or(DropReason::Internal)?;
            let free = l3.len() <= IPV4_FREE_BYTES;
            ipv4_header(l3, src, dst, protocol(&packet))?;
            let (mut ip, _) = Ipv4::parse_mut(l3).map_err(|_| DropReason::Internal)?;
            ip.set_tos(class);
            ip.set_ttl(ttl);
            // What an IPv6 path surely takes may be cut on an IPv4 one.
            ip.set_fragment_word(if free { 0 } else { DONT_FRAGMENT });
            ip.set_id(if free { id } else { 0 });
            ip.set_checksum(ip.compute_checksum(&[]));
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            replace_header(slot, IPV6_HEADER_BYTES, EtherType::IPV6)?;
            let l3 = slot.frame.bytes_mut().get_mut(L3..).ok_or(DropReason::Internal)?;
            ipv6_header(l3, src, dst, protocol(&packet))?;
            let (mut ip, _) = Ipv6::parse_mut(l3).map_err(|_| DropReason::Internal)?;
            ip.set_traffic_class(class);
            ip.set_hop_limit(ttl);
        }
        _ => return Err(DropReason::Internal),
    }
    Ok(())
}

/// An address under the transport's checksum becomes another one, of either family.
fn address(delta: ChecksumDelta, old: IpAddr, new: IpAddr) -> ChecksumDelta {
    match (old, new) {
        (IpAddr::V4(old), IpAddr::V6(new)) => delta.replace_bytes(&old.octets(), &new.octets()),
        (IpAddr::V6(old), IpAddr::V4(new)) => delta.replace_bytes(&old.octets(), &new.octets()),
        (IpAddr::V4(old), IpAddr::V4(new)) => delta.replace_bytes(&old.octets(), &new.octets()),
        (IpAddr::V6(old), IpAddr::V6(new)) => delta.replace_bytes(&old.octets(), &new.octets()),
    }
}

/// Traffic class and TTL, which both headers have.
fn carried(bytes: &[u8]) -> Result<(u8, u8), DropReason> {
    let l3 = bytes.get(L3..).ok_or(DropReason::Internal)?;
    if let Ok((ip, _)) = Ipv4::parse(l3) {
        return Ok((ip.tos(), ip.ttl()));
    }
    let (ip, _) = Ipv6::parse(l3).map_err(|_| DropReason::Internal)?;
    Ok((ip.traffic_class(), ip.hop_limit()))
}

fn protocol(packet: &Packet) -> IpProtocol {
    match packet.key.protocol {
        Protocol::Tcp => IpProtocol::TCP,
        Protocol::Udp => IpProtocol::UDP,
    }
}

/// Makes the space between Ethernet header and transport `bytes` long.
fn replace_header(slot: &mut Slot, bytes: usize, kind: EtherType) -> Result<(), DropReason> {
    let old = slot.packet.l4.checked_sub(L3).ok_or(DropReason::Internal)?;
    if old < bytes {
        slot.frame.open_gap(L3, bytes - old).map_err(|_| DropReason::NoHeadroom)?;
    } else {
        slot.frame.close_gap(L3, old - bytes).map_err(|_| DropReason::Internal)?;
    }
    let packet = &mut slot.packet;
    let moved = |at: usize| at - old + bytes;
    (packet.payload, packet.end) = (moved(packet.payload), moved(packet.end));
    packet.l4 = L3 + bytes;
    let (mut ethernet, _) =
        Ethernet::parse_mut(slot.frame.bytes_mut()).map_err(|_| DropReason::Internal)?;
    ethernet.set_ether_type(kind);
    Ok(())
}
