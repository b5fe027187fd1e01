//! How fast the worker is on one core, beside the least that moving a frame costs, and proof that
//! it did the work.
//!
//! The product's worker loop and packet path between a source and a sink of our own (`source`).
//! Stages alternate in one process; medians are printed, and nothing is subtracted.

mod director;
mod proof;
mod source;
mod stages;

use std::rc::Rc;
use std::sync::mpsc;
use std::time::Instant;

use anyhow::ensure;
use clap::Parser;
use director::{Director, Traffic};
use gyre::dpdk::{Eal, EalConfig, MbufPool};
use gyre::model::{ForwardMode, Protocol};
use source::Schedule;
use stages::Which;

/// Rounds of each stage, alternating; medians are printed.
const ROUNDS: usize = 7;
/// Frames a round.
const FRAMES: usize = 4 << 20;
/// Frames that are looked at closely.
const SAMPLE: usize = 512;
const STAGES: [Which; 4] = [Which::Gyre, Which::Macswap, Which::Roofline, Which::Nothing];

#[derive(Clone, Debug, Parser)]
#[command(about = "Measure a worker on one core")]
struct Args {
    /// Live flows
    #[arg(long, value_delimiter = ',', default_values_t = [1usize, 16_384, 1 << 20])]
    flows: Vec<usize>,
    /// Only cases whose name contains this
    #[arg(long)]
    only: Option<String>,
    /// Core to run on
    #[arg(long, default_value_t = 1)]
    core: usize,
    /// Only gyre's stage, so many rounds: for a profiler
    #[arg(long)]
    rounds: Option<usize>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let config = EalConfig { memory_mib: 64, ..EalConfig::default() };
    let eal = Eal::start(&config)?;
    println!("{}", eal.memory().summary());
    let pool = MbufPool::create(&eal, "bench", 4095, 256, MbufPool::data_room_for(1500))?;
    let (tell, told) = mpsc::channel();
    let (own, core) = (eal.clone(), args.core);
    let work = move || {
        let _ = tell.send(all(&own, &pool, &args));
    };
    let thread = eal.spawn_worker("gyre-bench", core, work)?;
    let outcome = told.recv()?;
    thread.join();
    outcome
}

fn name(traffic: &Traffic) -> String {
    let mode = match traffic.mode {
        ForwardMode::DirectRoute => "dr",
        ForwardMode::FullNat => "fullnat",
        ForwardMode::Nat => "nat",
        ForwardMode::Tunnel => "tun",
        ForwardMode::Local => "local",
    };
    let way = if traffic.replies { "-out" } else { "" };
    let family = if traffic.is_ipv4 { 4 } else { 6 };
    let protocol = if traffic.protocol == Protocol::Udp { "udp" } else { "tcp" };
    format!("{mode}{way}-{protocol}{family}")
}

fn all(eal: &Eal, pool: &MbufPool, args: &Args) -> anyhow::Result<()> {
    println!(
        "{:<16}{:>9}{:>8}{:>8}{:>10}{:>10}{:>9}{:>10}{:>11}",
        "case", "flows", "Mpps", "ns", "macswap", "roofline", "source", "/macswap", "/roofline"
    );
    let ways = [
        (ForwardMode::DirectRoute, false),
        (ForwardMode::Nat, false),
        (ForwardMode::Nat, true),
        (ForwardMode::FullNat, false),
        (ForwardMode::FullNat, true),
        (ForwardMode::Tunnel, false),
    ];
    for (mode, replies) in ways {
        for is_ipv4 in [true, false] {
            for protocol in [Protocol::Udp, Protocol::Tcp] {
                for flows in &args.flows {
                    let flows = *flows;
                    let traffic = Traffic { mode, replies, is_ipv4, protocol, flows, burst: 32 };
                    let wanted =
                        args.only.as_ref().is_none_or(|only| name(&traffic).contains(only));
                    if wanted {
                        case(eal, pool, traffic, args.rounds)?;
                    }
                }
            }
        }
    }
    Ok(())
}

fn case(eal: &Eal, pool: &MbufPool, traffic: Traffic, rounds: Option<usize>) -> anyhow::Result<()> {
    let mut director = Director::new(eal, pool, traffic)?;
    let schedule = director.establish()?;
    let order = permutation(schedule.len());
    let schedule = Rc::new(schedule.arranged(order.into_iter()));
    director.window.borrow_mut().follow(&schedule);
    if let Some(rounds) = rounds {
        let figures: anyhow::Result<Vec<f64>> =
            (0..rounds).map(|_| round(&mut director, Which::Gyre)).collect();
        println!("{:<16}{:>9} {:?}", name(&traffic), traffic.flows, figures?);
        return Ok(());
    }
    prove(&mut director, &traffic, &schedule)?;
    director.window.borrow_mut().follow(&schedule);
    let fast_before = director.counters.fast_frames.get();
    let before = director.rows().iter().map(|row| u64::from(row.packets)).sum::<u64>();
    let mut figures: [Vec<f64>; 4] = Default::default();
    for _ in 0..ROUNDS {
        for (which, figures) in STAGES.into_iter().zip(&mut figures) {
            figures.push(round(&mut director, which)?);
        }
    }
    let rows = director.rows();
    let seen = rows.iter().map(|row| u64::from(row.packets)).sum::<u64>() - before;
    ensure!(seen == (ROUNDS * FRAMES) as u64, "flows saw {seen} packets");
    let fast = director.counters.fast_frames.get() - fast_before;
    // One in some ten thousand finds another flow's tag first, and goes the general way.
    ensure!(fast * 1000 >= seen * 999, "{fast} of {seen} packets took the fast path");
    ensure!(rows.len() == traffic.flows, "{} flows are left", rows.len());
    let touched = director.touched();
    ensure!(touched * 2 >= traffic.flows, "the roofline touched {touched} lines");
    let [gyre, macswap, roofline, source] = figures.map(median);
    println!(
        "{:<16}{:>9}{:>8.2}{:>8.1}{:>10.1}{:>10.1}{:>9.1}{:>10.2}{:>11.2}",
        name(&traffic),
        traffic.flows,
        1e3 / gyre,
        gyre,
        macswap,
        roofline,
        source,
        macswap / gyre,
        roofline / gyre
    );
    Ok(())
}

/// Looks closely at a sample of what comes out.
fn prove(director: &mut Director, traffic: &Traffic, schedule: &Schedule) -> anyhow::Result<()> {
    director.window.borrow_mut().kept = Some(Vec::new());
    director.run(SAMPLE);
    let kept = director.window.borrow_mut().kept.take().unwrap_or_default();
    ensure!(kept.len() == SAMPLE, "{SAMPLE} frames sent, {} came out", kept.len());
    for (at, got) in kept.iter().enumerate() {
        proof::check(traffic, &schedule.frame(at % schedule.len()), got)?;
    }
    Ok(())
}

/// Nanoseconds a frame.
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

/// A fixed random order that visits every flow once.
fn permutation(len: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..len as u32).collect();
    // Fisher and Yates with a small generator: the order matters, its quality hardly.
    let mut seed = 0x9e37_79b9_7f4a_7c15u64;
    for at in (1..order.len()).rev() {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        order.swap(at, (seed % (at as u64 + 1)) as usize);
    }
    order
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
