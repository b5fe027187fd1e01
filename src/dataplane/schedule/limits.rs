//! What servers carry, and which have too much: the kernel's overload mark (`ip_vs_conn.c`).
//!
//! The mark is set when a flow is bound and the server then holds its upper threshold; it is
//! cleared when a flow ends and the rest is below the lower one, and by a change that raises or
//! removes the upper one. So a threshold set below what is there has no effect until the next
//! flow. What other workers bound and ended since control's last round is taken as one step.

use crate::counters::WorkerCounters;
use crate::model::{RealServer, ServerId};

/// Connections of one server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Load {
    /// In a state that counts as active.
    pub active: u64,
    /// All others; templates are none.
    pub inactive: u64,
}

impl Load {
    /// This worker's and the others' together.
    pub fn of(server: ServerId, counters: &WorkerCounters) -> Self {
        let (active, flows) = counters
            .servers
            .get(server.index())
            .map_or((0, 0), |own| (own.active.get(), own.flows.get()));
        let others = counters.others.of(server.index());
        Load {
            active: active + u64::from(others.active),
            inactive: flows.saturating_sub(active)
                + u64::from(others.flows.saturating_sub(others.active)),
        }
    }

    fn total(self) -> u64 {
        self.active + self.inactive
    }

    /// The kernel's measure for `lc`, `wlc`, `lblc` and `lblcr`: an active one weighs 256.
    pub fn overhead(self) -> u64 {
        (self.active << 8) + self.inactive
    }
}

/// Thresholds of one server slot, and whether it is overloaded.
#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    upper: u32,
    lower: u32,
    /// Flows of the other workers as last looked at.
    others: u32,
    is_overloaded: bool,
}

impl Mark {
    fn bound(&mut self, load: Load) {
        if self.upper > 0 && load.total() >= u64::from(self.upper) {
            self.is_overloaded = true;
        }
    }

    fn unbound(&mut self, load: Load) {
        let (total, upper, lower) = (load.total(), u64::from(self.upper), u64::from(self.lower));
        let is_below = match (lower, upper) {
            (0, 0) => true,
            (0, upper) => total * 4 < upper * 3,
            (lower, _) => total < lower,
        };
        if is_below {
            self.is_overloaded = false;
        }
    }
}

/// Marks by `ServerId`. A slot that is free has none: its last flow cleared it.
#[derive(Debug)]
pub(super) struct Limits {
    marks: Vec<Mark>,
}

impl Limits {
    pub fn new(servers: usize) -> Self {
        Limits { marks: vec![Mark::default(); servers] }
    }

    /// Takes over a server's thresholds, as the kernel does at an add or edit.
    pub fn set(&mut self, server: &RealServer) {
        let Some(mark) = self.marks.get_mut(server.id.index()) else { return };
        let (upper, lower) = (server.upper_threshold, server.lower_threshold);
        if upper == 0 || upper > mark.upper {
            mark.is_overloaded = false;
        }
        (mark.upper, mark.lower) = (upper, lower);
    }

    /// Whether a server with an upper threshold is overloaded.
    pub fn is_overloaded(&mut self, server: &RealServer, counters: &WorkerCounters) -> bool {
        self.set(server);
        let Some(mark) = self.marks.get_mut(server.id.index()) else { return false };
        let others = counters.others.of(server.id.index()).flows;
        let before = std::mem::replace(&mut mark.others, others);
        match others.cmp(&before) {
            std::cmp::Ordering::Greater => mark.bound(Load::of(server.id, counters)),
            std::cmp::Ordering::Less => mark.unbound(Load::of(server.id, counters)),
            std::cmp::Ordering::Equal => {}
        }
        mark.is_overloaded
    }

    pub fn bound(&mut self, server: ServerId, counters: &WorkerCounters) {
        if let Some(mark) = self.marks.get_mut(server.index()).filter(|mark| mark.upper > 0) {
            mark.bound(Load::of(server, counters));
        }
    }

    pub fn unbound(&mut self, server: ServerId, counters: &WorkerCounters) {
        if let Some(mark) = self.marks.get_mut(server.index()).filter(|mark| mark.is_overloaded) {
            mark.unbound(Load::of(server, counters));
        }
    }
}
