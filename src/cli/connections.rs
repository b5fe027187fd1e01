//! `gyre connections`.

use std::net::IpAddr;

use super::Out;
use super::args::ShowArgs;
use super::ctl::print_json;
use super::table::Table;
use crate::control::api::{ListConnectionsParams, ListConnectionsResult};

/// Show live connections
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Only of this client address
    #[arg(long, value_name = "ADDRESS")]
    client: Option<IpAddr>,
    /// Only to this virtual address
    #[arg(long, value_name = "ADDRESS")]
    vip: Option<IpAddr>,
    /// Only to this virtual port
    #[arg(long, value_name = "PORT")]
    vport: Option<u16>,
    /// Only to this server address
    #[arg(long, value_name = "ADDRESS")]
    server: Option<IpAddr>,
    /// Only in this state, such as ESTABLISHED
    #[arg(long)]
    state: Option<String>,
    /// At most so many
    #[arg(long, value_name = "NUMBER")]
    limit: Option<u32>,
    /// The page behind the one that ended with this
    #[arg(long, value_name = "PAGE")]
    after: Option<String>,
    #[command(flatten)]
    show: ShowArgs,
}

/// Prints the table.
pub fn run(args: Args, out: &mut Out<'_>) -> anyhow::Result<()> {
    let params = ListConnectionsParams {
        client: args.client,
        vip: args.vip,
        vport: args.vport,
        server: args.server,
        state: args.state,
        limit: args.limit,
        after: args.after,
    };
    let mut client = args.show.socket.connect()?;
    let (result, raw): (ListConnectionsResult, _) = client.call("connections.list", &params)?;
    if args.show.json {
        return print_json(raw.get(), out);
    }
    let mut table = Table::new(&[
        "PROTO", "CLIENT", "VIRTUAL", "LOCAL", "SERVER", "MODE", "STATE", "#EXPIRES", "#PACKETS",
        "#WORKER",
    ]);
    for row in result.connections {
        table.row([
            row.protocol,
            row.client,
            row.r#virtual,
            row.local.unwrap_or_default(),
            row.server,
            row.forwarding,
            row.state,
            format!("{}s", row.expires_ms.div_ceil(1000)),
            row.packets.to_string(),
            row.worker.to_string(),
        ]);
    }
    table.write(out)?;
    if let Some(next) = result.next {
        eprintln!("there are more: narrow the filter, raise --limit or add --after {next}");
    }
    Ok(())
}
