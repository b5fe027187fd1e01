//! A conversation through the director, one frame at a time.

use gyre::counters::{DropReason, ReplyKind};
use gyre::dataplane::Verdict;
use gyre::message::FlowState;
use gyre::model::*;
use gyre::wire::build::TcpBuilder;
use gyre::wire::tcp::{TcpFlags, TcpOption};

use crate::endpoint::Stack;
use crate::network::{CLIENTS, Plan, RIPS, VIPS, director, ip};
use crate::segment::Segment;
use crate::support::*;

pub const SYN: TcpFlags = TcpFlags::SYN;
pub const ACK: TcpFlags = TcpFlags::ACK;
pub const FIN: TcpFlags = TcpFlags::FIN;
pub const RST: TcpFlags = TcpFlags::RST;
pub const PSH: TcpFlags = TcpFlags::PSH;

/// First sequence numbers of client and server.
pub const C: u32 = 1_000_000;
pub const S: u32 = 7_000_000;
pub const PORT: u16 = 40_000;

const STACK: Stack =
    Stack { mss: 1460, scale: Some(7), sack: true, timestamps: true, buffer: 60_000 };

/// What came of a frame.
#[derive(Debug)]
pub struct Said {
    pub verdict: Verdict,
    /// Segments sent, in order, with their port.
    pub sent: Vec<(NicId, Segment)>,
}

impl Said {
    /// The only segment.
    pub fn one(&self) -> &Segment {
        assert_eq!(self.sent.len(), 1, "{self:?}");
        &self.sent[0].1
    }

    pub fn dropped(&self) -> Option<DropReason> {
        match self.verdict {
            Verdict::Drop(reason) => Some(reason),
            _ => None,
        }
    }
}

pub struct Talk {
    pub director: Director,
    pub family: usize,
    server_family: usize,
    pub src_port: u16,
    /// The source port and address that the server sees.
    pub local: Option<(std::net::IpAddr, u16)>,
}

impl Talk {
    pub fn new(family: usize, address: ClientAddress, synproxy: bool) -> Self {
        Talk::between([family, family], address, synproxy)
    }

    /// A client and a server of these families.
    pub fn between(families: [usize; 2], address: ClientAddress, synproxy: bool) -> Self {
        let [family, server_family] = families;
        let plan = Plan {
            family,
            server_family,
            address,
            synproxy,
            client: STACK,
            server: STACK,
            server_speaks_first: false,
            closes_at_once: false,
            request_bytes: 0,
            response_bytes: 0,
            loss_per_mille: 0,
            jitter_us: 0,
            seed: 0,
        };
        let director = director(&plan, (1024, 1024));
        Talk { director, family, server_family, src_port: PORT, local: None }
    }

    /// A segment from the client, to be completed.
    pub fn client_segment(&self) -> TcpBuilder {
        from_client(ip(CLIENTS[self.family]), ip(VIPS[self.family])).tcp(self.src_port, 80)
    }

    /// A segment from the server.
    pub fn server_segment(&self) -> TcpBuilder {
        let (lip, port) = self.local.expect("the server has heard of the client");
        from_server(ip(RIPS[self.server_family]), lip).tcp(8080, port)
    }

    pub fn send(&mut self, nic: NicId, segment: TcpBuilder) -> Said {
        let outcome = self.director.receive(nic, &segment.build());
        let mut frames = outcome.extra.clone();
        if let Some(nic) = outcome.sent_on() {
            frames.push((nic, outcome.frame.clone()));
        }
        Said { verdict: outcome.verdict, sent: self.read(frames) }
    }

    fn read(&mut self, frames: Vec<(NicId, Vec<u8>)>) -> Vec<(NicId, Segment)> {
        let sent: Vec<_> = frames.iter().map(|(nic, frame)| (*nic, Segment::read(frame))).collect();
        if let Some((_, segment)) = sent.iter().find(|(nic, _)| *nic == SERVER) {
            self.local = segment.src;
        }
        sent
    }

    pub fn client(&mut self, flags: TcpFlags, seq: u32, ack: u32, payload: &[u8]) -> Said {
        let segment = self.client_segment().flags(flags).seq(seq).ack(ack).payload(payload);
        self.send(CLIENT, segment)
    }

    pub fn server(&mut self, flags: TcpFlags, seq: u32, ack: u32, payload: &[u8]) -> Said {
        let segment = self.server_segment().flags(flags).seq(seq).ack(ack).payload(payload);
        self.send(SERVER, segment)
    }

    /// Lets time pass; what timers sent.
    pub fn wait(&mut self, seconds: f64) -> Vec<(NicId, Segment)> {
        self.director.advance(seconds);
        let mut frames = Vec::new();
        self.director.state.outbox.drain(|nic, bytes| frames.push((nic, bytes.to_vec())));
        self.read(frames)
    }

    /// SYN and SYN-ACK of a plain FULLNAT flow, both with an MSS.
    pub fn open(&mut self) -> (Segment, Segment) {
        let syn = self.client_segment().flags(SYN).seq(C).option(TcpOption::Mss(1460));
        let syn = self.send(CLIENT, syn).one().clone();
        let answer = self.server_segment().flags(SYN | ACK).seq(S).ack(syn.seq.wrapping_add(1));
        let answer = self.send(SERVER, answer.option(TcpOption::Mss(1460))).one().clone();
        assert_eq!((answer.seq, answer.ack), (S, C + 1));
        (syn, answer)
    }

    pub fn drops(&self, reason: DropReason) -> u64 {
        self.director.drops(reason)
    }

    pub fn replies(&self, kind: ReplyKind) -> u64 {
        self.director.state.counters.replies[kind as usize].get()
    }

    pub fn flow_state(&self) -> Option<FlowState> {
        self.director.flows().first().map(|row| row.state)
    }
}
