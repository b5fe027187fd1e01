//! The director's workers: each with its own state, its own idea of the newest snapshot, and what
//! others have handed to it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, LazyLock, Mutex};

use gyre::counters::{DropReason, WorkerCounters};
use gyre::dataplane::{
    Burst, Errand, FlowId, Note, RxMeta, TemplateId, Verdict, WorkerConfig, WorkerState,
    process_burst,
};
use gyre::frame::Frame;
use gyre::message::{FlowFilter, FlowRow, Sweep, SweepAction};
use gyre::model::*;
use gyre::time::Nanos;

use crate::link::{DatagramId, piece};
use crate::plan::Random;

const HEADROOM: usize = 192;
const FLOWS: usize = 128;
/// Identities that a run may have at a time.
pub const IDENTITIES: usize = 64;

/// A frame that waits for a worker's turn.
#[derive(Clone, Debug)]
pub struct Waiting {
    pub nic: NicId,
    pub bytes: Vec<u8>,
    /// Conversation that it belongs to.
    pub talk: usize,
    /// Workers that had it before.
    pub hops: u8,
    /// Whether it is a fragment that waited at this worker.
    pub resumed: bool,
    /// What it is carried for.
    pub errand: Errand,
}

/// What waits for a worker's turn, as in a ring: in order.
#[derive(Clone, Debug)]
pub enum Waits {
    Frame(Waiting),
    /// What another worker tells of a template.
    Note(Note),
}

/// A decided frame.
#[derive(Debug)]
pub struct Decided {
    pub worker: usize,
    pub talk: usize,
    /// Where the frame came in, and as what.
    pub nic: NicId,
    pub came: Vec<u8>,
    pub verdict: Verdict,
    pub bytes: Vec<u8>,
}

/// A next hop and its slot.
pub type HopUpdate = (NextHopId, NextHop);

/// One worker.
pub struct Member {
    pub state: WorkerState,
    pub snapshot: Arc<Snapshot>,
    /// Published, not adopted yet, with the next hops that go before.
    pending: VecDeque<(Vec<HopUpdate>, Arc<Snapshot>)>,
    pub inbox: VecDeque<Waits>,
}

/// All workers.
pub struct Team {
    pub members: Vec<Member>,
    pub hand_offs: u64,
    /// Conversations of datagrams that are sent in fragments.
    pub datagrams: HashMap<DatagramId, usize>,
}

/// Built once for each number of workers: its tables cost more than a run.
pub fn steering(workers: u8) -> Arc<Steering> {
    static ALL: LazyLock<Mutex<Vec<Option<Arc<Steering>>>>> =
        LazyLock::new(|| Mutex::new(vec![None; 9]));
    let mut all = ALL.lock().unwrap();
    let slot = &mut all[usize::from(workers)];
    Arc::clone(slot.get_or_insert_with(|| Arc::new(Steering::for_workers(workers))))
}

impl Member {
    /// Adopts the oldest snapshot that waits, if any.
    pub fn adopt(&mut self) {
        let Some((hops, snapshot)) = self.pending.pop_front() else { return };
        for (id, hop) in hops {
            self.state.set_next_hop(id, hop);
        }
        self.state.adopt(&snapshot);
        self.snapshot = snapshot;
    }

    /// Whether it has yet to adopt what is published.
    pub fn lags(&self) -> bool {
        !self.pending.is_empty()
    }

    /// All flows, as people see them.
    pub fn rows(&self, now: Nanos) -> impl Iterator<Item = FlowRow> + '_ {
        let flows = &self.state.flows;
        let ids = std::iter::successors(flows.next_live(0), |id| flows.next_live(id.0 + 1));
        ids.filter_map(move |id: FlowId| self.state.row(id, now))
    }

    /// All templates as people see them: none of the shadows.
    pub fn templates(&self, now: Nanos) -> impl Iterator<Item = FlowRow> + '_ {
        let state = &self.state;
        let behind = |id: &TemplateId| state.next_template(id.0 + 1);
        let ids = std::iter::successors(state.next_template(0), behind);
        ids.filter_map(move |id| state.template_row(id, &self.snapshot, now))
    }

    /// Extra frames of the last burst or timers.
    pub fn drain(&mut self) -> Vec<(NicId, Vec<u8>)> {
        let mut frames = Vec::new();
        self.state.outbox.drain(|nic, bytes| frames.push((nic, bytes.to_vec())));
        self.state.events.clear();
        frames
    }
}

impl Team {
    pub fn new(count: u8, snapshot: &Arc<Snapshot>, now: Nanos) -> Self {
        let member = |worker: u8| {
            let config = WorkerConfig {
                worker: WorkerId(worker),
                workers: count,
                flows_v4_max: FLOWS,
                flows_v6_max: FLOWS,
                source_port_spaces: 64,
                seed: u64::from(worker),
                counters: Arc::new(WorkerCounters::with_bounds(IDENTITIES, IDENTITIES, IDENTITIES)),
            };
            let mut state = WorkerState::new(&config, now).unwrap();
            state.adopt(snapshot);
            let (pending, inbox) = (VecDeque::new(), VecDeque::new());
            Member { state, snapshot: Arc::clone(snapshot), pending, inbox }
        };
        let members = (0..count).map(member).collect();
        Team { members, hand_offs: 0, datagrams: HashMap::new() }
    }

    /// Sends a snapshot to every worker, behind the next hops that it names.
    pub fn publish(&mut self, hops: &[HopUpdate], snapshot: &Arc<Snapshot>) {
        for member in &mut self.members {
            member.pending.push_back((hops.to_vec(), Arc::clone(snapshot)));
        }
    }

    /// Has every worker adopt everything.
    pub fn catch_up(&mut self) {
        for member in &mut self.members {
            while !member.pending.is_empty() {
                member.adopt();
            }
        }
    }

    /// The oldest revision that a worker has in force.
    pub fn oldest_revision(&self) -> u64 {
        self.members.iter().map(|member| member.snapshot.revision).min().unwrap_or(0)
    }

    /// Flow entries with a server's slot.
    pub fn count(&self, count: impl Fn(&WorkerCounters) -> u64) -> u64 {
        self.members.iter().map(|member| count(&member.state.counters)).sum()
    }

    /// One turn of a worker: a burst of what waits for it. What is handed off waits at its owner
    /// afterwards; answers with all else, and the owners that got something.
    pub fn turn(
        &mut self,
        at: usize,
        burst_max: u64,
        random: &mut Random,
        now: Nanos,
    ) -> (Vec<Decided>, Vec<usize>) {
        let member = &mut self.members[at];
        if random.one_in(3) {
            member.adopt();
        }
        let count = (1 + random.below(burst_max) as usize).min(member.inbox.len());
        let mut waiting = Vec::new();
        for waits in member.inbox.drain(..count) {
            match waits {
                Waits::Frame(frame) => waiting.push(frame),
                Waits::Note(note) => member.state.hear(&note),
            }
        }
        let mut rest = Vec::new();
        let mut owners = Vec::new();
        // Fragments that waited for one of these follow it.
        while !waiting.is_empty() {
            let member = &mut self.members[at];
            let decided = member.process(&waiting, now);
            let resumed = member.resumed(&self.datagrams);
            for (waiting, (verdict, bytes, errand)) in waiting.into_iter().zip(decided) {
                match verdict {
                    Verdict::HandOff(owner, _) => {
                        self.hand_off(at, owner, Waiting { errand, ..waiting }, &bytes);
                        owners.push(owner.index());
                    }
                    _ => {
                        let Waiting { nic, talk, bytes: came, .. } = waiting;
                        rest.push(Decided { worker: at, talk, nic, came, verdict, bytes });
                    }
                }
            }
            waiting = resumed;
        }
        owners.extend(self.pass_notes(at));
        (rest, owners)
    }

    /// Passes on what a worker tells others of templates; who they are.
    pub fn pass_notes(&mut self, from: usize) -> Vec<usize> {
        let notes = self.members[from].state.notes.take();
        let mut told = Vec::new();
        for (to, note) in notes {
            assert_ne!(to.index(), from, "told to itself");
            self.members[to.index()].inbox.push_back(Waits::Note(note));
            told.push(to.index());
        }
        told
    }

    /// Has every worker hear what there is to hear, and answer; nothing else waits.
    pub fn settle_notes(&mut self) {
        let is_quiet = |member: &Member| member.inbox.is_empty() && member.state.notes.is_empty();
        while !self.members.iter().all(is_quiet) {
            for at in 0..self.members.len() {
                self.pass_notes(at);
                let member = &mut self.members[at];
                for waits in member.inbox.drain(..) {
                    let Waits::Note(note) = waits else { panic!("{waits:?} is left") };
                    member.state.hear(&note);
                }
            }
        }
    }

    /// Asks every worker to walk over its tables.
    pub fn start_sweep(&mut self, action: SweepAction) {
        let filter = FlowFilter::default();
        for member in &mut self.members {
            member.state.start_sweep(Sweep {
                job: 1,
                action,
                filter,
                matches_max: u32::MAX,
                start: 0,
            });
        }
    }

    /// Walks on over the tables of the workers that are asked to.
    pub fn sweep(&mut self, now: Nanos) {
        for member in self.members.iter_mut().filter(|member| member.state.is_sweeping()) {
            member.state.sweep(&member.snapshot, now, |_| true);
        }
    }

    fn hand_off(&mut self, from: usize, owner: WorkerId, waiting: Waiting, bytes: &[u8]) {
        assert_ne!(owner.index(), from, "handed to itself");
        assert_eq!(bytes, waiting.bytes, "a frame is handed off as it came");
        let hops = waiting.hops + 1;
        assert!(hops <= hops_max(&waiting), "handed off {hops} times: {waiting:?}");
        self.hand_offs += 1;
        let waiting = Waiting { hops, resumed: false, ..waiting };
        self.members[owner.index()].inbox.push_back(Waits::Frame(waiting));
    }

    /// Drops of a reason, all workers together.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.count(|counters| counters.drops[reason as usize].get())
    }
}

/// Hand-offs that a frame may see: one to its flow's owner, for a fragment the step from its
/// datagram's owner, and for a persistent flow's first packet the way to its template's owner and
/// back.
fn hops_max(waiting: &Waiting) -> u8 {
    let steps = if piece(&waiting.bytes).is_fragment() { 2 } else { 1 };
    match waiting.errand {
        Errand::None => steps,
        Errand::Ask(_) => steps + 1,
        Errand::Answer(_) => steps + 2,
    }
}

impl Member {
    /// Fragments that need wait no longer.
    fn resumed(&mut self, talks: &HashMap<DatagramId, usize>) -> Vec<Waiting> {
        let mut resumed = Vec::new();
        self.state.resume_fragments(64, |rx, bytes| {
            let talk = talks[&piece(bytes).id];
            let RxMeta { nic, hops, errand, .. } = rx;
            let bytes = bytes.to_vec();
            resumed.push(Waiting { nic, bytes, talk, hops, resumed: true, errand });
        });
        resumed
    }

    fn process(&mut self, waiting: &[Waiting], now: Nanos) -> Vec<(Verdict, Vec<u8>, Errand)> {
        let mut buffers: Vec<Vec<u8>> = waiting
            .iter()
            .map(|waiting| {
                let mut buffer = vec![0xee; HEADROOM + waiting.bytes.len() + 256];
                buffer[HEADROOM..HEADROOM + waiting.bytes.len()].copy_from_slice(&waiting.bytes);
                buffer
            })
            .collect();
        let mut burst = Burst::new();
        for (buffer, waiting) in buffers.iter_mut().zip(waiting) {
            let end = HEADROOM + waiting.bytes.len();
            let Waiting { nic, hops, resumed, errand, .. } = *waiting;
            let rx = RxMeta { nic, hops, resumed, errand, ..RxMeta::default() };
            burst.push(Frame::new(buffer, HEADROOM, end), rx).unwrap();
        }
        process_burst(&mut self.state, &self.snapshot, &mut burst, now);
        burst
            .slots
            .iter()
            .map(|slot| (slot.verdict.unwrap(), slot.frame.bytes().to_vec(), slot.rx.errand))
            .collect()
    }
}
