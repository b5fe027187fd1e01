//! Floods, a burst at a time: SYNs that a cookie answers, and ACKs whose cookies are made up.
//!
//! Before the frames of a burst are dealt with one by one, `prepare` looks at those that are no
//! flow's: a service is looked up once for all that come to it, and eight cookies are hashed side
//! by side. That decides nothing. When a frame's turn comes, `answer` says what the general path
//! would say, with the same counts (tests/strangers.rs holds the two against each other), or
//! leaves the frame to it untouched: where another frame of the burst has changed something
//! meanwhile, where a cookie may be right, and whatever is rare.

use std::net::IpAddr;

use arrayvec::ArrayVec;

use super::super::admit;
use super::super::burst::{Arrival, Burst, RxMeta, Verdict};
use super::super::classify::L3;
use super::super::glance::Glance;
use super::super::segment::TTL;
use super::super::state::WorkerState;
use super::super::{client_address, defence};
use super::cookie::{self, Agreed};
use super::options::{OFFERED_SCALE, Profile, SynOptions};
use super::{Synproxy, early_window, is_plain_syn, may_prove};
use crate::counters::{DropReason, ReplyKind};
use crate::frame::Frame;
use crate::limits::BURST_FRAMES_MAX;
use crate::memory::{LANES, Words};
use crate::model::{
    Destination, FTP_DATA_PORT, NicId, NicModel, Protocol, Snapshot, VirtualService,
};
use crate::wire::ip::IpProtocol;
use crate::wire::ipv4::IPV4_HEADER_BYTES;
use crate::wire::ipv6::IPV6_HEADER_BYTES;
use crate::wire::plain::{self, ANSWER_V4_BYTES, ANSWER_V6_BYTES, AnswerOptions, Facts, SynAck};
use crate::wire::tcp::{SeqNum, Tcp};

/// Destinations that are remembered within a burst; frames to more take the general path.
const TARGETS_MAX: usize = 4;

type Endpoint = (IpAddr, u16);

/// Where frames of a burst go, looked up once.
#[derive(Debug)]
struct Target<'s> {
    nic: NicId,
    to: Endpoint,
    /// None where what comes there is not for us here.
    terms: Option<Terms<'s>>,
}

/// What all answers of a service have in common.
#[derive(Debug)]
struct Terms<'s> {
    service: &'s VirtualService,
    nic: &'s NicModel,
    /// What was known of its servers.
    profile: Profile,
    mss: u16,
}

/// A frame of which something was found out.
#[derive(Debug)]
struct Finding {
    /// Its place in the burst.
    frame: u8,
    target: u8,
    what: What,
}

#[derive(Clone, Copy, Debug)]
enum What {
    /// A SYN: what was agreed, the client's clock, and the sums that its cookie is made of.
    Syn { agreed: Agreed, clock: u32, tuple: u64, whole: u64 },
    /// An ACK: whether its cookie is surely none.
    Ack { is_wrong: bool },
}

/// A segment that is no flow's.
struct Stranger<'b> {
    client: Endpoint,
    to: Endpoint,
    seq: SeqNum,
    ack: SeqNum,
    options: &'b [u8],
}

impl<'b> Stranger<'b> {
    /// As `v4`, for the header at `l4`.
    #[inline(always)]
    fn new(bytes: &'b [u8], l4: usize, client: Endpoint, to: Endpoint) -> Option<Self> {
        let (tcp, options, _) = Tcp::parse_with_options(bytes.get(l4..)?).ok()?;
        Some(Stranger { client, to, seq: tcp.sequence(), ack: tcp.acknowledgment(), options })
    }

    /// Of a plain IPv4 frame, and its tuple as cookies take it.
    #[inline(always)]
    fn v4(bytes: &'b [u8]) -> Option<(Self, [u64; 2])> {
        let tuple = plain::tuple_v4(bytes.first_chunk()?);
        let (addresses, ports) = tuple;
        let client = (IpAddr::V4(addresses.src().into()), ports.src());
        let to = (IpAddr::V4(addresses.dst().into()), ports.dst());
        Some((Stranger::new(bytes, L3 + IPV4_HEADER_BYTES, client, to)?, cookie::words_v4(tuple)))
    }

    /// As `v4`, of the other family.
    #[inline(always)]
    fn v6(bytes: &'b [u8]) -> Option<(Self, [u64; 5])> {
        let tuple = plain::tuple_v6(bytes.first_chunk()?);
        let ([src, dst], ports) = tuple;
        let client = (IpAddr::V6(src.into()), ports.src());
        let to = (IpAddr::V6(dst.into()), ports.dst());
        Some((Stranger::new(bytes, L3 + IPV6_HEADER_BYTES, client, to)?, cookie::words_v6(&tuple)))
    }
}

/// Findings that wait until there are enough of them to be hashed side by side.
struct Batch<const WORDS: usize> {
    tuples: [Words; WORDS],
    /// Of SYNs what the cookie covers beside the tuple, of ACKs the cookie.
    others: Words,
    findings: [u8; LANES],
    len: usize,
}

impl<const WORDS: usize> Batch<WORDS> {
    fn new() -> Self {
        Batch { tuples: [[0; LANES]; WORDS], others: [0; LANES], findings: [0; LANES], len: 0 }
    }

    /// Whether it is full then. It never is before.
    #[inline(always)]
    fn push(&mut self, finding: u8, words: &[u64; WORDS], other: u64) -> bool {
        let lane = self.len % LANES;
        for (row, word) in self.tuples.iter_mut().zip(words) {
            row[lane] = *word;
        }
        (self.others[lane], self.findings[lane]) = (other, finding);
        self.len += 1;
        self.len == LANES
    }
}

/// SYNs and ACKs of one family.
struct Batches<const WORDS: usize> {
    syns: Batch<WORDS>,
    acks: Batch<WORDS>,
}

impl<const WORDS: usize> Batches<WORDS> {
    fn new() -> Self {
        Batches { syns: Batch::new(), acks: Batch::new() }
    }
}

/// What was found out about a burst's frames that are no flow's, in their order.
#[derive(Debug)]
pub(in super::super) struct Strangers<'s> {
    findings: ArrayVec<Finding, BURST_FRAMES_MAX>,
    targets: ArrayVec<Target<'s>, TARGETS_MAX>,
    /// The first finding whose frame's turn has not come.
    next: usize,
}

impl<'s> Strangers<'s> {
    /// Nothing.
    #[inline(always)]
    pub fn new() -> Self {
        Strangers { findings: ArrayVec::new(), targets: ArrayVec::new(), next: 0 }
    }

    /// Finds out what can be for several frames at once.
    #[inline(never)]
    pub fn prepare(
        &mut self,
        state: &mut WorkerState,
        snapshot: &'s Snapshot,
        burst: &Burst,
        glances: &[Glance],
    ) {
        state.synproxy.secrets.turn(state.now);
        // Until then an ACK that proves nothing is answered, by the general path.
        let takes_acks = state.synproxy.strays.is_spent(state.now);
        let (mut v4, mut v6) = (Batches::<2>::new(), Batches::<5>::new());
        for (at, (arrival, glance)) in burst.slots.iter().zip(glances).enumerate() {
            let Some((facts, is_ipv4)) = glance.stranger() else { continue };
            let is_wanted = is_plain_syn(facts.flags()) || takes_acks && may_prove(facts.flags());
            if facts.protocol() != IpProtocol::TCP || !is_wanted {
                continue;
            }
            let bytes = arrival.frame.bytes();
            if is_ipv4 {
                let Some((stranger, words)) = Stranger::v4(bytes) else { continue };
                if let Some(target) = self.target(state, snapshot, &arrival.rx, &stranger) {
                    let finding = (at as u8, target);
                    self.find(&state.synproxy, &mut v4, finding, (facts, &stranger), &words);
                }
            } else {
                let Some((stranger, words)) = Stranger::v6(bytes) else { continue };
                if let Some(target) = self.target(state, snapshot, &arrival.rx, &stranger) {
                    let finding = (at as u8, target);
                    self.find(&state.synproxy, &mut v6, finding, (facts, &stranger), &words);
                }
            }
        }
        self.flush(&state.synproxy, &mut v4);
        self.flush(&state.synproxy, &mut v6);
    }

    /// The target of a segment, if it is for SYNPROXY and for this worker.
    #[inline(always)]
    fn target(
        &mut self,
        state: &mut WorkerState,
        snapshot: &'s Snapshot,
        rx: &RxMeta,
        segment: &Stranger,
    ) -> Option<u8> {
        let known = self.targets.iter().position(|it| it.to == segment.to && it.nic == rx.nic);
        let at = match known {
            Some(at) => at,
            None => {
                let terms = Terms::of(state, snapshot, rx.nic, segment.to);
                self.targets.try_push(Target { nic: rx.nic, to: segment.to, terms }).ok()?;
                self.targets.len() - 1
            }
        };
        let service = self.targets.get(at)?.terms.as_ref()?.service;
        let steering = &snapshot.steering;
        let is_ours = steering.workers() == 1
            || rx.was_handed_off()
            || steering.owner(service.key_kind, segment.client, segment.to) == state.worker;
        (is_ours && segment.client.1 != FTP_DATA_PORT).then_some(at as u8)
    }

    /// Notes a segment, and hashes when there are enough.
    #[inline(always)]
    fn find<const WORDS: usize>(
        &mut self,
        synproxy: &Synproxy,
        batches: &mut Batches<WORDS>,
        (frame, target): (u8, u8),
        (facts, segment): (&Facts, &Stranger),
        words: &[u64; WORDS],
    ) {
        let terms = self.targets.get(usize::from(target)).and_then(|it| it.terms.as_ref());
        let Some(Terms { service, profile, .. }) = terms else { return };
        let at = self.findings.len() as u8;
        if is_plain_syn(facts.flags()) {
            let asked = SynOptions::read(segment.options);
            let agreed = profile.agree(service, &asked);
            let clock = asked.timestamps.map_or(0, |client| client.value);
            let what = What::Syn { agreed, clock, tuple: 0, whole: 0 };
            self.findings.push(Finding { frame, target, what });
            if batches.syns.push(at, words, cookie::rest(segment.seq, agreed.bits())) {
                self.hash_syns(synproxy, &mut batches.syns);
            }
        } else {
            self.findings.push(Finding { frame, target, what: What::Ack { is_wrong: false } });
            let acknowledged = segment.ack.wrapping_sub(1);
            if batches.acks.push(at, words, acknowledged.0.into()) {
                self.hash_acks(synproxy, &mut batches.acks);
            }
        }
    }

    fn flush<const WORDS: usize>(&mut self, synproxy: &Synproxy, batches: &mut Batches<WORDS>) {
        if batches.syns.len > 0 {
            self.hash_syns(synproxy, &mut batches.syns);
        }
        if batches.acks.len > 0 {
            self.hash_acks(synproxy, &mut batches.acks);
        }
    }

    fn hash_syns<const WORDS: usize>(&mut self, synproxy: &Synproxy, batch: &mut Batch<WORDS>) {
        let Synproxy { secrets, lanes, .. } = synproxy;
        let (tuples, wholes) = secrets.answers(lanes, &batch.tuples, &batch.others);
        let sums = tuples.into_iter().zip(wholes);
        for (at, found) in batch.findings.iter().zip(sums).take(batch.len) {
            let finding = self.findings.get_mut(usize::from(*at));
            if let Some(Finding { what: What::Syn { tuple, whole, .. }, .. }) = finding {
                (*tuple, *whole) = found;
            }
        }
        batch.len = 0;
    }

    fn hash_acks<const WORDS: usize>(&mut self, synproxy: &Synproxy, batch: &mut Batch<WORDS>) {
        let Synproxy { secrets, lanes, .. } = synproxy;
        let cookies = batch.others.map(|cookie| SeqNum(cookie as u32));
        let wrong = secrets.are_wrong(lanes, &batch.tuples, &cookies);
        for (at, found) in batch.findings.iter().zip(wrong).take(batch.len) {
            let finding = self.findings.get_mut(usize::from(*at));
            if let Some(Finding { what: What::Ack { is_wrong }, .. }) = finding {
                *is_wrong = found;
            }
        }
        batch.len = 0;
    }

    /// What becomes of the frame at that place of the burst; none where that is not for here to
    /// say, and then the frame is as it was.
    #[inline(always)]
    pub fn answer(
        &mut self,
        state: &mut WorkerState,
        snapshot: &Snapshot,
        arrival: &mut Arrival,
        (at, glance): (usize, &Glance),
    ) -> Option<Verdict> {
        if self.next >= self.findings.len() {
            return None;
        }
        self.decide(state, snapshot, arrival, (at, glance))
    }

    #[inline(never)]
    fn decide(
        &mut self,
        state: &mut WorkerState,
        snapshot: &Snapshot,
        arrival: &mut Arrival,
        (at, glance): (usize, &Glance),
    ) -> Option<Verdict> {
        // What the fast path found a flow for meanwhile is behind us.
        while self.findings.get(self.next).is_some_and(|it| usize::from(it.frame) < at) {
            self.next += 1;
        }
        let finding = self.findings.get(self.next).filter(|it| usize::from(it.frame) == at)?;
        glance.stranger()?;
        let target = self.targets.get(usize::from(finding.target))?;
        match finding.what {
            What::Ack { is_wrong: true } if state.synproxy.strays.is_spent(state.now) => {
                Some(drop(state, DropReason::SynproxyBadCookie))
            }
            What::Ack { .. } => None,
            What::Syn { .. } => offer(state, snapshot, target, arrival, &finding.what),
        }
    }
}

impl<'s> Terms<'s> {
    /// Of a service with SYNPROXY at that destination. Another worker's FULLNAT replies have a
    /// service's address too, where somebody wants it so.
    fn of(
        state: &mut WorkerState,
        snapshot: &'s Snapshot,
        nic: NicId,
        (address, port): Endpoint,
    ) -> Option<Self> {
        let local = snapshot.lips.get(&address).and_then(|local| local.ports.owner(port));
        if local.is_some() {
            return None;
        }
        let to = Destination { protocol: Protocol::Tcp, address, port };
        let service = snapshot.match_service(&to)?;
        if !service.synproxy || !service.schedules(port) {
            return None;
        }
        let nic = snapshot.nics.get(nic.index())?;
        let profile = state.synproxy.profile(service.id)?;
        profile.catch_up(service);
        let profile = *profile;
        let mss = profile.mss(service, nic) - client_address::mss_cost(service);
        Some(Terms { service, nic, profile, mss })
    }
}

fn drop(state: &WorkerState, reason: DropReason) -> Verdict {
    state.counters.dropped(reason);
    Verdict::Drop(reason)
}

/// What `super::offer` does. Nothing happens before all is known to be as it was taken to be.
#[inline(always)]
fn offer(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    target: &Target,
    arrival: &mut Arrival,
    what: &What,
) -> Option<Verdict> {
    let (vip, Terms { service, nic, profile, mss }) = (target.to.0, target.terms.as_ref()?);
    let What::Syn { agreed, clock, tuple, whole } = what else { return None };
    let frame = &mut arrival.frame;
    let is_as_before = state.synproxy.profile(service.id).is_some_and(|now| now == profile);
    let has_room = frame.len() + frame.tailroom_bytes() >= ANSWER_V6_BYTES;
    let is_usable = state.schedulers.any_usable(service, &state.counters);
    if !is_as_before || !has_room || !is_usable || state.ftp.has_any_data() {
        return None;
    }
    let client = match vip {
        IpAddr::V4(_) => IpAddr::V4(plain::tuple_v4(frame.bytes().first_chunk()?).0.src().into()),
        IpAddr::V6(_) => IpAddr::V6(plain::tuple_v6(frame.bytes().first_chunk()?).0[0].into()),
    };
    if defence::drops_packet(state, snapshot, vip.is_ipv4()) {
        return Some(drop(state, DropReason::DropPacket));
    }
    if let Err(reason) = admit::sender_may_enter(state, service, (client, vip)) {
        admit::refused(state, service);
        return Some(drop(state, reason));
    }
    let mut options = AnswerOptions::new(*mss);
    if agreed.sack {
        options = options.sack_permitted();
    }
    if agreed.timestamps {
        options = options.timestamps(cookie::clock(*tuple, state.now), *clock);
    }
    if agreed.window_scale.is_some() {
        options = options.window_scale(OFFERED_SCALE);
    }
    let seq = cookie::cookie(*tuple, *whole, agreed);
    let said = SynAck { seq: seq.0, window: early_window(*mss), ttl: TTL, options };
    if !write(frame, vip, &nic.mac, &said) {
        return Some(drop(state, DropReason::Internal));
    }
    state.counters.replied(ReplyKind::SynCookie);
    if let Some(counters) = state.counters.services.get(service.id.index()) {
        counters.cookies_sent.add(1);
    }
    Some(Verdict::Transmit(nic.id))
}

/// Writes the answer over the SYN.
#[inline(always)]
fn write(frame: &mut Frame, vip: IpAddr, own: &[u8; 6], said: &SynAck) -> bool {
    let room = if vip.is_ipv4() { ANSWER_V4_BYTES } else { ANSWER_V6_BYTES };
    if frame.set_len(room).is_err() {
        return false;
    }
    let bytes = frame.bytes_mut();
    let end = match vip {
        IpAddr::V4(_) => bytes.first_chunk_mut().map(|room| plain::answer_v4(room, own, said)),
        IpAddr::V6(_) => bytes.first_chunk_mut().map(|room| plain::answer_v6(room, own, said)),
    };
    end.is_some_and(|end| frame.set_len(end).is_ok())
}
