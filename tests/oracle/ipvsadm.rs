//! `ipvsadm` command lines of recordings, read by the product's own front end, as calls of the
//! registry.
//!
//! What gyre cannot do yet is an `Err` with a word; `exceptions.toml` excuses it by that word.

use std::collections::BTreeMap;
use std::net::IpAddr;

use gyre::cli::ipvsadm::{Command, Fields, Line, Protocol as Transport, ServiceName};
use gyre::config;
use gyre::model::*;
use serde_json::{Value, json};

use crate::lab::{Lab, MarkMatch, OWN_ADDRESSES};

/// What gyre lacks for a command.
pub type Needs = &'static str;

fn parse(args: &str) -> Result<Line, Needs> {
    let words: Vec<String> = args.split_whitespace().map(str::to_string).collect();
    let line = Line::parse(&words).map_err(|fail| {
        println!("oracle: `ipvsadm {args}`: {}", fail.message);
        "an option of ipvsadm"
    })?;
    if line.engine.is_some() {
        return Err("persistence engines");
    }
    if matches!(line.service, Some(ServiceName::Address(Transport::Sctp, _))) {
        return Err("SCTP");
    }
    match line.command {
        Command::StartDaemon | Command::StopDaemon => Err("connection synchronisation"),
        Command::AddService | Command::EditService if !line.has_scheduler() => {
            println!("oracle: the scheduler {} is unknown here", line.scheduler);
            Err("another scheduler")
        }
        _ => Ok(line),
    }
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

/// What a mark stands for, as the configuration writes it.
fn packets(marks: &BTreeMap<u32, Vec<MarkMatch>>, number: u32, is_ipv6: bool) -> Vec<Value> {
    let any = if is_ipv6 { "[::/0]" } else { "0.0.0.0/0" };
    let one = |one: &MarkMatch| {
        let ports = match one.ports {
            (0, u16::MAX) => "0".to_string(),
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("{first}-{last}"),
        };
        json!({"protocol": one.protocol.to_string(), "address": format!("{any}:{ports}")})
    };
    marks.get(&number).into_iter().flatten().map(one).collect()
}

/// A service by `-A` or `-E`, which states everything.
fn service(line: &Line, lab: &Lab) -> ServiceSpec {
    let matches = match line.service {
        Some(ServiceName::Mark { number, is_ipv6 }) => packets(&lab.marks, number, is_ipv6),
        _ => Vec::new(),
    };
    let fields = line.new_service(matches).unwrap();
    let mut spec = config::service_from_json(&Value::Object(fields), &|_| Vec::new()).unwrap();
    spec.ttl = TtlPolicy::Decrement;
    if lab.helps_ftp && line.command == Command::AddService && spec.key.port() == Some(FTP_PORT) {
        spec.helper = Some(Helper::Ftp);
    }
    spec
}

fn key(line: &Line) -> ServiceKey {
    match line.service.expect("a service") {
        ServiceName::Address(protocol, place) => {
            let protocol = if protocol == Transport::Udp { Protocol::Udp } else { Protocol::Tcp };
            ServiceKey::new(protocol, place.ip(), place.port())
        }
        ServiceName::Mark { number, is_ipv6 } => {
            let family = if is_ipv6 { "-6" } else { "" };
            ServiceKey::group(&format!("fwmark-{number}{family}")).unwrap()
        }
    }
}

/// A server by `-a` or `-e`. What the director itself serves has the service's port.
fn server(line: &Line, lab: &Lab) -> ServerSpec {
    let own: Vec<IpAddr> = OWN_ADDRESSES.iter().map(|own| own.parse().unwrap()).collect();
    let mut fields: Fields = line.new_server(&own).unwrap();
    if fields["forwarding"] == "local" {
        fields["address"] = line.server.expect("a server").ip().to_string().into();
    }
    let (service, _) = lab.registry.service(&key(line)).expect("its service");
    config::server_from_json(&Value::Object(fields), service, &|_| Vec::new()).unwrap()
}

/// Makes the change that `ipvsadm` with these arguments makes.
pub fn run(lab: &mut Lab, args: &str) -> Result<(), Needs> {
    let line = parse(args)?;
    let outcome = match line.command {
        Command::Clear => {
            let keys: Vec<ServiceKey> = lab.registry.services().map(|(_, spec)| spec.key).collect();
            keys.iter().try_for_each(|key| {
                lab.change(|registry, _| registry.remove_service(key, Removal::Now))
            })
        }
        Command::AddService => {
            let spec = service(&line, lab);
            lab.change(|registry, hops| registry.add_service(&spec, hops))
        }
        Command::EditService => {
            let spec = service(&line, lab);
            lab.change(|registry, hops| registry.edit_service(&spec, hops))
        }
        Command::DeleteService => {
            lab.change(|registry, _| registry.remove_service(&key(&line), Removal::Now))
        }
        Command::AddServer => {
            let spec = server(&line, lab);
            lab.change(|registry, hops| registry.add_server(&key(&line), &spec, hops))
        }
        Command::EditServer => {
            let spec = server(&line, lab);
            lab.change(|registry, _| registry.edit_server(&key(&line), &spec))
        }
        Command::DeleteServer => {
            let place = line.server.expect("a server");
            lab.change(|registry, _| registry.remove_server(&key(&line), place, Removal::Now))
        }
        Command::Set => {
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
        Command::Zero => Ok(()),
        _ => panic!("{args}: no change"),
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
