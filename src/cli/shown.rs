//! The commands that show something of a running gyre: each by itself, or again and again by
//! `gyre watch`.

use clap::Subcommand;

use super::{
    Out, checks, connections, drops, neighbours, ports, servers, services, stats, status, workers,
};

/// What can be shown.
#[derive(Clone, Debug, Subcommand)]
pub enum Shown {
    Status(status::Args),
    Services(services::Args),
    Servers(servers::Args),
    Checks(checks::Args),
    Connections(connections::Args),
    Workers(workers::Args),
    Ports(ports::Args),
    #[command(visible_alias = "neighbors")]
    Neighbours(neighbours::Args),
    Stats(stats::Args),
    Drops(drops::Args),
}

impl Shown {
    /// Prints it.
    pub fn run(self, out: &mut Out<'_>) -> anyhow::Result<()> {
        match self {
            Shown::Status(args) => status::run(args, out),
            Shown::Services(args) => services::run(args, out),
            Shown::Servers(args) => servers::run(args, out),
            Shown::Checks(args) => checks::run(args, out),
            Shown::Connections(args) => connections::run(args, out),
            Shown::Workers(args) => workers::run(args, out),
            Shown::Ports(args) => ports::run(args, out),
            Shown::Neighbours(args) => neighbours::run(args, out),
            Shown::Stats(args) => stats::run(args, out),
            Shown::Drops(args) => drops::run(args, out),
        }
    }
}
