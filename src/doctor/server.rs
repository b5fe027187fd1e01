//! What a real server needs for DR and TUN: the commands, and whether what the server shows of
//! itself is as they would make it. Asking the server is the caller's business.

use std::net::IpAddr;

use super::Finding;
use crate::config::{Config, Forwarding, Protocol, Server, Service, Tunnel};
use crate::model::GUE_PORT_DEFAULT;

/// Prints what `judge` reads; changes nothing. For `sh` on the real server.
pub const PROBE: &str = "\
ip -o addr show | sed 's/^/addr /'
ip -o link show up | sed 's/^/link /'
for key in all/arp_ignore all/arp_announce all/rp_filter tunl0/rp_filter gre0/rp_filter; do
    value=$(cat /proc/sys/net/ipv4/conf/$key 2>/dev/null) && echo \"sysctl $key $value\"
done
ss -Hltn 2>/dev/null | sed 's/^/tcp /'
ss -Hlun 2>/dev/null | sed 's/^/udp /'
echo end
";

const VIP: &str = "vip";

/// What one VIP asks of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    vip: IpAddr,
    protocol: Protocol,
    /// The VIP's port, where the service has a single one.
    port: Option<u16>,
    /// How packets come; none for DR.
    tunnel: Option<(Tunnel, u16)>,
    server: IpAddr,
}

/// All that DR and TUN services ask of the server at `address`.
pub fn demands(config: &Config, address: IpAddr) -> Vec<Demand> {
    let of_service = |service: &Service| -> Vec<Demand> {
        let server = service.server.iter().find(|server| server.address.address == address);
        let Some(server) = server else { return Vec::new() };
        let tunnel = match server.forwarding.unwrap_or(service.forwarding) {
            Forwarding::Dr => None,
            Forwarding::Tun => Some((server.tunnel.unwrap_or_default(), tunnel_port(server))),
            Forwarding::FullNat | Forwarding::Nat | Forwarding::Local => return Vec::new(),
        };
        let own = service.address.map(|it| (service.protocol, it.vip, it.ports));
        let group = service
            .r#match
            .iter()
            .map(|it| (it.protocol, it.address.prefix.address(), it.address.ports));
        let demand = |(protocol, vip, ports): (Protocol, IpAddr, crate::model::Ports)| {
            let port = Some(ports.first()).filter(|port| *port == ports.last() && *port != 0);
            Demand { vip, protocol, port, tunnel, server: address }
        };
        own.into_iter().chain(group).map(demand).collect()
    };
    let mut demands: Vec<Demand> = config.service.iter().flat_map(of_service).collect();
    demands.dedup();
    demands
}

fn tunnel_port(server: &Server) -> u16 {
    server.tunnel_port.unwrap_or(GUE_PORT_DEFAULT)
}

impl Demand {
    /// The interface that the VIP belongs on.
    fn interface(&self) -> &'static str {
        match (self.tunnel, self.server) {
            (None, _) => "lo",
            (Some((Tunnel::Gre, _)), IpAddr::V4(_)) => "gre0",
            (Some((Tunnel::Gre, _)), IpAddr::V6(_)) => "ip6gre0",
            (Some(_), IpAddr::V4(_)) => "tunl0",
            (Some(_), IpAddr::V6(_)) => "ip6tnl0",
        }
    }

    /// The VIP as an address of its own, of no network.
    fn host(&self) -> String {
        format!("{}/{}", self.vip, if self.vip.is_ipv4() { 32 } else { 128 })
    }

    /// The commands to run on the server, in this order: silence about the VIP comes before it.
    pub fn commands(&self) -> Vec<String> {
        let mut commands = Vec::new();
        let interface = self.interface();
        if self.vip.is_ipv4() {
            commands.push("sysctl -w net.ipv4.conf.all.arp_ignore=1".to_owned());
            commands.push("sysctl -w net.ipv4.conf.all.arp_announce=2".to_owned());
        }
        if let Some((tunnel, port)) = self.tunnel {
            let module = match interface {
                "gre0" => "ip_gre",
                "ip6gre0" => "ip6_gre",
                "ip6tnl0" => "ip6_tunnel",
                _ => "ipip",
            };
            commands.push(format!("modprobe {module}"));
            if tunnel == Tunnel::Gue {
                commands.push("modprobe fou".to_owned());
                commands.push(format!("ip fou add port {port} gue"));
            }
            commands.push(format!("ip link set {interface} up"));
            if self.vip.is_ipv4() {
                commands.push("sysctl -w net.ipv4.conf.all.rp_filter=0".to_owned());
                commands.push(format!("sysctl -w net.ipv4.conf.{interface}.rp_filter=0"));
            }
        }
        let quiet = if self.vip.is_ipv4() { "" } else { " nodad" };
        commands.push(format!("ip addr add {} dev {interface}{quiet}", self.host()));
        commands
    }
}

/// Compares what `PROBE` printed on the server with what is asked of it.
pub fn judge(demands: &[Demand], shown: &str) -> Vec<Finding> {
    if !shown.lines().any(|line| line == "end") {
        let remedy = "run it there by hand: `ip addr`, `sysctl -a | grep -E 'arp_|rp_filter'`";
        let evidence = "the server did not show its state to the end".to_owned();
        return vec![Finding::error("server", evidence, remedy.to_owned())];
    }
    let mut findings = Vec::new();
    for demand in demands {
        for finding in judge_one(demand, shown) {
            if !findings.contains(&finding) {
                findings.push(finding);
            }
        }
    }
    findings
}

fn judge_one(demand: &Demand, shown: &str) -> Vec<Finding> {
    let mut findings = addresses(demand, shown);
    if demand.vip.is_ipv4() {
        findings.push(sysctl(shown, "all/arp_ignore", |value| value >= 1, 1));
        findings.push(sysctl(shown, "all/arp_announce", |value| value == 2, 2));
    }
    if demand.tunnel.is_some() {
        findings.push(link(demand, shown));
        if demand.vip.is_ipv4() {
            // The larger of the two counts; 2 looks only whether the source has any route.
            let key = format!("{}/rp_filter", demand.interface());
            findings.push(sysctl(shown, "all/rp_filter", |value| value != 1, 0));
            findings.push(sysctl(shown, &key, |value| value != 1, 0));
        }
    }
    findings.extend(listener(demand, shown));
    findings
}

/// `addr 1: lo    inet 192.0.2.80/32 scope global lo\ ...`
fn addresses(demand: &Demand, shown: &str) -> Vec<Finding> {
    let rows = shown.lines().filter_map(|line| line.strip_prefix("addr "));
    let found = rows.filter_map(|row| {
        let mut words = row.split_whitespace();
        let (interface, address) = (words.nth(1)?, words.nth(1)?);
        let (ip, bits) = address.split_once('/').unwrap_or((address, ""));
        (ip.parse() == Ok(demand.vip)).then_some((interface, bits))
    });
    let findings: Vec<Finding> =
        found.map(|(interface, bits)| address(demand, interface, bits)).collect();
    if findings.is_empty() {
        let evidence =
            format!("{} is not an address of the server: it drops what it is sent", demand.vip);
        let add = demand.commands().pop().unwrap_or_default();
        return vec![Finding::error(VIP, evidence, format!("`{add}`"))];
    }
    findings
}

/// The VIP on one of the server's interfaces.
fn address(demand: &Demand, interface: &str, bits: &str) -> Finding {
    let (vip, wanted, host) = (demand.vip, demand.interface(), demand.host());
    let add = demand.commands().pop().unwrap_or_default();
    if interface != "lo" && interface != wanted {
        let evidence = format!("{vip} is on {interface}: the server answers ARP for it there");
        let remedy = format!("`ip addr del {vip}/{bits} dev {interface}`, `{add}`");
        return Finding::error(VIP, evidence, remedy);
    }
    if !host.ends_with(&format!("/{bits}")) {
        let evidence = format!("{vip}/{bits} on {interface}: the whole network seems local there");
        let remedy = format!("`ip addr del {vip}/{bits} dev {interface}`, `{add}`");
        return Finding::warning(VIP, evidence, remedy);
    }
    Finding::ok(VIP, format!("{host} on {interface}"))
}

fn sysctl(shown: &str, key: &str, is_good: fn(i64) -> bool, wanted: i64) -> Finding {
    let (interface, name) = key.split_once('/').unwrap_or(("all", key));
    let check = match name {
        "arp_ignore" => "arp_ignore",
        "arp_announce" => "arp_announce",
        _ => "rp_filter",
    };
    let line = format!("sysctl {key} ");
    let value = shown.lines().find_map(|text| text.strip_prefix(&line));
    let remedy = format!("`sysctl -w net.ipv4.conf.{interface}.{name}={wanted}`");
    match value.and_then(|text| text.trim().parse::<i64>().ok()) {
        Some(value) if is_good(value) => Finding::ok(check, format!("{interface}: {value}")),
        Some(value) => Finding::error(check, format!("{interface}: {value}"), remedy),
        None => Finding::error(check, format!("{interface}: there is none"), remedy),
    }
}

/// `link 2: tunl0@NONE: <NOARP,UP,LOWER_UP> ...`
fn link(demand: &Demand, shown: &str) -> Finding {
    const TUNNEL: &str = "tunnel";
    let wanted = demand.interface();
    let rows = shown.lines().filter_map(|line| line.strip_prefix("link "));
    let mut names = rows.filter_map(|row| row.split_whitespace().nth(1));
    if names.any(|name| name.trim_end_matches(':').split('@').next() == Some(wanted)) {
        return Finding::ok(TUNNEL, format!("{wanted} is up"));
    }
    let commands = demand.commands();
    let needed = commands
        .iter()
        .filter(|it| ["modprobe", "ip fou", "ip link"].iter().any(|start| it.starts_with(start)));
    let remedy: Vec<String> = needed.map(|command| format!("`{command}`")).collect();
    Finding::error(TUNNEL, format!("{wanted} is not up"), remedy.join(", "))
}

/// `tcp LISTEN 0 511 0.0.0.0:80 0.0.0.0:*`
fn listener(demand: &Demand, shown: &str) -> Option<Finding> {
    const LISTENER: &str = "listener";
    let (port, vip) = (demand.port?, demand.vip);
    let protocol = if demand.protocol == Protocol::Tcp { "tcp" } else { "udp" };
    let start = format!("{protocol} ");
    let mut sockets = shown.lines().filter_map(|line| {
        let (address, found) =
            line.strip_prefix(&start)?.split_whitespace().nth(3)?.rsplit_once(':')?;
        (found.parse() == Ok(port)).then(|| address.trim_matches(['[', ']']).to_owned())
    });
    // `::` takes IPv4 too, unless it was told not to.
    let takes = |address: &String| {
        address == "*" || address == "::" || address == "0.0.0.0" || address.parse() == Ok(vip)
    };
    if sockets.any(|address| takes(&address)) {
        return Some(Finding::ok(LISTENER, format!("{protocol} port {port}")));
    }
    let evidence = format!("nothing listens on {protocol} port {port} of {vip}");
    let remedy = format!("have the server's program listen on {vip} or on all addresses");
    Some(Finding::error(LISTENER, evidence, remedy))
}

#[cfg(test)]
mod tests {
    use super::super::{Severity, tests::with_services, worst};
    use super::*;

    fn demands_of(forwarding: &str, vip: &str, server: &str, more: &str) -> Vec<Demand> {
        let services = format!(
            "[[service]]\naddress = \"{vip}\"\nforwarding = \"{forwarding}\"\n\
             [[service.server]]\naddress = \"{server}\"\n{more}\n"
        );
        let subject = with_services("device = \"net_null0\"", "", &services);
        demands(&subject.config.unwrap(), server.parse().unwrap())
    }

    #[test]
    fn commands_silence_the_vip_before_they_add_it() {
        let dr = demands_of("dr", "192.0.2.80:80", "192.0.2.11", "").remove(0).commands();
        assert_eq!(
            dr,
            [
                "sysctl -w net.ipv4.conf.all.arp_ignore=1",
                "sysctl -w net.ipv4.conf.all.arp_announce=2",
                "ip addr add 192.0.2.80/32 dev lo"
            ]
        );
        let tun = demands_of("tun", "192.0.2.80:80", "198.51.100.1", "").remove(0).commands();
        for command in [
            "modprobe ipip",
            "ip link set tunl0 up",
            "sysctl -w net.ipv4.conf.tunl0.rp_filter=0",
            "ip addr add 192.0.2.80/32 dev tunl0",
        ] {
            assert!(tun.iter().any(|found| found == command), "no {command} in {tun:?}");
        }
        for (port, told) in [("", "6080"), ("tunnel_port = 5555", "5555")] {
            let gue = format!("tunnel = \"gue\"\n{port}");
            let gue = demands_of("tun", "192.0.2.80:80", "198.51.100.1", &gue).remove(0).commands();
            assert!(gue.contains(&format!("ip fou add port {told} gue")), "{gue:?}");
        }
        let v6 = demands_of("dr", "[2001:db8::80]:80", "2001:db8::11", "").remove(0).commands();
        assert_eq!(v6, ["ip addr add 2001:db8::80/128 dev lo nodad"]);
        assert_eq!(demands_of("nat", "192.0.2.80:80", "10.0.0.1", ""), []);
    }

    const GOOD: &str = "addr 1: lo    inet 127.0.0.1/8 scope host lo\\  valid\n\
        addr 1: lo    inet 192.0.2.80/32 scope global lo\\  valid\n\
        addr 2: eth0    inet 192.0.2.11/24 brd 192.0.2.255 scope global eth0\\  valid\n\
        link 1: lo: <LOOPBACK,UP,LOWER_UP> mtu 65536\n\
        sysctl all/arp_ignore 1\nsysctl all/arp_announce 2\nsysctl all/rp_filter 0\n\
        tcp LISTEN 0      511          0.0.0.0:80        0.0.0.0:*\nend\n";

    #[test]
    fn a_dr_server_is_judged_by_what_it_shows() {
        let demands = demands_of("dr", "192.0.2.80:80", "192.0.2.11", "");
        let judge = |shown: &str| judge(&demands, shown);
        assert_eq!(worst(&judge(GOOD)), Severity::Ok, "{:?}", judge(GOOD));
        let faults = [
            ("192.0.2.80/32 scope global lo", "192.0.2.81/32 scope global lo", "not an address"),
            ("192.0.2.80/32", "192.0.2.80/24", "whole network"),
            ("lo    inet 192.0.2.80", "eth0    inet 192.0.2.80", "answers ARP"),
            ("arp_ignore 1", "arp_ignore 0", "all: 0"),
            ("arp_announce 2", "arp_announce 0", "all: 0"),
            ("0.0.0.0:80 ", "192.0.2.11:80 ", "nothing listens"),
            ("end\n", "", "to the end"),
        ];
        for (good, bad, told) in faults {
            let found = judge(&GOOD.replace(good, bad));
            let wrong = found.iter().filter(|finding| finding.severity > Severity::Ok);
            let wrong: Vec<&Finding> = wrong.collect();
            assert_eq!(wrong.len(), 1, "{bad}: {found:?}");
            assert!(wrong[0].evidence.contains(told), "{bad}: {wrong:?}");
            assert!(wrong[0].remedy.is_some());
        }
        // Beside the right one, where it is harmless.
        let twice = "addr 2: eth0    inet 192.0.2.80/24 scope global eth0\\  valid\nend\n";
        let found = judge(&GOOD.replace("end\n", twice));
        assert_eq!(worst(&found), Severity::Error, "{found:?}");
        let remedy = found.iter().find_map(|finding| finding.remedy.clone()).unwrap();
        assert!(remedy.starts_with("`ip addr del 192.0.2.80/24 dev eth0`"), "{remedy}");
    }

    #[test]
    fn a_tun_server_needs_its_tunnel_and_no_reverse_path_filter() {
        let demands = demands_of("tun", "192.0.2.80:80", "198.51.100.1", "");
        let tunl0 = GOOD.replace("lo    inet 192.0.2.80", "tunl0    inet 192.0.2.80");
        let up = tunl0.replace(
            "end\n",
            "link 5: tunl0@NONE: <NOARP,UP,LOWER_UP> mtu 1480\nsysctl tunl0/rp_filter 0\nend\n",
        );
        assert_eq!(worst(&judge(&demands, &up)), Severity::Ok, "{:?}", judge(&demands, &up));
        let all = format!("{:?}", judge(&demands, &tunl0));
        assert!(all.contains("tunl0 is not up") && all.contains("`modprobe ipip`"), "{all}");
        let strict = up.replace("tunl0/rp_filter 0", "tunl0/rp_filter 1");
        assert_eq!(worst(&judge(&demands, &strict)), Severity::Error);
    }
}
