//! `scripts/bind-nic` on a made-up sysfs, with a thread that does what the kernel does when its
//! files are written. No real device is touched.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

const NIC: &str = "0000:3b:00.0";

/// A machine with one NIC, `eth1`, on ixgbe; and the kernel's side of its sysfs.
struct Machine {
    root: tempfile::TempDir,
    over: Arc<AtomicBool>,
    kernel: Option<JoinHandle<()>>,
}

impl Machine {
    fn new() -> Machine {
        let root = tempfile::tempdir().unwrap();
        let sys = root.path().join("sys");
        let device = sys.join("bus/pci/devices").join(NIC);
        for directory in [
            "bus/pci/drivers/ixgbe",
            "class/net/eth1",
            "module/vfio/parameters",
            "kernel/mm/hugepages/hugepages-2048kB",
            "kernel/iommu_groups/7",
        ] {
            fs::create_dir_all(sys.join(directory)).unwrap();
        }
        fs::create_dir_all(device.join("net/eth1")).unwrap();
        fs::write(device.join("class"), "0x020000\n").unwrap();
        fs::write(device.join("driver_override"), "").unwrap();
        for file in ["bus/pci/drivers_probe", "bus/pci/drivers/ixgbe/unbind"] {
            fs::write(sys.join(file), "").unwrap();
        }
        let pages = "kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
        fs::write(sys.join(pages), "0\n").unwrap();
        fs::write(sys.join("module/vfio/parameters/enable_unsafe_noiommu_mode"), "N\n").unwrap();
        symlink(sys.join("bus/pci/drivers/ixgbe"), device.join("driver")).unwrap();
        symlink(&device, sys.join("class/net/eth1/device")).unwrap();
        let group = sys.join("kernel/iommu_groups/7/devices");
        fs::create_dir_all(&group).unwrap();
        symlink(&device, group.join(NIC)).unwrap();
        symlink(group.parent().unwrap(), device.join("iommu_group")).unwrap();
        let bin = root.path().join("bin");
        fs::create_dir_all(&bin).unwrap();
        let machine = Machine { root, over: Arc::default(), kernel: None };
        let modprobe = format!(
            "#!/bin/sh\nmkdir -p {0}/bus/pci/drivers/$1 && : > {0}/bus/pci/drivers/$1/unbind\n",
            sys.display()
        );
        machine.program("modprobe", &modprobe);
        machine.program("ip", "#!/bin/sh\nexit 0\n");
        machine
    }

    fn program(&self, name: &str, text: &str) {
        let path = self.root.path().join("bin").join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn sys(&self) -> PathBuf {
        self.root.path().join("sys")
    }

    fn device(&self) -> PathBuf {
        self.sys().join("bus/pci/devices").join(NIC)
    }

    fn nics(&self) -> PathBuf {
        self.root.path().join("etc/nics")
    }

    /// Starts the kernel: a write to `unbind` takes the driver off, one to `drivers_probe` gives
    /// the device to its override or to ixgbe.
    fn boot(mut self) -> Machine {
        let (sys, device, over) = (self.sys(), self.device(), Arc::clone(&self.over));
        self.kernel = Some(thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                for driver in ["ixgbe", "vfio-pci"] {
                    let unbind = sys.join("bus/pci/drivers").join(driver).join("unbind");
                    if taken(&unbind) {
                        fs::remove_file(device.join("driver")).unwrap();
                    }
                }
                if !device.join("driver").exists() && taken(&sys.join("bus/pci/drivers_probe")) {
                    let wanted = fs::read_to_string(device.join("driver_override")).unwrap();
                    let wanted = if wanted.trim().is_empty() { "ixgbe" } else { wanted.trim() };
                    symlink(sys.join("bus/pci/drivers").join(wanted), device.join("driver"))
                        .unwrap();
                }
                thread::sleep(Duration::from_millis(1));
            }
        }));
        self
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/bind-nic");
        let mut command = Command::new(script);
        let path = std::env::var("PATH").unwrap();
        command.env("PATH", format!("{}:{path}", self.root.path().join("bin").display()));
        command.env_remove("SSH_CONNECTION").arg("--sysfs").arg(self.sys());
        command.arg("--etc").arg(self.root.path().join("etc")).args(arguments);
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn driver(&self) -> String {
        let link = fs::read_link(self.device().join("driver")).unwrap();
        link.file_name().unwrap().to_str().unwrap().to_owned()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(kernel) = self.kernel.take() {
            let _ = kernel.join();
        }
    }
}

/// Whether the NIC's address was written here; the file is empty afterwards.
fn taken(file: &Path) -> bool {
    let is_it = fs::read_to_string(file).is_ok_and(|text| text.trim() == NIC);
    if is_it {
        fs::write(file, "").unwrap();
    }
    is_it
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn bind_nic_shows_asks_binds_and_unbinds() {
    let machine = Machine::new().boot();
    let dry = machine.run(&["eth1", "--hugepages", "512", "--dry-run"]);
    let shown = text(&dry.stdout);
    for step in [
        "modprobe vfio-pci",
        "echo vfio-pci > ",
        "driver_override",
        "drivers/ixgbe/unbind",
        "drivers_probe",
        "echo 512 > ",
    ] {
        assert!(shown.contains(step), "no {step} in:\n{shown}");
    }
    assert_eq!(machine.driver(), "ixgbe");
    let done = machine.run(&["3b:00.0", "--hugepages", "512", "--yes"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert!(text(&done.stdout).starts_with(&shown), "what was shown is what is done");
    assert!(text(&done.stdout).contains("device = \"0000:3b:00.0\""));
    assert_eq!(machine.driver(), "vfio-pci");
    let pages = machine.sys().join("kernel/mm/hugepages/hugepages-2048kB/nr_hugepages");
    assert_eq!(fs::read_to_string(pages).unwrap(), "512\n");
    let again = machine.run(&[NIC, "--hugepages", "512", "--yes"]);
    assert!(text(&again.stdout).contains("Nothing to be done"), "{}", text(&again.stdout));
    let back = machine.run(&[NIC, "--unbind", "--yes"]);
    assert!(back.status.success(), "{}", text(&back.stderr));
    assert_eq!(machine.driver(), "ixgbe");
}

#[test]
fn bind_nic_asks_and_takes_silence_for_no() {
    let machine = Machine::new().boot();
    let silence = machine.run(&["eth1"]);
    assert_eq!(silence.status.code(), Some(1));
    assert!(text(&silence.stdout).ends_with("Do this? [y/N] Nothing was done.\n"));
    assert_eq!(machine.driver(), "ixgbe");
    let mut asked = machine.command(&["eth1"]);
    let mut child = asked.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"y\n").unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(machine.driver(), "vfio-pci");
}

#[test]
fn bind_nic_refuses_what_would_cut_the_line() {
    let machine = Machine::new().boot();
    let refused = |output: Output, why: &str| {
        let said = text(&output.stderr);
        assert!(output.status.code() == Some(1) && said.contains(why), "{why}: {said}");
        assert_eq!(machine.driver(), "ixgbe");
    };
    // By a bond upon it.
    fs::write(machine.sys().join("class/net/eth1/upper_bond0"), "").unwrap();
    let route =
        "#!/bin/sh\n[ \"$2\" = route ] && echo 'default via 192.0.2.1 dev bond0 '\nexit 0\n";
    machine.program("ip", route);
    refused(machine.run(&["eth1", "--yes"]), "default route (bond0)");
    let ssh = "#!/bin/sh\n[ \"$2\" = addr ] && echo '3: eth1    inet 192.0.2.7/24 brd x'\nexit 0\n";
    machine.program("ip", ssh);
    let mut session = machine.command(&["eth1", "--yes"]);
    session.env("SSH_CONNECTION", "198.51.100.9 50000 192.0.2.7 22");
    refused(session.output().unwrap(), "SSH session");
    let other = machine.sys().join("bus/pci/devices/0000:3b:00.1");
    fs::create_dir_all(&other).unwrap();
    fs::write(other.join("class"), "0x020000\n").unwrap();
    symlink(machine.sys().join("bus/pci/drivers/ixgbe"), other.join("driver")).unwrap();
    let member = machine.sys().join("kernel/iommu_groups/7/devices/0000:3b:00.1");
    symlink(&other, &member).unwrap();
    refused(machine.run(&["eth1", "--yes"]), "shares its IOMMU group with 0000:3b:00.1");
    fs::remove_file(member).unwrap();
    fs::write(machine.device().join("class"), "0x010802\n").unwrap();
    refused(machine.run(&[NIC, "--yes"]), "is no NIC");
    fs::write(machine.device().join("class"), "0x020000\n").unwrap();
    refused(machine.run(&["eth9", "--yes"]), "neither an interface nor a PCI address");
    refused(machine.run(&["0000:ff:00.0", "--yes"]), "there is no PCI device");
    assert_eq!(machine.run(&["eth1", "--bind"]).status.code(), Some(2));
    session_behind_sudo(&machine);
    // One of several next hops, which `ip` prints in one line.
    let several = "#!/bin/sh\n[ \"$2\" = route ] && echo 'default proto static \\\
                   \tnexthop via 192.0.2.1 dev eth1 weight 1 \\\
                   \tnexthop via 192.0.2.9 dev eth2 weight 1 '\nexit 0\n";
    machine.program("ip", several);
    refused(machine.run(&["eth1", "--yes"]), "default route (eth1)");
    machine.program("ip", route);
    assert!(machine.run(&["eth1", "--yes", "--force"]).status.success());
    assert_eq!(machine.driver(), "vfio-pci");
}

/// sudo drops `SSH_CONNECTION`; the shell that it was started by has it.
fn session_behind_sudo(machine: &Machine) {
    let direct = machine.command(&["eth1", "--yes"]);
    let mut shell = Command::new("sh");
    shell.args(["-c", "env -u SSH_CONNECTION \"$0\" \"$@\"; exit $?"]);
    shell.arg(direct.get_program()).args(direct.get_args()).stdin(Stdio::null());
    let path = direct.get_envs().find_map(|(name, value)| value.filter(|_| name == "PATH"));
    shell.env("PATH", path.unwrap()).env("SSH_CONNECTION", "198.51.100.9 50000 192.0.2.7 22");
    let output = shell.output().unwrap();
    assert!(text(&output.stderr).contains("carries the SSH session (eth1)"), "{output:?}");
    assert_eq!(machine.driver(), "ixgbe");
}

/// An interface of virtio, or of another bus upon PCI, is a device of its own below the PCI device.
#[test]
fn bind_nic_finds_the_pci_device_of_a_virtio_nic() {
    let machine = Machine::new().boot();
    let (link, below) = (machine.sys().join("class/net/eth1/device"), machine.device());
    fs::remove_dir_all(below.join("net")).unwrap();
    fs::create_dir_all(below.join("virtio0/net/eth1")).unwrap();
    fs::remove_file(&link).unwrap();
    symlink(below.join("virtio0"), &link).unwrap();
    machine.program("ip", "#!/bin/sh\necho 'default via 192.0.2.1 dev eth1 '\n");
    let refused = machine.run(&["eth1", "--yes"]);
    assert!(text(&refused.stderr).contains("default route (eth1)"), "{refused:?}");
    machine.program("ip", "#!/bin/sh\nexit 0\n");
    let done = machine.run(&["eth1", "--yes"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    assert_eq!(machine.driver(), "vfio-pci");
    // Nothing of PCI above it.
    fs::create_dir_all(machine.sys().join("devices/platform/virtio1")).unwrap();
    fs::create_dir_all(machine.sys().join("class/net/eth2")).unwrap();
    let elsewhere = machine.sys().join("devices/platform/virtio1");
    symlink(elsewhere, machine.sys().join("class/net/eth2/device")).unwrap();
    fs::create_dir_all(machine.sys().join("class/net/br0")).unwrap();
    for name in ["eth2", "br0"] {
        let refused = machine.run(&[name, "--yes"]);
        assert!(text(&refused.stderr).contains("is no NIC of its own"), "{refused:?}");
    }
}

#[test]
fn bind_nic_wants_an_iommu_or_is_told_to_do_without() {
    let machine = Machine::new().boot();
    fs::remove_file(machine.device().join("iommu_group")).unwrap();
    let refused = machine.run(&["eth1", "--yes"]);
    assert!(text(&refused.stderr).contains("intel_iommu=on"), "{}", text(&refused.stderr));
    assert_eq!(machine.driver(), "ixgbe");
    let done = machine.run(&["eth1", "--yes", "--no-iommu"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let mode = machine.sys().join("module/vfio/parameters/enable_unsafe_noiommu_mode");
    assert_eq!(fs::read_to_string(mode).unwrap(), "Y\n");
    assert_eq!(machine.driver(), "vfio-pci");
}

#[test]
fn bind_nic_remembers_for_the_next_boot() {
    let machine = Machine::new().boot();
    let done = machine.run(&["eth1", "--hugepages", "256", "--persist", "--yes"]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let noted = fs::read_to_string(machine.nics()).unwrap();
    assert_eq!(noted, format!("{NIC}\n--hugepages 256\n"));
    // The next boot: the kernel's driver has it, and pages are gone.
    assert!(machine.run(&[NIC, "--unbind", "--yes"]).status.success());
    let pages = machine.sys().join("kernel/mm/hugepages/hugepages-2048kB/nr_hugepages");
    fs::write(&pages, "0\n").unwrap();
    let restored = machine.run(&["--restore"]);
    assert!(restored.status.success(), "{}", text(&restored.stderr));
    assert_eq!(machine.driver(), "vfio-pci");
    assert_eq!(fs::read_to_string(&pages).unwrap(), "256\n");
    assert!(machine.run(&[NIC, "--unbind", "--persist", "--yes"]).status.success());
    assert_eq!(fs::read_to_string(machine.nics()).unwrap(), "--hugepages 256\n");
    assert_eq!(machine.driver(), "ixgbe");
}

/// A driver that does not take the device is a failure that is told, not a silence.
#[test]
fn bind_nic_tells_when_the_kernel_does_not_follow() {
    let machine = Machine::new();
    let failed = machine.run(&["eth1", "--yes"]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(text(&failed.stderr).contains("did not go to vfio-pci"), "{}", text(&failed.stderr));
}
