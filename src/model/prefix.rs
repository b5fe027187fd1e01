//! Address prefixes and sets of them: allow and deny lists.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// An address range such as `192.0.2.0/24`; host bits are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    address: IpAddr,
    bits: u8,
}

/// Text that is no prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// Not ADDRESS or ADDRESS/LENGTH.
    #[error("`{0}` is not an address prefix; write it like 192.0.2.0/24 or 2001:db8::/32")]
    Syntax(String),
    /// The length exceeds the family's.
    #[error("`{0}`: the prefix length may be at most {1}")]
    Length(String, u8),
}

/// The address as 128 bits, IPv4 in the top 32, so that one mask rule serves both families.
fn aligned(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)) << 96,
        IpAddr::V6(v6) => u128::from(v6),
    }
}

fn mask(bits: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0)
}

impl Prefix {
    /// The prefix of `bits` leading bits around `address`, or `None` when `bits` is too large.
    pub fn new(address: IpAddr, bits: u8) -> Option<Self> {
        let width = if address.is_ipv4() { 32 } else { 128 };
        let kept = aligned(address) & mask(bits);
        let address = match address {
            IpAddr::V4(_) => IpAddr::V4(((kept >> 96) as u32).into()),
            IpAddr::V6(_) => IpAddr::V6(kept.into()),
        };
        (bits <= width).then_some(Prefix { address, bits })
    }

    /// The prefix that is one address alone.
    pub const fn host(address: IpAddr) -> Self {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        Prefix { address, bits }
    }

    /// First address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Prefix length in bits.
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// Whether some address lies in both.
    pub fn overlaps(&self, other: &Prefix) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }

    /// Whether `address` lies inside.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4()
            && (aligned(self.address) ^ aligned(address)) & mask(self.bits) == 0
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let syntax = || PrefixError::Syntax(text.into());
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u8>().map_err(|_| syntax())?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| syntax())?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        Prefix::new(address, bits.unwrap_or(width))
            .ok_or_else(|| PrefixError::Length(text.into(), width))
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// A set of prefixes, looked up by binary search over merged, disjoint ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrefixSet {
    v4: Vec<(u128, u128)>,
    v6: Vec<(u128, u128)>,
}

impl PrefixSet {
    /// The union of `prefixes`.
    pub fn new(prefixes: &[Prefix]) -> Self {
        let ranges = |v4: bool| {
            let mut ranges: Vec<(u128, u128)> = prefixes
                .iter()
                .filter(|prefix| prefix.address.is_ipv4() == v4)
                .map(|prefix| {
                    (aligned(prefix.address), aligned(prefix.address) | !mask(prefix.bits))
                })
                .collect();
            ranges.sort_unstable();
            ranges.dedup_by(|next, kept| {
                let inside = next.0 <= kept.1;
                if inside {
                    kept.1 = kept.1.max(next.1);
                }
                inside
            });
            ranges
        };
        PrefixSet { v4: ranges(true), v6: ranges(false) }
    }

    /// Whether the set names no address at all.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// Whether any prefix contains `address`.
    pub fn contains(&self, address: IpAddr) -> bool {
        let ranges = if address.is_ipv4() { &self.v4 } else { &self.v6 };
        let key = aligned(address);
        let behind = ranges.partition_point(|range| range.0 <= key);
        behind > 0 && key <= ranges[behind - 1].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn host_bits_are_cut_and_lengths_checked() {
        assert_eq!(prefix("10.1.2.3/8").to_string(), "10.0.0.0/8");
        assert_eq!(prefix("2001:db8::1").to_string(), "2001:db8::1/128");
        assert!("10.0.0.0/33".parse::<Prefix>().is_err());
        assert!("ten/8".parse::<Prefix>().is_err());
        assert!(prefix("0.0.0.0/0").contains("203.0.113.9".parse().unwrap()));
        assert!(!prefix("0.0.0.0/0").contains("::1".parse().unwrap()));
    }

    #[test]
    fn set_answers_as_its_prefixes_do() {
        let prefixes = ["10.0.0.0/8", "10.2.0.0/16", "192.0.2.128/25", "2001:db8::/32"].map(prefix);
        let set = PrefixSet::new(&prefixes);
        for text in [
            "9.255.255.255",
            "10.0.0.0",
            "10.255.255.255",
            "11.0.0.0",
            "192.0.2.127",
            "192.0.2.200",
            "2001:db8:ffff::1",
            "2001:db9::",
            "::",
        ] {
            let address = text.parse().unwrap();
            assert_eq!(
                set.contains(address),
                prefixes.iter().any(|p| p.contains(address)),
                "{text}"
            );
        }
    }
}
