//! The worker: one pinned thread that polls its queues and runs the packet path.
//!
//! A turn is bounded in every part. Nothing here decides what happens to a frame; that is
//! `dataplane`. What is counted here is only what the packet path cannot know: full rings, full
//! queues, neighbours that stay away, frames left to the kernel's own copy.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrayvec::ArrayVec;

use super::crossing::{Crossing, Crossings, KernelFrame, KernelRings, Peers};
use super::idle::{Idle, IdlePolicy};
use super::parking::{Awaited, Parking};
use super::transmit::{Transmit, Way, bytes_of};
use crate::control::WorkerEnds;
use crate::counters::{DropReason, RingKind, WorkerCounters};
use crate::dataplane::{self, Burst, Errand, RxMeta, Verdict, WorkerConfig, WorkerState};
use crate::dpdk::{Emit, Mbuf, MbufPool, MbufVec, Receive, RxQueue, TscClock, TxQueue};
use crate::limits::{BURST_FRAMES_MAX, LAST_WORD_TRIES_MAX, NICS_MAX};
use crate::message::{FromWorker, ToWorker};
use crate::model::{KernelMode, NextHop, NextHopId, NicId, Snapshot, WorkerId};
use crate::time::Nanos;

/// What a worker polls, and what it does with a burst. The product has one; the benchmark has
/// others, so that what it measures is this loop and no copy of it.
pub trait Stage {
    /// Where frames come from.
    type Rx: Receive;
    /// Where they go.
    type Tx: Emit;

    /// Decides every frame of a burst, as `dataplane::process_burst` does.
    fn process(
        &mut self,
        state: &mut WorkerState,
        snapshot: &Snapshot,
        burst: &mut Burst,
        now: Nanos,
    );
}

/// The product's stage: the packet path between devices' queues.
pub struct Forwarding;

impl Stage for Forwarding {
    type Rx = RxQueue;
    type Tx = TxQueue;

    #[inline]
    fn process(
        &mut self,
        state: &mut WorkerState,
        snapshot: &Snapshot,
        burst: &mut Burst,
        now: Nanos,
    ) {
        dataplane::process_burst(state, snapshot, burst, now);
    }
}

/// A worker's share of a port.
pub struct WorkerPort<S: Stage = Forwarding> {
    /// Its rx queue; none where the port has fewer queues than there are workers.
    pub rx: Option<S::Rx>,
    /// Its way out.
    pub way: Way<S::Tx>,
    /// Kernel side of the port.
    pub kernel: KernelMode,
}

/// All that a worker is made of; moved to its thread.
pub struct WorkerParts<S: Stage = Forwarding> {
    /// What is done with frames.
    pub stage: S,
    /// Number, flow table size, seed and counters.
    pub config: WorkerConfig,
    /// Ports by `NicId`.
    pub ports: Vec<WorkerPort<S>>,
    /// Rings with control.
    pub control: WorkerEnds,
    /// Rings with other workers.
    pub peers: Peers,
    /// Rings with the kernel-interface thread; none without a TAP.
    pub kernel: Option<KernelRings>,
    /// Where extra frames come from.
    pub pool: MbufPool,
    /// Time.
    pub clock: TscClock,
    /// What to do when idle.
    pub idle: IdlePolicy,
    /// Ends the loop, as `ToWorker::Shutdown` does.
    pub stop: Arc<AtomicBool>,
}

/// Where a received frame came in, and how many workers had it first.
#[derive(Clone, Copy, Default)]
struct Origin {
    nic: NicId,
    hops: u8,
    errand: Errand,
    /// The packet path kept it for a while.
    resumed: bool,
}

type Origins = ArrayVec<Origin, BURST_FRAMES_MAX>;

/// Where a frame now starts and ends in its buffer, which is at most 64 KiB.
type Extent = (u16, u16);

/// A running worker.
pub struct Worker<S: Stage = Forwarding> {
    stage: S,
    id: WorkerId,
    state: WorkerState,
    counters: Arc<WorkerCounters>,
    control: WorkerEnds,
    /// By `NicId`.
    receive: ArrayVec<Option<S::Rx>, NICS_MAX>,
    exits: Exits<S::Tx>,
    pool: MbufPool,
    clock: TscClock,
    idle: Idle,
    stop: Arc<AtomicBool>,
    ending: bool,
    /// When the turn before began, if it had work: its time is known when the next one begins.
    busy_since: Option<Nanos>,
}

/// Turns between two looks at how much waits in the rings.
const RING_LOOK_TURNS: u64 = 1024;

/// Every way a frame can leave a worker.
struct Exits<Q> {
    transmit: Transmit<Q>,
    peers: Peers,
    kernel: Option<KernelRings>,
    /// By `NicId`.
    kernel_modes: ArrayVec<KernelMode, NICS_MAX>,
    parking: Parking<Mbuf>,
    dropped: MbufVec,
}

impl<S: Stage> Worker<S> {
    /// Takes all memory the worker will need. Runs on the worker's own thread, so that pages are
    /// first touched on its NUMA node.
    pub fn new(parts: WorkerParts<S>) -> Result<Self, crate::memory::MemoryError> {
        let mut clock = parts.clock;
        parts.config.counters.tsc_hz.set(clock.hz());
        let state = WorkerState::new(&parts.config, clock.now())?;
        let mut receive = ArrayVec::new();
        let mut ways = Vec::new();
        let mut kernel_modes = ArrayVec::new();
        for port in parts.ports {
            receive.push(port.rx);
            ways.push(port.way);
            kernel_modes.push(port.kernel);
        }
        Ok(Worker {
            stage: parts.stage,
            id: parts.config.worker,
            state,
            counters: parts.config.counters,
            control: parts.control,
            receive,
            exits: Exits {
                transmit: Transmit::new(ways),
                peers: parts.peers,
                kernel: parts.kernel,
                kernel_modes,
                parking: Parking::default(),
                dropped: MbufVec::new(),
            },
            pool: parts.pool,
            clock,
            idle: Idle::new(parts.idle),
            stop: parts.stop,
            ending: false,
            busy_since: None,
        })
    }

    /// Turns until told to end; then sends what is finished and frees the rest.
    pub fn run(mut self) {
        while !self.ending && !self.stop.load(Ordering::Relaxed) {
            self.turn_or_wait();
        }
        self.end();
    }

    /// One turn, and what follows an empty one.
    #[inline]
    pub fn turn_or_wait(&mut self) {
        if self.turn() {
            self.idle.worked();
        } else {
            self.counters.idle_turns.add(1);
            self.idle.wait();
        }
        self.counters.turns.add(1);
        if self.counters.turns.get().is_multiple_of(RING_LOOK_TURNS) {
            self.look_at_rings();
        }
    }

    /// What it holds.
    pub fn state(&self) -> &WorkerState {
        &self.state
    }

    /// What is done with frames.
    pub fn stage(&self) -> &S {
        &self.stage
    }

    /// One bounded turn; says whether there was anything to do.
    fn turn(&mut self) -> bool {
        let now = self.clock.now();
        if let Some(since) = self.busy_since.take() {
            self.counters.busy_ns.add(now.0.saturating_sub(since.0));
        }
        let mut worked = false;
        for nic in 0..self.receive.len() {
            worked |= self.poll_queue(NicId(nic as u8), now);
        }
        worked |= self.poll_peers(now);
        worked |= self.resume(now);
        worked |= self.poll_kernel();
        worked |= self.exits.flush(&self.counters);
        if self.state.expire(self.control.snapshots.current(), now) > 0 {
            self.send_notes();
            // Handshakes that go on without their client.
            self.send_outbox();
            worked = true;
        }
        self.give_up_waiting(now);
        worked |= self.sweep(now);
        worked |= self.take_command(now);
        worked |= self.adopt();
        self.report();
        worked |= self.exits.flush(&self.counters);
        self.busy_since = worked.then_some(now);
        worked
    }

    /// Tells how much waits in the rings.
    #[cold]
    fn look_at_rings(&self) {
        let depth = |ring: RingKind, waiting: usize| {
            self.counters.ring_depths[ring as usize].set(waiting as u64);
        };
        depth(RingKind::Peers, self.exits.peers.waiting());
        let from_kernel = self.exits.kernel.as_ref().map_or(0, |kernel| kernel.from_kernel.len());
        depth(RingKind::FromKernel, from_kernel);
        depth(RingKind::Commands, self.control.commands.len());
    }

    fn poll_queue(&mut self, nic: NicId, now: Nanos) -> bool {
        let Some(Some(queue)) = self.receive.get_mut(nic.index()) else { return false };
        let mut frames = MbufVec::new();
        if queue.rx_burst(&mut frames) == 0 {
            return false;
        }
        let nic_counters = &self.counters.nics[nic.index()];
        nic_counters.rx_frames.add(frames.len() as u64);
        nic_counters.rx_bytes.add(bytes_of(&frames));
        self.counters.burst(frames.len());
        self.set_chained_aside(&mut frames);
        self.process(frames, |_| Origin { nic, ..Origin::default() }, now);
        true
    }

    /// Frames in several buffers become one, or are dropped where they are too large for it.
    fn set_chained_aside(&mut self, frames: &mut MbufVec) {
        if !frames.iter().any(Mbuf::is_chained) {
            return;
        }
        let whole = |mbuf: &mut Mbuf| !mbuf.is_chained() || mbuf.linearise().is_ok();
        let before = frames.len();
        frames.retain(|mbuf| whole(mbuf));
        self.counters.drops[DropReason::Chained as usize].add((before - frames.len()) as u64);
    }

    /// Takes up to a burst in all from the other workers.
    fn poll_peers(&mut self, now: Nanos) -> bool {
        let mut crossings = Crossings::new();
        self.exits.peers.take(&mut crossings);
        if crossings.is_empty() {
            return false;
        }
        let mut frames = MbufVec::new();
        let mut origins = Origins::new();
        for crossing in crossings {
            match crossing {
                Crossing::Steered(nic, hops, errand, mbuf) => {
                    frames.push(mbuf);
                    origins.push(Origin { nic, hops, errand, resumed: false });
                }
                Crossing::Told(note) => self.state.hear(&note),
                Crossing::Finished(nic, mbuf) => self.exits.transmit(mbuf, nic, &self.counters),
            }
        }
        self.process(frames, |at| origins[at], now);
        true
    }

    /// Takes up to a burst of fragments whose datagram's first one has come.
    fn resume(&mut self, now: Nanos) -> bool {
        let (pool, counters) = (&self.pool, &*self.counters);
        let mut frames = MbufVec::new();
        let mut origins = Origins::new();
        let count =
            self.state.resume_fragments(BURST_FRAMES_MAX, |rx, bytes| {
                match Mbuf::alloc_from(pool, bytes) {
                    Ok(mbuf) => {
                        frames.push(mbuf);
                        let (nic, hops) = (rx.nic, rx.hops);
                        origins.push(Origin { nic, hops, resumed: true, ..Origin::default() });
                    }
                    Err(_) => counters.dropped(DropReason::FragmentStoreFull),
                }
            });
        if count > 0 {
            self.process(frames, |at| origins[at], now);
        }
        count > 0
    }

    /// Sends up to a burst of the kernel's frames, with the port's tag if it has one.
    fn poll_kernel(&mut self) -> bool {
        let Some(kernel) = &mut self.exits.kernel else { return false };
        let mut frames: ArrayVec<KernelFrame, BURST_FRAMES_MAX> = ArrayVec::new();
        if kernel.from_kernel.pop_burst(&mut frames) == 0 {
            return false;
        }
        for KernelFrame { nic, mut mbuf } in frames {
            let snapshot = self.control.snapshots.current();
            let Some(model) = snapshot.nics.get(nic.index()) else {
                self.counters.dropped(DropReason::Internal);
                continue;
            };
            let mut frame = mbuf.frame();
            if let Err(reason) = dataplane::push_vlan(&mut frame, model) {
                self.counters.dropped(reason);
                continue;
            }
            let (start, end) = frame.extent();
            mbuf.set_extent(start, end);
            self.counters.nics[nic.index()].from_kernel.add(1);
            self.exits.transmit(mbuf, nic, &self.counters);
        }
        true
    }

    /// Runs the packet path over `frames` and does what it says.
    fn process(&mut self, mut frames: MbufVec, origin_of: impl Fn(usize) -> Origin, now: Nanos) {
        let mut extents: ArrayVec<Extent, BURST_FRAMES_MAX> = ArrayVec::new();
        let mut outcomes: ArrayVec<(Verdict, Errand), BURST_FRAMES_MAX> = ArrayVec::new();
        let together = {
            let mut burst = Burst::new();
            for (at, mbuf) in frames.iter_mut().enumerate() {
                let Origin { nic, hops, errand, resumed } = origin_of(at);
                let rx = RxMeta { nic, vlan: mbuf.vlan_stripped(), hops, errand, resumed };
                // Both have room for a burst.
                let _ = burst.push(mbuf.frame(), rx);
            }
            let snapshot = self.control.snapshots.current();
            self.stage.process(&mut self.state, snapshot, &mut burst, now);
            for slot in &burst.slots {
                let (start, end) = slot.frame.extent();
                extents.push((start as u16, end as u16));
            }
            let together = burst.leave_together();
            if together.is_none() {
                outcomes.extend(burst.outcomes());
            }
            together
        };
        for (mbuf, (start, end)) in frames.iter_mut().zip(extents) {
            mbuf.keep_extent(start.into(), end.into());
        }
        self.send_notes();
        // Extra frames go first: a PROXY header precedes the segment that it announces.
        self.send_outbox();
        match together {
            Some(nic) => self.exits.transmit_all(&mut frames, nic, &self.counters),
            None => self.part(frames, &outcomes, origin_of, now),
        }
    }

    /// Does with each frame what the packet path says.
    fn part(
        &mut self,
        mut frames: MbufVec,
        outcomes: &[(Verdict, Errand)],
        origin_of: impl Fn(usize) -> Origin,
        now: Nanos,
    ) {
        for (at, (mbuf, outcome)) in frames.drain(..).zip(outcomes).enumerate() {
            match *outcome {
                (Verdict::Transmit(nic), _) => self.exits.transmit(mbuf, nic, &self.counters),
                (verdict, errand) => {
                    self.dispatch(mbuf, verdict, Origin { errand, ..origin_of(at) }, now);
                }
            }
        }
        Mbuf::free_bulk(&mut self.exits.dropped);
    }

    /// Passes on what other workers should hear.
    fn send_notes(&mut self) {
        for (worker, note) in self.state.notes.drain(..) {
            self.exits.peers.give(worker, Crossing::Told(note), &self.counters);
        }
    }

    /// Copies the packet path's extra frames into mbufs and sends them.
    fn send_outbox(&mut self) {
        let (pool, exits, counters) = (&self.pool, &mut self.exits, &*self.counters);
        self.state.outbox.drain(|nic, bytes| match Mbuf::alloc_from(pool, bytes) {
            Ok(mbuf) => exits.transmit(mbuf, nic, counters),
            Err(_) => counters.dropped(DropReason::OutboxFull),
        });
    }

    /// Does what the packet path decided about one frame.
    #[inline(never)]
    fn dispatch(&mut self, mbuf: Mbuf, verdict: Verdict, from: Origin, now: Nanos) {
        let (exits, counters) = (&mut self.exits, &*self.counters);
        match verdict {
            Verdict::Transmit(nic) => exits.transmit(mbuf, nic, counters),
            Verdict::ToKernel(nic) => exits.give_kernel(mbuf, nic, counters),
            Verdict::HandOff(worker, _) => {
                let hops = from.hops.saturating_add(1);
                let crossing = Crossing::Steered(from.nic, hops, from.errand, mbuf);
                exits.peers.give(worker, crossing, counters);
            }
            Verdict::AwaitNeighbour(hop) => self.park(mbuf, Awaited::Slot(hop), from.nic, now),
            Verdict::AwaitAddress(to, address) => {
                self.park(mbuf, Awaited::Address(to, address), from.nic, now);
            }
            Verdict::Parked | Verdict::Drop(_) => exits.free(mbuf),
        }
    }

    fn park(&mut self, mbuf: Mbuf, awaited: Awaited, nic: NicId, now: Nanos) {
        if let Err(mbuf) = self.exits.parking.park(awaited, nic, now, mbuf) {
            self.counters.dropped(DropReason::NextHopPending);
            self.exits.free(mbuf);
        }
    }

    /// Drops frames whose next hop did not resolve in time.
    fn give_up_waiting(&mut self, now: Nanos) {
        while let Some(mbuf) = self.exits.parking.take_overdue(now) {
            self.counters.dropped(DropReason::NextHopPending);
            self.exits.free(mbuf);
        }
        self.counters.pending.set(self.exits.parking.waiting() as u64);
        Mbuf::free_bulk(&mut self.exits.dropped);
    }

    /// Sends frames on their way that waited for `hop`, now in slot `id`.
    fn release(&mut self, id: NextHopId, hop: &NextHop, now: Nanos) {
        // Frames that must wait again go to the back, so this ends by count.
        for _ in 0..self.exits.parking.waiting_for(id, hop) {
            let Some((nic, mut mbuf)) = self.exits.parking.take(id, hop) else { break };
            let mut frame = mbuf.frame();
            let snapshot = self.control.snapshots.current();
            let verdict = dataplane::finish_next_hop(&self.state, snapshot, &mut frame, id);
            let (start, end) = frame.extent();
            mbuf.set_extent(start, end);
            self.dispatch(mbuf, verdict, Origin { nic, ..Origin::default() }, now);
        }
        Mbuf::free_bulk(&mut self.exits.dropped);
    }

    fn sweep(&mut self, now: Nanos) -> bool {
        let events = &mut self.control.events;
        let snapshot = self.control.snapshots.current();
        self.state.sweep(snapshot, now, |event| events.push(event).is_ok());
        // What a deletion lets go of may hang on other workers' templates.
        self.send_notes();
        self.state.is_sweeping()
    }

    /// Takes at most one command.
    fn take_command(&mut self, now: Nanos) -> bool {
        match self.control.commands.pop() {
            None => return false,
            Some(ToWorker::SetNextHop(id, hop)) => {
                self.state.set_next_hop(id, hop);
                if hop.resolved {
                    self.release(id, &hop, now);
                }
            }
            Some(ToWorker::Sweep(sweep)) => self.state.start_sweep(sweep),
            Some(ToWorker::Shutdown) => self.ending = true,
        }
        true
    }

    /// Goes over to the newest snapshot, if there is a newer one.
    fn adopt(&mut self) -> bool {
        if !self.control.snapshots.adopt() {
            return false;
        }
        let snapshot = self.control.snapshots.current();
        self.state.adopt(snapshot);
        true
    }

    /// Passes the packet path's events on. One that finds the ring full is lost: whatever caused
    /// it (a client without a neighbour) causes it again.
    fn report(&mut self) {
        for event in self.state.events.drain(..) {
            let _ = self.control.events.push(event);
        }
    }

    /// Sends what is finished and says goodbye. What waits is freed with `self`.
    fn end(mut self) {
        self.exits.flush(&self.counters);
        let mut ended = FromWorker::Ended(self.id);
        for _ in 0..LAST_WORD_TRIES_MAX {
            match self.control.events.push(ended) {
                Ok(()) => return,
                Err(back) => ended = back,
            }
            std::thread::yield_now();
        }
    }
}

impl<Q: Emit> Exits<Q> {
    fn free(&mut self, mbuf: Mbuf) {
        // Never full where bursts are freed at their end; if it is, this one is freed alone.
        drop(self.dropped.try_push(mbuf));
    }

    #[inline(always)]
    fn transmit(&mut self, mbuf: Mbuf, nic: NicId, counters: &WorkerCounters) {
        self.transmit.add(nic, mbuf, &mut self.peers, counters);
    }

    fn transmit_all(&mut self, frames: &mut MbufVec, nic: NicId, counters: &WorkerCounters) {
        self.transmit.add_all(nic, frames, &mut self.peers, counters);
    }

    fn give_kernel(&mut self, mbuf: Mbuf, nic: NicId, counters: &WorkerCounters) {
        let mode = self.kernel_modes.get(nic.index());
        let (Some(KernelMode::Tap), Some(rings)) = (mode, &mut self.kernel) else {
            counters.dropped(DropReason::KernelCopy);
            return self.free(mbuf);
        };
        match rings.to_kernel.push(KernelFrame { nic, mbuf }) {
            Ok(()) => counters.nics[nic.index()].to_kernel.add(1),
            Err(back) => {
                counters.dropped(DropReason::KernelRingFull);
                self.free(back.mbuf);
            }
        }
    }

    /// Sends everything that is waiting to leave; says whether there was any for a port.
    fn flush(&mut self, counters: &WorkerCounters) -> bool {
        let any = self.transmit.flush(&mut self.peers, counters);
        self.peers.flush(counters);
        any
    }
}
