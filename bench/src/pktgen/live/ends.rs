//! The two ends of a trial, each a turn at a time: one sends at a rate, one counts what comes.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};

use gyre::dpdk::{Mbuf, MbufPool, MbufVec, TscClock, TxQueue};
use gyre::wire::ethernet::MacAddr;
use gyre::wire::ip::IpProtocol;
use gyre::wire::tcp::{Tcp, TcpFlags};

use super::rig::{RxQueues, send_bytes};
use crate::clients::Clients;
use crate::incoming;
use crate::neighbour;
use crate::pacer::Pacer;
use crate::tracker::Tracker;
use crate::traffic::Traffic;

/// Frames made at once.
const BURST_FRAMES: usize = 32;
/// Turns of the sender between looks for answers to send.
const ANSWER_EVERY: u32 = 16;

/// What the ends and the progress line tell each other.
#[derive(Debug, Default)]
pub struct Shared {
    /// Frames sent so far.
    pub sent: AtomicU64,
    /// Frames received so far.
    pub received: AtomicU64,
    /// Set when no more are sent.
    pub is_sent: AtomicBool,
}

/// The end that sends.
pub struct Sender {
    pub queue: TxQueue,
    pub pool: MbufPool,
    pub traffic: Traffic,
    pub pacer: Pacer,
    pub pending: MbufVec,
    /// Frames taken by the port.
    pub sent: u64,
    /// Answers that the receiving end wants sent on this port.
    pub answers: Receiver<Vec<u8>>,
    pub turns: u32,
}

impl Sender {
    /// Makes and sends what is due; whether there was anything.
    pub fn turn(&mut self, now_ns: u64) -> bool {
        self.turns = self.turns.wrapping_add(1);
        if self.turns.is_multiple_of(ANSWER_EVERY) {
            self.send_answer();
        }
        if self.pending.is_empty() {
            let due = self.pacer.due(now_ns, BURST_FRAMES);
            self.make(due, now_ns);
        }
        if self.pending.is_empty() {
            return false;
        }
        self.sent += self.queue.tx_burst(&mut self.pending) as u64;
        true
    }

    fn make(&mut self, count: usize, now_ns: u64) {
        // An empty pool means that the port holds all mbufs: those frames are never sent, which
        // the count of asked and sent frames tells.
        if count == 0 || !Mbuf::alloc_bulk(&self.pool, &mut self.pending, count) {
            return;
        }
        for mbuf in &mut self.pending {
            let mut frame = mbuf.frame();
            // The pool's mbufs hold the port's longest frame, and sizes were checked against it.
            if frame.set_len(self.traffic.next_len()).is_err() {
                continue;
            }
            self.traffic.write_next(frame.bytes_mut(), now_ns);
            let (start, end) = frame.extent();
            mbuf.set_extent(start, end);
        }
    }

    fn send_answer(&mut self) {
        if let Ok(answer) = self.answers.try_recv() {
            send_bytes(&mut self.queue, &self.pool, &answer);
        }
    }
}

/// What the receiving end counts.
pub enum Watch {
    /// Stamped frames.
    Stamps(Box<Tracker>),
    /// A flood's answers.
    Handshakes(Handshakes),
}

/// Answers to SYNs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Handshakes {
    /// SYN-ACKs.
    pub syn_acks: u64,
    /// Resets.
    pub resets: u64,
    /// Other frames.
    pub foreign: u64,
}

/// How the receiving end answers questions about addresses.
pub enum Answers {
    /// By the end that sends, on the same port.
    Forward(SyncSender<Vec<u8>>),
    /// By a queue of its own port.
    Own(TxQueue),
}

/// Whose addresses are the generator's.
#[derive(Clone)]
pub struct Owned {
    pub mac: MacAddr,
    pub address: IpAddr,
    pub clients: Clients,
}

impl Owned {
    /// The answer to a question about one of them.
    pub fn answer(&self, frame: &[u8]) -> Option<Vec<u8>> {
        let is_ours = |ip| ip == self.address || self.clients.has_address(ip);
        neighbour::answer(frame, self.mac, is_ours)
    }
}

/// The end that receives.
pub struct Sink {
    pub queues: RxQueues,
    pub pool: MbufPool,
    pub watch: Watch,
    pub owned: Owned,
    pub answers: Answers,
    pub frames: MbufVec,
}

impl Sink {
    /// Counts what has come; whether anything had.
    pub fn turn(&mut self, clock: &mut TscClock) -> bool {
        if self.queues.rx_burst(&mut self.frames) == 0 {
            return false;
        }
        let now_ns = clock.now().0;
        for at in 0..self.frames.len() {
            self.count(at, now_ns);
        }
        Mbuf::free_bulk(&mut self.frames);
        true
    }

    fn count(&mut self, at: usize, now_ns: u64) {
        let bytes = self.frames[at].bytes();
        let foreign = match &mut self.watch {
            Watch::Stamps(tracker) => match incoming::stamp(bytes) {
                Some(stamp) => return tracker.accept(stamp, bytes.len(), now_ns),
                None => {
                    tracker.foreign();
                    bytes
                }
            },
            Watch::Handshakes(handshakes) => match flags(bytes) {
                Some(flags) if flags.contains(TcpFlags::SYN | TcpFlags::ACK) => {
                    handshakes.syn_acks += 1;
                    return;
                }
                Some(flags) if flags.contains(TcpFlags::RST) => {
                    handshakes.resets += 1;
                    return;
                }
                _ => {
                    handshakes.foreign += 1;
                    bytes
                }
            },
        };
        let Some(answer) = self.owned.answer(foreign) else { return };
        match &mut self.answers {
            // A full channel loses an answer, and the asker asks again.
            Answers::Forward(sender) => drop(sender.try_send(answer)),
            Answers::Own(queue) => drop(send_bytes(queue, &self.pool, &answer)),
        }
    }

    /// Frames that count as received.
    pub fn received(&self) -> u64 {
        match &self.watch {
            Watch::Stamps(tracker) => tracker.counts().received,
            Watch::Handshakes(handshakes) => handshakes.syn_acks,
        }
    }
}

fn flags(frame: &[u8]) -> Option<TcpFlags> {
    let found = incoming::locate(frame).filter(|found| found.protocol == IpProtocol::TCP)?;
    Tcp::parse(found.segment).ok().map(|(tcp, _)| tcp.flags())
}

/// Tells the progress line.
pub fn publish(shared: &Arc<Shared>, sent: Option<u64>, received: Option<u64>) {
    if let Some(sent) = sent {
        shared.sent.store(sent, Ordering::Relaxed);
    }
    if let Some(received) = received {
        shared.received.store(received, Ordering::Relaxed);
    }
}
