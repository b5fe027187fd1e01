//! The workers as a whole: wired to each other, started, stopped.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use tracing::info;

use super::crossing::{KernelRings, Peers};
use super::idle::IdlePolicy;
use super::worker::{Forwarding, Worker, WorkerParts, WorkerPort};
use crate::config::Runtime;
use crate::control::WorkerLink;
use crate::counters::WorkerCounters;
use crate::dataplane::WorkerConfig;
use crate::dpdk::{Eal, EalError, MbufPool, TscClock, WorkerThread};
use crate::memory::MemoryError;
use crate::model::{Snapshot, WorkerId};

/// Why the workers do not start.
#[derive(Debug, thiserror::Error)]
pub enum CrewError {
    /// No thread, or none that EAL knows.
    #[error(transparent)]
    Thread(#[from] EalError),
    /// No memory for flows.
    #[error("worker {worker}: {source}")]
    Memory {
        /// Which.
        worker: WorkerId,
        /// Why.
        source: MemoryError,
    },
    /// Every mbuf would cost an atomic operation.
    #[error("worker {0} has no cache in the frames' pool: please report this")]
    NoCache(WorkerId),
}

/// What workers are started with.
pub struct CrewPlan<'a> {
    /// EAL.
    pub eal: &'a Eal,
    /// The process's settings.
    pub runtime: &'a Runtime,
    /// Core of each worker.
    pub cores: &'a [usize],
    /// Idle policy.
    pub idle: IdlePolicy,
    /// Where frames come from.
    pub pool: &'a MbufPool,
    /// What workers start with.
    pub first: &'a Arc<Snapshot>,
}

/// All workers, running.
pub struct Crew {
    threads: Vec<WorkerThread>,
    stop: Arc<AtomicBool>,
}

impl Crew {
    /// Starts a worker for each of `shares` (its part of every port) and `kernel` (its rings with
    /// the kernel interface). Returns when all of them run, with control's ends.
    pub fn start(
        plan: &CrewPlan,
        shares: Vec<Vec<WorkerPort>>,
        kernel: Vec<Option<KernelRings>>,
    ) -> Result<(Self, Vec<WorkerLink>), CrewError> {
        // Pages are taken now rather than in the packet path; without hugepages that takes a while.
        info!(
            "taking memory for {} IPv4 and {} IPv6 connections in each of {} workers",
            plan.runtime.connections,
            plan.runtime.connections_ipv6,
            shares.len()
        );
        let mut crew = Crew { threads: Vec::new(), stop: Arc::default() };
        let mut links = Vec::new();
        let (tell, told) = mpsc::channel();
        let peers = Peers::mesh(shares.len());
        let (workers, seed) = (shares.len() as u8, random());
        let clock = TscClock::new(plan.eal);
        let parts = shares.into_iter().zip(kernel).zip(peers);
        for (index, ((ports, kernel), peers)) in parts.enumerate() {
            let worker = WorkerId(index as u8);
            let counters = Arc::new(WorkerCounters::new());
            let (link, control) = WorkerLink::new(worker, plan.first, &counters);
            links.push(link);
            let config = WorkerConfig {
                worker,
                workers,
                flows_v4_max: plan.runtime.connections as usize,
                flows_v6_max: plan.runtime.connections_ipv6 as usize,
                source_port_spaces: plan.runtime.address_pairs as usize,
                seed,
                counters,
            };
            let parts = WorkerParts {
                stage: Forwarding,
                config,
                ports,
                control,
                peers,
                kernel,
                pool: plan.pool.clone(),
                clock: clock.clone(),
                idle: plan.idle,
                stop: Arc::clone(&crew.stop),
            };
            crew.spawn(plan, parts, tell.clone())?;
        }
        drop(tell);
        // Ends when every worker has told, or is gone.
        told.iter().collect::<Result<(), CrewError>>()?;
        Ok((crew, links))
    }

    fn spawn(
        &mut self,
        plan: &CrewPlan,
        parts: WorkerParts,
        tell: mpsc::Sender<Result<(), CrewError>>,
    ) -> Result<(), CrewError> {
        let worker = parts.config.worker;
        let core = plan.cores[worker.index() % plan.cores.len()];
        let work = move || {
            let made = make(parts);
            let (answer, worker) = match made {
                Ok(worker) => (Ok(()), Some(worker)),
                Err(error) => (Err(error), None),
            };
            // The receiver waits for every sender's end.
            let _ = tell.send(answer);
            drop(tell);
            if let Some(worker) = worker {
                worker.run();
            }
        };
        self.threads.push(plan.eal.spawn_worker(&format!("gyre-worker-{worker}"), core, work)?);
        Ok(())
    }

    /// Waits until all workers have ended, which control told them to do, or tells them now.
    pub fn join(self) {
        // Joins in `drop`.
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(WorkerThread::join);
    }
}

/// Takes the worker's memory, on its own thread.
fn make(parts: WorkerParts) -> Result<Worker, CrewError> {
    let worker = parts.config.worker;
    if !parts.pool.has_cache_here() {
        return Err(CrewError::NoCache(worker));
    }
    Worker::new(parts).map_err(|source| CrewError::Memory { worker, source })
}

/// A number nobody outside can guess: the kernel's randomness behind std's hash maps.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
