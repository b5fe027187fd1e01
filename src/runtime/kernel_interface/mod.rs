//! The kernel beside the workers: TAPs, their thread, addresses, and the rules that keep the
//! kernel's stack from answering for services.

pub mod addresses;
pub mod keeper;
pub mod nftables;
pub mod rules;
pub mod tap;
pub mod thread;

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::warn;

use super::checks::PlannedPort;
use super::crossing::{KernelRings, kernel_rings};
use super::ports::OpenPort;
use crate::config::{Kernel, Runtime};
use crate::control::netlink::NetlinkError;
use crate::control::netlink::interface::BlockingInterfaces;
use crate::dpdk::{Eal, EalError, MbufPool, WorkerThread};
use crate::model::NicId;
use crate::model::Prefix;
use addresses::{AddressFile, AddressOn, KernelInterfaceSubnets};
use keeper::KeeperConfig;
use nftables::Instance;
use rules::GuardedInterfaces;
use tap::{MakeTapError, TapPlan};
pub use thread::TapCounters;
use thread::{KernelThread, TapPort};

/// Why there is no kernel interface.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// No netlink.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// No TAP.
    #[error("port {port}: {source}")]
    Tap {
        /// The port's name.
        port: String,
        /// Why.
        source: MakeTapError,
    },
    /// No epoll.
    #[error("the kernel interface cannot wait for frames: {0}")]
    Epoll(#[from] io::Error),
    /// No thread.
    #[error(transparent)]
    Thread(#[from] EalError),
}

/// What the keeper of `ports` keeps.
pub fn keeper_config(
    ports: &[PlannedPort],
    runtime: &Runtime,
) -> Result<KeeperConfig, NetlinkError> {
    let kernel = BlockingInterfaces::open()?;
    let control_socket = Path::new(&runtime.control_socket);
    let mut config = KeeperConfig {
        instance: Instance::this(control_socket),
        guarded: GuardedInterfaces::default(),
        interfaces: Vec::new(),
        vips_by: runtime.vip_addresses,
        own: Default::default(),
        file: AddressFile::beside(control_socket),
    };
    for port in ports {
        let Some(interface) = port.interface.clone() else { continue };
        let own = || port.config.addresses.iter();
        let mut subnets: Vec<Prefix> =
            own().filter_map(|own| Prefix::new(own.address, own.bits)).collect();
        if port.config.kernel == Kernel::Shared {
            let ifindex = kernel.find(&interface)?.ifindex;
            let there = kernel.addresses(ifindex)?;
            subnets.extend(there.iter().filter_map(|(at, bits)| Prefix::new(*at, *bits)));
            config.own.extend(own().map(|own| AddressOn {
                interface: interface.clone(),
                address: own.address,
                bits: own.bits,
            }));
            config.guarded.shared.push(interface.clone());
        } else {
            for lower in &port.lowers {
                warn_of_addresses(port, lower, &kernel)?;
                config.guarded.shut.push(lower.clone());
            }
        }
        config.interfaces.push(KernelInterfaceSubnets { interface, subnets });
    }
    Ok(config)
}

/// The kernel would go on sending from the lower interface, and hear no answer there.
fn warn_of_addresses(
    port: &PlannedPort,
    lower: &str,
    kernel: &BlockingInterfaces,
) -> Result<(), NetlinkError> {
    let is_link_local = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    for (address, bits) in kernel.addresses(kernel.find(lower)?.ifindex)? {
        if !is_link_local(address) {
            warn!(
                "port {}: {lower} has {address}/{bits}, where the kernel will not be heard; list \
                 it under the port's `addresses` and `ip address delete {address}/{bits} dev \
                 {lower}`, or use kernel = \"shared\"",
                port.config.name
            );
        }
    }
    Ok(())
}

/// The TAPs and the thread that serves them. Dropped, it ends the thread, and the TAPs are gone.
pub struct KernelInterface {
    thread: Option<WorkerThread>,
    stop: Arc<AtomicBool>,
    counters: Vec<(NicId, Arc<TapCounters>)>,
}

impl KernelInterface {
    /// Makes a TAP for each port that wants one. Gives each of `workers` its rings; without a TAP
    /// there is no thread and there are no rings.
    pub fn start(
        eal: &Eal,
        pool: &MbufPool,
        ports: &[OpenPort],
        workers: usize,
        core: usize,
    ) -> Result<(Self, Vec<Option<KernelRings>>), KernelError> {
        let taps = make_taps(ports)?;
        let stop = Arc::new(AtomicBool::new(false));
        if taps.is_empty() {
            let none = KernelInterface { thread: None, stop, counters: Vec::new() };
            return Ok((none, (0..workers).map(|_| None).collect()));
        }
        let counters = taps.iter().map(|port| (port.nic, Arc::clone(&port.counters))).collect();
        let (rings, ends) = (0..workers).map(|_| kernel_rings()).unzip::<_, _, Vec<_>, Vec<_>>();
        let thread = KernelThread::new(taps, ends, pool.clone(), Arc::clone(&stop))?;
        let thread = eal.spawn_worker("gyre-kernel", core, move || thread.run())?;
        let running = KernelInterface { thread: Some(thread), stop, counters };
        Ok((running, rings.into_iter().map(Some).collect()))
    }

    /// What each TAP counts, by its port.
    pub fn counters(&self) -> &[(NicId, Arc<TapCounters>)] {
        &self.counters
    }
}

impl Drop for KernelInterface {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join();
        }
    }
}

fn make_taps(ports: &[OpenPort]) -> Result<Vec<TapPort>, KernelError> {
    let wanting = || ports.iter().filter(|port| port.plan.config.kernel == Kernel::Tap);
    if wanting().next().is_none() {
        return Ok(Vec::new());
    }
    let kernel = BlockingInterfaces::open()?;
    wanting()
        .map(|port| {
            let plan = TapPlan {
                nic: port.plan.nic,
                name: &port.plan.config.name,
                mac: port.nic.mac(),
                mtu: port.nic.mtu(),
                addresses: &port.plan.config.addresses,
                worker: port.kernel_worker(),
            };
            let failed = |source| KernelError::Tap { port: plan.name.to_owned(), source };
            tap::make(&plan, &kernel).map_err(failed)
        })
        .collect()
}
