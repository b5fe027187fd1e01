//! Tests of the rings and of the snapshot protocol on real threads; the loom models are in
//! `ring_loom.rs`.

use super::*;
use std::sync::atomic::AtomicUsize;
use std::thread;

/// Items for a run over two threads.
const MANY: u32 = if cfg!(miri) { 60 } else { 50_000 };

#[test]
fn burst_goes_as_far_as_it_fits_and_the_rest_stays_in_order() {
    let (mut sender, mut receiver) = bounded(3);
    let mut burst: ArrayVec<u32, 8> = (0..5).collect();
    assert_eq!(sender.push_burst(&mut burst), 3);
    assert_eq!(burst.as_slice(), [3, 4]);
    assert_eq!(sender.push_burst(&mut burst), 0);
    assert_eq!(sender.push(9), Err(9));
    assert_eq!((sender.room(8), receiver.len(), receiver.is_empty()), (0, 3, false));
    assert_eq!(receiver.pop(), Some(0));
    assert_eq!((sender.room(8), sender.push_burst(&mut burst)), (1, 1));
    let mut taken = ArrayVec::<u32, 8>::new();
    assert_eq!(receiver.pop_burst(&mut taken), 3);
    assert_eq!(taken.as_slice(), [1, 2, 3]);
    assert!(receiver.is_empty());
}

#[test]
fn burst_is_filled_behind_what_it_holds_and_no_further() {
    let (mut sender, mut receiver) = bounded(8);
    (0..6).for_each(|item| sender.push(item).unwrap());
    let mut taken: ArrayVec<i32, 4> = [-1, -2].into_iter().collect();
    assert_eq!(receiver.pop_burst(&mut taken), 2);
    assert_eq!(taken.as_slice(), [-1, -2, 0, 1]);
    assert_eq!(receiver.pop_burst(&mut taken), 0);
    assert_eq!(receiver.len(), 4);
}

#[test]
fn ring_of_nothing_holds_one() {
    let (mut sender, _receiver) = bounded(0);
    assert_eq!((sender.push(1), sender.push(2)), (Ok(()), Err(2)));
}

#[test]
fn items_left_in_a_ring_are_dropped_with_it() {
    let item = Arc::new(());
    let (mut sender, receiver) = bounded(4);
    sender.push(item.clone()).unwrap();
    sender.push(item.clone()).unwrap();
    drop(receiver);
    assert!(sender.is_closed());
    assert_eq!(Arc::strong_count(&item), 3);
    drop(sender);
    assert_eq!(Arc::strong_count(&item), 1);
}

#[test]
fn items_cross_threads_in_order_and_none_is_lost_at_the_end() {
    let (mut sender, mut receiver) = bounded(7);
    let writer = thread::spawn(move || {
        let mut numbers = 0..MANY;
        let mut burst = ArrayVec::<Box<u32>, 5>::new();
        loop {
            burst.extend(numbers.by_ref().take(burst.remaining_capacity()).map(Box::new));
            if burst.is_empty() {
                return;
            }
            if sender.push_burst(&mut burst) == 0 {
                thread::yield_now();
            }
        }
    });
    let mut next = 0;
    let mut burst = ArrayVec::<Box<u32>, 4>::new();
    while !receiver.is_drained() {
        if receiver.pop_burst(&mut burst) == 0 {
            thread::yield_now();
        }
        for item in burst.drain(..) {
            assert_eq!(*item, next);
            next += 1;
        }
    }
    assert_eq!(next, MANY);
    writer.join().unwrap();
}

/// A snapshot that notes on which thread it is freed.
struct Probe {
    revision: u64,
    home: thread::ThreadId,
    freed: Arc<AtomicUsize>,
}

impl Drop for Probe {
    fn drop(&mut self) {
        assert_eq!(thread::current().id(), self.home, "freed by the worker");
        self.freed.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

fn probe(revision: u64, freed: &Arc<AtomicUsize>) -> Arc<Probe> {
    Arc::new(Probe { revision, home: thread::current().id(), freed: freed.clone() })
}

#[test]
fn worker_adopts_in_order_one_a_turn_and_gives_the_old_back() {
    let freed = Arc::default();
    let (mut sender, mut receiver) = snapshots(0, probe(0, &freed), 2);
    assert!(!receiver.adopt());
    sender.publish(1, probe(1, &freed)).ok().unwrap();
    sender.publish(2, probe(2, &freed)).ok().unwrap();
    let third = sender.publish(3, probe(3, &freed)).err().unwrap();
    assert_eq!((sender.adopted(), receiver.revision()), (0, 0));
    assert!(receiver.adopt());
    assert_eq!((receiver.revision(), receiver.current().revision, sender.adopted()), (1, 1, 1));
    sender.publish(3, third).ok().unwrap();
    assert!(receiver.adopt());
    assert_eq!(sender.adopted(), 2);
    // Two retired ones wait: the third is not adopted before one of them is taken.
    assert!(!receiver.adopt());
    assert_eq!(sender.take_retired().unwrap().revision, 0);
    assert!(receiver.adopt());
    assert_eq!((sender.adopted(), sender.collect()), (3, 2));
    assert!(!receiver.adopt() && !sender.is_closed());
    drop(receiver);
    assert!(sender.is_closed());
    assert_eq!((sender.collect(), freed.load(std::sync::atomic::Ordering::Relaxed)), (1, 4));
}

#[test]
fn control_frees_every_snapshot_wherever_the_worker_stops() {
    let rounds = if cfg!(miri) { 12 } else { 2_000 };
    for stop_at in [0, rounds / 2, rounds] {
        let freed = Arc::new(AtomicUsize::new(0));
        let (mut sender, mut receiver) = snapshots(0, probe(0, &freed), 3);
        let worker = thread::spawn(move || {
            while receiver.revision() < stop_at {
                let before = receiver.revision();
                if receiver.adopt() {
                    assert_eq!(receiver.revision(), before + 1);
                } else {
                    thread::yield_now();
                }
                assert_eq!(receiver.current().revision, receiver.revision());
            }
        });
        let mut made = 1;
        for revision in 1..=rounds {
            let mut next = probe(revision, &freed);
            made += 1;
            while !sender.is_closed() {
                sender.collect();
                match sender.publish(revision, next) {
                    Ok(()) => break,
                    Err(again) => next = again,
                }
                thread::yield_now();
            }
        }
        // The worker waits with the last ones until there is room for what it leaves.
        while !sender.is_closed() {
            sender.collect();
            thread::yield_now();
        }
        worker.join().unwrap();
        assert_eq!(sender.adopted(), stop_at);
        sender.collect();
        drop(sender);
        assert_eq!(freed.load(std::sync::atomic::Ordering::Relaxed), made);
    }
}
