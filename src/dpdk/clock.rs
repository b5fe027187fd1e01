//! The TSC as a clock: a register read and one multiplication, no syscall.

use dpdk_sys as sys;

use super::eal::Eal;
use crate::time::{NANOS_PER_SECOND, Nanos};

/// Fractional bits of `nanos_per_tick`: at 2.5 GHz it then has 39 significant bits, so the clock
/// loses less than 0.1 ms a year against the rate EAL measured.
const SHIFT: u32 = 40;

/// Nanoseconds since the first clock was made. Clones share origin and rate, so workers' times
/// compare (TSCs of one machine run in step); each clone is monotonic by itself.
#[derive(Clone, Debug)]
pub struct TscClock {
    origin_ticks: u64,
    nanos_per_tick: u64,
    last: Nanos,
}

impl TscClock {
    /// A clock that starts at 0 now, at the rate EAL found for the TSC.
    pub fn new(_eal: &Eal) -> Self {
        // SAFETY: EAL runs, so it has measured the rate; reading the TSC needs nothing.
        let (hz, origin_ticks) = unsafe { (sys::rte_get_tsc_hz(), sys::gyre_tsc()) };
        TscClock { origin_ticks, nanos_per_tick: rate(hz), last: Nanos(0) }
    }

    /// Ticks a second.
    pub fn hz(&self) -> u64 {
        ((u128::from(NANOS_PER_SECOND) << SHIFT) / u128::from(self.nanos_per_tick.max(1))) as u64
    }

    /// The time now; never before an earlier answer of this clock.
    pub fn now(&mut self) -> Nanos {
        // SAFETY: reads a register.
        let ticks = unsafe { sys::gyre_tsc() }.saturating_sub(self.origin_ticks);
        self.last = self.last.max(nanos(ticks, self.nanos_per_tick));
        self.last
    }
}

/// The processor's time stamp counter, for figures in cycles.
pub fn ticks() -> u64 {
    // SAFETY: reads a register.
    unsafe { sys::gyre_tsc() }
}

/// Nanoseconds per tick as a fixed-point number.
fn rate(hz: u64) -> u64 {
    ((u128::from(NANOS_PER_SECOND) << SHIFT) / u128::from(hz.max(1))) as u64
}

fn nanos(ticks: u64, nanos_per_tick: u64) -> Nanos {
    Nanos(((u128::from(ticks) * u128::from(nanos_per_tick)) >> SHIFT) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_year_of_ticks_is_a_year_within_a_millisecond() {
        const YEAR_SECONDS: u64 = 365 * 86_400;
        for hz in [1_000_000_000, 2_100_000_000, 2_499_999_000, 5_000_000_000] {
            let found = nanos(hz * YEAR_SECONDS, rate(hz));
            let error = Nanos::from_secs(YEAR_SECONDS).0.abs_diff(found.0);
            assert!(error < 1_000_000, "{hz} Hz: off by {error} ns");
        }
    }
}
