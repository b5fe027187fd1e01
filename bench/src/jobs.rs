//! Everything that can be measured, by name.

use gyre::model::ForwardMode;

use crate::bench::Bench;
use crate::breakdown::{self, Breakdown};
use crate::cases::{self, Case};
use crate::cycles::{self, CycleCase};
use crate::established;
use crate::floods::{self, Flood};
use crate::mixed::{self, Mixed};
use crate::pair::{self, Pair};
use crate::report::Item;
use crate::{apply, maglev, many, start, testpmd};

/// Something to measure.
#[derive(Clone, Copy, Debug)]
pub enum Job {
    /// Packets of established flows.
    Established(Case),
    /// New connections.
    Cycles(CycleCase),
    /// Spoofed sources.
    Flood(Flood),
    /// A usual day.
    Mixed(Mixed),
    /// Two workers.
    Pair(Pair),
    /// Cycles by stage.
    Breakdown(Breakdown),
    /// Ten thousand services at once.
    Apply,
    /// Building Maglev tables.
    Maglev,
    /// Thirty million flows.
    Many,
    /// The first packet of a process.
    Start,
    /// DPDK's own macswap.
    Testpmd,
}

impl Job {
    /// The name by which it is chosen.
    pub fn name(&self) -> String {
        match self {
            Job::Established(case) => case.name(),
            Job::Cycles(case) => case.name(),
            Job::Flood(flood) => flood.name().into(),
            Job::Mixed(mixed) => mixed.name(),
            Job::Pair(pair) => pair.name(),
            Job::Breakdown(breakdown) => breakdown.name(),
            Job::Apply => apply::NAME.into(),
            Job::Maglev => maglev::NAME.into(),
            Job::Many => many::NAME.into(),
            Job::Start => start::NAME.into(),
            Job::Testpmd => testpmd::NAME.into(),
        }
    }

    /// Measures it.
    pub fn run(&self, bench: &Bench) -> anyhow::Result<Vec<Item>> {
        match self {
            Job::Established(case) => {
                let line = established::measure(bench, case)?;
                Ok(line.into_iter().map(Item::from).collect())
            }
            Job::Cycles(case) => Ok(vec![cycles::measure(bench, case)?.into()]),
            Job::Flood(flood) => Ok(vec![floods::measure(bench, *flood)?.into()]),
            Job::Mixed(mixed) => Ok(vec![mixed::measure(bench, *mixed)?.into()]),
            Job::Pair(pair) => Ok(vec![pair::measure(bench, *pair)?.into()]),
            Job::Breakdown(breakdown) => Ok(vec![breakdown::measure(bench, *breakdown)?.into()]),
            Job::Apply => Ok(vec![apply::measure(bench)?.into()]),
            Job::Maglev => Ok(vec![maglev::measure()?.into()]),
            Job::Many => Ok(vec![many::measure(bench)?]),
            Job::Start => Ok(vec![start::measure()?.into()]),
            Job::Testpmd => Ok(vec![testpmd::measure(bench)?.into()]),
        }
    }
}

/// All jobs, or the few that a quick run has.
fn all(quick: bool) -> Vec<Job> {
    let mut jobs: Vec<Job> = cases::all(quick).into_iter().map(Job::Established).collect();
    jobs.extend(cycles::all(quick).into_iter().map(Job::Cycles));
    let floods: &[Flood] = if quick { &[Flood::Syn] } else { &Flood::ALL };
    jobs.extend(floods.iter().copied().map(Job::Flood));
    let mixed =
        [ForwardMode::FullNat, ForwardMode::DirectRoute].map(|mode| Job::Mixed(Mixed(mode)));
    if quick {
        jobs.extend([mixed[0], Job::Maglev, Job::Start]);
        return jobs;
    }
    jobs.extend(mixed);
    jobs.extend(Pair::ALL.map(Job::Pair));
    jobs.extend(Breakdown::all().into_iter().map(Job::Breakdown));
    jobs.extend([Job::Apply, Job::Maglev, Job::Start, Job::Many, Job::Testpmd]);
    jobs
}

/// Those whose name contains `only`: of all there are, if that is said.
pub fn chosen(quick: bool, only: Option<&str>) -> anyhow::Result<Vec<Job>> {
    let Some(only) = only else { return Ok(all(quick)) };
    let mut jobs = all(quick);
    jobs.retain(|job| job.name().contains(only));
    if jobs.is_empty() {
        jobs = all(false);
        jobs.retain(|job| job.name().contains(only));
    }
    if jobs.is_empty() {
        let names: Vec<String> = all(false).iter().map(Job::name).collect();
        anyhow::bail!("no case has that in its name; there are: {}", names.join(" "));
    }
    Ok(jobs)
}
