//! What each scheduler takes to pick a server, and the Maglev table to be built.

use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;

use divan::Bencher;
use divan::counter::ItemsCount;
use gyre::counters::WorkerCounters;
use gyre::dataplane::FlowKey;
use gyre::dataplane::parts::Schedulers;
use gyre::model::{
    Desired, ForwardMode, HashFlags, MaglevTable, NextHopId, Protocol, Registry, RegistryConfig,
    Removal, SchedulerSpec, Semantics, ServerSpec, ServiceKey, ServiceSpec, Snapshot, Steering,
};
use gyre::time::Nanos;

use crate::BURST;

const NOW: Nanos = Nanos::from_secs(1_000);
const SCHEDULERS: [(&str, SchedulerSpec); 14] = [
    ("rr", SchedulerSpec::RoundRobin),
    ("wrr", SchedulerSpec::WeightedRoundRobin),
    ("lc", SchedulerSpec::LeastConnections),
    ("wlc", SchedulerSpec::WeightedLeastConnections),
    ("lblc", SchedulerSpec::LocalityLeastConnections),
    ("lblcr", SchedulerSpec::ReplicatedLocality),
    ("dh", SchedulerSpec::DestinationHash),
    ("sh", SchedulerSpec::SourceHash(HashFlags { fallback: false, port: false })),
    ("sed", SchedulerSpec::ShortestExpectedDelay),
    ("nq", SchedulerSpec::NeverQueue),
    ("fo", SchedulerSpec::Failover),
    ("ovf", SchedulerSpec::Overflow),
    ("mh", SchedulerSpec::KernelMaglev(HashFlags { fallback: false, port: false })),
    ("maglev", SchedulerSpec::Maglev { slots: 65_537 }),
];

fn servers(count: u16) -> Vec<ServerSpec> {
    let one = |at: u16| {
        let [c, d] = at.to_be_bytes();
        let weight = 1 + u32::from(at % 3);
        ServerSpec::new(
            (IpAddr::from([198, 19, c, d]), 80).into(),
            weight,
            ForwardMode::DirectRoute,
        )
    };
    (1..=count).map(one).collect()
}

fn snapshot(key: ServiceKey, scheduler: SchedulerSpec) -> Arc<Snapshot> {
    let mut registry = Registry::new(RegistryConfig::new(Arc::new(Steering::for_workers(1))));
    let service = ServiceSpec { servers: servers(10), ..ServiceSpec::new(key, scheduler) };
    let wanted = Desired {
        pools: Vec::new(),
        services: vec![service],
        semantics: Semantics::default(),
        removal: Removal::Now,
    };
    let applied = registry.apply(&wanted, &mut |_| NextHopId(0));
    applied.expect("a service without fault").snapshot
}

/// Ten servers of three weights, none with flows.
#[divan::bench(args = SCHEDULERS.map(|(name, _)| name))]
fn pick(bencher: Bencher, name: &str) {
    let (_, scheduler) = SCHEDULERS.into_iter().find(|(known, _)| *known == name).expect("known");
    let vip = IpAddr::from([198, 18, 0, 1]);
    let key = ServiceKey::new(Protocol::Tcp, vip, 80);
    let snapshot = snapshot(key, scheduler);
    let service = snapshot.service_of(&key).expect("the service");
    let counters = WorkerCounters::with_bounds(64, 64, 64);
    let mut schedulers = Schedulers::new(64, 42);
    schedulers.adopt(&snapshot);
    let keys = (0..BURST).map(|at| FlowKey {
        protocol: Protocol::Tcp,
        src: IpAddr::from([198, 18, 1, at as u8]),
        dst: vip,
        src_port: 1024,
        dst_port: 80,
    });
    let keys: Vec<FlowKey> = keys.collect();
    bencher.counter(ItemsCount::new(BURST)).bench_local(|| {
        for key in black_box(&keys) {
            let picked = schedulers.pick(service, key, &counters, NOW);
            assert!(black_box(picked).is_some());
        }
    });
}

/// 65,537 slots.
#[divan::bench(args = [10, 100, 1000])]
fn maglev_table(bencher: Bencher, count: u16) {
    let servers = servers(count);
    let servers: Vec<(IpAddr, u16, u32)> =
        servers.iter().map(|server| (server.address, server.port, server.weight)).collect();
    bencher.bench(|| MaglevTable::new(65_537, black_box(&servers)).expect("a prime"));
}
