//! How EAL is asked to start: what memory it gets and the argument vector that says so.
//!
//! Pure but for reading the free hugepages under a sysfs root that the caller names. Does not
//! start anything: that is `eal`.

use std::fs;
use std::path::Path;

use super::eal::EalError;

/// What EAL is started with.
#[derive(Clone, Debug)]
pub struct EalConfig {
    /// Whether hugepages are used when there are any.
    pub hugepages: Hugepages,
    /// What pools and rings of all ports need, in MiB: taken at start without hugepages, and the
    /// least that must be free with them.
    pub memory_mib: u32,
    /// PCI addresses EAL may touch. Empty means it does not even look at the PCI bus, so that it
    /// cannot take the management NIC.
    pub pci_allowed: Vec<String>,
    /// Names the runtime directory, and so the telemetry socket.
    pub file_prefix: String,
    /// Lets secondary processes such as dpdk-dumpcap attach, at the price of files in hugetlbfs.
    pub multi_process: bool,
    /// Core of the thread that starts EAL and of EAL's own threads; `None` is the first allowed.
    pub main_core: Option<usize>,
    /// Cores of the workers to come, in order. Only `multi_process` needs them at start.
    pub worker_cores: Vec<usize>,
    /// What EAL and the drivers print to standard error.
    pub log_level: LogLevel,
}

impl Default for EalConfig {
    fn default() -> Self {
        EalConfig {
            hugepages: Hugepages::Auto,
            memory_mib: 512,
            pci_allowed: Vec::new(),
            file_prefix: "gyre".to_owned(),
            multi_process: false,
            main_core: None,
            worker_cores: Vec::new(),
            log_level: LogLevel::Warning,
        }
    }
}

/// Whether hugepages are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hugepages {
    /// Yes, when enough of them are free.
    Auto,
    /// No.
    Never,
}

/// Severity from which EAL and the drivers print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Failures only.
    Error,
    /// Failures and what may explain one.
    Warning,
    /// Every step of starting.
    Info,
    /// Everything.
    Debug,
}

impl LogLevel {
    fn name(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warning => "warning",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
        }
    }
}

/// Free hugepages, largest pages first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FreeHugepages {
    /// Page size in KiB and how many of that size are free.
    pub sizes: Vec<(u64, u64)>,
}

impl FreeHugepages {
    /// Reads `<sysfs_root>/kernel/mm/hugepages`. No mount point is looked for: `--in-memory` maps
    /// pages by memfd.
    pub fn read(sysfs_root: &Path) -> Self {
        let folder = sysfs_root.join("kernel/mm/hugepages");
        let mut sizes: Vec<(u64, u64)> = fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let size_kib = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
                let free = fs::read_to_string(entry.path().join("free_hugepages")).ok()?;
                Some((size_kib, free.trim().parse().ok()?))
            })
            .filter(|&(_, free)| free > 0)
            .collect();
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        FreeHugepages { sizes }
    }

    /// All free hugepage memory in MiB.
    pub fn total_mib(&self) -> u64 {
        self.sizes.iter().map(|(size_kib, free)| size_kib * free / 1024).sum()
    }
}

/// Where EAL's memory comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryMode {
    /// Hugepages, by memfd: nothing is left behind, nobody can attach.
    Hugepages {
        /// Free when EAL started, in MiB.
        free_mib: u64,
    },
    /// Hugepages in hugetlbfs files, which secondary processes map too.
    SharedHugepages {
        /// Free when EAL started, in MiB.
        free_mib: u64,
    },
    /// Ordinary pages, taken whole at start.
    OrdinaryPages {
        /// Taken at start, in MiB.
        memory_mib: u32,
        /// Hugepage memory that was free and not enough, or not wanted, in MiB.
        free_mib: u64,
    },
}

impl MemoryMode {
    /// Chooses the memory for `config` given what is free.
    pub fn choose(config: &EalConfig, free: &FreeHugepages) -> Result<Self, EalError> {
        let free_mib = free.total_mib();
        let enough = free_mib >= u64::from(config.memory_mib);
        if config.hugepages == Hugepages::Auto && enough && free_mib > 0 {
            return Ok(if config.multi_process {
                MemoryMode::SharedHugepages { free_mib }
            } else {
                MemoryMode::Hugepages { free_mib }
            });
        }
        let wanted_mib = config.memory_mib;
        if let Some(device) = config.pci_allowed.first() {
            let device = device.clone();
            return Err(EalError::PciNeedsHugepages { device, wanted_mib, free_mib });
        }
        if config.multi_process {
            return Err(EalError::MultiProcessNeedsHugepages { wanted_mib, free_mib });
        }
        Ok(MemoryMode::OrdinaryPages { memory_mib: wanted_mib, free_mib })
    }

    /// One line for the log: the mode and what it costs.
    pub fn summary(&self) -> String {
        match self {
            MemoryMode::Hugepages { free_mib } => {
                format!("memory: hugepages by memfd, {free_mib} MiB were free; full speed")
            }
            MemoryMode::SharedHugepages { free_mib } => format!(
                "memory: hugepages in hugetlbfs files, {free_mib} MiB were free; full speed, and \
                 dpdk-dumpcap can attach"
            ),
            MemoryMode::OrdinaryPages { memory_mib, free_mib } => format!(
                "memory: {memory_mib} MiB of ordinary pages ({free_mib} MiB of hugepages free); \
                 expect about half the packets per second of hugepages, to be had by `sysctl \
                 vm.nr_hugepages={}`",
                memory_mib.div_ceil(2)
            ),
        }
    }
}

/// The argument vector for `rte_eal_init`, program name first.
///
/// `main_core` is resolved by the caller. Logical cores are numbered from 0 and mapped to CPUs
/// (`--lcores 0@5`), since EAL's own numbers end at 127 and CPUs may not.
pub fn arguments(config: &EalConfig, memory: MemoryMode, main_core: usize) -> Vec<String> {
    let mut lcores = format!("--lcores=0@{main_core}");
    if config.multi_process {
        for (index, core) in config.worker_cores.iter().enumerate() {
            lcores.push_str(&format!(",{}@{core}", index + 1));
        }
    }
    let mut arguments = vec!["gyre".to_owned(), lcores, "--main-lcore=0".to_owned()];
    match memory {
        MemoryMode::Hugepages { .. } => arguments.push("--in-memory".to_owned()),
        MemoryMode::SharedHugepages { .. } => {}
        MemoryMode::OrdinaryPages { memory_mib, .. } => {
            arguments.extend(["--no-huge".into(), "-m".into(), memory_mib.to_string()]);
            // Without it a second gyre would trip over the first one's configuration file.
            arguments.push("--no-shconf".to_owned());
        }
    }
    if config.pci_allowed.is_empty() {
        arguments.push("--no-pci".to_owned());
    }
    for address in &config.pci_allowed {
        arguments.extend(["-a".to_owned(), address.clone()]);
    }
    arguments.push(format!("--file-prefix={}", config.file_prefix));
    arguments.push(format!("--log-level={}", config.log_level.name()));
    // It warns at every start that it has no legacy socket.
    arguments.push("--log-level=lib.telemetry:error".to_owned());
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free(mib: u64) -> FreeHugepages {
        FreeHugepages { sizes: vec![(2048, mib / 2)] }
    }

    fn argv(config: &EalConfig, free_mib: u64) -> Result<String, EalError> {
        let memory = MemoryMode::choose(config, &free(free_mib))?;
        Ok(arguments(config, memory, 3).join(" "))
    }

    #[test]
    fn enough_hugepages_are_used_in_memory() {
        assert_eq!(
            argv(&EalConfig::default(), 1024).unwrap(),
            "gyre --lcores=0@3 --main-lcore=0 --in-memory --no-pci --file-prefix=gyre \
             --log-level=warning --log-level=lib.telemetry:error"
        );
    }

    #[test]
    fn too_few_or_unwanted_hugepages_mean_ordinary_pages() {
        let expected = "gyre --lcores=0@3 --main-lcore=0 --no-huge -m 512 --no-shconf --no-pci \
                        --file-prefix=gyre --log-level=warning \
                        --log-level=lib.telemetry:error";
        assert_eq!(argv(&EalConfig::default(), 0).unwrap(), expected);
        assert_eq!(argv(&EalConfig::default(), 510).unwrap(), expected);
        let never = EalConfig { hugepages: Hugepages::Never, ..EalConfig::default() };
        assert_eq!(argv(&never, 4096).unwrap(), expected);
    }

    #[test]
    fn in_memory_and_no_huge_never_meet() {
        for multi_process in [false, true] {
            for hugepages in [Hugepages::Auto, Hugepages::Never] {
                for free_mib in [0, 100, 512, 8192] {
                    let config = EalConfig { multi_process, hugepages, ..EalConfig::default() };
                    let Ok(argv) = argv(&config, free_mib) else { continue };
                    assert!(!(argv.contains("--in-memory") && argv.contains("--no-huge")));
                }
            }
        }
    }

    #[test]
    fn pci_ports_are_allowed_one_by_one_and_need_hugepages() {
        let pci_allowed = vec!["0000:3b:00.0".to_owned(), "0000:3b:00.1".to_owned()];
        let config = EalConfig { pci_allowed, ..EalConfig::default() };
        let argv_with = argv(&config, 1024).unwrap();
        assert!(argv_with.contains("-a 0000:3b:00.0 -a 0000:3b:00.1"), "{argv_with}");
        assert!(!argv_with.contains("--no-pci"));
        let error = argv(&config, 100).unwrap_err();
        assert!(error.to_string().contains("vm.nr_hugepages=256"), "{error}");
    }

    #[test]
    fn multi_process_names_worker_cores_and_gives_up_in_memory() {
        let config =
            EalConfig { multi_process: true, worker_cores: vec![130, 5], ..EalConfig::default() };
        let argv_with = argv(&config, 1024).unwrap();
        assert!(argv_with.contains("--lcores=0@3,1@130,2@5"), "{argv_with}");
        assert!(!argv_with.contains("--in-memory"));
        assert!(matches!(argv(&config, 0), Err(EalError::MultiProcessNeedsHugepages { .. })));
    }

    #[test]
    fn free_hugepages_are_read_from_sysfs() {
        let root = std::env::temp_dir().join(format!("gyre-hugepages-{}", std::process::id()));
        for (name, free) in [("hugepages-2048kB", "7\n"), ("hugepages-1048576kB", "2\n")] {
            let folder = root.join("kernel/mm/hugepages").join(name);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("free_hugepages"), free).unwrap();
        }
        let found = FreeHugepages::read(&root);
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(found.sizes, [(1_048_576, 2), (2048, 7)]);
        assert_eq!(found.total_mib(), 2048 + 14);
        assert_eq!(FreeHugepages::read(&root).total_mib(), 0);
    }
}
