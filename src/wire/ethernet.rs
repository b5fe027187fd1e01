//! Ethernet II header and MAC addresses. VLAN tags are `vlan.rs`; 802.3 length frames are not
//! understood and show up as an ether type below [`EtherType::LOWEST`].

use std::borrow::{Borrow, BorrowMut};
use std::fmt;
use std::str::FromStr;

use super::{WireError, array_at, put_at};

/// Size of the header: two addresses and the ether type.
pub const ETHERNET_HEADER_BYTES: usize = 14;

/// What an Ethernet frame or VLAN tag carries (IEEE 802 numbers).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EtherType(pub u16);

impl EtherType {
    /// IPv4.
    pub const IPV4: EtherType = EtherType(0x0800);
    /// ARP.
    pub const ARP: EtherType = EtherType(0x0806);
    /// An 802.1Q tag follows.
    pub const VLAN: EtherType = EtherType(0x8100);
    /// IPv6.
    pub const IPV6: EtherType = EtherType(0x86dd);
    /// An 802.1ad service tag follows.
    pub const SERVICE_VLAN: EtherType = EtherType(0x88a8);
    /// Anything below is an 802.3 length, not a type.
    pub const LOWEST: EtherType = EtherType(0x0600);
}

/// A MAC address in wire order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacAddr(pub [u8; 6]);

/// Text that is not six hexadecimal octets joined by colons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a MAC address; write it as 02:00:5e:10:00:01")]
pub struct ParseMacError;

impl MacAddr {
    /// All ones: every station.
    pub const BROADCAST: MacAddr = MacAddr([0xff; 6]);
    /// All zeros: "not known" in ARP and in the kernel's neighbour table.
    pub const ZERO: MacAddr = MacAddr([0; 6]);

    /// Whether the group bit is set; broadcast is multicast too.
    pub fn is_multicast(&self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Whether this is the all-ones address.
    pub fn is_broadcast(&self) -> bool {
        *self == Self::BROADCAST
    }

    /// Whether this can be one station's address: neither group nor zero.
    pub fn is_unicast(&self) -> bool {
        !self.is_multicast() && *self != Self::ZERO
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for MacAddr {
    type Err = ParseMacError;

    fn from_str(text: &str) -> Result<Self, ParseMacError> {
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().ok_or(ParseMacError)?;
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(ParseMacError);
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| ParseMacError)?;
        }
        if parts.next().is_some() {
            return Err(ParseMacError);
        }
        Ok(MacAddr(octets))
    }
}

/// Ethernet II header. `H` is `&[u8; 14]` to read or `&mut [u8; 14]` to rewrite.
#[derive(Clone, Copy, Debug)]
pub struct Ethernet<H>(H);

impl<'a> Ethernet<&'a [u8; ETHERNET_HEADER_BYTES]> {
    /// The header and what it carries. `Truncated` below 14 bytes.
    pub fn parse(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), WireError> {
        let (header, payload) = bytes.split_first_chunk().ok_or(WireError::Truncated)?;
        Ok((Ethernet(header), payload))
    }
}

impl<'a> Ethernet<&'a mut [u8; ETHERNET_HEADER_BYTES]> {
    /// As `parse`, to rewrite.
    pub fn parse_mut(bytes: &'a mut [u8]) -> Result<(Self, &'a mut [u8]), WireError> {
        let (header, payload) = bytes.split_first_chunk_mut().ok_or(WireError::Truncated)?;
        Ok((Ethernet(header), payload))
    }
}

impl<H: Borrow<[u8; ETHERNET_HEADER_BYTES]>> Ethernet<H> {
    /// Destination address.
    pub fn dst(&self) -> MacAddr {
        MacAddr(array_at::<0, 6, _>(self.0.borrow()))
    }

    /// Source address.
    pub fn src(&self) -> MacAddr {
        MacAddr(array_at::<6, 6, _>(self.0.borrow()))
    }

    /// What follows the header.
    pub fn ether_type(&self) -> EtherType {
        let h = self.0.borrow();
        EtherType(u16::from_be_bytes([h[12], h[13]]))
    }
}

impl<H: BorrowMut<[u8; ETHERNET_HEADER_BYTES]>> Ethernet<H> {
    /// Sets the destination address.
    pub fn set_dst(&mut self, mac: MacAddr) {
        put_at::<0, 6, _>(self.0.borrow_mut(), mac.0);
    }

    /// Sets the source address.
    pub fn set_src(&mut self, mac: MacAddr) {
        put_at::<6, 6, _>(self.0.borrow_mut(), mac.0);
    }

    /// Sets what follows the header.
    pub fn set_ether_type(&mut self, ether_type: EtherType) {
        put_at::<12, 2, _>(self.0.borrow_mut(), ether_type.0.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_text_reads_back_as_itself() {
        let mac: MacAddr = "02:00:5E:10:00:fe".parse().unwrap();
        assert_eq!(mac, MacAddr([2, 0, 0x5e, 0x10, 0, 0xfe]));
        assert_eq!(mac.to_string(), "02:00:5e:10:00:fe");
    }

    #[test]
    fn text_that_only_resembles_a_mac_is_refused() {
        for text in [
            "",
            "02:00:5e:10:00",
            "02:00:5e:10:00:fe:01",
            "02:00:5e:10:00:f",
            "02:00:5e:10:00:+f",
            "02-00-5e-10-00-fe",
            "02:00:5e:10:00:\u{e9}",
            " 02:00:5e:10:00:fe",
        ] {
            assert_eq!(text.parse::<MacAddr>(), Err(ParseMacError), "{text:?}");
        }
    }

    #[test]
    fn group_bit_tells_multicast_from_unicast() {
        let group = MacAddr([0x33, 0x33, 0, 0, 0, 1]);
        assert!(group.is_multicast() && !group.is_unicast() && !group.is_broadcast());
        assert!(MacAddr::BROADCAST.is_multicast() && MacAddr::BROADCAST.is_broadcast());
        assert!(MacAddr([2, 0, 0, 0, 0, 1]).is_unicast());
        assert!(!MacAddr::ZERO.is_unicast() && !MacAddr::ZERO.is_multicast());
    }

    #[test]
    fn addresses_and_type_are_set_apart_from_each_other() {
        let mut bytes = [0; 16];
        let (mut ethernet, rest) = Ethernet::parse_mut(&mut bytes).unwrap();
        assert_eq!(rest.len(), 2);
        ethernet.set_dst(MacAddr([1; 6]));
        ethernet.set_src(MacAddr([2; 6]));
        ethernet.set_ether_type(EtherType::IPV6);
        assert_eq!(bytes, [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 0x86, 0xdd, 0, 0]);
        let (ethernet, _) = Ethernet::parse(&bytes).unwrap();
        assert_eq!((ethernet.dst(), ethernet.src()), (MacAddr([1; 6]), MacAddr([2; 6])));
        assert_eq!(ethernet.ether_type(), EtherType::IPV6);
        assert_eq!(Ethernet::parse(&bytes[..13]).unwrap_err(), WireError::Truncated);
    }
}
