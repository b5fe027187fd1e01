//! FULLNAT between IPv4 and IPv6: the packet gets the other family's header (RFC 7915), and the
//! endpoints that the flow says.
//!
//! TCP and UDP packets and their fragments; what ICMP errors become is `family_error`'s. IPv4
//! options and IPv6 extension headers mean nothing on the other side and are left out, as the RFC
//! has it. The fragment header alone has a counterpart.

use std::net::IpAddr;

use super::super::burst::Slot;
use super::super::classify::{Kind, L3, Packet, Piece};
use super::super::segment::{ipv4_header, ipv6_header};
use super::super::state::WorkerState;
use super::super::{mss, next_hop};
use super::edit::{self, Endpoints};
use super::{Fit, may_be_cut};
use crate::counters::DropReason;
use crate::model::{NextHopId, NicModel, Protocol};
use crate::wire::checksum::ChecksumDelta;
use crate::wire::ethernet::{EtherType, Ethernet};
use crate::wire::ip::{Fragment, IpProtocol};
use crate::wire::ipv4::{DONT_FRAGMENT, IPV4_HEADER_BYTES, Ipv4, MORE_FRAGMENTS};
use crate::wire::ipv6::{FRAGMENT_HEADER_BYTES, IPV6_HEADER_BYTES, Ipv6};
use crate::wire::tcp::{TCP_HEADER_BYTES, TcpFlags};
use crate::wire::udp::Udp;

/// The least MTU of IPv6: what its sender always gets through.
pub(super) const IPV6_MTU_MIN: usize = 1280;
/// Bytes by which a packet grows on its way to IPv6.
pub(super) const GROWTH: usize = IPV6_HEADER_BYTES - IPV4_HEADER_BYTES;
/// What a packet of the least size is in IPv4: up to here it says nothing about fragments (RFC
/// 7915 section 5.1).
pub(super) const IPV4_FREE_BYTES: usize = IPV6_MTU_MIN - GROWTH;

/// Whether a packet's tuple is to become one of the other family.
#[inline]
pub(super) fn changes(packet: &Packet, to: &Endpoints) -> bool {
    to.src.0.is_ipv4() != packet.key.src.is_ipv4()
}

/// What the header of the other family says of fragments.
#[derive(Clone, Copy, Debug)]
pub(super) struct Marks {
    /// Identification, where one is said.
    id: u32,
    /// The word of IPv4's header.
    word: u16,
}

impl Marks {
    /// Those of a packet as it came, before anything is put into it: its sender knows of nothing
    /// else. `OtherFamily` where extension headers are part of what is fragmented: no later piece
    /// says so, and IPv4 has no such thing (RFC 7915 section 5.1.1).
    pub fn of(state: &mut WorkerState, packet: &Packet) -> Result<Self, DropReason> {
        let Some(piece) = packet.piece else {
            let word = word_of_whole(packet.end.saturating_sub(packet.l4) + IPV4_HEADER_BYTES);
            return Ok(Marks { id: u32::from(state.next_ip_id()), word });
        };
        if usize::from(piece.body) != packet.l4 {
            return Err(DropReason::OtherFamily);
        }
        Ok(Marks { id: piece.new_id.map_or(0, u32::from), word: word_of_piece(&piece.place) })
    }

    /// The identification of an IPv4 packet.
    pub fn id(&self) -> u16 {
        self.id as u16
    }
}

/// As `super::fit`, for the size that the packet will have. A neighbour that is not known yet
/// leaves the size that its route allows.
pub(super) fn fit(state: &WorkerState, slot: &Slot, hop: NextHopId) -> Fit {
    let mtu = next_hop::get(state, hop).map(|hop| hop.mtu).filter(|mtu| *mtu > 0);
    let Some(mtu) = mtu else { return Fit::Whole };
    let (packet, own) = (&slot.packet, usize::from(mtu));
    let body = packet.end.saturating_sub(packet.l4);
    if packet.key.src.is_ipv4() {
        let headers = ipv6_header_bytes(packet);
        match body + headers <= own {
            true => Fit::Whole,
            // What has to be cut is cut so that it gets through everywhere (section 4.1).
            false if may_be_cut(slot) => Fit::Cut(mtu.min(IPV6_MTU_MIN as u16)),
            false => Fit::Refused(mtu.saturating_sub((headers - IPV4_HEADER_BYTES) as u16)),
        }
    } else {
        let (bytes, is_piece) = (body + IPV4_HEADER_BYTES, packet.piece.is_some());
        match bytes <= own {
            true => Fit::Whole,
            // An IPv6 sender cannot go lower, and who cuts lets others cut: IPv4 has to.
            false if is_piece || bytes <= IPV4_FREE_BYTES => Fit::Cut(mtu),
            false => Fit::Refused(mtu.saturating_add(GROWTH as u16).max(IPV6_MTU_MIN as u16)),
        }
    }
}

/// Bytes of IPv6 header that a packet gets.
fn ipv6_header_bytes(packet: &Packet) -> usize {
    IPV6_HEADER_BYTES + if packet.piece.is_some() { FRAGMENT_HEADER_BYTES } else { 0 }
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
/// checksum stays wrong; where IPv4 had none, IPv6 gets one (RFC 7915 section 4.5). A fragment
/// stays one, in its place; of a datagram's checksum only the first has to know.
pub(super) fn translate(slot: &mut Slot, to: &Endpoints, marks: Marks) -> Result<(), DropReason> {
    let packet = slot.packet;
    slot.frame.set_len(packet.end).map_err(|_| DropReason::Internal)?;
    let bytes = slot.frame.bytes_mut();
    if packet.kind != Kind::Fragment {
        let delta = address(ChecksumDelta::new(), packet.key.src, to.src.0);
        let delta = address(delta, packet.key.dst, to.dst.0);
        if packet.key.protocol == Protocol::Udp && packet.key.src.is_ipv4() {
            need_udp_checksum(bytes, &packet)?;
            edit::fill_udp_checksum(bytes, &packet)?;
        }
        edit::transport(bytes, &packet, to, delta)?;
    }
    let carried = Carried::of(bytes)?;
    match (to.src.0, to.dst.0) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            replace_header(slot, IPV4_HEADER_BYTES, EtherType::IPV4)?;
            let l3 = slot.frame.bytes_mut().get_mut(L3..).ok_or(DropReason::Internal)?;
            ipv4_header(l3, src, dst, protocol(&packet))?;
            let (mut ip, _) = Ipv4::parse_mut(l3).map_err(|_| DropReason::Internal)?;
            ip.set_tos(carried.class);
            ip.set_ttl(carried.ttl);
            ip.set_fragment_word(marks.word);
            ip.set_id(if marks.word == DONT_FRAGMENT { 0 } else { marks.id() });
            ip.set_checksum(ip.compute_checksum(&[]));
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            replace_header(slot, ipv6_header_bytes(&packet), EtherType::IPV6)?;
            let l3 = slot.frame.bytes_mut().get_mut(L3..).ok_or(DropReason::Internal)?;
            let protocol = protocol(&packet);
            ipv6_header(l3, src, dst, protocol)?;
            let (mut ip, rest) = Ipv6::parse_mut(l3).map_err(|_| DropReason::Internal)?;
            ip.set_traffic_class(carried.class);
            ip.set_hop_limit(carried.ttl);
            if let Some(Piece { place, .. }) = packet.piece {
                ip.set_next_header(IpProtocol::FRAGMENT);
                let header = rest.first_chunk_mut().ok_or(DropReason::Internal)?;
                *header = fragment_header(&Fragment { id: marks.id, ..place }, protocol);
            }
        }
        _ => return Err(DropReason::Internal),
    }
    Ok(())
}

/// Refuses the first piece of a datagram that has no checksum: IPv6 demands one, over bytes that
/// are not here.
fn need_udp_checksum(bytes: &[u8], packet: &Packet) -> Result<(), DropReason> {
    let body = bytes.get(packet.l4..packet.end).ok_or(DropReason::Internal)?;
    let (udp, _) = Udp::parse(body).map_err(|_| DropReason::Internal)?;
    match packet.piece {
        Some(_) if udp.checksum() == 0 => Err(DropReason::FragmentNoChecksum),
        _ => Ok(()),
    }
}

/// What an IPv4 header says of fragments for a packet of so many bytes that is none. What an IPv6
/// path surely takes tells nothing about the path (RFC 7915 section 5.1): routers may cut it.
pub(super) fn word_of_whole(bytes: usize) -> u16 {
    if bytes <= IPV4_FREE_BYTES { 0 } else { DONT_FRAGMENT }
}

/// The same for one that is a piece.
pub(super) fn word_of_piece(place: &Fragment) -> u16 {
    let eighths = place.offset_bytes / 8;
    eighths | if place.more { MORE_FRAGMENTS } else { 0 }
}

/// IPv6's fragment header before a `protocol`.
pub(super) fn fragment_header(
    place: &Fragment,
    protocol: IpProtocol,
) -> [u8; FRAGMENT_HEADER_BYTES] {
    let [high, low] = (place.offset_bytes & 0xfff8 | u16::from(place.more)).to_be_bytes();
    let [a, b, c, d] = place.id.to_be_bytes();
    [protocol.0, 0, high, low, a, b, c, d]
}

/// An address under the transport's checksum becomes another one, of either family.
pub(super) fn address(delta: ChecksumDelta, old: IpAddr, new: IpAddr) -> ChecksumDelta {
    match (old, new) {
        (IpAddr::V4(old), IpAddr::V6(new)) => delta.replace_bytes(&old.octets(), &new.octets()),
        (IpAddr::V6(old), IpAddr::V4(new)) => delta.replace_bytes(&old.octets(), &new.octets()),
        (IpAddr::V4(old), IpAddr::V4(new)) => delta.replace_bytes(&old.octets(), &new.octets()),
        (IpAddr::V6(old), IpAddr::V6(new)) => delta.replace_bytes(&old.octets(), &new.octets()),
    }
}

/// What both headers have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Carried {
    /// Type of service or traffic class.
    pub class: u8,
    /// TTL or hop limit.
    pub ttl: u8,
}

impl Carried {
    /// Those of a frame's IP header.
    pub fn of(bytes: &[u8]) -> Result<Self, DropReason> {
        let l3 = bytes.get(L3..).ok_or(DropReason::Internal)?;
        if let Ok((ip, _)) = Ipv4::parse(l3) {
            return Ok(Carried { class: ip.tos(), ttl: ip.ttl() });
        }
        let (ip, _) = Ipv6::parse(l3).map_err(|_| DropReason::Internal)?;
        Ok(Carried { class: ip.traffic_class(), ttl: ip.hop_limit() })
    }
}

fn protocol(packet: &Packet) -> IpProtocol {
    match packet.key.protocol {
        Protocol::Tcp => IpProtocol::TCP,
        Protocol::Udp => IpProtocol::UDP,
    }
}

/// Makes the space between Ethernet header and transport `bytes` long.
pub(super) fn replace_header(
    slot: &mut Slot,
    bytes: usize,
    kind: EtherType,
) -> Result<(), DropReason> {
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
