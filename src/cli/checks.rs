//! `gyre checks`.

use super::Out;
use super::args::ShowArgs;
use super::ctl::print_json;
use super::table::Table;
use crate::control::api::{ChecksResult, ListChecksParams};

/// Show health checks and how they stand
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Only of this service: `tcp 192.0.2.80:80`, `192.0.2.80:80` or its name
    service: Option<String>,
    #[command(flatten)]
    show: ShowArgs,
}

/// `1.2 ms` of microseconds.
fn millis(micros: u64) -> String {
    format!("{}.{} ms", micros / 1000, micros / 100 % 10)
}

/// Prints the table.
pub fn run(args: Args, out: &mut Out<'_>) -> anyhow::Result<()> {
    let params = ListChecksParams { service: args.service };
    let mut client = args.show.socket.connect()?;
    let (result, raw): (ChecksResult, _) = client.call("check.list", &params)?;
    if args.show.json {
        return print_json(raw.get(), out);
    }
    let mut table = Table::new(&[
        "SERVICE", "SERVER", "CHECK", "TARGET", "STATE", "#SINCE", "#TOOK", "#AGO", "LAST",
    ]);
    for row in result.checks {
        table.row([
            row.service,
            row.server,
            row.check,
            row.target,
            row.state,
            format!("{} s", row.since_s),
            row.took_us.map(millis).unwrap_or_default(),
            row.last_ago_ms.map(|ago| format!("{} s", ago / 1000)).unwrap_or_default(),
            row.last.unwrap_or_else(|| "not yet".into()),
        ]);
    }
    Ok(table.write(out)?)
}
