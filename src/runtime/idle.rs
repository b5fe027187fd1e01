//! What a worker does when there is nothing to do.
//!
//! `poll` never gives the core away. `adaptive` does, in three steps, so that a small machine's
//! other programs get it and the first frame after a pause still waits less than a sleep.

use std::num::NonZeroU64;
use std::thread;
use std::time::Duration;

/// Empty turns before the core is yielded.
const SPIN_TURNS: u32 = 64;
/// Empty turns before the worker sleeps. Yields cost about 1 µs each when nobody else wants the
/// core, so this is a fraction of a millisecond.
const YIELD_TURNS: u32 = 256;
/// How long one sleep asks for. The kernel adds the timer slack, set to 1 ns, and its own wake-up
/// time, together below 10 µs on an idle core: in all the 50 µs that DESIGN.md allows.
const SLEEP: Duration = Duration::from_micros(40);

/// Idle policy of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdlePolicy {
    /// Poll without pause: lowest latency, one core fully used.
    Poll,
    /// Yield, then sleep at most 50 µs.
    Adaptive,
}

impl IdlePolicy {
    /// As configured and logged.
    pub const fn name(self) -> &'static str {
        match self {
            IdlePolicy::Poll => "poll",
            IdlePolicy::Adaptive => "adaptive",
        }
    }
}

/// What comes after an empty turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Spin,
    Yield,
    Sleep,
}

/// A worker's idleness: how many turns in a row were empty.
#[derive(Debug)]
pub struct Idle {
    policy: IdlePolicy,
    empty_turns: u32,
}

impl Idle {
    /// A busy worker. Must be made on the worker's own thread, whose timer slack it sets.
    pub fn new(policy: IdlePolicy) -> Self {
        if policy == IdlePolicy::Adaptive {
            // Failing only makes sleeps 50 µs longer, the kernel's default slack.
            let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        }
        Idle { policy, empty_turns: 0 }
    }

    /// The turn did something.
    #[inline]
    pub fn worked(&mut self) {
        self.empty_turns = 0;
    }

    /// The turn did nothing: waits as the policy says.
    pub fn wait(&mut self) {
        match self.next_step() {
            Step::Spin => std::hint::spin_loop(),
            Step::Yield => thread::yield_now(),
            Step::Sleep => thread::sleep(SLEEP),
        }
    }

    fn next_step(&mut self) -> Step {
        if self.policy == IdlePolicy::Poll {
            return Step::Spin;
        }
        self.empty_turns = self.empty_turns.saturating_add(1);
        match self.empty_turns {
            0..=SPIN_TURNS => Step::Spin,
            turns if turns <= YIELD_TURNS => Step::Yield,
            _ => Step::Sleep,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adaptive_spins_then_yields_then_sleeps_and_starts_over_after_work() {
        let mut idle = Idle::new(IdlePolicy::Adaptive);
        let steps: Vec<_> = (0..YIELD_TURNS + 10).map(|_| idle.next_step()).collect();
        assert_eq!(steps[0], Step::Spin);
        assert_eq!(steps[SPIN_TURNS as usize], Step::Yield);
        assert_eq!(steps[YIELD_TURNS as usize], Step::Sleep);
        idle.worked();
        assert_eq!(idle.next_step(), Step::Spin);
    }

    #[test]
    fn poll_never_gives_the_core_away() {
        let mut idle = Idle::new(IdlePolicy::Poll);
        assert!((0..10_000).all(|_| idle.next_step() == Step::Spin));
    }
}
