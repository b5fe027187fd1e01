//! What the director's own TCP/IP stack does with a frame that IPVS leaves to it.
//!
//! gyre gives such frames to the kernel interface as they came; whether the recorded answer is
//! one that the kernel gives to this very frame is judged here, so that "to the kernel" cannot
//! stand in for work of IPVS.

use std::net::IpAddr;

use gyre::model::NicId;

use crate::frames::{self, Ip, L3, byte, ip, is_fragment, is_icmp_error, word};
use crate::lab::{OWN_ADDRESSES, Sent};
use crate::support::{CLIENT, SERVER};

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// Whether an address is the director's.
pub fn is_own(address: IpAddr) -> bool {
    OWN_ADDRESSES.iter().any(|own| own.parse() == Ok(address))
}

/// Whether it is one of the VIPs.
pub fn is_vip(address: IpAddr) -> bool {
    ["10.1.0.1", "10.1.0.2", "fd00:1::1"].iter().any(|vip| vip.parse() == Ok(address))
}

/// Whether the kernel, given `incoming` on `nic`, sends just `recorded`.
pub fn sends(nic: NicId, incoming: &[u8], recorded: &[Sent]) -> Result<(), String> {
    let Some(packet) = ip(incoming, L3).filter(|_| header_is_sound(incoming)) else {
        return silent(recorded, "an unsound header");
    };
    if !is_own(packet.dst) {
        return routes(incoming, &packet, recorded);
    }
    if is_fragment(incoming) || is_icmp_error(incoming) {
        return silent(recorded, "a fragment or an ICMP error to the host");
    }
    let answered = match packet.protocol {
        6 if byte(incoming, packet.l4 + 13) & RST != 0 => {
            return silent(recorded, "a reset to the host");
        }
        6 => is_reset,
        17 => is_port_unreachable,
        1 | 58 => is_echo_reply,
        _ => return silent(recorded, "a protocol that the host lacks"),
    };
    match recorded {
        [one] if one.nic == nic && answered(incoming, &packet, &one.bytes) => Ok(()),
        _ => Err(format!("the host's stack does not answer {recorded:?}")),
    }
}

fn silent(recorded: &[Sent], what: &str) -> Result<(), String> {
    if recorded.is_empty() { Ok(()) } else { Err(format!("{what} gets no answer")) }
}

fn header_is_sound(frame: &[u8]) -> bool {
    if byte(frame, L3) >> 4 != 4 {
        return true;
    }
    let words = (0..usize::from(byte(frame, L3) & 15) * 2).map(|at| word(frame, L3 + at * 2));
    let sum: u32 = words.map(u32::from).sum();
    (sum & 0xffff) + (sum >> 16) == 0xffff
}

/// Plain routing: out by the right link, with one hop less.
fn routes(incoming: &[u8], packet: &Ip, recorded: &[Sent]) -> Result<(), String> {
    let on_server_link =
        ["10.2.0.", "fd00:2::"].iter().any(|p| packet.dst.to_string().starts_with(p));
    let nic = if on_server_link { SERVER } else { CLIENT };
    let [one] = recorded else { return Err("routing sends one frame".into()) };
    let mut expected = incoming[L3..packet.end].to_vec();
    let ttl = if packet.src.is_ipv4() { 8 } else { 7 };
    expected[ttl] = expected[ttl].wrapping_sub(1);
    if packet.src.is_ipv4() {
        // The TTL is the high byte of its word: the checksum grows by as much.
        let sum = u32::from(word(&expected, 10)) + 0x100;
        let sum = ((sum & 0xffff) + (sum >> 16)) as u16;
        expected[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    if one.nic == nic && one.bytes[L3..] == expected {
        Ok(())
    } else {
        Err(format!("routing gives {}", frames::hex(&expected)))
    }
}

fn goes_back(asked: &Ip, answer: &[u8], protocol: u8) -> Option<Ip> {
    let ip = ip(answer, L3)?;
    ((ip.src, ip.dst, ip.protocol) == (asked.dst, asked.src, protocol)).then_some(ip)
}

/// RFC 9293 section 3.10.7.1.
fn is_reset(asked: &[u8], packet: &Ip, answer: &[u8]) -> bool {
    let Some(ip) = goes_back(packet, answer, 6) else { return false };
    let number =
        |frame: &[u8], at: usize| u32::from(word(frame, at)) << 16 | u32::from(word(frame, at + 2));
    let ports = (word(answer, ip.l4), word(answer, ip.l4 + 2))
        == (word(asked, packet.l4 + 2), word(asked, packet.l4));
    let flags = byte(asked, packet.l4 + 13);
    let payload = packet.end - packet.l4 - usize::from(byte(asked, packet.l4 + 12) >> 4) * 4;
    let controls = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
    let next = number(asked, packet.l4 + 4).wrapping_add(payload as u32 + controls);
    let (seq, ack, own_flags) =
        (number(answer, ip.l4 + 4), number(answer, ip.l4 + 8), byte(answer, ip.l4 + 13));
    let numbers = if flags & ACK != 0 {
        (seq, own_flags) == (number(asked, packet.l4 + 8), RST)
    } else {
        (seq, ack, own_flags) == (0, next, RST | ACK)
    };
    ports && numbers
}

fn is_port_unreachable(asked: &[u8], packet: &Ip, answer: &[u8]) -> bool {
    let (protocol, error) = if packet.src.is_ipv4() { (1, [3, 3]) } else { (58, [1, 4]) };
    let Some(ip) = goes_back(packet, answer, protocol) else { return false };
    let quoted = answer.get(ip.l4 + 8..ip.end).unwrap_or_default();
    answer.get(ip.l4..ip.l4 + 2) == Some(&error[..])
        && quoted.len() >= 28
        && asked[L3..].starts_with(quoted)
}

fn is_echo_reply(asked: &[u8], packet: &Ip, answer: &[u8]) -> bool {
    let (request, reply) = if packet.src.is_ipv4() { (8, 0) } else { (128, 129) };
    let Some(ip) = goes_back(packet, answer, packet.protocol) else { return false };
    byte(asked, packet.l4) == request
        && byte(answer, ip.l4) == reply
        && asked.get(packet.l4 + 4..packet.end) == answer.get(ip.l4 + 4..ip.end)
}
