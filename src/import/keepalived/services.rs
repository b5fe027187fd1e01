//! virtual_server: one service, or one for each member of its group.

use super::groups::{self, Groups, Kind, Member};
use super::keywords::Block;
use super::servers;
use super::tree::Statement;
use super::values::{Times, Values};
use crate::config::{Protocol, Scheduler, SchedulerFlag};
use crate::import::draft::{Draft, Family, Identity, Server, Service};
use crate::import::texts;

/// Most services of one import: far above what people have, far below what hurts.
const SERVICES_MAX: usize = 20_000;
/// ip_vs_sh.h and ip_vs.h: persistence without a time.
const PERSISTENCE_S: u32 = 360;

/// Adds the services of a virtual_server.
pub(super) fn read(statement: &Statement, groups: &Groups, draft: &mut Draft) {
    let members = match members(statement, groups) {
        Ok(members) => members,
        Err(what) => return draft.notes.warn(&statement.place, what),
    };
    if statement.block.is_none() {
        let what = format!("`{}` has no block in braces; left out", statement.title());
        return draft.notes.warn(&statement.place, what);
    }
    let at = draft.services.len();
    let template = {
        let mut values = Values { notes: &mut draft.notes, service: at };
        let first = members.first().and_then(|member| identities(member).into_iter().next());
        let Some(first) = first else {
            return draft.notes.warn(&statement.place, "the group is empty: nothing to serve");
        };
        let service = Service::new(statement.place.clone(), statement.title(), first);
        Reading::new(service).read(statement, &mut values)
    };
    let is_group = members.len() > 1 || statement.value() == Some("group");
    for member in &members {
        for identity in identities(member) {
            if draft.services.len() >= SERVICES_MAX {
                let what = format!("more than {SERVICES_MAX} services: the rest is left out");
                return draft.notes.warn(&member.place, what);
            }
            let mut service = Service { identity, ..template.clone() };
            if let (Identity::Mark { family, .. }, Identity::Mark { family: said, .. }) =
                (&mut service.identity, &template.identity)
            {
                *family = family.or(*said);
            }
            if is_group {
                service.place = member.place.clone();
            }
            draft.services.push(service);
        }
    }
}

/// What the line after `virtual_server` means.
fn members(statement: &Statement, groups: &Groups) -> Result<Vec<Member>, String> {
    let place = statement.place.clone();
    let one = |kind| Ok(vec![Member { place: place.clone(), kind }]);
    match statement.values() {
        [] => Err("virtual_server lacks its address; left out".into()),
        [word, rest @ ..] if word == "fwmark" => one(groups::mark(rest)?),
        [word, name, ..] if word == "group" => match groups.find(name) {
            Some(members) => Ok(members.to_vec()),
            None => Err(format!("there is no virtual_server_group {name}; left out")),
        },
        [address, port @ ..] => one(groups::addresses(address, port)?),
    }
}

fn identities(member: &Member) -> Vec<Identity> {
    match &member.kind {
        Kind::Addresses(addresses, port) => {
            let one = |vip: &std::net::IpAddr| Identity::Address { vip: *vip, port: *port };
            addresses.iter().map(one).collect()
        }
        Kind::Mark(number, family) => {
            vec![Identity::Mark { number: *number, family: *family, matches: Vec::new() }]
        }
    }
}

struct Reading<'s> {
    service: Service,
    times: Times,
    virtualhost: Option<&'s str>,
    /// `flag-1` to `flag-3`, whose meaning is the scheduler's.
    numbered: Vec<(&'s Statement, u8)>,
    sorry: Option<&'s Statement>,
    sorry_method: Option<&'s Statement>,
}

impl<'s> Reading<'s> {
    fn new(service: Service) -> Self {
        let (times, numbered) = (Times::default(), Vec::new());
        Reading { service, times, virtualhost: None, numbered, sorry: None, sorry_method: None }
    }

    fn read(mut self, block: &'s Statement, values: &mut Values<'_>) -> Service {
        for statement in block.inner() {
            let title = || format!("{} (line {})", statement.title(), statement.place.line);
            let before = self.service.said.len();
            if statement.keyword() == "real_server" {
                continue;
            }
            if self.times.take(statement, values) {
                continue;
            }
            if let Some(field) = self.traffic(statement, values) {
                self.service.said.insert(field, title());
            } else if let Some(field) = self.health(statement, values) {
                self.service.said.insert(field, title());
            } else if before == self.service.said.len() && !self.known(statement, values) {
                values.stray(statement, Block::VirtualServer, &block.title());
            }
        }
        self.flags(values);
        self.persistence(values);
        let (service, around) = (&mut self.service, (self.times, self.virtualhost));
        service.health.starts_down |= self.times.is_alpha;
        servers::read(block, service, around, values);
        self.sorry(values);
        self.service
    }

    /// What decides about packets; the field it means.
    fn traffic(
        &mut self,
        statement: &'s Statement,
        values: &mut Values<'_>,
    ) -> Option<&'static str> {
        let service = &mut self.service;
        Some(match statement.keyword() {
            "lvs_sched" | "lb_algo" => {
                let word = values.text(statement)?;
                match scheduler(word) {
                    Some(scheduler) => service.scheduler = scheduler,
                    None => {
                        let what = "gyre has no such scheduler; taken as wlc";
                        values.unmapped(statement, what);
                    }
                }
                "scheduler"
            }
            "lvs_method" | "lb_kind" => {
                service.method = values.method(statement)?;
                "forwarding"
            }
            "protocol" => {
                match values.text(statement)?.to_ascii_uppercase().as_str() {
                    "TCP" => service.protocol = Protocol::Tcp,
                    "UDP" => service.protocol = Protocol::Udp,
                    other => {
                        let what = format!("gyre balances TCP and UDP, not {other}");
                        values
                            .unmapped(statement, &format!("{what}; it stands below as a comment"));
                        service.left_out = Some(what);
                    }
                }
                "protocol"
            }
            "persistence_timeout" => {
                let seconds = match statement.value() {
                    None => PERSISTENCE_S,
                    Some(_) => values.number(statement, 2_000_000)?,
                };
                service.persistence_s = Some(seconds).filter(|seconds| *seconds != 0);
                "persistence_timeout"
            }
            "persistence_granularity" => {
                let text = values.text(statement)?;
                match texts::mask_bits(text) {
                    Some(bits) => service.persistence_prefix = Some(bits),
                    None => values.unmapped(statement, "no netmask; left out"),
                }
                "persistence_prefix"
            }
            "ops" => {
                service.one_packet = true;
                "one_packet"
            }
            "sh-port" => self.flag(SchedulerFlag::ShPort),
            "sh-fallback" => self.flag(SchedulerFlag::ShFallback),
            "mh-port" => self.flag(SchedulerFlag::MhPort),
            "mh-fallback" => self.flag(SchedulerFlag::MhFallback),
            "snmp_name" => {
                service.name = values.text(statement).map(str::to_owned);
                "name"
            }
            _ => return None,
        })
    }

    fn flag(&mut self, flag: SchedulerFlag) -> &'static str {
        if !self.service.flags.contains(&flag) {
            self.service.flags.push(flag);
        }
        "scheduler_flags"
    }

    /// What follows from checks; the field it means.
    fn health(
        &mut self,
        statement: &'s Statement,
        values: &mut Values<'_>,
    ) -> Option<&'static str> {
        let health = &mut self.service.health;
        Some(match statement.keyword() {
            "quorum" => {
                health.quorum = values.number(statement, u32::MAX)?;
                "quorum"
            }
            "hysteresis" => {
                health.hysteresis = values.number(statement, u32::MAX)?;
                "quorum_hysteresis"
            }
            "quorum_up" => {
                health.quorum_up = values.script(statement)?;
                "quorum_up"
            }
            "quorum_down" => {
                health.quorum_down = values.script(statement)?;
                "quorum_down"
            }
            "omega" => {
                health.down_at_stop = true;
                "quorum_down_at_stop"
            }
            _ => return None,
        })
    }

    /// The rest of what the block may have; nothing else is left.
    fn known(&mut self, statement: &'s Statement, values: &mut Values<'_>) -> bool {
        match statement.keyword() {
            "virtualhost" => self.virtualhost = statement.value(),
            "flag-1" => self.numbered.push((statement, 1)),
            "flag-2" => self.numbered.push((statement, 2)),
            "flag-3" => self.numbered.push((statement, 3)),
            "sorry_server" => self.sorry = Some(statement),
            "sorry_server_lvs_method" => self.sorry_method = Some(statement),
            "ip_family" => {
                let wanted = match statement.value() {
                    Some("inet6") => Family::V6,
                    _ => Family::V4,
                };
                if let Identity::Mark { family, .. } = &mut self.service.identity {
                    *family = Some(wanted);
                }
            }
            "hashed" => {}
            "persistence_engine" => {
                let what = "gyre has no persistence engine: clients keep to servers by address";
                values.unmapped(statement, what);
            }
            "ha_suspend" => {
                let what = "gyre checks servers whether the VIP is here or not; left out";
                values.unmapped(statement, what);
            }
            "sorry_server_inhibit" => {
                let what = "gyre has the sorry server in the table only while it is needed";
                values.unmapped(statement, what);
            }
            "smtp_alert" => {
                let what = "gyre sends no mail: events, metrics and log lines tell it; left out";
                values.unmapped(statement, what);
            }
            "nat_mask" => values.unmapped(statement, "no longer means anything; left out"),
            // Where the value was wrong, which has been told.
            keyword => return super::keywords::is_known(keyword, Block::VirtualServer),
        }
        true
    }

    /// Numbered flags, now that the scheduler is known.
    fn flags(&mut self, values: &mut Values<'_>) {
        for (statement, number) in std::mem::take(&mut self.numbered) {
            let flag = match (self.service.scheduler, number) {
                (Scheduler::Sh, 1) => SchedulerFlag::ShFallback,
                (Scheduler::Sh, 2) => SchedulerFlag::ShPort,
                (Scheduler::Mh, 1) => SchedulerFlag::MhFallback,
                (Scheduler::Mh, 2) => SchedulerFlag::MhPort,
                (scheduler, _) => {
                    let what =
                        format!("the scheduler {} has no such flag; left out", scheduler.word());
                    values.unmapped(statement, &what);
                    continue;
                }
            };
            let field = self.flag(flag);
            self.service.said.insert(field, statement.title());
        }
    }

    fn persistence(&mut self, values: &mut Values<'_>) {
        let service = &mut self.service;
        if service.persistence_prefix.is_some() && service.persistence_s.is_none() {
            service.persistence_s = Some(PERSISTENCE_S);
            let what = format!(
                "persistence_granularity without persistence_timeout: taken as {PERSISTENCE_S} s"
            );
            let place = service.place.clone();
            values.warn(&place, what);
        }
    }

    fn sorry(&mut self, values: &mut Values<'_>) {
        let method = self.sorry_method.and_then(|statement| values.method(statement));
        let Some(statement) = self.sorry else { return };
        let Some((address, port)) = servers::endpoint(statement, values) else { return };
        self.service.sorry = Some(Server {
            place: statement.place.clone(),
            title: statement.title(),
            address,
            port,
            weight: 1,
            upper: 0,
            lower: 0,
            method: method.unwrap_or(self.service.method),
            checks: Vec::new(),
        });
    }
}

/// A scheduler by its name.
pub(super) fn scheduler(word: &str) -> Option<Scheduler> {
    use Scheduler::*;
    let all = [Rr, Wrr, Lc, Wlc, Lblc, Lblcr, Dh, Sh, Sed, Nq, Fo, Ovf, Mh];
    all.into_iter().find(|one| one.word() == word)
}
