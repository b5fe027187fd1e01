//! The flow table: an index over slabs of entries, both tuples of a flow on one stable entry.
//!
//! The index says where a tuple may be; only the entry decides. A burst is looked up in passes
//! (hash, bucket lines, entry lines), so that cache misses overlap; what the passes find are
//! hints, verified by `settle` when the packet's turn comes.

use std::net::IpAddr;

use super::flow::{Addresses, Direction, FlowCore, FlowKey, FlowV4, FlowV6, NewFlow, Side, flag};
use super::glance::Changes;
use super::timer::Wheel;
use crate::memory::{FixedArray, FlowIndex, MemoryError, Slab};
use crate::model::Protocol;
use crate::time::Nanos;
use crate::wire::ip::IpProtocol;
use crate::wire::pair::{AddressPair, PortPair};
use crate::wire::plain::{TupleV4, TupleV6};

/// An entry's stable place: IPv4 entries first, IPv6 behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowId(pub u32);

/// One in so many entries should be free: with fewer the worker runs short. Of the default's
/// 262,144 these are 8,192.
const SPARE_PART: u32 = 32;

/// Set in an index value that was filed under the server's tuple.
const OUTBOUND_BIT: u32 = 1 << 31;

/// A packet's flow and the way the packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Entry.
    pub id: FlowId,
    /// Which of its tuples the packet has.
    pub direction: Direction,
}

/// What the passes over a burst found about one packet: hints only.
#[derive(Clone, Copy, Debug, Default)]
pub struct Probe {
    hash: u64,
    /// No bucket has anything for the hash.
    is_nobodys: bool,
}

impl Probe {
    /// Of a tuple's hash both of whose lines were looked at since the table last changed, and have
    /// nothing.
    pub(super) const NOBODYS: Probe = Probe { hash: 0, is_nobodys: true };

    /// A hint from a tuple's hash.
    pub(super) fn of(hash: u64) -> Self {
        Probe { hash, is_nobodys: false }
    }
}

/// No room for another flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableFull;

/// All flows of one worker.
#[derive(Debug)]
pub struct FlowTable {
    index: FlowIndex,
    v4: Slab<FlowV4>,
    v6: Slab<FlowV6>,
    sides: FixedArray<Side>,
    /// Template of each controlled flow.
    controls: FixedArray<u32>,
    pub(super) wheel: Wheel,
    seed: u64,
    changed: Changed,
}

/// How often tuples came and went; wraps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Changed {
    filed: u32,
    taken: u32,
}

impl Changed {
    /// What has happened since.
    #[inline]
    pub fn since(self, before: Changed) -> Changes {
        match (self.filed == before.filed, self.taken == before.taken) {
            (true, true) => Changes::None,
            (false, true) => Changes::Begins,
            (_, false) => Changes::Ends,
        }
    }
}

fn fold_multiply(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ (product >> 64) as u64
}

/// Hash of a tuple: keyed, so that nobody outside can aim at one bucket.
pub(super) fn hash(seed: u64, key: &FlowKey) -> u64 {
    let protocol = match key.protocol {
        Protocol::Tcp => IpProtocol::TCP,
        Protocol::Udp => IpProtocol::UDP,
    };
    let ports = PortPair::new(key.src_port, key.dst_port);
    match (key.src, key.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            hash_v4(seed, (AddressPair::new(src.into(), dst.into()), ports), protocol)
        }
        (src, dst) => {
            let bytes = |address: IpAddr| match address {
                IpAddr::V6(v6) => v6.octets(),
                IpAddr::V4(v4) => u128::from(u32::from(v4)).to_be_bytes(),
            };
            hash_v6(seed, &([bytes(src), bytes(dst)], ports), protocol)
        }
    }
}

#[inline(always)]
fn hash_v4(seed: u64, (addresses, ports): TupleV4, protocol: IpProtocol) -> u64 {
    mix(seed, addresses.bits(), ports, protocol)
}

#[inline(always)]
fn hash_v6(seed: u64, ([src, dst], ports): &TupleV6, protocol: IpProtocol) -> u64 {
    let halves = |address: &[u8; 16]| {
        let bits = u128::from_be_bytes(*address);
        ((bits >> 64) as u64, bits as u64)
    };
    let ((a, b), (c, d)) = (halves(src), halves(dst));
    let addresses = fold_multiply(a ^ seed.rotate_left(17), b ^ 0xa076_1d64_78bd_642f)
        ^ fold_multiply(c ^ seed.rotate_left(41), d ^ 0xe703_7ed1_a0b4_28db);
    mix(seed, addresses, *ports, protocol)
}

#[inline(always)]
fn mix(seed: u64, addresses: u64, ports: PortPair, protocol: IpProtocol) -> u64 {
    let ports = u64::from(ports.bits()) << 8 | u64::from(protocol.0);
    let mixed =
        fold_multiply(addresses ^ seed, ports ^ 0x9e37_79b9_7f4a_7c15 ^ seed.rotate_left(32));
    fold_multiply(mixed ^ seed, 0x8ebc_6af0_9c88_c6e3)
}

impl FlowTable {
    /// Takes memory for so many flows of each family, at least one each.
    pub fn new(v4_max: usize, v6_max: usize, seed: u64, now: Nanos) -> Result<Self, MemoryError> {
        let (v4_max, v6_max) = (v4_max.max(1) as u32, v6_max.max(1) as u32);
        let both = v4_max.saturating_add(v6_max);
        Ok(FlowTable {
            // A flow whose replies are seen is filed twice.
            index: FlowIndex::new(both.saturating_mul(2))?,
            v4: Slab::new(v4_max)?,
            v6: Slab::new(v6_max)?,
            sides: FixedArray::new(both)?,
            controls: FixedArray::new(both)?,
            wheel: Wheel::new(both, now)?,
            seed: seed | 1,
            changed: Changed::default(),
        })
    }

    /// Bytes its tables take, rounding up to pages aside.
    pub fn bytes(&self) -> usize {
        let entries = self.v4.bytes() + self.v6.bytes();
        let beside = self.sides.bytes() + self.controls.bytes() + self.wheel.bytes();
        self.index.bytes() + entries + beside
    }

    /// How often tuples came and went so far.
    #[inline]
    pub(super) fn changes(&self) -> Changed {
        self.changed
    }

    /// Flows held.
    pub fn len(&self) -> usize {
        (self.v4.len() + self.v6.len()) as usize
    }

    /// Whether no flow is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Flows there is room for: IPv4, IPv6.
    pub fn capacity(&self) -> (u32, u32) {
        (self.v4.capacity(), self.v6.capacity())
    }

    /// What a family lacks of the entries that should be free, one in 32: those, and how many of
    /// them are taken; `None` while enough are free.
    pub fn shortage(&self, is_ipv4: bool) -> Option<(u64, u64)> {
        let (capacity, len) = match is_ipv4 {
            true => (self.v4.capacity(), self.v4.len()),
            false => (self.v6.capacity(), self.v6.len()),
        };
        let spare = capacity / SPARE_PART;
        let missing = spare.saturating_sub(capacity - len);
        (missing > 0).then(|| (u64::from(spare), u64::from(missing)))
    }

    /// Hash of an IPv4 tuple.
    #[inline(always)]
    pub(super) fn hash_v4(&self, tuple: TupleV4, protocol: IpProtocol) -> u64 {
        hash_v4(self.seed, tuple, protocol)
    }

    /// Hash of an IPv6 tuple.
    #[inline(always)]
    pub(super) fn hash_v6(&self, tuple: &TupleV6, protocol: IpProtocol) -> u64 {
        hash_v6(self.seed, tuple, protocol)
    }

    /// First pass over a burst: asks for the line that a look-up needs.
    #[inline(always)]
    pub(super) fn prefetch_bucket(&self, hash: u64) {
        self.index.prefetch(hash);
    }

    /// Second pass: asks for the entry that may well be the flow's, and names it.
    #[inline(always)]
    pub(super) fn candidate(&self, hash: u64) -> Option<u32> {
        let value = self.index.hint(hash)?;
        self.prefetch(value);
        Some(value)
    }

    /// As `candidate`, for a tuple that has none in its first line.
    #[inline]
    pub(super) fn candidate_elsewhere(&self, hash: u64) -> Option<u32> {
        let value = self.index.hint_elsewhere(hash)?;
        self.prefetch(value);
        Some(value)
    }

    /// The entry that a candidate names, and the direction it was filed under.
    #[inline(always)]
    pub(super) fn place(value: u32) -> (FlowId, Direction) {
        (FlowId(value & !OUTBOUND_BIT), direction(value))
    }

    /// The IPv4 entry behind a candidate, and the direction it was filed under.
    #[inline(always)]
    pub(super) fn candidate_v4(&mut self, value: u32) -> Option<(&mut FlowV4, Direction)> {
        Some((self.v4.get_mut(value & !OUTBOUND_BIT)?, direction(value)))
    }

    /// As `candidate_v4`, of the other family.
    #[inline(always)]
    pub(super) fn candidate_v6(&mut self, value: u32) -> Option<(&mut FlowV6, Direction)> {
        let at = (value & !OUTBOUND_BIT).checked_sub(self.v4.capacity())?;
        Some((self.v6.get_mut(at)?, direction(value)))
    }

    #[inline(always)]
    fn prefetch(&self, value: u32) {
        let at = value & !OUTBOUND_BIT;
        match at.checked_sub(self.v4.capacity()) {
            None => self.v4.prefetch(at),
            Some(at) => self.v6.prefetch(at),
        }
    }

    /// The flow of a probed packet, looked up anew: an earlier packet of the burst may have made
    /// or ended it. The lines are in the cache by now.
    #[inline]
    pub fn settle(&self, key: &FlowKey, probe: &Probe) -> Option<Hit> {
        if probe.is_nobodys {
            return None;
        }
        self.find_hashed(key, probe.hash)
    }

    /// A hint for `settle` about one tuple, without the passes over a burst.
    pub fn probe(&self, key: &FlowKey) -> Probe {
        Probe::of(hash(self.seed, key))
    }

    /// The flow of a tuple.
    pub fn find(&self, key: &FlowKey) -> Option<Hit> {
        self.find_hashed(key, hash(self.seed, key))
    }

    /// Whether `key` is the tuple that a value was filed under.
    #[inline]
    pub(super) fn is_tuple_of(&self, value: u32, key: &FlowKey) -> bool {
        let at = value & !OUTBOUND_BIT;
        match at.checked_sub(self.v4.capacity()) {
            None => self.v4.get(at).is_some_and(|flow| flow.matches(key, direction(value))),
            Some(at) => self.v6.get(at).is_some_and(|flow| flow.matches(key, direction(value))),
        }
    }

    fn find_hashed(&self, key: &FlowKey, hash: u64) -> Option<Hit> {
        let value = self.index.find(hash, |value| self.is_tuple_of(value, key))?;
        Some(Hit { id: FlowId(value & !OUTBOUND_BIT), direction: direction(value) })
    }

    /// The shared part of an entry.
    #[inline]
    pub fn core(&self, id: FlowId) -> Option<&FlowCore> {
        match id.0.checked_sub(self.v4.capacity()) {
            None => self.v4.get(id.0).map(|flow| &flow.core),
            Some(at) => self.v6.get(at).map(|flow| &flow.core),
        }
    }

    /// The shared part of an entry, to change.
    #[inline]
    pub fn core_mut(&mut self, id: FlowId) -> Option<&mut FlowCore> {
        match id.0.checked_sub(self.v4.capacity()) {
            None => self.v4.get_mut(id.0).map(|flow| &mut flow.core),
            Some(at) => self.v6.get_mut(at).map(|flow| &mut flow.core),
        }
    }

    /// The template that a flow hangs on.
    pub fn control(&self, id: FlowId) -> Option<u32> {
        self.core(id).filter(|core| core.is_controlled())?;
        self.controls.get(id.0).copied()
    }

    /// Hangs a flow on a template, or takes it off.
    pub fn set_control(&mut self, id: FlowId, template: Option<u32>) {
        if let Some(core) = self.core_mut(id) {
            core.set_controlled(template.is_some());
        }
        if let (Some(template), Some(control)) = (template, self.controls.get_mut(id.0)) {
            *control = template;
        }
    }

    /// The part that handshakes and endings use.
    pub fn side(&self, id: FlowId) -> Side {
        self.sides.get(id.0).copied().unwrap_or_default()
    }

    /// As `side`, to change.
    pub fn side_mut(&mut self, id: FlowId) -> Option<&mut Side> {
        self.sides.get_mut(id.0)
    }

    /// The four addresses of an entry.
    #[inline]
    pub fn addresses(&self, id: FlowId) -> Option<Addresses> {
        let [client, vip, local, server] = match id.0.checked_sub(self.v4.capacity()) {
            None => self.v4.get(id.0)?.ip_addresses(),
            Some(at) => self.v6.get(at)?.ip_addresses(),
        };
        Some(Addresses { client, vip, local, server })
    }

    /// The tuple that a flow shows in one direction; none outbound where the mode sees none.
    pub fn key(&self, id: FlowId, direction: Direction) -> Option<FlowKey> {
        let (core, addresses) = (self.core(id)?, self.addresses(id)?);
        let protocol = core.protocol();
        match direction {
            Direction::Inbound => Some(FlowKey {
                protocol,
                src: addresses.client,
                dst: addresses.vip,
                src_port: core.client_port(),
                dst_port: core.virtual_port(),
            }),
            Direction::Outbound if core.takes_replies() => Some(FlowKey {
                protocol,
                src: addresses.server,
                dst: addresses.local,
                src_port: core.server_port(),
                dst_port: core.local_port(),
            }),
            Direction::Outbound => None,
        }
    }

    /// Whether the entry is taken.
    pub(super) fn is_live(&self, id: FlowId) -> bool {
        match id.0.checked_sub(self.v4.capacity()) {
            None => self.v4.is_live(id.0),
            Some(at) => self.v6.is_live(at),
        }
    }

    /// Asks for an entry, and for what endings use beside it.
    pub(super) fn prefetch_flow(&self, id: FlowId) {
        self.prefetch(id.0);
        self.sides.prefetch(id.0);
    }

    /// Asks for the lines under which a flow is filed.
    pub(super) fn prefetch_buckets_of(&self, id: FlowId) {
        for direction in [Direction::Inbound, Direction::Outbound] {
            if let Some(hash) = self.filed_under(id, direction) {
                self.prefetch_bucket(hash);
            }
        }
    }

    /// Hash of the tuple that a flow shows in one direction: `hash` of `key`.
    #[inline]
    fn filed_under(&self, id: FlowId, direction: Direction) -> Option<u64> {
        let Some(flow) = self.v4.get(id.0) else {
            return self.key(id, direction).map(|key| hash(self.seed, &key));
        };
        let is_filed = direction == Direction::Inbound || flow.core.takes_replies();
        is_filed.then(|| self.hash_v4(flow.tuple(direction), protocol_of(&flow.core)))
    }

    /// Asks for the lines that an IPv4 flow would be written to, once `ahead` others are made.
    #[inline]
    pub(super) fn prefetch_next_v4(&self, ahead: u32) {
        if let Some(at) = self.v4.next_free(ahead) {
            self.prefetch_all(FlowId(at));
        }
    }

    /// As `prefetch_next_v4`, of the other family.
    pub(super) fn prefetch_next_v6(&self, ahead: u32) {
        if let Some(at) = self.v6.next_free(ahead) {
            self.prefetch_all(FlowId(at + self.v4.capacity()));
        }
    }

    /// Asks for an entry, what endings use beside it, and its timer.
    #[inline]
    pub(super) fn prefetch_all(&self, id: FlowId) {
        self.prefetch_flow(id);
        self.wheel.prefetch(id.0);
    }

    /// Asks for what a flow's state and timer need beside its entry.
    #[inline]
    pub(super) fn prefetch_beside(&self, value: u32) {
        let at = value & !OUTBOUND_BIT;
        self.sides.prefetch(at);
        self.wheel.prefetch(at);
    }

    /// Makes an entry and files it under its tuples. The timer is the caller's to arm.
    pub fn insert(&mut self, new: &NewFlow) -> Result<FlowId, TableFull> {
        let id = if new.is_ipv4() {
            let at = self.v4.alloc().ok_or(TableFull)?;
            if let Some(entry) = self.v4.get_mut(at) {
                *entry = FlowV4::new(new);
            }
            FlowId(at)
        } else {
            let at = self.v6.alloc().ok_or(TableFull)?;
            if let Some(entry) = self.v6.get_mut(at) {
                *entry = FlowV6::new(new);
            }
            FlowId(at + self.v4.capacity())
        };
        self.changed.filed = self.changed.filed.wrapping_add(1);
        let there = self.filed_under(id, Direction::Inbound).unwrap_or_default();
        let back = self.filed_under(id, Direction::Outbound);
        // The packet's own line is here; the replies' comes meanwhile.
        if let Some(back) = back {
            self.index.prefetch(back);
        }
        if let Some(side) = self.sides.get_mut(id.0) {
            *side = Side::default();
        }
        if self.index.insert(there, id.0).is_err() {
            self.release(id);
            return Err(TableFull);
        }
        if let Some(back) = back
            && self.index.insert(back, id.0 | OUTBOUND_BIT).is_err()
        {
            self.index.remove(there, id.0);
            self.release(id);
            return Err(TableFull);
        }
        Ok(id)
    }

    /// Takes the client's tuple from the index: a newer flow may have it, while this entry goes
    /// on holding its source port.
    pub fn detach(&mut self, id: FlowId) {
        self.changed.taken = self.changed.taken.wrapping_add(1);
        if self.core(id).is_some_and(|core| core.has(flag::DETACHED)) {
            return;
        }
        if let Some(there) = self.filed_under(id, Direction::Inbound) {
            self.index.remove(there, id.0);
        }
        if let Some(core) = self.core_mut(id) {
            core.flags |= flag::DETACHED;
        }
    }

    /// Gives an entry other ports: the index follows. On an error it is in no index, and the
    /// caller ends it.
    pub fn refile(
        &mut self,
        id: FlowId,
        change: impl FnOnce(&mut FlowCore),
    ) -> Result<(), TableFull> {
        const FILED: [(Direction, u32); 2] =
            [(Direction::Inbound, 0), (Direction::Outbound, OUTBOUND_BIT)];
        self.changed.taken = self.changed.taken.wrapping_add(1);
        for (direction, bit) in FILED {
            if let Some(hash) = self.filed_under(id, direction) {
                self.index.remove(hash, id.0 | bit);
            }
        }
        change(self.core_mut(id).ok_or(TableFull)?);
        for (direction, bit) in FILED {
            if let Some(hash) = self.filed_under(id, direction) {
                let filed = self.index.insert(hash, id.0 | bit);
                filed.map_err(|_| TableFull)?;
            }
        }
        Ok(())
    }

    /// Ends an entry: out of the index, off its timer, slot free.
    pub fn remove(&mut self, id: FlowId) {
        self.changed.taken = self.changed.taken.wrapping_add(1);
        let back = self.filed_under(id, Direction::Outbound);
        if let Some(back) = back {
            self.index.prefetch(back);
        }
        self.detach(id);
        if let Some(back) = back {
            self.index.remove(back, id.0 | OUTBOUND_BIT);
        }
        self.wheel.disarm(id.0);
        self.release(id);
    }

    fn release(&mut self, id: FlowId) {
        match id.0.checked_sub(self.v4.capacity()) {
            None => self.v4.free(id.0),
            Some(at) => self.v6.free(at),
        };
    }

    /// The first live entry at `from` or behind it, for sweeps.
    pub fn next_live(&self, from: u32) -> Option<FlowId> {
        let border = self.v4.capacity();
        if from < border
            && let Some(at) = self.v4.next_live(from)
        {
            return Some(FlowId(at));
        }
        self.v6.next_live(from.saturating_sub(border)).map(|at| FlowId(at + border))
    }

    /// One past the highest entry place.
    pub fn places(&self) -> u32 {
        self.v4.capacity() + self.v6.capacity()
    }
}

#[inline]
fn protocol_of(core: &FlowCore) -> IpProtocol {
    match core.protocol() {
        Protocol::Tcp => IpProtocol::TCP,
        Protocol::Udp => IpProtocol::UDP,
    }
}

#[inline(always)]
fn direction(value: u32) -> Direction {
    if value & OUTBOUND_BIT == 0 { Direction::Inbound } else { Direction::Outbound }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ForwardMode, NextHopId, ServerId, ServiceId, Tunnel};
    use proptest::prelude::*;

    fn key(family: bool, client_port: u16) -> FlowKey {
        let (src, dst) = if family { ("10.0.0.7", "10.1.0.1") } else { ("fd00::7", "fd00::1") };
        FlowKey {
            protocol: Protocol::Tcp,
            src: src.parse().unwrap(),
            dst: dst.parse().unwrap(),
            src_port: client_port,
            dst_port: 80,
        }
    }

    /// A FULLNAT flow; its local port follows from the client's.
    fn new_flow(key: FlowKey) -> NewFlow {
        let v4 = key.src.is_ipv4();
        let (rip, lip) = if v4 { ("10.2.0.11", "10.2.0.1") } else { ("fd00:2::b", "fd00:2::1") };
        NewFlow {
            key,
            service: ServiceId(1),
            server: ServerId(2),
            server_address: (rip.parse().unwrap(), 8080),
            local: Some((lip.parse().unwrap(), 10_000 + key.src_port)),
            mode: ForwardMode::FullNat,
            tunnel: Tunnel::default(),
            decrements_ttl: true,
            hop: NextHopId(3),
            shares_ports: false,
            flags: 0,
            one_packet: false,
        }
    }

    fn table(v4: usize, v6: usize) -> FlowTable {
        FlowTable::new(v4, v6, 7, Nanos::from_secs(1)).unwrap()
    }

    #[test]
    fn both_tuples_lead_to_one_entry() {
        for family in [true, false] {
            let mut table = table(4, 4);
            let id = table.insert(&new_flow(key(family, 5))).unwrap();
            let there = table.key(id, Direction::Inbound).unwrap();
            let back = table.key(id, Direction::Outbound).unwrap();
            assert_eq!(there, key(family, 5));
            assert_eq!(table.find(&there), Some(Hit { id, direction: Direction::Inbound }));
            assert_eq!(table.find(&back), Some(Hit { id, direction: Direction::Outbound }));
            table.remove(id);
            assert_eq!((table.find(&there), table.find(&back), table.len()), (None, None, 0));
        }
    }

    #[test]
    fn detached_flow_gives_up_the_clients_tuple_and_keeps_the_servers() {
        let mut table = table(4, 4);
        let old = table.insert(&new_flow(key(true, 5))).unwrap();
        table.detach(old);
        let new =
            NewFlow { local: Some(("10.2.0.1".parse().unwrap(), 9)), ..new_flow(key(true, 5)) };
        let new = table.insert(&new).unwrap();
        assert_eq!(table.find(&key(true, 5)).unwrap().id, new);
        let back = table.key(old, Direction::Outbound).unwrap();
        assert_eq!(table.find(&back).unwrap().id, old);
        table.remove(old);
        assert_eq!(table.find(&key(true, 5)).unwrap().id, new);
    }

    #[test]
    fn full_table_refuses_and_leaves_nothing_behind() {
        let mut table = table(2, 1);
        let first = table.insert(&new_flow(key(true, 1))).unwrap();
        table.insert(&new_flow(key(true, 2))).unwrap();
        assert_eq!(table.insert(&new_flow(key(true, 3))), Err(TableFull));
        assert_eq!(table.find(&key(true, 3)), None);
        table.insert(&new_flow(key(false, 3))).unwrap();
        table.remove(first);
        assert!(table.insert(&new_flow(key(true, 3))).is_ok());
    }

    #[test]
    #[cfg_attr(miri, ignore = "counts bytes of many")]
    fn flow_takes_at_most_128_bytes_with_ipv4_and_192_with_ipv6() {
        const MANY: usize = 1 << 17;
        let least = table(1, 1).bytes();
        let [v4, v6] = [(MANY, 1), (1, MANY)]
            .map(|(v4, v6)| (table(v4, v6).bytes() - least) as f64 / (MANY - 1) as f64);
        // Where as many are live as leave the spare entries free, these are counted in.
        let spare = f64::from(SPARE_PART) / f64::from(SPARE_PART - 1);
        assert!(v4 > 120.0 && v4 * spare <= 128.0, "{v4} bytes, {} with spare ones", v4 * spare);
        assert!(v6 > 184.0 && v6 * spare <= 192.0, "{v6} bytes, {} with spare ones", v6 * spare);
    }

    #[test]
    fn table_of_flows_with_two_tuples_each_fills_up_and_takes_others_at_once() {
        const MANY: u16 = if cfg!(miri) { 40 } else { 4000 };
        let mut table = table(usize::from(MANY), 1);
        for round in 0..4 {
            for port in 0..MANY {
                let id = table.insert(&new_flow(key(true, port)));
                let id = id.unwrap_or_else(|_| panic!("flow {port} in round {round}"));
                assert_eq!(table.find(&key(true, port)).unwrap().id, id);
            }
            assert_eq!(table.insert(&new_flow(key(true, MANY))), Err(TableFull));
            for port in (0..MANY).filter(|port| port % 4 != round) {
                table.remove(table.find(&key(true, port)).unwrap().id);
            }
            for port in (0..MANY).filter(|port| port % 4 == round) {
                let id = table.find(&key(true, port)).unwrap().id;
                let back = table.key(id, Direction::Outbound).unwrap();
                assert_eq!(table.find(&back), Some(Hit { id, direction: Direction::Outbound }));
                table.remove(id);
            }
            assert!(table.is_empty());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: if cfg!(miri) { 3 } else { 64 },
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn table_agrees_with_a_map(
            steps in prop::collection::vec((any::<bool>(), any::<bool>(), 0u16..40), 0..120),
        ) {
            let mut table = table(32, 32);
            let mut model = std::collections::HashMap::new();
            for (insert, family, port) in steps {
                let key = key(family, port);
                match (insert, model.get(&key).copied()) {
                    (true, None) => {
                        if let Ok(id) = table.insert(&new_flow(key)) {
                            model.insert(key, id);
                        }
                    }
                    (false, Some(id)) => {
                        table.remove(id);
                        model.remove(&key);
                    }
                    _ => {}
                }
                prop_assert_eq!(table.len(), model.len());
                for (key, id) in &model {
                    prop_assert_eq!(table.find(key).map(|hit| hit.id), Some(*id));
                }
            }
        }
    }
}
