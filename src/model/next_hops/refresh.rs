//! Working out what events changed: targets of routes, on-link clients, slots, wanted neighbours.
//! Nothing here keeps state of its own.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use crate::limits::{CLIENT_HOPS_MAX, ROUTE_HOPS_MAX};

use super::super::id::{NextHopId, NicId};
use super::super::prefix::Prefix;
use super::super::route::{NextHop, RouteTable, RouteTarget};
use super::routes::{Out, Path};
use super::slots::{HopState, HopTarget, Slot};
use super::{Dirty, NextHops, is_client_address};
use crate::wire::pair::MacPair;

impl NextHops {
    /// Brings everything up to date with the events so far.
    pub(super) fn refresh(&mut self) {
        if !self.dirty.any() {
            return;
        }
        let dirty = std::mem::take(&mut self.dirty);
        if dirty.routes() {
            self.refresh_targets(&dirty);
        }
        self.refresh_clients(&dirty);
        self.refresh_slots(&dirty);
        self.slots.retire_unused();
        self.refresh_counts();
        self.refresh_wanted();
    }

    pub(super) fn build_table(&mut self) {
        let clients = self.slots.iter().filter(|(_, slot)| slot.client);
        let clients = clients.filter_map(|(id, slot)| Some((slot.address()?, id)));
        self.table = Arc::new(if self.targets_changed {
            let routes = self.targets.iter().map(|(prefix, target)| (*prefix, *target));
            RouteTable::with_gaps(routes).with_neighbours(clients)
        } else {
            self.table.with_neighbours(clients)
        });
    }

    fn refresh_targets(&mut self, dirty: &Dirty) {
        let mut prefixes: Vec<Prefix> = if dirty.all {
            self.routes.prefixes().chain(self.targets.keys().copied()).collect()
        } else {
            dirty.prefixes.iter().copied().collect()
        };
        // In order, so that the same routes get the same slots whatever order they came in.
        prefixes.sort_unstable();
        prefixes.dedup();
        for prefix in prefixes {
            self.refresh_target(prefix);
        }
    }

    fn refresh_target(&mut self, prefix: Prefix) {
        let before = self.targets.get(&prefix).copied();
        let after = self.is_routable(prefix).then(|| self.target(prefix));
        if before == after {
            return;
        }
        self.targets_changed = true;
        match after {
            Some(target) => self.targets.insert(prefix, target),
            None => self.targets.remove(&prefix),
        };
        self.count_route(after.flatten(), 1);
        self.count_route(before.flatten(), -1);
    }

    /// Whether the route table is to know the prefix. Link-local ones mean nothing without a port.
    fn is_routable(&self, prefix: Prefix) -> bool {
        let address = prefix.address();
        let local = match address {
            IpAddr::V4(_) => false,
            IpAddr::V6(v6) => v6.is_unicast_link_local() && prefix.bits() >= 10,
        };
        self.routes.has(prefix) && !local && !address.is_multicast()
    }

    fn target(&mut self, prefix: Prefix) -> Option<RouteTarget> {
        match self.routes.best(prefix, &self.links) {
            Path::Out(Out { nic, gateway: None, .. }) => Some(RouteTarget::OnLink(nic)),
            Path::Out(Out { nic, gateway: Some(router), .. }) => {
                let id = self.route_slot(prefix, nic, router);
                self.refused += u64::from(id.is_none());
                id.map(RouteTarget::Via)
            }
            Path::NoRoute | Path::Prohibited | Path::Foreign(_) | Path::Down(_) => None,
        }
    }

    /// A route's slot: its own, so that a new router touches one slot and no flow; beyond
    /// `ROUTE_HOPS_MAX` routes (a full BGP table) its router's.
    fn route_slot(&mut self, prefix: Prefix, nic: NicId, router: IpAddr) -> Option<NextHopId> {
        let own = HopTarget::Route(prefix);
        if self.slots.find(own).is_none() {
            if self.route_slots >= ROUTE_HOPS_MAX {
                return self.slots.open(HopTarget::Router(nic, router));
            }
            self.route_slots += 1;
        }
        self.slots.open(own)
    }

    fn count_route(&mut self, target: Option<RouteTarget>, step: i32) {
        if let Some(RouteTarget::Via(id)) = target
            && let Some(slot) = self.slots.get_mut(id)
        {
            slot.routes = slot.routes.saturating_add_signed(step);
        }
    }

    fn refresh_clients(&mut self, dirty: &Dirty) {
        let mut addresses: BTreeSet<IpAddr> =
            dirty.neighbours.iter().map(|(_, address)| *address).collect();
        let slot_address = |id: &NextHopId| self.slots.get(*id)?.address();
        addresses.extend(dirty.slots.iter().filter_map(slot_address));
        if dirty.routes() {
            addresses.extend(self.neighbours.addresses());
            addresses.extend(self.slots.iter().filter_map(|(_, slot)| slot.address()));
        }
        for address in addresses {
            self.refresh_client(address);
        }
    }

    fn refresh_client(&mut self, address: IpAddr) {
        let target = HopTarget::Address(address);
        let client = self.is_client(address);
        let id = match self.slots.find(target) {
            Some(id) => id,
            None if !client => return,
            None if self.client_slots >= CLIENT_HOPS_MAX => {
                self.refused += 1;
                return;
            }
            None => match self.slots.open(target) {
                Some(id) => id,
                None => return,
            },
        };
        let Some(slot) = self.slots.get_mut(id) else { return };
        slot.asked &= client;
        if slot.client != client {
            slot.client = client;
            self.neighbours_changed = true;
            self.client_slots += usize::from(client);
        }
    }

    /// Whether the route table is to name this address: it lies on a port's link, and either the
    /// kernel knows its MAC address or a worker waits for it.
    fn is_client(&self, address: IpAddr) -> bool {
        if !is_client_address(address) || self.links.is_own_address(address) {
            return false;
        }
        let Path::Out(Out { nic, gateway: None, .. }) = self.routes.look_up(address, &self.links)
        else {
            return false;
        };
        let known = self.neighbours.get(nic, address).is_some_and(|known| known.usable().is_some());
        let asked = || {
            let id = self.slots.find(HopTarget::Address(address));
            id.and_then(|id| self.slots.get(id)).is_some_and(|slot| slot.asked)
        };
        known || asked()
    }

    fn refresh_slots(&mut self, dirty: &Dirty) {
        let is_touched = |id: &NextHopId, slot: &Slot| {
            dirty.routes()
                || slot.via.is_none_or(|via| dirty.neighbours.contains(&via))
                || dirty.slots.contains(id)
        };
        let touched = self.slots.iter().filter(|(id, slot)| is_touched(id, slot));
        let ids: Vec<NextHopId> = touched.map(|(id, _)| id).collect();
        for id in ids {
            let Some(slot) = self.slots.get(id) else { continue };
            let (via, hop, state) = self.content(slot);
            if let Some(slot) = self.slots.get_mut(id) {
                slot.via = via;
                slot.set(hop, state);
            }
        }
    }

    fn content(&self, slot: &Slot) -> (Option<(NicId, IpAddr)>, NextHop, HopState) {
        let (destination, path) = match slot.target {
            HopTarget::Address(address) => (address, self.routes.look_up(address, &self.links)),
            HopTarget::Route(prefix) => (prefix.address(), self.routes.best(prefix, &self.links)),
            HopTarget::Router(nic, router) => {
                (router, Path::Out(Out { nic, gateway: Some(router), mtu: None }))
            }
        };
        let blocked =
            |state| (None, NextHop { resolved: false, neighbour: destination, ..slot.hop }, state);
        let no_way = |state| {
            let (via, hop, state) = blocked(state);
            (via, NextHop { mtu: 0, ..hop }, state)
        };
        match path {
            Path::Out(_) if slot.address().is_some_and(|own| self.links.is_own_address(own)) => {
                blocked(HopState::OwnAddress)
            }
            Path::Out(out) => self.content_out(slot, destination, out),
            Path::NoRoute => no_way(HopState::NoRoute),
            Path::Prohibited => no_way(HopState::Prohibited),
            Path::Foreign(ifindex) => no_way(HopState::Foreign(ifindex)),
            Path::Down(nic) => no_way(HopState::LinkDown(nic)),
        }
    }

    fn content_out(
        &self,
        slot: &Slot,
        destination: IpAddr,
        out: Out,
    ) -> (Option<(NicId, IpAddr)>, NextHop, HopState) {
        let neighbour = out.gateway.unwrap_or(destination);
        let known = self.neighbours.get(out.nic, neighbour);
        let facts = self.links.get(out.nic);
        let mac = known.and_then(|known| known.usable());
        // The last MAC stays readable, for status; `resolved` alone says whether it may be used.
        let same = slot.via == Some((out.nic, neighbour));
        let last = if same { slot.hop.macs.dst() } else { [0; 6] };
        let link_mtu = facts.map_or(0, |facts| facts.mtu);
        let route_mtu = out.mtu.map_or(u16::MAX, |mtu| u16::try_from(mtu).unwrap_or(u16::MAX));
        let hop = NextHop {
            nic: out.nic,
            resolved: mac.is_some(),
            macs: MacPair::new(mac.unwrap_or(last), facts.map_or([0; 6], |facts| facts.mac)),
            mtu: link_mtu.min(route_mtu),
            neighbour,
        };
        let state = match mac {
            Some(_) => HopState::Resolved,
            None => HopState::Neighbour(known.map(|known| known.state)),
        };
        (Some((out.nic, neighbour)), hop, state)
    }

    fn refresh_counts(&mut self) {
        let (mut clients, mut routes, mut open) = (0, 0, 0);
        for (_, slot) in self.slots.iter() {
            match slot.target {
                HopTarget::Address(_) => {
                    clients += usize::from(!slot.server);
                    open += usize::from(slot.asked && !slot.hop.resolved);
                }
                HopTarget::Route(_) => routes += 1,
                HopTarget::Router(..) => {}
            }
        }
        (self.client_slots, self.route_slots, self.asks_open) = (clients, routes, open);
    }

    fn refresh_wanted(&mut self) {
        let wants = self.slots.iter().filter(|(_, slot)| slot.wants_neighbour());
        let wanted: BTreeSet<(u32, IpAddr)> = wants
            .filter_map(|(_, slot)| {
                let (nic, address) = slot.via?;
                let facts = self.links.get(nic).filter(|facts| facts.up)?;
                let fixed = self.neighbours.get(nic, address).is_some_and(|k| k.state.is_fixed());
                (!fixed).then_some((facts.ifindex?, address))
            })
            .collect();
        self.wanted_changed |= wanted != self.wanted;
        self.wanted = wanted;
    }
}
