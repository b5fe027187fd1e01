//! `gyre completions`: completion scripts for shells.

use std::io::Write;

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, Out};

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which shell
    shell: Shell,
}

/// Prints the script.
pub fn run(args: Args, out: &mut Out<'_>) -> anyhow::Result<()> {
    // Through memory, since the generator panics where a pipe closes.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "gyre", &mut script);
    out.write_all(&script)?;
    Ok(())
}
