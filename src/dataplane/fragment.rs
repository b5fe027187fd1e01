//! Pieces of datagrams. Towards a service they are counted and dropped for now; following them
//! (first to the owner of the datagram, then to the flow's) comes with the semantics issue.

use super::burst::{Slot, Verdict};
use crate::counters::DropReason;
use crate::model::Snapshot;

pub(super) fn follow(snapshot: &Snapshot, slot: &Slot) -> Result<Verdict, DropReason> {
    let dst = &slot.packet.key.dst;
    if snapshot.vips.contains(dst) || snapshot.lips.contains_key(dst) {
        return Err(DropReason::Fragment);
    }
    Ok(Verdict::ToKernel(slot.rx.nic))
}
