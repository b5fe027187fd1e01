//! Neighbour entries by port: the configuration's before the kernel's.

use std::net::IpAddr;

use hashbrown::HashMap;

use super::super::id::NicId;
use super::event::{Neighbour, NeighbourState, StaticNeighbour};

/// What is known of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) mac: Option<[u8; 6]>,
    pub(super) state: NeighbourState,
}

impl Known {
    /// The MAC address, if frames may be sent to it.
    ///
    /// A stale address is used on, as the kernel does while it asks again; after a failure it is
    /// not, since frames would go to nobody and the balancer would never know.
    pub(super) fn usable(&self) -> Option<[u8; 6]> {
        self.mac.filter(|_| self.state.is_valid())
    }

    /// What matters to slots, to the wanted set and, of an unusable entry, to people.
    fn gist(&self) -> (Result<[u8; 6], NeighbourState>, bool) {
        (self.usable().ok_or(self.state), self.state.is_fixed())
    }
}

#[derive(Debug, Default)]
pub(super) struct Neighbours {
    kernel: HashMap<(NicId, IpAddr), Known>,
    fixed: HashMap<(NicId, IpAddr), Known>,
}

impl Neighbours {
    pub(super) fn get(&self, nic: NicId, address: IpAddr) -> Option<&Known> {
        let key = (nic, address);
        self.fixed.get(&key).or_else(|| self.kernel.get(&key))
    }

    pub(super) fn is_static(&self, nic: NicId, address: IpAddr) -> bool {
        self.fixed.contains_key(&(nic, address))
    }

    /// Whether the change matters.
    pub(super) fn change(&mut self, nic: NicId, neighbour: &Neighbour) -> bool {
        let known = Known { mac: neighbour.mac, state: neighbour.state };
        let before = self.kernel.insert((nic, neighbour.address), known);
        before.is_none_or(|before| before.gist() != known.gist())
    }

    /// Whether there was such an entry.
    pub(super) fn remove(&mut self, nic: NicId, address: IpAddr) -> bool {
        self.kernel.remove(&(nic, address)).is_some()
    }

    pub(super) fn forget_nic(&mut self, nic: NicId) {
        self.kernel.retain(|(on, _), _| *on != nic);
    }

    pub(super) fn forget_kernel(&mut self) {
        self.kernel.clear();
    }

    pub(super) fn set_static(&mut self, neighbours: &[StaticNeighbour]) {
        let permanent = |mac| Known { mac: Some(mac), state: NeighbourState::Permanent };
        self.fixed = neighbours
            .iter()
            .map(|neighbour| ((neighbour.nic, neighbour.address), permanent(neighbour.mac)))
            .collect();
    }

    /// Every address with an entry, in no order, some perhaps twice.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.kernel.keys().chain(self.fixed.keys()).map(|(_, address)| *address)
    }
}
