//! What changes over the socket come to in the workers' snapshots.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use gyre::control::socket::SocketLimits;
use gyre::message::FromWorker;
use gyre::model::{
    Protocol, Semantics, ServerState, ServiceKey, Snapshot, VirtualService, WorkerId,
};
use serde_json::{Value, json};

use crate::support::{CONFIG, Gyre};

fn service(snapshot: &Snapshot, text: &str) -> Option<VirtualService> {
    let address: std::net::SocketAddr = text.parse().unwrap();
    let (vip, port) = (address.ip(), address.port());
    snapshot.service_of(&ServiceKey::new(Protocol::Tcp, vip, port)).cloned()
}

/// Makes a change and waits until workers have it.
fn change(gyre: &Gyre, method: &str, params: Value) -> (Arc<Snapshot>, Value) {
    let changed = gyre.call(method, params);
    let snapshot = gyre.adopted(changed["revision"].as_u64().unwrap());
    (snapshot, changed["changes"].clone())
}

#[test]
fn the_first_configuration_reaches_the_workers_by_way_of_the_kernel_side() {
    let gyre = Gyre::start();
    let revision = gyre.call("status", json!({}))["revision"].as_u64().unwrap();
    let web = service(&gyre.adopted(revision), "192.0.2.80:80").unwrap();
    assert_eq!(web.servers.iter().map(|s| s.weight).collect::<Vec<_>>(), [1, 3]);
    assert!(gyre.kernel_side.lock().unwrap().contains(&revision));
}

#[test]
fn services_come_change_and_go() {
    let gyre = Gyre::start();
    let added = json!({"service": {
        "address": "192.0.2.81:443", "name": "shop", "forwarding": "dr",
        "server": [{"address": "192.0.2.13"}],
    }});
    let (snapshot, lines) = change(&gyre, "service.add", added.clone());
    assert_eq!(lines, json!(["add service tcp 192.0.2.81:443"]));
    assert_eq!(service(&snapshot, "192.0.2.81:443").unwrap().servers[0].port, 443);
    assert_eq!(gyre.refuse("service.add", added).0, "exists");

    let set = json!({"service": "shop", "set": {"scheduler": "maglev", "connections_max": 5}});
    let (snapshot, _) = change(&gyre, "service.edit", set);
    let shop = service(&snapshot, "192.0.2.81:443").unwrap();
    assert_eq!((shop.scheduler.name(), shop.connections_max), ("maglev", Some(5)));
    assert_eq!(shop.servers.len(), 1);
    let unset = json!({"service": "shop", "set": {"connections_max": null}});
    let (snapshot, _) = change(&gyre, "service.edit", unset);
    assert_eq!(service(&snapshot, "192.0.2.81:443").unwrap().connections_max, None);

    let now = json!({"service": "tcp 192.0.2.81:443", "mode": "now"});
    let both = json!({"service": "shop", "mode": "now", "deadline_s": 1});
    assert_eq!(gyre.refuse("service.remove", both).0, "invalid_params");
    let (snapshot, lines) = change(&gyre, "service.remove", now);
    assert_eq!(lines, json!(["remove service tcp 192.0.2.81:443"]));
    assert!(service(&snapshot, "192.0.2.81:443").is_none());
    assert_eq!(gyre.refuse("service.remove", json!({"service": "shop"})).0, "not_found");
}

#[test]
fn a_service_drains_unless_told_otherwise() {
    let gyre = Gyre::start();
    let (snapshot, lines) = change(&gyre, "service.remove", json!({"service": "web"}));
    assert_eq!(lines, json!(["drain service tcp 192.0.2.80:80"]));
    let web = service(&snapshot, "192.0.2.80:80").expect("it stays until its servers have left");
    assert!(web.servers.iter().all(|server| server.state == ServerState::Draining));
    let config = gyre.call("config.get", json!({"format": "toml"}));
    assert!(!config["config"].as_str().unwrap().contains("192.0.2.80:80"), "{config}");
    assert_eq!(gyre.refuse("service.edit", json!({"service": "web", "set": {}})).0, "not_found");
    gyre.wait_for("the drained service to go", |gyre| {
        let list = gyre.call("service.list", json!({}));
        let left = list["services"].as_array()?.iter();
        (left.filter(|row| row["address"] == "192.0.2.80:80").count() == 0).then_some(())
    });
}

#[test]
fn a_service_edit_cannot_touch_what_identifies_it() {
    let gyre = Gyre::start();
    for key in ["protocol", "address", "server"] {
        let (code, _) = gyre.refuse("service.edit", json!({"service": "web", "set": {key: 1}}));
        assert_eq!(code, "invalid_params");
    }
    let (code, error) = gyre.refuse("service.edit", json!({"service": "web", "set": {"speed": 1}}));
    assert_eq!(code, "invalid_config");
    assert!(error["message"].as_str().unwrap().contains("speed"), "{error}");
}

#[test]
fn servers_come_drain_return_and_go() {
    let gyre = Gyre::start();
    let server = |n: u8| format!("192.0.2.{n}:8080");
    let new = json!({"service": "web", "server": {"address": server(13), "weight": 2}});
    let (snapshot, _) = change(&gyre, "server.add", new.clone());
    let web = service(&snapshot, "192.0.2.80:80").unwrap();
    assert_eq!((web.servers.len(), web.servers[2].weight), (3, 2));
    assert_eq!(gyre.refuse("server.add", new.clone()).0, "exists");

    // A live flow keeps a draining server in the list, and its slot.
    let id = web.servers[2].id;
    gyre.workers[1].counters.servers[id.index()].flows.add(1);
    let drain = json!({"service": "web", "server": server(13)});
    let (snapshot, lines) = change(&gyre, "server.remove", drain);
    assert_eq!(lines, json!(["tcp 192.0.2.80:80: drain server 192.0.2.13:8080"]));
    let web = service(&snapshot, "192.0.2.80:80").unwrap();
    assert_eq!((web.servers[2].id, web.servers[2].state), (id, ServerState::Draining));
    let (snapshot, _) = change(&gyre, "server.add", new);
    let web = service(&snapshot, "192.0.2.80:80").unwrap();
    assert_eq!((web.servers[2].id, web.servers[2].state), (id, ServerState::Active));

    let now = json!({"service": "web", "server": server(13), "mode": "now"});
    let (snapshot, _) = change(&gyre, "server.remove", now.clone());
    assert_eq!(service(&snapshot, "192.0.2.80:80").unwrap().servers.len(), 2);
    assert!(snapshot.is_removed(id));
    assert_eq!(gyre.refuse("server.remove", now).0, "not_found");
    let odd = json!({"service": "web", "server": server(12), "mode": "now", "deadline_s": 1});
    assert_eq!(gyre.refuse("server.remove", odd).0, "invalid_params");
}

#[test]
fn a_drain_ends_with_its_last_flow_or_its_deadline() {
    let gyre = Gyre::start();
    let web = |gyre: &Gyre| gyre.call("server.list", json!({"service": "web"}))["servers"].clone();
    let revision = gyre.call("status", json!({}))["revision"].as_u64().unwrap();
    let servers = service(&gyre.adopted(revision), "192.0.2.80:80").unwrap().servers;
    let flows = |at: usize| &gyre.workers[0].counters.servers[servers[at].id.index()].flows;
    flows(0).add(1);
    flows(1).add(1);
    let drain = |host: u8, deadline_s: Option<u64>| {
        let server = format!("192.0.2.{host}:8080");
        let params = json!({"service": "web", "server": server, "deadline_s": deadline_s});
        gyre.call("server.remove", params);
    };
    drain(11, None);
    drain(12, Some(0));
    gyre.wait_for("the deadline", |gyre| {
        let left = web(gyre);
        (left.as_array()?.len() == 1 && left[0]["state"] == "draining").then_some(())
    });
    assert_eq!(web(&gyre)[0]["address"], "192.0.2.11:8080");
    flows(0).sub(1);
    gyre.wait_for("the last flow", |gyre| web(gyre).as_array()?.is_empty().then_some(()));
}

#[test]
fn weights_reach_the_schedulers_log() {
    let gyre = Gyre::start();
    let revision = gyre.call("status", json!({}))["revision"].as_u64().unwrap();
    let before = service(&gyre.adopted(revision), "192.0.2.80:80").unwrap().changes.next();
    let weight = |weight| json!({"service": "web", "server": "192.0.2.11:8080", "weight": weight});
    let (snapshot, _) = change(&gyre, "server.set_weight", weight(9));
    let web = service(&snapshot, "192.0.2.80:80").unwrap();
    assert_eq!(web.servers[0].weight, 9);
    assert_eq!(web.changes.since(before).last().unwrap().weight_max, 9);
    assert_eq!(gyre.refuse("server.set_weight", weight(70_000)).0, "invalid_config");
    let none = json!({"service": "web", "server": "192.0.2.99:8080", "weight": 1});
    assert_eq!(gyre.refuse("server.set_weight", none).0, "not_found");
}

#[test]
fn a_configuration_is_applied_whole_or_not_at_all() {
    let gyre = Gyre::start();
    let text = CONFIG
        .replace("weight = 3", "weight = 4")
        .replace(r#"{ address = "192.0.2.11:8080" }, "#, "")
        + "[[service]]\naddress = \"192.0.2.82:53\"\nprotocol = \"udp\"\n";
    let wanted = json!([
        "tcp 192.0.2.80:80: weight of 192.0.2.12:8080 is 4 (was 3)",
        "tcp 192.0.2.80:80: drain server 192.0.2.11:8080",
        "add service udp 192.0.2.82:53",
    ]);
    let before = gyre.call("status", json!({}))["revision"].clone();
    let dry = gyre.call("config.apply", json!({"config": text, "dry_run": true}));
    assert_eq!((&dry["changes"], &dry["revision"]), (&wanted, &before));
    assert_eq!(gyre.call("service.list", json!({}))["services"].as_array().unwrap().len(), 1);

    let bad = text.clone() + "[[service]]\naddress = \"192.0.2.82:53\"\nprotocol = \"udp\"\nx = 1";
    let (code, error) = gyre.refuse("config.apply", json!({"config": bad}));
    assert_eq!(code, "invalid_config");
    assert!(error["data"]["problems"].as_array().is_some_and(|list| !list.is_empty()), "{error}");
    assert_eq!(gyre.call("status", json!({}))["revision"], before);

    let (_, lines) = change(&gyre, "config.apply", json!({"config": text}));
    assert_eq!(lines, wanted);
    let again = gyre.call("config.apply", json!({"config": text}));
    assert_eq!(again["changes"], json!([]));
}

/// Services that cannot be.
const IMPOSSIBLE: &str = r#"
[[service]]
address = "192.0.2.81:80"
server = [
  { address = "192.0.2.21:8080" },
  { address = "192.0.2.22:8080", forwarding = "tun" },
  { address = "[2001:db8::23]:80" },
  { address = "[2001:db8::24]:80", forwarding = "nat" },
  { address = "192.0.2.25", weight = 65536 },
  { address = "192.0.2.26", forwarding = "fullnat" },
]

[[service]]
address = "192.0.2.82:80"
scheduler = "rr"
scheduler_flags = ["mh-port"]

[[service]]
address = "192.0.2.83:0"
"#;

/// Whatever is wrong is told at once, each with its place, reason and remedy; nothing changes.
#[test]
fn everything_that_a_service_cannot_be_is_one_list() {
    let gyre = Gyre::start();
    let before = gyre.call("status", json!({}))["revision"].clone();
    let text = CONFIG.to_owned() + IMPOSSIBLE;
    let expected = [
        "service[1].local_addresses: FULLNAT needs source addresses; name a pool:",
        "service[1].server[0].address: DR cannot change port 80 to 8080; use the service's port,",
        "service[1].server[1].address: TUN cannot change port 80 to 8080; use the service's port,",
        "service[1].server[1].address: no port has an IPv4 address to send tunnels from; list the",
        "service[1].server[2].address: DR cannot carry packets from one address family to the \
         other; use a server of",
        "service[1].server[3].address: NAT cannot carry packets from one address family to the \
         other; use a server of",
        "service[1].server[4].weight: 65536 is out of range; use 0 to 65535",
        "service[2].scheduler_flags: the scheduler rr has no flag mh-port; set scheduler = \"mh\"",
        "service[3].address: port 0 (all ports) needs persistence; set persistence_timeout, or",
    ];
    let (code, error) = gyre.refuse("config.apply", json!({"config": text}));
    assert_eq!(code, "invalid_config");
    let problems = error["data"]["problems"].as_array().unwrap();
    let mut told: Vec<&str> = problems.iter().map(|line| line.as_str().unwrap()).collect();
    // LINE:COLUMN: comes first.
    told.iter_mut().for_each(|line| *line = line.split_once(": ").unwrap().1);
    told.sort_unstable();
    let mut expected = expected.to_vec();
    expected.sort_unstable();
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    for (told, expected) in told.iter().zip(expected) {
        assert!(told.starts_with(expected), "{told}\n{expected}");
    }
    assert_eq!(gyre.call("status", json!({}))["revision"], before);

    // One service by itself is told by its address and its servers'.
    let service = json!({"service": {"address": "192.0.2.83:0", "scheduler": "rr", "server": [
        {"address": "192.0.2.21:8080"},
        {"address": "192.0.2.22:8080", "forwarding": "tun"},
        {"address": "2001:db8::23"},
        {"address": "192.0.2.26", "forwarding": "fullnat"},
    ]}});
    let (_, error) = gyre.refuse("service.add", service);
    let told = error["data"]["problems"].to_string();
    for part in [
        "tcp 192.0.2.83:0: port 0 (all ports) needs persistence; set",
        "tcp 192.0.2.83:0: FULLNAT needs source addresses; name a pool",
        "tcp 192.0.2.83:0, server 192.0.2.21:8080: DR cannot change ports to 8080; leave",
        "tcp 192.0.2.83:0, server 192.0.2.22:8080: TUN cannot change ports to 8080; leave",
        "tcp 192.0.2.83:0, server [2001:db8::23]:0: DR cannot carry packets from one",
    ] {
        assert!(told.contains(part), "{part}\n{told}");
    }
    assert_eq!(gyre.call("status", json!({}))["revision"], before);
    assert_eq!(gyre.call("service.list", json!({}))["services"].as_array().unwrap().len(), 1);
}

/// With two workers, since a change of one service would move the other's flows.
#[test]
fn services_that_overlap_or_share_a_nat_server_are_steered_alike() {
    let gyre = Gyre::start();
    let range = |forwarding: &str| {
        json!({"service": {"address": "192.0.2.80:80-90", "forwarding": forwarding,
            "server": [{"address": "192.0.2.13"}]}})
    };
    let (code, error) = gyre.refuse("service.add", range("nat"));
    assert_eq!(code, "invalid_config");
    let told = error["message"].as_str().unwrap();
    let start = "tcp 192.0.2.80:80-90: tcp 192.0.2.80:80 has packets to tcp 192.0.2.80:80 too, and \
                 its flows are spread over workers by client and service";
    assert!(
        told.starts_with(start) && told.contains("; set forwarding = \"nat\" for both"),
        "{told}"
    );
    gyre.call("service.add", range("dr"));
    let ftp = |address: &str, helper: Option<&str>| {
        let mut service = json!({"address": address, "forwarding": "nat",
            "server": [{"address": "192.0.2.14:21"}]});
        if let Some(helper) = helper {
            service["helper"] = helper.into();
        }
        json!({"service": service})
    };
    gyre.call("service.add", ftp("192.0.2.84:21", Some("ftp")));
    let (_, error) = gyre.refuse("service.add", ftp("192.0.2.85:21", None));
    let told = error["message"].as_str().unwrap();
    let start = "tcp 192.0.2.85:21, server 192.0.2.14:21: it is a NAT server of tcp 192.0.2.84:21";
    assert!(told.starts_with(start), "{told}");
    // In a file the place is told, by whoever reads it.
    let both = "\n[[service]]\naddress = \"192.0.2.80:80-90\"\nforwarding = \"nat\"\n";
    let (_, error) = gyre.refuse("config.apply", json!({"config": CONFIG.to_owned() + both}));
    let told = error["message"].as_str().unwrap();
    assert!(told.contains(": service[1].forwarding: tcp 192.0.2.80:80 has packets to"), "{told}");
}

#[test]
fn switches_change_with_the_configuration() {
    let gyre = Gyre::start();
    let text = CONFIG.to_owned()
        + "\n[semantics]\nsloppy_tcp = true\nconn_reuse_mode = 0\n\
           [semantics.timeouts]\nestablished = 700\n";
    let (snapshot, lines) = change(&gyre, "config.apply", json!({"config": text}));
    assert_ne!(lines, json!([]));
    let semantics = &snapshot.semantics;
    assert!(semantics.sloppy_tcp && !semantics.expire_nodest_conn);
    assert_ne!(semantics.conn_reuse, Semantics::default().conn_reuse);
    assert_eq!(semantics.timeouts.established_ms, 700_000);
    let shown = gyre.call("config.get", json!({"format": "toml"}))["config"].to_string();
    assert!(shown.contains("sloppy_tcp = true"), "{shown}");
    let (snapshot, _) = change(&gyre, "config.apply", json!({"config": CONFIG}));
    assert_eq!(snapshot.semantics, Semantics::default());
}

#[test]
fn what_needs_a_restart_is_named_and_refused() {
    let gyre = Gyre::start();
    let text = CONFIG.replace("workers = 2", "workers = 3").replace("net_null0", "net_null1");
    let (code, error) = gyre.refuse("config.apply", json!({"config": text}));
    assert_eq!(code, "needs_restart");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("runtime.workers") && message.contains("port[0].device"), "{error}");
}

#[test]
fn the_configuration_read_back_changes_nothing_when_applied() {
    let gyre = Gyre::start();
    gyre.call("service.add", json!({"service": {"address": "[2001:db8::80]:80"}}));
    for format in ["json", "toml"] {
        let shown = gyre.call("config.get", json!({"format": format}))["config"].clone();
        assert!(shown.to_string().contains("2001:db8::80"), "{shown}");
        assert_eq!(gyre.call("config.apply", json!({"config": shown}))["changes"], json!([]));
    }
}

#[test]
fn a_slot_that_changes_hands_starts_counting_at_0() {
    let gyre = Gyre::start();
    let add = |host: u8| {
        let address = format!("192.0.2.{host}:8080");
        change(&gyre, "server.add", json!({"service": "web", "server": {"address": address}})).0
    };
    let id_of = |snapshot: &Snapshot| {
        service(snapshot, "192.0.2.80:80").unwrap().servers.last().unwrap().id
    };
    let first = id_of(&add(13));
    gyre.workers[0].counters.servers[first.index()].connections.add(40);
    let shown = |gyre: &Gyre| {
        let list = gyre.call("server.list", json!({"service": "web"}))["servers"].clone();
        list.as_array().unwrap().last().unwrap()["connections"].as_u64()
    };
    assert_eq!(shown(&gyre), Some(40));
    // The slot is free once all workers have left it and nothing holds it: the next server that
    // gets it is found by trial.
    for host in 14.. {
        let last = if host == 14 { 13 } else { host - 1 };
        let gone =
            json!({"service": "web", "server": format!("192.0.2.{last}:8080"), "mode": "now"});
        gyre.call("server.remove", gone);
        std::thread::sleep(Duration::from_millis(300));
        if id_of(&add(host)) == first {
            break;
        }
        assert!(host < 30, "the slot is never reused");
    }
    assert_eq!(shown(&gyre), Some(0));
    gyre.workers[1].counters.servers[first.index()].connections.add(2);
    assert_eq!(shown(&gyre), Some(2));
}

#[test]
fn a_worker_that_lags_gets_the_newest_snapshot_in_the_end() {
    let gyre = Gyre::start();
    gyre.workers[1].stalled.store(true, Ordering::Relaxed);
    let mut revision = 0;
    for weight in 1..=30 {
        let params = json!({"service": "web", "server": "192.0.2.11:8080", "weight": weight});
        revision = gyre.call("server.set_weight", params)["revision"].as_u64().unwrap();
    }
    gyre.workers[1].stalled.store(false, Ordering::Relaxed);
    let snapshot = gyre.adopted(revision);
    assert_eq!(service(&snapshot, "192.0.2.80:80").unwrap().servers[0].weight, 30);
}

#[test]
fn a_worker_that_ends_by_itself_stops_gyre() {
    let gyre = Gyre::start();
    gyre.call("status", json!({}));
    gyre.workers[0].to_say.lock().unwrap().push(FromWorker::Ended(WorkerId(0)));
    gyre.join().unwrap();
}

#[test]
fn stopping_ends_workers_and_frees_every_snapshot() {
    let gyre = Gyre::start();
    let (snapshot, _) = change(
        &gyre,
        "server.set_weight",
        json!({"service": "web", "server": "192.0.2.11:8080", "weight": 5}),
    );
    for worker in &gyre.workers {
        worker.snapshot.lock().unwrap().take();
    }
    gyre.stop();
    let weak = Arc::downgrade(&snapshot);
    drop(snapshot);
    gyre.join().unwrap();
    assert!(weak.upgrade().is_none(), "a snapshot outlives control");
}

#[test]
fn each_worker_hears_what_the_others_hold_where_connections_count() {
    let gyre = Gyre::start();
    let added = json!({"service": {
        "address": "192.0.2.81:443", "scheduler": "wlc", "forwarding": "dr",
        "server": [{"address": "192.0.2.13"}],
    }});
    let (snapshot, _) = change(&gyre, "service.add", added);
    let counts = service(&snapshot, "192.0.2.81:443").unwrap().servers[0].id.index();
    let counts_not = service(&snapshot, "192.0.2.80:80").unwrap().servers[0].id.index();
    for server in [counts, counts_not] {
        gyre.workers[0].counters.servers[server].flows.set(9);
        gyre.workers[0].counters.servers[server].active.set(4);
    }
    let told = |worker: usize, server: usize| {
        let others = gyre.workers[worker].counters.others.of(server);
        (others.active, others.flows)
    };
    gyre.wait_for("counts of others", |_| (told(1, counts) == (4, 9)).then_some(()));
    assert_eq!(told(0, counts), (0, 0));
    assert_eq!(told(1, counts_not), (0, 0), "rr counts no connections");
    gyre.workers[0].counters.servers[counts].flows.set(0);
    gyre.workers[0].counters.servers[counts].active.set(0);
    gyre.wait_for("counts of others", |_| (told(1, counts) == (0, 0)).then_some(()));
    // A threshold makes them count under any scheduler.
    let limited = json!({"service": "web", "server": {
        "address": "192.0.2.14:8080", "upper_threshold": 10,
    }});
    change(&gyre, "server.add", limited);
    gyre.wait_for("counts of others", |_| (told(1, counts_not) == (4, 9)).then_some(()));
}

/// What the schema refuses does not hide what the rest means.
#[test]
fn wrong_values_and_wrong_meanings_come_as_one_list() {
    let gyre = Gyre::start();
    let before = gyre.call("status", json!({}))["revision"].clone();
    let check = |method: &str, params: Value, expected: &[&str]| {
        let (code, error) = gyre.refuse(method, params);
        assert_eq!(code, "invalid_config");
        let lines = error["data"]["problems"].as_array().unwrap();
        let is_told = |(line, start): (&Value, &&str)| line.as_str().unwrap().starts_with(start);
        let all = lines.len() == expected.len() && lines.iter().zip(expected).all(is_told);
        assert!(all, "{method}: {lines:#?}");
    };
    let service = json!({"service": {"address": "192.0.2.90:80", "scheduler": "rr", "server": [
        {"address": "192.0.2.21", "weight": 70000},
        {"address": "192.0.2.22:8080"},
        {"address": "192.0.2.26", "forwarding": "fullnat"},
    ]}});
    check(
        "service.add",
        service,
        &[
            "server[0].weight: 70000 is out of range; use 0 to 65535",
            "tcp 192.0.2.90:80: FULLNAT needs source addresses; name a pool: ",
            "tcp 192.0.2.90:80, server 192.0.2.22:8080: DR cannot change port 80 to 8080; use the",
        ],
    );
    let server = json!({"address": "192.0.2.23:8080", "weight": 70000, "forwarding": "dr"});
    check(
        "server.add",
        json!({"service": "web", "server": server}),
        &[
            "weight: 70000 is out of range; use 0 to 65535",
            "tcp 192.0.2.80:80, server 192.0.2.23:8080: DR cannot change port 80 to 8080; use the",
        ],
    );
    check(
        "service.edit",
        json!({"service": "web", "set": {"mss_max": -5, "local_addresses": "none"}}),
        &["mss_max: -5 is out of range; ", "tcp 192.0.2.80:80: there is no pool `none`; define"],
    );
    assert_eq!(gyre.call("status", json!({}))["revision"], before);
}

#[test]
fn a_server_is_edited_in_place() {
    let gyre = Gyre::start();
    let edit = |set| json!({"service": "web", "server": "192.0.2.12:8080", "set": set});
    let row = || gyre.call("server.list", json!({"service": "web"}))["servers"][1].clone();
    let set = json!({"upper_threshold": 10, "lower_threshold": 5, "weight": null});
    let changed = gyre.call("server.edit", edit(set));
    assert_eq!(changed["changes"], json!(["tcp 192.0.2.80:80: edit server 192.0.2.12:8080"]));
    let shown = row();
    let wanted = (&json!(1), &json!(10), &json!(5));
    assert_eq!((&shown["weight"], &shown["upper_threshold"], &shown["lower_threshold"]), wanted);
    gyre.call("server.edit", edit(json!({"lower_threshold": null})));
    assert_eq!((&row()["upper_threshold"], &row()["lower_threshold"]), (&json!(10), &json!(0)));
    for (set, code) in [
        (json!({"address": "192.0.2.13:80"}), "invalid_params"),
        (json!({"weight": -1}), "invalid_config"),
        (json!({"size": 1}), "invalid_config"),
        (json!({"lower_threshold": 11}), "invalid_config"),
        (json!({"forwarding": "local"}), "invalid_config"),
    ] {
        assert_eq!(gyre.refuse("server.edit", edit(set.clone())).0, code, "{set}");
    }
    let other = json!({"service": "web", "server": "192.0.2.13:8080", "set": {"weight": 2}});
    assert_eq!(gyre.refuse("server.edit", other).0, "not_found");
}

#[test]
fn timeouts_are_set_for_all_services_and_kept_in_the_configuration() {
    let gyre = Gyre::start();
    let get = || gyre.call("timeouts.get", json!({}));
    assert_eq!(get(), json!({"tcp_s": 900, "tcp_fin_s": 120, "udp_s": 300}));
    let changed = gyre.call("timeouts.set", json!({"udp_s": 60}));
    assert_eq!(get(), json!({"tcp_s": 900, "tcp_fin_s": 120, "udp_s": 60}));
    let snapshot = gyre.adopted(changed["revision"].as_u64().unwrap());
    assert_eq!(snapshot.semantics.timeouts.udp_ms, 60_000);
    let config = gyre.call("config.get", json!({}))["config"].clone();
    assert_eq!(config["semantics"]["timeouts"], json!({"udp": 60}));
    for bad in [json!({"tcp_s": 0}), json!({"udp_s": 3_000_000})] {
        assert_eq!(gyre.refuse("timeouts.set", bad).0, "invalid_config");
    }
}

#[test]
fn marks_are_listed_as_the_configuration_has_them() {
    let text =
        format!("{CONFIG}\n[[mark]]\nnumber = 8\nmatch = [{{ address = \"192.0.2.81:80\" }}]\n");
    let gyre = Gyre::with(&text, SocketLimits::default());
    let wanted = json!({"marks": [{"mark": 8,
        "match": [{"address": "192.0.2.81:80", "protocol": "tcp"}]}]});
    assert_eq!(gyre.call("marks.list", json!({})), wanted);
}

#[test]
fn many_services_are_added_in_one_step_or_not_at_all() {
    let gyre = Gyre::start();
    let service = |port: u16| {
        json!({"address": format!("192.0.2.81:{port}"), "forwarding": "dr",
               "server": [{"address": "192.0.2.11"}, {"address": "192.0.2.12"}]})
    };
    let before = gyre.call("status", json!({}))["revision"].as_u64().unwrap();
    let many: Vec<Value> = (1..=20).map(service).collect();
    let changed = gyre.call("service.add_many", json!({"services": many}));
    assert_eq!(changed["revision"], json!(before + 1));
    assert_eq!(changed["changes"].as_array().unwrap().len(), 20);
    assert_eq!(gyre.call("status", json!({}))["services"], 21);
    let bad = json!({"address": "192.0.2.82:80", "forwarding": "dr",
                     "server": [{"address": "0.0.0.0:80"}]});
    for (services, code) in [
        (json!([service(30), service(1)]), "exists"),
        (json!([service(30), service(30)]), "exists"),
        (json!([service(30), bad]), "invalid_config"),
        (json!([service(30), {"adress": "192.0.2.82:80"}]), "invalid_config"),
    ] {
        let refused = gyre.refuse("service.add_many", json!({"services": services.clone()}));
        assert_eq!(refused.0, code, "{services}");
    }
    assert_eq!(gyre.call("status", json!({}))["services"], 21);
    let cleared = gyre.call("service.remove_all", json!({"mode": "now"}));
    assert_eq!(cleared["changes"], json!(["remove all 21 services"]));
    assert_eq!(cleared["revision"], json!(before + 2));
    assert_eq!(gyre.call("service.list", json!({}))["services"], json!([]));
    assert_eq!(
        gyre.call("config.get", json!({}))["config"]["local_addresses"]["pool1"]["port"],
        "wan"
    );
}
