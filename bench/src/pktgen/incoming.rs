//! What a received frame is: a stamp of ours, a TCP segment, a question about addresses, or
//! nothing to us. Read where it stands; nothing is changed.

use std::net::IpAddr;

use gyre::wire::ethernet::{EtherType, Ethernet};
use gyre::wire::ip::IpProtocol;
use gyre::wire::ipv4::Ipv4;
use gyre::wire::ipv6::Ipv6;
use gyre::wire::tcp::Tcp;
use gyre::wire::udp::Udp;

use super::frame::Stamp;

/// A TCP segment or UDP datagram, wherever it lay in the frame.
#[derive(Clone, Copy, Debug)]
pub struct Located<'a> {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// TCP or UDP.
    pub protocol: IpProtocol,
    /// The transport header and what follows, without Ethernet's padding.
    pub segment: &'a [u8],
    /// Offset of the IP header in the frame.
    pub network_at: usize,
    /// Offset of the transport header in the frame.
    pub transport_at: usize,
}

const ETHERNET_BYTES: usize = 14;

/// Finds the transport header of an unfragmented TCP or UDP frame; inside an IP-in-IP tunnel too,
/// as servers behind a tunnelling director get it.
pub fn locate(frame: &[u8]) -> Option<Located<'_>> {
    let (ethernet, _) = Ethernet::parse(frame).ok()?;
    match ethernet.ether_type() {
        EtherType::IPV4 => locate_v4(frame, ETHERNET_BYTES),
        EtherType::IPV6 => locate_v6(frame, ETHERNET_BYTES),
        _ => None,
    }
}

fn locate_v4(frame: &[u8], network_at: usize) -> Option<Located<'_>> {
    let packet = frame.get(network_at..)?;
    let (ip, _) = Ipv4::parse(packet).ok()?;
    if ip.fragment().is_some() {
        return None;
    }
    let end = network_at + usize::from(ip.total_length());
    let transport_at = network_at + ip.header_bytes();
    let segment = frame.get(transport_at..end)?;
    match ip.protocol() {
        IpProtocol::IPV4 if network_at == ETHERNET_BYTES => locate_v4(frame, transport_at),
        IpProtocol::IPV6 if network_at == ETHERNET_BYTES => locate_v6(frame, transport_at),
        protocol => {
            let (src, dst) = (ip.src().into(), ip.dst().into());
            known(Located { src, dst, protocol, segment, network_at, transport_at })
        }
    }
}

fn locate_v6(frame: &[u8], network_at: usize) -> Option<Located<'_>> {
    let packet = frame.get(network_at..)?;
    let (ip, _) = Ipv6::parse(packet).ok()?;
    let header_end = network_at + 40;
    let end = header_end + usize::from(ip.payload_length());
    let payload = frame.get(header_end..end)?;
    let upper = ip.upper_layer(payload).ok().filter(|upper| upper.fragment.is_none())?;
    let transport_at = header_end + upper.offset_bytes;
    let segment = frame.get(transport_at..end)?;
    match upper.protocol {
        IpProtocol::IPV4 if network_at == ETHERNET_BYTES => locate_v4(frame, transport_at),
        IpProtocol::IPV6 if network_at == ETHERNET_BYTES => locate_v6(frame, transport_at),
        protocol => {
            let (src, dst) = (ip.src().into(), ip.dst().into());
            known(Located { src, dst, protocol, segment, network_at, transport_at })
        }
    }
}

fn known(located: Located<'_>) -> Option<Located<'_>> {
    matches!(located.protocol, IpProtocol::TCP | IpProtocol::UDP).then_some(located)
}

impl<'a> Located<'a> {
    /// What the segment carries.
    pub fn payload(&self) -> Option<&'a [u8]> {
        if self.protocol == IpProtocol::UDP {
            return Udp::parse(self.segment).ok().map(|(_, payload)| payload);
        }
        let (tcp, _) = Tcp::parse(self.segment).ok()?;
        self.segment.get(tcp.header_bytes()..)
    }
}

/// The stamp of a frame of ours.
pub fn stamp(frame: &[u8]) -> Option<Stamp> {
    Stamp::read(locate(frame)?.payload()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::Client;
    use crate::frame::{Content, Path, Template, Transport};
    use gyre::wire::build::PacketBuilder;
    use gyre::wire::ethernet::MacAddr;

    fn stamped(service: &str, transport: Transport) -> Vec<u8> {
        let (src_mac, dst_mac) = (MacAddr([2; 6]), MacAddr([4; 6]));
        let path = Path { src_mac, dst_mac, service: service.parse().unwrap(), transport };
        let template = Template::new(&path, Content::Stamped, 128).unwrap();
        let mut frame = vec![0; template.len()];
        let client = Client { address: 0xc612_0003, src_port: 1500 };
        template.write(&mut frame, client, STAMP);
        frame
    }

    const STAMP: Stamp = Stamp { stream: 5, sequence: 77, sent_ns: 123_456_789 };
    const SERVICES: [&str; 2] = ["198.19.0.1:80", "[2001:2:0:8000::1]:80"];

    #[test]
    fn stamps_are_found_in_every_family_and_protocol() {
        for service in SERVICES {
            for transport in [Transport::Udp, Transport::Tcp] {
                let frame = stamped(service, transport);
                assert_eq!(stamp(&frame), Some(STAMP), "{service} {transport:?}");
                let located = locate(&frame).unwrap();
                assert_eq!(
                    located.dst.to_string(),
                    service
                        .trim_matches(['[', ']'])
                        .to_owned()
                        .rsplit_once(':')
                        .unwrap()
                        .0
                        .trim_end_matches(']')
                );
            }
        }
    }

    #[test]
    fn stamps_are_found_behind_a_tunnel() {
        let inner = stamped(SERVICES[0], Transport::Udp)[14..].to_vec();
        let link = PacketBuilder::new().ethernet(MacAddr([2; 6]), MacAddr([4; 6]));
        let outer = link.ipv4([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        assert_eq!(stamp(&outer.raw(IpProtocol::IPV4, &inner)), Some(STAMP));
    }

    #[test]
    fn other_frames_and_cut_ones_have_no_stamp() {
        let frame = stamped(SERVICES[0], Transport::Udp);
        for length in 0..60 {
            assert_eq!(stamp(&frame[..length]), None, "{length} bytes");
        }
        let link = PacketBuilder::new().ethernet(MacAddr([2; 6]), MacAddr([4; 6]));
        let other = link.ipv4([10, 0, 0, 1].into(), [10, 0, 0, 2].into()).udp(1, 2);
        assert_eq!(stamp(&other.payload(&[0; 60]).build()), None);
    }
}
