//! TCP header (RFC 9293), sequence numbers and options. Connection states are not here.

use std::borrow::{Borrow, BorrowMut};
use std::fmt;

use super::{WireError, array_at, put_at};

mod options;

pub use options::{SackBlocks, TcpOption, TcpOptionMut, TcpOptions, TcpOptionsMut, kind};

/// Size of the header without options.
pub const TCP_HEADER_BYTES: usize = 20;
/// Size of the options that a data offset can count.
pub const TCP_OPTIONS_BYTES_MAX: usize = 40;

/// A sequence number: 32 bits that wrap (RFC 9293 section 3.4). Not `Ord`, since "before" is only
/// meant for numbers less than 2^31 apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SeqNum(pub u32);

impl SeqNum {
    /// This number moved on by `count`, wrapping.
    #[must_use]
    pub const fn wrapping_add(self, count: u32) -> Self {
        SeqNum(self.0.wrapping_add(count))
    }

    /// This number moved back by `count`, wrapping.
    #[must_use]
    pub const fn wrapping_sub(self, count: u32) -> Self {
        SeqNum(self.0.wrapping_sub(count))
    }

    /// How far `earlier` has to move on to get here, wrapping.
    pub const fn since(self, earlier: SeqNum) -> u32 {
        self.0.wrapping_sub(earlier.0)
    }

    /// Whether this comes before `other`.
    pub const fn before(self, other: SeqNum) -> bool {
        (self.0.wrapping_sub(other.0) as i32) < 0
    }

    /// Whether this comes after `other`.
    pub const fn after(self, other: SeqNum) -> bool {
        other.before(self)
    }
}

/// The control bits of a TCP header.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// No bit set.
    pub const NONE: TcpFlags = TcpFlags(0);
    /// No more data from the sender.
    pub const FIN: TcpFlags = TcpFlags(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: TcpFlags = TcpFlags(0x02);
    /// Reset the connection.
    pub const RST: TcpFlags = TcpFlags(0x04);
    /// Push.
    pub const PSH: TcpFlags = TcpFlags(0x08);
    /// The acknowledgment number counts.
    pub const ACK: TcpFlags = TcpFlags(0x10);
    /// The urgent pointer counts.
    pub const URG: TcpFlags = TcpFlags(0x20);
    /// Congestion was met (RFC 3168).
    pub const ECE: TcpFlags = TcpFlags(0x40);
    /// Congestion window was reduced (RFC 3168).
    pub const CWR: TcpFlags = TcpFlags(0x80);

    /// Whether every bit of `other` is set here.
    pub const fn contains(self, other: TcpFlags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any bit of `other` is set here.
    pub const fn intersects(self, other: TcpFlags) -> bool {
        self.0 & other.0 != 0
    }

    /// The bits of both.
    #[must_use]
    pub const fn union(self, other: TcpFlags) -> Self {
        TcpFlags(self.0 | other.0)
    }

    /// The bits of this that `other` lacks.
    #[must_use]
    pub const fn without(self, other: TcpFlags) -> Self {
        TcpFlags(self.0 & !other.0)
    }
}

impl std::ops::BitOr for TcpFlags {
    type Output = TcpFlags;

    fn bitor(self, other: TcpFlags) -> TcpFlags {
        self.union(other)
    }
}

/// Letters as tcpdump has them: `[S.]` without brackets is `SA` here, as in the recordings.
impl fmt::Debug for TcpFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (bit, letter) in "FSRPAUEC".chars().enumerate() {
            if self.0 & (1 << bit) != 0 {
                write!(f, "{letter}")?;
            }
        }
        if self.0 == 0 { write!(f, "-") } else { Ok(()) }
    }
}

/// TCP header. `H` is `&[u8; 20]` to read or `&mut [u8; 20]` to rewrite.
#[derive(Clone, Copy, Debug)]
pub struct Tcp<H>(H);

impl<'a> Tcp<&'a [u8; TCP_HEADER_BYTES]> {
    /// The header and the payload, options skipped. `BadHeaderLength` when the data offset is
    /// below 5, `Truncated` when header or options are not all there.
    pub fn parse(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), WireError> {
        let (header, _, payload) = Self::parse_with_options(bytes)?;
        Ok((header, payload))
    }

    /// As `parse`, with the options (0 to 40 bytes) between header and payload.
    pub fn parse_with_options(bytes: &'a [u8]) -> Result<(Self, &'a [u8], &'a [u8]), WireError> {
        let (header, rest) = bytes.split_first_chunk().ok_or(WireError::Truncated)?;
        let (options, payload) =
            rest.split_at_checked(options_bytes(header)?).ok_or(WireError::Truncated)?;
        Ok((Tcp(header), options, payload))
    }
}

impl<'a> Tcp<&'a mut [u8; TCP_HEADER_BYTES]> {
    /// As `parse`, to rewrite.
    pub fn parse_mut(bytes: &'a mut [u8]) -> Result<(Self, &'a mut [u8]), WireError> {
        let (header, _, payload) = Self::parse_with_options_mut(bytes)?;
        Ok((header, payload))
    }

    /// As `parse_with_options`, to rewrite.
    #[allow(clippy::type_complexity, reason = "header, options, payload: naming them hides more")]
    pub fn parse_with_options_mut(
        bytes: &'a mut [u8],
    ) -> Result<(Self, &'a mut [u8], &'a mut [u8]), WireError> {
        let (header, rest) = bytes.split_first_chunk_mut().ok_or(WireError::Truncated)?;
        let (options, payload) =
            rest.split_at_mut_checked(options_bytes(header)?).ok_or(WireError::Truncated)?;
        Ok((Tcp(header), options, payload))
    }

    /// Starts a new header here, without options: zero but for the data offset. `Truncated` below
    /// 20 bytes.
    pub fn blank(bytes: &'a mut [u8]) -> Result<(Self, &'a mut [u8]), WireError> {
        let (header, payload) = bytes.split_first_chunk_mut().ok_or(WireError::Truncated)?;
        *header = [0; TCP_HEADER_BYTES];
        header[12] = 5 << 4;
        Ok((Tcp(header), payload))
    }
}

impl<H: Borrow<[u8; TCP_HEADER_BYTES]>> Tcp<H> {
    /// Source port.
    pub fn src_port(&self) -> u16 {
        self.word::<0>()
    }

    /// Destination port.
    pub fn dst_port(&self) -> u16 {
        self.word::<2>()
    }

    /// Number of the first payload byte (of SYN or FIN, when set).
    pub fn sequence(&self) -> SeqNum {
        SeqNum(u32::from_be_bytes(array_at::<4, 4, _>(self.0.borrow())))
    }

    /// Number expected next from the other side; counts when ACK is set.
    pub fn acknowledgment(&self) -> SeqNum {
        SeqNum(u32::from_be_bytes(array_at::<8, 4, _>(self.0.borrow())))
    }

    /// Header size in bytes, options included: 20 to 60.
    pub fn header_bytes(&self) -> usize {
        usize::from(self.0.borrow()[12] >> 4) * 4
    }

    /// Control bits.
    pub fn flags(&self) -> TcpFlags {
        TcpFlags(self.0.borrow()[13])
    }

    /// Receive window as it stands, before scaling.
    pub fn window(&self) -> u16 {
        self.word::<14>()
    }

    /// Checksum as it stands.
    pub fn checksum(&self) -> u16 {
        self.word::<16>()
    }

    /// Urgent pointer; counts when URG is set.
    pub fn urgent(&self) -> u16 {
        self.word::<18>()
    }

    /// The word with data offset and flags, for checksums: either alone is less than a word.
    pub fn offset_and_flags_word(&self) -> u16 {
        self.word::<12>()
    }

    fn word<const OFFSET: usize>(&self) -> u16 {
        u16::from_be_bytes(array_at::<OFFSET, 2, _>(self.0.borrow()))
    }
}

impl<H: BorrowMut<[u8; TCP_HEADER_BYTES]>> Tcp<H> {
    /// Sets the source port.
    pub fn set_src_port(&mut self, src_port: u16) {
        self.set_word::<0>(src_port);
    }

    /// Sets the destination port.
    pub fn set_dst_port(&mut self, dst_port: u16) {
        self.set_word::<2>(dst_port);
    }

    /// Sets the sequence number.
    pub fn set_sequence(&mut self, sequence: SeqNum) {
        put_at::<4, 4, _>(self.0.borrow_mut(), sequence.0.to_be_bytes());
    }

    /// Sets the acknowledgment number.
    pub fn set_acknowledgment(&mut self, acknowledgment: SeqNum) {
        put_at::<8, 4, _>(self.0.borrow_mut(), acknowledgment.0.to_be_bytes());
    }

    /// Sets the header size in bytes, options included. It is kept in words of four: a size that
    /// is none, or is outside 20 to 60, is a bug of the caller.
    pub fn set_header_bytes(&mut self, bytes: usize) {
        debug_assert!(bytes.is_multiple_of(4) && (20..=60).contains(&bytes));
        let h = self.0.borrow_mut();
        h[12] = h[12] & 0x0f | ((bytes / 4) << 4) as u8;
    }

    /// Sets the control bits.
    pub fn set_flags(&mut self, flags: TcpFlags) {
        self.0.borrow_mut()[13] = flags.0;
    }

    /// Sets the receive window, before scaling.
    pub fn set_window(&mut self, window: u16) {
        self.set_word::<14>(window);
    }

    /// Sets the checksum.
    pub fn set_checksum(&mut self, checksum: u16) {
        self.set_word::<16>(checksum);
    }

    /// Sets the urgent pointer.
    pub fn set_urgent(&mut self, urgent: u16) {
        self.set_word::<18>(urgent);
    }

    fn set_word<const OFFSET: usize>(&mut self, value: u16) {
        put_at::<OFFSET, 2, _>(self.0.borrow_mut(), value.to_be_bytes());
    }
}

fn options_bytes(header: &[u8; TCP_HEADER_BYTES]) -> Result<usize, WireError> {
    (usize::from(header[12] >> 4) * 4)
        .checked_sub(TCP_HEADER_BYTES)
        .ok_or(WireError::BadHeaderLength)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_numbers_compare_across_the_wrap() {
        let last = SeqNum(u32::MAX);
        let first = last.wrapping_add(1);
        assert_eq!((first, first.wrapping_sub(1)), (SeqNum(0), last));
        assert!(last.before(first) && first.after(last));
        assert!(!first.before(last) && !last.after(first));
        assert!(!first.before(first) && !first.after(first));
        assert_eq!(SeqNum(5).since(SeqNum(u32::MAX - 4)), 10);
    }

    #[test]
    fn flags_read_as_in_the_recordings() {
        let flags = TcpFlags::SYN | TcpFlags::ACK;
        assert_eq!(format!("{flags:?} {:?}", TcpFlags::NONE), "SA -");
        assert!(flags.contains(TcpFlags::SYN) && !flags.contains(TcpFlags::SYN | TcpFlags::FIN));
        assert!(flags.intersects(TcpFlags::SYN | TcpFlags::FIN));
        assert_eq!(flags.without(TcpFlags::ACK), TcpFlags::SYN);
    }

    #[test]
    fn data_offset_is_checked_before_anything_is_read() {
        let mut bytes = [0; 24];
        for (words, expected) in [
            (4, Err(WireError::BadHeaderLength)),
            (5, Ok((0, 4))),
            (6, Ok((4, 0))),
            (7, Err(WireError::Truncated)),
        ] {
            bytes[12] = words << 4;
            let found = Tcp::parse_with_options(&bytes);
            assert_eq!(found.map(|(_, options, rest)| (options.len(), rest.len())), expected);
            let found = Tcp::parse_with_options_mut(&mut bytes);
            assert_eq!(found.map(|(_, options, rest)| (options.len(), rest.len())), expected);
        }
        assert_eq!(Tcp::parse(&bytes[..19]).unwrap_err(), WireError::Truncated);
    }

    #[test]
    fn every_setter_moves_only_its_own_field() {
        let mut bytes = [0xff; 24];
        let (mut tcp, _) = Tcp::blank(&mut bytes).unwrap();
        tcp.set_src_port(0x0102);
        tcp.set_dst_port(0x0304);
        tcp.set_sequence(SeqNum(0x0506_0708));
        tcp.set_acknowledgment(SeqNum(0x090a_0b0c));
        tcp.set_header_bytes(24);
        tcp.set_flags(TcpFlags::SYN);
        tcp.set_window(0x1011);
        tcp.set_checksum(0x1213);
        tcp.set_urgent(0x1415);
        let expected = [
            1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 0x60, 2, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15,
            0xff, 0xff, 0xff, 0xff,
        ];
        assert_eq!(bytes, expected);
        let (tcp, payload) = Tcp::parse(&bytes).unwrap();
        assert!(payload.is_empty());
        assert_eq!((tcp.src_port(), tcp.dst_port()), (0x0102, 0x0304));
        assert_eq!(tcp.sequence(), SeqNum(0x0506_0708));
        assert_eq!(tcp.acknowledgment(), SeqNum(0x090a_0b0c));
        assert_eq!((tcp.header_bytes(), tcp.flags()), (24, TcpFlags::SYN));
        assert_eq!((tcp.window(), tcp.checksum(), tcp.urgent()), (0x1011, 0x1213, 0x1415));
        assert_eq!(tcp.offset_and_flags_word(), 0x6002);
    }
}
