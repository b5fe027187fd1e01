//! Packets of flows that are there already: every mode, family, protocol and number of flows.

use std::rc::Rc;

use anyhow::ensure;
use gyre::limits::BURST_FRAMES_MAX;

use crate::bench::{Bench, FRAMES, STAGES, forwarding_round, spreads};
use crate::cases::Case;
use crate::director::{Director, Setup};
use crate::memory::small_pages;
use crate::proof;
use crate::report::Line;
use crate::source::Schedule;
use crate::stages::Which;
use crate::traffic::Sizes;

/// Frames that are looked at closely.
pub const SAMPLE: usize = 512;

/// Frames a round: no more bytes than a million full frames have.
fn frames_of(case: &Case) -> usize {
    match case.traffic.sizes {
        Sizes::Fixed(64) => FRAMES,
        _ => FRAMES / 4,
    }
}

/// Measures one case; none with a profiler.
pub fn measure(bench: &Bench, case: &Case) -> anyhow::Result<Option<Line>> {
    let flows = case.traffic.flows;
    let mut director = Director::new(&bench.eal, &bench.pool, &Setup::new(case.traffic))?;
    let every = director.establish()?;
    let picks = case.distribution.draw(every.len());
    let distinct = distinct(&picks, every.len());
    let schedule = Rc::new(every.arranged(picks.into_iter()));
    drop(every);
    director.window.borrow_mut().follow(&schedule);
    let frames = frames_of(case);
    if let Some(rounds) = bench.profile {
        let mut profiled = || forwarding_round(&mut director, Which::Gyre, frames).map(drop);
        (0..rounds).try_for_each(|_| profiled())?;
        return Ok(None);
    }
    prove(&mut director, case, &schedule)?;
    director.window.borrow_mut().follow(&schedule);
    let (before, fast_before) = (director.packets(), director.counters.fast_frames.get());
    let mut figures = <[Vec<f64>; 4]>::default();
    for _ in 0..bench.rounds() {
        for (which, figures) in STAGES.into_iter().zip(&mut figures) {
            figures.push(forwarding_round(&mut director, which, frames)?);
        }
    }
    let (sent, seen) = (bench.rounds() * frames, director.packets().0 - before.0);
    ensure!(seen == sent as u64, "flows saw {seen} of {sent} packets");
    ensure!(director.packets().1 == flows, "{} flows are left", director.packets().1);
    let fast = director.counters.fast_frames.get() - fast_before;
    // One in some ten thousand finds another flow's tag first, and goes the general way.
    ensure!(fast * 1000 >= seen * 999, "{fast} of {seen} packets took the fast path");
    let touched = director.stage().touched();
    let wanted = distinct.min(frames * bench.rounds());
    ensure!(touched * 2 >= wanted, "the roofline touched {touched} lines for {wanted} flows");
    let mut line = Line::new(&case.name(), &case.traffic, spreads(figures), bench.ticks_per_ns);
    line.distribution = case.distribution.name();
    if small_pages() > 0 {
        line.say("bytes_on_small_pages", small_pages());
    }
    if case.traffic.sizes != Sizes::Fixed(64) {
        let mean = schedule.bytes() as f64 / schedule.len() as f64;
        // FCS, and preamble and gap, which the wire carries besides.
        let gbit = (mean + 24.0) * 8.0 * line.mpps / 1000.0;
        line.say("gbit_per_s_on_the_wire", gbit);
    }
    Ok(Some(line))
}

/// Flows among picks.
fn distinct(picks: &[u32], flows: usize) -> usize {
    let mut seen = vec![false; flows];
    picks.iter().for_each(|pick| seen[*pick as usize] = true);
    seen.into_iter().filter(|seen| *seen).count()
}

/// Looks closely at a sample of what comes out.
fn prove(director: &mut Director, case: &Case, schedule: &Schedule) -> anyhow::Result<()> {
    const { assert!(SAMPLE.is_multiple_of(BURST_FRAMES_MAX)) };
    director.which.set(Which::Gyre);
    director.window.borrow_mut().kept = Some(Vec::new());
    director.run(SAMPLE);
    let kept = director.window.borrow_mut().kept.take().unwrap_or_default();
    ensure!(kept.len() == SAMPLE, "{SAMPLE} frames sent, {} came out", kept.len());
    for (at, got) in kept.iter().enumerate() {
        proof::check(&case.traffic, &schedule.frame(at % schedule.len()), got)?;
    }
    Ok(())
}
