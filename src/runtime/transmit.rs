//! Frames on their way out: one buffer per port, sent in bursts.
//!
//! A port with fewer queues than there are workers leaves some workers without one. Those give
//! finished frames to a worker that has one, over the ring between them.

use arrayvec::ArrayVec;

use super::crossing::{Crossing, Peers};
use crate::counters::{DropReason, HandOffCause, WorkerCounters};
use crate::dpdk::{Emit, Mbuf, MbufVec, TxQueue};
use crate::limits::{NICS_MAX, TX_TRIES_MAX};
use crate::model::{NicId, WorkerId};

/// A worker's way out of one port.
pub enum Way<Q = TxQueue> {
    /// A queue of its own.
    Queue(Q),
    /// Another worker's queue.
    Through(WorkerId),
}

struct Outgoing<Q> {
    way: Way<Q>,
    frames: MbufVec,
}

/// A worker's outgoing frames, by port.
pub struct Transmit<Q = TxQueue> {
    ports: ArrayVec<Outgoing<Q>, NICS_MAX>,
}

impl<Q: Emit> Transmit<Q> {
    /// The ways out, by `NicId`.
    pub fn new(ways: impl IntoIterator<Item = Way<Q>>) -> Self {
        let outgoing = |way| Outgoing { way, frames: MbufVec::new() };
        Transmit { ports: ways.into_iter().map(outgoing).collect() }
    }

    /// Takes a frame for port `nic`; sends when a burst is full.
    #[inline(always)]
    pub fn add(&mut self, nic: NicId, frame: Mbuf, peers: &mut Peers, counters: &WorkerCounters) {
        let Some(outgoing) = self.ports.get_mut(nic.index()) else {
            return counters.dropped(DropReason::Internal);
        };
        outgoing.frames.push(frame);
        if outgoing.frames.is_full() {
            outgoing.flush(nic, peers, counters);
        }
    }

    /// Takes all of `frames` for port `nic`, in order, as `add` does.
    pub fn add_all(
        &mut self,
        nic: NicId,
        frames: &mut MbufVec,
        peers: &mut Peers,
        counters: &WorkerCounters,
    ) {
        let Some(outgoing) = self.ports.get_mut(nic.index()) else {
            counters.drops[DropReason::Internal as usize].add(frames.len() as u64);
            return Mbuf::free_bulk(frames);
        };
        if frames.len() > outgoing.frames.remaining_capacity() {
            outgoing.flush(nic, peers, counters);
        }
        Mbuf::append(&mut outgoing.frames, frames);
    }

    /// Sends what is left on all ports; says whether there was any.
    pub fn flush(&mut self, peers: &mut Peers, counters: &WorkerCounters) -> bool {
        let mut any = false;
        for (index, outgoing) in self.ports.iter_mut().enumerate() {
            if !outgoing.frames.is_empty() {
                outgoing.flush(NicId(index as u8), peers, counters);
                any = true;
            }
        }
        any
    }
}

impl<Q: Emit> Outgoing<Q> {
    fn flush(&mut self, nic: NicId, peers: &mut Peers, counters: &WorkerCounters) {
        match &mut self.way {
            Way::Queue(queue) => send(queue, &mut self.frames, nic, counters),
            Way::Through(worker) => {
                let cause = HandOffCause::Transmit as usize;
                counters.hand_offs[cause].add(self.frames.len() as u64);
                for frame in self.frames.drain(..) {
                    peers.give(*worker, Crossing::Finished(nic, frame), counters);
                }
            }
        }
    }
}

fn send(queue: &mut impl Emit, frames: &mut MbufVec, nic: NicId, counters: &WorkerCounters) {
    let nic = &counters.nics[nic.index()];
    for _ in 0..TX_TRIES_MAX {
        // The port may free a frame as soon as it has it, so lengths are taken before.
        let (count, bytes) = (frames.len(), bytes_of(frames));
        queue.tx_burst(frames);
        nic.tx_frames.add((count - frames.len()) as u64);
        nic.tx_bytes.add(bytes - bytes_of(frames));
        if frames.is_empty() {
            return;
        }
    }
    nic.tx_full.add(frames.len() as u64);
    counters.drops[DropReason::TxFull as usize].add(frames.len() as u64);
    Mbuf::free_bulk(frames);
}

/// Length of all frames together.
pub(super) fn bytes_of(frames: &MbufVec) -> u64 {
    frames.iter().map(|frame| frame.len() as u64).sum()
}
