//! What is measured: one axis at a time from a default of a million flows, 32 frames a burst.

use clap::ValueEnum;
use gyre::model::{ForwardMode, Protocol};

use crate::random::Random;
use crate::traffic::{Sizes, Traffic};

/// Flows unless the axis is another.
pub const FLOWS: usize = 1 << 20;

/// Which flow the next frame belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Distribution {
    /// Every flow once a round, in a fixed random order.
    Uniform,
    /// Flow n as often as 1/n says (Zipf, exponent 1).
    Zipf,
}

impl Distribution {
    /// As reports have it.
    pub fn name(self) -> &'static str {
        match self {
            Distribution::Uniform => "uniform",
            Distribution::Zipf => "zipf-1.0",
        }
    }

    /// The flows of a schedule's frames.
    pub fn draw(self, flows: usize) -> Vec<u32> {
        match self {
            Distribution::Uniform => permutation(flows),
            Distribution::Zipf => zipf(flows),
        }
    }
}

/// One line of the report.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// What is forwarded.
    pub traffic: Traffic,
    /// How its flows are drawn.
    pub distribution: Distribution,
}

impl Case {
    /// The name by which it is chosen: what differs from the default is in it.
    pub fn name(&self) -> String {
        let Traffic { replies, is_ipv4, protocol, flows, burst, sizes, services, .. } =
            self.traffic;
        let mut name = String::from(mode_name(self.traffic.mode));
        name += if replies { "-out" } else { "" };
        name += if protocol == Protocol::Udp { "-udp" } else { "-tcp" };
        name += if is_ipv4 { "4" } else { "6" };
        name += &format!("-{}", flows_name(flows));
        if self.distribution == Distribution::Zipf {
            name += "-zipf";
        }
        if burst != 32 {
            name += &format!("-burst{burst}");
        }
        name += &match sizes {
            Sizes::Fixed(64) => String::new(),
            Sizes::Fixed(bytes) => format!("-{bytes}B"),
            Sizes::Imix => "-imix".into(),
        };
        name += &match services {
            1 => String::new(),
            1000.. => format!("-{}k-services", services / 1000),
            _ => format!("-{services}-services"),
        };
        name
    }
}

/// A mode as the configuration names it.
pub fn mode_name(mode: ForwardMode) -> &'static str {
    match mode {
        ForwardMode::DirectRoute => "dr",
        ForwardMode::FullNat => "fullnat",
        ForwardMode::Nat => "nat",
        ForwardMode::Tunnel => "tun",
        ForwardMode::Local => "local",
    }
}

/// A number of flows, short.
pub fn flows_name(flows: usize) -> String {
    match flows {
        _ if flows >= 1 << 20 => format!("{}M", flows >> 20),
        _ if flows >= 1 << 10 => format!("{}k", flows >> 10),
        _ => flows.to_string(),
    }
}

/// Modes with the direction that is measured.
const WAYS: [(ForwardMode, bool); 6] = [
    (ForwardMode::DirectRoute, false),
    (ForwardMode::Tunnel, false),
    (ForwardMode::Nat, false),
    (ForwardMode::Nat, true),
    (ForwardMode::FullNat, false),
    (ForwardMode::FullNat, true),
];

/// Frame sizes beside the default, with FCS: those of RFC 2544.
const SIZES: [usize; 6] = [128, 256, 512, 1024, 1280, 1518];
/// Services, ten servers each.
const SERVICES: [usize; 2] = [1000, 10_000];

/// Every case, or with `quick` the fewest that show each mode at one and at a million flows.
pub fn all(quick: bool) -> Vec<Case> {
    let plain = |(mode, replies): (ForwardMode, bool), flows| Case {
        traffic: Traffic { replies, ..Traffic::new(mode, flows) },
        distribution: Distribution::Uniform,
    };
    let sizes: &[usize] =
        if quick { &[1, FLOWS] } else { &[1, 1 << 10, 1 << 14, FLOWS, 10 * FLOWS] };
    let mut cases = Vec::new();
    for way in WAYS {
        cases.extend(sizes.iter().map(|flows| plain(way, *flows)));
        if !quick {
            cases.extend(variants(plain(way, FLOWS)));
        }
    }
    if !quick {
        for mode in [ForwardMode::DirectRoute, ForwardMode::FullNat] {
            let sizes = SIZES.map(Sizes::Fixed).into_iter().chain([Sizes::Imix]);
            let sized = |sizes| {
                let mut case = plain((mode, false), FLOWS);
                case.traffic.sizes = sizes;
                case
            };
            cases.extend(sizes.map(sized));
        }
        cases.extend(SERVICES.map(|services| {
            let mut case = plain((ForwardMode::DirectRoute, false), FLOWS);
            case.traffic.services = services;
            case
        }));
    }
    cases
}

/// A case with one thing changed at a time.
fn variants(base: Case) -> Vec<Case> {
    let changes: [fn(&mut Case); 5] = [
        |case| case.distribution = Distribution::Zipf,
        |case| case.traffic.burst = 64,
        |case| case.traffic.protocol = Protocol::Tcp,
        |case| case.traffic.is_ipv4 = false,
        |case| (case.traffic.is_ipv4, case.traffic.protocol) = (false, Protocol::Tcp),
    ];
    let changed = |change: fn(&mut Case)| {
        let mut case = base;
        change(&mut case);
        case
    };
    changes.map(changed).into()
}

/// A fixed random order that visits every flow once (Fisher and Yates). Independent draws would
/// leave out a third of the flows.
pub fn permutation(len: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..len as u32).collect();
    let mut random = Random::new(0x9e37_79b9_7f4a_7c15);
    for at in (1..order.len()).rev() {
        order.swap(at, random.below(at as u64 + 1) as usize);
    }
    order
}

/// Four frames for each flow on average, drawn by the inverse of the distribution. Which flow is
/// how frequent is shuffled, so that neighbours in memory are not.
fn zipf(flows: usize) -> Vec<u32> {
    let ranks = permutation(flows);
    let mut sum = 0.0;
    let cumulative: Vec<f64> = (1..=flows)
        .map(|rank| {
            sum += 1.0 / rank as f64;
            sum
        })
        .collect();
    let mut random = Random::new(0x2545_f491_4f6c_dd1d);
    let mut draw = || {
        let point = random.unit() * sum;
        let rank = cumulative.partition_point(|reached| *reached <= point);
        ranks[rank.min(flows - 1)]
    };
    (0..4 * flows).map(|_| draw()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permutation_has_every_flow_once() {
        let mut order = permutation(1000);
        assert_ne!(order[..10], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        order.sort_unstable();
        assert_eq!(order, (0..1000).collect::<Vec<u32>>());
    }

    #[test]
    fn zipf_draws_flow_n_one_nth_as_often() {
        let mut counts = vec![0u32; 1000];
        zipf(1000).iter().for_each(|flow| counts[*flow as usize] += 1);
        counts.sort_unstable_by(|a, b| b.cmp(a));
        // 4000 draws over H(1000) = 7.49: 534 of the first, 267 of the second.
        assert!((450..620).contains(&counts[0]), "{}", counts[0]);
        assert!((200..340).contains(&counts[1]), "{}", counts[1]);
    }

    #[test]
    fn names_are_distinct() {
        let mut names: Vec<String> = all(false).iter().map(Case::name).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(names.contains(&"fullnat-out-udp4-1M".to_owned()), "{names:?}");
    }
}
