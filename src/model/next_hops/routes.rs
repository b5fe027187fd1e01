//! Every route that the kernel's main table and the configuration have, and the choice between
//! them: longest prefix, then the configuration's, then the lowest metric, then the first live way.

use std::net::IpAddr;

use hashbrown::HashMap;

use super::super::id::NicId;
use super::super::prefix::Prefix;
use super::event::{KernelRoute, RouteHop, StaticRoute};
use super::links::Links;

/// The interface that a way leaves by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    /// A kernel interface, a port's or not.
    Interface(u32),
    /// A port, by the configuration's word.
    Nic(NicId),
}

#[derive(Clone, Copy, Debug)]
struct Way {
    exit: Exit,
    gateway: Option<IpAddr>,
    dead: bool,
}

#[derive(Clone, Debug)]
struct Entry {
    /// The configuration's come first (`None` sorts below `Some`).
    metric: Option<u32>,
    mtu: Option<u32>,
    /// None: unreachable by decree.
    ways: Vec<Way>,
}

/// Where a destination's frames go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Path {
    /// Out of a port.
    Out(Out),
    /// No route at all.
    NoRoute,
    /// An "unreachable" route.
    Prohibited,
    /// The route leaves by an interface that is no port.
    Foreign(u32),
    /// The route leaves by this port, whose interface is down.
    Down(NicId),
}

/// A usable path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Out {
    pub(super) nic: NicId,
    /// Router, or none on the link.
    pub(super) gateway: Option<IpAddr>,
    /// The route's own limit, bytes.
    pub(super) mtu: Option<u32>,
}

/// Routes by prefix.
#[derive(Debug)]
pub(super) struct RouteStore {
    prefixes: HashMap<Prefix, Vec<Entry>>,
    /// How many prefixes have each length, so that a look-up asks only for those in use.
    lengths_v4: [u32; 33],
    lengths_v6: [u32; 129],
}

impl Default for RouteStore {
    fn default() -> Self {
        RouteStore { prefixes: HashMap::new(), lengths_v4: [0; 33], lengths_v6: [0; 129] }
    }
}

impl RouteStore {
    /// Adds ways to what the prefix has under this metric. The kernel announces each way of an IPv6
    /// multipath route by itself, so adding means union.
    pub(super) fn add(&mut self, route: &KernelRoute) {
        let entries = self.entries(route.prefix);
        let known = entries.iter_mut().find(|entry| {
            entry.metric == Some(route.metric) && entry.ways.is_empty() == route.hops.is_empty()
        });
        let Some(entry) = known else {
            return insert(entries, Entry::from(route));
        };
        entry.mtu = route.mtu;
        for way in route.hops.iter().map(Way::from) {
            match entry.ways.iter_mut().find(|known| known.is_like(&way)) {
                Some(known) => known.dead = way.dead,
                None => entry.ways.push(way),
            }
        }
    }

    /// Puts a route in the place of all that the prefix had under this metric.
    pub(super) fn replace(&mut self, route: &KernelRoute) {
        let entries = self.entries(route.prefix);
        entries.retain(|entry| entry.metric != Some(route.metric));
        insert(entries, Entry::from(route));
    }

    /// Takes these ways away; a route without ways goes.
    pub(super) fn remove(&mut self, route: &KernelRoute) {
        let Some(entries) = self.prefixes.get_mut(&route.prefix) else { return };
        entries.retain_mut(|entry| {
            let decree = entry.ways.is_empty();
            if entry.metric != Some(route.metric) || decree != route.hops.is_empty() {
                return true;
            }
            entry.ways.retain(|way| !route.hops.iter().any(|gone| Way::from(gone).is_like(way)));
            !entry.ways.is_empty()
        });
        if entries.is_empty() {
            self.drop_prefix(route.prefix);
        }
    }

    /// An interface went down, and with it the kernel's routes by it, of which it announces only
    /// some. They must not come to life again when the interface does.
    pub(super) fn kill(&mut self, ifindex: u32) {
        let exit = Exit::Interface(ifindex);
        let ways = self.prefixes.values_mut().flatten().flat_map(|entry| &mut entry.ways);
        ways.filter(|way| way.exit == exit).for_each(|way| way.dead = true);
    }

    /// Forgets the kernel's routes and keeps the configuration's.
    pub(super) fn forget_kernel(&mut self) {
        self.retain(|entry| entry.metric.is_none());
    }

    /// Replaces the configuration's routes.
    pub(super) fn set_static(&mut self, routes: &[StaticRoute]) {
        self.retain(|entry| entry.metric.is_some());
        for route in routes {
            let way = Way { exit: Exit::Nic(route.nic), gateway: route.gateway, dead: false };
            let entry = Entry { metric: None, mtu: None, ways: vec![way] };
            insert(self.entries(route.prefix), entry);
        }
    }

    /// All prefixes, in no order.
    pub(super) fn prefixes(&self) -> impl Iterator<Item = Prefix> + '_ {
        self.prefixes.keys().copied()
    }

    /// Whether the prefix has any route.
    pub(super) fn has(&self, prefix: Prefix) -> bool {
        self.prefixes.contains_key(&prefix)
    }

    /// The choice among one prefix' routes.
    pub(super) fn best(&self, prefix: Prefix, links: &Links) -> Path {
        self.prefixes.get(&prefix).map_or(Path::NoRoute, |entries| choose(entries, links))
    }

    /// The path to an address by longest match.
    pub(super) fn look_up(&self, address: IpAddr, links: &Links) -> Path {
        let lengths: &[u32] = if address.is_ipv4() { &self.lengths_v4 } else { &self.lengths_v6 };
        let used = (0..lengths.len()).rev().filter(|bits| lengths[*bits] > 0);
        used.filter_map(|bits| self.prefixes.get(&Prefix::new(address, bits as u8)?))
            .map(|entries| choose(entries, links))
            .next()
            .unwrap_or(Path::NoRoute)
    }

    fn retain(&mut self, keep: impl Fn(&Entry) -> bool) {
        self.prefixes.values_mut().for_each(|entries| entries.retain(&keep));
        let empty =
            |(prefix, entries): (&Prefix, &Vec<Entry>)| entries.is_empty().then_some(*prefix);
        let gone: Vec<Prefix> = self.prefixes.iter().filter_map(empty).collect();
        gone.into_iter().for_each(|prefix| self.drop_prefix(prefix));
    }

    fn entries(&mut self, prefix: Prefix) -> &mut Vec<Entry> {
        if !self.prefixes.contains_key(&prefix) {
            *self.length(prefix) += 1;
        }
        self.prefixes.entry(prefix).or_default()
    }

    fn drop_prefix(&mut self, prefix: Prefix) {
        if self.prefixes.remove(&prefix).is_some() {
            *self.length(prefix) -= 1;
        }
    }

    fn length(&mut self, prefix: Prefix) -> &mut u32 {
        let bits = usize::from(prefix.bits());
        match prefix.address() {
            IpAddr::V4(_) => &mut self.lengths_v4[bits],
            IpAddr::V6(_) => &mut self.lengths_v6[bits],
        }
    }
}

impl Way {
    fn is_like(&self, other: &Way) -> bool {
        self.exit == other.exit && self.gateway == other.gateway
    }
}

impl From<&RouteHop> for Way {
    fn from(hop: &RouteHop) -> Self {
        Way { exit: Exit::Interface(hop.ifindex), gateway: hop.gateway, dead: hop.dead }
    }
}

impl From<&KernelRoute> for Entry {
    fn from(route: &KernelRoute) -> Self {
        Entry {
            metric: Some(route.metric),
            mtu: route.mtu,
            ways: route.hops.iter().map(Way::from).collect(),
        }
    }
}

fn insert(entries: &mut Vec<Entry>, entry: Entry) {
    let at = entries.partition_point(|known| known.metric <= entry.metric);
    entries.insert(at, entry);
}

/// The first entry with a live way decides; without one the first entry tells why there is none.
fn choose(entries: &[Entry], links: &Links) -> Path {
    let mut reason = Path::NoRoute;
    for entry in entries {
        if entry.ways.is_empty() {
            return if reason == Path::NoRoute { Path::Prohibited } else { reason };
        }
        let mut foreign = None;
        for way in entry.ways.iter().filter(|way| !way.dead) {
            match leave(*way, links) {
                Path::Out(out) => return Path::Out(Out { mtu: entry.mtu, ..out }),
                Path::Foreign(ifindex) => foreign = foreign.or(Some(ifindex)),
                other if reason == Path::NoRoute => reason = other,
                _ => {}
            }
        }
        // The kernel would send it there, so the worse metric's way is not ours to take.
        if let Some(ifindex) = foreign {
            return Path::Foreign(ifindex);
        }
    }
    reason
}

fn leave(way: Way, links: &Links) -> Path {
    let nic = match way.exit {
        Exit::Nic(nic) => nic,
        Exit::Interface(ifindex) => match links.by_ifindex(ifindex) {
            None => return Path::Foreign(ifindex),
            Some(facts) if !facts.up => return Path::Down(facts.nic),
            Some(facts) => facts.nic,
        },
    };
    Path::Out(Out { nic, gateway: way.gateway, mtu: None })
}
