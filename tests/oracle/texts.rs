//! Frames as the recordings of states tell them, in words: `10.0.0.7:1001 > 10.1.0.1:80 tcp [S]
//! ttl 64 len 40`. Words make a frame for the director, and frames that it sends become words.

use std::net::{IpAddr, SocketAddr};

use gyre::model::NicId;
use gyre::wire::tcp::TcpFlags;

use crate::frames::{L3, byte, ip, word};
use crate::support::{CLIENT, from_client, from_server};

/// Sequence number of all clients' segments, and what servers acknowledge.
const CLIENT_SEQ: u32 = 1000;
/// The same of servers.
const SERVER_SEQ: u32 = 5000;

const LETTERS: [(u8, char); 5] = [(2, 'S'), (1, 'F'), (4, 'R'), (8, 'P'), (16, 'A')];

/// TCP flags by their letters.
pub fn flags(letters: &str) -> TcpFlags {
    letters.chars().fold(TcpFlags::NONE, |flags, letter| {
        flags
            | match letter {
                'S' => TcpFlags::SYN,
                'A' => TcpFlags::ACK,
                'F' => TcpFlags::FIN,
                'R' => TcpFlags::RST,
                'P' => TcpFlags::PSH,
                other => panic!("unknown flag {other}"),
            }
    })
}

/// `10.0.0.7:1001` or `fd00:c::1:1001`: the port is behind the last colon.
fn endpoint(text: &str) -> SocketAddr {
    let (address, port) = text.rsplit_once(':').unwrap();
    SocketAddr::new(address.parse().unwrap(), port.parse().unwrap())
}

/// A TCP segment from one side.
pub fn segment(nic: NicId, src: SocketAddr, dst: SocketAddr, letters: &str) -> Vec<u8> {
    let (ip, seq, ack) = match nic {
        CLIENT => (from_client(src.ip(), dst.ip()), CLIENT_SEQ, SERVER_SEQ + 1),
        _ => (from_server(src.ip(), dst.ip()), SERVER_SEQ, CLIENT_SEQ + 1),
    };
    let tcp = ip.tcp(src.port(), dst.port()).seq(seq).ack(ack).flags(flags(letters));
    tcp.build().to_vec()
}

/// The frame that `text` tells of.
pub fn frame(nic: NicId, text: &str) -> Vec<u8> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let (src, dst) = (endpoint(words[0]), endpoint(words[2]));
    match words[3] {
        "tcp" => segment(nic, src, dst, words[4].trim_matches(['[', ']'])),
        "udp" => {
            let headers = if src.is_ipv4() { 28 } else { 48 };
            let bytes: usize = words.last().unwrap().parse().unwrap();
            let ip = match nic {
                CLIENT => from_client(src.ip(), dst.ip()),
                _ => from_server(src.ip(), dst.ip()),
            };
            let payload = vec![b'x'; bytes - headers];
            ip.udp(src.port(), dst.port()).payload(&payload).build().to_vec()
        }
        other => panic!("{text}: what is {other}?"),
    }
}

/// A frame in the recordings' words.
pub fn tell(frame: &[u8]) -> String {
    match word(frame, 12) {
        0x0800 | 0x86dd => packet(frame, L3),
        other => format!("ethertype {other:04x}"),
    }
}

fn packet(frame: &[u8], at: usize) -> String {
    let Some(found) = ip(frame, at) else { return "no packet".into() };
    let (ttl, len) = match found.src {
        IpAddr::V4(_) => (byte(frame, at + 8), word(frame, at + 2)),
        IpAddr::V6(_) => (byte(frame, at + 7), word(frame, at + 4) + 40),
    };
    let ports = || {
        let (src, dst) = (word(frame, found.l4), word(frame, found.l4 + 2));
        format!("{}:{src} > {}:{dst}", found.src, found.dst)
    };
    let error = |name: &str| {
        let (kind, code) = (byte(frame, found.l4), byte(frame, found.l4 + 1));
        let inner = packet(frame, found.l4 + 8);
        format!("{} > {} {name} type {kind} code {code} {{ {inner} }}", found.src, found.dst)
    };
    let what = match found.protocol {
        6 => {
            let bits = byte(frame, found.l4 + 13);
            let letters = LETTERS.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, l)| l);
            format!("{} tcp [{}]", ports(), letters.collect::<String>())
        }
        17 => format!("{} udp", ports()),
        1 => error("icmp"),
        58 => error("icmp6"),
        4 => {
            format!("{} > {} ipip(4) {{ {} }}", found.src, found.dst, packet(frame, found.l4))
        }
        other => format!("{} > {} protocol {other}", found.src, found.dst),
    };
    format!("{what} ttl {ttl} len {len}")
}

#[test]
fn words_and_frames_say_the_same() {
    for text in [
        "10.0.0.7:1001 > 10.1.0.1:80 tcp [SA] ttl 64 len 40",
        "fd00:c::7:1 > fd00:1::1:53 udp ttl 64 len 53",
        "10.0.0.7:1001 > 10.1.0.1:80 udp ttl 64 len 29",
    ] {
        assert_eq!(tell(&frame(CLIENT, text)), text);
    }
}
