//! `server.*`: real servers of a service. A server is named by `ADDRESS:PORT`.

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::stats::RateRow;

/// Parameters of `server.list`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListServersParams {
    /// Only this service's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
}

/// Parameters of `server.add`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AddServerParams {
    /// Which service.
    pub service: String,
    /// A `[[service.server]]` of the configuration, as an object.
    pub server: Map<String, Value>,
}

/// How a server leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RemovalMode {
    /// No new flows; live ones go on until they end or the deadline passes.
    #[default]
    Drain,
    /// At once: packets of its flows are dropped, as with `ipvsadm -d`.
    Now,
}

/// Parameters of `server.remove`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RemoveServerParams {
    /// Which service.
    pub service: String,
    /// Which server.
    #[schemars(with = "String")]
    pub server: SocketAddr,
    /// How it leaves.
    #[serde(default)]
    pub mode: RemovalMode,
    /// With `drain`: seconds until the flows that are left are cut off; none waits for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_s: Option<u64>,
}

/// Parameters of `server.edit`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EditServerParams {
    /// Which service.
    pub service: String,
    /// Which server.
    #[schemars(with = "String")]
    pub server: SocketAddr,
    /// Keys of `[[service.server]]` with their new values; null takes a key away. The address
    /// cannot be set here.
    pub set: Map<String, Value>,
}

/// Parameters of `server.set_weight`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetWeightParams {
    /// Which service.
    pub service: String,
    /// Which server.
    #[schemars(with = "String")]
    pub server: SocketAddr,
    /// Share of new flows, 0 to 65535; 0 takes none.
    pub weight: u32,
}

/// A real server with its counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServerRow {
    /// The service it belongs to, as `PROTOCOL ADDRESS:PORT`.
    pub service: String,
    /// RIP and port.
    pub address: String,
    /// Forwarding mode.
    pub forwarding: String,
    /// What wraps packets on their way to a `tun` server: `ipip`, `gre` or `gue`.
    pub tunnel: Option<String>,
    /// Destination port of `gue`.
    pub tunnel_port: Option<u16>,
    /// Checksum of `gre` and `gue`: `none`, `csum` or `remcsum`.
    pub tunnel_checksum: Option<String>,
    /// Share of new flows.
    pub weight: u32,
    /// The weight that was asked for; what health checks make of it is `weight`.
    pub weight_asked: u32,
    /// `unchecked`, `up` or `down`; `down` while one of its health checks fails.
    pub health: String,
    /// Why it is down, or has less weight than was asked for.
    pub health_reason: Option<String>,
    /// For how long it has been up or down, seconds.
    pub health_since_s: Option<u64>,
    /// Connections, active and inactive, at which it takes no new ones; 0 is no bound.
    pub upper_threshold: u32,
    /// Connections below which it takes new ones again; 0 is three quarters of the upper.
    pub lower_threshold: u32,
    /// `active` or `draining`.
    pub state: String,
    /// Whether its next hop's neighbour is resolved.
    pub reachable: bool,
    /// Live flows in which data may flow.
    pub active: u64,
    /// The other live flows.
    pub inactive: u64,
    /// Persistence templates that hold clients to it: `ipvsadm`'s PersistConn.
    pub templates: u64,
    /// Flows ever scheduled here.
    pub connections: u64,
    /// Packets from clients.
    pub in_packets: u64,
    /// Bytes from clients.
    pub in_bytes: u64,
    /// Packets to clients, in modes that see them.
    pub out_packets: u64,
    /// Bytes to clients, in modes that see them.
    pub out_bytes: u64,
    /// What goes on now.
    pub rates: RateRow,
    /// Resets by the server and handshakes it left unanswered.
    pub refused: u64,
}

/// Result of `server.list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServersResult {
    /// The servers, by service and in the order they were added.
    pub servers: Vec<ServerRow>,
}
