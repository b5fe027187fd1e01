//! ldirectord.cf (ldirectord(8) of resource-agents 4.12): global lines, and virtual services whose
//! lines are indented by four blanks or a tab.

mod checks;
mod values;

use super::draft::{Draft, Family, Identity, Method, Server, Service};
use super::notes::Place;
use super::texts::{self, RANGE_MAX, RangeError};
use super::{Source, Surroundings};
use crate::config::{Forwarding, Protocol, Scheduler};
use values::{Fallback, Real, Settings};

/// Most virtual services and most servers of one.
const SERVICES_MAX: usize = 20_000;
const SERVERS_MAX: usize = 4_096;

/// A line `key = value` and where it stands.
#[derive(Clone, Debug)]
struct Entry<'t> {
    key: &'t str,
    value: &'t str,
    place: Place,
}

/// What a ldirectord.cf says.
pub(super) fn read(source: Source<'_>, world: &dyn Surroundings) -> Draft {
    let file: std::rc::Rc<str> = source.path.display().to_string().into();
    let mut reader = Reader { world, draft: Draft::default(), global: Settings::default() };
    let mut current: Option<(Entry<'_>, Vec<Entry<'_>>)> = None;
    let mut sections = Vec::new();
    for (at, raw) in source.text.lines().enumerate() {
        let place = Place { file: std::rc::Rc::clone(&file), line: at + 1 };
        let is_indented = raw.starts_with("    ") || raw.starts_with('\t');
        if raw.trim_start().starts_with('#') {
            continue;
        }
        // ldirectord cuts comments off within a section only, strings included.
        let text = if is_indented { raw.split('#').next().unwrap_or_default() } else { raw };
        let text = text.trim();
        if text.is_empty() {
            if raw.trim().is_empty() {
                sections.extend(current.take());
            }
            continue;
        }
        let Some(entry) = entry(text, &place) else {
            let shown: String = text.chars().take(64).collect();
            let what = format!("`{}` is no KEY = VALUE; left out", shown.escape_debug());
            reader.draft.notes.warn(&place, what);
            continue;
        };
        let is_virtual = matches!(entry.key, "virtual" | "virtual6");
        match (&mut current, is_indented) {
            (_, false) if is_virtual => {
                sections.extend(current.replace((entry, Vec::new())));
            }
            (Some((_, lines)), true) => lines.push(entry),
            (Some((_, lines)), false) if raw.starts_with(' ') => {
                let what = format!(
                    "`{}` is indented by fewer than four blanks, which ldirectord refuses; read \
                     all the same",
                    entry.key
                );
                reader.draft.notes.warn(&place, what);
                lines.push(entry);
            }
            (_, false) => {
                sections.extend(current.take());
                reader.global(&entry);
            }
            (None, true) => reader.stray(&entry),
        }
    }
    sections.extend(current);
    for (head, lines) in sections {
        reader.virtual_service(&head, &lines);
    }
    reader.draft
}

fn entry<'t>(text: &'t str, place: &Place) -> Option<Entry<'t>> {
    let (key, value) = text.split_once('=').or_else(|| {
        // The old form, which stands alone.
        (text == "supervised").then_some((text, "yes"))
    })?;
    let key = key.trim();
    let good = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric());
    good.then(|| Entry { key, value: value.trim(), place: place.clone() })
}

struct Reader<'w> {
    world: &'w dyn Surroundings,
    draft: Draft,
    global: Settings,
}

impl Reader<'_> {
    /// A line that belongs to a virtual service, of which there is none before it.
    fn stray(&mut self, entry: &Entry<'_>) {
        let what = if matches!(entry.key, "virtual" | "virtual6") {
            "`virtual` must not be indented: it and its lines are left out".to_owned()
        } else {
            format!(
                "`{}` is indented but follows no virtual: a blank line before it, or a wrong \
                 indentation, has ended the section; left out",
                entry.key
            )
        };
        self.draft.notes.warn(&entry.place, what);
    }

    fn global(&mut self, entry: &Entry<'_>) {
        let notes = &mut self.draft.notes;
        let known = self.global.take(entry, |place, what| notes.warn(place, what));
        if known {
            return;
        }
        if values::is_of_virtual(entry.key) {
            let what = format!(
                "`{}` belongs to a virtual: indent it by four blanks or a tab; left out",
                entry.key
            );
            notes.warn(&entry.place, what);
        } else if let Some(what) = values::lost(entry.key) {
            notes.warn(&entry.place, format!("{}: {what}", entry.key));
        } else {
            notes.warn(&entry.place, format!("`{}` is unknown; left out", entry.key));
        }
    }

    fn warn(&mut self, place: &Place, what: impl Into<String>) {
        let at = self.draft.services.len();
        self.draft.notes.about(at, place, what);
    }

    fn virtual_service(&mut self, head: &Entry<'_>, lines: &[Entry<'_>]) {
        if self.draft.services.len() >= SERVICES_MAX {
            let what = format!("more than {SERVICES_MAX} services: this one is left out");
            return self.draft.notes.warn(&head.place, what);
        }
        let is_udp = lines.iter().any(|one| one.key == "protocol" && one.value == "udp");
        let protocol = if is_udp { "udp" } else { "tcp" };
        let Some(identity) = self.identity(head, protocol) else {
            return self.draft.notes.orphan(self.draft.services.len());
        };
        let title = format!("{}={}", head.key, head.value);
        let mut service = Service::new(head.place.clone(), title, identity);
        service.scheduler = Scheduler::Wrr;
        service.method = Method::of(Forwarding::Dr);
        if service.port() == Some(53) {
            service.protocol = Protocol::Udp;
        }
        let mut settings = self.global.clone();
        let (mut reals, mut fallback) = (Vec::new(), None);
        let is_v6 = head.key == "virtual6";
        for entry in lines {
            let at = self.draft.services.len();
            let notes = &mut self.draft.notes;
            let mut warn = |place: &Place, what: String| notes.about(at, place, what);
            match entry.key {
                "real" | "real6" | "fallback" | "fallback6"
                    if entry.key.ends_with('6') != is_v6 =>
                {
                    let what = format!("`{}` does not fit `{}`; left out", entry.key, head.key);
                    warn(&entry.place, what);
                }
                "real" | "real6" => reals.push(entry),
                "fallback" | "fallback6" => {
                    fallback = Some((entry.value.to_owned(), entry.place.clone()))
                }
                _ if values::take(&mut service, entry, &mut warn) => {}
                _ if settings.take_own(entry, &mut warn) => {}
                key => {
                    let what = match values::lost(key) {
                        Some(what) => format!("{key}: {what}"),
                        None => format!("`{key}` is unknown; left out"),
                    };
                    warn(&entry.place, what);
                }
            }
        }
        self.servers(&mut service, &settings, &reals);
        let global = if is_v6 { &self.global.fallback6 } else { &self.global.fallback };
        if let Some((text, place)) = fallback.or_else(|| global.clone()) {
            service.sorry = self.fallback(&text, &place, &service);
        }
        self.consequences(&mut service, &settings);
        self.draft.services.push(service);
    }

    /// `ADDRESS:PORT`, `[ADDRESS]:PORT`, a name for either, or a firewall mark.
    fn identity(&mut self, head: &Entry<'_>, protocol: &str) -> Option<Identity> {
        let family = if head.key == "virtual6" { Family::V6 } else { Family::V4 };
        if let Ok(number) = head.value.parse::<u32>() {
            if number == 0 {
                self.draft.notes.warn(&head.place, "a firewall mark is above 0; left out");
                return None;
            }
            return Some(Identity::Mark { number, family: Some(family), matches: Vec::new() });
        }
        let place = &head.place;
        let found = self.endpoint(head.value, protocol, family, place);
        match found {
            Some((vip, Some(port))) => Some(Identity::Address { vip, port }),
            Some((_, None)) => {
                let what = format!("`{}` lacks its port; left out", head.value);
                self.draft.notes.warn(place, what);
                None
            }
            None => None,
        }
    }

    /// An address and a port, by number or name.
    fn endpoint(
        &mut self,
        text: &str,
        protocol: &str,
        family: Family,
        place: &Place,
    ) -> Option<(std::net::IpAddr, Option<u16>)> {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (text, None),
        };
        let address = self.host(host.trim_end_matches(':'), family, place)?;
        let Some(port) = port else { return Some((address, None)) };
        let number = port.parse().ok().or_else(|| self.world.service_port(port, protocol));
        if number.is_none() {
            let shown: String = port.chars().take(64).collect();
            let what = format!("`{}` is no port and no known service", shown.escape_debug());
            self.warn(place, what);
        }
        Some((address, Some(number?)))
    }

    fn host(&mut self, host: &str, family: Family, place: &Place) -> Option<std::net::IpAddr> {
        if let Some(address) = texts::address(host) {
            if Family::of(address) == family {
                return Some(address);
            }
            let what = format!("{address} is of the other address family; left out");
            self.warn(place, what);
            return None;
        }
        let shown: String = host.chars().take(64).collect();
        let shown = shown.escape_debug();
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let is_name = !host.is_empty() && host.chars().all(plain) && host.len() < 256;
        let found = if is_name { self.world.resolve(host) } else { Vec::new() };
        let address = found.into_iter().find(|address| Family::of(*address) == family);
        let what = match address {
            Some(address) => format!("{shown} is {address} now; gyre keeps to the address"),
            None => format!("`{shown}` is no address and no known host; left out"),
        };
        self.warn(place, what);
        address
    }

    fn servers(&mut self, service: &mut Service, settings: &Settings, reals: &[&Entry<'_>]) {
        let family = service.family().unwrap_or(Family::V4);
        for entry in reals {
            let real = match Real::parse(entry.value) {
                Ok(real) => real,
                Err(what) => {
                    let what = format!("`real={}`: {what}; left out", entry.value);
                    self.warn(&entry.place, what);
                    continue;
                }
            };
            let Some(addresses) = self.addresses(&real, family, &entry.place) else { continue };
            let port = match real.port {
                None => 0,
                Some(text) => {
                    let known = || self.world.service_port(text, service.protocol.word());
                    let Some(port) = text.parse().ok().or_else(known) else {
                        let what = format!("`{text}` is no port and no known service; left out");
                        self.warn(&entry.place, what);
                        continue;
                    };
                    port
                }
            };
            for address in addresses {
                if service.servers.len() >= SERVERS_MAX {
                    let what = format!("more than {SERVERS_MAX} servers: the rest is left out");
                    return self.warn(&entry.place, what);
                }
                let mut server = Server {
                    place: entry.place.clone(),
                    title: format!("{}={}", entry.key, entry.value),
                    address,
                    port,
                    weight: real.weight,
                    upper: real.upper,
                    lower: real.lower,
                    method: Method::of(real.forwarding),
                    checks: Vec::new(),
                };
                let at = self.draft.services.len();
                let notes = &mut self.draft.notes;
                let mut warn = |place: &Place, what: String| notes.about(at, place, what);
                checks::of_server(&mut server, service, settings, (&real, &mut warn));
                service.servers.push(server);
            }
        }
        // What most servers use stands with the service.
        if let Some(first) = service.servers.first() {
            service.method = first.method;
        }
    }

    fn addresses(
        &mut self,
        real: &Real<'_>,
        family: Family,
        place: &Place,
    ) -> Option<Vec<std::net::IpAddr>> {
        let first = self.host(real.host, family, place)?;
        let Some(last) = real.last else { return Some(vec![first]) };
        let last = self.host(last, family, place)?;
        let what = match texts::between(first, last) {
            Ok(addresses) => return Some(addresses),
            Err(RangeError::TooMany(count)) => {
                format!("{first}->{last} is {count} servers, {RANGE_MAX} at most; left out")
            }
            Err(_) => format!("{first}->{last} ends before it begins; left out"),
        };
        self.warn(place, what);
        None
    }

    fn fallback(&mut self, text: &str, place: &Place, service: &Service) -> Option<Server> {
        let fallback = match Fallback::parse(text) {
            Ok(fallback) => fallback,
            Err(what) => {
                self.warn(place, format!("fallback={text}: {what}; left out"));
                return None;
            }
        };
        let family = service.family().unwrap_or(Family::V4);
        let protocol = service.protocol.word();
        let (address, port) = self.endpoint(fallback.endpoint, protocol, family, place)?;
        Some(Server {
            place: place.clone(),
            title: format!("fallback={text}"),
            address,
            port: port.unwrap_or(0),
            weight: 1,
            upper: 0,
            lower: 0,
            method: Method::of(fallback.forwarding),
            checks: Vec::new(),
        })
    }

    /// What follows from failures.
    fn consequences(&mut self, service: &mut Service, settings: &Settings) {
        // Its manual says yes; the program starts from no.
        service.health.removes = settings.quiescent != Some(true);
        let word = match settings.quiescent {
            Some(true) => "quiescent=yes",
            Some(false) => "quiescent=no",
            None => "quiescent=no (ldirectord's default)",
        };
        service.said.insert("on_failure", word.into());
        // A server is down until its first check was good, unless none is made.
        service.health.starts_down = service.servers.iter().any(|one| !one.checks.is_empty());
        let Some((command, place)) = &settings.fallback_command else { return };
        let words = texts::command(command);
        if !words.first().is_some_and(|path| path.starts_with('/')) {
            let what = "fallbackcommand: gyre runs programs by their absolute path; left out";
            return self.warn(place, what);
        }
        let (vip, protocol) = match &service.identity {
            Identity::Address { vip, port } => {
                (std::net::SocketAddr::new(*vip, *port).to_string(), service.protocol.word())
            }
            Identity::Mark { number, .. } => (format!("{number}:0"), "fwm"),
        };
        let with = |verb: &str| {
            let more = [verb, &vip, protocol].map(str::to_owned);
            words.iter().cloned().chain(more).collect::<Vec<_>>()
        };
        service.health.quorum_down = with("start");
        service.health.quorum_up = with("stop");
        for field in ["quorum_down", "quorum_up"] {
            service.said.insert(field, format!("fallbackcommand (line {})", place.line));
        }
    }
}
