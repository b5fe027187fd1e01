//! A site for any forwarding mode: one client, a director with two ports, one real server that
//! answers through the director or past it, and what the server runs: nginx, iperf3, a UDP echo,
//! the far end of tunnels.
//!
//! The director's ports are `net_af_packet`, whose fanout has the kernel put fragments together
//! before gyre sees them, or `net_tap`, which brings each fragment as it was sent.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::director::{Config, Director, Port};
use crate::lab::{Lab, Namespace, Process, wait_for};
use crate::servers::{HTTP, Nginx, ThreadServer, at, pattern, start_udp_echo};
use crate::site::{CLIENT4, CLIENT6, DIRECTOR4, DIRECTOR6, LIP4, LIP6};

/// The server's addresses, and those it has behind a router.
pub const RIP4: &str = "10.2.0.11";
pub const RIP6: &str = "fd00:2::11";
pub const FAR_RIP4: &str = "10.3.0.11";
pub const FAR_RIP6: &str = "fd00:3::11";
/// iperf3's own port, for TCP and UDP.
pub const IPERF: u16 = 5201;
/// The UDP echo's.
pub const ECHO: u16 = 5353;
/// GUE's, which is gyre's default and Linux's.
const GUE: &str = "6080";
/// What the server is named, and its answers begin with.
const NAME: &str = "server1";

/// What drives the director's ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    AfPacket,
    Tap,
}

/// Which way the server's answers take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Back {
    /// The director is the server's router.
    ThroughDirector,
    /// The server has the VIPs and a leg on the client's link.
    PastDirector,
}

/// What lies between the director and the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Between {
    /// One link.
    Link,
    /// One link, whose end at the director has this MTU.
    NarrowLink(u16),
    /// A router, and behind it a link with this MTU.
    Router(u16),
}

/// What of a field tests vary.
pub struct Plan {
    pub driver: Driver,
    pub back: Back,
    pub between: Between,
    /// `[[service]]` tables.
    pub services: String,
    /// Addresses of services, for a server that has them itself.
    pub vips: Vec<String>,
}

/// The whole of it. Fields drop in this order: processes before the laboratory.
pub struct Field {
    pub director: Director,
    pub nginx: Nginx,
    tunnel_end: Option<Process>,
    _programs: Vec<Process>,
    _echoes: Vec<ThreadServer>,
    pub server: Namespace,
    pub client: Namespace,
    pub lab: Lab,
}

/// A `[[service]]` with one server.
pub fn service(protocol: &str, virtual_end: SocketAddr, server: SocketAddr, extra: &str) -> String {
    format!(
        "[[service]]\naddress = \"{virtual_end}\"\nprotocol = \"{protocol}\"\n{extra}\n\
         [[service.server]]\naddress = \"{server}\"\n\n"
    )
}

/// HTTP, iperf3 and echo at `vip`, virtual ports `shift` above the server's.
pub fn all_services((vip, rip): (&str, &str), shift: u16, extra: &str) -> String {
    [("tcp", HTTP), ("tcp", IPERF), ("udp", IPERF), ("udp", ECHO)]
        .map(|(protocol, port)| service(protocol, at(vip, port + shift), at(rip, port), extra))
        .concat()
}

fn with_prefix(address: &str) -> String {
    format!("{address}/{}", if address.contains(':') { 64 } else { 24 })
}

fn add_addresses(space: &Namespace, interface: &str, addresses: &[&str]) {
    for address in addresses {
        let nodad = if address.contains(':') { " nodad" } else { "" };
        space.ip(&format!("addr add {} dev {interface}{nodad}", with_prefix(address)));
    }
}

impl Field {
    /// Builds everything; `at_server` are the addresses that the server's programs answer from.
    pub fn build(plan: &Plan, at_server: &[&str]) -> Field {
        let mut lab = Lab::new();
        let (wan, lan) = (lab.named_switch("wan"), lab.named_switch("lan"));
        let [client, space, server] = ["client", "director", NAME].map(|n| lab.namespace(n));
        lab.plug(&client, "eth0", &wan);
        add_addresses(&client, "eth0", &[CLIENT4, CLIENT6]);
        lab.plug(&space, "wan0", &wan);
        lab.plug(&space, "lan0", &lan);
        if let Between::NarrowLink(mtu) = plan.between {
            space.ip(&format!("link set dev lan0 mtu {mtu}"));
        }
        join_server(&mut lab, plan, &server, &lan);
        if plan.back == Back::PastDirector {
            take_vips(&lab, plan, &server, &wan);
        }
        let director = Director::start(&lab, &space, &director_config(plan));
        finish_director(plan, &space);
        Self::furnish(lab, director, (client, server), at_server)
    }

    /// As `build` without a server: the director's own host serves.
    pub fn build_local(plan: &Plan, vips: &[&str]) -> Field {
        let mut lab = Lab::new();
        let (wan, lan) = (lab.named_switch("wan"), lab.named_switch("lan"));
        let [client, space] = ["client", "director"].map(|n| lab.namespace(n));
        lab.plug(&client, "eth0", &wan);
        add_addresses(&client, "eth0", &[CLIENT4, CLIENT6]);
        lab.plug(&space, "wan0", &wan);
        lab.plug(&space, "lan0", &lan);
        let director = Director::start(&lab, &space, &director_config(plan));
        finish_director(plan, &space);
        Self::furnish(lab, director, (client, space), vips)
    }

    /// Starts what the server runs.
    fn furnish(
        lab: Lab,
        director: Director,
        (client, server): (Namespace, Namespace),
        at_server: &[&str],
    ) -> Field {
        let nginx = Nginx::start(&lab, &server, NAME);
        let _programs =
            at_server.iter().map(|address| start_iperf(&lab, &server, address)).collect();
        let _echoes = at_server
            .iter()
            .map(|address| start_udp_echo(&server, NAME, at(address, ECHO)))
            .collect();
        Field { director, nginx, tunnel_end: None, _programs, _echoes, server, client, lab }
    }

    /// Starts the far end of tunnels in the server's namespace.
    pub fn end_tunnels(&mut self) {
        let log = self.lab.dir("decapsulate").join("output");
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/netns/decapsulate.py");
        let mut command = self.server.command("/usr/bin/python3");
        command.arg(program).args(["tun0", GUE]);
        let process = self.server.start("decapsulate.py", &mut command, &log);
        wait_for("the tunnels' far end", 10, || process.said().contains("listening").then_some(()));
        self.server.ip("link set dev tun0 mtu 65535 up");
        self.tunnel_end = Some(process);
    }

    /// What the tunnels' far end said: each kind of tunnel seen, each packet refused.
    pub fn tunnels(&self) -> String {
        self.tunnel_end.as_ref().map_or(String::new(), Process::said)
    }
}

/// The server's links and routes.
fn join_server(lab: &mut Lab, plan: &Plan, server: &Namespace, lan: &Namespace) {
    let (gateways, rips) = match plan.between {
        Between::Link | Between::NarrowLink(_) => {
            lab.plug(server, "eth0", lan);
            (["10.2.0.1", "fd00:2::1"], [RIP4, RIP6])
        }
        Between::Router(mtu) => {
            let router = lab.namespace("router");
            lab.plug(&router, "eth0", lan);
            add_addresses(&router, "eth0", &["10.2.0.9", "fd00:2::9"]);
            lab.cable((&router, "eth1"), (server, "eth0"));
            add_addresses(&router, "eth1", &["10.3.0.1", "fd00:3::1"]);
            router.ip(&format!("link set dev eth1 mtu {mtu}"));
            router.sysctl("net/ipv4/ip_forward", "1");
            router.sysctl("net/ipv6/conf/all/forwarding", "1");
            router.ip("route add default via 10.2.0.1");
            router.ip("route add default via fd00:2::1");
            (["10.3.0.1", "fd00:3::1"], [FAR_RIP4, FAR_RIP6])
        }
    };
    add_addresses(server, "eth0", &rips);
    for gateway in gateways {
        server.ip(&format!("route add default via {gateway}"));
    }
}

/// The VIPs without telling anybody, and a leg on the client's link.
fn take_vips(lab: &Lab, plan: &Plan, server: &Namespace, wan: &Namespace) {
    server.sysctl("net/ipv4/conf/all/arp_ignore", "1");
    server.sysctl("net/ipv4/conf/all/arp_announce", "2");
    for vip in &plan.vips {
        let host = if vip.contains(':') { "128 dev lo nodad" } else { "32 dev lo" };
        server.ip(&format!("addr add {vip}/{host}"));
    }
    lab.plug(server, "eth1", wan);
    add_addresses(server, "eth1", &["10.1.0.21", "fd00:1::21"]);
}

fn director_config(plan: &Plan) -> Config {
    let port = |name: &'static str, number: usize, addresses: [&str; 2]| Port {
        name,
        device: match plan.driver {
            Driver::AfPacket => format!("net_af_packet_{name},iface={name}0"),
            Driver::Tap => format!("net_tap{number},iface={name}t"),
        },
        kernel: "tap",
        addresses: addresses.map(with_prefix).to_vec(),
        more: String::new(),
    };
    let pools = format!("pool = {{ port = \"lan\", addresses = [{LIP4:?}, {LIP6:?}] }}");
    Config {
        ports: vec![
            port("wan", 0, [DIRECTOR4, DIRECTOR6]),
            port("lan", 1, ["10.2.0.1", "fd00:2::1"]),
        ],
        workers: 2,
        pools,
        services: plan.services.clone(),
    }
}

/// Routes to a far server; bridges that join `net_tap`'s interfaces to the links.
fn finish_director(plan: &Plan, space: &Namespace) {
    if plan.driver == Driver::Tap {
        join_tap(space, "wan");
        join_tap(space, "lan");
    }
    if matches!(plan.between, Between::Router(_)) {
        space.ip("route add 10.3.0.0/24 via 10.2.0.9 dev lan");
        space.ip("route add fd00:3::/64 via fd00:2::9 dev lan");
    }
}

/// A bridge of the TAP behind port `name` and its link. The namespace's kernel owns the bridge but
/// must not speak on it: its own interface is gyre's TAP.
fn join_tap(space: &Namespace, name: &str) {
    let bridge = format!("br-{name}");
    space.ip(&format!("link add {bridge} type bridge forward_delay 0 mcast_snooping 0"));
    space.sysctl(&format!("net/ipv4/conf/{bridge}/arp_ignore"), "8");
    // The TAP has the port's MAC address, which a bridge would keep to itself.
    let mac = if name == "wan" { "02:00:00:00:7a:01" } else { "02:00:00:00:7a:02" };
    space.ip(&format!("link set dev {name}t address {mac}"));
    for member in [format!("{name}t"), format!("{name}0")] {
        space.sysctl(&format!("net/ipv6/conf/{member}/disable_ipv6"), "1");
        space.ip(&format!("link set dev {member} master {bridge}"));
        space.ip(&format!("link set dev {member} up"));
    }
    space.sysctl(&format!("net/ipv6/conf/{bridge}/disable_ipv6"), "1");
    space.ip(&format!("link set dev {bridge} up"));
}

fn start_iperf(lab: &Lab, space: &Namespace, address: &str) -> Process {
    let log = lab.dir("iperf3").join(address.replace(':', "-"));
    let mut command = space.command("iperf3");
    command.args(["-s", "--forceflush", "-p", &IPERF.to_string(), "-B", address]);
    let process = space.start("iperf3", &mut command, &log);
    wait_for("iperf3 to listen", 10, || process.said().contains("Server listening").then_some(()));
    process
}

/// What iperf3's client got through, as its receiving end counted: bytes, and datagrams lost of
/// those sent.
#[derive(Debug)]
pub struct Through {
    pub bytes: u64,
    pub lost: u64,
    pub sent: u64,
}

/// Runs iperf3 from the client to `to` with further arguments.
pub fn iperf(field: &Field, to: SocketAddr, arguments: &[&str]) -> Through {
    let (vip, port) = (to.ip().to_string(), to.port().to_string());
    let mut all = vec!["20", "iperf3", "-J", "-c", &vip, "-p", &port, "--connect-timeout", "4000"];
    all.extend(arguments);
    let output = field.client.output("timeout", &all);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let report: Value = serde_json::from_str(&text).unwrap_or_default();
    let sum = |name: &str| &report["end"][name];
    let received = if sum("sum_received").is_object() { "sum_received" } else { "sum" };
    let error = &report["error"];
    assert!(output.status.success() && error.is_null(), "{to} {arguments:?}: {error} {text}");
    let number = |member: &str| sum(received)[member].as_u64().unwrap_or(0);
    Through { bytes: number("bytes"), lost: number("lost_packets"), sent: number("packets") }
}

/// Sends one datagram of `bytes` to the echo at `to`, which must come back whole; three attempts,
/// since no one repeats what a full queue lost.
pub fn echo_datagram(field: &Field, to: SocketAddr, bytes: usize) {
    let question = pattern(bytes as u64, bytes);
    let got = field.client.enter(|| {
        let local = if to.is_ipv4() { CLIENT4 } else { CLIENT6 };
        let socket = UdpSocket::bind(at(local, 0)).unwrap();
        socket.connect(to).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let mut buffer = vec![0; 65_536];
        (0..3).find_map(|_| {
            socket.send(&question).unwrap();
            let len = socket.recv(&mut buffer).ok()?;
            Some(buffer[..len].to_vec())
        })
    });
    let got = got.unwrap_or_else(|| {
        panic!("no echo of {bytes} bytes from {to}; drops {:?}", field.director.drops())
    });
    assert!(got.starts_with(format!("{NAME} ").as_bytes()), "{:?}", &got[..got.len().min(20)]);
    assert!(got[NAME.len() + 1..] == question[..], "{to}: {} bytes came back", got.len());
}
