//! `gyre workers`.

use super::Out;
use super::args::ShowArgs;
use super::ctl::print_json;
use super::table::Table;
use crate::control::api::{NoParams, WorkersResult};

/// Show workers and what they did
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    show: ShowArgs,
}

/// Prints the table.
pub fn run(args: Args, out: &mut Out<'_>) -> anyhow::Result<()> {
    let mut client = args.show.socket.connect()?;
    let (result, raw): (WorkersResult, _) = client.call("workers.list", &NoParams {})?;
    if args.show.json {
        return print_json(raw.get(), out);
    }
    let mut table = Table::new(&[
        "#WORKER",
        "STATE",
        "#TURNS",
        "#BUSY",
        "#REVISION",
        "#FLOWS",
        "#CREATED",
        "#PENDING",
        "#RX",
        "#FAST",
        "#TX",
        "#HAND-OFFS",
        "#DROPS",
    ]);
    for row in result.workers {
        let state = if row.stalled { "stalled" } else { "running" };
        let busy = match row.turns.saturating_sub(row.idle_turns).checked_mul(100) {
            Some(busy) if row.turns > 0 => format!("{}%", busy / row.turns),
            _ => String::new(),
        };
        let numbers = [
            row.revision,
            row.flows,
            row.flows_created,
            row.pending,
            row.rx_frames,
            row.fast_frames,
            row.tx_frames,
            row.hand_offs,
            row.drops,
        ];
        let head = [row.id.to_string(), state.into(), row.turns.to_string(), busy];
        table.row(head.into_iter().chain(numbers.map(|n| n.to_string())));
    }
    Ok(table.write(out)?)
}
