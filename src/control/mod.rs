//! Control: the socket, the running configuration, publication to workers. The only part that
//! logs. It never sees the packet path or DPDK: `message` and rings are all that is shared.

pub mod api;
mod error;
mod kernel_side;
mod link;
pub mod netlink;
mod port_info;
pub mod socket;
mod stop;

pub use crate::model::next_hops;
pub use error::ControlError;
pub use kernel_side::KernelSide;
pub use link::{WorkerEnds, WorkerLink};
pub use port_info::{MempoolInfo, PortInfo, PortInfoSource};
pub use stop::Stop;
