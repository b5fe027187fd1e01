//! One trial's outcome, and what may run one: a real port or, in tests, a simulated device.

use hdrhistogram::Histogram;

use super::tracker::Counts;

/// Who kept a figure from being higher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitedBy {
    /// The device under test lost frames.
    Device,
    /// The highest rate asked for passed.
    MaxRate,
    /// The generator could not send as fast as it was asked to.
    Sender,
    /// The generator's own port dropped frames on receipt.
    Receiver,
}

/// Frames asked for and not sent, as a share, that are put down to clocks and not to the sender.
const SHORTFALL_MAX: f64 = 0.001;

/// What was sent and what came back.
#[derive(Clone, Debug)]
pub struct Trial {
    /// Asked for, in frames a second.
    pub load_fps: f64,
    /// How long frames were sent, in seconds.
    pub duration_s: f64,
    /// Frames that the rate asked for in that time.
    pub asked: u64,
    /// Frames that the port took.
    pub sent: u64,
    /// Frames that the receiving port itself dropped for want of room.
    pub receiver_drops: u64,
    /// What came back.
    pub counts: Counts,
    /// In nanoseconds.
    pub latency: Histogram<u64>,
}

impl Trial {
    /// Frames sent that never came back.
    pub fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.counts.received)
    }

    /// Lost frames of those sent, from 0 to 1.
    pub fn loss_ratio(&self) -> f64 {
        self.lost() as f64 / self.sent.max(1) as f64
    }

    /// As a search sees it: what was asked for and not sent was not carried either, so a rate
    /// that the sender could not keep never counts as passed.
    pub fn search_loss_ratio(&self) -> f64 {
        if !self.is_sender_short() {
            return self.loss_ratio();
        }
        self.asked.saturating_sub(self.counts.received) as f64 / self.asked.max(1) as f64
    }

    /// Whether the sender did not keep the rate.
    pub fn is_sender_short(&self) -> bool {
        let short = self.asked.saturating_sub(self.sent) as f64;
        // One frame of very few is no shortfall either.
        short > 1.0 && short > self.asked as f64 * SHORTFALL_MAX
    }

    /// Frames a second really sent.
    pub fn sent_fps(&self) -> f64 {
        self.sent as f64 / self.duration_s
    }

    /// Frames a second that came back, over the time of sending.
    pub fn received_fps(&self) -> f64 {
        self.counts.received as f64 / self.duration_s
    }

    /// Whether the generator spoilt the trial, and how; `None` when it did not.
    pub fn generator_limit(&self) -> Option<LimitedBy> {
        if self.is_sender_short() {
            return Some(LimitedBy::Sender);
        }
        (self.receiver_drops > 0 && self.lost() > 0).then_some(LimitedBy::Receiver)
    }
}

/// Carries traffic for a while.
pub trait Device {
    /// Runs one trial. Errors end the whole search.
    fn trial(&mut self, load_fps: f64, duration_s: f64) -> anyhow::Result<Trial>;

    /// Sends `frames` back to back at `load_fps`.
    fn burst(&mut self, load_fps: f64, frames: u64) -> anyhow::Result<Trial>;

    /// Whether the user wants an end.
    fn is_stopped(&self) -> bool {
        false
    }
}

#[cfg(test)]
pub mod simulated {
    //! A device made of arithmetic: so many frames a second, so deep a queue.

    use super::*;
    use crate::tracker::new_histogram;

    /// Loses what exceeds its rate and its queue; and the sender has its own bound.
    pub struct Simulated {
        /// Frames a second that it forwards.
        pub capacity_fps: f64,
        /// Frames it holds back while too many come.
        pub queue_frames: u64,
        /// Frames it loses of each million, whatever the rate.
        pub lost_per_million: u64,
        /// Frames a second that the sender can make.
        pub sender_fps: f64,
        /// Every so manieth trial has one more frame lost.
        pub hiccup_every: usize,
        /// Load and duration of every trial so far.
        pub log: Vec<(f64, f64)>,
    }

    impl Simulated {
        /// Without queue, noise or a sender's bound.
        pub fn new(capacity_fps: f64) -> Self {
            Simulated {
                capacity_fps,
                queue_frames: 0,
                lost_per_million: 0,
                sender_fps: f64::MAX,
                hiccup_every: usize::MAX,
                log: Vec::new(),
            }
        }

        fn carry(&mut self, load_fps: f64, duration_s: f64, asked: u64) -> Trial {
            self.log.push((load_fps, duration_s));
            let sent_fps = load_fps.min(self.sender_fps);
            let sent = asked.min((sent_fps * duration_s).round() as u64);
            let carried = (self.capacity_fps * duration_s) as u64 + self.queue_frames;
            let mut received = sent.min(carried);
            received -= sent / 1_000_000 * self.lost_per_million;
            if self.log.len().is_multiple_of(self.hiccup_every) {
                received -= 1;
            }
            let counts = Counts { received, ..Counts::default() };
            let latency = new_histogram();
            Trial { load_fps, duration_s, asked, sent, receiver_drops: 0, counts, latency }
        }
    }

    impl Device for Simulated {
        fn trial(&mut self, load_fps: f64, duration_s: f64) -> anyhow::Result<Trial> {
            let asked = (load_fps * duration_s).round() as u64;
            Ok(self.carry(load_fps, duration_s, asked))
        }

        fn burst(&mut self, load_fps: f64, frames: u64) -> anyhow::Result<Trial> {
            Ok(self.carry(load_fps, frames as f64 / load_fps, frames))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tracker::new_histogram;

    fn trial(asked: u64, sent: u64, received: u64, receiver_drops: u64) -> Trial {
        let counts = Counts { received, ..Counts::default() };
        let latency = new_histogram();
        Trial { load_fps: 1e5, duration_s: 1.0, asked, sent, receiver_drops, counts, latency }
    }

    #[test]
    fn a_sender_that_falls_short_is_not_the_devices_loss_nor_its_credit() {
        let short = trial(100_000, 90_000, 90_000, 0);
        assert_eq!((short.lost(), short.loss_ratio()), (0, 0.0));
        assert!((short.search_loss_ratio() - 0.1).abs() < 1e-9);
        assert_eq!(short.generator_limit(), Some(LimitedBy::Sender));
        let kept = trial(100_000, 99_990, 99_990, 0);
        assert_eq!((kept.search_loss_ratio(), kept.generator_limit()), (0.0, None));
    }

    #[test]
    fn drops_of_the_own_port_are_the_receivers() {
        assert_eq!(trial(10, 10, 8, 2).generator_limit(), Some(LimitedBy::Receiver));
        assert_eq!(trial(10, 10, 8, 0).generator_limit(), None);
        assert_eq!(trial(10, 10, 10, 2).generator_limit(), None, "of other frames");
    }
}
