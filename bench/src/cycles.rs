//! New connections: complete TCP cycles, and UDP's first packets, with other flows in the table.

use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use gyre::limits::SOURCE_PORT_HOLD_MS;
use gyre::model::{ConnReuse, ForwardMode, Protocol, Semantics, Timeouts};
use serde_json::json;

use crate::bench::{Bench, OTHERS, spreads};
use crate::cases::mode_name;
use crate::director::{Director, Setup};
use crate::report::{Line, Spread};
use crate::segment::Bytes;
use crate::source::{Record, Schedule};
use crate::stages::Which;
use crate::talks::{Play, Talks};
use crate::traffic::{SERVERS, Traffic, Wishes};

/// Entries of the flow table.
const TABLE: usize = 1 << 20;
/// Connections opened together.
const COHORT: usize = 1 << 12;
/// Waves before the first that counts: the table is what it stays, tuples come again.
const WARM_UP_WAVES: usize = 80;
/// Waves a round: a quarter of a million connections.
const WAVES: usize = 64;
/// Frames a round of the stages that gyre's is held against.
const HELD_FRAMES: usize = 1 << 20;
/// Where timeouts are set for the case: longer than a wave and what is done between two.
const CLOSING_MS: u32 = 500;
/// Of datagrams, which wait for nothing.
const UDP_MS: u32 = 100;

/// What is measured.
#[derive(Clone, Copy, Debug)]
pub struct CycleCase {
    /// Forwarding mode.
    pub mode: ForwardMode,
    /// TCP cycles, or UDP's first packets.
    pub protocol: Protocol,
    /// Whether the director answers SYNs itself.
    pub synproxy: bool,
    /// Kernel's timeouts, and clients that come again; else short ones and ever new clients.
    pub reused: bool,
}

impl CycleCase {
    /// The name by which it is chosen.
    pub fn name(&self) -> String {
        let protocol = if self.protocol == Protocol::Tcp { "tcp" } else { "udp" };
        let synproxy = if self.synproxy { "-synproxy" } else { "" };
        let reused = if self.reused { "-reused" } else { "" };
        format!("new-{}{synproxy}-{protocol}4{reused}", mode_name(self.mode))
    }

    fn semantics(&self) -> Semantics {
        let mut semantics = Semantics::default();
        if self.reused {
            // Of direct routing's closed connections the director has not seen the end.
            semantics.conn_reuse = match self.mode {
                ForwardMode::Nat | ForwardMode::FullNat => ConnReuse::Ended,
                _ => ConnReuse::EndedOrHalfSeen,
            };
            return semantics;
        }
        semantics.timeouts = Timeouts {
            fin_wait_ms: CLOSING_MS,
            time_wait_ms: CLOSING_MS,
            close_wait_ms: CLOSING_MS,
            last_ack_ms: CLOSING_MS,
            close_ms: CLOSING_MS,
            udp_ms: UDP_MS,
            ..semantics.timeouts
        };
        semantics
    }

    /// Flows that live beside the connections, where they do not end by the timeouts of the case:
    /// a quarter of the table. Connections that close take about another.
    fn background(&self) -> usize {
        if self.protocol == Protocol::Udp { 1 } else { TABLE / 4 }
    }

    /// Service, table and ports.
    pub fn setup(&self) -> Setup {
        let mut traffic = Traffic::new(self.mode, self.background());
        traffic.protocol = self.protocol;
        // So many ports that closed connections hold a quarter of the table at most: then the
        // oldest one's is taken over.
        let held = (self.background() + TABLE / 4) / usize::from(SERVERS);
        let is_tcp = self.protocol == Protocol::Tcp;
        let (locals, last) = if is_tcp { (1, 1023 + held as u16) } else { (8, 65_535) };
        let semantics = self.semantics();
        let synproxy = self.synproxy;
        let wishes =
            Wishes { semantics, synproxy, locals, ports: (1024, last), ..Wishes::default() };
        let flows_max = TABLE + TABLE / 8;
        Setup { wishes, flows_max, roofline_flows: 0, ..Setup::new(traffic) }
    }
}

/// Every case, or those that show the goal.
pub fn all(quick: bool) -> Vec<CycleCase> {
    use ForwardMode::{DirectRoute, FullNat, Nat, Tunnel};
    let case = |mode, synproxy, reused, protocol| CycleCase { mode, protocol, synproxy, reused };
    let modes =
        [(DirectRoute, false), (Tunnel, false), (Nat, false), (FullNat, false), (Nat, true)];
    let tcp = modes.iter().flat_map(|(mode, synproxy)| {
        [false, true].map(|reused| case(*mode, *synproxy, reused, Protocol::Tcp))
    });
    let udp = [DirectRoute, Tunnel, Nat, FullNat];
    let udp = udp.iter().map(|mode| case(*mode, false, false, Protocol::Udp));
    let shows_goal = |case: &CycleCase| {
        !case.reused
            && case.protocol == Protocol::Tcp
            && !case.synproxy
            && matches!(case.mode, DirectRoute | FullNat)
    };
    tcp.chain(udp).filter(|case| !quick || shows_goal(case)).collect()
}

/// One wave of frames through a worker: nanoseconds in all, and what came out.
pub fn pass(
    director: &mut Director,
    which: Which,
    schedule: &Rc<Schedule>,
    from: usize,
) -> (f64, Vec<Record>) {
    let frames = schedule.len();
    {
        let mut window = director.window.borrow_mut();
        window.follow(schedule);
        window.records = Some((from, Vec::with_capacity(2 * frames)));
    }
    director.which.set(which);
    let start = Instant::now();
    director.run(frames);
    let nanos = start.elapsed().as_nanos() as f64;
    let records = director.window.borrow_mut().records.take();
    (nanos, records.map(|(_, records)| records).unwrap_or_default())
}

/// Frames of one form, small ones.
pub fn schedule_of(frames: &[Bytes]) -> Schedule {
    let mut schedule = Schedule::wide(&[frames[0].to_vec()]);
    frames.iter().for_each(|frame| schedule.push(0, frame));
    schedule
}

/// From which byte on frames that come out are read: behind a tunnel's own header.
pub fn record_from(mode: ForwardMode) -> usize {
    if mode == ForwardMode::Tunnel { 34 } else { 14 }
}

/// A case under way.
struct Running<'a> {
    case: &'a CycleCase,
    director: Director,
    talks: Talks,
    /// The last wave's frames.
    last: Rc<Schedule>,
    /// Flows beyond which time passes before more are opened.
    flows_wanted: u64,
}

impl Running<'_> {
    /// One wave: frames, and nanoseconds for them all.
    fn wave(&mut self) -> anyhow::Result<(usize, f64)> {
        let frames = self.talks.wave();
        self.last = Rc::new(schedule_of(&frames));
        let from = record_from(self.case.mode);
        let (nanos, records) = pass(&mut self.director, Which::Gyre, &self.last, from);
        self.talks.heard(&records)?;
        if self.director.counters.flows.get() > self.flows_wanted {
            // Nothing runs meanwhile: flows whose time is over end in what is measured.
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok((frames.len(), nanos))
    }
}

/// Measures one case.
pub fn measure(bench: &Bench, case: &CycleCase) -> anyhow::Result<Line> {
    let setup = case.setup();
    let mut other = Director::new(&bench.eal, &bench.pool, &setup.held_against())?;
    let mut director = Director::new(&bench.eal, &bench.pool, &setup)?;
    if case.protocol == Protocol::Tcp {
        prepare(&mut director, &setup)?;
    }
    let first = if case.protocol == Protocol::Tcp { case.background() } else { 0 };
    let rotation = if case.reused { TABLE / 4 } else { 1 << 24 };
    let play = Play {
        traffic: setup.traffic,
        synproxy: case.synproxy,
        first,
        rotation,
        cohort: COHORT,
        cohorts: if case.protocol == Protocol::Tcp { 1 } else { 6 },
        closes: true,
    };
    let flows_wanted = TABLE as u64 / 2;
    let talks = Talks::new(play);
    let last = Rc::new(schedule_of(&[[0; 60]]));
    let mut running = Running { case, director, talks, last, flows_wanted };
    let made_before = running.director.counters.flows_created.get();
    (0..WARM_UP_WAVES).try_for_each(|_| running.wave().map(drop))?;
    let mut figures = <[Vec<f64>; 4]>::default();
    let mut rates = Vec::new();
    for _ in 0..bench.rounds() {
        let done_before = running.talks.done;
        let (mut frames, mut nanos) = (0, 0.0);
        for _ in 0..WAVES {
            let wave = running.wave()?;
            (frames, nanos) = (frames + wave.0, nanos + wave.1);
        }
        figures[0].push(nanos / frames as f64);
        rates.push((running.talks.done - done_before) as f64 / nanos * 1e9);
        held_against(&mut other, &running.last, &mut figures)?;
    }
    let Running { director, talks, .. } = running;
    let made = director.counters.flows_created.get() - made_before;
    // Behind SYNPROXY the last ones have yet to prove themselves.
    let unproven = if case.synproxy { COHORT as u64 } else { 0 };
    ensure!(made == talks.opened - unproven, "{made} flows for {} connections", talks.opened);
    ensure!(director.drops() == "nothing", "dropped: {}", director.drops());
    let mut line = Line::new(&case.name(), &setup.traffic, spreads(figures), bench.ticks_per_ns);
    tell(&mut line, case, &director, &play, Spread::of(rates));
    Ok(line)
}

/// Fills a part of the table with established connections of others.
pub fn prepare(director: &mut Director, setup: &Setup) -> anyhow::Result<()> {
    let Setup { traffic, wishes: Wishes { synproxy, .. }, .. } = *setup;
    if synproxy {
        let (rotation, cohort) = (traffic.flows, COHORT);
        let (first, cohorts, closes) = (0, 1, false);
        let play = Play { traffic, synproxy, first, rotation, cohort, cohorts, closes };
        let mut talks = Talks::new(play);
        while talks.done < traffic.flows as u64 {
            let is_last = talks.opened >= traffic.flows as u64;
            let frames = if is_last { talks.frames() } else { talks.wave() };
            let schedule = Rc::new(schedule_of(&frames));
            let (_, records) = pass(director, Which::Gyre, &schedule, record_from(traffic.mode));
            talks.heard(&records)?;
        }
    } else {
        director.establish().map(drop)?;
    }
    let flows = director.counters.flows.get();
    ensure!(flows == traffic.flows as u64, "{flows} flows beside those to come");
    Ok(())
}

/// Rounds of the other stages on a wave's frames, as often as makes a million.
pub fn held_against(
    other: &mut Director,
    schedule: &Rc<Schedule>,
    figures: &mut [Vec<f64>; 4],
) -> anyhow::Result<()> {
    let passes = HELD_FRAMES.div_ceil(schedule.len());
    for (which, figures) in OTHERS.into_iter().zip(&mut figures[1..]) {
        let mut nanos = 0.0;
        for _ in 0..passes {
            let (spent, records) = pass(other, which, schedule, 14);
            ensure!(records.len() == schedule.len(), "{which:?} lost frames");
            nanos += spent;
        }
        figures.push(nanos / (passes * schedule.len()) as f64);
    }
    Ok(())
}

fn tell(line: &mut Line, case: &CycleCase, director: &Director, play: &Play, rate: Spread) {
    line.say("connections_per_s", rate.median);
    line.say("connections_per_s_range", json!([rate.min.round(), rate.max.round()]));
    line.say("packets_a_cycle", play.steps().len());
    line.say("tuples", if case.reused { "used again" } else { "new" });
    let timeouts = case.semantics().timeouts;
    line.say(
        "timeouts_ms",
        json!({
            "fin_wait": timeouts.fin_wait_ms,
            "time_wait": timeouts.time_wait_ms,
            "udp": timeouts.udp_ms,
        }),
    );
    if case.mode == ForwardMode::FullNat && case.protocol == Protocol::Tcp {
        line.say("port_hold_ms", SOURCE_PORT_HOLD_MS);
        let lips = director.counters.lips.iter();
        line.say("ports_taken_over", lips.map(|lip| lip.reused.get()).sum::<u64>());
    }
    line.say(
        "table",
        json!({ "entries": TABLE + TABLE / 8, "live": director.counters.flows.get() }),
    );
}
