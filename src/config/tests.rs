//! What is refused and where; that both languages and both directions agree; that no input panics.

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::shape::Field;
use super::*;
use crate::model::{ForwardMode, validate};

const GOOD: &str = r#"
[runtime]
workers = 2
idle = "adaptive"
connections = 1_000_000

[[port]]
name = "wan"
device = "net_af_packet0,iface=eth1"
kernel = "shared"
addresses = ["192.0.2.2/24", "2001:db8::2/64"]
vlan = 100

[local_addresses]
pool1 = { port = "wan", addresses = ["192.0.2.8", "192.0.2.9"], ports = [2048, 4095] }

[[neighbour]]
address = "192.0.2.11"
mac = "02:00:00:00:01:fe"
port = "wan"

[[route]]
prefix = "0.0.0.0/0"
via = "192.0.2.1"

[[service]]
address = "192.0.2.80:80"
name = "web"
scheduler = "wrr"
forwarding = "fullnat"
local_addresses = "pool1"
synproxy = true
client_address = "toa"
toa_kind = 253
deny = ["198.51.100.0/24"]
timeouts = { established = 600 }
  [[service.server]]
  address = "192.0.2.11:8080"
  weight = 3
  [[service.server]]
  address = "192.0.2.12"

[[service]]
address = "[2001:db8::80]:53"
protocol = "udp"
scheduler = "sh"
scheduler_flags = ["sh-port"]
  [[service.server]]
  address = "2001:db8::11"
  upper_threshold = 100
  lower_threshold = 60
"#;

/// A port, so that a test's text need not repeat it.
const PORT: &str = "[[port]]\nname = \"p\"\ndevice = \"net_null0\"\n";

fn lines_of(text: &str) -> Vec<String> {
    check(text).unwrap_err().iter().map(ToString::to_string).collect()
}

#[test]
fn a_good_file_means_what_it_says() {
    let Checked { config, desired } = check(GOOD).unwrap();
    assert_eq!(config.runtime.worker_count(), 2);
    assert_eq!(config.port[0].interface(), Some("eth1"));
    let web = &desired.services[0];
    assert_eq!(web.key.to_string(), "tcp 192.0.2.80:80");
    let servers: Vec<String> = web.servers.iter().map(|s| s.endpoint().to_string()).collect();
    assert_eq!(servers, ["192.0.2.11:8080", "192.0.2.12:80"]);
    assert_eq!((web.timeouts.established_ms, web.timeouts.close_ms), (Some(600_000), None));
    assert_eq!(web.client_address, crate::model::ClientAddress::Toa { kind: 253, on_syn: false });
    assert_eq!(desired.services[1].servers[0].port, 53);
    assert_eq!(desired.pools[0].ports, (2048, 4095));
}

/// Each text and the beginning of each line it gets, in order, none left out.
#[test]
fn bad_files_are_told_all_at_once_and_where() {
    let table: &[(&str, &[&str])] = &[
        ("", &["1:1: there is no port; add a [[port]]"]),
        ("x = = 1\nunknown = 2", &["1:5: not TOML: "]),
        ("a = 1\na = 2", &["2:1: not TOML: duplicate key"]),
        (
            "[[port]]\nname = \"p\"\ndevice = \"net_null0\"\nvlam = 7\ncolour = 1",
            &[
                "4:1: port[0].vlam: unknown key; did you mean `vlan`?",
                "5:1: port[0].colour: unknown key; remove it; possible here: name, device,",
            ],
        ),
        (
            "[runtime]\nworkers = \"two\"\nidle = \"lazy\"\nconnections = 0\nlog = 1.5\n\
             [[port]]\nname = \"p\"\ndevice = \"eth1\"",
            &[
                "2:11: runtime.workers: a string does not belong here; write an integer, 1 to 64",
                "3:8: runtime.idle: \"lazy\" is unknown; use one of \"poll\", \"adaptive\"",
                "4:15: runtime.connections: 0 is out of range; use 1 to ",
                "5:7: runtime.log: a number with a fraction does not belong here; write one of",
                "8:10: port[0].device: `eth1` is neither a PCI address nor DPDK devargs; write it \
                 like \"0000:3b:00.0\", or for a kernel interface \"net_af_packet0,iface=eth1\"",
            ],
        ),
        (
            "port = 1\nservice = { address = 2 }",
            &[
                "1:8: port: an integer does not belong here; write a list of tables",
                "2:11: service: one table, where there may be several; write [[service]] for",
            ],
        ),
        (
            "[[port]]\nname = \"p\"\n[[service]]\nprotocol = \"sctp\"",
            &[
                "1:1: port[0]: `device` is missing; add device = a string like \"0000:3b:00.0\"",
                "3:1: service[0]: `address` is missing; add address = a string like",
                "4:12: service[0].protocol: \"sctp\" is not in this version of gyre; use one of",
            ],
        ),
    ];
    for (text, expected) in table {
        expect(text, expected);
    }
}

#[test]
fn a_flag_that_the_scheduler_does_not_have_is_refused_with_the_one_that_does() {
    let head = "[[service]]\naddress = \"192.0.2.80:80\"\n";
    let table: &[(&str, &[&str])] = &[
        (
            "scheduler_flags = [\"sh-port\"]",
            &["6:19: service[0].scheduler_flags: the scheduler wlc has no flag \
             sh-port; set scheduler = \"sh\", or leave the flag out"],
        ),
        (
            "scheduler = \"sh\"\nscheduler_flags = [\"sh-port\", \"mh-fallback\"]",
            &["7:19: service[0].scheduler_flags: the scheduler sh has no flag \
             mh-fallback; set scheduler = \"mh\", or use sh-port or sh-fallback"],
        ),
        (
            "scheduler = \"mh\"\nscheduler_flags = [\"mh-prt\"]",
            &["7:20: service[0].scheduler_flags[0]: \"mh-prt\" is unknown; did you mean \"mh-por"],
        ),
        (
            "[[service.server]]\naddress = \"10.0.0.1\"\nlower_threshold = 5",
            &["8:19: service[0].server[0].lower_threshold: \
             lower threshold 5 is above the upper one, 0; lower it, raise upper_threshold"],
        ),
    ];
    for (text, expected) in table {
        expect(&format!("{PORT}{head}{text}"), expected);
    }
}

#[test]
fn services_without_sense_are_told_all_at_once_and_where() {
    let table: &[(&str, &[&str])] = &[
        (
            "[[service]]\naddress = \"192.0.2.80:80\"\nscheduler = \"wlcc\"\n\
             forwarding = \"group\"\n\
             [[service.server]]\naddress = \"10.0.0.1\"\nweight = 70000\n\
             [[service.server]]\naddress = \"10.0.0.999\"",
            &[
                "6:13: service[0].scheduler: \"wlcc\" is unknown; did you mean \"wlc\"? \
                 Possible: \"rr\", \"wrr\", \"lc\", \"wlc\",",
                "7:14: service[0].forwarding: \"group\" is not in this version of gyre; use one of",
                "10:10: service[0].server[0].weight: 70000 is out of range; use 0 to 65535",
                "12:11: service[0].server[1].address: `10.0.0.999` is no address, with or",
            ],
        ),
        (
            "[[service]]\naddress = \"192.0.2.80:80\"\nwieght = 1\n\
             [[service.server]]\naddress = \"10.0.0.1:81\"\n\
             [[service.server]]\naddress = \"2001:db8::1\"\nforwarding = \"fullnat\"\n\
             [[service.server]]\naddress = \"10.0.0.1:81\"\n\
             [[service]]\naddress = \"192.0.2.80:80\"\nprotocol = \"tcp\"\nmaglev_slots = 7\n\
             toa_on_syn = true\nname = 7",
            &[
                "4:1: service[0].local_addresses: FULLNAT needs source addresses; name a pool:",
                "6:1: service[0].wieght: unknown key; remove it; possible",
                "8:11: service[0].server[0].address: DR cannot change port 80 to 81; use the",
                "13:11: service[0].server[2].address: server[0] has the same address; list it",
                "13:11: service[0].server[2].address: DR cannot change port 80 to 81",
                "15:11: service[1].address: service[0] has the same protocol and address; merge",
                "17:16: service[1].maglev_slots: maglev_slots has no effect without scheduler =",
                "18:14: service[1].toa_on_syn: toa_on_syn has no effect without client_address",
                "19:8: service[1].name: an integer does not belong here; write a string",
            ],
        ),
        (
            "[local_addresses]\n\
             a = { port = \"lan\", addresses = [\"192.0.2.80\", \"10.0.0.8\"] }\n\
             b = { port = \"p\", addresses = [\"10.0.0.8\"], ports = [9, 8] }\n\
             [[service]]\naddress = \"192.0.2.80:80\"\nforwarding = \"fullnat\"\n\
             local_addresses = \"c\"\nscheduler = \"maglev\"\nmaglev_slots = 100\n\
             [[service.server]]\naddress = \"10.0.0.8\"\n\
             [[service]]\naddress = \"192.0.2.81:53\"\nprotocol = \"udp\"\nsynproxy = true\n\
             client_address = \"proxy-v2\"",
            &[
                "5:14: local_addresses.a.port: there is no port `lan`; use one of: p",
                "5:34: local_addresses.a.addresses[0]: 192.0.2.80 is also a service's address",
                "6:32: local_addresses.b.addresses[0]: 10.0.0.8 is already in local_addresses a",
                "6:53: local_addresses.b.ports: [9, 8] is no port range; write [lowest, highest]",
                "10:19: service[0].local_addresses: there is no pool `c`; define it under",
                "12:16: service[0].maglev_slots: 100 slots make no Maglev table; use a prime",
                "14:11: service[0].server[0].address: 10.0.0.8 is one of the local_addresses",
                "18:12: service[1].synproxy: synproxy works on TCP only; leave it out for UDP",
                "19:18: service[1].client_address: client_address works on TCP only; leave it",
            ],
        ),
    ];
    for (text, expected) in table {
        expect(&format!("{PORT}{text}"), expected);
    }
}

#[test]
fn modes_that_the_ports_cannot_carry_are_told() {
    let text = "[[port]]\nname = \"lan\"\ndevice = \"net_af_packet0,iface=eth1\"\n\
                kernel = \"shared\"\naddresses = [\"192.0.2.2/24\"]\n\
                [[service]]\naddress = \"192.0.2.80:80\"\nforwarding = \"tun\"\n\
                [[service.server]]\naddress = \"10.0.0.1\"\ntunnel_port = 6081\n\
                [[service.server]]\naddress = \"2001:db8::1\"\n\
                [[service.server]]\naddress = \"127.0.0.1\"\nforwarding = \"local\"";
    expect(
        text,
        &[
            "11:15: service[0].server[0].tunnel_port: tunnel_port has no effect without tunnel =",
            "13:11: service[0].server[1].address: no port has an IPv6 address to send tunnels",
            "16:14: service[0].server[2].forwarding: on port lan the kernel is kept from the",
        ],
    );
}

#[test]
fn servers_that_are_the_director_and_those_that_are_not_are_told() {
    let text = "[[port]]\nname = \"lan\"\ndevice = \"net_null0\"\n\
                addresses = [\"192.0.2.2/24\", \"fe80::2/64\"]\n\
                [[service]]\naddress = \"192.0.2.80:80\"\nforwarding = \"dr\"\n\
                [[service.server]]\naddress = \"192.0.2.2\"\n\
                [[service.server]]\naddress = \"192.0.2.3\"\nforwarding = \"local\"\n\
                [[service.server]]\naddress = \"127.0.0.1\"\nforwarding = \"local\"\n\
                [[service.server]]\naddress = \"2001:db8::1\"\nforwarding = \"tun\"";
    expect(
        text,
        &[
            "9:11: service[0].server[0].address: 192.0.2.2 is the director itself; set forwarding",
            "11:11: service[0].server[1].address: 192.0.2.3 is no address of the director; give",
            "17:11: service[0].server[3].address: no port has an IPv6 address to send tunnels",
        ],
    );
    // Of ports that are not known it is not said what they lack.
    let unknown = text.replace("fe80::2/64", "fe80::2/640");
    expect(&unknown, &["4:30: port[0].addresses[1]: "]);
}

#[test]
fn groups_that_take_the_same_packets_or_have_one_mark_are_told() {
    let group = |name: &str, address: &str, mark: u32| {
        format!(
            "[[service]]\ngroup = \"{name}\"\nmark = {mark}\n\
             [[service.match]]\naddress = \"{address}\"\n"
        )
    };
    let groups = [
        group("a", "192.0.2.80:80", 1),
        group("b", "192.0.2.80:80", 2),
        group("c", "192.0.2.80:81", 1),
        group("d", "[2001:db8::80]:80", 1),
    ];
    expect(
        &format!("{PORT}{}", groups.concat()),
        &[
            "12:1: service[1].match: service[0] has the match tcp 192.0.2.80:80 too; list it once",
            "16:8: service[2].mark: service[0] has mark 1 too; give each group of a family a mark",
        ],
    );
}

#[test]
fn options_that_do_not_fit_are_told() {
    let table: &[(&str, &[&str])] = &[(
        "[[service]]\naddress = \"192.0.2.80:80\"\nsynproxy = true\nclient_address = \"toa\"\n\
             toa_kind = 8\n[[service.server]]\naddress = \"10.0.0.1\"\n\
             [[service]]\naddress = \"224.0.0.1:0\"\nlocal_addresses = \"none\"",
        &[
            "6:12: service[0].synproxy: synproxy needs replies to return through gyre; set",
            "7:18: service[0].client_address: client_address needs replies to return",
            "8:12: service[0].toa_kind: TCP option kind 8 means something else; use 254",
            "12:11: service[1].address: 224.0.0.1 is no host's address; give a unicast",
            "12:11: service[1].address: port 0 (all ports) needs persistence",
            "13:19: service[1].local_addresses: there is no pool `none`",
        ],
    )];
    for (text, expected) in table {
        expect(&format!("{PORT}{text}"), expected);
    }
}

#[test]
fn ports_and_routes_without_sense_are_told() {
    let table: &[(&str, &[&str])] = &[(
        "[runtime]\nworkers = 2\ncores = [1, 1]\n[[port]]\nname = \"p\"\ndevice = \"net_null0\"\n\
             kernel = \"shared\"\n[[port]]\nname = \"p\"\ndevice = \"net_null0\"\n[[neighbour]]\n\
             address = \"10.0.0.1\"\nmac = \"0:1\"\nport = \"p\"\n[[route]]\nprefix = \"::/0\"\n\
             via = \"10.0.0.1\"\n[[route]]\nprefix = \"10.0.0.0/8\"\n[[route]]\n\
             prefix = \"10.0.0.0/8\"\nport = \"lan\"",
        &[
            "2:11: runtime.workers: `workers` and `cores` both say how many",
            "3:13: runtime.cores[1]: core 1 is listed twice; list each once",
            "7:10: port[0].kernel: only an af_packet device can be shared",
            "9:8: port[1].name: port[0] has the same name",
            "10:10: port[1].device: port[0] has device net_null0 already",
            "13:7: neighbour[0].mac: `0:1` is no MAC address; write it like",
            "17:7: route[0].via: the router's address family differs",
            "18:1: route[1]: a route leads through a router or onto a port's own link",
            "22:8: route[2].port: there is no port `lan`; use one of: p, p",
        ],
    )];
    for (text, expected) in table {
        expect(text, expected);
    }
}

#[test]
fn a_device_and_an_interface_are_one_ports() {
    let two = |first: &str, second: &str| {
        let port = |name: &str, rest: &str| format!("[[port]]\nname = \"{name}\"\n{rest}\n");
        format!("{}{}", port("a", first), port("b", second))
    };
    let eth1 = |number: u8| format!("device = \"net_af_packet{number},iface=eth1\"");
    let same = "6:10: port[1].device: port[0] has interface eth1 already; give each port a device";
    expect(&two(&eth1(0), &eth1(1)), &[same]);
    // Each takes the frames of its own VLAN.
    let tagged = two(&format!("{}\nvlan = 5", eth1(0)), &format!("{}\nvlan = 6", eth1(1)));
    assert!(check(&tagged).is_ok());
    expect(
        &two(&eth1(0), "device = \"net_af_packet0,iface=eth2\""),
        &["6:10: port[1].device: port[0] has device net_af_packet0 already"],
    );
    expect(
        "[[port]]\nname = \"a\"\ndevice = \"net_af_packet0\"\nkernel = \"shared\"",
        &["3:10: port[0].device: `net_af_packet0` does not say which interface; write it like"],
    );
}

#[test]
fn a_bond_has_members_and_nothing_else_has() {
    let good = "[[port]]\nname = \"p\"\ndevice = \"net_bonding0,mode=1\"\n\
                members = [\"0000:3b:00.0\", \"net_af_packet0,iface=eth1\"]";
    assert_eq!(Config::parse_toml(good).unwrap().port[0].members.len(), 2);
    expect(
        "[[port]]\nname = \"a\"\ndevice = \"net_bonding0\"\n[[port]]\nname = \"b\"\n\
         device = \"net_null0\"\nmembers = [\"net_null0\", \"eth1\"]",
        &[
            "3:10: port[0].device: a bond without members carries nothing; add members = [",
            "7:11: port[1].members: only a net_bonding device has members; use device =",
            "7:12: port[1].members[0]: port[1] has device net_null0 already; give each",
            "7:25: port[1].members[1]: `eth1` is neither a PCI address nor DPDK devargs",
        ],
    );
}

fn expect(text: &str, expected: &[&str]) {
    let lines = lines_of(text);
    let matches = lines.len() == expected.len()
        && lines.iter().zip(expected).all(|(line, start)| line.starts_with(start));
    assert!(matches, "for\n{text}\ngot\n{}\nexpected\n{}", lines.join("\n"), expected.join("\n"));
}

#[test]
fn deep_nesting_is_a_syntax_error() {
    let lines = lines_of(&format!("x = {}", "[".repeat(100_000)));
    assert!(lines.len() == 1 && lines[0].contains("not TOML"), "{lines:?}");
}

#[test]
fn json_is_the_same_schema_without_lines() {
    let good = check(GOOD).unwrap();
    let json = serde_json::to_value(&good.config).unwrap();
    assert_eq!(check_json(&json).unwrap(), good);
    let bad = json!({"port": [{"name": "p", "device": "net_null0", "vlan": 5000}], "x": null});
    let lines: Vec<String> =
        check_json(&bad).unwrap_err().iter().map(ToString::to_string).collect();
    assert!(lines[0].starts_with("port[0].vlan: 5000 is out of range"), "{lines:?}");
    assert!(lines[1].starts_with("x: unknown key"), "{lines:?}");
    assert!(check_json(&json!([1])).is_err());
}

#[test]
fn what_is_printed_is_read_again() {
    let good = check(GOOD).unwrap();
    let text = good.config.to_toml().unwrap();
    assert_eq!(check(&text).unwrap(), good, "{text}");
}

#[test]
fn specs_are_written_as_they_were_meant() {
    for spec in check(GOOD).unwrap().desired.services {
        assert_eq!(Service::from(&spec).spec(), spec);
    }
}

#[test]
fn single_services_and_servers_come_as_json() {
    let nothing = &|_: &ServiceSpec| Vec::new();
    let json = json!({"address": "192.0.2.80:80", "forwarding": "fullnat",
        "server": [{"address": "10.0.0.1"}]});
    let service = service_from_json(&json, nothing).unwrap();
    assert_eq!(service.servers[0].port, 80);
    let wrong = json!({"address": "192.0.2.80:80", "toa_kind": 9, "weigth": 1});
    assert_eq!(service_from_json(&wrong, nothing).unwrap_err().len(), 2);
    let server = json!({"address": "10.0.0.1", "weight": 0});
    let spec = server_from_json(&server, &service, nothing).unwrap();
    assert_eq!((spec.port, spec.weight, spec.mode), (80, 0, ForwardMode::FullNat));
    let problems = server_from_json(&json!({"weight": -1}), &service, nothing).unwrap_err();
    let paths: Vec<&str> = problems.iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(paths, ["weight", ""]);
}

/// As the registry does, without others beside it.
fn judge(spec: &ServiceSpec) -> Vec<SpecProblem> {
    let services = vec![spec.clone()];
    let (pools, semantics) = (Vec::new(), crate::model::Semantics::default());
    validate(&Desired { pools, services, semantics, removal: crate::model::Removal::Now }, 1)
}

fn told<T: std::fmt::Debug>(outcome: Result<T, Vec<Problem>>) -> Vec<String> {
    outcome.unwrap_err().iter().map(ToString::to_string).collect()
}

#[test]
fn the_meaning_of_what_is_left_of_a_service_is_judged_too() {
    let service = json!({"address": "192.0.2.80:80", "server": [
        {"weight": 1}, {"address": "10.0.0.1:81", "weight": -1}, {"address": "10.0.0.2:81"},
        {"address": "10.0.0.3", "upper_threshold": -1, "lower_threshold": 5},
    ]});
    let lines = told(service_from_json(&service, &judge));
    let expected = [
        "server[0]: `address` is missing",
        "server[1].weight: -1 is out of range; use 0 to 65535",
        "server[3].upper_threshold: -1 is out of range",
        "tcp 192.0.2.80:80, server 10.0.0.1:81: DR cannot change port 80 to 81; use",
        "tcp 192.0.2.80:80, server 10.0.0.2:81: DR cannot change port 80 to 81; use",
    ];
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    for (line, start) in lines.iter().zip(expected) {
        assert!(line.starts_with(start), "{line}");
    }
    // Nothing is said of what a wrong value has left open.
    for open in [
        json!({"address": "192.0.2.80:0", "persistence_timeout": -1}),
        json!({"address": "192.0.2.80:80", "forwarding": "drr",
            "server": [{"address": "10.0.0.1:81"}]}),
    ] {
        assert_eq!(told(service_from_json(&open, &judge)).len(), 1, "{open}");
    }
    let service = ServiceSpec::new(
        crate::model::ServiceKey::new(crate::model::Protocol::Tcp, [192, 0, 2, 80].into(), 80),
        crate::model::SchedulerSpec::RoundRobin,
    );
    let server = json!({"address": "10.0.0.1:81", "weight": 65536});
    let lines = told(server_from_json(&server, &service, &judge));
    assert!(lines.len() == 2 && lines[1].contains("DR cannot change port"), "{lines:#?}");
    let open = json!({"address": "10.0.0.1:81", "forwarding": "drr"});
    assert_eq!(told(server_from_json(&open, &service, &judge)).len(), 1);
}

#[test]
fn what_needs_a_restart_is_named() {
    let old = check(GOOD).unwrap().config;
    let mut new = old.clone();
    new.service.clear();
    assert!(new.restart_needed(&old).is_empty());
    new.runtime.workers = Some(3);
    new.port[0].vlan = None;
    new.port.push(new.port[0].clone());
    assert_eq!(new.restart_needed(&old), ["runtime.workers", "port[0].vlan", "port[1]"]);
}

/// A value that `shape` takes, with every field and, in turn, every word.
fn sample(shape: &Shape, turn: usize) -> Json {
    match shape {
        Shape::Text => json!("text"),
        Shape::Bool => json!(true),
        Shape::Integer(_, max) => json!(max),
        Shape::Pair(min, max) => json!([min, max]),
        Shape::Choice(words, _) => json!(words[turn % words.len()]),
        Shape::Parsed(parse, example) => {
            let mut parts = example.split('"').filter(|part| parse(part).is_ok());
            json!(parts.next().expect("an example that parses"))
        }
        Shape::List(inner) => json!([sample(inner, turn)]),
        Shape::Map(inner) => json!({"name": sample(inner, turn)}),
        Shape::Table(fields) => {
            let entry = |field: &Field| (field.name.to_owned(), sample(&field.shape, turn));
            Json::Object(fields.iter().map(entry).collect())
        }
    }
}

/// The schema knows every field and word of the types and the other way round.
#[test]
fn schema_and_types_agree() {
    for turn in 0..8 {
        let all = sample(&schema::CONFIG, turn);
        let config: Config = serde_json::from_value(all.clone()).unwrap();
        let node = node::from_json(&all);
        let mut walk = Walk::new(&node);
        assert!(walk.check(&schema::CONFIG).is_some());
        assert!(walk.problems.is_empty(), "{:?}", walk.problems);
        assert_eq!(serde_json::to_value(&config).unwrap(), all);
    }
}

fn any_json() -> impl Strategy<Value = Json> {
    let keys =
        ["service", "server", "port", "address", "runtime", "weight", "local_addresses", "?"];
    let words = ["192.0.2.80:80", "10.0.0.1", "fullnat", "net_null0", "maglev", "sh", "toa", "p"];
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        any::<u64>().prop_map(Json::from),
        any::<f64>().prop_map(Json::from),
        (0..words.len()).prop_map(move |at| json!(words[at])),
        ".*".prop_map(Json::from),
    ];
    leaf.prop_recursive(5, 60, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Json::from),
            proptest::collection::vec((0..keys.len(), inner), 0..6).prop_map(move |fields| {
                fields.into_iter().map(|(at, value)| (keys[at].to_owned(), value)).collect()
            }),
        ]
    })
}

/// The good file with a few bytes cut out or put in.
fn nearly_good() -> impl Strategy<Value = String> {
    let edit = (0..GOOD.len(), 0..12usize, "[\\[\\]{}=\",.#a-z0-9: \n]{0,6}");
    proptest::collection::vec(edit, 1..5).prop_map(|edits| {
        let mut text = GOOD.to_owned();
        for (at, cut, put) in edits {
            let start = at.min(text.len());
            let end = (start + cut).min(text.len());
            text.replace_range(start..end, &put);
        }
        text
    })
}

proptest! {
    #[test]
    fn any_text_is_answered(text in ".*") {
        let _ = check(&text);
    }

    #[test]
    fn a_damaged_file_is_answered_with_places(text in nearly_good()) {
        if let Err(problems) = check(&text) {
            prop_assert!(!problems.is_empty());
            prop_assert!(problems.iter().all(|problem| problem.position.is_some()));
        }
    }

    #[test]
    fn any_json_is_answered(json in any_json()) {
        let service = &check(GOOD).unwrap().desired.services[0];
        let _ = (check_json(&json), service_from_json(&json, &judge));
        let _ = server_from_json(&json, service, &judge);
    }
}
