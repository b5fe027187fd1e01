//! `gyre ipvsadm`, and gyre called by the name `ipvsadm`: the command line of ipvsadm 1.31, with
//! its output, its messages and its exit codes.
//!
//! `words` reads as popt does, `line` judges as ipvsadm does, `request` says it in the words of the
//! configuration, `act` asks the control socket, `list` prints. What gyre has beyond LVS goes by
//! long options (`--fullnat`, `--synproxy`, `--local-address`) that cannot be mistaken for others.

mod act;
mod endpoint;
mod fail;
mod line;
mod list;
mod options;
mod order;
mod request;
mod restore;
mod usage;
mod words;

use std::ffi::OsString;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use super::args::SOCKET_DEFAULT;
use act::Director;
pub use fail::Fail;
pub use line::{Line, Method, Protocol, ServiceName};
pub use options::Command;
pub use request::Fields;

/// Do what ipvsadm does: its options, output and exit codes
///
/// All options of ipvsadm 1.31 (`gyre ipvsadm --help`), and: `--fullnat` beside -g, -i and -m;
/// `--synproxy [on|off]` and `--local-address POOL` for services. The control socket is the one
/// that GYRE_SOCKET names.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub struct Args {
    /// ipvsadm's arguments
    #[arg(value_name = "ARGS", trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

impl Args {
    /// Runs them; for a command line that came through clap.
    pub fn run(self) -> ExitCode {
        main(self.args)
    }
}

/// Runs ipvsadm's command line, the program's name not in it.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<String> =
        args.into_iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let socket = std::env::var_os("GYRE_SOCKET").filter(|path| !path.is_empty());
    let socket = socket.map_or_else(|| PathBuf::from(SOCKET_DEFAULT), PathBuf::from);
    let mut out = BufWriter::new(io::stdout().lock());
    let done = Line::parse(&args).and_then(|line| Director::new(&socket).run(&line, &mut out));
    let flushed = out.flush();
    match (done, flushed) {
        (Ok(()), Ok(())) => ExitCode::SUCCESS,
        // `ipvsadm -Lcn | head` has what it wanted.
        (_, Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            let _ = out.into_parts();
            ExitCode::SUCCESS
        }
        (Ok(()), Err(error)) => {
            eprintln!("standard output: {error}");
            ExitCode::FAILURE
        }
        (Err(fail), _) => {
            eprintln!("{}", fail.message);
            ExitCode::from(fail.code)
        }
    }
}
