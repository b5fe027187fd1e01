//! UDP header (RFC 768). Whether its length fits the IP payload is for the caller to ask: a first
//! fragment's does not.

use std::borrow::{Borrow, BorrowMut};

use super::{WireError, put_at};

/// Size of the header.
pub const UDP_HEADER_BYTES: usize = 8;

/// UDP header. `H` is `&[u8; 8]` to read or `&mut [u8; 8]` to rewrite.
#[derive(Clone, Copy, Debug)]
pub struct Udp<H>(H);

impl<'a> Udp<&'a [u8; UDP_HEADER_BYTES]> {
    /// The header and what follows. `Truncated` below 8 bytes.
    pub fn parse(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), WireError> {
        let (header, payload) = bytes.split_first_chunk().ok_or(WireError::Truncated)?;
        Ok((Udp(header), payload))
    }
}

impl<'a> Udp<&'a mut [u8; UDP_HEADER_BYTES]> {
    /// As `parse`, to rewrite.
    pub fn parse_mut(bytes: &'a mut [u8]) -> Result<(Self, &'a mut [u8]), WireError> {
        let (header, payload) = bytes.split_first_chunk_mut().ok_or(WireError::Truncated)?;
        Ok((Udp(header), payload))
    }

    /// Starts a new header here, all zero. `Truncated` below 8 bytes.
    pub fn blank(bytes: &'a mut [u8]) -> Result<(Self, &'a mut [u8]), WireError> {
        let (header, payload) = bytes.split_first_chunk_mut().ok_or(WireError::Truncated)?;
        *header = [0; UDP_HEADER_BYTES];
        Ok((Udp(header), payload))
    }
}

impl<H: Borrow<[u8; UDP_HEADER_BYTES]>> Udp<H> {
    /// Source port.
    pub fn src_port(&self) -> u16 {
        let h = self.0.borrow();
        u16::from_be_bytes([h[0], h[1]])
    }

    /// Destination port.
    pub fn dst_port(&self) -> u16 {
        let h = self.0.borrow();
        u16::from_be_bytes([h[2], h[3]])
    }

    /// Header and payload, in bytes, as the sender says.
    pub fn length(&self) -> u16 {
        let h = self.0.borrow();
        u16::from_be_bytes([h[4], h[5]])
    }

    /// Checksum as it stands; 0 means "none" in IPv4.
    pub fn checksum(&self) -> u16 {
        let h = self.0.borrow();
        u16::from_be_bytes([h[6], h[7]])
    }
}

impl<H: BorrowMut<[u8; UDP_HEADER_BYTES]>> Udp<H> {
    /// Sets the source port.
    pub fn set_src_port(&mut self, src_port: u16) {
        put_at::<0, 2, _>(self.0.borrow_mut(), src_port.to_be_bytes());
    }

    /// Sets the destination port.
    pub fn set_dst_port(&mut self, dst_port: u16) {
        put_at::<2, 2, _>(self.0.borrow_mut(), dst_port.to_be_bytes());
    }

    /// Sets the size of header and payload, in bytes.
    pub fn set_length(&mut self, bytes: u16) {
        put_at::<4, 2, _>(self.0.borrow_mut(), bytes.to_be_bytes());
    }

    /// Sets the checksum.
    pub fn set_checksum(&mut self, checksum: u16) {
        put_at::<6, 2, _>(self.0.borrow_mut(), checksum.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setter_moves_only_its_own_field() {
        let mut bytes = [0xff; 10];
        let (mut udp, _) = Udp::blank(&mut bytes).unwrap();
        udp.set_src_port(40_001);
        udp.set_dst_port(80);
        udp.set_length(10);
        udp.set_checksum(0xb8db);
        assert_eq!(bytes, [0x9c, 0x41, 0, 80, 0, 10, 0xb8, 0xdb, 0xff, 0xff]);
        let (udp, payload) = Udp::parse(&bytes).unwrap();
        assert_eq!((udp.src_port(), udp.dst_port()), (40_001, 80));
        assert_eq!((udp.length(), udp.checksum(), payload.len()), (10, 0xb8db, 2));
        assert_eq!(Udp::parse(&bytes[..7]).unwrap_err(), WireError::Truncated);
    }
}
