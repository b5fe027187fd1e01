//! The product's registry and packet path, set up for one service.

use std::net::IpAddr;
use std::sync::Arc;

use gyre::counters::WorkerCounters;
use gyre::dataplane::{Burst, RxMeta, Verdict, WorkerConfig, WorkerState, process_burst};
use gyre::model::{
    Desired, ForwardMode, KernelMode, NextHop, NextHopId, NicId, NicModel, PoolSpec, Protocol,
    Registry, RegistryConfig, Removal, RouteTable, RouteTarget, SchedulerSpec, Semantics,
    ServerSpec, ServiceKey, ServiceSpec, Snapshot, Steering, WorkerId,
};
use gyre::time::Nanos;

use crate::source::{BURST, DIRECTOR_MAC, Source, VIP, frame_of};

/// Servers behind the service.
const SERVERS: u8 = 32;
/// FULLNAT local addresses: enough ports for every flow.
const LOCALS: u8 = 4;

/// Forwarding mode of a case.
pub type Mode = ForwardMode;

/// One worker with one service.
pub struct Bench {
    state: WorkerState,
    snapshot: Arc<Snapshot>,
    now: Nanos,
}

fn hop(neighbour: IpAddr) -> NextHop {
    NextHop {
        nic: NicId(0),
        resolved: true,
        dst_mac: [2, 0, 0, 0, 2, 9],
        src_mac: DIRECTOR_MAC.0,
        mtu: 1500,
        neighbour,
    }
}

fn server(at: u8) -> IpAddr {
    IpAddr::from([198, 19, 1, at])
}

fn desired(mode: Mode) -> Desired {
    let key = ServiceKey::new(Protocol::Udp, VIP.into(), 80);
    let mut service = ServiceSpec::new(key, SchedulerSpec::RoundRobin);
    service.pool = (mode == ForwardMode::FullNat).then(|| "pool".into());
    let servers = (0..SERVERS).map(|at| ServerSpec::new((server(at), 80).into(), 1, mode));
    service.servers = servers.collect();
    let pool = PoolSpec {
        name: "pool".into(),
        addresses: (0..LOCALS).map(|at| IpAddr::from([198, 19, 2, at])).collect(),
        ports: (1024, 65_535),
    };
    Desired {
        pools: vec![pool],
        services: vec![service],
        semantics: Semantics::default(),
        removal: Removal::Now,
    }
}

impl Bench {
    /// A director with room for twice `flows`.
    pub fn new(mode: Mode, flows: usize) -> anyhow::Result<Self> {
        let now = Nanos::from_secs(1);
        let config = WorkerConfig {
            worker: WorkerId(0),
            workers: 1,
            flows_v4_max: 2 * flows,
            flows_v6_max: 1,
            source_port_spaces: usize::from(SERVERS) * usize::from(LOCALS),
            seed: 42,
            counters: Arc::new(WorkerCounters::with_bounds(64, 64, 64)),
        };
        let mut state = WorkerState::new(&config, now)?;
        let mut registry = Registry::new(RegistryConfig::new(Arc::new(Steering::for_workers(1))));
        registry.set_nics(vec![NicModel {
            id: NicId(0),
            name: "bench".into(),
            mac: DIRECTOR_MAC.0,
            mtu: 1500,
            kernel: KernelMode::None,
            vlan: None,
            addresses: Vec::new(),
        }]);
        let router = NextHopId(SERVERS.into());
        let route = ("0.0.0.0/0".parse()?, RouteTarget::Via(router));
        registry.set_routes(Arc::new(RouteTable::new(&[route], &[])));
        let mut slot = 0;
        let applied = registry.apply(&desired(mode), &mut |rip| {
            let id = NextHopId(slot);
            state.set_next_hop(id, hop(rip));
            slot += 1;
            id
        });
        let applied = applied.map_err(|problems| anyhow::anyhow!("{problems:?}"))?;
        state.set_next_hop(router, hop(server(0)));
        Ok(Bench { state, snapshot: applied.snapshot, now })
    }

    /// Sends every client's first datagram.
    pub fn establish(&mut self, source: &mut Source) -> anyhow::Result<()> {
        let flows = source.flows();
        let frames = flows.div_ceil(BURST) * BURST;
        anyhow::ensure!(self.forward(source, frames) == frames, "not every first frame was sent");
        anyhow::ensure!(self.state.flows.len() == flows, "{} flows", self.state.flows.len());
        Ok(())
    }

    /// Forwards so many frames and says how many went out.
    pub fn forward(&mut self, source: &mut Source, frames: usize) -> usize {
        let (mut sent, mut forwarded) = (0, 0);
        while sent < frames {
            let mut burst = Burst::new();
            for buffer in source.burst() {
                // The burst has room for all of them.
                let _ = burst.push(frame_of(buffer), RxMeta::default());
            }
            process_burst(&mut self.state, &self.snapshot, &mut burst, self.now);
            forwarded +=
                burst.verdicts().filter(|verdict| matches!(verdict, Verdict::Transmit(_))).count();
            sent += BURST;
        }
        forwarded
    }

    /// Packets that the entries saw, and entries that saw any.
    pub fn packets(&self) -> (u64, usize) {
        let ids = std::iter::successors(self.state.flows.next_live(0), |id| {
            self.state.flows.next_live(id.0 + 1)
        });
        let counts = ids.filter_map(|id| self.state.row(id, self.now)).map(|row| row.packets);
        counts.fold((0, 0), |(sum, touched), packets| {
            (sum + u64::from(packets), touched + usize::from(packets > 0))
        })
    }
}
