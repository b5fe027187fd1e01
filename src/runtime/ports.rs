//! Opens the ports: memory for their frames, their queues, what they hash by, and a line for each.

use std::fmt::Write;
use std::sync::Arc;

use tracing::{info, warn};

use super::checks::PlannedPort;
use super::crossing::ring_frames_max;
use super::transmit::Way;
use super::worker::WorkerPort;
use crate::config::Kernel;
use crate::dpdk::devargs::{self, Device};
use crate::dpdk::nic::MTU_DEFAULT;
use crate::dpdk::{Eal, EalError, MbufPool, Nic, NicConfig, NicError, QueuePair};
use crate::limits::{BURST_FRAMES_MAX, HEADROOM_BYTES, OUTBOX_FRAMES_MAX, PENDING_FRAMES_MAX};
use crate::model::{KernelMode, NicModel, Steering, TOEPLITZ_KEY_DEFAULT, WorkerId};

/// Frames a thread keeps for itself in the pool's cache.
const CACHE_FRAMES: u32 = 256;
/// Descriptors of a queue pair that the pool counts on.
const DESCRIPTORS: usize = 2 * 1024;
/// What EAL and drivers take besides the pool, in MiB.
const EAL_MIB: u32 = 64;
/// Bytes of the key that hashes a TCP or UDP tuple; every device takes as many.
const KEY_BYTES: usize = 40;

/// A port could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("port {port}: {source}")]
pub struct PortError {
    /// Its name.
    pub port: String,
    /// Why.
    pub source: NicError,
}

/// Memory for frames: how many, and how large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameMemory {
    /// mbufs.
    pub count: u32,
    /// Bytes of each, headroom included.
    pub data_room_bytes: u16,
}

impl FrameMemory {
    /// What `ports` and `workers` need when every queue and ring is full. `mtu_of` tells a kernel
    /// interface's MTU, which a port on it takes over.
    pub fn plan(ports: &[PlannedPort], workers: u8, mtu_of: impl Fn(&str) -> Option<u16>) -> Self {
        let workers = usize::from(workers);
        let queues: usize = ports.iter().map(|port| queues_wanted(port, workers)).sum();
        let own = 4 * BURST_FRAMES_MAX + OUTBOX_FRAMES_MAX + PENDING_FRAMES_MAX;
        // Caches hold half as much again as asked for; the kernel's thread has one too.
        let caches = (workers + 1) * CACHE_FRAMES as usize * 3 / 2;
        let outgoing = workers * ports.len() * BURST_FRAMES_MAX;
        let count =
            queues * DESCRIPTORS + workers * own + caches + outgoing + ring_frames_max(workers);
        let rooms = ports.iter().map(|port| {
            let of_lower = || port.lowers.first().and_then(|lower| mtu_of(lower));
            let mtu = port.config.mtu.or_else(of_lower).unwrap_or(MTU_DEFAULT);
            data_room_bytes(port, mtu, workers)
        });
        FrameMemory { count: count as u32, data_room_bytes: rooms.max().unwrap_or(0) }
    }

    /// What EAL is to have, in MiB.
    pub fn eal_mib(&self) -> u32 {
        MbufPool::memory_mib(self.count, self.data_room_bytes) + EAL_MIB
    }

    /// The pool.
    pub fn make(&self, eal: &Eal) -> Result<MbufPool, EalError> {
        MbufPool::create(eal, "frames", self.count, CACHE_FRAMES, self.data_room_bytes)
    }
}

fn queues_wanted(port: &PlannedPort, workers: usize) -> usize {
    port.config.queues.map_or(workers, |queues| usize::from(queues).clamp(1, workers))
}

fn data_room_bytes(port: &PlannedPort, mtu: u16, workers: usize) -> u16 {
    let queues = queues_wanted(port, workers) as u16;
    let by_driver = port.members.iter().chain([&port.device]).filter_map(|device| match device {
        Device::Pci(_) => None,
        Device::Virtual(devargs) => {
            Some(devargs::complete(devargs.clone(), queues, mtu).mbuf_data_bytes_min())
        }
    });
    let by_driver = by_driver.max().map_or(0, |bytes| bytes + HEADROOM_BYTES as u32);
    MbufPool::data_room_for(mtu).max(u16::try_from(by_driver).unwrap_or(u16::MAX))
}

/// An open port.
pub struct OpenPort {
    /// As planned.
    pub plan: PlannedPort,
    /// The device.
    pub nic: Nic,
    /// Its queues, until workers get them.
    pub queues: Vec<QueuePair>,
}

/// Opens all ports, each with a queue pair per worker if it has as many.
pub fn open(
    plans: Vec<PlannedPort>,
    pool: &MbufPool,
    workers: u8,
) -> Result<Vec<OpenPort>, PortError> {
    plans
        .into_iter()
        .map(|plan| {
            let config = NicConfig {
                queue_pairs: queues_wanted(&plan, workers.into()) as u16,
                mtu: plan.config.mtu,
                members: plan.config.members.clone(),
                rss_key: Some(TOEPLITZ_KEY_DEFAULT[..KEY_BYTES].to_vec()),
                ..NicConfig::new(&plan.config.device)
            };
            let (nic, queues) = Nic::open(&config, pool)
                .map_err(|source| PortError { port: plan.config.name.clone(), source })?;
            let port = OpenPort { plan, nic, queues };
            port.tell(workers);
            Ok(port)
        })
        .collect()
}

impl OpenPort {
    /// One line on what it is, and one more if workers must share queues.
    fn tell(&self, workers: u8) {
        let (nic, config) = (&self.nic, &self.plan.config);
        let beside = match (&self.plan.interface, config.kernel) {
            (Some(interface), Kernel::Tap) => format!("kernel interface {interface} (tap)"),
            (Some(interface), _) => format!("shared with the kernel's {interface}"),
            (None, _) => "no kernel beside it".to_owned(),
        };
        let vlan = config.vlan.map_or(String::new(), |vlan| format!(", VLAN {vlan}"));
        info!(
            "port {}: {} ({}), MAC {}, MTU {}{vlan}, {} queue pairs, {beside}, offloads: {}",
            config.name,
            nic.name(),
            nic.driver(),
            mac_text(nic.mac()),
            nic.mtu(),
            nic.queues(),
            offloads(nic),
        );
        if nic.queues() < u16::from(workers) {
            info!(
                "port {}: {} of {workers} workers serve it and hand frames to the others",
                config.name,
                nic.queues()
            );
        }
        if !nic.link().is_up {
            warn!("port {}: the link is down", config.name);
        }
    }

    /// What the packet path needs to know of it.
    pub fn model(&self) -> NicModel {
        let config = &self.plan.config;
        NicModel {
            id: self.plan.nic,
            name: config.name.clone(),
            mac: self.nic.mac(),
            mtu: self.nic.mtu(),
            kernel: config.kernel.into(),
            vlan: config.vlan,
            addresses: config.addresses.iter().map(|own| own.address).collect(),
        }
    }

    /// The worker that sends what the kernel sends on this port: one with a queue, and not the
    /// same for all ports.
    pub fn kernel_worker(&self) -> WorkerId {
        WorkerId((self.plan.nic.index() % usize::from(self.nic.queues())) as u8)
    }

    /// Hands the queues out: a share for each of `workers`.
    pub fn shares(&mut self, workers: u8) -> Vec<WorkerPort> {
        let count = self.queues.len().max(1);
        let mut queues = std::mem::take(&mut self.queues).into_iter();
        let kernel = KernelMode::from(self.plan.config.kernel);
        let share = |worker: u8| {
            let (rx, way) = match queues.next() {
                Some(QueuePair { rx, tx }) => (Some(rx), Way::Queue(tx)),
                None => (None, Way::Through(WorkerId((usize::from(worker) % count) as u8))),
            };
            WorkerPort { rx, way, kernel }
        };
        (0..workers).map(share).collect()
    }
}

fn offloads(nic: &Nic) -> String {
    let mut text = String::new();
    for (name, on) in [("RSS", nic.rss().is_some()), ("fast free", nic.frees_fast())] {
        if on {
            // Writing to a String cannot fail.
            let _ = write!(text, "{}{name}", if text.is_empty() { "" } else { ", " });
        }
    }
    if text.is_empty() { "none".to_owned() } else { text }
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// The owner function: what the first port with a queue per worker does in hardware, so that its
/// frames come to their owners by themselves; without such a port any that spreads evenly.
pub fn steering(ports: &[OpenPort], workers: u8) -> Arc<Steering> {
    let full = |port: &&OpenPort| port.nic.queues() == u16::from(workers);
    let by_port = ports.iter().filter(full).find_map(|port| {
        let rss =
            port.nic.rss().filter(|rss| rss.ipv4_ports && rss.reta.len().is_power_of_two())?;
        let workers: Option<Vec<u8>> =
            rss.reta.iter().map(|&queue| u8::try_from(queue).ok()).collect();
        Some(Steering::new(&rss.key, &workers?))
    });
    by_port.unwrap_or_else(|| Steering::for_workers(workers)).into()
}
