//! Links: what a frame is to the ends, fragments, tunnels, and errors of routers.
//!
//! Fragments and tunnels are read by the bytes, not with the views that wrote them.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use gyre::model::*;
use gyre::wire::build::PacketBuilder;
use gyre::wire::checksum::Sum;
use gyre::wire::ethernet::MacAddr;
use gyre::wire::ip::{Fragment, IpProtocol};
use gyre::wire::ipv4::Ipv4;
use gyre::wire::ipv6::Ipv6;
use gyre::wire::udp::Udp;

use crate::plan::{OUTER, Random};
use crate::segment::Segment;
use crate::support::*;

/// What a frame is, as far as ends see it.
#[derive(Debug)]
pub enum Heard {
    Tcp(Box<Segment>),
    /// Source, destination, payload.
    Udp((IpAddr, u16), (IpAddr, u16), Vec<u8>),
    /// "Port unreachable" about a packet from there.
    Unreachable((IpAddr, u16)),
    /// Another ICMP error: from whom to whom, about a packet from there to there.
    Error([IpAddr; 2], [(IpAddr, u16); 2]),
}

/// Reads a frame that the director sent, every length and checksum checked.
pub fn hear(frame: &[u8]) -> Heard {
    let l3 = &frame[14..];
    let (src, dst, protocol, body): (IpAddr, IpAddr, _, _) = if l3[0] >> 4 == 4 {
        let (ip, options, body) = Ipv4::parse_with_options(l3).unwrap();
        ip.verify_checksum(options).unwrap();
        (ip.src().into(), ip.dst().into(), ip.protocol(), body)
    } else {
        let (ip, body) = Ipv6::parse(l3).unwrap();
        (ip.src().into(), ip.dst().into(), ip.next_header(), body)
    };
    match protocol {
        IpProtocol::TCP => Heard::Tcp(Box::new(Segment::read(frame))),
        IpProtocol::UDP => {
            let pseudo = match (src, dst) {
                (IpAddr::V4(src), IpAddr::V4(dst)) => {
                    Sum::pseudo_v4(src, dst, protocol, body.len() as u16)
                }
                (IpAddr::V6(src), IpAddr::V6(dst)) => {
                    Sum::pseudo_v6(src, dst, protocol, body.len() as u32)
                }
                mixed => panic!("{mixed:?}"),
            };
            assert!(pseudo.add_bytes(body).holds(), "UDP checksum");
            let (udp, payload) = Udp::parse(body).unwrap();
            Heard::Udp((src, udp.src_port()), (dst, udp.dst_port()), payload.to_vec())
        }
        _ => {
            let quoted = quoted(&body[8..]);
            match (body[0], body[1]) {
                (3, 3) | (1, 4) => Heard::Unreachable(quoted[0]),
                _ => Heard::Error([src, dst], quoted),
            }
        }
    }
}

/// Source and destination of a quoted packet.
fn quoted(packet: &[u8]) -> [(IpAddr, u16); 2] {
    let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    if packet[0] >> 4 == 4 {
        let address = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&packet[at..at + 4]).unwrap());
        [(address(12), port(20)), (address(16), port(22))]
    } else {
        let address = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).unwrap());
        // A piece's come behind the fragment header.
        let start = if packet[6] == 44 { 48 } else { 40 };
        [(address(8), port(start)), (address(24), port(start + 2))]
    }
}

/// An ICMP error about a packet that reached `nic`'s side, from a router or from its receiver.
pub fn complain(frame: &[u8], nic: NicId, random: &mut Random) -> Vec<u8> {
    let packet = &frame[14..];
    let [(src, _), (dst, _)] = quoted(packet);
    let router: IpAddr = match (nic, src) {
        (CLIENT, IpAddr::V4(_)) => [192, 0, 2, 1].into(),
        (_, IpAddr::V4(_)) => [10, 2, 0, 99].into(),
        (CLIENT, _) => [0xfd00, 0xf, 0, 0, 0, 0, 0, 1].into(),
        (_, IpAddr::V6(_)) => [0xfd00, 2, 0, 0, 0, 0, 0, 0x63].into(),
    };
    let from = if random.one_in(2) { router } else { dst };
    let error = if nic == CLIENT { from_client(from, src) } else { from_server(from, src) };
    let packet = &packet[..packet.len().min(500)];
    let error = match random.below(2) {
        0 => error.time_exceeded(packet),
        _ => error.too_big(1300, packet),
    };
    error.build().to_vec()
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// What names a datagram: source, destination, identification.
pub type DatagramId = (IpAddr, IpAddr, u32);

/// A packet by its bytes.
pub struct Piece {
    pub id: DatagramId,
    pub offset: u16,
    pub more: bool,
    /// Protocol of the whole.
    pub protocol: u8,
    pub body: Vec<u8>,
}

/// The packet of a frame as a piece of a datagram; the whole is a piece with nothing missing.
pub fn piece(frame: &[u8]) -> Piece {
    let ip = &frame[14..];
    if ip[0] >> 4 == 4 {
        let address = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&ip[at..at + 4]).unwrap());
        let (place, header) = (word(ip, 6), usize::from(ip[0] & 15) * 4);
        return Piece {
            id: (address(12), address(16), u32::from(word(ip, 4))),
            offset: (place & 0x1fff) * 8,
            more: place & 0x2000 != 0,
            protocol: ip[9],
            body: ip[header..usize::from(word(ip, 2))].to_vec(),
        };
    }
    let address = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&ip[at..at + 16]).unwrap());
    let (src, dst, end) = (address(8), address(24), 40 + usize::from(word(ip, 4)));
    if ip[6] != 44 {
        let (protocol, body) = (ip[6], ip[40..end].to_vec());
        return Piece { id: (src, dst, 0), offset: 0, more: false, protocol, body };
    }
    let id = u32::from(word(ip, 44)) << 16 | u32::from(word(ip, 46));
    Piece {
        id: (src, dst, id),
        offset: word(ip, 42) & 0xfff8,
        more: word(ip, 42) & 1 != 0,
        protocol: ip[40],
        body: ip[48..end].to_vec(),
    }
}

impl Piece {
    pub fn is_fragment(&self) -> bool {
        self.more || self.offset > 0
    }
}

fn macs(frame: &[u8]) -> (MacAddr, MacAddr) {
    let mac = |at: usize| MacAddr(frame[at..at + 6].try_into().unwrap());
    (mac(6), mac(0))
}

/// A frame that carries this packet between the stations of `like`.
fn frame_with(like: &[u8], (src, dst): (IpAddr, IpAddr), protocol: u8, body: &[u8]) -> Vec<u8> {
    let (from, to) = macs(like);
    let packet = PacketBuilder::new().ethernet(from, to).ip(src, dst).unwrap();
    packet.raw(IpProtocol(protocol), body).to_vec()
}

/// Cuts a large datagram into pieces, in any order; what is small stays whole.
pub fn cut(frame: Vec<u8>, id: u32, random: &mut Random) -> Vec<Vec<u8>> {
    const BYTES_MAX: usize = 1100;
    let whole = piece(&frame);
    if whole.protocol != 17 || whole.body.len() <= BYTES_MAX {
        return vec![frame];
    }
    let size = random.pick(&[400, 800, 1096]);
    let (from, to) = macs(&frame);
    let mut pieces = Vec::new();
    for (at, body) in whole.body.chunks(size).enumerate() {
        let offset_bytes = (at * size) as u16;
        let more = at * size + body.len() < whole.body.len();
        let packet = PacketBuilder::new().ethernet(from, to).ip(whole.id.0, whole.id.1).unwrap();
        let packet = packet.fragment(Fragment { id, offset_bytes, more });
        pieces.push(packet.raw(IpProtocol(whole.protocol), body).to_vec());
    }
    random.shuffle(&mut pieces);
    pieces
}

/// Pieces that have come so far: by place, body and whether more follows.
#[derive(Default)]
pub struct Reassembly(HashMap<DatagramId, BTreeMap<u16, (Vec<u8>, bool)>>);

impl Reassembly {
    /// Takes a frame; gives it back when it is whole, or the whole that it completes.
    pub fn take(&mut self, frame: Vec<u8>) -> Option<Vec<u8>> {
        let new = piece(&frame);
        if !new.is_fragment() {
            return Some(frame);
        }
        let pieces = self.0.entry(new.id).or_default();
        pieces.insert(new.offset, (new.body, new.more));
        let mut whole = Vec::new();
        for (offset, (body, _)) in pieces.iter() {
            if usize::from(*offset) != whole.len() {
                return None;
            }
            whole.extend_from_slice(body);
        }
        if pieces.last_key_value().is_some_and(|(_, (_, more))| *more) {
            return None;
        }
        self.0.remove(&new.id);
        Some(frame_with(&frame, (new.id.0, new.id.1), new.protocol, &whole))
    }
}

/// Takes a tunnel's outer headers off, if there are any.
pub fn decapsulate(frame: Vec<u8>) -> Vec<u8> {
    let outer = piece(&frame);
    if !OUTER.iter().any(|own| outer.id.0 == own.parse::<IpAddr>().unwrap()) {
        return frame;
    }
    let inner = match outer.protocol {
        4 | 41 => &outer.body[..],
        // RFC 2784: a checksum makes the header four bytes longer.
        47 => &outer.body[if outer.body[0] & 0x80 != 0 { 8 } else { 4 }..],
        // UDP, then GUE's header with its length in words behind the first four bytes.
        17 => &outer.body[8 + 4 + usize::from(outer.body[8] & 0x1f) * 4..],
        other => panic!("what is protocol {other} between tunnel ends?"),
    };
    let mut bare = frame[..12].to_vec();
    bare.extend(if inner[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] });
    bare.extend_from_slice(inner);
    bare
}
