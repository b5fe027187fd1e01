//! How long a worker's turns take. Turns in which the core was somebody else's stand apart: those
//! with a context switch, and those of which the thread was not charged all the time (the
//! hypervisor's, or an interrupt's where the kernel tells them from it). So do a pass's first
//! turns: before a pass the benchmark makes and reads frames for a tenth of a second in which no
//! worker runs, so that they find the caches full of other things, and timers of all that time due.

use std::rc::Rc;

use anyhow::Context;
use gyre::dpdk::ticks;
use hdrhistogram::Histogram;
use nix::sys::resource::{UsageWho, getrusage};
use nix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use crate::director::Director;
use crate::source::Schedule;
use crate::stages::Which;

/// What a turn may take longer than the thread was charged for: the clocks' own error.
const CHARGE_ERROR_NS: u64 = 500;

/// Turns of a pass that bear what was before it. Of the mixed case's 64 first turns 64 took 40 us
/// and more, of the second ones a third 25 us, of all others one in a thousand.
const FIRST_TURNS: u32 = 2;

/// Nanoseconds of turns.
pub struct Turns {
    /// Turns of the worker's own.
    own: Histogram<u64>,
    /// The first turns of passes.
    first: Histogram<u64>,
    /// Turns with a context switch, or with stolen time.
    apart: Histogram<u64>,
    ticks_per_ns: f64,
    switches: i64,
}

impl Turns {
    /// None yet.
    pub fn new(ticks_per_ns: f64) -> anyhow::Result<Self> {
        let [own, first, apart] = [Histogram::new(3)?, Histogram::new(3)?, Histogram::new(3)?];
        Ok(Turns { own, first, apart, ticks_per_ns, switches: switches()? })
    }

    /// Turns of a stage over a schedule, once. Clocks and counts are read between two turns.
    pub fn pass(
        &mut self,
        director: &mut Director,
        which: Which,
        schedule: &Rc<Schedule>,
    ) -> anyhow::Result<()> {
        director.which.set(which);
        {
            let mut window = director.window.borrow_mut();
            window.follow(schedule);
            window.remaining = schedule.len();
        }
        let mut turns = 0u32;
        while director.window.borrow().remaining > 0 {
            let (nanos, whose) = self.time(|| director.turn())?;
            let turns_like_it = match whose {
                Whose::Worker if turns < FIRST_TURNS => &mut self.first,
                Whose::Worker => &mut self.own,
                Whose::Others => &mut self.apart,
            };
            turns_like_it.record(nanos).context("a turn's time")?;
            turns += 1;
            if turns.is_multiple_of(128) {
                director.empty_kernel_ring();
            }
        }
        director.turn();
        director.empty_kernel_ring();
        Ok(())
    }

    /// One turn, with its time.
    pub fn turn(&mut self, director: &mut Director) -> anyhow::Result<()> {
        let timed = self.time(|| director.turn())?;
        self.note(timed)
    }

    /// As many turns as `like` has, each as long as its usual one, in which the thread does nothing
    /// but look at the clock: what the machine adds to turns of that length (the kernel's tick,
    /// which a thread is charged for, the hypervisor).
    pub fn spin(&mut self, like: &Turns) -> anyhow::Result<()> {
        let usual = (like.own.value_at_quantile(0.5) as f64 * self.ticks_per_ns) as u64;
        for _ in 0..like.own.len() {
            let timed = self.time(|| {
                let start = ticks();
                while ticks() - start < usual {
                    std::hint::spin_loop();
                }
            })?;
            self.note(timed)?;
        }
        Ok(())
    }

    fn note(&mut self, (nanos, whose): (u64, Whose)) -> anyhow::Result<()> {
        match whose {
            Whose::Worker => &mut self.own,
            Whose::Others => &mut self.apart,
        }
        .record(nanos)
        .context("a turn's time")
    }

    fn time(&mut self, turn: impl FnOnce()) -> anyhow::Result<(u64, Whose)> {
        let charged = charged_ns()?;
        let start = ticks();
        turn();
        let nanos = ((ticks() - start) as f64 / self.ticks_per_ns) as u64;
        let charged = charged_ns()? - charged;
        let switches = switches()?;
        let is_apart = switches != self.switches || charged + CHARGE_ERROR_NS < nanos;
        self.switches = switches;
        Ok((nanos, if is_apart { Whose::Others } else { Whose::Worker }))
    }

    /// Percentiles in microseconds.
    pub fn told(&self) -> Value {
        let micros = |nanos: u64| (nanos as f64 / 10.0).round() / 100.0;
        let at = |quantile| micros(self.own.value_at_quantile(quantile));
        json!({
            "p50": at(0.5),
            "p99": at(0.99),
            "p99.9": at(0.999),
            "max": micros(self.own.max()),
            "turns": self.own.len(),
            "beyond_20": self.own.count_between(20_000, u64::MAX),
            "first_p50": micros(self.first.value_at_quantile(0.5)),
            "first_max": micros(self.first.max()),
            "apart": self.apart.len(),
            "apart_max": micros(self.apart.max()),
        })
    }

    /// The longest turn of all in microseconds.
    pub fn worst_us(&self) -> f64 {
        self.own.max().max(self.first.max()).max(self.apart.max()) as f64 / 1e3
    }
}

/// Whose time a turn took.
enum Whose {
    Worker,
    Others,
}

/// Context switches of this thread so far, those it asked for and others.
fn switches() -> anyhow::Result<i64> {
    let usage = getrusage(UsageWho::RUSAGE_THREAD)?;
    Ok(usage.voluntary_context_switches() + usage.involuntary_context_switches())
}

/// What the kernel charged this thread for, in nanoseconds.
fn charged_ns() -> anyhow::Result<u64> {
    let time = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
    Ok(time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}
