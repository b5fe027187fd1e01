//! What must be so before anything is started: one line each that says what to do if it is not.
//!
//! Only reads. The machine's state comes in as a `Machine`, so that every refusal is tested.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::config::{Config, Kernel, Port};
use crate::dpdk::NicError;
use crate::dpdk::devargs::{Device, DeviceSyntax};
use crate::dpdk::pci::{self, PciAddress};
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
        "gyre needs {0}; run it as root, or from systemd with AmbientCapabilities=CAP_NET_ADMIN \
         CAP_NET_RAW, which `nft` inherits"
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
    /// Capabilities of this process and of the programs it starts, a bit each.
    pub capabilities: u64,
    /// Interfaces in this thread's network namespace.
    pub interfaces: BTreeSet<String>,
    /// VLAN interfaces: name, VLAN, interface below.
    pub vlans: Vec<(String, u16, String)>,
}

impl PlannedPort {
    /// Whether no software stands between the workers and the NICs.
    pub fn is_physical(&self) -> bool {
        let is_pci = |device: &Device| matches!(device, Device::Pci(_));
        match self.members.as_slice() {
            [] => is_pci(&self.device),
            members => members.iter().all(is_pci),
        }
    }

    /// The PCI devices of the port.
    pub fn pci(&self) -> impl Iterator<Item = PciAddress> + '_ {
        self.members.iter().chain([&self.device]).filter_map(|device| match device {
            Device::Pci(address) => Some(*address),
            Device::Virtual(_) => None,
        })
    }
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
    /// What it bonds, parsed.
    pub members: Vec<Device>,
    /// The kernel's interfaces below the device or its members.
    pub lowers: Vec<String>,
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
    let sits_on_one = |port: &Port| {
        let devices = port.members.iter().chain([&port.device]);
        devices.into_iter().any(|device| device.contains(",iface="))
    };
    if config.port.iter().any(sits_on_one) && !machine.may(CAP_NET_RAW) {
        return Err(CheckError::Privilege("CAP_NET_RAW, for ports on a kernel interface"));
    }
    Ok(())
}

fn plan(nic: NicId, port: &Port, machine: &Machine) -> Result<PlannedPort, CheckError> {
    let name = || port.name.clone();
    let device = Device::parse(&port.device)
        .map_err(|source| CheckError::Device { port: name(), source })?;
    let members = port.members.iter().map(|text| Device::parse(text));
    let members = members
        .collect::<Result<Vec<Device>, DeviceSyntax>>()
        .map_err(|source| CheckError::Device { port: name(), source })?;
    let mut lowers = Vec::new();
    for device in members.iter().chain([&device]) {
        lowers.extend(lower_of(port, device, machine)?);
    }
    let interface = interface(port, lowers.first().map(String::as_str), machine)?;
    Ok(PlannedPort { nic, config: port.clone(), device, members, lowers, interface })
}

/// The kernel's interface below a device, if it sits on one; a PCI device must be free.
fn lower_of(port: &Port, device: &Device, machine: &Machine) -> Result<Option<String>, CheckError> {
    let name = || port.name.clone();
    let devargs = match device {
        Device::Pci(address) => {
            pci::check(Path::new("/sys"), *address)
                .map_err(|source| CheckError::Pci { port: name(), source })?;
            return Ok(None);
        }
        Device::Virtual(devargs) => devargs,
    };
    let Some(lower) = devargs.kernel_interface() else { return Ok(None) };
    if machine.interfaces.contains(lower) {
        return Ok(Some(lower.to_owned()));
    }
    let present: Vec<&str> = machine.interfaces.iter().map(String::as_str).collect();
    let (wanted, present) = (lower.to_owned(), present.join(", "));
    Err(CheckError::NoInterface { port: name(), wanted, present })
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

/// What this process may do and have `nft` do, by `/proc/<pid>/status`. A program that root starts
/// has root's capabilities; of others it inherits only the ambient ones, so that `setcap` on gyre's
/// binary alone would end at the first rule.
fn capabilities(status: &str) -> u64 {
    let value = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let set = |name| value(name).and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    let effective_user = value("Uid:").and_then(|ids| ids.split_whitespace().nth(1));
    let inherited =
        if effective_user == Some("0") { u64::MAX } else { set("CapAmb:").unwrap_or(0) };
    set("CapEff:").unwrap_or(0) & inherited
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
        assert_eq!(planned[0].lowers, ["eth1"]);
        let shared = format!("{AF_PACKET}\nkernel = \"shared\"");
        let planned = ports(&config(&shared), &machine()).unwrap();
        assert_eq!(planned[0].interface.as_deref(), Some("eth1"));
        let tagged = format!("{shared}\nvlan = 5");
        let planned = ports(&config(&tagged), &machine()).unwrap();
        assert_eq!(planned[0].interface.as_deref(), Some("eth1.5"));
    }

    const BOND: &str = "device = \"net_bonding0,mode=1\"\nmembers = ";

    #[test]
    fn a_bond_has_the_interfaces_of_its_members() {
        let mut machine = machine();
        machine.interfaces.insert("eth2".to_owned());
        let two = "[\"net_af_packet0,iface=eth1\", \"net_af_packet1,iface=eth2\"]";
        let planned = ports(&config(&format!("{BOND}{two}")), &machine).unwrap();
        assert_eq!(planned[0].lowers, ["eth1", "eth2"]);
        assert!(!planned[0].is_physical());
        let text = refusal(&format!("{BOND}[\"net_af_packet0,iface=eth9\"]"), &machine);
        assert!(text.contains("no interface eth9"), "{text}");
        let text = refusal(&format!("{BOND}[\"ffff:ff:1f.7\"]"), &machine);
        assert!(text.contains("port wan") && text.contains("ffff:ff:1f.7"), "{text}");
        machine.capabilities = 1 << CAP_NET_ADMIN;
        let refused = privileges(&config(&format!("{BOND}{two}")), &machine).unwrap_err();
        assert!(refused.to_string().contains("CAP_NET_RAW"), "{refused}");
    }

    #[test]
    fn a_bond_of_pci_devices_is_physical_and_names_them_to_eal() {
        let pci = |text: &str| Device::parse(text).unwrap();
        let bond = pci("net_bonding0,mode=1");
        let members = vec![pci("0000:3b:00.0"), pci("0000:3b:00.1")];
        let config = config("device = \"net_null0\"").port.remove(0);
        let (lowers, interface) = (Vec::new(), None);
        let planned =
            PlannedPort { nic: NicId(0), config, device: bond, members, lowers, interface };
        assert!(planned.is_physical());
        let names: Vec<String> = planned.pci().map(|address| address.to_string()).collect();
        assert_eq!(names, ["0000:3b:00.0", "0000:3b:00.1"]);
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
    fn capabilities_count_when_nft_inherits_them() {
        let status = |user: &str, ambient: &str| {
            format!("Uid:\t7\t{user}\t7\t7\nCapEff:\t0000000000003000\nCapAmb:\t{ambient}\n")
        };
        assert_eq!(capabilities(&status("0", "0000000000000000")), 0x3000);
        assert_eq!(capabilities(&status("65534", "0000000000003000")), 0x3000);
        // `setcap` on the binary: effective, but nobody else's.
        assert_eq!(capabilities(&status("65534", "0000000000000000")), 0);
        assert_eq!(capabilities(""), 0);
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
