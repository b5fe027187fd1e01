//! A fixed number of entries with stable indexes, handed out and taken back. It does not know
//! which entry a key belongs to: that is `index`, rebuilt from here.

use super::array::{FixedArray, prefetch_entry};
use super::header::{HEADER_BYTES, Header, Kind};
use super::pod::Pod;
use super::region::{MemoryError, Region};
use super::view::View;
use crate::limits::FLOWS_PER_WORKER_MAX;

/// Entries with stable indexes in one region: a header, a bitmap of live entries, the entries.
///
/// Taking and returning an entry touches the bitmap (one bit each) and a stack of free indexes,
/// never the entry's own lines. The stack is rebuilt from the bitmap on adoption.
#[derive(Debug)]
pub struct Slab<T> {
    live: View<u64>,
    entries: View<T>,
    free: FixedArray<u32>,
    free_len: u32,
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
        let mut slab = Slab {
            live: live.ok_or(refused(capacity))?,
            entries: entries.ok_or(refused(capacity))?,
            free: FixedArray::new(capacity)?,
            free_len: 0,
            region,
        };
        clear_from(slab.live.as_mut_slice(), capacity);
        // From the top, so that the lowest index is handed out first.
        for index in (0..capacity).rev().filter(|index| !is_set(slab.live.as_slice(), *index)) {
            slab.free[slab.free_len] = index;
            slab.free_len += 1;
        }
        Ok(slab)
    }

    /// Takes a free entry, most recently returned first; `None` when all are taken. It still
    /// holds what it held last: the caller writes all of it.
    #[inline]
    pub fn alloc(&mut self) -> Option<u32> {
        let top = self.free_len.checked_sub(1)?;
        let index = *self.free.get(top)?;
        self.free_len = top;
        *self.live.as_mut_slice().get_mut(index as usize / 64)? |= 1 << (index % 64);
        Some(index)
    }

    /// The entry that `alloc` would give once `ahead` others have been given.
    #[inline]
    pub fn next_free(&self, ahead: u32) -> Option<u32> {
        self.free.get(self.free_len.checked_sub(ahead)?.checked_sub(1)?).copied()
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
        if let Some(top) = self.free.get_mut(self.free_len) {
            *top = index;
            self.free_len += 1;
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
        self.capacity() - self.free_len
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

    /// Asks for the entry's lines; nothing past the end.
    #[inline(always)]
    pub fn prefetch(&self, index: u32) {
        prefetch_entry(self.entries.as_slice(), index);
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
            steps in prop::collection::vec((any::<bool>(), 0u32..150), 0..STEPS_MAX),
        ) {
            let mut slab = Slab::<u32>::new(129).unwrap();
            let mut model = BTreeSet::new();
            for (take, index) in steps {
                if take {
                    let taken = slab.alloc();
                    prop_assert_eq!(taken.is_none(), model.len() == 129);
                    prop_assert!(taken.is_none_or(|index| model.insert(index)));
                } else {
                    prop_assert_eq!(slab.free(index), model.remove(&index));
                }
                prop_assert_eq!(slab.len() as usize, model.len());
                prop_assert_eq!(slab.next_live(index), model.range(index..).next().copied());
            }
            prop_assert!(slab.iter_live().eq(model.iter().copied()));
        }
    }
}
