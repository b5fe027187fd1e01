//! Where a flow's key is found: from a 64-bit hash to the 32-bit values filed under it, one cache
//! line for nearly every look-up. It knows no keys; the caller compares them.
//!
//! A bucket is one line: eight slots of a 16-bit tag and a 32-bit value, and the tags of entries
//! that belong here but live in their second bucket. A look-up that finds its tag in neither
//! list ends there, so a miss touches one line however the table was filled.
//!
//! The second bucket follows from the first and the tag, and a slot says which of the two it is
//! to its entry. So (bucket, tag, guest or not) tells what was kept of the hash, and taking one
//! of a flow's two tuples away cannot strand the other, however they collide.

use super::array::FixedArray;
use super::region::{Backing, MemoryError};
use crate::limits::FLOWS_PER_WORKER_MAX;
use crate::pod_struct;

/// Slots in a bucket: what fits a cache line beside the overflow tags.
const SLOTS: usize = 8;
/// Tags of overflowed entries that a bucket records one by one.
const AWAY_TAGS: usize = 7;
/// From this many entries on a bucket looks at its second choice too. Measured with 1M entries at
/// half load, six seeds each: at 5 some 9 % of entries live in their second bucket, at 6 4.6 %,
/// none refused; at 7 2.1 %, but one or two in a million are refused.
const CROWDED: u32 = 6;
/// Values a table may be asked to hold: two tuples for each flow.
const VALUES_MAX: u64 = 2 * FLOWS_PER_WORKER_MAX as u64;

pod_struct! {
    /// One cache line of the table. Tag 0 marks an empty slot.
    #[repr(align(64))]
    #[derive(Debug)]
    struct Bucket {
        tags: [u16; SLOTS],
        values: [u32; SLOTS],
        /// Tags of entries whose first bucket this is and which live in their second. The last
        /// lane is no tag: its low byte counts those for which no lane was left, its high byte
        /// has a bit for each slot whose entry is a guest (this is its second bucket).
        away: [u16; SLOTS],
    }
}

const _: () = assert!(size_of::<Bucket>() == 64);

/// The table is half full, or both buckets of this hash are: the entry was not filed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("flow index is full; raise `connections` in the configuration")]
pub struct IndexFull;

/// The look-up table: fixed capacity, at most half full, deterministic.
#[derive(Debug)]
pub struct FlowIndex {
    buckets: FixedArray<Bucket>,
    len: u32,
    capacity: u32,
}

/// A hash's places: first bucket and tag. The second bucket follows from both.
#[derive(Clone, Copy)]
struct Place {
    first: usize,
    tag: u16,
}

impl FlowIndex {
    /// Takes memory for a table of at most `capacity` values: 16 bytes for each.
    pub fn new(capacity: u32) -> Result<Self, MemoryError> {
        if capacity == 0 || u64::from(capacity) > VALUES_MAX {
            let entries = capacity.into();
            return Err(MemoryError::Capacity { entries, entries_max: VALUES_MAX });
        }
        // Two buckets at least, so that a second choice exists.
        let buckets = FixedArray::new(capacity.div_ceil(SLOTS as u32 / 2).max(2))?;
        Ok(FlowIndex { buckets, len: 0, capacity })
    }

    /// Asks for the one line that a look-up of `hash` nearly always needs.
    #[inline(always)]
    pub fn prefetch(&self, hash: u64) {
        self.buckets.prefetch(self.place(hash).first as u32);
    }

    /// First look at `hash`, for a burst: the first value whose tag agrees, to prefetch and not to
    /// trust. Where there is none, but one may lie in the second bucket, that line is asked for.
    #[inline(always)]
    pub fn hint(&self, hash: u64) -> Option<u32> {
        let place = self.place(hash);
        let bucket = self.bucket(place.first);
        let first = bucket.own(place.tag).next();
        if first.is_none() && bucket.may_be_away(place.tag) {
            self.buckets.prefetch(self.second(place) as u32);
        }
        first.map(|slot| bucket.values[slot & (SLOTS - 1)])
    }

    /// What `hint` left for later: the first value whose tag agrees in the second bucket.
    #[inline]
    pub fn hint_elsewhere(&self, hash: u64) -> Option<u32> {
        let place = self.place(hash);
        if !self.bucket(place.first).may_be_away(place.tag) {
            return None;
        }
        let bucket = self.bucket(self.second(place));
        bucket.guests(place.tag).next().map(|slot| bucket.values[slot & (SLOTS - 1)])
    }

    /// The value filed under `hash` that `is_match` confirms. Values whose tag agrees by chance
    /// are offered as well (one look-up in some ten thousand).
    #[inline]
    pub fn find(&self, hash: u64, mut is_match: impl FnMut(u32) -> bool) -> Option<u32> {
        let place = self.place(hash);
        let bucket = self.bucket(place.first);
        for slot in bucket.own(place.tag) {
            if is_match(bucket.values[slot]) {
                return Some(bucket.values[slot]);
            }
        }
        if !bucket.may_be_away(place.tag) {
            return None;
        }
        let bucket = self.bucket(self.second(place));
        bucket.guests(place.tag).map(|slot| bucket.values[slot]).find(|value| is_match(*value))
    }

    /// Files `value` under `hash`, once more if it is there already.
    pub fn insert(&mut self, hash: u64, value: u32) -> Result<(), IndexFull> {
        if self.len >= self.capacity {
            return Err(IndexFull);
        }
        let place = self.place(hash);
        let load = self.bucket(place.first).load();
        let second = self.second(place);
        if load >= CROWDED && self.bucket(second).load() < load {
            let buckets = self.buckets.as_mut_slice();
            if buckets[place.first].send_away(place.tag) {
                buckets[second].put(place.tag, value, GUEST);
                self.len += 1;
                return Ok(());
            }
        }
        if load == SLOTS as u32 {
            return Err(IndexFull);
        }
        self.buckets.as_mut_slice()[place.first].put(place.tag, value, OWN);
        self.len += 1;
        Ok(())
    }

    /// Takes `value` from under `hash`; `false` when it is not there. Only pairs that were filed
    /// may be named: of a hash the table keeps no more than bucket and tag.
    pub fn remove(&mut self, hash: u64, value: u32) -> bool {
        let place = self.place(hash);
        let second = self.second(place);
        let buckets = self.buckets.as_mut_slice();
        let own = buckets[place.first].own(place.tag);
        if buckets[place.first].take(own, value) {
            self.len -= 1;
            return true;
        }
        let guests = buckets[second].guests(place.tag);
        if !buckets[place.first].may_be_away(place.tag) || !buckets[second].take(guests, value) {
            return false;
        }
        buckets[place.first].call_back(place.tag);
        self.len -= 1;
        true
    }

    /// Every value filed, once for each time it was filed, in table order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.buckets.as_slice().iter().flat_map(|bucket| {
            let used = !equal_lanes(&bucket.tags, 0) & LANES_ALL;
            Lanes(used).map(|slot| bucket.values[slot])
        })
    }

    /// Forgets everything: the start of a rebuild from a slab.
    pub fn clear(&mut self) {
        let empty = Bucket { tags: [0; SLOTS], values: [0; SLOTS], away: [0; SLOTS] };
        self.buckets.as_mut_slice().fill(empty);
        self.len = 0;
    }

    /// Values filed.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether nothing is filed.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Values that may be filed: half of the slots.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// What the table's memory stands on.
    pub fn backing(&self) -> Backing {
        self.buckets.region().backing()
    }

    #[inline(always)]
    fn place(&self, hash: u64) -> Place {
        let tag = ((hash >> 48) as u16).max(1);
        Place { first: scale(hash as u32, self.bucket_count()), tag }
    }

    /// Never the first: the distance is 1 to `bucket_count - 1`.
    #[inline(always)]
    fn second(&self, place: Place) -> usize {
        let count = self.bucket_count();
        // Fibonacci hashing spreads the tag's bits over the word that `scale` reads from the top.
        let spread = u32::from(place.tag).wrapping_mul(0x9e37_79b9);
        let second = place.first + 1 + scale(spread, count - 1);
        if second >= count { second - count } else { second }
    }

    #[inline(always)]
    fn bucket(&self, at: usize) -> &Bucket {
        &self.buckets.as_slice()[at]
    }

    #[inline(always)]
    fn bucket_count(&self) -> usize {
        self.buckets.as_slice().len()
    }
}

impl Bucket {
    /// Slots in use.
    fn load(&self) -> u32 {
        SLOTS as u32 - equal_lanes(&self.tags, 0).count_ones()
    }

    /// Slots of entries with this tag whose first bucket this is.
    #[inline(always)]
    fn own(&self, tag: u16) -> Lanes {
        Lanes(equal_lanes(&self.tags, tag) & !self.guest_slots())
    }

    /// Slots of entries with this tag whose second bucket this is.
    #[inline(always)]
    fn guests(&self, tag: u16) -> Lanes {
        Lanes(equal_lanes(&self.tags, tag) & self.guest_slots())
    }

    #[inline(always)]
    fn guest_slots(&self) -> u32 {
        u32::from(self.away[AWAY_TAGS] >> 8)
    }

    /// Entries away whose tag has no lane.
    #[inline(always)]
    fn unrecorded(&self) -> u16 {
        self.away[AWAY_TAGS] & UNRECORDED_MAX
    }

    /// Whether an entry with this tag may live in its second bucket.
    #[inline(always)]
    fn may_be_away(&self, tag: u16) -> bool {
        equal_lanes(&self.away, tag) & AWAY_MASK != 0 || self.unrecorded() != 0
    }

    /// Notes that an entry with this tag lives in its second bucket; `false` when no more can be.
    fn send_away(&mut self, tag: u16) -> bool {
        if let Some(lane) = self.away[..AWAY_TAGS].iter_mut().find(|lane| **lane == 0) {
            *lane = tag;
            return true;
        }
        let room = self.unrecorded() < UNRECORDED_MAX;
        self.away[AWAY_TAGS] += u16::from(room);
        room
    }

    /// Undoes one `send_away` of this tag. A tag both recorded and counted may be taken from
    /// either: what stays behind speaks for the other entry.
    fn call_back(&mut self, tag: u16) {
        match self.away[..AWAY_TAGS].iter_mut().find(|lane| **lane == tag) {
            Some(lane) => *lane = 0,
            None => self.away[AWAY_TAGS] -= 1,
        }
    }

    /// Fills an empty slot, of which there is one; `role` is `OWN` or `GUEST`.
    fn put(&mut self, tag: u16, value: u32, role: u16) {
        if let Some(slot) = Lanes(equal_lanes(&self.tags, 0)).next() {
            self.tags[slot] = tag;
            self.values[slot] = value;
            self.away[AWAY_TAGS] |= role << slot;
        }
    }

    /// Empties the slot among `slots` that holds `value`; `false` when none does.
    fn take(&mut self, mut slots: Lanes, value: u32) -> bool {
        let Some(slot) = slots.find(|slot| self.values[*slot] == value) else { return false };
        self.tags[slot] = 0;
        self.away[AWAY_TAGS] &= !(GUEST << slot);
        true
    }
}

/// The mark of slot 0 in the last lane of `away` when its entry is a guest.
const GUEST: u16 = 1 << 8;
/// The most that the last lane's low byte can count.
const UNRECORDED_MAX: u16 = 0xff;
/// No mark: the bucket is the entry's first.
const OWN: u16 = 0;

/// One bit for each of the eight lanes.
const LANES_ALL: u32 = (1 << SLOTS) - 1;
/// The lanes of `away` that hold tags.
const AWAY_MASK: u32 = (1 << AWAY_TAGS) - 1;

/// The set bits of a lane mask, lowest first.
struct Lanes(u32);

impl Iterator for Lanes {
    type Item = usize;
    #[inline(always)]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        // At most 7 by construction; the mask lets the compiler see it.
        let lane = self.0.trailing_zeros() as usize % SLOTS;
        self.0 &= self.0 - 1;
        Some(lane)
    }
}

/// `part / 2^32` of `whole`: a division-free range reduction, so any number of buckets will do.
#[inline(always)]
fn scale(part: u32, whole: usize) -> usize {
    ((u64::from(part) * whole as u64) >> 32) as usize
}

/// A bit for each lane that equals `tag`.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline(always)]
fn equal_lanes(tags: &[u16; SLOTS], tag: u16) -> u32 {
    use std::arch::x86_64::{
        _mm_cmpeq_epi16, _mm_loadu_si128, _mm_movemask_epi8, _mm_packs_epi16, _mm_set1_epi16,
        _mm_setzero_si128,
    };
    // SAFETY: SSE2 is part of x86_64, and the unaligned load reads the array's 16 bytes.
    unsafe {
        let lanes = _mm_loadu_si128(tags.as_ptr().cast());
        let equal = _mm_cmpeq_epi16(lanes, _mm_set1_epi16(tag as i16));
        _mm_movemask_epi8(_mm_packs_epi16(equal, _mm_setzero_si128())) as u32
    }
}

#[cfg(not(all(target_arch = "x86_64", not(miri))))]
#[inline(always)]
fn equal_lanes(tags: &[u16; SLOTS], tag: u16) -> u32 {
    equal_lanes_portable(tags, tag)
}

#[cfg(any(test, miri, not(target_arch = "x86_64")))]
fn equal_lanes_portable(tags: &[u16; SLOTS], tag: u16) -> u32 {
    tags.iter().enumerate().fold(0, |mask, (lane, at)| mask | u32::from(*at == tag) << lane)
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
