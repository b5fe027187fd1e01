//! IPv4 packets written and read byte by byte, with nothing of gyre's own builders and parsers: it
//! is what its work is checked with.

use std::net::Ipv4Addr;

use anyhow::ensure;

use crate::source::Record;
use crate::traffic::{CLIENT_MAC, DIRECTOR_MAC, FRAME_BYTES};

/// TCP flags.
pub const FIN: u8 = 0x01;
/// Opens.
pub const SYN: u8 = 0x02;
/// Acknowledges.
pub const ACK: u8 = 0x10;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// An endpoint.
pub type End = (Ipv4Addr, u16);

/// A TCP segment without payload, or a datagram of twelve bytes: as long, so that a record has all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where from.
    pub src: End,
    /// Where to.
    pub dst: End,
    /// Identification of the IP packet.
    pub id: u16,
    /// Time to live.
    pub ttl: u8,
    /// What it says; none in a datagram.
    pub tcp: Option<Words>,
}

/// What a TCP segment says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number.
    pub ack: u32,
    /// Control bits.
    pub flags: u8,
}

/// A frame from a neighbour to the director.
pub type Bytes = [u8; FRAME_BYTES];

impl Segment {
    /// The frame, of the smallest size; a SYN names its MSS where there are options.
    pub fn frame(&self, options: &[u8]) -> Bytes {
        let mut bytes = [0; FRAME_BYTES];
        let head = if self.tcp.is_some() { 20 + options.len() } else { 8 + 12 };
        bytes[..6].copy_from_slice(&DIRECTOR_MAC.0);
        bytes[6..12].copy_from_slice(&CLIENT_MAC.0);
        bytes[12..14].copy_from_slice(&[0x08, 0x00]);
        bytes[14..16].copy_from_slice(&[0x45, 0]);
        bytes[16..18].copy_from_slice(&(20 + head as u16).to_be_bytes());
        bytes[18..20].copy_from_slice(&self.id.to_be_bytes());
        bytes[22] = self.ttl;
        bytes[23] = if self.tcp.is_some() { TCP } else { UDP };
        bytes[26..30].copy_from_slice(&self.src.0.octets());
        bytes[30..34].copy_from_slice(&self.dst.0.octets());
        let sum = !fold(add(0, &bytes[14..34]));
        bytes[24..26].copy_from_slice(&sum.to_be_bytes());
        bytes[34..36].copy_from_slice(&self.src.1.to_be_bytes());
        bytes[36..38].copy_from_slice(&self.dst.1.to_be_bytes());
        let checksum_at = match self.tcp {
            Some(words) => {
                bytes[38..42].copy_from_slice(&words.seq.to_be_bytes());
                bytes[42..46].copy_from_slice(&words.ack.to_be_bytes());
                bytes[46] = (head as u8 / 4) << 4;
                bytes[47] = words.flags;
                bytes[48..50].copy_from_slice(&0xffffu16.to_be_bytes());
                bytes[54..54 + options.len()].copy_from_slice(options);
                50
            }
            None => {
                bytes[38..40].copy_from_slice(&(head as u16).to_be_bytes());
                40
            }
        };
        let sum = !fold(add(pseudo(&bytes[14..34], head), &bytes[34..34 + head]));
        // A datagram's 0 would say that there is none (RFC 768).
        let sum = if sum == 0 && self.tcp.is_none() { 0xffff } else { sum };
        bytes[checksum_at..checksum_at + 2].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    /// What a packet says whose headers are all there; its checksums are right where all of it is.
    pub fn read(packet: &Record) -> anyhow::Result<Segment> {
        let be16 = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
        let be32 = |at: usize| u32::from(be16(at)) << 16 | u32::from(be16(at + 2));
        ensure!(packet[0] == 0x45, "an IPv4 header that begins with {:02x}", packet[0]);
        ensure!(fold(add(0, &packet[..20])) == 0xffff, "an IPv4 header's checksum");
        let body = usize::from(be16(2)).saturating_sub(20);
        if let Some(bytes) = packet.get(20..20 + body) {
            let sum = fold(add(pseudo(&packet[..20], body), bytes));
            ensure!(sum == 0xffff, "a transport checksum of {body} bytes");
        }
        let words = Words { seq: be32(24), ack: be32(28), flags: packet[33] };
        Ok(Segment {
            src: (be32(12).into(), be16(20)),
            dst: (be32(16).into(), be16(22)),
            id: be16(4),
            ttl: packet[8],
            tcp: (packet[9] == TCP).then_some(words),
        })
    }
}

/// The two fragments of a segment with twenty bytes of payload.
pub fn cut(segment: Segment) -> [Bytes; 2] {
    const FIRST_BYTES: usize = 24;
    const SECOND_BYTES: usize = 16;
    let whole = segment.frame(&[]);
    let piece = |bytes: usize, field: [u8; 2]| {
        let mut piece = whole;
        piece[16..18].copy_from_slice(&(20 + bytes as u16).to_be_bytes());
        piece[20..22].copy_from_slice(&field);
        sign_header(&mut piece);
        piece
    };
    // More fragments; then the rest, its place in units of eight bytes.
    let first = piece(FIRST_BYTES, [0x20, 0]);
    let mut second = piece(SECOND_BYTES, [0, FIRST_BYTES as u8 / 8]);
    second[34..].fill(0);
    [first, second]
}

/// "Host unreachable" (RFC 792) about a packet, from a router.
pub fn unreachable(about: &Segment) -> Vec<u8> {
    let quoted = &about.frame(&[])[14..14 + 28];
    let router = Segment { src: (Ipv4Addr::new(198, 18, 255, 254), 0), dst: about.src, ..*about };
    let body = [&[3, 1, 0, 0, 0, 0, 0, 0], quoted].concat();
    icmp(&router, &body)
}

/// An echo request to the director itself.
pub fn ping(to: Ipv4Addr, sequence: u16) -> Bytes {
    let [high, low] = sequence.to_be_bytes();
    let from = Ipv4Addr::new(198, 18, 255, 253);
    let words = Segment { src: (from, 0), dst: (to, 0), id: 0, ttl: 64, tcp: None };
    let frame = icmp(&words, &[8, 0, 0, 0, 0, 1, high, low]);
    let mut bytes = [0; FRAME_BYTES];
    bytes[..frame.len()].copy_from_slice(&frame);
    bytes
}

/// An ICMP packet with this body, but for its checksum.
fn icmp(between: &Segment, body: &[u8]) -> Vec<u8> {
    let mut frame = between.frame(&[])[..34].to_vec();
    frame[16..18].copy_from_slice(&(20 + body.len() as u16).to_be_bytes());
    frame[23] = 1;
    sign_header(&mut frame);
    frame.extend_from_slice(body);
    let sum = !fold(add(0, body));
    frame[36..38].copy_from_slice(&sum.to_be_bytes());
    frame
}

fn sign_header(frame: &mut [u8]) {
    frame[24..26].fill(0);
    let sum = !fold(add(0, &frame[14..34]));
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}

/// Sum of the pseudo header (RFC 9293 section 3.1, RFC 768) of an IP header and so many bytes.
fn pseudo(ip: &[u8], bytes: usize) -> u64 {
    add(u64::from(ip[9]) + bytes as u64, &ip[12..20])
}

fn add(sum: u64, bytes: &[u8]) -> u64 {
    let pairs = bytes.chunks(2);
    pairs.fold(sum, |sum, pair| {
        sum + (u64::from(pair[0]) << 8) + pair.get(1).map_or(0, |low| u64::from(*low))
    })
}

fn fold(mut sum: u64) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use gyre::wire::build::PacketBuilder;
    use gyre::wire::tcp::TcpFlags;

    #[test]
    fn what_is_written_is_what_gyres_builder_writes() {
        let (src, dst) = (Ipv4Addr::new(198, 18, 3, 4), Ipv4Addr::new(198, 19, 0, 1));
        let words = Words { seq: 0, ack: 0, flags: SYN };
        let own = Segment { src: (src, 1024), dst: (dst, 80), id: 0, ttl: 64, tcp: Some(words) };
        let theirs = PacketBuilder::new()
            .ethernet(CLIENT_MAC, DIRECTOR_MAC)
            .ip(src.into(), dst.into())
            .unwrap()
            .tcp(1024, 80)
            .flags(TcpFlags::SYN)
            .build();
        let own_bytes = own.frame(&[]);
        // Window and identification are each builder's own, and with them the checksums.
        assert_eq!(own_bytes[26..48], theirs[26..48]);
        let record: &Record = own_bytes[14..].first_chunk().unwrap();
        assert_eq!(Segment::read(record).unwrap(), own);
        let mut broken = *record;
        broken[39] ^= 1;
        assert!(Segment::read(&broken).is_err());
    }
}
