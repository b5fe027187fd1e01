//! Answers of the director itself, made in place of the frame that asked for them.
//!
//! They go back the way the frame came: to its source MAC address, from its port. Source is the
//! address it was sent to, as in the kernel's answers (recordings noserver-*, ttl-*, mtu-*); of a
//! NAT server's reply, which was sent to the client, the port's own.

use super::burst::Slot;
use super::classify::{Kind, L3, Packet};
use super::flow::FlowKey;
use super::next_hop::push_vlan;
use super::segment::{self, Words, ipv4_header, ipv6_header};
use crate::counters::DropReason;
use crate::frame::Frame;
use crate::model::{NicModel, Snapshot};
use crate::wire::checksum::Sum;
use crate::wire::ethernet::{EtherType, Ethernet, MacAddr};
use crate::wire::icmp::{self, ICMP_HEADER_BYTES, Icmp, IcmpType};
use crate::wire::icmpv6::{self, Icmpv6, Icmpv6Type};
use crate::wire::ip::IpProtocol;
use crate::wire::ipv4::{IPV4_HEADER_BYTES, Ipv4};
use crate::wire::ipv6::IPV6_HEADER_BYTES;
use crate::wire::tcp::TcpFlags;
use std::net::IpAddr;

/// Largest IPv4 packet that carries an error (RFC 1812 section 4.3.2.3).
const ICMP_BYTES_MAX: usize = 576;
/// Largest IPv6 packet that carries an error: the least MTU (RFC 4443 section 2.4).
const ICMPV6_BYTES_MAX: usize = 1280;
/// Type of service of ICMP errors: internetwork control, as Linux sends them.
const TOS_CONTROL: u8 = 0xc0;

/// An ICMP error for both families.
struct IcmpReply {
    v4: (IcmpType, u8),
    v6: (Icmpv6Type, u8),
    mtu: Option<u16>,
}

const PORT_UNREACHABLE: IcmpReply = IcmpReply {
    v4: (IcmpType::UNREACHABLE, icmp::CODE_PORT_UNREACHABLE),
    v6: (Icmpv6Type::UNREACHABLE, icmpv6::CODE_PORT_UNREACHABLE),
    mtu: None,
};

/// No server: 3/3, or 1/4 for IPv6.
pub(super) fn port_unreachable(slot: &mut Slot, nic: &NicModel) -> Result<(), DropReason> {
    icmp_error(slot, nic, slot.packet.key.dst, &PORT_UNREACHABLE)
}

/// No flow for a NAT server's packet: as `port_unreachable`, from the port's own address, since the
/// packet was sent to the client.
pub(super) fn no_flow(slot: &mut Slot, nic: &NicModel) -> Result<(), DropReason> {
    let source = nic.own_address(slot.packet.key.dst.is_ipv4());
    let source = source.ok_or(DropReason::NoLocalAddress)?;
    icmp_error(slot, nic, source, &PORT_UNREACHABLE)
}

/// No way to the server: 3/1, or 1/3 for IPv6.
pub(super) fn host_unreachable(slot: &mut Slot, nic: &NicModel) -> Result<(), DropReason> {
    let reply = IcmpReply {
        v4: (IcmpType::UNREACHABLE, icmp::CODE_HOST_UNREACHABLE),
        v6: (Icmpv6Type::UNREACHABLE, icmpv6::CODE_ADDRESS_UNREACHABLE),
        mtu: None,
    };
    icmp_error(slot, nic, slot.packet.key.dst, &reply)
}

/// TTL or hop limit used up: 11/0, or 3/0 for IPv6.
pub(super) fn time_exceeded(
    slot: &mut Slot,
    nic: &NicModel,
    snapshot: &Snapshot,
) -> Result<(), DropReason> {
    let source = source(slot, nic, snapshot).ok_or(DropReason::TtlExpired)?;
    let reply = IcmpReply {
        v4: (IcmpType::TIME_EXCEEDED, icmp::CODE_TTL_EXPIRED),
        v6: (Icmpv6Type::TIME_EXCEEDED, icmpv6::CODE_HOP_LIMIT_EXPIRED),
        mtu: None,
    };
    icmp_error(slot, nic, source, &reply)
}

/// Larger than `mtu` allows: 3/4, or 2/0 for IPv6.
pub(super) fn too_big(
    slot: &mut Slot,
    (nic, snapshot): (&NicModel, &Snapshot),
    mtu: u16,
) -> Result<(), DropReason> {
    let source = source(slot, nic, snapshot).ok_or(DropReason::TooBig)?;
    let reply = IcmpReply {
        v4: (IcmpType::UNREACHABLE, icmp::CODE_FRAGMENTATION_NEEDED),
        v6: (Icmpv6Type::PACKET_TOO_BIG, 0),
        mtu: Some(mtu),
    };
    icmp_error(slot, nic, source, &reply)
}

/// Who answers: the service or local address that was meant, else the port itself, if it has an
/// address of that family.
fn source(slot: &Slot, nic: &NicModel, snapshot: &Snapshot) -> Option<IpAddr> {
    let meant = slot.packet.key.dst;
    if snapshot.vips.contains(&meant) || snapshot.lips.contains_key(&meant) {
        return Some(meant);
    }
    nic.own_address(meant.is_ipv4())
}

fn icmp_error(
    slot: &mut Slot,
    nic: &NicModel,
    source: IpAddr,
    reply: &IcmpReply,
) -> Result<(), DropReason> {
    let sender = source_mac(&slot.frame)?;
    compose(slot, source, reply)?;
    ethernet_header(&mut slot.frame, nic, sender, &slot.packet)?;
    push_vlan(&mut slot.frame, nic)
}

/// An error of the kinds of IPv4 about the frame's packet, all but the MAC addresses.
pub(super) fn compose_v4(
    slot: &mut Slot,
    source: IpAddr,
    (kind, code): (IcmpType, u8),
    mtu: Option<u16>,
) -> Result<(), DropReason> {
    let unused = (Icmpv6Type::UNREACHABLE, icmpv6::CODE_PORT_UNREACHABLE);
    compose(slot, source, &IcmpReply { v4: (kind, code), v6: unused, mtu })?;
    let (mut ethernet, _) =
        Ethernet::parse_mut(slot.frame.bytes_mut()).map_err(|_| DropReason::Internal)?;
    ethernet.set_ether_type(EtherType::IPV4);
    Ok(())
}

/// Puts the error's headers before the packet that it quotes. What the slot's packet said is gone.
fn compose(slot: &mut Slot, source: IpAddr, reply: &IcmpReply) -> Result<(), DropReason> {
    let Slot { frame, packet, .. } = slot;
    packet.kind = Kind::Other;
    let (header, max) = match packet.key.src {
        IpAddr::V4(_) => (IPV4_HEADER_BYTES + ICMP_HEADER_BYTES, ICMP_BYTES_MAX),
        IpAddr::V6(_) => (IPV6_HEADER_BYTES + ICMP_HEADER_BYTES, ICMPV6_BYTES_MAX),
    };
    // The quoted packet stays where it is; the new headers go before it.
    let ip_bytes = (packet.ip_bytes() + header).min(max);
    frame.grow_front(header).map_err(|_| DropReason::NoHeadroom)?;
    frame.set_len(L3 + ip_bytes).map_err(|_| DropReason::Internal)?;
    let l3 = frame.bytes_mut().get_mut(L3..).ok_or(DropReason::Internal)?;
    match (packet.key.src, source) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            ipv4_header(l3, dst, src, IpProtocol::ICMP)?;
            mark_as_control(l3)?;
            icmp_header(&mut l3[IPV4_HEADER_BYTES..], reply)?;
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            ipv6_header(l3, dst, src, IpProtocol::ICMPV6)?;
            let body = &mut l3[IPV6_HEADER_BYTES..];
            let sum = Sum::pseudo_v6(dst, src, IpProtocol::ICMPV6, body.len() as u32);
            icmpv6_header(body, reply, sum)?;
        }
        _ => return Err(DropReason::Internal),
    }
    Ok(())
}

/// Type of service, and the header checksum with it.
fn mark_as_control(l3: &mut [u8]) -> Result<(), DropReason> {
    let (mut ip, _) = Ipv4::parse_mut(l3).map_err(|_| DropReason::Internal)?;
    ip.set_tos(TOS_CONTROL);
    ip.set_checksum(ip.compute_checksum(&[]));
    Ok(())
}

fn icmp_header(body: &mut [u8], reply: &IcmpReply) -> Result<(), DropReason> {
    let (mut icmp, _) = Icmp::blank(body).map_err(|_| DropReason::Internal)?;
    icmp.set_type(reply.v4.0, reply.v4.1);
    if let Some(mtu) = reply.mtu {
        icmp.set_mtu(mtu);
    }
    let checksum = Sum::new().add_bytes(body).checksum();
    let (mut icmp, _) = Icmp::parse_mut(body).map_err(|_| DropReason::Internal)?;
    icmp.set_checksum(checksum);
    Ok(())
}

fn icmpv6_header(body: &mut [u8], reply: &IcmpReply, pseudo: Sum) -> Result<(), DropReason> {
    let (mut icmp, _) = Icmpv6::blank(body).map_err(|_| DropReason::Internal)?;
    icmp.set_type(reply.v6.0, reply.v6.1);
    if let Some(mtu) = reply.mtu {
        icmp.set_mtu(u32::from(mtu));
    }
    let checksum = pseudo.add_bytes(body).checksum();
    let (mut icmp, _) = Icmpv6::parse_mut(body).map_err(|_| DropReason::Internal)?;
    icmp.set_checksum(checksum);
    Ok(())
}

/// A reset in place of the segment it answers (RFC 9293 section 3.10.7.1), which is no reset
/// itself: those are never answered, and callers have a reason of their own to drop them.
pub(super) fn reset(slot: &mut Slot, nic: &NicModel) -> Result<(), DropReason> {
    let packet = &slot.packet;
    if packet.flags.contains(TcpFlags::RST) {
        return Err(DropReason::Internal);
    }
    let words = if packet.flags.contains(TcpFlags::ACK) {
        Words { seq: packet.ack, flags: TcpFlags::RST, ..Words::default() }
    } else {
        let ack = packet.seq.wrapping_add(packet.sequence_bytes());
        Words { ack, flags: TcpFlags::RST | TcpFlags::ACK, ..Words::default() }
    };
    answer(slot, nic, &words)
}

/// Turns the frame into a bare segment back to its sender.
pub(super) fn answer(slot: &mut Slot, nic: &NicModel, words: &Words) -> Result<(), DropReason> {
    let Slot { frame, packet, .. } = slot;
    let sender = source_mac(frame)?;
    let FlowKey { src, dst, src_port, dst_port, .. } = packet.key;
    let back = FlowKey { src: dst, dst: src, src_port: dst_port, dst_port: src_port, ..packet.key };
    segment::write(frame, &back, words)?;
    ethernet_header(frame, nic, sender, packet)?;
    push_vlan(frame, nic)
}

fn source_mac(frame: &Frame) -> Result<MacAddr, DropReason> {
    let (ethernet, _) = Ethernet::parse(frame.bytes()).map_err(|_| DropReason::Truncated)?;
    Ok(ethernet.src())
}

fn ethernet_header(
    frame: &mut Frame,
    nic: &NicModel,
    to: MacAddr,
    packet: &Packet,
) -> Result<(), DropReason> {
    let (mut ethernet, _) =
        Ethernet::parse_mut(frame.bytes_mut()).map_err(|_| DropReason::Internal)?;
    ethernet.set_dst(to);
    ethernet.set_src(MacAddr(nic.mac));
    ethernet.set_ether_type(if packet.key.src.is_ipv4() {
        EtherType::IPV4
    } else {
        EtherType::IPV6
    });
    Ok(())
}
