//! Frames to send: templates that are stamped with client, sequence and time, checksums right.
//!
//! A template is summed once; a frame costs a copy and a dozen additions. The stamp is the first
//! [`STAMP_BYTES`] of the payload. Reading stamps back is `incoming`'s.

use std::net::{IpAddr, SocketAddr};

use gyre::wire::build::PacketBuilder;
use gyre::wire::checksum::Sum;
use gyre::wire::ethernet::MacAddr;
use gyre::wire::ip::IpProtocol;
use gyre::wire::tcp::TcpFlags;

use super::clients::{Client, address};
use super::sizes::{FRAME_BYTES_MIN, SizeMix};

/// Opens every stamp.
pub const MAGIC: [u8; 4] = *b"gyPG";
/// Magic, stream id (16 bits), sequence (32), time in nanoseconds (64), big-endian: as much as
/// the smallest Ethernet frame has room for behind IPv4 and UDP.
pub const STAMP_BYTES: usize = 18;
/// Of the frame check sequence, which sizes count and frames in memory do not have.
pub const FCS_BYTES: u16 = 4;

const ETHERNET_BYTES: usize = 14;
const TCP_WINDOW: u16 = 0xffff;

/// UDP or TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// Segments.
    Tcp,
}

/// What a frame of traffic says besides its clients' addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// The sender's MAC address.
    pub src_mac: MacAddr,
    /// The next hop's.
    pub dst_mac: MacAddr,
    /// Where traffic goes.
    pub service: SocketAddr,
    /// UDP or TCP.
    pub transport: Transport,
}

/// A frame smaller than its headers and stamp.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "frames of {size} bytes are too small for a stamp behind {headers}: {least} bytes at least; \
     raise --size or leave it away for the least"
)]
pub struct TooSmall {
    size: u16,
    headers: &'static str,
    least: u16,
}

/// What distinguishes a frame from all others of a trial.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// Of the trial.
    pub stream: u16,
    /// Within the trial, from 0; only the low 32 bits go along.
    pub sequence: u32,
    /// When it was sent, in nanoseconds of the sender's clock.
    pub sent_ns: u64,
}

impl Stamp {
    /// As it lies in the payload.
    pub fn bytes(&self) -> [u8; STAMP_BYTES] {
        let mut bytes = [0; STAMP_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&self.stream.to_be_bytes());
        bytes[6..10].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[10..].copy_from_slice(&self.sent_ns.to_be_bytes());
        bytes
    }

    /// Reads a payload; `None` when it is none of ours.
    pub fn read(payload: &[u8]) -> Option<Stamp> {
        let bytes: &[u8; STAMP_BYTES] = payload.first_chunk()?;
        let [_, _, _, _, a, b, c, d, e, f, time @ ..] = *bytes;
        (bytes[..4] == MAGIC).then_some(Stamp {
            stream: u16::from_be_bytes([a, b]),
            sequence: u32::from_be_bytes([c, d, e, f]),
            sent_ns: u64::from_be_bytes(time),
        })
    }
}

/// The smallest frame, FCS included, that carries a stamp towards `service`.
pub fn frame_bytes_min(service: SocketAddr, transport: Transport) -> u16 {
    let least = ETHERNET_BYTES + header_bytes(service, transport) + STAMP_BYTES;
    (least as u16 + FCS_BYTES).max(FRAME_BYTES_MIN)
}

fn header_bytes(service: SocketAddr, transport: Transport) -> usize {
    let network = if service.is_ipv4() { 20 } else { 40 };
    network + if transport == Transport::Udp { 8 } else { 20 }
}

fn headers_name(service: SocketAddr, transport: Transport) -> &'static str {
    match (service.is_ipv4(), transport) {
        (true, Transport::Udp) => "UDP and IPv4",
        (true, Transport::Tcp) => "TCP and IPv4",
        (false, Transport::Udp) => "UDP and IPv6",
        (false, Transport::Tcp) => "TCP and IPv6",
    }
}

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// A stamp, and zeros up to the frame's size. TCP: an established connection's segment.
    Stamped,
    /// A bare TCP segment with these flags, padded to the smallest frame.
    Bare(TcpFlags),
}

/// One frame, complete but for client and stamp.
#[derive(Clone, Debug)]
pub struct Template {
    bytes: Vec<u8>,
    is_ipv4: bool,
    /// Where the transport header starts.
    transport_at: usize,
    /// Where its checksum stands.
    checksum_at: usize,
    /// Where the stamp goes; `None` without one.
    stamp_at: Option<usize>,
    network_sum: Sum,
    transport_sum: Sum,
    is_udp: bool,
}

impl Template {
    /// A frame of `frame_bytes` with FCS.
    pub fn new(path: &Path, content: Content, frame_bytes: u16) -> Result<Self, TooSmall> {
        let is_ipv4 = path.service.is_ipv4();
        let transport_at = ETHERNET_BYTES + if is_ipv4 { 20 } else { 40 };
        let headers = ETHERNET_BYTES + header_bytes(path.service, path.transport);
        let stamp_at = (content == Content::Stamped).then_some(headers);
        let least = frame_bytes_min(path.service, path.transport);
        if stamp_at.is_some() && frame_bytes < least {
            let headers = headers_name(path.service, path.transport);
            return Err(TooSmall { size: frame_bytes, headers, least });
        }
        let length = usize::from(frame_bytes - FCS_BYTES);
        let bytes = blank(path, content, length);
        let is_udp = path.transport == Transport::Udp;
        let checksum_at = transport_at + if is_udp { 6 } else { 16 };
        let mut template = Template {
            network_sum: Sum::new().add_bytes(&bytes[ETHERNET_BYTES..transport_at]),
            transport_sum: transport_sum(path, &bytes, transport_at),
            bytes,
            is_ipv4,
            transport_at,
            checksum_at,
            stamp_at,
            is_udp,
        };
        // Padding behind a bare segment belongs to no checksum.
        template.bytes.resize(length.max(template.bytes.len()), 0);
        Ok(template)
    }

    /// Length in memory, so without FCS.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Writes the frame into `frame`, which is [`Template::len`] long.
    pub fn write(&self, frame: &mut [u8], client: Client, stamp: Stamp) {
        frame.copy_from_slice(&self.bytes);
        let source = client.address.to_be_bytes();
        let port = client.src_port;
        let address = if self.is_ipv4 { &source[12..] } else { &source[..] };
        let address_at = if self.is_ipv4 { 26 } else { 22 };
        frame[address_at..address_at + address.len()].copy_from_slice(address);
        frame[self.transport_at..self.transport_at + 2].copy_from_slice(&port.to_be_bytes());
        let mut sum = self.transport_sum.add_bytes(address).add_u16(port);
        if let Some(at) = self.stamp_at {
            let bytes = stamp.bytes();
            frame[at..at + STAMP_BYTES].copy_from_slice(&bytes);
            sum = sum.add_bytes(&bytes);
        }
        if self.is_ipv4 {
            put(frame, 24, self.network_sum.add_bytes(address).checksum());
        }
        let checksum = match sum.checksum() {
            // Zero says "none" in UDP (RFC 768).
            0 if self.is_udp => 0xffff,
            checksum => checksum,
        };
        put(frame, self.checksum_at, checksum);
    }
}

fn put(frame: &mut [u8], at: usize, value: u16) {
    frame[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// The frame with all that varies at zero: source, stamp and checksums.
fn blank(path: &Path, content: Content, length: usize) -> Vec<u8> {
    let headers = ETHERNET_BYTES + header_bytes(path.service, path.transport);
    let payload = match content {
        Content::Stamped => vec![0; length.saturating_sub(headers)],
        Content::Bare(_) => Vec::new(),
    };
    let nobody = address(path.service.ip(), 0);
    let link = PacketBuilder::new().ethernet(path.src_mac, path.dst_mac);
    let network = match (nobody, path.service.ip()) {
        (IpAddr::V6(src), IpAddr::V6(dst)) => link.ipv6(src, dst),
        (IpAddr::V4(src), IpAddr::V4(dst)) => link.ipv4(src, dst).dont_fragment(),
        // `address` keeps the family.
        _ => unreachable!("addresses of two families"),
    };
    let dst_port = path.service.port();
    let flags = match content {
        Content::Bare(flags) => flags,
        Content::Stamped => TcpFlags::ACK | TcpFlags::PSH,
    };
    let frame = match path.transport {
        Transport::Udp => network.udp(0, dst_port).payload(&payload).build(),
        Transport::Tcp => {
            let number = u32::from(!flags.contains(TcpFlags::SYN));
            let segment = network.tcp(0, dst_port).flags(flags).seq(number).ack(number);
            segment.window(TCP_WINDOW).payload(&payload).build()
        }
    };
    let mut frame = frame.to_vec();
    let transport_at = headers - if path.transport == Transport::Udp { 8 } else { 20 };
    if path.service.is_ipv4() {
        put(&mut frame, 24, 0);
    }
    let checksum = if path.transport == Transport::Udp { 6 } else { 16 };
    put(&mut frame, transport_at + checksum, 0);
    frame
}

fn transport_sum(path: &Path, bytes: &[u8], transport_at: usize) -> Sum {
    let protocol = match path.transport {
        Transport::Udp => IpProtocol::UDP,
        Transport::Tcp => IpProtocol::TCP,
    };
    let segment = &bytes[transport_at..];
    let length = segment.len();
    let pseudo = match (address(path.service.ip(), 0), path.service.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => Sum::pseudo_v4(src, dst, protocol, length as u16),
        (IpAddr::V6(src), IpAddr::V6(dst)) => Sum::pseudo_v6(src, dst, protocol, length as u32),
        _ => unreachable!("addresses of two families"),
    };
    pseudo.add_bytes(segment)
}

/// Templates of a mix, in the order of its pattern.
#[derive(Clone, Debug)]
pub struct Templates {
    templates: Vec<Template>,
    pattern: Vec<u8>,
}

impl Templates {
    /// One template for each size of `mix`.
    pub fn new(path: &Path, mix: &SizeMix) -> Result<Self, TooSmall> {
        let template = |size| Template::new(path, Content::Stamped, size);
        let templates: Result<Vec<_>, _> = mix.sizes().into_iter().map(template).collect();
        Ok(Templates { templates: templates?, pattern: mix.pattern() })
    }

    /// The same bare segment for every frame.
    pub fn bare(path: &Path, flags: TcpFlags) -> Result<Self, TooSmall> {
        let template = Template::new(path, Content::Bare(flags), FRAME_BYTES_MIN)?;
        Ok(Templates { templates: vec![template], pattern: vec![0] })
    }

    /// The template of the frame with this sequence number.
    pub fn of(&self, sequence: u64) -> &Template {
        let at = match self.pattern.len() {
            1 => 0,
            len => (sequence % len as u64) as usize,
        };
        &self.templates[usize::from(self.pattern[at])]
    }
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
