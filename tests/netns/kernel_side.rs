//! The kernel beside gyre, both ways (`tap`, `shared`): ARP, ping, resets, SSH-like sessions and
//! BGP, each answered exactly once.

use std::fs;
use std::net::Ipv4Addr;
use std::time::Duration;

use gyre::wire::build::PacketBuilder;
use gyre::wire::ethernet::MacAddr;
use gyre::wire::tcp::TcpFlags;

use crate::Case;
use crate::lab::{Namespace, Process, wait_for};
use crate::link::{ACK, Capture, Packet, RST, inject};
use crate::servers::{HTTP, at, start_tcp};
use crate::site::{
    CLIENT4, CLIENT6, DIRECTOR4, DIRECTOR6, Layout, Plan, Site, VIP4, VIP6, curl, service, web, wrk,
};

pub const CASES: &[Case] = &[
    ("tap_answers_once", || answers_once("tap")),
    ("shared_answers_once", || answers_once("shared")),
    ("tap_reaches_the_host", || reaches_the_host("tap")),
    ("shared_reaches_the_host", || reaches_the_host("shared")),
    ("shared_forwards_fullnat", || shared_forwards(Layout::TwoSegments)),
    ("shared_forwards_dr", || shared_forwards(Layout::OneSegment)),
    ("tap_bgp_while_forwarding", || bgp("tap")),
    ("shared_bgp_while_forwarding", || bgp("shared")),
];

fn plan(layout: Layout, kernel: &'static str) -> Plan {
    let services = [VIP4, VIP6].map(|vip| service(layout, "tcp", vip, (HTTP, HTTP), ""));
    Plan { kernel, ..Plan::new(layout, services.concat()) }
}

fn arp_replies(capture: &Capture, address: Ipv4Addr) -> usize {
    let is_reply = |frame: &Vec<u8>| {
        frame.get(12..14) == Some(&[8, 6])
            && frame.get(20..22) == Some(&[0, 2])
            && frame.get(28..32) == Some(&address.octets())
    };
    capture.frames().iter().filter(|frame| is_reply(frame)).count()
}

fn answers_once(kernel: &'static str) {
    let site = Site::build(&plan(Layout::TwoSegments, kernel));
    for address in [VIP4, DIRECTOR4] {
        site.client.ip("neigh flush dev eth0");
        let capture = Capture::start(&site.client, "eth0");
        site.client.run("ping", &["-c3", "-i0.2", "-W1", address]);
        // ping may be done before the capture has read the last one.
        wait_for("three echo replies on the client's wire", 2, || {
            let packets = capture.packets();
            let replies = packets.iter().filter(|p| p.protocol == 1 && p.payload[0] == 0).count();
            assert!(replies <= 3, "{address}: {replies} echo replies to three requests");
            (replies == 3).then_some(())
        });
        let arp = arp_replies(&capture, address.parse().unwrap());
        assert_eq!(arp, 1, "{address}: ARP replies to one request");
    }
    for address in [VIP6, DIRECTOR6] {
        site.client.run("ping", &["-c2", "-i0.2", "-W1", address]);
    }
    let macs = [site.client.mac("eth0"), site.director.space.mac("wan0")].map(MacAddr);
    // To the service, to a port without service on the VIP, and to the director itself.
    let v4 = [(VIP4, HTTP), (VIP4, 4444), (DIRECTOR4, 4444)];
    for (address, port) in v4.into_iter().chain([(VIP6, HTTP), (VIP6, 4444), (DIRECTOR6, 4444)]) {
        let capture = Capture::start(&site.client, "eth0");
        inject(&site.client, "eth0", &[stray_ack(macs, address, port)]);
        std::thread::sleep(Duration::from_millis(500));
        let to = at(address, port);
        let resets: Vec<Packet> =
            capture.packets().into_iter().filter(|p| p.src == to && p.flags & RST != 0).collect();
        assert_eq!(resets.len(), 1, "{to}: resets for one stray ACK: {resets:?}");
        assert!(resets[0].is_tcp(RST) || resets[0].is_tcp(RST | ACK), "{resets:?}");
        assert_eq!(resets[0].seq, 777, "{to}: a reset inside the peer's window");
    }
    let closed = crate::site::connects(&site.client, at(VIP4, 4444)).unwrap_err();
    assert_eq!(closed.kind(), std::io::ErrorKind::ConnectionRefused, "{closed}");
}

fn stray_ack([client, director]: [MacAddr; 2], address: &str, port: u16) -> Vec<u8> {
    let link = PacketBuilder::new().ethernet(client, director);
    let source = if address.contains(':') { CLIENT6 } else { CLIENT4 };
    let ip = link.ip(source.parse().unwrap(), address.parse().unwrap()).unwrap();
    ip.tcp(41_000, port).seq(555).ack(777).flags(TcpFlags::ACK).build().to_vec()
}

/// A TCP session with the director's own kernel, as SSH or a monitoring agent has.
fn reaches_the_host(kernel: &'static str) {
    let site = Site::build(&plan(Layout::TwoSegments, kernel));
    let _listeners = [DIRECTOR4, DIRECTOR6].map(|address| {
        start_tcp(&site.director.space, at(address, 2222), |stream| {
            let _ = crate::servers::exchange(&stream, b"from the host", b"to the host");
        })
    });
    for address in [DIRECTOR4, DIRECTOR6] {
        let stream = site.client.enter(|| std::net::TcpStream::connect(at(address, 2222)).unwrap());
        stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        crate::servers::exchange(&stream, b"to the host", b"from the host").unwrap();
    }
    if kernel == "shared" {
        assert!(site.director.dropped("kernel_copy") > 0, "the kernel had its own copies");
    }
    // And outwards: the director's kernel as client, of the servers' side too.
    for rip in [&site.servers[0].rip4, &site.servers[0].rip6] {
        curl(&site.director.space, &web(rip)).unwrap();
    }
}

fn shared_forwards(layout: Layout) {
    let site = Site::build(&plan(layout, "shared"));
    for vip in [VIP4, VIP6] {
        curl(&site.client, &web(vip)).unwrap();
        let load = wrk(&site.client, &web(vip), 2, true);
        assert_eq!(load.failures, 0, "{}", load.text);
        assert!(load.requests > 100, "{}", load.text);
    }
}

/// BIRD in `space` with one BGP neighbour; it announces `route`.
fn start_bird(site: &Site, space: &Namespace, own: &str, peer: &str, route: &str) -> Process {
    let dir = site.lab.dir(&format!("bird-{own}"));
    let text = format!(
        "router id {own};\nprotocol device {{}}\n\
         protocol static {{ ipv4; route {route} blackhole; }}\n\
         protocol bgp b {{ local {own} as 65000; neighbor {peer} as 65000; hold time 6; \
         connect delay time 1; connect retry time 1; ipv4 {{ import all; export all; \
         next hop self; }}; }}\n"
    );
    fs::write(dir.join("bird.conf"), text).unwrap();
    let mut command = space.command("bird");
    command.arg("-f").arg("-c").arg(dir.join("bird.conf"));
    command.arg("-s").arg(dir.join("bird.ctl")).arg("-P").arg(dir.join("bird.pid"));
    space.start("bird", &mut command, &dir.join("bird.log"))
}

fn routes_of(site: &Site, own: &str) -> String {
    let control = site.lab.dir(&format!("bird-{own}")).join("bird.ctl");
    let output =
        std::process::Command::new("birdc").arg("-s").arg(control).args(["show", "route"]).output();
    output.map_or(String::new(), |output| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn bgp(kernel: &'static str) {
    let site = Site::build(&plan(Layout::TwoSegments, kernel));
    let vip = format!("{VIP4}/32");
    let _director = start_bird(&site, &site.director.space, DIRECTOR4, CLIENT4, &vip);
    let _router = start_bird(&site, &site.client, CLIENT4, DIRECTOR4, "198.51.100.0/24");
    let learned = || {
        routes_of(&site, CLIENT4).contains(&vip)
            && routes_of(&site, DIRECTOR4).contains("198.51.100.0/24")
    };
    wait_for("both BIRDs to learn the other's route", 20, || learned().then_some(()));
    // Longer than the hold time: keep-alives must pass beside the load.
    let load = wrk(&site.client, &web(VIP4), 8, true);
    assert_eq!(load.failures, 0, "{}", load.text);
    assert!(load.requests > 100, "{}", load.text);
    assert!(learned(), "the session broke under load:\n{}", routes_of(&site, CLIENT4));
}
