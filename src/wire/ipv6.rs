//! IPv6 header and the walk over its extension headers (RFC 8200). Options inside them are not
//! read; whatever cannot be walked over (AH, ESP, "none", unknown) ends the walk as the protocol.

use std::borrow::{Borrow, BorrowMut};
use std::net::Ipv6Addr;

use super::ip::{Fragment, IpProtocol};
use super::{WireError, array_at, put_at};
use crate::limits::IPV6_EXTENSIONS_MAX;

/// Size of the fixed header.
pub const IPV6_HEADER_BYTES: usize = 40;
/// The least MTU of a link, in bytes (RFC 8200 section 5).
pub const IPV6_MTU_MIN: u16 = 1280;
/// Size of a fragment header.
pub const FRAGMENT_HEADER_BYTES: usize = 8;

/// IPv6 header. `H` is `&[u8; 40]` to read or `&mut [u8; 40]` to rewrite.
#[derive(Clone, Copy, Debug)]
pub struct Ipv6<H>(H);

/// What lies behind the extension headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpperLayer {
    /// The first protocol that is no extension header. In a later fragment: what the fragment
    /// header names, which may again be an extension header.
    pub protocol: IpProtocol,
    /// Where it starts, in bytes from the end of the fixed header.
    pub offset_bytes: usize,
    /// Set when a fragment header was met.
    pub fragment: Option<Fragment>,
    /// Where a fragment's part of the datagram starts, behind the fragment header; 0 without one.
    pub fragmentable_bytes: usize,
    /// Segments left in a routing header: when not 0, the destination address is not the one that
    /// the transport checksum was made with.
    pub segments_left: u8,
}

impl<'a> Ipv6<&'a [u8; IPV6_HEADER_BYTES]> {
    /// The header and the payload, extension headers first, link padding cut off. Errors:
    /// `Truncated`, `BadVersion`, `BadTotalLength`.
    pub fn parse(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), WireError> {
        let (header, rest) = bytes.split_first_chunk().ok_or(WireError::Truncated)?;
        let payload_bytes = measure(header)?;
        let payload = rest.get(..payload_bytes).ok_or(WireError::BadTotalLength)?;
        Ok((Ipv6(header), payload))
    }

    /// The header of a packet that an ICMPv6 error quotes: as `parse`, but the payload is what
    /// there is of it.
    pub fn parse_quoted(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), WireError> {
        let (header, rest) = bytes.split_first_chunk().ok_or(WireError::Truncated)?;
        let payload_bytes = measure(header)?;
        Ok((Ipv6(header), rest.get(..payload_bytes).unwrap_or(rest)))
    }
}

impl<'a> Ipv6<&'a mut [u8; IPV6_HEADER_BYTES]> {
    /// As `parse`, to rewrite.
    pub fn parse_mut(bytes: &'a mut [u8]) -> Result<(Self, &'a mut [u8]), WireError> {
        let (header, rest) = bytes.split_first_chunk_mut().ok_or(WireError::Truncated)?;
        let payload_bytes = measure(header)?;
        let payload = rest.get_mut(..payload_bytes).ok_or(WireError::BadTotalLength)?;
        Ok((Ipv6(header), payload))
    }

    /// As `parse_quoted`, to rewrite.
    pub fn parse_quoted_mut(bytes: &'a mut [u8]) -> Result<(Self, &'a mut [u8]), WireError> {
        let (header, rest) = bytes.split_first_chunk_mut().ok_or(WireError::Truncated)?;
        let payload_bytes = measure(header)?.min(rest.len());
        Ok((Ipv6(header), &mut rest[..payload_bytes]))
    }

    /// Starts a new header here: zero but for the version. `Truncated` below 40 bytes.
    pub fn blank(bytes: &'a mut [u8]) -> Result<(Self, &'a mut [u8]), WireError> {
        let (header, payload) = bytes.split_first_chunk_mut().ok_or(WireError::Truncated)?;
        *header = [0; IPV6_HEADER_BYTES];
        header[0] = 0x60;
        Ok((Ipv6(header), payload))
    }
}

impl<H: Borrow<[u8; IPV6_HEADER_BYTES]>> Ipv6<H> {
    /// Traffic class: DSCP and ECN.
    pub fn traffic_class(&self) -> u8 {
        let h = self.0.borrow();
        h[0] << 4 | h[1] >> 4
    }

    /// Flow label, 20 bits.
    pub fn flow_label(&self) -> u32 {
        u32::from_be_bytes(array_at::<0, 4, _>(self.0.borrow())) & 0x000f_ffff
    }

    /// Bytes behind the fixed header, extension headers included.
    pub fn payload_length(&self) -> u16 {
        let h = self.0.borrow();
        u16::from_be_bytes([h[4], h[5]])
    }

    /// What follows the fixed header.
    pub fn next_header(&self) -> IpProtocol {
        IpProtocol(self.0.borrow()[6])
    }

    /// Hops that are left.
    pub fn hop_limit(&self) -> u8 {
        self.0.borrow()[7]
    }

    /// Source address.
    pub fn src(&self) -> Ipv6Addr {
        self.src_bytes().into()
    }

    /// Destination address.
    pub fn dst(&self) -> Ipv6Addr {
        self.dst_bytes().into()
    }

    /// Source address in wire order.
    pub fn src_bytes(&self) -> [u8; 16] {
        array_at::<8, 16, _>(self.0.borrow())
    }

    /// Destination address in wire order.
    pub fn dst_bytes(&self) -> [u8; 16] {
        array_at::<24, 16, _>(self.0.borrow())
    }

    /// Walks `payload`'s extension headers to what they carry. Errors: `Truncated`,
    /// `BadExtension`, `TooManyExtensions`.
    pub fn upper_layer(&self, payload: &[u8]) -> Result<UpperLayer, WireError> {
        walk_extensions(self.next_header(), payload)
    }
}

impl<H: BorrowMut<[u8; IPV6_HEADER_BYTES]>> Ipv6<H> {
    /// Sets the traffic class.
    pub fn set_traffic_class(&mut self, class: u8) {
        let h = self.0.borrow_mut();
        h[0] = h[0] & 0xf0 | class >> 4;
        h[1] = h[1] & 0x0f | class << 4;
    }

    /// Sets the flow label (its low 20 bits).
    pub fn set_flow_label(&mut self, label: u32) {
        let h = self.0.borrow_mut();
        let word = u32::from_be_bytes(array_at::<0, 4, _>(h)) & 0xfff0_0000;
        put_at::<0, 4, _>(h, (word | label & 0x000f_ffff).to_be_bytes());
    }

    /// Sets the bytes behind the fixed header.
    pub fn set_payload_length(&mut self, bytes: u16) {
        put_at::<4, 2, _>(self.0.borrow_mut(), bytes.to_be_bytes());
    }

    /// Sets what follows the fixed header.
    pub fn set_next_header(&mut self, protocol: IpProtocol) {
        self.0.borrow_mut()[6] = protocol.0;
    }

    /// Sets the hops that are left.
    pub fn set_hop_limit(&mut self, hops: u8) {
        self.0.borrow_mut()[7] = hops;
    }

    /// Sets the source address.
    pub fn set_src(&mut self, src: Ipv6Addr) {
        put_at::<8, 16, _>(self.0.borrow_mut(), src.octets());
    }

    /// Sets the destination address.
    pub fn set_dst(&mut self, dst: Ipv6Addr) {
        put_at::<24, 16, _>(self.0.borrow_mut(), dst.octets());
    }

    /// One hop fewer (no checksum covers it); 0 stays.
    pub fn decrement_hop_limit(&mut self) {
        let h = self.0.borrow_mut();
        h[7] = h[7].saturating_sub(1);
    }
}

/// Walks extension headers from `first`, which starts at `payload`, to what they carry.
pub fn walk_extensions(first: IpProtocol, payload: &[u8]) -> Result<UpperLayer, WireError> {
    let mut upper = UpperLayer {
        protocol: first,
        offset_bytes: 0,
        fragment: None,
        fragmentable_bytes: 0,
        segments_left: 0,
    };
    for step in 0..=IPV6_EXTENSIONS_MAX {
        let kind = upper.protocol;
        if !is_extension(kind) {
            return Ok(upper);
        }
        if step == IPV6_EXTENSIONS_MAX {
            break;
        }
        let rest = payload.get(upper.offset_bytes..).ok_or(WireError::Truncated)?;
        let start: [u8; 8] = *rest.first_chunk().ok_or(WireError::Truncated)?;
        let [next, length_eighths, _, segments_left, ..] = start;
        upper.protocol = IpProtocol(next);
        match kind {
            IpProtocol::HOP_BY_HOP if step > 0 => return Err(WireError::BadExtension),
            IpProtocol::FRAGMENT if upper.fragment.is_some() => {
                return Err(WireError::BadExtension);
            }
            IpProtocol::FRAGMENT => {
                upper.offset_bytes += FRAGMENT_HEADER_BYTES;
                let fragment = read_fragment(&start);
                upper.fragment = Some(fragment);
                upper.fragmentable_bytes = upper.offset_bytes;
                if !fragment.is_first() {
                    return Ok(upper);
                }
                continue;
            }
            IpProtocol::ROUTING => upper.segments_left = segments_left,
            _ => {}
        }
        let bytes = (usize::from(length_eighths) + 1) * 8;
        if rest.len() < bytes {
            return Err(WireError::Truncated);
        }
        upper.offset_bytes += bytes;
    }
    Err(WireError::TooManyExtensions)
}

/// Whether this is an extension header that the walk goes over.
pub fn is_extension(protocol: IpProtocol) -> bool {
    matches!(
        protocol,
        IpProtocol::HOP_BY_HOP
            | IpProtocol::ROUTING
            | IpProtocol::FRAGMENT
            | IpProtocol::DESTINATION
    )
}

fn read_fragment(header: &[u8; FRAGMENT_HEADER_BYTES]) -> Fragment {
    let word = u16::from_be_bytes([header[2], header[3]]);
    Fragment {
        id: u32::from_be_bytes(array_at::<4, 4, _>(header)),
        offset_bytes: word & 0xfff8,
        more: word & 1 != 0,
    }
}

fn measure(header: &[u8; IPV6_HEADER_BYTES]) -> Result<usize, WireError> {
    if header[0] >> 4 != 6 {
        return Err(WireError::BadVersion);
    }
    Ok(usize::from(u16::from_be_bytes([header[4], header[5]])))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(first: IpProtocol, payload: &[u8]) -> Result<UpperLayer, WireError> {
        walk_extensions(first, payload)
    }

    fn upper(protocol: IpProtocol, offset_bytes: usize) -> UpperLayer {
        UpperLayer {
            protocol,
            offset_bytes,
            fragment: None,
            fragmentable_bytes: 0,
            segments_left: 0,
        }
    }

    #[test]
    fn every_setter_moves_only_its_own_field() {
        let mut bytes = [0xff; 40];
        let (mut ip, _) = Ipv6::blank(&mut bytes).unwrap();
        ip.set_traffic_class(0xab);
        ip.set_flow_label(0xfff1_2345);
        ip.set_payload_length(0x0102);
        ip.set_next_header(IpProtocol::UDP);
        ip.set_hop_limit(1);
        ip.decrement_hop_limit();
        ip.decrement_hop_limit();
        ip.set_src(Ipv6Addr::new(1, 2, 3, 4, 5, 6, 7, 8));
        ip.set_dst(Ipv6Addr::LOCALHOST);
        assert_eq!((ip.traffic_class(), ip.flow_label()), (0xab, 0x12345));
        assert_eq!((ip.payload_length(), ip.next_header()), (0x0102, IpProtocol::UDP));
        assert_eq!(ip.hop_limit(), 0, "0 stays");
        assert_eq!(ip.src(), Ipv6Addr::new(1, 2, 3, 4, 5, 6, 7, 8));
        assert_eq!(ip.dst(), Ipv6Addr::LOCALHOST);
        assert_eq!(bytes[..8], [0x6a, 0xb1, 0x23, 0x45, 0x01, 0x02, 17, 0]);
    }

    #[test]
    fn payload_is_as_long_as_the_header_says() {
        let mut bytes = [0; 50];
        let (mut ip, _) = Ipv6::blank(&mut bytes).unwrap();
        ip.set_payload_length(8);
        assert_eq!(Ipv6::parse(&bytes).unwrap().1.len(), 8);
        assert_eq!(Ipv6::parse_mut(&mut bytes).unwrap().1.len(), 8);
        assert_eq!(Ipv6::parse(&bytes[..47]).unwrap_err(), WireError::BadTotalLength);
        assert_eq!(Ipv6::parse_mut(&mut bytes[..47]).unwrap_err(), WireError::BadTotalLength);
        assert_eq!(Ipv6::parse_quoted(&bytes[..47]).unwrap().1.len(), 7);
        assert_eq!(Ipv6::parse_quoted_mut(&mut bytes[..47]).unwrap().1.len(), 7);
        assert_eq!(Ipv6::parse(&bytes[..39]).unwrap_err(), WireError::Truncated);
        bytes[0] = 0x45;
        assert_eq!(Ipv6::parse(&bytes).unwrap_err(), WireError::BadVersion);
    }

    #[test]
    fn what_cannot_be_walked_over_is_the_protocol() {
        for protocol in [IpProtocol::TCP, IpProtocol::AH, IpProtocol::ESP, IpProtocol::NONE] {
            assert_eq!(walk(protocol, &[]), Ok(upper(protocol, 0)));
            let behind_options = [protocol.0, 0, 0, 0, 0, 0, 0, 0];
            let found = walk(IpProtocol::DESTINATION, &behind_options);
            assert_eq!(found, Ok(upper(protocol, 8)));
        }
    }

    #[test]
    fn later_fragment_ends_the_walk_whatever_it_names() {
        let header = [60, 0, 0x05, 0xa8, 0, 0, 0, 9];
        let found = walk(IpProtocol::FRAGMENT, &header).unwrap();
        let fragment = Fragment { id: 9, offset_bytes: 1448, more: false };
        assert_eq!((found.protocol, found.offset_bytes), (IpProtocol::DESTINATION, 8));
        assert_eq!(found.fragment, Some(fragment));
    }

    #[test]
    fn atomic_fragment_is_walked_over() {
        let found = walk(IpProtocol::FRAGMENT, &[17, 0, 0, 0, 0, 0, 0, 9]).unwrap();
        assert_eq!((found.protocol, found.offset_bytes), (IpProtocol::UDP, 8));
        assert!(found.fragment.is_some_and(|fragment| fragment.is_atomic()));
    }

    #[test]
    fn header_that_reaches_past_the_payload_is_truncated() {
        let two_units = [17, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(walk(IpProtocol::ROUTING, &two_units), Err(WireError::Truncated));
        assert_eq!(walk(IpProtocol::ROUTING, &two_units[..7]), Err(WireError::Truncated));
        assert_eq!(walk(IpProtocol::FRAGMENT, &[]), Err(WireError::Truncated));
    }

    #[test]
    fn hop_by_hop_comes_first_and_fragment_once() {
        let hop_by_hop = [0, 0, 0, 0, 0, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(walk(IpProtocol::HOP_BY_HOP, &hop_by_hop), Err(WireError::BadExtension));
        let fragments = [44, 0, 0, 1, 0, 0, 0, 1, 17, 0, 0, 1, 0, 0, 0, 1];
        assert_eq!(walk(IpProtocol::FRAGMENT, &fragments), Err(WireError::BadExtension));
    }

    #[test]
    fn walk_gives_up_after_the_bound() {
        let mut chain = [[60, 0, 0, 0, 0, 0, 0, 0]; IPV6_EXTENSIONS_MAX + 1];
        chain[IPV6_EXTENSIONS_MAX][0] = 17;
        let longest = &chain.as_flattened()[8..];
        let found = walk(IpProtocol::DESTINATION, longest);
        assert_eq!(found, Ok(upper(IpProtocol::UDP, 8 * IPV6_EXTENSIONS_MAX)));
        let found = walk(IpProtocol::DESTINATION, chain.as_flattened());
        assert_eq!(found, Err(WireError::TooManyExtensions));
    }
}
