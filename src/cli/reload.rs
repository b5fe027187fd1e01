//! `gyre reload`, `gyre save`: between a running gyre and the file that it was started with.

use std::io::Write;
use std::path::PathBuf;

use super::apply::{ConfirmArgs, print};
use super::args::SocketArgs;
use super::{BadUsage, Out};
use crate::control::api::{
    ApplyResult, ConfigFormat, ConfigResult, ConfigText, GetParams, ReloadParams, SaveParams,
    SaveResult,
};

/// Have a running gyre read its configuration file again
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only tell what would change
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Give up changes that were made over the socket and not saved
    #[arg(long)]
    discard: bool,
    #[command(flatten)]
    confirm: ConfirmArgs,
    #[command(flatten)]
    socket: SocketArgs,
}

/// Reloads and prints what changed.
pub fn run(args: Args, out: &mut Out<'_>) -> anyhow::Result<()> {
    let confirm_s = args.confirm.confirm_s;
    let params = ReloadParams { dry_run: args.dry_run, discard: args.discard, confirm_s };
    let (result, _): (ApplyResult, _) = args.socket.connect()?.call("config.reload", &params)?;
    print(&result, out)
}

/// Write what a running gyre has into its configuration file
#[derive(Debug, clap::Args)]
pub struct SaveArgs {
    /// Only tell what would be written
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Write even though somebody changed the file since gyre read it
    #[arg(long)]
    overwrite: bool,
    /// Write another file instead, anew; `-` is standard output
    #[arg(long, value_name = "FILE", conflicts_with_all = ["dry_run", "overwrite"])]
    to: Option<PathBuf>,
    #[command(flatten)]
    socket: SocketArgs,
}

/// Saves and prints what the file did not have.
pub fn save(args: SaveArgs, out: &mut Out<'_>) -> anyhow::Result<()> {
    let mut client = args.socket.connect()?;
    if let Some(path) = args.to {
        let params = GetParams { format: ConfigFormat::Toml, revision: None };
        let (result, _): (ConfigResult, _) = client.call("config.get", &params)?;
        let ConfigText::Toml(text) = result.config else {
            anyhow::bail!("gyre answered in another format than was asked for");
        };
        if path.as_os_str() == "-" {
            return Ok(out.write_all(text.as_bytes())?);
        }
        std::fs::write(&path, text)
            .map_err(|error| BadUsage(format!("{}: {error}", path.display())))?;
        return Ok(writeln!(out, "saved to {}", path.display())?);
    }
    let params = SaveParams { overwrite: args.overwrite, dry_run: args.dry_run };
    let (result, _): (SaveResult, _) = client.call("config.save", &params)?;
    for change in &result.changes {
        writeln!(out, "{change}")?;
    }
    match (result.changes.is_empty(), args.dry_run) {
        (true, _) => writeln!(out, "{} has everything already", result.path)?,
        (false, true) => {}
        (false, false) => writeln!(out, "saved to {}", result.path)?,
    }
    Ok(())
}
