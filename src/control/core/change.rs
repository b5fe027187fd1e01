//! Changes asked for over the socket: what they mean, checked against what is, made ready to run
//! on the registry off the control thread.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use hashbrown::HashMap;
use serde_json::{Map, Value};

use super::naming::find_service;
use super::refusal::{from_config, from_specs};
use crate::config::{Checked, Config, Service, server_from_json, service_from_json};
use crate::control::api::{ApiError, ErrorCode, RemovalMode};
use crate::limits::CHANGES_SHOWN_MAX;
use crate::model::next_hops::NextHops;
use crate::model::{
    Applied, Desired, NextHopId, Registry, Removal, ServerSpec, ServiceKey, ServiceSpec,
    SpecProblem,
};
use crate::time::{NANOS_PER_SECOND, Nanos};

/// A change as asked for, its texts parsed where that takes long.
pub enum Change {
    Apply {
        checked: Box<Checked>,
        dry_run: bool,
    },
    AddService(Map<String, Value>),
    EditService {
        service: String,
        set: Map<String, Value>,
    },
    RemoveService {
        service: String,
        mode: RemovalMode,
        deadline_s: Option<u64>,
    },
    AddServer {
        service: String,
        server: Map<String, Value>,
    },
    RemoveServer {
        service: String,
        server: SocketAddr,
        /// How it leaves, and with `Drain` after how many seconds at the latest.
        mode: RemovalMode,
        deadline_s: Option<u64>,
    },
    SetWeight {
        service: String,
        server: SocketAddr,
        weight: u32,
    },
}

/// What a change came to.
pub struct Done {
    /// To be published, unless nothing was to change.
    pub applied: Option<Applied>,
    /// Revision that holds it.
    pub revision: u64,
    /// The configuration's static part, when that is new.
    pub config: Option<Config>,
    /// A line for each change.
    pub changes: Vec<String>,
}

/// A change ready to run; it may take long.
pub type Run = Box<dyn FnOnce(&mut Registry) -> Result<Done, ApiError> + Send>;

/// What changes are checked against.
pub struct Present<'a> {
    pub registry: &'a Registry,
    pub next_hops: &'a mut NextHops,
    pub config: &'a Config,
    pub now: Nanos,
}

type Outcome = Result<Applied, Vec<SpecProblem>>;
type Hops = HashMap<IpAddr, NextHopId>;

fn hop_in(hops: &Hops) -> impl FnMut(IpAddr) -> NextHopId {
    |rip| hops.get(&rip).copied().unwrap_or(NextHopId::NONE)
}

fn run(
    change: String,
    work: impl FnOnce(&mut Registry) -> Outcome + Send + 'static,
) -> Result<Run, ApiError> {
    Ok(Box::new(move |registry| {
        let applied = work(registry).map_err(from_specs)?;
        let revision = applied.snapshot.revision;
        Ok(Done { applied: Some(applied), revision, config: None, changes: vec![change] })
    }))
}

impl Present<'_> {
    /// Checks what can be checked at once and takes next hops for new servers. Hops of servers
    /// that the change does not bring after all go when the registry's servers are next listed.
    pub fn prepare(&mut self, change: Change) -> Result<Run, ApiError> {
        match change {
            Change::Apply { checked, dry_run } => self.apply(*checked, dry_run),
            Change::AddService(service) => self.add_service(service),
            Change::EditService { service, set } => self.edit_service(&service, set),
            Change::RemoveService { service, mode, deadline_s } => {
                let key = self.find_for(mode, &service)?;
                let (removal, verb) = self.removal("service.remove", mode, deadline_s)?;
                run(format!("{verb} service {key}"), move |registry| {
                    registry.remove_service(&key, removal)
                })
            }
            Change::AddServer { service, server } => self.add_server(&service, server),
            Change::RemoveServer { service, server, mode, deadline_s } => {
                let key = self.find(&service)?;
                let (removal, verb) = self.removal("server.remove", mode, deadline_s)?;
                run(format!("{key}: {verb} server {server}"), move |registry| {
                    registry.remove_server(&key, server, removal)
                })
            }
            Change::SetWeight { service, server, weight } => {
                let key = self.find(&service)?;
                run(format!("{key}: weight of {server} is {weight}"), move |registry| {
                    registry.set_weight(&key, server, weight)
                })
            }
        }
    }

    fn find(&self, service: &str) -> Result<ServiceKey, ApiError> {
        find_service(service, self.registry.services().map(|(_, s)| (s.key, s.name.as_deref())))
    }

    /// A service that drains is still there to be removed at once.
    fn find_for(&self, mode: RemovalMode, service: &str) -> Result<ServiceKey, ApiError> {
        let found = self.find(service);
        if mode == RemovalMode::Drain || found.is_ok() {
            return found;
        }
        let all = self.registry.snapshot().services.iter().flatten();
        find_service(service, all.map(|service| (service.key, service.name.as_deref())))
    }

    fn removal(
        &self,
        method: &str,
        mode: RemovalMode,
        deadline_s: Option<u64>,
    ) -> Result<(Removal, &'static str), ApiError> {
        let deadline = |s: u64| self.now + s.saturating_mul(NANOS_PER_SECOND).min(u64::MAX / 2);
        match (mode, deadline_s) {
            (RemovalMode::Drain, s) => Ok((Removal::Drain { deadline: s.map(deadline) }, "drain")),
            (RemovalMode::Now, None) => Ok((Removal::Now, "remove")),
            (RemovalMode::Now, Some(_)) => {
                let message = format!("{method}: `deadline_s` makes no sense with mode `now`");
                Err(ApiError::new(ErrorCode::InvalidParams, message).hint("leave one of them out"))
            }
        }
    }

    fn hops(&mut self, servers: &[ServerSpec]) -> Result<Hops, ApiError> {
        let mut hops = Hops::new();
        for server in servers {
            let id = self.next_hops.hop_for_server(server.address).map_err(|error| {
                ApiError::new(ErrorCode::NoRoom, error.to_string())
                    .hint("remove servers that are not needed")
            })?;
            hops.insert(server.address, id);
        }
        Ok(hops)
    }

    fn apply(&mut self, checked: Checked, dry_run: bool) -> Result<Run, ApiError> {
        let Checked { config, desired } = checked;
        let paths = config.restart_needed(self.config);
        if !paths.is_empty() {
            let message = format!("only a restart can change {}", paths.join(", "));
            return Err(ApiError::new(ErrorCode::NeedsRestart, message)
                .hint("leave them as `config.get` shows them, or restart gyre"));
        }
        let mut changes = difference(self.registry, &desired);
        if (&config.neighbour, &config.route) != (&self.config.neighbour, &self.config.route) {
            changes.push("change static neighbours and routes".into());
        }
        shorten(&mut changes);
        if dry_run {
            return Ok(Box::new(move |registry| {
                registry.check(&desired).map_err(from_specs)?;
                let revision = registry.snapshot().revision;
                Ok(Done { applied: None, revision, config: None, changes })
            }));
        }
        let mut hops = Hops::new();
        for service in &desired.services {
            hops.extend(self.hops(&service.servers)?);
        }
        Ok(Box::new(move |registry| {
            let applied = registry.apply(&desired, &mut hop_in(&hops)).map_err(from_specs)?;
            let revision = applied.snapshot.revision;
            Ok(Done { applied: Some(applied), revision, config: Some(config), changes })
        }))
    }

    fn add_service(&mut self, service: Map<String, Value>) -> Result<Run, ApiError> {
        let judge = |spec: &ServiceSpec| self.registry.check_new_service(spec);
        let spec = service_from_json(&Value::Object(service), &judge).map_err(from_config)?;
        let hops = self.hops(&spec.servers)?;
        run(format!("add service {}", spec.key), move |registry| {
            registry.add_service(&spec, &mut hop_in(&hops))
        })
    }

    fn edit_service(&self, service: &str, set: Map<String, Value>) -> Result<Run, ApiError> {
        let key = self.find(service)?;
        let fixed = ["protocol", "address", "group", "server"];
        if let Some(name) = set.keys().find(|name| fixed.contains(&name.as_str())) {
            let message = format!("service.edit cannot set `{name}`");
            let hint = "remove the service and add it anew, or use server.add and server.remove";
            return Err(ApiError::new(ErrorCode::InvalidParams, message).hint(hint));
        }
        let (spec, _) = self.registry.service(&key).ok_or_else(internal)?;
        let head = ServiceSpec { servers: Vec::new(), ..spec.clone() };
        let Ok(Value::Object(mut written)) = serde_json::to_value(Service::from(&head)) else {
            return Err(internal());
        };
        for (name, value) in set {
            if value.is_null() {
                written.remove(&name);
            } else {
                written.insert(name, value);
            }
        }
        let judge = |edited: &ServiceSpec| {
            let servers = spec.servers.clone();
            self.registry.check_service(&ServiceSpec { servers, ..edited.clone() })
        };
        let spec = service_from_json(&Value::Object(written), &judge).map_err(from_config)?;
        run(format!("edit service {key}"), move |registry| registry.edit_service(&spec))
    }

    fn add_server(&mut self, service: &str, server: Map<String, Value>) -> Result<Run, ApiError> {
        let key = self.find(service)?;
        let (spec, _) = self.registry.service(&key).ok_or_else(internal)?;
        let judge = |spec: &ServiceSpec| self.registry.check_service(spec);
        let server = server_from_json(&Value::Object(server), spec, &judge).map_err(from_config)?;
        let hops = self.hops(std::slice::from_ref(&server))?;
        run(format!("{key}: add server {}", server.endpoint()), move |registry| {
            registry.add_server(&key, &server, &mut hop_in(&hops))
        })
    }
}

fn internal() -> ApiError {
    ApiError::new(ErrorCode::Internal, "the registry lost a service between two looks")
}

/// What `desired` would change, a line each.
fn difference(registry: &Registry, desired: &Desired) -> Vec<String> {
    let mut lines = Vec::new();
    if registry.pools() != desired.pools {
        lines.push("change local_addresses".into());
    }
    if registry.snapshot().semantics != desired.semantics {
        lines.push("change semantics".into());
    }
    let mut old: BTreeMap<ServiceKey, &ServiceSpec> =
        registry.services().map(|(_, spec)| (spec.key, spec)).collect();
    for new in &desired.services {
        match old.remove(&new.key) {
            None => lines.push(format!("add service {}", new.key)),
            Some(old) => {
                if !new.is_same_but_servers(old) {
                    lines.push(format!("edit service {}", new.key));
                }
                server_difference(old, new, &mut lines);
            }
        }
    }
    lines.extend(old.keys().map(|key| format!("drain service {key}")));
    lines
}

fn server_difference(old: &ServiceSpec, new: &ServiceSpec, lines: &mut Vec<String>) {
    let key = new.key;
    let mut before: BTreeMap<SocketAddr, &ServerSpec> =
        old.servers.iter().map(|server| (server.endpoint(), server)).collect();
    for server in &new.servers {
        let endpoint = server.endpoint();
        match before.remove(&endpoint) {
            None => lines.push(format!("{key}: add server {endpoint}")),
            Some(old) if old.weight != server.weight => {
                lines.push(format!("{key}: weight of {endpoint} is {}", server.weight));
            }
            Some(old) if old != server => lines.push(format!("{key}: edit server {endpoint}")),
            Some(_) => {}
        }
    }
    lines.extend(before.keys().map(|endpoint| format!("{key}: drain server {endpoint}")));
}

fn shorten(lines: &mut Vec<String>) {
    if lines.len() > CHANGES_SHOWN_MAX {
        let more = lines.len() - CHANGES_SHOWN_MAX;
        lines.truncate(CHANGES_SHOWN_MAX);
        lines.push(format!("and {more} more"));
    }
}
