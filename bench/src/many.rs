//! Thirty million live flows in one process: what memory they take, and that packets find them.

use std::rc::Rc;

use anyhow::ensure;
use gyre::model::ForwardMode;

use crate::bench::{Bench, forwarding_round, held_against, spreads};
use crate::cases::permutation;
use crate::director::{Director, Setup};
use crate::memory::{kib_field, small_pages};
use crate::report::{Item, Line, Other};
use crate::stages::Which;
use crate::traffic::Traffic;

/// The name by which it is chosen.
pub const NAME: &str = "dr-udp4-30M";
const FLOWS: usize = 30_000_000;
/// Rounds: each has a packet of every flow.
const ROUNDS: usize = 3;
/// What a flow takes here, the schedule and the roofline included, generously.
const BYTES_A_FLOW: u64 = 330;

/// Memory of this process, hugepages included, in bytes.
fn resident() -> u64 {
    let own = |name| kib_field("/proc/self/status", name);
    own("VmRSS:") + own("HugetlbPages:")
}

/// Memory to be had, free hugepages included, in bytes.
fn available() -> u64 {
    let hugepage = kib_field("/proc/meminfo", "Hugepagesize:");
    let free = kib_field("/proc/meminfo", "HugePages_Free:") / 1024;
    kib_field("/proc/meminfo", "MemAvailable:") + free * hugepage
}

/// Measures it where there is memory enough.
pub fn measure(bench: &Bench) -> anyhow::Result<Item> {
    let wanted = FLOWS as u64 * BYTES_A_FLOW;
    let there = available();
    if there < wanted {
        let mut other = Other::new(NAME);
        let why = format!("{} MiB wanted, {} MiB to be had", wanted >> 20, there >> 20);
        other.say("not_run", why);
        return Ok(other.into());
    }
    let traffic = Traffic::new(ForwardMode::DirectRoute, FLOWS);
    // Where one entry in 32 is free, as the product wants it.
    let flows_max = FLOWS + FLOWS / 31;
    let setup = Setup { flows_max, roofline_flows: 0, ..Setup::new(traffic) };
    let before = resident();
    let mut director = Director::new(&bench.eal, &bench.pool, &setup)?;
    let tables = resident() - before;
    let every = director.establish()?;
    let grown = resident() - before;
    let schedule = Rc::new(every.arranged(permutation(every.len()).into_iter()));
    drop(every);
    let mut other = Director::new(&bench.eal, &bench.pool, &setup.held_against())?;
    let (before, mut figures) = (director.packets().0, <[Vec<f64>; 4]>::default());
    director.window.borrow_mut().follow(&schedule);
    for _ in 0..ROUNDS {
        figures[0].push(forwarding_round(&mut director, Which::Gyre, FLOWS)?);
        held_against(&mut other, &schedule, FLOWS / 4, &mut figures)?;
    }
    let (packets, flows) = director.packets();
    ensure!(flows == FLOWS, "{flows} flows of {FLOWS}");
    let sent = (ROUNDS * FLOWS) as u64;
    ensure!(packets - before == sent, "flows saw {} of {sent} packets", packets - before);
    let mut line = Line::new(NAME, &traffic, spreads(figures), bench.ticks_per_ns);
    if small_pages() > 0 {
        line.say("bytes_on_small_pages", small_pages());
    }
    line.say("table_bytes", tables);
    line.say("bytes_a_flow", tables as f64 / FLOWS as f64);
    line.say("bytes_an_entry", tables as f64 / flows_max as f64);
    line.say("process_bytes_with_schedule", grown);
    Ok(line.into())
}
