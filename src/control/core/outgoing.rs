//! What goes down to one worker, in order: commands and snapshots share one queue, though they
//! travel by two rings.
//!
//! A snapshot is sent only after the worker has taken every command before it, so that next hops
//! are written before the snapshot that names them; commands after it wait until the worker has
//! adopted it, so that a sweep for forgotten routes cannot meet the old ones.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::control::link::WorkerLink;
use crate::limits::{COMMANDS_WAITING_MAX, SNAPSHOTS_OUT_MAX, WORKER_COMMANDS_MAX};
use crate::message::{FromWorker, ToWorker};
use crate::model::{NextHop, NextHopId, Snapshot};

enum Item {
    Command(ToWorker),
    Snapshot(Arc<Snapshot>),
}

/// A worker as the core sees it.
pub struct Outgoing {
    link: WorkerLink,
    waiting: VecDeque<Item>,
    snapshots_waiting: usize,
    /// Revision sent and not yet seen adopted.
    unadopted: Option<u64>,
    overflowed: bool,
}

impl Outgoing {
    pub fn new(link: WorkerLink) -> Self {
        Outgoing {
            link,
            waiting: VecDeque::new(),
            snapshots_waiting: 0,
            unadopted: None,
            overflowed: false,
        }
    }

    pub fn link(&self) -> &WorkerLink {
        &self.link
    }

    pub fn next_event(&mut self) -> Option<FromWorker> {
        self.link.events.pop()
    }

    pub fn command(&mut self, command: ToWorker) {
        if self.waiting.len() < COMMANDS_WAITING_MAX {
            self.waiting.push_back(Item::Command(command));
        } else {
            self.overflowed = true;
        }
    }

    pub fn hops(&mut self, hops: &[(NextHopId, NextHop)]) {
        hops.iter().for_each(|(id, hop)| self.command(ToWorker::SetNextHop(*id, *hop)));
    }

    pub fn publish(&mut self, snapshot: &Arc<Snapshot>) {
        let newest = self.waiting.iter_mut().rev().find_map(|item| match item {
            Item::Snapshot(newest) => Some(newest),
            Item::Command(_) => None,
        });
        match newest {
            // It may name next hops whose commands wait behind it: to the worker they are not
            // resolved, so frames wait. No slot can have been given out again meanwhile, since
            // that takes a sweep by every worker.
            Some(newest) if self.snapshots_waiting >= SNAPSHOTS_OUT_MAX => {
                *newest = Arc::clone(snapshot);
            }
            _ => {
                self.waiting.push_back(Item::Snapshot(Arc::clone(snapshot)));
                self.snapshots_waiting += 1;
            }
        }
    }

    /// Sends what may be sent now and frees what came back. True when commands were lost and all
    /// next hops must be repeated.
    pub fn pump(&mut self) -> bool {
        self.link.snapshots.collect();
        if self.unadopted.is_some_and(|revision| self.link.snapshots.adopted() >= revision) {
            self.unadopted = None;
        }
        while self.unadopted.is_none()
            && let Some(item) = self.waiting.pop_front()
        {
            if let Some(item) = self.send(item) {
                self.waiting.push_front(item);
                break;
            }
        }
        self.waiting.is_empty() && std::mem::take(&mut self.overflowed)
    }

    /// Gives back what cannot go yet.
    fn send(&mut self, item: Item) -> Option<Item> {
        match item {
            Item::Command(command) => self.link.commands.push(command).err().map(Item::Command),
            Item::Snapshot(snapshot) => {
                if self.link.commands.room(WORKER_COMMANDS_MAX) < WORKER_COMMANDS_MAX {
                    return Some(Item::Snapshot(snapshot));
                }
                let revision = snapshot.revision;
                match self.link.snapshots.publish(revision, snapshot) {
                    Ok(()) => {
                        self.snapshots_waiting -= 1;
                        self.unadopted = Some(revision);
                        None
                    }
                    Err(snapshot) => Some(Item::Snapshot(snapshot)),
                }
            }
        }
    }

    /// Drops what waits and tells the worker to end; false when its ring is full.
    pub fn shut_down(&mut self) -> bool {
        self.waiting.clear();
        self.snapshots_waiting = 0;
        self.link.commands.push(ToWorker::Shutdown).is_ok()
    }

    /// Frees what came back.
    pub fn collect(&mut self) {
        self.link.snapshots.collect();
    }

    /// Whether the worker's ends are gone.
    pub fn is_over(&self) -> bool {
        self.link.snapshots.is_closed()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::control::link::WorkerEnds;
    use crate::counters::WorkerCounters;
    use crate::model::{NicId, WorkerId};
    use crate::wire::pair::MacPair;

    fn pair() -> (Outgoing, WorkerEnds) {
        let counters = Arc::new(WorkerCounters::with_bounds(0, 0, 0));
        let first = Arc::new(Snapshot::empty());
        let (link, ends) = WorkerLink::new(WorkerId(0), &first, &counters);
        (Outgoing::new(link), ends)
    }

    /// The same but for its revision: an owner function is dear to make.
    fn later(snapshot: &Snapshot, revision: u64) -> Arc<Snapshot> {
        Arc::new(Snapshot { revision, ..snapshot.clone() })
    }

    fn hop(id: u16) -> (NextHopId, NextHop) {
        let neighbour = Ipv4Addr::LOCALHOST.into();
        let macs = MacPair::new([1; 6], [2; 6]);
        let nic = NicId(0);
        let hop = NextHop { nic, resolved: true, macs, mtu: 1500, neighbour };
        (NextHopId(id), hop)
    }

    #[test]
    fn a_snapshot_waits_for_the_hops_before_it_and_holds_back_those_behind() {
        let (mut outgoing, mut ends) = pair();
        outgoing.hops(&[hop(1)]);
        outgoing.publish(&later(ends.snapshots.current(), 1));
        outgoing.hops(&[hop(2)]);
        outgoing.pump();
        assert!(!ends.snapshots.adopt(), "the hop was not taken yet");
        assert!(matches!(ends.commands.pop(), Some(ToWorker::SetNextHop(NextHopId(1), _))));
        outgoing.pump();
        assert!(ends.commands.pop().is_none(), "the snapshot was not adopted yet");
        assert!(ends.snapshots.adopt());
        outgoing.pump();
        assert!(matches!(ends.commands.pop(), Some(ToWorker::SetNextHop(NextHopId(2), _))));
    }

    #[test]
    fn a_worker_that_takes_nothing_costs_bounded_room_and_then_hears_the_newest() {
        let (mut outgoing, mut ends) = pair();
        for revision in 1..=1000 {
            outgoing.publish(&later(ends.snapshots.current(), revision));
            assert!(!outgoing.pump());
        }
        assert!(outgoing.waiting.len() <= SNAPSHOTS_OUT_MAX);
        for _ in 0..10 {
            ends.snapshots.adopt();
            outgoing.pump();
        }
        assert_eq!(ends.snapshots.revision(), 1000);
        assert_eq!(outgoing.snapshots_waiting, 0);
    }

    #[test]
    fn lost_commands_are_owned_up_to_once_the_rest_is_sent() {
        let (mut outgoing, mut ends) = pair();
        let all = COMMANDS_WAITING_MAX + WORKER_COMMANDS_MAX + 10;
        (0..all).for_each(|_| outgoing.hops(&[hop(7)]));
        let mut taken = 0;
        while !outgoing.pump() {
            assert!(taken < all);
            while ends.commands.pop().is_some() {
                taken += 1;
            }
        }
        assert!(!outgoing.pump(), "said once");
        while ends.commands.pop().is_some() {
            taken += 1;
        }
        assert_eq!(taken, COMMANDS_WAITING_MAX);
    }
}
