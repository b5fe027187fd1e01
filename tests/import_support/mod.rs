//! What tests of importers share: a folder instead of the machine, options, and a configuration as
//! `ipvsadm -Sn` would show it.
#![allow(dead_code, reason = "each test file uses its part")]

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use gyre::config::{Match, MatchAddress, Protocol as WrittenProtocol};
use gyre::import::{Options, PortOption, Surroundings, braces};
use gyre::model::*;

/// Files of one folder; a few names.
pub struct Folder(pub PathBuf);

impl Surroundings for Folder {
    fn included(&self, pattern: &str, beside: &Path) -> Vec<(PathBuf, Result<String, String>)> {
        let mut found = Vec::new();
        for one in braces(pattern) {
            let whole = self.0.join(beside).join(one);
            let paths = glob::glob(whole.to_str().unwrap()).unwrap();
            for path in paths.map(Result::unwrap) {
                let name = path.strip_prefix(&self.0).unwrap().to_owned();
                found.push((name, std::fs::read_to_string(path).map_err(|e| e.to_string())));
            }
        }
        found
    }

    fn resolve(&self, host: &str) -> Vec<IpAddr> {
        match host {
            "www.example.test" => vec!["2001:db8::77".parse().unwrap(), [192, 0, 2, 77].into()],
            "one.example.test" => vec![[10, 9, 0, 1].into()],
            "three.example.test" => vec![[10, 9, 0, 3].into()],
            _ => Vec::new(),
        }
    }

    fn service_port(&self, name: &str, _: &str) -> Option<u16> {
        (name == "http").then_some(80)
    }
}

/// A port that has what every fixture needs, and matches for the marks in them.
pub fn options() -> Options {
    let one = |text: &str| Match {
        address: text.parse::<MatchAddress>().unwrap(),
        protocol: WrittenProtocol::Tcp,
    };
    let mut options = Options {
        config_id: Some("main".into()),
        ports: vec![PortOption {
            name: "wan".into(),
            device: "net_null0".into(),
            is_shared: false,
            addresses: ["203.0.113.2/24", "2001:db8:ffff::2/64"].map(|a| a.parse().unwrap()).into(),
        }],
        ..Options::default()
    };
    for mark in 1..=10 {
        let matches =
            vec![one(&format!("10.3.{mark}.0/24:0")), one(&format!("[fd00:3:{mark}::/48]:0"))];
        options.marks.insert(mark, matches);
    }
    options
}

fn flags(flags: HashFlags, name: &str) -> String {
    let words = [(flags.fallback, "fallback"), (flags.port, "port")];
    let words: Vec<String> =
        words.iter().filter(|(set, _)| *set).map(|(_, word)| format!("{name}-{word}")).collect();
    if words.is_empty() { String::new() } else { format!(" -b {}", words.join(",")) }
}

fn scheduler(spec: &ServiceSpec) -> (&'static str, String) {
    use SchedulerSpec::*;
    let word = match spec.scheduler {
        RoundRobin => "rr",
        WeightedRoundRobin => "wrr",
        LeastConnections => "lc",
        WeightedLeastConnections => "wlc",
        LocalityLeastConnections => "lblc",
        ReplicatedLocality => "lblcr",
        DestinationHash => "dh",
        SourceHash(set) => return ("sh", flags(set, "sh")),
        ShortestExpectedDelay => "sed",
        NeverQueue => "nq",
        Failover => "fo",
        Overflow => "ovf",
        KernelMaglev(set) => return ("mh", flags(set, "mh")),
        Maglev { .. } => "maglev",
    };
    (word, String::new())
}

fn name(spec: &ServiceSpec) -> String {
    match (spec.key, spec.mark) {
        (_, Some(mark)) => format!("-f {mark}{}", if spec.is_ipv4() { "" } else { " -6" }),
        (key, None) => {
            let option = if key.protocol() == Some(Protocol::Udp) { "-u" } else { "-t" };
            let to = std::net::SocketAddr::new(key.vip().unwrap(), key.port().unwrap_or(0));
            format!("{option} {to}")
        }
    }
}

fn persistence(spec: &ServiceSpec) -> String {
    let Some(Persistence { timeout_ms, client_bits }) = spec.persistence else {
        return String::new();
    };
    let mut text = format!(" -p {}", timeout_ms / 1000);
    match spec.is_ipv4() {
        true if client_bits < 32 => {
            let mask = Ipv4Addr::from(u32::MAX << (32 - client_bits));
            write!(text, " -M {mask}").unwrap();
        }
        false if client_bits < 128 => write!(text, " -M {client_bits}").unwrap(),
        _ => {}
    }
    text
}

fn tunnel(tunnel: Tunnel) -> String {
    let sum = |sum| match sum {
        GueChecksum::None => "",
        GueChecksum::Sum => " --tun-csum",
        GueChecksum::Remote => " --tun-remcsum",
    };
    match tunnel {
        Tunnel::Ipip => String::new(),
        Tunnel::Gre { checksum } => {
            format!(" --tun-type gre{}", if checksum { " --tun-csum" } else { "" })
        }
        Tunnel::Gue { port, checksum } => {
            format!(" --tun-type gue --tun-port {port}{}", sum(checksum))
        }
    }
}

fn server(spec: &ServiceSpec, server: &ServerSpec) -> String {
    let method = match server.mode {
        ForwardMode::DirectRoute => "-g",
        ForwardMode::Nat => "-m",
        ForwardMode::Tunnel => "-i",
        ForwardMode::Local => "-l",
        ForwardMode::FullNat => "--fullnat",
    };
    let mut text =
        format!("-a {} -r {} {method} -w {}", name(spec), server.endpoint(), server.weight);
    for (option, value) in [("-x", server.upper_threshold), ("-y", server.lower_threshold)] {
        if value != 0 {
            write!(text, " {option} {value}").unwrap();
        }
    }
    text + &tunnel(server.tunnel)
}

/// The rules, as `ipvsadm -Sn` orders their options, in the configuration's order.
pub fn rules(desired: &Desired) -> String {
    let mut text = String::new();
    for spec in &desired.services {
        let (word, flags) = scheduler(spec);
        let ops = if spec.one_packet { " -o" } else { "" };
        writeln!(text, "-A {} -s {word}{}{ops}{flags}", name(spec), persistence(spec)).unwrap();
        for one in &spec.servers {
            writeln!(text, "{}", server(spec, one)).unwrap();
        }
    }
    text
}
