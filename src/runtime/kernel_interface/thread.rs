//! The kernel-interface thread: moves frames between TAPs and rings, and nothing else, so that
//! VRRP, BFD and BGP never wait behind a configuration change.
//!
//! TAPs wake it through epoll. Rings cannot, since a worker makes no syscall to wake anybody: the
//! thread looks at them at every turn, and its sleeps between grow from `SLEEP_MIN` after traffic
//! to `SLEEP_MAX` when all is quiet.

use std::io;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arrayvec::ArrayVec;
use rustix::event::{Timespec, epoll};

use crate::counters::Counter;
use crate::dpdk::tap::Tap;
use crate::dpdk::{Mbuf, MbufPool};
use crate::limits::{BURST_FRAMES_MAX, NICS_MAX};
use crate::model::{NicId, WorkerId};
use crate::runtime::crossing::{KernelFrame, WorkerRings};

/// Sleep after a turn that moved frames.
const SLEEP_MIN: Duration = Duration::from_micros(20);
/// Longest sleep: what ARP or ping may wait more when nothing has come for a while.
const SLEEP_MAX: Duration = Duration::from_micros(1000);

/// What the kernel interface of one port counts; this thread writes.
#[derive(Debug, Default)]
pub struct TapCounters {
    /// Frames the kernel did not take: its interface was down or its queue full.
    pub kernel_refused: Counter,
    /// Frames from the kernel lost because the worker's ring was full.
    pub ring_full: Counter,
    /// Frames from the kernel left in its queue because no mbuf was free.
    pub no_mbuf: Counter,
}

/// A TAP and which worker sends what comes out of it.
pub struct TapPort {
    /// The port.
    pub nic: NicId,
    /// Its kernel interface.
    pub tap: Tap,
    /// The worker that sends the kernel's frames: one that has a queue of the port.
    pub worker: WorkerId,
    /// Counts.
    pub counters: Arc<TapCounters>,
}

/// All that the thread owns.
pub struct KernelThread {
    epoll: OwnedFd,
    taps: Vec<TapPort>,
    /// Position in `taps` by `NicId`.
    by_nic: [Option<u8>; NICS_MAX],
    workers: Vec<WorkerRings>,
    pool: MbufPool,
    stop: Arc<AtomicBool>,
}

impl KernelThread {
    /// `workers` are the rings by `WorkerId`. Ends soon after `stop` is set.
    pub fn new(
        taps: Vec<TapPort>,
        workers: Vec<WorkerRings>,
        pool: MbufPool,
        stop: Arc<AtomicBool>,
    ) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut by_nic = [None; NICS_MAX];
        for (index, port) in taps.iter().enumerate() {
            by_nic[port.nic.index()] = Some(index as u8);
            let data = epoll::EventData::new_u64(index as u64);
            epoll::add(&epoll, &port.tap, data, epoll::EventFlags::IN)?;
        }
        Ok(KernelThread { epoll, taps, by_nic, workers, pool, stop })
    }

    /// Runs until stopped. TAPs, and frames still in rings, go with `self`.
    pub fn run(mut self) {
        // Without it sleeps are 50 µs longer, no more.
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        let mut sleep = SLEEP_MAX;
        while !self.stop.load(Ordering::Relaxed) {
            let moved = self.feed_kernel();
            let ready = self.wait(if moved { Duration::ZERO } else { sleep });
            for &index in &ready {
                self.read_tap(usize::from(index));
            }
            sleep = match moved || !ready.is_empty() {
                true => SLEEP_MIN,
                // A quarter more each time: half a second of quiet until sleeps are longest.
                false => (sleep + sleep / 4).min(SLEEP_MAX),
            };
        }
    }

    /// TAPs with frames to read, waiting for one at most so long.
    fn wait(&self, longest: Duration) -> ArrayVec<u8, NICS_MAX> {
        let timeout = Timespec { tv_sec: 0, tv_nsec: longest.subsec_nanos().into() };
        let mut events = [epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(0),
        }; NICS_MAX];
        // Only a signal interrupts it, which is as good as a timeout.
        let count = epoll::wait(&self.epoll, &mut events[..], Some(&timeout)).unwrap_or(0);
        events[..count].iter().map(|event| event.data.u64() as u8).collect()
    }

    /// Gives the kernel up to a burst from each worker; says whether there was any.
    fn feed_kernel(&mut self) -> bool {
        let mut moved = false;
        for rings in &mut self.workers {
            let mut frames: ArrayVec<KernelFrame, BURST_FRAMES_MAX> = ArrayVec::new();
            moved |= rings.from_worker.pop_burst(&mut frames) > 0;
            for frame in frames {
                let Some(index) = self.by_nic[frame.nic.index()] else { continue };
                let port = &self.taps[usize::from(index)];
                if port.tap.send(frame.mbuf.bytes()).is_err() {
                    port.counters.kernel_refused.add(1);
                }
            }
        }
        moved
    }

    /// Reads up to a burst from a TAP.
    fn read_tap(&mut self, index: usize) {
        let port = &self.taps[index];
        for _ in 0..BURST_FRAMES_MAX {
            let Some(mut mbuf) = Mbuf::alloc(&self.pool) else {
                port.counters.no_mbuf.add(1);
                // The frame stays readable, so without a pause this would spin.
                std::thread::sleep(SLEEP_MAX);
                return;
            };
            let mut frame = mbuf.frame();
            let room = frame.tailroom_bytes();
            if frame.set_len(room).is_err() {
                return;
            }
            let (start, _) = frame.extent();
            let len = match port.tap.receive(frame.bytes_mut()) {
                Ok(Some(len)) => len,
                Ok(None) => return,
                Err(error) => return self.give_up(index, &error),
            };
            mbuf.set_extent(start, start + len);
            let to_worker = &mut self.workers[port.worker.index()].to_worker;
            if to_worker.push(KernelFrame { nic: port.nic, mbuf }).is_err() {
                port.counters.ring_full.add(1);
            }
        }
    }

    /// Stops reading a TAP that somebody removed: it would be reported as ready for ever.
    fn give_up(&self, index: usize, error: &io::Error) {
        let tap = &self.taps[index].tap;
        tracing::error!("kernel interface {} is lost: {error}; restart gyre", tap.name());
        let _ = epoll::delete(&self.epoll, tap);
    }
}
