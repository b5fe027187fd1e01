//! A report to read: figures first, then what limited them, then the set-up.

use std::fmt::Write;

use super::{ConnectionFigures, Figure, Latency, Report};

/// The whole report.
pub fn text(report: &Report) -> String {
    let mut out = format!("# {} {}\n\n", report.tool, report.traffic.profile);
    out += &figures(report);
    out += "\n## Set-up\n\n";
    let traffic = &report.traffic;
    let (first_port, last_port) = traffic.client_ports;
    let rows = [
        ("command", format!("`{}`", report.command.join(" "))),
        ("started", report.started.clone()),
        ("machine", machine(report)),
        ("DPDK", format!("{}; {}", report.dpdk, report.memory)),
        ("traffic", format!("{} to {} by {}", traffic.protocol, traffic.to, traffic.dst_mac)),
        (
            "clients",
            format!(
                "{} to {}, ports {first_port} to {last_port}: {} flows ({} touched in a round), \
                 {}, seed {}",
                traffic.from,
                traffic.from_last,
                traffic.flows,
                traffic.flows_touched,
                traffic.distribution,
                traffic.seed
            ),
        ),
        ("frame sizes", traffic.sizes.join(", ")),
    ];
    out += "| | |\n|---|---|\n";
    for (name, value) in rows {
        let _ = writeln!(out, "| {name} | {value} |");
    }
    for port in &report.ports {
        let speed = port.line_mbps.map_or("unknown".to_owned(), |mbps| format!("{mbps} Mbit/s"));
        let _ = writeln!(
            out,
            "| port, {} | `{}` ({}), {}, MTU {}, line {speed}, core {} |",
            port.role, port.device, port.driver, port.mac, port.mtu, port.core
        );
    }
    out
}

fn machine(report: &Report) -> String {
    let machine = &report.machine;
    format!(
        "{}: {}, {} cores, {} MiB, hugepages {} MiB, Linux {}",
        machine.host,
        machine.cpu,
        machine.cores,
        machine.memory_mib,
        machine.hugepages_mib,
        machine.kernel
    )
}

/// Figures and remarks only: what goes to the terminal.
pub fn figures(report: &Report) -> String {
    let mut out = String::new();
    if !report.figures.is_empty() {
        out += "| what | frame | pps asked | pps back | Mbit/s | sent | lost | loss | dup | out of \
                order |\n|---|---|---:|---:|---:|---:|---:|---:|---:|---:|\n";
        report.figures.iter().for_each(|figure| out += &row(figure));
    }
    let measured: Vec<(&str, &str, Latency)> = report
        .figures
        .iter()
        .filter_map(|f| Some((f.what.as_str(), f.frame_bytes.as_str(), f.latency_ns?)))
        .collect();
    out += &latency_table(&measured);
    if let Some(connections) = &report.connections {
        out += &connection_table(connections);
    }
    if !report.remarks.is_empty() {
        out += "\n";
        report.remarks.iter().for_each(|remark| {
            let _ = writeln!(out, "- {remark}");
        });
    }
    out
}

fn row(figure: &Figure) -> String {
    let what = match figure.burst_frames {
        Some(frames) => format!("{} of {frames:.1} frames", figure.what),
        None => figure.what.clone(),
    };
    format!(
        "| {what} | {} | {:.0} | {:.0} | {:.2} | {} | {} | {:.6}% | {} | {} |\n",
        figure.frame_bytes,
        figure.asked_fps,
        figure.received_fps,
        figure.wire_mbps,
        figure.sent,
        figure.lost,
        figure.loss_ratio * 100.0,
        figure.duplicates,
        figure.out_of_order
    )
}

fn latency_table(rows: &[(&str, &str, Latency)]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let mut out = "\n| latency, us | frame | min | p50 | p90 | p99 | p99.9 | p99.99 | max |\n\
                   |---|---|---:|---:|---:|---:|---:|---:|---:|\n"
        .to_owned();
    let us = |ns: u64| ns as f64 / 1e3;
    for (what, frame, l) in rows {
        let _ = write!(out, "| {what} | {frame} ");
        for value in [l.min, l.p50, l.p90, l.p99, l.p99_9, l.p99_99, l.max] {
            let _ = write!(out, "| {:.1} ", us(value));
        }
        out += "|\n";
    }
    out
}

fn connection_table(figures: &ConnectionFigures) -> String {
    let c = figures.counts;
    let mut out = format!(
        "| connections | {:.0} a second asked, {:.0} completed |\n|---|---|\n",
        figures.asked_per_second, figures.completed_per_second
    );
    for (name, count) in [
        ("opened", c.opened),
        ("connected", c.connected),
        ("answered", c.answered),
        ("completed", c.completed),
        ("timed out", c.timed_out),
        ("reset", c.reset),
        ("not opened: no free flow", c.no_free_flow),
        ("unexpected segments", c.unexpected),
        ("segments sent", c.segments_sent),
        ("segments received", c.segments_received),
    ] {
        let _ = writeln!(out, "| {name} | {count} |");
    }
    let rows: Vec<(&str, &str, Latency)> =
        [("SYN to SYN-ACK", figures.connect_ns), ("whole cycle", figures.cycle_ns)]
            .into_iter()
            .filter_map(|(what, latency)| Some((what, "", latency?)))
            .collect();
    out + &latency_table(&rows)
}
