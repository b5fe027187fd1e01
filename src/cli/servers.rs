//! `gyre servers`.

use super::Out;
use super::args::ShowArgs;
use super::ctl::print_json;
use super::table::Table;
use crate::control::api::{ListServersParams, ServerRow, ServersResult};

/// Show real servers with what goes on at each
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Only of this service: `tcp 192.0.2.80:80`, `192.0.2.80:80` or its name
    service: Option<String>,
    #[command(flatten)]
    show: ShowArgs,
}

/// `up`, or what is wrong and for how long.
fn health(row: &ServerRow) -> String {
    let since = row.health_since_s.map(|s| format!(" for {s} s")).unwrap_or_default();
    match (row.health.as_str(), &row.health_reason) {
        ("down", Some(reason)) => format!("down{since}: {reason}"),
        (_, Some(reason)) => format!("{}: {reason}", row.health),
        ("unchecked", None) => String::new(),
        (word, None) => format!("{word}{since}"),
    }
}

/// Prints the table.
pub fn run(args: Args, out: &mut Out<'_>) -> anyhow::Result<()> {
    let params = ListServersParams { service: args.service };
    let mut client = args.show.socket.connect()?;
    let (result, raw): (ServersResult, _) = client.call("server.list", &params)?;
    if args.show.json {
        return print_json(raw.get(), out);
    }
    let mut table = Table::new(&[
        "SERVICE",
        "SERVER",
        "MODE",
        "STATE",
        "HEALTH",
        "#WEIGHT",
        "#ACTIVE",
        "#INACTIVE",
        "#CONN/S",
        "#IN-PKT/S",
        "#OUT-PKT/S",
        "#IN-B/S",
        "#OUT-B/S",
        "#CONNECTIONS",
        "#REFUSED",
    ]);
    for row in result.servers {
        let health = health(&row);
        let state = match row.state.as_str() {
            "active" if !row.reachable => "unreachable".to_owned(),
            _ => row.state,
        };
        let numbers = [
            u64::from(row.weight),
            row.active,
            row.inactive,
            row.rates.connections,
            row.rates.in_packets,
            row.rates.out_packets,
            row.rates.in_bytes,
            row.rates.out_bytes,
            row.connections,
            row.refused,
        ];
        let words = [row.service, row.address, row.forwarding, state, health];
        table.row(words.into_iter().chain(numbers.map(|n| n.to_string())));
    }
    Ok(table.write(out)?)
}
