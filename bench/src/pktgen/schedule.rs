//! Which flow each frame belongs to: drawn before the first frame is sent, so that sending costs
//! one sequential read, and so that the receiver knows a frame's flow by its sequence number.

use std::fmt;
use std::str::FromStr;

use super::random::Random;

/// Of all flows, and of one round of a schedule.
pub const FLOWS_MAX: u32 = 1 << 24;
/// A Zipf round is at least so long, that rare flows are drawn too.
const ZIPF_ROUND_MIN: u32 = 1 << 20;

/// How frames fall on flows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distribution {
    /// Every flow once a round, in shuffled order. Not independent draws, of which a million over
    /// a million flows would leave 37 % untouched.
    Uniform,
    /// The flow of rank k with probability in proportion to k^-s; ranks are shuffled over flows.
    Zipf(f64),
}

impl FromStr for Distribution {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let exponent = match text.strip_prefix("zipf") {
            _ if text == "uniform" => return Ok(Distribution::Uniform),
            Some("") => Some(1.0),
            Some(rest) => rest.trim_matches([':', '(', ')', '=']).parse().ok(),
            None => None,
        };
        exponent.filter(|s| *s > 0.0 && *s <= 10.0).map(Distribution::Zipf).ok_or_else(|| {
            format!("`{text}` is no distribution; write `uniform` or `zipf:1.0` (up to 10)")
        })
    }
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Distribution::Uniform => f.write_str("uniform"),
            Distribution::Zipf(s) => write!(f, "zipf:{s}"),
        }
    }
}

/// Flows in the order of frames; frame `n` belongs to the flow at `n` modulo the length.
#[derive(Clone, Debug)]
pub struct Schedule {
    order: Vec<u32>,
}

impl Schedule {
    /// Draws one round over `flows`, from 1 to [`FLOWS_MAX`].
    pub fn draw(flows: u32, distribution: Distribution, seed: u64) -> Self {
        let flows = flows.clamp(1, FLOWS_MAX);
        let mut random = Random::new(seed);
        let shuffled = permutation(flows, &mut random);
        let order = match distribution {
            Distribution::Uniform => shuffled,
            Distribution::Zipf(exponent) => {
                let frames = flows.saturating_mul(4).clamp(ZIPF_ROUND_MIN, FLOWS_MAX);
                let ranks = ZipfRanks::new(flows, exponent);
                (0..frames).map(|_| shuffled[ranks.draw(&mut random) as usize]).collect()
            }
        };
        Schedule { order }
    }

    /// The flow of the frame with this sequence number.
    pub fn flow(&self, sequence: u64) -> u32 {
        self.order[(sequence % self.order.len() as u64) as usize]
    }

    /// Flows that a round touches at all.
    pub fn distinct_flows(&self) -> usize {
        let most = self.order.iter().max().map_or(0, |&most| most as usize + 1);
        let mut seen = vec![false; most];
        self.order.iter().for_each(|&flow| seen[flow as usize] = true);
        seen.into_iter().filter(|&seen| seen).count()
    }
}

/// All numbers below `count`, each once, in random order (Fisher and Yates).
fn permutation(count: u32, random: &mut Random) -> Vec<u32> {
    let mut order: Vec<u32> = (0..count).collect();
    for at in (1..order.len()).rev() {
        order.swap(at, random.below(at as u64 + 1) as usize);
    }
    order
}

/// Draws ranks from 0 by the inverse of their cumulated weights.
struct ZipfRanks(Vec<f64>);

impl ZipfRanks {
    fn new(ranks: u32, exponent: f64) -> Self {
        let mut sum = 0.0;
        let cumulate = |rank: u32| {
            sum += f64::from(rank).powf(-exponent);
            sum
        };
        ZipfRanks((1..=ranks).map(cumulate).collect())
    }

    fn draw(&self, random: &mut Random) -> u32 {
        let total = self.0.last().copied().unwrap_or(0.0);
        let wanted = random.unit() * total;
        (self.0.partition_point(|&sum| sum <= wanted) as u32).min(self.0.len() as u32 - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uniform_touches_every_flow_once_a_round_in_seeded_order() {
        let schedule = Schedule::draw(10_000, Distribution::Uniform, 1);
        let mut flows: Vec<u32> = (0..10_000).map(|n| schedule.flow(n)).collect();
        assert_ne!(flows[..10], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], "shuffled");
        assert_eq!(schedule.flow(10_000), flows[0], "rounds repeat");
        let again = Schedule::draw(10_000, Distribution::Uniform, 1);
        assert!((0..10_000).all(|n| again.flow(n) == flows[n as usize]), "the seed decides");
        let other = Schedule::draw(10_000, Distribution::Uniform, 2);
        assert!((0..10_000).any(|n| other.flow(n) != flows[n as usize]));
        flows.sort_unstable();
        assert!(flows.iter().enumerate().all(|(at, &flow)| at == flow as usize));
        assert_eq!(schedule.distinct_flows(), 10_000);
    }

    #[test]
    fn zipf_gives_each_rank_its_share() {
        const FLOWS: u32 = 100;
        let schedule = Schedule::draw(FLOWS, Distribution::Zipf(1.0), 3);
        let frames = schedule.order.len();
        let mut counts = vec![0u32; FLOWS as usize];
        (0..frames as u64).for_each(|n| counts[schedule.flow(n) as usize] += 1);
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let harmonic: f64 = (1..=FLOWS).map(|rank| 1.0 / f64::from(rank)).sum();
        for (at, count) in counts.iter().enumerate() {
            let expected = frames as f64 / harmonic / (at + 1) as f64;
            // Counts vary by their square root; sorting adds to that among the rare.
            let tolerance = 5.0 * expected.sqrt() + 0.02 * expected;
            assert!((f64::from(*count) - expected).abs() < tolerance, "rank {at}: {count}");
        }
    }

    #[test]
    fn distributions_read_and_say_how_to_be_written() {
        assert_eq!("uniform".parse(), Ok(Distribution::Uniform));
        assert_eq!("zipf".parse(), Ok(Distribution::Zipf(1.0)));
        assert_eq!("zipf:0.9".parse(), Ok(Distribution::Zipf(0.9)));
        for text in ["", "zipf:0", "zipf:x", "normal", "zipf:11"] {
            assert!(text.parse::<Distribution>().unwrap_err().contains("zipf:1.0"), "{text}");
        }
    }
}
