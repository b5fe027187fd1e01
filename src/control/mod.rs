//! Control: the socket, the running configuration, publication to workers. In normal work only
//! this part and `runtime`, at start and end, log. It never sees the packet path or DPDK: `message`
//! and rings are all that is shared.

mod answer;
pub mod api;
mod core;
mod error;
pub mod health;
mod http;
mod kernel_side;
mod kernel_source;
mod link;
mod metrics;
pub mod netlink;
mod notices;
mod port_info;
mod reload;
pub mod socket;
mod stop;
mod supervisor;

use std::path::PathBuf;
use std::time::Duration;

pub use crate::model::next_hops;
pub use error::ControlError;
pub use kernel_side::KernelSide;
pub use kernel_source::{KernelAsk, KernelSource};
pub use link::{WorkerEnds, WorkerLink};
pub use port_info::{MempoolInfo, PortInfo, PortInfoSource};
pub use reload::Reload;
pub use stop::Stop;
pub use supervisor::{Heartbeat, Supervisor};

use crate::config::Checked;
use crate::model::Registry;
use crate::model::next_hops::NicLink;
use socket::{BoundSocket, SocketLimits};

/// How long work beside the core may take to end when gyre stops.
const BLOCKING_PATIENCE: Duration = Duration::from_secs(2);

/// All that control works with.
pub struct ControlInputs {
    /// The configuration to start with.
    pub checked: Checked,
    /// The file it came from: shown, read again by a reload, written by `config.save`.
    pub config_path: PathBuf,
    /// The socket, taken before anything else was started.
    pub socket: BoundSocket,
    /// Bounds on its clients.
    pub socket_limits: SocketLimits,
    /// A registry with the ports set and no services; its snapshot is what the workers started
    /// with.
    pub registry: Registry,
    /// The ports' kernel interfaces.
    pub nic_links: Vec<NicLink>,
    /// Where routes and neighbours come from.
    pub kernel: KernelSource,
    /// The workers.
    pub links: Vec<WorkerLink>,
    /// What the ports' owner tells of them.
    pub port_info: PortInfoSource,
    /// Prepares the kernel for each snapshot before workers get it.
    pub kernel_side: KernelSide,
    /// Raised by signals; control raises it for `shutdown` and when a worker ends.
    pub stop: Stop,
    /// Raised by SIGHUP.
    pub reload: Reload,
    /// Whoever started gyre and wants to hear how it does.
    pub supervisor: Supervisor,
}

/// Runs control on this thread until `stop` is raised; workers have ended then, or did not in
/// time.
pub fn run(inputs: ControlInputs) -> Result<(), ControlError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ControlError::Runtime)?;
    let outcome = runtime.block_on(core::run(inputs));
    runtime.shutdown_timeout(BLOCKING_PATIENCE);
    outcome
}
