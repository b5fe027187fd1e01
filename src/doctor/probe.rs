//! Whether another machine of the network has a VIP: who is asked by which interface, and what an
//! answer means. `asking` asks.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{Finding, Machine, Subject, kernel_interface};
use crate::config::Port;
use crate::model::Prefix;
use crate::wire::ethernet::MacAddr;

const PROBE: &str = "vip_probe";

/// A second's worth of questions; of a larger configuration the first are asked for.
const VIPS_MAX: usize = 1024;
/// Answers told one by one.
const TOLD_MAX: usize = 8;
/// What VRRP's routers answer by, over IPv4 and IPv6 (RFC 9568 section 7.3).
const VRRP: [[u8; 5]; 2] = [[0, 0, 0x5e, 0, 1], [0, 0, 0x5e, 0, 2]];

/// VIPs that others answer for, on the link of each port that has an interface of the kernel.
pub fn conflicts(machine: &Machine, subject: &Subject) -> Vec<Finding> {
    let vips = subject.vips();
    if vips.is_empty() {
        return Vec::new();
    }
    if subject.vips_are_others() {
        let what = "not asked: another director may have them (`vip_addresses`)";
        return vec![Finding::info(PROBE, what)];
    }
    let mut findings = Vec::new();
    for (interface, vips) in plan(machine, subject, &vips) {
        let Some(interface) = interface else {
            let evidence = "not asked: no port has an interface of the kernel yet; again when gyre \
                            runs";
            findings.push(Finding::info(PROBE, evidence));
            continue;
        };
        let asked: Vec<IpAddr> = vips.into_iter().take(VIPS_MAX).collect();
        match machine.who_has(&interface, &asked) {
            Ok(answers) => findings.extend(judge(machine, &interface, asked.len(), &answers)),
            Err(why) => {
                findings.push(Finding::info(PROBE, format!("not asked by {interface}: {why}")));
            }
        }
    }
    findings
}

type Plan = BTreeMap<Option<String>, BTreeSet<IpAddr>>;

/// By which interface each VIP is asked for: those of the ports in whose networks it is. Elsewhere
/// a router may answer for it, rightly (proxy ARP), so it is asked for there only where it is in
/// no port's network.
fn plan(machine: &Machine, subject: &Subject, vips: &BTreeSet<IpAddr>) -> Plan {
    let mut plan = Plan::new();
    for vip in vips {
        let is_near = |port: &&Port| {
            let networks = port.addresses.iter().filter_map(|it| Prefix::new(it.address, it.bits));
            networks.into_iter().any(|network| network.contains(*vip))
        };
        let near: Vec<&Port> = subject.ports().iter().filter(is_near).collect();
        let ports = if near.is_empty() { subject.ports().iter().collect() } else { near };
        let interfaces: BTreeSet<String> =
            ports.into_iter().filter_map(|port| interface_of(machine, port)).collect();
        if interfaces.is_empty() {
            plan.entry(None).or_default().insert(*vip);
        }
        for interface in interfaces {
            plan.entry(Some(interface)).or_default().insert(*vip);
        }
    }
    plan
}

/// The interface beside a port, which comes with gyre; else the one below it.
fn interface_of(machine: &Machine, port: &Port) -> Option<String> {
    let below = || port.interface().filter(|_| port.vlan.is_none()).map(str::to_owned);
    let is_there = |name: &String| machine.has(&format!("sys/class/net/{name}"));
    kernel_interface(port).filter(is_there).or_else(|| below().filter(is_there))
}

fn judge(
    machine: &Machine,
    interface: &str,
    asked: usize,
    answers: &[(IpAddr, MacAddr)],
) -> Vec<Finding> {
    let is_vrrp = |mac: MacAddr| VRRP.iter().any(|start| mac.0.starts_with(start));
    let (routers, rivals): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| is_vrrp(answer.1));
    let mut findings = Vec::new();
    for (vip, mac) in routers {
        let evidence = format!("{vip} is at {mac} on {interface}, a VRRP router's address");
        findings.push(Finding::info(PROBE, evidence));
    }
    for (vip, mac) in rivals.iter().take(TOLD_MAX) {
        let known = neighbours_with(machine, *mac, *vip);
        let known = if known.is_empty() { known } else { format!(" (which has {known}, too)") };
        let evidence = format!("{mac}{known} answers for {vip} on {interface}");
        let remedy = format!(
            "clients that it answers never come to gyre. A DR or TUN server: `gyre doctor --server \
             ADDRESS` says how it keeps quiet about the VIP; a former director: take {vip} off it"
        );
        findings.push(Finding::error(PROBE, evidence, remedy));
    }
    if rivals.len() > TOLD_MAX {
        let evidence = format!("and {} more answers on {interface}", rivals.len() - TOLD_MAX);
        findings.push(Finding::info(PROBE, evidence));
    }
    if answers.is_empty() {
        let evidence = format!("asked for {asked} VIPs on {interface}, and nobody answers");
        findings.push(Finding::ok(PROBE, evidence));
    }
    findings
}

/// Other addresses that the kernel knows behind a MAC address, to tell which machine it is.
fn neighbours_with(machine: &Machine, mac: MacAddr, vip: IpAddr) -> String {
    let table = machine.ask(&["ip", "neigh", "show"]).unwrap_or_default();
    let mac = format!("lladdr {mac}");
    let addresses = table.lines().filter(|line| line.contains(&mac));
    let mut addresses: Vec<&str> = addresses.filter_map(|line| line.split(' ').next()).collect();
    addresses.retain(|address| *address != vip.to_string());
    addresses.truncate(3);
    addresses.join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::machine::tests::machine;
    use super::super::{Severity, tests::with_services};
    use super::*;

    const SERVICES: &str = "[[service]]\naddress = \"192.0.2.80:80\"\nforwarding = \"dr\"\n\
        [[service]]\naddress = \"198.51.100.1:80\"\nforwarding = \"dr\"\n";
    const ETH1: (&str, &str) = ("sys/class/net/eth1/mtu", "1500");
    const SHARED: &str = "device = \"net_af_packet0,iface=eth1\"\nkernel = \"shared\"";
    const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_vip_that_another_machine_answers_for_is_told_with_its_mac_address() {
        let neighbours = "192.0.2.11 dev eth1 lladdr 02:00:00:00:00:09 REACHABLE\n\
            192.0.2.12 dev eth1 lladdr 02:00:00:00:00:0a STALE\n";
        let answers: &'static [_] = Box::leak(Box::new([("ip neigh show", neighbours)]));
        let (machine, _root) = machine(&[ETH1], answers);
        let machine = machine.answering(|interface, vips| {
            assert_eq!((interface, vips), ("eth1", &[ip("192.0.2.80"), ip("198.51.100.1")][..]));
            Ok(vec![(vips[0], OTHER)])
        });
        let found = conflicts(&machine, &with_services(SHARED, "", SERVICES));
        assert_eq!((found.len(), found[0].severity), (1, Severity::Error));
        let told = "02:00:00:00:00:09 (which has 192.0.2.11, too) answers for 192.0.2.80 on eth1";
        assert_eq!(found[0].evidence, told);
        assert!(found[0].remedy.as_ref().unwrap().contains("take 192.0.2.80 off it"));
    }

    #[test]
    fn a_vip_that_nobody_answers_for_and_one_of_vrrps_are_no_faults() {
        let (quiet, _root) = machine(&[ETH1], &[]);
        let quiet = quiet.answering(|_, _| Ok(Vec::new()));
        let found = conflicts(&quiet, &with_services(SHARED, "", SERVICES));
        assert_eq!((found.len(), found[0].severity), (1, Severity::Ok));
        let (pair, _root) = machine(&[ETH1], &[]);
        let pair = pair.answering(|_, vips| Ok(vec![(vips[0], MacAddr([0, 0, 0x5e, 0, 1, 51]))]));
        let found = conflicts(&pair, &with_services(SHARED, "", SERVICES));
        assert_eq!((found.len(), found[0].severity), (1, Severity::Info), "{found:?}");
    }

    #[test]
    fn without_the_right_or_an_interface_that_is_said_and_no_fault() {
        let (other, _root) = machine(&[ETH1], &[]);
        let other = other.answering(|_, _| Err("not permitted".into()));
        let found = conflicts(&other, &with_services(SHARED, "", SERVICES));
        assert_eq!(found[0].severity, Severity::Info);
        assert!(found[0].evidence.contains("by eth1: not permitted"), "{found:?}");
        let (none, _root) = machine(&[], &[]);
        let none = none.answering(|_, _| panic!("there is no interface to ask by"));
        let found = conflicts(&none, &with_services("device = \"0000:3b:00.0\"", "", SERVICES));
        assert_eq!((found.len(), found[0].severity), (1, Severity::Info));
        assert_eq!(conflicts(&none, &Subject::default()), []);
    }

    /// Behind the other port a router may answer for everything, and may.
    #[test]
    fn a_vip_is_asked_for_in_its_own_network_alone() {
        let lan = "\n[[port]]\nname = \"lan\"\ndevice = \"net_af_packet1,iface=eth2\"\n\
            addresses = [\"10.0.0.1/24\"]\n";
        let site = with_services(SHARED, "", &format!("{lan}{SERVICES}"));
        let (machine, _root) = machine(&[ETH1, ("sys/class/net/eth2/mtu", "1500")], &[]);
        let plan = plan(&machine, &site, &site.vips());
        let both = [ip("192.0.2.80"), ip("198.51.100.1")];
        assert_eq!(plan[&Some("eth1".into())], both.into());
        assert_eq!(plan[&Some("eth2".into())], [both[1]].into());
    }
}
