//! What one configuration changes of another, a line each, and which of these changes undo others.
//! Only compares; what is done about it is the core's.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use hashbrown::HashMap;
use serde_json::{Map, Value};

use super::history::Kept;
use crate::config::{Checked, Config, Semantics as WrittenSemantics, Service};
use crate::model::{Semantics, ServerSpec, ServiceKey, ServiceSpec};

/// A value in a line of changes is cut here.
const VALUE_CHARS_MAX: usize = 60;

/// A whole configuration to compare.
pub struct Side<'a> {
    statics: &'a Config,
    semantics: Semantics,
    services: BTreeMap<ServiceKey, &'a ServiceSpec>,
}

impl<'a> From<&'a Kept> for Side<'a> {
    fn from(kept: &'a Kept) -> Self {
        let services = kept.services.iter().map(|spec| (spec.key, Arc::as_ref(spec)));
        Side { statics: &kept.statics, semantics: kept.semantics, services: services.collect() }
    }
}

impl<'a> From<&'a Checked> for Side<'a> {
    fn from(checked: &'a Checked) -> Self {
        let services = checked.desired.services.iter().map(|spec| (spec.key, spec));
        Side {
            statics: &checked.config,
            semantics: checked.desired.semantics,
            services: services.collect(),
        }
    }
}

/// Where a change is: a service, a server of it, a field; less says the whole of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    service: Option<ServiceKey>,
    server: Option<SocketAddr>,
    field: Option<String>,
}

impl Place {
    fn whole(field: impl Into<String>) -> Self {
        Place { service: None, server: None, field: Some(field.into()) }
    }

    fn service(key: ServiceKey) -> Self {
        Place { service: Some(key), server: None, field: None }
    }

    fn server(key: ServiceKey, endpoint: SocketAddr) -> Self {
        Place { service: Some(key), server: Some(endpoint), field: None }
    }

    fn of(&self, field: &str) -> Self {
        Place { field: Some(field.to_owned()), ..self.clone() }
    }

    /// Whether a change here has to do with one there, both of the same service.
    fn meets(&self, other: &Place) -> bool {
        let is_all = |place: &Place| place.server.is_none() && place.field.is_none();
        if is_all(self) || is_all(other) {
            return true;
        }
        self.server == other.server
            && (self.field.is_none() || other.field.is_none() || self.field == other.field)
    }
}

/// A line and what it is about.
#[derive(Debug)]
struct Item {
    line: String,
    places: Vec<Place>,
}

/// All that differs.
#[derive(Debug, Default)]
pub struct Difference {
    items: Vec<Item>,
}

impl Difference {
    /// What makes `new` out of `old`.
    pub fn between(old: &Side<'_>, new: &Side<'_>) -> Self {
        let mut found = Difference::default();
        found.statics(old, new);
        for (key, spec) in &new.services {
            match old.services.get(key) {
                None => found.push(format!("add service {key}"), vec![Place::service(*key)]),
                // Shared specs are compared by a pointer.
                Some(old) if std::ptr::eq(*old, *spec) || old == spec => {}
                Some(old) => found.service(old, spec),
            }
        }
        for key in old.services.keys().filter(|key| !new.services.contains_key(*key)) {
            found.push(format!("drain service {key}"), vec![Place::service(*key)]);
        }
        found
    }

    /// The lines, in the order of services.
    pub fn lines(&self) -> Vec<String> {
        self.items.iter().map(|item| item.line.clone()).collect()
    }

    /// Those of these changes whose place `later` changes again.
    pub fn overwritten_by(&self, later: &Difference) -> Vec<String> {
        let mut places: HashMap<Option<ServiceKey>, Vec<&Place>> = HashMap::new();
        for place in later.items.iter().flat_map(|item| &item.places) {
            places.entry(place.service).or_default().push(place);
        }
        let meets = |place: &Place| {
            places.get(&place.service).is_some_and(|all| all.iter().any(|one| place.meets(one)))
        };
        let lost = self.items.iter().filter(|item| item.places.iter().any(meets));
        lost.map(|item| item.line.clone()).collect()
    }

    fn push(&mut self, line: String, places: Vec<Place>) {
        self.items.push(Item { line, places });
    }

    fn statics(&mut self, old: &Side<'_>, new: &Side<'_>) {
        let (before, after) = (&old.statics.local_addresses, &new.statics.local_addresses);
        let names = before.keys().chain(after.keys().filter(|name| !before.contains_key(*name)));
        for name in names.filter(|name| before.get(*name) != after.get(*name)) {
            let verb = match (before.get(name), after.get(name)) {
                (None, _) => "add",
                (_, None) => "remove",
                _ => "change",
            };
            let place = Place::whole(format!("local_addresses.{name}"));
            self.push(format!("{verb} local_addresses.{name}"), vec![place]);
        }
        if old.semantics != new.semantics {
            let written = |semantics: &Semantics| fields(&WrittenSemantics::from(semantics));
            let changes = changed(&written(&old.semantics), &written(&new.semantics));
            let places = changes.iter().map(|c| Place::whole(format!("semantics.{}", c.name)));
            let places = places.collect();
            self.push(format!("change semantics{}", shown(&changes)), places);
        }
        if old.statics.neighbour != new.statics.neighbour {
            self.push("change static neighbours".into(), vec![Place::whole("neighbour")]);
        }
        if old.statics.mark != new.statics.mark {
            self.push("change firewall marks".into(), vec![Place::whole("mark")]);
        }
        if old.statics.route != new.statics.route {
            self.push("change static routes".into(), vec![Place::whole("route")]);
        }
    }

    fn service(&mut self, old: &ServiceSpec, new: &ServiceSpec) {
        let key = new.key;
        if !new.is_same_but_servers(old) {
            let head = |spec: &ServiceSpec| {
                let head = ServiceSpec { servers: Vec::new(), ..spec.clone() };
                fields(&Service::from(&head))
            };
            let changes = changed(&head(old), &head(new));
            let places = changes.iter().map(|c| Place::service(key).of(&c.name)).collect();
            self.push(format!("edit service {key}{}", shown(&changes)), places);
        }
        let mut before: BTreeMap<SocketAddr, &ServerSpec> =
            old.servers.iter().map(|server| (server.endpoint(), server)).collect();
        for server in &new.servers {
            let endpoint = server.endpoint();
            let place = Place::server(key, endpoint);
            match before.remove(&endpoint) {
                None => self.push(format!("{key}: add server {endpoint}"), vec![place]),
                Some(was) if was != server => self.server((old, was), (new, server)),
                Some(_) => {}
            }
        }
        for endpoint in before.keys() {
            let line = format!("{key}: drain server {endpoint}");
            self.push(line, vec![Place::server(key, *endpoint)]);
        }
    }

    fn server(&mut self, old: (&ServiceSpec, &ServerSpec), new: (&ServiceSpec, &ServerSpec)) {
        let (key, endpoint) = (new.0.key, new.1.endpoint());
        let written = |(service, server): (&ServiceSpec, &ServerSpec)| {
            let one = ServiceSpec { servers: vec![server.clone()], ..service.clone() };
            let mut fields = Service::from(&one).server.first().map(fields).unwrap_or_default();
            // The service's own mode goes without saying, but not where it changes.
            let mode = crate::config::Forwarding::from(server.mode).word();
            fields.insert("forwarding".into(), mode.into());
            fields
        };
        let changes = changed(&written(old), &written(new));
        let place = Place::server(key, endpoint);
        let places = changes.iter().map(|c| place.of(&c.name)).collect();
        let line = match &changes[..] {
            [one] if one.name == "weight" => {
                format!("{key}: weight of {endpoint} is {} (was {})", one.new, one.old)
            }
            _ => format!("{key}: edit server {endpoint}{}", shown(&changes)),
        };
        self.push(line, places);
    }
}

/// A field with another value.
struct FieldChange {
    name: String,
    old: String,
    new: String,
}

fn fields(value: &impl serde::Serialize) -> Map<String, Value> {
    match serde_json::to_value(value) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}

fn changed(old: &Map<String, Value>, new: &Map<String, Value>) -> Vec<FieldChange> {
    let gone = old.keys().filter(|name| !new.contains_key(*name));
    let names = new.keys().chain(gone).filter(|name| old.get(*name) != new.get(*name));
    names
        .map(|name| FieldChange {
            name: name.clone(),
            old: text(old.get(name)),
            new: text(new.get(name)),
        })
        .collect()
}

/// A value as one word, not too long.
fn text(value: Option<&Value>) -> String {
    let text = match value {
        None => return "unset".into(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(checks)) if checks.iter().any(|one| one.get("kind").is_some()) => {
            let kind = |one: &Value| one.get("kind").map(|kind| kind.as_str().map(str::to_owned));
            let kinds: Vec<String> = checks.iter().filter_map(|one| kind(one)?).collect();
            kinds.join("+")
        }
        Some(value) => value.to_string(),
    };
    if text.chars().count() <= VALUE_CHARS_MAX {
        return text;
    }
    text.chars().take(VALUE_CHARS_MAX).chain("...".chars()).collect()
}

fn shown(changes: &[FieldChange]) -> String {
    let one = |change: &FieldChange| format!("{} {} (was {})", change.name, change.new, change.old);
    let all: Vec<String> = changes.iter().map(one).collect();
    if all.is_empty() { String::new() } else { format!(": {}", all.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::check;

    const PORT: &str = "port = [{ name = \"wan\", device = \"net_null0\" }]\n";

    fn checked(services: &str) -> Checked {
        check(&format!("{PORT}service = [{services}]")).unwrap()
    }

    fn between(old: &Checked, new: &Checked) -> Difference {
        Difference::between(&old.into(), &new.into())
    }

    const WEB: &str = r#"{ address = "192.0.2.80:80", scheduler = "rr", server = [
        { address = "10.0.0.1", weight = 3 }, { address = "10.0.0.2" }] }"#;

    #[test]
    fn each_difference_is_a_line_with_both_values() {
        let new = WEB
            .replace("\"rr\"", "\"wlc\", connections_max = 9")
            .replace("weight = 3", "weight = 5")
            .replace("{ address = \"10.0.0.2\" }", "{ address = \"10.0.0.3\" }");
        let other = "{ address = \"192.0.2.81:80\" }";
        let lines = between(&checked(&format!("{WEB}, {other}")), &checked(&new)).lines();
        assert_eq!(
            lines,
            [
                "edit service tcp 192.0.2.80:80: scheduler wlc (was rr), connections_max 9 \
                 (was unset)",
                "tcp 192.0.2.80:80: weight of 10.0.0.1:80 is 5 (was 3)",
                "tcp 192.0.2.80:80: add server 10.0.0.3:80",
                "tcp 192.0.2.80:80: drain server 10.0.0.2:80",
                "drain service tcp 192.0.2.81:80",
            ]
        );
        assert!(between(&checked(&new), &checked(&new)).lines().is_empty());
    }

    #[test]
    fn only_what_is_changed_again_is_overwritten() {
        let file = checked(WEB);
        let running = checked(&WEB.replace("weight = 3", "weight = 0").replace("rr", "wrr"));
        let unsaved = between(&file, &running);
        assert_eq!(unsaved.lines().len(), 2);
        // The same file again takes both back.
        assert_eq!(unsaved.overwritten_by(&between(&running, &file)).len(), 2);
        // A file that has the weight takes the scheduler back alone.
        let half = checked(&WEB.replace("weight = 3", "weight = 0"));
        let lost = unsaved.overwritten_by(&between(&running, &half));
        assert_eq!(lost.len(), 1, "{lost:?}");
        assert!(lost[0].contains("scheduler wrr (was rr)"), "{lost:?}");
        // One that has both and something else takes nothing back.
        let more =
            WEB.replace("weight = 3", "weight = 0").replace("\"rr\"", "\"wrr\", mss_max = 1400");
        assert!(unsaved.overwritten_by(&between(&running, &checked(&more))).is_empty());
    }
}
