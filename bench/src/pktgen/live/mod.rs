//! Everything that needs DPDK: ports, cores, and the commands that use them.

mod connections;
mod ends;
mod progress;
mod reflector;
mod rig;
mod runs;
mod trials;

pub use connections::connections;
pub use reflector::reflect;
pub use runs::{back_to_back, run, syn_flood, throughput};
