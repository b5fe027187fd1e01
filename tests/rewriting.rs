//! Rewriting is reversible: what a server sends back of a packet as it came reaches the client as
//! the packet that it sent, addresses and ports exchanged, every other bit as it was. Checksums
//! that were right are right on the way, by a full sum over the bytes; those that were wrong stay
//! wrong by as much.

#[path = "support/mod.rs"]
mod support;

use std::net::{IpAddr, SocketAddr};

use gyre::model::*;
use gyre::wire::build::IpBuilder;
use gyre::wire::tcp::TcpFlags;
use proptest::prelude::*;
use support::*;

const CLIENTS: [&str; 2] = ["10.0.0.7", "fd00:c::7"];
const VIPS: [[&str; 2]; 2] = [["10.1.0.1", "10.1.0.2"], ["fd00:1::1", "fd00:1::2"]];
const RIPS: [&str; 2] = ["10.2.0.11", "fd00:2::b"];
const MODES: [ForwardMode; 2] = [ForwardMode::Nat, ForwardMode::FullNat];
const L3: usize = 14;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Services of both modes, families and protocols, TTL kept.
fn director() -> Director {
    let mut services = Vec::new();
    for family in 0..2 {
        for (vip, mode) in VIPS[family].iter().zip(MODES) {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let key = ServiceKey::new(protocol, ip(vip), 80);
                let mut spec = ServiceSpec::new(key, SchedulerSpec::RoundRobin);
                spec.pool = Some("pool".into());
                spec.ttl = TtlPolicy::Keep;
                let endpoint = SocketAddr::new(ip(RIPS[family]), 8080);
                spec.servers = vec![server(endpoint, 1, mode)];
                services.push(spec);
            }
        }
    }
    let mut director = Director::new(KernelMode::Tap);
    let wanted = desired(services);
    director.change(|registry, hops| registry.apply(&wanted, hops)).unwrap();
    director
}

/// What a packet carries.
#[derive(Clone, Debug)]
struct Content {
    family: usize,
    mode: usize,
    src_port: u16,
    ttl: u8,
    tos: u8,
    id: u16,
    ip_options: Vec<u8>,
    /// Of a TCP segment: options, flags beside SYN, numbers. UDP has none.
    tcp: Option<(Vec<u8>, u8, u32, u32)>,
    payload: Vec<u8>,
    /// What is added to the checksum; 0 leaves it right.
    error: u16,
}

fn content() -> impl Strategy<Value = Content> {
    let tcp = (prop::collection::vec(Just(1u8), 0..10), any::<u8>(), any::<u32>(), any::<u32>());
    let ip_options = prop_oneof![Just(Vec::new()), Just(vec![1u8; 4]), Just(vec![148, 4, 0, 0])];
    (
        (0..2usize, 0..2usize, 1024..65535u16, 2..=255u8, any::<u8>(), any::<u16>()),
        ip_options,
        prop::option::of(tcp),
        prop::collection::vec(any::<u8>(), 0..1300),
        prop_oneof![3 => Just(0u16), 1 => any::<u16>()],
    )
        .prop_map(
            |((family, mode, src_port, ttl, tos, id), ip_options, tcp, payload, error)| Content {
                family,
                mode,
                src_port,
                ttl,
                tos,
                id,
                ip_options,
                tcp,
                payload,
                error,
            },
        )
}

fn build(content: &Content) -> Vec<u8> {
    let Content { family, mode, src_port, .. } = *content;
    let mut packet: IpBuilder = from_client(ip(CLIENTS[family]), ip(VIPS[family][mode]));
    packet = packet.ttl(content.ttl).tos(content.tos);
    if family == 0 {
        packet = packet.id(content.id).ipv4_options(&content.ip_options);
    }
    let mut frame = match &content.tcp {
        None => packet.udp(src_port, 80).payload(&content.payload).build().to_vec(),
        Some((options, flags, seq, ack)) => {
            let flags = TcpFlags(flags & !TcpFlags::RST.0) | TcpFlags::SYN;
            let tcp = packet.tcp(src_port, 80).seq(*seq).ack(*ack).flags(flags);
            tcp.raw_options(options).payload(&content.payload).build().to_vec()
        }
    };
    let at = checksum_at(&frame);
    let wrong = word(&frame, at).wrapping_add(content.error);
    // All ones and zero are one number; UDP's zero means something else.
    let wrong = if matches!(wrong, 0 | 0xffff) { word(&frame, at) } else { wrong };
    frame[at..at + 2].copy_from_slice(&wrong.to_be_bytes());
    frame
}

fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Where the transport header begins, and its protocol.
fn transport(frame: &[u8]) -> (usize, u8) {
    match frame[L3] >> 4 {
        4 => (L3 + usize::from(frame[L3] & 15) * 4, frame[L3 + 9]),
        _ => (L3 + 40, frame[L3 + 6]),
    }
}

fn checksum_at(frame: &[u8]) -> usize {
    let (l4, protocol) = transport(frame);
    l4 + if protocol == 6 { 16 } else { 6 }
}

/// The frame as its receiver would send it back: addresses and ports exchanged.
fn mirror(frame: &[u8], nic: NicId) -> Vec<u8> {
    let mut back = frame.to_vec();
    let (at, len) = if frame[L3] >> 4 == 4 { (L3 + 12, 4) } else { (L3 + 8, 16) };
    let (l4, _) = transport(frame);
    for (at, len) in [(at, len), (l4, 2)] {
        back[at..at + len].copy_from_slice(&frame[at + len..at + 2 * len]);
        back[at + len..at + 2 * len].copy_from_slice(&frame[at..at + len]);
    }
    back[6..12].copy_from_slice(&frame[..6]);
    back[..6].copy_from_slice(&director_mac(nic).0);
    back
}

/// The full sum over pseudo header and transport, as RFC 1071 adds: 0xffff when it is right.
fn full_sum(frame: &[u8]) -> u16 {
    let (l4, protocol) = transport(frame);
    let addresses = if frame[L3] >> 4 == 4 { L3 + 12..L3 + 20 } else { L3 + 8..L3 + 40 };
    let end = if frame[L3] >> 4 == 4 {
        L3 + usize::from(word(frame, L3 + 2))
    } else {
        L3 + 40 + usize::from(word(frame, L3 + 4))
    };
    let pairs = |bytes: &[u8]| -> u64 {
        let high = bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8);
        let low = bytes.chunks(2).map(|pair| pair.get(1).map_or(0, |byte| u64::from(*byte)));
        high.sum::<u64>() + low.sum::<u64>()
    };
    let length = (end - l4) as u64;
    let mut sum = pairs(&frame[addresses]) + u64::from(protocol) + length + pairs(&frame[l4..end]);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rewriting_is_reversible(contents in prop::collection::vec(content(), 1..8)) {
        let mut director = director();
        for content in contents {
            let sent = build(&content);
            let asked = director.receive(CLIENT, &sent);
            prop_assert_eq!(asked.sent_on(), Some(SERVER), "{:?}", asked.verdict);
            prop_assert_eq!(full_sum(&asked.frame), full_sum(&sent), "wrong by as much as before");
            let answer = director.receive(SERVER, &mirror(&asked.frame, SERVER));
            prop_assert_eq!(answer.sent_on(), Some(CLIENT), "{:?}", answer.verdict);
            prop_assert_eq!(&answer.frame[L3..], &mirror(&sent, CLIENT)[L3..]);
        }
    }
}
