//! Loom models of the rings' protocols: `ring.rs` itself, compiled over loom's atomics.
//!
//! `rtrb` cannot run under loom, so a ring with the same interface and the same memory orderings
//! (acquire and release on head and tail, a relaxed look at who is left) stands in for it.
//! What is checked is the code in `ring.rs`. Run by `scripts/check-loom`.

use std::sync::Arc;

use loom::cell::UnsafeCell;
use loom::sync::atomic::AtomicUsize;
pub use loom::sync::atomic::{AtomicU64, Ordering, fence};

/// Head and tail count up and are never wrapped; models are short.
#[derive(Debug)]
struct Shared<T> {
    slots: Vec<UnsafeCell<Option<T>>>,
    head: AtomicUsize,
    tail: AtomicUsize,
    ends: AtomicUsize,
}

// SAFETY: a slot is written by the producer before it moves `tail` past it and read by the
// consumer before it moves `head` past it; loom checks exactly that.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

#[derive(Debug)]
pub struct Producer<T>(Arc<Shared<T>>);

#[derive(Debug)]
pub struct Consumer<T>(Arc<Shared<T>>);

pub fn ring<T>(capacity: usize) -> (Producer<T>, Consumer<T>) {
    let shared = Arc::new(Shared {
        slots: (0..capacity).map(|_| UnsafeCell::new(None)).collect(),
        head: AtomicUsize::new(0),
        tail: AtomicUsize::new(0),
        ends: AtomicUsize::new(2),
    });
    (Producer(shared.clone()), Consumer(shared))
}

impl<T> Shared<T> {
    fn swap(&self, at: usize, item: Option<T>) -> Option<T> {
        self.slots[at % self.slots.len()].with_mut(|slot| {
            // SAFETY: the caller owns this slot by head and tail, and loom watches the access.
            unsafe { std::mem::replace(&mut *slot, item) }
        })
    }

    fn end(&self) {
        self.ends.fetch_sub(1, Ordering::Release);
    }

    fn is_abandoned(&self) -> bool {
        self.ends.load(Ordering::Relaxed) < 2
    }
}

impl<T> Producer<T> {
    pub fn push(&mut self, item: T) -> Result<(), T> {
        if self.room(1) == 0 {
            return Err(item);
        }
        self.write(1, std::iter::once(item));
        Ok(())
    }

    pub fn room(&self, wanted: usize) -> usize {
        let used = self.0.tail.load(Ordering::Relaxed) - self.0.head.load(Ordering::Acquire);
        (self.0.slots.len() - used).min(wanted)
    }

    pub fn write(&mut self, count: usize, items: impl Iterator<Item = T>) {
        let tail = self.0.tail.load(Ordering::Relaxed);
        for (at, item) in items.take(count).enumerate() {
            assert!(self.0.swap(tail + at, Some(item)).is_none());
        }
        self.0.tail.store(tail + count, Ordering::Release);
    }

    pub fn is_abandoned(&self) -> bool {
        self.0.is_abandoned()
    }
}

impl<T> Consumer<T> {
    pub fn pop(&mut self) -> Option<T> {
        let mut popped = None;
        self.read(self.ready(1), |item| popped = Some(item));
        popped
    }

    pub fn ready(&self, wanted: usize) -> usize {
        let ready = self.0.tail.load(Ordering::Acquire) - self.0.head.load(Ordering::Relaxed);
        ready.min(wanted)
    }

    pub fn read(&mut self, count: usize, mut take: impl FnMut(T)) {
        let head = self.0.head.load(Ordering::Relaxed);
        for at in 0..count {
            take(self.0.swap(head + at, None).unwrap());
        }
        self.0.head.store(head + count, Ordering::Release);
    }

    pub fn is_empty(&self) -> bool {
        self.ready(1) == 0
    }

    pub fn is_abandoned(&self) -> bool {
        self.0.is_abandoned()
    }
}

impl<T> Drop for Producer<T> {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl<T> Drop for Consumer<T> {
    fn drop(&mut self) {
        self.0.end();
    }
}

mod models {
    use super::super::{Receiver, Sender, bounded, snapshots};
    use arrayvec::ArrayVec;
    use loom::cell::UnsafeCell;
    use loom::thread;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    /// Every interleaving with at most three preemptions: what finds nearly all faults.
    fn explore(model: impl Fn() + Sync + Send + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(model);
    }

    #[test]
    fn bursts_arrive_whole_in_order_and_the_end_hides_none() {
        explore(|| {
            let (mut sender, mut receiver) = bounded(2);
            let writer = thread::spawn(move || {
                let mut burst: ArrayVec<Box<u32>, 3> = (0..3).map(Box::new).collect();
                while !burst.is_empty() {
                    if sender.push_burst(&mut burst) == 0 {
                        thread::yield_now();
                    }
                }
            });
            let mut taken = ArrayVec::<Box<u32>, 3>::new();
            while !receiver.is_drained() {
                if receiver.pop_burst(&mut taken) == 0 {
                    thread::yield_now();
                }
            }
            assert!(taken.iter().map(|item| **item).eq(0..3));
            writer.join().unwrap();
        });
    }

    /// One worker's turn: hand over what fits, count what does not, take what came.
    fn turn(out: &mut Sender<u32>, back: &mut Receiver<u32>, frames: [u32; 2]) -> (usize, usize) {
        let mut burst = ArrayVec::from(frames);
        out.push_burst(&mut burst);
        let mut taken = ArrayVec::<u32, 2>::new();
        (back.pop_burst(&mut taken), burst.len())
    }

    #[test]
    fn workers_hand_off_to_each_other_without_waiting_or_losing_count() {
        explore(|| {
            let (mut to_b, mut from_a) = bounded(1);
            let (mut to_a, mut from_b) = bounded(1);
            let b = thread::spawn(move || {
                let counts = turn(&mut to_a, &mut from_a, [3, 4]);
                (counts, from_a)
            });
            let (got_a, dropped_a) = turn(&mut to_b, &mut from_b, [1, 2]);
            let ((got_b, dropped_b), from_a) = b.join().unwrap();
            let waiting = from_a.len() + from_b.len();
            assert_eq!(got_a + dropped_a + got_b + dropped_b + waiting, 4);
        });
    }

    /// A snapshot that knows where it was made and sees unsynchronised access to its content.
    struct Probe {
        revision: UnsafeCell<u64>,
        home: thread::ThreadId,
        freed: Arc<AtomicUsize>,
    }

    // SAFETY: the content is written only by its maker and in `drop`; loom checks that both
    // are ordered with the worker's reads, which is what the models are for.
    unsafe impl Sync for Probe {}

    impl Probe {
        fn new(revision: u64, freed: &Arc<AtomicUsize>) -> Arc<Self> {
            let home = thread::current().id();
            Arc::new(Probe { revision: UnsafeCell::new(revision), home, freed: freed.clone() })
        }

        fn revision(&self) -> u64 {
            // SAFETY: nobody writes while the snapshot is shared; loom would say so.
            self.revision.with(|revision| unsafe { *revision })
        }
    }

    impl Drop for Probe {
        fn drop(&mut self) {
            assert_eq!(thread::current().id(), self.home, "freed by the worker");
            // SAFETY: `drop` has the value to itself; loom checks it against earlier reads.
            self.revision.with_mut(|revision| unsafe { *revision = u64::MAX });
            self.freed.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn adopted_snapshots_come_back_and_control_frees_them() {
        explore(|| {
            let freed = Arc::new(AtomicUsize::new(0));
            let (mut sender, mut receiver) = snapshots(0, Probe::new(0, &freed), 1);
            let worker = thread::spawn(move || {
                for _ in 0..2 {
                    receiver.adopt();
                    assert_eq!(receiver.current().revision(), receiver.revision());
                }
                receiver
            });
            let mut published = 0;
            for revision in 1..=2 {
                if sender.publish(revision, Probe::new(revision, &freed)).is_ok() {
                    published = revision;
                }
                let adopted = sender.adopted();
                while let Some(old) = sender.take_retired() {
                    // What comes back was left for a later one, and control can see which.
                    assert!(old.revision() < sender.adopted());
                }
                assert!(adopted <= sender.adopted() && sender.adopted() <= published);
            }
            let receiver = worker.join().unwrap();
            assert_eq!(sender.adopted(), receiver.revision());
            drop(receiver);
            assert!(sender.is_closed());
            sender.collect();
            drop(sender);
            assert_eq!(freed.load(Relaxed), 3);
        });
    }

    #[test]
    fn retired_ring_without_room_delays_adoption_and_frees_nothing_at_the_worker() {
        explore(|| {
            let freed = Arc::new(AtomicUsize::new(0));
            let (mut sender, mut receiver) = snapshots(0, Probe::new(0, &freed), 1);
            assert!(sender.publish(1, Probe::new(1, &freed)).is_ok());
            assert!(receiver.adopt());
            assert!(sender.publish(2, Probe::new(2, &freed)).is_ok());
            let worker = thread::spawn(move || {
                // Revision 0 waits to be collected: until then this must not go on.
                let adopted = receiver.adopt();
                (adopted, receiver.revision())
            });
            let collected = sender.collect();
            let (adopted, revision) = worker.join().unwrap();
            assert_eq!(revision, if adopted { 2 } else { 1 });
            assert!(collected >= 1);
            sender.collect();
            drop(sender);
            assert_eq!(freed.load(Relaxed), 3);
        });
    }
}
