//! Every forwarding mode between independent ends: nginx, iperf3 both ways, UDP small and of 60 kB
//! in fragments, both families, over ports that bring each fragment as it was sent.

use std::net::UdpSocket;
use std::time::Duration;

use crate::Case;
use crate::field::{
    Back, Between, Driver, ECHO, Field, IPERF, Plan, RIP4, RIP6, all_services, echo_datagram,
    iperf, service,
};
use crate::servers::{BIG_BYTES, HTTP, at, start_udp_echo};
use crate::site::{CLIENT4, CLIENT6, DIRECTOR4, DIRECTOR6, LIP4, LIP6, VIP4, VIP6, curl, url};

pub const CASES: &[Case] = &[
    ("nat_carries_everything", nat_carries_everything),
    ("fullnat_carries_everything", fullnat_carries_everything),
    ("fullnat_carries_everything_across_families", fullnat_carries_everything_across_families),
    ("fullnat_cuts_what_af_packet_put_together", fullnat_cuts_what_af_packet_put_together),
    ("dr_carries_everything", dr_carries_everything),
    ("tun_carries_everything", tun_carries_everything),
    ("every_tunnel_reaches_a_far_end_of_its_own", every_tunnel_reaches_a_far_end_of_its_own),
    ("local_carries_everything", local_carries_everything),
    ("af_packet_counts_a_datagram_put_together", af_packet_counts_a_datagram_put_together),
];

/// Virtual ports of modes that map ports are so much above the server's.
const SHIFT: u16 = 10_000;

fn plan(services: String, back: Back) -> Plan {
    let vips = vec![VIP4.to_string(), VIP6.to_string()];
    Plan { driver: Driver::Tap, back, between: Between::Link, services, vips }
}

/// HTTP, iperf3 and datagrams to both VIPs; nginx must have seen `clients`.
fn carries_everything(field: &Field, shift: u16, clients: [&str; 2]) {
    for (vip, client) in [VIP4, VIP6].into_iter().zip(clients) {
        let body = curl(&field.client, &url(vip, HTTP + shift)).unwrap();
        assert!(body.starts_with("server1"), "{body:?}");
        let big = format!("{}big", url(vip, HTTP + shift));
        let arguments = ["-gsS", "-m", "20", "-o", "/dev/null", "-w", "%{size_download}", &*big];
        assert_eq!(field.client.run("curl", &arguments), BIG_BYTES.to_string());
        let requests = field.nginx.requests();
        assert!(requests.iter().any(|r| r.remote == client), "{client}: {requests:?}");
        streams(field, vip, shift);
        for bytes in [30, 1400, 60_000] {
            echo_datagram(field, at(vip, ECHO + shift), bytes);
        }
    }
    assert_eq!(field.director.dropped("internal"), 0);
}

fn streams(field: &Field, vip: &str, shift: u16) {
    let to = at(vip, IPERF + shift);
    for way in [&[][..], &["-R"]] {
        let tcp = iperf(field, to, &[&["-n", "4M"], way].concat());
        assert!(tcp.bytes >= 1_000_000, "{vip} {way:?}: {tcp:?}");
        // A datagram each 4 ms: no queue on the way fills up, so one that is missing was dropped.
        let arguments = [&["-u", "-b", "2M", "-n", "200K", "-l", "1000"], way].concat();
        let udp = iperf(field, to, &arguments);
        let drops = field.director.drops();
        assert!(udp.sent >= 200 && udp.lost * 100 <= udp.sent, "{vip} {way:?}: {udp:?} {drops:?}");
    }
}

fn nat_carries_everything() {
    let extra = "forwarding = \"nat\"";
    let services = [(VIP4, RIP4), (VIP6, RIP6)].map(|ends| all_services(ends, SHIFT, extra));
    let plan = plan(services.concat(), Back::ThroughDirector);
    let field = Field::build(&plan, &[RIP4, RIP6]);
    carries_everything(&field, SHIFT, [CLIENT4, CLIENT6]);
}

const FULLNAT: &str = "forwarding = \"fullnat\"\nlocal_addresses = \"pool\"";

fn fullnat_carries_everything() {
    let services = [(VIP4, RIP4), (VIP6, RIP6)].map(|ends| all_services(ends, SHIFT, FULLNAT));
    let plan = plan(services.concat(), Back::ThroughDirector);
    let field = Field::build(&plan, &[RIP4, RIP6]);
    carries_everything(&field, SHIFT, [LIP4, LIP6]);
}

/// Each family's clients at a server of the other: datagrams of 60 kB in fragments among it.
fn fullnat_carries_everything_across_families() {
    let services = [(VIP4, RIP6), (VIP6, RIP4)].map(|ends| all_services(ends, SHIFT, FULLNAT));
    let plan = plan(services.concat(), Back::ThroughDirector);
    let field = Field::build(&plan, &[RIP4, RIP6]);
    carries_everything(&field, SHIFT, [LIP6, LIP4]);
    for vip in [VIP4, VIP6] {
        for bytes in [1472, 1473, 1800, 4000] {
            echo_datagram(&field, at(vip, ECHO + SHIFT), bytes);
        }
    }
}

/// IPv4's pieces come as one packet from the fanout of packet sockets, IPv6's as they were sent:
/// both ways one that fits a ring frame gets across.
fn fullnat_cuts_what_af_packet_put_together() {
    let services = [(VIP4, RIP6), (VIP6, RIP4)].map(|ends| all_services(ends, SHIFT, FULLNAT));
    let plan = plan(services.concat(), Back::ThroughDirector);
    let field = Field::build(&Plan { driver: Driver::AfPacket, ..plan }, &[RIP4, RIP6]);
    for vip in [VIP4, VIP6] {
        for bytes in [30, 1400, 1800] {
            echo_datagram(&field, at(vip, ECHO + SHIFT), bytes);
        }
    }
    assert_eq!(field.director.dropped("internal"), 0);
}

fn dr_carries_everything() {
    let extra = "forwarding = \"dr\"";
    let services = [(VIP4, RIP4), (VIP6, RIP6)].map(|ends| all_services(ends, 0, extra));
    let field = Field::build(&plan(services.concat(), Back::PastDirector), &[VIP4, VIP6]);
    carries_everything(&field, 0, [CLIENT4, CLIENT6]);
}

fn tun_carries_everything() {
    let extra = "forwarding = \"tun\"";
    let services = [(VIP4, RIP4), (VIP6, RIP6)].map(|ends| all_services(ends, 0, extra));
    let mut field = Field::build(&plan(services.concat(), Back::PastDirector), &[VIP4, VIP6]);
    field.end_tunnels();
    carries_everything(&field, 0, [CLIENT4, CLIENT6]);
    let said = field.tunnels();
    for (kind, vip) in [("ipip 4in4", VIP4), ("ipip 6in6", VIP6)] {
        assert!(said.contains(&format!("seen {kind} to {vip}\n")), "{kind}: {said}");
    }
    assert!(!said.contains("refused"), "{said}");
}

fn local_carries_everything() {
    let extra = "forwarding = \"local\"";
    let services = [(VIP4, DIRECTOR4), (VIP6, DIRECTOR6)].map(|ends| all_services(ends, 0, extra));
    let field = Field::build_local(&plan(services.concat(), Back::PastDirector), &[VIP4, VIP6]);
    carries_everything(&field, 0, [CLIENT4, CLIENT6]);
}

/// A kind of tunnel as the far end names it, and its keys in the configuration.
const TUNNELS: [(&str, &str); 6] = [
    ("ipip", "tunnel = \"ipip\""),
    ("gre", "tunnel = \"gre\""),
    ("gre+csum", "tunnel = \"gre\"\ntunnel_checksum = \"csum\""),
    ("gue", "tunnel = \"gue\""),
    ("gue+csum", "tunnel = \"gue\"\ntunnel_checksum = \"csum\""),
    // No sender's checksum is open here, so nothing is left to the far end.
    ("gue+csum", "tunnel = \"gue\"\ntunnel_checksum = \"remcsum\""),
];

/// Every kind of tunnel carries both families in both: each has VIPs of its own.
fn every_tunnel_reaches_a_far_end_of_its_own() {
    let mut ways = Vec::new();
    for (number, (kind, keys)) in TUNNELS.iter().enumerate() {
        for (outer, rip) in [(4, RIP4), (6, RIP6)] {
            let last = 100 + 10 * number + outer;
            ways.push((format!("{kind} 4in{outer}"), format!("10.1.0.{last}"), rip, keys));
            ways.push((format!("{kind} 6in{outer}"), format!("fd00:1::{last}"), rip, keys));
        }
    }
    let services: String = ways
        .iter()
        .flat_map(|(_, vip, rip, keys)| {
            let one = |protocol, port| {
                let text = service(protocol, at(vip, port), at(rip, port), "forwarding = \"tun\"");
                format!("{}\n{keys}\n\n", text.trim_end())
            };
            [one("tcp", HTTP), one("udp", ECHO)]
        })
        .collect();
    let vips: Vec<_> = ways.iter().map(|(_, vip, ..)| vip.clone()).collect();
    let plan = Plan { vips, ..plan(services, Back::PastDirector) };
    let mut field = Field::build(&plan, &[]);
    field.end_tunnels();
    for (name, vip, ..) in &ways {
        let _echo = start_udp_echo(&field.server, "server1", at(vip, ECHO));
        curl(&field.client, &url(vip, HTTP)).unwrap_or_else(|e| panic!("{name}: {e}"));
        // An inner packet with and without need for pieces, one of an odd length, and 60 kB.
        for bytes in [30, 1401, 1470, 60_000] {
            echo_datagram(&field, at(vip, ECHO), bytes);
        }
        let said = field.tunnels();
        assert!(said.contains(&format!("seen {name} to {vip}\n")), "{name}: {said}");
    }
    let said = field.tunnels();
    assert_eq!(said.matches("seen ").count(), ways.len(), "{said}");
    assert!(!said.contains("refused"), "{said}");
}

/// The fanout of packet sockets puts IPv4 fragments together; 60 kB then fit no ring frame.
fn af_packet_counts_a_datagram_put_together() {
    let extra = "forwarding = \"nat\"";
    let services = [(VIP4, RIP4), (VIP6, RIP6)].map(|ends| all_services(ends, SHIFT, extra));
    let plan = plan(services.concat(), Back::ThroughDirector);
    let field = Field::build(&Plan { driver: Driver::AfPacket, ..plan }, &[RIP4, RIP6]);
    // Two frames become one that fits a ring frame, and are two again behind the director.
    for (vip, bytes) in [(VIP4, 1800), (VIP6, 1800), (VIP6, 60_000)] {
        echo_datagram(&field, at(vip, ECHO + SHIFT), bytes);
    }
    assert_eq!(field.director.dropped("truncated"), 0);
    let question = vec![7; 60_000];
    let got = field.client.enter(|| {
        let socket = UdpSocket::bind(at(CLIENT4, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        socket.send_to(&question, at(VIP4, ECHO + SHIFT)).unwrap();
        socket.recv(&mut [0; 100])
    });
    assert!(got.is_err(), "60 kB passed: {got:?}");
    assert_eq!(field.director.dropped("truncated"), 1, "{:?}", field.director.drops());
    echo_datagram(&field, at(VIP4, ECHO + SHIFT), 1400);
}
