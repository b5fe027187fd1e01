//! `gyre stats`.

use std::io::Write;

use super::Out;
use super::args::ShowArgs;
use super::ctl::print_json;
use super::table::Table;
use crate::control::api::{CauseCount, NoParams, Stats};

/// Show everything that is counted, by cause
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Also what has not occurred
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    show: ShowArgs,
}

/// One kind of counts; what is 0 is left out.
fn causes(heading: &str, rows: Vec<CauseCount>, least: u64) -> Table {
    let mut table = Table::new(&["#COUNT", heading, "MEANING"]);
    for row in rows.into_iter().filter(|row| row.count >= least) {
        table.row([row.count.to_string(), row.name, row.meaning]);
    }
    table
}

fn workers(stats: &Stats) -> Table {
    let mut table =
        Table::new(&["#WORKER", "STATE", "#FLOWS", "#RX", "#FAST", "#TX", "#HAND-OFFS", "#DROPS"]);
    for detail in &stats.workers {
        let row = &detail.worker;
        let state = if row.stalled { "stalled" } else { "running" };
        let numbers =
            [row.flows, row.rx_frames, row.fast_frames, row.tx_frames, row.hand_offs, row.drops];
        let head = [row.id.to_string(), state.to_owned()];
        table.row(head.into_iter().chain(numbers.map(|n| n.to_string())));
    }
    table
}

fn local_addresses(stats: &Stats) -> Table {
    let mut table = Table::new(&[
        "POOL",
        "ADDRESS",
        "#FIRST",
        "#LAST",
        "#USED",
        "#FREE",
        "#REUSED",
        "#EXHAUSTED",
    ]);
    for row in &stats.local_addresses {
        let numbers = [
            u64::from(row.port_first),
            u64::from(row.port_last),
            row.used,
            row.free,
            row.reused,
            row.exhausted,
        ];
        let head = [row.pool.clone(), row.address.clone()];
        table.row(head.into_iter().chain(numbers.map(|n| n.to_string())));
    }
    table
}

/// Prints a table for each kind, those without rows left out.
pub fn run(args: Args, out: &mut Out<'_>) -> anyhow::Result<()> {
    let mut client = args.show.socket.connect()?;
    let (stats, raw): (Stats, _) = client.call("stats", &NoParams {})?;
    if args.show.json {
        return print_json(raw.get(), out);
    }
    let least = u64::from(!args.all);
    let last = [workers(&stats), local_addresses(&stats)];
    let tables = [
        causes("DROPS", stats.drops, least),
        causes("HAND-OFFS", stats.hand_offs, least),
        causes("REPLIES", stats.replies, least),
        causes("HELPERS", stats.helpers, least),
    ];
    let shown = tables.into_iter().chain(last).filter(|table| !table.is_empty());
    for (at, table) in shown.enumerate() {
        if at > 0 {
            writeln!(out)?;
        }
        table.write(out)?;
    }
    Ok(())
}
