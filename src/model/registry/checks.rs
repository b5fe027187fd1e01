//! What the registry refuses: slots that run out, and what cannot change under live flows.
//!
//! Changes nothing; what a configuration gets wrong by itself is `spec`'s to find.

use std::net::{IpAddr, SocketAddr};

use hashbrown::HashSet;

use super::draft::{Draft, endpoint_of};
use super::pairs::Beside;
use super::server_ids::ServerKey;
use super::{Entry, Registry};
use crate::model::service::ForwardMode;
use crate::model::service_key::ServiceKey;
use crate::model::snapshot::KernelMode;
use crate::model::spec::{
    Desired, IS_LOCAL, Place, ProblemKind, Removal, SchedulerSpec, ServiceSpec, SpecProblem,
    validate_beside,
};

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

    /// What servers ask of the ports' addresses: to be the director's own, or that it has one.
    pub(super) fn check_addresses(&self, desired: &Desired, problems: &mut Vec<SpecProblem>) {
        let nics = &self.snapshot.nics;
        let is_own = |address: &IpAddr| nics.iter().any(|nic| nic.addresses.contains(address));
        let shared = nics.iter().find(|nic| nic.kernel == KernelMode::Shared);
        for (at, spec) in desired.services.iter().enumerate() {
            for (position, server) in spec.servers.iter().enumerate() {
                let local = server.mode == ForwardMode::Local;
                let address = server.address;
                let (what, remedy) = if local && let Some(nic) = shared {
                    let what = format!(
                        "on port {} the kernel is kept from the services' packets, so it cannot \
                         be their server",
                        nic.name
                    );
                    (what, "use kernel = \"tap\" for the port, or another machine as server")
                } else if local && !address.is_loopback() && !is_own(&address) {
                    let what = format!("{address} is no address of the director");
                    (what, "give 127.0.0.1 or ::1, or another forwarding")
                } else if !local && is_own(&address) {
                    (format!("{address} is the director itself"), IS_LOCAL)
                } else if server.mode == ForwardMode::Tunnel
                    && !nics.is_empty()
                    && !nics.iter().any(|nic| nic.own_address(address.is_ipv4()).is_some())
                {
                    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
                    let what = format!("no port has an {family} address to send tunnels from");
                    (what, "list the director's own under the port's `addresses`")
                } else {
                    continue;
                };
                problems.push(SpecProblem {
                    kind: ProblemKind::Invalid,
                    place: Place::Server(at, position, "address"),
                    subject: format!("{}, server {}", spec.key, server.endpoint()),
                    what,
                    remedy: remedy.to_owned(),
                });
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
        spec.servers.iter().filter(|server| !has_slot(server.endpoint())).count()
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
        let named = |entry: &&Entry| entry.spec.key != spec.key && entry.spec.name == spec.name;
        if let Some(name) = &spec.name
            && let Some(other) = self.services.values().find(named)
        {
            let what = format!("{} is also named `{name}`", other.spec.key);
            let remedy = "names are optional but unique";
            problems.push(refusal(ProblemKind::Invalid, &spec.key, what, remedy));
        }
        self.check_live(&desired, &mut problems);
        self.check_addresses(&desired, &mut problems);
        self.check_room(&desired, &mut problems);
        self.check_pairs(&desired, Beside::Others, &mut problems);
        if problems.is_empty() { Ok(()) } else { Err(problems) }
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
