//! What an importer has to say about the text, each with its place.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::rc::Rc;

/// Warnings that are kept; a file that earns more is no configuration.
const WARNINGS_MAX: usize = 2_000;

/// A line of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file, as it was named.
    pub file: Rc<str>,
    /// Line, from 1; 0 is the whole file.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.file),
            line => write!(f, "{}:{line}", self.file),
        }
    }
}

/// Something that was not mapped, or not exactly. Printed as `FILE:LINE: what`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Where.
    pub place: Place,
    /// What, and what to do.
    pub what: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// Whom a warning is about.
type Service = Option<usize>;

/// All warnings of one import.
#[derive(Debug, Default)]
pub(super) struct Notes {
    all: Vec<(Service, Warning)>,
    /// Services of one group are read from the same lines: each thing is told once.
    told: BTreeSet<(Rc<str>, usize, String)>,
    is_full: bool,
}

impl Notes {
    /// About the whole.
    pub(super) fn warn(&mut self, place: &Place, what: impl Into<String>) {
        self.push(None, place, what.into());
    }

    /// About a service, by position; its comment stands with the service.
    pub(super) fn about(&mut self, service: usize, place: &Place, what: impl Into<String>) {
        self.push(Some(service), place, what.into());
    }

    fn push(&mut self, service: Service, place: &Place, what: String) {
        let key = (Rc::clone(&place.file), place.line, what.clone());
        if self.told.contains(&key) {
            return;
        }
        if self.all.len() < WARNINGS_MAX {
            self.told.insert(key);
            self.all.push((service, Warning { place: place.clone(), what }));
        } else if !self.is_full {
            self.is_full = true;
            let what = format!("more than {WARNINGS_MAX} warnings: the rest is not shown");
            self.all.push((None, Warning { place: place.clone(), what }));
        }
    }

    /// Nothing came of the service: what was said of it stands with the whole.
    pub(super) fn orphan(&mut self, service: usize) {
        for (whose, _) in self.all.iter_mut().filter(|(whose, _)| *whose == Some(service)) {
            *whose = None;
        }
    }

    /// What is about a service, or about the whole.
    pub(super) fn of(&self, service: Service) -> impl Iterator<Item = &Warning> {
        self.all.iter().filter(move |(whose, _)| *whose == service).map(|(_, warning)| warning)
    }

    /// All, file by file as they were read, in the order of lines.
    pub(super) fn into_warnings(self) -> Vec<Warning> {
        let mut warnings: Vec<Warning> = self.all.into_iter().map(|(_, warning)| warning).collect();
        let mut files: BTreeMap<Rc<str>, usize> = BTreeMap::new();
        for warning in &warnings {
            let next = files.len();
            files.entry(Rc::clone(&warning.place.file)).or_insert(next);
        }
        warnings.sort_by_key(|one| (files.get(&one.place.file).copied(), one.place.line));
        warnings
    }
}
