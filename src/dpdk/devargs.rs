//! A port's `device` text: a PCI address or DPDK devargs, and what gyre adds to the latter.
//!
//! Pure text work. Nothing here looks at the machine.

use std::fmt;

use super::pci::PciAddress;

/// Bytes the kernel puts before the Ethernet header in an AF_PACKET ring frame (TPACKET_V2
/// header, address and alignment); what is left of `framesz` holds the frame. A longer frame is
/// cut and no counter moves.
pub const AF_PACKET_FRAME_OVERHEAD_BYTES: u32 = 66;
/// Ring frame size the af_packet driver takes unless told.
pub const AF_PACKET_FRAME_BYTES_DEFAULT: u32 = 2048;
/// Part of `framesz` that need not fit an mbuf: the driver checks the rest against its room.
const AF_PACKET_NOT_DATA_BYTES: u32 = 32;
const PAGE_BYTES: u32 = 4096;
const ETHERNET_HEADER_BYTES: u32 = 14;

/// Drivers with ways of their own.
const DRIVERS: [&str; 8] = [
    "net_af_packet",
    "eth_af_packet",
    "net_af_xdp",
    "net_tap",
    "virtio_user",
    "net_virtio_user",
    "net_vhost",
    "eth_vhost",
];

/// What the `device` of a port names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    /// A NIC on the PCI bus.
    Pci(PciAddress),
    /// A virtual device, made by its driver.
    Virtual(DevArgs),
}

impl Device {
    /// Reads a PCI address (`0000:3b:00.0`, `3b:00.0`) or devargs (`net_af_packet0,iface=eth1`).
    pub fn parse(text: &str) -> Result<Self, DeviceSyntax> {
        let bare = text.strip_prefix("pci:").or_else(|| text.strip_prefix("vdev:"));
        let bare = bare.unwrap_or(text);
        match PciAddress::parse(bare) {
            Some(address) => Ok(Device::Pci(address)),
            None => DevArgs::parse(bare).map(Device::Virtual),
        }
    }
}

/// The text names no device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` names no device; give a PCI address such as 0000:3b:00.0 or DPDK devargs such as \
     net_af_packet0,iface=eth1"
)]
pub struct DeviceSyntax(pub String);

/// Devargs of a virtual device: its name and `key=value` arguments, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevArgs {
    name: String,
    arguments: Vec<(String, Option<String>)>,
}

impl DevArgs {
    /// Splits `name,key=value,...`; commas inside brackets belong to the value.
    pub fn parse(text: &str) -> Result<Self, DeviceSyntax> {
        let mut parts = split_outside_brackets(text).into_iter();
        let name = parts.next().unwrap_or_default();
        let sane = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        // The longest name a DPDK device may have, its end included, is 64 bytes.
        if !name.starts_with(|c: char| c.is_ascii_alphabetic())
            || !name.chars().all(sane)
            || name.len() > 63
        {
            return Err(DeviceSyntax(text.to_owned()));
        }
        let arguments = parts
            .filter(|part| !part.is_empty())
            .map(|part| match part.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (part.to_owned(), None),
            })
            .collect();
        Ok(DevArgs { name: name.to_owned(), arguments })
    }

    /// The device's name, such as `net_tap0`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The driver's name, such as `net_tap`. EAL takes the driver whose name the device's begins
    /// with, so `net_tap_lan` is one too; of drivers that nothing here depends on it is the
    /// device's name without its number.
    pub fn driver(&self) -> &str {
        let bare = self.name.trim_end_matches(|c: char| c.is_ascii_digit());
        let known = DRIVERS.iter().find(|driver| bare.starts_with(**driver));
        known.copied().unwrap_or(bare)
    }

    /// The first value of `key`.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.arguments.iter().find(|(k, _)| k == key).and_then(|(_, value)| value.as_deref())
    }

    /// `key`'s value as a number; `None` when absent or none.
    pub fn number(&self, key: &str) -> Option<u32> {
        self.value(key)?.parse().ok()
    }

    /// Everything behind the name, as the driver wants it.
    pub fn arguments(&self) -> String {
        let parts: Vec<String> = self
            .arguments
            .iter()
            .map(|(key, value)| match value {
                Some(value) => format!("{key}={value}"),
                None => key.clone(),
            })
            .collect();
        parts.join(",")
    }

    /// The kernel interface whose frames the device takes, for the drivers that sit on one.
    pub fn kernel_interface(&self) -> Option<&str> {
        match self.driver() {
            "net_af_packet" | "eth_af_packet" | "net_af_xdp" => self.value("iface"),
            _ => None,
        }
    }

    /// Whether the driver is af_packet.
    pub fn is_af_packet(&self) -> bool {
        matches!(self.driver(), "net_af_packet" | "eth_af_packet")
    }

    /// Size of an af_packet ring frame in bytes.
    pub fn ring_frame_bytes(&self) -> u32 {
        self.number("framesz").unwrap_or(AF_PACKET_FRAME_BYTES_DEFAULT)
    }

    /// Largest MTU whose frames the ring holds whole.
    pub fn ring_mtu_max(&self) -> u32 {
        self.ring_frame_bytes()
            .saturating_sub(AF_PACKET_FRAME_OVERHEAD_BYTES + ETHERNET_HEADER_BYTES)
    }

    /// Data the driver demands room for in every mbuf, without headroom.
    pub fn mbuf_data_bytes_min(&self) -> u32 {
        if self.is_af_packet() { self.ring_frame_bytes() - AF_PACKET_NOT_DATA_BYTES } else { 0 }
    }

    /// Adds an argument, which may be there already.
    pub fn push(&mut self, key: &str, value: impl fmt::Display) {
        self.arguments.push((key.to_owned(), Some(value.to_string())));
    }

    fn set_default(&mut self, key: &str, value: impl fmt::Display) {
        if !self.arguments.iter().any(|(k, _)| k == key) {
            self.arguments.push((key.to_owned(), Some(value.to_string())));
        }
    }
}

impl fmt::Display for DevArgs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if self.arguments.is_empty() { Ok(()) } else { write!(f, ",{}", self.arguments()) }
    }
}

/// Adds what `queue_pairs` workers and `mtu` need and the user did not say. What the user said
/// stays; whether it suits the MTU is checked when the port opens.
pub fn complete(mut devargs: DevArgs, queue_pairs: u16, mtu: u16) -> DevArgs {
    match devargs.driver() {
        "net_af_packet" | "eth_af_packet" => {
            devargs.set_default("qpairs", queue_pairs);
            complete_rings(&mut devargs, mtu);
        }
        "net_af_xdp" => {
            devargs.set_default("start_queue", 0);
            devargs.set_default("queue_count", queue_pairs);
        }
        "virtio_user" | "net_virtio_user" | "net_vhost" | "eth_vhost" => {
            devargs.set_default("queues", queue_pairs);
        }
        _ => {}
    }
    devargs
}

/// Ring frames as large as the MTU asks. The driver lays frames end to end, so a block must hold
/// a whole number of them, and must itself be whole pages.
fn complete_rings(devargs: &mut DevArgs, mtu: u16) {
    let wanted = u32::from(mtu) + ETHERNET_HEADER_BYTES + AF_PACKET_FRAME_OVERHEAD_BYTES;
    if wanted > AF_PACKET_FRAME_BYTES_DEFAULT {
        devargs.set_default("framesz", wanted.next_multiple_of(PAGE_BYTES));
    }
    let frame_bytes = devargs.ring_frame_bytes().max(1);
    if frame_bytes > PAGE_BYTES {
        devargs.set_default("blocksz", frame_bytes.next_multiple_of(PAGE_BYTES));
    }
    // The driver's 512 small frames last 0.3 ms at 1.5 Mpps, less than one sleep of a worker that
    // shares its core. 2 MiB a ring, but not below the driver's own count.
    devargs.set_default("framecnt", ((2 << 20) / frame_bytes).max(512));
}

fn split_outside_brackets(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0_i32);
    for (at, c) in text.char_indices() {
        match c {
            '[' => depth += 1,
            ']' => depth -= 1,
            ',' if depth <= 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(text: &str, queue_pairs: u16, mtu: u16) -> String {
        complete(DevArgs::parse(text).unwrap(), queue_pairs, mtu).to_string()
    }

    #[test]
    fn pci_addresses_and_devargs_are_told_apart() {
        let Device::Pci(address) = Device::parse("3b:00.1").unwrap() else { panic!("not PCI") };
        assert_eq!(address.to_string(), "0000:3b:00.1");
        let Device::Virtual(device) = Device::parse("vdev:net_tap12,iface=t0").unwrap() else {
            panic!("not virtual")
        };
        assert_eq!((device.name(), device.driver()), ("net_tap12", "net_tap"));
        assert_eq!(device.value("iface"), Some("t0"));
        let named = DevArgs::parse("net_af_packet_wan,iface=eth1").unwrap();
        assert_eq!(named.kernel_interface(), Some("eth1"));
        for bad in ["", ",iface=x", "0000:3b:00", "net tap", "-a"] {
            assert!(Device::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn devargs_survive_unchanged() {
        for text in [
            "net_null0",
            "net_bonding0,mode=4,slave=net_tap0,slave=net_tap1",
            "net_x0,q=[1,2],flag,path=/a=b",
        ] {
            assert_eq!(DevArgs::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(completed("net_tap0,iface=a", 4, 9000), "net_tap0,iface=a");
    }

    #[test]
    fn af_packet_gets_a_queue_per_worker_and_rings_for_its_mtu() {
        assert_eq!(
            completed("net_af_packet0,iface=eth1", 2, 1500),
            "net_af_packet0,iface=eth1,qpairs=2,framecnt=1024"
        );
        assert_eq!(
            completed("net_af_packet0,iface=eth1", 2, 9000),
            "net_af_packet0,iface=eth1,qpairs=2,framesz=12288,blocksz=12288,framecnt=512"
        );
        let largest = DevArgs::parse(&completed("net_af_packet0,iface=a", 1, 65_535)).unwrap();
        assert!(largest.ring_mtu_max() >= 65_535);
    }

    #[test]
    fn what_the_user_said_stays() {
        assert_eq!(
            completed("net_af_packet0,iface=a,qpairs=1,framesz=4096,framecnt=64", 2, 9000),
            "net_af_packet0,iface=a,qpairs=1,framesz=4096,framecnt=64"
        );
        assert_eq!(
            completed("net_af_xdp0,iface=a,queue_count=1", 4, 1500),
            "net_af_xdp0,iface=a,queue_count=1,start_queue=0"
        );
    }

    #[test]
    fn default_ring_frame_holds_1968_bytes_of_payload() {
        let device = DevArgs::parse("net_af_packet0,iface=a").unwrap();
        assert_eq!(device.ring_mtu_max(), 1968);
        assert_eq!(device.mbuf_data_bytes_min(), 2016);
    }
}
