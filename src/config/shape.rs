//! Judges a written configuration against the schema: unknown keys, wrong types, values out of
//! range. Finds all of them, and gives what is left when the wrong parts are taken out, so that
//! meanings can be judged in the same pass.

use hashbrown::{HashMap, HashSet};
use serde_json::{Map, Value as Json};

use super::node::{Entry, Node, Position, Value};
use super::problem::Problem;

/// What a value must look like.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    /// Any text.
    Text,
    /// `true` or `false`.
    Bool,
    /// An integer within bounds.
    Integer(i64, i64),
    /// One of the names; those of the second list are known but not there yet.
    Choice(&'static [&'static str], &'static [&'static str]),
    /// Text that a parser takes, and an example of it.
    Parsed(fn(&str) -> Result<(), String>, &'static str),
    /// A list.
    List(&'static Shape),
    /// Exactly two integers within bounds.
    Pair(i64, i64),
    /// A table with these fields.
    Table(&'static [Field]),
    /// A table with keys of the user's.
    Map(&'static Shape),
}

/// One field of a table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) shape: Shape,
    pub(super) required: bool,
    /// A field that may be given instead of a required one.
    pub(super) instead: Option<&'static str>,
    /// One line for the reference.
    pub(super) about: &'static str,
}

impl Shape {
    /// What to write, in words.
    pub(super) fn expected(&self) -> String {
        match self {
            Shape::Text => "a string".into(),
            Shape::Bool => "true or false".into(),
            Shape::Integer(min, max) => format!("an integer, {min} to {max}"),
            Shape::Choice(names, _) => format!("one of {}", quoted(names)),
            Shape::Parsed(_, example) => format!("a string like {example}"),
            Shape::List(Shape::Table(_)) => "a list of tables".into(),
            Shape::List(inner) => format!("a list: [{}, ...]", inner.expected()),
            Shape::Pair(min, max) => format!("two integers, {min} to {max}: [lowest, highest]"),
            Shape::Table(_) | Shape::Map(_) => "a table".into(),
        }
    }
}

pub(super) fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
}

/// The outcome of a walk.
#[derive(Debug, Default)]
pub(super) struct Walk {
    pub(super) problems: Vec<Problem>,
    /// Where each path stands in the text.
    positions: HashMap<String, Position>,
    /// Paths of fields that had a wrong value and were left out.
    dropped: HashSet<String>,
    /// By path of a list: which of its elements are left, by their original positions.
    kept: HashMap<String, Vec<usize>>,
}

impl Walk {
    pub(super) fn push(&mut self, path: &str, message: String, remedy: String) {
        let position = self.position(path);
        self.problems.push(Problem { position, path: path.to_owned(), message, remedy });
    }

    /// Where `path` stands, or the nearest part of it that is written down.
    pub(super) fn position(&self, path: &str) -> Option<Position> {
        let mut path = path;
        loop {
            if let Some(position) = self.positions.get(path) {
                return Some(*position);
            }
            path = match path.rfind(['.', '[']) {
                Some(end) => &path[..end],
                None => return self.positions.get("").copied(),
            };
        }
    }

    /// Whether the value at `path` was wrong, so that nothing can be said about what follows.
    pub(super) fn is_dropped(&self, path: &str) -> bool {
        self.dropped.contains(path)
    }

    /// Whether anything at or below the field `name` of the whole was wrong.
    pub(super) fn any_dropped_in(&self, name: &str) -> bool {
        self.dropped.iter().any(|dropped| dropped.starts_with(name))
    }

    /// `list[at]` as it was written, when `at` counts what is left.
    pub(super) fn element(&self, list: &str, at: usize) -> String {
        let original = self.kept.get(list).and_then(|kept| kept.get(at));
        format!("{list}[{}]", original.unwrap_or(&at))
    }

    /// Checks `node`; gives it back as JSON without its wrong parts, `None` when nothing is left.
    pub(super) fn check(&mut self, node: &Node, shape: &Shape, path: &str) -> Option<Json> {
        if let Some(at) = node.at {
            self.positions.entry(path.to_owned()).or_insert(at);
        }
        match (shape, &node.value) {
            (Shape::Bool, Value::Bool(yes)) => Some(Json::Bool(*yes)),
            (Shape::Text, Value::Text(text)) => Some(Json::String(text.clone())),
            (Shape::Integer(..), Value::Integer(number)) => self.integer(*number, shape, path),
            (Shape::Choice(names, later), Value::Text(text)) => {
                self.choice(text, (names, later), path)
            }
            (Shape::Parsed(parse, example), Value::Text(text)) => match parse(text) {
                Ok(()) => Some(Json::String(text.clone())),
                Err(what) => self.refuse(path, what, format!("write it like {example}")),
            },
            (Shape::List(inner), Value::List(items)) => Some(self.list(items, inner, path)),
            (Shape::Pair(min, max), Value::List(items)) if items.len() == 2 => {
                let ends = self.list(items, &Shape::Integer(*min, *max), path);
                (ends.as_array()?.len() == 2).then_some(ends)
            }
            (Shape::Table(fields), Value::Table(entries)) => self.table(entries, fields, path),
            (Shape::Map(inner), Value::Table(entries)) => Some(self.map(entries, inner, path)),
            (_, value) => {
                let what = format!("{} does not belong here", value.kind());
                self.refuse(path, what, format!("write {}", shape.expected()))
            }
        }
    }

    fn refuse(&mut self, path: &str, message: String, remedy: String) -> Option<Json> {
        self.push(path, message, remedy);
        self.dropped.insert(path.to_owned());
        None
    }

    fn integer(&mut self, number: i64, shape: &Shape, path: &str) -> Option<Json> {
        let Shape::Integer(min, max) = *shape else { return None };
        if (min..=max).contains(&number) {
            return Some(Json::from(number));
        }
        self.refuse(path, format!("{number} is out of range"), format!("use {min} to {max}"))
    }

    fn choice(
        &mut self,
        text: &str,
        (names, later): (&[&str], &[&str]),
        path: &str,
    ) -> Option<Json> {
        if names.contains(&text) {
            return Some(Json::String(text.to_owned()));
        }
        if later.contains(&text) {
            let what = format!("\"{text}\" is not in this version of gyre");
            return self.refuse(path, what, format!("use one of {}", quoted(names)));
        }
        let remedy = match near(text, names.iter().copied()) {
            Some(name) => format!("did you mean \"{name}\"? Possible: {}", quoted(names)),
            None => format!("use one of {}", quoted(names)),
        };
        self.refuse(path, format!("\"{text}\" is unknown"), remedy)
    }

    fn list(&mut self, items: &[Node], inner: &Shape, path: &str) -> Json {
        let mut kept = Vec::with_capacity(items.len());
        let mut left = Vec::with_capacity(items.len());
        for (at, item) in items.iter().enumerate() {
            if let Some(json) = self.check(item, inner, &format!("{path}[{at}]")) {
                kept.push(at);
                left.push(json);
            }
        }
        self.kept.insert(path.to_owned(), kept);
        Json::Array(left)
    }

    fn table(&mut self, entries: &[Entry], fields: &[Field], path: &str) -> Option<Json> {
        let mut left = Map::new();
        for entry in entries {
            let inner = join(path, &entry.key);
            match fields.iter().find(|field| field.name == entry.key) {
                Some(field) => {
                    let json = self.check(&entry.node, &field.shape, &inner);
                    left.extend(json.map(|json| (entry.key.clone(), json)));
                }
                None => self.unknown_key(entry, fields, &inner),
            }
        }
        let mut whole = true;
        for field in fields.iter().filter(|field| field.required) {
            let has = |name: &str| entries.iter().any(|entry| entry.key == name);
            if !has(field.name) && !field.instead.is_some_and(has) {
                let what = format!("`{}` is missing", field.name);
                let remedy = format!("add {} = {}", field.name, field.shape.expected());
                self.push(path, what, remedy);
            }
            let is_left = |name: &str| left.contains_key(name);
            whole &= is_left(field.name) || field.instead.is_some_and(is_left);
        }
        if !whole {
            self.dropped.insert(path.to_owned());
        }
        whole.then_some(Json::Object(left))
    }

    fn unknown_key(&mut self, entry: &Entry, fields: &[Field], path: &str) {
        if let Some(at) = entry.key_at {
            self.positions.insert(path.to_owned(), at);
        }
        let remedy = match near(&entry.key, fields.iter().map(|field| field.name)) {
            Some(name) => format!("did you mean `{name}`?"),
            None => {
                let names: Vec<&str> = fields.iter().map(|field| field.name).collect();
                format!("remove it; possible here: {}", names.join(", "))
            }
        };
        self.push(path, "unknown key".into(), remedy);
    }

    fn map(&mut self, entries: &[Entry], inner: &Shape, path: &str) -> Json {
        let mut left = Map::new();
        for entry in entries {
            let json = self.check(&entry.node, inner, &join(path, &entry.key));
            left.extend(json.map(|json| (entry.key.clone(), json)));
        }
        Json::Object(left)
    }
}

pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// The name that was probably meant: at most a third of it mistyped.
fn near<'a>(text: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    names
        .map(|name| (strsim::damerau_levenshtein(text, name), name))
        .filter(|(distance, name)| *distance <= (name.len() / 3).max(1))
        .min()
        .map(|(_, name)| name)
}
