//! `states/*.json` of kind `sequences`: the state and timeout after every packet.

use std::net::{IpAddr, SocketAddr};

use gyre::dataplane::Verdict;
use gyre::model::*;
use gyre::wire::ipv4::Ipv4;
use gyre::wire::tcp::TcpFlags;
use serde_json::Value;

use crate::Tally;
use crate::support::*;

const VIP: &str = "10.1.0.1";
const RIP: &str = "10.2.0.11";

fn missing(recording: &Value) -> Option<&'static str> {
    if recording["kind"] != "sequences" {
        return Some("other kind");
    }
    if !recording["sysctl"].as_object().is_none_or(|switches| switches.is_empty()) {
        return Some("switches");
    }
    if !recording["set"].is_null() {
        return Some("ipvsadm --set");
    }
    (recording["forward"] == "tunnel").then_some("tunnel")
}

pub fn run(recording: &Value, tally: &mut Tally) {
    let name = recording["name"].as_str().unwrap();
    if let Some(what) = missing(recording) {
        tally.begin(name);
        return tally.cannot(what, 1);
    }
    let mode = match recording["forward"].as_str().unwrap() {
        "masq" => ForwardMode::Nat,
        _ => ForwardMode::DirectRoute,
    };
    let mut director = lab(mode);
    for (at, sequence) in recording["sequences"].as_array().unwrap().iter().enumerate() {
        tally.begin(name);
        let client: SocketAddr = ([10, 0, (at / 250) as u8 + 1, (at % 250) as u8 + 1], 5555).into();
        let words = |at: usize| sequence[at].as_str().unwrap().split(' ');
        let mut local = None;
        let mut before = String::new();
        for (packet, recorded) in words(0).zip(words(1)) {
            before = format!("{before} {packet}");
            let ours = step(&mut director, mode, client, packet, &mut local);
            let (ours, recorded) = comparable(packet, ours, recorded);
            tally.compare(&format!("{name}:{before}"), ours, recorded);
        }
    }
}

/// What can be compared. `/0` is the old entry, told to expire because its SYN was scheduled
/// afresh: the format says not to compare it, only that it no longer matches, so the new one must
/// show. `none` after a packet that IPVS passed on (six times in `seq-nat`) is an entry that was
/// not read in time, as the next packet of the same sequence shows; then the way out counts.
fn comparable(packet: &str, ours: String, recorded: &str) -> (String, String) {
    let passed_on = if packet.starts_with("c:") { "s" } else { "c" };
    match recorded.split_once('>') {
        Some((out, "none")) if out == passed_on => {
            (ours.split('>').next().unwrap().into(), out.into())
        }
        Some((_, "none")) => (ours, "none".into()),
        Some((out, entry)) if entry.ends_with("/0") => (ours, format!("{out}>SYN_RECV/60")),
        _ => (ours, recorded.into()),
    }
}

fn lab(mode: ForwardMode) -> Director {
    let mut director = Director::new(KernelMode::Tap);
    let key = ServiceKey::new(Protocol::Tcp, VIP.parse().unwrap(), 80);
    let mut spec = ServiceSpec::new(key, SchedulerSpec::RoundRobin);
    spec.pool = (mode == ForwardMode::FullNat).then(|| "pool".into());
    spec.ttl = TtlPolicy::Decrement;
    spec.servers = vec![server(SocketAddr::new(RIP.parse().unwrap(), 80), 1, mode)];
    let wanted = desired(vec![spec]);
    director.change(|registry, hops| registry.apply(&wanted, hops)).unwrap();
    director
}

fn flags(letters: &str) -> TcpFlags {
    letters.chars().fold(TcpFlags::NONE, |flags, letter| {
        flags
            | match letter {
                'S' => TcpFlags::SYN,
                'A' => TcpFlags::ACK,
                'F' => TcpFlags::FIN,
                'R' => TcpFlags::RST,
                'P' => TcpFlags::PSH,
                other => panic!("unknown flag {other}"),
            }
    })
}

/// Plays one packet; answers as the recording does: where it came out, state and timeout.
fn step(
    director: &mut Director,
    mode: ForwardMode,
    client: SocketAddr,
    packet: &str,
    local: &mut Option<SocketAddr>,
) -> String {
    let (side, letters) = packet.split_once(':').unwrap();
    let (vip, rip): (IpAddr, IpAddr) = (VIP.parse().unwrap(), RIP.parse().unwrap());
    let outcome = if side == "c" {
        let tcp = from_client(client.ip(), vip).tcp(client.port(), 80);
        director.receive(CLIENT, &tcp.seq(1000).ack(5001).flags(flags(letters)).build())
    } else {
        let Some(local) = *local else { return "none".into() };
        let tcp = from_server(rip, local.ip()).tcp(80, local.port());
        director.receive(SERVER, &tcp.seq(5000).ack(1001).flags(flags(letters)).build())
    };
    if side == "c" && outcome.sent_on() == Some(SERVER) && mode.sees_replies() {
        let (ip, l4) = Ipv4::parse(&outcome.frame[14..]).unwrap();
        *local = Some((ip.src(), u16::from_be_bytes([l4[0], l4[1]])).into());
    }
    let out = match outcome.verdict {
        Verdict::Transmit(SERVER) => "s",
        Verdict::Transmit(CLIENT) => "c",
        _ => "-",
    };
    match director.flow(client) {
        Some(row) => format!("{out}>{}/{}", row.state.name(), row.expires_ms / 1000),
        None => "none".into(),
    }
}
