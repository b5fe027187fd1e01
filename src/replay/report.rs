//! What a replay came to, for people and programs.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::Serialize;

use crate::message::FlowRow;

/// The report: counts of frames and verdicts, and the flows at the end.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Frames read.
    pub frames: u64,
    /// First to last timestamp, seconds.
    pub seconds: f64,
    /// Frames by verdict: `transmit`, `to_kernel`, `await_neighbour`, `drop`.
    pub verdicts: BTreeMap<&'static str, u64>,
    /// Drops by reason, only those that happened.
    pub drops: BTreeMap<&'static str, u64>,
    /// Frames the director answered with, by kind.
    pub replies: BTreeMap<&'static str, u64>,
    /// Frames that the capture had cut short.
    pub cut_frames: u64,
    /// By port name.
    pub ports: BTreeMap<String, PortReport>,
    /// Flows created.
    pub flows_created: u64,
    /// Flows ended by their timer.
    pub flows_expired: u64,
    /// Flows live at the end.
    pub flows: Vec<FlowReport>,
}

/// Frames of one port.
#[derive(Debug, Default, Serialize)]
pub struct PortReport {
    /// Read from its capture.
    pub received: u64,
    /// Sent from it.
    pub sent: u64,
    /// Left to its kernel interface.
    pub to_kernel: u64,
}

/// One live flow.
#[derive(Debug, Serialize)]
pub struct FlowReport {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Client.
    pub client: SocketAddr,
    /// VIP and port.
    pub r#virtual: SocketAddr,
    /// Local address and port, FULLNAT only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local: Option<SocketAddr>,
    /// Server.
    pub server: SocketAddr,
    /// State by the kernel's name.
    pub state: &'static str,
    /// Milliseconds until it ends without a packet.
    pub expires_ms: u32,
    /// Packets, both directions.
    pub packets: u32,
}

impl From<FlowRow> for FlowReport {
    fn from(row: FlowRow) -> Self {
        FlowReport {
            protocol: row.protocol.to_string(),
            client: row.client.into(),
            r#virtual: row.virtual_address.into(),
            local: row.local.map(SocketAddr::from),
            server: row.server.into(),
            state: row.state.name(),
            expires_ms: row.expires_ms,
            packets: row.packets,
        }
    }
}
