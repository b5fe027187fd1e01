//! `events.*`: what happens, told to those who asked to hear of it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Declares what happens: kind, word, meaning, members.
macro_rules! events {
    ($($kind:ident = $word:literal, $meaning:literal {
        $($(#[$doc:meta])* $member:ident: $type:ty),* $(,)?
    })*) => {
        /// What kind of thing happens; there may be more kinds later.
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema,
        )]
        pub enum EventKind { $(#[doc = $meaning] #[serde(rename = $word)] $kind),* }

        impl EventKind {
            /// Every kind.
            pub const ALL: &'static [EventKind] = &[$(EventKind::$kind),*];

            /// Its word.
            pub const fn word(self) -> &'static str {
                match self { $(EventKind::$kind => $word),* }
            }
        }

        /// Something that happened.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        #[serde(tag = "kind")]
        pub enum Event { $(
            #[doc = $meaning]
            #[serde(rename = $word)]
            $kind { $($(#[$doc])* $member: $type),* }
        ),* }

        impl Event {
            /// Its kind.
            pub const fn kind(&self) -> EventKind {
                match self { $(Event::$kind { .. } => EventKind::$kind),* }
            }
        }
    };
}

events! {
    ConfigChanged = "config.changed", "The configuration changed." {
        /// Revision in force.
        revision: u64,
        /// What made it: a command, a method.
        by: String,
        /// What changed, the first lines.
        changes: Vec<String>,
    }
    ServerUp = "server.up", "A server takes new flows from now on." {
        /// Its service, as `PROTOCOL ADDRESS:PORT`.
        service: String,
        /// RIP and port.
        server: String,
        /// Why.
        reason: String,
    }
    ServerDown = "server.down", "A server takes no new flows, or cannot be reached." {
        /// Its service, as `PROTOCOL ADDRESS:PORT`.
        service: String,
        /// RIP and port.
        server: String,
        /// Why.
        reason: String,
    }
    DrainProgress = "drain.progress", "How far a server that drains has come; every few seconds." {
        /// Its service, as `PROTOCOL ADDRESS:PORT`.
        service: String,
        /// RIP and port.
        server: String,
        /// Live flows that are left.
        flows: u64,
    }
    DrainDone = "drain.done", "A server that drained is gone." {
        /// Its service, as `PROTOCOL ADDRESS:PORT`.
        service: String,
        /// RIP and port.
        server: String,
    }
    QuorumUp = "quorum.up", "Enough servers of a service are good." {
        /// The service, as `PROTOCOL ADDRESS:PORT`.
        service: String,
        /// Sum of the good servers' weights.
        weight: u64,
        /// What is asked for.
        quorum: u32,
    }
    QuorumLost = "quorum.lost", "Too few servers of a service are good." {
        /// The service, as `PROTOCOL ADDRESS:PORT`.
        service: String,
        /// Sum of the good servers' weights.
        weight: u64,
        /// What is asked for.
        quorum: u32,
    }
    SorryIn = "sorry.in", "The sorry server takes a service's new flows from now on." {
        /// The service, as `PROTOCOL ADDRESS:PORT`.
        service: String,
        /// RIP and port.
        server: String,
    }
    SorryOut = "sorry.out", "The sorry server takes no new flows any more." {
        /// The service, as `PROTOCOL ADDRESS:PORT`.
        service: String,
        /// RIP and port.
        server: String,
    }
    FloodOn = "flood.on", "Many first packets come to nothing." {
        /// The service whose SYN cookies nobody proves, if it is one's.
        service: Option<String>,
        /// The worker that has no room for new flows, if it is one's.
        worker: Option<u8>,
        /// How many in the last second.
        per_second: u64,
    }
    FloodOff = "flood.off", "The flood is over." {
        /// As it began.
        service: Option<String>,
        /// As it began.
        worker: Option<u8>,
    }
    WorkerStalled = "worker.stalled", "A worker completed no turn for a second." {
        /// Its number.
        worker: u8,
    }
    WorkerRecovered = "worker.recovered", "A stalled worker turns again." {
        /// Its number.
        worker: u8,
    }
    PortDown = "port.down", "A port's link went down." {
        /// The port's name.
        port: String,
    }
    PortUp = "port.up", "A port's link is up again." {
        /// The port's name.
        port: String,
    }
    EventsLost = "events.lost", "This client was too slow for some events." {
        /// How many it missed.
        count: u64,
    }
}

/// An event with its number and time: what `params` of an `event` notification hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Notice {
    /// Counts events of this process; a gap was filtered out.
    pub number: u64,
    /// When, milliseconds since 1970.
    pub time_ms: u64,
    /// What.
    #[serde(flatten)]
    pub event: Event,
}

/// Parameters of `events.subscribe`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SubscribeParams {
    /// Only these kinds; all unless given. `events.lost` comes in any case.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kinds: Option<Vec<EventKind>>,
}

/// Result of `events.subscribe`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SubscribeResult {
    /// The kinds that will come.
    pub kinds: Vec<EventKind>,
}
