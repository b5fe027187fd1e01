//! Everything that is counted, in Prometheus' text. Made of what `stats` shows and of the workers'
//! own counters, off the control thread; holds no numbers but how long requests took.

mod directors;
mod ipvs;
mod sheet;
mod workers;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, text};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use super::api::{Stats, Status};
use super::health::times::Times;
use crate::counters::WorkerCounters;
use sheet::Sheet;

/// The form that the client asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Prometheus' text format 0.0.4.
    Classic,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Form {
    /// What a client's `Accept` asks for.
    pub fn of_accept(accept: &str) -> Self {
        let open = accept.contains("application/openmetrics-text");
        if open { Form::OpenMetrics } else { Form::Classic }
    }

    /// Its name in `Content-Type`.
    pub const fn content_type(self) -> &'static str {
        match self {
            Form::Classic => "text/plain; version=0.0.4; charset=utf-8",
            Form::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

type Method = [(&'static str, &'static str); 1];

/// How long requests took, by method.
#[derive(Clone, Debug)]
pub struct Latencies(Family<Method, Histogram>);

impl Latencies {
    /// None so far.
    pub fn new() -> Self {
        // 100 us to 13 s, a factor of two each.
        Latencies(Family::new_with_constructor(|| {
            Histogram::new(exponential_buckets(1e-4, 2.0, 18))
        }))
    }

    /// Notes one.
    pub fn note(&self, method: &'static str, took: Duration) {
        self.0.get_or_create(&[("method", method)]).observe(took.as_secs_f64());
    }
}

/// What a scrape is made of.
#[derive(Debug)]
pub struct Facts {
    pub status: Status,
    pub stats: Stats,
    pub workers: Arc<[Arc<WorkerCounters>]>,
    /// Flow entries of each worker: IPv4, IPv6.
    pub flow_entries: [u64; 2],
    /// Changes that are in no file.
    pub unsaved: u64,
    /// Whether a configuration waits to be confirmed.
    pub unconfirmed: bool,
    pub checks: CheckFigures,
}

/// What health checks come to.
#[derive(Clone, Copy, Debug)]
pub struct CheckFigures {
    pub checks: usize,
    /// Rounds that were good, bad, and not carried out.
    pub rounds: [u64; 3],
    /// Rounds that began late.
    pub late: u64,
    /// How long good ones took.
    pub times: Times,
}

#[derive(Debug)]
struct Collected(Facts);

impl Collector for Collected {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut sheet = Sheet::new(encoder);
        directors::write(&self.0, &mut sheet)?;
        workers::write(&self.0, &mut sheet)?;
        ipvs::write(&self.0.stats, &mut sheet)
    }
}

/// The text.
pub fn text(facts: Facts, latencies: &Latencies, form: Form) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Collected(facts)));
    registry.register_with_unit(
        "gyre_control_request_duration",
        "Time from a request's arrival to its answer, by method",
        Unit::Seconds,
        latencies.0.clone(),
    );
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(match form {
        Form::OpenMetrics => text,
        Form::Classic => classic(&text),
    })
}

/// OpenMetrics as text format 0.0.4: there a counter's own name ends in `_total`, and neither units
/// nor an end are said.
fn classic(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    // The name's description comes before its type, so it waits for that.
    let mut help: Option<(&str, &str)> = None;
    for line in text.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), Some(name), Some(about)) => help = Some((name, about)),
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                let suffix = if kind == "counter" { "_total" } else { "" };
                if let Some((_, about)) = help.take().filter(|help| help.0 == name) {
                    out.push_str(&format!("# HELP {name}{suffix} {about}\n"));
                }
                out.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
            }
            (Some("#"), ..) => {}
            _ => {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_classic_form_names_counters_by_their_samples() {
        let open = "# HELP a_b Text of words.\n# TYPE a_b counter\na_b_total{x=\"y z\"} 1\n\
                    # HELP c_seconds More.\n# TYPE c_seconds histogram\n# UNIT c_seconds seconds\n\
                    c_seconds_count 3\n# EOF\n";
        let wanted = "# HELP a_b_total Text of words.\n# TYPE a_b_total counter\n\
                      a_b_total{x=\"y z\"} 1\n# HELP c_seconds More.\n# TYPE c_seconds histogram\n\
                      c_seconds_count 3\n";
        assert_eq!(classic(open), wanted);
        assert_eq!(
            Form::of_accept("application/openmetrics-text;version=1.0.0,*/*"),
            Form::OpenMetrics
        );
        assert_eq!(Form::of_accept("*/*"), Form::Classic);
    }
}
