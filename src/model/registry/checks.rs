//! What the registry refuses: slots that run out, and what cannot change under live flows.
//!
//! Changes nothing; what a configuration gets wrong by itself is `spec`'s to find.

use std::net::{IpAddr, SocketAddr};

use hashbrown::HashSet;

use super::Registry;
use super::draft::{Draft, endpoint_of};
use super::pairs::Beside;
use super::server_ids::ServerKey;
use crate::limits::CHECKS_MAX;
use crate::model::health_meaning::TOO_MANY_CHECKS;
use crate::model::service::ForwardMode;
use crate::model::service_key::ServiceKey;
use crate::model::snapshot::{KernelMode, NicModel};
use crate::model::spec::{
    Desired, Place, ProblemKind, Removal, SchedulerSpec, ServerSpec, ServiceSpec, SpecProblem,
};
use crate::model::validate::{IS_LOCAL, ONE_MARK, ONE_MATCH, validate_beside};

impl Registry {
    /// What cannot change while flows live.
    pub(super) fn check_live(&self, desired: &Desired, problems: &mut Vec<SpecProblem>) {
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
            if spec.vips().any(|vip| self.lips.is_retired(vip)) {
                let what = "the address was a local address, and flows still use it".into();
                let place = Place::Service(at, "address");
                push(place, spec.key.to_string(), what, "wait until they have ended");
            }
            if self.steering.workers() > 1 && self.moves_flows(spec) {
                let (cause, field, add) = match spec.helper {
                    Some(_) => ("a helper", "helper", "with the helper"),
                    None => {
                        let add = "with forwarding = \"nat\", and \"dr\" and the like at the \
                                   servers that use it";
                        ("a NAT server", "forwarding", add)
                    }
                };
                let what = format!("with {cause} other workers would own the service's flows");
                let remedy = format!(
                    "remove the service and wait until its flows have ended, or delete them; then \
                     add it {add}"
                );
                push(Place::Service(at, field), spec.key.to_string(), what, &remedy);
            }
            let draining = self.services.get(&spec.key).map_or(0, |e| e.service.servers.len());
            let own = spec.all_servers().count();
            let listed = own + draining;
            if let SchedulerSpec::Maglev { slots } = spec.scheduler
                && slots > own
                && slots <= listed
            {
                let what = format!("{slots} slots do not suffice while servers drain");
                let place = Place::Service(at, "maglev_slots");
                push(place, spec.key.to_string(), what, "use a larger prime, such as 65537");
            }
        }
    }

    /// Whether all new identities find a slot.
    pub(super) fn check_room(&self, desired: &Desired, problems: &mut Vec<SpecProblem>) {
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
        spec.all_servers().filter(|server| !has_slot(server.endpoint())).count()
    }

    /// What another service has that only one can have.
    fn check_others(&self, spec: &ServiceSpec, problems: &mut Vec<SpecProblem>) {
        let mut push = |field, what, remedy: &str| {
            let (kind, place) = (ProblemKind::Invalid, Place::Service(0, field));
            let (subject, remedy) = (spec.key.to_string(), remedy.to_owned());
            problems.push(SpecProblem { kind, place, subject, what, remedy });
        };
        let is_new = |vip: &IpAddr| !self.snapshot.vips.contains(vip);
        // Its own servers are among the rest by now.
        let is_own = |vip: &IpAddr| spec.all_servers().any(|server| server.address == *vip);
        for vip in spec.vips().filter(|vip| is_new(vip) && !is_own(vip)) {
            if self.rips().any(|rip| rip == vip) {
                let what = format!("{vip} is a server's address: its packets would come back");
                push("address", what, "give an address that no server has");
            }
        }
        // Most services have none of these: no need to go through all for each change of one.
        if spec.name.is_none() && spec.mark.is_none() && spec.matches.is_empty() {
            return;
        }
        for other in self.services.values().map(|entry| &*entry.spec) {
            if other.key == spec.key {
                continue;
            }
            if let Some(name) = spec.name.as_ref().filter(|_| other.name == spec.name) {
                let what = format!("{} is also named `{name}`", other.key);
                push("name", what, "names are optional but unique");
            }
            // What leaves takes nothing new.
            if self.leaving.contains(&other.key) {
                continue;
            }
            if let Some(one) = spec.matches.iter().find(|one| other.matches.contains(one)) {
                push("match", format!("{} has the match {one} too", other.key), ONE_MATCH);
            }
            if let Some(mark) = spec.shared_mark(other) {
                push("mark", format!("{} has mark {mark} too", other.key), ONE_MARK);
            }
        }
    }

    /// Whether a service that is to be added is there already.
    pub(super) fn exists(&self, spec: &ServiceSpec) -> Option<SpecProblem> {
        let is_there = self.services.contains_key(&spec.key) && !self.leaving.contains(&spec.key);
        let what = "the service exists already".into();
        is_there.then(|| refusal(ProblemKind::Exists, &spec.key, what, "edit it instead"))
    }

    /// Everything that keeps a new service from being added; changes nothing.
    pub fn check_new_service(&self, spec: &ServiceSpec) -> Vec<SpecProblem> {
        self.exists(spec).into_iter().chain(self.check_service(spec)).collect()
    }

    /// Everything that keeps a service from being what `spec` says, its servers included; changes
    /// nothing.
    pub fn check_service(&self, spec: &ServiceSpec) -> Vec<SpecProblem> {
        self.check_one(spec).err().unwrap_or_default()
    }

    /// Checks one service beside the others, without going through all of them.
    pub(super) fn check_one(&self, spec: &ServiceSpec) -> Result<(), Vec<SpecProblem>> {
        let desired = Desired {
            pools: self.lips.pools().to_vec(),
            services: vec![spec.clone()],
            semantics: self.snapshot.semantics,
            removal: Removal::Now,
        };
        let mut problems = validate_beside(&desired, self.steering.workers(), &self.snapshot.vips);
        self.check_others(spec, &mut problems);
        self.check_live(&desired, &mut problems);
        self.check_steering(&desired, Beside::Others, &mut problems);
        problems.extend(check_addresses(&desired, &self.snapshot.nics));
        self.check_room(&desired, &mut problems);
        self.check_pairs(&desired, Beside::Others, &mut problems);
        problems.extend(self.check_health(spec));
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// Whether the checks of `spec` find room beside the others'.
    fn check_health(&self, spec: &ServiceSpec) -> Option<SpecProblem> {
        let own = spec.check_count();
        if own == 0 {
            return None;
        }
        let others = self.services.iter().filter(|(key, _)| **key != spec.key);
        let others: usize = others.map(|(_, entry)| entry.spec.check_count()).sum();
        (own + others > CHECKS_MAX).then(|| {
            let what = format!("{} health checks, room for {CHECKS_MAX}", own + others);
            refusal(ProblemKind::Full, &spec.key, what, TOO_MANY_CHECKS)
        })
    }

    pub(super) fn find(
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

/// What servers ask of the ports' addresses: to be the director's own, or that it has one.
pub fn check_addresses(desired: &Desired, nics: &[NicModel]) -> Vec<SpecProblem> {
    let mut problems = Vec::new();
    for (at, spec) in desired.services.iter().enumerate() {
        for (position, server) in spec.all_servers().enumerate() {
            let Some((field, what, remedy)) = check_address(server, nics) else { continue };
            problems.push(SpecProblem {
                kind: ProblemKind::Invalid,
                place: match position < spec.servers.len() {
                    true => Place::Server(at, position, field),
                    false => Place::Sorry(at, field),
                },
                subject: format!("{}, server {}", spec.key, server.endpoint()),
                what,
                remedy: remedy.to_owned(),
            });
        }
    }
    problems
}

fn check_address(
    server: &ServerSpec,
    nics: &[NicModel],
) -> Option<(&'static str, String, &'static str)> {
    let address = server.address;
    let is_own = nics.iter().any(|nic| nic.addresses.contains(&address));
    let shared = nics.iter().find(|nic| nic.kernel == KernelMode::Shared);
    match (server.mode, shared) {
        (ForwardMode::Local, Some(nic)) => {
            let what = format!(
                "on port {} the kernel is kept from the services' packets, so it cannot be their \
                 server",
                nic.name
            );
            Some((
                "forwarding",
                what,
                "use kernel = \"tap\" for the port, or another machine as server",
            ))
        }
        (ForwardMode::Local, None) if !address.is_loopback() && !is_own => {
            let what = format!("{address} is no address of the director");
            Some(("address", what, "give 127.0.0.1 or ::1, or another forwarding"))
        }
        (ForwardMode::Local, None) => None,
        _ if is_own => Some(("address", format!("{address} is the director itself"), IS_LOCAL)),
        (ForwardMode::Tunnel, _)
            if !nics.is_empty()
                && !nics.iter().any(|nic| nic.own_address(address.is_ipv4()).is_some()) =>
        {
            let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
            let what = format!("no port has an {family} address to send tunnels from");
            Some(("address", what, "list the director's own under the port's `addresses`"))
        }
        _ => None,
    }
}

pub(super) fn refusal(
    kind: ProblemKind,
    key: &ServiceKey,
    what: String,
    remedy: &str,
) -> SpecProblem {
    let (subject, remedy) = (key.to_string(), remedy.to_owned());
    SpecProblem { kind, place: Place::Whole, subject, what, remedy }
}

pub(super) fn no_service(key: &ServiceKey) -> SpecProblem {
    refusal(
        ProblemKind::NotFound,
        key,
        "there is no such service".into(),
        "`gyre services` lists them",
    )
}
