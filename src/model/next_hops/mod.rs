//! Next hops: which slot stands for which destination, and what each slot holds, worked out from
//! the kernel's links, routes and neighbours and from the configuration.
//!
//! A slot stands for a destination, not for a MAC address: when a MAC, a router or a route changes,
//! one slot's content changes and no flow is touched. Flows ask the route table only once, so a
//! change of the table's prefixes or targets is reported and control has them ask again.
//!
//! Pure: events in, updates out. Where events come from and who sends the kernel's requests is
//! `control::netlink`; nothing here reads a clock or a socket.

mod event;
mod links;
mod neighbours;
mod refresh;
mod routes;
mod slots;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use crate::limits::{CLIENT_ASKS_OPEN_MAX, CLIENT_HOPS_MAX};

use super::id::{NextHopId, NicId};
use super::prefix::Prefix;
use super::route::{NextHop, RouteTable, RouteTarget};

pub use event::{
    KernelEvent, KernelRoute, Knowledge, Link, Neighbour, NeighbourState, NicLink, RouteHop,
    StaticNeighbour, StaticRoute,
};
pub use links::NicFacts;
pub use slots::{HopState, HopTarget, RetiredHop};

use links::{LinkEffect, Links};
use neighbours::Neighbours;
use routes::{Path, RouteStore};
use slots::Slots;

/// A fresh route table.
#[derive(Clone, Debug)]
pub struct RouteUpdate {
    /// The table.
    pub table: Arc<RouteTable>,
    /// Whether prefixes or their targets differ from the table before, so that flows must forget
    /// the hops they took from it (`SweepAction::ForgetRoutes`). False when only on-link
    /// neighbours came or went.
    pub targets_changed: bool,
}

/// One slot as shown to people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HopRow {
    /// The slot.
    pub id: NextHopId,
    /// What it leads to.
    pub target: HopTarget,
    /// Whether servers, routes or clients still use it.
    pub used: bool,
    /// Whether it can be used.
    pub state: HopState,
    /// Its content.
    pub hop: NextHop,
}

/// Every slot of `limits::NEXT_HOPS_MAX` (or a kind's share of them) is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no next-hop slot left for {0}; {max} may be in use", max = crate::limits::NEXT_HOPS_MAX)]
pub struct NoSlot(pub IpAddr);

/// What events have touched since outputs were last worked out.
#[derive(Debug, Default)]
struct Dirty {
    /// Links or the whole of the routes: everything.
    all: bool,
    prefixes: HashSet<Prefix>,
    neighbours: HashSet<(NicId, IpAddr)>,
    slots: Vec<NextHopId>,
}

impl Dirty {
    fn routes(&self) -> bool {
        self.all || !self.prefixes.is_empty()
    }

    fn any(&self) -> bool {
        self.routes() || !self.neighbours.is_empty() || !self.slots.is_empty()
    }
}

/// The registry. Feed it (`apply`, `set_static`, `hop_for_server`, `resolve`), then take what
/// changed (`take_updates`, `take_routes`, `take_wanted`, `take_interfaces`): outputs are worked
/// out when taken, so a batch of events that ends where it began gives none.
#[derive(Debug)]
pub struct NextHops {
    links: Links,
    routes: RouteStore,
    neighbours: Neighbours,
    slots: Slots,
    targets: HashMap<Prefix, Option<RouteTarget>>,
    table: Arc<RouteTable>,
    wanted: BTreeSet<(u32, IpAddr)>,
    dirty: Dirty,
    targets_changed: bool,
    neighbours_changed: bool,
    wanted_changed: bool,
    interfaces_changed: bool,
    client_slots: usize,
    route_slots: usize,
    asks_open: usize,
    refused: u64,
}

impl NextHops {
    /// No routes and no neighbours yet; interfaces are matched to `nics` by name as events come.
    pub fn new(nics: Vec<NicLink>) -> Self {
        NextHops {
            links: Links::new(nics),
            routes: RouteStore::default(),
            neighbours: Neighbours::default(),
            slots: Slots::default(),
            targets: HashMap::new(),
            table: Arc::default(),
            wanted: BTreeSet::new(),
            dirty: Dirty { all: true, ..Dirty::default() },
            targets_changed: false,
            neighbours_changed: false,
            wanted_changed: true,
            interfaces_changed: true,
            client_slots: 0,
            route_slots: 0,
            asks_open: 0,
            refused: 0,
        }
    }

    /// Replaces what the configuration says.
    pub fn set_static(&mut self, neighbours: &[StaticNeighbour], routes: &[StaticRoute]) {
        self.neighbours.set_static(neighbours);
        self.routes.set_static(routes);
        self.dirty.all = true;
    }

    /// Takes a batch of events. Outputs change only when taken, so a `Forget` and the dump that
    /// follows it belong into one batch.
    pub fn apply(&mut self, events: &[KernelEvent]) {
        events.iter().for_each(|event| self.apply_one(event));
    }

    /// The slot for a real server's address, one for all servers that share it.
    pub fn hop_for_server(&mut self, rip: IpAddr) -> Result<NextHopId, NoSlot> {
        let id = self.slots.open(HopTarget::Address(rip)).ok_or(NoSlot(rip))?;
        if let Some(slot) = self.slots.get_mut(id) {
            slot.server = true;
        }
        self.dirty.slots.push(id);
        Ok(id)
    }

    /// Servers whose address is not among these are gone, with their last flow
    /// (`Registry::rips` lists them). Their slots keep their content until reclaimed.
    pub fn keep_servers(&mut self, live: &HashSet<IpAddr>) {
        for (id, slot) in self.slots.iter_mut() {
            if slot.server && slot.address().is_none_or(|rip| !live.contains(&rip)) {
                slot.server = false;
                self.dirty.slots.push(id);
            }
        }
    }

    /// A worker holds a frame for this neighbour of a port, be it a client without a slot or the
    /// neighbour of a slot that is not resolved. Gives the kernel interface to ask on now, or
    /// `None` when there is nobody to ask (no route, no interface, too many open questions).
    pub fn resolve(&mut self, nic: NicId, address: IpAddr) -> Option<(u32, IpAddr)> {
        self.refresh();
        let ifindex = self.links.get(nic).filter(|facts| facts.up)?.ifindex?;
        if self.neighbours.is_static(nic, address) {
            return None;
        }
        let on_link = matches!(
            self.routes.look_up(address, &self.links),
            Path::Out(out) if out.nic == nic && out.gateway.is_none()
        );
        if on_link && is_client_address(address) && !self.links.is_own_address(address) {
            self.ask(address)?;
            return Some((ifindex, address));
        }
        let known = self.slots.iter().any(|(_, slot)| slot.via == Some((nic, address)));
        known.then_some((ifindex, address))
    }

    /// The slot of a neighbour of a port, once that is resolved.
    pub fn resolved(&mut self, nic: NicId, address: IpAddr) -> Option<(NextHopId, NextHop)> {
        self.refresh();
        let found = self.slots.iter().find(|(_, slot)| slot.via == Some((nic, address)));
        found.map(|(id, slot)| (id, slot.hop)).filter(|(_, hop)| hop.resolved)
    }

    /// Slots whose content workers do not have yet. Send them before the snapshot that names them.
    pub fn take_updates(&mut self) -> Vec<(NextHopId, NextHop)> {
        self.refresh();
        self.slots.take_unsent()
    }

    /// Every slot's content, for a worker that starts late.
    pub fn all(&mut self) -> Vec<(NextHopId, NextHop)> {
        self.refresh();
        self.slots.iter().map(|(id, slot)| (id, slot.hop)).collect()
    }

    /// The route table, when it differs from the one last taken.
    pub fn take_routes(&mut self) -> Option<RouteUpdate> {
        self.refresh();
        if !self.targets_changed && !self.neighbours_changed {
            return None;
        }
        self.build_table();
        let targets_changed = std::mem::take(&mut self.targets_changed);
        self.neighbours_changed = false;
        Some(RouteUpdate { table: Arc::clone(&self.table), targets_changed })
    }

    /// The neighbours that the kernel is to resolve and keep fresh, (interface, address), when
    /// the set differs from the one last taken, and the first time.
    pub fn take_wanted(&mut self) -> Option<Vec<(u32, IpAddr)>> {
        self.refresh();
        std::mem::take(&mut self.wanted_changed).then(|| self.wanted.iter().copied().collect())
    }

    /// The ports' interfaces, when anything about them changed (MAC, MTU, state, addresses).
    pub fn take_interfaces(&mut self) -> Option<Vec<NicFacts>> {
        std::mem::take(&mut self.interfaces_changed).then(|| self.links.all().to_vec())
    }

    /// Slots that neither a server nor the route table last taken names. A flow may still hold
    /// one: reclaim it after every worker has adopted that table and finished a `ForgetRoutes`
    /// sweep begun afterwards, and no flow of a released server is left.
    pub fn retired(&mut self) -> Vec<RetiredHop> {
        self.refresh();
        if self.targets_changed || self.neighbours_changed {
            return Vec::new();
        }
        self.slots.retired()
    }

    /// Makes a retired slot free for another destination. False when it was taken up again since
    /// `retired` named it, which leaves it as it is.
    pub fn reclaim(&mut self, retired: RetiredHop) -> bool {
        self.refresh();
        self.slots.reclaim(retired)
    }

    /// Every slot, for people.
    pub fn rows(&mut self) -> Vec<HopRow> {
        self.refresh();
        let row = |(id, slot): (NextHopId, &slots::Slot)| HopRow {
            id,
            target: slot.target,
            used: slot.is_used(),
            state: slot.state,
            hop: slot.hop,
        };
        self.slots.iter().map(row).collect()
    }

    /// The slots in use that cannot be used, for status.
    pub fn unresolved(&mut self) -> Vec<HopRow> {
        let mut rows = self.rows();
        rows.retain(|row| row.used && !row.hop.resolved);
        rows
    }

    /// Clients and routes that found no slot, since the start.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    fn ask(&mut self, client: IpAddr) -> Option<()> {
        let target = HopTarget::Address(client);
        let slot = self.slots.find(target).and_then(|id| self.slots.get(id));
        let new = slot.is_none();
        let open = !slot.is_some_and(|slot| slot.asked || slot.hop.resolved);
        let crowded = new && self.client_slots >= CLIENT_HOPS_MAX;
        if crowded || (open && self.asks_open >= CLIENT_ASKS_OPEN_MAX) {
            self.refused += 1;
            return None;
        }
        let Some(id) = self.slots.open(target) else {
            self.refused += 1;
            return None;
        };
        self.asks_open += usize::from(open);
        self.client_slots += usize::from(new);
        if let Some(slot) = self.slots.get_mut(id) {
            slot.asked = true;
        }
        self.dirty.slots.push(id);
        Some(())
    }

    fn apply_one(&mut self, event: &KernelEvent) {
        match event {
            KernelEvent::LinkChanged(link) => {
                let effect = self.links.change(link);
                self.after_link(effect);
                if !link.up {
                    self.routes.kill(link.ifindex);
                }
            }
            KernelEvent::LinkRemoved { ifindex } => {
                let effect = self.links.remove(*ifindex);
                self.after_link(effect);
                self.routes.kill(*ifindex);
            }
            KernelEvent::AddressAdded { ifindex, address } => {
                let news = self.links.add_address(*ifindex, *address);
                self.after_address(news);
            }
            KernelEvent::AddressRemoved { ifindex, address } => {
                let news = self.links.remove_address(*ifindex, *address);
                self.after_address(news);
            }
            KernelEvent::RouteAdded(route) => self.change_route(route, RouteStore::add),
            KernelEvent::RouteReplaced(route) => self.change_route(route, RouteStore::replace),
            KernelEvent::RouteRemoved(route) => self.change_route(route, RouteStore::remove),
            KernelEvent::NeighbourChanged(neighbour) => self.change_neighbour(neighbour),
            KernelEvent::NeighbourRemoved { ifindex, address } => {
                let nic = self.links.by_ifindex(*ifindex).map(|facts| facts.nic);
                if let Some(nic) = nic
                    && self.neighbours.remove(nic, *address)
                {
                    self.lose_neighbour(nic, *address);
                }
            }
            KernelEvent::Forget(knowledge) => self.forget(*knowledge),
        }
    }

    fn after_link(&mut self, effect: LinkEffect) {
        if let LinkEffect::Unbound(nic) = effect {
            self.neighbours.forget_nic(nic);
        }
        if effect != LinkEffect::Nothing {
            self.dirty.all = true;
            self.interfaces_changed = true;
        }
    }

    fn after_address(&mut self, news: bool) {
        // An address may be a server's or a client's until it is our own.
        self.dirty.all |= news;
        self.interfaces_changed |= news;
    }

    fn change_route(&mut self, route: &KernelRoute, change: fn(&mut RouteStore, &KernelRoute)) {
        change(&mut self.routes, route);
        self.dirty.prefixes.insert(route.prefix);
    }

    fn change_neighbour(&mut self, neighbour: &Neighbour) {
        let Some(nic) = self.links.by_ifindex(neighbour.ifindex).map(|facts| facts.nic) else {
            return;
        };
        if self.neighbours.change(nic, neighbour) {
            self.dirty.neighbours.insert((nic, neighbour.address));
        }
        if neighbour.state == NeighbourState::Failed {
            self.lose_neighbour(nic, neighbour.address);
        }
    }

    /// A neighbour did not answer or was forgotten: an on-link client is no longer awaited.
    fn lose_neighbour(&mut self, nic: NicId, address: IpAddr) {
        if let Some(id) = self.slots.find(HopTarget::Address(address))
            && let Some(slot) = self.slots.get_mut(id)
        {
            slot.asked = false;
        }
        self.dirty.neighbours.insert((nic, address));
    }

    fn forget(&mut self, knowledge: Knowledge) {
        match knowledge {
            Knowledge::Links => {
                self.links.forget_interfaces();
                self.neighbours.forget_kernel();
                self.interfaces_changed = true;
            }
            Knowledge::Addresses => {
                self.links.forget_addresses();
                self.interfaces_changed = true;
            }
            Knowledge::Routes => self.routes.forget_kernel(),
            Knowledge::Neighbours => self.neighbours.forget_kernel(),
        }
        self.dirty.all = true;
    }
}

/// Whether an address can be one station's on a link. A link-local one means nothing without its
/// port, which the route table does not ask for.
fn is_client_address(address: IpAddr) -> bool {
    !address.is_multicast()
        && !address.is_unspecified()
        && !address.is_loopback()
        && match address {
            IpAddr::V4(v4) => !v4.is_broadcast(),
            IpAddr::V6(v6) => !v6.is_unicast_link_local(),
        }
}
