//! The run of a plan: clients and servers around the director, time, and links between them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use gyre::counters::DropReason;
use gyre::dataplane::{Errand, Verdict};
use gyre::message::FlowRow;
use gyre::model::next_hops::{NextHops, NicLink, StaticNeighbour, StaticRoute};
use gyre::model::*;
use gyre::time::Nanos;

use crate::changes::Control;
use crate::checks::{self, Meanings};
use crate::decisions::Decisions;
use crate::endpoint::Endpoint;
use crate::link::{DatagramId, Heard, Piece, Reassembly, cut, decapsulate, hear, piece};
use crate::plan::{Mix, OUTER, Plan, Random, rip};
use crate::support::*;
use crate::talk::{Face, Fate, Talk};
use crate::team::{Decided, Member, Team, Waiting, Waits, steering};

const START_S: u64 = 1_000;
const TICK_US: u64 = 10_000;
/// Longest a run may take, by its own clock.
const DEADLINE_US: u64 = 60_000_000;
/// How long an application waits before it sends a datagram again.
const REPEAT_TICKS: u64 = 50;

/// What happens at a moment.
#[derive(Debug)]
enum Event {
    /// A frame reaches a queue of a port.
    Arrives(NicId, usize, Vec<u8>),
    /// A worker has a turn.
    Turn(usize),
    /// A frame reaches a client.
    Client(usize, Vec<u8>),
    /// A frame reaches a server.
    Server(usize, Vec<u8>),
}

/// What runs came to.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub done: u64,
    pub cut: u64,
    pub refused: u64,
    pub hand_offs: u64,
    pub changes: u64,
    pub frames: u64,
    pub takeovers: u64,
    /// Client networks about which a template decided.
    pub networks: u64,
    /// Frames to servers of the director's own kernel.
    pub local: u64,
    pub hops_freed: u64,
}

impl Outcome {
    pub fn add(&mut self, other: &Outcome) {
        self.done += other.done;
        self.cut += other.cut;
        self.refused += other.refused;
        self.hand_offs += other.hand_offs;
        self.changes += other.changes;
        self.frames += other.frames;
        self.takeovers += other.takeovers;
        self.networks += other.networks;
        self.local += other.local;
        self.hops_freed += other.hops_freed;
    }
}

/// Everything.
pub struct World {
    pub(super) plan: Plan,
    pub(super) random: Random,
    pub(super) now_us: u64,
    events: BTreeMap<(u64, u64), Event>,
    count: u64,
    pub(super) team: Team,
    control: Control,
    meanings: Meanings,
    decisions: Decisions,
    /// When this round began.
    round_us: u64,
    pub(super) talks: Vec<Talk>,
    pub(super) servers: HashMap<(usize, Face), Endpoint>,
    /// Connections that a server has ended, and holds in TIME_WAIT: next number, timestamp.
    pub(super) time_wait: HashMap<Face, (u32, u32)>,
    /// Fragments on their way through tunnels, and at the ends: clients', servers'.
    tunnels: Reassembly,
    pub(super) ends: [Reassembly; 2],
    /// Which server the pieces of a datagram go to, by its name behind the director.
    ways: HashMap<DatagramId, u8>,
    pub(super) outcome: Outcome,
    /// Whether to tell what happens.
    tells: bool,
}

fn nics() -> Vec<NicModel> {
    let nic = |id: NicId| NicModel {
        id,
        name: ["client", "server"][id.index()].into(),
        mac: director_mac(id).0,
        mtu: 1500,
        kernel: KernelMode::Tap,
        vlan: None,
        addresses: if id == SERVER {
            OUTER.map(|a| a.parse().unwrap()).to_vec()
        } else {
            Vec::new()
        },
    };
    vec![nic(CLIENT), nic(SERVER)]
}

fn next_hops() -> NextHops {
    let link = |nic: NicModel| NicLink { nic: nic.id, interface: None, mac: nic.mac, mtu: nic.mtu };
    let mut hops = NextHops::new(nics().into_iter().map(link).collect());
    set_static(&mut hops, &HashSet::new());
    hops
}

/// The routes, and whose MAC addresses are known: the routers' and these servers'.
pub fn set_static(hops: &mut NextHops, servers: &HashSet<IpAddr>) {
    let known = |address: &IpAddr| {
        let mac = server_mac(*address).0;
        StaticNeighbour { nic: SERVER, address: *address, mac }
    };
    let mut neighbours: Vec<_> = servers.iter().map(known).collect();
    // A set has no order, a run has one.
    neighbours.sort_unstable_by_key(|neighbour| neighbour.address);
    let mut routes = Vec::new();
    let routers: [IpAddr; 2] = ["192.168.100.254".parse().unwrap(), "fd00:64::fe".parse().unwrap()];
    let links = [["192.168.100.0/24", "10.2.0.0/24"], ["fd00:64::/64", "fd00:2::/64"]];
    for family in 0..2 {
        let router = routers[family];
        neighbours.push(StaticNeighbour { nic: CLIENT, address: router, mac: ROUTER_MAC.0 });
        let all = ["0.0.0.0/0", "::/0"][family].parse().unwrap();
        routes.push(StaticRoute { prefix: all, nic: CLIENT, gateway: Some(router) });
        for (nic, prefix) in [CLIENT, SERVER].into_iter().zip(links[family]) {
            routes.push(StaticRoute { prefix: prefix.parse().unwrap(), nic, gateway: None });
        }
    }
    hops.set_static(&neighbours, &routes);
}

impl World {
    pub fn new(plan: Plan) -> Self {
        let random = Random(plan.seed);
        let now = Nanos::from_secs(START_S);
        let mut registry = Registry::new(RegistryConfig {
            servers_max: 40,
            services_max: 8,
            lips_max: 8,
            ..RegistryConfig::new(steering(plan.workers))
        });
        registry.set_nics(nics());
        let mut control = Control::new(&plan, registry, next_hops());
        let snapshot = control.registry.snapshot().clone();
        let mut team = Team::new(plan.workers, &snapshot, now);
        team.publish(&control.hops.all(), &snapshot);
        team.catch_up();
        let mut meanings = Meanings::default();
        meanings.follow(&snapshot, &team, now);
        World {
            random,
            now_us: START_S * 1_000_000,
            events: BTreeMap::new(),
            count: 0,
            team,
            control,
            meanings,
            decisions: Decisions::new(&plan),
            round_us: 0,
            talks: Vec::new(),
            servers: HashMap::new(),
            time_wait: HashMap::new(),
            tunnels: Reassembly::default(),
            ends: Default::default(),
            ways: HashMap::new(),
            outcome: Outcome::default(),
            tells: std::env::var_os("GYRE_SIMULATION_SEED").is_some(),
            plan,
        }
    }

    pub(super) fn now(&self) -> Nanos {
        Nanos(self.now_us * 1000)
    }

    fn tell(&self, what: impl FnOnce() -> String) {
        if self.tells {
            println!("{:>9} {}", self.now_us - START_S * 1_000_000, what());
        }
    }

    /// Runs to the end of every conversation and then to that of every flow, a few times; gives
    /// everything back in the end.
    pub fn run(mut self) -> Outcome {
        self.tell(|| format!("{:#?}", self.plan));
        for _ in 0..self.plan.rounds {
            self.round();
            let now = self.now();
            self.control.reclaim_all(&mut self.team, now);
            self.follow_slots();
        }
        let now = self.now();
        self.control.clear(&mut self.team, now);
        let mut outcome = self.outcome;
        for talk in &self.talks {
            match talk.fate {
                Fate::Done => outcome.done += 1,
                Fate::Cut => outcome.cut += 1,
                Fate::Refused => outcome.refused += 1,
                Fate::Open => unreachable!("the loop ended"),
            }
        }
        outcome.hand_offs = self.team.hand_offs;
        outcome.changes = self.control.changes;
        outcome.hops_freed = self.control.hops_freed;
        outcome.takeovers = self.team.count(|c| c.lips.iter().map(|lip| lip.reused.get()).sum());
        outcome
    }

    fn describe(&self) -> String {
        let open = self.talks.iter().enumerate().filter(|(_, talk)| talk.fate == Fate::Open);
        let open = open.map(|(at, talk)| {
            let client = talk.tcp.as_ref().map(|tcp| (tcp.state, tcp.received.len()));
            let server = self.server_of(at).map(|tcp| (tcp.state, tcp.received.len()));
            format!(
                "{at}: {:?} {:?} {:?} client {client:?} server {server:?} echoed {}",
                talk.client, talk.service.key, talk.face, talk.echoed
            )
        });
        open.collect::<Vec<_>>().join("\n")
    }

    fn round(&mut self) {
        self.round_us = self.now_us;
        self.decisions = Decisions::new(&self.plan);
        self.time_wait.clear();
        let first = self.talks.len() as u16;
        for at in first..first + self.plan.talks {
            self.talks.push(Talk::new(&self.plan, at, &mut self.random));
        }
        let deadline = self.now_us + DEADLINE_US;
        while self.talks.iter().any(|talk| talk.fate == Fate::Open) {
            assert!(self.now_us < deadline, "stuck: {}", self.describe());
            self.step();
        }
        // What is still on its way arrives.
        let until = self.now_us + 500_000;
        while self.now_us < until {
            self.step();
        }
        self.check_tables();
        self.outcome.networks += self.decisions.count();
        self.expire_all();
        checks::end(&self.team);
    }

    fn check_tables(&self) {
        let now = self.now();
        checks::tables(&self.team, &self.meanings, &steering(self.plan.workers), now);
        self.decisions.hold(&self.team, &self.meanings, now);
        self.no_flow_is_left_of_one_packet();
    }

    /// Nothing is remembered of a datagram that is scheduled by itself, but while it comes in
    /// pieces.
    fn no_flow_is_left_of_one_packet(&self) {
        let is_one_packet = |row: &FlowRow| {
            let key = self.meanings.service(row.service_id);
            self.plan.services.iter().any(|spec| spec.one_packet && spec.key == key)
        };
        let all = self.team.members.iter().flat_map(|member| member.rows(self.now()));
        for row in all.filter(is_one_packet) {
            let talk = self.talks.iter().rfind(|talk| talk.client == row.client);
            let is_due = talk.is_some_and(|talk| {
                let is_under_way = talk.fate == Fate::Open || self.plan.mix != Mix::Calm;
                talk.is_in_pieces() && is_under_way
            });
            assert!(is_due, "{row:?} is left of one packet");
        }
    }

    /// No flow outlives this. Templates live as long as their flows, notes between workers or not.
    fn expire_all(&mut self) {
        let is_done = |m: &Member| m.state.flows.is_empty() && m.state.next_template(0).is_none();
        for _ in 0..80 {
            if self.team.members.iter().all(is_done) {
                return;
            }
            self.now_us += 30_000_000;
            for worker in 0..self.team.members.len() {
                self.expire(worker);
                self.team.members[worker].drain();
            }
            self.team.settle_notes();
            self.check_tables();
        }
    }

    /// A worker's timers; the workers that it told something.
    fn expire(&mut self, worker: usize) -> Vec<usize> {
        let now = self.now();
        let member = &mut self.team.members[worker];
        while member.state.expire(&member.snapshot, now) > 0 {}
        self.decisions.after_timers((&self.team, worker), &self.meanings, now);
        self.team.pass_notes(worker)
    }

    fn at(&mut self, delay_us: u64, event: Event) {
        self.count += 1;
        self.events.insert((self.now_us + delay_us, self.count), event);
    }

    /// One event, or the next tick.
    fn step(&mut self) {
        let next_tick = (self.now_us / TICK_US + 1) * TICK_US;
        match self.events.first_key_value() {
            Some((&(at, _), _)) if at < next_tick => {
                let (_, event) = self.events.pop_first().unwrap();
                self.now_us = self.now_us.max(at);
                self.happen(event);
            }
            _ => {
                self.now_us = next_tick;
                self.tick();
            }
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrives(nic, talk, bytes) => {
                let worker = self.random.below(u64::from(self.plan.workers)) as usize;
                let (resumed, errand) = (false, Errand::None);
                let waiting = Waiting { nic, bytes, talk, hops: 0, resumed, errand };
                self.team.members[worker].inbox.push_back(Waits::Frame(waiting));
                let delay = self.random.below(100);
                self.at(delay, Event::Turn(worker));
            }
            Event::Turn(worker) => self.turn(worker),
            Event::Client(talk, bytes) => self.client_hears(talk, &bytes),
            Event::Server(talk, bytes) => self.server_hears(talk, (None, &bytes)),
        }
    }

    fn tick(&mut self) {
        let (now, now_us) = (self.now(), self.now_us);
        for worker in 0..self.team.members.len() {
            for told in self.expire(worker) {
                self.at(0, Event::Turn(told));
            }
            for (nic, bytes) in self.team.members[worker].drain() {
                self.sent(worker, nic, bytes, None);
            }
            // Without frames a worker has turns as well.
            if self.random.one_in(4) {
                self.team.members[worker].adopt();
            }
        }
        self.team.sweep(now);
        if self.plan.mix == Mix::Changes && self.random.one_in(2) {
            self.change();
        }
        let since = now_us - self.round_us;
        for at in 0..self.talks.len() {
            let talk = &mut self.talks[at];
            let begun = talk.tcp.is_some() || talk.sent > 0;
            if talk.fate != Fate::Open || !begun && since < talk.starts_at_us {
                continue;
            }
            if !begun {
                talk.start(&mut self.random, now_us);
            } else if let Some(tcp) = &mut talk.tcp {
                tcp.tick(now_us);
            } else if (since / TICK_US).is_multiple_of(REPEAT_TICKS) {
                talk.repeat();
            }
            if let Some(key) = self.server_key(at) {
                self.servers.get_mut(&key).unwrap().tick(now_us);
            }
            self.speak(at);
        }
        self.check_tables();
    }

    fn change(&mut self) {
        let hops = if self.random.one_in(3) {
            self.tell(|| "slots are reclaimed".into());
            let now = self.now();
            self.control.reclaim(&mut self.team, now)
        } else {
            let (said, hops) = self.control.random(&self.plan, &mut self.random);
            self.tell(|| said);
            hops
        };
        self.follow_slots();
        self.team.publish(&hops, self.control.registry.snapshot());
    }

    fn follow_slots(&mut self) {
        let now = self.now();
        self.meanings.follow(self.control.registry.snapshot(), &self.team, now);
    }

    /// A frame on its way to `nic` of the director, from one of the ends.
    pub(super) fn send(&mut self, nic: NicId, talk: usize, bytes: Vec<u8>) {
        self.count += 1;
        // Identifications of IPv4 have 16 bits; a run has fewer datagrams.
        let id = (self.count & 0xffff) as u32;
        let pieces = cut(bytes, id, &mut self.random);
        if let [one, _, ..] = &pieces[..] {
            self.team.datagrams.insert(piece(one).id, talk);
        }
        for bytes in pieces {
            self.outcome.frames += 1;
            if self.random.below(1000) >= self.plan.loss_per_mille {
                let delay = 200 + self.random.below(self.plan.jitter_us);
                self.at(delay, Event::Arrives(nic, talk, bytes));
            }
        }
    }

    /// What both ends of a conversation have to say now.
    pub(super) fn speak(&mut self, at: usize) {
        if self.talks[at].fate != Fate::Open {
            return;
        }
        let now_us = self.now_us;
        for frame in self.talks[at].client_speaks(now_us) {
            self.send(CLIENT, at, frame);
        }
        let Some(key) = self.server_key(at) else { return };
        let server = self.servers.get_mut(&key).unwrap();
        self.talks[at].server_speaks(server, now_us);
        for frame in std::mem::take(&mut server.out) {
            self.server_sends(at, key.1, frame);
        }
        if self.talks[at].is_over(self.server_of(at)) {
            self.finish(at, key);
        }
    }

    fn finish(&mut self, at: usize, key: (usize, Face)) {
        self.tell(|| format!("talk {at} is done"));
        self.talks[at].fate = Fate::Done;
        let server = &self.servers[&key];
        self.time_wait.insert(key.1, (server.receive_next(), server.stamp_seen));
    }

    /// In DR the answer does not pass the director.
    pub(super) fn server_sends(&mut self, talk: usize, face: Face, frame: Vec<u8>) {
        if face.dst == self.talks[talk].service_at() {
            let delay = 200 + self.random.below(self.plan.jitter_us);
            self.at(delay, Event::Client(talk, frame));
        } else {
            self.send(SERVER, talk, frame);
        }
    }

    fn server_key(&self, at: usize) -> Option<(usize, Face)> {
        let key = (at, self.talks[at].face?);
        self.servers.contains_key(&key).then_some(key)
    }

    fn server_of(&self, at: usize) -> Option<&Endpoint> {
        self.servers.get(&self.server_key(at)?)
    }

    fn turn(&mut self, worker: usize) {
        let now = self.now();
        let burst_max = self.plan.burst_max;
        let (decided, owners) = self.team.turn(worker, burst_max, &mut self.random, now);
        self.decisions.after_turn((&self.team, worker), &self.meanings, now);
        for owner in owners {
            let delay = self.random.below(100);
            self.at(delay, Event::Turn(owner));
        }
        for (nic, bytes) in self.team.members[worker].drain() {
            self.sent(worker, nic, bytes, None);
        }
        for decided in decided {
            self.decided(decided);
        }
        if !self.team.members[worker].inbox.is_empty() {
            self.at(10, Event::Turn(worker));
        }
    }

    fn decided(&mut self, decided: Decided) {
        let Decided { worker, talk, nic, came, verdict, bytes } = decided;
        if nic == SERVER && matches!(verdict, Verdict::ToKernel(_)) {
            self.must_be_stray(worker, &came);
        }
        self.tell(|| {
            let Piece { id, offset, more, body, .. } = piece(&came);
            let bytes = body.len();
            format!("worker {worker}, talk {talk}: {verdict:?} {id:?} {offset} {bytes} {more}")
        });
        match verdict {
            Verdict::Transmit(nic) => self.sent(worker, nic, bytes, Some(talk)),
            Verdict::Drop(reason) => self.dropped(worker, talk, reason, &came),
            // A stray segment: the kernel's reset would reach the client, or nobody.
            Verdict::ToKernel(nic) => {
                match self.local_server(worker, talk).filter(|_| nic == CLIENT) {
                    Some(server) => self.reaches_local_server((worker, server), talk, came, &bytes),
                    None => self.left_to_kernel(worker, talk),
                }
            }
            Verdict::Parked => assert!(piece(&came).is_fragment()),
            Verdict::HandOff(..) | Verdict::AwaitNeighbour(_) | Verdict::AwaitAddress(..) => {
                panic!("all neighbours are known, hand-offs are taken: {verdict:?}");
            }
        }
    }

    /// A reply that was left to the kernel: no worker has its flow. One that has just learned of a
    /// NAT server may be ahead of this worker.
    fn must_be_stray(&self, worker: usize, came: &[u8]) {
        if piece(came).is_fragment() {
            return;
        }
        let (protocol, src, dst) = match hear(came) {
            Heard::Tcp(segment) => (Protocol::Tcp, segment.src.unwrap(), segment.dst.unwrap()),
            Heard::Udp(src, dst, _) => (Protocol::Udp, src, dst),
            Heard::Error(..) | Heard::Unreachable(_) => return,
        };
        if self.team.members[worker].lags() {
            return;
        }
        for (owner, member) in self.team.members.iter().enumerate() {
            let face = |row: &FlowRow| {
                row.local.unwrap_or(row.client) == dst
                    && row.server == src
                    && row.protocol == protocol
            };
            let row = member.rows(self.now()).find(face);
            assert!(row.is_none(), "worker {owner} has {row:?}, worker {worker} lets a reply go");
        }
    }

    fn dropped(&mut self, worker: usize, talk: usize, reason: DropReason, came: &[u8]) {
        if self.talks[talk].fate != Fate::Open {
            return;
        }
        match reason {
            // Taken away with its service or by itself: this worker's snapshot must say so.
            DropReason::ServerRemoved => {
                assert!(self.plan.mix == Mix::Changes, "nothing was removed");
                // Before it has a flow the client tries again: one worker's snapshot lacks what
                // another decided by its own.
                if self.row_of(worker, talk).is_some() {
                    self.talks[talk].fate = Fate::Cut;
                }
            }
            // The first piece found no server, or its flow is gone.
            DropReason::FragmentRefused | DropReason::FragmentNoFlow
                if self.plan.mix == Mix::Changes => {}
            // Late segments of a handshake, or a lull in it; the ends send again.
            DropReason::StrayReply
            | DropReason::Unclassified
            | DropReason::SynproxyBadCookie
            | DropReason::SynproxyEarlyData
            | DropReason::SynproxyConsumed => {}
            reason => {
                panic!("worker {worker} dropped a frame of talk {talk}: {reason:?}: {came:02x?}")
            }
        }
    }

    fn left_to_kernel(&mut self, worker: usize, at: usize) {
        let talk = &mut self.talks[at];
        if talk.fate == Fate::Open && self.plan.mix == Mix::Changes {
            let snapshot = &self.team.members[worker].snapshot;
            if snapshot.service_of(&talk.service.key).is_none() {
                talk.fate = if talk.face.is_some() { Fate::Cut } else { Fate::Refused };
            }
        }
    }

    /// The director sends a frame: whose it is, who decided it, where it goes.
    fn sent(&mut self, worker: usize, nic: NicId, bytes: Vec<u8>, talk: Option<usize>) {
        let is_tunnel = nic == SERVER && OUTER.contains(&&*piece(&bytes).id.0.to_string());
        let bytes = if is_tunnel {
            let Some(whole) = self.tunnels.take(bytes) else { return };
            decapsulate(whole)
        } else {
            bytes
        };
        let delay = 200 + self.random.below(self.plan.jitter_us);
        let lost = self.random.below(1000) < self.plan.loss_per_mille;
        let event = if let Some(found) = talk.filter(|_| piece(&bytes).is_fragment()) {
            self.decided_by(worker, found);
            let way = *self.ways.entry(piece(&bytes).id).or_insert(bytes[5]);
            assert_eq!(bytes[5], way, "a datagram is torn apart");
            self.goes_with_its_flow(nic, found, &bytes);
            if nic == CLIENT { Event::Client(found, bytes) } else { Event::Server(found, bytes) }
        } else if nic == CLIENT {
            let found = self.talk_of_client(&hear(&bytes));
            let told = || format!("talk {talk:?} was heard by {found}: {:?}", hear(&bytes));
            assert!(talk.is_none_or(|talk| talk == found), "{}", told());
            self.decided_by(worker, found);
            Event::Client(found, bytes)
        } else {
            let found = self.server_bound(worker, &bytes, talk);
            self.decided_by(worker, found);
            Event::Server(found, bytes)
        };
        if !lost {
            self.at(delay, event);
        }
    }

    /// A piece of a datagram goes where its flow goes.
    fn goes_with_its_flow(&self, nic: NicId, at: usize, bytes: &[u8]) {
        let (talk, to) = (&self.talks[at], piece(bytes).id.1);
        if nic == CLIENT {
            assert_eq!(to, talk.client.0);
        } else if let Some(face) = talk.face.filter(|_| !talk.service.one_packet) {
            assert_eq!((to, bytes[5]), (face.dst.0, server_mac(face.server).0[5]));
        }
    }

    /// Both directions are one worker's.
    pub(super) fn decided_by(&mut self, worker: usize, at: usize) {
        let talk = &mut self.talks[at];
        let owner = *talk.owner.get_or_insert(worker);
        assert_eq!(owner, worker, "talk {at} has two owners");
    }

    fn talk_of_client(&self, heard: &Heard) -> usize {
        let dst = match heard {
            Heard::Tcp(segment) => segment.dst.unwrap(),
            Heard::Udp(_, dst, _) => *dst,
            Heard::Unreachable(quoted) | Heard::Error(_, [quoted, _]) => *quoted,
        };
        self.talks.iter().position(|talk| talk.client == dst).expect("sent to nobody")
    }

    /// Whose frame this is, by the owner's table; the server of a live flow does not change.
    fn server_bound(&mut self, worker: usize, bytes: &[u8], talk: Option<usize>) -> usize {
        let (src, dst) = match hear(bytes) {
            Heard::Tcp(segment) => (segment.src.unwrap(), segment.dst.unwrap()),
            Heard::Udp(src, dst, _) => (src, dst),
            Heard::Error(_, [src, dst]) => (dst, src),
            other => panic!("a server got {other:?}"),
        };
        let is_tcp = matches!(hear(bytes), Heard::Tcp(_));
        let server = rip(usize::from(src.0.is_ipv6()), bytes[5]);
        let client = |client: (IpAddr, u16)| self.talks.iter().position(|t| t.client == client);
        // A frame that the director made by itself is whose flow has that face.
        let found = talk.or_else(|| client(src)).or_else(|| {
            let rows = self.team.members[worker].rows(self.now());
            let face = |row: &FlowRow| row.local == Some(src) && row.server == dst;
            // Errors are sent for packets only, and have their conversation's number.
            let protocol = |row: &FlowRow| (row.protocol == Protocol::Tcp) == is_tcp;
            client(rows.filter(protocol).find(face)?.client)
        });
        let found = found.expect("no flow has this face");
        assert!(client(src).is_none_or(|talk| talk == found), "another client's address");
        let face = Face { server, src, dst };
        self.goes_to(found, face);
        found
    }

    /// A conversation has one server, a datagram that is scheduled by itself may have another.
    pub(super) fn goes_to(&mut self, at: usize, face: Face) {
        let talk = &mut self.talks[at];
        if let Some(old) = talk.face.replace(face).filter(|old| *old != face) {
            let ended = talk.fate != Fate::Open || self.plan.mix == Mix::Changes;
            let spreads = talk.service.one_packet && talk.service.persistence.is_none();
            assert!(ended || spreads, "talk {at} went to {old:?} and now to {face:?}");
        }
    }
}
