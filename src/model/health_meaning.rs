//! Judges what health checks ask of the service and the servers that they are for.

use super::check::{CheckKind, CheckSpec, CheckWay};
use super::spec::{Place, ServerSpec, ServiceSpec};
use super::validate::Validator;
use crate::limits::{CHECKS_MAX, CHECKS_PER_SERVER_MAX};

impl ServiceSpec {
    /// How many checks are to be carried out for it.
    pub fn check_count(&self) -> usize {
        self.servers.iter().map(|server| self.checks_of(server).len()).sum()
    }
}

/// What to do about more checks than there may be.
pub(super) const TOO_MANY_CHECKS: &str = "check fewer servers, or each by fewer checks";

impl Validator<'_> {
    /// Whether there are not too many checks of all services together.
    pub(super) fn check_total(&mut self) {
        let total: usize = self.desired.services.iter().map(ServiceSpec::check_count).sum();
        if total > CHECKS_MAX {
            let what = format!("{total} health checks, room for {CHECKS_MAX}");
            self.push(Place::Whole, what, TOO_MANY_CHECKS);
        }
    }

    pub(super) fn health(&mut self, at: usize) {
        let service = &self.desired.services[at];
        let (quorum, hysteresis) = (service.health.quorum, service.health.quorum_hysteresis);
        if quorum == 0 {
            let what = "a quorum of 0 is never lost".into();
            self.push(Place::Service(at, "quorum"), what, "use 1 or more, or leave it out");
        } else if hysteresis >= quorum {
            let what =
                format!("a hysteresis of {hysteresis} is not less than the quorum, {quorum}");
            let remedy = "lower it: the service would never be down";
            self.push(Place::Service(at, "quorum_hysteresis"), what, remedy);
        }
        if service.checks.len() > CHECKS_PER_SERVER_MAX {
            self.too_many(Place::Service(at, "check"), service.checks.len());
        }
        for (number, check) in service.checks.iter().enumerate() {
            let heirs = service.servers.iter().filter(|server| server.checks.is_none());
            self.check((service, check), heirs, &|field| Place::Check(at, None, number, field));
        }
        for (position, server) in service.servers.iter().enumerate() {
            let Some(checks) = &server.checks else { continue };
            if checks.len() > CHECKS_PER_SERVER_MAX {
                self.too_many(Place::Server(at, position, "check"), checks.len());
            }
            for (number, check) in checks.iter().enumerate() {
                let place = |field| Place::Check(at, Some(position), number, field);
                self.check((service, check), std::iter::once(server), &place);
            }
        }
    }

    fn too_many(&mut self, place: Place, count: usize) {
        let what = format!("{count} checks of one server are too many");
        self.push(place, what, &format!("use at most {CHECKS_PER_SERVER_MAX}"));
    }

    /// A check in view of the servers that it is for.
    fn check<'s>(
        &mut self,
        (service, check): (&ServiceSpec, &CheckSpec),
        mut servers: impl Iterator<Item = &'s ServerSpec>,
        place: &dyn Fn(&'static str) -> Place,
    ) {
        let needs_port = !matches!(check.kind, CheckKind::Icmp { .. } | CheckKind::Program { .. });
        if needs_port
            && check.port.is_none()
            && let Some(server) = servers.find(|server| server.port == 0)
        {
            let what = format!("server {} has every port of the service", server.address);
            self.push(place("port"), what, "say which of them to check: port = 80");
        }
        if check.way == CheckWay::Service && service.vips().next().is_none() {
            let what = "the group has no single address that a check could be sent to".into();
            let remedy = "use way = \"server\", or add a match of one address";
            self.push(place("way"), what, remedy);
        }
    }
}
