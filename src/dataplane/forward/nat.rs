//! NAT and FULLNAT. In NAT CIP:cport → VIP:vport becomes CIP:cport → RIP:rport, and back; in
//! FULLNAT LIP:lport stands for the client. A flow's local address is where replies go, the
//! client's own in NAT, so that both are one rewrite.

use super::super::burst::{Slot, Verdict};
use super::super::classify::Kind;
use super::super::flow::{Direction, FlowCore, flag};
use super::super::flow_table::Hit;
use super::super::state::WorkerState;
use super::super::{client_address, ftp, next_hop, sequence};
use super::edit::{self, Endpoints};
use super::quoted::{self, ErrorEdit};
use super::{Fit, family, fit, pieces, too_big, too_big_inbound};
use crate::counters::DropReason;
use crate::model::{ForwardMode, NextHopId, Protocol, Snapshot};

pub(super) fn rewrite(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    slot: &mut Slot,
    hit: Hit,
    core: &FlowCore,
) -> Result<Verdict, DropReason> {
    let hop = match hit.direction {
        Direction::Inbound => Ok(core.hop(Direction::Inbound)),
        Direction::Outbound => towards_client(state, snapshot, hit, core)?,
    };
    let to = endpoints(state, hit, core)?;
    let crosses = family::changes(&slot.packet, &to);
    if crosses {
        family::check(&slot.packet)?;
    }
    let fit = match hop {
        Ok(hop) if crosses => family::fit(state, slot, hop),
        Ok(hop) => fit(state, slot, hop),
        Err(_) => Fit::Whole,
    };
    if let Fit::Refused(mtu) = fit {
        return match hit.direction {
            Direction::Inbound => too_big_inbound(state, snapshot, slot, (core, mtu)),
            Direction::Outbound => too_big(state, snapshot, slot, mtu),
        };
    }
    match slot.packet.kind {
        Kind::IcmpError => translate_error(state, snapshot, slot, hit)?,
        // Without a transport header there is nothing to adjust.
        Kind::Fragment => translate(slot, core, &to)?,
        _ => {
            if core.has(flag::SLOW) {
                client_address::adjust(state, snapshot, slot, hit)?;
            }
            sequence::note_closing(state, slot, hit);
            if crosses {
                let nic = snapshot.nics.get(slot.rx.nic.index()).ok_or(DropReason::Internal)?;
                family::limit_mss(state, nic, slot, hop.unwrap_or(NextHopId::NONE))?;
                change_family(state, slot, core, &to)?;
            } else {
                translate(slot, core, &to)?;
            }
        }
    }
    match (hop, fit) {
        (Ok(hop), Fit::Cut(mtu)) => {
            slot.frame.set_len(slot.packet.end).map_err(|_| DropReason::Internal)?;
            pieces::send(state, snapshot, &mut slot.frame, (hop, mtu))
        }
        (Ok(hop), _) => next_hop::finish(state, snapshot, &mut slot.frame, hop),
        (Err(waiting), _) => Ok(waiting),
    }
}

/// The slot towards the client, remembered in the flow once it is known; or the verdict that has
/// the frame wait for it.
pub(super) fn towards_client(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    hit: Hit,
    core: &FlowCore,
) -> Result<Result<NextHopId, Verdict>, DropReason> {
    let known = core.hop(Direction::Outbound);
    if known != NextHopId::NONE {
        return Ok(Ok(known));
    }
    let client = state.flows.addresses(hit.id).ok_or(DropReason::Internal)?.client;
    let towards = next_hop::towards(state, snapshot, client)?;
    if let (Ok(hop), Some(core)) = (towards, state.flows.core_mut(hit.id)) {
        core.set_hop_out(hop);
    }
    Ok(towards)
}

/// Addresses, ports and TTL.
fn translate(slot: &mut Slot, core: &FlowCore, to: &Endpoints) -> Result<(), DropReason> {
    if core.decrements_ttl() {
        edit::decrement_ttl(slot.frame.bytes_mut(), &slot.packet)?;
    }
    edit::endpoints(slot.frame.bytes_mut(), &slot.packet, to)?;
    if core.mode() == ForwardMode::Nat && core.protocol() == Protocol::Udp {
        // As the kernel's NAT does (recording nat4-udp).
        edit::fill_udp_checksum(slot.frame.bytes_mut(), &slot.packet)?;
    }
    Ok(())
}

/// As `translate`, to the other family.
fn change_family(
    state: &mut WorkerState,
    slot: &mut Slot,
    core: &FlowCore,
    to: &Endpoints,
) -> Result<(), DropReason> {
    if core.decrements_ttl() {
        edit::decrement_ttl(slot.frame.bytes_mut(), &slot.packet)?;
    }
    family::translate(slot, to, state.next_ip_id())
}

/// What a packet's tuple becomes.
fn endpoints(state: &WorkerState, hit: Hit, core: &FlowCore) -> Result<Endpoints, DropReason> {
    let addresses = state.flows.addresses(hit.id).ok_or(DropReason::Internal)?;
    Ok(match hit.direction {
        Direction::Inbound => Endpoints {
            src: (addresses.local, core.local_port),
            dst: (addresses.server, core.server_port),
        },
        Direction::Outbound => Endpoints {
            src: (addresses.vip, core.virtual_port),
            dst: (addresses.client, core.client_port),
        },
    })
}

/// An ICMP error: as a packet's, with what it quotes in the numbers that its receiver knows.
fn translate_error(
    state: &WorkerState,
    snapshot: &Snapshot,
    slot: &mut Slot,
    hit: Hit,
) -> Result<(), DropReason> {
    let core = state.flows.core(hit.id).ok_or(DropReason::Internal)?;
    let quoted = slot.packet.seq;
    let edit = ErrorEdit {
        to: endpoints(state, hit, core)?,
        sequence: ftp::quoted_shift(
            state,
            hit,
            quoted,
            client_address::quoted_shift(core, &state.flows.side(hit.id), hit, quoted),
        ),
        overhead_bytes: client_address::overhead_bytes(core, snapshot, hit.direction),
    };
    if core.decrements_ttl() {
        edit::decrement_ttl(slot.frame.bytes_mut(), &slot.packet)?;
    }
    quoted::translate(slot.frame.bytes_mut(), &slot.packet, &edit)
}
