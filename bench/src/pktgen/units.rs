//! Rates and times as people write them, and what an Ethernet line carries.
//!
//! Pure arithmetic and text; who keeps a rate is `pacer`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// What a frame takes on the wire beside itself: preamble, start delimiter and the gap behind it.
pub const WIRE_OVERHEAD_BYTES: f64 = 20.0;

/// How fast frames are asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// Frames a second.
    FramesPerSecond(f64),
    /// Megabits a second on the wire, so with preamble and gap, as a line's speed is counted.
    MegabitsPerSecond(f64),
    /// Share of the line's speed.
    Percent(f64),
}

/// Text that is no rate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no rate; write frames a second (`250000`, `1.5Mpps`), bits a second on the wire \
     (`900Mbit`, `10Gbit`) or a share of the line (`50%`)"
)]
pub struct RateSyntax(String);

/// A share of a line whose speed nobody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a rate in percent needs the line's speed, which the port does not tell; add --line-rate \
     MBIT or give the rate in pps or Mbit"
)]
pub struct LineUnknown;

/// How a number with this suffix reads.
type Suffix = (&'static str, fn(f64) -> Rate);

const SUFFIXES: [Suffix; 8] = [
    ("gbit", |n| Rate::MegabitsPerSecond(n * 1e3)),
    ("mbit", Rate::MegabitsPerSecond),
    ("kbit", |n| Rate::MegabitsPerSecond(n / 1e3)),
    ("mpps", |n| Rate::FramesPerSecond(n * 1e6)),
    ("kpps", |n| Rate::FramesPerSecond(n * 1e3)),
    ("pps", Rate::FramesPerSecond),
    ("%", Rate::Percent),
    ("", Rate::FramesPerSecond),
];

impl FromStr for Rate {
    type Err = RateSyntax;

    fn from_str(text: &str) -> Result<Self, RateSyntax> {
        let lower = text.to_ascii_lowercase();
        let found = SUFFIXES.iter().find_map(|(suffix, make)| {
            let number: f64 = lower.strip_suffix(suffix)?.trim().parse().ok()?;
            (number.is_finite() && number > 0.0).then(|| make(number))
        });
        match found {
            Some(Rate::Percent(share)) if share > 100.0 => Err(RateSyntax(text.to_owned())),
            found => found.ok_or_else(|| RateSyntax(text.to_owned())),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rate::FramesPerSecond(n) => write!(f, "{n} pps"),
            Rate::MegabitsPerSecond(n) => write!(f, "{n} Mbit/s"),
            Rate::Percent(n) => write!(f, "{n}%"),
        }
    }
}

impl Rate {
    /// As frames a second, for frames of `frame_bytes` on average (FCS included).
    pub fn frames_per_second(
        self,
        frame_bytes: f64,
        line_mbps: Option<f64>,
    ) -> Result<f64, LineUnknown> {
        match self {
            Rate::FramesPerSecond(n) => Ok(n),
            Rate::MegabitsPerSecond(mbps) => Ok(line_fps(mbps, frame_bytes)),
            Rate::Percent(share) => {
                Ok(line_fps(line_mbps.ok_or(LineUnknown)?, frame_bytes) * share / 100.0)
            }
        }
    }
}

/// Frames a second that fill a line of `mbps`.
pub fn line_fps(mbps: f64, frame_bytes: f64) -> f64 {
    mbps * 1e6 / ((frame_bytes + WIRE_OVERHEAD_BYTES) * 8.0)
}

/// What `fps` frames a second take of a line, in Mbit/s.
pub fn wire_mbps(fps: f64, frame_bytes: f64) -> f64 {
    fps * (frame_bytes + WIRE_OVERHEAD_BYTES) * 8.0 / 1e6
}

/// Reads `10s`, `500ms`, `2m` or a bare number of seconds.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1e-3), ("us", 1e-6), ("s", 1.0), ("m", 60.0), ("", 1.0)];
    let seconds = units.iter().find_map(|(suffix, scale)| {
        let number: f64 = text.strip_suffix(suffix)?.trim().parse().ok()?;
        Some(number * scale)
    });
    match seconds {
        Some(seconds) if seconds > 0.0 && seconds <= 7.0 * 86_400.0 => {
            Ok(Duration::from_secs_f64(seconds))
        }
        _ => Err(format!("`{text}` is no time; write `10s`, `500ms` or `2m`, a week at most")),
    }
}

/// Reads a share such as `0.005` or `0.5%`; from 0 to 1.
pub fn parse_ratio(text: &str) -> Result<f64, String> {
    let number = match text.strip_suffix('%') {
        Some(percent) => percent.trim().parse::<f64>().ok().map(|n| n / 100.0),
        None => text.parse().ok(),
    };
    number
        .filter(|n| (0.0..1.0).contains(n))
        .ok_or_else(|| format!("`{text}` is no share; write `0.5%` or `0.005`, below 1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_read_as_people_write_them() {
        for (text, rate) in [
            ("250000", Rate::FramesPerSecond(250_000.0)),
            ("1.5Mpps", Rate::FramesPerSecond(1.5e6)),
            ("20 kpps", Rate::FramesPerSecond(20e3)),
            ("10Gbit", Rate::MegabitsPerSecond(10_000.0)),
            ("900mbit", Rate::MegabitsPerSecond(900.0)),
            ("50%", Rate::Percent(50.0)),
        ] {
            assert_eq!(text.parse(), Ok(rate), "{text}");
        }
        for text in ["", "fast", "-1", "0", "101%", "1e999", "nan", "5 parsec"] {
            let error = text.parse::<Rate>().unwrap_err().to_string();
            assert!(error.contains("1.5Mpps"), "{text}: {error}");
        }
    }

    #[test]
    fn ten_gigabits_of_the_smallest_frame_are_14_88_mpps() {
        let fps = Rate::Percent(100.0).frames_per_second(64.0, Some(10_000.0)).unwrap();
        assert!((fps - 14_880_952.38).abs() < 0.01, "{fps}");
        assert!((wire_mbps(fps, 64.0) - 10_000.0).abs() < 1e-6);
        assert_eq!(Rate::Percent(1.0).frames_per_second(64.0, None), Err(LineUnknown));
    }

    #[test]
    fn times_and_shares_read_or_say_how_to_write_them() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_duration("1.5"), Ok(Duration::from_millis(1500)));
        assert!(parse_duration("0").unwrap_err().contains("500ms"));
        assert!(parse_duration("-3s").is_err());
        assert_eq!(parse_ratio("0.5%"), Ok(0.005));
        assert_eq!(parse_ratio("0"), Ok(0.0));
        assert!(parse_ratio("100%").is_err());
    }
}
