//! What happened to a service's server list, one step a change.
//!
//! The kernel moves a scheduler's cursor at each add, edit and delete (SURPRISES: wrr's current
//! weight, rr's position), so the final list alone does not tell where a cursor stands. Workers
//! keep a cursor and the number of the last step they replayed.

use super::id::ServerId;

/// One change of a service's server list, with what wrr recomputes at that moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The server that left, if the change was a removal.
    pub removed: Option<ServerId>,
    /// The removed server's predecessor in the kernel's list order (last added first); `None` is
    /// the list head.
    pub predecessor: Option<ServerId>,
    /// Greatest common divisor of all weights after the change, at least 1.
    pub weight_gcd: u32,
    /// Greatest weight after the change.
    pub weight_max: u32,
}

/// The last changes of a service, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangeLog {
    first: u64,
    steps: Vec<Change>,
}

impl ChangeLog {
    /// Steps kept once more than this many were made since the service was last published. Workers
    /// replay a snapshot's steps when they adopt it, so this matters to one that missed snapshots
    /// alone, which control has it do only when it stands still.
    pub const KEPT: usize = 64;

    /// Appends a step.
    pub fn push(&mut self, change: Change) {
        self.steps.push(change);
    }

    /// Forgets all but the newest `KEPT` steps; called before a new round of changes.
    pub fn trim(&mut self) {
        let excess = self.steps.len().saturating_sub(Self::KEPT);
        self.steps.drain(..excess);
        self.first += excess as u64;
    }

    /// Number of the step after the newest.
    pub fn next(&self) -> u64 {
        self.first + self.steps.len() as u64
    }

    /// The steps that a cursor which has replayed all before `seen` still lacks.
    pub fn since(&self, seen: u64) -> &[Change] {
        let skip = usize::try_from(seen.saturating_sub(self.first)).unwrap_or(usize::MAX);
        self.steps.get(skip..).unwrap_or(&[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(weight_max: u32) -> Change {
        Change { removed: None, predecessor: None, weight_gcd: 1, weight_max }
    }

    #[test]
    fn a_cursor_sees_each_step_once_even_after_a_trim() {
        let mut log = ChangeLog::default();
        (0..100).for_each(|n| log.push(change(n)));
        let seen = log.next();
        log.trim();
        assert_eq!(log.since(seen), &[]);
        log.push(change(7));
        assert_eq!(log.since(seen), &[change(7)]);
        assert_eq!(log.since(0).len(), ChangeLog::KEPT + 1);
    }
}
