//! Which worker owns which FULLNAT source port.
//!
//! A port belongs to one worker for all servers, so that a reply's owner follows from its
//! destination port alone. Each worker's ports are kept in groups of equal Toeplitz contribution:
//! picking from the right group makes the reply arrive on the owner's own RSS queue, with any key
//! and without a flow director.

use std::ops::Range;

use super::id::WorkerId;
use super::steering::Steering;

/// Groups by contribution: the low bits of the hash that a redirection table looks at.
const GROUPS: usize = 128;

/// Owner of every port in a range, and each worker's ports by group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourcePortMap {
    first: u16,
    last: u16,
    /// Owner by `port - first`.
    owners: Vec<u8>,
    /// Each worker's ports, sorted by group.
    ports: Vec<Vec<u16>>,
    /// Where each group starts in `ports`, `GROUPS + 1` entries a worker.
    starts: Vec<Vec<u32>>,
}

impl SourcePortMap {
    /// Deals the ports `first..=last` to the workers that `steering` knows, each group evenly.
    pub fn new(steering: &Steering, is_ipv4: bool, first: u16, last: u16) -> Self {
        let workers = usize::from(steering.workers());
        let mut groups = vec![Vec::new(); GROUPS];
        for port in first..=last {
            groups[steering.dst_port_contribution(is_ipv4, port) as usize % GROUPS].push(port);
        }
        let mut map = SourcePortMap {
            first,
            last,
            owners: vec![0; usize::from(last.saturating_sub(first)) + 1],
            ports: vec![Vec::new(); workers],
            starts: vec![vec![0]; workers],
        };
        let mut turn = 0;
        for group in groups {
            for port in group {
                map.owners[usize::from(port - first)] = (turn % workers) as u8;
                map.ports[turn % workers].push(port);
                turn += 1;
            }
            for worker in 0..workers {
                map.starts[worker].push(map.ports[worker].len() as u32);
            }
        }
        map
    }

    /// Lowest and highest port.
    pub fn range(&self) -> (u16, u16) {
        (self.first, self.last)
    }

    /// The worker that `port` belongs to; `None` outside the range.
    #[inline]
    pub fn owner(&self, port: u16) -> Option<WorkerId> {
        let at = usize::from(port.checked_sub(self.first)?);
        self.owners.get(at).copied().map(WorkerId)
    }

    /// All ports of `worker`; a port's position here is its index in the worker's bitmaps.
    pub fn ports_of(&self, worker: WorkerId) -> &[u16] {
        self.ports.get(worker.index()).map_or(&[], |ports| ports)
    }

    /// The part of `ports_of(worker)` whose contribution has the low bits `group`.
    pub fn group(&self, worker: WorkerId, group: usize) -> Range<usize> {
        let starts = &self.starts[worker.index()];
        starts[group % GROUPS] as usize..starts[group % GROUPS + 1] as usize
    }

    /// Number of groups.
    pub const fn groups() -> usize {
        GROUPS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_has_one_owner_and_a_fair_share() {
        let steering = Steering::for_workers(3);
        let map = SourcePortMap::new(&steering, true, 1024, 65535);
        let total: usize = (0..3).map(|w| map.ports_of(WorkerId(w)).len()).sum();
        assert_eq!(total, 65536 - 1024);
        for worker in (0..3).map(WorkerId) {
            assert!(map.ports_of(worker).len().abs_diff(total / 3) < 2);
            assert!(map.ports_of(worker).iter().all(|port| map.owner(*port) == Some(worker)));
        }
        assert_eq!(map.owner(1023), None);
    }

    /// DESIGN: "ports are pre-grouped so that the reply hashes to the owner's queue".
    #[test]
    fn a_port_from_the_right_group_brings_the_reply_to_its_owner() {
        let steering = Steering::for_workers(4);
        let map = SourcePortMap::new(&steering, true, 1024, 65535);
        let (rip, lip) = ("10.2.0.11".parse().unwrap(), "10.2.0.1".parse().unwrap());
        let base = steering.hash(rip, lip, 80, 0);
        for worker in (0..4).map(WorkerId) {
            let wanted: Vec<usize> = (0..SourcePortMap::groups())
                .filter(|group| steering.worker_of_hash(base ^ *group as u32) == worker)
                .collect();
            assert!(!wanted.is_empty());
            for group in wanted {
                for at in map.group(worker, group) {
                    let port = map.ports_of(worker)[at];
                    assert_eq!(steering.worker_of_hash(steering.hash(rip, lip, 80, port)), worker);
                }
            }
        }
    }

    #[test]
    fn a_range_of_one_port_works() {
        let map = SourcePortMap::new(&Steering::for_workers(2), false, 65535, 65535);
        assert_eq!(map.owner(65535), Some(WorkerId(0)));
        assert_eq!(map.ports_of(WorkerId(1)), &[] as &[u16]);
    }
}
