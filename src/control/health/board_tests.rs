//! The board beside a real registry: reports go in, snapshots come out.

use super::*;
use crate::model::check::{CheckKind, HealthSpec, OnFailure};
use crate::model::{
    Applied, ForwardMode, NextHopId, Protocol, Registry, RegistryConfig, Removal, SchedulerSpec,
    ServerState, Steering,
};

const SECOND: u64 = 1000;

fn endpoint(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 80))
}

fn server(n: u8, weight: u32) -> ServerSpec {
    ServerSpec::new(endpoint(n), weight, ForwardMode::DirectRoute)
}

/// Servers 1 and up with these weights, a check each.
fn service(weights: &[u32], health: HealthSpec) -> ServiceSpec {
    let key = ServiceKey::new(Protocol::Tcp, [192, 0, 2, 80].into(), 80);
    let servers = (1..).zip(weights).map(|(n, weight)| server(n, *weight)).collect();
    let checks = vec![CheckSpec::new(CheckKind::Tcp)];
    ServiceSpec { checks, health, servers, ..ServiceSpec::new(key, SchedulerSpec::RoundRobin) }
}

impl News {
    fn reason(&self) -> &str {
        match self {
            News::Server { reason, .. } => reason,
            _ => "",
        }
    }
}

/// A board with the registry that it changes, as the core holds them.
struct Desk {
    registry: Registry,
    board: Board,
    now_ms: u64,
    news: Vec<News>,
    /// Snapshots that came of health.
    changes: usize,
}

impl Desk {
    fn new(spec: &ServiceSpec) -> Self {
        let registry = Registry::new(RegistryConfig::new(Arc::new(Steering::for_workers(1))));
        let (board, news) = (Board::default(), Vec::new());
        let mut desk = Desk { registry, board, now_ms: 0, news, changes: 0 };
        desk.edit(|registry| registry.add_service(spec, &mut |_| NextHopId::NONE).unwrap());
        desk
    }

    /// An operator's change, and what follows.
    fn edit(&mut self, change: impl FnOnce(&mut Registry) -> Applied) {
        let applied = change(&mut self.registry);
        self.follow(&applied);
        self.settle();
    }

    fn follow(&mut self, applied: &Applied) {
        for id in applied.snapshot.changed_services.iter() {
            let service = applied.snapshot.services[id.index()].as_deref();
            let news = self.board.follow(*id, service, self.now_ms, &mut Vec::new());
            self.news.extend(news);
        }
    }

    fn settle(&mut self) {
        let (changes, news) = self.board.take_changes(self.now_ms);
        self.news.extend(news);
        if !changes.is_empty() {
            let applied = self.registry.set_health(&changes, &mut |_| NextHopId::NONE);
            self.changes += usize::from(applied.changed);
            self.follow(&applied);
        }
    }

    /// A round of a server's only check.
    fn round(&mut self, n: u8, good: bool) {
        let key = self.key();
        let id = self.board.checks_of(&key, endpoint(n))[0];
        let outcome = match good {
            true => Outcome::Good(Duration::from_millis(1)),
            false => Outcome::Bad("connection refused".into()),
        };
        let news = self.board.report(id, outcome, self.now_ms);
        self.news.extend(news);
        self.settle();
    }

    fn wait(&mut self, millis: u64) {
        self.now_ms += millis;
        self.settle();
    }

    fn key(&self) -> ServiceKey {
        self.registry.services().next().unwrap().1.key
    }

    /// Servers that are listed: last byte of the address, weight.
    fn listed(&self) -> Vec<(u8, u32)> {
        let service = self.registry.service(&self.key()).unwrap().1;
        let shown = |server: &crate::model::RealServer| match server.address {
            std::net::IpAddr::V4(v4) => (v4.octets()[3], server.effective_weight()),
            std::net::IpAddr::V6(_) => (0, 0),
        };
        service.servers.iter().map(shown).collect()
    }

    /// The weights that are asked for: what a file would get.
    fn asked(&self) -> Vec<u32> {
        let (spec, _) = self.registry.service(&self.key()).unwrap();
        spec.servers.iter().map(|server| server.weight).collect()
    }
}

#[test]
fn a_failed_server_has_no_weight_until_it_is_good_again() {
    let mut desk = Desk::new(&service(&[3, 5], HealthSpec::default()));
    assert_eq!(desk.listed(), [(1, 3), (2, 5)]);
    desk.round(1, true);
    assert_eq!(desk.changes, 0, "nothing has changed");
    desk.round(1, false);
    assert_eq!((desk.listed(), desk.asked()), (vec![(1, 0), (2, 5)], vec![3, 5]));
    desk.now_ms = 7 * SECOND;
    desk.round(1, true);
    assert_eq!(desk.listed(), [(1, 3), (2, 5)]);
    let (service, server) = (desk.key(), endpoint(1));
    let told = |up, reason: &str| News::Server { service, server, up, reason: reason.into() };
    let news: Vec<News> =
        desk.news.iter().filter(|one| matches!(one, News::Server { .. })).cloned().collect();
    let wanted = [
        told(false, "tcp check: connection refused"),
        told(true, "tcp check: good again after 7 s"),
    ];
    assert_eq!(news, wanted);
    assert_eq!(desk.board.why_back(&desk.key(), endpoint(1)).unwrap(), wanted[1].reason());
    // How often it had to be good is said where that is more than once.
    let mut spec = desk.registry.service(&desk.key()).unwrap().0.clone();
    spec.checks[0].rise = 3;
    desk.edit(|registry| registry.edit_service(&spec, &mut |_| NextHopId::NONE).unwrap());
    [false, true, true, true].into_iter().for_each(|good| desk.round(1, good));
    let last = desk.news.last().unwrap().reason();
    assert_eq!(last, "tcp check: good again, 3 times in a row, after 0 s");
}

/// Two checks a server, of which the first fails; what an edit of them comes to.
fn one_of_two_fails(on_failure: OnFailure) -> (Desk, ServiceSpec) {
    let health = HealthSpec { on_failure, slow_start_ms: 10_000, ..HealthSpec::default() };
    let mut spec = service(&[10, 10], health);
    spec.checks.push(CheckSpec::new(CheckKind::Icmp { payload_bytes: 56 }));
    let mut desk = Desk::new(&spec);
    desk.round(1, false);
    desk.news.clear();
    desk.now_ms = 7 * SECOND;
    (desk, spec)
}

#[test]
fn a_server_whose_failing_check_is_taken_away_is_back_and_that_is_told() {
    for on_failure in [OnFailure::Quiesce, OnFailure::Remove] {
        let (mut desk, mut spec) = one_of_two_fails(on_failure);
        spec.checks.remove(0);
        desk.edit(|registry| registry.edit_service(&spec, &mut |_| NextHopId::NONE).unwrap());
        let (service, server) = (spec.key, endpoint(1));
        let reason = "tcp check: no longer asked for, after 7 s".to_owned();
        assert_eq!(desk.board.why_back(&service, server), Some(reason.clone()));
        assert_eq!(desk.news, [News::Server { service, server, up: true, reason }]);
        assert!(desk.listed().contains(&(1, 1)), "slowly: {:?}", desk.listed());
    }
    // Edited, it keeps its standing until it was good; removed while another fails, that is why.
    let (mut desk, mut spec) = one_of_two_fails(OnFailure::Quiesce);
    spec.checks[0].port = Some(81);
    desk.edit(|registry| registry.edit_service(&spec, &mut |_| NextHopId::NONE).unwrap());
    assert_eq!((desk.listed()[0], desk.news.len()), ((1, 0), 0));
    let icmp = desk.board.checks_of(&spec.key, endpoint(1))[1];
    let news = desk.board.report(icmp, Outcome::Bad("no answer".into()), desk.now_ms);
    let reason = "icmp check: no answer".to_owned();
    let (service, server) = (spec.key, endpoint(1));
    assert_eq!(news, [News::Check { service, server, reason: reason.clone() }]);
    spec.checks.remove(0);
    desk.edit(|registry| registry.edit_service(&spec, &mut |_| NextHopId::NONE).unwrap());
    assert_eq!((desk.listed()[0], desk.news.len()), ((1, 0), 0));
    assert_eq!(desk.board.reason(&service, server), Some(reason));
}

#[test]
fn a_check_that_turns_while_its_server_stays_down_is_told() {
    let (mut desk, spec) = one_of_two_fails(OnFailure::Quiesce);
    let ids = desk.board.checks_of(&spec.key, endpoint(1));
    let mut report = |at: usize, outcome| match &desk.board.report(ids[at], outcome, 0)[..] {
        [] => None,
        [News::Check { reason, .. }] => Some(reason.clone()),
        other => panic!("{other:?}"),
    };
    let bad = || Outcome::Bad("no answer".into());
    assert_eq!(report(1, bad()).unwrap(), "icmp check: no answer");
    assert_eq!(report(1, bad()), None, "once");
    let good = report(0, Outcome::Good(Duration::ZERO)).unwrap();
    assert_eq!(good, "tcp check: good; icmp check: no answer");
}

/// A quorum that was lost, or a sorry server that stood in, does not end unsaid.
#[test]
fn what_an_edit_ends_is_told() {
    let hook = vec!["/bin/true".to_owned()];
    let health = HealthSpec { quorum: 4, quorum_down: hook, ..HealthSpec::default() };
    let spec = ServiceSpec { sorry_server: Some(server(99, 1)), ..service(&[3, 5], health) };
    let mut desk = Desk::new(&spec);
    desk.round(2, false);
    desk.news.clear();
    let other = ServiceSpec { sorry_server: Some(server(98, 1)), ..spec.clone() };
    desk.edit(|registry| registry.edit_service(&other, &mut |_| NextHopId::NONE).unwrap());
    let sorry = |n, is_in| News::Sorry { service: spec.key, server: endpoint(n), is_in };
    assert_eq!(desk.news, [sorry(99, false), sorry(98, true)]);
    desk.news.clear();
    let checks = Vec::new();
    let plain = ServiceSpec { checks, ..service(&[3, 5], HealthSpec::default()) };
    desk.edit(|registry| registry.edit_service(&plain, &mut |_| NextHopId::NONE).unwrap());
    let [News::Server { up: true, .. }, News::Quorum { up: true, is_first: false, .. }, last] =
        &desk.news[..]
    else {
        panic!("{:?}", desk.news)
    };
    assert_eq!(*last, sorry(98, false));
    assert_eq!(desk.board.why_back(&spec.key, endpoint(1)).unwrap(), "the quorum is reached again");
}

#[test]
fn a_server_that_starts_down_and_fails_its_first_check_says_why() {
    let health = HealthSpec { starts_down: true, ..HealthSpec::default() };
    let mut desk = Desk::new(&service(&[3], health));
    let reason = |desk: &Desk| desk.board.reason(&desk.key(), endpoint(1)).unwrap();
    assert_eq!(reason(&desk), "not checked yet");
    desk.round(1, false);
    desk.round(1, false);
    assert_eq!(reason(&desk), "tcp check: connection refused");
    let told = desk.news.iter().filter(|one| matches!(one, News::Check { .. })).count();
    assert_eq!(told, 1);
    let mut desk =
        Desk::new(&service(&[3], HealthSpec { starts_down: true, ..HealthSpec::default() }));
    desk.round(1, true);
    assert!(desk.news.iter().any(|one| one.reason() == "tcp check: good after 0 s"));
}

#[test]
fn a_server_needs_all_of_its_checks() {
    let mut spec = service(&[1, 1], HealthSpec::default());
    spec.checks.push(CheckSpec::new(CheckKind::Icmp { payload_bytes: 56 }));
    let mut desk = Desk::new(&spec);
    let ids = desk.board.checks_of(&spec.key, endpoint(1));
    let mut round = |at: usize, good: bool| {
        let bad = Outcome::Bad("no answer".into());
        desk.board.report(ids[at], if good { Outcome::Good(Duration::ZERO) } else { bad }, 0);
        desk.settle();
        desk.listed()[0].1
    };
    assert_eq!([round(0, false), round(1, false), round(0, true), round(1, true)], [0, 0, 0, 1]);
}

#[test]
fn a_server_that_is_taken_out_comes_back_to_its_slot() {
    let health = HealthSpec { on_failure: OnFailure::Remove, ..HealthSpec::default() };
    let mut desk = Desk::new(&service(&[3, 5], health));
    let id = desk.registry.service(&desk.key()).unwrap().1.servers[0].id;
    desk.round(1, false);
    assert_eq!(desk.listed(), [(2, 5)]);
    let snapshot = Arc::clone(desk.registry.snapshot());
    assert!(snapshot.removed_servers[id.index() / 64] >> (id.index() % 64) & 1 == 1);
    let out = &snapshot.services[0].as_ref().unwrap().taken_out;
    assert_eq!((out.len(), out[0].id, out[0].weight), (1, id, 3));
    // Nothing holds the slot, and yet it is not given away.
    struct Unused;
    impl crate::model::Usage for Unused {
        fn flows_of_server(&self, _: crate::model::ServerId) -> u64 {
            0
        }
        fn flows_of_service(&self, _: ServiceId) -> u64 {
            0
        }
        fn ports_of_lip(&self, _: crate::model::LipId) -> u64 {
            0
        }
    }
    desk.registry.reclaim(&Unused, u64::MAX, crate::time::Nanos(0));
    let key = desk.key();
    desk.edit(|registry| {
        registry.add_server(&key, &server(9, 1), &mut |_| NextHopId::NONE).unwrap()
    });
    desk.round(1, true);
    assert_eq!(desk.listed(), [(2, 5), (9, 1), (1, 3)]);
    assert_eq!(desk.asked(), [3, 5, 1], "the wish keeps its order");
    let back = &desk.registry.service(&key).unwrap().1.servers[2];
    assert_eq!((back.id, back.state), (id, ServerState::Active));
    // One that is removed by its operator while it is out leaves nothing behind.
    desk.round(1, false);
    desk.edit(|registry| registry.remove_server(&key, endpoint(1), Removal::Now).unwrap());
    assert_eq!((desk.listed(), desk.asked()), (vec![(2, 5), (9, 1)], vec![5, 1]));
    desk.registry.reclaim(&Unused, u64::MAX, crate::time::Nanos(0));
    assert_eq!(desk.registry.waiting().2, 0);
}

#[test]
fn a_failed_server_that_is_removed_and_added_again_is_a_new_one() {
    for on_failure in [OnFailure::Quiesce, OnFailure::Remove] {
        for removal in [Removal::Now, Removal::Drain { deadline: None }] {
            let health = HealthSpec { on_failure, ..HealthSpec::default() };
            let mut desk = Desk::new(&service(&[3, 5], health));
            let key = desk.key();
            desk.round(1, false);
            desk.edit(|registry| registry.remove_server(&key, endpoint(1), removal).unwrap());
            let none = &mut |_| NextHopId::NONE;
            desk.edit(|registry| registry.add_server(&key, &server(1, 4), none).unwrap());
            let mut listed = desk.listed();
            listed.sort_unstable();
            assert_eq!(listed, [(1, 4), (2, 5)], "{on_failure:?} {removal:?}");
            desk.round(1, false);
            let still = desk.listed().iter().any(|(n, weight)| *n == 1 && *weight > 0);
            assert!(!still, "its checks go on");
        }
    }
}

#[test]
fn a_check_keeps_its_standing_wherever_it_moves_and_the_reason_is_who_stands_against() {
    let mut spec = service(&[3], HealthSpec::default());
    spec.checks.push(CheckSpec { port: Some(8080), ..CheckSpec::new(CheckKind::Tcp) });
    let mut desk = Desk::new(&spec);
    let key = desk.key();
    let ids = desk.board.checks_of(&key, endpoint(1));
    let report = |desk: &mut Desk, at: usize, outcome: Outcome| {
        let news = desk.board.report(ids[at], outcome, desk.now_ms);
        desk.news.extend(news);
        desk.settle();
        desk.board.services[&key].servers[0].reason.clone()
    };
    assert!(report(&mut desk, 0, Outcome::Bad("first".into())).ends_with("first"));
    assert!(report(&mut desk, 1, Outcome::Bad("second".into())).ends_with("first"));
    let good = || Outcome::Good(Duration::from_millis(1));
    assert!(report(&mut desk, 0, good()).ends_with("second"));
    // A check more, before the one that fails: it has yet to fail itself.
    spec.checks.insert(1, CheckSpec { port: Some(9090), ..CheckSpec::new(CheckKind::Tcp) });
    desk.edit(|registry| registry.edit_service(&spec, &mut |_| NextHopId::NONE).unwrap());
    let now = desk.board.checks_of(&key, endpoint(1));
    assert_eq!((now[0], now[2]), (ids[0], ids[1]));
    let news = desk.board.report(now[1], good(), 0);
    assert!(news.is_empty() && desk.listed() == [(1, 0)], "the other still fails");
}

#[test]
fn an_operators_changes_keep_what_is_known_of_servers() {
    let mut desk = Desk::new(&service(&[3, 5], HealthSpec::default()));
    let key = desk.key();
    desk.round(1, false);
    // `ipvsadm -e -w 7` of a failed server: it gets its weight when it is good again.
    desk.edit(|registry| registry.set_weight(&key, endpoint(1), 7).unwrap());
    assert_eq!((desk.listed(), desk.asked()), (vec![(1, 0), (2, 5)], vec![7, 5]));
    // Another of a service's options, and a check's time.
    let mut spec = desk.registry.service(&key).unwrap().0.clone();
    spec.scheduler = SchedulerSpec::WeightedRoundRobin;
    spec.checks[0].interval_ms = 9000;
    desk.edit(|registry| registry.edit_service(&spec, &mut |_| NextHopId::NONE).unwrap());
    assert_eq!(desk.listed(), [(1, 0), (2, 5)]);
    desk.round(1, true);
    assert_eq!(desk.listed(), [(1, 7), (2, 5)]);
    // An operator's 0 stays 0, whatever the checks say.
    desk.edit(|registry| registry.set_weight(&key, endpoint(1), 0).unwrap());
    desk.round(1, false);
    desk.round(1, true);
    assert_eq!(desk.listed(), [(1, 0), (2, 5)]);
    // Without checks there is nothing to fail by.
    desk.round(2, false);
    spec.checks.clear();
    desk.edit(|registry| registry.edit_service(&spec, &mut |_| NextHopId::NONE).unwrap());
    assert_eq!((desk.listed(), desk.board.check_count()), (vec![(1, 0), (2, 5)], 0));
}

#[test]
fn servers_that_start_down_have_no_flow_before_a_good_check() {
    for on_failure in [OnFailure::Quiesce, OnFailure::Remove] {
        let health = HealthSpec { starts_down: true, on_failure, ..HealthSpec::default() };
        let spec = service(&[3, 5], health);
        // The registry by itself, before anybody looked at it.
        let mut registry = Registry::new(RegistryConfig::new(Arc::new(Steering::for_workers(1))));
        let applied = registry.add_service(&spec, &mut |_| NextHopId::NONE).unwrap();
        let first = applied.snapshot.services[0].as_ref().unwrap();
        assert!(first.servers.iter().all(|server| server.effective_weight() == 0));
        let mut desk = Desk::new(&spec);
        desk.round(2, true);
        assert!(desk.listed().contains(&(2, 5)), "{:?}", desk.listed());
        assert!(!desk.listed().contains(&(1, 3)), "{:?}", desk.listed());
    }
}

#[test]
fn the_sorry_server_stands_in_while_the_quorum_is_lost() {
    let health = HealthSpec { quorum: 4, ..HealthSpec::default() };
    let spec = ServiceSpec { sorry_server: Some(server(99, 1)), ..service(&[3, 5], health) };
    let mut desk = Desk::new(&spec);
    assert_eq!(desk.listed(), [(1, 3), (2, 5)]);
    desk.round(1, false);
    assert_eq!(desk.listed(), [(1, 0), (2, 5)]);
    desk.round(1, true);
    desk.round(2, false);
    // 3 of 4: what is left serves no more, as with keepalived.
    assert_eq!(desk.listed(), [(1, 0), (2, 0), (99, 1)]);
    assert!(desk.board.reason(&spec.key, endpoint(1)).unwrap().contains("sorry server"));
    desk.round(2, true);
    assert_eq!(desk.listed(), [(1, 3), (2, 5), (99, 0)], "it drains");
    desk.round(2, false);
    assert_eq!(desk.listed(), [(1, 0), (2, 0), (99, 1)], "and is taken again");
    assert_eq!(desk.asked(), [3, 5]);
    let sorry = |one: &News| match one {
        News::Sorry { is_in, .. } => Some(*is_in),
        _ => None,
    };
    let told: Vec<bool> = desk.news.iter().filter_map(sorry).collect();
    assert_eq!(told, [true, false, true]);
    let quorum = |one: &News| match one {
        News::Quorum { up, sum, is_first, .. } => Some((*up, *sum, *is_first)),
        _ => None,
    };
    let told: Vec<(bool, u64, bool)> = desk.news.iter().filter_map(quorum).collect();
    assert_eq!(told, [(true, 8, true), (false, 3, false), (true, 8, false), (false, 3, false)]);
    // With the service its state goes.
    desk.edit(|registry| registry.remove_service(&spec.key, Removal::Now).unwrap());
    assert_eq!((desk.board.check_count(), desk.board.services().len()), (0, 0));
}

#[test]
fn a_server_that_comes_back_comes_to_its_weight_slowly() {
    let health = HealthSpec { slow_start_ms: 10_000, ..HealthSpec::default() };
    let mut desk = Desk::new(&service(&[100, 50], health));
    assert_eq!(desk.listed(), [(1, 100), (2, 50)], "together they need not wait");
    desk.round(1, false);
    desk.round(1, true);
    let mut weights = vec![desk.listed()[0].1];
    for _ in 0..20 {
        desk.wait(500);
        weights.push(desk.listed()[0].1);
    }
    assert_eq!(weights[..5], [10, 10, 20, 20, 30]);
    assert!(weights.is_sorted() && weights.last() == Some(&100), "{weights:?}");
    assert_eq!(desk.changes, 1 + 10, "down, and ten steps");
    assert!(!desk.board.is_unsettled());
    // One that joins the others too.
    let key = desk.key();
    desk.edit(|registry| {
        registry.add_server(&key, &server(3, 30), &mut |_| NextHopId::NONE).unwrap()
    });
    assert_eq!(desk.listed()[2], (3, 3));
    // An operator's new weight is where it goes from now on.
    desk.edit(|registry| registry.set_weight(&key, endpoint(3), 60).unwrap());
    desk.wait(5000);
    assert_eq!(desk.listed()[2], (3, 36));
    desk.wait(5000);
    assert_eq!(desk.listed()[2], (3, 60));
}

/// A director without sockets has no opinion of its servers, and says so once.
#[test]
fn a_check_that_was_not_carried_out_changes_nothing() {
    let mut desk = Desk::new(&service(&[1, 1], HealthSpec::default()));
    let key = desk.key();
    desk.round(2, false);
    for n in [1, 2] {
        let id = desk.board.checks_of(&key, endpoint(n))[0];
        for _ in 0..3 {
            let stuck = Outcome::NotCarriedOut("no more open files".into());
            let news = desk.board.report(id, stuck, 0);
            desk.news.extend(news);
        }
    }
    desk.settle();
    assert_eq!(desk.listed(), [(1, 1), (2, 0)]);
    let stuck = desk.news.iter().filter(|one| matches!(one, News::Stuck { .. })).count();
    assert_eq!((stuck, desk.board.rounds), (2, [0, 1, 6]));
}

#[test]
fn all_that_fails_at_one_time_is_one_snapshot() {
    let mut desk = Desk::new(&service(&[1; 50], HealthSpec::default()));
    for n in 1..=50 {
        let id = desk.board.checks_of(&desk.key(), endpoint(n))[0];
        desk.board.report(id, Outcome::Bad("no answer".into()), 0);
    }
    desk.settle();
    assert_eq!(desk.changes, 1);
    assert!(desk.listed().iter().all(|(_, weight)| *weight == 0));
}
