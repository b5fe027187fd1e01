//! `schedulers/*.json`: which server each connection went to, and the counters.

use std::collections::HashMap;
use std::net::SocketAddr;

use gyre::model::*;
use gyre::wire::ipv4::Ipv4;
use gyre::wire::ipv6::Ipv6;
use gyre::wire::tcp::TcpFlags;
use serde_json::Value;

use crate::Tally;
use crate::ipvsadm;
use crate::support::*;

const SYN: TcpFlags = TcpFlags::SYN;
const ACK: TcpFlags = TcpFlags::ACK;
const FIN: TcpFlags = TcpFlags::FIN;

struct Scenario {
    name: String,
    director: Director,
    key: ServiceKey,
    protocol: Protocol,
    /// Where clients go, unless they say so themselves.
    vip: Option<SocketAddr>,
    connections: HashMap<SocketAddr, Connection>,
}

/// Ends of a client's connection.
#[derive(Clone, Copy)]
struct Connection {
    vip: SocketAddr,
    local: SocketAddr,
    server: SocketAddr,
}

/// What the scenario needs and gyre lacks, if anything.
fn missing(scenario: &Value) -> Option<&'static str> {
    (scenario["one_packet"] == true).then_some("one-packet scheduling")
}

pub fn run(recording: &Value, tally: &mut Tally) {
    let name = recording["name"].as_str().unwrap().to_string();
    tally.begin(&name);
    if let Some(what) = missing(recording) {
        let events = recording["events"].as_array().unwrap();
        let compared = |event: &&Value| matches!(event["op"].as_str(), Some("conn" | "counters"));
        return tally.cannot(what, events.iter().filter(compared).count());
    }
    let mut scenario = Scenario::new(name, recording);
    for server in recording["servers"].as_array().unwrap() {
        scenario.add(server);
    }
    for (at, event) in recording["events"].as_array().unwrap().iter().enumerate() {
        scenario.play(at, event, tally);
    }
}

fn address(value: &Value) -> SocketAddr {
    value.as_str().unwrap().parse().unwrap()
}

fn server_spec(value: &Value) -> ServerSpec {
    let number = |field: &str| value[field].as_u64().unwrap_or(0) as u32;
    ServerSpec {
        upper_threshold: number("u_threshold"),
        lower_threshold: number("l_threshold"),
        ..server(address(&value["addr"]), number("weight"), ForwardMode::FullNat)
    }
}

impl Scenario {
    fn new(name: String, recording: &Value) -> Self {
        let service = &recording["service"];
        let protocol = if recording["protocol"] == "udp" { Protocol::Udp } else { Protocol::Tcp };
        let flags = recording["flags"].as_array().unwrap();
        let flags: Vec<String> = flags.iter().map(|f| f.as_str().unwrap().into()).collect();
        let scheduler = ipvsadm::scheduler(recording["scheduler"].as_str().unwrap(), &flags);
        let (key, matches, vip) = match service["dst"].as_str() {
            // All packets to that net have the mark.
            Some(prefix) => {
                let prefix = prefix.parse().unwrap();
                let one = |protocol| TrafficMatch { protocol, prefix, ports: Ports::ALL };
                let both = [Protocol::Tcp, Protocol::Udp].map(one);
                (ServiceKey::group("mark").unwrap(), both.to_vec(), None)
            }
            None => {
                let vip = service["vip"].as_str().unwrap().parse().unwrap();
                let port = service["port"].as_u64().unwrap() as u16;
                let key = ServiceKey::new(protocol, vip, port);
                (key, Vec::new(), Some(SocketAddr::new(vip, port)))
            }
        };
        let mut spec = ServiceSpec { matches, ..ServiceSpec::new(key, scheduler) };
        spec.pool = Some("pool".into());
        let mut director = Director::new(KernelMode::Tap);
        let wanted = desired(vec![spec]);
        director.change(|registry, hop_for| registry.apply(&wanted, hop_for)).unwrap();
        Scenario { name, director, key, protocol, vip, connections: HashMap::new() }
    }

    fn add(&mut self, value: &Value) {
        let (key, spec) = (self.key, server_spec(value));
        self.director.change(|registry, hops| registry.add_server(&key, &spec, hops)).unwrap();
    }

    fn play(&mut self, at: usize, event: &Value, tally: &mut Tally) {
        let place = format!("{} event {at}", self.name);
        let key = self.key;
        match event["op"].as_str().unwrap() {
            "conn" => {
                let vip = event["dst"].as_str().map(|text| text.parse().unwrap());
                let vip = vip.or(self.vip).expect("somewhere to go");
                let picked = self.connect(address(&event["client"]), vip);
                let recorded =
                    event["expect"].as_str().map(|text| text.parse::<SocketAddr>().unwrap());
                tally.compare(&place, picked, recorded);
            }
            "close" => self.close(address(&event["client"])),
            "reset" => {
                let client = address(&event["client"]);
                self.client_says(client, TcpFlags::RST, 1001);
            }
            "add" => self.add(event),
            "edit" => {
                let spec = server_spec(event);
                self.director.change(|registry, _| registry.edit_server(&key, &spec)).unwrap();
            }
            "del" => {
                let endpoint = address(&event["addr"]);
                self.director
                    .change(|registry, _| registry.remove_server(&key, endpoint, Removal::Now))
                    .unwrap();
            }
            "advance" => self.director.advance(event["seconds"].as_f64().unwrap()),
            "counters" => tally.compare(&place, self.counters(), recorded_counters(event)),
            other => panic!("{place}: unknown op {other}"),
        }
    }

    /// SYN and, if it went somewhere, the rest of the handshake; or one datagram.
    fn connect(&mut self, client: SocketAddr, vip: SocketAddr) -> Option<SocketAddr> {
        let frame = match self.protocol {
            Protocol::Udp => {
                from_client(client.ip(), vip.ip()).udp(client.port(), vip.port()).build()
            }
            Protocol::Tcp => {
                let tcp = from_client(client.ip(), vip.ip()).tcp(client.port(), vip.port());
                tcp.seq(1000).flags(SYN).build()
            }
        };
        let outcome = self.director.receive(CLIENT, &frame);
        if outcome.sent_on() != Some(SERVER) {
            return None;
        }
        let (local, server) = endpoints(&outcome.frame);
        assert_eq!(outcome.frame[..6], server_mac(server.ip()).0);
        self.connections.insert(client, Connection { vip, local, server });
        if self.protocol == Protocol::Tcp {
            self.server_says(client, SYN | ACK, 5000);
            self.client_says(client, ACK, 1001);
        }
        Some(server)
    }

    fn close(&mut self, client: SocketAddr) {
        self.client_says(client, FIN | ACK, 1001);
        self.server_says(client, FIN | ACK, 5001);
        self.client_says(client, ACK, 1002);
    }

    fn client_says(&mut self, client: SocketAddr, flags: TcpFlags, seq: u32) {
        let vip = self.connections[&client].vip;
        let tcp = from_client(client.ip(), vip.ip()).tcp(client.port(), vip.port());
        self.director.receive(CLIENT, &tcp.seq(seq).ack(5001).flags(flags).build());
    }

    fn server_says(&mut self, client: SocketAddr, flags: TcpFlags, seq: u32) {
        let Connection { local, server, .. } = self.connections[&client];
        let tcp = from_server(server.ip(), local.ip()).tcp(server.port(), local.port());
        let frame = tcp.seq(seq).ack(1001).flags(flags).build();
        assert_eq!(self.director.receive(SERVER, &frame).sent_on(), Some(CLIENT));
    }

    fn counters(&self) -> Vec<(SocketAddr, u32, u64, u64)> {
        let (_, service) = self.director.registry.service(&self.key).unwrap();
        // The kernel lists the server added last first.
        let servers = service.servers.iter().rev();
        servers
            .map(|server| {
                let counters = &self.director.state.counters.servers[server.id.index()];
                let (active, flows) = (counters.active.get(), counters.flows.get());
                let endpoint = SocketAddr::new(server.address, server.port);
                (endpoint, server.weight, active, flows - active)
            })
            .collect()
    }
}

fn recorded_counters(event: &Value) -> Vec<(SocketAddr, u32, u64, u64)> {
    let rows = event["expect"].as_array().unwrap();
    rows.iter()
        .map(|row| {
            let number = |at: usize| row[at].as_u64().unwrap();
            (address(&row[0]), number(1) as u32, number(2), number(3))
        })
        .collect()
}

/// Source and destination of a forwarded frame.
fn endpoints(frame: &[u8]) -> (SocketAddr, SocketAddr) {
    let l3 = &frame[14..];
    let port = |l4: &[u8], at: usize| u16::from_be_bytes([l4[at], l4[at + 1]]);
    if l3[0] >> 4 == 4 {
        let (ip, l4) = Ipv4::parse(l3).unwrap();
        ((ip.src(), port(l4, 0)).into(), (ip.dst(), port(l4, 2)).into())
    } else {
        let (ip, l4) = Ipv6::parse(l3).unwrap();
        ((ip.src(), port(l4, 0)).into(), (ip.dst(), port(l4, 2)).into())
    }
}
