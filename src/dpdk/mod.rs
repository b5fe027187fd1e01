//! The safe face of DPDK: EAL, threads, mbufs, pools, NICs and the TSC clock.
//!
//! Owns every call into `dpdk-sys` and all `unsafe` that goes with it. Knows nothing of packets'
//! contents, services or workers' work; those borrow a [`crate::frame::Frame`] from an [`Mbuf`].
//!
//! Lifetimes hold each other up so that safe code cannot outlive what it points into: queues keep
//! their port, ports keep their pool, pools keep EAL, and a pool whose mbufs are still out is
//! leaked rather than freed.
#![allow(unsafe_code)]

pub mod clock;
pub mod devargs;
pub mod eal;
pub mod eal_args;
pub mod files;
pub mod mbuf;
mod member;
pub mod mempool;
mod netdevice;
pub mod nic;
mod nic_error;
mod nic_setup;
pub mod pci;
mod port;
pub mod queue;
mod rss;
pub mod tap;
mod threads;

pub use clock::{TscClock, ticks};
pub use eal::{Eal, EalError};
pub use eal_args::{EalConfig, Hugepages, LogLevel, MemoryMode};
pub use mbuf::{Mbuf, MbufError, MbufVec};
pub use mempool::MbufPool;
pub use nic::{LinkState, Nic, NicConfig, NicStats};
pub use nic_error::NicError;
pub use queue::{Emit, QueuePair, Receive, RxQueue, TxQueue};
pub use rss::Rss;
pub use threads::{RegisteredThread, WorkerThread};

/// The name and version of the library in use, such as `DPDK 22.11.5`.
pub fn version() -> String {
    // SAFETY: rte_version returns a static, terminated string and needs no EAL.
    unsafe { std::ffi::CStr::from_ptr(dpdk_sys::rte_version()) }.to_string_lossy().into_owned()
}

/// What an errno of DPDK's means, in words. Drivers return a bare -1 when they give no reason; as
/// an errno ("not permitted") it would mislead.
fn reason(code: i32) -> String {
    if code == -1 {
        return "no reason given, but the driver's own message is above".to_owned();
    }
    // SAFETY: rte_strerror always returns a terminated string, static or thread-local, which is
    // copied before this thread calls again.
    unsafe { std::ffi::CStr::from_ptr(dpdk_sys::rte_strerror(code.abs())) }
        .to_string_lossy()
        .into_owned()
}
