//! Services that may take the same packets, or the same servers' replies, are steered alike.

use super::tests::{Flows, desired, hop};
use super::*;
use crate::model::prefix::Prefix;
use crate::model::service::{Helper, Persistence, Protocol};
use crate::model::service_key::{FTP_PORT, Ports};
use crate::model::spec::SchedulerSpec;
use crate::model::steering::KeyKind;

const NAT: ForwardMode = ForwardMode::Nat;
const DR: ForwardMode = ForwardMode::DirectRoute;

fn registry(workers: u8) -> Registry {
    Registry::new(RegistryConfig::new(Arc::new(Steering::for_workers(workers))))
}

fn vip() -> IpAddr {
    [192, 0, 2, 80].into()
}

fn ports(first: u16, last: u16) -> ServiceKey {
    let ports = if first == 0 { Ports::ALL } else { Ports::range(first, last).unwrap() };
    ServiceKey::Address { protocol: Protocol::Tcp, vip: vip(), ports }
}

/// A service with one server, which is no other's: its number is the last byte of its address.
fn by(mode: ForwardMode, key: ServiceKey, n: u8) -> ServiceSpec {
    let server_port = if mode == NAT { 8080 } else { key.port().unwrap_or(0) };
    let persistence = Some(Persistence { timeout_ms: 300_000, client_bits: 32 });
    ServiceSpec {
        forwarding: mode,
        persistence: persistence.filter(|_| key == ports(0, 0)),
        servers: vec![ServerSpec::new(([10, 2, 0, n], server_port).into(), 1, mode)],
        ..ServiceSpec::new(key, SchedulerSpec::RoundRobin)
    }
}

fn group(mode: ForwardMode, prefix: &str, taken: Ports, n: u8) -> ServiceSpec {
    let prefix: Prefix = prefix.parse().unwrap();
    let one = TrafficMatch { protocol: Protocol::Tcp, prefix, ports: taken };
    ServiceSpec { matches: vec![one], ..by(mode, ServiceKey::group("all").unwrap(), n) }
}

fn ftp(n: u8) -> ServiceSpec {
    ServiceSpec { helper: Some(Helper::Ftp), ..by(NAT, ports(FTP_PORT, FTP_PORT), n) }
}

fn apply(registry: &mut Registry, services: &[&ServiceSpec]) -> Result<(), Vec<String>> {
    let services = services.iter().copied().cloned().collect();
    let applied = registry.apply(&desired(services), &mut hop).map(drop);
    applied.map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

fn kind(registry: &Registry, spec: &ServiceSpec) -> KeyKind {
    registry.service(&spec.key).unwrap().1.key_kind
}

#[test]
fn services_that_overlap_are_steered_alike_or_refused() {
    let (range, all) = (ports(8000, 8010), ports(0, 0));
    for (wide, narrow, is_refused) in [
        (by(DR, range, 1), by(NAT, ports(8001, 8001), 2), true),
        (by(NAT, range, 1), by(DR, ports(8010, 8020), 2), true),
        (by(NAT, all, 1), by(DR, ports(80, 80), 2), true),
        (by(DR, all, 1), by(NAT, ports(80, 80), 2), true),
        (group(DR, "192.0.2.80/32", Ports::one(80), 1), by(NAT, ports(80, 80), 2), true),
        (group(NAT, "192.0.0.0/16", Ports::ALL, 1), by(DR, ports(80, 80), 2), true),
        (by(NAT, all, 1), by(NAT, ports(80, 80), 2), false),
        (by(DR, range, 1), by(DR, ports(8001, 8001), 2), false),
        (by(DR, range, 1), by(NAT, ports(8011, 8011), 2), false),
        (group(NAT, "198.51.100.0/24", Ports::ALL, 1), by(DR, ports(80, 80), 2), false),
        // What servers use is theirs; the service says how it is steered.
        (by(NAT, all, 1), ServiceSpec { forwarding: NAT, ..by(DR, ports(80, 80), 2) }, false),
    ] {
        let told = apply(&mut registry(2), &[&wide, &narrow]);
        assert_eq!(told.is_err(), is_refused, "{} {}: {told:?}", wide.key, narrow.key);
        assert_eq!(apply(&mut registry(2), &[&narrow, &wide]).is_err(), is_refused);
        assert_eq!(apply(&mut registry(1), &[&wide, &narrow]), Ok(()));
        let mut one_by_one = registry(2);
        one_by_one.add_service(&wide, &mut hop).unwrap();
        assert_eq!(one_by_one.add_service(&narrow, &mut hop).is_err(), is_refused);
    }
    let pair = [by(DR, range, 1), by(NAT, ports(8001, 8001), 2)];
    let told = apply(&mut registry(2), &[&pair[0], &pair[1]]).unwrap_err();
    assert_eq!(
        told,
        ["tcp 192.0.2.80:8001: tcp 192.0.2.80:8000-8010 has packets to tcp 192.0.2.80:8001 too, \
          and its flows are spread over workers by client and service (no server by NAT), not by \
          client address and port (servers by NAT): they would change workers when one of the two \
          services comes or goes; set forwarding = \"nat\" for both, and the modes in use at their \
          servers; one that has flows already has to be removed first, until they have ended"]
    );
}

#[test]
fn a_service_that_has_gone_counts_while_its_flows_may_live() {
    let (wide, narrow) = (by(DR, ports(8000, 8010), 1), by(NAT, ports(8001, 8001), 2));
    let mut registry = registry(2);
    apply(&mut registry, &[&wide]).unwrap();
    // One goes and the other comes, at once: drained or not.
    assert!(apply(&mut registry, &[&narrow]).unwrap_err()[0].contains("8000-8010 has packets"));
    registry.remove_service(&wide.key, Removal::Now).unwrap();
    assert!(apply(&mut registry, &[&narrow]).is_err());
    assert!(registry.add_service(&narrow, &mut hop).is_err());
    let mut flows = Flows::default();
    flows.services.insert(0, 1);
    registry.reclaim(&flows, u64::MAX, Nanos(0));
    assert!(apply(&mut registry, &[&narrow]).is_err());
    registry.reclaim(&Flows::default(), u64::MAX, Nanos(0));
    apply(&mut registry, &[&narrow]).unwrap();
    // A service that never had a server has no flows.
    let idle = ServiceSpec { servers: Vec::new(), ..by(NAT, ports(9000, 9010), 3) };
    apply(&mut registry, &[&narrow, &idle]).unwrap();
    apply(&mut registry, &[&narrow, &by(DR, ports(9001, 9001), 4)]).unwrap();
}

#[test]
fn what_a_group_took_before_counts_too() {
    let (mut web, https) = (group(NAT, "192.0.2.80/32", Ports::one(443), 1), ports(443, 443));
    let mut registry = registry(2);
    apply(&mut registry, &[&web]).unwrap();
    web.matches[0].ports = Ports::one(80);
    apply(&mut registry, &[&web]).unwrap();
    assert!(registry.add_service(&by(DR, https, 2), &mut hop).is_err());
    registry.add_service(&by(NAT, https, 2), &mut hop).unwrap();
}

#[test]
fn what_joins_a_helpers_free_ports_is_steered_like_its_data_connections() {
    let (ftp, web) = (ftp(1), by(DR, ports(8080, 8080), 2));
    let (privileged, all) = (by(DR, ports(80, 80), 3), by(DR, ports(0, 0), 4));
    for order in [[&ftp, &web, &privileged], [&privileged, &web, &ftp]] {
        let mut registry = registry(2);
        apply(&mut registry, &order).unwrap();
        assert_eq!(kind(&registry, &ftp), KeyKind::ClientAddress);
        assert_eq!(kind(&registry, &web), KeyKind::ClientAddress);
        assert_eq!(kind(&registry, &privileged), KeyKind::ClientTuple);
    }
    let mut one_by_one = registry(2);
    for spec in [&ftp, &web, &all] {
        one_by_one.add_service(spec, &mut hop).unwrap();
        assert_eq!(kind(&one_by_one, spec), KeyKind::ClientAddress);
    }
    assert!(one_by_one.add_service(&privileged, &mut hop).is_err(), "port 0 has port 80 too");
    // What was there before keeps its flows' owners.
    let mut before = registry(2);
    before.add_service(&web, &mut hop).unwrap();
    let told = before.add_service(&ftp, &mut hop).unwrap_err()[0].to_string();
    assert!(told.contains("give the FTP service an address of its own"), "{told}");
}

#[test]
fn a_nat_servers_replies_must_be_one_kinds() {
    let elsewhere = |port| ServiceKey::new(Protocol::Tcp, [192, 0, 2, 81].into(), port);
    let with_server = |spec: ServiceSpec, n: u8, port: u16| {
        let server = ServerSpec::new(([10, 2, 0, n], port).into(), 1, spec.forwarding);
        ServiceSpec { servers: vec![server], ..spec }
    };
    let ftp = with_server(ftp(1), 1, 21);
    let plain = |n, port| with_server(by(NAT, elsewhere(21), 9), n, port);
    let all = ServiceSpec {
        persistence: Some(Persistence { timeout_ms: 300_000, client_bits: 32 }),
        ..with_server(by(NAT, elsewhere(0), 9), 1, 0)
    };
    for (other, is_refused) in [
        (plain(1, 21), true),
        (all, true),
        (plain(1, 8080), false),
        (plain(2, 21), false),
        (with_server(by(DR, elsewhere(21), 9), 1, 21), false),
    ] {
        let told = apply(&mut registry(2), &[&ftp, &other]);
        assert_eq!(told.is_err(), is_refused, "{other:?} {told:?}");
        assert_eq!(apply(&mut registry(1), &[&ftp, &other]), Ok(()));
    }
    // Two services without a helper may share a server.
    let shared = [with_server(by(NAT, ports(21, 21), 9), 1, 21), plain(1, 21)];
    apply(&mut registry(2), &[&shared[0], &shared[1]]).unwrap();
    // A server that has left counts while its flows may live.
    let mut registry = registry(2);
    apply(&mut registry, &[&ftp]).unwrap();
    registry.remove_service(&ftp.key, Removal::Now).unwrap();
    let told = registry.add_service(&plain(1, 21), &mut hop).unwrap_err();
    assert_eq!(told[0].subject, "tcp 192.0.2.81:21, server 10.2.0.1:21");
    assert!(told[0].what.contains("NAT server of tcp 192.0.2.80:21 too"), "{told:?}");
    registry.reclaim(&Flows::default(), u64::MAX, Nanos(0));
    registry.add_service(&plain(1, 21), &mut hop).unwrap();
}
