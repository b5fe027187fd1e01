//! What must be so before anything is started: one line each that says what to do if it is not.
//!
//! Only reads. The machine's state comes in as a `Machine`, so that every refusal is tested.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::config::{Config, Kernel, Port};
use crate::dpdk::NicError;
use crate::dpdk::devargs::{Device, DeviceSyntax};
use crate::dpdk::pci;
use crate::dpdk::tap::TapError;
use crate::model::NicId;

/// Bits of capabilities (linux/capability.h).
const CAP_NET_ADMIN: u32 = 12;
const CAP_NET_RAW: u32 = 13;

/// Why gyre does not start.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// A privilege is missing.
    #[error(
        "gyre needs {0}; run it as root, or once `setcap cap_net_admin,cap_net_raw+ep` on the \
         binary"
    )]
    Privilege(&'static str),
    /// `device` is neither a PCI address nor devargs.
    #[error("port {port}: {source}")]
    Device {
        /// The port's name.
        port: String,
        /// What is wrong.
        source: DeviceSyntax,
    },
    /// The interface below the port does not exist.
    #[error(
        "port {port}: there is no interface {wanted} here; there are: {present}; correct `iface=` \
         in the port's `device`"
    )]
    NoInterface {
        /// The port's name.
        port: String,
        /// The interface asked for.
        wanted: String,
        /// Those there are.
        present: String,
    },
    /// The PCI device cannot be had.
    #[error("port {port}: {source}")]
    Pci {
        /// The port's name.
        port: String,
        /// What is wrong.
        source: NicError,
    },
    /// The name of the TAP is taken.
    #[error(transparent)]
    Tap(TapError),
    /// The kernel has no interface in the VLAN of a shared port.
    #[error(
        "port {port}: the kernel has no interface in VLAN {vlan} on {lower}, which kernel = \
         \"shared\" goes by; `ip link add link {lower} name {lower}.{vlan} type vlan id {vlan}`"
    )]
    NoVlanInterface {
        /// The port's name.
        port: String,
        /// The VLAN.
        vlan: u16,
        /// The interface below.
        lower: String,
    },
}

/// What of the machine is looked at.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// Effective capabilities of this process, a bit each.
    pub capabilities: u64,
    /// Interfaces in this thread's network namespace.
    pub interfaces: BTreeSet<String>,
    /// VLAN interfaces: name, VLAN, interface below.
    pub vlans: Vec<(String, u16, String)>,
}

impl Machine {
    /// This one.
    pub fn read() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Machine {
            capabilities: capabilities(&read("/proc/self/status")),
            interfaces: interfaces(&read("/proc/self/net/dev")),
            // There is no such file without the module, and then no VLAN interface either.
            vlans: vlans(&read("/proc/self/net/vlan/config")),
        }
    }

    fn may(&self, capability: u32) -> bool {
        self.capabilities >> capability & 1 == 1
    }
}

/// A port that can be opened, as far as can be told without trying.
#[derive(Clone, Debug)]
pub struct PlannedPort {
    /// Slot.
    pub nic: NicId,
    /// As configured.
    pub config: Port,
    /// The device, parsed.
    pub device: Device,
    /// The kernel's interface below the device, if there is one.
    pub lower: Option<String>,
    /// The director's interface: the TAP, the shared interface, or none.
    pub interface: Option<String>,
}

/// Checks all ports.
pub fn ports(config: &Config, machine: &Machine) -> Result<Vec<PlannedPort>, CheckError> {
    config
        .port
        .iter()
        .enumerate()
        .map(|(index, port)| plan(NicId(index as u8), port, machine))
        .collect()
}

/// Checks what this process may do, which is better said first than through its consequences.
pub fn privileges(config: &Config, machine: &Machine) -> Result<(), CheckError> {
    if config.port.iter().all(|port| port.kernel == Kernel::None) {
        return Ok(());
    }
    if !machine.may(CAP_NET_ADMIN) {
        let what = "CAP_NET_ADMIN, for the kernel interface's addresses and rules";
        return Err(CheckError::Privilege(what));
    }
    if config.port.iter().any(|port| port.interface().is_some()) && !machine.may(CAP_NET_RAW) {
        return Err(CheckError::Privilege("CAP_NET_RAW, for ports on a kernel interface"));
    }
    Ok(())
}

fn plan(nic: NicId, port: &Port, machine: &Machine) -> Result<PlannedPort, CheckError> {
    let name = || port.name.clone();
    let device = Device::parse(&port.device)
        .map_err(|source| CheckError::Device { port: name(), source })?;
    let lower = match &device {
        Device::Pci(address) => {
            pci::check(Path::new("/sys"), *address)
                .map_err(|source| CheckError::Pci { port: name(), source })?;
            None
        }
        Device::Virtual(devargs) => devargs.kernel_interface().map(str::to_owned),
    };
    if let Some(wanted) = lower.as_ref().filter(|lower| !machine.interfaces.contains(*lower)) {
        let present: Vec<&str> = machine.interfaces.iter().map(String::as_str).collect();
        return Err(CheckError::NoInterface {
            port: name(),
            wanted: wanted.clone(),
            present: present.join(", "),
        });
    }
    let interface = interface(port, lower.as_deref(), machine)?;
    Ok(PlannedPort { nic, config: port.clone(), device, lower, interface })
}

/// The director's interface beside the port.
fn interface(
    port: &Port,
    lower: Option<&str>,
    machine: &Machine,
) -> Result<Option<String>, CheckError> {
    match (port.kernel, lower, port.vlan) {
        (Kernel::Tap, ..) if machine.interfaces.contains(&port.name) => {
            Err(CheckError::Tap(TapError::Exists(port.name.clone())))
        }
        (Kernel::Tap, ..) => Ok(Some(port.name.clone())),
        (Kernel::Shared, Some(lower), Some(vlan)) => {
            let fits =
                |(_, id, below): &&(String, u16, String)| (*id, below.as_str()) == (vlan, lower);
            let found = machine.vlans.iter().find(fits).map(|(name, ..)| Some(name.clone()));
            let (port, lower) = (port.name.clone(), lower.to_owned());
            found.ok_or(CheckError::NoVlanInterface { port, vlan, lower })
        }
        (Kernel::Shared, lower, _) => Ok(lower.map(str::to_owned)),
        (Kernel::None, ..) => Ok(None),
    }
}

/// `CapEff` of `/proc/<pid>/status`.
fn capabilities(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
}

/// Names in `/proc/net/dev`, which unlike `/sys` always shows the thread's own namespace.
fn interfaces(dev: &str) -> BTreeSet<String> {
    dev.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, _)| name.trim().to_owned())
        .collect()
}

/// Rows `name | id | interface below` of `/proc/net/vlan/config`, behind its headings.
fn vlans(config: &str) -> Vec<(String, u16, String)> {
    let row = |line: &str| {
        let mut fields = line.split('|').map(str::trim);
        let (name, id, below) = (fields.next()?, fields.next()?.parse().ok()?, fields.next()?);
        Some((name.to_owned(), id, below.to_owned()))
    };
    config.lines().filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            capabilities: 1 << CAP_NET_ADMIN | 1 << CAP_NET_RAW,
            interfaces: ["lo", "eth1", "eth1.5"].map(str::to_owned).into(),
            vlans: vlans("VLAN Dev name | VLAN ID\nName-Type: x\neth1.5 | 5  | eth1\n"),
        }
    }

    fn config(port: &str) -> Config {
        Config::parse_toml(&format!("[[port]]\nname = \"wan\"\n{port}\n")).unwrap()
    }

    fn refusal(port: &str, machine: &Machine) -> String {
        ports(&config(port), machine).unwrap_err().to_string()
    }

    const AF_PACKET: &str = "device = \"net_af_packet0,iface=eth1\"";

    #[test]
    fn a_good_port_has_its_interface() {
        let planned = ports(&config(AF_PACKET), &machine()).unwrap();
        assert_eq!(planned[0].interface.as_deref(), Some("wan"));
        assert_eq!(planned[0].lower.as_deref(), Some("eth1"));
        let shared = format!("{AF_PACKET}\nkernel = \"shared\"");
        let planned = ports(&config(&shared), &machine()).unwrap();
        assert_eq!(planned[0].interface.as_deref(), Some("eth1"));
        let tagged = format!("{shared}\nvlan = 5");
        let planned = ports(&config(&tagged), &machine()).unwrap();
        assert_eq!(planned[0].interface.as_deref(), Some("eth1.5"));
    }

    #[test]
    fn a_wrong_interface_is_told_the_right_ones() {
        let text = refusal("device = \"net_af_packet0,iface=eth9\"", &machine());
        assert!(text.contains("no interface eth9") && text.contains("eth1, eth1.5, lo"), "{text}");
    }

    #[test]
    fn missing_privileges_are_named() {
        let mut weak = machine();
        weak.capabilities = 1 << CAP_NET_ADMIN;
        let refusal =
            |machine: &Machine| privileges(&config(AF_PACKET), machine).unwrap_err().to_string();
        assert!(refusal(&weak).contains("CAP_NET_RAW"));
        weak.capabilities = 1 << CAP_NET_RAW;
        assert!(refusal(&weak).contains("CAP_NET_ADMIN"));
        let null = config("device = \"net_null0\"\nkernel = \"none\"");
        assert!(privileges(&null, &Machine::default()).is_ok());
    }

    #[test]
    fn a_taken_tap_name_and_an_absent_vlan_say_what_to_do() {
        let mut taken = machine();
        taken.interfaces.insert("wan".to_owned());
        assert!(refusal(AF_PACKET, &taken).contains("ip link delete wan"));
        let text = refusal(&format!("{AF_PACKET}\nkernel = \"shared\"\nvlan = 6"), &machine());
        assert!(text.contains("ip link add link eth1 name eth1.6 type vlan id 6"), "{text}");
    }

    #[test]
    fn a_pci_device_that_is_not_there_is_named() {
        let text = refusal("device = \"ffff:ff:1f.7\"", &machine());
        assert!(text.contains("port wan") && text.contains("ffff:ff:1f.7"), "{text}");
    }

    #[test]
    fn this_machine_has_a_loopback() {
        assert!(Machine::read().interfaces.contains("lo"));
    }
}
