//! The registry: gives out identities, keeps the change logs, and turns what is wanted into
//! snapshots.
//!
//! Pure: no I/O, no clock, no serde. Control and `replay` own one each. Every change is a
//! transaction: it is checked whole, then made whole, and ends in at most one new snapshot.
//! A slot is freed only when every worker's snapshot lacks it and no flow holds it; who comes
//! back before that gets the same slot again, as the kernel's entries revive.

mod draft;
mod lips;
mod server_ids;
mod slots;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use super::change_log::ChangeLog;
use super::id::{LipId, NextHopId, ServerId, ServiceId};
use super::maglev::MaglevTable;
use super::prefix::PrefixSet;
use super::route::RouteTable;
use super::service::{RealServer, Scheduler, ServerState, ServiceKey, VirtualService};
use super::snapshot::{NicModel, Snapshot};
use super::source_hash::source_hash_table;
use super::spec::{
    Desired, Place, PoolSpec, ProblemKind, Removal, SchedulerSpec, ServerSpec, ServiceSpec,
    SpecProblem, validate, validate_beside,
};
use super::steering::{KeyKind, Steering};
use crate::limits::{LIPS_MAX, SERVERS_MAX, SERVICES_MAX};
use crate::time::Nanos;
use draft::{Draft, endpoint_of, fits, specs_of};
use lips::Lips;
use server_ids::{Drain, ServerIds, ServerKey};
use slots::Slots;

/// What a registry is made for; fixed while the process lives.
#[derive(Clone, Debug)]
pub struct RegistryConfig {
    /// The owner function, and with it the number of workers.
    pub steering: Arc<Steering>,
    /// Service slots.
    pub services_max: usize,
    /// Server slots over all services.
    pub servers_max: usize,
    /// Local address slots.
    pub lips_max: usize,
}

impl RegistryConfig {
    /// The bounds of `limits`.
    pub fn new(steering: Arc<Steering>) -> Self {
        RegistryConfig {
            steering,
            services_max: SERVICES_MAX,
            servers_max: SERVERS_MAX,
            lips_max: LIPS_MAX,
        }
    }
}

/// What flows hold, all workers together.
pub trait Usage {
    /// Flow entries that hold the server's slot.
    fn flows_of_server(&self, id: ServerId) -> u64;
    /// Flow entries that hold the service's slot.
    fn flows_of_service(&self, id: ServiceId) -> u64;
    /// Ports of the local address in use.
    fn ports_of_lip(&self, id: LipId) -> u64;
}

/// What a change came to.
#[derive(Clone, Debug)]
pub struct Applied {
    /// To be published if its revision is new.
    pub snapshot: Arc<Snapshot>,
    /// Whether `snapshot` is new.
    pub changed: bool,
    /// Services added, changed and removed.
    pub services: [usize; 3],
    /// Service slots that mean something else from now on: what workers counted on them so far
    /// is not theirs.
    pub fresh_services: Vec<ServiceId>,
    /// Server slots likewise.
    pub fresh_servers: Vec<ServerId>,
    /// Local address slots likewise.
    pub fresh_lips: Vec<LipId>,
}

/// Slot of the rewrite data towards a server.
pub type HopFor<'h> = &'h mut dyn FnMut(IpAddr) -> NextHopId;

/// A service and where it stands.
#[derive(Debug)]
struct Entry {
    /// Its servers are those not draining, in list order.
    spec: ServiceSpec,
    service: Arc<VirtualService>,
}

/// A removed service whose flows may still live.
#[derive(Debug)]
struct RetiredService {
    id: ServiceId,
    revision: u64,
}

/// One transaction's trail.
#[derive(Default)]
struct Round {
    touched: Vec<(ServiceId, Option<Arc<VirtualService>>)>,
    keys_changed: bool,
    lips_changed: bool,
    services: [usize; 3],
    fresh_services: Vec<ServiceId>,
    fresh_servers: Vec<ServerId>,
    fresh_lips: Vec<LipId>,
}

/// See the module.
#[derive(Debug)]
pub struct Registry {
    steering: Arc<Steering>,
    snapshot: Arc<Snapshot>,
    services: BTreeMap<ServiceKey, Entry>,
    service_slots: Slots,
    retired_services: HashMap<ServiceKey, RetiredService>,
    /// Logs of slots without a service: numbers go on, so that a cursor sees the new steps.
    logs: HashMap<ServiceId, ChangeLog>,
    servers: ServerIds,
    lips: Lips,
}

impl Registry {
    /// No services, no ports; revision 0.
    pub fn new(config: RegistryConfig) -> Self {
        let snapshot = Snapshot { steering: Arc::clone(&config.steering), ..Snapshot::empty() };
        Registry {
            steering: Arc::clone(&config.steering),
            snapshot: Arc::new(snapshot),
            services: BTreeMap::new(),
            service_slots: Slots::new(config.services_max),
            retired_services: HashMap::new(),
            logs: HashMap::new(),
            servers: ServerIds::new(config.servers_max),
            lips: Lips::new(config.steering, config.lips_max),
        }
    }

    /// The newest snapshot.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// Services with their slots, by protocol and address. Draining servers are not in the specs
    /// but in the snapshot.
    pub fn services(&self) -> impl Iterator<Item = (ServiceId, &ServiceSpec)> {
        self.services.values().map(|entry| (entry.service.id, &entry.spec))
    }

    /// One service.
    pub fn service(&self, key: &ServiceKey) -> Option<(&ServiceSpec, &Arc<VirtualService>)> {
        self.services.get(key).map(|entry| (&entry.spec, &entry.service))
    }

    /// The pools in force.
    pub fn pools(&self) -> &[PoolSpec] {
        self.lips.pools()
    }

    /// Addresses of all servers that may still be sent to, with repetitions: the next hops that
    /// must live.
    pub fn rips(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let listed = self.services.values().flat_map(|entry| &entry.service.servers);
        listed.map(|server| server.address).chain(self.servers.retired_addresses())
    }

    /// Servers that drain, and slots that wait for their last flow (services, servers).
    pub fn waiting(&self) -> (usize, usize, usize) {
        let retired = self.servers.retired_count();
        (self.servers.draining.len(), self.retired_services.len(), retired)
    }

    /// Replaces the ports.
    pub fn set_nics(&mut self, nics: Vec<NicModel>) -> Applied {
        self.replace(|snapshot| snapshot.nics = Arc::new(nics))
    }

    /// Replaces the routes towards clients.
    pub fn set_routes(&mut self, routes: Arc<RouteTable>) -> Applied {
        self.replace(|snapshot| snapshot.routes = routes)
    }

    /// Makes the configuration `desired`: the difference to what is, as one transaction. Servers
    /// that stay keep their place; new ones are added in order behind them. On any problem
    /// nothing changes.
    pub fn apply(
        &mut self,
        desired: &Desired,
        hop_for: HopFor,
    ) -> Result<Applied, Vec<SpecProblem>> {
        let mut problems = validate(desired, self.steering.workers());
        self.check_live(desired, &mut problems);
        self.check_room(desired, &mut problems);
        if !problems.is_empty() {
            return Err(problems);
        }
        let mut round = Round::default();
        if desired.pools != self.lips.pools() {
            round.fresh_lips = self.lips.set(&desired.pools, self.snapshot.revision + 1);
            round.lips_changed = true;
        }
        let wanted: HashSet<ServiceKey> = desired.services.iter().map(|spec| spec.key).collect();
        let gone: Vec<ServiceKey> =
            self.services.keys().filter(|key| !wanted.contains(*key)).copied().collect();
        for key in gone {
            self.retire_service(&key, &mut round);
        }
        for spec in &desired.services {
            self.commit(spec, desired.removal, hop_for, &mut round);
        }
        Ok(self.publish(round))
    }

    /// Adds a service with its servers (`ipvsadm -A`, then `-a` for each).
    pub fn add_service(
        &mut self,
        spec: &ServiceSpec,
        hop_for: HopFor,
    ) -> Result<Applied, Vec<SpecProblem>> {
        if self.services.contains_key(&spec.key) {
            let what = "the service exists already".into();
            return Err(vec![refusal(ProblemKind::Exists, &spec.key, what, "edit it instead")]);
        }
        let vip = spec.key.vip;
        if !self.snapshot.vips.contains(&vip) && self.rips().any(|rip| rip == vip) {
            let what = format!("{vip} is a server's address: its packets would come back");
            let remedy = "give an address that no server has";
            return Err(vec![refusal(ProblemKind::Invalid, &spec.key, what, remedy)]);
        }
        self.change(spec.clone(), Removal::Drain { deadline: None }, hop_for)
    }

    /// Removes a service at once (`ipvsadm -D`): its clients' packets are dropped from here on,
    /// and its entries revive if it comes back in time.
    pub fn remove_service(&mut self, key: &ServiceKey) -> Result<Applied, Vec<SpecProblem>> {
        if !self.services.contains_key(key) {
            return Err(vec![no_service(key)]);
        }
        let mut round = Round::default();
        self.retire_service(key, &mut round);
        Ok(self.publish(round))
    }

    /// Changes everything of a service but its servers (`ipvsadm -E`); `spec.servers` is ignored.
    pub fn edit_service(&mut self, spec: &ServiceSpec) -> Result<Applied, Vec<SpecProblem>> {
        let entry = self.services.get(&spec.key).ok_or_else(|| vec![no_service(&spec.key)])?;
        let spec = ServiceSpec { servers: entry.spec.servers.clone(), ..spec.clone() };
        self.change(spec, Removal::Drain { deadline: None }, &mut |_| NextHopId::NONE)
    }

    /// Adds a server (`ipvsadm -a`), or revives one that drains.
    pub fn add_server(
        &mut self,
        key: &ServiceKey,
        server: &ServerSpec,
        hop_for: HopFor,
    ) -> Result<Applied, Vec<SpecProblem>> {
        let entry = self.services.get(key).ok_or_else(|| vec![no_service(key)])?;
        if entry.spec.servers.iter().any(|other| other.endpoint() == server.endpoint()) {
            let what = format!("server {} exists already", server.endpoint());
            return Err(vec![refusal(ProblemKind::Exists, key, what, "set its weight instead")]);
        }
        let mut spec = entry.spec.clone();
        spec.servers.push(server.clone());
        self.change(spec, Removal::Drain { deadline: None }, hop_for)
    }

    /// Removes a server, one that drains already included.
    pub fn remove_server(
        &mut self,
        key: &ServiceKey,
        endpoint: SocketAddr,
        removal: Removal,
    ) -> Result<Applied, Vec<SpecProblem>> {
        let (mut draft, at) = self.find(key, endpoint)?;
        self.leave(key, &mut draft, at, removal);
        let mut round = Round::default();
        let spec = self.services[key].spec.clone();
        self.store(spec, draft, &mut round);
        Ok(self.publish(round))
    }

    /// Changes weight and mode of a server (`ipvsadm -e`); one that drains takes flows again.
    /// A step in the change log even when nothing differs, as in the kernel.
    pub fn edit_server(
        &mut self,
        key: &ServiceKey,
        server: &ServerSpec,
    ) -> Result<Applied, Vec<SpecProblem>> {
        let (mut draft, at) = self.find(key, server.endpoint())?;
        draft.edit(at, server);
        let mut spec = self.services[key].spec.clone();
        spec.servers = specs_of(&draft.servers);
        self.check_one(&spec)?;
        self.servers.draining.remove(&draft.servers[at].id);
        let mut round = Round::default();
        self.store(spec, draft, &mut round);
        Ok(self.publish(round))
    }

    /// Changes a server's weight alone; a server that drains goes on draining.
    pub fn set_weight(
        &mut self,
        key: &ServiceKey,
        endpoint: SocketAddr,
        weight: u32,
    ) -> Result<Applied, Vec<SpecProblem>> {
        let (draft, at) = self.find(key, endpoint)?;
        let server = &draft.servers[at];
        if server.state == ServerState::Draining {
            let what = format!("server {endpoint} is draining");
            let remedy = "add it again first, or wait until it is gone";
            return Err(vec![refusal(ProblemKind::Invalid, key, what, remedy)]);
        }
        let (address, port, mode) = (server.address, server.port, server.mode);
        self.edit_server(key, &ServerSpec { address, port, weight, mode })
    }

    /// Ends drains that are over and frees slots that nothing holds: to be called now and then.
    /// `oldest_adopted_revision` is the oldest any worker has in force. Gives a snapshot to
    /// publish if one is needed.
    pub fn reclaim(
        &mut self,
        usage: &dyn Usage,
        oldest_adopted_revision: u64,
        now: Nanos,
    ) -> Option<Applied> {
        self.servers.reclaim(&|id| usage.flows_of_server(id), oldest_adopted_revision);
        let slots = &mut self.service_slots;
        self.retired_services.retain(|_, retired| {
            let held = retired.revision > oldest_adopted_revision
                || usage.flows_of_service(retired.id) > 0;
            if !held {
                slots.free(retired.id.0);
            }
            held
        });
        let lips_changed = self.lips.reclaim(&|id| usage.ports_of_lip(id), oldest_adopted_revision);
        let mut round = Round { lips_changed, ..Round::default() };
        let over = self.drains_over(usage, oldest_adopted_revision, now);
        for (key, ids) in over {
            let Some(entry) = self.services.get(&key) else { continue };
            let (spec, mut draft) = (entry.spec.clone(), Draft::of(&entry.service));
            for id in ids {
                if let Some(at) = draft.position_of(id) {
                    self.leave(&key, &mut draft, at, Removal::Now);
                }
            }
            self.store(spec, draft, &mut round);
        }
        let applied = self.publish(round);
        applied.changed.then_some(applied)
    }
}

/// Checks.
impl Registry {
    /// What cannot change while flows live.
    fn check_live(&self, desired: &Desired, problems: &mut Vec<SpecProblem>) {
        let mut push = |place, subject, what, remedy: &str| {
            let (kind, remedy) = (ProblemKind::Invalid, remedy.to_owned());
            problems.push(SpecProblem { kind, place, subject, what, remedy });
        };
        for (at, pool) in desired.pools.iter().enumerate() {
            let differs =
                |lip: &&IpAddr| self.lips.range(**lip).is_some_and(|range| range != pool.ports);
            if let Some(lip) = pool.addresses.iter().find(differs) {
                let what = format!("the port range of {lip} cannot change while it is in use");
                let remedy = "use other addresses, or restart gyre";
                push(
                    Place::Pool(at, "ports"),
                    format!("local_addresses {}", pool.name),
                    what,
                    remedy,
                );
            }
        }
        for (at, spec) in desired.services.iter().enumerate() {
            if self.lips.is_retired(spec.key.vip) {
                let what = "the address was a local address, and flows still use it".into();
                let place = Place::Service(at, "address");
                push(place, spec.key.to_string(), what, "wait until they have ended");
            }
            let draining = self.services.get(&spec.key).map_or(0, |e| e.service.servers.len());
            let listed = spec.servers.len() + draining;
            if let SchedulerSpec::Maglev { slots } = spec.scheduler
                && slots > spec.servers.len()
                && slots <= listed
            {
                let what = format!("{slots} slots do not suffice while servers drain");
                let place = Place::Service(at, "maglev_slots");
                push(place, spec.key.to_string(), what, "use a larger prime, such as 65537");
            }
        }
    }

    /// Whether all new identities find a slot.
    fn check_room(&self, desired: &Desired, problems: &mut Vec<SpecProblem>) {
        let new_service = |key: &ServiceKey| {
            !self.services.contains_key(key) && !self.retired_services.contains_key(key)
        };
        let services = desired.services.iter().filter(|spec| new_service(&spec.key)).count();
        let servers: usize = desired.services.iter().map(|spec| self.new_servers(spec)).sum();
        let (lips, lips_left) = self.lips.room(&desired.pools);
        for (wanted, left, what) in [
            (services, self.service_slots.left(), "services"),
            (servers, self.servers.left(), "servers"),
            (lips, lips_left, "local addresses"),
        ] {
            if wanted > left {
                let remedy = "remove some, and wait for the flows of removed ones to end";
                problems.push(SpecProblem {
                    kind: ProblemKind::Full,
                    place: Place::Whole,
                    subject: String::new(),
                    what: format!("{wanted} more {what} wanted, room for {left}"),
                    remedy: remedy.into(),
                });
            }
        }
    }

    /// How many server slots `spec` would take.
    fn new_servers(&self, spec: &ServiceSpec) -> usize {
        let listed: HashSet<SocketAddr> = self
            .services
            .get(&spec.key)
            .map(|entry| entry.service.servers.iter().map(endpoint_of).collect())
            .unwrap_or_default();
        let has_slot = |endpoint| {
            listed.contains(&endpoint)
                || self.servers.is_retired(&ServerKey { service: spec.key, endpoint })
        };
        spec.servers.iter().filter(|server| !has_slot(server.endpoint())).count()
    }

    /// Checks one service beside the others, without going through all of them.
    fn check_one(&self, spec: &ServiceSpec) -> Result<(), Vec<SpecProblem>> {
        let desired = Desired {
            pools: self.lips.pools().to_vec(),
            services: vec![spec.clone()],
            removal: Removal::Now,
        };
        let mut problems = validate_beside(&desired, self.steering.workers(), &self.snapshot.vips);
        let named = |entry: &&Entry| entry.spec.key != spec.key && entry.spec.name == spec.name;
        if let Some(name) = &spec.name
            && let Some(other) = self.services.values().find(named)
        {
            let what = format!("{} is also named `{name}`", other.spec.key);
            let remedy = "names are optional but unique";
            problems.push(refusal(ProblemKind::Invalid, &spec.key, what, remedy));
        }
        self.check_live(&desired, &mut problems);
        self.check_room(&desired, &mut problems);
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    fn find(
        &self,
        key: &ServiceKey,
        endpoint: SocketAddr,
    ) -> Result<(Draft, usize), Vec<SpecProblem>> {
        let entry = self.services.get(key).ok_or_else(|| vec![no_service(key)])?;
        let draft = Draft::of(&entry.service);
        let Some(at) = draft.position(endpoint) else {
            let what = format!("the service has no server {endpoint}");
            let remedy = "`gyre services` lists them";
            return Err(vec![refusal(ProblemKind::NotFound, key, what, remedy)]);
        };
        Ok((draft, at))
    }
}

/// Changes, once checked.
impl Registry {
    fn change(
        &mut self,
        spec: ServiceSpec,
        removal: Removal,
        hop_for: HopFor,
    ) -> Result<Applied, Vec<SpecProblem>> {
        self.check_one(&spec)?;
        let mut round = Round::default();
        self.commit(&spec, removal, hop_for, &mut round);
        Ok(self.publish(round))
    }

    /// Makes one service what `spec` says.
    fn commit(&mut self, spec: &ServiceSpec, removal: Removal, hop_for: HopFor, round: &mut Round) {
        let mut draft = match self.services.get(&spec.key) {
            Some(entry) => {
                let mut draft = Draft::of(&entry.service);
                draft.changed = !self.is_same_head(entry, spec);
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
        self.remove_unlisted(spec, &mut draft, removal);
        for server in &spec.servers {
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
        let locals = self.lips.of_pool(spec.pool.as_deref(), spec.key.vip.is_ipv4());
        locals == entry.service.local_addresses && entry.spec.is_same_but_servers(spec)
    }

    fn remove_unlisted(&mut self, spec: &ServiceSpec, draft: &mut Draft, removal: Removal) {
        let listed: HashSet<SocketAddr> = spec.servers.iter().map(ServerSpec::endpoint).collect();
        let mut at = 0;
        while let Some(server) = draft.servers.get(at) {
            let drains_on =
                server.state == ServerState::Draining && matches!(removal, Removal::Drain { .. });
            let count = draft.servers.len();
            if !listed.contains(&endpoint_of(server)) && !drains_on {
                self.leave(&spec.key, draft, at, removal);
            }
            at += usize::from(draft.servers.len() == count);
        }
    }

    /// Takes the server at `at` out of new work, or out altogether.
    fn leave(&mut self, key: &ServiceKey, draft: &mut Draft, at: usize, removal: Removal) {
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
                self.servers.retire(key, server.id, revision);
            }
        }
    }

    fn join(
        &mut self,
        service: ServiceKey,
        server: &ServerSpec,
        draft: &mut Draft,
        (hop_for, round): (HopFor, &mut Round),
    ) {
        let key = ServerKey { service, endpoint: server.endpoint() };
        let Some(claim) = self.servers.claim(&key) else {
            debug_assert!(false, "room for every server was checked");
            return;
        };
        if claim.fresh {
            round.fresh_servers.push(claim.id);
        }
        draft.add(RealServer {
            id: claim.id,
            address: server.address,
            port: server.port,
            weight: server.weight,
            mode: server.mode,
            hop: hop_for(server.address),
            state: ServerState::Active,
        });
    }

    /// Files a service under its slot and marks it for publication.
    fn store(&mut self, mut spec: ServiceSpec, draft: Draft, round: &mut Round) {
        let known = self.services.contains_key(&spec.key);
        round.services[usize::from(known)] += 1;
        round.keys_changed |= !known;
        spec.servers = specs_of(&draft.servers);
        let service = Arc::new(VirtualService {
            id: draft.service,
            name: spec.name.clone(),
            key: spec.key,
            scheduler: scheduler(spec.scheduler, &draft.servers),
            servers: draft.servers,
            changes: draft.changes,
            key_kind: KeyKind::ClientTuple,
            ttl: spec.ttl,
            synproxy: spec.synproxy,
            client_address: spec.client_address,
            local_addresses: self.lips.of_pool(spec.pool.as_deref(), spec.key.vip.is_ipv4()),
            connections_max: spec.connections_max,
            allow: PrefixSet::new(&spec.allow),
            deny: PrefixSet::new(&spec.deny),
            timeouts: spec.timeouts,
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

    fn retire_service(&mut self, key: &ServiceKey, round: &mut Round) {
        let Some(entry) = self.services.remove(key) else { return };
        let mut draft = Draft::of(&entry.service);
        while !draft.servers.is_empty() {
            self.leave(key, &mut draft, 0, Removal::Now);
        }
        let (id, revision) = (entry.service.id, self.snapshot.revision + 1);
        self.logs.insert(id, draft.changes);
        self.retired_services.insert(*key, RetiredService { id, revision });
        round.touched.push((id, None));
        round.keys_changed = true;
        round.services[2] += 1;
    }

    fn drains_over(
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

    fn replace(&mut self, edit: impl FnOnce(&mut Snapshot)) -> Applied {
        let mut next = self.next_snapshot();
        edit(&mut next);
        self.snapshot = Arc::new(next);
        Applied { changed: true, ..self.publish(Round::default()) }
    }

    fn next_snapshot(&self) -> Snapshot {
        let mut next = Snapshot::clone(&self.snapshot);
        next.revision += 1;
        next.removed_servers = self.servers.removed_bits(&next.removed_servers);
        next
    }

    fn publish(&mut self, round: Round) -> Applied {
        let changed = !round.touched.is_empty() || round.lips_changed;
        if changed {
            let mut next = self.next_snapshot();
            for (id, service) in round.touched {
                if next.services.len() <= id.index() {
                    next.services.resize(id.index() + 1, None);
                }
                next.services[id.index()] = service;
            }
            if round.keys_changed {
                let ids = self.services.iter().map(|(key, entry)| (*key, entry.service.id));
                next.service_by_key = Arc::new(ids.collect());
                next.vips = Arc::new(self.services.keys().map(|key| key.vip).collect());
            }
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

fn scheduler(spec: SchedulerSpec, servers: &[RealServer]) -> Scheduler {
    match spec {
        SchedulerSpec::RoundRobin => Scheduler::RoundRobin,
        SchedulerSpec::WeightedRoundRobin => Scheduler::WeightedRoundRobin,
        SchedulerSpec::SourceHash(flags) => {
            Scheduler::SourceHash(flags, source_hash_table(servers))
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

fn refusal(kind: ProblemKind, key: &ServiceKey, what: String, remedy: &str) -> SpecProblem {
    let (subject, remedy) = (key.to_string(), remedy.to_owned());
    SpecProblem { kind, place: Place::Whole, subject, what, remedy }
}

fn no_service(key: &ServiceKey) -> SpecProblem {
    refusal(
        ProblemKind::NotFound,
        key,
        "there is no such service".into(),
        "`gyre services` lists them",
    )
}

#[cfg(test)]
mod tests;
