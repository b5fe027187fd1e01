//! Cache hints. They never change a result; where the machine has no such instruction they do
//! nothing.

/// Bytes one hint covers.
pub(super) const LINE_BYTES: usize = 64;

/// Asks for the line holding the first byte of `value`, to read it soon.
#[inline(always)]
pub fn prefetch_read<T>(value: &T) {
    hint_read(std::ptr::from_ref(value).cast());
}

/// Asks for the line holding the first byte of `value`, to write it soon.
#[inline(always)]
pub fn prefetch_write<T>(value: &T) {
    hint_write(std::ptr::from_ref(value).cast());
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline(always)]
pub(super) fn hint_read(address: *const i8) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: SSE is part of x86_64, and a prefetch of any address, mapped or not, cannot fault.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(address) }
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline(always)]
fn hint_write(address: *const i8) {
    use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
    // SAFETY: as in `hint_read`; without PREFETCHW it becomes an ordinary prefetch.
    unsafe { _mm_prefetch::<_MM_HINT_ET0>(address) }
}

#[cfg(not(all(target_arch = "x86_64", not(miri))))]
#[inline(always)]
pub(super) fn hint_read(_address: *const i8) {}

#[cfg(not(all(target_arch = "x86_64", not(miri))))]
#[inline(always)]
fn hint_write(_address: *const i8) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_leave_the_value_alone() {
        let value = [1_u64, 2, 3];
        prefetch_read(&value);
        prefetch_write(&value);
        hint_read(std::ptr::without_provenance(8));
        assert_eq!(value, [1, 2, 3]);
    }
}
