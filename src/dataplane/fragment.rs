//! Pieces of datagrams (RFC 791, RFC 8200). The first one has the ports and is handled as a packet
//! is; the others follow it, fragment by fragment, without reassembly.
//!
//! Every piece goes first to the owner of its datagram, which alone sees all of them, then to the
//! owner of the flow that the first piece names. What comes before the first waits as a copy in a
//! store of fixed size (`store`), and comes again, from `resume_fragments`, once it is known. So
//! the runtime holds no frame for us, and waiting is tested like everything else. Which bytes of a
//! datagram were seen, and what becomes of it, is `datagrams`'.

mod coverage;
mod datagrams;
mod store;
mod whole;

use super::burst::{Errand, RxMeta, Slot, Verdict};
use super::classify::{self, Kind, Packet};
use super::flow::{Direction, FlowKey, flag};
use super::flow_table::Hit;
use super::state::WorkerState;
use super::{forward, persistence, pipeline, steer, tcp_state, track};
use crate::counters::{DropReason, HandOffCause, WorkerCounters};
use crate::frame::Frame;
use crate::limits::{
    FRAGMENT_FRAMES_MAX, FRAGMENT_TIMEOUT_MS, FRAME_BYTES_MAX, HEADROOM_BYTES, TIMERS_PER_TURN_MAX,
};
use crate::model::{ClientAddress, Protocol, Snapshot, VirtualService, WorkerId};
use crate::time::{NANOS_PER_MILLI, Nanos};
use datagrams::{Datagrams, Fate};
use std::num::NonZeroU32;
use store::{Chain, Store};
use whole::{Pieces, Whole};

/// All fragments of one worker.
#[derive(Debug)]
pub(super) struct Fragments {
    datagrams: Datagrams,
    store: Store,
    /// Frames that wait no longer.
    released: Chain,
    /// Room for a frame.
    scratch: Vec<u8>,
    /// Room for a datagram.
    whole: Whole,
}

impl Fragments {
    /// Takes all memory.
    pub fn new(seed: u64) -> Self {
        Fragments {
            datagrams: Datagrams::new(seed),
            store: Store::new(),
            released: Chain::EMPTY,
            scratch: vec![0; FRAME_BYTES_MAX],
            whole: Whole::new(),
        }
    }

    /// Forgets a datagram and drops what waits of it.
    fn forget(&mut self, at: u16, reason: DropReason, counters: &WorkerCounters) {
        if let Some(datagram) = self.datagrams.get_mut(at) {
            while let Some(frame) = self.store.pop(&mut datagram.waiting) {
                self.store.free(frame);
                counters.dropped(reason);
            }
        }
        self.datagrams.remove(at);
    }

    /// Whether a datagram may keep one more frame of that size, if there is room.
    fn may_keep(&self, at: u16, bytes: usize) -> bool {
        let waiting = self.datagrams.get(at).map(|datagram| datagram.waiting.len());
        bytes <= self.scratch.len() && waiting.is_some_and(|count| count < FRAGMENT_FRAMES_MAX)
    }

    /// Keeps a copy of a frame, if there is room.
    fn keep(&mut self, at: u16, slot: &Slot) -> Result<(), DropReason> {
        let bytes = slot.frame.bytes().get(..slot.packet.end).ok_or(DropReason::Internal)?;
        let piece = slot.packet.piece.ok_or(DropReason::Internal)?;
        let datagram = self.datagrams.get_mut(at).ok_or(DropReason::Internal)?;
        let is_kept = self.store.insert(&mut datagram.waiting, bytes, &piece, &slot.rx);
        self.datagrams.note_waiting(at);
        if is_kept { Ok(()) } else { Err(DropReason::FragmentStoreFull) }
    }

    /// The datagram that was put together last, with room before it, and how it had been cut.
    pub fn whole(&mut self) -> (Frame<'_>, &Pieces) {
        let Whole { bytes, end, pieces } = &mut self.whole;
        (Frame::new(bytes, HEADROOM_BYTES, *end), pieces)
    }

    fn set_fate(&mut self, at: u16, fate: Fate) {
        if let Some(datagram) = self.datagrams.get_mut(at) {
            datagram.fate = fate;
        }
    }

    /// Decides what becomes of a datagram's pieces, those that wait included.
    fn decide(&mut self, at: u16, fate: Fate) {
        let Some(datagram) = self.datagrams.get_mut(at) else { return };
        datagram.fate = fate;
        let waiting = std::mem::replace(&mut datagram.waiting, Chain::EMPTY);
        datagram.resuming += waiting.len();
        self.datagrams.note_waiting(at);
        self.store.append(&mut self.released, waiting);
    }
}

/// A piece of a datagram that travels whole (TUN): kept until all are here, then put together for
/// `Fragments::whole`. Whether it was.
pub(super) fn gather(state: &mut WorkerState, slot: &Slot) -> Result<bool, DropReason> {
    let key = datagram_key(&slot.packet)?;
    let at = state.fragments.datagrams.find(&key).ok_or(DropReason::Internal)?;
    park(state, slot, at)?;
    let Fragments { datagrams, store, scratch, whole, .. } = &mut state.fragments;
    let datagram = datagrams.get_mut(at).ok_or(DropReason::Internal)?;
    if !datagram.is_whole() {
        return Ok(false);
    }
    let mut put = Ok(());
    let mut is_first = true;
    while let Some(frame) = store.pop(&mut datagram.waiting) {
        let body = store.body(frame);
        let (_, len) = store.read(frame, scratch);
        store.free(frame);
        let bytes = scratch.get(..len).unwrap_or_default();
        put = put.and_then(|()| match is_first {
            true => whole.begin(bytes, body),
            false => whole.add(bytes, body),
        });
        is_first = false;
    }
    datagrams.note_waiting(at);
    put.and_then(|()| whole.finish()).map(|()| true)
}

/// Keeps a copy of a frame until its datagram's first piece has come, or all of them have; those
/// that have waited longest make way.
fn park(state: &mut WorkerState, slot: &Slot, at: u16) -> Result<(), DropReason> {
    if !state.fragments.may_keep(at, slot.packet.end) {
        return Err(DropReason::FragmentStoreFull);
    }
    while !state.fragments.store.has_room(slot.packet.end)
        && let Some(victim) = state.fragments.datagrams.waits_longest(at)
    {
        give_up(state, victim, DropReason::FragmentEvicted);
    }
    state.fragments.keep(at, slot)
}

/// Forgets a datagram with all that hangs on it.
fn give_up(state: &mut WorkerState, at: u16, reason: DropReason) {
    let fate = state.fragments.datagrams.get(at).map(|datagram| datagram.fate);
    state.fragments.forget(at, reason, &state.counters);
    if let Some(fate) = fate {
        end_of_datagram(state, fate);
    }
}

impl WorkerState {
    /// Hands fragments that need wait no longer to `take`, as they came in, so many at most; the
    /// caller runs them through `process_burst` again. Says how many there were.
    pub fn resume_fragments(&mut self, max: usize, mut take: impl FnMut(RxMeta, &[u8])) -> usize {
        let Fragments { store, released, scratch, .. } = &mut self.fragments;
        for count in 0..max {
            let Some(frame) = store.pop(released) else { return count };
            let (rx, len) = store.read(frame, scratch);
            store.free(frame);
            take(rx, scratch.get(..len).unwrap_or_default());
        }
        max
    }

    /// Gives up datagrams whose first piece came too long ago, a bounded number; how many.
    pub(super) fn expire_fragments(&mut self, now: Nanos) -> usize {
        let then = Nanos(now.0.saturating_sub(FRAGMENT_TIMEOUT_MS * NANOS_PER_MILLI));
        for count in 0..TIMERS_PER_TURN_MAX {
            let Some(at) = self.fragments.datagrams.overdue(then) else { return count };
            give_up(self, at, DropReason::FragmentTimeout);
        }
        TIMERS_PER_TURN_MAX
    }
}

/// Follows a piece of a TCP or UDP datagram.
pub(super) fn follow(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    slot: &mut Slot,
    now: Nanos,
) -> Result<Verdict, DropReason> {
    if let Errand::Ask(asker) = slot.rx.errand {
        // The question of another worker about a first piece, which stays its own.
        slot.packet = classify::first_piece(slot.frame.bytes(), &slot.packet)?;
        return persistence::answer(state, snapshot, slot, asker);
    }
    if !may_be_a_services(snapshot, &slot.packet) {
        return Ok(Verdict::ToKernel(slot.rx.nic));
    }
    let key = datagram_key(&slot.packet)?;
    let owner = owner(snapshot, &key);
    if owner == state.worker {
        // This step is besides the one to the flow's owner.
        slot.rx.hops = 0;
    } else if !slot.rx.was_handed_off() && !slot.rx.resumed {
        return Ok(Verdict::HandOff(owner, HandOffCause::Fragment));
    }
    let at = match slot.rx.errand {
        // A first piece that was noted before it asked for its server.
        Errand::Answer(_) => {
            state.fragments.datagrams.find(&key).ok_or(DropReason::FragmentEvicted)?
        }
        _ if slot.rx.resumed => come_again(state, &key)?,
        _ => enter(state, &key, slot)?,
    };
    let verdict = piece(state, snapshot, slot, (at, now));
    if let Some(fate) = state.fragments.datagrams.remove_if_done(at) {
        end_of_datagram(state, fate);
    }
    verdict
}

/// One-packet scheduling keeps a flow for as long as datagrams in pieces follow it.
fn end_of_datagram(state: &mut WorkerState, fate: Fate) {
    let Fate::Flow(tuple) = fate else { return };
    let Some(hit) = state.flows.find(&tuple) else { return };
    if state.flows.core(hit.id).is_some_and(|core| core.is_one_packet())
        && !state.fragments.datagrams.has(fate)
    {
        track::end(state, hit.id);
    }
}

/// Whether a piece can belong to a flow. Without ports that is to say: to or from an address that
/// flows have.
fn may_be_a_services(snapshot: &Snapshot, packet: &Packet) -> bool {
    let (src, dst) = (packet.key.src, packet.key.dst);
    snapshot.vips.contains(&dst)
        || snapshot.lips.contains_key(&dst)
        || snapshot.nat_addresses.contains(&src)
        || snapshot.traffic.covers(dst)
}

/// What a datagram's pieces share (RFC 791; RFC 8200 section 4.5, where the protocol is none of
/// it): the identification stands where a flow's ports do.
fn datagram_key(packet: &Packet) -> Result<FlowKey, DropReason> {
    let id = packet.piece.ok_or(DropReason::Internal)?.place.id;
    let protocol = if packet.key.src.is_ipv4() { packet.key.protocol } else { Protocol::Udp };
    Ok(FlowKey { protocol, src_port: (id >> 16) as u16, dst_port: id as u16, ..packet.key })
}

/// The worker that follows a datagram.
fn owner(snapshot: &Snapshot, key: &FlowKey) -> WorkerId {
    let steering = &snapshot.steering;
    if steering.workers() == 1 {
        return WorkerId(0);
    }
    steering.worker_of_hash(steering.hash(key.src, key.dst, key.src_port, key.dst_port))
}

/// The datagram of a piece that waited.
fn come_again(state: &mut WorkerState, key: &FlowKey) -> Result<u16, DropReason> {
    let Fragments { datagrams, .. } = &mut state.fragments;
    let at = datagrams.find(key).ok_or(DropReason::FragmentEvicted)?;
    if let Some(datagram) = datagrams.get_mut(at) {
        datagram.resuming = datagram.resuming.saturating_sub(1);
    }
    Ok(at)
}

/// The datagram of a piece that has just come, which is noted there.
fn enter(state: &mut WorkerState, key: &FlowKey, slot: &Slot) -> Result<u16, DropReason> {
    let piece = slot.packet.piece.ok_or(DropReason::Internal)?;
    let bytes = slot.packet.end.saturating_sub(usize::from(piece.body));
    let at = match state.fragments.datagrams.find(key) {
        Some(at) => at,
        None => make(state, key).ok_or(DropReason::Internal)?,
    };
    let fragments = &mut state.fragments;
    let noted = fragments.datagrams.note(at, &piece.place, bytes);
    if noted == Err(DropReason::FragmentOverlap) {
        // The whole datagram goes, what has yet to come of it included (RFC 5722 section 4).
        fragments.decide(at, Fate::Ended(DropReason::FragmentOverlap));
    }
    noted.map(|()| at)
}

/// Makes a datagram; the oldest one makes way.
fn make(state: &mut WorkerState, key: &FlowKey) -> Option<u16> {
    let (id, now) = (state.next_fragment_id(), state.now);
    if let Some(at) = state.fragments.datagrams.insert(key, id, now) {
        return Some(at);
    }
    let oldest = state.fragments.datagrams.oldest()?;
    give_up(state, oldest, DropReason::FragmentEvicted);
    state.fragments.datagrams.insert(key, id, now)
}

/// What becomes of one piece.
fn piece(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    slot: &mut Slot,
    (at, now): (u16, Nanos),
) -> Result<Verdict, DropReason> {
    let datagram = *state.fragments.datagrams.get(at).ok_or(DropReason::Internal)?;
    let piece = slot.packet.piece.as_mut().ok_or(DropReason::Internal)?;
    piece.new_id = NonZeroU32::new(datagram.new_id);
    match datagram.fate {
        Fate::Waiting if piece.place.is_first() => {
            let verdict = first(state, snapshot, slot, now);
            let fate = fate(state, slot, verdict);
            match verdict {
                // It asks which server it gets, and comes again.
                Ok(Verdict::HandOff(_, HandOffCause::Template)) => {}
                // In a tunnel it waits on, for the last piece.
                Ok(Verdict::Parked) => state.fragments.set_fate(at, fate),
                _ => state.fragments.decide(at, fate),
            }
            verdict
        }
        Fate::Waiting => park(state, slot, at).map(|()| Verdict::Parked),
        Fate::Flow(tuple) => later(state, snapshot, slot, &tuple),
        Fate::Elsewhere(worker) => Ok(Verdict::HandOff(worker, HandOffCause::Fragment)),
        Fate::Kernel => Ok(Verdict::ToKernel(slot.rx.nic)),
        Fate::Ended(reason) => Err(reason),
    }
}

/// The first piece: as a packet, once its ports are read.
fn first(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    slot: &mut Slot,
    now: Nanos,
) -> Result<Verdict, DropReason> {
    slot.packet = classify::first_piece(slot.frame.bytes(), &slot.packet)?;
    slot.probe = state.flows.probe(&slot.packet.key);
    if is_in_handshake(state, snapshot, slot) {
        return Err(DropReason::FragmentInHandshake);
    }
    pipeline::transport(state, snapshot, slot, now)
}

/// Whether bytes would have to be put into a segment, or it would have to be kept: no piece has
/// what that takes. Clients send handshakes, and the few bytes behind them, whole.
fn is_in_handshake(state: &WorkerState, snapshot: &Snapshot, slot: &Slot) -> bool {
    let key = &slot.packet.key;
    if key.protocol != Protocol::Tcp {
        return false;
    }
    let begins = |service: &VirtualService| {
        service.synproxy || service.client_address != ClientAddress::None
    };
    match state.flows.find(key).and_then(|hit| state.flows.core(hit.id)) {
        Some(core) if core.has(flag::SLOW & !flag::ADJUST) => true,
        Some(core) => {
            tcp_state::has_ended(core) && snapshot.service(core.service()).is_some_and(begins)
        }
        None => {
            let service = snapshot.match_service(&steer::destination(key));
            service.is_some_and(begins) && steer::elsewhere(state, snapshot, slot).is_none()
        }
    }
}

/// What becomes of the pieces behind a first one.
fn fate(state: &WorkerState, slot: &Slot, verdict: Result<Verdict, DropReason>) -> Fate {
    let key = slot.packet.key;
    match verdict {
        Ok(Verdict::HandOff(worker, _)) => Fate::Elsewhere(worker),
        Ok(Verdict::ToKernel(_)) => Fate::Kernel,
        // Where the director answered, no packet of the flow is left in the slot.
        Ok(_) if slot.packet.kind == Kind::Transport && state.flows.find(&key).is_some() => {
            Fate::Flow(key)
        }
        _ => Fate::Ended(DropReason::FragmentRefused),
    }
}

/// A further piece of a flow's datagram.
fn later(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    slot: &mut Slot,
    tuple: &FlowKey,
) -> Result<Verdict, DropReason> {
    let hit: Hit = state.flows.find(tuple).ok_or(DropReason::FragmentNoFlow)?;
    let server = state.flows.core(hit.id).ok_or(DropReason::Internal)?.server();
    if hit.direction == Direction::Inbound && snapshot.is_removed(server) {
        return Err(DropReason::ServerRemoved);
    }
    slot.packet.key = *tuple;
    slot.packet.kind = Kind::Fragment;
    track::further_piece(state, &slot.packet, hit);
    forward::rewrite(state, snapshot, slot, hit)
}
