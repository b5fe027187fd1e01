//! `service.*`: virtual services. A service is named by `PROTOCOL ADDRESS:PORT`, by its name,
//! by `group NAME`, or by `ADDRESS:PORT` alone where that is not ambiguous.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::server::{RemovalMode, ServerRow};
use super::stats::RateRow;

/// Parameters of `service.list`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListServicesParams {
    /// Only this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
}

/// Parameters of `service.add`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AddServiceParams {
    /// A `[[service]]` of the configuration, as an object; servers go under `server`.
    pub service: Map<String, Value>,
}

/// Parameters of `service.add_many`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AddServicesParams {
    /// A `[[service]]` of the configuration each, as `service.add` takes it.
    pub services: Vec<Map<String, Value>>,
}

/// Parameters of `service.edit`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EditServiceParams {
    /// Which service.
    pub service: String,
    /// Keys of `[[service]]` with their new values; null takes a key away. Protocol, address,
    /// group and servers cannot be set here.
    pub set: Map<String, Value>,
}

/// Parameters of `service.remove`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RemoveServiceParams {
    /// Which service.
    pub service: String,
    /// How its servers leave, and it with the last of them. With `now` packets of its flows are
    /// dropped from here on, as with `ipvsadm -D`; the flows themselves stay until they are idle,
    /// hold their source ports, and go on if the service comes back before.
    #[serde(default)]
    pub mode: RemovalMode,
    /// With `drain`: seconds until the flows that are left are cut off; none waits for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_s: Option<u64>,
}

/// Parameters of `service.remove_all`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RemoveServicesParams {
    /// How servers leave, and services with the last of them, as in `service.remove`.
    #[serde(default)]
    pub mode: RemovalMode,
}

/// A virtual service with its counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceRow {
    /// `tcp`, `udp` or `group`.
    pub protocol: String,
    /// VIP and port or ports; a group's name.
    pub address: String,
    /// Name, if it has one.
    pub name: Option<String>,
    /// Firewall mark that a group stands for to users of `ipvsadm`.
    pub mark: Option<u32>,
    /// `ipv4` or `ipv6`.
    pub family: String,
    /// Scheduler.
    pub scheduler: String,
    /// Its options: `sh-port`, `sh-fallback`, `mh-port`, `mh-fallback`.
    pub scheduler_flags: Vec<String>,
    /// Seconds that a client keeps to its server; null where it does not.
    pub persistence_timeout_s: Option<u32>,
    /// Leading bits of a client's address that count for that.
    pub persistence_prefix: Option<u8>,
    /// Whether each datagram is scheduled by itself.
    pub one_packet: bool,
    /// Pool of FULLNAT source addresses.
    pub local_addresses: Option<String>,
    /// Whether SYN cookies guard it.
    pub synproxy: bool,
    /// Most live flows; null is unbounded.
    pub connections_max: Option<u64>,
    /// Live flows.
    pub flows: u64,
    /// Flows ever admitted.
    pub connections: u64,
    /// Packets from clients to its servers, also those that have left.
    pub in_packets: u64,
    /// Bytes of these.
    pub in_bytes: u64,
    /// Packets to clients, in modes that see them.
    pub out_packets: u64,
    /// Bytes of these.
    pub out_bytes: u64,
    /// What goes on now.
    pub rates: RateRow,
    /// First packets refused: no server, a limit, a deny list, a full table or no port.
    pub refused: u64,
    /// SYN cookies sent.
    pub cookies_sent: u64,
    /// Clients that proved a cookie.
    pub cookies_proven: u64,
    /// `up` where enough servers are good, or `lost`; null where nothing depends on it: no checks,
    /// hooks or sorry server.
    pub quorum: Option<String>,
    /// Its servers, in the order they were added.
    pub servers: Vec<ServerRow>,
}

/// Result of `service.list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServicesResult {
    /// The services, by protocol and address.
    pub services: Vec<ServiceRow>,
}
