//! What the kernel says about links, addresses, routes and neighbours, in gyre's own words. Where
//! it comes from (rtnetlink, the configuration, a test) is not known here.

use std::net::IpAddr;

use super::super::id::NicId;
use super::super::prefix::Prefix;

/// One fact from the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelEvent {
    /// An interface appeared or changed.
    LinkChanged(Link),
    /// An interface vanished.
    LinkRemoved {
        /// The kernel's number of it.
        ifindex: u32,
    },
    /// The director got an address.
    AddressAdded {
        /// On this interface.
        ifindex: u32,
        /// The address.
        address: IpAddr,
    },
    /// The director lost an address.
    AddressRemoved {
        /// On this interface.
        ifindex: u32,
        /// The address.
        address: IpAddr,
    },
    /// A route of the main table appeared beside what its prefix and metric had.
    RouteAdded(KernelRoute),
    /// A route took the place of what its prefix and metric had.
    RouteReplaced(KernelRoute),
    /// These ways of a route are gone.
    RouteRemoved(KernelRoute),
    /// A neighbour entry appeared or changed.
    NeighbourChanged(Neighbour),
    /// A neighbour entry is gone.
    NeighbourRemoved {
        /// On this interface.
        ifindex: u32,
        /// The neighbour.
        address: IpAddr,
    },
    /// What follows in the same batch is all there is of this kind.
    Forget(Knowledge),
}

/// A kind of facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Knowledge {
    /// Interfaces, and with them their addresses and neighbours.
    Links,
    /// The director's addresses.
    Addresses,
    /// Routes.
    Routes,
    /// Neighbour entries.
    Neighbours,
}

/// A kernel interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number of it; another one after re-creation.
    pub ifindex: u32,
    /// Name.
    pub name: String,
    /// MAC address.
    pub mac: [u8; 6],
    /// Largest IP packet, bytes.
    pub mtu: u32,
    /// Whether it is set up (IFF_UP; a missing carrier is not `down`).
    pub up: bool,
}

/// A route of the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelRoute {
    /// Destinations.
    pub prefix: Prefix,
    /// Preference; the lowest wins.
    pub metric: u32,
    /// Largest IP packet that the route allows, if it says, bytes.
    pub mtu: Option<u32>,
    /// Its ways; none means "unreachable", "prohibit" or "blackhole".
    pub hops: Vec<RouteHop>,
}

/// One way of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteHop {
    /// Interface.
    pub ifindex: u32,
    /// Router, or the destination itself when there is none.
    pub gateway: Option<IpAddr>,
    /// The kernel holds it for dead (RTNH_F_DEAD).
    pub dead: bool,
}

/// A neighbour entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Interface.
    pub ifindex: u32,
    /// Address.
    pub address: IpAddr,
    /// MAC address as far as known.
    pub mac: Option<[u8; 6]>,
    /// State.
    pub state: NeighbourState,
    /// Whether the kernel keeps the entry fresh by itself (NTF_EXT_MANAGED).
    pub managed: bool,
    /// Whether gyre asked for that, this process or one before it.
    pub ours: bool,
}

/// State of a neighbour entry (`NUD_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeighbourState {
    /// Nothing known, nothing asked.
    None,
    /// Asked for the first time, no answer yet.
    Incomplete,
    /// Confirmed a short time ago.
    Reachable,
    /// Known but not confirmed of late.
    Stale,
    /// Known, in use, about to be confirmed.
    Delay,
    /// Known, being asked.
    Probe,
    /// Asked without an answer.
    Failed,
    /// The link has no such question.
    NoArp,
    /// Set by hand.
    Permanent,
}

impl NeighbourState {
    /// Whether the MAC address may be used: the kernel's `NUD_VALID`.
    pub const fn is_valid(self) -> bool {
        match self {
            Self::None | Self::Incomplete | Self::Failed => false,
            Self::Reachable
            | Self::Stale
            | Self::Delay
            | Self::Probe
            | Self::NoArp
            | Self::Permanent => true,
        }
    }

    /// Whether the entry stays as it is; asking the kernel to refresh it would spoil it.
    pub const fn is_fixed(self) -> bool {
        matches!(self, Self::NoArp | Self::Permanent)
    }
}

/// A port as the configuration and the device know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NicLink {
    /// Slot.
    pub nic: NicId,
    /// The kernel's interface beside it, by name; none with `kernel = "none"`.
    pub interface: Option<String>,
    /// MAC address until the interface says otherwise.
    pub mac: [u8; 6],
    /// Largest IP packet until the interface says otherwise, bytes.
    pub mtu: u16,
}

/// A neighbour from the configuration; it outranks the kernel's entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaticNeighbour {
    /// Port.
    pub nic: NicId,
    /// Address.
    pub address: IpAddr,
    /// MAC address.
    pub mac: [u8; 6],
}

/// A route from the configuration; it outranks the kernel's for the same prefix. A port's own
/// prefixes are such routes where no kernel stands beside the port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StaticRoute {
    /// Destinations.
    pub prefix: Prefix,
    /// Port.
    pub nic: NicId,
    /// Router, or none for destinations on the link.
    pub gateway: Option<IpAddr>,
}
