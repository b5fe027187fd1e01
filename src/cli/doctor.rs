//! `gyre doctor`.

use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;

use super::args::SOCKET_DEFAULT;
use super::client::{Client, ClientError};
use super::ctl::print_json;
use super::error::{BadUsage, Unwell};
use super::paint::{self, Ink};
use super::{Out, file};
use crate::config::{Config, check};
use crate::control::api::{ConfigFormat, ConfigResult, ConfigText, GetParams, NoParams};
use crate::doctor::{self, Finding, Machine, Running, Severity, Subject, worst};

/// Examine this machine, or a real server: what is wrong, what shows it, what to do
///
/// Nothing is changed. The exit code is 0 where all is well, 3 where the worst finding is a
/// warning, 4 where it is an error.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Configuration file (TOML); else the running gyre's configuration
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Say what the DR or TUN server at this address needs, instead of examining this machine
    #[arg(long, value_name = "ADDRESS")]
    server: Option<IpAddr>,
    /// Look there whether it is so, by ssh, reading only
    #[arg(long, value_name = "USER@HOST", requires = "server")]
    ssh: Option<String>,
    /// Leave out what is as it should be
    #[arg(short, long)]
    quiet: bool,
    /// Print findings as JSON
    #[arg(short, long)]
    json: bool,
    /// Control socket of the running gyre; else the file's `control_socket`, else the usual one
    #[arg(long, value_name = "PATH", env = "GYRE_SOCKET")]
    socket: Option<PathBuf>,
}

/// Prints findings, or what a server needs.
pub fn run(args: Args, out: &mut Out<'_>) -> anyhow::Result<()> {
    let subject = subject(&args)?;
    let findings = match args.server {
        Some(address) => match of_server(&args, &subject, address, out)? {
            Some(findings) => findings,
            None => return Ok(()),
        },
        None => doctor::examine(&Machine::this(), &subject),
    };
    if args.json {
        print_json(&serde_json::to_string(&findings)?, out)?;
    } else {
        let least = if args.quiet { Severity::Info } else { Severity::Ok };
        print(findings.iter().filter(|finding| finding.severity >= least), out)?;
    }
    match worst(&findings) {
        Severity::Ok | Severity::Info => Ok(()),
        Severity::Warning => Err(Unwell(3).into()),
        Severity::Error => Err(Unwell(4).into()),
    }
}

fn subject(args: &Args) -> anyhow::Result<Subject> {
    let written = match &args.config {
        Some(path) => Some(file::load(path)?.config),
        None => None,
    };
    // What a real server needs, the file says alone.
    let asks = args.server.is_none() || written.is_none();
    let of_file = written.as_ref().map(|config| Path::new(&config.runtime.control_socket));
    let socket = args.socket.as_deref().or(of_file).unwrap_or(Path::new(SOCKET_DEFAULT));
    let (running, its_config) = if asks { look_at_running(socket)? } else { (None, None) };
    Ok(Subject { config: written.or(its_config), running, dpdk: dpdk_version() })
}

/// The running gyre and its configuration; neither where none runs, which is no reason not to look
/// at the machine. One that runs but cannot be asked is: findings would be those of a machine at
/// rest.
fn look_at_running(socket: &Path) -> anyhow::Result<(Option<Running>, Option<Config>)> {
    let mut client = match Client::connect(socket) {
        Ok(client) => client,
        Err(ClientError::NotRunning(_) | ClientError::Stale(_)) => return Ok((None, None)),
        Err(error) => return Err(error.into()),
    };
    let (status, _) = client.call("status", &NoParams {})?;
    let (ports, _) = client.call("ports.list", &NoParams {})?;
    let (neighbours, _) = client.call("neighbours.list", &NoParams {})?;
    let toml = GetParams { format: ConfigFormat::Toml, revision: None };
    let (config, _): (ConfigResult, _) = client.call("config.get", &toml)?;
    Ok((Some(Running { status, ports, neighbours }), parsed(config.config)))
}

fn parsed(config: ConfigText) -> Option<Config> {
    let ConfigText::Toml(text) = config else { return None };
    check(&text).ok().map(|checked| checked.config)
}

#[cfg(feature = "dpdk")]
fn dpdk_version() -> Option<String> {
    Some(crate::runtime::dpdk_version())
}

#[cfg(not(feature = "dpdk"))]
fn dpdk_version() -> Option<String> {
    None
}

/// Findings about a real server; without `--ssh`, prints the commands and finds nothing.
fn of_server(
    args: &Args,
    subject: &Subject,
    address: IpAddr,
    out: &mut Out<'_>,
) -> anyhow::Result<Option<Vec<Finding>>> {
    let config = subject.config.as_ref().ok_or_else(|| {
        BadUsage("--server needs a configuration: start gyre, or name a file with -c".into())
    })?;
    let demands = doctor::demands(config, address);
    if demands.is_empty() {
        let message = format!(
            "no DR or TUN service has the server {address}; servers of NAT and FULLNAT services \
             need nothing but a route back (`gyre servers` lists all)"
        );
        return Err(BadUsage(message).into());
    }
    if let Some(host) = &args.ssh {
        return Ok(Some(doctor::judge(&demands, &shown_by(host)?)));
    }
    let mut commands: Vec<String> = Vec::new();
    for command in demands.iter().flat_map(|demand| demand.commands()) {
        if !commands.contains(&command) {
            commands.push(command);
        }
    }
    if args.json {
        print_json(&serde_json::to_string(&commands)?, out)?;
        return Ok(None);
    }
    writeln!(out, "# on {address}, as root; and in the same order at every start of it:")?;
    for command in commands {
        writeln!(out, "{command}")?;
    }
    writeln!(out, "# `--ssh USER@HOST` looks whether it is so")?;
    Ok(None)
}

/// What the server shows of itself. Nobody is asked for a password: 3 a.m. or a script.
fn shown_by(host: &str) -> anyhow::Result<String> {
    if host.is_empty() || host.starts_with('-') {
        return Err(BadUsage(format!("`{host}` is no host to log in to")).into());
    }
    let mut child = Command::new("ssh")
        .args(["-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "--", host, "sh", "-s"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("ssh cannot be run; install openssh-client")?;
    if let Some(mut stdin) = child.stdin.take() {
        // Where it has ended already, its own words say why.
        let _ = stdin.write_all(doctor::PROBE.as_bytes());
    }
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(
        output.status.success(),
        "ssh {host}: {}; try `ssh {host} true` by hand",
        said.trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn print<'a>(findings: impl Iterator<Item = &'a Finding>, out: &mut Out<'_>) -> anyhow::Result<()> {
    for finding in findings {
        let word = format!("{:<8}", finding.severity.word());
        let word = match finding.severity {
            Severity::Error if paint::is_on() => Ink::Red.over(&word),
            Severity::Warning if paint::is_on() => Ink::Yellow.over(&word),
            _ => word,
        };
        writeln!(out, "{word}{:<13}{}", finding.check, finding.evidence)?;
        if let Some(remedy) = &finding.remedy {
            writeln!(out, "{:21}-> {remedy}", "")?;
        }
    }
    Ok(())
}
