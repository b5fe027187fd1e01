//! Packets that do not fit their path and may be cut: IPv4 without "do not fragment", and what
//! TUN wraps in a header of its own.
//!
//! All pieces but the last leave by the outbox, in order; the last one stays in the frame. So they
//! arrive as the kernel sends them, and none of the packet's memory moves but its headers.

use super::super::burst::Verdict;
use super::super::classify::L3;
use super::super::next_hop;
use super::super::outbox::Outbox;
use super::super::state::WorkerState;
use super::family;
use crate::counters::DropReason;
use crate::frame::Frame;
use crate::limits::{OUTBOX_FRAME_BYTES, OUTBOX_FRAMES_MAX};
use crate::model::{NextHop, NextHopId, NicModel, Snapshot};
use crate::wire::ethernet::{EtherType, Ethernet, MacAddr};
use crate::wire::ip::{Fragment, IpProtocol};
use crate::wire::ipv4::{IPV4_HEADER_BYTES, IPV4_HEADER_BYTES_MAX, Ipv4, MORE_FRAGMENTS};
use crate::wire::ipv6::{FRAGMENT_HEADER_BYTES, IPV6_HEADER_BYTES, Ipv6, walk_extensions};
use crate::wire::vlan::VLAN_TAG_BYTES;

/// Bits of a fragment word that are the offset, in eights of bytes.
const OFFSET: u16 = 0x1fff;
/// What a piece in the outbox may hold of an IP packet.
pub(super) const OUTBOX_IP_BYTES: usize = OUTBOX_FRAME_BYTES - L3 - VLAN_TAG_BYTES;

/// Sends the frame's packet in pieces of at most `mtu` bytes each; pieces cannot wait for their
/// next hop.
pub(super) fn send(
    state: &mut WorkerState,
    snapshot: &Snapshot,
    frame: &mut Frame,
    (hop_id, mtu): (NextHopId, u16),
) -> Result<Verdict, DropReason> {
    let hop = next_hop::get(state, hop_id).filter(|hop| hop.resolved);
    let hop = *hop.ok_or(DropReason::NextHopPending)?;
    let nic = snapshot.nics.get(hop.nic.index()).ok_or(DropReason::Internal)?;
    let mut cut = Cut::of(frame, usize::from(mtu).min(OUTBOX_IP_BYTES))?;
    if cut.own_bytes == 0 {
        cut.id = state.next_fragment_id();
    }
    if cut.pieces() > OUTBOX_FRAMES_MAX - state.outbox.len() {
        return Err(DropReason::OutboxFull);
    }
    for at in 0..cut.pieces() - 1 {
        let l3 = frame.bytes().get(L3..).ok_or(DropReason::Internal)?;
        state.outbox.push(hop.nic, |bytes| {
            let tag = cut_link(bytes, &hop, nic, &cut)?;
            let place = Place { offset: at * cut.step, length: cut.step, more: true };
            cut.piece(bytes.get_mut(tag..)?, l3, &place).map(|ip_bytes| tag + ip_bytes)
        })?;
    }
    cut.keep_last(frame)?;
    next_hop::finish(state, snapshot, frame, hop_id)
}

/// Where pieces go.
pub(super) struct Link<'a> {
    /// A resolved next hop.
    pub hop: &'a NextHop,
    /// Its port.
    pub nic: &'a NicModel,
    /// Identification of IPv6's pieces.
    pub id: u32,
}

/// Sends the frame's packet in pieces with payloads of these sizes, all by the outbox.
pub(super) fn send_all(
    outbox: &mut Outbox,
    link: &Link,
    frame: &Frame,
    lengths: &[u16],
) -> Result<(), DropReason> {
    if lengths.is_empty() {
        return Err(DropReason::TooBig);
    }
    let cut = Cut { id: link.id, ..Cut::of(frame, OUTBOX_IP_BYTES)? };
    if lengths.len() > OUTBOX_FRAMES_MAX - outbox.len() {
        return Err(DropReason::OutboxFull);
    }
    let l3 = frame.bytes().get(L3..).ok_or(DropReason::Internal)?;
    let mut offset = 0;
    for (at, length) in lengths.iter().enumerate() {
        let place = Place { offset, length: usize::from(*length), more: at + 1 < lengths.len() };
        outbox.push(link.hop.nic, |bytes| {
            let tag = cut_link(bytes, link.hop, link.nic, &cut)?;
            cut.piece(bytes.get_mut(tag..)?, l3, &place).map(|ip_bytes| tag + ip_bytes)
        })?;
        offset += place.length;
    }
    Ok(())
}

/// Writes Ethernet header and tag of a piece; returns where its IP packet begins.
fn cut_link(bytes: &mut [u8], hop: &NextHop, nic: &NicModel, cut: &Cut) -> Option<usize> {
    let (mut ethernet, _) = Ethernet::parse_mut(bytes).ok()?;
    ethernet.set_dst(MacAddr(hop.macs.dst()));
    ethernet.set_src(MacAddr(hop.macs.src()));
    let own = if cut.is_ipv4 { EtherType::IPV4 } else { EtherType::IPV6 };
    let Some(vlan) = nic.vlan else {
        ethernet.set_ether_type(own);
        return Some(L3);
    };
    ethernet.set_ether_type(EtherType::VLAN);
    let tag = bytes.get_mut(L3..)?.first_chunk_mut::<VLAN_TAG_BYTES>()?;
    let ([high, low], [own_high, own_low]) = (vlan.to_be_bytes(), own.0.to_be_bytes());
    *tag = [high, low, own_high, own_low];
    Some(L3 + VLAN_TAG_BYTES)
}

/// A piece's place in the payload that is cut, in bytes.
struct Place {
    offset: usize,
    length: usize,
    /// Whether others follow.
    more: bool,
}

/// How a packet is cut.
struct Cut {
    is_ipv4: bool,
    /// Bytes of header that every piece begins with; in IPv6 without the fragment header.
    header_bytes: usize,
    /// Bytes of fragment header that the packet has, if it is a piece itself (IPv6).
    own_bytes: usize,
    /// Bytes of payload in every piece but the last.
    step: usize,
    payload_bytes: usize,
    /// The packet's own fragment word, IPv4's or what that would be, if it is a piece itself.
    word: u16,
    /// Identification in the fragment header (IPv6).
    id: u32,
    /// What follows the fragment header (IPv6).
    inside: IpProtocol,
}

impl Cut {
    fn of(frame: &Frame, mtu: usize) -> Result<Self, DropReason> {
        let l3 = frame.bytes().get(L3..).ok_or(DropReason::Internal)?;
        let mut cut = match Ipv4::parse(l3) {
            Ok((ip, _)) => Cut::of_v4(ip.header_bytes(), ip.fragment_word()),
            Err(_) => Cut::of_v6(l3)?,
        };
        let extra = if cut.is_ipv4 { 0 } else { FRAGMENT_HEADER_BYTES };
        cut.step = mtu.saturating_sub(cut.header_bytes + extra) & !7;
        let headers = cut.header_bytes + cut.own_bytes;
        cut.payload_bytes = l3.len().checked_sub(headers).ok_or(DropReason::Internal)?;
        if cut.step == 0 || cut.payload_bytes == 0 {
            return Err(DropReason::TooBig);
        }
        Ok(cut)
    }

    fn of_v4(header_bytes: usize, word: u16) -> Self {
        let inside = IpProtocol::NONE;
        let (own_bytes, step, payload_bytes, id) = (0, 0, 0, 0);
        Cut { is_ipv4: true, header_bytes, own_bytes, step, payload_bytes, word, id, inside }
    }

    /// The director's own packets have no extension headers but the one for fragments.
    fn of_v6(l3: &[u8]) -> Result<Self, DropReason> {
        let (ip, rest) = Ipv6::parse(l3).map_err(|_| DropReason::Internal)?;
        let whole = Cut {
            is_ipv4: false,
            header_bytes: IPV6_HEADER_BYTES,
            inside: ip.next_header(),
            ..Cut::of_v4(0, 0)
        };
        if ip.next_header() != IpProtocol::FRAGMENT {
            return Ok(whole);
        }
        let upper = walk_extensions(IpProtocol::FRAGMENT, rest).ok();
        let place = upper.and_then(|upper| upper.fragment).ok_or(DropReason::Internal)?;
        let inside = IpProtocol(*rest.first().ok_or(DropReason::Internal)?);
        let word = family::word_of_piece(&place);
        Ok(Cut { own_bytes: FRAGMENT_HEADER_BYTES, word, id: place.id, inside, ..whole })
    }

    fn pieces(&self) -> usize {
        self.payload_bytes.div_ceil(self.step)
    }

    /// Writes a piece of the packet `l3`; returns its size.
    fn piece(&self, bytes: &mut [u8], l3: &[u8], place: &Place) -> Option<usize> {
        let start = self.header_bytes + self.own_bytes + place.offset;
        let payload = l3.get(start..)?.get(..place.length)?;
        let header = l3.get(..self.header_bytes)?;
        let start = self.header_bytes + if self.is_ipv4 { 0 } else { FRAGMENT_HEADER_BYTES };
        bytes.get_mut(..self.header_bytes)?.copy_from_slice(header);
        bytes.get_mut(start..start + place.length)?.copy_from_slice(payload);
        let whole = bytes.get_mut(..start + place.length)?;
        self.mark(whole, place.offset, place.more).ok()?;
        Some(start + place.length)
    }

    /// Leaves the last piece in the frame.
    fn keep_last(&self, frame: &mut Frame) -> Result<(), DropReason> {
        let offset = (self.pieces() - 1) * self.step;
        let headers = L3 + self.header_bytes;
        frame.close_gap(headers + self.own_bytes, offset).map_err(|_| DropReason::Internal)?;
        if !self.is_ipv4 && self.own_bytes == 0 {
            frame.open_gap(headers, FRAGMENT_HEADER_BYTES).map_err(|_| DropReason::NoHeadroom)?;
        }
        let l3 = frame.bytes_mut().get_mut(L3..).ok_or(DropReason::Internal)?;
        self.mark(l3, offset, false)
    }

    /// Says in a piece's header which one it is.
    fn mark(&self, l3: &mut [u8], offset: usize, more: bool) -> Result<(), DropReason> {
        if self.is_ipv4 { self.mark_v4(l3, offset, more) } else { self.mark_v6(l3, offset, more) }
    }

    fn mark_v4(&self, l3: &mut [u8], offset: usize, more: bool) -> Result<(), DropReason> {
        let length = l3.len() as u16;
        let first = (self.word & OFFSET) + (offset / 8) as u16;
        let more = more || self.word & MORE_FRAGMENTS != 0;
        if offset > 0 {
            let options = l3.get_mut(IPV4_HEADER_BYTES..self.header_bytes);
            blank_options(options.ok_or(DropReason::Internal)?);
        }
        let mut options = [0; IPV4_HEADER_BYTES_MAX - IPV4_HEADER_BYTES];
        let count = self.header_bytes - IPV4_HEADER_BYTES;
        let kept = options.get_mut(..count).ok_or(DropReason::Internal)?;
        kept.copy_from_slice(&l3[IPV4_HEADER_BYTES..self.header_bytes]);
        let (mut ip, _) = Ipv4::parse_quoted_mut(l3).map_err(|_| DropReason::Internal)?;
        ip.set_total_length(length);
        ip.set_fragment_word(first & OFFSET | if more { MORE_FRAGMENTS } else { 0 });
        ip.set_checksum(ip.compute_checksum(kept));
        Ok(())
    }

    fn mark_v6(&self, l3: &mut [u8], offset: usize, more: bool) -> Result<(), DropReason> {
        let length = (l3.len() - IPV6_HEADER_BYTES) as u16;
        let (mut ip, rest) = Ipv6::parse_quoted_mut(l3).map_err(|_| DropReason::Internal)?;
        ip.set_next_header(IpProtocol::FRAGMENT);
        ip.set_payload_length(length);
        let offset_bytes = (self.word & OFFSET) * 8 + offset as u16;
        let more = more || self.word & MORE_FRAGMENTS != 0;
        let header = rest.first_chunk_mut().ok_or(DropReason::Internal)?;
        let place = Fragment { id: self.id, offset_bytes, more };
        *header = family::fragment_header(&place, self.inside);
        Ok(())
    }
}

/// Options that only the first piece carries become padding in the others (RFC 791 section 3.1:
/// the "copied" flag).
fn blank_options(options: &mut [u8]) {
    const COPIED: u8 = 0x80;
    let mut at = 0;
    while let Some(kind) = options.get(at).copied().filter(|kind| *kind != 0) {
        let given = options.get(at + 1).map_or(0, |length| usize::from(*length));
        let length = if kind == NOP { 1 } else { given.max(2) };
        let end = (at + length).min(options.len());
        if kind & COPIED == 0 {
            options[at..end].fill(NOP);
        }
        at = end;
    }
}

/// IPv4's option of one byte that says nothing.
const NOP: u8 = 1;
