//! The common frame: Ethernet, IPv4 without options or IPv6 without extension headers, a whole TCP
//! segment or UDP datagram. Read and rewritten by a few wide loads and stores at fixed places.
//!
//! What has another shape, or is wrong in any way, is no plain frame: the general views say what
//! it is. A plain frame means here exactly what it means to them (tests/fast_path.rs).

mod answer;

pub use answer::{ANSWER_V4_BYTES, ANSWER_V6_BYTES, AnswerOptions, SynAck, answer_v4, answer_v6};

use super::ethernet::EtherType;
use super::ip::IpProtocol;
use super::tcp::{TCP_HEADER_BYTES, TcpFlags};
use super::udp::UDP_HEADER_BYTES;

/// Bytes at the front that hold all of an IPv4 frame's headers.
pub const PLAIN_V4_BYTES: usize = 54;
/// Bytes at the front that hold IPv6 and UDP; a TCP segment has more.
pub const PLAIN_V6_BYTES: usize = 62;
/// Start of the IP header.
const L3: usize = 14;
const L4_V4: usize = L3 + 20;
const L4_V6: usize = L3 + 40;

/// Addresses and ports of a family, as they lie in a frame: host order numbers (IPv4), bytes
/// (IPv6); then source and destination port.
pub type Tuple<A> = (A, A, u16, u16);

/// What of a plain frame does not depend on its family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// TCP or UDP.
    pub protocol: IpProtocol,
    /// TCP control bits; none for UDP.
    pub flags: TcpFlags,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Size of the IP packet in bytes.
    pub ip_bytes: u16,
}

/// Bytes at a fixed place. As an array of their own they are one load, whatever is asked of them.
#[inline(always)]
fn bytes<const N: usize, const M: usize>(bytes: &[u8; N], at: usize) -> [u8; M] {
    bytes.get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or([0; M])
}

#[inline(always)]
fn be16<const N: usize>(bytes: &[u8; N], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[inline(always)]
fn be32<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[inline(always)]
fn put16<const N: usize>(bytes: &mut [u8; N], at: usize, value: u16) {
    [bytes[at], bytes[at + 1]] = value.to_be_bytes();
}

#[inline(always)]
fn put32<const N: usize>(bytes: &mut [u8; N], at: usize, value: u32) {
    [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]] = value.to_be_bytes();
}

/// A MAC address as a number, to compare by one instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacBits(u64);

impl From<[u8; 6]> for MacBits {
    #[inline(always)]
    fn from([a, b, c, d, e, f]: [u8; 6]) -> Self {
        MacBits(u64::from_le_bytes([a, b, c, d, e, f, 0, 0]))
    }
}

/// Destination and source MAC address of a frame.
#[inline(always)]
pub fn macs<const N: usize>(head: &[u8; N]) -> (MacBits, MacBits) {
    const SIX_BYTES: u64 = u64::MAX >> 16;
    let six = |at| MacBits(u64::from_le_bytes(bytes(head, at)) & SIX_BYTES);
    (six(0), six(6))
}

/// Writes both MAC addresses.
#[inline(always)]
pub fn set_macs<const N: usize>(head: &mut [u8; N], dst: &[u8; 6], src: &[u8; 6]) {
    head[..6].copy_from_slice(dst);
    head[6..12].copy_from_slice(src);
}

/// Type of the frame.
#[inline(always)]
pub fn ether_type(head: &[u8; PLAIN_V4_BYTES]) -> EtherType {
    EtherType(be16(head, 12))
}

/// What an IPv4 frame is, if it is plain. `frame_bytes` is the length of all of it.
#[inline(always)]
pub fn read_v4(head: &[u8; PLAIN_V4_BYTES], frame_bytes: usize) -> Option<Facts> {
    let ip_bytes = be16(head, L3 + 2);
    let room = usize::from(ip_bytes).checked_sub(L4_V4 - L3)?;
    let is_whole = be16(head, L3 + 6) & 0x3fff == 0;
    let is_sound = head[L3] == 0x45 && is_whole && L3 + usize::from(ip_bytes) <= frame_bytes;
    if !is_sound || !holds(head) {
        return None;
    }
    let protocol = IpProtocol(head[L3 + 9]);
    let flags = match protocol {
        IpProtocol::UDP if is_datagram(be16(head, L4_V4 + 4), room) => TcpFlags::NONE,
        IpProtocol::TCP if is_segment(head[L4_V4 + 12], room) => TcpFlags(head[L4_V4 + 13]),
        _ => return None,
    };
    Some(Facts { protocol, flags, ttl: head[L3 + 8], ip_bytes })
}

/// What an IPv6 frame is, if it is plain.
#[inline(always)]
pub fn read_v6(frame: &[u8]) -> Option<Facts> {
    let head: &[u8; PLAIN_V6_BYTES] = frame.first_chunk()?;
    let room = usize::from(be16(head, L3 + 4));
    if head[L3] >> 4 != 6 || L4_V6 + room > frame.len() {
        return None;
    }
    let protocol = IpProtocol(head[L3 + 6]);
    let flags = match protocol {
        IpProtocol::UDP if is_datagram(be16(head, L4_V6 + 4), room) => TcpFlags::NONE,
        IpProtocol::TCP => {
            let tcp: &[u8; TCP_HEADER_BYTES] = frame.get(L4_V6..)?.first_chunk()?;
            is_segment(tcp[12], room).then_some(TcpFlags(tcp[13]))?
        }
        _ => return None,
    };
    let ip_bytes = (L4_V6 - L3 + room) as u16;
    Some(Facts { protocol, flags, ttl: head[L3 + 7], ip_bytes })
}

/// What of a TCP header is none of `Facts`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number.
    pub ack: u32,
    /// Size of the header with its options in bytes.
    pub header_bytes: usize,
}

/// Reads a TCP header's numbers.
#[inline(always)]
pub fn numbers(tcp: &[u8; TCP_HEADER_BYTES]) -> Numbers {
    let header_bytes = usize::from(tcp[12] >> 4) * 4;
    Numbers { seq: be32(tcp, 4), ack: be32(tcp, 8), header_bytes }
}

#[inline(always)]
fn is_datagram(length: u16, room: usize) -> bool {
    usize::from(length) >= UDP_HEADER_BYTES && usize::from(length) <= room
}

#[inline(always)]
fn is_segment(data_offset: u8, room: usize) -> bool {
    let header = usize::from(data_offset >> 4) * 4;
    header >= TCP_HEADER_BYTES && header <= room
}

/// Whether the IPv4 header's checksum holds.
#[inline(always)]
fn holds(head: &[u8; PLAIN_V4_BYTES]) -> bool {
    // In the machine's byte order, which RFC 1071 section 2 (B) allows.
    let word = |at: usize| u64::from(u32::from_ne_bytes(bytes(head, at)));
    let sum = word(L3) + word(L3 + 4) + word(L3 + 8) + word(L3 + 12) + word(L3 + 16);
    // A sum folds to 0xffff if 0xffff divides it, since it is not 0: the version is in it. An odd
    // number divides those whose product with its inverse (mod 2^64) is no larger than the largest
    // quotient.
    const QUOTIENT_MAX: u64 = u64::MAX / 0xffff;
    const INVERSE: u64 = 0u64.wrapping_sub(0x0001_0001_0001_0001);
    const { assert!(INVERSE.wrapping_mul(0xffff) == 1) };
    sum.wrapping_mul(INVERSE) <= QUOTIENT_MAX
}

/// A one's complement sum of 16 or 32-bit words as one of 16 bits.
#[inline(always)]
fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// The checksum after words were replaced whose complements, and whose successors, are summed up
/// in `change` (RFC 1624 equation 3).
#[inline(always)]
fn patched(checksum: u16, change: u64) -> u16 {
    !fold(u64::from(!checksum) + change)
}

#[inline(always)]
fn replaced(old: u32, new: u32) -> u64 {
    u64::from(!old) + u64::from(new)
}

/// The tuple of an IPv4 frame.
#[inline(always)]
pub fn tuple_v4(head: &[u8; PLAIN_V4_BYTES]) -> Tuple<u32> {
    (be32(head, L3 + 12), be32(head, L3 + 16), be16(head, L4_V4), be16(head, L4_V4 + 2))
}

/// The tuple of an IPv6 frame.
#[inline(always)]
pub fn tuple_v6(head: &[u8; PLAIN_V6_BYTES]) -> Tuple<[u8; 16]> {
    (bytes(head, L3 + 8), bytes(head, L3 + 24), be16(head, L4_V6), be16(head, L4_V6 + 2))
}

/// TTL less one, and the checksum with it. A TTL of 0 is the caller's to refuse.
#[inline(always)]
pub fn decrement_ttl_v4(head: &mut [u8; PLAIN_V4_BYTES]) {
    let old = be16(head, L3 + 8);
    let new = old.wrapping_sub(0x100);
    put16(head, L3 + 8, new);
    let checksum = be16(head, L3 + 10);
    put16(head, L3 + 10, patched(checksum, u64::from(!old) + u64::from(new)));
}

/// Hop limit less one.
#[inline(always)]
pub fn decrement_ttl_v6(head: &mut [u8; PLAIN_V6_BYTES]) {
    head[L3 + 7] = head[L3 + 7].wrapping_sub(1);
}

/// Gives an IPv4 frame another tuple and patches both checksums; a UDP checksum of none stays.
#[inline(always)]
pub fn rewrite_v4(head: &mut [u8; PLAIN_V4_BYTES], protocol: IpProtocol, new: Tuple<u32>) {
    let (src, dst, src_port, dst_port) = new;
    let addresses = replaced(be32(head, L3 + 12), src) + replaced(be32(head, L3 + 16), dst);
    let ports = u32::from(src_port) << 16 | u32::from(dst_port);
    let change = addresses + replaced(be32(head, L4_V4), ports);
    put32(head, L3 + 12, src);
    put32(head, L3 + 16, dst);
    put32(head, L4_V4, ports);
    put16(head, L3 + 10, patched(be16(head, L3 + 10), addresses));
    let at = L4_V4 + checksum_offset(protocol);
    put16(head, at, transport(be16(head, at), protocol, change));
}

/// Gives an IPv6 frame another tuple and patches the transport's checksum; one of none stays.
/// `false`, and nothing changed, when the frame is shorter than its headers.
#[inline(always)]
pub fn rewrite_v6(frame: &mut [u8], protocol: IpProtocol, new: Tuple<[u8; 16]>) -> bool {
    let at = L4_V6 + checksum_offset(protocol);
    let Some(&[high, low]) = frame.get(at..).and_then(|rest| rest.first_chunk()) else {
        return false;
    };
    let Some(head) = frame.first_chunk_mut::<PLAIN_V6_BYTES>() else { return false };
    let (src, dst, src_port, dst_port) = new;
    let ports = u32::from(src_port) << 16 | u32::from(dst_port);
    let mut change = replaced(be32(head, L4_V6), ports);
    for (start, address) in [(L3 + 8, &src), (L3 + 24, &dst)] {
        for word in [0, 4, 8, 12] {
            change += replaced(be32(head, start + word), be32(address, word));
        }
        for (to, from) in head[start..start + 16].iter_mut().zip(address) {
            *to = *from;
        }
    }
    put32(head, L4_V6, ports);
    let [high, low] = transport(u16::from_be_bytes([high, low]), protocol, change).to_be_bytes();
    if let Some(field) = frame.get_mut(at..at + 2) {
        field.copy_from_slice(&[high, low]);
    }
    true
}

/// Where a transport header has its checksum.
#[inline(always)]
fn checksum_offset(protocol: IpProtocol) -> usize {
    if protocol == IpProtocol::UDP { 6 } else { 16 }
}

/// A transport's checksum after `change`. Of UDP's, 0 means none, and 0xffff stands for 0
/// (RFC 768).
#[inline(always)]
fn transport(checksum: u16, protocol: IpProtocol, change: u64) -> u16 {
    match (protocol, patched(checksum, change)) {
        (IpProtocol::UDP, _) if checksum == 0 => 0,
        (IpProtocol::UDP, 0) => 0xffff,
        (_, patched) => patched,
    }
}

/// An IPv4 header that goes around an IPv4 packet.
#[derive(Clone, Copy, Debug)]
pub struct OuterV4 {
    /// Source and destination.
    pub addresses: (u32, u32),
    /// Type of service.
    pub tos: u8,
    /// Identification and fragment word.
    pub fragment: (u16, u16),
    /// TTL.
    pub ttl: u8,
    /// Size of the inner packet in bytes.
    pub inner_bytes: u16,
}

/// Type of service and fragment word of an IPv4 frame.
#[inline(always)]
pub fn class_v4(head: &[u8; PLAIN_V4_BYTES]) -> (u8, u16) {
    (head[L3 + 1], be16(head, L3 + 6))
}

/// Writes the type of the frame and an outer header before the inner packet.
#[inline(always)]
pub fn put_outer_v4(head: &mut [u8; PLAIN_V4_BYTES], outer: &OuterV4) {
    let ((src, dst), (id, fragment)) = (outer.addresses, outer.fragment);
    let total = outer.inner_bytes.wrapping_add((L4_V4 - L3) as u16);
    let first = 0x4500_0000 | u32::from(outer.tos) << 16 | u32::from(total);
    let second = u32::from(id) << 16 | u32::from(fragment);
    let third = u32::from(outer.ttl) << 24 | u32::from(IpProtocol::IPV4.0) << 16;
    let sum = [first, second, third, src, dst].iter().map(|word| u64::from(*word)).sum();
    let third = third | u32::from(!fold(sum));
    put16(head, 12, EtherType::IPV4.0);
    for (word, value) in [first, second, third, src, dst].into_iter().enumerate() {
        put32(head, L3 + 4 * word, value);
    }
}

/// An IPv6 header that goes around an IPv6 packet.
#[derive(Clone, Copy, Debug)]
pub struct OuterV6 {
    /// Source and destination.
    pub addresses: ([u8; 16], [u8; 16]),
    /// Traffic class.
    pub class: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Size of the inner packet in bytes.
    pub inner_bytes: u16,
}

/// Traffic class of an IPv6 frame.
#[inline(always)]
pub fn class_v6(head: &[u8; PLAIN_V6_BYTES]) -> u8 {
    (be16(head, L3) >> 4) as u8
}

/// As `put_outer_v4`, of the other family.
#[inline(always)]
pub fn put_outer_v6(head: &mut [u8; PLAIN_V6_BYTES], outer: &OuterV6) {
    put16(head, 12, EtherType::IPV6.0);
    put32(head, L3, 0x6000_0000 | u32::from(outer.class) << 20);
    let next = u32::from(IpProtocol::IPV6.0) << 8 | u32::from(outer.hop_limit);
    put32(head, L3 + 4, u32::from(outer.inner_bytes) << 16 | next);
    head[L3 + 8..L3 + 24].copy_from_slice(&outer.addresses.0);
    head[L3 + 24..L3 + 40].copy_from_slice(&outer.addresses.1);
}

/// Whether a UDP frame over IPv4 came without a checksum.
#[inline(always)]
pub fn lacks_checksum_v4(head: &[u8; PLAIN_V4_BYTES]) -> bool {
    be16(head, L4_V4 + 6) == 0
}

/// As `lacks_checksum_v4`, over IPv6.
#[inline(always)]
pub fn lacks_checksum_v6(head: &[u8; PLAIN_V6_BYTES]) -> bool {
    be16(head, L4_V6 + 6) == 0
}
