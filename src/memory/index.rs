//! Where a flow's key is found: from a 64-bit hash to the 32-bit values filed under it, one cache
//! line for nearly every look-up. It knows no keys; the caller compares them.
//!
//! A bucket is one line: eight slots of a 16-bit tag and a 32-bit value, and the tags of entries
//! that belong here but live in their second bucket. A look-up that finds its tag in neither
//! list ends there, so a miss touches one line however the table was filled.
//!
//! The second bucket follows from the first and the tag, and a slot says which of the two it is
//! to its entry. So (bucket, tag, guest or not) tells what was kept of the hash, and taking one
//! of a flow's two tuples away cannot strand the other, however they collide. And an entry's other
//! bucket is known without its key: where both buckets of a new entry are full, one that is there
//! moves to its other bucket; where a slot comes free, an entry that is away comes home.
//!
//! So the table may be four fifths full. Of its entries live in their second bucket, each at the
//! cost of one more line: 0.25 % where four tenths of the slots are used, 2.9 % at 64 %, 4.7 % at
//! 71 %, 7.8 % at 80 %, and no more after each was replaced thirty times (8.1 %). With one and with
//! ten million values, several seeds each, no insertion was refused.

use super::array::FixedArray;
use super::region::{Backing, MemoryError};
use crate::limits::FLOWS_PER_WORKER_MAX;
use crate::pod_struct;

/// Slots in a bucket: what fits a cache line beside the overflow tags.
const SLOTS: usize = 8;
/// Tags of overflowed entries that a bucket records one by one.
const AWAY_TAGS: usize = 7;
/// How full a table may be: this many values ...
const FULL_VALUES: u64 = 32;
/// ... in so many buckets, which is four fifths of their slots.
const FULL_BUCKETS: u64 = 5;
/// Entries that may move, one for the other, to make room for a new one.
const MOVES_MAX: u32 = 2;
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

/// The table is full, or both buckets of this hash are and nothing in them can move: the entry was
/// not filed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("flow index is full; raise `connections` in the configuration")]
pub struct IndexFull;

/// The look-up table: fixed capacity, at most four fifths full, deterministic.
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
    /// Takes memory for a table of at most `capacity` values: 10 bytes for each.
    pub fn new(capacity: u32) -> Result<Self, MemoryError> {
        if capacity == 0 || u64::from(capacity) > VALUES_MAX {
            let entries = capacity.into();
            return Err(MemoryError::Capacity { entries, entries_max: VALUES_MAX });
        }
        let buckets = (u64::from(capacity) * FULL_BUCKETS).div_ceil(FULL_VALUES);
        // Two at least, so that a second choice exists.
        let buckets = FixedArray::new(buckets.max(2) as u32)?;
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
        if !self.bucket(place.first).is_full() {
            self.buckets.as_mut_slice()[place.first].put(place.tag, value, OWN);
            self.len += 1;
            return Ok(());
        }
        self.insert_elsewhere(place, value)
    }

    /// Files a value whose first bucket is full: in its second bucket, or where another moves.
    #[cold]
    fn insert_elsewhere(&mut self, place: Place, value: u32) -> Result<(), IndexFull> {
        let second = self.second(place);
        for moves in 0..=MOVES_MAX {
            if self.make_room(place.first, moves) {
                self.buckets.as_mut_slice()[place.first].put(place.tag, value, OWN);
                self.len += 1;
                return Ok(());
            }
            let has_room = self.make_room(second, moves);
            let buckets = self.buckets.as_mut_slice();
            if has_room && buckets[place.first].send_away(place.tag) {
                buckets[second].put(place.tag, value, GUEST);
                self.len += 1;
                return Ok(());
            }
        }
        Err(IndexFull)
    }

    /// Takes `value` from under `hash`; `false` when it is not there. Only pairs that were filed
    /// may be named: of a hash the table keeps no more than bucket and tag.
    pub fn remove(&mut self, hash: u64, value: u32) -> bool {
        let place = self.place(hash);
        let second = self.second(place);
        let buckets = self.buckets.as_mut_slice();
        let own = buckets[place.first].own(place.tag);
        let freed = if buckets[place.first].take(own, value) {
            place.first
        } else {
            let guests = buckets[second].guests(place.tag);
            if !buckets[place.first].may_be_away(place.tag) || !buckets[second].take(guests, value)
            {
                return false;
            }
            buckets[place.first].call_back(place.tag);
            second
        };
        self.len -= 1;
        self.bring_home(freed);
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

    /// Values that may be filed: four fifths of the slots, and no more than were asked for.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Bytes it takes, rounding up to pages aside.
    pub fn bytes(&self) -> usize {
        self.buckets.bytes()
    }

    /// What the table's memory stands on.
    pub fn backing(&self) -> Backing {
        self.buckets.region().backing()
    }

    /// Whether a bucket has an empty slot, now or once up to `moves` entries have moved, one for
    /// the other. Guests are tried first: they go home, where one line finds them.
    fn make_room(&mut self, at: usize, moves: u32) -> bool {
        let bucket = self.bucket(at);
        if !bucket.is_full() {
            return true;
        }
        let guests = bucket.guest_slots();
        moves > 0
            && Lanes(guests).chain(Lanes(!guests & LANES_ALL)).any(|slot| {
                let other = self.other(at, slot);
                // What moves there goes elsewhere: `at` is full.
                self.make_room(other, moves - 1) && self.relocate(at, slot, other)
            })
    }

    /// Moves an entry to its other bucket, which has an empty slot; `false`, and nothing changes,
    /// when its first can note no more entries away.
    fn relocate(&mut self, at: usize, slot: usize, other: usize) -> bool {
        let buckets = self.buckets.as_mut_slice();
        let (tag, value) = (buckets[at].tags[slot], buckets[at].values[slot]);
        let role = if buckets[at].is_guest(slot) {
            buckets[other].call_back(tag);
            OWN
        } else if buckets[at].send_away(tag) {
            GUEST
        } else {
            return false;
        };
        buckets[at].empty(slot);
        buckets[other].put(tag, value, role);
        true
    }

    /// Fills a slot that came free with an entry that lives in its second bucket for want of it.
    fn bring_home(&mut self, at: usize) {
        let away = &self.bucket(at).away;
        let recorded = !equal_lanes(away, 0) & AWAY_MASK;
        let Some(tag) = Lanes(recorded).next().map(|lane| away[lane]) else { return };
        let second = self.second(Place { first: at, tag });
        if let Some(slot) = self.bucket(second).guests(tag).next() {
            self.relocate(second, slot, at);
        }
    }

    /// The bucket that the entry in a slot may live in besides.
    fn other(&self, at: usize, slot: usize) -> usize {
        let bucket = self.bucket(at);
        let place = Place { first: at, tag: bucket.tags[slot] };
        if !bucket.is_guest(slot) {
            return self.second(place);
        }
        let distance = self.distance(place.tag);
        if at >= distance { at - distance } else { at + self.bucket_count() - distance }
    }

    #[inline(always)]
    fn place(&self, hash: u64) -> Place {
        let tag = ((hash >> 48) as u16).max(1);
        Place { first: scale(hash as u32, self.bucket_count()), tag }
    }

    /// Never the first.
    #[inline(always)]
    fn second(&self, place: Place) -> usize {
        let count = self.bucket_count();
        let second = place.first + self.distance(place.tag);
        if second >= count { second - count } else { second }
    }

    /// Buckets from an entry's first to its second: 1 to `bucket_count - 1`.
    #[inline(always)]
    fn distance(&self, tag: u16) -> usize {
        // Fibonacci hashing spreads the tag's bits over the word that `scale` reads from the top.
        let spread = u32::from(tag).wrapping_mul(0x9e37_79b9);
        1 + scale(spread, self.bucket_count() - 1)
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
    /// Whether every slot is in use.
    #[inline(always)]
    fn is_full(&self) -> bool {
        equal_lanes(&self.tags, 0) == 0
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

    fn is_guest(&self, slot: usize) -> bool {
        self.guest_slots() >> slot & 1 == 1
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
        self.empty(slot);
        true
    }

    fn empty(&mut self, slot: usize) {
        self.tags[slot] = 0;
        self.away[AWAY_TAGS] &= !(GUEST << slot);
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
