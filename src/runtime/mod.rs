//! Where DPDK, the packet path, the kernel and control meet: launch, workers, kernel interface.
//!
//! Owns threads and their wiring. What happens to a frame is `dataplane`'s, what DPDK needs is
//! `dpdk`'s, what is configured and published is `control`'s.

pub mod checks;
pub mod cores;
pub mod crossing;
pub mod idle;
pub mod kernel_interface;
pub mod parking;
pub mod transmit;
pub mod worker;
