//! A configuration as it was written, from TOML or JSON: values with their places in the text.
//!
//! Knows nothing of meaning; `shape` judges it.

use std::ops::Range;

use toml_edit::{Array, Document, InlineTable, Item, Table, Value as TomlValue};

/// Line and column, both from 1; columns count characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Position {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

/// A value and where it stands; JSON from the socket has no places.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) at: Option<Position>,
    pub(super) value: Value,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    Bool(bool),
    List(Vec<Node>),
    Table(Vec<Entry>),
    /// A kind of value that no field takes, in words.
    Other(&'static str),
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_at: Option<Position>,
    pub(super) node: Node,
}

impl Value {
    /// What the value is, for "a string is given".
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Value::Text(_) => "a string",
            Value::Integer(_) => "an integer",
            Value::Bool(_) => "a boolean",
            Value::List(_) => "a list",
            Value::Table(_) => "a table",
            Value::Other(kind) => kind,
        }
    }
}

/// Byte offsets to lines and columns.
pub(super) struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let after_newlines = text.match_indices('\n').map(|(at, _)| at + 1);
        Lines { text, starts: std::iter::once(0).chain(after_newlines).collect() }
    }

    pub(super) fn position(&self, span: Option<Range<usize>>) -> Option<Position> {
        let offset = span?.start.min(self.text.len());
        let line = self.starts.partition_point(|start| *start <= offset);
        let before = self.text.as_bytes().get(self.starts[line - 1]..offset)?;
        // Bytes that do not continue a character begin one.
        let characters = before.iter().filter(|byte| **byte & 0xc0 != 0x80).count();
        Some(Position { line, column: characters + 1 })
    }
}

/// A TOML document as a table.
pub(super) fn from_toml(document: &Document<String>, lines: &Lines) -> Node {
    let start = Some(Position { line: 1, column: 1 });
    Node { at: start, ..table(document.as_table(), lines) }
}

fn item(item: &Item, lines: &Lines) -> Node {
    match item {
        Item::Value(value) => toml_value(value, lines),
        Item::Table(inner) => table(inner, lines),
        Item::ArrayOfTables(tables) => Node {
            at: lines.position(tables.span()),
            value: Value::List(tables.iter().map(|inner| table(inner, lines)).collect()),
        },
        Item::None => Node { at: None, value: Value::Other("nothing") },
    }
}

fn entry(key: &str, key_at: Option<Position>, mut node: Node) -> Entry {
    node.at = node.at.or(key_at);
    Entry { key: key.to_owned(), key_at, node }
}

fn table(table: &Table, lines: &Lines) -> Node {
    let entries: Vec<Entry> = table
        .iter()
        .map(|(key, inner)| {
            let key_at = table.key(key).and_then(|key| lines.position(key.span()));
            entry(key, key_at, item(inner, lines))
        })
        .collect();
    // A table made by a dotted key has no header: its first key stands for it.
    let first = entries.first().and_then(|entry| entry.key_at);
    Node { at: lines.position(table.span()).or(first), value: Value::Table(entries) }
}

fn inline(table: &InlineTable, lines: &Lines) -> Node {
    let entries = table
        .iter()
        .map(|(key, inner)| {
            let key_at = table.key(key).and_then(|key| lines.position(key.span()));
            entry(key, key_at, toml_value(inner, lines))
        })
        .collect();
    Node { at: lines.position(table.span()), value: Value::Table(entries) }
}

fn list(array: &Array, lines: &Lines) -> Value {
    Value::List(array.iter().map(|inner| toml_value(inner, lines)).collect())
}

fn toml_value(toml: &TomlValue, lines: &Lines) -> Node {
    let value = match toml {
        TomlValue::String(text) => Value::Text(text.value().clone()),
        TomlValue::Integer(number) => Value::Integer(*number.value()),
        TomlValue::Boolean(yes) => Value::Bool(*yes.value()),
        TomlValue::Float(_) => Value::Other("a number with a fraction"),
        TomlValue::Datetime(_) => Value::Other("a date"),
        TomlValue::Array(array) => list(array, lines),
        TomlValue::InlineTable(table) => return inline(table, lines),
    };
    Node { at: lines.position(toml.span()), value }
}

/// A JSON value.
pub(super) fn from_json(json: &serde_json::Value) -> Node {
    use serde_json::Value as Json;
    let value = match json {
        Json::Null => Value::Other("null"),
        Json::Bool(yes) => Value::Bool(*yes),
        Json::Number(number) => match number.as_i64() {
            Some(number) => Value::Integer(number),
            None if number.is_u64() => Value::Integer(i64::MAX),
            None => Value::Other("a number with a fraction"),
        },
        Json::String(text) => Value::Text(text.clone()),
        Json::Array(items) => Value::List(items.iter().map(from_json).collect()),
        Json::Object(fields) => Value::Table(
            fields.iter().map(|(key, inner)| entry(key, None, from_json(inner))).collect(),
        ),
    };
    Node { at: None, value }
}
