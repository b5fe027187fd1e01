//! Runs trials: hands the queues to the cores, watches, takes them back.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use gyre::dpdk::{MbufVec, TscClock};
use gyre::wire::ethernet::MacAddr;

use super::ends::{Answers, Handshakes, Owned, Sender, Shared, Sink, Watch, publish};
use super::progress::Progress;
use super::rig::{Ends, Rig};
use crate::args::Idle;
use crate::frame::Templates;
use crate::pacer::Pacer;
use crate::plan::TrafficPlan;
use crate::schedule::Schedule;
use crate::stop::Stop;
use crate::tracker::{Tracker, new_histogram};
use crate::traffic::{Order, Traffic};
use crate::trial::{Device, Trial};

/// Between handing the queues out and the first frame.
const LEAD_NS: u64 = 2_000_000;
/// How much longer than asked a sender may take for frames that are due already.
const GRACE_NS: u64 = 5_000_000;
/// A burst may take ten times as long as it should, and this.
const BURST_SLACK_NS: u64 = 2_000_000_000;
/// What timing a burst's end may be off by.
const BURST_TIMING_S: f64 = 20e-6;
const SHOW_EVERY: Duration = Duration::from_millis(200);
/// Answers on their way from the receiving end to the sending one.
const ANSWERS_MAX: usize = 64;

/// How many frames, how fast, for how long.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Frames a second.
    pub fps: f64,
    /// Seconds; of a burst what it should take.
    pub duration_s: f64,
    /// Frames at most.
    pub frames_max: u64,
    /// Back to back: nothing is given up, however late.
    pub is_burst: bool,
}

impl Load {
    /// A rate for a time.
    pub fn timed(fps: f64, duration_s: f64) -> Self {
        Load { fps, duration_s, frames_max: u64::MAX, is_burst: false }
    }

    /// So many frames back to back.
    pub fn burst(fps: f64, frames: u64) -> Self {
        Load { fps, duration_s: frames as f64 / fps, frames_max: frames, is_burst: true }
    }

    fn pacer(&self, start_ns: u64) -> Pacer {
        if self.is_burst {
            return Pacer::burst(self.fps, start_ns, self.frames_max);
        }
        Pacer::new(self.fps, start_ns, self.frames_max)
    }

    fn end_ns(&self, start_ns: u64) -> u64 {
        let own_ns = (self.duration_s * 1e9) as u64;
        start_ns + if self.is_burst { own_ns * 10 + BURST_SLACK_NS } else { own_ns }
    }
}

/// What came of handing the queues out.
struct Outcome {
    duration_s: f64,
    asked: u64,
    sent: u64,
    receiver_drops: u64,
    watch: Watch,
}

/// A core's share of a trial: the sending end, the receiving end, or both.
struct Work {
    sender: Option<Sender>,
    sink: Option<Sink>,
    clock: TscClock,
    end_ns: u64,
    drain_ns: u64,
    idle: Idle,
    stop: Stop,
    shared: Arc<Shared>,
}

/// A core's share when it is over.
struct Done {
    sender: Option<Sender>,
    sink: Option<Sink>,
    /// When sending ended.
    ended_ns: u64,
}

impl Work {
    fn run(mut self) -> Done {
        let mut ended_ns = None;
        loop {
            let now_ns = self.clock.now().0;
            let sends = ended_ns.is_none() && self.send(now_ns);
            if ended_ns.is_none() && self.is_sent(now_ns, sends) {
                ended_ns = Some(now_ns);
            }
            let receives = self.receive();
            if let Some(ended_ns) = ended_ns
                && self.is_drained(now_ns, ended_ns)
            {
                return Done { sender: self.sender, sink: self.sink, ended_ns };
            }
            if !sends && !receives && self.idle == Idle::Yield {
                thread::yield_now();
            }
        }
    }

    fn send(&mut self, now_ns: u64) -> bool {
        let Some(sender) = &mut self.sender else { return false };
        let has_sent = sender.turn(now_ns.min(self.end_ns));
        publish(&self.shared, Some(sender.sent), None);
        has_sent
    }

    fn receive(&mut self) -> bool {
        let Some(sink) = &mut self.sink else { return false };
        let has_received = sink.turn(&mut self.clock);
        if has_received {
            publish(&self.shared, None, Some(sink.received()));
        }
        has_received
    }

    /// Whether the last frame is out: told by the other core where that one sends.
    fn is_sent(&mut self, now_ns: u64, sends: bool) -> bool {
        let Some(sender) = &mut self.sender else {
            return self.shared.is_sent.load(Ordering::Acquire);
        };
        let nothing_due = !sends && (now_ns >= self.end_ns || sender.pacer.is_finished());
        let is_sent = nothing_due || now_ns >= self.end_ns + GRACE_NS || self.stop.is_set();
        if is_sent {
            // What the port has not taken by now is not sent.
            sender.pending.clear();
            publish(&self.shared, Some(sender.sent), None);
            self.shared.is_sent.store(true, Ordering::Release);
        }
        is_sent
    }

    /// Whether all has come back, or had the time to.
    fn is_drained(&self, now_ns: u64, ended_ns: u64) -> bool {
        let Some(sink) = &self.sink else { return true };
        let is_all = match &sink.watch {
            Watch::Stamps(_) => sink.received() >= self.shared.sent.load(Ordering::Relaxed),
            Watch::Handshakes(_) => false,
        };
        is_all || now_ns >= ended_ns + self.drain_ns
    }
}

/// Everything that trials of one run have in common.
pub struct Trials {
    /// Ports and cores.
    pub rig: Rig,
    /// What traffic is asked for.
    pub plan: TrafficPlan,
    /// Which flow each frame belongs to.
    pub schedule: Arc<Schedule>,
    /// The next hop.
    pub dst_mac: MacAddr,
    /// Whose addresses are answered for.
    pub owned: Owned,
    /// Whether the user wants an end.
    pub stop: Stop,
    /// The line on the terminal.
    pub progress: Progress,
    /// How long to wait for stragglers.
    pub drain: Duration,
    /// Stream id of the trial before.
    pub stream: u16,
}

impl Trials {
    /// Sends stamped frames under `load` and counts them.
    pub fn stamped(&mut self, templates: &Arc<Templates>, load: Load) -> anyhow::Result<Trial> {
        // 0 is for written captures.
        self.stream = self.stream.checked_add(1).unwrap_or(1);
        let schedule = Arc::clone(&self.schedule);
        let clients = self.plan.clients.clone();
        let watch = Tracker::new(self.stream, Arc::clone(&schedule), clients.flows());
        let order = Order::Drawn(schedule);
        let traffic = Traffic::new(clients, Arc::clone(templates), order, self.stream);
        let outcome = self.run(traffic, load, Watch::Stamps(Box::new(watch)))?;
        let (counts, latency) = match outcome.watch {
            Watch::Stamps(tracker) => (tracker.counts(), tracker.latency().clone()),
            Watch::Handshakes(_) => (Default::default(), new_histogram()),
        };
        Ok(Trial {
            load_fps: load.fps,
            duration_s: outcome.duration_s,
            asked: outcome.asked,
            sent: outcome.sent,
            receiver_drops: outcome.receiver_drops,
            counts,
            latency,
        })
    }

    /// Sends frames that are not followed one by one: those that open flows, or a flood.
    pub fn unfollowed(
        &mut self,
        templates: &Arc<Templates>,
        order: Order,
        load: Load,
    ) -> anyhow::Result<(Trial, Handshakes)> {
        let traffic = Traffic::new(self.plan.clients.clone(), Arc::clone(templates), order, 0);
        let outcome = self.run(traffic, load, Watch::Handshakes(Handshakes::default()))?;
        let handshakes = match outcome.watch {
            Watch::Handshakes(handshakes) => handshakes,
            Watch::Stamps(_) => Handshakes::default(),
        };
        let counts = crate::tracker::Counts {
            received: handshakes.syn_acks,
            foreign: handshakes.foreign,
            ..Default::default()
        };
        let trial = Trial {
            load_fps: load.fps,
            duration_s: outcome.duration_s,
            asked: outcome.asked,
            sent: outcome.sent,
            receiver_drops: outcome.receiver_drops,
            counts,
            latency: new_histogram(),
        };
        Ok((trial, handshakes))
    }

    fn run(&mut self, traffic: Traffic, load: Load, watch: Watch) -> anyhow::Result<Outcome> {
        let drops_before = self.rig.receiver_drops();
        let start_ns = self.rig.clock.now().0 + LEAD_NS;
        let shared = Arc::new(Shared::default());
        let (sender, sink) = self.make_ends(traffic, load.pacer(start_ns), watch)?;
        let end_ns = load.end_ns(start_ns);
        let work = |sender, sink| Work {
            sender,
            sink,
            clock: self.rig.clock.clone(),
            end_ns,
            drain_ns: self.drain.as_nanos() as u64,
            idle: self.rig.idle,
            stop: self.stop.clone(),
            shared: Arc::clone(&shared),
        };
        let (tx_core, rx_core) = self.rig.cores;
        let works = if tx_core == rx_core {
            vec![(tx_core, work(Some(sender), Some(sink)))]
        } else {
            vec![(rx_core, work(None, Some(sink))), (tx_core, work(Some(sender), None))]
        };
        let (sender, sink, ended_ns) = self.watch_cores(works, &shared)?;
        let ended_ns = ended_ns.clamp(start_ns + 1, end_ns);
        let duration_s = (ended_ns - start_ns) as f64 / 1e9;
        let asked = match load.is_burst {
            // What the rate would have asked for in the time that the burst really took.
            true => ((duration_s - BURST_TIMING_S) * load.fps) as u64,
            false => sender.pacer.asked(ended_ns),
        };
        let sent = sender.sent;
        let asked = if load.is_burst { asked.max(load.frames_max) } else { asked };
        let watch = self.put_back(sender, sink);
        let receiver_drops = self.rig.receiver_drops().saturating_sub(drops_before);
        Ok(Outcome { duration_s, asked, sent, receiver_drops, watch })
    }

    fn make_ends(
        &mut self,
        traffic: Traffic,
        pacer: Pacer,
        watch: Watch,
    ) -> anyhow::Result<(Sender, Sink)> {
        let Ends { tx, rx, answers } = self.rig.take_ends()?;
        let (forward, forwarded) = mpsc::sync_channel(ANSWERS_MAX);
        let answers = answers.map_or(Answers::Forward(forward), Answers::Own);
        let pool = self.rig.pool.clone();
        let sender = Sender {
            queue: tx,
            pool: pool.clone(),
            traffic,
            pacer,
            pending: MbufVec::new(),
            sent: 0,
            answers: forwarded,
            turns: 0,
        };
        let owned = self.owned.clone();
        Ok((sender, Sink { queues: rx, pool, watch, owned, answers, frames: MbufVec::new() }))
    }

    /// Starts the cores, shows how far they are, and waits for them.
    fn watch_cores(
        &mut self,
        works: Vec<(usize, Work)>,
        shared: &Shared,
    ) -> anyhow::Result<(Sender, Sink, u64)> {
        let started = Instant::now();
        let (tell, told) = mpsc::channel();
        let mut workers = Vec::new();
        let count = works.len();
        for (core, work) in works {
            let tell = tell.clone();
            let body = move || drop(tell.send(work.run()));
            workers.push(self.rig.eal.spawn_worker("pktgen", core, body)?);
        }
        drop(tell);
        let (mut sender, mut sink, mut ended_ns) = (None, None, 0);
        for _ in 0..count {
            let done = self.wait(&told, started, shared)?;
            if done.sender.is_some() {
                ended_ns = done.ended_ns;
            }
            sender = sender.or(done.sender);
            sink = sink.or(done.sink);
        }
        drop(workers);
        self.progress.clear();
        let sender = sender.context("the sending core ended without its queue")?;
        Ok((sender, sink.context("the receiving core ended without its queue")?, ended_ns))
    }

    fn wait(
        &mut self,
        told: &Receiver<Done>,
        started: Instant,
        shared: &Shared,
    ) -> anyhow::Result<Done> {
        loop {
            match told.recv_timeout(SHOW_EVERY) {
                Ok(done) => return Ok(done),
                Err(RecvTimeoutError::Disconnected) => anyhow::bail!("a core ended by itself"),
                Err(RecvTimeoutError::Timeout) => {}
            }
            let sent = shared.sent.load(Ordering::Relaxed);
            let received = shared.received.load(Ordering::Relaxed);
            self.progress.show(started.elapsed(), sent, received);
        }
    }

    fn put_back(&mut self, sender: Sender, sink: Sink) -> Watch {
        let answers = match sink.answers {
            Answers::Own(queue) => Some(queue),
            Answers::Forward(_) => None,
        };
        self.rig.put_ends(Ends { tx: sender.queue, rx: sink.queues, answers });
        sink.watch
    }
}

/// Trials of one frame size, for a search.
pub struct Sized<'a> {
    /// What they have in common.
    pub trials: &'a mut Trials,
    /// Frames of that size.
    pub templates: Arc<Templates>,
    /// For the progress line.
    pub title: String,
}

impl Sized<'_> {
    fn run(&mut self, load: Load) -> anyhow::Result<Trial> {
        let mpps = load.fps / 1e6;
        self.trials.progress.title(format!("{} at {mpps:.4} Mpps", self.title));
        self.trials.stamped(&self.templates, load)
    }
}

impl Device for Sized<'_> {
    fn trial(&mut self, load_fps: f64, duration_s: f64) -> anyhow::Result<Trial> {
        self.run(Load::timed(load_fps, duration_s))
    }

    fn burst(&mut self, load_fps: f64, frames: u64) -> anyhow::Result<Trial> {
        self.run(Load::burst(load_fps, frames))
    }

    fn is_stopped(&self) -> bool {
        self.trials.stop.is_set()
    }
}
