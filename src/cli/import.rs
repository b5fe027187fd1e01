//! `gyre import`: another director's configuration as a gyre.toml.

use std::fs;
use std::io::Write;
use std::net::{IpAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use super::Out;
use super::error::BadUsage;
use crate::config::{self, InterfaceAddress, Match, MatchAddress, Protocol};
use crate::import::{self, ImportError, Imported, Options, PortOption, Source, Surroundings};

/// Longest file that is read.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// Most files that one include may name.
const MATCHES_MAX: usize = 1_024;

/// Turn keepalived.conf or ldirectord.cf into a gyre.toml
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Whose configuration it is. Of keepalived virtual servers are taken, with their groups and
    /// checkers; VRRP stays with keepalived
    format: Format,
    /// The file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Write to this file, which must not be there yet, instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// A port of gyre's: its name, an interface (left with the kernel), PCI address or devargs, and
    /// the director's addresses on it: wan=eth1,192.0.2.2/24
    #[arg(long, value_name = "NAME=DEVICE[,ADDRESS/LENGTH...]", value_parser = port)]
    port: Vec<PortOption>,
    /// Packets that the packet filter marks: 1=tcp:192.0.2.80:80
    #[arg(long, value_name = "MARK=PROTOCOL:ADDRESS:PORT", value_parser = mark)]
    mark: Vec<(u32, Match)>,
    /// Which lines of a keepalived.conf that begin with @ count: what keepalived is given as
    /// --config-id
    #[arg(long, value_name = "ID")]
    config_id: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Keepalived,
    Ldirectord,
}

/// `NAME=DEVICE[,ADDRESS/LENGTH...]`.
fn port(text: &str) -> Result<PortOption, String> {
    let (name, rest) = text.split_once('=').ok_or("write NAME=DEVICE, as in wan=eth1")?;
    let (mut device, mut addresses) = (Vec::new(), Vec::new());
    for part in rest.split(',') {
        match part.parse::<InterfaceAddress>() {
            Ok(address) => addresses.push(address),
            Err(_) => device.push(part),
        }
    }
    let device = device.join(",");
    let is_interface = !device.contains([',', ':']) && !device.starts_with("net_");
    let device = match is_interface {
        true => format!("net_af_packet0,iface={device}"),
        false => device,
    };
    let is_shared = device.starts_with("net_af_packet");
    Ok(PortOption { name: name.to_owned(), device, is_shared, addresses })
}

/// `MARK=PROTOCOL:ADDRESS:PORT`.
fn mark(text: &str) -> Result<(u32, Match), String> {
    let form = "write MARK=PROTOCOL:ADDRESS:PORT, as in 1=tcp:192.0.2.80:80";
    let (number, rest) = text.split_once('=').ok_or(form)?;
    let (protocol, address) = rest.split_once(':').ok_or(form)?;
    let number = number.parse().ok().filter(|mark| *mark != 0).ok_or(form)?;
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return Err(form.into()),
    };
    let address: MatchAddress = address.parse()?;
    Ok((number, Match { address, protocol }))
}

/// Writes the configuration, and says on standard error what did not fit.
pub fn run(args: Args, out: &mut Out<'_>) -> anyhow::Result<()> {
    let reads: Reader = match args.format {
        Format::Keepalived => import::keepalived,
        Format::Ldirectord if args.config_id.is_some() => {
            return Err(BadUsage("--config-id is for keepalived.conf alone".into()).into());
        }
        Format::Ldirectord => import::ldirectord,
    };
    let path = args.file.as_path();
    let text = read(path).map_err(|why| BadUsage(format!("{}: {why}", path.display())))?;
    let mut options =
        Options { config_id: args.config_id, ports: numbered(args.port), ..Options::default() };
    for (number, one) in args.mark {
        options.marks.entry(number).or_default().push(one);
    }
    let imported = reads(Source { path, text: &text }, &Disk, &options);
    let imported = match imported {
        Ok(imported) => imported,
        Err(error) => return Err(refusal(error)),
    };
    match &args.output {
        None => out.write_all(imported.text.as_bytes())?,
        Some(output) => write(output, &imported.text)?,
    }
    out.flush()?;
    tell(&imported, args.output.as_deref());
    Ok(())
}

type Reader = fn(Source<'_>, &dyn Surroundings, &Options) -> Result<Imported, ImportError>;

/// Devices of one kind have a number each.
fn numbered(mut ports: Vec<PortOption>) -> Vec<PortOption> {
    for (at, port) in ports.iter_mut().enumerate() {
        if let Some(rest) = port.device.strip_prefix("net_af_packet0,") {
            port.device = format!("net_af_packet{at},{rest}");
        }
    }
    ports
}

fn refusal(error: ImportError) -> anyhow::Error {
    // Of another program's file every line would be one.
    const SHOWN: usize = 5;
    error.warnings().iter().take(SHOWN).for_each(|warning| eprintln!("{warning}"));
    if let Some(more @ 1..) = error.warnings().len().checked_sub(SHOWN) {
        eprintln!("and {more} more like these");
    }
    BadUsage(error.to_string()).into()
}

/// An existing file stays as it is: it may hold what somebody has worked on since.
fn write(path: &Path, text: &str) -> Result<(), BadUsage> {
    let mut file = fs::File::create_new(path).map_err(|error| {
        let remedy = match error.kind() {
            std::io::ErrorKind::AlreadyExists => "; it is left as it is: name another",
            _ => "",
        };
        BadUsage(format!("{}: {error}{remedy}", path.display()))
    })?;
    let written = file.write_all(text.as_bytes());
    written.map_err(|error| BadUsage(format!("{}: {error}", path.display())))
}

/// Warnings, what is left to do, and what `gyre check` would say beyond that.
fn tell(imported: &Imported, output: Option<&Path>) {
    imported.warnings.iter().for_each(|warning| eprintln!("{warning}"));
    let counted = |count, what| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let services = counted(imported.services, "service");
    let servers = counted(imported.servers, "server");
    eprintln!("gyre: {services} with {servers}; what is told above is to be looked at");
    if imported.needs_port {
        eprintln!(
            "gyre: TO BE FILLED IN: the ports that gyre uses ([[port]], at the top as a comment), \
             or import again with --port NAME=INTERFACE,ADDRESS/LENGTH; until then `gyre check` \
             says \"there is no port\""
        );
    }
    let name = output.map_or("output".to_owned(), |path| path.display().to_string());
    let problems = config::check(&imported.text).err().unwrap_or_default();
    let missing_port = |problem: &&config::Problem| {
        imported.needs_port && problem.path.is_empty() && problem.message == "there is no port"
    };
    for problem in problems.iter().filter(|problem| !missing_port(problem)) {
        eprintln!("{name}:{problem}");
    }
}

/// A file's text; bytes that are no UTF-8 stand only in comments and are replaced.
fn read(path: &Path) -> Result<String, String> {
    let about = fs::metadata(path).map_err(|error| error.to_string())?;
    if about.is_dir() {
        return Err("this is a directory; name a file".into());
    }
    if about.len() > FILE_BYTES_MAX {
        return Err(format!("larger than {} MiB: no configuration", FILE_BYTES_MAX >> 20));
    }
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// This machine's files and names.
struct Disk;

impl Surroundings for Disk {
    fn included(&self, pattern: &str, beside: &Path) -> Vec<(PathBuf, Result<String, String>)> {
        let mut found = Vec::new();
        for one in import::braces(pattern) {
            let whole = beside.join(&one);
            let Ok(paths) = glob::glob(&whole.to_string_lossy()) else { continue };
            let files = paths.flatten().filter(|path| !path.is_dir());
            for path in files.take(MATCHES_MAX.saturating_sub(found.len())) {
                let text = read(&path);
                found.push((path, text));
            }
        }
        found
    }

    fn resolve(&self, host: &str) -> Vec<IpAddr> {
        let found = (host, 0).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
        found.unwrap_or_default().into_iter().map(|address| address.ip()).collect()
    }

    fn service_port(&self, name: &str, protocol: &str) -> Option<u16> {
        let services = fs::read_to_string("/etc/services").ok()?;
        services.lines().find_map(|line| {
            let mut words = line.split('#').next()?.split_whitespace();
            let (own, port) = (words.next()?, words.next()?);
            let is_named = own == name || words.any(|alias| alias == name);
            let (number, own_protocol) = port.split_once('/')?;
            (is_named && own_protocol == protocol).then(|| number.parse().ok())?
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_interfaces_or_devices_with_addresses() {
        let shown = |text| {
            let PortOption { name, device, is_shared, addresses } = port(text).unwrap();
            (name, device, is_shared, addresses.len())
        };
        let eth1 = ("wan".to_owned(), "net_af_packet0,iface=eth1".to_owned(), true);
        let (name, device, is_shared, addresses) = shown("wan=eth1,192.0.2.2/24,2001:db8::2/64");
        assert_eq!(((name, device, is_shared), addresses), (eth1, 2));
        assert_eq!(shown("wan=0000:3b:00.0").1, "0000:3b:00.0");
        assert_eq!(shown("wan=net_ring0,x=y,10.0.0.1/8").1, "net_ring0,x=y");
        assert!(port("eth1").is_err());
    }

    #[test]
    fn marks_say_protocol_address_and_port() {
        let (number, one) = mark("7=udp:[2001:db8::/64]:53").unwrap();
        assert_eq!((number, one.protocol), (7, Protocol::Udp));
        for text in ["7", "0=tcp:192.0.2.1:80", "7=sctp:192.0.2.1:80", "7=tcp:192.0.2.1"] {
            assert!(mark(text).is_err(), "{text}");
        }
    }
}
