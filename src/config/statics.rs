//! Static neighbours and routes as next hops take them.

use std::net::IpAddr;

use super::types::{Config, Port};
use crate::model::next_hops::{StaticNeighbour, StaticRoute};
use crate::model::{NicId, Prefix};

impl Config {
    /// A port's slot: its position.
    pub fn nic(&self, name: &str) -> Option<NicId> {
        self.nics().find(|(_, port)| port.name == name).map(|(id, _)| id)
    }

    /// The neighbours.
    pub fn static_neighbours(&self) -> Vec<StaticNeighbour> {
        let neighbours = self.neighbour.iter().filter_map(|written| {
            let (address, mac) = (written.address, written.mac.0);
            Some(StaticNeighbour { nic: self.nic(&written.port)?, address, mac })
        });
        neighbours.collect()
    }

    /// The routes, behind the own prefixes of the ports that are `connected` by nothing else: in
    /// `replay` all, beside a kernel those without an interface.
    pub fn static_routes(&self, connected: impl Fn(&Port) -> bool) -> Vec<StaticRoute> {
        let ports = self.nics().filter(|(_, port)| connected(port));
        let own = ports.flat_map(|(nic, port)| {
            let prefixes = port.addresses.iter().filter_map(|a| Prefix::new(a.address, a.bits));
            prefixes.map(move |prefix| StaticRoute { prefix, nic, gateway: None })
        });
        let written = self.route.iter().filter_map(|route| {
            let nic = match (&route.port, route.via) {
                (Some(port), _) => self.nic(port)?,
                (None, via) => self.towards(via?)?,
            };
            Some(StaticRoute { prefix: route.prefix.0, nic, gateway: route.via })
        });
        own.chain(written).collect()
    }

    /// The port that a router is behind: where it is a static neighbour, else where a port's own
    /// prefix holds it.
    pub(super) fn towards(&self, router: IpAddr) -> Option<NicId> {
        if let Some(neighbour) = self.neighbour.iter().find(|n| n.address == router) {
            return self.nic(&neighbour.port);
        }
        let own = self.nics().flat_map(|(nic, port)| {
            let prefixes = port.addresses.iter().filter_map(|a| Prefix::new(a.address, a.bits));
            prefixes.map(move |prefix| (nic, prefix))
        });
        own.filter(|(_, prefix)| prefix.contains(router))
            .max_by_key(|(_, prefix)| prefix.bits())
            .map(|(nic, _)| nic)
    }

    fn nics(&self) -> impl Iterator<Item = (NicId, &Port)> {
        (0u8..).map(NicId).zip(&self.port)
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;
    use crate::model::NicId;

    #[test]
    fn a_router_is_behind_its_neighbour_entry_or_a_ports_prefix() {
        let text = r#"
            port = [
                { name = "wan", device = "net_null0", addresses = ["192.0.2.2/24"] },
                { name = "lan", device = "net_null1", addresses = ["10.0.0.1/8"] },
            ]
            neighbour = [{ address = "192.0.2.9", mac = "02:00:00:00:00:09", port = "lan" }]
            route = [
                { prefix = "0.0.0.0/0", via = "192.0.2.1" },
                { prefix = "203.0.113.0/24", via = "192.0.2.9" },
                { prefix = "198.51.100.0/24", port = "lan" },
            ]
        "#;
        let config = Config::parse_toml(text).unwrap();
        let routes = config.static_routes(|port| port.name == "wan");
        let shown: Vec<_> = routes
            .iter()
            .map(|route| (route.prefix.to_string(), route.nic, route.gateway.is_some()))
            .collect();
        assert_eq!(
            shown,
            [
                ("192.0.2.0/24".into(), NicId(0), false),
                ("0.0.0.0/0".into(), NicId(0), true),
                ("203.0.113.0/24".into(), NicId(1), true),
                ("198.51.100.0/24".into(), NicId(1), false),
            ]
        );
        assert_eq!(config.static_neighbours()[0].nic, NicId(1));
    }

    #[test]
    fn a_router_that_no_port_leads_to_is_a_problem() {
        let text = r#"
            port = [{ name = "wan", device = "net_null0", addresses = ["192.0.2.2/24"] }]
            route = [{ prefix = "0.0.0.0/0", via = "198.51.100.1" }]
        "#;
        let problems = Config::parse_toml(text).unwrap_err();
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].path, "route[0].via");
        assert!(problems[0].message.contains("198.51.100.1"), "{problems:?}");
    }
}
