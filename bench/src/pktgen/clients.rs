//! The clients that traffic comes from: a flow's number to its address and port, and back.
//!
//! Pure arithmetic, so that a million flows take no memory. Addresses go round first, then ports.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::schedule::FLOWS_MAX;

/// The first source port; the ones below are the system's.
pub const FIRST_PORT_DEFAULT: u16 = 1024;
/// Client addresses unless told.
pub const HOSTS_DEFAULT: u32 = 254;

/// What can be wrong with the clients asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientsError {
    /// More flows than address and port pairs.
    #[error(
        "{flows} flows do not fit {hosts} client addresses with ports {first_port} to 65535 \
         ({room} pairs); raise --hosts to {wanted}"
    )]
    TooFewHosts {
        /// Asked for.
        flows: u32,
        /// Addresses.
        hosts: u32,
        /// First port of each.
        first_port: u16,
        /// How many pairs there are.
        room: u64,
        /// Addresses that would do.
        wanted: u64,
    },
    /// Out of bounds.
    #[error("{0} flows asked for; --flows takes 1 to {FLOWS_MAX}")]
    Flows(u32),
    /// Leaves the addresses set aside for benchmarks, or the end of all addresses.
    #[error(
        "{hosts} client addresses from {first} end at {last}, outside {range}; lower --hosts or \
         move --from"
    )]
    LeavesRange {
        /// First address.
        first: IpAddr,
        /// Last address.
        last: String,
        /// How many.
        hosts: u32,
        /// What they should stay within.
        range: &'static str,
    },
    /// No client at all.
    #[error("--hosts takes 1 or more")]
    NoHosts,
}

/// One client: an address's bits (an IPv4 one in the low 32) and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// The address.
    pub address: u128,
    /// The source port.
    pub src_port: u16,
}

/// All clients of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clients {
    first: IpAddr,
    base: u128,
    hosts: u32,
    first_port: u16,
    flows: u32,
}

impl Clients {
    /// `flows` flows from `hosts` addresses that start at `first`.
    pub fn new(
        first: IpAddr,
        hosts: u32,
        first_port: u16,
        flows: u32,
    ) -> Result<Self, ClientsError> {
        if flows == 0 || flows > FLOWS_MAX {
            return Err(ClientsError::Flows(flows));
        }
        if hosts == 0 {
            return Err(ClientsError::NoHosts);
        }
        let ports = u64::from(u16::MAX - first_port) + 1;
        let room = u64::from(hosts) * ports;
        if room < u64::from(flows) {
            let wanted = u64::from(flows).div_ceil(ports);
            return Err(ClientsError::TooFewHosts { flows, hosts, first_port, room, wanted });
        }
        check_range(first, hosts)?;
        Ok(Clients { first, base: bits(first), hosts, first_port, flows })
    }

    /// How many flows there are.
    pub fn flows(&self) -> u32 {
        self.flows
    }

    /// The first client's address.
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// How many addresses there are.
    pub fn hosts(&self) -> u32 {
        self.hosts.min(self.flows)
    }

    /// First and last source port in use.
    pub fn ports(&self) -> (u16, u16) {
        (self.first_port, self.first_port + ((self.flows - 1) / self.hosts) as u16)
    }

    /// The last client's address.
    pub fn last(&self) -> IpAddr {
        address(self.first, self.base + u128::from(self.hosts() - 1))
    }

    /// Who sends flow `flow`, one below [`Clients::flows`].
    pub fn client(&self, flow: u32) -> Client {
        Client {
            address: self.base + u128::from(flow % self.hosts),
            src_port: self.first_port + (flow / self.hosts) as u16,
        }
    }

    /// The flow of a client, `None` when it is none of ours.
    pub fn flow(&self, address: u128, src_port: u16) -> Option<u32> {
        let host = address.checked_sub(self.base).filter(|host| *host < u128::from(self.hosts))?;
        let round = u32::from(src_port.checked_sub(self.first_port)?);
        let flow = round.checked_mul(self.hosts)?.checked_add(host as u32)?;
        (flow < self.flows).then_some(flow)
    }

    /// Whether an address is a client's.
    pub fn has_address(&self, address: IpAddr) -> bool {
        let inside = |host: u128| host < u128::from(self.hosts);
        address.is_ipv4() == self.first.is_ipv4()
            && bits(address).checked_sub(self.base).is_some_and(inside)
    }
}

/// An address's bits; IPv4 in the low 32.
pub fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The address of `bits` in the family of `like`.
pub fn address(like: IpAddr, bits: u128) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::from_bits(bits as u32).into(),
        IpAddr::V6(_) => Ipv6Addr::from_bits(bits).into(),
    }
}

/// Whether the address is set aside for benchmarks: 198.18.0.0/15 (RFC 2544) or 2001:2::/48
/// (RFC 5180).
pub fn is_benchmark(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.to_bits() >> 17 == Ipv4Addr::new(198, 18, 0, 0).to_bits() >> 17,
        IpAddr::V6(v6) => v6.segments()[..3] == [0x2001, 2, 0],
    }
}

fn check_range(first: IpAddr, hosts: u32) -> Result<(), ClientsError> {
    let last = bits(first).checked_add(u128::from(hosts - 1));
    let space = if first.is_ipv4() { u128::from(u32::MAX) } else { u128::MAX };
    let Some(last) = last.filter(|last| *last <= space) else {
        let (last, range) = ("beyond the last address".to_owned(), "all addresses");
        return Err(ClientsError::LeavesRange { first, last, hosts, range });
    };
    let last = address(first, last);
    if is_benchmark(first) && !is_benchmark(last) {
        let range = if first.is_ipv4() { "198.18.0.0/15" } else { "2001:2::/48" };
        return Err(ClientsError::LeavesRange { first, last: last.to_string(), hosts, range });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first4() -> IpAddr {
        [198, 18, 0, 2].into()
    }

    #[test]
    fn flows_and_clients_are_one_to_one() {
        let clients = Clients::new(first4(), 7, 60_000, 30_000).unwrap();
        for flow in 0..30_000 {
            let client = clients.client(flow);
            assert_eq!(clients.flow(client.address, client.src_port), Some(flow));
        }
        assert_eq!(clients.ports(), (60_000, 64_285));
        let last = clients.client(29_999);
        assert_eq!(clients.flow(last.address + 1, last.src_port), None, "the next is nobody's");
        assert_eq!(clients.flow(bits(first4()) - 1, 60_000), None);
        assert_eq!(clients.flow(bits(first4()) + 7, 60_000), None);
        assert_eq!(clients.flow(bits(first4()), 59_999), None);
        assert!(clients.has_address([198, 18, 0, 8].into()));
        assert!(!clients.has_address([198, 18, 0, 9].into()));
    }

    #[test]
    fn what_does_not_fit_says_what_would() {
        let error = Clients::new(first4(), 1, 1024, 1 << 20).unwrap_err().to_string();
        assert!(error.contains("raise --hosts to 17"), "{error}");
        let error = Clients::new(first4(), 1 << 17, 1024, 1).unwrap_err().to_string();
        assert!(error.contains("outside 198.18.0.0/15"), "{error}");
        let top = IpAddr::from([255, 255, 255, 254]);
        assert!(matches!(Clients::new(top, 3, 1024, 1), Err(ClientsError::LeavesRange { .. })));
        assert_eq!(Clients::new(first4(), 1, 1024, 0), Err(ClientsError::Flows(0)));
        assert_eq!(Clients::new(first4(), 0, 1024, 1), Err(ClientsError::NoHosts));
    }

    #[test]
    fn benchmark_addresses_are_those_of_the_rfcs() {
        for (text, is) in [
            ("198.17.255.255", false),
            ("198.18.0.0", true),
            ("198.19.255.255", true),
            ("198.20.0.0", false),
            ("2001:2::1", true),
            ("2001:2:0:8000::1", true),
            ("2001:2:1::", false),
        ] {
            assert_eq!(is_benchmark(text.parse().unwrap()), is, "{text}");
        }
        let clients = Clients::new("2001:2::2".parse().unwrap(), 300, 1024, 1000).unwrap();
        assert_eq!(clients.last().to_string(), "2001:2::12d");
    }
}
