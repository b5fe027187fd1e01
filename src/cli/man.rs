//! `gyre man`: manual pages, made from the command line's own description.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::CommandFactory;
use clap_mangen::Man;

use super::{Cli, Out};

/// Print gyre's manual page, or write all of them
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory to write gyre.1, gyre-services.1 and so on into
    #[arg(value_name = "DIRECTORY")]
    directory: Option<PathBuf>,
}

/// Prints or writes.
pub fn run(args: Args, out: &mut Out<'_>) -> anyhow::Result<()> {
    if let Some(directory) = args.directory {
        return clap_mangen::generate_to(Cli::command(), &directory)
            .with_context(|| directory.display().to_string());
    }
    let mut roff = Vec::new();
    Man::new(Cli::command()).render(&mut roff)?;
    Ok(out.write_all(&roff)?)
}
