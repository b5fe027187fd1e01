//! A device that DPDK drives: made or found, and given back when dropped.
//!
//! Virtual devices are made one by one after EAL has started (`rte_vdev_init`) rather than by EAL
//! arguments: a device that fails EAL's own probing leaves EAL running with a port fewer and a
//! line in a log, whereas here its return code becomes this port's error.

use std::ffi::{CStr, CString};
use std::io;
use std::path::Path;

use dpdk_sys as sys;

use super::devargs::{self, DevArgs};
use super::member::Members;
use super::mempool::MbufPool;
use super::netdevice::{self, NetDevice};
use super::nic::{MTU_DEFAULT, NicConfig};
use super::nic_error::NicError;
use super::pci::{self, PciAddress};
use super::reason;

/// One ethdev port. Dropping it stops and closes the port and removes a virtual device.
pub struct Port {
    id: u16,
    name: String,
    /// Devargs as completed; `None` for PCI.
    devargs: Option<DevArgs>,
    interface: Option<NetDevice>,
    /// ethdev keeps a pointer to it for as long as the port lives.
    pub(super) rss_key: Vec<u8>,
    pub(super) is_promiscuous: bool,
    /// Devices that this one is built upon, removed after it.
    pub(super) members: Members,
    /// The port's rings hold mbufs of this pool, so it (and with it EAL) goes last.
    pool: MbufPool,
}

impl Drop for Port {
    fn drop(&mut self) {
        if self.is_promiscuous {
            // SAFETY: the port exists until closed below. On af_packet this is the interface's own
            // flag, which would outlive us.
            let _ = unsafe { sys::rte_eth_promiscuous_disable(self.id) };
        }
        let Ok(name) = CString::new(self.name.as_str()) else { return };
        remove_port(&name);
        if self.devargs.is_some() {
            remove_device(&name);
        }
    }
}

impl Port {
    /// Takes the PCI device that EAL was allowed to probe.
    pub fn take_pci(address: PciAddress, pool: &MbufPool) -> Result<Self, NicError> {
        pci::check(Path::new("/sys"), address)?;
        let name = address.to_string();
        match find_port(&name) {
            Some(id) => Ok(Port::new(id, name, pool)),
            None => Err(NicError::PciNotProbed { device: name }),
        }
    }

    /// Makes the virtual device `wanted` with what it needs for `config`.
    pub fn make_virtual(
        mut wanted: DevArgs,
        config: &NicConfig,
        pool: &MbufPool,
    ) -> Result<Self, NicError> {
        let interface = open_interface(&wanted, config.mtu)?;
        let mtu = match (config.mtu, &interface) {
            (Some(mtu), _) => mtu,
            (None, Some(interface)) => interface_mtu(&wanted, interface)?,
            (None, None) => MTU_DEFAULT,
        };
        let members = Members::make(config)?;
        members.join(&mut wanted);
        let devargs = make_completed(wanted, config.queue_pairs, mtu)?;
        let name = devargs.name().to_owned();
        let Some(id) = find_port(&name) else {
            if let Ok(name) = CString::new(name.as_str()) {
                remove_device(&name);
            }
            return Err(NicError::step(&name, "finding the new port", libc::ENODEV));
        };
        let mut port = Port::new(id, name, pool);
        port.devargs = Some(devargs);
        port.interface = interface;
        port.members = members;
        Ok(port)
    }

    fn new(id: u16, name: String, pool: &MbufPool) -> Self {
        Port {
            id,
            name,
            devargs: None,
            interface: None,
            rss_key: Vec::new(),
            is_promiscuous: false,
            members: Members::default(),
            pool: pool.clone(),
        }
    }

    /// DPDK's number for the port.
    pub fn id(&self) -> u16 {
        self.id
    }

    /// The device's name: PCI address or the vdev's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The virtual device's arguments; `None` on PCI.
    pub fn devargs(&self) -> Option<&DevArgs> {
        self.devargs.as_ref()
    }

    /// The kernel interface below the port, if there is one.
    pub fn interface(&self) -> Option<&NetDevice> {
        self.interface.as_ref()
    }

    /// The pool the port receives into.
    pub fn pool(&self) -> &MbufPool {
        &self.pool
    }

    /// `Ok` for 0, else an error that names `step`.
    pub fn check(&self, step: &'static str, code: i32) -> Result<(), NicError> {
        if code == 0 { Ok(()) } else { Err(NicError::step(&self.name, step, code)) }
    }

    /// An error of the kernel interface's.
    pub fn interface_error(&self, source: io::Error) -> NicError {
        let interface = self.devargs.as_ref().and_then(DevArgs::kernel_interface);
        NicError::Interface {
            device: self.name.clone(),
            interface: interface.unwrap_or_default().to_owned(),
            source,
        }
    }
}

/// Opens the kernel interface below `devargs`, if its driver sits on one, and gives it `mtu`.
pub(super) fn open_interface(
    devargs: &DevArgs,
    mtu: Option<u16>,
) -> Result<Option<NetDevice>, NicError> {
    let Some(name) = devargs.kernel_interface() else { return Ok(None) };
    let interface = NetDevice::open(name).map_err(|e| interface_error(devargs, e))?;
    if !netdevice::may_open_packet_sockets() {
        return Err(NicError::NotPermitted { device: devargs.name().to_owned() });
    }
    if let Some(mtu) = mtu
        && interface.mtu().map_err(|e| interface_error(devargs, e))? != u32::from(mtu)
    {
        interface.set_mtu(mtu).map_err(|e| interface_error(devargs, e))?;
    }
    Ok(Some(interface))
}

pub(super) fn interface_mtu(devargs: &DevArgs, interface: &NetDevice) -> Result<u16, NicError> {
    let mtu = interface.mtu().map_err(|e| interface_error(devargs, e))?;
    // Only loopback has more.
    Ok(u16::try_from(mtu).unwrap_or(u16::MAX))
}

fn interface_error(devargs: &DevArgs, source: io::Error) -> NicError {
    let interface = devargs.kernel_interface().unwrap_or_default().to_owned();
    NicError::Interface { device: devargs.name().to_owned(), interface, source }
}

/// Makes the device with what `complete` adds. DPDK 22.11 refuses af_xdp more than one queue on
/// an interface without "combined" channels (a veth, say): then one it is.
fn make_completed(wanted: DevArgs, queue_pairs: u16, mtu: u16) -> Result<DevArgs, NicError> {
    let many = devargs::complete(wanted.clone(), queue_pairs, mtu);
    match make_device(&many) {
        Ok(_) => Ok(many),
        Err(NicError::Probe { .. }) if many.driver() == "net_af_xdp" && queue_pairs > 1 => {
            let one = devargs::complete(wanted, 1, mtu);
            make_device(&one).map(|_| one)
        }
        Err(error) => Err(error),
    }
}

pub(super) fn make_device(devargs: &DevArgs) -> Result<CString, NicError> {
    let device = devargs.to_string();
    let text = |text: &str| {
        CString::new(text).map_err(|_| NicError::step(&device, "reading devargs", libc::EINVAL))
    };
    let (name, arguments) = (text(devargs.name())?, text(&devargs.arguments())?);
    if !has_driver(&name) {
        return Err(NicError::NoDriver { device });
    }
    // SAFETY: a pool exists, so EAL runs; both strings are copied.
    match unsafe { sys::rte_vdev_init(name.as_ptr(), arguments.as_ptr()) } {
        0 => Ok(name),
        code => Err(NicError::Probe { device, reason: reason(code), hint: hint(devargs) }),
    }
}

/// What net_bonding calls a member in its arguments: DPDK 23.11 renamed it.
pub(super) fn bond_member_key() -> &'static str {
    let version = super::version();
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok());
    match (numbers.next().unwrap_or(0u32), numbers.next().unwrap_or(0u32)) {
        (22, _) | (23, 0..=10) => "slave",
        _ => "member",
    }
}

/// Whether some driver answers to the name: `rte_vdev_init` itself returns the same -1 for none
/// as for one that fails.
fn has_driver(name: &CStr) -> bool {
    let mut parsed = sys::rte_devargs::default();
    // SAFETY: parsing looks the name up and fills `parsed`, whose parts reset then frees.
    unsafe {
        let code = sys::rte_devargs_parse(&mut parsed, name.as_ptr());
        sys::rte_devargs_reset(&mut parsed);
        code == 0
    }
}

fn hint(devargs: &DevArgs) -> &'static str {
    match devargs.driver() {
        "net_tap" => "; it needs /dev/net/tun and CAP_NET_ADMIN",
        "net_af_packet" | "eth_af_packet" => "; it needs CAP_NET_RAW and CAP_NET_ADMIN",
        "net_af_xdp" => "; it needs CAP_BPF or root, and an interface of its own",
        "virtio_user" | "net_virtio_user" => "; it needs the vhost path to exist",
        _ => "",
    }
}

pub(super) fn find_port(name: &str) -> Option<u16> {
    let name = CString::new(name).ok()?;
    let mut id = 0;
    // SAFETY: a terminated string, and room for the answer.
    (unsafe { sys::rte_eth_dev_get_port_by_name(name.as_ptr(), &mut id) } == 0).then_some(id)
}

/// Stops and closes the port of this name, if there is one. Stopping a stopped port is harmless.
pub(super) fn remove_port(name: &CStr) {
    let mut id = 0;
    // SAFETY: nobody holds a queue of the port: queues keep the `Port`, whose drop comes here.
    unsafe {
        if sys::rte_eth_dev_get_port_by_name(name.as_ptr(), &mut id) == 0 {
            let _ = sys::rte_eth_dev_stop(id);
            let _ = sys::rte_eth_dev_close(id);
        }
    }
}

pub(super) fn remove_device(name: &CStr) {
    // SAFETY: the device's port is closed.
    let _ = unsafe { sys::rte_vdev_uninit(name.as_ptr()) };
}
