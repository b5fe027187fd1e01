//! What `-L` and `-S` print of services and servers.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::endpoint::Names;
use super::line::{Line, Protocol};
use super::options::{Command, Kind};
use super::order::{self, Place};
use crate::control::api::{RateRow, ServerRow, ServiceRow};

/// The columns of a listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Columns {
    Stats,
    Rate,
    Thresholds,
    Persistent,
    Tunnels,
    Plain,
    /// Command lines, for `-R`.
    Rules,
}

/// How to print.
#[derive(Debug)]
pub struct Format {
    columns: Columns,
    names: Names,
    is_exact: bool,
    is_sorted: bool,
}

impl Format {
    /// What `line` asks for. Of several kinds of columns the first wins.
    pub fn of(line: &Line) -> Self {
        let has = |kind| line.given.has(kind);
        let kinds = [
            (line.command == Command::Save, Columns::Rules),
            (has(Kind::Stats), Columns::Stats),
            (has(Kind::Rate), Columns::Rate),
            (has(Kind::Thresholds), Columns::Thresholds),
            (has(Kind::PersistentConn), Columns::Persistent),
            (has(Kind::TunInfo), Columns::Tunnels),
        ];
        let asked = kinds.into_iter().find(|(asked, _)| *asked);
        Format {
            columns: asked.map_or(Columns::Plain, |(_, columns)| columns),
            names: if has(Kind::Numeric) { Names::numeric() } else { Names::known() },
            is_exact: has(Kind::Exact),
            is_sorted: !has(Kind::NoSort),
        }
    }

    /// Prints a heading and the services.
    pub fn write(&self, services: &[ServiceRow], out: &mut impl Write) -> io::Result<()> {
        self.heading(out)?;
        let is_shown = |service: &&ServiceRow| self.columns != Columns::Rules || has_rule(service);
        let mut services: Vec<(Place, &ServiceRow)> =
            services.iter().filter(is_shown).map(|service| (place(service), service)).collect();
        if self.is_sorted {
            order::sort(&mut services, &|(one, _), (other, _)| order::by_place(one, other));
        }
        for (place, service) in services {
            self.service(&place, service, out)?;
        }
        Ok(())
    }

    fn heading(&self, out: &mut impl Write) -> io::Result<()> {
        const PLACE: &str = "Prot LocalAddress:Port";
        const REMOTE: &str = "  -> RemoteAddress:Port";
        let wide = |out: &mut dyn Write, names: [&str; 5]| {
            let [a, b, c, d, e] = names;
            writeln!(out, "{PLACE:<33} {a:>8} {b:>8} {c:>8} {d:>8} {e:>8}\n{REMOTE}")
        };
        match self.columns {
            Columns::Rules => Ok(()),
            Columns::Stats => wide(out, ["Conns", "InPkts", "OutPkts", "InBytes", "OutBytes"]),
            Columns::Rate => wide(out, ["CPS", "InPPS", "OutPPS", "InBPS", "OutBPS"]),
            Columns::Thresholds => writeln!(
                out,
                "{PLACE:<33} {:<10} {:<10} {:<10} {:<10}\n{REMOTE}",
                "Uthreshold", "Lthreshold", "ActiveConn", "InActConn"
            ),
            Columns::Persistent => writeln!(
                out,
                "{PLACE:<33} {:<9} {:<11} {:<10} {:<10}\n{REMOTE}",
                "Weight", "PersistConn", "ActiveConn", "InActConn"
            ),
            Columns::Tunnels => writeln!(
                out,
                "{PLACE} Scheduler Flags\n{REMOTE}           Forward TunnelInfo    Weight \
                 ActiveConn InActConn"
            ),
            Columns::Plain => writeln!(
                out,
                "{PLACE} Scheduler Flags\n{REMOTE}           Forward Weight ActiveConn InActConn"
            ),
        }
    }

    fn service(&self, place: &Place, service: &ServiceRow, out: &mut impl Write) -> io::Result<()> {
        let name = self.name(place, service);
        match self.columns {
            Columns::Rules => writeln!(out, "-A {name}{}", rule_options(service))?,
            Columns::Stats => {
                write!(out, "{name:<33}")?;
                self.numbers(counts(service), out)?;
            }
            Columns::Rate => {
                write!(out, "{name:<33}")?;
                self.numbers(rates(&service.rates), out)?;
            }
            _ => writeln!(out, "{name} {}", listed_options(service))?,
        }
        let mut servers: Vec<(SocketAddr, &ServerRow)> = service
            .servers
            .iter()
            // What health checks took out is out, as if by `-d`.
            .filter(|server| server.state != "out")
            .filter_map(|server| Some((server.address.parse().ok()?, server)))
            .collect();
        // The kernel's list begins with what was added last.
        servers.reverse();
        if self.is_sorted {
            order::sort(&mut servers, &|one, other| order::by_endpoint(one.0, other.0));
        }
        for (endpoint, server) in servers {
            let endpoint = self.names.write(endpoint, place.protocol.word());
            if self.columns == Columns::Rules {
                writeln!(out, "-a {name} -r {endpoint} {}", server_rule(server))?;
            } else {
                // ipvsadm cuts what does not fit its column.
                let endpoint: String = endpoint.chars().take(28).collect();
                write!(out, "  -> {endpoint:<28}")?;
                self.server(server, out)?;
            }
        }
        Ok(())
    }

    /// The service as named in a listing or in a rule.
    fn name(&self, place: &Place, service: &ServiceRow) -> String {
        let is_rule = self.columns == Columns::Rules;
        if !has_rule(service) {
            let word = if service.protocol == "group" { "GRP" } else { &service.protocol };
            return format!("{:<4} {}", word.to_uppercase(), service.address);
        }
        match (place.mark, is_rule) {
            (0, true) => {
                let option = match place.protocol {
                    Protocol::Tcp => "-t",
                    Protocol::Udp => "-u",
                    Protocol::Sctp => "--sctp-service",
                };
                format!("{option} {}", self.names.write(place.address, place.protocol.word()))
            }
            (0, false) => {
                let word = place.protocol.word().to_uppercase();
                format!("{word:<4} {}", self.names.write(place.address, place.protocol.word()))
            }
            (mark, true) => format!("-f {mark}{}", if place.is_ipv6 { " -6" } else { "" }),
            (mark, false) => format!("FWM  {mark}{}", if place.is_ipv6 { " IPv6" } else { "" }),
        }
    }

    fn server(&self, server: &ServerRow, out: &mut impl Write) -> io::Result<()> {
        let ServerRow { active, inactive, templates, upper_threshold, lower_threshold, .. } =
            server;
        let weight = weight(server);
        match self.columns {
            Columns::Stats => self.numbers(
                [
                    server.connections,
                    server.in_packets,
                    server.out_packets,
                    server.in_bytes,
                    server.out_bytes,
                ],
                out,
            ),
            Columns::Rate => self.numbers(rates(&server.rates), out),
            Columns::Thresholds => writeln!(
                out,
                " {upper_threshold:<10} {lower_threshold:<10} {active:<10} {inactive:<10}"
            ),
            Columns::Persistent => {
                writeln!(out, " {weight:<9} {templates:<11} {active:<10} {inactive:<10}")
            }
            Columns::Tunnels => writeln!(
                out,
                " {:<7} {:<13} {weight:<6} {active:<10} {inactive:<10}",
                forward(server),
                tunnel_info(server)
            ),
            Columns::Plain | Columns::Rules => {
                writeln!(out, " {:<7} {weight:<6} {active:<10} {inactive:<10}", forward(server))
            }
        }
    }

    fn numbers(&self, numbers: [u64; 5], out: &mut impl Write) -> io::Result<()> {
        let exact = |number| format!(" {number:>8}");
        let texts = if self.is_exact { numbers.map(exact) } else { numbers.map(short) };
        writeln!(out, "{}", texts.concat())
    }
}

/// A number in nine columns, with a letter where it is too large for them.
fn short(number: u64) -> String {
    const BILLION: u64 = 1_000_000_000;
    match number {
        0..100_000_000 => format!("{number:>9}"),
        100_000_000..BILLION => format!("{:>8}K", number / 1_000),
        BILLION..100_000_000_000 => format!("{:>8}M", number / 1_000_000),
        100_000_000_000..100_000_000_000_000 => format!("{:>8}G", number / BILLION),
        _ => format!("{:>8}T", number / (1_000 * BILLION)),
    }
}

fn counts(service: &ServiceRow) -> [u64; 5] {
    [
        service.connections,
        service.in_packets,
        service.out_packets,
        service.in_bytes,
        service.out_bytes,
    ]
}

fn rates(rates: &RateRow) -> [u64; 5] {
    [rates.connections, rates.in_packets, rates.out_packets, rates.in_bytes, rates.out_bytes]
}

/// Whether ipvsadm has words for a service: not for several ports, nor for a group without a mark.
pub fn has_rule(service: &ServiceRow) -> bool {
    match service.protocol.as_str() {
        "group" => service.mark.is_some(),
        _ => service.address.parse::<SocketAddr>().is_ok(),
    }
}

/// Where a service is listed.
fn place(service: &ServiceRow) -> Place {
    let protocol = if service.protocol == "udp" { Protocol::Udp } else { Protocol::Tcp };
    // A range of ports stands where its first one would.
    let first =
        service.address.rsplit_once('-').map_or(service.address.as_str(), |(first, _)| first);
    let unspecified = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
    let (mark, address) = match service.protocol.as_str() {
        // Groups without a mark come behind all others.
        "group" => (service.mark.unwrap_or(i32::MAX as u32), unspecified),
        _ => (0, first.parse().unwrap_or(unspecified)),
    };
    Place { mark, is_ipv6: service.family == "ipv6", protocol, address }
}

/// A netmask as `-M` takes it; none where all bits count.
fn mask(service: &ServiceRow) -> Option<String> {
    let bits = service.persistence_prefix?;
    match (service.family.as_str(), bits) {
        ("ipv6", 128) | ("ipv4", 32) => None,
        ("ipv6", bits) => Some(bits.to_string()),
        (_, bits) => {
            let ones = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            Some(IpAddr::V4(ones.into()).to_string())
        }
    }
}

/// ipvsadm's order of flags: the fallback's bit comes first.
fn flags(service: &ServiceRow) -> Option<String> {
    let mut flags = service.scheduler_flags.clone();
    flags.sort();
    (!flags.is_empty()).then(|| flags.join(","))
}

fn listed_options(service: &ServiceRow) -> String {
    let mut text = service.scheduler.clone();
    if let Some(flags) = flags(service) {
        text.push_str(&format!(" ({flags})"));
    }
    if let Some(seconds) = service.persistence_timeout_s {
        text.push_str(&format!(" persistent {seconds}"));
        if let Some(mask) = mask(service) {
            text.push_str(&format!(" mask {mask}"));
        }
    }
    if service.one_packet {
        text.push_str(" ops");
    }
    if service.synproxy {
        text.push_str(" synproxy");
    }
    text
}

fn rule_options(service: &ServiceRow) -> String {
    let mut text = format!(" -s {}", service.scheduler);
    if let Some(seconds) = service.persistence_timeout_s {
        text.push_str(&format!(" -p {seconds}"));
        if let Some(mask) = mask(service) {
            text.push_str(&format!(" -M {mask}"));
        }
    }
    if service.one_packet {
        text.push_str(" -o");
    }
    if let Some(flags) = flags(service) {
        text.push_str(&format!(" -b {flags}"));
    }
    if service.synproxy {
        text.push_str(" --synproxy");
    }
    if let Some(pool) = &service.local_addresses {
        text.push_str(&format!(" --local-address {pool}"));
    }
    text
}

/// What is draining takes no new flows.
fn weight(server: &ServerRow) -> u32 {
    if server.state == "draining" { 0 } else { server.weight }
}

/// The method's name. A server that is the director itself is listed as the kernel lists it.
fn forward(server: &ServerRow) -> &'static str {
    match server.forwarding.as_str() {
        "nat" => "Masq",
        "tun" => "Tunnel",
        "fullnat" => "FullNat",
        _ => "Route",
    }
}

fn server_rule(server: &ServerRow) -> String {
    let weight = weight(server);
    let kind = server.tunnel.as_deref().unwrap_or("ipip");
    let sum = match server.tunnel_checksum.as_deref() {
        Some("csum") => "--tun-csum",
        Some("remcsum") => "--tun-remcsum",
        _ => "--tun-nocsum",
    };
    match (server.forwarding.as_str(), kind) {
        ("nat", _) => format!("-m -w {weight}"),
        ("fullnat", _) => format!("--fullnat -w {weight}"),
        ("tun", "gue") => {
            let port = server.tunnel_port.unwrap_or(0);
            format!("-i -w {weight} --tun-type gue --tun-port {port} {sum}")
        }
        ("tun", "gre") => format!("-i -w {weight} --tun-type gre {sum}"),
        ("tun", kind) => format!("-i -w {weight} --tun-type {kind}"),
        _ => format!("-g -w {weight}"),
    }
}

fn tunnel_info(server: &ServerRow) -> String {
    let sum = match server.tunnel_checksum.as_deref() {
        Some("csum") => "+c",
        Some("remcsum") => "r+c",
        _ => "-c",
    };
    match (server.tunnel.as_deref(), server.tunnel_port) {
        (None, _) => "n/a".into(),
        (Some("gue"), Some(port)) => format!("gue:{port}:{sum}"),
        (Some("gre"), _) => format!("gre:{sum}"),
        (Some(kind), _) => kind.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_lose_their_tail() {
        for (number, text) in [
            (0, "        0"),
            (99_999_999, " 99999999"),
            (100_000_000, "  100000K"),
            (999_999_999, "  999999K"),
            (1_000_000_000, "    1000M"),
            (100_000_000_000, "     100G"),
            (100_000_000_000_000, "     100T"),
        ] {
            assert_eq!(short(number), text);
        }
    }
}
