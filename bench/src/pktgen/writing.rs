//! `gyre-pktgen write`: traffic as files, without a port.

use std::fs;
use std::path::Path;

use anyhow::Context;

use super::args::Write;
use super::capture;
use super::plan::{TrafficPlan, Usage};
use super::scripts;
use super::traffic::{Order, Traffic};

/// Stream id of written frames: no trial of a running generator has it.
const WRITTEN_STREAM: u16 = 0;

/// Writes what is asked for.
pub fn run(args: &Write) -> anyhow::Result<()> {
    let plan = TrafficPlan::new(&args.traffic)?;
    let mix = plan.single_size()?;
    let mean_bytes = mix.mean_bytes();
    if args.pcap.is_none() && args.pktgen_dpdk.is_none() && args.trex.is_none() {
        let text = "nothing to write; give --pcap, --pktgen-dpdk or --trex with a file";
        return Err(Usage(text.to_owned()).into());
    }
    let fps = args.rate.frames_per_second(mean_bytes, args.line_rate).map_err(Usage::of);
    let path = plan.path(args.src_mac, args.dst_mac);
    if let Some(file) = &args.pcap {
        let templates = plan.templates(args.src_mac, args.dst_mac, mix)?;
        let order = Order::Drawn(plan.schedule());
        let mut traffic = Traffic::new(plan.clients.clone(), templates, order, WRITTEN_STREAM);
        capture::write_file(file, &mut traffic, args.frames, fps?)?;
        println!("{}: {} frames", file.display(), args.frames);
    }
    if let Some(file) = &args.pktgen_dpdk {
        let percent = scripts::percent(args.rate, mean_bytes, args.line_rate)?;
        write(file, &scripts::pktgen_dpdk(&plan, &path, percent)?)?;
    }
    if let Some(file) = &args.trex {
        let fps = args.rate.frames_per_second(mean_bytes, args.line_rate).map_err(Usage::of)?;
        write(file, &scripts::trex(&plan, &path, fps)?)?;
    }
    Ok(())
}

fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    let shown = file.display();
    fs::write(file, text)
        .with_context(|| format!("{shown} cannot be written; give a path that you may write to"))?;
    println!("{shown}: written");
    Ok(())
}
