//! SYN cookies: real clients are served, floods end at the director, refusals come through.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use gyre::wire::build::PacketBuilder;
use gyre::wire::ethernet::MacAddr;
use gyre::wire::tcp::{TcpFlags, TcpOption};

use crate::Case;
use crate::lab::Namespace;
use crate::link::{Capture, RawPort, SYN};
use crate::servers::{BIG_BYTES, HTTP, HTTP_PROXY, at};
use crate::site::{
    CLIENT4, CLIENT6, Layout, Plan, Site, VIP4, VIP6, curl, curl_many, service, spread, url, web,
    wrk,
};

pub const CASES: &[Case] = &[
    ("synproxy_serves_real_clients", synproxy_serves_real_clients),
    ("synproxy_by_nat_serves_real_clients", synproxy_by_nat_serves_real_clients),
    ("synproxy_with_proxy_header_and_toa", synproxy_with_proxy_header_and_toa),
    ("a_syn_flood_ends_at_the_director", a_syn_flood_ends_at_the_director),
    ("a_refusing_server_resets_a_proven_client", a_refusing_server_resets_a_proven_client),
];

fn guarded(extra: &str, rport: u16) -> Plan {
    let layout = Layout::TwoSegments;
    let extra = format!("synproxy = true\n{extra}");
    let services = [VIP4, VIP6].map(|vip| service(layout, "tcp", vip, (HTTP, rport), &extra));
    Plan::new(layout, services.concat())
}

/// The same by NAT: servers see clients' addresses, and their way back is the director.
fn guarded_by_nat() -> Plan {
    let plan = guarded("", HTTP);
    let services = plan.services.replace("local_addresses = \"pool\"\n", "");
    Plan { services: services.replace("\"fullnat\"", "\"nat\""), ..plan }
}

fn synproxy_serves_real_clients() {
    serves_real_clients(&Site::build(&guarded("", HTTP)));
}

fn synproxy_by_nat_serves_real_clients() {
    let site = Site::build(&guarded_by_nat());
    for server in &site.servers {
        server.space.ip("route add default via 10.2.0.1");
        server.space.ip("-6 route add default via fd00:2::1");
    }
    serves_real_clients(&site);
    let requests: Vec<_> = site.servers.iter().flat_map(|server| server.nginx.requests()).collect();
    for client in [CLIENT4, CLIENT6] {
        let count = requests.iter().filter(|request| request.remote == client).count();
        assert!(count >= 10, "{client}: {count} of {}", requests.len());
    }
    assert!(requests.iter().all(|request| [CLIENT4, CLIENT6].contains(&&*request.remote)));
}

fn serves_real_clients(site: &Site) {
    for vip in [VIP4, VIP6] {
        let bodies = curl_many(&site.client, &web(vip), 9);
        let shares = spread(&bodies, &site.servers);
        assert_eq!(shares.iter().sum::<usize>(), 9, "{bodies:?}");
        assert!(shares.iter().all(|share| *share > 0), "{shares:?}");
        let url = format!("{}big", web(vip));
        let size =
            site.client.run("curl", &["-gsS", "-o", "/dev/null", "-w", "%{size_download}", &url]);
        assert_eq!(size, BIG_BYTES.to_string());
    }
    for close in [false, true] {
        let load = wrk(&site.client, &web(VIP4), 3, close);
        assert_eq!(load.failures, 0, "{}", load.text);
        assert!(load.requests > 50, "{}", load.text);
    }
    assert!(site.director.replies()["syn_cookie"] >= 20, "{:?}", site.director.replies());
}

fn synproxy_with_proxy_header_and_toa() {
    let site = Site::build(&guarded("client_address = \"proxy-v2\"\n", HTTP_PROXY));
    let body = curl(&site.client, &web(VIP4)).unwrap();
    assert!(body.contains(CLIENT4), "{body:?}");
    drop(site);
    let site = Site::build(&guarded("client_address = \"toa\"\n", HTTP));
    let captures: Vec<_> =
        site.servers.iter().map(|server| Capture::start(&server.space, "eth0")).collect();
    curl(&site.client, &web(VIP4)).unwrap();
    let packets: Vec<_> = captures.iter().flat_map(Capture::packets).collect();
    let client: Ipv4Addr = CLIENT4.parse().unwrap();
    let told = packets.iter().filter_map(|packet| packet.option(254));
    assert!(told.into_iter().any(|value| value[2..] == client.octets()), "{packets:?}");
}

/// A SYN with the options that Linux sends.
fn spoofed_syn(n: u32, macs: (MacAddr, MacAddr)) -> Vec<u8> {
    let src = Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) | (n & 0xffff));
    let vip = match VIP4.parse().unwrap() {
        IpAddr::V4(vip) => vip,
        IpAddr::V6(_) => unreachable!(),
    };
    let frame = PacketBuilder::new()
        .ethernet(macs.0, macs.1)
        .ipv4(src, vip)
        .tcp(1024 + (n >> 16) as u16, HTTP)
        .seq(n.wrapping_mul(2_654_435_761))
        .flags(TcpFlags::SYN)
        .option(TcpOption::Mss(1460))
        .option(TcpOption::SackPermitted)
        .option(TcpOption::Timestamps { value: n, echo: 0 })
        .option(TcpOption::WindowScale(7))
        .build();
    frame.to_vec()
}

/// Sends spoofed SYNs, about 5,000 a second, until told to stop; how many.
fn flood(client: &Namespace, director: MacAddr, stop: &AtomicBool) -> u32 {
    let macs = (MacAddr(client.mac("eth0")), director);
    client.enter(|| {
        let port = RawPort::open("eth0", false);
        let mut sent = 0;
        while !stop.load(Ordering::Relaxed) && sent < 40_000 {
            for _ in 0..50 {
                port.send(&spoofed_syn(sent, macs));
                sent += 1;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        sent
    })
}

fn a_syn_flood_ends_at_the_director() {
    let plan = guarded("", HTTP);
    let site = Site::build(&plan);
    // Where the answers to the spoofed addresses go.
    let wan = Site::kernel_interface(&plan, "wan");
    site.director.space.ip(&format!("route add 198.18.0.0/15 via {CLIENT4} dev {wan}"));
    curl(&site.client, &web(VIP4)).unwrap();
    let captures: Vec<_> =
        site.servers.iter().map(|server| Capture::start(&server.space, "eth0")).collect();
    let director = MacAddr(site.director.space.mac("wan0"));
    let stop = AtomicBool::new(false);
    let (sent, load) = std::thread::scope(|scope| {
        let flooding = scope.spawn(|| flood(&site.client, director, &stop));
        let load = wrk(&site.client, &web(VIP4), 4, true);
        stop.store(true, Ordering::Relaxed);
        (flooding.join().unwrap(), load)
    });
    assert!(sent > 2_000, "only {sent} SYNs flooded");
    assert_eq!(load.failures, 0, "{}", load.text);
    assert!(load.requests > 50, "{}", load.text);
    let cookies = site.director.replies()["syn_cookie"];
    assert!(cookies > u64::from(sent) / 2, "{cookies} cookies for {sent} SYNs");
    // Servers hear of proven clients only.
    let syns = captures.iter().flat_map(Capture::packets).filter(|p| p.is_tcp(SYN)).count() as u64;
    assert!(syns <= load.requests + 40, "{syns} SYNs at the servers, {} requests", load.requests);
    let created = site.director.call("status", serde_json::json!({}))["flows_created"].as_u64();
    assert!(created.unwrap() <= load.requests + 40, "{created:?} flows made");
}

fn a_refusing_server_resets_a_proven_client() {
    let site = Site::build(&guarded("", 81));
    let error = site.client.enter(|| {
        let mut stream = TcpStream::connect(at(VIP4, HTTP)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        stream.read(&mut [0; 1]).unwrap_err()
    });
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    assert!(curl(&site.client, &url(VIP6, HTTP)).is_err());
    assert!(site.director.dropped("synproxy_server_refused") > 0, "{:?}", site.director.drops());
}
