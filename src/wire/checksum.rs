//! The Internet checksum (RFC 1071): in full, and patched for an edit (RFC 1624). Where a checksum
//! stands in its header is the header's business.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::ip::IpProtocol;

/// A one's complement sum being collected.
///
/// Kept in the machine's byte order, which RFC 1071 section 2 (B) allows, so that whole words are
/// added as they lie in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// Nothing summed yet.
    pub const fn new() -> Self {
        Sum(0)
    }

    /// The pseudo header of TCP and UDP over IPv4 (RFC 9293 section 3.1): `length` is that of
    /// transport header and payload, in bytes.
    pub fn pseudo_v4(src: Ipv4Addr, dst: Ipv4Addr, protocol: IpProtocol, length: u16) -> Self {
        Sum::new()
            .add_u32(src.to_bits())
            .add_u32(dst.to_bits())
            .add_u16(u16::from(protocol.0))
            .add_u16(length)
    }

    /// The pseudo header of IPv6 (RFC 8200 section 8.1): `length` is that of the upper-layer
    /// header and payload, in bytes.
    pub fn pseudo_v6(src: Ipv6Addr, dst: Ipv6Addr, protocol: IpProtocol, length: u32) -> Self {
        Sum::new()
            .add_bytes(&src.octets())
            .add_bytes(&dst.octets())
            .add_u32(length)
            .add_u16(u16::from(protocol.0))
    }

    /// Adds bytes that start at an even offset. Of an odd count the last is padded with a zero,
    /// so only the last call may have one.
    pub fn add_bytes(self, bytes: &[u8]) -> Self {
        let (words, tail) = bytes.as_chunks::<8>();
        let mut sum = self.0;
        for word in words {
            let word = u64::from_ne_bytes(*word);
            // Two halves, so that no carry is lost: it takes 2^31 words to fill the sum.
            sum = sum.wrapping_add((word & 0xffff_ffff) + (word >> 32));
        }
        let mut last = [0; 8];
        last[..tail.len()].copy_from_slice(tail);
        let last = u64::from_ne_bytes(last);
        Sum(sum.wrapping_add((last & 0xffff_ffff) + (last >> 32)))
    }

    /// Adds a 16-bit field.
    pub fn add_u16(self, value: u16) -> Self {
        Sum(self.0.wrapping_add(u64::from(value.to_be())))
    }

    /// Adds a 32-bit field.
    pub fn add_u32(self, value: u32) -> Self {
        Sum(self.0.wrapping_add(u64::from(value.to_be())))
    }

    /// The sum folded to 16 bits.
    pub fn fold(self) -> u16 {
        let sum = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        u16::from_be(sum as u16)
    }

    /// The checksum to store when the field itself was summed as zero.
    pub fn checksum(self) -> u16 {
        !self.fold()
    }

    /// As `checksum` for UDP, where 0 would mean "none" and 0xffff stands for it (RFC 768).
    pub fn udp_checksum(self) -> u16 {
        match self.checksum() {
            0 => 0xffff,
            checksum => checksum,
        }
    }

    /// Whether a checksum holds that was summed along with what it covers.
    pub fn holds(self) -> bool {
        self.fold() == 0xffff
    }
}

/// What a rewrite changes in any checksum that covers it: RFC 1624 equation 3, with the part that
/// does not depend on the packet kept apart, so that a flow can work it out once.
///
/// A checksum that was wrong before is wrong by as much afterwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChecksumDelta(u16);

impl ChecksumDelta {
    /// No change.
    pub const fn new() -> Self {
        ChecksumDelta(0)
    }

    /// The delta that `bits` gave.
    pub const fn from_bits(bits: u16) -> Self {
        ChecksumDelta(bits)
    }

    /// The delta as a number, to be stored.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// A 16-bit field at an even offset changes.
    pub const fn replace_u16(self, old: u16, new: u16) -> Self {
        ChecksumDelta(add(self.0, add(!old, new)))
    }

    /// A 32-bit field at an even offset changes.
    pub const fn replace_u32(self, old: u32, new: u32) -> Self {
        self.replace_u16((old >> 16) as u16, (new >> 16) as u16).replace_u16(old as u16, new as u16)
    }

    /// Bytes at an even offset change. The counts may differ if what follows moves by an even
    /// count; either may be empty, for bytes put in or taken out.
    pub fn replace_bytes(self, old: &[u8], new: &[u8]) -> Self {
        let removed = Sum::new().add_bytes(old).fold();
        let added = Sum::new().add_bytes(new).fold();
        ChecksumDelta(add(self.0, add(!removed, added)))
    }

    /// As `replace_bytes` for bytes at any `offset` from the start of what the checksum covers:
    /// at an odd one, high and low bytes change places.
    pub fn replace_bytes_at(self, offset: usize, old: &[u8], new: &[u8]) -> Self {
        let change = ChecksumDelta::new().replace_bytes(old, new);
        if offset.is_multiple_of(2) {
            self.merge(change)
        } else {
            self.merge(ChecksumDelta(change.0.swap_bytes()))
        }
    }

    /// Both changes.
    pub const fn merge(self, other: ChecksumDelta) -> Self {
        ChecksumDelta(add(self.0, other.0))
    }

    /// The change that undoes this one: what the other direction of a flow needs.
    pub const fn inverse(self) -> Self {
        ChecksumDelta(!self.0)
    }

    /// The checksum after the change. Not for UDP.
    pub const fn apply(self, checksum: u16) -> u16 {
        !add(!checksum, self.0)
    }

    /// The UDP checksum after the change: "none" stays "none", and a 0 that comes out is stored
    /// as 0xffff (RFC 768).
    pub const fn apply_udp(self, checksum: u16) -> u16 {
        if checksum == 0 {
            return 0;
        }
        match self.apply(checksum) {
            0 => 0xffff,
            patched => patched,
        }
    }
}

/// One's complement addition: the carry comes back in at the low end.
const fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + carry as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 1071 section 3's example, summed the slow way it shows.
    #[test]
    fn rfc_1071_example_sums_to_ddf2() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::new().add_bytes(&bytes).fold(), 0xddf2);
    }

    /// RFC 1624 section 4's example: equation 2 of RFC 1141 gives 0xffff here.
    #[test]
    fn rfc_1624_example_gives_zero_not_ffff() {
        assert_eq!(ChecksumDelta::new().replace_u16(0x5555, 0x3285).apply(0xdd2f), 0x0000);
    }

    #[test]
    fn odd_last_byte_is_padded_behind() {
        assert_eq!(Sum::new().add_bytes(&[0x12, 0x34, 0x56]).fold(), 0x1234 + 0x5600);
    }

    #[test]
    fn udp_without_checksum_stays_without() {
        let delta = ChecksumDelta::new().replace_u32(0x0a00_0001, 0xc000_0201);
        assert_eq!(delta.apply_udp(0), 0);
        assert_ne!(delta.apply_udp(0x1234), 0x1234);
    }

    #[test]
    fn udp_checksum_that_becomes_zero_is_stored_as_ffff() {
        let delta = ChecksumDelta::new().replace_u16(0x5555, 0x3285);
        assert_eq!(delta.apply_udp(0xdd2f), 0xffff);
    }

    #[test]
    fn all_ones_sum_does_not_overflow_the_fold() {
        assert_eq!(Sum(u64::MAX).fold(), 0xffff);
        assert_eq!(Sum::new().add_bytes(&[0xff; 65_535]).fold(), 0xff00);
    }
}
