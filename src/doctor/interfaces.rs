//! The kernel's interfaces below and beside ports: offloads, MTU, reverse path filter; and whether
//! next hops answer.

use std::collections::BTreeSet;

use super::{Finding, Machine, Subject, devices, kernel_interface};
use crate::config::{Forwarding, Kernel, Server, Service, Tunnel, TunnelChecksum, interface_of};

const LINK: &str = "link";
const OFFLOADS: &str = "offloads";
const MTU: &str = "mtu";
const RP_FILTER: &str = "rp_filter";
const NEIGHBOURS: &str = "neighbours";

/// Links without a carrier, by the running gyre or the interfaces below ports.
pub fn links(machine: &Machine, subject: &Subject) -> Vec<Finding> {
    let lowers = || subject.ports().iter().flat_map(devices).filter_map(interface_of);
    let down: Vec<&str> = match &subject.running {
        Some(running) => running.status.ports_down.iter().map(String::as_str).collect(),
        None => {
            // There is no reading it of an interface that is switched off, which gyre switches on.
            let carrier = |lower: &str| machine.number(&format!("sys/class/net/{lower}/carrier"));
            lowers().filter(|lower| carrier(lower) == Some(0)).collect()
        }
    };
    if !down.is_empty() {
        let evidence = format!("down: {}; nothing is received or sent there", down.join(", "));
        let remedy = "cable and switch; `ip link set INTERFACE up` where an interface of the \
                      kernel lies below";
        return vec![Finding::error(LINK, evidence, remedy.to_owned())];
    }
    match &subject.running {
        Some(running) => vec![Finding::ok(LINK, format!("{} up", running.status.ports))],
        None if lowers().next().is_some() => vec![Finding::ok(LINK, "no carrier is missing")],
        None => Vec::new(),
    }
}

/// Offloads that merge frames, or leave checksums to a device that af_packet ports pass by.
pub fn offloads(machine: &Machine, subject: &Subject) -> Vec<Finding> {
    let lowers = subject.ports().iter().flat_map(devices).filter_map(interface_of);
    let lowers: BTreeSet<&str> = lowers.collect();
    lowers.into_iter().map(|lower| offloads_of(machine, lower)).collect()
}

fn offloads_of(machine: &Machine, lower: &str) -> Finding {
    let Some(text) = machine.ask(&["ethtool", "-k", lower]) else {
        return Finding::info(OFFLOADS, format!("`ethtool -k {lower}` says nothing"));
    };
    let is_on = |name: &str| {
        let value = text.lines().find_map(|line| line.trim().strip_prefix(name));
        value.is_some_and(|value| value.trim_start_matches(':').trim().starts_with("on"))
    };
    let names = [("gro", "generic-receive-offload"), ("lro", "large-receive-offload")];
    let merging: Vec<&str> =
        names.iter().filter(|(_, long)| is_on(long)).map(|(short, _)| *short).collect();
    if !merging.is_empty() {
        let switches: Vec<String> = merging.iter().map(|name| format!("{name} off")).collect();
        let evidence = format!(
            "{lower} merges frames ({}): what is larger than the MTU is dropped",
            merging.join(", ")
        );
        let remedy = format!("`ethtool -K {lower} {}`", switches.join(" "));
        return Finding::warning(OFFLOADS, evidence, remedy);
    }
    let is_veth =
        machine.ask(&["ethtool", "-i", lower]).is_some_and(|t| t.contains("driver: veth"));
    if is_veth {
        let evidence = format!(
            "{lower} is a veth: its peer must fill in checksums (`ethtool -K PEER tx off` there)"
        );
        return Finding::info(OFFLOADS, evidence);
    }
    Finding::ok(OFFLOADS, format!("{lower} hands frames over as they were on the wire"))
}

/// Bytes that a tunnel adds, by its servers' kind; the largest.
fn tunnel_bytes(subject: &Subject) -> Option<u16> {
    let services = subject.config.iter().flat_map(|config| &config.service);
    let of = |(service, server): (&Service, &Server)| {
        let forwarding = server.forwarding.unwrap_or(service.forwarding);
        let outer = if server.address.address.is_ipv4() { 20 } else { 40 };
        let sum = server.tunnel_checksum.unwrap_or_default();
        let inner = match server.tunnel.unwrap_or_default() {
            Tunnel::Ipip => 0,
            Tunnel::Gre if sum == TunnelChecksum::None => 4,
            Tunnel::Gre => 8,
            // UDP's header and its own; the checksum is UDP's.
            Tunnel::Gue => 12,
        };
        (forwarding == Forwarding::Tun).then_some(outer + inner)
    };
    let pairs = services.flat_map(|service| service.server.iter().map(move |s| (service, s)));
    pairs.filter_map(of).max()
}

/// MTU of each port, by the running gyre, its configuration or its interface.
fn mtu_of(machine: &Machine, subject: &Subject, at: usize) -> Option<u16> {
    let port = &subject.ports()[at];
    let rows = subject.running.iter().flat_map(|running| &running.ports.ports);
    let running = rows.into_iter().find(|row| row.name == port.name).map(|row| row.mtu);
    let of_interface = || {
        let lower = port.interface()?;
        machine.number(&format!("sys/class/net/{lower}/mtu")).and_then(|n| u16::try_from(n).ok())
    };
    running.or(port.mtu).or_else(of_interface)
}

/// Room for a tunnel's header beside full-size packets.
pub fn mtu(machine: &Machine, subject: &Subject) -> Vec<Finding> {
    let mtus: Vec<(&str, u16)> = (0..subject.ports().len())
        .filter_map(|at| Some((subject.ports()[at].name.as_str(), mtu_of(machine, subject, at)?)))
        .collect();
    let shown: Vec<String> = mtus.iter().map(|(name, mtu)| format!("{name} {mtu}")).collect();
    let shown = shown.join(", ");
    let Some(extra) = tunnel_bytes(subject) else {
        return if mtus.is_empty() { Vec::new() } else { vec![Finding::ok(MTU, shown)] };
    };
    let least = mtus.iter().min_by_key(|(_, mtu)| *mtu);
    let capped = subject.config.iter().flat_map(|config| &config.service);
    let is_tunnelled = |service: &&Service| {
        let by = |server: &Server| server.forwarding.unwrap_or(service.forwarding);
        service.server.iter().any(|server| by(server) == Forwarding::Tun)
    };
    let mut tunnelled = capped.filter(is_tunnelled);
    let all_capped = tunnelled.all(|service| service.mss_max.is_some());
    match least {
        Some((name, mtu)) if u32::from(*mtu) < 1500 + u32::from(extra) && !all_capped => {
            let evidence = format!(
                "a tunnel adds {extra} bytes, and port {name} has an MTU of {mtu}: clients' \
                 packets of 1500 bytes are answered with `fragmentation needed`"
            );
            let remedy = format!(
                "an MTU of {} between director and servers, or `mss_max = {}` on services with \
                 TUN servers",
                1500 + extra,
                mtu.saturating_sub(extra + 40)
            );
            vec![Finding::warning(MTU, evidence, remedy)]
        }
        _ => vec![Finding::ok(MTU, format!("{shown}; a tunnel adds {extra} bytes"))],
    }
}

/// The reverse path filter of interfaces that the director's own traffic uses.
pub fn reverse_path(machine: &Machine, subject: &Subject) -> Vec<Finding> {
    let conf = "proc/sys/net/ipv4/conf";
    let value = |name: &str| machine.number(&format!("{conf}/{name}/rp_filter"));
    let all = value("all").unwrap_or(0);
    let interfaces: Vec<String> = subject.ports().iter().filter_map(kernel_interface).collect();
    // The kernel takes the larger of the two.
    let of = |name: &String| value(name).or_else(|| value("default")).unwrap_or(0).max(all);
    let strict: Vec<&str> =
        interfaces.iter().filter(|name| of(name) == 1).map(String::as_str).collect();
    if strict.is_empty() {
        let evidence = format!("not strict on {}", interfaces.join(", "));
        return if interfaces.is_empty() {
            Vec::new()
        } else {
            vec![Finding::ok(RP_FILTER, evidence)]
        };
    }
    let names = strict.join(", ");
    if strict.len() < 2 {
        return vec![Finding::info(RP_FILTER, format!("strict on {names}"))];
    }
    let sets: Vec<String> =
        strict.iter().map(|name| format!("net.ipv4.conf.{name}.rp_filter=2")).collect();
    let evidence = format!(
        "strict on {names}: the kernel drops what comes in by another port than it would answer \
         by (health checks, BGP, ping), silently"
    );
    let remedy = format!("`sysctl -w net.ipv4.conf.all.rp_filter=0 {}`", sets.join(" "));
    vec![Finding::warning(RP_FILTER, evidence, remedy)]
}

/// Whether servers' next hops have MAC addresses.
pub fn neighbours(machine: &Machine, subject: &Subject) -> Vec<Finding> {
    if let Some(running) = &subject.running {
        let rows = &running.neighbours.neighbours;
        let unresolved: Vec<String> = rows
            .iter()
            .filter(|row| !row.resolved)
            .map(|row| match &row.port {
                Some(port) => format!("{} on {port}", row.address),
                None => format!("{} (no route)", row.address),
            })
            .collect();
        if unresolved.is_empty() {
            return vec![Finding::ok(NEIGHBOURS, format!("{} resolved", rows.len()))];
        }
        let evidence = format!("no MAC address for {}", unresolved.join(", "));
        let remedy = "is the server up, in this VLAN, and is there a route (`ip route get \
                      ADDRESS`)? `gyre neighbours` shows it"
            .to_owned();
        return vec![Finding::error(NEIGHBOURS, evidence, remedy)];
    }
    let servers = subject.config.iter().flat_map(|config| &config.service);
    let servers: BTreeSet<String> = servers
        .flat_map(|service| &service.server)
        .map(|server| server.address.address.to_string())
        .collect();
    let shared = subject.ports().iter().any(|port| port.kernel == Kernel::Shared);
    if servers.is_empty() || !shared {
        // The interfaces that lead there come with gyre.
        return vec![Finding::info(NEIGHBOURS, "known when gyre runs")];
    }
    let table = machine.ask(&["ip", "neigh", "show"]).unwrap_or_default();
    let failed = table.lines().filter(|line| line.ends_with("FAILED"));
    let failed = failed.filter_map(|line| line.split(' ').next());
    let dead: Vec<&str> = failed.filter(|address| servers.contains(*address)).collect();
    if dead.is_empty() {
        return vec![Finding::ok(NEIGHBOURS, "the kernel knows of no server that is silent")];
    }
    let evidence = format!("the kernel asked in vain for {}", dead.join(", "));
    let remedy = "is the server up and in this network?".to_owned();
    vec![Finding::warning(NEIGHBOURS, evidence, remedy)]
}

#[cfg(test)]
mod tests {
    use super::super::machine::tests::machine;
    use super::super::tests::{STATUS, subject, with_services};
    use super::super::{Running, Severity};
    use super::*;
    use crate::control::api::{NeighbourRow, NeighboursResult, PortsResult, Status};

    const ETH1: &str = "device = \"net_af_packet0,iface=eth1\"";

    #[test]
    fn merging_offloads_are_told_with_the_command() {
        let on = "Features for eth1:\ngeneric-receive-offload: on\nlarge-receive-offload: on\n";
        let off = "generic-receive-offload: off\nlarge-receive-offload: off [fixed]\n";
        let judge = |said: &'static str| {
            let answers: &'static [_] = Box::leak(Box::new([("ethtool -k eth1", said)]));
            let (machine, _root) = machine(&[], answers);
            offloads(&machine, &subject(ETH1, "")).remove(0)
        };
        let found = judge(on);
        assert_eq!(found.severity, Severity::Warning);
        assert_eq!(found.remedy.as_deref(), Some("`ethtool -K eth1 gro off lro off`"));
        assert_eq!(judge(off).severity, Severity::Ok);
    }

    const TUN: &str = "[[service]]\naddress = \"192.0.2.80:80\"\nforwarding = \"tun\"\n\
                       [[service.server]]\naddress = \"198.51.100.1\"\n";

    #[test]
    fn a_tunnel_without_room_is_told() {
        let files = |mtu: &'static str| [("sys/class/net/eth1/mtu", mtu)];
        let judge = |mtu: &'static str, services: &str| {
            let (machine, _root) = machine(&files(mtu), &[]);
            super::mtu(&machine, &with_services(ETH1, "", services)).remove(0)
        };
        let found = judge("1500", TUN);
        assert_eq!(found.severity, Severity::Warning);
        let remedy = found.remedy.unwrap();
        assert!(remedy.contains("1520") && remedy.contains("mss_max = 1440"), "{remedy}");
        assert_eq!(judge("1520", TUN).severity, Severity::Ok);
        assert_eq!(judge("1500", "").severity, Severity::Ok);
        for (tunnel, room) in [
            ("tunnel = \"gre\"", 1524),
            ("tunnel = \"gre\"\ntunnel_checksum = \"csum\"", 1528),
            ("tunnel = \"gue\"", 1532),
            ("tunnel = \"gue\"\ntunnel_checksum = \"csum\"", 1532),
        ] {
            let remedy = judge("1500", &format!("{TUN}{tunnel}\n")).remedy.unwrap();
            assert!(remedy.contains(&format!("an MTU of {room} ")), "{tunnel}: {remedy}");
        }
        let capped = TUN.replace("\"tun\"\n", "\"tun\"\nmss_max = 1400\n");
        assert_eq!(judge("1500", &capped).severity, Severity::Ok);
    }

    #[test]
    fn a_strict_reverse_path_filter_on_two_ports_is_told() {
        let two = with_services(
            "device = \"net_null0\"",
            "",
            "[[port]]\nname = \"lan\"\ndevice = \"net_null1\"\n",
        );
        let judge = |all: &str, lan: &str| {
            let conf = "proc/sys/net/ipv4/conf";
            let (a, b, c) = (
                format!("{conf}/all/rp_filter"),
                format!("{conf}/lan/rp_filter"),
                format!("{conf}/wan/rp_filter"),
            );
            let (machine, _root) = machine(&[(&a, all), (&b, lan), (&c, "0")], &[]);
            reverse_path(&machine, &two)[0].severity
        };
        assert_eq!(judge("0", "0"), Severity::Ok);
        assert_eq!(judge("0", "1"), Severity::Info);
        assert_eq!(judge("1", "0"), Severity::Warning);
        // Loose wins over strict.
        assert_eq!(judge("2", "1"), Severity::Ok);
    }

    #[test]
    fn a_link_without_carrier_is_told() {
        let judge = |carrier: &[(&str, &str)], running: Option<Status>| {
            let (machine, _root) = machine(carrier, &[]);
            let (ports, neighbours) =
                (PortsResult { ports: vec![] }, NeighboursResult { neighbours: vec![] });
            let running = running.map(|status| Running { status, ports, neighbours });
            let found = links(&machine, &Subject { running, ..subject(ETH1, "") }).remove(0);
            (found.severity, found.evidence)
        };
        let carrier = "sys/class/net/eth1/carrier";
        assert_eq!(judge(&[(carrier, "1")], None).0, Severity::Ok);
        assert_eq!(judge(&[], None).0, Severity::Ok, "switched off");
        let (severity, evidence) = judge(&[(carrier, "0")], None);
        assert!(severity == Severity::Error && evidence.contains("eth1"), "{evidence}");
        let mut status: Status = serde_json::from_str(STATUS).unwrap();
        assert_eq!(judge(&[], Some(status.clone())).0, Severity::Ok);
        status.ports_down = vec!["wan".into()];
        let (severity, evidence) = judge(&[], Some(status));
        assert!(severity == Severity::Error && evidence.contains("wan"), "{evidence}");
    }

    #[test]
    fn unresolved_next_hops_of_a_running_gyre_are_told() {
        let (machine, _root) = machine(&[], &[]);
        let status: Status = serde_json::from_str(STATUS).unwrap();
        let row = |address: &str, resolved| NeighbourRow {
            address: address.into(),
            target: None,
            port: Some("lan".into()),
            mac: None,
            resolved,
            mtu: 1500,
        };
        let judge = |neighbours: Vec<NeighbourRow>| {
            let neighbours = NeighboursResult { neighbours };
            let ports = PortsResult { ports: Vec::new() };
            let running = Running { status: status.clone(), ports, neighbours };
            let subject = Subject { running: Some(running), ..subject(ETH1, "") };
            super::neighbours(&machine, &subject).remove(0)
        };
        assert_eq!(judge(vec![row("10.0.0.1", true)]).severity, Severity::Ok);
        let found = judge(vec![row("10.0.0.1", true), row("10.0.0.2", false)]);
        assert_eq!(found.severity, Severity::Error);
        assert!(found.evidence.ends_with("10.0.0.2 on lan"), "{found:?}");
    }
}
