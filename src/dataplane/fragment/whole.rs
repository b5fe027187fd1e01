//! A datagram put together again, for TUN alone: what travels in a tunnel is whole, and the outer
//! packet is cut (recording frag-tun6). Where it is cut is the kernel's rule: at the old borders,
//! if they still fit, else as large as the largest piece was.

use arrayvec::ArrayVec;

use super::super::classify::L3;
use crate::counters::DropReason;
use crate::limits::{FRAGMENT_FRAMES_MAX, HEADROOM_BYTES};
use crate::wire::ip::IpProtocol;
use crate::wire::ipv4::{IPV4_HEADER_BYTES, Ipv4};
use crate::wire::ipv6::{FRAGMENT_HEADER_BYTES, IPV6_HEADER_BYTES, IPV6_MTU_MIN, Ipv6};

/// Largest IP packet.
const IP_BYTES_MAX: usize = u16::MAX as usize;

/// Sizes of pieces, in bytes.
pub(in super::super) type Lengths = ArrayVec<u16, { FRAGMENT_FRAMES_MAX as usize + 1 }>;

/// Room for one datagram with headers before it.
#[derive(Debug)]
pub(super) struct Whole {
    pub bytes: Vec<u8>,
    /// Where the IP packet ends.
    pub end: usize,
    /// How it came.
    pub pieces: Pieces,
}

/// The pieces that a datagram came in.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Pieces {
    /// Bytes of the datagram in each.
    lengths: Lengths,
    /// Size of the largest, as an IP packet.
    largest: usize,
    /// Bytes of headers before the datagram, now that it is whole.
    header_bytes: usize,
}

impl Whole {
    pub fn new() -> Self {
        let bytes = vec![0; HEADROOM_BYTES + L3 + IP_BYTES_MAX];
        Whole { bytes, end: 0, pieces: Pieces::default() }
    }

    /// Starts with the first piece, whose own part of the datagram begins at `body`.
    pub fn begin(&mut self, frame: &[u8], body: usize) -> Result<(), DropReason> {
        let is_ipv4 = frame.get(L3).is_some_and(|first| first >> 4 == 4);
        let headers = if is_ipv4 { body } else { body - FRAGMENT_HEADER_BYTES.min(body) };
        self.pieces = Pieces { header_bytes: headers - L3.min(headers), ..Pieces::default() };
        self.end = HEADROOM_BYTES;
        self.put(frame.get(..headers).ok_or(DropReason::Internal)?)?;
        if !is_ipv4 {
            let inside = *frame.get(headers).ok_or(DropReason::Internal)?;
            let l3 = self.bytes.get_mut(HEADROOM_BYTES + L3..self.end);
            unlink_fragment_header(l3.ok_or(DropReason::Internal)?, inside)?;
        }
        self.add(frame, body)
    }

    /// Adds a piece behind those before.
    pub fn add(&mut self, frame: &[u8], body: usize) -> Result<(), DropReason> {
        let own = frame.get(body..).ok_or(DropReason::Internal)?;
        self.pieces.largest = self.pieces.largest.max(frame.len() - L3);
        let added = self.pieces.lengths.try_push(own.len() as u16);
        added.map_err(|_| DropReason::FragmentStoreFull)?;
        self.put(own)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), DropReason> {
        let room = self.bytes.get_mut(self.end..self.end + bytes.len());
        // Larger than any IP packet may be: its pieces fitted, its headers do not.
        room.ok_or(DropReason::TooBig)?.copy_from_slice(bytes);
        self.end += bytes.len();
        Ok(())
    }

    /// Makes the headers those of a whole packet.
    pub fn finish(&mut self) -> Result<(), DropReason> {
        let packet = self.bytes.get_mut(HEADROOM_BYTES + L3..self.end);
        let packet = packet.ok_or(DropReason::Internal)?;
        let total = packet.len();
        if packet.first().is_some_and(|first| first >> 4 == 4) {
            let mut options = [0; 40];
            let count = self.pieces.header_bytes - IPV4_HEADER_BYTES.min(self.pieces.header_bytes);
            let (kept, own) = (
                options.get_mut(..count),
                packet.get(IPV4_HEADER_BYTES..IPV4_HEADER_BYTES + count),
            );
            let (Some(kept), Some(own)) = (kept, own) else { return Err(DropReason::Internal) };
            kept.copy_from_slice(own);
            let (mut ip, _) = Ipv4::parse_quoted_mut(packet).map_err(|_| DropReason::Internal)?;
            ip.set_total_length(u16::try_from(total).map_err(|_| DropReason::TooBig)?);
            ip.set_fragment_word(0);
            ip.set_checksum(ip.compute_checksum(kept));
        } else {
            let (mut ip, _) = Ipv6::parse_quoted_mut(packet).map_err(|_| DropReason::Internal)?;
            let payload = u16::try_from(total - IPV6_HEADER_BYTES.min(total));
            ip.set_payload_length(payload.map_err(|_| DropReason::TooBig)?);
        }
        Ok(())
    }
}

/// Takes the fragment header, which ended `l3`, out of the chain.
fn unlink_fragment_header(l3: &mut [u8], inside: u8) -> Result<(), DropReason> {
    const NEXT_HEADER_AT: usize = 6;
    let (mut field, mut header) = (NEXT_HEADER_AT, IPV6_HEADER_BYTES);
    // At most as many headers as classification walked over.
    while header <= l3.len() {
        let next = l3.get_mut(field).ok_or(DropReason::Internal)?;
        if *next == IpProtocol::FRAGMENT.0 {
            *next = inside;
            return Ok(());
        }
        let eighths = *l3.get(header + 1).ok_or(DropReason::Internal)?;
        (field, header) = (header, header + (usize::from(eighths) + 1) * 8);
    }
    Err(DropReason::Internal)
}

impl Pieces {
    /// Payloads of the outer packets. `between` are the bytes of tunnel header behind the outer IP
    /// header, of `outer_ipv4` or not, `mtu` what the path takes.
    pub fn recut(&self, between: usize, outer_ipv4: bool, mtu: u16) -> Lengths {
        let (mtu, largest) = (usize::from(mtu), self.largest);
        let room = match outer_ipv4 {
            true => mtu.min(largest).saturating_sub(IPV4_HEADER_BYTES),
            false => mtu
                .min(largest.max(usize::from(IPV6_MTU_MIN)))
                .saturating_sub(IPV6_HEADER_BYTES + FRAGMENT_HEADER_BYTES),
        };
        let head = between + self.header_bytes;
        let with_head =
            |(at, length): (usize, &u16)| usize::from(*length) + if at == 0 { head } else { 0 };
        let last = self.lengths.len().saturating_sub(1);
        let fits =
            |at: usize, length: usize| length <= room && (at == last || length.is_multiple_of(8));
        let kept = self.lengths.iter().enumerate().map(|piece| (piece.0, with_head(piece)));
        if kept.clone().all(|(at, length)| fits(at, length)) {
            return kept.map(|(_, length)| length as u16).collect();
        }
        let total: usize = kept.map(|(_, length)| length).sum();
        let step = (room & !7).max(8);
        let mut lengths = Lengths::new();
        let mut left = total;
        // A datagram that needs more pieces than one may have is cut too small to send.
        while left > 0 && lengths.try_push(left.min(step) as u16).is_ok() {
            left -= left.min(step);
        }
        if left > 0 { Lengths::new() } else { lengths }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(lengths: &[u16], largest: usize, header_bytes: usize) -> Pieces {
        Pieces { lengths: lengths.iter().copied().collect(), largest, header_bytes }
    }

    /// Recording frag-tun6: its two datagrams.
    #[test]
    fn borders_stay_where_they_fit() {
        let large = pieces(&[1200, 808], 1248, 40);
        assert_eq!(large.recut(0, false, 1500)[..], [1232, 816]);
        let small = pieces(&[400, 400, 208], 448, 40);
        assert_eq!(small.recut(0, false, 1500)[..], [440, 400, 208]);
    }

    /// An inner IPv4 header of 20 bytes moves every border off its multiple of eight.
    #[test]
    fn ipv4_is_cut_anew_as_large_as_before() {
        let datagram = pieces(&[1400, 608], 1420, 20);
        assert_eq!(datagram.recut(0, true, 1500)[..], [1400, 628]);
        assert_eq!(datagram.recut(0, true, 1000)[..], [976, 976, 76]);
    }
}
