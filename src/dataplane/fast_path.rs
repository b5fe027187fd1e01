//! The fast path: a plain frame of an established flow that changes nothing but counts.
//!
//! It answers only what the general path would answer in the same way, and leaves everything else
//! to it, the frame untouched; `tests/fast_path.rs` holds the two against each other.

use super::burst::Arrival;
use super::flow::{Direction, FlowCore};
use super::flow_table::{FlowTable, Hit};
use super::glance::{Glance, Shape};
use super::next_hop;
use super::observe::{Observer, Part};
use super::plain_rewrite::{Around, wrap, write_v4, write_v6};
use super::state::WorkerState;
use crate::counters::{DropReason, WorkerCounters};
use crate::frame::Frame;
use crate::model::{NextHop, NicId, Snapshot};
use crate::wire::plain::{self, Facts, PLAIN_V4_BYTES, PLAIN_V6_BYTES};
use crate::wire::tcp::TcpFlags;

/// What became of a frame on the fast path.
pub(super) enum Fast {
    /// It leaves by this port.
    Sent(NicId),
    /// It is dropped, and counted.
    Dropped(DropReason),
    /// Its tuple is that of the candidate, whose state it may move: `advance`.
    Moves,
    /// Nothing: it is the general path's.
    Left,
}

/// Forwards a frame if it can.
#[inline(always)]
pub(super) fn forward(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    arrival: &mut Arrival,
    glance: &Glance,
    observer: &mut impl Observer,
) -> Fast {
    if !glance.is_plain() || glance.facts.ttl() < 2 {
        return Fast::Left;
    }
    let found = (glance.candidate, &glance.facts);
    let done = match glance.shape {
        Shape::V4 => forward_v4(state, snapshot, arrival, found, observer),
        Shape::V6 => forward_v6(state, snapshot, arrival, found, observer),
        Shape::Other => None,
    };
    done.unwrap_or(Fast::Left)
}

/// The flags that a connection's state depends on.
const DECIDING: TcpFlags =
    TcpFlags(TcpFlags::SYN.0 | TcpFlags::FIN.0 | TcpFlags::RST.0 | TcpFlags::ACK.0);
/// Those of them that packets have which say nothing of it: TCP's, and UDP's, by the lowest bit of
/// the protocol's number (6 and 17).
const USUAL: [TcpFlags; 2] = [TcpFlags::ACK, TcpFlags::NONE];

#[inline(always)]
fn forward_v4(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    arrival: &mut Arrival,
    (candidate, facts): (u32, &Facts),
    observer: &mut impl Observer,
) -> Option<Fast> {
    let WorkerState { flows, hops, counters, now_ms, now, learned_mtus, ids, .. } = state;
    let (flow, direction) = flows.candidate_v4(candidate)?;
    let head: &mut [u8; PLAIN_V4_BYTES] = arrival.frame.bytes_mut().first_chunk_mut()?;
    if flow.tuple(direction) != plain::tuple_v4(head) {
        return None;
    }
    let Some(hop) = way(&flow.core, direction, facts, snapshot, hops) else {
        return Some(Fast::Moves);
    };
    observer.ended(Part::Decide);
    let around = Around { snapshot, learned_mtus, ids, now: *now };
    if write_v4(&mut arrival.frame, flow, (direction, facts), hop, around).is_none() {
        return tunnelled(state, snapshot, arrival, (candidate, facts));
    }
    account(&mut flow.core, counters, (direction, facts), *now_ms);
    Some(depart(snapshot, &mut arrival.frame, hop, counters))
}

#[inline(always)]
fn forward_v6(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    arrival: &mut Arrival,
    (candidate, facts): (u32, &Facts),
    observer: &mut impl Observer,
) -> Option<Fast> {
    let WorkerState { flows, hops, counters, now_ms, now, learned_mtus, ids, .. } = state;
    let (flow, direction) = flows.candidate_v6(candidate)?;
    let head: &mut [u8; PLAIN_V6_BYTES] = arrival.frame.bytes_mut().first_chunk_mut()?;
    if !flow.is_all_v6() || flow.tuple(direction) != plain::tuple_v6(head) {
        return None;
    }
    let Some(hop) = way(&flow.core, direction, facts, snapshot, hops) else {
        return Some(Fast::Moves);
    };
    observer.ended(Part::Decide);
    let around = Around { snapshot, learned_mtus, ids, now: *now };
    if write_v6(&mut arrival.frame, flow, (direction, facts), hop, around).is_none() {
        return tunnelled(state, snapshot, arrival, (candidate, facts));
    }
    account(&mut flow.core, counters, (direction, facts), *now_ms);
    Some(depart(snapshot, &mut arrival.frame, hop, counters))
}

/// TUN: the packet goes on inside another one.
#[inline(never)]
fn tunnelled(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    arrival: &mut Arrival,
    (candidate, facts): (u32, &Facts),
) -> Option<Fast> {
    let (id, direction) = FlowTable::place(candidate);
    let hop_id = wrap(state, snapshot, &mut arrival.frame, facts, Hit { id, direction })?;
    let WorkerState { flows, hops, counters, now_ms, .. } = state;
    let hop = hops.get(hop_id.index())?;
    let head: &mut [u8; 12] = arrival.frame.bytes_mut().first_chunk_mut()?;
    plain::set_macs(head, &hop.macs);
    account(flows.core_mut(id)?, counters, (direction, facts), *now_ms);
    Some(depart(snapshot, &mut arrival.frame, hop, counters))
}

/// The next hop of a packet whose flow goes on as it is; none where there is more to do.
#[inline(always)]
fn way<'h>(
    core: &FlowCore,
    direction: Direction,
    facts: &Facts,
    snapshot: &Snapshot,
    hops: &'h [NextHop],
) -> Option<&'h NextHop> {
    // What is for a server that was removed is dropped.
    if !snapshot.removed_servers.is_empty() && is_for_removed(core, direction, snapshot) {
        return None;
    }
    let is_quiet = core.is_quiet(direction, facts.protocol());
    let usual = USUAL[usize::from(facts.protocol().0 & 1)];
    let says_nothing = facts.flags().0 & DECIDING.0 == usual.0;
    if !is_quiet || !says_nothing || core.epoch != snapshot.timeouts_epoch {
        return None;
    }
    let hop = hops.get(core.hop(direction).index())?;
    (hop.resolved && facts.ip_bytes() <= hop.mtu).then_some(hop)
}

#[inline(never)]
fn is_for_removed(core: &FlowCore, direction: Direction, snapshot: &Snapshot) -> bool {
    direction == Direction::Inbound && snapshot.is_removed(core.server())
}

/// What `track::packet` does for a flow that stays as it is.
#[inline(always)]
fn account(
    core: &mut FlowCore,
    counters: &WorkerCounters,
    (direction, facts): (Direction, &Facts),
    now_ms: u32,
) {
    core.last_seen_ms = now_ms;
    core.packets = core.packets.wrapping_add(1);
    let Some(server) = counters.servers.get(core.server().index()) else { return };
    let (packets, bytes) = match direction {
        Direction::Inbound => (&server.in_packets, &server.in_bytes),
        Direction::Outbound => (&server.out_packets, &server.out_bytes),
    };
    packets.add(1);
    bytes.add(facts.ip_bytes().into());
}

/// The end of a frame that has its MAC addresses: it leaves, or is dropped and counted.
#[inline(always)]
pub(super) fn depart(
    snapshot: &Snapshot,
    frame: &mut Frame,
    hop: &NextHop,
    counters: &WorkerCounters,
) -> Fast {
    if snapshot.has_tags
        && let Err(reason) = tag(snapshot, frame, hop.nic)
    {
        counters.dropped(reason);
        return Fast::Dropped(reason);
    }
    Fast::Sent(hop.nic)
}

#[inline(never)]
fn tag(snapshot: &Snapshot, frame: &mut Frame, nic: NicId) -> Result<(), DropReason> {
    let nic = snapshot.nics.get(nic.index()).ok_or(DropReason::Internal)?;
    next_hop::push_vlan(frame, nic)
}
