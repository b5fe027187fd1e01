//! SYNPROXY: the director answers SYNs itself, with a cookie, and opens a flow only for a client
//! that proves it got the answer. Nothing is remembered of a client before.
//!
//! A proven client's flow waits for its server (`flag::AWAITS_SERVER`): the SYN goes on with the
//! client's own first number and with what was agreed, early data is kept, and `server` joins the
//! two halves. From then on the flow is like any other whose numbers are shifted.
//!
//! The cookie's SYN-ACK leaves the client a window of a segment or two, which is what there is
//! room for here: a small request loses no time, and a zero window would cost one round trip of
//! waiting for its update. An ACK that proves nothing is left to the kernel, or reset, like a stray
//! one to any service, so that clients of a director that restarted learn of it at once; but only
//! so many a second, since a flood must not be echoed.

pub(super) mod cookie;
mod early_data;
mod options;
mod server;
mod strangers;

use super::admit;
use super::burst::{Errand, Slot, Verdict};
use super::classify::Packet;
use super::flow::{Direction, Side, flag};
use super::flow_table::{FlowId, Hit};
use super::persistence::{self, Chosen};
use super::segment::{self, Options, Timestamps, Words};
use super::state::WorkerState;
use super::{client_address, defence, mss, pipeline, reply, track};
use crate::counters::{DropReason, HandOffCause, ReplyKind};
use crate::limits::{
    SERVICES_MAX, SYNPROXY_RETRY_MS, SYNPROXY_STRAYS_PER_SECOND, SYNPROXY_SYNS_MAX,
};
use crate::memory::SipLanes;
use crate::message::FlowState;
use crate::model::{ServiceId, Snapshot, VirtualService, WorkerId};
use crate::time::{NANOS_PER_MILLI, NANOS_PER_SECOND, Nanos};
use crate::wire::tcp::{SeqNum, TcpFlags};
use cookie::{Agreed, Check, Secrets};
use early_data::{Chain, EarlyData};
use options::{OFFERED_SCALE, Profile, SynOptions};

pub(super) use server::answer;
pub(super) use strangers::Strangers;

/// Largest early segment that is asked for: what one buffer surely holds.
const EARLY_SEGMENT_BYTES: u16 = 1460;
/// In `Side::progress`: SYNs sent to the server.
const SYNS: u8 = 0b111;

const _: () = assert!(SYNPROXY_SYNS_MAX <= SYNS);

/// One worker's secrets, buffers, and what it knows of servers.
#[derive(Debug)]
pub(super) struct Synproxy {
    secrets: Secrets,
    /// What hashes several cookies at once.
    lanes: SipLanes,
    profiles: Vec<Profile>,
    early: EarlyData,
    strays: Allowance,
}

impl Synproxy {
    pub fn new(seed: u64, now: Nanos) -> Self {
        Synproxy {
            secrets: Secrets::new(seed, now),
            lanes: SipLanes::new(),
            profiles: vec![Profile::default(); SERVICES_MAX],
            early: EarlyData::new(),
            strays: Allowance { left: SYNPROXY_STRAYS_PER_SECOND, since: now },
        }
    }

    fn profile(&mut self, service: ServiceId) -> Option<&mut Profile> {
        self.profiles.get_mut(service.index())
    }

    /// Gives back what a waiting flow holds.
    pub fn forget(&mut self, side: &Side) {
        self.early.release(Waiting::of(side).chain);
    }
}

/// So many a second.
#[derive(Debug)]
struct Allowance {
    left: u32,
    since: Nanos,
}

impl Allowance {
    /// Whether `take` would say no.
    fn is_spent(&self, now: Nanos) -> bool {
        self.left == 0 && now.since(self.since) < NANOS_PER_SECOND
    }

    fn take(&mut self, now: Nanos) -> bool {
        if now.since(self.since) >= NANOS_PER_SECOND {
            *self = Allowance { left: SYNPROXY_STRAYS_PER_SECOND, since: now };
        }
        let is_left = self.left > 0;
        self.left = self.left.saturating_sub(1);
        is_left
    }
}

/// What `Side::newer` holds while a flow waits for its server.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    agreed: Agreed,
    chain: Chain,
    /// The client's window field as last seen, in steps of eight.
    window: u16,
}

impl Waiting {
    const AGREED_BITS: u32 = 9;

    fn of(side: &Side) -> Self {
        let chain = side.newer >> Self::AGREED_BITS & ((1 << Chain::BITS) - 1);
        Waiting {
            agreed: Agreed::from_bits(side.newer & ((1 << Self::AGREED_BITS) - 1)),
            chain: Chain(chain as u16),
            window: (side.newer >> (Self::AGREED_BITS + Chain::BITS) << 3) as u16,
        }
    }

    fn bits(&self) -> u32 {
        self.agreed.bits()
            | u32::from(self.chain.0) << Self::AGREED_BITS
            | u32::from(self.window >> 3) << (Self::AGREED_BITS + Chain::BITS)
    }
}

/// A TCP packet to a service with SYNPROXY that no flow knows.
pub(super) fn admit(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    service: &VirtualService,
    slot: &mut Slot,
) -> Result<Verdict, DropReason> {
    let flags = slot.packet.flags;
    if is_plain_syn(flags) {
        return offer(state, snapshot, service, slot);
    }
    if !may_prove(flags) {
        return pipeline::leave_to_kernel(state, snapshot, slot, DropReason::Unclassified);
    }
    match check(state, &slot.packet) {
        Check::Valid(agreed) => prove(state, snapshot, service, slot, agreed),
        Check::Later => Err(DropReason::SynproxyBadCookie),
        Check::Wrong if state.synproxy.strays.take(state.now) => {
            pipeline::leave_to_kernel(state, snapshot, slot, DropReason::SynproxyBadCookie)
        }
        Check::Wrong => Err(DropReason::SynproxyBadCookie),
    }
}

/// A SYN that opens a connection, and nothing else.
pub(super) fn is_plain_syn(flags: TcpFlags) -> bool {
    flags.contains(TcpFlags::SYN)
        && !flags.intersects(TcpFlags::ACK | TcpFlags::RST | TcpFlags::FIN)
}

/// Whether a segment is one that acknowledges a cookie, right or wrong.
fn may_prove(flags: TcpFlags) -> bool {
    flags.contains(TcpFlags::ACK) && !flags.intersects(TcpFlags::SYN | TcpFlags::RST)
}

/// Whether a packet proves a cookie.
pub(super) fn proves(state: &mut WorkerState, packet: &Packet) -> bool {
    may_prove(packet.flags) && matches!(check(state, packet), Check::Valid(_))
}

fn check(state: &mut WorkerState, packet: &Packet) -> Check {
    let (first, cookie) = (packet.seq.wrapping_sub(1), packet.ack.wrapping_sub(1));
    state.synproxy.secrets.check(&packet.key, first, cookie, state.now)
}

/// Answers a SYN with a cookie. `drop_packet` is up against SYNs, as without SYNPROXY: their
/// senders try again, while whose proof is lost takes the connection for open.
fn offer(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    service: &VirtualService,
    slot: &mut Slot,
) -> Result<Verdict, DropReason> {
    if defence::drops_packet(state, snapshot, slot.packet.key.src.is_ipv4()) {
        return Err(DropReason::DropPacket);
    }
    if let Err(reason) = admit::may_enter(state, service, &slot.packet) {
        admit::refused(state, service);
        return Err(reason);
    }
    if !state.schedulers.any_usable(service, &state.counters) {
        admit::refused(state, service);
        return admit::no_server(state, snapshot, slot);
    }
    let nic = snapshot.nics.get(slot.rx.nic.index()).ok_or(DropReason::Internal)?;
    let packet = slot.packet;
    let asked = SynOptions::of(slot.frame.bytes(), &packet);
    let profile = state.synproxy.profile(service.id).ok_or(DropReason::Internal)?;
    profile.catch_up(service);
    let agreed = profile.agree(service, &asked);
    let mss = profile.mss(service, nic) - client_address::mss_cost(service);
    let own = state.synproxy.secrets.answer(&packet.key, state.now);
    let timestamps = asked
        .timestamps
        .filter(|_| agreed.timestamps)
        .map(|client| Timestamps { value: own.clock(state.now), echo: client.value });
    let scale = agreed.window_scale.map(|_| OFFERED_SCALE);
    let words = Words {
        seq: own.cookie(packet.seq, &agreed),
        ack: packet.seq.wrapping_add(1),
        flags: TcpFlags::SYN | TcpFlags::ACK,
        window: early_window(mss),
        options: Options::default().syn(mss, agreed.sack, timestamps, scale),
    };
    reply::answer(slot, nic, &words)?;
    state.counters.replied(ReplyKind::SynCookie);
    if let Some(counters) = state.counters.services.get(service.id.index()) {
        counters.cookies_sent.add(1);
    }
    Ok(Verdict::Transmit(nic.id))
}

/// The window of a cookie's SYN-ACK: what is sent in it can be kept.
fn early_window(mss: u16) -> u16 {
    if mss > EARLY_SEGMENT_BYTES { EARLY_SEGMENT_BYTES } else { 2 * mss }
}

/// A client has proven its cookie: its flow begins, and the server hears of it. Where that cannot
/// be, the client is reset, since it takes the connection for open.
fn prove(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    service: &VirtualService,
    slot: &mut Slot,
    agreed: Agreed,
) -> Result<Verdict, DropReason> {
    let proof = slot.packet;
    // What comes back from a template's owner was counted before.
    if let Some(counters) = state.counters.services.get(service.id.index())
        && slot.rx.errand == Errand::None
    {
        counters.cookies_proven.add(1);
    }
    // Where a source port is taken over, the flow's first number counts, not the first byte's.
    slot.packet.seq = proof.seq.wrapping_sub(1);
    let made = begin(state, snapshot, service, slot);
    slot.packet = proof;
    match made {
        Ok(Begun::Elsewhere(owner)) => Ok(Verdict::HandOff(owner, HandOffCause::Template)),
        Ok(Begun::Flow(id)) => {
            wait(state, slot, id, agreed);
            send_syn(state, snapshot, slot, id)
        }
        Err(reason) => {
            admit::refused(state, service);
            let nic = snapshot.nics.get(slot.rx.nic.index()).ok_or(DropReason::Internal)?;
            reply::reset(slot, nic)?;
            state.counters.dropped(reason);
            state.counters.replied(ReplyKind::TcpReset);
            Ok(Verdict::Transmit(nic.id))
        }
    }
}

/// What became of a proof.
enum Begun {
    Flow(FlowId),
    /// Another worker knows the client's server.
    Elsewhere(WorkerId),
}

fn begin(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    service: &VirtualService,
    slot: &mut Slot,
) -> Result<Begun, DropReason> {
    admit::may_enter(state, service, &slot.packet)?;
    let choice = match persistence::choose(state, snapshot, service, slot)? {
        Chosen::Server(choice) => choice,
        Chosen::Nobody => return Err(DropReason::NoServer),
        Chosen::Elsewhere(owner) => return Ok(Begun::Elsewhere(owner)),
    };
    if !choice.server.mode.sees_replies() {
        return Err(DropReason::Internal);
    }
    admit::make_flow(state, snapshot, service, choice, slot).map(Begun::Flow)
}

/// Notes what the proof says, and keeps the data it carries.
fn wait(state: &mut WorkerState, slot: &Slot, id: FlowId, agreed: Agreed) {
    let mut chain = Chain::EMPTY;
    if slot.packet.sequence_bytes() > 0
        && let Err(reason) = state.synproxy.early.keep(&mut chain, slot)
    {
        state.counters.dropped(reason);
    }
    let timestamps = Timestamps::of(slot.frame.bytes(), &slot.packet);
    let window = window_field(slot);
    if let Some(core) = state.flows.core_mut(id) {
        core.flags |= flag::AWAITS_SERVER;
    }
    if let Some(side) = state.flows.side_mut(id) {
        side.client_seq = slot.packet.seq.wrapping_sub(1).0;
        side.server_seq = slot.packet.ack.wrapping_sub(1).0;
        (side.older, side.out_ts_delta) = timestamps.map_or((0, 0), |seen| (seen.value, seen.echo));
        side.newer = Waiting { agreed, chain, window }.bits();
        side.progress = side.progress & !SYNS | 1;
    }
}

fn window_field(slot: &Slot) -> u16 {
    let at = slot.packet.l4 + 14;
    let field = slot.frame.bytes().get(at..at + 2);
    field.map_or(0, |bytes| u16::from(bytes[0]) << 8 | u16::from(bytes[1]))
}

/// Turns the proof's frame into the client's SYN and sends it on.
fn send_syn(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    slot: &mut Slot,
    id: FlowId,
) -> Result<Verdict, DropReason> {
    let words = syn_words(&state.flows.side(id));
    slot.packet = segment::write(&mut slot.frame, &slot.packet.key, &words)?;
    state.counters.replied(ReplyKind::ServerSyn);
    let hit = Hit { id, direction: Direction::Inbound };
    let verdict = pipeline::forward_tracked(state, snapshot, slot, hit, state.now);
    let deadline = state.now + u64::from(SYNPROXY_RETRY_MS) * NANOS_PER_MILLI;
    state.flows.wheel.arm(id.0, deadline);
    verdict
}

/// The SYN that the client would have sent to the server, offering what was agreed.
fn syn_words(side: &Side) -> Words {
    let Waiting { agreed, window, .. } = Waiting::of(side);
    let timestamps = agreed.timestamps.then_some(Timestamps { value: side.older, echo: 0 });
    let mss = mss::by_index(agreed.mss_index);
    let bytes = u32::from(window) << agreed.window_scale.unwrap_or(0);
    Words {
        seq: SeqNum(side.client_seq),
        ack: SeqNum(0),
        flags: TcpFlags::SYN,
        window: bytes.min(u32::from(u16::MAX)) as u16,
        options: Options::default().syn(mss, agreed.sack, timestamps, agreed.window_scale),
    }
}

/// A packet of a flow whose server has not answered yet.
pub(super) fn waiting(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    slot: &mut Slot,
    hit: Hit,
) -> Result<Verdict, DropReason> {
    let server = state.flows.core(hit.id).ok_or(DropReason::Internal)?.server();
    match hit.direction {
        Direction::Inbound if snapshot.is_removed(server) => Err(DropReason::ServerRemoved),
        Direction::Inbound => client(state, snapshot, slot, hit),
        Direction::Outbound => answer(state, snapshot, slot, hit),
    }
}

/// The client goes on: what it says is kept for the server.
fn client(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    slot: &mut Slot,
    hit: Hit,
) -> Result<Verdict, DropReason> {
    let mut side = state.flows.side(hit.id);
    let packet = slot.packet;
    if packet.flags.contains(TcpFlags::SYN) {
        return Err(DropReason::SynproxyConsumed);
    }
    let ahead = packet.seq.since(SeqNum(side.client_seq).wrapping_add(1));
    if ahead > u32::from(u16::MAX) {
        return Err(DropReason::OutOfWindow);
    }
    if packet.flags.contains(TcpFlags::RST) {
        return abandon(state, snapshot, slot, hit);
    }
    let acks_cookie = packet.ack == SeqNum(side.server_seq).wrapping_add(1);
    if !packet.flags.contains(TcpFlags::ACK) || !acks_cookie {
        return Err(DropReason::OutOfWindow);
    }
    let mut waiting = Waiting { window: window_field(slot), ..Waiting::of(&side) };
    let kept = match packet.sequence_bytes() {
        0 => Ok(()),
        _ => state.synproxy.early.keep(&mut waiting.chain, slot),
    };
    side.newer = waiting.bits();
    if let Some(place) = state.flows.side_mut(hit.id) {
        *place = side;
    }
    kept.and(Err(DropReason::SynproxyConsumed))
}

/// The client gave up: its reset goes on. The kernel's states would have the flow wait on in
/// SYN_RECV; here nobody is left to wait for.
fn abandon(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    slot: &mut Slot,
    hit: Hit,
) -> Result<Verdict, DropReason> {
    stop_waiting(state, hit.id);
    let packet = slot.packet;
    let verdict = pipeline::forward_tracked(state, snapshot, slot, hit, state.now);
    track::enter(state, snapshot, hit.id, FlowState::Close, state.now);
    track::closing(state, &packet, hit);
    verdict
}

/// The flow waits no more; early data that nobody took is given back.
fn stop_waiting(state: &mut WorkerState, id: FlowId) {
    let side = state.flows.side(id);
    if let Some(core) = state.flows.core_mut(id).filter(|core| core.has(flag::AWAITS_SERVER)) {
        core.flags &= !flag::AWAITS_SERVER;
        state.synproxy.forget(&side);
    }
    if let Some(side) = state.flows.side_mut(id) {
        (side.server_seq, side.out_ts_delta, side.older, side.newer) = (0, 0, 0, 0);
        side.progress &= !SYNS;
    }
}

/// The timer of a waiting flow: sends the SYN again, and says after how many milliseconds the next
/// time is; after the last one the client is reset, and the idle time counts.
pub(super) fn retry(state: &mut WorkerState, snapshot: &Snapshot, id: FlowId) -> Option<u32> {
    let side = state.flows.side(id);
    let syns = side.progress & SYNS;
    if syns >= SYNPROXY_SYNS_MAX {
        server::give_up(state, snapshot, id);
        return None;
    }
    state.flows.side_mut(id)?.progress += 1;
    let hit = Hit { id, direction: Direction::Inbound };
    match segment::speak(state, snapshot, hit, &syn_words(&side)) {
        Ok(_) => state.counters.replied(ReplyKind::ServerSyn),
        Err(reason) => state.counters.dropped(reason),
    }
    Some(SYNPROXY_RETRY_MS << syns)
}
