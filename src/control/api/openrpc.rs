//! The OpenRPC document of the API (<https://spec.open-rpc.org>), made of the table of methods and
//! the types' own doc comments: what `rpc.discover` serves and docs/CONTROL_API.md is printed from.

use std::sync::OnceLock;

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::error::{ErrorCode, ErrorData};
use super::event::Notice;
use super::methods::{METHODS, Method};

/// Where types are, in references.
pub const TYPES: &str = "#/components/schemas/";

/// Result of `rpc.discover`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Discovery(pub Map<String, Value>);

/// The document; the same for as long as the process lives.
pub fn discovery() -> &'static Discovery {
    static DOCUMENT: OnceLock<Discovery> = OnceLock::new();
    DOCUMENT.get_or_init(document)
}

fn document() -> Discovery {
    let settings = SchemaSettings::draft2020_12()
        .with(|settings| settings.definitions_path = TYPES.trim_start_matches('#').into());
    let mut generator = settings.into_generator();
    let shapes: Vec<(Schema, Schema)> =
        METHODS.iter().map(|m| ((m.params)(&mut generator), (m.result)(&mut generator))).collect();
    let notice = generator.subschema_for::<Notice>();
    let data = generator.subschema_for::<ErrorData>();
    let mut types = generator.take_definitions(true);
    let methods: Vec<Value> = METHODS
        .iter()
        .zip(&shapes)
        .map(|(method, (params, result))| described(method, params, result, &types))
        .collect();
    // Parameters are told member by member.
    let of_results: Vec<&str> = shapes.iter().map(|shape| name_of(shape.1.as_value())).collect();
    for name in shapes.iter().map(|shape| name_of(shape.0.as_value())) {
        if !of_results.contains(&name) {
            types.remove(name);
        }
    }
    let document = json!({
        "openrpc": "1.3.2",
        "info": {
            "title": "gyre",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The control API of gyre, a layer-4 load balancer. Requests are lines \
                            of JSON-RPC 2.0 over a unix socket, or POST /rpc where `http` is \
                            configured.",
            "license": {"name": env!("CARGO_PKG_LICENSE")},
        },
        "methods": methods,
        "components": {"schemas": types, "errors": errors()},
        // What a subscriber gets, and what `error.data` holds: OpenRPC has no place for these.
        "x-notifications": [{"name": "event", "params": notice}],
        "x-error-data": data,
    });
    match document {
        Value::Object(fields) => Discovery(fields),
        _ => Discovery(Map::new()),
    }
}

/// The name behind a schema that is a reference, else nothing.
pub fn name_of(schema: &Value) -> &str {
    schema.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix(TYPES)).unwrap_or("")
}

fn described(
    method: &Method,
    params: &Schema,
    result: &Schema,
    types: &Map<String, Value>,
) -> Value {
    let shape = types.get(name_of(params.as_value()));
    let required = shape.and_then(|shape| shape.get("required")).and_then(Value::as_array);
    let is_required =
        |name: &String| required.is_some_and(|names| names.iter().any(|required| required == name));
    let members = shape.and_then(|shape| shape.get("properties")).and_then(Value::as_object);
    let params: Vec<Value> = members
        .into_iter()
        .flatten()
        .map(
            |(name, schema)| json!({"name": name, "required": is_required(name), "schema": schema}),
        )
        .collect();
    let reference =
        |code: &ErrorCode| json!({"$ref": format!("#/components/errors/{}", code.name())});
    let (asked, answered) = (text(method.example.0), text(method.example.1));
    let values = asked.as_object().into_iter().flatten();
    let values: Vec<Value> =
        values.map(|(name, value)| json!({"name": name, "value": value})).collect();
    json!({
        "name": method.name,
        "description": method.about,
        "paramStructure": "by-name",
        "params": params,
        "result": {"name": "result", "schema": result},
        "errors": method.errors.iter().map(reference).collect::<Vec<_>>(),
        "examples": [{
            "name": method.name,
            "params": values,
            "result": {"name": "result", "value": answered},
        }],
    })
}

fn text(json: &str) -> Value {
    serde_json::from_str(json).unwrap_or_default()
}

/// Errors by their stable names.
fn errors() -> Map<String, Value> {
    let one = |code: &ErrorCode| {
        let data = json!({"code": code.name()});
        let error = json!({"code": code.number(), "message": code.meaning(), "data": data});
        (code.name().to_owned(), error)
    };
    ErrorCode::ALL.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All references in a value.
    fn references<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str));
                fields.values().for_each(|inner| references(inner, found));
            }
            Value::Array(items) => items.iter().for_each(|inner| references(inner, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_to_something() {
        let document = Value::Object(discovery().0.clone());
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 50, "{} references", found.len());
        for reference in found {
            let path = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(path).is_some(), "{reference}");
        }
    }

    #[test]
    fn the_document_has_what_openrpc_demands() {
        let document = Value::Object(discovery().0.clone());
        assert!(document["openrpc"].is_string() && document["info"]["version"].is_string());
        let methods = document["methods"].as_array().unwrap();
        assert_eq!(methods.len(), METHODS.len());
        for method in methods {
            assert!(method["name"].is_string() && method["result"]["schema"].is_object());
            for param in method["params"].as_array().unwrap() {
                assert!(param["name"].is_string() && param["schema"].is_object(), "{param}");
            }
        }
    }
}
