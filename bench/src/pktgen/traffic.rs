//! What is sent next: the frames of a stream in their order, or a flood's.

use std::sync::Arc;

use super::clients::Clients;
use super::frame::{Stamp, Templates};
use super::random::Random;
use super::schedule::Schedule;

/// Whose frame comes next.
#[derive(Clone, Debug)]
pub enum Order {
    /// As drawn, round after round.
    Drawn(Arc<Schedule>),
    /// Every flow once, in order of numbers: to establish them.
    Each,
    /// Any client at random: a flood's spoofed sources.
    Random(Random),
}

/// A source of frames.
#[derive(Clone, Debug)]
pub struct Traffic {
    clients: Clients,
    templates: Arc<Templates>,
    order: Order,
    stream: u16,
    sequence: u64,
}

impl Traffic {
    /// Frames of `clients`, numbered from 0 under the id `stream`.
    pub fn new(clients: Clients, templates: Arc<Templates>, order: Order, stream: u16) -> Self {
        Traffic { clients, templates, order, stream, sequence: 0 }
    }

    /// The next frame's length in memory, in bytes.
    pub fn next_len(&self) -> usize {
        self.templates.of(self.sequence).len()
    }

    /// Writes the next frame into `frame`, which is as long as [`Traffic::next_len`] says.
    pub fn write_next(&mut self, frame: &mut [u8], now_ns: u64) {
        let sequence = self.sequence;
        let flow = match &mut self.order {
            Order::Drawn(schedule) => schedule.flow(sequence),
            Order::Each => (sequence % u64::from(self.clients.flows())) as u32,
            Order::Random(random) => random.below(u64::from(self.clients.flows())) as u32,
        };
        let stamp = Stamp { stream: self.stream, sequence: sequence as u32, sent_ns: now_ns };
        self.templates.of(sequence).write(frame, self.clients.client(flow), stamp);
        self.sequence += 1;
    }
}
