//! How fast the packet path is on one core, and proof that it did the work.
//!
//! The product's `process_burst` over frames in memory, no ports: what a frame costs between rx
//! and tx. Beside it, on the same frames in the same process, `macswap` (the least that moving a
//! frame costs here). Nothing is subtracted; the cost of restoring each frame before it is sent
//! again is inside both figures. This is a first instrument: the worker loop with real ports,
//! the roofline and the other cases have an issue of their own.

mod director;
mod source;

use std::time::Instant;

use clap::Parser;
use director::{Bench, Mode};
use source::Source;

/// Rounds of each stage, alternating; medians are printed.
const ROUNDS: usize = 5;
/// Frames a round.
const FRAMES: usize = 4 << 20;

#[derive(Debug, Parser)]
#[command(about = "Measure the packet path on one core")]
struct Args {
    /// Live flows
    #[arg(long, value_delimiter = ',', default_values_t = [1usize, 16_384, 1 << 20])]
    flows: Vec<usize>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    println!(
        "one core, 64-byte UDP frames in memory, uniform, burst 32; median of {ROUNDS} rounds"
    );
    println!("{:<10}{:>10}{:>12}{:>12}{:>16}", "mode", "flows", "Mpps", "ns/frame", "of macswap");
    for mode in [Mode::DirectRoute, Mode::FullNat] {
        for flows in &args.flows {
            case(mode, *flows)?;
        }
    }
    Ok(())
}

/// Runs both stages alternately and prints a line.
fn case(mode: Mode, flows: usize) -> anyhow::Result<()> {
    let mut source = Source::new(flows);
    let mut bench = Bench::new(mode, flows)?;
    bench.establish(&mut source)?;
    let before = bench.packets();
    let (mut path, mut swap) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        path.push(per_frame(|| bench.forward(&mut source, FRAMES))?);
        swap.push(per_frame(|| source.macswap(FRAMES))?);
    }
    let (seen, touched) = bench.packets();
    let sent = (ROUNDS * FRAMES) as u64;
    anyhow::ensure!(seen - before.0 == sent, "{} frames sent, flows saw {}", sent, seen - before.0);
    anyhow::ensure!(touched == flows, "{flows} flows, {touched} touched");
    let (path, swap) = (median(&mut path), median(&mut swap));
    println!(
        "{:<10}{:>10}{:>12.2}{:>12.1}{:>16.2}",
        format!("{mode:?}"),
        flows,
        1e3 / path,
        path,
        swap / path
    );
    Ok(())
}

/// Nanoseconds a frame; `run` says how many frames it forwarded, which must be all.
fn per_frame(run: impl FnOnce() -> usize) -> anyhow::Result<f64> {
    let start = Instant::now();
    let forwarded = run();
    let nanos = start.elapsed().as_nanos() as f64;
    anyhow::ensure!(forwarded == FRAMES, "{FRAMES} frames sent, {forwarded} forwarded");
    Ok(nanos / FRAMES as f64)
}

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
