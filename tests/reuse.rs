//! A new connection on an old one's tuple, and what is left of the old one: its source port, until
//! its server can have forgotten it. And one that only begins again.

#[path = "support/mod.rs"]
mod support;

use std::net::{IpAddr, SocketAddr};

use gyre::counters::DropReason;
use gyre::dataplane::Verdict;
use gyre::message::FlowState;
use gyre::model::*;
use gyre::wire::ipv4::Ipv4;
use gyre::wire::tcp::{Tcp, TcpFlags};
use support::*;

const SYN: TcpFlags = TcpFlags::SYN;
const ACK: TcpFlags = TcpFlags::ACK;
const FIN: TcpFlags = TcpFlags::FIN;
const RST: TcpFlags = TcpFlags::RST;

const VIP: &str = "10.1.0.3";
const CLIENT_IP: &str = "10.0.0.7";
/// The server that every flow here begins at, and one that is added.
const FIRST: &str = "10.2.0.11";
const SECOND: &str = "10.2.0.12";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn service(mode: ForwardMode, weights: &[u32]) -> ServiceSpec {
    let key = ServiceKey::new(Protocol::Tcp, ip(VIP), 80);
    let mut spec = ServiceSpec::new(key, SchedulerSpec::RoundRobin);
    spec.pool = (mode == ForwardMode::FullNat).then(|| "pool".into());
    spec.servers = [FIRST, SECOND]
        .iter()
        .zip(weights)
        .map(|(rip, weight)| server((ip(rip), 80).into(), *weight, mode))
        .collect();
    spec
}

/// All that is wanted, with the kernel's `expire_nodest_conn` on.
fn wanted(spec: ServiceSpec) -> Desired {
    let semantics = Semantics { expire_nodest_conn: true, ..Semantics::default() };
    Desired { semantics, ..desired(vec![spec]) }
}

fn run(director: &mut Director, wanted: &Desired) {
    director.change(|registry, hops| registry.apply(wanted, hops)).unwrap();
}

fn client(
    director: &mut Director,
    port: u16,
    flags: TcpFlags,
    (seq, ack): (u32, u32),
) -> (Verdict, Vec<u8>) {
    let tcp = from_client(ip(CLIENT_IP), ip(VIP)).tcp(port, 80);
    let out = director.receive(CLIENT, &tcp.seq(seq).ack(ack).flags(flags).build());
    (out.verdict, out.frame)
}

fn from_rip(
    director: &mut Director,
    local: SocketAddr,
    flags: TcpFlags,
    (seq, ack): (u32, u32),
) -> (Verdict, Vec<u8>) {
    let tcp = from_server(ip(FIRST), local.ip()).tcp(80, local.port());
    let out = director.receive(SERVER, &tcp.seq(seq).ack(ack).flags(flags).build());
    (out.verdict, out.frame)
}

/// Source and destination, sequence number and flags of an IPv4 segment.
fn segment(frame: &[u8]) -> (SocketAddr, SocketAddr, u32, TcpFlags) {
    let (ip, l4) = Ipv4::parse(&frame[14..]).unwrap();
    let (tcp, _, _) = Tcp::parse_with_options(l4).unwrap();
    let (src, dst) = ((ip.src(), tcp.src_port()), (ip.dst(), tcp.dst_port()));
    (src.into(), dst.into(), tcp.sequence().0, tcp.flags())
}

/// Opens a connection at the first server; its source as the server sees it.
fn establish(director: &mut Director, port: u16) -> SocketAddr {
    let (verdict, frame) = client(director, port, SYN, (1000, 0));
    assert_eq!(verdict, Verdict::Transmit(SERVER));
    let local = segment(&frame).0;
    from_rip(director, local, SYN | ACK, (5000, 1001));
    client(director, port, ACK, (1001, 5001));
    local
}

fn row(director: &Director, port: u16) -> gyre::message::FlowRow {
    director.flow((ip(CLIENT_IP), port).into()).expect("a flow")
}

/// Active connections, flows, packets and bytes of all servers together.
fn counts(director: &Director) -> [u64; 5] {
    director.state.counters.servers.iter().fold([0; 5], |sum, server| {
        let own = [
            &server.active,
            &server.flows,
            &server.out_packets,
            &server.out_bytes,
            &server.connections,
        ];
        std::array::from_fn(|at| sum[at].wrapping_add(own[at].get()))
    })
}

/// Whatever the old server says, nobody counts it: the slot may be another server's by now.
#[test]
fn what_is_left_of_a_flow_that_made_way_moves_no_counts() {
    for flags in [FIN | ACK, RST, SYN, SYN | ACK, ACK] {
        let mut director = Director::new(KernelMode::Tap);
        run(&mut director, &wanted(service(ForwardMode::FullNat, &[1])));
        let local = establish(&mut director, 1);
        run(&mut director, &wanted(service(ForwardMode::FullNat, &[0, 1])));
        let (verdict, frame) = client(&mut director, 1, SYN, (9000, 0));
        assert_eq!(verdict, Verdict::Transmit(SERVER));
        assert_eq!(segment(&frame).1.ip(), ip(SECOND));
        let before = counts(&director);
        assert_eq!(before[..2], [1, 1], "the new flow alone");
        for _ in 0..2 {
            from_rip(&mut director, local, flags, (5001, 1001));
            assert_eq!(counts(&director), before, "{flags:?}");
        }
        director.advance(1000.0);
        assert_eq!(counts(&director)[..2], [0, 0], "{flags:?}");
        assert!(director.state.flows.is_empty());
        assert_eq!(director.state.counters.lips[0].used.get(), 0);
    }
}

#[test]
fn a_syn_moves_a_flow_of_a_server_of_weight_0_but_none_of_one_that_drains() {
    let leave = |drains: bool| {
        let mut director = Director::new(KernelMode::Tap);
        run(&mut director, &wanted(service(ForwardMode::FullNat, &[1])));
        let local = establish(&mut director, 1);
        let mut next = wanted(service(ForwardMode::FullNat, &[0, 1]));
        if drains {
            next.services[0].servers.remove(0);
            next.removal = Removal::Drain { deadline: None };
        }
        run(&mut director, &next);
        let (_, frame) = client(&mut director, 1, SYN, (9000, 0));
        (segment(&frame), local)
    };
    let ((src, dst, ..), local) = leave(true);
    assert_eq!((src, dst.ip()), (local, ip(FIRST)));
    let ((_, dst, ..), _) = leave(false);
    assert_eq!(dst.ip(), ip(SECOND));
}

/// A client that SYNPROXY has let in.
fn prove(director: &mut Director, port: u16) -> SocketAddr {
    let (verdict, frame) = client(director, port, SYN, (1000, 0));
    assert_eq!(verdict, Verdict::Transmit(CLIENT), "a cookie");
    let cookie = segment(&frame).2;
    let (verdict, frame) = client(director, port, ACK, (1001, cookie.wrapping_add(1)));
    assert_eq!(verdict, Verdict::Transmit(SERVER), "a SYN");
    segment(&frame).0
}

#[test]
fn behind_synproxy_a_syn_that_proves_nothing_ends_no_flow() {
    for is_gone in [false, true] {
        let mut director = Director::new(KernelMode::Tap);
        let proxied = |weights: &[u32]| ServiceSpec {
            synproxy: true,
            ..service(ForwardMode::FullNat, weights)
        };
        run(&mut director, &wanted(proxied(&[1])));
        let local = prove(&mut director, 1);
        from_rip(&mut director, local, SYN | ACK, (5000, 1001));
        assert_eq!(row(&director, 1).state, FlowState::Established);
        let mut next = wanted(proxied(&[0, 1]));
        if is_gone {
            next.services[0].servers.remove(0);
        }
        run(&mut director, &next);
        let (verdict, frame) = client(&mut director, 1, SYN, (9000, 0));
        let after = row(&director, 1);
        assert_eq!((after.server.0, after.state), (ip(FIRST), FlowState::Established));
        let (out, _) = from_rip(&mut director, local, ACK, (5001, 1001));
        assert_eq!(out, Verdict::Transmit(CLIENT), "the server's packets still pass");
        if !is_gone {
            // It reaches the server like any segment, which tells an honest client what it knows.
            assert_eq!((verdict, segment(&frame).1.ip()), (Verdict::Transmit(SERVER), ip(FIRST)));
            continue;
        }
        let cookie = segment(&frame).2;
        let (verdict, frame) = client(&mut director, 1, ACK, (9001, cookie.wrapping_add(1)));
        assert_eq!(verdict, Verdict::Transmit(SERVER));
        assert_eq!((segment(&frame).1.ip(), segment(&frame).3), (ip(SECOND), SYN));
        assert_eq!(row(&director, 1).server.0, ip(SECOND));
        assert_eq!(counts(&director)[..2], [1, 1]);
    }
}

/// FULLNAT with only two source ports, both of live connections.
fn full() -> Director {
    let mut director = Director::new(KernelMode::Tap);
    let mut wanted = wanted(service(ForwardMode::FullNat, &[1]));
    wanted.pools[0].ports = (3000, 3001);
    run(&mut director, &wanted);
    for port in 1..=2 {
        establish(&mut director, port);
    }
    director
}

/// A reset that the server ignores leaves its connection as it is: a SYN from the same port would
/// meet it.
#[test]
fn a_reset_out_of_any_window_offers_no_source_port() {
    let mut director = full();
    client(&mut director, 1, RST, (0x7000_0000, 0));
    assert_eq!(row(&director, 1).state, FlowState::Close);
    assert_eq!(client(&mut director, 3, SYN, (1000, 0)).0, Verdict::Transmit(CLIENT));
    assert_eq!(director.drops(DropReason::NoSourcePort), 1);
    director.advance(50.0);
    assert_eq!(client(&mut director, 3, SYN, (1000, 0)).0, Verdict::Transmit(CLIENT));
    client(&mut director, 2, RST, (1001, 0));
    assert_eq!(client(&mut director, 4, SYN, (1000, 0)).0, Verdict::Transmit(SERVER));
    assert_eq!(director.state.counters.lips[0].reused.get(), 1);
    director.advance(15.0);
    assert_eq!(client(&mut director, 3, SYN, (1000, 0)).0, Verdict::Transmit(SERVER));
}

#[test]
fn a_servers_reset_that_acknowledges_nothing_sent_offers_no_source_port() {
    for (ack, is_offered) in [(1001, true), (1500, true), (0x7000_0000, false), (1, false)] {
        let mut director = full();
        let local = row(&director, 1).local.unwrap().into();
        from_rip(&mut director, local, RST | ACK, (5001, ack));
        let verdict = client(&mut director, 3, SYN, (1000, 0)).0;
        let expected = if is_offered { SERVER } else { CLIENT };
        assert_eq!(verdict, Verdict::Transmit(expected), "{ack}");
    }
}

/// Where replies go past the director, a client that asks three times tells of its server; not what
/// looks like it, and each handshake once.
#[test]
fn a_syn_that_comes_a_third_time_tells_of_a_server_that_is_not_seen() {
    let mut director = Director::new(KernelMode::Tap);
    run(&mut director, &wanted(service(ForwardMode::DirectRoute, &[1])));
    let send = |director: &mut Director, port, flags, numbers: &[(u32, u32)]| -> u64 {
        for number in numbers {
            assert_eq!(client(director, port, flags, *number).0, Verdict::Transmit(SERVER));
        }
        director.state.counters.servers.iter().map(|server| server.refused.get()).sum()
    };
    let same = [(7000, 0); 5];
    assert_eq!(send(&mut director, 41_000, SYN, &same[..2]), 0, "one may be lost on its way");
    assert_eq!(send(&mut director, 41_000, SYN, &same[..1]), 1);
    assert_eq!(send(&mut director, 41_000, SYN, &same), 1, "once for each handshake");
    // Numbers that change are no repetitions, nor are SYNs of an established connection.
    let others: Vec<(u32, u32)> = (0..9).map(|n| (1000 * n, 0)).collect();
    assert_eq!(send(&mut director, 41_001, SYN, &others), 1);
    send(&mut director, 41_002, SYN, &same[..1]);
    send(&mut director, 41_002, ACK, &[(7001, 1)]);
    assert_eq!(send(&mut director, 41_002, SYN, &same), 1);
    // At their end the one that was never answered counts, not the one that has told already.
    director.advance(1000.0);
    assert!(director.flows().is_empty());
    assert_eq!(send(&mut director, 41_003, SYN, &same[..1]), 2);
}
