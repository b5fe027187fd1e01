//! ICMPv6 (RFC 4443): the eight-byte header. Neighbour discovery is the kernel's, so only its
//! message numbers are known here. The checksum covers a pseudo header.

use std::borrow::{Borrow, BorrowMut};

use super::{WireError, array_at, put_at};

/// Size of the header.
pub const ICMPV6_HEADER_BYTES: usize = 8;

/// Kind of an ICMPv6 message (RFC 4443, RFC 4861).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Icmpv6Type(pub u8);

impl Icmpv6Type {
    /// Destination unreachable; the code says why.
    pub const UNREACHABLE: Icmpv6Type = Icmpv6Type(1);
    /// Larger than the next hop's MTU.
    pub const PACKET_TOO_BIG: Icmpv6Type = Icmpv6Type(2);
    /// Hop limit or reassembly time ran out.
    pub const TIME_EXCEEDED: Icmpv6Type = Icmpv6Type(3);
    /// A header field is wrong.
    pub const PARAMETER_PROBLEM: Icmpv6Type = Icmpv6Type(4);
    /// Echo request.
    pub const ECHO_REQUEST: Icmpv6Type = Icmpv6Type(128);
    /// Answer to an echo request.
    pub const ECHO_REPLY: Icmpv6Type = Icmpv6Type(129);
    /// Router solicitation, the first of the neighbour discovery messages.
    pub const ROUTER_SOLICITATION: Icmpv6Type = Icmpv6Type(133);
    /// Neighbour solicitation.
    pub const NEIGHBOR_SOLICITATION: Icmpv6Type = Icmpv6Type(135);
    /// Neighbour advertisement.
    pub const NEIGHBOR_ADVERTISEMENT: Icmpv6Type = Icmpv6Type(136);
    /// Redirect, the last of the neighbour discovery messages.
    pub const REDIRECT: Icmpv6Type = Icmpv6Type(137);

    /// Whether a message of this kind quotes the packet it is about: types below 128.
    pub fn is_error(&self) -> bool {
        self.0 < 128
    }

    /// Whether this is neighbour or router discovery (RFC 4861).
    pub fn is_discovery(&self) -> bool {
        (Self::ROUTER_SOLICITATION.0..=Self::REDIRECT.0).contains(&self.0)
    }
}

/// Code of `UNREACHABLE`: no way to the address.
pub const CODE_ADDRESS_UNREACHABLE: u8 = 3;
/// Unreachable: no such port.
pub const CODE_PORT_UNREACHABLE: u8 = 4;
/// Time exceeded: the hop limit ran out on the way.
pub const CODE_HOP_LIMIT_EXPIRED: u8 = 0;

/// ICMPv6 header. `H` is `&[u8; 8]` to read or `&mut [u8; 8]` to rewrite.
#[derive(Clone, Copy, Debug)]
pub struct Icmpv6<H>(H);

impl<'a> Icmpv6<&'a [u8; ICMPV6_HEADER_BYTES]> {
    /// The header and what follows (echo data, or the quoted packet). `Truncated` below 8 bytes.
    pub fn parse(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), WireError> {
        let (header, body) = bytes.split_first_chunk().ok_or(WireError::Truncated)?;
        Ok((Icmpv6(header), body))
    }
}

impl<'a> Icmpv6<&'a mut [u8; ICMPV6_HEADER_BYTES]> {
    /// As `parse`, to rewrite.
    pub fn parse_mut(bytes: &'a mut [u8]) -> Result<(Self, &'a mut [u8]), WireError> {
        let (header, body) = bytes.split_first_chunk_mut().ok_or(WireError::Truncated)?;
        Ok((Icmpv6(header), body))
    }

    /// Starts a new header here, all zero. `Truncated` below 8 bytes.
    pub fn blank(bytes: &'a mut [u8]) -> Result<(Self, &'a mut [u8]), WireError> {
        let (header, body) = bytes.split_first_chunk_mut().ok_or(WireError::Truncated)?;
        *header = [0; ICMPV6_HEADER_BYTES];
        Ok((Icmpv6(header), body))
    }
}

impl<H: Borrow<[u8; ICMPV6_HEADER_BYTES]>> Icmpv6<H> {
    /// Kind of message.
    pub fn icmp_type(&self) -> Icmpv6Type {
        Icmpv6Type(self.0.borrow()[0])
    }

    /// Detail of the kind.
    pub fn code(&self) -> u8 {
        self.0.borrow()[1]
    }

    /// Checksum over pseudo header, header and body as it stands.
    pub fn checksum(&self) -> u16 {
        let h = self.0.borrow();
        u16::from_be_bytes([h[2], h[3]])
    }

    /// Echo: identifier.
    pub fn echo_id(&self) -> u16 {
        let h = self.0.borrow();
        u16::from_be_bytes([h[4], h[5]])
    }

    /// Echo: sequence number.
    pub fn echo_sequence(&self) -> u16 {
        let h = self.0.borrow();
        u16::from_be_bytes([h[6], h[7]])
    }

    /// Packet too big: the next hop's MTU in bytes.
    pub fn mtu(&self) -> u32 {
        u32::from_be_bytes(array_at::<4, 4, _>(self.0.borrow()))
    }
}

impl<H: BorrowMut<[u8; ICMPV6_HEADER_BYTES]>> Icmpv6<H> {
    /// Sets kind and code.
    pub fn set_type(&mut self, icmp_type: Icmpv6Type, code: u8) {
        put_at::<0, 2, _>(self.0.borrow_mut(), [icmp_type.0, code]);
    }

    /// Sets the checksum.
    pub fn set_checksum(&mut self, checksum: u16) {
        put_at::<2, 2, _>(self.0.borrow_mut(), checksum.to_be_bytes());
    }

    /// Echo: sets the identifier.
    pub fn set_echo_id(&mut self, id: u16) {
        put_at::<4, 2, _>(self.0.borrow_mut(), id.to_be_bytes());
    }

    /// Echo: sets the sequence number.
    pub fn set_echo_sequence(&mut self, sequence: u16) {
        put_at::<6, 2, _>(self.0.borrow_mut(), sequence.to_be_bytes());
    }

    /// Packet too big: sets the next hop's MTU in bytes.
    pub fn set_mtu(&mut self, mtu_bytes: u32) {
        put_at::<4, 4, _>(self.0.borrow_mut(), mtu_bytes.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packet_too_big_has_a_32_bit_mtu() {
        let mut bytes = [0xff; 8];
        let (mut icmp, _) = Icmpv6::blank(&mut bytes).unwrap();
        icmp.set_type(Icmpv6Type::PACKET_TOO_BIG, 0);
        icmp.set_checksum(0xabcd);
        icmp.set_mtu(0x0001_0203);
        assert_eq!((icmp.mtu(), icmp.checksum()), (0x0001_0203, 0xabcd));
        assert_eq!(bytes, [2, 0, 0xab, 0xcd, 0, 1, 2, 3]);
    }

    #[test]
    fn echo_is_no_error_and_no_discovery() {
        let mut bytes = [0; 8];
        let (mut icmp, _) = Icmpv6::parse_mut(&mut bytes).unwrap();
        icmp.set_type(Icmpv6Type::ECHO_REPLY, 0);
        icmp.set_echo_id(7);
        icmp.set_echo_sequence(8);
        assert_eq!((icmp.echo_id(), icmp.echo_sequence()), (7, 8));
        assert!(!icmp.icmp_type().is_error() && !icmp.icmp_type().is_discovery());
        assert!(Icmpv6Type::TIME_EXCEEDED.is_error());
        assert!(Icmpv6Type::NEIGHBOR_SOLICITATION.is_discovery());
        assert_eq!(Icmpv6::parse(&bytes[..7]).unwrap_err(), WireError::Truncated);
    }
}
