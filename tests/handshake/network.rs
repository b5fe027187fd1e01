//! A client, a director and a server, with links that lose and reorder by a seed.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::{IpAddr, SocketAddr};

use gyre::model::*;
use gyre::time::Nanos;

use crate::endpoint::{Endpoint, Stack, State};
use crate::segment::Segment;
use crate::support::*;

pub const CLIENTS: [&str; 2] = ["198.51.100.7", "2001:db8:c::7"];
pub const VIPS: [&str; 2] = ["192.0.2.80", "2001:db8:1::80"];
pub const RIPS: [&str; 2] = ["10.2.0.11", "fd00:2::b"];
pub const TOA_KIND: u8 = 254;

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

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

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.below(256) as u8).collect()
    }
}

/// What happens in a run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The client's and the service's.
    pub family: usize,
    pub server_family: usize,
    pub address: ClientAddress,
    pub synproxy: bool,
    pub client: Stack,
    pub server: Stack,
    pub server_speaks_first: bool,
    pub closes_at_once: bool,
    pub request_bytes: usize,
    pub response_bytes: usize,
    pub loss_per_mille: u64,
    pub jitter_us: u64,
    pub seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Director(u8),
    Client,
    Server,
}

/// A frame on a link: when it arrives, its number, where.
type Travel = (u64, u64, Place, Vec<u8>);

/// A director with one FULLNAT service of one server.
pub fn director(plan: &Plan, ports: (u16, u16)) -> Director {
    let mut director = Director::new(KernelMode::Shared);
    let key = ServiceKey::new(Protocol::Tcp, ip(VIPS[plan.family]), 80);
    let mut spec = ServiceSpec::new(key, SchedulerSpec::RoundRobin);
    spec.pool = Some("pool".into());
    spec.client_address = plan.address;
    spec.synproxy = plan.synproxy;
    let address = SocketAddr::new(ip(RIPS[plan.server_family]), 8080);
    // Where the server is told nothing, NAT has to do as well.
    let is_plain = plan.address == ClientAddress::None && plan.family == plan.server_family;
    let nat = is_plain && plan.seed % 2 == 1;
    let mode = if nat { ForwardMode::Nat } else { ForwardMode::FullNat };
    spec.servers = vec![server(address, 1, mode)];
    let mut wanted = desired(vec![spec]);
    wanted.pools[0].ports = ports;
    director.change(|registry, hops| registry.apply(&wanted, hops)).unwrap();
    director
}

pub struct Network {
    pub director: Director,
    pub plan: Plan,
    pub random: Random,
    pub now: u64,
    queue: BinaryHeap<Reverse<Travel>>,
    queued: u64,
    pub client: Option<Endpoint>,
    pub servers: HashMap<(IpAddr, u16), Endpoint>,
    /// Connections that the server has ended, and holds in TIME_WAIT.
    pub time_wait: HashMap<(IpAddr, u16), (u32, u32)>,
    pub latest: Option<(IpAddr, u16)>,
    banner: Vec<u8>,
    request: Vec<u8>,
    response: Vec<u8>,
}

impl Network {
    pub fn new(plan: Plan, ports: (u16, u16)) -> Self {
        let director = director(&plan, ports);
        Network {
            now: director.now.0 / 1000,
            director,
            plan,
            random: Random(plan.seed),
            queue: BinaryHeap::new(),
            queued: 0,
            client: None,
            servers: HashMap::new(),
            time_wait: HashMap::new(),
            latest: None,
            banner: Vec::new(),
            request: Vec::new(),
            response: Vec::new(),
        }
    }

    /// The PROXY header that the server must find, written here anew.
    pub fn header(&self, src_port: u16) -> Vec<u8> {
        let (client, vip) = (ip(CLIENTS[self.plan.family]), ip(VIPS[self.plan.family]));
        match self.plan.address {
            ClientAddress::ProxyV1 => {
                let family = ["TCP4", "TCP6"][self.plan.family];
                format!("PROXY {family} {client} {vip} {src_port} 80\r\n").into_bytes()
            }
            ClientAddress::ProxyV2 => {
                let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21".to_vec();
                header.push([0x11, 0x21][self.plan.family]);
                header.extend([0, [12, 36][self.plan.family]]);
                for address in [client, vip] {
                    match address {
                        IpAddr::V4(v4) => header.extend(v4.octets()),
                        IpAddr::V6(v6) => header.extend(v6.octets()),
                    }
                }
                header.extend(src_port.to_be_bytes());
                header.extend([0, 80]);
                header
            }
            _ => Vec::new(),
        }
    }

    fn toa(&self, src_port: u16) -> (u8, Vec<u8>) {
        let mut data = src_port.to_be_bytes().to_vec();
        match ip(CLIENTS[self.plan.family]) {
            IpAddr::V4(v4) => data.extend(v4.octets()),
            IpAddr::V6(v6) => data.extend(v6.octets()),
        }
        (TOA_KIND, data)
    }

    /// As `try_connection`, which must not end in a reset.
    pub fn run_connection(&mut self, src_port: u16) {
        assert!(self.try_connection(src_port), "reset: {:?}", self.plan);
    }

    /// Opens a connection from `src_port`, runs it to its end, and checks every byte of it;
    /// `false` when the client was reset.
    pub fn try_connection(&mut self, src_port: u16) -> bool {
        self.start(src_port);
        let deadline = self.now + 120_000_000;
        while !self.is_over() {
            assert!(self.now < deadline, "stuck: {:?} {}", self.plan, self.describe());
            self.step();
            if self.client.as_ref().unwrap().state == State::Reset {
                return false;
            }
        }
        self.verify(src_port);
        self.settle();
        true
    }

    fn describe(&self) -> String {
        let client = self.client.as_ref().unwrap();
        let server = self.latest.and_then(|key| self.servers.get(&key));
        format!(
            "client {:?} got {}/{} done {}; server {:?}; flows {:?}",
            client.state,
            client.received.len(),
            self.banner.len() + self.response.len(),
            client.is_done(),
            server.map(|s| (s.state, s.received.len(), s.fin_received, s.is_done())),
            self.director.flows(),
        )
    }

    fn start(&mut self, src_port: u16) {
        let plan = self.plan;
        self.request = self.random.bytes(plan.request_bytes);
        self.response = self.random.bytes(plan.response_bytes);
        self.banner = self.random.bytes(if plan.server_speaks_first { 700 } else { 0 });
        let macs = (ROUTER_MAC, director_mac(CLIENT));
        let local = (ip(CLIENTS[plan.family]), src_port);
        let seed = self.random.below(1 << 32) as u32;
        let peer = (ip(VIPS[plan.family]), 80);
        let client = Endpoint::connect(local, peer, macs, (plan.client, seed), self.now);
        self.client = Some(client);
        self.latest = None;
        self.think();
        self.collect();
    }

    fn is_over(&self) -> bool {
        let server = self.latest.and_then(|key| self.servers.get(&key));
        self.client.as_ref().is_some_and(Endpoint::is_done) && server.is_some_and(Endpoint::is_done)
    }

    /// Both applications' part.
    fn think(&mut self) {
        let header_bytes = self.client.as_ref().map_or(0, |c| self.header(c.local.1).len());
        let client = self.client.as_mut().unwrap();
        if client.outgoing.is_empty()
            && client.state == State::Established
            && client.received.len() >= self.banner.len()
        {
            client.outgoing = self.request.clone();
            client.closes = self.plan.closes_at_once;
            client.push(self.now);
        }
        let all = self.banner.len() + self.response.len();
        if !client.closes && client.received.len() == all && !client.outgoing.is_empty() {
            client.closes = true;
            client.push(self.now);
        }
        let Some(server) = self.latest.and_then(|key| self.servers.get_mut(&key)) else { return };
        if server.state != State::Established {
            return;
        }
        if server.outgoing.len() < self.banner.len() {
            server.outgoing = self.banner.clone();
            server.push(self.now);
        }
        let asked = server.received.len() == header_bytes + self.request.len();
        if asked && !server.closes {
            server.outgoing.extend_from_slice(&self.response);
            server.closes = true;
            server.push(self.now);
        }
    }

    fn send(&mut self, place: Place, frame: Vec<u8>) {
        if self.random.below(1000) < self.plan.loss_per_mille {
            return;
        }
        let at = self.now + 2_000 + self.random.below(self.plan.jitter_us.max(1));
        self.queued += 1;
        self.queue.push(Reverse((at, self.queued, place, frame)));
    }

    fn collect(&mut self) {
        let frames = std::mem::take(&mut self.client.as_mut().unwrap().out);
        for frame in frames {
            self.send(Place::Director(CLIENT.0), frame);
        }
        let frames: Vec<_> =
            self.servers.values_mut().flat_map(|server| std::mem::take(&mut server.out)).collect();
        for frame in frames {
            self.send(Place::Director(SERVER.0), frame);
        }
    }

    /// One event, or ten milliseconds.
    pub fn step(&mut self) {
        let next_tick = (self.now / 10_000 + 1) * 10_000;
        match self.queue.peek() {
            Some(Reverse((at, ..))) if *at < next_tick => {
                let Some(Reverse((at, _, place, frame))) = self.queue.pop() else { return };
                self.now = self.now.max(at);
                self.deliver(place, &frame);
            }
            _ => {
                self.now = next_tick;
                self.tick();
            }
        }
        self.think();
        self.collect();
    }

    fn tick(&mut self) {
        let now = self.now;
        self.client.as_mut().unwrap().tick(now);
        for server in self.servers.values_mut() {
            server.tick(now);
        }
        self.director.now = Nanos(now * 1000);
        while self.director.state.expire(&self.director.snapshot, self.director.now) > 0 {}
        let mut extra = Vec::new();
        self.director.state.outbox.drain(|nic, bytes| extra.push((nic, bytes.to_vec())));
        self.send_on(extra);
    }

    fn send_on(&mut self, frames: Vec<(NicId, Vec<u8>)>) {
        for (nic, frame) in frames {
            Segment::read(&frame);
            let place = if nic == CLIENT { Place::Client } else { Place::Server };
            self.send(place, frame);
        }
    }

    fn deliver(&mut self, place: Place, frame: &[u8]) {
        match place {
            Place::Director(nic) => {
                self.director.now = Nanos(self.now * 1000);
                let outcome = self.director.receive(NicId(nic), frame);
                let mut frames = outcome.extra.clone();
                if let Some(nic) = outcome.sent_on() {
                    frames.push((nic, outcome.frame));
                }
                self.send_on(frames);
            }
            Place::Client => {
                let segment = Segment::read(frame);
                let client = self.client.as_mut().unwrap();
                // What is late for the connection before this one finds nobody.
                if segment.dst == Some(client.local) {
                    client.receive(&segment, self.now);
                }
            }
            Place::Server => self.deliver_to_server(&Segment::read(frame)),
        }
    }

    fn deliver_to_server(&mut self, segment: &Segment) {
        use gyre::wire::tcp::TcpFlags;
        let key = segment.src.unwrap();
        if let Some(server) = self.servers.get_mut(&key) {
            let again = segment.has(TcpFlags::SYN) && server.peer_first != segment.seq;
            if !(again && server.is_done()) {
                server.receive(segment, self.now);
                return;
            }
        }
        if !segment.has(TcpFlags::SYN) {
            return;
        }
        if let Some((next, stamp)) = self.time_wait.get(&key) {
            // RFC 9293 section 3.10.7.4 and RFC 6191, as Linux has them.
            let is_above = (segment.seq.wrapping_sub(*next) as i32) > 0;
            let is_later =
                segment.timestamps.is_none_or(|(value, _)| value.wrapping_sub(*stamp) as i32 >= 0);
            assert!(is_above && is_later, "refused in TIME_WAIT: {segment:?} after {next} {stamp}");
        }
        let macs = (server_mac(segment.dst.unwrap().0), director_mac(SERVER));
        let seed = self.random.below(1 << 32) as u32;
        let server = Endpoint::accept(segment, macs, (self.plan.server, seed), self.now);
        self.servers.insert(key, server);
        self.latest = Some(key);
    }

    fn verify(&mut self, src_port: u16) {
        let client = self.client.as_ref().unwrap();
        let server = &self.servers[&self.latest.unwrap()];
        let mut said = self.header(src_port);
        said.extend_from_slice(&self.request);
        assert!(server.received == said, "server's bytes {:?}", self.plan);
        let heard = [self.banner.as_slice(), &self.response].concat();
        assert!(client.received == heard, "client's bytes {:?}", self.plan);
        if matches!(self.plan.address, ClientAddress::Toa { .. }) {
            assert!(server.handshake_options.contains(&self.toa(src_port)), "{:?}", self.plan);
        }
    }

    /// Lets what is still on its way arrive, so that both sides know the other's end.
    fn settle(&mut self) {
        let until = self.now + 1_000_000;
        while self.now < until {
            self.step();
        }
        let key = self.latest.unwrap();
        let server = &self.servers[&key];
        self.time_wait.insert(key, (server.receive_next(), server.stamp_seen));
    }
}
