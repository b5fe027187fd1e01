//! Devices that another one, net_bonding, is built upon: made or found before it, removed after it.

use std::ffi::CString;
use std::path::Path;

use dpdk_sys as sys;

use super::devargs::{self, DevArgs, Device};
use super::netdevice::NetDevice;
use super::nic::{MTU_DEFAULT, NicConfig};
use super::nic_error::NicError;
use super::pci;
use super::port;

/// One device of a bond.
pub(super) struct Member {
    name: CString,
    /// Whether it was made, and so is to be removed.
    is_virtual: bool,
    /// The kernel interface below it.
    interface: Option<NetDevice>,
    /// Data its driver demands room for in every mbuf.
    mbuf_data_bytes_min: u32,
}

impl Drop for Member {
    fn drop(&mut self) {
        port::remove_port(&self.name);
        if self.is_virtual {
            port::remove_device(&self.name);
        }
    }
}

/// All members of a bond, and what they allow it.
#[derive(Default)]
pub(super) struct Members {
    all: Vec<Member>,
    /// MTU of the interface below the first, which the bond takes over unless told.
    pub(super) mtu: Option<u16>,
}

impl Members {
    /// Makes or finds what `config` lists.
    pub(super) fn make(config: &NicConfig) -> Result<Self, NicError> {
        let mut members = Members { all: Vec::new(), mtu: config.mtu };
        for text in &config.members {
            let member = match Device::parse(text)? {
                Device::Pci(address) => {
                    pci::check(Path::new("/sys"), address)?;
                    found(&address.to_string())?
                }
                Device::Virtual(devargs) => made(devargs, config, members.mtu)?,
            };
            if let (None, Some(interface)) = (members.mtu, &member.interface) {
                members.mtu = interface.mtu().ok().and_then(|mtu| u16::try_from(mtu).ok());
            }
            members.all.push(member);
        }
        Ok(members)
    }

    /// Names them in the bond's own arguments.
    pub(super) fn join(&self, bond: &mut DevArgs) {
        for member in &self.all {
            bond.push(port::bond_member_key(), member.name.to_string_lossy());
        }
    }

    /// Queue pairs that every member has; the bond itself only knows once it is configured.
    pub(super) fn queue_pairs_max(&self) -> u16 {
        self.all.iter().map(queue_pairs).min().unwrap_or(u16::MAX)
    }

    /// Data that drivers demand room for in every mbuf.
    pub(super) fn mbuf_data_bytes_min(&self) -> u32 {
        self.all.iter().map(|member| member.mbuf_data_bytes_min).max().unwrap_or(0)
    }

    /// Interfaces below are up when the bond is.
    pub(super) fn set_up(&self) -> std::io::Result<()> {
        for interface in self.all.iter().filter_map(|member| member.interface.as_ref()) {
            if !interface.is_up()? {
                interface.set_up()?;
            }
        }
        Ok(())
    }
}

fn found(name: &str) -> Result<Member, NicError> {
    let not_probed = || NicError::PciNotProbed { device: name.to_owned() };
    port::find_port(name).ok_or_else(not_probed)?;
    let name = CString::new(name).map_err(|_| not_probed())?;
    Ok(Member { name, is_virtual: false, interface: None, mbuf_data_bytes_min: 0 })
}

/// Makes a virtual member. Its interface gets the bond's MTU.
fn made(wanted: DevArgs, config: &NicConfig, mtu: Option<u16>) -> Result<Member, NicError> {
    let interface = port::open_interface(&wanted, mtu)?;
    let mtu = match (mtu, &interface) {
        (Some(mtu), _) => mtu,
        (None, Some(interface)) => port::interface_mtu(&wanted, interface)?,
        (None, None) => MTU_DEFAULT,
    };
    let devargs = devargs::complete(wanted, config.queue_pairs, mtu);
    let mtu_max = if devargs.is_af_packet() { devargs.ring_mtu_max() } else { u32::MAX };
    if u32::from(mtu) > mtu_max {
        let (device, frame_bytes) = (devargs.name().to_owned(), devargs.ring_frame_bytes());
        return Err(NicError::RingFrameTooSmall { device, mtu, frame_bytes, mtu_max });
    }
    let name = port::make_device(&devargs)?;
    let mbuf_data_bytes_min = devargs.mbuf_data_bytes_min();
    Ok(Member { name, is_virtual: true, interface, mbuf_data_bytes_min })
}

fn queue_pairs(member: &Member) -> u16 {
    let mut info = sys::rte_eth_dev_info::default();
    let Some(id) = member.name.to_str().ok().and_then(port::find_port) else { return 1 };
    // SAFETY: the port exists; info has room for the answer.
    match unsafe { sys::rte_eth_dev_info_get(id, &mut info) } {
        0 => info.max_rx_queues.min(info.max_tx_queues).max(1),
        _ => 1,
    }
}
