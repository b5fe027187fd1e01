//! A set of numbers that gives its lowest members: which entries of a slab nobody holds. One bit a
//! number, and above each word of bits one that says whether it has any, up to a single word.

use super::array::FixedArray;
use super::region::MemoryError;
use crate::limits::FLOWS_PER_WORKER_MAX;

/// Bits of a word.
const WORD_BITS: usize = u64::BITS as usize;
/// Levels of words.
const LEVELS_MAX: usize = 5;

const _: () = assert!(FLOWS_PER_WORKER_MAX <= WORD_BITS.pow(LEVELS_MAX as u32));

/// Numbers below a bound that is fixed when it is made.
#[derive(Debug)]
pub(super) struct NumberSet {
    words: FixedArray<u64>,
    /// Where each level's words begin, the numbers' own first; `levels` of them count.
    starts: [usize; LEVELS_MAX],
    levels: usize,
    len: u32,
}

impl NumberSet {
    /// The set whose bits are `words`, the lowest number in the first word's lowest bit. Takes its
    /// memory for good.
    pub fn new(words: impl ExactSizeIterator<Item = u64>) -> Result<Self, MemoryError> {
        let (mut starts, mut levels, mut end) = ([0; LEVELS_MAX], 0, 0);
        let mut count = words.len();
        for start in &mut starts {
            (*start, levels, end) = (end, levels + 1, end + count);
            if count <= 1 {
                break;
            }
            count = count.div_ceil(WORD_BITS);
        }
        let words_max = u32::try_from(end).unwrap_or(u32::MAX);
        let mut set = NumberSet { words: FixedArray::new(words_max)?, starts, levels, len: 0 };
        for (at, word) in words.enumerate() {
            set.words.as_mut_slice()[at] = word;
            set.len += word.count_ones();
            if word != 0 {
                set.mark_above(at);
            }
        }
        Ok(set)
    }

    /// Adds a number that is not in the set, and below its bound.
    #[inline]
    pub fn insert(&mut self, number: u32) {
        let at = number as usize / WORD_BITS;
        let Some(word) = self.words.as_mut_slice().get_mut(at) else { return };
        let was_empty = *word == 0;
        *word |= 1 << (number as usize % WORD_BITS);
        self.len += 1;
        if was_empty {
            self.mark_above(at);
        }
    }

    /// Takes the lowest numbers out, as many as `out` has room for; returns how many there were.
    pub fn take_lowest(&mut self, out: &mut [u32]) -> usize {
        let mut taken = 0;
        while taken < out.len()
            && let Some(at) = self.lowest_word()
        {
            let word = &mut self.words.as_mut_slice()[at];
            while *word != 0 && taken < out.len() {
                out[taken] = (at * WORD_BITS) as u32 + word.trailing_zeros();
                *word &= *word - 1;
                taken += 1;
            }
            if *word == 0 {
                self.clear_above(at);
            }
        }
        self.len -= taken as u32;
        taken
    }

    /// Numbers in the set.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Bytes it takes, rounding up to pages aside.
    pub fn bytes(&self) -> usize {
        self.words.bytes()
    }

    /// The first word of numbers that is not empty.
    fn lowest_word(&self) -> Option<usize> {
        let words = self.words.as_slice();
        let mut at = 0;
        for level in (1..self.levels).rev() {
            let word = words[self.starts[level] + at];
            if word == 0 {
                return None;
            }
            at = at * WORD_BITS + word.trailing_zeros() as usize;
        }
        (words[at] != 0).then_some(at)
    }

    /// Notes above that the word `at` is no longer empty.
    fn mark_above(&mut self, mut at: usize) {
        for level in 1..self.levels {
            let word = &mut self.words.as_mut_slice()[self.starts[level] + at / WORD_BITS];
            let was_empty = *word == 0;
            *word |= 1 << (at % WORD_BITS);
            if !was_empty {
                return;
            }
            at /= WORD_BITS;
        }
    }

    /// Notes above that the word `at` is empty now.
    fn clear_above(&mut self, mut at: usize) {
        for level in 1..self.levels {
            let word = &mut self.words.as_mut_slice()[self.starts[level] + at / WORD_BITS];
            *word &= !(1 << (at % WORD_BITS));
            if *word != 0 {
                return;
            }
            at /= WORD_BITS;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn empty(words: usize) -> NumberSet {
        NumberSet::new(vec![0; words].into_iter()).unwrap()
    }

    fn lowest(set: &mut NumberSet) -> Option<u32> {
        let mut out = [0];
        (set.take_lowest(&mut out) == 1).then_some(out[0])
    }

    #[test]
    fn lowest_is_found_through_every_level() {
        let words = if cfg!(miri) { 65 } else { 64 * 64 * 64 + 1 };
        let mut set = empty(words);
        let last = (words * WORD_BITS - 1) as u32;
        assert_eq!(lowest(&mut set), None);
        for numbers in [[last, last - 1], [0, last], [63, 64], [4095, 4096], [64, last - 64]] {
            numbers.into_iter().for_each(|number| set.insert(number));
            let (low, high) = (numbers[0].min(numbers[1]), numbers[0].max(numbers[1]));
            assert_eq!((set.len(), lowest(&mut set), lowest(&mut set)), (2, Some(low), Some(high)));
            assert_eq!((set.len(), lowest(&mut set)), (0, None));
        }
    }

    #[test]
    fn made_of_words_it_has_their_numbers() {
        let words = [0, 0b101, u64::MAX, 0];
        let mut set = NumberSet::new(words.into_iter()).unwrap();
        assert_eq!(set.len(), 66);
        let mut out = [0; 100];
        assert_eq!(set.take_lowest(&mut out), 66);
        assert_eq!(out[..4], [64, 66, 128, 129]);
        assert_eq!((out[65], set.len()), (191, 0));
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: if cfg!(miri) { 4 } else { 64 },
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn numbers_agree_with_a_set(
            steps in prop::collection::vec((any::<bool>(), 0u32..70 * 64, 0usize..9), 0..80),
        ) {
            let mut set = empty(70);
            let mut model = BTreeSet::new();
            for (insert, number, count) in steps {
                if insert {
                    if model.insert(number) {
                        set.insert(number);
                    }
                } else {
                    let mut out = [0; 8];
                    let taken = set.take_lowest(&mut out[..count.min(8)]);
                    let wanted: Vec<u32> = model.iter().copied().take(count.min(8)).collect();
                    prop_assert_eq!(&out[..taken], &wanted[..]);
                    wanted.iter().for_each(|number| assert!(model.remove(number)));
                }
                prop_assert_eq!(set.len() as usize, model.len());
            }
        }
    }
}
