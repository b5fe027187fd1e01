//! Persistence: what the workers together have decided about each client network.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use gyre::message::FlowRow;
use gyre::model::*;
use gyre::time::Nanos;

use crate::checks::Meanings;
use crate::plan::Plan;
use crate::team::{Member, Team};

/// A service and a client network: what one template is for.
type Subject = (ServiceKey, IpAddr);

/// The decision that is in force, or was until its template ended.
struct Decision {
    worker: usize,
    server: ServerId,
    /// Whether the template lives and may be found.
    lives: bool,
    /// Servers that it was taken away from, since they went.
    past: Vec<ServerId>,
}

/// All decisions so far.
pub struct Decisions {
    /// Bits of a client's address that count, by service.
    bits: HashMap<ServiceKey, u8>,
    of: HashMap<Subject, Decision>,
}

impl Decisions {
    /// None yet.
    pub fn new(plan: &Plan) -> Self {
        let bits = |spec: &ServiceSpec| Some((spec.key, spec.persistence?.client_bits));
        Decisions { bits: plan.services.iter().filter_map(bits).collect(), of: HashMap::new() }
    }

    /// What a worker's templates say behind its turn: each is that worker's to keep, and a network
    /// changes its server only when that went.
    pub fn after_turn(&mut self, (team, worker): (&Team, usize), meanings: &Meanings, now: Nanos) {
        let member = &team.members[worker];
        let seen = self.take_note((member, worker), meanings, now);
        for (subject, decision) in &mut self.of {
            if decision.worker == worker && decision.lives && !seen.contains(subject) {
                let server = decision.server;
                assert!(!may_keep(member, subject, server), "{subject:?} lost its template");
                decision.lives = false;
                decision.past.push(server);
            }
        }
    }

    /// As `after_turn`, behind a worker's timers: a template may end when nothing hangs on it.
    pub fn after_timers(
        &mut self,
        (team, worker): (&Team, usize),
        meanings: &Meanings,
        now: Nanos,
    ) {
        let seen = self.take_note((&team.members[worker], worker), meanings, now);
        let is_over = |(subject, decision): &(&Subject, &Decision)| {
            decision.worker == worker && decision.lives && !seen.contains(*subject)
        };
        let over: Vec<Subject> = self.of.iter().filter(is_over).map(|(s, _)| *s).collect();
        for subject in over {
            if self.of[&subject].past.is_empty() {
                let flow = self.rows(team, meanings, now).find(|(other, _)| *other == subject);
                assert!(flow.is_none(), "the template of {subject:?} ended before {flow:?}");
            }
            self.of.get_mut(&subject).unwrap().lives = false;
        }
    }

    /// Notes a worker's templates; which are in force.
    fn take_note(
        &mut self,
        (member, worker): (&Member, usize),
        meanings: &Meanings,
        now: Nanos,
    ) -> HashSet<Subject> {
        let mut seen = HashSet::new();
        // A template whose server is gone is listed with port 65535.
        for row in member.templates(now).filter(|row| row.virtual_address.1 != u16::MAX) {
            let subject = (meanings.service(row.service_id), row.client.0);
            assert!(seen.insert(subject), "two templates for {subject:?}");
            let owner = member.snapshot.steering.owner_of_network(subject.1, salt(&row, &subject));
            assert_eq!(owner.index(), worker, "the template of {subject:?} is not its owner's");
            let new = Decision { worker, server: row.server_id, lives: true, past: Vec::new() };
            let decision = self.of.entry(subject).or_insert(new);
            assert_eq!(decision.worker, worker, "two workers decide about {subject:?}");
            if decision.lives && decision.server != row.server_id {
                let old = decision.server;
                let is_free = !may_keep(member, &subject, old);
                assert!(is_free, "{subject:?} went from {old:?} to {:?}", row.server_id);
                decision.past.push(old);
            }
            (decision.server, decision.lives) = (row.server_id, true);
        }
        seen
    }

    /// Flows of persistent services with what their template is for.
    fn rows(
        &self,
        team: &Team,
        meanings: &Meanings,
        now: Nanos,
    ) -> impl Iterator<Item = (Subject, FlowRow)> {
        let all = team.members.iter().flat_map(move |member| member.rows(now));
        all.filter_map(|row| {
            let key = meanings.service(row.service_id);
            let network = Prefix::new(row.client.0, *self.bits.get(&key)?).unwrap();
            Some(((key, network.address()), row))
        })
    }

    /// All live flows of a client network share their template's server, unless it went.
    pub fn hold(&self, team: &Team, meanings: &Meanings, now: Nanos) {
        for (subject, row) in self.rows(team, meanings, now) {
            let Some(decision) = self.of.get(&subject) else {
                panic!("nobody decided about {subject:?}: {row:?}")
            };
            let is_one = row.server_id == decision.server || decision.past.contains(&row.server_id);
            assert!(is_one, "{subject:?} has {:?}, but {row:?}", decision.server);
            let lives = decision.lives || !decision.past.is_empty();
            assert!(lives, "the template of {subject:?} is gone, but {row:?}");
        }
    }

    /// Networks about which a decision was made.
    pub fn count(&self) -> u64 {
        self.of.len() as u64
    }
}

/// What a template's owner depends on besides the network: one port; none where all or 21 are
/// meant; the service where it has a few.
fn salt(row: &FlowRow, (key, _): &Subject) -> u16 {
    match key {
        ServiceKey::Address { ports: Ports::ALL, .. } => 0,
        ServiceKey::Address { ports, .. } => {
            ports.single().unwrap_or(row.service_id.index() as u16)
        }
        ServiceKey::Group(_) => row.service_id.index() as u16,
    }
}

/// Whether a network is to keep to a server as this worker has the configuration.
fn may_keep(member: &Member, (key, _): &Subject, server: ServerId) -> bool {
    // Without the service nobody asks.
    let Some(service) = member.snapshot.service_of(key) else { return true };
    let listed = service.servers.iter().find(|listed| listed.id == server);
    let lets_go = member.snapshot.semantics.expire_quiescent_template;
    listed.is_some_and(|s| s.state == ServerState::Active && !(s.weight == 0 && lets_go))
}
