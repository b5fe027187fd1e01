//! `gyre replay`.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use super::{BadUsage, Out, file};
use crate::replay::{self, PortFile, Report};

/// Run captures through the packet path, with their timestamps as clock
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Configuration file (TOML); ports need `mac`, servers and routers a [[neighbour]]
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// Frames that arrive on a port: pcap or pcapng; may be given more than once
    #[arg(long = "in", value_name = "PORT=FILE", required = true, value_parser = port_file)]
    input: Vec<PortFile>,
    /// Where to write, as pcap, what a port sends
    #[arg(long = "out", value_name = "PORT=FILE", value_parser = port_file)]
    output: Vec<PortFile>,
    /// Where to write the report as JSON; `-` is standard output
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

fn port_file(text: &str) -> Result<PortFile, String> {
    match text.split_once('=') {
        Some((port, path)) if !port.is_empty() && !path.is_empty() => {
            Ok(PortFile { port: port.into(), path: path.into() })
        }
        _ => Err("write it as PORT=FILE, such as wan=in.pcap".into()),
    }
}

/// Replays and reports.
pub fn run(args: Args, out: &mut Out<'_>) -> anyhow::Result<()> {
    let checked = file::load(&args.config)?;
    let report = replay::run(&checked, &args.input, &args.output)
        .map_err(|error| BadUsage(error.to_string()))?;
    match args.report {
        Some(path) if path.as_os_str() != "-" => {
            fs::write(&path, serde_json::to_string_pretty(&report)? + "\n")
                .map_err(|error| BadUsage(format!("{}: {error}", path.display())))?;
            summary(&report, out)
        }
        Some(_) => {
            serde_json::to_writer_pretty(&mut *out, &report)?;
            Ok(writeln!(out)?)
        }
        None => summary(&report, out),
    }
}

fn summary(report: &Report, out: &mut Out<'_>) -> anyhow::Result<()> {
    writeln!(out, "{} frames over {:.3} s", report.frames, report.seconds)?;
    for (verdict, count) in &report.verdicts {
        writeln!(out, "  {verdict:<16}{count}")?;
    }
    for (reason, count) in &report.drops {
        writeln!(out, "  dropped: {reason:<28}{count}")?;
    }
    for (kind, count) in &report.replies {
        writeln!(out, "  answered: {kind:<27}{count}")?;
    }
    if report.cut_frames > 0 {
        writeln!(
            out,
            "  {} frames were cut by the capture; take it with a longer snap length",
            report.cut_frames
        )?;
    }
    writeln!(
        out,
        "flows: {} created, {} expired, {} live",
        report.flows_created,
        report.flows_expired,
        report.flows.len()
    )?;
    Ok(())
}
