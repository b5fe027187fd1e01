//! `connections.*`: live flows, asked of the workers.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which flows; every field that is given must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionFilter {
    /// Client address.
    pub client: Option<IpAddr>,
    /// Virtual address.
    pub vip: Option<IpAddr>,
    /// Virtual port.
    pub vport: Option<u16>,
    /// Server address.
    pub server: Option<IpAddr>,
    /// State by the kernel's name.
    pub state: Option<String>,
}

/// Parameters of `connections.list`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListConnectionsParams {
    /// Client address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<IpAddr>,
    /// Virtual address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vip: Option<IpAddr>,
    /// Virtual port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vport: Option<u16>,
    /// Server address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<IpAddr>,
    /// State by the kernel's name, such as `ESTABLISHED`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// At most so many, 1 to 100000; 1000 unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// The page behind the one that had this as `next`, with the same filter. It may be shorter
    /// than `limit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

impl ListConnectionsParams {
    /// The filter part.
    pub fn filter(&self) -> ConnectionFilter {
        ConnectionFilter {
            client: self.client,
            vip: self.vip,
            vport: self.vport,
            server: self.server,
            state: self.state.clone(),
        }
    }
}

/// Parameters of `connections.delete`: a filter, or `all`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeleteParams {
    /// Client address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<IpAddr>,
    /// Virtual address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vip: Option<IpAddr>,
    /// Virtual port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vport: Option<u16>,
    /// Server address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<IpAddr>,
    /// State by the kernel's name, such as `ESTABLISHED`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Every flow: needed where nothing else is given.
    #[serde(default)]
    pub all: bool,
    /// At most so many; all that match unless given. As many as were asked for have been deleted
    /// when there may be more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

impl DeleteParams {
    /// The filter part.
    pub fn filter(&self) -> ConnectionFilter {
        ConnectionFilter {
            client: self.client,
            vip: self.vip,
            vport: self.vport,
            server: self.server,
            state: self.state.clone(),
        }
    }
}

/// A live flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConnectionRow {
    /// `tcp` or `udp`; `ip` for a persistence template of a group.
    pub protocol: String,
    /// CIP and port; port 0 in a persistence template.
    pub client: String,
    /// VIP and port.
    pub r#virtual: String,
    /// LIP and port; FULLNAT only.
    pub local: Option<String>,
    /// RIP and port.
    pub server: String,
    /// Forwarding mode.
    pub forwarding: String,
    /// State by the kernel's name.
    pub state: String,
    /// Milliseconds until it ends if no packet comes.
    pub expires_ms: u32,
    /// Packets seen in both directions; wraps at 2^32.
    pub packets: u32,
    /// The worker that owns it.
    pub worker: u8,
}

/// Result of `connections.list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ListConnectionsResult {
    /// The flows, in no order.
    pub connections: Vec<ConnectionRow>,
    /// Whether more matched than `limit` let through.
    pub truncated: bool,
    /// What to give as `after` for the next page; null on the last one. Flows that come or go
    /// between two pages may be in none.
    pub next: Option<String>,
}

/// Result of `connections.delete`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DeleteResult {
    /// Flows ended.
    pub deleted: u64,
}
