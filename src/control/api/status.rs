//! `status`: is it running, what does it run, is anything wrong.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// gyre in a few lines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// gyre's version.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Seconds since the start.
    pub uptime_s: u64,
    /// The file that the configuration came from.
    pub config_path: String,
    /// Revision in force, one more with each change.
    pub revision: u64,
    /// Number of workers.
    pub workers: u32,
    /// Workers that completed no turn for a second.
    pub workers_stalled: Vec<u8>,
    /// Number of ports.
    pub ports: u32,
    /// Ports whose link is down.
    pub ports_down: Vec<String>,
    /// Number of virtual services.
    pub services: u32,
    /// Number of real servers over all services, draining ones included.
    pub servers: u32,
    /// Real servers whose health checks fail.
    pub servers_down: u32,
    /// Live flows.
    pub flows: u64,
    /// Flows created since the start.
    pub flows_created: u64,
    /// Frames dropped since the start; `stats` tells why.
    pub drops: u64,
    /// Next hops whose neighbour is not resolved.
    pub neighbours_unresolved: u32,
}
