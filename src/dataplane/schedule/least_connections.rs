//! lc, wlc, sed and nq: the server with the least to do, the first in list order of equal ones.

use super::candidates::Candidates;
use super::limits::Load;

/// lc: weights do not count, apart from 0.
pub(super) fn unweighted(servers: &mut Candidates) -> Option<usize> {
    least(servers, |load, _| (load.overhead(), 1))
}

/// wlc, and what lblc and lblcr fall back on.
pub(super) fn weighted(servers: &mut Candidates) -> Option<usize> {
    least(servers, |load, weight| (load.overhead(), weight))
}

/// sed: the delay that the new connection would meet; inactive ones do not count.
pub(super) fn shortest_delay(servers: &mut Candidates) -> Option<usize> {
    least(servers, |load, weight| (load.active + 1, weight))
}

/// nq: a server without active connections, else as sed.
pub(super) fn never_queue(servers: &mut Candidates) -> Option<usize> {
    let idle = servers.order().find(|at| servers.is_usable(*at) && servers.load(*at).active == 0);
    idle.or_else(|| shortest_delay(servers))
}

/// Whether load `a` over weight `a` is above `b`'s, by cross-multiplication as in the kernel.
pub(super) fn exceeds(a: (u64, u32), b: (u64, u32)) -> bool {
    a.0 * u64::from(b.1) > b.0 * u64::from(a.1)
}

/// The first usable server than which none has less load for its weight.
fn least(servers: &mut Candidates, measure: impl Fn(Load, u32) -> (u64, u32)) -> Option<usize> {
    let mut best = None;
    for at in servers.order() {
        if !servers.is_usable(at) {
            continue;
        }
        let load = measure(servers.load(at), servers.weight(at));
        if best.is_none_or(|(_, least)| exceeds(least, load)) {
            best = Some((at, load));
        }
    }
    best.map(|(at, _)| at)
}
