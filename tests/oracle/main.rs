//! The product's packet path and registry against recordings of Linux IPVS.
//!
//! The directory of recordings is `tests/oracle/recordings`, or what `GYRE_ORACLE` names: the
//! formats are the recordings' own. What this version of gyre does not have is left out by name
//! and counted, so that nothing passes by being absent.

#[path = "../support/mod.rs"]
mod support;

mod schedulers;
mod states;

use std::path::{Path, PathBuf};

/// What one kind of recordings came to.
#[derive(Debug, Default)]
pub struct Tally {
    scenarios: usize,
    steps: usize,
    matched: usize,
    /// Scenarios that need what is not built yet: name and what.
    left_out: Vec<String>,
    mismatches: Vec<String>,
}

impl Tally {
    /// Notes one compared answer.
    pub fn compare<T: PartialEq + std::fmt::Debug>(&mut self, place: &str, ours: T, recorded: T) {
        self.steps += 1;
        if ours == recorded {
            self.matched += 1;
        } else {
            self.mismatches.push(format!("{place}: recorded {recorded:?}, gyre {ours:?}"));
        }
    }

    fn report(&self, kind: &str) {
        println!(
            "oracle {kind}: scenarios {}, steps {}, matched {}, excepted 0, not in this version {}",
            self.scenarios,
            self.steps,
            self.matched,
            self.left_out.len()
        );
        self.left_out.iter().for_each(|name| println!("  not in this version: {name}"));
        let shown: Vec<_> = self.mismatches.iter().take(20).collect();
        assert!(shown.is_empty(), "{} mismatches, the first: {shown:#?}", self.mismatches.len());
        assert!(self.steps > 0, "no {kind} recording was found");
    }
}

fn recordings(kind: &str) -> Vec<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle/recordings");
    let root = std::env::var_os("GYRE_ORACLE").map_or(own, PathBuf::from);
    let mut files: Vec<PathBuf> = std::fs::read_dir(root.join(kind))
        .unwrap_or_else(|error| panic!("{}: {error}", root.join(kind).display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    files.sort();
    files
}

fn load(path: &Path) -> serde_json::Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn scheduler_picks_are_the_kernels() {
    let mut tally = Tally::default();
    for path in recordings("schedulers") {
        schedulers::run(&load(&path), &mut tally);
    }
    tally.report("schedulers");
}

#[test]
fn connection_states_are_the_kernels() {
    let mut tally = Tally::default();
    for path in recordings("states") {
        states::run(&load(&path), &mut tally);
    }
    tally.report("states");
}
