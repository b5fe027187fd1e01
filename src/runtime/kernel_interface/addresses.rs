//! Which VIPs and LIPs the kernel holds, and where: it answers ARP, ND and ping for them.
//!
//! Each goes, as an address of its own, on the kernel interface whose subnet it is in, or else on
//! the first one: the kernel answers for any of its addresses on every interface. An address that
//! was there already is the operator's and stays. On shared interfaces ours outlive a SIGKILL, so
//! they are written to a file first, by which the next start finds and removes them.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::config::VipAddresses;
use crate::model::{Prefix, Snapshot};

/// An address on an interface.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AddressOn {
    /// The interface's name.
    pub interface: String,
    /// The address.
    pub address: IpAddr,
    /// Length of its network in bits; all of them for VIPs and LIPs.
    pub bits: u8,
}

impl AddressOn {
    /// An address without a network, as VIPs and LIPs are.
    pub fn host(interface: &str, address: IpAddr) -> Self {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        AddressOn { interface: interface.to_owned(), address, bits }
    }
}

/// A kernel interface and the subnets of its own addresses.
#[derive(Clone, Debug)]
pub struct KernelInterfaceSubnets {
    /// The interface's name.
    pub interface: String,
    /// Subnets.
    pub subnets: Vec<Prefix>,
}

/// Where each LIP of `snapshot` belongs, and each VIP that is gyre's to put there.
pub fn wanted(
    snapshot: &Snapshot,
    interfaces: &[KernelInterfaceSubnets],
    vips_by: VipAddresses,
) -> BTreeSet<AddressOn> {
    let vips = snapshot.vips.iter().filter(|_| vips_by == VipAddresses::Gyre);
    let addresses = vips.chain(snapshot.lips.keys());
    addresses.filter_map(|&address| place(address, interfaces)).collect()
}

fn place(address: IpAddr, interfaces: &[KernelInterfaceSubnets]) -> Option<AddressOn> {
    let bits = |of: &KernelInterfaceSubnets| {
        of.subnets.iter().filter(|subnet| subnet.contains(address)).map(Prefix::bits).max()
    };
    let best = interfaces.iter().filter(|of| bits(of).is_some()).max_by_key(|of| bits(of));
    Some(AddressOn::host(&best.or(interfaces.first())?.interface, address))
}

/// The file that remembers what was added to interfaces that outlive us.
#[derive(Debug)]
pub struct AddressFile(PathBuf);

impl AddressFile {
    /// Beside the control socket, whose path no two live instances share.
    pub fn beside(control_socket: &Path) -> Self {
        let mut path = control_socket.as_os_str().to_owned();
        path.push(".addresses");
        AddressFile(path.into())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// What a run before this one added and did not remove.
    pub fn read(&self) -> BTreeSet<AddressOn> {
        let text = fs::read_to_string(&self.0).unwrap_or_default();
        text.lines().filter_map(parse).collect()
    }

    /// Replaces the file, atomically; no addresses, no file.
    pub fn write(&self, addresses: &BTreeSet<AddressOn>) -> io::Result<()> {
        if addresses.is_empty() {
            return match fs::remove_file(&self.0) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        let text: String = addresses
            .iter()
            .map(|on| format!("{} {}/{}\n", on.interface, on.address, on.bits))
            .collect();
        let mut new = self.0.as_os_str().to_owned();
        new.push(".new");
        fs::write(&new, text)?;
        fs::rename(&new, &self.0)
    }
}

fn parse(line: &str) -> Option<AddressOn> {
    let (interface, network) = line.split_once(' ')?;
    let (address, bits) = network.split_once('/')?;
    let (address, bits) = (address.parse().ok()?, bits.parse().ok()?);
    Some(AddressOn { interface: interface.to_owned(), address, bits })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str, subnets: &[&str]) -> KernelInterfaceSubnets {
        let subnets = subnets.iter().map(|subnet| subnet.parse().unwrap()).collect();
        KernelInterfaceSubnets { interface: name.to_owned(), subnets }
    }

    #[test]
    fn an_address_goes_where_its_subnet_is_and_else_to_the_first() {
        let interfaces = [
            interface("wan", &["192.0.2.0/24"]),
            interface("lan", &["10.0.0.0/8", "2001:db8::/64"]),
            interface("lab", &["10.1.0.0/16"]),
        ];
        for (address, expected) in [
            ("192.0.2.80", "wan"),
            ("10.2.0.1", "lan"),
            ("10.1.0.1", "lab"),
            ("2001:db8::1", "lan"),
            ("203.0.113.1", "wan"),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(place(address, &interfaces).unwrap().interface, expected, "{address}");
        }
        assert_eq!(place("10.0.0.1".parse().unwrap(), &[]), None);
    }

    #[test]
    fn the_file_remembers_and_goes_when_nothing_is_left() {
        let socket = std::env::temp_dir().join(format!("gyre-addresses-{}", std::process::id()));
        let file = AddressFile::beside(&socket);
        assert!(file.read().is_empty());
        let own = AddressOn {
            interface: "eth1".to_owned(),
            address: "192.0.2.2".parse().unwrap(),
            bits: 24,
        };
        let vip = AddressOn::host("eth1.5", "2001:db8::8".parse().unwrap());
        let addresses = [own, vip].into();
        file.write(&addresses).unwrap();
        assert_eq!(file.read(), addresses);
        file.write(&BTreeSet::new()).unwrap();
        file.write(&BTreeSet::new()).unwrap();
        assert!(!file.0.exists());
    }
}
