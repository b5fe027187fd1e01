//! A fixed number of entries with stable indexes, handed out and taken back. It does not know
//! which entry a key belongs to: that is `index`, rebuilt from here.

use arrayvec::ArrayVec;

use super::array::prefetch_entry;
use super::header::{HEADER_BYTES, Header, Kind};
use super::number_set::NumberSet;
use super::pod::Pod;
use super::region::{MemoryError, Region};
use super::view::View;
use crate::limits::{BURST_FRAMES_MAX, FLOWS_PER_WORKER_MAX};

/// Free entries that are kept in order to be taken next: those that came back last.
const NEXT_MAX: usize = 4 * BURST_FRAMES_MAX;
/// From so few of them on others are fetched, so that a burst's can always be named ahead.
const NEXT_LOW: usize = BURST_FRAMES_MAX;

/// Entries with stable indexes in one region: a header, a bitmap of live entries, the entries.
///
/// Taking and returning an entry touches bits, never the entry's own lines. An entry that is not
/// live is on the short stack of those that are taken next, or else in the set of the free ones.
/// Both are made from the bitmap on adoption.
#[derive(Debug)]
pub struct Slab<T> {
    live: View<u64>,
    entries: View<T>,
    free: NumberSet,
    next: ArrayVec<u32, NEXT_MAX>,
    region: Region,
}

impl<T: Pod> Slab<T> {
    /// Takes memory for `capacity` entries, 1 to [`FLOWS_PER_WORKER_MAX`], all bytes zero.
    pub fn new(capacity: u32) -> Result<Self, MemoryError> {
        let region = Region::new(Places::of::<T>(capacity)?.end_bytes)?;
        // SAFETY: this view is gone before those in `over` are made.
        let header = unsafe { View::<Header>::new(&region, 0, 1) };
        header.ok_or(refused(capacity))?.as_mut_slice()[0] = Header::of::<T>(Kind::Slab, capacity);
        Self::over(region, capacity)
    }

    /// Takes over a predecessor's slab with its live entries.
    pub fn adopt(region: Region) -> Result<Self, MemoryError> {
        // SAFETY: this view is gone before those in `over` are made.
        let header = unsafe { View::<Header>::new(&region, 0, 1) }.ok_or(refused(0))?;
        let header = header.as_slice()[0];
        header.check::<T>(Kind::Slab)?;
        Self::over(region, header.capacity)
    }

    fn over(region: Region, capacity: u32) -> Result<Self, MemoryError> {
        let places = Places::of::<T>(capacity)?;
        // SAFETY: the region moves into the same value; `Places` keeps the two rows apart.
        let live = unsafe { View::<u64>::new(&region, HEADER_BYTES, places.live_words) };
        // SAFETY: as above.
        let entries = unsafe { View::new(&region, places.entries_bytes, capacity as usize) };
        let (mut live, entries) =
            (live.ok_or(refused(capacity))?, entries.ok_or(refused(capacity))?);
        clear_from(live.as_mut_slice(), capacity);
        let free = NumberSet::new(free_words(live.as_slice(), capacity))?;
        let mut slab = Slab { live, entries, free, next: ArrayVec::new(), region };
        slab.fetch();
        Ok(slab)
    }

    /// Takes a free entry, most recently returned first; `None` when all are taken. It still
    /// holds what it held last: the caller writes all of it.
    #[inline]
    pub fn alloc(&mut self) -> Option<u32> {
        let index = self.next.pop()?;
        *self.live.as_mut_slice().get_mut(index as usize / 64)? |= 1 << (index % 64);
        if self.next.len() < NEXT_LOW && self.free.len() > 0 {
            self.fetch();
        }
        Some(index)
    }

    /// Fills up the stack from below, the lowest index on top of what it adds.
    fn fetch(&mut self) {
        let mut lowest = [0; NEXT_MAX];
        let count = self.free.take_lowest(&mut lowest[..NEXT_MAX - self.next.len()]);
        let older: ArrayVec<u32, NEXT_MAX> = self.next.take();
        self.next.extend(lowest[..count].iter().rev().copied());
        self.next.extend(older);
    }

    /// The entry that `alloc` would give once `ahead` others have been given.
    #[inline]
    pub fn next_free(&self, ahead: u32) -> Option<u32> {
        self.next.iter().rev().nth(ahead as usize).copied()
    }

    /// Returns an entry; `false`, and nothing changes, when it was not taken.
    #[inline]
    pub fn free(&mut self, index: u32) -> bool {
        if !self.is_live(index) {
            return false;
        }
        if let Some(word) = self.live.as_mut_slice().get_mut(index as usize / 64) {
            *word &= !(1 << (index % 64));
        }
        if self.next.try_push(index).is_err() {
            self.free.insert(index);
        }
        true
    }

    /// The entry, taken or not; `None` past the end.
    #[inline(always)]
    pub fn get(&self, index: u32) -> Option<&T> {
        self.entries.as_slice().get(index as usize)
    }

    /// The entry to change, taken or not; `None` past the end.
    #[inline(always)]
    pub fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        self.entries.as_mut_slice().get_mut(index as usize)
    }

    /// Whether the entry is taken.
    #[inline]
    pub fn is_live(&self, index: u32) -> bool {
        index < self.capacity() && is_set(self.live.as_slice(), index)
    }

    /// The first taken entry at `from` or behind it: for sweeps that go on in a later turn.
    pub fn next_live(&self, from: u32) -> Option<u32> {
        let live = self.live.as_slice();
        let mut at = from as usize / 64;
        let mut word = live.get(at)? & (u64::MAX << (from % 64));
        while word == 0 {
            at += 1;
            word = *live.get(at)?;
        }
        Some((at * 64) as u32 + word.trailing_zeros())
    }

    /// All taken entries by rising index.
    pub fn iter_live(&self) -> impl Iterator<Item = u32> + '_ {
        std::iter::successors(self.next_live(0), |index| self.next_live(index.checked_add(1)?))
    }

    /// Entries taken.
    pub fn len(&self) -> u32 {
        self.capacity() - self.free.len() - self.next.len() as u32
    }

    /// Whether no entry is taken.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Entries there are, taken or not.
    #[inline(always)]
    pub fn capacity(&self) -> u32 {
        self.entries.as_slice().len() as u32
    }

    /// Asks for the entry's lines; in vain past the end.
    #[inline(always)]
    pub fn prefetch(&self, index: u32) {
        prefetch_entry(self.entries.as_slice(), index);
    }

    /// Bytes it takes, rounding up to pages aside.
    pub fn bytes(&self) -> usize {
        let entries = size_of_val(self.entries.as_slice());
        HEADER_BYTES + size_of_val(self.live.as_slice()) + entries + self.free.bytes()
    }

    /// The memory below: what it stands on, and its descriptor.
    pub fn region(&self) -> &Region {
        &self.region
    }
}

/// Where the rows of a slab lie in its region.
struct Places {
    live_words: usize,
    entries_bytes: usize,
    end_bytes: usize,
}

impl Places {
    fn of<T>(capacity: u32) -> Result<Self, MemoryError> {
        let count = capacity as usize;
        if count == 0 || count > FLOWS_PER_WORKER_MAX {
            return Err(refused(capacity));
        }
        // Whole lines of bitmap, so that the entries start at a line too.
        let live_words = count.div_ceil(64).next_multiple_of(8);
        let entries_bytes = HEADER_BYTES + live_words * 8;
        let end_bytes =
            size_of::<T>().checked_mul(count).and_then(|n| n.checked_add(entries_bytes));
        Ok(Places { live_words, entries_bytes, end_bytes: end_bytes.ok_or(refused(capacity))? })
    }
}

/// A bit for each entry that is not live.
fn free_words(live: &[u64], capacity: u32) -> impl ExactSizeIterator<Item = u64> {
    let count = (capacity as usize).div_ceil(64);
    let past = (64 - capacity % 64) % 64;
    live[..count].iter().enumerate().map(move |(at, word)| {
        let valid = if at + 1 == count { u64::MAX >> past } else { u64::MAX };
        !word & valid
    })
}

fn is_set(live: &[u64], index: u32) -> bool {
    live.get(index as usize / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
}

/// Clears what lies behind the last entry: nobody vouches for a predecessor's spare bits.
fn clear_from(live: &mut [u64], capacity: u32) {
    let (whole, part) = (capacity as usize / 64, capacity % 64);
    for (at, word) in live.iter_mut().enumerate().skip(whole) {
        *word &= if at == whole { (1 << part) - 1 } else { 0 };
    }
}

fn refused(capacity: u32) -> MemoryError {
    MemoryError::Capacity { entries: capacity.into(), entries_max: FLOWS_PER_WORKER_MAX as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::FixedArray;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn entries_run_out_and_come_back() {
        let mut slab = Slab::<[u64; 8]>::new(3).unwrap();
        assert_eq!((slab.alloc(), slab.alloc(), slab.alloc()), (Some(0), Some(1), Some(2)));
        assert_eq!((slab.alloc(), slab.len()), (None, 3));
        assert!(slab.free(1));
        assert_eq!((slab.alloc(), slab.alloc()), (Some(1), None));
    }

    #[test]
    fn returning_twice_or_past_the_end_changes_nothing() {
        let mut slab = Slab::<u32>::new(70).unwrap();
        assert!(!slab.free(0));
        let index = slab.alloc().unwrap();
        assert!(slab.free(index));
        assert!(!slab.free(index));
        assert!(!slab.free(70));
        assert!(!slab.free(u32::MAX));
        assert!(slab.is_empty());
    }

    #[test]
    fn entries_keep_their_place_and_alignment() {
        let mut slab = Slab::<[u64; 8]>::new(100).unwrap();
        let index = slab.alloc().unwrap();
        *slab.get_mut(index).unwrap() = [7; 8];
        let address = std::ptr::from_ref(slab.get(index).unwrap()) as usize;
        for _ in 0..50 {
            slab.alloc();
        }
        assert_eq!(slab.get(index), Some(&[7; 8]));
        assert_eq!(std::ptr::from_ref(slab.get(index).unwrap()) as usize, address);
        assert_eq!(address % 64, 0);
        slab.prefetch(index);
        slab.prefetch(100);
    }

    #[test]
    fn next_free_names_what_alloc_will_give() {
        let count = if cfg!(miri) { 600 } else { 5000 };
        let mut slab = Slab::<u8>::new(count).unwrap();
        for round in 0..count {
            let named: Vec<Option<u32>> =
                (0..BURST_FRAMES_MAX as u32).map(|ahead| slab.next_free(ahead)).collect();
            let left = (count - slab.len()) as usize;
            assert_eq!(named.iter().flatten().count(), left.min(BURST_FRAMES_MAX), "{round}");
            for (ahead, named) in named.into_iter().enumerate().take(round as usize % 4) {
                assert_eq!(slab.alloc(), named, "{round}, {ahead} ahead");
            }
            if round % 7 == 0 {
                assert!(slab.free(slab.next_live(round / 2).unwrap_or(0)) || round == 0);
            }
        }
    }

    #[test]
    fn low_entries_are_taken_again_before_untouched_ones() {
        let count = if cfg!(miri) { 4 } else { 20 } * NEXT_MAX as u32;
        let mut slab = Slab::<u8>::new(count).unwrap();
        let taken: BTreeSet<u32> = (0..count / 2).map(|_| slab.alloc().unwrap()).collect();
        taken.iter().for_each(|index| assert!(slab.free(*index)));
        let next: BTreeSet<u32> = (0..count / 2).map(|_| slab.alloc().unwrap()).collect();
        let beyond = next.iter().filter(|index| !taken.contains(index)).count();
        assert!(beyond <= NEXT_MAX, "{beyond} of {count} entries were never touched before");
    }

    #[test]
    fn capacity_outside_the_limit_is_refused() {
        for capacity in [0, FLOWS_PER_WORKER_MAX as u32 + 1, u32::MAX] {
            let error = Slab::<u8>::new(capacity).unwrap_err();
            assert!(matches!(error, MemoryError::Capacity { .. }), "{error}");
        }
    }

    #[test]
    fn adopted_slab_keeps_live_entries_and_hands_out_only_the_others() {
        let mut slab = Slab::<u64>::new(130).unwrap();
        for at in 0..100 {
            let index = slab.alloc().unwrap();
            *slab.get_mut(index).unwrap() = at * 3;
        }
        for index in (0..100).step_by(7) {
            assert!(slab.free(index));
        }
        let before: Vec<u32> = slab.iter_live().collect();
        let Slab { region, .. } = slab;
        let mut slab = Slab::<u64>::adopt(region).unwrap();
        assert_eq!(slab.iter_live().collect::<Vec<_>>(), before);
        assert!(before.iter().all(|index| slab.get(*index) == Some(&(u64::from(*index) * 3))));
        while let Some(index) = slab.alloc() {
            assert!(!before.contains(&index));
        }
        assert_eq!(slab.len(), 130);
    }

    #[test]
    fn spare_bits_of_a_passed_bitmap_are_no_entries() {
        let mut slab = Slab::<u8>::new(70).unwrap();
        slab.alloc();
        slab.live.as_mut_slice().fill(u64::MAX);
        let Slab { region, .. } = slab;
        let slab = Slab::<u8>::adopt(region).unwrap();
        assert_eq!((slab.len(), slab.iter_live().last()), (70, Some(69)));
    }

    #[test]
    #[cfg_attr(any(miri, gyre_heap), ignore = "needs a memfd")]
    fn array_is_not_adopted_as_slab() {
        let array = FixedArray::<u64>::new(8).unwrap();
        let fd = array.region().fd().unwrap();
        let region = Region::from_fd(fd.try_clone_to_owned().unwrap()).unwrap();
        let error = Slab::<u64>::adopt(region).unwrap_err();
        assert!(matches!(error, MemoryError::Mismatch { field: "kind", .. }), "{error}");
    }

    const STEPS_MAX: usize = if cfg!(miri) { 80 } else { 400 };

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: if cfg!(miri) { 4 } else { 64 },
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn slab_agrees_with_a_set(
            steps in prop::collection::vec((0..3u32, 0u32..500), 0..STEPS_MAX),
        ) {
            const CAPACITY: u32 = NEXT_MAX as u32 + 70;
            let mut slab = Slab::<u32>::new(CAPACITY).unwrap();
            let mut model = BTreeSet::new();
            for (step, index) in steps {
                if step == 0 {
                    prop_assert_eq!(slab.free(index), model.remove(&index));
                }
                // Many at once, so that cases reach the end of the table.
                for _ in 0..step * index / 16 {
                    let taken = slab.alloc();
                    prop_assert_eq!(taken.is_none(), model.len() as u32 == CAPACITY);
                    prop_assert!(taken.is_none_or(|index| model.insert(index)));
                }
                prop_assert_eq!(slab.len() as usize, model.len());
                prop_assert_eq!(slab.next_live(index), model.range(index..).next().copied());
            }
            prop_assert!(slab.iter_live().eq(model.iter().copied()));
        }
    }
}
