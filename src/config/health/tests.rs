//! What of checks is refused and where, what is left out means, and that nothing is lost on the
//! way to the model and back.

use serde_json::json;

use crate::config::{Checked, Problem, Service, check, merge, service_from_json};
use crate::model::check::{
    self as model, CheckKind as Kind, CheckSpec, HealthSpec, HttpCheck, Reply, TlsCheck,
};

const HEAD: &str = "port = [{ name = \"p\", device = \"net_null0\" }]\n[[service]]\n\
                    address = \"192.0.2.80:80\"\n";

/// A service with a server and what a test adds, which begins at line 4.
fn with(text: &str) -> String {
    format!("{HEAD}{text}\n[[service.server]]\naddress = \"10.0.0.1\"\n")
}

fn without_place(problem: &Problem) -> String {
    Problem { position: None, ..problem.clone() }.to_string()
}

fn expect(text: &str, expected: &[&str]) {
    let lines: Vec<String> = match check(&with(text)) {
        Ok(_) => Vec::new(),
        Err(problems) => {
            // The place is the value's own line, which is after the head.
            let is_placed = |p: &&Problem| p.position.is_some_and(|at| at.line >= 4);
            assert!(problems.iter().all(|p| is_placed(&p)), "{problems:?}");
            problems.iter().map(without_place).collect()
        }
    };
    let matches = lines.len() == expected.len()
        && lines.iter().zip(expected).all(|(line, start)| line.starts_with(start));
    assert!(matches, "for\n{text}\ngot\n{}\nexpected\n{}", lines.join("\n"), expected.join("\n"));
}

const ALL: &str = r#"
on_failure = "remove"
starts_down = true
quorum = 3
quorum_hysteresis = 2
quorum_up = ["/usr/local/bin/announce", "add"]
quorum_down = ["/usr/local/bin/announce", "remove"]
quorum_down_at_stop = true
slow_start_ms = 30000
forwarding = "nat"
sorry_server = { address = "10.0.0.99:8080" }
[[service.check]]
kind = "tcp"
port = 8080
way = "service"
interval_ms = 3000
timeout_ms = 2000
retries = 0
retry_delay_ms = 0
jitter_percent = 0
rise = 2
fall = 3
[[service.check]]
kind = "http"
method = "HEAD"
request = "/health?full=1"
host = "www.example.org"
status = ["200", "300-399"]
[[service.check]]
kind = "https"
tls_verify = true
sni = "www.example.org"
expect_regex = "^OK"
[[service.check]]
kind = "https"
expect_md5 = "d41d8cd98f00b204e9800998ecf8427e"
[[service.check]]
kind = "http"
expect_sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
[[service.check]]
kind = "udp"
payload = "ping"
expect_text = "pong"
[[service.check]]
kind = "udp"
payload_hex = "00ff"
expect_reply = true
[[service.check]]
kind = "dns"
name = "example.org"
record = "AAAA"
record_address = "2001:db8::1"
[[service.check]]
kind = "icmp"
payload_bytes = 100
[[service.check]]
kind = "smtp"
helo = "director.example.org"
[[service.check]]
kind = "program"
command = ["/usr/lib/checks/x", "arg"]
[[service.server]]
address = "10.0.0.2"
check = []
[[service.server]]
address = "10.0.0.3"
[[service.server.check]]
kind = "dns"
name = "."
record = "SOA"
"#;

#[test]
fn checks_mean_what_they_say() {
    let Checked { desired, .. } = check(&with(ALL)).unwrap();
    let service = &desired.services[0];
    assert_eq!(
        service.health,
        HealthSpec {
            on_failure: model::OnFailure::Remove,
            starts_down: true,
            quorum: 3,
            quorum_hysteresis: 2,
            quorum_up: vec!["/usr/local/bin/announce".into(), "add".into()],
            quorum_down: vec!["/usr/local/bin/announce".into(), "remove".into()],
            down_at_stop: true,
            slow_start_ms: 30_000,
        }
    );
    assert_eq!(
        service.checks[0],
        CheckSpec {
            kind: Kind::Tcp,
            port: Some(8080),
            way: model::CheckWay::Service,
            interval_ms: 3000,
            timeout_ms: 2000,
            retries: 0,
            retry_delay_ms: 0,
            jitter_percent: 0,
            rise: 2,
            fall: 3,
        }
    );
    let Kind::Http(head) = &service.checks[1].kind else { panic!("{:?}", service.checks[1]) };
    assert_eq!(head.statuses, [(200, 200), (300, 399)]);
    let tls = Some(TlsCheck { verify: true, sni: Some("www.example.org".into()) });
    let body = Some(Reply::Regex("^OK".into()));
    assert!(
        matches!(&service.checks[2].kind, Kind::Http(h) if h.tls == tls && h.body == body),
        "{:?}",
        service.checks[2]
    );
    let reply = Some(Reply::Any);
    assert_eq!(service.checks[6].kind, Kind::Udp { payload: vec![0, 255], reply });
    let address = "2001:db8::1".parse().ok();
    let dns = Kind::Dns { name: "example.org".into(), record: 28, address };
    assert_eq!(service.checks[7].kind, dns);
    let sorry = service.sorry_server.as_ref().unwrap();
    assert_eq!(sorry.endpoint().to_string(), "10.0.0.99:8080");
    let counts = service.servers.iter().map(|server| service.checks_of(server).len());
    assert_eq!(counts.collect::<Vec<_>>(), [0, 1, 11]);
}

#[test]
fn a_check_that_says_nothing_has_the_usual_values() {
    let text = "check = [{ kind = \"http\" }, { kind = \"smtp\" }, { kind = \"icmp\" }]";
    let service = &check(&with(text)).unwrap().desired.services[0];
    assert_eq!(service.health, HealthSpec::default());
    let http = Kind::Http(HttpCheck {
        tls: None,
        method: model::HttpMethod::Get,
        request: "/".into(),
        host: None,
        statuses: vec![(200, 299)],
        body: None,
    });
    assert_eq!(service.checks[0], CheckSpec::new(http));
    assert_eq!(service.checks[1].kind, Kind::Smtp { helo: "localhost".into() });
    assert_eq!(service.checks[2].kind, Kind::Icmp { payload_bytes: 56 });
    let times = &service.checks[0];
    assert_eq!((times.interval_ms, times.timeout_ms, times.retries), (2000, 1000, 1));
    assert_eq!((times.retry_delay_ms, times.jitter_percent), (500, 10));
    assert_eq!((times.rise, times.fall), (1, 1));
}

#[test]
fn checks_are_written_as_they_were_meant() {
    let Checked { config, desired } = check(&with(ALL)).unwrap();
    let spec = &desired.services[0];
    assert_eq!(Service::from(spec).spec(), *spec);
    let text = config.to_toml().unwrap();
    assert_eq!(check(&text).unwrap().desired, desired, "{text}");
    let running = config.with_services(desired.services.iter(), &desired.semantics);
    assert_eq!(merge(&with(ALL), &running).unwrap(), with(ALL), "nothing has changed");
    let mut changed = running.clone();
    changed.service[0].check.remove(0);
    changed.service[0].server[1].check = None;
    let merged = merge(&with(ALL), &changed).unwrap();
    assert_eq!(check(&merged).unwrap().desired, changed.desired(), "{merged}");
}

#[test]
fn fields_of_another_kind_are_refused_where_they_stand() {
    let table: &[(&str, &[&str])] = &[
        (
            "check = [{ kind = \"tcp\", request = \"/\", sni = \"a\" }]",
            &[
                "service[0].check[0].request: a check of kind tcp has no request; leave it \
                 out; it is for http, https",
                "service[0].check[0].sni: a check of kind tcp has no sni; leave it out; it \
                 is for https",
            ],
        ),
        (
            "[[service.check]]\nkind = \"http\"\ntls_verify = true\nhelo = \"x\"",
            &[
                "service[0].check[0].tls_verify: a check of kind http has no tls_verify",
                "service[0].check[0].helo: a check of kind http has no helo; leave it out; it \
                 is for smtp",
            ],
        ),
        (
            "check = [{ kind = \"icmp\", port = 80, way = \"service\" },\n \
             { kind = \"htp\" }, { port = 80 }]",
            &[
                "service[0].check[0].port: a check of kind icmp has no port; leave it out",
                "service[0].check[0].way: a check of kind icmp has no way; leave it out",
                "service[0].check[1].kind: \"htp\" is unknown; did you mean \"http\"?",
                "service[0].check[2]: `kind` is missing",
            ],
        ),
    ];
    for (text, expected) in table {
        expect(text, expected);
    }
}

#[test]
fn values_without_sense_are_refused_with_what_to_do() {
    let table: &[(&str, &[&str])] = &[
        (
            "check = [{ kind = \"http\", expect_regex = \"a(b\" }]",
            &["service[0].check[0].expect_regex: `a(b` is no regular expression: unclosed \
               group; write it like"],
        ),
        (
            "quorum_down_at_stop = true",
            &["service[0].quorum_down_at_stop: there is no quorum_down that could run"],
        ),
        (
            "check = [{ kind = \"http\", expect_text = \"a\", expect_md5 = \"00\" }]",
            &["service[0].check[0].expect_md5: `00` are not 32 hexadecimal digits"],
        ),
        (
            "check = [{ kind = \"http\", expect_text = \"a\", expect_regex = \"a\" }]",
            &["service[0].check[0].expect_regex: `expect_text` already says what the"],
        ),
        (
            "check = [{ kind = \"http\", method = \"HEAD\", expect_text = \"a\" }]",
            &["service[0].check[0].expect_text: an answer to HEAD has no body; use method"],
        ),
        (
            "check = [{ kind = \"http\", host = \"a\\r\\nX: b\", request = \"x\", status = [] }]",
            &[
                "service[0].check[0].host: `a\\r\\nX: b` has spaces or characters beyond",
                "service[0].check[0].request: `x` does not begin with a slash; write it",
                "service[0].check[0].status: no status would be good; list some, or",
            ],
        ),
        (
            "check = [{ kind = \"http\", status = [\"299-200\", \"600\"] }]",
            &[
                "service[0].check[0].status[0]: `299-200` is no HTTP status or range",
                "service[0].check[0].status[1]: `600` is no HTTP status or range of them",
            ],
        ),
        (
            "check = [{ kind = \"udp\", way = \"service\" }]",
            &["service[0].check[0].way: silence would be good, from a server without the"],
        ),
        (
            "check = [{ kind = \"dns\", record_address = \"2001:db8::1\" }]",
            &[
                "service[0].check[0]: `name` is missing; add name = \"example.org\"",
                "service[0].check[0].record_address: 2001:db8::1 is in no A record; set \
                 record = \"AAAA\"",
            ],
        ),
    ];
    for (text, expected) in table {
        expect(text, expected);
    }
}

#[test]
fn programs_quorums_and_sorry_servers_without_sense_are_refused() {
    let table: &[(&str, &[&str])] = &[
        (
            "check = [{ kind = \"program\" }, { kind = \"program\", command = [\"x\"] }]",
            &[
                "service[0].check[0]: `command` is missing; add command = [",
                "service[0].check[1].command[0]: `x` is no absolute path; write it like",
            ],
        ),
        (
            "quorum = 2\nquorum_hysteresis = 2\nquorum_up = [\"announce\"]",
            &[
                "service[0].quorum_hysteresis: a hysteresis of 2 is not less than the \
                 quorum, 2; lower it",
                "service[0].quorum_up[0]: `announce` is no absolute path",
            ],
        ),
        (
            "check = [{ kind = \"tcp\", interval_ms = 99, rise = 0, jitter_percent = 51 }]",
            &[
                "service[0].check[0].interval_ms: 99 is out of range; use 100 to 86400000",
                "service[0].check[0].rise: 0 is out of range; use 1 to 1000",
                "service[0].check[0].jitter_percent: 51 is out of range; use 0 to 50",
            ],
        ),
        (
            "sorry_server = { address = \"10.0.0.1\", weight = 1 }",
            &[
                "service[0].sorry_server.address: server[0] has the same address; give",
                "service[0].sorry_server.weight: unknown key; remove it; possible here: \
                 address, forwarding, tunnel",
            ],
        ),
        (
            "sorry_server = { address = \"10.0.0.2:8080\" }",
            &["service[0].sorry_server.address: DR cannot change port 80 to 8080; use"],
        ),
    ];
    for (text, expected) in table {
        expect(text, expected);
    }
}

#[test]
fn a_check_needs_a_port_and_its_way_an_address() {
    let text = "port = [{ name = \"p\", device = \"net_null0\" }]\n[[service]]\n\
                group = \"all\"\nmatch = [{ address = \"10.3.0.0/16:80\" }]\n\
                check = [{ kind = \"tcp\" }, { kind = \"tcp\", port = 80, way = \"service\" }]\n\
                server = [{ address = \"10.0.0.1\", check = [{ kind = \"smtp\" }] },\n\
                { address = \"10.0.0.2\" }]";
    let lines: Vec<String> = check(text).unwrap_err().iter().map(without_place).collect();
    let expected = [
        "service[0].check[0].port: server 10.0.0.2 has every port of the service; say which",
        "service[0].check[1].way: the group has no single address that a check could be",
        "service[0].server[0].check[0].port: server 10.0.0.1 has every port of the",
    ];
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    assert!(lines.iter().zip(expected).all(|(line, start)| line.starts_with(start)), "{lines:#?}");
}

#[test]
fn single_services_and_servers_are_judged_too() {
    let json = json!({"address": "192.0.2.80:80", "check": [{"kind": "icmp", "port": 1}],
        "server": [{"address": "10.0.0.1", "check": [{"kind": "dns"}]}]});
    let problems = service_from_json(&json, &|_| Vec::new()).unwrap_err();
    let paths: Vec<&str> = problems.iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(paths, ["check[0].port", "server[0].check[0]"]);
    let good = json!({"address": "192.0.2.80:80"});
    let service = service_from_json(&good, &|_| Vec::new()).unwrap();
    let server = json!({"address": "10.0.0.1", "check": [{"kind": "program"}]});
    let problems = crate::config::server_from_json(&server, &service, &|_| Vec::new());
    assert_eq!(problems.unwrap_err()[0].path, "check[0]");
}
