//! Tests of the look-up index: against a map, filled to its last value, and under churn.

use super::*;
use proptest::prelude::*;
use std::collections::HashMap;

/// A well mixed, reproducible sequence (SplitMix64).
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Values filed in a full-size run; debug builds and Miri take fewer.
fn many() -> u32 {
    if cfg!(miri) {
        400
    } else if cfg!(debug_assertions) {
        100_000
    } else {
        1_000_000
    }
}

fn away_count(index: &FlowIndex) -> u32 {
    let away = |bucket: &Bucket| {
        let lanes = bucket.away[..AWAY_TAGS].iter().filter(|tag| **tag != 0).count() as u32;
        lanes + u32::from(bucket.unrecorded())
    };
    index.buckets.as_slice().iter().map(away).sum()
}

#[test]
fn vector_compare_equals_the_portable_one() {
    let mut state = 1;
    for _ in 0..if cfg!(miri) { 50 } else { 10_000 } {
        // Few distinct tags, so that lanes often agree; 0x8000 and 0xffff try the sign.
        let tags: [u16; SLOTS] = std::array::from_fn(|_| {
            [0, 1, 2, 0x7fff, 0x8000, 0xffff][random(&mut state) as usize % 6]
        });
        for tag in [0, 1, 2, 0x7fff, 0x8000, 0xffff, 3] {
            assert_eq!(
                equal_lanes(&tags, tag),
                equal_lanes_portable(&tags, tag),
                "{tags:x?} {tag}"
            );
        }
    }
}

/// Share of the entries that live in their second bucket.
fn away_share(index: &FlowIndex) -> f64 {
    f64::from(away_count(index)) / f64::from(index.len())
}

#[test]
fn filled_table_refuses_nothing() {
    let mut index = FlowIndex::new(many()).unwrap();
    let mut state = 7;
    // Share of the capacity, and of the entries that may be away by then.
    for (filled, share_max) in [(0.5, 0.004), (0.8, 0.04), (1.0, 0.09)] {
        for value in index.len()..(f64::from(many()) * filled) as u32 {
            assert_eq!(index.insert(random(&mut state), value), Ok(()), "{value} of {}", many());
        }
        let share = away_share(&index);
        assert!(share < share_max || cfg!(miri), "{share} are away at {filled}");
    }
    assert_eq!(index.insert(1, 1), Err(IndexFull));
    assert_eq!(index.len(), many());
    let mut state = 7;
    for value in 0..many() {
        assert_eq!(index.find(random(&mut state), |at| at == value), Some(value));
    }
}

#[test]
fn small_tables_take_what_they_were_made_for() {
    let capacities = if cfg!(miri) { 1..20 } else { 1..600 };
    for capacity in capacities {
        let mut index = FlowIndex::new(capacity).unwrap();
        let mut state = u64::from(capacity);
        for value in 0..capacity {
            assert_eq!(index.insert(random(&mut state), value), Ok(()), "{value} of {capacity}");
        }
        assert_eq!(index.iter().count(), capacity as usize);
    }
}

/// Whether a look-up that finds nothing in the first line has to look at another.
fn goes_on(index: &FlowIndex, hash: u64) -> bool {
    let place = index.place(hash);
    index.bucket(place.first).may_be_away(place.tag)
}

#[test]
fn misses_stay_in_the_first_line() {
    let mut index = FlowIndex::new(many()).unwrap();
    let mut state = 7;
    for value in 0..many() {
        index.insert(random(&mut state), value).unwrap();
    }
    let missed = (0..many()).filter(|_| goes_on(&index, random(&mut state))).count();
    assert!(missed as f64 <= f64::from(many()) * 0.001, "{missed} misses took a second line");
}

#[test]
fn steady_churn_of_a_full_table_refuses_nothing_and_sends_no_more_away() {
    let count = many() / 4;
    let mut index = FlowIndex::new(count).unwrap();
    let (mut newest, mut oldest) = (11, 11);
    for value in 0..count {
        index.insert(random(&mut newest), value).unwrap();
    }
    for value in 0..6 * count {
        assert!(index.remove(random(&mut oldest), value));
        assert_eq!(index.insert(random(&mut newest), count + value), Ok(()));
    }
    assert_eq!(index.len(), count);
    let share = away_share(&index);
    assert!(share < 0.1 || cfg!(miri), "{share} of the entries live in their second bucket");
    for value in 6 * count..7 * count {
        assert!(index.remove(random(&mut oldest), value));
    }
    assert_eq!((index.len(), away_count(&index), index.iter().count()), (0, 0, 0));
}

#[test]
fn entry_that_is_away_comes_home_when_a_slot_is_free() {
    let mut index = FlowIndex::new(1000).unwrap();
    (0..9).for_each(|value| index.insert(42, value).unwrap());
    assert_eq!((away_count(&index), index.hint_elsewhere(42)), (1, Some(8)));
    assert!(index.remove(42, 3));
    assert_eq!((away_count(&index), index.hint_elsewhere(42)), (0, None));
    for value in [0, 1, 2, 4, 5, 6, 7, 8] {
        assert_eq!(index.find(42, |at| at == value), Some(value));
    }
}

#[test]
fn entries_make_way_where_both_buckets_are_full() {
    // Eight entries in the first bucket, one of which has another second; eight in the others'.
    let mut index = FlowIndex::new(1000).unwrap();
    let other_tag = 42 | 5 << 48;
    let other = index.place(other_tag);
    assert_eq!(other.first, index.place(42).first);
    assert_ne!(index.second(other), index.second(index.place(42)));
    index.insert(other_tag, 100).unwrap();
    (0..15).for_each(|value| index.insert(42, value).unwrap());
    assert_eq!(index.hint(other_tag), Some(100));
    assert_eq!(index.insert(42, 15), Ok(()));
    assert_eq!((index.hint(other_tag), index.hint_elsewhere(other_tag)), (None, Some(100)));
    assert!((0..16).all(|value| index.find(42, |at| at == value) == Some(value)));
    assert_eq!(index.insert(42, 16), Err(IndexFull));
}

#[test]
fn one_hash_fills_two_buckets_and_is_then_refused() {
    let mut index = FlowIndex::new(1000).unwrap();
    for value in 0..16 {
        assert_eq!(index.insert(42, value), Ok(()));
    }
    assert_eq!(index.insert(42, 16), Err(IndexFull));
    for value in 0..16 {
        assert_eq!(index.find(42, |at| at == value), Some(value));
    }
    assert_eq!(index.find(42, |_| false), None);
    assert_eq!(index.hint(42), Some(0));
    assert!(goes_on(&index, 42));
    for value in (0..16).rev() {
        assert!(index.remove(42, value));
        assert!(!index.remove(42, value));
    }
    assert!(index.is_empty() && index.hint(42).is_none() && !goes_on(&index, 42));
}

#[test]
fn collision_of_one_flows_two_tuples_strands_neither() {
    // Two buckets: each is the other's second. Both tuples have one tag, and both are away.
    let mut index = FlowIndex::new(8).unwrap();
    let (one, other) = (0, 1 << 31);
    assert_ne!(index.place(one).first, index.place(other).first);
    for bucket in index.buckets.as_mut_slice() {
        assert!(bucket.send_away(1));
        bucket.put(1, 7, GUEST);
    }
    index.len = 2;
    assert!(index.remove(other, 7));
    assert_eq!((index.find(one, |_| true), index.find(other, |_| true)), (Some(7), None));
    assert!(index.remove(one, 7));
    assert_eq!((index.iter().count(), away_count(&index)), (0, 0));
}

#[test]
fn entries_away_are_bounded_and_all_found() {
    // Every tag of one bucket: they spread over the second buckets until the count is full.
    let mut index = FlowIndex::new(4_000).unwrap();
    let filed = (1..2000).take_while(|tag| index.insert(u64::from(*tag) << 48, *tag).is_ok());
    let filed = filed.count() as u32;
    assert_eq!(filed, 8 + AWAY_TAGS as u32 + 255);
    for tag in 1..=filed {
        assert_eq!(index.find(u64::from(tag) << 48, |_| true), Some(tag));
    }
    for tag in 1..=filed {
        assert!(index.remove(u64::from(tag) << 48, tag));
    }
    assert_eq!((index.iter().count(), away_count(&index)), (0, 0));
}

#[test]
fn second_bucket_is_never_the_first() {
    for capacity in [1, 8, 9, 13, 4096, 100_003] {
        let index = FlowIndex::new(capacity).unwrap();
        let mut state = 3;
        for _ in 0..if cfg!(miri) { 20 } else { 2000 } {
            let place = index.place(random(&mut state));
            let second = index.second(place);
            assert!(second < index.bucket_count() && second != place.first);
        }
    }
}

#[test]
fn capacity_outside_the_limit_is_refused() {
    for capacity in [0, VALUES_MAX as u32 + 1] {
        assert!(matches!(FlowIndex::new(capacity), Err(MemoryError::Capacity { .. })));
    }
}

#[test]
fn cleared_table_is_empty_and_takes_all_again() {
    let mut index = FlowIndex::new(64).unwrap();
    for round in 0..3 {
        for value in 0..40 {
            index
                .insert((u64::from(value) << 40) | (u64::from(value) * 0x0800_0000), value)
                .unwrap();
        }
        assert_eq!((index.len(), index.iter().count()), (40, 40), "round {round}");
        index.clear();
        assert_eq!((index.len(), index.iter().count(), away_count(&index)), (0, 0, 0));
    }
}

/// Hashes that collide in bucket, in tag, or in both: twelve parts of the table, three tags.
fn hash_of(number: u32) -> u64 {
    (u64::from(number % 12) << 28) | (u64::from(number / 12 % 3) << 48)
}

/// Steps of one property case.
const STEPS_MAX: usize = if cfg!(miri) { 60 } else { 400 };

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 3 } else { 256 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn index_agrees_with_a_map(
        steps in prop::collection::vec((any::<bool>(), 0u32..36 * 8), 0..STEPS_MAX),
        capacity in 1u32..120,
    ) {
        let mut index = FlowIndex::new(capacity).unwrap();
        let mut model: HashMap<u32, u32> = HashMap::new();
        let mut filed = 0;
        for (insert, value) in steps {
            let count = model.entry(value).or_default();
            if insert {
                let done = index.insert(hash_of(value), value).is_ok();
                prop_assert!(done || filed >= 8 || filed == capacity);
                *count += u32::from(done);
                filed += u32::from(done);
            } else {
                let done = index.remove(hash_of(value), value);
                prop_assert_eq!(done, *count > 0);
                *count -= u32::from(done);
                filed -= u32::from(done);
            }
            prop_assert_eq!(index.len(), filed);
            prop_assert!(filed <= capacity);
        }
        for (value, count) in &model {
            let found = index.find(hash_of(*value), |at| at == *value);
            prop_assert_eq!(found, (*count > 0).then_some(*value));
        }
        let mut values: Vec<u32> = index.iter().collect();
        values.sort_unstable();
        let mut wanted: Vec<u32> =
            model.iter().flat_map(|(value, count)| vec![*value; *count as usize]).collect();
        wanted.sort_unstable();
        prop_assert_eq!(values, wanted);
    }

    #[test]
    fn value_under_two_hashes_is_found_by_each_until_removed(
        steps in prop::collection::vec((0u32..36, 0u32..36), 0..STEPS_MAX),
        capacity in 8u32..64,
    ) {
        let mut index = FlowIndex::new(capacity).unwrap();
        let mut flows = [None; 16];
        for (at, (one, other)) in steps.into_iter().enumerate() {
            let value = at as u32 % 16;
            let flow = &mut flows[value as usize];
            if let Some((one, other)) = flow.take() {
                prop_assert!(index.remove(hash_of(one), value));
                prop_assert_eq!(index.find(hash_of(other), |at| at == value), Some(value));
                prop_assert!(index.remove(hash_of(other), value));
            } else if index.insert(hash_of(one), value).is_ok() {
                if index.insert(hash_of(other), value).is_ok() {
                    *flow = Some((one, other));
                } else {
                    prop_assert!(index.remove(hash_of(one), value));
                }
            }
            for (value, flow) in flows.iter().enumerate() {
                for number in flow.iter().flat_map(|(one, other)| [*one, *other]) {
                    let found = index.find(hash_of(number), |at| at == value as u32);
                    prop_assert_eq!(found, Some(value as u32));
                }
            }
        }
    }

    #[test]
    fn a_hint_holds_what_find_finds(hashes in prop::collection::vec(any::<u64>(), 1..65)) {
        let mut index = FlowIndex::new(128).unwrap();
        for (value, hash) in hashes.iter().enumerate() {
            index.insert(*hash, value as u32).unwrap();
        }
        for (value, hash) in hashes.iter().enumerate() {
            prop_assert_eq!(index.find(*hash, |at| at == value as u32), Some(value as u32));
            // What is hinted at has the tag, if not always the whole hash.
            let hint = index.hint(*hash);
            prop_assert_eq!(hint, hint.and_then(|hint| index.find(*hash, |at| at == hint)));
            prop_assert!(hint.or_else(|| index.hint_elsewhere(*hash)).is_some());
        }
    }
}
