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

/// Says why not: a faulty file first, then what this binary is.
#[cfg(not(feature = "dpdk"))]
pub fn run(args: Args) -> anyhow::Result<()> {
    file::load(&args.config)?;
    let own = std::env::current_exe();
    let own = own.map_or_else(|_| "this gyre".into(), |path| path.display().to_string());
    anyhow::bail!(
        "{own} was built without DPDK (`--no-default-features`): it checks, imports, replays and \
         asks a running gyre, but cannot run. In the sources, `cargo build --release` puts one \
         with DPDK into target/release (Debian: libdpdk-dev), `cargo build` into target/debug; \
         `cargo test --no-default-features` replaces the latter by one without"
    )
}
