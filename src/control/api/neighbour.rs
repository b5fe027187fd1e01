//! `neighbours.list`: next hops and whether their MAC addresses are known.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One next hop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NeighbourRow {
    /// The neighbour's address: a server, a client or a router.
    pub address: String,
    /// What it leads to, where that is not the neighbour itself.
    pub target: Option<String>,
    /// The port to send from; null while there is no route.
    pub port: Option<String>,
    /// MAC address; null while it is not resolved.
    pub mac: Option<String>,
    /// Whether frames can be sent there.
    pub resolved: bool,
    /// Largest IP packet on this path, bytes.
    pub mtu: u16,
}

/// Result of `neighbours.list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NeighboursResult {
    /// Next hops in use.
    pub neighbours: Vec<NeighbourRow>,
}
