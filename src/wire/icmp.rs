//! ICMP for IPv4 (RFC 792): the eight-byte header. What an error quotes is read with
//! [`Ipv4::parse_quoted`](super::ipv4::Ipv4::parse_quoted).

use std::borrow::{Borrow, BorrowMut};

use super::{WireError, put_at};

/// Size of the header.
pub const ICMP_HEADER_BYTES: usize = 8;

/// Kind of an ICMP message (RFC 792 and successors).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IcmpType(pub u8);

impl IcmpType {
    /// Answer to an echo request.
    pub const ECHO_REPLY: IcmpType = IcmpType(0);
    /// Destination unreachable; the code says why.
    pub const UNREACHABLE: IcmpType = IcmpType(3);
    /// Source quench (deprecated by RFC 6633).
    pub const SOURCE_QUENCH: IcmpType = IcmpType(4);
    /// Redirect.
    pub const REDIRECT: IcmpType = IcmpType(5);
    /// Echo request.
    pub const ECHO_REQUEST: IcmpType = IcmpType(8);
    /// TTL or reassembly time ran out.
    pub const TIME_EXCEEDED: IcmpType = IcmpType(11);
    /// A header field is wrong.
    pub const PARAMETER_PROBLEM: IcmpType = IcmpType(12);

    /// Whether a message of this kind quotes the packet it is about.
    pub fn is_error(&self) -> bool {
        matches!(
            *self,
            Self::UNREACHABLE
                | Self::SOURCE_QUENCH
                | Self::REDIRECT
                | Self::TIME_EXCEEDED
                | Self::PARAMETER_PROBLEM
        )
    }
}

/// Code of `UNREACHABLE`: no way to the host.
pub const CODE_HOST_UNREACHABLE: u8 = 1;
/// Unreachable: no such port.
pub const CODE_PORT_UNREACHABLE: u8 = 3;
/// Unreachable: larger than the next hop's MTU, and "do not fragment" is set.
pub const CODE_FRAGMENTATION_NEEDED: u8 = 4;
/// Time exceeded: the TTL ran out on the way.
pub const CODE_TTL_EXPIRED: u8 = 0;

/// ICMP header. `H` is `&[u8; 8]` to read or `&mut [u8; 8]` to rewrite.
#[derive(Clone, Copy, Debug)]
pub struct Icmp<H>(H);

impl<'a> Icmp<&'a [u8; ICMP_HEADER_BYTES]> {
    /// The header and what follows (echo data, or the quoted packet). `Truncated` below 8 bytes.
    pub fn parse(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), WireError> {
        let (header, body) = bytes.split_first_chunk().ok_or(WireError::Truncated)?;
        Ok((Icmp(header), body))
    }
}

impl<'a> Icmp<&'a mut [u8; ICMP_HEADER_BYTES]> {
    /// As `parse`, to rewrite.
    pub fn parse_mut(bytes: &'a mut [u8]) -> Result<(Self, &'a mut [u8]), WireError> {
        let (header, body) = bytes.split_first_chunk_mut().ok_or(WireError::Truncated)?;
        Ok((Icmp(header), body))
    }

    /// Starts a new header here, all zero. `Truncated` below 8 bytes.
    pub fn blank(bytes: &'a mut [u8]) -> Result<(Self, &'a mut [u8]), WireError> {
        let (header, body) = bytes.split_first_chunk_mut().ok_or(WireError::Truncated)?;
        *header = [0; ICMP_HEADER_BYTES];
        Ok((Icmp(header), body))
    }
}

impl<H: Borrow<[u8; ICMP_HEADER_BYTES]>> Icmp<H> {
    /// Kind of message.
    pub fn icmp_type(&self) -> IcmpType {
        IcmpType(self.0.borrow()[0])
    }

    /// Detail of the kind.
    pub fn code(&self) -> u8 {
        self.0.borrow()[1]
    }

    /// Checksum over header and body as it stands; there is no pseudo header.
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

    /// Fragmentation needed: the next hop's MTU in bytes (RFC 1191 section 4).
    pub fn mtu(&self) -> u16 {
        self.echo_sequence()
    }
}

impl<H: BorrowMut<[u8; ICMP_HEADER_BYTES]>> Icmp<H> {
    /// Sets kind and code.
    pub fn set_type(&mut self, icmp_type: IcmpType, code: u8) {
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

    /// Fragmentation needed: sets the next hop's MTU in bytes; the unused half becomes 0.
    pub fn set_mtu(&mut self, mtu_bytes: u16) {
        put_at::<4, 4, _>(self.0.borrow_mut(), u32::from(mtu_bytes).to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragmentation_needed_has_its_mtu_in_the_low_half() {
        let mut bytes = [0xff; 8];
        let (mut icmp, _) = Icmp::parse_mut(&mut bytes).unwrap();
        icmp.set_type(IcmpType::UNREACHABLE, CODE_FRAGMENTATION_NEEDED);
        icmp.set_checksum(0);
        icmp.set_mtu(1480);
        assert_eq!(icmp.mtu(), 1480);
        assert_eq!(bytes, [3, 4, 0, 0, 0, 0, 0x05, 0xc8]);
    }

    #[test]
    fn echo_fields_read_back_and_errors_are_known() {
        let mut bytes = [0xff; 8];
        let (mut icmp, _) = Icmp::blank(&mut bytes).unwrap();
        icmp.set_type(IcmpType::ECHO_REQUEST, 0);
        icmp.set_echo_id(0x0102);
        icmp.set_echo_sequence(0x0304);
        assert_eq!((icmp.echo_id(), icmp.echo_sequence()), (0x0102, 0x0304));
        assert_eq!((icmp.icmp_type(), icmp.code()), (IcmpType::ECHO_REQUEST, 0));
        let errors: Vec<u8> = (0..=255).filter(|&t| IcmpType(t).is_error()).collect();
        assert_eq!(errors, [3, 4, 5, 11, 12]);
        assert_eq!(Icmp::parse(&bytes[..7]).unwrap_err(), WireError::Truncated);
    }
}
