//! Changes of the configuration in the middle of everything, through the registry as control
//! makes them.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use gyre::message::SweepAction;
use gyre::model::next_hops::RetiredHop;
use gyre::model::*;
use gyre::time::Nanos;

use crate::plan::{Plan, Random, crosses, server_of};
use crate::team::{HopUpdate, Team};
use crate::world;

/// The workers' counters as the registry asks for them.
struct Held<'t>(&'t Team);

impl Usage for Held<'_> {
    fn flows_of_server(&self, id: ServerId) -> u64 {
        let at = id.index();
        self.0.count(|counters| counters.servers[at].flows.get() + counters.templates[0][at].get())
    }
    fn flows_of_service(&self, id: ServiceId) -> u64 {
        let at = id.index();
        self.0.count(|counters| counters.services[at].flows.get() + counters.templates[1][at].get())
    }
    fn ports_of_lip(&self, id: LipId) -> u64 {
        self.0.count(|counters| counters.lips[id.index()].used.get())
    }
}

/// Control's part.
pub struct Control {
    pub registry: Registry,
    pub hops: next_hops::NextHops,
    /// Servers whose MAC addresses are known.
    neighbours: HashSet<IpAddr>,
    /// Next-hop slots that nothing names any more, the revision from which on, and whether workers
    /// have begun to forget them.
    retired: Option<(Vec<RetiredHop>, u64, bool)>,
    /// Next-hop slots in use without any server.
    hops_at_least: usize,
    /// Services that a change may remove and bring back.
    removed: Vec<ServiceSpec>,
    pub changes: u64,
    /// Next-hop slots that were given back.
    pub hops_freed: u64,
}

type Refusal = Vec<SpecProblem>;

impl Control {
    /// Makes a change; hops to be told before the snapshot.
    fn change(
        &mut self,
        change: impl FnOnce(&mut Registry, HopFor) -> Result<Applied, Refusal>,
    ) -> Result<Vec<HopUpdate>, Refusal> {
        let hops = &mut self.hops;
        change(&mut self.registry, &mut |rip: IpAddr| hops.hop_for_server(rip).unwrap())?;
        self.changes += 1;
        Ok(self.follow_servers())
    }

    /// Has next hops follow the servers that there are: neighbours that nobody asks for are
    /// forgotten in time, and then their slots fall out of use.
    fn follow_servers(&mut self) -> Vec<HopUpdate> {
        let servers: HashSet<IpAddr> = self.registry.rips().collect();
        self.hops.keep_servers(&servers.iter().copied().collect());
        if servers != self.neighbours {
            world::set_static(&mut self.hops, &servers);
            self.neighbours = servers;
        }
        if let Some(update) = self.hops.take_routes() {
            self.registry.set_routes(update.table);
        }
        self.hops.take_updates()
    }

    /// Control with the plan's services in force.
    pub fn new(plan: &Plan, registry: Registry, mut hops: next_hops::NextHops) -> Self {
        let hops_at_least = hops.rows().len();
        let mut control = Control {
            registry,
            hops,
            neighbours: HashSet::new(),
            retired: None,
            hops_at_least,
            removed: Vec::new(),
            changes: 0,
            hops_freed: 0,
        };
        let wanted = desired(plan, plan.services.clone(), Removal::Now);
        control.change(|registry, hops| registry.apply(&wanted, hops)).unwrap();
        control
    }

    /// Frees slots of services, servers and next hops that nothing holds, as far as that goes now.
    /// Next hops take several steps: no snapshot may name them, then all flows must have been seen.
    pub fn reclaim(&mut self, team: &mut Team, now: Nanos) -> Vec<HopUpdate> {
        self.registry.reclaim(&Held(team), team.oldest_revision(), now);
        let updates = self.follow_servers();
        let revision = self.registry.snapshot().revision;
        let is_swept = team.members.iter().all(|member| !member.state.is_sweeping());
        match self.retired.take() {
            None => {
                let retired = self.hops.retired();
                self.retired = (!retired.is_empty()).then_some((retired, revision, false));
            }
            Some((retired, since, false)) if team.oldest_revision() >= since => {
                team.start_sweep(SweepAction::ForgetRoutes);
                self.retired = Some((retired, since, true));
            }
            Some((retired, _, true)) if is_swept => {
                let freed = retired.into_iter().filter(|hop| self.hops.reclaim(*hop)).count();
                self.hops_freed += freed as u64;
            }
            waits => self.retired = waits,
        }
        updates
    }

    /// Makes one random change; what it was, and the hops that go before the new snapshot.
    pub fn random(&mut self, plan: &Plan, random: &mut Random) -> (String, Vec<HopUpdate>) {
        let specs: Vec<ServiceSpec> =
            self.registry.services().map(|(_, spec)| spec.clone()).collect();
        if random.one_in(8) || specs.is_empty() {
            return self.services_come_and_go(&specs, random);
        }
        let spec = &specs[random.below(specs.len() as u64) as usize];
        let key = spec.key;
        let n = 11 + random.below(8) as u8;
        let modes: Vec<ForwardMode> = spec.servers.iter().map(|server| server.mode).collect();
        let mode = if modes.is_empty() { spec.forwarding } else { random.pick(&modes) };
        let mut server = server_of(spec, n, mode, random);
        server.weight = random.pick(&[0, 1, 2, 5]);
        let endpoint = server.endpoint();
        let what = random.below(6);
        if let (2, false) = (what, spec.servers.is_empty()) {
            // A weight that matters: of a server that has flows, perhaps.
            let known = &spec.servers[random.below(spec.servers.len() as u64) as usize];
            server = ServerSpec { weight: server.weight, ..known.clone() };
        }
        let outcome = match what {
            0 | 1 => self.change(|registry, hops| registry.add_server(&key, &server, hops)),
            2 => self.change(|registry, _| registry.edit_server(&key, &server)),
            3 => self.leave(&key, endpoint, Removal::Now),
            4 => self.leave(&key, endpoint, Removal::Drain { deadline: None }),
            _ => return self.reload(plan, specs, random),
        };
        let said = if outcome.is_ok() { "done" } else { "refused" };
        let said = format!("change {what} of {key} {server:?} {said}");
        (said, outcome.unwrap_or_default())
    }

    fn leave(
        &mut self,
        key: &ServiceKey,
        endpoint: SocketAddr,
        removal: Removal,
    ) -> Result<Vec<HopUpdate>, Refusal> {
        self.change(|registry, _| registry.remove_server(key, endpoint, removal))
    }

    fn services_come_and_go(
        &mut self,
        specs: &[ServiceSpec],
        random: &mut Random,
    ) -> (String, Vec<HopUpdate>) {
        if let Some(mut spec) = self.removed.pop() {
            // It may come back with other modes while flows of the old ones live.
            let tells = spec.client_address != ClientAddress::None;
            use ForwardMode::{Local, Tunnel};
            let is_fixed = |server: &ServerSpec| matches!(server.mode, Local | Tunnel);
            let is_bound = crosses(&spec) || spec.servers.iter().any(is_fixed);
            if random.one_in(2) && !tells && !spec.synproxy && !spec.one_packet && !is_bound {
                let mode = random.pick(&[ForwardMode::FullNat, ForwardMode::Nat]);
                spec.forwarding = mode;
                spec.servers.iter_mut().for_each(|server| server.mode = mode);
            }
            // Refused where other workers would own the flows that are left.
            let updates = self.change(|registry, hops| registry.add_service(&spec, hops));
            let said = format!("{} comes back: {}", spec.key, updates.is_ok());
            if updates.is_err() {
                self.removed.push(spec);
            }
            return (said, updates.unwrap_or_default());
        }
        let spec = specs[random.below(specs.len() as u64) as usize].clone();
        let updates =
            self.change(|registry, _| registry.remove_service(&spec.key, Removal::Now)).unwrap();
        let said = format!("{} is gone", spec.key);
        self.removed.push(spec);
        (said, updates)
    }

    /// All as it is, listed in another order; a switch may be another.
    fn reload(
        &mut self,
        plan: &Plan,
        mut specs: Vec<ServiceSpec>,
        random: &mut Random,
    ) -> (String, Vec<HopUpdate>) {
        random.shuffle(&mut specs);
        specs.iter_mut().for_each(|spec| random.shuffle(&mut spec.servers));
        let mut wanted = desired(plan, specs, Removal::Drain { deadline: None });
        wanted.semantics.expire_quiescent_template = random.one_in(2);
        let updates = self.change(|registry, hops| registry.apply(&wanted, hops));
        ("everything is reloaded".into(), updates.unwrap())
    }

    /// Takes everything away; afterwards no slot is held.
    pub fn clear(&mut self, team: &mut Team, now: Nanos) {
        let keys: Vec<ServiceKey> = self.registry.services().map(|(_, spec)| spec.key).collect();
        for key in keys {
            self.change(|registry, _| registry.remove_service(&key, Removal::Now)).unwrap();
        }
        self.reclaim_all(team, now);
        assert_eq!(self.registry.waiting(), (0, 0, 0), "draining, services, servers");
        let rows = self.hops.rows();
        assert_eq!(rows.len(), self.hops_at_least, "next hops are left: {rows:#?}");
    }

    /// Gives back every slot that nothing holds, all workers following.
    pub fn reclaim_all(&mut self, team: &mut Team, now: Nanos) {
        for _ in 0..12 {
            let updates = self.reclaim(team, now);
            team.publish(&updates, self.registry.snapshot());
            team.catch_up();
            team.sweep(now);
        }
    }
}

/// The plan's pool and these services.
fn desired(plan: &Plan, services: Vec<ServiceSpec>, removal: Removal) -> Desired {
    let pool = PoolSpec {
        name: "pool".into(),
        addresses: crate::plan::LIPS.map(|lip| lip.parse().unwrap()).to_vec(),
        ports: plan.ports,
    };
    let semantics =
        Semantics { expire_quiescent_template: plan.expires_quiescent, ..Semantics::default() };
    Desired { pools: vec![pool], services, semantics, removal }
}
