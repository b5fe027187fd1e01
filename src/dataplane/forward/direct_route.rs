//! DR: the frame goes to the server's MAC address; the packet itself stays as it is, but for the
//! TTL where the service asks for the kernel's way.

use super::super::burst::{Slot, Verdict};
use super::super::flow::{Direction, FlowCore};
use super::super::next_hop;
use super::super::state::WorkerState;
use super::{Fit, edit, fit, pieces, too_big_inbound};
use crate::counters::DropReason;
use crate::model::{NextHopId, Snapshot};
use crate::wire::ethernet::{Ethernet, MacAddr};

pub(super) fn rewrite(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    slot: &mut Slot,
    core: &FlowCore,
) -> Result<Verdict, DropReason> {
    let hop = core.hop(Direction::Inbound);
    if comes_from(state, slot, hop) {
        return Err(DropReason::ForwardingLoop);
    }
    let fit = fit(state, slot, hop);
    if let Fit::Refused(mtu) = fit {
        return too_big_inbound(state, snapshot, slot, (core, mtu));
    }
    if core.decrements_ttl() {
        edit::decrement_ttl(slot.frame.bytes_mut(), &slot.packet)?;
    }
    if let Fit::Cut(mtu) = fit {
        slot.frame.set_len(slot.packet.end).map_err(|_| DropReason::Internal)?;
        return pieces::send(state, snapshot, &mut slot.frame, (hop, mtu));
    }
    next_hop::finish(state, snapshot, &mut slot.frame, hop)
}

/// Whether the server itself sent the frame: a server that is a director for the same VIP sends
/// the client's packet back, and with an untouched TTL it would circle for ever.
fn comes_from(state: &WorkerState, slot: &Slot, hop: NextHopId) -> bool {
    let Some(hop) = next_hop::get(state, hop).filter(|hop| hop.resolved) else { return false };
    Ethernet::parse(slot.frame.bytes())
        .is_ok_and(|(ethernet, _)| ethernet.src() == MacAddr(hop.macs.dst()))
}
