//! One service, one worker, frames in memory: plays a case through `process_burst`.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, ensure};
use gyre::counters::WorkerCounters;
use gyre::dataplane::{Burst, FlowId, RxMeta, Verdict, WorkerConfig, WorkerState, process_burst};
use gyre::frame::Frame;
use gyre::message::FlowRow;
use gyre::model::{
    Desired, ForwardMode, KernelMode, NextHop, NextHopId, NicId, NicModel, PoolSpec, Protocol,
    Registry, RegistryConfig, Removal, RouteTable, RouteTarget, SchedulerSpec, Semantics,
    ServerSpec, ServiceKey, ServiceSpec, Snapshot, Steering, WorkerId,
};
use gyre::time::Nanos;
use gyre::wire::build::PacketBuilder;
use gyre::wire::ethernet::MacAddr;
use gyre::wire::tcp::{TcpFlags, TcpOption};

use crate::cases::{Case, Kind, Proof, Step};
use gyre::wire::pair::MacPair;

const BURST: usize = 32;
const SERVERS: u8 = 8;
/// FULLNAT local addresses.
const LOCALS: u8 = 2;
/// The smallest Ethernet frame, without FCS.
const FRAME_BYTES: usize = 60;
const HEADROOM: usize = 128;
const BUFFER_BYTES: usize = HEADROOM + 2048;
const CLIENT_MAC: MacAddr = MacAddr([2, 0, 0, 0, 1, 0xfe]);
const DIRECTOR_MAC: MacAddr = MacAddr([2, 0, 0, 0, 1, 1]);
const NEIGHBOUR_MAC: MacAddr = MacAddr([2, 0, 0, 0, 2, 9]);
/// Longer than any timeout of a flow that has ended on both sides.
const SILENCE_S: u64 = 1_000;
/// A client's first sequence number.
const FIRST: u32 = 1_000;

/// All that callgrind counts: its name is what collection begins and ends with.
#[inline(never)]
fn counted_burst(state: &mut WorkerState, snapshot: &Snapshot, burst: &mut Burst, now: Nanos) {
    process_burst(state, snapshot, burst, now);
}

/// As `counted_burst`: timers, as a worker's turn without frames runs them.
#[inline(never)]
fn counted_burst_of_timers(state: &mut WorkerState, snapshot: &Snapshot, now: Nanos) {
    state.expire(snapshot, now);
}

/// Callgrind writes what it counted when this returns.
#[inline(never)]
pub fn case_ends(name: &str) -> &str {
    std::hint::black_box(name)
}

/// Plays a case, and returns how many packets were counted.
pub fn play(case: &Case) -> anyhow::Result<usize> {
    let mut director = Director::new(case)?;
    for step in &case.before {
        director.step(case, *step, Count::No)?;
    }
    let fast_before = director.counters.fast_frames.get();
    let mut packets = 0;
    for step in &case.counted {
        packets += director.step(case, *step, Count::Yes)?;
    }
    let fast = director.counters.fast_frames.get() - fast_before;
    let flows = director.state.flows.len();
    match case.proof {
        Proof::Fast => {
            ensure!(fast == packets as u64, "{fast} of {packets} packets took the fast path");
            ensure!(flows == case.clients, "{flows} flows for {} clients", case.clients);
        }
        Proof::General(wanted) => ensure!(flows == wanted, "{flows} flows, not {wanted}"),
        Proof::Refused => ensure!(flows == 0, "{flows} flows were made"),
        Proof::Sent => ensure!(flows == case.clients, "{flows} flows for {}", case.clients),
        Proof::Ended => ensure!(flows == 0, "{flows} flows are left"),
    }
    ensure!(packets > 0, "nothing was counted");
    Ok(packets)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Count {
    Yes,
    No,
}

/// A TCP segment but for its ports.
#[derive(Clone, Copy)]
struct Segment {
    flags: TcpFlags,
    sequence: u32,
    acknowledged: u32,
}

type Endpoint = (IpAddr, u16);

struct Director {
    state: WorkerState,
    snapshot: Arc<Snapshot>,
    counters: Arc<WorkerCounters>,
    now: Nanos,
    /// What came out for each client last.
    last: Vec<Vec<u8>>,
}

impl Kind {
    fn address(&self, net: u8, low: u16) -> IpAddr {
        let [c, d] = low.to_be_bytes();
        match (self.is_ipv4, net) {
            // Clients have a /16, which their low half fills.
            (true, 0) => IpAddr::from([198, 18, c, d]),
            (true, _) => IpAddr::from([198, 19, net, d]),
            (false, _) => IpAddr::from([0x2001, 2, 0, 0, 0, u16::from(net), 0, low]),
        }
    }

    fn client(&self, at: usize) -> Endpoint {
        (self.address(0, at as u16), 1024)
    }

    fn vip(&self) -> Endpoint {
        (self.address(1, 1), 80)
    }

    fn frame(&self, from: Endpoint, to: Endpoint, segment: Segment) -> anyhow::Result<Vec<u8>> {
        let link = PacketBuilder::new().ethernet(CLIENT_MAC, DIRECTOR_MAC);
        let ip = link.ip(from.0, to.0).context("two families")?;
        let mut frame = if self.protocol == Protocol::Udp {
            ip.udp(from.1, to.1).payload(&[0; 18]).build().to_vec()
        } else {
            let Segment { flags, sequence, acknowledged } = segment;
            let tcp = ip.tcp(from.1, to.1).flags(flags).seq(sequence).ack(acknowledged);
            let is_first = flags.contains(TcpFlags::SYN);
            let tcp = if is_first { tcp.option(TcpOption::Mss(1460)) } else { tcp };
            tcp.build().to_vec()
        };
        frame.resize(frame.len().max(FRAME_BYTES), 0);
        Ok(frame)
    }

    fn desired(&self) -> Desired {
        let (vip, port) = self.vip();
        let key = ServiceKey::new(self.protocol, vip, port);
        let mut service = ServiceSpec::new(key, SchedulerSpec::RoundRobin);
        service.pool = (self.mode == ForwardMode::FullNat).then(|| "pool".into());
        service.synproxy = self.synproxy;
        let server = |at: u8| (self.address(2, at.into()), port).into();
        service.servers =
            (0..SERVERS).map(|at| ServerSpec::new(server(at), 1, self.mode)).collect();
        let pool = PoolSpec {
            name: "pool".into(),
            addresses: (0..LOCALS).map(|at| self.address(3, at.into())).collect(),
            ports: (1024, 65_535),
        };
        Desired {
            pools: vec![pool],
            services: vec![service],
            semantics: Semantics::default(),
            removal: Removal::Now,
        }
    }
}

impl Director {
    fn new(case: &Case) -> anyhow::Result<Self> {
        let now = Nanos::from_secs(1_000);
        let counters = Arc::new(WorkerCounters::with_bounds(64, 64, 64));
        let flows_max = |is_ours| if is_ours { 2 * case.clients } else { 1 };
        let config = WorkerConfig {
            worker: WorkerId(0),
            workers: 1,
            flows_v4_max: flows_max(case.kind.is_ipv4),
            flows_v6_max: flows_max(!case.kind.is_ipv4),
            source_port_spaces: usize::from(SERVERS) * usize::from(LOCALS),
            seed: 42,
            counters: Arc::clone(&counters),
        };
        let mut state = WorkerState::new(&config, now)?;
        let (snapshot, neighbours) = plan(&case.kind)?;
        for (at, neighbour) in neighbours.into_iter().enumerate() {
            let hop = NextHop {
                nic: NicId(0),
                resolved: true,
                macs: MacPair::new(NEIGHBOUR_MAC.0, DIRECTOR_MAC.0),
                mtu: 1500,
                neighbour,
            };
            state.set_next_hop(NextHopId(at as u16), hop);
        }
        state.adopt(&snapshot);
        Ok(Director { state, snapshot, counters, now, last: Vec::new() })
    }

    /// Every flow.
    fn rows(&self) -> Vec<FlowRow> {
        let flows = &self.state.flows;
        let ids =
            std::iter::successors(flows.next_live(0), |id: &FlowId| flows.next_live(id.0 + 1));
        ids.filter_map(|id| self.state.row(id, self.now)).collect()
    }

    /// One packet of every connection, in another order than they were opened in.
    fn step(&mut self, case: &Case, step: Step, count: Count) -> anyhow::Result<usize> {
        if matches!(step, Step::Server(_)) && !case.kind.mode.sees_replies() {
            return Ok(0);
        }
        if step == Step::Silence {
            return Ok(self.silence());
        }
        let frames = self.frames(case, step)?;
        let mut verdicts = Vec::with_capacity(frames.len());
        self.last.clear();
        for burst in frames.chunks(BURST) {
            self.burst(burst, count, &mut verdicts)?;
        }
        let sent =
            verdicts.iter().filter(|verdict| matches!(verdict, Verdict::Transmit(_))).count();
        let wanted = if case.proof == Proof::Refused { 0 } else { frames.len() };
        ensure!(
            sent == wanted,
            "{step:?}: {sent} of {} frames sent on, not {wanted}",
            frames.len()
        );
        Ok(frames.len())
    }

    /// Lets time pass until every flow has ended, and says how many did.
    fn silence(&mut self) -> usize {
        let flows = self.state.flows.len();
        let longest = Nanos::from_secs(SILENCE_S);
        self.now = self.now + longest.0;
        // A turn fires a few timers; a flow's fires twice at most.
        let mut turns = 2 * flows;
        while turns > 0 && !self.state.flows.is_empty() {
            turns -= 1;
            counted_burst_of_timers(&mut self.state, &self.snapshot, self.now);
        }
        flows
    }

    fn frames(&self, case: &Case, step: Step) -> anyhow::Result<Vec<Vec<u8>>> {
        let (kind, clients) = (&case.kind, case.clients);
        let acknowledged = |flags: TcpFlags| if flags.contains(TcpFlags::ACK) { 7 } else { 0 };
        match step {
            Step::Client(flags) => (0..clients)
                .map(|at| {
                    let is_first = flags.contains(TcpFlags::SYN);
                    let sequence = FIRST + u32::from(!is_first);
                    let segment = Segment { flags, sequence, acknowledged: acknowledged(flags) };
                    kind.frame(kind.client(shuffled(at, clients)), kind.vip(), segment)
                })
                .collect(),
            Step::Server(flags) => {
                let rows = self.rows();
                (0..rows.len())
                    .map(|at| {
                        let row = &rows[shuffled(at, rows.len())];
                        let segment = Segment { flags, sequence: 6, acknowledged: FIRST + 1 };
                        kind.frame(row.server, row.local.unwrap_or(row.client), segment)
                    })
                    .collect()
            }
            Step::Silence => Ok(Vec::new()),
            Step::CookieAck => self.last.iter().map(|answer| cookie_ack(kind, answer)).collect(),
        }
    }

    fn burst(
        &mut self,
        frames: &[Vec<u8>],
        count: Count,
        verdicts: &mut Vec<Verdict>,
    ) -> anyhow::Result<()> {
        let mut buffers = vec![[0u8; BUFFER_BYTES]; frames.len()];
        let mut burst = Burst::new();
        for (buffer, frame) in buffers.iter_mut().zip(frames) {
            let end = HEADROOM + frame.len();
            buffer[HEADROOM..end].copy_from_slice(frame);
            let pushed = burst.push(Frame::new(buffer, HEADROOM, end), RxMeta::default());
            ensure!(pushed.is_ok(), "a burst takes fewer than {BURST} frames");
        }
        match count {
            Count::Yes => counted_burst(&mut self.state, &self.snapshot, &mut burst, self.now),
            Count::No => process_burst(&mut self.state, &self.snapshot, &mut burst, self.now),
        }
        verdicts.extend(burst.verdicts());
        self.last.extend(burst.slots.iter().map(|slot| slot.frame.bytes().to_vec()));
        self.state.outbox.drain(|_, _| ());
        self.state.events.clear();
        Ok(())
    }
}

/// The client's answer to a cookie.
fn cookie_ack(kind: &Kind, answer: &[u8]) -> anyhow::Result<Vec<u8>> {
    let (l4, addresses) = if kind.is_ipv4 { (34, 30..34) } else { (54, 38..54) };
    let tcp: &[u8; 20] = answer.get(l4..).and_then(<[u8]>::first_chunk).context("no answer")?;
    ensure!(tcp[13] == (TcpFlags::SYN | TcpFlags::ACK).0, "not a SYN-ACK: {answer:02x?}");
    let client: IpAddr = match <[u8; 4]>::try_from(&answer[addresses.clone()]) {
        Ok(v4) => v4.into(),
        Err(_) => <[u8; 16]>::try_from(&answer[addresses])?.into(),
    };
    let cookie = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
    let segment =
        Segment { flags: TcpFlags::ACK, sequence: FIRST + 1, acknowledged: cookie.wrapping_add(1) };
    kind.frame((client, u16::from_be_bytes([tcp[2], tcp[3]])), kind.vip(), segment)
}

/// A fixed order that visits all: a step that shares no factor with the count.
fn shuffled(at: usize, count: usize) -> usize {
    let step = if count.is_multiple_of(7919) { 1 } else { 7919 };
    at * step % count
}

/// The registry's snapshot, and the neighbour of each next hop that it names.
fn plan(kind: &Kind) -> anyhow::Result<(Arc<Snapshot>, Vec<IpAddr>)> {
    let mut registry = Registry::new(RegistryConfig::new(Arc::new(Steering::for_workers(1))));
    registry.set_nics(vec![NicModel {
        id: NicId(0),
        name: "counts".into(),
        mac: DIRECTOR_MAC.0,
        mtu: 1500,
        kernel: KernelMode::None,
        vlan: None,
        addresses: vec![kind.address(4, 1)],
    }]);
    // The clients' router has the first slot.
    let mut neighbours = vec![kind.address(4, 254)];
    let route = |prefix: &str| anyhow::Ok((prefix.parse()?, RouteTarget::Via(NextHopId(0))));
    registry.set_routes(Arc::new(RouteTable::new(&[route("0.0.0.0/0")?, route("::/0")?], &[])));
    let applied = registry.apply(&kind.desired(), &mut |rip| {
        neighbours.push(rip);
        NextHopId(neighbours.len() as u16 - 1)
    });
    let applied = applied.map_err(|problems| anyhow::anyhow!("{problems:?}"))?;
    Ok((applied.snapshot, neighbours))
}
