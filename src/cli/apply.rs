//! `gyre apply`: gives a running gyre a new configuration.

use std::io::Write;
use std::path::PathBuf;

use super::args::SocketArgs;
use super::{Out, file};
use crate::control::api::{ApplyParams, Changed, ConfigText};

/// Make a running gyre's configuration what a file says, without a restart
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Configuration file (TOML)
    #[arg(value_name = "FILE")]
    config: PathBuf,
    /// Only tell what would change
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[command(flatten)]
    socket: SocketArgs,
}

/// Sends the file and prints what changed.
pub fn run(args: Args, out: &mut Out<'_>) -> anyhow::Result<()> {
    let text = file::read(&args.config)?;
    let params = ApplyParams { config: ConfigText::Toml(text), dry_run: args.dry_run };
    let (changed, _): (Changed, _) = args.socket.connect()?.call("config.apply", &params)?;
    for change in &changed.changes {
        writeln!(out, "{change}")?;
    }
    if changed.changes.is_empty() {
        writeln!(out, "nothing to change")?;
    }
    Ok(())
}
