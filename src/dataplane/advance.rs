//! Plain packets that move their flow from one state to the next: the end of a handshake, FINs,
//! the last ACK, a server's first answer; and what opened a flow, once there is one.
//!
//! The state is `track`'s, as on the general path, and the rewrite `plain_rewrite`'s. It answers
//! only what the general path would answer in the same way, and leaves all else to it untouched.

use super::burst::{Arrival, Slot, Verdict};
use super::fast_path::{self, Fast};
use super::flow::{Direction, FlowCore, flag};
use super::flow_table::{FlowTable, Hit};
use super::glance::Glance;
use super::state::WorkerState;
use super::track::{self, Seen};
use super::{glance, next_hop, plain_rewrite, sequence, tcp_state};
use crate::frame::Frame;
use crate::model::{ForwardMode, NextHop, NextHopId, Snapshot};
use crate::wire::ip::IpProtocol;
use crate::wire::plain::Facts;
use crate::wire::tcp::TcpFlags;

/// Forwards a frame whose tuple is that of a flow, if that is all there is to do beside the flow's
/// state.
#[inline(never)]
pub(super) fn forward(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    arrival: &mut Arrival,
    glance: &Glance,
) -> Option<Verdict> {
    let (id, direction) = FlowTable::place(glance.candidate()?);
    let (core, facts) = (state.flows.core(id)?, &glance.facts());
    if !follows(snapshot, core, direction, facts) {
        return None;
    }
    pass(state, snapshot, &mut arrival.frame, facts, Hit { id, direction })
}

/// Sends on the packet that a flow was made for.
#[inline(never)]
pub(super) fn first(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    slot: &mut Slot,
    hit: Hit,
) -> Option<Verdict> {
    let facts = slot.plain?;
    pass(state, snapshot, &mut slot.frame, &facts, hit)
}

/// Whether a packet is its flow's without a question: what `reuse` does not ask about.
#[inline(always)]
fn follows(snapshot: &Snapshot, core: &FlowCore, direction: Direction, facts: &Facts) -> bool {
    if core.has(flag::DETACHED) || core.is_tcp() != (facts.protocol() == IpProtocol::TCP) {
        return false;
    }
    if direction == Direction::Outbound {
        return true;
    }
    let is_asked = facts.flags().contains(TcpFlags::SYN) || snapshot.is_removed(core.server());
    let is_proxied = || snapshot.service(core.service()).is_none_or(|service| service.synproxy);
    !(is_asked || tcp_state::has_ended(core) && is_proxied())
}

/// Rewrites, then moves the flow. Until the rewrite is done nothing is changed.
#[inline(always)]
fn pass(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    frame: &mut Frame,
    facts: &Facts,
    hit: Hit,
) -> Option<Verdict> {
    let core = state.flows.core(hit.id)?;
    if core.has(flag::SLOW) || core.is_helped() || facts.ttl() < 2 {
        return None;
    }
    if facts.flags().contains(TcpFlags::SYN) && limits_mss(snapshot, core) {
        return None;
    }
    let is_translated = matches!(core.mode(), ForwardMode::Nat | ForwardMode::FullNat);
    let (known, is_tcp) = (core.hop(hit.direction), core.is_tcp());
    let is_unknown = known == NextHopId::NONE && hit.direction == Direction::Outbound;
    let hop_id = if is_unknown { towards_client(state, snapshot, hit)? } else { known };
    let hop: NextHop = *state.hops.get(hop_id.index())?;
    if !hop.resolved || facts.ip_bytes() > hop.mtu {
        return None;
    }
    plain_rewrite::write(state, snapshot, frame, (facts, &hop), hit)?;
    if is_unknown && let Some(core) = state.flows.core_mut(hit.id) {
        core.set_hop_out(hop_id);
    }
    let seen = Seen { flags: facts.flags(), bytes: facts.ip_bytes().into() };
    let may_close = track::seen(state, snapshot, seen, hit);
    if is_tcp && is_translated {
        let ends = may_close || state.flows.core(hit.id).is_some_and(sequence::is_closing);
        if ends && let Some(packet) = glance::segment(frame, facts) {
            sequence::note_closing(state, frame.bytes(), &packet, hit);
            if may_close {
                track::closing(state, &packet, hit);
            }
        }
    }
    match fast_path::depart(snapshot, frame, &hop, &state.counters) {
        Fast::Dropped(reason) => Some(Verdict::Drop(reason)),
        _ => Some(Verdict::Transmit(hop.nic)),
    }
}

fn limits_mss(snapshot: &Snapshot, core: &FlowCore) -> bool {
    snapshot.service(core.service()).is_some_and(|service| service.mss_max.is_some())
}

/// The slot towards a flow's client; none where control has to be told of something.
fn towards_client(state: &WorkerState, snapshot: &Snapshot, hit: Hit) -> Option<NextHopId> {
    next_hop::known(snapshot, state.flows.addresses(hit.id)?.client)
}
