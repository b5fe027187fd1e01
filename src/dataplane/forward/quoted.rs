//! ICMP errors in translation: the packet that one quotes becomes the one that the other side
//! sent, and the error goes where that packet came from (RFC 5508 section 4). Both sides are of one
//! family here; of two they are `family_error`'s.

use std::net::IpAddr;

use super::super::classify::{L3, Packet};
use super::edit::{self, Endpoints};
use crate::counters::DropReason;
use crate::wire::checksum::{ChecksumDelta, Sum};
use crate::wire::icmp::{CODE_FRAGMENTATION_NEEDED, ICMP_HEADER_BYTES, Icmp, IcmpType};
use crate::wire::icmpv6::{ICMPV6_HEADER_BYTES, Icmpv6, Icmpv6Type};
use crate::wire::ip::IpProtocol;
use crate::wire::ipv4::Ipv4;
use crate::wire::ipv6::Ipv6;
use crate::wire::transport::TransportStart;

/// Where the checksum stands in a TCP header.
const TCP_CHECKSUM_AT: usize = 16;
/// Where it stands in a UDP header.
const UDP_CHECKSUM_AT: usize = 6;
/// The least MTU of IPv4 (RFC 791) and of IPv6 (RFC 8200 section 5).
pub(super) const MTU_MIN: (u16, u32) = (68, 1280);

/// How an error about a flow's packet changes.
#[derive(Clone, Copy, Debug)]
pub struct ErrorEdit {
    /// New endpoints of a packet that goes the error's way.
    pub to: Endpoints,
    /// Added to the quoted sequence number.
    pub sequence: u32,
    /// Bytes that the director puts into packets that go the other way: so much less fits.
    pub overhead_bytes: u16,
}

impl ErrorEdit {
    /// Nothing but new endpoints, as the kernel's NAT does it.
    pub fn of(to: &Endpoints) -> Self {
        ErrorEdit { to: *to, sequence: 0, overhead_bytes: 0 }
    }
}

/// What becomes of the quoted packet.
pub(super) struct Quoted {
    pub src: (IpAddr, u16),
    pub dst: (IpAddr, u16),
    pub sequence: u32,
    /// Where one endpoint stays, NAT, the quoted transport checksum stays too, as the kernel
    /// leaves it (recordings icmp-nat*). Where both change it follows (RFC 5508 section 4).
    pub patches_checksum: bool,
}

/// Translates an error and what it quotes. `packet.key` is the tuple of a packet that goes the
/// error's way. Who is not translated keeps the place of the error's sender, which may be any
/// router: so NAT's servers see who said it, and clients see the VIP.
pub fn translate(bytes: &mut [u8], packet: &Packet, edit: &ErrorEdit) -> Result<(), DropReason> {
    let to = &edit.to;
    let is_hidden = to.src != (packet.key.src, packet.key.src_port);
    edit::route(bytes, is_hidden.then_some(to.src.0), to.dst.0)?;
    let quoted = Quoted {
        src: to.dst,
        dst: to.src,
        sequence: edit.sequence,
        patches_checksum: is_hidden && to.dst != (packet.key.dst, packet.key.dst_port),
    };
    let (l3, message) = bytes
        .get_mut(L3..packet.end)
        .and_then(|packet_bytes| packet_bytes.split_at_mut_checked(packet.l4 - L3))
        .ok_or(DropReason::Internal)?;
    match to.dst.0 {
        IpAddr::V4(_) => {
            quoted_v4(message, &quoted)?;
            finish_v4(message, edit.overhead_bytes)
        }
        IpAddr::V6(_) => {
            quoted_v6(message, &quoted)?;
            finish_v6(l3, message, edit.overhead_bytes)
        }
    }
}

fn quoted_v4(message: &mut [u8], to: &Quoted) -> Result<(), DropReason> {
    let (IpAddr::V4(src), IpAddr::V4(dst)) = (to.src.0, to.dst.0) else {
        return Err(DropReason::Internal);
    };
    let quoted = message.get_mut(ICMP_HEADER_BYTES..).ok_or(DropReason::Internal)?;
    let (mut ip, body) = Ipv4::parse_quoted_mut(quoted).map_err(|_| DropReason::Internal)?;
    let delta = ChecksumDelta::new()
        .replace_u32(ip.src().into(), src.into())
        .replace_u32(ip.dst().into(), dst.into());
    ip.set_src(src);
    ip.set_dst(dst);
    ip.set_checksum(delta.apply(ip.checksum()));
    let protocol = ip.protocol();
    transport(body, protocol, to, delta)
}

fn quoted_v6(message: &mut [u8], to: &Quoted) -> Result<(), DropReason> {
    let (IpAddr::V6(src), IpAddr::V6(dst)) = (to.src.0, to.dst.0) else {
        return Err(DropReason::Internal);
    };
    let quoted = message.get_mut(ICMPV6_HEADER_BYTES..).ok_or(DropReason::Internal)?;
    let (mut ip, body) = Ipv6::parse_quoted_mut(quoted).map_err(|_| DropReason::Internal)?;
    let upper = ip.upper_layer(body).map_err(|_| DropReason::Internal)?;
    let delta = ChecksumDelta::new()
        .replace_bytes(&ip.src_bytes(), &src.octets())
        .replace_bytes(&ip.dst_bytes(), &dst.octets());
    ip.set_src(src);
    ip.set_dst(dst);
    let body = body.get_mut(upper.offset_bytes..).ok_or(DropReason::Internal)?;
    transport(body, upper.protocol, to, delta)
}

/// Ports, sequence number and checksum of the quoted transport header, as far as it is there.
pub(super) fn transport(
    body: &mut [u8],
    protocol: IpProtocol,
    to: &Quoted,
    delta: ChecksumDelta,
) -> Result<(), DropReason> {
    let is_tcp = protocol == IpProtocol::TCP;
    let (mut start, _) = TransportStart::parse_mut(body).map_err(|_| DropReason::Internal)?;
    let mut delta =
        delta.replace_u16(start.src_port(), to.src.1).replace_u16(start.dst_port(), to.dst.1);
    start.set_src_port(to.src.1);
    start.set_dst_port(to.dst.1);
    if is_tcp {
        let sequence = start.tcp_sequence();
        let shifted = sequence.wrapping_add(to.sequence);
        delta = delta.replace_u32(sequence.0, shifted.0);
        start.set_tcp_sequence(shifted);
    }
    let at = if is_tcp { TCP_CHECKSUM_AT } else { UDP_CHECKSUM_AT };
    if to.patches_checksum
        && let Some(field) = body.get_mut(at..).and_then(|rest| rest.first_chunk_mut())
    {
        let old = u16::from_be_bytes(*field);
        let new = if is_tcp { delta.apply(old) } else { delta.apply_udp(old) };
        *field = new.to_be_bytes();
    }
    Ok(())
}

fn finish_v4(message: &mut [u8], overhead_bytes: u16) -> Result<(), DropReason> {
    let (mut icmp, _) = Icmp::parse_mut(message).map_err(|_| DropReason::Internal)?;
    let is_too_big =
        (icmp.icmp_type(), icmp.code()) == (IcmpType::UNREACHABLE, CODE_FRAGMENTATION_NEEDED);
    // Routers before RFC 1191 say 0.
    if is_too_big && overhead_bytes > 0 && icmp.mtu() > 0 {
        icmp.set_mtu(icmp.mtu().saturating_sub(overhead_bytes).max(MTU_MIN.0));
    }
    icmp.set_checksum(0);
    let checksum = Sum::new().add_bytes(message).checksum();
    let (mut icmp, _) = Icmp::parse_mut(message).map_err(|_| DropReason::Internal)?;
    icmp.set_checksum(checksum);
    Ok(())
}

fn finish_v6(l3: &[u8], message: &mut [u8], overhead_bytes: u16) -> Result<(), DropReason> {
    let header = l3.first_chunk::<40>().ok_or(DropReason::Internal)?;
    let address = |at: usize| {
        let mut octets = [0; 16];
        octets.copy_from_slice(&header[at..at + 16]);
        std::net::Ipv6Addr::from(octets)
    };
    let pseudo = Sum::pseudo_v6(address(8), address(24), IpProtocol::ICMPV6, message.len() as u32);
    let (mut icmp, _) = Icmpv6::parse_mut(message).map_err(|_| DropReason::Internal)?;
    if icmp.icmp_type() == Icmpv6Type::PACKET_TOO_BIG && overhead_bytes > 0 {
        icmp.set_mtu(icmp.mtu().saturating_sub(u32::from(overhead_bytes)).max(MTU_MIN.1));
    }
    icmp.set_checksum(0);
    let checksum = pseudo.add_bytes(message).checksum();
    let (mut icmp, _) = Icmpv6::parse_mut(message).map_err(|_| DropReason::Internal)?;
    icmp.set_checksum(checksum);
    Ok(())
}
