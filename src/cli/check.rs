//! `gyre check`.

use std::io::Write;
use std::path::PathBuf;

use super::ctl::print_json;
use super::error::BadConfig;
use super::{Out, file};

/// Check a configuration file: every problem with line, column and what to do
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: Source,
    /// Print problems as JSON on standard output
    #[arg(short, long)]
    json: bool,
}

/// The file, in either way of naming it.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Source {
    /// Configuration file (TOML)
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// The same, as `gyre run` takes it
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Says what the file holds, or what is wrong with it.
pub fn run(args: Args, out: &mut Out<'_>) -> anyhow::Result<()> {
    let path = args.source.file.or(args.source.config).unwrap_or_default();
    let checked = file::load(&path);
    if args.json {
        let problems = match &checked {
            Ok(_) => "[]".to_owned(),
            Err(error) => match error.downcast_ref::<BadConfig>() {
                Some(bad) => serde_json::to_string(&bad.problems)?,
                None => return checked.map(drop),
            },
        };
        print_json(&problems, out)?;
        return checked.map(drop);
    }
    let desired = checked?.desired;
    let servers: usize = desired.services.iter().map(|service| service.servers.len()).sum();
    let services = counted(desired.services.len(), "service");
    let servers = counted(servers, "server");
    writeln!(out, "{}: correct; {services} with {servers}", path.display())?;
    Ok(())
}

/// `1 server`, `2 servers`.
fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}
