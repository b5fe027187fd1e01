//! The lab in which the kernel was recorded, with gyre as the director: its ports, addresses,
//! routes and static neighbours, told as the kernel would tell them, through the calls that
//! control makes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use gyre::counters::WorkerCounters;
use gyre::dataplane::{Burst, FlowId, RxMeta, Verdict, WorkerConfig, WorkerState, process_burst};
use gyre::frame::Frame;
use gyre::message::FlowRow;
use gyre::model::next_hops::{
    KernelEvent, KernelRoute, Link, Neighbour, NeighbourState, NextHops, NicLink, RouteHop,
};
use gyre::model::*;
use gyre::time::Nanos;

use crate::support::{CLIENT, SERVER, mac};

/// Room in front of a frame for what is put before it.
const HEADROOM: usize = 256;

/// Addresses that are the director's own: on its links, and VIPs on `lo`.
pub const OWN_ADDRESSES: [&str; 9] = [
    "192.168.100.1",
    "fd00:64::1",
    "10.2.0.1",
    "fd00:2::1",
    "10.1.0.1",
    "10.1.0.2",
    "fd00:1::1",
    "127.0.0.1",
    "::1",
];

/// A frame on one of the links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub nic: NicId,
    pub bytes: Vec<u8>,
}

impl AsRef<Sent> for Sent {
    fn as_ref(&self) -> &Sent {
        self
    }
}

/// What became of one frame.
#[derive(Clone, Debug)]
pub struct Received {
    pub verdict: Verdict,
    /// Frames sent, in order.
    pub sent: Vec<Sent>,
    /// What the kernel interface got.
    pub to_kernel: Option<Vec<u8>>,
}

/// One worker's director in the lab.
pub struct Lab {
    pub registry: Registry,
    pub state: WorkerState,
    pub snapshot: Arc<Snapshot>,
    pub hops: NextHops,
    pub now: Nanos,
    /// What each firewall mark stands for, as configured.
    pub marks: BTreeMap<u32, Vec<MarkMatch>>,
    /// Whether services of port 21 get the helper, which the kernel has as a module.
    pub helps_ftp: bool,
}

/// Packets that get a mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkMatch {
    pub protocol: Protocol,
    /// First and last destination port.
    pub ports: (u16, u16),
}

fn nic(id: NicId, mtu: u16) -> NicModel {
    let own: [&[&str]; 2] = [&OWN_ADDRESSES[..2], &OWN_ADDRESSES[2..4]];
    NicModel {
        id,
        name: ["client", "server"][id.index()].into(),
        mac: mac(id.0 + 1, 1),
        mtu,
        kernel: KernelMode::Tap,
        vlan: None,
        addresses: own[id.index()].iter().map(|address| address.parse().unwrap()).collect(),
    }
}

/// What the kernel says of a link: itself, its addresses and its own prefixes.
fn link_events(nic: &NicModel) -> Vec<KernelEvent> {
    let ifindex = u32::from(nic.id.0) + 1;
    let link =
        Link { ifindex, name: nic.name.clone(), mac: nic.mac, mtu: u32::from(nic.mtu), up: true };
    let mut events = vec![KernelEvent::LinkChanged(link)];
    for address in nic.addresses.iter().copied() {
        events.push(KernelEvent::AddressAdded { ifindex, address });
        let bits = if address.is_ipv4() { 24 } else { 64 };
        let prefix = Prefix::new(address, bits).unwrap();
        events.push(route(prefix, Some((ifindex, None))));
    }
    events
}

fn route(prefix: Prefix, way: Option<(u32, Option<IpAddr>)>) -> KernelEvent {
    let hop = |(ifindex, gateway)| RouteHop { ifindex, gateway, dead: false };
    KernelEvent::RouteAdded(KernelRoute {
        prefix,
        metric: 0,
        mtu: None,
        hops: way.map(hop).into_iter().collect(),
    })
}

fn neighbour(ifindex: u32, address: IpAddr, mac: [u8; 6]) -> KernelEvent {
    KernelEvent::NeighbourChanged(Neighbour {
        ifindex,
        address,
        mac: Some(mac),
        state: NeighbourState::Permanent,
        managed: false,
        ours: false,
    })
}

/// The default routes and all neighbours.
fn station_events() -> Vec<KernelEvent> {
    let mut events = Vec::new();
    for (prefix, router) in [("0.0.0.0/0", "192.168.100.254"), ("::/0", "fd00:64::fe")] {
        let router: IpAddr = router.parse().unwrap();
        events.push(route(prefix.parse().unwrap(), Some((1, Some(router)))));
        events.push(neighbour(1, router, mac(1, 0xfe)));
    }
    for n in 11..=30u8 {
        let v6 = [0xfd00, 2, 0, 0, 0, 0, 0, u16::from(n)];
        for address in [IpAddr::from([10, 2, 0, n]), IpAddr::from(v6)] {
            events.push(neighbour(2, address, mac(2, n)));
        }
    }
    events
}

impl Lab {
    /// No services; MTUs of the two links.
    pub fn new(mtus: [u16; 2]) -> Self {
        let now = Nanos::from_secs(1_000);
        let nics: Vec<NicModel> = [CLIENT, SERVER].map(|id| nic(id, mtus[id.index()])).to_vec();
        let links = nics.iter().map(|nic| NicLink {
            nic: nic.id,
            interface: Some(nic.name.clone()),
            mac: nic.mac,
            mtu: nic.mtu,
        });
        let mut hops = NextHops::new(links.collect());
        hops.apply(&nics.iter().flat_map(link_events).collect::<Vec<_>>());
        hops.apply(&station_events());
        let config = WorkerConfig {
            worker: WorkerId(0),
            workers: 1,
            flows_v4_max: 1024,
            flows_v6_max: 1024,
            source_port_spaces: 16,
            seed: 7,
            counters: Arc::new(WorkerCounters::with_bounds(64, 64, 64)),
        };
        let mut registry = Registry::new(RegistryConfig::new(Arc::new(Steering::for_workers(1))));
        registry.set_nics(nics);
        let mut lab = Lab {
            snapshot: registry.snapshot().clone(),
            registry,
            state: WorkerState::new(&config, now).unwrap(),
            hops,
            now,
            marks: BTreeMap::new(),
            helps_ftp: false,
        };
        lab.flush_hops();
        lab
    }

    /// A prefix that the director's kernel calls unreachable.
    pub fn make_unreachable(&mut self, prefix: Prefix) {
        self.hops.apply(&[route(prefix, None)]);
        self.flush_hops();
    }

    /// Runs a change of the registry as control would, and adopts what comes of it.
    pub fn change(
        &mut self,
        change: impl FnOnce(&mut Registry, HopFor) -> Result<Applied, Vec<SpecProblem>>,
    ) -> Result<(), Vec<SpecProblem>> {
        let hops = &mut self.hops;
        change(&mut self.registry, &mut |rip| hops.hop_for_server(rip).unwrap())?;
        self.flush_hops();
        Ok(())
    }

    /// Next hops first, then the snapshot that names them.
    fn flush_hops(&mut self) {
        for (id, hop) in self.hops.take_updates() {
            self.state.set_next_hop(id, hop);
        }
        if let Some(update) = self.hops.take_routes() {
            self.registry.set_routes(update.table);
        }
        self.snapshot = self.registry.snapshot().clone();
        self.state.adopt(&self.snapshot);
    }

    /// Sends a frame to the director; fragments that waited for it follow.
    pub fn receive(&mut self, nic: NicId, bytes: &[u8]) -> Received {
        let mut received = self.process(RxMeta { nic, ..RxMeta::default() }, bytes);
        loop {
            let mut waited = None;
            self.state.resume_fragments(1, |rx, bytes| waited = Some((rx, bytes.to_vec())));
            let Some((rx, bytes)) = waited else { return received };
            received.sent.extend(self.process(rx, &bytes).sent);
        }
    }

    fn process(&mut self, rx: RxMeta, bytes: &[u8]) -> Received {
        let end = HEADROOM + bytes.len();
        let mut buffer = vec![0xee; end + 2048];
        buffer[HEADROOM..end].copy_from_slice(bytes);
        let mut burst = Burst::new();
        burst.push(Frame::new(&mut buffer, HEADROOM, end), rx).unwrap();
        process_burst(&mut self.state, &self.snapshot, &mut burst, self.now);
        let slot = &burst.slots[0];
        let verdict = slot.verdict.unwrap();
        let bytes = slot.frame.bytes().to_vec();
        let mut sent = self.drain();
        let mut to_kernel = None;
        match verdict {
            Verdict::Transmit(nic) => sent.push(Sent { nic, bytes }),
            Verdict::ToKernel(_) => to_kernel = Some(bytes),
            _ => {}
        }
        Received { verdict, sent, to_kernel }
    }

    fn drain(&mut self) -> Vec<Sent> {
        let mut sent = Vec::new();
        self.state.outbox.drain(|nic, bytes| sent.push(Sent { nic, bytes: bytes.to_vec() }));
        sent
    }

    /// Lets time pass, timers included.
    pub fn advance(&mut self, seconds: f64) -> Vec<Sent> {
        let steps = (seconds / 0.1).ceil().max(1.0) as u64;
        for _ in 0..steps {
            self.now = self.now + (seconds * 1e9) as u64 / steps;
            while self.state.expire(&self.snapshot, self.now) > 0 {}
        }
        self.drain()
    }

    /// The connection table, templates included.
    pub fn rows(&self) -> Vec<FlowRow> {
        let state = &self.state;
        let ids = std::iter::successors(state.next_template(0), |id| state.next_template(id.0 + 1));
        let templates = ids.filter_map(|id| state.template_row(id, &self.snapshot, self.now));
        self.flows().into_iter().chain(templates).collect()
    }

    /// All flows, as people see them.
    pub fn flows(&self) -> Vec<FlowRow> {
        let ids = std::iter::successors(self.state.flows.next_live(0), |id| {
            self.state.flows.next_live(id.0 + 1)
        });
        ids.filter_map(|id: FlowId| self.state.row(id, self.now)).collect()
    }
}
