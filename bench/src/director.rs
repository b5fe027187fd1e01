//! The product's registry, tables and worker, set up for a case's traffic.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context, ensure};
use gyre::control::{WorkerEnds, WorkerLink};
use gyre::counters::{DropReason, WorkerCounters};
use gyre::dataplane::{FlowId, WorkerConfig};
use gyre::dpdk::{Eal, MbufPool, TscClock};
use gyre::message::{FlowRow, ToWorker};
use gyre::model::{
    ForwardMode, KernelMode, NextHop, NextHopId, NicId, NicModel, Protocol, Registry,
    RegistryConfig, RouteTable, RouteTarget, Snapshot, Steering, WorkerId,
};
use gyre::runtime::crossing::{KernelRings, Peers, WorkerRings, kernel_rings};
use gyre::runtime::idle::IdlePolicy;
use gyre::runtime::transmit::Way;
use gyre::runtime::worker::{Worker, WorkerParts, WorkerPort};
use gyre::wire::ethernet::MacAddr;
use gyre::wire::tcp::TcpFlags;

use crate::source::{Schedule, Shared, Sink, Source, Window};
use crate::stages::{Switch, Which};
use crate::traffic::{DIRECTOR_MAC, FRAME_BYTES, SERVERS, Sizes, Traffic, Wishes, desired};
use gyre::wire::pair::MacPair;

/// Of every next hop.
pub const NEIGHBOUR_MAC: MacAddr = MacAddr([2, 0, 0, 0, 2, 9]);
/// Frames between two looks at what the kernel interface got.
const KERNEL_CHUNK: usize = 8192;

/// What a worker is set up with.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// What it will see.
    pub traffic: Traffic,
    /// What is configured besides.
    pub wishes: Wishes,
    /// Flows that it may hold, of the traffic's family; one in 32 beyond, which the product
    /// keeps free, is the caller's to add.
    pub flows_max: usize,
    /// Flows that the roofline has as much memory for as a table of ours; 0 has none.
    pub roofline_flows: usize,
    /// Kernel side of the port.
    pub kernel: KernelMode,
}

impl Setup {
    /// For established flows alone.
    pub fn new(traffic: Traffic) -> Self {
        let flows_max = traffic.flows + traffic.flows / 8 + 64;
        let wishes = Wishes::default();
        Setup { traffic, wishes, flows_max, roofline_flows: flows_max, kernel: KernelMode::None }
    }

    /// The same for the stages that gyre's is held against: without flows, and with the roofline's
    /// memory, where frames are the other's.
    pub fn held_against(&self) -> Self {
        Setup { flows_max: 64, roofline_flows: self.flows_max, ..*self }
    }
}

/// Next hops by slot.
pub type Hops = Vec<(NextHopId, NextHop)>;

/// Next hops given out one after another.
#[derive(Debug, Default)]
pub struct HopSlots(Vec<(IpAddr, NextHopId)>);

impl HopSlots {
    /// All next hops.
    pub fn hops(&self) -> Hops {
        self.0.iter().map(|(address, id)| (*id, hop(*address))).collect()
    }

    /// The slot of an address.
    pub fn of(&mut self, address: IpAddr) -> NextHopId {
        if let Some((_, id)) = self.0.iter().find(|(known, _)| *known == address) {
            return *id;
        }
        let id = NextHopId(self.0.len() as u16);
        self.0.push((address, id));
        id
    }
}

/// The configuration in force, and what workers need of it.
pub struct Plan {
    /// It lives on where the configuration changes.
    pub registry: Registry,
    /// Slots of next hops.
    pub slots: HopSlots,
    snapshot: Arc<Snapshot>,
    hops: Hops,
    setup: Setup,
    workers: u8,
}

impl Plan {
    /// What the registry makes of a set-up.
    pub fn new(setup: &Setup, workers: u8) -> anyhow::Result<Plan> {
        let traffic = &setup.traffic;
        let steering = Arc::new(Steering::for_workers(workers));
        let mut registry = Registry::new(RegistryConfig::new(steering));
        registry.set_nics(vec![NicModel {
            id: NicId(0),
            name: "bench".into(),
            mac: DIRECTOR_MAC.0,
            mtu: 1500,
            kernel: setup.kernel,
            vlan: None,
            addresses: vec![traffic.own()],
        }]);
        let mut slots = HopSlots::default();
        let router = slots.of(traffic.own());
        let route = |prefix: &str| anyhow::Ok((prefix.parse()?, RouteTarget::Via(router)));
        registry.set_routes(Arc::new(RouteTable::new(&[route("0.0.0.0/0")?, route("::/0")?], &[])));
        let desired = desired(traffic, &setup.wishes);
        let applied = registry.apply(&desired, &mut |rip| slots.of(rip));
        let applied = applied.map_err(|problems| anyhow::anyhow!("{:?}", problems.first()))?;
        let hops = slots.hops();
        let (snapshot, setup) = (applied.snapshot, *setup);
        Ok(Plan { registry, slots, snapshot, hops, setup, workers })
    }

    /// What one of the workers is made of, and control's end of it.
    pub fn seat(&self, worker: u8, peers: Peers) -> (Seat, WorkerLink) {
        let counters = Arc::new(WorkerCounters::new());
        let id = WorkerId(worker);
        let (link, control) = WorkerLink::new(id, &self.snapshot, &counters);
        let (hops, setup) = (self.hops.clone(), self.setup);
        let seat =
            Seat { setup, id, workers: self.workers, counters, control, peers, hops, seed: 42 };
        (seat, link)
    }
}

fn hop(neighbour: IpAddr) -> NextHop {
    NextHop {
        nic: NicId(0),
        resolved: true,
        macs: MacPair::new(NEIGHBOUR_MAC.0, DIRECTOR_MAC.0),
        mtu: 1500,
        neighbour,
    }
}

/// All that a worker is made of but what is its thread's own.
pub struct Seat {
    setup: Setup,
    id: WorkerId,
    workers: u8,
    /// What it will count.
    pub counters: Arc<WorkerCounters>,
    control: WorkerEnds,
    peers: Peers,
    hops: Hops,
    seed: u64,
}

/// A worker and the window that it polls.
pub struct Director {
    worker: Worker<Switch>,
    /// Source and sink.
    pub window: Shared,
    /// The stage that runs.
    pub which: Rc<Cell<Which>>,
    /// What the worker counts.
    pub counters: Arc<WorkerCounters>,
    traffic: Traffic,
    kernel: Option<WorkerRings>,
    /// Frames that the kernel interface got.
    pub to_kernel: u64,
    /// Control's end, unless control is elsewhere.
    _link: Option<WorkerLink>,
}

impl Director {
    /// The only worker of a plan. Runs on the worker's own thread.
    pub fn new(eal: &Eal, pool: &MbufPool, setup: &Setup) -> anyhow::Result<Self> {
        let plan = Plan::new(setup, 1)?;
        let (seat, mut link) = plan.seat(0, Peers::mesh(1).remove(0));
        let hops = seat.hops.clone();
        let mut director = Director::take(eal, pool, seat)?;
        director.learn(&hops, &mut link)?;
        director._link = Some(link);
        Ok(director)
    }

    /// One of several workers.
    pub fn seated(
        eal: &Eal,
        pool: &MbufPool,
        seat: Seat,
        link: &mut WorkerLink,
    ) -> anyhow::Result<Self> {
        let hops = seat.hops.clone();
        let mut director = Director::take(eal, pool, seat)?;
        director.learn(&hops, link)?;
        Ok(director)
    }

    fn take(eal: &Eal, pool: &MbufPool, seat: Seat) -> anyhow::Result<Self> {
        let Seat { setup, counters, .. } = seat;
        let traffic = setup.traffic;
        let (v4, v6) = if traffic.is_ipv4 { (setup.flows_max, 64) } else { (64, setup.flows_max) };
        let config = WorkerConfig {
            worker: seat.id,
            workers: seat.workers,
            flows_v4_max: v4,
            flows_v6_max: v6,
            source_port_spaces: usize::from(SERVERS) * usize::from(setup.wishes.locals),
            seed: seat.seed,
            counters: Arc::clone(&counters),
        };
        let which = Rc::new(Cell::new(Which::Gyre));
        let lines = setup.roofline_flows;
        let entry_lines = if traffic.is_ipv4 { 1 } else { 2 };
        // A line of the index has eight slots, four fifths of them used, and a flow may have two.
        let index_lines = lines * 5 / 16;
        let stage = Switch::new(Rc::clone(&which), index_lines, lines * entry_lines)?;
        let first = traffic.clients_frames([0].into_iter(), TcpFlags::SYN, Sizes::Fixed(64));
        let window = Rc::new(RefCell::new(Window::new(pool, traffic.burst, Rc::new(first))?));
        let port = WorkerPort {
            rx: Some(Source(Rc::clone(&window))),
            way: Way::Queue(Sink(Rc::clone(&window))),
            kernel: setup.kernel,
        };
        let rings: (KernelRings, WorkerRings) = kernel_rings();
        let has_kernel = setup.kernel == KernelMode::Tap;
        let (to, kernel) = if has_kernel { (Some(rings.0), Some(rings.1)) } else { (None, None) };
        let parts = WorkerParts {
            stage,
            config,
            ports: vec![port],
            control: seat.control,
            peers: seat.peers,
            kernel: to,
            pool: pool.clone(),
            clock: TscClock::new(eal),
            idle: IdlePolicy::Poll,
            stop: Arc::default(),
        };
        let worker = Worker::new(parts)?;
        let (to_kernel, _link) = (0, None);
        Ok(Director { worker, window, which, counters, traffic, kernel, to_kernel, _link })
    }

    fn learn(&mut self, hops: &Hops, link: &mut WorkerLink) -> anyhow::Result<()> {
        for (id, hop) in hops {
            let pushed = link.commands.push(ToWorker::SetNextHop(*id, *hop));
            ensure!(pushed.is_ok(), "the command ring is full");
            self.worker.turn_or_wait();
        }
        Ok(())
    }

    /// One turn of the worker.
    #[inline(always)]
    pub fn turn(&mut self) {
        self.worker.turn_or_wait();
    }

    /// Runs the worker until so many more frames were given and dealt with.
    #[inline(never)]
    pub fn run(&mut self, frames: usize) {
        let mut left = frames;
        while left > 0 {
            let chunk = if self.kernel.is_some() { left.min(KERNEL_CHUNK) } else { left };
            self.window.borrow_mut().remaining = chunk;
            while self.window.borrow().remaining > 0 {
                self.worker.turn_or_wait();
            }
            left -= chunk;
            self.empty_kernel_ring();
        }
        self.worker.turn_or_wait();
    }

    /// Takes what the kernel interface would.
    pub fn empty_kernel_ring(&mut self) {
        let Some(rings) = &mut self.kernel else { return };
        while rings.from_worker.pop().is_some() {
            self.to_kernel += 1;
        }
    }

    /// Sends a schedule once, every frame of which must go out.
    pub fn pass(&mut self, schedule: &Rc<Schedule>) -> anyhow::Result<()> {
        let (frames, before) = (schedule.len(), self.window.borrow().forwarded);
        self.window.borrow_mut().follow(schedule);
        self.run(frames);
        let forwarded = self.window.borrow().forwarded - before;
        ensure!(
            forwarded == frames as u64,
            "{frames} frames sent, {forwarded} went out; dropped: {}",
            self.drops()
        );
        Ok(())
    }

    /// What was dropped so far and why, for people.
    pub fn drops(&self) -> String {
        let named = DropReason::ALL.iter().zip(&self.counters.drops);
        let named = named.filter(|(_, count)| count.get() > 0);
        let named: Vec<_> =
            named.map(|(reason, count)| format!("{} {}", reason.name(), count.get())).collect();
        if named.is_empty() { "nothing".into() } else { named.join(", ") }
    }

    /// Frames dropped for a reason so far.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.counters.drops[reason as usize].get()
    }

    /// What is done with frames.
    pub fn stage(&self) -> &Switch {
        self.worker.stage()
    }

    /// Packets that flows have seen, and flows there are.
    pub fn packets(&self) -> (u64, usize) {
        let state = self.worker.state();
        let packets = self.ids().filter_map(|id| state.flows.core(id)).map(|core| core.packets);
        packets.fold((0, 0), |(sum, count), packets| (sum + u64::from(packets), count + 1))
    }

    /// Every flow of the table.
    pub fn rows(&self) -> impl Iterator<Item = FlowRow> + '_ {
        let state = self.worker.state();
        self.ids().filter_map(|id| state.row(id, gyre::time::Nanos(0)))
    }

    fn ids(&self) -> impl Iterator<Item = FlowId> + '_ {
        let flows = &self.worker.state().flows;
        std::iter::successors(flows.next_live(0), |id| flows.next_live(id.0 + 1))
    }

    /// Opens every flow with real handshakes, and returns the frames of its established life.
    pub fn establish(&mut self) -> anyhow::Result<Rc<Schedule>> {
        let traffic = self.traffic;
        let small = Sizes::Fixed(FRAME_BYTES + 4);
        let clients =
            |flags, sizes| Rc::new(traffic.clients_frames(0..traffic.flows, flags, sizes));
        let answers = matches!(traffic.mode, ForwardMode::Nat | ForwardMode::FullNat);
        let mut last = clients(TcpFlags::SYN, small);
        self.pass(&last).context("opening flows")?;
        let flows = self.worker.state().flows.len();
        ensure!(flows == traffic.flows, "{flows} flows after {} first packets", traffic.flows);
        if answers {
            let answer = traffic.servers_frames(self.rows(), TcpFlags::SYN | TcpFlags::ACK);
            self.pass(&Rc::new(answer)).context("servers' answers")?;
        }
        if traffic.protocol == Protocol::Tcp {
            last = clients(TcpFlags::ACK, small);
            self.pass(&last).context("handshakes' end")?;
        }
        Ok(match traffic.replies {
            true => Rc::new(traffic.servers_frames(self.rows(), TcpFlags::ACK)),
            false if traffic.sizes == small => last,
            false => clients(TcpFlags::ACK, traffic.sizes),
        })
    }
}
