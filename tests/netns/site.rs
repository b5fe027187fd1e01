//! The two sites that tests run in: hosts, links, addresses and stock servers around a director.
//!
//! One segment (direct route): client, director and servers on one switch, the VIP on every
//! server's loopback. Two segments (FULLNAT): the director between the client and the servers.

use std::net::SocketAddr;
use std::time::Duration;

use crate::director::{Config, Director, Port};
use crate::lab::{Lab, Namespace};
use crate::relay::{Line, Relay};
use crate::servers::{HTTP, Nginx};

/// The services' addresses.
pub const VIP4: &str = "10.1.0.80";
pub const VIP6: &str = "fd00:1::80";
/// The client's.
pub const CLIENT4: &str = "10.1.0.2";
pub const CLIENT6: &str = "fd00:1::2";
/// The director's on the client's side.
pub const DIRECTOR4: &str = "10.1.0.1";
pub const DIRECTOR6: &str = "fd00:1::1";
/// FULLNAT source addresses.
pub const LIP4: &str = "10.2.0.8";
pub const LIP6: &str = "fd00:2::8";

/// Where servers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    OneSegment,
    TwoSegments,
}

/// A real server's host.
pub struct Server {
    pub name: String,
    pub space: Namespace,
    pub rip4: String,
    pub rip6: String,
    pub nginx: Nginx,
}

/// A whole site. Fields drop in this order: processes before the laboratory.
pub struct Site {
    pub director: Director,
    pub servers: Vec<Server>,
    pub client: Namespace,
    pub relay: Option<Relay>,
    pub lab: Lab,
}

/// What of a site tests vary.
pub struct Plan {
    pub layout: Layout,
    pub servers: usize,
    pub workers: usize,
    /// `tap` or `shared`.
    pub kernel: &'static str,
    /// `[[service]]` tables.
    pub services: String,
    /// First and last source port of the pool.
    pub src_ports: (u16, u16),
    /// Queue pairs of each port; as many as workers unless given.
    pub queues: Option<u16>,
    /// Whether the client's side comes in by a bond of two interfaces, the first one active.
    pub is_bonded: bool,
    /// A slow and lossy line between the client and the director (two segments only).
    pub line: Option<Line>,
}

impl Plan {
    /// Three servers and two workers behind these services.
    pub fn new(layout: Layout, services: String) -> Plan {
        Plan {
            layout,
            servers: 3,
            workers: 2,
            kernel: "tap",
            services,
            src_ports: (1024, 65535),
            queues: None,
            is_bonded: false,
            line: None,
        }
    }
}

/// A `[[service]]` with servers 1 to 3 of the layout, rr unless `extra` says otherwise.
pub fn service(
    layout: Layout,
    protocol: &str,
    vip: &str,
    ports: (u16, u16),
    extra: &str,
) -> String {
    let (vport, rport) = ports;
    let mode = match layout {
        Layout::OneSegment => "dr",
        Layout::TwoSegments => "fullnat",
    };
    let mut text = format!(
        "[[service]]\naddress = \"{}\"\nprotocol = \"{protocol}\"\nforwarding = \"{mode}\"\n",
        SocketAddr::new(vip.parse().unwrap(), vport)
    );
    if !extra.contains("scheduler") {
        text += "scheduler = \"rr\"\n";
    }
    if layout == Layout::TwoSegments {
        text += "local_addresses = \"pool\"\n";
    }
    text += extra;
    for n in 1..=3 {
        let rip = rip(layout, vip.contains(':'), n);
        let endpoint = SocketAddr::new(rip.parse().unwrap(), rport);
        text += &format!("\n[[service.server]]\naddress = \"{endpoint}\"\n");
    }
    text + "\n"
}

/// The address of server `n`, from 1.
pub fn rip(layout: Layout, v6: bool, n: usize) -> String {
    let net = if layout == Layout::OneSegment { 1 } else { 2 };
    if v6 { format!("fd00:{net}::1{n}") } else { format!("10.{net}.0.1{n}") }
}

impl Site {
    /// Builds the site and starts everything.
    pub fn build(plan: &Plan) -> Site {
        let mut lab = Lab::new();
        let switch = lab.switch();
        let client = lab.namespace("client");
        let space = lab.namespace("director");
        let servers: Vec<_> =
            (1..=plan.servers).map(|n| start_server(&mut lab, &switch, plan.layout, n)).collect();
        let mut relay = None;
        match plan.layout {
            Layout::OneSegment => {
                lab.plug(&client, "eth0", &switch);
                lab.plug(&space, "wan0", &switch);
            }
            Layout::TwoSegments => {
                match plan.line {
                    None if plan.is_bonded => {
                        let both = lab.named_switch("wan-switch");
                        lab.plug(&client, "eth0", &both);
                        lab.plug(&space, "wan0", &both);
                        lab.plug(&space, "wan1", &both);
                    }
                    Some(line) => relay = Some(join_by_relay(&mut lab, &client, &space, line)),
                    None => lab.cable((&client, "eth0"), (&space, "wan0")),
                }
                lab.plug(&space, "lan0", &switch);
            }
        }
        client.ip(&format!("addr add {CLIENT4}/24 dev eth0"));
        client.ip(&format!("addr add {CLIENT6}/64 dev eth0 nodad"));
        let director = Director::start(&lab, &space, &director_config(plan));
        Site { director, servers, client, relay, lab }
    }

    /// The director's own interface on a port, as its kernel sees it.
    pub fn kernel_interface(plan: &Plan, port: &str) -> String {
        if plan.kernel == "tap" { port.into() } else { format!("{port}0") }
    }
}

fn join_by_relay(lab: &mut Lab, client: &Namespace, director: &Namespace, line: Line) -> Relay {
    let middle = lab.silent_namespace("middle");
    lab.cable((client, "eth0"), (&middle, "left"));
    lab.cable((director, "wan0"), (&middle, "right"));
    Relay::start(&middle, ("left", "right"), line)
}

fn start_server(lab: &mut Lab, switch: &Namespace, layout: Layout, n: usize) -> Server {
    let name = format!("server{n}");
    let space = lab.namespace(&name);
    lab.plug(&space, "eth0", switch);
    let (rip4, rip6) = (rip(layout, false, n), rip(layout, true, n));
    space.ip(&format!("addr add {rip4}/24 dev eth0"));
    space.ip(&format!("addr add {rip6}/64 dev eth0 nodad"));
    if layout == Layout::OneSegment {
        // The VIP without telling anybody: the director alone answers ARP for it.
        space.sysctl("net/ipv4/conf/all/arp_ignore", "1");
        space.sysctl("net/ipv4/conf/all/arp_announce", "2");
        space.ip(&format!("addr add {VIP4}/32 dev lo"));
        space.ip(&format!("addr add {VIP6}/128 dev lo nodad"));
    }
    let nginx = Nginx::start(lab, &space, &name);
    Server { name, space, rip4, rip6, nginx }
}

fn director_config(plan: &Plan) -> Config {
    let host = |address: &str| format!("{address}/{}", if address.contains(':') { 64 } else { 24 });
    let port = |name: &'static str, addresses: [&str; 2]| Port {
        name,
        device: format!("net_af_packet_{name},iface={name}0"),
        kernel: plan.kernel,
        addresses: addresses.map(host).to_vec(),
        more: plan.queues.map_or(String::new(), |queues| format!("queues = {queues}")),
    };
    let mut ports = vec![port("wan", [DIRECTOR4, DIRECTOR6])];
    if plan.is_bonded {
        ports[0].device = "net_bonding0,mode=1".into();
        ports[0].more +=
            "members = [\"net_af_packet_a,iface=wan0\", \"net_af_packet_b,iface=wan1\"]";
    }
    let mut pools = String::new();
    if plan.layout == Layout::TwoSegments {
        ports.push(port("lan", ["10.2.0.1", "fd00:2::1"]));
        let (first, last) = plan.src_ports;
        pools = format!(
            "pool = {{ port = \"lan\", addresses = [{LIP4:?}, {LIP6:?}], \
             ports = [{first}, {last}] }}"
        );
    }
    Config { ports, workers: plan.workers, pools, services: plan.services.clone() }
}

/// What curl got: the body, or how it failed.
pub fn curl(space: &Namespace, url: &str) -> Result<String, String> {
    let output = space.output("curl", &["-gsS", "--max-time", "8", url]);
    let body = String::from_utf8_lossy(&output.stdout).trim().to_string();
    let said = String::from_utf8_lossy(&output.stderr).trim().to_string();
    if output.status.success() { Ok(body) } else { Err(said) }
}

/// The URL of a VIP's port.
pub fn url(vip: &str, port: u16) -> String {
    format!("http://{}/", SocketAddr::new(vip.parse().unwrap(), port))
}

/// Asks `count` times, each on a connection of its own; all must succeed. Bodies.
pub fn curl_many(space: &Namespace, url: &str, count: usize) -> Vec<String> {
    (0..count).map(|_| curl(space, url).unwrap()).collect()
}

/// What wrk counted.
#[derive(Debug)]
pub struct Load {
    pub requests: u64,
    /// Socket errors, time-outs and answers other than 2xx and 3xx.
    pub failures: u64,
    pub text: String,
}

/// Runs wrk for some seconds. `close` opens a connection for each request.
pub fn wrk(space: &Namespace, url: &str, seconds: u64, close: bool) -> Load {
    let duration = format!("{seconds}s");
    let mut arguments = vec!["-t1", "-c20", "-d", &duration, "--timeout", "8s"];
    if close {
        arguments.extend(["-H", "Connection: close"]);
    }
    arguments.push(url);
    let text = space.run("wrk", &arguments);
    let number =
        |text: &str| text.split(|c: char| !c.is_ascii_digit()).find_map(|n| n.parse().ok());
    let line = |start: &str| text.lines().find(|line| line.trim_start().starts_with(start));
    let requests = text.lines().find(|line| line.contains(" requests in "));
    let errors =
        line("Socket errors:").map_or(0, |line| line.split(',').filter_map(number).sum::<u64>());
    let refused: u64 = line("Non-2xx").and_then(number).unwrap_or(0);
    Load { requests: requests.and_then(number).unwrap_or(0), failures: errors + refused, text }
}

/// Whether a TCP connection to `address` opens within a second.
pub fn connects(space: &Namespace, address: SocketAddr) -> std::io::Result<()> {
    let limit = Duration::from_secs(1);
    space.enter(|| std::net::TcpStream::connect_timeout(&address, limit).map(drop))
}

/// The servers' names among answers, each with its count.
pub fn spread(bodies: &[String], servers: &[Server]) -> Vec<usize> {
    let of = |server: &Server| {
        bodies.iter().filter(|body| body.split(' ').next() == Some(&server.name)).count()
    };
    servers.iter().map(of).collect()
}

/// nginx's plain HTTP behind a VIP: `http://VIP/`.
pub fn web(vip: &str) -> String {
    url(vip, HTTP)
}
