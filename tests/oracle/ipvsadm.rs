//! `ipvsadm` command lines as calls of the registry, for recordings only; the product's own front
//! end is another matter.
//!
//! What gyre cannot do yet is an `Err` with a word; `exceptions.toml` excuses it by that word.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use gyre::model::*;

use crate::lab::{Lab, MarkMatch};

/// What gyre lacks for a command.
pub type Needs = &'static str;

/// One parsed command line.
#[derive(Clone, Debug, Default)]
struct Line {
    command: char,
    protocol: Option<Protocol>,
    service: Option<String>,
    mark: Option<u32>,
    is_ipv6: bool,
    scheduler: Option<String>,
    flags: Vec<String>,
    persistence_s: Option<u32>,
    netmask: Option<String>,
    one_packet: bool,
    server: Option<String>,
    method: Option<char>,
    weight: Option<u32>,
    upper: u32,
    lower: u32,
    tunnel: Vec<(String, Option<String>)>,
    timeouts_s: Vec<u32>,
}

/// Long names of what recordings use.
const LONG: [(&str, &str); 26] = [
    ("--add-service", "-A"),
    ("--edit-service", "-E"),
    ("--delete-service", "-D"),
    ("--clear", "-C"),
    ("--add-server", "-a"),
    ("--edit-server", "-e"),
    ("--delete-server", "-d"),
    ("--zero", "-Z"),
    ("--tcp-service", "-t"),
    ("--udp-service", "-u"),
    ("--fwmark-service", "-f"),
    ("--ipv6", "-6"),
    ("--scheduler", "-s"),
    ("--sched-flags", "-b"),
    ("--persistent", "-p"),
    ("--netmask", "-M"),
    ("--real-server", "-r"),
    ("--gatewaying", "-g"),
    ("--ipip", "-i"),
    ("--masquerading", "-m"),
    ("--weight", "-w"),
    ("--u-threshold", "-x"),
    ("--l-threshold", "-y"),
    ("--ops", "-o"),
    ("--pe", "-P"),
    ("--numeric", "-n"),
];

fn parse(args: &str) -> Result<Line, Needs> {
    let mut line = Line::default();
    let mut words = args.split_whitespace().peekable();
    while let Some(word) = words.next() {
        let short = LONG.iter().find(|(long, _)| *long == word).map_or(word, |(_, short)| *short);
        let mut value = || words.next().unwrap_or_else(|| panic!("{args}: {word} needs a value"));
        match short {
            "-A" | "-E" | "-D" | "-C" | "-a" | "-e" | "-d" | "-Z" => {
                line.command = short.chars().nth(1).unwrap();
            }
            "--set" => {
                line.command = 'S';
                line.timeouts_s = (0..3).map(|_| value().parse().unwrap()).collect();
            }
            "-t" | "-u" => {
                line.protocol = Some(if short == "-t" { Protocol::Tcp } else { Protocol::Udp });
                line.service = Some(value().into());
            }
            "-f" => line.mark = Some(value().parse().unwrap()),
            "-s" => line.scheduler = Some(value().into()),
            "-b" => line.flags = value().split(',').map(str::to_string).collect(),
            "-M" => line.netmask = Some(value().into()),
            "-r" => line.server = Some(value().into()),
            "-g" | "-i" | "-m" => line.method = short.chars().nth(1),
            "-w" => line.weight = Some(value().parse().unwrap()),
            "-x" => line.upper = value().parse().unwrap(),
            "-y" => line.lower = value().parse().unwrap(),
            "-o" => line.one_packet = true,
            "-p" => {
                let given = words.next_if(|word| !word.starts_with('-'));
                line.persistence_s = Some(given.map_or(360, |seconds| seconds.parse().unwrap()));
            }
            "--tun-type" | "--tun-port" => line.tunnel.push((short.into(), Some(value().into()))),
            "--tun-nocsum" | "--tun-csum" | "--tun-remcsum" => {
                line.tunnel.push((short.into(), None));
            }
            "-6" => line.is_ipv6 = true,
            "-n" => {}
            "-P" => return Err("persistence engines"),
            "--sctp-service" => return Err("SCTP"),
            "--start-daemon" | "--stop-daemon" => return Err("connection synchronisation"),
            other => {
                println!("oracle: `ipvsadm {args}`: {other} is unknown here");
                return Err("an option of ipvsadm");
            }
        }
    }
    Ok(line)
}

/// `address:port`, `[v6]:port`, or an address alone with `port_default`.
fn endpoint(text: &str, port_default: u16) -> SocketAddr {
    text.parse().unwrap_or_else(|_| {
        let bare = text.trim_start_matches('[').trim_end_matches(']');
        let address: IpAddr = bare.parse().unwrap_or_else(|_| panic!("{text}: no address"));
        SocketAddr::new(address, port_default)
    })
}

/// A scheduler by its name and flags.
pub fn scheduler(name: &str, flags: &[String]) -> Result<SchedulerSpec, Needs> {
    let flags = |port: &str, fallback: &str| HashFlags {
        port: flags.iter().any(|flag| flag == port),
        fallback: flags.iter().any(|flag| flag == fallback),
    };
    Ok(match name {
        "rr" => SchedulerSpec::RoundRobin,
        "wrr" => SchedulerSpec::WeightedRoundRobin,
        "lc" => SchedulerSpec::LeastConnections,
        "wlc" => SchedulerSpec::WeightedLeastConnections,
        "lblc" => SchedulerSpec::LocalityLeastConnections,
        "lblcr" => SchedulerSpec::ReplicatedLocality,
        "dh" => SchedulerSpec::DestinationHash,
        "sh" => SchedulerSpec::SourceHash(flags("sh-port", "sh-fallback")),
        "sed" => SchedulerSpec::ShortestExpectedDelay,
        "nq" => SchedulerSpec::NeverQueue,
        "fo" => SchedulerSpec::Failover,
        "ovf" => SchedulerSpec::Overflow,
        "mh" => SchedulerSpec::KernelMaglev(flags("mh-port", "mh-fallback")),
        other => {
            println!("oracle: the scheduler {other} is unknown here");
            return Err("another scheduler");
        }
    })
}

/// The service's port; 0 where it has several.
fn service_port(key: &ServiceKey) -> u16 {
    key.port().unwrap_or(0)
}

impl Line {
    fn key(&self) -> Result<ServiceKey, Needs> {
        if let Some(mark) = self.mark {
            let family = if self.is_ipv6 { "-6" } else { "" };
            return Ok(ServiceKey::group(&format!("fwmark-{mark}{family}")).unwrap());
        }
        let place = endpoint(self.service.as_deref().expect("a service"), 0);
        let protocol = self.protocol.unwrap_or(Protocol::Tcp);
        Ok(ServiceKey::new(protocol, place.ip(), place.port()))
    }

    /// `-M`: a mask for IPv4, a length for IPv6.
    fn client_bits(&self, is_ipv4: bool) -> u8 {
        let Some(mask) = &self.netmask else { return if is_ipv4 { 32 } else { 128 } };
        match mask.parse::<std::net::Ipv4Addr>() {
            Ok(mask) => u32::from(mask).leading_ones() as u8,
            Err(_) => mask.parse().unwrap(),
        }
    }

    fn service(&self, marks: &BTreeMap<u32, Vec<MarkMatch>>) -> Result<ServiceSpec, Needs> {
        let mut spec = ServiceSpec::new(
            self.key()?,
            scheduler(self.scheduler.as_deref().unwrap_or("wlc"), &self.flags)?,
        );
        if let Some(mark) = self.mark {
            let any = if self.is_ipv6 { "::/0" } else { "0.0.0.0/0" }.parse().unwrap();
            let marked = marks.get(&mark).into_iter().flatten();
            let one = |one: &MarkMatch| TrafficMatch {
                protocol: one.protocol,
                prefix: any,
                ports: Ports::range(one.ports.0, one.ports.1).unwrap(),
            };
            spec.matches = marked.map(one).collect();
            spec.mark = Some(mark);
        }
        spec.persistence = self.persistence_s.map(|seconds| Persistence {
            timeout_ms: seconds * 1000,
            client_bits: self.client_bits(spec.is_ipv4()),
        });
        spec.one_packet = self.one_packet;
        spec.ttl = TtlPolicy::Decrement;
        Ok(spec)
    }

    fn server(&self, key: &ServiceKey) -> Result<ServerSpec, Needs> {
        let place = endpoint(self.server.as_deref().expect("a server"), service_port(key));
        let is_local = place.ip().is_loopback() || crate::host::is_own(place.ip());
        let mode = match self.method.unwrap_or('g') {
            _ if is_local => ForwardMode::Local,
            'g' => ForwardMode::DirectRoute,
            'm' => ForwardMode::Nat,
            _ => ForwardMode::Tunnel,
        };
        // DR and TUN servers have the service's port, whatever was given.
        let port = if mode.maps_ports() { place.port() } else { service_port(key) };
        Ok(ServerSpec {
            upper_threshold: self.upper,
            lower_threshold: self.lower,
            tunnel: self.tunnel(),
            ..ServerSpec::new((place.ip(), port).into(), self.weight.unwrap_or(1), mode)
        })
    }
}

impl Line {
    fn tunnel(&self) -> Tunnel {
        let option = |name: &str| self.tunnel.iter().find(|(given, _)| given == name);
        let value = |name| option(name).and_then(|(_, value)| value.as_deref());
        let (sum, remote) = (option("--tun-csum").is_some(), option("--tun-remcsum").is_some());
        match value("--tun-type").unwrap_or("ipip") {
            "gre" => Tunnel::Gre { checksum: sum },
            "gue" => Tunnel::Gue {
                port: value("--tun-port").unwrap().parse().unwrap(),
                checksum: match (sum, remote) {
                    (false, false) => GueChecksum::None,
                    (true, _) => GueChecksum::Sum,
                    (_, true) => GueChecksum::Remote,
                },
            },
            _ => Tunnel::Ipip,
        }
    }
}

/// Makes the change that `ipvsadm` with these arguments makes.
pub fn run(lab: &mut Lab, args: &str) -> Result<(), Needs> {
    let line = parse(args)?;
    let outcome = match line.command {
        'C' => {
            let keys: Vec<ServiceKey> = lab.registry.services().map(|(_, spec)| spec.key).collect();
            keys.iter().try_for_each(|key| {
                lab.change(|registry, _| registry.remove_service(key, Removal::Now))
            })
        }
        'A' => {
            let mut spec = line.service(&lab.marks)?;
            if lab.helps_ftp && spec.key.port() == Some(FTP_PORT) {
                spec.helper = Some(Helper::Ftp);
            }
            lab.change(|registry, hops| registry.add_service(&spec, hops))
        }
        'E' => {
            let spec = line.service(&lab.marks)?;
            lab.change(|registry, _| registry.edit_service(&spec))
        }
        'D' => {
            let key = line.key()?;
            lab.change(|registry, _| registry.remove_service(&key, Removal::Now))
        }
        'a' => {
            let key = line.key()?;
            let spec = line.server(&key)?;
            lab.change(|registry, hops| registry.add_server(&key, &spec, hops))
        }
        'e' => {
            let key = line.key()?;
            let spec = line.server(&key)?;
            lab.change(|registry, _| registry.edit_server(&key, &spec))
        }
        'd' => {
            let key = line.key()?;
            let place = endpoint(line.server.as_deref().expect("a server"), service_port(&key));
            lab.change(|registry, _| registry.remove_server(&key, place, Removal::Now))
        }
        'S' => {
            let mut semantics = lab.registry.snapshot().semantics;
            let timeouts = &mut semantics.timeouts;
            let named =
                [&mut timeouts.established_ms, &mut timeouts.fin_wait_ms, &mut timeouts.udp_ms];
            for (timeout, seconds) in named.into_iter().zip(line.timeouts_s) {
                // 0 leaves it as it is.
                *timeout = if seconds == 0 { *timeout } else { seconds * 1000 };
            }
            lab.change(|registry, _| Ok(registry.set_semantics(semantics)))
        }
        'Z' => Ok(()),
        _ => panic!("{args}: no command"),
    };
    outcome.unwrap_or_else(|problems| panic!("{args}: {problems:#?}"));
    Ok(())
}

/// Makes the change of one kernel switch.
pub fn switch(lab: &mut Lab, name: &str, value: i64) -> Result<(), Needs> {
    let mut semantics = lab.registry.snapshot().semantics;
    let on = value != 0;
    let defence = match value {
        0 => Defence::Off,
        3 => Defence::Always,
        _ => Defence::Pressure,
    };
    match name.rsplit('.').next().unwrap_or(name) {
        // Concerns the kernel's own connection tracking alone.
        "conntrack" => {}
        "conn_reuse_mode" => {
            semantics.conn_reuse = match value {
                0 => ConnReuse::Never,
                1 => ConnReuse::Ended,
                _ => ConnReuse::EndedOrHalfSeen,
            }
        }
        "expire_nodest_conn" => semantics.expire_nodest_conn = on,
        "expire_quiescent_template" => semantics.expire_quiescent_template = on,
        "nat_icmp_send" => semantics.nat_icmp_send = on,
        "pmtu_disc" => semantics.pmtu_disc = on,
        "sloppy_tcp" => semantics.sloppy_tcp = on,
        "secure_tcp" => semantics.secure_tcp = defence,
        "drop_entry" => semantics.drop_entry = defence,
        "drop_packet" => semantics.drop_packet = defence,
        "schedule_icmp" if !on => {}
        _ => return Err("switches"),
    }
    lab.change(|registry, _| Ok(registry.set_semantics(semantics))).unwrap();
    Ok(())
}

/// Something else that was configured, in the recordings' words.
pub fn config(lab: &mut Lab, text: &str) -> Result<(), Needs> {
    let words: Vec<&str> = text.split_whitespace().collect();
    if let Some(rest) = text.strip_prefix("route ") {
        let prefix = rest.strip_suffix(" is unreachable").ok_or("configuration")?;
        lab.make_unreachable(prefix.parse().unwrap());
        return Ok(());
    }
    let at = words.iter().position(|word| *word == "fwmark").ok_or("configuration")?;
    let mark: u32 = words[at + 1].parse().unwrap();
    let mut matches = Vec::new();
    for named in words.windows(3).filter(|named| named[1] == "dport") {
        let protocol = if named[0] == "tcp" { Protocol::Tcp } else { Protocol::Udp };
        for range in named[2].split(['/', ',']) {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let ports = (first.parse().unwrap(), last.parse().unwrap());
            matches.push(MarkMatch { protocol, ports });
        }
    }
    lab.marks.insert(mark, matches);
    Ok(())
}

#[test]
fn what_gyre_lacks_is_a_word_not_a_panic() {
    let mut lab = Lab::new([1500, 1500]);
    for (args, needs) in [
        ("-A -u 10.1.0.1:5060 -p 60 --pe sip", "persistence engines"),
        ("-A -t 10.1.0.1:80 -s twos", "another scheduler"),
        ("-A --sctp-service 10.1.0.1:80", "SCTP"),
        ("-A -t 10.1.0.1:80 --frobnicate", "an option of ipvsadm"),
    ] {
        assert_eq!(run(&mut lab, args), Err(needs), "{args}");
    }
    assert_eq!(run(&mut lab, "-A -t 10.1.0.1:80 -s rr"), Ok(()));
}
