//! What came back of a trial: counts of frames by their stamps, and latency.
//!
//! A frame's flow follows from its sequence by the trial's schedule, so order is judged within
//! flows, as a connection would see it, beside over all.

use std::sync::Arc;

use hdrhistogram::Histogram;

use super::frame::Stamp;
use super::schedule::Schedule;

/// Sequences remembered behind the highest, to tell duplicates from late frames: more than a
/// second at line rate of the smallest frames. A power of two.
const WINDOW: u64 = 1 << 24;
const WORD_BITS: u64 = 64;
/// Latencies above are counted as this: 100 s, in nanoseconds.
const LATENCY_NS_MAX: u64 = 100_000_000_000;

/// Counts of what came back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Frames of the trial, each counted once.
    pub received: u64,
    /// Frames that had come before.
    pub duplicates: u64,
    /// Frames behind a later one of their own flow.
    pub out_of_order: u64,
    /// Frames behind a later one of any flow.
    pub out_of_order_any: u64,
    /// Frames more than 16.7 million behind: duplicate or not cannot be told, so they count as
    /// lost.
    pub too_late: u64,
    /// Frames of an earlier trial.
    pub stale: u64,
    /// Frames that carry no stamp.
    pub foreign: u64,
    /// Bytes of the frames received, duplicates included, without FCS.
    pub bytes: u64,
}

/// Follows one trial's frames.
pub struct Tracker {
    stream: u16,
    schedule: Arc<Schedule>,
    /// One past the highest sequence seen.
    next: u64,
    window: Vec<u64>,
    /// The low bits of one past the highest sequence by flow; 0 for none yet.
    next_by_flow: Vec<u32>,
    counts: Counts,
    latency: Histogram<u64>,
}

/// Latency from 1 ns up with three significant digits.
pub fn new_histogram() -> Histogram<u64> {
    // The bounds are constants that the crate accepts.
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).unwrap_or_else(|_| unreachable!("bounds"))
}

impl Tracker {
    /// Follows frames of `stream` over `flows` flows.
    pub fn new(stream: u16, schedule: Arc<Schedule>, flows: u32) -> Self {
        Tracker {
            stream,
            schedule,
            next: 0,
            window: vec![0; (WINDOW / WORD_BITS) as usize],
            next_by_flow: vec![0; flows as usize],
            counts: Counts::default(),
            latency: new_histogram(),
        }
    }

    /// Counts so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Latencies so far, in nanoseconds.
    pub fn latency(&self) -> &Histogram<u64> {
        &self.latency
    }

    /// A frame without a stamp came.
    pub fn foreign(&mut self) {
        self.counts.foreign += 1;
    }

    /// A stamped frame of `bytes` came at `now_ns`.
    pub fn accept(&mut self, stamp: Stamp, bytes: usize, now_ns: u64) {
        if stamp.stream != self.stream {
            self.counts.stale += 1;
            return;
        }
        self.counts.bytes += bytes as u64;
        let Some(sequence) = self.unwrap(stamp.sequence) else {
            self.counts.too_late += 1;
            return;
        };
        self.move_window(sequence);
        if !self.mark(sequence) {
            self.counts.duplicates += 1;
            return;
        }
        self.counts.received += 1;
        self.judge_order(sequence);
        let latency = now_ns.saturating_sub(stamp.sent_ns);
        self.latency.saturating_record(latency.max(1));
    }

    /// The sequence nearest to those seen last that has these low bits; `None` when it lies
    /// behind the window.
    fn unwrap(&self, low: u32) -> Option<u64> {
        let ahead = low.wrapping_sub(self.next as u32) as i32;
        let sequence = self.next.checked_add_signed(i64::from(ahead))?;
        (sequence + WINDOW > self.next).then_some(sequence)
    }

    /// Makes room for `sequence`: what falls out of the window is forgotten.
    fn move_window(&mut self, sequence: u64) {
        let Some(steps) = sequence.checked_sub(self.next) else { return };
        if steps >= WINDOW {
            self.window.fill(0);
            return;
        }
        let mut old = self.next;
        while old <= sequence {
            let at = old % WINDOW;
            let (word, bit) = ((at / WORD_BITS) as usize, at % WORD_BITS);
            // As many as are left of this word, or of what is to be forgotten.
            let count = (WORD_BITS - bit).min(sequence - old + 1);
            let mask = (u64::MAX >> (WORD_BITS - count)) << bit;
            self.window[word] &= !mask;
            old += count;
        }
    }

    /// Marks as seen; `false` when it was.
    fn mark(&mut self, sequence: u64) -> bool {
        let at = sequence % WINDOW;
        let (word, bit) = ((at / WORD_BITS) as usize, 1 << (at % WORD_BITS));
        let is_new = self.window[word] & bit == 0;
        self.window[word] |= bit;
        is_new
    }

    fn judge_order(&mut self, sequence: u64) {
        if sequence < self.next {
            self.counts.out_of_order_any += 1;
        } else {
            self.next = sequence + 1;
        }
        let flow = self.schedule.flow(sequence) as usize;
        let Some(next) = self.next_by_flow.get_mut(flow) else { return };
        let own = (sequence + 1) as u32;
        if *next != 0 && (own.wrapping_sub(*next) as i32) < 0 {
            self.counts.out_of_order += 1;
        } else {
            *next = own;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Distribution;

    const FLOWS: u32 = 4;

    fn tracker() -> Tracker {
        let schedule = Arc::new(Schedule::draw(FLOWS, Distribution::Uniform, 1));
        Tracker::new(9, schedule, FLOWS)
    }

    fn accept(tracker: &mut Tracker, sequence: u64) {
        let stamp = Stamp { stream: 9, sequence: sequence as u32, sent_ns: 1000 };
        tracker.accept(stamp, 60, 3000);
    }

    #[test]
    fn loss_duplicates_and_order_are_told_apart() {
        let mut tracker = tracker();
        for sequence in [0, 1, 2, 4, 3, 3, 6, 7, 0, 8] {
            accept(&mut tracker, sequence);
        }
        let counts = tracker.counts();
        assert_eq!(counts.received, 8, "0 1 2 4 3 6 7 8; 5 is missing");
        assert_eq!(counts.duplicates, 2, "3 and 0");
        assert_eq!((counts.out_of_order_any, counts.out_of_order), (1, 0), "3 and 4: two flows");
        // 4 and 8 share a flow: round of four.
        accept(&mut tracker, 12);
        accept(&mut tracker, 16);
        accept(&mut tracker, 9);
        accept(&mut tracker, 5);
        assert_eq!(tracker.counts().out_of_order, 1, "5 behind 9 in its flow");
        assert_eq!(tracker.counts().bytes, 14 * 60);
    }

    #[test]
    fn sequences_go_on_past_32_bits() {
        let mut tracker = tracker();
        let step = WINDOW * 4 + 77;
        let mut sequence = 0;
        let mut sent = 0;
        while sequence < 3 << 32 {
            accept(&mut tracker, sequence);
            sequence += step;
            sent += 1;
        }
        assert_eq!(tracker.counts().received, sent);
        assert_eq!(tracker.counts().duplicates, 0);
        assert_eq!(tracker.counts().too_late, 0);
        assert!(tracker.next > 3 << 31);
    }

    #[test]
    fn what_fell_out_of_the_window_is_not_taken_for_new() {
        let mut tracker = tracker();
        accept(&mut tracker, 0);
        accept(&mut tracker, WINDOW + 10);
        accept(&mut tracker, 5);
        assert_eq!(tracker.counts().too_late, 1);
        accept(&mut tracker, 100);
        accept(&mut tracker, 100);
        assert_eq!((tracker.counts().received, tracker.counts().duplicates), (3, 1));
    }

    #[test]
    fn latency_is_now_minus_the_stamp_and_other_frames_have_none() {
        let mut tracker = tracker();
        tracker.accept(Stamp { stream: 9, sequence: 0, sent_ns: 1000 }, 60, 51_000);
        tracker.accept(Stamp { stream: 8, sequence: 1, sent_ns: 0 }, 60, u64::MAX);
        tracker.foreign();
        let counts = tracker.counts();
        assert_eq!((counts.received, counts.stale, counts.foreign), (1, 1, 1));
        assert_eq!(tracker.latency().len(), 1);
        let within = tracker.latency().max().abs_diff(50_000);
        assert!(within < 100, "three digits: off by {within}");
    }
}
