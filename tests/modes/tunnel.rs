//! TUN: what the kernel was not recorded doing (the recordings have the rest): every pair of
//! families, checksums in the tunnel's header, pieces, learned path MTUs. Headers are read here by
//! hand, so that what writes them does not vouch for itself.

use std::net::IpAddr;

use gyre::counters::DropReason;
use gyre::dataplane::Verdict;
use gyre::model::*;
use gyre::wire::checksum::Sum;
use gyre::wire::ip::IpProtocol;
use gyre::wire::tcp::TcpFlags;
use proptest::prelude::*;

use crate::support::*;

const CLIENTS: [&str; 2] = ["10.0.0.7", "fd00:c::7"];
const VIPS: [&str; 2] = ["10.1.0.1", "fd00:1::1"];
const RIPS: [&str; 2] = ["10.2.0.11", "fd00:2::b"];
const TUNNELS: [Tunnel; 6] = [
    Tunnel::Ipip,
    Tunnel::Gre { checksum: false },
    Tunnel::Gre { checksum: true },
    Tunnel::Gue { port: 6080, checksum: GueChecksum::None },
    Tunnel::Gue { port: 7000, checksum: GueChecksum::Sum },
    Tunnel::Gue { port: 6080, checksum: GueChecksum::Remote },
];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A TCP service of family `inner` with one server of family `outer`.
fn director(inner: usize, outer: usize, tunnel: Tunnel) -> Director {
    let key = ServiceKey::new(Protocol::Tcp, ip(VIPS[inner]), 80);
    let mut spec = ServiceSpec::new(key, SchedulerSpec::RoundRobin);
    let tun = server((ip(RIPS[outer]), 80).into(), 1, ForwardMode::Tunnel);
    spec.servers = vec![ServerSpec { tunnel, ..tun }];
    let mut director = Director::new(KernelMode::Tap);
    director.change(|registry, hops| registry.apply(&desired(vec![spec]), hops)).unwrap();
    director
}

fn segment(family: usize, flags: TcpFlags, payload: &[u8]) -> Vec<u8> {
    let packet = from_client(ip(CLIENTS[family]), ip(VIPS[family]));
    packet.tcp(40_001, 80).seq(9).flags(flags).payload(payload).build().to_vec()
}

fn number(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Takes the outer header off: protocol inside and what is there.
fn unwrapped(frame: &[u8], outer: usize) -> (u8, Vec<u8>) {
    let l3 = &frame[14..];
    if outer == 0 {
        assert_eq!((number(frame, 12), l3[0]), (0x0800, 0x45));
        assert_eq!(usize::from(number(l3, 2)), l3.len());
        assert!(Sum::new().add_bytes(&l3[..20]).holds());
        (l3[9], l3[20..].to_vec())
    } else {
        assert_eq!((number(frame, 12), l3[0] >> 4), (0x86dd, 6));
        assert_eq!(usize::from(number(l3, 4)), l3.len() - 40);
        (l3[6], l3[40..].to_vec())
    }
}

/// The inner packet of a frame, every header around it checked.
fn decapsulated(frame: &[u8], (inner, outer): (usize, usize), tunnel: Tunnel) -> Vec<u8> {
    let (protocol, body) = unwrapped(frame, outer);
    let ip_in_ip = [4, 41][inner];
    match tunnel {
        Tunnel::Ipip => {
            assert_eq!(protocol, ip_in_ip);
            body
        }
        Tunnel::Gre { checksum } => {
            assert_eq!((protocol, number(&body, 2)), (47, [0x0800, 0x86dd][inner]));
            assert_eq!(number(&body, 0), if checksum { 0x8000 } else { 0 });
            assert!(!checksum || Sum::new().add_bytes(&body).holds());
            body[if checksum { 8 } else { 4 }..].to_vec()
        }
        Tunnel::Gue { port, checksum } => {
            assert_eq!((protocol, number(&body, 2)), (17, port));
            assert_eq!(usize::from(number(&body, 4)), body.len());
            if checksum == GueChecksum::None {
                assert_eq!(number(&body, 6), 0);
            } else {
                let pseudo = match (ip(OWN_ADDRESSES[1][outer]), ip(RIPS[outer])) {
                    (IpAddr::V4(src), IpAddr::V4(dst)) => {
                        Sum::pseudo_v4(src, dst, IpProtocol::UDP, body.len() as u16)
                    }
                    (IpAddr::V6(src), IpAddr::V6(dst)) => {
                        Sum::pseudo_v6(src, dst, IpProtocol::UDP, body.len() as u32)
                    }
                    _ => unreachable!("both are of one family"),
                };
                assert!(pseudo.add_bytes(&body).holds());
            }
            assert_eq!(body[8..12], [0, ip_in_ip, 0, 0]);
            body[12..].to_vec()
        }
    }
}

/// What the director makes of a packet before it wraps it.
fn one_hop_less(frame: &[u8], family: usize) -> Vec<u8> {
    let mut packet = frame[14..].to_vec();
    packet[[8, 7][family]] -= 1;
    if family == 0 {
        packet[10..12].fill(0);
        let checksum = Sum::new().add_bytes(&packet[..20]).checksum();
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
    packet
}

/// Puts pieces together; each must fit `mtu`.
fn reassembled(pieces: &[&[u8]], outer: usize, mtu: usize) -> Vec<u8> {
    let mut whole: Vec<u8> = Vec::new();
    for (at, frame) in pieces.iter().enumerate() {
        let l3 = &frame[14..];
        assert!(l3.len() <= mtu, "{} bytes", l3.len());
        let (word, payload) = match outer {
            0 => (number(l3, 6) << 3 & 0xfff8 | number(l3, 6) >> 13 & 1, &l3[20..]),
            _ => {
                assert_eq!(l3[6], 44);
                (number(l3, 42), &l3[48..])
            }
        };
        assert_eq!(usize::from(word & 0xfff8), whole.len());
        assert_eq!(word & 1 == 1, at + 1 < pieces.len());
        whole.extend_from_slice(payload);
    }
    // As one datagram again.
    let mut frame = pieces[0][..14].to_vec();
    let header = [20, 40][outer];
    frame.extend_from_slice(&pieces[0][14..14 + header]);
    frame.extend_from_slice(&whole);
    let length = whole.len() as u16 + if outer == 0 { 20 } else { 0 };
    let at = 14 + [2, 4][outer];
    frame[at..at + 2].copy_from_slice(&length.to_be_bytes());
    if outer == 0 {
        frame[20..22].fill(0);
        frame[24..26].fill(0);
        let checksum = Sum::new().add_bytes(&frame[14..34]).checksum();
        frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    } else {
        frame[14 + 6] = pieces[0][14 + 40];
    }
    frame
}

#[test]
fn every_tunnel_carries_both_families_in_both() {
    for tunnel in TUNNELS {
        for (inner, outer) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let mut director = director(inner, outer, tunnel);
            let mut ports = Vec::new();
            for (flags, payload) in [(TcpFlags::SYN, &b""[..]), (TcpFlags::ACK, b"odd")] {
                let sent = segment(inner, flags, payload);
                let out = director.receive(CLIENT, &sent);
                assert_eq!(out.sent_on(), Some(SERVER), "{tunnel:?} {inner} {outer}");
                let inside = decapsulated(&out.frame, (inner, outer), tunnel);
                assert_eq!(inside, one_hop_less(&sent, inner));
                assert_eq!(out.frame[..6], server_mac(ip(RIPS[outer])).0);
                ports.push(number(&out.frame, 14 + [20, 40][outer]));
            }
            // A flow keeps its source port: servers spread flows, not packets.
            assert!(!matches!(tunnel, Tunnel::Gue { .. }) || ports[0] == ports[1]);
            let row = director.flow((ip(CLIENTS[inner]), 40_001).into()).unwrap();
            assert_eq!((row.server.0, row.mode), (ip(RIPS[outer]), ForwardMode::Tunnel));
        }
    }
}

#[test]
fn too_large_for_the_tunnel_is_answered_with_what_fits_in_it() {
    for tunnel in TUNNELS {
        for (inner, outer) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let between = match tunnel {
                Tunnel::Ipip => 0,
                Tunnel::Gre { checksum: false } => 4,
                Tunnel::Gre { checksum: true } => 8,
                Tunnel::Gue { .. } => 12,
            };
            let fits = 1500 - [20, 40][outer] - between;
            let mut director = director(inner, outer, tunnel);
            director.receive(CLIENT, &segment(inner, TcpFlags::SYN, b""));
            let headers = [40, 60][inner];
            let sized = |bytes: usize| {
                let packet = from_client(ip(CLIENTS[inner]), ip(VIPS[inner])).dont_fragment();
                let tcp = packet.tcp(40_001, 80).flags(TcpFlags::ACK);
                tcp.payload(&vec![7; bytes - headers]).build()
            };
            let out = director.receive(CLIENT, &sized(fits));
            assert_eq!((out.sent_on(), out.frame.len()), (Some(SERVER), 14 + 1500));
            let out = director.receive(CLIENT, &sized(fits + 1));
            assert_eq!(out.sent_on(), Some(CLIENT));
            let icmp = &out.frame[14 + [20, 40][inner]..];
            assert_eq!(icmp[..2], [[3, 4], [2, 0]][inner]);
            assert_eq!(usize::from(number(icmp, 6)), fits);
        }
    }
}

/// RFC 8201 section 4, RFC 2473 section 7.1: hosts ignore who speaks of less than 1280 bytes.
#[test]
fn ipv6_is_never_told_less_than_1280_bytes_and_its_tunnels_packets_are_cut() {
    for (tunnel, outer) in TUNNELS.into_iter().flat_map(|tunnel| [(tunnel, 0), (tunnel, 1)]) {
        let mut director = director(1, outer, tunnel);
        director.receive(CLIENT, &segment(1, TcpFlags::SYN, b""));
        for slot in 0..8 {
            let hop = *director.state.next_hop(NextHopId(slot)).unwrap();
            let mtu = if hop.nic == SERVER { 1280 } else { 1500 };
            director.state.set_next_hop(NextHopId(slot), NextHop { mtu, ..hop });
        }
        let sent = segment(1, TcpFlags::ACK, &[7; 1280 - 60]);
        let out = director.receive(CLIENT, &sent);
        assert_eq!(out.sent_on(), Some(SERVER), "{tunnel:?} {outer}");
        let mut pieces: Vec<&[u8]> = out.extra.iter().map(|(_, frame)| frame.as_slice()).collect();
        pieces.push(&out.frame);
        assert_eq!(pieces.len(), 2);
        let whole = reassembled(&pieces, outer, 1280);
        assert_eq!(decapsulated(&whole, (1, outer), tunnel), one_hop_less(&sent, 1));
        let out = director.receive(CLIENT, &segment(1, TcpFlags::ACK, &[7; 1281 - 60]));
        assert_eq!(out.sent_on(), Some(CLIENT));
        let icmp = &out.frame[14 + 40..];
        assert_eq!((&icmp[..2], number(icmp, 6)), (&[2, 0][..], 1280));
    }
}

#[test]
fn what_may_be_cut_leaves_in_pieces_that_make_the_tunnel_packet() {
    for tunnel in TUNNELS {
        for outer in 0..2 {
            let mut director = director(0, outer, tunnel);
            director.receive(CLIENT, &segment(0, TcpFlags::SYN, b""));
            let sent = segment(0, TcpFlags::ACK, &[7; 1460]);
            let out = director.receive(CLIENT, &sent);
            assert_eq!(out.sent_on(), Some(SERVER));
            let extra = out.extra.iter().map(|(nic, frame)| {
                assert_eq!(*nic, SERVER);
                frame.as_slice()
            });
            let pieces: Vec<&[u8]> = extra.chain([out.frame.as_slice()]).collect();
            assert_eq!(pieces.len(), 2);
            let whole = reassembled(&pieces, outer, 1500);
            let inside = decapsulated(&whole, (0, outer), tunnel);
            assert_eq!(inside, one_hop_less(&sent, 0));
        }
    }
}

#[test]
fn a_learned_path_mtu_is_what_clients_are_told_for_ten_minutes() {
    let mut director = director(0, 0, Tunnel::Ipip);
    director.receive(CLIENT, &segment(0, TcpFlags::SYN, b""));
    let id = director.state.flows.next_live(0).unwrap();
    let packet = from_client(ip(CLIENTS[0]), ip(VIPS[0])).dont_fragment();
    let sent = packet.tcp(40_001, 80).flags(TcpFlags::ACK).payload(&[7; 1260]).build();
    assert_eq!(director.receive(CLIENT, &sent).sent_on(), Some(SERVER));
    director.state.learn_path_mtu(id, 1300);
    let out = director.receive(CLIENT, &sent);
    assert_eq!((out.sent_on(), number(&out.frame, 14 + 26)), (Some(CLIENT), 1280));
    director.advance(601.0);
    assert_eq!(director.receive(CLIENT, &sent).sent_on(), Some(SERVER));
}

#[test]
fn tunnel_without_an_address_of_its_own_in_the_servers_family_is_counted() {
    let mut director = director(0, 1, Tunnel::Ipip);
    let mut nics = director.snapshot.nics.as_ref().clone();
    nics[1].addresses.retain(|address| address.is_ipv4());
    let applied = director.registry.set_nics(nics);
    director.publish(applied.snapshot);
    let out = director.receive(CLIENT, &segment(0, TcpFlags::SYN, b""));
    assert_eq!(out.verdict, Verdict::Drop(DropReason::NoLocalAddress));
}

#[test]
fn tunnel_to_a_family_that_no_port_has_is_refused() {
    let mut director = Director::new(KernelMode::Tap);
    let mut nics = director.snapshot.nics.as_ref().clone();
    for nic in &mut nics {
        nic.addresses.retain(|address| address.is_ipv4());
    }
    director.registry.set_nics(nics);
    let key = ServiceKey::new(Protocol::Tcp, ip(VIPS[0]), 80);
    let mut spec = ServiceSpec::new(key, SchedulerSpec::RoundRobin);
    spec.servers = vec![server((ip(RIPS[1]), 80).into(), 1, ForwardMode::Tunnel)];
    let wanted = desired(vec![spec]);
    let problems = director.change(|registry, hops| registry.apply(&wanted, hops)).unwrap_err();
    let expected = "tcp 10.1.0.1:80, server [fd00:2::b]:80: no port has an IPv6 address to send \
                    tunnels from; list";
    assert!(problems[0].to_string().starts_with(expected), "{problems:?}");
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 60,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Whatever the packet, what leaves the tunnel is what went in, with one hop less.
    #[test]
    fn tunnel_and_pieces_give_back_any_packet(
        tunnel in prop::sample::select(&TUNNELS[..]),
        outer in 0..2usize,
        mtu in 300..1500u16,
        payload in prop::collection::vec(any::<u8>(), 0..1400),
    ) {
        let mut director = director(0, outer, tunnel);
        director.receive(CLIENT, &segment(0, TcpFlags::SYN, b""));
        for slot in 0..8 {
            let hop = *director.state.next_hop(NextHopId(slot)).unwrap();
            director.state.set_next_hop(NextHopId(slot), NextHop { mtu, ..hop });
        }
        let sent = segment(0, TcpFlags::ACK, &payload);
        let out = director.receive(CLIENT, &sent);
        prop_assert_eq!(out.sent_on(), Some(SERVER));
        let mut pieces: Vec<&[u8]> = out.extra.iter().map(|(_, frame)| frame.as_slice()).collect();
        pieces.push(&out.frame);
        let whole = match pieces.len() {
            1 => out.frame.clone(),
            _ => reassembled(&pieces, outer, usize::from(mtu)),
        };
        prop_assert_eq!(decapsulated(&whole, (0, outer), tunnel), one_hop_less(&sent, 0));
    }
}
