//! Notices floods: first packets that come to nothing, by the counters of services with SYN cookies
//! and of workers that run out of room. Control only reads them, once a second.

use std::time::Duration;

use hashbrown::{HashMap, HashSet};

/// How often counters are compared, so that differences are rates.
pub const FLOODS_EVERY: Duration = Duration::from_secs(1);
/// A flood begins with so many in a second.
const ON_PER_SECOND: u64 = 1000;
/// It is over when there were fewer than this for a while.
const OFF_PER_SECOND: u64 = 100;
/// How many looks that is.
const OFF_LOOKS: u32 = 5;

/// Where first packets come to nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Scene {
    /// At a service, by name: cookies that nobody proved.
    Service(String),
    /// At a worker: no room for flows, or half-open ones shed for others.
    Worker(u8),
}

/// What began or ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flood {
    On(Scene, u64),
    Off(Scene),
}

/// What was counted at the last look.
#[derive(Debug, Default)]
pub struct Floods {
    counts: HashMap<Scene, u64>,
    /// Floods under way, and for how many looks they have been quiet.
    under_way: HashMap<Scene, u32>,
}

impl Floods {
    /// Compares counts with those of the last look. A scene that is no longer counted has no
    /// flood.
    pub fn look(&mut self, counts: Vec<(Scene, u64)>) -> Vec<Flood> {
        let mut news = Vec::new();
        let present: HashSet<Scene> = counts.iter().map(|(scene, _)| scene.clone()).collect();
        for (scene, count) in counts {
            // The first look has nothing to compare with.
            let before = self.counts.insert(scene.clone(), count).unwrap_or(count);
            // Counts that are differences may step back a little.
            let rate = count.saturating_sub(before);
            match self.under_way.get_mut(&scene) {
                None if rate >= ON_PER_SECOND => {
                    self.under_way.insert(scene.clone(), 0);
                    news.push(Flood::On(scene, rate));
                }
                Some(quiet) if rate < OFF_PER_SECOND => *quiet += 1,
                Some(quiet) => *quiet = 0,
                None => {}
            }
        }
        self.counts.retain(|scene, _| present.contains(scene));
        self.under_way.retain(|scene, quiet| {
            let goes_on = *quiet < OFF_LOOKS && present.contains(scene);
            if !goes_on {
                news.push(Flood::Off(scene.clone()));
            }
            goes_on
        });
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_begins_at_once_and_ends_when_it_has_been_quiet_for_a_while() {
        let (mut floods, mut count) = (Floods::default(), 5_000);
        let web = || Scene::Service("web".into());
        let mut look = |more: u64| {
            count += more;
            floods.look(vec![(web(), count), (Scene::Worker(0), 7)])
        };
        assert_eq!(look(0), [], "what was before is no flood");
        assert_eq!(look(999), []);
        assert_eq!(look(1_000), [Flood::On(web(), 1_000)]);
        assert_eq!(look(50), []);
        assert_eq!(look(2_000), []);
        for _ in 0..OFF_LOOKS - 1 {
            assert_eq!(look(99), []);
        }
        assert_eq!(look(0), [Flood::Off(web())]);
        assert_eq!(look(3_000), [Flood::On(web(), 3_000)]);
        assert_eq!(floods.look(Vec::new()), [Flood::Off(web())]);
    }
}
