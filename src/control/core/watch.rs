//! Notices workers that complete no turn.
//!
//! An idle worker still turns, whatever its idle policy, so a count of turns that stands still for
//! a second means a loop that does not end, a driver that waits, or no core to run on. A pause of
//! the whole process stops this watch as well and proves nothing: a look that comes late starts
//! the second anew.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::counters::WorkerCounters;

/// How long a turn may take.
const STALL: Duration = Duration::from_secs(1);
/// A look this long after the one before was itself held up.
const LATE: Duration = Duration::from_millis(500);

#[derive(Debug)]
struct Seen {
    turns: u64,
    since: Instant,
    stalled: bool,
}

/// A worker that began or ceased to stand still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    Stalled(usize),
    Recovered(usize),
}

/// What was seen of each worker.
#[derive(Debug)]
pub struct Watch {
    seen: Vec<Seen>,
    looked: Instant,
}

impl Watch {
    pub fn new(workers: &[Arc<WorkerCounters>], now: Instant) -> Self {
        let seen =
            |w: &Arc<WorkerCounters>| Seen { turns: w.turns.get(), since: now, stalled: false };
        Watch { seen: workers.iter().map(seen).collect(), looked: now }
    }

    /// Looks at the turns; to be called a few times a second.
    pub fn look(&mut self, workers: &[Arc<WorkerCounters>], now: Instant) -> Vec<Notice> {
        let late = now.duration_since(self.looked) > LATE;
        self.looked = now;
        let mut notices = Vec::new();
        for (at, (seen, worker)) in self.seen.iter_mut().zip(workers).enumerate() {
            let turns = worker.turns.get();
            if turns != seen.turns || (late && !seen.stalled) {
                let recovered = seen.stalled;
                *seen = Seen { turns, since: now, stalled: false };
                notices.extend(recovered.then_some(Notice::Recovered(at)));
            } else if !seen.stalled && now.duration_since(seen.since) >= STALL {
                seen.stalled = true;
                notices.push(Notice::Stalled(at));
            }
        }
        notices
    }

    pub fn is_stalled(&self, worker: usize) -> bool {
        self.seen.get(worker).is_some_and(|seen| seen.stalled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(250);

    fn workers() -> Vec<Arc<WorkerCounters>> {
        (0..2).map(|_| Arc::new(WorkerCounters::with_bounds(0, 0, 0))).collect()
    }

    #[test]
    fn a_worker_without_turns_is_noticed_once_and_its_return_too() {
        let (workers, start) = (workers(), Instant::now());
        let mut watch = Watch::new(&workers, start);
        let mut notices = Vec::new();
        for step in 1..=12u32 {
            workers[1].turns.add(1);
            if step > 8 {
                workers[0].turns.add(1);
            }
            notices.extend(watch.look(&workers, start + STEP * step).iter().map(|n| (step, *n)));
            assert_eq!(watch.is_stalled(0), (4..=8).contains(&step), "step {step}");
        }
        assert_eq!(notices, [(4, Notice::Stalled(0)), (9, Notice::Recovered(0))]);
    }

    #[test]
    fn a_pause_of_the_whole_process_is_no_stall() {
        let (workers, start) = (workers(), Instant::now());
        let mut watch = Watch::new(&workers, start);
        assert_eq!(watch.look(&workers, start + STEP * 40), []);
        assert_eq!(watch.look(&workers, start + STEP * 41), []);
    }
}
