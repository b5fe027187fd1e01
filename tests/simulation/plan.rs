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
/// Lowest port of every service.
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
    /// Whether templates let go of servers of weight 0.
    pub expires_quiescent: bool,
    /// Lowest and highest source port of the local addresses.
    pub ports: (u16, u16),
    /// Conversations of one round.
    pub talks: u16,
    /// Rounds: between two all flows end, and their slots are given out anew.
    pub rounds: u64,
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

/// The director's own addresses that a Local server may have.
const OWN: [[&str; 2]; 2] = [["127.0.0.1", OUTER[0]], ["::1", OUTER[1]]];

/// A server of a service: the port is the service's own where the mode cannot change it, and the
/// client's where the service has several. Tunnels and FULLNAT may lead to the other family.
pub fn server_of(spec: &ServiceSpec, n: u8, mode: ForwardMode, random: &mut Random) -> ServerSpec {
    let port = match spec.key.port() {
        Some(_) if mode.maps_ports() => 8080,
        own => own.unwrap_or(0),
    };
    let family = usize::from(!spec.is_ipv4());
    let server = |address: IpAddr| server((address, port).into(), 1, mode);
    match mode {
        ForwardMode::Local => return server(OWN[family][usize::from(n % 2)].parse().unwrap()),
        ForwardMode::FullNat if random.one_in(3) => return server(rip(1 - family, n)),
        ForwardMode::Tunnel => {}
        _ => return server(rip(family, n)),
    }
    let family = random.below(2) as usize;
    let mut server = server(rip(family, n + 8 * family as u8));
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

/// Whether FULLNAT translates between the families here.
pub fn crosses(spec: &ServiceSpec) -> bool {
    let is_other = |server: &ServerSpec| server.address.is_ipv4() != spec.is_ipv4();
    spec.servers.iter().any(|server| server.mode == ForwardMode::FullNat && is_other(server))
}

/// Where clients of a service may turn to.
pub fn targets(spec: &ServiceSpec) -> Vec<(Protocol, (IpAddr, u16))> {
    let all = spec.key.as_match().into_iter().chain(spec.matches.iter().copied());
    let ports = |one: TrafficMatch| {
        [PORT, PORT + 1, PORT + 2, 9_000].into_iter().filter(move |port| one.ports.contains(*port))
    };
    all.flat_map(|one| ports(one).map(move |port| (one.protocol, (one.prefix.address(), port))))
        .collect()
}

/// One port, several, all or a group of TCP and UDP ports that are scheduled as one.
fn service_key(random: &mut Random, vip: IpAddr, protocol: Protocol) -> ServiceSpec {
    let kind = random.below(10);
    let key = match kind {
        0 => ServiceKey::group(&format!("at {vip}").replace([' ', '.', ':'], "-")).unwrap(),
        1 => ServiceKey::new(protocol, vip, 0),
        2 => ServiceKey::Address { protocol, vip, ports: Ports::range(PORT, PORT + 2).unwrap() },
        _ => ServiceKey::new(protocol, vip, PORT),
    };
    let scheduler = random.pick(&[
        SchedulerSpec::RoundRobin,
        SchedulerSpec::WeightedRoundRobin,
        SchedulerSpec::SourceHash(HashFlags { port: true, fallback: true }),
        SchedulerSpec::Maglev { slots: 251 },
    ]);
    let mut spec = ServiceSpec::new(key, scheduler);
    if kind == 0 {
        let one = |(protocol, port)| ServiceKey::new(protocol, vip, port).as_match().unwrap();
        let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
        spec.matches = [(tcp, PORT), (tcp, PORT + 1), (udp, PORT)].map(one).to_vec();
    }
    if kind < 2 || random.one_in(3) {
        let client_bits = match vip {
            IpAddr::V4(_) => random.pick(&[32, 31, 24, 16]),
            IpAddr::V6(_) => random.pick(&[128, 126, 64]),
        };
        let timeout_ms = random.pick(&[1_000, 2_000, 50_000, 360_000]);
        spec.persistence = Some(Persistence { timeout_ms, client_bits });
    }
    spec
}

fn service(random: &mut Random, at: usize, protocol: Protocol) -> ServiceSpec {
    let family = random.below(2) as usize;
    let mut spec = service_key(random, VIPS[family][at].parse().unwrap(), protocol);
    spec.pool = Some("pool".into());
    spec.ttl = random.pick(&[TtlPolicy::Keep, TtlPolicy::Decrement]);
    spec.one_packet = spec.key.protocol() == Some(Protocol::Udp) && random.one_in(3);
    let modes = if spec.one_packet { one_packet_modes(random) } else { some_modes(random) };
    if modes.iter().all(|mode| mode.sees_replies()) && spec.key.protocol() != Some(Protocol::Udp) {
        spec.synproxy = random.one_in(2);
    }
    if modes == [ForwardMode::FullNat] && spec.key.protocol() == Some(Protocol::Tcp) {
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
        if spec.servers.iter().all(|other| other.endpoint() != server.endpoint()) {
            spec.servers.push(server);
        }
    }
    spec
}

fn some_modes(random: &mut Random) -> &'static [ForwardMode] {
    use ForwardMode::{DirectRoute, FullNat, Local, Nat, Tunnel};
    random.pick(&[
        &[FullNat][..],
        &[FullNat],
        &[DirectRoute],
        &[Nat],
        &[Nat, FullNat],
        &[Nat, DirectRoute, FullNat],
        &[Tunnel],
        &[Tunnel, DirectRoute, Nat],
        &[Local],
        &[Local, DirectRoute, FullNat],
    ])
}

/// Modes whose replies nobody has to translate; by NAT they leave as they are.
fn one_packet_modes(random: &mut Random) -> &'static [ForwardMode] {
    use ForwardMode::{DirectRoute, Nat, Tunnel};
    random.pick(&[&[DirectRoute][..], &[Tunnel], &[Tunnel, DirectRoute], &[Nat]])
}

/// A FULLNAT service of one server.
fn one_busy_server(random: &mut Random) -> ServiceSpec {
    loop {
        let mut spec = service(random, 0, Protocol::Tcp);
        let is_tcp = spec.key.protocol() == Some(Protocol::Tcp);
        if is_tcp && spec.servers.iter().all(|server| server.mode == ForwardMode::FullNat) {
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
            expires_quiescent: random.one_in(2),
            ports: if few { (2000, 1999 + u16::from(workers)) } else { (2000, 2255) },
            talks: if few { 40 } else { 4 + random.below(14) as u16 },
            rounds: if mix == Mix::Changes { 1 + random.below(2) } else { 1 },
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
