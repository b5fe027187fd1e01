//! The snapshot: all that workers read, published as one.

use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use super::id::{LipId, NicId, ServerId, ServiceId};
use super::route::RouteTable;
use super::semantics::Semantics;
use super::service::{Protocol, VirtualService};
use super::service_key::{Destination, ServiceKey, Traffic};
use super::source_port_map::SourcePortMap;
use super::steering::{KeyKind, Steering};

/// How a port shares its link with the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelMode {
    /// gyre owns the device; a TAP of its name is the director's interface.
    Tap,
    /// The kernel goes on using the interface and has its own copy of every frame.
    Shared,
    /// No kernel beside the port (`replay`, benchmarks): its frames are counted and dropped.
    None,
}

/// What the packet path needs to know of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NicModel {
    /// Slot.
    pub id: NicId,
    /// Configured name.
    pub name: String,
    /// MAC address in force.
    pub mac: [u8; 6],
    /// Largest IP packet, bytes.
    pub mtu: u16,
    /// Kernel side.
    pub kernel: KernelMode,
    /// 802.1Q VLAN that the port belongs to.
    pub vlan: Option<u16>,
    /// The director's own addresses on it: sources of ICMP errors.
    pub addresses: Vec<IpAddr>,
}

impl NicModel {
    /// The director's own address of a family on this port: the first one listed that is no
    /// link-local one.
    pub fn own_address(&self, is_ipv4: bool) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| match address {
            IpAddr::V4(_) => is_ipv4,
            IpAddr::V6(v6) => !is_ipv4 && !v6.is_unicast_link_local(),
        })
    }
}

/// A FULLNAT source address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalAddress {
    /// Slot.
    pub id: LipId,
    /// The LIP.
    pub address: IpAddr,
    /// Port owners.
    pub ports: Arc<SourcePortMap>,
}

/// One consistent view of the configuration. Unchanged parts are shared with the one before.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Counts up by one a publication.
    pub revision: u64,
    /// Services by slot.
    pub services: Vec<Option<Arc<VirtualService>>>,
    /// Slot by identity.
    pub service_by_key: Arc<HashMap<ServiceKey, ServiceId>>,
    /// Service by destination.
    pub traffic: Arc<Traffic>,
    /// Services of which a server has, or had, connection thresholds.
    pub limited_services: Arc<Vec<ServiceId>>,
    /// Whether any service answers SYNs with cookies.
    pub has_synproxy: bool,
    /// Services that this snapshot changed: what the one before had of the others is the same.
    pub changed_services: Arc<Vec<ServiceId>>,
    /// Every VIP: frames to one that match no service are still "to the VIP".
    pub vips: Arc<HashSet<IpAddr>>,
    /// Local addresses by address.
    pub lips: Arc<HashMap<IpAddr, Arc<LocalAddress>>>,
    /// Every `ServerId` in use is below this.
    pub server_slots: usize,
    /// Servers removed at once (`now`) whose flows may still live: bit set by `ServerId`.
    pub removed_servers: Arc<Vec<u64>>,
    /// Endpoints whose packets may be replies of NAT flows, those of removed servers included, and
    /// what steers them; port 0 stands for every other port.
    pub nat_servers: Arc<HashMap<(Protocol, IpAddr, u16), KeyKind>>,
    /// Their addresses: a fragment has no ports.
    pub nat_addresses: Arc<HashSet<IpAddr>>,
    /// Routes towards clients.
    pub routes: Arc<RouteTable>,
    /// Ports by `NicId`.
    pub nics: Arc<Vec<NicModel>>,
    /// Whether any port has a tag that frames leave with.
    pub has_tags: bool,
    /// Owner function.
    pub steering: Arc<Steering>,
    /// Switches of all services.
    pub semantics: Semantics,
    /// Counts changes of timeouts: a flow that knows another number sets its own anew.
    pub timeouts_epoch: u16,
}

impl Snapshot {
    /// No services, no ports, one worker: where control starts from.
    pub fn empty() -> Self {
        Snapshot {
            revision: 0,
            services: Vec::new(),
            service_by_key: Arc::default(),
            traffic: Arc::default(),
            limited_services: Arc::default(),
            has_synproxy: false,
            changed_services: Arc::default(),
            vips: Arc::default(),
            lips: Arc::default(),
            server_slots: 0,
            removed_servers: Arc::default(),
            nat_servers: Arc::default(),
            nat_addresses: Arc::default(),
            routes: Arc::default(),
            nics: Arc::default(),
            has_tags: false,
            steering: Arc::new(Steering::for_workers(1)),
            semantics: Semantics::default(),
            timeouts_epoch: 0,
        }
    }

    /// The service that a packet to `to` belongs to.
    #[inline]
    pub fn match_service(&self, to: &Destination) -> Option<&VirtualService> {
        self.service(self.traffic.find(to)?)
    }

    /// The service with that identity.
    pub fn service_of(&self, key: &ServiceKey) -> Option<&VirtualService> {
        self.service(*self.service_by_key.get(key)?)
    }

    /// A service by slot.
    #[inline]
    pub fn service(&self, id: ServiceId) -> Option<&VirtualService> {
        self.services.get(id.index())?.as_deref()
    }

    /// Whether a packet from there may be a NAT flow's reply: what steers it then.
    pub fn nat_server(&self, protocol: Protocol, from: (IpAddr, u16)) -> Option<KeyKind> {
        if self.nat_servers.is_empty() {
            return None;
        }
        let (address, src_port) = from;
        [src_port, 0].iter().find_map(|p| self.nat_servers.get(&(protocol, address, *p)).copied())
    }

    /// Whether the server was removed at once; its flows' packets are dropped, as the kernel does.
    #[inline]
    pub fn is_removed(&self, server: ServerId) -> bool {
        self.removed_servers
            .get(server.index() / 64)
            .is_some_and(|word| word >> (server.index() % 64) & 1 == 1)
    }
}
