//! What only the owner of the ports can tell of them. Filled by `runtime`, shown by `ports.list`.

use std::sync::Arc;

use crate::model::NicId;

/// A pool of packet buffers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MempoolInfo {
    /// Name.
    pub name: String,
    /// Buffers in it.
    pub size: u32,
    /// Buffers in use: in queues, in rings, in workers' hands.
    pub in_use: u32,
}

/// A port as its device sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortInfo {
    /// Which port.
    pub nic: NicId,
    /// PCI address or DPDK devargs.
    pub device: String,
    /// DPDK driver.
    pub driver: String,
    /// The director's interface on this port.
    pub interface: Option<String>,
    /// Whether the link is up.
    pub link_up: bool,
    /// Speed of the link; `None` where the device does not tell.
    pub link_mbps: Option<u32>,
    /// Receive queues in use.
    pub rx_queues: u16,
    /// Transmit queues in use.
    pub tx_queues: u16,
    /// `imissed`: frames the device dropped because no worker fetched them in time.
    pub rx_missed: u64,
    /// `rx_nombuf`: frames lost for want of a buffer.
    pub rx_nombuf: u64,
    /// `ierrors`: erroneous frames received.
    pub rx_errors: u64,
    /// `oerrors`: frames the device failed to send.
    pub tx_errors: u64,
    /// Frames its kernel interface did not take: it was down, or its queue full.
    pub kernel_refused: u64,
    /// Frames from the kernel lost because the sending worker's ring was full.
    pub kernel_ring_full: u64,
    /// Times a frame from the kernel had to wait because no buffer was free.
    pub kernel_nombuf: u64,
    /// Its buffers.
    pub mempools: Vec<MempoolInfo>,
}

/// Asks the ports; called on control's thread, so it must not wait.
pub type PortInfoSource = Arc<dyn Fn() -> Vec<PortInfo> + Send + Sync>;
