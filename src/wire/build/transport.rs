//! The builder's last step: TCP, UDP or ICMP behind an IP header, and their checksums.

use bytes::{BufMut, BytesMut};

use super::{Addresses, IpBuilder, spoil, store};
use crate::wire::checksum::Sum;
use crate::wire::ip::IpProtocol;
use crate::wire::tcp::{TcpFlags, TcpOption, kind};

/// TCP window unless set.
const WINDOW_DEFAULT: u16 = 64_240;

/// Goes on with TCP.
#[derive(Clone, Debug)]
pub struct TcpBuilder {
    ip: IpBuilder,
    ports: (u16, u16),
    numbers: (u32, u32),
    flags: TcpFlags,
    window: u16,
    options: Vec<u8>,
    payload: Vec<u8>,
    spoil_checksum: bool,
}

impl TcpBuilder {
    pub(super) fn new(ip: IpBuilder, src_port: u16, dst_port: u16) -> Self {
        TcpBuilder {
            ip,
            ports: (src_port, dst_port),
            numbers: (0, 0),
            flags: TcpFlags::NONE,
            window: WINDOW_DEFAULT,
            options: Vec::new(),
            payload: Vec::new(),
            spoil_checksum: false,
        }
    }

    /// Sequence number.
    pub fn seq(mut self, sequence: u32) -> Self {
        self.numbers.0 = sequence;
        self
    }

    /// Acknowledgment number; the flag is for `flags` to set.
    pub fn ack(mut self, acknowledgment: u32) -> Self {
        self.numbers.1 = acknowledgment;
        self
    }

    /// Control bits.
    pub fn flags(mut self, flags: TcpFlags) -> Self {
        self.flags = flags;
        self
    }

    /// Window, before scaling; 64,240 unless set.
    pub fn window(mut self, window: u16) -> Self {
        self.window = window;
        self
    }

    /// One more option; NOPs fill the last word.
    pub fn option(mut self, option: TcpOption<'_>) -> Self {
        put_option(&mut self.options, option);
        self
    }

    /// Selective acknowledgment of blocks (left edge, right edge).
    pub fn sack(mut self, blocks: &[(u32, u32)]) -> Self {
        self.options.put_slice(&[kind::SACK, (2 + 8 * blocks.len()) as u8]);
        for (left, right) in blocks {
            self.options.put_u32(*left);
            self.options.put_u32(*right);
        }
        self
    }

    /// Option bytes as they are, well formed or not.
    pub fn raw_options(mut self, bytes: &[u8]) -> Self {
        self.options.put_slice(bytes);
        self
    }

    /// What the segment carries.
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// Spoils the TCP checksum.
    pub fn bad_checksum(mut self) -> Self {
        self.spoil_checksum = true;
        self
    }

    /// The packet.
    pub fn build(&self) -> BytesMut {
        let mut segment = Vec::new();
        segment.put_u16(self.ports.0);
        segment.put_u16(self.ports.1);
        segment.put_u32(self.numbers.0);
        segment.put_u32(self.numbers.1);
        let options_bytes = self.options.len().next_multiple_of(4);
        segment.put_u8(((20 + options_bytes) / 4 * 16) as u8);
        segment.put_u8(self.flags.0);
        segment.put_u16(self.window);
        segment.put_u32(0);
        segment.put_slice(&self.options);
        segment.put_bytes(kind::NOP, options_bytes - self.options.len());
        segment.put_slice(&self.payload);
        let sum = self.ip.pseudo_header(IpProtocol::TCP, segment.len()).add_bytes(&segment);
        store(&mut segment, 16, spoil(sum.checksum(), self.spoil_checksum));
        self.ip.raw(IpProtocol::TCP, &segment)
    }
}

/// What to write in a UDP checksum field.
#[derive(Clone, Copy, Debug)]
enum UdpChecksum {
    Right,
    None,
    Wrong,
}

/// Goes on with UDP.
#[derive(Clone, Debug)]
pub struct UdpBuilder {
    ip: IpBuilder,
    ports: (u16, u16),
    payload: Vec<u8>,
    checksum: UdpChecksum,
}

impl UdpBuilder {
    pub(super) fn new(ip: IpBuilder, src_port: u16, dst_port: u16) -> Self {
        let ports = (src_port, dst_port);
        UdpBuilder { ip, ports, payload: Vec::new(), checksum: UdpChecksum::Right }
    }

    /// What the datagram carries.
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// Leaves the checksum 0: "none".
    pub fn no_checksum(mut self) -> Self {
        self.checksum = UdpChecksum::None;
        self
    }

    /// Spoils the checksum.
    pub fn bad_checksum(mut self) -> Self {
        self.checksum = UdpChecksum::Wrong;
        self
    }

    /// The packet.
    pub fn build(&self) -> BytesMut {
        let mut datagram = Vec::new();
        datagram.put_u16(self.ports.0);
        datagram.put_u16(self.ports.1);
        datagram.put_u16((8 + self.payload.len()) as u16);
        datagram.put_u16(0);
        datagram.put_slice(&self.payload);
        let sum = self.ip.pseudo_header(IpProtocol::UDP, datagram.len()).add_bytes(&datagram);
        let checksum = match self.checksum {
            UdpChecksum::Right => sum.udp_checksum(),
            UdpChecksum::None => 0,
            UdpChecksum::Wrong => spoil(sum.udp_checksum(), true),
        };
        store(&mut datagram, 6, checksum);
        self.ip.raw(IpProtocol::UDP, &datagram)
    }
}

/// Goes on with ICMP or ICMPv6, whichever the network header asks for.
#[derive(Clone, Debug)]
pub struct IcmpBuilder {
    ip: IpBuilder,
    message: Vec<u8>,
    spoil_checksum: bool,
}

impl IcmpBuilder {
    pub(super) fn new(ip: IpBuilder, message: Vec<u8>) -> Self {
        IcmpBuilder { ip, message, spoil_checksum: false }
    }

    /// More bytes behind the header: echo data, or the packet an error is about.
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.message.put_slice(payload);
        self
    }

    /// Spoils the checksum.
    pub fn bad_checksum(mut self) -> Self {
        self.spoil_checksum = true;
        self
    }

    /// The packet.
    pub fn build(&self) -> BytesMut {
        let (protocol, sum) = match self.ip.addresses {
            Addresses::V4(..) => (IpProtocol::ICMP, Sum::new()),
            Addresses::V6(..) => {
                let sum = self.ip.pseudo_header(IpProtocol::ICMPV6, self.message.len());
                (IpProtocol::ICMPV6, sum)
            }
        };
        let mut message = self.message.clone();
        let checksum = sum.add_bytes(&message).checksum();
        store(&mut message, 2, spoil(checksum, self.spoil_checksum));
        self.ip.raw(protocol, &message)
    }
}

fn put_option(out: &mut Vec<u8>, option: TcpOption<'_>) {
    match option {
        TcpOption::Nop => out.put_u8(kind::NOP),
        TcpOption::Mss(bytes) => {
            out.put_slice(&[kind::MSS, 4]);
            out.put_u16(bytes);
        }
        TcpOption::WindowScale(shift) => out.put_slice(&[kind::WINDOW_SCALE, 3, shift]),
        TcpOption::SackPermitted => out.put_slice(&[kind::SACK_PERMITTED, 2]),
        TcpOption::Sack(blocks) => {
            out.put_slice(&[kind::SACK, (2 + 8 * blocks.iter().count()) as u8]);
            for (left, right) in blocks.iter() {
                out.put_u32(left.0);
                out.put_u32(right.0);
            }
        }
        TcpOption::Timestamps { value, echo } => {
            out.put_slice(&[kind::TIMESTAMPS, 10]);
            out.put_u32(value);
            out.put_u32(echo);
        }
        TcpOption::Other { kind, data } => {
            out.put_slice(&[kind, (2 + data.len()) as u8]);
            out.put_slice(data);
        }
    }
}
