//! wrr: rounds of falling weight; a server takes part in each round up to its own weight.

use super::candidates::Candidates;
use super::cursor::Cursor;
use crate::model::Change;

/// What the kernel does at every add, edit and delete: back to the list's head, steps and top
/// anew; the round's weight stays unless it is 0 or above the top.
pub(super) fn replay(cursor: &mut Cursor, change: &Change) {
    let gcd = change.weight_gcd.max(1);
    cursor.last = None;
    cursor.weight_gcd = gcd;
    cursor.weight_top = change.weight_max.saturating_sub(gcd - 1);
    if cursor.weight == 0 || cursor.weight > cursor.weight_top {
        cursor.weight = cursor.weight_top;
    } else if gcd > 1 {
        cursor.weight = cursor.weight / gcd * gcd + 1;
    }
}

pub(super) fn pick(servers: &mut Candidates, cursor: &mut Cursor) -> Option<usize> {
    if cursor.weight_top == 0 {
        return None;
    }
    // The rest of the present round, from behind the cursor; then the next one that has anybody.
    let (rest, count) = (servers.behind(cursor), servers.servers.len());
    let found = in_round(servers, rest, cursor.weight).or_else(|| {
        let weight = |at| servers.is_usable(at).then(|| servers.weight(at));
        let Some(heaviest) = (0..count).filter_map(weight).max() else {
            give_up(cursor, rest < count);
            return None;
        };
        next_round(cursor, heaviest);
        in_round(servers, count, cursor.weight)
    });
    if let Some(at) = found {
        (cursor.last, cursor.last_at) = (Some(servers.servers[at].id), at);
    }
    found
}

/// The first server of the round's weight among those below position `end`.
fn in_round(servers: &mut Candidates, end: usize, weight: u32) -> Option<usize> {
    (0..end).rev().find(|at| servers.weight(*at) >= weight && servers.is_usable(*at))
}

/// Goes down to the next round that has a server in it, or from the bottom up to the top one and
/// down from there. The kernel tries every step of the gcd in between; those are empty, and with
/// weights like 65535 and 1 there are many.
fn next_round(cursor: &mut Cursor, heaviest: u32) {
    let gcd = cursor.weight_gcd.max(1);
    let first_at_most = |weight: u32| {
        let excess = weight.saturating_sub(heaviest);
        weight.saturating_sub(excess.div_ceil(gcd) * gcd)
    };
    cursor.weight = match first_at_most(cursor.weight.saturating_sub(gcd)) {
        0 => first_at_most(cursor.weight_top).max(1),
        weight => weight,
    };
}

/// Nobody may take a flow: where the kernel's search ends. In the last round, begun behind a
/// server, it goes once around to that server; else it goes down to the list's head.
fn give_up(cursor: &mut Cursor, is_behind_server: bool) {
    let gcd = cursor.weight_gcd.max(1);
    if is_behind_server && cursor.weight <= gcd {
        cursor.weight = (cursor.weight_top - 1) % gcd + 1;
    } else {
        cursor.weight = cursor.weight_top;
        cursor.last = None;
    }
}
