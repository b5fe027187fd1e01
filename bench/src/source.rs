//! A cheap source of frames inside the worker's loop: a fixed window of mbufs, each restored from
//! a template and stamped with the next tuple of a schedule drawn beforehand. What the worker sends
//! goes back into the window.

use std::cell::RefCell;
use std::rc::Rc;

use gyre::dpdk::{Emit, Mbuf, MbufPool, MbufVec, Receive};

/// Mbufs in the window, as many as a port's ring has: they stay in the second-level cache.
pub const WINDOW: usize = 512;
/// Where a frame starts in its mbuf.
const HEADROOM: usize = 128;
/// IPv4: header checksum, addresses and ports lie together.
const V4: std::ops::Range<usize> = 24..38;
/// IPv6: addresses and ports.
const V6: std::ops::Range<usize> = 22..58;

/// Every frame of a case: a template, and what differs from frame to frame.
pub struct Schedule {
    template: Vec<u8>,
    is_ipv4: bool,
    /// Where the transport's checksum lies.
    checksum_at: usize,
    /// For each frame in turn: the bytes of `V4` or `V6`, then the transport's checksum.
    stamps: Vec<u8>,
}

impl Schedule {
    /// A schedule without frames that follow `template`, which says family and protocol.
    pub fn new(template: &[u8]) -> Self {
        let is_ipv4 = template[12..14] == [0x08, 0x00];
        let (l4, protocol) = if is_ipv4 { (34, template[23]) } else { (54, template[20]) };
        let checksum_at = l4 + if protocol == 17 { 6 } else { 16 };
        Schedule { template: template.to_vec(), is_ipv4, checksum_at, stamps: Vec::new() }
    }

    fn range(&self) -> std::ops::Range<usize> {
        if self.is_ipv4 { V4 } else { V6 }
    }

    fn stride(&self) -> usize {
        self.range().len() + 2
    }

    /// Appends a frame, which differs from the template in addresses, ports and checksums alone.
    pub fn push(&mut self, frame: &[u8]) {
        self.stamps.extend_from_slice(&frame[self.range()]);
        self.stamps.extend_from_slice(&frame[self.checksum_at..self.checksum_at + 2]);
    }

    /// Frames in it.
    pub fn len(&self) -> usize {
        self.stamps.len() / self.stride()
    }

    /// The same frames in the order of `picks`.
    pub fn arranged(&self, picks: impl Iterator<Item = u32>) -> Schedule {
        let stride = self.stride();
        let mut stamps = Vec::with_capacity(self.stamps.len());
        for pick in picks {
            let at = pick as usize * stride;
            stamps.extend_from_slice(&self.stamps[at..at + stride]);
        }
        Schedule { template: self.template.clone(), stamps, ..*self }
    }

    /// One frame whole.
    pub fn frame(&self, at: usize) -> Vec<u8> {
        let mut frame = self.template.clone();
        self.stamp(&mut frame, at * self.stride());
        frame
    }

    #[inline(always)]
    fn stamp(&self, frame: &mut [u8], at: usize) {
        if self.is_ipv4 {
            let stamp: &[u8; 16] = self.stamps[at..].first_chunk().expect("whole stamps");
            frame[V4].copy_from_slice(&stamp[..14]);
            frame[self.checksum_at..self.checksum_at + 2].copy_from_slice(&stamp[14..]);
        } else {
            let stamp: &[u8; 38] = self.stamps[at..].first_chunk().expect("whole stamps");
            frame[V6].copy_from_slice(&stamp[..36]);
            frame[self.checksum_at..self.checksum_at + 2].copy_from_slice(&stamp[36..]);
        }
    }
}

/// What source and sink share.
pub struct Window {
    pool: MbufPool,
    /// A ring: mbufs are used in turn, as a port uses its own.
    idle: Vec<Option<Mbuf>>,
    head: usize,
    tail: usize,
    schedule: Rc<Schedule>,
    /// Byte offset of the next stamp.
    next: usize,
    burst: usize,
    /// Frames still to be given.
    pub remaining: usize,
    /// Frames that came back.
    pub forwarded: u64,
    /// What came back, while somebody looks.
    pub kept: Option<Vec<Vec<u8>>>,
}

impl Window {
    /// A full window that gives nothing yet.
    pub fn new(pool: &MbufPool, burst: usize, schedule: Rc<Schedule>) -> anyhow::Result<Self> {
        let idle: Vec<_> = (0..WINDOW).map(|_| Mbuf::alloc(pool)).collect();
        anyhow::ensure!(idle.iter().all(Option::is_some), "the mbuf pool is too small");
        Ok(Window {
            pool: pool.clone(),
            idle,
            head: 0,
            tail: 0,
            schedule,
            next: 0,
            burst,
            remaining: 0,
            forwarded: 0,
            kept: None,
        })
    }

    /// Goes over to another schedule, from its start.
    pub fn follow(&mut self, schedule: &Rc<Schedule>) {
        (self.schedule, self.next) = (Rc::clone(schedule), 0);
    }

    #[inline(always)]
    fn give(&mut self, frames: &mut MbufVec) -> usize {
        let count = self.burst.min(self.remaining);
        self.remaining -= count;
        let schedule = &*self.schedule;
        let (stride, template) = (schedule.stride(), &schedule.template[..]);
        for _ in 0..count {
            let place = &mut self.idle[self.head % WINDOW];
            self.head += 1;
            // What the worker dropped is free again in the pool.
            let Some(mut mbuf) = place.take().or_else(|| Mbuf::alloc(&self.pool)) else { break };
            mbuf.set_extent(HEADROOM, HEADROOM + template.len());
            let mut frame = mbuf.frame();
            let bytes = frame.bytes_mut();
            bytes.copy_from_slice(template);
            schedule.stamp(bytes, self.next);
            self.next += stride;
            if self.next == schedule.stamps.len() {
                self.next = 0;
            }
            frames.push(mbuf);
        }
        frames.len()
    }

    #[inline(always)]
    fn take(&mut self, frames: &mut MbufVec) -> usize {
        let count = frames.len();
        if let Some(kept) = &mut self.kept {
            kept.extend(frames.iter().map(|mbuf| mbuf.bytes().to_vec()));
        }
        self.forwarded += count as u64;
        for mbuf in frames.drain(..) {
            self.idle[self.tail % WINDOW] = Some(mbuf);
            self.tail += 1;
        }
        count
    }
}

/// A window that the benchmark, the source and the sink hold, all on one thread.
pub type Shared = Rc<RefCell<Window>>;

/// The source as a worker sees it.
pub struct Source(pub Shared);

/// Where the worker's frames go.
pub struct Sink(pub Shared);

impl Receive for Source {
    #[inline]
    fn rx_burst(&mut self, frames: &mut MbufVec) -> usize {
        self.0.borrow_mut().give(frames)
    }
}

impl Emit for Sink {
    #[inline]
    fn tx_burst(&mut self, frames: &mut MbufVec) -> usize {
        self.0.borrow_mut().take(frames)
    }
}
