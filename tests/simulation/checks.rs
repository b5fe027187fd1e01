//! What must hold of all workers' tables together at any moment, and at the end.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use gyre::model::*;
use gyre::time::Nanos;

use crate::team::Team;

/// What each slot stands for.
#[derive(Default)]
pub struct Meanings {
    servers: HashMap<ServerId, (ServiceKey, SocketAddr)>,
    services: HashMap<ServiceId, (ServiceKey, KeyKind)>,
    lips: HashMap<LipId, std::net::IpAddr>,
}

impl Meanings {
    /// Takes note of a new snapshot: no slot may change its meaning while a flow holds it.
    pub fn follow(&mut self, snapshot: &Snapshot, team: &Team) {
        for service in snapshot.services.iter().flatten() {
            // With one worker it does not matter what steers.
            let one = team.members.len() == 1;
            let kind = if one { KeyKind::ClientTuple } else { service.key_kind };
            let meaning = (service.key, kind);
            let old = self.services.insert(service.id, meaning);
            if old.is_some_and(|old| old != meaning) {
                let held = team.count(|c| c.services[service.id.index()].flows.get());
                assert_eq!(held, 0, "{:?} was {old:?}, is {meaning:?}", service.id);
            }
            for server in &service.servers {
                let meaning = (service.key, SocketAddr::new(server.address, server.port));
                let old = self.servers.insert(server.id, meaning);
                if old.is_some_and(|old| old != meaning) {
                    let held = team.count(|c| c.servers[server.id.index()].flows.get());
                    assert_eq!(held, 0, "{:?} was {old:?}, is {meaning:?}", server.id);
                }
            }
        }
        for local in snapshot.lips.values() {
            let old = self.lips.insert(local.id, local.address);
            if old.is_some_and(|old| old != local.address) {
                let held = team.count(|c| c.lips[local.id.index()].used.get());
                assert_eq!(held, 0, "{:?} was {old:?}, is {}", local.id, local.address);
            }
        }
    }
}

/// One owner for each flow, one flow for each source port of a server.
pub fn tables(team: &Team, meanings: &Meanings, steering: &Steering, now: Nanos) {
    let mut clients = HashSet::new();
    let mut faces = HashSet::new();
    for (worker, member) in team.members.iter().enumerate() {
        for row in member.rows(now) {
            let tuple = (row.protocol, row.client, row.virtual_address);
            assert!(clients.insert(tuple), "two workers have {row:?}");
            if let Some(local) = row.local {
                let face = (row.protocol, local, row.server);
                assert!(faces.insert(face), "two flows have the source port of {row:?}");
            }
            let (_, kind) = meanings.services[&row.service_id];
            let owner = steering.owner(kind, row.client, row.virtual_address);
            assert_eq!(owner.index(), worker, "{row:?} is not its owner's");
        }
    }
}

/// Everything is given back.
pub fn end(team: &Team) {
    for (worker, member) in team.members.iter().enumerate() {
        let counters = &member.state.counters;
        assert!(member.state.flows.is_empty(), "worker {worker} has flows left");
        assert_eq!(counters.flows.get(), 0);
        for (id, server) in counters.servers.iter().enumerate() {
            let left = (server.flows.get(), server.active.get());
            assert_eq!(left, (0, 0), "server {id} at worker {worker}: flows, active");
        }
        for (id, service) in counters.services.iter().enumerate() {
            assert_eq!(service.flows.get(), 0, "service {id} at worker {worker}");
        }
        for (id, lip) in counters.lips.iter().enumerate() {
            assert_eq!(lip.used.get(), 0, "local address {id} at worker {worker}");
        }
    }
}
