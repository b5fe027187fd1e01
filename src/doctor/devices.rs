//! DPDK and its NICs: the version, whether devices are bound and guarded by an IOMMU, and whether
//! they hash frames by a key that gyre sets.

use super::cores::full_address;
use super::{Finding, Machine, Subject, devices, is_pci};

const DPDK: &str = "dpdk";
const VFIO: &str = "vfio";
const RSS: &str = "rss";

/// Kernel drivers that stay bound while DPDK drives the device beside them.
const BIFURCATED: [&str; 4] = ["mlx4_core", "mlx5_core", "mana", "gdma"];
/// Kernel drivers that hand a device to user space without an IOMMU's guard.
const UNGUARDED: [&str; 3] = ["igb_uio", "uio_pci_generic", "nfp_uio"];

/// The version linked.
pub fn version(subject: &Subject) -> Vec<Finding> {
    let Some(version) = &subject.dpdk else {
        return vec![Finding::info(DPDK, "this gyre was built without DPDK and cannot run")];
    };
    // `DPDK 22.11.11`.
    let number = version.rsplit(' ').next().unwrap_or_default();
    let mut parts = number.split('.').map_while(|part| part.parse::<u32>().ok());
    let found = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if found < (22, 11) {
        let remedy = "install 22.11 (Debian 12's) or newer and build gyre against it";
        let evidence = format!("{version} is older than what gyre was made for");
        return vec![Finding::warning(DPDK, evidence, remedy.to_owned())];
    }
    vec![Finding::ok(DPDK, version.clone())]
}

/// Whether PCI ports can be had, and by what.
pub fn vfio(machine: &Machine, subject: &Subject) -> Vec<Finding> {
    let pci: Vec<(&str, String)> = subject
        .ports()
        .iter()
        .flat_map(|port| devices(port).map(|device| (port.name.as_str(), device)))
        .filter(|(_, device)| is_pci(device))
        .map(|(port, device)| (port, full_address(device)))
        .collect();
    if pci.is_empty() {
        return vec![Finding::ok(VFIO, "no PCI port needs it")];
    }
    pci.iter().map(|(port, device)| bound(machine, port, device)).collect()
}

fn bound(machine: &Machine, port: &str, device: &str) -> Finding {
    let folder = format!("sys/bus/pci/devices/{device}");
    let bind = format!(
        "`gyre-bind-nic {device}` (`scripts/bind-nic` in the sources) shows what it would do and \
         asks"
    );
    if !machine.has(&folder) {
        let remedy = "`lspci -D | grep -i ether` lists those there are".to_owned();
        return Finding::error(VFIO, format!("port {port}: there is no device {device}"), remedy);
    }
    let Some(driver) = machine.link(&format!("{folder}/driver")) else {
        return Finding::error(VFIO, format!("port {port}: {device} has no driver"), bind);
    };
    let what = format!("port {port}: {device} is bound to {driver}");
    if BIFURCATED.contains(&driver.as_str()) {
        return Finding::ok(VFIO, format!("{what}, beside which DPDK drives it"));
    }
    if UNGUARDED.contains(&driver.as_str()) {
        let evidence = format!("{what}: the device may write to all memory");
        return Finding::warning(VFIO, evidence, format!("use vfio-pci: {bind}"));
    }
    if driver != "vfio-pci" {
        let interfaces = interfaces_of(machine, &folder).join(", ");
        let interfaces = match interfaces.as_str() {
            "" => String::new(),
            names => format!(" (interface {names})"),
        };
        return Finding::error(VFIO, format!("{what}{interfaces}"), bind);
    }
    if machine.link(&format!("{folder}/iommu_group")).is_some() {
        return Finding::ok(VFIO, format!("{what}, guarded by the IOMMU"));
    }
    let unsafe_mode = "sys/module/vfio/parameters/enable_unsafe_noiommu_mode";
    let iommu = "switch the IOMMU on: in the firmware (VT-d, AMD-Vi), and by `intel_iommu=on \
                 iommu=pt` on the kernel's command line"
        .to_owned();
    match machine.read(unsafe_mode).as_deref() {
        Some("Y" | "1") => {
            let evidence = format!("{what} without an IOMMU: the device may write to all memory");
            Finding::warning(VFIO, evidence, iommu)
        }
        _ => Finding::error(VFIO, format!("{what}, but there is no IOMMU to guard it"), iommu),
    }
}

/// A PCI device's kernel interfaces; those of a virtio NIC hang below its virtio device.
fn interfaces_of(machine: &Machine, folder: &str) -> Vec<String> {
    let mut names = machine.list(&format!("{folder}/net"));
    let parts = machine.list(folder).into_iter().filter(|name| name.starts_with("virtio"));
    names.extend(parts.flat_map(|part| machine.list(&format!("{folder}/{part}/net"))));
    names
}

/// Whether replies come back to the worker that is theirs by the device's own hash.
pub fn hashing(machine: &Machine, subject: &Subject) -> Vec<Finding> {
    let Some(config) = &subject.config else { return Vec::new() };
    let workers = config.runtime.worker_count();
    if workers < 2 {
        return vec![Finding::ok(RSS, "one worker: nothing to spread")];
    }
    let mut findings = Vec::new();
    for port in &config.port {
        let name = &port.name;
        let running = subject.running.iter().flat_map(|running| &running.ports.ports);
        if let Some(row) = running.into_iter().find(|row| row.name == *name)
            && row.rx_queues < u16::from(workers)
        {
            let evidence = format!("port {name}: {} queues for {workers} workers", row.rx_queues);
            let remedy = "more queues, where the device has them: `queues` of the port; else \
                          fewer workers"
                .to_owned();
            findings.push(Finding::warning(RSS, evidence, remedy));
            continue;
        }
        findings.push(hashing_of(machine, name, devices(port).next().unwrap_or_default()));
    }
    findings
}

fn hashing_of(machine: &Machine, port: &str, device: &str) -> Finding {
    if !is_pci(device) {
        let driver = device.split(',').next().unwrap_or_default();
        let evidence = format!(
            "port {port}: {driver} has no RSS of its own; frames on the wrong queue are handed to \
             their worker, which `gyre drops` and `gyre workers` count"
        );
        return Finding::info(RSS, evidence);
    }
    let folder = format!("sys/bus/pci/devices/{}", full_address(device));
    // virtio-net: DPDK 22.11 takes a key only where the host offers VIRTIO_NET_F_RSS.
    if machine.read(&format!("{folder}/vendor")).as_deref() == Some("0x1af4") {
        let evidence = format!("port {port}: a virtio device; its host must offer RSS");
        let remedy = "QEMU: `-device virtio-net-pci,mq=on,rss=on`; gyre's log at start says \
                      whether the port hashes by `RSS`"
            .to_owned();
        return Finding::warning(RSS, evidence, remedy);
    }
    Finding::ok(RSS, format!("port {port}: a PCI device; gyre's log says what it hashes by"))
}

#[cfg(test)]
mod tests {
    use super::super::machine::tests::machine;
    use super::super::{Severity, tests::subject};
    use super::*;

    #[test]
    fn an_old_dpdk_is_told() {
        let judge = |version: &str| {
            let subject = Subject { dpdk: Some(version.into()), ..Subject::default() };
            super::version(&subject)[0].severity
        };
        assert_eq!(judge("DPDK 22.11.11"), Severity::Ok);
        assert_eq!(judge("DPDK 24.03.0"), Severity::Ok);
        assert_eq!(judge("DPDK 21.11.0"), Severity::Warning);
        assert_eq!(super::version(&Subject::default())[0].severity, Severity::Info);
    }

    #[test]
    fn a_nics_driver_and_iommu_are_judged() {
        let nic = subject("device = \"3b:00.0\"", "");
        let folder = "sys/bus/pci/devices/0000:3b:00.0";
        let judge = |files: &[(&str, &str)]| {
            let files: Vec<(String, &str)> =
                files.iter().map(|(path, text)| (path.replace("NIC", folder), *text)).collect();
            let files: Vec<(&str, &str)> = files.iter().map(|(p, t)| (p.as_str(), *t)).collect();
            let (machine, _root) = machine(&files, &[]);
            vfio(&machine, &nic).remove(0)
        };
        assert!(judge(&[]).evidence.contains("no device"));
        assert!(judge(&[("NIC/vendor", "1")]).evidence.contains("no driver"));
        let kernels = judge(&[("NIC/driver", "->../x/ixgbe"), ("NIC/net/eth7/mtu", "1500")]);
        assert_eq!(kernels.severity, Severity::Error);
        assert!(kernels.evidence.contains("ixgbe (interface eth7)"), "{kernels:?}");
        let virtio = [("NIC/driver", "->../x/virtio-pci"), ("NIC/virtio3/net/ens5/mtu", "1500")];
        let evidence = judge(&virtio).evidence;
        assert!(evidence.ends_with("virtio-pci (interface ens5)"), "{evidence}");
        let evidence = judge(&virtio[..1]).evidence;
        assert!(evidence.ends_with("bound to virtio-pci"), "{evidence}");
        let remedy = kernels.remedy.unwrap();
        assert!(remedy.contains("`gyre-bind-nic 0000:3b:00.0` (`scripts/bind-nic`"), "{remedy}");
        let vfio_pci = ("NIC/driver", "->../x/vfio-pci");
        assert_eq!(judge(&[vfio_pci, ("NIC/iommu_group", "->../7")]).severity, Severity::Ok);
        assert_eq!(judge(&[vfio_pci]).severity, Severity::Error);
        let unsafe_mode = "sys/module/vfio/parameters/enable_unsafe_noiommu_mode";
        assert_eq!(judge(&[vfio_pci, (unsafe_mode, "Y")]).severity, Severity::Warning);
        assert_eq!(judge(&[("NIC/driver", "->../x/mlx5_core")]).severity, Severity::Ok);
        assert_eq!(judge(&[("NIC/driver", "->../x/igb_uio")]).severity, Severity::Warning);
    }

    #[test]
    fn ports_that_cannot_hash_by_our_key_are_told() {
        let (machine, _root) =
            machine(&[("sys/bus/pci/devices/0000:00:05.0/vendor", "0x1af4\n")], &[]);
        let judge = |device: &str| {
            let subject = subject(&format!("device = \"{device}\""), "workers = 2");
            hashing(&machine, &subject)[0].severity
        };
        assert_eq!(judge("net_af_packet0,iface=eth1"), Severity::Info);
        assert_eq!(judge("0000:00:05.0"), Severity::Warning);
        assert_eq!(judge("0000:3b:00.0"), Severity::Ok);
    }
}
