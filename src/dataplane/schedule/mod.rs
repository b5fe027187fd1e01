//! Schedulers: which server gets a new flow.
//!
//! One file a family. A scheduler reads the service, asks `Candidates` how loaded its servers are,
//! and moves its own worker's cursor or cache; these are keyed by service and outlive snapshots.
//! Exact (as the kernel picks) with one worker. With several, each worker walks on its own, and
//! knows what the others carry as of control's last round, see `counters::OtherWorkers`.

mod by_weight;
mod candidates;
mod cursor;
mod hashing;
mod least_connections;
mod limits;
mod locality;
mod locality_cache;
mod maglev;
mod round_robin;
mod weighted_round_robin;

use super::flow::FlowKey;
use crate::counters::WorkerCounters;
use crate::limits::SERVICES_MAX;
use crate::model::{RealServer, Scheduler, ServerId, Snapshot, VirtualService};
use crate::time::Nanos;
use candidates::Candidates;
use cursor::Cursor;
use limits::Limits;
use locality_cache::{LocalityCache, Place};

/// All that one worker's schedulers remember.
#[derive(Debug)]
pub struct Schedulers {
    cursors: Vec<Cursor>,
    limits: Limits,
    locality: LocalityCache,
    /// Of the snapshot adopted last.
    revision: u64,
}

impl Schedulers {
    /// Nothing remembered yet; room for `servers` slots. `seed` keys the cache of `lblc`.
    pub fn new(servers: usize, seed: u64) -> Self {
        Schedulers {
            cursors: vec![Cursor::default(); SERVICES_MAX],
            limits: Limits::new(servers),
            locality: LocalityCache::new(seed),
            revision: 0,
        }
    }

    /// Takes thresholds over from a new snapshot, so that flows which end before the next pick
    /// are judged by them, and moves cursors by what changed: later the log may have forgotten it.
    pub fn adopt(&mut self, snapshot: &Snapshot) {
        let before = std::mem::replace(&mut self.revision, snapshot.revision);
        if snapshot.revision == before + 1 {
            let changed = snapshot.changed_services.iter();
            changed.filter_map(|id| snapshot.service(*id)).for_each(|it| self.catch_up(it));
        } else {
            snapshot.services.iter().flatten().for_each(|it| self.catch_up(it));
        }
        for id in snapshot.limited_services.iter() {
            let (Some(service), Some(cursor)) =
                (snapshot.service(*id), self.cursors.get_mut(id.index()))
            else {
                continue;
            };
            if cursor.sees_new_limits(service) {
                service.servers.iter().for_each(|server| self.limits.set(server));
            }
        }
    }

    fn catch_up(&mut self, service: &VirtualService) {
        if let Some(cursor) = self.cursors.get_mut(service.id.index()) {
            cursor.catch_up(service);
        }
    }

    /// Picks a server for a new flow of `service`; `None` when none may take it.
    pub fn pick<'s>(
        &mut self,
        service: &'s VirtualService,
        key: &FlowKey,
        counters: &WorkerCounters,
        now: Nanos,
    ) -> Option<&'s RealServer> {
        let Schedulers { cursors, limits, locality, .. } = self;
        let cursor = cursors.get_mut(service.id.index())?;
        cursor.catch_up(service);
        let mut servers = Candidates::new(&service.servers, limits, counters);
        let servers = &mut servers;
        let at = match &service.scheduler {
            Scheduler::RoundRobin => round_robin::pick(servers, cursor),
            Scheduler::WeightedRoundRobin => weighted_round_robin::pick(servers, cursor),
            Scheduler::LeastConnections => least_connections::unweighted(servers),
            Scheduler::WeightedLeastConnections => least_connections::weighted(servers),
            Scheduler::LocalityLeastConnections => {
                locality::pick(servers, locality, &Place::of(service, key.dst, now))
            }
            Scheduler::ReplicatedLocality => {
                locality::pick_replicated(servers, locality, &Place::of(service, key.dst, now))
            }
            Scheduler::DestinationHash(table) => hashing::by_destination(servers, table, key),
            Scheduler::SourceHash(flags, table) => hashing::by_source(servers, *flags, table, key),
            Scheduler::ShortestExpectedDelay => least_connections::shortest_delay(servers),
            Scheduler::NeverQueue => least_connections::never_queue(servers),
            Scheduler::Failover => by_weight::failover(servers),
            Scheduler::Overflow => by_weight::overflow(servers),
            Scheduler::KernelMaglev(flags, table) => hashing::maglev(servers, *flags, table, key),
            Scheduler::Maglev(table) => maglev::pick(servers, table, key),
        }?;
        service.servers.get(at)
    }

    /// Whether any server of the service may take a new flow.
    #[inline]
    pub fn any_usable(&mut self, service: &VirtualService, counters: &WorkerCounters) -> bool {
        // As a rule the first one may, and has no threshold.
        let is_free =
            |first: &RealServer| first.upper_threshold == 0 && first.effective_weight() > 0;
        service.servers.first().is_some_and(is_free) || self.any_is_usable(service, counters)
    }

    #[inline(never)]
    fn any_is_usable(&mut self, service: &VirtualService, counters: &WorkerCounters) -> bool {
        let mut servers = Candidates::new(&service.servers, &mut self.limits, counters);
        (0..service.servers.len()).any(|at| servers.is_usable(at))
    }

    /// To be called when a flow of the server has been counted.
    pub fn bound(&mut self, server: ServerId, counters: &WorkerCounters) {
        self.limits.bound(server, counters);
    }

    /// To be called when a flow of the server is no longer counted.
    pub fn unbound(&mut self, server: ServerId, counters: &WorkerCounters) {
        self.limits.unbound(server, counters);
    }
}
