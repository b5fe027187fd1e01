//! The schema as a table: names, shapes, bounds and a line on each field.
//!
//! `shape` checks against it and the reference in docs is printed from it.

use std::net::IpAddr;

use super::health::OnFailure;
use super::health::schema::{CHECK, COMMAND};
use super::shape::{Field, Shape};
use super::types::{
    ClientAddress, Defence, Forwarding, Helper, Hugepages, Idle, Kernel, LogFormat, LogLevel,
    Protocol, Scheduler, SchedulerFlag, Ttl, Tunnel, TunnelChecksum, VipAddresses,
};
use super::values::{
    ClientPrefix, Endpoint, InterfaceAddress, Listen, Mac, MatchAddress, ServiceAddress,
};
use crate::limits::{
    FLOWS_PER_WORKER_MAX, MAGLEV_SLOTS_MAX, SLOW_START_MS_MAX, SOURCE_PORT_SPACES_MAX,
    TIMEOUT_MILLIS_MAX, WEIGHT_MAX, WORKERS_MAX,
};

pub(super) const fn field(name: &'static str, shape: Shape, about: &'static str) -> Field {
    Field { name, shape, required: false, instead: None, about }
}

pub(super) const fn required(name: &'static str, shape: Shape, about: &'static str) -> Field {
    Field { name, shape, required: true, instead: None, about }
}

fn ip(text: &str) -> Result<(), String> {
    text.parse::<IpAddr>().map(drop).map_err(|_| format!("`{text}` is no IP address"))
}

fn address_and_port(text: &str) -> Result<(), String> {
    text.parse::<ServiceAddress>().map(drop)
}

fn match_address(text: &str) -> Result<(), String> {
    text.parse::<MatchAddress>().map(drop)
}

fn group_name(text: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let good = (1..=32).contains(&text.len()) && text.chars().all(plain);
    good.then_some(()).ok_or_else(|| format!("`{}` cannot name a group", text.escape_debug()))
}

fn endpoint(text: &str) -> Result<(), String> {
    text.parse::<Endpoint>().map(drop)
}

fn interface_address(text: &str) -> Result<(), String> {
    text.parse::<InterfaceAddress>().map(drop)
}

fn prefix(text: &str) -> Result<(), String> {
    text.parse::<ClientPrefix>().map(drop)
}

fn mac(text: &str) -> Result<(), String> {
    text.parse::<Mac>().map(drop)
}

fn interface_name(text: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let good = (1..=15).contains(&text.len()) && text.chars().all(plain) && !text.starts_with('.');
    good.then_some(()).ok_or_else(|| format!("`{text}` cannot be an interface's name"))
}

fn socket_path(text: &str) -> Result<(), String> {
    if !text.starts_with('/') || text.contains('\0') {
        return Err(format!("`{}` is no absolute path", text.escape_debug()));
    }
    // sun_path of sockaddr_un holds 108 bytes with its final NUL.
    if text.len() > 107 { Err("the path is longer than 107 bytes".into()) } else { Ok(()) }
}

fn file_path(text: &str) -> Result<(), String> {
    let good = text.starts_with('/') && !text.contains('\0');
    good.then_some(()).ok_or_else(|| format!("`{}` is no absolute path", text.escape_debug()))
}

fn listen(text: &str) -> Result<(), String> {
    text.parse::<Listen>().map(drop)
}

fn device(text: &str) -> Result<(), String> {
    let driver = text.split(',').next().unwrap_or_default();
    let vdev = ["net_", "eth_", "virtio_user"].iter().any(|start| driver.starts_with(start));
    let bdf = driver
        .split([':', '.'])
        .all(|part| !part.is_empty() && part.chars().all(|c| c.is_ascii_hexdigit()));
    let pci = bdf && driver.contains(':') && driver.contains('.');
    let clean = !text.chars().any(|c| c.is_whitespace() || c.is_control());
    ((vdev || pci) && clean).then_some(()).ok_or_else(|| {
        format!("`{}` is neither a PCI address nor DPDK devargs", text.escape_debug())
    })
}

const IP: Shape = Shape::Parsed(ip, "\"192.0.2.8\" or \"2001:db8::8\"");
const PREFIX: Shape = Shape::Parsed(prefix, "\"192.0.2.0/24\" or \"2001:db8::/32\"");
const MAC: Shape = Shape::Parsed(mac, "\"02:00:00:00:01:fe\"");
const PORT_NAME: Shape = Shape::Parsed(interface_name, "\"wan\", at most 15 letters and digits");
const FLOWS: Shape = Shape::Integer(1, FLOWS_PER_WORKER_MAX as i64);
const SECONDS: Shape = Shape::Integer(1, TIMEOUT_MILLIS_MAX as i64 / 1000);
const THRESHOLD: Shape = Shape::Integer(0, u32::MAX as i64);
const FORWARDING: Shape = Shape::Choice(Forwarding::WORDS, &["group"]);

const RUNTIME: &[Field] = &[
    field("workers", Shape::Integer(1, WORKERS_MAX as i64), "number of workers (1)"),
    field(
        "cores",
        Shape::List(&Shape::Integer(0, 4095)),
        "cores to pin workers to, one worker each; instead of `workers`",
    ),
    field(
        "idle",
        Shape::Choice(Idle::WORDS, &[]),
        "what an idle worker does (poll when all ports are PCI devices, else adaptive)",
    ),
    field(
        "control_socket",
        Shape::Parsed(socket_path, "\"/run/gyre/gyre.sock\""),
        "path of the control socket (/run/gyre/gyre.sock)",
    ),
    field("connections", FLOWS, "IPv4 flows per worker, reserved at start (262144)"),
    field("connections_ipv6", FLOWS, "IPv6 flows per worker, reserved at start (65536)"),
    field(
        "address_pairs",
        Shape::Integer(1, SOURCE_PORT_SPACES_MAX as i64),
        "pairs of local address and server that a worker holds ports for, 8 KiB each (4096)",
    ),
    field("hugepages", Shape::Choice(Hugepages::WORDS, &[]), "whether to take hugepages (auto)"),
    field("memory_mib", Shape::Integer(64, 1 << 20), "memory for frames without hugepages, MiB"),
    field(
        "vip_addresses",
        Shape::Choice(VipAddresses::WORDS, &[]),
        "who puts VIPs on the ports' interfaces: gyre, or others, such as keepalived, whose VRRP \
         moves them between directors (gyre)",
    ),
    field("multi_process", Shape::Bool, "let dpdk-dumpcap and the like attach (false)"),
    field("log", Shape::Choice(LogLevel::WORDS, &[]), "least severe level that is logged (info)"),
    field(
        "log_format",
        Shape::Choice(LogFormat::WORDS, &[]),
        "how the log is written: lines of text, by priority where the journal reads them, or one \
         JSON object a line (text)",
    ),
];

const HTTP: &[Field] = &[
    field(
        "listen",
        Shape::Parsed(listen, "\"127.0.0.1:9580\" or \"[::1]:9580\""),
        "address and port; there is no encryption, so loopback (127.0.0.1:9580)",
    ),
    required(
        "token_file",
        Shape::Parsed(file_path, "\"/etc/gyre/token\""),
        "file with the token that clients must send, 16 characters at least; not everybody's",
    ),
];

const PORT: &[Field] = &[
    required("name", PORT_NAME, "name of the port, and of its TAP"),
    required(
        "device",
        Shape::Parsed(
            device,
            "\"0000:3b:00.0\", or for a kernel interface \"net_af_packet0,iface=eth1\"",
        ),
        "PCI address or DPDK devargs",
    ),
    field(
        "members",
        Shape::List(&Shape::Parsed(device, "\"0000:3b:00.0\" or \"net_af_packet0,iface=eth1\"")),
        "what a net_bonding device bonds: PCI addresses or DPDK devargs",
    ),
    field(
        "kernel",
        Shape::Choice(Kernel::WORDS, &[]),
        "how the link is shared with the kernel (tap)",
    ),
    field(
        "addresses",
        Shape::List(&Shape::Parsed(interface_address, "\"192.0.2.2/24\"")),
        "the director's addresses on the port",
    ),
    field("mtu", Shape::Integer(576, 9702), "largest IP packet, bytes (the device's)"),
    field("vlan", Shape::Integer(1, 4094), "802.1Q VLAN that the port belongs to"),
    field("mac", MAC, "MAC address, needed by `replay` alone"),
    field("queues", Shape::Integer(1, 1024), "queue pairs (as many as workers)"),
];

const POOL: &[Field] = &[
    required("port", PORT_NAME, "port towards the servers"),
    required("addresses", Shape::List(&IP), "the local addresses"),
    field("ports", Shape::Pair(1, 65_535), "lowest and highest source port ([1024, 65535])"),
];

const NEIGHBOUR: &[Field] = &[
    required("address", IP, "its address"),
    required("mac", MAC, "its MAC address"),
    required("port", PORT_NAME, "port it is behind"),
];

const ROUTE: &[Field] = &[
    required("prefix", PREFIX, "destinations"),
    field("via", IP, "router, one of the neighbours"),
    field("port", PORT_NAME, "port whose own link the destinations are on; instead of `via`"),
];

const TIMEOUTS: &[Field] = &[
    field("established", SECONDS, "seconds (900)"),
    field("syn_sent", SECONDS, "seconds (120)"),
    field("syn_recv", SECONDS, "seconds (60)"),
    field("fin_wait", SECONDS, "seconds (120)"),
    field("time_wait", SECONDS, "seconds (120)"),
    field("close", SECONDS, "seconds (10)"),
    field("close_wait", SECONDS, "seconds (60)"),
    field("last_ack", SECONDS, "seconds (30)"),
    field("synack", SECONDS, "seconds (120)"),
    field("udp", SECONDS, "seconds (300)"),
];

const SEMANTICS: &[Field] = &[
    field(
        "conn_reuse_mode",
        Shape::Integer(0, 2),
        "a SYN on an old tuple is a new connection: never, after TIME_WAIT or CLOSE, or also \
         after FIN_WAIT of which one direction was seen (1)",
    ),
    field(
        "expire_nodest_conn",
        Shape::Bool,
        "the next packet of a flow whose server is gone ends it, instead of being dropped (false)",
    ),
    field(
        "expire_quiescent_template",
        Shape::Bool,
        "persistence does not hold to servers of weight 0 (false)",
    ),
    field("sloppy_tcp", Shape::Bool, "a flow may begin with anything but a RST (false)"),
    field(
        "secure_tcp",
        Shape::Choice(Defence::WORDS, &[]),
        "only the server's segments establish a flow (off)",
    ),
    field(
        "drop_entry",
        Shape::Choice(Defence::WORDS, &[]),
        "drop half-open flows, a part of the table each second (off)",
    ),
    field(
        "drop_packet",
        Shape::Choice(Defence::WORDS, &[]),
        "drop a part of the packets that would open flows (off)",
    ),
    field(
        "nat_icmp_send",
        Shape::Bool,
        "answer a NAT server's packet without a flow by port unreachable (false)",
    ),
    field("pmtu_disc", Shape::Bool, "discover the path MTU in tunnels (true)"),
    field("timeouts", Shape::Table(TIMEOUTS), "idle timeouts of services that do not say, seconds"),
];

const SERVER_ADDRESS: Field = required(
    "address",
    Shape::Parsed(endpoint, "\"10.2.0.11\", \"10.2.0.11:8080\" or \"[2001:db8::11]:8080\""),
    "the server's address, with its port if that is not the service's",
);
const SERVER_FORWARDING: Field =
    field("forwarding", FORWARDING, "how frames reach it (the service's)");
const TUNNEL: Field =
    field("tunnel", Shape::Choice(Tunnel::WORDS, &[]), "what wraps packets, by tun (ipip)");
const TUNNEL_PORT: Field =
    field("tunnel_port", Shape::Integer(1, 65_535), "destination port of gue (6080)");
const TUNNEL_CHECKSUM: Field = field(
    "tunnel_checksum",
    Shape::Choice(TunnelChecksum::WORDS, &[]),
    "checksum of gre (none, csum) or gue (none, csum, remcsum) (none)",
);

const SORRY_SERVER: &[Field] =
    &[SERVER_ADDRESS, SERVER_FORWARDING, TUNNEL, TUNNEL_PORT, TUNNEL_CHECKSUM];

/// A server, by itself for `server.add`.
pub(super) const SERVER: Shape = Shape::Table(&[
    SERVER_ADDRESS,
    field("weight", Shape::Integer(0, WEIGHT_MAX as i64), "share of new flows (1); 0 takes none"),
    field(
        "upper_threshold",
        THRESHOLD,
        "connections, active and inactive, at which it takes no new ones (unbounded)",
    ),
    field(
        "lower_threshold",
        THRESHOLD,
        "connections below which it takes new ones again (three quarters of `upper_threshold`)",
    ),
    SERVER_FORWARDING,
    TUNNEL,
    TUNNEL_PORT,
    TUNNEL_CHECKSUM,
    field(
        "check",
        Shape::List(&Shape::Table(CHECK)),
        "its own checks, instead of the service's; check = [] for none",
    ),
]);

const PROTOCOL: Shape = Shape::Choice(Protocol::WORDS, &["sctp"]);

const MATCH: &[Field] = &[
    required(
        "address",
        Shape::Parsed(
            match_address,
            "\"192.0.2.80:80\", \"10.3.0.0/16:0\" or \"[2001:db8::/64]:80\"",
        ),
        "destination address or prefix, and port, range of ports or 0 for all",
    ),
    field("protocol", PROTOCOL, "transport protocol (tcp)"),
];

const MARK: &[Field] = &[
    required("number", Shape::Integer(1, u32::MAX as i64), "the mark"),
    required("match", Shape::List(&Shape::Table(MATCH)), "packets that carry it"),
];

/// A service, by itself for `service.add`.
pub(super) const SERVICE: Shape = Shape::Table(&[
    Field {
        name: "address",
        shape: Shape::Parsed(
            address_and_port,
            "\"192.0.2.80:80\", \"192.0.2.80:8000-8010\" or \"[2001:db8::80]:80\"",
        ),
        required: true,
        instead: Some("group"),
        about: "virtual address and port, or ports",
    },
    field("protocol", PROTOCOL, "transport protocol of the address (tcp)"),
    field(
        "group",
        Shape::Parsed(group_name, "\"web\", at most 32 letters and digits"),
        "instead of `address`: name of a group, whose matches are scheduled as one",
    ),
    field("match", Shape::List(&Shape::Table(MATCH)), "packets of the group"),
    field("name", Shape::Text, "name for people, unique"),
    field("scheduler", Shape::Choice(Scheduler::WORDS, &[]), "who gets a new flow (wlc)"),
    field(
        "scheduler_flags",
        Shape::List(&Shape::Choice(SchedulerFlag::WORDS, &[])),
        "options of sh (sh-port, sh-fallback) or mh (mh-port, mh-fallback)",
    ),
    field(
        "maglev_slots",
        Shape::Integer(2, MAGLEV_SLOTS_MAX as i64),
        "slots of the Maglev table, a prime (65537)",
    ),
    field("forwarding", FORWARDING, "how frames reach servers that do not say (dr)"),
    field(
        "ttl",
        Shape::Choice(Ttl::WORDS, &[]),
        "what happens to TTL or hop limit (keep with dr, else decrement)",
    ),
    field(
        "mss_max",
        Shape::Integer(64, 65_495),
        "largest TCP segment that SYNs of clients and, where they pass, of servers may offer",
    ),
    field("local_addresses", Shape::Text, "pool of FULLNAT source addresses"),
    field("synproxy", Shape::Bool, "answer SYNs with cookies; needs fullnat or nat (false)"),
    field(
        "client_address",
        Shape::Choice(ClientAddress::WORDS, &[]),
        "how servers learn the client's address; needs fullnat (none)",
    ),
    field("toa_kind", Shape::Integer(0, 255), "TCP option kind of `toa` (254)"),
    field("toa_on_syn", Shape::Bool, "send `toa` on the SYN too (false)"),
    field(
        "helper",
        Shape::Choice(Helper::WORDS, &[]),
        "follow the data connections that this protocol announces; needs fullnat or nat (none)",
    ),
    field("connections_max", Shape::Integer(1, i64::MAX), "most live flows (unbounded)"),
    field("allow", Shape::List(&PREFIX), "clients admitted; all when empty"),
    field("deny", Shape::List(&PREFIX), "clients refused, whatever `allow` says"),
    field(
        "persistence_timeout",
        SECONDS,
        "a client keeps to its server for so many seconds after its last new flow",
    ),
    field(
        "persistence_prefix",
        Shape::Integer(1, 128),
        "leading bits of a client's address that count for that (all)",
    ),
    field("one_packet", Shape::Bool, "schedule each datagram by itself; UDP (false)"),
    field(
        "mark",
        Shape::Integer(1, u32::MAX as i64),
        "firewall mark by which users of ipvsadm know the group",
    ),
    field("timeouts", Shape::Table(TIMEOUTS), "idle timeouts, seconds"),
    field(
        "on_failure",
        Shape::Choice(OnFailure::WORDS, &[]),
        "what becomes of a server whose checks fail: weight 0, or taken out of the list (quiesce)",
    ),
    field("starts_down", Shape::Bool, "servers are failed until their checks were good (false)"),
    field(
        "quorum",
        Shape::Integer(1, u32::MAX as i64),
        "sum of the weights of good servers at which the service is up (1)",
    ),
    field(
        "quorum_hysteresis",
        Shape::Integer(0, u32::MAX as i64),
        "the service is up again at `quorum` and this, and lost below `quorum` less this (0)",
    ),
    field("quorum_up", COMMAND, "program and arguments, run when the quorum is reached"),
    field("quorum_down", COMMAND, "program and arguments, run when it is lost"),
    field(
        "quorum_down_at_stop",
        Shape::Bool,
        "that program runs when gyre stops as well, before the workers end (false)",
    ),
    field(
        "slow_start_ms",
        Shape::Integer(0, SLOW_START_MS_MAX as i64),
        "a server that comes back comes to its weight over so long, milliseconds (0)",
    ),
    field(
        "sorry_server",
        Shape::Table(SORRY_SERVER),
        "who answers while the quorum is lost; never checked",
    ),
    field(
        "check",
        Shape::List(&Shape::Table(CHECK)),
        "health checks of every server that has none of its own; a server is good while all its \
         checks are",
    ),
    field("server", Shape::List(&SERVER), "servers, in the order they are added"),
]);

/// The whole.
pub(super) const CONFIG: Shape = Shape::Table(&[
    field("runtime", Shape::Table(RUNTIME), "the process; changes need a restart"),
    field(
        "http",
        Shape::Table(HTTP),
        "the control API over HTTP (`/rpc`, `/events`), `/metrics` and `/healthz`; off without \
         this, and changes need a restart",
    ),
    field("port", Shape::List(&Shape::Table(PORT)), "ports; changes need a restart"),
    field(
        "local_addresses",
        Shape::Map(&Shape::Table(POOL)),
        "pools of FULLNAT source addresses, by name",
    ),
    field(
        "neighbour",
        Shape::List(&Shape::Table(NEIGHBOUR)),
        "static neighbours: they go before the kernel's, and are all that `replay` has",
    ),
    field(
        "route",
        Shape::List(&Shape::Table(ROUTE)),
        "static routes: they go before the kernel's, and are all that `replay` has",
    ),
    field(
        "mark",
        Shape::List(&Shape::Table(MARK)),
        "firewall marks, for groups that `ipvsadm -A -f` makes; gyre sees packets before the \
         kernel's packet filter could mark them",
    ),
    field(
        "semantics",
        Shape::Table(SEMANTICS),
        "the switches of Linux IPVS, for all services; its defaults",
    ),
    field("service", Shape::List(&SERVICE), "virtual services"),
]);
