//! What the control socket speaks: one table of methods, one file of typed parameters and results
//! a noun. Shared with the command line, so it knows neither the core nor the socket.

mod check;
mod config;
mod connection;
mod docs;
mod error;
mod event;
mod methods;
mod neighbour;
mod openrpc;
mod port;
pub mod rpc;
mod server;
mod service;
mod stats;
mod status;
mod timeouts;
mod worker;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use check::{CheckRow, ChecksResult, ListChecksParams};
pub use config::{
    ApplyParams, ApplyResult, ConfigFormat, ConfigResult, ConfigText, ConfirmResult, GetParams,
    ReloadParams, RevisionRow, RevisionsResult, RollbackParams, SaveParams, SaveResult,
};
pub use connection::{
    ConnectionFilter, ConnectionRow, DeleteParams, DeleteResult, ListConnectionsParams,
    ListConnectionsResult,
};
pub use docs::markdown;
pub use error::{ApiError, ErrorCode, ErrorData};
pub use event::{Event, EventKind, Notice, SubscribeParams, SubscribeResult};
pub use methods::{METHODS, Method, Request, closest};
pub use neighbour::{NeighbourRow, NeighboursResult};
pub use openrpc::{Discovery, discovery};
pub use port::{MempoolRow, PortRow, PortsResult};
pub use server::{
    AddServerParams, EditServerParams, ListServersParams, RemovalMode, RemoveServerParams,
    ServerRow, ServersResult, SetWeightParams,
};
pub use service::{
    AddServiceParams, AddServicesParams, EditServiceParams, ListServicesParams,
    RemoveServiceParams, RemoveServicesParams, ServiceRow, ServicesResult,
};
pub use stats::{CauseCount, LocalAddressRow, RateRow, Stats, WorkerDetail, ZeroParams};
pub use status::Status;
pub use timeouts::{MarkRow, MarksResult, SetTimeoutsParams, TimeoutsResult};
pub use worker::{WorkerRow, WorkersResult};

/// No parameters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NoParams {}

/// A change was made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Changed {
    /// The revision that holds the change; in force on every worker that turns (`workers.list`).
    pub revision: u64,
    /// What changed, a line each; empty when nothing did.
    pub changes: Vec<String>,
}
