//! What a command line asks of the control socket: services and servers as the configuration
//! writes them.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Map, Value, json};

use super::fail::Fail;
use super::line::{Line, Method, ServiceName};
use super::options::Kind;

/// The schedulers there are, gyre's own `maglev` among them.
const SCHEDULERS: [&str; 14] = [
    "rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh", "maglev",
];

/// An object's members.
pub type Fields = Map<String, Value>;

impl Line {
    /// Whether a scheduler and an engine of these names exist. Engines do not.
    pub fn has_scheduler(&self) -> bool {
        SCHEDULERS.contains(&self.scheduler.as_str()) && self.engine.is_none()
    }

    /// A `[[service]]` for `-A`; `matches` are a mark's packets.
    pub fn new_service(&self, matches: Vec<Value>) -> Result<Fields, Fail> {
        let mut fields = match self.service {
            Some(ServiceName::Address(protocol, place)) => fields(json!({
                "protocol": protocol.word(), "address": place.to_string()
            })),
            Some(ServiceName::Mark { number, is_ipv6 }) => {
                let family = if is_ipv6 { "-6" } else { "" };
                let group = format!("fwmark-{number}{family}");
                fields(json!({"group": group, "mark": number, "match": matches}))
            }
            None => Fields::new(),
        };
        fields.extend(self.service_options()?.into_iter().filter(|(_, value)| !value.is_null()));
        Ok(fields)
    }

    /// The keys that `-E` sets; null takes one away, as ipvsadm does with what is not stated. What
    /// LVS lacks stays as it is unless it is stated.
    pub fn service_options(&self) -> Result<Fields, Fail> {
        let width = if self.service.is_none_or(ServiceName::is_ipv4) { 32 } else { 128 };
        let prefix = match (self.persistence_s, self.given.has(Kind::Netmask)) {
            (Some(_), true) => {
                let gap = "a netmask needs all its ones in front, and one at least";
                let bits = self.netmask_bits.filter(|bits| *bits > 0);
                Some(bits.ok_or_else(|| Fail::lacking(gap))?).filter(|bits| *bits < width)
            }
            _ => None,
        };
        let mut fields = fields(json!({
            "scheduler": self.scheduler,
            "scheduler_flags": self.flag_words()?,
            "persistence_timeout": self.persistence_s,
            "persistence_prefix": prefix,
            "one_packet": self.one_packet.then_some(true),
        }));
        if let Some(synproxy) = self.synproxy {
            fields.insert("synproxy".into(), synproxy.into());
        }
        if let Some(pool) = &self.pool {
            fields.insert("local_addresses".into(), pool.as_str().into());
        }
        Ok(fields)
    }

    /// The flags of the scheduler by name; none are given as none at all.
    fn flag_words(&self) -> Result<Option<Vec<String>>, Fail> {
        let scheduler = &self.scheduler;
        let has = |bit| self.scheduler_flags & bit != 0;
        if self.scheduler_flags == 0 {
            return Ok(None);
        }
        if has(4) || !["sh", "mh"].contains(&scheduler.as_str()) {
            let what = format!("the scheduler {scheduler} has no such flag; leave -b out");
            return Err(Fail::lacking(&what));
        }
        let words = [(has(2), "port"), (has(1), "fallback")];
        let words = words.into_iter().filter(|(has, _)| *has);
        Ok(Some(words.map(|(_, word)| format!("{scheduler}-{word}")).collect()))
    }

    /// A `[[service.server]]` for `-a`. `own` are the director's addresses: a server with one of
    /// them is the director itself.
    pub fn new_server(&self, own: &[IpAddr]) -> Result<Fields, Fail> {
        let Some((service, server)) = self.service.zip(self.server) else {
            return Ok(Fields::new());
        };
        if server.port() == 0 && service.port() != 0 {
            return Err(Fail::lacking("a server needs a port; leave :0 out for the service's"));
        }
        let address = match server.port() {
            0 => server.ip().to_string(),
            _ => server.to_string(),
        };
        let mut fields = self.server_options(own);
        fields.insert("address".into(), address.into());
        fields.retain(|_, value| !value.is_null());
        Ok(fields)
    }

    /// The keys that `-e` sets; what is not stated goes back to ipvsadm's default.
    pub fn server_options(&self, own: &[IpAddr]) -> Fields {
        let is_own = |server: SocketAddr| server.ip().is_loopback() || own.contains(&server.ip());
        let method = match self.method {
            _ if self.server.is_some_and(is_own) => "local",
            Method::Route => "dr",
            Method::Tunnel => "tun",
            Method::Masquerade => "nat",
            Method::FullNat => "fullnat",
        };
        fields(json!({
            "forwarding": method,
            "weight": self.weight,
            "upper_threshold": Some(self.upper_threshold).filter(|threshold| *threshold > 0),
            "lower_threshold": Some(self.lower_threshold).filter(|threshold| *threshold > 0),
            "tunnel": self.tunnel.kind.as_deref().filter(|kind| *kind != "ipip"),
            "tunnel_port": self.tunnel.port,
            "tunnel_checksum": self.tunnel.checksum,
        }))
    }
}

fn fields(value: Value) -> Fields {
    match value {
        Value::Object(fields) => fields,
        _ => Fields::new(),
    }
}
