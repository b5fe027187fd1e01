//! Values that are written as text: addresses with ports or lengths, prefixes, MAC addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::model::{Ports, Prefix};

/// Makes a type serialize as its `Display` and deserialize by its `FromStr`.
macro_rules! as_text {
    ($name:ty) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(super) use as_text;

as_text!(Endpoint);
as_text!(ServiceAddress);
as_text!(Listen);
as_text!(MatchAddress);
as_text!(InterfaceAddress);
as_text!(ClientPrefix);
as_text!(Mac);

/// A server's address, with its port unless that is the service's: `10.2.0.11`, `10.2.0.11:80`,
/// `2001:db8::11`, `[2001:db8::11]:80`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Address.
    pub address: IpAddr,
    /// Port; `None` is the service's.
    pub port: Option<u16>,
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(Endpoint { address, port: None });
        }
        let whole: SocketAddr =
            text.parse().map_err(|_| format!("`{text}` is no address, with or without a port"))?;
        Ok(Endpoint { address: whole.ip(), port: Some(whole.port()) })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.address, port).fmt(f),
            None => self.address.fmt(f),
        }
    }
}

/// The part of `text` before its last colon, and the ports behind it.
fn with_ports(text: &str) -> Option<(&str, Ports)> {
    let (address, ports) = text.rsplit_once(':')?;
    Some((address, ports.parse().ok()?))
}

/// `2001:db8::80` out of `[2001:db8::80]`.
fn unbracketed(text: &str) -> Option<&str> {
    text.strip_prefix('[')?.strip_suffix(']')
}

/// Where a listener waits: `127.0.0.1:9580`, `[::1]:9580`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Listen(pub SocketAddr);

impl Default for Listen {
    fn default() -> Self {
        Listen(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9580))
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Listen).map_err(|_| format!("`{text}` is no address with a port"))
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A virtual address with its ports: `192.0.2.80:80`, `192.0.2.80:8000-8010`, and with port 0, for
/// all, `[2001:db8::80]:0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ServiceAddress {
    /// The VIP.
    pub vip: IpAddr,
    /// Its ports.
    pub ports: Ports,
}

impl FromStr for ServiceAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (address, ports) = with_ports(text)?;
            let vip = match unbracketed(address) {
                Some(v6) => IpAddr::V6(v6.parse().ok()?),
                None => IpAddr::V4(address.parse().ok()?),
            };
            Some(ServiceAddress { vip, ports })
        };
        parse().ok_or_else(|| format!("`{text}` is no address with a port"))
    }
}

impl fmt::Display for ServiceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.vip {
            IpAddr::V4(vip) => write!(f, "{vip}:{}", self.ports),
            IpAddr::V6(vip) => write!(f, "[{vip}]:{}", self.ports),
        }
    }
}

/// What a group takes: as `ServiceAddress`, or with a prefix: `10.3.0.0/16:80`,
/// `[2001:db8::/64]:0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MatchAddress {
    /// Destination addresses.
    pub prefix: Prefix,
    /// Destination ports.
    pub ports: Ports,
}

impl FromStr for MatchAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (prefix, ports) = with_ports(text)?;
            let prefix: Prefix = match unbracketed(prefix) {
                Some(v6) => v6.parse().ok().filter(|v6: &Prefix| v6.address().is_ipv6())?,
                None => prefix.parse().ok().filter(|v4: &Prefix| v4.address().is_ipv4())?,
            };
            Some(MatchAddress { prefix, ports })
        };
        parse().ok_or_else(|| format!("`{text}` is no address or prefix with a port"))
    }
}

impl fmt::Display for MatchAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let MatchAddress { prefix, ports } = self;
        let is_host = *prefix == Prefix::host(prefix.address());
        match (is_host, prefix.address()) {
            (true, vip) => ServiceAddress { vip, ports: *ports }.fmt(f),
            (false, IpAddr::V4(_)) => write!(f, "{prefix}:{ports}"),
            (false, IpAddr::V6(_)) => write!(f, "[{prefix}]:{ports}"),
        }
    }
}

/// An interface's address with the length of its network: `192.0.2.2/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InterfaceAddress {
    /// Address, host bits included.
    pub address: IpAddr,
    /// Prefix length in bits.
    pub bits: u8,
}

impl FromStr for InterfaceAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, bits) = text
            .split_once('/')
            .ok_or_else(|| format!("`{text}` lacks the length of its network"))?;
        let wrong = || format!("`{text}` is no interface address");
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let bits: u8 = bits.parse().map_err(|_| wrong())?;
        Prefix::new(address, bits).map(|_| InterfaceAddress { address, bits }).ok_or_else(wrong)
    }
}

impl fmt::Display for InterfaceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// A range of addresses: `192.0.2.0/24`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientPrefix(pub Prefix);

impl FromStr for ClientPrefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(ClientPrefix).map_err(|_| format!("`{text}` is no address prefix"))
    }
}

impl fmt::Display for ClientPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A MAC address: `02:00:00:00:01:fe`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no MAC address");
        let mut mac = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut mac {
            let hex = |part: &&str| part.len() == 2 && !part.starts_with('+');
            let part = parts.next().filter(hex).ok_or_else(wrong)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        parts.next().is_none().then_some(Mac(mac)).ok_or_else(wrong)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_survives_the_round_trip() {
        for text in ["10.2.0.11", "10.2.0.11:80", "2001:db8::11", "[2001:db8::11]:80"] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        for text in ["192.0.2.80:80", "192.0.2.80:8000-8010", "[2001:db8::80]:0"] {
            assert_eq!(text.parse::<ServiceAddress>().unwrap().to_string(), text);
            assert_eq!(text.parse::<MatchAddress>().unwrap().to_string(), text);
        }
        for text in ["10.3.0.0/16:80", "[2001:db8::/64]:0"] {
            assert_eq!(text.parse::<MatchAddress>().unwrap().to_string(), text);
        }
        assert_eq!("192.0.2.2/24".parse::<InterfaceAddress>().unwrap().to_string(), "192.0.2.2/24");
        assert_eq!("02:00:5e:10:01:fe".parse::<Mac>().unwrap().to_string(), "02:00:5e:10:01:fe");
    }

    #[test]
    fn wrong_text_is_refused() {
        for text in ["", "10.2.0", "10.2.0.11:", "10.2.0.11:70000", "::1:", "[::1]", "host:80"] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
        for text in ["192.0.2.80", "192.0.2.80:", "2001:db8::80:80", "[192.0.2.80]:80", "a:80"] {
            assert!(text.parse::<ServiceAddress>().is_err(), "{text}");
            assert!(text.parse::<MatchAddress>().is_err(), "{text}");
        }
        for text in ["192.0.2.2", "192.0.2.2/33", "192.0.2.2/", "/24"] {
            assert!(text.parse::<InterfaceAddress>().is_err(), "{text}");
        }
        for text in
            ["", "02:00:00:00:00", "02:00:00:00:00:01:02", "02:0:00:00:00:01", "+2:00:00:00:00:01"]
        {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
    }
}
