//! `gyre doctor`: what on this machine, or on a real server, would keep gyre from working or from
//! being fast. Pure checks over what a `Machine` shows; nothing here changes anything, and nothing
//! is sent but questions for VIPs.
//!
//! Starting is not its business: `runtime::checks` refuses what cannot start.

mod asking;
mod cores;
mod devices;
mod finding;
mod interfaces;
mod machine;
mod memory;
mod probe;
mod rivals;
mod server;

pub use finding::{Finding, Severity, worst};
pub use machine::Machine;
pub use server::{Demand, PROBE, demands, judge};

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::config::{Config, Kernel, Port, VipAddresses};
use crate::control::api::{NeighboursResult, PortsResult, Status};

/// What is looked at, besides the machine.
#[derive(Debug, Default)]
pub struct Subject {
    /// The configuration: the running one's, or a file's.
    pub config: Option<Config>,
    /// What a running gyre says.
    pub running: Option<Running>,
    /// DPDK's version; none in a build without.
    pub dpdk: Option<String>,
}

/// A running gyre's own account.
#[derive(Debug)]
pub struct Running {
    /// `status`.
    pub status: Status,
    /// `ports.list`.
    pub ports: PortsResult,
    /// `neighbours.list`.
    pub neighbours: NeighboursResult,
}

impl Subject {
    fn ports(&self) -> &[Port] {
        self.config.as_ref().map_or(&[], |config| &config.port)
    }

    /// Whether VRRP or another program moves VIPs between directors.
    fn vips_are_others(&self) -> bool {
        let by = self.config.as_ref().map(|config| config.runtime.vip_addresses);
        by == Some(VipAddresses::Others)
    }

    /// Every single address that services take; prefixes of groups are left out.
    fn vips(&self) -> BTreeSet<IpAddr> {
        let services = self.config.iter().flat_map(|config| &config.service);
        let of_service = |service: &crate::config::Service| {
            let own = service.address.map(|address| address.vip);
            let full = |address: IpAddr| if address.is_ipv4() { 32 } else { 128 };
            let of_group = service.r#match.iter().map(|it| it.address.prefix);
            let single = of_group.filter(move |prefix| prefix.bits() == full(prefix.address()));
            own.into_iter().chain(single.map(|prefix| prefix.address())).collect::<Vec<_>>()
        };
        services.flat_map(of_service).collect()
    }
}

/// The kernel's interface beside a port.
fn kernel_interface(port: &Port) -> Option<String> {
    match port.kernel {
        Kernel::Tap => Some(port.name.clone()),
        Kernel::Shared => port.interface().map(|lower| match port.vlan {
            Some(vlan) => format!("{lower}.{vlan}"),
            None => lower.to_owned(),
        }),
        Kernel::None => None,
    }
}

/// Whether a device or member is a PCI address.
fn is_pci(device: &str) -> bool {
    device.contains(':') && !device.contains(',') && !device.starts_with("net_")
}

/// Devices of a port: its own, or those that it bonds.
fn devices(port: &Port) -> impl Iterator<Item = &str> {
    let own = Some(port.device.as_str()).filter(|_| port.members.is_empty());
    own.into_iter().chain(port.members.iter().map(String::as_str))
}

/// All findings about this machine.
pub fn examine(machine: &Machine, subject: &Subject) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(memory::hugepages(machine, subject));
    findings.extend(memory::limits(machine, subject));
    findings.extend(cores::isolation(machine, subject));
    findings.extend(cores::governor(machine, subject));
    findings.extend(cores::numa(machine, subject));
    findings.extend(cores::clock(machine));
    findings.extend(devices::version(subject));
    findings.extend(devices::vfio(machine, subject));
    findings.extend(devices::hashing(machine, subject));
    findings.extend(interfaces::links(machine, subject));
    findings.extend(interfaces::offloads(machine, subject));
    findings.extend(interfaces::mtu(machine, subject));
    findings.extend(interfaces::reverse_path(machine, subject));
    findings.extend(interfaces::neighbours(machine, subject));
    findings.extend(rivals::addresses(machine, subject));
    findings.extend(probe::conflicts(machine, subject));
    findings.extend(rivals::balancers(machine, subject));
    findings.extend(rivals::leftovers(machine, subject));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A configuration with one port, what else it says, and further lines of `[runtime]`.
    pub fn subject(port: &str, runtime: &str) -> Subject {
        with_services(port, runtime, "")
    }

    /// A `status` of a running gyre.
    pub const STATUS: &str = r#"{"version":"0.1.0","pid":4711,"uptime_s":3600,
        "config_path":"/etc/gyre/gyre.toml","revision":3,"workers":2,"workers_stalled":[],
        "ports":1,"ports_down":[],"services":1,"servers":2,"servers_down":0,"flows":1200,
        "flows_created":90000,"drops":12,"neighbours_unresolved":0}"#;

    /// The same with services.
    pub fn with_services(port: &str, runtime: &str, services: &str) -> Subject {
        let own = "addresses = [\"192.0.2.250/24\", \"2001:db8::250/64\"]";
        let port = format!("[[port]]\nname = \"wan\"\n{port}\n{own}\n");
        let text = format!("[runtime]\n{runtime}\n{port}{services}");
        let config = crate::config::check(&text).unwrap_or_else(|p| panic!("{p:?}")).config;
        Subject { config: Some(config), ..Subject::default() }
    }

    #[test]
    fn this_machine_is_examined_with_and_without_a_configuration() {
        let machine = Machine::this();
        let found = examine(&machine, &Subject::default());
        let checks: BTreeSet<&str> = found.iter().map(|finding| finding.check).collect();
        for check in ["hugepages", "clock", "governor", "numa", "dpdk"] {
            assert!(checks.contains(check), "no {check} in {checks:?}");
        }
        let found = examine(&machine, &subject("device = \"0000:3b:00.0\"", ""));
        assert!(worst(&found) >= Severity::Warning, "no such device here: {found:?}");
        // What is wrong says what to do.
        for finding in found.iter().filter(|finding| finding.severity >= Severity::Warning) {
            assert!(finding.remedy.as_ref().is_some_and(|text| !text.is_empty()), "{finding:?}");
        }
    }
}
