//! Direct route and FULLNAT, TCP and UDP, IPv4 and IPv6, and how servers learn the client.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use serde_json::json;

use crate::Case;
use crate::lab::wait_for;
use crate::link::{ACK, Capture, Packet, SYN};
use crate::servers::{
    BIG_BYTES, HAPROXY_PROXY, HTTP, HTTP_PROXY, at, start_banner, start_haproxy, start_udp_echo,
};
use crate::site::{
    CLIENT4, CLIENT6, LIP4, LIP6, Layout, Plan, Site, VIP4, VIP6, curl, curl_many, service, spread,
    url, web, wrk,
};

pub const CASES: &[Case] = &[
    ("dr_tcp", || http(Layout::OneSegment)),
    ("dr_udp", || udp(Layout::OneSegment)),
    ("fullnat_tcp", || http(Layout::TwoSegments)),
    ("fullnat_udp", || udp(Layout::TwoSegments)),
    ("dr_replies_bypass_the_director", dr_replies_bypass_the_director),
    ("load_meets_no_failure_with_two_workers", load_meets_no_failure_with_two_workers),
    (
        "a_port_with_one_queue_is_shared_by_two_workers",
        a_port_with_one_queue_is_shared_by_two_workers,
    ),
    ("a_bond_carries_a_port", a_bond_carries_a_port),
    ("proxy_v1_reaches_nginx", || proxy("proxy-v1", HTTP_PROXY)),
    ("proxy_v2_reaches_nginx", || proxy("proxy-v2", HTTP_PROXY)),
    ("proxy_v1_reaches_haproxy", || proxy("proxy-v1", HAPROXY_PROXY)),
    ("proxy_v2_reaches_haproxy", || proxy("proxy-v2", HAPROXY_PROXY)),
    ("proxy_reaches_a_server_that_speaks_first", proxy_reaches_a_server_that_speaks_first),
    ("toa_is_on_the_wire", toa_is_on_the_wire),
    ("source_ports_come_round", source_ports_come_round),
];

fn http(layout: Layout) {
    let services = [VIP4, VIP6].map(|vip| service(layout, "tcp", vip, (HTTP, HTTP), ""));
    let site = Site::build(&Plan::new(layout, services.concat()));
    for vip in [VIP4, VIP6] {
        let bodies = curl_many(&site.client, &web(vip), 9);
        let shares = spread(&bodies, &site.servers);
        assert_eq!(shares.iter().sum::<usize>(), 9, "{bodies:?}");
        assert!(shares.iter().all(|share| *share > 0), "two workers' rr: {shares:?}");
        let url = format!("{}big", web(vip));
        let size =
            site.client.run("curl", &["-gsS", "-o", "/dev/null", "-w", "%{size_download}", &url]);
        assert_eq!(size, BIG_BYTES.to_string());
    }
    for server in &site.servers {
        let requests = server.nginx.requests();
        let clients = if layout == Layout::OneSegment { [CLIENT4, CLIENT6] } else { [LIP4, LIP6] };
        assert!(requests.iter().all(|r| r.status == 200), "{requests:?}");
        assert!(requests.iter().all(|r| clients.contains(&&*r.remote)), "{requests:?}");
        assert!(clients.iter().all(|c| requests.iter().any(|r| r.remote == *c)), "{requests:?}");
    }
}

fn udp(layout: Layout) {
    let services = [VIP4, VIP6].map(|vip| service(layout, "udp", vip, (5353, 5353), ""));
    let site = Site::build(&Plan::new(layout, services.concat()));
    let mut echoes = Vec::new();
    for server in &site.servers {
        let own = [&*server.rip4, &*server.rip6];
        let addresses = if layout == Layout::OneSegment { [VIP4, VIP6] } else { own };
        for address in addresses {
            echoes.push(start_udp_echo(&server.space, &server.name, at(address, 5353)));
        }
    }
    for (vip, local) in [(VIP4, CLIENT4), (VIP6, CLIENT6)] {
        let mut names: Vec<_> = (0..9).map(|n| ask_udp(&site, local, vip, n)).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 3, "{vip}: servers that answered: {names:?}");
    }
    // One flow keeps its server.
    let again: Vec<_> = site.client.enter(|| {
        let socket = udp_socket(CLIENT4, VIP4);
        (0..5).map(|n| ask(&socket, n)).collect()
    });
    assert!(again.iter().all(|name| *name == again[0]), "{again:?}");
    much_by_fragments(&site);
}

/// Fragments, there and back: the kernels of both ends put them together. Over af_packet with
/// several queues IPv4's never come: the kernel's fanout reassembles them into a frame that no
/// buffer holds, which is a counted drop.
fn much_by_fragments(site: &Site) {
    let answer = site.client.enter(|| ask_much(&udp_socket(CLIENT6, VIP6)));
    let (sent, echoed) = answer.unwrap_or_else(|| {
        let (drops, hand_offs) = (site.director.drops(), site.director.hand_offs());
        panic!("no answer to 60 kB; drops {drops:?}, hand-offs {hand_offs:?}")
    });
    assert!(echoed.ends_with(&sent), "{} bytes of {}", echoed.len(), sent.len());
    let before = site.director.dropped("truncated");
    site.client.enter(|| udp_socket(CLIENT4, VIP4).send(&sent)).unwrap();
    wait_for("the oversized frame to be counted", 5, || {
        (site.director.dropped("truncated") > before).then_some(())
    });
}

/// Sends a datagram of 60 kB and returns it with the answer; asks again if a piece was lost.
fn ask_much(socket: &UdpSocket) -> Option<(Vec<u8>, Vec<u8>)> {
    let sent: Vec<u8> = (0..60_000u32).map(|n| (n * 31 / 32) as u8).collect();
    let mut buffer = vec![0; 1 << 16];
    let answer = (0..3).find_map(|_| {
        socket.send(&sent).unwrap();
        socket.recv(&mut buffer).ok()
    });
    buffer.truncate(answer?);
    Some((sent, buffer))
}

fn udp_socket(local: &str, vip: &str) -> UdpSocket {
    let socket = UdpSocket::bind(at(local, 0)).unwrap();
    socket.connect(at(vip, 5353)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    socket
}

fn ask(socket: &UdpSocket, n: usize) -> String {
    socket.send(format!("question {n}").as_bytes()).unwrap();
    let mut buffer = [0; 100];
    let len = socket.recv(&mut buffer).unwrap_or_else(|error| {
        panic!("{:?} to {:?}, question {n}: {error}", socket.local_addr(), socket.peer_addr())
    });
    let text = String::from_utf8_lossy(&buffer[..len]).into_owned();
    let (name, rest) = text.split_once(' ').unwrap();
    assert_eq!(rest, format!("question {n}"));
    name.to_string()
}

fn ask_udp(site: &Site, local: &str, vip: &str, n: usize) -> String {
    site.client.enter(|| ask(&udp_socket(local, vip), n))
}

fn dr_replies_bypass_the_director() {
    let layout = Layout::OneSegment;
    let services = service(layout, "tcp", VIP4, (HTTP, HTTP), "");
    let site = Site::build(&Plan::new(layout, services));
    let at_client = Capture::start(&site.client, "eth0");
    let at_director = Capture::start(&site.director.space, "wan0");
    let at_servers: Vec<_> =
        site.servers.iter().map(|server| Capture::start(&server.space, "eth0")).collect();
    curl(&site.client, &web(VIP4)).unwrap();
    let servers: Vec<_> = site.servers.iter().map(|server| server.space.mac("eth0")).collect();
    let vip = at(VIP4, HTTP);
    let replies: Vec<_> = at_client.packets().into_iter().filter(|p| p.src == vip).collect();
    assert!(replies.len() >= 3, "{replies:?}");
    assert!(replies.iter().all(|packet| servers.contains(&packet.src_mac)), "{replies:?}");
    let seen = at_director.packets();
    assert!(seen.iter().all(|packet| packet.src != vip), "a reply went through the director");
    // Only the MAC addresses change on the way to the server: TTL too stays.
    let director = site.director.space.mac("wan0");
    let all = at_servers.iter().flat_map(Capture::packets);
    let forwarded: Vec<_> = all.filter(|packet| packet.dst == vip).collect();
    assert!(forwarded.len() >= 3, "{forwarded:?}");
    assert!(forwarded.iter().all(|p| p.ttl == 64 && p.src_mac == director), "{forwarded:?}");
    assert!(forwarded.iter().all(|packet| servers.contains(&packet.dst_mac)), "{forwarded:?}");
}

/// Ports with one queue: worker 1 gets every frame from worker 0, and gives every one back to it
/// to be sent.
fn a_port_with_one_queue_is_shared_by_two_workers() {
    let services = service(Layout::TwoSegments, "tcp", VIP4, (HTTP, HTTP), "");
    let site = Site::build(&Plan { queues: Some(1), ..Plan::new(Layout::TwoSegments, services) });
    for close in [true, false] {
        let load = wrk(&site.client, &web(VIP4), 3, close);
        assert_eq!(load.failures, 0, "{}", load.text);
        assert!(load.requests > 100, "{}", load.text);
    }
    let workers = site.director.call("workers.list", json!({}));
    let created = |at: usize| workers["workers"][at]["flows_created"].as_u64().unwrap();
    assert!(created(0) > 10 && created(1) > 10, "{workers}");
    let hand_offs = site.director.hand_offs();
    assert!(hand_offs["flow"] > 0 && hand_offs["reply"] > 0, "{hand_offs:?}");
    assert!(hand_offs["transmit"] > hand_offs["reply"], "{hand_offs:?}");
    assert_eq!(site.director.dropped("hand_off_full"), 0);
}

/// Two kernel interfaces bonded by DPDK, the first one active.
fn a_bond_carries_a_port() {
    let services =
        [VIP4, VIP6].map(|vip| service(Layout::TwoSegments, "tcp", vip, (HTTP, HTTP), ""));
    let plan = Plan::new(Layout::TwoSegments, services.concat());
    let mut site = Site::build(&Plan { is_bonded: true, ..plan });
    for vip in [VIP4, VIP6] {
        curl(&site.client, &web(vip)).unwrap();
        let load = wrk(&site.client, &web(vip), 2, true);
        assert_eq!(load.failures, 0, "{}", load.text);
    }
    let ports = site.director.call("ports.list", json!({}));
    assert_eq!(ports["ports"][0]["driver"], "net_bonding", "{ports}");
    assert_eq!(ports["ports"][0]["rx_queues"], 2, "{ports}");
    // The kernel hears nothing by either interface below.
    let rules = site.director.space.run("nft", &["list", "ruleset"]);
    assert!(rules.contains("\"wan0\"") && rules.contains("\"wan1\""), "{rules}");
    assert_eq!(site.director.stop(), Some(0), "{}", site.director.said());
}

fn load_meets_no_failure_with_two_workers() {
    let layout = Layout::TwoSegments;
    let services = service(layout, "tcp", VIP4, (HTTP, HTTP), "");
    let site = Site::build(&Plan::new(layout, services));
    for close in [false, true] {
        let load = wrk(&site.client, &web(VIP4), 3, close);
        assert_eq!(load.failures, 0, "{}", load.text);
        assert!(load.requests > 100, "{}", load.text);
    }
    // af_packet's queues know nothing of our hash: about half the frames change workers.
    let hand_offs = site.director.hand_offs();
    assert!(hand_offs.get("reply").is_some_and(|n| *n > 0), "{hand_offs:?}");
    let drops = site.director.drops();
    for reason in ["hand_off_full", "outbox_full", "internal", "no_source_port", "table_full"] {
        assert_eq!(drops.get(reason), None, "{drops:?}");
    }
}

fn proxy(client_address: &str, rport: u16) {
    let layout = Layout::TwoSegments;
    let extra = format!("client_address = {client_address:?}\n");
    let services = [VIP4, VIP6].map(|vip| service(layout, "tcp", vip, (HTTP, rport), &extra));
    let site = Site::build(&Plan::new(layout, services.concat()));
    let _receivers: Vec<_> = site
        .servers
        .iter()
        .filter(|_| rport == HAPROXY_PROXY)
        .map(|server| start_haproxy(&site.lab, &server.space, &format!("haproxy-{}", server.name)))
        .collect();
    for (vip, client) in [(VIP4, CLIENT4), (VIP6, CLIENT6)] {
        let (body, src_port) = curl_with_port(&site, &web(vip));
        assert!(body.ends_with(&format!("{client} {src_port}")), "{body:?} from port {src_port}");
        // A request line that fills its segment: the header has to go in one of its own.
        let long = format!("{}?{}", web(vip), "x".repeat(3000));
        let body = curl(&site.client, &long).unwrap();
        assert!(body.contains(client), "{body:?}");
    }
    if rport == HTTP_PROXY {
        let all: Vec<_> = site.servers.iter().flat_map(|s| s.nginx.requests()).collect();
        assert_eq!(all.len(), 4, "{all:?}");
        assert!(all.iter().all(|r| [CLIENT4, CLIENT6].contains(&&*r.proxied)), "{all:?}");
    }
}

/// The body, and the port that curl sent from.
fn curl_with_port(site: &Site, url: &str) -> (String, String) {
    let text = site.client.run("curl", &["-gsS", "--max-time", "8", "-w", "%{local_port}", url]);
    let (body, port) = text.split_once('\n').unwrap();
    (body.to_string(), port.to_string())
}

fn proxy_reaches_a_server_that_speaks_first() {
    let layout = Layout::TwoSegments;
    let extra = "client_address = \"proxy-v1\"\n";
    let services = service(layout, "tcp", VIP4, (25, 2525), extra);
    let site = Site::build(&Plan::new(layout, services));
    let _banners: Vec<_> = site
        .servers
        .iter()
        .map(|server| start_banner(&server.space, &server.name, at(&server.rip4, 2525)))
        .collect();
    for _ in 0..3 {
        let (greeting, farewell) = site.client.enter(|| talk(at(VIP4, 25)));
        assert!(greeting.starts_with("220 server"), "{greeting:?}");
        assert!(greeting.trim_end().ends_with(&format!("greets {CLIENT4}")), "{greeting:?}");
        assert_eq!(farewell, "221 bye\r\n");
    }
}

/// Says nothing until it has been greeted.
fn talk(address: SocketAddr) -> (String, String) {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut greeting, mut farewell) = (String::new(), String::new());
    reader.read_line(&mut greeting).unwrap();
    stream.write_all(b"QUIT\r\n").unwrap();
    reader.read_line(&mut farewell).unwrap();
    (greeting, farewell)
}

fn toa_is_on_the_wire() {
    let layout = Layout::TwoSegments;
    let extra = "client_address = \"toa\"\n";
    let services = [VIP4, VIP6].map(|vip| service(layout, "tcp", vip, (HTTP, HTTP), extra));
    let site = Site::build(&Plan { servers: 3, ..Plan::new(layout, services.concat()) });
    let captures: Vec<_> =
        site.servers.iter().map(|server| Capture::start(&server.space, "eth0")).collect();
    for (vip, client, lip) in [(VIP4, CLIENT4, LIP4), (VIP6, CLIENT6, LIP6)] {
        let (_, src_port) = curl_with_port(&site, &web(vip));
        let client = at(client, src_port.parse().unwrap());
        let mut seen: Vec<Packet> = captures.iter().flat_map(Capture::packets).collect();
        seen.retain(|packet| packet.protocol == 6 && packet.src.ip() == at(lip, 0).ip());
        check_toa(&seen, client);
    }
}

/// RFC-less option 254 (Alibaba's TOA): port, then address, in network order.
fn check_toa(from_lip: &[Packet], client: SocketAddr) {
    let mut value = client.port().to_be_bytes().to_vec();
    match client.ip() {
        std::net::IpAddr::V4(v4) => value.extend_from_slice(&v4.octets()),
        std::net::IpAddr::V6(v6) => value.extend_from_slice(&v6.octets()),
    }
    let syn = from_lip.iter().find(|packet| packet.is_tcp(SYN)).expect("no SYN at any server");
    assert_eq!(syn.option(254), None, "the option is not on the SYN unless asked for");
    let mss = u16::from_be_bytes(syn.option(2).expect("MSS").try_into().unwrap());
    let (most, cost) = if client.is_ipv4() { (1460, 8) } else { (1440, 20) };
    assert_eq!(mss, most - cost, "MSS makes room for the option");
    let first_ack = from_lip.iter().find(|packet| packet.is_tcp(ACK)).expect("no ACK");
    assert_eq!(first_ack.option(254), Some(&value[..]), "{first_ack:?}");
    let data = from_lip.iter().find(|packet| !packet.payload.is_empty()).expect("no request");
    assert_eq!(data.option(254), Some(&value[..]), "{data:?}");
}

/// Servers in TIME_WAIT accept the next connection from the same port at once: 200 ports,
/// 1,500 connections without keep-alive, none refused.
fn source_ports_come_round() {
    let layout = Layout::TwoSegments;
    let services = service(layout, "tcp", VIP4, (HTTP, HTTP), "");
    let site = Site::build(&Plan { src_ports: (20_000, 20_199), ..Plan::new(layout, services) });
    let mut requests = 0;
    while requests < 1_500 {
        let load = wrk(&site.client, &url(VIP4, HTTP), 3, true);
        assert_eq!(load.failures, 0, "{}", load.text);
        assert!(load.requests > 100, "{}", load.text);
        requests += load.requests;
    }
    let stats = site.director.call("stats", serde_json::json!({}));
    let lips = stats["local_addresses"].as_array().unwrap();
    let lip = lips.iter().find(|row| row["address"] == LIP4).unwrap();
    assert!(lip["reused"].as_u64().unwrap() > 0, "{lip}");
    assert_eq!(lip["exhausted"], 0, "{lip}");
}
