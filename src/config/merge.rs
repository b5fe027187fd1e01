//! Writes what runs into the text it once came from: what has not changed stays as somebody wrote
//! it, comments included. Where that cannot be done the whole is written anew.

use std::collections::BTreeMap;

use hashbrown::HashMap;
use serde::Serialize;
use toml_edit::{ArrayOfTables, DocumentMut, Item, Table, TableLike, Value};

use super::types::{Config, Mark, Neighbour, Pool, Route, Semantics, Server, Service};
use super::values::Endpoint;
use super::{Checked, Fields, check, fields};
use crate::model::{ServiceKey, ServiceSpec};

/// `text` changed so that it says `new`, which must be without fault.
pub fn merge(text: &str, new: &Config) -> Result<String, toml_edit::ser::Error> {
    match merged(text, new) {
        Some(merged) if says(&merged, new) => Ok(merged),
        _ => new.to_toml(),
    }
}

/// Parts that are written anew, behind what stays.
#[derive(Default, Serialize)]
struct Tail<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    semantics: Option<&'a Semantics>,
    #[serde(skip_serializing_if = "Option::is_none")]
    local_addresses: Option<&'a BTreeMap<String, Pool>>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    neighbour: &'a [Neighbour],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    route: &'a [Route],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    mark: &'a [Mark],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    service: Vec<&'a Service>,
}

/// The same but for what a process cannot change, and in one order of services.
fn says(text: &str, new: &Config) -> bool {
    let Ok(Checked { config, mut desired }) = check(text) else { return false };
    let mut wanted = new.desired();
    desired.services.sort_by_key(|service| service.key);
    wanted.services.sort_by_key(|service| service.key);
    let rest = |config: &Config| Config {
        service: Vec::new(),
        semantics: Semantics::default(),
        ..config.clone()
    };
    desired == wanted && rest(&config) == rest(new)
}

fn merged(text: &str, new: &Config) -> Option<String> {
    let Checked { config: old, desired } = check(text).ok()?;
    let mut document: DocumentMut = text.parse().ok()?;
    let mut tail = Tail::default();
    let mut replace = |name: &str, differs: bool| {
        let gone = differs.then(|| document.remove(name));
        gone.is_some()
    };
    if replace("semantics", desired.semantics != new.desired().semantics) {
        tail.semantics = Some(&new.semantics);
    }
    if replace("local_addresses", old.local_addresses != new.local_addresses) {
        tail.local_addresses = Some(&new.local_addresses);
    }
    if replace("neighbour", old.neighbour != new.neighbour) {
        tail.neighbour = &new.neighbour;
    }
    if replace("route", old.route != new.route) {
        tail.route = &new.route;
    }
    if replace("mark", old.mark != new.mark) {
        tail.mark = &new.mark;
    }
    tail.service = services(&mut document, &desired.services, new);
    let tail = toml_edit::ser::to_string_pretty(&tail).ok()?;
    let mut text = document.to_string();
    if !tail.trim().is_empty() {
        if !text.is_empty() {
            text = format!("{}\n\n", text.trim_end());
        }
        text.push_str(&tail);
    }
    Some(text)
}

/// Edits the services that are written as `[[service]]`; gives those that are to follow.
fn services<'n>(
    document: &mut DocumentMut,
    old: &[ServiceSpec],
    new: &'n Config,
) -> Vec<&'n Service> {
    let Some(Item::ArrayOfTables(tables)) = document.get_mut("service") else {
        // Written as one value, which would be unreadable with another service in it.
        let canonical: Vec<Service> = old.iter().map(Service::from).collect();
        if canonical == new.service && !canonical.is_empty() {
            return Vec::new();
        }
        document.remove("service");
        return new.service.iter().collect();
    };
    let mut wanted: HashMap<ServiceKey, &Service> =
        new.service.iter().filter_map(|service| Some((service.key()?, service))).collect();
    for at in (0..tables.len()).rev() {
        let Some(spec) = old.get(at) else { continue };
        match (wanted.remove(&spec.key), tables.get_mut(at)) {
            (Some(service), Some(table)) => {
                let was = Service::from(spec);
                if was != *service {
                    edit_service(table, &was, service);
                }
            }
            _ => drop(tables.remove(at)),
        }
    }
    let follows = |service: &&Service| service.key().is_some_and(|key| wanted.contains_key(&key));
    new.service.iter().filter(follows).collect()
}

fn edit_service(table: &mut Table, old: &Service, new: &Service) {
    let without_servers = |service: &Service| {
        let mut fields = fields(service);
        fields.remove("server");
        fields
    };
    edit_fields(table, (&without_servers(old), &without_servers(new)), &values(new));
    if old.server == new.server {
        return;
    }
    let kept = old.server.iter().filter(|old| new.server.iter().any(|n| n.address == old.address));
    let added = new.server.iter().filter(|n| old.server.iter().all(|o| o.address != n.address));
    let in_order = kept.chain(added).map(|server| server.address);
    let keeps_order = in_order.eq(new.server.iter().map(|server| server.address));
    match table.get_mut("server") {
        Some(Item::ArrayOfTables(tables)) if keeps_order => {
            let mut list = List::Tables(tables);
            edit_servers(&mut list, &old.server, &new.server);
        }
        Some(Item::Value(Value::Array(array))) if keeps_order => {
            let mut list = List::Inline(array);
            edit_servers(&mut list, &old.server, &new.server);
        }
        _ => {
            let tables: ArrayOfTables = new.server.iter().map(values).collect();
            table.insert("server", Item::ArrayOfTables(tables));
        }
    }
}

/// A list of tables in either way of writing it.
enum List<'a> {
    Tables(&'a mut ArrayOfTables),
    Inline(&'a mut toml_edit::Array),
}

impl List<'_> {
    fn get_mut(&mut self, at: usize) -> Option<&mut dyn TableLike> {
        match self {
            List::Tables(tables) => tables.get_mut(at).map(|table| table as &mut dyn TableLike),
            List::Inline(array) => {
                let table = array.get_mut(at)?.as_inline_table_mut()?;
                Some(table as &mut dyn TableLike)
            }
        }
    }

    fn remove(&mut self, at: usize) {
        match self {
            List::Tables(tables) => drop(tables.remove(at)),
            List::Inline(array) => drop(array.remove(at)),
        }
    }

    fn push(&mut self, table: Table) {
        match self {
            List::Tables(tables) => tables.push(table),
            List::Inline(array) => array.push(table.into_inline_table()),
        }
    }
}

fn edit_servers(list: &mut List<'_>, old: &[Server], new: &[Server]) {
    let mut wanted: HashMap<Endpoint, &Server> =
        new.iter().map(|server| (server.address, server)).collect();
    for (at, was) in old.iter().enumerate().rev() {
        match (wanted.remove(&was.address), list.get_mut(at)) {
            (Some(server), Some(table)) => {
                edit_fields(table, (&fields(was), &fields(server)), &values(server));
            }
            _ => list.remove(at),
        }
    }
    for server in new.iter().filter(|server| wanted.contains_key(&server.address)) {
        list.push(values(server));
    }
}

/// Sets and takes away what differs.
fn edit_fields(table: &mut dyn TableLike, (old, new): (&Fields, &Fields), values: &Table) {
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        table.remove(name);
    }
    for name in new.keys().filter(|name| old.get(*name) != new.get(*name)) {
        let Some(value) = values.get(name) else { continue };
        match (table.get_mut(name), value) {
            (Some(Item::Value(there)), Item::Value(value)) => {
                // What surrounds it, a comment behind it for one, stays.
                let decor = there.decor().clone();
                *there = value.clone();
                *there.decor_mut() = decor;
            }
            (_, value) => drop(table.insert(name, value.clone())),
        }
    }
}

/// The value's fields, as TOML values.
fn values(value: &impl Serialize) -> Table {
    toml_edit::ser::to_document(value).map(|made| made.as_table().clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"# The director of rack 7.
runtime.workers = 2

[[port]]
name = "wan" # uplink
device = "net_null0"

# The shop; ask Ada before touching it.
[[service]]
address = "192.0.2.80:80"
scheduler = "rr" # since the fire

[[service.server]]
address = "10.0.0.1"
weight = 3 # the old machine

[[service.server]]
address = "10.0.0.2"

# Mail.
[[service]]
address = "192.0.2.81:25"
server = [{ address = "10.0.0.3", weight = 1 }, { address = "10.0.0.4" }]
"#;

    /// As it would run.
    fn running(edit: impl FnOnce(&mut Config)) -> Config {
        let Checked { config, desired } = check(TEXT).unwrap();
        let mut config = config.with_services(desired.services.iter(), &desired.semantics);
        edit(&mut config);
        config
    }

    #[test]
    fn what_has_not_changed_stays_letter_by_letter() {
        assert_eq!(merge(TEXT, &running(|_| {})).unwrap(), TEXT);
    }

    #[test]
    fn a_change_touches_its_line_alone() {
        let new = running(|config| {
            config.service[0].server[0].weight = 0;
            config.service[1].server[1].weight = 7;
        });
        let merged = merge(TEXT, &new).unwrap();
        let wanted = TEXT
            .replace("weight = 3 #", "weight = 0 #")
            .replace("\"10.0.0.4\" }", "\"10.0.0.4\" , weight = 7 }");
        assert_eq!(merged.replace(" ,", ","), wanted.replace(" ,", ","));
    }

    #[test]
    fn what_comes_and_goes_leaves_the_rest_alone() {
        let new = running(|config| {
            config.service[0].server.remove(1);
            let mut more = config.service[1].server[0].clone();
            more.address = "10.0.0.9:25".parse().unwrap();
            config.service[1].server.push(more.clone());
            more.address = "10.0.0.9:80".parse().unwrap();
            config.service[0].server.push(more);
            let mut third = config.service[0].clone();
            third.address = Some("192.0.2.82:80".parse().unwrap());
            config.service.push(third);
            config.semantics.sloppy_tcp = true;
        });
        let merged = merge(TEXT, &new).unwrap();
        assert!(says(&merged, &new), "{merged}");
        for kept in ["# The director of rack 7.", "# uplink", "ask Ada", "# since the fire"] {
            assert!(merged.contains(kept), "{kept}: {merged}");
        }
        let gone = merge(TEXT, &running(|config| drop(config.service.remove(0)))).unwrap();
        assert!(!gone.contains("Ada") && gone.contains("# Mail."), "{gone}");
    }

    #[test]
    fn where_nothing_can_stay_the_whole_is_written() {
        let new = running(|config| config.service[0].server.reverse());
        assert!(says(&merge(TEXT, &new).unwrap(), &new));
        assert!(says(&merge("not = [toml", &new).unwrap(), &new));
        assert!(says(&merge("", &new).unwrap(), &new));
    }
}
