//! What a run found, with the whole set-up: one structure, four forms.
//!
//! JSON is this structure as it stands; CSV, Markdown and the terminal show its figures.

mod csv;
mod markdown;

use std::fs;
use std::path::Path;

use anyhow::Context;
use hdrhistogram::Histogram;
use serde::Serialize;

use super::args::ReportArgs;
use super::cycles::CycleCounts;
use super::machine::Machine;
use super::search::Found;
use super::sizes::SizeMix;
use super::trial::{LimitedBy, Trial};
use super::units::wire_mbps;

/// Everything about a run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Name and version of the program.
    pub tool: String,
    /// The command line, word by word.
    pub command: Vec<String>,
    /// When it started, UTC.
    pub started: String,
    /// The machine that sent and received.
    pub machine: Machine,
    /// DPDK's version.
    pub dpdk: String,
    /// Where DPDK's memory came from.
    pub memory: String,
    /// Ports in use.
    pub ports: Vec<PortSetup>,
    /// The traffic.
    pub traffic: TrafficSetup,
    /// Figures, in the order they were taken.
    pub figures: Vec<Figure>,
    /// Connections, of the profile that makes them.
    pub connections: Option<ConnectionFigures>,
    /// Every trial of searches.
    pub trials: Vec<TrialRow>,
    /// What a reader must know before believing a figure.
    pub remarks: Vec<String>,
}

/// One port.
#[derive(Clone, Debug, Serialize)]
pub struct PortSetup {
    /// Sends, receives, or both.
    pub role: &'static str,
    /// The device with its arguments.
    pub device: String,
    /// DPDK's driver.
    pub driver: String,
    /// Its MAC address.
    pub mac: String,
    /// MTU in bytes.
    pub mtu: u16,
    /// Speed in Mbit/s, where the device or the user told.
    pub line_mbps: Option<f64>,
    /// The cores that drive it.
    pub core: usize,
}

/// The traffic as it was made.
#[derive(Clone, Debug, Serialize)]
pub struct TrafficSetup {
    /// Profile: the subcommand.
    pub profile: String,
    /// UDP or TCP.
    pub protocol: &'static str,
    /// Destination.
    pub to: String,
    /// First client address.
    pub from: String,
    /// Last client address.
    pub from_last: String,
    /// First and last client port.
    pub client_ports: (u16, u16),
    /// The next hop.
    pub dst_mac: String,
    /// Flows.
    pub flows: u32,
    /// Flows that one round of the schedule touches.
    pub flows_touched: usize,
    /// How frames fall on flows.
    pub distribution: String,
    /// Of every random choice.
    pub seed: u64,
    /// Frame sizes.
    pub sizes: Vec<String>,
}

/// Latency in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Latency {
    /// Frames measured.
    pub frames: u64,
    /// The least.
    pub min: u64,
    /// The average.
    pub mean: f64,
    /// Half of the frames took no longer, and so on.
    pub p50: u64,
    /// 90 %.
    pub p90: u64,
    /// 99 %.
    pub p99: u64,
    /// 99.9 %.
    pub p99_9: u64,
    /// 99.99 %.
    pub p99_99: u64,
    /// The most.
    pub max: u64,
}

impl Latency {
    /// The percentiles of a histogram; `None` of an empty one.
    pub fn of(histogram: &Histogram<u64>) -> Option<Self> {
        let at = |quantile| histogram.value_at_quantile(quantile);
        (!histogram.is_empty()).then(|| Latency {
            frames: histogram.len(),
            min: histogram.min(),
            mean: histogram.mean(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            p99_99: at(0.9999),
            max: histogram.max(),
        })
    }
}

/// One result.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// What it is: `run`, `NDR`, `PDR 0.5%`, `latency at 50% of NDR`, `back-to-back` ...
    pub what: String,
    /// Frame sizes in bytes with FCS.
    pub frame_bytes: String,
    /// Frames a second asked for: of searches the load that passed.
    pub asked_fps: f64,
    /// Frames a second sent.
    pub sent_fps: f64,
    /// Frames a second received.
    pub received_fps: f64,
    /// The received rate in Mbit/s on the wire, with preamble and gap.
    pub wire_mbps: f64,
    /// Of searches: the lowest load that failed.
    pub failed_fps: Option<f64>,
    /// Seconds of traffic.
    pub duration_s: f64,
    /// Frames asked for.
    pub asked: u64,
    /// Frames sent.
    pub sent: u64,
    /// Frames received, each once.
    pub received: u64,
    /// Frames sent and not received.
    pub lost: u64,
    /// Lost of sent, from 0 to 1.
    pub loss_ratio: f64,
    /// Frames received again.
    pub duplicates: u64,
    /// Frames behind a later one of their flow.
    pub out_of_order: u64,
    /// Frames behind a later one of any flow.
    pub out_of_order_any: u64,
    /// Frames that were none of ours.
    pub foreign: u64,
    /// Of back-to-back: frames of the longest burst, averaged.
    pub burst_frames: Option<f64>,
    /// Latency there and back, generator included.
    pub latency_ns: Option<Latency>,
    /// Who kept it from being higher; `None` where nothing was searched and nothing fell short.
    pub limited_by: Option<LimitedBy>,
    /// Of searches: whether bounds came as close as asked.
    pub is_complete: bool,
}

impl Figure {
    /// The figure of one trial.
    pub fn of_trial(what: impl Into<String>, mix: &SizeMix, trial: &Trial) -> Self {
        Figure {
            what: what.into(),
            frame_bytes: mix.to_string(),
            asked_fps: trial.load_fps,
            sent_fps: trial.sent_fps(),
            received_fps: trial.received_fps(),
            wire_mbps: wire_mbps(trial.received_fps(), mix.mean_bytes()),
            failed_fps: None,
            duration_s: trial.duration_s,
            asked: trial.asked,
            sent: trial.sent,
            received: trial.counts.received,
            lost: trial.lost(),
            loss_ratio: trial.loss_ratio(),
            duplicates: trial.counts.duplicates,
            out_of_order: trial.counts.out_of_order,
            out_of_order_any: trial.counts.out_of_order_any,
            foreign: trial.counts.foreign,
            burst_frames: None,
            latency_ns: Latency::of(&trial.latency),
            limited_by: trial.generator_limit(),
            is_complete: true,
        }
    }

    /// The figure of a search; `None` when no load passed.
    pub fn of_search(mix: &SizeMix, found: &Found) -> Option<Self> {
        let lower = found.lower.as_ref()?;
        Some(Figure {
            failed_fps: found.upper.as_ref().map(|upper| upper.load_fps),
            limited_by: found.limited_by,
            is_complete: found.is_complete,
            ..Figure::of_trial(goal_name(found.loss_ratio), mix, lower)
        })
    }
}

/// `NDR`, or `PDR` with its ratio.
pub fn goal_name(loss_ratio: f64) -> String {
    if loss_ratio == 0.0 { "NDR".to_owned() } else { format!("PDR {}%", loss_ratio * 100.0) }
}

/// What the connection profile found.
#[derive(Clone, Debug, Serialize)]
pub struct ConnectionFigures {
    /// Connections a second asked for.
    pub asked_per_second: f64,
    /// Connections completed a second.
    pub completed_per_second: f64,
    /// Counts.
    pub counts: CycleCounts,
    /// From SYN to SYN-ACK, in nanoseconds.
    pub connect_ns: Option<Latency>,
    /// From SYN to the connection's end.
    pub cycle_ns: Option<Latency>,
    /// Whether the generator fell short of the rate.
    pub is_sender_short: bool,
}

/// One trial of a search.
#[derive(Clone, Debug, Serialize)]
pub struct TrialRow {
    /// Frame sizes.
    pub frame_bytes: String,
    /// Load in frames a second.
    pub load_fps: f64,
    /// Seconds.
    pub duration_s: f64,
    /// Frames asked for, sent and received.
    pub asked: u64,
    /// Frames sent.
    pub sent: u64,
    /// Frames received.
    pub received: u64,
    /// What the search judged by.
    pub loss_ratio: f64,
}

impl TrialRow {
    /// The row of `trial`.
    pub fn of(mix: &SizeMix, trial: &Trial) -> Self {
        TrialRow {
            frame_bytes: mix.to_string(),
            load_fps: trial.load_fps,
            duration_s: trial.duration_s,
            asked: trial.asked,
            sent: trial.sent,
            received: trial.counts.received,
            loss_ratio: trial.search_loss_ratio(),
        }
    }
}

/// Says in words what limited a figure, where that is the generator.
pub fn limit_remark(figure: &Figure) -> Option<String> {
    let why = match figure.limited_by? {
        LimitedBy::Sender => format!(
            "the generator could not send as fast as asked ({} of {} frames left it): this is its \
             limit, not the device's",
            figure.sent, figure.asked
        ),
        LimitedBy::Receiver => "the generator's own port dropped frames on receipt: loss is at \
                                least in part the generator's"
            .to_owned(),
        LimitedBy::MaxRate => {
            "the highest rate asked for passed; the device may be faster".to_owned()
        }
        LimitedBy::Device => return None,
    };
    Some(format!("{}, {} bytes: {why}", figure.what, figure.frame_bytes))
}

impl Report {
    /// Adds what limited the figures to the remarks.
    pub fn finish(&mut self) {
        let limits = self.figures.iter().filter_map(limit_remark);
        self.remarks.extend(limits);
        let open = self.figures.iter().filter(|figure| !figure.is_complete);
        self.remarks.extend(open.map(|figure| {
            format!(
                "{}, {} bytes: stopped before its bounds were as close as asked",
                figure.what, figure.frame_bytes
            )
        }));
        if let Some(connections) = self.connections.as_ref().filter(|c| c.is_sender_short) {
            self.remarks.push(format!(
                "connections: the generator could not open {:.0} a second; this is its limit",
                connections.asked_per_second
            ));
        }
    }

    /// Prints the figures and writes what files are asked for.
    pub fn deliver(&self, args: &ReportArgs) -> anyhow::Result<()> {
        print!("{}", markdown::figures(self));
        let json = serde_json::to_string_pretty(self)? + "\n";
        for (path, text) in [
            (&args.json, json),
            (&args.csv, csv::text(self)),
            (&args.markdown, markdown::text(self)),
        ] {
            if let Some(path) = path {
                write(path, &text)?;
            }
        }
        Ok(())
    }
}

/// Writes a report's file.
pub fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| {
        let shown = path.display();
        format!("report {shown} cannot be written; give a path that you may write to")
    })
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
