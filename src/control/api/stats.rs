//! `stats`: everything that is counted, at once.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::neighbour::NeighbourRow;
use super::port::PortRow;
use super::service::ServiceRow;
use super::worker::WorkerRow;

/// A count with its meaning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CauseCount {
    /// Stable name.
    pub name: String,
    /// Frames since the start.
    pub count: u64,
    /// One line for people.
    pub meaning: String,
}

/// Averages over some seconds, as the kernel estimates them (`ipvsadm -L --rate`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RateRow {
    /// Flows admitted a second.
    pub connections: u64,
    /// Packets from clients a second.
    pub in_packets: u64,
    /// Bytes from clients a second.
    pub in_bytes: u64,
    /// Packets to clients a second, in modes that see them.
    pub out_packets: u64,
    /// Bytes to clients a second, in modes that see them.
    pub out_bytes: u64,
}

/// Parameters of `stats.zero`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ZeroParams {
    /// Only this service and its servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
}

/// A worker's counts by cause; causes at 0 are left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WorkerDetail {
    /// What `workers.list` shows.
    #[serde(flatten)]
    pub worker: WorkerRow,
    /// Its drops by reason.
    pub drops_by_reason: Vec<CauseCount>,
    /// Its hand-offs by cause.
    pub hand_offs_by_cause: Vec<CauseCount>,
}

/// Source ports of one FULLNAT local address, over all workers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LocalAddressRow {
    /// Name of its pool.
    pub pool: String,
    /// The LIP.
    pub address: String,
    /// Lowest source port.
    pub port_first: u16,
    /// Highest source port.
    pub port_last: u16,
    /// (port, server) pairs in use.
    pub used: u64,
    /// Pairs that are free, towards all servers of the services that use the pool.
    pub free: u64,
    /// Ports taken over from a closed connection, ahead of the server's TIME_WAIT.
    pub reused: u64,
    /// Flows refused because every port towards their server was in use.
    pub exhausted: u64,
}

/// Result of `stats`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Stats {
    /// Dropped frames over all workers; every reason, also those at 0.
    pub drops: Vec<CauseCount>,
    /// Frames handed to other workers; every cause.
    pub hand_offs: Vec<CauseCount>,
    /// Frames that the director answered with; every kind.
    pub replies: Vec<CauseCount>,
    /// What helpers did; every event.
    pub helpers: Vec<CauseCount>,
    /// Per worker.
    pub workers: Vec<WorkerDetail>,
    /// Per port.
    pub ports: Vec<PortRow>,
    /// Per service and server.
    pub services: Vec<ServiceRow>,
    /// Per FULLNAT local address.
    pub local_addresses: Vec<LocalAddressRow>,
    /// Next hops whose neighbour is not resolved.
    pub neighbours_unresolved: Vec<NeighbourRow>,
}
