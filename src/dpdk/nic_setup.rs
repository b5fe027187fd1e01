//! From a device to a started port: queues, offloads, MTU, RSS.
//!
//! Every offload is asked for only where the device offers it, and every return code is looked at.

use dpdk_sys as sys;

use super::devargs::DevArgs;
use super::nic::{FRAME_OVERHEAD_BYTES, NicConfig};
use super::nic_error::NicError;
use super::port::Port;
use super::rss::{self, Rss};

/// Descriptors a queue gets unless configured.
const DESCRIPTORS_DEFAULT: u16 = 1024;
/// net_tap pins an mbuf per descriptor and uses one.
const DESCRIPTORS_DEFAULT_TAP: u16 = 64;

/// The least every IPv4 link carries, in bytes (RFC 791).
const MTU_MIN: u16 = 68;

/// What setting up a port came to.
pub struct Outcome {
    pub queue_pairs: u16,
    pub mtu: u16,
    pub mac: [u8; 6],
    pub rss: Option<Rss>,
    pub frees_fast: bool,
}

/// What the device is asked for.
struct Wishes {
    queue_pairs: u16,
    tx_offloads: u64,
    /// 0 for no RSS.
    hash_types: u64,
}

/// Configures and starts `port`.
pub fn set_up(port: &mut Port, config: &NicConfig) -> Result<Outcome, NicError> {
    let info = device_info(port)?;
    let queue_pairs = choose_queues(port, &info, config.queue_pairs)?;
    let mtu = config.mtu.or(port.members.mtu);
    check_mtu(port, &info, mtu)?;
    let frees_fast = config.fast_free
        && info.tx_offload_capa & sys::GYRE_TX_OFFLOAD_FAST_FREE != 0
        && port.pool().eal().claim_fast_free();
    let hash_types = if queue_pairs > 1 { rss::hash_types(&info) } else { 0 };
    if let Some(key) = config.rss_key.as_ref().filter(|_| hash_types != 0) {
        port.rss_key = rss::fit_key(port.name(), key, &info)?;
    }
    let tx_offloads = if frees_fast { sys::GYRE_TX_OFFLOAD_FAST_FREE } else { 0 };
    let wishes = Wishes { queue_pairs, tx_offloads, hash_types };
    configure(port, config, &wishes)?;
    apply_mtu(port, mtu)?;
    let mtu = mtu_in_force(port)?;
    check_room(port, mtu)?;
    make_queues(port, config, queue_pairs)?;
    start(port)?;
    listen(port, config)?;
    let rss = match hash_types {
        0 => None,
        _ => rss::program(port.id(), &info, queue_pairs, &mut port.rss_key),
    };
    let mac = mac(port)?;
    Ok(Outcome { queue_pairs, mtu, mac, rss, frees_fast })
}

fn device_info(port: &Port) -> Result<sys::rte_eth_dev_info, NicError> {
    let mut info = sys::rte_eth_dev_info::default();
    // SAFETY: the port exists; info has room for the answer.
    let code = unsafe { sys::rte_eth_dev_info_get(port.id(), &mut info) };
    port.check("asking for its abilities", code).map(|()| info)
}

/// As many queue pairs as wanted, or as the device has. Several drivers demand as many tx queues
/// as rx queues, so they always come in pairs.
fn choose_queues(port: &Port, info: &sys::rte_eth_dev_info, wanted: u16) -> Result<u16, NicError> {
    let (rx, tx) = (info.max_rx_queues, info.max_tx_queues);
    match rx.min(tx) {
        0 => Err(NicError::NoQueues { device: port.name().to_owned(), rx, tx }),
        offered => Ok(wanted.clamp(1, offered.min(port.members.queue_pairs_max()))),
    }
}

/// Checks a configured MTU against ring frames and the device's own bounds.
fn check_mtu(port: &Port, info: &sys::rte_eth_dev_info, mtu: Option<u16>) -> Result<(), NicError> {
    if port.interface().is_some() {
        return check_ring(port);
    }
    let Some(mtu) = mtu else { return Ok(()) };
    let (mtu_min, mtu_max) = (info.min_mtu.max(MTU_MIN), mtu_max(info));
    if (mtu_min..=mtu_max).contains(&mtu) {
        return Ok(());
    }
    Err(NicError::Mtu { device: port.name().to_owned(), mtu, mtu_min, mtu_max })
}

/// Largest MTU ethdev will accept, reckoned as it does: the device's overhead if it names both
/// bounds, else Ethernet header and FCS.
fn mtu_max(info: &sys::rte_eth_dev_info) -> u16 {
    let frame_max = info.max_rx_pktlen;
    let has_own = info.max_mtu != u16::MAX && frame_max > u32::from(info.max_mtu);
    let overhead = if has_own { frame_max - u32::from(info.max_mtu) } else { 18 };
    let by_frame = u16::try_from(frame_max.saturating_sub(overhead)).unwrap_or(u16::MAX);
    by_frame.min(info.max_mtu)
}

fn check_ring(port: &Port) -> Result<(), NicError> {
    let Some(devargs) = port.devargs().filter(|devargs| devargs.is_af_packet()) else {
        return Ok(());
    };
    let (mtu, mtu_max) = (mtu_in_force(port)?, devargs.ring_mtu_max());
    if u32::from(mtu) <= mtu_max {
        return Ok(());
    }
    let frame_bytes = devargs.ring_frame_bytes();
    Err(NicError::RingFrameTooSmall { device: port.name().to_owned(), mtu, frame_bytes, mtu_max })
}

/// The pool's mbufs must hold whole frames: gyre asks no port to scatter.
fn check_room(port: &Port, mtu: u16) -> Result<(), NicError> {
    let pool = port.pool();
    let room_bytes = u32::from(pool.data_room_bytes()).saturating_sub(sys::RTE_PKTMBUF_HEADROOM);
    let by_driver = port.devargs().map_or(0, DevArgs::mbuf_data_bytes_min);
    let by_driver = by_driver.max(port.members.mbuf_data_bytes_min());
    let wanted_bytes = (u32::from(mtu) + FRAME_OVERHEAD_BYTES as u32).max(by_driver);
    if room_bytes >= wanted_bytes {
        return Ok(());
    }
    let (device, pool) = (port.name().to_owned(), pool.name().to_owned());
    Err(NicError::MbufTooSmall { device, pool, mtu, room_bytes, wanted_bytes })
}

fn configure(port: &mut Port, config: &NicConfig, wishes: &Wishes) -> Result<(), NicError> {
    let mut conf = sys::rte_eth_conf::default();
    // No rx offloads. The packet path sums IPv4 headers itself and patches the rest, so that a
    // verdict on checksums would tell it nothing, and on virtual devices asking for one allows the
    // peer to leave them unfilled (virtio's GUEST_CSUM). Of RSS the queue is what counts.
    conf.txmode.offloads = wishes.tx_offloads;
    if port.interface().is_none() {
        // 0 leaves it to the device. af_packet claims it cannot do more than 1500: see netdevice.
        conf.rxmode.mtu = config.mtu.map_or(0, u32::from);
    }
    if wishes.hash_types != 0 {
        conf.rxmode.mq_mode = sys::GYRE_MQ_RX_RSS;
        conf.rx_adv_conf.rss_conf.rss_hf = wishes.hash_types;
        if !port.rss_key.is_empty() {
            conf.rx_adv_conf.rss_conf.rss_key = port.rss_key.as_mut_ptr();
            conf.rx_adv_conf.rss_conf.rss_key_len = port.rss_key.len() as u8;
        }
    }
    let (id, pairs) = (port.id(), wishes.queue_pairs);
    // SAFETY: the port exists and is stopped; conf is copied, and the key it points to is the
    // port's own and closed after it.
    let code = unsafe { sys::rte_eth_dev_configure(id, pairs, pairs, &conf) };
    port.check("configuring it", code)
}

/// Some drivers take the MTU from the configuration, some only by this call.
fn apply_mtu(port: &Port, mtu: Option<u16>) -> Result<(), NicError> {
    let Some(mtu) = mtu.filter(|_| port.interface().is_none()) else { return Ok(()) };
    // SAFETY: the port is configured.
    match unsafe { sys::rte_eth_dev_set_mtu(port.id(), mtu) } {
        code if code == -libc::ENOTSUP => Ok(()),
        code => port.check("setting its MTU", code),
    }
}

fn mtu_in_force(port: &Port) -> Result<u16, NicError> {
    if let Some(interface) = port.interface() {
        let mtu = interface.mtu().map_err(|e| port.interface_error(e))?;
        return Ok(u16::try_from(mtu).unwrap_or(u16::MAX));
    }
    let mut mtu = 0;
    // SAFETY: the port exists.
    let code = unsafe { sys::rte_eth_dev_get_mtu(port.id(), &mut mtu) };
    port.check("asking for its MTU", code).map(|()| mtu)
}

fn make_queues(port: &Port, config: &NicConfig, queue_pairs: u16) -> Result<(), NicError> {
    let is_tap = port.devargs().is_some_and(|devargs| devargs.driver() == "net_tap");
    let default = if is_tap { DESCRIPTORS_DEFAULT_TAP } else { DESCRIPTORS_DEFAULT };
    let mut rx = config.rx_descriptors.unwrap_or(default);
    let mut tx = config.tx_descriptors.unwrap_or(default);
    // SAFETY: the port is configured with `queue_pairs` of each; null configurations mean the
    // driver's defaults; the pool outlives the port.
    unsafe {
        let code = sys::rte_eth_dev_adjust_nb_rx_tx_desc(port.id(), &mut rx, &mut tx);
        port.check("fitting its rings", code)?;
        // A negative socket means any, as it does for ports that have none.
        let socket = sys::rte_eth_dev_socket_id(port.id()) as u32;
        for index in 0..queue_pairs {
            let (pool, none) = (port.pool().raw(), std::ptr::null());
            let code = sys::rte_eth_rx_queue_setup(port.id(), index, rx, socket, none, pool);
            port.check("making an rx queue (is the mbuf pool large enough?)", code)?;
            let none = std::ptr::null();
            let code = sys::rte_eth_tx_queue_setup(port.id(), index, tx, socket, none);
            port.check("making a tx queue", code)?;
        }
    }
    Ok(())
}

fn start(port: &mut Port) -> Result<(), NicError> {
    // SAFETY: all queues are set up.
    let code = unsafe { sys::rte_eth_dev_start(port.id()) };
    port.check("starting it", code)?;
    port.members.set_up().map_err(|e| port.interface_error(e))?;
    let Some(interface) = port.interface() else { return Ok(()) };
    // Starting a port means carrier; these drivers leave their interface as it was.
    if !interface.is_up().map_err(|e| port.interface_error(e))? {
        interface.set_up().map_err(|e| port.interface_error(e))?;
    }
    Ok(())
}

/// Lets the device deliver what the kernel interface needs: multicast at least (ND, VRRP).
fn listen(port: &mut Port, config: &NicConfig) -> Result<(), NicError> {
    let unsupported = -libc::ENOTSUP;
    if config.promiscuous {
        // SAFETY: the port is started.
        let code = unsafe { sys::rte_eth_promiscuous_enable(port.id()) };
        port.is_promiscuous = code == 0;
        return if code == unsupported {
            Ok(())
        } else {
            port.check("making it promiscuous", code)
        };
    }
    // SAFETY: the port is started.
    let code = unsafe { sys::rte_eth_allmulticast_enable(port.id()) };
    if code == unsupported { Ok(()) } else { port.check("letting multicast in", code) }
}

fn mac(port: &Port) -> Result<[u8; 6], NicError> {
    let mut address = sys::rte_ether_addr::default();
    // SAFETY: the port exists; address has room for the answer.
    let code = unsafe { sys::rte_eth_macaddr_get(port.id(), &mut address) };
    port.check("asking for its MAC address", code).map(|()| address.addr_bytes)
}
