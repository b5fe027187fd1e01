//! The answer to a plain frame that carries a SYN, written over it: a SYN-ACK without payload, all
//! of its headers new. What it says is the caller's.

use super::{L3, L4_V4, L4_V6, be16, be32, bytes, fold, put16, put32, set_macs};
use crate::wire::ip::IpProtocol;
use crate::wire::ipv4::DONT_FRAGMENT;
use crate::wire::pair::MacPair;
use crate::wire::tcp::{TCP_HEADER_BYTES, TcpFlags, kind};

/// Words of options that an answer may have: MSS, SACK, timestamps, window scale.
const OPTION_WORDS_MAX: usize = 6;
/// Bytes that the longest answer over IPv4 takes, and that have to be there to write any.
pub const ANSWER_V4_BYTES: usize = L4_V4 + TCP_HEADER_BYTES + 4 * OPTION_WORDS_MAX;
/// As `ANSWER_V4_BYTES`, over IPv6.
pub const ANSWER_V6_BYTES: usize = L4_V6 + TCP_HEADER_BYTES + 4 * OPTION_WORDS_MAX;

/// Options of a SYN-ACK, in the order and alignment of Linux's.
#[derive(Clone, Copy, Debug)]
pub struct AnswerOptions {
    bytes: [u8; 4 * OPTION_WORDS_MAX],
    /// Of their words.
    sum: u64,
    used: usize,
}

impl AnswerOptions {
    /// The maximum segment size, and nothing else.
    #[inline(always)]
    pub fn new(mss: u16) -> Self {
        let none = AnswerOptions { bytes: [0; 4 * OPTION_WORDS_MAX], sum: 0, used: 0 };
        none.with([u32::from_be_bytes([kind::MSS, 4, 0, 0]) | u32::from(mss)])
    }

    /// Selective acknowledgments are permitted. At most once, and before what follows here.
    #[inline(always)]
    pub fn sack_permitted(self) -> Self {
        self.with([u32::from_be_bytes([kind::NOP, kind::NOP, kind::SACK_PERMITTED, 2])])
    }

    /// The director's clock, and the client's. At most once.
    #[inline(always)]
    pub fn timestamps(self, value: u32, echo: u32) -> Self {
        let head = u32::from_be_bytes([kind::NOP, kind::NOP, kind::TIMESTAMPS, 10]);
        self.with([head, value, echo])
    }

    /// The shift count of windows; last, and at most once.
    #[inline(always)]
    pub fn window_scale(self, shift: u8) -> Self {
        self.with([u32::from_be_bytes([kind::NOP, kind::WINDOW_SCALE, 3, shift])])
    }

    #[inline(always)]
    fn with<const WORDS: usize>(mut self, words: [u32; WORDS]) -> Self {
        let room = self.bytes.get_mut(self.used..).and_then(|rest| rest.get_mut(..4 * WORDS));
        if let Some(room) = room {
            for (place, word) in room.chunks_exact_mut(4).zip(words) {
                place.copy_from_slice(&word.to_be_bytes());
                self.sum += u64::from(word);
            }
            self.used += 4 * WORDS;
        }
        self
    }
}

/// What an answer says besides what follows from the SYN.
#[derive(Clone, Copy, Debug)]
pub struct SynAck {
    /// The director's first number.
    pub seq: u32,
    /// Window field.
    pub window: u16,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Options.
    pub options: AnswerOptions,
}

/// Answers an IPv4 frame to the station it came from; returns the length of the frame. What lies
/// behind is undefined.
#[inline(always)]
pub fn answer_v4(frame: &mut [u8; ANSWER_V4_BYTES], own: &[u8; 6], said: &SynAck) -> usize {
    let (client, vip) = (be32(frame, L3 + 12), be32(frame, L3 + 16));
    let tcp_bytes = TCP_HEADER_BYTES + said.options.used;
    let first = 0x4500_0000 | (L4_V4 - L3 + tcp_bytes) as u32;
    let second = u32::from(DONT_FRAGMENT);
    let third = u32::from(said.ttl) << 24 | u32::from(IpProtocol::TCP.0) << 16;
    let addresses = u64::from(vip) + u64::from(client);
    let sum = u64::from(first) + u64::from(second) + u64::from(third) + addresses;
    let third = third | u32::from(!fold(sum));
    set_macs(frame, &MacPair::new(bytes(frame, 6), *own));
    for (word, value) in [first, second, third, vip, client].into_iter().enumerate() {
        put32(frame, L3 + 4 * word, value);
    }
    segment::<L4_V4, _>(frame, said, addresses)
}

/// As `answer_v4`, over IPv6.
#[inline(always)]
pub fn answer_v6(frame: &mut [u8; ANSWER_V6_BYTES], own: &[u8; 6], said: &SynAck) -> usize {
    let (client, vip): ([u8; 16], [u8; 16]) = (bytes(frame, L3 + 8), bytes(frame, L3 + 24));
    let tcp_bytes = TCP_HEADER_BYTES + said.options.used;
    let second = (tcp_bytes as u32) << 16 | u32::from(IpProtocol::TCP.0) << 8 | u32::from(said.ttl);
    let mut addresses = 0;
    for word in 0..8 {
        addresses += u64::from(be32(frame, L3 + 8 + 4 * word));
    }
    set_macs(frame, &MacPair::new(bytes(frame, 6), *own));
    put32(frame, L3, 0x6000_0000);
    put32(frame, L3 + 4, second);
    frame[L3 + 8..L3 + 24].copy_from_slice(&vip);
    frame[L3 + 24..L3 + 40].copy_from_slice(&client);
    segment::<L4_V6, _>(frame, said, addresses)
}

/// The TCP header at `AT`, over the SYN's, and its options; `addresses` is the sum of both.
#[inline(always)]
fn segment<const AT: usize, const N: usize>(
    frame: &mut [u8; N],
    said: &SynAck,
    addresses: u64,
) -> usize {
    let AnswerOptions { bytes, sum: options, used } = &said.options;
    let tcp_bytes = TCP_HEADER_BYTES + used;
    let ports = u32::from(be16(frame, AT + 2)) << 16 | u32::from(be16(frame, AT));
    let ack = be32(frame, AT + 4).wrapping_add(1);
    let flags = TcpFlags::SYN | TcpFlags::ACK;
    let offset = (tcp_bytes as u32 / 4) << 28;
    let fourth = offset | u32::from(flags.0) << 16 | u32::from(said.window);
    let mut sum = addresses + options + u64::from(IpProtocol::TCP.0) + tcp_bytes as u64;
    for (word, value) in [ports, said.seq, ack, fourth].into_iter().enumerate() {
        put32(frame, AT + 4 * word, value);
        sum += u64::from(value);
    }
    // All bytes that there may be: the unused ones lie behind the frame.
    frame[AT + TCP_HEADER_BYTES..AT + TCP_HEADER_BYTES + bytes.len()].copy_from_slice(bytes);
    put16(frame, AT + 16, !fold(sum));
    put16(frame, AT + 18, 0);
    AT + tcp_bytes
}
