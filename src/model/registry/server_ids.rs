//! Slots of real servers: held, draining, retiring, free.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use super::slots::Slots;
use super::steered::Steered;
use crate::model::id::ServerId;
use crate::model::service::{ForwardMode, Protocol, RealServer};
use crate::model::service_key::ServiceKey;
use crate::model::spec::ServiceSpec;
use crate::model::steering::KeyKind;
use crate::time::Nanos;

type NatServers = HashMap<(Protocol, IpAddr, u16), KeyKind>;

/// A server that uses NAT, and what steers its service.
#[derive(Clone, Copy, Debug)]
struct NatServer {
    service: ServiceKey,
    endpoint: SocketAddr,
    key_kind: KeyKind,
    /// Whether it may have FTP's data connections, which are on any port.
    has_data: bool,
}

/// What makes a server the same server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ServerKey {
    pub(super) service: ServiceKey,
    pub(super) endpoint: SocketAddr,
}

/// A listed server without new flows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drain {
    pub(super) service: ServiceKey,
    pub(super) deadline: Option<Nanos>,
    /// The first revision in which it is draining.
    pub(super) revision: u64,
}

/// A server that left while flows may still hold its slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Retired {
    pub(super) id: ServerId,
    /// The first revision without it.
    pub(super) revision: u64,
    /// Its last weight above 0: it comes back with it, as from the kernel's trash.
    pub(super) last_weight: u32,
}

/// A slot, and whether it is new to this server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    pub(super) id: ServerId,
    pub(super) fresh: bool,
    /// The last weight above 0 that it had; 0 when it is new.
    pub(super) last_weight: u32,
}

#[derive(Debug)]
pub(super) struct ServerIds {
    slots: Slots,
    retired: HashMap<ServerKey, Retired>,
    /// Those of `retired` that health checks took out: their slots wait for them.
    kept: HashMap<ServerKey, RealServer>,
    pub(super) draining: HashMap<ServerId, Drain>,
    /// Slots that had flows by NAT since they were given out.
    nat: HashMap<ServerId, NatServer>,
}

impl ServerIds {
    pub(super) fn new(max: usize) -> Self {
        ServerIds {
            slots: Slots::new(max),
            retired: HashMap::new(),
            kept: HashMap::new(),
            draining: HashMap::new(),
            nat: HashMap::new(),
        }
    }

    pub(super) fn left(&self) -> usize {
        self.slots.left()
    }

    pub(super) fn taken(&self) -> usize {
        self.slots.taken()
    }

    pub(super) fn is_retired(&self, key: &ServerKey) -> bool {
        self.retired.contains_key(key)
    }

    /// Services that servers left which flows may still hold.
    pub(super) fn services_left(&self) -> HashSet<ServiceKey> {
        self.retired.keys().map(|key| key.service).collect()
    }

    /// Whether servers left this service that flows may still hold.
    pub(super) fn left_behind(&self, service: &ServiceKey) -> bool {
        self.retired.keys().any(|key| key.service == *service)
    }

    pub(super) fn retired_count(&self) -> usize {
        self.retired.len()
    }

    pub(super) fn retired_addresses(&self) -> impl Iterator<Item = std::net::IpAddr> + '_ {
        self.retired.keys().map(|key| key.endpoint.ip())
    }

    /// The slot of a server that joins: its old one while flows still know it by that.
    pub(super) fn claim(&mut self, key: &ServerKey) -> Option<Claim> {
        self.kept.remove(key);
        match self.retired.remove(key) {
            Some(retired) => {
                let Retired { id, last_weight, .. } = retired;
                Some(Claim { id, fresh: false, last_weight })
            }
            None => {
                let id = ServerId(self.slots.take()?);
                Some(Claim { id, fresh: true, last_weight: 0 })
            }
        }
    }

    /// The server left the list in `revision`.
    pub(super) fn retire(&mut self, key: ServerKey, server: &RealServer, revision: u64) {
        let RealServer { id, last_weight, .. } = *server;
        self.draining.remove(&id);
        self.retired.insert(key, Retired { id, revision, last_weight });
    }

    /// Has the slot of a server that left wait for it, however long that takes.
    pub(super) fn keep(&mut self, key: ServerKey, server: RealServer) {
        self.kept.insert(key, server);
    }

    /// A server that is kept, as it was when it left.
    pub(super) fn kept(&self, service: &ServiceKey, endpoint: SocketAddr) -> Option<&RealServer> {
        self.kept.get(&ServerKey { service: *service, endpoint })
    }

    /// Ends the waiting for servers that `spec`, its service's, does not ask for any more.
    pub(super) fn release(&mut self, spec: &ServiceSpec) {
        if self.kept.is_empty() {
            return;
        }
        let asked = |key: &ServerKey| spec.servers.iter().any(|s| s.endpoint() == key.endpoint);
        self.kept.retain(|key, _| key.service != spec.key || asked(key));
    }

    /// Frees what no worker's snapshot lists and no flow holds.
    pub(super) fn reclaim(&mut self, flows: &dyn Fn(ServerId) -> u64, oldest_revision: u64) {
        let (slots, nat, kept) = (&mut self.slots, &mut self.nat, &self.kept);
        self.retired.retain(|key, retired| {
            let held = kept.contains_key(key)
                || retired.revision > oldest_revision
                || flows(retired.id) > 0;
            if !held {
                nat.remove(&retired.id);
                slots.free(retired.id.0);
            }
            held
        });
    }

    /// Takes note of a server that is listed: what it sends may be a NAT flow's reply from now on,
    /// until its slot is free, whatever its mode becomes.
    pub(super) fn note_mode(&mut self, key: &ServiceKey, by: &Steered, server: &RealServer) {
        if server.mode == ForwardMode::Nat {
            let endpoint = SocketAddr::new(server.address, server.port);
            let (key_kind, has_data) = (by.kind, by.is_helped);
            self.nat.insert(server.id, NatServer { service: *key, endpoint, key_kind, has_data });
        }
    }

    /// Where NAT flows' replies come from: service, server, what steers them.
    pub(super) fn nat(&self) -> impl Iterator<Item = (ServiceKey, SocketAddr, KeyKind)> {
        self.nat.values().map(|nat| (nat.service, nat.endpoint, nat.key_kind))
    }

    /// `Snapshot::nat_servers`, shared with `before` when nothing changed.
    pub(super) fn nat_servers(&self, before: &Arc<NatServers>) -> Arc<NatServers> {
        let mut now = NatServers::new();
        for NatServer { service, endpoint, key_kind, .. } in self.nat.values() {
            // A group may be of both protocols.
            let all = [Protocol::Tcp, Protocol::Udp].into_iter();
            let of = service.protocol();
            for one in all.filter(|one| of.is_none_or(|protocol| protocol == *one)) {
                // One that steers otherwise is refused.
                now.insert((one, endpoint.ip(), endpoint.port()), *key_kind);
            }
        }
        // What is known exactly goes before data connections.
        for nat in self.nat.values().filter(|nat| nat.has_data) {
            now.insert((Protocol::Tcp, nat.endpoint.ip(), 0), nat.key_kind);
        }
        if now == **before { Arc::clone(before) } else { Arc::new(now) }
    }

    /// `Snapshot::server_slots`.
    pub(super) fn slots_end(&self) -> usize {
        self.slots.end()
    }

    /// `Snapshot::removed_servers`, shared with `before` when nothing changed.
    pub(super) fn removed_bits(&self, before: &Arc<Vec<u64>>) -> Arc<Vec<u64>> {
        let last = self.retired.values().map(|retired| retired.id.index() / 64).max();
        let mut bits = vec![0u64; last.map_or(0, |word| word + 1)];
        for retired in self.retired.values() {
            bits[retired.id.index() / 64] |= 1 << (retired.id.index() % 64);
        }
        if bits == **before { Arc::clone(before) } else { Arc::new(bits) }
    }
}
