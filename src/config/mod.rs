//! Configuration: the file in TOML and the socket's requests in JSON, one schema for both.
//!
//! A text is judged whole. A syntax error comes alone, since nothing after it can be trusted;
//! otherwise unknown keys, wrong types and wrong meanings all come at once, each with its place
//! and what to do. What passes is a `Config` and the `model::Desired` that it means. Nothing here
//! touches files, sockets or devices.

mod convert;
mod health;
mod meaning;
mod merge;
mod node;
mod problem;
mod reference;
mod schema;
mod shape;
mod statics;
mod types;
mod values;

#[cfg(test)]
mod tests;

use serde::de::DeserializeOwned;
use toml_edit::Document;

use crate::model::{Desired, ServerSpec, ServiceSpec, SpecProblem};
use meaning::Written;
use node::{Lines, Node};
use shape::{Shape, Walk};

pub use health::{
    Check, CheckKind, CheckMethod, CheckWay, Digest, DnsRecord, HexBytes, OnFailure, SorryServer,
    StatusRange,
};
pub use merge::merge;
pub use problem::{Position, Problem};
pub use reference::reference;
pub use types::{
    ClientAddress, Config, Defence, Forwarding, Http, Hugepages, Idle, Kernel, LogFormat, LogLevel,
    Mark, Match, Neighbour, Pool, Port, Protocol, Route, Runtime, Scheduler, SchedulerFlag,
    Semantics, Server, Service, Timeouts, Ttl, Tunnel, TunnelChecksum, VipAddresses, interface_of,
};
pub use values::{
    ClientPrefix, Endpoint, InterfaceAddress, Listen, Mac, MatchAddress, ServiceAddress,
};

/// A configuration without fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// As written.
    pub config: Config,
    /// As meant: what `Registry::apply` takes.
    pub desired: Desired,
}

/// Judges a TOML text. The problems are in the order of the text.
pub fn check(text: &str) -> Result<Checked, Vec<Problem>> {
    check_then(text, |checked| checked)
}

/// Judges a TOML text and gives the outcome to `then` before it frees what it took: for whoever
/// waits, freeing the parts of a large file is a tenth of the time.
pub fn check_then<T>(text: &str, then: impl FnOnce(Result<Checked, Vec<Problem>>) -> T) -> T {
    let lines = Lines::new(text);
    let document = match Document::parse(text.to_owned()) {
        Ok(document) => document,
        Err(error) => {
            return then(Err(vec![Problem {
                position: lines.position(error.span()),
                path: String::new(),
                message: format!("not TOML: {}", error.message().trim_end().replace('\n', ", ")),
                remedy: "correct this first; the rest is checked after it".into(),
            }]));
        }
    };
    let node = node::from_toml(&document, &lines);
    then(check_node(&node))
}

/// Judges the same in JSON, as `config.apply` takes it.
pub fn check_json(json: &serde_json::Value) -> Result<Checked, Vec<Problem>> {
    check_node(&node::from_json(json))
}

/// What a service means beside those that are there: `Registry::check_service`.
pub type Judge<'j> = &'j dyn Fn(&ServiceSpec) -> Vec<SpecProblem>;

/// A service by itself, as `service.add` takes it. Its place among others is for the registry to
/// judge when it joins them; what is refused here is judged too, so that all comes at once.
pub fn service_from_json(
    json: &serde_json::Value,
    judge: Judge,
) -> Result<ServiceSpec, Vec<Problem>> {
    let node = node::from_json(json);
    let mut walk = Walk::new(&node);
    let service: Option<Service> = left_of(&mut walk, &schema::SERVICE);
    let spec = service.map(|service| {
        meaning::options(&service, "", &mut walk);
        service.spec()
    });
    if let Some(spec) = spec.as_ref().filter(|_| !walk.problems.is_empty()) {
        let written = Written::service(String::new(), spec.servers.len(), &walk);
        meaning::beside(judge(spec), &written, &mut walk);
    }
    finish(walk, spec)
}

/// A server by itself, as `server.add` takes it, for `service`; judged likewise.
pub fn server_from_json(
    json: &serde_json::Value,
    service: &ServiceSpec,
    judge: Judge,
) -> Result<ServerSpec, Vec<Problem>> {
    let node = node::from_json(json);
    let mut walk = Walk::new(&node);
    let server: Option<Server> = left_of(&mut walk, &schema::SERVER);
    let (port, forwarding) = (service.key.port().unwrap_or(0), service.forwarding);
    let spec = server.map(|server| {
        meaning::server_options(&server, forwarding.into(), "", &mut walk);
        server.spec(port, forwarding)
    });
    if let Some(spec) = spec.as_ref().filter(|_| !walk.problems.is_empty()) {
        let mut joined = service.clone();
        joined.servers.push(spec.clone());
        let written = Written::server(service.servers.len());
        meaning::beside(judge(&joined), &written, &mut walk);
    }
    finish(walk, spec)
}

/// A server as `server_from_json` takes it for `service`.
pub fn server_to_json(server: &ServerSpec, service: &ServiceSpec) -> Fields {
    fields(&convert::written_server(server, service))
}

fn check_node(node: &Node) -> Result<Checked, Vec<Problem>> {
    let mut walk = Walk::new(node);
    let config: Option<Config> = left_of(&mut walk, &schema::CONFIG);
    let checked = config.map(|config| {
        let desired = meaning::check(&config, &mut walk);
        Checked { config, desired }
    });
    finish(walk, checked)
}

/// What the schema leaves of what is walked over, as its type.
fn left_of<T: DeserializeOwned>(walk: &mut Walk<'_>, shape: &Shape) -> Option<T> {
    let left = walk.check(shape)?;
    serde_json::from_value(left)
        .map_err(|error| {
            debug_assert!(false, "schema and types differ: {error}");
            walk.push("", error.to_string(), String::new());
        })
        .ok()
}

fn finish<T>(mut walk: Walk<'_>, result: Option<T>) -> Result<T, Vec<Problem>> {
    walk.problems.sort_by_key(|problem| problem.position);
    match result {
        Some(result) if walk.problems.is_empty() => Ok(result),
        _ => Err(walk.problems),
    }
}

impl Config {
    /// The configuration in a TOML text, without what it means.
    pub fn parse_toml(text: &str) -> Result<Config, Vec<Problem>> {
        check(text).map(|checked| checked.config)
    }

    /// The configuration as a TOML text that `check` takes.
    pub fn to_toml(&self) -> Result<String, toml_edit::ser::Error> {
        toml_edit::ser::to_string_pretty(self)
    }

    /// What differs from `old` and cannot change while the process lives, by path: empty when
    /// this can be applied.
    pub fn restart_needed(&self, old: &Config) -> Vec<String> {
        let mut paths = Vec::new();
        let (new_runtime, old_runtime) = (fields(&self.runtime), fields(&old.runtime));
        differing("runtime", &new_runtime, &old_runtime, &mut paths);
        if self.http != old.http {
            paths.push("http".into());
        }
        for (at, port) in self.port.iter().enumerate() {
            match old.port.get(at) {
                Some(old) => {
                    differing(&format!("port[{at}]"), &fields(port), &fields(old), &mut paths);
                }
                None => paths.push(format!("port[{at}]")),
            }
        }
        paths.extend((self.port.len()..old.port.len()).map(|at| format!("port[{at}]")));
        paths
    }
}

/// An object's members.
pub type Fields = serde_json::Map<String, serde_json::Value>;

fn fields(value: &impl serde::Serialize) -> Fields {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::Object(fields)) => fields,
        _ => Fields::new(),
    }
}

fn differing(path: &str, new: &Fields, old: &Fields, paths: &mut Vec<String>) {
    let gone = old.keys().filter(|key| !new.contains_key(*key));
    for key in new.keys().chain(gone).filter(|key| new.get(*key) != old.get(*key)) {
        paths.push(format!("{path}.{key}"));
    }
}
