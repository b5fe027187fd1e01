//! Frames that no honest host sends: each ends in a drop with its reason, and service goes on.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use gyre::wire::build::{IpBuilder, PacketBuilder};
use gyre::wire::ethernet::{EtherType, MacAddr};
use gyre::wire::tcp::TcpFlags;

use crate::Case;
use crate::director::{Config, Director, Port};
use crate::lab::{Lab, wait_for};
use crate::link::{Capture, inject};
use crate::servers::{HTTP, at};
use crate::site::{CLIENT4, Layout, Plan, Site, VIP4, curl, service, web};

pub const CASES: &[Case] = &[
    ("bad_frames_are_dropped_by_reason", bad_frames_are_dropped_by_reason),
    ("noise_does_no_harm", noise_does_no_harm),
    ("ttl_1_is_answered_by_time_exceeded", ttl_1_is_answered_by_time_exceeded),
    ("deny_and_limit_are_counted", deny_and_limit_are_counted),
    ("what_does_not_fit_is_counted", what_does_not_fit_is_counted),
];

fn v4(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

/// Where frames of a site's client go.
struct Way {
    client: MacAddr,
    director: MacAddr,
}

impl Way {
    fn of(site: &Site) -> Way {
        Way {
            client: MacAddr(site.client.mac("eth0")),
            director: MacAddr(site.director.space.mac("wan0")),
        }
    }

    fn link(&self) -> PacketBuilder {
        PacketBuilder::new().ethernet(self.client, self.director)
    }

    fn from(&self, src: &str) -> IpBuilder {
        self.link().ipv4(v4(src), v4(VIP4))
    }
}

fn syn(ip: IpBuilder) -> Vec<u8> {
    ip.tcp(40_000, HTTP).flags(TcpFlags::SYN).build().to_vec()
}

/// The reason that counts each frame. No fragments: af_packet's fanout has the kernel hold them.
fn bad_frames(path: &Way) -> Vec<(&'static str, Vec<u8>)> {
    let ip = || path.from(CLIENT4);
    let mut short_tcp = syn(ip());
    short_tcp[14 + 20 + 12] = 0x20; // data offset 2: below the header
    let mut version_6 = syn(ip());
    version_6[14] = 0x65;
    let mut header_length = syn(ip());
    header_length[14] = 0x44;
    let stranger = PacketBuilder::new().ethernet(path.client, MacAddr([2, 9, 9, 9, 9, 9]));
    vec![
        ("truncated", syn(ip())[..14 + 20 + 6].to_vec()),
        ("truncated", syn(ip().claim_length(400))),
        ("bad_ip_checksum", syn(ip().bad_ip_checksum())),
        ("bad_ip_version", version_6),
        ("bad_ip_header", header_length),
        ("bad_transport_header", short_tcp),
        ("martian_source", syn(path.from("127.0.0.1"))),
        ("martian_source", syn(path.from("224.0.0.9"))),
        ("martian_source", syn(path.from("255.255.255.255"))),
        ("not_for_us", syn(stranger.ipv4(v4(CLIENT4), v4(VIP4)))),
    ]
}

fn bad_frames_are_dropped_by_reason() {
    let layout = Layout::TwoSegments;
    let site = Site::build(&Plan::new(layout, service(layout, "tcp", VIP4, (HTTP, HTTP), "")));
    curl(&site.client, &web(VIP4)).unwrap();
    for (reason, frame) in bad_frames(&Way::of(&site)) {
        let before = site.director.dropped(reason);
        let frames = vec![frame; 5];
        inject(&site.client, "eth0", &frames);
        let what = format!("5 drops by `{reason}`; drops are {:?}", site.director.drops());
        wait_for(&what, 5, || (site.director.dropped(reason) >= before + 5).then_some(()));
    }
    curl(&site.client, &web(VIP4)).unwrap();
    assert_eq!(site.director.dropped("internal"), 0);
}

/// Mangled copies of real frames, and frames of noise.
fn noise_does_no_harm() {
    let layout = Layout::TwoSegments;
    let site = Site::build(&Plan::new(layout, service(layout, "tcp", VIP4, (HTTP, HTTP), "")));
    let path = Way::of(&site);
    let mut state = 7u64;
    let mut random = move || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    let frames: Vec<Vec<u8>> = (0..5_000)
        .map(|_| {
            let mut frame = syn(path.from(CLIENT4));
            for _ in 0..1 + random() % 6 {
                // Not the Ethernet addresses: the frame has to arrive.
                let at = 12 + random() % (frame.len() - 12);
                frame[at] = random() as u8;
            }
            frame.truncate(14 + random() % frame.len());
            frame
        })
        .collect();
    inject(&site.client, "eth0", &frames);
    std::thread::sleep(Duration::from_millis(300));
    assert!(curl(&site.client, &web(VIP4)).is_ok(), "{:?}", site.director.drops());
    assert_eq!(site.director.dropped("internal"), 0);
}

fn ttl_1_is_answered_by_time_exceeded() {
    let layout = Layout::TwoSegments;
    let services = service(layout, "tcp", VIP4, (HTTP, HTTP), "ttl = \"decrement\"\n");
    let site = Site::build(&Plan::new(layout, services));
    curl(&site.client, &web(VIP4)).unwrap();
    let capture = Capture::start(&site.client, "eth0");
    inject(&site.client, "eth0", &[syn(Way::of(&site).from(CLIENT4).ttl(1))]);
    wait_for("a time exceeded from the director", 5, || {
        let is_answer = |packet: &crate::link::Packet| {
            packet.protocol == 1 && packet.payload.starts_with(&[11, 0])
        };
        capture.packets().iter().any(is_answer).then_some(())
    });
    assert!(site.director.dropped("ttl_expired") > 0, "{:?}", site.director.drops());
}

/// A capture file of these frames (libpcap's classic format).
fn write_pcap(path: &Path, frames: &[Vec<u8>]) {
    let mut bytes = Vec::new();
    for word in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65_535, 1] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    for frame in frames {
        for word in [0, 0, frame.len() as u32, frame.len() as u32] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(frame);
    }
    std::fs::write(path, bytes).unwrap();
}

/// A port that repeats a frame for the kernel faster than any TAP takes it, and one that brings a
/// frame larger than a buffer.
fn what_does_not_fit_is_counted() {
    let mut lab = Lab::new();
    let space = lab.namespace("director");
    let dir = lab.dir("captures");
    let (for_kernel, jumbo) = (dir.join("for-kernel.pcap"), dir.join("jumbo.pcap"));
    let link = PacketBuilder::new().ethernet(MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([0xff; 6]));
    write_pcap(&for_kernel, &[link.raw(EtherType(0x88cc), &[0; 60]).to_vec()]);
    write_pcap(&jumbo, &[link.raw(EtherType::IPV4, &[0; 9000]).to_vec()]);
    let port = |name, device, kernel| Port {
        name,
        device,
        kernel,
        addresses: Vec::new(),
        more: String::new(),
    };
    let config = Config {
        ports: vec![
            port(
                "fast",
                format!("net_pcap0,rx_pcap={},infinite_rx=1", for_kernel.display()),
                "tap",
            ),
            port("large", format!("net_pcap1,rx_pcap={}", jumbo.display()), "none"),
        ],
        workers: 1,
        pools: String::new(),
        services: String::new(),
    };
    let director = Director::start(&lab, &space, &config);
    wait_for("a full ring to the kernel and a frame in pieces", 10, || {
        let (full, pieces) = (director.dropped("kernel_ring_full"), director.dropped("chained"));
        (full > 0 && pieces == 1).then_some(())
    });
}

fn deny_and_limit_are_counted() {
    let layout = Layout::TwoSegments;
    let denied =
        service(layout, "tcp", VIP4, (HTTP, HTTP), &format!("deny = [\"{CLIENT4}/32\"]\n"));
    let limited = service(layout, "tcp", VIP4, (8000, HTTP), "connections_max = 4\n");
    let site = Site::build(&Plan { workers: 1, ..Plan::new(layout, denied + &limited) });
    assert!(curl(&site.client, &format!("{}?", web(VIP4))).is_err());
    assert!(site.director.dropped("denied") > 0, "{:?}", site.director.drops());
    let open = || {
        site.client
            .enter(|| std::net::TcpStream::connect_timeout(&at(VIP4, 8000), Duration::from_secs(1)))
    };
    let kept: Vec<_> = (0..4).map(|_| open().unwrap()).collect();
    assert!(open().is_err(), "a fifth connection");
    assert!(site.director.dropped("service_connections_max") > 0);
    drop(kept);
}
