//! PCI addresses, and whether DPDK can have the device at one.
//!
//! Only reads sysfs, under a root the caller names so that tests bring their own. Binding a
//! driver is the operator's business.

use std::fmt;
use std::fs;
use std::path::Path;

use super::nic_error::NicError;

/// Kernel drivers that hand a device to user space.
const USER_SPACE_DRIVERS: [&str; 4] = ["vfio-pci", "igb_uio", "uio_pci_generic", "nfp_uio"];
/// Kernel drivers that stay bound while DPDK drives the device beside them.
const BIFURCATED_DRIVERS: [&str; 4] = ["mlx4_core", "mlx5_core", "mana", "gdma"];

/// Domain, bus, device and function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PciAddress {
    domain: u32,
    bus: u8,
    device: u8,
    function: u8,
}

impl PciAddress {
    /// Reads `0000:3b:00.0` or, in domain 0, `3b:00.0`.
    pub fn parse(text: &str) -> Option<Self> {
        let (head, function) = text.split_once('.')?;
        let mut parts = head.rsplit(':');
        let device = hexadecimal(parts.next()?, 2)?;
        let bus = hexadecimal(parts.next()?, 2)?;
        let domain = parts.next().map_or(Some(0), |domain| hexadecimal(domain, 8))?;
        let function = hexadecimal(function, 1)?;
        if parts.next().is_some() || device > 31 || function > 7 {
            return None;
        }
        Some(PciAddress { domain, bus: bus as u8, device: device as u8, function: function as u8 })
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PciAddress { domain, bus, device, function } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function}")
    }
}

fn hexadecimal(text: &str, digits_max: usize) -> Option<u32> {
    let sane = (1..=digits_max).contains(&text.len());
    if sane && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        u32::from_str_radix(text, 16).ok()
    } else {
        None
    }
}

/// Says why DPDK cannot have the device at `address`, looking under `sysfs_root` (`/sys`).
pub fn check(sysfs_root: &Path, address: PciAddress) -> Result<(), NicError> {
    let folder = sysfs_root.join("bus/pci/devices").join(address.to_string());
    let device = address.to_string();
    if !folder.exists() {
        return Err(NicError::NoSuchPciDevice { device });
    }
    let link = fs::read_link(folder.join("driver")).ok();
    let driver = link.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy());
    match driver {
        None => Err(NicError::PciUnbound { device }),
        Some(driver) if is_usable(&driver) => Ok(()),
        Some(driver) => {
            let interface = interface_of(&folder);
            Err(NicError::PciBoundToKernel { device, driver: driver.into_owned(), interface })
        }
    }
}

fn is_usable(driver: &str) -> bool {
    USER_SPACE_DRIVERS.contains(&driver) || BIFURCATED_DRIVERS.contains(&driver)
}

/// The device's kernel interface, in brackets for a message, or nothing.
fn interface_of(folder: &Path) -> String {
    let names_in = |folder: &Path| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect::<Vec<_>>()
    };
    // Interfaces of a virtio NIC hang below its virtio device.
    let parts = names_in(folder).into_iter().filter(|name| name.starts_with("virtio"));
    let folders = parts.map(|part| folder.join(part).join("net"));
    let first =
        [folder.join("net")].into_iter().chain(folders).flat_map(|net| names_in(&net)).next();
    first.map_or_else(String::new, |name| format!(" (interface {name})"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    /// A made-up sysfs that goes away with the test.
    struct Sysfs(PathBuf);

    impl Sysfs {
        fn new(name: &str) -> Self {
            Sysfs(std::env::temp_dir().join(format!("gyre-pci-{name}-{}", std::process::id())))
        }

        fn device(self, address: &str, driver: Option<&str>) -> Self {
            let folder = self.0.join("bus/pci/devices").join(address);
            fs::create_dir_all(folder.join("net/eth7")).unwrap();
            if let Some(driver) = driver {
                symlink(format!("../../../../bus/pci/drivers/{driver}"), folder.join("driver"))
                    .unwrap();
            }
            self
        }

        fn check(&self, address: &str) -> Result<(), String> {
            check(&self.0, PciAddress::parse(address).unwrap()).map_err(|e| e.to_string())
        }
    }

    impl Drop for Sysfs {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn device_bound_to_the_kernel_is_named_with_its_driver_and_the_remedy() {
        let sysfs = Sysfs::new("bound").device("0000:3b:00.0", Some("ixgbe"));
        let error = sysfs.check("3b:00.0").unwrap_err();
        for word in ["0000:3b:00.0", "ixgbe", "eth7", "gyre-bind-nic 0000:3b:00.0"] {
            assert!(error.contains(word), "no {word} in: {error}");
        }
    }

    #[test]
    fn device_without_a_driver_is_told_how_to_get_one() {
        let sysfs = Sysfs::new("unbound").device("0000:3b:00.0", None);
        let error = sysfs.check("0000:3b:00.0").unwrap_err();
        assert!(error.contains("no driver") && error.contains("gyre-bind-nic"), "{error}");
    }

    #[test]
    fn the_interface_of_a_virtio_nic_is_named() {
        let sysfs = Sysfs::new("virtio").device("0000:00:05.0", Some("virtio-pci"));
        let folder = sysfs.0.join("bus/pci/devices/0000:00:05.0");
        fs::remove_dir_all(folder.join("net")).unwrap();
        fs::create_dir_all(folder.join("virtio3/net/ens5")).unwrap();
        let error = sysfs.check("0000:00:05.0").unwrap_err();
        assert!(error.contains("0000:00:05.0 (interface ens5)"), "{error}");
    }

    #[test]
    fn absent_device_is_an_error_of_its_own() {
        let sysfs = Sysfs::new("absent").device("0000:3b:00.0", Some("vfio-pci"));
        let error = sysfs.check("0000:3b:00.1").unwrap_err();
        assert!(error.contains("no PCI device 0000:3b:00.1"), "{error}");
    }

    #[test]
    fn devices_handed_to_user_space_or_shared_pass() {
        let sysfs = Sysfs::new("fine")
            .device("0000:3b:00.0", Some("vfio-pci"))
            .device("0000:5e:00.0", Some("mlx5_core"));
        assert_eq!(sysfs.check("0000:3b:00.0"), Ok(()));
        assert_eq!(sysfs.check("0000:5e:00.0"), Ok(()));
    }

    #[test]
    fn addresses_out_of_range_are_refused() {
        for bad in ["3b:00", "3b:20.0", "3b:00.8", "1:2:3:4.0", "3b:0g.0", "123:00.0", ""] {
            assert_eq!(PciAddress::parse(bad), None, "{bad}");
        }
    }
}
