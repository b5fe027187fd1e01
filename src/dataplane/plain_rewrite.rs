//! A plain packet rewritten as its flow's mode has it, by wide loads and stores at fixed places.
//!
//! `forward` does the same for every other packet; what is not so simple is left to it.

use std::net::IpAddr;

use super::classify::L3;
use super::flow::{Direction, FlowCore, FlowV4, FlowV6};
use super::flow_table::Hit;
use super::glance::is_udp;
use super::identification::Identifications;
use super::learned_mtu::LearnedMtus;
use super::state::WorkerState;
use super::{forward::tunnel, next_hop};
use crate::frame::Frame;
use crate::model::{ForwardMode, NextHop, NextHopId, NicId, Snapshot};
use crate::time::Nanos;
use crate::wire::ipv4::{DONT_FRAGMENT, IPV4_HEADER_BYTES};
use crate::wire::ipv6::IPV6_HEADER_BYTES;
use crate::wire::pair::AddressPair;
use crate::wire::plain::{self, Facts, OuterV4, OuterV6, PLAIN_V4_BYTES, PLAIN_V6_BYTES};

/// Rewrites a plain packet of a flow as its mode has it; none, and the frame is as it was, where
/// that is not so simple.
#[inline(always)]
pub(super) fn write(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    frame: &mut Frame,
    (facts, hop): (&Facts, &NextHop),
    hit: Hit,
) -> Option<()> {
    let WorkerState { flows, now, learned_mtus, ids, .. } = state;
    let towards = (hit.direction, facts);
    let around = Around { snapshot, learned_mtus, ids, now: *now };
    let written = if let Some((flow, _)) = flows.candidate_v4(hit.id.0) {
        write_v4(frame, flow, towards, hop, around)
    } else {
        let (flow, _) = flows.candidate_v6(hit.id.0)?;
        flow.is_all_v6().then(|| write_v6(frame, flow, towards, hop, around))?
    };
    if written.is_none() {
        wrap(state, snapshot, frame, facts, hit)?;
        plain::set_macs(frame.bytes_mut().first_chunk_mut::<12>()?, &hop.macs);
    }
    Some(())
}

/// What a tunnel's outer header is made of, besides flow and packet.
pub(super) struct Around<'a> {
    /// The configuration.
    pub snapshot: &'a Snapshot,
    /// What ICMP errors said of paths.
    pub learned_mtus: &'a LearnedMtus,
    /// Identifications of outer headers.
    pub ids: &'a mut Identifications,
    /// Now.
    pub now: Nanos,
}

impl Around<'_> {
    #[inline(always)]
    fn ipip<B>(&self, between: B, core: &FlowCore, hop: &NextHop) -> Ipip<B> {
        let learned = self.learned_mtus.get(core.hop(Direction::Inbound), self.now);
        Ipip {
            between,
            mtu: hop.mtu.min(learned.unwrap_or(u16::MAX)),
            keeps_df: self.snapshot.semantics.pmtu_disc,
            spent: u8::from(core.decrements_ttl()),
        }
    }
}

/// As `write`, of an IPv4 flow, but for tunnels other than IPIP.
#[inline(always)]
pub(super) fn write_v4(
    frame: &mut Frame,
    flow: &FlowV4,
    (direction, facts): (Direction, &Facts),
    hop: &NextHop,
    around: Around,
) -> Option<()> {
    let head: &mut [u8; PLAIN_V4_BYTES] = frame.bytes_mut().first_chunk_mut()?;
    // Three cases and no table of them: it would cost a jump that cannot be foreseen.
    let mode = flow.core.mode();
    if matches!(mode, ForwardMode::Tunnel | ForwardMode::Local) {
        return write_tunnelled_v4(frame, flow, (direction, facts), hop, around);
    }
    if mode == ForwardMode::DirectRoute {
        if plain::is_from_dst_of(head, &hop.macs) {
            return None;
        }
    } else if mode == ForwardMode::Nat && is_udp(facts) && plain::lacks_checksum_v4(head) {
        return None;
    }
    if mode != ForwardMode::DirectRoute {
        let spent = u8::from(flow.core.decrements_ttl());
        plain::rewrite_v4(head, facts.protocol(), flow.far_tuple(direction), spent);
    } else if flow.core.decrements_ttl() {
        plain::decrement_ttl_v4(head);
    }
    plain::set_macs(head, &hop.macs);
    Some(())
}

/// As `write_v4`, where the packet goes on inside another one.
#[inline(always)]
fn write_tunnelled_v4(
    frame: &mut Frame,
    flow: &FlowV4,
    (direction, facts): (Direction, &Facts),
    hop: &NextHop,
    around: Around,
) -> Option<()> {
    if direction == Direction::Outbound || !flow.core.is_in_ipip() {
        return None;
    }
    let own = own_v4(around.snapshot, hop.nic)?;
    let between = AddressPair::new(own, flow.server_address());
    let tunnel = around.ipip(between, &flow.core, hop);
    in_ipip(frame, facts, &tunnel, around.ids)?;
    plain::set_macs(frame.bytes_mut().first_chunk_mut::<12>()?, &hop.macs);
    Some(())
}

/// As `write_tunnelled_v4`, of the other family.
#[inline(always)]
fn write_tunnelled_v6(
    frame: &mut Frame,
    flow: &FlowV6,
    (direction, facts): (Direction, &Facts),
    hop: &NextHop,
    around: Around,
) -> Option<()> {
    if direction == Direction::Outbound || !flow.core.is_in_ipip() {
        return None;
    }
    let own = own_v6(around.snapshot, hop.nic)?;
    let tunnel = around.ipip([own, flow.server_address()], &flow.core, hop);
    in_ipip_v6(frame, facts, &tunnel, around.ids)?;
    plain::set_macs(frame.bytes_mut().first_chunk_mut::<12>()?, &hop.macs);
    Some(())
}

/// As `write_v4`, of the other family.
#[inline(always)]
pub(super) fn write_v6(
    frame: &mut Frame,
    flow: &FlowV6,
    (direction, facts): (Direction, &Facts),
    hop: &NextHop,
    around: Around,
) -> Option<()> {
    let head: &mut [u8; PLAIN_V6_BYTES] = frame.bytes_mut().first_chunk_mut()?;
    let mode = flow.core.mode();
    if matches!(mode, ForwardMode::Tunnel | ForwardMode::Local) {
        return write_tunnelled_v6(frame, flow, (direction, facts), hop, around);
    }
    if mode == ForwardMode::DirectRoute {
        if plain::is_from_dst_of(head, &hop.macs) {
            return None;
        }
    } else if mode == ForwardMode::Nat && is_udp(facts) && plain::lacks_checksum_v6(head) {
        return None;
    }
    if flow.core.decrements_ttl() {
        plain::decrement_ttl_v6(head);
    }
    plain::set_macs(head, &hop.macs);
    if mode != ForwardMode::DirectRoute {
        let to = flow.far_tuple(direction);
        plain::rewrite_v6(frame.bytes_mut(), facts.protocol(), &to);
    }
    Some(())
}

/// The director's own address on a port.
#[inline(always)]
fn own_v4(snapshot: &Snapshot, nic: NicId) -> Option<u32> {
    match snapshot.nics.get(nic.index())?.own_address(true)? {
        IpAddr::V4(own) => Some(own.into()),
        IpAddr::V6(_) => None,
    }
}

/// As `own_v4`, of the other family.
#[inline(always)]
fn own_v6(snapshot: &Snapshot, nic: NicId) -> Option<[u8; 16]> {
    match snapshot.nics.get(nic.index())?.own_address(false)? {
        IpAddr::V6(own) => Some(own.octets()),
        IpAddr::V4(_) => None,
    }
}

/// The tunnel that most use: IP in IP of one family, nothing between.
struct Ipip<B> {
    /// Director and server.
    between: B,
    /// The longest packet that gets to the server.
    mtu: u16,
    /// What the inner packet says of fragments, the outer one says too.
    keeps_df: bool,
    /// What the director takes off the TTL.
    spent: u8,
}

/// Wraps a packet; none, and nothing happened, where that is not so simple.
#[inline(always)]
fn in_ipip(
    frame: &mut Frame,
    facts: &Facts,
    to: &Ipip<AddressPair>,
    ids: &mut Identifications,
) -> Option<()> {
    let end = L3 + usize::from(facts.ip_bytes());
    let fits = usize::from(facts.ip_bytes()) + IPV4_HEADER_BYTES <= usize::from(to.mtu);
    if !fits || frame.headroom_bytes() < IPV4_HEADER_BYTES || frame.len() < end {
        return None;
    }
    let head: &mut [u8; PLAIN_V4_BYTES] = frame.bytes_mut().first_chunk_mut()?;
    let (tos, fragment) = plain::class_v4(head);
    if to.spent > 0 {
        plain::decrement_ttl_v4(head);
    }
    let id = ids.next() as u16;
    let keeps_df = to.keeps_df && fragment & DONT_FRAGMENT != 0;
    let outer = OuterV4 {
        addresses: to.between,
        tos: tunnel::outer_class(tos),
        fragment: if keeps_df { (0, DONT_FRAGMENT) } else { (id, 0) },
        ttl: facts.ttl() - to.spent,
        inner_bytes: facts.ip_bytes(),
    };
    // Link padding stays outside; there is room for the rest, and the old Ethernet header, which
    // comes to lie under the outer one, is written anew.
    frame.set_len(end).and_then(|()| frame.grow_front(IPV4_HEADER_BYTES)).ok()?;
    plain::put_outer_v4(frame.bytes_mut().first_chunk_mut()?, &outer);
    Some(())
}

/// As `in_ipip`, of the other family.
#[inline(always)]
fn in_ipip_v6(
    frame: &mut Frame,
    facts: &Facts,
    to: &Ipip<[[u8; 16]; 2]>,
    ids: &mut Identifications,
) -> Option<()> {
    let end = L3 + usize::from(facts.ip_bytes());
    let fits = usize::from(facts.ip_bytes()) + IPV6_HEADER_BYTES <= usize::from(to.mtu);
    if !fits || frame.headroom_bytes() < IPV6_HEADER_BYTES || frame.len() < end {
        return None;
    }
    let head: &mut [u8; PLAIN_V6_BYTES] = frame.bytes_mut().first_chunk_mut()?;
    if to.spent > 0 {
        plain::decrement_ttl_v6(head);
    }
    // The general path takes one for each packet that it wraps, whether the header has a place for
    // it or not.
    ids.next();
    let outer = OuterV6 {
        addresses: to.between,
        class: tunnel::outer_class(plain::class_v6(head)),
        hop_limit: facts.ttl() - to.spent,
        inner_bytes: facts.ip_bytes(),
    };
    frame.set_len(end).and_then(|()| frame.grow_front(IPV6_HEADER_BYTES)).ok()?;
    plain::put_outer_v6(frame.bytes_mut().first_chunk_mut()?, &outer);
    Some(())
}

/// Puts a tunnel's headers around a packet; the slot of its next hop.
#[inline(never)]
pub(super) fn wrap(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    frame: &mut Frame,
    facts: &Facts,
    hit: Hit,
) -> Option<NextHopId> {
    let (core, addresses) = (*state.flows.core(hit.id)?, state.flows.addresses(hit.id)?);
    let hop_id = core.hop(hit.direction);
    if core.mode() != ForwardMode::Tunnel || hit.direction == Direction::Outbound {
        return None;
    }
    let overhead = tunnel::overhead_bytes(core.tunnel(), addresses.server.is_ipv4());
    let mtu = next_hop::path_mtu(state, hop_id)?;
    let fits = facts.ip_bytes().checked_add(overhead).is_some_and(|bytes| bytes <= mtu);
    let room = frame.headroom_bytes() >= usize::from(overhead);
    let end = L3 + usize::from(facts.ip_bytes());
    if !fits || !room || end > frame.len() {
        return None;
    }
    let between = (addresses.client, addresses.server);
    let wrapping = tunnel::wrapping_of(state, snapshot, &core, between).ok()?;
    // From here on nothing fails: all of it was checked.
    if core.decrements_ttl() {
        let bytes = frame.bytes_mut();
        match addresses.client.is_ipv4() {
            true => plain::decrement_ttl_v4(bytes.first_chunk_mut()?),
            false => plain::decrement_ttl_v6(bytes.first_chunk_mut()?),
        }
    }
    // Link padding stays outside.
    frame.set_len(end).ok()?;
    tunnel::encapsulate(frame, &wrapping).ok()?;
    Some(hop_id)
}
