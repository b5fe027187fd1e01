//! Fragments between IPv4 and IPv6: what comes out is the same datagram, in whatever order its
//! pieces came. It is compared with one that is built whole, checksum included.

use std::net::IpAddr;

use gyre::counters::DropReason;
use gyre::dataplane::Verdict;
use gyre::model::*;
use gyre::wire::build::IpBuilder;
use gyre::wire::ip::{Fragment, IpProtocol};
use gyre::wire::ipv4::Ipv4;
use gyre::wire::ipv6::Ipv6;
use gyre::wire::tcp::TcpFlags;
use proptest::prelude::*;

use crate::family::*;
use crate::support::*;

/// The least that every IPv6 path takes.
const IPV6_LEAST: usize = 1280;

/// A datagram from its UDP header on.
fn udp(builder: &IpBuilder, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let frame = builder.clone().udp(ports.0, ports.1).payload(payload).build();
    let header = if frame[14] >> 4 == 4 { 20 } else { 40 };
    frame[14 + header..].to_vec()
}

/// Cuts a datagram into pieces of so many bytes.
fn cut(builder: &IpBuilder, protocol: IpProtocol, bytes: &[u8], every: usize) -> Vec<Vec<u8>> {
    let ends: Vec<usize> = (0..bytes.len()).step_by(every).skip(1).collect();
    cut_at(builder, protocol, bytes, &ends)
}

fn cut_at(builder: &IpBuilder, protocol: IpProtocol, bytes: &[u8], at: &[usize]) -> Vec<Vec<u8>> {
    let starts = [&[0], at].concat();
    let ends = [at, &[bytes.len()]].concat();
    let piece = |(start, end): (usize, usize)| {
        let more = end < bytes.len();
        let place = Fragment { id: 0x1_2345, offset_bytes: start as u16, more };
        builder.clone().fragment(place).raw(protocol, &bytes[start..end]).to_vec()
    };
    starts.into_iter().zip(ends).map(piece).collect()
}

/// A piece as it came out: addresses, hops and class, place, its own bytes.
fn piece(frame: &[u8]) -> ((IpAddr, IpAddr), (u8, u8), Fragment, &[u8]) {
    let packet = &frame[14..];
    if packet[0] >> 4 == 4 {
        assert_eq!((number(frame, 12), packet[6] & 0x40), (0x0800, 0), "may be cut again");
        let (ip, options, body) = Ipv4::parse_with_options(packet).unwrap();
        assert_eq!((ip.verify_checksum(options), options.len()), (Ok(()), 0));
        let place = ip.fragment().unwrap();
        ((ip.src().into(), ip.dst().into()), (ip.ttl(), ip.tos()), place, body)
    } else {
        assert_eq!((number(frame, 12), packet[6], packet[41]), (0x86dd, 44, 0));
        let (ip, body) = Ipv6::parse(packet).unwrap();
        let upper = ip.upper_layer(body).unwrap();
        assert_eq!(upper.fragmentable_bytes, 8, "nothing but the fragment header");
        let fields = (ip.hop_limit(), ip.traffic_class());
        ((ip.src().into(), ip.dst().into()), fields, upper.fragment.unwrap(), &body[8..])
    }
}

/// Puts pieces together, which must agree on all but their place.
fn reassemble(frames: &[Vec<u8>]) -> ((IpAddr, IpAddr), Vec<u8>) {
    let (addresses, fields, first, _) = piece(&frames[0]);
    assert_eq!(fields, (63, 0x2e));
    let mut pieces: Vec<_> = frames.iter().map(|frame| piece(frame)).collect();
    pieces.sort_by_key(|(_, _, place, _)| place.offset_bytes);
    let mut whole = Vec::new();
    for (at, (own, own_fields, place, bytes)) in pieces.iter().enumerate() {
        assert_eq!((*own, *own_fields, place.id), (addresses, fields, first.id));
        assert_eq!(usize::from(place.offset_bytes), whole.len());
        assert_eq!(place.more, at + 1 < pieces.len());
        whole.extend_from_slice(bytes);
    }
    (addresses, whole)
}

/// Sends frames to the director; what it sends, all on one port.
fn through(director: &mut Director, from: NicId, to: NicId, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut sent = Vec::new();
    for frame in frames {
        let outcome = director.receive(from, frame);
        if let Verdict::Transmit(nic) = outcome.verdict {
            sent.push((nic, outcome.frame));
        }
        sent.extend(outcome.extra);
    }
    assert!(sent.iter().all(|(nic, frame)| *nic == to && frame.len() <= 14 + 1500));
    sent.into_iter().map(|(_, frame)| frame).collect()
}

/// A datagram to the VIP and one back, cut and sent in these ways; pieces that came out.
fn exchange(
    family: usize,
    payload: &[u8],
    at: &[usize],
    order: impl Fn(&mut Vec<Vec<u8>>),
) -> [usize; 2] {
    let mut director = director(family);
    let builder = to_vip(family).tos(0x2e);
    let mut frames = cut_at(&builder, IpProtocol::UDP, &udp(&builder, (777, 80), payload), at);
    order(&mut frames);
    let there = through(&mut director, CLIENT, SERVER, &frames);
    let (lip, rip) = (local(&director), ip(RIPS[1 - family]));
    let ((src, dst), whole) = reassemble(&there);
    assert_eq!((src, dst), (lip.ip(), rip));
    let wanted = udp(&from_client(lip.ip(), rip), (lip.port(), 8080), payload);
    assert_eq!(whole, wanted, "family {family}");

    let builder = from_server(rip, lip.ip()).tos(0x2e);
    let answer = udp(&builder, (8080, lip.port()), payload);
    let mut frames = cut_at(&builder, IpProtocol::UDP, &answer, at);
    order(&mut frames);
    let back = through(&mut director, SERVER, CLIENT, &frames);
    let ((src, dst), whole) = reassemble(&back);
    let (vip, client) = (ip(VIPS[family]), ip(CLIENTS[family]));
    assert_eq!((src, dst), (vip, client));
    assert_eq!(whole, udp(&from_server(vip, client), (80, 777), payload), "family {family}");
    let drops = &director.state.counters.drops;
    assert_eq!(drops.iter().map(|drops| drops.get()).sum::<u64>(), 0);
    [there.len(), back.len()]
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|n| (n * 31 / 8) as u8).collect()
}

fn every(step: usize, bytes: usize) -> Vec<usize> {
    (0..bytes).step_by(step).skip(1).collect()
}

#[test]
fn fragments_between_families_are_the_same_datagram_in_any_order() {
    for family in 0..2 {
        for bytes in [4000, 60_000] {
            let at = every(1440, bytes + 8);
            let pieces = at.len() + 1;
            for turn in [0, 1, pieces / 2] {
                let turned = |frames: &mut Vec<Vec<u8>>| frames.rotate_left(turn);
                let count = exchange(family, &pattern(bytes), &at, turned);
                assert_eq!(count, [pieces; 2], "piece by piece");
            }
            exchange(family, &pattern(bytes), &at, |frames| frames.reverse());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 48,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_split_between_families_is_the_same_datagram(
        family in 0..2usize,
        payload in prop::collection::vec(any::<u8>(), 100..5000),
        mut at in prop::collection::vec(1..180usize, 1..12),
        seed in any::<u64>(),
    ) {
        at.iter_mut().for_each(|units| *units *= 8);
        // Pieces of up to the links' size: IPv4's outgrow the other link.
        at.extend(every([1480, 1448][family], payload.len() + 8));
        at.push(96);
        at.sort_unstable();
        at.dedup();
        at.retain(|end| *end < payload.len() + 8);
        exchange(family, &payload, &at, |frames| {
            let mut state = seed | 1;
            for n in (1..frames.len()).rev() {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                frames.swap(n, state as usize % (n + 1));
            }
        });
    }
}

#[test]
fn piece_that_outgrows_its_link_is_cut_again() {
    // A full frame of IPv4 is 28 bytes too many with IPv6's two headers.
    let mut from_v4 = director(0);
    let builder = to_vip(0).tos(0x2e);
    let datagram = udp(&builder, (777, 80), &pattern(4000));
    let frames = cut(&builder, IpProtocol::UDP, &datagram, 1480);
    for turn in 0..frames.len() {
        let mut frames = frames.clone();
        frames.rotate_left(turn);
        let sent = through(&mut from_v4, CLIENT, SERVER, &frames);
        assert_eq!(sent.len(), 3 + 2, "the last one fits");
        assert_eq!(reassemble(&sent).1.len(), 8 + 4000);
        let cut = sent.iter().filter(|frame| frame.len() > 14 + IPV6_LEAST).count();
        assert_eq!(cut, 0, "so that they get through everywhere");
    }
    // To IPv4 a piece shrinks; a narrower link there has it cut.
    let mut from_v6 = director(1);
    let slot = (0..8)
        .map(NextHopId)
        .find(|slot| from_v6.state.next_hop(*slot).is_some_and(|hop| hop.neighbour == ip(RIPS[0])));
    let hop = *from_v6.state.next_hop(slot.unwrap()).unwrap();
    from_v6.state.set_next_hop(slot.unwrap(), NextHop { mtu: 1300, ..hop });
    let builder = to_vip(1).tos(0x2e);
    let datagram = udp(&builder, (777, 80), &pattern(4000));
    let sent = cut(&builder, IpProtocol::UDP, &datagram, 1448);
    let sent = through(&mut from_v6, CLIENT, SERVER, &sent);
    assert!(sent.len() == 3 + 2 && sent.iter().all(|frame| frame.len() <= 14 + 1300));
    let lip = local(&from_v6);
    let wanted = from_client(lip.ip(), ip(RIPS[0]));
    assert_eq!(reassemble(&sent).1, udp(&wanted, (lip.port(), 8080), &pattern(4000)));
}

#[test]
fn piece_that_must_not_be_cut_is_answered_once() {
    let mut director = director(0);
    let builder = to_vip(0).dont_fragment();
    let frames = cut(&builder, IpProtocol::UDP, &udp(&builder, (777, 80), &[7; 4000]), 1480);
    let out = director.receive(CLIENT, &frames[0]);
    assert_eq!(out.sent_on(), Some(CLIENT));
    // 1500 less 28: an IPv6 header for an IPv4 one, and the fragment header.
    assert_eq!((number(&out.frame, 34), number(&out.frame, 40)), (0x0304, 1472));
    let next = director.receive(CLIENT, &frames[1]).verdict;
    assert_eq!(next, Verdict::Drop(DropReason::FragmentRefused));
}

/// Its checksum would have to be made from bytes that are in other pieces.
#[test]
fn datagram_in_pieces_without_a_checksum_is_counted() {
    let mut director = director(0);
    let builder = to_vip(0);
    let mut datagram = udp(&builder, (777, 80), &[7; 4000]);
    datagram[6..8].fill(0);
    let frames = cut(&builder, IpProtocol::UDP, &datagram, 1440);
    let first = director.receive(CLIENT, &frames[0]).verdict;
    assert_eq!(first, Verdict::Drop(DropReason::FragmentNoChecksum));
    let next = director.receive(CLIENT, &frames[1]).verdict;
    assert_eq!(next, Verdict::Drop(DropReason::FragmentRefused));
}

#[test]
fn extension_headers_in_what_was_cut_are_counted() {
    let mut director = director(1);
    let builder = to_vip(1);
    let datagram = [vec![17, 0, 1, 4, 0, 0, 0, 0], udp(&builder, (777, 80), &[7; 4000])].concat();
    let frames = cut(&builder, IpProtocol::DESTINATION, &datagram, 1440);
    let first = director.receive(CLIENT, &frames[0]).verdict;
    assert_eq!(first, Verdict::Drop(DropReason::OtherFamily));
    // Before the fragment header they stay behind, as without one.
    director.advance(31.0);
    let builder = to_vip(1).tos(0x2e).extension(IpProtocol::HOP_BY_HOP, &[1, 4, 0, 0, 0, 0]);
    let datagram = udp(&to_vip(1), (778, 80), &[7; 4000]);
    let sent = cut(&builder, IpProtocol::UDP, &datagram, 1440);
    let sent = through(&mut director, CLIENT, SERVER, &sent);
    assert_eq!(reassemble(&sent).1[8..], [7; 4000]);
}

#[test]
fn fragmented_segment_passes_between_families() {
    for family in 0..2 {
        let mut director = director(family);
        let builder = to_vip(family).tos(0x2e);
        let segment = |builder: &IpBuilder, ports: (u16, u16), flags| {
            let tcp = builder.clone().tcp(ports.0, ports.1).seq(1000).flags(flags);
            tcp.payload(&pattern(1200)).build()
        };
        director.receive(CLIENT, &to_vip(family).tcp(777, 80).flags(TcpFlags::SYN).build());
        let header = 14 + [20, 40][family];
        let whole = segment(&builder, (777, 80), TcpFlags::ACK)[header..].to_vec();
        let frames = cut(&builder, IpProtocol::TCP, &whole, 800);
        let sent = through(&mut director, CLIENT, SERVER, &frames);
        let (lip, rip) = (local(&director), ip(RIPS[1 - family]));
        let wanted = segment(&from_client(lip.ip(), rip), (lip.port(), 8080), TcpFlags::ACK);
        assert_eq!(reassemble(&sent).1, wanted[14 + [40, 20][family]..]);
    }
}
