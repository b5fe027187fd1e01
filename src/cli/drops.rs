//! `gyre drops`: where frames ended, by reason.

use super::Out;
use super::args::ShowArgs;
use super::ctl::print_json;
use super::table::Table;
use crate::control::api::{CauseCount, NoParams, PortRow, Stats};

/// Show dropped frames by reason, the most first
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Also reasons that have not occurred
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    show: ShowArgs,
}

/// What a device or its kernel interface lost before or after the workers.
pub(super) fn device_drops(port: &PortRow) -> [(String, u64, String); 6] {
    [
        ("rx_missed", port.rx_missed, "no worker fetched them in time"),
        ("rx_nombuf", port.rx_nombuf, "no buffer was free"),
        ("rx_errors", port.rx_errors, "received with errors"),
        ("tx_errors", port.tx_errors, "the device failed to send them"),
        ("kernel_refused", port.kernel_refused, "the kernel interface was down or its queue full"),
        ("kernel_ring_full", port.kernel_ring_full, "from the kernel; its worker was too slow"),
    ]
    .map(|(name, count, meaning)| (format!("{}:{name}", port.name), count, meaning.to_owned()))
}

/// Prints the table.
pub fn run(args: Args, out: &mut Out<'_>) -> anyhow::Result<()> {
    let mut client = args.show.socket.connect()?;
    let (stats, raw): (Stats, _) = client.call("stats", &NoParams {})?;
    if args.show.json {
        return print_json(raw.get(), out);
    }
    let by_reason =
        stats.drops.into_iter().map(|CauseCount { name, count, meaning }| (name, count, meaning));
    let mut rows: Vec<_> = by_reason.chain(stats.ports.iter().flat_map(device_drops)).collect();
    rows.retain(|(_, count, _)| args.all || *count > 0);
    rows.sort_by_key(|(_, count, _)| std::cmp::Reverse(*count));
    let mut table = Table::new(&["#FRAMES", "REASON", "MEANING"]);
    for (name, count, meaning) in rows {
        table.row([count.to_string(), name, meaning]);
    }
    Ok(table.write(out)?)
}
