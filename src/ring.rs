//! What crosses between threads: bounded single-producer single-consumer rings, and the protocol
//! by which workers adopt snapshots and give the old ones back to be freed.
//!
//! The ring itself is crate `rtrb`; this file adds bursts and an end that is noticed without
//! losing what is still in the ring. Who drops what when a ring is full, and who counts it,
//! is the callers' business.
#![allow(unsafe_code)]

use std::fmt;
use std::mem::ManuallyDrop;
use std::sync::Arc;

use arrayvec::ArrayVec;
use crossbeam::utils::CachePadded;

use sync::{AtomicU64, Ordering, fence};

/// The writing end of a ring; one thread at a time.
#[derive(Debug)]
pub struct Sender<T> {
    ring: sync::Producer<T>,
}

/// The reading end of a ring; one thread at a time.
#[derive(Debug)]
pub struct Receiver<T> {
    ring: sync::Consumer<T>,
}

/// A ring for `capacity` items, at least one. Memory is taken now.
pub fn bounded<T: Send>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let (producer, consumer) = sync::ring(capacity.max(1));
    (Sender { ring: producer }, Receiver { ring: consumer })
}

impl<T> Sender<T> {
    /// Appends one item, or gives it back when the ring is full.
    #[inline]
    pub fn push(&mut self, item: T) -> Result<(), T> {
        self.ring.push(item)
    }

    /// Moves as many items as fit from the front of `burst`, in one step for the reader; what
    /// does not fit stays, in order. Returns how many went.
    #[inline]
    pub fn push_burst<const N: usize>(&mut self, burst: &mut ArrayVec<T, N>) -> usize {
        let count = self.ring.room(burst.len());
        if count > 0 {
            self.ring.write(count, burst.drain(..count));
        }
        count
    }

    /// Free places, counted up to `wanted`: cheaper than counting all.
    #[inline]
    pub fn room(&self, wanted: usize) -> usize {
        self.ring.room(wanted)
    }

    /// Whether the reader is gone: what is pushed now will never be read.
    pub fn is_closed(&self) -> bool {
        let closed = self.ring.is_abandoned();
        fence(Ordering::Acquire);
        closed
    }
}

impl<T> Receiver<T> {
    /// Takes the oldest item.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        self.ring.pop()
    }

    /// Takes the oldest items, as many as `burst` has room for, behind what it holds. Returns
    /// how many came.
    #[inline]
    pub fn pop_burst<const N: usize>(&mut self, burst: &mut ArrayVec<T, N>) -> usize {
        let count = self.ring.ready(burst.remaining_capacity());
        if count > 0 {
            self.ring.read(count, |item| burst.push(item));
        }
        count
    }

    /// Items waiting.
    pub fn len(&self) -> usize {
        self.ring.ready(usize::MAX)
    }

    /// Whether nothing waits: one load of a line that changes only when something comes.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    /// Whether the writer is gone and all it wrote was taken.
    pub fn is_drained(&self) -> bool {
        if !self.ring.is_abandoned() {
            return false;
        }
        // The writer's last push comes before its end: having seen the end, see the push.
        fence(Ordering::Acquire);
        self.ring.is_empty()
    }
}

/// A snapshot under way, with its revision.
type Numbered<T> = (u64, Arc<T>);

/// Control's end of one worker's snapshots. Keep it until the worker has ended, and `collect`
/// then once more: so every snapshot is freed here.
#[derive(Debug)]
pub struct SnapshotSender<T> {
    pending: Sender<Numbered<T>>,
    retired: Receiver<Numbered<T>>,
    adopted: Arc<CachePadded<AtomicU64>>,
}

/// A worker's end: the snapshot it works with. The worker never frees one, nor touches its
/// reference count: the pointer moves down one ring and up the other.
pub struct SnapshotReceiver<T> {
    /// Always valid; taken out in `drop` only.
    current: ManuallyDrop<Arc<T>>,
    revision: u64,
    pending: Receiver<Numbered<T>>,
    retired: Sender<Numbered<T>>,
    /// Read by control at its leisure, so on a line of its own.
    adopted: Arc<CachePadded<AtomicU64>>,
}

/// Both ends for one worker that starts with `first`. `under_way_max` snapshots may wait to be
/// adopted; as many retired ones may wait to be collected before the worker stops adopting.
pub fn snapshots<T: Send + Sync>(
    revision: u64,
    first: Arc<T>,
    under_way_max: usize,
) -> (SnapshotSender<T>, SnapshotReceiver<T>) {
    let (pending_in, pending_out) = bounded(under_way_max);
    // One place more, kept for the snapshot that a worker gives back when it ends.
    let (retired_in, retired_out) = bounded(under_way_max.max(1) + 1);
    let adopted = Arc::new(CachePadded::new(AtomicU64::new(revision)));
    let sender =
        SnapshotSender { pending: pending_in, retired: retired_out, adopted: adopted.clone() };
    let receiver = SnapshotReceiver {
        current: ManuallyDrop::new(first),
        revision,
        pending: pending_out,
        retired: retired_in,
        adopted,
    };
    (sender, receiver)
}

impl<T> SnapshotSender<T> {
    /// Sends a snapshot; the worker adopts each one sent, in order. Given back when too many
    /// wait already: the worker is stalled, or `collect` is not called.
    pub fn publish(&mut self, revision: u64, snapshot: Arc<T>) -> Result<(), Arc<T>> {
        self.pending.push((revision, snapshot)).map_err(|(_, snapshot)| snapshot)
    }

    /// Takes one snapshot that the worker has left for good, to be freed where it suits.
    pub fn take_retired(&mut self) -> Option<Arc<T>> {
        self.retired.pop().map(|(_, snapshot)| snapshot)
    }

    /// Drops here all that the worker has left; returns how many.
    pub fn collect(&mut self) -> usize {
        std::iter::from_fn(|| self.take_retired()).count()
    }

    /// Revision the worker works with. It has then given back, or is about to give back, all
    /// earlier ones.
    pub fn adopted(&self) -> u64 {
        self.adopted.load(Ordering::Acquire)
    }

    /// Whether the worker has ended.
    pub fn is_closed(&self) -> bool {
        self.pending.is_closed()
    }
}

impl<T> SnapshotReceiver<T> {
    /// The snapshot in force.
    #[inline(always)]
    pub fn current(&self) -> &Arc<T> {
        &self.current
    }

    /// Its revision.
    #[inline(always)]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Adopts the next snapshot, if one waits and the old one can be given back; call between
    /// bursts. At most one a call, so that none is skipped.
    #[inline]
    pub fn adopt(&mut self) -> bool {
        !self.pending.is_empty() && self.adopt_next()
    }

    #[cold]
    fn adopt_next(&mut self) -> bool {
        if self.retired.room(2) < 2 {
            return false;
        }
        let Some((revision, next)) = self.pending.pop() else { return false };
        let old = std::mem::replace(&mut *self.current, next);
        let old_revision = std::mem::replace(&mut self.revision, revision);
        self.adopted.store(revision, Ordering::Release);
        let pushed = self.retired.push((old_revision, old));
        debug_assert!(pushed.is_ok(), "room was there, and only we push");
        true
    }
}

impl<T> Drop for SnapshotReceiver<T> {
    fn drop(&mut self) {
        // SAFETY: `current` is valid until here and not used again; the value is being dropped.
        let last = unsafe { ManuallyDrop::take(&mut self.current) };
        let pushed = self.retired.push((self.revision, last));
        debug_assert!(pushed.is_ok(), "a place is kept for the last one");
    }
}

impl<T> fmt::Debug for SnapshotReceiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotReceiver").field("revision", &self.revision).finish_non_exhaustive()
    }
}

/// The ring and the atomics below the protocols: `rtrb` and `std`.
#[cfg(not(all(test, gyre_loom)))]
mod sync {
    pub use std::sync::atomic::{AtomicU64, Ordering, fence};

    #[derive(Debug)]
    pub struct Producer<T>(rtrb::Producer<T>);

    #[derive(Debug)]
    pub struct Consumer<T>(rtrb::Consumer<T>);

    pub fn ring<T>(capacity: usize) -> (Producer<T>, Consumer<T>) {
        let (producer, consumer) = rtrb::RingBuffer::new(capacity);
        (Producer(producer), Consumer(consumer))
    }

    impl<T> Producer<T> {
        #[inline]
        pub fn push(&mut self, item: T) -> Result<(), T> {
            self.0.push(item).map_err(|rtrb::PushError::Full(item)| item)
        }

        /// Looks at the reader's line only when what is known does not suffice.
        #[inline]
        pub fn room(&self, wanted: usize) -> usize {
            let known = self.0.cached_slots();
            if known >= wanted { wanted } else { self.0.slots().min(wanted) }
        }

        /// Writes `count` items, for which there is room.
        #[inline]
        pub fn write(&mut self, count: usize, items: impl Iterator<Item = T>) {
            if let Ok(chunk) = self.0.write_chunk_uninit(count) {
                chunk.fill_from_iter(items);
            }
        }

        pub fn is_abandoned(&self) -> bool {
            self.0.is_abandoned()
        }
    }

    impl<T> Consumer<T> {
        #[inline]
        pub fn pop(&mut self) -> Option<T> {
            self.0.pop().ok()
        }

        /// Looks at the writer's line only when what is known does not suffice.
        #[inline]
        pub fn ready(&self, wanted: usize) -> usize {
            let known = self.0.cached_slots();
            if known >= wanted { wanted } else { self.0.slots().min(wanted) }
        }

        /// Reads `count` items, which are there.
        #[inline]
        pub fn read(&mut self, count: usize, take: impl FnMut(T)) {
            if let Ok(chunk) = self.0.read_chunk(count) {
                chunk.into_iter().for_each(take);
            }
        }

        #[inline]
        pub fn is_empty(&self) -> bool {
            self.0.is_empty()
        }

        pub fn is_abandoned(&self) -> bool {
            self.0.is_abandoned()
        }
    }
}

#[cfg(all(test, gyre_loom))]
#[path = "ring_loom.rs"]
mod sync;

#[cfg(all(test, not(gyre_loom)))]
#[path = "ring_tests.rs"]
mod tests;
