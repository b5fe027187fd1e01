//! A configuration of ten thousand services with ten servers each, applied while a worker forwards:
//! how long it takes, what it costs the worker's turns, and whether a packet is lost.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use gyre::control::WorkerLink;
use gyre::message::ToWorker;
use gyre::model::{ForwardMode, Snapshot};
use gyre::runtime::crossing::Peers;
use serde_json::{Value, json};

use crate::bench::Bench;
use crate::cases::{FLOWS, permutation};
use crate::director::{Director, Plan, Setup};
use crate::report::Other;
use crate::stages::Which;
use crate::traffic::{SERVERS, Traffic};
use crate::turns::Turns;

/// The name by which it is chosen.
pub const NAME: &str = "apply-10k-services";
const SERVICES: usize = 10_000;
const SERVERS_EACH: usize = 10;
/// Machines that the servers are on.
const HOSTS: usize = 250;
/// How long turns are watched before, and after the last change.
const QUIET: Duration = Duration::from_millis(500);
/// How long the worker may take to go over.
const PATIENCE: Duration = Duration::from_secs(10);

/// The configuration file: the service that has the flows, and ten thousand others.
fn text(scheduler: &str) -> anyhow::Result<String> {
    let mut text = String::from(
        "[[port]]\nname = \"bench\"\ndevice = \"net_null0\"\nkernel = \"none\"\n\
         addresses = [\"198.19.3.1/24\"]\n",
    );
    write!(
        text,
        "[[service]]\naddress = \"198.19.0.1:80\"\nprotocol = \"udp\"\nscheduler = \"rr\"\n\
         forwarding = \"dr\"\n"
    )?;
    for server in 0..SERVERS {
        writeln!(text, "[[service.server]]\naddress = \"198.19.1.{server}:80\"")?;
    }
    for service in 0..SERVICES {
        let (high, low) = (64 + service / 256, service % 256);
        writeln!(text, "[[service]]\naddress = \"198.19.{high}.{low}:80\"\nprotocol = \"tcp\"")?;
        writeln!(text, "scheduler = \"{scheduler}\"\nforwarding = \"dr\"")?;
        for server in 0..SERVERS_EACH {
            let host = 1 + (service + server * 25) % HOSTS;
            writeln!(text, "[[service.server]]\naddress = \"198.19.4.{host}:80\"")?;
        }
    }
    Ok(text)
}

/// Control's side, on its own thread: registry and rings, used as control uses them.
struct Control {
    plan: Plan,
    link: WorkerLink,
}

/// What a change took, in milliseconds.
struct Took {
    parse_ms: f64,
    apply_ms: f64,
    adopt_ms: f64,
}

impl Control {
    /// From the text of a file to the worker's having gone over.
    fn apply(&mut self, text: &str) -> anyhow::Result<Took> {
        let millis = |since: Instant| since.elapsed().as_secs_f64() * 1e3;
        let start = Instant::now();
        let checked = gyre::config::check(text)
            .map_err(|problems| anyhow::anyhow!("{:?}", problems.first()))?;
        let parse_ms = millis(start);
        let start = Instant::now();
        let Plan { registry, slots, .. } = &mut self.plan;
        let applied = registry.apply(&checked.desired, &mut |rip| slots.of(rip));
        let applied = applied.map_err(|problems| anyhow::anyhow!("{:?}", problems.first()))?;
        let apply_ms = millis(start);
        ensure!(applied.snapshot.services.iter().flatten().count() == SERVICES + 1, "services");
        let start = Instant::now();
        self.publish(&applied.snapshot)?;
        Ok(Took { parse_ms, apply_ms, adopt_ms: millis(start) })
    }

    /// Next hops first, then the snapshot; what comes back is freed here.
    fn publish(&mut self, snapshot: &Arc<Snapshot>) -> anyhow::Result<()> {
        let start = Instant::now();
        for (id, hop) in self.plan.slots.hops() {
            let mut command = ToWorker::SetNextHop(id, hop);
            while let Err(back) = self.link.commands.push(command) {
                ensure!(start.elapsed() < PATIENCE, "the worker takes no command");
                command = back;
            }
        }
        let revision = snapshot.revision;
        let published = self.link.snapshots.publish(revision, Arc::clone(snapshot));
        ensure!(published.is_ok(), "the snapshot ring is full");
        while self.link.snapshots.adopted() < revision {
            ensure!(start.elapsed() < PATIENCE, "the worker does not go over");
            std::thread::sleep(Duration::from_micros(50));
        }
        self.link.snapshots.collect();
        Ok(())
    }
}

/// Turns that a worker takes until it is told to stop.
fn forward_until(
    director: &mut Director,
    turns: &mut Turns,
    is_over: impl Fn() -> bool,
) -> anyhow::Result<u64> {
    director.which.set(Which::Gyre);
    let before = director.window.borrow().forwarded;
    director.window.borrow_mut().remaining = usize::MAX;
    while !is_over() {
        turns.turn(director)?;
    }
    let sent = (usize::MAX - director.window.borrow().remaining) as u64;
    director.window.borrow_mut().remaining = 0;
    director.turn();
    let forwarded = director.window.borrow().forwarded - before;
    ensure!(forwarded == sent, "{} of {sent} packets lost", sent - forwarded);
    Ok(sent)
}

/// Measures it: wrr, then another scheduler for all services.
pub fn measure(bench: &Bench) -> anyhow::Result<Other> {
    let traffic = Traffic::new(ForwardMode::DirectRoute, FLOWS);
    let plan = Plan::new(&Setup::new(traffic), 1)?;
    let (seat, mut link) = plan.seat(0, Peers::mesh(1).remove(0));
    let mut director = Director::seated(&bench.eal, &bench.pool, seat, &mut link)?;
    let every = director.establish()?;
    let schedule = std::rc::Rc::new(every.arranged(permutation(every.len()).into_iter()));
    director.window.borrow_mut().follow(&schedule);
    let mut before = Turns::new(bench.ticks_per_ns)?;
    let quiet_since = Instant::now();
    forward_until(&mut director, &mut before, || quiet_since.elapsed() > QUIET)?;
    let mut other = Other::new(NAME);
    other.say("turn_us_before", before.told());
    let mut control = Control { plan, link };
    for scheduler in ["wrr", "wlc"] {
        let file = text(scheduler)?;
        let mut turns = Turns::new(bench.ticks_per_ns)?;
        let is_done = AtomicBool::new(false);
        let (sent, took) = std::thread::scope(|scope| {
            let (control, is_done, file, core) = (&mut control, &is_done, &file, bench.cores[1]);
            let change = scope.spawn(move || {
                core_affinity::set_for_current(core_affinity::CoreId { id: core });
                let took = control.apply(file);
                std::thread::sleep(QUIET / 5);
                is_done.store(true, Ordering::Release);
                took
            });
            let is_over = || is_done.load(Ordering::Acquire);
            let sent = forward_until(&mut director, &mut turns, is_over);
            let took = change.join().map_err(|_| anyhow::anyhow!("the control thread panicked"));
            (sent, took)
        });
        let (sent, took) = (sent?, took??);
        other.say(scheduler, told(&took, &turns, sent));
    }
    let flows = director.packets().1;
    ensure!(flows == FLOWS, "{flows} flows are left");
    Ok(other)
}

fn told(took: &Took, turns: &Turns, sent: u64) -> Value {
    let round = |millis: f64| (millis * 10.0).round() / 10.0;
    json!({
        "parse_and_check_ms": round(took.parse_ms),
        "apply_ms": round(took.apply_ms),
        "adopt_ms": round(took.adopt_ms),
        "packets": sent,
        "packets_lost": 0,
        "worst_turn_us": round(turns.worst_us()),
        "turn_us": turns.told(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_one() {
        let checked = gyre::config::check(&text("wrr").unwrap()).unwrap();
        assert_eq!(checked.desired.services.len(), SERVICES + 1);
        assert!(checked.desired.services[1..].iter().all(|service| service.servers.len() == 10));
    }
}
