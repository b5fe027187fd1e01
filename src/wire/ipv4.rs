//! IPv4 header (RFC 791). Options are handed over as bytes; nobody here interprets them.

use std::borrow::{Borrow, BorrowMut};
use std::net::Ipv4Addr;

use super::checksum::{ChecksumDelta, Sum};
use super::ip::{Fragment, IpProtocol};
use super::{WireError, array_at, put_at};

/// Size of the header without options.
pub const IPV4_HEADER_BYTES: usize = 20;
/// Size of the header with as many options as IHL can count.
pub const IPV4_HEADER_BYTES_MAX: usize = 60;
/// "Do not fragment" in the fragment word.
pub const DONT_FRAGMENT: u16 = 0x4000;
/// "More fragments" in the fragment word.
pub const MORE_FRAGMENTS: u16 = 0x2000;
/// The offset, in units of eight bytes, in the fragment word.
const OFFSET_MASK: u16 = 0x1fff;

/// IPv4 header. `H` is `&[u8; 20]` to read or `&mut [u8; 20]` to rewrite.
#[derive(Clone, Copy, Debug)]
pub struct Ipv4<H>(H);

/// How far an IPv4 packet reaches into the bytes it was found in.
struct Extent {
    header_bytes: usize,
    total_bytes: usize,
}

impl<'a> Ipv4<&'a [u8; IPV4_HEADER_BYTES]> {
    /// The header and the payload: options skipped, link padding cut off. The checksum is not
    /// looked at, see `verify_checksum`. Errors: `Truncated`, `BadVersion`, `BadHeaderLength`,
    /// `BadTotalLength`.
    pub fn parse(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), WireError> {
        let (header, _, payload) = Self::parse_with_options(bytes)?;
        Ok((header, payload))
    }

    /// As `parse`, with the options (0 to 40 bytes) between header and payload.
    pub fn parse_with_options(bytes: &'a [u8]) -> Result<(Self, &'a [u8], &'a [u8]), WireError> {
        let extent = measure(bytes)?;
        let packet = bytes.get(..extent.total_bytes).ok_or(WireError::BadTotalLength)?;
        Self::split(packet, &extent)
    }

    /// The header of a packet that an ICMP error quotes: as `parse`, but the payload is what
    /// there is of it, since errors quote as few as eight bytes (RFC 792).
    pub fn parse_quoted(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), WireError> {
        let extent = measure(bytes)?;
        let packet = bytes.get(..extent.total_bytes).unwrap_or(bytes);
        let (header, _, payload) = Self::split(packet, &extent)?;
        Ok((header, payload))
    }

    fn split(packet: &'a [u8], extent: &Extent) -> Result<(Self, &'a [u8], &'a [u8]), WireError> {
        let (header, rest) = packet.split_first_chunk().ok_or(WireError::Truncated)?;
        let (options, payload) = rest
            .split_at_checked(extent.header_bytes - IPV4_HEADER_BYTES)
            .ok_or(WireError::Truncated)?;
        Ok((Ipv4(header), options, payload))
    }
}

impl<'a> Ipv4<&'a mut [u8; IPV4_HEADER_BYTES]> {
    /// As `parse`, to rewrite.
    pub fn parse_mut(bytes: &'a mut [u8]) -> Result<(Self, &'a mut [u8]), WireError> {
        let extent = measure(bytes)?;
        let packet = bytes.get_mut(..extent.total_bytes).ok_or(WireError::BadTotalLength)?;
        Self::split_mut(packet, &extent)
    }

    /// As `parse_quoted`, to rewrite.
    pub fn parse_quoted_mut(bytes: &'a mut [u8]) -> Result<(Self, &'a mut [u8]), WireError> {
        let extent = measure(bytes)?;
        let packet_bytes = extent.total_bytes.min(bytes.len());
        Self::split_mut(&mut bytes[..packet_bytes], &extent)
    }

    /// Starts a new header here, without options: zero but for version and IHL. `Truncated` below
    /// 20 bytes.
    pub fn blank(bytes: &'a mut [u8]) -> Result<(Self, &'a mut [u8]), WireError> {
        let (header, payload) = bytes.split_first_chunk_mut().ok_or(WireError::Truncated)?;
        *header = [0; IPV4_HEADER_BYTES];
        header[0] = 0x45;
        Ok((Ipv4(header), payload))
    }

    fn split_mut(packet: &'a mut [u8], extent: &Extent) -> Result<(Self, &'a mut [u8]), WireError> {
        let (header, rest) = packet.split_first_chunk_mut().ok_or(WireError::Truncated)?;
        let (_, payload) = rest
            .split_at_mut_checked(extent.header_bytes - IPV4_HEADER_BYTES)
            .ok_or(WireError::Truncated)?;
        Ok((Ipv4(header), payload))
    }
}

impl<H: Borrow<[u8; IPV4_HEADER_BYTES]>> Ipv4<H> {
    /// Header size in bytes, options included: 20 to 60.
    pub fn header_bytes(&self) -> usize {
        usize::from(self.0.borrow()[0] & 0x0f) * 4
    }

    /// Version, header size and type of service: what a checksum sees of them.
    pub fn first_word(&self) -> u16 {
        let header = self.0.borrow();
        u16::from_be_bytes([header[0], header[1]])
    }

    /// Type of service: DSCP and ECN.
    pub fn tos(&self) -> u8 {
        self.0.borrow()[1]
    }

    /// Header and payload, in bytes.
    pub fn total_length(&self) -> u16 {
        self.word::<2>()
    }

    /// Identification, which pieces of one datagram share.
    pub fn id(&self) -> u16 {
        self.word::<4>()
    }

    /// Flags and offset as they stand: `DONT_FRAGMENT`, `MORE_FRAGMENTS`, offset / 8.
    pub fn fragment_word(&self) -> u16 {
        self.word::<6>()
    }

    /// Whether routers must not fragment the packet.
    pub fn dont_fragment(&self) -> bool {
        self.fragment_word() & DONT_FRAGMENT != 0
    }

    /// The packet's place in its datagram; none when it is whole.
    pub fn fragment(&self) -> Option<Fragment> {
        let word = self.fragment_word();
        if word & (MORE_FRAGMENTS | OFFSET_MASK) == 0 {
            return None;
        }
        Some(Fragment {
            id: u32::from(self.id()),
            offset_bytes: (word & OFFSET_MASK) * 8,
            more: word & MORE_FRAGMENTS != 0,
        })
    }

    /// Time to live, in hops.
    pub fn ttl(&self) -> u8 {
        self.0.borrow()[8]
    }

    /// What the packet carries.
    pub fn protocol(&self) -> IpProtocol {
        IpProtocol(self.0.borrow()[9])
    }

    /// Header checksum as it stands.
    pub fn checksum(&self) -> u16 {
        self.word::<10>()
    }

    /// Source address.
    pub fn src(&self) -> Ipv4Addr {
        self.src_bytes().into()
    }

    /// Destination address.
    pub fn dst(&self) -> Ipv4Addr {
        self.dst_bytes().into()
    }

    /// Source address in wire order.
    pub fn src_bytes(&self) -> [u8; 4] {
        array_at::<12, 4, _>(self.0.borrow())
    }

    /// Destination address in wire order.
    pub fn dst_bytes(&self) -> [u8; 4] {
        array_at::<16, 4, _>(self.0.borrow())
    }

    /// Checks the header checksum over header and `options`; `BadChecksum` when it does not hold.
    pub fn verify_checksum(&self, options: &[u8]) -> Result<(), WireError> {
        let sum = Sum::new().add_bytes(self.0.borrow()).add_bytes(options);
        if sum.holds() { Ok(()) } else { Err(WireError::BadChecksum) }
    }

    /// The checksum that header and `options` should have, whatever stands there now.
    pub fn compute_checksum(&self, options: &[u8]) -> u16 {
        let mut header = *self.0.borrow();
        put_at::<10, 2, _>(&mut header, [0; 2]);
        Sum::new().add_bytes(&header).add_bytes(options).checksum()
    }

    fn word<const OFFSET: usize>(&self) -> u16 {
        u16::from_be_bytes(array_at::<OFFSET, 2, _>(self.0.borrow()))
    }
}

impl<H: BorrowMut<[u8; IPV4_HEADER_BYTES]>> Ipv4<H> {
    /// Sets type of service.
    pub fn set_tos(&mut self, tos: u8) {
        self.0.borrow_mut()[1] = tos;
    }

    /// Sets the header's size, options included: a multiple of four.
    pub fn set_header_bytes(&mut self, bytes: usize) {
        let header = self.0.borrow_mut();
        header[0] = header[0] & 0xf0 | (bytes / 4) as u8 & 0x0f;
    }

    /// Sets the size of header and payload, in bytes.
    pub fn set_total_length(&mut self, bytes: u16) {
        self.set_word::<2>(bytes);
    }

    /// Sets the identification.
    pub fn set_id(&mut self, id: u16) {
        self.set_word::<4>(id);
    }

    /// Sets flags and offset at once, see `fragment_word`.
    pub fn set_fragment_word(&mut self, word: u16) {
        self.set_word::<6>(word);
    }

    /// Sets the time to live, in hops.
    pub fn set_ttl(&mut self, ttl: u8) {
        self.0.borrow_mut()[8] = ttl;
    }

    /// Sets what the packet carries.
    pub fn set_protocol(&mut self, protocol: IpProtocol) {
        self.0.borrow_mut()[9] = protocol.0;
    }

    /// Sets the header checksum.
    pub fn set_checksum(&mut self, checksum: u16) {
        self.set_word::<10>(checksum);
    }

    /// Sets the source address.
    pub fn set_src(&mut self, src: Ipv4Addr) {
        put_at::<12, 4, _>(self.0.borrow_mut(), src.octets());
    }

    /// Sets the destination address.
    pub fn set_dst(&mut self, dst: Ipv4Addr) {
        put_at::<16, 4, _>(self.0.borrow_mut(), dst.octets());
    }

    /// One hop fewer, and the checksum patched for it: the one edit every forwarder makes. A TTL
    /// of 0 stays; whether the packet may go on is the caller's question.
    pub fn decrement_ttl(&mut self) {
        let h = self.0.borrow_mut();
        let old = u16::from_be_bytes([h[8], h[9]]);
        h[8] = h[8].saturating_sub(1);
        let new = u16::from_be_bytes([h[8], h[9]]);
        let checksum = ChecksumDelta::new().replace_u16(old, new).apply(self.checksum());
        self.set_checksum(checksum);
    }

    fn set_word<const OFFSET: usize>(&mut self, value: u16) {
        put_at::<OFFSET, 2, _>(self.0.borrow_mut(), value.to_be_bytes());
    }
}

fn measure(bytes: &[u8]) -> Result<Extent, WireError> {
    let header: &[u8; IPV4_HEADER_BYTES] = bytes.first_chunk().ok_or(WireError::Truncated)?;
    let header = Ipv4(header);
    if header.0[0] >> 4 != 4 {
        return Err(WireError::BadVersion);
    }
    let header_bytes = header.header_bytes();
    if header_bytes < IPV4_HEADER_BYTES {
        return Err(WireError::BadHeaderLength);
    }
    let total_bytes = usize::from(header.total_length());
    if total_bytes < header_bytes {
        return Err(WireError::BadTotalLength);
    }
    Ok(Extent { header_bytes, total_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The IP packet of a recorded frame (options4.json): NOP options, TCP SYN, six bytes.
    const RECORDED: [u8; 44] = [
        0x46, 0x00, 0x00, 0x2c, 0x12, 0x34, 0x40, 0x00, 0x40, 0x06, 0x11, 0x8f, 0x0a, 0x00, 0x00,
        0x07, 0x0a, 0x01, 0x00, 0x01, 0x01, 0x01, 0x01, 0x00, 0x00, 0x06, 0x00, 0x50, 0x00, 0x00,
        0x03, 0xe8, 0x00, 0x00, 0x00, 0x00, 0x50, 0x02, 0xfa, 0xf0, 0x9c, 0xab, 0x00, 0x00,
    ];

    fn with(offset: usize, value: u8) -> [u8; 44] {
        let mut bytes = RECORDED;
        bytes[offset] = value;
        bytes
    }

    fn error_of(bytes: &[u8]) -> WireError {
        let error = Ipv4::parse(bytes).unwrap_err();
        assert_eq!(Ipv4::parse_mut(&mut bytes.to_vec()).unwrap_err(), error);
        error
    }

    #[test]
    fn recorded_header_reads_as_tcpdump_says() {
        let (ip, options, payload) = Ipv4::parse_with_options(&RECORDED).unwrap();
        assert_eq!((ip.header_bytes(), ip.total_length(), ip.id()), (24, 44, 0x1234));
        assert_eq!((ip.tos(), ip.ttl(), ip.protocol()), (0, 64, IpProtocol::TCP));
        assert!(ip.dont_fragment() && ip.fragment().is_none());
        assert_eq!(ip.src(), Ipv4Addr::new(10, 0, 0, 7));
        assert_eq!(ip.dst(), Ipv4Addr::new(10, 1, 0, 1));
        assert_eq!(options, [1, 1, 1, 0]);
        assert_eq!(payload, &RECORDED[24..]);
        assert_eq!(ip.verify_checksum(options), Ok(()));
        assert_eq!(ip.compute_checksum(options), ip.checksum());
        assert_eq!(ip.verify_checksum(&[]), Err(WireError::BadChecksum));
    }

    #[test]
    fn malformed_headers_are_told_apart() {
        assert_eq!(error_of(&RECORDED[..19]), WireError::Truncated);
        assert_eq!(error_of(&with(0, 0x66)), WireError::BadVersion);
        assert_eq!(error_of(&with(0, 0x44)), WireError::BadHeaderLength);
        assert_eq!(error_of(&with(3, 23)), WireError::BadTotalLength);
        assert_eq!(error_of(&with(3, 45)), WireError::BadTotalLength);
        assert_eq!(error_of(&RECORDED[..43]), WireError::BadTotalLength);
    }

    #[test]
    fn padding_behind_the_packet_is_cut_off() {
        let mut padded = RECORDED.to_vec();
        padded.resize(60, 0);
        assert_eq!(Ipv4::parse(&padded).unwrap().1.len(), 20);
        assert_eq!(Ipv4::parse_mut(&mut padded).unwrap().1.len(), 20);
        assert_eq!(Ipv4::parse_quoted(&padded).unwrap().1.len(), 20);
        assert_eq!(Ipv4::parse_quoted_mut(&mut padded).unwrap().1.len(), 20);
    }

    #[test]
    fn quoted_packet_may_be_cut_but_not_inside_its_header() {
        let (ip, payload) = Ipv4::parse_quoted(&RECORDED[..32]).unwrap();
        assert_eq!((ip.total_length(), payload.len()), (44, 8));
        assert_eq!(Ipv4::parse_quoted(&RECORDED[..23]).unwrap_err(), WireError::Truncated);
        let mut bytes = RECORDED;
        assert_eq!(Ipv4::parse_quoted_mut(&mut bytes[..32]).unwrap().1.len(), 8);
        let cut = Ipv4::parse_quoted_mut(&mut bytes[..23]).unwrap_err();
        assert_eq!(cut, WireError::Truncated);
    }

    #[test]
    fn ttl_decrement_gives_the_checksum_the_kernel_gives() {
        // The same packet on the server link, except for its rewritten destination.
        let mut bytes = RECORDED;
        let (mut ip, _) = Ipv4::parse_mut(&mut bytes).unwrap();
        ip.decrement_ttl();
        let delta = ChecksumDelta::new().replace_u32(ip.dst().to_bits(), 0x0a02_000b);
        ip.set_dst(Ipv4Addr::new(10, 2, 0, 11));
        ip.set_checksum(delta.apply(ip.checksum()));
        assert_eq!((ip.ttl(), ip.checksum()), (63, 0x1284));
    }

    #[test]
    fn ttl_of_zero_stays() {
        let mut bytes = with(8, 0);
        let (mut ip, _) = Ipv4::parse_mut(&mut bytes).unwrap();
        ip.decrement_ttl();
        assert_eq!((ip.ttl(), ip.checksum()), (0, 0x118f));
    }

    #[test]
    fn fragment_is_any_packet_with_more_or_an_offset() {
        let mut bytes = RECORDED;
        let (mut ip, _) = Ipv4::parse_mut(&mut bytes).unwrap();
        ip.set_fragment_word(MORE_FRAGMENTS);
        let first = Fragment { id: 0x1234, offset_bytes: 0, more: true };
        assert_eq!(ip.fragment(), Some(first));
        ip.set_fragment_word(OFFSET_MASK);
        let last = Fragment { id: 0x1234, offset_bytes: 65_528, more: false };
        assert_eq!(ip.fragment(), Some(last));
        assert!(first.is_first() && !last.is_first() && !first.is_atomic());
    }

    #[test]
    fn every_setter_moves_only_its_own_field() {
        let mut bytes = [0xff; 20];
        let (mut ip, _) = Ipv4::blank(&mut bytes).unwrap();
        ip.set_tos(0x11);
        ip.set_total_length(0x2233);
        ip.set_id(0x4455);
        ip.set_fragment_word(0x4007);
        ip.set_ttl(0x66);
        ip.set_protocol(IpProtocol::UDP);
        ip.set_checksum(0x7788);
        ip.set_src(Ipv4Addr::new(1, 2, 3, 4));
        ip.set_dst(Ipv4Addr::new(5, 6, 7, 8));
        assert_eq!((ip.src_bytes(), ip.dst_bytes()), ([1, 2, 3, 4], [5, 6, 7, 8]));
        assert_eq!(
            bytes,
            [
                0x45, 0x11, 0x22, 0x33, 0x44, 0x55, 0x40, 0x07, 0x66, 17, 0x77, 0x88, 1, 2, 3, 4,
                5, 6, 7, 8
            ]
        );
    }
}
