//! The state of health of all services: follows what is asked for, takes reports, and says what is
//! to become of servers. Pure: it starts no check and changes no service.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;

use super::runner::{Check, CheckId, Target};
use super::standing::{Quorum, Round, SlowStart, Standing};
use super::times::Times;
use crate::model::check::CheckSpec;
use crate::model::{
    Effect, HealthChange, ServerSpec, ServiceId, ServiceKey, ServiceSpec, Sorry, VirtualService,
};

/// A check and what is known of it.
#[derive(Clone, Debug)]
pub struct CheckHealth {
    /// Its name with the runner.
    pub id: CheckId,
    /// What it is.
    pub check: Check,
    /// What it came to.
    pub standing: Standing,
    /// Since when, milliseconds on the core's clock.
    pub since_ms: u64,
    /// How the last round went, and when.
    pub last: Option<(Result<Duration, String>, u64)>,
}

/// A server and what is known of it.
#[derive(Clone, Debug)]
pub struct ServerHealth {
    /// RIP and port.
    pub endpoint: SocketAddr,
    /// Its checks; without any it is good.
    pub checks: Vec<CheckHealth>,
    /// Whether all of them are good.
    pub up: bool,
    /// Since when, milliseconds on the core's clock.
    pub since_ms: u64,
    /// Why it is not good.
    pub reason: String,
    /// Why it is good again, until that has come to its weight.
    recovery: Option<String>,
    /// Why it last got new flows again.
    back: Option<String>,
    weight: u32,
    slow_start: Option<SlowStart>,
    /// What the registry was told last.
    effect: Effect,
}

/// Why a server is not good that has not had its first check.
const NOT_CHECKED: &str = "not checked yet";

impl ServerHealth {
    /// The first check that stands against it, and what it said last.
    fn blame(&self) -> String {
        let bad = self.checks.iter().filter(|check| !check.standing.is_good());
        let said = bad.filter_map(|check| match &check.last {
            Some((Err(why), _)) => Some(format!("{}: {why}", check.name())),
            _ => None,
        });
        said.into_iter().next().unwrap_or_else(|| self.reason.clone())
    }

    /// Why it is down now, after a round that left it so. Whether there was no reason before.
    fn blame_anew(&mut self) -> bool {
        let was_checked = self.reason != NOT_CHECKED;
        self.reason = self.blame();
        !was_checked && self.reason != NOT_CHECKED
    }

    /// What a check of a server that is down said last.
    fn said(&self, id: CheckId) -> String {
        let check = self.checks.iter().find(|check| check.id == id);
        match check.map(|check| (check.name(), &check.last)) {
            Some((name, Some((Err(why), _)))) => format!("{name}: {why}"),
            Some((name, _)) => format!("{name}: good; {}", self.reason),
            None => self.reason.clone(),
        }
    }

    /// What is said of a server that is good since this check of it was.
    fn good_again(&self, check: &CheckHealth, now_ms: u64) -> String {
        let (name, rise) = (check.name(), check.check.spec.rise);
        let again = if self.reason == NOT_CHECKED { "good" } else { "good again" };
        let seconds = now_ms.saturating_sub(self.since_ms) / 1000;
        match rise {
            0 | 1 => format!("{name}: {again} after {seconds} s"),
            _ => format!("{name}: {again}, {rise} times in a row, after {seconds} s"),
        }
    }
}

/// A service and what is known of it.
#[derive(Clone, Debug)]
pub struct ServiceHealth {
    spec: Arc<ServiceSpec>,
    /// In the order in which they were asked for.
    pub servers: Vec<ServerHealth>,
    quorum: Quorum,
    /// What the registry was told last.
    sorry: Sorry,
    /// The sorry server that stands in.
    stands_in: Option<SocketAddr>,
}

/// Services by their keys, cheap to keep a copy of.
pub type Services = Arc<HashMap<ServiceKey, Arc<ServiceHealth>>>;

/// What the runner is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Begin, or begin anew.
    Begin(CheckId, Box<Check>),
    /// End.
    End(CheckId),
}

/// What a round came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Good, after so long.
    Good(Duration),
    /// The server failed, and how.
    Bad(String),
    /// The director could not carry it out, and why: nothing is known of the server.
    NotCarriedOut(String),
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// A server failed or came back, and why.
    Server { service: ServiceKey, server: SocketAddr, up: bool, reason: String },
    /// A quorum was reached or lost, with the sum of good servers' weights.
    Quorum { service: ServiceKey, up: bool, sum: u64, spec: Arc<ServiceSpec>, is_first: bool },
    /// A check of a server that is down turned, or had its first round; it stays down, and why.
    Check { service: ServiceKey, server: SocketAddr, reason: String },
    /// A check cannot be carried out; its server keeps its state.
    Stuck { service: ServiceKey, server: SocketAddr, reason: String },
    /// The sorry server came in or went out.
    Sorry { service: ServiceKey, server: SocketAddr, is_in: bool },
}

#[derive(Clone, Copy, Debug)]
struct Whose {
    service: ServiceKey,
    /// Where among the service's servers its own is.
    at: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Board {
    services: Services,
    slots: HashMap<ServiceId, ServiceKey>,
    checks: HashMap<CheckId, Whose>,
    last_id: u64,
    /// Services whose servers may have to be changed.
    unsettled: BTreeSet<ServiceKey>,
    /// Services with servers on their way to their weight.
    rising: BTreeSet<ServiceKey>,
    /// Rounds that were good, bad, and not carried out.
    pub rounds: [u64; 3],
    /// How long good ones took.
    pub times: Times,
}

/// Whether anything depends on a service's health.
fn is_watched(spec: &ServiceSpec) -> bool {
    let health = &spec.health;
    spec.sorry_server.is_some()
        || !health.quorum_up.is_empty()
        || !health.quorum_down.is_empty()
        || spec.check_count() > 0
}

/// A server's check as the runner takes it.
fn check_of(spec: &ServiceSpec, server: &ServerSpec, check: &CheckSpec) -> Check {
    let port = spec.key.port().unwrap_or(server.port);
    let vip = spec.vips().next().map(|vip| SocketAddr::new(vip, check.port.unwrap_or(port)));
    let target =
        Target { server: server.endpoint(), vip, mode: server.mode, tunnel: server.tunnel };
    Check { spec: check.clone(), target }
}

impl Board {
    /// All of it.
    pub fn services(&self) -> &Services {
        &self.services
    }

    /// How many checks there are.
    pub fn check_count(&self) -> usize {
        self.checks.len()
    }

    /// Services whose quorum is up and whose program is told when gyre stops.
    pub fn told_at_stop(&self) -> Vec<Arc<ServiceSpec>> {
        let told =
            |one: &&Arc<ServiceHealth>| one.spec.health.down_at_stop && !one.quorum.is_lost();
        self.services.values().filter(told).map(|one| Arc::clone(&one.spec)).collect()
    }

    /// Why a server has no new flows, where that is health's doing.
    pub fn reason(&self, service: &ServiceKey, server: SocketAddr) -> Option<String> {
        let health = self.services.get(service)?;
        health.reason(health.of(server)?)
    }

    /// Why a server last got new flows again, where that was health's doing.
    pub fn why_back(&self, service: &ServiceKey, server: SocketAddr) -> Option<String> {
        self.services.get(service)?.of(server)?.back.clone()
    }

    /// Follows what became of a service's slot.
    pub fn follow(
        &mut self,
        slot: ServiceId,
        service: Option<&VirtualService>,
        now_ms: u64,
        orders: &mut Vec<Order>,
    ) -> Vec<News> {
        let key = service.map(|service| service.key);
        if let Some(old) = self.slots.get(&slot).copied().filter(|old| Some(*old) != key) {
            self.slots.remove(&slot);
            self.forget(&old, orders);
        }
        let Some(service) = service else { return Vec::new() };
        let old = self.services.get(&service.key);
        if old.is_some_and(|old| Arc::ptr_eq(&old.spec, &service.spec)) {
            return Vec::new();
        }
        self.slots.insert(slot, service.key);
        let old = old.cloned();
        let mut health = ServiceHealth {
            spec: Arc::clone(&service.spec),
            servers: Vec::with_capacity(service.spec.servers.len()),
            quorum: old.as_ref().map_or_else(Quorum::default, |old| old.quorum),
            sorry: old.as_ref().map_or(Sorry::Out, |old| old.sorry),
            stands_in: old.as_ref().and_then(|old| old.stands_in),
        };
        let mut news = Vec::new();
        let mut before: HashMap<SocketAddr, &ServerHealth> = HashMap::new();
        for server in old.iter().flat_map(|old| &old.servers) {
            before.insert(server.endpoint, server);
        }
        for server in &service.spec.servers {
            let was = before.remove(&server.endpoint());
            let mut one = self.server((&service.spec, server), was, now_ms, orders);
            let joins = old.is_some() && was.is_none() && one.up;
            let lasts_ms = service.spec.health.slow_start_ms;
            let returns = was.is_some_and(|was| !was.up) && one.up;
            if (joins || returns) && lasts_ms > 0 {
                one.slow_start = Some(SlowStart::new(now_ms, lasts_ms));
            }
            if let Some(reason) = one.recovery.clone().filter(|_| returns) {
                let (service, server) = (service.key, one.endpoint);
                news.push(News::Server { service, server, up: true, reason });
            }
            let whose = Whose { service: service.key, at: health.servers.len() };
            self.checks.extend(one.checks.iter().map(|check| (check.id, whose)));
            health.servers.push(one);
        }
        for check in before.into_values().flat_map(|gone| &gone.checks) {
            self.checks.remove(&check.id);
            orders.push(Order::End(check.id));
        }
        Arc::make_mut(&mut self.services).insert(service.key, Arc::new(health));
        news.extend(self.settle(&service.key));
        news
    }

    fn forget(&mut self, key: &ServiceKey, orders: &mut Vec<Order>) {
        let gone = Arc::make_mut(&mut self.services).remove(key);
        for check in gone.iter().flat_map(|gone| &gone.servers).flat_map(|one| &one.checks) {
            self.checks.remove(&check.id);
            orders.push(Order::End(check.id));
        }
        self.unsettled.remove(key);
        self.rising.remove(key);
    }

    /// A server as it is asked for now; what is known of it stays known.
    fn server(
        &mut self,
        (spec, server): (&ServiceSpec, &ServerSpec),
        was: Option<&ServerHealth>,
        now_ms: u64,
        orders: &mut Vec<Order>,
    ) -> ServerHealth {
        let wanted = spec.checks_of(server);
        let starts_bad = was.is_none() && spec.health.starts_down;
        let start = if starts_bad { Round::Bad } else { Round::Good };
        let wanted: Vec<Check> = wanted.iter().map(|check| check_of(spec, server, check)).collect();
        let (checks, removed) = self.adopt((wanted, start), was, now_ms, orders);
        let up = checks.iter().all(|check| check.standing.is_good());
        let recovery = match (was.filter(|was| !was.up && up), removed) {
            (Some(was), Some(name)) => {
                let seconds = now_ms.saturating_sub(was.since_ms) / 1000;
                Some(format!("{name}: no longer asked for, after {seconds} s"))
            }
            _ => was.and_then(|was| was.recovery.clone()),
        };
        // The registry gives it this by itself, so that no flow comes before the first check.
        let first = if up { Effect::None } else { Effect::of_failure(spec.health.on_failure) };
        let mut one = ServerHealth {
            endpoint: server.endpoint(),
            checks,
            up,
            since_ms: was.filter(|was| was.up == up).map_or(now_ms, |was| was.since_ms),
            reason: match was.filter(|_| !up) {
                Some(was) => was.reason.clone(),
                None if up => String::new(),
                None => NOT_CHECKED.into(),
            },
            recovery,
            back: was.and_then(|was| was.back.clone()),
            weight: server.weight,
            slow_start: was.and_then(|was| was.slow_start),
            effect: was.map_or(first, |was| was.effect),
        };
        if !up {
            // Who stood against it may be the one that went.
            one.reason = one.blame();
        }
        one
    }

    /// Checks as they are asked for now, new ones with a standing to start with; the name of one
    /// that is not asked for any more and had failed.
    fn adopt(
        &mut self,
        (wanted, start): (Vec<Check>, Round),
        was: Option<&ServerHealth>,
        now_ms: u64,
        orders: &mut Vec<Order>,
    ) -> (Vec<CheckHealth>, Option<String>) {
        let mut known: Vec<&CheckHealth> = was.map_or(vec![], |was| was.checks.iter().collect());
        // What is known of a check stays with it, wherever it now stands in the list.
        let same: Vec<Option<&CheckHealth>> = wanted
            .iter()
            .map(|check| {
                let at = known.iter().position(|known| known.check == *check)?;
                Some(known.remove(at))
            })
            .collect();
        let mut known = known.into_iter();
        let mut checks = Vec::with_capacity(wanted.len());
        for (check, same) in wanted.into_iter().zip(same) {
            checks.push(match same.map_or_else(|| known.next().map(Err), |same| Some(Ok(same))) {
                Some(Ok(same)) => same.clone(),
                Some(Err(other)) => {
                    orders.push(Order::Begin(other.id, Box::new(check.clone())));
                    CheckHealth { check, ..other.clone() }
                }
                None => {
                    self.last_id += 1;
                    let id = CheckId(self.last_id);
                    orders.push(Order::Begin(id, Box::new(check.clone())));
                    let standing = Standing::new(start);
                    CheckHealth { id, check, standing, since_ms: now_ms, last: None }
                }
            });
        }
        let mut removed = None;
        for gone in known {
            self.checks.remove(&gone.id);
            orders.push(Order::End(gone.id));
            removed = removed.or_else(|| (!gone.standing.is_good()).then(|| gone.name()));
        }
        (checks, removed)
    }

    /// Takes a round's outcome.
    pub fn report(&mut self, id: CheckId, outcome: Outcome, now_ms: u64) -> Vec<News> {
        // One that has just ended may still have had something to say.
        let Some(Whose { service, at }) = self.checks.get(&id).copied() else { return Vec::new() };
        let services = Arc::make_mut(&mut self.services);
        let Some(health) = services.get_mut(&service).map(Arc::make_mut) else { return Vec::new() };
        let lasts_ms = health.spec.health.slow_start_ms;
        let Some(one) = health.servers.get_mut(at) else { return Vec::new() };
        let server = one.endpoint;
        let (kind, result) = match outcome {
            Outcome::Good(took) => (0, Ok(took)),
            Outcome::Bad(why) => (1, Err(why)),
            Outcome::NotCarriedOut(why) => (2, Err(why)),
        };
        self.rounds[kind] += 1;
        let Some(check) = one.checks.iter_mut().find(|check| check.id == id) else {
            return Vec::new();
        };
        if let Ok(took) = result {
            self.times.note(check.kind(), took);
        }
        let reason = result.as_ref().err().map(|why| format!("{}: {why}", check.name()));
        let was = check.last.replace((result.clone(), now_ms));
        if kind == 2 {
            let is_told = was.is_some_and(|(was, _)| was == result);
            let reason = reason.unwrap_or_default();
            return if is_told { vec![] } else { vec![News::Stuck { service, server, reason }] };
        }
        let spec = &check.check.spec;
        let round = if result.is_ok() { Round::Good } else { Round::Bad };
        let turned = check.standing.round(round, spec.rise, spec.fall);
        if turned {
            check.since_ms = now_ms;
        }
        let up = one.checks.iter().all(|check| check.standing.is_good());
        if up == one.up {
            let is_news = !up && (one.blame_anew() || turned);
            let check = || News::Check { service, server, reason: one.said(id) };
            return is_news.then(check).into_iter().collect();
        }
        let turned = one.checks.iter().find(|check| check.id == id);
        let good = turned.map(|check| one.good_again(check, now_ms));
        let reason = reason.or(good).unwrap_or_default();
        (one.up, one.since_ms) = (up, now_ms);
        one.slow_start = (up && lasts_ms > 0).then(|| SlowStart::new(now_ms, lasts_ms));
        one.recovery = up.then(|| reason.clone());
        one.reason = if up { String::new() } else { reason.clone() };
        let mut news = vec![News::Server { service, server, up, reason }];
        news.extend(self.settle(&service));
        news
    }

    /// Looks at a service of which something changed.
    fn settle(&mut self, key: &ServiceKey) -> Vec<News> {
        let services = Arc::make_mut(&mut self.services);
        let Some(health) = services.get_mut(key).map(Arc::make_mut) else { return Vec::new() };
        self.unsettled.insert(*key);
        if health.servers.iter().any(|server| server.slow_start.is_some()) {
            self.rising.insert(*key);
        }
        let mut news = Vec::new();
        if !is_watched(&health.spec) {
            // Nothing depends on it any more, but who was told that it is lost hears of its end.
            if health.quorum.is_lost() {
                let good = health.servers.iter().map(|server| u64::from(server.weight)).sum();
                let spec = Arc::clone(&health.spec);
                let service = *key;
                news.push(News::Quorum { service, up: true, sum: good, spec, is_first: false });
            }
            health.quorum = Quorum::default();
        } else {
            let good = health.servers.iter().filter(|server| server.up);
            let sum = good.map(|server| u64::from(server.weight)).sum();
            let is_first = health.quorum == Quorum::default();
            if let Some(up) = health.quorum.weigh(sum, &health.spec.health) {
                let spec = Arc::clone(&health.spec);
                news.push(News::Quorum { service: *key, up, sum, spec, is_first });
            }
        }
        news
    }

    /// Whether there may be something to change.
    pub fn is_unsettled(&self) -> bool {
        !self.unsettled.is_empty() || !self.rising.is_empty()
    }

    /// What the registry is to change now, which it will.
    pub fn take_changes(&mut self, now_ms: u64) -> (Vec<HealthChange>, Vec<News>) {
        let mut keys = std::mem::take(&mut self.unsettled);
        keys.extend(std::mem::take(&mut self.rising));
        let services = Arc::make_mut(&mut self.services);
        let (mut changes, mut news) = (Vec::new(), Vec::new());
        for key in keys {
            let Some(shared) = services.get_mut(&key) else { continue };
            let health = Arc::make_mut(shared);
            let lost = health.quorum.is_lost();
            let asked = health.spec.sorry_server.as_ref();
            let sorry = if lost && asked.is_some() { Sorry::In } else { Sorry::Out };
            let policy = health.spec.health.on_failure;
            let mut effects = Vec::new();
            for server in &mut health.servers {
                let effect = server.wanted_effect(sorry, Effect::of_failure(policy), now_ms);
                if effect != server.effect {
                    effects.push((server.endpoint, effect));
                    server.take_effect(effect);
                }
                if server.slow_start.is_some() {
                    self.rising.insert(key);
                }
            }
            let stands_in = asked.filter(|_| lost).map(ServerSpec::endpoint);
            if stands_in != health.stands_in {
                let told = [(health.stands_in, false), (stands_in, true)];
                let told = told.into_iter().filter_map(|(server, is_in)| Some((server?, is_in)));
                news.extend(told.map(|(server, is_in)| News::Sorry {
                    service: key,
                    server,
                    is_in,
                }));
                health.stands_in = stands_in;
            }
            if effects.is_empty() && sorry == health.sorry {
                continue;
            }
            health.sorry = sorry;
            changes.push(HealthChange { service: key, effects, sorry });
        }
        (changes, news)
    }

    /// The checks of a server.
    pub fn checks_of(&self, service: &ServiceKey, server: SocketAddr) -> Vec<CheckId> {
        let servers = self.services.get(service).into_iter().flat_map(|health| &health.servers);
        let checks = servers.filter(|one| one.endpoint == server).flat_map(|one| &one.checks);
        checks.map(|check| check.id).collect()
    }
}

impl ServiceHealth {
    /// Which service.
    pub fn key(&self) -> ServiceKey {
        self.spec.key
    }

    /// `up` or `lost`; nothing where nothing depends on it.
    pub fn quorum_word(&self) -> Option<&'static str> {
        is_watched(&self.spec).then(|| if self.quorum.is_lost() { "lost" } else { "up" })
    }

    /// What is known of a server.
    pub fn of(&self, server: SocketAddr) -> Option<&ServerHealth> {
        self.servers.iter().find(|one| one.endpoint == server)
    }

    /// Why a server of it has less than the weight that was asked for.
    pub fn reason(&self, one: &ServerHealth) -> Option<String> {
        match (one.up, self.sorry, one.slow_start) {
            (false, ..) => Some(one.reason.clone()),
            (true, Sorry::In, _) => Some("the quorum is lost; the sorry server stands in".into()),
            (true, Sorry::Out, Some(_)) => Some("slow start".into()),
            (true, Sorry::Out, None) => None,
        }
    }
}

impl ServerHealth {
    /// `unchecked`, `up` or `down`.
    pub fn word(&self) -> &'static str {
        match (self.up, self.checks.is_empty()) {
            (false, _) => "down",
            (true, true) => "unchecked",
            (true, false) => "up",
        }
    }

    /// Takes what the registry is told of it.
    fn take_effect(&mut self, effect: Effect) {
        let has_none = |effect| matches!(effect, Effect::Weight(0) | Effect::Out);
        if has_none(self.effect) && !has_none(effect) {
            let quorum = || "the quorum is reached again".to_owned();
            self.back = Some(self.recovery.take().unwrap_or_else(quorum));
        }
        self.effect = effect;
    }

    fn wanted_effect(&mut self, sorry: Sorry, failed: Effect, now_ms: u64) -> Effect {
        if !self.up {
            return failed;
        }
        let most = self.slow_start.and_then(|start| start.most(self.weight, now_ms));
        if most.is_none() {
            self.slow_start = None;
        }
        match (sorry, most) {
            // As keepalived: below the quorum the sorry server serves alone.
            (Sorry::In, _) => {
                // It is the quorum that it waits for.
                self.recovery = None;
                Effect::Weight(0)
            }
            (Sorry::Out, Some(most)) => Effect::Weight(most),
            (Sorry::Out, None) => Effect::None,
        }
    }
}

#[cfg(test)]
#[path = "board_tests.rs"]
mod tests;
