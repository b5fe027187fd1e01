//! One attempt of a check, by its kind: each has a file here. How often, and what a failure means,
//! is not known here.

pub mod deadline;
pub mod failure;
mod tcp;

use std::net::SocketAddr;
use std::sync::Arc;

use crate::model::check::{CheckKind, CheckSpec};
use crate::model::{ForwardMode, Tunnel};

use deadline::Deadline;
pub use failure::Failure;

/// What is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// RIP and the server's port.
    pub server: SocketAddr,
    /// VIP and the service's port; none where the service is a group of several.
    pub vip: Option<SocketAddr>,
    /// How the service's packets reach it.
    pub mode: ForwardMode,
    /// What wraps them, with `ForwardMode::Tunnel`.
    pub tunnel: Tunnel,
}

/// A check of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What, and how often.
    pub spec: CheckSpec,
    /// Of whom.
    pub target: Target,
}

impl Check {
    /// Where its packets go: the server's address, and the port of the check or else the server's.
    pub fn address(&self) -> SocketAddr {
        let server = self.target.server;
        SocketAddr::new(server.ip(), self.spec.port.unwrap_or(server.port()))
    }
}

/// What attempts share, and how they are made. Must be made and used inside a tokio runtime.
#[derive(Debug, Default)]
pub struct Probes {}

impl Probes {
    /// Nothing is opened before a check needs it.
    pub fn new() -> Self {
        Probes::default()
    }

    /// One attempt: within the check's timeout it is good or fails with a reason.
    pub async fn attempt(self: Arc<Self>, check: Arc<Check>) -> Result<(), Failure> {
        let deadline = Deadline::new(check.spec.timeout_ms);
        let address = check.address();
        match &check.spec.kind {
            CheckKind::Tcp => tcp::attempt(address, deadline).await,
            other => Err(Failure::Director(format!("{other:?} cannot be carried out"))),
        }
    }
}
