//! Where health checks meet the core: the runner's set follows the snapshot, reports become states,
//! and what is to become of servers is changed in batches, so that however many fail at once make
//! one snapshot.

use std::time::{Duration, Instant};

use hashbrown::HashMap;
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::Core;
use super::baseline::ServerTotals;
use super::change::{Hops, hop_in};
use super::work::{End, build};
use crate::control::api::Event;
use crate::control::health::board::{Board, News, Order, Outcome};
use crate::control::health::hooks::{Hooks, QuorumIs};
use crate::control::health::runner::{Report, Runner};
use crate::model::{Applied, ForwardMode, HealthChange, Registry, ServerId, ServiceKey};

/// How often servers may be changed: so many snapshots a second at most, for all of them together.
const CHANGES_EVERY: Duration = Duration::from_millis(200);
/// How long programs may take that are told that gyre stops. The unit's TimeoutStopSec has room for
/// this and the workers' ends.
const STOP_HOOKS_PATIENCE: Duration = Duration::from_secs(8);
/// How often it is looked for handshakes that servers left unanswered or refused.
const PASSIVE_EVERY: Duration = Duration::from_millis(250);

/// What the core keeps of health checks.
pub struct Health {
    pub board: Board,
    runner: Runner,
    hooks: Hooks,
    /// What each checked server's clients had met when last looked at.
    signals: HashMap<ServerId, Signals>,
    /// A change of servers is on its way.
    pub is_changing: bool,
    next_change: Instant,
    next_passive: Instant,
}

/// The shortest time between two checks of a server that signals ask for, in milliseconds; it
/// doubles with each while they go on, up to the longest.
const ASKED_GAP_MS: u64 = 250;
const ASKED_GAP_MS_MAX: u64 = 8000;

/// When signals may have a server checked. They come from clients, so that a flood of SYNs makes
/// them too: what they can do to a server is bounded by this.
#[derive(Clone, Copy, Debug, Default)]
struct Bound {
    /// Not before this time.
    next_ms: u64,
    gap_ms: u64,
}

impl Bound {
    /// Whether it may be checked now, which then counts.
    fn allows(&mut self, now_ms: u64) -> bool {
        if now_ms < self.next_ms {
            return false;
        }
        let is_calm = now_ms >= self.next_ms + self.gap_ms;
        self.gap_ms = if is_calm { ASKED_GAP_MS } else { (2 * self.gap_ms).min(ASKED_GAP_MS_MAX) };
        self.next_ms = now_ms + self.gap_ms;
        true
    }
}

/// What workers count of clients' luck with a server.
#[derive(Clone, Copy, Debug, Default)]
struct Signals {
    /// Handshakes that it refused or left unanswered.
    refused: u64,
    /// Flows ever scheduled to it.
    connections: u64,
    /// Packets that came back, where they are seen.
    answers: u64,
    /// For how many looks new flows have had no answer.
    silent: u8,
    bound: Bound,
}

/// After so many looks without an answer to new flows a server is checked.
const SILENT_LOOKS: u8 = 2;

impl Signals {
    /// Takes what is counted now; whether it asks for a check.
    fn look(&mut self, totals: &ServerTotals, mode: ForwardMode) -> bool {
        let was = *self;
        self.refused = totals.refused;
        (self.connections, self.answers) = (totals.connections, totals.out_packets);
        let waits = was.silent > 0 || totals.connections > was.connections;
        let is_silent = mode.sees_replies() && waits && totals.out_packets == was.answers;
        self.silent = if is_silent { was.silent.saturating_add(1) } else { 0 };
        totals.refused > was.refused || self.silent == SILENT_LOOKS
    }
}

/// What comes to the core from there.
pub struct HealthInbox {
    pub reports: mpsc::Receiver<Report>,
    pub hooks: mpsc::UnboundedReceiver<ServiceKey>,
}

impl Health {
    pub fn new(runner: Runner, hooks: Hooks, now: Instant) -> Self {
        Health {
            board: Board::default(),
            runner,
            hooks,
            signals: HashMap::new(),
            is_changing: false,
            next_change: now,
            next_passive: now,
        }
    }

    /// Rounds that began late.
    pub fn late(&self) -> u64 {
        self.runner.figures().late()
    }

    /// A service's program has ended.
    pub fn hook_ended(&mut self, key: ServiceKey) {
        self.hooks.ended(key);
    }

    /// Has programs told that gyre stops; whether one runs now.
    fn tell_of_stop(&mut self) -> bool {
        for spec in self.board.told_at_stop() {
            self.hooks.tell(&spec, QuorumIs::Lost, 0);
        }
        self.hooks.is_running()
    }

    fn obey(&self, orders: Vec<Order>) {
        for order in orders {
            match order {
                Order::Begin(id, check) => self.runner.add(id, *check),
                Order::End(id) => self.runner.remove(id),
            }
        }
    }
}

impl Core {
    pub(super) fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Has checks follow what was just published.
    pub(super) fn follow_health(&mut self, applied: &Applied) {
        let now_ms = self.now_ms();
        let mut orders = Vec::new();
        let mut news = Vec::new();
        for id in applied.snapshot.changed_services.iter() {
            let service = applied.snapshot.services.get(id.index()).and_then(Option::as_deref);
            news.extend(self.health.board.follow(*id, service, now_ms, &mut orders));
        }
        self.health.obey(orders);
        self.tell_of_health(news);
    }

    /// Takes rounds' outcomes.
    pub(super) fn take_reports(&mut self, reports: &mut Vec<Report>) {
        let now_ms = self.now_ms();
        for report in reports.drain(..) {
            let outcome = match report.result {
                Ok(took) => Outcome::Good(took),
                Err(failure) if failure.is_servers() => Outcome::Bad(failure.to_string()),
                Err(failure) => Outcome::NotCarriedOut(failure.to_string()),
            };
            let news = self.health.board.report(report.id, outcome, now_ms);
            self.tell_of_health(news);
        }
        self.change_health(Instant::now());
    }

    /// Runs the programs that are to know that gyre stops, while workers go on: who announces an
    /// address takes it back before it is dead.
    pub(super) async fn tell_hooks_of_stop(
        &mut self,
        ended: &mut mpsc::UnboundedReceiver<ServiceKey>,
    ) {
        if !self.health.tell_of_stop() {
            return;
        }
        info!("stopping: waiting for programs that are told of quorums");
        let end = Instant::now() + STOP_HOOKS_PATIENCE;
        while self.health.hooks.is_running() {
            tokio::select! {
                Some(key) = ended.recv() => self.health.hook_ended(key),
                () = tokio::time::sleep_until(self.next.tick.into()) => self.tick(),
                () = tokio::time::sleep_until(end.into()) => {
                    let seconds = STOP_HOOKS_PATIENCE.as_secs();
                    return warn!(seconds, "programs that are told of quorums did not end in time");
                }
            }
        }
    }

    /// What is due of health.
    pub(super) fn look_at_health(&mut self, now: Instant) {
        if now >= self.health.next_passive {
            self.health.next_passive = now + PASSIVE_EVERY;
            self.look_for_refusals();
        }
        self.change_health(now);
    }

    /// Has servers changed, unless that was done a moment ago: then it waits for others.
    fn change_health(&mut self, now: Instant) {
        let health = &mut self.health;
        if health.is_changing || now < health.next_change || !health.board.is_unsettled() {
            return;
        }
        health.next_change = now + CHANGES_EVERY;
        health.is_changing = true;
        self.enqueue(super::work::Work::Health);
    }

    /// Changes servers, all at once.
    pub(super) fn begin_health(&mut self, registry: Box<Registry>) {
        self.health.is_changing = false;
        let (changes, news) = self.health.board.take_changes(self.now_ms());
        self.tell_of_health(news);
        if changes.is_empty() {
            self.registry = Some(registry);
            return;
        }
        let hops = self.hops_for(&registry, &changes);
        self.building = Some(build(registry, &self.kernel_side, move |registry| {
            let applied = registry.set_health(&changes, &mut hop_in(&hops));
            (End::Applied(Some(applied)), false)
        }));
    }

    /// Next hops of all that may come back. Where there is no room the server finds no way, which
    /// `gyre neighbours` shows.
    fn hops_for(&mut self, registry: &Registry, changes: &[HealthChange]) -> Hops {
        let mut hops = Hops::new();
        for change in changes {
            let Some((spec, _)) = registry.service(&change.service) else { continue };
            let touched = |rip| change.effects.iter().any(|(server, _)| *server == rip);
            let back = spec.servers.iter().filter(|server| touched(server.endpoint()));
            for server in back.chain(&spec.sorry_server) {
                if server.mode == ForwardMode::Local {
                    continue;
                }
                match self.next_hops.hop_for_server(server.address) {
                    Ok(id) => drop(hops.insert(server.address, id)),
                    Err(error) => warn!("{}: {error}", server.address),
                }
            }
        }
        hops
    }

    /// Where clients' handshakes fail, checks need not wait for their time.
    fn look_for_refusals(&mut self) {
        let Health { board, runner, signals, .. } = &mut self.health;
        if board.check_count() == 0 {
            return signals.clear();
        }
        let now_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let mut before = std::mem::take(signals);
        for service in self.snapshot.services.iter().flatten() {
            if service.spec.check_count() == 0 {
                continue;
            }
            for server in &service.servers {
                let totals = self.counts.server_raw(server.id);
                let known = before.remove(&server.id);
                let mut now = known.unwrap_or_default();
                let asks = now.look(&totals, server.mode) && known.is_some();
                let is_checked = asks && now.bound.allows(now_ms);
                signals.insert(server.id, now);
                if is_checked {
                    let endpoint = std::net::SocketAddr::new(server.address, server.port);
                    let checks = board.checks_of(&service.key, endpoint);
                    checks.into_iter().for_each(|id| runner.check_now(id));
                }
            }
        }
    }

    /// A line for each thing that happened, and an event where servers' own do not tell it.
    fn tell_of_health(&mut self, news: Vec<News>) {
        for one in news {
            match one {
                News::Server { service, server, up: true, reason } => {
                    info!("{service}: server {server} is up: {reason}");
                }
                News::Server { service, server, up: false, reason } => {
                    warn!("{service}: server {server} is down: {reason}");
                }
                News::Check { service, server, reason } => {
                    warn!("{service}: server {server} stays down: {reason}");
                }
                News::Stuck { service, server, reason } => {
                    warn!("{service}: server {server} keeps its state: {reason}");
                }
                News::Quorum { service, up, sum, spec, is_first } => {
                    let quorum = spec.health.quorum;
                    let is = if up { QuorumIs::Reached } else { QuorumIs::Lost };
                    self.health.hooks.tell(&spec, is, sum);
                    let name = service.to_string();
                    match up {
                        true if is_first => {}
                        true => {
                            match sum >= u64::from(quorum) {
                                true => info!(
                                    "{service}: the quorum is reached: weight {sum} of {quorum}"
                                ),
                                false => info!("{service}: nothing depends on the quorum any more"),
                            }
                            let event = Event::QuorumUp { service: name, weight: sum, quorum };
                            self.notices.tell(event);
                        }
                        false => {
                            warn!("{service}: the quorum is lost: weight {sum} of {quorum}");
                            let event = Event::QuorumLost { service: name, weight: sum, quorum };
                            self.notices.tell(event);
                        }
                    }
                }
                News::Sorry { service, server, is_in } => {
                    let (name, endpoint) = (service.to_string(), server.to_string());
                    self.notices.tell(if is_in {
                        warn!("{service}: the sorry server {server} stands in");
                        Event::SorryIn { service: name, server: endpoint }
                    } else {
                        info!("{service}: the sorry server {server} is out again");
                        Event::SorryOut { service: name, server: endpoint }
                    });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However many signals there are, for as long as there are: about one check in 8 s.
    #[test]
    fn signals_of_a_flood_have_a_server_checked_less_and_less_often() {
        let mut bound = Bound::default();
        let looks = (1000..=61_000).step_by(250);
        let checked: Vec<u64> = looks.filter(|now_ms| bound.allows(*now_ms)).collect();
        assert_eq!(checked[..5], [1000, 1250, 1750, 2750, 4750], "a server that fails is found");
        assert!(checked.len() < 14 && checked.windows(2).all(|two| two[1] - two[0] <= 8000));
        // After some calm the next one counts at once.
        assert!(bound.allows(90_000) && bound.allows(90_250) && !bound.allows(90_500));
    }

    #[test]
    fn refusals_and_silence_ask_for_a_check() {
        let totals = |refused, connections, out_packets| ServerTotals {
            refused,
            connections,
            out_packets,
            ..ServerTotals::default()
        };
        let mut signals = Signals::default();
        let mut look = |refused, connections, answers| {
            signals.look(&totals(refused, connections, answers), ForwardMode::Nat)
        };
        assert!(!look(0, 1, 5) && !look(0, 2, 6) && !look(0, 2, 6), "all is well, or idle");
        assert!(look(1, 2, 6), "a refusal");
        assert!(!look(1, 3, 6) && look(1, 3, 6), "two looks without an answer");
        assert!(!look(1, 4, 6), "that was said already");
        assert!(!look(1, 4, 7) && !look(1, 4, 7), "an answer ends it");
        // Where answers go past the director, their lack tells nothing.
        let mut blind = Signals::default();
        let mut quiet =
            |connections| blind.look(&totals(0, connections, 0), ForwardMode::DirectRoute);
        assert!(!quiet(1) && !quiet(2) && !quiet(3));
    }
}
