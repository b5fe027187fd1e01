//! One flow, one worker: several workers, each frame arriving on a random queue, as over a port
//! without RSS. Every frame reaches its flow's owner with at most one hand-off, in both
//! directions, and everything is given back at the end.

#[path = "support/mod.rs"]
mod support;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use gyre::counters::WorkerCounters;
use gyre::dataplane::{Burst, Errand, RxMeta, Verdict, WorkerConfig, WorkerState, process_burst};
use gyre::frame::Frame;
use gyre::model::*;
use gyre::time::Nanos;
use gyre::wire::build::IpBuilder;
use gyre::wire::ip::{Fragment, IpProtocol};
use gyre::wire::ipv4::Ipv4;
use gyre::wire::tcp::TcpFlags;
use proptest::prelude::*;
use support::*;

/// Of a FULLNAT, a DR, a NAT and a TUN service, and of a persistent one.
const VIPS: [&str; 5] = ["10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5"];
const LIPS: [&str; 2] = ["10.2.0.1", "10.2.0.2"];

/// Workers that share one snapshot, and the clock.
struct Team {
    workers: Vec<WorkerState>,
    snapshot: Arc<Snapshot>,
    now: Nanos,
    hand_offs: u64,
}

impl Team {
    fn new(count: u8) -> Self {
        let mut director = Director::new(KernelMode::Tap);
        let steering = Arc::new(Steering::for_workers(count));
        director.registry = Registry::new(RegistryConfig::new(steering));
        let nics = director.snapshot.nics.as_ref().clone();
        director.registry.set_nics(nics);
        director.registry.set_routes(director.snapshot.routes.clone());
        let service = |vip: &str, mode| {
            let key = ServiceKey::new(Protocol::Tcp, vip.parse().unwrap(), 80);
            let mut spec = ServiceSpec::new(key, SchedulerSpec::RoundRobin);
            spec.forwarding = mode;
            spec.pool = (mode == ForwardMode::FullNat).then(|| "pool".into());
            spec.servers =
                (11..14u8).map(|n| server(([10, 2, 0, n], 80).into(), 1, mode)).collect();
            spec
        };
        let udp = |mut spec: ServiceSpec, vip: &str| {
            spec.key = ServiceKey::new(Protocol::Udp, vip.parse().unwrap(), 80);
            spec
        };
        use ForwardMode::{DirectRoute, FullNat, Nat, Tunnel};
        let modes = [FullNat, DirectRoute, Nat, Tunnel, DirectRoute];
        let mut services = Vec::new();
        for (vip, mode) in VIPS.into_iter().zip(modes) {
            services.extend([service(vip, mode), udp(service(vip, mode), vip)]);
        }
        let keeps = Persistence { timeout_ms: 300_000, client_bits: 24 };
        services.last_mut().unwrap().persistence = Some(keeps);
        let mut wanted = desired(services);
        wanted.pools[0].addresses = LIPS.map(|lip| lip.parse().unwrap()).to_vec();
        director.change(|registry, hops| registry.apply(&wanted, hops)).unwrap();
        let worker = |worker: u8| {
            let config = WorkerConfig {
                worker: WorkerId(worker),
                workers: count,
                flows_v4_max: 256,
                flows_v6_max: 1,
                source_port_spaces: 16,
                seed: u64::from(worker),
                counters: Arc::new(WorkerCounters::with_bounds(64, 64, 64)),
            };
            let mut state = WorkerState::new(&config, director.now).unwrap();
            for slot in (0..16).map(NextHopId) {
                state.set_next_hop(slot, *director.state.next_hop(slot).unwrap());
            }
            state
        };
        Team {
            workers: (0..count).map(worker).collect(),
            snapshot: director.snapshot.clone(),
            now: director.now,
            hand_offs: 0,
        }
    }

    /// The frame arrives at `worker`, and goes on until nothing waits: a verdict for it and for
    /// each fragment that it let go, with who decided it and the frame as it then was. A frame is
    /// handed off once, a fragment once more.
    fn settle(
        &mut self,
        worker: usize,
        nic: NicId,
        bytes: &[u8],
    ) -> Vec<(usize, Verdict, Vec<u8>)> {
        let first = RxMeta { nic, ..RxMeta::default() };
        let mut waiting = std::collections::VecDeque::from([(worker, first, bytes.to_vec())]);
        let mut settled = Vec::new();
        while let Some((at, rx, bytes)) = waiting.pop_front() {
            let mut buffer = vec![0; 128 + 2048];
            buffer[128..128 + bytes.len()].copy_from_slice(&bytes);
            let mut burst = Burst::new();
            burst.push(Frame::new(&mut buffer, 128, 128 + bytes.len()), rx).unwrap();
            process_burst(&mut self.workers[at], &self.snapshot, &mut burst, self.now);
            let verdict = burst.slots[0].verdict.unwrap();
            let errand = burst.slots[0].rx.errand;
            let sent = burst.slots[0].frame.bytes().to_vec();
            match verdict {
                Verdict::HandOff(owner, cause) => {
                    // A persistent flow's first packet may go to its template's owner and back.
                    let round_trip = if errand == Errand::None { 0 } else { 2 };
                    let most = if is_fragment(&bytes) { 2 } else { 1 };
                    assert!(rx.hops < most + round_trip, "handed off too often: {cause:?}");
                    assert_ne!(owner.index(), at);
                    self.hand_offs += 1;
                    let rx = RxMeta { nic, hops: rx.hops + 1, errand, ..RxMeta::default() };
                    waiting.push_back((owner.index(), rx, bytes));
                }
                verdict => settled.push((at, verdict, sent)),
            }
            self.workers[at].outbox.drain(|nic, bytes| {
                settled.push((at, Verdict::Transmit(nic), bytes.to_vec()));
            });
            self.workers[at].resume_fragments(usize::MAX, |rx, bytes| {
                waiting.push_back((at, rx, bytes.to_vec()));
            });
        }
        settled
    }

    /// The frame arrives at `worker`; answers with who decided it, how, and the frame as sent.
    fn receive(&mut self, worker: usize, nic: NicId, bytes: &[u8]) -> (usize, Verdict, Vec<u8>) {
        let mut buffer = vec![0; 128 + 2048];
        buffer[128..128 + bytes.len()].copy_from_slice(bytes);
        let mut end = 128 + bytes.len();
        let (mut start, mut at) = (128, worker);
        for hops in 0..2 {
            let rx = RxMeta { nic, hops, ..RxMeta::default() };
            let verdict = {
                let mut burst = Burst::new();
                burst.push(Frame::new(&mut buffer, start, end), rx).unwrap();
                process_burst(&mut self.workers[at], &self.snapshot, &mut burst, self.now);
                (start, end) = burst.slots[0].frame.extent();
                burst.slots[0].verdict.unwrap()
            };
            match verdict {
                Verdict::HandOff(owner, _) => {
                    assert_eq!(hops, 0, "handed off twice");
                    assert_ne!(owner.index(), at);
                    self.hand_offs += 1;
                    at = owner.index();
                }
                verdict => return (at, verdict, buffer[start..end].to_vec()),
            }
        }
        unreachable!("the loop ends with a verdict")
    }
}

fn is_fragment(frame: &[u8]) -> bool {
    Ipv4::parse(&frame[14..]).is_ok_and(|(ip, _)| ip.fragment().is_some())
}

/// One step of a client's connection, arriving at some worker.
#[derive(Clone, Debug)]
struct Step {
    client: u8,
    service: usize,
    from_server: bool,
    flags: u8,
    arrives_at: usize,
}

fn step() -> impl Strategy<Value = Step> {
    (0..20u8, 0..3usize, any::<bool>(), 0..5u8, 0..8usize).prop_map(
        |(client, service, from_server, flags, arrives_at)| Step {
            client,
            service,
            from_server,
            flags,
            arrives_at,
        },
    )
}

/// A flow as the test knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    owner: usize,
    /// Source as the server sees it.
    local: SocketAddr,
    server: IpAddr,
}

/// Flows by client and service.
type Flows = HashMap<(u8, usize), Known>;

fn flags(step: &Step) -> TcpFlags {
    match step.flags {
        0 => TcpFlags::SYN,
        1 => TcpFlags::ACK,
        2 => TcpFlags::FIN | TcpFlags::ACK,
        3 => TcpFlags::RST,
        _ => TcpFlags::SYN | TcpFlags::ACK,
    }
}

fn address(step: &Step) -> SocketAddr {
    // NAT servers see the client's own address: services are told apart by its port, too.
    ([10, 0, 0, step.client + 1], 5000 + step.service as u16).into()
}

fn server_sends(team: &mut Team, step: &Step, worker: usize, known: Known) {
    let Known { owner, local, server } = known;
    let tcp = from_server(server, local.ip()).tcp(80, local.port());
    let (decided, verdict, sent) = team.receive(worker, SERVER, &tcp.flags(flags(step)).build());
    assert_eq!((decided, verdict), (owner, Verdict::Transmit(CLIENT)));
    let (ip, _) = Ipv4::parse(&sent[14..]).unwrap();
    assert_eq!(IpAddr::V4(ip.dst()), address(step).ip());
}

fn client_sends(team: &mut Team, step: &Step, worker: usize, flows: &mut Flows) {
    let vip: IpAddr = VIPS[step.service].parse().unwrap();
    let tcp = from_client(address(step).ip(), vip).tcp(address(step).port(), 80);
    let (owner, verdict, sent) = team.receive(worker, CLIENT, &tcp.flags(flags(step)).build());
    let known = flows.get(&(step.client, step.service));
    if let Some(known) = known {
        assert_eq!((owner, verdict), (known.owner, Verdict::Transmit(SERVER)));
    }
    if verdict == Verdict::Transmit(SERVER) {
        // A SYN may have been scheduled afresh: the flow's face may have changed, not its owner.
        let (ip, l4) = Ipv4::parse(&sent[14..]).unwrap();
        let local = (ip.src(), u16::from_be_bytes([l4[0], l4[1]])).into();
        let server = if step.service == 1 { vip } else { ip.dst().into() };
        flows.insert((step.client, step.service), Known { owner, local, server });
    }
}

/// No source port is shared by two live flows of one server.
fn faces_are_distinct(flows: &Flows) -> bool {
    let full_nat = flows.iter().filter(|((_, service), _)| *service != 1);
    let mut faces: Vec<_> = full_nat.map(|(_, known)| (known.local, known.server)).collect();
    let all = faces.len();
    faces.sort_unstable();
    faces.dedup();
    faces.len() == all
}

fn everything_is_given_back(team: &mut Team) -> bool {
    for _ in 0..40 {
        team.now = team.now + 60_000_000_000;
        for worker in &mut team.workers {
            while worker.expire(&team.snapshot, team.now) > 0 {}
        }
    }
    team.workers.iter().all(|worker| {
        let counters = &worker.counters;
        worker.flows.is_empty()
            && counters.servers.iter().all(|s| s.flows.get() == 0 && s.active.get() == 0)
            && counters.lips.iter().all(|lip| lip.used.get() == 0)
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn both_directions_have_one_owner(
        count in 1..=8u8,
        steps in prop::collection::vec(step(), 1..150),
    ) {
        let mut team = Team::new(count);
        let mut flows = Flows::new();
        for step in steps {
            let worker = step.arrives_at % usize::from(count);
            match flows.get(&(step.client, step.service)).copied() {
                Some(known) if step.from_server && step.service != 1 => {
                    server_sends(&mut team, &step, worker, known);
                }
                _ if step.from_server => {}
                _ => client_sends(&mut team, &step, worker, &mut flows),
            }
        }
        prop_assert!(faces_are_distinct(&flows));
        prop_assert!(count > 1 || team.hand_offs == 0);
        prop_assert!(everything_is_given_back(&mut team));
    }
}

/// Cuts a UDP datagram into three, none of which fits the next.
fn pieces(builder: &IpBuilder, ports: (u16, u16), id: u32) -> Vec<Vec<u8>> {
    let whole = builder.clone().udp(ports.0, ports.1).payload(&[9; 1000]).build();
    let bytes = &whole[34..];
    let cut = |from: usize, to: usize| {
        let place = Fragment { id, offset_bytes: from as u16, more: to < bytes.len() };
        builder.clone().fragment(place).raw(IpProtocol::UDP, &bytes[from..to]).to_vec()
    };
    vec![cut(0, 400), cut(400, 800), cut(800, bytes.len())]
}

/// All of a datagram's pieces leave, from one worker.
fn all_leave(
    team: &mut Team,
    nics: (NicId, NicId),
    pieces: &[Vec<u8>],
    order: &[usize; 3],
    queues: &[usize],
) -> (usize, Vec<Vec<u8>>) {
    let count = team.workers.len();
    let mut sent = Vec::new();
    for (n, queue) in order.iter().zip(queues) {
        for (at, verdict, frame) in team.settle(queue % count, nics.0, &pieces[*n]) {
            match verdict {
                Verdict::Parked => {}
                verdict => {
                    assert_eq!(verdict, Verdict::Transmit(nics.1));
                    sent.push((at, frame));
                }
            }
        }
    }
    assert_eq!(sent.len(), pieces.len());
    assert!(sent.iter().all(|(at, _)| *at == sent[0].0), "one worker owns the flow");
    (sent[0].0, sent.into_iter().map(|(_, frame)| frame).collect())
}

const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn fragments_meet_at_their_flows_owner(
        count in 1..=8u8,
        datagrams in prop::collection::vec(
            (0..20u8, 0..3usize, 0..6usize, 0..6usize, any::<[u8; 8]>()), 1..20,
        ),
    ) {
        let mut team = Team::new(count);
        for (id, (client, service, there, back, queues)) in datagrams.into_iter().enumerate() {
            let queues = queues.map(usize::from);
            let client = IpAddr::from([10, 0, 0, client + 1]);
            let vip: IpAddr = VIPS[service].parse().unwrap();
            let request = pieces(&from_client(client, vip), (5000, 80), id as u32);
            let (owner, sent) =
                all_leave(&mut team, (CLIENT, SERVER), &request, &ORDERS[there], &queues[..3]);
            if service == 1 {
                continue;
            }
            let word = |frame: &[u8]| Ipv4::parse(&frame[14..]).unwrap().0.fragment_word();
            let first = sent.iter().find(|frame| word(frame) == 0x2000);
            let (ip, l4) = Ipv4::parse(&first.unwrap()[14..]).unwrap();
            let port = u16::from_be_bytes([l4[0], l4[1]]);
            let (lip, rip) = (ip.src().into(), ip.dst().into());
            let reply = pieces(&from_server(rip, lip), (80, port), 70 + id as u32);
            let (replier, _) =
                all_leave(&mut team, (SERVER, CLIENT), &reply, &ORDERS[back], &queues[3..6]);
            prop_assert_eq!(replier, owner);
            // An error about the request, and one about the reply, whole.
            let quoted = from_client(lip, rip).udp(port, 80).payload(&[9; 40]).build();
            let error = from_server(rip, lip).port_unreachable(&quoted[14..]).build();
            let settled = team.settle(queues[6] % usize::from(count), SERVER, &error);
            prop_assert_eq!((settled[0].0, settled[0].1), (owner, Verdict::Transmit(CLIENT)));
            let quoted = from_client(vip, client).udp(80, 5000).payload(&[9; 40]).build();
            let error = from_client(client, vip).port_unreachable(&quoted[14..]).build();
            let settled = team.settle(queues[7] % usize::from(count), CLIENT, &error);
            prop_assert_eq!((settled[0].0, settled[0].1), (owner, Verdict::Transmit(SERVER)));
        }
        prop_assert!(count > 1 || team.hand_offs == 0);
        prop_assert!(everything_is_given_back(&mut team));
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 100,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn tunnels_fragments_and_errors_meet_at_their_flows_owner(
        count in 1..=8u8,
        datagrams in prop::collection::vec((0..20u8, 0..6usize, any::<[u8; 5]>()), 1..20),
    ) {
        let mut team = Team::new(count);
        let vip: IpAddr = VIPS[3].parse().unwrap();
        for (id, (client, order, queues)) in datagrams.into_iter().enumerate() {
            let queues = queues.map(|queue| usize::from(queue) % usize::from(count));
            let client = IpAddr::from([10, 0, 0, client + 1]);
            let whole = from_client(client, vip).udp(5000, 80).payload(&[9; 700]).build();
            let settled = team.settle(queues[0], CLIENT, &whole);
            prop_assert_eq!(settled[0].1, Verdict::Transmit(SERVER));
            let (owner, outer) = (settled[0].0, settled[0].2.clone());
            let request = pieces(&from_client(client, vip), (5000, 80), id as u32);
            let mut sent = 0;
            for (n, queue) in ORDERS[order].iter().zip(&queues[1..4]) {
                for (at, verdict, frame) in team.settle(*queue, CLIENT, &request[*n]) {
                    if verdict != Verdict::Parked {
                        prop_assert_eq!((at, verdict), (owner, Verdict::Transmit(SERVER)));
                        sent += Ipv4::parse(&frame[14..]).unwrap().1.len();
                    }
                }
            }
            prop_assert_eq!(sent, 20 + 8 + 1000, "the datagram with its header");
            let (ip, _) = Ipv4::parse(&outer[14..]).unwrap();
            let error = from_server(ip.dst().into(), ip.src().into()).time_exceeded(&outer[14..]);
            let settled = team.settle(queues[4], SERVER, &error.build());
            prop_assert_eq!((settled[0].0, settled[0].1), (owner, Verdict::Transmit(CLIENT)));
        }
        prop_assert!(everything_is_given_back(&mut team));
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 100,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn persistent_clients_fragments_wait_for_the_answer_about_the_first(
        count in 1..=8u8,
        datagrams in prop::collection::vec((0..20u8, 0..6usize, any::<[u8; 3]>()), 1..20),
    ) {
        let mut team = Team::new(count);
        let vip: IpAddr = VIPS[4].parse().unwrap();
        let mut servers = Vec::new();
        for (id, (client, order, queues)) in datagrams.into_iter().enumerate() {
            let client = IpAddr::from([10, 0, 0, client + 1]);
            let request = pieces(&from_client(client, vip), (5000, 80), id as u32);
            let queues = queues.map(usize::from);
            let (_, sent) =
                all_leave(&mut team, (CLIENT, SERVER), &request, &ORDERS[order], &queues);
            servers.extend(sent.iter().map(|frame| frame[..6].to_vec()));
        }
        servers.dedup();
        prop_assert_eq!(servers.len(), 1, "one network, one server");
        prop_assert!(everything_is_given_back(&mut team));
    }
}
