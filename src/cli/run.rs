//! `gyre run` and `gyre check`.

use std::io::Write;
use std::path::PathBuf;

use super::{Out, config_file};

/// Run gyre with a configuration, until SIGINT, SIGTERM or `gyre ctl shutdown`
#[derive(Debug, clap::Args)]
pub struct RunArgs {
    /// Configuration file (TOML)
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

/// Check a configuration: every problem with its line, column and what to do
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// Configuration file (TOML)
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

/// Runs gyre.
#[cfg(feature = "dpdk")]
pub fn run(args: RunArgs) -> anyhow::Result<()> {
    let checked = config_file::read(&args.config)?;
    Ok(crate::runtime::launch::run(checked, &args.config)?)
}

/// Says why not.
#[cfg(not(feature = "dpdk"))]
pub fn run(args: RunArgs) -> anyhow::Result<()> {
    config_file::read(&args.config)?;
    anyhow::bail!(
        "this gyre was built without DPDK and can only check and replay; build it with the \
         feature `dpdk`"
    )
}

/// Checks a configuration.
pub fn check(args: CheckArgs, out: &mut Out<'_>) -> anyhow::Result<()> {
    let config = config_file::read(&args.config)?.config;
    let (ports, services) = (config.port.len(), config.service.len());
    let servers: usize = config.service.iter().map(|service| service.server.len()).sum();
    let path = args.config.display();
    writeln!(out, "{path}: no problem; {ports} ports, {services} services, {servers} servers")?;
    Ok(())
}
