//! The registry's promises: as single facts, then under random operations.

use std::collections::HashMap as StdMap;
use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;
use crate::model::ServerState;
use crate::model::{
    Change, Destination, ForwardMode, KeyKind, Persistence, Ports, Protocol, SchedulerSpec,
    TrafficMatch,
};

fn key(port: u16) -> ServiceKey {
    ServiceKey::new(Protocol::Tcp, [192, 0, 2, 80].into(), port)
}

fn server(n: u8, weight: u32) -> ServerSpec {
    let mode = ForwardMode::FullNat;
    ServerSpec::new(([10, 2, 0, n], 80).into(), weight, mode)
}

fn service(port: u16, servers: &[(u8, u32)]) -> ServiceSpec {
    ServiceSpec {
        pool: Some("p".into()),
        servers: servers.iter().map(|(n, weight)| server(*n, *weight)).collect(),
        ..ServiceSpec::new(key(port), SchedulerSpec::WeightedRoundRobin)
    }
}

pub(super) fn desired(services: Vec<ServiceSpec>) -> Desired {
    let addresses = vec![[192, 0, 2, 8].into(), [192, 0, 2, 9].into()];
    let pools = vec![PoolSpec { name: "p".into(), addresses, ports: (1024, 1055) }];
    Desired { pools, services, semantics: Semantics::default(), removal: DRAIN }
}

const DRAIN: Removal = Removal::Drain { deadline: None };

/// Built once: its tables cost more than a test's whole run.
static STEERING: LazyLock<Arc<Steering>> = LazyLock::new(|| Arc::new(Steering::for_workers(2)));

fn registry() -> Registry {
    Registry::new(RegistryConfig {
        services_max: 4,
        servers_max: 6,
        lips_max: 3,
        ..RegistryConfig::new(Arc::clone(&STEERING))
    })
}

pub(super) fn hop(address: IpAddr) -> NextHopId {
    match address {
        IpAddr::V4(v4) => NextHopId(u16::from(v4.octets()[3])),
        IpAddr::V6(_) => NextHopId::NONE,
    }
}

fn apply(registry: &mut Registry, services: Vec<ServiceSpec>) -> Applied {
    registry.apply(&desired(services), &mut hop).unwrap()
}

fn ids(snapshot: &Snapshot, port: u16) -> Vec<u32> {
    snapshot.service_of(&key(port)).unwrap().servers.iter().map(|s| s.id.0).collect()
}

/// Flows by server, service, local address.
#[derive(Default, Debug)]
pub(super) struct Flows {
    servers: StdMap<u32, u64>,
    pub(super) services: StdMap<u32, u64>,
    lips: StdMap<u16, u64>,
}

impl Usage for Flows {
    fn flows_of_server(&self, id: ServerId) -> u64 {
        self.servers.get(&id.0).copied().unwrap_or(0)
    }
    fn flows_of_service(&self, id: ServiceId) -> u64 {
        self.services.get(&id.0).copied().unwrap_or(0)
    }
    fn ports_of_lip(&self, id: LipId) -> u64 {
        self.lips.get(&id.0).copied().unwrap_or(0)
    }
}

#[test]
fn snapshot_says_how_many_servers_there_can_be_and_whether_cookies_answer() {
    let mut registry = registry();
    let few = apply(&mut registry, vec![service(80, &[(1, 1), (2, 1)])]).snapshot;
    assert_eq!((few.server_slots, few.has_synproxy), (2, false));
    let proxied = ServiceSpec { synproxy: true, ..service(81, &[(3, 1)]) };
    let more = apply(&mut registry, vec![service(80, &[(1, 1), (2, 1)]), proxied]).snapshot;
    assert_eq!((more.server_slots, more.has_synproxy), (3, true));
    let ids = more.services.iter().flatten().flat_map(|service| service.servers.iter());
    assert!(ids.map(|server| server.id.index()).all(|id| id < more.server_slots));
    let fewer = apply(&mut registry, vec![service(80, &[(1, 1)])]).snapshot;
    assert_eq!(fewer.server_slots, 3, "a slot once taken may be held by flows");
}

#[test]
fn unchanged_services_keep_their_arc_and_no_change_is_no_revision() {
    let mut registry = registry();
    let first = apply(&mut registry, vec![service(80, &[(11, 1)]), service(81, &[(12, 1)])]);
    let again = apply(&mut registry, vec![service(80, &[(11, 1)]), service(81, &[(12, 1)])]);
    assert!(first.changed && !again.changed);
    assert_eq!(first.snapshot.revision, again.snapshot.revision);
    let third = apply(&mut registry, vec![service(80, &[(11, 2)]), service(81, &[(12, 1)])]);
    let arc = |applied: &Applied, at: usize| applied.snapshot.services[at].clone().unwrap();
    assert!(Arc::ptr_eq(&arc(&first, 1), &arc(&third, 1)));
    assert!(!Arc::ptr_eq(&arc(&first, 0), &arc(&third, 0)));
    assert_eq!(third.services, [0, 1, 0]);
}

#[test]
fn a_file_equals_single_adds_in_file_order() {
    let mut file = registry();
    apply(&mut file, vec![service(80, &[(11, 4), (12, 2), (13, 6)])]);
    let mut single = registry();
    apply(&mut single, vec![service(80, &[])]);
    for (n, weight) in [(11, 4), (12, 2), (13, 6)] {
        single.add_server(&key(80), &server(n, weight), &mut hop).unwrap();
    }
    let of = |registry: &Registry| {
        let service = registry.snapshot().service_of(&key(80)).unwrap().clone();
        (service.servers, service.changes.since(0).to_vec())
    };
    assert_eq!(of(&file), of(&single));
    let step = |weight_gcd, weight_max| Change {
        removed: None,
        predecessor: None,
        weight_gcd,
        weight_max,
    };
    assert_eq!(of(&file).1, [step(4, 4), step(2, 4), step(2, 6)]);
}

#[test]
fn a_removal_names_the_server_added_after_it() {
    let mut registry = registry();
    apply(&mut registry, vec![service(80, &[(11, 1), (12, 1), (13, 1)])]);
    let before = registry.snapshot().service_of(&key(80)).unwrap().changes.next();
    let ids = ids(registry.snapshot(), 80);
    for n in [11, 13] {
        let endpoint = server(n, 1).endpoint();
        registry.remove_server(&key(80), endpoint, Removal::Now).unwrap();
    }
    let log = &registry.snapshot().service_of(&key(80)).unwrap().changes;
    let steps: Vec<_> = log.since(before).iter().map(|s| (s.removed, s.predecessor)).collect();
    let id = |at: usize| Some(ServerId(ids[at]));
    assert_eq!(steps, [(id(0), id(1)), (id(2), None)]);
}

#[test]
fn a_server_removed_now_revives_with_its_slot_while_flows_live() {
    let mut registry = registry();
    apply(&mut registry, vec![service(80, &[(11, 1), (12, 1)])]);
    let id = ids(registry.snapshot(), 80)[0];
    let endpoint = server(11, 1).endpoint();
    let removed = registry.remove_server(&key(80), endpoint, Removal::Now).unwrap();
    assert!(removed.snapshot.is_removed(ServerId(id)));
    let flows = Flows { servers: [(id, 1)].into(), ..Flows::default() };
    assert!(registry.reclaim(&flows, removed.snapshot.revision, Nanos(0)).is_none());
    let back = registry.add_server(&key(80), &server(11, 1), &mut hop).unwrap();
    assert!(!back.snapshot.is_removed(ServerId(id)));
    assert_eq!((ids(&back.snapshot, 80)[1], back.fresh_servers.len()), (id, 0));
}

#[test]
fn a_draining_server_leaves_at_zero_or_at_its_deadline() {
    let deadline = Removal::Drain { deadline: Some(Nanos(9)) };
    for (flows_left, now, gone) in [(1, 8, false), (0, 8, true), (1, 9, true)] {
        let mut registry = registry();
        apply(&mut registry, vec![service(80, &[(11, 1), (12, 1)])]);
        let id = ids(registry.snapshot(), 80)[0];
        let endpoint = server(11, 1).endpoint();
        let drained = registry.remove_server(&key(80), endpoint, deadline).unwrap();
        let listed = &drained.snapshot.service_of(&key(80)).unwrap().servers[0];
        assert_eq!((listed.id.0, listed.effective_weight()), (id, 0));
        let flows = Flows { servers: [(id, flows_left)].into(), ..Flows::default() };
        let early = registry.reclaim(&flows, drained.snapshot.revision - 1, Nanos(0));
        assert!(early.is_none(), "a worker may still pick it");
        let after = registry.reclaim(&flows, drained.snapshot.revision, Nanos(now));
        assert_eq!(after.is_some_and(|a| a.snapshot.is_removed(ServerId(id))), gone);
        assert_eq!(ids(registry.snapshot(), 80).contains(&id), !gone);
    }
}

#[test]
fn a_removed_service_revives_with_its_slots_and_goes_on_counting_steps() {
    let mut registry = registry();
    apply(&mut registry, vec![service(80, &[(11, 1)]), service(81, &[])]);
    let (slot, id) =
        (registry.snapshot().service_by_key[&key(80)], ids(registry.snapshot(), 80)[0]);
    let gone = registry.remove_service(&key(80), Removal::Now).unwrap();
    assert!(gone.snapshot.service_of(&key(80)).is_none());
    assert!(gone.snapshot.is_removed(ServerId(id)));
    let flows =
        Flows { servers: [(id, 1)].into(), services: [(slot.0, 1)].into(), ..Flows::default() };
    registry.reclaim(&flows, gone.snapshot.revision, Nanos(0));
    let back = registry.add_service(&service(80, &[(11, 1)]), &mut hop).unwrap();
    assert_eq!(back.snapshot.service_by_key[&key(80)], slot);
    assert_eq!(ids(&back.snapshot, 80), [id]);
    let log = &back.snapshot.service_of(&key(80)).unwrap().changes;
    assert_eq!((log.next(), log.since(1)[0].removed), (3, Some(ServerId(id))));
}

#[test]
fn a_service_that_drains_leaves_with_its_last_flow_or_comes_back() {
    let mut registry = registry();
    apply(&mut registry, vec![service(80, &[(11, 1), (12, 1)])]);
    let before = ids(registry.snapshot(), 80);
    // A file without it drains it.
    apply(&mut registry, vec![]);
    let draining = |snapshot: &Snapshot| {
        let servers = &snapshot.services.iter().flatten().next().unwrap().servers;
        servers.iter().filter(|server| server.state == ServerState::Draining).count()
    };
    assert_eq!(draining(registry.snapshot()), 2);
    assert_eq!(registry.services().count(), 0);
    let again = registry.remove_service(&key(80), DRAIN).unwrap_err();
    assert_eq!(again[0].kind, ProblemKind::NotFound);
    // It comes back with its slots while it drains.
    registry.add_service(&service(80, &[(11, 1), (12, 1)]), &mut hop).unwrap();
    assert_eq!((ids(registry.snapshot(), 80), draining(registry.snapshot())), (before, 0));
    registry.remove_service(&key(80), DRAIN).unwrap();
    let mut flows = Flows::default();
    flows.servers.insert(ids(registry.snapshot(), 80)[0], 1);
    let revision = registry.snapshot().revision;
    registry.reclaim(&flows, revision, Nanos(0)).unwrap();
    assert_eq!(draining(registry.snapshot()), 1, "the other server had no flow");
    flows.servers.clear();
    registry.reclaim(&flows, registry.snapshot().revision, Nanos(0)).unwrap();
    assert!(registry.snapshot().services.iter().flatten().next().is_none());
    assert_eq!(registry.waiting().0, 0);
}

#[test]
fn another_scheduler_starts_its_cursors_afresh() {
    let mut registry = registry();
    apply(&mut registry, vec![service(80, &[(11, 3), (12, 6)])]);
    let seen = registry.snapshot().service_of(&key(80)).unwrap().changes.next();
    let edited = ServiceSpec { scheduler: SchedulerSpec::RoundRobin, ..service(80, &[]) };
    let applied = registry.edit_service(&edited, &mut hop).unwrap();
    let service = applied.snapshot.service_of(&key(80)).unwrap();
    let steps: Vec<_> = service.changes.since(seen).iter().map(|s| s.weight_max).collect();
    assert_eq!((service.servers.len(), steps), (2, vec![0, 0, 6]));
}

#[test]
fn a_local_address_stays_known_until_its_ports_are_free() {
    let mut registry = registry();
    apply(&mut registry, vec![service(80, &[(11, 1)])]);
    let mut wanted = desired(vec![service(80, &[(11, 1)])]);
    let lip = wanted.pools[0].addresses.remove(0);
    let id = registry.snapshot().lips[&lip].id;
    let applied = registry.apply(&wanted, &mut hop).unwrap();
    assert_eq!(applied.snapshot.service_of(&key(80)).unwrap().local_addresses.len(), 1);
    assert!(applied.snapshot.lips.contains_key(&lip));
    let flows = Flows { lips: [(id.0, 1)].into(), ..Flows::default() };
    assert!(registry.reclaim(&flows, applied.snapshot.revision, Nanos(0)).is_none());
    let after = registry.reclaim(&Flows::default(), applied.snapshot.revision, Nanos(0));
    assert!(!after.unwrap().snapshot.lips.contains_key(&lip));
}

#[test]
fn refusals_say_what_kind_they_are() {
    let mut registry = registry();
    apply(&mut registry, vec![service(80, &[(11, 1)])]);
    let revision = registry.snapshot().revision;
    let kind = |result: Result<Applied, Vec<SpecProblem>>| result.unwrap_err()[0].kind;
    let other = server(99, 1).endpoint();
    assert_eq!(kind(registry.add_service(&service(80, &[]), &mut hop)), ProblemKind::Exists);
    assert_eq!(kind(registry.remove_service(&key(9), Removal::Now)), ProblemKind::NotFound);
    assert_eq!(kind(registry.set_weight(&key(80), other, 1)), ProblemKind::NotFound);
    assert_eq!(kind(registry.edit_server(&key(80), &server(11, 70_000))), ProblemKind::Invalid);
    let many: Vec<(u8, u32)> = (11..18).map(|n| (n, 1)).collect();
    assert_eq!(kind(registry.add_service(&service(82, &many), &mut hop)), ProblemKind::Full);
    let mut range = desired(vec![service(80, &[(11, 1)])]);
    range.pools[0].ports = (1024, 4095);
    assert_eq!(kind(registry.apply(&range, &mut hop)), ProblemKind::Invalid);
    assert_eq!(registry.snapshot().revision, revision);
}

fn group(name: &str, port: u16, mark: u32) -> ServiceSpec {
    let (protocol, prefix) = (Protocol::Tcp, "192.0.2.80/32".parse().unwrap());
    let one = TrafficMatch { protocol, prefix, ports: Ports::one(port) };
    let key = ServiceKey::group(name).unwrap();
    let spec = ServiceSpec::new(key, SchedulerSpec::RoundRobin);
    ServiceSpec { matches: vec![one], mark: Some(mark), ..spec }
}

/// What one could add beside the other, a whole configuration could not be applied with.
#[test]
fn a_group_shares_neither_match_nor_mark_with_another() {
    let mut registry = registry();
    registry.add_service(&group("web", 80, 1), &mut hop).unwrap();
    let told = |problems: Vec<SpecProblem>| -> Vec<String> {
        problems.iter().map(ToString::to_string).collect()
    };
    let refused = told(registry.add_service(&group("other", 80, 1), &mut hop).unwrap_err());
    assert_eq!(
        refused,
        [
            "group other: group web has the match tcp 192.0.2.80:80 too; list it once",
            "group other: group web has mark 1 too; give each group of a family a mark of its own",
        ]
    );
    registry.add_service(&group("other", 81, 2), &mut hop).unwrap();
    let refused = told(registry.edit_service(&group("other", 80, 2), &mut hop).unwrap_err());
    assert_eq!(refused.len(), 1, "{refused:?}");
    registry.edit_service(&group("other", 82, 3), &mut hop).unwrap();
    let refused = registry.check(&desired(vec![group("web", 80, 1), group("other", 81, 1)]));
    assert!(told(refused.unwrap_err())[0].contains("service[0] has mark 1 too"));
    // The other family has marks of its own.
    let mut v6 = group("web6", 80, 1);
    v6.matches[0].prefix = "2001:db8::80/128".parse().unwrap();
    registry.add_service(&v6, &mut hop).unwrap();
}

#[test]
fn a_group_that_comes_takes_the_packets_of_one_that_drains() {
    for [old, new] in [["a", "b"], ["b", "a"]] {
        for range in [false, true] {
            let spec = |name: &str| {
                let mut spec = group(name, 80, 1);
                spec.matches[0].ports = Ports::range(80, 80 + u16::from(range)).unwrap();
                spec.servers = vec![ServerSpec { port: 0, ..server(11, 1) }];
                spec.servers[0].mode = ForwardMode::DirectRoute;
                spec
            };
            let mut registry = registry();
            registry.add_service(&spec(old), &mut hop).unwrap();
            let key = ServiceKey::group(old).unwrap();
            registry.remove_service(&key, DRAIN).unwrap();
            let added = registry.add_service(&spec(new), &mut hop).unwrap().snapshot;
            let address = [192, 0, 2, 80].into();
            let to = Destination { protocol: Protocol::Tcp, address, port: 80 };
            let found = added.traffic.find(&to).unwrap();
            assert_eq!(added.service(found).unwrap().key, ServiceKey::group(new).unwrap());
        }
    }
}

#[test]
fn a_match_at_a_servers_address_is_refused_when_it_comes_later() {
    let mut registry = registry();
    apply(&mut registry, vec![service(80, &[(11, 1)])]);
    registry.add_service(&group("web", 81, 1), &mut hop).unwrap();
    let mut edited = group("web", 81, 1);
    edited.matches[0].prefix = "10.2.0.11/32".parse().unwrap();
    let refused = registry.edit_service(&edited, &mut hop).unwrap_err();
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert!(refused[0].what.contains("10.2.0.11 is a server's address"), "{refused:?}");
    assert_eq!(
        registry
            .add_service(&ServiceSpec { key: ServiceKey::group("x").unwrap(), ..edited }, &mut hop)
            .unwrap_err()
            .len(),
        2
    );
}

/// A worker holds ports for so many pairs; the same server in two services is one.
#[test]
fn pairs_of_local_address_and_server_are_bounded() {
    let bounds = RegistryConfig::new(Arc::clone(&STEERING));
    let mut registry = Registry::new(RegistryConfig { address_pairs_max: 6, ..bounds });
    let lips = desired(vec![]).pools[0].addresses.iter().filter(|lip| lip.is_ipv4()).count();
    assert_eq!(lips, 2);
    apply(&mut registry, vec![service(80, &[(11, 1), (12, 1)])]);
    let mut same = service(81, &[(11, 1), (12, 1)]);
    same.servers.iter_mut().for_each(|server| server.port = 80);
    registry.add_service(&same, &mut hop).unwrap();
    registry.add_server(&key(80), &server(13, 1), &mut hop).unwrap();
    let problems = registry.add_server(&key(80), &server(14, 1), &mut hop).unwrap_err();
    assert_eq!(problems[0].kind, ProblemKind::Full);
    assert!(problems[0].what.starts_with("8 pairs of local address and server, room for 6"));
    let all = vec![service(80, &[(11, 1), (12, 1), (13, 1), (14, 1)])];
    assert_eq!(registry.apply(&desired(all), &mut hop).unwrap_err(), problems);
    // FTP's data ports, which a persistent service has too, are one pair more, however many.
    let plain = service(21, &[(11, 1)]);
    let persistence = Some(Persistence { timeout_ms: 60_000, client_bits: 32 });
    let persistent = ServiceSpec { persistence, ..plain.clone() };
    let pools = desired(vec![]).pools;
    assert_eq!(address_pairs(&pools, std::iter::once(&plain)), lips);
    assert_eq!(address_pairs(&pools, std::iter::once(&persistent)), 2 * lips);
}

/// One random operation.
#[derive(Clone, Debug)]
enum Op {
    Apply(Vec<(u16, Vec<(u8, u32)>)>),
    AddServer(u16, u8, u32),
    Remove(u16, u8, bool),
    Weight(u16, u8, u32),
    RemoveService(u16),
    Flow(u16, u8),
    EndFlows(u8),
    Reclaim,
}

fn op() -> impl Strategy<Value = Op> {
    let servers = proptest::collection::vec((11..16u8, 0..5u32), 0..4);
    let services = proptest::collection::vec((80..84u16, servers), 0..4);
    prop_oneof![
        1 => services.prop_map(Op::Apply),
        4 => (80..84u16, 11..16u8, 0..5u32).prop_map(|(p, n, w)| Op::AddServer(p, n, w)),
        4 => (80..84u16, 11..16u8, any::<bool>()).prop_map(|(p, n, now)| Op::Remove(p, n, now)),
        2 => (80..84u16, 11..16u8, 0..70_000u32).prop_map(|(p, n, w)| Op::Weight(p, n, w)),
        1 => (80..84u16).prop_map(Op::RemoveService),
        4 => (80..84u16, 11..16u8).prop_map(|(p, n)| Op::Flow(p, n)),
        3 => (11..16u8).prop_map(Op::EndFlows),
        4 => Just(Op::Reclaim),
    ]
}

/// A registry with the flows its snapshots gave rise to.
struct World {
    registry: Registry,
    flows: Flows,
    /// Whose slot a flow took: service port and server number by server slot.
    owners: StdMap<u32, (u16, u8)>,
}

impl World {
    fn run(&mut self, op: &Op) -> Option<Result<Applied, Vec<SpecProblem>>> {
        let registry = &mut self.registry;
        Some(match op {
            Op::Apply(services) => {
                let services = services.iter().map(|(port, list)| service(*port, list)).collect();
                registry.apply(&desired(services), &mut hop)
            }
            Op::AddServer(port, n, weight) => {
                registry.add_server(&key(*port), &server(*n, *weight), &mut hop)
            }
            Op::Remove(port, n, now) => {
                let removal = if *now { Removal::Now } else { DRAIN };
                registry.remove_server(&key(*port), server(*n, 0).endpoint(), removal)
            }
            Op::Weight(port, n, weight) => {
                registry.set_weight(&key(*port), server(*n, 0).endpoint(), *weight)
            }
            Op::RemoveService(port) => registry.remove_service(&key(*port), Removal::Now),
            Op::Flow(port, n) => return self.start_flow(*port, *n),
            Op::EndFlows(n) => return self.end_flows(*n),
            Op::Reclaim => {
                let revision = registry.snapshot().revision;
                return registry.reclaim(&self.flows, revision, Nanos(0)).map(Ok);
            }
        })
    }

    fn start_flow(&mut self, port: u16, n: u8) -> Option<Result<Applied, Vec<SpecProblem>>> {
        let service = self.registry.snapshot().service_of(&key(port))?;
        let address = server(n, 0).address;
        let taken = service.servers.iter().find(|s| s.address == address)?;
        *self.flows.servers.entry(taken.id.0).or_default() += 1;
        *self.flows.services.entry(service.id.0).or_default() += 1;
        self.owners.insert(taken.id.0, (port, n));
        None
    }

    fn end_flows(&mut self, n: u8) -> Option<Result<Applied, Vec<SpecProblem>>> {
        let ended: Vec<u32> =
            self.owners.iter().filter(|(_, owner)| owner.1 == n).map(|(id, _)| *id).collect();
        for id in ended {
            self.owners.remove(&id);
            self.flows.servers.remove(&id);
        }
        if self.owners.is_empty() {
            self.flows.services.clear();
        }
        None
    }

    fn check(&self) {
        let snapshot = self.registry.snapshot();
        let mut seen = StdMap::new();
        for service in snapshot.services.iter().flatten() {
            assert_eq!(snapshot.service_by_key[&service.key], service.id);
            for server in &service.servers {
                let n = hop(server.address).0 as u8;
                assert!(seen.insert(server.id, ()).is_none(), "slot {} twice", server.id);
                assert!(!snapshot.is_removed(server.id));
                if let Some(owner) = self.owners.get(&server.id.0) {
                    assert_eq!(
                        *owner,
                        (service.key.port().unwrap(), n),
                        "slot reused under a flow"
                    );
                }
            }
        }
        for (id, _) in self.owners.iter() {
            let listed = seen.contains_key(&ServerId(*id));
            assert!(listed || snapshot.is_removed(ServerId(*id)), "slot {id} forgotten");
        }
    }
}

proptest! {
    #[test]
    fn identities_hold_under_random_operations(ops in proptest::collection::vec(op(), 1..60)) {
        let mut registry = registry();
        apply(&mut registry, vec![service(80, &[(11, 1)]), service(81, &[(12, 2)])]);
        let mut world = World { registry, flows: Flows::default(), owners: StdMap::new() };
        for op in &ops {
            let before = Arc::clone(world.registry.snapshot());
            let result = world.run(op);
            let after = world.registry.snapshot();
            match result {
                Some(Ok(applied)) if applied.changed => {
                    prop_assert_eq!(after.revision, before.revision + 1);
                }
                _ => prop_assert!(Arc::ptr_eq(&before, after)),
            }
            world.check();
        }
    }

    /// When all flows have ended every slot comes back: nothing leaks.
    #[test]
    fn all_slots_return_in_the_end(ops in proptest::collection::vec(op(), 1..60)) {
        let mut registry = registry();
        apply(&mut registry, vec![service(80, &[(11, 1)])]);
        let mut world = World { registry, flows: Flows::default(), owners: StdMap::new() };
        ops.iter().for_each(|op| drop(world.run(op)));
        world.flows = Flows::default();
        let mut registry = world.registry;
        apply(&mut registry, vec![]);
        registry.apply(&Desired { pools: vec![], ..desired(vec![]) }, &mut hop).unwrap();
        for _ in 0..2 {
            let revision = registry.snapshot().revision;
            registry.reclaim(&Flows::default(), revision, Nanos(0));
        }
        prop_assert_eq!(registry.waiting(), (0, 0, 0));
        let left = (registry.service_slots.left(), registry.servers.left());
        prop_assert_eq!((left, registry.lips.room(&[]).1), ((4, 6), 3));
        prop_assert!(registry.snapshot().lips.is_empty());
    }
}

#[test]
fn a_service_that_comes_back_keeps_what_steers_its_flows() {
    let mut registry = registry();
    let kind = |registry: &Registry| registry.service(&key(80)).unwrap().1.key_kind;
    let by = |mode| {
        let mut spec = service(80, &[(11, 1)]);
        spec.servers[0].mode = mode;
        spec
    };
    apply(&mut registry, Vec::new());
    registry.add_service(&by(ForwardMode::FullNat), &mut hop).unwrap();
    assert_eq!(kind(&registry), KeyKind::ClientTuple);
    registry.remove_service(&key(80), Removal::Now).unwrap();
    // Flows may live, and other workers would own them.
    let refused = registry.add_service(&by(ForwardMode::Nat), &mut hop).unwrap_err();
    assert!(refused[0].what.contains("other workers"), "{refused:?}");
    registry.reclaim(&Flows::default(), u64::MAX, Nanos(0));
    registry.add_service(&by(ForwardMode::Nat), &mut hop).unwrap();
    assert_eq!(kind(&registry), KeyKind::ClientAddressPort);
    // The other way round there is nothing to refuse: the wider kind serves all modes.
    registry.remove_service(&key(80), Removal::Now).unwrap();
    registry.add_service(&by(ForwardMode::FullNat), &mut hop).unwrap();
    assert_eq!(kind(&registry), KeyKind::ClientAddressPort);
}
