//! Local delivery: the director's own kernel is the server.

use std::net::IpAddr;

use gyre::dataplane::Verdict;
use gyre::message::FlowState;
use gyre::model::*;
use gyre::wire::tcp::TcpFlags;

use crate::support::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn service(family: usize, servers: &[(&str, ForwardMode)]) -> ServiceSpec {
    let key = ServiceKey::new(Protocol::Tcp, ip(["10.1.0.1", "fd00:1::1"][family]), 80);
    let mut spec = ServiceSpec::new(key, SchedulerSpec::RoundRobin);
    spec.ttl = TtlPolicy::Decrement;
    let server = |(address, mode): &(&str, ForwardMode)| server((ip(address), 80).into(), 1, *mode);
    spec.servers = servers.iter().map(server).collect();
    spec
}

fn told(director: &mut Director, spec: ServiceSpec) -> Vec<String> {
    let wanted = desired(vec![spec]);
    let problems = director.change(|registry, hops| registry.apply(&wanted, hops)).unwrap_err();
    problems.iter().map(ToString::to_string).collect()
}

#[test]
fn local_server_gets_the_packet_as_it_came_and_has_a_flow() {
    for (family, own) in [(0, "127.0.0.1"), (0, "10.2.0.1"), (1, "::1"), (1, "fd00:2::1")] {
        let mut director = Director::new(KernelMode::Tap);
        let wanted = desired(vec![service(family, &[(own, ForwardMode::Local)])]);
        // The FULLNAT pool of these tests has the director's own addresses.
        let wanted = Desired { pools: Vec::new(), ..wanted };
        let resolve = &mut |address| panic!("no way to {address} is needed");
        let applied = director.registry.apply(&wanted, resolve).unwrap();
        director.publish(applied.snapshot);
        let (client, vip) = (ip(["10.0.0.7", "fd00:c::7"][family]), wanted.services[0].key.vip());
        let sent = from_client(client, vip.unwrap()).ttl(1).tcp(5, 80).flags(TcpFlags::SYN).build();
        let out = director.receive(CLIENT, &sent);
        // Not forwarded, so no hop is counted, not even the last one.
        assert_eq!((out.verdict, &out.frame[..]), (Verdict::ToKernel(CLIENT), &sent[..]));
        let row = director.flow((client, 5).into()).unwrap();
        assert_eq!((row.mode, row.state), (ForwardMode::Local, FlowState::SynRecv));
        assert_eq!(row.server.0, ip(own));
        assert_eq!(director.registry.rips().count(), 0);
    }
}

#[test]
fn local_delivery_is_refused_where_it_cannot_be() {
    let local = |own| service(0, &[(own, ForwardMode::Local)]);
    let all = told(&mut Director::new(KernelMode::Shared), local("127.0.0.1"));
    let expected = "tcp 10.1.0.1:80, server 127.0.0.1:80: on port client the kernel is kept from \
                    the services' packets, so it cannot be their server; use kernel = \"tap\"";
    assert!(all.len() == 1 && all[0].starts_with(expected), "{all:?}");
    let mut director = Director::new(KernelMode::Tap);
    let all = told(&mut director, local("10.2.0.11"));
    assert!(all[0].contains("10.2.0.11 is no address of the director"), "{all:?}");
    for mode in [ForwardMode::DirectRoute, ForwardMode::Nat, ForwardMode::Tunnel] {
        let all = told(&mut director, service(0, &[("127.0.0.1", mode)]));
        let remedy = "127.0.0.1 is the director itself; set forwarding = \"local\"";
        assert!(all.len() == 1 && all[0].contains(remedy), "{all:?}");
        let all = told(&mut director, service(0, &[("192.168.100.1", mode)]));
        assert!(all.iter().any(|one| one.contains("is the director itself")), "{all:?}");
    }
    let mut spec = local("127.0.0.1");
    spec.servers[0].port = 8080;
    let all = told(&mut director, spec);
    assert!(all[0].contains("local delivery cannot change port 80 to 8080"), "{all:?}");
}
