//! What must hold of all workers' tables together at any moment, and at the end.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use gyre::dataplane::Direction;
use gyre::message::FlowRow;
use gyre::model::*;
use gyre::time::Nanos;

use crate::team::{Member, Team};

/// What each slot stands for.
#[derive(Default)]
pub struct Meanings {
    servers: HashMap<ServerId, (ServiceKey, SocketAddr)>,
    services: HashMap<ServiceId, (ServiceKey, KeyKind)>,
    lips: HashMap<LipId, std::net::IpAddr>,
}

impl Meanings {
    /// The service of a slot.
    pub fn service(&self, id: ServiceId) -> ServiceKey {
        self.services[&id].0
    }

    /// Takes note of a new snapshot: no slot may change its meaning while a flow or a template
    /// holds it, by the workers' tables and by their counts.
    pub fn follow(&mut self, snapshot: &Snapshot, team: &Team, now: Nanos) {
        for service in snapshot.services.iter().flatten() {
            // With one worker it does not matter what steers.
            let one = team.members.len() == 1;
            let kind = if one { KeyKind::ClientTuple } else { service.key_kind };
            let meaning = (service.key, kind);
            let old = self.services.insert(service.id, meaning);
            if old.is_some_and(|old| old != meaning) {
                let at = service.id.index();
                let counted = team.count(|c| c.services[at].flows.get() + c.templates[1][at].get());
                let held = holders(team, now, |row| row.service_id == service.id) as u64 + counted;
                assert_eq!(held, 0, "{:?} was {old:?}, is {meaning:?}", service.id);
            }
            for server in &service.servers {
                let meaning = (service.key, SocketAddr::new(server.address, server.port));
                let old = self.servers.insert(server.id, meaning);
                if old.is_some_and(|old| old != meaning) {
                    let at = server.id.index();
                    let counted =
                        team.count(|c| c.servers[at].flows.get() + c.templates[0][at].get());
                    let held = holders(team, now, |row| row.server_id == server.id) as u64;
                    assert_eq!(held + counted, 0, "{:?} was {old:?}, is {meaning:?}", server.id);
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

/// Flows and templates of all workers that `is_one` is true of.
fn holders(team: &Team, now: Nanos, is_one: impl Fn(&FlowRow) -> bool) -> usize {
    let all = team.members.iter().flat_map(|member| member.rows(now).chain(member.templates(now)));
    all.filter(is_one).count()
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
        next_hops(member);
    }
}

/// Each flow's next hop leads to its server, that of one that only holds a source port as well.
fn next_hops(member: &Member) {
    let flows = &member.state.flows;
    let ids = std::iter::successors(flows.next_live(0), |id| flows.next_live(id.0 + 1));
    for id in ids {
        let (core, addresses) = (flows.core(id).unwrap(), flows.addresses(id).unwrap());
        if core.mode() != ForwardMode::Local {
            let slot = core.hop(Direction::Inbound);
            let hop = member.state.next_hop(slot).unwrap();
            assert!(hop.resolved, "{slot:?} of a flow to {}: {hop:?}", addresses.server);
            assert_eq!(hop.neighbour, addresses.server, "{slot:?} is another's now");
        }
    }
}

/// Everything is given back.
pub fn end(team: &Team) {
    for (worker, member) in team.members.iter().enumerate() {
        let counters = &member.state.counters;
        assert!(member.state.flows.is_empty(), "worker {worker} has flows left");
        assert_eq!(counters.flows.get(), 0);
        assert!(member.state.next_template(0).is_none(), "worker {worker} has templates left");
        assert_eq!(counters.notes_lost.get(), 0);
        for held in counters.templates.iter().flatten() {
            assert_eq!(held.get(), 0, "a slot is held by a template at worker {worker}");
        }
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
