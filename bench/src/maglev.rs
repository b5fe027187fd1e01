//! Building a Maglev table: how long, how even, and what one server less moves.

use std::net::IpAddr;
use std::time::Instant;

use anyhow::ensure;
use gyre::limits::MAGLEV_SLOTS_DEFAULT;
use gyre::model::MaglevTable;
use serde_json::json;

use crate::report::{Other, Spread};

/// Servers of a table.
const SERVERS: [usize; 5] = [10, 30, 100, 300, 1000];
/// Builds of each.
const BUILDS: usize = 9;

/// The name by which it is chosen.
pub const NAME: &str = "maglev-65537";

fn server(at: usize) -> (IpAddr, u16, u32) {
    let [_, _, high, low] = (at as u32).to_be_bytes();
    (IpAddr::from([198, 19, 64 + high, low]), 80, 1)
}

/// Measures tables of all sizes.
pub fn measure() -> anyhow::Result<Other> {
    let mut other = Other::new(NAME);
    for count in SERVERS {
        let servers: Vec<_> = (0..count).map(server).collect();
        let mut times = Vec::new();
        for _ in 0..BUILDS {
            let start = Instant::now();
            let table = MaglevTable::new(MAGLEV_SLOTS_DEFAULT, &servers)?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
            ensure!(table.slots().len() == MAGLEV_SLOTS_DEFAULT, "a table with holes");
        }
        let table = MaglevTable::new(MAGLEV_SLOTS_DEFAULT, &servers)?;
        let mut shares = vec![0u32; count];
        table.slots().iter().for_each(|server| shares[*server as usize] += 1);
        let (least, most) = (shares.iter().min(), shares.iter().max());
        let (least, most) = (least.copied().unwrap_or(0), most.copied().unwrap_or(0));
        ensure!(least > 0, "a server without a slot");
        // One in the middle goes.
        let gone = count / 2;
        let mut fewer = servers.clone();
        fewer.remove(gone);
        let after = MaglevTable::new(MAGLEV_SLOTS_DEFAULT, &fewer)?;
        let moved = table.slots().iter().zip(after.slots()).filter(|(was, is)| {
            let was = **was as usize;
            was != gone && servers[was] != fewer[**is as usize]
        });
        let moved = moved.count();
        ensure!(moved < MAGLEV_SLOTS_DEFAULT / 4, "{moved} slots moved without need");
        let times = Spread::of(times);
        let percent =
            |slots: usize| (slots as f64 / MAGLEV_SLOTS_DEFAULT as f64 * 1e5).round() / 1e3;
        other.say(
            &format!("servers_{count}"),
            json!({
                "build_ms": (times.median * 1e3).round() / 1e3,
                "build_ms_max": (times.max * 1e3).round() / 1e3,
                "slots_least": least,
                "slots_most": most,
                "moved_besides_percent": percent(moved),
                "removed_percent": percent(shares[gone] as usize),
            }),
        );
    }
    Ok(other)
}
