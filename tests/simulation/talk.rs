//! A client's conversation with a service: TCP from SYN to the last FIN, or UDP datagrams that
//! come back.

use std::net::IpAddr;

use gyre::model::*;
use gyre::wire::udp::Udp;

use crate::endpoint::{Endpoint, State};
use crate::plan::{PORT, Plan, Random, TOA_KIND, client_stack};
use crate::segment::Segment;
use crate::support::*;

/// Datagrams of a UDP conversation.
const DATAGRAMS: u8 = 6;

/// How a conversation ended, or that it has not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Open,
    Done,
    /// Its server or service was taken away.
    Cut,
    /// No server, or no source port.
    Refused,
}

/// What the servers see of it: which server, from where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Face {
    pub server: IpAddr,
    pub src: (IpAddr, u16),
    pub dst: (IpAddr, u16),
}

/// See the module.
pub struct Talk {
    pub service: ServiceSpec,
    pub client: (IpAddr, u16),
    pub starts_at_us: u64,
    pub fate: Fate,
    /// The worker that decides its frames, once one has.
    pub owner: Option<usize>,
    pub face: Option<Face>,
    pub tcp: Option<Endpoint>,
    request: Vec<u8>,
    pub response: Vec<u8>,
    /// Datagrams sent and come back.
    pub sent: u8,
    pub echoed: u8,
    closes_at_once: bool,
}

impl Talk {
    pub fn new(plan: &Plan, at: u16, random: &mut Random) -> Self {
        let service = plan.services[random.below(plan.services.len() as u64) as usize].clone();
        let client = match service.key.vip().unwrap() {
            IpAddr::V4(_) => IpAddr::from([10, 0, random.below(4) as u8, at as u8 % 5 + 7]),
            IpAddr::V6(_) => IpAddr::from([0xfd00, 0xc, 0, 0, 0, 0, 0, at % 5 + 7]),
        };
        let request_bytes = random.pick(&[1, 300, 1448, 3_000]);
        let response_bytes = random.pick(&[1, 900, 4_000]);
        Talk {
            service,
            client: (client, 40_000 + at),
            starts_at_us: random.below(plan.spread_us),
            fate: Fate::Open,
            owner: None,
            face: None,
            tcp: None,
            request: random.bytes(request_bytes),
            response: random.bytes(response_bytes),
            sent: 0,
            echoed: 0,
            closes_at_once: random.one_in(3),
        }
    }

    pub fn is_tcp(&self) -> bool {
        self.service.key.protocol() == Some(Protocol::Tcp)
    }

    pub fn service_at(&self) -> (IpAddr, u16) {
        (self.service.key.vip().unwrap(), PORT)
    }

    /// Sends the first packet.
    pub fn start(&mut self, random: &mut Random, now_us: u64) {
        if self.is_tcp() {
            let macs = (ROUTER_MAC, director_mac(CLIENT));
            let seed = random.below(1 << 32) as u32;
            let stack = client_stack(random);
            let peer = self.service_at();
            self.tcp = Some(Endpoint::connect(self.client, peer, macs, (stack, seed), now_us));
        }
    }

    /// The PROXY header that the server must find, written here anew.
    fn header(&self) -> Vec<u8> {
        let ((client, src_port), (vip, port)) = (self.client, self.service_at());
        let is_v4 = client.is_ipv4();
        match self.service.client_address {
            ClientAddress::ProxyV1 => {
                let family = if is_v4 { "TCP4" } else { "TCP6" };
                format!("PROXY {family} {client} {vip} {src_port} {port}\r\n").into_bytes()
            }
            ClientAddress::ProxyV2 => {
                let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21".to_vec();
                header.extend(if is_v4 { [0x11, 0, 12] } else { [0x21, 0, 36] });
                header.extend(octets(client));
                header.extend(octets(vip));
                header.extend(src_port.to_be_bytes());
                header.extend(port.to_be_bytes());
                header
            }
            _ => Vec::new(),
        }
    }

    /// The client application's part; what the client sends now.
    pub fn client_speaks(&mut self, now_us: u64) -> Vec<Vec<u8>> {
        let Some(client) = &mut self.tcp else { return self.next_datagram() };
        if client.outgoing.is_empty() && client.state == State::Established {
            client.outgoing = self.request.clone();
            client.closes = self.closes_at_once;
            client.push(now_us);
        }
        let answered = client.received.len() == self.response.len();
        if !client.closes && answered && !client.outgoing.is_empty() {
            client.closes = true;
            client.push(now_us);
        }
        std::mem::take(&mut client.out)
    }

    fn next_datagram(&mut self) -> Vec<Vec<u8>> {
        if self.sent == DATAGRAMS || self.sent > self.echoed && !self.is_one_way() {
            return Vec::new();
        }
        self.sent += 1;
        let (vip, port) = self.service_at();
        let udp = from_client(self.client.0, vip).udp(self.client.1, port);
        vec![udp.payload(&self.datagram(self.sent)).build().to_vec()]
    }

    /// The datagram of a number, which says whose it is.
    fn datagram(&self, number: u8) -> Vec<u8> {
        let mut payload = self.request[..self.request.len().min(700)].to_vec();
        payload.push(number);
        payload
    }

    fn is_one_way(&self) -> bool {
        false
    }

    /// A datagram that came back.
    pub fn hear(&mut self, payload: &[u8]) {
        assert_eq!(payload, self.datagram(self.sent), "another datagram came back");
        self.echoed = self.sent;
    }

    /// Sends the last datagram again: it or its echo was lost.
    pub fn repeat(&mut self) {
        if self.sent > self.echoed {
            self.sent -= 1;
        }
    }

    /// The server application's part.
    pub fn server_speaks(&self, server: &mut Endpoint, now_us: u64) {
        let asked = server.received.len() == self.header().len() + self.request.len();
        if server.state == State::Established && asked && !server.closes {
            server.outgoing = self.response.clone();
            server.closes = true;
            server.push(now_us);
        }
    }

    /// Whether both ends have nothing more to say, every byte having arrived.
    pub fn is_over(&self, server: Option<&Endpoint>) -> bool {
        let Some(client) = &self.tcp else { return self.echoed == DATAGRAMS };
        let Some(server) = server else { return false };
        if !(client.is_done() && server.is_done()) {
            return false;
        }
        let said = [self.header(), self.request.clone()].concat();
        assert!(server.received == said, "the server got other bytes");
        assert!(client.received == self.response, "the client got other bytes");
        if let ClientAddress::Toa { .. } = self.service.client_address {
            let toa = [&self.client.1.to_be_bytes()[..], &octets(self.client.0)].concat();
            assert!(server.handshake_options.contains(&(TOA_KIND, toa)), "no TOA");
        }
        true
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

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
    use gyre::wire::checksum::Sum;
    use gyre::wire::ip::IpProtocol;
    use gyre::wire::ipv4::Ipv4;
    use gyre::wire::ipv6::Ipv6;
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
        [(address(8), port(40)), (address(24), port(42))]
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
