//! What all cases share: where they run, how long, and rounds of stages that alternate.

use std::rc::Rc;
use std::time::Instant;

use anyhow::ensure;
use gyre::dpdk::{Eal, MbufPool, ticks};

use crate::director::Director;
use crate::report::Spread;
use crate::source::Schedule;
use crate::stages::Which;

/// Frames a round.
pub const FRAMES: usize = 4 << 20;
/// Stages in the order of the report: ours, then what it is held against.
pub const STAGES: [Which; 4] = [Which::Gyre, Which::Macswap, Which::Roofline, Which::Nothing];
/// Those that ours is held against.
pub const OTHERS: [Which; 3] = [Which::Macswap, Which::Roofline, Which::Nothing];

/// Where cases run and how long.
pub struct Bench {
    /// EAL.
    pub eal: Eal,
    /// Where all mbufs come from.
    pub pool: MbufPool,
    /// The core that the measuring thread is on, and another.
    pub cores: [usize; 2],
    /// Whether there is little time.
    pub quick: bool,
    /// Rounds of gyre's stage alone, for a profiler; no figures.
    pub profile: Option<usize>,
    /// Ticks of the processor's counter in a nanosecond.
    pub ticks_per_ns: f64,
}

/// What became of the frames of a round.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// Nanoseconds a frame.
    pub nanos: f64,
    /// Frames that went out.
    pub forwarded: u64,
}

impl Bench {
    /// Rounds of a case.
    pub fn rounds(&self) -> usize {
        if self.quick { 5 } else { 7 }
    }
}

/// Ticks in a nanosecond, found in a tenth of a second.
pub fn ticks_per_ns() -> f64 {
    let (start, first) = (Instant::now(), ticks());
    std::thread::sleep(std::time::Duration::from_millis(100));
    (ticks() - first) as f64 / start.elapsed().as_nanos() as f64
}

/// A round of one stage.
pub fn round(director: &mut Director, which: Which, frames: usize) -> Round {
    director.which.set(which);
    let before = director.window.borrow().forwarded;
    let start = Instant::now();
    director.run(frames);
    let nanos = start.elapsed().as_nanos() as f64 / frames as f64;
    Round { nanos, forwarded: director.window.borrow().forwarded - before }
}

/// Frames that timers may send besides: SYNs, repeated, of who guessed a cookie the round before.
const REPEATED_MAX: u64 = 100;

/// A round of a stage that sends everything on.
pub fn forwarding_round(
    director: &mut Director,
    which: Which,
    frames: usize,
) -> anyhow::Result<f64> {
    let Round { nanos, forwarded } = round(director, which, frames);
    ensure!(forwarded == frames as u64, "{frames} frames sent, {forwarded} forwarded");
    Ok(nanos)
}

/// Rounds of the stages that gyre's is held against, each on the same frames, added to `figures`:
/// macswap, the roofline, nothing.
pub fn held_against(
    director: &mut Director,
    schedule: &Rc<Schedule>,
    frames: usize,
    figures: &mut [Vec<f64>; 4],
) -> anyhow::Result<()> {
    director.window.borrow_mut().follow(schedule);
    for (which, figures) in OTHERS.into_iter().zip(&mut figures[1..]) {
        let Round { nanos, forwarded } = round(director, which, frames);
        let sent = frames as u64..=frames as u64 + REPEATED_MAX;
        ensure!(sent.contains(&forwarded), "{frames} frames sent, {forwarded} forwarded");
        figures.push(nanos);
    }
    Ok(())
}

/// Median and range of the stages' rounds.
pub fn spreads(figures: [Vec<f64>; 4]) -> [Spread; 4] {
    figures.map(Spread::of)
}
