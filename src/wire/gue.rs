//! Generic UDP encapsulation, variant 0 (draft-ietf-intarea-gue-09 section 3): the header between
//! the outer UDP header and the inner packet, as Linux's `fou` speaks it.

use std::borrow::{Borrow, BorrowMut};

use super::WireError;
use super::ip::IpProtocol;

/// Size of the header without optional fields.
pub const GUE_HEADER_BYTES: usize = 4;

/// GUE header. `H` is `&[u8; 4]` to read or `&mut [u8; 4]` to rewrite.
#[derive(Clone, Copy, Debug)]
pub struct Gue<H>(H);

impl<'a> Gue<&'a [u8; GUE_HEADER_BYTES]> {
    /// The header and what follows, optional fields included. `Truncated` below 4 bytes.
    pub fn parse(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), WireError> {
        let (header, rest) = bytes.split_first_chunk().ok_or(WireError::Truncated)?;
        Ok((Gue(header), rest))
    }
}

impl<'a> Gue<&'a mut [u8; GUE_HEADER_BYTES]> {
    /// Starts a new header here, all zero: variant 0, no optional fields. `Truncated` below 4
    /// bytes.
    pub fn blank(bytes: &'a mut [u8]) -> Result<(Self, &'a mut [u8]), WireError> {
        let (header, rest) = bytes.split_first_chunk_mut().ok_or(WireError::Truncated)?;
        *header = [0; GUE_HEADER_BYTES];
        Ok((Gue(header), rest))
    }
}

impl<H: Borrow<[u8; GUE_HEADER_BYTES]>> Gue<H> {
    /// Whether it carries a packet in variant 0, not a control message.
    pub fn is_data(&self) -> bool {
        self.0.borrow()[0] >> 5 == 0
    }

    /// Bytes of optional fields behind the header.
    pub fn optional_bytes(&self) -> usize {
        usize::from(self.0.borrow()[0] & 0x1f) * 4
    }

    /// What is inside.
    pub fn protocol(&self) -> IpProtocol {
        IpProtocol(self.0.borrow()[1])
    }
}

impl<H: BorrowMut<[u8; GUE_HEADER_BYTES]>> Gue<H> {
    /// Sets what is inside.
    pub fn set_protocol(&mut self, protocol: IpProtocol) {
        self.0.borrow_mut()[1] = protocol.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_reads_as_it_was_written() {
        let mut bytes = [0xff; 5];
        let (mut gue, rest) = Gue::blank(&mut bytes).unwrap();
        gue.set_protocol(IpProtocol::IPV4);
        assert_eq!(rest.len(), 1);
        assert_eq!(bytes[..4], [0, 4, 0, 0]);
        bytes[0] = 0b0000_0010;
        let (gue, _) = Gue::parse(&bytes).unwrap();
        assert!(gue.is_data());
        assert_eq!((gue.optional_bytes(), gue.protocol()), (8, IpProtocol::IPV4));
        bytes[0] = 0b0010_0000;
        assert!(!Gue::parse(&bytes).unwrap().0.is_data());
    }
}
