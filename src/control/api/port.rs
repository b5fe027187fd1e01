//! `ports.list`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A pool of packet buffers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MempoolRow {
    /// Name.
    pub name: String,
    /// Buffers in it.
    pub size: u32,
    /// Buffers in use: in queues, in rings, in workers' hands. Free ones that workers keep at
    /// hand count as free.
    pub in_use: u32,
}

/// One port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PortRow {
    /// Position in the configuration.
    pub id: u8,
    /// Name.
    pub name: String,
    /// PCI address or DPDK devargs.
    pub device: String,
    /// DPDK driver.
    pub driver: String,
    /// `tap`, `shared` or `none`.
    pub kernel: String,
    /// The director's interface on this port.
    pub interface: Option<String>,
    /// MAC address.
    pub mac: String,
    /// Largest IP packet, bytes.
    pub mtu: u16,
    /// 802.1Q VLAN.
    pub vlan: Option<u16>,
    /// The director's own addresses on it.
    pub addresses: Vec<String>,
    /// Whether the link is up.
    pub link_up: bool,
    /// Speed of the link; null where the device does not tell.
    pub link_mbps: Option<u32>,
    /// Receive queues in use.
    pub rx_queues: u16,
    /// Transmit queues in use.
    pub tx_queues: u16,
    /// Frames received by workers.
    pub rx_frames: u64,
    /// Bytes received by workers, without FCS.
    pub rx_bytes: u64,
    /// Frames sent by workers.
    pub tx_frames: u64,
    /// Bytes sent by workers, without FCS.
    pub tx_bytes: u64,
    /// Frames given to the kernel interface.
    pub to_kernel: u64,
    /// Frames taken from the kernel interface.
    pub from_kernel: u64,
    /// Frames the device dropped because no worker fetched them in time (`imissed`).
    pub rx_missed: u64,
    /// Frames lost for want of a buffer (`rx_nombuf`).
    pub rx_nombuf: u64,
    /// Erroneous frames received (`ierrors`).
    pub rx_errors: u64,
    /// Frames the device failed to send (`oerrors`).
    pub tx_errors: u64,
    /// Frames that the transmit queues did not take.
    pub tx_full: u64,
    /// Frames its kernel interface did not take: it was down, or its queue full.
    pub kernel_refused: u64,
    /// Frames from the kernel lost because the sending worker's ring was full.
    pub kernel_ring_full: u64,
    /// Times a frame from the kernel had to wait because no buffer was free.
    pub kernel_nombuf: u64,
    /// Its buffers.
    pub mempools: Vec<MempoolRow>,
}

/// Result of `ports.list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PortsResult {
    /// The ports, in the configuration's order.
    pub ports: Vec<PortRow>,
}
