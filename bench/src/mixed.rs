//! What a director sees on a usual day: mostly packets of established flows, some that open and
//! some that close, fragments, ICMP errors, and what is the kernel's. With the time of each turn.

use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;

use anyhow::ensure;
use gyre::model::{ForwardMode, KernelMode, Protocol};

use crate::bench::{Bench, spreads};
use crate::cases::mode_name;
use crate::cycles::{CycleCase, held_against, pass, prepare, record_from};
use crate::director::{Director, Setup};
use crate::random::Random;
use crate::report::Line;
use crate::segment::{self, ACK, End, Segment, Words};
use crate::source::{Record, Schedule};
use crate::stages::Which;
use crate::talks::{Play, Talks};
use crate::traffic::{FRAME_BYTES, Traffic};
use crate::turns::Turns;

/// Frames of a wave: as many as a cohort makes a twentieth of them open, and as many close.
const WAVE: usize = 30_720;
/// A twentieth.
const PART: usize = WAVE / 20;
/// Distinct ICMP errors.
const ERRORS: usize = 256;
/// Waves before the first that counts.
const WARM_UP_WAVES: usize = 200;
/// Waves a round: two million frames.
const WAVES: usize = 64;
/// Waves of which the turns are timed.
const TIMED_WAVES: usize = 64;

/// The mixed case of a mode.
#[derive(Clone, Copy, Debug)]
pub struct Mixed(pub ForwardMode);

impl Mixed {
    /// The name by which it is chosen.
    pub fn name(&self) -> String {
        format!("mixed-{}-tcp4", mode_name(self.0))
    }
}

/// Where the frames of a wave come from.
struct Mixture {
    traffic: Traffic,
    talks: Talks,
    /// Servers' ends of established flows, where their packets pass here.
    replies: Vec<(End, End)>,
    errors: Vec<Vec<u8>>,
    random: Random,
    next_id: u16,
}

fn v4(address: IpAddr) -> Ipv4Addr {
    match address {
        IpAddr::V4(address) => address,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    }
}

impl Mixture {
    fn new(director: &Director, play: Play) -> Self {
        let traffic = play.traffic;
        let sees_replies = traffic.mode == ForwardMode::FullNat;
        let ends = |row: gyre::message::FlowRow| {
            let local = row.local.unwrap_or(row.client);
            ((v4(row.server.0), row.server.1), (v4(local.0), local.1))
        };
        let replies = if sees_replies { director.rows().map(ends).collect() } else { Vec::new() };
        let mut mixture = Mixture {
            traffic,
            talks: Talks::new(play),
            replies,
            errors: Vec::new(),
            random: Random::new(0x313d),
            next_id: 1,
        };
        mixture.errors = (0..ERRORS).map(|_| mixture.error()).collect();
        mixture
    }

    /// The client of some established flow.
    fn client(&mut self) -> End {
        let flow = self.random.below(self.traffic.flows as u64) as usize;
        let (address, src_port) = self.traffic.client(flow);
        (v4(address), src_port)
    }

    fn vip(&self) -> End {
        (v4(self.traffic.vip()), 80)
    }

    /// A packet of an established flow, either direction where both pass here.
    fn hit(&mut self) -> segment::Bytes {
        let (src, dst) = match self.random.below(2) {
            0 if !self.replies.is_empty() => {
                self.replies[self.random.below(self.replies.len() as u64) as usize]
            }
            _ => (self.client(), self.vip()),
        };
        let tcp = Some(Words { seq: 1, ack: 1, flags: ACK });
        Segment { src, dst, id: 0, ttl: 64, tcp }.frame(&[])
    }

    /// Both fragments of a client's segment.
    fn fragments(&mut self) -> [segment::Bytes; 2] {
        self.next_id = self.next_id.wrapping_add(1).max(1);
        let (src, dst) = (self.client(), self.vip());
        segment::cut(Segment {
            src,
            dst,
            id: self.next_id,
            ttl: 64,
            tcp: Some(Words { seq: 1, ack: 1, flags: ACK }),
        })
    }

    /// A router on the client's side cannot deliver what the service sent.
    fn error(&mut self) -> Vec<u8> {
        let (src, dst) = (self.vip(), self.client());
        let tcp = Some(Words { seq: 1, ack: 1, flags: ACK });
        segment::unreachable(&Segment { src, dst, id: 0, ttl: 60, tcp })
    }

    /// The next wave: frames in random order, the first of two fragments first.
    fn wave(&mut self) -> Schedule {
        let own = v4(self.traffic.own());
        let mut forms = vec![self.hit().to_vec()];
        forms.extend(self.errors.iter().cloned());
        let mut frames: Vec<(usize, Vec<u8>)> =
            self.talks.wave().iter().map(|frame| (0, frame.to_vec())).collect();
        for _ in 0..PART / 4 {
            frames.extend(self.fragments().map(|frame| (0, frame.to_vec())));
        }
        for _ in 0..PART / 2 {
            let at = self.random.below(ERRORS as u64) as usize;
            frames.push((at + 1, self.errors[at].clone()));
        }
        frames.extend((0..PART).map(|at| (0, segment::ping(own, at as u16).to_vec())));
        while frames.len() < WAVE {
            frames.push((0, self.hit().to_vec()));
        }
        for at in (1..frames.len()).rev() {
            frames.swap(at, self.random.below(at as u64 + 1) as usize);
        }
        put_first_fragments_first(&mut frames);
        let mut schedule = Schedule::wide(&forms);
        frames.iter().for_each(|(form, frame)| schedule.push(*form, frame));
        schedule
    }
}

fn put_first_fragments_first(frames: &mut [(usize, Vec<u8>)]) {
    let mut seconds = std::collections::HashMap::new();
    for at in 0..frames.len() {
        let frame = &frames[at].1;
        let key = (frame[18..20].to_vec(), frame[26..30].to_vec());
        match (frame[20] & 0x20 != 0, frame[21] != 0) {
            (false, true) => drop(seconds.insert(key, at)),
            (true, _) => {
                if let Some(second) = seconds.remove(&key) {
                    frames.swap(second, at);
                }
            }
            _ => {}
        }
    }
}

/// A case under way.
struct Running {
    director: Director,
    mixture: Mixture,
    last: Rc<Schedule>,
}

impl Running {
    /// Nanoseconds of one wave.
    fn wave(&mut self) -> anyhow::Result<f64> {
        self.last = Rc::new(self.mixture.wave());
        let before = (self.director.to_kernel, self.director.window.borrow().forwarded);
        let from = record_from(self.mixture.traffic.mode);
        let (nanos, records) = pass(&mut self.director, Which::Gyre, &self.last, from);
        self.check(before, &records)?;
        Ok(nanos)
    }

    /// As `wave`, with the time of every turn.
    fn timed_wave(&mut self, turns: &mut Turns) -> anyhow::Result<()> {
        self.last = Rc::new(self.mixture.wave());
        let before = (self.director.to_kernel, self.director.window.borrow().forwarded);
        let from = record_from(self.mixture.traffic.mode);
        self.director.window.borrow_mut().records = Some((from, Vec::with_capacity(WAVE)));
        turns.pass(&mut self.director, Which::Gyre, &self.last)?;
        let records = self.director.window.borrow_mut().records.take();
        self.check(before, &records.map(|(_, records)| records).unwrap_or_default())
    }

    fn check(&mut self, before: (u64, u64), records: &[Record]) -> anyhow::Result<()> {
        let to_kernel = self.director.to_kernel - before.0;
        let forwarded = self.director.window.borrow().forwarded - before.1;
        let sent = self.last.len();
        ensure!(
            to_kernel == PART as u64,
            "{to_kernel} of {PART} frames went to the kernel, {forwarded} out; dropped: {}",
            self.director.drops()
        );
        let wanted = (sent - PART) as u64;
        ensure!(forwarded == wanted, "{forwarded} of {wanted} out: {}", self.director.drops());
        self.mixture.talks.heard(records)
    }
}

/// Measures the mixed case of one mode.
pub fn measure(bench: &Bench, mixed: Mixed) -> anyhow::Result<Line> {
    let (mode, protocol) = (mixed.0, Protocol::Tcp);
    let connections = CycleCase { mode, protocol, synproxy: false, reused: false };
    let setup = Setup { kernel: KernelMode::Tap, ..connections.setup() };
    let mut other = Director::new(&bench.eal, &bench.pool, &setup.held_against())?;
    let mut director = Director::new(&bench.eal, &bench.pool, &setup)?;
    prepare(&mut director, &setup)?;
    let traffic = setup.traffic;
    let mut play = Play {
        traffic,
        synproxy: false,
        first: traffic.flows,
        rotation: 1 << 24,
        cohort: 0,
        cohorts: 1,
        closes: true,
    };
    // A tenth of the frames opens or closes.
    play.cohort = 2 * PART / play.steps().len();
    let mixture = Mixture::new(&director, play);
    let last = Rc::new(Schedule::wide(&[vec![0; FRAME_BYTES]]));
    let mut running = Running { director, mixture, last };
    (0..WARM_UP_WAVES).try_for_each(|_| running.wave().map(drop))?;
    let mut figures = <[Vec<f64>; 4]>::default();
    for _ in 0..bench.rounds() {
        let mut nanos = 0.0;
        for _ in 0..WAVES {
            nanos += running.wave()?;
        }
        figures[0].push(nanos / (WAVES * WAVE) as f64);
        held_against(&mut other, &running.last, &mut figures)?;
    }
    let mut ours = Turns::new(bench.ticks_per_ns)?;
    let mut macswap = Turns::new(bench.ticks_per_ns)?;
    for _ in 0..TIMED_WAVES {
        running.timed_wave(&mut ours)?;
        macswap.pass(&mut other, Which::Macswap, &running.last)?;
    }
    let dropped = running.director.drops();
    ensure!(dropped == "nothing", "dropped: {dropped}");
    let mut line = Line::new(&mixed.name(), &traffic, spreads(figures), bench.ticks_per_ns);
    line.distribution = "mixed";
    let mut spun = Turns::new(bench.ticks_per_ns)?;
    spun.spin(&ours)?;
    line.say("turn_us", ours.told());
    line.say("macswap_turn_us", macswap.told());
    line.say("spinning_turn_us", spun.told());
    line.say("table_live", running.director.counters.flows.get());
    Ok(line)
}
