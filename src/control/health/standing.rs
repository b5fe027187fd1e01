//! When rounds of a check turn into a state, and states into a service's: rise and fall, quorum,
//! slow start. Pure: rounds and times come as arguments.

use crate::model::check::HealthSpec;

/// How a round went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// The server is as it should be.
    Good,
    /// It is not.
    Bad,
}

/// What a check's rounds came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    is: Round,
    /// Rounds in a row that said otherwise.
    against: u32,
}

impl Standing {
    /// Before any round.
    pub fn new(is: Round) -> Self {
        Standing { is, against: 0 }
    }

    /// Whether the check counts as good.
    pub fn is_good(&self) -> bool {
        self.is == Round::Good
    }

    /// Takes a round's outcome: `rise` good ones in a row make it good, `fall` bad ones bad.
    /// Whether it turned.
    pub fn round(&mut self, round: Round, rise: u32, fall: u32) -> bool {
        if round == self.is {
            self.against = 0;
            return false;
        }
        self.against += 1;
        let turns = self.against >= if round == Round::Good { rise } else { fall };
        if turns {
            *self = Standing::new(round);
        }
        turns
    }
}

/// Whether enough servers are good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quorum {
    /// Unknown before the first look.
    up: Option<bool>,
}

impl Quorum {
    /// Whether it is lost.
    pub fn is_lost(&self) -> bool {
        self.up == Some(false)
    }

    /// Looks at the sum of good servers' weights; the new state where it turned, the first one
    /// included. As keepalived: up at the quorum and the hysteresis, lost below the quorum less the
    /// hysteresis, or at nothing. The first look knows no hysteresis.
    pub fn weigh(&mut self, sum: u64, health: &HealthSpec) -> Option<bool> {
        let (quorum, slack) = (u64::from(health.quorum), u64::from(health.quorum_hysteresis));
        let up = match self.up {
            None => sum >= quorum,
            Some(false) => sum >= quorum + slack,
            Some(true) => sum > 0 && sum >= quorum.saturating_sub(slack),
        };
        let turned = self.up != Some(up);
        self.up = Some(up);
        turned.then_some(up)
    }
}

/// Steps in which a weight rises: each is a change that all workers adopt.
const STEPS: u64 = 10;

/// A server on its way to its weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowStart {
    began_ms: u64,
    lasts_ms: u32,
}

impl SlowStart {
    /// From now on.
    pub fn new(began_ms: u64, lasts_ms: u32) -> Self {
        SlowStart { began_ms, lasts_ms }
    }

    /// The most that a server of `weight` has now; `None` once the way is over. Never nothing,
    /// where the weight is something: it is there to be used.
    pub fn most(&self, weight: u32, now_ms: u64) -> Option<u32> {
        let elapsed = now_ms.saturating_sub(self.began_ms);
        if elapsed >= u64::from(self.lasts_ms) {
            return None;
        }
        let step = elapsed * STEPS / u64::from(self.lasts_ms) + 1;
        let most = u64::from(weight) * step / STEPS;
        Some(u32::try_from(most).unwrap_or(weight).max(weight.min(1)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn round(good: bool) -> Round {
        if good { Round::Good } else { Round::Bad }
    }

    #[test]
    fn a_check_turns_after_as_many_rounds_in_a_row_as_asked_for() {
        let mut standing = Standing::new(Round::Good);
        let rounds = [false, false, true, false, false, false, true, false, true, true];
        let turned = rounds.map(|good| standing.round(round(good), 2, 3));
        let mut wanted = [false; 10];
        (wanted[5], wanted[9]) = (true, true);
        assert_eq!(turned, wanted);
        assert!(standing.is_good());
    }

    #[test]
    fn a_quorum_has_a_hysteresis_as_keepalived() {
        let health = HealthSpec { quorum: 4, quorum_hysteresis: 1, ..HealthSpec::default() };
        let mut quorum = Quorum::default();
        // At the quorum itself it is up first, stays so down to 3, and comes back at 5.
        let sums = [4, 3, 2, 4, 5, 3, 0, 5];
        let wanted =
            [Some(true), None, Some(false), None, Some(true), None, Some(false), Some(true)];
        assert_eq!(sums.map(|sum| quorum.weigh(sum, &health)), wanted);
    }

    #[test]
    fn a_weight_rises_in_steps_and_arrives() {
        let start = SlowStart::new(1000, 10_000);
        let at = |weight, now| start.most(weight, now);
        assert_eq!([at(100, 1000), at(100, 1999), at(100, 2000)], [Some(10), Some(10), Some(20)]);
        assert_eq!([at(100, 10_999), at(100, 11_000)], [Some(100), None]);
        // A small weight is never nothing, and none stays none.
        assert_eq!([at(1, 1000), at(3, 1000), at(0, 5000)], [Some(1), Some(1), Some(0)]);
    }

    proptest! {
        /// Whatever the rounds, a check turns exactly at the end of a long enough run against it.
        #[test]
        fn a_standing_follows_its_last_run(
            rounds in proptest::collection::vec(any::<bool>(), 0..60),
            (rise, fall) in (1u32..5, 1u32..5),
        ) {
            let mut standing = Standing::new(Round::Good);
            let mut plain = (true, 0);
            for good in rounds {
                let turned = standing.round(round(good), rise, fall);
                plain.1 = if good == plain.0 { 0 } else { plain.1 + 1 };
                let turns = plain.1 >= if good { rise } else { fall } && good != plain.0;
                if turns {
                    plain = (good, 0);
                }
                prop_assert_eq!((turned, standing.is_good()), (turns, plain.0));
            }
        }

        /// A quorum is lost only below it, and up only at it or above.
        #[test]
        fn a_quorum_never_contradicts_its_sum(
            sums in proptest::collection::vec(0u64..12, 1..60),
            quorum in 1u32..8,
            slack in 0u32..8,
        ) {
            let slack = slack.min(quorum - 1);
            let health =
                HealthSpec { quorum, quorum_hysteresis: slack, ..HealthSpec::default() };
            let mut state = Quorum::default();
            for sum in sums {
                let before = state;
                let turned = state.weigh(sum, &health);
                let (low, high) = (u64::from(quorum - slack), u64::from(quorum + slack));
                prop_assert!(sum < high || !state.is_lost());
                prop_assert!(sum >= low || state.is_lost());
                prop_assert_eq!(turned.is_some(), before != state);
            }
        }

        /// A weight on its way never falls, and never passes what was asked for.
        #[test]
        fn a_slow_start_only_rises(weight in 0u32..65_536, lasts in 1u32..100_000) {
            let start = SlowStart::new(0, lasts);
            let times = (0..=40u64).map(|part| part * u64::from(lasts) / 40);
            let weights: Vec<u32> =
                times.map(|now| start.most(weight, now).unwrap_or(weight)).collect();
            prop_assert!(weights.is_sorted());
            prop_assert_eq!(*weights.last().unwrap(), weight);
            prop_assert!(weight == 0 || weights[0] > 0);
        }
    }
}
