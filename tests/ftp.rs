//! The FTP helper frame by frame: what each side is told, the numbers it sees for life, who owns
//! the data connections, and what is refused. Real programs do the same in `tests/netns/ftp.rs`.

mod support;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use gyre::counters::{HelperEvent, ReplyKind, WorkerCounters};
use gyre::dataplane::{Burst, RxMeta, Verdict, WorkerConfig, WorkerState, process_burst};
use gyre::frame::Frame;
use gyre::model::*;
use gyre::time::Nanos;
use gyre::wire::checksum::Sum;
use gyre::wire::ip::IpProtocol;
use gyre::wire::ipv4::Ipv4;
use gyre::wire::ipv6::Ipv6;
use gyre::wire::tcp::{Tcp, TcpFlags};

use support::*;

const CIPS: [&str; 2] = ["10.0.0.7", "fd00:c::7"];
const VIPS: [&str; 2] = ["10.1.0.1", "fd00:1::1"];
const RIPS: [[&str; 2]; 2] = [["10.2.0.11", "fd00:2::b"], ["10.2.0.12", "fd00:2::c"]];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A segment as somebody sent or got it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Segment {
    src: SocketAddr,
    dst: SocketAddr,
    seq: u32,
    ack: u32,
    flags: TcpFlags,
    text: String,
}

fn read(frame: &[u8]) -> Segment {
    let l3 = &frame[14..];
    let (src, dst, l4, pseudo): (IpAddr, IpAddr, &[u8], Sum) = if l3[0] >> 4 == 4 {
        let (ip, options, l4) = Ipv4::parse_with_options(l3).unwrap();
        ip.verify_checksum(options).unwrap();
        let pseudo = Sum::pseudo_v4(ip.src(), ip.dst(), IpProtocol::TCP, l4.len() as u16);
        (ip.src().into(), ip.dst().into(), l4, pseudo)
    } else {
        let (ip, l4) = Ipv6::parse(l3).unwrap();
        let pseudo = Sum::pseudo_v6(ip.src(), ip.dst(), IpProtocol::TCP, l4.len() as u32);
        (ip.src().into(), ip.dst().into(), l4, pseudo)
    };
    assert!(pseudo.add_bytes(l4).holds(), "the TCP checksum");
    let (tcp, text) = Tcp::parse(l4).unwrap();
    Segment {
        src: (src, tcp.src_port()).into(),
        dst: (dst, tcp.dst_port()).into(),
        seq: tcp.sequence().0,
        ack: tcp.acknowledgment().0,
        flags: tcp.flags(),
        text: String::from_utf8(text.to_vec()).unwrap(),
    }
}

/// Workers behind two ports; each frame arrives at another one.
struct Team {
    workers: Vec<WorkerState>,
    snapshot: Arc<Snapshot>,
    now: Nanos,
    turn: usize,
    family: usize,
}

impl Team {
    fn new(mode: ForwardMode, family: usize, count: u8) -> Self {
        Team::beside(KernelMode::Tap, (mode, family, count), Vec::new())
    }

    /// Ports with that kernel beside them, and further services.
    fn beside(
        kernel: KernelMode,
        (mode, family, count): (ForwardMode, usize, u8),
        more: Vec<ServiceSpec>,
    ) -> Self {
        let mut director = Director::new(kernel);
        let steering = Arc::new(Steering::for_workers(count));
        director.registry = Registry::new(RegistryConfig::new(steering));
        director.registry.set_nics(director.snapshot.nics.as_ref().clone());
        director.registry.set_routes(director.snapshot.routes.clone());
        let key = ServiceKey::new(Protocol::Tcp, ip(VIPS[family]), FTP_PORT);
        let mut spec = ServiceSpec::new(key, SchedulerSpec::RoundRobin);
        spec.forwarding = mode;
        spec.helper = Some(Helper::Ftp);
        spec.pool = (mode == ForwardMode::FullNat).then(|| "pool".into());
        let rips = RIPS.map(|rips| server((ip(rips[family]), FTP_PORT).into(), 1, mode));
        spec.servers = rips.to_vec();
        let wanted = desired([vec![spec], more].concat());
        director.change(|registry, hops| registry.apply(&wanted, hops)).unwrap();
        let worker = |worker: u8| {
            let config = WorkerConfig {
                worker: WorkerId(worker),
                workers: count,
                flows_v4_max: 256,
                flows_v6_max: 256,
                source_port_spaces: 16,
                seed: u64::from(worker),
                counters: Arc::new(WorkerCounters::with_bounds(64, 64, 64)),
            };
            let mut state = WorkerState::new(&config, director.now).unwrap();
            for slot in (0..16).map(NextHopId) {
                state.set_next_hop(slot, *director.state.next_hop(slot).unwrap());
            }
            state
        };
        let workers = (0..count).map(worker).collect();
        Team { workers, snapshot: director.snapshot.clone(), now: director.now, turn: 0, family }
    }

    /// The segment comes in by `nic`; what leaves by the other port, or what became of it instead.
    fn pass(&mut self, nic: NicId, segment: &Segment) -> Result<Segment, Verdict> {
        let build = if nic == CLIENT { from_client } else { from_server };
        let tcp = build(segment.src.ip(), segment.dst.ip());
        let tcp = tcp.tcp(segment.src.port(), segment.dst.port());
        let tcp = tcp.seq(segment.seq).ack(segment.ack).flags(segment.flags);
        let bytes = tcp.payload(segment.text.as_bytes()).build();
        let mut buffer = vec![0; 128 + 2048];
        buffer[128..128 + bytes.len()].copy_from_slice(&bytes);
        let (mut start, mut end) = (128, 128 + bytes.len());
        self.turn += 1;
        let mut at = self.turn % self.workers.len();
        for hops in 0..2 {
            let rx = RxMeta { nic, hops, ..RxMeta::default() };
            let verdict = {
                let mut burst = Burst::new();
                burst.push(Frame::new(&mut buffer, start, end), rx).unwrap();
                process_burst(&mut self.workers[at], &self.snapshot, &mut burst, self.now);
                (start, end) = burst.slots[0].frame.extent();
                burst.slots[0].verdict.unwrap()
            };
            match verdict {
                Verdict::HandOff(owner, _) => at = owner.index(),
                Verdict::Transmit(out) if out != nic => {
                    return Ok(read(&buffer[start..end]));
                }
                verdict => return Err(verdict),
            }
        }
        panic!("handed off twice");
    }

    fn helped(&self, event: HelperEvent) -> u64 {
        self.workers.iter().map(|w| w.counters.helpers[event as usize].get()).sum()
    }

    fn advance(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now = self.now + 1_000_000_000;
            for worker in &mut self.workers {
                while worker.expire(&self.snapshot, self.now) > 0 {}
            }
        }
    }

    fn flows(&self) -> usize {
        self.workers.iter().map(|worker| worker.flows.len()).sum()
    }
}

/// One side of a control connection: its own numbers.
#[derive(Clone, Debug)]
struct End {
    own: SocketAddr,
    peer: SocketAddr,
    seq: u32,
    ack: u32,
}

impl End {
    fn says(&mut self, flags: TcpFlags, text: &str) -> Segment {
        let (src, dst) = (self.own, self.peer);
        let segment =
            Segment { src, dst, seq: self.seq, ack: self.ack, flags, text: text.to_string() };
        let syn = u32::from(flags.contains(TcpFlags::SYN));
        self.seq = self.seq.wrapping_add(text.len() as u32 + syn);
        segment
    }

    /// Takes a segment that must be next in order, and acknowledge no more than was sent.
    fn hears(&mut self, segment: &Segment) {
        assert_eq!(segment.seq, self.ack, "in order: {segment:?}");
        assert_eq!(segment.ack, self.seq, "all is acknowledged: {segment:?}");
        self.ack = self.ack.wrapping_add(segment.text.len() as u32);
    }
}

/// A control connection after its handshake.
struct Talk {
    client: End,
    server: End,
}

const PUSH: TcpFlags = TcpFlags::ACK.union(TcpFlags::PSH);

fn connect(team: &mut Team, client_port: u16) -> Talk {
    connect_to(team, client_port, FTP_PORT)
}

fn connect_to(team: &mut Team, client_port: u16, port: u16) -> Talk {
    let f = team.family;
    let (own, peer) = ((ip(CIPS[f]), client_port).into(), (ip(VIPS[f]), port).into());
    let mut client = End { own, peer, seq: 5000, ack: 0 };
    let syn = client.says(TcpFlags::SYN, "");
    let at_server = team.pass(CLIENT, &syn).unwrap();
    let (own, peer) = (at_server.dst, at_server.src);
    let mut server = End { own, peer, seq: 9000, ack: at_server.seq + 1 };
    let syn_ack = server.says(TcpFlags::SYN | TcpFlags::ACK, "");
    let at_client = team.pass(SERVER, &syn_ack).unwrap();
    client.ack = at_client.seq + 1;
    assert_eq!(at_client.ack, client.seq);
    let ack = client.says(TcpFlags::ACK, "");
    server.hears(&team.pass(CLIENT, &ack).unwrap());
    Talk { client, server }
}

impl Talk {
    /// The client says something, the server acknowledges it by its answer. What each got.
    fn ask(&mut self, team: &mut Team, line: &str, answer: &str) -> (Segment, Segment) {
        let asked = team.pass(CLIENT, &self.client.says(PUSH, line)).unwrap();
        self.server.hears(&asked);
        let answered = team.pass(SERVER, &self.server.says(PUSH, answer)).unwrap();
        self.client.hears(&answered);
        (asked, answered)
    }

    /// The server's own way to say where it listens, and what the client must get.
    fn passive(&self, port: u16) -> (&'static str, String, String) {
        let numbers = |address: IpAddr| {
            let text = address.to_string().replace('.', ",");
            format!("227 Entering Passive Mode ({text},{},{}).\r\n", port >> 8, port & 255)
        };
        if self.server.own.is_ipv4() {
            ("PASV\r\n", numbers(self.server.own.ip()), numbers(self.client.peer.ip()))
        } else {
            let text = format!("229 Entering Extended Passive Mode (|||{port}|)\r\n");
            ("EPSV\r\n", text.clone(), text)
        }
    }

    /// The client's own way to say where it listens.
    fn active(&self, port: u16) -> String {
        announce(SocketAddr::new(self.client.own.ip(), port))
    }
}

fn announce(to: SocketAddr) -> String {
    match to.ip() {
        IpAddr::V4(address) => {
            let text = address.to_string().replace('.', ",");
            format!("PORT {text},{},{}\r\n", to.port() >> 8, to.port() & 255)
        }
        IpAddr::V6(address) => format!("EPRT |2|{address}|{}|\r\n", to.port()),
    }
}

/// Where a server is told to connect.
fn told(line: &str) -> SocketAddr {
    if let Some(numbers) = line.strip_prefix("PORT ") {
        let n: Vec<u8> = numbers.trim().split(',').map(|n| n.parse().unwrap()).collect();
        return ([n[0], n[1], n[2], n[3]], u16::from(n[4]) << 8 | u16::from(n[5])).into();
    }
    let parts: Vec<&str> = line.trim().split('|').collect();
    SocketAddr::new(parts[2].parse().unwrap(), parts[3].parse().unwrap())
}

fn syn(from: SocketAddr, to: SocketAddr) -> Segment {
    let flags = TcpFlags::SYN;
    Segment { src: from, dst: to, seq: 77, ack: 0, flags, text: String::new() }
}

fn answer(to: &Segment) -> Segment {
    let (src, dst, ack) = (to.dst, to.src, to.seq + 1);
    let flags = TcpFlags::SYN | TcpFlags::ACK;
    Segment { src, dst, seq: 99, ack, flags, text: String::new() }
}

/// Every mode and family, with one worker and with three.
fn everywhere(test: impl Fn(&mut Team, ForwardMode)) {
    for mode in [ForwardMode::Nat, ForwardMode::FullNat] {
        for family in 0..2 {
            for workers in [1, 3] {
                test(&mut Team::new(mode, family, workers), mode);
            }
        }
    }
}

#[test]
fn passive_data_connections_reach_the_control_connections_server() {
    everywhere(|team, mode| {
        let mut talk = connect(team, 900);
        for round in 0..3u16 {
            let port = 30_000 + round;
            let (question, said, wanted) = talk.passive(port);
            let (_, answered) = talk.ask(team, question, &said);
            assert_eq!(answered.text, wanted);
            let (vip, cip) = (talk.client.peer.ip(), talk.client.own.ip());
            let first = syn((cip, 1901 + round).into(), (vip, port).into());
            let at_server = team.pass(CLIENT, &first).unwrap();
            assert_eq!(at_server.dst, (talk.server.own.ip(), port).into());
            assert_eq!(at_server.src.ip(), talk.server.peer.ip(), "servers check this");
            assert!(mode == ForwardMode::FullNat || at_server.src == first.src);
            let at_client = team.pass(SERVER, &answer(&at_server)).unwrap();
            assert_eq!((at_client.src, at_client.dst), (first.dst, first.src));
        }
        assert_eq!(team.helped(HelperEvent::Announced), 3);
        // A second connection to an announced port was not announced.
        let (vip, cip) = (talk.client.peer.ip(), talk.client.own.ip());
        let more = syn((cip, 2901).into(), (vip, 30_000).into());
        assert!(matches!(team.pass(CLIENT, &more), Err(Verdict::ToKernel(_))));
    });
}

#[test]
fn active_data_connections_come_from_the_vips_port_20_whatever_port_the_server_uses() {
    everywhere(|team, mode| {
        let mut talk = connect(team, 900);
        for (round, from) in [(0u16, 20u16), (1, 20), (2, 45_000)] {
            let line = talk.active(40_000 + round);
            let (asked, _) = talk.ask(team, &line, "200 ok\r\n");
            let place = told(&asked.text);
            assert_eq!(place.ip(), talk.server.peer.ip(), "servers check this");
            assert!(mode == ForwardMode::FullNat || asked.text == line);
            let first = syn((talk.server.own.ip(), from).into(), place);
            let at_client = team.pass(SERVER, &first).unwrap();
            let (vip, cip) = (talk.client.peer.ip(), talk.client.own.ip());
            assert_eq!(at_client.src, (vip, 20).into());
            assert_eq!(at_client.dst, (cip, 40_000 + round).into());
            let at_server = team.pass(CLIENT, &answer(&at_client)).unwrap();
            assert_eq!((at_server.src, at_server.dst), (first.dst, first.src));
        }
        let (_, said) = talk.ask(team, "NOOP\r\n", "200 ok\r\n");
        assert_eq!(said.text, "200 ok\r\n");
    });
}

#[test]
fn a_retransmitted_announcement_is_the_same_bytes_with_the_same_numbers() {
    everywhere(|team, _| {
        let mut talk = connect(team, 900);
        for port in [30_000, 31_000] {
            let (question, said, _) = talk.passive(port);
            let before = talk.server.clone();
            let (_, answered) = talk.ask(team, question, &said);
            let again = team.pass(
                SERVER,
                &Segment { ack: talk.server.ack, ..before.clone().says(PUSH, &said) },
            );
            let again = again.unwrap();
            assert_eq!((again.seq, &again.text), (answered.seq, &answered.text));
            let line = talk.active(port + 5);
            let before = talk.client.clone();
            let (asked, _) = talk.ask(team, &line, "200 ok\r\n");
            let again = team.pass(CLIENT, &before.clone().says(PUSH, &line)).unwrap();
            assert_eq!((again.seq, again.text), (asked.seq, asked.text));
            // What the server has of the text's middle, the client is told as nothing of it.
            let half =
                Segment { ack: asked.seq + 7, ..talk.server.clone().says(TcpFlags::ACK, "") };
            let half = team.pass(SERVER, &half).unwrap();
            assert!(half.ack >= before.seq && half.ack <= before.seq + 7, "{half:?}");
        }
    });
}

#[test]
fn announcements_of_third_hosts_are_not_followed() {
    everywhere(|team, _| {
        let mut talk = connect(team, 900);
        let third = [ip("10.0.0.8"), ip("fd00:c::8")][team.family];
        let line = announce((third, 4000).into());
        let (asked, _) = talk.ask(team, &line, "200 ok\r\n");
        assert_eq!(asked.text, line);
        let (asked, _) = talk.ask(team, "PORT 1,2\r\n", "501 no\r\n");
        assert_eq!(asked.text, "PORT 1,2\r\n");
        assert_eq!(team.helped(HelperEvent::Refused), 1);
        assert_eq!(team.helped(HelperEvent::Unreadable), 1);
        assert_eq!(team.flows(), 1);
    });
}

#[test]
fn two_servers_on_one_passive_port_are_told_apart() {
    let mut team = Team::new(ForwardMode::Nat, 0, 1);
    let mut talks = [connect(&mut team, 900), connect(&mut team, 901)];
    assert_ne!(talks[0].server.own, talks[1].server.own);
    let ports = talks.each_mut().map(|talk| {
        let (_, answered) = talk.ask(&mut team, "EPSV\r\n", "229 Mode (|||30000|)\r\n");
        answered.text.split('|').nth(3).unwrap().parse::<u16>().unwrap()
    });
    for (talk, port) in talks.iter().zip(ports) {
        let first = syn((talk.client.own.ip(), 5000).into(), (talk.client.peer.ip(), port).into());
        let at_server = team.pass(CLIENT, &first).unwrap();
        assert_eq!(at_server.dst, (talk.server.own.ip(), 30_000).into());
    }
    assert_eq!(ports[0], 30_000);
    assert_ne!(ports[0], ports[1]);
}

#[test]
fn a_control_connection_outlives_its_data_and_everything_is_given_back() {
    everywhere(|team, _| {
        let mut talk = connect(team, 900);
        let (question, said, _) = talk.passive(30_000);
        talk.ask(team, question, &said);
        let (vip, cip) = (talk.client.peer.ip(), talk.client.own.ip());
        let data = syn((cip, 1901).into(), (vip, 30_000).into());
        let at_server = team.pass(CLIENT, &data).unwrap();
        let at_client = team.pass(SERVER, &answer(&at_server)).unwrap();
        let ack = Segment { seq: 78, ack: at_client.seq + 1, flags: TcpFlags::ACK, ..data };
        team.pass(CLIENT, &ack).unwrap();
        // Twenty minutes of data, while the control connection is silent.
        for _ in 0..4 {
            team.advance(300);
            team.pass(CLIENT, &ack).unwrap();
        }
        assert_eq!(team.flows(), 2);
        talk.ask(team, "NOOP\r\n", "200 ok\r\n");
        // One that is announced and never comes ends by itself.
        let line = talk.active(40_000);
        talk.ask(team, &line, "200 ok\r\n");
        assert_eq!(team.flows(), 3);
        team.advance(130);
        assert_eq!(team.flows(), 2);
        team.advance(1200);
        assert_eq!(team.flows(), 0);
        for worker in &team.workers {
            assert!(worker.counters.lips.iter().all(|lip| lip.used.get() == 0));
            assert!(worker.counters.servers.iter().all(|s| s.flows.get() == 0));
        }
    });
}

#[test]
fn a_plain_service_of_a_helpers_server_is_not_read() {
    for family in 0..2 {
        let key = ServiceKey::new(Protocol::Tcp, ip(VIPS[family]), 121);
        let mut plain = ServiceSpec::new(key, SchedulerSpec::RoundRobin);
        plain.forwarding = ForwardMode::Nat;
        plain.servers = vec![server((ip(RIPS[0][family]), FTP_PORT).into(), 1, ForwardMode::Nat)];
        let place = (ForwardMode::Nat, family, 1);
        let mut team = Team::beside(KernelMode::Tap, place, vec![plain]);
        let mut helped = connect(&mut team, 900);
        let mut unread = connect_to(&mut team, 901, 121);
        let (question, said, _) = unread.passive(30_000);
        let (_, answered) = unread.ask(&mut team, question, &said);
        assert_eq!(answered.text, said);
        assert_eq!((team.flows(), team.helped(HelperEvent::Announced)), (2, 0));
        let (question, said, wanted) = helped.passive(30_000);
        let (_, answered) = helped.ask(&mut team, question, &said);
        assert_eq!(answered.text, wanted);
        assert_eq!((team.flows(), team.helped(HelperEvent::Announced)), (3, 1));
    }
}

/// Rules keep the VIP's free ports from the kernel there, so gyre resets what nobody announced.
#[test]
fn what_nobody_announced_is_reset_on_shared_ports() {
    let place = (ForwardMode::Nat, 0, 2);
    let mut team = Team::beside(KernelMode::Shared, place, Vec::new());
    let to = |port| syn((ip(CIPS[0]), 1901).into(), (ip(VIPS[0]), port).into());
    for port in [20, 30_000] {
        assert_eq!(team.pass(CLIENT, &to(port)), Err(Verdict::Transmit(CLIENT)), "port {port}");
    }
    let resets =
        team.workers.iter().map(|w| w.counters.replies[ReplyKind::TcpReset as usize].get());
    assert_eq!(resets.sum::<u64>(), 2);
    assert_eq!(team.pass(CLIENT, &to(80)), Err(Verdict::ToKernel(CLIENT)));
    let mut talk = connect(&mut team, 900);
    let (question, said, _) = talk.passive(30_000);
    talk.ask(&mut team, question, &said);
    assert!(team.pass(CLIENT, &to(30_000)).is_ok());
}

#[test]
fn a_helper_where_it_cannot_work_is_refused() {
    let refused = |change: fn(&mut ServiceSpec)| {
        let key = ServiceKey::new(Protocol::Tcp, ip(VIPS[0]), FTP_PORT);
        let mut spec = ServiceSpec::new(key, SchedulerSpec::RoundRobin);
        spec.helper = Some(Helper::Ftp);
        spec.servers = vec![server((ip(RIPS[0][0]), FTP_PORT).into(), 1, ForwardMode::FullNat)];
        spec.pool = Some("pool".into());
        change(&mut spec);
        let problems = validate(&desired(vec![spec]), 1);
        problems.iter().map(|problem| problem.what.clone()).collect::<Vec<_>>().join("; ")
    };
    assert_eq!(refused(|_| {}), "");
    let direct = refused(|spec| spec.servers[0].mode = ForwardMode::DirectRoute);
    assert!(direct.contains("needs replies to return through gyre"), "{direct}");
    let proxy = refused(|spec| spec.client_address = ClientAddress::ProxyV2);
    assert!(proxy.contains("no PROXY header"), "{proxy}");
    let udp = |spec: &mut ServiceSpec| {
        spec.key = ServiceKey::new(Protocol::Udp, ip(VIPS[0]), FTP_PORT);
    };
    assert!(refused(udp).contains("one TCP port"));
}
