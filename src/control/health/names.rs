//! What people call checks: kind and target.

use crate::model::check::{CheckKind, CheckWay, HttpCheck};

use super::board::CheckHealth;

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

    /// For a reason: `http check`, `tcp check of the service's path`.
    pub fn name(&self) -> String {
        match self.check.spec.way {
            CheckWay::Server => format!("{} check", self.kind()),
            CheckWay::Service => format!("{} check by the service's path", self.kind()),
        }
    }

    /// What it is aimed at.
    pub fn target(&self) -> String {
        let address = self.check.address();
        let vip = self.check.target.vip.filter(|_| self.check.spec.way == CheckWay::Service);
        match (&self.check.spec.kind, vip) {
            (CheckKind::Http(http), _) => format!("{}://{address}{}", self.kind(), http.request),
            (CheckKind::Dns { name, .. }, None) => format!("{name} at {address}"),
            (CheckKind::Icmp { .. }, _) => address.ip().to_string(),
            (CheckKind::Program { command }, _) => command.join(" "),
            (_, Some(vip)) => format!("{vip} via {}", address.ip()),
            (_, None) => address.to_string(),
        }
    }
}
