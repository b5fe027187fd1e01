//! The plan under a clock that stands still until all wait: when rounds begin, retries, removal.

use std::sync::Mutex;

use super::*;
use crate::model::check::{CheckKind, CheckSpec};
use crate::model::{ForwardMode, Tunnel};

const INTERVAL: Duration = Duration::from_millis(2000);

fn check() -> Check {
    let spec = CheckSpec::new(CheckKind::Tcp);
    let server = "127.0.0.1:1".parse().unwrap();
    let (mode, tunnel) = (ForwardMode::DirectRoute, Tunnel::default());
    Check { spec, target: Target { server, vip: None, mode, tunnel } }
}

/// A plan whose attempts are `attempt`, and both ends of it.
struct Driven {
    commands: mpsc::UnboundedSender<Command>,
    reports: mpsc::Receiver<Report>,
    figures: Arc<Figures>,
    began: time::Instant,
}

fn drive(attempt: Attempt) -> Driven {
    let (commands, inbox) = mpsc::unbounded_channel();
    let (sender, reports) = mpsc::channel(CHECK_REPORTS_MAX);
    let figures = Arc::new(Figures::default());
    let plan = Plan::new(7, attempt, sender, figures.clone());
    tokio::spawn(plan.follow(inbox));
    Driven { commands, reports, figures, began: time::Instant::now() }
}

impl Driven {
    fn ask(&self, command: Command) {
        assert!(self.commands.send(command).is_ok());
    }

    /// Everything reported in the next `span`.
    async fn reports_of(&mut self, span: Duration) -> Vec<Report> {
        let end = time::Instant::now() + span;
        let mut all = Vec::new();
        while let Ok(report) = time::timeout_at(end, self.reports.recv()).await {
            all.push(report.unwrap());
        }
        all
    }

    fn since_start(&self, report: &Report) -> Duration {
        report.began - self.began.into_std()
    }
}

/// Attempts that take so long and are good.
fn good(takes: Duration) -> Attempt {
    Arc::new(move |_| {
        Box::pin(async move {
            time::sleep(takes).await;
            Ok(())
        })
    })
}

fn many(count: u64) -> Vec<(CheckId, Check)> {
    (0..count).map(|n| (CheckId(n), check())).collect()
}

#[tokio::test(start_paused = true)]
async fn first_rounds_are_spread_over_the_interval_and_none_is_late() {
    let mut driven = drive(good(Duration::from_millis(3)));
    driven.ask(Command::Replace(many(4000)));
    let reports = driven.reports_of(INTERVAL + Duration::from_millis(10)).await;
    let mut first: HashMap<CheckId, Duration> = HashMap::new();
    for report in &reports {
        assert!(report.late <= Duration::from_millis(2), "{report:?}");
        first.entry(report.id).or_insert(driven.since_start(report));
    }
    assert_eq!(first.len(), 4000, "each had a round within its interval");
    // 4000 over 2 s: 200 in each tenth of a second, give or take a few.
    for tenth in 0..20 {
        let within = |began: &&Duration| began.as_millis() / 100 == tenth;
        let count = first.values().filter(within).count();
        assert!((190..=210).contains(&count), "{count} in tenth {tenth}");
    }
    assert_eq!(driven.figures.late(), 0);
}

#[tokio::test(start_paused = true)]
async fn intervals_stay_within_their_jitter_and_keep_their_mean() {
    let mut driven = drive(good(Duration::from_millis(5)));
    driven.ask(Command::Replace(many(50)));
    let reports = driven.reports_of(60 * INTERVAL).await;
    let mut last: HashMap<CheckId, Instant> = HashMap::new();
    let mut gaps = Vec::new();
    for report in &reports {
        if let Some(before) = last.insert(report.id, report.began) {
            gaps.push((report.began - before).as_millis());
        }
    }
    // The timer has steps of a millisecond.
    assert!(gaps.iter().all(|gap| (1799..=2202).contains(gap)), "{gaps:?}");
    let (least, most) = (gaps.iter().min().unwrap(), gaps.iter().max().unwrap());
    assert!(*least < 1850 && *most > 2150, "jitter is used: {least} to {most}");
    let mean = gaps.iter().sum::<u128>() / gaps.len() as u128;
    assert!((1985..=2015).contains(&mean), "{mean}");
}

#[tokio::test(start_paused = true)]
async fn a_failed_attempt_is_tried_again_after_the_delay() {
    let times = Arc::new(Mutex::new(Vec::new()));
    let seen = times.clone();
    let attempt: Attempt = Arc::new(move |_| {
        let mut seen = seen.lock().unwrap();
        seen.push(time::Instant::now());
        let outcome = if seen.len() == 3 { Ok(()) } else { Err(Failure::Refused) };
        Box::pin(async move { outcome })
    });
    let mut driven = drive(attempt);
    driven.ask(Command::Add(CheckId(1), Arc::new(check())));
    let first = driven.reports.recv().await.unwrap();
    assert_eq!((first.result.unwrap_err(), first.attempts), (Failure::Refused, 2));
    let second = driven.reports.recv().await.unwrap();
    assert_eq!((second.result.is_ok(), second.attempts), (true, 1));
    let times = times.lock().unwrap();
    let delay = (times[1] - times[0]).as_millis();
    assert!((500..=502).contains(&delay), "{delay}");
}

#[tokio::test(start_paused = true)]
async fn removal_gives_up_a_round_that_goes_on_and_there_are_no_more() {
    let mut driven = drive(good(Duration::from_millis(900)));
    driven.ask(Command::Add(CheckId(1), Arc::new(check())));
    time::sleep(Duration::from_millis(400)).await;
    driven.ask(Command::Remove(CheckId(1)));
    assert!(driven.reports_of(5 * INTERVAL).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn replacing_keeps_the_time_of_checks_that_stay_the_same() {
    let mut driven = drive(good(Duration::ZERO));
    let steady = |check: &mut Check| check.spec.jitter_percent = 0;
    let mut checks = many(3);
    checks.iter_mut().for_each(|(_, check)| steady(check));
    driven.ask(Command::Replace(checks.clone()));
    let before = driven.reports_of(INTERVAL).await;
    driven.reports_of(Duration::from_millis(700)).await;
    checks[1].1.spec.timeout_ms = 77;
    driven.ask(Command::Replace(vec![checks[0].clone(), checks[1].clone()]));
    let after = driven.reports_of(4 * INTERVAL).await;
    assert!(after.iter().all(|report| report.id != CheckId(2)));
    let phase = |report: &Report| driven.since_start(report).as_millis() % 2000;
    let first = before.iter().find(|report| report.id == CheckId(0)).unwrap();
    for report in after.iter().filter(|report| report.id == CheckId(0)) {
        assert!(phase(report).abs_diff(phase(first)) <= 8, "{report:?} after {first:?}");
    }
    assert!(after.iter().filter(|report| report.id == CheckId(1)).count() >= 3);
}

#[tokio::test(start_paused = true)]
async fn check_now_begins_a_round_at_once_but_not_without_bound() {
    let mut driven = drive(good(Duration::from_millis(1)));
    driven.ask(Command::Add(CheckId(0), Arc::new(check())));
    driven.ask(Command::Add(CheckId(9), Arc::new(check())));
    // The second check's first round is at 0.6 of the interval.
    time::sleep(Duration::from_millis(50)).await;
    driven.ask(Command::Now(CheckId(9)));
    let reports = driven.reports_of(Duration::from_millis(20)).await;
    let asked = reports.iter().find(|report| report.id == CheckId(9)).unwrap();
    assert!((50..=53).contains(&driven.since_start(asked).as_millis()), "{asked:?}");
    for _ in 0..1000 {
        driven.ask(Command::Now(CheckId(9)));
        time::sleep(Duration::from_millis(1)).await;
    }
    let reports = driven.reports_of(Duration::from_millis(5)).await;
    let count = reports.iter().filter(|report| report.id == CheckId(9)).count();
    assert!((4..=6).contains(&count), "{count} rounds in a second of asking");
}

#[tokio::test(start_paused = true)]
async fn a_round_longer_than_its_interval_is_followed_at_once_and_not_late() {
    let mut driven = drive(good(Duration::from_millis(3000)));
    driven.ask(Command::Add(CheckId(0), Arc::new(check())));
    let reports = driven.reports_of(Duration::from_secs(16)).await;
    assert_eq!(reports.len(), 5);
    assert_eq!(driven.figures.late(), 0);
}

#[tokio::test(start_paused = true)]
async fn rounds_that_wait_for_a_socket_are_reported_as_late() {
    let (sender, mut reports) = mpsc::channel(CHECK_REPORTS_MAX);
    let figures = Arc::new(Figures::default());
    let mut plan = Plan::new(7, good(Duration::from_millis(500)), sender, figures.clone());
    let shared = Arc::get_mut(&mut plan.shared).unwrap();
    shared.open = Semaphore::new(1);
    plan.replace(many(8));
    let (_commands, inbox) = mpsc::unbounded_channel();
    tokio::spawn(plan.follow(inbox));
    time::sleep(2 * INTERVAL).await;
    assert!(figures.late() > 0);
    let mut latest = Duration::ZERO;
    while let Ok(report) = reports.try_recv() {
        latest = latest.max(report.late);
    }
    assert!(latest > Duration::from_millis(CHECKS_LATE_MILLIS), "{latest:?}");
}

#[test]
fn the_thread_carries_out_tcp_checks_and_ends_when_dropped() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = {
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        other.local_addr().unwrap()
    };
    let (runner, mut reports) = Runner::start(1).unwrap();
    let mut open = check();
    open.target.server = listener.local_addr().unwrap();
    let mut shut = check();
    shut.target.server = closed;
    shut.spec.retries = 0;
    runner.add(CheckId(1), open);
    runner.add(CheckId(2), shut);
    runner.check_now(CheckId(1));
    runner.check_now(CheckId(2));
    let mut results = HashMap::new();
    while results.len() < 2 {
        let report = reports.blocking_recv().unwrap();
        results.insert(report.id, report.result);
    }
    assert!(results[&CheckId(1)].is_ok());
    assert_eq!(results[&CheckId(2)], Err(Failure::Refused));
    drop(runner);
    while reports.blocking_recv().is_some() {}
}
