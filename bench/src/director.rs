//! The product's registry, tables and worker, set up for one service.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context, ensure};
use gyre::control::WorkerLink;
use gyre::counters::WorkerCounters;
use gyre::dataplane::{FlowId, WorkerConfig};
use gyre::dpdk::{Eal, MbufPool, TscClock};
use gyre::message::{FlowRow, ToWorker};
use gyre::model::{
    Desired, ForwardMode, KernelMode, NextHop, NextHopId, NicId, NicModel, PoolSpec, Protocol,
    Registry, RegistryConfig, Removal, RouteTable, RouteTarget, SchedulerSpec, Semantics,
    ServerSpec, ServiceKey, ServiceSpec, Snapshot, Steering, WorkerId,
};
use gyre::runtime::crossing::Peers;
use gyre::runtime::idle::IdlePolicy;
use gyre::runtime::transmit::Way;
use gyre::runtime::worker::{Worker, WorkerParts, WorkerPort};
use gyre::wire::build::{IpBuilder, PacketBuilder};
use gyre::wire::ethernet::MacAddr;
use gyre::wire::tcp::TcpFlags;

use crate::source::{Schedule, Shared, Sink, Source, Window};
use crate::stages::{Switch, Which};

/// Servers behind the service.
const SERVERS: u8 = 32;
/// FULLNAT local addresses: enough ports for every flow.
const LOCALS: u8 = 8;
/// The smallest Ethernet frame, without FCS.
const FRAME_BYTES: usize = 60;

const CLIENT_MAC: MacAddr = MacAddr([2, 0, 0, 0, 1, 0xfe]);
const DIRECTOR_MAC: MacAddr = MacAddr([2, 0, 0, 0, 1, 1]);
/// Of every next hop.
pub const NEIGHBOUR_MAC: MacAddr = MacAddr([2, 0, 0, 0, 2, 9]);

/// What a case forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// Forwarding mode.
    pub mode: ForwardMode,
    /// Whether the servers' packets are measured and not the clients'.
    pub replies: bool,
    /// Address family.
    pub is_ipv4: bool,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Live flows.
    pub flows: usize,
    /// Frames a burst.
    pub burst: usize,
}

/// One worker with one service, and the window that it polls.
pub struct Director {
    worker: Worker<Switch>,
    /// Source and sink.
    pub window: Shared,
    /// The stage that runs.
    pub which: Rc<Cell<Which>>,
    /// What the worker counts.
    pub counters: Arc<WorkerCounters>,
    traffic: Traffic,
    link: WorkerLink,
}

impl Traffic {
    fn address(&self, v4: [u8; 4], v6_low: u32) -> IpAddr {
        if self.is_ipv4 {
            v4.into()
        } else {
            let [a, b, c, d] = v6_low.to_be_bytes().map(u16::from);
            IpAddr::from([0x2001, 2, 0, 0, 0, u16::from(v4[2]), a << 8 | b, c << 8 | d])
        }
    }

    /// Whether that is one of the servers.
    pub fn is_server(&self, address: IpAddr) -> bool {
        (0..SERVERS).any(|at| self.server(at) == address)
    }

    /// Whether that is one of the director's FULLNAT addresses.
    pub fn is_local(&self, address: IpAddr) -> bool {
        (0..LOCALS).any(|at| self.local(at) == address)
    }

    /// Whether that is one of the clients.
    pub fn is_client(&self, address: IpAddr) -> bool {
        (0..self.flows.min(1 << 16)).any(|flow| self.client(flow).0 == address)
    }

    /// The service's address.
    pub fn vip(&self) -> IpAddr {
        self.address([198, 19, 0, 1], 1)
    }

    fn server(&self, at: u8) -> IpAddr {
        self.address([198, 19, 1, at], at.into())
    }

    fn local(&self, at: u8) -> IpAddr {
        self.address([198, 19, 2, at], at.into())
    }

    /// Clients differ in address; beyond a /16's worth in port too.
    fn client(&self, flow: usize) -> (IpAddr, u16) {
        let (low, high) = (flow as u32 & 0xffff, flow as u32 >> 16);
        let [_, _, c, d] = low.to_be_bytes();
        let address = if self.is_ipv4 {
            IpAddr::from([198, 18, c, d])
        } else {
            IpAddr::from([0x2001, 2, 1, 0, 0, 0, 0, low as u16])
        };
        (address, 1024 + high as u16)
    }

    fn frame(
        &self,
        (src, src_port): (IpAddr, u16),
        (dst, dst_port): (IpAddr, u16),
        flags: TcpFlags,
    ) -> Vec<u8> {
        let ip: IpBuilder = PacketBuilder::new()
            .ethernet(CLIENT_MAC, DIRECTOR_MAC)
            .ip(src, dst)
            .expect("one family");
        let headers = if self.is_ipv4 { 34 } else { 54 };
        let bytes = match self.protocol {
            Protocol::Udp => {
                let payload = vec![0; FRAME_BYTES.saturating_sub(headers + 8)];
                ip.udp(src_port, dst_port).payload(&payload).build()
            }
            Protocol::Tcp => {
                let payload = vec![0; FRAME_BYTES.saturating_sub(headers + 20)];
                ip.tcp(src_port, dst_port).flags(flags).payload(&payload).build()
            }
        };
        bytes.to_vec()
    }

    /// Every client's packet with these flags, in order.
    fn clients_frames(&self, flags: TcpFlags) -> Schedule {
        let frame = |flow| self.frame(self.client(flow), (self.vip(), 80), flags);
        schedule(self.flows, frame)
    }

    /// Every server's answer, in order of the flows' rows.
    fn servers_frames(&self, rows: &[FlowRow], flags: TcpFlags) -> Schedule {
        schedule(rows.len(), |at| {
            let row = &rows[at];
            self.frame(row.server, row.local.unwrap_or(row.client), flags)
        })
    }
}

fn schedule(count: usize, frame: impl Fn(usize) -> Vec<u8>) -> Schedule {
    let mut schedule = Schedule::new(&frame(0));
    (0..count).for_each(|at| schedule.push(&frame(at)));
    schedule
}

fn hop(neighbour: IpAddr) -> NextHop {
    NextHop {
        nic: NicId(0),
        resolved: true,
        dst_mac: NEIGHBOUR_MAC.0,
        src_mac: DIRECTOR_MAC.0,
        mtu: 1500,
        neighbour,
    }
}

fn desired(traffic: &Traffic) -> Desired {
    let key = ServiceKey::new(traffic.protocol, traffic.vip(), 80);
    let mut service = ServiceSpec::new(key, SchedulerSpec::RoundRobin);
    service.pool = (traffic.mode == ForwardMode::FullNat).then(|| "pool".into());
    let server = |at| ServerSpec::new((traffic.server(at), 80).into(), 1, traffic.mode);
    service.servers = (0..SERVERS).map(server).collect();
    let pool = PoolSpec {
        name: "pool".into(),
        addresses: (0..LOCALS).map(|at| traffic.local(at)).collect(),
        ports: (1024, 65_535),
    };
    Desired {
        pools: vec![pool],
        services: vec![service],
        semantics: Semantics::default(),
        removal: Removal::Now,
    }
}

/// Next hops by slot.
type Hops = Vec<(NextHopId, NextHop)>;

/// The registry's snapshot and the next hops that it names.
fn plan(traffic: &Traffic) -> anyhow::Result<(Arc<Snapshot>, Hops)> {
    let mut registry = Registry::new(RegistryConfig::new(Arc::new(Steering::for_workers(1))));
    registry.set_nics(vec![NicModel {
        id: NicId(0),
        name: "bench".into(),
        mac: DIRECTOR_MAC.0,
        mtu: 1500,
        kernel: KernelMode::None,
        vlan: None,
        addresses: vec![traffic.address([198, 19, 3, 1], 1)],
    }]);
    let router = NextHopId(SERVERS.into());
    let route = |prefix: &str| anyhow::Ok((prefix.parse()?, RouteTarget::Via(router)));
    registry.set_routes(Arc::new(RouteTable::new(&[route("0.0.0.0/0")?, route("::/0")?], &[])));
    let mut hops = vec![(router, hop(traffic.vip()))];
    let applied = registry.apply(&desired(traffic), &mut |rip| {
        let id = NextHopId(hops.len() as u16 - 1);
        hops.push((id, hop(rip)));
        id
    });
    let applied = applied.map_err(|problems| anyhow::anyhow!("{problems:?}"))?;
    Ok((applied.snapshot, hops))
}

impl Director {
    /// A worker without flows. Runs on the worker's own thread.
    pub fn new(eal: &Eal, pool: &MbufPool, traffic: Traffic) -> anyhow::Result<Self> {
        let (snapshot, hops) = plan(&traffic)?;
        let counters = Arc::new(WorkerCounters::with_bounds(64, 64, 64));
        let (v4, v6) = if traffic.is_ipv4 { (traffic.flows, 1) } else { (1, traffic.flows) };
        let config = WorkerConfig {
            worker: WorkerId(0),
            workers: 1,
            // A sixteenth beyond, as the product keeps free.
            flows_v4_max: v4 + v4 / 8 + 64,
            flows_v6_max: v6 + v6 / 8 + 64,
            source_port_spaces: usize::from(SERVERS) * usize::from(LOCALS),
            seed: 42,
            counters: Arc::clone(&counters),
        };
        let capacity = config.flows_v4_max + config.flows_v6_max;
        let (link, control) = WorkerLink::new(WorkerId(0), &snapshot, &counters);
        let which = Rc::new(Cell::new(Which::Gyre));
        let entry_lines = if traffic.is_ipv4 { 1 } else { 2 };
        // A line of the index has eight slots, half of them used, and a flow may have two.
        let stage = Switch::new(Rc::clone(&which), capacity / 2, capacity * entry_lines)?;
        let first = Rc::new(traffic.clients_frames(TcpFlags::SYN));
        let window = Rc::new(RefCell::new(Window::new(pool, traffic.burst, first)?));
        let port = WorkerPort {
            rx: Some(Source(Rc::clone(&window))),
            way: Way::Queue(Sink(Rc::clone(&window))),
            kernel: KernelMode::None,
        };
        let parts = WorkerParts {
            stage,
            config,
            ports: vec![port],
            control,
            peers: Peers::mesh(1).remove(0),
            kernel: None,
            pool: pool.clone(),
            clock: TscClock::new(eal),
            idle: IdlePolicy::Poll,
            stop: Arc::default(),
        };
        let worker = Worker::new(parts)?;
        let mut director = Director { worker, window, which, counters, traffic, link };
        for (id, hop) in hops {
            let pushed = director.link.commands.push(ToWorker::SetNextHop(id, hop));
            ensure!(pushed.is_ok(), "the command ring is full");
            director.worker.turn_or_wait();
        }
        Ok(director)
    }

    /// Runs the worker until so many more frames were given and dealt with.
    #[inline(never)]
    pub fn run(&mut self, frames: usize) {
        self.window.borrow_mut().remaining = frames;
        while self.window.borrow().remaining > 0 {
            self.worker.turn_or_wait();
        }
        self.worker.turn_or_wait();
    }

    /// Sends a schedule once, every frame of which must go out.
    fn pass(&mut self, schedule: Schedule) -> anyhow::Result<()> {
        let (frames, before) = (schedule.len(), self.window.borrow().forwarded);
        self.window.borrow_mut().follow(&Rc::new(schedule));
        self.run(frames);
        let forwarded = self.window.borrow().forwarded - before;
        ensure!(forwarded == frames as u64, "{frames} frames sent, {forwarded} went out");
        Ok(())
    }

    /// Entry lines that the roofline has touched so far.
    pub fn touched(&self) -> usize {
        self.worker.stage().touched()
    }

    /// Packets that flows have seen, and flows there are.
    pub fn packets(&self) -> (u64, usize) {
        let state = self.worker.state();
        let packets = self.ids().filter_map(|id| state.flows.core(id)).map(|core| core.packets);
        packets.fold((0, 0), |(sum, count), packets| (sum + u64::from(packets), count + 1))
    }

    /// Processor ticks since some moment.
    pub fn ticks(&self) -> u64 {
        gyre::dpdk::ticks()
    }

    /// Every flow of the table.
    fn rows(&self) -> Vec<FlowRow> {
        let state = self.worker.state();
        self.ids().filter_map(|id| state.row(id, gyre::time::Nanos(0))).collect()
    }

    fn ids(&self) -> impl Iterator<Item = FlowId> + '_ {
        let flows = &self.worker.state().flows;
        std::iter::successors(flows.next_live(0), |id| flows.next_live(id.0 + 1))
    }

    /// Opens every flow with real handshakes, and returns the frames of its established life.
    pub fn establish(&mut self) -> anyhow::Result<Schedule> {
        let traffic = self.traffic;
        let answers = matches!(traffic.mode, ForwardMode::Nat | ForwardMode::FullNat);
        self.pass(traffic.clients_frames(TcpFlags::SYN)).context("opening flows")?;
        let flows = self.worker.state().flows.len();
        ensure!(flows == traffic.flows, "{flows} flows after {} first packets", traffic.flows);
        let rows = if answers { self.rows() } else { Vec::new() };
        if answers {
            let answer = traffic.servers_frames(&rows, TcpFlags::SYN | TcpFlags::ACK);
            self.pass(answer).context("servers' answers")?;
        }
        self.pass(traffic.clients_frames(TcpFlags::ACK)).context("handshakes' end")?;
        Ok(match traffic.replies {
            true => traffic.servers_frames(&rows, TcpFlags::ACK),
            false => traffic.clients_frames(TcpFlags::ACK),
        })
    }
}
