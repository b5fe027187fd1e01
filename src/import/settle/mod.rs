//! Where LVS takes what gyre refuses: each such thing is put right with a warning, or left out with
//! the reason, so that what remains is without fault.

mod bounds;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::Options;
use super::draft::{Draft, Family, Identity, Method, Server, Service};
use super::notes::{Notes, Place};
use crate::config::{Forwarding, Protocol};

/// Longest persistence and most bits that gyre's schema takes.
const PERSISTENCE_MAX_S: u32 = 2_000_000;

/// Makes all services such that gyre takes them.
pub(super) fn settle(draft: &mut Draft, options: &Options) {
    let Draft { services, notes, .. } = draft;
    for (at, service) in services.iter_mut().enumerate() {
        identity(service, options, &mut About { notes, at });
    }
    duplicates(services, notes);
    let vips: BTreeSet<IpAddr> =
        services.iter().filter(|one| one.left_out.is_none()).flat_map(vips).collect();
    for (at, service) in services.iter_mut().enumerate() {
        let mut about = About { notes, at };
        flags(service, &mut about);
        persistence(service, &mut about);
        servers(service, &vips, &mut about);
        bounds::apply(service, &mut about);
        hoist(service);
        ftp(service, &mut about);
    }
}

/// Warnings of one service.
struct About<'n> {
    notes: &'n mut Notes,
    at: usize,
}

impl About<'_> {
    fn warn(&mut self, place: &Place, what: impl Into<String>) {
        self.notes.about(self.at, place, what);
    }
}

fn is_host(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !(address.is_unspecified() || address.is_multicast() || broadcast)
}

fn vips(service: &Service) -> Vec<IpAddr> {
    match &service.identity {
        Identity::Address { vip, .. } => vec![*vip],
        Identity::Mark { matches, .. } => {
            matches.iter().map(|one| one.address.prefix.address()).collect()
        }
    }
}

/// What the service listens to, or why nothing.
fn identity(service: &mut Service, options: &Options, about: &mut About<'_>) {
    let servers_family = service.servers.first().map(|server| Family::of(server.address));
    let why = match &mut service.identity {
        Identity::Address { vip, .. } if !is_host(*vip) => {
            Some(format!("{vip} is no address that a service can have"))
        }
        Identity::Address { port: 0, .. } if service.persistence_s.is_none() => Some(
            "a service on all ports needs persistence (the kernel refuses it too): set \
             persistence_timeout, or give ports"
                .into(),
        ),
        Identity::Address { .. } => None,
        Identity::Mark { number, family, matches } => {
            let family = *family.get_or_insert(servers_family.unwrap_or(Family::V4));
            let all = options.marks.get(number).cloned().unwrap_or_default();
            *matches = all;
            matches.retain(|one| Family::of(one.address.prefix.address()) == family);
            matches.is_empty().then(|| {
                format!(
                    "which packets carry mark {number} is the packet filter's rule, not in this \
                     file; gyre sees packets before it: say it by --mark \
                     {number}=tcp:ADDRESS:PORT, or fill in [[service.match]]"
                )
            })
        }
    };
    let Some(why) = why else { return };
    let what = format!("`{}` stands there as a comment: {why}", service.title);
    about.warn(&service.place, what);
    service.left_out.get_or_insert(why);
}

/// No two services are the same, and no two have one name.
fn duplicates(services: &mut [Service], notes: &mut Notes) {
    let (mut seen, mut names) = (BTreeMap::new(), BTreeSet::new());
    for (at, service) in services.iter_mut().enumerate() {
        if service.left_out.is_some() {
            continue;
        }
        let key = match &service.identity {
            Identity::Address { vip, port } => {
                format!("{} {vip} port {port}", service.protocol.word())
            }
            Identity::Mark { number, .. } => {
                format!("mark {number} {:?}", service.family())
            }
        };
        if let Some(first) = seen.get(&key) {
            let what = format!("`{}` is there already, at {first}", service.title);
            notes.about(at, &service.place, format!("{what}; it stands there as a comment"));
            service.left_out = Some(what);
            continue;
        }
        seen.insert(key, service.place.clone());
        if let Some(name) = service.name.take_if(|name| names.contains(name)) {
            let what = format!("the name `{name}` is taken: names are unique in gyre; left out");
            notes.about(at, &service.place, what);
        }
        names.extend(service.name.clone());
    }
}

fn flags(service: &mut Service, about: &mut About<'_>) {
    let scheduler = service.scheduler;
    let (own, strange): (Vec<_>, Vec<_>) =
        service.flags.iter().copied().partition(|flag| flag.scheduler() == scheduler);
    for flag in strange {
        let (flag, scheduler) = (flag.word(), scheduler.word());
        let what = format!("the scheduler {scheduler} has no flag {flag}; left out");
        about.warn(&service.place, what);
    }
    service.flags = own;
    let is_group = matches!(service.identity, Identity::Mark { .. });
    if service.one_packet && service.protocol == Protocol::Tcp && !is_group {
        about.warn(&service.place, "one-packet scheduling is for UDP; left out");
        service.one_packet = false;
    }
}

fn persistence(service: &mut Service, about: &mut About<'_>) {
    if let Some(seconds) = service.persistence_s.filter(|seconds| *seconds > PERSISTENCE_MAX_S) {
        let what =
            format!("persistence of {seconds} s is longer than gyre has: {PERSISTENCE_MAX_S}");
        about.warn(&service.place, what);
        service.persistence_s = Some(PERSISTENCE_MAX_S);
    }
    let width = if service.family() == Some(Family::V6) { 128 } else { 32 };
    if let Some(bits) = service.persistence_prefix.filter(|bits| *bits > width) {
        let what = format!("an address has {width} bits, not {bits}: all of them count");
        about.warn(&service.place, what);
        service.persistence_prefix = None;
    }
    if service.persistence_s.is_none() {
        service.persistence_prefix = None;
    }
}

fn servers(service: &mut Service, vips: &BTreeSet<IpAddr>, about: &mut About<'_>) {
    let mut kept: Vec<Server> = Vec::new();
    let (listed, sorry) = (std::mem::take(&mut service.servers), service.sorry.take());
    for mut server in listed {
        match fit(&mut server, service, vips, about) {
            Err(why) => about.warn(&server.place, format!("`{}`: {why}; left out", server.title)),
            Ok(()) => {
                let same = |one: &&Server| {
                    (one.address, port_of(one, service))
                        == (server.address, port_of(&server, service))
                };
                if let Some(first) = kept.iter().find(same) {
                    let what = format!(
                        "`{}` is there already, at {}; left out",
                        server.title, first.place
                    );
                    about.warn(&server.place, what);
                } else {
                    kept.push(server);
                }
            }
        }
    }
    service.servers = kept;
    service.sorry = sorry.and_then(|mut server| match fit(&mut server, service, vips, about) {
        Ok(()) => {
            let own = (server.address, port_of(&server, service));
            let listed = &service.servers;
            if listed.iter().any(|one| (one.address, port_of(one, service)) == own) {
                let what = format!("`{}`: a real server has this address; left out", server.title);
                about.warn(&server.place, what);
                return None;
            }
            Some(server)
        }
        Err(why) => {
            about.warn(&server.place, format!("`{}`: {why}; left out", server.title));
            None
        }
    });
}

fn port_of(server: &Server, service: &Service) -> u16 {
    if server.port == 0 { service.port().unwrap_or(0) } else { server.port }
}

/// Makes a server such that gyre takes it, or says why that cannot be.
fn fit(
    server: &mut Server,
    service: &Service,
    vips: &BTreeSet<IpAddr>,
    about: &mut About<'_>,
) -> Result<(), String> {
    let address = server.address;
    if !is_host(address) {
        return Err(format!("{address} is no server's address"));
    }
    if address.is_loopback() {
        // What LVS shows as "Local", whatever the method.
        server.method = Method::of(Forwarding::Local);
    } else if vips.contains(&address) {
        return Err(format!(
            "{address} is a service's address here: its packets would come back. For the director \
             itself write 127.0.0.1 or ::1"
        ));
    }
    let crosses = server.method.forwarding == Forwarding::Tun;
    if service.family().is_some_and(|family| family != Family::of(address)) && !crosses {
        return Err("its address family is not the service's: that takes TUN".into());
    }
    let own = service.port();
    if !server.method.maps_ports() && server.port != 0 && own != Some(server.port) {
        let word = server.method.forwarding.word();
        match own {
            Some(own) if server.method.forwarding == Forwarding::Local => {
                return Err(format!(
                    "gyre cannot change port {own} to {} on the way to the director itself",
                    server.port
                ));
            }
            Some(own) => {
                let what = format!(
                    "{word} cannot change ports: {own} counts, not {}, as in the kernel",
                    server.port
                );
                about.warn(&server.place, what);
            }
            None => {}
        }
        server.port = 0;
    }
    if server.weight > 65_535 {
        let what = format!("weight {} is above 65535, which counts", server.weight);
        about.warn(&server.place, what);
        server.weight = 65_535;
    }
    if server.lower > server.upper {
        let what = format!(
            "the lower threshold, {}, is above the upper one, {}; left out",
            server.lower, server.upper
        );
        about.warn(&server.place, what);
        server.lower = 0;
    }
    Ok(())
}

/// Checks that all servers have are the service's.
fn hoist(service: &mut Service) {
    let Some((first, others)) = service.servers.split_first() else { return };
    let same = |other: &Server| {
        let pairs = || other.checks.iter().zip(&first.checks);
        other.checks.len() == first.checks.len() && pairs().all(|(a, b)| a.is_same(b))
    };
    if !first.checks.is_empty() && others.iter().all(same) {
        service.checks = first.checks.clone();
        service.servers.iter_mut().for_each(|server| server.checks.clear());
    }
}

fn ftp(service: &Service, about: &mut About<'_>) {
    let nat = service.servers.iter().all(|server| server.method.forwarding == Forwarding::Nat);
    if service.port() == Some(21) && service.protocol == Protocol::Tcp && nat {
        let what = "FTP by NAT: where the kernel had ip_vs_ftp loaded, add helper = \"ftp\"";
        about.warn(&service.place, what);
    }
}
