//! Datagrams of which pieces have come: a fixed number, found by a keyed hash, in order of their
//! first piece's arrival.

use super::super::flow::FlowKey;
use super::super::flow_table;
use super::coverage::{self, Added};
use super::store::Chain;
use crate::counters::DropReason;
use crate::limits::FRAGMENT_DATAGRAMS_MAX;
use crate::model::WorkerId;
use crate::time::Nanos;
use crate::wire::ip::Fragment;

/// No datagram.
const NONE: u16 = u16::MAX;
const _: () = assert!(FRAGMENT_DATAGRAMS_MAX < NONE as usize);
const _: () = assert!(FRAGMENT_DATAGRAMS_MAX.is_power_of_two(), "the hash is masked");

/// What becomes of a datagram's pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Not known: its first piece has not come.
    Waiting,
    /// They follow the flow with this tuple.
    Flow(FlowKey),
    /// Its flow is another worker's.
    Elsewhere(WorkerId),
    /// No service's: the kernel's.
    Kernel,
    /// All further pieces are dropped.
    Ended(DropReason),
}

/// One datagram.
#[derive(Clone, Copy, Debug)]
pub(super) struct Datagram {
    /// Addresses and protocol, the identification in place of the ports.
    pub key: FlowKey,
    pub fate: Fate,
    /// Frames that wait for the first piece.
    pub waiting: Chain,
    /// Frames that waited and have not come again yet.
    pub resuming: u16,
    /// Identification of its pieces where the director is their sender.
    pub new_id: u32,
    born: Nanos,
    /// Units of eight bytes seen.
    seen: u16,
    /// End of the furthest piece, in bytes.
    end: u32,
    /// Size of the whole in bytes, once its last piece has come.
    total: Option<u32>,
    next: u16,
    by_age: Neighbours,
    /// Among those of which frames wait, if it is one of them.
    by_wait: Neighbours,
    is_listed: bool,
}

/// Place in a list.
#[derive(Clone, Copy, Debug)]
struct Neighbours {
    older: u16,
    newer: u16,
}

/// Ends of a list.
#[derive(Clone, Copy, Debug)]
struct Ends {
    oldest: u16,
    newest: u16,
}

const ALONE: Neighbours = Neighbours { older: NONE, newer: NONE };
const EMPTY: Ends = Ends { oldest: NONE, newest: NONE };

impl Datagram {
    /// Whether every piece was seen, and is here or on its way.
    pub fn is_whole(&self) -> bool {
        let is_whole = self.total.is_some_and(|total| u32::from(self.seen) == total.div_ceil(8));
        is_whole && self.resuming == 0
    }

    /// Whether every piece was seen and none waits.
    fn is_done(&self) -> bool {
        self.is_whole() && self.waiting.len() == 0
    }
}

/// All datagrams of a worker.
#[derive(Debug)]
pub(super) struct Datagrams {
    list: Vec<Datagram>,
    /// Seen units, `coverage::WORDS` words each.
    coverage: Vec<u64>,
    /// First datagram of each hash.
    heads: Vec<u16>,
    free: u16,
    by_age: Ends,
    by_wait: Ends,
    seed: u64,
}

impl Datagrams {
    pub fn new(seed: u64) -> Self {
        let empty = |at: usize| Datagram {
            key: FlowKey::UNSET,
            fate: Fate::Waiting,
            waiting: Chain::EMPTY,
            resuming: 0,
            new_id: 0,
            born: Nanos(0),
            seen: 0,
            end: 0,
            total: None,
            next: if at + 1 < FRAGMENT_DATAGRAMS_MAX { at as u16 + 1 } else { NONE },
            by_age: ALONE,
            by_wait: ALONE,
            is_listed: false,
        };
        Datagrams {
            list: (0..FRAGMENT_DATAGRAMS_MAX).map(empty).collect(),
            coverage: vec![0; FRAGMENT_DATAGRAMS_MAX * coverage::WORDS],
            heads: vec![NONE; FRAGMENT_DATAGRAMS_MAX],
            free: 0,
            by_age: EMPTY,
            by_wait: EMPTY,
            seed,
        }
    }

    pub fn get(&self, at: u16) -> Option<&Datagram> {
        self.list.get(usize::from(at))
    }

    pub fn get_mut(&mut self, at: u16) -> Option<&mut Datagram> {
        self.list.get_mut(usize::from(at))
    }

    /// The datagram with this key.
    pub fn find(&self, key: &FlowKey) -> Option<u16> {
        let mut at = *self.heads.get(self.bucket(key))?;
        while let Some(datagram) = self.get(at) {
            if datagram.key == *key {
                return Some(at);
            }
            at = datagram.next;
        }
        None
    }

    /// Makes a datagram, if there is room.
    pub fn insert(&mut self, key: &FlowKey, new_id: u32, now: Nanos) -> Option<u16> {
        let (at, bucket) = (self.free, self.bucket(key));
        let fresh = *self.get(at)?;
        self.free = fresh.next;
        let next = self.heads.get_mut(bucket).map_or(NONE, |head| std::mem::replace(head, at));
        let older = std::mem::replace(&mut self.by_age.newest, at);
        match self.get_mut(older) {
            Some(older) => older.by_age.newer = at,
            None => self.by_age.oldest = at,
        }
        *self.get_mut(at)? = Datagram {
            key: *key,
            fate: Fate::Waiting,
            waiting: Chain::EMPTY,
            resuming: 0,
            new_id,
            born: now,
            seen: 0,
            end: 0,
            total: None,
            next,
            by_age: Neighbours { older, newer: NONE },
            by_wait: ALONE,
            is_listed: false,
        };
        self.words(at).fill(0);
        Some(at)
    }

    /// Forgets a datagram; its frames are the caller's to free.
    pub fn remove(&mut self, at: u16) {
        self.unlist(at);
        let Some(&Datagram { key, next, by_age, .. }) = self.get(at) else { return };
        let bucket = self.bucket(&key);
        let mut before = NONE;
        let mut here = self.heads.get(bucket).copied().unwrap_or(NONE);
        while here != at {
            let Some(datagram) = self.get(here) else { return };
            (before, here) = (here, datagram.next);
        }
        match self.get_mut(before) {
            Some(before) => before.next = next,
            None => self.heads[bucket] = next,
        }
        match self.get_mut(by_age.older) {
            Some(older) => older.by_age.newer = by_age.newer,
            None => self.by_age.oldest = by_age.newer,
        }
        match self.get_mut(by_age.newer) {
            Some(newer) => newer.by_age.older = by_age.older,
            None => self.by_age.newest = by_age.older,
        }
        let free = std::mem::replace(&mut self.free, at);
        if let Some(datagram) = self.get_mut(at) {
            datagram.next = free;
        }
    }

    /// Forgets a datagram whose last piece has gone its way; what became of it.
    pub fn remove_if_done(&mut self, at: u16) -> Option<Fate> {
        let fate = self.get(at).filter(|datagram| datagram.is_done())?.fate;
        self.remove(at);
        Some(fate)
    }

    /// The oldest one.
    pub fn oldest(&self) -> Option<u16> {
        self.get(self.by_age.oldest).map(|_| self.by_age.oldest)
    }

    /// Whether another one follows what this one did. Walks over all there are.
    pub fn has(&self, fate: Fate) -> bool {
        let entry = |at: u16| self.get(at);
        let mut all =
            std::iter::successors(entry(self.by_age.oldest), |this| entry(this.by_age.newer));
        all.any(|datagram| datagram.fate == fate)
    }

    /// Of which frames have waited longest, `besides` one.
    pub fn waits_longest(&self, besides: u16) -> Option<u16> {
        let first = self.by_wait.oldest;
        let victim = match self.get(first)? {
            datagram if first == besides => datagram.by_wait.newer,
            _ => first,
        };
        self.get(victim).map(|_| victim)
    }

    /// Takes note that frames of it wait, or no more: to be called whenever `waiting` changed.
    pub fn note_waiting(&mut self, at: u16) {
        let Some(datagram) = self.get(at) else { return };
        match (datagram.waiting.len() > 0, datagram.is_listed) {
            (true, false) => self.list(at),
            (false, true) => self.unlist(at),
            _ => {}
        }
    }

    fn list(&mut self, at: u16) {
        let older = std::mem::replace(&mut self.by_wait.newest, at);
        match self.get_mut(older) {
            Some(older) => older.by_wait.newer = at,
            None => self.by_wait.oldest = at,
        }
        if let Some(datagram) = self.get_mut(at) {
            datagram.by_wait = Neighbours { older, newer: NONE };
            datagram.is_listed = true;
        }
    }

    fn unlist(&mut self, at: u16) {
        let Some(datagram) = self.get_mut(at).filter(|datagram| datagram.is_listed) else { return };
        datagram.is_listed = false;
        let Neighbours { older, newer } = datagram.by_wait;
        match self.get_mut(older) {
            Some(older) => older.by_wait.newer = newer,
            None => self.by_wait.oldest = newer,
        }
        match self.get_mut(newer) {
            Some(newer) => newer.by_wait.older = older,
            None => self.by_wait.newest = older,
        }
    }

    /// The oldest datagram, if its first piece came before `then`.
    pub fn overdue(&self, then: Nanos) -> Option<u16> {
        let oldest = self.by_age.oldest;
        self.get(oldest).filter(|datagram| datagram.born < then).map(|_| oldest)
    }

    /// Notes a piece of so many bytes. `FragmentMalformed` for one that no datagram can have,
    /// `FragmentDuplicate`, and `FragmentOverlap` for one that contradicts others.
    pub fn note(&mut self, at: u16, piece: &Fragment, bytes: usize) -> Result<(), DropReason> {
        let start = u32::from(piece.offset_bytes);
        let end = start + bytes as u32;
        let is_aligned = !piece.more || bytes.is_multiple_of(8);
        if bytes == 0 || !is_aligned || end > u32::from(u16::MAX) {
            return Err(DropReason::FragmentMalformed);
        }
        let datagram = self.get(at).ok_or(DropReason::Internal)?;
        let total = if piece.more { datagram.total } else { Some(end) };
        let fits = match (datagram.total, total) {
            (Some(known), Some(said)) if known != said => false,
            (_, Some(total)) => end.max(datagram.end) <= total,
            (_, None) => true,
        };
        if !fits {
            return Err(DropReason::FragmentOverlap);
        }
        let (from, to) = (start as usize / 8, (end as usize).div_ceil(8));
        match coverage::add(self.words(at), from, to) {
            Added::New => {}
            Added::Duplicate => return Err(DropReason::FragmentDuplicate),
            Added::Overlap => return Err(DropReason::FragmentOverlap),
        }
        if let Some(datagram) = self.get_mut(at) {
            datagram.total = total;
            datagram.end = datagram.end.max(end);
            datagram.seen += (to - from) as u16;
        }
        Ok(())
    }

    fn words(&mut self, at: u16) -> &mut [u64] {
        let start = usize::from(at) * coverage::WORDS;
        self.coverage.get_mut(start..start + coverage::WORDS).unwrap_or_default()
    }

    fn bucket(&self, key: &FlowKey) -> usize {
        flow_table::hash(self.seed, key) as usize & (FRAGMENT_DATAGRAMS_MAX - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::burst::RxMeta;
    use super::super::super::classify::Piece;
    use super::super::store::Store;
    use super::*;
    use crate::model::Protocol;

    const PIECE: Piece =
        Piece { place: Fragment { id: 0, offset_bytes: 0, more: true }, body: 34, new_id: None };

    fn key(id: u16) -> FlowKey {
        FlowKey { protocol: Protocol::Udp, dst_port: id, ..FlowKey::UNSET }
    }

    fn piece(offset_bytes: u16, more: bool) -> Fragment {
        Fragment { id: 0, offset_bytes, more }
    }

    #[test]
    fn datagrams_are_found_until_removed_and_kept_by_age() {
        let mut datagrams = Datagrams::new(7);
        for id in 0..FRAGMENT_DATAGRAMS_MAX as u16 {
            assert!(datagrams.insert(&key(id), 0, Nanos(u64::from(id))).is_some());
        }
        assert_eq!(datagrams.insert(&key(9999), 0, Nanos(0)), None);
        for id in [0, 500, FRAGMENT_DATAGRAMS_MAX as u16 - 1] {
            let at = datagrams.find(&key(id)).unwrap();
            datagrams.remove(at);
            assert_eq!(datagrams.find(&key(id)), None);
        }
        assert_eq!(datagrams.overdue(Nanos(1)), None);
        assert_eq!(datagrams.overdue(Nanos(2)), datagrams.find(&key(1)));
        for id in 0..3 {
            assert!(datagrams.insert(&key(5000 + id), 0, Nanos(0)).is_some());
        }
        assert_eq!(datagrams.insert(&key(9999), 0, Nanos(0)), None);
        let mut ages = Vec::new();
        while let Some(oldest) = datagrams.oldest() {
            ages.push(datagrams.get(oldest).unwrap().key.dst_port);
            datagrams.remove(oldest);
        }
        let old = (1..FRAGMENT_DATAGRAMS_MAX as u16 - 1).filter(|id| *id != 500);
        assert_eq!(ages, old.chain(5000..5003).collect::<Vec<u16>>());
    }

    #[test]
    fn who_waits_longest_is_known_whoever_else_there_is() {
        let mut datagrams = Datagrams::new(7);
        let ats: Vec<u16> = (0..100)
            .map(|id| datagrams.insert(&key(id), 0, Nanos(u64::from(id))).unwrap())
            .collect();
        assert_eq!(datagrams.waits_longest(ats[0]), None);
        let (mut store, piece) = (Store::new(), Piece { place: piece(8, true), ..PIECE });
        for at in [90, 40, 60].map(|id| ats[id]) {
            let waiting = &mut datagrams.get_mut(at).unwrap().waiting;
            assert!(store.insert(waiting, &[1; 60], &piece, &RxMeta::default()));
            datagrams.note_waiting(at);
        }
        assert_eq!(datagrams.waits_longest(NONE), Some(ats[90]));
        assert_eq!(datagrams.waits_longest(ats[90]), Some(ats[40]));
        datagrams.get_mut(ats[40]).unwrap().waiting = Chain::EMPTY;
        datagrams.note_waiting(ats[40]);
        assert_eq!(datagrams.waits_longest(ats[90]), Some(ats[60]));
        datagrams.remove(ats[90]);
        assert_eq!(datagrams.waits_longest(NONE), Some(ats[60]));
        assert_eq!(datagrams.waits_longest(ats[60]), None);
        datagrams.remove(ats[60]);
        assert_eq!(datagrams.waits_longest(NONE), None);
    }

    #[test]
    fn pieces_that_contradict_each_other_are_told() {
        use DropReason::*;
        let mut datagrams = Datagrams::new(7);
        let at = datagrams.insert(&key(1), 0, Nanos(0)).unwrap();
        let mut note = |offset, more, bytes| datagrams.note(at, &piece(offset, more), bytes);
        assert_eq!(note(0, true, 0), Err(FragmentMalformed));
        assert_eq!(note(0, true, 7), Err(FragmentMalformed));
        assert_eq!(note(65528, false, 8), Err(FragmentMalformed));
        assert_eq!(note(800, true, 400), Ok(()));
        assert_eq!(note(800, false, 200), Err(FragmentOverlap), "ends before what was seen");
        assert_eq!(note(1200, false, 13), Ok(()));
        assert_eq!(note(1200, false, 13), Err(FragmentDuplicate));
        assert_eq!(note(1208, false, 8), Err(FragmentOverlap), "another end");
        assert_eq!(note(1216, true, 8), Err(FragmentOverlap), "behind the end");
        assert_eq!(note(792, true, 16), Err(FragmentOverlap));
        assert_eq!(note(0, true, 800), Ok(()));
        datagrams.remove_if_done(at);
        assert_eq!(datagrams.find(&key(1)), None, "all of it was seen");
    }
}
