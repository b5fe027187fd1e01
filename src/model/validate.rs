//! What is wrong with a wish by itself: everything at once, each with what to do.
//!
//! Of checks and what follows from them it is `health_meaning`'s to say.

use std::net::IpAddr;

use hashbrown::{HashMap, HashSet};

use super::maglev::is_prime;
use super::service::{ClientAddress, ForwardMode, Persistence, Protocol};
use super::service_key::{Ports, ServiceKey};
use super::spec::{
    Desired, Place, PoolSpec, ProblemKind, SchedulerSpec, ServerSpec, ServiceSpec, SpecProblem,
};
use crate::limits::{MAGLEV_SLOTS_MAX, TIMEOUT_MILLIS_MAX, WEIGHT_MAX};

/// TCP option kinds that mean something else on the wire (IANA "TCP Option Kind Numbers").
const TCP_OPTION_KINDS_TAKEN: [u8; 11] = [0, 1, 2, 3, 4, 5, 8, 19, 29, 30, 34];

/// Whether an address can be one host's.
fn is_host(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !(address.is_unspecified() || address.is_multicast() || broadcast)
}

/// What people call a mode.
fn mode_name(mode: ForwardMode) -> &'static str {
    match mode {
        ForwardMode::DirectRoute => "DR",
        ForwardMode::FullNat => "FULLNAT",
        ForwardMode::Nat => "NAT",
        ForwardMode::Tunnel => "TUN",
        ForwardMode::Local => "local delivery",
    }
}

/// What to do about a server that is the director.
pub(super) const IS_LOCAL: &str = "set forwarding = \"local\", or give another address";

/// What to do about two groups with one match, or one mark.
pub(super) const ONE_MATCH: &str = "list it once";
pub(super) const ONE_MARK: &str = "give each group of a family a mark of its own";

const NOT_A_HOST: &str = "give a unicast address";

/// Collects problems of one `Desired`.
pub(super) struct Validator<'a> {
    pub(super) desired: &'a Desired,
    workers: u8,
    vips: HashSet<IpAddr>,
    lips: HashSet<IpAddr>,
    problems: Vec<SpecProblem>,
}

/// Everything wrong with `desired` by itself when `workers` share the source ports.
pub fn validate(desired: &Desired, workers: u8) -> Vec<SpecProblem> {
    validate_beside(desired, workers, &HashSet::new())
}

/// As `validate`, where `vips` are services' addresses too.
pub(super) fn validate_beside(
    desired: &Desired,
    workers: u8,
    vips: &HashSet<IpAddr>,
) -> Vec<SpecProblem> {
    let own = desired.services.iter().flat_map(ServiceSpec::vips);
    let mut validator = Validator {
        desired,
        workers,
        vips: own.chain(vips.iter().copied()).collect(),
        lips: desired.pools.iter().flat_map(|pool| pool.addresses.iter().copied()).collect(),
        problems: Vec::new(),
    };
    validator.pools();
    validator.identities();
    validator.matches();
    for at in 0..desired.services.len() {
        validator.service(at);
        validator.servers(at);
        validator.health(at);
    }
    validator.check_total();
    validator.problems
}

impl Validator<'_> {
    pub(super) fn push(&mut self, place: Place, what: String, remedy: &str) {
        let services = &self.desired.services;
        let subject = match place {
            Place::Whole => String::new(),
            Place::Pool(pool, _) | Place::PoolAddress(pool, _) => {
                format!("local_addresses {}", self.desired.pools[pool].name)
            }
            Place::Service(service, _) | Place::Check(service, None, ..) => {
                services[service].key.to_string()
            }
            Place::Server(service, server, _) | Place::Check(service, Some(server), ..) => {
                let service = &services[service];
                format!("{}, server {}", service.key, service.servers[server].endpoint())
            }
            Place::Sorry(service, _) => format!("{}, sorry server", services[service].key),
        };
        let remedy = remedy.to_owned();
        self.problems.push(SpecProblem {
            kind: ProblemKind::Invalid,
            place,
            subject,
            what,
            remedy,
        });
    }

    fn pools(&mut self) {
        let mut names = HashSet::new();
        let mut seen: HashMap<IpAddr, &str> = HashMap::new();
        for (at, pool) in self.desired.pools.iter().enumerate() {
            if !names.insert(pool.name.as_str()) {
                self.push(Place::Pool(at, "name"), "the name is used twice".into(), "rename one");
            }
            if pool.addresses.is_empty() {
                let what = "the pool has no address".into();
                self.push(Place::Pool(at, "addresses"), what, "list at least one, or remove it");
            }
            self.pool_ports(at, pool);
            for (position, address) in pool.addresses.iter().enumerate() {
                let place = Place::PoolAddress(at, position);
                if !is_host(*address) {
                    self.push(place, format!("{address} is no host's address"), NOT_A_HOST);
                } else if self.vips.contains(address) {
                    let what = format!("{address} is also a service's address");
                    self.push(place, what, "use an address that no service listens on");
                }
                if let Some(other) = seen.insert(*address, &pool.name) {
                    let what = format!("{address} is already in local_addresses {other}");
                    self.push(place, what, "list it once; a pool may serve many services");
                }
            }
        }
    }

    fn pool_ports(&mut self, at: usize, pool: &PoolSpec) {
        let (low, high) = pool.ports;
        if low == 0 || low > high {
            let what = format!("[{low}, {high}] is no port range");
            self.push(Place::Pool(at, "ports"), what, "write [lowest, highest], both 1 to 65535");
        } else if u32::from(high - low) + 1 < u32::from(self.workers) {
            let what = format!("[{low}, {high}] has fewer ports than there are workers");
            self.push(Place::Pool(at, "ports"), what, "widen it: each worker needs its own ports");
        }
    }

    fn identities(&mut self) {
        let (mut keys, mut names, mut marks) = (HashMap::new(), HashMap::new(), HashMap::new());
        for (at, service) in self.desired.services.iter().enumerate() {
            if let Some(first) = keys.insert(service.key, at) {
                let what = format!("service[{first}] has the same protocol and address");
                self.push(Place::Service(at, "address"), what, "merge the two");
            }
            if let Some(mark) = service.mark
                && let Some(first) = marks.insert((mark, service.is_ipv4()), at)
            {
                let what = format!("service[{first}] has mark {mark} too");
                self.push(Place::Service(at, "mark"), what, ONE_MARK);
            }
            let Some(name) = &service.name else { continue };
            if let Some(first) = names.insert(name, at) {
                let what = format!("service[{first}] is also named `{name}`");
                self.push(Place::Service(at, "name"), what, "names are optional but unique");
            }
        }
    }

    /// No packet may belong to two groups by the same right.
    fn matches(&mut self) {
        let mut seen = HashMap::new();
        for (at, service) in self.desired.services.iter().enumerate() {
            for one in &service.matches {
                if let Some(first) = seen.insert(*one, at) {
                    let what = format!("service[{first}] has the match {one} too");
                    self.push(Place::Service(at, "match"), what, ONE_MATCH);
                }
            }
        }
    }

    fn service(&mut self, at: usize) {
        let service = &self.desired.services[at];
        for vip in service.vips().filter(|vip| !is_host(*vip)) {
            let what = format!("{vip} is no host's address");
            self.push(Place::Service(at, "address"), what, NOT_A_HOST);
        }
        self.kind(at);
        self.group(at);
        if let SchedulerSpec::Maglev { slots } = service.scheduler
            && (slots > MAGLEV_SLOTS_MAX
                || !is_prime(slots)
                || slots <= service.all_servers().count())
        {
            let what = format!("{slots} slots make no Maglev table");
            let remedy = "use a prime well above the number of servers, such as 65537 or 655373";
            self.push(Place::Service(at, "maglev_slots"), what, remedy);
        }
        if service.connections_max == Some(0) {
            let what = "0 admits nobody".into();
            self.push(Place::Service(at, "connections_max"), what, "leave it out for no bound");
        }
        self.needs_full_nat(at);
        self.helper(at);
        self.pool_of(at);
        self.timeouts(at);
    }

    /// What port 0, persistence, one-packet scheduling and marks ask for.
    fn kind(&mut self, at: usize) {
        let service = &self.desired.services[at];
        let is_ipv4 = service.is_ipv4();
        let mut push = |field, what: &str, remedy: &str| {
            self.push(Place::Service(at, field), what.into(), remedy);
        };
        match service.key {
            ServiceKey::Address { ports: Ports::ALL, .. } if service.persistence.is_none() => {
                let what = "port 0 (all ports) needs persistence";
                push("address", what, "set persistence_timeout, or give one port or a range");
            }
            ServiceKey::Address { .. } if service.mark.is_some() => {
                push("mark", "a service with an address has no mark", "give `group` a name");
            }
            _ => {}
        }
        if let Some(Persistence { timeout_ms, client_bits }) = service.persistence {
            if !(1_000..=TIMEOUT_MILLIS_MAX).contains(&timeout_ms) {
                let remedy = format!("use 1 to {} seconds", TIMEOUT_MILLIS_MAX / 1000);
                push("persistence_timeout", "the timeout is out of range", &remedy);
            }
            let width = if is_ipv4 { 32 } else { 128 };
            if client_bits == 0 || client_bits > width {
                let remedy = format!("use 1 to {width}");
                push("persistence_prefix", "no such length of a client's network", &remedy);
            }
        }
        if service.one_packet && service.key.protocol() == Some(Protocol::Tcp) {
            push("one_packet", "one-packet scheduling is for UDP", "leave it out for TCP");
        }
        if service.one_packet && service.all_servers().any(|s| s.mode == ForwardMode::FullNat) {
            let what = "with one-packet scheduling nobody translates FULLNAT's replies back";
            push("one_packet", what, "use forwarding = \"dr\" or \"tun\", or leave it out");
        }
    }

    /// A group has matches of one family, an address has none.
    fn group(&mut self, at: usize) {
        let service = &self.desired.services[at];
        let matches = &service.matches;
        let mut push = |what: String, remedy| self.push(Place::Service(at, "match"), what, remedy);
        match service.key {
            ServiceKey::Address { .. } if !matches.is_empty() => {
                push("a service with an address has no matches".into(), "give `group` a name");
            }
            ServiceKey::Group(_) if matches.is_empty() => {
                push("the group matches nothing".into(), "add a [[service.match]]");
            }
            _ => {}
        }
        let is_ipv4 = service.is_ipv4();
        if matches.iter().any(|one| one.prefix.address().is_ipv4() != is_ipv4) {
            push("the group mixes IPv4 and IPv6".into(), "make one group for each family");
        }
    }

    /// Options that rewrite the byte stream: replies must pass the director, in TCP.
    fn needs_full_nat(&mut self, at: usize) {
        let service = &self.desired.services[at];
        let any = |other: fn(ForwardMode) -> bool| service.all_servers().any(|s| other(s.mode));
        let tcp = service.key.protocol() != Some(Protocol::Udp);
        let tells = service.client_address != ClientAddress::None;
        let is_uoa = service.client_address == ClientAddress::Uoa;
        let direct = any(|mode| !mode.sees_replies());
        if tells && !direct && any(|mode| mode != ForwardMode::FullNat) {
            let what = "by NAT a server sees the client's address as it is".into();
            let remedy = "leave it out, or set forwarding = \"fullnat\" for every server";
            self.push(Place::Service(at, "client_address"), what, remedy);
        }
        let asked = [
            (service.synproxy, "synproxy", "forwarding = \"fullnat\" or \"nat\""),
            (tells, "client_address", "forwarding = \"fullnat\""),
        ];
        for (_, field, modes) in asked.into_iter().filter(|(asked, ..)| *asked) {
            if !(tcp || is_uoa && field == "client_address") {
                let what = format!("{field} works on TCP only");
                self.push(Place::Service(at, field), what, "leave it out for UDP");
            }
            if direct {
                let what = format!("{field} needs replies to return through gyre");
                let remedy = format!("set {modes} for every server, or leave it out");
                self.push(Place::Service(at, field), what, &remedy);
            }
        }
        if is_uoa && service.key.protocol() == Some(Protocol::Tcp) {
            let what = "uoa works on UDP only".into();
            self.push(Place::Service(at, "client_address"), what, "use \"toa\" for TCP");
        }
        let is_ipv4 = service.is_ipv4();
        if is_uoa && service.all_servers().any(|s| s.address.is_ipv4() != is_ipv4) {
            // It rides in the client's IP header, whose options stay on their side.
            let what = "uoa does not get from one address family to the other".into();
            let remedy = "use servers of the service's family, or leave it out";
            self.push(Place::Service(at, "client_address"), what, remedy);
        }
        if let ClientAddress::Toa { kind, .. } = service.client_address
            && TCP_OPTION_KINDS_TAKEN.contains(&kind)
        {
            let what = format!("TCP option kind {kind} means something else");
            self.push(Place::Service(at, "toa_kind"), what, "use 254, or what your servers read");
        }
    }

    /// A helper reads the stream of one port, both ways.
    fn helper(&mut self, at: usize) {
        let service = &self.desired.services[at];
        if service.helper.is_none() {
            return;
        }
        let proxy = [ClientAddress::ProxyV1, ClientAddress::ProxyV2];
        let has_proxy = proxy.contains(&service.client_address);
        let direct = service.all_servers().any(|server| !server.mode.sees_replies());
        let is_one_port =
            (service.key.protocol(), service.key.port().is_some()) == (Some(Protocol::Tcp), true);
        let mut push = |what: &str, remedy| {
            self.push(Place::Service(at, "helper"), what.into(), remedy);
        };
        if !is_one_port {
            push("helper = \"ftp\" follows the connections of one TCP port", "use it at port 21");
        }
        if direct {
            let remedy = "set forwarding = \"nat\" or \"fullnat\" for every server; other modes \
                          need a persistent group of port 21 and the data ports";
            push("helper = \"ftp\" needs replies to return through gyre", remedy);
        }
        if service.all_servers().any(|server| server.address.is_ipv4() != service.is_ipv4()) {
            let remedy = "use servers of the service's family";
            push("helper = \"ftp\" does not translate between IPv4 and IPv6", remedy);
        }
        if has_proxy {
            let remedy = "use client_address = \"toa\", or none";
            push("FTP data connections carry no PROXY header", remedy);
        }
    }

    fn pool_of(&mut self, at: usize) {
        let service = &self.desired.services[at];
        let place = Place::Service(at, "local_addresses");
        let full_nat = service.all_servers().any(|server| server.mode == ForwardMode::FullNat);
        let Some(name) = &service.pool else {
            if full_nat {
                let what = "FULLNAT needs source addresses".into();
                self.push(place, what, "name a pool: local_addresses = \"POOL\"");
            }
            return;
        };
        match self.desired.pools.iter().find(|pool| pool.name == *name) {
            None => {
                let what = format!("there is no pool `{name}`");
                self.push(place, what, "define it under [local_addresses]");
            }
            Some(pool) if full_nat => {
                for (family, is_ipv4) in [("IPv4", true), ("IPv6", false)] {
                    let needed = service.all_servers().any(|server| {
                        server.mode == ForwardMode::FullNat && server.address.is_ipv4() == is_ipv4
                    });
                    if needed && !pool.addresses.iter().any(|lip| lip.is_ipv4() == is_ipv4) {
                        let what = format!("pool `{name}` has no {family} address");
                        self.push(place, what, "add one to the pool, or name another pool");
                    }
                }
            }
            Some(_) => {}
        }
    }

    fn timeouts(&mut self, at: usize) {
        for (field, millis) in self.desired.services[at].timeouts.by_name() {
            if !(1_000..=TIMEOUT_MILLIS_MAX).contains(&millis) {
                let what = format!("timeout {field} of {} s", millis / 1000);
                let remedy = format!("use 1 to {} seconds", TIMEOUT_MILLIS_MAX / 1000);
                self.push(Place::Service(at, "timeouts"), what, &remedy);
            }
        }
    }

    fn servers(&mut self, at: usize) {
        let service = &self.desired.services[at];
        let mut seen = HashMap::new();
        for (position, server) in service.servers.iter().enumerate() {
            let place = |field| Place::Server(at, position, field);
            if let Some(first) = seen.insert(server.endpoint(), position) {
                let what = format!("server[{first}] has the same address");
                self.push(place("address"), what, "list it once and raise its weight");
            }
            if server.weight > WEIGHT_MAX {
                let what = format!("weight {} is too large", server.weight);
                self.push(place("weight"), what, "use 0 to 65535");
            }
            if server.lower_threshold > server.upper_threshold {
                let what = format!(
                    "lower threshold {} is above the upper one, {}",
                    server.lower_threshold, server.upper_threshold
                );
                let remedy = "lower it, raise upper_threshold, or leave both out for no bound";
                self.push(place("lower_threshold"), what, remedy);
            }
            self.server_address(place("address"), service, server);
        }
        if let Some(sorry) = &service.sorry_server {
            let place = Place::Sorry(at, "address");
            if let Some(first) = seen.get(&sorry.endpoint()) {
                let what = format!("server[{first}] has the same address");
                self.push(place, what, "give another server, or leave it out");
            }
            self.server_address(place, service, sorry);
        }
    }

    fn server_address(&mut self, place: Place, service: &ServiceSpec, server: &ServerSpec) {
        let address = server.address;
        if !is_host(address) {
            self.push(place, format!("{} is no server's address", server.endpoint()), NOT_A_HOST);
        } else if self.vips.contains(&address) {
            let what = format!("{address} is a service's address here: packets would come back");
            self.push(place, what, "give the server's own address");
        } else if self.lips.contains(&address) {
            let what = format!("{address} is one of the local_addresses");
            self.push(place, what, "give the server's own address");
        } else if address.is_loopback() && server.mode != ForwardMode::Local {
            let what = format!("{address} is the director itself");
            self.push(place, what, IS_LOCAL);
        }
        let word = mode_name(server.mode);
        let crosses = matches!(server.mode, ForwardMode::Tunnel | ForwardMode::FullNat);
        if address.is_ipv4() != service.is_ipv4() && !crosses {
            let what = format!("{word} cannot carry packets from one address family to the other");
            let remedy =
                "use a server of the service's family, or forwarding = \"fullnat\" or \"tun\"";
            self.push(place, what, remedy);
        }
        self.server_port(place, service, server);
    }

    fn server_port(&mut self, place: Place, service: &ServiceSpec, server: &ServerSpec) {
        let (word, maps) = (mode_name(server.mode), server.mode.maps_ports());
        match (service.key.port(), server.port) {
            (Some(_), 0) => {
                let what = format!("{} has no port", server.endpoint());
                self.push(place, what, "give the server's port, or leave it out");
            }
            (Some(own), port) if !maps && port != own => {
                let what = format!("{word} cannot change port {own} to {port}");
                let remedy = "use the service's port, or forwarding = \"nat\" or \"fullnat\"";
                self.push(place, what, remedy);
            }
            (None, port) if !maps && port != 0 => {
                let what = format!("{word} cannot change ports to {port}");
                self.push(place, what, "leave the server's port out, or use another forwarding");
            }
            _ => {}
        }
    }
}
