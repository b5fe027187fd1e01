//! First stage: parse once. Facts about the packet, or why it is dropped.
//!
//! Only the frame and its port are looked at, no flow and no service: what is wrong here is wrong
//! for everybody, the kernel included.

use std::net::IpAddr;
use std::num::NonZeroU32;

use super::burst::{RxMeta, Slot};
use super::flow::FlowKey;
use crate::counters::DropReason;
use crate::frame::Frame;
use crate::model::{NicModel, Protocol, Snapshot};
use crate::wire::WireError;
use crate::wire::ethernet::{ETHERNET_HEADER_BYTES, EtherType, Ethernet, MacAddr};
use crate::wire::icmp::{ICMP_HEADER_BYTES, IcmpType};
use crate::wire::icmpv6::Icmpv6Type;
use crate::wire::ip::{Fragment, IpProtocol};
use crate::wire::ipv4::{IPV4_HEADER_BYTES, Ipv4};
use crate::wire::ipv6::{IPV6_HEADER_BYTES, Ipv6, is_extension, walk_extensions};
use crate::wire::tcp::{SeqNum, Tcp, TcpFlags};
use crate::wire::transport::{TRANSPORT_START_BYTES, TransportStart};
use crate::wire::udp::{UDP_HEADER_BYTES, Udp};
use crate::wire::vlan::{VLAN_TAG_BYTES, Vlan};

/// What kind of handling a packet wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Whole TCP or UDP: `key` is set.
    Transport,
    /// A piece of a TCP or UDP datagram: `piece` is set, of the tuple only the addresses, until
    /// its flow is known.
    Fragment,
    /// An ICMP error of a kind that is relayed. `key` is the quoted packet's reversed: the tuple
    /// of packets that go the error's way. `seq` is the quoted one.
    IcmpError,
    /// An ICMP error about a packet in a tunnel. `key` is the tuple of the packet inside, as its
    /// client sent it, and `payload` where that packet starts.
    TunnelError,
    /// Nothing gyre forwards: ARP, ND, echo, other protocols, multicast.
    Other,
}

/// Where a fragment belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its place in the datagram.
    pub place: Fragment,
    /// Where its part of the datagram starts in the frame.
    pub body: u16,
    /// Identification to send it on with, where the director becomes its sender.
    pub new_id: Option<NonZeroU32>,
}

/// Parsed facts. Offsets count from the frame's first byte.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    /// Handling.
    pub kind: Kind,
    /// Tuple.
    pub key: FlowKey,
    /// Start of the transport header.
    pub l4: usize,
    /// Start of the payload.
    pub payload: usize,
    /// End of the IP packet; link padding lies behind.
    pub end: usize,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TCP control bits; none for UDP.
    pub flags: TcpFlags,
    /// TCP sequence number.
    pub seq: SeqNum,
    /// TCP acknowledgment number.
    pub ack: SeqNum,
    /// Set when it is not the whole datagram.
    pub piece: Option<Piece>,
}

/// Start of the IP header: tags are stripped before.
pub const L3: usize = ETHERNET_HEADER_BYTES;

const _: () = assert!(size_of::<Option<Piece>>() == 16, "every packet has one");

impl Packet {
    /// What an unclassified slot holds.
    pub const UNSET: Packet = Packet {
        kind: Kind::Other,
        key: FlowKey::UNSET,
        l4: 0,
        payload: 0,
        end: 0,
        ttl: 0,
        flags: TcpFlags::NONE,
        seq: SeqNum(0),
        ack: SeqNum(0),
        piece: None,
    };

    /// Size of the IP packet in bytes.
    pub fn ip_bytes(&self) -> usize {
        self.end.saturating_sub(L3)
    }

    /// Size of the payload in bytes.
    pub fn payload_bytes(&self) -> usize {
        self.end.saturating_sub(self.payload)
    }

    /// Sequence space that the segment takes: payload, SYN and FIN.
    pub fn sequence_bytes(&self) -> u32 {
        let syn = u32::from(self.flags.contains(TcpFlags::SYN));
        let fin = u32::from(self.flags.contains(TcpFlags::FIN));
        self.payload_bytes() as u32 + syn + fin
    }
}

/// Finds out what a frame is.
pub(super) fn frame(slot: &mut Slot, snapshot: &Snapshot) -> Result<(), DropReason> {
    let nic = snapshot.nics.get(slot.rx.nic.index()).ok_or(DropReason::Internal)?;
    one(&mut slot.frame, &slot.rx, nic, &mut slot.packet)
}

/// Facts are written where they stay: copying a structure whose small fields have just been stored
/// stalls the processor, as loads cannot be served from several stores under way.
#[inline]
fn one(
    frame: &mut Frame,
    rx: &RxMeta,
    nic: &NicModel,
    packet: &mut Packet,
) -> Result<(), DropReason> {
    // A frame from another worker, or one that was kept, is untagged already.
    if !rx.was_handed_off() && !rx.resumed {
        strip_vlan(frame, rx, nic)?;
    }
    let bytes = frame.bytes();
    let (ethernet, l3) = Ethernet::parse(bytes).map_err(|_| DropReason::Truncated)?;
    if ethernet.src() == MacAddr(nic.mac) {
        return Err(DropReason::OwnFrame);
    }
    if ethernet.dst().is_multicast() {
        return Ok(());
    }
    if ethernet.dst() != MacAddr(nic.mac) {
        return Err(DropReason::NotForUs);
    }
    match ethernet.ether_type() {
        EtherType::IPV4 => ipv4(l3, packet),
        EtherType::IPV6 => ipv6(l3, packet),
        _ => Ok(()),
    }
}

/// Checks the frame's tag against the port's VLAN and takes it off, so that all stages see plain
/// Ethernet. Ports without a VLAN leave tagged frames to the kernel as they are.
fn strip_vlan(frame: &mut Frame, rx: &RxMeta, nic: &NicModel) -> Result<(), DropReason> {
    let Some(wanted) = nic.vlan else { return Ok(()) };
    if let Some(stripped) = rx.vlan {
        return if stripped & 0x0fff == wanted { Ok(()) } else { Err(DropReason::WrongVlan) };
    }
    let (ethernet, rest) = Ethernet::parse(frame.bytes()).map_err(|_| DropReason::Truncated)?;
    if ethernet.ether_type() != EtherType::VLAN {
        return Err(DropReason::WrongVlan);
    }
    let (tag, _) = Vlan::parse(rest).map_err(|_| DropReason::Truncated)?;
    if tag.id() != wanted {
        return Err(DropReason::WrongVlan);
    }
    // The tag lies behind the two addresses: those move back over it.
    frame.close_gap(2 * 6, VLAN_TAG_BYTES).map_err(|_| DropReason::Truncated)
}

fn ip_error(error: WireError) -> DropReason {
    match error {
        WireError::Truncated | WireError::BadTotalLength => DropReason::Truncated,
        WireError::BadVersion => DropReason::BadIpVersion,
        WireError::BadChecksum => DropReason::BadIpChecksum,
        _ => DropReason::BadIpHeader,
    }
}

#[inline]
fn ipv4(l3: &[u8], packet: &mut Packet) -> Result<(), DropReason> {
    let (ip, options, payload) = Ipv4::parse_with_options(l3).map_err(ip_error)?;
    ip.verify_checksum(options).map_err(ip_error)?;
    let l4 = L3 + IPV4_HEADER_BYTES + options.len();
    (packet.key.src, packet.key.dst) = (ip.src().into(), ip.dst().into());
    (packet.l4, packet.payload, packet.end) = (l4, l4, l4 + payload.len());
    packet.ttl = ip.ttl();
    if let Some(place) = ip.fragment() {
        if let Some(protocol) = transport_protocol(ip.protocol()) {
            fragment(packet, Piece { place, body: l4 as u16, new_id: None }, protocol);
        }
        return Ok(());
    }
    match ip.protocol() {
        IpProtocol::ICMP if is_relayed_v4(payload) => {
            about(packet, quoted_v4(payload));
            if packet.kind != Kind::IcmpError
                && payload.first() != Some(&IcmpType::PARAMETER_PROBLEM.0)
                && let Some(facts) = wrapped(payload, packet)
            {
                *packet = facts;
            }
        }
        IpProtocol::ICMP => {}
        protocol => return transport(packet, protocol, payload),
    }
    Ok(())
}

fn ipv6(l3: &[u8], packet: &mut Packet) -> Result<(), DropReason> {
    let (ip, payload) = Ipv6::parse(l3).map_err(ip_error)?;
    let upper = walk_extensions(ip.next_header(), payload).map_err(ip_error)?;
    let l4 = L3 + IPV6_HEADER_BYTES + upper.offset_bytes;
    (packet.key.src, packet.key.dst) = (ip.src().into(), ip.dst().into());
    (packet.l4, packet.payload, packet.end) = (l4, l4, L3 + IPV6_HEADER_BYTES + payload.len());
    packet.ttl = ip.hop_limit();
    let body = payload.get(upper.offset_bytes..).ok_or(DropReason::Truncated)?;
    if let Some(place) = upper.fragment.filter(|place| !place.is_atomic()) {
        let body = L3 + IPV6_HEADER_BYTES + upper.fragmentable_bytes;
        let piece = Piece { place, body: body as u16, new_id: None };
        // A later piece may name an extension header instead: what follows it is not known here.
        let hides = !place.is_first() && is_extension(upper.protocol);
        match transport_protocol(upper.protocol) {
            Some(protocol) => fragment(packet, piece, protocol),
            None if hides => fragment(packet, piece, Protocol::Udp),
            None => {}
        }
        return Ok(());
    }
    match upper.protocol {
        IpProtocol::ICMPV6 => {
            if Icmpv6Type(body.first().copied().unwrap_or(u8::MAX)).is_error() {
                about(packet, quoted_v6(body));
                if packet.kind != Kind::IcmpError
                    && let Some(facts) = wrapped(body, packet)
                {
                    *packet = facts;
                }
            }
        }
        // With segments left, the destination is not this address's: the kernel's business.
        _ if upper.segments_left > 0 => {}
        protocol => return transport(packet, protocol, body),
    }
    Ok(())
}

fn transport_protocol(protocol: IpProtocol) -> Option<Protocol> {
    match protocol {
        IpProtocol::TCP => Some(Protocol::Tcp),
        IpProtocol::UDP => Some(Protocol::Udp),
        _ => None,
    }
}

fn fragment(packet: &mut Packet, piece: Piece, protocol: Protocol) {
    packet.kind = Kind::Fragment;
    packet.key.protocol = protocol;
    packet.piece = Some(piece);
}

/// The facts of a datagram's first piece, as a packet's. `FragmentTiny` when the transport header
/// is not all there.
pub(super) fn first_piece(bytes: &[u8], packet: &Packet) -> Result<Packet, DropReason> {
    let body = bytes.get(packet.l4..packet.end).ok_or(DropReason::Internal)?;
    let protocol = match packet.key.protocol {
        Protocol::Tcp => IpProtocol::TCP,
        Protocol::Udp => IpProtocol::UDP,
    };
    let mut facts = *packet;
    transport(&mut facts, protocol, body).map_err(|_| DropReason::FragmentTiny)?;
    Ok(facts)
}

#[inline]
fn transport(packet: &mut Packet, protocol: IpProtocol, body: &[u8]) -> Result<(), DropReason> {
    let Some(protocol) = transport_protocol(protocol) else { return Ok(()) };
    packet.kind = Kind::Transport;
    packet.key.protocol = protocol;
    match protocol {
        Protocol::Tcp => {
            let (tcp, payload) = Tcp::parse(body).map_err(|_| DropReason::BadTransportHeader)?;
            packet.key.src_port = tcp.src_port();
            packet.key.dst_port = tcp.dst_port();
            packet.payload = packet.end - payload.len();
            packet.flags = tcp.flags();
            packet.seq = tcp.sequence();
            packet.ack = tcp.acknowledgment();
        }
        Protocol::Udp => {
            let (udp, rest) = Udp::parse(body).map_err(|_| DropReason::BadTransportHeader)?;
            packet.key.src_port = udp.src_port();
            packet.key.dst_port = udp.dst_port();
            // RFC 768: header and data. Shorter than the packet is legal, longer is not.
            let length = usize::from(udp.length());
            let has_all = packet.piece.is_some() || length <= body.len();
            if length < UDP_HEADER_BYTES || !has_all {
                return Err(DropReason::BadTransportHeader);
            }
            packet.payload = packet.end - rest.len();
        }
    }
    Ok(())
}

/// Whether errors of this kind may be relayed: of IPv6's all, of IPv4's the three that the kernel
/// relays (recordings icmp-*; redirects are the host's), and parameter problems, which an IPv6
/// client's flow has relayed.
fn is_relayed_v4(icmp: &[u8]) -> bool {
    let kind = IcmpType(icmp.first().copied().unwrap_or(0));
    matches!(
        kind,
        IcmpType::UNREACHABLE
            | IcmpType::SOURCE_QUENCH
            | IcmpType::TIME_EXCEEDED
            | IcmpType::PARAMETER_PROBLEM
    )
}

/// An error about a packet of which enough is quoted; else just a packet.
fn about(packet: &mut Packet, quoted: Option<(FlowKey, SeqNum)>) {
    if let Some((key, seq)) = quoted {
        (packet.kind, packet.key, packet.seq) = (Kind::IcmpError, key, seq);
    }
}

/// The reversed tuple and the sequence number of a quoted packet.
fn quoted(
    protocol: IpProtocol,
    (src, dst): (IpAddr, IpAddr),
    body: &[u8],
) -> Option<(FlowKey, SeqNum)> {
    let protocol = transport_protocol(protocol)?;
    let (start, _) = TransportStart::parse(body.get(..TRANSPORT_START_BYTES)?).ok()?;
    let (src_port, dst_port) = (start.dst_port(), start.src_port());
    Some((FlowKey { protocol, src: dst, dst: src, src_port, dst_port }, start.tcp_sequence()))
}

fn quoted_v4(icmp: &[u8]) -> Option<(FlowKey, SeqNum)> {
    let (ip, body) = Ipv4::parse_quoted(icmp.get(ICMP_HEADER_BYTES..)?).ok()?;
    if ip.fragment().is_some_and(|piece| !piece.is_first()) {
        return None;
    }
    quoted(ip.protocol(), (ip.src().into(), ip.dst().into()), body)
}

/// The facts of an error about a tunnel's packet, plain or by GRE or GUE: about the one inside.
/// Tunnels whose headers say more than gyre writes are others'.
pub(super) fn wrapped(icmp: &[u8], packet: &Packet) -> Option<Packet> {
    let outer = outer(icmp)?;
    let (between, inner_is_ipv4) = between(outer.protocol, outer.body)?;
    let inside = outer.body.get(between..)?;
    let (reversed, seq) = if inner_is_ipv4 {
        let (inner, rest) = Ipv4::parse_quoted(inside).ok()?;
        quoted(inner.protocol(), (inner.src().into(), inner.dst().into()), rest)?
    } else {
        quoted_inside_v6(inside)?
    };
    let FlowKey { src, dst, src_port, dst_port, .. } = reversed;
    let key = FlowKey { src: dst, dst: src, src_port: dst_port, dst_port: src_port, ..reversed };
    let payload = packet.l4 + ICMP_HEADER_BYTES + outer.header_bytes + between;
    Some(Packet { kind: Kind::TunnelError, key, seq, payload, ..*packet })
}

/// Where an error about a tunnel's packet says that packet was going.
pub(super) fn wrapped_to(icmp: &[u8]) -> Option<IpAddr> {
    outer(icmp).map(|outer| outer.dst)
}

/// A tunnel's own header, as an error quotes it.
struct Outer<'i> {
    protocol: IpProtocol,
    dst: IpAddr,
    header_bytes: usize,
    body: &'i [u8],
}

fn outer(icmp: &[u8]) -> Option<Outer<'_>> {
    let quoted = icmp.get(ICMP_HEADER_BYTES..)?;
    if let Ok((ip, body)) = Ipv6::parse_quoted(quoted) {
        let (protocol, dst) = (ip.next_header(), ip.dst().into());
        return Some(Outer { protocol, dst, header_bytes: IPV6_HEADER_BYTES, body });
    }
    let (ip, body) = Ipv4::parse_quoted(quoted).ok()?;
    if ip.fragment().is_some_and(|piece| !piece.is_first()) {
        return None;
    }
    let (protocol, dst) = (ip.protocol(), ip.dst().into());
    Some(Outer { protocol, dst, header_bytes: ip.header_bytes(), body })
}

/// Bytes between a tunnel's outer and inner header, and whether the inner one is IPv4.
fn between(protocol: IpProtocol, body: &[u8]) -> Option<(usize, bool)> {
    match protocol {
        IpProtocol::IPV4 => Some((0, true)),
        IpProtocol::IPV6 => Some((0, false)),
        IpProtocol::GRE => match *body.first_chunk::<4>()? {
            [0, 0, 0x08, 0x00] => Some((4, true)),
            [0x80, 0, 0x08, 0x00] => Some((8, true)),
            [0, 0, 0x86, 0xdd] => Some((4, false)),
            [0x80, 0, 0x86, 0xdd] => Some((8, false)),
            _ => None,
        },
        IpProtocol::UDP => match *body.get(UDP_HEADER_BYTES..)?.first_chunk::<4>()? {
            [0, 4, 0, 0] => Some((UDP_HEADER_BYTES + 4, true)),
            [0, 41, 0, 0] => Some((UDP_HEADER_BYTES + 4, false)),
            _ => None,
        },
        _ => None,
    }
}

fn quoted_v6(icmp: &[u8]) -> Option<(FlowKey, SeqNum)> {
    quoted_inside_v6(icmp.get(ICMP_HEADER_BYTES..)?)
}

fn quoted_inside_v6(l3: &[u8]) -> Option<(FlowKey, SeqNum)> {
    let (ip, body) = Ipv6::parse_quoted(l3).ok()?;
    let upper = walk_extensions(ip.next_header(), body).ok()?;
    if upper.fragment.is_some_and(|piece| !piece.is_first()) {
        return None;
    }
    quoted(upper.protocol, (ip.src().into(), ip.dst().into()), body.get(upper.offset_bytes..)?)
}
