//! Floods of spoofed sources: SYNs that SYNPROXY answers, ACKs with made-up cookies, and SYNs to a
//! service whose flow table is full.

use std::net::Ipv4Addr;
use std::rc::Rc;

use anyhow::{Context, ensure};
use gyre::counters::{DropReason, ReplyKind};
use gyre::model::{ForwardMode, Protocol};

use crate::bench::{Bench, FRAMES, held_against, round, spreads};
use crate::director::{Director, Setup};
use crate::established::SAMPLE;
use crate::proof;
use crate::random::Random;
use crate::report::Line;
use crate::segment::{ACK, SYN, Segment, Words};
use crate::source::{RECORD_BYTES, Record, Schedule};
use crate::stages::Which;
use crate::traffic::Traffic;

/// Distinct sources.
const SOURCES: usize = 1 << 20;
/// Flows that fill a table.
const TABLE: usize = 1 << 20;
/// Frames that may come out of a round of made-up cookies: SYNs for those guessed, and repeated.
const GUESSES_MAX: u64 = 100;
/// What a SYN says of the largest segment it takes: 1460 bytes.
const MSS: [u8; 4] = [2, 4, 5, 180];

/// Which flood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flood {
    /// SYNs, answered with cookies.
    Syn,
    /// ACKs whose cookies are made up.
    Ack,
    /// SYNs while the flow table is full.
    Full,
}

impl Flood {
    /// All of them.
    pub const ALL: [Flood; 3] = [Flood::Syn, Flood::Ack, Flood::Full];

    /// The name by which it is chosen.
    pub fn name(self) -> &'static str {
        match self {
            Flood::Syn => "flood-syn-synproxy",
            Flood::Ack => "flood-ack-synproxy",
            Flood::Full => "flood-syn-dr-table-full",
        }
    }

    fn setup(self) -> Setup {
        let (mode, flows) = match self {
            Flood::Full => (ForwardMode::DirectRoute, TABLE),
            _ => (ForwardMode::Nat, 1),
        };
        let mut traffic = Traffic::new(mode, flows);
        traffic.protocol = Protocol::Tcp;
        let mut setup = Setup::new(traffic);
        setup.wishes.synproxy = self != Flood::Full;
        // Exactly so many: the table is at its bound.
        setup.flows_max = if self == Flood::Full { TABLE } else { TABLE + TABLE / 8 };
        setup.roofline_flows = TABLE;
        setup
    }

    fn frame(self, setup: &Setup, random: &mut Random) -> Vec<u8> {
        let octet = |value: u64| (11 + value % 100) as u8;
        let bits = random.next().to_be_bytes();
        let address = Ipv4Addr::new(octet(random.next()), bits[0], bits[1], bits[2]);
        let src = (address, u16::from_be_bytes([bits[3], bits[4]]) | 1024);
        let std::net::IpAddr::V4(vip) = setup.traffic.vip() else { return Vec::new() };
        let [seq, ack] = [random.next() as u32, random.next() as u32];
        let (flags, ack) = if self == Flood::Ack { (ACK, ack) } else { (SYN, 0) };
        let tcp = Some(Words { seq, ack, flags });
        let options: &[u8] = if self == Flood::Ack { &[] } else { &MSS };
        Segment { src, dst: (vip, 80), id: 0, ttl: 64, tcp }.frame(options).to_vec()
    }
}

/// Measures one flood.
pub fn measure(bench: &Bench, flood: Flood) -> anyhow::Result<Line> {
    let setup = flood.setup();
    let mut director = Director::new(&bench.eal, &bench.pool, &setup)?;
    let established = if flood == Flood::Full { Some(director.establish()?) } else { None };
    let mut random = Random::new(0xf100d);
    let mut frame = || flood.frame(&setup, &mut random);
    let mut draw = |count: usize| {
        let mut schedule = Schedule::wide(&[frame()]);
        (0..count).for_each(|_| schedule.push(0, &frame()));
        Rc::new(schedule)
    };
    if flood == Flood::Syn {
        // Other sources: once they have a flow, their SYNs are no flood's.
        prove_cookies(&mut director, &draw(SAMPLE))?;
    }
    let schedule = draw(SOURCES);
    let before = Counted::of(&director);
    let mut figures = <[Vec<f64>; 4]>::default();
    for _ in 0..bench.rounds() {
        director.window.borrow_mut().follow(&schedule);
        let ours = round(&mut director, Which::Gyre, FRAMES);
        let comes_out = match flood {
            Flood::Syn => FRAMES as u64..=FRAMES as u64,
            // A cookie has 23 bits that a guess must hit, and two secrets are good.
            Flood::Ack => 0..=GUESSES_MAX,
            Flood::Full => 0..=0,
        };
        ensure!(comes_out.contains(&ours.forwarded), "{} of {FRAMES} came out", ours.forwarded);
        figures[0].push(ours.nanos);
        held_against(&mut director, &schedule, FRAMES, &mut figures)?;
    }
    let sent = (bench.rounds() * FRAMES) as u64;
    let guessed = Counted::of(&director).check(before, flood, sent)?;
    if let Some(established) = established {
        director.which.set(Which::Gyre);
        director.pass(&established).context("established flows after the flood")?;
    }
    let mut line = Line::new(flood.name(), &setup.traffic, spreads(figures), bench.ticks_per_ns);
    line.say("sources", SOURCES);
    match flood {
        Flood::Syn => line.say("cookies_completed", SAMPLE),
        Flood::Ack => {
            line.say("dropped_as", DropReason::SynproxyBadCookie.name());
            line.say("cookies_guessed", guessed);
        }
        Flood::Full => line.say("dropped_as", DropReason::TableFull.name()),
    }
    Ok(line)
}

/// What tells whether a flood was dealt with as it should be.
#[derive(Clone, Copy)]
struct Counted {
    cookies: u64,
    false_cookies: u64,
    table_full: u64,
    /// ACKs of who had guessed a cookie and sends it again.
    consumed: u64,
    proven: u64,
    flows: u64,
}

impl Counted {
    fn of(director: &Director) -> Self {
        Counted {
            cookies: director.counters.replies[ReplyKind::SynCookie as usize].get(),
            false_cookies: director.dropped(DropReason::SynproxyBadCookie),
            table_full: director.dropped(DropReason::TableFull),
            consumed: director.dropped(DropReason::SynproxyConsumed),
            proven: director.counters.services[0].cookies_proven.get(),
            flows: director.counters.flows.get(),
        }
    }

    /// Says how many made-up cookies were right.
    fn check(&self, before: Counted, flood: Flood, sent: u64) -> anyhow::Result<u64> {
        let guessed = self.proven - before.proven;
        let again = self.consumed - before.consumed;
        let (what, count) = match flood {
            Flood::Syn => ("cookies", self.cookies - before.cookies),
            Flood::Ack => {
                let refused = self.false_cookies - before.false_cookies;
                ("ACKs dealt with", refused + guessed + again)
            }
            Flood::Full => ("refused SYNs", self.table_full - before.table_full),
        };
        ensure!(count == sent, "{count} {what} for {sent} frames");
        let (flows, was) = (self.flows, before.flows);
        ensure!(flows == was + guessed, "{was} flows before, {flows} after");
        Ok(guessed)
    }
}

/// Completes the handshakes of a sample: every cookie has to open a connection.
fn prove_cookies(director: &mut Director, schedule: &Rc<Schedule>) -> anyhow::Result<()> {
    let answers = sample(director, schedule, SAMPLE)?;
    let mut proofs = Schedule::wide(&[schedule.frame(0)]);
    for (at, answer) in answers.iter().enumerate() {
        let (syn, answer) = (read(&schedule.frame(at))?, read(answer)?);
        let (asked, said) = (words(&syn)?, words(&answer)?);
        ensure!((answer.src, answer.dst) == (syn.dst, syn.src), "an answer to somebody else");
        ensure!(said.flags == SYN | ACK, "flags {:02x}", said.flags);
        ensure!(said.ack == asked.seq.wrapping_add(1), "acknowledges {}", said.ack);
        let tcp = Words { seq: said.ack, ack: said.seq.wrapping_add(1), flags: ACK };
        proofs.push(0, &Segment { tcp: Some(tcp), ..syn }.frame(&[]));
    }
    let proven_before = director.counters.services[0].cookies_proven.get();
    let syns = sample(director, &Rc::new(proofs), SAMPLE)?;
    let mut accepts = Schedule::wide(&[schedule.frame(0)]);
    for syn in &syns {
        let syn = read(syn)?;
        let opening = words(&syn)?;
        ensure!(opening.flags == SYN, "the server gets {:02x}", opening.flags);
        let ack = opening.seq.wrapping_add(1);
        let tcp = Some(Words { seq: !opening.seq, ack, flags: SYN | ACK });
        let answer = Segment { src: syn.dst, dst: syn.src, id: 0, ttl: 64, tcp };
        accepts.push(0, &answer.frame(&MSS));
    }
    let proven = director.counters.services[0].cookies_proven.get() - proven_before;
    ensure!(proven == SAMPLE as u64, "{proven} of {SAMPLE} cookies were taken for right");
    let (accepts, before) = (Rc::new(accepts), director.window.borrow().forwarded);
    director.window.borrow_mut().follow(&accepts);
    director.run(SAMPLE);
    // Each server hears of its connection, and each client of a larger window.
    let forwarded = director.window.borrow().forwarded - before;
    ensure!(forwarded == 2 * SAMPLE as u64, "{forwarded} packets end {SAMPLE} handshakes");
    Ok(())
}

/// The first frames of a schedule, and what comes out for them.
fn sample(
    director: &mut Director,
    schedule: &Rc<Schedule>,
    frames: usize,
) -> anyhow::Result<Vec<Vec<u8>>> {
    director.which.set(Which::Gyre);
    {
        let mut window = director.window.borrow_mut();
        window.follow(schedule);
        window.kept = Some(Vec::new());
    }
    director.run(frames);
    let kept = director.window.borrow_mut().kept.take().unwrap_or_default();
    ensure!(kept.len() == frames, "{frames} sent, {} came out: {}", kept.len(), director.drops());
    kept.iter().try_for_each(|frame| proof::checksums(&frame[14..]))?;
    Ok(kept)
}

fn read(frame: &[u8]) -> anyhow::Result<Segment> {
    let mut record: Record = [0; RECORD_BYTES];
    record.copy_from_slice(frame.get(14..14 + RECORD_BYTES).context("a short frame")?);
    Segment::read(&record)
}

fn words(segment: &Segment) -> anyhow::Result<Words> {
    segment.tcp.context("no TCP")
}
