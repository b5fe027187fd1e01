//! `gyre apply` and `gyre diff`: a file for a running gyre, or what it would change.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::args::SocketArgs;
use super::client::ClientError;
use super::error::BadConfigLines;
use super::{Out, file};
use crate::control::api::{ApiError, ApplyParams, ApplyResult, ConfigText, ErrorCode};

/// Make a running gyre's configuration what a file says, without a restart
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Configuration file (TOML)
    #[arg(value_name = "FILE")]
    config: PathBuf,
    /// Only tell what would change, as `gyre diff` does
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[command(flatten)]
    confirm: ConfirmArgs,
    #[command(flatten)]
    socket: SocketArgs,
}

/// Show what `gyre apply FILE` would change
#[derive(Debug, clap::Args)]
pub struct DiffArgs {
    /// Configuration file (TOML)
    #[arg(value_name = "FILE")]
    config: PathBuf,
    /// Print the answer as JSON
    #[arg(short, long)]
    json: bool,
    #[command(flatten)]
    socket: SocketArgs,
}

/// Whether a change is to be confirmed.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct ConfirmArgs {
    /// Go back by itself unless `gyre confirm` follows within so many seconds
    #[arg(long = "confirm", value_name = "SECONDS")]
    pub confirm_s: Option<u64>,
}

/// Sends the file and prints what changed.
pub fn run(args: Args, out: &mut Out<'_>) -> anyhow::Result<()> {
    let params = params(&args.config, args.confirm.confirm_s)?;
    let params = ApplyParams { dry_run: args.dry_run, ..params };
    let called = args.socket.connect()?.call("config.apply", &params);
    let (result, _): (ApplyResult, _) = called.map_err(|error| in_file(&args.config, error))?;
    print(&result, out)
}

/// Prints what the file would change.
pub fn diff(args: DiffArgs, out: &mut Out<'_>) -> anyhow::Result<()> {
    let params = ApplyParams { dry_run: true, ..params(&args.config, None)? };
    let called = args.socket.connect()?.call("config.apply", &params);
    let (result, raw): (ApplyResult, _) = called.map_err(|error| in_file(&args.config, error))?;
    if args.json {
        return super::ctl::print_json(raw.get(), out);
    }
    print(&result, out)
}

fn params(path: &Path, confirm_s: Option<u64>) -> anyhow::Result<ApplyParams> {
    let config = ConfigText::Toml(file::read(path)?);
    // As gyre knows its own file, so that it can tell whether this is it.
    let file = std::path::absolute(path).ok().map(|path| path.display().to_string());
    Ok(ApplyParams { config, dry_run: false, confirm_s, file })
}

/// Problems of a file name it, as those of `gyre check` do.
fn in_file(path: &Path, error: ClientError) -> anyhow::Error {
    match error {
        ClientError::Refused(ApiError { code, data: Some(data), .. })
            if code == ErrorCode::InvalidConfig.number() && !data.problems.is_empty() =>
        {
            let line = |problem: &String| format!("{}:{problem}", path.display());
            BadConfigLines(data.problems.iter().map(line).collect()).into()
        }
        error => error.into(),
    }
}

/// Prints what a change of the whole came to: changes on standard output, remarks beside it.
pub fn print(result: &ApplyResult, out: &mut Out<'_>) -> anyhow::Result<()> {
    for change in &result.changes {
        writeln!(out, "{change}")?;
    }
    if result.changes.is_empty() {
        writeln!(out, "nothing to change")?;
    }
    out.flush()?;
    for lost in &result.lost {
        eprintln!("undone, and not saved: {lost}");
    }
    if !result.needs_restart.is_empty() {
        let paths = result.needs_restart.join(", ");
        eprintln!("only a restart can change {paths}: this would be refused");
    }
    if let Some(seconds) = result.confirm_within_s {
        eprintln!("to keep this, run `gyre confirm` within {seconds} s");
    }
    Ok(())
}
