//! Services that leave by draining: they stay, with servers that take no new flows, until the
//! last of these is gone. To everybody who asks what is configured they are gone already.

use super::draft::Draft;
use super::{Applied, Registry, Round, no_service};
use crate::model::check::HealthSpec;
use crate::model::service_key::ServiceKey;
use crate::model::spec::{Removal, ServiceSpec, SpecProblem};

impl Registry {
    /// Removes a service: at once (`ipvsadm -D`), where its clients' packets are dropped from here
    /// on and its entries revive if it comes back in time, or when its flows have ended.
    pub fn remove_service(
        &mut self,
        key: &ServiceKey,
        removal: Removal,
    ) -> Result<Applied, Vec<SpecProblem>> {
        let known = self.services.contains_key(key);
        if !known || self.leaving.contains(key) && removal != Removal::Now {
            return Err(vec![no_service(key)]);
        }
        let mut round = Round::default();
        self.take_away(key, removal, &mut round);
        Ok(self.publish(round))
    }

    pub(super) fn take_away(&mut self, key: &ServiceKey, removal: Removal, round: &mut Round) {
        let is_leaving = self.leaving.contains(key);
        let Some(entry) = self.services.get(key) else { return };
        if removal == Removal::Now || !is_leaving && entry.service.servers.is_empty() {
            self.leaving.remove(key);
            return self.retire_service(key, round);
        }
        if is_leaving {
            return;
        }
        // Nobody's health matters any more.
        let spec = ServiceSpec {
            servers: Vec::new(),
            checks: Vec::new(),
            health: HealthSpec::default(),
            sorry_server: None,
            ..ServiceSpec::clone(&entry.spec)
        };
        let mut draft = Draft::of(&entry.service);
        for at in 0..draft.servers.len() {
            self.leave(key, &mut draft, at, removal);
        }
        self.leaving.insert(*key);
        self.health.remove(key);
        self.store(spec, draft, round);
    }

    /// Takes away the services whose last server has left.
    pub(super) fn end_leaving(&mut self, round: &mut Round) {
        let is_empty = |key: &&ServiceKey| {
            self.services.get(*key).is_none_or(|entry| entry.service.servers.is_empty())
        };
        let over: Vec<ServiceKey> = self.leaving.iter().filter(is_empty).copied().collect();
        for key in over {
            self.leaving.remove(&key);
            self.retire_service(&key, round);
        }
    }
}
