//! Writes docs/CONTROL_API.md from the table of methods and the types' own doc comments, so that
//! the page cannot drift from the code.

use std::fmt::Write;

use schemars::{Schema, SchemaGenerator};
use serde_json::{Map, Value};

use super::error::{ErrorCode, ErrorData};
use super::methods::{METHODS, Method};
use crate::limits::{BATCH_CALLS_MAX, CONTROL_CLIENTS_MAX, REQUEST_BYTES_MAX};

const PREFIX: &str = "#/$defs/";

/// The page.
pub fn markdown() -> String {
    let mut generator = SchemaGenerator::default();
    let shapes: Vec<_> =
        METHODS.iter().map(|m| ((m.params)(&mut generator), (m.result)(&mut generator))).collect();
    let error_data = generator.subschema_for::<ErrorData>();
    let types = generator.take_definitions(true);
    let mut page = Page { text: String::new(), types: &types };
    page.introduction();
    page.errors(&error_data);
    page.text.push_str("## Methods\n\n");
    for method in METHODS {
        let anchor = method.name.replace('.', "");
        page.line(format_args!("- [`{}`](#{anchor}): {}", method.name, method.about));
    }
    for (method, (params, result)) in METHODS.iter().zip(&shapes) {
        page.method(method, params, result);
    }
    let mut tops: Vec<&str> = shapes.iter().flat_map(|(p, r)| [name_of(p), name_of(r)]).collect();
    tops.push(name_of(&error_data));
    page.types(&tops);
    page.text.truncate(page.text.trim_end().len());
    page.text.push('\n');
    page.text
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

/// The name behind a schema that is a reference, else nothing.
fn name_of(schema: &Schema) -> &str {
    schema.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix(PREFIX)).unwrap_or("")
}

/// A doc comment in one line.
fn about(schema: &Value) -> String {
    let text = schema.get("description").and_then(Value::as_str).unwrap_or_default();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn pretty(json: &str) -> String {
    let value: Value = serde_json::from_str(json).unwrap_or_default();
    serde_json::to_string_pretty(&value).unwrap_or_default()
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

    fn errors(&mut self, data: &Schema) {
        self.line(format_args!(
            "## Errors\n\n\
             An error has a number (`error.code`), a line for people (`error.message`) and \
             `error.data`:\n"
        ));
        self.fields(name_of(data), Side::Sent);
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

    fn method(&mut self, method: &Method, params: &Schema, result: &Schema) {
        self.line(format_args!("\n### `{}`\n\n{}\n", method.name, method.about));
        let parts = [("Parameters", params, Side::Sent), ("Result", result, Side::Received)];
        for (heading, schema, side) in parts {
            let name = name_of(schema);
            let is_empty = self.types.get(name).is_none_or(|t| t.get("properties").is_none());
            if is_empty {
                self.line(format_args!("{heading}: none.\n"));
            } else {
                self.line(format_args!("{heading}:\n"));
                self.fields(name, side);
            }
        }
        if !method.errors.is_empty() {
            let names: Vec<_> =
                method.errors.iter().map(|code| format!("`{}`", code.name())).collect();
            self.line(format_args!("Errors: {}.\n", names.join(", ")));
        }
        let (params, result) = (pretty(method.example.0), pretty(method.example.1));
        self.line(format_args!("```json\n// params\n{params}\n// result\n{result}\n```"));
    }

    /// The table of an object's members.
    fn fields(&mut self, name: &str, side: Side) {
        let Some(schema) = self.types.get(name) else { return };
        let required: Vec<&str> = schema
            .get("required")
            .and_then(Value::as_array)
            .map(|names| names.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default();
        self.line(format_args!("| member | type | meaning |\n|---|---|---|"));
        let properties = schema.get("properties").and_then(Value::as_object);
        for (member, shape) in properties.into_iter().flatten() {
            let default = shape.get("default").filter(|default| !default.is_null());
            let note = match default {
                Some(default) => format!(" ({default} unless given)"),
                None if side == Side::Sent && !required.contains(&member.as_str()) => {
                    " (optional)".into()
                }
                None => String::new(),
            };
            let (kind, about) = (kind_of(shape), about(shape));
            self.line(format_args!("| `{member}` | {kind} | {about}{note} |"));
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
                    let value = match choice.get("const") {
                        Some(value) => format!("`{value}`"),
                        None => kind_of(choice),
                    };
                    self.line(format_args!("- {value}: {}", about(choice)));
                }
            }
            self.text.push('\n');
        }
    }
}

/// A member's type in words.
fn kind_of(shape: &Value) -> String {
    if let Some(name) = shape.get("$ref").and_then(Value::as_str) {
        let name = name.trim_start_matches(PREFIX);
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
