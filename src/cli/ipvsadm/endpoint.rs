//! Addresses and ports as ipvsadm reads and writes them, by number or by name.
//!
//! Names are those of /etc/hosts and /etc/services, and towards addresses also the resolver's. An
//! address's name is not asked of DNS: a listing would wait for it.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};

/// What a service's or server's text says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The address.
    pub address: IpAddr,
    /// The port, if one was given.
    pub port: Option<u16>,
}

/// Reads `host[:port]`; an IPv6 address with a port, and only such a one, stands in brackets.
pub fn parse(text: &str, protocol: &str) -> Option<Endpoint> {
    if let Some(bracketed) = text.strip_prefix('[') {
        let (address, port) = bracketed.split_once("]:")?;
        let address = IpAddr::V6(address.parse().ok()?);
        return Some(Endpoint { address, port: Some(port_number(port, protocol)?) });
    }
    if let Ok(address) = text.parse() {
        return Some(Endpoint { address: IpAddr::V6(address), port: None });
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let address = ipv4(host).or_else(|| host_address(host))?;
    let port = match port {
        Some(port) => Some(port_number(port, protocol)?),
        None => None,
    };
    Some(Endpoint { address: IpAddr::V4(address), port })
}

/// As inet_aton reads it: one to four numbers, the last of which fills what is left; decimal,
/// octal behind `0`, hexadecimal behind `0x`.
pub fn ipv4(text: &str) -> Option<Ipv4Addr> {
    let parts: Option<Vec<u64>> = text.split('.').map(number).collect();
    let parts = parts.filter(|parts| parts.len() <= 4)?;
    let (last, bytes) = parts.split_last()?;
    if bytes.iter().any(|byte| *byte > 255) || *last >= 1 << (32 - 8 * bytes.len()) {
        return None;
    }
    let leading = bytes.iter().fold(0, |sum, byte| sum << 8 | byte) << (32 - 8 * bytes.len());
    Some(Ipv4Addr::from(u32::try_from(leading | last).ok()?))
}

fn number(text: &str) -> Option<u64> {
    let (digits, base) = match text {
        "0" => ("0", 10),
        _ if text.starts_with("0x") || text.starts_with("0X") => (&text[2..], 16),
        _ if text.starts_with('0') => (&text[1..], 8),
        _ => (text, 10),
    };
    // from_str_radix takes a sign.
    let plain = digits.chars().all(|c| c.is_digit(base)) && !digits.is_empty();
    u64::from_str_radix(digits, base).ok().filter(|_| plain)
}

fn host_address(host: &str) -> Option<Ipv4Addr> {
    (host, 0).to_socket_addrs().ok()?.find_map(|found| match found {
        SocketAddr::V4(found) => Some(*found.ip()),
        SocketAddr::V6(_) => None,
    })
}

fn port_number(text: &str, protocol: &str) -> Option<u16> {
    integer(text, 0, 65_535).map(|port| port as u16).or_else(|| service_port(text, protocol))
}

/// A whole decimal number within bounds, as strtol reads it.
pub fn integer(text: &str, least: i64, most: i64) -> Option<i64> {
    let number: i64 = text.trim_start().parse().ok()?;
    (least..=most).contains(&number).then_some(number)
}

/// The names of /etc/services: name, port, protocol.
fn services() -> Vec<(String, u16, String)> {
    let text = fs::read_to_string("/etc/services").unwrap_or_default();
    let mut all = Vec::new();
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let (Some(name), Some(place)) = (words.next(), words.next()) else { continue };
        let Some((port, protocol)) = place.split_once('/') else { continue };
        let Ok(port) = port.parse() else { continue };
        // The first name is the official one; the others are only for the way in.
        for name in [name].into_iter().chain(words) {
            all.push((name.to_owned(), port, protocol.to_owned()));
        }
    }
    all
}

fn service_port(name: &str, protocol: &str) -> Option<u16> {
    let is_it = |(n, _, p): &(String, u16, String)| n == name && p == protocol;
    services().into_iter().find(is_it).map(|(_, port, _)| port)
}

/// How addresses and ports are written.
#[derive(Debug)]
pub struct Names {
    /// Nothing is looked up where these are not there.
    tables: Option<Tables>,
}

#[derive(Debug)]
struct Tables {
    services: Vec<(String, u16, String)>,
    hosts: Vec<(IpAddr, String)>,
}

impl Names {
    /// Numbers only (`-n`).
    pub fn numeric() -> Self {
        Names { tables: None }
    }

    /// Names where there are any.
    pub fn known() -> Self {
        let text = fs::read_to_string("/etc/hosts").unwrap_or_default();
        let host = |line: &str| {
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            Some((words.next()?.parse().ok()?, words.next()?.to_owned()))
        };
        let hosts = text.lines().filter_map(host).collect();
        Names { tables: Some(Tables { services: services(), hosts }) }
    }

    /// `address:port`, with an IPv6 address in brackets.
    pub fn write(&self, endpoint: SocketAddr, protocol: &str) -> String {
        let Some(tables) = &self.tables else { return endpoint.to_string() };
        let address = endpoint.ip();
        let host = tables.hosts.iter().find(|(known, _)| *known == address);
        let host = host.map_or_else(|| address.to_string(), |(_, name)| name.clone());
        let is_it =
            |(_, port, p): &&(String, u16, String)| *port == endpoint.port() && p == protocol;
        let port = tables.services.iter().find(is_it);
        let port = port.map_or_else(|| endpoint.port().to_string(), |(name, ..)| name.clone());
        match address {
            IpAddr::V4(_) => format!("{host}:{port}"),
            IpAddr::V6(_) => format!("[{host}]:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(address: &str, port: Option<u16>) -> Option<Endpoint> {
        Some(Endpoint { address: address.parse().unwrap(), port })
    }

    #[test]
    fn brackets_are_for_ipv6_with_a_port() {
        assert_eq!(parse("10.1.0.1:80", "tcp"), endpoint("10.1.0.1", Some(80)));
        assert_eq!(parse("10.1.0.1", "tcp"), endpoint("10.1.0.1", None));
        assert_eq!(parse("[fd00::1]:80", "tcp"), endpoint("fd00::1", Some(80)));
        assert_eq!(parse("fd00::1:80", "tcp"), endpoint("fd00::1:80", None));
        for bad in ["[fd00::1]", "[fd00::1", "10.1.0.1:", "10.1.0.1:65536", "10.1.0.256:80", ""] {
            assert_eq!(parse(bad, "tcp"), None, "{bad}");
        }
    }

    #[test]
    fn addresses_are_read_as_inet_aton_does() {
        for (text, address) in [
            ("10.1", "10.0.0.1"),
            ("24", "0.0.0.24"),
            ("0x0a.010.0.1", "10.8.0.1"),
            ("1.2.65535", "1.2.255.255"),
            ("255.255.255.255", "255.255.255.255"),
        ] {
            assert_eq!(ipv4(text), Some(address.parse().unwrap()), "{text}");
        }
        for bad in ["", "1.2.3.4.5", "1.256.3.4", "4294967296", "1.2.65536", "+1.2.3.4", "0x.1.1.1"]
        {
            assert_eq!(ipv4(bad), None, "{bad}");
        }
    }
}
