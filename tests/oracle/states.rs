//! `states/*.json`: what becomes of connections, in three forms: sequences of packets with the
//! state after each, cases of reuse, and scripts as in `packets/`.

use std::net::SocketAddr;

use gyre::dataplane::Verdict;
use serde_json::Value;

use crate::ipvsadm::{self, Needs};
use crate::lab::{Lab, Received};
use crate::support::{CLIENT, SERVER};
use crate::{Tally, packets, reuse, texts};

const VIP: &str = "10.1.0.1:80";
const RIP: &str = "10.2.0.11:80";

pub fn run(recording: &Value, tally: &mut Tally) {
    match recording["kind"].as_str() {
        Some("sequences") => sequences(recording, tally),
        Some("reuse") => reuse::run(recording, tally),
        _ => packets::script(recording, tally),
    }
}

fn sequences(recording: &Value, tally: &mut Tally) {
    let name = recording["name"].as_str().unwrap();
    let mut lab = match lab(recording) {
        Ok(lab) => lab,
        Err(needs) => {
            tally.begin(name);
            let steps = recording["sequences"].as_array().unwrap().iter();
            let steps = steps.map(|one| one[0].as_str().unwrap().split(' ').count()).sum();
            return tally.cannot(needs, steps);
        }
    };
    for (at, sequence) in recording["sequences"].as_array().unwrap().iter().enumerate() {
        tally.begin(name);
        let client: SocketAddr = ([10, 0, (at / 250) as u8 + 1, (at % 250) as u8 + 1], 5555).into();
        let words = |at: usize| sequence[at].as_str().unwrap().split(' ');
        let mut before = String::new();
        for (packet, recorded) in words(0).zip(words(1)) {
            before = format!("{before} {packet}");
            let ours = step(&mut lab, client, packet);
            let (ours, recorded) = comparable(packet, ours, recorded);
            tally.compare(&format!("{name}:{before}"), ours, recorded);
        }
    }
}

/// What can be compared. `/0` is the old entry, told to expire because its SYN was scheduled
/// afresh: the format says not to compare it, only that it no longer matches; a SYN must show a
/// new one, and of what follows the way out counts. `none` after a packet that IPVS passed on (six
/// times in `seq-nat`) is an entry that was not read in time, as the next packet of the same
/// sequence shows; then the way out counts.
fn comparable(packet: &str, ours: String, recorded: &str) -> (String, String) {
    let passed_on = if packet.starts_with("c:") { "s" } else { "c" };
    match recorded.split_once('>') {
        Some((out, "none")) if out == passed_on && !ours.ends_with("none") => {
            (ours.split('>').next().unwrap().into(), out.into())
        }
        Some((out, entry)) if entry.ends_with("/0") => {
            let opened = ["SYN_RECV/60", "SYNACK/120"].iter().find(|new| ours.ends_with(**new));
            match opened.filter(|_| packet == "c:S") {
                Some(new) => (ours.clone(), format!("{out}>{new}")),
                None if packet == "c:S" => (ours, format!("{out}>a new entry")),
                None => (ours.split('>').next().unwrap().into(), out.into()),
            }
        }
        _ => (ours, recorded.into()),
    }
}

/// The lab with one service of one server, as the recording says.
fn lab(recording: &Value) -> Result<Lab, Needs> {
    let mut lab = Lab::new([1500, 1500]);
    for (name, value) in recording["sysctl"].as_object().into_iter().flatten() {
        ipvsadm::switch(&mut lab, name, value.as_i64().unwrap())?;
    }
    if let Some(set) = recording["set"].as_str() {
        ipvsadm::run(&mut lab, &format!("--set {set}"))?;
    }
    let method = match recording["forward"].as_str().unwrap() {
        "masq" => "-m",
        "droute" => "-g",
        _ => "-i",
    };
    ipvsadm::run(&mut lab, &format!("-A -t {VIP} -s rr"))?;
    ipvsadm::run(&mut lab, &format!("-a -t {VIP} -r {RIP} {method}"))?;
    Ok(lab)
}

/// Plays one packet; answers as the recording does: where it came out, state and timeout.
fn step(lab: &mut Lab, client: SocketAddr, packet: &str) -> String {
    let (side, letters) = packet.split_once(':').unwrap();
    let received = if side == "c" {
        lab.receive(CLIENT, &texts::segment(CLIENT, client, VIP.parse().unwrap(), letters))
    } else {
        lab.receive(SERVER, &texts::segment(SERVER, RIP.parse().unwrap(), client, letters))
    };
    let out = way_out(&received, letters);
    let ours = lab.flows().into_iter().find(|row| SocketAddr::from(row.client) == client);
    match ours {
        Some(row) => format!("{out}>{}/{}", row.state.name(), row.expires_ms / 1000),
        None => format!("{out}>none"),
    }
}

/// The link by which something left. What goes to the kernel is for its own stack: a client's
/// segment is reset, a reset is not answered, a server's packet to a client is routed.
fn way_out(received: &Received, letters: &str) -> &'static str {
    match received.verdict {
        Verdict::Transmit(SERVER) => "s",
        Verdict::Transmit(CLIENT) => "c",
        Verdict::ToKernel(CLIENT) if letters.contains('R') => "-",
        Verdict::ToKernel(_) => "c",
        _ => "-",
    }
}
