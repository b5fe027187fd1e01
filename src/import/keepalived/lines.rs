//! keepalived.conf as lines: comments off, continuations joined, includes read, definitions,
//! `@` lines, `~SEQ` and `~LST` worked out as keepalived.conf(5) has them. Everything is bounded;
//! a bound that is hit is a warning, and what was read so far stands.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

use super::repeat;
use crate::import::notes::{Notes, Place};
use crate::import::{Options, Source, Surroundings};

/// Includes within includes.
const INCLUDE_DEPTH_MAX: usize = 16;
/// Files in all.
const FILES_MAX: usize = 512;
/// Lines that come of all definitions and repetitions.
const LINES_MAX: usize = 100_000;
/// Bytes of one line after substitution.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// Bytes of all lines.
const BYTES_MAX: usize = 16 * 1024 * 1024;
/// Definitions within definitions.
const NESTING_MAX: usize = 24;

/// A line with something in it.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) text: String,
    pub(super) place: Place,
}

/// All lines of a file and of what it includes.
pub(super) fn read(
    source: Source<'_>,
    world: &dyn Surroundings,
    options: &Options,
    notes: &mut Notes,
) -> Vec<Line> {
    let mut definitions = BTreeMap::new();
    for (name, value) in [("_HASH", "#"), ("_BANG", "!")] {
        definitions.insert(name.to_owned(), value.to_owned());
    }
    if let Some(id) = &options.config_id {
        definitions.insert("_INSTANCE".into(), id.clone());
    }
    let mut reader = Reader {
        world,
        config_id: options.config_id.as_deref(),
        notes,
        lines: Vec::new(),
        definitions,
        files: 0,
        steps: 0,
        bytes: 0,
        is_full: false,
    };
    reader.file(source.path, source.text, 0);
    reader.lines
}

struct Reader<'a> {
    world: &'a dyn Surroundings,
    config_id: Option<&'a str>,
    notes: &'a mut Notes,
    lines: Vec<Line>,
    /// Several lines where the text has line breaks.
    definitions: BTreeMap<String, String>,
    files: usize,
    steps: usize,
    bytes: usize,
    is_full: bool,
}

impl Reader<'_> {
    fn file(&mut self, path: &Path, text: &str, depth: usize) {
        self.files += 1;
        let file: Rc<str> = path.display().to_string().into();
        let beside = path.parent().unwrap_or(Path::new(""));
        let before = self.definitions.insert("_PWD".into(), beside.display().to_string());
        let mut lines = text.lines().enumerate();
        while let Some((at, line)) = lines.next() {
            if self.is_full {
                return;
            }
            let place = Place { file: Rc::clone(&file), line: at + 1 };
            let mut line = without_comment(line).trim().to_owned();
            let joint = if definition(&line).is_some() { '\n' } else { ' ' };
            while let Some(start) = line.strip_suffix('\\') {
                line.truncate(start.trim_end().len());
                let Some((_, next)) = lines.next() else { break };
                if line.len() > LINE_BYTES_MAX {
                    break;
                }
                line.push(joint);
                line.push_str(without_comment(next).trim());
            }
            match include(&line) {
                Some(pattern) => self.include(pattern, beside, &place, depth),
                None => self.line(&line, &place, 0),
            }
        }
        if let Some(before) = before {
            self.definitions.insert("_PWD".into(), before);
        }
    }

    fn include(&mut self, pattern: &str, beside: &Path, place: &Place, depth: usize) {
        if depth >= INCLUDE_DEPTH_MAX {
            let what = format!("includes are nested more than {INCLUDE_DEPTH_MAX} deep: left out");
            return self.notes.warn(place, what);
        }
        let pattern = pattern.trim().trim_matches(['"', '\'']);
        let files = self.world.included(pattern, beside);
        if files.is_empty() {
            self.notes.warn(place, format!("include {pattern}: no such file; nothing is included"));
        }
        for (path, text) in files {
            if self.files >= FILES_MAX {
                let what =
                    format!("more than {FILES_MAX} files are included: the rest is left out");
                return self.notes.warn(place, what);
            }
            match text {
                Ok(text) => self.file(&path, &text, depth + 1),
                Err(error) => {
                    let what = format!("include {}: {error}; left out", path.display());
                    self.notes.warn(place, what);
                }
            }
        }
    }

    fn full(&mut self, place: &Place) {
        if !self.is_full {
            self.is_full = true;
            let what = format!(
                "more than {LINES_MAX} lines or {} MiB come of definitions and repetitions: the \
                 rest is left out",
                BYTES_MAX >> 20
            );
            self.notes.warn(place, what);
        }
    }

    /// One line, and all that definitions make of it.
    fn line(&mut self, text: &str, place: &Place, depth: usize) {
        self.steps += 1;
        self.bytes += text.len();
        if self.is_full || self.steps > LINES_MAX || self.bytes > BYTES_MAX {
            return self.full(place);
        }
        if depth > NESTING_MAX {
            let what = "definitions refer to each other without end: the line is left out";
            return self.notes.warn(place, what);
        }
        let Some(text) = self.condition(text.trim(), place) else { return };
        if text.is_empty() {
            return;
        }
        if let Some((name, value)) = definition(text) {
            self.definitions.insert(name.to_owned(), value.to_owned());
            return;
        }
        if text.starts_with("~SEQ") || text.starts_with("~LST") {
            return self.repeat(text, place, depth);
        }
        let Some(expanded) = self.substitute(text, place) else { return };
        if expanded.contains('\n') {
            expanded.split('\n').for_each(|line| self.line(line, place, depth + 1));
        } else if expanded != text && expanded.starts_with(['@', '$', '~']) {
            self.line(&expanded, place, depth + 1);
        } else {
            self.lines.push(Line { text: expanded, place: place.clone() });
        }
    }

    /// What follows an `@` that holds; nothing where it does not.
    fn condition<'t>(&mut self, text: &'t str, place: &Place) -> Option<&'t str> {
        let Some(rest) = text.strip_prefix('@') else { return Some(text) };
        let (wanted, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        let (is_not, wanted) = match wanted.strip_prefix('^') {
            Some(wanted) => (true, wanted),
            None => (false, wanted),
        };
        let Some(id) = self.config_id else {
            let done = if is_not { "taken" } else { "left out" };
            let what = format!(
                "the line depends on the configuration's id, and none was given: {done}; \
                 --config-id {wanted} would say which"
            );
            self.notes.warn(place, what);
            return is_not.then(|| rest.trim());
        };
        ((id == wanted) != is_not).then(|| rest.trim())
    }

    fn repeat(&mut self, text: &str, place: &Place, depth: usize) {
        let repetition = match repeat::read(text) {
            Ok(repetition) => repetition,
            Err(what) => return self.notes.warn(place, format!("{what}; the line is left out")),
        };
        for values in &repetition.values {
            if self.is_full {
                return;
            }
            for (name, value) in repetition.names.iter().zip(values) {
                self.definitions.insert(name.clone(), value.clone());
            }
            self.line(repetition.rest, place, depth + 1);
        }
    }

    /// The text with definitions put in, up to the first that has several lines.
    fn substitute(&mut self, text: &str, place: &Place) -> Option<String> {
        let mut text = text.to_owned();
        let (mut from, mut rounds) = (0, 0);
        while let Some(found) = text.get(from..).and_then(|rest| rest.find('$')) {
            let start = from + found;
            let known = name_at(&text[start..])
                .and_then(|(name, len)| Some((self.definitions.get(name)?.clone(), len)));
            let Some((value, len)) = known else {
                from = start + 1;
                continue;
            };
            rounds += 1;
            if rounds > 1_000 || text.len() + value.len() > LINE_BYTES_MAX {
                let what = "definitions make this line too long: it is left out";
                self.notes.warn(place, what);
                return None;
            }
            text.replace_range(start..start + len, &value);
            if value.contains('\n') {
                break;
            }
            from = start;
        }
        Some(text)
    }
}

/// The name after `$` and how long the reference is: `${NAME}`, or `$NAME` before a blank.
fn name_at(text: &str) -> Option<(&str, usize)> {
    let rest = text.strip_prefix('$')?;
    if let Some(inner) = rest.strip_prefix('{') {
        let end = inner.find('}')?;
        return Some((&inner[..end], end + 3));
    }
    let end = rest.find(|c: char| !is_name(c)).unwrap_or(rest.len());
    let is_alone = rest[end..].chars().next().is_none_or(char::is_whitespace);
    (end > 0 && is_alone).then_some((&rest[..end], end + 1))
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// `$NAME=VALUE`.
fn definition(text: &str) -> Option<(&str, &str)> {
    let (name, value) = text.strip_prefix('$')?.split_once('=')?;
    let good = name.starts_with(|c: char| !c.is_ascii_digit()) && name.chars().all(is_name);
    good.then(|| (name, value.trim()))
}

/// What an include line names.
fn include(line: &str) -> Option<&str> {
    const WORDS: [&str; 6] =
        ["include", "includer", "includem", "includew", "includeb", "includea"];
    let (word, rest) = line.split_once(char::is_whitespace)?;
    WORDS.contains(&word).then_some(rest)
}

/// The line up to `#` or `!` outside of quotes.
fn without_comment(line: &str) -> &str {
    let (mut quote, mut is_escaped) = (None, false);
    for (at, c) in line.char_indices() {
        if is_escaped {
            is_escaped = false;
            continue;
        }
        match (quote, c) {
            (_, '\\') => is_escaped = true,
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, '#' | '!') => return &line[..at],
            _ => {}
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_end_a_line_but_not_within_quotes() {
        assert_eq!(without_comment("weight 1 # one"), "weight 1 ");
        assert_eq!(without_comment("weight 1!one"), "weight 1");
        assert_eq!(without_comment(r#"path "/#a!b" ! x"#), r#"path "/#a!b" "#);
        assert_eq!(without_comment(r"a \# b # c"), r"a \# b ");
    }

    #[test]
    fn references_are_found_where_they_end() {
        assert_eq!(name_at("$A b"), Some(("A", 2)));
        assert_eq!(name_at("${A}b"), Some(("A", 4)));
        assert_eq!((name_at("$A.b"), name_at("${A"), name_at("$")), (None, None, None));
    }
}
