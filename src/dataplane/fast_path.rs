//! The fast path: a plain frame of an established flow that changes nothing but counts.
//!
//! It answers only what the general path would answer in the same way, and leaves everything else
//! to it, the frame untouched; `tests/fast_path.rs` holds the two against each other. A burst is
//! looked at in passes (headers, bucket lines, entry lines), so that cache misses overlap.

use std::net::IpAddr;

use arrayvec::ArrayVec;

use super::burst::{Arrival, Burst, Errand, Verdict};
use super::classify::L3;
use super::flow::{Direction, FlowCore, flag};
use super::flow_table::FlowTable;
use super::identification::Identifications;
use super::observe::{Observer, Part};
use super::state::WorkerState;
use super::{forward::tunnel, next_hop};
use crate::counters::{DropReason, WorkerCounters};
use crate::frame::Frame;
use crate::limits::BURST_FRAMES_MAX;
use crate::message::FlowState;
use crate::model::{ForwardMode, NextHop, NicId, NicModel, Snapshot, Tunnel};
use crate::wire::ethernet::EtherType;
use crate::wire::ip::IpProtocol;
use crate::wire::ipv4::{DONT_FRAGMENT, IPV4_HEADER_BYTES};
use crate::wire::plain::{self, Facts, OuterV4, PLAIN_V4_BYTES, PLAIN_V6_BYTES};
use crate::wire::tcp::TcpFlags;

/// What the passes over a burst found about one frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Glance {
    /// Hash of the tuple, if the frame is plain.
    pub hash: u64,
    /// Where the index says that its flow may be.
    candidate: u32,
    facts: Facts,
    shape: Shape,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    V4,
    V6,
    Other,
}

/// No entry: a value that no table is large enough for.
const NOWHERE: u32 = u32::MAX;

/// What every frame starts as.
const UNKNOWN: Glance = Glance {
    hash: 0,
    candidate: NOWHERE,
    facts: Facts { protocol: IpProtocol::TCP, flags: TcpFlags::NONE, ttl: 0, ip_bytes: 0 },
    shape: Shape::Other,
};

/// What the passes found, frame by frame.
pub(super) type Glances = ArrayVec<Glance, BURST_FRAMES_MAX>;

impl Glance {
    /// Whether `hash` is that of the frame's tuple.
    pub fn is_plain(&self) -> bool {
        self.shape != Shape::Other
    }

    /// Looks again, after another frame has changed the table.
    pub fn look_again(&mut self, flows: &FlowTable) {
        if self.is_plain() {
            let found = flows.candidate(self.hash);
            let found = found.or_else(|| flows.candidate_elsewhere(self.hash));
            self.candidate = found.unwrap_or(NOWHERE);
        }
    }
}

/// The passes over a burst: read and hash all, touch buckets, touch entries.
#[inline(always)]
pub(super) fn glance(
    flows: &FlowTable,
    snapshot: &Snapshot,
    burst: &Burst,
    observer: &mut impl Observer,
) -> Glances {
    let mut glances = Glances::new();
    let mut port = Port::of(snapshot, NicId(0));
    for arrival in &burst.slots {
        if arrival.rx.nic != port.nic {
            port = Port::of(snapshot, arrival.rx.nic);
        }
        let glance = look(flows, &port, arrival).unwrap_or(UNKNOWN);
        if glance.is_plain() {
            flows.prefetch_bucket(glance.hash);
        }
        glances.push(glance);
    }
    observer.ended(Part::Classify);
    for glance in glances.iter_mut().filter(|glance| glance.is_plain()) {
        glance.candidate = flows.candidate(glance.hash).unwrap_or(NOWHERE);
    }
    // A few live in their second bucket, whose line the pass before has asked for.
    for glance in glances.iter_mut().filter(|glance| glance.candidate == NOWHERE) {
        if glance.is_plain() {
            glance.candidate = flows.candidate_elsewhere(glance.hash).unwrap_or(NOWHERE);
        }
    }
    observer.ended(Part::Lookup);
    glances
}

/// What of a port a glance needs.
struct Port {
    nic: NicId,
    /// None where frames have tags: those are the general path's.
    own_mac: Option<[u8; 6]>,
}

impl Port {
    fn of(snapshot: &Snapshot, nic: NicId) -> Self {
        let model: Option<&NicModel> = snapshot.nics.get(nic.index());
        let own_mac = model.filter(|model| model.vlan.is_none()).map(|model| model.mac);
        Port { nic, own_mac }
    }
}

#[inline(always)]
fn look(flows: &FlowTable, port: &Port, arrival: &Arrival) -> Option<Glance> {
    let bytes = arrival.frame.bytes();
    let head: &[u8; PLAIN_V4_BYTES] = bytes.first_chunk()?;
    let (dst, src) = plain::macs(head);
    let own = port.own_mac?;
    if dst != own || src == own || arrival.rx.errand != Errand::None {
        return None;
    }
    match plain::ether_type(head) {
        EtherType::IPV4 => {
            let facts = plain::read_v4(head, bytes.len())?;
            let hash = flows.hash_v4(plain::tuple_v4(head), facts.protocol);
            Some(Glance { hash, facts, shape: Shape::V4, candidate: NOWHERE })
        }
        EtherType::IPV6 => {
            let facts = plain::read_v6(bytes)?;
            let hash = flows.hash_v6(&plain::tuple_v6(bytes.first_chunk()?), facts.protocol);
            Some(Glance { hash, facts, shape: Shape::V6, candidate: NOWHERE })
        }
        _ => None,
    }
}

/// Forwards a frame if it can.
#[inline(always)]
pub(super) fn forward(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    arrival: &mut Arrival,
    glance: &Glance,
    observer: &mut impl Observer,
) -> Option<Verdict> {
    let quiet = glance.facts.flags.0 & DECIDING.0 == TcpFlags::ACK.0 || is_udp(&glance.facts);
    if !glance.is_plain() || !state.has_fast_path || !quiet || glance.facts.ttl < 2 {
        return None;
    }
    let found = (glance.candidate, &glance.facts);
    match glance.shape {
        Shape::V4 => forward_v4(state, snapshot, arrival, found, observer),
        Shape::V6 => forward_v6(state, snapshot, arrival, found, observer),
        Shape::Other => None,
    }
}

#[inline(always)]
fn is_udp(facts: &Facts) -> bool {
    facts.protocol == IpProtocol::UDP
}

/// The flags that a connection's state depends on.
const DECIDING: TcpFlags =
    TcpFlags(TcpFlags::SYN.0 | TcpFlags::FIN.0 | TcpFlags::RST.0 | TcpFlags::ACK.0);

#[inline(always)]
fn forward_v4(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    arrival: &mut Arrival,
    (candidate, facts): (u32, &Facts),
    observer: &mut impl Observer,
) -> Option<Verdict> {
    let WorkerState { flows, hops, counters, now_ms, now, learned_mtus, ids, .. } = state;
    let (flow, direction) = flows.candidate_v4(candidate)?;
    let head: &mut [u8; PLAIN_V4_BYTES] = arrival.frame.bytes_mut().first_chunk_mut()?;
    if flow.tuple(direction) != plain::tuple_v4(head) {
        return None;
    }
    let hop = way(&flow.core, direction, facts, snapshot, hops)?;
    observer.ended(Part::Decide);
    let mode = flow.core.mode();
    match mode {
        ForwardMode::DirectRoute if plain::macs(head).1 == hop.dst_mac => return None,
        ForwardMode::Nat if is_udp(facts) && plain::lacks_checksum_v4(head) => return None,
        ForwardMode::DirectRoute | ForwardMode::Nat | ForwardMode::FullNat => {}
        ForwardMode::Tunnel if flow.core.tunnel() == Tunnel::Ipip => {
            let learned = learned_mtus.get(flow.core.hop(direction), *now).unwrap_or(u16::MAX);
            let tunnel = Ipip {
                between: (own_v4(snapshot, hop.nic)?, flow.addresses[3]),
                mtu: hop.mtu.min(learned),
                keeps_df: snapshot.semantics.pmtu_disc,
                spent: u8::from(flow.core.decrements_ttl()),
            };
            if direction == Direction::Outbound || !in_ipip(&mut arrival.frame, facts, &tunnel, ids)
            {
                return None;
            }
            let head: &mut [u8; PLAIN_V4_BYTES] = arrival.frame.bytes_mut().first_chunk_mut()?;
            plain::set_macs(head, &hop.dst_mac, &hop.src_mac);
            account(&mut flow.core, counters, (direction, facts), *now_ms);
            return Some(depart(snapshot, arrival, hop, counters));
        }
        ForwardMode::Tunnel => return tunnelled(state, snapshot, arrival, (candidate, facts)),
        ForwardMode::Local => return None,
    }
    if flow.core.decrements_ttl() {
        plain::decrement_ttl_v4(head);
    }
    if mode != ForwardMode::DirectRoute {
        plain::rewrite_v4(head, facts.protocol, flow.far_tuple(direction));
    }
    plain::set_macs(head, &hop.dst_mac, &hop.src_mac);
    account(&mut flow.core, counters, (direction, facts), *now_ms);
    Some(depart(snapshot, arrival, hop, counters))
}

#[inline(always)]
fn forward_v6(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    arrival: &mut Arrival,
    (candidate, facts): (u32, &Facts),
    observer: &mut impl Observer,
) -> Option<Verdict> {
    let WorkerState { flows, hops, counters, now_ms, .. } = state;
    let (flow, direction) = flows.candidate_v6(candidate)?;
    let head: &mut [u8; PLAIN_V6_BYTES] = arrival.frame.bytes_mut().first_chunk_mut()?;
    if !flow.is_all_v6() || flow.tuple(direction) != plain::tuple_v6(head) {
        return None;
    }
    let hop = way(&flow.core, direction, facts, snapshot, hops)?;
    observer.ended(Part::Decide);
    let mode = flow.core.mode();
    match mode {
        ForwardMode::DirectRoute if plain::macs(head).1 == hop.dst_mac => return None,
        ForwardMode::Nat if is_udp(facts) && plain::lacks_checksum_v6(head) => return None,
        ForwardMode::DirectRoute | ForwardMode::Nat | ForwardMode::FullNat => {}
        ForwardMode::Tunnel => return tunnelled(state, snapshot, arrival, (candidate, facts)),
        ForwardMode::Local => return None,
    }
    if flow.core.decrements_ttl() {
        plain::decrement_ttl_v6(head);
    }
    plain::set_macs(head, &hop.dst_mac, &hop.src_mac);
    if mode != ForwardMode::DirectRoute {
        let to = flow.far_tuple(direction);
        plain::rewrite_v6(arrival.frame.bytes_mut(), facts.protocol, to);
    }
    account(&mut flow.core, counters, (direction, facts), *now_ms);
    Some(depart(snapshot, arrival, hop, counters))
}

/// The director's own address on a port.
#[inline(always)]
fn own_v4(snapshot: &Snapshot, nic: NicId) -> Option<u32> {
    match snapshot.nics.get(nic.index())?.own_address(true)? {
        IpAddr::V4(own) => Some(own.into()),
        IpAddr::V6(_) => None,
    }
}

/// The tunnel that most use: IPv4 in IPv4, nothing between.
struct Ipip {
    /// Director and server.
    between: (u32, u32),
    /// The longest packet that gets to the server.
    mtu: u16,
    /// What the inner packet says of fragments, the outer one says too.
    keeps_df: bool,
    /// What the director takes off the TTL.
    spent: u8,
}

/// Wraps a packet; `false`, and nothing happened, where that is not so simple.
#[inline(always)]
fn in_ipip(frame: &mut Frame, facts: &Facts, to: &Ipip, ids: &mut Identifications) -> bool {
    let end = L3 + usize::from(facts.ip_bytes);
    let fits = usize::from(facts.ip_bytes) + IPV4_HEADER_BYTES <= usize::from(to.mtu);
    if !fits || frame.headroom_bytes() < IPV4_HEADER_BYTES || frame.len() < end {
        return false;
    }
    let Some(head) = frame.bytes_mut().first_chunk_mut::<PLAIN_V4_BYTES>() else { return false };
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
        ttl: facts.ttl - to.spent,
        inner_bytes: facts.ip_bytes,
    };
    // Link padding stays outside; there is room for the rest, and the old Ethernet header, which
    // comes to lie under the outer one, is written anew.
    let is_wrapped = frame.set_len(end).and_then(|()| frame.grow_front(IPV4_HEADER_BYTES)).is_ok();
    if let Some(head) = frame.bytes_mut().first_chunk_mut() {
        plain::put_outer_v4(head, &outer);
    }
    is_wrapped
}

/// TUN: the packet goes on inside another one.
#[inline(never)]
fn tunnelled(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    arrival: &mut Arrival,
    (candidate, facts): (u32, &Facts),
) -> Option<Verdict> {
    let (id, direction) = FlowTable::place(candidate);
    let (core, addresses) = (*state.flows.core(id)?, state.flows.addresses(id)?);
    let hop_id = core.hop(direction);
    let overhead = tunnel::overhead_bytes(core.tunnel(), addresses.server.is_ipv4());
    let mtu = next_hop::path_mtu(state, hop_id)?;
    let fits = facts.ip_bytes.checked_add(overhead).is_some_and(|bytes| bytes <= mtu);
    let room = arrival.frame.headroom_bytes() >= usize::from(overhead);
    let end = L3 + usize::from(facts.ip_bytes);
    if direction == Direction::Outbound || !fits || !room || end > arrival.frame.len() {
        return None;
    }
    let between = (addresses.client, addresses.server);
    let wrapping = tunnel::wrapping_of(state, snapshot, &core, between).ok()?;
    // From here on nothing fails: all of it was checked.
    if core.decrements_ttl() {
        let bytes = arrival.frame.bytes_mut();
        match addresses.client.is_ipv4() {
            true => plain::decrement_ttl_v4(bytes.first_chunk_mut()?),
            false => plain::decrement_ttl_v6(bytes.first_chunk_mut()?),
        }
    }
    // Link padding stays outside.
    arrival.frame.set_len(end).ok()?;
    tunnel::encapsulate(&mut arrival.frame, &wrapping).ok()?;
    let WorkerState { flows, hops, counters, now_ms, .. } = state;
    let hop = hops.get(hop_id.index())?;
    let head: &mut [u8; 12] = arrival.frame.bytes_mut().first_chunk_mut()?;
    plain::set_macs(head, &hop.dst_mac, &hop.src_mac);
    account(flows.core_mut(id)?, counters, (direction, facts), *now_ms);
    Some(depart(snapshot, arrival, hop, counters))
}

/// The next hop of a packet whose flow goes on as it is; none where there is more to do.
#[inline(always)]
fn way<'h>(
    core: &FlowCore,
    direction: Direction,
    facts: &Facts,
    snapshot: &Snapshot,
    hops: &'h [NextHop],
) -> Option<&'h NextHop> {
    let state = if is_udp(facts) { FlowState::Udp } else { FlowState::Established };
    // A datagram from a server may assure its template.
    let is_quiet = match direction {
        Direction::Inbound => {
            core.flags & !flag::INPUT_ONLY == 0 && !snapshot.is_removed(core.server())
        }
        Direction::Outbound => core.flags == 0 && !(is_udp(facts) && core.is_controlled()),
    };
    let is_steady = core.is_just(state, facts.protocol) && core.epoch == snapshot.timeouts_epoch;
    if !is_quiet || !is_steady {
        return None;
    }
    let hop = hops.get(core.hop(direction).index())?;
    (hop.resolved && facts.ip_bytes <= hop.mtu).then_some(hop)
}

/// What `track::packet` does for a flow that stays as it is.
#[inline(always)]
fn account(
    core: &mut FlowCore,
    counters: &WorkerCounters,
    (direction, facts): (Direction, &Facts),
    now_ms: u32,
) {
    core.last_seen_ms = now_ms;
    core.packets = core.packets.wrapping_add(1);
    let Some(server) = counters.servers.get(core.server().index()) else { return };
    let (packets, bytes) = match direction {
        Direction::Inbound => (&server.in_packets, &server.in_bytes),
        Direction::Outbound => (&server.out_packets, &server.out_bytes),
    };
    packets.add(1);
    bytes.add(facts.ip_bytes.into());
}

/// The verdict of a frame that has its MAC addresses.
#[inline(always)]
fn depart(
    snapshot: &Snapshot,
    arrival: &mut Arrival,
    hop: &NextHop,
    counters: &WorkerCounters,
) -> Verdict {
    let tagged = match snapshot.nics.get(hop.nic.index()) {
        Some(nic) if nic.vlan.is_some() => next_hop::push_vlan(&mut arrival.frame, nic),
        Some(_) => Ok(()),
        None => Err(DropReason::Internal),
    };
    match tagged {
        Ok(()) => Verdict::Transmit(hop.nic),
        Err(reason) => {
            counters.dropped(reason);
            Verdict::Drop(reason)
        }
    }
}
