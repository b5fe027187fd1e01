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
    /// Revision that workers have, one more with each change, next hops that came and went
    /// included.
    pub revision: u64,
    /// The configuration's revision, as `config.revisions` lists it.
    #[serde(default)]
    pub config_revision: u64,
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
    /// Those of them that were not gyre's to forward and are no loss (`own_frame`, `kernel_copy`):
    /// a shared interface has them all the time.
    #[serde(default)]
    pub drops_expected: u64,
    /// Next hops whose neighbour is not resolved.
    pub neighbours_unresolved: u32,
}
