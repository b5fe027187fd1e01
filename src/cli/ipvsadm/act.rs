//! Carries a command line out over the control socket.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::endpoint::Names;
use super::fail::Fail;
use super::line::{Line, Protocol, ServiceName};
use super::list::{Format, has_rule};
use super::options::{Command, Kind};
use super::request::Fields;
use super::restore::{self, Whole};
use super::usage::{USAGE, VERSION};
use crate::cli::client::{Client, ClientError};
use crate::control::api::{
    AddServerParams, AddServiceParams, AddServicesParams, Changed, ConnectionRow, EditServerParams,
    EditServiceParams, ListConnectionsParams, ListConnectionsResult, ListServicesParams,
    MarksResult, NoParams, PortsResult, RemovalMode, RemoveServerParams, RemoveServiceParams,
    RemoveServicesParams, ServiceRow, ServicesResult, SetTimeoutsParams, TimeoutsResult,
    ZeroParams,
};

/// What the kernel says of services and servers that are not there, or are already.
const NO_SERVICE: &str = "No such service";
const NO_SERVICE_HERE: &str = "Service not defined";
const SERVICE_EXISTS: &str = "Service already exists";
const NO_SERVER: &str = "No such destination";
const SERVER_EXISTS: &str = "Destination already exists";
const NO_SCHEDULER: &str = "Scheduler or persistence engine not found";
/// Flows in one page of a listing.
const PAGE: u32 = 20_000;

/// A director to work on, connected when it is first needed.
#[derive(Debug)]
pub struct Director {
    path: PathBuf,
    client: Option<Client>,
    /// Its own addresses, once they were asked for.
    own: Option<Vec<IpAddr>>,
}

/// What an answer means in ipvsadm's words.
struct Meanings {
    missing: &'static str,
    exists: &'static str,
}

fn failed(error: ClientError, meanings: &Meanings) -> Fail {
    match error {
        ClientError::Refused(refusal) => match refusal.name() {
            Some("not_found") => Fail::refused(meanings.missing),
            Some("exists") => Fail::refused(meanings.exists),
            _ => Fail::lacking(&refusal.to_string()),
        },
        error => Fail::no_director(&error),
    }
}

/// Standard output's end.
pub(super) fn unwritten(error: std::io::Error) -> Fail {
    Fail { code: 1, message: format!("standard output: {error}"), ends_restore: true }
}

/// The name by which the socket knows a service.
fn socket_name(service: ServiceName) -> String {
    match service {
        ServiceName::Address(protocol, place) => format!("{} {place}", protocol.word()),
        ServiceName::Mark { number, .. } => format!("mark {number}"),
    }
}

impl Director {
    /// The one whose socket is at `path`.
    pub fn new(path: &Path) -> Self {
        Director { path: path.into(), client: None, own: None }
    }

    fn ask<T: DeserializeOwned>(
        &mut self,
        method: &str,
        params: &impl Serialize,
    ) -> Result<T, ClientError> {
        let client = match self.client.take() {
            Some(client) => client,
            None => Client::connect(&self.path)?,
        };
        let client = self.client.insert(client);
        Ok(client.call(method, params)?.0)
    }

    fn tell<T: DeserializeOwned>(
        &mut self,
        method: &str,
        params: &impl Serialize,
        missing: &'static str,
    ) -> Result<T, Fail> {
        let meanings = Meanings { missing, exists: SERVICE_EXISTS };
        self.ask(method, params).map_err(|error| failed(error, &meanings))
    }

    fn services(&mut self) -> Result<Vec<ServiceRow>, Fail> {
        let all: ServicesResult =
            self.tell("service.list", &ListServicesParams::default(), NO_SERVICE)?;
        Ok(all.services)
    }

    /// The service, and the name to call it by.
    fn find(&mut self, service: ServiceName) -> Result<Option<(String, ServiceRow)>, Fail> {
        if let ServiceName::Mark { number, is_ipv6 } = service {
            let family = if is_ipv6 { "ipv6" } else { "ipv4" };
            let is_it = |row: &ServiceRow| row.mark == Some(number) && row.family == family;
            let found = self.services()?.into_iter().find(is_it);
            return Ok(found.map(|row| (format!("group {}", row.address), row)));
        }
        let name = socket_name(service);
        let params = ListServicesParams { service: Some(name.clone()) };
        match self.ask::<ServicesResult>("service.list", &params) {
            Ok(list) => Ok(list.services.into_iter().next().map(|row| (name, row))),
            Err(ClientError::Refused(refusal)) if refusal.name() == Some("not_found") => Ok(None),
            Err(error) => Err(failed(error, &Meanings { missing: "", exists: "" })),
        }
    }

    /// The name to call a service by, which need not exist unless it is a mark's.
    fn name(&mut self, line: &Line, missing: &'static str) -> Result<String, Fail> {
        let service = line.service.ok_or_else(|| Fail::refused(missing))?;
        match service {
            ServiceName::Address(Protocol::Sctp, _) => Err(Fail::refused(missing)),
            ServiceName::Address(..) => Ok(socket_name(service)),
            ServiceName::Mark { .. } => {
                Ok(self.find(service)?.ok_or_else(|| Fail::refused(missing))?.0)
            }
        }
    }

    /// Carries `line` out.
    pub fn run(&mut self, line: &Line, out: &mut impl Write) -> Result<(), Fail> {
        match line.command {
            Command::Help => write!(out, "{VERSION}{USAGE}").map_err(unwritten),
            Command::Version => write!(out, "{VERSION}").map_err(unwritten),
            Command::AddService => self.add_service(line),
            Command::EditService => self.edit_service(line),
            Command::DeleteService => {
                let service = self.name(line, NO_SERVICE)?;
                self.remove(service)
            }
            Command::Clear => {
                let params = RemoveServicesParams { mode: RemovalMode::Now };
                self.tell::<Changed>("service.remove_all", &params, NO_SERVICE).map(drop)
            }
            Command::AddServer => self.add_server(line),
            Command::EditServer => self.edit_server(line),
            Command::DeleteServer => self.delete_server(line),
            Command::Zero => {
                let service = match line.service {
                    Some(_) => Some(self.name(line, NO_SERVICE)?),
                    None => None,
                };
                self.tell::<NoParams>("stats.zero", &ZeroParams { service }, NO_SERVICE).map(drop)
            }
            Command::Set => self.set_timeouts(line),
            Command::List => self.list(line, out),
            Command::Save => self.save(line, out),
            Command::Restore => restore::run(self, std::io::stdin().lock(), out),
            Command::StartDaemon => start_daemon(line),
            Command::StopDaemon => Err(Fail::refused("No daemon is running")),
        }
    }

    fn add_service(&mut self, line: &Line) -> Result<(), Fail> {
        let Some(service) = line.service else { return Ok(()) };
        if matches!(service, ServiceName::Address(Protocol::Sctp, _)) {
            return Err(Fail::lacking("SCTP is not supported"));
        }
        let is_mark = matches!(service, ServiceName::Mark { .. });
        if (is_mark || !line.has_scheduler()) && self.find(service)?.is_some() {
            return Err(Fail::refused(SERVICE_EXISTS));
        }
        if !line.has_scheduler() {
            return Err(Fail::refused(NO_SCHEDULER));
        }
        let matches = match service {
            ServiceName::Mark { number, .. } => self.packets_of(number, service)?,
            ServiceName::Address(..) => Vec::new(),
        };
        let params = AddServiceParams { service: line.new_service(matches)? };
        self.tell::<Changed>("service.add", &params, NO_SERVICE).map(drop)
    }

    /// The matches of a mark in the configuration.
    fn packets_of(
        &mut self,
        number: u32,
        service: ServiceName,
    ) -> Result<Vec<serde_json::Value>, Fail> {
        let is_ipv6 = !service.is_ipv4();
        let marks: MarksResult = self.tell("marks.list", &NoParams {}, NO_SERVICE)?;
        let all = marks.marks.into_iter().filter(|mark| mark.mark == number);
        let is_family = |one: &serde_json::Value| {
            one["address"].as_str().is_some_and(|address| address.starts_with('[') == is_ipv6)
        };
        let matches: Vec<_> = all.flat_map(|mark| mark.matches).filter(is_family).collect();
        if matches.is_empty() {
            let family = if is_ipv6 { "IPv6" } else { "IPv4" };
            return Err(Fail::lacking(&format!(
                "which {family} packets carry mark {number}? Frames do not pass the packet filter: \
                 say so in a [[mark]] of gyre's configuration"
            )));
        }
        Ok(matches)
    }

    fn edit_service(&mut self, line: &Line) -> Result<(), Fail> {
        let service = self.name(line, NO_SERVICE)?;
        if !line.has_scheduler() {
            let is_there = match line.service {
                Some(service) => self.find(service)?.is_some(),
                None => false,
            };
            return Err(Fail::refused(if is_there { NO_SCHEDULER } else { NO_SERVICE }));
        }
        let params = EditServiceParams { service, set: line.service_options()? };
        self.tell::<Changed>("service.edit", &params, NO_SERVICE).map(drop)
    }

    fn remove(&mut self, service: String) -> Result<(), Fail> {
        let params = RemoveServiceParams { service, mode: RemovalMode::Now, deadline_s: None };
        self.tell::<Changed>("service.remove", &params, NO_SERVICE).map(drop)
    }

    fn add_server(&mut self, line: &Line) -> Result<(), Fail> {
        self.check_thresholds(line)?;
        let service = self.name(line, NO_SERVICE_HERE)?;
        let own = self.own_addresses()?;
        let params = AddServerParams { service, server: line.new_server(&own)? };
        let meanings = Meanings { missing: NO_SERVICE_HERE, exists: SERVER_EXISTS };
        self.ask::<Changed>("server.add", &params).map_err(|error| failed(error, &meanings))?;
        Ok(())
    }

    fn edit_server(&mut self, line: &Line) -> Result<(), Fail> {
        self.check_thresholds(line)?;
        let service = self.name(line, NO_SERVICE_HERE)?;
        let Some(server) = line.server else { return Ok(()) };
        let set = line.server_options(&self.own_addresses()?);
        let params = EditServerParams { service, server, set };
        let edited = self.ask::<Changed>("server.edit", &params);
        self.of_server(line, edited)
    }

    fn delete_server(&mut self, line: &Line) -> Result<(), Fail> {
        let service = self.name(line, NO_SERVICE_HERE)?;
        let Some(named) = line.server else { return Ok(()) };
        let mode = RemovalMode::Now;
        let params = RemoveServerParams { service, server: named, mode, deadline_s: None };
        let removed = self.ask::<Changed>("server.remove", &params);
        self.of_server(line, removed)
    }

    /// Whether the service or the server is what was not found.
    fn of_server(&mut self, line: &Line, done: Result<Changed, ClientError>) -> Result<(), Fail> {
        let Err(error) = done else { return Ok(()) };
        let is_missing =
            matches!(&error, ClientError::Refused(refusal) if refusal.name() == Some("not_found"));
        let has_service = match line.service.filter(|_| is_missing) {
            Some(service) => self.find(service)?.is_some(),
            None => true,
        };
        let missing = if has_service { NO_SERVER } else { NO_SERVICE_HERE };
        Err(failed(error, &Meanings { missing, exists: SERVER_EXISTS }))
    }

    /// The kernel looks for the service, then at the thresholds, and only then for the server.
    fn check_thresholds(&mut self, line: &Line) -> Result<(), Fail> {
        let Some(service) = line.service else { return Ok(()) };
        if line.lower_threshold <= line.upper_threshold {
            return Ok(());
        }
        match self.find(service)? {
            None => Err(Fail::refused(NO_SERVICE_HERE)),
            Some(_) => Err(Fail::refused("Numerical result out of range")),
        }
    }

    /// The addresses that are the director's own.
    fn own_addresses(&mut self) -> Result<Vec<IpAddr>, Fail> {
        if let Some(own) = &self.own {
            return Ok(own.clone());
        }
        let ports: PortsResult = self.tell("ports.list", &NoParams {}, NO_SERVICE)?;
        let all = ports.ports.iter().flat_map(|port| &port.addresses);
        let own: Vec<IpAddr> = all.filter_map(|address| address.parse().ok()).collect();
        self.own = Some(own.clone());
        Ok(own)
    }

    /// Adds services with their servers in one step, if that can be; whether they were.
    pub(super) fn add_wholes(&mut self, wholes: &[Whole]) -> Result<bool, Fail> {
        let own = self.own_addresses()?;
        let one = |whole: &Whole| -> Result<Fields, Fail> {
            let servers: Result<Vec<Fields>, Fail> =
                whole.servers.iter().map(|server| server.new_server(&own)).collect();
            let mut service = whole.service.new_service(Vec::new())?;
            service.insert("server".into(), servers?.into());
            Ok(service)
        };
        let Ok(services) = wholes.iter().map(one).collect::<Result<Vec<_>, Fail>>() else {
            return Ok(false);
        };
        match self.ask::<Changed>("service.add_many", &AddServicesParams { services }) {
            Ok(_) => Ok(true),
            Err(ClientError::Refused(_)) => Ok(false),
            Err(error) => Err(Fail::no_director(&error)),
        }
    }

    fn set_timeouts(&mut self, line: &Line) -> Result<(), Fail> {
        let [tcp_s, tcp_fin_s, udp_s] =
            line.timeouts_s.map(|seconds| Some(seconds).filter(|seconds| *seconds > 0));
        let params = SetTimeoutsParams { tcp_s, tcp_fin_s, udp_s };
        self.tell::<Changed>("timeouts.set", &params, NO_SERVICE).map(drop)
    }

    fn save(&mut self, line: &Line, out: &mut impl Write) -> Result<(), Fail> {
        let services = self.services()?;
        Format::of(line).write(&services, out).map_err(unwritten)?;
        for service in services.iter().filter(|service| !has_rule(service)) {
            let (protocol, address) = (&service.protocol, &service.address);
            eprintln!("gyre: {protocol} {address} is left out: ipvsadm has no words for it");
        }
        Ok(())
    }

    fn list(&mut self, line: &Line, out: &mut impl Write) -> Result<(), Fail> {
        if line.given.has(Kind::Connection) {
            return self.list_connections(line, out);
        }
        if line.given.has(Kind::Timeout) {
            let timeouts: TimeoutsResult = self.tell("timeouts.get", &NoParams {}, NO_SERVICE)?;
            let TimeoutsResult { tcp_s, tcp_fin_s, udp_s } = timeouts;
            let text = format!("Timeout (tcp tcpfin udp): {tcp_s} {tcp_fin_s} {udp_s}\n");
            return out.write_all(text.as_bytes()).map_err(unwritten);
        }
        if line.given.has(Kind::Daemon) {
            // There is none that could run.
            return Ok(());
        }
        if let Some(service) = line.service {
            let none = Fail { code: 1, ..Fail::refused(NO_SERVICE) };
            let (_, service) = self.find(service)?.ok_or(none)?;
            return Format::of(line).write(&[service], out).map_err(unwritten);
        }
        let services = self.services()?;
        // The size is that of the kernel's hash table, which gyre has not.
        writeln!(out, "IP Virtual Server version 1.2.1 (size=4096)").map_err(unwritten)?;
        Format::of(line).write(&services, out).map_err(unwritten)
    }

    fn list_connections(&mut self, line: &Line, out: &mut impl Write) -> Result<(), Fail> {
        let is_numeric = line.given.has(Kind::Numeric);
        let names = if is_numeric { Names::numeric() } else { Names::known() };
        let engine = "        pe name          pe_data";
        let engine = if line.given.has(Kind::PersistentConn) { engine } else { "" };
        let heading = format!(
            "IPVS connection entries\npro expire {:<11} {:<18} {:<18} destination{engine}\n",
            "state", "source", "virtual"
        );
        out.write_all(heading.as_bytes()).map_err(unwritten)?;
        let mut params =
            ListConnectionsParams { limit: Some(PAGE), ..ListConnectionsParams::default() };
        loop {
            let page: ListConnectionsResult = self.tell("connections.list", &params, NO_SERVICE)?;
            for row in &page.connections {
                writeln!(out, "{}", connection(row, &names)).map_err(unwritten)?;
            }
            params.after = page.next;
            if params.after.is_none() {
                return Ok(());
            }
        }
    }
}

fn connection(row: &ConnectionRow, names: &Names) -> String {
    let name = |text: &str| match text.parse::<SocketAddr>() {
        Ok(endpoint) => names.write(endpoint, &row.protocol),
        Err(_) => text.to_owned(),
    };
    let seconds = row.expires_ms / 1000;
    format!(
        "{:<3} {:02}:{:02}  {:<11} {:<18} {:<18} {}",
        row.protocol.to_uppercase(),
        seconds / 60,
        seconds % 60,
        row.state,
        name(&row.client),
        name(&row.r#virtual),
        name(&row.server)
    )
}

/// Nothing is started: a director that believes its flows are synchronised would lose them at the
/// next take-over.
fn start_daemon(line: &Line) -> Result<(), Fail> {
    let interface = &line.daemon.interface;
    if interface.is_empty() || !Path::new("/sys/class/net").join(interface).exists() {
        return Err(Fail::refused("No such device"));
    }
    Err(Fail::lacking(&format!(
        "connections are not synchronised yet: no {} daemon was started",
        line.daemon.state
    )))
}
