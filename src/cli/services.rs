//! `gyre services`.

use super::Out;
use super::args::ShowArgs;
use super::ctl::print_json;
use super::table::Table;
use crate::control::api::{ListServicesParams, ServiceRow, ServicesResult};

/// Show virtual services and their servers, a line each server
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Only this service: `tcp 192.0.2.80:80`, `192.0.2.80:80` or its name
    service: Option<String>,
    #[command(flatten)]
    show: ShowArgs,
}

fn rows(service: &ServiceRow, table: &mut Table) {
    let head = || {
        [
            service.protocol.clone(),
            service.address.clone(),
            service.name.clone().unwrap_or_default(),
            service.scheduler.clone(),
        ]
    };
    if service.servers.is_empty() {
        table.row(head());
    }
    for server in &service.servers {
        let numbers = [server.active, server.inactive, server.connections, server.refused];
        let state = match server.state.as_str() {
            "active" if !server.reachable => "unreachable",
            state => state,
        };
        let tail = [
            server.address.clone(),
            server.forwarding.clone(),
            state.to_owned(),
            server.weight.to_string(),
        ];
        table.row(head().into_iter().chain(tail).chain(numbers.map(|n| n.to_string())));
    }
}

/// Prints the table.
pub fn run(args: Args, out: &mut Out<'_>) -> anyhow::Result<()> {
    let params = ListServicesParams { service: args.service };
    let mut client = args.show.socket.connect()?;
    let (result, raw): (ServicesResult, _) = client.call("service.list", &params)?;
    if args.show.json {
        return print_json(raw.get(), out);
    }
    let mut table = Table::new(&[
        "PROTO",
        "SERVICE",
        "NAME",
        "SCHEDULER",
        "SERVER",
        "MODE",
        "STATE",
        "#WEIGHT",
        "#ACTIVE",
        "#INACTIVE",
        "#CONNECTIONS",
        "#REFUSED",
    ]);
    result.services.iter().for_each(|service| rows(service, &mut table));
    Ok(table.write(out)?)
}
