//! How fast the worker is on one core, beside the least that moving a frame costs, and proof that
//! it did the work.
//!
//! The product's worker loop and packet path between a source and a sink of our own (`source`).
//! Stages alternate in one process; medians are printed, and nothing is subtracted.

mod cases;
mod director;
#[path = "pktgen/machine.rs"]
#[allow(dead_code, reason = "shared with gyre-pktgen, which dates its reports")]
mod machine;
mod proof;
mod report;
mod source;
mod stages;

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::mpsc;
use std::time::Instant;

use anyhow::{Context, ensure};
use cases::Case;
use clap::Parser;
use director::Director;
use gyre::dpdk::{Eal, EalConfig, MbufPool};
use report::{Line, Report, Spread};
use source::Schedule;
use stages::Which;

/// Frames a round.
const FRAMES: usize = 4 << 20;
/// Frames that are looked at closely.
const SAMPLE: usize = 512;
const STAGES: [Which; 4] = [Which::Gyre, Which::Macswap, Which::Roofline, Which::Nothing];

#[derive(Clone, Debug, Parser)]
#[command(name = "gyre-bench", about = "Measure a worker on one core")]
struct Args {
    /// Fewer cases and rounds: under three minutes
    #[arg(long)]
    quick: bool,
    /// Only cases whose name contains this
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Write the figures as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write them as a Markdown table
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Core to run on [default: the last one]
    #[arg(long)]
    core: Option<usize>,
    /// Only gyre's own stage, so many rounds, without figures: for a profiler
    #[arg(long, value_name = "ROUNDS")]
    profile: Option<usize>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let wanted = |case: &Case| args.only.as_ref().is_none_or(|only| case.name().contains(only));
    let cases: Vec<Case> = cases::all(args.quick).into_iter().filter(wanted).collect();
    if cases.is_empty() {
        let names: Vec<String> = cases::all(args.quick).iter().map(Case::name).collect();
        anyhow::bail!("no case has that in its name; there are: {}", names.join(" "));
    }
    let eal = Eal::start(&EalConfig { memory_mib: 64, ..EalConfig::default() })?;
    println!("{}", eal.memory().summary());
    let pool = MbufPool::create(&eal, "bench", 4095, 256, MbufPool::data_room_for(1500))?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (tell, told) = mpsc::channel();
    let (own, core, asked) = (eal.clone(), args.core.unwrap_or(cores - 1), args.clone());
    let work = move || {
        // The receiver waits.
        let _ = tell.send(measure(&own, &pool, &asked, &cases));
    };
    let thread = eal.spawn_worker("gyre-bench", core, work)?;
    let outcome = told.recv().context("the measuring thread ended")?;
    thread.join();
    let (machine, dpdk) = (machine::Machine::this(), gyre::dpdk::version());
    let report = Report { machine, dpdk, cases: outcome? };
    args.json.iter().try_for_each(|path| report.write_json(path))?;
    args.markdown.iter().try_for_each(|path| report.write_markdown(path))
}

/// Measures case by case; the first that cannot be proven ends the run.
fn measure(eal: &Eal, pool: &MbufPool, args: &Args, cases: &[Case]) -> anyhow::Result<Vec<Line>> {
    println!("64-byte frames through one worker; ns a frame, median of alternating rounds");
    println!("{}", report::head());
    let mut lines = Vec::new();
    for case in cases {
        let outcome = one(eal, pool, args, case).with_context(|| case.name())?;
        outcome.iter().for_each(|line| println!("{}", line.row()));
        lines.extend(outcome);
    }
    Ok(lines)
}

fn one(eal: &Eal, pool: &MbufPool, args: &Args, case: &Case) -> anyhow::Result<Option<Line>> {
    let flows = case.traffic.flows;
    let mut director = Director::new(eal, pool, case.traffic)?;
    let every = director.establish()?;
    let schedule = Rc::new(every.arranged(case.distribution.draw(every.len()).into_iter()));
    drop(every);
    director.window.borrow_mut().follow(&schedule);
    if let Some(rounds) = args.profile {
        (0..rounds).try_for_each(|_| round(&mut director, Which::Gyre).map(drop))?;
        return Ok(None);
    }
    prove(&mut director, case, &schedule)?;
    director.window.borrow_mut().follow(&schedule);
    let rounds = if args.quick { 5 } else { 7 };
    let (before, fast_before) = (director.packets(), director.counters.fast_frames.get());
    let (mut figures, started) = (<[Vec<f64>; 4]>::default(), Instant::now());
    let ticks = director.ticks();
    for _ in 0..rounds {
        for (which, figures) in STAGES.into_iter().zip(&mut figures) {
            figures.push(round(&mut director, which)?);
        }
    }
    let ticks_per_ns = (director.ticks() - ticks) as f64 / started.elapsed().as_nanos() as f64;
    let seen = director.packets().0 - before.0;
    ensure!(seen == (rounds * FRAMES) as u64, "flows saw {seen} of {} packets", rounds * FRAMES);
    ensure!(director.packets().1 == flows, "{} flows are left", director.packets().1);
    let fast = director.counters.fast_frames.get() - fast_before;
    // One in some ten thousand finds another flow's tag first, and goes the general way.
    ensure!(fast * 1000 >= seen * 999, "{fast} of {seen} packets took the fast path");
    let touched = director.touched();
    ensure!(touched * 2 >= flows.min(FRAMES), "the roofline touched {touched} lines");
    Ok(Some(Line::new(case, figures.map(Spread::of), ticks_per_ns)))
}

/// Looks closely at a sample of what comes out.
fn prove(director: &mut Director, case: &Case, schedule: &Schedule) -> anyhow::Result<()> {
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

/// Nanoseconds a frame of one stage.
fn round(director: &mut Director, which: Which) -> anyhow::Result<f64> {
    director.which.set(which);
    let before = director.window.borrow().forwarded;
    let start = Instant::now();
    director.run(FRAMES);
    let nanos = start.elapsed().as_nanos() as f64;
    let forwarded = director.window.borrow().forwarded - before;
    ensure!(forwarded == FRAMES as u64, "{FRAMES} frames sent, {forwarded} forwarded");
    Ok(nanos / FRAMES as f64)
}
