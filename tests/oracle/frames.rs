//! Frames byte for byte, apart from the fields that the format calls free.
//!
//! Free are: the IPv4 id of ICMP errors that the director makes and of tunnel headers without DF,
//! ids of fragments that the director chose, the UDP source port of GUE, flow labels of outer IPv6
//! headers (of tunnels and of the director's own errors). A free field is taken over from the
//! recording, its checksum following by the change alone, so that all else is compared, a wrong
//! checksum included.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::host;

/// Where the network header begins.
pub const L3: usize = 14;

/// Reads 16 bits, 0 where there are none.
pub fn word(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |pair| u16::from_be_bytes([pair[0], pair[1]]))
}

/// A byte, 0 where there is none.
pub fn byte(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

/// The parts of a frame that tests ask for.
#[derive(Clone, Copy, Debug)]
pub struct Ip {
    pub src: IpAddr,
    pub dst: IpAddr,
    /// Protocol, for IPv6 the first next header.
    pub protocol: u8,
    /// Where that begins.
    pub l4: usize,
    /// First byte behind the packet.
    pub end: usize,
}

/// Reads a packet that begins at `at`.
pub fn ip(frame: &[u8], at: usize) -> Option<Ip> {
    match frame.get(at)? >> 4 {
        4 => {
            let header = frame.get(at..at + 20)?;
            let four = |from: usize| <[u8; 4]>::try_from(&header[from..from + 4]).unwrap();
            Some(Ip {
                src: four(12).into(),
                dst: four(16).into(),
                protocol: header[9],
                l4: at + usize::from(header[0] & 15) * 4,
                end: at + usize::from(word(header, 2)),
            })
        }
        6 => {
            let header = frame.get(at..at + 40)?;
            let sixteen = |from: usize| <[u8; 16]>::try_from(&header[from..from + 16]).unwrap();
            Some(Ip {
                src: sixteen(8).into(),
                dst: sixteen(24).into(),
                protocol: header[6],
                l4: at + 40,
                end: at + 40 + usize::from(word(header, 4)),
            })
        }
        _ => None,
    }
}

/// Whether a frame carries a piece of a datagram.
pub fn is_fragment(frame: &[u8]) -> bool {
    match ip(frame, L3) {
        Some(ip) if ip.src.is_ipv4() => word(frame, L3 + 6) & 0x3fff != 0,
        Some(ip) => ip.protocol == 44,
        None => false,
    }
}

/// Whether it is an ICMP or ICMPv6 error.
pub fn is_icmp_error(frame: &[u8]) -> bool {
    ip(frame, L3).is_some_and(|ip| match ip.protocol {
        1 => matches!(byte(frame, ip.l4), 3 | 4 | 5 | 11 | 12),
        58 => byte(frame, ip.l4) < 128,
        _ => false,
    })
}

/// Whether the director put this packet around another one: from its own address on the servers'
/// link, in a protocol that tunnels use.
fn is_tunnel(ip: &Ip) -> bool {
    let protocol = matches!(ip.protocol, 4 | 17 | 41 | 44 | 47);
    protocol && host::is_own(ip.src) && !host::is_vip(ip.src)
}

/// What a checksum becomes when a 16-bit word under it changes (RFC 1624).
fn follow(checksum: u16, old: u16, new: u16) -> u16 {
    let mut sum = u32::from(!checksum) + u32::from(!old) + u32::from(new);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Ids of fragments: recorded to ours. One datagram's pieces must agree.
pub type Ids = HashMap<u32, u32>;

/// Whether `ours` is `recorded`, apart from free fields; if not, where it differs.
pub fn compare(recorded: &[u8], ours: &[u8], incoming: &[u8], ids: &mut Ids) -> Result<(), String> {
    let mut ours = ours.to_vec();
    if ours.len() == recorded.len()
        && let Some(ip) = ip(recorded, L3)
    {
        if ip.src.is_ipv4() {
            free_v4(recorded, &mut ours, incoming, &ip);
        } else {
            free_v6(recorded, &mut ours, incoming, (&ip, &mut *ids))?;
        }
        if is_tunnel(&ip) && ip.protocol == 17 {
            free_port(recorded, &mut ours, ip.l4);
        }
    }
    if ours == recorded {
        return Ok(());
    }
    let differs = |at: &usize| recorded.get(*at) != ours.get(*at);
    let at: Vec<usize> = (0..recorded.len().max(ours.len())).filter(differs).take(12).collect();
    Err(format!(
        "differs at bytes {at:?}\n      recorded {}\n      gyre     {}",
        hex(recorded),
        hex(&ours)
    ))
}

fn free_v4(recorded: &[u8], ours: &mut [u8], incoming: &[u8], ip: &Ip) {
    let id = word(recorded, L3 + 4);
    // An error that is passed on keeps its id; one that the director makes has any.
    let made_here = is_icmp_error(recorded) && word(incoming, L3 + 4) != id;
    let without_df = is_tunnel(ip) && word(recorded, L3 + 6) & 0x4000 == 0;
    if made_here || without_df {
        let checksum = follow(word(ours, L3 + 10), word(ours, L3 + 4), id);
        ours[L3 + 4..L3 + 6].copy_from_slice(&id.to_be_bytes());
        ours[L3 + 10..L3 + 12].copy_from_slice(&checksum.to_be_bytes());
    }
}

fn free_v6(
    recorded: &[u8],
    ours: &mut [u8],
    incoming: &[u8],
    (ip, ids): (&Ip, &mut Ids),
) -> Result<(), String> {
    let label = |frame: &[u8]| (byte(frame, L3 + 1) & 15, word(frame, L3 + 2));
    let made_here = is_icmp_error(recorded) && label(incoming) != label(recorded);
    if made_here || is_tunnel(ip) {
        ours[L3 + 1] = ours[L3 + 1] & 0xf0 | recorded[L3 + 1] & 0x0f;
        ours[L3 + 2..L3 + 4].copy_from_slice(&recorded[L3 + 2..L3 + 4]);
    }
    let place = ip.l4 + 4..ip.l4 + 8;
    if ip.protocol == 44 && place.end <= ours.len() {
        let id = |bytes: &[u8]| u32::from_be_bytes(bytes[place.clone()].try_into().unwrap());
        let (recorded_id, our_id) = (id(recorded), id(ours));
        if *ids.entry(recorded_id).or_insert(our_id) != our_id {
            return Err(format!("the fragment id {our_id:#x} is not that of the other pieces"));
        }
        ours[place].copy_from_slice(&recorded_id.to_be_bytes());
    }
    Ok(())
}

fn free_port(recorded: &[u8], ours: &mut [u8], l4: usize) {
    let (old, new) = (word(ours, l4), word(recorded, l4));
    ours[l4..l4 + 2].copy_from_slice(&new.to_be_bytes());
    let checksum = word(ours, l4 + 6);
    if checksum != 0 {
        ours[l4 + 6..l4 + 8].copy_from_slice(&follow(checksum, old, new).to_be_bytes());
    }
}

/// The first bytes, for people.
pub fn hex(bytes: &[u8]) -> String {
    let shown: String = bytes.iter().take(120).map(|byte| format!("{byte:02x}")).collect();
    format!("{shown}{} ({} bytes)", if bytes.len() > 120 { "..." } else { "" }, bytes.len())
}

#[test]
fn only_free_fields_may_differ() {
    let mut recorded = vec![0; L3 + 48];
    recorded[L3] = 0x45;
    recorded[L3 + 3] = 48;
    recorded[L3 + 8] = 63;
    recorded[L3 + 9] = 4;
    recorded[L3 + 12..L3 + 20].copy_from_slice(&[10, 2, 0, 1, 10, 2, 0, 12]);
    recorded[L3 + 4] = 7;
    recorded[L3 + 10] = 0x80;
    let mut ours = recorded.clone();
    ours[L3 + 4] = 9;
    ours[L3 + 10] = 0x7e;
    let mut ids = Ids::new();
    assert_eq!(compare(&recorded, &ours, &[], &mut ids), Ok(()), "an id, its checksum following");
    ours[L3 + 8] = 64;
    assert!(compare(&recorded, &ours, &[], &mut ids).is_err(), "another TTL");
    ours[L3 + 8] = 63;
    ours[L3 + 10] = 0x80;
    assert!(compare(&recorded, &ours, &[], &mut ids).is_err(), "a checksum that did not follow");
    // With DF the id is not free.
    recorded[L3 + 6] = 0x40;
    ours = recorded.clone();
    ours[L3 + 4] = 9;
    ours[L3 + 10] = 0x7e;
    assert!(compare(&recorded, &ours, &[], &mut ids).is_err(), "an id beside DF");
}
