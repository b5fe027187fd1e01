//! What services are known by, and which packets are theirs.
//!
//! A service is an address with one port, a range of ports or all, or a named group of such
//! matches that is scheduled as one (what a firewall mark is to IPVS). `Traffic` finds the service
//! of a packet: groups first, then the exact port, then ranges (the kernel's order).

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use arrayvec::ArrayString;
use hashbrown::{HashMap, HashSet};

use super::id::ServiceId;
use super::prefix::Prefix;
use super::service::Protocol;

/// Port of FTP's control connections, to which the kernel ties two rules of its own.
pub const FTP_PORT: u16 = 21;
/// Port of FTP's active data connections.
pub const FTP_DATA_PORT: u16 = 20;
/// Lowest port that needs no privilege: from here on a VIP's free ports are its FTP service's.
const UNPRIVILEGED_PORT: u16 = 1024;

/// Ports of a service: one, a range, or all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ports {
    first: u16,
    last: u16,
}

impl Ports {
    /// Every port: "port 0" to IPVS.
    pub const ALL: Ports = Ports { first: 0, last: u16::MAX };

    /// One port; 0 means all, as users of IPVS write it.
    pub const fn one(port: u16) -> Self {
        if port == 0 { Ports::ALL } else { Ports { first: port, last: port } }
    }

    /// `first` to `last`; `None` unless 1 <= `first` <= `last`.
    pub const fn range(first: u16, last: u16) -> Option<Self> {
        if first == 0 || first > last { None } else { Some(Ports { first, last }) }
    }

    /// Lowest port; 0 where all are meant.
    pub const fn first(self) -> u16 {
        self.first
    }

    /// Highest port.
    pub const fn last(self) -> u16 {
        self.last
    }

    /// The port, where it is one.
    pub const fn single(self) -> Option<u16> {
        if self.first == self.last { Some(self.first) } else { None }
    }

    /// Whether `port` is among them.
    #[inline]
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    /// Whether some port is among both.
    pub const fn overlap(self, other: Ports) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    fn width(self) -> u32 {
        u32::from(self.last) - u32::from(self.first)
    }
}

/// `80`, `8000-8010`, or `0` for all.
impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (*self, self.single()) {
            (Ports::ALL, _) => f.write_str("0"),
            (_, Some(port)) => port.fmt(f),
            (ports, None) => write!(f, "{}-{}", ports.first, ports.last),
        }
    }
}

impl FromStr for Ports {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let port = |text: &str| {
            let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            plain.then(|| text.parse::<u16>().ok()).flatten().ok_or(())
        };
        match text.split_once('-') {
            None => port(text).map(Ports::one),
            Some((first, last)) => Ports::range(port(first)?, port(last)?).ok_or(()),
        }
    }
}

/// Where a packet goes: what a service is found by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Destination {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Destination address.
    pub address: IpAddr,
    /// Destination port.
    pub port: u16,
}

/// Name of a group: at most 32 bytes.
pub type GroupName = ArrayString<32>;

/// What identifies a virtual service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ServiceKey {
    /// Protocol and VIP with a port, a range or all ports.
    Address {
        /// TCP or UDP.
        protocol: Protocol,
        /// The VIP.
        vip: IpAddr,
        /// The virtual ports.
        ports: Ports,
    },
    /// A named group: its service's `matches` say what is its.
    Group(GroupName),
}

impl ServiceKey {
    /// Protocol, VIP and one port; 0 means all.
    pub const fn new(protocol: Protocol, vip: IpAddr, port: u16) -> Self {
        ServiceKey::Address { protocol, vip, ports: Ports::one(port) }
    }

    /// A group of that name; `None` when the name is empty or too long.
    pub fn group(name: &str) -> Option<Self> {
        let name = GroupName::from(name).ok().filter(|name| !name.is_empty())?;
        Some(ServiceKey::Group(name))
    }

    /// The protocol, unless a group may mix them.
    pub const fn protocol(&self) -> Option<Protocol> {
        match self {
            ServiceKey::Address { protocol, .. } => Some(*protocol),
            ServiceKey::Group(_) => None,
        }
    }

    /// The VIP, unless it is a group.
    pub const fn vip(&self) -> Option<IpAddr> {
        match self {
            ServiceKey::Address { vip, .. } => Some(*vip),
            ServiceKey::Group(_) => None,
        }
    }

    /// The port, where it is exactly one.
    pub const fn port(&self) -> Option<u16> {
        match self {
            ServiceKey::Address { ports, .. } => ports.single(),
            ServiceKey::Group(_) => None,
        }
    }

    /// Where FTP's data connections to the VIP come in: port 20 and those that need no privilege.
    pub fn data_ports(&self) -> impl Iterator<Item = TrafficMatch> + use<> {
        let unprivileged = Ports { first: UNPRIVILEGED_PORT, last: u16::MAX };
        let at = |vip| {
            let prefix = Prefix::host(vip);
            [Ports::one(FTP_DATA_PORT), unprivileged].map(|ports| TrafficMatch {
                protocol: Protocol::Tcp,
                prefix,
                ports,
            })
        };
        self.vip().map(at).into_iter().flatten()
    }

    /// The match that an address is; none for a group, which lists its own.
    pub fn as_match(&self) -> Option<TrafficMatch> {
        let ServiceKey::Address { protocol, vip, ports } = *self else { return None };
        Some(TrafficMatch { protocol, prefix: Prefix::host(vip), ports })
    }
}

/// `tcp 192.0.2.80:80`, `udp [2001:db8::80]:0`, `tcp 192.0.2.80:8000-8010`, `group NAME`.
impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServiceKey::Address { protocol, vip, ports } => match ports.single() {
                Some(port) => write!(f, "{protocol} {}", SocketAddr::new(*vip, port)),
                None if vip.is_ipv4() => write!(f, "{protocol} {vip}:{ports}"),
                None => write!(f, "{protocol} [{vip}]:{ports}"),
            },
            ServiceKey::Group(name) => write!(f, "group {name}"),
        }
    }
}

/// Packets that belong to a service: one protocol, addresses and ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrafficMatch {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Destination addresses: a VIP, or a whole prefix.
    pub prefix: Prefix,
    /// Destination ports.
    pub ports: Ports,
}

impl TrafficMatch {
    /// The one address, unless it is a prefix.
    pub fn vip(&self) -> Option<IpAddr> {
        (Prefix::host(self.prefix.address()) == self.prefix).then(|| self.prefix.address())
    }

    /// Whether some packet belongs to both.
    pub fn overlaps(&self, other: &TrafficMatch) -> bool {
        self.protocol == other.protocol
            && self.ports.overlap(other.ports)
            && self.prefix.overlaps(&other.prefix)
    }
}

impl fmt::Display for TrafficMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.vip() {
            Some(vip) => {
                ServiceKey::Address { protocol: self.protocol, vip, ports: self.ports }.fmt(f)
            }
            None => write!(f, "{} {} port {}", self.protocol, self.prefix, self.ports),
        }
    }
}

/// Matches of one rank: exact ports by hash, ranges by hash of the prefix.
#[derive(Clone, Debug, Default)]
struct Matches {
    exact: HashMap<Destination, ServiceId>,
    /// Narrowest range first.
    ranges: HashMap<(Protocol, Prefix), Vec<(Ports, ServiceId)>>,
    /// Prefix lengths in `ranges`, longest first: IPv4, IPv6.
    bits: [Vec<u8>; 2],
}

impl Matches {
    fn add(&mut self, one: &TrafficMatch, id: ServiceId) {
        if let (Some(address), Some(port)) = (one.vip(), one.ports.single()) {
            let to = Destination { protocol: one.protocol, address, port };
            self.exact.entry(to).or_insert(id);
            return;
        }
        let list = self.ranges.entry((one.protocol, one.prefix)).or_default();
        list.push((one.ports, id));
        list.sort_by_key(|(ports, _)| ports.width());
        let bits = &mut self.bits[usize::from(!one.prefix.address().is_ipv4())];
        if !bits.contains(&one.prefix.bits()) {
            bits.push(one.prefix.bits());
            bits.sort_unstable_by(|a, b| b.cmp(a));
        }
    }

    /// Whether a range or a group's prefix has this address.
    fn covers(&self, address: IpAddr) -> bool {
        let lengths = &self.bits[usize::from(!address.is_ipv4())];
        lengths.iter().filter_map(|bits| Prefix::new(address, *bits)).any(|prefix| {
            let has = |protocol| self.ranges.contains_key(&(protocol, prefix));
            has(Protocol::Tcp) || has(Protocol::Udp)
        })
    }

    #[inline]
    fn exact(&self, to: &Destination) -> Option<ServiceId> {
        self.exact.get(to).copied()
    }

    #[inline]
    fn range(&self, to: &Destination) -> Option<(Ports, ServiceId)> {
        let lengths = &self.bits[usize::from(!to.address.is_ipv4())];
        lengths.iter().find_map(|bits| {
            let list = self.ranges.get(&(to.protocol, Prefix::new(to.address, *bits)?))?;
            list.iter().find(|(ports, _)| ports.contains(to.port)).copied()
        })
    }
}

/// Which service a packet belongs to.
///
/// Two hash look-ups for what is no service's; one more for each prefix length that ranges and
/// groups use.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    groups: Matches,
    addresses: Matches,
    /// VIPs with an FTP service: their free ports may be its data connections.
    ftp: HashMap<IpAddr, ServiceId>,
    all: Vec<TrafficMatch>,
}

impl Traffic {
    /// Of services with their slots and, for groups, matches; of two with one match the first has
    /// it.
    pub fn new<'a>(
        services: impl Iterator<Item = (&'a ServiceKey, &'a [TrafficMatch], ServiceId)>,
    ) -> Self {
        let mut traffic = Traffic::default();
        for (key, matches, id) in services {
            if let Some(one) = key.as_match() {
                traffic.addresses.add(&one, id);
                traffic.all.push(one);
                if (key.protocol(), key.port()) == (Some(Protocol::Tcp), Some(FTP_PORT)) {
                    traffic.ftp.extend(key.vip().map(|vip| (vip, id)));
                }
            }
            for one in matches {
                traffic.groups.add(one, id);
                traffic.all.push(*one);
            }
        }
        traffic
    }

    /// Has the free ports of a service's VIP lead to it: announced data connections go there.
    pub fn follow(&mut self, key: &ServiceKey, id: ServiceId) {
        self.ftp.extend(key.vip().map(|vip| (vip, id)));
    }

    /// The service of a packet to `to`.
    #[inline]
    pub fn find(&self, to: &Destination) -> Option<ServiceId> {
        self.group(to).or_else(|| self.addresses.exact(to)).or_else(|| self.rest(to))
    }

    #[inline]
    fn group(&self, to: &Destination) -> Option<ServiceId> {
        self.groups.exact(to).or_else(|| self.groups.range(to).map(|(_, id)| id))
    }

    /// Ranges, then FTP's data ports, then port 0.
    fn rest(&self, to: &Destination) -> Option<ServiceId> {
        let may_be_data = to.port == FTP_DATA_PORT || to.port >= UNPRIVILEGED_PORT;
        let ftp = || self.ftp.get(&to.address).copied();
        let range = self.addresses.range(to);
        if let Some((ports, id)) = range
            && ports != Ports::ALL
        {
            return Some(id);
        }
        let data = (to.protocol == Protocol::Tcp && may_be_data).then(ftp).flatten();
        data.or(range.map(|(_, id)| id))
    }

    /// Whether a service may take packets to this address besides the VIPs'.
    pub fn covers(&self, address: IpAddr) -> bool {
        self.groups.covers(address) || self.addresses.covers(address)
    }

    /// Whether there is no service at all.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Everything that some service takes.
    pub fn all(&self) -> &[TrafficMatch] {
        &self.all
    }

    /// Every single address that services listen on.
    pub fn vips(&self) -> HashSet<IpAddr> {
        self.all.iter().filter_map(TrafficMatch::vip).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 0, 1));

    fn tcp(port: u16) -> Destination {
        Destination { protocol: Protocol::Tcp, address: VIP, port }
    }

    fn matching(text: &str, ports: Ports) -> TrafficMatch {
        TrafficMatch { protocol: Protocol::Tcp, prefix: text.parse().unwrap(), ports }
    }

    fn traffic(services: &[(ServiceKey, Vec<TrafficMatch>)]) -> Traffic {
        let ids = (0..).map(ServiceId);
        Traffic::new(services.iter().zip(ids).map(|((key, matches), id)| (key, &matches[..], id)))
    }

    #[test]
    fn groups_go_before_exact_ports_and_those_before_ranges_and_port_0() {
        let range = Ports::range(8000, 8010).unwrap();
        let key = |ports| ServiceKey::Address { protocol: Protocol::Tcp, vip: VIP, ports };
        let found = traffic(&[
            (key(Ports::ALL), vec![]),
            (key(range), vec![]),
            (key(Ports::one(8001)), vec![]),
            (key(Ports::one(80)), vec![]),
            (ServiceKey::group("web").unwrap(), vec![matching("10.1.0.1/32", Ports::one(80))]),
        ]);
        for (port, service) in [(80, 4), (8001, 2), (8002, 1), (8011, 0), (65535, 0)] {
            assert_eq!(found.find(&tcp(port)), Some(ServiceId(service)), "port {port}");
        }
        assert_eq!(found.find(&Destination { protocol: Protocol::Udp, ..tcp(80) }), None);
    }

    #[test]
    fn a_groups_prefix_takes_packets_from_an_exact_service_and_the_longest_wins() {
        let found = traffic(&[
            (ServiceKey::new(Protocol::Tcp, VIP, 80), vec![]),
            (ServiceKey::group("wide").unwrap(), vec![matching("10.0.0.0/8", Ports::ALL)]),
            (ServiceKey::group("narrow").unwrap(), vec![matching("10.1.0.0/16", Ports::one(80))]),
        ]);
        assert_eq!(found.find(&tcp(80)), Some(ServiceId(2)));
        assert_eq!(found.find(&tcp(81)), Some(ServiceId(1)));
        let elsewhere = Destination { address: [192, 0, 2, 1].into(), ..tcp(80) };
        assert_eq!(found.find(&elsewhere), None);
    }

    #[test]
    fn ftp_takes_its_data_ports_before_port_0_does() {
        let ports = Ports::range(40_000, 40_010).unwrap();
        let services = [
            ServiceKey::new(Protocol::Tcp, VIP, 21),
            ServiceKey::new(Protocol::Tcp, VIP, 0),
            ServiceKey::Address { protocol: Protocol::Tcp, vip: VIP, ports },
        ];
        let found = traffic(&services.map(|key| (key, vec![])));
        for (port, service) in [(21, 0), (20, 0), (30000, 0), (80, 1), (40_005, 2)] {
            assert_eq!(found.find(&tcp(port)), Some(ServiceId(service)), "port {port}");
        }
    }

    #[test]
    fn keys_read_as_users_write_them() {
        let vip6 = "2001:db8::80".parse().unwrap();
        let range = Ports::range(8000, 8010).unwrap();
        for (key, text) in [
            (ServiceKey::new(Protocol::Tcp, VIP, 80), "tcp 10.1.0.1:80"),
            (ServiceKey::new(Protocol::Udp, vip6, 0), "udp [2001:db8::80]:0"),
            (
                ServiceKey::Address { protocol: Protocol::Tcp, vip: VIP, ports: range },
                "tcp 10.1.0.1:8000-8010",
            ),
            (ServiceKey::group("web").unwrap(), "group web"),
        ] {
            assert_eq!(key.to_string(), text);
        }
        for text in ["", "-", "1-", "8-7", "0-5", "+1", "65536"] {
            assert_eq!(text.parse::<Ports>(), Err(()), "{text}");
        }
        assert_eq!(
            ("0".parse(), "1-65535".parse()),
            (Ok(Ports::ALL), Ok(Ports::range(1, 65535).unwrap()))
        );
    }
}
