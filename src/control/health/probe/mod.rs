//! One attempt of a check, by its kind: each has a file here. How often, and what a failure means,
//! is not known here.

pub mod deadline;
mod dns;
pub mod failure;
mod http;
mod icmp;
mod program;
mod reply;
mod service;
mod smtp;
mod tcp;
mod tls;
mod udp;

use std::hash::{BuildHasher, Hasher, RandomState};
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

/// What attempts share. Must be made and used inside a tokio runtime.
#[derive(Debug, Default)]
pub struct Probes {
    expressions: reply::Expressions,
    tls: tls::TlsClients,
    echoes: icmp::Echoes,
    clients: service::Clients,
}

impl Probes {
    /// Nothing is opened before a check needs it.
    pub fn new() -> Self {
        Probes::default()
    }

    /// One attempt: within the check's timeout it is good or fails with a reason.
    pub async fn attempt(self: Arc<Self>, check: Arc<Check>) -> Result<(), Failure> {
        let deadline = Deadline::new(check.spec.timeout_ms);
        match service::Clients::vip_of(&check) {
            Some(vip) => self.attempt_by_service(&check, vip, deadline).await,
            None => self.attempt_at_server(&check, deadline).await,
        }
    }

    async fn attempt_at_server(&self, check: &Check, deadline: Deadline) -> Result<(), Failure> {
        let address = check.address();
        match &check.spec.kind {
            CheckKind::Tcp => tcp::attempt(address, deadline).await,
            CheckKind::Http(http) => {
                let connecting = tcp::connect(address, deadline);
                http::attempt(connecting, (address, http), self.shared(), deadline).await
            }
            CheckKind::Udp { payload, reply } => {
                let answer = udp::ask(address, payload, udp::ANSWER, deadline).await;
                udp::judge(answer, reply.as_ref(), &self.expressions)
            }
            CheckKind::Dns { name, record, address: wanted } => {
                let question = dns::Question::new(name, *record, *wanted);
                let asked = question.encode()?;
                question.judge(&udp::ask(address, &asked, dns::ANSWER, deadline).await?)
            }
            CheckKind::Icmp { payload_bytes } => {
                self.echoes.attempt(address.ip(), *payload_bytes, deadline).await
            }
            CheckKind::Smtp { helo } => {
                smtp::attempt(tcp::connect(address, deadline), helo, deadline).await
            }
            CheckKind::Program { command } => program::attempt(check, command, deadline).await,
        }
    }

    /// As `attempt_at_server`, for what can take a client's path to the server.
    async fn attempt_by_service(
        &self,
        check: &Check,
        vip: SocketAddr,
        deadline: Deadline,
    ) -> Result<(), Failure> {
        let target = &check.target;
        let blame = |failure| match failure {
            Failure::Timeout { timeout_ms, .. } => {
                service::silence(format_args!("a datagram for {vip}"), timeout_ms)
            }
            other => other,
        };
        match &check.spec.kind {
            CheckKind::Udp { payload, reply } => {
                let asked = (&payload[..], udp::ANSWER);
                let answer = self.clients.ask(vip, target, asked, deadline).await;
                udp::judge(answer, reply.as_ref(), &self.expressions).map_err(blame)
            }
            CheckKind::Dns { name, record, address } => {
                let question = dns::Question::new(name, *record, *address);
                let asked = question.encode()?;
                let answer = self.clients.ask(vip, target, (&asked, dns::ANSWER), deadline).await;
                question.judge(&answer.map_err(blame)?)
            }
            CheckKind::Http(http) => {
                let connecting = self.clients.connect(vip, target, deadline);
                http::attempt(connecting, (vip, http), self.shared(), deadline).await
            }
            CheckKind::Smtp { helo } => {
                smtp::attempt(self.clients.connect(vip, target, deadline), helo, deadline).await
            }
            _ => self.clients.open(vip, target, deadline).await,
        }
    }

    fn shared(&self) -> http::Shared<'_> {
        http::Shared { expressions: &self.expressions, tls: &self.tls }
    }
}

/// A number nobody outside can guess.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests;
