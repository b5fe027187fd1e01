//! Persistence: a client's network keeps to its server.
//!
//! The rules are the kernel's (recordings `states/persist-*`): a template for each client network,
//! set anew by each new flow, 60 s more while flows hang on it, disabled in place when its server
//! is gone. One worker owns each template; a flow's first packet goes there with its question
//! (`Errand::Ask`) and comes back with the server, so that all decisions about one network are one
//! worker's. Whether flows still hang on a template is told in notes between workers; a lost note
//! costs at most one period of 60 s.

use super::burst::{Errand, Slot, Verdict};
use super::flow::FlowKey;
use super::flow_table::FlowId;
use super::state::WorkerState;
use super::templates::{Scope, Template, TemplateId, TemplateKey};
use crate::counters::{Counter, DropReason, HandOffCause};
use crate::limits::TIMERS_PER_TURN_MAX;
use crate::message::{FlowRow, FlowState, RowKind};
use crate::model::{
    FTP_PORT, Persistence, Prefix, Protocol, RealServer, ServerState, ServiceKey, Snapshot,
    VirtualService, WorkerId,
};
use crate::time::Nanos;
use std::net::IpAddr;

/// Life of a template whose timer fires while flows hang on it, from then on: the kernel's.
const EXTENSION_MS: u32 = 60_000;

/// How a flow leaves its template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parting {
    /// Its time was over, or it never came to be.
    Ended,
    /// It was told to end at once.
    CutOff,
}

/// What one worker tells another about a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// Flows of the sender hang on it.
    Held(WorkerId, TemplateKey),
    /// No more.
    Released(WorkerId, TemplateKey),
    /// One of them reached ESTABLISHED.
    Assured(TemplateKey),
    /// To those that said `Held`: do they still?
    Query(TemplateKey),
}

/// Who serves a first packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Choice<'s> {
    /// The server.
    pub server: &'s RealServer,
    /// The template that the flow hangs on.
    pub template: Option<TemplateId>,
}

/// What came of a choice.
#[derive(Clone, Copy, Debug)]
pub(super) enum Chosen<'s> {
    /// A server.
    Server(Choice<'s>),
    /// None is usable.
    Nobody,
    /// Another worker decides: the frame goes there.
    Elsewhere(WorkerId),
}

/// Chooses for a first packet, by template where the service is persistent.
pub(super) fn choose<'s>(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    service: &'s VirtualService,
    slot: &mut Slot,
) -> Result<Chosen<'s>, DropReason> {
    let Some(persistence) = &service.persistence else {
        let server = schedule(state, service, &slot.packet.key);
        return Ok(server
            .map_or(Chosen::Nobody, |server| Chosen::Server(Choice { server, template: None })));
    };
    let key = key_of(service, persistence, &slot.packet.key);
    let owner = owner(snapshot, &key);
    if owner == state.worker {
        return Ok(match decide(state, snapshot, service, &slot.packet.key)? {
            Some((server, id)) => Chosen::Server(Choice { server, template: Some(id) }),
            None => Chosen::Nobody,
        });
    }
    match slot.rx.errand {
        Errand::Answer(None) => Ok(Chosen::Nobody),
        Errand::Answer(Some(id)) => {
            // Removed since: the client's next try is decided anew.
            let server = service.servers.iter().find(|server| server.id == id);
            let server = server.ok_or(DropReason::ServerRemoved)?;
            let template = shadow(state, service, server, key, owner)?;
            Ok(Chosen::Server(Choice { server, template: Some(template) }))
        }
        Errand::None | Errand::Ask(_) => {
            slot.rx.errand = Errand::Ask(state.worker);
            Ok(Chosen::Elsewhere(owner))
        }
    }
}

/// Decides for the worker that asked, and sends the frame back to it.
pub(super) fn answer(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    slot: &mut Slot,
    asker: WorkerId,
) -> Result<Verdict, DropReason> {
    let key = slot.packet.key;
    let decided = match snapshot.match_service(&super::steer::destination(&key)) {
        Some(service) if service.persistence.is_some() => {
            decide(state, snapshot, service, &key)?.map(|(server, _)| server.id)
        }
        // The asker is a snapshot ahead or behind: the client must not be refused for that.
        Some(service) => schedule(state, service, &key).map(|server| server.id),
        None => None,
    };
    slot.rx.errand = Errand::Answer(decided);
    Ok(Verdict::HandOff(asker, HandOffCause::Template))
}

fn schedule<'s>(
    state: &mut WorkerState,
    service: &'s VirtualService,
    key: &FlowKey,
) -> Option<&'s RealServer> {
    let WorkerState { schedulers, counters, now, .. } = state;
    schedulers.pick(service, key, counters, *now)
}

/// The template of a packet. Services of one port have one each; port 0 and FTP, whose data ports
/// are others, share theirs by address; a group and a range have their own.
fn key_of(service: &VirtualService, persistence: &Persistence, key: &FlowKey) -> TemplateKey {
    let scope = match service.key {
        ServiceKey::Address { protocol, vip, ports } => match ports.single() {
            Some(FTP_PORT) => Scope::Address(protocol, vip, 0),
            Some(port) => Scope::Address(protocol, vip, port),
            None if ports == crate::model::Ports::ALL => Scope::Address(protocol, vip, 0),
            None => Scope::Service(service.id),
        },
        ServiceKey::Group(_) => Scope::Service(service.id),
    };
    let client = Prefix::new(key.src, persistence.client_bits);
    TemplateKey { scope, client: client.map_or(key.src, |network| network.address()) }
}

/// The worker that decides: a function of the key alone.
fn owner(snapshot: &Snapshot, key: &TemplateKey) -> WorkerId {
    let salt = match key.scope {
        Scope::Address(_, _, port) => port,
        Scope::Service(id) => id.0 as u16,
    };
    snapshot.steering.owner_of_network(key.client, salt)
}

/// The server of a client network, by its template or by the scheduler; the template lives on for
/// its full time.
fn decide<'s>(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    service: &'s VirtualService,
    packet: &FlowKey,
) -> Result<Option<(&'s RealServer, TemplateId)>, DropReason> {
    let Some(persistence) = &service.persistence else { return Ok(None) };
    let key = key_of(service, persistence, packet);
    let now = state.now;
    if let Some(id) = state.templates.find(&key) {
        let held = state.templates.get(id).and_then(|template| {
            let holds = |server: &&RealServer| server.id == template.server;
            service.servers.iter().find(holds).filter(|server| keeps_to(snapshot, server))
        });
        if let Some(server) = held {
            state.templates.arm(id, now);
            return Ok(Some((server, id)));
        }
        state.templates.disable(id);
    }
    let Some(server) = schedule(state, service, packet) else { return Ok(None) };
    let template = fresh(service, server, key, persistence.timeout_ms);
    let id = file(state, template)?;
    state.templates.arm(id, now);
    Ok(Some((server, id)))
}

/// Whether persistence holds to the server.
fn keeps_to(snapshot: &Snapshot, server: &RealServer) -> bool {
    let is_quiescent = server.weight == 0 && snapshot.semantics.expire_quiescent_template;
    server.state == ServerState::Active && !is_quiescent
}

fn fresh(
    service: &VirtualService,
    server: &RealServer,
    key: TemplateKey,
    timeout_ms: u32,
) -> Template {
    let has_port = matches!(key.scope, Scope::Address(_, _, port) if port != 0);
    Template {
        key,
        service: service.id,
        server: server.id,
        server_address: (server.address, if has_port { server.port } else { 0 }),
        mode: server.mode,
        timeout_ms,
        armed_ms: 0,
        flows: 0,
        holders: 0,
        is_assured: false,
        is_disabled: false,
        shadow_of: None,
    }
}

fn file(state: &mut WorkerState, template: Template) -> Result<TemplateId, DropReason> {
    let id = state.templates.insert(template).ok_or(DropReason::TemplatesFull)?;
    count(state, &template, |count| count.add(1));
    Ok(id)
}

fn count(state: &WorkerState, template: &Template, count: impl Fn(&Counter)) {
    let (service, server) = (template.service.index(), template.server.index());
    state.counters.count_template(service, server, &count);
    if template.shadow_of.is_none() {
        state.counters.own_templates.get(server).into_iter().for_each(&count);
    }
}

/// This worker's shadow of another's template, for the server that was decided on.
fn shadow(
    state: &mut WorkerState,
    service: &VirtualService,
    server: &RealServer,
    key: TemplateKey,
    owner: WorkerId,
) -> Result<TemplateId, DropReason> {
    if let Some(id) = state.templates.find(&key) {
        if state.templates.get(id).is_some_and(|shadow| shadow.server == server.id) {
            return Ok(id);
        }
        // Its flows live on beside those of the new one.
        state.templates.disable(id);
    }
    let shadow = Template { shadow_of: Some(owner), ..fresh(service, server, key, EXTENSION_MS) };
    file(state, shadow)
}

/// Keeps a template while the flow that it was found for is being made, which may end another
/// flow that hangs on it (`takeover`). Then comes `attach`, or `forgo`.
pub(super) fn hold(state: &mut WorkerState, id: TemplateId) {
    if let Some(template) = state.templates.get_mut(id) {
        template.flows += 1;
    }
}

/// The flow that a template was held for could not be made.
pub(super) fn forgo(state: &mut WorkerState, id: TemplateId) {
    release(state, id, Parting::Ended);
}

/// Hangs a new flow on the template that was held for it.
pub(super) fn attach(state: &mut WorkerState, flow: FlowId, id: TemplateId) {
    let me = state.worker;
    let Some(template) = state.templates.get(id).copied() else { return };
    state.flows.set_control(flow, Some(id.0));
    if let Some(owner) = template.shadow_of.filter(|_| template.flows == 1) {
        state.note(owner, Note::Held(me, template.key));
    }
}

/// Takes a flow off its template. One that was told to end at once takes an unassured template,
/// whose last flow it was, with it.
pub(super) fn detach(state: &mut WorkerState, flow: FlowId) {
    let Some(core) = state.flows.core(flow).filter(|core| core.is_controlled()) else { return };
    let parting = if core.is_doomed() { Parting::CutOff } else { Parting::Ended };
    let Some(id) = state.flows.control(flow).map(TemplateId) else { return };
    state.flows.set_control(flow, None);
    release(state, id, parting);
}

fn release(state: &mut WorkerState, id: TemplateId, parting: Parting) {
    let me = state.worker;
    let Some(template) = state.templates.get_mut(id) else { return };
    template.flows = template.flows.saturating_sub(1);
    let template = *template;
    if template.flows > 0 {
        return;
    }
    match template.shadow_of {
        Some(owner) => {
            // A disabled shadow's successor speaks for both.
            if !template.is_disabled {
                state.note(owner, Note::Released(me, template.key));
            }
            end(state, id);
        }
        None if parting == Parting::CutOff && !template.is_assured && template.holders == 0 => {
            end(state, id);
        }
        None => {}
    }
}

/// A flow of a template is established.
pub(super) fn assure(state: &mut WorkerState, flow: FlowId) {
    let Some(id) = state.flows.control(flow).map(TemplateId) else { return };
    let Some(template) = state.templates.get_mut(id).filter(|t| !t.is_assured) else { return };
    template.is_assured = true;
    let (key, owner) = (template.key, template.shadow_of);
    if let Some(owner) = owner {
        state.note(owner, Note::Assured(key));
    }
}

fn end(state: &mut WorkerState, id: TemplateId) {
    if let Some(template) = state.templates.remove(id) {
        count(state, &template, |count| count.sub(1));
    }
}

impl WorkerState {
    /// Tells another worker of a template; what finds no room is lost, which costs one period.
    fn note(&mut self, to: WorkerId, note: Note) {
        if self.notes.try_push((to, note)).is_err() {
            self.counters.notes_lost.add(1);
        }
    }

    /// Takes what another worker told.
    pub fn hear(&mut self, note: &Note) {
        let (Note::Held(_, key) | Note::Released(_, key) | Note::Assured(key) | Note::Query(key)) =
            note;
        let me = self.worker;
        let Some(id) = self.templates.find(key) else { return };
        let Some(template) = self.templates.get_mut(id) else { return };
        match *note {
            Note::Held(from, _) => template.holders |= 1 << from.0,
            Note::Released(from, _) => template.holders &= !(1 << from.0),
            Note::Assured(_) => template.is_assured = true,
            Note::Query(key) => {
                if let Some(owner) = template.shadow_of.filter(|_| template.flows > 0) {
                    self.note(owner, Note::Held(me, key));
                }
            }
        }
    }

    /// Ends templates that no flow came for, a bounded number.
    pub(super) fn expire_templates(&mut self, now: Nanos) -> usize {
        let mut handled = 0;
        while handled < TIMERS_PER_TURN_MAX
            && let Some(at) = self.templates.wheel.pop_due(now)
        {
            handled += 1;
            self.template_fired(TemplateId(at), now);
        }
        handled
    }

    fn template_fired(&mut self, id: TemplateId, now: Nanos) {
        let Some(template) = self.templates.get_mut(id) else { return };
        if !template.is_held() {
            return end(self, id);
        }
        template.timeout_ms = EXTENSION_MS;
        // Those that have flows say so again within the minute.
        let (key, holders) = (template.key, std::mem::take(&mut template.holders));
        self.templates.arm(id, now);
        for worker in (0..self.workers).filter(|worker| holders >> worker & 1 == 1) {
            self.note(WorkerId(worker), Note::Query(key));
        }
    }

    /// A template as people see it; none for a shadow.
    pub fn template_row(&self, id: TemplateId, snapshot: &Snapshot, now: Nanos) -> Option<FlowRow> {
        let template = self.templates.get(id).filter(|template| template.shadow_of.is_none())?;
        let service = snapshot.service(template.service);
        let is_ipv4 = template.key.client.is_ipv4();
        let (kind, protocol, vip, port) = match template.key.scope {
            Scope::Address(protocol, vip, port) => (RowKind::Template, protocol, vip, port),
            Scope::Service(_) => {
                let key = service.map(|service| service.key);
                let (protocol, vip) = (key.and_then(|k| k.protocol()), key.and_then(|k| k.vip()));
                let mark = service.and_then(|service| service.mark).unwrap_or(0);
                match (protocol, vip) {
                    (Some(protocol), Some(vip)) => (RowKind::Template, protocol, vip, 0),
                    _ => (RowKind::GroupTemplate, Protocol::Tcp, mark_address(is_ipv4, mark), 0),
                }
            }
        };
        let gone = |port| if template.is_disabled { u16::MAX } else { port };
        let age_ms = now.as_millis_u32().wrapping_sub(template.armed_ms);
        Some(FlowRow {
            kind,
            protocol,
            client: (template.key.client, 0),
            virtual_address: (vip, gone(port)),
            local: None,
            server: (template.server_address.0, gone(template.server_address.1)),
            service_id: template.service,
            server_id: template.server,
            mode: template.mode,
            state: if template.is_assured { FlowState::Assured } else { FlowState::None },
            expires_ms: template.timeout_ms.saturating_sub(age_ms),
            packets: 0,
        })
    }

    /// The first template at `from` or behind it.
    pub fn next_template(&self, from: u32) -> Option<TemplateId> {
        self.templates.next_live(from)
    }

    /// Ends a template for control; one that flows hang on is disabled and ends with its timer.
    pub(super) fn forget_template(&mut self, id: TemplateId) {
        match self.templates.get(id).is_some_and(Template::is_held) {
            true => self.templates.disable(id),
            false => end(self, id),
        }
    }
}

/// A mark as the kernel lists it: as an address.
fn mark_address(is_ipv4: bool, mark: u32) -> IpAddr {
    match is_ipv4 {
        true => IpAddr::V4(mark.into()),
        false => IpAddr::V6(u128::from(mark).into()),
    }
}
