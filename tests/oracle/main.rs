//! The product's packet path and registry against recordings of Linux IPVS.
//!
//! The directory of recordings is `tests/oracle/recordings`, or what `GYRE_ORACLE` names: the
//! formats are the recordings' own. What differs for a reason is in `exceptions.toml`, and counted,
//! so that nothing passes by being absent.

#[path = "../support/mod.rs"]
mod support;

mod frames;
mod host;
mod ipvsadm;
mod lab;
mod packets;
mod reuse;
mod schedulers;
mod states;
mod tally;
mod texts;

use std::path::{Path, PathBuf};

use tally::{Aspect, Difference, Tally};

/// The files of one kind, none where the directory has none of it.
fn recordings(kind: &str) -> Vec<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle/recordings");
    let root = std::env::var_os("GYRE_ORACLE").map_or(own, PathBuf::from);
    assert!(root.is_dir(), "GYRE_ORACLE: {} is no directory of recordings", root.display());
    recordings_in(&root, kind)
}

fn recordings_in(root: &Path, kind: &str) -> Vec<PathBuf> {
    let directory = root.join(kind);
    if !directory.is_dir() {
        println!("oracle {kind}: {} is absent", directory.display());
        return Vec::new();
    }
    let mut files: Vec<PathBuf> = std::fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
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
    let mut tally = Tally::new("schedulers");
    for path in recordings("schedulers") {
        schedulers::run(&load(&path), &mut tally);
    }
    tally.report();
}

#[test]
fn connection_states_are_the_kernels() {
    let mut tally = Tally::new("states");
    for path in recordings("states") {
        states::run(&load(&path), &mut tally);
    }
    tally.report();
}

#[test]
fn frames_sent_are_the_kernels() {
    let mut tally = Tally::new("packets");
    for path in recordings("packets") {
        packets::run(&path, &mut tally);
    }
    tally.report();
}

#[test]
fn a_kind_that_nobody_recorded_is_none() {
    let root = tempfile::tempdir().unwrap();
    assert_eq!(recordings_in(root.path(), "states"), Vec::<PathBuf>::new());
}
