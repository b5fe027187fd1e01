//! Throughput by RFC 2544 for several loss ratios in one search.
//!
//! The idea is that of MLRsearch (draft-ietf-bmwg-mlrsearch, FD.io's CSIT): every trial counts
//! for every ratio, rough short trials find the neighbourhood, and each phase measures again,
//! longer, only where a bound is still in doubt. Only trials of full length decide. Written from
//! the idea, not from that code. Pure but for the device it is given.

use super::trial::{Device, LimitedBy, Trial};

/// Loads closer than this share are the same load.
const SAME: f64 = 1e-6;

/// What to search for, and how hard.
#[derive(Clone, Debug)]
pub struct SearchPlan {
    /// Loss ratios, each with bounds of its own; 0 is NDR.
    pub loss_ratios: Vec<f64>,
    /// Lowest load to try, in frames a second.
    pub min_fps: f64,
    /// Highest load to try.
    pub max_fps: f64,
    /// Length of the first, rough trials, in seconds.
    pub first_s: f64,
    /// Length of trials that decide.
    pub final_s: f64,
    /// Phases between the first and the final one.
    pub middle_phases: u32,
    /// How close bounds must come in the end, as a share of the load.
    pub precision: f64,
    /// A bound on trials.
    pub trials_max: usize,
}

/// What was found for one loss ratio.
#[derive(Clone, Debug)]
pub struct Found {
    /// The ratio.
    pub loss_ratio: f64,
    /// The highest load that passed a trial of full length below every one that failed; `None`
    /// when the lowest load failed.
    pub lower: Option<Trial>,
    /// The lowest load that failed; `None` when the highest passed.
    pub upper: Option<Trial>,
    /// Whether the bounds came as close as asked, or a bound of the range was met.
    pub is_complete: bool,
    /// What kept it from being higher; `None` when the search ended before that was known.
    pub limited_by: Option<LimitedBy>,
}

/// All trials and what they mean.
#[derive(Clone, Debug)]
pub struct Searched {
    /// By ratio, in the plan's order.
    pub found: Vec<Found>,
    /// In the order they were run.
    pub trials: Vec<Trial>,
}

/// One round over all ratios.
#[derive(Clone, Copy)]
struct Phase {
    trial_s: f64,
    precision: f64,
}

/// Bounds as indexes into the trials.
#[derive(Clone, Copy, Default)]
struct Bounds {
    lower: Option<usize>,
    upper: Option<usize>,
}

struct Search<'a, D> {
    plan: &'a SearchPlan,
    device: &'a mut D,
    trials: Vec<Trial>,
}

/// Runs trials on `device` until every ratio's bounds are as close as the plan wants, the trials
/// are used up, or the user wants an end.
pub fn search(plan: &SearchPlan, device: &mut impl Device) -> anyhow::Result<Searched> {
    let mut search = Search { plan, device, trials: Vec::new() };
    search.look_round()?;
    for phase in phases(plan) {
        for &ratio in &plan.loss_ratios {
            search.narrow(ratio, phase)?;
        }
    }
    let found = plan.loss_ratios.iter().map(|&ratio| search.conclude(ratio)).collect();
    Ok(Searched { found, trials: search.trials })
}

/// Trials grow longer and bounds closer by the same factor from phase to phase.
fn phases(plan: &SearchPlan) -> Vec<Phase> {
    let steps = plan.middle_phases + 1;
    let growth = (plan.final_s / plan.first_s).max(1.0);
    let phase = |at: u32| Phase {
        trial_s: if at == steps {
            plan.final_s
        } else {
            plan.first_s * growth.powf(f64::from(at) / f64::from(steps))
        },
        precision: plan.precision * f64::from(1u32 << (steps - at).min(8)),
    };
    (0..=steps).map(phase).collect()
}

impl<D: Device> Search<'_, D> {
    /// The highest load, and what came back of it as the next load: no device forwards more.
    fn look_round(&mut self) -> anyhow::Result<()> {
        let first = self.run(self.plan.max_fps, self.plan.first_s)?;
        let came = self.trials[first].received_fps();
        if self.trials[first].search_loss_ratio() > 0.0 && came > self.plan.min_fps {
            self.run(came, self.plan.first_s)?;
        }
        Ok(())
    }

    fn run(&mut self, load_fps: f64, duration_s: f64) -> anyhow::Result<usize> {
        let load = load_fps.clamp(self.plan.min_fps, self.plan.max_fps);
        let trial = self.device.trial(load, duration_s)?;
        self.trials.push(trial);
        Ok(self.trials.len() - 1)
    }

    fn narrow(&mut self, ratio: f64, phase: Phase) -> anyhow::Result<()> {
        let mut steps_out = 0;
        while self.trials.len() < self.plan.trials_max && !self.device.is_stopped() {
            let Some(load) = self.next_load(ratio, phase, &mut steps_out) else { return Ok(()) };
            self.run(load, phase.trial_s)?;
        }
        Ok(())
    }

    /// The tightest bounds by trials of at least `trial_s`. Where trials contradict each other
    /// the failed one counts: nothing above it passed.
    fn bounds(&self, ratio: f64, trial_s: f64) -> Bounds {
        let mut bounds = Bounds::default();
        let load = |at: usize| self.trials[at].load_fps;
        let long = |at: &usize| self.trials[*at].duration_s >= trial_s * (1.0 - 1e-3);
        let failed = |at: &usize| self.trials[*at].search_loss_ratio() > ratio;
        let all = 0..self.trials.len();
        bounds.upper = all
            .clone()
            .filter(|at| long(at) && failed(at))
            .min_by(|&a, &b| load(a).total_cmp(&load(b)));
        let below =
            |at: &usize| bounds.upper.is_none_or(|upper| load(*at) < load(upper) * (1.0 - SAME));
        bounds.lower = all
            .filter(|at| long(at) && !failed(at) && below(at))
            .max_by(|&a, &b| load(a).total_cmp(&load(b)));
        bounds
    }

    /// Where to measure next, `None` when the bounds will do for this phase.
    fn next_load(&self, ratio: f64, phase: Phase, steps_out: &mut u32) -> Option<f64> {
        let load = |at: usize| self.trials[at].load_fps;
        let sure = self.bounds(ratio, phase.trial_s);
        let hint = self.bounds(ratio, 0.0);
        let mut outwards = || {
            *steps_out += 1;
            1.0 + phase.precision * f64::from(1u32 << (*steps_out - 1).min(20))
        };
        let (min, max) = (self.plan.min_fps, self.plan.max_fps);
        match (sure.lower.map(load), sure.upper.map(load)) {
            (Some(lower), Some(upper)) => {
                let is_close = upper <= lower * (1.0 + phase.precision);
                (!is_close).then(|| (lower * upper).sqrt())
            }
            (Some(lower), None) if lower >= max * (1.0 - SAME) => None,
            (Some(lower), None) => {
                let hinted = hint.upper.map(load).filter(|&hinted| hinted > lower * (1.0 + SAME));
                Some(hinted.unwrap_or_else(|| lower * outwards()).min(max))
            }
            (None, Some(upper)) if upper <= min * (1.0 + SAME) => None,
            (None, Some(upper)) => {
                let hinted = hint.lower.map(load).filter(|&hinted| hinted < upper * (1.0 - SAME));
                Some(hinted.unwrap_or_else(|| upper / outwards()).max(min))
            }
            (None, None) => Some(hint.lower.or(hint.upper).map_or(max, load)),
        }
    }

    fn conclude(&self, ratio: f64) -> Found {
        let bounds = self.bounds(ratio, self.plan.final_s);
        let trial = |at: Option<usize>| at.map(|at| self.trials[at].clone());
        let (lower, upper) = (trial(bounds.lower), trial(bounds.upper));
        let is_complete = match (&lower, &upper) {
            (Some(lower), Some(upper)) => {
                upper.load_fps <= lower.load_fps * (1.0 + self.plan.precision) * (1.0 + SAME)
            }
            (Some(lower), None) => lower.load_fps >= self.plan.max_fps * (1.0 - SAME),
            (None, Some(upper)) => upper.load_fps <= self.plan.min_fps * (1.0 + SAME),
            (None, None) => false,
        };
        let limited_by = match &upper {
            None => is_complete.then_some(LimitedBy::MaxRate),
            Some(upper) if upper.loss_ratio() <= ratio => Some(LimitedBy::Sender),
            Some(upper) => upper
                .generator_limit()
                .filter(|limit| *limit == LimitedBy::Receiver)
                .or(Some(LimitedBy::Device)),
        };
        Found { loss_ratio: ratio, lower, upper, is_complete, limited_by }
    }
}

/// What a search for the longest burst found.
#[derive(Clone, Debug, PartialEq)]
pub struct Burst {
    /// Frames of the longest burst that came back whole.
    pub frames: u64,
    /// Whether the longest burst allowed did.
    pub is_max: bool,
    /// Whether the sender could not keep the rate within a burst.
    pub is_sender_short: bool,
}

/// Searches the longest burst at `load_fps` that loses nothing, up to `frames_max`, to within a
/// hundredth or one frame (RFC 2544 section 26.4; RFC 9004 on repeating it).
pub fn longest_burst(
    device: &mut impl Device,
    load_fps: f64,
    frames_max: u64,
) -> anyhow::Result<Burst> {
    let mut is_sender_short = false;
    let mut passes = |frames: u64, device: &mut dyn Device| -> anyhow::Result<bool> {
        let trial = device.burst(load_fps, frames)?;
        is_sender_short |= trial.is_sender_short();
        Ok(trial.lost() == 0)
    };
    if passes(frames_max, device)? {
        return Ok(Burst { frames: frames_max, is_max: true, is_sender_short });
    }
    let (mut lower, mut upper) = (0, frames_max);
    while upper - lower > (lower / 100).max(1) && !device.is_stopped() {
        let middle = lower + (upper - lower) / 2;
        if passes(middle, device)? { lower = middle } else { upper = middle }
    }
    Ok(Burst { frames: lower, is_max: false, is_sender_short })
}

#[cfg(test)]
#[path = "search_tests.rs"]
mod tests;
