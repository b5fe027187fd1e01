//! What an operator asks for: services, servers and address pools, plain and without slots; and
//! how a refusal names its place and its remedy.
//!
//! It knows nothing of files, spans or sockets: a place is named by position, and `config` turns
//! that into line and column. What is wrong with a wish is `validate`'s to find.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::check::{CheckSpec, HealthSpec};
use super::prefix::Prefix;
use super::semantics::Semantics;
use super::service::{
    self, ClientAddress, ForwardMode, HashFlags, Helper, Persistence, TtlPolicy, Tunnel,
};
use super::service_key::{ServiceKey, TrafficMatch};
use super::timeouts::TimeoutOverrides;

/// Scheduler as configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchedulerSpec {
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
    /// `dh`.
    DestinationHash,
    /// `sh`.
    SourceHash(HashFlags),
    /// `sed`.
    ShortestExpectedDelay,
    /// `nq`.
    NeverQueue,
    /// `fo`.
    Failover,
    /// `ovf`.
    Overflow,
    /// `mh`.
    KernelMaglev(HashFlags),
    /// `maglev`.
    Maglev {
        /// Slots of the look-up table, a prime.
        slots: usize,
    },
}

/// One real server of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSpec {
    /// RIP.
    pub address: IpAddr,
    /// Port on the server; the service's own where the mode leaves ports alone; 0 keeps the port
    /// that the client asked for, where a service has several.
    pub port: u16,
    /// Share of new flows, 0 to 65535; 0 takes none.
    pub weight: u32,
    /// Connections at which it takes no new ones; 0 is no bound.
    pub upper_threshold: u32,
    /// Connections below which it takes new ones again; 0 is three quarters of the upper.
    pub lower_threshold: u32,
    /// Forwarding mode.
    pub mode: ForwardMode,
    /// What wraps packets, TUN only.
    pub tunnel: Tunnel,
    /// Its own checks, instead of the service's.
    pub checks: Option<Vec<CheckSpec>>,
}

impl ServerSpec {
    /// A server without thresholds.
    pub fn new(endpoint: SocketAddr, weight: u32, mode: ForwardMode) -> Self {
        ServerSpec {
            address: endpoint.ip(),
            port: endpoint.port(),
            weight,
            upper_threshold: 0,
            lower_threshold: 0,
            mode,
            tunnel: Tunnel::default(),
            checks: None,
        }
    }

    /// RIP and port: with the service's key, the server's identity.
    pub fn endpoint(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }
}

/// One virtual service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceSpec {
    /// Identity.
    pub key: ServiceKey,
    /// Which packets are a group's; empty for an address.
    pub matches: Vec<TrafficMatch>,
    /// Optional name, for people; unique.
    pub name: Option<String>,
    /// Scheduler.
    pub scheduler: SchedulerSpec,
    /// Forwarding mode of servers that do not say; a server's own is what counts.
    pub forwarding: ForwardMode,
    /// Name of the pool of FULLNAT source addresses.
    pub pool: Option<String>,
    /// TTL handling.
    pub ttl: TtlPolicy,
    /// Largest MSS that SYNs may offer in either direction.
    pub mss_max: Option<u16>,
    /// SYN cookies (NAT and FULLNAT).
    pub synproxy: bool,
    /// How servers learn the client's address (FULLNAT only).
    pub client_address: ClientAddress,
    /// Whose announcements are followed (NAT and FULLNAT).
    pub helper: Option<Helper>,
    /// Most live flows over all workers.
    pub connections_max: Option<u64>,
    /// Clients admitted; empty admits all.
    pub allow: Vec<Prefix>,
    /// Clients refused.
    pub deny: Vec<Prefix>,
    /// Idle timeouts of its own.
    pub timeouts: TimeoutOverrides,
    /// Whether a client keeps to its server, and how long.
    pub persistence: Option<Persistence>,
    /// Each datagram is scheduled by itself.
    pub one_packet: bool,
    /// The firewall mark that the group stands for to users of `ipvsadm`.
    pub mark: Option<u32>,
    /// Checks of servers that have none of their own.
    pub checks: Vec<CheckSpec>,
    /// What follows from checks.
    pub health: HealthSpec,
    /// Who answers while the quorum is lost; its weight, thresholds and checks mean nothing.
    pub sorry_server: Option<ServerSpec>,
    /// Servers, in the order they are added.
    pub servers: Vec<ServerSpec>,
}

impl ServiceSpec {
    /// A service with nothing but an identity and a scheduler.
    pub fn new(key: ServiceKey, scheduler: SchedulerSpec) -> Self {
        ServiceSpec {
            key,
            matches: Vec::new(),
            name: None,
            scheduler,
            forwarding: ForwardMode::DirectRoute,
            pool: None,
            ttl: TtlPolicy::ByMode,
            mss_max: None,
            synproxy: false,
            client_address: ClientAddress::None,
            helper: None,
            connections_max: None,
            allow: Vec::new(),
            deny: Vec::new(),
            timeouts: TimeoutOverrides::default(),
            persistence: None,
            one_packet: false,
            mark: None,
            checks: Vec::new(),
            health: HealthSpec::default(),
            sorry_server: None,
            servers: Vec::new(),
        }
    }

    /// Servers, and the one that stands in for them.
    pub fn all_servers(&self) -> impl Iterator<Item = &ServerSpec> {
        self.servers.iter().chain(&self.sorry_server)
    }

    /// Checks of one of its servers.
    pub fn checks_of<'s>(&'s self, server: &'s ServerSpec) -> &'s [CheckSpec] {
        server.checks.as_deref().unwrap_or(&self.checks)
    }

    /// Family of the service's addresses.
    pub fn is_ipv4(&self) -> bool {
        service::is_ipv4(&self.key, &self.matches)
    }

    /// The single addresses that it listens on.
    pub fn vips(&self) -> impl Iterator<Item = IpAddr> {
        self.key.vip().into_iter().chain(self.matches.iter().filter_map(TrafficMatch::vip))
    }

    /// All that may be its, FTP's data connections included.
    pub fn traffic(&self) -> impl Iterator<Item = TrafficMatch> {
        let data = service::takes_data(&self.key, self.helper, self.persistence);
        let data = data.then(|| self.key.data_ports()).into_iter().flatten();
        self.key.as_match().into_iter().chain(self.matches.iter().copied()).chain(data)
    }

    /// Whether a server uses NAT, or is meant to unless it says otherwise.
    pub fn may_use_nat(&self) -> bool {
        let nat = ForwardMode::Nat;
        self.forwarding == nat || self.all_servers().any(|server| server.mode == nat)
    }

    /// The mark that `other`, of the same family, has too.
    pub(super) fn shared_mark(&self, other: &ServiceSpec) -> Option<u32> {
        let is_same = other.mark == self.mark && other.is_ipv4() == self.is_ipv4();
        self.mark.filter(|_| is_same)
    }

    /// Whether `other` says the same of everything but the servers.
    pub fn is_same_but_servers(&self, other: &ServiceSpec) -> bool {
        (&self.matches, self.persistence, self.one_packet, self.mark)
            == (&other.matches, other.persistence, other.one_packet, other.mark)
            && (self.key, &self.name, self.scheduler, &self.pool, self.forwarding)
                == (other.key, &other.name, other.scheduler, &other.pool, other.forwarding)
            && (self.ttl, self.synproxy, self.client_address, self.connections_max)
                == (other.ttl, other.synproxy, other.client_address, other.connections_max)
            && (&self.allow, &self.deny, self.timeouts, self.helper, self.mss_max)
                == (&other.allow, &other.deny, other.timeouts, other.helper, other.mss_max)
            && (&self.checks, &self.health, &self.sorry_server)
                == (&other.checks, &other.health, &other.sorry_server)
    }
}

/// A pool of FULLNAT source addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolSpec {
    /// Name that services refer to.
    pub name: String,
    /// LIPs.
    pub addresses: Vec<IpAddr>,
    /// Lowest and highest source port.
    pub ports: (u16, u16),
}

/// How a server leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// No new flows; live ones go on until they end, or until `deadline`.
    Drain {
        /// When what is left is cut off; `None` waits for ever.
        deadline: Option<crate::time::Nanos>,
    },
    /// At once, as `ipvsadm -d`: packets of its flows are dropped.
    Now,
}

/// All that is wanted: what a configuration file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// Address pools.
    pub pools: Vec<PoolSpec>,
    /// Services.
    pub services: Vec<ServiceSpec>,
    /// Switches of all services.
    pub semantics: Semantics,
    /// How servers that are no longer listed leave.
    pub removal: Removal,
}

/// Where in a `Desired` something is wrong, by position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nowhere in particular.
    Whole,
    /// A pool's field.
    Pool(usize, &'static str),
    /// A pool's address.
    PoolAddress(usize, usize),
    /// A service's field.
    Service(usize, &'static str),
    /// A server's field: service, server.
    Server(usize, usize, &'static str),
    /// A field of a service's sorry server.
    Sorry(usize, &'static str),
    /// A check's field: service, server if the check is its own, check.
    Check(usize, Option<usize>, usize, &'static str),
}

/// What kind of refusal: the control socket's error codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    /// Wrong by itself or beside the rest.
    Invalid,
    /// Names something that does not exist.
    NotFound,
    /// Exists already.
    Exists,
    /// No room left.
    Full,
}

/// One reason to refuse a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecProblem {
    /// Kind of refusal.
    pub kind: ProblemKind,
    /// Where.
    pub place: Place,
    /// Whom it is about, in words: `tcp 192.0.2.80:80, server 10.2.0.11:80`.
    pub subject: String,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl fmt::Display for SpecProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.subject.is_empty() {
            write!(f, "{}: ", self.subject)?;
        }
        write!(f, "{}; {}", self.what, self.remedy)
    }
}
