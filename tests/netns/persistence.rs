//! Persistence over two workers: clients of one network keep to one nginx, whichever worker owns
//! their connections.

use serde_json::{Value, json};

use crate::Case;
use crate::director::Director;
use crate::servers::HTTP;
use crate::site::{Layout, Plan, Site, VIP4, VIP6, service, web};

pub const CASES: &[Case] = &[
    ("a_client_network_reaches_one_nginx_over_two_workers", || {
        one_nginx_for_each_network("");
    }),
    ("a_client_network_reaches_one_nginx_behind_cookies", || {
        one_nginx_for_each_network("synproxy = true\n");
    }),
];

/// Clients of each network.
const CLIENTS: u8 = 12;

/// A client's address: networks of a /28 and of a /124.
fn client(vip: &str, network: u8, n: u8) -> String {
    let last = 32 + 16 * network + n;
    if vip == VIP4 { format!("10.1.0.{last}") } else { format!("fd00:1::{last:x}") }
}

/// Frames that this worker handed off for the sake of a template.
fn asked(director: &Director, worker: usize) -> u64 {
    let stats = director.call("stats", json!({}));
    let causes = stats["workers"][worker]["hand_offs_by_cause"].as_array().unwrap();
    let template = causes.iter().find(|row| row["name"] == "template");
    template.map_or(0, |row| row["count"].as_u64().unwrap())
}

fn one_nginx_for_each_network(extra: &str) {
    let layout = Layout::TwoSegments;
    let persistent = |vip: &str| {
        let bits = if vip == VIP4 { 28 } else { 124 };
        let extra = format!("{extra}persistence_timeout = 300\npersistence_prefix = {bits}\n");
        service(layout, "tcp", vip, (HTTP, HTTP), &extra)
    };
    let site = Site::build(&Plan::new(layout, [VIP4, VIP6].map(persistent).concat()));
    for vip in [VIP4, VIP6] {
        let bits = if vip == VIP4 { 24 } else { 64 };
        for network in 0..2 {
            let mut seen = Vec::new();
            for n in 0..CLIENTS {
                let from = client(vip, network, n);
                let nodad = if vip == VIP4 { "" } else { " nodad" };
                site.client.ip(&format!("addr add {from}/{bits} dev eth0{nodad}"));
                let body = site
                    .client
                    .run("curl", &["-gsS", "--max-time", "8", "--interface", &from, &web(vip)]);
                seen.push(body.split(' ').next().unwrap().to_string());
            }
            assert!(seen[0].starts_with("server"), "{seen:?}");
            assert!(seen.iter().all(|server| *server == seen[0]), "{vip} {network}: {seen:?}");
        }
    }
    // Connections are both workers', and either one asked the other.
    let workers = site.director.call("workers.list", json!({}));
    for worker in 0..2 {
        let created = workers["workers"][worker]["flows_created"].as_u64().unwrap();
        assert!(created > 0 && asked(&site.director, worker) > 0, "{worker}: {workers}");
    }
    assert!(site.director.hand_offs()["template"] >= 2, "{:?}", site.director.hand_offs());
    one_template_for_each_network(&site);
}

fn one_template_for_each_network(site: &Site) {
    let listed = site.director.call("connections.list", json!({}));
    let rows = listed["connections"].as_array().unwrap();
    for vip in [VIP4, VIP6] {
        for network in 0..2 {
            let address = client(vip, network, 0).parse().unwrap();
            let client = std::net::SocketAddr::new(address, 0).to_string();
            let of_network = |row: &&Value| row["client"] == *client;
            let count = rows.iter().filter(of_network).count();
            assert_eq!(count, 1, "templates of {client}: {listed}");
        }
    }
}
