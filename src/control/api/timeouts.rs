//! `timeouts.*`, `marks.list`: what `ipvsadm` asks of all services together.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The idle timeouts that `ipvsadm --set` sets, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TimeoutsResult {
    /// TCP, ESTABLISHED.
    pub tcp_s: u32,
    /// TCP, FIN_WAIT.
    pub tcp_fin_s: u32,
    /// UDP.
    pub udp_s: u32,
}

/// Parameters of `timeouts.set`; what is left out stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetTimeoutsParams {
    /// TCP, ESTABLISHED, seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_s: Option<u32>,
    /// TCP, FIN_WAIT, seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_fin_s: Option<u32>,
    /// UDP, seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub udp_s: Option<u32>,
}

/// Which packets carry a firewall mark.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MarkRow {
    /// The mark.
    pub mark: u32,
    /// A `[[mark.match]]` of the configuration each.
    #[serde(rename = "match")]
    pub matches: Vec<serde_json::Value>,
}

/// Result of `marks.list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MarksResult {
    /// The marks of the configuration.
    pub marks: Vec<MarkRow>,
}
