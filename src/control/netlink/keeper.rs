//! Which neighbours the kernel is to be asked about, and when. Pure: time and events come in,
//! requests go out.
//!
//! Traffic that gyre forwards does not pass the kernel, so nothing there uses the entries and they
//! would go stale, unconfirmed, until they are forgotten. The kernel is therefore told to keep
//! them fresh by itself (NTF_EXT_MANAGED, since 5.16), and told to use them (NTF_USE) in the same
//! message: an older kernel understands only that, and then it is repeated whenever an entry goes
//! stale.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use hashbrown::{HashMap, HashSet};

use crate::limits::NETLINK_REQUESTS_PER_TURN_MAX;
use crate::model::next_hops::{KernelEvent, Knowledge, Neighbour, NeighbourState};

/// A neighbour: interface and address.
pub(super) type Key = (u32, IpAddr);

/// What to ask of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Resolve it now and keep it fresh.
    Keep(Key),
    /// Let it age again.
    Release(Key),
}

/// Between two requests for a neighbour that does not answer; doubled each time up to `PAUSE_MAX`.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(8);
/// Before an entry is asked for again that somebody took away. `ip neigh flush` goes over the table
/// until it finds nothing: asked at once, it would take the new entry too, and again.
const PAUSE_REMOVED: Duration = Duration::from_millis(50);
/// How long a stale entry that the kernel manages may stay so before it is asked for again: the
/// kernel looks after its own every 5 s (`interval_probe_time_ms`).
const MANAGED_STALE: Duration = Duration::from_secs(20);

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    wanted: bool,
    state: Option<NeighbourState>,
    managed: bool,
    ours: bool,
    last_sent: Option<Instant>,
    pause: Duration,
    due: Option<Instant>,
}

impl Entry {
    fn wait_for_the_remover(&mut self, now: Instant) {
        (self.last_sent, self.pause) = (Some(now), PAUSE_REMOVED);
    }
}

#[derive(Debug, Default)]
pub(super) struct Keeper {
    entries: HashMap<Key, Entry>,
    due: BTreeSet<(Instant, Key)>,
    /// Whether it was said what is wanted. Until then nothing is released: entries may be ours from
    /// before a restart.
    instructed: bool,
}

impl Keeper {
    /// These and no others are wanted.
    pub(super) fn want(&mut self, keys: &[Key], now: Instant) {
        self.instructed = true;
        let wanted: HashSet<Key> = keys.iter().copied().collect();
        wanted.iter().for_each(|key| self.entries.entry(*key).or_default().wanted = true);
        let all: Vec<Key> = self.entries.keys().copied().collect();
        for key in all {
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.wanted = wanted.contains(&key);
            }
            self.schedule(key, now);
        }
    }

    /// A frame waits for this neighbour.
    pub(super) fn hurry(&mut self, key: Key, now: Instant) {
        let entry = self.entries.entry(key).or_default();
        let known = entry.state.is_some_and(NeighbourState::is_valid);
        let asked = entry.last_sent.is_some_and(|sent| now < sent + PAUSE_MIN);
        if !known && !asked {
            self.set_due(key, Some(now));
        }
    }

    /// Takes note of a batch of events.
    pub(super) fn observe(&mut self, events: &[KernelEvent], now: Instant) {
        let mut touched = HashSet::new();
        for event in events {
            match event {
                KernelEvent::NeighbourChanged(neighbour) => {
                    touched.insert((neighbour.ifindex, neighbour.address));
                    self.note(neighbour, now);
                }
                KernelEvent::NeighbourRemoved { ifindex, address } => {
                    touched.insert((*ifindex, *address));
                    self.remove((*ifindex, *address), now);
                }
                KernelEvent::Forget(Knowledge::Neighbours) => {
                    touched.extend(self.entries.keys().copied());
                    let all: Vec<Key> = self.entries.keys().copied().collect();
                    all.into_iter().for_each(|key| self.lose(key));
                }
                _ => {}
            }
        }
        touched.into_iter().for_each(|key| self.schedule(key, now));
    }

    /// When `take_due` has something to say.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// The requests that are due, at most `NETLINK_REQUESTS_PER_TURN_MAX`.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<Request> {
        let mut requests = Vec::new();
        while requests.len() < NETLINK_REQUESTS_PER_TURN_MAX
            && let Some(&(due, key)) = self.due.first()
            && due <= now
        {
            self.set_due(key, None);
            requests.extend(self.send(key, now));
        }
        requests
    }

    /// What to undo when gyre stops.
    pub(super) fn release_all(&mut self) -> Vec<Request> {
        let held = self.entries.iter().filter(|(_, entry)| entry.managed && entry.ours);
        let requests = held.map(|(key, _)| Request::Release(*key)).collect();
        self.entries.clear();
        self.due.clear();
        requests
    }

    fn send(&mut self, key: Key, now: Instant) -> Option<Request> {
        let entry = self.entries.get_mut(&key)?;
        if entry.state.is_some_and(NeighbourState::is_fixed) {
            // Using a permanent entry would make it an ordinary one (`__neigh_update`).
            return None;
        }
        if !entry.wanted && entry.managed && entry.ours {
            // Whatever the answer, not again before the kernel tells news of it.
            entry.managed = false;
            return Some(Request::Release(key));
        }
        entry.last_sent = Some(now);
        entry.pause = (entry.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
        self.schedule(key, now);
        Some(Request::Keep(key))
    }

    fn note(&mut self, neighbour: &Neighbour, now: Instant) {
        let entry = self.entries.entry((neighbour.ifindex, neighbour.address)).or_default();
        let was_valid = entry.state.is_some_and(NeighbourState::is_valid);
        if neighbour.state == NeighbourState::Failed && was_valid {
            // The first word of a removal, which is the next event then.
            entry.wait_for_the_remover(now);
        }
        entry.state = Some(neighbour.state);
        entry.managed = neighbour.managed;
        entry.ours = neighbour.ours;
        if neighbour.state.is_valid() {
            entry.pause = Duration::ZERO;
        }
    }

    /// The kernel itself removes what has failed; all else was somebody's doing.
    fn remove(&mut self, key: Key, now: Instant) {
        if let Some(entry) = self.entries.get_mut(&key)
            && entry.state.is_some_and(|state| state != NeighbourState::Failed)
        {
            entry.wait_for_the_remover(now);
        }
        self.lose(key);
    }

    fn lose(&mut self, key: Key) {
        if let Some(entry) = self.entries.get_mut(&key) {
            (entry.state, entry.managed, entry.ours) = (None, false, false);
        }
    }

    fn schedule(&mut self, key: Key, now: Instant) {
        let Some(entry) = self.entries.get(&key) else { return };
        if !entry.wanted && entry.state.is_none() {
            self.set_due(key, None);
            self.entries.remove(&key);
            return;
        }
        let due = self.due_time(entry, now);
        self.set_due(key, due);
    }

    fn due_time(&self, entry: &Entry, now: Instant) -> Option<Instant> {
        if !entry.wanted {
            return (self.instructed && entry.managed && entry.ours).then_some(now);
        }
        let after_pause = entry.last_sent.map_or(now, |sent| now.max(sent + entry.pause));
        match entry.state {
            Some(NeighbourState::Permanent | NeighbourState::NoArp) => None,
            None | Some(NeighbourState::None | NeighbourState::Failed) => Some(after_pause),
            // The kernel is asking; should it forget to tell how that ended, ask once more.
            Some(NeighbourState::Incomplete) => Some(now + PAUSE_MAX),
            Some(NeighbourState::Stale) if entry.managed => Some(now + MANAGED_STALE),
            Some(NeighbourState::Stale) => Some(after_pause),
            Some(NeighbourState::Reachable | NeighbourState::Delay | NeighbourState::Probe) => {
                (!entry.managed && entry.last_sent.is_none()).then_some(now)
            }
        }
    }

    fn set_due(&mut self, key: Key, due: Option<Instant>) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        if let Some(before) = entry.due {
            self.due.remove(&(before, key));
        }
        entry.due = due;
        self.due.extend(due.map(|due| (due, key)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = (5, IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 9)));

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn event(state: NeighbourState, managed: bool) -> KernelEvent {
        let (ifindex, address) = KEY;
        let mac = Some([2, 0, 0, 0, 0, 9]);
        let ours = managed;
        KernelEvent::NeighbourChanged(Neighbour { ifindex, address, mac, state, managed, ours })
    }

    fn gone() -> KernelEvent {
        KernelEvent::NeighbourRemoved { ifindex: KEY.0, address: KEY.1 }
    }

    /// The times, in seconds from `start`, at which requests went out until `end`.
    fn sent(keeper: &mut Keeper, start: Instant, end: u64) -> Vec<u64> {
        let mut times = Vec::new();
        for second in 0..=end {
            for request in keeper.take_due(start + secs(second)) {
                assert_eq!(request, Request::Keep(KEY));
                times.push(second);
            }
        }
        times
    }

    #[test]
    fn a_wanted_neighbour_is_asked_for_at_once_and_less_often_while_silent() {
        let (mut keeper, start) = (Keeper::default(), Instant::now());
        keeper.want(&[KEY], start);
        assert_eq!(keeper.next_due(), Some(start));
        assert_eq!(sent(&mut keeper, start, 30), [0, 1, 3, 7, 15, 23]);
    }

    #[test]
    fn failure_after_an_answer_is_asked_again_quickly() {
        let (mut keeper, start) = (Keeper::default(), Instant::now());
        keeper.want(&[KEY], start);
        sent(&mut keeper, start, 7);
        keeper.observe(&[event(NeighbourState::Reachable, true)], start + secs(8));
        assert_eq!(keeper.next_due(), None);
        keeper.observe(&[event(NeighbourState::Failed, true)], start + secs(60));
        assert_eq!(sent(&mut keeper, start, 64), [61, 62, 64]);
        keeper.observe(&[gone()], start + secs(65));
        assert_eq!(sent(&mut keeper, start, 71), [68]);
    }

    #[test]
    fn what_somebody_removed_is_asked_for_again_when_the_remover_is_done() {
        let (mut keeper, start) = (Keeper::default(), Instant::now());
        keeper.want(&[KEY], start);
        sent(&mut keeper, start, 1);
        keeper.observe(&[event(NeighbourState::Reachable, true)], start + secs(2));
        // Twice, as a flush does that meets the new entry before it is resolved.
        for round in [10, 11] {
            let flushed = start + secs(10) + Duration::from_millis(round);
            keeper.observe(&[event(NeighbourState::Incomplete, true), gone()], flushed);
            keeper.observe(&[event(NeighbourState::Reachable, true)], flushed);
            keeper.observe(&[event(NeighbourState::Failed, true)], flushed);
            keeper.observe(&[gone()], flushed);
            keeper.hurry(KEY, flushed);
            assert_eq!(keeper.take_due(flushed), []);
            assert_eq!(keeper.next_due(), Some(flushed + PAUSE_REMOVED));
        }
        assert_eq!(keeper.take_due(start + secs(11)), [Request::Keep(KEY)]);
    }

    #[test]
    fn an_older_kernel_is_told_to_use_each_entry_that_goes_stale() {
        let (mut keeper, start) = (Keeper::default(), Instant::now());
        keeper.want(&[KEY], start);
        assert_eq!(sent(&mut keeper, start, 0), [0]);
        keeper.observe(&[event(NeighbourState::Reachable, false)], start);
        assert!(sent(&mut keeper, start, 29).is_empty());
        for round in 1..4 {
            keeper.observe(&[event(NeighbourState::Stale, false)], start + secs(30 * round));
            assert_eq!(sent(&mut keeper, start, 30 * round), [30 * round]);
            keeper.observe(&[event(NeighbourState::Probe, false)], start + secs(30 * round + 5));
            keeper
                .observe(&[event(NeighbourState::Reachable, false)], start + secs(30 * round + 5));
            assert_eq!(keeper.next_due(), None);
        }
    }

    #[test]
    fn a_kernel_that_manages_an_entry_is_left_alone_unless_it_forgets_it() {
        let (mut keeper, start) = (Keeper::default(), Instant::now());
        keeper.want(&[KEY], start);
        assert_eq!(sent(&mut keeper, start, 0), [0]);
        keeper.observe(&[event(NeighbourState::Stale, true)], start + secs(30));
        keeper.observe(&[event(NeighbourState::Delay, true)], start + secs(35));
        assert_eq!(keeper.next_due(), None);
        keeper.observe(&[event(NeighbourState::Stale, true)], start + secs(70));
        assert_eq!(sent(&mut keeper, start, 100), [90]);
    }

    #[test]
    fn a_known_neighbour_is_put_under_care_once_and_a_fixed_one_never() {
        let start = Instant::now();
        for (state, expected) in [
            (NeighbourState::Reachable, vec![0]),
            (NeighbourState::Permanent, vec![]),
            (NeighbourState::NoArp, vec![]),
        ] {
            let mut keeper = Keeper::default();
            keeper.observe(&[event(state, false)], start);
            keeper.want(&[KEY], start);
            keeper.hurry(KEY, start);
            assert_eq!(sent(&mut keeper, start, 100), expected, "{state:?}");
        }
    }

    #[test]
    fn hurrying_skips_the_pause_but_not_within_a_second() {
        let (mut keeper, start) = (Keeper::default(), Instant::now());
        keeper.want(&[KEY], start);
        assert_eq!(sent(&mut keeper, start, 8), [0, 1, 3, 7]);
        let later = start + secs(9);
        keeper.hurry(KEY, later);
        assert_eq!(keeper.take_due(later), [Request::Keep(KEY)]);
        keeper.hurry(KEY, later + Duration::from_millis(500));
        assert_eq!(keeper.take_due(later + Duration::from_millis(500)), []);
    }

    #[test]
    fn what_is_no_longer_wanted_is_released_once() {
        let (mut keeper, start) = (Keeper::default(), Instant::now());
        keeper.want(&[KEY], start);
        keeper.take_due(start);
        keeper.observe(&[event(NeighbourState::Reachable, true)], start);
        keeper.want(&[], start);
        assert_eq!(keeper.take_due(start), [Request::Release(KEY)]);
        assert_eq!(keeper.take_due(start + secs(100)), []);
        keeper.observe(&[gone()], start);
        assert!(keeper.entries.is_empty());
    }

    #[test]
    fn what_a_killed_gyre_left_is_released_once_it_is_known_what_is_wanted() {
        let (mut keeper, start) = (Keeper::default(), Instant::now());
        keeper.observe(&[event(NeighbourState::Reachable, true)], start);
        assert_eq!(keeper.next_due(), None);
        keeper.want(&[], start);
        assert_eq!(keeper.take_due(start), [Request::Release(KEY)]);
    }

    #[test]
    fn a_dump_does_not_start_questions_anew() {
        let (mut keeper, start) = (Keeper::default(), Instant::now());
        keeper.want(&[KEY], start);
        keeper.take_due(start);
        keeper.observe(&[event(NeighbourState::Reachable, true)], start);
        let dump =
            [KernelEvent::Forget(Knowledge::Neighbours), event(NeighbourState::Reachable, true)];
        keeper.observe(&dump, start + secs(5));
        assert_eq!(keeper.next_due(), None);
        keeper.observe(&dump[..1], start + secs(6));
        assert_eq!(keeper.next_due(), Some(start + secs(6)), "the dump lacks it");
    }
}
