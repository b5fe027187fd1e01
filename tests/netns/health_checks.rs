//! Health checks from the director's kernel through gyre's ports: of stock servers by every kind of
//! check, and by a service's own path, of servers that hold the virtual address, lack it, or would
//! send its packets on.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use gyre::control::health::runner::{Check, CheckId, Report, Runner, Target};
use gyre::model::check::{CheckKind, CheckSpec, CheckWay, HttpCheck, HttpMethod, Reply, TlsCheck};
use gyre::model::{ForwardMode, GueChecksum, Tunnel};

use crate::Case;
use crate::dns::start_dnsmasq;
use crate::field::{self, Back, Between, Driver, ECHO, Field, RIP4, RIP6};
use crate::lab::{Namespace, Process, wait_for};
use crate::servers::{HTTP, at, start_udp_echo, wait_for_listener};
use crate::site::{Layout, Plan, Site, VIP4, VIP6, curl, rip, service, web};

pub const CASES: &[Case] = &[
    ("service_checks_find_missing_vips", service_checks_find_missing_vips),
    ("service_checks_find_missing_vips_shared", service_checks_find_missing_vips_shared),
    ("service_checks_go_through_every_tunnel", service_checks_go_through_every_tunnel),
    ("service_checks_ask_by_udp_and_dns", service_checks_ask_by_udp_and_dns),
    ("service_checks_speak_http_https_and_smtp", service_checks_speak_http_https_and_smtp),
    ("every_kind_of_check_knows_real_servers", every_kind_of_check_knows_real_servers),
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
            checks.push(check(page("/", ""), at(vip, HTTP), target));
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

/// Debian's python3 has an SMTP server of its own up to 3.12, else aiosmtpd.
const SMTP: &str = "
try:
    import asyncore, smtpd
    smtpd.DebuggingServer(('::', 25), None)
    print('listening', flush=True)
    asyncore.loop()
except ImportError:
    import time
    from aiosmtpd.controller import Controller
    from aiosmtpd.handlers import Sink
    Controller(Sink(), hostname='::', port=25).start()
    print('listening', flush=True)
    time.sleep(1000)
";

/// A second nginx, with TLS and a page of known digest, at a port of its own.
fn start_secure_nginx(site: &Site, space: &Namespace) -> Process {
    let dir = site.lab.dir("secure");
    let d = dir.display();
    let certificate =
        ["-subj", "/CN=www.example.org", "-days", "2", "-nodes", "-newkey", "rsa:2048"];
    let files = ["-keyout", &format!("{d}/key"), "-out", &format!("{d}/certificate")];
    space.run("openssl", &[&["req", "-x509"][..], &certificate, &files].concat());
    std::fs::write(dir.join("page"), "abc").unwrap();
    let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {d}/tmp-{kind};\n"))
        .concat();
    let config = format!(
        "daemon off; user root; pid {d}/pid; error_log stderr; events {{}}\n\
         http {{ access_log off; {temp} server {{ listen 443 ssl; listen [::]:443 ssl;\n\
         ssl_certificate {d}/certificate; ssl_certificate_key {d}/key; root {d};\n\
         location = /name {{ return 200 \"for $ssl_server_name\"; }} }} }}\n"
    );
    std::fs::write(dir.join("nginx.conf"), config).unwrap();
    let mut command = space.command("nginx");
    command.args(["-p", dir.to_str().unwrap(), "-e", "stderr", "-c"]).arg(dir.join("nginx.conf"));
    let process = space.start("nginx", &mut command, &dir.join("output"));
    wait_for_listener(space, 443);
    process
}

fn https(request: &str, verify: Verify, body: Reply) -> CheckKind {
    CheckKind::Http(HttpCheck {
        tls: Some(TlsCheck { verify: verify == Verify::Yes, sni: None }),
        method: HttpMethod::Get,
        request: request.into(),
        host: Some("www.example.org".into()),
        statuses: vec![(200, 299)],
        body: Some(body),
    })
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verify {
    Yes,
    No,
}

/// A page over plain HTTP.
fn page(request: &str, body: &str) -> CheckKind {
    CheckKind::Http(HttpCheck {
        tls: None,
        method: HttpMethod::Get,
        request: request.into(),
        host: None,
        statuses: vec![(200, 200)],
        body: Some(Reply::Regex(body.into())),
    })
}

/// An SMTP server, once it listens.
fn start_mail(site: &Site, server: &Namespace) -> Process {
    let log = site.lab.dir("smtp").join("output");
    let mut command = server.command("python3");
    let mail = server.start("smtp", command.args(["-c", SMTP]), &log);
    wait_for("an SMTP server", 10, || mail.said().contains("listening").then_some(()));
    mail
}

/// Whole connections by the service's path: server 1 holds the VIPs, 2 does not.
fn service_checks_speak_http_https_and_smtp() {
    let services = [VIP4, VIP6].map(|vip| service(Layout::OneSegment, "tcp", vip, (80, 80), ""));
    let site = Site::build(&Plan::new(Layout::OneSegment, services.concat()));
    let server = &site.servers[0].space;
    let _secure = start_secure_nginx(&site, server);
    let _mail = start_mail(&site, server);
    site.servers[1].space.ip(&format!("addr del {VIP4}/32 dev lo"));
    site.servers[1].space.ip(&format!("addr del {VIP6}/128 dev lo"));
    let name = || Reply::Text("for www.example.org".into());
    let mail = || CheckKind::Smtp { helo: "director.example.org".into() };
    let mut checks = Vec::new();
    for vip in [VIP4, VIP6] {
        let ask = |kind, n, port| {
            let Check { target, .. } = dr(vip, n, port);
            let target = (target.server, target.mode, target.tunnel);
            let mut one = check(kind, at(vip, port), target);
            one.spec.timeout_ms = 3000;
            one
        };
        checks.push(ask(page("/", "^server1 "), 1, HTTP));
        checks.push(ask(https("/name", Verify::No, name()), 1, 443));
        checks.push(ask(mail(), 1, 25));
        // And what is not so.
        checks.push(ask(page("/", "^server2 "), 1, HTTP));
        checks.push(ask(page("/missing", ""), 1, HTTP));
        checks.push(ask(page("/", ""), 1, 81));
        checks.push(ask(page("/", ""), 2, HTTP));
        checks.push(ask(mail(), 2, 25));
        // As many as want to at one time, and one port after the other.
        checks.extend((0..150).map(|_| ask(page("/", "^server1 "), 1, HTTP)));
    }
    let family = checks.len() as u64 / 2;
    let said = rounds(&site.director.space, checks);
    for first in [0, family] {
        let good = (0..3).chain(8..family).map(|n| &said[&(first + n)]);
        assert!(good.into_iter().all(Result::is_ok), "{said:#?}");
        let silent = "does the server hold that address on lo";
        let reasons = ["without a match of", "status 404", "nobody listens", silent, silent];
        for (n, reason) in (3..).zip(reasons) {
            let said = said[&(first + n)].as_ref().unwrap_err();
            assert!(said.contains(reason), "{reason}: {said}");
        }
    }
    // The servers' ends are over: what the server ended first does not wait there.
    let ended = || server.run("ss", &["-Htan", "state", "time-wait"]);
    wait_for("the connections' ends", 10, || ended().lines().count().lt(&20).then_some(()));
    assert_eq!(site.director.dropped("internal"), 0);
    let listed = site.director.call("connections.list", serde_json::json!({}));
    assert!(!listed.to_string().contains(VIP4), "{listed}");
}

/// From the director's own sockets to the servers' own addresses.
fn every_kind_of_check_knows_real_servers() {
    let site = Site::build(&Plan::new(Layout::TwoSegments, String::new()));
    let server = &site.servers[0].space;
    let _dns = start_dnsmasq(&site.lab, &site.servers[0], 53);
    let _secure = start_secure_nginx(&site, server);
    let _mail = start_mail(&site, server);
    // Of "abc": RFC 1321, A.5.
    let md5 = *b"\x90\x01\x50\x98\x3c\xd2\x4f\xb0\xd6\x96\x3f\x7d\x28\xe1\x7f\x72";
    let plain = HttpCheck {
        tls: None,
        method: HttpMethod::Get,
        request: "/".into(),
        host: None,
        statuses: vec![(200, 200)],
        body: Some(Reply::Regex("^server1 ".into())),
    };
    let missing = HttpCheck { request: "/missing".into(), ..plain.clone() };
    let dns = |name: &str| CheckKind::Dns { name: name.into(), record: TXT, address: None };
    let command = ["/bin/ping", "-c1", "-W1"].map(str::to_owned).to_vec();
    let ping =
        |rip: &str| CheckKind::Program { command: [&command[..], &[rip.to_owned()]].concat() };
    let for_name = Reply::Text("for www.example.org".into());
    let mut checks = Vec::new();
    for v6 in [false, true] {
        let rip = rip(Layout::TwoSegments, v6, 1);
        let mut add = |kind, port| {
            let mut one =
                check(kind, at(VIP4, 1), (at(&rip, port), ForwardMode::Nat, Tunnel::Ipip));
            one.spec.way = CheckWay::Server;
            one.spec.timeout_ms = 3000;
            checks.push(one);
        };
        add(CheckKind::Tcp, HTTP);
        add(CheckKind::Http(plain.clone()), HTTP);
        add(https("/page", Verify::No, Reply::Md5(md5)), 443);
        add(https("/name", Verify::No, for_name.clone()), 443);
        add(dns("who.test"), 53);
        add(CheckKind::Udp { payload: b"x".to_vec(), reply: None }, 53);
        add(CheckKind::Icmp { payload_bytes: 56 }, 0);
        add(CheckKind::Smtp { helo: "director.example.org".into() }, 25);
        add(ping(&rip), 0);
        // And what is not so.
        add(CheckKind::Tcp, 81);
        add(CheckKind::Http(missing.clone()), HTTP);
        add(https("/page", Verify::Yes, Reply::Any), 443);
        add(dns("nobody.test"), 53);
        add(CheckKind::Udp { payload: b"x".to_vec(), reply: None }, 54);
        add(CheckKind::Smtp { helo: "director.example.org".into() }, HTTP);
    }
    let said = rounds(&site.director.space, checks);
    for family in [0, 15] {
        assert!((0..9).all(|n| said[&(family + n)] == Ok(())), "{said:#?}");
        let reasons = [
            "connection refused",
            "status 404, wanted 200",
            "TLS: ",
            "DNS error",
            "nobody listens",
            "no SMTP greeting",
        ];
        for (n, reason) in reasons.iter().enumerate() {
            let said = said[&(family + 9 + n as u64)].as_ref().unwrap_err();
            let no_authorities = n == 2 && said.contains("ca-certificates");
            assert!(said.contains(reason) || no_authorities, "{reason}: {said}");
        }
    }
}
