//! Answers to checks by the service's path, by a packet socket that sees them before the kernel's
//! stack throws them away. A filter in the kernel keeps everything else from us.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::net::UdpSocket;

use super::super::Failure;
use super::ports::{TCP_PORTS, UDP_PORTS};
use super::refused;
use crate::limits::CHECK_DATAGRAM_BYTES_MAX;
use crate::wire::ethernet::EtherType;
use crate::wire::icmp::{self, Icmp, IcmpType};
use crate::wire::icmpv6::{self, Icmpv6, Icmpv6Type};
use crate::wire::ip::IpProtocol;
use crate::wire::ipv4::Ipv4;
use crate::wire::ipv6::Ipv6;
use crate::wire::tcp::{SeqNum, Tcp, TcpFlags};
use crate::wire::transport::TransportStart;
use crate::wire::udp::Udp;

/// Answers that may wait in the kernel.
const RECEIVE_BYTES: usize = 4 << 20;

/// By what an answer finds who asked, beside the virtual address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    /// Low half of a connection's first sequence number.
    Syn(u16),
    /// Source port of a datagram.
    Port(u16),
    /// Source port of a whole connection.
    Stream(u16),
}

/// What came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The server takes the connection.
    SynAck,
    /// It does not.
    Reset,
    /// A packet of a whole connection, from its IP header on.
    Segment(Vec<u8>),
    /// A datagram's payload.
    Datagram(Vec<u8>),
    /// ICMP: nobody listens.
    PortUnreachable,
    /// ICMP: no way there.
    Unreachable,
    /// ICMP: a router had it, where only the server should.
    Expired,
}

/// One family's packet socket.
pub(super) struct Ear {
    socket: UdpSocket,
    read: Reader,
}

impl Ear {
    /// Opens it for answers to this block of ports; SYNs had numbers with this high half.
    pub(super) fn open(family: IpAddr, magic: u16, first_port: u16) -> Result<Self, Failure> {
        let read = Reader { is_ipv4: family.is_ipv4(), magic, first_port };
        let open = || {
            let kind = if read.is_ipv4 { EtherType::IPV4 } else { EtherType::IPV6 };
            // Without link headers, for any kind of interface. The number is in network order.
            let protocol = Protocol::from(i32::from(kind.0.to_be()));
            let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(protocol))?;
            socket.set_nonblocking(true)?;
            socket.attach_filter(&read.filter())?;
            socket.set_recv_buffer_size(RECEIVE_BYTES)?;
            // To tokio it is as good as a socket for UDP: what it receives are messages.
            UdpSocket::from_std(socket.into())
        };
        let socket = open().map_err(|error: io::Error| refused("a packet socket", &error))?;
        Ok(Ear { socket, read })
    }

    /// Tells of each answer, for ever.
    pub(super) async fn hear(self, tell: impl Fn(Key, SocketAddr, Answer)) {
        let mut buffer = vec![0; CHECK_DATAGRAM_BYTES_MAX];
        loop {
            // An error is of one moment: an interface went down.
            let Ok(bytes) = self.socket.recv(&mut buffer).await else {
                tokio::task::yield_now().await;
                continue;
            };
            if let Some((key, vip, answer)) = self.read.parse(&buffer[..bytes]) {
                tell(key, vip, answer);
            }
        }
    }
}

/// Tells answers from other packets.
#[derive(Clone, Copy, Debug)]
struct Reader {
    is_ipv4: bool,
    magic: u16,
    first_port: u16,
}

impl Reader {
    /// Classic BPF (Linux "Documentation/networking/filter.rst"), from the IP header on: TCP and
    /// UDP to our block, ICMP errors. IPv6 extension headers are not looked behind: no server puts
    /// any before these.
    fn filter(&self) -> Vec<SockFilter> {
        let op = SockFilter::new;
        let (icmp, errors) = match self.is_ipv4 {
            true => (IpProtocol::ICMP, [IcmpType::UNREACHABLE.0, IcmpType::TIME_EXCEEDED.0]),
            false => (IpProtocol::ICMPV6, [Icmpv6Type::UNREACHABLE.0, Icmpv6Type::TIME_EXCEEDED.0]),
        };
        let (length, protocol_at) = match self.is_ipv4 {
            true => (op(0xb1, 0, 0, 0), 9),   // X = length of the IP header
            false => (op(0x01, 0, 0, 40), 6), // X = 40
        };
        vec![
            length,
            op(0x30, 0, 0, protocol_at),              //  1: A = protocol
            op(0x15, 1, 0, IpProtocol::TCP.0.into()), //  2: TCP, to 4
            op(0x15, 0, 3, IpProtocol::UDP.0.into()), //  3: UDP, or to 7
            op(0x48, 0, 0, 2),                        //  4: A = destination port
            op(0x54, 0, 0, u32::from(!(UDP_PORTS - 1))), //  5: its block
            op(0x15, 4, 3, self.first_port.into()),   //  6: to 11 or 10
            op(0x15, 0, 2, icmp.0.into()),            //  7: ICMP, or to 10
            op(0x50, 0, 0, 0),                        //  8: A = type
            op(0x15, 1, 2, errors[0].into()),         //  9: to 11 or 12
            op(0x06, 0, 0, 0),                        // 10: not ours
            op(0x06, 0, 0, u32::MAX),                 // 11: ours
            op(0x15, 0, 1, errors[1].into()),         // 12: the other error, or to 14
            op(0x06, 0, 0, u32::MAX),                 // 13: ours
            op(0x06, 0, 0, 0),                        // 14: not ours
        ]
    }

    /// Who an answer is for: the key, and the virtual address it came from or tells of.
    fn parse(&self, packet: &[u8]) -> Option<(Key, SocketAddr, Answer)> {
        let (src, _, protocol, body) = self.ip(packet)?;
        match protocol {
            IpProtocol::TCP => {
                let (tcp, _) = Tcp::parse(body).ok()?;
                let (port, vip) = (tcp.dst_port(), SocketAddr::new(src, tcp.src_port()));
                match self.is_stream(port) {
                    true => Some((Key::Stream(port), vip, Answer::Segment(packet.to_vec()))),
                    false => self.tcp(vip, &tcp),
                }
            }
            IpProtocol::UDP => {
                let (udp, payload) = Udp::parse(body).ok()?;
                let payload_bytes = usize::from(udp.length()).checked_sub(8)?;
                let payload = payload.get(..payload_bytes)?;
                let vip = SocketAddr::new(src, udp.src_port());
                Some((Key::Port(udp.dst_port()), vip, Answer::Datagram(payload.to_vec())))
            }
            IpProtocol::ICMP if self.is_ipv4 => {
                let (icmp, quoted) = Icmp::parse(body).ok()?;
                let answer = match (icmp.icmp_type(), icmp.code()) {
                    (IcmpType::UNREACHABLE, icmp::CODE_PORT_UNREACHABLE) => Answer::PortUnreachable,
                    (IcmpType::UNREACHABLE, _) => Answer::Unreachable,
                    (IcmpType::TIME_EXCEEDED, icmp::CODE_TTL_EXPIRED) => Answer::Expired,
                    _ => return None,
                };
                let (key, vip) = self.quoted(quoted)?;
                Some((key, vip, answer))
            }
            IpProtocol::ICMPV6 if !self.is_ipv4 => {
                let (icmp, quoted) = Icmpv6::parse(body).ok()?;
                let answer = match (icmp.icmp_type(), icmp.code()) {
                    (Icmpv6Type::UNREACHABLE, icmpv6::CODE_PORT_UNREACHABLE) => {
                        Answer::PortUnreachable
                    }
                    (Icmpv6Type::UNREACHABLE, _) => Answer::Unreachable,
                    (Icmpv6Type::TIME_EXCEEDED, icmpv6::CODE_HOP_LIMIT_EXPIRED) => Answer::Expired,
                    _ => return None,
                };
                let (key, vip) = self.quoted(quoted)?;
                Some((key, vip, answer))
            }
            _ => None,
        }
    }

    /// Whether a connection with this port of ours is a whole one.
    fn is_stream(&self, port: u16) -> bool {
        (TCP_PORTS..UDP_PORTS).contains(&port.wrapping_sub(self.first_port))
    }

    fn tcp(&self, vip: SocketAddr, tcp: &Tcp<&[u8; 20]>) -> Option<(Key, SocketAddr, Answer)> {
        let flags = tcp.flags();
        let answer = match flags.contains(TcpFlags::ACK) {
            true if flags.contains(TcpFlags::RST) => Answer::Reset,
            true if flags.contains(TcpFlags::SYN) => Answer::SynAck,
            _ => return None,
        };
        Some((self.syn(tcp.acknowledgment().wrapping_sub(1))?, vip, answer))
    }

    /// Our own packet in an ICMP error: as little as eight bytes behind its IP header.
    fn quoted(&self, packet: &[u8]) -> Option<(Key, SocketAddr)> {
        let (_, dst, protocol, body) = self.ip_quoted(packet)?;
        let (start, _) = TransportStart::parse(body).ok()?;
        let key = match protocol {
            IpProtocol::TCP if self.is_stream(start.src_port()) => Key::Stream(start.src_port()),
            IpProtocol::TCP => self.syn(start.tcp_sequence())?,
            IpProtocol::UDP => Key::Port(start.src_port()),
            _ => return None,
        };
        Some((key, SocketAddr::new(dst, start.dst_port())))
    }

    fn syn(&self, number: SeqNum) -> Option<Key> {
        (number.0 >> 16 == u32::from(self.magic)).then_some(Key::Syn(number.0 as u16))
    }

    fn ip<'a>(&self, packet: &'a [u8]) -> Option<(IpAddr, IpAddr, IpProtocol, &'a [u8])> {
        if self.is_ipv4 {
            let (ip, body) = Ipv4::parse(packet).ok()?;
            let whole = ip.fragment().is_none();
            whole.then_some((ip.src().into(), ip.dst().into(), ip.protocol(), body))
        } else {
            let (ip, body) = Ipv6::parse(packet).ok()?;
            Some((ip.src().into(), ip.dst().into(), ip.next_header(), body))
        }
    }

    fn ip_quoted<'a>(&self, packet: &'a [u8]) -> Option<(IpAddr, IpAddr, IpProtocol, &'a [u8])> {
        if self.is_ipv4 {
            let (ip, body) = Ipv4::parse_quoted(packet).ok()?;
            Some((ip.src().into(), ip.dst().into(), ip.protocol(), body))
        } else {
            let (ip, body) = Ipv6::parse_quoted(packet).ok()?;
            Some((ip.src().into(), ip.dst().into(), ip.next_header(), body))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::build::{IpBuilder, PacketBuilder};

    const MAGIC: u16 = 0xbeef;
    const PORT: u16 = 0xf003;

    fn reader(is_ipv4: bool) -> Reader {
        Reader { is_ipv4, magic: MAGIC, first_port: 0xf000 }
    }

    fn addresses(is_ipv4: bool) -> (IpAddr, IpAddr) {
        let (vip, own) =
            if is_ipv4 { ("192.0.2.80", "10.0.0.1") } else { ("2001:db8::80", "fd00::1") };
        (vip.parse().unwrap(), own.parse().unwrap())
    }

    fn from_vip(is_ipv4: bool) -> IpBuilder {
        let (vip, own) = addresses(is_ipv4);
        PacketBuilder::new().ip(vip, own).unwrap()
    }

    /// An ICMP error about a packet of ours.
    fn error(is_ipv4: bool, (kind, code): (u8, u8), ours: &[u8]) -> Vec<u8> {
        from_vip(is_ipv4).icmp(kind, code, 0).payload(ours).build().to_vec()
    }

    #[test]
    fn answers_find_who_asked_in_both_families() {
        for is_ipv4 in [true, false] {
            let (read, (vip, own)) = (reader(is_ipv4), addresses(is_ipv4));
            let http = SocketAddr::new(vip, 80);
            let number = u32::from(MAGIC) << 16 | 0x1234;
            let tcp = || from_vip(is_ipv4).tcp(80, PORT).ack(number + 1);
            let agreed = tcp().flags(TcpFlags::SYN.union(TcpFlags::ACK)).build();
            let key = Key::Syn(0x1234);
            assert_eq!(read.parse(&agreed), Some((key, http, Answer::SynAck)));
            let refused = tcp().flags(TcpFlags::RST.union(TcpFlags::ACK)).build();
            assert_eq!(read.parse(&refused), Some((key, http, Answer::Reset)));
            let data = tcp().flags(TcpFlags::ACK).build();
            assert_eq!(read.parse(&data), None);
            let other = tcp().ack(77).flags(TcpFlags::SYN.union(TcpFlags::ACK)).build();
            assert_eq!(read.parse(&other), None, "not to a number of ours");

            let whole = PORT + TCP_PORTS;
            let segment = from_vip(is_ipv4).tcp(80, whole).ack(5).flags(TcpFlags::ACK).build();
            let came = Some((Key::Stream(whole), http, Answer::Segment(segment.to_vec())));
            assert_eq!(read.parse(&segment), came);

            let datagram = from_vip(is_ipv4).udp(53, PORT).payload(b"yes").build();
            let dns = SocketAddr::new(vip, 53);
            let said = Answer::Datagram(b"yes".to_vec());
            assert_eq!(read.parse(&datagram), Some((Key::Port(PORT), dns, said)));

            let ours = PacketBuilder::new().ip(own, vip).unwrap();
            let syn = ours.clone().tcp(PORT, 80).seq(number).flags(TcpFlags::SYN).build();
            let asked = ours.udp(PORT, 53).payload(b"what").build();
            let (expired, nobody) = if is_ipv4 { ((11, 0), (3, 3)) } else { ((3, 0), (1, 4)) };
            let told = read.parse(&error(is_ipv4, expired, &syn));
            assert_eq!(told, Some((key, http, Answer::Expired)));
            let begun = PacketBuilder::new().ip(own, vip).unwrap().tcp(whole, 80).build();
            let told = read.parse(&error(is_ipv4, expired, &begun));
            assert_eq!(told, Some((Key::Stream(whole), http, Answer::Expired)));
            let told = read.parse(&error(is_ipv4, nobody, &asked));
            assert_eq!(told, Some((Key::Port(PORT), dns, Answer::PortUnreachable)));
        }
    }

    proptest! {
        #[test]
        fn any_packet_is_read_without_harm(
            packet in proptest::collection::vec(any::<u8>(), 0..120),
            is_ipv4 in any::<bool>(),
        ) {
            let _ = reader(is_ipv4).parse(&packet);
            // And what begins as one that the filter lets through.
            let mut ours = from_vip(is_ipv4).udp(53, PORT).payload(&packet).build().to_vec();
            for (at, byte) in packet.iter().enumerate().take(12) {
                let place = usize::from(*byte) % ours.len();
                ours[place] ^= at as u8;
            }
            let _ = reader(is_ipv4).parse(&ours);
        }
    }
}
