//! Prints docs/CONTROL_API.md from the OpenRPC document, so that neither the page nor what
//! `rpc.discover` serves can drift from the code.

use std::fmt::Write;

use serde_json::{Map, Value};

use super::error::ErrorCode;
use super::openrpc::{TYPES, discovery, name_of};
use crate::limits::{BATCH_CALLS_MAX, CONTROL_CLIENTS_MAX, EVENTS_UNSENT_MAX, REQUEST_BYTES_MAX};

/// The page.
pub fn markdown() -> String {
    let document = &discovery().0;
    let list = |name: &str| document.get(name).and_then(Value::as_array).into_iter().flatten();
    let methods: Vec<&Value> = list("methods").collect();
    let empty = Map::new();
    let types = document.get("components").and_then(|parts| parts["schemas"].as_object());
    let mut page = Page { text: String::new(), types: types.unwrap_or(&empty) };
    let data = name_of(&document["x-error-data"]);
    let notice = list("x-notifications").map(|one| name_of(&one["params"])).next().unwrap_or("");
    page.introduction();
    page.errors(data);
    page.events(notice);
    page.text.push_str("## Methods\n\n");
    for method in &methods {
        let name = word(method, "name");
        let (anchor, about) = (name.replace('.', ""), word(method, "description"));
        page.line(format_args!("- [`{name}`](#{anchor}): {about}"));
    }
    methods.iter().for_each(|method| page.method(method));
    let results = methods.iter().map(|method| name_of(&method["result"]["schema"]));
    let mut tops: Vec<&str> = results.collect();
    tops.extend([data, notice]);
    page.types(&tops);
    page.text.truncate(page.text.trim_end().len());
    page.text.push('\n');
    page.text
}

fn word<'v>(value: &'v Value, name: &str) -> &'v str {
    value.get(name).and_then(Value::as_str).unwrap_or("")
}

/// Which way an object goes: a parameter may be left out, a result's member is always there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Sent,
    Received,
}

/// The page under construction.
struct Page<'a> {
    text: String,
    types: &'a Map<String, Value>,
}

/// A doc comment in one line.
fn about(schema: &Value) -> String {
    let text = schema.get("description").and_then(Value::as_str).unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

/// One row of a table of members.
struct Member<'a> {
    name: &'a str,
    shape: &'a Value,
    required: bool,
}

impl Page<'_> {
    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{text}");
    }

    fn introduction(&mut self) {
        self.line(format_args!(
            "# Control API\n\n\
             <!-- Generated from src/control/api. Do not edit: `UPDATE_DOCS=1 cargo test \
             --no-default-features --test control_api_docs` writes it. -->\n\n\
             gyre listens on a unix socket (`runtime.control_socket`, `/run/gyre/gyre.sock` unless \
             configured; mode 0600, so its owner and root alone). A request is one line of \
             [JSON-RPC 2.0](https://www.jsonrpc.org/specification); so is its reply. A client may \
             send many requests over one connection; they are answered in order. Batches (at most \
             {BATCH_CALLS_MAX} calls) and notifications are understood.\n\n\
             ```sh\n\
             gyre ctl server.set_weight \
             '{{\"service\":\"web\",\"server\":\"192.0.2.11:80\",\"weight\":0}}'\n\
             echo '{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"status\"}}' | nc -NU \
             /run/gyre/gyre.sock\n\
             ```\n\n\
             A line is at most {} MiB long and the socket serves {CONTROL_CLIENTS_MAX} clients at \
             a time. Units end the names: `_s` seconds, `_ms` milliseconds, `_bytes` bytes, \
             `_mbps` megabits a second. Addresses are strings: `192.0.2.1`, `192.0.2.1:80`, \
             `[2001:db8::1]:80`. New members may be added to results; those that are here stay.\n",
            REQUEST_BYTES_MAX >> 20
        ));
    }

    fn errors(&mut self, data: &str) {
        self.line(format_args!(
            "## Errors\n\n\
             An error has a number (`error.code`), a line for people (`error.message`) and \
             `error.data`:\n"
        ));
        self.fields(data, Side::Sent);
        self.line(format_args!("| `error.code` | `error.data.code` | meaning |\n|---|---|---|"));
        for code in ErrorCode::ALL {
            let (number, name, meaning) = (code.number(), code.name(), code.meaning());
            self.line(format_args!("| {number} | `{name}` | {meaning} |"));
        }
        self.line(format_args!(
            "\nAny method may answer with the codes up to -32603 and with `shutting_down`; each \
             method lists the others.\n"
        ));
    }

    fn events(&mut self, notice: &str) {
        self.line(format_args!(
            "## Events\n\n\
             After `events.subscribe` lines of another kind come over the same connection, between \
             replies: notifications of the method `event`, whose `params` are\n"
        ));
        self.fields(notice, Side::Received);
        self.line(format_args!("and the members of one of these:\n"));
        let choices = self.types.get(notice).and_then(|notice| notice.get("oneOf"));
        for choice in choices.and_then(Value::as_array).into_iter().flatten() {
            self.choice(choice);
        }
        self.line(format_args!(
            "\nAt most {EVENTS_UNSENT_MAX} wait for a client; what it misses beyond is told by \
             `events.lost`. Over HTTP the same come from \
             `GET /events`, as server-sent events.\n\n\
             ```json\n{{\"jsonrpc\":\"2.0\",\"method\":\"event\",\"params\":{{\"number\":7,\
             \"time_ms\":1767225600000,\"kind\":\"worker.stalled\",\"worker\":1}}}}\n```\n"
        ));
    }

    fn method(&mut self, method: &Value) {
        let (name, text) = (word(method, "name"), word(method, "description"));
        self.line(format_args!("\n### `{name}`\n\n{text}\n"));
        let params = method["params"].as_array().into_iter().flatten();
        let params: Vec<Member<'_>> = params
            .map(|param| Member {
                name: word(param, "name"),
                shape: &param["schema"],
                required: param["required"] == true,
            })
            .collect();
        if params.is_empty() {
            self.line(format_args!("Parameters: none.\n"));
        } else {
            self.line(format_args!("Parameters:\n"));
            self.table(&params, Side::Sent);
        }
        let result = name_of(&method["result"]["schema"]);
        if self.types.get(result).is_none_or(|t| t.get("properties").is_none()) {
            let about = self.types.get(result).map(about).unwrap_or_default();
            let what = if result == "NoParams" { "none." } else { &*about };
            self.line(format_args!("Result: {what}\n"));
        } else {
            self.line(format_args!("Result:\n"));
            self.fields(result, Side::Received);
        }
        let errors = method["errors"].as_array().into_iter().flatten();
        let names: Vec<String> = errors
            .filter_map(|error| word(error, "$ref").rsplit('/').next())
            .map(|name| format!("`{name}`"))
            .collect();
        if !names.is_empty() {
            self.line(format_args!("Errors: {}.\n", names.join(", ")));
        }
        let example = &method["examples"][0];
        let values = example["params"].as_array().into_iter().flatten();
        let params: Map<String, Value> =
            values.map(|one| (word(one, "name").to_owned(), one["value"].clone())).collect();
        let (params, result) =
            (pretty(&Value::Object(params)), pretty(&example["result"]["value"]));
        self.line(format_args!("```json\n// params\n{params}\n// result\n{result}\n```"));
    }

    /// The table of a type's members.
    fn fields(&mut self, name: &str, side: Side) {
        let Some(schema) = self.types.get(name) else { return };
        let required = schema.get("required").and_then(Value::as_array);
        let is_required =
            |name: &str| required.is_some_and(|names| names.iter().any(|one| one == name));
        let properties = schema.get("properties").and_then(Value::as_object);
        let members: Vec<Member<'_>> = properties
            .into_iter()
            .flatten()
            .map(|(name, shape)| Member { name, shape, required: is_required(name) })
            .collect();
        self.table(&members, side);
    }

    fn table(&mut self, members: &[Member<'_>], side: Side) {
        self.line(format_args!("| member | type | meaning |\n|---|---|---|"));
        for Member { name, shape, required } in members {
            let default = shape.get("default").filter(|default| !default.is_null());
            let note = match default {
                Some(default) => format!(" ({default} unless given)"),
                None if side == Side::Sent && !required => " (optional)".into(),
                None => String::new(),
            };
            let (kind, about) = (kind_of(shape), about(shape));
            self.line(format_args!("| `{name}` | {kind} | {about}{note} |"));
        }
        self.text.push('\n');
    }

    /// Everything that methods refer to.
    fn types(&mut self, tops: &[&str]) {
        self.line(format_args!("\n## Types\n"));
        for (name, schema) in self.types.iter().filter(|(name, _)| !tops.contains(&name.as_str())) {
            self.line(format_args!("### {name}\n\n{}\n", about(schema)));
            if schema.get("properties").is_some() {
                self.fields(name, Side::Received);
                continue;
            }
            for variant in ["oneOf", "anyOf"].iter().filter_map(|key| schema.get(*key)) {
                for choice in variant.as_array().into_iter().flatten() {
                    self.choice(choice);
                }
            }
            self.text.push('\n');
        }
    }

    /// One of several values that a type may have: a word, or an object that is told by one.
    fn choice(&mut self, choice: &Value) {
        let members = choice.get("properties").and_then(Value::as_object);
        let words = members.into_iter().flatten().filter_map(|(_, shape)| shape.get("const"));
        let value = match choice.get("const").or(words.into_iter().next()) {
            Some(value) => format!("`{value}`"),
            None => kind_of(choice),
        };
        self.line(format_args!("- {value}: {}", about(choice)));
        let others =
            members.into_iter().flatten().filter(|(_, shape)| shape.get("const").is_none());
        for (name, shape) in others {
            let (kind, about) = (kind_of(shape), about(shape));
            self.line(format_args!("  - `{name}` ({kind}): {about}"));
        }
    }
}

/// A member's type in words.
fn kind_of(shape: &Value) -> String {
    if let Some(name) = shape.get("$ref").and_then(Value::as_str) {
        let name = name.trim_start_matches(TYPES);
        return format!("[{name}](#{})", name.to_lowercase());
    }
    if let Some(choices) = shape.get("anyOf").and_then(Value::as_array) {
        return choices.iter().map(kind_of).collect::<Vec<_>>().join(" or ");
    }
    let names: Vec<&str> = match shape.get("type") {
        Some(Value::String(name)) => vec![name],
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        _ => return "any".into(),
    };
    let words = names.iter().map(|name| match (*name, shape.get("items")) {
        ("array", Some(items)) => format!("array of {}", kind_of(items)),
        (name, _) => name.to_owned(),
    });
    words.collect::<Vec<_>>().join(" or ")
}
