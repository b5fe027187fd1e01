//! FULLNAT source ports: one worker's share of every local address.
//!
//! A space is the ports of one local address towards one server address. In it a port is free,
//! live, or closed: its last connection has ended on both sides, but the server may still be in
//! TIME_WAIT. Free ports go first; then the port that closed longest ago is taken over, which
//! the server accepts because the new flow's sequence numbers are shifted above the old one's
//! (RFC 9293 section 3.6.1, RFC 6191). A port is not freed while its flow entry lives.

use std::net::IpAddr;

use hashbrown::HashMap;

use super::flow_table::{FlowId, FlowTable};
use crate::limits::{SOURCE_PORT_SPACES_MAX, SOURCE_PORT_TRIES_MAX};
use crate::memory::{FixedArray, MemoryError};
use crate::model::{LipId, LocalAddress, Protocol, Steering, WorkerId};

/// End of a list of flows.
const NOBODY: u32 = u32::MAX;

/// What a space is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpaceKey {
    /// The local address.
    pub lip: IpAddr,
    /// RIP.
    pub server: IpAddr,
    /// Its port.
    pub server_port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
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

/// 65,536 bits.
type Bits = [u64; 1024];

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
}

impl SourcePorts {
    /// Takes memory for `spaces_max` pairs of local address and server.
    pub fn new(worker: WorkerId, spaces_max: usize) -> Result<Self, MemoryError> {
        let count = spaces_max.clamp(1, SOURCE_PORT_SPACES_MAX) as u32;
        let empty = Space { lip: LipId(0), cursor: 0, used: 0, oldest: NOBODY, newest: NOBODY };
        Ok(SourcePorts {
            worker,
            spaces: HashMap::with_capacity(count as usize),
            slots: vec![empty; count as usize],
            unused: (0..count).rev().collect(),
            bits: FixedArray::new(count)?,
        })
    }

    /// A port of `local` towards the server of `key`, or `None` when all are live. The caller
    /// makes the flow, or gives the port back with `release`.
    pub fn take(
        &mut self,
        local: &LocalAddress,
        key: &SpaceKey,
        steering: &Steering,
        flows: &mut FlowTable,
    ) -> Option<Grant> {
        let at = self.open(local.id, key)?;
        let ports = local.ports.ports_of(self.worker);
        let space = self.slots.get_mut(at as usize)?;
        if (space.used as usize) < ports.len()
            && let Some(port) = search(space, self.bits.get_mut(at)?, ports, |port| {
                // Where several queues exist, a port whose reply comes back to this one.
                let hash = steering.hash(key.server, key.lip, key.server_port, port);
                steering.worker_of_hash(hash) == self.worker
            })
        {
            space.used += 1;
            return Some(Grant::Free(port));
        }
        let oldest = FlowId(space.oldest);
        let Some(port) = flows.core(oldest).map(|core| core.local_port) else {
            self.close_if_empty(key, at);
            return None;
        };
        self.unlist(key, oldest, flows);
        Some(Grant::Takeover(port, oldest))
    }

    /// Gives a port back: its flow entry has ended.
    pub fn release(&mut self, key: &SpaceKey, port: u16) {
        let Some(&at) = self.spaces.get(key) else { return };
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
        let side = flows.side(id);
        let Some(space) = self.space_mut(key) else { return };
        match flows.side_mut(FlowId(side.older)).filter(|_| side.older != NOBODY) {
            Some(older) => older.newer = side.newer,
            None => space.oldest = side.newer,
        }
        match flows.side_mut(FlowId(side.newer)).filter(|_| side.newer != NOBODY) {
            Some(newer) => newer.older = side.older,
            None => space.newest = side.older,
        }
    }

    fn space_mut(&mut self, key: &SpaceKey) -> Option<&mut Space> {
        let at = *self.spaces.get(key)?;
        self.slots.get_mut(at as usize)
    }

    /// The space of `key`, opened if there is none. The map never outgrows its first allocation,
    /// since there are no more slots than that.
    fn open(&mut self, lip: LipId, key: &SpaceKey) -> Option<u32> {
        if let Some(at) = self.spaces.get(key) {
            return Some(*at);
        }
        let at = self.unused.pop()?;
        *self.bits.get_mut(at)? = [0; 1024];
        *self.slots.get_mut(at as usize)? =
            Space { lip, cursor: 0, used: 0, oldest: NOBODY, newest: NOBODY };
        self.spaces.insert(*key, at);
        Some(at)
    }

    fn close_if_empty(&mut self, key: &SpaceKey, at: u32) {
        if self.slots.get(at as usize).is_some_and(|space| space.used == 0) {
            self.spaces.remove(key);
            self.unused.push(at);
        }
    }

    /// The slot of the local address that a space belongs to.
    pub fn lip_of(&self, key: &SpaceKey) -> Option<LipId> {
        let at = *self.spaces.get(key)?;
        self.slots.get(at as usize).map(|space| space.lip)
    }
}

/// Next free port behind the cursor: one that `is_local` first, any in a second walk. Each walk
/// is bounded; the cursor stays where it ended, so the next search goes on from there.
fn search(
    space: &mut Space,
    bits: &mut Bits,
    ports: &[u16],
    is_local: impl Fn(u16) -> bool,
) -> Option<u16> {
    let count = ports.len();
    let tries = count.min(SOURCE_PORT_TRIES_MAX);
    let start = space.cursor as usize;
    let mut fallback = None;
    for step in 0..tries {
        let at = (start + step) % count;
        let port = *ports.get(at)?;
        if bits[usize::from(port) / 64] >> (port % 64) & 1 == 1 {
            continue;
        }
        fallback = fallback.or(Some((at, port)));
        if is_local(port) {
            fallback = Some((at, port));
            break;
        }
    }
    let Some((at, port)) = fallback else {
        space.cursor = ((start + tries) % count) as u32;
        return None;
    };
    space.cursor = ((at + 1) % count) as u32;
    bits[usize::from(port) / 64] |= 1 << (port % 64);
    Some(port)
}
