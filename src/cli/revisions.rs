//! `gyre revisions`, `gyre rollback`, `gyre confirm`: what ran, and the way back to it.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use super::Out;
use super::apply::{ConfirmArgs, print};
use super::args::{ShowArgs, SocketArgs};
use super::ctl::print_json;
use super::table::Table;
use crate::control::api::{
    ApplyResult, ConfirmResult, NoParams, RevisionRow, RevisionsResult, RollbackParams,
};

/// Show the configurations that ran, and what is not saved
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    show: ShowArgs,
}

/// The first change, and how many more there are.
fn summary(row: &RevisionRow) -> String {
    match &row.changes[..] {
        [] => String::new(),
        [one] => one.clone(),
        [first, rest @ ..] => format!("{first}, and {} more", rest.len()),
    }
}

/// How long ago, in the largest unit.
fn age(row: &RevisionRow, now_s: u64) -> String {
    match now_s.saturating_sub(row.time_s) {
        s @ 0..120 => format!("{s} s"),
        s @ 120..7_200 => format!("{} min", s / 60),
        s @ 7_200..172_800 => format!("{} h", s / 3_600),
        s => format!("{} d", s / 86_400),
    }
}

/// Prints the table.
pub fn run(args: Args, out: &mut Out<'_>) -> anyhow::Result<()> {
    let mut client = args.show.socket.connect()?;
    let (result, raw): (RevisionsResult, _) = client.call("config.revisions", &NoParams {})?;
    if args.show.json {
        return print_json(raw.get(), out);
    }
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let mut table = Table::new(&["#REVISION", "STATE", "#AGE", "#SERVICES", "BY", "CHANGES"]);
    for row in &result.revisions {
        let state = match (row.running, result.confirm_within_s) {
            (true, Some(seconds)) => format!("to be confirmed within {seconds} s"),
            (true, None) => "running".into(),
            _ => String::new(),
        };
        let (number, services) = (row.revision.to_string(), row.services.to_string());
        table.row([number, state, age(row, now_s), services, row.by.clone(), summary(row)]);
    }
    table.write(out)?;
    if !result.unsaved.is_empty() {
        writeln!(out, "\nnot saved, so that a reload would undo it:")?;
    }
    for line in &result.unsaved {
        writeln!(out, "  {line}")?;
    }
    Ok(())
}

/// Go back to an earlier configuration
#[derive(Debug, clap::Args)]
pub struct RollbackArgs {
    /// Revision, as `gyre revisions` lists them; the one before the present one unless given
    revision: Option<u64>,
    /// Only tell what would change
    #[arg(short = 'n', long)]
    dry_run: bool,
    #[command(flatten)]
    confirm: ConfirmArgs,
    #[command(flatten)]
    socket: SocketArgs,
}

/// Goes back and prints what changed.
pub fn roll_back(args: RollbackArgs, out: &mut Out<'_>) -> anyhow::Result<()> {
    let confirm_s = args.confirm.confirm_s;
    let params = RollbackParams { revision: args.revision, dry_run: args.dry_run, confirm_s };
    let (result, _): (ApplyResult, _) = args.socket.connect()?.call("config.rollback", &params)?;
    print(&result, out)
}

/// Keep a configuration that was applied with --confirm
#[derive(Debug, clap::Args)]
pub struct ConfirmCommandArgs {
    #[command(flatten)]
    socket: SocketArgs,
}

/// Confirms.
pub fn confirm(args: ConfirmCommandArgs, out: &mut Out<'_>) -> anyhow::Result<()> {
    let mut client = args.socket.connect()?;
    let (result, _): (ConfirmResult, _) = client.call("config.confirm", &NoParams {})?;
    Ok(writeln!(out, "revision {} stays", result.revision)?)
}
