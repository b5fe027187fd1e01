//! `gyre ports`.

use std::io::Write;

use super::Out;
use super::args::ShowArgs;
use super::ctl::print_json;
use super::table::Table;
use crate::control::api::{NoParams, PortRow, PortsResult};

/// Show ports: links, frames and what the devices lost
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    show: ShowArgs,
}

fn facts(row: &PortRow) -> [String; 10] {
    let link = match (row.link_up, row.link_mbps) {
        (false, _) => "down".into(),
        (true, None) => "up".into(),
        (true, Some(mbps)) => format!("up {mbps}M"),
    };
    [
        row.name.clone(),
        row.device.clone(),
        row.driver.clone(),
        row.kernel.clone(),
        row.interface.clone().unwrap_or_default(),
        row.mac.clone(),
        link,
        row.mtu.to_string(),
        row.vlan.map(|vlan| vlan.to_string()).unwrap_or_default(),
        format!("{}/{}", row.rx_queues, row.tx_queues),
    ]
}

/// Prints two tables: what the ports are, and their counts.
pub fn run(args: Args, out: &mut Out<'_>) -> anyhow::Result<()> {
    let mut client = args.show.socket.connect()?;
    let (result, raw): (PortsResult, _) = client.call("ports.list", &NoParams {})?;
    if args.show.json {
        return print_json(raw.get(), out);
    }
    let mut table = Table::new(&[
        "PORT",
        "DEVICE",
        "DRIVER",
        "KERNEL",
        "INTERFACE",
        "MAC",
        "LINK",
        "#MTU",
        "#VLAN",
        "#QUEUES",
    ]);
    result.ports.iter().for_each(|row| table.row(facts(row)));
    table.write(out)?;
    writeln!(out)?;
    let mut table = Table::new(&[
        "PORT",
        "#RX",
        "#TX",
        "#TO-KERNEL",
        "#FROM-KERNEL",
        "#RX-MISSED",
        "#RX-NOBUF",
        "#RX-ERRORS",
        "#TX-ERRORS",
        "#TX-FULL",
        "#KERNEL-LOST",
        "#BUFFERS",
    ]);
    for row in &result.ports {
        let numbers = [
            row.rx_frames,
            row.tx_frames,
            row.to_kernel,
            row.from_kernel,
            row.rx_missed,
            row.rx_nombuf,
            row.rx_errors,
            row.tx_errors,
            row.tx_full,
            row.kernel_refused + row.kernel_ring_full,
        ];
        let pools = row.mempools.iter().map(|pool| format!("{}/{}", pool.in_use, pool.size));
        let buffers = pools.collect::<Vec<_>>().join(" ");
        let cells = [row.name.clone()].into_iter().chain(numbers.map(|n| n.to_string()));
        table.row(cells.chain([buffers]));
    }
    Ok(table.write(out)?)
}
