//! Local addresses of all pools: their slots and their port maps.

use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use super::slots::Slots;
use crate::model::family::Family;
use crate::model::id::LipId;
use crate::model::snapshot::LocalAddress;
use crate::model::source_port_map::SourcePortMap;
use crate::model::spec::PoolSpec;
use crate::model::steering::Steering;

#[derive(Debug)]
struct Lip {
    local: Arc<LocalAddress>,
    /// The first revision in which no service uses it.
    retired: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Lips {
    steering: Arc<Steering>,
    slots: Slots,
    by_address: HashMap<IpAddr, Lip>,
    /// By port range and family: building one walks 65,536 ports.
    maps: HashMap<(u16, u16, Family), Arc<SourcePortMap>>,
    pools: Vec<PoolSpec>,
}

impl Lips {
    pub(super) fn new(steering: Arc<Steering>, max: usize) -> Self {
        Lips {
            steering,
            slots: Slots::new(max),
            by_address: HashMap::new(),
            maps: HashMap::new(),
            pools: Vec::new(),
        }
    }

    pub(super) fn pools(&self) -> &[PoolSpec] {
        &self.pools
    }

    /// Slots that `pools` would take beyond those in use, and those left.
    pub(super) fn room(&self, pools: &[PoolSpec]) -> (usize, usize) {
        let wanted: HashSet<IpAddr> =
            pools.iter().flat_map(|pool| pool.addresses.iter().copied()).collect();
        let new = wanted.iter().filter(|address| !self.by_address.contains_key(*address)).count();
        (new, self.slots.left())
    }

    /// The port range `address` has, while it is in use.
    pub(super) fn range(&self, address: IpAddr) -> Option<(u16, u16)> {
        self.by_address.get(&address).map(|lip| lip.local.ports.range())
    }

    /// Whether `address` left its pool while flows may still use it.
    pub(super) fn is_retired(&self, address: IpAddr) -> bool {
        self.by_address.get(&address).is_some_and(|lip| lip.retired.is_some())
    }

    /// Makes `pools` the pools from `revision` on; gives the slots that are new. Addresses that
    /// left stay known until their flows end.
    pub(super) fn set(&mut self, pools: &[PoolSpec], revision: u64) -> Vec<LipId> {
        let wanted: HashMap<IpAddr, (u16, u16)> = pools
            .iter()
            .flat_map(|pool| pool.addresses.iter().map(|address| (*address, pool.ports)))
            .collect();
        for (address, lip) in &mut self.by_address {
            let retired = lip.retired.unwrap_or(revision);
            lip.retired = (!wanted.contains_key(address)).then_some(retired);
        }
        let mut fresh = Vec::new();
        for pool in pools {
            for address in &pool.addresses {
                if !self.by_address.contains_key(address) {
                    fresh.extend(self.add(*address, pool.ports));
                }
            }
        }
        self.pools = pools.to_vec();
        fresh
    }

    fn add(&mut self, address: IpAddr, ports: (u16, u16)) -> Option<LipId> {
        let (family, steering) = (Family::of(address), &self.steering);
        let map = self
            .maps
            .entry((ports.0, ports.1, family))
            .or_insert_with(|| Arc::new(SourcePortMap::new(steering, family, ports.0, ports.1)));
        let id = LipId(u16::try_from(self.slots.take()?).ok()?);
        let local = Arc::new(LocalAddress { id, address, ports: Arc::clone(map) });
        self.by_address.insert(address, Lip { local, retired: None });
        Some(id)
    }

    /// The addresses of a pool, in the order listed; a flow takes one of its server's family.
    pub(super) fn of_pool(&self, name: Option<&str>) -> Vec<Arc<LocalAddress>> {
        let pool = self.pools.iter().find(|pool| Some(pool.name.as_str()) == name);
        let addresses = pool.map_or(&[][..], |pool| &pool.addresses);
        addresses
            .iter()
            .filter_map(|address| Some(Arc::clone(&self.by_address.get(address)?.local)))
            .collect()
    }

    /// `Snapshot::lips`: those of pools and those that flows still use.
    pub(super) fn map(&self) -> HashMap<IpAddr, Arc<LocalAddress>> {
        self.by_address.iter().map(|(address, lip)| (*address, Arc::clone(&lip.local))).collect()
    }

    /// Frees what no worker's services list and no flow uses; whether there was any.
    pub(super) fn reclaim(&mut self, used: &dyn Fn(LipId) -> u64, oldest_revision: u64) -> bool {
        let before = self.by_address.len();
        let slots = &mut self.slots;
        self.by_address.retain(|_, lip| {
            let left = lip.retired.is_some_and(|revision| revision <= oldest_revision);
            let held = !left || used(lip.local.id) > 0;
            if !held {
                slots.free(u32::from(lip.local.id.0));
            }
            held
        });
        self.by_address.len() != before
    }
}
