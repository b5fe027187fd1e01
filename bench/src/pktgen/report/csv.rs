//! Figures as comma-separated values (RFC 4180), a line each, for spreadsheets.

use super::{Figure, Latency, Report};

const HEADER: &str = "what,frame_bytes,asked_fps,sent_fps,received_fps,wire_mbps,failed_fps,\
                      duration_s,asked,sent,received,lost,loss_ratio,duplicates,out_of_order,\
                      out_of_order_any,foreign,burst_frames,latency_min_ns,latency_p50_ns,\
                      latency_p90_ns,latency_p99_ns,latency_p99_9_ns,latency_p99_99_ns,\
                      latency_max_ns,limited_by";

/// All figures; connections are not in it.
pub fn text(report: &Report) -> String {
    let lines = report.figures.iter().map(line);
    let lines: Vec<String> = std::iter::once(HEADER.to_owned()).chain(lines).collect();
    lines.join("\r\n") + "\r\n"
}

fn line(figure: &Figure) -> String {
    let some = |value: Option<f64>| value.map(|value| format!("{value:.3}")).unwrap_or_default();
    let limited = figure.limited_by.and_then(|limit| serde_json::to_value(limit).ok());
    let limited = limited.and_then(|value| value.as_str().map(str::to_owned));
    let mut cells = vec![quoted(&figure.what), quoted(&figure.frame_bytes)];
    let rates = [figure.asked_fps, figure.sent_fps, figure.received_fps, figure.wire_mbps];
    cells.extend(rates.map(|rate| format!("{rate:.3}")));
    cells.push(some(figure.failed_fps));
    cells.push(format!("{:.6}", figure.duration_s));
    let counts = [figure.asked, figure.sent, figure.received, figure.lost];
    cells.extend(counts.map(|count| count.to_string()));
    cells.push(format!("{:.9}", figure.loss_ratio));
    let counts = [figure.duplicates, figure.out_of_order, figure.out_of_order_any, figure.foreign];
    cells.extend(counts.map(|count| count.to_string()));
    cells.push(some(figure.burst_frames));
    cells.extend(latency_cells(figure.latency_ns));
    cells.push(limited.unwrap_or_default());
    cells.join(",")
}

fn latency_cells(latency: Option<Latency>) -> Vec<String> {
    let values = |l: Latency| [l.min, l.p50, l.p90, l.p99, l.p99_9, l.p99_99, l.max];
    match latency {
        Some(latency) => values(latency).map(|value| value.to_string()).to_vec(),
        None => vec![String::new(); 7],
    }
}

fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n']) {
        return format!("\"{}\"", text.replace('"', "\"\""));
    }
    text.to_owned()
}
