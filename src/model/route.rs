//! Where frames go next: routes to clients, and the rewrite data of a next hop.

use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::HashMap;

use super::id::{NextHopId, NicId};
use super::prefix::Prefix;
use crate::wire::pair::MacPair;

/// Rewrite data towards one destination. Lives in each worker's array by `NextHopId`, so that a
/// new MAC address touches one slot and no flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(16))]
pub struct NextHop {
    /// MAC addresses of the neighbour and of the port itself.
    pub macs: MacPair,
    /// Largest IP packet on this path, bytes; 0 where no way leads there by the kernel's word.
    pub mtu: u16,
    /// The port to send from.
    pub nic: NicId,
    /// Whether the neighbour's MAC address is known; if not, frames wait.
    pub resolved: bool,
    /// The neighbour: the destination itself, or the router before it. What frames wait for.
    pub neighbour: IpAddr,
}

/// Where a route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteTarget {
    /// Through a router, whose slot this is.
    Via(NextHopId),
    /// On the port's own link: the neighbour is the destination itself.
    OnLink(NicId),
}

/// One family's routes by prefix length, longest first; `None` is "no way" by the kernel's word.
type Family = Vec<(u8, HashMap<Prefix, Option<RouteTarget>>)>;

#[derive(Debug, Default)]
struct Routes {
    v4: Family,
    v6: Family,
}

/// The kernel's routes as far as gyre's ports are concerned, longest prefix first.
///
/// Asked once a flow (towards the client), never a packet.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    routes: Arc<Routes>,
    neighbours: HashMap<IpAddr, NextHopId>,
}

impl RouteTable {
    /// A table of `routes` and the slots of on-link neighbours seen so far. Of two routes with one
    /// prefix the later wins.
    pub fn new(routes: &[(Prefix, RouteTarget)], neighbours: &[(IpAddr, NextHopId)]) -> Self {
        let routes = routes.iter().map(|&(prefix, target)| (prefix, Some(target)));
        Self::with_gaps(routes).with_neighbours(neighbours.iter().copied())
    }

    /// A table without neighbours in which a prefix may lead nowhere (`None`: an unreachable route,
    /// or one that leaves by an interface which is no port); such a prefix hides shorter ones.
    pub fn with_gaps(routes: impl IntoIterator<Item = (Prefix, Option<RouteTarget>)>) -> Self {
        let mut kept = Routes::default();
        for (prefix, target) in routes {
            let family = if prefix.address().is_ipv4() { &mut kept.v4 } else { &mut kept.v6 };
            let at = family.partition_point(|(bits, _)| *bits > prefix.bits());
            if family.get(at).is_none_or(|(bits, _)| *bits != prefix.bits()) {
                family.insert(at, (prefix.bits(), HashMap::new()));
            }
            family[at].1.insert(prefix, target);
        }
        RouteTable { routes: Arc::new(kept), neighbours: HashMap::new() }
    }

    /// The same routes, shared, with these neighbours instead.
    pub fn with_neighbours(
        &self,
        neighbours: impl IntoIterator<Item = (IpAddr, NextHopId)>,
    ) -> Self {
        RouteTable {
            routes: Arc::clone(&self.routes),
            neighbours: neighbours.into_iter().collect(),
        }
    }

    /// The longest match for `address`.
    pub fn look_up(&self, address: IpAddr) -> Option<RouteTarget> {
        let family = if address.is_ipv4() { &self.routes.v4 } else { &self.routes.v6 };
        family
            .iter()
            .find_map(|(bits, routes)| routes.get(&Prefix::new(address, *bits)?).copied())
            .flatten()
    }

    /// The slot of an on-link neighbour, once control has given it one.
    pub fn neighbour(&self, address: IpAddr) -> Option<NextHopId> {
        self.neighbours.get(&address).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longest_prefix_wins() {
        let table = RouteTable::new(
            &[
                ("0.0.0.0/0".parse().unwrap(), RouteTarget::Via(NextHopId(1))),
                ("10.0.0.0/8".parse().unwrap(), RouteTarget::Via(NextHopId(2))),
                ("10.1.0.0/16".parse().unwrap(), RouteTarget::OnLink(NicId(0))),
            ],
            &[("10.1.0.9".parse().unwrap(), NextHopId(3))],
        );
        let look_up = |text: &str| table.look_up(text.parse().unwrap());
        assert_eq!(look_up("192.0.2.1"), Some(RouteTarget::Via(NextHopId(1))));
        assert_eq!(look_up("10.2.0.1"), Some(RouteTarget::Via(NextHopId(2))));
        assert_eq!(look_up("10.1.0.9"), Some(RouteTarget::OnLink(NicId(0))));
        assert_eq!(look_up("2001:db8::1"), None);
        assert_eq!(table.neighbour("10.1.0.9".parse().unwrap()), Some(NextHopId(3)));
    }

    #[test]
    fn a_prefix_that_leads_nowhere_hides_shorter_ones() {
        let table = RouteTable::with_gaps([
            ("0.0.0.0/0".parse().unwrap(), Some(RouteTarget::OnLink(NicId(0)))),
            ("10.0.0.0/8".parse().unwrap(), None),
            ("10.1.0.0/16".parse().unwrap(), Some(RouteTarget::OnLink(NicId(1)))),
        ]);
        let look_up = |text: &str| table.look_up(text.parse().unwrap());
        assert_eq!(look_up("192.0.2.1"), Some(RouteTarget::OnLink(NicId(0))));
        assert_eq!(look_up("10.2.0.1"), None);
        assert_eq!(look_up("10.1.0.1"), Some(RouteTarget::OnLink(NicId(1))));
    }
}
