//! Changes of the configuration in the middle of everything, through the registry as control
//! makes them.

use std::net::{IpAddr, SocketAddr};

use gyre::model::*;
use gyre::time::Nanos;

use crate::plan::{Plan, Random, server_of};
use crate::team::{HopUpdate, Team};

/// The workers' counters as the registry asks for them.
struct Held<'t>(&'t Team);

impl Usage for Held<'_> {
    fn flows_of_server(&self, id: ServerId) -> u64 {
        self.0.count(|counters| counters.servers[id.index()].flows.get())
    }
    fn flows_of_service(&self, id: ServiceId) -> u64 {
        self.0.count(|counters| counters.services[id.index()].flows.get())
    }
    fn ports_of_lip(&self, id: LipId) -> u64 {
        self.0.count(|counters| counters.lips[id.index()].used.get())
    }
}

/// Control's part.
pub struct Control {
    pub registry: Registry,
    pub hops: next_hops::NextHops,
    /// Services that a change may remove and bring back.
    removed: Vec<ServiceSpec>,
    pub changes: u64,
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
        Ok(self.hops.take_updates())
    }

    /// Control with the plan's services in force.
    pub fn new(plan: &Plan, registry: Registry, hops: next_hops::NextHops) -> Self {
        let mut control = Control { registry, hops, removed: Vec::new(), changes: 0 };
        let wanted = desired(plan, plan.services.clone(), Removal::Now);
        control.change(|registry, hops| registry.apply(&wanted, hops)).unwrap();
        if let Some(update) = control.hops.take_routes() {
            control.registry.set_routes(update.table);
        }
        control
    }

    /// Makes one random change; what it was, and the hops that go before the new snapshot.
    pub fn random(
        &mut self,
        plan: &Plan,
        team: &Team,
        random: &mut Random,
        now: Nanos,
    ) -> (String, Vec<HopUpdate>) {
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
        let outcome = match what {
            0 | 1 => self.change(|registry, hops| registry.add_server(&key, &server, hops)),
            2 => self.change(|registry, _| registry.edit_server(&key, &server)),
            3 => self.leave(&key, endpoint, Removal::Now),
            4 => self.leave(&key, endpoint, Removal::Drain { deadline: None }),
            _ => return self.reload(plan, team, (specs, random), now),
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
            let tunnels = spec.servers.iter().any(|server| server.mode == ForwardMode::Tunnel);
            if random.one_in(2) && !tells && !spec.synproxy && !tunnels {
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

    /// All as it is, listed in another order; or slots are given back.
    fn reload(
        &mut self,
        plan: &Plan,
        team: &Team,
        (mut specs, random): (Vec<ServiceSpec>, &mut Random),
        now: Nanos,
    ) -> (String, Vec<HopUpdate>) {
        if random.one_in(2) {
            self.registry.reclaim(&Held(team), team.oldest_revision(), now);
            return ("slots are reclaimed".into(), self.hops.take_updates());
        }
        random.shuffle(&mut specs);
        specs.iter_mut().for_each(|spec| random.shuffle(&mut spec.servers));
        let wanted = desired(plan, specs, Removal::Drain { deadline: None });
        let updates = self.change(|registry, hops| registry.apply(&wanted, hops));
        ("everything is reloaded".into(), updates.unwrap())
    }

    /// Takes everything away; afterwards no slot is held.
    pub fn clear(&mut self, team: &mut Team, now: Nanos) {
        let keys: Vec<ServiceKey> = self.registry.services().map(|(_, spec)| spec.key).collect();
        for key in keys {
            self.change(|registry, _| registry.remove_service(&key, Removal::Now)).unwrap();
        }
        team.publish(&[], self.registry.snapshot());
        team.catch_up();
        self.registry.reclaim(&Held(team), team.oldest_revision(), now);
        assert_eq!(self.registry.waiting(), (0, 0, 0), "draining, services, servers");
    }
}

/// The plan's pool and these services.
fn desired(plan: &Plan, services: Vec<ServiceSpec>, removal: Removal) -> Desired {
    let pool = PoolSpec {
        name: "pool".into(),
        addresses: crate::plan::LIPS.map(|lip| lip.parse().unwrap()).to_vec(),
        ports: plan.ports,
    };
    Desired { pools: vec![pool], services, semantics: Semantics::default(), removal }
}
