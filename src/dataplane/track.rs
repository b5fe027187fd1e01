//! What a packet does to its flow: state, timer, counts, and the life of its source port.

use super::classify::Packet;
use super::flow::{Direction, FlowCore, flag};
use super::flow_table::{FlowId, Hit};
use super::persistence;
use super::source_ports::{ALL_PORTS, SpaceKey};
use super::state::WorkerState;
use super::tcp_state;
use crate::counters::WorkerCounters;
use crate::limits::{FRAME_BYTES_MAX, SOURCE_PORT_HOLD_MS};
use crate::message::FlowState;
use crate::model::{ForwardMode, Protocol, ServerId, Snapshot};
use crate::time::{NANOS_PER_MILLI, Nanos};
use crate::wire::tcp::{SeqNum, TcpFlags};

/// SYNs that a client sends again before its server is thought of as silent: one may have been lost
/// on its way. Clients send them 1 and 3 seconds after the first (RFC 6298).
const SYN_REPEATS: u8 = 2;
/// Packets beyond those counted that a RST may be ahead: a window without scaling.
const RESET_PACKETS_SPARE: u32 = 8;
/// How far a server's numbers may lie behind the client's: a PROXY header that is yet to come.
const RESET_BYTES_BEHIND: u32 = 256;

/// What of a packet its flow is moved by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// TCP control bits.
    pub flags: TcpFlags,
    /// Size of the IP packet.
    pub bytes: u64,
}

/// Accounts one packet of a flow; says whether `closing` has to look at it once it is rewritten.
pub(super) fn packet(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    packet: &Packet,
    hit: Hit,
    now: Nanos,
) -> bool {
    debug_assert_eq!(now, state.now);
    let half_open = |state: &WorkerState| {
        let is = state.flows.core(hit.id).map(FlowCore::state);
        is.filter(|is| tcp_state::is_half_open(*is))
    };
    let is_syn = packet.flags.contains(TcpFlags::SYN);
    let before = if is_syn { half_open(state) } else { None };
    let seen = Seen { flags: packet.flags, bytes: packet.ip_bytes() as u64 };
    let may_close = self::seen(state, snapshot, seen, hit);
    if before.is_some() && before == half_open(state) {
        syn_again(state, hit, packet.seq);
    }
    may_close
}

/// As `packet`.
#[inline(always)]
pub(super) fn seen(state: &mut WorkerState, snapshot: &Snapshot, seen: Seen, hit: Hit) -> bool {
    let WorkerState { flows, counters, now, is_short, .. } = state;
    let now_ms = now.as_millis_u32();
    let Some(core) = flows.core_mut(hit.id) else { return false };
    let is_outbound = hit.direction == Direction::Outbound;
    let left_ms = core.remaining_ms(now_ms);
    core.last_seen_ms = now_ms;
    core.packets = core.packets.wrapping_add(1);
    if is_outbound {
        core.flags &= !flag::INPUT_ONLY;
    }
    let is_strict = snapshot.semantics.secure_tcp.is_up(*is_short);
    let tables = if is_strict { &tcp_state::STRICT } else { &tcp_state::NORMAL };
    let (before, after) = (core.state(), tables.next(core, hit.direction, seen.flags));
    if !core.has(flag::DETACHED) {
        count(counters, core.server(), hit.direction, seen.bytes);
    }
    let is_stale = core.epoch != snapshot.timeouts_epoch;
    let may_close = holds_port(core) && may_close((before, after), seen.flags, core);
    if is_outbound && after == FlowState::Udp && core.is_controlled() {
        persistence::assure(state, hit.id);
    }
    if before != after || is_stale {
        if is_outbound && (before, after) == (FlowState::SynRecv, FlowState::Close) {
            refused(state, hit.id);
        }
        go_on(state, snapshot, hit.id, after, left_ms);
    }
    may_close
}

fn holds_port(core: &FlowCore) -> bool {
    core.is_tcp() && core.mode() == ForwardMode::FullNat
}

/// Whether `closing` makes anything of a packet that moves its flow so.
fn may_close((before, after): (FlowState, FlowState), flags: TcpFlags, core: &FlowCore) -> bool {
    let is_closed = matches!(after, FlowState::Close | FlowState::TimeWait);
    let ends = is_closed || flags.contains(TcpFlags::FIN) || core.has(flag::CLOSED);
    ends && (before != after || after == FlowState::TimeWait)
}

/// Counts a handshake that came to nothing by its server's doing. While SYNPROXY still asks the
/// server, it has not.
#[cold]
pub(super) fn refused(state: &WorkerState, id: FlowId) {
    let counted = |core: &&FlowCore| !core.has(flag::DETACHED | flag::AWAITS_SERVER);
    let Some(core) = state.flows.core(id).filter(counted) else { return };
    if let Some(server) = state.counters.servers.get(core.server().index()) {
        server.refused.add(1);
    }
}

/// Notes a client's SYN that came again while nothing of its server is seen: the third one of the
/// same number tells of the server, once for each handshake, long before its time is over.
#[cold]
fn syn_again(state: &mut WorkerState, hit: Hit, number: SeqNum) {
    let unseen = state.flows.core(hit.id).is_some_and(|core| core.has(flag::INPUT_ONLY));
    let Some(side) = state.flows.side_mut(hit.id).filter(|_| unseen) else { return };
    if side.client_seq != number.0 || side.progress == 0 {
        (side.client_seq, side.progress) = (number.0, 0);
    }
    side.progress = side.progress.saturating_add(1);
    if side.progress == SYN_REPEATS {
        refused(state, hit.id);
    }
}

/// Whether a flow that ends says that its server left a handshake unanswered, which was not said
/// yet. Where the server is seen, its silence tells by itself.
pub(super) fn is_unanswered(state: &WorkerState, id: FlowId) -> bool {
    let waits =
        |core: &FlowCore| core.has(flag::INPUT_ONLY) && tcp_state::is_half_open(core.state());
    state.flows.core(id).is_some_and(waits) && state.flows.side(id).progress < SYN_REPEATS
}

/// Accounts a packet that belongs to a flow but is no part of its connection: an ICMP error.
pub(super) fn aside(state: &mut WorkerState, packet: &Packet, hit: Hit) {
    if let Some(core) = state.flows.core(hit.id).filter(|core| !core.has(flag::DETACHED)) {
        count(&state.counters, core.server(), hit.direction, packet.ip_bytes() as u64);
    }
}

/// Accounts a fragment behind the first one of its datagram: the same packet goes on.
pub(super) fn further_piece(state: &mut WorkerState, packet: &Packet, hit: Hit) {
    let now_ms = state.now.as_millis_u32();
    let Some(core) = state.flows.core_mut(hit.id) else { return };
    core.last_seen_ms = now_ms;
    let server = core.server();
    if core.has(flag::DETACHED) {
        return;
    }
    let body = packet.piece.map_or(packet.l4, |piece| usize::from(piece.body));
    let bytes = packet.end.saturating_sub(body) as u64;
    if let Some(server) = state.counters.servers.get(server.index()) {
        match hit.direction {
            Direction::Inbound => server.in_bytes.add(bytes),
            Direction::Outbound => server.out_bytes.add(bytes),
        }
    }
}

fn count(counters: &WorkerCounters, server: ServerId, direction: Direction, bytes: u64) {
    let Some(server) = counters.servers.get(server.index()) else { return };
    match direction {
        Direction::Inbound => {
            server.in_packets.add(1);
            server.in_bytes.add(bytes);
        }
        Direction::Outbound => {
            server.out_packets.add(1);
            server.out_bytes.add(bytes);
        }
    }
}

/// Moves a flow to a state: timeout, timer, active count. A detached one is in no count: its
/// server's slot may be another server's by now.
pub(super) fn enter(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    id: FlowId,
    after: FlowState,
    now: Nanos,
) {
    debug_assert_eq!(now, state.now);
    go_on(state, snapshot, id, after, 0);
}

/// As `enter`, for a flow whose timer would have ended it in `left_ms`; 0 where it would have been
/// later, or there is none. The timer is left where it is if the flow now lives as long or longer:
/// when it fires it is set anew, as for any flow that was seen since. A flow's timer is never set
/// later than its end, so that nothing else need be known of it.
fn go_on(state: &mut WorkerState, snapshot: &Snapshot, id: FlowId, after: FlowState, left_ms: u32) {
    let WorkerState { flows, counters, now, .. } = state;
    let Some(core) = flows.core_mut(id) else { return };
    let before = core.state();
    core.set_state(after);
    core.epoch = snapshot.timeouts_epoch;
    let own = snapshot.service(core.service()).map(|service| &service.timeouts);
    let timeout_ms = tcp_state::timeout_ms(after, &snapshot.semantics.timeouts, own);
    core.timeout_ms = hold(timeout_ms, after, core.mode());
    let comes_sooner = left_ms == 0 || core.timeout_ms < left_ms;
    let deadline = *now + u64::from(core.timeout_ms) * NANOS_PER_MILLI;
    let retries = core.has(flag::INSERTING | flag::AWAITS_SERVER);
    let (is_doomed, is_counted) = (core.is_doomed(), !core.has(flag::DETACHED));
    let is_active = tcp_state::is_active(after);
    if is_counted
        && tcp_state::is_active(before) != is_active
        && let Some(server) = counters.servers.get(core.server().index())
    {
        if is_active { server.active.add(1) } else { server.active.sub(1) }
    }
    let assures = after == FlowState::Established && core.is_controlled();
    // While a handshake has a timer of its own, that one comes sooner, and sets this one then.
    if comes_sooner && !is_doomed && (!retries || !flows.wheel.is_armed(id.0)) {
        flows.wheel.arm(id.0, deadline);
    }
    if assures {
        persistence::assure(state, id);
    }
}

/// A closed FULLNAT flow keeps its source port as long as the server may be in TIME_WAIT.
fn hold(timeout_ms: u32, state: FlowState, mode: ForwardMode) -> u32 {
    match (mode, state) {
        (ForwardMode::FullNat, FlowState::TimeWait) => timeout_ms.max(SOURCE_PORT_HOLD_MS),
        _ => timeout_ms,
    }
}

/// Notices when both sides have closed and know it: from then on the source port may be reused.
/// After two FINs that is the ACK by the side that closed first; after a RST it is at once, if
/// the other side can have taken it. A RST that it surely ignores, or whatever else led to CLOSE,
/// leaves a connection behind that holds the port as long as one in TIME_WAIT does.
///
/// Called when the packet is rewritten: until then `Side` may belong to the handshake.
pub(super) fn closing(state: &mut WorkerState, packet: &Packet, hit: Hit) {
    let answers = answers_last_fin(state, packet, hit);
    let resets = is_plausible_reset(state, packet, hit);
    note_fin(state, packet, hit);
    let Some(core) = state.flows.core_mut(hit.id) else { return };
    let was_closed = core.has(flag::CLOSED);
    let is_closed = match core.state() {
        FlowState::Close if resets => {
            core.flags &= !(flag::INSERTING | flag::TOA);
            true
        }
        FlowState::Close => {
            core.timeout_ms = core.timeout_ms.max(SOURCE_PORT_HOLD_MS);
            false
        }
        FlowState::TimeWait => was_closed || answers && !core.has(flag::INSERTING),
        _ => false,
    };
    core.flags = if is_closed { core.flags | flag::CLOSED } else { core.flags & !flag::CLOSED };
    if was_closed != is_closed
        && let Some(key) = space_key(state, hit.id)
    {
        let WorkerState { source_ports, flows, .. } = state;
        if is_closed {
            source_ports.list(&key, hit.id, flows);
        } else {
            source_ports.unlist(&key, hit.id, flows);
        }
    }
}

/// Remembers who sent the last FIN, and the number after it.
fn note_fin(state: &mut WorkerState, packet: &Packet, hit: Hit) {
    let Some(core) = state.flows.core_mut(hit.id) else { return };
    if !packet.flags.contains(TcpFlags::FIN) {
        return;
    }
    core.flags &= !flag::LAST_FIN_OUTBOUND;
    if hit.direction == Direction::Outbound {
        core.flags |= flag::LAST_FIN_OUTBOUND;
    }
    let is_free = !core.has(flag::INSERTING | flag::CLOSED);
    if let Some(side) = state.flows.side_mut(hit.id).filter(|_| is_free) {
        // How long a fragmented segment is, its first piece does not say.
        let end = packet.seq.wrapping_add(packet.sequence_bytes()).0;
        side.older = if packet.piece.is_some() { 0 } else { end };
    }
}

/// Whether a packet is a RST that its receiver may take for valid, by what is known of the client's
/// numbers: the first one, or, once the flow closes, what the server expects next (in its own
/// view), and how many packets there were since. A RST of the server without an acknowledgment
/// names a number of its own, of which nothing is known.
fn is_plausible_reset(state: &WorkerState, packet: &Packet, hit: Hit) -> bool {
    let Some(core) = state.flows.core(hit.id) else { return false };
    if !packet.flags.contains(TcpFlags::RST) {
        return false;
    }
    let known = SeqNum(state.flows.side(hit.id).client_seq);
    let number = match hit.direction {
        Direction::Inbound => packet.seq,
        Direction::Outbound if packet.flags.contains(TcpFlags::ACK) => {
            packet.ack.wrapping_sub(core.in_delta)
        }
        Direction::Outbound => return true,
    };
    let packets = core.packets.saturating_add(RESET_PACKETS_SPARE);
    let sent = packets.saturating_mul(FRAME_BYTES_MAX as u32);
    [number, number.wrapping_add(core.in_delta)]
        .iter()
        .any(|number| number.wrapping_add(RESET_BYTES_BEHIND).since(known) <= sent)
}

/// Whether a packet acknowledges the other side's FIN, which was the last one seen. A packet that
/// was overtaken on its way does not; where the FIN's number is not known, none does.
fn answers_last_fin(state: &WorkerState, packet: &Packet, hit: Hit) -> bool {
    let Some(core) = state.flows.core(hit.id) else { return false };
    let shift = match hit.direction {
        Direction::Inbound => core.out_delta,
        Direction::Outbound => core.in_delta,
    };
    let fin_end = state.flows.side(hit.id).older;
    let covers = fin_end != 0 && !packet.ack.before(SeqNum(fin_end.wrapping_add(shift)));
    let is_bare = !packet.flags.contains(TcpFlags::FIN) && packet.flags.contains(TcpFlags::ACK);
    let from_other = core.has(flag::LAST_FIN_OUTBOUND) == (hit.direction == Direction::Inbound);
    is_bare && covers && from_other
}

/// The source-port space of a FULLNAT flow.
pub(super) fn space_key(state: &WorkerState, id: FlowId) -> Option<SpaceKey> {
    let core = state.flows.core(id).filter(|core| core.mode() == ForwardMode::FullNat)?;
    let addresses = state.flows.addresses(id)?;
    Some(SpaceKey {
        lip: addresses.local,
        server: addresses.server,
        server_port: if core.shares_ports() { ALL_PORTS } else { core.server_port() },
        protocol: core.protocol(),
    })
}

/// Clears the way for a new connection on the client's tuple of an ended flow. A FULLNAT flow
/// stays behind it, out of the client's sight, to hold its source port; others end, as does one
/// whose server has yet to answer.
pub(super) fn make_way(state: &mut WorkerState, id: FlowId) {
    let core = state.flows.core(id);
    match core.map(|core| (core.mode(), core.has(flag::AWAITS_SERVER))) {
        Some((ForwardMode::FullNat, false)) => {
            uncount(state, id);
            state.flows.detach(id);
        }
        Some(_) => end(state, id),
        None => {}
    }
}

/// Ends a flow whose server is gone, as `expire_nodest_conn` has it: its client's packet goes to
/// the kernel, which resets the connection. Where replies pass the director unseen (DR, TUN), the
/// reset carries the VIP like the server's own replies, so the flow closes by it.
pub(super) fn end_unserved(state: &mut WorkerState, snapshot: &Snapshot, id: FlowId) {
    let now = state.now;
    let Some(core) = state.flows.core_mut(id) else { return };
    if core.mode().sees_replies() || core.protocol() != Protocol::Tcp {
        return expire_now(state, snapshot, id);
    }
    core.flags &= !flag::INPUT_ONLY;
    core.last_seen_ms = now.as_millis_u32();
    let after = tcp_state::NORMAL.next(core, Direction::Outbound, TcpFlags::RST);
    enter(state, snapshot, id, after, now);
}

/// Tells a flow to end as soon as timers run. Until then its server's packets still pass, as in
/// the kernel.
fn expire_now(state: &mut WorkerState, snapshot: &Snapshot, id: FlowId) {
    let now = state.now;
    let Some(core) = state.flows.core_mut(id) else { return };
    core.timeout_ms = 0;
    core.doom();
    // What passes until timers run has a time of its own again.
    core.epoch = snapshot.timeouts_epoch.wrapping_sub(1);
    state.flows.wheel.arm(id.0, now);
}

/// Ends a flow: everything it held is given back.
pub(super) fn end(state: &mut WorkerState, id: FlowId) {
    if let Some(key) = space_key(state, id) {
        let WorkerState { source_ports, flows, .. } = state;
        if let Some(lip) = source_ports.ended(&key, id, flows)
            && let Some(lip) = state.counters.lips.get(lip.index())
        {
            lip.used.sub(1);
        }
    }
    drop_entry(state, id);
}

/// Ends a closed flow whose port goes straight to a new one.
pub(super) fn end_for_takeover(state: &mut WorkerState, id: FlowId) {
    drop_entry(state, id);
}

fn drop_entry(state: &mut WorkerState, id: FlowId) {
    if state.flows.core(id).is_some_and(|core| core.has(flag::AWAITS_SERVER)) {
        let side = state.flows.side(id);
        state.synproxy.forget(&side);
    }
    if state.flows.core(id).is_some_and(|core| core.is_helped()) {
        state.ftp.ended(id);
    }
    uncount(state, id);
    state.flows.remove(id);
    state.counters.flows.sub(1);
}

/// Takes a flow out of its server's and its service's counts. A detached one is out already: it
/// is nobody's connection any more and holds no id, only a source port.
fn uncount(state: &mut WorkerState, id: FlowId) {
    let Some(core) = state.flows.core(id).filter(|core| !core.has(flag::DETACHED)) else { return };
    let core = *core;
    persistence::detach(state, id);
    let WorkerState { counters, schedulers, .. } = state;
    if let Some(server) = counters.servers.get(core.server().index()) {
        server.flows.sub(1);
        if tcp_state::is_active(core.state()) {
            server.active.sub(1);
        }
        schedulers.unbound(core.server(), counters);
    }
    if let Some(service) = counters.services.get(core.service().index()) {
        service.flows.sub(1);
    }
}
