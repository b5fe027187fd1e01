//! The table of persistence templates: which server a client's network keeps to.
//!
//! Bounded, taken at start; a full table is a counted drop. The rules are `persistence`'s. A
//! template lives at the worker that its key names (`owner`); other workers that have flows of it
//! keep a shadow, which only counts those flows.

use std::net::IpAddr;

use hashbrown::HashMap;

use super::timer::Wheel;
use crate::memory::MemoryError;
use crate::model::{ForwardMode, Protocol, ServerId, ServiceId, WorkerId};
use crate::time::{NANOS_PER_MILLI, Nanos};

/// What a template holds for, besides the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// A virtual address and port; port 0 is shared by all ports that a service spans.
    Address(Protocol, IpAddr, u16),
    /// A group, or a range of ports.
    Service(ServiceId),
}

/// A template's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TemplateKey {
    /// What for.
    pub scope: Scope,
    /// The client's network.
    pub client: IpAddr,
}

/// Place of a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TemplateId(pub u32);

/// A template, or a worker's shadow of another's.
#[derive(Clone, Copy, Debug)]
pub struct Template {
    /// Identity.
    pub key: TemplateKey,
    /// Slot of the service.
    pub service: ServiceId,
    /// Slot of the server.
    pub server: ServerId,
    /// RIP and port; port 0 keeps the client's.
    pub server_address: (IpAddr, u16),
    /// How frames reach the server.
    pub mode: ForwardMode,
    /// Life after the last new flow.
    pub timeout_ms: u32,
    /// When the timer was set, `Nanos::as_millis_u32`.
    pub armed_ms: u32,
    /// Flows of this worker that hang on it.
    pub flows: u32,
    /// Other workers with flows that hang on it, a bit each.
    pub holders: u64,
    /// A flow of it reached ESTABLISHED.
    pub is_assured: bool,
    /// Its server is gone: listed until its timer ends it, found no more.
    pub is_disabled: bool,
    /// Its owner, where this is a shadow.
    pub shadow_of: Option<WorkerId>,
}

impl Template {
    /// Whether flows hang on it somewhere.
    pub fn is_held(&self) -> bool {
        self.flows > 0 || self.holders != 0
    }
}

/// One worker's templates.
#[derive(Debug)]
pub(super) struct Templates {
    index: HashMap<TemplateKey, u32>,
    slots: Vec<Option<Template>>,
    free: Vec<u32>,
    max: usize,
    pub wheel: Wheel,
}

impl Templates {
    /// Takes memory for `max` templates.
    pub fn new(max: usize, now: Nanos) -> Result<Self, MemoryError> {
        let wheel = Wheel::new(u32::try_from(max).unwrap_or(u32::MAX), now)?;
        Ok(Templates {
            // Twice the room, so that it never has to grow to get rid of what was removed: see
            // `SourcePorts::new`.
            index: HashMap::with_capacity(2 * max),
            slots: Vec::with_capacity(max),
            free: Vec::with_capacity(max),
            max,
            wheel,
        })
    }

    /// The template that holds for `key`.
    pub fn find(&self, key: &TemplateKey) -> Option<TemplateId> {
        self.index.get(key).map(|at| TemplateId(*at))
    }

    pub fn get(&self, id: TemplateId) -> Option<&Template> {
        self.slots.get(id.0 as usize)?.as_ref()
    }

    pub fn get_mut(&mut self, id: TemplateId) -> Option<&mut Template> {
        self.slots.get_mut(id.0 as usize)?.as_mut()
    }

    /// Files a template; `None` when the table is full. It never outgrows what was taken for it.
    pub fn insert(&mut self, template: Template) -> Option<TemplateId> {
        let at = match self.free.pop() {
            Some(at) => at,
            None if self.slots.len() < self.max => {
                self.slots.push(None);
                (self.slots.len() - 1) as u32
            }
            None => return None,
        };
        *self.slots.get_mut(at as usize)? = Some(template);
        self.index.insert(template.key, at);
        Some(TemplateId(at))
    }

    /// Makes it found no more, for another to take its place.
    pub fn disable(&mut self, id: TemplateId) {
        let Some(template) = self.get_mut(id) else { return };
        template.is_disabled = true;
        let key = template.key;
        if self.index.get(&key) == Some(&id.0) {
            self.index.remove(&key);
        }
    }

    /// Ends it.
    pub fn remove(&mut self, id: TemplateId) -> Option<Template> {
        self.disable(id);
        self.wheel.disarm(id.0);
        let template = self.slots.get_mut(id.0 as usize)?.take()?;
        self.free.push(id.0);
        Some(template)
    }

    /// Sets its timer to its full life.
    pub fn arm(&mut self, id: TemplateId, now: Nanos) {
        let Some(template) = self.get_mut(id) else { return };
        template.armed_ms = now.as_millis_u32();
        let deadline = now + u64::from(template.timeout_ms) * NANOS_PER_MILLI;
        self.wheel.arm(id.0, deadline);
    }

    /// The first template at `from` or behind it, for sweeps.
    pub fn next_live(&self, from: u32) -> Option<TemplateId> {
        let at = self.slots.iter().skip(from as usize).position(Option::is_some)?;
        Some(TemplateId(from + at as u32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(client: u32) -> Template {
        let key =
            TemplateKey { scope: Scope::Service(ServiceId(1)), client: IpAddr::V4(client.into()) };
        Template {
            key,
            service: ServiceId(1),
            server: ServerId(1),
            server_address: (key.client, 80),
            mode: ForwardMode::DirectRoute,
            timeout_ms: 1000,
            armed_ms: 0,
            flows: 0,
            holders: 0,
            is_assured: false,
            is_disabled: false,
            shadow_of: None,
        }
    }

    /// Nothing under `process_burst` may allocate.
    #[test]
    fn templates_that_come_and_go_never_take_new_memory() {
        let max = 1792u32; // As full as hashbrown lets a table of 2048 slots be.
        let mut templates = Templates::new(max as usize, Nanos::from_secs(1)).unwrap();
        let room = templates.index.allocation_size();
        let mut ids = std::collections::VecDeque::new();
        for n in 0..if cfg!(miri) { max + 10 } else { 100_000 } {
            if n >= max {
                assert!(templates.remove(ids.pop_front().unwrap()).is_some());
            }
            ids.push_back(templates.insert(template(n)).unwrap());
            assert_eq!(templates.index.allocation_size(), room, "after {n}");
        }
        assert_eq!(templates.insert(template(u32::MAX)), None, "full");
    }
}
