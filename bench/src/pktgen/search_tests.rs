//! Searches on devices made of arithmetic, whose answers are known.

use super::*;
use crate::trial::simulated::Simulated;

fn plan() -> SearchPlan {
    SearchPlan {
        loss_ratios: vec![0.0, 0.005],
        min_fps: 1e3,
        max_fps: 14.88e6,
        first_s: 1.0,
        final_s: 30.0,
        middle_phases: 2,
        precision: 0.005,
        trials_max: 100,
    }
}

/// Bounds that enclose `truth`, as close as asked.
fn assert_encloses(found: &Found, truth: f64, precision: f64) {
    let (lower, upper) = (found.lower.as_ref().unwrap(), found.upper.as_ref().unwrap());
    let bounds = (lower.load_fps, upper.load_fps);
    // Counts are whole frames: a load within one frame of the truth may fall to either side.
    assert!(bounds.0 <= truth * 1.000_001 && truth * 0.999_999 <= bounds.1, "{bounds:?} {truth}");
    assert!(bounds.1 <= bounds.0 * (1.0 + precision) * 1.000_01, "{bounds:?}");
    assert!(found.is_complete);
    assert_eq!((lower.duration_s, upper.duration_s), (30.0, 30.0), "decided by full trials");
}

#[test]
fn ndr_and_pdr_are_enclosed_in_one_search() {
    for capacity in [2e4, 1.234_567e6, 9.99e6, 14.7e6] {
        let mut device = Simulated::new(capacity);
        let result = search(&plan(), &mut device).unwrap();
        assert_encloses(&result.found[0], capacity, 0.005);
        // Losing 0.5 % of x leaves what is carried: x = capacity / 0.995.
        assert_encloses(&result.found[1], capacity / 0.995, 0.005);
        assert!(result.found.iter().all(|found| found.limited_by == Some(LimitedBy::Device)));
        let long = device.log.iter().filter(|(_, duration)| *duration == 30.0).count();
        assert!(long <= 8, "{capacity}: {long} trials of full length");
        assert!(result.trials.len() <= 40, "{capacity}: {} trials", result.trials.len());
    }
}

#[test]
fn ratios_share_trials() {
    let mut one = Simulated::new(3e6);
    let alone = SearchPlan { loss_ratios: vec![0.0], ..plan() };
    let ndr = search(&alone, &mut one).unwrap().trials.len();
    let mut other = Simulated::new(3e6);
    let alone = SearchPlan { loss_ratios: vec![0.005], ..plan() };
    let pdr = search(&alone, &mut other).unwrap().trials.len();
    let mut both = Simulated::new(3e6);
    let together = search(&plan(), &mut both).unwrap().trials.len();
    assert!(together < ndr + pdr, "{together} together, {ndr} and {pdr} apart");
}

#[test]
fn a_device_faster_than_the_line_passes_the_highest_load() {
    let mut device = Simulated::new(1e9);
    let result = search(&plan(), &mut device).unwrap();
    for found in &result.found {
        assert_eq!(found.lower.as_ref().unwrap().load_fps, 14.88e6);
        assert!(found.upper.is_none() && found.is_complete);
        assert_eq!(found.limited_by, Some(LimitedBy::MaxRate));
    }
}

#[test]
fn a_device_that_always_loses_has_no_ndr_but_a_pdr() {
    let mut device = Simulated::new(5e6);
    // At the lowest load of 1000 a second, 30 s are 30,000 frames; lose some of every million.
    device.lost_per_million = 1000;
    let plan = SearchPlan { min_fps: 1e5, ..plan() };
    let result = search(&plan, &mut device).unwrap();
    let ndr = &result.found[0];
    assert!(ndr.lower.is_none() && ndr.is_complete, "the lowest load loses too");
    assert_eq!(ndr.upper.as_ref().unwrap().load_fps, 1e5);
    assert!(result.found[1].lower.is_some());
}

#[test]
fn what_a_queue_hides_from_short_trials_long_ones_find() {
    // Two million frames of queue swallow any excess of a one-second trial up to 6 Mpps.
    let mut device = Simulated { queue_frames: 2_000_000, ..Simulated::new(4e6) };
    let result = search(&plan(), &mut device).unwrap();
    let truth = 4e6 + 2_000_000.0 / 30.0;
    assert_encloses(&result.found[0], truth, 0.005);
}

#[test]
fn a_rate_the_sender_cannot_keep_never_passes_and_is_the_senders_limit() {
    let mut device = Simulated { sender_fps: 2e6, ..Simulated::new(1e7) };
    let result = search(&plan(), &mut device).unwrap();
    let ndr = &result.found[0];
    assert!(ndr.lower.as_ref().unwrap().load_fps <= 2e6 * 1.001);
    assert_eq!(ndr.limited_by, Some(LimitedBy::Sender));
}

#[test]
fn noise_ends_within_the_trials_allowed() {
    let mut device = Simulated { hiccup_every: 3, ..Simulated::new(2e6) };
    let plan = SearchPlan { trials_max: 60, ..plan() };
    let result = search(&plan, &mut device).unwrap();
    assert!(result.trials.len() <= 60);
    let ndr = &result.found[0];
    if let (Some(lower), Some(upper)) = (&ndr.lower, &ndr.upper) {
        assert!(lower.load_fps < upper.load_fps, "a failed trial bounds what passed above it");
    }
}

#[test]
fn phases_grow_to_the_final_length_and_precision() {
    let phases = phases(&plan());
    assert_eq!(phases.len(), 4);
    assert!(phases.windows(2).all(|pair| pair[0].trial_s < pair[1].trial_s));
    assert!((phases[0].trial_s - 1.0).abs() < 1e-9);
    assert_eq!((phases[3].trial_s, phases[3].precision), (30.0, 0.005));
    assert_eq!(phases[0].precision, 0.04);
}

#[test]
fn the_longest_burst_is_what_the_queue_holds_beside_what_goes_out() {
    // At 10 Mpps in and 5 Mpps out half of a burst must wait: 1000 of queue carry 2000 frames.
    let mut device = Simulated { queue_frames: 1000, ..Simulated::new(5e6) };
    let found = longest_burst(&mut device, 1e7, 20_000_000).unwrap();
    assert!(found.frames.abs_diff(2000) <= 20, "{found:?}");
    assert!(!found.is_max && !found.is_sender_short);
    let mut fast = Simulated::new(1e9);
    let found = longest_burst(&mut fast, 1e7, 1000).unwrap();
    assert_eq!((found.frames, found.is_max), (1000, true));
    let mut none = Simulated::new(0.0);
    assert_eq!(longest_burst(&mut none, 1e7, 1000).unwrap().frames, 0);
}

#[test]
fn a_search_out_of_trials_says_that_it_is_incomplete() {
    let mut device = Simulated::new(3e6);
    let plan = SearchPlan { trials_max: 5, ..plan() };
    let result = search(&plan, &mut device).unwrap();
    assert_eq!(result.trials.len(), 5);
    assert!(result.found.iter().all(|found| !found.is_complete));
    assert!(result.found.iter().all(|found| found.limited_by != Some(LimitedBy::MaxRate)));
}
