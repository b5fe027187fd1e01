//! `gyre status`.

use std::io::Write;

use super::Out;
use super::args::ShowArgs;
use super::ctl::print_json;
use super::paint::{self, Ink};
use crate::control::api::{NoParams, Status};

/// Show whether gyre runs and whether anything is wrong
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    show: ShowArgs,
}

fn uptime(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// `none`, or a list.
fn or_none(items: &[impl ToString]) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    if items.is_empty() { "none".into() } else { items.join(", ") }
}

/// What a shared port drops all the time says nothing about what is wrong.
fn drops(status: &Status) -> String {
    let expected = status.drops_expected;
    let lost = status.drops.saturating_sub(expected);
    let beside = format!(", and {expected} that were not gyre's to forward");
    format!("{lost} frames{}", if expected > 0 { beside.as_str() } else { "" })
}

/// Prints a line a fact.
pub fn run(args: Args, out: &mut Out<'_>) -> anyhow::Result<()> {
    let (status, raw): (Status, _) = args.show.socket.connect()?.call("status", &NoParams {})?;
    if args.show.json {
        return print_json(raw.get(), out);
    }
    let lines = [
        ("gyre", format!("{}, pid {}, up {}", status.version, status.pid, uptime(status.uptime_s))),
        ("configuration", format!("{}, revision {}", status.config_path, status.config_revision)),
        ("workers", format!("{}, stalled: {}", status.workers, or_none(&status.workers_stalled))),
        ("ports", format!("{}, down: {}", status.ports, or_none(&status.ports_down))),
        ("services", {
            let (services, servers, down) = (status.services, status.servers, status.servers_down);
            format!("{services} with {servers} servers, down: {down}")
        }),
        ("flows", format!("{} live, {} created", status.flows, status.flows_created)),
        ("drops", drops(&status)),
        ("neighbours", format!("{} unresolved", status.neighbours_unresolved)),
    ];
    let wrong = [
        ("services", status.servers_down > 0),
        ("workers", !status.workers_stalled.is_empty()),
        ("ports", !status.ports_down.is_empty()),
        ("neighbours", status.neighbours_unresolved > 0),
    ];
    for (name, value) in lines {
        let is_wrong = wrong.contains(&(name, true)) && paint::is_on();
        let value = if is_wrong { Ink::Red.over(&value) } else { value };
        writeln!(out, "{:<15}{value}", format!("{name}:"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uptime_shows_the_two_largest_units() {
        assert_eq!(uptime(59), "59 s");
        assert_eq!(uptime(61), "1 min 1 s");
        assert_eq!(uptime(3_661), "1 h 1 min");
        assert_eq!(uptime(90_000), "1 d 1 h");
    }
}
