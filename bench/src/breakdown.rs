//! Cycles of a packet by stage, in rounds of their own: the figures beside come from rounds in
//! which nobody looked.
//!
//! Ends of a burst's parts are read from the processor's counter, eleven times a burst. Deciding
//! and rewriting take turns frame by frame; reading the counter there would take as long as what it
//! measures, so it is read around one frame of each burst, another one each time, and that share
//! divides what both took. What looking costs in all is told.

use std::rc::Rc;

use anyhow::ensure;
use gyre::dataplane::{Observer, Part};
use gyre::dpdk::ticks;
use gyre::model::ForwardMode;
use serde_json::json;

use crate::bench::{Bench, FRAMES, forwarding_round};
use crate::cases::{FLOWS, flows_name, mode_name, permutation};
use crate::director::{Director, Setup};
use crate::report::{Other, Spread};
use crate::source::EndTicks;
use crate::stages::Which;
use crate::traffic::Traffic;

/// Whose cycles.
#[derive(Clone, Copy, Debug)]
pub struct Breakdown {
    /// Forwarding mode.
    pub mode: ForwardMode,
    /// Live flows.
    pub flows: usize,
}

/// Ticks that parts of the packet path took.
#[derive(Clone, Copy, Debug, Default)]
pub struct PartTicks {
    classify: u64,
    lookup: u64,
    /// Deciding and rewriting, of all frames.
    forward: u64,
    /// Of the frames looked at alone.
    decide: u64,
    rewrite: u64,
    last: u64,
    /// The frame of this burst that is looked at, and which one is at work.
    looked_at: usize,
    at: usize,
}

impl PartTicks {
    /// A burst begins.
    #[inline(always)]
    pub fn begin(&mut self) {
        self.at = 0;
        // Not the first, whose start is another part's end.
        self.looked_at = 1 + (self.looked_at + 7) % 31;
        self.last = ticks();
    }

    /// It is over.
    #[inline(always)]
    pub fn end(&mut self) {
        self.forward = self.forward.wrapping_add(ticks());
    }

    #[inline(always)]
    fn lap(last: &mut u64) -> u64 {
        let now = ticks();
        now - std::mem::replace(last, now)
    }
}

impl Observer for PartTicks {
    #[inline(always)]
    fn ended(&mut self, part: Part) {
        match part {
            Part::Classify => self.classify += Self::lap(&mut self.last),
            Part::Lookup => {
                self.lookup += Self::lap(&mut self.last);
                self.forward = self.forward.wrapping_sub(self.last);
            }
            Part::Decide if self.at == self.looked_at => {
                self.decide += Self::lap(&mut self.last);
            }
            Part::Decide => {}
            Part::Rewrite => {
                if self.at == self.looked_at {
                    self.rewrite += Self::lap(&mut self.last);
                }
                self.at += 1;
                if self.at == self.looked_at {
                    self.last = ticks();
                }
            }
        }
    }
}

impl Breakdown {
    /// All modes, with one and with a million flows.
    pub fn all() -> Vec<Breakdown> {
        let modes =
            [ForwardMode::DirectRoute, ForwardMode::Tunnel, ForwardMode::Nat, ForwardMode::FullNat];
        let of = |mode| [1, FLOWS].map(|flows| Breakdown { mode, flows });
        modes.into_iter().flat_map(of).collect()
    }

    /// The name by which it is chosen.
    pub fn name(&self) -> String {
        format!("stages-{}-udp4-{}", mode_name(self.mode), flows_name(self.flows))
    }
}

/// Measures one.
pub fn measure(bench: &Bench, breakdown: Breakdown) -> anyhow::Result<Other> {
    let traffic = Traffic::new(breakdown.mode, breakdown.flows);
    let mut director = Director::new(&bench.eal, &bench.pool, &Setup::new(traffic))?;
    let every = director.establish()?;
    let schedule = Rc::new(every.arranged(permutation(every.len()).into_iter()));
    director.window.borrow_mut().follow(&schedule);
    let (mut alone, mut observed) = (Vec::new(), Vec::new());
    let before = director.counters.fast_frames.get();
    let mut ends = EndTicks::default();
    for _ in 0..bench.rounds() {
        alone.push(forwarding_round(&mut director, Which::Gyre, FRAMES)?);
        director.window.borrow_mut().ticks = Some(ends);
        observed.push(forwarding_round(&mut director, Which::Observed, FRAMES)?);
        ends = director.window.borrow_mut().ticks.take().unwrap_or_default();
    }
    let sent = (2 * bench.rounds() * FRAMES) as u64;
    let fast = director.counters.fast_frames.get() - before;
    ensure!(fast * 1000 >= sent * 999, "{fast} of {sent} packets took the fast path");
    let parts = director.stage().parts();
    let frames = (bench.rounds() * FRAMES) as f64;
    let of = |ticks: u64| ticks as f64 / frames;
    let looked = (parts.decide + parts.rewrite).max(1) as f64;
    let decide = of(parts.forward) * parts.decide as f64 / looked;
    let (receive, transmit) = (of(ends.receive), of(ends.transmit));
    let (classify, lookup) = (of(parts.classify), of(parts.lookup));
    let total: f64 = observed.iter().sum::<f64>() / observed.len() as f64 * bench.ticks_per_ns;
    let other = total - receive - classify - lookup - of(parts.forward) - transmit;
    ensure!(other > 0.0, "the parts took longer than the whole");
    let tenths = |cycles: f64| (cycles * 10.0).round() / 10.0;
    let mut item = Other::new(&breakdown.name());
    item.say(
        "cycles",
        json!({
            "receive": tenths(receive),
            "classify": tenths(classify),
            "lookup": tenths(lookup),
            "decide": tenths(decide),
            "rewrite": tenths(of(parts.forward) - decide),
            "transmit": tenths(transmit),
            "other": tenths(other),
        }),
    );
    item.say("cycles_looked_at", total);
    item.say("cycles_otherwise", Spread::of(alone).median * bench.ticks_per_ns);
    Ok(item)
}
