//! Bytes put into a TCP segment in flight, or taken off its end: lengths and checksums follow.

use std::ops::Range;

use super::super::burst::Slot;
use super::super::classify::{L3, Packet};
use crate::counters::DropReason;
use crate::wire::checksum::ChecksumDelta;
use crate::wire::ip::IpProtocol;
use crate::wire::ipv4::{IPV4_HEADER_BYTES, Ipv4};
use crate::wire::ipv6::{IPV6_HEADER_BYTES, Ipv6};
use crate::wire::tcp::{TCP_HEADER_BYTES, Tcp, TcpFlags};

/// Puts whole words in front of the segment's options.
pub(super) fn put_option(slot: &mut Slot, option: &[u8]) -> Result<(), DropReason> {
    let at = slot.packet.l4 + TCP_HEADER_BYTES;
    let delta = open(slot, at, option)?;
    slot.packet.payload += option.len();
    let mut tcp = tcp(slot)?;
    let old = tcp.offset_and_flags_word();
    tcp.set_header_bytes(tcp.header_bytes() + option.len());
    let delta = delta.replace_u16(old, tcp.offset_and_flags_word());
    tcp.set_checksum(delta.apply(tcp.checksum()));
    Ok(())
}

/// Puts whole words into the IP header: over IPv4 in front of its options, over IPv6 as the header
/// `protocol` between it and the transport's. No transport checksum covers them.
pub(super) fn put_in_ip(
    slot: &mut Slot,
    words: &[u8],
    protocol: IpProtocol,
) -> Result<(), DropReason> {
    let is_ipv4 = slot.packet.key.src.is_ipv4();
    let at = if is_ipv4 { L3 + IPV4_HEADER_BYTES } else { slot.packet.l4 };
    slot.frame.set_len(slot.packet.end).map_err(|_| DropReason::Internal)?;
    slot.frame.open_gap(at, words.len()).map_err(|_| DropReason::NoHeadroom)?;
    let gap = slot.frame.bytes_mut().get_mut(at..at + words.len());
    gap.ok_or(DropReason::Internal)?.copy_from_slice(words);
    slot.packet.l4 += words.len();
    slot.packet.payload += words.len();
    slot.packet.end += words.len();
    set_ip_length(slot, slot.packet.end)?;
    let l3 = slot.frame.bytes_mut().get_mut(L3..).ok_or(DropReason::Internal)?;
    if is_ipv4 {
        let (mut ip, _) = Ipv4::parse_mut(l3).map_err(|_| DropReason::Internal)?;
        let old = ip.first_word();
        ip.set_header_bytes(ip.header_bytes() + words.len());
        let delta = ChecksumDelta::new().replace_u16(old, ip.first_word());
        ip.set_checksum(delta.replace_bytes(&[], words).apply(ip.checksum()));
    } else {
        let (mut ip, _) = Ipv6::parse_mut(l3).map_err(|_| DropReason::Internal)?;
        ip.set_next_header(protocol);
    }
    Ok(())
}

/// Puts bytes in front of the payload and sets PSH; the sequence number is the caller's to set.
pub(super) fn put_payload(slot: &mut Slot, bytes: &[u8]) -> Result<(), DropReason> {
    let at = slot.packet.payload;
    let mut delta = ChecksumDelta::new();
    if bytes.len() % 2 == 1 {
        // What follows moves by an odd count: high and low bytes change places.
        let moved = slot.frame.bytes().get(at..slot.packet.end).ok_or(DropReason::Internal)?;
        delta = delta.replace_bytes(moved, &[]).replace_bytes_at(1, &[], moved);
    }
    delta = delta.merge(open(slot, at, bytes)?);
    let mut tcp = tcp(slot)?;
    let old = tcp.offset_and_flags_word();
    tcp.set_flags(tcp.flags() | TcpFlags::PSH);
    delta = delta.replace_u16(old, tcp.offset_and_flags_word());
    if tcp.flags().contains(TcpFlags::URG) {
        let moved = tcp.urgent().saturating_add(bytes.len() as u16);
        delta = delta.replace_u16(tcp.urgent(), moved);
        tcp.set_urgent(moved);
    }
    tcp.set_checksum(delta.apply(tcp.checksum()));
    Ok(())
}

/// Takes the payload off.
pub(super) fn cut_payload(slot: &mut Slot) -> Result<(), DropReason> {
    let Packet { l4, payload, end, .. } = slot.packet;
    let cut = slot.frame.bytes().get(payload..end).ok_or(DropReason::Internal)?;
    let delta = ChecksumDelta::new().replace_bytes(cut, &[]);
    let delta = delta.replace_u16((end - l4) as u16, (payload - l4) as u16);
    set_ip_length(slot, payload)?;
    slot.packet.end = payload;
    slot.frame.set_len(payload).map_err(|_| DropReason::Internal)?;
    let mut tcp = tcp(slot)?;
    tcp.set_checksum(delta.apply(tcp.checksum()));
    Ok(())
}

/// Puts other bytes, not necessarily as many, in the place of some of the payload.
pub(super) fn replace_payload(
    slot: &mut Slot,
    span: Range<usize>,
    new: &[u8],
) -> Result<(), DropReason> {
    let Packet { l4, payload, end, .. } = slot.packet;
    let (at, old_bytes) = (payload + span.start, span.len());
    slot.frame.set_len(end).map_err(|_| DropReason::Internal)?;
    let tail = slot.frame.bytes().get(at..).ok_or(DropReason::Internal)?;
    // All from the change on may move by an odd count: it is taken out of the sum and put back.
    let delta = ChecksumDelta::new().replace_bytes_at(at - l4, tail, &[]);
    let grown = end + new.len() - old_bytes;
    // The packet never says that it is longer than the frame.
    match new.len().checked_sub(old_bytes) {
        Some(more) => {
            slot.frame.open_gap(at, more).map_err(|_| DropReason::NoHeadroom)?;
            set_ip_length(slot, grown)?;
        }
        None => {
            set_ip_length(slot, grown)?;
            slot.frame.close_gap(at, old_bytes - new.len()).map_err(|_| DropReason::Internal)?;
        }
    }
    let text = slot.frame.bytes_mut().get_mut(at..at + new.len());
    text.ok_or(DropReason::Internal)?.copy_from_slice(new);
    let tail = slot.frame.bytes().get(at..grown).ok_or(DropReason::Internal)?;
    let delta = delta.replace_bytes_at(at - l4, &[], tail);
    let delta = delta.replace_u16((end - l4) as u16, (grown - l4) as u16);
    slot.packet.end = grown;
    let mut tcp = tcp(slot)?;
    tcp.set_checksum(delta.apply(tcp.checksum()));
    Ok(())
}

/// Opens a gap at an even offset of the segment and fills it; returns what that changes in its
/// checksum. Link padding is cut off first.
fn open(slot: &mut Slot, at: usize, bytes: &[u8]) -> Result<ChecksumDelta, DropReason> {
    let Packet { l4, end, .. } = slot.packet;
    slot.frame.set_len(end).map_err(|_| DropReason::Internal)?;
    slot.frame.open_gap(at, bytes.len()).map_err(|_| DropReason::NoHeadroom)?;
    let gap = slot.frame.bytes_mut().get_mut(at..at + bytes.len());
    gap.ok_or(DropReason::Internal)?.copy_from_slice(bytes);
    let grown = end + bytes.len();
    set_ip_length(slot, grown)?;
    slot.packet.end = grown;
    // The length is part of the pseudo header.
    let delta = ChecksumDelta::new().replace_bytes(&[], bytes);
    Ok(delta.replace_u16((end - l4) as u16, (grown - l4) as u16))
}

/// Writes the IP packet's length: it ends at frame offset `end`.
fn set_ip_length(slot: &mut Slot, end: usize) -> Result<(), DropReason> {
    let l3 = slot.frame.bytes_mut().get_mut(L3..).ok_or(DropReason::Internal)?;
    if slot.packet.key.src.is_ipv4() {
        let (mut ip, _) = Ipv4::parse_mut(l3).map_err(|_| DropReason::Internal)?;
        let (old, new) = (ip.total_length(), (end - L3) as u16);
        let delta = ChecksumDelta::new().replace_u16(old, new);
        ip.set_total_length(new);
        ip.set_checksum(delta.apply(ip.checksum()));
    } else {
        let (mut ip, _) = Ipv6::parse_mut(l3).map_err(|_| DropReason::Internal)?;
        ip.set_payload_length((end - L3 - IPV6_HEADER_BYTES) as u16);
    }
    Ok(())
}

fn tcp<'s>(slot: &'s mut Slot) -> Result<Tcp<&'s mut [u8; TCP_HEADER_BYTES]>, DropReason> {
    let segment = slot.frame.bytes_mut().get_mut(slot.packet.l4..slot.packet.end);
    let (tcp, _) =
        Tcp::parse_mut(segment.ok_or(DropReason::Internal)?).map_err(|_| DropReason::Internal)?;
    Ok(tcp)
}
