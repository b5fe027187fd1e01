//! Slots: small numbers that are given out, held, and given out again only when freed.

use std::collections::VecDeque;

/// Gives out numbers below a bound. Freed numbers come back oldest first, so that one is reused
/// as late as possible.
#[derive(Debug)]
pub(super) struct Slots {
    free: VecDeque<u32>,
    next: u32,
    max: u32,
}

impl Slots {
    /// All of `0..max` free.
    pub(super) fn new(max: usize) -> Self {
        let max = u32::try_from(max).unwrap_or(u32::MAX);
        Slots { free: VecDeque::new(), next: 0, max }
    }

    /// How many can still be taken.
    pub(super) fn left(&self) -> usize {
        self.free.len() + (self.max - self.next) as usize
    }

    /// One past the highest that was ever taken.
    pub(super) fn end(&self) -> usize {
        self.next as usize
    }

    /// How many are held.
    pub(super) fn taken(&self) -> usize {
        self.next as usize - self.free.len()
    }

    /// Takes a slot; `None` when all are held.
    pub(super) fn take(&mut self) -> Option<u32> {
        if let Some(slot) = self.free.pop_front() {
            return Some(slot);
        }
        let slot = self.next;
        (slot < self.max).then(|| {
            self.next += 1;
            slot
        })
    }

    /// Gives a slot back.
    pub(super) fn free(&mut self, slot: u32) {
        debug_assert!(slot < self.next && !self.free.contains(&slot), "slot {slot} freed twice");
        self.free.push_back(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_is_none_and_freed_slots_return() {
        let mut slots = Slots::new(2);
        assert_eq!((slots.take(), slots.take(), slots.take()), (Some(0), Some(1), None));
        slots.free(1);
        assert_eq!((slots.taken(), slots.left()), (1, 1));
        assert_eq!((slots.take(), slots.taken(), slots.left()), (Some(1), 2, 0));
    }
}
