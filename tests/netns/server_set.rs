//! Servers that come, go, refuse and are missing.

use std::net::{TcpStream, UdpSocket};
use std::time::Duration;

use serde_json::json;

use crate::Case;
use crate::lab::wait_for;
use crate::link::Capture;
use crate::servers::{HTTP, at, exchange, pattern, start_tcp};
use crate::site::{
    CLIENT4, Layout, Plan, Site, VIP4, VIP6, connects, curl_many, service, spread, web, wrk,
};

pub const CASES: &[Case] = &[
    ("drain_and_add_under_load", drain_and_add_under_load),
    ("a_drained_server_keeps_its_live_connections", drained_server_keeps_live_connections),
    ("weight_0_takes_no_new_connection", weight_0_takes_no_new_connection),
    ("a_server_that_is_not_there_is_counted", server_that_is_not_there_is_counted),
    ("no_server_is_answered_by_unreachable", no_server_is_answered_by_unreachable),
    ("a_refusing_server_resets_the_client_fullnat", || refusing(Layout::TwoSegments)),
    ("a_refusing_server_resets_the_client_dr", || refusing(Layout::OneSegment)),
];

fn web_site(layout: Layout) -> Site {
    Site::build(&Plan::new(layout, service(layout, "tcp", VIP4, (HTTP, HTTP), "name = \"web\"\n")))
}

fn drain_and_add_under_load() {
    let site = web_site(Layout::TwoSegments);
    let server = "10.2.0.12:80";
    let load = std::thread::scope(|scope| {
        let running = scope.spawn(|| wrk(&site.client, &web(VIP4), 6, true));
        for _ in 0..2 {
            std::thread::sleep(Duration::from_millis(1000));
            let params = json!({"service": "web", "server": server, "mode": "drain"});
            site.director.call("server.remove", params);
            std::thread::sleep(Duration::from_millis(200));
            let before = site.servers[1].nginx.requests().len();
            std::thread::sleep(Duration::from_millis(600));
            assert_eq!(site.servers[1].nginx.requests().len(), before, "requests while drained");
            let params = json!({"service": "web", "server": {"address": server}});
            site.director.call("server.add", params);
        }
        running.join().unwrap()
    });
    assert_eq!(load.failures, 0, "{}", load.text);
    let last = site.servers[1].nginx.requests().len();
    curl_many(&site.client, &web(VIP4), 6);
    assert!(site.servers[1].nginx.requests().len() > last, "the server came back");
}

/// A reply from the socket means that every worker has the change: no pause after it, here and
/// below.
fn drained_server_keeps_live_connections() {
    let layout = Layout::TwoSegments;
    let site = Site::build(&Plan {
        servers: 1,
        ..Plan::new(layout, service(layout, "tcp", VIP4, (7000, 7000), "name = \"bulk\"\n"))
    });
    let (up, down) = (pattern(1, 300_000), pattern(2, 300_000));
    let (theirs, ours) = (down.clone(), up.clone());
    for n in [2, 3] {
        let params = json!({"service": "bulk", "server": format!("10.2.0.1{n}:7000"),
                            "mode": "now"});
        site.director.call("server.remove", params);
    }
    let _server = start_tcp(&site.servers[0].space, at("10.2.0.11", 7000), move |stream| {
        let _ = exchange(&stream, &theirs, &ours);
    });
    let stream = site.client.enter(|| TcpStream::connect(at(VIP4, 7000)).unwrap());
    let params = json!({"service": "bulk", "server": "10.2.0.11:7000", "mode": "drain"});
    site.director.call("server.remove", params);
    assert!(connects(&site.client, at(VIP4, 7000)).is_err(), "a drained server got a connection");
    exchange(&stream, &up, &down).unwrap();
}

fn weight_0_takes_no_new_connection() {
    let site = web_site(Layout::OneSegment);
    let params = json!({"service": "web", "server": "10.1.0.11:80", "weight": 0});
    site.director.call("server.set_weight", params);
    let shares = spread(&curl_many(&site.client, &web(VIP4), 10), &site.servers);
    assert_eq!(shares[0], 0, "{shares:?}");
    assert_eq!(shares[1] + shares[2], 10, "{shares:?}");
    let params = json!({"service": "web", "server": "10.1.0.11:80", "weight": 5});
    site.director.call("server.set_weight", params);
    let shares = spread(&curl_many(&site.client, &web(VIP4), 10), &site.servers);
    assert!(shares[0] > 0, "{shares:?}");
}

/// Its neighbour never resolves: the SYN waits its time and is given up.
fn server_that_is_not_there_is_counted() {
    let layout = Layout::TwoSegments;
    let services = service(layout, "tcp", VIP4, (HTTP, HTTP), "");
    let site = Site::build(&Plan { servers: 0, ..Plan::new(layout, services) });
    assert!(connects(&site.client, at(VIP4, HTTP)).is_err());
    wait_for("a frame given up", 6, || {
        (site.director.dropped("next_hop_pending") > 0).then_some(())
    });
    let unresolved = site.director.call("status", json!({}))["neighbours_unresolved"].as_u64();
    assert!(unresolved >= Some(3), "{unresolved:?}");
}

fn no_server_is_answered_by_unreachable() {
    let layout = Layout::TwoSegments;
    let empty = |protocol, vip| {
        let text = service(layout, protocol, vip, (9, 9), "");
        text[..text.find("\n[[service.server]]").unwrap()].to_string() + "\n\n"
    };
    let services: String = [("tcp", VIP4), ("udp", VIP4), ("tcp", VIP6), ("udp", VIP6)]
        .map(|(protocol, vip)| empty(protocol, vip))
        .concat();
    let site = Site::build(&Plan::new(layout, services));
    let capture = Capture::start(&site.client, "eth0");
    for vip in [VIP4, VIP6] {
        let refused = connects(&site.client, at(vip, 9)).unwrap_err();
        assert_ne!(refused.kind(), std::io::ErrorKind::TimedOut, "{vip}: silence");
        let error = site.client.enter(|| {
            let socket = UdpSocket::bind((if vip == VIP4 { "0.0.0.0" } else { "::" }, 0)).unwrap();
            socket.connect(at(vip, 9)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            socket.send(b"hello?").unwrap();
            socket.recv(&mut [0; 9]).unwrap_err()
        });
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{vip}: {error}");
    }
    let icmp: Vec<_> =
        capture.packets().into_iter().filter(|p| [1, 58].contains(&p.protocol)).collect();
    let (v4, v6) = (at(VIP4, 0), at(VIP6, 0));
    let unreachable = |packet: &&crate::link::Packet| {
        (packet.src == v4 && packet.payload.starts_with(&[3, 3]))
            || (packet.src == v6 && packet.payload.starts_with(&[1, 4]))
    };
    assert!(icmp.iter().filter(unreachable).count() >= 4, "{icmp:?}");
    assert!(site.director.dropped("no_server") >= 4, "{:?}", site.director.drops());
    assert!(site.director.replies()["port_unreachable"] >= 4);
}

/// Nothing listens on the server's port: the client hears of it at once.
fn refusing(layout: Layout) {
    let site = Site::build(&Plan::new(layout, service(layout, "tcp", VIP4, (81, 81), "")));
    let started = std::time::Instant::now();
    let error = connects(&site.client, at(VIP4, 81)).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{error} for {CLIENT4}");
    assert!(started.elapsed() < Duration::from_millis(900), "{:?}", started.elapsed());
}
