//! One worker's share of a port: an rx and a tx queue.
//!
//! The only place that polls a device. Calls go through the shim, that is through ethdev's own
//! inline functions, and not through pointers cached from `rte_eth_fp_ops`: those are up to 9 %
//! faster on a null port, but skip the callbacks by which dpdk-dumpcap sees frames, and must be
//! read again after every restart of a port.

use std::sync::Arc;

use dpdk_sys as sys;

use super::mbuf::{MbufVec, forget_front};
use super::port::Port;

/// Where a worker's frames come from: a device's queue, or what a benchmark puts in its place.
pub trait Receive {
    /// Polls once and appends what came, at most a burst and at most what `frames` has room for.
    /// Returns how many came. Never waits.
    fn rx_burst(&mut self, frames: &mut MbufVec) -> usize;
}

/// Where a worker's frames go, likewise.
pub trait Emit {
    /// Hands frames on, in order. Returns how many were taken; the others stay in `frames` for the
    /// caller to send again or drop.
    fn tx_burst(&mut self, frames: &mut MbufVec) -> usize;
}

/// The receiving end of one queue. One worker's at a time: not `Clone`, polled by `&mut`.
pub struct RxQueue {
    port: Arc<Port>,
    port_id: u16,
    index: u16,
    burst_frames: usize,
}

/// The sending end of one queue, likewise.
pub struct TxQueue {
    port: Arc<Port>,
    port_id: u16,
    index: u16,
}

/// Both ends of the queue with one index.
pub struct QueuePair {
    /// Receives.
    pub rx: RxQueue,
    /// Sends.
    pub tx: TxQueue,
}

impl QueuePair {
    /// The caller made the queue `index` of the started `port`, and makes one pair of it.
    pub(super) fn new(port: &Arc<Port>, index: u16, burst_frames: usize) -> Self {
        let (port, port_id) = (Arc::clone(port), port.id());
        let rx = RxQueue { port: Arc::clone(&port), port_id, index, burst_frames };
        QueuePair { rx, tx: TxQueue { port, port_id, index } }
    }
}

impl Receive for RxQueue {
    #[inline]
    fn rx_burst(&mut self, frames: &mut MbufVec) -> usize {
        RxQueue::rx_burst(self, frames)
    }
}

impl Emit for TxQueue {
    #[inline]
    fn tx_burst(&mut self, frames: &mut MbufVec) -> usize {
        TxQueue::tx_burst(self, frames)
    }
}

impl RxQueue {
    /// Polls once and appends what came, as `Receive` says.
    pub fn rx_burst(&mut self, frames: &mut MbufVec) -> usize {
        let len = frames.len();
        let wanted = self.burst_frames.min(frames.remaining_capacity());
        // SAFETY: the port is started for as long as `port` lives, the queue exists and is polled
        // by nobody else; `wanted` slots are free behind `len`, and as many as the driver says
        // then hold mbufs that are ours.
        unsafe {
            let slots = frames.as_mut_ptr().add(len).cast::<*mut sys::rte_mbuf>();
            let got = sys::gyre_rx_burst(self.port_id, self.index, slots, wanted as u16);
            let got = usize::from(got);
            frames.set_len(len + got);
            got
        }
    }

    /// Which of the port's queues this is.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// The name of the port's device.
    pub fn device(&self) -> &str {
        self.port.name()
    }
}

impl TxQueue {
    /// Hands frames to the port, as `Emit` says. af_packet's driver may wait in poll() here when
    /// its ring is full.
    pub fn tx_burst(&mut self, frames: &mut MbufVec) -> usize {
        let len = frames.len();
        // SAFETY: the port is started for as long as `port` lives, the queue exists and is used by
        // nobody else; the slots hold `len` mbufs we own, of which the driver takes over the first
        // `sent`.
        let sent = unsafe {
            let slots = frames.as_mut_ptr().cast::<*mut sys::rte_mbuf>();
            usize::from(sys::gyre_tx_burst(self.port_id, self.index, slots, len as u16))
        };
        forget_front(frames, sent);
        sent
    }

    /// Which of the port's queues this is.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// The name of the port's device.
    pub fn device(&self) -> &str {
        self.port.name()
    }
}
