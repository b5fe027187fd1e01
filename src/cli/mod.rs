//! The command line: one file per subcommand. Nothing here knows how packets flow; running gyre
//! is asked of `runtime`, a running one is asked over its socket.

mod apply;
mod args;
mod check;
mod checks;
mod client;
mod completions;
mod connections;
mod ctl;
mod doctor;
mod drops;
mod error;
mod file;
mod import;
pub mod ipvsadm;
mod man;
mod neighbours;
mod paint;
mod ports;
mod reload;
mod replay;
mod revisions;
mod run;
mod servers;
mod services;
mod shown;
mod stats;
mod status;
mod table;
mod top;
mod watch;
mod workers;

use std::ffi::OsString;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use error::{BadUsage, exit_code};

/// Where answers go: standard output, buffered.
type Out<'a> = BufWriter<io::StdoutLock<'a>>;

/// A layer-4 load balancer on DPDK.
#[derive(Debug, Parser)]
#[command(name = "gyre", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Check(check::Args),
    Replay(replay::Args),
    Import(import::Args),
    Ctl(ctl::Args),
    Apply(apply::Args),
    Diff(apply::DiffArgs),
    Reload(reload::Args),
    Confirm(revisions::ConfirmCommandArgs),
    Revisions(revisions::Args),
    Rollback(revisions::RollbackArgs),
    Save(reload::SaveArgs),
    #[command(flatten)]
    Show(shown::Shown),
    Watch(watch::Args),
    Top(top::Args),
    Doctor(doctor::Args),
    Ipvsadm(ipvsadm::Args),
    Completions(completions::Args),
    Man(man::Args),
}

impl Command {
    fn run(self, out: &mut Out<'_>) -> anyhow::Result<()> {
        match self {
            Command::Run(args) => run::run(args),
            Command::Import(args) => import::run(args, out),
            Command::Replay(args) => replay::run(args, out),
            Command::Ctl(args) => ctl::run(args, out),
            Command::Check(args) => check::run(args, out),
            Command::Apply(args) => apply::run(args, out),
            Command::Diff(args) => apply::diff(args, out),
            Command::Reload(args) => reload::run(args, out),
            Command::Confirm(args) => revisions::confirm(args, out),
            Command::Revisions(args) => revisions::run(args, out),
            Command::Rollback(args) => revisions::roll_back(args, out),
            Command::Save(args) => reload::save(args, out),
            Command::Show(shown) => shown.run(out),
            Command::Top(args) => top::run(args),
            Command::Watch(args) => watch::run(args, out),
            Command::Doctor(args) => doctor::run(args, out),
            Command::Man(args) => man::run(args, out),
            // `main` runs it: it has exit codes of its own.
            Command::Ipvsadm(_) => Ok(()),
            Command::Completions(args) => completions::run(args, out),
        }
    }
}

/// Runs the command line `args`, program name first: 0 done, 1 failed, 2 bad usage or
/// configuration. Errors are printed here, once.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    if let Some(words) = ipvsadm_words(&args) {
        return ipvsadm::main(words);
    }
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too; a closed pipe is no fault of theirs.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    if let Command::Ipvsadm(args) = cli.command {
        return args.run();
    }
    let mut out = BufWriter::new(io::stdout().lock());
    let done = cli.command.run(&mut out).and_then(|()| Ok(out.flush()?));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // `gyre connections | head` has what it wanted.
        Err(error) if error::is_closed_pipe(&error) => {
            // What is still buffered has nowhere to go.
            let _ = out.into_parts();
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = out.flush();
            error::print(&error);
            exit_code(&error)
        }
    }
}

/// The words that are ipvsadm's: all that follow the name, be it the program's own or the
/// subcommand's. They are read in its own way, in which even `--` and `-h` differ.
fn ipvsadm_words(args: &[OsString]) -> Option<Vec<OsString>> {
    let (program, rest) = args.split_first()?;
    if Path::new(program).file_name().is_some_and(|name| name == "ipvsadm") {
        return Some(rest.to_vec());
    }
    let (subcommand, rest) = rest.split_first()?;
    (subcommand == "ipvsadm").then(|| rest.to_vec())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_of_watch_may_follow_the_table() {
        for words in ["watch -n 0.5 --count 1 services", "watch services web -n 0.5 --count 1"] {
            let words = ["gyre"].into_iter().chain(words.split(' '));
            let Command::Watch(args) = Cli::try_parse_from(words).unwrap().command else {
                panic!("not watch");
            };
            assert_eq!((args.count, args.interval.as_millis()), (Some(1), 500));
        }
    }
}
