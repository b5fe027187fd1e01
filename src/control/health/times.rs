//! How long checks took, by kind: a histogram each. Kinds and buckets are few and fixed, however
//! many checks there are.

use std::time::Duration;

use super::names::KINDS;

/// Upper ends of the buckets, in seconds: from a server on the same switch to one that is about to
/// run into a timeout.
const ENDS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// One kind's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spread {
    /// All of them together.
    pub took: Duration,
    /// How many in each bucket; those beyond the last end come last.
    counts: [u64; ENDS.len() + 1],
}

impl Spread {
    /// How many.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Each bucket's upper end in seconds and what is in it.
    pub fn buckets(&self) -> Vec<(f64, u64)> {
        ENDS.into_iter().chain([f64::MAX]).zip(self.counts).collect()
    }
}

/// Of all kinds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times([Spread; KINDS.len()]);

impl Times {
    /// Notes a good round.
    pub fn note(&mut self, kind: &str, took: Duration) {
        let Some(at) = KINDS.iter().position(|known| *known == kind) else { return };
        let spread = &mut self.0[at];
        spread.took += took;
        spread.counts[ENDS.partition_point(|end| *end < took.as_secs_f64())] += 1;
    }

    /// By kind.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, &Spread)> {
        KINDS.into_iter().zip(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_falls_into_the_bucket_whose_end_it_does_not_pass() {
        let mut times = Times::default();
        for micros in [1, 500, 501, 10_000_000, 10_000_001] {
            times.note("icmp", Duration::from_micros(micros));
        }
        let of = |kind: &str| *times.all().find(|(known, _)| *known == kind).unwrap().1;
        assert_eq!((of("icmp").count(), of("tcp").count()), (5, 0));
        let filled: Vec<(f64, u64)> =
            of("icmp").buckets().into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(filled, [(0.0005, 2), (0.001, 1), (10.0, 1), (f64::MAX, 1)]);
        assert_eq!(of("icmp").took.as_micros(), 20_001_003);
    }
}
