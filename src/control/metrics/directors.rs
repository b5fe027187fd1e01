//! gyre's own families but for workers: the process, services, servers, ports, local addresses.

use std::fmt;

use super::sheet::{Buckets, Labels, Sheet};
use super::{CheckFigures, Facts};
use crate::control::api::{LocalAddressRow, PortRow, ServerRow, ServiceRow};

pub fn write(facts: &Facts, sheet: &mut Sheet<'_>) -> fmt::Result {
    process(facts, sheet)?;
    checks(&facts.checks, sheet)?;
    services(&facts.stats.services, sheet)?;
    servers(&facts.stats.services, sheet)?;
    ports(&facts.stats.ports, sheet)?;
    local_addresses(&facts.stats.local_addresses, sheet)
}

fn process(facts: &Facts, sheet: &mut Sheet<'_>) -> fmt::Result {
    let status = &facts.status;
    let about = "The version that runs; always 1";
    sheet.gauges(("gyre_build_info", about), [(vec![("version", &*status.version)], 1)])?;
    let numbers: [(&str, &str, f64); 6] = [
        ("gyre_uptime_seconds", "Seconds since the start", status.uptime_s as f64),
        ("gyre_config_revision", "Revision of the configuration in force", status.revision as f64),
        (
            "gyre_config_unsaved_changes",
            "Changes made over the socket that the file does not have",
            facts.unsaved as f64,
        ),
        (
            "gyre_config_unconfirmed",
            "Whether a configuration waits to be confirmed",
            f64::from(u8::from(facts.unconfirmed)),
        ),
        ("gyre_services", "Virtual services", f64::from(status.services)),
        (
            "gyre_neighbours_unresolved",
            "Next hops whose MAC address is not known",
            f64::from(status.neighbours_unresolved),
        ),
    ];
    for (name, about, value) in numbers {
        sheet.gauge((name, about), value)?;
    }
    let replies = facts.stats.replies.iter().map(|c| (vec![("kind", &*c.name)], c.count));
    sheet.counters(("gyre_replies", "Frames that gyre itself answered with"), replies)?;
    let helpers = facts.stats.helpers.iter().map(|c| (vec![("event", &*c.name)], c.count));
    sheet.counters(("gyre_helper_events", "What protocol helpers did"), helpers)
}

fn checks(figures: &CheckFigures, sheet: &mut Sheet<'_>) -> fmt::Result {
    sheet.gauge(("gyre_checks", "Health checks"), figures.checks as f64)?;
    let rounds = ["good", "bad", "not_carried_out"].into_iter().zip(figures.rounds);
    let rounds = rounds.map(|(result, count)| (vec![("result", result)], count));
    sheet.counters(("gyre_check_rounds", "Rounds of health checks, by how they ended"), rounds)?;
    let about = "Rounds that began later than planned: the director has too little time for them";
    sheet.counter(("gyre_check_late", about), figures.late)?;
    let about = "Time that good rounds of health checks took, retries left out, by kind";
    let times = figures.times.all().map(|(kind, spread)| {
        let (sum, count, buckets) = (spread.took.as_secs_f64(), spread.count(), spread.buckets());
        (vec![("kind", kind)], Buckets { sum, count, buckets })
    });
    sheet.histograms(("gyre_check_seconds", about), times)
}

/// A service as people name it, and as it is known.
fn service_labels<'l>(key: &'l str, service: &'l ServiceRow) -> Labels<'l> {
    vec![("service", key), ("name", service.name.as_deref().unwrap_or(""))]
}

fn keys(services: &[ServiceRow]) -> Vec<String> {
    services.iter().map(|s| format!("{} {}", s.protocol, s.address)).collect()
}

fn services(services: &[ServiceRow], sheet: &mut Sheet<'_>) -> fmt::Result {
    type Read = fn(&ServiceRow) -> u64;
    let keys = keys(services);
    let rows = || keys.iter().zip(services).map(|(key, s)| (service_labels(key, s), s));
    let about = "Live connections of a service";
    sheet.gauges(("gyre_service_connections", about), rows().map(|(l, s)| (l, s.flows)))?;
    let usable = |service: &ServiceRow| service.servers.iter().filter(|s| is_up(s)).count() as u64;
    let about = "Servers of a service that take new connections and can be reached";
    sheet.gauges(("gyre_service_servers_up", about), rows().map(|(l, s)| (l, usable(s))))?;
    let about = "Whether enough servers of a service are good, where something depends on it";
    let quorums = rows().filter_map(|(l, s)| Some((l, u64::from(s.quorum.as_deref()? == "up"))));
    sheet.gauges(("gyre_service_quorum_up", about), quorums)?;
    let counters: [(&str, &str, Read); 4] = [
        ("gyre_service_connections_created", "Connections admitted", |s| s.connections),
        ("gyre_service_refused", "First packets refused", |s| s.refused),
        ("gyre_service_cookies_sent", "SYN cookies sent", |s| s.cookies_sent),
        ("gyre_service_cookies_proven", "SYN cookies proven by clients", |s| s.cookies_proven),
    ];
    for (name, about, read) in counters {
        sheet.counters((name, about), rows().map(|(labels, s)| (labels, read(s))))?;
    }
    let both = |read: [Read; 2]| {
        rows().flat_map(move |(labels, service)| {
            ["in", "out"].into_iter().zip(read).map(move |(direction, read)| {
                let mut labels = labels.clone();
                labels.push(("direction", direction));
                (labels, read(service))
            })
        })
    };
    let about = "Packets of a service, from clients (in) and to them (out, where gyre sees them)";
    sheet.counters(("gyre_service_packets", about), both([|s| s.in_packets, |s| s.out_packets]))?;
    let about = "Bytes of these, IP headers included";
    sheet.counters(("gyre_service_bytes", about), both([|s| s.in_bytes, |s| s.out_bytes]))
}

/// Whether new connections go there.
fn is_up(server: &ServerRow) -> bool {
    server.state == "active" && server.reachable && server.weight > 0
}

fn servers(services: &[ServiceRow], sheet: &mut Sheet<'_>) -> fmt::Result {
    type Read = fn(&ServerRow) -> u64;
    let rows = || {
        services.iter().flat_map(|service| service.servers.iter()).map(|server| {
            let labels: Labels<'_> =
                vec![("service", &*server.service), ("server", &*server.address)];
            (labels, server)
        })
    };
    let gauges: [(&str, &str, Read); 5] = [
        ("gyre_server_up", "Whether new connections go to a server", |s| is_up(s).into()),
        ("gyre_server_healthy", "Whether no health check of a server fails", |s| {
            (s.health != "down").into()
        }),
        ("gyre_server_draining", "Whether it takes no new ones and goes when the last ends", |s| {
            (s.state == "draining").into()
        }),
        ("gyre_server_weight", "Its share of new connections", |s| s.weight.into()),
        ("gyre_server_templates", "Persistence templates that hold clients to it", |s| s.templates),
    ];
    for (name, about, read) in gauges {
        sheet.gauges((name, about), rows().map(|(labels, server)| (labels, read(server))))?;
    }
    let both = |(label, words): (&'static str, [&'static str; 2]), read: [Read; 2]| {
        rows().flat_map(move |(labels, server)| {
            words.into_iter().zip(read).map(move |(word, read)| {
                let mut labels = labels.clone();
                labels.push((label, word));
                (labels, read(server))
            })
        })
    };
    let (state, direction) = (("state", ["active", "inactive"]), ("direction", ["in", "out"]));
    let about = "Live connections of a server, by whether data may flow";
    let read: [Read; 2] = [|s| s.active, |s| s.inactive];
    sheet.gauges(("gyre_server_connections", about), both(state, read))?;
    let counters: [(&str, &str, Read); 2] = [
        ("gyre_server_connections_created", "Connections scheduled to a server", |s| s.connections),
        ("gyre_server_refused", "Handshakes it reset or left unanswered", |s| s.refused),
    ];
    for (name, about, read) in counters {
        sheet.counters((name, about), rows().map(|(labels, server)| (labels, read(server))))?;
    }
    let about = "Packets to a server (in) and from it (out, where gyre sees them)";
    let read: [Read; 2] = [|s| s.in_packets, |s| s.out_packets];
    sheet.counters(("gyre_server_packets", about), both(direction, read))?;
    let read: [Read; 2] = [|s| s.in_bytes, |s| s.out_bytes];
    sheet.counters(
        ("gyre_server_bytes", "Bytes of these, IP headers included"),
        both(direction, read),
    )
}

fn ports(ports: &[PortRow], sheet: &mut Sheet<'_>) -> fmt::Result {
    type Read = fn(&PortRow) -> u64;
    let rows = || ports.iter().map(|port| (vec![("port", &*port.name)], port));
    let about = "Whether a port's link is up";
    sheet.gauges(("gyre_port_up", about), rows().map(|(l, p)| (l, p.link_up.into())))?;
    let about = "Speed of its link, where the device tells";
    let speed = rows().filter_map(|(l, p)| Some((l, u64::from(p.link_mbps?) * 125_000)));
    sheet.gauges(("gyre_port_speed_bytes", about), speed)?;
    let counters: [(&str, &str, Read); 6] = [
        ("gyre_port_receive_frames", "Frames received by workers", |p| p.rx_frames),
        ("gyre_port_receive_bytes", "Bytes of these, without FCS", |p| p.rx_bytes),
        ("gyre_port_transmit_frames", "Frames sent by workers", |p| p.tx_frames),
        ("gyre_port_transmit_bytes", "Bytes of these, without FCS", |p| p.tx_bytes),
        ("gyre_port_to_kernel_frames", "Frames given to the kernel", |p| p.to_kernel),
        ("gyre_port_from_kernel_frames", "Frames taken from the kernel", |p| p.from_kernel),
    ];
    for (name, about, read) in counters {
        sheet.counters((name, about), rows().map(|(labels, port)| (labels, read(port))))?;
    }
    let lost: [(&str, Read); 8] = [
        ("rx_missed", |p| p.rx_missed),
        ("rx_nombuf", |p| p.rx_nombuf),
        ("rx_errors", |p| p.rx_errors),
        ("tx_errors", |p| p.tx_errors),
        ("tx_full", |p| p.tx_full),
        ("kernel_refused", |p| p.kernel_refused),
        ("kernel_ring_full", |p| p.kernel_ring_full),
        ("kernel_nombuf", |p| p.kernel_nombuf),
    ];
    let samples = ports.iter().flat_map(|port| {
        lost.iter()
            .map(move |(cause, read)| (vec![("port", &*port.name), ("cause", *cause)], read(port)))
    });
    let about = "Frames lost at a port, before or behind the workers";
    sheet.counters(("gyre_port_lost_frames", about), samples)?;
    let pools = |read: fn(&crate::control::api::MempoolRow) -> u32| {
        ports.iter().flat_map(move |port| {
            port.mempools.iter().map(move |pool| {
                (vec![("port", &*port.name), ("pool", &*pool.name)], read(pool).into())
            })
        })
    };
    sheet.gauges(("gyre_port_buffers", "Packet buffers there are"), pools(|pool| pool.size))?;
    let about = "Packet buffers in queues, rings and workers' hands";
    sheet.gauges(("gyre_port_buffers_used", about), pools(|pool| pool.in_use))
}

fn local_addresses(rows: &[LocalAddressRow], sheet: &mut Sheet<'_>) -> fmt::Result {
    let labelled =
        || rows.iter().map(|row| (vec![("pool", &*row.pool), ("address", &*row.address)], row));
    let about = "Pairs of source port and server in use";
    sheet.gauges(("gyre_source_ports_used", about), labelled().map(|(l, r)| (l, r.used)))?;
    let about = "Pairs of source port and server that are free";
    sheet.gauges(("gyre_source_ports_free", about), labelled().map(|(l, r)| (l, r.free)))?;
    let about = "Source ports taken over from a closed connection";
    sheet.counters(("gyre_source_ports_reused", about), labelled().map(|(l, r)| (l, r.reused)))?;
    let about = "Connections refused for want of a source port";
    let samples = labelled().map(|(l, r)| (l, r.exhausted));
    sheet.counters(("gyre_source_ports_exhausted", about), samples)
}
