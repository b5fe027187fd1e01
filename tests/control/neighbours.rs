//! From the kernel's events to the workers' next hops, and back to the kernel's attention.

use std::net::IpAddr;

use gyre::control::KernelAsk;
use gyre::message::FromWorker;
use gyre::model::NicId;
use gyre::model::next_hops::{KernelEvent, KernelRoute, Link, Neighbour, NeighbourState, RouteHop};
use serde_json::json;

use crate::support::Gyre;

const IFINDEX: u32 = 7;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x11];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn route(prefix: &str, gateway: Option<&str>) -> KernelEvent {
    KernelEvent::RouteAdded(KernelRoute {
        prefix: prefix.parse().unwrap(),
        metric: 0,
        mtu: None,
        hops: vec![RouteHop { ifindex: IFINDEX, gateway: gateway.map(ip), dead: false }],
    })
}

fn neighbour(address: &str, state: NeighbourState) -> KernelEvent {
    KernelEvent::NeighbourChanged(Neighbour {
        ifindex: IFINDEX,
        address: ip(address),
        mac: Some(MAC),
        state,
        managed: false,
        ours: false,
    })
}

fn tell(gyre: &Gyre, events: Vec<KernelEvent>) {
    gyre.events.blocking_send(events).unwrap();
}

/// A link with a network of its own on it.
fn network() -> Vec<KernelEvent> {
    let link =
        Link { ifindex: IFINDEX, name: "wan".into(), mac: [2, 0, 0, 0, 0, 2], mtu: 1400, up: true };
    let address = ip("192.0.2.2");
    vec![
        KernelEvent::LinkChanged(link),
        KernelEvent::AddressAdded { ifindex: IFINDEX, address },
        route("192.0.2.0/24", None),
    ]
}

/// One that the kernel gets after gyre has started.
fn connected() -> Gyre {
    let gyre = Gyre::start();
    tell(&gyre, network());
    gyre
}

#[test]
fn no_server_is_unreachable_to_workers_before_the_kernels_routes_are_read() {
    let gyre = Gyre::knowing(network());
    gyre.call("status", json!({}));
    for worker in &gyre.workers {
        let hops = gyre.wait_for("a slot for each server", |_| {
            let hops = worker.hops.lock().unwrap().clone();
            (hops.len() >= 2).then_some(hops)
        });
        // A path of no bytes is none at all.
        assert!(hops.iter().all(|(_, hop)| hop.mtu == 1400), "{hops:?}");
    }
}

#[test]
fn a_servers_neighbour_is_wanted_then_written_to_every_worker() {
    let mut gyre = connected();
    let servers = vec![(IFINDEX, ip("192.0.2.11")), (IFINDEX, ip("192.0.2.12"))];
    loop {
        match gyre.asks.blocking_recv().unwrap() {
            KernelAsk::Want(wanted) if wanted == servers => break,
            _ => {}
        }
    }
    assert_eq!(gyre.call("status", json!({}))["neighbours_unresolved"], 2);
    let listed = gyre.call("server.list", json!({"service": "web"}));
    assert_eq!(listed["servers"][0]["reachable"], false);

    tell(&gyre, vec![neighbour("192.0.2.11", NeighbourState::Reachable)]);
    gyre.wait_for("the MAC at every worker", |gyre| {
        let has = |hops: &Vec<(_, gyre::model::NextHop)>| {
            hops.iter().any(|(_, hop)| hop.resolved && hop.macs.dst() == MAC && hop.mtu == 1400)
        };
        gyre.workers.iter().all(|worker| has(&worker.hops.lock().unwrap())).then_some(())
    });
    let rows = gyre.call("neighbours.list", json!({}))["neighbours"].clone();
    let row = rows.as_array().unwrap().iter().find(|row| row["address"] == "192.0.2.11").unwrap();
    assert_eq!(
        *row,
        json!({"address": "192.0.2.11", "target": null, "port": "wan",
            "mac": "02:00:00:00:00:11", "resolved": true, "mtu": 1400})
    );
    let listed = gyre.call("server.list", json!({"service": "web"}));
    assert_eq!(listed["servers"][0]["reachable"], true);
    let unresolved = gyre.call("stats", json!({}))["neighbours_unresolved"].clone();
    assert_eq!(unresolved.as_array().unwrap().len(), 1);
    assert_eq!(unresolved[0]["address"], "192.0.2.12");
}

#[test]
fn a_port_is_shown_and_published_as_its_interface_is() {
    let gyre = connected();
    gyre.wait_for("the interface's facts", |gyre| {
        let port = gyre.call("ports.list", json!({}))["ports"][0].clone();
        (port["mac"] == "02:00:00:00:00:02").then_some(port)
    });
    let port = gyre.call("ports.list", json!({}))["ports"][0].clone();
    assert_eq!((&port["mtu"], &port["addresses"]), (&json!(1400), &json!(["192.0.2.2"])));
    gyre.wait_for("the same at the workers", |gyre| {
        let snapshot = gyre.workers[1].snapshot.lock().unwrap().clone()?;
        (snapshot.nics[0].mtu == 1400).then_some(())
    });
}

#[test]
fn a_changed_route_has_flows_forget_the_old_one_after_the_table_is_adopted() {
    let gyre = connected();
    let forgot = |gyre: &Gyre| *gyre.workers[0].forgot_routes.lock().unwrap();
    let has_route = |gyre: &Gyre| {
        let snapshot = gyre.workers[0].snapshot.lock().unwrap().clone()?;
        snapshot.routes.look_up(ip("198.51.100.7")).map(drop)
    };
    gyre.wait_for("the first routes", |gyre| (forgot(gyre) > 0).then_some(()));
    assert!(has_route(&gyre).is_none());
    let before = forgot(&gyre);
    tell(&gyre, vec![route("0.0.0.0/0", Some("192.0.2.1"))]);
    gyre.wait_for("the sweep", |gyre| (forgot(gyre) > before).then_some(()));
    assert!(has_route(&gyre).is_some(), "swept before the table was there");
}

#[test]
fn a_worker_that_waits_for_a_client_has_the_kernel_ask() {
    let mut gyre = connected();
    gyre.wait_for("the routes", |gyre| {
        let snapshot = gyre.workers[0].snapshot.lock().unwrap().clone()?;
        snapshot.routes.look_up(ip("192.0.2.200")).map(drop)
    });
    let event = FromWorker::Resolve(NicId(0), ip("192.0.2.200"));
    gyre.workers[0].to_say.lock().unwrap().push(event);
    let ask = KernelAsk::Resolve(IFINDEX, ip("192.0.2.200"));
    while gyre.asks.blocking_recv().unwrap() != ask {}
    tell(&gyre, vec![neighbour("192.0.2.200", NeighbourState::Reachable)]);
    gyre.wait_for("the client in the route table", |gyre| {
        let snapshot = gyre.workers[1].snapshot.lock().unwrap().clone()?;
        snapshot.routes.neighbour(ip("192.0.2.200")).map(drop)
    });
}
