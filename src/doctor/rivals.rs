//! Others that want the same: addresses on other interfaces, the kernel's own IPVS, keepalived's
//! virtual servers; and what a gyre that died left behind.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use serde_json::Value;

use super::{Finding, Machine, Subject, kernel_interface};
use crate::config::Kernel;

const VIP: &str = "vip";
const RIVALS: &str = "ipvs";
const LEFTOVERS: &str = "leftovers";

/// Addresses of all interfaces: which, and where.
fn addresses_of(machine: &Machine) -> Vec<(IpAddr, String)> {
    let text = machine.ask(&["ip", "-j", "addr", "show"]).unwrap_or_default();
    let links: Vec<Value> = serde_json::from_str(&text).unwrap_or_default();
    let of_link = |link: &Value| {
        let name = link["ifname"].as_str().unwrap_or_default().to_owned();
        let rows = link["addr_info"].as_array().cloned().unwrap_or_default();
        let local = |row: Value| row["local"].as_str()?.parse().ok();
        rows.into_iter().filter_map(local).map(|ip| (ip, name.clone())).collect::<Vec<_>>()
    };
    links.iter().flat_map(of_link).collect()
}

/// VIPs on interfaces that are not gyre's: the kernel would answer for them.
pub fn addresses(machine: &Machine, subject: &Subject) -> Vec<Finding> {
    let vips = subject.vips();
    if vips.is_empty() {
        return Vec::new();
    }
    if subject.vips_are_others() {
        let what = "VIPs are put on interfaces by others (`vip_addresses`), such as keepalived";
        return vec![Finding::info(VIP, what)];
    }
    let ours: BTreeSet<String> = subject.ports().iter().filter_map(kernel_interface).collect();
    let conflicts: Vec<String> = addresses_of(machine)
        .into_iter()
        .filter(|(address, interface)| vips.contains(address) && !ours.contains(interface))
        .map(|(address, interface)| format!("{address} on {interface}"))
        .collect();
    if conflicts.is_empty() {
        let evidence = format!("{} VIPs, none on another interface", vips.len());
        return vec![Finding::ok(VIP, evidence)];
    }
    let (first, rest) = conflicts[0].split_once(" on ").unwrap_or_default();
    let evidence = format!("the kernel has {} and answers for it there", conflicts.join(", "));
    let remedy = format!(
        "`ip addr del {first}/{} dev {rest}`; gyre puts VIPs on its ports itself",
        if first.contains(':') { 128 } else { 32 }
    );
    vec![Finding::error(VIP, evidence, remedy)]
}

/// Destinations of the kernel's IPVS, from its table: `TCP  C0000250:0050 rr`.
fn kernel_services(machine: &Machine) -> Vec<IpAddr> {
    let text = machine.read("proc/net/ip_vs").unwrap_or_default();
    let address = |line: &str| {
        let mut words = line.split_whitespace();
        let protocol = words.next()?;
        let (address, _port) = words.next()?.rsplit_once(':')?;
        let v4 = || u32::from_str_radix(address, 16).ok().map(|n| Ipv4Addr::from(n).into());
        let v6 = || address.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
        ["TCP", "UDP", "SCTP"].contains(&protocol).then(|| v4().or_else(v6))?
    };
    text.lines().filter_map(address).collect()
}

/// Other balancers on this machine.
pub fn balancers(machine: &Machine, subject: &Subject) -> Vec<Finding> {
    let mut findings = Vec::new();
    let (vips, kernels) = (subject.vips(), kernel_services(machine));
    let same: BTreeSet<String> =
        kernels.iter().filter(|vip| vips.contains(vip)).map(ToString::to_string).collect();
    if !same.is_empty() {
        let vips = same.into_iter().collect::<Vec<_>>().join(", ");
        let evidence = format!("the kernel's IPVS serves {vips} too");
        let remedy = "`ipvsadm -C` (the kernel's own, not gyre's), then `modprobe -r ip_vs`";
        findings.push(Finding::error(RIVALS, evidence, remedy.to_owned()));
    } else if !kernels.is_empty() {
        let evidence = format!("the kernel's IPVS has {} services of its own", kernels.len());
        findings.push(Finding::info(RIVALS, evidence));
    }
    let running = machine.list("proc").into_iter().any(|pid| {
        pid.parse::<u32>().is_ok()
            && machine.read(&format!("proc/{pid}/comm")).as_deref() == Some("keepalived")
    });
    let file = "etc/keepalived/keepalived.conf";
    let text = machine.read(file).unwrap_or_default();
    let servers = text.lines().filter(|line| line.trim_start().starts_with("virtual_server"));
    let count = servers.count();
    if running && count > 0 {
        let evidence = format!("keepalived runs, and /{file} has {count} virtual_server blocks");
        let remedy = "it would fill the kernel's IPVS beside gyre: `gyre import keepalived` takes \
                      them over; leave vrrp_instance blocks to keepalived"
            .to_owned();
        findings.push(Finding::warning("keepalived", evidence, remedy));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(RIVALS, "no other balancer here"));
    }
    findings
}

/// Interfaces and rules of a gyre that is gone.
pub fn leftovers(machine: &Machine, subject: &Subject) -> Vec<Finding> {
    if subject.running.is_some() {
        return vec![Finding::ok(LEFTOVERS, "gyre runs: what is there is its own")];
    }
    let taps = subject.ports().iter().filter(|port| port.kernel == Kernel::Tap);
    let present: Vec<&str> = taps
        .map(|port| port.name.as_str())
        .filter(|name| machine.has(&format!("sys/class/net/{name}")))
        .collect();
    let mut findings = Vec::new();
    if let Some(name) = present.first() {
        let evidence = format!("interface {} is there without gyre", present.join(", "));
        let remedy = format!("another program's? else `ip link delete {name}`, or rename the port");
        findings.push(Finding::error(LEFTOVERS, evidence, remedy));
    }
    let tables = machine.ask(&["nft", "list", "tables", "netdev"]).unwrap_or_default();
    let names = tables.lines().filter_map(|line| line.strip_prefix("table netdev "));
    let ours: Vec<&str> = names.map(str::trim).filter(|name| name.starts_with("gyre_")).collect();
    if !ours.is_empty() {
        let evidence = format!("rules of a gyre that does not answer: {}", ours.join(", "));
        let remedy = format!(
            "the next start removes those of the same control socket; by hand: `nft delete table \
             netdev {}`",
            ours[0]
        );
        findings.push(Finding::warning(LEFTOVERS, evidence, remedy));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(LEFTOVERS, "nothing is left of an earlier run"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::machine::tests::machine;
    use super::super::{Severity, tests::with_services};
    use super::*;

    const SERVICE: &str = "[[service]]\naddress = \"192.0.2.80:80\"\nforwarding = \"dr\"\n";

    fn site() -> Subject {
        with_services("device = \"net_null0\"", "", SERVICE)
    }

    #[test]
    fn a_vip_on_another_interface_is_a_conflict_and_on_the_port_is_none() {
        const LO: &str = "[{\"ifname\":\"lo\",\"addr_info\":[{\"local\":\"192.0.2.80\"}]}]";
        const WAN: &str = "[{\"ifname\":\"wan\",\"addr_info\":[{\"local\":\"192.0.2.80\"}]}]";
        let (lo, _root) = machine(&[], &[("ip -j addr show", LO)]);
        let found = addresses(&lo, &site()).remove(0);
        assert_eq!(found.severity, Severity::Error);
        assert!(found.remedy.unwrap().contains("ip addr del 192.0.2.80/32 dev lo"));
        let (wan, _root) = machine(&[], &[("ip -j addr show", WAN)]);
        assert_eq!(addresses(&wan, &site())[0].severity, Severity::Ok);
        // keepalived put it there, where it is to be.
        let mut moved = site();
        let runtime = moved.config.as_mut().map(|config| &mut config.runtime).unwrap();
        runtime.vip_addresses = crate::config::VipAddresses::Others;
        assert_eq!(addresses(&lo, &moved)[0].severity, Severity::Info);
    }

    #[test]
    fn the_kernels_ipvs_and_keepaliveds_virtual_servers_are_told() {
        let table = "IP Virtual Server version 1.2.1 (size=4096)\nProt LocalAddress:Port\n\
                     TCP  C0000250:0050 rr \n  -> 0A000001:0050      Route   1\n";
        let (both, _root) = machine(
            &[
                ("proc/net/ip_vs", table),
                ("proc/77/comm", "keepalived\n"),
                ("etc/keepalived/keepalived.conf", "virtual_server 192.0.2.80 80 {\n}\n"),
            ],
            &[],
        );
        let found = balancers(&both, &site());
        assert_eq!(found[0].severity, Severity::Error);
        assert!(found[0].evidence.contains("192.0.2.80"), "{found:?}");
        assert_eq!((found[1].check, found[1].severity), ("keepalived", Severity::Warning));
        let (other, _root) =
            machine(&[("proc/net/ip_vs", "TCP  [2001:db8:0000::0080]:0050 rr\n")], &[]);
        assert_eq!(balancers(&other, &site())[0].severity, Severity::Info);
        let (none, _root) = machine(&[], &[]);
        assert_eq!(balancers(&none, &site())[0].severity, Severity::Ok);
    }

    #[test]
    fn what_a_dead_gyre_left_is_told() {
        let (left, _root) = machine(
            &[("sys/class/net/wan/mtu", "1500")],
            &[("nft list tables netdev", "table netdev gyre_0000abcd_1_2_3\ntable netdev mine\n")],
        );
        let found = leftovers(&left, &site());
        assert_eq!((found[0].severity, found[1].severity), (Severity::Error, Severity::Warning));
        assert!(found[1].evidence.ends_with("gyre_0000abcd_1_2_3"), "{found:?}");
    }
}
