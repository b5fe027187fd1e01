//! lblc and lblcr with several workers: each has its own memory of destinations, and errs about
//! whether a server that it remembers is busy by what the others did since the last round.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use gyre::model::*;
use gyre::wire::tcp::TcpFlags;
use proptest::prelude::*;

use super::{LOAD, Ledger, Measure, Step, Team, client, step};
use crate::support::server;

/// Active connections alone.
const ACTIVE: Measure = Measure { active: 1, inactive: 0, addend: 0, ..LOAD };

struct Caching {
    team: Team,
    is_replicated: bool,
    load: Ledger,
    active: Ledger,
    /// By worker and destination: the servers that it remembers.
    known: HashMap<(usize, IpAddr), Vec<usize>>,
    clients: usize,
    live: Vec<(SocketAddr, IpAddr)>,
}

fn destination(at: usize) -> IpAddr {
    [10, 3, 0, at as u8].into()
}

impl Caching {
    fn new(count: u8, is_replicated: bool, weights: &[u32]) -> Self {
        let scheduler = match is_replicated {
            false => SchedulerSpec::LocalityLeastConnections,
            true => SchedulerSpec::ReplicatedLocality,
        };
        let mut spec = ServiceSpec::new(ServiceKey::group("caches").unwrap(), scheduler);
        let (protocol, prefix) = (Protocol::Tcp, "10.3.0.0/24".parse().unwrap());
        spec.matches = vec![TrafficMatch { protocol, prefix, ports: Ports::ALL }];
        let one = |(at, weight): (usize, &u32)| {
            server(([10, 2, 0, 11 + at as u8], 0).into(), *weight, ForwardMode::DirectRoute)
        };
        spec.servers = weights.iter().enumerate().map(one).collect();
        let team = Team::with(count, vec![spec]);
        let (load, active) = (Ledger::new(&team, LOAD), Ledger::new(&team, ACTIVE));
        let (known, live) = (HashMap::new(), Vec::new());
        Caching { team, is_replicated, load, active, known, clients: 0, live }
    }

    fn weight(&self, at: usize) -> i64 {
        i64::from(self.team.service().servers[at].weight)
    }

    fn servers(&self) -> std::ops::Range<usize> {
        0..self.team.service().servers.len()
    }

    /// Whether a worker may, and whether it must, take a server for busy: more active connections
    /// than weight, while another has fewer than half its weight.
    fn busy(&self, worker: usize, at: usize) -> (bool, bool) {
        let (least, most) = self.active.seen(worker, at);
        let idle = |pick: fn((i64, i64)) -> i64| {
            self.servers().any(|o| pick(self.active.seen(worker, o)) * 2 < self.weight(o))
        };
        let weight = self.weight(at);
        (most > weight && idle(|seen| seen.0), least > weight && idle(|seen| seen.1))
    }

    /// Whether a pick follows from what the worker remembers and may know.
    fn explained(&self, worker: usize, picked: usize, known: &[usize]) -> Result<(), String> {
        let place = (&self.team, worker);
        let is_kept = known.contains(&picked)
            && !self.busy(worker, picked).1
            && self.load.excused(place, picked, known.iter().copied()).is_ok();
        if is_kept {
            return Ok(());
        }
        self.load.excused(place, picked, self.servers())?;
        match known.is_empty() || known.iter().any(|at| self.busy(worker, *at).0) {
            true => Ok(()),
            false => Err(format!("worker {worker} left {known:?} for {picked} without need")),
        }
    }

    fn open(&mut self, destination: IpAddr) -> Result<(), String> {
        let client = client(self.clients);
        let (worker, sent, mac) = self.team.tcp_to(destination, client, TcpFlags::SYN);
        assert!(sent);
        let picked = usize::from(mac[5]) - 11;
        let known = self.known.remove(&(worker, destination)).unwrap_or_default();
        self.explained(worker, picked, &known)?;
        let mut set = if self.is_replicated { known } else { Vec::new() };
        if !set.contains(&picked) {
            set.push(picked);
        }
        self.known.insert((worker, destination), set);
        self.team.tcp_to(destination, client, TcpFlags::ACK);
        self.clients += 1;
        self.live.push((client, destination));
        Ok(())
    }

    fn play(&mut self, step: Step, destination: IpAddr) -> Result<(), String> {
        match step {
            Step::Open => self.open(destination)?,
            Step::Reset(at) if !self.live.is_empty() => {
                let (client, destination) = self.live.swap_remove(at % self.live.len());
                self.team.tcp_to(destination, client, TcpFlags::RST);
            }
            Step::Reset(_) => {}
            Step::Wait => self.team.advance(12),
            Step::Round => {
                self.team.round();
                self.load.note_round();
                self.active.note_round();
            }
        }
        self.load.note_changes(&self.team);
        self.active.note_changes(&self.team);
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 50,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_remembered_server_is_kept_until_the_worker_knows_that_it_is_busy(
        count in 1..=8u8,
        is_replicated: bool,
        weights in prop::collection::vec(1..6u32, 2..6),
        steps in prop::collection::vec((step(), 0..3usize), 1..200),
    ) {
        let mut run = Caching::new(count, is_replicated, &weights);
        for (step, at) in steps {
            if let Err(what) = run.play(step, destination(at)) {
                return Err(TestCaseError::fail(what));
            }
        }
    }
}

/// The figures of docs/DIFFERENCES.md: without a round nobody knows of the others' connections.
#[test]
fn a_remembered_server_may_carry_what_all_workers_give_it_until_they_are_told() {
    const WORKERS: i64 = 4;
    let mut run = Caching::new(WORKERS as u8, false, &[3, 3]);
    // Each worker remembers the first server for the destination.
    let to = destination(1);
    let on = |run: &Caching, at: usize| -> i64 {
        (0..WORKERS as usize).map(|worker| run.team.held(worker, at).0).sum()
    };
    let mut most = 0;
    for _ in 0..200 {
        run.play(Step::Open, to).unwrap();
        most = most.max(on(&run, 0).max(on(&run, 1)));
    }
    assert!(most > 3 + 1, "more than one worker would give it: {most}");
    // Told, all leave a busy server for one that is idle.
    while let Some((client, to)) = run.live.pop() {
        run.team.tcp_to(to, client, TcpFlags::RST);
    }
    run.team.advance(12);
    run.play(Step::Round, to).unwrap();
    for _ in 0..40 {
        run.play(Step::Open, to).unwrap();
        run.play(Step::Round, to).unwrap();
        let (first, second) = (on(&run, 0), on(&run, 1));
        assert!(first.min(second) * 2 >= 3 || first.max(second) <= 3 + 1, "{first} {second}");
    }
}
