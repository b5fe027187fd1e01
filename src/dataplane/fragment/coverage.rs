//! Which bytes of a datagram have been seen: a bit for each eight, since fragments begin at
//! multiples of eight. Exact, of fixed size, and merging costs nothing.

/// Eight-byte units in the largest datagram.
const UNITS: usize = (1 << 16) / 8;
/// Words that a datagram's bits take.
pub(super) const WORDS: usize = UNITS / u64::BITS as usize;

/// What a fragment adds to what was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Added {
    /// Nothing of it was seen.
    New,
    /// All of it was seen.
    Duplicate,
    /// A part of it was seen (RFC 5722).
    Overlap,
}

/// Marks the units `from..to` as seen, unless some of them were.
pub(super) fn add(words: &mut [u64], from: usize, to: usize) -> Added {
    let seen: u32 = masks(from, to)
        .map(|(at, mask)| words.get(at).map_or(0, |word| (word & mask).count_ones()))
        .sum();
    match seen as usize {
        0 => {}
        all if all == to - from => return Added::Duplicate,
        _ => return Added::Overlap,
    }
    for (at, mask) in masks(from, to) {
        if let Some(word) = words.get_mut(at) {
            *word |= mask;
        }
    }
    Added::New
}

/// Each word that `from..to` touches, with the bits it touches there.
fn masks(from: usize, to: usize) -> impl Iterator<Item = (usize, u64)> {
    let bits = u64::BITS as usize;
    (from / bits..to.div_ceil(bits)).map(move |at| {
        let first = from.max(at * bits) % bits;
        let count = to.min((at + 1) * bits) - from.max(at * bits);
        (at, (u64::MAX >> (bits - count)) << first)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parts_seen_before_are_told_from_wholes() {
        let mut words = [0; WORDS];
        assert_eq!(add(&mut words, 60, 70), Added::New);
        assert_eq!(add(&mut words, 70, 128), Added::New);
        assert_eq!(add(&mut words, 60, 128), Added::Duplicate);
        assert_eq!(add(&mut words, 59, 61), Added::Overlap);
        assert_eq!(add(&mut words, 127, 129), Added::Overlap);
        assert_eq!(add(&mut words, 0, 60), Added::New);
        assert_eq!(add(&mut words, 8191, 8192), Added::New);
    }

    proptest! {
        #[test]
        fn agrees_with_a_list_of_units(
            pieces in prop::collection::vec((0..8192usize, 1..300usize), 1..40),
        ) {
            let (mut words, mut units) = ([0; WORDS], [false; UNITS]);
            for (from, count) in pieces {
                let to = (from + count).min(UNITS);
                let seen = units[from..to].iter().filter(|seen| **seen).count();
                let expected = match seen {
                    0 => Added::New,
                    all if all == to - from => Added::Duplicate,
                    _ => Added::Overlap,
                };
                prop_assert_eq!(add(&mut words, from, to), expected);
                if expected == Added::New {
                    units[from..to].fill(true);
                }
            }
        }
    }
}
