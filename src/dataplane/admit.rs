//! First packets: which become flows, and of which server.

use super::burst::{Errand, Slot, Verdict};
use super::flow::{NewFlow, flag};
use super::flow_table::{FlowId, Hit};
use super::persistence::{self, Choice, Chosen};
use super::source_ports::{ALL_PORTS, Grant, SpaceKey, Wanted};
use super::state::WorkerState;
use super::{
    advance, classify::Packet, client_address, defence, flow::Direction, ftp, pipeline, reply,
    synproxy, takeover, track,
};
use crate::counters::{DropReason, HandOffCause, ReplyKind};
use crate::model::{
    FTP_DATA_PORT, ForwardMode, LocalAddress, Protocol, RealServer, Snapshot, VirtualService,
};
use crate::time::Nanos;
use crate::wire::tcp::TcpFlags;
use std::net::IpAddr;

/// A packet to a service that no flow knows.
pub(super) fn admit(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    service: &VirtualService,
    slot: &mut Slot,
    now: Nanos,
) -> Result<Verdict, DropReason> {
    let is_tcp = slot.packet.key.protocol == Protocol::Tcp;
    if service.synproxy && is_tcp && slot.packet.key.src_port != FTP_DATA_PORT {
        return synproxy::admit(state, snapshot, service, slot);
    }
    if !is_first_packet(snapshot, &slot.packet) {
        return pipeline::leave_to_kernel(state, snapshot, slot, DropReason::Unclassified);
    }
    let is_answered = matches!(slot.rx.errand, Errand::Answer(_));
    if !is_answered && defence::drops_packet(state, snapshot, slot.packet.key.src.is_ipv4()) {
        return Err(DropReason::DropPacket);
    }
    if let Err(reason) = may_enter(state, service, &slot.packet) {
        refused(state, service);
        return Err(reason);
    }
    open(state, snapshot, service, slot, now)
}

/// TCP needs a SYN without RST (SYN-ACK and SYN-FIN schedule too, as recorded), with `sloppy_tcp`
/// anything but a RST; UDP needs nothing.
fn is_first_packet(snapshot: &Snapshot, packet: &Packet) -> bool {
    let has_syn = snapshot.semantics.sloppy_tcp || packet.flags.contains(TcpFlags::SYN);
    let opens =
        packet.key.protocol == Protocol::Udp || has_syn && !packet.flags.contains(TcpFlags::RST);
    opens && packet.key.src_port != FTP_DATA_PORT
}

/// Source address, lists and limit, in this order.
#[inline(never)]
pub(super) fn may_enter(
    state: &WorkerState,
    service: &VirtualService,
    packet: &Packet,
) -> Result<(), DropReason> {
    sender_may_enter(state, service, (packet.key.src, packet.key.dst))
}

/// As `may_enter`, of a packet from `client` to `vip`.
#[inline(always)]
pub(super) fn sender_may_enter(
    state: &WorkerState,
    service: &VirtualService,
    (client, vip): (IpAddr, IpAddr),
) -> Result<(), DropReason> {
    if is_martian(client) || client == vip {
        return Err(DropReason::MartianSource);
    }
    let admitted = service.allow.is_empty() || service.allow.contains(client);
    if !admitted || !service.deny.is_empty() && service.deny.contains(client) {
        return Err(DropReason::Denied);
    }
    let share = service.connections_share(state.worker, state.workers);
    let flows = || state.counters.services.get(service.id.index()).map_or(0, |s| s.flows.get());
    if share.is_some_and(|share| flows() >= share) {
        return Err(DropReason::ServiceConnectionsMax);
    }
    Ok(())
}

/// Addresses that no sender can have (RFC 1812 section 5.3.7, RFC 4291).
#[inline(always)]
fn is_martian(address: IpAddr) -> bool {
    address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || matches!(address, IpAddr::V4(v4) if v4.is_broadcast() || v4.octets()[0] >= 240)
}

/// Counts a first packet that was refused.
pub(super) fn refused(state: &WorkerState, service: &VirtualService) {
    if let Some(service) = state.counters.services.get(service.id.index()) {
        service.refused.add(1);
    }
}

/// Schedules, makes the flow and sends its first packet on.
pub(super) fn open(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    service: &VirtualService,
    slot: &mut Slot,
    now: Nanos,
) -> Result<Verdict, DropReason> {
    // FTP's data ports, which a persistent service has too: without a server they are the host's.
    let is_data = service.key.port().is_some_and(|own| own != slot.packet.key.dst_port);
    let choice = match persistence::choose(state, snapshot, service, slot)? {
        Chosen::Server(choice) => choice,
        Chosen::Elsewhere(owner) => return Ok(Verdict::HandOff(owner, HandOffCause::Template)),
        Chosen::Nobody if is_data => {
            return pipeline::leave_to_kernel(state, snapshot, slot, DropReason::NoServer);
        }
        Chosen::Nobody => {
            refused(state, service);
            return no_server(state, snapshot, slot);
        }
    };
    match make_flow(state, snapshot, service, choice, slot) {
        Ok(id) => {
            let hit = Hit { id, direction: Direction::Inbound };
            let verdict = match advance::first(state, snapshot, slot, hit) {
                Some(verdict) => Ok(verdict),
                None => pipeline::forward_tracked(state, snapshot, slot, hit, now),
            };
            if is_one_packet(service, slot) && slot.packet.piece.is_none() {
                track::end(state, id);
            }
            verdict
        }
        Err(reason) => {
            refused(state, service);
            cannot_open(state, snapshot, slot, reason)
        }
    }
}

fn is_one_packet(service: &VirtualService, slot: &Slot) -> bool {
    service.one_packet && slot.packet.key.protocol == Protocol::Udp
}

/// What the kernel does: ICMP port unreachable, for TCP too.
pub(super) fn no_server(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    slot: &mut Slot,
) -> Result<Verdict, DropReason> {
    let nic = snapshot.nics.get(slot.rx.nic.index()).ok_or(DropReason::Internal)?;
    reply::port_unreachable(slot, nic)?;
    state.counters.dropped(DropReason::NoServer);
    state.counters.replied(ReplyKind::PortUnreachable);
    Ok(Verdict::Transmit(nic.id))
}

/// A client whose flow finds no source port is told at once instead of timing out.
fn cannot_open(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    slot: &mut Slot,
    reason: DropReason,
) -> Result<Verdict, DropReason> {
    let is_tcp = slot.packet.key.protocol == Protocol::Tcp;
    if !matches!(reason, DropReason::NoSourcePort | DropReason::NoAddressPair) || !is_tcp {
        return Err(reason);
    }
    let nic = snapshot.nics.get(slot.rx.nic.index()).ok_or(DropReason::Internal)?;
    reply::reset(slot, nic)?;
    state.counters.dropped(reason);
    state.counters.replied(ReplyKind::TcpReset);
    Ok(Verdict::Transmit(nic.id))
}

/// Makes the entry of a new flow, with a source port where the mode needs one.
pub(super) fn make_flow(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    service: &VirtualService,
    choice: Choice,
    slot: &Slot,
) -> Result<FlowId, DropReason> {
    let Choice { server, template } = choice;
    if let Some(template) = template {
        persistence::hold(state, template);
    }
    let made = make_entry(state, snapshot, service, server, slot);
    match (made, template) {
        (Ok(id), Some(template)) => persistence::attach(state, id, template),
        (Err(_), Some(template)) => persistence::forgo(state, template),
        (_, None) => {}
    }
    made
}

fn make_entry(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    service: &VirtualService,
    server: &RealServer,
    slot: &Slot,
) -> Result<FlowId, DropReason> {
    let mut new = NewFlow {
        key: slot.packet.key,
        service: service.id,
        server: server.id,
        server_address: (server.address, service.server_port(server, slot.packet.key.dst_port)),
        local: None,
        mode: server.mode,
        tunnel: server.tunnel,
        decrements_ttl: service.ttl.decrements(server.mode),
        hop: server.hop,
        shares_ports: service.keeps_port(server, slot.packet.key.dst_port),
        flags: if server.mode.sees_replies() { 0 } else { flag::INPUT_ONLY },
        one_packet: is_one_packet(service, slot),
    };
    let mut inherited = None;
    match server.mode {
        ForwardMode::Nat => new.local = Some((new.key.src, new.key.src_port)),
        ForwardMode::FullNat => {
            let (local, port, heir) = take_port(state, snapshot, service, &new)?;
            new.local = Some((local.address, port));
            inherited = heir;
        }
        ForwardMode::DirectRoute | ForwardMode::Tunnel | ForwardMode::Local => {}
    }
    let id = insert(state, &new).inspect_err(|_| give_back(state, &new))?;
    count_opened(state, &new);
    if let Some(heir) = inherited {
        takeover::shift_above(state, id, slot, &heir);
    }
    if server.mode == ForwardMode::FullNat {
        client_address::begin(state, service, id, slot.packet.seq);
    }
    ftp::begin(state, service, id);
    Ok(id)
}

pub(super) fn insert(state: &mut WorkerState, new: &NewFlow) -> Result<FlowId, DropReason> {
    state.flows.insert(new).map_err(|_| DropReason::TableFull)
}

fn space_key(new: &NewFlow, lip: IpAddr) -> SpaceKey {
    let (server, own) = new.server_address;
    let server_port = if new.shares_ports { ALL_PORTS } else { own };
    SpaceKey { lip, server, server_port, protocol: new.key.protocol }
}

/// Looks for a port on the service's local addresses, a different one first each time.
fn take_port<'s>(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    service: &'s VirtualService,
    new: &NewFlow,
) -> Result<(&'s LocalAddress, u16, Option<takeover::Heir>), DropReason> {
    let is_ipv4 = new.server_address.0.is_ipv4();
    let family = |local: &&LocalAddress| local.address.is_ipv4() == is_ipv4;
    let locals = service.local_addresses.iter().map(|local| local.as_ref()).filter(family);
    let count = locals.clone().count();
    if count == 0 {
        return Err(DropReason::NoLocalAddress);
    }
    state.next_local = state.next_local.wrapping_add(1);
    let first = state.next_local as usize % count;
    let mut refusal = DropReason::NoSourcePort;
    for local in locals.clone().cycle().skip(first).take(count) {
        let (key, server_port) = (space_key(new, local.address), new.server_address.1);
        let wanted = Wanted { key, server_port };
        let WorkerState { source_ports, flows, .. } = state;
        match source_ports.take(local, &wanted, &snapshot.steering, flows) {
            Ok(Grant::Free(port)) => {
                count_lip(state, local, |lip| lip.used.add(1));
                return Ok((local, port, None));
            }
            Ok(Grant::Takeover(port, old)) => {
                count_lip(state, local, |lip| lip.reused.add(1));
                let heir = takeover::Heir::of(state, old);
                track::end_for_takeover(state, old);
                return Ok((local, port, Some(heir)));
            }
            Err(reason) => {
                refusal = reason;
                if reason == DropReason::NoSourcePort {
                    count_lip(state, local, |lip| lip.exhausted.add(1));
                }
            }
        }
    }
    Err(refusal)
}

pub(super) fn count_lip(
    state: &WorkerState,
    local: &LocalAddress,
    count: impl FnOnce(&crate::counters::LipCounters),
) {
    if let Some(lip) = state.counters.lips.get(local.id.index()) {
        count(lip);
    }
}

/// Returns the source port of a flow that could not be made.
fn give_back(state: &mut WorkerState, new: &NewFlow) {
    let Some((lip, port)) = new.local.filter(|_| new.mode == ForwardMode::FullNat) else { return };
    release_port(state, &space_key(new, lip), port);
}

/// Returns a source port.
pub(super) fn release_port(state: &mut WorkerState, key: &SpaceKey, port: u16) {
    if let Some(lip) = state.source_ports.lip_of(key)
        && let Some(lip) = state.counters.lips.get(lip.index())
    {
        lip.used.sub(1);
    }
    state.source_ports.release(key, port);
}

pub(super) fn count_opened(state: &mut WorkerState, new: &NewFlow) {
    let WorkerState { counters, schedulers, .. } = state;
    counters.flows.add(1);
    counters.flows_created.add(1);
    if let Some(server) = counters.servers.get(new.server.index()) {
        server.flows.add(1);
        server.connections.add(1);
    }
    schedulers.bound(new.server, counters);
    if let Some(service) = counters.services.get(new.service.index()) {
        service.flows.add(1);
        service.connections.add(1);
    }
}
