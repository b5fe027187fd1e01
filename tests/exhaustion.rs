//! What runs out in a worker, or has no room in a frame: each is a counted drop, never silence.

#[path = "support/mod.rs"]
mod support;

use std::net::IpAddr;
use std::sync::Arc;

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
