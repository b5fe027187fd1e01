//! fo and ovf: the heaviest server that is up, and with ovf has room.

use super::candidates::Candidates;

/// The first of the heaviest servers among those `fits` lets through.
fn heaviest(servers: &mut Candidates, fits: impl Fn(&Candidates, usize) -> bool) -> Option<usize> {
    let mut best = None;
    for at in servers.order() {
        let weight = servers.weight(at);
        if best.is_none_or(|(_, heaviest)| weight > heaviest)
            && servers.is_usable(at)
            && fits(servers, at)
        {
            best = Some((at, weight));
        }
    }
    best.map(|(at, _)| at)
}

pub(super) fn failover(servers: &mut Candidates) -> Option<usize> {
    heaviest(servers, |_, _| true)
}

/// A server has room up to one active connection more than its weight. Only active ones count, so
/// UDP never overflows.
pub(super) fn overflow(servers: &mut Candidates) -> Option<usize> {
    heaviest(servers, |servers, at| servers.load(at).active <= u64::from(servers.weight(at)))
}
