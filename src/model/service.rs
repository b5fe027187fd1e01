//! Virtual services and real servers.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::change_log::ChangeLog;
use super::id::{NextHopId, ServerId, ServiceId, WorkerId};
use super::kernel_maglev::KernelMaglevTable;
use super::maglev::MaglevTable;
use super::prefix::PrefixSet;
use super::service_key::{FTP_PORT, ServiceKey, TrafficMatch};
use super::snapshot::LocalAddress;
use super::spec::ServiceSpec;
use super::steering::KeyKind;
use super::timeouts::TimeoutOverrides;

/// Transport protocol of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP (RFC 9293).
    Tcp,
    /// UDP (RFC 768).
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        })
    }
}

/// How frames reach a real server. The numbers are those in flow entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ForwardMode {
    /// Only MAC addresses change; the server holds the VIP.
    DirectRoute = 0,
    /// Both addresses change: the server sees a local address of the director.
    FullNat = 1,
    /// The destination changes: replies pass the director because it is the server's router.
    Nat = 2,
    /// The packet travels whole inside another one, see `Tunnel`.
    Tunnel = 3,
    /// The director itself is the server: its kernel gets the packet as it came.
    Local = 4,
}

impl ForwardMode {
    /// Whether replies come back through the director and are translated by it.
    pub fn sees_replies(self) -> bool {
        matches!(self, ForwardMode::Nat | ForwardMode::FullNat)
    }

    /// Whether the server may listen on another port than the service.
    pub fn maps_ports(self) -> bool {
        self.sees_replies()
    }
}

/// What wraps a packet on its way to a TUN server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tunnel {
    /// IP in IP (RFC 2003, RFC 2473): an outer header and nothing else.
    #[default]
    Ipip,
    /// GRE (RFC 2784).
    Gre {
        /// Whether the header carries a checksum over the payload.
        checksum: bool,
    },
    /// Generic UDP encapsulation (draft-ietf-intarea-gue, variant 0), as Linux's `fou`.
    Gue {
        /// Destination port.
        port: u16,
        /// What the outer UDP checksum covers.
        checksum: GueChecksum,
    },
}

/// Checksum of a GUE tunnel (`ipvsadm --tun-nocsum|--tun-csum|--tun-remcsum`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GueChecksum {
    /// Outer UDP checksum 0, also over IPv6 (RFC 6935).
    #[default]
    None,
    /// Outer UDP checksum.
    Sum,
    /// Remote checksum offload. Linux uses it on packets of its own stack whose checksum is still
    /// to be filled in; a forwarded packet has one, so on the wire this is as `Sum`.
    Remote,
}

/// GUE's port (IANA), and Linux's.
pub const GUE_PORT_DEFAULT: u16 = 6080;

/// How `sh` and `mh` key and recover (`ipvsadm -b`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HashFlags {
    /// `sh-port`, `mh-port`: the client's port is part of the key.
    pub port: bool,
    /// `sh-fallback`, `mh-fallback`: an unusable server's clients go to other buckets.
    pub fallback: bool,
}

/// Scheduler with whatever table it needs prepared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scheduler {
    /// `rr`.
    RoundRobin,
    /// `wrr`.
    WeightedRoundRobin,
    /// `lc`.
    LeastConnections,
    /// `wlc`.
    WeightedLeastConnections,
    /// `lblc`.
    LocalityLeastConnections,
    /// `lblcr`.
    ReplicatedLocality,
    /// `dh`: position in `servers` for each of the kernel's 256 buckets; empty without servers.
    DestinationHash(Vec<u32>),
    /// `sh`: the same.
    SourceHash(HashFlags, Vec<u32>),
    /// `sed`.
    ShortestExpectedDelay,
    /// `nq`.
    NeverQueue,
    /// `fo`.
    Failover,
    /// `ovf`.
    Overflow,
    /// `mh`.
    KernelMaglev(HashFlags, KernelMaglevTable),
    /// `maglev`.
    Maglev(MaglevTable),
}

impl Scheduler {
    /// Whether picks depend on how many connections servers have.
    pub fn weighs_connections(&self) -> bool {
        match self {
            Scheduler::LeastConnections
            | Scheduler::WeightedLeastConnections
            | Scheduler::LocalityLeastConnections
            | Scheduler::ReplicatedLocality
            | Scheduler::ShortestExpectedDelay
            | Scheduler::NeverQueue
            | Scheduler::Overflow => true,
            Scheduler::RoundRobin
            | Scheduler::WeightedRoundRobin
            | Scheduler::DestinationHash(_)
            | Scheduler::SourceHash(..)
            | Scheduler::Failover
            | Scheduler::KernelMaglev(..)
            | Scheduler::Maglev(_) => false,
        }
    }

    /// The name users write.
    pub fn name(&self) -> &'static str {
        match self {
            Scheduler::RoundRobin => "rr",
            Scheduler::WeightedRoundRobin => "wrr",
            Scheduler::LeastConnections => "lc",
            Scheduler::WeightedLeastConnections => "wlc",
            Scheduler::LocalityLeastConnections => "lblc",
            Scheduler::ReplicatedLocality => "lblcr",
            Scheduler::DestinationHash(_) => "dh",
            Scheduler::ShortestExpectedDelay => "sed",
            Scheduler::NeverQueue => "nq",
            Scheduler::Failover => "fo",
            Scheduler::Overflow => "ovf",
            Scheduler::KernelMaglev(..) => "mh",
            Scheduler::SourceHash(..) => "sh",
            Scheduler::Maglev(_) => "maglev",
        }
    }
}

/// What happens to TTL or hop limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TtlPolicy {
    /// DR keeps it, every other mode that forwards takes one off.
    #[default]
    ByMode,
    /// Untouched, as DR's users expect.
    Keep,
    /// Less one, as today's kernel does in every mode.
    Decrement,
}

impl TtlPolicy {
    /// Whether packets to and from a server of `mode` lose one.
    pub fn decrements(self, mode: ForwardMode) -> bool {
        match self {
            // What the director's own kernel gets is not forwarded.
            _ if mode == ForwardMode::Local => false,
            TtlPolicy::ByMode => mode != ForwardMode::DirectRoute,
            TtlPolicy::Keep => false,
            TtlPolicy::Decrement => true,
        }
    }
}

/// How a FULLNAT server learns the client's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAddress {
    /// It does not.
    None,
    /// TCP option of this kind (254 unless configured): client port and address.
    Toa {
        /// Option kind.
        kind: u8,
        /// Also on the SYN.
        on_syn: bool,
    },
    /// IP option on UDP clients' first datagrams: client port and address.
    Uoa,
    /// PROXY protocol version 1 (text) before the first byte.
    ProxyV1,
    /// PROXY protocol version 2 (binary) before the first byte.
    ProxyV2,
}

/// A protocol whose connections announce further ones, so that its text has to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Helper {
    /// FTP (RFC 959, RFC 2428), as the kernel's `ip_vs_ftp`.
    Ftp,
}

/// How long and how widely a client keeps to its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Persistence {
    /// Time after the last new flow.
    pub timeout_ms: u32,
    /// Leading bits of the client's address that count: 32 or 128 for each client alone.
    pub client_bits: u8,
}

/// Whether a server takes new flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerState {
    /// As its weight says.
    Active,
    /// No new flows; live ones go on; the slot is freed at zero or at a deadline.
    Draining,
}

/// Where a flow goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealServer {
    /// Slot.
    pub id: ServerId,
    /// RIP.
    pub address: IpAddr,
    /// Port on the server; the service's own where the mode leaves ports alone; 0 keeps the port
    /// that the client asked for.
    pub port: u16,
    /// Share of new flows, 0 to 65535; 0 takes none.
    pub weight: u32,
    /// The last weight above 0, 0 if there was none: `mh` keeps the slots of a server whose weight
    /// became 0.
    pub last_weight: u32,
    /// Connections, active and inactive, at which the server is overloaded: it takes no new ones
    /// until they are fewer again (`ipvsadm -x`). 0 is no bound.
    pub upper_threshold: u32,
    /// Connections below which it no longer is (`ipvsadm -y`); 0 is three quarters of the upper.
    pub lower_threshold: u32,
    /// Forwarding mode.
    pub mode: ForwardMode,
    /// What wraps packets, TUN only.
    pub tunnel: Tunnel,
    /// Slot of the rewrite data towards `address`.
    pub hop: NextHopId,
    /// Administrative state.
    pub state: ServerState,
}

impl RealServer {
    /// The weight that schedulers see: 0 while draining.
    #[inline]
    pub fn effective_weight(&self) -> u32 {
        match self.state {
            ServerState::Active => self.weight,
            ServerState::Draining => 0,
        }
    }
}

impl VirtualService {
    /// Family of the service's addresses; a group has one family.
    pub fn is_ipv4(&self) -> bool {
        is_ipv4(&self.key, &self.matches)
    }

    /// Port on `server` for a packet that came to `port`.
    #[inline]
    pub fn server_port(&self, server: &RealServer, port: u16) -> u16 {
        if self.keeps_port(server, port) { port } else { server.port }
    }

    /// Whether connections to `port` reach the server by that port, whichever it is.
    pub fn keeps_port(&self, server: &RealServer, port: u16) -> bool {
        let is_data = self.key.port().is_some_and(|own| own != port);
        server.port == 0 || is_data
    }

    /// Whether connections to `port` are its own to schedule. An FTP service is found by the free
    /// ports of its VIP too; unless it is persistent or an announcement is waiting there, they are
    /// the host's.
    #[inline]
    pub fn schedules(&self, port: u16) -> bool {
        self.persistence.is_some() || self.key.port().is_none_or(|own| own == port)
    }

    /// What comes to its VIP's free ports and may be its: FTP's data connections.
    pub fn data_traffic(&self) -> impl Iterator<Item = TrafficMatch> {
        let data = takes_data(&self.key, self.helper, self.persistence);
        data.then(|| self.key.data_ports()).into_iter().flatten()
    }

    /// The part of `connections_max` that one of `workers` may hold. Shares add up to the limit:
    /// exact with one worker; with several, a service whose clients hash unevenly is refused
    /// when one share is used up, before the whole is.
    pub fn connections_share(&self, worker: WorkerId, workers: u8) -> Option<u64> {
        let (max, workers) = (self.connections_max?, u64::from(workers.max(1)));
        Some(max / workers + u64::from(u64::from(worker.0) < max % workers))
    }
}

/// Family of a service with that identity.
pub(super) fn is_ipv4(key: &ServiceKey, matches: &[TrafficMatch]) -> bool {
    let of_group = || matches.first().is_none_or(|one| one.prefix.address().is_ipv4());
    key.vip().map_or_else(of_group, |vip| vip.is_ipv4())
}

/// Whether a service takes FTP's data connections: those that its helper expects, or, being
/// persistent at FTP's own port, all of them (the kernel's rule).
pub(super) fn takes_data(
    key: &ServiceKey,
    helper: Option<Helper>,
    persistence: Option<Persistence>,
) -> bool {
    let is_ftp = (key.protocol(), key.port()) == (Some(Protocol::Tcp), Some(FTP_PORT));
    helper.is_some() || is_ftp && persistence.is_some()
}

/// A virtual service.
#[derive(Clone, Debug)]
pub struct VirtualService {
    /// Slot.
    pub id: ServiceId,
    /// Optional name, for people.
    pub name: Option<String>,
    /// Identity.
    pub key: ServiceKey,
    /// Which packets are a group's; empty for an address.
    pub matches: Vec<TrafficMatch>,
    /// Scheduler and its table.
    pub scheduler: Scheduler,
    /// Number of the step in `changes` from which on `scheduler` has been at work: what a worker
    /// remembers from before is not its.
    pub scheduler_since: u64,
    /// Whether a server has, or had since the service came, a connection threshold.
    pub is_limited: bool,
    /// Servers in the order they were added; the kernel's list is the reverse.
    pub servers: Vec<RealServer>,
    /// How `servers` came to be, for scheduler cursors.
    pub changes: ChangeLog,
    /// What steers its packets.
    pub key_kind: KeyKind,
    /// TTL handling.
    pub ttl: TtlPolicy,
    /// Largest MSS that SYNs may offer in either direction.
    pub mss_max: Option<u16>,
    /// SYN cookies before the server hears of a client (NAT and FULLNAT).
    pub synproxy: bool,
    /// How servers learn the client's address (FULLNAT only).
    pub client_address: ClientAddress,
    /// Whose announcements are followed (NAT and FULLNAT).
    pub helper: Option<Helper>,
    /// FULLNAT source addresses.
    pub local_addresses: Vec<Arc<LocalAddress>>,
    /// Most live flows over all workers; `None` is unbounded.
    pub connections_max: Option<u64>,
    /// Clients admitted; empty admits all.
    pub allow: PrefixSet,
    /// Clients refused, whatever `allow` says.
    pub deny: PrefixSet,
    /// Idle timeouts of its own.
    pub timeouts: TimeoutOverrides,
    /// Whether a client keeps to its server, and how long.
    pub persistence: Option<Persistence>,
    /// Each datagram is scheduled by itself (`ipvsadm -o`).
    pub one_packet: bool,
    /// The firewall mark that the group stands for to users of `ipvsadm`.
    pub mark: Option<u32>,
    /// Servers that health checks took out of `servers`, for those who ask; no packet goes there.
    pub taken_out: Vec<RealServer>,
    /// What was asked for, for those who ask.
    pub spec: Arc<ServiceSpec>,
}

/// A server in active service, for tests: `10.2.0.11` and up by slot.
#[cfg(test)]
pub(crate) fn test_server(id: u32, weight: u32) -> RealServer {
    RealServer {
        id: ServerId(id),
        address: [10, 2, 0, 11 + id as u8].into(),
        port: 80,
        weight,
        last_weight: weight,
        upper_threshold: 0,
        lower_threshold: 0,
        mode: ForwardMode::DirectRoute,
        tunnel: Tunnel::default(),
        hop: NextHopId::NONE,
        state: ServerState::Active,
    }
}
