//! Identifications of packets that may be cut into pieces, which the director gives itself.
//!
//! Each worker has a part of IPv4's 16 bits to itself, so that no two of them give one at the same
//! time, whatever their number; in IPv6's 32 the upper half counts how often it went through its
//! part.

use crate::model::WorkerId;

/// What 16 bits can tell apart.
const SPACE: u32 = 1 << 16;

/// One worker's identifications.
#[derive(Clone, Copy, Debug)]
pub(super) struct Identifications {
    first: u32,
    count: u32,
    /// Place in the part, and rounds through it.
    at: u32,
    rounds: u16,
}

impl Identifications {
    /// Those of one of `workers`, from a place that `seed` says.
    pub fn new(worker: WorkerId, workers: u8, seed: u64) -> Self {
        let count = SPACE / u32::from(workers.max(1));
        let first = count * u32::from(worker.0);
        Identifications { first, count, at: seed as u32 % count, rounds: (seed >> 32) as u16 }
    }

    /// The next one; its lower half serves IPv4.
    #[inline]
    pub fn next(&mut self) -> u32 {
        self.at += 1;
        if self.at >= self.count {
            (self.at, self.rounds) = (0, self.rounds.wrapping_add(1));
        }
        u32::from(self.rounds) << 16 | (self.first + self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_of_any_number_never_give_the_same_identification() {
        for workers in [1, 2, 3, 5, 8, 64, 255] {
            let mut givers = vec![None; SPACE as usize];
            for worker in 0..workers {
                let mut ids = Identifications::new(WorkerId(worker), workers, u64::MAX - 7);
                let first = ids.next();
                let all = std::iter::once(first).chain((1..ids.count).map(|_| ids.next()));
                for id in all.collect::<Vec<_>>() {
                    let giver = &mut givers[id as u16 as usize];
                    assert_eq!(giver.replace(worker), None, "{id:#x} of {worker} of {workers}");
                }
                assert_eq!(ids.next(), first.wrapping_add(SPACE), "the same again, a round later");
            }
        }
    }
}
