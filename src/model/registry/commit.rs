//! Makes checked changes: services join, change and leave, and a snapshot comes of it.
//!
//! Nothing here can fail; `checks` has made sure of that.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hashbrown::HashSet;

use super::draft::{Draft, endpoint_of, fits, in_order};
use super::server_ids::{Drain, ServerKey};
use super::{Applied, Entry, HopFor, Registry, RetiredService, Round, Usage};
use crate::model::family::Family;
use crate::model::id::{NextHopId, ServerId, ServiceId};
use crate::model::kernel_maglev::KernelMaglevTable;
use crate::model::maglev::MaglevTable;
use crate::model::prefix::PrefixSet;
use crate::model::service::{
    ForwardMode, RealServer, Scheduler, ServerState, VirtualService, is_ipv4,
};
use crate::model::service_key::{ServiceKey, Traffic};
use crate::model::snapshot::Snapshot;
use crate::model::source_hash::{destination_hash_table, source_hash_table};
use crate::model::spec::{Removal, SchedulerSpec, ServerSpec, ServiceSpec, SpecProblem};
use crate::model::timeouts::TimeoutOverrides;
use crate::time::Nanos;

impl Registry {
    pub(super) fn change(
        &mut self,
        spec: ServiceSpec,
        removal: Removal,
        hop_for: HopFor,
    ) -> Result<Applied, Vec<SpecProblem>> {
        self.check_one(&spec)?;
        let mut round = Round { helped: self.helped(&[&spec]), ..Round::default() };
        self.commit(&spec, removal, hop_for, &mut round);
        Ok(self.publish(round))
    }

    /// Makes one service what `spec` says.
    pub(super) fn commit(
        &mut self,
        spec: &ServiceSpec,
        removal: Removal,
        hop_for: HopFor,
        round: &mut Round,
    ) {
        self.leaving.remove(&spec.key);
        let mut servers = spec.servers.clone();
        let mut draft = match self.services.get(&spec.key) {
            Some(entry) => {
                let mut draft = Draft::of(&entry.service);
                servers = in_order(&entry.spec.servers, &spec.servers);
                draft.changed = servers != entry.spec.servers || !self.is_same_head(entry, spec);
                if entry.spec.scheduler != spec.scheduler {
                    draft.restart_cursors();
                }
                draft
            }
            None => match self.claim_service(&spec.key, round) {
                // A slot's step numbers go on, whoever had it before.
                Some(id) => Draft::after(id, self.logs.remove(&id).unwrap_or_default()),
                None => return debug_assert!(false, "room for every service was checked"),
            },
        };
        let spec = &ServiceSpec { servers, ..spec.clone() };
        let listed = self.in_effect(spec);
        self.remove_unlisted(spec, &listed, (&mut draft, removal));
        for server in &listed {
            match draft.position(server.endpoint()) {
                Some(at) if fits(&draft.servers[at], server) => {}
                Some(at) => {
                    self.servers.draining.remove(&draft.servers[at].id);
                    draft.edit(at, server);
                }
                None => self.join(spec.key, server, &mut draft, (&mut *hop_for, &mut *round)),
            }
        }
        if draft.changed {
            self.store(spec.clone(), draft, round);
        }
    }

    /// Whether all but the servers is as it was.
    fn is_same_head(&self, entry: &Entry, spec: &ServiceSpec) -> bool {
        let locals = self.lips.of_pool(spec.pool.as_deref());
        locals == entry.service.local_addresses && entry.spec.is_same_but_servers(spec)
    }

    fn remove_unlisted(
        &mut self,
        spec: &ServiceSpec,
        listed: &[ServerSpec],
        (draft, removal): (&mut Draft, Removal),
    ) {
        let listed: HashSet<SocketAddr> = listed.iter().map(ServerSpec::endpoint).collect();
        let mut at = 0;
        while let Some(server) = draft.servers.get(at) {
            let drains_on =
                server.state == ServerState::Draining && matches!(removal, Removal::Drain { .. });
            let count = draft.servers.len();
            if self.is_taken_out(spec, server) {
                self.take_out(&spec.key, draft, at);
            } else if !listed.contains(&endpoint_of(server)) && !drains_on {
                self.leave(&spec.key, draft, at, removal);
            }
            at += usize::from(draft.servers.len() == count);
        }
    }

    /// Takes the server at `at` out of new work, or out altogether.
    pub(super) fn leave(
        &mut self,
        key: &ServiceKey,
        draft: &mut Draft,
        at: usize,
        removal: Removal,
    ) {
        let revision = self.snapshot.revision + 1;
        match removal {
            Removal::Drain { deadline } => {
                let drain = Drain { service: *key, deadline, revision };
                let entry = self.servers.draining.entry(draft.servers[at].id).or_insert(drain);
                entry.deadline = deadline;
                if draft.servers[at].state == ServerState::Active {
                    draft.drain(at);
                }
            }
            Removal::Now => {
                let server = draft.remove(at);
                let key = ServerKey { service: *key, endpoint: endpoint_of(&server) };
                self.servers.retire(key, &server, revision);
            }
        }
    }

    /// Takes a server out of the list that may come back at any time.
    fn take_out(&mut self, key: &ServiceKey, draft: &mut Draft, at: usize) {
        let server = draft.servers[at].clone();
        self.leave(key, draft, at, Removal::Now);
        self.servers.keep(ServerKey { service: *key, endpoint: endpoint_of(&server) }, server);
    }

    fn join(
        &mut self,
        service: ServiceKey,
        server: &ServerSpec,
        draft: &mut Draft,
        (hop_for, round): (HopFor, &mut Round),
    ) {
        let key = ServerKey { service, endpoint: server.endpoint() };
        // Room for every server was checked, but one that starts as failed takes its slot when it
        // comes: where others took the last meanwhile it stays away.
        let Some(claim) = self.servers.claim(&key) else { return };
        if claim.fresh {
            round.fresh_servers.push(claim.id);
        }
        draft.add(RealServer {
            id: claim.id,
            address: server.address,
            port: server.port,
            weight: server.weight,
            last_weight: if server.weight > 0 { server.weight } else { claim.last_weight },
            upper_threshold: server.upper_threshold,
            lower_threshold: server.lower_threshold,
            mode: server.mode,
            tunnel: server.tunnel,
            // The director's own kernel needs no way to it.
            hop: match server.mode {
                ForwardMode::Local => NextHopId::NONE,
                _ => hop_for(server.address),
            },
            state: ServerState::Active,
        });
    }

    /// Files a service, whose servers are in the order of `in_order`, under its slot and marks it
    /// for publication.
    pub(super) fn store(&mut self, spec: ServiceSpec, draft: Draft, round: &mut Round) {
        let known = self.services.contains_key(&spec.key);
        round.services[usize::from(known)] += 1;
        let timeouts = self.services.get(&spec.key).map(|entry| entry.spec.timeouts);
        round.timeouts_changed |= timeouts.unwrap_or_default() != spec.timeouts;
        self.servers.release(&spec);
        let taken_out = self.taken_out(&spec);
        let same_traffic = |entry: &Entry| entry.spec.traffic().eq(spec.traffic());
        round.keys_changed |= !self.services.get(&spec.key).is_some_and(same_traffic);
        let known = self.services.get(&spec.key).filter(|known| known.service.id == draft.service);
        let same = known.filter(|known| known.spec.scheduler == spec.scheduler);
        let was_limited = known.is_some_and(|known| known.service.is_limited);
        let has_threshold = |server: &RealServer| server.upper_threshold > 0;
        let steered = self.steered(&spec, &round.helped);
        for server in &draft.servers {
            self.servers.note_mode(&spec.key, &steered, server);
        }
        let key_kind = steered.kind;
        self.steered.insert(spec.key, steered);
        // What was asked for is shared while it is the same: health changes it not.
        let asked = self.services.get(&spec.key).map(|entry| &entry.spec);
        let asked = asked.filter(|asked| ***asked == spec).cloned();
        let spec = asked.unwrap_or_else(|| Arc::new(spec));
        let service = Arc::new(VirtualService {
            taken_out,
            spec: Arc::clone(&spec),
            id: draft.service,
            name: spec.name.clone(),
            key: spec.key,
            matches: spec.matches.clone(),
            scheduler: scheduler(&spec, &draft.servers),
            scheduler_since: same
                .map_or(draft.changes.next(), |known| known.service.scheduler_since),
            is_limited: was_limited || draft.servers.iter().any(has_threshold),
            servers: draft.servers,
            changes: draft.changes,
            key_kind,
            ttl: spec.ttl,
            mss_max: spec.mss_max,
            synproxy: spec.synproxy,
            client_address: spec.client_address,
            helper: spec.helper,
            local_addresses: self.lips.of_pool(spec.pool.as_deref()),
            connections_max: spec.connections_max,
            allow: PrefixSet::new(&spec.allow),
            deny: PrefixSet::new(&spec.deny),
            timeouts: spec.timeouts,
            persistence: spec.persistence,
            one_packet: spec.one_packet,
            mark: spec.mark,
        });
        round.touched.push((service.id, Some(Arc::clone(&service))));
        self.services.insert(spec.key, Entry { spec, service });
    }

    /// The slot of a service that joins: its old one while flows still know it by that.
    fn claim_service(&mut self, key: &ServiceKey, round: &mut Round) -> Option<ServiceId> {
        if let Some(retired) = self.retired_services.remove(key) {
            return Some(retired.id);
        }
        let id = ServiceId(self.service_slots.take()?);
        round.fresh_services.push(id);
        Some(id)
    }

    pub(super) fn retire_service(&mut self, key: &ServiceKey, round: &mut Round) {
        let Some(entry) = self.services.remove(key) else { return };
        self.health.remove(key);
        self.servers.release(&ServiceSpec { servers: Vec::new(), ..(*entry.spec).clone() });
        let mut draft = Draft::of(&entry.service);
        while !draft.servers.is_empty() {
            self.leave(key, &mut draft, 0, Removal::Now);
        }
        let (id, revision) = (entry.service.id, self.snapshot.revision + 1);
        self.logs.insert(id, draft.changes);
        self.retired_services.insert(*key, RetiredService { id, revision });
        round.timeouts_changed |= entry.spec.timeouts != TimeoutOverrides::default();
        round.touched.push((id, None));
        round.keys_changed = true;
        round.services[2] += 1;
    }

    pub(super) fn drains_over(
        &self,
        usage: &dyn Usage,
        oldest_adopted_revision: u64,
        now: Nanos,
    ) -> BTreeMap<ServiceKey, Vec<ServerId>> {
        let mut over: BTreeMap<ServiceKey, Vec<ServerId>> = BTreeMap::new();
        for (id, drain) in &self.servers.draining {
            let empty =
                drain.revision <= oldest_adopted_revision && usage.flows_of_server(*id) == 0;
            if empty || drain.deadline.is_some_and(|deadline| now >= deadline) {
                over.entry(drain.service).or_default().push(*id);
            }
        }
        over
    }

    pub(super) fn replace(&mut self, edit: impl FnOnce(&mut Snapshot)) -> Applied {
        let mut next = self.next_snapshot();
        edit(&mut next);
        self.snapshot = Arc::new(next);
        Applied { changed: true, ..self.publish(Round::default()) }
    }

    fn next_snapshot(&self) -> Snapshot {
        let mut next = Snapshot::clone(&self.snapshot);
        next.revision += 1;
        next.changed_services = Arc::default();
        next.server_slots = self.servers.slots_end();
        next.removed_servers = self.servers.removed_bits(&next.removed_servers);
        next.nat_servers = self.servers.nat_servers(&next.nat_servers);
        if !Arc::ptr_eq(&next.nat_servers, &self.snapshot.nat_servers) {
            let addresses = next.nat_servers.keys().map(|(_, address, _)| *address);
            next.nat_addresses = Arc::new(addresses.collect());
        }
        next
    }

    fn traffic(&self) -> Traffic {
        // Where one leaves and another has come with the same match, the first of them takes it.
        let is_leaving = |key: &ServiceKey| self.leaving.contains(key);
        let staying = self.services.iter().filter(|(key, _)| !is_leaving(key));
        let services = staying.chain(self.services.iter().filter(|(key, _)| is_leaving(key)));
        let mut traffic = Traffic::new(
            services.map(|(key, entry)| (key, entry.spec.matches.as_slice(), entry.service.id)),
        );
        for (key, entry) in &self.services {
            if entry.spec.helper.is_some() {
                traffic.follow(key, entry.service.id);
            }
        }
        traffic
    }

    pub(super) fn publish(&mut self, round: Round) -> Applied {
        let semantics = round.semantics.unwrap_or(self.snapshot.semantics);
        let switched = semantics != self.snapshot.semantics;
        let changed = switched || !round.touched.is_empty() || round.lips_changed;
        if changed {
            let mut next = self.next_snapshot();
            next.changed_services = Arc::new(round.touched.iter().map(|(id, _)| *id).collect());
            for (id, service) in round.touched {
                if next.services.len() <= id.index() {
                    next.services.resize(id.index() + 1, None);
                }
                next.services[id.index()] = service;
            }
            let limited = |service: &Arc<VirtualService>| service.is_limited.then_some(service.id);
            let limited: Vec<ServiceId> =
                next.services.iter().flatten().filter_map(limited).collect();
            if *next.limited_services != limited {
                next.limited_services = Arc::new(limited);
            }
            next.has_synproxy = next.services.iter().flatten().any(|service| service.synproxy);
            if round.keys_changed {
                let ids = self.services.iter().map(|(key, entry)| (*key, entry.service.id));
                next.service_by_key = Arc::new(ids.collect());
                next.traffic = Arc::new(self.traffic());
                next.vips = Arc::new(next.traffic.vips());
            }
            if round.timeouts_changed || semantics.timeouts != next.semantics.timeouts {
                next.timeouts_epoch = next.timeouts_epoch.wrapping_add(1);
            }
            next.semantics = semantics;
            if round.lips_changed {
                next.lips = Arc::new(self.lips.map());
            }
            self.snapshot = Arc::new(next);
        }
        Applied {
            snapshot: Arc::clone(&self.snapshot),
            changed,
            services: round.services,
            fresh_services: round.fresh_services,
            fresh_servers: round.fresh_servers,
            fresh_lips: round.fresh_lips,
        }
    }
}

fn scheduler(spec: &ServiceSpec, servers: &[RealServer]) -> Scheduler {
    match spec.scheduler {
        SchedulerSpec::RoundRobin => Scheduler::RoundRobin,
        SchedulerSpec::WeightedRoundRobin => Scheduler::WeightedRoundRobin,
        SchedulerSpec::LeastConnections => Scheduler::LeastConnections,
        SchedulerSpec::WeightedLeastConnections => Scheduler::WeightedLeastConnections,
        SchedulerSpec::LocalityLeastConnections => Scheduler::LocalityLeastConnections,
        SchedulerSpec::ReplicatedLocality => Scheduler::ReplicatedLocality,
        SchedulerSpec::DestinationHash => {
            Scheduler::DestinationHash(destination_hash_table(servers))
        }
        SchedulerSpec::SourceHash(flags) => {
            Scheduler::SourceHash(flags, source_hash_table(servers))
        }
        SchedulerSpec::ShortestExpectedDelay => Scheduler::ShortestExpectedDelay,
        SchedulerSpec::NeverQueue => Scheduler::NeverQueue,
        SchedulerSpec::Failover => Scheduler::Failover,
        SchedulerSpec::Overflow => Scheduler::Overflow,
        SchedulerSpec::KernelMaglev(flags) => {
            let is_ipv4 = is_ipv4(&spec.key, &spec.matches);
            let family = if is_ipv4 { Family::V4 } else { Family::V6 };
            Scheduler::KernelMaglev(flags, KernelMaglevTable::new(servers, family))
        }
        SchedulerSpec::Maglev { slots } => {
            let shares: Vec<(IpAddr, u16, u32)> = servers
                .iter()
                .map(|server| (server.address, server.port, server.effective_weight()))
                .collect();
            let table = MaglevTable::new(slots, &shares);
            debug_assert!(table.is_ok(), "slots were checked");
            Scheduler::Maglev(table.unwrap_or_default())
        }
    }
}
