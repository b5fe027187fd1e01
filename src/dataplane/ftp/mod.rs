//! FTP helper: follows the data connections that a control connection announces.
//!
//! An announcement makes a flow of the control connection's server before its first packet comes:
//! state LISTEN, 120 s, and in passive mode client port 0 until the client connects (the kernel's
//! `ip_vs_ftp`). In the text stand the addresses that the reader can reach: the VIP for the
//! client, in FULLNAT a local address for the server. A service with a helper is steered by the
//! client's address alone, so all of this is one worker's. Flows without a helper never come here.

mod announce;
mod stream;
mod text;

use std::ops::Range;

use hashbrown::HashMap;

use super::burst::Slot;
use super::flow::{Direction, FlowKey, flag};
use super::flow_table::{FlowId, Hit};
use super::sequence::Shifts;
use super::state::WorkerState;
use super::{client_address, next_hop, track};
use crate::counters::{DropReason, HelperEvent};
use crate::limits::{FTP_CONTROLS_MAX, FTP_DATA_MAX};
use crate::message::FlowState;
use crate::model::{FTP_DATA_PORT, ForwardMode, Protocol, Snapshot, VirtualService};
use crate::wire::tcp::{SeqNum, TcpFlags};
use stream::{Change, Place};
use text::Text;

/// How long a control connection that is due waits for its data connections, in milliseconds, at
/// a time: the kernel's.
pub(super) const WAIT_FOR_DATA_MS: u64 = 60_000;

/// A control connection.
#[derive(Clone, Copy, Debug)]
struct Control {
    /// Tells it from another one in the same entry.
    serial: u32,
    /// Data connections that live.
    data: u32,
    inbound: Option<Change>,
    outbound: Option<Change>,
}

impl Control {
    fn change(&self, direction: Direction) -> Option<&Change> {
        match direction {
            Direction::Inbound => self.inbound.as_ref(),
            Direction::Outbound => self.outbound.as_ref(),
        }
    }
}

/// Whose a data connection is.
#[derive(Clone, Copy, Debug)]
struct Data {
    control: u32,
    serial: u32,
}

/// One worker's FTP connections, by flow entry.
#[derive(Debug)]
pub(super) struct Ftp {
    controls: HashMap<u32, Control>,
    data: HashMap<u32, Data>,
    serial: u32,
}

impl Ftp {
    /// Takes memory for the bounds in `limits`; twice that, so that a map never has to grow to
    /// get rid of what was removed.
    pub fn new() -> Self {
        Ftp {
            controls: HashMap::with_capacity(2 * FTP_CONTROLS_MAX),
            data: HashMap::with_capacity(2 * FTP_DATA_MAX),
            serial: 0,
        }
    }

    /// Whether any data connection lives, or is waited for.
    pub fn has_any_data(&self) -> bool {
        !self.data.is_empty()
    }

    /// Whether a control connection has data connections.
    pub fn has_data(&self, id: FlowId) -> bool {
        self.controls.get(&id.0).is_some_and(|control| control.data > 0)
    }

    /// A flow with a helper ends.
    pub fn ended(&mut self, id: FlowId) {
        self.controls.remove(&id.0);
        let Some(data) = self.data.remove(&id.0) else { return };
        let control = self.controls.get_mut(&data.control);
        if let Some(control) = control.filter(|control| control.serial == data.serial) {
            control.data -= 1;
        }
    }

    fn begin(&mut self, id: FlowId) -> bool {
        if self.controls.len() >= FTP_CONTROLS_MAX {
            return false;
        }
        self.serial = self.serial.wrapping_add(1);
        let control = Control { serial: self.serial, data: 0, inbound: None, outbound: None };
        self.controls.insert(id.0, control);
        true
    }

    /// Ties a data connection to its control connection.
    fn tie(&mut self, control: FlowId, data: FlowId) {
        if let Some(owner) = self.controls.get_mut(&control.0) {
            owner.data += 1;
            self.data.insert(data.0, Data { control: control.0, serial: owner.serial });
        }
    }
}

/// Bytes to put in the place of others, counted from the start of the payload.
#[derive(Clone, Debug)]
pub(super) struct Replacement {
    pub span: Range<usize>,
    pub text: Text,
}

/// Prepares a new flow whose service has a helper.
pub(super) fn begin(state: &mut WorkerState, service: &VirtualService, id: FlowId) {
    let Some(core) = state.flows.core(id) else { return };
    if service.helper.is_none() || !core.mode().sees_replies() {
        return;
    }
    if !state.ftp.begin(id) {
        state.counters.helped(HelperEvent::Full);
    } else if let Some(core) = state.flows.core_mut(id) {
        core.help();
        core.flags |= flag::ADJUST;
    }
}

/// Reads a segment of a flow with a helper: corrects its shifts, and says what of its payload has
/// to be replaced. Data connections are read no further.
pub(super) fn read(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    slot: &mut Slot,
    hit: Hit,
    shifts: &mut Shifts,
) -> Result<Option<Replacement>, DropReason> {
    let Some(control) = state.ftp.controls.get(&hit.id.0).copied() else { return Ok(None) };
    let (own, other) = match hit.direction {
        Direction::Inbound => (control.inbound, control.outbound),
        Direction::Outbound => (control.outbound, control.inbound),
    };
    if let Some(change) = &other {
        change.correct_acknowledgment(slot, shifts)?;
    }
    let bytes = slot.packet.payload_bytes() as u32;
    if let Some(change) = &own {
        change.correct_sequence(slot, shifts);
        match change.place(slot.packet.seq, bytes) {
            Place::Behind => {}
            Place::Before => return Ok(None),
            Place::Holds(span) => return Ok(Some(Replacement { span, text: change.text })),
            // The other half of the text is the other side's already: the sender sends it whole.
            Place::Cuts if bytes > 0 => return Err(DropReason::OutOfWindow),
            Place::Cuts => return Ok(None),
        }
    }
    let closed = flag::INSERTING | flag::DETACHED;
    let is_open = state.flows.core(hit.id).is_some_and(|core| !core.has(closed));
    if bytes == 0 || slot.packet.piece.is_some() || !is_open {
        return Ok(None);
    }
    announced(state, snapshot, slot, hit)
}

/// Looks for an announcement in a segment that was not seen before.
fn announced(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    slot: &Slot,
    hit: Hit,
) -> Result<Option<Replacement>, DropReason> {
    let payload = slot.frame.bytes().get(slot.packet.payload..slot.packet.end);
    let payload = payload.ok_or(DropReason::Internal)?;
    let found = match text::find(payload, hit.direction) {
        Ok(None) => return Ok(None),
        Ok(Some(found)) => found,
        Err(()) => {
            state.counters.helped(HelperEvent::Unreadable);
            return Ok(None);
        }
    };
    let text = match announce::expect(state, snapshot, hit, &found) {
        Ok(Some(text)) => text,
        Ok(None) => return Ok(None),
        Err(why) => {
            state.counters.helped(why);
            return Ok(None);
        }
    };
    if !has_room(state, slot, hit, text.len().saturating_sub(found.span.len())) {
        return Err(DropReason::TooBig);
    }
    let (start, old_bytes) = (found.span.start as u32, found.span.len() as u32);
    note(state, hit, slot.packet.seq.wrapping_add(start), (old_bytes, text));
    Ok(Some(Replacement { span: found.span, text }))
}

/// Whether a segment may grow by so many bytes.
fn has_room(state: &WorkerState, slot: &Slot, hit: Hit, more: usize) -> bool {
    let hop = state.flows.core(hit.id).map(|core| core.hop(hit.direction));
    let mtu = hop
        .and_then(|hop| next_hop::get(state, hop))
        .map_or(usize::MAX, |hop| usize::from(hop.mtu));
    slot.packet.ip_bytes() + more <= mtu
}

/// Remembers a change and shifts what follows it.
fn note(state: &mut WorkerState, hit: Hit, at: SeqNum, (bytes, text): (u32, Text)) {
    let Some(core) = state.flows.core_mut(hit.id) else { return };
    let shift = match hit.direction {
        Direction::Inbound => &mut core.in_delta,
        Direction::Outbound => &mut core.out_delta,
    };
    let change = Some(Change { at, bytes, before: *shift, text });
    *shift = shift.wrapping_add(text.len() as u32).wrapping_sub(bytes);
    let Some(control) = state.ftp.controls.get_mut(&hit.id.0) else { return };
    match hit.direction {
        Direction::Inbound => control.inbound = change,
        Direction::Outbound => control.outbound = change,
    }
}

/// What to add to the number of a quoted segment of a control connection, which an ICMP error
/// brings back to its sender. `way` is the error's.
pub(super) fn quoted_shift(state: &WorkerState, way: Hit, quoted: SeqNum, usual: u32) -> u32 {
    let Some(control) = state.ftp.controls.get(&way.id.0) else { return usual };
    let sent = match way.direction {
        Direction::Inbound => Direction::Outbound,
        Direction::Outbound => Direction::Inbound,
    };
    match control.change(sent) {
        Some(change) if change.covers(quoted) => change.before.wrapping_neg(),
        _ => usual,
    }
}

/// The flow that was announced, when the first packet of a data connection comes: from now on it
/// has the ports that this packet has.
pub(super) fn expected(state: &mut WorkerState, snapshot: &Snapshot, slot: &Slot) -> Option<Hit> {
    let packet = &slot.packet;
    if !state.ftp.has_any_data() || !is_syn(packet.flags) || packet.key.protocol != Protocol::Tcp {
        return None;
    }
    if let Some(hit) = waiting(state, &FlowKey { src_port: 0, ..packet.key }) {
        return passive(state, snapshot, slot, hit);
    }
    // A server that does not connect from port 20.
    let hit = waiting(state, &FlowKey { src_port: FTP_DATA_PORT, ..packet.key })?;
    (hit.direction == Direction::Outbound).then(|| active(state, slot, hit))?
}

fn is_syn(flags: TcpFlags) -> bool {
    flags.contains(TcpFlags::SYN) && !flags.intersects(TcpFlags::ACK | TcpFlags::RST)
}

/// A flow that was announced and has seen no packet yet.
fn waiting(state: &WorkerState, key: &FlowKey) -> Option<Hit> {
    let hit = state.flows.find(key)?;
    let is_waiting = state.ftp.data.contains_key(&hit.id.0)
        && state.flows.core(hit.id)?.state() == FlowState::Listen;
    is_waiting.then_some(hit)
}

fn passive(state: &mut WorkerState, snapshot: &Snapshot, slot: &Slot, hit: Hit) -> Option<Hit> {
    let src_port = slot.packet.key.src_port;
    if state.flows.refile(hit.id, |core| core.set_client_port(src_port)).is_err() {
        track::end(state, hit.id);
        return None;
    }
    let core = state.flows.core(hit.id)?;
    if core.mode() == ForwardMode::FullNat
        && let Some(service) = snapshot.service(core.service())
    {
        client_address::begin(state, service, hit.id, slot.packet.seq);
    }
    Some(hit)
}

fn active(state: &mut WorkerState, slot: &Slot, hit: Hit) -> Option<Hit> {
    let src_port = slot.packet.key.src_port;
    if state.flows.refile(hit.id, |core| core.set_server_port(src_port)).is_err() {
        track::end(state, hit.id);
        return None;
    }
    Some(hit)
}
