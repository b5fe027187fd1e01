//! What the core tells of: compares what was with what is, and puts it into events.

use std::net::SocketAddr;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use tracing::{info, warn};

use super::Core;
use super::floods::{Flood, Scene};
use crate::control::api::Event;
use crate::control::health::board::Board;
use crate::counters::DropReason;
use crate::limits::EVENT_CHANGES_MAX;
use crate::model::{
    NextHop, NextHopId, RealServer, ServerId, ServerState, Snapshot, VirtualService,
};

fn endpoint(server: &RealServer) -> String {
    SocketAddr::new(server.address, server.port).to_string()
}

/// Whether new flows may go there, as far as the configuration goes; why, or why not.
fn takes_flows(server: &RealServer) -> (bool, String) {
    match (server.state, server.weight) {
        (ServerState::Draining, _) => (false, "draining".into()),
        (ServerState::Active, 0) => (false, "weight 0".into()),
        (ServerState::Active, weight) => (true, format!("weight {weight}")),
    }
}

/// The weight that is asked for.
fn wish(service: &VirtualService, server: SocketAddr) -> Option<u32> {
    let asked = service.spec.servers.iter().find(|asked| asked.endpoint() == server)?;
    Some(asked.weight)
}

/// Whether it is there for a lost quorum only.
fn stands_in(service: Option<&VirtualService>, server: SocketAddr) -> bool {
    let sorry = service.and_then(|service| service.spec.sorry_server.as_ref());
    sorry.is_some_and(|sorry| sorry.endpoint() == server)
}

/// What became of a service's servers.
fn compare(
    old: Option<&VirtualService>,
    new: Option<&VirtualService>,
    board: &Board,
    tell: &mut dyn FnMut(Event),
) {
    let Some(key) = new.or(old).map(|service| service.key) else { return };
    let service = key.to_string();
    // Health knows more than that there is no weight.
    let why = |server: &RealServer, plain: String| {
        let endpoint = SocketAddr::new(server.address, server.port);
        match board.reason(&key, endpoint) {
            Some(reason) => reason,
            None if stands_in(new, endpoint) => "the quorum is reached again".into(),
            None => plain,
        }
    };
    // Where nobody asked for anything else, health gave it back what it has.
    let back = |server: &RealServer, plain: String| {
        let endpoint = SocketAddr::new(server.address, server.port);
        match (old.and_then(|old| wish(old, endpoint)), new.and_then(|new| wish(new, endpoint))) {
            (Some(before), Some(after)) if before == after => {
                board.why_back(&key, endpoint).unwrap_or(plain)
            }
            _ if stands_in(new, endpoint) => "the quorum is lost".into(),
            _ => plain,
        }
    };
    let servers = |service: Option<&VirtualService>| -> HashMap<ServerId, RealServer> {
        let all = service.into_iter().flat_map(|service| service.servers.iter());
        all.map(|server| (server.id, server.clone())).collect()
    };
    let (before, after) = (servers(old), servers(new));
    let listed = |service: Option<&VirtualService>| -> Vec<ServerId> {
        service.into_iter().flat_map(|s| s.servers.iter().map(|server| server.id)).collect()
    };
    for id in listed(old).into_iter().filter(|id| !after.contains_key(id)) {
        let (service, server) = (service.clone(), endpoint(&before[&id]));
        match takes_flows(&before[&id]) {
            (true, _) => {
                let reason = why(&before[&id], "removed".into());
                tell(Event::ServerDown { service, server, reason });
            }
            (false, _) if before[&id].state == ServerState::Draining => {
                tell(Event::DrainDone { service, server });
            }
            _ => {}
        }
    }
    for id in listed(new) {
        let was = before.get(&id).map(takes_flows);
        let (service, server) = (service.clone(), endpoint(&after[&id]));
        match (was, takes_flows(&after[&id])) {
            (None, (true, _)) => {
                let reason = back(&after[&id], "added".into());
                tell(Event::ServerUp { service, server, reason });
            }
            (Some((false, _)), (true, reason)) => {
                let reason = back(&after[&id], reason);
                tell(Event::ServerUp { service, server, reason });
            }
            (Some((true, _)), (false, reason)) => {
                let reason = why(&after[&id], reason);
                tell(Event::ServerDown { service, server, reason });
            }
            _ => {}
        }
    }
}

impl Core {
    /// Tells what `new` makes of servers, before it takes the place of the present snapshot.
    pub(super) fn tell_of_servers(&self, new: &Arc<Snapshot>) {
        if !self.notices.are_heard() {
            return;
        }
        let service =
            |snapshot: &Arc<Snapshot>, at: usize| snapshot.services.get(at).cloned().flatten();
        for id in new.changed_services.iter() {
            let (old, new) = (service(&self.snapshot, id.index()), service(new, id.index()));
            let tell = &mut |event| self.notices.tell(event);
            compare(old.as_deref(), new.as_deref(), &self.health.board, tell);
        }
    }

    /// Tells of a new configuration.
    pub(super) fn tell_of_change(&self, revision: u64, by: &str, changes: &[String]) {
        let changes = changes.iter().take(EVENT_CHANGES_MAX).cloned().collect();
        self.notices.tell(Event::ConfigChanged { revision, by: by.to_owned(), changes });
    }

    /// Tells of servers whose next hop was found or lost.
    pub(super) fn tell_of_hops(&mut self, updates: &[(NextHopId, NextHop)]) {
        let mut flipped: HashMap<NextHopId, bool> = HashMap::new();
        for (id, hop) in updates {
            let known = self.hops_resolved.contains(id);
            if known != hop.resolved {
                flipped.insert(*id, hop.resolved);
            }
            if hop.resolved {
                self.hops_resolved.insert(*id);
            } else {
                self.hops_resolved.remove(id);
            }
        }
        if flipped.is_empty() || !self.notices.are_heard() {
            return;
        }
        for service in self.snapshot.services.iter().flatten() {
            for server in &service.servers {
                let Some(resolved) = flipped.get(&server.hop) else { continue };
                let (service, server) = (service.key.to_string(), endpoint(server));
                self.notices.tell(if *resolved {
                    let reason = "its neighbour answers".into();
                    Event::ServerUp { service, server, reason }
                } else {
                    let reason = "its neighbour does not answer".into();
                    Event::ServerDown { service, server, reason }
                });
            }
        }
    }

    /// Tells how many flows hold each server that drains.
    pub(super) fn tell_of_drains(&self) {
        if !self.notices.are_heard() {
            return;
        }
        for service in self.snapshot.services.iter().flatten() {
            let drains = |server: &&RealServer| server.state == ServerState::Draining;
            for server in service.servers.iter().filter(drains) {
                let flows = self.counts.server(server.id).flows;
                let (service, server) = (service.key.to_string(), endpoint(server));
                self.notices.tell(Event::DrainProgress { service, server, flows });
            }
        }
    }

    /// Compares counters once a second.
    pub(super) fn look_for_floods(&mut self) {
        let guarded = self.snapshot.services.iter().flatten().filter(|service| service.synproxy);
        let mut counts: Vec<(Scene, u64)> = guarded
            .map(|service| {
                let totals = self.counts.service(service.id);
                let unproven = totals.cookies_sent.saturating_sub(totals.cookies_proven);
                (Scene::Service(service.key.to_string()), unproven)
            })
            .collect();
        for (at, worker) in (0u8..).zip(self.counts.workers.iter()) {
            let full = [DropReason::TableFull, DropReason::DropPacket];
            let full: u64 = full.iter().map(|reason| worker.drops[*reason as usize].get()).sum();
            counts.push((Scene::Worker(at), full + worker.flows_shed.get()));
        }
        for flood in self.floods.look(counts) {
            self.tell_of_flood(flood);
        }
    }

    fn tell_of_flood(&self, flood: Flood) {
        let parts = |scene: &Scene| match scene {
            Scene::Service(name) => (Some(name.clone()), None),
            Scene::Worker(worker) => (None, Some(*worker)),
        };
        match flood {
            Flood::On(scene, per_second) => {
                match &scene {
                    Scene::Service(service) => warn!(
                        per_second,
                        "{service}: a flood of SYNs that nobody proves; cookies answer it"
                    ),
                    Scene::Worker(worker) => warn!(
                        worker,
                        per_second, "more new flows than there is room for; `gyre drops` has more"
                    ),
                }
                let (service, worker) = parts(&scene);
                self.notices.tell(Event::FloodOn { service, worker, per_second });
            }
            Flood::Off(scene) => {
                info!("the flood is over: {scene:?}");
                let (service, worker) = parts(&scene);
                self.notices.tell(Event::FloodOff { service, worker });
            }
        }
    }
}

/// Next hops that were resolved when last heard of.
pub type HopsResolved = HashSet<NextHopId>;
