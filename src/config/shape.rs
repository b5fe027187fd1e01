//! Judges a written configuration against the schema: unknown keys, wrong types, values out of
//! range. Finds all of them, and gives what is left when the wrong parts are taken out, so that
//! meanings can be judged in the same pass.

use std::fmt;

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

/// Where in the schema, put into words only when there is something to say: most of a large
/// configuration is without fault.
#[derive(Clone, Copy, Debug)]
enum Path<'p> {
    Root,
    Key(&'p Path<'p>, &'p str),
    Element(&'p Path<'p>, usize),
}

impl Path<'_> {
    /// As it stands in a table's header: without the elements' numbers.
    fn header(&self) -> String {
        match self {
            Path::Root => String::new(),
            Path::Key(Path::Root, key) => (*key).to_owned(),
            Path::Key(above, key) => format!("{}.{key}", above.header()),
            Path::Element(above, _) => above.header(),
        }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Key(Path::Root, key) => f.write_str(key),
            Path::Key(above, key) => write!(f, "{above}.{key}"),
            Path::Element(above, at) => write!(f, "{above}[{at}]"),
        }
    }
}

/// The outcome of a walk.
#[derive(Debug)]
pub(super) struct Walk<'n> {
    pub(super) problems: Vec<Problem>,
    /// What is walked over: it knows where things stand.
    root: &'n Node,
    /// Paths of fields that had a wrong value and were left out.
    dropped: HashSet<String>,
    /// By path of a list: which of its elements are left, by their original positions.
    kept: HashMap<String, Vec<usize>>,
}

impl<'n> Walk<'n> {
    pub(super) fn new(root: &'n Node) -> Self {
        let (problems, dropped, kept) = (Vec::new(), HashSet::new(), HashMap::new());
        Walk { problems, root, dropped, kept }
    }

    pub(super) fn push(&mut self, path: &str, message: String, remedy: String) {
        let position = self.position(path);
        self.problems.push(Problem { position, path: path.to_owned(), message, remedy });
    }

    /// Where `path` stands, or the nearest part of it that is written down.
    pub(super) fn position(&self, path: &str) -> Option<Position> {
        let (mut node, mut left, mut found) = (self.root, path, self.root.at);
        while let Some((inner, rest)) = step(node, left) {
            found = inner.at.or(found);
            (node, left) = (inner, rest);
        }
        found
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

    /// Checks the whole; gives it back as JSON without its wrong parts, `None` when nothing is
    /// left.
    pub(super) fn check(&mut self, shape: &Shape) -> Option<Json> {
        self.node(self.root, shape, Path::Root)
    }

    fn node(&mut self, node: &Node, shape: &Shape, path: Path<'_>) -> Option<Json> {
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
            (Shape::List(Shape::Table(_)), Value::Table(_)) => {
                let what = "one table, where there may be several".to_owned();
                let header = path.header();
                let remedy = format!("write [[{header}]] for [{header}], or [{{...}}] for {{...}}");
                self.refuse(path, what, remedy)
            }
            (_, value) => {
                let what = format!("{} does not belong here", value.kind());
                self.refuse(path, what, format!("write {}", shape.expected()))
            }
        }
    }

    fn refuse(&mut self, path: Path<'_>, message: String, remedy: String) -> Option<Json> {
        let path = path.to_string();
        self.push(&path, message, remedy);
        self.dropped.insert(path);
        None
    }

    fn integer(&mut self, number: i64, shape: &Shape, path: Path<'_>) -> Option<Json> {
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
        path: Path<'_>,
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

    fn list(&mut self, items: &[Node], inner: &Shape, path: Path<'_>) -> Json {
        let mut kept = Vec::with_capacity(items.len());
        let mut left = Vec::with_capacity(items.len());
        for (at, item) in items.iter().enumerate() {
            if let Some(json) = self.node(item, inner, Path::Element(&path, at)) {
                kept.push(at);
                left.push(json);
            }
        }
        if kept.len() < items.len() {
            self.kept.insert(path.to_string(), kept);
        }
        Json::Array(left)
    }

    fn table(&mut self, entries: &[Entry], fields: &[Field], path: Path<'_>) -> Option<Json> {
        let mut left = Map::new();
        for entry in entries {
            let inner = Path::Key(&path, &entry.key);
            match fields.iter().find(|field| field.name == entry.key) {
                Some(field) => {
                    let json = self.node(&entry.node, &field.shape, inner);
                    left.extend(json.map(|json| (entry.key.clone(), json)));
                }
                None => self.unknown_key(entry, fields, inner),
            }
        }
        let mut whole = true;
        for field in fields.iter().filter(|field| field.required) {
            let has = |name: &str| entries.iter().any(|entry| entry.key == name);
            if !has(field.name) && !field.instead.is_some_and(has) {
                let what = format!("`{}` is missing", field.name);
                let remedy = format!("add {} = {}", field.name, field.shape.expected());
                self.push(&path.to_string(), what, remedy);
            }
            let is_left = |name: &str| left.contains_key(name);
            whole &= is_left(field.name) || field.instead.is_some_and(is_left);
        }
        if !whole {
            self.dropped.insert(path.to_string());
        }
        whole.then_some(Json::Object(left))
    }

    fn unknown_key(&mut self, entry: &Entry, fields: &[Field], path: Path<'_>) {
        let remedy = match near(&entry.key, fields.iter().map(|field| field.name)) {
            Some(name) => format!("did you mean `{name}`?"),
            None => {
                let names: Vec<&str> = fields.iter().map(|field| field.name).collect();
                format!("remove it; possible here: {}", names.join(", "))
            }
        };
        let (path, message) = (path.to_string(), "unknown key".into());
        // Where the key stands, not its value.
        let position = entry.key_at.or_else(|| self.position(&path));
        self.problems.push(Problem { position, path, message, remedy });
    }

    fn map(&mut self, entries: &[Entry], inner: &Shape, path: Path<'_>) -> Json {
        let mut left = Map::new();
        for entry in entries {
            let json = self.node(&entry.node, inner, Path::Key(&path, &entry.key));
            left.extend(json.map(|json| (entry.key.clone(), json)));
        }
        Json::Object(left)
    }
}

/// One step down a path, and what is left of it. Keys of the user's may hold any character, so the
/// longest key that fits is taken.
fn step<'n, 'p>(node: &'n Node, path: &'p str) -> Option<(&'n Node, &'p str)> {
    match &node.value {
        Value::Table(entries) => {
            let path = path.strip_prefix('.').unwrap_or(path);
            let rest = |entry: &Entry| {
                let rest = path.strip_prefix(&*entry.key)?;
                (rest.is_empty() || rest.starts_with(['.', '['])).then_some(rest)
            };
            let fitting = entries.iter().filter_map(|entry| Some((entry, rest(entry)?)));
            let (entry, rest) = fitting.max_by_key(|(entry, _)| entry.key.len())?;
            Some((&entry.node, rest))
        }
        Value::List(items) => {
            let (at, rest) = path.strip_prefix('[')?.split_once(']')?;
            Some((items.get(at.parse::<usize>().ok()?)?, rest))
        }
        _ => None,
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
