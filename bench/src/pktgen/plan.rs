//! From the command line to traffic: defaults filled in, everything checked that can be checked
//! without a port.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use gyre::wire::ethernet::MacAddr;

use super::args::TrafficArgs;
use super::clients::{Clients, HOSTS_DEFAULT};
use super::frame::{Path, Templates, Transport, frame_bytes_min};
use super::schedule::{Distribution, Schedule};
use super::sizes::SizeMix;

/// What the user asked for cannot be: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

impl Usage {
    /// An error of the user's in other words.
    pub fn of(error: impl Display) -> Self {
        Usage(error.to_string())
    }
}

/// Traffic as asked for.
#[derive(Clone, Debug)]
pub struct TrafficPlan {
    /// Where it goes.
    pub service: SocketAddr,
    /// UDP or TCP.
    pub transport: Transport,
    /// Where it comes from.
    pub clients: Clients,
    /// Sizes to go through.
    pub sizes: Vec<SizeMix>,
    /// How frames fall on flows.
    pub distribution: Distribution,
    /// Of every random choice.
    pub seed: u64,
}

/// Benchmark addresses unless told, by family.
struct Defaults {
    service: SocketAddr,
    first: IpAddr,
    own: IpAddr,
}

fn defaults(is_ipv6: bool) -> Defaults {
    let (service, first, own): (IpAddr, IpAddr, IpAddr) = if is_ipv6 {
        let host = |net: u16, host: u16| IpAddr::from([0x2001, 2, 0, net, 0, 0, 0, host]);
        (host(0x8000, 1), host(0, 2), host(0, 1))
    } else {
        ([198, 19, 0, 1].into(), [198, 18, 0, 2].into(), [198, 18, 0, 1].into())
    };
    Defaults { service: SocketAddr::new(service, 80), first, own }
}

/// The generator's own address unless told.
pub fn own_address(service: SocketAddr) -> IpAddr {
    defaults(service.is_ipv6()).own
}

impl TrafficPlan {
    /// Works out and checks what `args` ask for.
    pub fn new(args: &TrafficArgs) -> Result<Self, Usage> {
        let is_ipv6 = args.to.map_or(args.ipv6, |to| to.is_ipv6());
        let default = defaults(is_ipv6);
        let service = args.to.unwrap_or(default.service);
        if args.ipv6 && service.is_ipv4() {
            return Err(Usage(format!("--ipv6, but --to {service} is IPv4; drop one of them")));
        }
        let first = args.from.unwrap_or(default.first);
        if first.is_ipv4() != service.is_ipv4() {
            return Err(Usage(format!(
                "--from {first} and --to {service} are of two families; give both of one"
            )));
        }
        let hosts = args.hosts.unwrap_or(HOSTS_DEFAULT.min(args.flows.max(1)));
        let clients = Clients::new(first, hosts, args.first_port, args.flows).map_err(Usage::of)?;
        if clients.has_address(service.ip()) {
            let (first, last) = (clients.first(), clients.last());
            return Err(Usage(format!(
                "--to {service} lies among the clients' addresses {first} to {last}; move --from"
            )));
        }
        let least = frame_bytes_min(service, args.protocol);
        let sizes = args.size.as_ref().map_or(vec![SizeMix::one(least)], |list| list.0.clone());
        let sizes: Vec<SizeMix> = sizes.into_iter().map(|mix| mix.raised(least)).collect();
        let plan = TrafficPlan {
            service,
            transport: args.protocol,
            clients,
            sizes,
            distribution: args.distribution,
            seed: args.seed,
        };
        // Sizes are the user's mistake, so found before a port is opened.
        for mix in &plan.sizes {
            plan.templates(MacAddr::ZERO, MacAddr::ZERO, mix)?;
        }
        Ok(plan)
    }

    /// The one size there is to be.
    pub fn single_size(&self) -> Result<&SizeMix, Usage> {
        match self.sizes.as_slice() {
            [one] => Ok(one),
            several => Err(Usage(format!(
                "{} frame sizes in --size, but this writes or sends one; choose one (a mix such \
                 as 64:7+594:4 or imix counts as one)",
                several.len()
            ))),
        }
    }

    /// The largest frame in bytes, FCS included.
    pub fn largest_bytes(&self) -> u16 {
        self.sizes.iter().map(SizeMix::largest_bytes).max().unwrap_or(0)
    }

    /// Draws which flow each frame belongs to.
    pub fn schedule(&self) -> Arc<Schedule> {
        Arc::new(Schedule::draw(self.clients.flows(), self.distribution, self.seed))
    }

    /// What a frame says besides its client.
    pub fn path(&self, src_mac: MacAddr, dst_mac: MacAddr) -> Path {
        Path { src_mac, dst_mac, service: self.service, transport: self.transport }
    }

    /// Templates between two stations.
    pub fn templates(
        &self,
        src_mac: MacAddr,
        dst_mac: MacAddr,
        mix: &SizeMix,
    ) -> Result<Arc<Templates>, Usage> {
        let path = self.path(src_mac, dst_mac);
        Templates::new(&path, mix).map(Arc::new).map_err(Usage::of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Args, Command};
    use clap::Parser;

    fn plan(arguments: &str) -> Result<TrafficPlan, String> {
        let words = ["gyre-pktgen", "write"].into_iter().chain(arguments.split_whitespace());
        match Args::try_parse_from(words).map_err(|error| error.to_string())?.command {
            Command::Write(write) => {
                TrafficPlan::new(&write.traffic).map_err(|usage| usage.to_string())
            }
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn benchmark_addresses_unless_told() {
        let plan4 = plan("--flows 1000").unwrap();
        assert_eq!(plan4.service.to_string(), "198.19.0.1:80");
        assert_eq!(plan4.clients.first().to_string(), "198.18.0.2");
        assert_eq!(plan4.clients.hosts(), 254);
        let plan6 = plan("--ipv6 --protocol tcp --size imix").unwrap();
        assert_eq!(plan6.service.to_string(), "[2001:2:0:8000::1]:80");
        assert_eq!(plan6.sizes[0].sizes(), [96, 594, 1518]);
        let told = plan("--to 192.0.2.9:443 --from 10.0.0.1").unwrap();
        assert_eq!(told.clients.first().to_string(), "10.0.0.1");
    }

    #[test]
    fn contradictions_are_told_with_the_way_out() {
        for (arguments, words) in [
            ("--ipv6 --to 192.0.2.1:80", "drop one"),
            ("--from 2001:2::5", "two families"),
            ("--to 198.18.0.5:80 --flows 1000", "move --from"),
            ("--size 64 --protocol tcp", "76 bytes at least"),
            ("--flows 17000000", "1 to 16777216"),
            ("--flows 1000000 --hosts 3", "raise --hosts to 16"),
            ("--to nowhere", "invalid socket address"),
            ("--size 12", "64 to 9018"),
        ] {
            let error = plan(arguments).unwrap_err();
            assert!(error.contains(words), "{arguments}: {error}");
        }
    }
}
