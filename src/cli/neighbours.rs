//! `gyre neighbours`.

use super::Out;
use super::args::ShowArgs;
use super::ctl::print_json;
use super::table::Table;
use crate::control::api::{NeighboursResult, NoParams};

/// Show next hops and whether their MAC addresses are known
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    show: ShowArgs,
}

/// Prints the table.
pub fn run(args: Args, out: &mut Out<'_>) -> anyhow::Result<()> {
    let mut client = args.show.socket.connect()?;
    let (result, raw): (NeighboursResult, _) = client.call("neighbours.list", &NoParams {})?;
    if args.show.json {
        return print_json(raw.get(), out);
    }
    let mut table = Table::new(&["NEIGHBOUR", "TARGET", "PORT", "MAC", "STATE", "#MTU"]);
    for row in result.neighbours {
        let state = if row.resolved { "resolved" } else { "unresolved" };
        table.row([
            row.address,
            row.target.unwrap_or_default(),
            row.port.unwrap_or_default(),
            row.mac.unwrap_or_default(),
            state.into(),
            row.mtu.to_string(),
        ]);
    }
    Ok(table.write(out)?)
}
