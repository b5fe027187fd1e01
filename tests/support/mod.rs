//! A director in a test: the product's registry and packet path, two ports, a clock set by hand.
//! The addresses are those of the lab in which the kernel was recorded.
#![allow(dead_code)]

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use gyre::counters::{DropReason, WorkerCounters};
use gyre::dataplane::{
    Burst, Errand, FlowId, RxMeta, Verdict, WorkerConfig, WorkerState, process_burst,
};
use gyre::frame::Frame;
use gyre::message::FlowRow;
use gyre::model::*;
use gyre::time::Nanos;
use gyre::wire::build::{IpBuilder, PacketBuilder};
use gyre::wire::ethernet::MacAddr;
use gyre::wire::pair::MacPair;

/// Port towards clients.
pub const CLIENT: NicId = NicId(0);
/// Port towards servers.
pub const SERVER: NicId = NicId(1);

/// MAC addresses of the lab, by the last two bytes.
pub const fn mac(link: u8, host: u8) -> [u8; 6] {
    [2, 0, 0, 0, link, host]
}

/// The director's MAC address on a port.
pub fn director_mac(nic: NicId) -> MacAddr {
    MacAddr(mac(nic.0 + 1, 1))
}

/// The router towards the clients.
pub const ROUTER_MAC: MacAddr = MacAddr(mac(1, 0xfe));

/// A server's MAC address: its last address byte.
pub fn server_mac(address: IpAddr) -> MacAddr {
    let last = match address {
        IpAddr::V4(v4) => v4.octets()[3],
        IpAddr::V6(v6) => v6.octets()[15],
    };
    MacAddr(mac(2, last))
}

/// What became of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub verdict: Verdict,
    /// The frame as it then was.
    pub frame: Vec<u8>,
    /// Frames made besides.
    pub extra: Vec<(NicId, Vec<u8>)>,
}

impl Outcome {
    /// The port the frame left by.
    pub fn sent_on(&self) -> Option<NicId> {
        match self.verdict {
            Verdict::Transmit(nic) => Some(nic),
            _ => None,
        }
    }
}

/// One worker's director.
pub struct Director {
    pub registry: Registry,
    pub state: WorkerState,
    pub snapshot: Arc<Snapshot>,
    pub now: Nanos,
    /// What became of fragments that waited.
    pub resumed: Vec<Verdict>,
    hops: Vec<IpAddr>,
}

/// The director's own addresses by port.
pub const OWN_ADDRESSES: [[&str; 2]; 2] =
    [["192.168.100.1", "fd00:64::1"], ["10.2.0.1", "fd00:2::1"]];

fn nic(id: NicId, kernel: KernelMode) -> NicModel {
    NicModel {
        id,
        name: ["client", "server"][id.index()].into(),
        mac: director_mac(id).0,
        mtu: 1500,
        kernel,
        vlan: None,
        addresses: OWN_ADDRESSES[id.index()].iter().map(|text| text.parse().unwrap()).collect(),
    }
}

impl Director {
    /// No services; a default route to the client-side router.
    pub fn new(kernel: KernelMode) -> Self {
        Director::with_nics(vec![nic(CLIENT, kernel), nic(SERVER, kernel)])
    }

    /// The same without the fast path.
    pub fn general(kernel: KernelMode) -> Self {
        let mut director = Director::new(kernel);
        director.state = director.state.without_fast_path();
        director
    }

    /// One worker of several; frames to others are the test's to carry.
    pub fn of_many(kernel: KernelMode, worker: WorkerId, workers: u8) -> Self {
        Director::with(vec![nic(CLIENT, kernel), nic(SERVER, kernel)], worker, workers)
    }

    pub fn with_nics(nics: Vec<NicModel>) -> Self {
        Director::with(nics, WorkerId(0), 1)
    }

    fn with(nics: Vec<NicModel>, worker: WorkerId, workers: u8) -> Self {
        let now = Nanos::from_secs(1_000);
        let config = WorkerConfig {
            worker,
            workers,
            flows_v4_max: 1024,
            flows_v6_max: 1024,
            source_port_spaces: 16,
            seed: 7,
            counters: Arc::new(WorkerCounters::with_bounds(64, 64, 64)),
        };
        let mut director = Director {
            registry: Registry::new(RegistryConfig::new(Arc::new(Steering::for_workers(workers)))),
            state: WorkerState::new(&config, now).unwrap(),
            snapshot: Arc::new(Snapshot::empty()),
            now,
            resumed: Vec::new(),
            hops: Vec::new(),
        };
        let router = director.hop(CLIENT, "192.168.100.254".parse().unwrap(), ROUTER_MAC);
        let routes = ["0.0.0.0/0", "::/0"].map(|p| (p.parse().unwrap(), RouteTarget::Via(router)));
        director.registry.set_nics(nics);
        let applied = director.registry.set_routes(Arc::new(RouteTable::new(&routes, &[])));
        director.publish(applied.snapshot);
        director
    }

    fn hop(&mut self, nic: NicId, neighbour: IpAddr, dst: MacAddr) -> NextHopId {
        let at = self.hops.iter().position(|known| *known == neighbour).unwrap_or_else(|| {
            self.hops.push(neighbour);
            self.hops.len() - 1
        });
        let id = NextHopId(at as u16);
        let hop = NextHop {
            nic,
            resolved: true,
            macs: MacPair::new(dst.0, director_mac(nic).0),
            mtu: 1500,
            neighbour,
        };
        self.state.set_next_hop(id, hop);
        id
    }

    pub fn publish(&mut self, snapshot: Arc<Snapshot>) {
        self.state.adopt(&snapshot);
        self.snapshot = snapshot;
    }

    /// Runs a change of the registry as control would, and adopts what comes of it.
    pub fn change(
        &mut self,
        change: impl FnOnce(&mut Registry, HopFor) -> Result<Applied, Vec<SpecProblem>>,
    ) -> Result<(), Vec<SpecProblem>> {
        let mut wanted = Vec::new();
        let base = self.hops.clone();
        let mut hop_for = |rip: IpAddr| {
            let known = base.iter().chain(&wanted).position(|address| *address == rip);
            let at = known.unwrap_or_else(|| {
                wanted.push(rip);
                base.len() + wanted.len() - 1
            });
            NextHopId(at as u16)
        };
        let applied = change(&mut self.registry, &mut hop_for)?;
        for rip in wanted {
            self.hop(SERVER, rip, server_mac(rip));
        }
        self.publish(applied.snapshot);
        Ok(())
    }

    /// Sends a frame to the director.
    pub fn receive(&mut self, nic: NicId, frame: &[u8]) -> Outcome {
        self.receive_burst(nic, &[frame]).remove(0)
    }

    /// Sends frames in one burst; extra frames are with the last.
    pub fn receive_burst(&mut self, nic: NicId, frames: &[&[u8]]) -> Vec<Outcome> {
        let frames: Vec<(NicId, Vec<u8>)> =
            frames.iter().map(|frame| (nic, frame.to_vec())).collect();
        self.receive_mixed(&frames)
    }

    /// One frame with what is known of it; also what a frame for another worker is carried for.
    pub fn receive_from(&mut self, rx: &RxMeta, frame: &[u8]) -> (Outcome, Errand) {
        const HEADROOM: usize = 128;
        let mut buffer = vec![0xee; HEADROOM + 2048];
        buffer[HEADROOM..HEADROOM + frame.len()].copy_from_slice(frame);
        let mut burst = Burst::new();
        burst.push(Frame::new(&mut buffer, HEADROOM, HEADROOM + frame.len()), *rx).unwrap();
        process_burst(&mut self.state, &self.snapshot, &mut burst, self.now);
        let slot = &burst.slots[0];
        let (verdict, frame) = (slot.verdict.unwrap(), slot.frame.bytes().to_vec());
        (Outcome { verdict, frame, extra: Vec::new() }, slot.rx.errand)
    }

    /// As `receive_burst`, with frames of several ports.
    pub fn receive_mixed(&mut self, frames: &[(NicId, Vec<u8>)]) -> Vec<Outcome> {
        const HEADROOM: usize = 128;
        let mut buffers: Vec<Vec<u8>> = frames
            .iter()
            .map(|(_, frame)| {
                let mut buffer = vec![0xee; HEADROOM + 2048];
                buffer[HEADROOM..HEADROOM + frame.len()].copy_from_slice(frame);
                buffer
            })
            .collect();
        let mut burst = Burst::new();
        for (buffer, (nic, frame)) in buffers.iter_mut().zip(frames) {
            let rx = RxMeta { nic: *nic, ..RxMeta::default() };
            burst.push(Frame::new(buffer, HEADROOM, HEADROOM + frame.len()), rx).unwrap();
        }
        process_burst(&mut self.state, &self.snapshot, &mut burst, self.now);
        let mut outcomes: Vec<Outcome> = burst
            .slots
            .iter()
            .map(|slot| Outcome {
                verdict: slot.verdict.unwrap(),
                frame: slot.frame.bytes().to_vec(),
                extra: Vec::new(),
            })
            .collect();
        let last = outcomes.last_mut().unwrap();
        self.state.outbox.drain(|nic, bytes| last.extra.push((nic, bytes.to_vec())));
        let resumed = self.resume();
        outcomes.last_mut().unwrap().extra.extend(resumed);
        outcomes
    }

    /// What becomes of fragments whose first one has come: frames sent, those to the kernel not.
    fn resume(&mut self) -> Vec<(NicId, Vec<u8>)> {
        let mut sent = Vec::new();
        loop {
            let mut waited = Vec::new();
            self.state.resume_fragments(1, |rx, bytes| waited.push((rx, bytes.to_vec())));
            let Some((rx, bytes)) = waited.pop() else { return sent };
            let mut buffer = vec![0xee; 128 + 2048];
            buffer[128..128 + bytes.len()].copy_from_slice(&bytes);
            let mut burst = Burst::new();
            burst.push(Frame::new(&mut buffer, 128, 128 + bytes.len()), rx).unwrap();
            process_burst(&mut self.state, &self.snapshot, &mut burst, self.now);
            self.state.outbox.drain(|nic, bytes| sent.push((nic, bytes.to_vec())));
            let verdict = burst.slots[0].verdict.unwrap();
            self.resumed.push(verdict);
            if let Verdict::Transmit(nic) = verdict {
                sent.push((nic, burst.slots[0].frame.bytes().to_vec()));
            }
        }
    }

    /// Lets time pass, timers included.
    pub fn advance(&mut self, seconds: f64) {
        let steps = (seconds / 0.1).ceil() as u64;
        for _ in 0..steps.max(1) {
            self.now = self.now + (seconds * 1e9) as u64 / steps.max(1);
            while self.state.expire(&self.snapshot, self.now) > 0 {}
        }
    }

    /// All flows, as people see them.
    pub fn flows(&self) -> Vec<FlowRow> {
        let ids = std::iter::successors(self.state.flows.next_live(0), |id| {
            self.state.flows.next_live(id.0 + 1)
        });
        ids.filter_map(|id: FlowId| self.state.row(id, self.now)).collect()
    }

    /// The flow of a client.
    pub fn flow(&self, client: SocketAddr) -> Option<FlowRow> {
        self.flows().into_iter().find(|row| SocketAddr::from(row.client) == client)
    }

    pub fn drops(&self, reason: DropReason) -> u64 {
        self.state.counters.drops[reason as usize].get()
    }
}

/// A packet from a client, as the client-side router sends it.
pub fn from_client(src: IpAddr, dst: IpAddr) -> IpBuilder {
    PacketBuilder::new().ethernet(ROUTER_MAC, director_mac(CLIENT)).ip(src, dst).unwrap()
}

/// A packet from a server.
pub fn from_server(src: IpAddr, dst: IpAddr) -> IpBuilder {
    PacketBuilder::new().ethernet(server_mac(src), director_mac(SERVER)).ip(src, dst).unwrap()
}

/// A server's specification.
pub fn server(address: SocketAddr, weight: u32, mode: ForwardMode) -> ServerSpec {
    ServerSpec::new(address, weight, mode)
}

/// Everything wanted, with one pool of local addresses for both families.
pub fn desired(services: Vec<ServiceSpec>) -> Desired {
    let pool = PoolSpec {
        name: "pool".into(),
        addresses: vec!["10.2.0.1".parse().unwrap(), "fd00:2::1".parse().unwrap()],
        ports: (1024, 65535),
    };
    Desired { pools: vec![pool], services, semantics: Semantics::default(), removal: Removal::Now }
}
