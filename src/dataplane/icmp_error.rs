//! ICMP errors about a flow's packets: relayed by the quoted tuple, in the flow's own mode.
//!
//! Owned here: whether an error is intact, whose it is, what is accounted. Which kinds are relayed
//! is `classify`'s, the new headers are `forward`'s, and errors that the director itself says are
//! `reply`'s. An error never changes a flow: no state, no timer, as in the kernel.

use super::burst::{Slot, Verdict};
use super::classify::{self, L3, Packet};
use super::state::WorkerState;
use super::{forward, steer, track};
use crate::counters::{DropReason, HandOffCause};
use crate::model::{Protocol, Snapshot};
use crate::wire::checksum::Sum;
use crate::wire::icmp::IcmpType;
use crate::wire::ip::IpProtocol;
use crate::wire::ipv6::Ipv6;

/// Relays an error; one about nothing that is known here is its flow's owner's, else the kernel's.
pub(super) fn relay(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    slot: &mut Slot,
) -> Result<Verdict, DropReason> {
    let Some(hit) = state.flows.find(&slot.packet.key) else {
        if let Some(inside) = in_udp(slot).filter(|_| !is_parameter_problem(slot)) {
            slot.packet = inside;
            return relay_wrapped(state, snapshot, slot);
        }
        return Ok(match steer::elsewhere(state, snapshot, slot) {
            Some((owner, _)) => Verdict::HandOff(owner, HandOffCause::IcmpError),
            None => Verdict::ToKernel(slot.rx.nic),
        });
    };
    // IPv4's are the host's (recordings icmp-*). IPv6 has the like, which are relayed, so that what
    // comes from the other family is as well.
    if is_parameter_problem(slot) && !forward::is_across(state, hit) {
        return Ok(Verdict::ToKernel(slot.rx.nic));
    }
    // Its checksum is made anew when the quoted packet is translated: a wrong one must not become
    // right on the way.
    if !is_intact(slot) {
        return Err(DropReason::BadIcmpChecksum);
    }
    track::aside(state, &slot.packet, hit);
    forward::rewrite(state, snapshot, slot, hit)
}

/// An error about a packet that TUN made: its client's, if it went to its flow's server.
pub(super) fn relay_wrapped(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    slot: &mut Slot,
) -> Result<Verdict, DropReason> {
    let kernel = Verdict::ToKernel(slot.rx.nic);
    let Some(hit) = state.flows.find(&slot.packet.key) else {
        return Ok(match steer::elsewhere(state, snapshot, slot) {
            Some((owner, _)) => Verdict::HandOff(owner, HandOffCause::IcmpError),
            None => kernel,
        });
    };
    let server = state.flows.addresses(hit.id).map(|addresses| addresses.server);
    if server.is_none() || server != message(slot).and_then(classify::wrapped_to) {
        return Ok(kernel);
    }
    if !is_intact(slot) {
        return Err(DropReason::BadIcmpChecksum);
    }
    forward::relay_wrapped(state, snapshot, slot, hit)
}

/// GUE is UDP: an error about it looks like one about a datagram of the director's own.
fn in_udp(slot: &Slot) -> Option<Packet> {
    let is_udp = slot.packet.key.protocol == Protocol::Udp;
    is_udp.then(|| classify::wrapped(message(slot)?, &slot.packet)).flatten()
}

/// Whether the error is IPv4's "parameter problem".
fn is_parameter_problem(slot: &Slot) -> bool {
    let is_ipv4 = slot.frame.bytes().get(L3).is_some_and(|first| first >> 4 == 4);
    let kind = message(slot).and_then(|message| message.first());
    is_ipv4 && kind == Some(&IcmpType::PARAMETER_PROBLEM.0)
}

fn message<'s>(slot: &'s Slot<'_>) -> Option<&'s [u8]> {
    slot.frame.bytes().get(slot.packet.l4..slot.packet.end)
}

fn is_intact(slot: &Slot) -> bool {
    let Some(message) = message(slot) else { return false };
    let pseudo = match slot.frame.bytes().get(L3..).map(Ipv6::parse) {
        Some(Ok((ip, _))) => {
            let length = message.len() as u32;
            Sum::pseudo_v6(ip.src(), ip.dst(), IpProtocol::ICMPV6, length)
        }
        _ => Sum::new(),
    };
    pseudo.add_bytes(message).holds()
}
