//! A client's conversation with a service: TCP from SYN to the last FIN, or UDP datagrams that
//! come back.

use std::net::IpAddr;

use gyre::model::*;

use crate::endpoint::{Endpoint, State};
use crate::plan::{Plan, Random, TOA_KIND, client_stack, targets};
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
    pub protocol: Protocol,
    /// Where the client turns to.
    to: (IpAddr, u16),
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
    /// Bytes of each datagram at most; large ones are sent in fragments.
    datagram_bytes: usize,
}

impl Talk {
    pub fn new(plan: &Plan, at: u16, random: &mut Random) -> Self {
        let service = plan.services[random.below(plan.services.len() as u64) as usize].clone();
        let (protocol, to) = random.pick(&targets(&service));
        let client = match to.0 {
            IpAddr::V4(_) => IpAddr::from([10, 0, random.below(4) as u8, at as u8 % 5 + 7]),
            IpAddr::V6(_) => IpAddr::from([0xfd00, 0xc, 0, 0, 0, 0, 0, at % 5 + 7]),
        };
        let request_bytes = random.pick(&[1, 300, 1448, 3_000]);
        let response_bytes = random.pick(&[1, 900, 4_000]);
        Talk {
            datagram_bytes: random.pick(&[40, 700, 3_000]),
            service,
            protocol,
            to,
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
        self.protocol == Protocol::Tcp
    }

    pub fn service_at(&self) -> (IpAddr, u16) {
        self.to
    }

    /// Sends the first packet.
    pub fn start(&mut self, random: &mut Random, now_us: u64) {
        if self.is_tcp() {
            let macs = (ROUTER_MAC, director_mac(CLIENT));
            let seed = random.below(1 << 32) as u32;
            let stack = client_stack(random, &self.service);
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
        if self.sent == DATAGRAMS || self.sent > self.echoed {
            return Vec::new();
        }
        self.sent += 1;
        let (vip, port) = self.service_at();
        let udp = from_client(self.client.0, vip).udp(self.client.1, port);
        vec![udp.payload(&self.datagram(self.sent)).build().to_vec()]
    }

    /// The datagram of a number, which says whose it is.
    fn datagram(&self, number: u8) -> Vec<u8> {
        let mut payload = self.request[..self.request.len().min(self.datagram_bytes)].to_vec();
        payload.push(number);
        payload
    }

    /// Whether the server's answers come untranslated, so that the client takes none of them: what
    /// reaches the server counts.
    pub fn is_one_way(&self) -> bool {
        self.service.one_packet && self.service.forwarding == ForwardMode::Nat
    }

    /// Whether its datagrams are so large that they are sent in pieces.
    pub fn is_in_pieces(&self) -> bool {
        self.datagram_bytes > 1_000 && self.request.len() > 1_000
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
