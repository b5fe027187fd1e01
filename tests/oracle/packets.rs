//! `packets/*.json`: frames in and out, the connection table after each, counters.
//!
//! The steps are those of scripted `states` recordings too.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use gyre::dataplane::Verdict;
use gyre::message::RowKind;
use gyre::model::*;
use pcap_file::pcap::PcapReader;
use serde_json::Value;

use crate::frames::{self, Ids};
use crate::ipvsadm::{self, Needs};
use crate::lab::{Lab, Sent};
use crate::support::{CLIENT, SERVER};
use crate::{Aspect, Difference, Tally, host, load, texts};

/// Seconds by which a timer may differ from a recorded one: the kernel rounds down, gyre's rows
/// here are rounded up, and a timer that is set anew when it fires is late by each one's own wheel.
pub const EXPIRY_SLACK_S: i64 = 1;
/// How far ahead of what was asked for a recording's clock may be: so much in each so many seconds.
/// The tables show it: of 400 s, 197 and 194 are left after "200" and "203" (persist-udp-nat), of
/// 300 s 198 after "100" (udp-basic), of 60 s 34 and 9 after "25" and "50" (persist-tcp-nat). All
/// entries of a table agree in it.
const AHEAD_MS: u64 = 500;
const AHEAD_EVERY_S: f64 = 30.0;
/// What a command takes: time for timers that are due at once.
const COMMAND_S: f64 = 0.02;

/// A row of the connection table but for its timer: protocol, client, VIP, destination, state.
type Row = [String; 5];
/// The connection table with what is left of each timer, in seconds.
type Table = BTreeMap<Row, i64>;

/// Both links' frames; nothing where frames are told in words alone.
#[derive(Default)]
struct Captures([Vec<Vec<u8>>; 2]);

/// A frame and the step at which it was sent.
struct Noted {
    frame: Sent,
    place: String,
}

impl AsRef<Sent> for Noted {
    fn as_ref(&self) -> &Sent {
        &self.frame
    }
}

/// A recording being played.
pub struct Player {
    lab: Lab,
    captures: Captures,
    /// The table as last recorded.
    table: Table,
    /// What was sent ahead of the kernel, which sends a datagram when it is whole, and at which
    /// step.
    early: Vec<Noted>,
    /// What the kernel sent and gyre has yet to.
    late: Vec<Noted>,
    /// Rows that gyre has ahead of the kernel, likewise.
    ahead: Vec<Row>,
}

/// Plays a file of `packets/`.
pub fn run(path: &Path, tally: &mut Tally) {
    let recording = load(path);
    tally.begin(recording["name"].as_str().unwrap());
    play(&recording, captures(path), tally);
}

fn captures(path: &Path) -> Captures {
    Captures(["client", "server"].map(|side| {
        let file = path.with_extension(format!("{side}.pcap"));
        if file.exists() { read_capture(&file) } else { Vec::new() }
    }))
}

/// Plays a recording whose frames are told in words.
pub fn script(recording: &Value, tally: &mut Tally) {
    tally.begin(recording["name"].as_str().unwrap());
    play(recording, Captures::default(), tally);
}

fn read_capture(path: &Path) -> Vec<Vec<u8>> {
    let mut reader = PcapReader::new(std::fs::File::open(path).unwrap()).unwrap();
    let mut frames = Vec::new();
    while let Some(packet) = reader.next_packet() {
        frames.push(packet.unwrap().data.into_owned());
    }
    frames
}

fn play(recording: &Value, captures: Captures, tally: &mut Tally) {
    let steps = recording["steps"].as_array().unwrap();
    let mut player = Player {
        lab: Lab::new(["client", "server"].map(|side| mtu(&recording["links"][side]))),
        captures,
        table: Table::new(),
        early: Vec::new(),
        late: Vec::new(),
        ahead: Vec::new(),
    };
    for (at, step) in steps.iter().enumerate() {
        if let Err(needs) = player.step(at, step, tally) {
            let left = steps[at..].iter().filter(|step| is_compared(step)).count();
            return tally.cannot(needs, left);
        }
    }
    player.end(tally);
}

fn is_compared(step: &Value) -> bool {
    match step["op"].as_str() {
        Some("packet" | "snapshot") => true,
        Some("advance") => step.get("conns_approx").is_some(),
        _ => false,
    }
}

/// The MTU in a link's description.
fn mtu(link: &Value) -> u16 {
    let text = link.as_str().unwrap_or_default();
    text.rsplit_once("mtu ").map_or(1500, |(_, mtu)| mtu.trim().parse().unwrap())
}

impl Captures {
    fn sent(&self, frame: &Value) -> Sent {
        let nic = if frame["side"] == "client" { CLIENT } else { SERVER };
        let bytes = match frame["frame"].as_str() {
            Some(hex) => unhex(hex),
            None => {
                let index = frame["index"].as_u64().unwrap() as usize;
                self.0[nic.index()][index].clone()
            }
        };
        Sent { nic, bytes }
    }
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digit).collect()
}

impl Player {
    fn step(&mut self, at: usize, step: &Value, tally: &mut Tally) -> Result<(), Needs> {
        match step["op"].as_str().unwrap() {
            "ipvsadm" if step["exit"].as_i64().unwrap_or(0) == 0 => {
                ipvsadm::run(&mut self.lab, step["args"].as_str().unwrap())?;
                self.lab.advance(COMMAND_S);
            }
            "comment" if step["text"] == "ip_vs_ftp loaded" => self.lab.helps_ftp = true,
            "ipvsadm" | "comment" => {}
            "config" => ipvsadm::config(&mut self.lab, step["text"].as_str().unwrap())?,
            "sysctl" => {
                for (name, value) in step["set"].as_object().unwrap() {
                    ipvsadm::switch(&mut self.lab, name, value.as_i64().unwrap())?;
                }
            }
            "packet" if step["in"].get("frame").is_none() && self.captures.0[0].is_empty() => {
                self.told_packet(at, step, tally);
            }
            "packet" => self.packet(at, step, tally),
            "advance" => self.advance(at, step, tally),
            "snapshot" => self.snapshot(at, step, tally),
            other => panic!("step {at}: unknown op {other}"),
        }
        Ok(())
    }

    fn packet(&mut self, at: usize, step: &Value, tally: &mut Tally) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
        let (from, note) = (&step["in"], text(&step["note"]));
        let place = format!("step {at}: {} {} [{note}]", text(&from["side"]), text(&from["text"]));
        let incoming = self.captures.sent(&step["in"]);
        let recorded = step["out"].as_array().unwrap();
        let recorded: Vec<Sent> = recorded.iter().map(|out| self.captures.sent(out)).collect();
        let received = self.lab.receive(incoming.nic, &incoming.bytes);
        let mut differences = Vec::new();
        let mut sent = received.sent;
        let mut expected = recorded;
        if let Some(given) = &received.to_kernel {
            // Whatever else came out is compared below as ours.
            if *given != incoming.bytes {
                let text = "the kernel got another frame than came".into();
                differences.push(Difference::new(Aspect::Frames, text));
            }
            let host_did = host::sends(incoming.nic, given, &expected);
            match host_did {
                Ok(()) => expected.clear(),
                Err(text) => {
                    let text = format!("to the kernel, but {text}");
                    differences.push(Difference::new(Aspect::Frames, text));
                    expected.clear();
                }
            }
        }
        let whole = !frames::is_fragment(&incoming.bytes);
        self.pair(&mut expected, &mut sent, &incoming.bytes);
        if whole {
            let verdict = received.verdict;
            differences.extend(report(&expected, &sent, &incoming.bytes, verdict));
        } else {
            self.defer(expected, sent, &incoming.bytes, &place, &mut differences);
        }
        if let Some(rows) = step.get("conns") {
            self.table = table(rows);
        }
        self.compare_table(whole, &mut differences);
        tally.step(&place, differences);
    }

    /// A packet told in words: what comes out is compared in words.
    fn told_packet(&mut self, at: usize, step: &Value, tally: &mut Tally) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
        let place = format!("step {at}: {} [{}]", text(&step["in"]["text"]), text(&step["note"]));
        let nic = if step["in"]["side"] == "client" { CLIENT } else { SERVER };
        let given = texts::frame(nic, &text(&step["in"]["text"]));
        let received = self.lab.receive(nic, &given);
        let side = |nic| if nic == CLIENT { "client" } else { "server" };
        let ours: Vec<String> = received
            .sent
            .iter()
            .map(|sent| format!("{} {}", side(sent.nic), texts::tell(&sent.bytes)))
            .collect();
        let recorded = step["out"].as_array().unwrap().iter();
        let recorded: Vec<String> =
            recorded.map(|out| format!("{} {}", text(&out["side"]), text(&out["text"]))).collect();
        let mut differences = Vec::new();
        let same = match received.verdict {
            Verdict::ToKernel(_) => host_answers(nic, &given, &recorded),
            _ => ours == recorded,
        };
        if !same {
            let verdict = received.verdict;
            let text = format!("verdict {verdict:?}; recorded {recorded:?}, gyre {ours:?}");
            differences.push(Difference::new(Aspect::Frames, text));
        }
        // Where the table was not read it is not known.
        if let Some(rows) = step.get("conns") {
            self.table = table(rows);
            self.compare_table(true, &mut differences);
        }
        tally.step(&place, differences);
    }

    /// Takes out of both lists what is the same in both.
    fn pair(
        &self,
        expected: &mut Vec<impl AsRef<Sent>>,
        sent: &mut Vec<impl AsRef<Sent>>,
        incoming: &[u8],
    ) {
        let mut ids = Ids::new();
        expected.retain(|recorded| {
            let recorded = recorded.as_ref();
            let same = |ours: &Sent, ids: &mut Ids| {
                ours.nic == recorded.nic
                    && frames::compare(&recorded.bytes, &ours.bytes, incoming, ids).is_ok()
            };
            match sent.iter().position(|ours| same(ours.as_ref(), &mut ids)) {
                Some(at) => {
                    sent.remove(at);
                    false
                }
                None => true,
            }
        });
    }

    /// Fragments: what is missing now may have come before or may come later.
    fn defer(
        &mut self,
        mut expected: Vec<Sent>,
        mut sent: Vec<Sent>,
        incoming: &[u8],
        place: &str,
        differences: &mut Vec<Difference>,
    ) {
        let (missing, more) = (expected.len(), sent.len());
        if missing + more == 0 {
            return;
        }
        let mut early = std::mem::take(&mut self.early);
        self.pair(&mut expected, &mut early, incoming);
        self.early = early;
        let mut late = std::mem::take(&mut self.late);
        self.pair(&mut late, &mut sent, incoming);
        self.late = late;
        let noted = |frame| Noted { frame, place: place.to_string() };
        self.late.extend(expected.into_iter().map(noted));
        self.early.extend(sent.into_iter().map(noted));
        let text = format!("{missing} frames come at another moment, {more} more were sent now");
        differences.push(Difference::new(Aspect::Moment, text));
    }

    /// What one of the two sent and the other never did; entries that the kernel never had.
    fn end(self, tally: &mut Tally) {
        let late = self.late.into_iter().map(|late| ("the kernel sent it, gyre never did", late));
        let early =
            self.early.into_iter().map(|early| ("gyre sent it, the kernel never did", early));
        for (what, Noted { frame, place }) in late.chain(early) {
            let text = format!("{what}: {:?} {}", frame.nic, frames::hex(&frame.bytes));
            tally.step(&format!("{place} at the end"), vec![Difference::new(Aspect::Frames, text)]);
        }
        for row in self.ahead {
            let text = "gyre had the entry, the kernel never did".into();
            tally.step(&format!("{row:?} at the end"), vec![Difference::new(Aspect::Table, text)]);
        }
    }

    fn advance(&mut self, at: usize, step: &Value, tally: &mut Tally) {
        let seconds = step["seconds"].as_f64().unwrap();
        let mut sent = self.lab.advance(seconds);
        for timer in self.table.values_mut() {
            *timer -= seconds as i64;
        }
        let Some(rows) = step.get("conns_approx") else { return };
        self.table = table(rows);
        let ahead_ms = self.clock_is_ahead_ms(seconds);
        if ahead_ms > 0 {
            sent.extend(self.lab.advance(ahead_ms as f64 / 1000.0));
        }
        let mut differences = Vec::new();
        if !sent.is_empty() {
            let text = format!("timers sent {} frames", sent.len());
            differences.push(Difference::new(Aspect::Frames, text));
        }
        self.compare_table(true, &mut differences);
        tally.step(&format!("step {at}: advance {seconds}"), differences);
    }

    /// By how much the recording's clock went further than `seconds`: as little as most of the
    /// table's timers say.
    fn clock_is_ahead_ms(&self, seconds: f64) -> u64 {
        let ours = self.lab.rows();
        let left_ms: BTreeMap<Row, u64> =
            ours.iter().map(|flow| (row(flow).0, u64::from(flow.expires_ms))).collect();
        // `S` seconds left, rounded down, are S to just under S + 1.
        let bounds = |(row, recorded): (&Row, &i64)| {
            let recorded_ms = u64::try_from(*recorded).ok().filter(|it| *it > 0)? * 1000;
            let most = left_ms.get(row)?.checked_sub(recorded_ms)?;
            Some((most + 1).saturating_sub(1000)..=most)
        };
        let bounds: Vec<_> = self.table.iter().filter_map(bounds).collect();
        let most = (seconds / AHEAD_EVERY_S).ceil() as u64 * AHEAD_MS;
        let lows = bounds.iter().map(|bounds| *bounds.start()).filter(|low| *low <= most);
        let agree = |ahead: &u64| bounds.iter().filter(|bounds| bounds.contains(ahead)).count();
        let fewest_first = |ahead: &u64| (agree(ahead), std::cmp::Reverse(*ahead));
        lows.max_by_key(fewest_first).unwrap_or(0)
    }

    fn snapshot(&mut self, at: usize, step: &Value, tally: &mut Tally) {
        let mut differences = Vec::new();
        if let Some(rows) = step.get("conns") {
            self.table = table(rows);
            self.compare_table(true, &mut differences);
        }
        if let Some(rows) = step.get("counters").and_then(Value::as_array) {
            let mut recorded: Vec<String> = rows.iter().map(Value::to_string).collect();
            let mut ours = counters(&self.lab);
            if self.lab.registry.services().count() > 1 {
                // The order of services in the kernel's hash table is nobody's promise.
                recorded.sort();
                ours.sort();
            }
            if ours != recorded {
                let text = format!("recorded {recorded:?}, gyre {ours:?}");
                differences.push(Difference::new(Aspect::Counters, text));
            }
        }
        tally.step(&format!("step {at}: snapshot"), differences);
    }

    fn compare_table(&mut self, whole: bool, differences: &mut Vec<Difference>) {
        let mut ours: Table = self.lab.rows().iter().map(row).collect();
        let mut text = Vec::new();
        for (row, timer) in &self.table {
            match ours.remove(row) {
                Some(left) if (left - timer).abs() > EXPIRY_SLACK_S && *timer > 0 => {
                    text.push(format!("{row:?} has {left} s left, recorded {timer}"));
                }
                // An entry whose time is up may be listed a little longer.
                None if *timer > EXPIRY_SLACK_S => text.push(format!("{row:?} {timer} is missing")),
                _ => {}
            }
        }
        let mut moved = Vec::new();
        for (row, left) in ours {
            let is_known = self.ahead.iter().any(|known| known[..4] == row[..4]);
            // Its time is up.
            if left == 0 {
                continue;
            }
            if !whole || is_known {
                moved.push(format!("{row:?} is ahead"));
                self.ahead.extend((!is_known).then_some(row));
            } else {
                text.push(format!("{row:?} {left} should not be there"));
            }
        }
        let table = &self.table;
        self.ahead.retain(|row| !table.keys().any(|known| known[..4] == row[..4]));
        if !text.is_empty() {
            differences.push(Difference::new(Aspect::Table, text.join("; ")));
        }
        if !moved.is_empty() {
            differences.push(Difference::new(Aspect::Moment, moved.join("; ")));
        }
    }
}

/// Servers with their counters as the kernel lists them: the one added last first.
pub fn counters(lab: &Lab) -> Vec<String> {
    let services = lab.registry.services();
    let servers = services.filter_map(|(id, _)| lab.snapshot.service(id));
    let servers = servers.flat_map(|service| service.servers.iter().rev());
    servers
        .map(|server| {
            let counters = &lab.state.counters.servers[server.id.index()];
            let (active, flows) = (counters.active.get(), counters.flows.get());
            let endpoint = SocketAddr::new(server.address, server.port).to_string();
            let row = (endpoint, method(server.mode), server.weight, active, flows - active);
            serde_json::to_string(&row).unwrap()
        })
        .collect()
}

/// What is left over on either side, each beside the nearest of the other.
fn report(
    expected: &[Sent],
    sent: &[Sent],
    incoming: &[u8],
    verdict: Verdict,
) -> Option<Difference> {
    if expected.is_empty() && sent.is_empty() {
        return None;
    }
    let mut text = format!("verdict {verdict:?}");
    for (at, recorded) in expected.iter().enumerate() {
        let ours = sent.get(at);
        let detail = match ours {
            None => format!("nothing for {:?} {}", recorded.nic, frames::hex(&recorded.bytes)),
            Some(ours) if ours.nic != recorded.nic => format!("sent on {:?}", ours.nic),
            Some(ours) => {
                let ids = &mut Ids::new();
                frames::compare(&recorded.bytes, &ours.bytes, incoming, ids)
                    .err()
                    .unwrap_or_default()
            }
        };
        text = format!("{text}; {detail}");
    }
    for ours in sent.iter().skip(expected.len()) {
        text = format!("{text}; too much: {:?} {}", ours.nic, frames::hex(&ours.bytes));
    }
    Some(Difference::new(Aspect::Frames, text))
}

/// Whether `recorded` is what the director's own stack answers to `given`: a reset or an
/// unreachable port to what is for itself, the packet one hop on to what is not, nothing to a
/// reset.
fn host_answers(nic: NicId, given: &[u8], recorded: &[String]) -> bool {
    let told = texts::tell(given);
    let to_us = frames::ip(given, frames::L3).is_some_and(|packet| host::is_own(packet.dst));
    if !to_us {
        return recorded == [format!("client {}", told.replace("ttl 64", "ttl 63"))];
    }
    let words: Vec<&str> = told.split(' ').collect();
    let (src, dst) = (words[0], words[2]);
    let side = if nic == CLIENT { "client" } else { "server" };
    match recorded {
        [] => told.contains("[R]"),
        [one] if told.contains(" tcp ") => one.starts_with(&format!("{side} {dst} > {src} tcp [R")),
        [one] => one.contains(" icmp type 3 code 3 ") && one.contains(&told),
        _ => false,
    }
}

fn table(rows: &Value) -> Table {
    let row = |row: &Value| {
        let cell = |at: usize| row[at].as_str().unwrap().to_string();
        ([cell(0), cell(1), cell(2), cell(3), cell(4)], row[5].as_i64().unwrap())
    };
    rows.as_array().unwrap().iter().map(row).collect()
}

/// A row of the table, with the seconds that are left.
pub fn row(flow: &gyre::message::FlowRow) -> (Row, i64) {
    let endpoint = |(address, port)| SocketAddr::new(address, port).to_string();
    let protocol = match flow.kind {
        RowKind::GroupTemplate => "IP".to_string(),
        _ => flow.protocol.to_string().to_uppercase(),
    };
    let cells = [
        protocol,
        endpoint(flow.client),
        endpoint(flow.virtual_address),
        endpoint(flow.server),
        flow.state.name().to_string(),
    ];
    (cells, i64::from(flow.expires_ms.div_ceil(1000)))
}

/// The kernel's word for a mode.
fn method(mode: ForwardMode) -> &'static str {
    match mode {
        ForwardMode::DirectRoute => "Route",
        ForwardMode::FullNat | ForwardMode::Nat => "Masq",
        ForwardMode::Tunnel => "Tunnel",
        ForwardMode::Local => "Local",
    }
}

/// Both the earliest piece and the last one of a datagram, as if the kernel had sent them twice, or
/// not at all.
#[test]
fn a_fragment_sent_once_too_often_or_never_is_told() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/oracle/recordings/packets/frag-nat4.json");
    for (change, told) in [
        (0, None),
        (1, Some("gyre sent it, the kernel never did")),
        (2, Some("the kernel sent it, gyre never did")),
    ] {
        let mut recording = load(&path);
        let sent = recording["steps"][4]["out"].as_array_mut().unwrap();
        assert_eq!(sent.len(), 2);
        match change {
            0 => {}
            1 => drop(sent.remove(0)),
            _ => sent.push(sent[0].clone()),
        }
        let mut tally = Tally::new("packets");
        tally.begin("frag-nat4");
        play(&recording, captures(&path), &mut tally);
        let found: Vec<_> = tally.unexcused().iter().collect();
        assert_eq!(found.len(), usize::from(told.is_some()), "{found:#?}");
        assert!(told.is_none_or(|told| found[0].contains(told)), "{found:#?}");
    }
}
