//! Judges meanings that one field alone does not show: names that refer to others, options that
//! exclude each other, and through `model::validate` what services and pools promise.

use hashbrown::{HashMap, HashSet};

use super::health::{self, Checks};
use super::shape::{Walk, join};
use super::types::{
    ClientAddress, Config, Forwarding, Kernel, Port, Scheduler, Server, Service, Tunnel,
    TunnelChecksum, interface_of,
};
use crate::limits::{NICS_MAX, WORKERS_MAX};
use crate::model::{
    Desired, NicId, NicModel, Place, SpecProblem, address_pairs, check_addresses, check_steering,
    validate,
};

/// What names of DPDK's devices on a kernel interface begin with.
const AF_PACKET: &str = "net_af_packet";

/// Adds what is wrong with `config`, which `walk` left over, and gives what it wants.
pub(super) fn check(config: &Config, walk: &mut Walk<'_>) -> Desired {
    runtime(config, walk);
    ports(config, walk);
    port_names(config, walk);
    routes(config, walk);
    marks(config, walk);
    for (at, service) in config.service.iter().enumerate() {
        let path = walk.element("service", at);
        options(service, &path, walk);
    }
    let desired = config.desired();
    let workers = config.runtime.worker_count();
    let mut problems = validate(&desired, workers);
    problems.extend(addresses(config, &desired, walk));
    if !walk.any_dropped_in("service") {
        problems.extend(check_steering(&desired, workers));
    }
    for problem in problems {
        if !follows_in_file(problem.place, &desired, walk) {
            let path = path_of(problem.place, &desired, walk);
            walk.push(&path, problem.what, problem.remedy);
        }
    }
    let pairs = address_pairs(&desired.pools, desired.services.iter());
    if pairs as u64 > config.runtime.address_pairs {
        let what = format!(
            "the services come to {pairs} pairs of local address and server, room is for {}",
            config.runtime.address_pairs
        );
        let remedy = format!("set runtime.address_pairs = {pairs} or more, or use smaller pools");
        walk.push("runtime.address_pairs", what, remedy);
    }
    desired
}

/// Adds what keeps one service from joining those that are there: `problems` of its meaning, but
/// for those that may only be there because a wrong value was left out.
pub(super) fn beside(problems: Vec<SpecProblem>, written: &Written, walk: &mut Walk<'_>) {
    for problem in problems {
        if !follows_from_another(problem.place, written, walk) {
            let SpecProblem { subject, what, remedy, .. } = problem;
            let what = if subject.is_empty() { what } else { format!("{subject}: {what}") };
            walk.push("", what, remedy);
        }
    }
}

/// What servers ask of the ports' addresses, as far as the ports are known.
fn addresses(config: &Config, desired: &Desired, walk: &Walk<'_>) -> Vec<SpecProblem> {
    let mut problems = check_addresses(desired, &nics(config));
    if config.port.is_empty() || walk.any_dropped_in("port") {
        problems.retain(|problem| matches!(problem.place, Place::Server(.., "forwarding")));
    }
    problems
}

/// The ports but for what their devices will say.
fn nics(config: &Config) -> Vec<NicModel> {
    let nic = |(at, port): (usize, &Port)| NicModel {
        id: NicId(at as u8),
        name: port.name.clone(),
        mac: [0; 6],
        mtu: port.mtu.unwrap_or(0),
        kernel: port.kernel.into(),
        vlan: port.vlan,
        addresses: port.addresses.iter().map(|own| own.address).collect(),
    };
    config.port.iter().take(NICS_MAX).enumerate().map(nic).collect()
}

fn runtime(config: &Config, walk: &mut Walk<'_>) {
    let Some(cores) = &config.runtime.cores else { return };
    if config.runtime.workers.is_some() {
        let what = "`workers` and `cores` both say how many workers there are".into();
        walk.push("runtime.workers", what, "remove `workers`: there is one for each core".into());
    }
    if cores.is_empty() || cores.len() > WORKERS_MAX {
        let what = format!("{} cores are listed", cores.len());
        walk.push("runtime.cores", what, format!("list 1 to {WORKERS_MAX}"));
    }
    let mut seen = HashSet::new();
    for (at, core) in cores.iter().enumerate() {
        if !seen.insert(core) {
            let path = walk.element("runtime.cores", at);
            walk.push(&path, format!("core {core} is listed twice"), "list each once".into());
        }
    }
}

fn ports(config: &Config, walk: &mut Walk<'_>) {
    if config.port.is_empty() && !walk.any_dropped_in("port") {
        let remedy = "add a [[port]] with name and device".into();
        walk.push("", "there is no port".into(), remedy);
    }
    if config.port.len() > NICS_MAX {
        let what = format!("{} ports are too many", config.port.len());
        walk.push("port", what, format!("use at most {NICS_MAX}"));
    }
    let (mut names, mut devices, mut addresses) = (HashMap::new(), HashMap::new(), HashMap::new());
    for (at, port) in config.port.iter().enumerate() {
        let path = walk.element("port", at);
        if let Some(first) = names.insert(&port.name, at) {
            let what = format!("{} has the same name", walk.element("port", first));
            walk.push(&format!("{path}.name"), what, "give each port its own name".into());
        }
        device(&port.device, (at, port.vlan), &format!("{path}.device"), (&mut devices, walk));
        for (position, member) in port.members.iter().enumerate() {
            let path = walk.element(&format!("{path}.members"), position);
            device(member, (at, port.vlan), &path, (&mut devices, walk));
        }
        members(port, &path, walk);
        for (position, address) in port.addresses.iter().enumerate() {
            let list = format!("{path}.addresses");
            if let Some(other) = addresses.insert(address.address, &port.name) {
                let what = format!("{} is already on port {other}", address.address);
                walk.push(&walk.element(&list, position), what, "list it once".into());
            }
        }
        if port.kernel == Kernel::Shared && !port.device.starts_with(AF_PACKET) {
            let what = "only an af_packet device can be shared with the kernel".into();
            let remedy = "use device = \"net_af_packet0,iface=INTERFACE\", or kernel = \"tap\"";
            walk.push(&format!("{path}.kernel"), what, remedy.into());
        }
    }
}

/// A device is one port's: `(at, vlan)` is the port whose it is to be. DPDK knows devices by their
/// names, and two on one interface would both take each frame.
fn device<'c>(
    device: &'c str,
    (at, vlan): (usize, Option<u16>),
    path: &str,
    (taken, walk): (&mut HashMap<(&'c str, Option<u16>), usize>, &mut Walk<'_>),
) {
    let name = device.split(',').next().unwrap_or(device);
    let interface = interface_of(device);
    if name.starts_with(AF_PACKET) && interface.is_none_or(str::is_empty) {
        let what = format!("`{name}` does not say which interface");
        walk.push(path, what, format!("write it like \"{name},iface=eth1\""));
    }
    let by_name = taken.insert((name, None), at).map(|first| (first, format!("device {name}")));
    let by_interface = interface.and_then(|interface| {
        let first = taken.insert((interface, Some(vlan.unwrap_or(0))), at)?;
        Some((first, format!("interface {interface}")))
    });
    if let Some((first, what)) = by_name.or(by_interface) {
        let what = format!("{} has {what} already", walk.element("port", first));
        walk.push(path, what, "give each port a device and an interface of its own".into());
    }
}

/// A bond has members, and nothing else has.
fn members(port: &Port, path: &str, walk: &mut Walk<'_>) {
    let list = format!("{path}.members");
    match (port.is_bond(), port.members.is_empty()) {
        (true, true) if !walk.is_dropped(&list) => {
            let what = "a bond without members carries nothing".into();
            let remedy = "add members = [...]: PCI addresses, or devargs such as \
                          \"net_af_packet0,iface=eth1\"";
            walk.push(&format!("{path}.device"), what, remedy.into());
        }
        (false, false) => {
            let what = "only a net_bonding device has members".into();
            let remedy = "use device = \"net_bonding0,mode=1\", or leave `members` out";
            walk.push(&list, what, remedy.into());
        }
        _ => {}
    }
}

/// Every `port = NAME` names a port.
fn port_names(config: &Config, walk: &mut Walk<'_>) {
    if walk.any_dropped_in("port") {
        return;
    }
    let pools = config.local_addresses.iter();
    let mut uses: Vec<(String, &str)> = pools
        .map(|(name, pool)| (format!("local_addresses.{name}.port"), pool.port.as_str()))
        .collect();
    for (at, neighbour) in config.neighbour.iter().enumerate() {
        uses.push((format!("{}.port", walk.element("neighbour", at)), &neighbour.port));
    }
    for (at, route) in config.route.iter().enumerate() {
        let name = route.port.as_deref();
        uses.extend(name.map(|name| (format!("{}.port", walk.element("route", at)), name)));
    }
    let names: Vec<&str> = config.port.iter().map(|port| port.name.as_str()).collect();
    for (path, name) in uses {
        if !names.contains(&name) {
            let remedy = format!("use one of: {}", names.join(", "));
            walk.push(&path, format!("there is no port `{name}`"), remedy);
        }
    }
}

fn routes(config: &Config, walk: &mut Walk<'_>) {
    for (at, route) in config.route.iter().enumerate() {
        let path = walk.element("route", at);
        let (via, port) = (format!("{path}.via"), format!("{path}.port"));
        if walk.is_dropped(&via) || walk.is_dropped(&port) {
            continue;
        }
        if route.via.is_some() == route.port.is_some() {
            let what = "a route leads through a router or onto a port's own link".into();
            walk.push(&path, what, "give either `via` or `port`".into());
        }
        if route.via.is_some_and(|via| via.is_ipv4() != route.prefix.0.address().is_ipv4()) {
            let what = "the router's address family differs from the prefix's".into();
            walk.push(&via, what, "use one family".into());
        }
        if let Some(router) = route.via
            && !walk.any_dropped_in("port")
            && !walk.any_dropped_in("neighbour")
            && config.towards(router).is_none()
        {
            let what = format!("no port leads to {router}");
            let remedy = "add an address of its network to a port, or a [[neighbour]] for it";
            walk.push(&via, what, remedy.into());
        }
    }
}

/// Each mark is said once and is some packets'.
fn marks(config: &Config, walk: &mut Walk<'_>) {
    let mut seen = HashMap::new();
    for (at, mark) in config.mark.iter().enumerate() {
        let path = walk.element("mark", at);
        let list = join(&path, "match");
        if mark.matches.is_empty() && !walk.is_dropped(&list) && !walk.any_dropped_in(&list) {
            walk.push(&list, "the mark is no packet's".into(), "add a [[mark.match]]".into());
        }
        if let Some(first) = seen.insert(mark.number, at) {
            let what = format!("mark[{first}] has the number {} too", mark.number);
            walk.push(&join(&path, "number"), what, "put all its matches into one".into());
        }
    }
}

/// Options that mean something with another option alone.
pub(super) fn options(service: &Service, path: &str, walk: &mut Walk<'_>) {
    scheduler_flags(service, path, walk);
    if service.address.is_some() && service.group.is_some() {
        let what = "`address` and `group` both say what the service is".into();
        let remedy = "remove one; a group takes its addresses from [[service.match]]".into();
        walk.push(&join(path, "group"), what, remedy);
    }
    let servers = join(path, "server");
    let tunnelled = |server: &Server| {
        server.tunnel.is_some() || server.tunnel_port.is_some() || server.tunnel_checksum.is_some()
    };
    for (at, server) in service.server.iter().enumerate().filter(|(_, s)| tunnelled(s)) {
        let path = walk.element(&servers, at);
        tunnel_options(server, service.forwarding, &path, walk);
    }
    if let Some(sorry) = &service.sorry_server {
        tunnel_options(&sorry.server(), service.forwarding, &join(path, "sorry_server"), walk);
    }
    health::judge(service, path, walk);
    let maglev = service.scheduler == Scheduler::Maglev;
    let toa = service.client_address == ClientAddress::Toa;
    for (lost, field, needs) in [
        (!maglev && service.maglev_slots.is_some(), "maglev_slots", "scheduler = \"maglev\""),
        (!toa && service.toa_kind.is_some(), "toa_kind", "client_address = \"toa\""),
        (
            service.persistence_timeout.is_none() && service.persistence_prefix.is_some(),
            "persistence_prefix",
            "persistence_timeout",
        ),
        (!toa && service.toa_on_syn, "toa_on_syn", "client_address = \"toa\""),
    ] {
        let other = needs.split(' ').next().unwrap_or(needs);
        if lost && !walk.is_dropped(&join(path, other)) {
            let what = format!("{field} has no effect without {needs}");
            walk.push(&join(path, field), what, "set that, or remove this".into());
        }
    }
}

/// Flags of another scheduler than the service's.
fn scheduler_flags(service: &Service, path: &str, walk: &mut Walk<'_>) {
    if walk.is_dropped(&join(path, "scheduler")) {
        return;
    }
    let (has, scheduler) = (service.scheduler.flags(), service.scheduler.word());
    for flag in service.scheduler_flags.iter().filter(|flag| !has.contains(flag)) {
        let what = format!("the scheduler {scheduler} has no flag {}", flag.word());
        let needs = flag.scheduler().word();
        let remedy = match has {
            [] => format!("set scheduler = \"{needs}\", or leave the flag out"),
            [port, fallback] => format!(
                "set scheduler = \"{needs}\", or use {} or {}",
                port.word(),
                fallback.word()
            ),
            _ => "leave the flag out".into(),
        };
        walk.push(&join(path, "scheduler_flags"), what, remedy);
    }
}

/// Options of a server by itself. `forwarding` is its service's.
pub(super) fn server_options(
    server: &Server,
    forwarding: Forwarding,
    path: &str,
    walk: &mut Walk<'_>,
) {
    tunnel_options(server, forwarding, path, walk);
    if let Some(checks) = &server.check {
        Checks(checks, join(path, "check")).judge(walk);
    }
}

/// Tunnel options of a server that would go unheard. `forwarding` is its service's.
fn tunnel_options(server: &Server, forwarding: Forwarding, path: &str, walk: &mut Walk<'_>) {
    let tun = server.forwarding.unwrap_or(forwarding) == Forwarding::Tun;
    let tunnel = server.tunnel.unwrap_or_default();
    let (ipip, gue) = (tunnel == Tunnel::Ipip, tunnel == Tunnel::Gue);
    let checksum = server.tunnel_checksum.unwrap_or_default();
    let sums = checksum != TunnelChecksum::None;
    let remote = checksum == TunnelChecksum::Remcsum;
    for (lost, field, needs) in [
        (!tun && server.tunnel.is_some(), "tunnel", "forwarding = \"tun\""),
        (!gue && server.tunnel_port.is_some(), "tunnel_port", "tunnel = \"gue\""),
        (ipip && sums, "tunnel_checksum", "tunnel = \"gre\" or \"gue\""),
        (!ipip && !gue && remote, "tunnel_checksum", "tunnel = \"gue\" where it is \"remcsum\""),
    ] {
        let other = needs.split(' ').next().unwrap_or(needs);
        if lost && !walk.is_dropped(&join(path, other)) {
            let what = format!("{field} has no effect without {needs}");
            walk.push(&join(path, field), what, "set that, or remove this".into());
        }
    }
}

/// Where a place of the model is in the schema.
fn path_of(place: Place, desired: &Desired, walk: &Walk<'_>) -> String {
    match place {
        Place::Whole => String::new(),
        Place::Pool(pool, field) => {
            format!("local_addresses.{}.{field}", desired.pools[pool].name)
        }
        Place::PoolAddress(pool, address) => {
            let list = format!("local_addresses.{}.addresses", desired.pools[pool].name);
            walk.element(&list, address)
        }
        Place::Service(service, field) => {
            format!("{}.{field}", walk.element("service", service))
        }
        Place::Server(service, server, field) => {
            let list = format!("{}.server", walk.element("service", service));
            format!("{}.{field}", walk.element(&list, server))
        }
        Place::Sorry(service, field) => {
            format!("{}.sorry_server.{field}", walk.element("service", service))
        }
        Place::Check(service, None, check, field) => {
            let list = format!("{}.check", walk.element("service", service));
            format!("{}.{field}", walk.element(&list, check))
        }
        Place::Check(service, Some(server), check, field) => {
            let list = format!("{}.server", walk.element("service", service));
            let list = format!("{}.check", walk.element(&list, server));
            format!("{}.{field}", walk.element(&list, check))
        }
    }
}

/// Whether a problem of a whole configuration may only be there because a wrong value was left out.
fn follows_in_file(place: Place, desired: &Desired, walk: &Walk<'_>) -> bool {
    match place {
        Place::Whole | Place::PoolAddress(..) => false,
        Place::Pool(pool, field) => {
            walk.is_dropped(&format!("local_addresses.{}.{field}", desired.pools[pool].name))
        }
        Place::Service(at, _)
        | Place::Server(at, ..)
        | Place::Sorry(at, _)
        | Place::Check(at, ..) => {
            let path = walk.element("service", at);
            let count = desired.services[at].servers.len();
            follows_from_another(place, &Written::service(path, count, walk), walk)
        }
    }
}

/// Where a service and its servers stand in what was written; what does not, was there before.
pub(super) struct Written {
    service: Option<String>,
    servers: Vec<Option<String>>,
}

impl Written {
    /// All of a service with so many servers that are left.
    pub(super) fn service(path: String, servers: usize, walk: &Walk<'_>) -> Self {
        let list = join(&path, "server");
        let servers = (0..servers).map(|at| Some(walk.element(&list, at))).collect();
        Written { service: Some(path), servers }
    }

    /// One server behind others.
    pub(super) fn server(others: usize) -> Self {
        let mut servers = vec![None; others];
        servers.push(Some(String::new()));
        Written { service: None, servers }
    }
}

/// Whether a problem may only be there because a wrong value was left out.
fn follows_from_another(place: Place, written: &Written, walk: &Walk<'_>) -> bool {
    let is_dropped = |path: &Option<String>, field: &str| {
        path.as_ref().is_some_and(|path| walk.is_dropped(&join(path, field)))
    };
    let dropped = |field: &str| is_dropped(&written.service, field);
    let forwarding_unknown = || {
        dropped("forwarding") || written.servers.iter().any(|path| is_dropped(path, "forwarding"))
    };
    match place {
        Place::Service(_, field) => match field {
            "local_addresses" => {
                dropped(field) || forwarding_unknown() || walk.any_dropped_in("local_addresses")
            }
            "synproxy" | "client_address" | "helper" | "one_packet" => {
                dropped(field) || dropped("protocol") || forwarding_unknown()
            }
            "quorum_hysteresis" => dropped("quorum"),
            "address" => dropped("protocol") || dropped("persistence_timeout"),
            "forwarding" => dropped("helper") || forwarding_unknown(),
            _ => dropped(field),
        },
        Place::Server(_, at, field) => match field {
            "address" | "forwarding" => forwarding_unknown(),
            "lower_threshold" => {
                written.servers.get(at).is_some_and(|path| is_dropped(path, "upper_threshold"))
            }
            _ => false,
        },
        Place::Sorry(_, field) => match field {
            "address" | "forwarding" => {
                forwarding_unknown()
                    || written
                        .service
                        .as_ref()
                        .is_some_and(|path| walk.any_dropped_in(&join(path, "sorry_server")))
            }
            _ => false,
        },
        Place::Check(..) => forwarding_unknown(),
        Place::Whole | Place::Pool(..) | Place::PoolAddress(..) => false,
    }
}
