//! Notices a worker that completes no turn.
//!
//! A worker parked by its idle policy still turns every 50 µs, so standing still for a second
//! means a loop that does not end, a driver that waits, or no core to run on. Which of these is
//! told from the scheduler's own account of the thread. A pause of the whole process (a debugger,
//! a suspended machine) also stops the watcher and is not reported.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::counters::WorkerCounters;
use crate::model::WorkerId;

/// How long a worker may take over one turn.
pub const STALL: Duration = Duration::from_secs(1);
/// How often the watcher looks.
pub const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A look that comes later than this was held up itself, and proves nothing about workers.
const LATE: Duration = Duration::from_millis(750);

/// A worker that stands still, or one that came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stall {
    /// Which one.
    pub worker: WorkerId,
    /// How long it has completed no turn, or had not when it came back.
    pub lasting: Duration,
    /// Whether it turns again.
    pub over: bool,
    /// Of that time, how long it ran and how long it waited for a core, if the kernel says.
    pub account: Option<Account>,
}

/// A thread's time by `/proc/<pid>/task/<tid>/schedstat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Time on a core.
    pub ran: Duration,
    /// Time runnable without a core.
    pub waited: Duration,
}

impl Account {
    fn read(path: &PathBuf) -> Option<Account> {
        Account::parse(&fs::read_to_string(path).ok()?)
    }

    fn parse(text: &str) -> Option<Account> {
        let mut fields = text.split_whitespace();
        let mut nanos = || Some(Duration::from_nanos(fields.next()?.parse().ok()?));
        Some(Account { ran: nanos()?, waited: nanos()? })
    }

    fn since(self, earlier: Account) -> Account {
        Account {
            ran: self.ran.saturating_sub(earlier.ran),
            waited: self.waited.saturating_sub(earlier.waited),
        }
    }
}

impl std::fmt::Display for Stall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (worker, lasting) = (self.worker, self.lasting.as_secs_f32());
        if self.over {
            return write!(f, "worker {worker} goes on after a stall of {lasting:.1} s");
        }
        write!(f, "worker {worker} stalled: no turn completed for {lasting:.1} s")?;
        let Some(account) = self.account else { return Ok(()) };
        let (ran, waited) = (account.ran.as_secs_f32(), account.waited.as_secs_f32());
        write!(f, " (ran {ran:.1} s, waited {waited:.1} s for a core)")?;
        if account.waited > account.ran {
            return f.write_str("; give its core to gyre alone, or lower `workers`");
        }
        Ok(())
    }
}

struct Watched {
    worker: WorkerId,
    counters: Arc<WorkerCounters>,
    schedstat: PathBuf,
    turns: u64,
    still_since: Instant,
    account_then: Option<Account>,
    reported: bool,
}

/// Watches all workers.
pub struct StallWatch {
    workers: Vec<Watched>,
    looked: Instant,
}

impl StallWatch {
    /// Watches nobody yet.
    pub fn new(now: Instant) -> Self {
        StallWatch { workers: Vec::new(), looked: now }
    }

    /// Watches `worker`, whose thread has the kernel's id `thread_id`.
    pub fn add(&mut self, worker: WorkerId, counters: Arc<WorkerCounters>, thread_id: i32) {
        self.workers.push(Watched {
            worker,
            turns: counters.turns.get(),
            counters,
            schedstat: format!("/proc/self/task/{thread_id}/schedstat").into(),
            still_since: self.looked,
            account_then: None,
            reported: false,
        });
    }

    /// Looks at every worker; gives each stall once when it is noticed and once when it is over.
    pub fn look(&mut self, now: Instant) -> Vec<Stall> {
        let held_up = now.duration_since(self.looked) > LATE;
        self.looked = now;
        self.workers.iter_mut().filter_map(|watched| watched.look(now, held_up)).collect()
    }
}

impl Watched {
    fn look(&mut self, now: Instant, held_up: bool) -> Option<Stall> {
        let turns = self.counters.turns.get();
        let lasting = now.duration_since(self.still_since);
        if turns != self.turns || held_up {
            let over = self.reported && turns != self.turns;
            if turns != self.turns {
                self.reported = false;
            }
            self.turns = turns;
            self.still_since = now;
            self.account_then = None;
            return over.then_some(Stall { worker: self.worker, lasting, over, account: None });
        }
        if self.account_then.is_none() {
            self.account_then = Account::read(&self.schedstat);
        }
        if lasting < STALL || self.reported {
            return None;
        }
        self.reported = true;
        let account = Account::read(&self.schedstat)
            .zip(self.account_then)
            .map(|(account, then)| account.since(then));
        Some(Stall { worker: self.worker, lasting, over: false, account })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch() -> (StallWatch, Arc<WorkerCounters>, Instant) {
        let start = Instant::now();
        let counters = Arc::new(WorkerCounters::with_bounds(0, 0, 0));
        let mut watch = StallWatch::new(start);
        // No thread has id 0, so there is no account.
        watch.add(WorkerId(3), counters.clone(), 0);
        (watch, counters, start)
    }

    #[test]
    fn a_stall_is_told_once_and_so_is_its_end() {
        let (mut watch, counters, start) = watch();
        let mut told = Vec::new();
        for look in 1..=20 {
            if look == 15 {
                counters.turns.add(1);
            }
            for stall in watch.look(start + LOOK_EVERY * look) {
                told.push((look, stall.over));
            }
        }
        assert_eq!(told, [(4, false), (15, true), (19, false)]);
    }

    #[test]
    fn a_turning_worker_is_not_told_of() {
        let (mut watch, counters, start) = watch();
        for look in 1..100 {
            counters.turns.add(1);
            assert_eq!(watch.look(start + LOOK_EVERY * look), []);
        }
    }

    #[test]
    fn a_pause_of_the_whole_process_is_no_stall() {
        let (mut watch, _, start) = watch();
        assert_eq!(watch.look(start + Duration::from_secs(60)), []);
        assert_eq!(watch.look(start + Duration::from_secs(60) + LOOK_EVERY), []);
    }

    #[test]
    fn a_starved_worker_gets_advice() {
        let account = Account::parse("100000000 900000000 5\n").unwrap();
        let worker = WorkerId(1);
        let stall = Stall { worker, lasting: STALL, over: false, account: Some(account) };
        assert_eq!(
            stall.to_string(),
            "worker 1 stalled: no turn completed for 1.0 s (ran 0.1 s, waited 0.9 s for a core); \
             give its core to gyre alone, or lower `workers`"
        );
    }
}
