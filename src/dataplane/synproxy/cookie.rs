//! SYN cookies: all that has to be remembered of a client's SYN, in the sequence number of the
//! answer.
//!
//! Of its 32 bits 9 say what was agreed (MSS, window scale, SACK, timestamps) and 23 are
//! SipHash-2-4 under a secret that changes every 64 s; a cookie is good for the period that made
//! it and the next. The 23 bits are two sums. The first, of 6 bits, covers the tuple alone, the
//! second also the client's first number: a segment that overtook the client's ACK has the first
//! one right and the second wrong, and is not reset (nor is, by chance, one stray ACK in 32).
//! Guessing needs 2^22 tries on average with two secrets in force, so a flood of a million ACKs a
//! second opens one flow in four seconds; Linux's own cookies have 24 bits. No timestamp is needed
//! to carry options, unlike Linux's.

use std::net::IpAddr;

use siphasher::sip::SipHasher24;

use super::super::flow::FlowKey;
use crate::memory::{LANES, SipLanes, Words};
use crate::time::{NANOS_PER_SECOND, Nanos};
use crate::wire::plain::{TupleV4, TupleV6};
use crate::wire::tcp::SeqNum;

/// How long one secret makes cookies.
const PERIOD_NANOS: u64 = 64 * NANOS_PER_SECOND;
/// Bits that say what was agreed.
const AGREED_BITS: u32 = 9;
/// Bits of the sum that covers the client's first number.
const WHOLE_BITS: u32 = 17;
/// Bits of the sum over the tuple.
const TUPLE_BITS: u32 = 6;
/// In the four bits of the window scale: none.
const NO_SCALE: u8 = 15;

const _: () = assert!(AGREED_BITS + WHOLE_BITS + TUPLE_BITS == u32::BITS);

/// What client and service have agreed in the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// The client's MSS, as `mss` names it.
    pub mss_index: u8,
    /// The client's window scale, where both scale.
    pub window_scale: Option<u8>,
    /// Selective acknowledgments.
    pub sack: bool,
    /// Timestamps.
    pub timestamps: bool,
}

impl Agreed {
    /// In `AGREED_BITS` bits.
    #[inline]
    pub fn bits(&self) -> u32 {
        let scale = self.window_scale.map_or(NO_SCALE, |shift| shift.min(14));
        u32::from(self.mss_index & 7)
            | u32::from(scale) << 3
            | u32::from(self.sack) << 7
            | u32::from(self.timestamps) << 8
    }

    /// What `bits` gave.
    pub fn from_bits(bits: u32) -> Self {
        let scale = (bits >> 3 & 0xf) as u8;
        Agreed {
            mss_index: (bits & 7) as u8,
            window_scale: (scale != NO_SCALE).then_some(scale),
            sack: bits >> 7 & 1 == 1,
            timestamps: bits >> 8 & 1 == 1,
        }
    }
}

/// What an acknowledged number turns out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// A cookie of ours, and the segment stands at the client's first byte.
    Valid(Agreed),
    /// A cookie of ours for this tuple, but not with this sequence number: the client is there,
    /// and will send its first byte again.
    Later,
    /// None of ours.
    Wrong,
}

/// One period's keys.
#[derive(Clone, Copy, Debug, Default)]
struct Secret(u64, u64);

impl Secret {
    fn of(seed: u64, period: u64) -> Self {
        let half = |which: u64| {
            let hasher = SipHasher24::new_with_keys(seed, which ^ 0x6779_7265_5f73_796e);
            hasher.hash(&period.to_le_bytes())
        };
        Secret(half(0), half(1))
    }

    fn sum(&self, bytes: &[u8]) -> u64 {
        SipHasher24::new_with_keys(self.0, self.1).hash(bytes)
    }

    fn tuple(&self, key: &FlowKey) -> u64 {
        let ports = u32::from(key.src_port) << 16 | u32::from(key.dst_port);
        match (key.src, key.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let addresses = u64::from(u32::from(src)) << 32 | u64::from(u32::from(dst));
                let all = u128::from(addresses) << 32 | u128::from(ports);
                self.sum(&all.to_le_bytes()[..12])
            }
            (src, dst) => {
                let mut all = [0; 36];
                for (place, address) in all.chunks_exact_mut(16).zip([src, dst]) {
                    place.copy_from_slice(&in_v6(address));
                }
                all[32..].copy_from_slice(&ports.to_le_bytes());
                self.sum(&all)
            }
        }
    }

    /// Over the tuple's hash, the client's first number and what was agreed.
    fn whole(&self, tuple: u64, first: SeqNum, agreed: u32) -> u32 {
        let all = u128::from(tuple) << 64 | u128::from(rest(first, agreed));
        whole_part(self.sum(&all.to_le_bytes()))
    }

    fn cookie(&self, tuple: u64, first: SeqNum, agreed: &Agreed) -> SeqNum {
        compose(tuple, self.whole(tuple, first, agreed.bits()), agreed)
    }

    /// As `tuple`, of several at once.
    #[inline]
    fn tuples<const WORDS: usize>(&self, lanes: &SipLanes, tuples: &[Words; WORDS]) -> Words {
        lanes.hash((self.0, self.1), tuples)
    }

    /// As `whole`, of several at once, of which `rests` are what `rest` gave. Not cut to its bits.
    #[inline]
    fn wholes(&self, lanes: &SipLanes, tuples: &Words, rests: &Words) -> Words {
        lanes.hash((self.0, self.1), &[*rests, *tuples, [16 << 56; LANES]])
    }

    fn check(&self, key: &FlowKey, first: SeqNum, cookie: SeqNum) -> Check {
        let tuple = self.tuple(key);
        if (cookie.0 ^ tuple_part(tuple)) & ((1 << TUPLE_BITS) - 1) != 0 {
            return Check::Wrong;
        }
        let agreed = cookie.0 >> (WHOLE_BITS + TUPLE_BITS) ^ mask(tuple);
        let whole = cookie.0 >> TUPLE_BITS & ((1 << WHOLE_BITS) - 1);
        if whole == self.whole(tuple, first, agreed) {
            Check::Valid(Agreed::from_bits(agreed))
        } else {
            Check::Later
        }
    }
}

/// A tuple as the hash takes it: with its length behind, which is what `LANES` of them share.
#[inline]
pub(super) fn words_v4((addresses, ports): TupleV4) -> [u64; 2] {
    let (src, dst) = (u64::from(addresses.src()), u64::from(addresses.dst()));
    [dst << 32 | u64::from(ports.bits().swap_bytes()), 12 << 56 | src]
}

/// As `words_v4`, of the other family.
#[inline]
pub(super) fn words_v6(([src, dst], ports): &TupleV6) -> [u64; 5] {
    let halves = |address: &[u8; 16]| {
        let bits = u128::from_le_bytes(*address);
        (bits as u64, (bits >> 64) as u64)
    };
    let ((a, b), (c, d)) = (halves(src), halves(dst));
    [a, b, c, d, 36 << 56 | u64::from(ports.bits().swap_bytes())]
}

/// What the second sum covers beside the tuple.
#[inline]
pub(super) fn rest(first: SeqNum, agreed: u32) -> u64 {
    u64::from(first.0) << 32 | u64::from(agreed)
}

#[inline]
fn whole_part(sum: u64) -> u32 {
    sum as u32 & ((1 << WHOLE_BITS) - 1)
}

#[inline(always)]
fn compose(tuple: u64, whole: u32, agreed: &Agreed) -> SeqNum {
    let agreed = agreed.bits() ^ mask(tuple);
    SeqNum(agreed << (WHOLE_BITS + TUPLE_BITS) | whole << TUPLE_BITS | tuple_part(tuple))
}

/// The first sum, in place: in the low bits, so that numbers that only lie near a cookie, as those
/// of a short connection do, have it wrong.
#[inline]
fn tuple_part(tuple: u64) -> u32 {
    tuple as u32 & ((1 << TUPLE_BITS) - 1)
}

/// Hides what was agreed, so that two clients' cookies do not look alike.
#[inline]
fn mask(tuple: u64) -> u32 {
    (tuple >> TUPLE_BITS) as u32 & ((1 << AGREED_BITS) - 1)
}

/// The secrets in force on one worker. A client's segments all reach one worker, so workers need
/// not agree.
#[derive(Debug)]
pub struct Secrets {
    seed: u64,
    period: u64,
    now: Secret,
    before: Secret,
}

impl Secrets {
    /// The secrets of the time that `now` is in.
    pub fn new(seed: u64, now: Nanos) -> Self {
        let period = now.0 / PERIOD_NANOS;
        let before = Secret::of(seed, period.wrapping_sub(1));
        Secrets { seed, period, now: Secret::of(seed, period), before }
    }

    /// Takes those of the time that `now` is in.
    pub fn turn(&mut self, now: Nanos) {
        if now.0 / PERIOD_NANOS != self.period {
            *self = Secrets::new(self.seed, now);
        }
    }

    /// What the answer to a client's SYN is made of.
    pub fn answer(&mut self, key: &FlowKey, now: Nanos) -> Answer {
        self.turn(now);
        Answer { secret: self.now, tuple: self.now.tuple(key) }
    }

    /// As `answer` and `Answer::cookie`, of several clients at once: the sums over their tuples and
    /// over all. After `turn`.
    #[inline]
    pub fn answers<const WORDS: usize>(
        &self,
        lanes: &SipLanes,
        tuples: &[Words; WORDS],
        rests: &Words,
    ) -> (Words, Words) {
        let tuples = self.now.tuples(lanes, tuples);
        (tuples, self.now.wholes(lanes, &tuples, rests))
    }

    /// Of several clients at once, whether `check` says `Wrong`. After `turn`.
    #[inline]
    pub fn are_wrong<const WORDS: usize>(
        &self,
        lanes: &SipLanes,
        tuples: &[Words; WORDS],
        cookies: &[SeqNum; LANES],
    ) -> [bool; LANES] {
        let sums = [self.now, self.before].map(|secret| secret.tuples(lanes, tuples));
        let fits = |sum: u64, cookie: SeqNum| tuple_part(sum) == tuple_part(cookie.0.into());
        std::array::from_fn(|lane| sums.iter().all(|sum| !fits(sum[lane], cookies[lane])))
    }

    /// What `cookie` is to a client whose first number would be `first`.
    pub fn check(&mut self, key: &FlowKey, first: SeqNum, cookie: SeqNum, now: Nanos) -> Check {
        self.turn(now);
        match self.now.check(key, first, cookie) {
            Check::Wrong => self.before.check(key, first, cookie),
            Check::Later => match self.before.check(key, first, cookie) {
                Check::Valid(agreed) => Check::Valid(agreed),
                _ => Check::Later,
            },
            valid => valid,
        }
    }
}

/// The director's own numbers in an answer to one client.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    secret: Secret,
    tuple: u64,
}

impl Answer {
    /// The cookie for a SYN with first number `first`.
    pub fn cookie(&self, first: SeqNum, agreed: &Agreed) -> SeqNum {
        self.secret.cookie(self.tuple, first, agreed)
    }

    /// The value of a timestamp clock that is another's for each client.
    pub fn clock(&self, now: Nanos) -> u32 {
        clock(self.tuple, now)
    }
}

/// The cookie of one of several clients, from the two sums of `Secrets::answers`.
#[inline(always)]
pub(super) fn cookie(tuple: u64, whole: u64, agreed: &Agreed) -> SeqNum {
    compose(tuple, whole_part(whole), agreed)
}

/// As `Answer::clock`, from the sum over the tuple.
#[inline]
pub(super) fn clock(tuple: u64, now: Nanos) -> u32 {
    now.as_millis_u32().wrapping_add((tuple >> 32) as u32)
}

/// An address in 16 bytes.
fn in_v6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::pair::{AddressPair, PortPair};

    const AGREED: Agreed =
        Agreed { mss_index: 6, window_scale: Some(7), sack: true, timestamps: false };
    const FIRST: SeqNum = SeqNum(0xdead_beef);

    fn key(src_port: u16) -> FlowKey {
        FlowKey { src_port, dst_port: 80, ..FlowKey::UNSET }
    }

    #[test]
    fn agreed_options_survive_the_bits() {
        for bits in 0..1 << AGREED_BITS {
            assert_eq!(Agreed::from_bits(bits).bits(), bits);
        }
    }

    /// Of either family, whole bursts and parts of one.
    #[test]
    fn cookies_of_a_burst_are_those_of_each_alone() {
        let (now, lanes) = (Nanos::from_secs(1000), SipLanes::new());
        let mut secrets = Secrets::new(7, now);
        let octets: [u8; 16] = std::array::from_fn(|at| 0x20 + at as u8);
        let (v6, ports) = (octets.map(|octet| octet ^ 0x5a), |lane: usize| 1024 + lane as u16);
        let four = |lane: usize| (0x0a00_0007 + lane as u32, 0x0a01_0001, ports(lane), 80);
        let six = |lane: usize| (octets, v6, ports(lane), 443);
        let pair4 = |(src, dst, from, to)| (AddressPair::new(src, dst), PortPair::new(from, to));
        let pair6 = |(src, dst, from, to)| ([src, dst], PortPair::new(from, to));
        let keys = |lane: usize| {
            let ((a, b, from, to), (c, d, from6, to6)) = (four(lane), six(lane));
            let key = |src: IpAddr, dst: IpAddr, src_port, dst_port| FlowKey {
                src,
                dst,
                src_port,
                dst_port,
                ..FlowKey::UNSET
            };
            [
                key(IpAddr::V4(a.into()), IpAddr::V4(b.into()), from, to),
                key(IpAddr::V6(c.into()), IpAddr::V6(d.into()), from6, to6),
            ]
        };
        let (mut words4, mut words6) = ([[0; LANES]; 2], [[0; LANES]; 5]);
        for lane in 0..LANES {
            words_v4(pair4(four(lane)))
                .iter()
                .zip(&mut words4)
                .for_each(|(word, row)| row[lane] = *word);
            words_v6(&pair6(six(lane)))
                .iter()
                .zip(&mut words6)
                .for_each(|(word, row)| row[lane] = *word);
        }
        let first = |lane: usize| SeqNum(0xffff_fffd).wrapping_add(lane as u32);
        let rests = std::array::from_fn(|lane| rest(first(lane), AGREED.bits()));
        let (sums4, sums6) =
            (secrets.answers(&lanes, &words4, &rests), secrets.answers(&lanes, &words6, &rests));
        for lane in 0..LANES {
            for (key, (tuples, wholes)) in keys(lane).iter().zip([sums4, sums6]) {
                let alone = secrets.answer(key, now);
                let made = cookie(tuples[lane], wholes[lane], &AGREED);
                assert_eq!(made, alone.cookie(first(lane), &AGREED), "{key:?}");
                assert_eq!(clock(tuples[lane], now), alone.clock(now), "{key:?}");
            }
        }
        // Guesses: some fit one of the two sums over the tuple.
        let mut fitting = 0;
        for guess in (0..400).map(|at: u32| SeqNum(at.wrapping_mul(0x9e37_79b9))) {
            let guesses = std::array::from_fn(|lane| guess.wrapping_add(lane as u32));
            let wrong = [
                secrets.are_wrong(&lanes, &words4, &guesses),
                secrets.are_wrong(&lanes, &words6, &guesses),
            ];
            for lane in 0..LANES {
                for (key, wrong) in keys(lane).iter().zip(wrong) {
                    let check = secrets.check(key, FIRST, guesses[lane], now);
                    assert_eq!(wrong[lane], check == Check::Wrong, "{key:?}");
                    fitting += u32::from(!wrong[lane]);
                }
            }
        }
        assert!(fitting > 20, "{fitting}");
    }

    #[test]
    fn cookie_is_good_for_its_period_and_the_next() {
        let mut secrets = Secrets::new(7, Nanos::from_secs(1000));
        let made = Nanos::from_secs(64 * 20);
        let cookie = secrets.answer(&key(1), made).cookie(FIRST, &AGREED);
        let mut check = |seconds| secrets.check(&key(1), FIRST, cookie, Nanos::from_secs(seconds));
        assert_eq!(check(64 * 20 + 63), Check::Valid(AGREED));
        assert_eq!(check(64 * 21 + 63), Check::Valid(AGREED));
        assert_eq!(check(64 * 22), Check::Wrong);
    }

    #[test]
    fn another_tuple_secret_or_number_does_not_fit() {
        let now = Nanos::from_secs(1000);
        let mut secrets = Secrets::new(7, now);
        let cookie = secrets.answer(&key(1), now).cookie(FIRST, &AGREED);
        assert_eq!(secrets.check(&key(2), FIRST, cookie, now), Check::Wrong);
        assert_eq!(Secrets::new(8, now).check(&key(1), FIRST, cookie, now), Check::Wrong);
        let later = secrets.check(&key(1), FIRST.wrapping_add(1448), cookie, now);
        assert_eq!(later, Check::Later);
    }

    /// A connection's later ACKs must not pass for proofs of a new one.
    #[test]
    fn numbers_near_a_cookie_are_none() {
        let now = Nanos::from_secs(1000);
        let mut secrets = Secrets::new(7, now);
        let cookie = secrets.answer(&key(1), now).cookie(FIRST, &AGREED);
        let near = (1..4000).filter(|ahead| {
            let (first, cookie) = (FIRST.wrapping_add(77), cookie.wrapping_add(*ahead));
            secrets.check(&key(1), first, cookie, now) != Check::Wrong
        });
        // One in 64 by its last bits, as many by the other secret's: those are left alone.
        assert!(near.count() < 200);
        let mut check = |ahead| {
            let (first, cookie) = (FIRST.wrapping_add(77), cookie.wrapping_add(ahead));
            secrets.check(&key(1), first, cookie, now)
        };
        assert!((0..4000).all(|ahead| !matches!(check(ahead), Check::Valid(_))));
    }

    #[test]
    fn guesses_fail_as_often_as_the_bits_say() {
        let now = Nanos::from_secs(1000);
        let mut secrets = Secrets::new(7, now);
        let guesses = (0..1 << 17).map(|guess: u32| SeqNum(guess.wrapping_mul(0x9e37_79b9)));
        let hits: Vec<Check> = guesses
            .map(|guess| secrets.check(&key(1), FIRST, guess, now))
            .filter(|check| *check != Check::Wrong)
            .collect();
        // Two secrets, 6 bits: 4096 expected to pass the first sum; 0.03 the second.
        assert!((3600..4600).contains(&hits.len()), "{}", hits.len());
        assert!(hits.iter().filter(|check| **check != Check::Later).count() <= 2);
    }
}
