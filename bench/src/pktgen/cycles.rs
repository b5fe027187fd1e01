//! Clients that open a connection, ask once, and close: their states, without a port.
//!
//! Plays well with a server that keeps no state (`reflection`) and with a real one that closes
//! by itself. Nothing is sent twice: a lost segment is a failed connection, and says so.

use std::collections::VecDeque;

use gyre::wire::tcp::TcpFlags;
use hdrhistogram::Histogram;

use super::random::Random;
use super::tracker::new_histogram;

/// What to send on a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Say {
    /// Whose connection.
    pub flow: u32,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number.
    pub ack: u32,
    /// Flags.
    pub flags: TcpFlags,
    /// Whether the request goes along.
    pub carries_request: bool,
}

/// What a server said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// On whose connection.
    pub flow: u32,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number.
    pub ack: u32,
    /// Flags.
    pub flags: TcpFlags,
    /// Bytes of payload.
    pub payload_bytes: u32,
}

/// Counts of connections and segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct CycleCounts {
    /// SYNs sent.
    pub opened: u64,
    /// SYN-ACKs that fitted.
    pub connected: u64,
    /// Requests answered.
    pub answered: u64,
    /// Connections closed by both sides.
    pub completed: u64,
    /// Connections that went unanswered for too long, at any stage.
    pub timed_out: u64,
    /// Connections that the other side reset.
    pub reset: u64,
    /// Connections not opened, since every flow was in use.
    pub no_free_flow: u64,
    /// Segments that fitted no connection's stage.
    pub unexpected: u64,
    /// Segments sent.
    pub segments_sent: u64,
    /// Segments received on our flows.
    pub segments_received: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Closed,
    SynSent,
    Asked,
    /// We closed first.
    FinSent,
    /// The server closed first.
    LastAck,
}

#[derive(Clone, Copy, Debug, Default)]
struct Connection {
    stage: Stage,
    /// Sequence of our SYN.
    initial: u32,
    /// The next number expected of the server.
    expected: u32,
    opened_ns: u64,
    /// Distinguishes this connection from the flow's earlier ones.
    generation: u32,
}

/// All clients' connections.
pub struct Cycles {
    connections: Vec<Connection>,
    next_flow: u32,
    request_bytes: u32,
    timeout_ns: u64,
    /// Opened connections by age, with their generation.
    ages: VecDeque<(u64, u32, u32)>,
    open: u32,
    random: Random,
    counts: CycleCounts,
    connect_ns: Histogram<u64>,
    cycle_ns: Histogram<u64>,
}

impl Cycles {
    /// Clients on `flows` flows that ask with `request_bytes` and give up after `timeout_ns`.
    pub fn new(flows: u32, request_bytes: u16, timeout_ns: u64, seed: u64) -> Self {
        Cycles {
            connections: vec![Connection::default(); flows as usize],
            next_flow: 0,
            request_bytes: u32::from(request_bytes),
            timeout_ns,
            ages: VecDeque::new(),
            open: 0,
            random: Random::new(seed),
            counts: CycleCounts::default(),
            connect_ns: new_histogram(),
            cycle_ns: new_histogram(),
        }
    }

    /// Counts so far.
    pub fn counts(&self) -> CycleCounts {
        self.counts
    }

    /// Connections not yet closed.
    pub fn open(&self) -> u32 {
        self.open
    }

    /// Nanoseconds from SYN to SYN-ACK, and from SYN to the last segment received.
    pub fn latencies(&self) -> (&Histogram<u64>, &Histogram<u64>) {
        (&self.connect_ns, &self.cycle_ns)
    }

    /// Opens a connection on the next flow; `None` when that one is still in use.
    pub fn open_next(&mut self, now_ns: u64) -> Option<Say> {
        let flow = self.next_flow;
        self.next_flow = (flow + 1) % self.connections.len() as u32;
        let connection = &mut self.connections[flow as usize];
        if connection.stage != Stage::Closed {
            self.counts.no_free_flow += 1;
            return None;
        }
        let generation = connection.generation.wrapping_add(1);
        let initial = self.random.next() as u32;
        *connection = Connection {
            stage: Stage::SynSent,
            initial,
            expected: 0,
            opened_ns: now_ns,
            generation,
        };
        self.ages.push_back((now_ns, flow, generation));
        self.open += 1;
        self.counts.opened += 1;
        Some(self.say(flow, (initial, 0), TcpFlags::SYN))
    }

    fn say(&mut self, flow: u32, (seq, ack): (u32, u32), flags: TcpFlags) -> Say {
        self.counts.segments_sent += 1;
        Say { flow, seq, ack, flags, carries_request: false }
    }

    /// Takes what the server said; up to two segments answer it.
    pub fn hear(&mut self, heard: Heard, now_ns: u64) -> [Option<Say>; 2] {
        self.counts.segments_received += 1;
        let Some(connection) = self.connections.get(heard.flow as usize).copied() else {
            self.counts.unexpected += 1;
            return [None; 2];
        };
        if connection.stage != Stage::Closed && heard.flags.contains(TcpFlags::RST) {
            self.counts.reset += 1;
            self.close(heard.flow);
            return [None; 2];
        }
        match connection.stage {
            Stage::SynSent => self.connect(connection, heard, now_ns),
            Stage::Asked => self.take_answer(connection, heard),
            Stage::FinSent => self.take_end(connection, heard, now_ns),
            Stage::LastAck => self.take_last(connection, heard, now_ns),
            Stage::Closed => {
                self.counts.unexpected += 1;
                [None; 2]
            }
        }
    }

    fn connect(&mut self, connection: Connection, heard: Heard, now_ns: u64) -> [Option<Say>; 2] {
        let start = connection.initial.wrapping_add(1);
        if !heard.flags.contains(TcpFlags::SYN | TcpFlags::ACK) || heard.ack != start {
            self.counts.unexpected += 1;
            return [None; 2];
        }
        self.counts.connected += 1;
        self.connect_ns.saturating_record(now_ns.saturating_sub(connection.opened_ns).max(1));
        let expected = heard.seq.wrapping_add(1);
        self.advance(heard.flow, Stage::Asked, expected);
        let acknowledge = self.say(heard.flow, (start, expected), TcpFlags::ACK);
        let flags = TcpFlags::ACK | TcpFlags::PSH;
        let request =
            Say { carries_request: true, ..self.say(heard.flow, (start, expected), flags) };
        [Some(acknowledge), Some(request)]
    }

    fn take_answer(&mut self, connection: Connection, heard: Heard) -> [Option<Say>; 2] {
        let is_end = heard.flags.contains(TcpFlags::FIN);
        if heard.seq != connection.expected {
            self.counts.unexpected += 1;
            return [None; 2];
        }
        if heard.payload_bytes == 0 && !is_end {
            // Acknowledges the request, no more.
            return [None; 2];
        }
        self.counts.answered += u64::from(heard.payload_bytes > 0);
        let expected = after(connection.expected, heard);
        let stage = if is_end { Stage::LastAck } else { Stage::FinSent };
        self.advance(heard.flow, stage, expected);
        let seq = self.end_of_request(connection);
        [Some(self.say(heard.flow, (seq, expected), TcpFlags::FIN | TcpFlags::ACK)), None]
    }

    fn take_end(&mut self, connection: Connection, heard: Heard, now_ns: u64) -> [Option<Say>; 2] {
        if heard.seq != connection.expected {
            self.counts.unexpected += 1;
            return [None; 2];
        }
        let expected = after(connection.expected, heard);
        let is_end = heard.flags.contains(TcpFlags::FIN);
        if is_end {
            self.complete(connection, heard.flow, now_ns);
        } else if heard.payload_bytes == 0 {
            return [None; 2];
        } else {
            self.advance(heard.flow, Stage::FinSent, expected);
        }
        let seq = self.end_of_request(connection).wrapping_add(1);
        [Some(self.say(heard.flow, (seq, expected), TcpFlags::ACK)), None]
    }

    fn take_last(&mut self, connection: Connection, heard: Heard, now_ns: u64) -> [Option<Say>; 2] {
        let end = self.end_of_request(connection).wrapping_add(1);
        if heard.flags.contains(TcpFlags::ACK) && heard.ack == end {
            self.complete(connection, heard.flow, now_ns);
        }
        [None; 2]
    }

    fn end_of_request(&self, connection: Connection) -> u32 {
        connection.initial.wrapping_add(1).wrapping_add(self.request_bytes)
    }

    fn advance(&mut self, flow: u32, stage: Stage, expected: u32) {
        let connection = &mut self.connections[flow as usize];
        connection.stage = stage;
        connection.expected = expected;
    }

    fn complete(&mut self, connection: Connection, flow: u32, now_ns: u64) {
        self.counts.completed += 1;
        self.cycle_ns.saturating_record(now_ns.saturating_sub(connection.opened_ns).max(1));
        self.close(flow);
    }

    fn close(&mut self, flow: u32) {
        self.connections[flow as usize].stage = Stage::Closed;
        self.open -= 1;
    }

    /// Gives up one connection that is too old, with the reset to send for it; `None` when there
    /// is none. Call it until then.
    pub fn expire(&mut self, now_ns: u64) -> Option<Say> {
        while let Some(&(opened_ns, flow, generation)) = self.ages.front() {
            let connection = self.connections[flow as usize];
            let is_over = connection.stage == Stage::Closed || connection.generation != generation;
            if !is_over && now_ns < opened_ns + self.timeout_ns {
                return None;
            }
            self.ages.pop_front();
            if !is_over {
                self.counts.timed_out += 1;
                self.close(flow);
                let numbers = (connection.initial.wrapping_add(1), connection.expected);
                return Some(self.say(flow, numbers, TcpFlags::RST | TcpFlags::ACK));
            }
        }
        None
    }
}

/// The number behind what was heard.
fn after(expected: u32, heard: Heard) -> u32 {
    let end = u32::from(heard.flags.contains(TcpFlags::FIN));
    expected.wrapping_add(heard.payload_bytes).wrapping_add(end)
}

#[cfg(test)]
#[path = "cycles_tests.rs"]
mod tests;
