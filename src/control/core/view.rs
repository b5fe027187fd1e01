//! Rows for people out of what is published and counted. A `View` is a cheap copy of all that they
//! need, so that long lists are made off the control thread.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use hashbrown::{HashMap, HashSet};

use super::baseline::Counts;
use super::rates::Rates;
use crate::config::{Forwarding, SchedulerFlag, ServiceAddress, Tunnel, TunnelChecksum};
use crate::control::api::{
    ApiError, CauseCount, CheckRow, LocalAddressRow, MempoolRow, NeighbourRow, PortRow, ServerRow,
    ServiceRow, Stats, Status, WorkerDetail, WorkerRow,
};
use crate::control::health::board::{CheckHealth, ServerHealth, ServiceHealth, Services};
use crate::control::port_info::PortInfo;
use crate::counters::{
    Counter, DropReason, HandOffCause, HelperEvent, NicCounters, ReplyKind, WorkerCounters,
};
use crate::model::next_hops::{HopRow, HopTarget};
use crate::model::{
    self, ForwardMode, GueChecksum, KernelMode, LipId, NicModel, PoolSpec, Protocol, RealServer,
    Scheduler, ServerState, ServiceId, ServiceKey, Snapshot, VirtualService,
};

/// What lists are made of.
#[derive(Clone)]
pub struct View {
    pub snapshot: Arc<Snapshot>,
    pub counts: Counts,
    pub rates: Arc<Rates>,
    pub pools: Arc<Vec<PoolSpec>>,
    pub hops: Vec<HopRow>,
    pub ports: Vec<PortInfo>,
    pub stalled: Vec<bool>,
    pub config_path: Arc<str>,
    pub config_revision: u64,
    pub started: Instant,
    pub health: Services,
    pub now_ms: u64,
}

/// Frames that were not gyre's to forward: on a shared interface there are some all the time.
const NO_LOSS: [DropReason; 2] = [DropReason::OwnFrame, DropReason::KernelCopy];

/// The word users write for a mode.
pub fn mode_word(mode: ForwardMode) -> &'static str {
    Forwarding::from(mode).word()
}

/// `tcp`, `udp`, or `group`, whose matches may mix them.
fn protocol_word(key: &ServiceKey) -> &'static str {
    match key.protocol() {
        Some(Protocol::Tcp) => "tcp",
        Some(Protocol::Udp) => "udp",
        None => "group",
    }
}

/// VIP and ports, or a group's name.
fn address_text(key: &ServiceKey) -> String {
    match *key {
        ServiceKey::Address { vip, ports, .. } => ServiceAddress { vip, ports }.to_string(),
        ServiceKey::Group(name) => name.to_string(),
    }
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn kernel_word(kernel: KernelMode) -> &'static str {
    match kernel {
        KernelMode::Tap => "tap",
        KernelMode::Shared => "shared",
        KernelMode::None => "none",
    }
}

impl View {
    pub fn status(&self) -> Status {
        let stalled = (0u8..).zip(&self.stalled).filter(|(_, stalled)| **stalled);
        let servers: usize = self.live_services().map(|service| service.servers.len()).sum();
        let name = |nic| self.snapshot.nics.iter().find(|model| model.id == nic);
        let down = self.ports.iter().filter(|port| !port.link_up);
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            config_path: self.config_path.to_string(),
            revision: self.snapshot.revision,
            config_revision: self.config_revision,
            workers: self.counts.workers.len() as u32,
            workers_stalled: stalled.map(|(at, _)| at).collect(),
            ports: self.snapshot.nics.len() as u32,
            ports_down: down.filter_map(|port| Some(name(port.nic)?.name.clone())).collect(),
            services: self.live_services().count() as u32,
            servers: servers as u32,
            servers_down: self.down() as u32,
            flows: self.counts.sum(|worker| worker.flows.get()),
            flows_created: self.counts.sum(|worker| worker.flows_created.get()),
            drops: self.counts.sum(|worker| total(&worker.drops)),
            drops_expected: self.counts.sum(|worker| {
                NO_LOSS.iter().map(|reason| worker.drops[*reason as usize].get()).sum()
            }),
            neighbours_unresolved: self.unresolved().count() as u32,
        }
    }

    pub fn stats(&self) -> Stats {
        let by = |read: fn(&WorkerCounters) -> &[Counter], at: usize| {
            self.counts.sum(|worker| read(worker)[at].get())
        };
        let drops = DropReason::ALL.iter();
        let hand_offs = HandOffCause::ALL.iter();
        let replies = ReplyKind::ALL.iter();
        Stats {
            drops: drops
                .map(|r| cause(r.name(), r.meaning(), by(|w| &w.drops, *r as usize)))
                .collect(),
            hand_offs: hand_offs
                .map(|c| cause(c.name(), c.meaning(), by(|w| &w.hand_offs, *c as usize)))
                .collect(),
            replies: replies
                .map(|k| cause(k.name(), k.meaning(), by(|w| &w.replies, *k as usize)))
                .collect(),
            helpers: HelperEvent::ALL
                .iter()
                .map(|e| cause(e.name(), e.meaning(), by(|w| &w.helpers, *e as usize)))
                .collect(),
            workers: self
                .workers()
                .into_iter()
                .zip(self.counts.workers.iter())
                .map(detail)
                .collect(),
            ports: self.ports(),
            services: self.services(None),
            local_addresses: self.local_addresses(),
            neighbours_unresolved: self.unresolved().map(|hop| self.neighbour(hop)).collect(),
        }
    }

    /// All services, or one.
    pub fn services(&self, only: Option<ServiceId>) -> Vec<ServiceRow> {
        let unresolved = self.unresolved_addresses();
        let mut services: Vec<&VirtualService> =
            self.live_services().filter(|service| only.is_none_or(|id| service.id == id)).collect();
        services.sort_by_key(|service| service.key);
        services.into_iter().map(|service| self.service(service, &unresolved)).collect()
    }

    /// The servers of all services, or of one.
    pub fn servers(&self, only: Option<ServiceId>) -> Vec<ServerRow> {
        self.services(only).into_iter().flat_map(|service| service.servers).collect()
    }

    /// The service that `name` means.
    pub fn find(&self, name: &str) -> Result<ServiceId, ApiError> {
        let named = self.live_services().map(|service| (service.key, service.name.as_deref()));
        let key = super::naming::find_service(name, named)?;
        Ok(self.snapshot.service_by_key[&key])
    }

    pub fn workers(&self) -> Vec<WorkerRow> {
        let rows = (0u8..).zip(self.counts.workers.iter()).zip(&self.stalled);
        rows.map(|((id, worker), stalled)| worker_row(id, worker, *stalled)).collect()
    }

    pub fn ports(&self) -> Vec<PortRow> {
        self.snapshot.nics.iter().map(|nic| self.port(nic)).collect()
    }

    pub fn neighbours(&self) -> Vec<NeighbourRow> {
        self.hops.iter().filter(|hop| hop.used).map(|hop| self.neighbour(hop)).collect()
    }

    /// The checks of all services, or of one.
    pub fn checks(&self, only: Option<ServiceId>) -> Vec<CheckRow> {
        let mut services: Vec<&VirtualService> =
            self.live_services().filter(|service| only.is_none_or(|id| service.id == id)).collect();
        services.sort_by_key(|service| service.key);
        let known = services.into_iter().filter_map(|service| self.health.get(&service.key));
        let mut rows = Vec::new();
        for health in known {
            for server in &health.servers {
                rows.extend(server.checks.iter().map(|one| self.check(health, server, one)));
            }
        }
        rows
    }

    fn check(&self, of: &ServiceHealth, server: &ServerHealth, one: &CheckHealth) -> CheckRow {
        let last = one.last.as_ref();
        CheckRow {
            service: of.key().to_string(),
            server: server.endpoint.to_string(),
            check: one.kind().into(),
            target: one.target(),
            state: if one.standing.is_good() { "good" } else { "bad" }.into(),
            since_s: self.now_ms.saturating_sub(one.since_ms) / 1000,
            last: last.map(|(result, _)| result.clone().err().unwrap_or_else(|| "good".into())),
            last_ago_ms: last.map(|(_, at_ms)| self.now_ms.saturating_sub(*at_ms)),
            took_us: last.and_then(|(result, _)| {
                let took = result.as_ref().ok()?;
                u64::try_from(took.as_micros()).ok()
            }),
            interval_ms: one.check.spec.interval_ms,
        }
    }

    /// Servers that fail.
    fn down(&self) -> usize {
        let all = self.health.values().flat_map(|health| &health.servers);
        all.filter(|server| !server.up).count()
    }

    fn live_services(&self) -> impl Iterator<Item = &VirtualService> {
        self.snapshot.services.iter().flatten().map(|service| &**service)
    }

    fn unresolved(&self) -> impl Iterator<Item = &HopRow> {
        self.hops.iter().filter(|hop| hop.used && !hop.hop.resolved)
    }

    fn unresolved_addresses(&self) -> HashSet<IpAddr> {
        let address = |hop: &HopRow| match hop.target {
            HopTarget::Address(address) => Some(address),
            HopTarget::Route(_) | HopTarget::Router(..) => None,
        };
        self.unresolved().filter_map(address).collect()
    }

    fn service(&self, service: &VirtualService, unresolved: &HashSet<IpAddr>) -> ServiceRow {
        let totals = self.counts.service(service.id);
        let traffic = self.counts.traffic_of_service(service);
        let server = |server| self.server(service, server, unresolved);
        ServiceRow {
            protocol: protocol_word(&service.key).into(),
            address: address_text(&service.key),
            name: service.name.clone(),
            mark: service.mark,
            family: if service.is_ipv4() { "ipv4" } else { "ipv6" }.into(),
            scheduler: service.scheduler.name().into(),
            scheduler_flags: scheduler_flags(&service.scheduler),
            persistence_timeout_s: service.persistence.map(|kept| kept.timeout_ms / 1000),
            persistence_prefix: service.persistence.map(|kept| kept.client_bits),
            one_packet: service.one_packet,
            local_addresses: self.pool_of(service),
            synproxy: service.synproxy,
            connections_max: service.connections_max,
            flows: totals.flows,
            connections: totals.connections,
            in_packets: traffic.in_packets,
            in_bytes: traffic.in_bytes,
            out_packets: traffic.out_packets,
            out_bytes: traffic.out_bytes,
            rates: self.rates.service(service.id),
            refused: totals.refused,
            cookies_sent: totals.cookies_sent,
            cookies_proven: totals.cookies_proven,
            quorum: self.health.get(&service.key).and_then(|one| one.quorum_word()).map(Into::into),
            servers: service.servers.iter().chain(&service.taken_out).map(server).collect(),
        }
    }

    fn server(
        &self,
        service: &VirtualService,
        server: &RealServer,
        unresolved: &HashSet<IpAddr>,
    ) -> ServerRow {
        let totals = self.counts.server(server.id);
        let tunnel = (server.mode == ForwardMode::Tunnel).then(|| tunnel_words(server.tunnel));
        let endpoint = SocketAddr::new(server.address, server.port);
        let is_out = service.taken_out.iter().any(|out| out.id == server.id);
        let asked = service.spec.servers.iter().find(|asked| asked.endpoint() == endpoint);
        let health = self.health.get(&service.key);
        let health = health.and_then(|health| health.of(endpoint).map(|one| (health, one)));
        let (word, reason, since) = health.map_or(("unchecked", None, None), |(health, one)| {
            let since =
                (!one.checks.is_empty()).then(|| self.now_ms.saturating_sub(one.since_ms) / 1000);
            (one.word(), health.reason(one), since)
        });
        let state = match server.state {
            ServerState::Active if is_out => "out",
            ServerState::Active => "active",
            ServerState::Draining => "draining",
        };
        ServerRow {
            service: service.key.to_string(),
            address: SocketAddr::new(server.address, server.port).to_string(),
            forwarding: mode_word(server.mode).into(),
            tunnel: tunnel.map(|(word, ..)| word.into()),
            tunnel_port: tunnel.and_then(|(_, port, _)| port),
            tunnel_checksum: tunnel.and_then(|(.., checksum)| checksum).map(Into::into),
            weight: if is_out { 0 } else { server.weight },
            weight_asked: asked.map_or(server.weight, |asked| asked.weight),
            health: word.into(),
            health_reason: reason,
            health_since_s: since,
            upper_threshold: server.upper_threshold,
            lower_threshold: server.lower_threshold,
            state: state.into(),
            reachable: !unresolved.contains(&server.address),
            active: totals.active,
            // Two gauges read one after the other: the second may be ahead.
            inactive: totals.flows.saturating_sub(totals.active),
            templates: self.counts.own_templates(server.id),
            connections: totals.connections,
            in_packets: totals.in_packets,
            in_bytes: totals.in_bytes,
            out_packets: totals.out_packets,
            out_bytes: totals.out_bytes,
            rates: self.rates.server(server.id),
            refused: totals.refused,
        }
    }

    /// The pool that a service's local addresses come from.
    fn pool_of(&self, service: &VirtualService) -> Option<String> {
        let lip = service.local_addresses.first()?.address;
        let pool = self.pools.iter().find(|pool| pool.addresses.contains(&lip))?;
        Some(pool.name.clone())
    }

    fn port(&self, nic: &NicModel) -> PortRow {
        let info = self.ports.iter().find(|port| port.nic == nic.id).cloned().unwrap_or_default();
        let sum = |read: fn(&NicCounters) -> &Counter| {
            self.counts.sum(|worker| worker.nics.get(nic.id.index()).map_or(0, |n| read(n).get()))
        };
        let pool = |p: crate::control::MempoolInfo| MempoolRow {
            name: p.name,
            size: p.size,
            in_use: p.in_use,
        };
        PortRow {
            id: nic.id.0,
            name: nic.name.clone(),
            device: info.device,
            driver: info.driver,
            kernel: kernel_word(nic.kernel).into(),
            interface: info.interface,
            mac: mac_text(nic.mac),
            mtu: nic.mtu,
            vlan: nic.vlan,
            addresses: nic.addresses.iter().map(IpAddr::to_string).collect(),
            link_up: info.link_up,
            link_mbps: info.link_mbps,
            rx_queues: info.rx_queues,
            tx_queues: info.tx_queues,
            rx_frames: sum(|nic| &nic.rx_frames),
            rx_bytes: sum(|nic| &nic.rx_bytes),
            tx_frames: sum(|nic| &nic.tx_frames),
            tx_bytes: sum(|nic| &nic.tx_bytes),
            to_kernel: sum(|nic| &nic.to_kernel),
            from_kernel: sum(|nic| &nic.from_kernel),
            rx_missed: info.rx_missed,
            rx_nombuf: info.rx_nombuf,
            rx_errors: info.rx_errors,
            tx_errors: info.tx_errors,
            tx_full: sum(|nic| &nic.tx_full),
            kernel_refused: info.kernel_refused,
            kernel_ring_full: info.kernel_ring_full,
            kernel_nombuf: info.kernel_nombuf,
            mempools: info.mempools.into_iter().map(pool).collect(),
        }
    }

    fn neighbour(&self, row: &HopRow) -> NeighbourRow {
        let hop = &row.hop;
        let (address, target) = match row.target {
            HopTarget::Address(address) if hop.neighbour.is_unspecified() => (address, None),
            HopTarget::Address(address) if hop.neighbour == address => (address, None),
            HopTarget::Address(address) => (hop.neighbour, Some(address.to_string())),
            HopTarget::Route(prefix) => (hop.neighbour, Some(prefix.to_string())),
            HopTarget::Router(_, router) => (router, None),
        };
        let has_route = !hop.neighbour.is_unspecified();
        let port = self.snapshot.nics.iter().find(|nic| has_route && nic.id == hop.nic);
        NeighbourRow {
            address: address.to_string(),
            target,
            port: port.map(|nic| nic.name.clone()),
            mac: hop.resolved.then(|| mac_text(hop.macs.dst())),
            resolved: hop.resolved,
            mtu: hop.mtu,
        }
    }

    fn local_addresses(&self) -> Vec<LocalAddressRow> {
        let servers = self.servers_by_lip();
        let mut rows = Vec::new();
        for pool in self.pools.iter() {
            for lip in pool.addresses.iter().filter_map(|address| self.snapshot.lips.get(address)) {
                let totals = self.counts.lip(lip.id);
                let (first, last) = lip.ports.range();
                let ports = u64::from(last - first) + 1;
                let pairs = ports * servers.get(&lip.id).copied().unwrap_or(0) as u64;
                rows.push(LocalAddressRow {
                    pool: pool.name.clone(),
                    address: lip.address.to_string(),
                    port_first: first,
                    port_last: last,
                    used: totals.used,
                    free: pairs.saturating_sub(totals.used),
                    reused: totals.reused,
                    exhausted: totals.exhausted,
                });
            }
        }
        rows
    }

    /// How many servers each local address is used towards.
    fn servers_by_lip(&self) -> HashMap<LipId, usize> {
        // A pool's addresses serve the same services: one set for all of them.
        let mut pools: HashMap<Vec<LipId>, HashSet<SocketAddr>> = HashMap::new();
        for service in self.live_services().filter(|s| !s.local_addresses.is_empty()) {
            for is_ipv4 in [true, false] {
                let lips = service.local_addresses.iter();
                let lips = lips.filter(|lip| lip.address.is_ipv4() == is_ipv4);
                let full_nat = service.servers.iter().filter(|server| {
                    server.mode == ForwardMode::FullNat && server.address.is_ipv4() == is_ipv4
                });
                let endpoints = full_nat.map(|server| SocketAddr::new(server.address, server.port));
                pools.entry(lips.map(|lip| lip.id).collect()).or_default().extend(endpoints);
            }
        }
        let sizes = pools.iter().flat_map(|(lips, set)| lips.iter().map(|id| (*id, set.len())));
        sizes.collect()
    }
}

fn scheduler_flags(scheduler: &Scheduler) -> Vec<String> {
    let (set, [port, fallback]) = match scheduler {
        Scheduler::SourceHash(set, _) => (set, [SchedulerFlag::ShPort, SchedulerFlag::ShFallback]),
        Scheduler::KernelMaglev(set, _) => {
            (set, [SchedulerFlag::MhPort, SchedulerFlag::MhFallback])
        }
        _ => return Vec::new(),
    };
    let flags = [(set.port, port), (set.fallback, fallback)];
    flags.into_iter().filter(|(set, _)| *set).map(|(_, flag)| flag.word().into()).collect()
}

/// What users write for a tunnel: its kind, port and checksum.
fn tunnel_words(tunnel: model::Tunnel) -> (&'static str, Option<u16>, Option<&'static str>) {
    match tunnel {
        model::Tunnel::Ipip => (Tunnel::Ipip.word(), None, None),
        model::Tunnel::Gre { checksum } => {
            let word = if checksum { TunnelChecksum::Csum } else { TunnelChecksum::None };
            (Tunnel::Gre.word(), None, Some(word.word()))
        }
        model::Tunnel::Gue { port, checksum } => {
            let word = match checksum {
                GueChecksum::None => TunnelChecksum::None,
                GueChecksum::Sum => TunnelChecksum::Csum,
                GueChecksum::Remote => TunnelChecksum::Remcsum,
            };
            (Tunnel::Gue.word(), Some(port), Some(word.word()))
        }
    }
}

fn cause(name: &str, meaning: &str, count: u64) -> CauseCount {
    CauseCount { name: name.into(), count, meaning: meaning.into() }
}

fn total(counters: &[Counter]) -> u64 {
    counters.iter().map(Counter::get).sum()
}

fn worker_row(id: u8, worker: &WorkerCounters, stalled: bool) -> WorkerRow {
    let sum = |read: fn(&NicCounters) -> &Counter| -> u64 {
        worker.nics.iter().map(|nic| read(nic).get()).sum()
    };
    WorkerRow {
        id,
        stalled,
        turns: worker.turns.get(),
        idle_turns: worker.idle_turns.get(),
        busy_ns: worker.busy_ns.get(),
        busy_cycles: worker.busy_cycles(),
        revision: worker.revision.get(),
        flows: worker.flows.get(),
        flows_created: worker.flows_created.get(),
        flows_expired: worker.flows_expired.get(),
        flows_shed: worker.flows_shed.get(),
        locality_full: worker.locality_full.get(),
        pending: worker.pending.get(),
        fast_frames: worker.fast_frames.get(),
        rx_frames: sum(|nic| &nic.rx_frames),
        tx_frames: sum(|nic| &nic.tx_frames),
        hand_offs: total(&worker.hand_offs),
        drops: total(&worker.drops),
    }
}

fn detail((row, worker): (WorkerRow, &Arc<WorkerCounters>)) -> WorkerDetail {
    let drops = DropReason::ALL.iter().zip(&worker.drops);
    let hand_offs = HandOffCause::ALL.iter().zip(&worker.hand_offs);
    WorkerDetail {
        worker: row,
        drops_by_reason: drops
            .filter(|(_, count)| count.get() > 0)
            .map(|(reason, count)| cause(reason.name(), reason.meaning(), count.get()))
            .collect(),
        hand_offs_by_cause: hand_offs
            .filter(|(_, count)| count.get() > 0)
            .map(|(by, count)| cause(by.name(), by.meaning(), count.get()))
            .collect(),
    }
}
