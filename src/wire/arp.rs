//! ARP for IPv4 over Ethernet (RFC 826); other address kinds are refused. Who answers is not
//! decided here.

use std::borrow::{Borrow, BorrowMut};
use std::net::Ipv4Addr;

use super::ethernet::MacAddr;
use super::{WireError, array_at, put_at};

/// Size of an IPv4-over-Ethernet message.
pub const ARP_MESSAGE_BYTES: usize = 28;

/// Ethernet, IPv4, six-byte and four-byte addresses: the first six bytes of a message.
const ETHERNET_IPV4: [u8; 6] = [0, 1, 0x08, 0x00, 6, 4];

/// What an ARP message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ArpOperation(pub u16);

impl ArpOperation {
    /// Who has the target address?
    pub const REQUEST: ArpOperation = ArpOperation(1);
    /// The sender has.
    pub const REPLY: ArpOperation = ArpOperation(2);
}

/// ARP message. `H` is `&[u8; 28]` to read or `&mut [u8; 28]` to rewrite.
#[derive(Clone, Copy, Debug)]
pub struct Arp<H>(H);

impl<'a> Arp<&'a [u8; ARP_MESSAGE_BYTES]> {
    /// The message and the padding behind it. `Truncated` below 28 bytes, `Unsupported` for other
    /// hardware or protocols.
    pub fn parse(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), WireError> {
        let (message, rest) = bytes.split_first_chunk().ok_or(WireError::Truncated)?;
        check(message)?;
        Ok((Arp(message), rest))
    }
}

impl<'a> Arp<&'a mut [u8; ARP_MESSAGE_BYTES]> {
    /// As `parse`, to rewrite.
    pub fn parse_mut(bytes: &'a mut [u8]) -> Result<(Self, &'a mut [u8]), WireError> {
        let (message, rest) = bytes.split_first_chunk_mut().ok_or(WireError::Truncated)?;
        check(message)?;
        Ok((Arp(message), rest))
    }

    /// Starts a new message here: addresses and operation zero. `Truncated` below 28 bytes.
    pub fn blank(bytes: &'a mut [u8]) -> Result<(Self, &'a mut [u8]), WireError> {
        let (message, rest) = bytes.split_first_chunk_mut().ok_or(WireError::Truncated)?;
        *message = [0; ARP_MESSAGE_BYTES];
        put_at::<0, 6, _>(message, ETHERNET_IPV4);
        Ok((Arp(message), rest))
    }
}

impl<H: Borrow<[u8; ARP_MESSAGE_BYTES]>> Arp<H> {
    /// Request, reply or something rarer.
    pub fn operation(&self) -> ArpOperation {
        let m = self.0.borrow();
        ArpOperation(u16::from_be_bytes([m[6], m[7]]))
    }

    /// The sender's hardware address.
    pub fn sender_mac(&self) -> MacAddr {
        MacAddr(array_at::<8, 6, _>(self.0.borrow()))
    }

    /// The sender's protocol address.
    pub fn sender_ip(&self) -> Ipv4Addr {
        array_at::<14, 4, _>(self.0.borrow()).into()
    }

    /// The target's hardware address; zero in a request.
    pub fn target_mac(&self) -> MacAddr {
        MacAddr(array_at::<18, 6, _>(self.0.borrow()))
    }

    /// The target's protocol address.
    pub fn target_ip(&self) -> Ipv4Addr {
        array_at::<24, 4, _>(self.0.borrow()).into()
    }
}

impl<H: BorrowMut<[u8; ARP_MESSAGE_BYTES]>> Arp<H> {
    /// Sets the operation.
    pub fn set_operation(&mut self, operation: ArpOperation) {
        put_at::<6, 2, _>(self.0.borrow_mut(), operation.0.to_be_bytes());
    }

    /// Sets the sender's two addresses.
    pub fn set_sender(&mut self, mac: MacAddr, ip: Ipv4Addr) {
        put_at::<8, 6, _>(self.0.borrow_mut(), mac.0);
        put_at::<14, 4, _>(self.0.borrow_mut(), ip.octets());
    }

    /// Sets the target's two addresses.
    pub fn set_target(&mut self, mac: MacAddr, ip: Ipv4Addr) {
        put_at::<18, 6, _>(self.0.borrow_mut(), mac.0);
        put_at::<24, 4, _>(self.0.borrow_mut(), ip.octets());
    }
}

fn check(message: &[u8; ARP_MESSAGE_BYTES]) -> Result<(), WireError> {
    if array_at::<0, 6, _>(message) != ETHERNET_IPV4 {
        return Err(WireError::Unsupported);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blank_message_filled_in_reads_back() {
        let mut bytes = [0xaa; 30];
        let (mut arp, rest) = Arp::blank(&mut bytes).unwrap();
        arp.set_operation(ArpOperation::REPLY);
        arp.set_sender(MacAddr([2, 0, 0, 0, 0, 1]), Ipv4Addr::new(192, 0, 2, 1));
        arp.set_target(MacAddr([2, 0, 0, 0, 0, 2]), Ipv4Addr::new(192, 0, 2, 2));
        assert_eq!(rest, [0xaa; 2]);
        let (arp, _) = Arp::parse(&bytes).unwrap();
        assert_eq!(arp.operation(), ArpOperation::REPLY);
        assert_eq!(arp.sender_mac(), MacAddr([2, 0, 0, 0, 0, 1]));
        assert_eq!(arp.sender_ip(), Ipv4Addr::new(192, 0, 2, 1));
        assert_eq!(arp.target_mac(), MacAddr([2, 0, 0, 0, 0, 2]));
        assert_eq!(arp.target_ip(), Ipv4Addr::new(192, 0, 2, 2));
    }

    #[test]
    fn other_hardware_is_refused() {
        let mut bytes = [0; ARP_MESSAGE_BYTES];
        Arp::blank(&mut bytes).unwrap();
        bytes[1] = 6;
        assert_eq!(Arp::parse(&bytes).unwrap_err(), WireError::Unsupported);
        assert_eq!(Arp::parse(&bytes[..27]).unwrap_err(), WireError::Truncated);
    }
}
