//! ICMP errors about a flow's packets: relayed by the quoted tuple, in the flow's own mode.
//!
//! Owned here: whether an error is intact, whose it is, what is accounted. Which kinds are relayed
//! is `classify`'s, the new headers are `forward`'s, and errors that the director itself says are
//! `reply`'s. An error never changes a flow: no state, no timer, as in the kernel.

use super::burst::{Slot, Verdict};
use super::classify::L3;
use super::state::WorkerState;
use super::{forward, steer, track};
use crate::counters::{DropReason, HandOffCause};
use crate::model::Snapshot;
use crate::wire::checksum::Sum;
use crate::wire::ip::IpProtocol;
use crate::wire::ipv6::Ipv6;

/// Relays an error; one about nothing that is known here is its flow's owner's, else the kernel's.
pub(super) fn relay(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    slot: &mut Slot,
) -> Result<Verdict, DropReason> {
    let Some(hit) = state.flows.find(&slot.packet.key) else {
        return Ok(match steer::elsewhere(state, snapshot, slot) {
            Some((owner, _)) => Verdict::HandOff(owner, HandOffCause::IcmpError),
            None => Verdict::ToKernel(slot.rx.nic),
        });
    };
    // Its checksum is made anew when the quoted packet is translated: a wrong one must not become
    // right on the way.
    if !is_intact(slot) {
        return Err(DropReason::BadIcmpChecksum);
    }
    track::aside(state, &slot.packet, hit);
    forward::rewrite(state, snapshot, slot, hit)
}

fn is_intact(slot: &Slot) -> bool {
    let bytes = slot.frame.bytes();
    let Some(message) = bytes.get(slot.packet.l4..slot.packet.end) else { return false };
    let pseudo = match bytes.get(L3..).map(Ipv6::parse) {
        Some(Ok((ip, _))) => {
            let length = message.len() as u32;
            Sum::pseudo_v6(ip.src(), ip.dst(), IpProtocol::ICMPV6, length)
        }
        _ => Sum::new(),
    };
    pseudo.add_bytes(message).holds()
}
