//! The answer to a plain frame that carries a SYN, written over it: a SYN-ACK without payload, all
//! of its headers new. What it says is the caller's.

use super::{L3, L4_V4, L4_V6, be16, be32, fold, macs, octets, put16, put32, set_macs};
use crate::wire::ip::IpProtocol;
use crate::wire::ipv4::DONT_FRAGMENT;
use crate::wire::tcp::{TCP_HEADER_BYTES, TcpFlags, kind};

/// Words of options that an answer may have: MSS, SACK, timestamps, window scale.
const OPTION_WORDS_MAX: usize = 6;
/// Bytes that the longest answer over IPv4 takes, and that have to be there to write any.
pub const ANSWER_V4_BYTES: usize = L4_V4 + TCP_HEADER_BYTES + 4 * OPTION_WORDS_MAX;
/// As `ANSWER_V4_BYTES`, over IPv6.
pub const ANSWER_V6_BYTES: usize = L4_V6 + TCP_HEADER_BYTES + 4 * OPTION_WORDS_MAX;

/// Options of a SYN-ACK, in the order and alignment of Linux's.
#[derive(Clone, Copy, Debug, Default)]
pub struct AnswerOptions {
    words: [u32; OPTION_WORDS_MAX],
    count: usize,
}

impl AnswerOptions {
    /// The maximum segment size, and nothing else.
    #[inline(always)]
    pub fn new(mss: u16) -> Self {
        let mut options = AnswerOptions { count: 1, ..AnswerOptions::default() };
        options.words[0] = u32::from_be_bytes([kind::MSS, 4, 0, 0]) | u32::from(mss);
        options
    }

    /// Selective acknowledgments are permitted. At most once, and before what follows here.
    #[inline(always)]
    pub fn sack_permitted(mut self) -> Self {
        if let Some(room) = self.words.get_mut(self.count) {
            *room = u32::from_be_bytes([kind::NOP, kind::NOP, kind::SACK_PERMITTED, 2]);
            self.count += 1;
        }
        self
    }

    /// The director's clock, and the client's. At most once.
    #[inline(always)]
    pub fn timestamps(mut self, value: u32, echo: u32) -> Self {
        let head = u32::from_be_bytes([kind::NOP, kind::NOP, kind::TIMESTAMPS, 10]);
        if let Some(room) = self.words.get_mut(self.count..).and_then(|rest| rest.first_chunk_mut())
        {
            *room = [head, value, echo];
            self.count += 3;
        }
        self
    }

    /// The shift count of windows; last, and at most once.
    #[inline(always)]
    pub fn window_scale(mut self, shift: u8) -> Self {
        if let Some(room) = self.words.get_mut(self.count) {
            *room = u32::from_be_bytes([kind::NOP, kind::WINDOW_SCALE, 3, shift]);
            self.count += 1;
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
    let tcp_bytes = TCP_HEADER_BYTES + 4 * said.options.count;
    let first = 0x4500_0000 | (L4_V4 - L3 + tcp_bytes) as u32;
    let second = u32::from(DONT_FRAGMENT);
    let third = u32::from(said.ttl) << 24 | u32::from(IpProtocol::TCP.0) << 16;
    let addresses = u64::from(vip) + u64::from(client);
    let sum = u64::from(first) + u64::from(second) + u64::from(third) + addresses;
    let third = third | u32::from(!fold(sum));
    let (_, sender) = macs(frame);
    set_macs(frame, &sender, own);
    for (word, value) in [first, second, third, vip, client].into_iter().enumerate() {
        put32(frame, L3 + 4 * word, value);
    }
    segment::<L4_V4, _>(frame, said, addresses)
}

/// As `answer_v4`, over IPv6.
#[inline(always)]
pub fn answer_v6(frame: &mut [u8; ANSWER_V6_BYTES], own: &[u8; 6], said: &SynAck) -> usize {
    let (client, vip) = (octets(frame, L3 + 8), octets(frame, L3 + 24));
    let tcp_bytes = TCP_HEADER_BYTES + 4 * said.options.count;
    let second = (tcp_bytes as u32) << 16 | u32::from(IpProtocol::TCP.0) << 8 | u32::from(said.ttl);
    let mut addresses = 0;
    for word in 0..8 {
        addresses += u64::from(be32(frame, L3 + 8 + 4 * word));
    }
    let (_, sender) = macs(frame);
    set_macs(frame, &sender, own);
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
    let AnswerOptions { words, count } = said.options;
    let tcp_bytes = TCP_HEADER_BYTES + 4 * count;
    let ports = u32::from(be16(frame, AT + 2)) << 16 | u32::from(be16(frame, AT));
    let ack = be32(frame, AT + 4).wrapping_add(1);
    let flags = TcpFlags::SYN | TcpFlags::ACK;
    let offset = (tcp_bytes as u32 / 4) << 28;
    let fourth = offset | u32::from(flags.0) << 16 | u32::from(said.window);
    let mut sum = addresses + u64::from(IpProtocol::TCP.0) + tcp_bytes as u64;
    for (word, value) in [ports, said.seq, ack, fourth].into_iter().enumerate() {
        put32(frame, AT + 4 * word, value);
        sum += u64::from(value);
    }
    // All words that there may be: the unused ones are 0, and lie behind the frame.
    for (word, value) in words.into_iter().enumerate() {
        put32(frame, AT + TCP_HEADER_BYTES + 4 * word, value);
        sum += u64::from(value);
    }
    put16(frame, AT + 16, !fold(sum));
    put16(frame, AT + 18, 0);
    AT + tcp_bytes
}
