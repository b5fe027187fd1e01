//! The eight bytes with which every TCP, UDP and SCTP header starts: enough to find a flow, and
//! all that an ICMP error is bound to quote (RFC 792). Their full headers are `tcp.rs`, `udp.rs`.

use std::borrow::{Borrow, BorrowMut};

use super::tcp::SeqNum;
use super::{WireError, put_at};

/// Bytes of a transport header that every packet with ports has, quoted or not.
pub const TRANSPORT_START_BYTES: usize = 8;

/// Start of a transport header. `H` is `&[u8; 8]` to read or `&mut [u8; 8]` to rewrite.
#[derive(Clone, Copy, Debug)]
pub struct TransportStart<H>(H);

impl<'a> TransportStart<&'a [u8; TRANSPORT_START_BYTES]> {
    /// The start and what follows. `Truncated` below 8 bytes.
    pub fn parse(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), WireError> {
        let (start, rest) = bytes.split_first_chunk().ok_or(WireError::Truncated)?;
        Ok((TransportStart(start), rest))
    }
}

impl<'a> TransportStart<&'a mut [u8; TRANSPORT_START_BYTES]> {
    /// As `parse`, to rewrite.
    pub fn parse_mut(bytes: &'a mut [u8]) -> Result<(Self, &'a mut [u8]), WireError> {
        let (start, rest) = bytes.split_first_chunk_mut().ok_or(WireError::Truncated)?;
        Ok((TransportStart(start), rest))
    }
}

impl<H: Borrow<[u8; TRANSPORT_START_BYTES]>> TransportStart<H> {
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

    /// Sequence number, if this is TCP.
    pub fn tcp_sequence(&self) -> SeqNum {
        let h = self.0.borrow();
        SeqNum(u32::from_be_bytes([h[4], h[5], h[6], h[7]]))
    }
}

impl<H: BorrowMut<[u8; TRANSPORT_START_BYTES]>> TransportStart<H> {
    /// Sets the source port.
    pub fn set_src_port(&mut self, src_port: u16) {
        put_at::<0, 2, _>(self.0.borrow_mut(), src_port.to_be_bytes());
    }

    /// Sets the destination port.
    pub fn set_dst_port(&mut self, dst_port: u16) {
        put_at::<2, 2, _>(self.0.borrow_mut(), dst_port.to_be_bytes());
    }

    /// Sets the sequence number, if this is TCP.
    pub fn set_tcp_sequence(&mut self, sequence: SeqNum) {
        put_at::<4, 4, _>(self.0.borrow_mut(), sequence.0.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_bytes_of_a_quoted_header_are_enough_to_translate_it() {
        let mut bytes = [0x1f, 0x90, 0x03, 0x09, 0, 0, 0x13, 0x88];
        let (mut start, _) = TransportStart::parse_mut(&mut bytes).unwrap();
        assert_eq!((start.src_port(), start.dst_port()), (8080, 777));
        assert_eq!(start.tcp_sequence(), SeqNum(5000));
        start.set_src_port(80);
        start.set_dst_port(778);
        start.set_tcp_sequence(SeqNum(6));
        assert_eq!(bytes, [0, 80, 0x03, 0x0a, 0, 0, 0, 6]);
        assert_eq!(TransportStart::parse(&bytes[..7]).unwrap_err(), WireError::Truncated);
    }
}
