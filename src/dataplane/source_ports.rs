//! FULLNAT source ports: one worker's share of every local address.
//!
//! A space is the ports of one local address towards one server address. In it a port is free,
//! live, or closed: its last connection has ended on both sides, but the server may still be in
//! TIME_WAIT. Free ports go first; then the port that closed longest ago is taken over, which
//! the server accepts because the new flow's sequence numbers are shifted above the old one's
//! (RFC 9293 section 3.6.1, RFC 6191). A port is not freed while its flow entry lives.
//!
//! Among free ports one is preferred whose reply the NIC brings back to this worker's queue.

use std::net::IpAddr;

use hashbrown::HashMap;

use super::flow::flag;
use super::flow_table::{FlowId, FlowTable};
use crate::counters::DropReason;
use crate::limits::{CLOSED_FLOWS_LOOKS_MAX, SOURCE_PORT_SPACES_MAX, SOURCE_PORT_TRIES_MAX};
use crate::memory::{FixedArray, MemoryError};
use crate::message::FlowState;
use crate::model::{LipId, LocalAddress, PORT_WORDS, Protocol, SourcePortMap, Steering, WorkerId};

/// End of a list of flows.
const NOBODY: u32 = u32::MAX;

/// Stands for every port of a server where one space does for all: those that it announces for data
/// connections (FTP), and those of services that keep the client's destination port. A space each
/// would let one client that asks for many ports use up the room for all others.
pub const ALL_PORTS: u16 = 0;

/// What a space is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpaceKey {
    /// The local address.
    pub lip: IpAddr,
    /// RIP.
    pub server: IpAddr,
    /// Its port; `ALL_PORTS` where the space is for every port.
    pub server_port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
}

/// What a source port is wanted for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// The space that it is taken from.
    pub key: SpaceKey,
    /// The server's port that it goes to.
    pub server_port: u16,
}

impl Wanted {
    /// The space that has flows to the same port of the server too.
    fn beside(&self) -> SpaceKey {
        let server_port =
            if self.key.server_port == ALL_PORTS { self.server_port } else { ALL_PORTS };
        SpaceKey { server_port, ..self.key }
    }
}

#[derive(Clone, Copy, Debug)]
struct Space {
    /// Slot of the local address, for its counters.
    lip: LipId,
    /// Where the last search ended, an index into the worker's ports.
    cursor: u32,
    /// Ports live or closed.
    used: u32,
    /// Ends of the list of closed flows, `Side::older`/`newer` between them.
    oldest: u32,
    newest: u32,
}

impl Space {
    /// Asks for what the next takeovers here will need: of the oldest flow where it is filed, which
    /// its entry says, and of the one behind it the entry.
    fn look_ahead(&self, flows: &FlowTable) {
        if self.oldest == NOBODY {
            return;
        }
        let next = FlowId(self.oldest);
        flows.prefetch_buckets_of(next);
        let newer = flows.side(next).newer;
        if newer != NOBODY {
            flows.prefetch_all(FlowId(newer));
        }
    }

    /// Takes a flow out of the list of closed ones.
    fn unlist(&mut self, id: FlowId, flows: &mut FlowTable) {
        let side = flows.side(id);
        match flows.side_mut(FlowId(side.older)).filter(|_| side.older != NOBODY) {
            Some(older) => older.newer = side.newer,
            None => self.oldest = side.newer,
        }
        match flows.side_mut(FlowId(side.newer)).filter(|_| side.newer != NOBODY) {
            Some(newer) => newer.older = side.older,
            None => self.newest = side.older,
        }
    }
}

/// A bit for each port.
type Bits = [u64; PORT_WORDS];

/// A port to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant {
    /// Nobody held it.
    Free(u16),
    /// This closed flow held it: take what it knows, then end it without freeing the port.
    Takeover(u16, FlowId),
}

/// The source ports of one worker.
#[derive(Debug)]
pub struct SourcePorts {
    worker: WorkerId,
    spaces: HashMap<SpaceKey, u32>,
    slots: Vec<Space>,
    unused: Vec<u32>,
    bits: FixedArray<Bits>,
    /// Spaces for all ports of a server.
    wide: u32,
}

impl SourcePorts {
    /// Takes memory for `spaces_max` pairs of local address and server.
    pub fn new(worker: WorkerId, spaces_max: usize) -> Result<Self, MemoryError> {
        let count = spaces_max.clamp(1, SOURCE_PORT_SPACES_MAX) as u32;
        let empty = Space { lip: LipId(0), cursor: 0, used: 0, oldest: NOBODY, newest: NOBODY };
        Ok(SourcePorts {
            worker,
            // hashbrown allocates anew when more than half of its room is taken and removals
            // have used up the rest; with twice the room it only tidies up in place.
            spaces: HashMap::with_capacity(2 * count as usize),
            slots: vec![empty; count as usize],
            unused: (0..count).rev().collect(),
            bits: FixedArray::new(count)?,
            wide: 0,
        })
    }

    /// A port of `local` towards the server of `wanted`. The caller makes the flow, or gives the
    /// port back with `release`. `NoSourcePort` when all are live, `NoAddressPair` when no
    /// further pair of local address and server has room.
    pub fn take(
        &mut self,
        local: &LocalAddress,
        wanted: &Wanted,
        steering: &Steering,
        flows: &mut FlowTable,
    ) -> Result<Grant, DropReason> {
        let key = &wanted.key;
        let at = self.open(local.id, key).ok_or(DropReason::NoAddressPair)?;
        // Of one kind there is rarely any.
        let may_be_beside = key.server_port == ALL_PORTS || self.wide > 0;
        let beside = may_be_beside.then(|| self.spaces.get(&wanted.beside())).flatten();
        let beside = beside.filter(|beside| **beside != at);
        let ports = &*local.ports;
        let space = self.slots.get_mut(at as usize).ok_or(DropReason::Internal)?;
        let own = self.bits.get(at).ok_or(DropReason::Internal)?;
        let used = Used { own, beside: beside.and_then(|beside| self.bits.get(*beside)) };
        if (space.used as usize) < ports.ports_of(self.worker).len() {
            let search = Search { worker: self.worker, ports, wanted, steering };
            if let Some(port) = search.near(space, &used).or_else(|| search.any(space, &used)) {
                space.used += 1;
                let bits = self.bits.get_mut(at).ok_or(DropReason::Internal)?;
                bits[usize::from(port) / 64] |= 1 << (port % 64);
                return Ok(Grant::Free(port));
            }
        }
        let Some((port, old)) = closed(flows, space.oldest, wanted, &used) else {
            self.close_if_empty(key, at);
            return Err(DropReason::NoSourcePort);
        };
        space.unlist(old, flows);
        space.look_ahead(flows);
        Ok(Grant::Takeover(port, old))
    }

    /// Gives a port back that no flow was made with.
    pub fn release(&mut self, key: &SpaceKey, port: u16) {
        if let Some(&at) = self.spaces.get(key) {
            self.free(key, at, port);
        }
    }

    /// Gives a flow's port back, as the flow ends; the slot of its local address.
    pub fn ended(&mut self, key: &SpaceKey, id: FlowId, flows: &mut FlowTable) -> Option<LipId> {
        let at = *self.spaces.get(key)?;
        let (port, is_closed) =
            flows.core(id).map(|core| (core.local_port(), core.has(flag::CLOSED)))?;
        let space = self.slots.get_mut(at as usize)?;
        let lip = space.lip;
        if is_closed {
            space.unlist(id, flows);
        }
        self.free(key, at, port);
        Some(lip)
    }

    fn free(&mut self, key: &SpaceKey, at: u32, port: u16) {
        if let Some(bits) = self.bits.get_mut(at)
            && let Some(word) = bits.get_mut(usize::from(port) / 64)
            && *word >> (port % 64) & 1 == 1
        {
            *word &= !(1 << (port % 64));
            if let Some(space) = self.slots.get_mut(at as usize) {
                space.used = space.used.saturating_sub(1);
            }
        }
        self.close_if_empty(key, at);
    }

    /// Puts a closed flow at the end of its space's list.
    pub fn list(&mut self, key: &SpaceKey, id: FlowId, flows: &mut FlowTable) {
        let Some(space) = self.space_mut(key) else { return };
        let before = std::mem::replace(&mut space.newest, id.0);
        if before == NOBODY {
            space.oldest = id.0;
        } else if let Some(side) = flows.side_mut(FlowId(before)) {
            side.newer = id.0;
        }
        if let Some(side) = flows.side_mut(id) {
            (side.older, side.newer) = (before, NOBODY);
        }
    }

    /// Takes a flow out of its space's list: it ends, or it opened again.
    pub fn unlist(&mut self, key: &SpaceKey, id: FlowId, flows: &mut FlowTable) {
        if let Some(space) = self.space_mut(key) {
            space.unlist(id, flows);
        }
    }

    fn space_mut(&mut self, key: &SpaceKey) -> Option<&mut Space> {
        let at = *self.spaces.get(key)?;
        self.slots.get_mut(at as usize)
    }

    /// The space of `key`, opened if there is none and a slot is left.
    fn open(&mut self, lip: LipId, key: &SpaceKey) -> Option<u32> {
        if let Some(at) = self.spaces.get(key) {
            return Some(*at);
        }
        let at = self.unused.pop()?;
        *self.bits.get_mut(at)? = [0; PORT_WORDS];
        *self.slots.get_mut(at as usize)? =
            Space { lip, cursor: 0, used: 0, oldest: NOBODY, newest: NOBODY };
        self.spaces.insert(*key, at);
        self.wide += u32::from(key.server_port == ALL_PORTS);
        Some(at)
    }

    fn close_if_empty(&mut self, key: &SpaceKey, at: u32) {
        if self.slots.get(at as usize).is_some_and(|space| space.used == 0) {
            self.spaces.remove(key);
            self.unused.push(at);
            self.wide -= u32::from(key.server_port == ALL_PORTS);
        }
    }

    /// The slot of the local address that a space belongs to.
    pub fn lip_of(&self, key: &SpaceKey) -> Option<LipId> {
        let at = *self.spaces.get(key)?;
        self.slots.get(at as usize).map(|space| space.lip)
    }
}

/// The oldest closed flow whose port may go straight to a new one, and the port. One that went to
/// another port of the server stays: what it knows of its TIME_WAIT there would be lost with it.
fn closed(flows: &FlowTable, oldest: u32, wanted: &Wanted, used: &Used) -> Option<(u16, FlowId)> {
    let mut id = FlowId(oldest);
    for _ in 0..CLOSED_FLOWS_LOOKS_MAX {
        let core = flows.core(id)?;
        let leaves_nothing = core.state() == FlowState::Close;
        if (core.server_port() == wanted.server_port || leaves_nothing)
            && !used.is_beside(core.local_port())
        {
            return Some((core.local_port(), id));
        }
        id = FlowId(flows.side(id).newer);
    }
    None
}

/// Ports that are not free.
struct Used<'a> {
    own: &'a Bits,
    /// Of the space beside.
    beside: Option<&'a Bits>,
}

impl Used<'_> {
    fn is_beside(&self, port: u16) -> bool {
        let word = self.beside.map_or(0, |bits| bits[usize::from(port) / 64]);
        word >> (port % 64) & 1 == 1
    }

    fn word(&self, at: usize) -> u64 {
        self.own[at] | self.beside.map_or(0, |bits| bits[at])
    }

    fn is_free(&self, port: u16) -> bool {
        self.word(usize::from(port) / 64) >> (port % 64) & 1 == 0
    }
}

/// What a search for a free port goes by.
struct Search<'a> {
    worker: WorkerId,
    ports: &'a SourcePortMap,
    wanted: &'a Wanted,
    steering: &'a Steering,
}

impl Search<'_> {
    /// The next free port behind the cursor whose reply comes back to this worker's queue. Looks
    /// at a bounded number; the cursor stays where it ended, so the next search goes on there.
    fn near(&self, space: &mut Space, used: &Used) -> Option<u16> {
        if self.steering.workers() == 1 {
            return self.next(space, used);
        }
        let Wanted { key: SpaceKey { lip, server, .. }, server_port } = *self.wanted;
        let base = self.steering.hash(server, lip, server_port, 0);
        let comes_back = |group: u32| self.steering.worker_of_hash(base ^ group) == self.worker;
        let owned = self.ports.ports_of(self.worker);
        let mut at = space.cursor as usize;
        let mut group = self.ports.group_at(self.worker, at);
        for _ in 0..SOURCE_PORT_TRIES_MAX {
            if at >= self.ports.group(self.worker, group).end || !comes_back(group) {
                group = (group + 1) % self.ports.groups();
                at = self.ports.group(self.worker, group).start;
                continue;
            }
            let port = *owned.get(at)?;
            at += 1;
            if used.is_free(port) {
                space.cursor = at as u32;
                return Some(port);
            }
        }
        space.cursor = at as u32;
        None
    }

    /// As `near` where every reply comes back here.
    fn next(&self, space: &mut Space, used: &Used) -> Option<u16> {
        let owned = self.ports.ports_of(self.worker);
        let mut at = space.cursor as usize;
        for _ in 0..SOURCE_PORT_TRIES_MAX {
            at = if at < owned.len() { at } else { 0 };
            let port = *owned.get(at)?;
            at += 1;
            if used.is_free(port) {
                space.cursor = at as u32;
                return Some(port);
            }
        }
        space.cursor = at as u32;
        None
    }

    /// Any free port, wherever it is: 64 at a look, beginning at the cursor's.
    fn any(&self, space: &Space, used: &Used) -> Option<u16> {
        let at = self.ports.ports_of(self.worker).get(space.cursor as usize);
        let first = at.map_or(0, |port| usize::from(*port) / 64);
        let words = self.ports.bits_of(self.worker).iter().enumerate();
        let mut free = words
            .cycle()
            .skip(first)
            .take(PORT_WORDS)
            .map(|(word, owned)| (word, owned & !used.word(word)))
            .filter(|(_, free)| *free != 0);
        free.next().map(|(word, free)| (word * 64) as u16 + free.trailing_zeros() as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::flow::{FlowKey, NewFlow};
    use crate::model::{Family, ForwardMode, NextHopId, ServerId, ServiceId, Tunnel};
    use crate::time::Nanos;
    use std::sync::Arc;

    fn local(steering: &Steering, first: u16, last: u16) -> LocalAddress {
        let ports = Arc::new(SourcePortMap::new(steering, Family::V4, first, last));
        LocalAddress { id: LipId(0), address: "10.2.0.1".parse().unwrap(), ports }
    }

    fn key(server_port: u16, protocol: Protocol) -> SpaceKey {
        let (lip, server) = ("10.2.0.1".parse().unwrap(), "10.2.0.11".parse().unwrap());
        SpaceKey { lip, server, server_port, protocol }
    }

    /// For the one port of the space.
    fn wanted(key: SpaceKey) -> Wanted {
        Wanted { key, server_port: key.server_port }
    }

    fn flows() -> FlowTable {
        FlowTable::new(1, 1, 7, Nanos::from_secs(1)).unwrap()
    }

    #[test]
    fn a_free_port_is_found_wherever_it_is() {
        for workers in [1, 2] {
            let steering = Steering::for_workers(workers);
            let local = local(&steering, 1024, 65535);
            let key = key(80, Protocol::Udp);
            let mut flows = flows();
            let mut ports = SourcePorts::new(WorkerId(0), 4).unwrap();
            let all = local.ports.ports_of(WorkerId(0)).to_vec();
            for _ in &all {
                let grant = ports.take(&local, &wanted(key), &steering, &mut flows);
                assert!(matches!(grant, Ok(Grant::Free(_))), "{grant:?}");
            }
            let none = ports.take(&local, &wanted(key), &steering, &mut flows);
            assert_eq!(none, Err(DropReason::NoSourcePort));
            for at in [all.len() - 1, 0, all.len() / 2, 5000, 4999] {
                ports.release(&key, all[at]);
                let grant = ports.take(&local, &wanted(key), &steering, &mut flows);
                assert_eq!(grant, Ok(Grant::Free(all[at])), "{workers} workers, place {at}");
            }
        }
    }

    #[test]
    fn the_first_ports_bring_their_replies_to_this_worker() {
        let steering = Steering::for_workers(3);
        let local = local(&steering, 1024, 65535);
        let key = key(80, Protocol::Tcp);
        let mut flows = flows();
        let all_ports = SpaceKey { server_port: ALL_PORTS, ..key };
        for (worker, space) in [(0, key), (1, key), (2, key), (1, all_ports)] {
            let worker = WorkerId(worker);
            let mut ports = SourcePorts::new(worker, 4).unwrap();
            let wanted = Wanted { key: space, server_port: 80 };
            for _ in 0..5000 {
                let grant = ports.take(&local, &wanted, &steering, &mut flows);
                let Ok(Grant::Free(port)) = grant else { panic!("{grant:?}") };
                assert_eq!(local.ports.owner(port), Some(worker));
                let hash = steering.hash(key.server, key.lip, key.server_port, port);
                assert_eq!(steering.worker_of_hash(hash), worker);
            }
        }
    }

    #[test]
    fn a_space_for_all_ports_and_one_for_a_port_give_a_port_once() {
        let steering = Steering::for_workers(1);
        let local = local(&steering, 2000, 2007);
        let mut flows = flows();
        let mut ports = SourcePorts::new(WorkerId(0), 4).unwrap();
        let all = |server_port| Wanted { key: key(ALL_PORTS, Protocol::Tcp), server_port };
        let one = wanted(key(80, Protocol::Tcp));
        let mut take = |wanted: &Wanted| ports.take(&local, wanted, &steering, &mut flows);
        let mut seen = std::collections::HashSet::new();
        for n in 0..8 {
            let grant = if n % 2 == 0 { take(&one) } else { take(&all(80)) };
            let Ok(Grant::Free(port)) = grant else { panic!("{grant:?}") };
            assert!(seen.insert(port), "{port} twice towards one port");
        }
        assert_eq!(take(&one), Err(DropReason::NoSourcePort));
        assert_eq!(take(&all(80)), Err(DropReason::NoSourcePort));
        // Towards another port the first space's are free.
        assert!((0..4).all(|_| matches!(take(&all(81)), Ok(Grant::Free(_)))));
        assert_eq!(take(&all(81)), Err(DropReason::NoSourcePort));
    }

    #[test]
    fn a_port_whose_last_flow_went_to_another_port_is_not_taken_over() {
        let steering = Steering::for_workers(1);
        let local = local(&steering, 2000, 2000);
        let mut flows = flows();
        let mut ports = SourcePorts::new(WorkerId(0), 4).unwrap();
        let all = key(ALL_PORTS, Protocol::Tcp);
        let wanted = |server_port| Wanted { key: all, server_port };
        let grant = ports.take(&local, &wanted(80), &steering, &mut flows);
        assert_eq!(grant, Ok(Grant::Free(2000)));
        let id = flows.insert(&flow_to(80)).unwrap();
        flows.core_mut(id).unwrap().set_state(FlowState::TimeWait);
        ports.list(&all, id, &mut flows);
        let refused = ports.take(&local, &wanted(81), &steering, &mut flows);
        assert_eq!(refused, Err(DropReason::NoSourcePort), "the server holds 2000 to 80");
        // After a reset it holds nothing.
        flows.core_mut(id).unwrap().set_state(FlowState::Close);
        let taken = ports.take(&local, &wanted(81), &steering, &mut flows);
        assert_eq!(taken, Ok(Grant::Takeover(2000, id)));
        flows.core_mut(id).unwrap().set_state(FlowState::TimeWait);
        ports.list(&all, id, &mut flows);
        let taken = ports.take(&local, &wanted(80), &steering, &mut flows);
        assert_eq!(taken, Ok(Grant::Takeover(2000, id)));
    }

    /// A client's flow from source port 2000 to that port of the server.
    fn flow_to(server_port: u16) -> NewFlow {
        let SpaceKey { lip, server, .. } = key(ALL_PORTS, Protocol::Tcp);
        NewFlow {
            key: FlowKey { src: server, dst: lip, dst_port: server_port, ..FlowKey::UNSET },
            service: ServiceId(0),
            server: ServerId(0),
            server_address: (server, server_port),
            local: Some((lip, 2000)),
            mode: ForwardMode::FullNat,
            tunnel: Tunnel::default(),
            decrements_ttl: true,
            hop: NextHopId(0),
            shares_ports: true,
            one_packet: false,
            flags: 0,
        }
    }

    #[test]
    fn pairs_beyond_the_room_are_refused_and_none_is_lost() {
        let steering = Steering::for_workers(1);
        let local = local(&steering, 1024, 1031);
        let mut flows = flows();
        let mut ports = SourcePorts::new(WorkerId(0), 2).unwrap();
        let mut take = |ports: &mut SourcePorts, server_port| {
            ports.take(&local, &wanted(key(server_port, Protocol::Tcp)), &steering, &mut flows)
        };
        let first = take(&mut ports, 1);
        let Ok(Grant::Free(port)) = first else { panic!("{first:?}") };
        assert!(take(&mut ports, 2).is_ok());
        assert_eq!(take(&mut ports, 3), Err(DropReason::NoAddressPair));
        ports.release(&key(1, Protocol::Tcp), port);
        assert!(take(&mut ports, 3).is_ok());
    }

    /// Nothing under `process_burst` may allocate.
    #[test]
    fn pairs_that_come_and_go_never_take_new_memory() {
        let steering = Steering::for_workers(1);
        let local = local(&steering, 1024, 1024);
        let mut flows = flows();
        let count = 4096u32;
        let key = |n: u32| {
            let server = std::net::Ipv4Addr::from(0x0a02_0000 + n).into();
            SpaceKey { server, ..key(80, Protocol::Tcp) }
        };
        let mut ports = SourcePorts::new(WorkerId(0), count as usize).unwrap();
        let room = ports.spaces.allocation_size();
        for n in 0..if cfg!(miri) { count + 10 } else { 100_000 } {
            if let Some(oldest) = n.checked_sub(count) {
                ports.release(&key(oldest), 1024);
            }
            ports.take(&local, &wanted(key(n)), &steering, &mut flows).unwrap();
            assert_eq!(ports.spaces.allocation_size(), room, "after {n}");
        }
    }
}
