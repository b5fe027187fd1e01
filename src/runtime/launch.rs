//! `gyre run`: from a checked configuration to running workers, and back to nothing.
//!
//! Whatever is started ends by being dropped, so that a fault half-way leaves no more behind than
//! a stop does.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{debug, info, warn};

use super::checks::{self, CheckError, Machine, PlannedPort};
use super::cores::{self, CorePlan, NoSuchCore};
use super::crew::{Crew, CrewError, CrewPlan};
use super::idle::IdlePolicy;
use super::kernel_interface::keeper::{Keeper, KeeperError};
use super::kernel_interface::nftables::Instance;
use super::kernel_interface::{self, KernelError, KernelInterface, TapCounters};
use super::log;
use super::ports::{self, FrameMemory, OpenPort, PortError};
use super::signals;
use super::worker::WorkerPort;
use crate::config::{self, Checked, Config};
use crate::control::netlink::NetlinkError;
use crate::control::netlink::interface::BlockingInterfaces;
use crate::control::socket::{BoundSocket, SocketLimits};
use crate::control::{
    self, ControlError, ControlInputs, KernelSource, MempoolInfo, PortInfo, PortInfoSource, Reload,
    Stop, Supervisor,
};
use crate::counters::Counter;
use crate::dpdk::files::close_on_exec;
use crate::dpdk::{Eal, EalConfig, EalError, Hugepages, LogLevel, MbufPool, NicError};
use crate::model::next_hops::NicLink;
use crate::model::{NicId, Registry, RegistryConfig};

/// Why gyre does not run, or ended with a fault. Each is one line that says what to do.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each is its source")]
pub enum LaunchError {
    #[error(transparent)]
    Check(#[from] CheckError),
    #[error(transparent)]
    Core(#[from] NoSuchCore),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Eal(#[from] EalError),
    #[error(transparent)]
    Port(#[from] PortError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Keeper(#[from] KeeperError),
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(transparent)]
    Crew(#[from] CrewError),
    #[error("signals cannot be watched: {0}")]
    Signals(#[from] std::io::Error),
    #[error(transparent)]
    Close(#[from] NicError),
}

/// Runs gyre until it is told to stop.
pub fn run(checked: Checked, config_path: &Path) -> Result<(), LaunchError> {
    prepare_process(&checked.config.runtime);
    let config = checked.config.clone();
    let workers = config.runtime.worker_count();
    let control_socket = Path::new(&config.runtime.control_socket);

    let machine = Machine::read();
    checks::privileges(&config, &machine)?;
    let stop = Stop::new();
    let reload = Reload::new();
    signals::watch(stop.clone(), reload.clone())?;
    let socket = BoundSocket::bind(control_socket)?;
    let plans = checks::ports(&config, &machine)?;
    let cores = choose_cores(&config)?;
    let keeper = Keeper::start(kernel_interface::keeper_config(&plans, &config.runtime)?)?;
    let memory = frame_memory(&plans, workers)?;
    let eal = Eal::start(&eal_config(&config, &plans, &cores, memory))?;
    info!("{}", eal.memory().summary());
    let pool = memory.make(&eal)?;
    let idle = idle_policy(config.runtime.idle, &plans);
    warn_if_crowded(&cores, idle);
    let mut ports = ports::open(plans, &pool, workers)?;

    let registry = registry(&ports, &config.runtime, workers);
    let (kernel, rings) =
        KernelInterface::start(&eal, &pool, &ports, workers.into(), other_core(&cores))?;
    let crew = CrewPlan {
        eal: &eal,
        runtime: &config.runtime,
        cores: &cores.workers,
        idle,
        pool: &pool,
        first: registry.snapshot(),
    };
    let shares = shares(&mut ports, workers);
    let (crew, links) = Crew::start(&crew, shares, rings)?;
    let (version, cores) = (env!("CARGO_PKG_VERSION"), &cores.workers);
    info!("gyre {version}: {workers} workers run on cores {cores:?}, {} when idle", idle.name());

    if let Err(error) = close_on_exec() {
        warn!(%error, "programs that gyre starts inherit its open files");
    }
    let nic_links = ports.iter().map(nic_link).collect();
    let source = kernel_source(&ports);
    let taps = kernel.counters().to_vec();
    let nics = Arc::new(Mutex::new(Ports { ports, taps, pool: pool.clone() }));
    let outcome = control::run(ControlInputs {
        checked,
        // The working directory may go; the file is wanted again.
        config_path: std::path::absolute(config_path)?,
        socket,
        socket_limits: SocketLimits::default(),
        registry,
        nic_links,
        kernel: source,
        links,
        port_info: port_info(&nics),
        kernel_side: keeper.kernel_side(),
        stop,
        reload,
        supervisor: Supervisor::from_environment(),
    });

    crew.join();
    drop(kernel);
    close(nics)?;
    drop(keeper);
    debug!("mbufs in use at exit: {}", pool.in_use());
    Ok(outcome?)
}

fn prepare_process(runtime: &config::Runtime) {
    log::start(runtime.log, runtime.log_format);
    raise_open_files();
}

/// As many open files as the system allows: a thousand clients of the socket need as many, and the
/// usual 1024 would leave none for anything else.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, ..limit };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            warn!(%error, "the limit of open files stays as it is");
        }
    }
}

/// Memory for frames as large as the interfaces below the ports have them now.
fn frame_memory(plans: &[PlannedPort], workers: u8) -> Result<FrameMemory, NetlinkError> {
    let kernel = BlockingInterfaces::open()?;
    let mtu_of = |interface: &str| u16::try_from(kernel.find(interface).ok()?.mtu).ok();
    Ok(FrameMemory::plan(plans, workers, mtu_of))
}

fn choose_cores(config: &Config) -> Result<CorePlan, NoSuchCore> {
    let wanted = config.runtime.cores.as_deref();
    let workers = config.runtime.worker_count().into();
    let plan = CorePlan::choose(&cores::allowed(), wanted, workers)?;
    cores::stay_on(&plan.others);
    Ok(plan)
}

fn warn_if_crowded(cores: &CorePlan, idle: IdlePolicy) {
    let used: BTreeSet<usize> = cores.workers.iter().copied().collect();
    if used.len() < cores.workers.len() {
        warn!(
            "{} workers on {} cores: they take turns, which is slower than one to a core; lower \
             `runtime.workers`",
            cores.workers.len(),
            used.len()
        );
    }
    if cores.is_crowded() && idle == IdlePolicy::Poll {
        warn!(
            "workers poll on every core this process may use, so control and the kernel \
             interface wait for them; lower `runtime.workers` or set `runtime.idle = \"adaptive\"`"
        );
    }
}

/// The core of EAL's own threads and of the kernel interface.
fn other_core(plan: &CorePlan) -> usize {
    plan.others.last().copied().unwrap_or(0)
}

fn eal_config(
    config: &Config,
    ports: &[PlannedPort],
    cores: &CorePlan,
    memory: FrameMemory,
) -> EalConfig {
    let pci = ports.iter().flat_map(PlannedPort::pci).map(|address| address.to_string());
    // In multi-process mode EAL runs the kernel interface too.
    let worker_cores = cores.workers.iter().copied().chain([other_core(cores)]).collect();
    EalConfig {
        hugepages: match config.runtime.hugepages {
            config::Hugepages::Auto => Hugepages::Auto,
            config::Hugepages::Never => Hugepages::Never,
        },
        memory_mib: config.runtime.memory_mib.unwrap_or_else(|| memory.eal_mib()),
        pci_allowed: pci.collect(),
        // Names EAL's runtime directory: two instances must not share one, and a killed one's is
        // to be found by the next.
        file_prefix: Instance::this(config.runtime.control_socket.as_ref()).lasting_name(),
        multi_process: config.runtime.multi_process,
        main_core: Some(other_core(cores)),
        worker_cores,
        log_level: match config.runtime.log {
            config::LogLevel::Error => LogLevel::Error,
            config::LogLevel::Warn | config::LogLevel::Info => LogLevel::Warning,
            config::LogLevel::Debug => LogLevel::Info,
            config::LogLevel::Trace => LogLevel::Debug,
        },
    }
}

/// What is configured; else polling where that is what keeps NICs from dropping frames.
fn idle_policy(wanted: Option<config::Idle>, ports: &[PlannedPort]) -> IdlePolicy {
    match wanted {
        Some(config::Idle::Poll) => IdlePolicy::Poll,
        Some(config::Idle::Adaptive) => IdlePolicy::Adaptive,
        None if ports.iter().all(PlannedPort::is_physical) => IdlePolicy::Poll,
        None => IdlePolicy::Adaptive,
    }
}

/// The registry with the ports and without services: what workers start with.
fn registry(ports: &[OpenPort], runtime: &config::Runtime, workers: u8) -> Registry {
    let bounds = RegistryConfig::new(ports::steering(ports, workers));
    let address_pairs_max = runtime.address_pairs as usize;
    let mut registry = Registry::new(RegistryConfig { address_pairs_max, ..bounds });
    registry.set_nics(ports.iter().map(OpenPort::model).collect());
    registry
}

/// Each worker's part of every port.
fn shares(ports: &mut [OpenPort], workers: u8) -> Vec<Vec<WorkerPort>> {
    let mut shares: Vec<Vec<WorkerPort>> = (0..workers).map(|_| Vec::new()).collect();
    for port in ports {
        let of_port = port.shares(workers);
        shares.iter_mut().zip(of_port).for_each(|(share, part)| share.push(part));
    }
    shares
}

fn nic_link(port: &OpenPort) -> NicLink {
    NicLink {
        nic: port.plan.nic,
        interface: port.plan.interface.clone(),
        mac: port.nic.mac(),
        mtu: port.nic.mtu(),
    }
}

/// Where routes and neighbours come from: the ports' interfaces, where there are any.
fn kernel_source(ports: &[OpenPort]) -> KernelSource {
    let names: Vec<String> = ports.iter().filter_map(|port| port.plan.interface.clone()).collect();
    if names.is_empty() { KernelSource::Silent } else { KernelSource::Netlink(names) }
}

/// The open ports while workers hold their queues.
struct Ports {
    ports: Vec<OpenPort>,
    taps: Vec<(NicId, Arc<TapCounters>)>,
    pool: MbufPool,
}

impl Ports {
    fn info(&self) -> Vec<PortInfo> {
        self.ports.iter().map(|port| self.info_of(port)).collect()
    }

    fn info_of(&self, port: &OpenPort) -> PortInfo {
        let (nic, link) = (&port.nic, port.nic.link());
        let stats = nic.stats().unwrap_or_default();
        let tap = self.taps.iter().find(|(nic, _)| *nic == port.plan.nic).map(|(_, tap)| tap);
        let kernel = |read: fn(&TapCounters) -> &Counter| tap.map_or(0, |tap| read(tap).get());
        PortInfo {
            nic: port.plan.nic,
            device: nic.device(),
            driver: nic.driver().to_owned(),
            interface: port.plan.interface.clone(),
            link_up: link.is_up,
            link_mbps: link.speed_mbps,
            rx_queues: nic.queues(),
            tx_queues: nic.queues(),
            rx_missed: stats.rx_missed,
            rx_nombuf: stats.rx_no_mbuf,
            rx_errors: stats.rx_errors,
            tx_errors: stats.tx_errors,
            kernel_refused: kernel(|tap| &tap.kernel_refused),
            kernel_ring_full: kernel(|tap| &tap.ring_full),
            kernel_nombuf: kernel(|tap| &tap.no_mbuf),
            mempools: vec![MempoolInfo {
                name: self.pool.name().to_owned(),
                size: self.pool.count(),
                in_use: self.pool.in_use(),
            }],
        }
    }
}

type SharedPorts = Arc<Mutex<Ports>>;

fn port_info(ports: &SharedPorts) -> PortInfoSource {
    let ports = Arc::clone(ports);
    Arc::new(move || ports.lock().unwrap_or_else(PoisonError::into_inner).info())
}

/// Stops and closes all ports; tries them all before it reports the first fault.
fn close(ports: SharedPorts) -> Result<(), NicError> {
    let Some(ports) = Arc::into_inner(ports) else { return Ok(()) };
    let ports = ports.into_inner().unwrap_or_else(PoisonError::into_inner).ports;
    ports.into_iter().map(|port| port.nic.close()).fold(Ok(()), Result::and)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dpdk::devargs::Device;

    fn port(device: &str) -> PlannedPort {
        let text = "[[port]]\nname = \"wan\"\ndevice = \"net_null0\"";
        PlannedPort {
            nic: NicId(0),
            config: Config::parse_toml(text).unwrap().port.remove(0),
            device: Device::parse(device).unwrap(),
            members: Vec::new(),
            lowers: Vec::new(),
            interface: None,
        }
    }

    #[test]
    fn workers_poll_on_nics_alone_unless_told() {
        let (pci, virtual_one) = (port("0000:3b:00.0"), port("net_tap0"));
        let both = [pci.clone(), virtual_one];
        assert_eq!(idle_policy(None, &[pci]), IdlePolicy::Poll);
        assert_eq!(idle_policy(None, &both), IdlePolicy::Adaptive);
        assert_eq!(idle_policy(None, &both[1..]), IdlePolicy::Adaptive);
        assert_eq!(idle_policy(Some(config::Idle::Poll), &both[1..]), IdlePolicy::Poll);
        assert_eq!(idle_policy(Some(config::Idle::Adaptive), &both[..1]), IdlePolicy::Adaptive);
    }
}
