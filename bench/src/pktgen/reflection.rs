//! The far end: turns a frame round, and answers TCP as a server that remembers nothing.
//!
//! What the server says follows from what it hears: a SYN gets a SYN-ACK, data is echoed, a FIN
//! is answered with one. Datagrams go back as they came.

use gyre::frame::Frame;
use gyre::wire::checksum::Sum;
use gyre::wire::ethernet::{EtherType, MacAddr};
use gyre::wire::ip::IpProtocol;
use gyre::wire::tcp::{SeqNum, Tcp, TcpFlags};
use std::net::IpAddr;

use super::incoming::locate;

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reflected {
    /// It now is the answer: send it.
    Answer,
    /// It needs no answer.
    Silent,
    /// It is nothing that can be turned round.
    Foreign,
}

const ETHERNET_BYTES: usize = 14;

/// Turns `frame` into its answer, in place. It goes to `reply_mac`, or back to its sender.
pub fn reflect(frame: &mut Frame<'_>, reply_mac: Option<MacAddr>) -> Reflected {
    let Some(found) = locate(frame.bytes()) else { return Reflected::Foreign };
    let is_tcp = found.protocol == IpProtocol::TCP;
    let is_v4 = found.src.is_ipv4();
    let (src, dst) = (found.src, found.dst);
    let (segment_bytes, network_at) = (found.segment.len(), found.network_at);
    // Out of a tunnel the answer goes straight to the client.
    let gap = network_at - ETHERNET_BYTES;
    let transport_at = found.transport_at - gap;
    if frame.close_gap(ETHERNET_BYTES, gap).is_err() {
        return Reflected::Foreign;
    }
    let bytes = frame.bytes_mut();
    turn_link(bytes, reply_mac, is_v4);
    let (address_at, address_bytes) = if is_v4 { (26, 4) } else { (22, 16) };
    swap(bytes, address_at, address_bytes);
    swap(bytes, transport_at, 2);
    if !is_tcp {
        // Sums do not mind the order of what they add.
        return Reflected::Answer;
    }
    let segment = &mut bytes[transport_at..transport_at + segment_bytes];
    answer_tcp(segment, dst, src)
}

fn turn_link(bytes: &mut [u8], reply_mac: Option<MacAddr>, is_v4: bool) {
    swap(bytes, 0, 6);
    if let Some(mac) = reply_mac {
        bytes[..6].copy_from_slice(&mac.0);
    }
    let kind = if is_v4 { EtherType::IPV4 } else { EtherType::IPV6 };
    bytes[12..14].copy_from_slice(&kind.0.to_be_bytes());
}

/// Exchanges two neighbours of `count` bytes.
fn swap(bytes: &mut [u8], at: usize, count: usize) {
    let (one, other) = bytes[at..at + 2 * count].split_at_mut(count);
    one.swap_with_slice(other);
}

/// Edits a segment whose ports are turned already into what a server says from `src` to `dst`.
fn answer_tcp(segment: &mut [u8], src: IpAddr, dst: IpAddr) -> Reflected {
    let Ok((tcp, _)) = Tcp::parse(segment) else { return Reflected::Foreign };
    let (heard, seq, ack) = (tcp.flags(), tcp.sequence(), tcp.acknowledgment());
    let payload_bytes = segment.len().saturating_sub(tcp.header_bytes()) as u32;
    if heard.contains(TcpFlags::RST) {
        return Reflected::Silent;
    }
    let (own, flags) = if heard.contains(TcpFlags::SYN) {
        // Any number will do, as long as the same SYN always gets the same.
        (SeqNum(seq.0.rotate_left(16) ^ 0x5bd1_e995), TcpFlags::SYN | TcpFlags::ACK)
    } else if heard.contains(TcpFlags::FIN) {
        (ack, TcpFlags::FIN | TcpFlags::ACK)
    } else if payload_bytes > 0 {
        (ack, TcpFlags::PSH | TcpFlags::ACK)
    } else {
        return Reflected::Silent;
    };
    let counted = payload_bytes + u32::from(heard.intersects(TcpFlags::SYN | TcpFlags::FIN));
    let length = segment.len();
    let Ok((mut tcp, _)) = Tcp::parse_mut(segment) else { return Reflected::Foreign };
    tcp.set_sequence(own);
    tcp.set_acknowledgment(seq.wrapping_add(counted));
    tcp.set_flags(flags);
    tcp.set_checksum(0);
    let pseudo = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            Sum::pseudo_v4(src, dst, IpProtocol::TCP, length as u16)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            Sum::pseudo_v6(src, dst, IpProtocol::TCP, length as u32)
        }
        _ => return Reflected::Foreign,
    };
    let checksum = pseudo.add_bytes(segment).checksum();
    segment[16..18].copy_from_slice(&checksum.to_be_bytes());
    Reflected::Answer
}

#[cfg(test)]
#[path = "reflection_tests.rs"]
mod tests;
