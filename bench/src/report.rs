//! What was measured, for people and for programs.

use std::fmt::Write;
use std::path::Path;

use anyhow::Context;
use gyre::model::Protocol;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::cases::mode_name;
use crate::machine::Machine;
use crate::traffic::Traffic;

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
    /// Its name.
    pub case: String,
    /// Forwarding mode, as the configuration names it.
    pub mode: String,
    /// Whose packets: "in" are clients', "out" servers'.
    pub direction: &'static str,
    /// 4 or 6.
    pub family: u8,
    /// Transport protocol.
    pub protocol: &'static str,
    /// Live flows.
    pub flows: usize,
    /// Which flow the next frame belongs to.
    pub distribution: &'static str,
    /// Frames a burst.
    pub burst: usize,
    /// Workers that the figures are the sum of.
    pub workers: usize,
    /// Millions of frames a second that the worker dealt with.
    pub mpps: f64,
    ns_per_packet: f64,
    cycles_per_packet: f64,
    /// Of the stages that it is held against.
    pub macswap_mpps: f64,
    /// Likewise.
    pub roofline_mpps: f64,
    source_ns: f64,
    ratio_macswap: f64,
    ratio_roofline: f64,
    /// "gyre", or "source" where source and loop took most of the time.
    limited_by: &'static str,
    verified: bool,
    spread_ns: [Spread; 4],
    /// What this case has besides.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// Share of a frame's time from which source and sink are what limits.
const SOURCE_LIMITS: f64 = 0.8;

impl Line {
    /// From gyre's, macswap's, the roofline's and the bare loop's time for a frame.
    pub fn new(case: &str, traffic: &Traffic, spread_ns: [Spread; 4], ticks_per_ns: f64) -> Self {
        let [gyre, macswap, roofline, source] = spread_ns.map(|spread| spread.median);
        Line {
            case: case.to_owned(),
            mode: mode_name(traffic.mode).to_owned(),
            direction: if traffic.replies { "out" } else { "in" },
            family: if traffic.is_ipv4 { 4 } else { 6 },
            protocol: if traffic.protocol == Protocol::Udp { "udp" } else { "tcp" },
            flows: traffic.flows,
            distribution: "uniform",
            burst: traffic.burst,
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
            more: Map::new(),
        }
    }

    /// Adds a figure of the case's own.
    pub fn say(&mut self, name: &str, value: impl Into<Value>) {
        self.more.insert(name.to_owned(), rounded(value.into()));
    }
}

/// Something measured that is not frames through stages.
#[derive(Clone, Debug, Serialize)]
pub struct Other {
    /// Its name.
    pub case: String,
    verified: bool,
    /// Its figures.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

impl Other {
    /// Nothing yet.
    pub fn new(case: &str) -> Self {
        Other { case: case.to_owned(), verified: true, more: Map::new() }
    }

    /// Adds a figure.
    pub fn say(&mut self, name: &str, value: impl Into<Value>) {
        self.more.insert(name.to_owned(), rounded(value.into()));
    }
}

/// What a case came to.
#[derive(Clone, Debug)]
pub enum Item {
    /// Frames through stages.
    Line(Box<Line>),
    /// Something else.
    Other(Other),
}

impl From<Line> for Item {
    fn from(line: Line) -> Self {
        Item::Line(Box::new(line))
    }
}

impl From<Other> for Item {
    fn from(other: Other) -> Self {
        Item::Other(other)
    }
}

/// Four significant digits are more than any figure here deserves.
fn rounded(value: Value) -> Value {
    let Some(number) = value.as_f64().filter(|_| value.is_f64()) else { return value };
    if number == 0.0 {
        return value;
    }
    let scale = 10f64.powi(3 - number.abs().log10().floor() as i32);
    Value::from((number * scale).round() / scale)
}

/// Figures of a case's own, for people.
fn told(more: &Map<String, Value>) -> String {
    let told: Vec<String> = more
        .iter()
        .map(|(name, value)| format!("{} {}", name.replace('_', " "), plain(value)))
        .collect();
    told.join(", ")
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Object(fields) => format!("({})", told(fields)),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join("; "),
        other => other.to_string(),
    }
}

/// The head of the table on the terminal.
pub fn head() -> String {
    format!(
        "{:<26}{:>7}{:>8}{:>15}{:>9}{:>10}{:>8}{:>10}{:>11}",
        "case", "Mpps", "ns", "(min-max)", "macswap", "roofline", "source", "/macswap", "/roofline"
    )
}

impl Item {
    /// Its lines on the terminal.
    pub fn rows(&self) -> String {
        let (mut row, more) = match self {
            Item::Line(line) => (line.row(), &line.more),
            Item::Other(other) => (other.case.clone(), &other.more),
        };
        for (name, value) in more {
            row += &format!("\n    {}: {}", name.replace('_', " "), plain(value));
        }
        row
    }
}

impl Line {
    /// A line of that table.
    fn row(&self) -> String {
        let [gyre, macswap, roofline, source] = self.spread_ns;
        format!(
            "{:<26}{:>7.2}{:>8.1}{:>15}{:>9.1}{:>10.1}{:>8.1}{:>10.2}{:>11.2}{}",
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
    /// Frames through stages.
    pub cases: Vec<Line>,
    /// The rest.
    pub others: Vec<Other>,
}

impl Report {
    /// A report of all items.
    pub fn new(items: Vec<Item>) -> Self {
        let (mut cases, mut others) = (Vec::new(), Vec::new());
        for item in items {
            match item {
                Item::Line(line) => cases.push(*line),
                Item::Other(other) => others.push(other),
            }
        }
        Report { machine: Machine::this(), dpdk: gyre::dpdk::version(), cases, others }
    }

    /// Writes it as JSON.
    pub fn write_json(&self, path: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        std::fs::write(path, text + "\n").with_context(|| format!("{}", path.display()))
    }

    /// Writes it as Markdown: a table, and a list of what has no place in it.
    pub fn write_markdown(&self, path: &Path) -> anyhow::Result<()> {
        std::fs::write(path, self.markdown()?).with_context(|| format!("{}", path.display()))
    }

    fn markdown(&self) -> Result<String, std::fmt::Error> {
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
        let lines = self.cases.iter().map(|line| (&line.case, &line.more));
        let others = self.others.iter().map(|other| (&other.case, &other.more));
        text += "\n";
        for (case, more) in lines.chain(others).filter(|(_, more)| !more.is_empty()) {
            writeln!(text, "- **{case}**: {}", told(more))?;
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::FLOWS;
    use gyre::model::ForwardMode;

    fn line() -> Line {
        let spread = |median| Spread { median, min: median, max: median };
        let traffic = Traffic::new(ForwardMode::DirectRoute, FLOWS);
        Line::new("dr-udp4-1M", &traffic, [50.0, 20.0, 40.0, 10.0].map(spread), 2.5)
    }

    #[test]
    fn json_has_the_fields_that_were_asked_for() {
        let mut line = line();
        line.say("connections_per_s", 1_234_567.0);
        let json = serde_json::to_value(&line).unwrap();
        for field in [
            "case mode family protocol flows distribution workers mpps ns_per_packet",
            "cycles_per_packet macswap_mpps roofline_mpps ratio_macswap ratio_roofline",
            "limited_by verified connections_per_s",
        ]
        .iter()
        .flat_map(|line| line.split(' '))
        {
            assert!(json.get(field).is_some(), "{field} in {json}");
        }
        assert_eq!(json["ratio_roofline"], 0.8);
        assert_eq!(json["cycles_per_packet"], 125.0);
        assert_eq!(json["connections_per_s"], 1_235_000.0);
    }

    #[test]
    fn markdown_tells_everything() {
        let mut other = Other::new("maglev");
        other.say("build_ms", 1.23456);
        let report = Report::new(vec![line().into(), other.into()]);
        let text = report.markdown().unwrap();
        assert!(
            text.contains("| dr-udp4-1M | 20.00 | 50.0 | 20.0 | 40.0 | 0.40 | 0.80 |"),
            "{text}"
        );
        assert!(text.contains("- **maglev**: build ms 1.235\n"), "{text}");
    }
}
