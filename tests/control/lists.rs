//! What the socket shows: flows, counts, workers, ports.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use gyre::counters::{DropReason, HandOffCause, ReplyKind};
use gyre::message::{FlowRow, FlowState, RowKind};
use gyre::model::{ForwardMode, LipId, Protocol, ServerId, ServiceId};
use serde_json::{Value, json};

use crate::support::Gyre;

fn flow(client: &str, port: u16, state: FlowState) -> FlowRow {
    let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
    FlowRow {
        kind: RowKind::Flow,
        protocol: Protocol::Tcp,
        client: (ip(client), port),
        virtual_address: (ip("192.0.2.80"), 80),
        local: Some((ip("192.0.2.8"), 1024)),
        server: (ip("192.0.2.11"), 8080),
        service_id: ServiceId(0),
        server_id: ServerId(0),
        mode: ForwardMode::FullNat,
        state,
        expires_ms: 899_000,
        packets: 12,
    }
}

/// Five flows on the first worker, three on the second.
fn with_flows() -> Gyre {
    let gyre = Gyre::start();
    let flows = (0..8).map(|n| {
        let (client, state) = match n % 2 {
            0 => ("198.51.100.7", FlowState::Established),
            _ => ("2001:db8::7", FlowState::SynRecv),
        };
        flow(client, 4000 + n, state)
    });
    for (at, flow) in flows.enumerate() {
        gyre.workers[usize::from(at >= 5)].flows.lock().unwrap().push(flow);
    }
    gyre
}

fn count(list: &Value) -> usize {
    list["connections"].as_array().unwrap().len()
}

#[test]
fn flows_of_all_workers_are_listed_with_their_owner() {
    let gyre = with_flows();
    let list = gyre.call("connections.list", json!({}));
    assert_eq!((count(&list), &list["truncated"]), (8, &json!(false)));
    let rows = list["connections"].as_array().unwrap();
    assert_eq!(rows.iter().filter(|row| row["worker"] == 1).count(), 3);
    let row = rows.iter().find(|row| row["client"] == "[2001:db8::7]:4001").unwrap();
    assert_eq!(
        *row,
        json!({"protocol": "tcp", "client": "[2001:db8::7]:4001", "virtual": "192.0.2.80:80",
            "local": "192.0.2.8:1024", "server": "192.0.2.11:8080", "forwarding": "fullnat",
            "state": "SYN_RECV", "expires_ms": 899_000, "packets": 12, "worker": 0})
    );
}

#[test]
fn filters_and_limit_narrow_the_list_and_say_when_more_matched() {
    let gyre = with_flows();
    let list = |params| gyre.call("connections.list", params);
    assert_eq!(count(&list(json!({"client": "198.51.100.7"}))), 4);
    assert_eq!(count(&list(json!({"state": "syn_recv", "vport": 80}))), 4);
    assert_eq!(count(&list(json!({"server": "192.0.2.12"}))), 0);
    assert_eq!(count(&list(json!({"vip": "192.0.2.80", "limit": 8}))), 8);
    for limit in [1, 5, 7] {
        let cut = list(json!({"limit": limit}));
        assert_eq!((count(&cut), &cut["truncated"]), (limit, &json!(true)), "limit {limit}");
    }
    for bad in [json!({"limit": 0}), json!({"limit": 100_001}), json!({"state": "SLEEPING"})] {
        assert_eq!(gyre.refuse("connections.list", bad).0, "invalid_params");
    }
}

/// Pages follow each other over both workers; each flow is on one of them.
#[test]
fn a_long_list_comes_in_pages() {
    let gyre = with_flows();
    for (limit, filter) in [(1, 8), (3, 8), (5, 8), (2, 4)] {
        let mut seen = Vec::new();
        let mut params = json!({"limit": limit});
        if filter == 4 {
            params["client"] = json!("198.51.100.7");
        }
        loop {
            let page = gyre.call("connections.list", params.clone());
            assert!(count(&page) <= limit);
            let rows = page["connections"].as_array().unwrap();
            seen.extend(rows.iter().map(|row| row["client"].as_str().unwrap().to_owned()));
            assert_eq!(page["truncated"], json!(!page["next"].is_null()));
            if page["next"].is_null() {
                break;
            }
            params["after"] = page["next"].clone();
        }
        let shown = seen.len();
        seen.sort();
        seen.dedup();
        assert_eq!((shown, seen.len()), (filter, filter), "pages of {limit}");
    }
    let gone = json!({"after": "9.1"});
    let past = gyre.call("connections.list", gone);
    assert_eq!((count(&past), &past["next"]), (0, &Value::Null));
    let bad = json!({"after": "soon"});
    assert_eq!(gyre.refuse("connections.list", bad).0, "invalid_params");
}

#[test]
fn flows_are_deleted_by_filter_or_all_when_said_so() {
    let gyre = with_flows();
    let bare = gyre.refuse("connections.delete", json!({}));
    assert_eq!(bare.0, "invalid_params");
    let both = json!({"all": true, "vport": 80});
    assert_eq!(gyre.refuse("connections.delete", both).0, "invalid_params");
    let some = gyre.call("connections.delete", json!({"client": "2001:db8::7"}));
    assert_eq!(some, json!({"deleted": 4}));
    assert_eq!(gyre.call("connections.delete", json!({"all": true})), json!({"deleted": 4}));
    assert_eq!(count(&gyre.call("connections.list", json!({}))), 0);
}

/// The bound is for all workers together.
#[test]
fn a_deletion_stops_at_its_limit() {
    let gyre = with_flows();
    assert_eq!(
        gyre.refuse("connections.delete", json!({"all": true, "limit": 0})).0,
        "invalid_params"
    );
    let delete = |limit| gyre.call("connections.delete", json!({"all": true, "limit": limit}));
    assert_eq!(delete(3), json!({"deleted": 3}));
    assert_eq!(count(&gyre.call("connections.list", json!({}))), 5);
    assert_eq!(delete(4), json!({"deleted": 4}));
    assert_eq!(delete(9), json!({"deleted": 1}));
}

#[test]
fn listings_at_the_same_time_each_get_their_own_rows() {
    let gyre = with_flows();
    std::thread::scope(|scope| {
        for (state, wanted) in [("ESTABLISHED", 4), ("SYN_RECV", 4), ("FIN_WAIT", 0)].repeat(4) {
            let gyre = &gyre;
            scope.spawn(move || {
                let list = gyre.call("connections.list", json!({"state": state}));
                assert_eq!(count(&list), wanted, "{state}");
            });
        }
    });
}

#[test]
fn a_long_list_passes_the_rings() {
    let gyre = Gyre::start();
    let flows = (0..20_000).map(|n| flow("198.51.100.7", n, FlowState::Established)).collect();
    *gyre.workers[0].flows.lock().unwrap() = flows;
    let list = gyre.call("connections.list", json!({"limit": 20_000}));
    assert_eq!((count(&list), &list["truncated"]), (20_000, &json!(false)));
}

#[test]
fn a_stalled_worker_is_reported_and_its_silence_too() {
    let gyre = Gyre::start();
    gyre.workers[1].stalled.store(true, Ordering::Relaxed);
    let stalled = |gyre: &Gyre, at: usize| {
        gyre.call("workers.list", json!({}))["workers"][at]["stalled"].as_bool().unwrap()
    };
    let since = Instant::now();
    gyre.wait_for("the stall", |gyre| stalled(gyre, 1).then_some(()));
    assert!(since.elapsed() >= Duration::from_millis(900));
    assert!(!stalled(&gyre, 0));
    assert_eq!(gyre.call("status", json!({}))["workers_stalled"], json!([1]));
    // Everything that needs no worker is answered meanwhile.
    let mut client = gyre.connect();
    let waiting = std::thread::scope(|scope| {
        let list = scope.spawn(|| gyre.refuse("connections.list", json!({})));
        assert!(client.call("stats", json!({}))["result"].is_object());
        list.join().unwrap()
    });
    assert_eq!(waiting.0, "worker_timeout");
    assert!(waiting.1["message"].as_str().unwrap().ends_with("from worker 1"), "{}", waiting.1);
    gyre.workers[1].stalled.store(false, Ordering::Relaxed);
    gyre.wait_for("the recovery", |gyre| (!stalled(gyre, 1)).then_some(()));
    assert_eq!(count(&gyre.call("connections.list", json!({}))), 0);
}

fn of<'a>(list: &'a Value, name: &str) -> &'a Value {
    list.as_array().unwrap().iter().find(|row| row["name"] == name).unwrap()
}

#[test]
fn stats_add_up_what_workers_and_devices_count() {
    let gyre = Gyre::start();
    // What was counted before a slot had its present owner is not shown.
    gyre.call("status", json!({}));
    for worker in &gyre.workers {
        let counters = &worker.counters;
        counters.dropped(DropReason::NoServer);
        counters.hand_offs[HandOffCause::Reply as usize].add(3);
        counters.replied(ReplyKind::TcpReset);
        counters.nics[0].rx_frames.add(10);
        counters.nics[0].tx_full.add(2);
        counters.flows.add(5);
        counters.fast_frames.add(7);
        let service = &counters.services[ServiceId(0).index()];
        service.connections.add(50);
        let server = &counters.servers[ServerId(1).index()];
        server.flows.add(5);
        server.active.add(2);
        server.in_bytes.add(1000);
        counters.own_templates[ServerId(1).index()].add(3);
        let lip = &counters.lips[LipId(0).index()];
        lip.used.add(20);
        lip.exhausted.add(1);
    }
    let stats = gyre.call("stats", json!({}));
    let no_server = of(&stats["drops"], "no_server");
    assert_eq!(no_server["count"], 2);
    assert!(no_server["meaning"].as_str().unwrap().contains("no usable server"));
    assert_eq!(stats["drops"].as_array().unwrap().len(), DropReason::ALL.len());
    assert_eq!(of(&stats["hand_offs"], "reply")["count"], 6);
    assert_eq!(of(&stats["replies"], "tcp_reset")["count"], 2);
    assert_eq!(stats["workers"][1]["drops_by_reason"][0]["name"], "no_server");
    assert_eq!(stats["workers"][1]["hand_offs"], 3);
    assert_eq!(stats["workers"][1]["fast_frames"], 7);
    let port = &stats["ports"][0];
    assert_eq!((&port["rx_frames"], &port["tx_full"]), (&json!(20), &json!(4)));
    assert_eq!((&port["rx_missed"], &port["rx_nombuf"]), (&json!(7), &json!(6)));
    assert_eq!((&port["rx_errors"], &port["tx_errors"]), (&json!(5), &json!(4)));
    assert_eq!((&port["kernel_refused"], &port["kernel_ring_full"]), (&json!(2), &json!(1)));
    assert_eq!(port["kernel_nombuf"], json!(3));
    assert_eq!(port["mempools"][0], json!({"name": "mbuf0", "size": 1024, "in_use": 300}));
    let web = &stats["services"][0];
    assert_eq!((&web["name"], &web["connections"]), (&json!("web"), &json!(100)));
    let server = &web["servers"][1];
    assert_eq!((&server["active"], &server["inactive"]), (&json!(4), &json!(6)));
    assert_eq!((&server["in_bytes"], &server["weight"]), (&json!(2000), &json!(3)));
    assert_eq!(server["templates"], 6);
    assert_eq!(
        stats["local_addresses"],
        json!([{"pool": "pool1", "address": "192.0.2.8", "port_first": 1024, "port_last": 2047,
            "used": 40, "free": 2 * 1024 - 40, "reused": 0, "exhausted": 2}])
    );
    assert_eq!(gyre.call("ports.list", json!({}))["ports"][0], *port);
    let status = gyre.call("status", json!({}));
    assert_eq!((&status["flows"], &status["drops"]), (&json!(10), &json!(2)));
}

/// Counts of a server that leaves stay in its service's, and come from it again when it returns.
#[test]
fn a_services_traffic_outlives_its_servers_until_it_is_zeroed() {
    let gyre = Gyre::start();
    let service = || gyre.call("service.list", json!({"service": "web"}))["services"][0].clone();
    gyre.call("status", json!({}));
    let slot = &gyre.workers[0].counters.servers[ServerId(1).index()];
    slot.in_packets.add(10);
    slot.out_bytes.add(500);
    gyre.workers[1].counters.services[ServiceId(0).index()].connections.add(4);
    let counted = |row: &Value| (row["in_packets"].clone(), row["out_bytes"].clone());
    assert_eq!(counted(&service()), (json!(10), json!(500)));
    let server = json!({"service": "web", "server": "192.0.2.12:8080", "mode": "now"});
    gyre.call("server.remove", server);
    assert_eq!(service()["servers"].as_array().unwrap().len(), 1);
    assert_eq!(counted(&service()), (json!(10), json!(500)));
    let server = json!({"service": "web", "server": {"address": "192.0.2.12:8080"}});
    gyre.call("server.add", server);
    assert_eq!(counted(&service()), (json!(10), json!(500)));
    gyre.call("stats.zero", json!({"service": "web"}));
    let zeroed = service();
    assert_eq!(counted(&zeroed), (json!(0), json!(0)));
    assert_eq!(zeroed["connections"], 0);
    slot.in_packets.add(3);
    assert_eq!(service()["in_packets"], 3);
    assert_eq!(gyre.refuse("stats.zero", json!({"service": "www"})).0, "not_found");
}

#[test]
fn rates_follow_the_counts() {
    let gyre = Gyre::start();
    gyre.call("status", json!({}));
    let slot = &gyre.workers[0].counters.servers[ServerId(0).index()];
    gyre.wait_for("a rate", |gyre| {
        slot.in_packets.add(500);
        let rows = gyre.call("server.list", json!({"service": "web"}));
        (rows["servers"][0]["rates"]["in_packets"].as_u64() > Some(0)).then_some(())
    });
    let service = gyre.call("service.list", json!({}))["services"][0].clone();
    assert!(service["rates"]["in_packets"].as_u64() > Some(0), "{service}");
    assert_eq!(service["rates"]["out_packets"], 0);
    assert_eq!(service["servers"][1]["rates"]["in_packets"], 0);
}

#[test]
fn services_and_servers_are_found_by_any_name() {
    let gyre = Gyre::start();
    for name in ["web", "tcp 192.0.2.80:80", "192.0.2.80:80"] {
        let list = gyre.call("server.list", json!({"service": name}));
        assert_eq!(list["servers"].as_array().unwrap().len(), 2, "{name}");
        let list = gyre.call("service.list", json!({"service": name}));
        assert_eq!(list["services"][0]["address"], "192.0.2.80:80");
    }
    for method in ["service.list", "server.list"] {
        assert_eq!(gyre.refuse(method, json!({"service": "www"})).0, "not_found");
    }
}
