//! ICMP errors between IPv4 and IPv6 (RFC 7915 sections 4.2, 4.3, 5.2 and 5.3): type, code, MTU and
//! pointer as the other family says them, and what is quoted as its sender sent it.
//!
//! What has no counterpart there is a counted drop. Extensions behind what is quoted (RFC 4884) are
//! left out: their addresses would be of the wrong family.

use std::net::IpAddr;

use super::super::burst::Slot;
use super::super::classify::L3;
use super::super::segment::{ipv4_header, ipv6_header};
use super::family::{self, Carried, GROWTH, IPV6_MTU_MIN, Marks};
use super::quoted::{self, ErrorEdit, MTU_MIN, Quoted};
use crate::counters::DropReason;
use crate::wire::checksum::{ChecksumDelta, Sum};
use crate::wire::ethernet::EtherType;
use crate::wire::icmp::{CODE_FRAGMENTATION_NEEDED, ICMP_HEADER_BYTES, Icmp, IcmpType};
use crate::wire::icmpv6::{self, Icmpv6, Icmpv6Type};
use crate::wire::ip::{Fragment, IpProtocol};
use crate::wire::ipv4::{IPV4_HEADER_BYTES, Ipv4};
use crate::wire::ipv6::{FRAGMENT_HEADER_BYTES, IPV6_HEADER_BYTES, Ipv6};

/// Largest IPv4 packet that carries an error (RFC 1812 section 4.3.2.3); of IPv6 it is the least
/// MTU (RFC 4443 section 2.4).
const IPV4_ERROR_BYTES_MAX: usize = 576;
/// MTUs of RFC 1191 section 7 that IPv6 can have: what a router may mean that does not say.
const PLATEAUS: [u16; 7] = [65_535, 32_000, 17_914, 8166, 4352, 2002, 1492];
/// "Communication administratively prohibited".
const PROHIBITED: (u8, u8) = (10, 1);
/// "Protocol unreachable" of IPv4, "unrecognized next header" of IPv6, and the field it points at.
const NO_PROTOCOL: (u8, u8, u32) = (2, 1, 6);

/// Largest packets of the links that an error is about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Links {
    /// Towards who gets the error.
    pub receivers: u16,
    /// Where the quoted packet was sent.
    pub quoted: u16,
}

/// What an error says: type, code, and the second word of its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Said {
    kind: u8,
    code: u8,
    word: u32,
}

/// The packet that an error quotes.
struct Inner {
    /// Bytes before its transport header.
    header_bytes: usize,
    /// Bytes from there that are quoted, without what does not belong to the packet.
    body_bytes: usize,
    /// Bytes from there that it had.
    sent_bytes: usize,
    ip: Carried,
    protocol: IpProtocol,
    place: Option<Fragment>,
    src: IpAddr,
    dst: IpAddr,
}

/// Turns the frame's error, with what it quotes, into one of the other family.
pub(super) fn translate(
    slot: &mut Slot,
    edit: &ErrorEdit,
    links: &Links,
    marks: Marks,
) -> Result<(), DropReason> {
    let (start, end) = (slot.packet.l4, slot.packet.end);
    let outer = Carried::of(slot.frame.bytes())?;
    let message = slot.frame.bytes_mut().get_mut(start..end).ok_or(DropReason::Internal)?;
    let to_v6 = edit.to.dst.0.is_ipv6();
    let (said, inner) = if to_v6 { read_v4(message) } else { read_v6(message) }?;
    let overhead = edit.overhead_bytes;
    let saying = match to_v6 {
        true => said.in_v6(&inner, links, overhead),
        false => said.in_v4(&inner, links, overhead),
    };
    let saying = saying.ok_or(DropReason::OtherFamily)?;
    quoted_transport(message, &inner, edit)?;
    let body = start + ICMP_HEADER_BYTES + inner.header_bytes;
    let (headers, max) = if to_v6 {
        (IPV6_HEADER_BYTES + ICMP_HEADER_BYTES + ipv6_header_bytes(&inner), IPV6_MTU_MIN)
    } else {
        (2 * IPV4_HEADER_BYTES + ICMP_HEADER_BYTES, IPV4_ERROR_BYTES_MAX)
    };
    let kept = inner.body_bytes.min(max - headers);
    slot.frame.set_len(body + kept).map_err(|_| DropReason::Internal)?;
    (slot.packet.l4, slot.packet.payload, slot.packet.end) = (body, body, body + kept);
    family::replace_header(slot, headers, if to_v6 { EtherType::IPV6 } else { EtherType::IPV4 })?;
    let l3 = slot.frame.bytes_mut().get_mut(L3..).ok_or(DropReason::Internal)?;
    match (edit.to.src.0, edit.to.dst.0) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            ipv4_header(l3, src, dst, IpProtocol::ICMP)?;
            let (mut ip, message) = Ipv4::parse_mut(l3).map_err(|_| DropReason::Internal)?;
            ip.set_tos(outer.class);
            ip.set_ttl(outer.ttl);
            ip.set_id(marks.id());
            ip.set_checksum(ip.compute_checksum(&[]));
            inner_v4(message.get_mut(ICMP_HEADER_BYTES..).unwrap_or_default(), &inner, edit)?;
            finish(message, &saying, Sum::new())
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            ipv6_header(l3, src, dst, IpProtocol::ICMPV6)?;
            let (mut ip, message) = Ipv6::parse_mut(l3).map_err(|_| DropReason::Internal)?;
            ip.set_traffic_class(outer.class);
            ip.set_hop_limit(outer.ttl);
            inner_v6(message.get_mut(ICMP_HEADER_BYTES..).unwrap_or_default(), &inner, edit)?;
            let bytes = message.len() as u32;
            finish(message, &saying, Sum::pseudo_v6(src, dst, IpProtocol::ICMPV6, bytes))
        }
        _ => Err(DropReason::Internal),
    }
}

fn ipv6_header_bytes(inner: &Inner) -> usize {
    IPV6_HEADER_BYTES + if inner.place.is_some() { FRAGMENT_HEADER_BYTES } else { 0 }
}

fn read_v4(message: &[u8]) -> Result<(Said, Inner), DropReason> {
    let (icmp, quoted) = Icmp::parse(message).map_err(|_| DropReason::Internal)?;
    let (ip, body) = Ipv4::parse_quoted(quoted).map_err(|_| DropReason::Internal)?;
    let said = Said { kind: icmp.icmp_type().0, code: icmp.code(), word: word(message)? };
    let header_bytes = ip.header_bytes();
    // In fours of bytes (RFC 4884 section 4); "source quench" has nothing there.
    let length = match icmp.icmp_type() {
        IcmpType::SOURCE_QUENCH => 0,
        _ => usize::from((said.word >> 16) as u8) * 4,
    };
    Ok((
        said,
        Inner {
            header_bytes,
            body_bytes: body.len().min(without_extensions(length, header_bytes)),
            sent_bytes: usize::from(ip.total_length()).saturating_sub(header_bytes),
            ip: Carried { class: ip.tos(), ttl: ip.ttl() },
            protocol: ip.protocol(),
            place: ip.fragment(),
            src: ip.src().into(),
            dst: ip.dst().into(),
        },
    ))
}

/// `OtherFamily` where what was cut had extension headers, as in `Marks::of`.
fn read_v6(message: &[u8]) -> Result<(Said, Inner), DropReason> {
    let (icmp, quoted) = Icmpv6::parse(message).map_err(|_| DropReason::Internal)?;
    let (ip, body) = Ipv6::parse_quoted(quoted).map_err(|_| DropReason::Internal)?;
    let upper = ip.upper_layer(body).map_err(|_| DropReason::Internal)?;
    let said = Said { kind: icmp.icmp_type().0, code: icmp.code(), word: word(message)? };
    let header_bytes = IPV6_HEADER_BYTES + upper.offset_bytes;
    if upper.fragment.is_some() && upper.fragmentable_bytes != upper.offset_bytes {
        return Err(DropReason::OtherFamily);
    }
    // In eights of bytes, of these two kinds.
    let length = match icmp.icmp_type() {
        Icmpv6Type::UNREACHABLE | Icmpv6Type::TIME_EXCEEDED => (said.word >> 24) as usize * 8,
        _ => 0,
    };
    let quoted_bytes = body.len().saturating_sub(upper.offset_bytes);
    Ok((
        said,
        Inner {
            header_bytes,
            body_bytes: quoted_bytes.min(without_extensions(length, header_bytes)),
            sent_bytes: usize::from(ip.payload_length()).saturating_sub(upper.offset_bytes),
            ip: Carried { class: ip.traffic_class(), ttl: ip.hop_limit() },
            protocol: upper.protocol,
            place: upper.fragment,
            src: ip.src().into(),
            dst: ip.dst().into(),
        },
    ))
}

/// Bytes of quoted transport before the extensions, where `length` says that there are any.
fn without_extensions(length: usize, header_bytes: usize) -> usize {
    if length == 0 { usize::MAX } else { length.saturating_sub(header_bytes) }
}

fn word(message: &[u8]) -> Result<u32, DropReason> {
    let word = message.get(4..).and_then(|rest| rest.first_chunk());
    word.map(|word| u32::from_be_bytes(*word)).ok_or(DropReason::Internal)
}

impl Said {
    /// RFC 7915 section 4.2. `overhead` is what the director puts into the receiver's packets.
    fn in_v6(&self, inner: &Inner, links: &Links, overhead: u16) -> Option<Said> {
        let (unreachable, code) = (Icmpv6Type::UNREACHABLE, self.code);
        let (kind, code, word) = match (IcmpType(self.kind), code) {
            (IcmpType::UNREACHABLE, 0 | 1 | 5..=8 | 11 | 12) => (unreachable, 0, 0),
            (IcmpType::UNREACHABLE, 9 | 10 | 13 | 15) => (unreachable, PROHIBITED.1, 0),
            (IcmpType::UNREACHABLE, 2) => {
                (Icmpv6Type::PARAMETER_PROBLEM, NO_PROTOCOL.1, NO_PROTOCOL.2)
            }
            (IcmpType::UNREACHABLE, 3) => (unreachable, icmpv6::CODE_PORT_UNREACHABLE, 0),
            (IcmpType::UNREACHABLE, CODE_FRAGMENTATION_NEEDED) => {
                let mtu = self.mtu_in_v6(inner, links).saturating_sub(u32::from(overhead));
                (Icmpv6Type::PACKET_TOO_BIG, 0, mtu.max(MTU_MIN.1))
            }
            (IcmpType::TIME_EXCEEDED, code) => (Icmpv6Type::TIME_EXCEEDED, code, 0),
            (IcmpType::PARAMETER_PROBLEM, 0 | 2) => {
                (Icmpv6Type::PARAMETER_PROBLEM, 0, pointer_in_v6(self.word >> 24)?)
            }
            _ => return None,
        };
        Some(Said { kind: kind.0, code, word })
    }

    fn mtu_in_v6(&self, inner: &Inner, links: &Links) -> u32 {
        let (growth, sent) = (GROWTH as u32, inner.sent_bytes + inner.header_bytes);
        let mtu = match self.word & 0xffff {
            // A router from before RFC 1191.
            0 => PLATEAUS.into_iter().map(u32::from).find(|plateau| *plateau < sent as u32),
            mtu => Some(mtu),
        };
        let largest = u32::from(links.receivers).min(u32::from(links.quoted) + growth);
        largest.min(mtu.unwrap_or(0) + growth)
    }

    /// RFC 7915 section 5.2.
    fn in_v4(&self, inner: &Inner, links: &Links, overhead: u16) -> Option<Said> {
        let unreachable = IcmpType::UNREACHABLE;
        let (kind, code, word) = match (Icmpv6Type(self.kind), self.code) {
            (Icmpv6Type::UNREACHABLE, 0 | 2 | 3) => (unreachable, 1, 0),
            (Icmpv6Type::UNREACHABLE, 1) => (unreachable, PROHIBITED.0, 0),
            (Icmpv6Type::UNREACHABLE, 4) => (unreachable, 3, 0),
            (Icmpv6Type::PACKET_TOO_BIG, _) => {
                let mtu = self.mtu_in_v4(inner, links).saturating_sub(u32::from(overhead));
                (unreachable, CODE_FRAGMENTATION_NEEDED, mtu.max(u32::from(MTU_MIN.0)))
            }
            (Icmpv6Type::TIME_EXCEEDED, code) => (IcmpType::TIME_EXCEEDED, code, 0),
            (Icmpv6Type::PARAMETER_PROBLEM, 0) => {
                (IcmpType::PARAMETER_PROBLEM, 0, pointer_in_v4(self.word)? << 24)
            }
            (Icmpv6Type::PARAMETER_PROBLEM, 1) => (unreachable, NO_PROTOCOL.0, 0),
            _ => return None,
        };
        Some(Said { kind: kind.0, code, word })
    }

    /// No IPv6 path has less than the least MTU, whatever an error says (RFC 8201 section 4).
    fn mtu_in_v4(&self, inner: &Inner, links: &Links) -> u32 {
        let more = inner.place.map_or(0, |_| FRAGMENT_HEADER_BYTES);
        let shrinks = (GROWTH + more) as u32;
        let said = self.word.max(MTU_MIN.1) - shrinks;
        said.min(u32::from(links.receivers)).min(u32::from(links.quoted).saturating_sub(shrinks))
    }
}

/// Where an IPv4 header's field stands in IPv6's (RFC 7915, figure 3).
fn pointer_in_v6(at: u32) -> Option<u32> {
    match at {
        0 | 1 => Some(at),
        2 | 3 => Some(4),
        8 => Some(7),
        9 => Some(6),
        12..=15 => Some(8),
        16..=19 => Some(24),
        _ => None,
    }
}

/// Where an IPv6 header's field stands in IPv4's (RFC 7915, figure 6).
fn pointer_in_v4(at: u32) -> Option<u32> {
    match at {
        0 | 1 => Some(at),
        4 | 5 => Some(2),
        6 => Some(9),
        7 => Some(8),
        8..=23 => Some(12),
        24..=39 => Some(16),
        _ => None,
    }
}

/// Ports, number and checksum of the quoted packet, as its sender sent it.
fn quoted_transport(message: &mut [u8], inner: &Inner, edit: &ErrorEdit) -> Result<(), DropReason> {
    let (src, dst) = (edit.to.dst, edit.to.src);
    let delta = family::address(ChecksumDelta::new(), inner.src, src.0);
    let delta = family::address(delta, inner.dst, dst.0);
    let to = Quoted { src, dst, sequence: edit.sequence, patches_checksum: true };
    let body = message.get_mut(ICMP_HEADER_BYTES + inner.header_bytes..);
    quoted::transport(body.ok_or(DropReason::Internal)?, inner.protocol, &to, delta)
}

/// The quoted packet's header, in the length that the packet had.
fn inner_v4(l3: &mut [u8], inner: &Inner, edit: &ErrorEdit) -> Result<(), DropReason> {
    let (IpAddr::V4(src), IpAddr::V4(dst)) = (edit.to.dst.0, edit.to.src.0) else {
        return Err(DropReason::Internal);
    };
    ipv4_header(l3, src, dst, inner.protocol)?;
    let (mut ip, _) = Ipv4::parse_mut(l3).map_err(|_| DropReason::Internal)?;
    let bytes = (IPV4_HEADER_BYTES + inner.sent_bytes).min(usize::from(u16::MAX));
    let word = inner.place.as_ref().map(family::word_of_piece);
    ip.set_total_length(bytes as u16);
    ip.set_fragment_word(word.unwrap_or(family::word_of_whole(bytes)));
    ip.set_id(inner.place.map_or(0, |place| place.id as u16));
    ip.set_tos(inner.ip.class);
    ip.set_ttl(inner.ip.ttl);
    ip.set_checksum(ip.compute_checksum(&[]));
    Ok(())
}

fn inner_v6(l3: &mut [u8], inner: &Inner, edit: &ErrorEdit) -> Result<(), DropReason> {
    let (IpAddr::V6(src), IpAddr::V6(dst)) = (edit.to.dst.0, edit.to.src.0) else {
        return Err(DropReason::Internal);
    };
    ipv6_header(l3, src, dst, inner.protocol)?;
    let (mut ip, rest) = Ipv6::parse_mut(l3).map_err(|_| DropReason::Internal)?;
    let bytes = inner.sent_bytes + ipv6_header_bytes(inner) - IPV6_HEADER_BYTES;
    ip.set_payload_length(bytes.min(usize::from(u16::MAX)) as u16);
    ip.set_traffic_class(inner.ip.class);
    ip.set_hop_limit(inner.ip.ttl);
    if let Some(place) = inner.place {
        ip.set_next_header(IpProtocol::FRAGMENT);
        let header = rest.first_chunk_mut().ok_or(DropReason::Internal)?;
        *header = family::fragment_header(&place, inner.protocol);
    }
    Ok(())
}

/// The error's own header, and the checksum over all of it.
fn finish(message: &mut [u8], said: &Said, pseudo: Sum) -> Result<(), DropReason> {
    let [a, b, c, d] = said.word.to_be_bytes();
    let header = message.first_chunk_mut().ok_or(DropReason::Internal)?;
    *header = [said.kind, said.code, 0, 0, a, b, c, d];
    let checksum = pseudo.add_bytes(message).checksum();
    let (mut icmp, _) = Icmp::parse_mut(message).map_err(|_| DropReason::Internal)?;
    icmp.set_checksum(checksum);
    Ok(())
}
