//! What the passes over a burst find about each frame: its headers' facts, its tuple's hash, where
//! the index says that its flow may be. Hints, by which the fast path and the general one go.
//!
//! Headers of all frames, then their index lines, then entry lines: so cache misses overlap.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use arrayvec::ArrayVec;

use super::burst::{Arrival, Burst, Errand};
use super::classify::{Kind, L3, Packet};
use super::flow::FlowKey;
use super::flow_table::FlowTable;
use super::observe::{Observer, Part};
use super::state::WorkerState;
use crate::counters::WorkerCounters;
use crate::frame::Frame;
use crate::limits::BURST_FRAMES_MAX;
use crate::memory::prefetch_write;
use crate::model::{NicId, NicModel, Protocol, Snapshot};
use crate::wire::ethernet::EtherType;
use crate::wire::ip::IpProtocol;
use crate::wire::ipv4::IPV4_HEADER_BYTES;
use crate::wire::ipv6::IPV6_HEADER_BYTES;
use crate::wire::pair::PortPair;
use crate::wire::plain::{self, Facts, MacBits, Numbers, PLAIN_V4_BYTES};
use crate::wire::tcp::{SeqNum, TcpFlags};
use crate::wire::udp::UDP_HEADER_BYTES;

/// What the passes over a burst found about one frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Glance {
    /// Hash of the tuple, if the frame is plain.
    pub hash: u64,
    /// Where the index says that its flow may be.
    pub(super) candidate: u32,
    /// What is known of a plain frame.
    pub(super) facts: Facts,
    /// Family of a plain frame.
    pub(super) shape: Shape,
}

/// As large as what lies beside it, so that both are written at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Shape {
    /// Plain IPv4.
    V4,
    /// Plain IPv6.
    V6,
    /// Not plain.
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

/// No entry: a value that no table is large enough for.
const NOWHERE: u32 = u32::MAX;

/// What every frame starts as.
const UNKNOWN: Glance =
    Glance { hash: 0, candidate: NOWHERE, facts: Facts::UNSET, shape: Shape::Other };

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
pub(super) fn over(
    state: &WorkerState,
    snapshot: &Snapshot,
    burst: &Burst,
    observer: &mut impl Observer,
) -> Glances {
    let flows = &state.flows;
    let mut glances = Glances { each: ArrayVec::new(), has_strangers: false };
    let mut port = Port::of(state, snapshot, NicId(0));
    let mut flags = 0;
    for arrival in &burst.slots {
        if arrival.rx.nic != port.nic {
            port = Port::of(state, snapshot, arrival.rx.nic);
        }
        // Filled where it lies: as a value it would be copied from branch to branch.
        glances.each.push(UNKNOWN);
        let Some(glance) = glances.each.last_mut() else { break };
        if look(flows, &port, arrival, glance).is_some() {
            flags |= glance.facts.flags().0;
        }
    }
    observer.ended(Part::Classify);
    let mut has_missed = false;
    for glance in glances.each.iter_mut().filter(|glance| glance.is_plain()) {
        match flows.candidate(glance.hash) {
            Some(candidate) => glance.candidate = candidate,
            None => has_missed = true,
        }
    }
    if has_missed {
        look_elsewhere(flows, &mut glances);
    }
    if glances.has_strangers || flags & TURNS != 0 {
        prefetch_rare(flows, snapshot, &glances);
    }
    observer.ended(Part::Lookup);
    glances
}

/// Some live in their second bucket, whose line the pass before has asked for.
#[inline(never)]
fn look_elsewhere(flows: &FlowTable, glances: &mut Glances) {
    let has_missed = |glance: &&mut Glance| glance.candidate == NOWHERE && glance.is_plain();
    for glance in glances.each.iter_mut().filter(has_missed) {
        glance.candidate = flows.candidate_elsewhere(glance.hash).unwrap_or(NOWHERE);
        glances.has_strangers |= glance.candidate == NOWHERE;
    }
}

/// Flags of segments that begin or end a connection.
const TURNS: u8 = TcpFlags::SYN.0 | TcpFlags::FIN.0 | TcpFlags::RST.0;

/// Whether a packet of no flow may make one.
#[inline(always)]
fn opens(facts: &Facts) -> bool {
    is_udp(facts) || facts.flags().contains(TcpFlags::SYN)
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
        } else if glance.facts.flags().0 & TURNS != 0 && glance.candidate != NOWHERE {
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
    /// That of no frame where frames have tags, or without a fast path: those are the general
    /// path's.
    own_mac: MacBits,
}

impl Port {
    fn of(state: &WorkerState, snapshot: &Snapshot, nic: NicId) -> Self {
        let model: Option<&NicModel> = snapshot.nics.get(nic.index());
        let own_mac = model
            .filter(|model| model.vlan.is_none() && state.has_fast_path)
            .map(|model| model.mac.into());
        Port { nic, own_mac: own_mac.unwrap_or(MacBits::NOBODYS) }
    }
}

/// Fills the glance at a plain frame, and asks for its index line.
#[inline(always)]
fn look(flows: &FlowTable, port: &Port, arrival: &Arrival, glance: &mut Glance) -> Option<()> {
    let bytes = arrival.frame.bytes();
    let head: &[u8; PLAIN_V4_BYTES] = bytes.first_chunk()?;
    let ((dst, src), own) = (plain::macs(head), port.own_mac);
    if dst != own || src == own || arrival.rx.errand != Errand::None {
        return None;
    }
    if plain::is_ether_type(head, EtherType::IPV4) {
        glance.facts = plain::read_v4(head, bytes.len())?;
        glance.hash = flows.hash_v4(plain::tuple_v4(head), glance.facts.protocol());
        glance.shape = Shape::V4;
    } else if plain::is_ether_type(head, EtherType::IPV6) {
        let tuple = plain::tuple_v6(bytes.first_chunk()?);
        glance.facts = plain::read_v6(bytes)?;
        glance.hash = flows.hash_v6(&tuple, glance.facts.protocol());
        glance.shape = Shape::V6;
    } else {
        return None;
    }
    flows.prefetch_bucket(glance.hash);
    Some(())
}

/// Whether a plain frame is a datagram.
#[inline(always)]
pub(super) fn is_udp(facts: &Facts) -> bool {
    facts.protocol() == IpProtocol::UDP
}

/// The facts of a plain frame, as `classify` would find them.
#[inline(always)]
pub(super) fn packet(frame: &Frame, glance: &Glance) -> Option<Packet> {
    let bytes = frame.bytes();
    match glance.shape {
        Shape::V4 => {
            let head: &[u8; PLAIN_V4_BYTES] = bytes.first_chunk()?;
            let (addresses, ports) = plain::tuple_v4(head);
            let between = (IpAddr::V4(addresses.src().into()), IpAddr::V4(addresses.dst().into()));
            Some(plain_packet(bytes, &glance.facts, between, ports))?
        }
        Shape::V6 => {
            let ([src, dst], ports) = plain::tuple_v6(bytes.first_chunk()?);
            let between = (IpAddr::V6(src.into()), IpAddr::V6(dst.into()));
            Some(plain_packet(bytes, &glance.facts, between, ports))?
        }
        Shape::Other => None,
    }
}

/// The facts of a plain segment but for its tuple, which may be rewritten already.
pub(super) fn segment(frame: &Frame, facts: &Facts) -> Option<Packet> {
    let bytes = frame.bytes();
    let unset = match EtherType(u16::from_be_bytes(*bytes.get(12..)?.first_chunk()?)) {
        EtherType::IPV4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        _ => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    plain_packet(bytes, facts, (unset, unset), PortPair::new(0, 0))
}

#[inline(always)]
fn plain_packet(
    bytes: &[u8],
    facts: &Facts,
    (src, dst): (IpAddr, IpAddr),
    ports: PortPair,
) -> Option<Packet> {
    let l4 = L3 + if src.is_ipv4() { IPV4_HEADER_BYTES } else { IPV6_HEADER_BYTES };
    let (protocol, numbers) = match is_udp(facts) {
        true => (Protocol::Udp, Numbers { seq: 0, ack: 0, header_bytes: UDP_HEADER_BYTES }),
        false => (Protocol::Tcp, plain::numbers(bytes.get(l4..)?.first_chunk()?)),
    };
    Some(Packet {
        kind: Kind::Transport,
        key: FlowKey { protocol, src, dst, src_port: ports.src(), dst_port: ports.dst() },
        l4,
        payload: l4 + numbers.header_bytes,
        end: L3 + usize::from(facts.ip_bytes()),
        ttl: facts.ttl(),
        flags: facts.flags(),
        seq: SeqNum(numbers.seq),
        ack: SeqNum(numbers.ack),
        piece: None,
    })
}
