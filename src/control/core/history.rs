//! Configurations that ran, kept to be listed and gone back to, and the one that must be
//! confirmed. Bounded; services are shared between them, so that a revision costs a pointer a
//! service. No I/O.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::config::{Checked, Config};
use crate::control::api::RevisionRow;
use crate::limits::{REVISION_CHANGES_MAX, REVISIONS_SINGLE_MAX, REVISIONS_WHOLE_MAX};
use crate::model::{Registry, Semantics, ServiceSpec};

/// A configuration as it ran.
#[derive(Clone, Debug)]
pub struct Kept {
    /// All but services and switches, which are beside it.
    pub statics: Arc<Config>,
    pub semantics: Semantics,
    pub services: Arc<[Arc<ServiceSpec>]>,
}

impl Kept {
    /// What runs now.
    pub fn of(statics: &Arc<Config>, registry: &Registry) -> Self {
        Kept {
            statics: Arc::clone(statics),
            semantics: registry.snapshot().semantics,
            services: registry.specs().into(),
        }
    }

    /// The whole, as a file says it.
    pub fn config(&self) -> Config {
        self.statics.with_services(self.services.iter().map(Arc::as_ref), &self.semantics)
    }

    /// The whole, to be applied.
    pub fn checked(&self) -> Checked {
        let config = Config::clone(&self.statics);
        let mut desired = config.desired();
        desired.semantics = self.semantics;
        desired.services = self.services.iter().map(|spec| ServiceSpec::clone(spec)).collect();
        Checked { config, desired }
    }
}

/// How a revision came about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Extent {
    /// The whole configuration was replaced.
    Whole,
    /// One thing was changed.
    #[default]
    Single,
}

struct Revision {
    number: u64,
    at: SystemTime,
    extent: Extent,
    by: String,
    changes: Vec<String>,
    kept: Kept,
}

/// The revisions, oldest first.
#[derive(Default)]
pub struct History {
    revisions: VecDeque<Revision>,
}

impl History {
    /// Notes what runs from now on. The oldest of the same extent makes room, so that many small
    /// changes do not push out the configurations that they were made to.
    pub fn note(&mut self, number: u64, made: (Extent, String), changes: &[String], kept: Kept) {
        let (extent, by) = made;
        let most = match extent {
            Extent::Whole => REVISIONS_WHOLE_MAX,
            Extent::Single => REVISIONS_SINGLE_MAX,
        };
        let alike = |revision: &Revision| revision.extent == extent;
        if self.revisions.iter().filter(|revision| alike(revision)).count() >= most
            && let Some(at) = self.revisions.iter().position(alike)
        {
            self.revisions.remove(at);
        }
        let changes = changes.iter().take(REVISION_CHANGES_MAX).cloned().collect();
        let at = SystemTime::now();
        self.revisions.push_back(Revision { number, at, extent, by, changes, kept });
    }

    /// What ran as revision `number`.
    pub fn get(&self, number: u64) -> Option<&Kept> {
        let found = self.revisions.iter().find(|revision| revision.number == number);
        found.map(|revision| &revision.kept)
    }

    /// The revision before the one that runs.
    pub fn previous(&self) -> Option<u64> {
        self.revisions.iter().rev().nth(1).map(|revision| revision.number)
    }

    /// The one that runs.
    pub fn current(&self) -> Option<u64> {
        self.revisions.back().map(|revision| revision.number)
    }

    /// What runs.
    pub fn latest(&self) -> Option<&Kept> {
        self.revisions.back().map(|revision| &revision.kept)
    }

    /// All, the newest first.
    pub fn rows(&self) -> Vec<RevisionRow> {
        let current = self.current();
        let row = |revision: &Revision| RevisionRow {
            revision: revision.number,
            time_s: revision.at.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()),
            by: revision.by.clone(),
            running: Some(revision.number) == current,
            services: revision.kept.services.len() as u32,
            changes: revision.changes.clone(),
        };
        self.revisions.iter().rev().map(row).collect()
    }
}

/// A configuration that goes back by itself unless it is confirmed.
pub struct Unconfirmed {
    /// What it is.
    pub revision: u64,
    /// What ran before.
    pub before: (u64, Kept),
    /// When it goes back.
    pub until: Instant,
}

impl Unconfirmed {
    /// Whole seconds left.
    pub fn seconds_left(&self) -> u64 {
        let left = self.until.saturating_duration_since(Instant::now());
        (left + Duration::from_millis(999)).as_secs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> Kept {
        let (statics, semantics) = (Arc::default(), Semantics::default());
        Kept { statics, semantics, services: Arc::default() }
    }

    #[test]
    fn many_small_changes_do_not_push_out_whole_configurations() {
        let mut history = History::default();
        history.note(1, (Extent::Whole, "start".into()), &[], kept());
        for number in 2..1000 {
            history.note(number, (Extent::Single, "server.set_weight".into()), &[], kept());
        }
        assert!(history.get(1).is_some());
        assert!(history.get(2).is_none());
        assert_eq!(history.rows().len(), REVISIONS_SINGLE_MAX + 1);
        assert_eq!((history.current(), history.previous()), (Some(999), Some(998)));
        assert!(history.rows()[0].running);
        for number in 1000..2000 {
            history.note(number, (Extent::Whole, "apply".into()), &[], kept());
        }
        assert!(history.get(1).is_none());
        assert_eq!(history.rows().len(), REVISIONS_SINGLE_MAX + REVISIONS_WHOLE_MAX);
    }
}
