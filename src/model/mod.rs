//! The running configuration as the packet path wants it: validated, immutable, without serde.
//!
//! Control turns `config` types into a `Snapshot` and publishes it; workers only read. What
//! depends on the forwarding mode beside the rewrite itself (steering key, TTL) is decided here,
//! once, so that no other file compares modes.

mod change_log;
pub mod check;
mod family;
mod health_meaning;
mod id;
mod kernel_maglev;
mod maglev;
pub mod next_hops;
mod prefix;
mod registry;
mod route;
mod semantics;
mod service;
mod service_key;
mod snapshot;
mod source_hash;
mod source_port_map;
mod spec;
mod steering;
mod timeouts;
mod validate;

pub use change_log::{Change, ChangeLog};
pub use family::Family;
pub use id::{LipId, NextHopId, NicId, ServerId, ServiceId, WorkerId};
pub use kernel_maglev::{KERNEL_MAGLEV_SLOTS, KernelMaglevTable};
pub use maglev::{MaglevTable, MaglevTableError};
pub use prefix::{Prefix, PrefixError, PrefixSet};
pub use registry::{
    Applied, Effect, HealthChange, HopFor, Registry, RegistryConfig, Sorry, Usage, address_pairs,
    check_addresses, check_steering,
};
pub use route::{NextHop, RouteTable, RouteTarget};
pub use semantics::{ConnReuse, Defence, Semantics};
#[cfg(test)]
pub(crate) use service::test_server;
pub use service::{
    ClientAddress, ForwardMode, GUE_PORT_DEFAULT, GueChecksum, HashFlags, Helper, Persistence,
    Protocol, RealServer, Scheduler, ServerState, TtlPolicy, Tunnel, VirtualService,
};
pub use service_key::{
    Destination, FTP_DATA_PORT, FTP_PORT, GroupName, Ports, ServiceKey, Traffic, TrafficMatch,
};
pub use snapshot::{KernelMode, LocalAddress, NicModel, Snapshot};
pub use source_hash::{
    HASH_BUCKETS, destination_hash_table, fold_address, hash_bucket, source_hash_table,
};
pub use source_port_map::{PORT_WORDS, SourcePortMap};
pub use spec::{
    Desired, Place, PoolSpec, ProblemKind, Removal, SchedulerSpec, ServerSpec, ServiceSpec,
    SpecProblem,
};
pub use steering::{KeyKind, Steering, TOEPLITZ_KEY_DEFAULT};
pub use timeouts::{TimeoutOverrides, Timeouts};
pub use validate::validate;
