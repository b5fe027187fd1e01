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
use super::family::{self, Marks};
use super::family_error::{self, Links};
use super::quoted::{self, ErrorEdit};
use super::{Fit, fit, pieces, too_big, too_big_inbound};
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
    if family::changes(&slot.packet, &to) {
        return across(state, snapshot, slot, hit, &Way { core, to, hop });
    }
    let fit = match hop {
        Ok(hop) => fit(state, slot, hop),
        Err(_) => Fit::Whole,
    };
    if let Fit::Refused(mtu) = fit {
        return refuse(state, snapshot, slot, hit, (core, mtu));
    }
    match slot.packet.kind {
        Kind::IcmpError => translate_error(state, snapshot, slot, hit, core)?,
        // Without a transport header there is nothing to adjust.
        Kind::Fragment => translate(slot, core, &to)?,
        _ => {
            if core.has(flag::SLOW) {
                client_address::adjust(state, snapshot, slot, hit)?;
            }
            sequence::note_closing(state, slot.frame.bytes(), &slot.packet, hit);
            translate(slot, core, &to)?;
        }
    }
    send(state, snapshot, slot, hop, fit)
}

/// Where a packet goes, and as what.
struct Way<'c> {
    core: &'c FlowCore,
    to: Endpoints,
    /// Or the verdict that has the frame wait.
    hop: Result<NextHopId, Verdict>,
}

/// As `rewrite`, where the other side is of the other family.
fn across(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    slot: &mut Slot,
    hit: Hit,
    way: &Way,
) -> Result<Verdict, DropReason> {
    let &Way { core, to, hop } = way;
    let marks = family::Marks::of(state, &slot.packet)?;
    if slot.packet.kind == Kind::IcmpError {
        translate_error_across(state, snapshot, slot, hit, (way, marks))?;
        return send(state, snapshot, slot, hop, Fit::Whole);
    }
    let fit = match hop {
        Ok(hop) => family::fit(state, slot, hop),
        Err(_) => Fit::Whole,
    };
    if let Fit::Refused(mtu) = fit {
        return refuse(state, snapshot, slot, hit, (core, mtu));
    }
    if slot.packet.kind != Kind::Fragment {
        let nic = snapshot.nics.get(slot.rx.nic.index()).ok_or(DropReason::Internal)?;
        family::limit_mss(state, nic, slot, hop.unwrap_or(NextHopId::NONE))?;
        if core.has(flag::SLOW) {
            client_address::adjust(state, snapshot, slot, hit)?;
        }
        sequence::note_closing(state, slot.frame.bytes(), &slot.packet, hit);
    }
    if core.decrements_ttl() {
        edit::decrement_ttl(slot.frame.bytes_mut(), &slot.packet)?;
    }
    family::translate(slot, &to, marks)?;
    send(state, snapshot, slot, hop, fit)
}

/// Tells the sender of a packet what fits.
fn refuse(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    slot: &mut Slot,
    hit: Hit,
    (core, mtu): (&FlowCore, u16),
) -> Result<Verdict, DropReason> {
    match hit.direction {
        Direction::Inbound => too_big_inbound(state, snapshot, slot, (core, mtu)),
        Direction::Outbound => too_big(state, snapshot, slot, mtu),
    }
}

/// The last step, once the packet is what its receiver gets.
fn send(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    slot: &mut Slot,
    hop: Result<NextHopId, Verdict>,
    fit: Fit,
) -> Result<Verdict, DropReason> {
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

/// What a packet's tuple becomes.
fn endpoints(state: &WorkerState, hit: Hit, core: &FlowCore) -> Result<Endpoints, DropReason> {
    let addresses = state.flows.addresses(hit.id).ok_or(DropReason::Internal)?;
    Ok(match hit.direction {
        Direction::Inbound => Endpoints {
            src: (addresses.local, core.local_port()),
            dst: (addresses.server, core.server_port()),
        },
        Direction::Outbound => Endpoints {
            src: (addresses.vip, core.virtual_port()),
            dst: (addresses.client, core.client_port()),
        },
    })
}

/// An ICMP error: as a packet's, with what it quotes in the numbers that its receiver knows.
fn translate_error(
    state: &WorkerState,
    snapshot: &Snapshot,
    slot: &mut Slot,
    hit: Hit,
    core: &FlowCore,
) -> Result<(), DropReason> {
    let edit = error_edit(state, snapshot, slot, hit, core)?;
    if core.decrements_ttl() {
        edit::decrement_ttl(slot.frame.bytes_mut(), &slot.packet)?;
    }
    quoted::translate(slot.frame.bytes_mut(), &slot.packet, &edit)
}

/// As `translate_error`, to the other family.
fn translate_error_across(
    state: &WorkerState,
    snapshot: &Snapshot,
    slot: &mut Slot,
    hit: Hit,
    (way, marks): (&Way, Marks),
) -> Result<(), DropReason> {
    let core = way.core;
    let edit = error_edit(state, snapshot, slot, hit, core)?;
    let quoted_went = match hit.direction {
        Direction::Inbound => Direction::Outbound,
        Direction::Outbound => Direction::Inbound,
    };
    let mtu = |hop: NextHopId| next_hop::link_mtu(state, hop).unwrap_or(u16::MAX);
    let links = Links {
        receivers: mtu(way.hop.unwrap_or(NextHopId::NONE)),
        quoted: mtu(core.hop(quoted_went)),
    };
    if core.decrements_ttl() {
        edit::decrement_ttl(slot.frame.bytes_mut(), &slot.packet)?;
    }
    family_error::translate(slot, &edit, &links, marks)
}

fn error_edit(
    state: &WorkerState,
    snapshot: &Snapshot,
    slot: &Slot,
    hit: Hit,
    core: &FlowCore,
) -> Result<ErrorEdit, DropReason> {
    let quoted = slot.packet.seq;
    Ok(ErrorEdit {
        to: endpoints(state, hit, core)?,
        sequence: ftp::quoted_shift(
            state,
            hit,
            quoted,
            client_address::quoted_shift(core, &state.flows.side(hit.id), hit, quoted),
        ),
        overhead_bytes: client_address::overhead_bytes(core, snapshot, hit.direction),
    })
}
