//! What can go wrong with a port, each with what to do about it.

use std::io;

use super::devargs::DeviceSyntax;
use super::reason;

/// Why a port cannot be opened or closed.
#[derive(Debug, thiserror::Error)]
pub enum NicError {
    /// `device` is neither a PCI address nor devargs.
    #[error(transparent)]
    Syntax(#[from] DeviceSyntax),
    /// Nothing at that PCI address.
    #[error("no PCI device {device}; `lspci -D | grep -i ether` lists those there are")]
    NoSuchPciDevice {
        /// The PCI address.
        device: String,
    },
    /// No driver has the PCI device.
    #[error(
        "PCI device {device} has no driver; `gyre-bind-nic {device}` (`scripts/bind-nic` in the \
         sources) gives it to DPDK: it shows what it would do and asks; `gyre doctor` has the rest"
    )]
    PciUnbound {
        /// The PCI address.
        device: String,
    },
    /// The kernel still drives the PCI device.
    #[error(
        "PCI device {device}{interface} is bound to the kernel's driver {driver}; if nothing else \
         uses it: `gyre-bind-nic {device}` (`scripts/bind-nic` in the sources) gives it to DPDK: \
         it shows what it would do and asks; `gyre doctor` has the rest"
    )]
    PciBoundToKernel {
        /// The PCI address.
        device: String,
        /// The kernel's driver.
        driver: String,
        /// Its interface in brackets, or nothing.
        interface: String,
    },
    /// EAL did not take the PCI device.
    #[error(
        "EAL did not take {device}: no DPDK driver for it, or not allowed at start; start with \
         log level info to see why"
    )]
    PciNotProbed {
        /// The PCI address.
        device: String,
    },
    /// The interface below an af_packet or af_xdp port.
    #[error("{device}: interface `{interface}`: {source}; `ip link` lists what there is")]
    Interface {
        /// The port's device.
        device: String,
        /// The kernel interface.
        interface: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Packet sockets need privileges.
    #[error("{device}: not permitted; run as root or with CAP_NET_RAW and CAP_NET_ADMIN")]
    NotPermitted {
        /// The port's device.
        device: String,
    },
    /// No driver answers to the device's name.
    #[error(
        "no DPDK driver for `{device}`; known here are net_af_packet, net_af_xdp, net_tap, \
         net_memif, net_ring, net_pcap, net_null, net_bonding, net_vhost and virtio_user"
    )]
    NoDriver {
        /// The port's device.
        device: String,
    },
    /// The driver refused the device.
    #[error("{device}: the driver refused it: {reason}{hint}")]
    Probe {
        /// The device with all its arguments.
        device: String,
        /// The error in words.
        reason: String,
        /// What to look at, or nothing.
        hint: &'static str,
    },
    /// A step of setting up the port failed.
    #[error("{device}: {step} failed: {reason}")]
    Step {
        /// The port's device.
        device: String,
        /// Which step.
        step: &'static str,
        /// The error in words.
        reason: String,
    },
    /// A port without a queue in one direction.
    #[error("{device} offers {rx} rx and {tx} tx queues; both are needed")]
    NoQueues {
        /// The port's device.
        device: String,
        /// rx queues offered.
        rx: u16,
        /// tx queues offered.
        tx: u16,
    },
    /// Ring frames shorter than the MTU's frames are cut without a counter moving.
    #[error(
        "{device}: frames of MTU {mtu} do not fit ring frames of framesz={frame_bytes} (largest \
         MTU {mtu_max}); leave framesz and blocksz out, or lower the MTU"
    )]
    RingFrameTooSmall {
        /// The port's device.
        device: String,
        /// The MTU in bytes.
        mtu: u16,
        /// framesz in bytes.
        frame_bytes: u32,
        /// Largest MTU that fits, in bytes.
        mtu_max: u32,
    },
    /// mbufs shorter than a frame.
    #[error(
        "{device}: mbufs of pool `{pool}` hold {room_bytes} bytes behind the headroom, MTU {mtu} \
         needs {wanted_bytes}; make the pool with a larger data room, or lower the MTU"
    )]
    MbufTooSmall {
        /// The port's device.
        device: String,
        /// The pool's name.
        pool: String,
        /// The MTU in bytes.
        mtu: u16,
        /// Room behind the headroom, in bytes.
        room_bytes: u32,
        /// Room needed, in bytes.
        wanted_bytes: u32,
    },
    /// The device does not do this MTU.
    #[error(
        "{device}: MTU {mtu} is outside what the device takes ({mtu_min} to {mtu_max}); correct \
         the port's `mtu`"
    )]
    Mtu {
        /// The port's device.
        device: String,
        /// The MTU in bytes.
        mtu: u16,
        /// Smallest it takes, in bytes.
        mtu_min: u16,
        /// Largest it takes, in bytes.
        mtu_max: u16,
    },
    /// The RSS key is longer than the device's, or too short to hash an IPv6 tuple.
    #[error(
        "{device}: RSS key of {found} bytes; the device takes {wanted}, at least 40 are needed"
    )]
    RssKey {
        /// The port's device.
        device: String,
        /// Bytes given.
        found: usize,
        /// Bytes the device takes.
        wanted: usize,
    },
    /// Queues of the port are still held.
    #[error("{device} cannot be closed: workers still hold its queues; stop them first")]
    QueuesInUse {
        /// The port's device.
        device: String,
    },
}

impl NicError {
    pub(super) fn step(device: &str, step: &'static str, code: i32) -> Self {
        NicError::Step { device: device.to_owned(), step, reason: reason(code) }
    }
}
