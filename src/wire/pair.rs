//! Source and destination side by side, as they lie in a frame: one word to compare, hash and copy.

/// Two IPv4 addresses, source first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressPair(u64);

impl AddressPair {
    /// Of two addresses, host order.
    #[inline]
    pub fn new(src: u32, dst: u32) -> Self {
        AddressPair(u64::from(src.swap_bytes()) | u64::from(dst.swap_bytes()) << 32)
    }

    /// As it lies in a frame.
    #[inline(always)]
    pub fn from_wire(bytes: [u8; 8]) -> Self {
        AddressPair(u64::from_le_bytes(bytes))
    }

    /// What `bits` gave.
    #[inline(always)]
    pub fn from_bits(bits: u64) -> Self {
        AddressPair(bits)
    }

    /// As a number: the bytes of a frame, lowest first.
    #[inline(always)]
    pub fn bits(self) -> u64 {
        self.0
    }

    /// Source, host order.
    #[inline(always)]
    pub fn src(self) -> u32 {
        (self.0 as u32).swap_bytes()
    }

    /// Destination, host order.
    #[inline(always)]
    pub fn dst(self) -> u32 {
        ((self.0 >> 32) as u32).swap_bytes()
    }

    /// Source and destination change places.
    #[inline(always)]
    pub fn turned(self) -> Self {
        AddressPair(self.0.rotate_left(32))
    }
}

/// Two ports, source first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortPair(u32);

impl PortPair {
    /// Of two ports, host order.
    #[inline]
    pub fn new(src: u16, dst: u16) -> Self {
        PortPair(u32::from(src.swap_bytes()) | u32::from(dst.swap_bytes()) << 16)
    }

    /// As it lies in a frame.
    #[inline(always)]
    pub fn from_wire(bytes: [u8; 4]) -> Self {
        PortPair(u32::from_le_bytes(bytes))
    }

    /// What `bits` gave.
    #[inline(always)]
    pub fn from_bits(bits: u32) -> Self {
        PortPair(bits)
    }

    /// As a number: the bytes of a frame, lowest first.
    #[inline(always)]
    pub fn bits(self) -> u32 {
        self.0
    }

    /// Source, host order.
    #[inline(always)]
    pub fn src(self) -> u16 {
        (self.0 as u16).swap_bytes()
    }

    /// Destination, host order.
    #[inline(always)]
    pub fn dst(self) -> u16 {
        ((self.0 >> 16) as u16).swap_bytes()
    }

    /// Source and destination change places.
    #[inline(always)]
    pub fn turned(self) -> Self {
        PortPair(self.0.rotate_left(16))
    }
}

/// Two MAC addresses, destination first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacPair([u8; 12]);

impl MacPair {
    /// Of two addresses.
    #[inline]
    pub fn new(dst: [u8; 6], src: [u8; 6]) -> Self {
        let mut both = [0; 12];
        both[..6].copy_from_slice(&dst);
        both[6..].copy_from_slice(&src);
        MacPair(both)
    }

    /// As they lie in a frame.
    #[inline(always)]
    pub fn bytes(&self) -> &[u8; 12] {
        &self.0
    }

    /// Destination.
    pub fn dst(&self) -> [u8; 6] {
        let [a, b, c, d, e, f, ..] = self.0;
        [a, b, c, d, e, f]
    }

    /// Source.
    pub fn src(&self) -> [u8; 6] {
        let [.., a, b, c, d, e, f] = self.0;
        [a, b, c, d, e, f]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_lie_as_in_a_frame_and_turn() {
        let addresses = AddressPair::from_wire([10, 1, 2, 3, 192, 0, 2, 80]);
        assert_eq!(addresses, AddressPair::new(0x0a01_0203, 0xc000_0250));
        assert_eq!((addresses.src(), addresses.dst()), (0x0a01_0203, 0xc000_0250));
        assert_eq!(addresses.turned(), AddressPair::new(0xc000_0250, 0x0a01_0203));
        assert_eq!(addresses.bits().to_le_bytes(), [10, 1, 2, 3, 192, 0, 2, 80]);
        let ports = PortPair::from_wire([0x12, 0x34, 0, 80]);
        assert_eq!(ports, PortPair::new(0x1234, 80));
        assert_eq!((ports.src(), ports.dst()), (0x1234, 80));
        assert_eq!(ports.turned(), PortPair::new(80, 0x1234));
        assert_eq!(ports.bits().to_le_bytes(), [0x12, 0x34, 0, 80]);
        let macs = MacPair::new([1; 6], [2; 6]);
        assert_eq!((macs.dst(), macs.src()), ([1; 6], [2; 6]));
        assert_eq!(macs.bytes(), &[1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2]);
    }
}
