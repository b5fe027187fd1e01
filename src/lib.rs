//! gyre: a layer-4 load balancer on DPDK. docs/ARCHITECTURE.md is the map.
#![deny(unsafe_code)]

pub mod cli;
pub mod config;
pub mod control;
pub mod counters;
pub mod dataplane;
pub mod doctor;
#[cfg(feature = "dpdk")]
pub mod dpdk;
pub mod frame;
pub mod import;
pub mod limits;
pub mod memory;
pub mod message;
pub mod model;
pub mod replay;
pub mod ring;
#[cfg(feature = "dpdk")]
pub mod runtime;
pub mod time;
pub mod wire;
