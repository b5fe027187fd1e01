//! Everything one worker owns.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use arrayvec::ArrayVec;

use super::defence::Defences;
use super::flow::Direction;
use super::flow_table::{FlowId, FlowTable};
use super::fragment::Fragments;
use super::ftp::Ftp;
use super::identification::Identifications;
use super::learned_mtu::LearnedMtus;
use super::outbox::Outbox;
use super::persistence::Note;
use super::schedule::Schedulers;
use super::source_ports::SourcePorts;
use super::sweep::RunningSweep;
use super::synproxy::Synproxy;
use super::templates::Templates;
use crate::counters::WorkerCounters;
use crate::limits::{EVENTS_MAX, NEXT_HOPS_MAX, NOTES_MAX, TEMPLATES_MIN};
use crate::memory::MemoryError;
use crate::message::FromWorker;
use crate::model::{NextHop, NextHopId, NicId, Snapshot, WorkerId};
use crate::time::Nanos;
use crate::wire::pair::MacPair;

/// What a worker needs to start.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// Its number.
    pub worker: WorkerId,
    /// How many there are.
    pub workers: u8,
    /// IPv4 flows it may hold.
    pub flows_v4_max: usize,
    /// IPv6 flows it may hold.
    pub flows_v6_max: usize,
    /// Pairs of local address and server it can hold source ports for, at most
    /// `SOURCE_PORT_SPACES_MAX`: 8 KiB each.
    pub source_port_spaces: usize,
    /// Random: keys the flow hash and the SYN cookies.
    pub seed: u64,
    /// Where it counts.
    pub counters: Arc<WorkerCounters>,
}

/// One worker's flows, cursors, ports and counters. Nobody else touches them.
#[derive(Debug)]
pub struct WorkerState {
    pub(super) worker: WorkerId,
    pub(super) workers: u8,
    /// Time of the burst or timer at work.
    pub(super) now: Nanos,
    /// The same as flows keep it.
    pub(super) now_ms: u32,
    /// Whether frames are tried on the fast path first.
    pub(super) has_fast_path: bool,
    /// Whether it runs short of flow entries: `Defence::Pressure` is up.
    pub(super) is_short: bool,
    pub(super) templates: Templates,
    /// What other workers should hear of templates.
    pub notes: ArrayVec<(WorkerId, Note), NOTES_MAX>,
    pub(super) defences: Defences,
    /// Counts flows, so that each starts its search at another local address.
    pub(super) next_local: u32,
    /// Flows made when timers were last looked at.
    pub(super) made_before: u64,
    /// Its counters.
    pub counters: Arc<WorkerCounters>,
    /// Its flows.
    pub flows: FlowTable,
    pub(super) source_ports: SourcePorts,
    pub(super) schedulers: Schedulers,
    pub(super) hops: Vec<NextHop>,
    pub(super) learned_mtus: LearnedMtus,
    pub(super) ids: Identifications,
    /// Extra frames of the last burst.
    pub outbox: Outbox,
    /// What control should hear.
    pub events: ArrayVec<FromWorker, EVENTS_MAX>,
    pub(super) sweep: Option<RunningSweep>,
    pub(super) synproxy: Synproxy,
    pub(super) fragments: Fragments,
    pub(super) ftp: Ftp,
}

/// Room for persistence templates: one for four flows.
fn templates_max(config: &WorkerConfig) -> usize {
    ((config.flows_v4_max + config.flows_v6_max) / 4).max(TEMPLATES_MIN)
}

impl WorkerState {
    /// Takes all memory the worker will ever use.
    pub fn new(config: &WorkerConfig, now: Nanos) -> Result<Self, MemoryError> {
        let unresolved = NextHop {
            nic: NicId(0),
            resolved: false,
            macs: MacPair::new([0; 6], [0; 6]),
            mtu: u16::MAX,
            neighbour: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        };
        Ok(WorkerState {
            worker: config.worker,
            workers: config.workers,
            now,
            now_ms: now.as_millis_u32(),
            has_fast_path: true,
            is_short: false,
            templates: Templates::new(templates_max(config), now)?,
            notes: ArrayVec::new(),
            defences: Defences::default(),
            next_local: 0,
            made_before: 0,
            counters: config.counters.clone(),
            flows: FlowTable::new(config.flows_v4_max, config.flows_v6_max, config.seed, now)?,
            source_ports: SourcePorts::new(config.worker, config.source_port_spaces)?,
            schedulers: Schedulers::new(config.counters.servers.len(), config.seed),
            hops: vec![unresolved; NEXT_HOPS_MAX],
            learned_mtus: LearnedMtus::new(),
            ids: Identifications::new(config.worker, config.workers, config.seed),
            outbox: Outbox::new(),
            events: ArrayVec::new(),
            sweep: None,
            synproxy: Synproxy::new(config.seed, now),
            fragments: Fragments::new(config.seed),
            ftp: Ftp::new(),
        })
    }

    /// Sends every frame the general way: to hold the two against each other.
    pub fn without_fast_path(mut self) -> Self {
        self.has_fast_path = false;
        self
    }

    /// Writes one next-hop slot; flows that use it follow at once.
    pub fn set_next_hop(&mut self, id: NextHopId, hop: NextHop) {
        if let Some(slot) = self.hops.get_mut(id.index()) {
            if (slot.nic, slot.neighbour) != (hop.nic, hop.neighbour) {
                self.learned_mtus.forget(id);
            }
            *slot = hop;
        }
    }

    /// The next hop in a slot.
    pub fn next_hop(&self, id: NextHopId) -> Option<&NextHop> {
        self.hops.get(id.index())
    }

    /// Takes note that tunnel packets beyond `mtu` bytes, outer header included, do not get through
    /// to the server of a flow: an ICMP error said so. For ten minutes, on this worker, clients of
    /// servers behind the same next hop are told what fits.
    pub fn learn_path_mtu(&mut self, id: FlowId, mtu: u16) {
        let Some(addresses) = self.flows.addresses(id) else { return };
        let Some(core) = self.flows.core(id) else { return };
        let (hop, is_ipv4) = (core.hop(Direction::Inbound), addresses.server.is_ipv4());
        self.learned_mtus.learn(hop, is_ipv4, mtu, self.now);
    }

    /// An identification for packets that may be cut.
    pub(super) fn next_fragment_id(&mut self) -> u32 {
        self.ids.next()
    }

    /// As `next_fragment_id`, for IPv4.
    pub(super) fn next_ip_id(&mut self) -> u16 {
        self.next_fragment_id() as u16
    }

    /// Takes note of a new snapshot between two bursts.
    pub fn adopt(&mut self, snapshot: &Snapshot) {
        self.schedulers.adopt(snapshot);
        self.counters.revision.set(snapshot.revision);
    }

    /// Queues an event; a full queue loses it, since everything told is told again when it
    /// happens again.
    pub(super) fn tell(&mut self, event: FromWorker) {
        let _ = self.events.try_push(event);
    }
}
