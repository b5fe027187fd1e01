//! Between workers: rings. One thread writes and reads, so the lines never leave its cache: what
//! the instructions cost, and not what the way between two cores does.

use arrayvec::ArrayVec;
use divan::Bencher;
use divan::counter::ItemsCount;
use gyre::ring;

use crate::BURST;

#[divan::bench]
fn ring_burst(bencher: Bencher) {
    let (mut sender, mut receiver) = ring::bounded::<[u64; 2]>(1024);
    bencher.counter(ItemsCount::new(BURST)).bench_local(|| {
        let mut burst: ArrayVec<[u64; 2], BURST> = (0..BURST as u64).map(|at| [at, at]).collect();
        assert_eq!(sender.push_burst(&mut burst), BURST);
        let mut taken: ArrayVec<[u64; 2], BURST> = ArrayVec::new();
        assert_eq!(receiver.pop_burst(&mut taken), BURST);
        taken
    });
}

#[divan::bench]
fn ring_single(bencher: Bencher) {
    let (mut sender, mut receiver) = ring::bounded::<[u64; 2]>(1024);
    bencher.counter(ItemsCount::new(BURST)).bench_local(|| {
        for at in 0..BURST as u64 {
            assert!(sender.push([at, at]).is_ok());
        }
        (0..BURST).filter_map(|_| receiver.pop()).map(|[at, _]| at).sum::<u64>()
    });
}
