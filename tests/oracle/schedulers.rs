//! `schedulers/*.json`: which server each connection went to, and the counters.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use gyre::model::*;
use gyre::wire::ipv4::Ipv4;
use gyre::wire::ipv6::Ipv6;
use gyre::wire::tcp::TcpFlags;
use serde_json::Value;

use crate::ipvsadm::{self, Needs};
use crate::support::*;
use crate::{Tally, frames};

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

/// Where a connection went, and if nowhere the type and code of the ICMP error that the client got.
type Answer = (Option<SocketAddr>, Option<[u8; 2]>);

pub fn run(recording: &Value, tally: &mut Tally) {
    let name = recording["name"].as_str().unwrap().to_string();
    tally.begin(&name);
    let mut scenario = match Scenario::new(name, recording) {
        Ok(scenario) => scenario,
        Err(needs) => {
            let events = recording["events"].as_array().unwrap().iter();
            let compared =
                |event: &&Value| matches!(event["op"].as_str(), Some("conn" | "counters"));
            return tally.cannot(needs, events.filter(compared).count());
        }
    };
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
        ..server(address(&value["addr"]), number("weight"), ForwardMode::Nat)
    }
}

impl Scenario {
    fn new(name: String, recording: &Value) -> Result<Self, Needs> {
        let service = &recording["service"];
        let protocol = if recording["protocol"] == "udp" { Protocol::Udp } else { Protocol::Tcp };
        let flags = recording["flags"].as_array().unwrap();
        let flags: Vec<String> = flags.iter().map(|f| f.as_str().unwrap().into()).collect();
        let scheduler = ipvsadm::scheduler(recording["scheduler"].as_str().unwrap(), &flags)?;
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
        spec.one_packet = recording["one_packet"] == true;
        let mut director = Director::new(KernelMode::Tap);
        let wanted = desired(vec![spec]);
        director.change(|registry, hop_for| registry.apply(&wanted, hop_for)).unwrap();
        Ok(Scenario { name, director, key, protocol, vip, connections: HashMap::new() })
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
                let answer = self.connect(address(&event["client"]), vip);
                tally.compare(&place, answer, recorded_answer(event));
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
    fn connect(&mut self, client: SocketAddr, vip: SocketAddr) -> Answer {
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
            return (None, error_to(client.ip(), &outcome));
        }
        let (local, server) = endpoints(&outcome.frame);
        assert_eq!(outcome.frame[..6], server_mac(server.ip()).0);
        self.connections.insert(client, Connection { vip, local, server });
        if self.protocol == Protocol::Tcp {
            self.server_says(client, SYN | ACK, 5000);
            self.client_says(client, ACK, 1001);
        }
        (Some(server), None)
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

/// `"reply":"icmp 3/3"`: type and code of what came instead of a server's answer.
fn recorded_answer(event: &Value) -> Answer {
    let server = event["expect"].as_str().map(|text| text.parse().unwrap());
    let reply = event["reply"].as_str().map(|text| {
        let (_, numbers) = text.split_once(' ').unwrap();
        let (kind, code) = numbers.split_once('/').unwrap();
        [kind.parse().unwrap(), code.parse().unwrap()]
    });
    (server, reply)
}

/// Type and code of the ICMP error that went to the client; other frames are none.
fn error_to(client: IpAddr, outcome: &Outcome) -> Option<[u8; 2]> {
    let own = outcome.sent_on().map(|nic| (nic, &outcome.frame));
    let extra = outcome.extra.iter().map(|(nic, frame)| (*nic, frame));
    let mut sent = own.into_iter().chain(extra).filter(|(nic, _)| *nic == CLIENT);
    let frame = sent.next()?.1;
    assert!(sent.next().is_none(), "one packet has one answer");
    let packet = frames::ip(frame, frames::L3).filter(|packet| packet.dst == client)?;
    frames::is_icmp_error(frame)
        .then(|| [packet.l4, packet.l4 + 1].map(|at| frames::byte(frame, at)))
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

/// Nothing in the repository was recorded with `-o`, so this is `rr` by hand: last added first, no
/// entry, no counters, replies not gyre's.
#[test]
fn one_packet_scenarios_are_played() {
    let server = |last: u8| serde_json::json!({"addr": format!("10.2.0.{last}:53"), "weight": 1});
    let pick = |port: u16, last: u8| {
        let expect = format!("10.2.0.{last}:53");
        serde_json::json!({"op": "conn", "client": format!("10.0.0.7:{port}"), "expect": expect})
    };
    let rows = serde_json::json!([["10.2.0.12:53", 1, 0, 0], ["10.2.0.11:53", 1, 0, 0]]);
    let recording = serde_json::json!({
        "name": "rr-one-packet", "scheduler": "rr", "flags": [], "protocol": "udp",
        "service": {"vip": "10.1.0.1", "port": 53}, "one_packet": true,
        "servers": [server(11), server(12)],
        "events": [
            pick(9, 12), pick(10, 11), pick(9, 12), pick(9, 11),
            {"op": "counters", "expect": rows},
        ],
    });
    let mut tally = Tally::new("schedulers");
    run(&recording, &mut tally);
    assert_eq!(tally.matched_of(), (5, 5));
}

#[test]
fn a_scheduler_that_there_is_not_is_told_not_fatal() {
    let recording = serde_json::json!({
        "name": "twos", "scheduler": "twos", "flags": [], "protocol": "tcp",
        "service": {"vip": "10.1.0.1", "port": 80}, "servers": [],
        "events": [{"op": "conn", "client": "10.0.0.7:9", "expect": null}],
    });
    let mut tally = Tally::new("schedulers");
    run(&recording, &mut tally);
    assert_eq!(tally.matched_of(), (0, 1));
}

#[test]
fn a_refusal_must_be_the_recorded_one() {
    for (reply, matched) in [("icmp 3/3", 1), ("icmp 3/1", 0), ("icmp 11/3", 0)] {
        let recording = serde_json::json!({
            "name": "nobody", "scheduler": "rr", "flags": [], "protocol": "tcp",
            "service": {"vip": "10.1.0.1", "port": 80}, "servers": [],
            "events": [{"op": "conn", "client": "10.0.0.7:9", "expect": null, "reply": reply}],
        });
        let mut tally = Tally::new("schedulers");
        run(&recording, &mut tally);
        assert_eq!(tally.matched_of(), (matched, 1), "{reply}");
    }
}
