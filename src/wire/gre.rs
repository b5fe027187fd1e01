//! GRE header (RFC 2784): what tunnels put between the outer and the inner packet. Keys and
//! sequence numbers (RFC 2890) are not written and not read.

use std::borrow::{Borrow, BorrowMut};

use super::ethernet::EtherType;
use super::{WireError, put_at};

/// Size of the header without a checksum.
pub const GRE_HEADER_BYTES: usize = 4;
/// Size of the checksum and the reserved field behind it, where there is one.
pub const GRE_CHECKSUM_BYTES: usize = 4;

/// First bit: a checksum follows.
const CHECKSUM_PRESENT: u8 = 0x80;

/// GRE header. `H` is `&[u8; 4]` to read or `&mut [u8; 4]` to rewrite.
#[derive(Clone, Copy, Debug)]
pub struct Gre<H>(H);

impl<'a> Gre<&'a [u8; GRE_HEADER_BYTES]> {
    /// The header and what follows, a checksum included. `Truncated` below 4 bytes.
    pub fn parse(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), WireError> {
        let (header, rest) = bytes.split_first_chunk().ok_or(WireError::Truncated)?;
        Ok((Gre(header), rest))
    }
}

impl<'a> Gre<&'a mut [u8; GRE_HEADER_BYTES]> {
    /// Starts a new header here, all zero. `Truncated` below 4 bytes.
    pub fn blank(bytes: &'a mut [u8]) -> Result<(Self, &'a mut [u8]), WireError> {
        let (header, rest) = bytes.split_first_chunk_mut().ok_or(WireError::Truncated)?;
        *header = [0; GRE_HEADER_BYTES];
        Ok((Gre(header), rest))
    }
}

impl<H: Borrow<[u8; GRE_HEADER_BYTES]>> Gre<H> {
    /// Whether a checksum follows, then 16 reserved bits.
    pub fn has_checksum(&self) -> bool {
        self.0.borrow()[0] & CHECKSUM_PRESENT != 0
    }

    /// Whether it is the plain header of RFC 2784: version 0, no key, no sequence number.
    pub fn is_plain(&self) -> bool {
        let h = self.0.borrow();
        h[0] & !CHECKSUM_PRESENT == 0 && h[1] == 0
    }

    /// What is inside.
    pub fn ether_type(&self) -> EtherType {
        let h = self.0.borrow();
        EtherType(u16::from_be_bytes([h[2], h[3]]))
    }
}

impl<H: BorrowMut<[u8; GRE_HEADER_BYTES]>> Gre<H> {
    /// Says that a checksum follows.
    pub fn set_has_checksum(&mut self) {
        self.0.borrow_mut()[0] |= CHECKSUM_PRESENT;
    }

    /// Sets what is inside.
    pub fn set_ether_type(&mut self, ether_type: EtherType) {
        put_at::<2, 2, _>(self.0.borrow_mut(), ether_type.0.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_reads_as_it_was_written() {
        let mut bytes = [0xff; 6];
        let (mut gre, rest) = Gre::blank(&mut bytes).unwrap();
        gre.set_has_checksum();
        gre.set_ether_type(EtherType::IPV6);
        assert_eq!(rest.len(), 2);
        assert_eq!(bytes[..4], [0x80, 0, 0x86, 0xdd]);
        let (gre, _) = Gre::parse(&bytes).unwrap();
        assert!(gre.has_checksum() && gre.is_plain());
        assert_eq!(gre.ether_type(), EtherType::IPV6);
        bytes[0] |= 0x20;
        assert!(!Gre::parse(&bytes).unwrap().0.is_plain());
        assert!(Gre::parse(&bytes[..3]).is_err());
    }
}
