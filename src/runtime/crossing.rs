//! Frames that go from one thread to another: between workers, and between a worker and the
//! kernel-interface thread. One bounded ring per pair and direction, ownership goes with the mbuf.

use arrayvec::ArrayVec;

use crate::counters::{DropReason, WorkerCounters};
use crate::dataplane::{Errand, Note};
use crate::dpdk::Mbuf;
use crate::limits::{
    BURST_FRAMES_MAX, KERNEL_RING_FRAMES_MAX, PEER_FRAMES_MAX, PEER_RING_FRAMES_MIN,
};
use crate::model::{NicId, WorkerId};
use crate::ring::{self, Receiver, Sender};

/// Frames the ring between each two of `workers` holds.
const fn peer_ring_frames(workers: usize) -> usize {
    let share = PEER_FRAMES_MAX / if workers > 1 { workers - 1 } else { 1 };
    if share > PEER_RING_FRAMES_MIN { share } else { PEER_RING_FRAMES_MIN }
}

/// Frames that the rings of `workers` hold when all are full: what a pool must have besides.
pub const fn ring_frames_max(workers: usize) -> usize {
    let pairs = workers * workers.saturating_sub(1);
    pairs * peer_ring_frames(workers) + 2 * workers * KERNEL_RING_FRAMES_MAX
}

/// A frame between two workers.
pub enum Crossing {
    /// As it came in on this port, after so many workers had it: the receiver owns its flow, or
    /// its datagram.
    Steered(NicId, u8, Errand, Mbuf),
    /// Finished: the receiver has a queue of this port, which the sender has not.
    Finished(NicId, Mbuf),
    /// No frame: something about a persistence template.
    Told(Note),
}

/// Crossings of one burst.
pub type Crossings = ArrayVec<Crossing, BURST_FRAMES_MAX>;

/// A frame to or from the kernel interface of a port.
pub struct KernelFrame {
    /// The port.
    pub nic: NicId,
    /// Untagged frame.
    pub mbuf: Mbuf,
}

/// The way to one other worker: what this burst has for it so far, and the ring.
struct Lane {
    waiting: Crossings,
    ring: Sender<Crossing>,
}

/// One worker's rings to and from all others.
pub struct Peers {
    /// By `WorkerId`; `None` is the worker itself.
    to: Vec<Option<Lane>>,
    from: Vec<Receiver<Crossing>>,
}

impl Peers {
    /// Rings between all pairs of `workers`, by `WorkerId`.
    pub fn mesh(workers: usize) -> Vec<Peers> {
        let alone = |_| Peers { to: Vec::new(), from: Vec::new() };
        let mut peers: Vec<Peers> = (0..workers).map(alone).collect();
        for from in 0..workers {
            for to in 0..workers {
                if from == to {
                    peers[from].to.push(None);
                    continue;
                }
                let (ring, receiver) = ring::bounded(peer_ring_frames(workers));
                peers[from].to.push(Some(Lane { waiting: Crossings::new(), ring }));
                peers[to].from.push(receiver);
            }
        }
        peers
    }

    /// Gives a frame to `worker`, together with others of the burst at the latest by `flush`.
    #[inline]
    pub fn give(&mut self, worker: WorkerId, crossing: Crossing, counters: &WorkerCounters) {
        let Some(Some(lane)) = self.to.get_mut(worker.index()) else {
            return counters.dropped(DropReason::Internal);
        };
        lane.waiting.push(crossing);
        if lane.waiting.is_full() {
            lane.flush(counters);
        }
    }

    /// Sends what is waiting on its way; what finds its ring full is dropped and counted.
    #[inline]
    pub fn flush(&mut self, counters: &WorkerCounters) {
        for lane in self.to.iter_mut().flatten() {
            if !lane.waiting.is_empty() {
                lane.flush(counters);
            }
        }
    }

    /// Crossings that wait to be taken.
    pub fn waiting(&self) -> usize {
        self.from.iter().map(Receiver::len).sum()
    }

    /// Appends what other workers gave, up to a fair share from each; `into` is empty.
    #[inline]
    pub fn take(&mut self, into: &mut Crossings) {
        // At least one from each, so that none starves: workers are no more than a burst's frames.
        let share = (BURST_FRAMES_MAX / self.from.len().max(1)).max(1);
        for ring in &mut self.from {
            for _ in 0..share.min(into.remaining_capacity()) {
                let Some(crossing) = ring.pop() else { break };
                into.push(crossing);
            }
        }
    }
}

impl Lane {
    fn flush(&mut self, counters: &WorkerCounters) {
        self.ring.push_burst(&mut self.waiting);
        counters.drops[DropReason::HandOffFull as usize].add(self.waiting.len() as u64);
        self.waiting.clear();
    }
}

/// A worker's end of its rings with the kernel-interface thread.
pub struct KernelRings {
    /// To the kernel.
    pub to_kernel: Sender<KernelFrame>,
    /// From the kernel.
    pub from_kernel: Receiver<KernelFrame>,
}

/// The kernel-interface thread's end of its rings with one worker.
pub struct WorkerRings {
    /// From the worker.
    pub from_worker: Receiver<KernelFrame>,
    /// To the worker.
    pub to_worker: Sender<KernelFrame>,
}

/// Rings between one worker and the kernel-interface thread.
pub fn kernel_rings() -> (KernelRings, WorkerRings) {
    let (to_kernel, from_worker) = ring::bounded(KERNEL_RING_FRAMES_MAX);
    let (to_worker, from_kernel) = ring::bounded(KERNEL_RING_FRAMES_MAX);
    (KernelRings { to_kernel, from_kernel }, WorkerRings { from_worker, to_worker })
}
