//! What slots had counted before they got their present owner.
//!
//! Workers' counters are kept by slot and only grow, so a slot that is given out again starts with
//! its predecessor's counts: these are taken off when shown. Gauges are 0 at that moment by the
//! rule that frees slots, and stay as they are.

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use crate::counters::{LipCounters, OtherFlows, ServerCounters, ServiceCounters, WorkerCounters};
use crate::model::{Applied, LipId, ServerId, ServiceId, Snapshot, VirtualService};

/// Counts of a server over all workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerTotals {
    pub flows: u64,
    pub active: u64,
    pub connections: u64,
    pub in_packets: u64,
    pub in_bytes: u64,
    pub out_packets: u64,
    pub out_bytes: u64,
    pub refused: u64,
}

/// What `ipvsadm --stats` shows of a server or a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub connections: u64,
    pub in_packets: u64,
    pub in_bytes: u64,
    pub out_packets: u64,
    pub out_bytes: u64,
}

impl Traffic {
    pub fn parts(&self) -> [u64; 5] {
        [self.connections, self.in_packets, self.in_bytes, self.out_packets, self.out_bytes]
    }

    /// Sums and differences of counts pass below 0 on the way; modulo 2^64 they come out right.
    fn plus(self, other: Traffic) -> Traffic {
        Traffic {
            connections: self.connections.wrapping_add(other.connections),
            in_packets: self.in_packets.wrapping_add(other.in_packets),
            in_bytes: self.in_bytes.wrapping_add(other.in_bytes),
            out_packets: self.out_packets.wrapping_add(other.out_packets),
            out_bytes: self.out_bytes.wrapping_add(other.out_bytes),
        }
    }

    fn minus(self, other: Traffic) -> Traffic {
        Traffic {
            connections: self.connections.wrapping_sub(other.connections),
            in_packets: self.in_packets.wrapping_sub(other.in_packets),
            in_bytes: self.in_bytes.wrapping_sub(other.in_bytes),
            out_packets: self.out_packets.wrapping_sub(other.out_packets),
            out_bytes: self.out_bytes.wrapping_sub(other.out_bytes),
        }
    }
}

impl ServerTotals {
    pub fn traffic(&self) -> Traffic {
        Traffic {
            connections: self.connections,
            in_packets: self.in_packets,
            in_bytes: self.in_bytes,
            out_packets: self.out_packets,
            out_bytes: self.out_bytes,
        }
    }
}

/// Counts of a service over all workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceTotals {
    pub flows: u64,
    pub connections: u64,
    pub refused: u64,
    pub cookies_sent: u64,
    pub cookies_proven: u64,
}

/// Counts of a local address over all workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LipTotals {
    pub used: u64,
    pub reused: u64,
    pub exhausted: u64,
}

/// Workers' counters together, with what they had counted for earlier owners of slots.
#[derive(Clone, Debug)]
pub struct Counts {
    pub workers: Arc<[Arc<WorkerCounters>]>,
    servers: Arc<HashMap<ServerId, ServerTotals>>,
    services: Arc<HashMap<ServiceId, ServiceTotals>>,
    lips: Arc<HashMap<LipId, LipTotals>>,
    /// What servers that left a service had counted: the service's traffic is its servers'.
    departed: Arc<HashMap<ServiceId, Traffic>>,
    /// The same by server, of those that may come back to a service that is still there.
    left: Arc<HashMap<ServerId, (ServiceId, Traffic)>>,
}

impl Counts {
    pub fn new(workers: Vec<Arc<WorkerCounters>>) -> Self {
        Counts {
            workers: workers.into(),
            servers: Arc::default(),
            services: Arc::default(),
            lips: Arc::default(),
            departed: Arc::default(),
            left: Arc::default(),
        }
    }

    /// Starts a service's counts, and those of its servers, at 0 (`ipvsadm -Z`).
    pub fn zero(&mut self, service: &VirtualService) {
        service.servers.iter().for_each(|server| self.zero_server(server.id));
        let now = self.service_raw(service.id);
        let then = ServiceTotals { flows: 0, ..now };
        Arc::make_mut(&mut self.services).insert(service.id, then);
        Arc::make_mut(&mut self.departed).remove(&service.id);
        // What left before is not to be taken back any more.
        Arc::make_mut(&mut self.left).retain(|_, (of, _)| *of != service.id);
    }

    /// Keeps what servers that leave a service had counted, takes it back from those that return,
    /// and starts at 0 what comes with a service, as the kernel does. After `renew`.
    pub fn follow(&mut self, old: &Snapshot, applied: &Applied) {
        let new = &applied.snapshot;
        let fresh: HashSet<ServerId> = applied.fresh_servers.iter().copied().collect();
        for at in 0..old.services.len().max(new.services.len()) {
            let of = |snapshot: &'_ Snapshot| snapshot.services.get(at).cloned().flatten();
            let (before, after) = (of(old), of(new));
            let is_same = match (&before, &after) {
                (Some(before), Some(after)) => {
                    if Arc::ptr_eq(before, after) {
                        continue;
                    }
                    before.key == after.key
                }
                (None, None) => continue,
                _ => false,
            };
            if let Some(gone) = before.as_ref().filter(|_| !is_same) {
                Arc::make_mut(&mut self.departed).remove(&gone.id);
                Arc::make_mut(&mut self.left).retain(|_, (service, _)| *service != gone.id);
            }
            let Some(after) = after else { continue };
            match before.filter(|_| is_same) {
                Some(before) => self.follow_service(&before, &after, &fresh),
                None if applied.fresh_services.contains(&after.id) => {}
                None => self.zero(&after),
            }
        }
    }

    fn follow_service(
        &mut self,
        before: &VirtualService,
        after: &VirtualService,
        fresh: &HashSet<ServerId>,
    ) {
        let lacks = |of: &VirtualService, id| of.servers.iter().all(|server| server.id != id);
        for server in before.servers.iter().filter(|server| lacks(after, server.id)) {
            let own = self.server(server.id).traffic();
            let sum = Arc::make_mut(&mut self.departed).entry(after.id).or_default();
            *sum = sum.plus(own);
            Arc::make_mut(&mut self.left).insert(server.id, (after.id, own));
        }
        let came = after.servers.iter().filter(|server| lacks(before, server.id));
        for server in came.filter(|server| !fresh.contains(&server.id)) {
            match Arc::make_mut(&mut self.left).remove(&server.id) {
                Some((_, own)) => {
                    let sum = Arc::make_mut(&mut self.departed).entry(after.id).or_default();
                    *sum = sum.minus(own);
                }
                None => self.zero_server(server.id),
            }
        }
    }

    fn zero_server(&mut self, id: ServerId) {
        let now = self.server_raw(id);
        let then = ServerTotals { flows: 0, active: 0, ..now };
        Arc::make_mut(&mut self.servers).insert(id, then);
    }

    /// A service's own connections, with the packets of its servers.
    pub fn traffic_of_service(&self, service: &VirtualService) -> Traffic {
        let departed = self.departed.get(&service.id).copied().unwrap_or_default();
        let servers = service.servers.iter();
        let sum = servers.fold(departed, |sum, server| sum.plus(self.server(server.id).traffic()));
        Traffic { connections: self.service(service.id).connections, ..sum }
    }

    /// Notes what slots that changed hands had counted. Before workers hear of the new owners.
    pub fn renew(&mut self, applied: &Applied) {
        for id in &applied.fresh_servers {
            // What was told of the predecessor's flows, the last of which may have just ended.
            self.workers
                .iter()
                .for_each(|worker| worker.others.tell(id.index(), OtherFlows::default()));
            let now = self.server_raw(*id);
            Arc::make_mut(&mut self.left).remove(id);
            Arc::make_mut(&mut self.servers)
                .insert(*id, ServerTotals { flows: 0, active: 0, ..now });
        }
        for id in &applied.fresh_services {
            let now = self.service_raw(*id);
            Arc::make_mut(&mut self.services).insert(*id, ServiceTotals { flows: 0, ..now });
            Arc::make_mut(&mut self.departed).remove(id);
        }
        for id in &applied.fresh_lips {
            let now = self.lip_raw(*id);
            Arc::make_mut(&mut self.lips).insert(*id, LipTotals { used: 0, ..now });
        }
    }

    /// The sum of one counter over all workers.
    pub fn sum(&self, read: impl Fn(&WorkerCounters) -> u64) -> u64 {
        // Gauges that another worker takes down may wrap below 0 on one and be right in total.
        self.workers.iter().fold(0, |sum, worker| sum.wrapping_add(read(worker)))
    }

    pub fn server(&self, id: ServerId) -> ServerTotals {
        let now = self.server_raw(id);
        let then = self.servers.get(&id).copied().unwrap_or_default();
        ServerTotals {
            flows: now.flows,
            active: now.active,
            connections: now.connections.wrapping_sub(then.connections),
            in_packets: now.in_packets.wrapping_sub(then.in_packets),
            in_bytes: now.in_bytes.wrapping_sub(then.in_bytes),
            out_packets: now.out_packets.wrapping_sub(then.out_packets),
            out_bytes: now.out_bytes.wrapping_sub(then.out_bytes),
            refused: now.refused.wrapping_sub(then.refused),
        }
    }

    pub fn service(&self, id: ServiceId) -> ServiceTotals {
        let now = self.service_raw(id);
        let then = self.services.get(&id).copied().unwrap_or_default();
        ServiceTotals {
            flows: now.flows,
            connections: now.connections.wrapping_sub(then.connections),
            refused: now.refused.wrapping_sub(then.refused),
            cookies_sent: now.cookies_sent.wrapping_sub(then.cookies_sent),
            cookies_proven: now.cookies_proven.wrapping_sub(then.cookies_proven),
        }
    }

    pub fn lip(&self, id: LipId) -> LipTotals {
        let now = self.lip_raw(id);
        let then = self.lips.get(&id).copied().unwrap_or_default();
        LipTotals {
            used: now.used,
            reused: now.reused.wrapping_sub(then.reused),
            exhausted: now.exhausted.wrapping_sub(then.exhausted),
        }
    }

    /// All that was counted on a server's slot, whoever had it: good for comparing.
    pub fn server_raw(&self, id: ServerId) -> ServerTotals {
        let sum = |read: fn(&ServerCounters) -> u64| {
            self.sum(|worker| worker.servers.get(id.index()).map_or(0, read))
        };
        ServerTotals {
            flows: sum(|server| server.flows.get()),
            active: sum(|server| server.active.get()),
            connections: sum(|server| server.connections.get()),
            in_packets: sum(|server| server.in_packets.get()),
            in_bytes: sum(|server| server.in_bytes.get()),
            out_packets: sum(|server| server.out_packets.get()),
            out_bytes: sum(|server| server.out_bytes.get()),
            refused: sum(|server| server.refused.get()),
        }
    }

    fn service_raw(&self, id: ServiceId) -> ServiceTotals {
        let sum = |read: fn(&ServiceCounters) -> u64| {
            self.sum(|worker| worker.services.get(id.index()).map_or(0, read))
        };
        ServiceTotals {
            flows: sum(|service| service.flows.get()),
            connections: sum(|service| service.connections.get()),
            refused: sum(|service| service.refused.get()),
            cookies_sent: sum(|service| service.cookies_sent.get()),
            cookies_proven: sum(|service| service.cookies_proven.get()),
        }
    }

    /// Persistence templates that hold clients to a server, each once.
    pub fn own_templates(&self, id: ServerId) -> u64 {
        self.sum(|worker| worker.own_templates.get(id.index()).map_or(0, |own| own.get()))
    }

    /// Persistence templates that hold a server's (0) or a service's (1) slot.
    fn templates(&self, kind: usize, at: usize) -> u64 {
        self.sum(|worker| worker.templates[kind].get(at).map_or(0, |held| held.get()))
    }

    fn lip_raw(&self, id: LipId) -> LipTotals {
        let sum = |read: fn(&LipCounters) -> u64| {
            self.sum(|worker| worker.lips.get(id.index()).map_or(0, read))
        };
        LipTotals {
            used: sum(|lip| lip.used.get()),
            reused: sum(|lip| lip.reused.get()),
            exhausted: sum(|lip| lip.exhausted.get()),
        }
    }
}

impl crate::model::Usage for Counts {
    fn flows_of_server(&self, id: ServerId) -> u64 {
        self.server_raw(id).flows + self.templates(0, id.index())
    }

    fn flows_of_service(&self, id: ServiceId) -> u64 {
        self.service_raw(id).flows + self.templates(1, id.index())
    }

    fn ports_of_lip(&self, id: LipId) -> u64 {
        self.lip_raw(id).used
    }
}
