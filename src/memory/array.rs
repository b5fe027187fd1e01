//! A row of entries without an allocator: for arrays that run parallel to a slab at the same
//! index, and for tables that manage their own places.

use super::header::{HEADER_BYTES, Header, Kind};
use super::pod::Pod;
use super::region::{MemoryError, Region};
use super::view::View;
use std::ops::{Index, IndexMut};

/// `capacity` zeroed entries of `T` in a region of their own. Entries start at a cache line, so
/// those whose size is a multiple of 64 bytes are aligned to one.
#[derive(Debug)]
pub struct FixedArray<T> {
    entries: View<T>,
    region: Region,
}

impl<T: Pod> FixedArray<T> {
    /// Takes memory for `capacity` entries, all bytes zero.
    pub fn new(capacity: u32) -> Result<Self, MemoryError> {
        let region = Region::new(table_bytes::<T>(capacity)?)?;
        // SAFETY: this view is gone before the one in `over` is made.
        let header = unsafe { View::<Header>::new(&region, 0, 1) };
        header.ok_or(refused(capacity))?.as_mut_slice()[0] = Header::of::<T>(Kind::Array, capacity);
        Self::over(region, capacity)
    }

    /// Takes over a predecessor's array with its content; `Mismatch` when it is of another kind.
    pub fn adopt(region: Region) -> Result<Self, MemoryError> {
        // SAFETY: this view is gone before the one in `over` is made.
        let header = unsafe { View::<Header>::new(&region, 0, 1) }.ok_or(refused(0))?;
        let header = header.as_slice()[0];
        header.check::<T>(Kind::Array)?;
        Self::over(region, header.capacity)
    }

    fn over(region: Region, capacity: u32) -> Result<Self, MemoryError> {
        // SAFETY: the region moves into the same value, and this is its only view from now on.
        let entries = unsafe { View::new(&region, HEADER_BYTES, capacity as usize) };
        Ok(FixedArray { entries: entries.ok_or(refused(capacity))?, region })
    }

    /// The entry, or `None` past the end.
    #[inline(always)]
    pub fn get(&self, index: u32) -> Option<&T> {
        self.as_slice().get(index as usize)
    }

    /// The entry to change, or `None` past the end.
    #[inline(always)]
    pub fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        self.as_mut_slice().get_mut(index as usize)
    }

    /// All entries.
    #[inline(always)]
    pub fn as_slice(&self) -> &[T] {
        self.entries.as_slice()
    }

    /// All entries, to change.
    #[inline(always)]
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        self.entries.as_mut_slice()
    }

    /// Number of entries.
    pub fn capacity(&self) -> u32 {
        self.as_slice().len() as u32
    }

    /// Asks for the entry's lines; in vain past the end.
    #[inline(always)]
    pub fn prefetch(&self, index: u32) {
        prefetch_entry(self.as_slice(), index);
    }

    /// Bytes it takes, rounding up to pages aside.
    pub fn bytes(&self) -> usize {
        HEADER_BYTES + size_of_val(self.as_slice())
    }

    /// The memory below: what it stands on, and its descriptor.
    pub fn region(&self) -> &Region {
        &self.region
    }
}

impl<T: Pod> Index<u32> for FixedArray<T> {
    type Output = T;
    #[inline(always)]
    fn index(&self, index: u32) -> &T {
        &self.as_slice()[index as usize]
    }
}

impl<T: Pod> IndexMut<u32> for FixedArray<T> {
    #[inline(always)]
    fn index_mut(&mut self, index: u32) -> &mut T {
        &mut self.as_mut_slice()[index as usize]
    }
}

/// Asks for every line of one entry: the loop's count is known when compiling. Which entry is not
/// checked: what lies past the end is not read, only perhaps asked for in vain.
#[inline(always)]
pub(super) fn prefetch_entry<T>(entries: &[T], index: u32) {
    let address = entries.as_ptr().wrapping_add(index as usize).cast::<i8>();
    for line in 0..size_of::<T>().div_ceil(super::prefetch::LINE_BYTES) {
        super::prefetch::hint_read(address.wrapping_add(line * super::prefetch::LINE_BYTES));
    }
}

fn table_bytes<T>(capacity: u32) -> Result<usize, MemoryError> {
    let entries = size_of::<T>().checked_mul(capacity as usize);
    match entries.and_then(|bytes| bytes.checked_add(HEADER_BYTES)) {
        Some(bytes) if capacity > 0 => Ok(bytes),
        _ => Err(refused(capacity)),
    }
}

fn refused(capacity: u32) -> MemoryError {
    MemoryError::Capacity { entries: capacity.into(), entries_max: u32::MAX.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn array_starts_zeroed_and_ends_at_its_capacity() {
        let mut array = FixedArray::<[u32; 4]>::new(10).unwrap();
        assert!(array.as_slice().iter().all(|entry| *entry == [0; 4]));
        array[9] = [1, 2, 3, 4];
        assert_eq!(array.get(9), Some(&[1, 2, 3, 4]));
        assert_eq!(array.get(10), None);
        assert_eq!(array.get_mut(u32::MAX), None);
        assert_eq!(array.capacity(), 10);
        array.prefetch(9);
        array.prefetch(10);
    }

    #[test]
    fn line_sized_entries_are_line_aligned() {
        let array = FixedArray::<[u64; 8]>::new(3).unwrap();
        for entry in array.as_slice() {
            assert_eq!(std::ptr::from_ref(entry) as usize % 64, 0);
        }
    }

    #[test]
    fn empty_array_is_refused() {
        assert!(matches!(FixedArray::<u32>::new(0), Err(MemoryError::Capacity { .. })));
    }

    #[test]
    fn array_of_another_entry_is_not_adopted() {
        let FixedArray { region, .. } = FixedArray::<u32>::new(4).unwrap();
        let error = FixedArray::<u64>::adopt(region).unwrap_err();
        assert!(matches!(error, MemoryError::Mismatch { field: "entry size", .. }), "{error}");
    }

    #[test]
    fn capacity_beyond_the_map_is_not_adopted() {
        let FixedArray { region, .. } = FixedArray::<u32>::new(4).unwrap();
        // SAFETY: the array's own view is gone.
        let mut header = unsafe { View::<Header>::new(&region, 0, 1) }.unwrap();
        header.as_mut_slice()[0].capacity = u32::MAX;
        assert!(matches!(FixedArray::<u32>::adopt(region), Err(MemoryError::Capacity { .. })));
    }
}
