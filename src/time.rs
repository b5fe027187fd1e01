//! Time as the packet path sees it: a monotonic count of nanoseconds handed in by the caller.
//!
//! Nothing in here reads a clock. Workers pass the TSC, `replay` passes a capture's timestamps,
//! tests pass what they like.

use std::ops::{Add, Sub};

/// Nanoseconds since an origin that the caller chose; monotonic within one `WorkerState`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nanos(pub u64);

/// Nanoseconds in a millisecond.
pub const NANOS_PER_MILLI: u64 = 1_000_000;
/// Nanoseconds in a second.
pub const NANOS_PER_SECOND: u64 = 1_000_000_000;

impl Nanos {
    /// `seconds` after the origin.
    pub const fn from_secs(seconds: u64) -> Self {
        Nanos(seconds * NANOS_PER_SECOND)
    }

    /// `millis` after the origin.
    pub const fn from_millis(millis: u64) -> Self {
        Nanos(millis * NANOS_PER_MILLI)
    }

    /// Milliseconds since the origin, cut to 32 bits: wraps after 49 days, so compare by
    /// difference only. This is what a flow entry has room for.
    pub const fn as_millis_u32(self) -> u32 {
        (self.0 / NANOS_PER_MILLI) as u32
    }

    /// Nanoseconds from `earlier` to `self`, 0 when `earlier` lies in the future.
    pub const fn since(self, earlier: Nanos) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<u64> for Nanos {
    type Output = Nanos;
    fn add(self, nanos: u64) -> Nanos {
        Nanos(self.0.wrapping_add(nanos))
    }
}

impl Sub<u64> for Nanos {
    type Output = Nanos;
    fn sub(self, nanos: u64) -> Nanos {
        Nanos(self.0.wrapping_sub(nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn millis_wrap_without_losing_the_difference() {
        let before = Nanos::from_millis(u32::MAX as u64 - 5);
        let after = before + 10 * NANOS_PER_MILLI;
        assert_eq!(after.as_millis_u32().wrapping_sub(before.as_millis_u32()), 10);
    }
}
