//! How soon a process forwards: its first packet, and its first second of a million connections.

use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use gyre::dpdk::{Eal, MbufPool};
use gyre::model::ForwardMode;
use gyre::wire::tcp::TcpFlags;
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::director::{Director, Setup};
use crate::report::Other;
use crate::traffic::{Sizes, Traffic};

/// The name by which it is chosen.
pub const NAME: &str = "start";
/// Flows that the process has room for.
const FLOWS: usize = 4 << 20;
/// Frames of a step.
const STEP: usize = 1 << 16;

/// What a started process says.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Started {
    /// Milliseconds from the start of the process until its first packet was forwarded.
    first_packet_ms: f64,
    /// New connections in its first second of them.
    connections_in_a_second: u64,
    /// When that second was over.
    second_over_ms: f64,
}

fn monotonic() -> anyhow::Result<Duration> {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(Duration::new(time.tv_sec() as u64, time.tv_nsec() as u32))
}

/// Starts this program anew and asks it.
pub fn measure() -> anyhow::Result<Other> {
    let own = std::env::current_exe()?;
    let since = monotonic()?.as_nanos().to_string();
    let output = Command::new(own).args(["--started-at-ns", &since]).output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the started process: {errors}");
    let text = String::from_utf8(output.stdout)?;
    let line = text.lines().last().context("the started process said nothing")?;
    let started: Started = serde_json::from_str(line)?;
    let mut other = Other::new(NAME);
    other.say("flows_of_room", FLOWS);
    other.say("first_packet_ms", started.first_packet_ms);
    other.say("connections_in_a_second", started.connections_in_a_second);
    other.say("second_over_ms", started.second_over_ms);
    Ok(other)
}

/// The started process, on its worker's thread: one packet, then new connections for a second.
pub fn probe(eal: &Eal, pool: &MbufPool, since_ns: u64) -> anyhow::Result<Started> {
    let traffic = Traffic::new(ForwardMode::DirectRoute, FLOWS);
    let setup = Setup { roofline_flows: 0, ..Setup::new(traffic) };
    let mut director = Director::new(eal, pool, &setup)?;
    let age_ms = || anyhow::Ok((monotonic()?.as_nanos() as f64 - since_ns as f64) / 1e6);
    let first = |flows| traffic.clients_frames(flows, TcpFlags::SYN, Sizes::Fixed(64));
    director.pass(&Rc::new(first(0..1)))?;
    let first_packet_ms = age_ms()?;
    let schedule = Rc::new(first(1..FLOWS));
    director.window.borrow_mut().follow(&schedule);
    let (start, mut left) = (Instant::now(), schedule.len());
    while start.elapsed() < Duration::from_secs(1) && left > 0 {
        let frames = STEP.min(left);
        director.run(frames);
        left -= frames;
    }
    let seconds = start.elapsed().as_secs_f64();
    let made = director.counters.flows_created.get() - 1;
    ensure!(made as usize == schedule.len() - left, "{made} flows made");
    ensure!(director.drops() == "nothing", "dropped: {}", director.drops());
    let connections_in_a_second = (made as f64 / seconds) as u64;
    Ok(Started { first_packet_ms, connections_in_a_second, second_over_ms: age_ms()? })
}
