//! `gyre-pktgen`: measured traffic at a load balancer, from a second machine or beside it.
//!
//! Parse, dispatch, exit code; one module for each thing it knows. What needs no port (frames,
//! schedules, searches, reports) builds and tests without DPDK.

mod args;
mod capture;
mod clients;
mod cycles;
mod frame;
mod incoming;
#[cfg(feature = "dpdk")]
mod live;
mod machine;
mod neighbour;
mod pacer;
mod plan;
mod random;
mod reflection;
mod report;
mod schedule;
mod scripts;
mod search;
mod segment;
mod sizes;
#[cfg(feature = "dpdk")]
mod stop;
mod tracker;
mod traffic;
mod trial;
mod units;
mod writing;

use std::process::ExitCode;

use args::{Args, Command};
use clap::Parser;
use plan::Usage;

fn main() -> ExitCode {
    let args = Args::parse();
    match run(args.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gyre-pktgen: {error:#}");
            let is_usage = error.chain().any(|cause| cause.is::<Usage>());
            ExitCode::from(if is_usage { 2 } else { 1 })
        }
    }
}

#[cfg(feature = "dpdk")]
fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Run(args) => live::run(&args),
        Command::Throughput(args) => live::throughput(&args),
        Command::BackToBack(args) => live::back_to_back(&args),
        Command::Connections(args) => live::connections(&args),
        Command::SynFlood(args) => live::syn_flood(&args),
        Command::Reflect(args) => live::reflect(&args),
        Command::Write(args) => writing::run(&args),
    }
}

#[cfg(not(feature = "dpdk"))]
fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Write(args) => writing::run(&args),
        _ => {
            Err(Usage("built without DPDK: only `write` works; build with it for ports".into())
                .into())
        }
    }
}
