//! What was measured, for people and for programs.

use std::fmt::Write;
use std::path::Path;

use anyhow::Context;
use gyre::model::Protocol;
use serde::Serialize;

use crate::cases::{Case, mode_name};
use crate::machine::Machine;

/// Nanoseconds a frame by stage: median, least and most of the rounds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Spread {
    /// Median.
    pub median: f64,
    /// Least.
    pub min: f64,
    /// Most.
    pub max: f64,
}

impl Spread {
    /// Of figures, one a round, at least one.
    pub fn of(mut figures: Vec<f64>) -> Self {
        figures.sort_by(f64::total_cmp);
        let median = figures[figures.len() / 2];
        Spread { median, min: figures[0], max: figures[figures.len() - 1] }
    }
}

/// One case's line.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    case: String,
    mode: &'static str,
    direction: &'static str,
    family: u8,
    protocol: &'static str,
    flows: usize,
    distribution: &'static str,
    burst: usize,
    workers: usize,
    mpps: f64,
    ns_per_packet: f64,
    cycles_per_packet: f64,
    macswap_mpps: f64,
    roofline_mpps: f64,
    source_ns: f64,
    ratio_macswap: f64,
    ratio_roofline: f64,
    /// "gyre", or "source" where source and loop took most of the time.
    limited_by: &'static str,
    verified: bool,
    spread_ns: [Spread; 4],
}

/// Share of a frame's time from which source and sink are what limits.
const SOURCE_LIMITS: f64 = 0.8;

impl Line {
    /// From gyre's, macswap's, the roofline's and the bare loop's time for a frame.
    pub fn new(case: &Case, spread_ns: [Spread; 4], ticks_per_ns: f64) -> Self {
        let [gyre, macswap, roofline, source] = spread_ns.map(|spread| spread.median);
        Line {
            case: case.name(),
            mode: mode_name(case.traffic.mode),
            direction: if case.traffic.replies { "out" } else { "in" },
            family: if case.traffic.is_ipv4 { 4 } else { 6 },
            protocol: if case.traffic.protocol == Protocol::Udp { "udp" } else { "tcp" },
            flows: case.traffic.flows,
            distribution: case.distribution.name(),
            burst: case.traffic.burst,
            workers: 1,
            mpps: 1e3 / gyre,
            ns_per_packet: gyre,
            cycles_per_packet: gyre * ticks_per_ns,
            macswap_mpps: 1e3 / macswap,
            roofline_mpps: 1e3 / roofline,
            source_ns: source,
            ratio_macswap: macswap / gyre,
            ratio_roofline: roofline / gyre,
            limited_by: if source > SOURCE_LIMITS * gyre { "source" } else { "gyre" },
            // A case that is not has ended the run.
            verified: true,
            spread_ns,
        }
    }
}

/// The head of the table on the terminal.
pub fn head() -> String {
    format!(
        "{:<22}{:>7}{:>8}{:>15}{:>9}{:>10}{:>8}{:>10}{:>11}",
        "case", "Mpps", "ns", "(min-max)", "macswap", "roofline", "source", "/macswap", "/roofline"
    )
}

impl Line {
    /// A line of that table.
    pub fn row(&self) -> String {
        let [gyre, macswap, roofline, source] = self.spread_ns;
        format!(
            "{:<22}{:>7.2}{:>8.1}{:>15}{:>9.1}{:>10.1}{:>8.1}{:>10.2}{:>11.2}{}",
            self.case,
            self.mpps,
            gyre.median,
            format!("({:.0}-{:.0})", gyre.min, gyre.max),
            macswap.median,
            roofline.median,
            source.median,
            self.ratio_macswap,
            self.ratio_roofline,
            if self.limited_by == "source" { "  limited by the source" } else { "" }
        )
    }
}

/// Everything, as JSON has it.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Where it ran.
    pub machine: Machine,
    /// DPDK's version.
    pub dpdk: String,
    /// The lines.
    pub cases: Vec<Line>,
}

impl Report {
    /// Writes it as JSON.
    pub fn write_json(&self, path: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        std::fs::write(path, text + "\n").with_context(|| format!("{}", path.display()))
    }

    /// Writes it as a Markdown table.
    pub fn write_markdown(&self, path: &Path) -> anyhow::Result<()> {
        let mut text =
            format!("{}, {}, DPDK {}\n\n", self.machine.cpu, self.machine.kernel, self.dpdk);
        text += "| case | Mpps | ns | macswap ns | roofline ns | of macswap | of roofline |\n";
        text += "|---|---:|---:|---:|---:|---:|---:|\n";
        for line in &self.cases {
            let [_, macswap, roofline, _] = line.spread_ns;
            writeln!(
                text,
                "| {} | {:.2} | {:.1} | {:.1} | {:.1} | {:.2} | {:.2} |",
                line.case,
                line.mpps,
                line.ns_per_packet,
                macswap.median,
                roofline.median,
                line.ratio_macswap,
                line.ratio_roofline
            )?;
        }
        std::fs::write(path, text).with_context(|| format!("{}", path.display()))
    }
}
