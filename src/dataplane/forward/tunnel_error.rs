//! ICMP errors about the packets that TUN makes. The director is their sender, but the client sent
//! what is inside: it is told, by an error of the VIP's about its own packet (recording
//! tun4-outer-icmp). As in the kernel only where the outer and the inner packet are IPv4. With
//! IPv6 in either place the error is for the director's own stack, and what it says of the path's
//! MTU is remembered: a client is told when it next sends too much.

use super::super::burst::{Slot, Verdict};
use super::super::classify::{L3, Packet};
use super::super::flow::Direction;
use super::super::flow_table::Hit;
use super::super::state::WorkerState;
use super::super::{next_hop, reply, track};
use super::{nat, tunnel};
use crate::counters::{DropReason, ReplyKind};
use crate::model::Snapshot;
use crate::wire::icmp::{CODE_FRAGMENTATION_NEEDED, Icmp, IcmpType};
use crate::wire::icmpv6::{Icmpv6, Icmpv6Type};
use crate::wire::ipv4::Ipv4;
use crate::wire::ipv6::Ipv6;

/// What an error says.
struct Said {
    /// Of the outer packet.
    is_ipv4: bool,
    kind: (IcmpType, u8),
    /// MTU of the next hop, of "fragmentation needed".
    mtu: Option<u16>,
    /// Whether the outer packet must not be cut: the client looks for the path's MTU.
    dont_fragment: bool,
}

/// Tells the client. `hit` is the flow of the packet inside, which starts at `packet.payload`.
pub(super) fn relay(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    slot: &mut Slot,
    hit: Hit,
) -> Result<Verdict, DropReason> {
    let said = read(slot).ok_or(DropReason::Internal)?;
    let core = *state.flows.core(hit.id).ok_or(DropReason::Internal)?;
    let mut mtu = None;
    if let Some(path_mtu) = said.mtu {
        let hop = core.hop(Direction::Inbound);
        // What was known before goes to the client: the kernel's first error still says it.
        let known = next_hop::path_mtu(state, hop).unwrap_or(path_mtu);
        let now = state.now;
        state.learned_mtus.learn(hop, said.is_ipv4, path_mtu, now);
        mtu = Some(known.saturating_sub(tunnel::overhead_bytes(core.tunnel(), true)));
    }
    if !said.is_ipv4 || slot.packet.key.src.is_ipv6() {
        return Ok(Verdict::ToKernel(slot.rx.nic));
    }
    if mtu.is_some() && !said.dont_fragment {
        return Err(DropReason::IcmpConsumed);
    }
    uncover(slot)?;
    let vip = slot.packet.key.dst;
    reply::compose_v4(slot, vip, said.kind, mtu)?;
    track::aside(state, &slot.packet, Hit { direction: Direction::Outbound, ..hit });
    state.counters.replied(ReplyKind::TunnelError);
    match nat::towards_client(state, snapshot, hit, &core)? {
        Ok(hop) => next_hop::finish(state, snapshot, &mut slot.frame, hop),
        Err(waiting) => Ok(waiting),
    }
}

fn read(slot: &Slot) -> Option<Said> {
    let message = slot.frame.bytes().get(slot.packet.l4..slot.packet.end)?;
    if matches!(slot.frame.bytes().get(L3..).map(Ipv6::parse), Some(Ok(_))) {
        let (icmp, _) = Icmpv6::parse(message).ok()?;
        let is_too_big = icmp.icmp_type() == Icmpv6Type::PACKET_TOO_BIG;
        let mtu = is_too_big.then(|| u16::try_from(icmp.mtu()).unwrap_or(u16::MAX));
        let kind = (IcmpType::UNREACHABLE, icmp.code());
        return Some(Said { is_ipv4: false, kind, mtu, dont_fragment: true });
    }
    let (icmp, quoted) = Icmp::parse(message).ok()?;
    let (outer, _) = Ipv4::parse_quoted(quoted).ok()?;
    let kind = (icmp.icmp_type(), icmp.code());
    let is_too_big = kind == (IcmpType::UNREACHABLE, CODE_FRAGMENTATION_NEEDED);
    let mtu = is_too_big.then_some(icmp.mtu());
    Some(Said { is_ipv4: true, kind, mtu, dont_fragment: outer.dont_fragment() })
}

/// Leaves only the packet inside in the frame.
fn uncover(slot: &mut Slot) -> Result<(), DropReason> {
    let Packet { payload, end, .. } = slot.packet;
    let covering = payload.checked_sub(L3).ok_or(DropReason::Internal)?;
    slot.frame.set_len(end).map_err(|_| DropReason::Internal)?;
    slot.frame.close_gap(L3, covering).map_err(|_| DropReason::Internal)?;
    slot.packet.end = end - covering;
    (slot.packet.l4, slot.packet.payload) = (L3, L3);
    Ok(())
}
