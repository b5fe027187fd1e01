//! The fast path: a plain frame of an established flow that changes nothing but counts.
//!
//! It answers only what the general path would answer in the same way, and leaves everything else
//! to it, the frame untouched; `tests/fast_path.rs` holds the two against each other. A burst is
//! looked at in passes (headers, bucket lines, entry lines), so that cache misses overlap.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arrayvec::ArrayVec;

use super::burst::{Arrival, Burst, Errand};
use super::classify::{Kind, L3, Packet};
use super::flow::{Direction, FlowCore, FlowKey, FlowV4, FlowV6};
use super::flow_table::{FlowTable, Hit};
use super::identification::Identifications;
use super::learned_mtu::LearnedMtus;
use super::observe::{Observer, Part};
use super::state::WorkerState;
use super::{forward::tunnel, next_hop};
use crate::counters::{DropReason, WorkerCounters};
use crate::frame::Frame;
use crate::limits::BURST_FRAMES_MAX;
use crate::memory::prefetch_write;
use crate::model::{ForwardMode, NextHop, NextHopId, NicId, NicModel, Protocol, Snapshot, Tunnel};
use crate::time::Nanos;
use crate::wire::ethernet::EtherType;
use crate::wire::ip::IpProtocol;
use crate::wire::ipv4::{DONT_FRAGMENT, IPV4_HEADER_BYTES};
use crate::wire::ipv6::IPV6_HEADER_BYTES;
use crate::wire::plain::{
    self, Facts, MacBits, Numbers, OuterV4, OuterV6, PLAIN_V4_BYTES, PLAIN_V6_BYTES,
};
use crate::wire::tcp::{SeqNum, TcpFlags};
use crate::wire::udp::UDP_HEADER_BYTES;

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

/// What frames of a burst have done to the table, as far as it concerns those behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Changes {
    /// Nothing.
    None,
    /// Flows were made.
    Begins,
    /// Flows have ended or changed their tuples.
    Ends,
}

/// What became of a frame on the fast path.
pub(super) enum Fast {
    /// It is decided.
    Done(Departure),
    /// Its tuple is that of the candidate, whose state it may move: `advance`.
    Moves,
    /// Nothing: it is the general path's.
    Left,
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

/// What the passes found.
#[derive(Debug)]
pub(super) struct Glances {
    /// Frame by frame.
    pub each: ArrayVec<Glance, BURST_FRAMES_MAX>,
    /// Whether some plain frame is no flow's.
    pub has_strangers: bool,
}

impl Glance {
    /// Whether `hash` is that of the frame's tuple.
    pub fn is_plain(&self) -> bool {
        self.shape != Shape::Other
    }

    /// What is known of a plain frame.
    pub fn facts(&self) -> Facts {
        self.facts
    }

    /// Where the index says that its flow may be.
    pub fn candidate(&self) -> Option<u32> {
        (self.candidate != NOWHERE).then_some(self.candidate)
    }

    /// The facts of a plain frame that is surely no flow's: the index has not even its tag. And
    /// whether it is IPv4.
    #[inline(always)]
    pub fn stranger(&self) -> Option<(&Facts, bool)> {
        let is_stranger = self.is_plain() && self.candidate == NOWHERE;
        is_stranger.then_some((&self.facts, self.shape == Shape::V4))
    }

    /// Looks again, after other frames have changed the table. What was found before stays where
    /// only new flows were made: they have other tuples.
    #[inline]
    pub fn look_again(&mut self, flows: &FlowTable, changes: Changes) {
        let is_stale = self.candidate == NOWHERE || changes == Changes::Ends;
        if self.is_plain() && is_stale {
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
    let mut glances = Glances { each: ArrayVec::new(), has_strangers: false };
    let mut port = Port::of(snapshot, NicId(0));
    let mut flags = 0;
    for arrival in &burst.slots {
        if arrival.rx.nic != port.nic {
            port = Port::of(snapshot, arrival.rx.nic);
        }
        let glance = look(flows, &port, arrival).unwrap_or(UNKNOWN);
        if glance.is_plain() {
            flows.prefetch_bucket(glance.hash);
        }
        flags |= glance.facts.flags.0;
        glances.each.push(glance);
    }
    observer.ended(Part::Classify);
    for glance in glances.each.iter_mut().filter(|glance| glance.is_plain()) {
        glance.candidate = flows.candidate(glance.hash).unwrap_or(NOWHERE);
    }
    // A few live in their second bucket, whose line the pass before has asked for.
    for glance in glances.each.iter_mut().filter(|glance| glance.candidate == NOWHERE) {
        if glance.is_plain() {
            glance.candidate = flows.candidate_elsewhere(glance.hash).unwrap_or(NOWHERE);
            glances.has_strangers |= glance.candidate == NOWHERE;
        }
    }
    if glances.has_strangers || flags & TURNS != 0 {
        prefetch_rare(flows, snapshot, &glances);
    }
    observer.ended(Part::Lookup);
    glances
}

/// Flags of segments that begin or end a connection.
const TURNS: u8 = TcpFlags::SYN.0 | TcpFlags::FIN.0 | TcpFlags::RST.0;

/// Whether a packet of no flow may make one.
#[inline(always)]
fn opens(facts: &Facts) -> bool {
    is_udp(facts) || facts.flags.contains(TcpFlags::SYN)
}

/// Asks for what packets that make a flow, or end one, will write besides.
#[inline(never)]
fn prefetch_rare(flows: &FlowTable, snapshot: &Snapshot, glances: &Glances) {
    let mut made = (0, 0);
    // Most strangers of a flood make no flow.
    let makes_flows = glances.has_strangers && !snapshot.has_synproxy;
    for glance in &glances.each {
        let is_new = glance.candidate == NOWHERE && makes_flows && opens(&glance.facts);
        if is_new && glance.shape == Shape::V4 {
            flows.prefetch_next_v4(made.0);
            made.0 += 1;
        } else if is_new && glance.shape == Shape::V6 {
            flows.prefetch_next_v6(made.1);
            made.1 += 1;
        } else if glance.facts.flags.0 & TURNS != 0 && glance.candidate != NOWHERE {
            flows.prefetch_beside(glance.candidate);
        }
    }
}

/// So many servers that a worker's counters of them, a line each, do not stay in the cache next to
/// the core.
const SERVERS_NEAR_MAX: usize = 512;

/// One more pass, where servers are many: asks for the counters that flows' packets add to. With
/// few of them they are at hand, and the pass would only cost.
#[inline(always)]
pub(super) fn reach_for_counters(state: &WorkerState, snapshot: &Snapshot, glances: &Glances) {
    if snapshot.server_slots > SERVERS_NEAR_MAX {
        ask_for_counters(&state.flows, &state.counters, glances);
    }
}

#[inline(never)]
fn ask_for_counters(flows: &FlowTable, counters: &WorkerCounters, glances: &Glances) {
    for candidate in glances.each.iter().filter_map(Glance::candidate) {
        let (id, _) = FlowTable::place(candidate);
        let server = flows.core(id).and_then(|core| counters.servers.get(core.server().index()));
        if let Some(server) = server {
            prefetch_write(server);
        }
    }
}

/// What of a port a glance needs.
struct Port {
    nic: NicId,
    /// None where frames have tags: those are the general path's.
    own_mac: Option<MacBits>,
}

impl Port {
    fn of(snapshot: &Snapshot, nic: NicId) -> Self {
        let model: Option<&NicModel> = snapshot.nics.get(nic.index());
        let own_mac = model.filter(|model| model.vlan.is_none()).map(|model| model.mac.into());
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
) -> Fast {
    if !glance.is_plain() || !state.has_fast_path || glance.facts.ttl < 2 {
        return Fast::Left;
    }
    let found = (glance.candidate, &glance.facts);
    let done = match glance.shape {
        Shape::V4 => forward_v4(state, snapshot, arrival, found, observer),
        Shape::V6 => forward_v6(state, snapshot, arrival, found, observer),
        Shape::Other => None,
    };
    done.unwrap_or(Fast::Left)
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
) -> Option<Fast> {
    let WorkerState { flows, hops, counters, now_ms, now, learned_mtus, ids, .. } = state;
    let (flow, direction) = flows.candidate_v4(candidate)?;
    let head: &mut [u8; PLAIN_V4_BYTES] = arrival.frame.bytes_mut().first_chunk_mut()?;
    if !flow.is_tuple(direction, plain::tuple_v4(head)) {
        return None;
    }
    let Some(hop) = way(&flow.core, direction, facts, snapshot, hops) else {
        return Some(Fast::Moves);
    };
    observer.ended(Part::Decide);
    let around = Around { snapshot, learned_mtus, ids, now: *now };
    if write_v4(&mut arrival.frame, flow, (direction, facts), hop, around).is_none() {
        return tunnelled(state, snapshot, arrival, (candidate, facts)).map(Fast::Done);
    }
    account(&mut flow.core, counters, (direction, facts), *now_ms);
    Some(Fast::Done(depart(snapshot, &mut arrival.frame, hop, counters)))
}

#[inline(always)]
fn forward_v6(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    arrival: &mut Arrival,
    (candidate, facts): (u32, &Facts),
    observer: &mut impl Observer,
) -> Option<Fast> {
    let WorkerState { flows, hops, counters, now_ms, now, learned_mtus, ids, .. } = state;
    let (flow, direction) = flows.candidate_v6(candidate)?;
    let head: &mut [u8; PLAIN_V6_BYTES] = arrival.frame.bytes_mut().first_chunk_mut()?;
    if !flow.is_all_v6() || flow.tuple(direction) != plain::tuple_v6(head) {
        return None;
    }
    let Some(hop) = way(&flow.core, direction, facts, snapshot, hops) else {
        return Some(Fast::Moves);
    };
    observer.ended(Part::Decide);
    let around = Around { snapshot, learned_mtus, ids, now: *now };
    if write_v6(&mut arrival.frame, flow, (direction, facts), hop, around).is_none() {
        return tunnelled(state, snapshot, arrival, (candidate, facts)).map(Fast::Done);
    }
    account(&mut flow.core, counters, (direction, facts), *now_ms);
    Some(Fast::Done(depart(snapshot, &mut arrival.frame, hop, counters)))
}

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
        plain::set_macs(frame.bytes_mut().first_chunk_mut::<12>()?, &hop.dst_mac, &hop.src_mac);
    }
    Some(())
}

/// What a tunnel's outer header is made of, besides flow and packet.
struct Around<'a> {
    snapshot: &'a Snapshot,
    learned_mtus: &'a LearnedMtus,
    ids: &'a mut Identifications,
    now: Nanos,
}

impl Around<'_> {
    #[inline(always)]
    fn ipip<A>(&self, between: (A, A), core: &FlowCore, hop: &NextHop) -> Ipip<A> {
        let learned = self.learned_mtus.get(core.hop(Direction::Inbound), self.now);
        Ipip {
            between,
            mtu: hop.mtu.min(learned.unwrap_or(u16::MAX)),
            keeps_df: self.snapshot.semantics.pmtu_disc,
            spent: u8::from(core.decrements_ttl()),
        }
    }
}

#[inline(always)]
fn write_v4(
    frame: &mut Frame,
    flow: &FlowV4,
    (direction, facts): (Direction, &Facts),
    hop: &NextHop,
    around: Around,
) -> Option<()> {
    let head: &mut [u8; PLAIN_V4_BYTES] = frame.bytes_mut().first_chunk_mut()?;
    let mode = flow.core.mode();
    match mode {
        ForwardMode::DirectRoute if plain::macs(head).1 == hop.dst_mac.into() => return None,
        ForwardMode::Nat if is_udp(facts) && plain::lacks_checksum_v4(head) => return None,
        ForwardMode::DirectRoute | ForwardMode::Nat | ForwardMode::FullNat => {}
        ForwardMode::Tunnel if flow.core.tunnel() == Tunnel::Ipip => {
            let own = own_v4(around.snapshot, hop.nic)?;
            let tunnel = around.ipip((own, flow.addresses[3]), &flow.core, hop);
            if direction == Direction::Outbound || !in_ipip(frame, facts, &tunnel, around.ids) {
                return None;
            }
            let head: &mut [u8; PLAIN_V4_BYTES] = frame.bytes_mut().first_chunk_mut()?;
            plain::set_macs(head, &hop.dst_mac, &hop.src_mac);
            return Some(());
        }
        ForwardMode::Tunnel | ForwardMode::Local => return None,
    }
    if flow.core.decrements_ttl() {
        plain::decrement_ttl_v4(head);
    }
    if mode != ForwardMode::DirectRoute {
        plain::rewrite_v4(head, facts.protocol, flow.far_tuple(direction));
    }
    plain::set_macs(head, &hop.dst_mac, &hop.src_mac);
    Some(())
}

#[inline(always)]
fn write_v6(
    frame: &mut Frame,
    flow: &FlowV6,
    (direction, facts): (Direction, &Facts),
    hop: &NextHop,
    around: Around,
) -> Option<()> {
    let head: &mut [u8; PLAIN_V6_BYTES] = frame.bytes_mut().first_chunk_mut()?;
    let mode = flow.core.mode();
    match mode {
        ForwardMode::DirectRoute if plain::macs(head).1 == hop.dst_mac.into() => return None,
        ForwardMode::Nat if is_udp(facts) && plain::lacks_checksum_v6(head) => return None,
        ForwardMode::DirectRoute | ForwardMode::Nat | ForwardMode::FullNat => {}
        ForwardMode::Tunnel if flow.core.tunnel() == Tunnel::Ipip => {
            let own = own_v6(around.snapshot, hop.nic)?;
            let tunnel = around.ipip((own, flow.addresses[3]), &flow.core, hop);
            if direction == Direction::Outbound || !in_ipip_v6(frame, facts, &tunnel, around.ids) {
                return None;
            }
            let head: &mut [u8; PLAIN_V6_BYTES] = frame.bytes_mut().first_chunk_mut()?;
            plain::set_macs(head, &hop.dst_mac, &hop.src_mac);
            return Some(());
        }
        ForwardMode::Tunnel | ForwardMode::Local => return None,
    }
    if flow.core.decrements_ttl() {
        plain::decrement_ttl_v6(head);
    }
    plain::set_macs(head, &hop.dst_mac, &hop.src_mac);
    if mode != ForwardMode::DirectRoute {
        let to = flow.far_tuple(direction);
        plain::rewrite_v6(frame.bytes_mut(), facts.protocol, to);
    }
    Some(())
}

/// The facts of a plain frame, as `classify` would find them.
#[inline(always)]
pub(super) fn packet(frame: &Frame, glance: &Glance) -> Option<Packet> {
    let bytes = frame.bytes();
    match glance.shape {
        Shape::V4 => {
            let head: &[u8; PLAIN_V4_BYTES] = bytes.first_chunk()?;
            let (src, dst, src_port, dst_port) = plain::tuple_v4(head);
            let between = (IpAddr::V4(src.into()), IpAddr::V4(dst.into()));
            Some(plain_packet(bytes, &glance.facts, between, (src_port, dst_port)))?
        }
        Shape::V6 => {
            let (src, dst, src_port, dst_port) = plain::tuple_v6(bytes.first_chunk()?);
            let between = (IpAddr::V6(src.into()), IpAddr::V6(dst.into()));
            Some(plain_packet(bytes, &glance.facts, between, (src_port, dst_port)))?
        }
        Shape::Other => None,
    }
}

/// The facts of a plain segment but for its tuple, which may be rewritten already.
pub(super) fn segment(frame: &Frame, facts: &Facts) -> Option<Packet> {
    const NO_PORTS: (u16, u16) = (0, 0);
    let bytes = frame.bytes();
    let unset = match EtherType(u16::from_be_bytes(*bytes.get(12..)?.first_chunk()?)) {
        EtherType::IPV4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        _ => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    plain_packet(bytes, facts, (unset, unset), NO_PORTS)
}

#[inline(always)]
fn plain_packet(
    bytes: &[u8],
    facts: &Facts,
    (src, dst): (IpAddr, IpAddr),
    (src_port, dst_port): (u16, u16),
) -> Option<Packet> {
    let l4 = L3 + if src.is_ipv4() { IPV4_HEADER_BYTES } else { IPV6_HEADER_BYTES };
    let (protocol, numbers) = match is_udp(facts) {
        true => (Protocol::Udp, Numbers { seq: 0, ack: 0, header_bytes: UDP_HEADER_BYTES }),
        false => (Protocol::Tcp, plain::numbers(bytes.get(l4..)?.first_chunk()?)),
    };
    Some(Packet {
        kind: Kind::Transport,
        key: FlowKey { protocol, src, dst, src_port, dst_port },
        l4,
        payload: l4 + numbers.header_bytes,
        end: L3 + usize::from(facts.ip_bytes),
        ttl: facts.ttl,
        flags: facts.flags,
        seq: SeqNum(numbers.seq),
        ack: SeqNum(numbers.ack),
        piece: None,
    })
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
struct Ipip<A> {
    /// Director and server.
    between: (A, A),
    /// The longest packet that gets to the server.
    mtu: u16,
    /// What the inner packet says of fragments, the outer one says too.
    keeps_df: bool,
    /// What the director takes off the TTL.
    spent: u8,
}

/// Wraps a packet; `false`, and nothing happened, where that is not so simple.
#[inline(always)]
fn in_ipip(frame: &mut Frame, facts: &Facts, to: &Ipip<u32>, ids: &mut Identifications) -> bool {
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

/// As `in_ipip`, of the other family.
#[inline(always)]
fn in_ipip_v6(
    frame: &mut Frame,
    facts: &Facts,
    to: &Ipip<[u8; 16]>,
    ids: &mut Identifications,
) -> bool {
    let end = L3 + usize::from(facts.ip_bytes);
    let fits = usize::from(facts.ip_bytes) + IPV6_HEADER_BYTES <= usize::from(to.mtu);
    if !fits || frame.headroom_bytes() < IPV6_HEADER_BYTES || frame.len() < end {
        return false;
    }
    let Some(head) = frame.bytes_mut().first_chunk_mut::<PLAIN_V6_BYTES>() else { return false };
    if to.spent > 0 {
        plain::decrement_ttl_v6(head);
    }
    // The general path takes one for each packet that it wraps, whether the header has a place for
    // it or not.
    ids.next();
    let outer = OuterV6 {
        addresses: to.between,
        class: tunnel::outer_class(plain::class_v6(head)),
        hop_limit: facts.ttl - to.spent,
        inner_bytes: facts.ip_bytes,
    };
    let is_wrapped = frame.set_len(end).and_then(|()| frame.grow_front(IPV6_HEADER_BYTES)).is_ok();
    if let Some(head) = frame.bytes_mut().first_chunk_mut() {
        plain::put_outer_v6(head, &outer);
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
) -> Option<Departure> {
    let (id, direction) = FlowTable::place(candidate);
    let hop_id = wrap(state, snapshot, &mut arrival.frame, facts, Hit { id, direction })?;
    let WorkerState { flows, hops, counters, now_ms, .. } = state;
    let hop = hops.get(hop_id.index())?;
    let head: &mut [u8; 12] = arrival.frame.bytes_mut().first_chunk_mut()?;
    plain::set_macs(head, &hop.dst_mac, &hop.src_mac);
    account(flows.core_mut(id)?, counters, (direction, facts), *now_ms);
    Some(depart(snapshot, &mut arrival.frame, hop, counters))
}

/// Puts a tunnel's headers around a packet; the slot of its next hop.
#[inline(never)]
fn wrap(
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
    let fits = facts.ip_bytes.checked_add(overhead).is_some_and(|bytes| bytes <= mtu);
    let room = frame.headroom_bytes() >= usize::from(overhead);
    let end = L3 + usize::from(facts.ip_bytes);
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

/// The next hop of a packet whose flow goes on as it is; none where there is more to do.
#[inline(always)]
fn way<'h>(
    core: &FlowCore,
    direction: Direction,
    facts: &Facts,
    snapshot: &Snapshot,
    hops: &'h [NextHop],
) -> Option<&'h NextHop> {
    // What is for a server that was removed is dropped.
    let is_served = direction == Direction::Outbound || !snapshot.is_removed(core.server());
    let is_quiet = core.is_quiet(direction, facts.protocol);
    let says_nothing = facts.flags.0 & DECIDING.0 == TcpFlags::ACK.0 || is_udp(facts);
    if !is_served || !is_quiet || !says_nothing || core.epoch != snapshot.timeouts_epoch {
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

/// How a frame that was rewritten ends: at a port, or dropped and counted. Small, where a
/// `Verdict` would go by memory.
pub(super) type Departure = Result<NicId, DropReason>;

/// The end of a frame that has its MAC addresses.
#[inline(always)]
pub(super) fn depart(
    snapshot: &Snapshot,
    frame: &mut Frame,
    hop: &NextHop,
    counters: &WorkerCounters,
) -> Departure {
    let nic = snapshot.nics.get(hop.nic.index());
    if nic.is_none_or(|nic| nic.vlan.is_some()) {
        let tagged = nic.ok_or(DropReason::Internal);
        let tagged = tagged.and_then(|nic| next_hop::push_vlan(frame, nic));
        tagged.inspect_err(|reason| counters.dropped(*reason))?;
    }
    Ok(hop.nic)
}
