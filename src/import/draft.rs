//! What was read, in gyre's terms: between the importers, which fill it, and `write`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::notes::{Notes, Place};
use crate::config::{
    Forwarding, Match, Protocol, Scheduler, SchedulerFlag, Tunnel, TunnelChecksum,
};

/// Services with their remarks.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) services: Vec<Service>,
    pub(super) notes: Notes,
    /// Interfaces that the file names: what a port may be on.
    pub(super) interfaces: Vec<String>,
    /// What stays with the other program, a line each.
    pub(super) stays: Vec<String>,
    /// Where VIPs of services are VRRP's addresses, so that the other program puts them on
    /// interfaces.
    pub(super) vips_by_vrrp: Option<Place>,
}

/// What a service is to clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Identity {
    /// One address; port 0 is all of them.
    Address { vip: IpAddr, port: u16 },
    /// Packets with a firewall mark.
    Mark { number: u32, family: Option<Family>, matches: Vec<Match> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }
}

/// Where each value comes from, by gyre's field.
pub(super) type Said = BTreeMap<&'static str, String>;

#[derive(Clone, Debug)]
pub(super) struct Service {
    pub(super) place: Place,
    /// How the file calls it.
    pub(super) title: String,
    pub(super) identity: Identity,
    pub(super) protocol: Protocol,
    pub(super) name: Option<String>,
    pub(super) scheduler: Scheduler,
    pub(super) flags: Vec<SchedulerFlag>,
    pub(super) method: Method,
    pub(super) persistence_s: Option<u32>,
    pub(super) persistence_prefix: Option<u8>,
    pub(super) one_packet: bool,
    pub(super) health: Health,
    /// Of all servers, where they are the same.
    pub(super) checks: Vec<Check>,
    pub(super) servers: Vec<Server>,
    pub(super) sorry: Option<Server>,
    pub(super) said: Said,
    /// Why it stands there as a comment only.
    pub(super) left_out: Option<String>,
}

/// What becomes of checks' results.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Health {
    pub(super) removes: bool,
    pub(super) starts_down: bool,
    pub(super) quorum: u32,
    pub(super) hysteresis: u32,
    pub(super) quorum_up: Vec<String>,
    pub(super) quorum_down: Vec<String>,
    pub(super) down_at_stop: bool,
}

impl Default for Health {
    fn default() -> Self {
        let none = Vec::new();
        Health {
            removes: false,
            starts_down: false,
            quorum: 1,
            hysteresis: 0,
            quorum_up: none.clone(),
            quorum_down: none,
            down_at_stop: false,
        }
    }
}

/// How packets reach a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Method {
    pub(super) forwarding: Forwarding,
    pub(super) tunnel: Tunnel,
    pub(super) tunnel_port: Option<u16>,
    pub(super) checksum: TunnelChecksum,
}

impl Method {
    pub(super) fn of(forwarding: Forwarding) -> Self {
        Method { forwarding, ..Method::default() }
    }

    pub(super) fn maps_ports(&self) -> bool {
        matches!(self.forwarding, Forwarding::Nat | Forwarding::FullNat)
    }
}

#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) place: Place,
    pub(super) title: String,
    pub(super) address: IpAddr,
    /// 0 is the service's.
    pub(super) port: u16,
    pub(super) weight: u32,
    pub(super) upper: u32,
    pub(super) lower: u32,
    pub(super) method: Method,
    pub(super) checks: Vec<Check>,
}

/// A check, with keepalived's and ldirectord's times in milliseconds.
#[derive(Clone, Debug)]
pub(super) struct Check {
    pub(super) place: Place,
    /// How the file calls it.
    pub(super) title: String,
    pub(super) kind: CheckKind,
    pub(super) port: Option<u16>,
    pub(super) interval_ms: u32,
    pub(super) timeout_ms: u32,
    pub(super) retries: u32,
    pub(super) retry_delay_ms: u32,
    pub(super) fall: u32,
}

impl Check {
    /// Whether another says the same, wherever it stands.
    pub(super) fn is_same(&self, other: &Check) -> bool {
        (&self.kind, self.port, self.interval_ms, self.timeout_ms)
            == (&other.kind, other.port, other.interval_ms, other.timeout_ms)
            && (self.retries, self.retry_delay_ms, self.fall)
                == (other.retries, other.retry_delay_ms, other.fall)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CheckKind {
    Tcp,
    Http(Http),
    Udp { payload_hex: Option<String>, any_reply: bool },
    Dns { name: String, record: String, address: Option<IpAddr> },
    Icmp,
    Smtp { helo: Option<String> },
    Program(Vec<String>),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Http {
    pub(super) tls: bool,
    pub(super) is_head: bool,
    pub(super) request: String,
    pub(super) host: Option<String>,
    pub(super) statuses: Vec<(u16, u16)>,
    pub(super) body: Option<Body>,
    pub(super) sni: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Body {
    Regex(String),
    Md5(String),
}

impl Service {
    /// A service as LVS has it unless told otherwise.
    pub(super) fn new(place: Place, title: String, identity: Identity) -> Self {
        Service {
            place,
            title,
            identity,
            protocol: Protocol::Tcp,
            name: None,
            scheduler: Scheduler::Wlc,
            flags: Vec::new(),
            method: Method::of(Forwarding::Nat),
            persistence_s: None,
            persistence_prefix: None,
            one_packet: false,
            health: Health::default(),
            checks: Vec::new(),
            servers: Vec::new(),
            sorry: None,
            said: Said::new(),
            left_out: None,
        }
    }

    /// Family of its packets, as far as it is known.
    pub(super) fn family(&self) -> Option<Family> {
        match &self.identity {
            Identity::Address { vip, .. } => Some(Family::of(*vip)),
            Identity::Mark { family, matches, .. } => {
                let first = matches.first().map(|one| Family::of(one.address.prefix.address()));
                first.or(*family)
            }
        }
    }

    /// Its one port.
    pub(super) fn port(&self) -> Option<u16> {
        match self.identity {
            Identity::Address { port, .. } if port != 0 => Some(port),
            _ => None,
        }
    }
}
