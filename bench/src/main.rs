//! How fast the worker is on one core, beside the least that moving a frame costs, and proof that
//! it did the work.
//!
//! The product's worker loop and packet path between a source and a sink of our own (`source`).
//! Stages alternate in one process; medians are printed, and nothing is subtracted.

mod apply;
mod bench;
mod breakdown;
mod cases;
mod cycles;
mod director;
mod established;
mod floods;
mod jobs;
#[path = "pktgen/machine.rs"]
#[allow(dead_code, reason = "shared with gyre-pktgen, which dates its reports")]
mod machine;
mod maglev;
mod many;
mod memory;
mod mixed;
mod pair;
mod plots;
mod proof;
#[path = "pktgen/random.rs"]
mod random;
mod report;
mod segment;
mod source;
mod stages;
mod start;
mod talks;
mod testpmd;
mod traffic;
mod turns;

use std::path::PathBuf;
use std::sync::mpsc;

use anyhow::Context;
use bench::Bench;
use clap::Parser;
use gyre::dpdk::{Eal, EalConfig, MbufPool};
use jobs::Job;
use report::{Item, Report};

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
    /// Write them as Markdown
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Draw speed, cycles and turn times into this folder, as SVG and PNG
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
    /// Core to run on [default: the last one]
    #[arg(long)]
    core: Option<usize>,
    /// Only gyre's own stage, so many rounds, without figures: for a profiler
    #[arg(long, value_name = "ROUNDS")]
    profile: Option<usize>,
    /// Say how soon the first packet went out, after a start at this monotonic time
    #[arg(long, hide = true, value_name = "NS")]
    started_at_ns: Option<u64>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if let Some(since_ns) = args.started_at_ns {
        return started(since_ns);
    }
    if args.plots.is_some() {
        // Rather before half an hour's measuring than after it.
        plots::find_font()?;
    }
    let chosen = jobs::chosen(args.quick, args.only.as_deref())?;
    let eal = Eal::start(&EalConfig { memory_mib: 64, ..EalConfig::default() })?;
    println!("{}", eal.memory().summary());
    let pool = MbufPool::create(&eal, "bench", 8191, 256, MbufPool::data_room_for(1500))?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let core = args.core.unwrap_or(cores - 1);
    let bench = Bench {
        eal: eal.clone(),
        pool,
        cores: [core, if core == 0 { cores - 1 } else { core - 1 }],
        quick: args.quick,
        profile: args.profile,
        ticks_per_ns: bench::ticks_per_ns(),
    };
    let (tell, told) = mpsc::channel();
    let work = move || {
        // The receiver waits.
        let _ = tell.send(measure(&bench, &chosen));
    };
    let thread = eal.spawn_worker("gyre-bench", core, work)?;
    let outcome = told.recv().context("the measuring thread ended")?;
    thread.join();
    let report = Report::new(outcome?);
    args.json.iter().try_for_each(|path| report.write_json(path))?;
    args.markdown.iter().try_for_each(|path| report.write_markdown(path))?;
    args.plots.iter().try_for_each(|folder| plots::draw(&report, folder))
}

/// The process that `start` asks.
fn started(since_ns: u64) -> anyhow::Result<()> {
    let prefix = "gyre-bench-start".to_owned();
    let config = EalConfig { memory_mib: 64, file_prefix: prefix, ..EalConfig::default() };
    let eal = Eal::start(&config)?;
    let pool = MbufPool::create(&eal, "bench", 4095, 256, MbufPool::data_room_for(1500))?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (tell, told) = mpsc::channel();
    let own = eal.clone();
    let work = move || drop(tell.send(start::probe(&own, &pool, since_ns)));
    let thread = eal.spawn_worker("gyre-bench", cores - 1, work)?;
    let started = told.recv().context("the measuring thread ended")?;
    thread.join();
    println!("{}", serde_json::to_string(&started?)?);
    Ok(())
}

/// Measures case by case; the first that cannot be proven ends the run.
fn measure(bench: &Bench, jobs: &[Job]) -> anyhow::Result<Vec<Item>> {
    println!("64-byte frames through one worker unless a case says otherwise;");
    println!("ns a frame, median of alternating rounds");
    println!("{}", report::head());
    let mut items = Vec::new();
    for job in jobs {
        let outcome = job.run(bench).with_context(|| job.name())?;
        outcome.iter().for_each(|item| println!("{}", item.rows()));
        items.extend(outcome);
    }
    Ok(items)
}
