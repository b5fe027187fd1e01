//! NAT: port mapping both ways, modes mixed in one service, and what comes back without a flow.

use std::net::{IpAddr, SocketAddr};

use gyre::counters::DropReason;
use gyre::dataplane::Verdict;
use gyre::message::FlowState;
use gyre::model::*;
use gyre::wire::checksum::Sum;
use gyre::wire::ip::IpProtocol;
use gyre::wire::ipv4::Ipv4;
use gyre::wire::ipv6::Ipv6;
use gyre::wire::tcp::TcpFlags;
use proptest::prelude::*;

use crate::support::*;

const CLIENTS: [&str; 2] = ["10.0.0.7", "fd00:c::7"];
const VIPS: [&str; 2] = ["10.1.0.1", "fd00:1::1"];
const RIPS: [&str; 2] = ["10.2.0.11", "fd00:2::b"];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn key(protocol: Protocol, family: usize) -> ServiceKey {
    ServiceKey::new(protocol, ip(VIPS[family]), 80)
}

/// A service of each protocol and family with one server on port 8080.
fn director() -> Director {
    let mut services = Vec::new();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        for (family, rip) in RIPS.iter().enumerate() {
            let mut spec = ServiceSpec::new(key(protocol, family), SchedulerSpec::RoundRobin);
            spec.servers = vec![server((ip(rip), 8080).into(), 1, ForwardMode::Nat)];
            services.push(spec);
        }
    }
    let mut director = Director::new(KernelMode::Tap);
    director.change(|registry, hops| registry.apply(&desired(services), hops)).unwrap();
    director
}

fn syn(family: usize, client_port: u16) -> Vec<u8> {
    let packet = from_client(ip(CLIENTS[family]), ip(VIPS[family]));
    packet.tcp(client_port, 80).seq(1000).flags(TcpFlags::SYN).build().to_vec()
}

/// Source and destination with ports, TTL, and whether all checksums hold.
fn facts(frame: &[u8]) -> (SocketAddr, SocketAddr, u8, bool) {
    let l3 = &frame[14..];
    let (src, dst, ttl, l4, pseudo, ip_holds): (IpAddr, IpAddr, u8, &[u8], Sum, bool) =
        if l3[0] >> 4 == 4 {
            let (ip, options, l4) = Ipv4::parse_with_options(l3).unwrap();
            let pseudo = Sum::pseudo_v4(ip.src(), ip.dst(), ip.protocol(), l4.len() as u16);
            let holds = ip.verify_checksum(options).is_ok();
            (ip.src().into(), ip.dst().into(), ip.ttl(), l4, pseudo, holds)
        } else {
            let (ip, l4) = Ipv6::parse(l3).unwrap();
            let pseudo = Sum::pseudo_v6(ip.src(), ip.dst(), ip.next_header(), l4.len() as u32);
            (ip.src().into(), ip.dst().into(), ip.hop_limit(), l4, pseudo, true)
        };
    let port = |at: usize| u16::from_be_bytes([l4[at], l4[at + 1]]);
    let holds = ip_holds && pseudo.add_bytes(l4).holds();
    ((src, port(0)).into(), (dst, port(2)).into(), ttl, holds)
}

#[test]
fn nat_maps_ports_there_and_back() {
    for family in 0..2 {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let mut director = director();
            let (client, vip, rip) = (ip(CLIENTS[family]), ip(VIPS[family]), ip(RIPS[family]));
            let there = match protocol {
                Protocol::Tcp => {
                    from_client(client, vip).tcp(40_001, 80).flags(TcpFlags::SYN).build()
                }
                Protocol::Udp => from_client(client, vip).udp(40_001, 80).payload(b"q").build(),
            };
            let out = director.receive(CLIENT, &there);
            assert_eq!(out.sent_on(), Some(SERVER));
            let translated = ((client, 40_001).into(), (rip, 8080).into(), 63, true);
            assert_eq!(facts(&out.frame), translated);
            let back = from_server(rip, client);
            let back = match protocol {
                Protocol::Tcp => {
                    back.tcp(8080, 40_001).flags(TcpFlags::SYN | TcpFlags::ACK).build()
                }
                Protocol::Udp => back.udp(8080, 40_001).payload(b"answer").build(),
            };
            let out = director.receive(SERVER, &back);
            assert_eq!(out.sent_on(), Some(CLIENT));
            assert_eq!(facts(&out.frame), ((vip, 80).into(), (client, 40_001).into(), 63, true));
        }
    }
}

#[test]
fn nat_flow_closes_in_both_directions_and_gives_everything_back() {
    let mut director = director();
    let (client, vip, rip) = (ip(CLIENTS[0]), ip(VIPS[0]), ip(RIPS[0]));
    let inbound = |flags| from_client(client, vip).tcp(5, 80).flags(flags).build();
    let outbound = |flags| from_server(rip, client).tcp(8080, 5).flags(flags).build();
    let (syn, ack, fin) = (TcpFlags::SYN, TcpFlags::ACK, TcpFlags::FIN);
    director.receive(CLIENT, &inbound(syn));
    director.receive(SERVER, &outbound(syn | ack));
    director.receive(CLIENT, &inbound(ack));
    assert_eq!(director.flow((client, 5).into()).unwrap().state, FlowState::Established);
    director.receive(SERVER, &outbound(fin | ack));
    assert_eq!(director.flow((client, 5).into()).unwrap().state, FlowState::FinWait);
    director.receive(CLIENT, &inbound(fin | ack));
    assert_eq!(director.flow((client, 5).into()).unwrap().state, FlowState::TimeWait);
    // A new connection on the same ports takes the old one's place.
    assert_eq!(director.receive(CLIENT, &inbound(syn)).sent_on(), Some(SERVER));
    assert_eq!(director.flows().len(), 1);
    director.advance(200.0);
    assert!(director.flows().is_empty());
    let counters = &director.state.counters;
    assert!(counters.servers.iter().all(|s| s.flows.get() == 0 && s.active.get() == 0));
}

/// As recorded in server-stray-natsend0: it is routed like any other packet, which the kernel does.
#[test]
fn nat_servers_packet_without_a_flow_is_the_kernels() {
    let mut director = director();
    let stray = from_server(ip(RIPS[0]), ip(CLIENTS[0])).tcp(8080, 9).flags(TcpFlags::ACK).build();
    assert_eq!(director.receive(SERVER, &stray).verdict, Verdict::ToKernel(SERVER));
}

#[test]
fn nat_reply_with_ttl_1_is_answered_to_the_server_by_the_ports_own_address() {
    for family in 0..2 {
        let mut director = director();
        director.receive(CLIENT, &syn(family, 9));
        let (rip, client) = (ip(RIPS[family]), ip(CLIENTS[family]));
        let reply = from_server(rip, client).ttl(1).tcp(8080, 9).flags(TcpFlags::ACK).build();
        let out = director.receive(SERVER, &reply);
        assert_eq!(out.sent_on(), Some(SERVER));
        let (from, to, quoted) = if family == 0 {
            let (ip, _) = Ipv4::parse(&out.frame[14..]).unwrap();
            (IpAddr::V4(ip.src()), IpAddr::V4(ip.dst()), 14 + 28)
        } else {
            let (ip, _) = Ipv6::parse(&out.frame[14..]).unwrap();
            (IpAddr::V6(ip.src()), IpAddr::V6(ip.dst()), 14 + 48)
        };
        assert_eq!((from, to), (ip(OWN_ADDRESSES[1][family]), rip));
        assert_eq!(out.frame[quoted..], reply[14..]);
    }
}

#[test]
fn one_service_mixes_modes_by_server() {
    let mut director = Director::new(KernelMode::Tap);
    let mut spec = ServiceSpec::new(key(Protocol::Tcp, 0), SchedulerSpec::RoundRobin);
    spec.pool = Some("pool".into());
    spec.servers = vec![
        server((ip("10.2.0.11"), 8080).into(), 1, ForwardMode::Nat),
        server((ip("10.2.0.12"), 80).into(), 1, ForwardMode::DirectRoute),
        server((ip("10.2.0.13"), 8081).into(), 1, ForwardMode::FullNat),
    ];
    director.change(|registry, hops| registry.apply(&desired(vec![spec]), hops)).unwrap();
    // The kernel's order: the server added last comes first.
    let mut seen = Vec::new();
    for client_port in 1..=3 {
        let out = director.receive(CLIENT, &syn(0, client_port));
        let (src, dst, ttl, holds) = facts(&out.frame);
        assert!(holds);
        seen.push((src.ip(), dst, ttl));
    }
    let client = ip(CLIENTS[0]);
    assert_eq!(
        seen,
        [
            (ip("10.2.0.1"), (ip("10.2.0.13"), 8081).into(), 63),
            (client, (ip(VIPS[0]), 80).into(), 64),
            (client, (ip("10.2.0.11"), 8080).into(), 63),
        ]
    );
}

#[test]
fn reply_of_a_removed_nat_server_is_still_translated() {
    let mut director = director();
    director.receive(CLIENT, &syn(0, 5));
    let (client, rip) = (ip(CLIENTS[0]), ip(RIPS[0]));
    let service = key(Protocol::Tcp, 0);
    let endpoint = SocketAddr::new(rip, 8080);
    let now = Removal::Now;
    director.change(|registry, _| registry.remove_server(&service, endpoint, now)).unwrap();
    assert!(director.snapshot.nat_server(Protocol::Tcp, (rip, 8080)).is_some());
    let again = director.receive(CLIENT, &syn(0, 5)).verdict;
    assert_eq!(again, Verdict::Drop(DropReason::ServerRemoved));
    let reply = from_server(rip, client).tcp(8080, 5).flags(TcpFlags::ACK).build();
    let out = director.receive(SERVER, &reply);
    assert_eq!(facts(&out.frame).0, (ip(VIPS[0]), 80).into());
}

#[test]
fn nat_server_joins_a_steered_service_only_while_it_is_empty() {
    let steering = std::sync::Arc::new(Steering::for_workers(2));
    let mut registry = Registry::new(RegistryConfig::new(steering));
    let hops = &mut |_| NextHopId(0);
    let service = key(Protocol::Tcp, 0);
    let spec = ServiceSpec::new(service, SchedulerSpec::RoundRobin);
    registry.add_service(&spec, hops).unwrap();
    let nat = server((ip("10.2.0.11"), 8080).into(), 1, ForwardMode::Nat);
    let dr = server((ip("10.2.0.12"), 80).into(), 1, ForwardMode::DirectRoute);
    registry.add_server(&service, &nat, hops).unwrap();
    registry.add_server(&service, &dr, hops).unwrap();
    let other = ServiceKey::new(Protocol::Tcp, ip(VIPS[0]), 81);
    let dr = ServerSpec { port: 81, ..dr };
    registry.add_service(&ServiceSpec { key: other, ..spec }, hops).unwrap();
    registry.add_server(&other, &dr, hops).unwrap();
    let problems = registry.add_server(&other, &nat, hops).unwrap_err();
    let told = problems[0].to_string();
    assert!(told.contains("tcp 10.1.0.1:81: with a NAT server other workers"), "{told}");
    assert!(told.contains("forwarding = \"nat\""), "{told}");
}

/// What a mode cannot do is told whole: service, server, reason and remedy.
#[test]
fn what_a_mode_cannot_do_is_refused_in_one_list() {
    let mut spec = ServiceSpec::new(key(Protocol::Tcp, 0), SchedulerSpec::RoundRobin);
    spec.servers = vec![
        server((ip("10.2.0.11"), 81).into(), 1, ForwardMode::DirectRoute),
        server((ip("10.2.0.12"), 81).into(), 1, ForwardMode::Tunnel),
        server((ip("fd00:2::b"), 80).into(), 1, ForwardMode::Nat),
        server((ip("fd00:2::c"), 80).into(), 1, ForwardMode::DirectRoute),
        server((ip("10.2.0.13"), 80).into(), 1, ForwardMode::FullNat),
    ];
    let mut director = Director::new(KernelMode::Tap);
    let problems =
        director.change(|registry, hops| registry.apply(&desired(vec![spec]), hops)).unwrap_err();
    let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let expected = [
        "tcp 10.1.0.1:80: FULLNAT needs source addresses; name a pool",
        "tcp 10.1.0.1:80, server 10.2.0.11:81: DR cannot change port 80 to 81; use the service's",
        "tcp 10.1.0.1:80, server 10.2.0.12:81: TUN cannot change port 80 to 81; use the service's",
        "tcp 10.1.0.1:80, server [fd00:2::b]:80: NAT cannot carry packets from one address family",
        "tcp 10.1.0.1:80, server [fd00:2::c]:80: DR cannot carry packets from one address family",
    ];
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    for (told, expected) in told.iter().zip(expected) {
        assert!(told.starts_with(expected), "{told}");
    }
    assert_eq!(director.registry.services().count(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 100,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// What the server sends back unchanged reaches the client as the client sent it, but for the
    /// two hops: translation is reversible for any bytes, whether checksums held or not.
    #[test]
    fn nat_is_reversible_and_its_checksums_are_those_computed_in_full(
        family in 0..2usize,
        is_tcp in any::<bool>(),
        client_port in 21..=u16::MAX,
        payload in prop::collection::vec(any::<u8>(), 0..200),
        spoil in any::<bool>(),
    ) {
        let mut director = director();
        let (client, vip, rip) = (ip(CLIENTS[family]), ip(VIPS[family]), ip(RIPS[family]));
        let segment = |packet: gyre::wire::build::IpBuilder, ports: (u16, u16)| {
            let (bytes, at) = if is_tcp {
                let tcp = packet.tcp(ports.0, ports.1).flags(TcpFlags::SYN).payload(&payload);
                (if spoil { tcp.bad_checksum() } else { tcp }.build(), IpProtocol::TCP)
            } else {
                let udp = packet.udp(ports.0, ports.1).payload(&payload);
                (if spoil { udp.bad_checksum() } else { udp }.build(), IpProtocol::UDP)
            };
            (bytes, at)
        };
        let (sent, _) = segment(from_client(client, vip), (client_port, 80));
        let there = director.receive(CLIENT, &sent);
        prop_assert_eq!(facts(&there.frame).3, !spoil);
        if !spoil {
            let (whole, _) = segment(from_server(client, rip).ttl(63), (client_port, 8080));
            prop_assert_eq!(&there.frame[14..], &whole[14..]);
        }
        let (reply, _) = segment(from_server(rip, client), (8080, client_port));
        let back = director.receive(SERVER, &reply);
        prop_assert_eq!(facts(&back.frame).3, !spoil);
        if !spoil {
            let (whole, _) = segment(from_server(vip, client).ttl(63), (80, client_port));
            prop_assert_eq!(&back.frame[14..], &whole[14..]);
        }
    }
}
