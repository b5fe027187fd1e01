//! `states/*.json`: what becomes of connections, in three forms: sequences of packets with the
//! state after each, cases of reuse, and scripts as in `packets/`.

use std::collections::HashMap;
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
            return tally.cannot(needs, steps.map(|one| words(one, 0).count()).sum());
        }
    };
    let known = Known::of(recording);
    for (at, sequence) in recording["sequences"].as_array().unwrap().iter().enumerate() {
        tally.begin(name);
        let client: SocketAddr = ([10, 0, (at / 250) as u8 + 1, (at % 250) as u8 + 1], 5555).into();
        let mut before = String::new();
        for (packet, recorded) in words(sequence, 0).zip(words(sequence, 1)) {
            before = format!("{before} {packet}");
            let ours = step(&mut lab, client, packet);
            let recorded = known.instead_of(&before, recorded);
            let (ours, recorded) = comparable(packet, ours, recorded);
            tally.compare(&format!("{name}:{before}"), ours, recorded);
        }
    }
}

/// Packets (0) or results (1) of a sequence.
fn words(sequence: &Value, at: usize) -> impl Iterator<Item = &str> {
    sequence[at].as_str().unwrap().split(' ')
}

/// What a recording says of each beginning of a sequence. Sequences that begin alike agree, but for
/// entries that were not read in time: a few times one of them says `none` where all others, and
/// its own next packet, show an entry.
struct Known<'a>(HashMap<String, Vec<&'a str>>);

impl<'a> Known<'a> {
    fn of(recording: &'a Value) -> Self {
        let mut known: HashMap<String, Vec<&str>> = HashMap::new();
        for sequence in recording["sequences"].as_array().unwrap() {
            let mut before = String::new();
            for (packet, result) in words(sequence, 0).zip(words(sequence, 1)) {
                before = format!("{before} {packet}");
                known.entry(before.clone()).or_default().push(result);
            }
        }
        Known(known)
    }

    /// What other sequences that begin so say, where this one says that a packet went on without
    /// an entry.
    fn instead_of(&self, before: &str, recorded: &'a str) -> &'a str {
        let Some(way) = recorded.strip_suffix("none").filter(|way| !way.starts_with('-')) else {
            return recorded;
        };
        let is_read = |other: &&&str| other.starts_with(way) && !is_unread(other);
        self.0[before].iter().find(is_read).unwrap_or(&recorded)
    }
}

/// No entry, or one that may be gone at once.
fn is_unread(result: &str) -> bool {
    result.ends_with(">none") || result.ends_with("/0")
}

/// What can be compared. `/0` is the old entry, told to expire because its SYN was scheduled
/// afresh: the format says not to compare it, only that it no longer matches; a SYN must show a
/// new one, and of what follows the way out counts.
fn comparable(packet: &str, ours: String, recorded: &str) -> (String, String) {
    match recorded.split_once('>') {
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

#[test]
fn no_entry_means_what_others_that_begin_so_say() {
    let recording = serde_json::json!({"sequences": [
        ["c:S c:A", "s>SYN_RECV/60 s>ESTABLISHED/900"],
        ["c:S c:A c:A", "s>SYN_RECV/60 s>none s>ESTABLISHED/900"],
        ["c:S s:S", "s>none c>none"],
        ["c:R s:A c:A", "->none c>none c>none"],
    ]});
    let known = Known::of(&recording);
    for (before, recorded, meant) in [
        (" c:S c:A", "s>none", "s>ESTABLISHED/900"),
        (" c:S", "s>none", "s>SYN_RECV/60"),
        (" c:S s:S", "c>none", "c>none"),
        (" c:R", "->none", "->none"),
        (" c:R s:A", "c>none", "c>none"),
    ] {
        assert_eq!(known.instead_of(before, recorded), meant, "{before}");
    }
}
