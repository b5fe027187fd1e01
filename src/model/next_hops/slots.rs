//! Slots of next hops: who uses each, what it last held, and when it may be given out again.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};

use hashbrown::HashMap;

use crate::limits::NEXT_HOPS_MAX;

use super::super::id::{NextHopId, NicId};
use super::super::prefix::Prefix;
use super::super::route::NextHop;
use super::event::NeighbourState;
use crate::wire::pair::MacPair;

/// What a slot leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HopTarget {
    /// One address, a server's or an on-link client's, by whatever way the routes say.
    Address(IpAddr),
    /// The router of one route, whichever it is.
    Route(Prefix),
    /// One router of a port: shared by the routes that found no slot of their own left.
    Router(NicId, IpAddr),
}

/// Whether a slot can be used, and if not, why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HopState {
    /// It can.
    Resolved,
    /// No route leads there.
    NoRoute,
    /// The kernel's route says "unreachable", "prohibit" or "blackhole".
    Prohibited,
    /// The kernel's route leaves by this interface, which is no port.
    Foreign(u32),
    /// The port's kernel interface is missing or down.
    LinkDown(NicId),
    /// It is an address of the director itself.
    OwnAddress,
    /// The neighbour's MAC address is not known; the entry's state, if there is an entry.
    Neighbour(Option<NeighbourState>),
}

/// A slot that nothing refers to any more but perhaps flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetiredHop {
    /// The slot.
    pub id: NextHopId,
    /// Which retirement of it; a slot taken up again in between is not reclaimed by an old one.
    pub generation: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) target: HopTarget,
    /// Whether servers have this address.
    pub(super) server: bool,
    /// Routes that name this slot.
    pub(super) routes: u32,
    /// Whether the route table names it as an on-link neighbour.
    pub(super) client: bool,
    /// Whether a worker asked for it.
    pub(super) asked: bool,
    /// The neighbour that it depends on.
    pub(super) via: Option<(NicId, IpAddr)>,
    pub(super) hop: NextHop,
    pub(super) state: HopState,
    retired: Option<u64>,
    unsent: bool,
}

impl Slot {
    fn new(target: HopTarget) -> Self {
        let neighbour = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        let macs = MacPair::new([0; 6], [0; 6]);
        let hop = NextHop { nic: NicId(0), resolved: false, macs, mtu: 0, neighbour };
        Slot {
            target,
            server: false,
            routes: 0,
            client: false,
            asked: false,
            via: None,
            hop,
            state: HopState::NoRoute,
            retired: None,
            unsent: true,
        }
    }

    /// Whether anything but a flow refers to it.
    pub(super) fn is_used(&self) -> bool {
        self.server || self.routes > 0 || self.client
    }

    /// Whether its neighbour is to be kept fresh. A client that only the kernel met is not: what
    /// it knows stays good until the kernel forgets it, and then a worker asks.
    pub(super) fn wants_neighbour(&self) -> bool {
        self.server || self.routes > 0 || self.asked
    }

    pub(super) fn address(&self) -> Option<IpAddr> {
        match self.target {
            HopTarget::Address(address) => Some(address),
            HopTarget::Route(_) | HopTarget::Router(..) => None,
        }
    }

    /// Takes new content; workers get it with the next updates if it differs.
    pub(super) fn set(&mut self, hop: NextHop, state: HopState) {
        self.unsent |= self.hop != hop;
        self.hop = hop;
        self.state = state;
    }
}

#[derive(Debug, Default)]
pub(super) struct Slots {
    slots: Vec<Option<Slot>>,
    by_target: HashMap<HopTarget, NextHopId>,
    free: VecDeque<NextHopId>,
    generation: u64,
}

impl Slots {
    pub(super) fn find(&self, target: HopTarget) -> Option<NextHopId> {
        self.by_target.get(&target).copied()
    }

    /// The slot for `target`, an old one taken up again or a new one; `None` when all are taken.
    pub(super) fn open(&mut self, target: HopTarget) -> Option<NextHopId> {
        if let Some(id) = self.find(target) {
            if let Some(slot) = self.get_mut(id) {
                slot.retired = None;
            }
            return Some(id);
        }
        let id = match self.free.pop_front() {
            Some(id) => id,
            None if self.slots.len() < NEXT_HOPS_MAX => {
                self.slots.push(None);
                NextHopId((self.slots.len() - 1) as u16)
            }
            None => return None,
        };
        self.slots[id.index()] = Some(Slot::new(target));
        self.by_target.insert(target, id);
        Some(id)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (NextHopId, &mut Slot)> + '_ {
        let numbered = self.slots.iter_mut().enumerate();
        numbered.filter_map(|(at, slot)| Some((NextHopId(at as u16), slot.as_mut()?)))
    }

    pub(super) fn get(&self, id: NextHopId) -> Option<&Slot> {
        self.slots.get(id.index())?.as_ref()
    }

    pub(super) fn get_mut(&mut self, id: NextHopId) -> Option<&mut Slot> {
        self.slots.get_mut(id.index())?.as_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (NextHopId, &Slot)> + '_ {
        let numbered = self.slots.iter().enumerate();
        numbered.filter_map(|(at, slot)| Some((NextHopId(at as u16), slot.as_ref()?)))
    }

    /// The slots that hold something workers have not been told, told hereby.
    pub(super) fn take_unsent(&mut self) -> Vec<(NextHopId, NextHop)> {
        let numbered = self.slots.iter_mut().enumerate();
        numbered
            .filter_map(|(at, slot)| {
                let slot = slot.as_mut().filter(|slot| slot.unsent)?;
                slot.unsent = false;
                Some((NextHopId(at as u16), slot.hop))
            })
            .collect()
    }

    /// Notes which slots fell out of use.
    pub(super) fn retire_unused(&mut self) {
        for slot in self.slots.iter_mut().flatten() {
            if slot.is_used() {
                slot.retired = None;
            } else if slot.retired.is_none() {
                self.generation += 1;
                slot.retired = Some(self.generation);
            }
        }
    }

    pub(super) fn retired(&self) -> Vec<RetiredHop> {
        self.iter()
            .filter_map(|(id, slot)| Some(RetiredHop { id, generation: slot.retired? }))
            .collect()
    }

    /// Frees a retired slot; false when it was taken up again since.
    pub(super) fn reclaim(&mut self, retired: RetiredHop) -> bool {
        let Some(slot) = self.get(retired.id) else { return false };
        if slot.retired != Some(retired.generation) || slot.is_used() {
            return false;
        }
        let target = slot.target;
        self.by_target.remove(&target);
        self.slots[retired.id.index()] = None;
        self.free.push_back(retired.id);
        true
    }
}

const _: () = assert!(NEXT_HOPS_MAX <= NextHopId::NONE.index(), "slots are u16, NONE apart");
