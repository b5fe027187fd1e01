//! The table of methods: names, types, errors, examples. What the socket understands, what the
//! documentation says and what a mistyped name is compared with all come from here.

use schemars::{Schema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::check::{ChecksResult, ListChecksParams};
use super::config::{
    ApplyParams, ApplyResult, ConfigResult, ConfirmResult, GetParams, ReloadParams,
    RevisionsResult, RollbackParams, SaveParams, SaveResult,
};
use super::connection::{DeleteParams, DeleteResult, ListConnectionsParams, ListConnectionsResult};
use super::error::{ApiError, ErrorCode};
use super::event::{SubscribeParams, SubscribeResult};
use super::neighbour::NeighboursResult;
use super::openrpc::Discovery;
use super::port::PortsResult;
use super::server::{
    AddServerParams, EditServerParams, ListServersParams, RemoveServerParams, ServersResult,
    SetWeightParams,
};
use super::service::{
    AddServiceParams, AddServicesParams, EditServiceParams, ListServicesParams,
    RemoveServiceParams, RemoveServicesParams, ServicesResult,
};
use super::stats::{Stats, ZeroParams};
use super::status::Status;
use super::timeouts::{MarksResult, SetTimeoutsParams, TimeoutsResult};
use super::worker::WorkersResult;
use super::{Changed, NoParams};

/// One method of the socket, as the documentation shows it.
pub struct Method {
    /// Name.
    pub name: &'static str,
    /// What it does.
    pub about: &'static str,
    /// JSON schema of the parameters.
    pub params: fn(&mut SchemaGenerator) -> Schema,
    /// JSON schema of the result.
    pub result: fn(&mut SchemaGenerator) -> Schema,
    /// Errors beside the general ones.
    pub errors: &'static [ErrorCode],
    /// Parameters and result, as JSON.
    pub example: (&'static str, &'static str),
    /// The result's text after a way through its type, for the test of `example`.
    pub normalize: fn(&str) -> Result<Value, serde_json::Error>,
}

fn normalize<T: Serialize + DeserializeOwned>(text: &str) -> Result<Value, serde_json::Error> {
    serde_json::to_value(serde_json::from_str::<T>(text)?)
}

/// Declares the methods: name, variant, types, errors, example.
macro_rules! methods {
    ($($name:literal => $variant:ident($params:ty) -> $result:ty, [$($code:ident),*],
        $about:literal, $example_params:literal, $example_result:literal;)*) => {
        /// A call whose parameters are of the right types.
        #[derive(Clone, Debug)]
        pub enum Request { $(#[doc = $about] $variant($params)),* }

        impl Request {
            /// Types the parameters of a call.
            pub fn read(method: &str, params: Option<Value>) -> Result<Self, ApiError> {
                match method {
                    $($name => Ok(Request::$variant(read_params($name, params)?)),)*
                    _ => Err(no_such_method(method)),
                }
            }

            /// The method's name.
            pub const fn method(&self) -> &'static str {
                match self { $(Request::$variant(_) => $name),* }
            }
        }

        /// Every method, in the order of the documentation.
        pub const METHODS: &[Method] = &[$(Method {
            name: $name,
            about: $about,
            params: SchemaGenerator::subschema_for::<$params>,
            result: SchemaGenerator::subschema_for::<$result>,
            errors: &[$(ErrorCode::$code),*],
            example: ($example_params, $example_result),
            normalize: normalize::<$result>,
        }),*];
    };
}

methods! {
    "status" => Status(NoParams) -> Status, [],
        "Whether gyre runs, what it runs and whether anything is wrong.",
        "{}",
        r#"{"version":"0.1.0","pid":4711,"uptime_s":3600,"config_path":"/etc/gyre/gyre.toml",
            "revision":3,"workers":2,"workers_stalled":[],"ports":1,"ports_down":[],"services":1,
            "servers":2,"servers_down":1,"flows":1200,"flows_created":90000,"drops":12,
            "drops_expected":4,"config_revision":2,
            "neighbours_unresolved":0}"#;
    "config.get" => ConfigGet(GetParams) -> ConfigResult, [NotFound],
        "The running configuration, with what was changed over the socket; or an earlier one.",
        r#"{"format":"toml"}"#,
        r#"{"revision":3,"config":"[runtime]\nworkers = 2\n"}"#;
    "config.apply" => ConfigApply(ApplyParams) -> ApplyResult,
        [InvalidConfig, NeedsRestart, NoRoom, Unconfirmed],
        "Replaces the configuration in one step: all of it or, on any error, nothing. Servers that \
         are no longer listed are drained. What only a start can change (`runtime`, `port`) must \
         stay as it is.",
        r#"{"config":{"service":[{"address":"192.0.2.80:80","protocol":"tcp","scheduler":"rr"}]},
            "dry_run":true}"#,
        r#"{"revision":3,"changes":["add service tcp 192.0.2.80:80"],"lost":[],
            "needs_restart":[],"confirm_within_s":null}"#;
    "config.reload" => ConfigReload(ReloadParams) -> ApplyResult,
        [InvalidConfig, NeedsRestart, NoRoom, Unsaved, Unconfirmed, File],
        "Applies the file that gyre was started with, as it is now. Refused where it would undo \
         changes that were made over the socket and not saved, unless `discard` says so.",
        r#"{"confirm_s":60}"#,
        r#"{"revision":4,"changes":["tcp 192.0.2.80:80: weight of 192.0.2.11:80 is 2 (was 1)"],
            "lost":[],"needs_restart":[],"confirm_within_s":60}"#;
    "config.confirm" => ConfigConfirm(NoParams) -> ConfirmResult, [Unconfirmed],
        "Keeps the configuration that was applied with `confirm_s`.",
        "{}",
        r#"{"revision":4}"#;
    "config.revisions" => ConfigRevisions(NoParams) -> RevisionsResult, [],
        "The configurations that ran, the newest first, and what of the present one is not saved.",
        "{}",
        r#"{"revisions":[{"revision":4,"time_s":1767225600,"by":"reload of /etc/gyre/gyre.toml",
            "running":true,"services":1,
            "changes":["tcp 192.0.2.80:80: weight of 192.0.2.11:80 is 2 (was 1)"]}],
            "unsaved":[],"confirm_within_s":null}"#;
    "config.rollback" => ConfigRollback(RollbackParams) -> ApplyResult,
        [NotFound, InvalidConfig, NoRoom, Unconfirmed],
        "Applies an earlier revision anew. What waits to be confirmed is given up by it.",
        r#"{"revision":3}"#,
        r#"{"revision":5,"changes":["tcp 192.0.2.80:80: weight of 192.0.2.11:80 is 1 (was 2)"],
            "lost":[],"needs_restart":[],"confirm_within_s":null}"#;
    "config.save" => ConfigSave(SaveParams) -> SaveResult, [Unconfirmed, FileChanged, File],
        "Writes what runs to the file that gyre was started with. What has not changed stays as it \
         is written there, with its comments.",
        "{}",
        r#"{"revision":9,"path":"/etc/gyre/gyre.toml",
            "changes":["tcp 192.0.2.80:80: weight of 192.0.2.11:80 is 0 (was 3)"]}"#;
    "service.list" => ServiceList(ListServicesParams) -> ServicesResult, [NotFound],
        "Virtual services with their servers and counts.",
        r#"{"service":"web"}"#,
        r#"{"services":[{"protocol":"tcp","address":"192.0.2.80:80","name":"web","mark":null,
            "family":"ipv4","scheduler":"wrr","scheduler_flags":[],"persistence_timeout_s":null,
            "persistence_prefix":null,"one_packet":false,"local_addresses":null,
            "synproxy":false,"connections_max":null,"flows":40,"connections":90000,
            "in_packets":800000,"in_bytes":104000000,"out_packets":0,"out_bytes":0,
            "rates":{"connections":25,"in_packets":220,"in_bytes":28000,"out_packets":0,
            "out_bytes":0},"refused":0,"cookies_sent":0,"cookies_proven":0,"quorum":null,
            "servers":[]}]}"#;
    "service.add" => ServiceAdd(AddServiceParams) -> Changed, [InvalidConfig, Exists, NoRoom],
        "Adds a virtual service.",
        r#"{"service":{"address":"192.0.2.80:443","protocol":"tcp","scheduler":"rr",
            "forwarding":"dr","server":[{"address":"192.0.2.11:443"}]}}"#,
        r#"{"revision":4,"changes":["add service tcp 192.0.2.80:443"]}"#;
    "service.add_many" => ServiceAddMany(AddServicesParams) -> Changed,
        [InvalidConfig, Exists, NoRoom],
        "Adds virtual services in one step: all of them or, on any error, none.",
        r#"{"services":[{"address":"192.0.2.80:443","forwarding":"dr",
            "server":[{"address":"192.0.2.11"}]}]}"#,
        r#"{"revision":4,"changes":["add service tcp 192.0.2.80:443"]}"#;
    "service.edit" => ServiceEdit(EditServiceParams) -> Changed, [NotFound, InvalidConfig, NoRoom],
        "Changes options of a virtual service; its servers and flows stay.",
        r#"{"service":"web","set":{"scheduler":"wrr","connections_max":null}}"#,
        r#"{"revision":5,"changes":["edit service tcp 192.0.2.80:80"]}"#;
    "service.remove" => ServiceRemove(RemoveServiceParams) -> Changed, [NotFound],
        "Removes a virtual service: drained unless told otherwise. While it drains its address \
         stays, and new clients are answered as if it had no server.",
        r#"{"service":"tcp 192.0.2.80:443","mode":"drain","deadline_s":60}"#,
        r#"{"revision":6,"changes":["drain service tcp 192.0.2.80:443"]}"#;
    "service.remove_all" => ServiceRemoveAll(RemoveServicesParams) -> Changed, [],
        "Removes every virtual service in one step: drained unless told otherwise.",
        r#"{"mode":"now"}"#,
        r#"{"revision":7,"changes":["remove all 2 services"]}"#;
    "server.list" => ServerList(ListServersParams) -> ServersResult, [NotFound],
        "Real servers with their counts.",
        r#"{"service":"web"}"#,
        r#"{"servers":[{"service":"tcp 192.0.2.80:80","address":"192.0.2.11:80",
            "forwarding":"dr","tunnel":null,"tunnel_port":null,"tunnel_checksum":null,
            "weight":0,"weight_asked":3,"health":"down",
            "health_reason":"http check: status 503, wanted 200","health_since_s":12,
            "upper_threshold":0,"lower_threshold":0,"state":"active",
            "reachable":true,"active":30,"inactive":10,"templates":0,"connections":45000,
            "in_packets":400000,"in_bytes":52000000,
            "out_packets":0,"out_bytes":0,"rates":{"connections":12,"in_packets":110,
            "in_bytes":14000,"out_packets":0,"out_bytes":0},"refused":0}]}"#;
    "server.add" => ServerAdd(AddServerParams) -> Changed,
        [NotFound, InvalidConfig, Exists, NoRoom],
        "Adds a real server. One that is draining comes back, with its counts.",
        r#"{"service":"web","server":{"address":"192.0.2.12:80","weight":3}}"#,
        r#"{"revision":7,"changes":["tcp 192.0.2.80:80: add server 192.0.2.12:80"]}"#;
    "server.remove" => ServerRemove(RemoveServerParams) -> Changed, [NotFound],
        "Removes a real server: drained unless told otherwise.",
        r#"{"service":"web","server":"192.0.2.12:80","mode":"drain","deadline_s":60}"#,
        r#"{"revision":8,"changes":["tcp 192.0.2.80:80: drain server 192.0.2.12:80"]}"#;
    "server.edit" => ServerEdit(EditServerParams) -> Changed, [NotFound, InvalidConfig],
        "Changes options of a real server; its flows stay, and go on as they began. One that is \
         draining takes new flows again.",
        r#"{"service":"web","server":"192.0.2.11:80","set":{"weight":2,"upper_threshold":null}}"#,
        r#"{"revision":9,"changes":["tcp 192.0.2.80:80: edit server 192.0.2.11:80"]}"#;
    "server.set_weight" => ServerSetWeight(SetWeightParams) -> Changed, [NotFound, InvalidConfig],
        "Changes a real server's share of new flows.",
        r#"{"service":"web","server":"192.0.2.11:80","weight":0}"#,
        r#"{"revision":9,"changes":["tcp 192.0.2.80:80: weight of 192.0.2.11:80 is 0"]}"#;
    "check.list" => CheckList(ListChecksParams) -> ChecksResult, [NotFound],
        "Health checks: what they are aimed at and how they stand.",
        r#"{"service":"web"}"#,
        r#"{"checks":[{"service":"tcp 192.0.2.80:80","server":"192.0.2.11:80","check":"http",
            "target":"http://192.0.2.11:80/","state":"bad","since_s":12,
            "last":"status 503, wanted 200","last_ago_ms":800,"took_us":null,
            "interval_ms":2000}]}"#;
    "connections.list" => ConnectionsList(ListConnectionsParams) -> ListConnectionsResult,
        [InvalidParams, WorkerTimeout, NoRoom],
        "Live flows that match, at most `limit` of them.",
        r#"{"vip":"192.0.2.80","state":"ESTABLISHED","limit":10}"#,
        r#"{"connections":[{"protocol":"tcp","client":"198.51.100.7:40312",
            "virtual":"192.0.2.80:80","local":"192.0.2.8:1024","server":"192.0.2.11:80",
            "forwarding":"fullnat","state":"ESTABLISHED","expires_ms":899000,"packets":12,
            "worker":1}],"truncated":true,"next":"0.17-1.9"}"#;
    "connections.delete" => ConnectionsDelete(DeleteParams) -> DeleteResult,
        [InvalidParams, WorkerTimeout, NoRoom],
        "Ends the flows that match, without a word to either side.",
        r#"{"client":"198.51.100.7"}"#,
        r#"{"deleted":1}"#;
    "stats" => Stats(NoParams) -> Stats, [],
        "Everything that is counted. Counts start at 0 with gyre and only grow, but for those \
         that say how much is in use now.",
        "{}",
        r#"{"drops":[{"name":"no_server","count":2,
            "meaning":"the service has no usable server; port unreachable was answered"}],
            "hand_offs":[],"replies":[],"helpers":[],"workers":[],"ports":[],"services":[],
            "local_addresses":[{"pool":"pool1","address":"192.0.2.8","port_first":1024,
            "port_last":65535,"used":40,"free":128984,"reused":7,"exhausted":0}],
            "neighbours_unresolved":[]}"#;
    "stats.zero" => StatsZero(ZeroParams) -> NoParams, [NotFound],
        "Starts what is counted of services and servers at 0 again, as `ipvsadm -Z`.",
        r#"{"service":"web"}"#,
        "{}";
    "timeouts.get" => TimeoutsGet(NoParams) -> TimeoutsResult, [],
        "The idle timeouts that `ipvsadm -L --timeout` shows.",
        "{}",
        r#"{"tcp_s":900,"tcp_fin_s":120,"udp_s":300}"#;
    "timeouts.set" => TimeoutsSet(SetTimeoutsParams) -> Changed, [InvalidConfig],
        "Sets them, as `ipvsadm --set`: each holds for a flow from its next packet on.",
        r#"{"udp_s":60}"#,
        r#"{"revision":10,"changes":["change semantics"]}"#;
    "marks.list" => MarksList(NoParams) -> MarksResult, [],
        "Which packets carry a firewall mark: the configuration's `[[mark]]`.",
        "{}",
        r#"{"marks":[{"mark":8,"match":[{"address":"192.0.2.80:80","protocol":"tcp"}]}]}"#;
    "workers.list" => WorkersList(NoParams) -> WorkersResult, [],
        "Workers: whether they turn, and what they did.",
        "{}",
        r#"{"workers":[{"id":0,"stalled":false,"turns":81000000,"idle_turns":80000000,
            "busy_ns":2400000000,"busy_cycles":6000000000,
            "revision":9,"flows":600,"flows_created":45000,"flows_expired":44400,
            "flows_shed":0,"locality_full":0,"pending":0,
            "fast_frames":800000,"rx_frames":900000,"tx_frames":900000,"hand_offs":0,"drops":6}]}"#;
    "ports.list" => PortsList(NoParams) -> PortsResult, [],
        "Ports: link, queues, frames, what the device lost, buffers.",
        "{}",
        r#"{"ports":[{"id":0,"name":"wan","device":"0000:3b:00.0","driver":"net_ice",
            "kernel":"tap","interface":"wan","mac":"02:00:00:00:00:01","mtu":1500,"vlan":null,
            "addresses":["192.0.2.2"],"link_up":true,"link_mbps":25000,"rx_queues":2,
            "tx_queues":2,"rx_frames":1800000,"rx_bytes":230000000,"tx_frames":1800000,
            "tx_bytes":230000000,"to_kernel":300,"from_kernel":280,"rx_missed":0,"rx_nombuf":0,
            "rx_errors":0,"tx_errors":0,"tx_full":0,
            "kernel_refused":0,"kernel_ring_full":0,"kernel_nombuf":0,
            "mempools":[{"name":"mbuf0","size":32768,"in_use":4200}]}]}"#;
    "neighbours.list" => NeighboursList(NoParams) -> NeighboursResult, [],
        "Next hops towards servers, routers and clients, and whether they are resolved.",
        "{}",
        r#"{"neighbours":[{"address":"192.0.2.11","target":null,"port":"wan",
            "mac":"02:00:00:00:00:11","resolved":true,"mtu":1500}]}"#;
    "events.subscribe" => EventsSubscribe(SubscribeParams) -> SubscribeResult, [],
        "From now on tells this connection what happens, by notifications. Again replaces the \
         kinds; an empty list ends it.",
        r#"{"kinds":["server.down","server.up"]}"#,
        r#"{"kinds":["server.down","server.up"]}"#;
    "rpc.discover" => Discover(NoParams) -> Discovery, [],
        "This API as an OpenRPC document.",
        "{}",
        r#"{"openrpc":"1.3.2"}"#;
    "shutdown" => Shutdown(NoParams) -> NoParams, [],
        "Stops gyre: workers finish their turn, interfaces and rules go away.",
        "{}",
        "{}";
}

fn read_params<T: DeserializeOwned>(method: &str, params: Option<Value>) -> Result<T, ApiError> {
    let params = match params {
        Some(Value::Array(_)) => {
            let message = format!("{method}: parameters go by name, in an object");
            return Err(ApiError::new(ErrorCode::InvalidParams, message));
        }
        Some(params) => params,
        None => Value::Object(serde_json::Map::new()),
    };
    serde_json::from_value(params).map_err(|error| {
        ApiError::new(ErrorCode::InvalidParams, format!("{method}: {error}"))
            .hint("docs/CONTROL_API.md lists the parameters of every method")
    })
}

fn no_such_method(method: &str) -> ApiError {
    let shown: String = method.chars().take(64).collect();
    let error = ApiError::new(ErrorCode::MethodNotFound, format!("there is no method `{shown}`"));
    match closest(&shown) {
        Some(name) => error.hint(format!("did you mean `{name}`?")),
        None => {
            let names: Vec<_> = METHODS.iter().map(|method| method.name).collect();
            error.hint(format!("methods: {}", names.join(", ")))
        }
    }
}

/// The method whose name is fewest edits away, if that is few.
pub fn closest(name: &str) -> Option<&'static str> {
    let distance = |method: &&Method| edits(name, method.name);
    let best = METHODS.iter().min_by_key(distance)?;
    (edits(name, best.name) <= 3.min(name.chars().count() / 2)).then_some(best.name)
}

/// Levenshtein distance: insertions, removals and replacements from `a` to `b`.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_are_what_the_types_read_and_write() {
        for method in METHODS {
            let params = serde_json::from_str(method.example.0).unwrap();
            let request = Request::read(method.name, Some(params)).unwrap();
            assert_eq!(request.method(), method.name);
            let shown: Value = serde_json::from_str(method.example.1).unwrap();
            assert_eq!((method.normalize)(method.example.1).unwrap(), shown, "{}", method.name);
        }
    }

    #[test]
    fn a_mistyped_method_gets_a_suggestion() {
        let hint = |name| Request::read(name, None).unwrap_err().data.unwrap().hint.unwrap();
        assert_eq!(hint("sevice.list"), "did you mean `service.list`?");
        assert_eq!(hint("stat"), "did you mean `stats`?");
        assert!(hint("frobnicate").starts_with("methods: status, "));
        assert!(hint("").starts_with("methods: "));
        assert!(hint(&"x".repeat(10_000)).len() < 2_000);
    }

    #[test]
    fn unknown_and_missing_parameters_are_named() {
        let error = |method, params: &str| {
            let error = Request::read(method, Some(serde_json::from_str(params).unwrap()));
            let error = error.unwrap_err();
            assert_eq!(error.code, -32602);
            error.message
        };
        assert!(error("status", r#"{"verbose":true}"#).contains("`verbose`"));
        assert!(error("server.remove", r#"{"service":"web"}"#).contains("`server`"));
        assert!(error("connections.list", r#"{"vport":70000}"#).contains("70000"));
        assert!(error("status", "[]").contains("by name"));
    }

    #[test]
    fn distance_counts_edits() {
        assert_eq!(edits("", "abc"), 3);
        assert_eq!(edits("kitten", "sitting"), 3);
        assert_eq!(edits("same", "same"), 0);
    }
}
