//! The schema's serde types: what the file says in TOML and the socket in JSON.
//!
//! Field by field this is `schema`, which also knows bounds and explanations; a test holds the
//! two together. Values here are of the right type, not yet of the right meaning.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::health::{Check, OnFailure, SorryServer};
use super::values::{
    ClientPrefix, Endpoint, InterfaceAddress, Listen, Mac, MatchAddress, ServiceAddress,
};
use crate::limits::SOURCE_PORT_SPACES_DEFAULT;

/// A whole configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The process.
    pub runtime: Runtime,
    /// The API over HTTP; none unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<Http>,
    /// Ports (NICs).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub port: Vec<Port>,
    /// FULLNAT source address pools by name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub local_addresses: BTreeMap<String, Pool>,
    /// Static neighbours; they go before the kernel's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub neighbour: Vec<Neighbour>,
    /// Static routes; they go before the kernel's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub route: Vec<Route>,
    /// Which packets carry a firewall mark, for groups that `ipvsadm -f` makes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mark: Vec<Mark>,
    /// The kernel's switches, for all services.
    #[serde(skip_serializing_if = "Semantics::is_default")]
    pub semantics: Semantics,
    /// Virtual services.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub service: Vec<Service>,
}

/// Settings of the process; changing them needs a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Runtime {
    /// Number of workers, when `cores` does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers: Option<u8>,
    /// Cores to pin workers to, one each.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cores: Option<Vec<u16>>,
    /// What an idle worker does; by default `poll` when all ports are PCI devices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<Idle>,
    /// Path of the control socket.
    pub control_socket: String,
    /// IPv4 flows per worker.
    pub connections: u64,
    /// IPv6 flows per worker.
    pub connections_ipv6: u64,
    /// Pairs of local address and server that a worker can hold source ports for.
    pub address_pairs: u64,
    /// Whether to take hugepages.
    pub hugepages: Hugepages,
    /// Memory for frames without hugepages, MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u32>,
    /// Let other DPDK processes attach (dpdk-dumpcap); gives up `--in-memory`.
    pub multi_process: bool,
    /// Who puts VIPs on the ports' interfaces.
    pub vip_addresses: VipAddresses,
    /// What is logged.
    pub log: LogLevel,
    /// How it is written.
    pub log_format: LogFormat,
}

impl Default for Runtime {
    fn default() -> Self {
        Runtime {
            workers: None,
            cores: None,
            idle: None,
            control_socket: "/run/gyre/gyre.sock".into(),
            connections: 1 << 18,
            connections_ipv6: 1 << 16,
            address_pairs: SOURCE_PORT_SPACES_DEFAULT as u64,
            hugepages: Hugepages::Auto,
            memory_mib: None,
            multi_process: false,
            vip_addresses: VipAddresses::Gyre,
            log: LogLevel::Info,
            log_format: LogFormat::Text,
        }
    }
}

/// The API over HTTP; changing it needs a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// Where to listen.
    #[serde(default)]
    pub listen: Listen,
    /// File that holds the token which clients must send.
    pub token_file: String,
}

impl Runtime {
    /// Workers that will run: as many as `cores`, else `workers`, else one.
    pub fn worker_count(&self) -> u8 {
        let cores = self.cores.as_ref().map(|cores| u8::try_from(cores.len()).unwrap_or(u8::MAX));
        cores.or(self.workers).unwrap_or(1).max(1)
    }
}

/// Declares an enum whose values are written as lower-case words.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident {
        $($(#[$vdoc:meta])* $variant:ident = $word:literal),* $(,)?
    }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum $name { $($(#[$vdoc])* #[serde(rename = $word)] $variant),* }

        impl $name {
            /// Every word.
            pub const WORDS: &'static [&'static str] = &[$($word),*];

            /// The word.
            pub const fn word(self) -> &'static str {
                match self { $($name::$variant => $word),* }
            }
        }
    };
}
pub(super) use words;

words! {
    /// What an idle worker does.
    Idle {
        /// Polls on.
        #[default]
        Poll = "poll",
        /// Yields, then sleeps a little.
        Adaptive = "adaptive",
    }
}
words! {
    /// Whether to take hugepages.
    Hugepages {
        /// Where the machine has them free.
        #[default]
        Auto = "auto",
        /// Not at all.
        Never = "never",
    }
}
words! {
    /// Who puts VIPs on the ports' interfaces, and so has the kernel answer ARP for them.
    VipAddresses {
        /// gyre, while it runs.
        #[default]
        Gyre = "gyre",
        /// Another program: keepalived, where VRRP moves VIPs between directors.
        Others = "others",
    }
}
words! {
    /// Least severe level that is logged.
    LogLevel {
        /// Only errors.
        Error = "error",
        /// And warnings.
        Warn = "warn",
        /// And what operators want to see.
        #[default]
        Info = "info",
        /// And details.
        Debug = "debug",
        /// Everything.
        Trace = "trace",
    }
}
words! {
    /// How the log is written.
    LogFormat {
        /// Lines for people; for the journal, when that is where they go.
        #[default]
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    }
}
words! {
    /// How a port shares its link with the kernel.
    Kernel {
        /// gyre owns the device; a TAP is the director's interface.
        #[default]
        Tap = "tap",
        /// The kernel goes on using the interface.
        Shared = "shared",
        /// No kernel beside it.
        None = "none",
    }
}
words! {
    /// Transport protocol.
    Protocol {
        /// TCP.
        #[default]
        Tcp = "tcp",
        /// UDP.
        Udp = "udp",
    }
}
words! {
    /// Scheduler.
    Scheduler {
        /// Round robin.
        Rr = "rr",
        /// Weighted round robin.
        Wrr = "wrr",
        /// Least connections.
        Lc = "lc",
        /// Weighted least connections.
        #[default]
        Wlc = "wlc",
        /// Locality-based least connections.
        Lblc = "lblc",
        /// The same with a set of servers for each destination.
        Lblcr = "lblcr",
        /// Destination hashing.
        Dh = "dh",
        /// Source hashing.
        Sh = "sh",
        /// Shortest expected delay.
        Sed = "sed",
        /// Never queue.
        Nq = "nq",
        /// Weighted failover.
        Fo = "fo",
        /// Weighted overflow.
        Ovf = "ovf",
        /// The kernel's Maglev hashing.
        Mh = "mh",
        /// Maglev consistent hashing.
        Maglev = "maglev",
    }
}
words! {
    /// Options of a scheduler.
    SchedulerFlag {
        /// The client's port is part of `sh`'s key.
        #[default]
        ShPort = "sh-port",
        /// Clients of an unusable server go to another.
        ShFallback = "sh-fallback",
        /// The client's port is part of `mh`'s key.
        MhPort = "mh-port",
        /// Clients of an unusable server go to another.
        MhFallback = "mh-fallback",
    }
}
words! {
    /// How frames reach a server.
    Forwarding {
        /// Direct routing.
        #[default]
        Dr = "dr",
        /// Both addresses change.
        FullNat = "fullnat",
        /// The destination changes.
        Nat = "nat",
        /// Inside another packet.
        Tun = "tun",
        /// To the director itself.
        Local = "local",
    }
}
words! {
    /// What happens to TTL or hop limit.
    Ttl {
        /// Untouched.
        #[default]
        Keep = "keep",
        /// Less one.
        Decrement = "decrement",
    }
}
words! {
    /// What wraps packets to a TUN server.
    Tunnel {
        /// An outer IP header.
        #[default]
        Ipip = "ipip",
        /// GRE.
        Gre = "gre",
        /// Generic UDP encapsulation.
        Gue = "gue",
    }
}
words! {
    /// Checksum of a tunnel header.
    TunnelChecksum {
        /// None.
        #[default]
        None = "none",
        /// Over the payload.
        Csum = "csum",
        /// Remote checksum offload.
        Remcsum = "remcsum",
    }
}
words! {
    /// A protocol whose connections announce further ones.
    Helper {
        /// FTP.
        #[default]
        Ftp = "ftp",
    }
}
words! {
    /// How a server learns the client's address.
    ClientAddress {
        /// Not at all.
        #[default]
        None = "none",
        /// TCP option.
        Toa = "toa",
        /// IP option, for UDP.
        Uoa = "uoa",
        /// PROXY protocol, text.
        ProxyV1 = "proxy-v1",
        /// PROXY protocol, binary.
        ProxyV2 = "proxy-v2",
    }
}

impl Scheduler {
    /// The options it has.
    pub const fn flags(self) -> &'static [SchedulerFlag] {
        match self {
            Scheduler::Sh => &[SchedulerFlag::ShPort, SchedulerFlag::ShFallback],
            Scheduler::Mh => &[SchedulerFlag::MhPort, SchedulerFlag::MhFallback],
            _ => &[],
        }
    }
}

impl SchedulerFlag {
    /// The scheduler that has it.
    pub const fn scheduler(self) -> Scheduler {
        match self {
            SchedulerFlag::ShPort | SchedulerFlag::ShFallback => Scheduler::Sh,
            SchedulerFlag::MhPort | SchedulerFlag::MhFallback => Scheduler::Mh,
        }
    }
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

pub(super) fn is_false(yes: &bool) -> bool {
    !yes
}

/// A port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// Name; also of the TAP.
    pub name: String,
    /// PCI address or DPDK devargs.
    pub device: String,
    /// PCI addresses or devargs of the devices that a net_bonding device bonds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<String>,
    /// Kernel side.
    #[serde(default)]
    pub kernel: Kernel,
    /// Addresses of the director on this port.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<InterfaceAddress>,
    /// Largest IP packet, bytes; the device's own unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// 802.1Q VLAN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// MAC address, for `replay`; the device's own otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// Queue pairs; as many as workers unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queues: Option<u16>,
}

/// The kernel's interface below a device: its `iface=` argument.
pub fn interface_of(device: &str) -> Option<&str> {
    device.split(',').find_map(|argument| argument.strip_prefix("iface="))
}

impl Port {
    /// The kernel interface under an af_packet or af_xdp device: its `iface=` argument.
    pub fn interface(&self) -> Option<&str> {
        interface_of(&self.device)
    }

    /// Whether the device is a bond of `members`.
    pub fn is_bond(&self) -> bool {
        self.device.trim_start_matches("vdev:").starts_with("net_bonding")
    }
}

/// A pool of FULLNAT source addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// Port towards the servers.
    pub port: String,
    /// LIPs.
    pub addresses: Vec<IpAddr>,
    /// Lowest and highest source port.
    #[serde(default = "Pool::default_ports")]
    pub ports: (u16, u16),
}

impl Pool {
    fn default_ports() -> (u16, u16) {
        (1024, 65_535)
    }
}

/// A static neighbour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Neighbour {
    /// Its address.
    pub address: IpAddr,
    /// Its MAC address.
    pub mac: Mac,
    /// The port it is behind.
    pub port: String,
}

/// A static route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Destinations.
    pub prefix: ClientPrefix,
    /// The router; a neighbour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<IpAddr>,
    /// The port whose own link it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<String>,
}

/// Idle timeouts in seconds by the kernel's state names; `None` is the kernel's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(missing_docs, reason = "the names are the kernel's")]
pub struct Timeouts {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub established: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub syn_sent: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub syn_recv: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fin_wait: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_wait: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub close: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub close_wait: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_ack: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub synack: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub udp: Option<u32>,
}

impl Timeouts {
    fn is_default(&self) -> bool {
        *self == Timeouts::default()
    }
}

words! {
    /// When a defence is up.
    Defence {
        /// Never.
        #[default]
        Off = "off",
        /// While a worker runs short of flow entries.
        Pressure = "pressure",
        /// Always.
        Always = "always",
    }
}

/// The kernel's switches, for all services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Semantics {
    /// Which ended connections a SYN may follow.
    pub conn_reuse_mode: u8,
    /// End flows whose server is gone.
    pub expire_nodest_conn: bool,
    /// Persistence does not hold to servers of weight 0.
    pub expire_quiescent_template: bool,
    /// Flows may begin in the middle.
    pub sloppy_tcp: bool,
    /// Strict states.
    pub secure_tcp: Defence,
    /// Drop half-open flows.
    pub drop_entry: Defence,
    /// Drop a part of first packets.
    pub drop_packet: Defence,
    /// Answer a server's stray segments.
    pub nat_icmp_send: bool,
    /// Path MTU discovery in tunnels.
    pub pmtu_disc: bool,
    /// Idle timeouts of services that do not say.
    #[serde(skip_serializing_if = "Timeouts::is_default")]
    pub timeouts: Timeouts,
}

impl Default for Semantics {
    fn default() -> Self {
        (&crate::model::Semantics::default()).into()
    }
}

impl Semantics {
    fn is_default(&self) -> bool {
        *self == Semantics::default()
    }
}

/// A virtual service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// VIP and ports, unless it is a group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<ServiceAddress>,
    /// Protocol of `address`.
    #[serde(default)]
    pub protocol: Protocol,
    /// Name of the group, instead of `address`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// What the group takes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub r#match: Vec<Match>,
    /// Name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Scheduler.
    #[serde(default)]
    pub scheduler: Scheduler,
    /// Its options.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scheduler_flags: Vec<SchedulerFlag>,
    /// Slots of the Maglev table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maglev_slots: Option<u32>,
    /// Forwarding of servers that do not say.
    #[serde(default)]
    pub forwarding: Forwarding,
    /// TTL handling; by the mode unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Ttl>,
    /// Largest MSS that SYNs may offer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mss_max: Option<u16>,
    /// Pool of FULLNAT source addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_addresses: Option<String>,
    /// SYN cookies.
    #[serde(default, skip_serializing_if = "is_false")]
    pub synproxy: bool,
    /// How servers learn the client's address.
    #[serde(default)]
    pub client_address: ClientAddress,
    /// TCP option kind of `toa`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub toa_kind: Option<u8>,
    /// `toa` on the SYN too.
    #[serde(default, skip_serializing_if = "is_false")]
    pub toa_on_syn: bool,
    /// Whose announcements are followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub helper: Option<Helper>,
    /// Most live flows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections_max: Option<u64>,
    /// Clients admitted; empty admits all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<ClientPrefix>,
    /// Clients refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<ClientPrefix>,
    /// Seconds for which a client keeps to its server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistence_timeout: Option<u32>,
    /// Leading bits of a client's address that count for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistence_prefix: Option<u8>,
    /// Each datagram is scheduled by itself.
    #[serde(default, skip_serializing_if = "is_false")]
    pub one_packet: bool,
    /// The group's firewall mark, to users of `ipvsadm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<u32>,
    /// Idle timeouts.
    #[serde(default, skip_serializing_if = "Timeouts::is_default")]
    pub timeouts: Timeouts,
    /// What becomes of a failed server; `quiesce` unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<OnFailure>,
    /// Servers start as failed.
    #[serde(default, skip_serializing_if = "is_false")]
    pub starts_down: bool,
    /// Sum of good servers' weights at which the service is up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quorum: Option<u32>,
    /// By how much it must be passed, or missed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quorum_hysteresis: Option<u32>,
    /// Program that is told when it is reached.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quorum_up: Vec<String>,
    /// Program that is told when it is lost.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quorum_down: Vec<String>,
    /// Whether that one is told when gyre stops, too.
    #[serde(default, skip_serializing_if = "is_false")]
    pub quorum_down_at_stop: bool,
    /// Milliseconds over which a server comes to its weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_start_ms: Option<u32>,
    /// Who answers while the quorum is lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sorry_server: Option<SorryServer>,
    /// Checks of servers that have none of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub check: Vec<Check>,
    /// Servers in the order they are added.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub server: Vec<Server>,
}

/// Packets of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Match {
    /// VIP or prefix, and ports.
    pub address: MatchAddress,
    /// Protocol.
    #[serde(default)]
    pub protocol: Protocol,
}

/// A firewall mark.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    /// The mark.
    pub number: u32,
    /// Packets that carry it.
    #[serde(default, rename = "match", skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<Match>,
}

/// A real server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// RIP, with the port unless that is the service's.
    pub address: Endpoint,
    /// Share of new flows.
    #[serde(default = "Server::default_weight")]
    pub weight: u32,
    /// Connections at which it takes no new ones; 0 is no bound.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub upper_threshold: u32,
    /// Connections below which it takes new ones again; 0 is three quarters of the upper.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lower_threshold: u32,
    /// Forwarding, when not the service's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forwarding: Option<Forwarding>,
    /// What wraps packets, by TUN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<Tunnel>,
    /// GUE's port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel_port: Option<u16>,
    /// Checksum of GRE and GUE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel_checksum: Option<TunnelChecksum>,
    /// Its own checks, instead of the service's; an empty list for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<Vec<Check>>,
}

impl Server {
    fn default_weight() -> u32 {
        1
    }
}
