//! A path that narrows towards the server: who sends too much is told, and a megabyte arrives.
//!
//! The server's own interface keeps 1500 and says so in its SYN, so only an ICMP error makes the
//! client send less: the director's own, or one of a router behind it that the director relays.

use std::net::TcpStream;
use std::time::Duration;

use crate::Case;
use crate::field::{Back, Between, Driver, FAR_RIP4, FAR_RIP6, Field, Plan, RIP4, RIP6, service};
use crate::lab::wait_for;
use crate::link::{Capture, Packet};
use crate::servers::{at, exchange, pattern, start_tcp};
use crate::site::{VIP4, VIP6};

pub const CASES: &[Case] = &[
    ("nat_over_a_narrow_link", nat_over_a_narrow_link),
    ("nat_over_a_narrow_path", nat_over_a_narrow_path),
    ("fullnat_over_a_narrow_link", fullnat_over_a_narrow_link),
    ("fullnat_over_a_narrow_path", fullnat_over_a_narrow_path),
    ("fullnat_across_families_over_a_narrow_path", fullnat_across_families_over_a_narrow_path),
    ("tun_over_a_narrow_link", tun_over_a_narrow_link),
    ("tun_over_a_narrow_path", tun_over_a_narrow_path),
];

const LINK: Between = Between::NarrowLink(1280);
const PATH: Between = Between::Router(1280);
const BYTES: usize = 1_000_000;
const SERVICE: u16 = 7000;

fn plan(mode: &str, between: Between) -> Plan {
    match between {
        Between::Router(_) => plan_to(mode, between, [FAR_RIP4, FAR_RIP6]),
        Between::Link | Between::NarrowLink(_) => plan_to(mode, between, [RIP4, RIP6]),
    }
}

/// A service of each family, with these servers.
fn plan_to(mode: &str, between: Between, rips: [&str; 2]) -> Plan {
    let pool = if mode == "fullnat" { "local_addresses = \"pool\"" } else { "" };
    let extra = format!("forwarding = \"{mode}\"\n{pool}");
    let one = |vip, rip| service("tcp", at(vip, SERVICE), at(rip, SERVICE), &extra);
    Plan {
        driver: Driver::AfPacket,
        back: if mode == "tun" { Back::PastDirector } else { Back::ThroughDirector },
        between,
        services: one(VIP4, rips[0]) + &one(VIP6, rips[1]),
        vips: vec![VIP4.to_string(), VIP6.to_string()],
    }
}

/// MTUs in the "fragmentation needed" (RFC 1191) and "packet too big" (RFC 4443) among packets.
fn told(packets: &[Packet]) -> Vec<u32> {
    let mtu = |packet: &Packet| match (packet.protocol, packet.payload.get(..8)?) {
        (1, [3, 4, _, _, _, _, high, low]) => Some(u32::from(*high) << 8 | u32::from(*low)),
        (58, [2, 0, _, _, mtu @ ..]) => Some(u32::from_be_bytes(mtu.try_into().ok()?)),
        _ => None,
    };
    packets.iter().filter_map(mtu).collect()
}

fn nat_over_a_narrow_link() {
    narrow("nat", LINK);
}

fn nat_over_a_narrow_path() {
    narrow("nat", PATH);
}

fn fullnat_over_a_narrow_link() {
    narrow("fullnat", LINK);
}

fn fullnat_over_a_narrow_path() {
    narrow("fullnat", PATH);
}

/// The path's 1280 bytes are 20 less for IPv4's packets, and 20 more for IPv6's.
fn fullnat_across_families_over_a_narrow_path() {
    let field = Field::build(&plan_to("fullnat", PATH, [FAR_RIP6, FAR_RIP4]), &[]);
    for (vip, mtu) in [(VIP4, 1260), (VIP6, 1300)] {
        send(&field, vip, mtu);
    }
}

/// Both families send to a server that 1280 bytes reach.
fn narrow(mode: &str, between: Between) {
    let field = Field::build(&plan(mode, between), &[]);
    for vip in [VIP4, VIP6] {
        send(&field, vip, 1280);
    }
}

fn tun_over_a_narrow_link() {
    narrow_tunnel(LINK);
}

/// The router's error is about the director's own packet.
fn tun_over_a_narrow_path() {
    narrow_tunnel(PATH);
}

/// IPv6 has no path below 1280 bytes: the tunnel's own packets are cut.
fn narrow_tunnel(between: Between) {
    let mut field = Field::build(&plan("tun", between), &[]);
    field.end_tunnels();
    for (vip, inner) in [(VIP4, 1260), (VIP6, 1280)] {
        send(&field, vip, inner);
    }
}

/// Sends `BYTES` and expects a few; the client must have been told `mtu` on the way.
fn send(field: &Field, vip: &str, mtu: u32) {
    let (up, down) = (pattern(5, BYTES), pattern(6, 1000));
    let (answer, expected) = (down.clone(), up.clone());
    // Linux takes connections of both families there.
    let _server = start_tcp(&field.server, at("::", SERVICE), move |stream| {
        let _ = exchange(&stream, &answer, &expected);
    });
    let capture = Capture::start(&field.client, "eth0");
    let limit = Duration::from_secs(4);
    let connect = || TcpStream::connect_timeout(&at(vip, SERVICE), limit);
    let stream = field.client.enter(connect).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
    let outcome = exchange(&stream, &up, &down);
    let told = wait_for("an error that tells the client its MTU", 2, || {
        let told = told(&capture.packets());
        (!told.is_empty()).then_some(told)
    });
    assert_eq!(outcome, Ok(()), "{vip}: told {told:?}, drops {:?}", field.director.drops());
    assert!(told.contains(&mtu), "{vip}: told {told:?}");
}
