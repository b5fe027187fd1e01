//! A NIC as gyre uses it: opened with one queue pair per worker, watched, closed.
//!
//! Owns the public face. How a device is got hold of is `port`, how it is set up `nic_setup`, how
//! a worker polls it `queue`.

use std::cell::Cell;
use std::ffi::CStr;
use std::marker::PhantomData;
use std::sync::Arc;

use dpdk_sys as sys;

use super::devargs::Device;
use super::mempool::MbufPool;
use super::nic_error::NicError;
use super::nic_setup::{self, Outcome};
use super::port::Port;
use super::queue::QueuePair;
use super::reason;
use super::rss::Rss;
use crate::limits::{BURST_FRAMES_DEFAULT, BURST_FRAMES_MAX};

/// What a frame has besides its payload: Ethernet header, two VLAN tags, FCS.
pub const FRAME_OVERHEAD_BYTES: usize = 14 + 2 * 4 + 4;
/// MTU of a port that neither the configuration nor the device gives one.
pub const MTU_DEFAULT: u16 = 1500;

/// What a NIC is opened with.
#[derive(Clone, Debug)]
pub struct NicConfig {
    /// A PCI address, or DPDK devargs such as `net_af_packet0,iface=eth1`.
    pub device: String,
    /// What net_bonding bonds: PCI addresses, or devargs of devices to make first.
    pub members: Vec<String>,
    /// Queue pairs wanted: one per worker. The device may have fewer.
    pub queue_pairs: u16,
    /// MTU in bytes; `None` leaves the device's.
    pub mtu: Option<u16>,
    /// Frames one poll asks for, at most `BURST_FRAMES_MAX`.
    pub burst_frames: usize,
    /// rx ring size; `None` is a default by driver, which fits what the device allows.
    pub rx_descriptors: Option<u16>,
    /// tx ring size, likewise.
    pub tx_descriptors: Option<u16>,
    /// Whether frames to other MAC addresses come in too. Off, the port still lets all multicast
    /// in. af_packet needs it where an interface filters (not a veth) and its MAC is not what
    /// peers send to, as with a VRRP virtual MAC.
    pub promiscuous: bool,
    /// Toeplitz key, 40 bytes or the device's size; `None` leaves the device's.
    pub rss_key: Option<Vec<u8>>,
    /// Whether transmitted mbufs may go back to the pool unseen, where the device offers it and
    /// the process has one pool only (from then on no second one can be made).
    pub fast_free: bool,
}

impl NicConfig {
    /// One queue pair on `device`, everything else by default.
    pub fn new(device: impl Into<String>) -> Self {
        NicConfig {
            device: device.into(),
            members: Vec::new(),
            queue_pairs: 1,
            mtu: None,
            burst_frames: BURST_FRAMES_DEFAULT,
            rx_descriptors: None,
            tx_descriptors: None,
            promiscuous: false,
            rss_key: None,
            fast_free: true,
        }
    }
}

/// An open, started NIC. Its queues live apart, with the workers. Dropped together with the last
/// of them it stops, closes and, if virtual, vanishes.
pub struct Nic {
    port: Arc<Port>,
    driver: String,
    outcome: Outcome,
    /// ethdev's control calls are one thread's at a time: `Send`, not `Sync`.
    _one_thread: PhantomData<Cell<()>>,
}

/// Whether a port has a carrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkState {
    /// Frames can pass.
    pub is_up: bool,
    /// In Mbit/s, where the device knows.
    pub speed_mbps: Option<u32>,
}

/// A port's own counters since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NicStats {
    /// Frames received.
    pub rx_frames: u64,
    /// Frames sent.
    pub tx_frames: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Frames the device dropped as its rx rings were full (imissed).
    pub rx_missed: u64,
    /// Frames dropped for want of mbufs.
    pub rx_no_mbuf: u64,
    /// Frames received in error.
    pub rx_errors: u64,
    /// Frames that could not be sent.
    pub tx_errors: u64,
}

impl Nic {
    /// Opens and starts a NIC that receives into `pool`. The queue pairs are as many as wanted, or
    /// as many as the device has: compare with [`NicConfig::queue_pairs`] and say so.
    pub fn open(config: &NicConfig, pool: &MbufPool) -> Result<(Self, Vec<QueuePair>), NicError> {
        let mut port = match Device::parse(&config.device)? {
            Device::Pci(address) => Port::take_pci(address, pool)?,
            Device::Virtual(devargs) => Port::make_virtual(devargs, config, pool)?,
        };
        let outcome = nic_setup::set_up(&mut port, config)?;
        let driver = driver_of(&port);
        let port = Arc::new(port);
        let burst_frames = config.burst_frames.clamp(1, BURST_FRAMES_MAX);
        let queues = (0..outcome.queue_pairs)
            .map(|index| QueuePair::new(&port, index, burst_frames))
            .collect();
        Ok((Nic { port, driver, outcome, _one_thread: PhantomData }, queues))
    }

    /// Stops and closes the port and removes a virtual device. Refused while a queue is held.
    pub fn close(self) -> Result<(), NicError> {
        match Arc::try_unwrap(self.port) {
            Ok(port) => {
                drop(port);
                Ok(())
            }
            Err(port) => Err(NicError::QueuesInUse { device: port.name().to_owned() }),
        }
    }

    /// The device's name: PCI address or the vdev's name.
    pub fn name(&self) -> &str {
        self.port.name()
    }

    /// The device with all arguments in force.
    pub fn device(&self) -> String {
        self.port.devargs().map_or_else(|| self.name().to_owned(), ToString::to_string)
    }

    /// The DPDK driver's name.
    pub fn driver(&self) -> &str {
        &self.driver
    }

    /// DPDK's number for the port, as its telemetry and logs have it.
    pub fn port_id(&self) -> u16 {
        self.port.id()
    }

    /// Whether it is a PCI device, not one made of software.
    pub fn is_physical(&self) -> bool {
        self.port.devargs().is_none()
    }

    /// The kernel interface below an af_packet or af_xdp port.
    pub fn kernel_interface(&self) -> Option<&str> {
        self.port.devargs().and_then(|devargs| devargs.kernel_interface())
    }

    /// Queue pairs in force.
    pub fn queues(&self) -> u16 {
        self.outcome.queue_pairs
    }

    /// The port's MAC address.
    pub fn mac(&self) -> [u8; 6] {
        self.outcome.mac
    }

    /// MTU in bytes.
    pub fn mtu(&self) -> u16 {
        self.outcome.mtu
    }

    /// Longest frame the port sends, in bytes: an untagged one of full MTU, without FCS.
    pub fn frame_bytes_max(&self) -> usize {
        usize::from(self.outcome.mtu) + 14
    }

    /// How the device spreads flows over queues; `None` when it does not, or does not say.
    pub fn rss(&self) -> Option<&Rss> {
        self.outcome.rss.as_ref()
    }

    /// Whether transmitted mbufs return to the pool unseen.
    pub fn frees_fast(&self) -> bool {
        self.outcome.frees_fast
    }

    /// Carrier and speed. The interface's own where one lies below the port: those drivers always
    /// say up.
    pub fn link(&self) -> LinkState {
        if let Some(interface) = self.port.interface() {
            // An interface that went away has no carrier.
            return LinkState { is_up: interface.is_running().unwrap_or(false), speed_mbps: None };
        }
        let (mut is_up, mut speed) = (false, 0);
        // SAFETY: the port exists while `self.port` does.
        if unsafe { sys::gyre_link(self.port.id(), &mut is_up, &mut speed) } != 0 {
            // A device that cannot tell has nothing to lose.
            return LinkState { is_up: true, speed_mbps: None };
        }
        LinkState { is_up, speed_mbps: (speed != 0 && speed != u32::MAX).then_some(speed) }
    }

    /// The port's counters.
    pub fn stats(&self) -> Result<NicStats, NicError> {
        let mut raw = sys::rte_eth_stats::default();
        // SAFETY: the port exists while `self.port` does.
        let code = unsafe { sys::rte_eth_stats_get(self.port.id(), &mut raw) };
        self.port.check("reading its counters", code)?;
        Ok(NicStats {
            rx_frames: raw.ipackets,
            tx_frames: raw.opackets,
            rx_bytes: raw.ibytes,
            tx_bytes: raw.obytes,
            rx_missed: raw.imissed,
            rx_no_mbuf: raw.rx_nombuf,
            rx_errors: raw.ierrors,
            tx_errors: raw.oerrors,
        })
    }

    /// The driver's own counters by name, for diagnosis; empty where it has none.
    pub fn extended_stats(&self) -> Vec<(String, u64)> {
        let id = self.port.id();
        // SAFETY: null and 0 ask for the count only.
        let count = unsafe { sys::rte_eth_xstats_get(id, std::ptr::null_mut(), 0) };
        let Ok(count) = usize::try_from(count) else { return Vec::new() };
        let mut names = vec![sys::rte_eth_xstat_name::default(); count];
        let mut values = vec![sys::rte_eth_xstat::default(); count];
        // SAFETY: both have room for `count` entries, which is what we say.
        let filled = unsafe {
            sys::rte_eth_xstats_get_names(id, names.as_mut_ptr(), count as u32)
                .min(sys::rte_eth_xstats_get(id, values.as_mut_ptr(), count as u32))
        };
        values.truncate(usize::try_from(filled).unwrap_or(0).min(count));
        let name = |id: u64| names.get(id as usize).map(|name| text_of(&name.name));
        values.iter().filter_map(|stat| Some((name(stat.id)?, stat.value))).collect()
    }
}

/// The name of the driver that told `info`.
pub(super) fn driver_name(info: &sys::rte_eth_dev_info) -> String {
    if info.driver_name.is_null() {
        return String::new();
    }
    // SAFETY: drivers' names are static, terminated strings.
    unsafe { CStr::from_ptr(info.driver_name) }.to_string_lossy().into_owned()
}

fn driver_of(port: &Port) -> String {
    let mut info = sys::rte_eth_dev_info::default();
    // SAFETY: the port exists; info has room for the answer.
    match unsafe { sys::rte_eth_dev_info_get(port.id(), &mut info) } {
        0 => driver_name(&info),
        code => reason(code),
    }
}

fn text_of(chars: &[std::ffi::c_char]) -> String {
    let bytes: Vec<u8> = chars.iter().map(|&c| c as u8).take_while(|&b| b != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
