//! ICMP errors. About a service's flow they are counted and dropped for now; relaying them by the
//! quoted tuple comes with the semantics issue. All others are the kernel's.

use super::burst::{Slot, Verdict};
use crate::counters::DropReason;
use crate::model::{Destination, Snapshot};

pub(super) fn relay(snapshot: &Snapshot, slot: &Slot) -> Result<Verdict, DropReason> {
    // The quoted packet was sent by us: from the VIP to a client, or from a local address.
    let quoted = &slot.packet.key;
    let from =
        Destination { protocol: quoted.protocol, address: quoted.src, port: quoted.src_port };
    let from_lip = snapshot
        .lips
        .get(&quoted.src)
        .is_some_and(|local| local.ports.owner(quoted.src_port).is_some());
    if from_lip || snapshot.traffic.find(&from).is_some() {
        return Err(DropReason::IcmpError);
    }
    Ok(Verdict::ToKernel(slot.rx.nic))
}
