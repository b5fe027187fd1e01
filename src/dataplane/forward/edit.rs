//! Edits that modes share: addresses, ports, TTL, and the checksums that follow from them.

use std::net::IpAddr;

use super::super::classify::{Kind, L3, Packet, Piece};
use super::quoted::{self, ErrorEdit};
use crate::counters::DropReason;
use crate::model::Protocol;
use crate::wire::checksum::{ChecksumDelta, Sum};
use crate::wire::ip::IpProtocol;
use crate::wire::ipv4::Ipv4;
use crate::wire::ipv6::Ipv6;
use crate::wire::tcp::Tcp;
use crate::wire::udp::Udp;

/// New endpoints of a packet.
#[derive(Clone, Copy, Debug)]
pub struct Endpoints {
    /// Source address and port.
    pub src: (IpAddr, u16),
    /// Destination address and port.
    pub dst: (IpAddr, u16),
}

/// TTL or hop limit less one.
pub fn decrement_ttl(bytes: &mut [u8], packet: &Packet) -> Result<(), DropReason> {
    let l3 = bytes.get_mut(L3..).ok_or(DropReason::Internal)?;
    if packet.key.src.is_ipv4() {
        Ipv4::parse_mut(l3).map_err(|_| DropReason::Internal)?.0.decrement_ttl();
    } else {
        Ipv6::parse_mut(l3).map_err(|_| DropReason::Internal)?.0.decrement_hop_limit();
    }
    Ok(())
}

/// Replaces all four parts of the tuple and patches IP and transport checksums (RFC 1624): a
/// wrong checksum stays wrong, a UDP checksum of zero stays zero. The first piece of a fragmented
/// datagram has the checksum for all; a later one just gets its addresses. An ICMP error is
/// translated with the packet that it quotes.
///
/// The families of old and new addresses must agree.
pub fn endpoints(bytes: &mut [u8], packet: &Packet, to: &Endpoints) -> Result<(), DropReason> {
    if packet.kind == Kind::IcmpError {
        return quoted::translate(bytes, packet, &ErrorEdit::of(to));
    }
    let delta = route(bytes, Some(to.src.0), to.dst.0)?;
    if let Some(piece) = packet.piece.filter(|_| is_twice_changed(packet, to)) {
        renumber(bytes, &piece)?;
    }
    if packet.kind == Kind::Fragment {
        return Ok(());
    }
    transport(bytes, packet, to, delta)
}

/// New ports, and the checksum that follows from them and from `delta`, what new addresses change.
pub(super) fn transport(
    bytes: &mut [u8],
    packet: &Packet,
    to: &Endpoints,
    delta: ChecksumDelta,
) -> Result<(), DropReason> {
    let delta =
        delta.replace_u16(packet.key.src_port, to.src.1).replace_u16(packet.key.dst_port, to.dst.1);
    let l4 = bytes.get_mut(packet.l4..).ok_or(DropReason::Internal)?;
    match packet.key.protocol {
        Protocol::Tcp => {
            let (mut tcp, _) = Tcp::parse_mut(l4).map_err(|_| DropReason::Internal)?;
            tcp.set_src_port(to.src.1);
            tcp.set_dst_port(to.dst.1);
            tcp.set_checksum(delta.apply(tcp.checksum()));
        }
        Protocol::Udp => {
            let (mut udp, _) = Udp::parse_mut(l4).map_err(|_| DropReason::Internal)?;
            udp.set_src_port(to.src.1);
            udp.set_dst_port(to.dst.1);
            udp.set_checksum(delta.apply_udp(udp.checksum()));
        }
    }
    Ok(())
}

/// Gives a UDP datagram that came without a checksum one, computed in full. A fragment has not all
/// that it covers: it goes without.
pub fn fill_udp_checksum(bytes: &mut [u8], packet: &Packet) -> Result<(), DropReason> {
    if packet.piece.is_some() {
        return Ok(());
    }
    let body = bytes.get(packet.l4..packet.end).ok_or(DropReason::Internal)?;
    let (udp, _) = Udp::parse(body).map_err(|_| DropReason::Internal)?;
    if udp.checksum() != 0 {
        return Ok(());
    }
    // RFC 768: the checksum covers what the datagram's own length says.
    let datagram = body.get(..usize::from(udp.length())).ok_or(DropReason::Internal)?;
    let l3 = bytes.get(L3..).ok_or(DropReason::Internal)?;
    let pseudo = if packet.key.src.is_ipv4() {
        let (ip, _) = Ipv4::parse(l3).map_err(|_| DropReason::Internal)?;
        Sum::pseudo_v4(ip.src(), ip.dst(), IpProtocol::UDP, udp.length())
    } else {
        let (ip, _) = Ipv6::parse(l3).map_err(|_| DropReason::Internal)?;
        Sum::pseudo_v6(ip.src(), ip.dst(), IpProtocol::UDP, u32::from(udp.length()))
    };
    let checksum = pseudo.add_bytes(datagram).udp_checksum();
    let l4 = bytes.get_mut(packet.l4..).ok_or(DropReason::Internal)?;
    let (mut udp, _) = Udp::parse_mut(l4).map_err(|_| DropReason::Internal)?;
    udp.set_checksum(checksum);
    Ok(())
}

/// Whether neither endpoint stays: FULLNAT.
fn is_twice_changed(packet: &Packet, to: &Endpoints) -> bool {
    let key = &packet.key;
    to.src != (key.src, key.src_port) && to.dst != (key.dst, key.dst_port)
}

/// Gives a fragment another identification. Many senders' datagrams go between the same two
/// addresses once the director stands for them; their own numbers would meet.
fn renumber(bytes: &mut [u8], piece: &Piece) -> Result<(), DropReason> {
    let Some(id) = piece.new_id.map(u32::from) else { return Ok(()) };
    let l3 = bytes.get_mut(L3..).ok_or(DropReason::Internal)?;
    if let Ok((mut ip, _)) = Ipv4::parse_mut(l3) {
        let delta = ChecksumDelta::new().replace_u16(ip.id(), id as u16);
        ip.set_id(id as u16);
        ip.set_checksum(delta.apply(ip.checksum()));
        return Ok(());
    }
    // The identification ends the fragment header, behind which the piece's body starts.
    let end = usize::from(piece.body);
    let field = bytes.get_mut(end.saturating_sub(4)..end).ok_or(DropReason::Internal)?;
    field.copy_from_slice(&id.to_be_bytes());
    Ok(())
}

/// Replaces the IP addresses (a source of none stays) and patches IPv4's own checksum; the delta
/// is for the transport's.
pub(super) fn route(
    bytes: &mut [u8],
    src: Option<IpAddr>,
    dst: IpAddr,
) -> Result<ChecksumDelta, DropReason> {
    let l3 = bytes.get_mut(L3..).ok_or(DropReason::Internal)?;
    match (src, dst) {
        (None | Some(IpAddr::V4(_)), IpAddr::V4(dst)) => {
            let (mut ip, _) = Ipv4::parse_mut(l3).map_err(|_| DropReason::Internal)?;
            let src = match src {
                Some(IpAddr::V4(src)) => src,
                _ => ip.src(),
            };
            let delta = ChecksumDelta::new()
                .replace_u32(ip.src().into(), src.into())
                .replace_u32(ip.dst().into(), dst.into());
            ip.set_src(src);
            ip.set_dst(dst);
            ip.set_checksum(delta.apply(ip.checksum()));
            Ok(delta)
        }
        (None | Some(IpAddr::V6(_)), IpAddr::V6(dst)) => {
            let (mut ip, _) = Ipv6::parse_mut(l3).map_err(|_| DropReason::Internal)?;
            let src = match src {
                Some(IpAddr::V6(src)) => src,
                _ => ip.src(),
            };
            let delta = ChecksumDelta::new()
                .replace_bytes(&ip.src_bytes(), &src.octets())
                .replace_bytes(&ip.dst_bytes(), &dst.octets());
            ip.set_src(src);
            ip.set_dst(dst);
            Ok(delta)
        }
        _ => Err(DropReason::Internal),
    }
}
