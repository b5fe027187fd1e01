//! One 802.1Q tag, as it follows an Ethernet header (or another tag) whose ether type said so.

use std::borrow::{Borrow, BorrowMut};

use super::ethernet::EtherType;
use super::{WireError, put_at};

/// Size of a tag without the ether type that announced it.
pub const VLAN_TAG_BYTES: usize = 4;

/// VLAN ids have twelve bits.
const ID_MASK: u16 = 0x0fff;

/// 802.1Q tag. `H` is `&[u8; 4]` to read or `&mut [u8; 4]` to rewrite.
#[derive(Clone, Copy, Debug)]
pub struct Vlan<H>(H);

impl<'a> Vlan<&'a [u8; VLAN_TAG_BYTES]> {
    /// The tag and what it carries. `Truncated` below 4 bytes.
    pub fn parse(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), WireError> {
        let (tag, payload) = bytes.split_first_chunk().ok_or(WireError::Truncated)?;
        Ok((Vlan(tag), payload))
    }
}

impl<'a> Vlan<&'a mut [u8; VLAN_TAG_BYTES]> {
    /// As `parse`, to rewrite.
    pub fn parse_mut(bytes: &'a mut [u8]) -> Result<(Self, &'a mut [u8]), WireError> {
        let (tag, payload) = bytes.split_first_chunk_mut().ok_or(WireError::Truncated)?;
        Ok((Vlan(tag), payload))
    }
}

impl<H: Borrow<[u8; VLAN_TAG_BYTES]>> Vlan<H> {
    fn control(&self) -> u16 {
        let t = self.0.borrow();
        u16::from_be_bytes([t[0], t[1]])
    }

    /// VLAN id, 0 to 4095; 0 means "priority only".
    pub fn id(&self) -> u16 {
        self.control() & ID_MASK
    }

    /// Priority code point, 0 to 7.
    pub fn priority(&self) -> u8 {
        (self.control() >> 13) as u8
    }

    /// What follows the tag.
    pub fn ether_type(&self) -> EtherType {
        let t = self.0.borrow();
        EtherType(u16::from_be_bytes([t[2], t[3]]))
    }
}

impl<H: BorrowMut<[u8; VLAN_TAG_BYTES]>> Vlan<H> {
    /// Sets the id (its low twelve bits) and leaves priority and drop eligibility.
    pub fn set_id(&mut self, id: u16) {
        let control = (self.control() & !ID_MASK) | (id & ID_MASK);
        put_at::<0, 2, _>(self.0.borrow_mut(), control.to_be_bytes());
    }

    /// Sets the priority (its low three bits).
    pub fn set_priority(&mut self, priority: u8) {
        let control = (self.control() & 0x1fff) | (u16::from(priority & 7) << 13);
        put_at::<0, 2, _>(self.0.borrow_mut(), control.to_be_bytes());
    }

    /// Sets what follows the tag.
    pub fn set_ether_type(&mut self, ether_type: EtherType) {
        put_at::<2, 2, _>(self.0.borrow_mut(), ether_type.0.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setting_the_id_keeps_priority_and_the_type() {
        let mut tag = [0xf0, 0x05, 0x08, 0x00];
        let (mut vlan, _) = Vlan::parse_mut(&mut tag).unwrap();
        vlan.set_id(0xffff);
        assert_eq!((vlan.id(), vlan.priority()), (4095, 7));
        vlan.set_priority(2);
        assert_eq!((vlan.id(), vlan.priority()), (4095, 2));
        assert_eq!(vlan.ether_type(), EtherType::IPV4);
        assert_eq!(tag[0] & 0x10, 0x10, "drop eligibility is left");
    }
}
