//! IPv6 header and the walk over its extension headers (RFC 8200). Options inside them are not
//! read; whatever cannot be walked over (AH, ESP, "none", unknown) ends the walk as the protocol.

use std::borrow::{Borrow, BorrowMut};
use std::net::Ipv6Addr;

use super::ip::{Fragment, IpProtocol};
use super::{WireError, array_at, put_at};
use crate::limits::IPV6_EXTENSIONS_MAX;

/// Size of the fixed header.
pub const IPV6_HEADER_BYTES: usize = 40;
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
    let mut upper =
        UpperLayer { protocol: first, offset_bytes: 0, fragment: None, segments_left: 0 };
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

fn is_extension(protocol: IpProtocol) -> bool {
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
