//! Keeps a rate: says how many frames are due, and counts those it had to give up.
//!
//! Pure: time is an argument.

/// Frames that a late sender may make up for at once, as time at the asked rate. Longer stalls
/// (a stolen core) would end in bursts that test something else than the rate.
const MAKE_UP_NS: u64 = 2_000_000;
/// The least that may be made up, so that slow rates lose nothing to a late poll.
const MAKE_UP_FRAMES_MIN: u64 = 64;

/// Says when frames are due.
#[derive(Clone, Debug)]
pub struct Pacer {
    start_ns: u64,
    /// In thousandths, so that slow and uneven rates come out exact.
    milli_fps: u64,
    /// Frames the rate asks for in all; `u64::MAX` for no end but time.
    frames_max: u64,
    backlog_max: u64,
    issued: u64,
    given_up: u64,
}

impl Pacer {
    /// `fps` frames a second from `start_ns` on, at most `frames_max` of them.
    pub fn new(fps: f64, start_ns: u64, frames_max: u64) -> Self {
        let make_up = (fps * MAKE_UP_NS as f64 / 1e9) as u64;
        Pacer {
            start_ns,
            milli_fps: (fps * 1e3).round().max(1.0) as u64,
            frames_max,
            backlog_max: make_up.max(MAKE_UP_FRAMES_MIN),
            issued: 0,
            given_up: 0,
        }
    }

    /// A burst: `frames` at `fps`, none given up however late.
    pub fn burst(fps: f64, start_ns: u64, frames: u64) -> Self {
        Pacer { backlog_max: u64::MAX, ..Pacer::new(fps, start_ns, frames) }
    }

    /// How many frames are due at `now_ns` that were not due before, at most `most`.
    pub fn due(&mut self, now_ns: u64, most: usize) -> usize {
        let asked = self.asked(now_ns);
        let mut backlog = asked.saturating_sub(self.issued + self.given_up);
        if backlog > self.backlog_max {
            self.given_up += backlog - self.backlog_max;
            backlog = self.backlog_max;
        }
        let due = backlog.min(most as u64);
        self.issued += due;
        due as usize
    }

    /// Frames that the rate asks for until `now_ns`.
    pub fn asked(&self, now_ns: u64) -> u64 {
        let elapsed = u128::from(now_ns.saturating_sub(self.start_ns));
        // The first frame is due at once.
        let frames = elapsed * u128::from(self.milli_fps) / 1_000_000_000_000 + 1;
        u64::try_from(frames).unwrap_or(u64::MAX).min(self.frames_max)
    }

    /// Whether all of a limited number are out.
    pub fn is_finished(&self) -> bool {
        self.issued + self.given_up >= self.frames_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_rates_come_out_exact_over_a_minute() {
        for fps in [0.5, 3.0, 999.999, 1_000_000.0, 14_880_952.0] {
            let mut pacer = Pacer::new(fps, 500, u64::MAX);
            let mut sent = 0;
            let mut now = 500;
            let poll_ns = (1e9 / fps / 3.0).clamp(1_000.0, 1e8) as u64;
            while now < 500 + 2_000_000_000 {
                sent += pacer.due(now, 64);
                now += poll_ns;
            }
            let expected = fps * (now - 500) as f64 / 1e9;
            let off = (sent as f64 - expected).abs();
            assert!(off <= 1.0 + fps * poll_ns as f64 / 1e9, "{fps}: {sent} of {expected}");
            assert_eq!(pacer.given_up, 0, "{fps}");
        }
    }

    #[test]
    fn a_short_delay_is_made_up_and_a_long_one_is_given_up() {
        let mut pacer = Pacer::new(1e6, 0, u64::MAX);
        pacer.due(0, 64);
        let mut sent = 1;
        // 1 ms late: a thousand frames, all sent, by bursts.
        while pacer.due(1_000_000, 64) == 64 {
            sent += 64;
        }
        assert!(sent > 900, "{sent}");
        assert_eq!(pacer.given_up, 0);
        // 50 ms late: two milliseconds' worth is sent, the rest never.
        let mut late = 0;
        loop {
            match pacer.due(51_000_000, 64) {
                0 => break,
                due => late += due,
            }
        }
        assert_eq!(late, 2000);
        assert_eq!(pacer.issued + pacer.given_up, pacer.asked(51_000_000));
        assert!(pacer.given_up > 47_000);
    }

    #[test]
    fn a_burst_ends_with_its_last_frame_and_gives_none_up() {
        let mut pacer = Pacer::burst(1e9, 0, 100_000);
        let mut sent = 0;
        while !pacer.is_finished() {
            sent += pacer.due(u64::MAX / 4, 32);
        }
        assert_eq!((sent, pacer.given_up), (100_000, 0));
        assert_eq!(pacer.due(u64::MAX / 2, 32), 0);
    }
}
