//! The nftables rules that keep the kernel's stack away from what is gyre's, as text.
//!
//! Pure: what is to be guarded goes in, one transaction for `nft -f -` comes out. They are
//! netdev-ingress rules, which run after packet taps, so the workers still see every frame.
//! A port whose kernel interface is a TAP has its lower interface shut altogether; a shared one
//! loses only the services' addresses and ports and the local addresses' port ranges, so ping,
//! SSH and the director's own connections to its servers go on as before.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::IpAddr;

use crate::model::{Ports, Protocol, Snapshot, TrafficMatch};

/// Early: before any rule of the machine's owner (the conventional range starts at -400).
const PRIORITY: i32 = -500;

/// What is gyre's and not the kernel's, on shared ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guarded {
    /// What virtual services take, FTP's data connections included.
    pub services: BTreeSet<TrafficMatch>,
    /// Local addresses with first and last source port.
    pub local: BTreeSet<(IpAddr, u16, u16)>,
    /// NAT servers, whose replies to clients the workers translate; port 0 is every port.
    pub nat: BTreeSet<(Protocol, IpAddr, u16)>,
}

impl Guarded {
    /// All that `snapshot` serves.
    pub fn of(snapshot: &Snapshot) -> Self {
        let data = snapshot.services.iter().flatten().flat_map(|service| service.data_traffic());
        Guarded {
            services: snapshot.traffic.all().iter().copied().chain(data).collect(),
            local: snapshot
                .lips
                .values()
                .map(|lip| {
                    let (first, last) = lip.ports.range();
                    (lip.address, first, last)
                })
                .collect(),
            nat: snapshot.nat_servers.keys().copied().collect(),
        }
    }

    /// What either guards: in force while workers change from one snapshot to the next.
    pub fn union(&self, other: &Guarded) -> Guarded {
        Guarded {
            services: self.services.union(&other.services).copied().collect(),
            local: self.local.union(&other.local).copied().collect(),
            nat: self.nat.union(&other.nat).copied().collect(),
        }
    }
}

/// Interfaces with rules on them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuardedInterfaces {
    /// The kernel hears nothing from these.
    pub shut: Vec<String>,
    /// The kernel hears all but what is guarded from these.
    pub shared: Vec<String>,
}

impl GuardedInterfaces {
    /// Whether no rule is needed.
    pub fn is_empty(&self) -> bool {
        self.shut.is_empty() && self.shared.is_empty()
    }
}

/// The transaction that replaces table `table` by one that guards `guarded` on `interfaces`.
pub fn replace_table(table: &str, interfaces: &GuardedInterfaces, guarded: &Guarded) -> String {
    let mut text = delete_table(table);
    let mut body = String::new();
    for interface in &interfaces.shut {
        chain(&mut body, interface, "drop", "");
    }
    if !interfaces.shared.is_empty() {
        sets(&mut body, guarded);
        let mut rules = SHARED_RULES.to_owned() + &prefix_rules(&guarded.services);
        if !guarded.nat.is_empty() {
            rules.push_str(NAT_RULES);
        }
        for interface in &interfaces.shared {
            chain(&mut body, interface, "accept", &rules);
        }
    }
    // Writing to a String cannot fail, here and below.
    let _ = write!(text, "table netdev {table} {{\n{body}}}\n");
    text
}

/// The transaction that removes table `table`, also when there is none.
pub fn delete_table(table: &str) -> String {
    format!("table netdev {table}\ndelete table netdev {table}\n")
}

const SHARED_RULES: &str = "\
    ip daddr . meta l4proto . th dport @services_v4 drop
    ip6 daddr . meta l4proto . th dport @services_v6 drop
    meta l4proto { tcp, udp } ip daddr . th dport @local_v4 drop
    meta l4proto { tcp, udp } ip6 daddr . th dport @local_v6 drop
";

/// Rules for groups that match whole prefixes: elements of one set must not overlap.
fn prefix_rules(services: &BTreeSet<TrafficMatch>) -> String {
    let wide = services.iter().filter(|one| one.vip().is_none());
    wide.fold(String::new(), |mut rules, one| {
        let family = if one.prefix.address().is_ipv4() { "ip" } else { "ip6" };
        let (protocol, ports) = (one.protocol, in_ports(one.ports.first(), one.ports.last()));
        let _ = writeln!(rules, "    {family} daddr {} {protocol} dport {ports} drop", one.prefix);
        rules
    })
}

/// What a NAT server sends to others than the director: replies, which the kernel would route on
/// untranslated. What it sends to the director, answers to health checks, passes.
const NAT_RULES: &str = "\
    ip saddr . meta l4proto . th sport @nat_v4 fib daddr type != local drop
    ip6 saddr . meta l4proto . th sport @nat_v6 fib daddr type != local drop
";

fn chain(body: &mut String, interface: &str, policy: &str, rules: &str) {
    // A chain's name may not hold all that an interface's may, so it is spelt in hex.
    let name: String = interface.bytes().fold("port_".to_owned(), |mut name, byte| {
        let _ = write!(name, "{byte:02x}");
        name
    });
    let _ = write!(
        body,
        "  chain {name} {{\n    type filter hook ingress device \"{interface}\" priority \
         {PRIORITY}; policy {policy};\n{rules}  }}\n"
    );
}

fn sets(body: &mut String, guarded: &Guarded) {
    for (suffix, family, is_ipv4) in [("v4", "ipv4_addr", true), ("v6", "ipv6_addr", false)] {
        let interval = (". inet_proto ", "    flags interval;\n");
        let hosts = guarded.services.iter().filter_map(|one| Some((one.vip()?, one)));
        let hosts = hosts.filter(|(vip, _)| vip.is_ipv4() == is_ipv4);
        let hosts = hosts.map(|(vip, one)| (vip, one.protocol, one.ports));
        set(body, &format!("services_{suffix}"), family, interval, elements(hosts));
        let local = guarded.local.iter().filter(|(address, ..)| address.is_ipv4() == is_ipv4);
        let local =
            local.map(|(address, first, last)| format!("{address} . {}", in_ports(*first, *last)));
        let interval = ("", "    flags interval;\n");
        set(body, &format!("local_{suffix}"), family, interval, local);
        let nat = guarded.nat.iter().filter(|(_, address, _)| address.is_ipv4() == is_ipv4);
        let nat = nat.map(|(protocol, address, port)| (*address, *protocol, Ports::one(*port)));
        let interval = (". inet_proto ", "    flags interval;\n");
        set(body, &format!("nat_{suffix}"), family, interval, elements(nat));
    }
}

fn in_ports(first: u16, last: u16) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

/// Elements of an interval set. nft refuses elements that overlap, and services may: ranges that
/// touch are put together.
fn elements(
    parts: impl Iterator<Item = (IpAddr, Protocol, Ports)>,
) -> impl Iterator<Item = String> {
    let mut parts: Vec<_> = parts
        .map(|(address, protocol, ports)| (address, protocol, ports.first(), ports.last()))
        .collect();
    parts.sort_unstable();
    parts.dedup_by(|next, kept| {
        let touches = (next.0, next.1) == (kept.0, kept.1) && next.2 <= kept.3.saturating_add(1);
        if touches {
            kept.3 = kept.3.max(next.3);
        }
        touches
    });
    parts.into_iter().map(|(address, protocol, first, last)| {
        format!("{address} . {protocol} . {}", in_ports(first, last))
    })
}

fn set(
    body: &mut String,
    name: &str,
    family: &str,
    (middle, flags): (&str, &str),
    elements: impl Iterator<Item = String>,
) {
    let elements: Vec<String> = elements.collect();
    let _ = write!(body, "  set {name} {{\n    type {family} {middle}. inet_service;\n{flags}");
    if !elements.is_empty() {
        let _ = writeln!(body, "    elements = {{ {} }}", elements.join(", "));
    }
    body.push_str("  }\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ServiceKey;

    fn key(protocol: Protocol, vip: &str, port: u16) -> TrafficMatch {
        ServiceKey::new(protocol, vip.parse().unwrap(), port).as_match().unwrap()
    }

    fn guarded() -> Guarded {
        Guarded {
            services: [
                key(Protocol::Tcp, "192.0.2.80", 80),
                key(Protocol::Udp, "192.0.2.80", 53),
                key(Protocol::Tcp, "2001:db8::80", 443),
            ]
            .into(),
            local: [
                ("192.0.2.8".parse().unwrap(), 1024, 65535),
                ("2001:db8::8".parse().unwrap(), 5, 5),
            ]
            .into(),
            nat: [(Protocol::Tcp, "192.0.2.11".parse().unwrap(), 8080)].into(),
        }
    }

    #[test]
    fn one_transaction_replaces_everything() {
        let interfaces = GuardedInterfaces {
            shut: vec!["eth0".to_owned()],
            shared: vec!["eth1".to_owned(), "eth2.100".to_owned()],
        };
        let text = replace_table("gyre_x", &interfaces, &guarded());
        assert!(text.starts_with("table netdev gyre_x\ndelete table netdev gyre_x\n"), "{text}");
        assert!(text.contains("192.0.2.80 . tcp . 80, 192.0.2.80 . udp . 53"), "{text}");
        assert!(text.contains("elements = { 2001:db8::80 . tcp . 443 }"), "{text}");
        assert!(text.contains("elements = { 192.0.2.8 . 1024-65535 }"), "{text}");
        assert!(text.contains("elements = { 2001:db8::8 . 5 }"), "{text}");
        assert!(text.contains("device \"eth0\" priority -500; policy drop;"), "{text}");
        assert!(text.contains("device \"eth2.100\" priority -500; policy accept;"), "{text}");
        assert_eq!(text.matches("@services_v4 drop").count(), 2);
    }

    #[test]
    fn what_overlaps_is_one_element_and_prefixes_have_rules() {
        let vip = |first, last| {
            let (protocol, vip) = (Protocol::Tcp, "192.0.2.80".parse().unwrap());
            let ports = Ports::range(first, last).unwrap();
            ServiceKey::Address { protocol, vip, ports }.as_match().unwrap()
        };
        let wide =
            |text: &str, one: TrafficMatch| TrafficMatch { prefix: text.parse().unwrap(), ..one };
        let all = key(Protocol::Udp, "192.0.2.80", 0);
        let services = [vip(1000, 2000), vip(1024, 65535), vip(80, 80), vip(81, 81), all];
        let prefixes = [wide("10.0.0.0/8", vip(80, 90)), wide("fd00::/8", vip(5, 5))];
        let nat = [(0, Protocol::Tcp), (21, Protocol::Tcp), (53, Protocol::Udp)];
        let guarded = Guarded {
            services: services.into_iter().chain(prefixes).collect(),
            nat: nat.map(|(port, one)| (one, "192.0.2.11".parse().unwrap(), port)).into(),
            ..Guarded::default()
        };
        let shared = vec!["eth1".to_owned()];
        let interfaces = GuardedInterfaces { shut: Vec::new(), shared };
        let text = replace_table("gyre_x", &interfaces, &guarded);
        let elements = "192.0.2.80 . tcp . 80-81, 192.0.2.80 . tcp . 1000-65535, \
                        192.0.2.80 . udp . 0-65535 }";
        assert!(text.contains(elements), "{text}");
        assert!(text.contains("192.0.2.11 . tcp . 0-65535, 192.0.2.11 . udp . 53 }"), "{text}");
        assert!(text.contains("    ip daddr 10.0.0.0/8 tcp dport 80-90 drop\n"), "{text}");
        assert!(text.contains("    ip6 daddr fd00::/8 tcp dport 5 drop\n"), "{text}");
    }

    #[test]
    fn shut_interfaces_alone_need_no_sets() {
        let interfaces = GuardedInterfaces { shut: vec!["eth0".into()], shared: Vec::new() };
        assert!(!replace_table("gyre_x", &interfaces, &guarded()).contains("set "));
    }

    #[test]
    fn union_guards_what_either_does() {
        let other = Guarded {
            services: [key(Protocol::Tcp, "192.0.2.81", 80)].into(),
            ..Guarded::default()
        };
        let both = guarded().union(&other);
        assert_eq!((both.services.len(), both.local.len()), (4, 2));
    }
}
