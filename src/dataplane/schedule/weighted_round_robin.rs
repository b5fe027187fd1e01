//! wrr: rounds of falling weight; a server takes part in each round up to its own weight.

use super::Cursor;
use crate::model::{Change, VirtualService};

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

pub(super) fn pick(service: &VirtualService, cursor: &mut Cursor) -> Option<usize> {
    if cursor.weight_top == 0 {
        return None;
    }
    let servers = &service.servers;
    let start = cursor
        .last
        .and_then(|id| servers.iter().position(|server| server.id == id))
        .unwrap_or(servers.len());
    // The rest of the present round, from behind the cursor.
    let mut found = (0..start).rev().find(|at| servers[*at].effective_weight() >= cursor.weight);
    if found.is_none() {
        next_round(service, cursor);
        found =
            (0..servers.len()).rev().find(|at| servers[*at].effective_weight() >= cursor.weight);
    }
    if let Some(at) = found {
        cursor.last = Some(servers[at].id);
    }
    found
}

/// Goes down to the next round that has a server in it, or from the bottom up to the top one.
/// The kernel tries every step of the gcd in between; those are empty, and with weights like
/// 65535 and 1 there are many.
fn next_round(service: &VirtualService, cursor: &mut Cursor) {
    let gcd = cursor.weight_gcd.max(1);
    let below = |weight: u32| {
        service
            .servers
            .iter()
            .map(|server| server.effective_weight())
            .max()
            .filter(|heaviest| *heaviest > 0 && weight > 0)
            .map(|heaviest| {
                let excess = weight.saturating_sub(heaviest);
                weight.saturating_sub(excess.div_ceil(gcd) * gcd)
            })
    };
    let stepped = cursor.weight.saturating_sub(gcd);
    cursor.weight = match below(stepped) {
        Some(weight) if weight > 0 => weight,
        _ => cursor.weight_top,
    };
}
