//! Which worker a packet without a local flow belongs to.

use super::burst::Slot;
use super::flow::FlowKey;
use super::state::WorkerState;
use crate::counters::HandOffCause;
use crate::model::{Destination, Snapshot, WorkerId};

/// Where a client's packet goes, to find its service by.
#[inline]
pub(super) fn destination(key: &FlowKey) -> Destination {
    Destination { protocol: key.protocol, address: key.dst, port: key.dst_port }
}

/// The owner, if it is another worker. A frame that was handed off stays where it is.
///
/// A FULLNAT reply's owner follows from its destination port alone (`SourcePortMap`), a client's
/// packet's from what its service says, a NAT server's from the client that it is sent to. What is
/// none of these is nobody's and is handled where it came in.
#[inline]
pub(super) fn elsewhere(
    state: &WorkerState,
    snapshot: &Snapshot,
    slot: &Slot,
) -> Option<(WorkerId, HandOffCause)> {
    if snapshot.steering.workers() == 1 || slot.rx.was_handed_off() {
        return None;
    }
    let key = &slot.packet.key;
    let steering = &snapshot.steering;
    let local = snapshot.lips.get(&key.dst).and_then(|local| local.ports.owner(key.dst_port));
    let (owner, cause) = if let Some(owner) = local {
        (owner, HandOffCause::Reply)
    } else if let Some(service) = snapshot.match_service(&destination(key)) {
        let client = (key.src, key.src_port);
        let owner = steering.owner(service.key_kind, client, (key.dst, key.dst_port));
        (owner, HandOffCause::Flow)
    } else if let Some(kind) = snapshot.nat_server(key.protocol, (key.src, key.src_port)) {
        let (client, server) = ((key.dst, key.dst_port), (key.src, key.src_port));
        (steering.owner(kind, client, server), HandOffCause::Reply)
    } else {
        return None;
    };
    (owner != state.worker).then_some((owner, cause))
}
