//! A client's packet on a flow that it may not belong to: a new connection on an old tuple, or a
//! flow whose server is gone.
//!
//! The rules and their order are the kernel's (recordings `states/reuse-*`, `nodest-*`,
//! `service-deleted-*`); the switches are in `Semantics`.

use super::burst::Slot;
use super::flow::{Direction, FlowCore, flag};
use super::flow_table::Hit;
use super::state::WorkerState;
use super::{synproxy, tcp_state};
use crate::message::FlowState;
use crate::model::{ConnReuse, Protocol, ServerState, Snapshot};
use crate::wire::tcp::{SeqNum, TcpFlags};

/// What becomes of a packet that a flow was found for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// The flow's.
    Follows,
    /// It opens a new connection: the old flow makes way.
    Opens,
    /// Perhaps a new connection: the client has to prove itself first, so the old flow stays.
    OpensOnceProven,
    /// The flow is told to end, and the packet is nobody's.
    EndsFlow,
    /// The flow's server is gone: dropped without a word; the flow's timer runs on.
    Dropped,
    /// No service is left at all: the kernel's.
    Kernel,
}

/// Judges a packet of a flow.
#[inline]
pub(super) fn fate(state: &mut WorkerState, snapshot: &Snapshot, slot: &Slot, hit: Hit) -> Fate {
    let Some(core) = state.flows.core(hit.id) else { return Fate::Follows };
    if hit.direction == Direction::Outbound {
        return Fate::Follows;
    }
    let (is_syn, is_gone) = (opens(slot.packet.flags), snapshot.is_removed(core.server()));
    if !is_syn && !is_gone && !tcp_state::has_ended(core) {
        return Fate::Follows;
    }
    let core = *core;
    let is_proxied = snapshot.service(core.service()).is_some_and(|service| service.synproxy)
        && core.protocol() == Protocol::Tcp;
    let expires = snapshot.semantics.expire_nodest_conn && !is_proxied;
    if is_syn && expires && takes_none(snapshot, &core) {
        return Fate::Opens;
    }
    let fate = match is_proxied {
        true => reopens_proven(state, slot, hit, &core),
        false => reopens(snapshot, slot, &core),
    };
    match fate {
        Fate::Follows if is_gone && is_proxied => gone_proven(state, snapshot, slot),
        Fate::Follows if is_gone => gone(snapshot, slot),
        fate => fate,
    }
}

fn opens(flags: TcpFlags) -> bool {
    flags.contains(TcpFlags::SYN) && !flags.contains(TcpFlags::RST)
}

/// Whether the flow's server is gone or has weight 0. One that drains keeps what it has.
fn takes_none(snapshot: &Snapshot, core: &FlowCore) -> bool {
    let listed = snapshot
        .service(core.service())
        .and_then(|service| service.servers.iter().find(|server| server.id == core.server()));
    listed.is_none_or(|server| server.state == ServerState::Active && server.weight == 0)
}

/// The next packet of a flow whose server is gone.
fn gone(snapshot: &Snapshot, slot: &Slot) -> Fate {
    let semantics = &snapshot.semantics;
    // Without any service the kernel's hooks are off: its own stack sees the packets.
    if snapshot.traffic.is_empty() {
        return Fate::Kernel;
    }
    if !semantics.expire_nodest_conn {
        return Fate::Dropped;
    }
    let packet = &slot.packet;
    let schedules = packet.key.protocol == Protocol::Udp
        || opens(packet.flags)
        || semantics.sloppy_tcp && !packet.flags.contains(TcpFlags::RST);
    if schedules { Fate::Opens } else { Fate::EndsFlow }
}

/// The same with SYNPROXY: a SYN proves nothing, so that it ends nothing either.
fn gone_proven(state: &mut WorkerState, snapshot: &Snapshot, slot: &Slot) -> Fate {
    match gone(snapshot, slot) {
        fate @ (Fate::Kernel | Fate::Dropped) => fate,
        _ if synproxy::is_plain_syn(slot.packet.flags) => Fate::OpensOnceProven,
        _ if synproxy::proves(state, &slot.packet) => Fate::Opens,
        _ => Fate::EndsFlow,
    }
}

/// A client's SYN on a flow that has ended is a new connection.
fn reopens(snapshot: &Snapshot, slot: &Slot, core: &FlowCore) -> Fate {
    let reuse = snapshot.semantics.conn_reuse;
    let is_new = opens(slot.packet.flags) && !core.is_controlled() && is_over(core, reuse);
    if is_new { Fate::Opens } else { Fate::Follows }
}

/// The same with SYNPROXY: a SYN only asks for a cookie, and the ACK that proves it is the new
/// connection.
fn reopens_proven(state: &mut WorkerState, slot: &Slot, hit: Hit, core: &FlowCore) -> Fate {
    let packet = &slot.packet;
    if !tcp_state::has_ended(core) {
        return Fate::Follows;
    }
    if synproxy::is_plain_syn(packet.flags) {
        return Fate::OpensOnceProven;
    }
    // The old connection's last segments stand before its end: they are never taken for a proof.
    let end = SeqNum(state.flows.side(hit.id).client_seq);
    let is_old = end.since(packet.seq.wrapping_add(core.in_delta)) < 1 << 16;
    if !opens(packet.flags) && !is_old && synproxy::proves(state, packet) {
        Fate::Opens
    } else {
        Fate::Follows
    }
}

/// Whether a SYN may follow on the connection, by `conn_reuse_mode`.
fn is_over(core: &FlowCore, reuse: ConnReuse) -> bool {
    match reuse {
        ConnReuse::Never => false,
        ConnReuse::Ended => tcp_state::has_ended(core),
        ConnReuse::EndedOrHalfSeen => {
            let half_seen = core.has(flag::INPUT_ONLY) && core.state() == FlowState::FinWait;
            tcp_state::has_ended(core) || half_seen
        }
    }
}
