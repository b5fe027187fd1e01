//! The common frame: Ethernet, IPv4 without options or IPv6 without extension headers, a whole TCP
//! segment or UDP datagram. Read and rewritten by a few wide loads and stores at fixed places.
//!
//! What has another shape, or is wrong in any way, is no plain frame: the general views say what
//! it is. A plain frame means here exactly what it means to them (tests/fast_path.rs).

mod answer;

pub use answer::{ANSWER_V4_BYTES, ANSWER_V6_BYTES, AnswerOptions, SynAck, answer_v4, answer_v6};

use super::ethernet::EtherType;
use super::ip::IpProtocol;
use super::ipv4::IPV4_HEADER_BYTES;
use super::pair::{AddressPair, MacPair, PortPair};
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

/// Addresses and ports of an IPv4 packet.
pub type TupleV4 = (AddressPair, PortPair);
/// Source and destination address of an IPv6 packet as they lie in a frame, and its ports.
pub type TupleV6 = ([[u8; 16]; 2], PortPair);

/// What of a plain frame does not depend on its family, as one word: it is passed on and kept frame
/// by frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts(u64);

impl Facts {
    /// What is known of no frame.
    pub const UNSET: Facts = Facts(0);

    /// `ttl_and_protocol` as an IPv4 header has them, lowest byte first.
    #[inline(always)]
    fn new(ttl_and_protocol: u16, flags: TcpFlags, ip_bytes: u16) -> Self {
        let low = u32::from(ttl_and_protocol) | u32::from(flags.0) << 16;
        Facts(u64::from(low) | u64::from(ip_bytes) << 32)
    }

    /// TTL or hop limit.
    #[inline(always)]
    pub fn ttl(&self) -> u8 {
        self.0 as u8
    }

    /// TCP or UDP.
    #[inline(always)]
    pub fn protocol(&self) -> IpProtocol {
        IpProtocol((self.0 >> 8) as u8)
    }

    /// TCP control bits; none for UDP.
    #[inline(always)]
    pub fn flags(&self) -> TcpFlags {
        TcpFlags((self.0 >> 16) as u8)
    }

    /// Size of the IP packet in bytes.
    #[inline(always)]
    pub fn ip_bytes(&self) -> u16 {
        (self.0 >> 32) as u16
    }
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

/// A MAC address as a number, to compare by one instruction: in the upper six bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacBits(u64);

impl From<[u8; 6]> for MacBits {
    #[inline(always)]
    fn from([a, b, c, d, e, f]: [u8; 6]) -> Self {
        MacBits(u64::from_le_bytes([0, 0, a, b, c, d, e, f]))
    }
}

impl MacBits {
    /// No address: these have fewer bits.
    pub const NOBODYS: MacBits = MacBits(u64::MAX);
}

/// Destination and source MAC address of a frame.
#[inline(always)]
pub fn macs<const N: usize>(head: &[u8; N]) -> (MacBits, MacBits) {
    const UPPER: u64 = !0xffff;
    let dst = u64::from_le_bytes(bytes(head, 0)) << 16;
    (MacBits(dst), MacBits(u64::from_le_bytes(bytes(head, 4)) & UPPER))
}

/// Writes both MAC addresses.
#[inline(always)]
pub fn set_macs<const N: usize>(head: &mut [u8; N], macs: &MacPair) {
    head[..12].copy_from_slice(macs.bytes());
}

/// Whether the frame's source is where `macs` lead.
#[inline(always)]
pub fn is_from_dst_of<const N: usize>(head: &[u8; N], macs: &MacPair) -> bool {
    // Nearly always the first word differs.
    bytes::<N, 4>(head, 6) == bytes::<12, 4>(macs.bytes(), 0)
        && bytes::<N, 2>(head, 10) == bytes(macs.bytes(), 4)
}

/// Whether the frame is of this type.
#[inline(always)]
pub fn is_ether_type(head: &[u8; PLAIN_V4_BYTES], ether_type: EtherType) -> bool {
    bytes(head, 12) == ether_type.0.to_be_bytes()
}

/// What an IPv4 frame is, if it is plain. `frame_bytes` is the length of all of it.
#[inline(always)]
pub fn read_v4(head: &[u8; PLAIN_V4_BYTES], frame_bytes: usize) -> Option<Facts> {
    // Version to fragment word; TTL, protocol, checksum.
    let first = u64::from_le_bytes(bytes(head, L3));
    let second = u32::from_le_bytes(bytes(head, L3 + 8));
    // Version 4, five words and no part of a larger packet.
    const DECIDES: u64 = u64::from_le_bytes([0xff, 0, 0, 0, 0, 0, 0x3f, 0xff]);
    let ip_bytes = ((first >> 16) as u16).swap_bytes();
    let is_sound = first & DECIDES == 0x45 && L3 + usize::from(ip_bytes) <= frame_bytes;
    if !is_sound || !holds(first, second, tuple_v4(head).0) {
        return None;
    }
    let room = usize::from(ip_bytes);
    let flags = match IpProtocol((second >> 8) as u8) {
        IpProtocol::UDP if is_datagram(be16(head, L4_V4 + 4), room, IPV4_HEADER_BYTES) => {
            TcpFlags::NONE
        }
        IpProtocol::TCP if is_segment(head[L4_V4 + 12], room, IPV4_HEADER_BYTES) => {
            TcpFlags(head[L4_V4 + 13])
        }
        _ => return None,
    };
    Some(Facts::new(second as u16, flags, ip_bytes))
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
        IpProtocol::UDP if is_datagram(be16(head, L4_V6 + 4), room, 0) => TcpFlags::NONE,
        IpProtocol::TCP => {
            let tcp: &[u8; TCP_HEADER_BYTES] = frame.get(L4_V6..)?.first_chunk()?;
            is_segment(tcp[12], room, 0).then_some(TcpFlags(tcp[13]))?
        }
        _ => return None,
    };
    let ip_bytes = (L4_V6 - L3 + room) as u16;
    let ttl_and_protocol = u16::from_le_bytes([head[L3 + 7], protocol.0]);
    Some(Facts::new(ttl_and_protocol, flags, ip_bytes))
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

/// Whether a datagram of that length fits into `room` bytes, of which `before` are others'.
#[inline(always)]
fn is_datagram(length: u16, room: usize, before: usize) -> bool {
    usize::from(length) >= UDP_HEADER_BYTES && before + usize::from(length) <= room
}

/// As `is_datagram`, for a TCP header.
#[inline(always)]
fn is_segment(data_offset: u8, room: usize, before: usize) -> bool {
    let header = usize::from(data_offset >> 4) * 4;
    header >= TCP_HEADER_BYTES && before + header <= room
}

/// The sum of two sums, none of whose bits is lost: what is carried out is carried in
/// (RFC 1071 section 1).
#[inline(always)]
fn plus(a: u64, b: u64) -> u64 {
    let (sum, is_carried) = a.overflowing_add(b);
    sum + u64::from(is_carried)
}

/// Whether the IPv4 header's checksum holds.
#[inline(always)]
fn holds(first: u64, second: u32, addresses: AddressPair) -> bool {
    // Lowest byte first, which RFC 1071 section 2 (B) allows.
    let sum = plus(plus(first, addresses.bits()), second.into());
    // A sum folds to 0xffff if 0xffff divides it, since it is not 0: the version is in it. An odd
    // number divides those whose product with its inverse (mod 2^64) is no larger than the largest
    // quotient.
    const QUOTIENT_MAX: u64 = u64::MAX / 0xffff;
    const INVERSE: u64 = 0u64.wrapping_sub(0x0001_0001_0001_0001);
    const { assert!(INVERSE.wrapping_mul(0xffff) == 1) };
    sum.wrapping_mul(INVERSE) <= QUOTIENT_MAX
}

/// A one's complement sum of words of up to 32 bits as one of 16 bits.
#[inline(always)]
fn fold(sum: u64) -> u16 {
    // Each half and what the other one carries: the upper half has both.
    let sum = (sum.wrapping_add(sum.rotate_left(32)) >> 32) as u32;
    (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16
}

/// The checksum after words were replaced whose complements, and whose successors, are summed up
/// in `change` (RFC 1624 equation 3). In any byte order, as long as it is the same for all.
#[inline(always)]
fn patched(checksum: u16, change: u64) -> u16 {
    !fold(plus(u64::from(!checksum), change))
}

/// What the replacement of a word adds to `change` of `patched`.
#[inline(always)]
fn replaced(old: u64, new: u64) -> u64 {
    plus(!old, new)
}

#[inline(always)]
fn le16<const N: usize>(head: &[u8; N], at: usize) -> u16 {
    u16::from_le_bytes(bytes(head, at))
}

#[inline(always)]
fn put_le16<const N: usize>(head: &mut [u8; N], at: usize, value: u16) {
    [head[at], head[at + 1]] = value.to_le_bytes();
}

/// The tuple of an IPv4 frame.
#[inline(always)]
pub fn tuple_v4(head: &[u8; PLAIN_V4_BYTES]) -> TupleV4 {
    let ports = PortPair::from_wire(bytes(head, L4_V4));
    (AddressPair::from_wire(bytes(head, L3 + 12)), ports)
}

/// The tuple of an IPv6 frame.
#[inline(always)]
pub fn tuple_v6(head: &[u8; PLAIN_V6_BYTES]) -> TupleV6 {
    ([bytes(head, L3 + 8), bytes(head, L3 + 24)], PortPair::from_wire(bytes(head, L4_V6)))
}

/// TTL less `spent`; what that adds to `change` of `patched`.
#[inline(always)]
fn spend_ttl(head: &mut [u8; PLAIN_V4_BYTES], spent: u8) -> u64 {
    head[L3 + 8] = head[L3 + 8].wrapping_sub(spent);
    // The word's complement and its successor, lowest byte first, whatever it is.
    0xffff - u64::from(spent)
}

/// TTL less one, and the checksum with it. A TTL of 0 is the caller's to refuse.
#[inline(always)]
pub fn decrement_ttl_v4(head: &mut [u8; PLAIN_V4_BYTES]) {
    let change = spend_ttl(head, 1);
    put_le16(head, L3 + 10, patched(le16(head, L3 + 10), change));
}

/// Hop limit less one.
#[inline(always)]
pub fn decrement_ttl_v6(head: &mut [u8; PLAIN_V6_BYTES]) {
    head[L3 + 7] = head[L3 + 7].wrapping_sub(1);
}

/// Gives an IPv4 frame another tuple, takes `spent` off its TTL, no more than there is, and patches
/// both checksums; a UDP checksum of none stays.
#[inline(always)]
pub fn rewrite_v4(head: &mut [u8; PLAIN_V4_BYTES], protocol: IpProtocol, new: TupleV4, spent: u8) {
    let ((old_addresses, old_ports), (addresses, ports)) = (tuple_v4(head), new);
    let change = replaced(old_addresses.bits(), addresses.bits());
    head[L3 + 12..L4_V4].copy_from_slice(&addresses.bits().to_le_bytes());
    head[L4_V4..L4_V4 + 4].copy_from_slice(&ports.bits().to_le_bytes());
    let header = plus(change, spend_ttl(head, spent));
    put_le16(head, L3 + 10, patched(le16(head, L3 + 10), header));
    let change = plus(change, u64::from(!old_ports.bits()) + u64::from(ports.bits()));
    let at = L4_V4 + checksum_offset(protocol);
    put_le16(head, at, transport(le16(head, at), protocol, change));
}

/// Gives an IPv6 frame another tuple and patches the transport's checksum; one of none stays.
/// `false`, and nothing changed, when the frame is shorter than its headers.
#[inline(always)]
pub fn rewrite_v6(frame: &mut [u8], protocol: IpProtocol, new: &TupleV6) -> bool {
    let at = L4_V6 + checksum_offset(protocol);
    let Some(&checksum) = frame.get(at..).and_then(|rest| rest.first_chunk()) else {
        return false;
    };
    let Some(head) = frame.first_chunk_mut::<PLAIN_V6_BYTES>() else { return false };
    let (addresses, ports) = new;
    let old_ports = PortPair::from_wire(bytes(head, L4_V6));
    let mut change = u64::from(!old_ports.bits()) + u64::from(ports.bits());
    for (start, address) in [(L3 + 8, &addresses[0]), (L3 + 24, &addresses[1])] {
        for half in [0, 8] {
            let new: [u8; 8] = bytes(address, half);
            let old = u64::from_le_bytes(bytes(head, start + half));
            change = plus(change, replaced(old, u64::from_le_bytes(new)));
            head[start + half..start + half + 8].copy_from_slice(&new);
        }
    }
    head[L4_V6..L4_V6 + 4].copy_from_slice(&ports.bits().to_le_bytes());
    let patched = transport(u16::from_le_bytes(checksum), protocol, change).to_le_bytes();
    if let Some(field) = frame.get_mut(at..at + 2) {
        field.copy_from_slice(&patched);
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
    pub addresses: AddressPair,
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
    let total = outer.inner_bytes.wrapping_add(IPV4_HEADER_BYTES as u16).swap_bytes();
    let (id, fragment) = (outer.fragment.0.swap_bytes(), outer.fragment.1.swap_bytes());
    let first = 0x45 | u64::from(outer.tos) << 8 | u64::from(total) << 16;
    let first = first | u64::from(id) << 32 | u64::from(fragment) << 48;
    let second = u32::from(IpProtocol::IPV4.0) << 8 | u32::from(outer.ttl);
    let sum = plus(plus(first, outer.addresses.bits()), second.into());
    let second = second | u32::from(!fold(sum)) << 16;
    put16(head, 12, EtherType::IPV4.0);
    head[L3..L3 + 8].copy_from_slice(&first.to_le_bytes());
    head[L3 + 8..L3 + 12].copy_from_slice(&second.to_le_bytes());
    head[L3 + 12..L4_V4].copy_from_slice(&outer.addresses.bits().to_le_bytes());
}

/// An IPv6 header that goes around an IPv6 packet.
#[derive(Clone, Copy, Debug)]
pub struct OuterV6 {
    /// Source and destination.
    pub addresses: [[u8; 16]; 2],
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
    head[L3 + 8..L3 + 24].copy_from_slice(&outer.addresses[0]);
    head[L3 + 24..L3 + 40].copy_from_slice(&outer.addresses[1]);
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
