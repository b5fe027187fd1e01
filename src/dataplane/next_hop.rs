//! The last step of forwarding: which port, which MAC addresses, which tag.

use super::burst::Verdict;
use super::state::WorkerState;
use crate::counters::DropReason;
use crate::frame::Frame;
use crate::model::{NextHop, NextHopId, NicModel, RouteTarget, Snapshot};
use crate::wire::ethernet::{Ethernet, MacAddr};
use crate::wire::vlan::VLAN_TAG_BYTES;

use crate::message::FromWorker;
use std::net::IpAddr;

/// The rewrite data in a slot.
pub(super) fn get(state: &WorkerState, id: NextHopId) -> Option<&NextHop> {
    state.hops.get(id.index())
}

/// Largest IP packet that the link behind `id` takes; none while it is not known.
pub(super) fn link_mtu(state: &WorkerState, id: NextHopId) -> Option<u16> {
    get(state, id).filter(|hop| hop.resolved).map(|hop| hop.mtu)
}

/// Whether the kernel knows no way to what `id` stands for: waiting would be in vain.
pub(super) fn leads_nowhere(state: &WorkerState, id: NextHopId) -> bool {
    get(state, id).is_some_and(|hop| !hop.resolved && hop.mtu == 0)
}

/// As `link_mtu`, for the whole path as far as ICMP errors have told of it.
pub(super) fn path_mtu(state: &WorkerState, id: NextHopId) -> Option<u16> {
    let learned = state.learned_mtus.get(id, state.now).unwrap_or(u16::MAX);
    link_mtu(state, id).map(|mtu| mtu.min(learned))
}

/// Writes MAC addresses and tag; the verdict sends the frame or parks it.
pub(super) fn finish(
    state: &WorkerState,
    snapshot: &Snapshot,
    frame: &mut Frame,
    id: NextHopId,
) -> Result<Verdict, DropReason> {
    let Some(hop) = get(state, id).filter(|hop| hop.resolved) else {
        return Ok(Verdict::AwaitNeighbour(id));
    };
    let (mut ethernet, _) =
        Ethernet::parse_mut(frame.bytes_mut()).map_err(|_| DropReason::Internal)?;
    ethernet.set_dst(MacAddr(hop.macs.dst()));
    ethernet.set_src(MacAddr(hop.macs.src()));
    let nic = snapshot.nics.get(hop.nic.index()).ok_or(DropReason::Internal)?;
    push_vlan(frame, nic)?;
    Ok(Verdict::Transmit(hop.nic))
}

/// Finishes a frame that waited for its neighbour: `Transmit`, or `AwaitNeighbour` still, or a
/// counted `Drop`.
pub fn finish_next_hop(
    state: &WorkerState,
    snapshot: &Snapshot,
    frame: &mut Frame,
    id: NextHopId,
) -> Verdict {
    finish(state, snapshot, frame, id).unwrap_or_else(|reason| {
        state.counters.dropped(reason);
        Verdict::Drop(reason)
    })
}

/// Puts the port's 802.1Q tag in, if it has one.
pub fn push_vlan(frame: &mut Frame, nic: &NicModel) -> Result<(), DropReason> {
    let Some(vlan) = nic.vlan else { return Ok(()) };
    const ADDRESSES: usize = 2 * 6;
    frame.open_gap(ADDRESSES, VLAN_TAG_BYTES).map_err(|_| DropReason::NoHeadroom)?;
    let [high, low] = vlan.to_be_bytes();
    let tag = frame.bytes_mut().get_mut(ADDRESSES..ADDRESSES + VLAN_TAG_BYTES);
    tag.ok_or(DropReason::Truncated)?.copy_from_slice(&[0x81, 0x00, high, low]);
    Ok(())
}

/// The slot towards a client, where there is one.
pub(super) fn known(snapshot: &Snapshot, client: IpAddr) -> Option<NextHopId> {
    match snapshot.routes.look_up(client)? {
        RouteTarget::Via(id) => Some(id),
        RouteTarget::OnLink(_) => snapshot.routes.neighbour(client),
    }
}

/// The slot towards a client, from the kernel's routes. For a client on the port's own link whose
/// neighbour control has no slot for, control is told, and the inner error is the verdict that has
/// the frame wait.
pub(super) fn towards(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    client: IpAddr,
) -> Result<Result<NextHopId, Verdict>, DropReason> {
    match snapshot.routes.look_up(client) {
        Some(RouteTarget::Via(id)) => Ok(Ok(id)),
        Some(RouteTarget::OnLink(nic)) => Ok(snapshot.routes.neighbour(client).ok_or_else(|| {
            state.tell(FromWorker::Resolve(nic, client));
            Verdict::AwaitAddress(nic, client)
        })),
        None => {
            state.tell(FromWorker::NoRoute(client));
            Err(DropReason::NoRoute)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{KernelMode, NicId};

    #[test]
    fn a_tag_goes_behind_the_addresses_or_the_frame_is_dropped() {
        let nic = NicModel {
            id: NicId(0),
            name: "wan".into(),
            mac: [2; 6],
            mtu: 1500,
            kernel: KernelMode::Tap,
            vlan: Some(100),
            addresses: Vec::new(),
        };
        let mut bytes = [7; 64];
        let mut frame = Frame::new(&mut bytes, 4, 64);
        assert_eq!(push_vlan(&mut frame, &nic), Ok(()));
        assert_eq!(frame.bytes()[12..16], [0x81, 0, 0, 100]);
        assert_eq!(push_vlan(&mut frame, &nic), Err(DropReason::NoHeadroom));
    }
}
