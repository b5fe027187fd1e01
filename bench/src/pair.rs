//! Two workers on two cores, each with the frames that a NIC's RSS would bring to its queue, beside
//! one worker and beside what macswap gains from the second core.

use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use gyre::control::WorkerLink;
use gyre::counters::HandOffCause;
use gyre::model::{ForwardMode, Steering};
use gyre::runtime::crossing::Peers;
use gyre::wire::tcp::TcpFlags;

use crate::bench::{Bench, FRAMES, STAGES, forwarding_round, spreads};
use crate::cases::{FLOWS, mode_name, permutation};
use crate::director::{Director, Plan, Seat, Setup};
use crate::report::{Line, Spread};
use crate::source::Schedule;
use crate::stages::Which;
use crate::traffic::{Sizes, Traffic};

/// How long frames may be under way between workers after the last was given.
const PATIENCE: Duration = Duration::from_secs(5);

/// Two workers in one mode.
#[derive(Clone, Copy, Debug)]
pub struct Pair(pub ForwardMode);

impl Pair {
    /// All modes.
    pub const ALL: [Pair; 4] = [
        Pair(ForwardMode::DirectRoute),
        Pair(ForwardMode::Tunnel),
        Pair(ForwardMode::FullNat),
        Pair(ForwardMode::Nat),
    ];

    /// The name by which it is chosen.
    pub fn name(&self) -> String {
        format!("two-workers-{}-udp4-1M", mode_name(self.0))
    }
}

/// What both workers know of a round.
struct Round {
    start: Barrier,
    end: Barrier,
    /// Frames that have come out of each worker since it was made.
    out: [AtomicU64; 2],
}

/// What the other worker is told.
enum Order {
    /// Frames to give from now on.
    Follow(Schedule),
    /// A round.
    Run(Which, usize, u64),
    /// Nothing more: say what was counted.
    End,
}

/// What it answers.
struct Answer {
    /// Nanoseconds of the round; none where frames were lost.
    nanos: Option<f64>,
    packets: u64,
    flows: usize,
    hand_offs: u64,
}

/// One of the workers, on its thread.
struct Half {
    director: Director,
    round: Arc<Round>,
    own: usize,
}

impl Half {
    /// A round: `frames` of ours, until `total` have come out of both since they were made.
    fn run(&mut self, which: Which, frames: usize, total: u64) -> Option<f64> {
        self.director.which.set(which);
        self.director.window.borrow_mut().remaining = frames;
        self.round.start.wait();
        let start = Instant::now();
        let all_out = loop {
            self.director.turn();
            let (forwarded, is_done) = {
                let window = self.director.window.borrow();
                (window.forwarded, window.remaining == 0)
            };
            self.round.out[self.own].store(forwarded, Ordering::Release);
            if !is_done {
                continue;
            }
            let others = self.round.out[1 - self.own].load(Ordering::Acquire);
            if forwarded + others >= total {
                break true;
            }
            if start.elapsed() > PATIENCE + Duration::from_micros(frames as u64) {
                break false;
            }
        };
        let nanos = start.elapsed().as_nanos() as f64;
        self.round.end.wait();
        all_out.then_some(nanos)
    }

    fn answer(&self, nanos: Option<f64>) -> Answer {
        let (packets, flows) = self.director.packets();
        let hand_offs = &self.director.counters.hand_offs;
        let hand_offs = hand_offs[HandOffCause::Flow as usize].get();
        Answer { nanos, packets, flows, hand_offs }
    }
}

/// Both workers, as the measuring thread has them.
struct Both {
    own: Half,
    orders: mpsc::Sender<Order>,
    answers: mpsc::Receiver<anyhow::Result<Answer>>,
    sent: u64,
    /// Last: it ends when nobody orders any more.
    _thread: gyre::dpdk::WorkerThread,
}

impl Both {
    fn new(bench: &Bench, setup: &Setup) -> anyhow::Result<Both> {
        let plan = Plan::new(setup, 2)?;
        let mut peers = Peers::mesh(2).into_iter();
        let mut next = || peers.next().context("rings for two");
        let ((seat, mut link), other) = (plan.seat(0, next()?), plan.seat(1, next()?));
        let out = [AtomicU64::new(0), AtomicU64::new(0)];
        let round = Arc::new(Round { start: Barrier::new(2), end: Barrier::new(2), out });
        let (orders, ordered) = mpsc::channel();
        let (answer, answers) = mpsc::channel();
        let theirs = (bench.eal.clone(), bench.pool.clone(), Arc::clone(&round));
        let work = move || serve(&theirs, other, &ordered, &answer);
        let thread = bench.eal.spawn_worker("gyre-bench-2", bench.cores[1], work)?;
        let director = Director::seated(&bench.eal, &bench.pool, seat, &mut link)?;
        let own = Half { director, round, own: 0 };
        Ok(Both { own, orders, answers, sent: 0, _thread: thread })
    }

    fn follow(&mut self, [own, other]: [Schedule; 2]) -> anyhow::Result<()> {
        self.own.director.window.borrow_mut().follow(&Rc::new(own));
        self.orders.send(Order::Follow(other)).context("the other worker ended")
    }

    /// Nanoseconds until frames of both had come out.
    fn run(&mut self, which: Which, frames: [usize; 2]) -> anyhow::Result<f64> {
        self.sent += (frames[0] + frames[1]) as u64;
        let order = Order::Run(which, frames[1], self.sent);
        self.orders.send(order).context("the other worker ended")?;
        let own = self.own.run(which, frames[0], self.sent);
        let other = self.answers.recv().context("the other worker ended")??.nanos;
        let (Some(own), Some(other)) = (own, other) else {
            anyhow::bail!("frames were lost: {}", self.own.director.drops());
        };
        Ok(own.max(other))
    }

    /// What both have counted.
    fn counted(&mut self) -> anyhow::Result<[Answer; 2]> {
        self.orders.send(Order::End).context("the other worker ended")?;
        let other = self.answers.recv().context("the other worker ended")??;
        Ok([self.own.answer(None), other])
    }
}

type Theirs = (gyre::dpdk::Eal, gyre::dpdk::MbufPool, Arc<Round>);

/// The other worker's thread.
fn serve(
    (eal, pool, round): &Theirs,
    (seat, mut link): (Seat, WorkerLink),
    orders: &mpsc::Receiver<Order>,
    answers: &mpsc::Sender<anyhow::Result<Answer>>,
) {
    let director = match Director::seated(eal, pool, seat, &mut link) {
        Ok(director) => director,
        Err(error) => return drop(answers.send(Err(error))),
    };
    let mut half = Half { director, round: Arc::clone(round), own: 1 };
    for order in orders {
        let answer = match order {
            Order::Follow(schedule) => {
                half.director.window.borrow_mut().follow(&Rc::new(schedule));
                continue;
            }
            Order::Run(which, frames, total) => {
                let nanos = half.run(which, frames, total);
                Answer { nanos, packets: 0, flows: 0, hand_offs: 0 }
            }
            Order::End => half.answer(None),
        };
        if answers.send(Ok(answer)).is_err() {
            return;
        }
    }
}

/// The flows whose packets RSS brings to each queue.
fn by_queue(traffic: &Traffic) -> [Vec<usize>; 2] {
    let steering = Steering::for_workers(2);
    let mut queues = [Vec::new(), Vec::new()];
    for flow in 0..traffic.flows {
        let (client, src_port) = traffic.client(flow);
        let hash = steering.hash(client, traffic.vip(), src_port, 80);
        queues[steering.worker_of_hash(hash).index()].push(flow);
    }
    queues
}

/// Measures two workers in one mode.
pub fn measure(bench: &Bench, pair: Pair) -> anyhow::Result<Line> {
    ensure!(bench.cores[0] != bench.cores[1], "two workers want two cores");
    let traffic = Traffic::new(pair.0, FLOWS);
    let mut one = Director::new(&bench.eal, &bench.pool, &Setup::new(traffic))?;
    let every = one.establish()?;
    let alone = Rc::new(every.arranged(permutation(every.len()).into_iter()));
    one.window.borrow_mut().follow(&alone);
    let queues = by_queue(&traffic);
    let flows_max = 3 * FLOWS / 4;
    let setup = Setup { flows_max, roofline_flows: FLOWS / 2, ..Setup::new(traffic) };
    let mut both = Both::new(bench, &setup)?;
    let frames = queues.each_ref().map(|flows| {
        let flows = flows.iter().copied();
        traffic.clients_frames(flows, TcpFlags::ACK, Sizes::Fixed(64))
    });
    let lengths = frames.each_ref().map(Schedule::len);
    let mixed = frames.each_ref().map(|every| every.arranged(permutation(every.len()).into_iter()));
    both.follow(frames)?;
    both.run(Which::Gyre, lengths).context("opening flows")?;
    both.follow(mixed)?;
    let (mut pair_ns, mut one_ns) = (<[Vec<f64>; 4]>::default(), [Vec::new(), Vec::new()]);
    let (mut gyre_frames, shares) = (lengths[0] + lengths[1], [FRAMES / 2; 2]);
    for _ in 0..bench.rounds() {
        for (which, figures) in STAGES.into_iter().zip(&mut pair_ns) {
            figures.push(both.run(which, shares)? / FRAMES as f64);
        }
        gyre_frames += FRAMES;
        for (which, figures) in [Which::Gyre, Which::Macswap].into_iter().zip(&mut one_ns) {
            figures.push(forwarding_round(&mut one, which, FRAMES)?);
        }
    }
    let [own, other] = both.counted()?;
    let flows = own.flows + other.flows;
    ensure!(flows == FLOWS, "{flows} flows of {FLOWS}");
    let packets = own.packets + other.packets;
    ensure!(packets == gyre_frames as u64, "flows saw {packets} of {gyre_frames} packets");
    let hand_offs = own.hand_offs + other.hand_offs;
    ensure!(hand_offs == 0 || pair.0 == ForwardMode::Nat, "{hand_offs} frames handed off");
    let share = hand_offs as f64 / gyre_frames as f64;
    let pair_ns = spreads(pair_ns);
    let [one_gyre, one_macswap] = one_ns.map(|rounds| Spread::of(rounds).median);
    let mut line = Line::new(&pair.name(), &traffic, pair_ns, bench.ticks_per_ns);
    line.workers = 2;
    let (gain, macswap_gain) = (one_gyre / pair_ns[0].median, one_macswap / pair_ns[1].median);
    line.say("one_worker_mpps", 1e3 / one_gyre);
    line.say("gain", gain);
    line.say("macswap_gain", macswap_gain);
    line.say("gain_to_macswap_gain", gain / macswap_gain);
    line.say("hand_off_share", share);
    Ok(line)
}
