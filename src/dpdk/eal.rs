//! EAL's life: started once in a process, cleaned up when the last thing that needs it is gone.
//!
//! Leaves the process as it found it: the calling thread keeps its CPU affinity, and EAL's own
//! threads stay on the main core, off the workers'. Devices are probed by `nic`, one by one, so
//! that a failing one has an error of its own instead of a line in EAL's log.

use std::ffi::{CStr, CString, OsStr, c_char, c_int};
use std::fs;
use std::io;
use std::mem;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use dpdk_sys as sys;

use super::eal_args::{self, EalConfig, FreeHugepages, MemoryMode};
use super::reason;

/// Why EAL, a pool or a thread could not be had.
#[derive(Debug, thiserror::Error)]
pub enum EalError {
    /// DMA needs pages that stay where they are.
    #[error(
        "PCI port {device} needs hugepages: {wanted_mib} MiB wanted, {free_mib} MiB free; reserve \
         them with `sysctl vm.nr_hugepages={}` (2 MiB pages)", .wanted_mib.div_ceil(2)
    )]
    PciNeedsHugepages {
        /// The first PCI port.
        device: String,
        /// Needed, in MiB.
        wanted_mib: u32,
        /// Free, in MiB.
        free_mib: u64,
    },
    /// Only hugetlbfs files can be shared with a secondary process.
    #[error(
        "multi_process needs hugepages: {wanted_mib} MiB wanted, {free_mib} MiB free; reserve \
         them with `sysctl vm.nr_hugepages={}`, or switch multi_process off",
        .wanted_mib.div_ceil(2)
    )]
    MultiProcessNeedsHugepages {
        /// Needed, in MiB.
        wanted_mib: u32,
        /// Free, in MiB.
        free_mib: u64,
    },
    /// Pages reserved, but no file system to share them by.
    #[error(
        "multi_process needs hugetlbfs mounted: `mkdir -p /dev/hugepages && mount -t hugetlbfs \
         none /dev/hugepages`, or switch multi_process off"
    )]
    NoHugetlbfs,
    /// A core the process may not run on.
    #[error("core {core} cannot be used: {source}; choose one of this process's allowed cores")]
    Core {
        /// The core asked for.
        core: usize,
        /// The kernel's answer.
        source: io::Error,
    },
    /// EAL does not start a second time in one process.
    #[error("EAL was started before in this process and starts only once; restart gyre")]
    AlreadyStarted,
    /// `rte_eal_init` failed.
    #[error("EAL does not start with `{arguments}`: {reason}; its own message is above")]
    Start {
        /// The argument vector.
        arguments: String,
        /// The error in words.
        reason: String,
    },
    /// The capture server of multi-process mode.
    #[error("dpdk-dumpcap could not attach: {0}; switch multi_process off")]
    Capture(String),
    /// An argument holds a NUL byte.
    #[error("`{0}` holds a NUL byte; remove it")]
    Nul(String),
    /// No lcore id for a thread.
    #[error("thread cannot be registered with EAL: {0}; its mbufs would bypass the pool's cache")]
    Register(String),
    /// No thread, or not on its core.
    #[error("worker thread `{name}` cannot start: {source}")]
    Spawn {
        /// The thread's name.
        name: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// In multi-process mode workers run on the lcores named at start.
    #[error(
        "core {core} was not among EAL's worker cores at start; multi_process workers run only \
         on those, one each"
    )]
    NoSuchLcore {
        /// The core asked for.
        core: usize,
    },
    /// No memory for a pool, or a name taken.
    #[error("mbuf pool `{name}` of {count} x {data_room_bytes} B cannot be made: {reason}{hint}")]
    Pool {
        /// The pool's name.
        name: String,
        /// mbufs asked for.
        count: u32,
        /// Data room of each, headroom included.
        data_room_bytes: u16,
        /// The error in words.
        reason: String,
        /// What to do about it, or nothing.
        hint: &'static str,
    },
    /// Fast free returns mbufs to one pool without looking.
    #[error(
        "mbuf pool `{0}` comes too late: a port frees transmitted mbufs to the one pool that \
         existed when it opened; make pools before ports or set `fast_free` off"
    )]
    PoolAfterFastFree(String),
}

/// A handle on the running EAL; clones share it, and the last one gone cleans it up.
#[derive(Clone)]
pub struct Eal(Arc<Running>);

pub(super) struct Running {
    memory: MemoryMode,
    multi_process: bool,
    main_core: usize,
    worker_cores: Vec<usize>,
    /// One per entry of `worker_cores`: whether its lcore runs a worker.
    pub(super) lcores_busy: Vec<AtomicBool>,
    pools: Mutex<Pools>,
}

/// What decides whether a port may free transmitted mbufs without looking at their pool.
#[derive(Default)]
struct Pools {
    made: usize,
    fast_free: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.multi_process {
            // SAFETY: EAL still runs; no port is left to be captured from.
            let _ = unsafe { sys::rte_pdump_uninit() };
        }
        // SAFETY: EAL runs, since this was made after rte_eal_init; pools, ports and registered
        // threads hold the Arc around this, so none of them is left.
        let code = unsafe { sys::rte_eal_cleanup() };
        debug_assert_eq!(code, 0, "EAL is cleaned up once");
    }
}

impl Eal {
    /// Starts EAL. The calling thread becomes EAL's main lcore and keeps its CPU affinity.
    pub fn start(config: &EalConfig) -> Result<Self, EalError> {
        let memory = MemoryMode::choose(config, &FreeHugepages::read(Path::new("/sys")))?;
        if matches!(memory, MemoryMode::SharedHugepages { .. }) && !is_hugetlbfs_mounted() {
            return Err(EalError::NoHugetlbfs);
        }
        let affinity = Affinity::of_this_thread()?;
        let main_core = match config.main_core {
            Some(core) => core,
            None => affinity.first_core().unwrap_or(0),
        };
        let arguments = eal_args::arguments(config, memory, main_core);
        // EAL puts its own threads on this thread's cores less the lcores', or on the main lcore's
        // when none is left. The latter is wanted: the other cores may be the workers'.
        Affinity::only(main_core).apply(main_core)?;
        let started = init(&arguments);
        // EAL pinned this thread to the main core; the caller did not ask for that.
        affinity.apply(main_core)?;
        started?;
        let eal = Eal(Arc::new(Running {
            memory,
            multi_process: config.multi_process,
            main_core,
            worker_cores: config.worker_cores.clone(),
            lcores_busy: config.worker_cores.iter().map(|_| AtomicBool::new(false)).collect(),
            pools: Mutex::default(),
        }));
        if config.multi_process {
            // SAFETY: EAL runs. This is what answers dpdk-dumpcap.
            match unsafe { sys::rte_pdump_init() } {
                0 => {}
                code => return Err(EalError::Capture(reason(code))),
            }
        }
        Ok(eal)
    }

    /// Where EAL's memory comes from; `summary()` of it is one line for the log.
    pub fn memory(&self) -> MemoryMode {
        self.0.memory
    }

    /// The core of EAL's own threads.
    pub fn main_core(&self) -> usize {
        self.0.main_core
    }

    /// Whether secondary processes may attach.
    pub fn is_multi_process(&self) -> bool {
        self.0.multi_process
    }

    /// Cores given for workers at start.
    pub fn worker_cores(&self) -> &[usize] {
        &self.0.worker_cores
    }

    pub(super) fn running(&self) -> &Running {
        &self.0
    }

    /// Says whether a port may free transmitted mbufs without looking at their pool: only while
    /// there was never but one, and then no other may follow.
    pub(super) fn claim_fast_free(&self) -> bool {
        let mut pools = self.0.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.fast_free |= pools.made == 1;
        pools.fast_free
    }

    /// Counts a pool to be made; `false` when a port's fast free rules a further one out.
    pub(super) fn claim_pool(&self) -> bool {
        let mut pools = self.0.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if pools.fast_free {
            return false;
        }
        pools.made += 1;
        true
    }
}

fn is_hugetlbfs_mounted() -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts.lines().any(|mount| mount.split(' ').nth(2) == Some("hugetlbfs"))
}

/// Runs when the process exits, registered before EAL and hence after EAL's telemetry has removed
/// its socket: takes away the runtime directory, which EAL leaves. One that is in use is not empty
/// and stays.
extern "C" fn remove_runtime_folder() {
    if let Some(folder) = RUNTIME_FOLDER.get() {
        let _ = fs::remove_dir(folder);
        let _ = folder.parent().map(fs::remove_dir);
    }
}

static RUNTIME_FOLDER: OnceLock<PathBuf> = OnceLock::new();

/// Calls `rte_eal_init`. The strings are leaked: EAL keeps pointers to some of them.
fn init(arguments: &[String]) -> Result<(), EalError> {
    let mut argv: Vec<*mut c_char> = Vec::with_capacity(arguments.len() + 1);
    for argument in arguments {
        let text = CString::new(argument.as_str());
        argv.push(text.map_err(|_| EalError::Nul(argument.clone()))?.into_raw());
    }
    argv.push(std::ptr::null_mut());
    let argv = argv.leak();
    // SAFETY: the handler only touches a static and the file system. If it cannot be registered
    // an empty directory stays behind.
    let _ = unsafe { libc::atexit(remove_runtime_folder) };
    // SAFETY: argv holds arguments.len() leaked, terminated strings and a null behind them; EAL
    // guards against a second call itself.
    let code = unsafe { sys::rte_eal_init(arguments.len() as c_int, argv.as_mut_ptr()) };
    if code >= 0 {
        // SAFETY: EAL has started; the path is static and terminated.
        let folder = unsafe { CStr::from_ptr(sys::rte_eal_get_runtime_dir()) };
        let _ = RUNTIME_FOLDER.set(PathBuf::from(OsStr::from_bytes(folder.to_bytes())));
        return Ok(());
    }
    // SAFETY: reads this thread's errno of DPDK.
    let errno = unsafe { sys::gyre_errno() };
    if errno == libc::EALREADY {
        return Err(EalError::AlreadyStarted);
    }
    Err(EalError::Start { arguments: arguments[1..].join(" "), reason: reason(errno) })
}

/// The set of cores a thread may run on.
struct Affinity(libc::cpu_set_t);

impl Affinity {
    fn of_this_thread() -> Result<Self, EalError> {
        // SAFETY: cpu_set_t is a plain array of integers, for which zero is the empty set.
        let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
        // SAFETY: the set is as large as we say; 0 is the calling thread.
        let code = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &mut set) };
        match code {
            0 => Ok(Affinity(set)),
            _ => Err(EalError::Core { core: 0, source: io::Error::last_os_error() }),
        }
    }

    fn only(core: usize) -> Self {
        // SAFETY: as above.
        let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
        if core < libc::CPU_SETSIZE as usize {
            // SAFETY: the core lies inside the set.
            unsafe { libc::CPU_SET(core, &mut set) };
        }
        Affinity(set)
    }

    fn first_core(&self) -> Option<usize> {
        // SAFETY: every core asked for lies inside the set.
        (0..libc::CPU_SETSIZE as usize).find(|&core| unsafe { libc::CPU_ISSET(core, &self.0) })
    }

    /// Puts the calling thread on this set; `core` is what an error names.
    fn apply(&self, core: usize) -> Result<(), EalError> {
        // SAFETY: the set is as large as we say; 0 is the calling thread.
        match unsafe { libc::sched_setaffinity(0, size_of_val(&self.0), &self.0) } {
            0 => Ok(()),
            _ => Err(EalError::Core { core, source: io::Error::last_os_error() }),
        }
    }
}
