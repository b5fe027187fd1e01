//! The registry: gives out identities, keeps the change logs, and turns what is wanted into
//! snapshots.
//!
//! Pure: no I/O, no clock, no serde. Control and `replay` own one each. Every change is a
//! transaction: it is checked whole, then made whole, and ends in at most one new snapshot.
//! A slot is freed only when every worker's snapshot lacks it and no flow holds it; who comes
//! back before that gets the same slot again, as the kernel's entries revive.

mod checks;
mod commit;
mod draft;
mod health;
mod leaving;
mod lips;
mod pairs;
mod server_ids;
mod slots;
mod steered;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use super::change_log::ChangeLog;
use super::id::{LipId, NextHopId, ServerId, ServiceId};
use super::route::RouteTable;
use super::semantics::Semantics;
use super::service::{ForwardMode, VirtualService};
use super::service_key::{ServiceKey, TrafficMatch};
use super::snapshot::{NicModel, Snapshot};
use super::spec::{Desired, PoolSpec, ProblemKind, Removal, ServerSpec, ServiceSpec, SpecProblem};
use super::steering::Steering;
use super::validate::validate;
use crate::limits::{LIPS_MAX, SERVERS_MAX, SERVICES_MAX, SOURCE_PORT_SPACES_DEFAULT};
use crate::time::Nanos;
pub use checks::check_addresses;
use checks::{no_service, refusal};
use draft::Draft;
use health::Overlay;
pub use health::{Effect, HealthChange, Sorry};
use lips::Lips;
use pairs::Beside;
pub use pairs::address_pairs;
use server_ids::ServerIds;
use slots::Slots;
use steered::Steered;
pub use steered::check_steering;

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
    /// Pairs of local address and server that a worker can hold source ports for.
    pub address_pairs_max: usize,
}

impl RegistryConfig {
    /// The bounds of `limits`.
    pub fn new(steering: Arc<Steering>) -> Self {
        RegistryConfig {
            steering,
            services_max: SERVICES_MAX,
            servers_max: SERVERS_MAX,
            lips_max: LIPS_MAX,
            address_pairs_max: SOURCE_PORT_SPACES_DEFAULT,
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
    spec: Arc<ServiceSpec>,
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
    /// What services with a helper take.
    helped: Vec<TrafficMatch>,
    semantics: Option<Semantics>,
    timeouts_changed: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Registry {
    steering: Arc<Steering>,
    snapshot: Arc<Snapshot>,
    services: BTreeMap<ServiceKey, Entry>,
    /// Those of `services` that only wait for their flows to end.
    leaving: BTreeSet<ServiceKey>,
    service_slots: Slots,
    retired_services: HashMap<ServiceKey, RetiredService>,
    /// What steers each service's flows, for as long as the service lives or is retired.
    steered: HashMap<ServiceKey, Steered>,
    /// Logs of slots without a service: numbers go on, so that a cursor sees the new steps.
    logs: HashMap<ServiceId, ChangeLog>,
    servers: ServerIds,
    /// What health checks make of services; those that are not here are as asked for.
    health: HashMap<ServiceKey, Overlay>,
    lips: Lips,
    address_pairs_max: usize,
}

impl Registry {
    /// No services, no ports; revision 0.
    pub fn new(config: RegistryConfig) -> Self {
        let snapshot = Snapshot { steering: Arc::clone(&config.steering), ..Snapshot::empty() };
        Registry {
            steering: Arc::clone(&config.steering),
            snapshot: Arc::new(snapshot),
            services: BTreeMap::new(),
            leaving: BTreeSet::new(),
            service_slots: Slots::new(config.services_max),
            retired_services: HashMap::new(),
            steered: HashMap::new(),
            logs: HashMap::new(),
            servers: ServerIds::new(config.servers_max),
            health: HashMap::new(),
            lips: Lips::new(config.steering, config.lips_max),
            address_pairs_max: config.address_pairs_max,
        }
    }

    /// The newest snapshot.
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// Services with their slots, by protocol and address. Draining servers are not in the specs
    /// but in the snapshot, and so are services that leave.
    pub fn services(&self) -> impl Iterator<Item = (ServiceId, &ServiceSpec)> {
        let stays = |entry: &&Entry| !self.leaving.contains(&entry.spec.key);
        self.services.values().filter(stays).map(|entry| (entry.service.id, &*entry.spec))
    }

    /// What was asked for of each service, shared with the registry: a list to be kept.
    pub fn specs(&self) -> Vec<Arc<ServiceSpec>> {
        let stays = |entry: &&Entry| !self.leaving.contains(&entry.spec.key);
        self.services.values().filter(stays).map(|entry| Arc::clone(&entry.spec)).collect()
    }

    /// One service.
    pub fn service(&self, key: &ServiceKey) -> Option<(&ServiceSpec, &Arc<VirtualService>)> {
        self.services.get(key).map(|entry| (&*entry.spec, &entry.service))
    }

    /// The pools in force.
    pub fn pools(&self) -> &[PoolSpec] {
        self.lips.pools()
    }

    /// Addresses of all servers that may still be sent to, with repetitions: the next hops that
    /// must live.
    pub fn rips(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let entries = || self.services.values();
        let listed = entries().flat_map(|entry| &entry.service.servers);
        let listed = listed.map(|server| (server.mode, server.address));
        // Those that health checks took out, or may yet bring in.
        let asked = entries().flat_map(|entry| entry.spec.all_servers());
        let all = listed.chain(asked.map(|server| (server.mode, server.address)));
        let remote = all.filter(|(mode, _)| *mode != ForwardMode::Local);
        remote.map(|(_, address)| address).chain(self.servers.retired_addresses())
    }

    /// Servers that drain, and slots that wait for their last flow (services, servers).
    pub fn waiting(&self) -> (usize, usize, usize) {
        let retired = self.servers.retired_count();
        (self.servers.draining.len(), self.retired_services.len(), retired)
    }

    /// Replaces the ports.
    pub fn set_nics(&mut self, nics: Vec<NicModel>) -> Applied {
        self.replace(|snapshot| {
            snapshot.has_tags = nics.iter().any(|nic| nic.vlan.is_some());
            snapshot.nics = Arc::new(nics);
        })
    }

    /// Replaces the routes towards clients.
    pub fn set_routes(&mut self, routes: Arc<RouteTable>) -> Applied {
        self.replace(|snapshot| snapshot.routes = routes)
    }

    /// A new revision of what is: for changes that are in no snapshot.
    pub fn renumber(&mut self) -> Applied {
        self.replace(|_| {})
    }

    /// Replaces the switches of all services (sysctls, `ipvsadm --set`).
    pub fn set_semantics(&mut self, semantics: Semantics) -> Applied {
        let round = Round { semantics: Some(semantics), ..Round::default() };
        self.publish(round)
    }

    /// Everything that keeps the configuration from becoming `desired`; changes nothing.
    pub fn check(&self, desired: &Desired) -> Result<(), Vec<SpecProblem>> {
        let mut problems = validate(desired, self.steering.workers());
        self.check_live(desired, &mut problems);
        self.check_steering(desired, Beside::Nothing, &mut problems);
        problems.extend(check_addresses(desired, &self.snapshot.nics));
        self.check_room(desired, &mut problems);
        self.check_pairs(desired, Beside::Nothing, &mut problems);
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// Makes the configuration `desired`: the difference to what is, as one transaction. Servers
    /// that stay keep their place; new ones are added in order behind them. On any problem
    /// nothing changes.
    pub fn apply(
        &mut self,
        desired: &Desired,
        hop_for: HopFor,
    ) -> Result<Applied, Vec<SpecProblem>> {
        self.check(desired)?;
        let helped = self.helped(&desired.services.iter().collect::<Vec<_>>());
        let mut round = Round { semantics: Some(desired.semantics), helped, ..Round::default() };
        if desired.pools != self.lips.pools() {
            round.fresh_lips = self.lips.set(&desired.pools, self.snapshot.revision + 1);
            round.lips_changed = true;
        }
        let wanted: HashSet<ServiceKey> = desired.services.iter().map(|spec| spec.key).collect();
        let gone: Vec<ServiceKey> =
            self.services.keys().filter(|key| !wanted.contains(*key)).copied().collect();
        for key in gone {
            self.take_away(&key, desired.removal, &mut round);
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
        if let Some(problem) = self.exists(spec) {
            return Err(vec![problem]);
        }
        self.change(spec.clone(), Removal::Drain { deadline: None }, hop_for)
    }

    /// Changes everything of a service but its servers (`ipvsadm -E`); `spec.servers` is ignored.
    pub fn edit_service(
        &mut self,
        spec: &ServiceSpec,
        hop_for: HopFor,
    ) -> Result<Applied, Vec<SpecProblem>> {
        let entry = self.services.get(&spec.key).ok_or_else(|| vec![no_service(&spec.key)])?;
        let spec = ServiceSpec { servers: entry.spec.servers.clone(), ..spec.clone() };
        self.change(spec, Removal::Drain { deadline: None }, hop_for)
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
        let mut spec = ServiceSpec::clone(&entry.spec);
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
        let entry = self.services.get(key).ok_or_else(|| vec![no_service(key)])?;
        let is_asked = entry.spec.servers.iter().any(|server| server.endpoint() == endpoint);
        let mut draft = Draft::of(&entry.service);
        match draft.position(endpoint) {
            Some(at) => self.leave(key, &mut draft, at, removal),
            // Health checks took it out already.
            None if is_asked => {}
            None => drop(self.find(key, endpoint)?),
        }
        if let Some(overlay) = self.health.get_mut(key) {
            overlay.forget(endpoint);
        }
        let mut round = Round::default();
        let mut spec = ServiceSpec::clone(&self.services[key].spec);
        spec.servers.retain(|server| server.endpoint() != endpoint);
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
        let entry = self.services.get(key).ok_or_else(|| vec![no_service(key)])?;
        let mut draft = Draft::of(&entry.service);
        let mut spec = ServiceSpec::clone(&entry.spec);
        let at = draft.position(server.endpoint());
        let is_asked = spec.servers.iter().any(|known| known.endpoint() == server.endpoint());
        if at.is_none() && !is_asked {
            self.find(key, server.endpoint())?;
        }
        match spec.servers.iter_mut().find(|other| other.endpoint() == server.endpoint()) {
            Some(known) => known.clone_from(server),
            None => spec.servers.push(server.clone()),
        }
        self.check_one(&spec)?;
        if let Some(at) = at {
            let overlay = self.health.get(key);
            let listed = overlay.and_then(|overlay| overlay.of_server(server));
            draft.edit(at, listed.as_ref().unwrap_or(server));
            self.servers.draining.remove(&draft.servers[at].id);
        }
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
        let asked = self.services.get(key).map(|entry| &entry.spec.servers);
        let mut asked = asked.into_iter().flatten();
        let Some(server) = asked.find(|server| server.endpoint() == endpoint) else {
            self.find(key, endpoint)?;
            let what = format!("server {endpoint} is draining");
            let remedy = "add it again first, or wait until it is gone";
            return Err(vec![refusal(ProblemKind::Invalid, key, what, remedy)]);
        };
        let spec = ServerSpec { weight, ..server.clone() };
        self.edit_server(key, &spec)
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
        let (slots, steered) = (&mut self.service_slots, &mut self.steered);
        self.retired_services.retain(|key, retired| {
            let held = retired.revision > oldest_adopted_revision
                || usage.flows_of_service(retired.id) > 0;
            if !held {
                slots.free(retired.id.0);
                steered.remove(key);
            }
            held
        });
        let lips_changed = self.lips.reclaim(&|id| usage.ports_of_lip(id), oldest_adopted_revision);
        let mut round = Round { lips_changed, ..Round::default() };
        let over = self.drains_over(usage, oldest_adopted_revision, now);
        for (key, ids) in over {
            let Some(entry) = self.services.get(&key) else { continue };
            let (spec, mut draft) = (ServiceSpec::clone(&entry.spec), Draft::of(&entry.service));
            for id in ids {
                if let Some(at) = draft.position_of(id) {
                    self.leave(&key, &mut draft, at, Removal::Now);
                }
            }
            self.store(spec, draft, &mut round);
        }
        self.end_leaving(&mut round);
        let applied = self.publish(round);
        applied.changed.then_some(applied)
    }
}

#[cfg(test)]
mod steered_tests;
#[cfg(test)]
mod tests;
