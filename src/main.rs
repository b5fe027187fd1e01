//! The `gyre` binary: parse, dispatch, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    gyre::cli::main(std::env::args_os())
}
