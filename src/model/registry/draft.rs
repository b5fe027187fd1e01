//! A service's server list while it is being changed, with the log that the changes leave.
//!
//! Knows the kernel's list order and nothing of slots, pools or snapshots.

use std::net::SocketAddr;

use hashbrown::HashMap;

use crate::model::change_log::{Change, ChangeLog};
use crate::model::id::{ServerId, ServiceId};
use crate::model::service::{RealServer, ServerState, VirtualService};
use crate::model::spec::ServerSpec;

/// A server list in the making.
#[derive(Debug)]
pub(super) struct Draft {
    /// Slot of the service.
    pub(super) service: ServiceId,
    /// In the order of adding.
    pub(super) servers: Vec<RealServer>,
    /// What cursors replay.
    pub(super) changes: ChangeLog,
    /// Whether anything changed since the draft was made.
    pub(super) changed: bool,
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl Draft {
    /// The list as published.
    pub(super) fn of(service: &VirtualService) -> Self {
        let mut changes = service.changes.clone();
        changes.trim();
        Draft { service: service.id, servers: service.servers.clone(), changes, changed: false }
    }

    /// No servers, after what happened before on this slot.
    pub(super) fn after(service: ServiceId, mut changes: ChangeLog) -> Self {
        changes.trim();
        Draft { service, servers: Vec::new(), changes, changed: true }
    }

    pub(super) fn position(&self, endpoint: SocketAddr) -> Option<usize> {
        self.servers.iter().position(|server| endpoint_of(server) == endpoint)
    }

    pub(super) fn position_of(&self, id: ServerId) -> Option<usize> {
        self.servers.iter().position(|server| server.id == id)
    }

    pub(super) fn add(&mut self, server: RealServer) {
        self.servers.push(server);
        self.log(None, None);
    }

    /// Makes the server what `spec` says and lets it take flows; `ipvsadm -e`.
    pub(super) fn edit(&mut self, at: usize, spec: &ServerSpec) {
        let server = &mut self.servers[at];
        server.weight = spec.weight;
        if spec.weight > 0 {
            server.last_weight = spec.weight;
        }
        server.upper_threshold = spec.upper_threshold;
        server.lower_threshold = spec.lower_threshold;
        server.mode = spec.mode;
        server.tunnel = spec.tunnel;
        server.state = ServerState::Active;
        self.log(None, None);
    }

    /// No new flows from here on.
    pub(super) fn drain(&mut self, at: usize) {
        self.servers[at].state = ServerState::Draining;
        self.log(None, None);
    }

    pub(super) fn remove(&mut self, at: usize) -> RealServer {
        let server = self.servers.remove(at);
        // The kernel's list runs backwards: the entry before is the one added next.
        let predecessor = self.servers.get(at).map(|next| next.id);
        self.log(Some(server.id), predecessor);
        server
    }

    /// Sends cursors back to where a fresh scheduler starts, as the kernel does when a service
    /// gets another one: each server "leaves" towards the head, weights fall to 0, then come back.
    pub(super) fn restart_cursors(&mut self) {
        for server in &self.servers {
            let removed = Some(server.id);
            self.changes.push(Change { removed, predecessor: None, weight_gcd: 1, weight_max: 0 });
        }
        self.log(None, None);
    }

    fn log(&mut self, removed: Option<ServerId>, predecessor: Option<ServerId>) {
        let weights = || self.servers.iter().map(RealServer::effective_weight);
        let change = Change {
            removed,
            predecessor,
            weight_gcd: weights().fold(0, gcd).max(1),
            weight_max: weights().max().unwrap_or(0),
        };
        self.changes.push(change);
        self.changed = true;
    }
}

pub(super) fn endpoint_of(server: &RealServer) -> SocketAddr {
    SocketAddr::new(server.address, server.port)
}

/// Whether an active server already is what `spec` says.
pub(super) fn fits(server: &RealServer, spec: &ServerSpec) -> bool {
    server.state == ServerState::Active
        && (server.weight, server.mode, server.tunnel) == (spec.weight, spec.mode, spec.tunnel)
        && (server.upper_threshold, server.lower_threshold)
            == (spec.upper_threshold, spec.lower_threshold)
}

/// The servers that are asked for: those that were there keep their place, others follow.
pub(super) fn in_order(old: &[ServerSpec], wanted: &[ServerSpec]) -> Vec<ServerSpec> {
    let mut left: HashMap<SocketAddr, &ServerSpec> =
        wanted.iter().map(|server| (server.endpoint(), server)).collect();
    let order = old.iter().chain(wanted);
    order.filter_map(|server| left.remove(&server.endpoint())).cloned().collect()
}
