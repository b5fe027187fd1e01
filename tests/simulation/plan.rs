//! What a run consists of, all of it from the seed.

use std::net::IpAddr;

use gyre::model::*;

use crate::endpoint::Stack;
use crate::support::server;

pub const VIPS: [[&str; 3]; 2] =
    [["10.1.0.1", "10.1.0.2", "10.1.0.3"], ["fd00:1::1", "fd00:1::2", "fd00:1::3"]];
/// Outer source addresses of tunnels.
pub const OUTER: [&str; 2] = ["10.2.0.1", "fd00:2::1"];
pub const LIPS: [&str; 4] = ["10.2.0.2", "10.2.0.3", "fd00:2::2", "fd00:2::3"];
/// Port of every service.
pub const PORT: u16 = 80;
pub const TOA_KIND: u8 = 254;

/// Small, fast, good enough for a test.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % limit
    }

    pub fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    pub fn pick<T: Copy>(&mut self, choice: &[T]) -> T {
        choice[self.below(choice.len() as u64) as usize]
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.below(256) as u8).collect()
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.below(at as u64 + 1) as usize);
        }
    }
}

/// What a test puts weight on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    /// Nothing but traffic.
    Calm,
    /// Servers and services come, change and go.
    Changes,
    /// Frames are lost and overtake each other.
    BadLinks,
    /// Source ports are used up and taken over.
    FewPorts,
}

/// One run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub mix: Mix,
    pub seed: u64,
    pub workers: u8,
    pub services: Vec<ServiceSpec>,
    /// Lowest and highest source port of the local addresses.
    pub ports: (u16, u16),
    /// Conversations.
    pub talks: u16,
    /// Time in which they start.
    pub spread_us: u64,
    pub loss_per_mille: u64,
    pub jitter_us: u64,
    /// Frames of one burst at most.
    pub burst_max: u64,
}

/// A real server's address.
pub fn rip(family: usize, n: u8) -> IpAddr {
    match family {
        0 => IpAddr::from([10, 2, 0, n]),
        _ => IpAddr::from([0xfd00, 2, 0, 0, 0, 0, 0, u16::from(n)]),
    }
}

/// A server of a service: the port is the service's own where the mode cannot change it, and a
/// tunnel may lead to the other family, as FULLNAT may.
pub fn server_of(spec: &ServiceSpec, n: u8, mode: ForwardMode, random: &mut Random) -> ServerSpec {
    let port = if mode.sees_replies() { 8080 } else { PORT };
    let family = usize::from(spec.key.vip().unwrap().is_ipv6());
    let across = mode == ForwardMode::FullNat && random.one_in(3);
    let family = if across { 1 - family } else { family };
    if mode != ForwardMode::Tunnel {
        return server((rip(family, n), port).into(), 1, mode);
    }
    let family = random.below(2) as usize;
    let mut server = server((rip(family, n + 8 * family as u8), port).into(), 1, mode);
    server.tunnel = random.pick(&[
        Tunnel::Ipip,
        Tunnel::Gre { checksum: false },
        Tunnel::Gre { checksum: true },
        Tunnel::Gue { port: 6080, checksum: GueChecksum::None },
        Tunnel::Gue { port: 6080, checksum: GueChecksum::Sum },
        Tunnel::Gue { port: 6080, checksum: GueChecksum::Remote },
    ]);
    server
}

fn service(random: &mut Random, at: usize, protocol: Protocol) -> ServiceSpec {
    let family = random.below(2) as usize;
    let key = ServiceKey::new(protocol, VIPS[family][at].parse().unwrap(), PORT);
    let scheduler = random.pick(&[
        SchedulerSpec::RoundRobin,
        SchedulerSpec::WeightedRoundRobin,
        SchedulerSpec::SourceHash(HashFlags { port: true, fallback: true }),
        SchedulerSpec::Maglev { slots: 251 },
    ]);
    let mut spec = ServiceSpec::new(key, scheduler);
    spec.pool = Some("pool".into());
    spec.ttl = random.pick(&[TtlPolicy::Keep, TtlPolicy::Decrement]);
    let modes = random.pick(&[
        &[ForwardMode::FullNat][..],
        &[ForwardMode::DirectRoute],
        &[ForwardMode::Nat],
        &[ForwardMode::Nat, ForwardMode::FullNat],
        &[ForwardMode::Nat, ForwardMode::DirectRoute, ForwardMode::FullNat],
        &[ForwardMode::Tunnel],
        &[ForwardMode::Tunnel, ForwardMode::DirectRoute, ForwardMode::Nat],
    ]);
    if modes.iter().all(|mode| mode.sees_replies()) && protocol == Protocol::Tcp {
        spec.synproxy = random.one_in(2);
    }
    if modes == [ForwardMode::FullNat] && protocol == Protocol::Tcp {
        spec.client_address = random.pick(&[
            ClientAddress::None,
            ClientAddress::Toa { kind: TOA_KIND, on_syn: false },
            ClientAddress::ProxyV1,
            ClientAddress::ProxyV2,
        ]);
    }
    spec.forwarding = modes[0];
    for n in 11..12 + random.below(4) as u8 {
        let mode = random.pick(modes);
        let server = server_of(&spec, n, mode, random);
        spec.servers.push(server);
    }
    spec
}

/// A FULLNAT service of one server.
fn one_busy_server(random: &mut Random) -> ServiceSpec {
    loop {
        let mut spec = service(random, 0, Protocol::Tcp);
        if spec.servers.iter().all(|server| server.mode == ForwardMode::FullNat) {
            spec.servers.truncate(1);
            return spec;
        }
    }
}

impl Plan {
    /// The run of a seed.
    pub fn new(mix: Mix, seed: u64) -> Self {
        let mut random = Random(seed ^ 0x5eed);
        let workers = 1 + random.below(8) as u8;
        let services = (0..1 + random.below(3) as usize)
            .map(|at| {
                let protocol = random.pick(&[Protocol::Tcp, Protocol::Tcp, Protocol::Udp]);
                service(&mut random, at, protocol)
            })
            .collect();
        let bad = mix == Mix::BadLinks;
        let few = mix == Mix::FewPorts;
        let services = if few { vec![one_busy_server(&mut random)] } else { services };
        Plan {
            mix,
            seed,
            workers,
            services,
            ports: if few { (2000, 1999 + u16::from(workers)) } else { (2000, 2255) },
            talks: if few { 40 } else { 4 + random.below(14) as u16 },
            spread_us: if few { 600_000 } else { 60_000 },
            loss_per_mille: if bad { random.pick(&[0, 10, 30]) } else { 0 },
            jitter_us: if bad { random.pick(&[500, 5_000]) } else { 1 },
            burst_max: 1 + random.below(6),
        }
    }
}

/// A client's TCP stack. Nothing learns a path's MTU here, so tunnels need small segments.
pub fn client_stack(random: &mut Random, service: &ServiceSpec) -> Stack {
    let tunnels = service.servers.iter().any(|server| server.mode == ForwardMode::Tunnel);
    Stack {
        mss: if tunnels { 1220 } else { random.pick(&[1440, 1380, 1220]) },
        scale: random.pick(&[Some(7), Some(0), None]),
        sack: !random.one_in(4),
        timestamps: !random.one_in(3),
        buffer: random.pick(&[60_000, 8_000]),
    }
}

/// A server's, which has all that SYNPROXY promises its clients.
pub const SERVER_STACK: Stack =
    Stack { mss: 1440, scale: Some(7), sack: true, timestamps: true, buffer: 60_000 };
