//! A lazy timer wheel, one per worker: which entries are to be looked at when. It owns links by
//! entry index and nothing of the entries; whether a flow that comes due is really idle is
//! the caller's to say, so a packet only stores when it was seen.
//!
//! Levels of 256 slots, each level eight times as coarse as the one below. An entry goes to the
//! finest level that reaches its deadline and stays there until it fires; nothing is moved down
//! (the kernel's `timer.c` does the same with 64 slots). So arming, disarming and firing touch a
//! few links each, a deadline is never met early, and late by at most one tick plus 1/31 of the
//! timeout, as long as turns do not run out of budget.

use crate::memory::{FixedArray, MemoryError};
use crate::pod_struct;
use crate::time::{NANOS_PER_MILLI, Nanos};

/// Resolution of the finest level, in milliseconds. IPVS's shortest timeout is seconds.
pub const TICK_MILLIS: u64 = 100;

const TICK_NANOS: u64 = TICK_MILLIS * NANOS_PER_MILLI;
/// Slots of a level.
const SLOTS: u64 = 256;
/// A level's slot is `2^LEVEL_SHIFT` slots of the level below.
const LEVEL_SHIFT: u32 = 3;
/// Enough that the coarsest level reaches from the first to the last value of `Nanos`.
const LEVELS: usize = 11;
/// One list for each slot, and the list of what is due.
const LISTS: u32 = LEVELS as u32 * SLOTS as u32 + 1;
/// Number of the due list.
const DUE: u32 = LISTS - 1;
/// Both links of an entry that is in no list.
const NOWHERE: u32 = u32::MAX;

const _: () = assert!((SLOTS - 1) << (LEVEL_SHIFT * (LEVELS as u32 - 1)) > u64::MAX / TICK_NANOS);

pod_struct! {
    /// Neighbours in a circular list: numbers below `LISTS` are list heads, others entries.
    #[derive(Debug)]
    struct Link {
        prev: u32,
        next: u32,
    }
}

/// The wheel. See the module's comment.
#[derive(Debug)]
pub struct Wheel {
    links: FixedArray<Link>,
    /// A bit for each slot that may hold something.
    occupied: [[u64; SLOTS as usize / 64]; LEVELS],
    /// First tick whose slots were not yet moved to the due list.
    next_tick: u64,
    capacity: u32,
    armed: u32,
}

impl Wheel {
    /// A wheel for entries 0 to `capacity - 1`, none armed: 8 bytes for each, taken now.
    pub fn new(capacity: u32, now: Nanos) -> Result<Self, MemoryError> {
        let entries_max = u64::from(u32::MAX - LISTS);
        if capacity == 0 || u64::from(capacity) > entries_max {
            return Err(MemoryError::Capacity { entries: capacity.into(), entries_max });
        }
        let mut links = FixedArray::new(LISTS + capacity)?;
        links.as_mut_slice().fill(Link { prev: NOWHERE, next: NOWHERE });
        for list in 0..LISTS {
            links[list] = Link { prev: list, next: list };
        }
        let occupied = [[0; SLOTS as usize / 64]; LEVELS];
        Ok(Wheel { links, occupied, next_tick: now.0 / TICK_NANOS, capacity, armed: 0 })
    }

    /// Has `index` fire at `deadline` or up to one tick plus 1/31 of the time until then later,
    /// counted from the last `advance`. Replaces an earlier deadline.
    #[inline]
    pub fn arm(&mut self, index: u32, deadline: Nanos) {
        debug_assert!(index < self.capacity, "timer {index} of {}", self.capacity);
        if index >= self.capacity {
            return;
        }
        self.disarm(index);
        let tick = deadline.0.div_ceil(TICK_NANOS).max(self.next_tick);
        let (level, slot) = self.place(tick);
        self.occupied[level][slot as usize / 64] |= 1 << (slot % 64);
        self.push(level as u32 * SLOTS as u32 + slot, LISTS + index);
        self.armed += 1;
    }

    /// Has `index` not fire; `false` when it was not armed.
    #[inline]
    pub fn disarm(&mut self, index: u32) -> bool {
        if !self.is_armed(index) {
            return false;
        }
        self.unlink(LISTS + index);
        self.armed -= 1;
        true
    }

    /// Asks for the line of an entry's links.
    #[inline]
    pub fn prefetch(&self, index: u32) {
        self.links.prefetch(LISTS + index);
    }

    /// Whether `index` will fire.
    #[inline]
    pub fn is_armed(&self, index: u32) -> bool {
        index < self.capacity && self.links[LISTS + index].next != NOWHERE
    }

    /// Takes one entry whose deadline has passed at `now`, disarmed; `None` when there is no
    /// more. Those of one slot come in the order they were armed. A clock that steps back
    /// fires nothing new.
    #[inline]
    pub fn pop_due(&mut self, now: Nanos) -> Option<u32> {
        self.collect(now.0 / TICK_NANOS);
        let entry = self.links[DUE].next;
        if entry == DUE {
            return None;
        }
        self.unlink(entry);
        self.armed -= 1;
        Some(entry - LISTS)
    }

    /// Entries armed, those due included.
    pub fn len(&self) -> u32 {
        self.armed
    }

    /// Whether nothing is armed.
    pub fn is_empty(&self) -> bool {
        self.armed == 0
    }

    /// Entries there are.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Bytes it takes, rounding up to pages aside.
    pub fn bytes(&self) -> usize {
        self.links.bytes()
    }

    /// The slot that is moved to the due list at `tick` or, on a coarse level, soon after. Slot
    /// numbers count multiples of the level's granularity, rounded up, so never early; and as
    /// `tick` is at most 255 of these ahead, no slot is met twice on the way.
    #[inline]
    fn place(&self, tick: u64) -> (usize, u32) {
        let ahead = tick - self.next_tick;
        let mut level = 0;
        while level < LEVELS - 1 && (SLOTS - 1) << (LEVEL_SHIFT * level as u32) < ahead {
            level += 1;
        }
        let slot = tick.div_ceil(1 << (LEVEL_SHIFT * level as u32)) % SLOTS;
        (level, slot as u32)
    }

    /// Moves every slot up to `tick` to the due list: links of the lists' ends only, so the cost
    /// does not grow with the entries. Usually one slot, at most all of them after a long jump.
    #[inline]
    fn collect(&mut self, tick: u64) {
        if tick >= self.next_tick {
            self.collect_slots(tick);
        }
    }

    #[cold]
    fn collect_slots(&mut self, tick: u64) {
        for level in 0..LEVELS {
            let shift = LEVEL_SHIFT * level as u32;
            let first = self.next_tick.div_ceil(1 << shift);
            let last = tick >> shift;
            if first > last {
                // Every multiple of a coarser granularity is one of this.
                break;
            }
            for number in first..=last.min(first + SLOTS - 1) {
                let slot = number % SLOTS;
                let word = &mut self.occupied[level][slot as usize / 64];
                if *word >> (slot % 64) & 1 == 1 {
                    *word &= !(1 << (slot % 64));
                    self.move_to_due(level as u32 * SLOTS as u32 + slot as u32);
                }
            }
        }
        self.next_tick = tick + 1;
    }

    /// Appends a whole list to the due list and leaves it empty.
    fn move_to_due(&mut self, list: u32) {
        let Link { prev: last, next: first } = self.links[list];
        if first == list {
            return;
        }
        let due_last = self.links[DUE].prev;
        self.links[due_last].next = first;
        self.links[first].prev = due_last;
        self.links[last].next = DUE;
        self.links[DUE].prev = last;
        self.links[list] = Link { prev: list, next: list };
    }

    fn push(&mut self, list: u32, entry: u32) {
        let last = self.links[list].prev;
        self.links[entry] = Link { prev: last, next: list };
        self.links[last].next = entry;
        self.links[list].prev = entry;
    }

    fn unlink(&mut self, entry: u32) {
        let Link { prev, next } = self.links[entry];
        self.links[prev].next = next;
        self.links[next].prev = prev;
        self.links[entry] = Link { prev: NOWHERE, next: NOWHERE };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    impl Wheel {
        /// Fires at most `budget` entries that are due and returns how many; the rest stays due.
        /// For
        /// each, `expire` says the new deadline (the flow was seen since) or `None` (it is gone). A
        /// new deadline in the past fires in the next tick, not in this call.
        fn advance(
            &mut self,
            now: Nanos,
            budget: usize,
            mut expire: impl FnMut(u32) -> Option<Nanos>,
        ) -> usize {
            self.collect(now.0 / TICK_NANOS);
            for fired in 0..budget {
                let Some(index) = self.pop_due(now) else { return fired };
                if let Some(deadline) = expire(index) {
                    self.arm(index, deadline);
                }
            }
            budget
        }
    }

    const NONE_DUE: Vec<u32> = Vec::new();

    fn fired(wheel: &mut Wheel, now: Nanos) -> Vec<u32> {
        std::iter::from_fn(|| wheel.pop_due(now)).collect()
    }

    fn wheel(capacity: u32) -> Wheel {
        Wheel::new(capacity, Nanos(0)).unwrap()
    }

    #[test]
    fn short_timer_fires_within_a_tick_of_its_deadline() {
        let mut wheel = wheel(4);
        wheel.arm(2, Nanos::from_millis(1_001));
        assert_eq!(fired(&mut wheel, Nanos::from_millis(1_001)), NONE_DUE);
        assert_eq!(fired(&mut wheel, Nanos::from_millis(1_100)), [2]);
        assert!(wheel.is_empty() && !wheel.is_armed(2));
    }

    #[test]
    fn disarmed_timer_does_not_fire_even_when_already_due() {
        let mut wheel = wheel(4);
        for index in 0..4 {
            wheel.arm(index, Nanos::from_secs(1));
        }
        assert_eq!(wheel.pop_due(Nanos::from_secs(5)), Some(0));
        assert!(wheel.disarm(2));
        assert!(!wheel.disarm(2));
        assert!(!wheel.disarm(0));
        assert!(!wheel.disarm(4));
        assert_eq!(fired(&mut wheel, Nanos::from_secs(5)), [1, 3]);
    }

    #[test]
    fn later_deadline_replaces_the_earlier() {
        let mut wheel = wheel(1);
        wheel.arm(0, Nanos::from_secs(1));
        wheel.arm(0, Nanos::from_secs(20));
        assert_eq!(wheel.len(), 1);
        assert_eq!(fired(&mut wheel, Nanos::from_secs(19)), NONE_DUE);
        assert_eq!(fired(&mut wheel, Nanos::from_secs(20)), [0]);
    }

    #[test]
    fn budget_bounds_a_turn_and_the_rest_fires_next() {
        let mut wheel = wheel(10);
        for index in 0..10 {
            wheel.arm(index, Nanos::from_secs(1));
        }
        let mut seen = Vec::new();
        for done in [4, 4, 2, 0] {
            let fired = wheel.advance(Nanos::from_secs(2), 4, |index| {
                seen.push(index);
                None
            });
            assert_eq!(fired, done);
        }
        assert_eq!(seen, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn touched_flow_is_armed_again_and_an_overdue_answer_waits_a_tick() {
        let mut wheel = wheel(2);
        wheel.arm(0, Nanos::from_secs(1));
        wheel.arm(1, Nanos::from_secs(1));
        let now = Nanos::from_secs(1);
        let answer = |index| Some(Nanos::from_secs(if index == 0 { 9 } else { 0 }));
        assert_eq!(wheel.advance(now, usize::MAX, answer), 2);
        assert_eq!(fired(&mut wheel, now), NONE_DUE);
        assert_eq!(fired(&mut wheel, now + TICK_NANOS), [1]);
        assert_eq!(fired(&mut wheel, Nanos::from_secs(9)), [0]);
    }

    #[test]
    fn longest_timeouts_are_kept_to_a_thirtieth() {
        for seconds in [60, 900, 1 << 22, u64::MAX / 1_000_000_000 / 2] {
            let start = Nanos::from_secs(1_000_000);
            let mut wheel = Wheel::new(1, start).unwrap();
            let deadline = start + seconds * 1_000_000_000;
            wheel.arm(0, deadline);
            assert_eq!(fired(&mut wheel, Nanos(deadline.0 - 1)), NONE_DUE, "{seconds} s");
            let late = TICK_NANOS + seconds * 1_000_000_000 / 31;
            assert_eq!(fired(&mut wheel, deadline + late), [0], "{seconds} s");
        }
    }

    #[test]
    fn no_deadline_is_too_far() {
        let mut wheel = wheel(1);
        wheel.arm(0, Nanos(u64::MAX));
        assert_eq!(fired(&mut wheel, Nanos(u64::MAX - TICK_NANOS)), NONE_DUE);
        assert_eq!(fired(&mut wheel, Nanos(u64::MAX)), NONE_DUE);
        assert!(wheel.disarm(0));
    }

    #[test]
    fn clock_that_steps_back_loses_nothing() {
        let mut wheel = wheel(2);
        wheel.arm(0, Nanos::from_secs(5));
        assert_eq!(fired(&mut wheel, Nanos::from_secs(4)), NONE_DUE);
        assert_eq!(fired(&mut wheel, Nanos::from_secs(1)), NONE_DUE);
        wheel.arm(1, Nanos::from_secs(2));
        assert_eq!(fired(&mut wheel, Nanos::from_secs(6)), [1, 0]);
    }

    #[test]
    fn capacity_outside_the_limit_is_refused() {
        for capacity in [0, u32::MAX, u32::MAX - LISTS + 1] {
            let error = Wheel::new(capacity, Nanos(0)).unwrap_err();
            assert!(matches!(error, MemoryError::Capacity { .. }), "{error}");
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Arm(u32, u64),
        Disarm(u32),
        /// Nanoseconds that pass, budget, and the timeout with which some are armed again.
        Advance(u64, usize, u64),
    }

    /// Milliseconds spread evenly over the magnitudes, up to 2^22 seconds.
    fn nanos() -> impl Strategy<Value = u64> {
        (0u32..32, any::<u64>()).prop_map(|(bits, any)| (any & ((2 << bits) - 1)) * 977_777)
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0u32..40, nanos()).prop_map(|(index, timeout)| Step::Arm(index, timeout)),
            1 => (0u32..40).prop_map(Step::Disarm),
            3 => (nanos(), 0usize..30, nanos())
                .prop_map(|(passed, budget, again)| Step::Advance(passed, budget, again)),
        ];
        prop::collection::vec(step, 0..if cfg!(miri) { 40 } else { 400 })
    }

    /// A deadline and the latest time at which it may still be waiting.
    #[derive(Clone, Copy, Debug)]
    struct Wait {
        deadline: Nanos,
        latest: Nanos,
    }

    impl Wait {
        fn new(clock: Nanos, deadline: Nanos) -> Self {
            let timeout = deadline.since(clock);
            let start = deadline.max(clock);
            Wait { deadline, latest: start + 2 * TICK_NANOS + timeout / 31 }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: if cfg!(miri) { 2 } else { 256 },
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn wheel_agrees_with_a_map(steps in steps(), start in nanos()) {
            let mut now = Nanos(start);
            let mut wheel = Wheel::new(40, now).unwrap();
            let mut model: BTreeMap<u32, Wait> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Arm(index, timeout) => {
                        wheel.arm(index, now + timeout);
                        model.insert(index, Wait::new(now, now + timeout));
                    }
                    Step::Disarm(index) => {
                        prop_assert_eq!(wheel.disarm(index), model.remove(&index).is_some());
                    }
                    Step::Advance(passed, budget, again) => {
                        now = now + passed;
                        let mut seen = Vec::new();
                        let count = wheel.advance(now, budget, |index| {
                            seen.push(index);
                            (index % 3 == 0).then_some(now + again)
                        });
                        prop_assert!(count == seen.len() && count <= budget);
                        for index in seen {
                            let wait = model.remove(&index);
                            prop_assert!(wait.is_some_and(|wait| wait.deadline <= now), "{wait:?}");
                            if index % 3 == 0 {
                                model.insert(index, Wait::new(now, now + again));
                            }
                        }
                        let overdue = model.values().find(|wait| wait.latest <= now);
                        prop_assert!(count == budget || overdue.is_none(), "{overdue:?} {now:?}");
                    }
                }
                prop_assert_eq!(wheel.len() as usize, model.len());
                prop_assert!((0..40).all(|i| wheel.is_armed(i) == model.contains_key(&i)));
            }
        }
    }
}
