//! The `node_ipvs_*` family as node_exporter's ipvs collector names it, so that boards made for a
//! kernel director go on working.

use std::fmt;

use super::sheet::{Labels, Sheet};
use crate::control::api::{ServerRow, ServiceRow, Stats};

/// Address and port apart, an IPv6 address without its brackets.
fn apart(endpoint: &str) -> (&str, &str) {
    let (address, port) = endpoint.rsplit_once(':').unwrap_or((endpoint, "0"));
    (address.trim_start_matches('[').trim_end_matches(']'), port)
}

/// A service as the collector has it: a group by its mark, which the kernel writes in hex.
struct Local {
    address: String,
    port: String,
    mark: String,
    proto: &'static str,
}

impl Local {
    fn of(service: &ServiceRow) -> Self {
        if service.protocol == "group" {
            let mark = format!("{:08X}", service.mark.unwrap_or(0));
            return Local { address: String::new(), port: "0".into(), mark, proto: "FWM" };
        }
        let (address, port) = apart(&service.address);
        let proto = if service.protocol == "udp" { "UDP" } else { "TCP" };
        Local { address: address.into(), port: port.into(), mark: String::new(), proto }
    }
}

fn labels<'l>(local: &'l Local, server: &'l ServerRow) -> Labels<'l> {
    let (remote, remote_port) = apart(&server.address);
    vec![
        ("local_address", &local.address),
        ("local_port", &local.port),
        ("remote_address", remote),
        ("remote_port", remote_port),
        ("proto", local.proto),
        ("local_mark", &local.mark),
    ]
}

/// What health checks took out is out.
fn listed(service: &ServiceRow) -> impl Iterator<Item = &ServerRow> {
    service.servers.iter().filter(|server| server.state != "out")
}

pub fn write(stats: &Stats, sheet: &mut Sheet<'_>) -> fmt::Result {
    type Read = fn(&ServiceRow) -> u64;
    let totals: [(&str, &str, Read); 5] = [
        ("node_ipvs_connections", "The total number of connections made.", |s| s.connections),
        ("node_ipvs_incoming_packets", "The total number of incoming packets.", |s| s.in_packets),
        ("node_ipvs_outgoing_packets", "The total number of outgoing packets.", |s| s.out_packets),
        ("node_ipvs_incoming_bytes", "The total amount of incoming data.", |s| s.in_bytes),
        ("node_ipvs_outgoing_bytes", "The total amount of outgoing data.", |s| s.out_bytes),
    ];
    for (name, about, read) in totals {
        sheet.counter((name, about), stats.services.iter().map(read).sum())?;
    }
    let locals: Vec<Local> = stats.services.iter().map(Local::of).collect();
    let rows: Vec<(&Local, &ServerRow)> = locals
        .iter()
        .zip(&stats.services)
        .flat_map(|(local, service)| listed(service).map(move |server| (local, server)))
        .collect();
    type ReadServer = fn(&ServerRow) -> u64;
    let backends: [(&str, &str, ReadServer); 3] = [
        (
            "node_ipvs_backend_connections_active",
            "The current active connections by local and remote address.",
            |server| server.active,
        ),
        (
            "node_ipvs_backend_connections_inactive",
            "The current inactive connections by local and remote address.",
            |server| server.inactive,
        ),
        (
            "node_ipvs_backend_weight",
            "The current backend weight by local and remote address.",
            |server| server.weight.into(),
        ),
    ];
    for (name, about, read) in backends {
        let samples = rows.iter().map(|(local, server)| (labels(local, server), read(server)));
        sheet.gauges((name, about), samples)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::apart;

    #[test]
    fn addresses_and_ports_come_apart() {
        assert_eq!(apart("192.0.2.1:80"), ("192.0.2.1", "80"));
        assert_eq!(apart("[2001:db8::1]:80"), ("2001:db8::1", "80"));
        assert_eq!(apart("192.0.2.1:80-90"), ("192.0.2.1", "80-90"));
    }
}
