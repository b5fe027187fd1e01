//! Between the schema's types and the model's: what is written and what is meant.

use super::health::{Check, written_checks, written_health};
use super::types::{
    ClientAddress, Config, Defence, Forwarding, Helper, Kernel, Match, Protocol, Scheduler,
    SchedulerFlag, Semantics, Server, Service, Timeouts, Ttl, Tunnel, TunnelChecksum,
};
use super::values::{ClientPrefix, Endpoint, MatchAddress, ServiceAddress};
use crate::limits::MAGLEV_SLOTS_DEFAULT;
use crate::model::{
    self, ConnReuse, Desired, ForwardMode, GUE_PORT_DEFAULT, GroupName, GueChecksum, HashFlags,
    KernelMode, Persistence, PoolSpec, Removal, SchedulerSpec, ServerSpec, ServiceKey, ServiceSpec,
    TimeoutOverrides, TrafficMatch, TtlPolicy,
};

/// TCP option kind of `toa` unless configured: Alibaba's.
const TOA_KIND_DEFAULT: u8 = 254;

impl From<Forwarding> for ForwardMode {
    fn from(forwarding: Forwarding) -> Self {
        match forwarding {
            Forwarding::Dr => ForwardMode::DirectRoute,
            Forwarding::FullNat => ForwardMode::FullNat,
            Forwarding::Nat => ForwardMode::Nat,
            Forwarding::Tun => ForwardMode::Tunnel,
            Forwarding::Local => ForwardMode::Local,
        }
    }
}

impl From<ForwardMode> for Forwarding {
    fn from(mode: ForwardMode) -> Self {
        match mode {
            ForwardMode::DirectRoute => Forwarding::Dr,
            ForwardMode::FullNat => Forwarding::FullNat,
            ForwardMode::Nat => Forwarding::Nat,
            ForwardMode::Tunnel => Forwarding::Tun,
            ForwardMode::Local => Forwarding::Local,
        }
    }
}

impl From<Protocol> for model::Protocol {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => model::Protocol::Tcp,
            Protocol::Udp => model::Protocol::Udp,
        }
    }
}

impl From<model::Protocol> for Protocol {
    fn from(protocol: model::Protocol) -> Self {
        match protocol {
            model::Protocol::Tcp => Protocol::Tcp,
            model::Protocol::Udp => Protocol::Udp,
        }
    }
}

impl From<Kernel> for KernelMode {
    fn from(kernel: Kernel) -> Self {
        match kernel {
            Kernel::Tap => KernelMode::Tap,
            Kernel::Shared => KernelMode::Shared,
            Kernel::None => KernelMode::None,
        }
    }
}

impl Config {
    /// What the file wants of the registry. Servers that are no longer listed drain.
    pub fn desired(&self) -> Desired {
        let pools = self.local_addresses.iter().map(|(name, pool)| PoolSpec {
            name: name.clone(),
            addresses: pool.addresses.clone(),
            ports: pool.ports,
        });
        Desired {
            pools: pools.collect(),
            services: self.service.iter().map(Service::spec).collect(),
            semantics: (&self.semantics).into(),
            removal: Removal::Drain { deadline: None },
        }
    }

    /// This configuration with other services and switches: those that run now.
    pub fn with_services<'s>(
        &self,
        services: impl Iterator<Item = &'s ServiceSpec>,
        semantics: &model::Semantics,
    ) -> Config {
        Config {
            service: services.map(Service::from).collect(),
            semantics: semantics.into(),
            ..self.clone()
        }
    }
}

impl Service {
    /// What identifies it. `None` while neither an address nor a group is given.
    pub fn key(&self) -> Option<ServiceKey> {
        match (&self.address, &self.group) {
            (Some(ServiceAddress { vip, ports }), _) => Some(ServiceKey::Address {
                protocol: self.protocol.into(),
                vip: *vip,
                ports: *ports,
            }),
            (None, Some(name)) => ServiceKey::group(name),
            (None, None) => None,
        }
    }

    /// What is meant; meanings are not judged here.
    pub(super) fn spec(&self) -> ServiceSpec {
        let mode = self.forwarding.into();
        // The schema asks for one of the two; a group without a name is refused in any case.
        let key = self.key().unwrap_or(ServiceKey::Group(GroupName::new()));
        let port = key.port().unwrap_or(0);
        ServiceSpec {
            key,
            matches: self.r#match.iter().map(Match::traffic).collect(),
            name: self.name.clone(),
            scheduler: self.scheduler_spec(),
            forwarding: mode,
            pool: self.local_addresses.clone(),
            ttl: match self.ttl {
                None => TtlPolicy::ByMode,
                Some(Ttl::Keep) => TtlPolicy::Keep,
                Some(Ttl::Decrement) => TtlPolicy::Decrement,
            },
            mss_max: self.mss_max,
            synproxy: self.synproxy,
            client_address: match self.client_address {
                ClientAddress::None => model::ClientAddress::None,
                ClientAddress::Toa => model::ClientAddress::Toa {
                    kind: self.toa_kind.unwrap_or(TOA_KIND_DEFAULT),
                    on_syn: self.toa_on_syn,
                },
                ClientAddress::Uoa => model::ClientAddress::Uoa,
                ClientAddress::ProxyV1 => model::ClientAddress::ProxyV1,
                ClientAddress::ProxyV2 => model::ClientAddress::ProxyV2,
            },
            helper: self.helper.map(|Helper::Ftp| model::Helper::Ftp),
            connections_max: self.connections_max,
            allow: self.allow.iter().map(|prefix| prefix.0).collect(),
            deny: self.deny.iter().map(|prefix| prefix.0).collect(),
            persistence: self.persistence(),
            one_packet: self.one_packet,
            mark: self.mark,
            timeouts: self.timeouts.into(),
            checks: self.check.iter().map(Check::spec).collect(),
            health: self.health_spec(),
            sorry_server: self.sorry_spec(port, mode),
            servers: self.server.iter().map(|server| server.spec(port, mode)).collect(),
        }
    }

    fn persistence(&self) -> Option<Persistence> {
        let is_ipv4 = match (&self.address, self.r#match.first()) {
            (Some(address), _) => address.vip.is_ipv4(),
            (None, Some(one)) => one.address.prefix.address().is_ipv4(),
            (None, None) => true,
        };
        Some(Persistence {
            timeout_ms: self.persistence_timeout?.saturating_mul(1000),
            client_bits: self.persistence_prefix.unwrap_or(client_bits_max(is_ipv4)),
        })
    }

    fn scheduler_spec(&self) -> SchedulerSpec {
        let flags = |port, fallback| HashFlags {
            port: self.scheduler_flags.contains(&port),
            fallback: self.scheduler_flags.contains(&fallback),
        };
        match self.scheduler {
            Scheduler::Rr => SchedulerSpec::RoundRobin,
            Scheduler::Wrr => SchedulerSpec::WeightedRoundRobin,
            Scheduler::Lc => SchedulerSpec::LeastConnections,
            Scheduler::Wlc => SchedulerSpec::WeightedLeastConnections,
            Scheduler::Lblc => SchedulerSpec::LocalityLeastConnections,
            Scheduler::Lblcr => SchedulerSpec::ReplicatedLocality,
            Scheduler::Dh => SchedulerSpec::DestinationHash,
            Scheduler::Sh => {
                SchedulerSpec::SourceHash(flags(SchedulerFlag::ShPort, SchedulerFlag::ShFallback))
            }
            Scheduler::Sed => SchedulerSpec::ShortestExpectedDelay,
            Scheduler::Nq => SchedulerSpec::NeverQueue,
            Scheduler::Fo => SchedulerSpec::Failover,
            Scheduler::Ovf => SchedulerSpec::Overflow,
            Scheduler::Mh => {
                SchedulerSpec::KernelMaglev(flags(SchedulerFlag::MhPort, SchedulerFlag::MhFallback))
            }
            Scheduler::Maglev => SchedulerSpec::Maglev {
                slots: self.maglev_slots.map_or(MAGLEV_SLOTS_DEFAULT, |slots| slots as usize),
            },
        }
    }
}

/// Bits of one client's address.
fn client_bits_max(is_ipv4: bool) -> u8 {
    if is_ipv4 { 32 } else { 128 }
}

impl Match {
    fn traffic(&self) -> TrafficMatch {
        let MatchAddress { prefix, ports } = self.address;
        TrafficMatch { protocol: self.protocol.into(), prefix, ports }
    }
}

impl From<&TrafficMatch> for Match {
    fn from(one: &TrafficMatch) -> Self {
        let address = MatchAddress { prefix: one.prefix, ports: one.ports };
        Match { address, protocol: one.protocol.into() }
    }
}

impl Server {
    /// What is meant in a service with that port and forwarding.
    pub(super) fn spec(&self, port: u16, mode: ForwardMode) -> ServerSpec {
        ServerSpec {
            address: self.address.address,
            port: self.address.port.unwrap_or(port),
            weight: self.weight,
            upper_threshold: self.upper_threshold,
            lower_threshold: self.lower_threshold,
            mode: self.forwarding.map_or(mode, ForwardMode::from),
            tunnel: self.tunnel_spec(),
            checks: self.check.as_ref().map(|own| own.iter().map(Check::spec).collect()),
        }
    }

    fn tunnel_spec(&self) -> model::Tunnel {
        let checksum = self.tunnel_checksum.unwrap_or_default();
        match self.tunnel.unwrap_or_default() {
            Tunnel::Ipip => model::Tunnel::Ipip,
            Tunnel::Gre => model::Tunnel::Gre { checksum: checksum != TunnelChecksum::None },
            Tunnel::Gue => model::Tunnel::Gue {
                port: self.tunnel_port.unwrap_or(GUE_PORT_DEFAULT),
                checksum: match checksum {
                    TunnelChecksum::None => GueChecksum::None,
                    TunnelChecksum::Csum => GueChecksum::Sum,
                    TunnelChecksum::Remcsum => GueChecksum::Remote,
                },
            },
        }
    }
}

impl From<&ServiceSpec> for Service {
    fn from(spec: &ServiceSpec) -> Self {
        let (scheduler, scheduler_flags, maglev_slots) = written_scheduler(spec.scheduler);
        let (client_address, toa_kind, toa_on_syn) = written_client_address(spec.client_address);
        let mut service = Service {
            address: match spec.key {
                ServiceKey::Address { vip, ports, .. } => Some(ServiceAddress { vip, ports }),
                ServiceKey::Group(_) => None,
            },
            protocol: spec.key.protocol().map_or_else(Protocol::default, Protocol::from),
            group: match spec.key {
                ServiceKey::Address { .. } => None,
                ServiceKey::Group(name) => Some(name.to_string()),
            },
            r#match: spec.matches.iter().map(Match::from).collect(),
            name: spec.name.clone(),
            scheduler,
            scheduler_flags,
            maglev_slots,
            forwarding: spec.forwarding.into(),
            ttl: match spec.ttl {
                TtlPolicy::ByMode => None,
                TtlPolicy::Keep => Some(Ttl::Keep),
                TtlPolicy::Decrement => Some(Ttl::Decrement),
            },
            mss_max: spec.mss_max,
            local_addresses: spec.pool.clone(),
            synproxy: spec.synproxy,
            client_address,
            toa_kind,
            toa_on_syn,
            helper: spec.helper.map(|model::Helper::Ftp| Helper::Ftp),
            connections_max: spec.connections_max,
            allow: spec.allow.iter().copied().map(ClientPrefix).collect(),
            deny: spec.deny.iter().copied().map(ClientPrefix).collect(),
            persistence_timeout: spec.persistence.map(|kept| kept.timeout_ms / 1000),
            persistence_prefix: spec
                .persistence
                .map(|kept| kept.client_bits)
                .filter(|bits| *bits != client_bits_max(spec.is_ipv4())),
            one_packet: spec.one_packet,
            mark: spec.mark,
            timeouts: spec.timeouts.into(),
            on_failure: None,
            starts_down: false,
            quorum: None,
            quorum_hysteresis: None,
            quorum_up: Vec::new(),
            quorum_down: Vec::new(),
            quorum_down_at_stop: false,
            slow_start_ms: None,
            sorry_server: None,
            check: Vec::new(),
            server: spec.servers.iter().map(|server| written_server(server, spec)).collect(),
        };
        written_health(spec, &mut service);
        service
    }
}

fn written_scheduler(spec: SchedulerSpec) -> (Scheduler, Vec<SchedulerFlag>, Option<u32>) {
    let plain = |scheduler| (scheduler, Vec::new(), None);
    // A scheduler's flags are its key's port and its fallback, in this order.
    let hashing = |scheduler: Scheduler, set: HashFlags| {
        let flags = scheduler.flags().iter().zip([set.port, set.fallback]);
        (scheduler, flags.filter(|(_, set)| *set).map(|(flag, _)| *flag).collect(), None)
    };
    match spec {
        SchedulerSpec::RoundRobin => plain(Scheduler::Rr),
        SchedulerSpec::WeightedRoundRobin => plain(Scheduler::Wrr),
        SchedulerSpec::LeastConnections => plain(Scheduler::Lc),
        SchedulerSpec::WeightedLeastConnections => plain(Scheduler::Wlc),
        SchedulerSpec::LocalityLeastConnections => plain(Scheduler::Lblc),
        SchedulerSpec::ReplicatedLocality => plain(Scheduler::Lblcr),
        SchedulerSpec::DestinationHash => plain(Scheduler::Dh),
        SchedulerSpec::SourceHash(flags) => hashing(Scheduler::Sh, flags),
        SchedulerSpec::ShortestExpectedDelay => plain(Scheduler::Sed),
        SchedulerSpec::NeverQueue => plain(Scheduler::Nq),
        SchedulerSpec::Failover => plain(Scheduler::Fo),
        SchedulerSpec::Overflow => plain(Scheduler::Ovf),
        SchedulerSpec::KernelMaglev(flags) => hashing(Scheduler::Mh, flags),
        SchedulerSpec::Maglev { slots } => {
            let written = (slots != MAGLEV_SLOTS_DEFAULT).then_some(slots);
            (Scheduler::Maglev, Vec::new(), written.and_then(|slots| u32::try_from(slots).ok()))
        }
    }
}

fn written_client_address(address: model::ClientAddress) -> (ClientAddress, Option<u8>, bool) {
    match address {
        model::ClientAddress::None => (ClientAddress::None, None, false),
        model::ClientAddress::Toa { kind, on_syn } => {
            (ClientAddress::Toa, (kind != TOA_KIND_DEFAULT).then_some(kind), on_syn)
        }
        model::ClientAddress::Uoa => (ClientAddress::Uoa, None, false),
        model::ClientAddress::ProxyV1 => (ClientAddress::ProxyV1, None, false),
        model::ClientAddress::ProxyV2 => (ClientAddress::ProxyV2, None, false),
    }
}

fn written_tunnel(tunnel: model::Tunnel) -> (Tunnel, Option<u16>, TunnelChecksum) {
    match tunnel {
        model::Tunnel::Ipip => (Tunnel::Ipip, None, TunnelChecksum::None),
        model::Tunnel::Gre { checksum: false } => (Tunnel::Gre, None, TunnelChecksum::None),
        model::Tunnel::Gre { checksum: true } => (Tunnel::Gre, None, TunnelChecksum::Csum),
        model::Tunnel::Gue { port, checksum } => {
            let checksum = match checksum {
                GueChecksum::None => TunnelChecksum::None,
                GueChecksum::Sum => TunnelChecksum::Csum,
                GueChecksum::Remote => TunnelChecksum::Remcsum,
            };
            (Tunnel::Gue, (port != GUE_PORT_DEFAULT).then_some(port), checksum)
        }
    }
}

pub(super) fn written_server(server: &ServerSpec, service: &ServiceSpec) -> Server {
    let (tunnel, tunnel_port, checksum) = written_tunnel(server.tunnel);
    Server {
        address: Endpoint {
            address: server.address,
            port: Some(server.port).filter(|port| *port != 0),
        },
        weight: server.weight,
        upper_threshold: server.upper_threshold,
        lower_threshold: server.lower_threshold,
        forwarding: (server.mode != service.forwarding).then_some(server.mode.into()),
        tunnel: (tunnel != Tunnel::Ipip).then_some(tunnel),
        tunnel_port,
        tunnel_checksum: (checksum != TunnelChecksum::None).then_some(checksum),
        check: server.checks.as_deref().map(written_checks),
    }
}

impl From<Timeouts> for TimeoutOverrides {
    fn from(written: Timeouts) -> Self {
        let millis = |seconds: Option<u32>| seconds.map(|seconds| seconds.saturating_mul(1000));
        TimeoutOverrides {
            established_ms: millis(written.established),
            syn_sent_ms: millis(written.syn_sent),
            syn_recv_ms: millis(written.syn_recv),
            fin_wait_ms: millis(written.fin_wait),
            time_wait_ms: millis(written.time_wait),
            close_ms: millis(written.close),
            close_wait_ms: millis(written.close_wait),
            last_ack_ms: millis(written.last_ack),
            synack_ms: millis(written.synack),
            udp_ms: millis(written.udp),
        }
    }
}

impl From<TimeoutOverrides> for Timeouts {
    fn from(timeouts: TimeoutOverrides) -> Self {
        let seconds = |millis: Option<u32>| millis.map(|millis| millis / 1000);
        Timeouts {
            established: seconds(timeouts.established_ms),
            syn_sent: seconds(timeouts.syn_sent_ms),
            syn_recv: seconds(timeouts.syn_recv_ms),
            fin_wait: seconds(timeouts.fin_wait_ms),
            time_wait: seconds(timeouts.time_wait_ms),
            close: seconds(timeouts.close_ms),
            close_wait: seconds(timeouts.close_wait_ms),
            last_ack: seconds(timeouts.last_ack_ms),
            synack: seconds(timeouts.synack_ms),
            udp: seconds(timeouts.udp_ms),
        }
    }
}

impl From<Defence> for model::Defence {
    fn from(defence: Defence) -> Self {
        match defence {
            Defence::Off => model::Defence::Off,
            Defence::Pressure => model::Defence::Pressure,
            Defence::Always => model::Defence::Always,
        }
    }
}

impl From<model::Defence> for Defence {
    fn from(defence: model::Defence) -> Self {
        match defence {
            model::Defence::Off => Defence::Off,
            model::Defence::Pressure => Defence::Pressure,
            model::Defence::Always => Defence::Always,
        }
    }
}

impl From<&Semantics> for model::Semantics {
    fn from(written: &Semantics) -> Self {
        let timeouts = TimeoutOverrides::from(written.timeouts);
        model::Semantics {
            conn_reuse: match written.conn_reuse_mode {
                0 => ConnReuse::Never,
                1 => ConnReuse::Ended,
                _ => ConnReuse::EndedOrHalfSeen,
            },
            expire_nodest_conn: written.expire_nodest_conn,
            expire_quiescent_template: written.expire_quiescent_template,
            sloppy_tcp: written.sloppy_tcp,
            secure_tcp: written.secure_tcp.into(),
            drop_entry: written.drop_entry.into(),
            drop_packet: written.drop_packet.into(),
            nat_icmp_send: written.nat_icmp_send,
            pmtu_disc: written.pmtu_disc,
            timeouts: timeouts.over(&model::Timeouts::default()),
        }
    }
}

impl From<&model::Semantics> for Semantics {
    fn from(semantics: &model::Semantics) -> Self {
        let (kernel, ours) = (model::Timeouts::default(), semantics.timeouts);
        Semantics {
            conn_reuse_mode: match semantics.conn_reuse {
                ConnReuse::Never => 0,
                ConnReuse::Ended => 1,
                ConnReuse::EndedOrHalfSeen => 2,
            },
            expire_nodest_conn: semantics.expire_nodest_conn,
            expire_quiescent_template: semantics.expire_quiescent_template,
            sloppy_tcp: semantics.sloppy_tcp,
            secure_tcp: semantics.secure_tcp.into(),
            drop_entry: semantics.drop_entry.into(),
            drop_packet: semantics.drop_packet.into(),
            nat_icmp_send: semantics.nat_icmp_send,
            pmtu_disc: semantics.pmtu_disc,
            timeouts: TimeoutOverrides::between(&kernel, &ours).into(),
        }
    }
}
