//! The thread that carries checks out: when each round begins, retries, bounds, reports.
//!
//! What an attempt is, `probe` knows; what follows from a report, its reader. The thread has a
//! tokio runtime of its own, so that ten thousand checks never delay control. It starts with the
//! cores of the thread that starts it, which for control are those without workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{fmt, io};

use futures::future::BoxFuture;
use hashbrown::{HashMap, HashSet};
use rustix::process::{Resource, getrlimit};
use tokio::sync::{Notify, Semaphore, SemaphorePermit, mpsc};
use tokio::time;
use tracing::warn;

pub use super::probe::{Check, Failure, Probes, Target};
use crate::limits::{
    CHECK_NOW_GAP_MILLIS, CHECK_PROGRAMS_MAX, CHECK_REPORTS_MAX, CHECK_SOCKETS_MAX,
    CHECKS_LATE_MILLIS,
};
use crate::model::check::CheckKind;

/// How long work that a check began may take to end when gyre stops.
const PATIENCE: Duration = Duration::from_secs(1);
/// Open files that are left to everything but checks, unless that is more than half.
const OTHER_FILES: u64 = 2048;

/// A check's name, given by whoever adds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CheckId(pub u64);

/// How a round went.
#[derive(Clone, Debug)]
pub struct Report {
    /// Whose.
    pub id: CheckId,
    /// How long the good attempt took, or why the last one was not good.
    pub result: Result<Duration, Failure>,
    /// Attempts made, retries included.
    pub attempts: u32,
    /// When the round began.
    pub began: Instant,
    /// By how much that was later than planned.
    pub late: Duration,
}

/// Why there is no thread for checks.
#[derive(Debug, thiserror::Error)]
#[error("no thread for health checks: {0}")]
pub struct RunnerError(#[from] io::Error);

/// What the runner counts, since it began.
#[derive(Debug, Default)]
pub struct Figures {
    rounds: AtomicU64,
    late: AtomicU64,
}

impl Figures {
    /// Rounds that ended.
    pub fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed)
    }

    /// Rounds that began more than `CHECKS_LATE_MILLIS` later than planned: the director has too
    /// little time or too few sockets for its checks.
    pub fn late(&self) -> u64 {
        self.late.load(Ordering::Relaxed)
    }
}

/// Makes one attempt.
pub type Attempt = Arc<dyn Fn(Arc<Check>) -> BoxFuture<'static, Result<(), Failure>> + Send + Sync>;

/// What is asked of the thread.
enum Command {
    Add(CheckId, Arc<Check>),
    Remove(CheckId),
    Replace(Vec<(CheckId, Check)>),
    Now(CheckId),
}

/// Checks that go on until they are removed. Dropped, it ends them all and the thread.
pub struct Runner {
    commands: Option<mpsc::UnboundedSender<Command>>,
    thread: Option<JoinHandle<()>>,
    figures: Arc<Figures>,
}

impl Runner {
    /// Starts the thread, without checks. `seed` is what jitter comes from: the same seed and the
    /// same order of additions give the same plan.
    pub fn start(seed: u64) -> Result<(Runner, mpsc::Receiver<Report>), RunnerError> {
        say_if_few(attempts_max());
        let (commands, inbox) = mpsc::unbounded_channel();
        let (reports, outbox) = mpsc::channel(CHECK_REPORTS_MAX);
        let figures = Arc::new(Figures::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let shared = figures.clone();
        let body = move || {
            runtime.block_on(async {
                let probes = Arc::new(Probes::new());
                let attempt: Attempt =
                    Arc::new(move |check| Box::pin(probes.clone().attempt(check)));
                Plan::new(seed, attempt, reports, shared).follow(inbox).await;
            });
            runtime.shutdown_timeout(PATIENCE);
        };
        let thread = thread::Builder::new().name("gyre-checks".to_owned()).spawn(body)?;
        Ok((Runner { commands: Some(commands), thread: Some(thread), figures }, outbox))
    }

    /// Begins a check; one that had this id ends. Its first round comes within its interval, at
    /// a moment that spreads checks which are added together.
    pub fn add(&self, id: CheckId, check: Check) {
        self.send(Command::Add(id, Arc::new(check)));
    }

    /// Ends a check; a round that goes on is given up without a report.
    pub fn remove(&self, id: CheckId) {
        self.send(Command::Remove(id));
    }

    /// These checks and no others. Those that are there already, and the same, keep their time.
    pub fn replace(&self, checks: Vec<(CheckId, Check)>) {
        self.send(Command::Replace(checks));
    }

    /// Begins a round at once, or when the one that goes on has ended; the next follows an interval
    /// later. Not more often than each `CHECK_NOW_GAP_MILLIS`, however often it is asked for.
    pub fn check_now(&self, id: CheckId) {
        self.send(Command::Now(id));
    }

    /// What it counts.
    pub fn figures(&self) -> &Figures {
        &self.figures
    }

    fn send(&self, command: Command) {
        // The thread is there as long as the sender.
        let _ = self.commands.as_ref().map(|commands| commands.send(command).is_ok());
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        drop(self.commands.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Runner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runner").field("figures", &self.figures).finish_non_exhaustive()
    }
}

/// Attempts that may go on at one time: each has a socket or two, and the rest of the process
/// needs some as well.
fn attempts_max() -> usize {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let ours = files.saturating_sub(OTHER_FILES).max(files / 2);
    usize::try_from(ours).unwrap_or(usize::MAX).min(CHECK_SOCKETS_MAX)
}

/// `gyre run` takes as many open files as it may; that may be few.
fn say_if_few(attempts: usize) {
    if attempts < CHECK_SOCKETS_MAX {
        warn!(
            "the limit of open files leaves {attempts} sockets at one time for health checks; \
             with more checks of silent servers raise LimitNOFILE"
        );
    }
}

/// Every check's task.
struct Plan {
    tasks: HashMap<CheckId, Task>,
    added: u64,
    seed: u64,
    shared: Arc<Shared>,
}

/// What tasks share.
struct Shared {
    attempt: Attempt,
    open: Semaphore,
    programs: Semaphore,
    reports: mpsc::Sender<Report>,
    figures: Arc<Figures>,
}

struct Task {
    check: Arc<Check>,
    now: Arc<Notify>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Plan {
    fn new(
        seed: u64,
        attempt: Attempt,
        reports: mpsc::Sender<Report>,
        figures: Arc<Figures>,
    ) -> Self {
        let open = Semaphore::new(attempts_max());
        let programs = Semaphore::new(CHECK_PROGRAMS_MAX);
        let shared = Arc::new(Shared { attempt, open, programs, reports, figures });
        Plan { tasks: HashMap::new(), added: 0, seed, shared }
    }

    /// Does what is asked, until nobody can ask any more.
    async fn follow(mut self, mut inbox: mpsc::UnboundedReceiver<Command>) {
        while let Some(command) = inbox.recv().await {
            match command {
                Command::Add(id, check) => self.add(id, check),
                Command::Remove(id) => drop(self.tasks.remove(&id)),
                Command::Replace(checks) => self.replace(checks),
                Command::Now(id) => {
                    self.tasks.get(&id).inspect(|task| task.now.notify_one());
                }
            }
        }
    }

    fn replace(&mut self, checks: Vec<(CheckId, Check)>) {
        let wanted: HashSet<CheckId> = checks.iter().map(|(id, _)| *id).collect();
        self.tasks.retain(|id, _| wanted.contains(id));
        for (id, check) in checks {
            if self.tasks.get(&id).is_none_or(|task| *task.check != check) {
                self.add(id, Arc::new(check));
            }
        }
    }

    fn add(&mut self, id: CheckId, check: Arc<Check>) {
        let now = Arc::new(Notify::new());
        let interval = Duration::from_millis(check.spec.interval_ms.into());
        let rounds = Rounds {
            id,
            check: check.clone(),
            now: now.clone(),
            jitter: Jitter::new(self.seed ^ id.0, check.spec.jitter_percent),
            planned: time::Instant::now() + interval.mul_f64(spread(self.added)),
            shared: self.shared.clone(),
        };
        self.added += 1;
        let task = tokio::spawn(rounds.run());
        self.tasks.insert(id, Task { check, now, task });
    }
}

/// Where in its interval the `n`th check begins, 0 to 1: multiples of the golden ratio's fraction
/// lie evenly however many there are.
fn spread(n: u64) -> f64 {
    // 2^64 divided by the golden ratio; what the product overflows by is whole intervals.
    let fraction = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    fraction as f64 / 2f64.powi(64)
}

/// Draws how much longer or shorter an interval is.
struct Jitter {
    state: u64,
    percent: u8,
}

impl Jitter {
    fn new(seed: u64, percent: u8) -> Self {
        Jitter { state: seed, percent }
    }

    /// The interval to the next round. SplitMix64 (Steele, Lea, Flood 2014): even, and good from
    /// any seed on.
    fn stretch(&mut self, interval: Duration) -> Duration {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let between = mixed as f64 / 2f64.powi(63) - 1.0;
        interval.mul_f64(1.0 + between * f64::from(self.percent) / 100.0)
    }
}

/// One check's rounds.
struct Rounds {
    id: CheckId,
    check: Arc<Check>,
    now: Arc<Notify>,
    jitter: Jitter,
    planned: time::Instant,
    shared: Arc<Shared>,
}

impl Rounds {
    async fn run(mut self) {
        let interval = Duration::from_millis(self.check.spec.interval_ms.max(1).into());
        let gap = Duration::from_millis(CHECK_NOW_GAP_MILLIS);
        loop {
            tokio::select! {
                _ = time::sleep_until(self.planned) => {}
                _ = self.now.notified() => self.planned = time::Instant::now(),
            }
            let Some(began) = self.round().await else { return };
            // A round that took longer than the interval is followed at once: that is the
            // configuration's doing, not lateness.
            let next = self.planned + self.jitter.stretch(interval);
            self.planned = next.max(time::Instant::now());
            time::sleep_until(self.planned.min(began + gap)).await;
        }
    }

    /// One round, with its report. `None` when nobody reads those any more.
    async fn round(&self) -> Option<time::Instant> {
        let permit = self.turn().await?;
        let began = time::Instant::now();
        let late = began.saturating_duration_since(self.planned);
        let (result, attempts) = self.attempts(permit).await?;
        let figures = &self.shared.figures;
        figures.rounds.fetch_add(1, Ordering::Relaxed);
        if late > Duration::from_millis(CHECKS_LATE_MILLIS) {
            figures.late.fetch_add(1, Ordering::Relaxed);
        }
        let report = Report { id: self.id, result, attempts, began: began.into_std(), late };
        self.shared.reports.send(report).await.ok()?;
        Some(began)
    }

    /// Waits until one more attempt may go on.
    async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        let turns = match self.check.spec.kind {
            CheckKind::Program { .. } => &self.shared.programs,
            _ => &self.shared.open,
        };
        turns.acquire().await.ok()
    }

    /// Attempts until one is good or there are no more, each with a permit of its own: one that
    /// waits for its turn needs no socket.
    async fn attempts(
        &self,
        mut permit: SemaphorePermit<'_>,
    ) -> Option<(Result<Duration, Failure>, u32)> {
        let spec = &self.check.spec;
        let mut attempts = 0;
        loop {
            let began = time::Instant::now();
            let outcome = (self.shared.attempt)(self.check.clone()).await;
            drop(permit);
            attempts += 1;
            match outcome {
                Ok(()) => return Some((Ok(began.elapsed()), attempts)),
                Err(failure) if attempts > spec.retries => return Some((Err(failure), attempts)),
                Err(_) => time::sleep(Duration::from_millis(spec.retry_delay_ms.into())).await,
            }
            permit = self.turn().await?;
        }
    }
}

#[cfg(test)]
#[path = "runner_tests.rs"]
mod tests;
