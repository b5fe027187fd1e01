//! Control: the socket, the running configuration, publication to workers. The only part that
//! logs. It never sees the packet path or DPDK: `message` and rings are all that is shared.

pub mod api;
mod error;
pub mod socket;
mod stop;

pub use error::ControlError;
pub use stop::Stop;
