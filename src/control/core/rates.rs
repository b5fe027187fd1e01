//! Rates of services and servers, as the kernel estimates them: every two seconds the rate since
//! the last look moves the average a quarter of the way (`ip_vs_est.c`; `ipvsadm -L --rate`).
//!
//! Looking at all counters takes a while with many servers, so it happens beside the core.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashMap;

use super::baseline::{Counts, Traffic};
use crate::control::api::RateRow;
use crate::model::{ServerId, ServiceId, Snapshot};

/// How often the kernel's estimator looks.
pub const RATE_EVERY: Duration = Duration::from_secs(2);
/// How much of a new rate goes into the average.
const SHARE: f64 = 0.25;

/// One average of each kind, and what it was made from.
#[derive(Clone, Copy, Debug, Default)]
struct Estimate {
    last: Traffic,
    average: [f64; 5],
}

impl Estimate {
    /// The first look of a counter is only where the next one starts from.
    fn next(before: Option<&Estimate>, now: Traffic, seconds: f64) -> Estimate {
        let Some(before) = before else { return Estimate { last: now, average: [0.0; 5] } };
        let (old, new) = (before.last.parts(), now.parts());
        if old.iter().zip(new).any(|(old, new)| new < *old) {
            // Zeroed meanwhile (`ipvsadm -Z`), or another's slot.
            return Estimate { last: now, average: [0.0; 5] };
        }
        let mut average = before.average;
        for (average, (old, new)) in average.iter_mut().zip(old.iter().zip(new)) {
            let rate = (new - old) as f64 / seconds;
            *average += (rate - *average) * SHARE;
        }
        Estimate { last: now, average }
    }

    fn row(&self) -> RateRow {
        let [connections, in_packets, in_bytes, out_packets, out_bytes] =
            self.average.map(|average| average.round() as u64);
        RateRow { connections, in_packets, in_bytes, out_packets, out_bytes }
    }
}

/// The averages at one moment.
#[derive(Debug)]
pub struct Rates {
    looked: Instant,
    servers: HashMap<ServerId, Estimate>,
    services: HashMap<ServiceId, Estimate>,
}

impl Rates {
    /// Nothing known yet.
    pub fn new(now: Instant) -> Self {
        Rates { looked: now, servers: HashMap::new(), services: HashMap::new() }
    }

    /// The averages after another look.
    pub fn next(&self, snapshot: &Arc<Snapshot>, counts: &Counts, now: Instant) -> Rates {
        let seconds = now.duration_since(self.looked).as_secs_f64().max(0.001);
        let mut rates = Rates::new(now);
        for service in snapshot.services.iter().flatten() {
            for server in &service.servers {
                let traffic = counts.server(server.id).traffic();
                let estimate = Estimate::next(self.servers.get(&server.id), traffic, seconds);
                rates.servers.insert(server.id, estimate);
            }
            let traffic = counts.traffic_of_service(service);
            let estimate = Estimate::next(self.services.get(&service.id), traffic, seconds);
            rates.services.insert(service.id, estimate);
        }
        rates
    }

    /// A server's rates.
    pub fn server(&self, id: ServerId) -> RateRow {
        self.servers.get(&id).map(Estimate::row).unwrap_or_default()
    }

    /// A service's rates.
    pub fn service(&self, id: ServiceId) -> RateRow {
        self.services.get(&id).map(Estimate::row).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traffic(connections: u64, in_bytes: u64) -> Traffic {
        Traffic { connections, in_bytes, ..Traffic::default() }
    }

    /// The kernel's own arithmetic: from 0 a quarter of the rate, then a quarter of what is left.
    #[test]
    fn a_rate_moves_the_average_a_quarter_of_the_way() {
        let mut estimate = Estimate::next(None, traffic(1_000, 0), 2.0);
        assert_eq!(estimate.row(), RateRow::default());
        for (at, wanted) in [(0, 25), (1, 44), (2, 58)] {
            let now = traffic(1_000 + (at + 1) * 200, (at + 1) * 2_000);
            estimate = Estimate::next(Some(&estimate), now, 2.0);
            let row = estimate.row();
            assert_eq!(row.connections, wanted);
            assert!(row.in_bytes.abs_diff(wanted * 10) <= 5, "{row:?}");
        }
    }

    #[test]
    fn counts_that_fall_start_anew() {
        let mut estimate = Estimate::next(None, traffic(0, 0), 2.0);
        estimate = Estimate::next(Some(&estimate), traffic(4_000, 0), 2.0);
        assert_eq!(estimate.row().connections, 500);
        estimate = Estimate::next(Some(&estimate), traffic(10, 0), 2.0);
        assert_eq!(estimate.row(), RateRow::default());
    }
}
