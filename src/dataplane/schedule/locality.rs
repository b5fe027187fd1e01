//! lblc and lblcr: flows to one destination go to one server, or to a small set of them, as long
//! as it is not overloaded. Made for caches behind a group that matches many destinations.

use super::candidates::Candidates;
use super::least_connections::{exceeds, weighted};
use super::locality_cache::{EntryId, LocalityCache, Place};

/// Whether the server has more active connections than weight while another is half idle.
fn is_busy(servers: &Candidates, at: usize) -> bool {
    servers.load(at).active > u64::from(servers.weight(at))
        && servers
            .order()
            .any(|other| servers.load(other).active * 2 < u64::from(servers.weight(other)))
}

/// lblc. A server that is remembered is not asked about its threshold, as in the kernel.
pub(super) fn pick(
    servers: &mut Candidates,
    cache: &mut LocalityCache,
    place: &Place,
) -> Option<usize> {
    let entry = cache.find(place);
    if let Some(at) = entry.and_then(|entry| cache.positions(entry, servers.servers).next())
        && servers.weight(at) > 0
        && !is_busy(servers, at)
    {
        return Some(at);
    }
    let at = weighted(servers)?;
    if let Some(entry) = entry {
        cache.remove(entry);
    }
    remember(servers, cache, place, at);
    Some(at)
}

/// lblcr: a set of servers for each destination, which grows under load and is made smaller by
/// one a day.
pub(super) fn pick_replicated(
    servers: &mut Candidates,
    cache: &mut LocalityCache,
    place: &Place,
) -> Option<usize> {
    let Some(entry) = cache.find(place) else {
        let at = weighted(servers)?;
        remember(servers, cache, place, at);
        return Some(at);
    };
    let least = least_of_set(servers, cache, entry);
    if cache.may_shrink(entry, place) {
        let most = most_of_set(servers, cache, entry);
        cache.shrink(entry, (servers.servers, most), place);
    }
    if let Some(at) = least.filter(|at| !is_busy(servers, *at)) {
        return Some(at);
    }
    let at = weighted(servers)?;
    if !cache.grow(entry, (at, &servers.servers[at]), place) {
        servers.locality_full();
    }
    Some(at)
}

fn remember(servers: &Candidates, cache: &mut LocalityCache, place: &Place, at: usize) {
    if !cache.insert(place, (at, &servers.servers[at])) {
        servers.locality_full();
    }
}

/// The set's server with the least load for its weight.
fn least_of_set(servers: &mut Candidates, cache: &LocalityCache, entry: EntryId) -> Option<usize> {
    let mut best = None;
    for at in cache.positions(entry, servers.servers) {
        let load = (servers.load(at).overhead(), servers.weight(at));
        if servers.is_usable(at) && best.is_none_or(|(_, least)| exceeds(least, load)) {
            best = Some((at, load));
        }
    }
    best.map(|(at, _)| at)
}

/// The set's server with the most load for its weight.
fn most_of_set(servers: &Candidates, cache: &LocalityCache, entry: EntryId) -> Option<usize> {
    let mut best = None;
    for at in cache.positions(entry, servers.servers) {
        let load = (servers.load(at).overhead(), servers.weight(at));
        if load.1 > 0 && best.is_none_or(|(_, most)| exceeds(load, most)) {
            best = Some((at, load));
        }
    }
    best.map(|(at, _)| at)
}
