//! What health checks make of services, beside what was asked for: servers without new flows, with
//! less weight or out of the list, and the one that stands in for them. The wish stays what it is.

use std::net::SocketAddr;

use hashbrown::HashMap;

use super::draft::endpoint_of;
use super::{Applied, HopFor, Registry, Round};
use crate::model::check::OnFailure;
use crate::model::service::RealServer;
use crate::model::service_key::ServiceKey;
use crate::model::spec::{Removal, ServerSpec, ServiceSpec};

/// What becomes of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Effect {
    /// What was asked for.
    #[default]
    None,
    /// No more than this weight.
    Weight(u32),
    /// It is not listed; its slot and counts are kept for it.
    Out,
}

impl Effect {
    /// What a failed server meets.
    pub fn of_failure(policy: OnFailure) -> Self {
        match policy {
            OnFailure::Quiesce => Effect::Weight(0),
            OnFailure::Remove => Effect::Out,
        }
    }
}

/// Whether the sorry server takes part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sorry {
    /// It does not; what it has drains.
    #[default]
    Out,
    /// It does.
    In,
}

/// What health checks make of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthChange {
    /// Which.
    pub service: ServiceKey,
    /// Servers whose effect is another from now on.
    pub effects: Vec<(SocketAddr, Effect)>,
    /// Whether the sorry server takes part from now on.
    pub sorry: Sorry,
}

/// What is in force for a service.
#[derive(Clone, Debug, Default)]
pub(super) struct Overlay {
    effects: HashMap<SocketAddr, Effect>,
    sorry: Sorry,
}

impl Overlay {
    fn effect(&self, endpoint: SocketAddr) -> Effect {
        self.effects.get(&endpoint).copied().unwrap_or_default()
    }

    /// Forgets a server: if it is asked for again, it is a new one.
    pub(super) fn forget(&mut self, endpoint: SocketAddr) {
        self.effects.remove(&endpoint);
    }

    /// Whether a server that is asked for is not to be listed.
    pub(super) fn is_out(&self, endpoint: SocketAddr) -> bool {
        self.effect(endpoint) == Effect::Out
    }

    /// The server as it is to be listed.
    pub(super) fn of_server(&self, server: &ServerSpec) -> Option<ServerSpec> {
        match self.effect(server.endpoint()) {
            Effect::None => Some(server.clone()),
            Effect::Weight(most) => {
                Some(ServerSpec { weight: server.weight.min(most), ..server.clone() })
            }
            Effect::Out => None,
        }
    }
}

impl Registry {
    /// Makes what health checks found the services' state, all in one snapshot. Services and
    /// servers that are gone meanwhile are left out of it.
    pub fn set_health(&mut self, changes: &[HealthChange], hop_for: HopFor) -> Applied {
        let mut round = Round::default();
        for change in changes {
            let key = &change.service;
            let Some(entry) = self.services.get(key).filter(|_| !self.leaving.contains(key)) else {
                continue;
            };
            let spec = ServiceSpec::clone(&entry.spec);
            let overlay = self.health.entry(*key).or_default();
            overlay.effects.extend(change.effects.iter().copied());
            overlay.sorry = change.sorry;
            self.commit(&spec, Removal::Drain { deadline: None }, hop_for, &mut round);
        }
        self.publish(round)
    }

    /// What of a service is to be listed when `spec`, whose servers are in order, is asked for.
    /// Servers that are not asked for any more are forgotten; new ones that start as failed do so
    /// from their first snapshot on.
    pub(super) fn in_effect(&mut self, spec: &ServiceSpec) -> Vec<ServerSpec> {
        let known = self.services.get(&spec.key).map(|entry| entry.spec.servers.as_slice());
        let known = known.unwrap_or_default();
        if !self.health.contains_key(&spec.key) && !spec.health.starts_down {
            return spec.servers.clone();
        }
        let overlay = self.health.entry(spec.key).or_default();
        let asked = |endpoint: &SocketAddr| spec.servers.iter().any(|s| s.endpoint() == *endpoint);
        overlay.effects.retain(|endpoint, effect| *effect != Effect::None && asked(endpoint));
        if spec.health.starts_down {
            let is_known = |new: &ServerSpec| known.iter().any(|s| s.endpoint() == new.endpoint());
            let is_checked = |new: &&ServerSpec| !spec.checks_of(new).is_empty();
            for new in spec.servers.iter().filter(is_checked).filter(|new| !is_known(new)) {
                let effect = Effect::of_failure(spec.health.on_failure);
                overlay.effects.insert(new.endpoint(), effect);
            }
        }
        let servers = spec.servers.iter().filter_map(|server| overlay.of_server(server));
        let sorry = spec.sorry_server.iter().filter(|_| overlay.sorry == Sorry::In);
        servers.chain(sorry.cloned()).collect()
    }

    /// Servers that are asked for and not listed, as they were.
    pub(super) fn taken_out(&self, spec: &ServiceSpec) -> Vec<RealServer> {
        let Some(overlay) = self.health.get(&spec.key) else { return Vec::new() };
        let out = spec.servers.iter().filter(|server| overlay.is_out(server.endpoint()));
        let kept = out.filter_map(|server| {
            let kept = self.servers.kept(&spec.key, server.endpoint())?;
            Some(RealServer { weight: server.weight, ..kept.clone() })
        });
        kept.collect()
    }

    /// Whether a listed server that leaves is still asked for.
    pub(super) fn is_taken_out(&self, spec: &ServiceSpec, server: &RealServer) -> bool {
        let endpoint = endpoint_of(server);
        let overlay = self.health.get(&spec.key);
        overlay.is_some_and(|overlay| overlay.is_out(endpoint))
            && spec.servers.iter().any(|asked| asked.endpoint() == endpoint)
    }
}
