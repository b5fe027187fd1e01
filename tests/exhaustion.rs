//! What runs out in a worker, or has no room in a frame: each is a counted drop, never silence.

#[path = "support/mod.rs"]
mod support;

use std::net::IpAddr;
use std::sync::Arc;

use gyre::config::check;
use gyre::counters::DropReason;
use gyre::dataplane::{Verdict, finish_next_hop};
use gyre::frame::Frame;
use gyre::model::*;
use gyre::wire::tcp::TcpFlags;
use support::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Servers behind one FULLNAT service: one more than a worker of the tests has pairs for.
const SERVERS: u8 = 17;

#[test]
fn more_pairs_than_room_are_counted_and_answered_with_a_reset() {
    let mut director = Director::new(KernelMode::Tap);
    let key = ServiceKey::new(Protocol::Tcp, ip("10.1.0.3"), 80);
    let mut spec = ServiceSpec::new(key, SchedulerSpec::RoundRobin);
    spec.pool = Some("pool".into());
    spec.servers = (0..SERVERS)
        .map(|n| server(([10, 2, 0, 11 + n], 80).into(), 1, ForwardMode::FullNat))
        .collect();
    let wanted = desired(vec![spec]);
    director.change(|registry, hops| registry.apply(&wanted, hops)).unwrap();
    let mut verdict = |port: u16| {
        let syn = from_client(ip("10.0.0.7"), ip("10.1.0.3")).tcp(port, 80).flags(TcpFlags::SYN);
        director.receive(CLIENT, &syn.build()).verdict
    };
    for port in 1..u16::from(SERVERS) {
        assert_eq!(verdict(port), Verdict::Transmit(SERVER));
    }
    assert_eq!(verdict(100), Verdict::Transmit(CLIENT));
    assert_eq!(director.drops(DropReason::NoAddressPair), 1);
    assert_eq!(director.state.counters.lips[0].exhausted.get(), 0);
}

/// A director with one FULLNAT service more than `services`, on 10.1.0.9:80.
fn with_another(services: &str) -> Director {
    let text = format!(
        "[[port]]\nname = \"p\"\ndevice = \"net_null0\"\naddresses = [\"10.2.0.1/24\"]\n\
         [local_addresses]\npool = {{ port = \"p\", addresses = [\"10.2.0.1\"], \
         ports = [3000, 3099] }}\n{services}\
         [[service]]\naddress = \"10.1.0.9:80\"\nforwarding = \"fullnat\"\n\
         local_addresses = \"pool\"\n[[service.server]]\naddress = \"10.2.0.11:80\"\n"
    );
    let checked = check(&text).unwrap_or_else(|problems| panic!("{problems:#?}"));
    let wanted = Desired { removal: Removal::Now, ..checked.desired };
    let mut director = Director::new(KernelMode::Tap);
    director.change(|registry, hops| registry.apply(&wanted, hops)).unwrap();
    director
}

/// Where a client's SYN went, from which port of the local address to which of the server.
fn ports_of(director: &mut Director, vip: &str, client_port: u16, port: u16) -> (u16, u16) {
    let syn = from_client(ip("10.0.0.7"), ip(vip)).tcp(client_port, port).flags(TcpFlags::SYN);
    let out = director.receive(CLIENT, &syn.build());
    assert_eq!(out.verdict, Verdict::Transmit(SERVER), "{vip}:{port}");
    let number = |at: usize| u16::from_be_bytes([out.frame[at], out.frame[at + 1]]);
    (number(34), number(36))
}

const KEEPS_PORT: [&str; 4] = [
    "address = \"10.1.0.1:0\"\npersistence_timeout = 60",
    "address = \"10.1.0.1:8000-8099\"",
    "group = \"all\"\nmatch = [{ address = \"10.1.0.1:8000-8099\" }]",
    // Its data ports.
    "address = \"10.1.0.1:21\"\npersistence_timeout = 60",
];

#[test]
fn a_client_that_tries_every_port_takes_one_pair_of_address_and_server() {
    for head in KEEPS_PORT {
        let port = if head.contains(":21") { ":21" } else { "" };
        let mut director = with_another(&format!(
            "[[service]]\n{head}\nforwarding = \"fullnat\"\nlocal_addresses = \"pool\"\n\
             [[service.server]]\naddress = \"10.2.0.11{port}\"\n"
        ));
        let mut seen = std::collections::HashSet::new();
        for port in 8000..8050 {
            let (src_port, own) = ports_of(&mut director, "10.1.0.1", 777, port);
            assert_eq!(own, port);
            assert!(seen.insert(src_port));
        }
        ports_of(&mut director, "10.1.0.9", 777, 80);
        assert_eq!(director.drops(DropReason::NoAddressPair), 0, "{head}");
        director.advance(1000.0);
        assert_eq!(director.state.counters.lips[0].used.get(), 0);
    }
}

/// The server tells connections apart by all four numbers.
#[test]
fn no_port_is_given_twice_towards_one_port_of_a_server() {
    let mut director = with_another(&format!(
        "[[service]]\n{}\nforwarding = \"fullnat\"\nlocal_addresses = \"pool\"\n\
         [[service.server]]\naddress = \"10.2.0.11\"\n",
        KEEPS_PORT[0]
    ));
    let mut seen = std::collections::HashSet::new();
    for n in 0..50 {
        for vip in ["10.1.0.1", "10.1.0.9"] {
            let (src_port, own) = ports_of(&mut director, vip, 1000 + n, 80);
            assert_eq!(own, 80);
            assert!(seen.insert(src_port), "{src_port} of {vip}");
        }
    }
}

#[test]
fn a_frame_that_waited_and_has_no_room_for_its_tag_is_counted() {
    let mut director = Director::new(KernelMode::Tap);
    let mut snapshot = Snapshot::clone(&director.snapshot);
    Arc::make_mut(&mut snapshot.nics)[CLIENT.index()].vlan = Some(7);
    director.publish(Arc::new(snapshot));
    // The client-side router has the first slot.
    let hop = NextHopId(0);
    let mut bytes = [0; 64];
    let mut frame = Frame::new(&mut bytes, 0, 64);
    let verdict = finish_next_hop(&director.state, &director.snapshot, &mut frame, hop);
    assert_eq!(verdict, Verdict::Drop(DropReason::NoHeadroom));
    assert_eq!(director.drops(DropReason::NoHeadroom), 1);
}
