//! Changes asked for over the socket: what they mean, checked against what is, made ready to run
//! on the registry off the control thread.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hashbrown::{HashMap, HashSet};
use serde_json::{Map, Value};

use super::history::{Extent, Kept};
use super::naming::find_service;
use super::refusal::{from_config, from_specs};
use super::whole::Whole;
use crate::config::{Config, Service, server_from_json, server_to_json, service_from_json};
use crate::control::api::{ApiError, ErrorCode, RemovalMode, SetTimeoutsParams};
use crate::limits::{CHANGES_SHOWN_MAX, TIMEOUT_MILLIS_MAX};
use crate::model::next_hops::NextHops;
use crate::model::{
    Applied, Desired, ForwardMode, NextHopId, RealServer, Registry, Removal, ServerSpec,
    ServiceKey, ServiceSpec, SpecProblem,
};
use crate::time::{NANOS_PER_SECOND, Nanos};

/// A change as asked for, its texts parsed where that takes long.
pub enum Change {
    Whole(Box<Whole>),
    AddService(Map<String, Value>),
    AddServices(Vec<Map<String, Value>>),
    RemoveServices(RemovalMode),
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
    EditServer {
        service: String,
        server: SocketAddr,
        set: Map<String, Value>,
    },
    SetTimeouts(SetTimeoutsParams),
    SetWeight {
        service: String,
        server: SocketAddr,
        weight: u32,
    },
}

impl Change {
    /// The method that asked for it.
    fn method(&self) -> &'static str {
        match self {
            Change::Whole(_) => "config.apply",
            Change::AddService(_) => "service.add",
            Change::AddServices(_) => "service.add_many",
            Change::RemoveServices(_) => "service.remove_all",
            Change::EditService { .. } => "service.edit",
            Change::RemoveService { .. } => "service.remove",
            Change::AddServer { .. } => "server.add",
            Change::RemoveServer { .. } => "server.remove",
            Change::EditServer { .. } => "server.edit",
            Change::SetTimeouts(_) => "timeouts.set",
            Change::SetWeight { .. } => "server.set_weight",
        }
    }
}

/// What a change came to.
#[derive(Default)]
pub struct Done {
    /// To be published, unless nothing was to change.
    pub applied: Option<Applied>,
    /// Revision that holds it.
    pub revision: u64,
    /// The configuration's static part, when that is new.
    pub config: Option<Arc<Config>>,
    /// A line for each change.
    pub changes: Vec<String>,
    /// How it came about.
    pub made: (Extent, String),
    /// What runs from now on, if anything was made.
    pub kept: Option<Kept>,
    /// Where the whole was replaced, or would be.
    pub whole: Option<WholeDone>,
}

/// What else the replacement of the whole came to.
#[derive(Default)]
pub struct WholeDone {
    pub lost: Vec<String>,
    pub needs_restart: Vec<String>,
    pub confirm: Option<Duration>,
    /// What ran before, unless it was only tried.
    pub before: Option<Kept>,
    /// Whether it is what the file says.
    pub is_file: bool,
}

/// A change ready to run; it may take long.
pub type Run = Box<dyn FnOnce(&mut Registry) -> Result<Done, ApiError> + Send>;

/// What changes are checked against.
pub struct Present<'a> {
    pub registry: &'a Registry,
    pub next_hops: &'a mut NextHops,
    pub config: &'a Arc<Config>,
    /// What the file says, once it is known.
    pub saved: &'a Option<Kept>,
    pub now: Nanos,
}

type Outcome = Result<Applied, Vec<SpecProblem>>;
/// Next hops by server address.
pub type Hops = HashMap<IpAddr, NextHopId>;

/// Looks them up.
pub fn hop_in(hops: &Hops) -> impl FnMut(IpAddr) -> NextHopId {
    |rip| hops.get(&rip).copied().unwrap_or(NextHopId::NONE)
}

fn run(
    change: String,
    work: impl FnOnce(&mut Registry) -> Outcome + Send + 'static,
) -> Result<Run, ApiError> {
    Ok(Box::new(move |registry| {
        let applied = work(registry).map_err(from_specs)?;
        let revision = applied.snapshot.revision;
        let applied = Some(applied);
        Ok(Done { applied, revision, changes: vec![change], ..Done::default() })
    }))
}

impl Present<'_> {
    /// Checks what can be checked at once and takes next hops for new servers. Hops of servers
    /// that the change does not bring after all go when the registry's servers are next listed.
    pub fn prepare(&mut self, change: Change) -> Result<Run, ApiError> {
        let (method, statics) = (change.method(), Arc::clone(self.config));
        let run = match change {
            Change::Whole(whole) => return self.whole(*whole),
            change => self.single(change)?,
        };
        Ok(Box::new(move |registry| {
            let mut done = run(registry)?;
            if done.applied.as_ref().is_some_and(|applied| applied.changed) {
                done.made = (Extent::Single, method.to_owned());
                done.kept = Some(Kept::of(&statics, registry));
            }
            Ok(done)
        }))
    }

    fn single(&mut self, change: Change) -> Result<Run, ApiError> {
        match change {
            Change::Whole(_) => Err(internal()),
            Change::AddService(service) => self.add_service(service),
            Change::AddServices(services) => self.add_services(services),
            Change::RemoveServices(mode) => {
                let (removal, verb) = self.removal("service.remove_all", mode, None)?;
                let count = self.registry.services().count();
                run(format!("{verb} all {count} services"), move |registry| {
                    registry.apply(&beside(registry, Vec::new(), removal), &mut |_| NextHopId::NONE)
                })
            }
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
            Change::EditServer { service, server, set } => self.edit_server(&service, server, set),
            Change::SetTimeouts(params) => self.set_timeouts(params),
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

    fn add_service(&mut self, service: Map<String, Value>) -> Result<Run, ApiError> {
        let judge = |spec: &ServiceSpec| self.registry.check_new_service(spec);
        let spec = service_from_json(&Value::Object(service), &judge).map_err(from_config)?;
        let mut hops = Hops::new();
        self.hops(spec.all_servers(), &mut hops)?;
        run(format!("add service {}", spec.key), move |registry| {
            registry.add_service(&spec, &mut hop_in(&hops))
        })
    }

    /// Many services as one change. The whole is judged by the registry, which is cheaper than to
    /// judge each beside the others.
    fn add_services(&mut self, services: Vec<Map<String, Value>>) -> Result<Run, ApiError> {
        let read = |service| service_from_json(&Value::Object(service), &|_| Vec::new());
        let specs: Result<Vec<ServiceSpec>, _> = services.into_iter().map(read).collect();
        let specs = specs.map_err(from_config)?;
        let mut keys: HashSet<ServiceKey> =
            self.registry.services().map(|(_, spec)| spec.key).collect();
        if let Some(there) = specs.iter().find(|spec| !keys.insert(spec.key)) {
            let message = format!("{}: the service exists already", there.key);
            return Err(ApiError::new(ErrorCode::Exists, message).hint("edit it instead"));
        }
        let mut hops = Hops::new();
        self.hops(specs.iter().flat_map(ServiceSpec::all_servers), &mut hops)?;
        let mut changes: Vec<String> =
            specs.iter().map(|spec| format!("add service {}", spec.key)).collect();
        if changes.len() > CHANGES_SHOWN_MAX {
            let more = changes.len() - CHANGES_SHOWN_MAX;
            changes.truncate(CHANGES_SHOWN_MAX);
            changes.push(format!("and {more} more"));
        }
        Ok(Box::new(move |registry| {
            let all = registry.services().map(|(_, spec)| spec.clone()).chain(specs).collect();
            let desired = beside(registry, all, Removal::Drain { deadline: None });
            let applied = registry.apply(&desired, &mut hop_in(&hops)).map_err(from_specs)?;
            let revision = applied.snapshot.revision;
            Ok(Done { applied: Some(applied), revision, changes, ..Done::default() })
        }))
    }

    fn edit_service(&mut self, service: &str, set: Map<String, Value>) -> Result<Run, ApiError> {
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
        let mut hops = Hops::new();
        self.hops(spec.sorry_server.iter(), &mut hops)?;
        run(format!("edit service {key}"), move |registry| {
            registry.edit_service(&spec, &mut hop_in(&hops))
        })
    }

    fn add_server(&mut self, service: &str, server: Map<String, Value>) -> Result<Run, ApiError> {
        let key = self.find(service)?;
        let (spec, _) = self.registry.service(&key).ok_or_else(internal)?;
        let judge = |spec: &ServiceSpec| self.registry.check_service(spec);
        let server = server_from_json(&Value::Object(server), spec, &judge).map_err(from_config)?;
        let mut hops = Hops::new();
        self.hops(std::iter::once(&server), &mut hops)?;
        run(format!("{key}: add server {}", server.endpoint()), move |registry| {
            registry.add_server(&key, &server, &mut hop_in(&hops))
        })
    }
}

impl Present<'_> {
    fn edit_server(
        &self,
        service: &str,
        endpoint: SocketAddr,
        set: Map<String, Value>,
    ) -> Result<Run, ApiError> {
        let key = self.find(service)?;
        let (spec, live) = self.registry.service(&key).ok_or_else(internal)?;
        let is_it = |server: &&ServerSpec| server.endpoint() == endpoint;
        let draining = live
            .servers
            .iter()
            .find(|server| (server.address, server.port) == (endpoint.ip(), endpoint.port()));
        let Some(old) = spec.servers.iter().find(is_it).cloned().or(draining.map(spec_of)) else {
            let message = format!("{key}: the service has no server {endpoint}");
            let error = ApiError::new(ErrorCode::NotFound, message);
            return Err(error.hint("`gyre services` lists them"));
        };
        if set.contains_key("address") {
            let error = ApiError::new(ErrorCode::InvalidParams, "server.edit cannot set `address`");
            return Err(error.hint("add another server and remove this one"));
        }
        let mut written = server_to_json(&old, spec);
        for (name, value) in set {
            if value.is_null() {
                written.remove(&name);
            } else {
                written.insert(name, value);
            }
        }
        let judge = |spec: &ServiceSpec| self.registry.check_service(spec);
        let others = spec.servers.iter().filter(|server| !is_it(server)).cloned().collect();
        let beside = ServiceSpec { servers: others, ..spec.clone() };
        let new =
            server_from_json(&Value::Object(written), &beside, &judge).map_err(from_config)?;
        if (new.mode == ForwardMode::Local) != (old.mode == ForwardMode::Local) {
            let message = format!("{key}: server {endpoint} is or becomes the director itself");
            return Err(ApiError::new(ErrorCode::InvalidConfig, message)
                .hint("remove the server, then add it with the other forwarding"));
        }
        run(format!("{key}: edit server {endpoint}"), move |registry| {
            registry.edit_server(&key, &new)
        })
    }

    /// As `ipvsadm --set`.
    fn set_timeouts(&self, params: SetTimeoutsParams) -> Result<Run, ApiError> {
        let mut semantics = self.registry.snapshot().semantics;
        let timeouts = &mut semantics.timeouts;
        for (name, asked, timeout) in [
            ("tcp_s", params.tcp_s, &mut timeouts.established_ms),
            ("tcp_fin_s", params.tcp_fin_s, &mut timeouts.fin_wait_ms),
            ("udp_s", params.udp_s, &mut timeouts.udp_ms),
        ] {
            let Some(seconds) = asked else { continue };
            let longest = TIMEOUT_MILLIS_MAX / 1000;
            if !(1..=longest).contains(&seconds) {
                let message = format!("{name} = {seconds} is not within 1 to {longest} seconds");
                let error = ApiError::new(ErrorCode::InvalidConfig, message);
                return Err(error.hint("leave it out to keep what it is"));
            }
            *timeout = seconds * 1000;
        }
        run("change semantics".into(), move |registry| Ok(registry.set_semantics(semantics)))
    }
}

/// These services, with all else as it is.
fn beside(registry: &Registry, services: Vec<ServiceSpec>, removal: Removal) -> Desired {
    let semantics = registry.snapshot().semantics;
    Desired { pools: registry.pools().to_vec(), services, semantics, removal }
}

fn spec_of(server: &RealServer) -> ServerSpec {
    let endpoint = SocketAddr::new(server.address, server.port);
    ServerSpec {
        upper_threshold: server.upper_threshold,
        lower_threshold: server.lower_threshold,
        tunnel: server.tunnel,
        ..ServerSpec::new(endpoint, server.weight, server.mode)
    }
}

fn internal() -> ApiError {
    ApiError::new(ErrorCode::Internal, "the registry lost a service between two looks")
}
