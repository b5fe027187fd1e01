//! What lblc and lblcr remember: for each destination of a service the servers it was sent to.
//!
//! One cache a worker for all services, its memory taken at start. What has been idle for a day is
//! forgotten when it is looked up or when room is needed; in a full cache the entry longest unused
//! makes way if it has been idle for six minutes (the kernel's figures), else the newcomer is just
//! not remembered, which is counted. Servers are known by address and port, so that one that is
//! removed and comes back finds its destinations again.

use std::hash::Hasher;
use std::net::IpAddr;

use siphasher::sip::SipHasher13;

use crate::limits::{LOCALITY_ENTRIES_MAX, LOCALITY_MEMBERS_MAX};
use crate::model::{RealServer, ServiceId, VirtualService};
use crate::time::{NANOS_PER_SECOND, Nanos};

/// After so many idle seconds an entry means nothing; and once in so many a set loses a server.
const EXPIRATION_S: u32 = 24 * 60 * 60;
/// After so many idle seconds an entry makes way in a full cache.
const ENTRY_IDLE_S: u32 = 6 * 60;
const NONE: u32 = u32::MAX;

/// A service's destination at some time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    service: ServiceId,
    /// A scheduler set anew remembers nothing.
    since: u64,
    destination: IpAddr,
    now_s: u32,
}

impl Place {
    pub fn of(service: &VirtualService, destination: IpAddr, now: Nanos) -> Self {
        Place {
            service: service.id,
            since: service.scheduler_since,
            destination,
            now_s: (now.0 / NANOS_PER_SECOND) as u32,
        }
    }
}

/// Names an entry until the next one is inserted or removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EntryId(u32);

#[derive(Clone, Copy, Debug)]
struct Entry {
    service: ServiceId,
    since: u64,
    destination: IpAddr,
    used_s: u32,
    /// When the set last changed.
    changed_s: u32,
    members: u32,
    /// First member; the one that joined last.
    first: u32,
    /// Next in the bucket, or of the free ones.
    next: u32,
    older: u32,
    newer: u32,
}

#[derive(Clone, Copy, Debug)]
struct Member {
    address: IpAddr,
    port: u16,
    /// Where it was last in the service's list.
    at: u32,
    next: u32,
}

impl Member {
    fn is(&self, server: &RealServer) -> bool {
        (server.address, server.port) == (self.address, self.port)
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct LocalityCache {
    seed: u64,
    buckets: Vec<u32>,
    entries: Vec<Entry>,
    members: Vec<Member>,
    free_entry: u32,
    free_member: u32,
    oldest: u32,
    newest: u32,
}

impl LocalityCache {
    pub fn new(seed: u64) -> Self {
        LocalityCache {
            seed,
            buckets: vec![0; LOCALITY_ENTRIES_MAX],
            entries: Vec::with_capacity(LOCALITY_ENTRIES_MAX),
            members: Vec::with_capacity(LOCALITY_MEMBERS_MAX),
            free_entry: NONE,
            free_member: NONE,
            oldest: NONE,
            newest: NONE,
        }
    }

    /// The bucket of a destination. What it holds is one more than an entry's number; 0 is none,
    /// so that fresh memory is an empty cache.
    fn bucket(&self, service: ServiceId, destination: IpAddr) -> usize {
        let mut hasher = SipHasher13::new_with_keys(self.seed, !self.seed);
        hasher.write_u32(service.0);
        match destination {
            IpAddr::V4(v4) => hasher.write(&v4.octets()),
            IpAddr::V6(v6) => hasher.write(&v6.octets()),
        }
        hasher.finish() as usize % LOCALITY_ENTRIES_MAX
    }

    /// The entry of a destination, from now on the one used last.
    pub fn find(&mut self, place: &Place) -> Option<EntryId> {
        let mut at = self.buckets[self.bucket(place.service, place.destination)];
        while at != 0 {
            let id = at - 1;
            let entry = &self.entries[id as usize];
            if (entry.service, entry.since, entry.destination)
                == (place.service, place.since, place.destination)
            {
                if place.now_s.wrapping_sub(entry.used_s) > EXPIRATION_S {
                    self.remove(EntryId(id));
                    return None;
                }
                self.unlink(id);
                self.link(id);
                self.entries[id as usize].used_s = place.now_s;
                return Some(EntryId(id));
            }
            at = entry.next;
        }
        None
    }

    /// Positions in `servers` of an entry's members that are still listed, the newest first.
    pub fn positions<'a>(
        &'a self,
        entry: EntryId,
        servers: &'a [RealServer],
    ) -> impl Iterator<Item = usize> + use<'a> {
        self.members_of(entry).filter_map(move |(_, member)| {
            let is_it = |server: &RealServer| member.is(server);
            let hint = member.at as usize;
            if servers.get(hint).is_some_and(is_it) {
                return Some(hint);
            }
            servers.iter().position(is_it)
        })
    }

    fn members_of(&self, entry: EntryId) -> impl Iterator<Item = (u32, &Member)> {
        let mut at = self.entries[entry.0 as usize].first;
        std::iter::from_fn(move || {
            let id = at;
            let member = self.members.get(id as usize)?;
            at = member.next;
            Some((id, member))
        })
    }

    /// Remembers a server for a destination that has no entry; `false` when there is no room.
    pub fn insert(&mut self, place: &Place, server: (usize, &RealServer)) -> bool {
        let Some(id) = self.take_entry(place.now_s) else { return false };
        let bucket = self.bucket(place.service, place.destination);
        self.entries[id as usize] = Entry {
            service: place.service,
            since: place.since,
            destination: place.destination,
            used_s: place.now_s,
            changed_s: place.now_s,
            members: 0,
            first: NONE,
            next: self.buckets[bucket],
            older: NONE,
            newer: NONE,
        };
        self.buckets[bucket] = id + 1;
        self.link(id);
        let joined = self.grow(EntryId(id), server, place);
        if !joined {
            self.remove(EntryId(id));
        }
        joined
    }

    /// Adds a server to a set, unless it is in it; `false` when there is no room.
    pub fn grow(
        &mut self,
        entry: EntryId,
        (at, server): (usize, &RealServer),
        place: &Place,
    ) -> bool {
        if self.members_of(entry).any(|(_, member)| member.is(server)) {
            return true;
        }
        let Some(id) = self.take_member() else { return false };
        let entry = &mut self.entries[entry.0 as usize];
        let next = std::mem::replace(&mut entry.first, id);
        self.members[id as usize] =
            Member { address: server.address, port: server.port, at: at as u32, next };
        entry.members += 1;
        entry.changed_s = place.now_s;
        true
    }

    /// Whether a set of several has not changed for a day.
    pub fn may_shrink(&self, entry: EntryId, place: &Place) -> bool {
        let entry = &self.entries[entry.0 as usize];
        entry.members > 1 && place.now_s.wrapping_sub(entry.changed_s) > EXPIRATION_S
    }

    /// Takes one member out of a set: one that is no longer among `servers`, else the one at
    /// `most`.
    pub fn shrink(
        &mut self,
        entry: EntryId,
        (servers, most): (&[RealServer], Option<usize>),
        place: &Place,
    ) {
        let is_gone = |member: &Member| !servers.iter().any(|server| member.is(server));
        let is_most = |member: &Member| most.is_some_and(|at| member.is(&servers[at]));
        if let Some((before, id)) =
            self.find_member(entry, is_gone).or_else(|| self.find_member(entry, is_most))
        {
            self.drop_member(entry, before, id);
            self.entries[entry.0 as usize].changed_s = place.now_s;
        }
    }

    /// The first member that `is_it`, behind the one before it.
    fn find_member(&self, entry: EntryId, is_it: impl Fn(&Member) -> bool) -> Option<(u32, u32)> {
        let mut before = NONE;
        for (id, member) in self.members_of(entry) {
            if is_it(member) {
                return Some((before, id));
            }
            before = id;
        }
        None
    }

    fn drop_member(&mut self, entry: EntryId, before: u32, id: u32) {
        let next = std::mem::replace(&mut self.members[id as usize].next, self.free_member);
        self.free_member = id;
        let entry = &mut self.entries[entry.0 as usize];
        entry.members -= 1;
        match before {
            NONE => entry.first = next,
            before => self.members[before as usize].next = next,
        }
    }

    /// Forgets an entry.
    pub fn remove(&mut self, EntryId(id): EntryId) {
        while self.entries[id as usize].first != NONE {
            self.drop_member(EntryId(id), NONE, self.entries[id as usize].first);
        }
        self.unlink(id);
        let Entry { service, destination, next, .. } = self.entries[id as usize];
        let bucket = self.bucket(service, destination);
        if self.buckets[bucket] == id + 1 {
            self.buckets[bucket] = next;
        } else {
            let mut at = self.buckets[bucket];
            while at != 0 {
                let entry = &mut self.entries[at as usize - 1];
                if entry.next == id + 1 {
                    entry.next = next;
                    break;
                }
                at = entry.next;
            }
        }
        self.entries[id as usize].next = self.free_entry;
        self.free_entry = id;
    }

    /// A place for an entry: a free one, a new one, or that of an entry which idled long enough.
    fn take_entry(&mut self, now_s: u32) -> Option<u32> {
        if self.free_entry == NONE
            && self.entries.len() == LOCALITY_ENTRIES_MAX
            && let Some(oldest) = self.entries.get(self.oldest as usize)
            && now_s.wrapping_sub(oldest.used_s) > ENTRY_IDLE_S
        {
            self.remove(EntryId(self.oldest));
        }
        if let Some(entry) = self.entries.get(self.free_entry as usize) {
            return Some(std::mem::replace(&mut self.free_entry, entry.next));
        }
        if self.entries.len() == LOCALITY_ENTRIES_MAX {
            return None;
        }
        self.entries.push(Entry {
            service: ServiceId(0),
            since: 0,
            destination: IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
            used_s: 0,
            changed_s: 0,
            members: 0,
            first: NONE,
            next: 0,
            older: NONE,
            newer: NONE,
        });
        Some(self.entries.len() as u32 - 1)
    }

    fn take_member(&mut self) -> Option<u32> {
        if let Some(member) = self.members.get(self.free_member as usize) {
            return Some(std::mem::replace(&mut self.free_member, member.next));
        }
        if self.members.len() == LOCALITY_MEMBERS_MAX {
            return None;
        }
        let address = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
        self.members.push(Member { address, port: 0, at: 0, next: NONE });
        Some(self.members.len() as u32 - 1)
    }

    /// Puts an entry at the newest end of the row by use.
    fn link(&mut self, id: u32) {
        let entry = &mut self.entries[id as usize];
        (entry.older, entry.newer) = (self.newest, NONE);
        match self.entries.get_mut(self.newest as usize) {
            Some(newest) => newest.newer = id,
            None => self.oldest = id,
        }
        self.newest = id;
    }

    fn unlink(&mut self, id: u32) {
        let Entry { older, newer, .. } = self.entries[id as usize];
        match self.entries.get_mut(older as usize) {
            Some(entry) => entry.newer = newer,
            None => self.oldest = newer,
        }
        match self.entries.get_mut(newer as usize) {
            Some(entry) => entry.older = older,
            None => self.newest = older,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ServerId, test_server};

    fn server(id: u32) -> RealServer {
        test_server(id, 1)
    }

    fn place(destination: u32, now_s: u32) -> Place {
        let destination = IpAddr::from(destination.to_be_bytes());
        Place { service: ServiceId(1), since: 0, destination, now_s }
    }

    fn positions(
        cache: &mut LocalityCache,
        at: &Place,
        servers: &[RealServer],
    ) -> Option<Vec<usize>> {
        let entry = cache.find(at)?;
        Some(cache.positions(entry, servers).collect())
    }

    #[test]
    fn a_server_that_comes_back_finds_its_destinations_again() {
        let mut cache = LocalityCache::new(1);
        let servers = [server(0), server(1)];
        assert!(cache.insert(&place(7, 0), (1, &servers[1])));
        assert_eq!(positions(&mut cache, &place(7, 1), &servers), Some(vec![1]));
        assert_eq!(positions(&mut cache, &place(7, 2), &servers[..1]), Some(vec![]));
        // Another place in the list, another slot: the address counts.
        let back = [RealServer { id: ServerId(9), ..server(1) }, server(0)];
        assert_eq!(positions(&mut cache, &place(7, 3), &back), Some(vec![0]));
    }

    #[test]
    fn another_scheduler_and_another_service_remember_nothing() {
        let mut cache = LocalityCache::new(1);
        assert!(cache.insert(&place(7, 0), (0, &server(0))));
        assert_eq!(cache.find(&Place { since: 1, ..place(7, 0) }), None);
        assert_eq!(cache.find(&Place { service: ServiceId(2), ..place(7, 0) }), None);
        assert!(cache.find(&place(7, 0)).is_some());
    }

    #[test]
    fn what_is_idle_for_a_day_is_forgotten() {
        let mut cache = LocalityCache::new(1);
        cache.insert(&place(7, 0), (0, &server(0)));
        assert!(cache.find(&place(7, EXPIRATION_S)).is_some(), "and used");
        assert!(cache.find(&place(7, 2 * EXPIRATION_S)).is_some());
        assert_eq!(cache.find(&place(7, 3 * EXPIRATION_S + 1)), None);
    }

    #[test]
    fn a_full_cache_drops_only_what_idled_for_six_minutes() {
        let mut cache = LocalityCache::new(1);
        let all = LOCALITY_ENTRIES_MAX as u32;
        assert!((0..all).all(|at| cache.insert(&place(at, 0), (0, &server(0)))));
        assert!(!cache.insert(&place(all, ENTRY_IDLE_S), (0, &server(0))));
        // All but the second are used again: it is the one to go.
        let used = (0..all).filter(|at| *at != 1);
        used.for_each(|at| assert!(cache.find(&place(at, ENTRY_IDLE_S)).is_some()));
        assert!(cache.insert(&place(all, ENTRY_IDLE_S + 1), (0, &server(0))));
        assert!(!cache.insert(&place(all + 1, ENTRY_IDLE_S + 1), (0, &server(0))));
        assert_eq!(cache.find(&place(1, ENTRY_IDLE_S + 1)), None);
        assert!((2..=all).all(|at| cache.find(&place(at, ENTRY_IDLE_S + 1)).is_some()));
        assert_eq!(cache.entries.capacity(), LOCALITY_ENTRIES_MAX, "it never grows");
    }

    #[test]
    fn sets_grow_without_repetition_and_lose_one_a_day() {
        let mut cache = LocalityCache::new(1);
        let servers = [server(0), server(1), server(2)];
        cache.insert(&place(7, 0), (0, &servers[0]));
        let entry = cache.find(&place(7, 1)).unwrap();
        for at in [1, 2, 1] {
            assert!(cache.grow(entry, (at, &servers[at]), &place(7, 1)));
        }
        assert_eq!(positions(&mut cache, &place(7, 1), &servers), Some(vec![2, 1, 0]));
        assert_eq!(cache.find(&place(7, EXPIRATION_S)), Some(entry), "still in use");
        assert!(!cache.may_shrink(entry, &place(7, 1 + EXPIRATION_S)));
        let later = place(7, 2 + EXPIRATION_S);
        assert!(cache.may_shrink(entry, &later));
        cache.shrink(entry, (&servers, Some(1)), &later);
        assert!(!cache.may_shrink(entry, &later), "one a day");
        assert_eq!(positions(&mut cache, &later, &servers), Some(vec![2, 0]));
        cache.shrink(entry, (&servers[1..], Some(0)), &later);
        assert_eq!(positions(&mut cache, &later, &servers), Some(vec![2]), "who left goes first");
        cache.remove(entry);
        assert_eq!(cache.find(&later), None);
        let free = std::iter::successors(Some(cache.free_member), |at| {
            cache.members.get(*at as usize).map(|member| member.next)
        });
        assert_eq!(free.count(), 3 + 1, "members are given back, and the row ends");
    }

    #[test]
    fn members_are_bounded_too() {
        let mut cache = LocalityCache::new(1);
        let servers: Vec<RealServer> = (0..5).map(server).collect();
        let mut refused = 0;
        for at in 0..LOCALITY_ENTRIES_MAX as u32 {
            cache.insert(&place(at, 0), (0, &servers[0]));
            let Some(entry) = cache.find(&place(at, 0)) else { continue };
            for (at, server) in servers.iter().enumerate().skip(1) {
                refused += u32::from(!cache.grow(entry, (at, server), &place(0, 0)));
            }
        }
        assert!(refused > 0);
        assert_eq!(cache.members.capacity(), LOCALITY_MEMBERS_MAX);
    }
}
