//! Kinds of services through the packet path: which service a packet is for, and what server it
//! then gets.

#[path = "support/mod.rs"]
mod support;

use std::net::{IpAddr, SocketAddr};

use gyre::config::check;
use gyre::model::*;
use gyre::wire::tcp::TcpFlags;
use support::*;

const VIP: &str = "10.1.0.1";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A director that runs the services of a configuration.
fn director(services: &str) -> Director {
    let text = format!(
        "[[port]]\nname = \"p\"\ndevice = \"net_null0\"\naddresses = [\"10.2.0.1/24\"]\n\
         [local_addresses]\npool = {{ port = \"p\", addresses = [\"10.2.0.1\"] }}\n{services}"
    );
    let checked = check(&text).unwrap_or_else(|problems| panic!("{problems:#?}"));
    let mut director = Director::new(KernelMode::Tap);
    let wanted = Desired { removal: Removal::Now, ..checked.desired };
    director.change(|registry, hops| registry.apply(&wanted, hops)).unwrap();
    director
}

/// Where the first packet of a client to that address went.
fn first(
    director: &mut Director,
    protocol: Protocol,
    client: SocketAddr,
    to: SocketAddr,
) -> Option<SocketAddr> {
    let ip = from_client(client.ip(), to.ip());
    let frame = match protocol {
        Protocol::Tcp => ip.tcp(client.port(), to.port()).flags(TcpFlags::SYN).build(),
        Protocol::Udp => ip.udp(client.port(), to.port()).build(),
    };
    director.receive(CLIENT, &frame).sent_on().filter(|nic| *nic == SERVER)?;
    let row = director.flows().into_iter().find(|row| {
        (row.protocol, row.client.into(), row.virtual_address.into()) == (protocol, client, to)
    })?;
    Some(row.server.into())
}

fn server_of(director: &mut Director, port: u16) -> Option<String> {
    let client = SocketAddr::new(ip("10.0.0.7"), port);
    let to = SocketAddr::new(ip(VIP), port);
    first(director, Protocol::Tcp, client, to).map(|server| server.to_string())
}

#[test]
fn exact_port_goes_before_the_range_and_a_group_before_both() {
    let mut director = director(
        "[[service]]\naddress = \"10.1.0.1:8000-8010\"\n\
         [[service.server]]\naddress = \"10.2.0.11\"\n\
         [[service]]\naddress = \"10.1.0.1:8001\"\n\
         [[service.server]]\naddress = \"10.2.0.12\"\n\
         [[service]]\ngroup = \"web\"\nforwarding = \"fullnat\"\nlocal_addresses = \"pool\"\n\
         match = [{ address = \"10.1.0.1:8002\" }, { address = \"10.1.0.0/16:443\" }]\n\
         [[service.server]]\naddress = \"10.2.0.13\"\n\
         [[service.server]]\naddress = \"10.2.0.14:9\"\nweight = 0",
    );
    for (port, server) in [
        (8000, Some("10.2.0.11:8000")),
        (8001, Some("10.2.0.12:8001")),
        (8002, Some("10.2.0.13:8002")),
        (8010, Some("10.2.0.11:8010")),
        (443, Some("10.2.0.13:443")),
        (8011, None),
    ] {
        assert_eq!(server_of(&mut director, port).as_deref(), server, "port {port}");
    }
}

#[test]
fn a_group_schedules_all_its_matches_as_one() {
    let mut director = director(
        "[[service]]\ngroup = \"mixed\"\nscheduler = \"rr\"\n\
         match = [{ address = \"10.1.0.1:80\" }, \
         { address = \"10.1.0.2:53\", protocol = \"udp\" }]\n\
         [[service.server]]\naddress = \"10.2.0.11\"\n[[service.server]]\naddress = \"10.2.0.12\"",
    );
    let client = |port| SocketAddr::new(ip("10.0.0.7"), port);
    let (web, dns) = (SocketAddr::new(ip(VIP), 80), SocketAddr::new(ip("10.1.0.2"), 53));
    let picks = [
        first(&mut director, Protocol::Tcp, client(1), web),
        first(&mut director, Protocol::Udp, client(1), dns),
        first(&mut director, Protocol::Tcp, client(2), web),
        first(&mut director, Protocol::Tcp, client(2), dns),
    ];
    let picks = picks.map(|pick| pick.map(|server| server.to_string()));
    let expected = [Some("10.2.0.12:80"), Some("10.2.0.11:53"), Some("10.2.0.12:80"), None];
    assert_eq!(picks, expected.map(|server| server.map(str::to_owned)));
    let (spec, service) = director.registry.service(&ServiceKey::group("mixed").unwrap()).unwrap();
    assert_eq!((spec.matches.len(), service.servers.len()), (2, 2));
}

#[test]
fn what_makes_no_service_is_refused_with_a_remedy() {
    for (text, problem) in [
        ("group = \"web\"", "the group matches nothing; add a [[service.match]]"),
        (
            "group = \"web\"\n\
             match = [{ address = \"10.1.0.1:80\" }, { address = \"[fd00::1]:80\" }]",
            "the group mixes IPv4 and IPv6; make one group for each family",
        ),
        (
            "address = \"10.1.0.1:80\"\nmatch = [{ address = \"10.1.0.1:81\" }]",
            "a service with an address has no matches; give `group` a name",
        ),
        (
            "group = \"web\"\naddress = \"10.1.0.1:80\"\nmatch = [{ address = \"10.1.0.1:81\" }]",
            "`address` and `group` both say what the service is; remove one; a group takes its \
             addresses from [[service.match]]",
        ),
        (
            "address = \"10.1.0.1:80-90\"\nserver = [{ address = \"10.2.0.11:80\" }]",
            "DR cannot change ports to 80; leave the server's port out, or use another forwarding",
        ),
        ("group = \"a b\"", "`a b` cannot name a group"),
        ("name = \"web\"", "`address` is missing"),
    ] {
        let whole = format!("[[port]]\nname = \"p\"\ndevice = \"net_null0\"\n[[service]]\n{text}");
        let problems: Vec<String> = check(&whole)
            .unwrap_err()
            .iter()
            .map(|p| format!("{}; {}", p.message, p.remedy))
            .collect();
        assert!(problems.iter().any(|line| line.starts_with(problem)), "{text}: {problems:#?}");
    }
}
