//! `gyre run`.

use std::path::PathBuf;

use super::file;

/// Run gyre with a configuration, until SIGINT, SIGTERM or `gyre ctl shutdown`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Configuration file (TOML)
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

/// Runs gyre.
#[cfg(feature = "dpdk")]
pub fn run(args: Args) -> anyhow::Result<()> {
    let checked = file::load(&args.config)?;
    crate::runtime::log::abort_on_panic();
    Ok(crate::runtime::launch::run(checked, &args.config)?)
}

/// Says why not.
#[cfg(not(feature = "dpdk"))]
pub fn run(args: Args) -> anyhow::Result<()> {
    file::load(&args.config)?;
    anyhow::bail!(
        "this gyre was built without DPDK, so it can check and replay but not run; build it \
         without `--no-default-features`"
    )
}
