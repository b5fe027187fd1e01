//! Makes the flow that an announcement promises, and says what its reader is told instead.

use std::net::{IpAddr, SocketAddr};

use super::super::flow::{Addresses, Direction, FlowCore, FlowKey, NewFlow};
use super::super::flow_table::{FlowId, Hit};
use super::super::source_ports::{ALL_PORTS, Grant, SpaceKey, Wanted};
use super::super::state::WorkerState;
use super::super::{admit, tcp_state, track};
use super::text::{self, Announcement, Text};
use crate::counters::HelperEvent;
use crate::limits::{FTP_DATA_MAX, FTP_PORT_TRIES_MAX};
use crate::message::FlowState;
use crate::model::{Destination, FTP_DATA_PORT, ForwardMode, Protocol, Snapshot};
use crate::time::NANOS_PER_MILLI;

/// A control connection as its announcements need it.
struct Control {
    id: FlowId,
    core: FlowCore,
    addresses: Addresses,
}

/// Has the announced connection expected; the text that its reader gets, if it is another one.
pub(super) fn expect(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    hit: Hit,
    found: &Announcement,
) -> Result<Option<Text>, HelperEvent> {
    let (core, addresses) =
        state.flows.core(hit.id).zip(state.flows.addresses(hit.id)).ok_or(HelperEvent::Refused)?;
    let control = Control { id: hit.id, core: *core, addresses };
    match hit.direction {
        Direction::Inbound => active(state, snapshot, &control, found),
        Direction::Outbound => passive(state, snapshot, &control, found),
    }
}

/// The client waits for the server: the server's port below its control port connects.
fn active(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    control: &Control,
    found: &Announcement,
) -> Result<Option<Text>, HelperEvent> {
    let Control { core, addresses, .. } = control;
    // Anything else would have the server connect to third parties (RFC 2577 section 3). And an
    // IPv6 server has no use for PORT, which a client may send it by IPv4.
    let has_form = text::write(found.form, (addresses.local, found.port).into()).is_some();
    if found.address != Some(addresses.client) || !has_form {
        return Err(HelperEvent::Refused);
    }
    let (src, dst) = (addresses.client, addresses.vip);
    let dst_port = data_port(core.virtual_port());
    let key = FlowKey { protocol: Protocol::Tcp, src, dst, src_port: found.port, dst_port };
    let server = (addresses.server, data_port(core.server_port()));
    let id = known(state, &key, server);
    let id = id.map_or_else(|| open(state, snapshot, control, &key, server), Ok)?;
    listen(state, snapshot, id);
    let told = state.flows.core(id).map(|core| core.local_port()).ok_or(HelperEvent::Refused)?;
    told_instead(found, addresses.client, (addresses.local, told).into())
}

/// What to write: nothing where the reader can use what stands there.
fn told_instead(
    found: &Announcement,
    own: IpAddr,
    reachable: SocketAddr,
) -> Result<Option<Text>, HelperEvent> {
    if (found.address.unwrap_or(own), found.port) == (reachable.ip(), reachable.port()) {
        return Ok(None);
    }
    text::write(found.form, reachable).map(Some).ok_or(HelperEvent::Refused)
}

/// The server waits for the client, at the VIP by the same port unless that is taken.
fn passive(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    control: &Control,
    found: &Announcement,
) -> Result<Option<Text>, HelperEvent> {
    let addresses = &control.addresses;
    let may_be = |told: IpAddr| told == addresses.server || told == addresses.vip;
    if !found.address.is_none_or(|told| may_be(told) || told.is_unspecified()) {
        return Err(HelperEvent::Refused);
    }
    let server = (addresses.server, found.port);
    for dst_port in candidates(found.port) {
        let (src, dst) = (addresses.client, addresses.vip);
        let key = FlowKey { protocol: Protocol::Tcp, src, dst, src_port: 0, dst_port };
        let to = Destination { protocol: Protocol::Tcp, address: dst, port: dst_port };
        let is_own = snapshot.match_service(&to).is_none_or(|it| it.id == control.core.service());
        let id = known(state, &key, server);
        if id.is_none() && (!is_own || state.flows.find(&key).is_some()) {
            continue;
        }
        let text = told_instead(found, addresses.vip, (addresses.vip, dst_port).into())?;
        let id = id.map_or_else(|| open(state, snapshot, control, &key, server), Ok)?;
        listen(state, snapshot, id);
        return Ok(text);
    }
    Err(HelperEvent::Refused)
}

/// The server's own port first, as the kernel does, then ports near it.
fn candidates(port: u16) -> impl Iterator<Item = u16> {
    let near = (1..FTP_PORT_TRIES_MAX).map(move |step| 1024 + port.wrapping_add(step) % 64_511);
    std::iter::once(port).chain(near)
}

/// The port of active data connections that belongs to a control port (RFC 959 section 3.2): one
/// less, but no other privileged port than FTP's.
fn data_port(control_port: u16) -> u16 {
    let below = control_port.wrapping_sub(1);
    if below < 1024 { FTP_DATA_PORT } else { below }
}

/// The flow of an announcement that was heard before. One that has ended makes way.
fn known(state: &mut WorkerState, key: &FlowKey, server: (IpAddr, u16)) -> Option<FlowId> {
    let hit = state.flows.find(key).filter(|hit| hit.direction == Direction::Inbound)?;
    let (core, addresses) = (state.flows.core(hit.id)?, state.flows.addresses(hit.id)?);
    if tcp_state::has_ended(core) {
        track::make_way(state, hit.id);
        return None;
    }
    let is_same = (addresses.server, core.server_port()) == server;
    (is_same && state.ftp.data.contains_key(&hit.id.0)).then_some(hit.id)
}

fn open(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    control: &Control,
    key: &FlowKey,
    server: (IpAddr, u16),
) -> Result<FlowId, HelperEvent> {
    if state.flows.find(key).is_some() {
        return Err(HelperEvent::Refused);
    }
    if state.ftp.data.len() >= FTP_DATA_MAX {
        return Err(HelperEvent::Full);
    }
    let core = &control.core;
    let local = match core.mode() {
        ForwardMode::FullNat => {
            let lip = control.addresses.local;
            (lip, take_port(state, snapshot, lip, server).ok_or(HelperEvent::Full)?)
        }
        _ => (key.src, key.src_port),
    };
    let new = NewFlow {
        key: *key,
        service: core.service(),
        server: core.server(),
        server_address: server,
        local: Some(local),
        mode: core.mode(),
        tunnel: core.tunnel(),
        decrements_ttl: core.decrements_ttl(),
        hop: core.hop(Direction::Inbound),
        shares_ports: true,
        flags: 0,
        one_packet: false,
    };
    let id = admit::insert(state, &new).map_err(|_| {
        if new.mode == ForwardMode::FullNat {
            admit::release_port(state, &data_space(local.0, server.0), local.1);
        }
        HelperEvent::Full
    })?;
    admit::count_opened(state, &new);
    if let Some(core) = state.flows.core_mut(id) {
        core.help();
    }
    state.ftp.tie(control.id, id);
    state.counters.helped(HelperEvent::Announced);
    Ok(id)
}

/// The ports of a local address towards all data ports of a server.
fn data_space(lip: IpAddr, server: IpAddr) -> SpaceKey {
    SpaceKey { lip, server, server_port: ALL_PORTS, protocol: Protocol::Tcp }
}

/// A source port on the control connection's own local address: servers check that both
/// connections are one host's.
fn take_port(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    lip: IpAddr,
    server: (IpAddr, u16),
) -> Option<u16> {
    let local = snapshot.lips.get(&lip)?;
    let wanted = Wanted { key: data_space(lip, server.0), server_port: server.1 };
    let WorkerState { source_ports, flows, .. } = state;
    match source_ports.take(local, &wanted, &snapshot.steering, flows).ok()? {
        Grant::Free(port) => {
            admit::count_lip(state, local, |lip| lip.used.add(1));
            Some(port)
        }
        Grant::Takeover(port, old) => {
            admit::count_lip(state, local, |lip| lip.reused.add(1));
            track::end_for_takeover(state, old);
            Some(port)
        }
    }
}

/// A flow that waits for its first packet, as long as the kernel's does.
fn listen(state: &mut WorkerState, snapshot: &Snapshot, id: FlowId) {
    let now = state.now;
    let Some(core) = state.flows.core_mut(id) else { return };
    if !matches!(core.state(), FlowState::None | FlowState::Listen) {
        return;
    }
    core.last_seen_ms = now.as_millis_u32();
    track::enter(state, snapshot, id, FlowState::Listen, now);
    let timeout_ms = state.flows.core(id).map_or(0, |core| core.timeout_ms);
    state.flows.wheel.arm(id.0, now + u64::from(timeout_ms) * NANOS_PER_MILLI);
}
