//! Which worker owns which FULLNAT source port.
//!
//! A port belongs to one worker for all servers, so that a reply's owner follows from its
//! destination port alone. Each worker's ports are kept in groups of equal Toeplitz contribution:
//! picking from the right group makes the reply arrive on the owner's own RSS queue, with any key
//! and without a flow director.

use std::ops::Range;

use super::family::Family;
use super::id::WorkerId;
use super::steering::Steering;

/// Words of a bitmap over all ports.
pub const PORT_WORDS: usize = 1024;

/// Owner of every port in a range, and each worker's ports by group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourcePortMap {
    first: u16,
    /// Number of groups less one: the bits of a hash that the redirection table looks at.
    group_mask: u32,
    /// Owner by `port - first`.
    owners: Vec<u8>,
    shares: Vec<Share>,
}

/// One worker's ports.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Share {
    /// Sorted by group.
    ports: Vec<u16>,
    /// Where each group starts in `ports`, and the end.
    starts: Vec<u32>,
    /// The same ports as bits, by port number.
    bits: Vec<u64>,
}

impl SourcePortMap {
    /// Deals the ports `first..=last` to the workers that `steering` knows, each group evenly.
    pub fn new(steering: &Steering, family: Family, first: u16, last: u16) -> Self {
        let workers = usize::from(steering.workers());
        let count = steering.redirection().len();
        let mut groups = vec![Vec::new(); count];
        for port in first..=last {
            let contribution = steering.dst_port_contribution(family, port);
            groups[contribution as usize & (count - 1)].push(port);
        }
        let empty = Share { ports: Vec::new(), starts: vec![0], bits: vec![0; PORT_WORDS] };
        let mut map = SourcePortMap {
            first,
            group_mask: (count - 1) as u32,
            owners: vec![0; usize::from(last.saturating_sub(first)) + 1],
            shares: vec![empty; workers],
        };
        let mut turn = 0;
        for group in groups {
            for port in group {
                map.owners[usize::from(port - first)] = (turn % workers) as u8;
                let share = &mut map.shares[turn % workers];
                share.ports.push(port);
                share.bits[usize::from(port) / 64] |= 1 << (port % 64);
                turn += 1;
            }
            for share in &mut map.shares {
                share.starts.push(share.ports.len() as u32);
            }
        }
        map
    }

    /// Lowest and highest port.
    pub fn range(&self) -> (u16, u16) {
        (self.first, self.first + (self.owners.len() - 1) as u16)
    }

    /// The worker that `port` belongs to; `None` outside the range.
    #[inline]
    pub fn owner(&self, port: u16) -> Option<WorkerId> {
        let at = usize::from(port.checked_sub(self.first)?);
        self.owners.get(at).copied().map(WorkerId)
    }

    /// All ports of `worker`, group after group.
    pub fn ports_of(&self, worker: WorkerId) -> &[u16] {
        self.shares.get(worker.index()).map_or(&[], |share| &share.ports)
    }

    /// All ports of `worker` as bits: `PORT_WORDS` words, or none for no such worker.
    pub fn bits_of(&self, worker: WorkerId) -> &[u64] {
        self.shares.get(worker.index()).map_or(&[], |share| &share.bits)
    }

    /// The group that position `at` of `ports_of(worker)` lies in.
    pub fn group_at(&self, worker: WorkerId, at: usize) -> u32 {
        let starts = self.shares.get(worker.index()).map_or(&[][..], |share| &share.starts);
        let behind = starts.partition_point(|start| *start as usize <= at);
        behind.saturating_sub(1) as u32 & self.group_mask
    }

    /// The part of `ports_of(worker)` whose contribution has the low bits `group`.
    pub fn group(&self, worker: WorkerId, group: u32) -> Range<usize> {
        let starts = self.shares.get(worker.index()).map_or(&[][..], |share| &share.starts);
        let at = (group & self.group_mask) as usize;
        match (starts.get(at), starts.get(at + 1)) {
            (Some(start), Some(end)) => *start as usize..*end as usize,
            _ => 0..0,
        }
    }

    /// Number of groups: a power of two, the redirection table's length.
    pub fn groups(&self) -> u32 {
        self.group_mask + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::steering::TOEPLITZ_KEY_DEFAULT;

    #[test]
    fn every_port_has_one_owner_and_a_fair_share() {
        let steering = Steering::for_workers(3);
        let map = SourcePortMap::new(&steering, Family::V4, 1024, 65535);
        let total: usize = (0..3).map(|w| map.ports_of(WorkerId(w)).len()).sum();
        assert_eq!(total, 65536 - 1024);
        for worker in (0..3).map(WorkerId) {
            assert!(map.ports_of(worker).len().abs_diff(total / 3) < 2);
            assert!(map.ports_of(worker).iter().all(|port| map.owner(*port) == Some(worker)));
            let bits: u32 = map.bits_of(worker).iter().map(|word| word.count_ones()).sum();
            assert_eq!(bits as usize, map.ports_of(worker).len());
        }
        assert_eq!(map.owner(1023), None);
    }

    /// DESIGN: "ports are pre-grouped so that the reply hashes to the owner's queue".
    #[test]
    fn a_port_from_the_right_group_brings_the_reply_to_its_owner() {
        // Longer than 128: as large NICs have it.
        let redirection: Vec<u8> = (0..512u32).map(|bucket| (bucket / 7 % 4) as u8).collect();
        let steering = Steering::new(&TOEPLITZ_KEY_DEFAULT, &redirection);
        let map = SourcePortMap::new(&steering, Family::V4, 1024, 65535);
        let (rip, lip) = ("10.2.0.11".parse().unwrap(), "10.2.0.1".parse().unwrap());
        let base = steering.hash(rip, lip, 80, 0);
        for worker in (0..4).map(WorkerId) {
            let wanted: Vec<u32> = (0..map.groups())
                .filter(|group| steering.worker_of_hash(base ^ *group) == worker)
                .collect();
            assert!(!wanted.is_empty());
            for group in wanted {
                for at in map.group(worker, group) {
                    assert_eq!(map.group_at(worker, at), group);
                    let port = map.ports_of(worker)[at];
                    assert_eq!(steering.worker_of_hash(steering.hash(rip, lip, 80, port)), worker);
                }
            }
        }
    }

    #[test]
    fn a_range_of_one_port_works() {
        let map = SourcePortMap::new(&Steering::for_workers(2), Family::V6, 65535, 65535);
        assert_eq!(map.owner(65535), Some(WorkerId(0)));
        assert_eq!(map.ports_of(WorkerId(1)), &[] as &[u16]);
    }
}
