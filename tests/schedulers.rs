//! Schedulers beyond the recordings: several workers, of which each knows the others' connections
//! as of control's last round only, and shares by weight.
//!
//! What a worker errs by is what the others opened and ended since that round: no more than that
//! may show in its picks, and in what a server holds above its threshold.

#[path = "schedulers/locality.rs"]
mod locality;
#[path = "support/mod.rs"]
mod support;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use gyre::counters::{WorkerCounters, tell_others};
use gyre::dataplane::{Burst, RxMeta, Verdict, WorkerConfig, WorkerState, process_burst};
use gyre::frame::Frame;
use gyre::model::*;
use gyre::time::Nanos;
use gyre::wire::tcp::TcpFlags;
use proptest::prelude::*;
use support::*;

const VIP: &str = "10.1.0.1";

fn key(protocol: Protocol) -> ServiceKey {
    ServiceKey::new(protocol, VIP.parse().unwrap(), 80)
}

fn address(server: usize) -> SocketAddr {
    ([10, 2, 0, 11 + server as u8], 80).into()
}

fn servers(weights: &[u32]) -> Vec<ServerSpec> {
    let one = |(at, weight): (usize, &u32)| server(address(at), *weight, ForwardMode::DirectRoute);
    weights.iter().enumerate().map(one).collect()
}

/// Workers that share one snapshot, and a clock. Slots of servers are their numbers.
struct Team {
    workers: Vec<WorkerState>,
    counters: Vec<Arc<WorkerCounters>>,
    snapshot: Arc<Snapshot>,
    now: Nanos,
    /// The service whose connections are looked at.
    key: ServiceKey,
}

impl Team {
    fn new(count: u8, scheduler: SchedulerSpec, servers: Vec<ServerSpec>) -> Self {
        let service = |protocol| ServiceSpec {
            servers: servers.clone(),
            ..ServiceSpec::new(key(protocol), scheduler)
        };
        Team::with(count, vec![service(Protocol::Tcp), service(Protocol::Udp)])
    }

    /// The first of the services is looked at.
    fn with(count: u8, services: Vec<ServiceSpec>) -> Self {
        let mut director = Director::new(KernelMode::Tap);
        director.registry =
            Registry::new(RegistryConfig::new(Arc::new(Steering::for_workers(count))));
        director.registry.set_nics(director.snapshot.nics.to_vec());
        director.registry.set_routes(director.snapshot.routes.clone());
        let key = services[0].key;
        let wanted = desired(services);
        director.change(|registry, hops| registry.apply(&wanted, hops)).unwrap();
        let counters: Vec<_> =
            (0..count).map(|_| Arc::new(WorkerCounters::with_bounds(64, 64, 64))).collect();
        let worker = |worker: u8| {
            let config = WorkerConfig {
                worker: WorkerId(worker),
                workers: count,
                flows_v4_max: 1 << 15,
                flows_v6_max: 1,
                source_port_spaces: 1,
                seed: u64::from(worker),
                counters: Arc::clone(&counters[usize::from(worker)]),
            };
            let mut state = WorkerState::new(&config, director.now).unwrap();
            for slot in (0..16).map(NextHopId) {
                state.set_next_hop(slot, *director.state.next_hop(slot).unwrap());
            }
            state.adopt(&director.snapshot);
            state
        };
        Team {
            workers: (0..count).map(worker).collect(),
            counters: counters.clone(),
            snapshot: director.snapshot.clone(),
            now: director.now,
            key,
        }
    }

    fn service(&self) -> &VirtualService {
        self.snapshot.service_of(&self.key).unwrap()
    }

    /// A client's frame, at its owner in the end; who that is, and whether it went to a server.
    fn receive(&mut self, frame: &[u8]) -> (usize, bool, [u8; 6]) {
        let mut buffer = vec![0; 128 + 256];
        let end = 128 + frame.len();
        buffer[128..end].copy_from_slice(frame);
        let mut at = 0;
        for hops in 0..2 {
            let rx = RxMeta { nic: CLIENT, hops, ..RxMeta::default() };
            let mut burst = Burst::new();
            burst.push(Frame::new(&mut buffer, 128, end), rx).unwrap();
            process_burst(&mut self.workers[at], &self.snapshot, &mut burst, self.now);
            match burst.slots[0].verdict.unwrap() {
                Verdict::HandOff(owner, _) => at = owner.index(),
                verdict => {
                    let mac = burst.slots[0].frame.bytes()[..6].try_into().unwrap();
                    return (at, verdict == Verdict::Transmit(SERVER), mac);
                }
            }
        }
        unreachable!("handed off twice")
    }

    fn tcp(&mut self, client: SocketAddr, flags: TcpFlags) -> (usize, bool, [u8; 6]) {
        self.tcp_to(VIP.parse().unwrap(), client, flags)
    }

    fn tcp_to(
        &mut self,
        destination: IpAddr,
        client: SocketAddr,
        flags: TcpFlags,
    ) -> (usize, bool, [u8; 6]) {
        let tcp = from_client(client.ip(), destination).tcp(client.port(), 80);
        self.receive(&tcp.seq(1).ack(1).flags(flags).build())
    }

    /// One datagram; the number of the server it went to.
    fn udp(&mut self, client: SocketAddr) -> Option<usize> {
        let udp = from_client(client.ip(), VIP.parse().unwrap()).udp(client.port(), 80);
        let (_, sent, mac) = self.receive(&udp.build());
        sent.then(|| usize::from(mac[5]) - 11)
    }

    /// What control does a few times a second.
    fn round(&self) {
        for server in &self.service().servers {
            tell_others(&self.counters, server.id.index());
        }
    }

    fn advance(&mut self, seconds: u64) {
        self.now = self.now + seconds * 1_000_000_000;
        for worker in &mut self.workers {
            while worker.expire(&self.snapshot, self.now) > 0 {}
        }
    }

    /// Active and inactive connections of one worker's TCP flows to a server.
    fn held(&self, worker: usize, server: usize) -> (i64, i64) {
        let id = self.service().servers[server].id;
        let own = &self.counters[worker].servers[id.index()];
        let (active, flows) = (own.active.get() as i64, own.flows.get() as i64);
        (active, flows - active)
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A new client comes.
    Open,
    /// A client resets its connection.
    Reset(usize),
    /// Closed connections expire.
    Wait,
    /// Control tells all workers.
    Round,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => Just(Step::Open),
        4 => (0..1000usize).prop_map(Step::Reset),
        1 => Just(Step::Wait),
        1 => Just(Step::Round),
    ]
}

fn client(at: usize) -> SocketAddr {
    ([10, 0, (at >> 8) as u8, at as u8], 5000 + (at % 7) as u16).into()
}

/// What a scheduler weighs.
#[derive(Clone, Copy, Debug)]
struct Measure {
    active: i64,
    inactive: i64,
    addend: i64,
    by_weight: bool,
    /// An idle server is good enough, whatever its weight.
    idle_first: bool,
}

const LOAD: Measure =
    Measure { active: 256, inactive: 1, addend: 0, by_weight: true, idle_first: false };
const DELAY: Measure =
    Measure { active: 1, inactive: 0, addend: 1, by_weight: true, idle_first: false };

impl Measure {
    fn of(&self, (active, inactive): (i64, i64)) -> i64 {
        self.active * active + self.inactive * inactive
    }
}

/// What workers hold of each server in one measure, and what of it came and went since the last
/// round.
struct Ledger {
    measure: Measure,
    /// By worker and server.
    held: Vec<Vec<i64>>,
    gained: Vec<Vec<i64>>,
    lost: Vec<Vec<i64>>,
}

impl Ledger {
    fn new(team: &Team, measure: Measure) -> Self {
        let servers = team.service().servers.len();
        let zeros = || vec![vec![0; servers]; team.workers.len()];
        Ledger { measure, held: zeros(), gained: zeros(), lost: zeros() }
    }

    fn note_changes(&mut self, team: &Team) {
        for worker in 0..self.held.len() {
            for server in 0..self.held[worker].len() {
                let now = self.measure.of(team.held(worker, server));
                let change = now - std::mem::replace(&mut self.held[worker][server], now);
                self.gained[worker][server] += change.max(0);
                self.lost[worker][server] += (-change).max(0);
            }
        }
    }

    fn note_round(&mut self) {
        self.gained.iter_mut().chain(&mut self.lost).for_each(|side| side.fill(0));
    }

    /// The least and the most that a worker may take a server to hold: it does not know what the
    /// others did since the last round.
    fn seen(&self, worker: usize, server: usize) -> (i64, i64) {
        let total: i64 = self.held.iter().map(|worker| worker[server]).sum();
        let of_others = |side: &[Vec<i64>]| -> i64 {
            let others = side.iter().enumerate().filter(|(at, _)| *at != worker);
            others.map(|(_, servers)| servers[server]).sum()
        };
        (total - of_others(&self.gained), total + of_others(&self.lost))
    }

    /// Whether `picked` is the least loaded of `servers` but for what the worker could not know.
    fn excused(
        &self,
        (team, worker): (&Team, usize),
        picked: usize,
        servers: impl Iterator<Item = usize>,
    ) -> Result<(), String> {
        let weights = &team.service().servers;
        let weight =
            |at: usize| if self.measure.by_weight { i64::from(weights[at].weight) } else { 1 };
        let addend = self.measure.addend;
        let low = self.seen(worker, picked).0 + addend;
        if self.measure.idle_first && low <= addend {
            return Ok(());
        }
        for other in servers {
            let high = self.seen(worker, other).1 + addend;
            if low * weight(other) > high * weight(picked) {
                return Err(format!(
                    "worker {worker} picked {picked} of {:?}, at least {low} against {high} of \
                     {other}",
                    self.held
                ));
            }
        }
        Ok(())
    }
}

/// Runs steps; a pick must be the least one in the measure of the scheduler, but for what is
/// excused.
struct Run {
    team: Team,
    ledger: Ledger,
    clients: usize,
    live: Vec<SocketAddr>,
}

impl Run {
    fn new(team: Team, measure: Measure) -> Self {
        Run { ledger: Ledger::new(&team, measure), clients: 0, live: Vec::new(), team }
    }

    fn play(&mut self, step: Step) -> Result<(), String> {
        match step {
            Step::Open => {
                let client = client(self.clients);
                let (worker, sent, mac) = self.team.tcp(client, TcpFlags::SYN);
                assert!(sent);
                let all = 0..self.team.service().servers.len();
                self.ledger.excused((&self.team, worker), usize::from(mac[5]) - 11, all)?;
                self.team.tcp(client, TcpFlags::ACK);
                self.clients += 1;
                self.live.push(client);
            }
            Step::Reset(at) if !self.live.is_empty() => {
                let client = self.live.swap_remove(at % self.live.len());
                self.team.tcp(client, TcpFlags::RST);
            }
            Step::Reset(_) => {}
            Step::Wait => self.team.advance(12),
            Step::Round => {
                self.team.round();
                self.ledger.note_round();
            }
        }
        self.ledger.note_changes(&self.team);
        Ok(())
    }
}

/// Those whose pick is the least of a measure.
fn least_schedulers() -> impl Strategy<Value = (SchedulerSpec, Measure)> {
    prop_oneof![
        Just((SchedulerSpec::LeastConnections, Measure { by_weight: false, ..LOAD })),
        Just((SchedulerSpec::WeightedLeastConnections, LOAD)),
        Just((SchedulerSpec::ShortestExpectedDelay, DELAY)),
        Just((SchedulerSpec::NeverQueue, Measure { idle_first: true, ..DELAY })),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 50,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn picks_err_by_no_more_than_what_others_did_since_the_last_round(
        count in 1..=8u8,
        (scheduler, measure) in least_schedulers(),
        weights in prop::collection::vec(1..6u32, 2..6),
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let team = Team::new(count, scheduler, servers(&weights));
        let mut run = Run::new(team, measure);
        for step in steps {
            if let Err(what) = run.play(step) {
                return Err(TestCaseError::fail(what));
            }
        }
    }

    #[test]
    fn a_threshold_is_passed_by_no_more_than_others_opened_since_the_last_round(
        count in 1..=8u8,
        upper in 1..12u32,
        by_weight: bool,
        steps in prop::collection::vec(step(), 1..200),
    ) {
        // The other one takes what the first refuses. ovf's own limit is one above the weight.
        let (scheduler, upper) = match by_weight {
            true => (SchedulerSpec::Overflow, upper + 1),
            false => (SchedulerSpec::Failover, upper),
        };
        let mut specs = servers(&[if by_weight { upper - 1 } else { 1000 }, 1]);
        specs[0].upper_threshold = if by_weight { 0 } else { upper };
        // No bound on the second, so that somebody always takes the flow.
        specs[1] = ServerSpec { weight: if by_weight { 0 } else { 1 }, ..specs[1].clone() };
        let mut team = Team::new(count, scheduler, specs);
        let mut live = Vec::new();
        let mut opened = vec![0i64; usize::from(count)];
        for (at, step) in steps.into_iter().enumerate() {
            match step {
                Step::Open => {
                    let (worker, sent, mac) = team.tcp(client(at), TcpFlags::SYN);
                    prop_assert!(sent || by_weight);
                    if !sent {
                        continue;
                    }
                    team.tcp(client(at), TcpFlags::ACK);
                    live.push(client(at));
                    if mac[5] == 11 {
                        opened[worker] += 1;
                        let all = (0..opened.len()).map(|w| team.held(w, 0));
                        // ovf looks at active ones alone.
                        let idle = i64::from(!by_weight);
                        let counted = |(active, inactive)| active + idle * inactive;
                        let total: i64 = all.map(counted).sum();
                        let others = opened.iter().sum::<i64>() - opened[worker];
                        prop_assert!(total <= i64::from(upper) + others, "{total} {opened:?}");
                    }
                }
                Step::Reset(at) if !live.is_empty() => {
                    let client = live.swap_remove(at % live.len());
                    team.tcp(client, TcpFlags::RST);
                }
                Step::Reset(_) => {}
                Step::Wait => team.advance(12),
                Step::Round => {
                    team.round();
                    opened.fill(0);
                }
            }
        }
    }
}

#[test]
fn turns_of_several_workers_are_off_by_a_turn_each() {
    let weights = [1, 2, 5, 3];
    let sum: u32 = weights.iter().sum();
    for count in 1..=8u8 {
        for (scheduler, shares) in [
            (SchedulerSpec::RoundRobin, [0.25; 4]),
            (SchedulerSpec::WeightedRoundRobin, weights.map(|w| f64::from(w) / f64::from(sum))),
        ] {
            let mut team = Team::new(count, scheduler, servers(&weights));
            let mut picks = [0u32; 4];
            for at in 0..600u32 {
                picks[team.udp(client(at as usize)).unwrap()] += 1;
                // Of a round begun a worker has given a server at most its whole weight, and in the
                // very first one flow more; rr's rounds have one for each.
                for (server, share) in shares.iter().enumerate() {
                    let turn = match scheduler {
                        SchedulerSpec::RoundRobin => 1,
                        _ => weights[server] + 1,
                    };
                    let off = (f64::from(picks[server]) - share * f64::from(at + 1)).abs();
                    assert!(off <= f64::from(turn * u32::from(count)), "{count}: {picks:?}");
                }
            }
        }
    }
}

#[test]
fn a_server_full_of_others_connections_is_left_alone_until_they_end() {
    let mut specs = servers(&[1, 1]);
    specs[1].upper_threshold = 4;
    let mut team = Team::new(4, SchedulerSpec::RoundRobin, specs);
    let all: Vec<SocketAddr> = (0..400).map(client).collect();
    let mut owners = Vec::new();
    for one in &all[..40] {
        owners.push(team.tcp(*one, TcpFlags::SYN));
        team.tcp(*one, TcpFlags::ACK);
        team.round();
    }
    let total = |team: &Team| (0..4).map(|w| team.held(w, 1)).map(|(a, i)| a + i).sum::<i64>();
    assert_eq!(total(&team), 4, "told after each flow, four workers hold what one would");
    let on_limited: Vec<_> = owners.iter().zip(&all).filter(|(o, _)| o.2[5] == 12).collect();
    assert!(on_limited.iter().any(|(owner, _)| owner.0 != on_limited[0].0.0), "several workers");
    // Three of four is the mark's end without a lower threshold: 3 * 4 < 4 * 3 is not yet below.
    let mut ended = on_limited.iter();
    for (left, takes) in [(3, false), (2, true)] {
        team.tcp(*ended.next().unwrap().1, TcpFlags::RST);
        team.advance(12);
        team.round();
        assert_eq!(total(&team), left);
        let next = 100 * left as usize;
        let picks = (next..next + 20).map(|at| team.tcp(client(at), TcpFlags::SYN).2[5]);
        assert_eq!(picks.collect::<Vec<_>>().contains(&12), takes, "{left} left");
    }
}

/// Where many clients went, by server.
fn shares(scheduler: SchedulerSpec, weights: &[u32], clients: u32) -> Vec<u32> {
    let mut team = Team::new(1, scheduler, servers(weights));
    let mut shares = vec![0; weights.len()];
    for at in 0..clients {
        // Any addresses will do; these have no order that a hash could keep.
        let bits = at.wrapping_mul(0x9e37_79b9) ^ (at >> 3);
        let ip = IpAddr::from([100, 64 | (bits >> 24) as u8 & 63, (bits >> 16) as u8, bits as u8]);
        let port = 1024 + at as u16 % 60_000;
        shares[team.udp((ip, port).into()).unwrap()] += 1;
    }
    shares
}

#[test]
fn shares_are_the_weights() {
    const CLIENTS: u32 = 16_000;
    let flags = HashFlags { port: true, fallback: false };
    for (scheduler, table) in [
        (SchedulerSpec::WeightedRoundRobin, None),
        (SchedulerSpec::WeightedLeastConnections, None),
        (SchedulerSpec::SourceHash(flags), Some(256.0)),
        (SchedulerSpec::KernelMaglev(flags), Some(4093.0)),
        (SchedulerSpec::Maglev { slots: 65_537 }, Some(65_537.0)),
    ] {
        let weights = [1, 2, 5, 24];
        let sum = f64::from(weights.iter().sum::<u32>());
        let shares = shares(scheduler, &weights, CLIENTS);
        for (share, weight) in shares.iter().zip(weights) {
            let part = f64::from(weight) / sum;
            let expected = f64::from(CLIENTS) * part;
            // Turns are exact; a hash spreads binomially over a table cut into whole slots.
            let allowed = table.map_or(1.0, |slots: f64| {
                5.0 * (expected * (1.0 - part)).sqrt() + f64::from(CLIENTS) * 5.0 / slots
            });
            let off = (f64::from(*share) - expected).abs();
            assert!(off <= allowed, "{scheduler:?}: {shares:?}, {off} off where {allowed} may be");
        }
    }
}

#[test]
fn heaviest_and_lightest_weights_work() {
    // mh keeps six bits of a weight: the light one has a slot in 64.
    for (scheduler, lightest) in [
        (SchedulerSpec::WeightedRoundRobin, 0..=10),
        (SchedulerSpec::WeightedLeastConnections, 0..=10),
        (SchedulerSpec::ShortestExpectedDelay, 0..=10),
        (SchedulerSpec::KernelMaglev(HashFlags::default()), 12..=60),
    ] {
        let shares = shares(scheduler, &[65_535, 1, 0], 2_000);
        assert!(lightest.contains(&shares[1]), "{scheduler:?}: {shares:?}");
        assert_eq!(shares[0] + shares[1], 2_000, "{scheduler:?}: {shares:?}");
    }
}

/// The kernel's wrr sets a service's round to the first server's weight over the weights' divisor,
/// 1 with one server, and later adds leave it there: so the first round takes everybody. Whoever
/// has forgotten the first add begins with the heaviest.
#[test]
fn a_long_list_that_changes_before_its_first_flow_is_walked_as_the_kernel_does() {
    const COUNT: usize = ChangeLog::KEPT + 20;
    let mut weights = vec![3; COUNT];
    weights[0] = 1000;
    let mut director = Director::new(KernelMode::Tap);
    for edited in [3, 2] {
        weights[5] = edited;
        let spec = ServiceSpec::new(key(Protocol::Udp), SchedulerSpec::WeightedRoundRobin);
        let wanted = desired(vec![ServiceSpec { servers: servers(&weights), ..spec }]);
        director.change(|registry, hops| registry.apply(&wanted, hops)).unwrap();
    }
    for (at, server) in (COUNT - 3..COUNT).rev().enumerate() {
        let udp = from_client(client(at).ip(), VIP.parse().unwrap()).udp(client(at).port(), 80);
        let out = director.receive(CLIENT, &udp.build());
        assert_eq!((out.sent_on(), usize::from(out.frame[5])), (Some(SERVER), server + 11));
    }
}
