//! Where DPDK, the packet path, the kernel and control meet: launch, workers, kernel interface.
//!
//! Owns threads and their wiring. What happens to a frame is `dataplane`'s, what DPDK needs is
//! `dpdk`'s, what is configured and published is `control`'s.

pub mod checks;
pub mod cores;
pub mod crew;
pub mod crossing;
pub mod idle;
pub mod kernel_interface;
pub mod launch;
pub mod log;
pub mod parking;
pub mod ports;
pub mod signals;
pub mod transmit;
pub mod worker;

pub use crate::dpdk::version as dpdk_version;
