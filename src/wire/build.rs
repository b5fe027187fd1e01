//! Whole packets written from scratch, for tests and for what control sends. Checksums and lengths
//! are right unless asked to be wrong. It allocates, so nothing under `process_burst` uses it: the
//! packet path writes its few replies with the views' `blank`.
//!
//! Each layer's method gives the builder of the next, so a packet without a network header does
//! not compile. Without `ethernet` the result is a bare IP packet, as an ICMP error quotes it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::{BufMut, BytesMut};

use super::arp::ArpOperation;
use super::checksum::Sum;
use super::ethernet::{EtherType, MacAddr};
use super::icmp::{self, IcmpType};
use super::icmpv6::{self, Icmpv6Type};
use super::ip::{Fragment, IpProtocol};
use super::ipv4;

mod transport;

pub use transport::{IcmpBuilder, TcpBuilder, UdpBuilder};

/// TTL or hop limit unless set.
const TTL_DEFAULT: u8 = 64;

/// Addresses of a packet: one family or the other, never mixed.
#[derive(Clone, Copy, Debug)]
enum Addresses {
    V4(Ipv4Addr, Ipv4Addr),
    V6(Ipv6Addr, Ipv6Addr),
}

/// Starts a packet at its link layer.
#[derive(Clone, Debug, Default)]
pub struct PacketBuilder {
    macs: Option<(MacAddr, MacAddr)>,
    vlans: Vec<u16>,
    padding_bytes: usize,
}

impl PacketBuilder {
    /// A packet without a link header so far.
    pub fn new() -> Self {
        Self::default()
    }

    /// An Ethernet header from `src` to `dst`.
    pub fn ethernet(mut self, src: MacAddr, dst: MacAddr) -> Self {
        self.macs = Some((src, dst));
        self
    }

    /// An 802.1Q tag; a second call puts another one inside it. Needs `ethernet`.
    pub fn vlan(mut self, control: u16) -> Self {
        self.vlans.push(control);
        self
    }

    /// Zeros behind the network packet, as short Ethernet frames have.
    pub fn padding(mut self, bytes: usize) -> Self {
        self.padding_bytes = bytes;
        self
    }

    /// An IPv4 header.
    pub fn ipv4(self, src: Ipv4Addr, dst: Ipv4Addr) -> IpBuilder {
        IpBuilder::new(self, Addresses::V4(src, dst))
    }

    /// An IPv6 header.
    pub fn ipv6(self, src: Ipv6Addr, dst: Ipv6Addr) -> IpBuilder {
        IpBuilder::new(self, Addresses::V6(src, dst))
    }

    /// A header of the addresses' family; none when they are of two.
    pub fn ip(self, src: IpAddr, dst: IpAddr) -> Option<IpBuilder> {
        match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => Some(self.ipv4(src, dst)),
            (IpAddr::V6(src), IpAddr::V6(dst)) => Some(self.ipv6(src, dst)),
            _ => None,
        }
    }

    /// An ARP message between (hardware, protocol) addresses.
    pub fn arp(
        &self,
        operation: ArpOperation,
        sender: (MacAddr, Ipv4Addr),
        target: (MacAddr, Ipv4Addr),
    ) -> BytesMut {
        let mut message = Vec::new();
        message.put_slice(&[0, 1, 0x08, 0x00, 6, 4]);
        message.put_u16(operation.0);
        for (mac, ip) in [sender, target] {
            message.put_slice(&mac.0);
            message.put_slice(&ip.octets());
        }
        self.raw(EtherType::ARP, &message)
    }

    /// Any bytes behind the link header.
    pub fn raw(&self, ether_type: EtherType, payload: &[u8]) -> BytesMut {
        let mut frame = BytesMut::new();
        if let Some((src, dst)) = self.macs {
            frame.put_slice(&dst.0);
            frame.put_slice(&src.0);
            for control in &self.vlans {
                frame.put_u16(EtherType::VLAN.0);
                frame.put_u16(*control);
            }
            frame.put_u16(ether_type.0);
        }
        frame.put_slice(payload);
        frame.put_bytes(0, self.padding_bytes);
        frame
    }
}

/// Goes on with the network layer.
#[derive(Clone, Debug)]
pub struct IpBuilder {
    link: PacketBuilder,
    addresses: Addresses,
    ttl: u8,
    tos: u8,
    id: u16,
    dont_fragment: bool,
    fragment: Option<Fragment>,
    ipv4_options: Vec<u8>,
    extensions: Vec<(IpProtocol, Vec<u8>)>,
    length: Option<u16>,
    spoil_checksum: bool,
}

impl IpBuilder {
    fn new(link: PacketBuilder, addresses: Addresses) -> Self {
        IpBuilder {
            link,
            addresses,
            ttl: TTL_DEFAULT,
            tos: 0,
            id: 0,
            dont_fragment: false,
            fragment: None,
            ipv4_options: Vec::new(),
            extensions: Vec::new(),
            length: None,
            spoil_checksum: false,
        }
    }

    /// TTL or hop limit; 64 unless set.
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    /// Type of service or traffic class.
    pub fn tos(mut self, tos: u8) -> Self {
        self.tos = tos;
        self
    }

    /// IPv4 identification.
    pub fn id(mut self, id: u16) -> Self {
        self.id = id;
        self
    }

    /// IPv4 "do not fragment".
    pub fn dont_fragment(mut self) -> Self {
        self.dont_fragment = true;
        self
    }

    /// Makes it a fragment: in IPv6 by a fragment header behind the extensions so far.
    pub fn fragment(mut self, fragment: Fragment) -> Self {
        if matches!(self.addresses, Addresses::V6(..)) {
            let word = fragment.offset_bytes & 0xfff8 | u16::from(fragment.more);
            let mut header = vec![0, 0];
            header.put_u16(word);
            header.put_u32(fragment.id);
            self.extensions.push((IpProtocol::FRAGMENT, header));
        } else {
            self.id = fragment.id as u16;
            self.fragment = Some(fragment);
        }
        self
    }

    /// IPv4 options: as many bytes as IHL can say, 40 at most, in fours.
    pub fn ipv4_options(mut self, options: &[u8]) -> Self {
        self.ipv4_options = options.to_vec();
        self
    }

    /// An IPv6 extension header of `kind`: `body` is what follows its two bytes of next header and
    /// length, padded with zeros to eight bytes in all.
    pub fn extension(mut self, kind: IpProtocol, body: &[u8]) -> Self {
        let mut header = vec![0, 0];
        header.put_slice(body);
        header.resize(header.len().next_multiple_of(8), 0);
        header[1] = (header.len() / 8 - 1) as u8;
        self.extensions.push((kind, header));
        self
    }

    /// Claims this total length (IPv4) or payload length (IPv6), in bytes, whatever is true.
    pub fn claim_length(mut self, bytes: u16) -> Self {
        self.length = Some(bytes);
        self
    }

    /// Spoils the IPv4 header checksum; IPv6 has none.
    pub fn bad_ip_checksum(mut self) -> Self {
        self.spoil_checksum = true;
        self
    }

    /// A TCP header: no flags, sequence 0.
    pub fn tcp(self, src_port: u16, dst_port: u16) -> TcpBuilder {
        TcpBuilder::new(self, src_port, dst_port)
    }

    /// A UDP header.
    pub fn udp(self, src_port: u16, dst_port: u16) -> UdpBuilder {
        UdpBuilder::new(self, src_port, dst_port)
    }

    /// An ICMP or ICMPv6 message by its numbers; `rest` is the header's second word.
    pub fn icmp(self, icmp_type: u8, code: u8, rest: u32) -> IcmpBuilder {
        let mut message = vec![icmp_type, code, 0, 0];
        message.put_u32(rest);
        IcmpBuilder::new(self, message)
    }

    /// An echo request.
    pub fn echo_request(self, id: u16, sequence: u16) -> IcmpBuilder {
        let (v4, v6) = (IcmpType::ECHO_REQUEST.0, Icmpv6Type::ECHO_REQUEST.0);
        let icmp_type = self.by_family(v4, v6);
        self.icmp(icmp_type, 0, u32::from(id) << 16 | u32::from(sequence))
    }

    /// The answer to an echo request.
    pub fn echo_reply(self, id: u16, sequence: u16) -> IcmpBuilder {
        let (v4, v6) = (IcmpType::ECHO_REPLY.0, Icmpv6Type::ECHO_REPLY.0);
        let icmp_type = self.by_family(v4, v6);
        self.icmp(icmp_type, 0, u32::from(id) << 16 | u32::from(sequence))
    }

    /// "Port unreachable" about `quoted`, an IP packet or its start.
    pub fn port_unreachable(self, quoted: &[u8]) -> IcmpBuilder {
        let icmp_type = self.by_family(IcmpType::UNREACHABLE.0, Icmpv6Type::UNREACHABLE.0);
        let code = self.by_family(icmp::CODE_PORT_UNREACHABLE, icmpv6::CODE_PORT_UNREACHABLE);
        self.icmp(icmp_type, code, 0).payload(quoted)
    }

    /// "TTL expired" or "hop limit exceeded" about `quoted`.
    pub fn time_exceeded(self, quoted: &[u8]) -> IcmpBuilder {
        let icmp_type = self.by_family(IcmpType::TIME_EXCEEDED.0, Icmpv6Type::TIME_EXCEEDED.0);
        let code = self.by_family(icmp::CODE_TTL_EXPIRED, icmpv6::CODE_HOP_LIMIT_EXPIRED);
        self.icmp(icmp_type, code, 0).payload(quoted)
    }

    /// "Fragmentation needed" or "packet too big" about `quoted`.
    pub fn too_big(self, mtu_bytes: u16, quoted: &[u8]) -> IcmpBuilder {
        let icmp_type = self.by_family(IcmpType::UNREACHABLE.0, Icmpv6Type::PACKET_TOO_BIG.0);
        let code = self.by_family(icmp::CODE_FRAGMENTATION_NEEDED, 0);
        self.icmp(icmp_type, code, u32::from(mtu_bytes)).payload(quoted)
    }

    /// Any bytes behind the network header: a later fragment, another protocol.
    pub fn raw(&self, protocol: IpProtocol, payload: &[u8]) -> BytesMut {
        match self.addresses {
            Addresses::V4(src, dst) => {
                let mut packet = self.ipv4_header(src, dst, protocol, payload.len());
                packet.extend_from_slice(payload);
                self.link.raw(EtherType::IPV4, &packet)
            }
            Addresses::V6(src, dst) => {
                let mut packet = self.ipv6_headers(src, dst, protocol, payload.len());
                packet.extend_from_slice(payload);
                self.link.raw(EtherType::IPV6, &packet)
            }
        }
    }

    fn by_family(&self, v4: u8, v6: u8) -> u8 {
        match self.addresses {
            Addresses::V4(..) => v4,
            Addresses::V6(..) => v6,
        }
    }

    fn ipv4_header(
        &self,
        src: Ipv4Addr,
        dst: Ipv4Addr,
        protocol: IpProtocol,
        payload_bytes: usize,
    ) -> Vec<u8> {
        let header_bytes = ipv4::IPV4_HEADER_BYTES + self.ipv4_options.len();
        let mut header = Vec::with_capacity(header_bytes + payload_bytes);
        header.put_u8(0x40 | (header_bytes / 4) as u8);
        header.put_u8(self.tos);
        header.put_u16(self.length.unwrap_or((header_bytes + payload_bytes) as u16));
        header.put_u16(self.id);
        header.put_u16(self.fragment_word());
        header.put_slice(&[self.ttl, protocol.0, 0, 0]);
        header.put_slice(&src.octets());
        header.put_slice(&dst.octets());
        header.put_slice(&self.ipv4_options);
        let checksum = Sum::new().add_bytes(&header).checksum();
        store(&mut header, 10, spoil(checksum, self.spoil_checksum));
        header
    }

    fn ipv6_headers(
        &self,
        src: Ipv6Addr,
        dst: Ipv6Addr,
        protocol: IpProtocol,
        payload_bytes: usize,
    ) -> Vec<u8> {
        let extension_bytes: usize = self.extensions.iter().map(|(_, header)| header.len()).sum();
        let mut headers = Vec::new();
        headers.put_u32(0x6000_0000 | u32::from(self.tos) << 20);
        headers.put_u16(self.length.unwrap_or((extension_bytes + payload_bytes) as u16));
        let following = self.extensions.iter().map(|(kind, _)| kind.0).chain([protocol.0]);
        let mut following = following.collect::<Vec<_>>().into_iter();
        headers.put_u8(following.next().unwrap_or(protocol.0));
        headers.put_u8(self.ttl);
        headers.put_slice(&src.octets());
        headers.put_slice(&dst.octets());
        for ((_, extension), next) in self.extensions.iter().zip(following) {
            headers.put_u8(next);
            headers.put_slice(&extension[1..]);
        }
        headers
    }

    fn fragment_word(&self) -> u16 {
        let dont = if self.dont_fragment { ipv4::DONT_FRAGMENT } else { 0 };
        let Some(fragment) = self.fragment else { return dont };
        let more = if fragment.more { ipv4::MORE_FRAGMENTS } else { 0 };
        dont | more | (fragment.offset_bytes / 8)
    }

    /// The pseudo header's sum for `segment_bytes` of transport.
    fn pseudo_header(&self, protocol: IpProtocol, segment_bytes: usize) -> Sum {
        match self.addresses {
            Addresses::V4(src, dst) => Sum::pseudo_v4(src, dst, protocol, segment_bytes as u16),
            Addresses::V6(src, dst) => Sum::pseudo_v6(src, dst, protocol, segment_bytes as u32),
        }
    }
}

fn store(bytes: &mut [u8], offset: usize, value: u16) {
    bytes[offset..offset + 2].copy_from_slice(&value.to_be_bytes());
}

/// A checksum that does not hold, if `wanted`. Not merely inverted, since 0 and 0xffff say the
/// same, and never 0, which says "none" in UDP.
fn spoil(checksum: u16, wanted: bool) -> u16 {
    match checksum ^ 0x0101 {
        _ if !wanted => checksum,
        0 => 0x0202,
        spoiled => spoiled,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ipv6::{Ipv6, UpperLayer};
    use crate::wire::tcp::{Tcp, TcpFlags, TcpOption};

    const ROUTER: MacAddr = MacAddr([2, 0, 0, 0, 1, 0xfe]);
    const DIRECTOR: MacAddr = MacAddr([2, 0, 0, 0, 1, 1]);
    const SERVER: MacAddr = MacAddr([2, 0, 0, 0, 2, 12]);
    const DIRECTOR_INSIDE: MacAddr = MacAddr([2, 0, 0, 0, 2, 1]);
    const CIP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 7);
    const VIP: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
    const RIP: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 12);
    const CIP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 12, 0, 0, 0, 0, 0, 7);
    const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 1);
    const RIP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 12);

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn from_client() -> PacketBuilder {
        PacketBuilder::new().ethernet(ROUTER, DIRECTOR)
    }

    #[test]
    fn tcp_syn_is_the_recorded_one_byte_for_byte() {
        let frame = from_client()
            .ipv4(CIP, VIP)
            .id(0x1234)
            .dont_fragment()
            .tcp(40_001, 80)
            .seq(1000)
            .flags(TcpFlags::SYN)
            .window(64_240)
            .option(TcpOption::Mss(1460))
            .option(TcpOption::SackPermitted)
            .option(TcpOption::Timestamps { value: 1000, echo: 0 })
            .option(TcpOption::Nop)
            .option(TcpOption::WindowScale(7))
            .build();
        assert_eq!(
            hex(&frame),
            "0200000001010200000001fe08004500003c12344000400614800a0000070a0100019c410050000003e8\
             00000000a002faf094a50000020405b40402080a000003e80000000001030307"
        );
    }

    #[test]
    fn tcp_over_ipv6_is_the_recorded_one_byte_for_byte() {
        let frame = PacketBuilder::new()
            .ethernet(SERVER, DIRECTOR_INSIDE)
            .ipv6(RIP6, CIP6)
            .tcp(8080, 40_001)
            .seq(5000)
            .ack(1001)
            .flags(TcpFlags::SYN | TcpFlags::ACK)
            .option(TcpOption::Mss(1460))
            .option(TcpOption::SackPermitted)
            .option(TcpOption::Timestamps { value: 1000, echo: 0 })
            .option(TcpOption::Nop)
            .option(TcpOption::WindowScale(7))
            .build();
        assert_eq!(
            hex(&frame),
            "02000000020102000000020c86dd6000000000280640fd00000200000000000000000000000cfd00000c\
             0000000000000000000000071f909c4100001388000003e9a012faf07bb20000020405b40402080a0000\
             03e80000000001030307"
        );
    }

    #[test]
    fn udp_is_the_recorded_one_in_both_families() {
        let v4 = from_client().ipv4(CIP, VIP).id(0x1234).dont_fragment().udp(40_001, 80);
        assert_eq!(
            hex(&v4.payload(b"abc").build()),
            "0200000001010200000001fe08004500001f12344000401114920a0000070a0100019c410050000b8adb\
             616263"
        );
        let v6 = from_client().ipv6(CIP6, VIP6).udp(40_001, 80);
        assert_eq!(
            hex(&v6.payload(b"abc").build()),
            "0200000001010200000001fe86dd60000000000b1140fd00000c000000000000000000000007fd000001\
             0000000000000000000000019c410050000ba4cd616263"
        );
    }

    #[test]
    fn echo_is_the_recorded_one_in_both_families() {
        let v4 = from_client().ipv4(CIP, VIP).id(0x1234).dont_fragment().echo_request(1, 1);
        let expected = "0200000001010200000001fe08004500002012344000400114a10a0000070a01000108001\
                        92d0001000170696e67";
        assert_eq!(hex(&v4.payload(b"ping").build()), expected);
        let v6 = from_client().ipv6(CIP6, VIP6).echo_request(1, 1);
        let expected = "0200000001010200000001fe86dd60000000000c3a40fd00000c000000000000000000000\
                        007fd0000010000000000000000000000018000a6cf0001000170696e67";
        assert_eq!(hex(&v6.payload(b"ping").build()), expected);
    }

    #[test]
    fn icmp_error_with_its_quote_is_the_recorded_one() {
        let quoted = PacketBuilder::new()
            .ipv4(CIP, RIP)
            .id(0x1234)
            .dont_fragment()
            .ttl(63)
            .tcp(777, 8080)
            .seq(1000)
            .flags(TcpFlags::SYN)
            .build();
        let frame = PacketBuilder::new()
            .ethernet(SERVER, DIRECTOR_INSIDE)
            .ipv4(RIP, CIP)
            .id(0x1234)
            .port_unreachable(&quoted)
            .build();
        assert_eq!(
            hex(&frame),
            "02000000020102000000020c08004500004412340000400154710a02000c0a0000070303112c00000000\
             45000028123440003f0615880a0000070a02000c03091f90000003e8000000005002faf07a5c0000"
        );
    }

    #[test]
    fn icmpv6_error_is_the_recorded_one() {
        let quoted = PacketBuilder::new()
            .ipv6(CIP6, RIP6)
            .ttl(63)
            .tcp(777, 8080)
            .seq(1000)
            .flags(TcpFlags::SYN)
            .build();
        let frame = PacketBuilder::new()
            .ethernet(SERVER, DIRECTOR_INSIDE)
            .ipv6(RIP6, CIP6)
            .port_unreachable(&quoted)
            .build();
        assert_eq!(
            hex(&frame[..62]),
            "02000000020102000000020c86dd6000000000443a40fd00000200000000000000000000000cfd00000c\
             00000000000000000000000701049e2100000000"
        );
        assert_eq!(frame[62..], quoted);
    }

    #[test]
    fn ipv6_extensions_stand_in_the_order_they_were_asked_for() {
        let fragment = Fragment { id: 0x1122_3344, offset_bytes: 0, more: true };
        let packet = PacketBuilder::new()
            .ipv6(CIP6, VIP6)
            .extension(IpProtocol::HOP_BY_HOP, &[1, 4, 0, 0, 0, 0])
            .extension(IpProtocol::ROUTING, &[4, 2, 0, 0, 0, 0, 0])
            .fragment(fragment)
            .extension(IpProtocol::DESTINATION, &[])
            .udp(1, 2)
            .build();
        let (ip, payload) = Ipv6::parse(&packet).unwrap();
        let upper = ip.upper_layer(payload).unwrap();
        assert_eq!(
            upper,
            UpperLayer {
                protocol: IpProtocol::UDP,
                offset_bytes: 8 + 16 + 8 + 8,
                fragment: Some(fragment),
                fragmentable_bytes: 8 + 16 + 8,
                segments_left: 2,
            }
        );
    }

    #[test]
    fn tags_nest_and_padding_stays_outside_the_packet() {
        let frame = from_client().vlan(5).vlan(6).padding(4).ipv4(CIP, VIP).udp(1, 2).build();
        assert_eq!(hex(&frame[12..22]), "81000005810000060800");
        assert_eq!(frame.len(), 14 + 8 + 28 + 4);
        assert_eq!(frame[14 + 8 + 3], 28, "total length");
    }

    #[test]
    fn options_fill_up_to_whole_words() {
        let packet = PacketBuilder::new()
            .ipv4(CIP, VIP)
            .tcp(1, 2)
            .sack(&[(1, 2)])
            .option(TcpOption::Other { kind: 254, data: &[7] })
            .build();
        let (tcp, options, payload) = Tcp::parse_with_options(&packet[20..]).unwrap();
        assert_eq!((tcp.header_bytes(), payload.len()), (36, 0));
        assert_eq!(hex(options), "050a0000000100000002fe0307010101");
    }

    #[test]
    fn mixed_families_are_no_packet() {
        assert!(PacketBuilder::new().ip(CIP.into(), VIP6.into()).is_none());
        assert!(PacketBuilder::new().ip(CIP6.into(), VIP6.into()).is_some());
    }

    #[test]
    fn arp_request_has_the_usual_bytes() {
        let frame = PacketBuilder::new().ethernet(ROUTER, MacAddr::BROADCAST).arp(
            ArpOperation::REQUEST,
            (ROUTER, CIP),
            (MacAddr::ZERO, VIP),
        );
        assert_eq!(
            hex(&frame),
            "ffffffffffff0200000001fe080600010800060400010200000001fe0a0000070000000000000a010001"
        );
    }

    #[test]
    fn spoilt_checksum_is_wrong_and_never_none() {
        for checksum in 0..=u16::MAX {
            let spoilt = spoil(checksum, true);
            assert!(spoilt != 0 && spoilt % 0xffff != checksum % 0xffff, "{checksum:#x}");
        }
    }
}
