//! TUN: the packet travels whole inside another one, from the director to the server. Only the
//! client's direction passes here; the server answers as in DR.
//!
//! The outer header's fields are the kernel's (recordings tun*, ttl-tun*, mtu-tun*): TTL of the
//! inner packet as it goes on, its traffic class with a congestion mark turned into ECT(0), its
//! "do not fragment".

use std::net::IpAddr;

use super::super::burst::{Slot, Verdict};
use super::super::classify::{Kind, L3, Packet};
use super::super::flow::{Direction, FlowCore};
use super::super::flow_table::Hit;
use super::super::fragment;
use super::super::next_hop;
use super::super::segment::{ipv4_header, ipv6_header};
use super::super::state::WorkerState;
use super::pieces;
use super::{edit, may_be_cut, too_big_inbound};
use crate::counters::DropReason;
use crate::frame::Frame;
use crate::model::{GueChecksum, Snapshot, Tunnel};
use crate::wire::checksum::Sum;
use crate::wire::ethernet::{EtherType, Ethernet};
use crate::wire::gre::{GRE_CHECKSUM_BYTES, GRE_HEADER_BYTES, Gre};
use crate::wire::gue::{GUE_HEADER_BYTES, Gue};
use crate::wire::ip::IpProtocol;
use crate::wire::ipv4::{DONT_FRAGMENT, IPV4_HEADER_BYTES, Ipv4};
use crate::wire::ipv6::{IPV6_HEADER_BYTES, IPV6_MTU_MIN, Ipv6};
use crate::wire::udp::{UDP_HEADER_BYTES, Udp};

/// Where a GUE tunnel's source ports begin, and how many there are: Linux's local port range.
const SRC_PORTS: (u16, u16) = (32_768, 28_232);
/// Congestion bits of a traffic class (RFC 3168): the mask, "experienced", ECT(0).
const ECN: (u8, u8, u8) = (0b11, 0b11, 0b10);

/// What goes around a packet.
#[derive(Clone, Copy, Debug)]
pub struct Wrapping {
    /// Kind of tunnel.
    pub tunnel: Tunnel,
    /// The director, in the server's family.
    pub src: IpAddr,
    /// The server.
    pub dst: IpAddr,
    /// GUE's source port: it spreads flows over the server's queues.
    pub src_port: u16,
    /// Identification of an outer IPv4 header that may be cut into pieces.
    pub id: u16,
    /// Whether "do not fragment" is handed on (`pmtu_disc`).
    pub keeps_df: bool,
}

pub(super) fn rewrite(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    slot: &mut Slot,
    hit: Hit,
    core: &FlowCore,
) -> Result<Verdict, DropReason> {
    let hop = core.hop(Direction::Inbound);
    let wrapping = wrapping(state, snapshot, slot, hit)?;
    let packet: Packet = slot.packet;
    let mtu = next_hop::path_mtu(state, hop);
    let inner_mtu = mtu.map(|mtu| mtu.saturating_sub(wrapping.overhead_bytes()));
    let fits = inner_mtu.is_none_or(|mtu| packet.ip_bytes() <= usize::from(mtu));
    if let Some(told) = inner_mtu.and_then(|mtu| refused(slot, &wrapping, mtu)) {
        return too_big_inbound(state, snapshot, slot, (core, told));
    }
    if packet.piece.is_some() {
        return gather(state, snapshot, slot, (core, &wrapping));
    }
    if core.decrements_ttl() {
        edit::decrement_ttl(slot.frame.bytes_mut(), &packet)?;
    }
    // Link padding stays outside.
    slot.frame.set_len(packet.end).map_err(|_| DropReason::Internal)?;
    encapsulate(&mut slot.frame, &wrapping)?;
    match mtu.filter(|_| !fits) {
        Some(mtu) => pieces::send(state, snapshot, &mut slot.frame, (hop, mtu)),
        None => next_hop::finish(state, snapshot, &mut slot.frame, hop),
    }
}

/// The MTU to tell the sender of a packet that the tunnel, which holds `inner_mtu` bytes, cannot
/// carry; none where it goes, its outer packet cut if need be. No IPv6 path is narrower than 1280
/// bytes: hosts believe nobody who says so (RFC 8201 section 4), and what is no larger is cut
/// outside (RFC 2473 section 7.1).
fn refused(slot: &Slot, wrapping: &Wrapping, inner_mtu: u16) -> Option<u16> {
    let packet = &slot.packet;
    let is_ipv4 = packet.key.src.is_ipv4();
    let told = if is_ipv4 { inner_mtu } else { inner_mtu.max(IPV6_MTU_MIN) };
    let fits = packet.ip_bytes() <= usize::from(told);
    let is_cut = may_be_cut(slot) || is_ipv4 && !wrapping.keeps_df;
    (!fits && packet.kind != Kind::IcmpError && !is_cut).then_some(told)
}

/// A piece of a datagram: the tunnel carries datagrams whole, and its own packets are cut.
fn gather(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    slot: &Slot,
    (core, wrapping): (&FlowCore, &Wrapping),
) -> Result<Verdict, DropReason> {
    let hop_id = core.hop(Direction::Inbound);
    let mtu = next_hop::path_mtu(state, hop_id).ok_or(DropReason::NextHopPending)?;
    let hop = *next_hop::get(state, hop_id).ok_or(DropReason::NextHopPending)?;
    let nic = snapshot.nics.get(hop.nic.index()).ok_or(DropReason::Internal)?;
    if !fragment::gather(state, slot)? {
        return Ok(Verdict::Parked);
    }
    let link = pieces::Link { hop: &hop, nic, id: state.next_fragment_id() };
    let WorkerState { fragments, outbox, .. } = state;
    let (mut frame, pieces) = fragments.whole();
    if core.decrements_ttl() {
        edit::decrement_ttl(frame.bytes_mut(), &slot.packet)?;
    }
    encapsulate(&mut frame, wrapping)?;
    let lengths = pieces.recut(
        between_bytes(wrapping.tunnel),
        wrapping.dst.is_ipv4(),
        mtu.min(pieces::OUTBOX_IP_BYTES as u16),
    );
    pieces::send_all(outbox, &link, &frame, &lengths)?;
    Ok(Verdict::Parked)
}

/// What goes around the packets of a flow.
pub(in super::super) fn wrapping(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    slot: &Slot,
    hit: Hit,
) -> Result<Wrapping, DropReason> {
    let core: FlowCore = *state.flows.core(hit.id).ok_or(DropReason::Internal)?;
    let dst = state.flows.addresses(hit.id).ok_or(DropReason::Internal)?.server;
    wrapping_of(state, snapshot, &core, (slot.packet.key.src, dst))
}

/// As `wrapping`, for a packet of that client to that server.
pub(in super::super) fn wrapping_of(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    core: &FlowCore,
    (client, dst): (IpAddr, IpAddr),
) -> Result<Wrapping, DropReason> {
    let hop = next_hop::get(state, core.hop(Direction::Inbound)).ok_or(DropReason::Internal)?;
    let nic = snapshot.nics.get(hop.nic.index()).ok_or(DropReason::Internal)?;
    let src = nic.own_address(dst.is_ipv4()).ok_or(DropReason::NoLocalAddress)?;
    let tunnel = core.tunnel();
    let src_port = match tunnel {
        Tunnel::Gue { .. } => src_port(client, core),
        Tunnel::Ipip | Tunnel::Gre { .. } => 0,
    };
    let (id, keeps_df) = (state.next_ip_id(), snapshot.semantics.pmtu_disc);
    Ok(Wrapping { tunnel, src, dst, src_port, id, keeps_df })
}

/// A source port that is one flow's for life.
fn src_port(client: IpAddr, core: &FlowCore) -> u16 {
    let client = match client {
        IpAddr::V4(v4) => u32::from(v4),
        IpAddr::V6(v6) => {
            let bits = u128::from(v6);
            (bits ^ bits >> 32 ^ bits >> 64 ^ bits >> 96) as u32
        }
    };
    let ports = u32::from(core.client_port()) << 16 | u32::from(core.virtual_port());
    let mixed = (client ^ ports.rotate_left(7)).wrapping_mul(0x61c8_8647);
    SRC_PORTS.0 + ((mixed >> 16) % u32::from(SRC_PORTS.1)) as u16
}

impl Wrapping {
    /// Bytes that the tunnel adds.
    pub fn overhead_bytes(&self) -> u16 {
        overhead_bytes(self.tunnel, self.dst.is_ipv4())
    }
}

/// Bytes that a tunnel to a server of that family adds.
pub(in super::super) fn overhead_bytes(tunnel: Tunnel, is_ipv4: bool) -> u16 {
    let outer = if is_ipv4 { IPV4_HEADER_BYTES } else { IPV6_HEADER_BYTES };
    (outer + between_bytes(tunnel)) as u16
}

/// Bytes between the outer IP header and the inner one.
fn between_bytes(tunnel: Tunnel) -> usize {
    match tunnel {
        Tunnel::Ipip => 0,
        Tunnel::Gre { checksum: false } => GRE_HEADER_BYTES,
        Tunnel::Gre { checksum: true } => GRE_HEADER_BYTES + GRE_CHECKSUM_BYTES,
        Tunnel::Gue { .. } => UDP_HEADER_BYTES + GUE_HEADER_BYTES,
    }
}

/// What the outer header takes from the inner one.
struct Inner {
    is_ipv4: bool,
    ttl: u8,
    class: u8,
    dont_fragment: bool,
}

impl Inner {
    fn of(bytes: &[u8]) -> Result<Self, DropReason> {
        if let Ok((ip, _)) = Ipv4::parse(bytes) {
            let dont_fragment = ip.dont_fragment();
            return Ok(Inner { is_ipv4: true, ttl: ip.ttl(), class: ip.tos(), dont_fragment });
        }
        let (ip, _) = Ipv6::parse(bytes).map_err(|_| DropReason::Internal)?;
        let (ttl, class) = (ip.hop_limit(), ip.traffic_class());
        Ok(Inner { is_ipv4: false, ttl, class, dont_fragment: false })
    }

    fn protocol(&self) -> IpProtocol {
        if self.is_ipv4 { IpProtocol::IPV4 } else { IpProtocol::IPV6 }
    }

    fn ether_type(&self) -> EtherType {
        if self.is_ipv4 { EtherType::IPV4 } else { EtherType::IPV6 }
    }
}

/// A congestion mark stays inside: the outer packet starts as unmarked (RFC 3168 section 9.1.1).
#[inline]
pub(in super::super) fn outer_class(class: u8) -> u8 {
    let (mask, experienced, ect0) = ECN;
    if class & mask == experienced { class & !mask | ect0 } else { class }
}

/// Puts the tunnel's headers around the frame's packet, whatever size comes of it.
pub(in super::super) fn encapsulate(
    frame: &mut Frame,
    wrapping: &Wrapping,
) -> Result<(), DropReason> {
    let inner = Inner::of(frame.bytes().get(L3..).ok_or(DropReason::Internal)?)?;
    let overhead = usize::from(wrapping.overhead_bytes());
    // The Ethernet header moves into the headroom; the packet stays where it is.
    frame.open_gap(L3, overhead).map_err(|_| DropReason::NoHeadroom)?;
    let (mut ethernet, l3) =
        Ethernet::parse_mut(frame.bytes_mut()).map_err(|_| DropReason::Internal)?;
    ethernet.set_ether_type(match wrapping.dst {
        IpAddr::V4(_) => EtherType::IPV4,
        IpAddr::V6(_) => EtherType::IPV6,
    });
    let outer = overhead - between_bytes(wrapping.tunnel);
    let body = l3.get_mut(outer..).ok_or(DropReason::Internal)?;
    let protocol = match wrapping.tunnel {
        Tunnel::Ipip => inner.protocol(),
        Tunnel::Gre { checksum } => {
            gre(body, &inner)?;
            if checksum {
                gre_checksum(body)?;
            }
            IpProtocol::GRE
        }
        Tunnel::Gue { port, checksum } => {
            gue(body, &inner, (wrapping.src_port, port))?;
            if checksum != GueChecksum::None {
                gue_checksum(body, wrapping)?;
            }
            IpProtocol::UDP
        }
    };
    outer_header(l3, &inner, wrapping, protocol)
}

fn outer_header(
    l3: &mut [u8],
    inner: &Inner,
    wrapping: &Wrapping,
    protocol: IpProtocol,
) -> Result<(), DropReason> {
    match (wrapping.src, wrapping.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            ipv4_header(l3, src, dst, protocol)?;
            let (mut ip, _) = Ipv4::parse_mut(l3).map_err(|_| DropReason::Internal)?;
            ip.set_tos(outer_class(inner.class));
            ip.set_ttl(inner.ttl);
            if inner.dont_fragment && wrapping.keeps_df {
                ip.set_fragment_word(DONT_FRAGMENT);
            } else {
                ip.set_id(wrapping.id);
            }
            ip.set_checksum(ip.compute_checksum(&[]));
            Ok(())
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            ipv6_header(l3, src, dst, protocol)?;
            let (mut ip, _) = Ipv6::parse_mut(l3).map_err(|_| DropReason::Internal)?;
            ip.set_traffic_class(outer_class(inner.class));
            ip.set_hop_limit(inner.ttl);
            Ok(())
        }
        _ => Err(DropReason::Internal),
    }
}

fn gre(body: &mut [u8], inner: &Inner) -> Result<(), DropReason> {
    let (mut gre, _) = Gre::blank(body).map_err(|_| DropReason::Internal)?;
    gre.set_ether_type(inner.ether_type());
    Ok(())
}

/// The checksum covers header and packet (RFC 2784 section 2.1).
fn gre_checksum(body: &mut [u8]) -> Result<(), DropReason> {
    body.get_mut(0).map(|flags| *flags |= 0x80).ok_or(DropReason::Internal)?;
    let field = body.get_mut(GRE_HEADER_BYTES..).and_then(|rest| rest.first_chunk_mut::<4>());
    *field.ok_or(DropReason::Internal)? = [0; GRE_CHECKSUM_BYTES];
    let [high, low] = Sum::new().add_bytes(body).checksum().to_be_bytes();
    let field = body.get_mut(GRE_HEADER_BYTES..).and_then(|rest| rest.first_chunk_mut::<2>());
    *field.ok_or(DropReason::Internal)? = [high, low];
    Ok(())
}

fn gue(body: &mut [u8], inner: &Inner, ports: (u16, u16)) -> Result<(), DropReason> {
    let length = body.len() as u16;
    let (mut udp, rest) = Udp::blank(body).map_err(|_| DropReason::Internal)?;
    udp.set_src_port(ports.0);
    udp.set_dst_port(ports.1);
    udp.set_length(length);
    let (mut gue, _) = Gue::blank(rest).map_err(|_| DropReason::Internal)?;
    gue.set_protocol(inner.protocol());
    Ok(())
}

fn gue_checksum(body: &mut [u8], wrapping: &Wrapping) -> Result<(), DropReason> {
    let pseudo = match (wrapping.src, wrapping.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            Sum::pseudo_v4(src, dst, IpProtocol::UDP, body.len() as u16)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            Sum::pseudo_v6(src, dst, IpProtocol::UDP, body.len() as u32)
        }
        _ => return Err(DropReason::Internal),
    };
    let checksum = pseudo.add_bytes(body).udp_checksum();
    let (mut udp, _) = Udp::parse_mut(body).map_err(|_| DropReason::Internal)?;
    udp.set_checksum(checksum);
    Ok(())
}
