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
use crate::time::{NANOS_PER_SECOND, Nanos};
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
        let rest = u64::from(first.0) << 32 | u64::from(agreed);
        let all = u128::from(tuple) << 64 | u128::from(rest);
        self.sum(&all.to_le_bytes()) as u32 & ((1 << WHOLE_BITS) - 1)
    }

    fn cookie(&self, tuple: u64, first: SeqNum, agreed: &Agreed) -> SeqNum {
        let whole = self.whole(tuple, first, agreed.bits());
        let agreed = agreed.bits() ^ mask(tuple);
        SeqNum(agreed << (WHOLE_BITS + TUPLE_BITS) | whole << TUPLE_BITS | tuple_part(tuple))
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

/// The first sum, in place: in the low bits, so that numbers that only lie near a cookie, as those
/// of a short connection do, have it wrong.
fn tuple_part(tuple: u64) -> u32 {
    tuple as u32 & ((1 << TUPLE_BITS) - 1)
}

/// Hides what was agreed, so that two clients' cookies do not look alike.
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

    fn turn(&mut self, now: Nanos) {
        if now.0 / PERIOD_NANOS != self.period {
            *self = Secrets::new(self.seed, now);
        }
    }

    /// What the answer to a client's SYN is made of.
    pub fn answer(&mut self, key: &FlowKey, now: Nanos) -> Answer {
        self.turn(now);
        Answer { secret: self.now, tuple: self.now.tuple(key) }
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
        now.as_millis_u32().wrapping_add((self.tuple >> 32) as u32)
    }
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
