//! `check.list`: health checks and how they stand.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Parameters of `check.list`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListChecksParams {
    /// Only this service's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
}

/// A health check of a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CheckRow {
    /// The service, as `PROTOCOL ADDRESS:PORT`.
    pub service: String,
    /// RIP and port of the server.
    pub server: String,
    /// `tcp`, `http`, `https`, `udp`, `dns`, `icmp`, `smtp` or `program`.
    pub check: String,
    /// What it is aimed at.
    pub target: String,
    /// `good` or `bad`: what the last rounds came to.
    pub state: String,
    /// For how long, seconds.
    pub since_s: u64,
    /// How the last round went: `good`, or why not; null before the first.
    pub last: Option<String>,
    /// When it ended, milliseconds ago.
    pub last_ago_ms: Option<u64>,
    /// How long its good attempt took, microseconds.
    pub took_us: Option<u64>,
    /// From round to round, milliseconds.
    pub interval_ms: u32,
}

/// Result of `check.list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ChecksResult {
    /// By service, then in the order of servers and checks.
    pub checks: Vec<CheckRow>,
}
