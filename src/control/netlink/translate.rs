//! rtnetlink messages into `KernelEvent`s. Remembers which interface numbers belong to the names
//! asked for, and what the kernel will not announce by itself.

use std::net::IpAddr;

use hashbrown::{HashMap, HashSet};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage,
    NeighbourState as WireState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteNextHop,
    RouteNextHopFlags, RouteProtocol, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::model::Prefix;
use crate::model::next_hops::{
    KernelEvent, KernelRoute, Link, Neighbour, NeighbourState, RouteHop,
};

/// Marks neighbour entries that gyre had the kernel manage (NDA_PROTOCOL), so that the next gyre
/// can let go of what one that was killed left behind. Not taken in iproute2's rt_protos.
pub(super) const OUR_PROTOCOL: RouteProtocol = RouteProtocol::Other(103);

/// Whether a new route stands beside or instead of those it resembles (NLM_F_REPLACE).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Placing {
    Beside,
    Instead,
}

#[derive(Debug)]
pub(super) struct Translator {
    names: HashSet<String>,
    known: HashSet<u32>,
    /// Every interface that is there, and whether it is up.
    up: HashMap<u32, bool>,
    routes_doubtful: bool,
}

impl Translator {
    pub(super) fn new(interfaces: &[String]) -> Self {
        Translator {
            names: interfaces.iter().cloned().collect(),
            known: HashSet::new(),
            up: HashMap::new(),
            routes_doubtful: false,
        }
    }

    /// Forgets which interfaces there are; a dump of links follows.
    pub(super) fn forget_links(&mut self) {
        self.known.clear();
        self.up.clear();
    }

    /// Whether routes may have gone unannounced since last asked. When an interface goes down or an
    /// address goes away, the kernel drops IPv4 routes without a message (`fib_sync_down_dev`,
    /// `fib_sync_down_addr`), and marks multipath ways dead or alive without one.
    pub(super) fn take_doubt(&mut self) -> bool {
        std::mem::take(&mut self.routes_doubtful)
    }

    pub(super) fn translate(
        &mut self,
        message: &RouteNetlinkMessage,
        placing: Placing,
    ) -> Option<KernelEvent> {
        match message {
            RouteNetlinkMessage::NewLink(link) => self.new_link(link),
            RouteNetlinkMessage::DelLink(link) => self.lost_link(link),
            RouteNetlinkMessage::NewAddress(message) => {
                let (ifindex, address) = self.address(message)?;
                Some(KernelEvent::AddressAdded { ifindex, address })
            }
            RouteNetlinkMessage::DelAddress(message) => {
                self.routes_doubtful = true;
                let (ifindex, address) = self.address(message)?;
                Some(KernelEvent::AddressRemoved { ifindex, address })
            }
            RouteNetlinkMessage::NewRoute(message) => {
                let route = route(message)?;
                Some(match placing {
                    Placing::Beside => KernelEvent::RouteAdded(route),
                    Placing::Instead => KernelEvent::RouteReplaced(route),
                })
            }
            RouteNetlinkMessage::DelRoute(message) => {
                Some(KernelEvent::RouteRemoved(route(message)?))
            }
            RouteNetlinkMessage::NewNeighbour(message) => {
                Some(KernelEvent::NeighbourChanged(self.neighbour(message)?))
            }
            RouteNetlinkMessage::DelNeighbour(message) => {
                let Neighbour { ifindex, address, .. } = self.neighbour(message)?;
                Some(KernelEvent::NeighbourRemoved { ifindex, address })
            }
            _ => None,
        }
    }

    fn new_link(&mut self, message: &LinkMessage) -> Option<KernelEvent> {
        // A bridge tells of its members in messages of the same kind but its own family.
        if message.header.interface_family != AddressFamily::Unspec {
            return None;
        }
        let mut link = Link {
            ifindex: message.header.index,
            name: String::new(),
            mac: [0; 6],
            mtu: 0,
            up: message.header.flags.contains(LinkFlags::Up),
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Address(mac) => link.mac = mac_of(mac).unwrap_or_default(),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                _ => {}
            }
        }
        let was_up = self.up.insert(link.ifindex, link.up);
        self.routes_doubtful |= was_up.is_some_and(|was_up| was_up != link.up);
        if self.names.contains(&link.name) {
            self.known.insert(link.ifindex);
            return Some(KernelEvent::LinkChanged(link));
        }
        // Renamed away.
        self.known.remove(&link.ifindex).then_some(KernelEvent::LinkChanged(link))
    }

    fn lost_link(&mut self, message: &LinkMessage) -> Option<KernelEvent> {
        if message.header.interface_family != AddressFamily::Unspec {
            return None;
        }
        let ifindex = message.header.index;
        self.routes_doubtful = true;
        self.up.remove(&ifindex);
        self.known.remove(&ifindex).then_some(KernelEvent::LinkRemoved { ifindex })
    }

    fn address(&self, message: &AddressMessage) -> Option<(u32, IpAddr)> {
        let ifindex = message.header.index;
        if !self.known.contains(&ifindex) {
            return None;
        }
        Some((ifindex, own_address(message)?))
    }

    fn neighbour(&self, message: &NeighbourMessage) -> Option<Neighbour> {
        let header = &message.header;
        let is_ip = matches!(header.family, AddressFamily::Inet | AddressFamily::Inet6);
        let is_proxy = header.flags.contains(NeighbourFlags::Proxy);
        if !is_ip || is_proxy || !self.known.contains(&header.ifindex) {
            return None;
        }
        let (mut address, mut mac, mut managed, mut ours) = (None, None, false, false);
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                    address = Some(IpAddr::V4(*v4));
                }
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                    address = Some(IpAddr::V6(*v6));
                }
                NeighbourAttribute::LinkLayerAddress(bytes) => mac = mac_of(bytes),
                NeighbourAttribute::ExtFlags(flags) => {
                    managed = flags.contains(NeighbourExtFlags::Managed);
                }
                NeighbourAttribute::Protocol(protocol) => ours = *protocol == OUR_PROTOCOL,
                _ => {}
            }
        }
        let address = address.filter(|address| !address.is_multicast())?;
        let mut state = state(header.state);
        if header.flags.contains(NeighbourFlags::ExtLearned) && state.is_valid() {
            // Another daemon answers for it (EVPN); asking the kernel to use it would take that
            // mark away.
            state = NeighbourState::Permanent;
        }
        Some(Neighbour { ifindex: header.ifindex, address, mac, state, managed, ours })
    }
}

fn mac_of(bytes: &[u8]) -> Option<[u8; 6]> {
    bytes.try_into().ok().filter(|mac| *mac != [0; 6])
}

fn state(state: WireState) -> NeighbourState {
    match state {
        WireState::Incomplete => NeighbourState::Incomplete,
        WireState::Reachable => NeighbourState::Reachable,
        WireState::Stale => NeighbourState::Stale,
        WireState::Delay => NeighbourState::Delay,
        WireState::Probe => NeighbourState::Probe,
        WireState::Failed => NeighbourState::Failed,
        WireState::Noarp => NeighbourState::NoArp,
        WireState::Permanent => NeighbourState::Permanent,
        _ => NeighbourState::None,
    }
}

/// A route of the main table that forwards or forbids; `None` for any other.
fn route(message: &RouteMessage) -> Option<KernelRoute> {
    let header = &message.header;
    let table = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    let is_main = table.unwrap_or(u32::from(header.table)) == u32::from(RouteHeader::RT_TABLE_MAIN);
    let is_plain = header.tos == 0
        && header.source_prefix_length == 0
        && !header.flags.contains(RouteFlags::Cloned);
    let forbids = match header.kind {
        RouteType::Unicast => false,
        RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit | RouteType::Throw => {
            true
        }
        _ => return None,
    };
    if !is_main || !is_plain {
        return None;
    }
    let mut route = KernelRoute {
        prefix: Prefix::new(unspecified(header.address_family)?, 0)?,
        metric: 0,
        mtu: None,
        hops: Vec::new(),
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => {
                route.prefix = Prefix::new(address_of(address)?, header.destination_prefix_length)?;
            }
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::Metrics(metrics) => route.mtu = mtu_of(metrics),
            RouteAttribute::MultiPath(hops) => route.hops.extend(hops.iter().map(way)),
            _ => {}
        }
    }
    let single = single_way(message);
    route.hops.extend(single.filter(|_| route.hops.is_empty()));
    if forbids {
        // IPv6 names the loopback interface on these.
        route.hops.clear();
    } else if route.hops.is_empty() {
        return None;
    }
    Some(route)
}

fn unspecified(family: AddressFamily) -> Option<IpAddr> {
    match family {
        AddressFamily::Inet => Some(IpAddr::from([0u8; 4])),
        AddressFamily::Inet6 => Some(IpAddr::from([0u8; 16])),
        _ => None,
    }
}

/// Our address of a message: on a point-to-point interface IFA_ADDRESS is the peer, IFA_LOCAL our
/// side; IPv6 has IFA_ADDRESS alone.
pub(super) fn own_address(message: &AddressMessage) -> Option<IpAddr> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let plain = || {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    };
    local.or_else(plain)
}

fn address_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

fn mtu_of(metrics: &[RouteMetric]) -> Option<u32> {
    metrics.iter().find_map(|metric| match metric {
        RouteMetric::Mtu(mtu) => Some(*mtu),
        _ => None,
    })
}

/// The router that attributes name; IPv4 routes may go by an IPv6 router (RFC 5549).
fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(address) => address_of(address),
        RouteAttribute::Via(RouteVia::Inet(v4)) => Some(IpAddr::V4(*v4)),
        RouteAttribute::Via(RouteVia::Inet6(v6)) => Some(IpAddr::V6(*v6)),
        _ => None,
    })
}

fn single_way(message: &RouteMessage) -> Option<RouteHop> {
    let ifindex = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(ifindex) => Some(*ifindex),
        _ => None,
    })?;
    let dead = message.header.flags.contains(RouteFlags::Dead);
    Some(RouteHop { ifindex, gateway: gateway(&message.attributes), dead })
}

fn way(hop: &RouteNextHop) -> RouteHop {
    RouteHop {
        ifindex: hop.interface_index,
        gateway: gateway(&hop.attributes),
        dead: hop.flags.contains(RouteNextHopFlags::Dead),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn translator() -> Translator {
        let mut translator = Translator::new(&["wan".into()]);
        translator.translate(&link(5, "wan", LinkFlags::Up), Placing::Beside).unwrap();
        translator
    }

    fn link(ifindex: u32, name: &str, flags: LinkFlags) -> RouteNetlinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = ifindex;
        message.header.flags = flags;
        message.attributes = vec![
            LinkAttribute::IfName(name.into()),
            LinkAttribute::Address(vec![2, 0, 0, 0, 0, 5]),
            LinkAttribute::Mtu(1500),
        ];
        RouteNetlinkMessage::NewLink(message)
    }

    fn route_message(kind: RouteType, attributes: &[RouteAttribute]) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.kind = kind;
        message.attributes = attributes.to_vec();
        message
    }

    fn neighbour(ifindex: u32, flags: NeighbourFlags) -> RouteNetlinkMessage {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.ifindex = ifindex;
        message.header.state = WireState::Stale;
        message.header.flags = flags;
        message.attributes = vec![
            NeighbourAttribute::Destination(NeighbourAddress::Inet([10, 0, 0, 9].into())),
            NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, 9]),
        ];
        RouteNetlinkMessage::NewNeighbour(message)
    }

    #[test]
    fn only_named_interfaces_are_told_and_renaming_ends_it() {
        let mut translator = translator();
        assert_eq!(translator.translate(&link(6, "eth7", LinkFlags::Up), Placing::Beside), None);
        assert_eq!(
            translator.translate(&neighbour(6, NeighbourFlags::empty()), Placing::Beside),
            None
        );
        assert!(
            translator.translate(&neighbour(5, NeighbourFlags::empty()), Placing::Beside).is_some()
        );
        let renamed = translator.translate(&link(5, "old", LinkFlags::Up), Placing::Beside);
        assert!(matches!(renamed, Some(KernelEvent::LinkChanged(link)) if link.name == "old"));
        assert_eq!(
            translator.translate(&neighbour(5, NeighbourFlags::empty()), Placing::Beside),
            None
        );
    }

    #[test]
    fn bridge_messages_are_not_links() {
        let mut translator = translator();
        let mut message = LinkMessage::default();
        message.header.interface_family = AddressFamily::Bridge;
        message.header.index = 5;
        let leaves_bridge = RouteNetlinkMessage::DelLink(message);
        assert_eq!(translator.translate(&leaves_bridge, Placing::Beside), None);
        assert!(!translator.take_doubt());
    }

    #[test]
    fn any_interface_that_goes_up_or_down_puts_routes_in_doubt() {
        let mut translator = translator();
        assert!(!translator.take_doubt());
        translator.translate(&link(9, "eth7", LinkFlags::Up), Placing::Beside);
        assert!(!translator.take_doubt());
        translator.translate(&link(9, "eth7", LinkFlags::empty()), Placing::Beside);
        assert!(translator.take_doubt());
        translator.translate(&link(9, "eth7", LinkFlags::empty()), Placing::Beside);
        assert!(!translator.take_doubt());
    }

    #[test]
    fn what_another_daemon_learned_is_left_alone() {
        let mut translator = translator();
        let learned = neighbour(5, NeighbourFlags::ExtLearned);
        let event = translator.translate(&learned, Placing::Beside);
        assert!(matches!(
            event,
            Some(KernelEvent::NeighbourChanged(n)) if n.state == NeighbourState::Permanent
        ));
        let proxy = neighbour(5, NeighbourFlags::Proxy);
        assert_eq!(translator.translate(&proxy, Placing::Beside), None);
    }

    #[test]
    fn routes_of_each_kind() {
        let oif = RouteAttribute::Oif(5);
        let gateway = RouteAttribute::Gateway(RouteAddress::Inet([10, 0, 0, 1].into()));
        let via = RouteAttribute::Via(RouteVia::Inet6("fe80::1".parse().unwrap()));
        let mut second = RouteNextHop::default();
        second.interface_index = 7;
        second.flags = RouteNextHopFlags::Dead;
        let mut first = RouteNextHop::default();
        first.interface_index = 5;
        first.attributes = vec![gateway.clone()];
        let hop = |ifindex, gateway: Option<&str>, dead| RouteHop {
            ifindex,
            gateway: gateway.map(|text| text.parse().unwrap()),
            dead,
        };
        let paths = RouteAttribute::MultiPath(vec![first, second]);
        type Row = (&'static str, RouteType, Vec<RouteAttribute>, Option<Vec<RouteHop>>);
        let table: [Row; 8] = [
            ("on-link", RouteType::Unicast, vec![oif.clone()], Some(vec![hop(5, None, false)])),
            (
                "via a router",
                RouteType::Unicast,
                vec![oif.clone(), gateway],
                Some(vec![hop(5, Some("10.0.0.1"), false)]),
            ),
            (
                "IPv4 via an IPv6 router",
                RouteType::Unicast,
                vec![oif.clone(), via],
                Some(vec![hop(5, Some("fe80::1"), false)]),
            ),
            (
                "multipath",
                RouteType::Unicast,
                vec![paths],
                Some(vec![hop(5, Some("10.0.0.1"), false), hop(7, None, true)]),
            ),
            ("unreachable", RouteType::Unreachable, vec![oif.clone()], Some(vec![])),
            ("blackhole", RouteType::BlackHole, vec![], Some(vec![])),
            ("local", RouteType::Local, vec![oif.clone()], None),
            ("other table", RouteType::Unicast, vec![oif, RouteAttribute::Table(1000)], None),
        ];
        for (what, kind, attributes, hops) in table {
            let translated = route(&route_message(kind, &attributes));
            assert_eq!(translated.map(|route| route.hops), hops, "{what}");
        }
    }

    #[test]
    fn a_routes_prefix_metric_and_mtu_are_read() {
        let mut message = route_message(
            RouteType::Unicast,
            &[
                RouteAttribute::Destination(RouteAddress::Inet([10, 1, 0, 0].into())),
                RouteAttribute::Priority(20),
                RouteAttribute::Metrics(vec![RouteMetric::Advmss(1), RouteMetric::Mtu(1400)]),
                RouteAttribute::Oif(5),
            ],
        );
        message.header.destination_prefix_length = 16;
        let route = route(&message).unwrap();
        assert_eq!(route.prefix.to_string(), "10.1.0.0/16");
        assert_eq!((route.metric, route.mtu), (20, Some(1400)));
    }
}
