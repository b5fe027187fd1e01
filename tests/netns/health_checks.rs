//! Health checks that take a service's own path, from the director's kernel through gyre's ports to
//! servers that hold the virtual address, lack it, or would send its packets on.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use gyre::control::health::runner::{Check, CheckId, Report, Runner, Target};
use gyre::model::check::{CheckKind, CheckSpec, CheckWay, Reply};
use gyre::model::{ForwardMode, GueChecksum, Tunnel};

use crate::Case;
use crate::dns::start_dnsmasq;
use crate::field::{self, Back, Between, Driver, ECHO, Field, RIP4, RIP6};
use crate::lab::Namespace;
use crate::servers::{HTTP, at, start_udp_echo};
use crate::site::{Layout, Plan, Site, VIP4, VIP6, curl, rip, service, web};

pub const CASES: &[Case] = &[
    ("service_checks_find_missing_vips", service_checks_find_missing_vips),
    ("service_checks_find_missing_vips_shared", service_checks_find_missing_vips_shared),
    ("service_checks_go_through_every_tunnel", service_checks_go_through_every_tunnel),
    ("service_checks_ask_by_udp_and_dns", service_checks_ask_by_udp_and_dns),
];

/// TXT (IANA "DNS Parameters").
const TXT: u16 = 16;

fn check(kind: CheckKind, vip: SocketAddr, target: (SocketAddr, ForwardMode, Tunnel)) -> Check {
    let (server, mode, tunnel) = target;
    let spec = CheckSpec {
        kind,
        port: None,
        way: CheckWay::Service,
        interval_ms: 1000,
        timeout_ms: 700,
        retries: 1,
        retry_delay_ms: 50,
        jitter_percent: 0,
        rise: 1,
        fall: 1,
    };
    Check { spec, target: Target { server, vip: Some(vip), mode, tunnel } }
}

/// One round of each check, by the runner in the director's namespace: what it says of each.
fn rounds(director: &Namespace, checks: Vec<Check>) -> BTreeMap<u64, Result<(), String>> {
    director.enter(|| {
        let (runner, mut reports) = Runner::start(1).unwrap();
        let count = checks.len();
        let named = checks.into_iter().enumerate();
        runner.replace(named.map(|(n, check)| (CheckId(n as u64), check)).collect());
        (0..count as u64).for_each(|id| runner.check_now(CheckId(id)));
        let mut results = BTreeMap::new();
        while results.len() < count {
            let Report { id, result, .. } = reports.blocking_recv().unwrap();
            let said = result.map(drop).map_err(|failure| failure.to_string());
            results.entry(id.0).or_insert(said);
        }
        results
    })
}

fn dr(vip: &str, n: usize, port: u16) -> Check {
    let server = at(&rip(Layout::OneSegment, vip.contains(':'), n), port);
    let target = (server, ForwardMode::DirectRoute, Tunnel::default());
    check(CheckKind::Tcp, at(vip, port), target)
}

/// Server 1 holds the VIPs; 2 does not and is silent; 3 does not and forwards.
fn find_missing_vips(kernel: &'static str) {
    let services = [VIP4, VIP6].map(|vip| service(Layout::OneSegment, "tcp", vip, (80, 80), ""));
    let plan = Plan { kernel, ..Plan::new(Layout::OneSegment, services.concat()) };
    let site = Site::build(&plan);
    for server in &site.servers[1..] {
        server.space.ip(&format!("addr del {VIP4}/32 dev lo"));
        server.space.ip(&format!("addr del {VIP6}/128 dev lo"));
    }
    let router = &site.servers[2].space;
    router.sysctl("net/ipv4/ip_forward", "1");
    router.sysctl("net/ipv6/conf/all/forwarding", "1");
    let mut checks = Vec::new();
    for vip in [VIP4, VIP6] {
        checks.extend((1..=3).map(|n| dr(vip, n, HTTP)));
        checks.push(dr(vip, 1, 81));
    }
    let said = rounds(&site.director.space, checks);
    for (first, vip) in [(0, VIP4), (4, VIP6)] {
        assert_eq!(said[&first], Ok(()), "{said:?}");
        let silent = said[&(first + 1)].as_ref().unwrap_err();
        assert!(silent.contains("does the server hold that address on lo"), "{said:?}");
        let routed = said[&(first + 2)].as_ref().unwrap_err();
        assert!(routed.contains(&format!("the server does not hold {vip}")), "{said:?}");
        let refused = said[&(first + 3)].as_ref().unwrap_err();
        assert!(refused.contains("refused"), "{said:?}");
    }
    // The checks were nobody's connections.
    assert_eq!(site.director.dropped("internal"), 0);
    let listed = site.director.call("connections.list", serde_json::json!({}));
    assert!(!listed.to_string().contains(VIP4), "{listed}");
    // Their client got on beside them.
    site.servers[1].space.ip(&format!("addr add {VIP4}/32 dev lo"));
    site.servers[2].space.ip(&format!("addr add {VIP4}/32 dev lo"));
    assert!(curl(&site.client, &web(VIP4)).is_ok());
}

fn service_checks_find_missing_vips() {
    find_missing_vips("tap");
}

fn service_checks_find_missing_vips_shared() {
    find_missing_vips("shared");
}

fn service_checks_ask_by_udp_and_dns() {
    let services = [VIP4, VIP6].map(|vip| service(Layout::OneSegment, "udp", vip, (53, 53), ""));
    let site = Site::build(&Plan::new(Layout::OneSegment, services.concat()));
    let _dns = start_dnsmasq(&site.lab, &site.servers[0], 53);
    let space = &site.servers[0].space;
    let _echoes = [VIP4, VIP6].map(|vip| start_udp_echo(space, "server1", at(vip, ECHO)));
    let dns = |name: &str| CheckKind::Dns { name: name.into(), record: TXT, address: None };
    let udp = |reply| CheckKind::Udp { payload: b"ping".to_vec(), reply: Some(reply) };
    let mut checks = Vec::new();
    for vip in [VIP4, VIP6] {
        let ask = |kind, n, port| {
            let Check { target, .. } = dr(vip, n, port);
            check(kind, at(vip, port), (target.server, target.mode, target.tunnel))
        };
        checks.push(ask(dns("who.test"), 1, 53));
        checks.push(ask(dns("nobody.test"), 1, 53));
        checks.push(ask(udp(Reply::Text("server1 ping".into())), 1, ECHO));
        checks.push(ask(udp(Reply::Any), 2, ECHO));
    }
    let said = rounds(&site.director.space, checks);
    for first in [0, 4] {
        assert_eq!(said[&first], Ok(()), "{said:?}");
        assert!(said[&(first + 1)].as_ref().unwrap_err().starts_with("DNS error"), "{said:?}");
        assert_eq!(said[&(first + 2)], Ok(()), "{said:?}");
        let nobody = said[&(first + 3)].as_ref().unwrap_err();
        assert!(nobody.contains("nobody listens at"), "{said:?}");
    }
}

fn service_checks_go_through_every_tunnel() {
    let tunnels = [
        Tunnel::Ipip,
        Tunnel::Gre { checksum: false },
        Tunnel::Gre { checksum: true },
        Tunnel::Gue { port: 6080, checksum: GueChecksum::Sum },
    ];
    let vips = vec![VIP4.to_string(), VIP6.to_string()];
    let services = [(VIP4, RIP4), (VIP6, RIP6)]
        .map(|ends| field::all_services(ends, 0, "forwarding = \"tun\""));
    let plan = field::Plan {
        driver: Driver::Tap,
        back: Back::PastDirector,
        between: Between::Link,
        services: services.concat(),
        vips,
    };
    let mut field = Field::build(&plan, &[]);
    field.end_tunnels();
    let mut checks = Vec::new();
    for tunnel in tunnels {
        for (vip, rip) in [(VIP4, RIP4), (VIP6, RIP6)] {
            let target = (at(rip, HTTP), ForwardMode::Tunnel, tunnel);
            checks.push(check(CheckKind::Tcp, at(vip, HTTP), target));
        }
    }
    let without = (at(RIP4, HTTP), ForwardMode::Tunnel, Tunnel::Ipip);
    checks.push(check(CheckKind::Tcp, at("10.1.0.99", HTTP), without));
    let count = checks.len() as u64 - 1;
    let said = rounds(&field.director.space, checks);
    assert!((0..count).all(|n| said[&n].is_ok()), "{said:?}\n{}", field.tunnels());
    assert!(said[&count].is_err(), "{said:?}");
    for kind in ["ipip 4in4", "ipip 6in6", "gre 4in4", "gre+csum 6in6", "gue+csum 4in4"] {
        assert!(field.tunnels().contains(&format!("seen {kind} to ")), "{}", field.tunnels());
    }
    assert!(!field.tunnels().contains("refused"), "{}", field.tunnels());
}
