//! Pairs of FULLNAT local address and server (address, port, protocol): what workers hold source
//! ports for.
//!
//! A worker has room for a fixed number of them. Here it is counted how many a configuration
//! comes to, so that one that cannot work is refused; pairs whose flows outlive a change are not
//! foreseen, and a flow that finds no room is a counted drop.

use std::net::SocketAddr;

use hashbrown::HashSet;

use super::{Entry, Registry};
use crate::model::family::Family;
use crate::model::service::{ForwardMode, Protocol};
use crate::model::service_key::FTP_PORT;
use crate::model::spec::{Desired, Place, PoolSpec, ProblemKind, ServiceSpec, SpecProblem};

/// What shares its ports with nobody else: a pool and a server.
type Towards<'a> = (&'a str, SocketAddr, Protocol);

/// Pairs that `services` come to with `pools`.
pub fn address_pairs<'s>(
    pools: &[PoolSpec],
    services: impl Iterator<Item = &'s ServiceSpec>,
) -> usize {
    let mut seen: HashSet<Towards> = HashSet::new();
    let mut pairs = 0;
    for service in services {
        let Some(name) = service.pool.as_deref() else { continue };
        let Some(pool) = pools.iter().find(|pool| pool.name == name) else { continue };
        let translated = service.all_servers().filter(|s| s.mode == ForwardMode::FullNat);
        for server in translated {
            let family = Family::of(server.address);
            let lips = pool.addresses.iter().filter(|lip| Family::of(**lip) == family).count();
            for protocol in protocols(service) {
                let is_new = seen.insert((name, server.endpoint(), *protocol));
                pairs += if is_new { lips } else { 0 };
            }
            // All the ports that data connections go to are one more.
            let data = SocketAddr::new(server.address, 0);
            let follows_data =
                service.persistence.is_some() && service.key.port() == Some(FTP_PORT);
            if (service.helper.is_some() || follows_data)
                && seen.insert((name, data, Protocol::Tcp))
            {
                pairs += lips;
            }
        }
    }
    pairs
}

/// A group may have both.
fn protocols(service: &ServiceSpec) -> &'static [Protocol] {
    match service.key.protocol() {
        Some(Protocol::Tcp) => &[Protocol::Tcp],
        Some(Protocol::Udp) => &[Protocol::Udp],
        None => &[Protocol::Tcp, Protocol::Udp],
    }
}

impl Registry {
    /// Whether every worker has room for the pairs of `desired`, which takes the place of all
    /// services or, with `beside`, joins them.
    pub(super) fn check_pairs(
        &self,
        desired: &Desired,
        beside: Beside,
        problems: &mut Vec<SpecProblem>,
    ) {
        let pool_max = desired.pools.iter().map(|pool| pool.addresses.len()).max().unwrap_or(0);
        let fresh: usize = desired.services.iter().map(|spec| spec.all_servers().count()).sum();
        // Most configurations are far below, were there a helper everywhere: no need to count for
        // each change of one.
        if 2 * pool_max * (self.servers.taken() + fresh) <= self.address_pairs_max {
            return;
        }
        let is_kept = |entry: &&Entry| {
            beside == Beside::Others && desired.services.iter().all(|s| s.key != entry.spec.key)
        };
        let kept = self.services.values().filter(is_kept).map(|entry| &*entry.spec);
        let pairs = address_pairs(&desired.pools, kept.chain(&desired.services));
        if pairs > self.address_pairs_max {
            problems.push(too_many(pairs, self.address_pairs_max));
        }
    }
}

/// What a change is checked beside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beside {
    /// It is everything.
    Nothing,
    /// The other services stay.
    Others,
}

fn too_many(pairs: usize, pairs_max: usize) -> SpecProblem {
    SpecProblem {
        kind: ProblemKind::Full,
        place: Place::Whole,
        subject: String::new(),
        what: format!(
            "{pairs} pairs of local address and server, room for {pairs_max} in each worker"
        ),
        remedy: "raise runtime.address_pairs and restart, or use smaller pools".into(),
    }
}
