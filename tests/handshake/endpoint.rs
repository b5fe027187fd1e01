//! One end of a TCP connection, simple but strict: it retransmits, selectively acknowledges,
//! scales windows and stamps times as RFC 9293, 2018 and 7323 say, and panics where its peer says
//! what no peer may.

use std::collections::BTreeMap;
use std::net::IpAddr;

use gyre::wire::build::PacketBuilder;
use gyre::wire::ethernet::MacAddr;
use gyre::wire::tcp::{TcpFlags, TcpOption};

use crate::segment::Segment;

const SYN: TcpFlags = TcpFlags::SYN;
const ACK: TcpFlags = TcpFlags::ACK;
const FIN: TcpFlags = TcpFlags::FIN;
const RST: TcpFlags = TcpFlags::RST;

/// Bytes that the director may let a client see too much of a window, while a PROXY header of so
/// many bytes at most is not acknowledged.
const WINDOW_SLACK: u32 = 107;
const RTO_START_US: u64 = 200_000;
const RTO_MAX_US: u64 = 2_000_000;
const SEGMENTS_IN_FLIGHT: u32 = 10;

#[derive(Clone, Copy, Debug)]
pub struct Stack {
    pub mss: u16,
    pub scale: Option<u8>,
    pub sack: bool,
    pub timestamps: bool,
    /// Receive buffer, bytes.
    pub buffer: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    SynSent,
    SynReceived,
    Established,
    Reset,
}

pub struct Endpoint {
    pub local: (IpAddr, u16),
    pub peer: (IpAddr, u16),
    macs: (MacAddr, MacAddr),
    stack: Stack,
    pub state: State,
    /// Options that both sides have.
    scales: Option<(u8, u8)>,
    sack: bool,
    timestamps: bool,
    peer_mss: u16,
    /// First numbers, own and the peer's.
    pub first: u32,
    pub peer_first: u32,
    /// What to send, without SYN; offset 1 is its first byte.
    pub outgoing: Vec<u8>,
    pub closes: bool,
    acked: u32,
    next: u32,
    sent_max: u32,
    window: u32,
    window_from: (u32, u32),
    sacked: Vec<(u32, u32)>,
    duplicates: u32,
    timeout_at: Option<u64>,
    timeout_us: u64,
    /// What came in, in order.
    pub received: Vec<u8>,
    pieces: BTreeMap<u32, Vec<u8>>,
    fin_at: Option<u32>,
    pub fin_received: bool,
    edge_max: u32,
    duplicate_block: Option<(u32, u32)>,
    clock_offset: u32,
    stamps: Option<(u32, u32)>,
    pub stamp_seen: u32,
    /// Other options of the segment that completed the handshake.
    pub handshake_options: Vec<(u8, Vec<u8>)>,
    pub retransmissions: u32,
    pub out: Vec<Vec<u8>>,
}

impl Endpoint {
    fn new(
        local: (IpAddr, u16),
        peer: (IpAddr, u16),
        macs: (MacAddr, MacAddr),
        stack: Stack,
        seed: u32,
    ) -> Self {
        Endpoint {
            local,
            peer,
            macs,
            stack,
            state: State::SynSent,
            scales: None,
            sack: false,
            timestamps: false,
            peer_mss: 536,
            first: seed.wrapping_mul(0x9e37_79b9),
            peer_first: 0,
            outgoing: Vec::new(),
            closes: false,
            acked: 0,
            next: 0,
            sent_max: 0,
            window: 0,
            window_from: (0, 0),
            sacked: Vec::new(),
            duplicates: 0,
            timeout_at: None,
            timeout_us: RTO_START_US,
            received: Vec::new(),
            pieces: BTreeMap::new(),
            fin_at: None,
            fin_received: false,
            edge_max: 0,
            duplicate_block: None,
            clock_offset: seed.wrapping_mul(0x85eb_ca6b),
            stamps: None,
            stamp_seen: 0,
            handshake_options: Vec::new(),
            retransmissions: 0,
            out: Vec::new(),
        }
    }

    pub fn connect(
        local: (IpAddr, u16),
        peer: (IpAddr, u16),
        macs: (MacAddr, MacAddr),
        (stack, seed): (Stack, u32),
        now: u64,
    ) -> Self {
        let mut client = Endpoint::new(local, peer, macs, stack, seed);
        client.timestamps = stack.timestamps;
        client.send_syn(now);
        client
    }

    pub fn accept(
        syn: &Segment,
        macs: (MacAddr, MacAddr),
        (stack, seed): (Stack, u32),
        now: u64,
    ) -> Self {
        let mut server = Endpoint::new(syn.dst.unwrap(), syn.src.unwrap(), macs, stack, seed);
        server.state = State::SynReceived;
        server.peer_first = syn.seq;
        server.agree(syn);
        if server.timestamps {
            server.stamp_seen = syn.timestamps.unwrap().0;
        }
        server.window = u32::from(syn.window);
        server.send_syn(now);
        server
    }

    fn agree(&mut self, syn: &Segment) {
        self.sack = self.stack.sack && syn.sack_permitted;
        self.timestamps = self.stack.timestamps && syn.timestamps.is_some();
        self.scales = self.stack.scale.zip(syn.scale);
        self.peer_mss = syn.mss.unwrap_or(536);
    }

    /// Whether all was sent and acknowledged, and the peer's end seen.
    pub fn is_done(&self) -> bool {
        self.closes && self.fin_received && self.acked == self.outgoing.len() as u32 + 2
    }

    pub fn receive_next(&self) -> u32 {
        let fin = u32::from(self.fin_received);
        self.peer_first.wrapping_add(1 + self.received.len() as u32 + fin)
    }

    fn clock(&self, now: u64) -> u32 {
        ((now / 1000) as u32).wrapping_add(self.clock_offset)
    }

    fn own_window(&self) -> (u16, u32) {
        let shift =
            if self.state == State::Established { self.scales.map_or(0, |s| s.0) } else { 0 };
        let field = (self.stack.buffer >> shift).min(65535) as u16;
        (field, u32::from(field) << shift)
    }

    fn emit(&mut self, flags: TcpFlags, offset: u32, payload: &[u8], now: u64) {
        let (field, bytes) = self.own_window();
        let ack = if flags.contains(ACK) { self.receive_next() } else { 0 };
        let mut tcp = PacketBuilder::new()
            .ethernet(self.macs.0, self.macs.1)
            .ip(self.local.0, self.peer.0)
            .unwrap()
            .dont_fragment()
            .tcp(self.local.1, self.peer.1)
            .seq(self.first.wrapping_add(offset))
            .ack(ack)
            .flags(flags)
            .window(field)
            .payload(payload);
        if flags.contains(SYN) {
            tcp = tcp.option(TcpOption::Mss(self.stack.mss));
            let answers = flags.contains(ACK);
            if if answers { self.sack } else { self.stack.sack } {
                tcp = tcp.option(TcpOption::SackPermitted);
            }
            let scale = if answers { self.scales.map(|s| s.0) } else { self.stack.scale };
            if let Some(shift) = scale {
                tcp = tcp.option(TcpOption::Nop).option(TcpOption::WindowScale(shift));
            }
        }
        if self.timestamps {
            let value = self.clock(now);
            let first = self.stamps.map_or(value, |stamps| stamps.0);
            self.stamps = Some((first, value));
            let echo = if flags.contains(ACK) { self.stamp_seen } else { 0 };
            tcp = tcp.option(TcpOption::Nop).option(TcpOption::Nop);
            tcp = tcp.option(TcpOption::Timestamps { value, echo });
        }
        if self.sack && !flags.contains(SYN) {
            let mut blocks: Vec<_> = self.duplicate_block.take().into_iter().collect();
            blocks.extend(self.blocks());
            blocks.truncate(3);
            if !blocks.is_empty() {
                tcp = tcp.option(TcpOption::Nop).option(TcpOption::Nop).sack(&blocks);
            }
        }
        let edge = self.receive_next().wrapping_sub(self.peer_first).wrapping_add(bytes);
        self.edge_max = self.edge_max.max(edge);
        self.out.push(tcp.build().to_vec());
    }

    fn blocks(&self) -> Vec<(u32, u32)> {
        let mut blocks: Vec<(u32, u32)> = Vec::new();
        for (at, piece) in &self.pieces {
            let (left, right) = (*at, at + piece.len() as u32);
            match blocks.last_mut() {
                Some(last) if last.1 >= left => last.1 = last.1.max(right),
                _ => blocks.push((left, right)),
            }
        }
        let base = self.peer_first;
        blocks.iter().map(|b| (base.wrapping_add(b.0), base.wrapping_add(b.1))).collect()
    }

    fn send_syn(&mut self, now: u64) {
        let flags = if self.state == State::SynSent { SYN } else { SYN | ACK };
        self.emit(flags, 0, &[], now);
        self.next = 1;
        self.sent_max = self.sent_max.max(1);
        self.timeout_at = Some(now + self.timeout_us * 5);
    }

    /// Sends what the windows allow.
    pub fn push(&mut self, now: u64) {
        if self.state != State::Established {
            return;
        }
        let options = if self.timestamps { 12 } else { 0 };
        let mss = u32::from(self.peer_mss.min(self.stack.mss)) - options;
        let limit = self.acked + self.window.min(SEGMENTS_IN_FLIGHT * mss);
        let end = 1 + self.outgoing.len() as u32;
        loop {
            self.skip_sacked();
            let room = limit.saturating_sub(self.next).min(mss);
            let left = end.saturating_sub(self.next);
            let count = left.min(room);
            let fin = self.closes && left == count && self.next <= end && limit >= self.next;
            if count == 0 && !fin {
                break;
            }
            self.send_piece(count, fin, now);
        }
        if self.next > self.acked && self.timeout_at.is_none() {
            self.timeout_at = Some(now + self.timeout_us);
        }
    }

    fn skip_sacked(&mut self) {
        while let Some(block) =
            self.sacked.iter().find(|block| (block.0..block.1).contains(&self.next))
        {
            self.next = block.1;
        }
    }

    fn send_piece(&mut self, count: u32, fin: bool, now: u64) {
        let at = self.next;
        let from = at as usize - 1;
        let payload = self.outgoing.get(from..from + count as usize).unwrap_or(&[]).to_vec();
        let flags = if fin { ACK | FIN } else { ACK };
        if at < self.sent_max {
            self.retransmissions += 1;
        }
        self.emit(flags, at, &payload, now);
        self.next += count + u32::from(fin);
        self.sent_max = self.sent_max.max(self.next);
    }

    pub fn tick(&mut self, now: u64) {
        let Some(at) = self.timeout_at.filter(|at| *at <= now) else { return };
        let _ = at;
        self.timeout_us = (self.timeout_us * 2).min(RTO_MAX_US);
        self.timeout_at = Some(now + self.timeout_us);
        match self.state {
            State::SynSent | State::SynReceived => self.send_syn(now),
            State::Established => {
                self.sacked.clear();
                self.next = self.acked.max(1);
                if self.window == 0 && self.acked <= self.outgoing.len() as u32 {
                    self.window = 1;
                }
                self.push(now);
            }
            State::Reset => self.timeout_at = None,
        }
    }

    pub fn receive(&mut self, segment: &Segment, now: u64) {
        if segment.has(RST) {
            self.state = State::Reset;
            self.timeout_at = None;
            return;
        }
        match self.state {
            State::SynSent => self.answered(segment, now),
            State::SynReceived if segment.has(SYN) => self.send_syn(now),
            State::SynReceived | State::Established => self.established(segment, now),
            State::Reset => {}
        }
    }

    fn answered(&mut self, segment: &Segment, now: u64) {
        assert!(segment.has(SYN | ACK), "{segment:?}");
        assert_eq!(segment.ack, self.first.wrapping_add(1), "SYN-ACK acknowledges the SYN");
        assert!(segment.scale.is_none() || self.stack.scale.is_some());
        assert!(segment.timestamps.is_none() || self.stack.timestamps);
        self.peer_first = segment.seq;
        self.agree(segment);
        self.check_stamps(segment);
        if self.timestamps {
            self.stamp_seen = segment.timestamps.unwrap().0;
        }
        self.state = State::Established;
        self.acked = 1;
        self.next = 1;
        self.timeout_at = None;
        self.timeout_us = RTO_START_US;
        self.window = u32::from(segment.window);
        self.window_from = (0, 1);
        self.emit(ACK, 1, &[], now);
        self.push(now);
    }

    fn check_stamps(&self, segment: &Segment) {
        assert_eq!(segment.timestamps.is_some(), self.timestamps, "{segment:?}");
        let (Some((_, echo)), Some((first, last))) = (segment.timestamps, self.stamps) else {
            return;
        };
        if segment.has(ACK) {
            let known = echo.wrapping_sub(first) <= last.wrapping_sub(first);
            assert!(known, "echo {echo} of a time never sent ({first} to {last}): {segment:?}");
        }
    }

    fn established(&mut self, segment: &Segment, now: u64) {
        if segment.has(SYN) {
            // A repeated SYN-ACK: the last ACK was lost.
            self.emit(ACK, self.sent_max.max(1), &[], now);
            return;
        }
        assert!(segment.has(ACK), "{segment:?}");
        if self.state == State::SynReceived && segment.ack != self.first.wrapping_add(1) {
            return;
        }
        self.check_stamps(segment);
        if let Some((value, _)) = segment.timestamps {
            if (value.wrapping_sub(self.stamp_seen) as i32) < 0 {
                // Too old (RFC 7323 section 5): not looked at.
                self.emit(ACK, self.sent_max, &[], now);
                return;
            }
            let start = segment.seq.wrapping_sub(self.peer_first) as i32;
            if start <= self.receive_next().wrapping_sub(self.peer_first) as i32 {
                self.stamp_seen = value;
            }
        }
        let ack = segment.ack.wrapping_sub(self.first);
        if self.is_done() && ack as i32 <= 0 {
            return;
        }
        assert!(
            (1..=self.sent_max.max(1)).contains(&ack),
            "ack {ack} of {}, done {}, fin {}: {segment:?}",
            self.sent_max,
            self.is_done(),
            self.fin_received,
        );
        if self.state == State::SynReceived {
            self.state = State::Established;
            self.handshake_options = segment.others.clone();
            self.timeout_at = None;
            self.timeout_us = RTO_START_US;
            self.acked = 1;
        }
        self.take_ack(segment, ack, now);
        self.take_data(segment, now);
        self.push(now);
    }

    fn take_ack(&mut self, segment: &Segment, ack: u32, now: u64) {
        let shift = self.scales.map_or(0, |scales| scales.1);
        let window = u32::from(segment.window) << shift;
        let start = segment.seq.wrapping_sub(self.peer_first);
        let is_newer = (start as i32, ack) >= (self.window_from.0 as i32, self.window_from.1);
        let is_same = window == self.window;
        if is_newer {
            self.window = window;
            self.window_from = (start, ack);
        }
        for (left, right) in &segment.sacks {
            let block = (left.wrapping_sub(self.first), right.wrapping_sub(self.first));
            assert!(block.0 < block.1 && block.0 >= 1, "block {block:?}");
            assert!(block.1 <= self.sent_max, "block {block:?} beyond {}", self.sent_max);
            if block.0 >= ack {
                assert!(block.0 > ack, "first missing byte {ack} is said to have arrived");
                self.sacked.push(block);
            }
        }
        if ack > self.acked {
            self.acked = ack;
            self.next = self.next.max(ack);
            self.duplicates = 0;
            self.sacked.retain(|block| block.1 > ack);
            self.timeout_us = RTO_START_US;
            let outstanding = self.sent_max > ack;
            self.timeout_at = outstanding.then_some(now + self.timeout_us);
        } else if ack == self.acked && segment.space() == 0 && is_same && self.sent_max > ack {
            self.duplicates += 1;
            if self.duplicates == 3 {
                self.next = self.acked;
                let keep = self.window;
                self.window = keep.min(1460);
                self.push(now);
                self.window = keep;
                self.next = self.sent_max;
            }
        }
    }

    fn take_data(&mut self, segment: &Segment, now: u64) {
        if segment.space() == 0 {
            return;
        }
        let start = segment.seq.wrapping_sub(self.peer_first);
        let end = start.wrapping_add(segment.payload.len() as u32);
        let edge = self.edge_max + WINDOW_SLACK;
        assert!(end <= edge, "{end} lies beyond the window's edge {edge}");
        let have = 1 + self.received.len() as u32;
        if start < have {
            self.duplicate_block = (!segment.payload.is_empty()).then(|| {
                let right = self.peer_first.wrapping_add(end.min(have));
                (segment.seq, right)
            });
        }
        if !segment.payload.is_empty() {
            self.pieces.insert(start, segment.payload.clone());
        }
        if segment.has(FIN) {
            assert!(self.fin_at.is_none_or(|at| at == end));
            self.fin_at = Some(end);
        }
        self.join_pieces();
        self.fin_received |= self.fin_at == Some(1 + self.received.len() as u32);
        self.emit(ACK, self.sent_max, &[], now);
    }

    fn join_pieces(&mut self) {
        while let Some((at, piece)) = self.pieces.pop_first() {
            let have = 1 + self.received.len() as u32;
            if at > have {
                self.pieces.insert(at, piece);
                return;
            }
            // What arrived before must be what arrives again.
            let old = (have - at) as usize;
            let same = old.min(piece.len());
            assert_eq!(&self.received[at as usize - 1..at as usize - 1 + same], &piece[..same]);
            self.received.extend(piece.get(old..).unwrap_or(&[]));
        }
    }
}
