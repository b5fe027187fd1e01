//! TCP segments written into a frame's bytes, without allocating: what a client or a server says.

use std::net::{IpAddr, SocketAddr};

use gyre::wire::checksum::Sum;
use gyre::wire::ethernet::{EtherType, Ethernet, MacAddr};
use gyre::wire::ip::IpProtocol;
use gyre::wire::ipv4::{DONT_FRAGMENT, Ipv4};
use gyre::wire::ipv6::Ipv6;
use gyre::wire::tcp::{SeqNum, TCP_HEADER_BYTES, Tcp, TcpFlags};

/// The smallest Ethernet frame without FCS.
const FRAME_BYTES_MIN: usize = 60;
const TTL: u8 = 64;

/// Longest headers: Ethernet, IPv6, TCP.
pub const HEADERS_BYTES_MAX: usize = 14 + 40 + TCP_HEADER_BYTES;

/// One segment, headers without options.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    /// Source and destination MAC address.
    pub macs: (MacAddr, MacAddr),
    /// Who sends it.
    pub src: SocketAddr,
    /// Who gets it; of the same family.
    pub dst: SocketAddr,
    /// Sequence and acknowledgment.
    pub numbers: (u32, u32),
    /// Its flags.
    pub flags: TcpFlags,
    /// What it carries.
    pub payload: &'a [u8],
}

impl Segment<'_> {
    /// Writes it to the start of `frame` and returns its length with padding; `None` when it does
    /// not fit or the addresses are of two families.
    pub fn write(&self, frame: &mut [u8]) -> Option<usize> {
        let tcp_bytes = TCP_HEADER_BYTES + self.payload.len();
        let network_bytes = if self.src.is_ipv4() { 20 } else { 40 };
        let length = 14 + network_bytes + tcp_bytes;
        let padded = length.max(FRAME_BYTES_MIN);
        let frame = frame.get_mut(..padded)?;
        frame[length..].fill(0);
        let (mut ethernet, packet) = Ethernet::parse_mut(frame).ok()?;
        ethernet.set_src(self.macs.0);
        ethernet.set_dst(self.macs.1);
        let is_v4 = self.src.is_ipv4();
        ethernet.set_ether_type(if is_v4 { EtherType::IPV4 } else { EtherType::IPV6 });
        let (segment, pseudo) = self.write_network(packet, tcp_bytes)?;
        let segment = segment.get_mut(..tcp_bytes)?;
        segment[TCP_HEADER_BYTES..].copy_from_slice(self.payload);
        let (mut tcp, _) = Tcp::blank(segment).ok()?;
        tcp.set_src_port(self.src.port());
        tcp.set_dst_port(self.dst.port());
        tcp.set_sequence(SeqNum(self.numbers.0));
        tcp.set_acknowledgment(SeqNum(self.numbers.1));
        tcp.set_flags(self.flags);
        tcp.set_window(u16::MAX);
        let checksum = pseudo.add_bytes(segment).checksum();
        segment[16..18].copy_from_slice(&checksum.to_be_bytes());
        Some(padded)
    }

    /// Writes the IP header; what is behind it, and the pseudo header's sum.
    fn write_network<'p>(
        &self,
        packet: &'p mut [u8],
        tcp_bytes: usize,
    ) -> Option<(&'p mut [u8], Sum)> {
        match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let (mut ip, rest) = Ipv4::blank(packet).ok()?;
                ip.set_total_length((20 + tcp_bytes) as u16);
                ip.set_fragment_word(DONT_FRAGMENT);
                ip.set_ttl(TTL);
                ip.set_protocol(IpProtocol::TCP);
                ip.set_src(src);
                ip.set_dst(dst);
                let checksum = ip.compute_checksum(&[]);
                ip.set_checksum(checksum);
                Some((rest, Sum::pseudo_v4(src, dst, IpProtocol::TCP, tcp_bytes as u16)))
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let (mut ip, rest) = Ipv6::blank(packet).ok()?;
                ip.set_payload_length(tcp_bytes as u16);
                ip.set_next_header(IpProtocol::TCP);
                ip.set_hop_limit(TTL);
                ip.set_src(src);
                ip.set_dst(dst);
                Some((rest, Sum::pseudo_v6(src, dst, IpProtocol::TCP, tcp_bytes as u32)))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gyre::wire::build::PacketBuilder;

    #[test]
    fn segments_are_those_of_the_packet_builder_byte_for_byte() {
        let macs = (MacAddr([2; 6]), MacAddr([4; 6]));
        for (src, dst) in
            [("198.18.0.2:1024", "198.19.0.1:80"), ("[2001:2::2]:1024", "[2001:2::1]:80")]
        {
            let (src, dst): (SocketAddr, SocketAddr) = (src.parse().unwrap(), dst.parse().unwrap());
            for payload in [&b""[..], b"abc", &[7; 1400]] {
                let flags = TcpFlags::ACK | TcpFlags::PSH;
                let segment = Segment { macs, src, dst, numbers: (7, 0xfedc_ba98), flags, payload };
                let mut frame = [0xaa; 1514];
                let length = segment.write(&mut frame).unwrap();
                let link = PacketBuilder::new().ethernet(macs.0, macs.1);
                let network = match (src.ip(), dst.ip()) {
                    (IpAddr::V4(src), IpAddr::V4(dst)) => link.ipv4(src, dst).dont_fragment(),
                    (src, dst) => link.ip(src, dst).unwrap(),
                };
                let tcp = network.tcp(1024, 80).seq(7).ack(0xfedc_ba98).flags(flags);
                let mut expected = tcp.window(u16::MAX).payload(payload).build().to_vec();
                expected.resize(expected.len().max(60), 0);
                assert_eq!(frame[..length], expected);
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_not_written() {
        let macs = (MacAddr([2; 6]), MacAddr([4; 6]));
        let (src, dst) = ("198.18.0.2:1".parse().unwrap(), "198.19.0.1:80".parse().unwrap());
        let flags = TcpFlags::SYN;
        let segment = Segment { macs, src, dst, numbers: (0, 0), flags, payload: &[0; 50] };
        assert_eq!(segment.write(&mut [0; 103]), None);
        assert_eq!(segment.write(&mut [0; 104]), Some(104));
    }
}
