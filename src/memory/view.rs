//! A typed, bounds-checked row of entries inside a region. Private: its owner keeps the region.

use super::pod::Pod;
use super::region::Region;
use std::ptr::NonNull;

/// `len` entries of `T` somewhere in a region that the same owner holds.
#[derive(Debug)]
pub(super) struct View<T> {
    base: NonNull<T>,
    len: usize,
}

// SAFETY: a view is an exclusive row of `Pod` entries (which are Send), like a `Box<[T]>`.
unsafe impl<T: Pod> Send for View<T> {}
// SAFETY: `&View` only gives `&[T]`, and `Pod` entries are Sync.
unsafe impl<T: Pod> Sync for View<T> {}

impl<T: Pod> View<T> {
    /// A view of `len` entries from `offset_bytes` on; `None` when they do not fit or the place
    /// is not aligned.
    ///
    /// # Safety
    ///
    /// The caller keeps `region` as long as the view, and no two views of it overlap.
    pub unsafe fn new(region: &Region, offset_bytes: usize, len: usize) -> Option<Self> {
        let end = len.checked_mul(size_of::<T>())?.checked_add(offset_bytes)?;
        if end > region.bytes() {
            return None;
        }
        // SAFETY: `offset_bytes <= end <= region.bytes()`, so the place lies in the map.
        let base: NonNull<T> = unsafe { region.base().add(offset_bytes) }.cast();
        base.is_aligned().then_some(View { base, len })
    }

    #[inline(always)]
    pub fn as_slice(&self) -> &[T] {
        // SAFETY: `new` checked that the row lies in the map and is aligned, any bytes are a `T`,
        // and `&self` keeps the owner from handing out `&mut` to it.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }

    #[inline(always)]
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: as in `as_slice`; `&mut self` makes it the only one.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.len) }
    }
}
