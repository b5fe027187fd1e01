//! What people call checks: kind and target.

use crate::model::ForwardMode;
use crate::model::check::{CheckKind, CheckWay, HttpCheck};

use super::board::CheckHealth;

/// All words of `CheckHealth::kind`.
pub(super) const KINDS: [&str; 8] =
    ["tcp", "http", "https", "udp", "dns", "icmp", "smtp", "program"];

impl CheckHealth {
    /// `tcp`, `http` and so on: the words of the configuration.
    pub fn kind(&self) -> &'static str {
        match &self.check.spec.kind {
            CheckKind::Tcp => "tcp",
            CheckKind::Http(HttpCheck { tls: None, .. }) => "http",
            CheckKind::Http(HttpCheck { tls: Some(_), .. }) => "https",
            CheckKind::Udp { .. } => "udp",
            CheckKind::Dns { .. } => "dns",
            CheckKind::Icmp { .. } => "icmp",
            CheckKind::Smtp { .. } => "smtp",
            CheckKind::Program { .. } => "program",
        }
    }

    /// For a reason: `http check`, `tcp check by the service's path`.
    pub fn name(&self) -> String {
        match self.is_by_service() {
            false => format!("{} check", self.kind()),
            true => format!("{} check by the service's path", self.kind()),
        }
    }

    /// Whether its packets go as clients' do; where gyre rewrites addresses that is the way to the
    /// server's own.
    fn is_by_service(&self) -> bool {
        let keeps_vip =
            matches!(self.check.target.mode, ForwardMode::DirectRoute | ForwardMode::Tunnel);
        keeps_vip && self.check.spec.way == CheckWay::Service
    }

    /// What it is aimed at.
    pub fn target(&self) -> String {
        let address = self.check.address();
        let vip = self.check.target.vip.filter(|_| self.is_by_service());
        match (&self.check.spec.kind, vip) {
            (CheckKind::Http(http), None) => format!("{}://{address}{}", self.kind(), http.request),
            (CheckKind::Http(http), Some(vip)) => {
                format!("{}://{vip}{} via {}", self.kind(), http.request, address.ip())
            }
            (CheckKind::Dns { name, .. }, None) => format!("{name} at {address}"),
            (CheckKind::Icmp { .. }, _) => address.ip().to_string(),
            (CheckKind::Program { command }, _) => command.join(" "),
            (_, Some(vip)) => format!("{vip} via {}", address.ip()),
            (_, None) => address.to_string(),
        }
    }
}
