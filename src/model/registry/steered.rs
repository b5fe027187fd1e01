//! Which workers own a service's flows, and what would have others own them.
//!
//! A packet's owner follows from its service's key kind. So two services that may take the same
//! packets must have one kind, or the narrower one's coming and going would move live flows; and
//! so must two that share a NAT server, whose replies do not say which one they are of. With one
//! worker none of this matters.

use std::net::SocketAddr;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use super::pairs::Beside;
use super::{Registry, RegistryConfig};
use crate::model::prefix::Prefix;
use crate::model::service::{ForwardMode, Protocol};
use crate::model::service_key::{ServiceKey, TrafficMatch};
use crate::model::spec::{Desired, Place, ProblemKind, ServiceSpec, SpecProblem};
use crate::model::steering::{KeyKind, Steering};

/// What steers a service's flows, and where they may have come in.
#[derive(Clone, Debug)]
pub(super) struct Steered {
    pub(super) kind: KeyKind,
    /// Whether it has a helper, or had one: its servers may have data connections.
    pub(super) is_helped: bool,
    /// All that it takes, or took since it came.
    taken: Vec<TrafficMatch>,
}

/// A match of a service that is checked (`at` says which one is asked for) or stands beside.
struct Taken {
    one: TrafficMatch,
    key: ServiceKey,
    kind: KeyKind,
    at: Option<usize>,
}

/// A NAT server of such a service.
struct Replies {
    key: ServiceKey,
    endpoint: SocketAddr,
    kind: KeyKind,
    /// Service and server, where it is asked for.
    at: Option<(usize, Option<usize>)>,
}

fn in_words(kind: KeyKind) -> &'static str {
    match kind {
        KeyKind::ClientTuple => "client and service (no server by NAT)",
        KeyKind::ClientAddressPort => "client address and port (servers by NAT)",
        KeyKind::ClientAddress => "client address (FTP)",
    }
}

/// What to do about two services that differ in this.
fn remedy(kinds: [KeyKind; 2]) -> &'static str {
    if kinds.contains(&KeyKind::ClientAddress) {
        "give the FTP service an address of its own and servers that no other service has; where \
         the other one is gone, wait until its flows have ended"
    } else {
        "set forwarding = \"nat\" for both, and the modes in use at their servers; one that has \
         flows already has to be removed first, until they have ended"
    }
}

/// What of `desired` keeps `workers` from sharing its flows, where nothing was before.
pub fn check_steering(desired: &Desired, workers: u8) -> Vec<SpecProblem> {
    let registry = Registry::new(RegistryConfig::new(Arc::new(Steering::for_workers(workers))));
    let mut problems = Vec::new();
    registry.check_steering(desired, Beside::Nothing, &mut problems);
    problems
}

impl Registry {
    /// What `services` with a helper take, and those that live.
    pub(super) fn helped(&self, services: &[&ServiceSpec]) -> Vec<TrafficMatch> {
        let live = self.steered.values().filter(|steered| steered.is_helped);
        let live = live.flat_map(|steered| steered.taken.iter().copied());
        let new = services.iter().filter(|spec| spec.helper.is_some());
        live.chain(new.flat_map(|spec| spec.traffic())).collect()
    }

    /// What steers a service. Once a server may have used NAT, or the service a helper, it stays so
    /// while the service lives, and if it comes back while flows do: a change would have flows
    /// looked for at workers that do not have them. A service that joins where a helper's data
    /// connections (`helped`) may be is steered like these.
    pub(super) fn steered(&self, spec: &ServiceSpec, helped: &[TrafficMatch]) -> Steered {
        let before = self.steered.get(&spec.key);
        let was = |kind| before.is_some_and(|before| before.kind == kind);
        let is_helped = spec.helper.is_some() || before.is_some_and(|before| before.is_helped);
        let is_beside =
            || spec.traffic().any(|one| helped.iter().any(|other| other.overlaps(&one)));
        let kind = if is_helped || was(KeyKind::ClientAddress) || before.is_none() && is_beside() {
            KeyKind::ClientAddress
        } else if was(KeyKind::ClientAddressPort) || spec.may_use_nat() {
            KeyKind::ClientAddressPort
        } else {
            KeyKind::ClientTuple
        };
        let mut taken = before.map_or_else(Vec::new, |before| before.taken.clone());
        for one in spec.traffic() {
            if !taken.contains(&one) {
                taken.push(one);
            }
        }
        Steered { kind, is_helped, taken }
    }

    /// Whether `spec` would have other workers own the flows that the service has, or those that
    /// servers which left it may have.
    pub(super) fn moves_flows(&self, spec: &ServiceSpec) -> bool {
        let listed = self.services.get(&spec.key).is_some_and(|e| !e.service.servers.is_empty());
        let may_have_flows = listed || self.servers.left_behind(&spec.key);
        let before = self.steered.get(&spec.key).map(|before| before.kind);
        may_have_flows && before.is_some_and(|before| before != self.steered(spec, &[]).kind)
    }

    /// Whether no two services that may take the same packets, or get the same servers' replies,
    /// are steered by different keys.
    pub(super) fn check_steering(
        &self,
        desired: &Desired,
        beside: Beside,
        problems: &mut Vec<SpecProblem>,
    ) {
        if self.steering.workers() == 1 {
            return;
        }
        let helped = self.helped(&desired.services.iter().collect::<Vec<_>>());
        let asked: Vec<Steered> =
            desired.services.iter().map(|spec| self.steered(spec, &helped)).collect();
        let kinds = asked.iter().map(|one| one.kind);
        let mut kinds = kinds.chain(self.steered.values().map(|one| one.kind));
        let Some(first) = kinds.next() else { return };
        if kinds.all(|kind| kind == first) {
            return;
        }
        let mut found = overlaps(&self.taken(desired, &asked, beside));
        found.extend(self.check_replies(desired, &asked));
        found.sort_by_key(|(at, _)| *at);
        problems.extend(found.into_iter().map(|(_, problem)| problem));
    }

    /// The matches of the services asked for, and of those that stand beside.
    fn taken(&self, desired: &Desired, asked: &[Steered], beside: Beside) -> Vec<Taken> {
        let keys: HashSet<&ServiceKey> = desired.services.iter().map(|spec| &spec.key).collect();
        let left = self.servers.services_left();
        // What is not asked for stays or leaves; one without flows leaves nothing behind.
        let stands = |key: &ServiceKey| match self.services.get(key) {
            Some(_) if beside == Beside::Others => true,
            Some(entry) => !entry.service.servers.is_empty() || left.contains(key),
            None => true,
        };
        let others = self.steered.iter().filter(|(key, _)| !keys.contains(key) && stands(key));
        let others = others.map(|(key, steered)| (None, *key, steered));
        let own = desired.services.iter().zip(asked).enumerate();
        let own = own.map(|(at, (spec, steered))| (Some(at), spec.key, steered));
        own.chain(others)
            .flat_map(|(at, key, steered)| {
                let kind = steered.kind;
                steered.taken.iter().map(move |one| Taken { one: *one, key, kind, at })
            })
            .collect()
    }

    fn check_replies(&self, desired: &Desired, asked: &[Steered]) -> Vec<(usize, SpecProblem)> {
        let live = self.servers.nat();
        let live = live.map(|(key, endpoint, kind)| Replies { key, endpoint, kind, at: None });
        let mut by_address: HashMap<_, Vec<Replies>> = HashMap::new();
        for one in live {
            by_address.entry(one.endpoint.ip()).or_default().push(one);
        }
        for (at, (spec, steered)) in desired.services.iter().zip(asked).enumerate() {
            for (nth, server) in spec.all_servers().enumerate() {
                if server.mode == ForwardMode::Nat {
                    let (key, endpoint, kind) = (spec.key, server.endpoint(), steered.kind);
                    let nth = (nth < spec.servers.len()).then_some(nth);
                    let one = Replies { key, endpoint, kind, at: Some((at, nth)) };
                    by_address.entry(server.address).or_default().push(one);
                }
            }
        }
        let mut found = Vec::new();
        for replies in by_address.values() {
            for (position, one) in replies.iter().enumerate() {
                let mut before = replies[..position].iter();
                if let Some(at) = one.at
                    && let Some(other) = before.find(|other| one.is_ambiguous_with(other))
                {
                    found.push((at.0, shared_server(at, one, other)));
                }
            }
        }
        found
    }
}

impl Replies {
    /// Whether a reply may be of both, and they do not agree whose it is then. Port 0 is any.
    fn is_ambiguous_with(&self, other: &Replies) -> bool {
        let ports = [self.endpoint.port(), other.endpoint.port()];
        let protocol = |one: &Replies| one.key.protocol();
        let is_other = |(a, b): (Protocol, Protocol)| a != b;
        self.kind != other.kind
            && self.key != other.key
            && (ports[0] == ports[1] || ports.contains(&0))
            && !protocol(self).zip(protocol(other)).is_some_and(is_other)
    }
}

/// One problem for each service asked for that meets another kind, with its position.
fn overlaps(taken: &[Taken]) -> Vec<(usize, SpecProblem)> {
    let (mut told, mut found) = (HashSet::new(), Vec::new());
    let mut meet = |a: &Taken, b: &Taken| {
        if a.kind == b.kind || a.key == b.key || !a.one.overlaps(&b.one) {
            return;
        }
        // The later one of a file is at fault.
        let (own, other) = if a.at > b.at { (a, b) } else { (b, a) };
        if let Some(at) = own.at
            && told.insert(at)
        {
            found.push((at, overlap(at, own, other)));
        }
    };
    let is_host = |taken: &&Taken| taken.one.vip().is_some();
    let mut hosts: HashMap<(Protocol, Prefix), Vec<&Taken>> = HashMap::new();
    for one in taken.iter().filter(is_host) {
        hosts.entry((one.one.protocol, one.one.prefix)).or_default().push(one);
    }
    for list in hosts.values_mut() {
        list.sort_by_key(|taken| taken.one.ports.first());
        for (at, one) in list.iter().enumerate() {
            let last = one.one.ports.last();
            let near = list[at + 1..].iter().take_while(|other| other.one.ports.first() <= last);
            near.for_each(|other| meet(one, other));
        }
    }
    for wide in taken.iter().filter(|taken| !is_host(taken)) {
        taken.iter().for_each(|other| meet(wide, other));
    }
    found
}

fn shared_server(at: (usize, Option<usize>), own: &Replies, other: &Replies) -> SpecProblem {
    let kinds = [other.kind, own.kind];
    SpecProblem {
        kind: ProblemKind::Invalid,
        place: match at.1 {
            Some(nth) => Place::Server(at.0, nth, "address"),
            None => Place::Sorry(at.0, "address"),
        },
        subject: format!("{}, server {}", own.key, own.endpoint),
        what: format!(
            "it is a NAT server of {} too, whose flows are spread over workers by {}, not by {}: \
             nobody could tell whose a reply is",
            other.key,
            in_words(kinds[0]),
            in_words(kinds[1])
        ),
        remedy: remedy(kinds).into(),
    }
}

fn overlap(at: usize, own: &Taken, other: &Taken) -> SpecProblem {
    let kinds = [other.kind, own.kind];
    SpecProblem {
        kind: ProblemKind::Invalid,
        place: Place::Service(at, "forwarding"),
        subject: own.key.to_string(),
        what: format!(
            "{} has packets to {} too, and its flows are spread over workers by {}, not by {}: \
             they would change workers when one of the two services comes or goes",
            other.key,
            if own.one.ports.single().is_some() { own.one } else { other.one },
            in_words(kinds[0]),
            in_words(kinds[1])
        ),
        remedy: remedy(kinds).into(),
    }
}
