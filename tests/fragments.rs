//! Fragments through the director: what comes out is the same datagram, translated, whatever the
//! order; memory is bounded, and what is dropped is counted.

#[path = "support/mod.rs"]
mod support;

use std::net::{IpAddr, SocketAddr};

use gyre::counters::DropReason;
use gyre::dataplane::{Burst, RxMeta, Verdict, process_burst};
use gyre::frame::Frame;
use gyre::limits::{FRAGMENT_CHUNKS, FRAGMENT_DATAGRAMS_MAX, FRAGMENT_FRAMES_MAX};
use gyre::model::*;
use gyre::wire::build::IpBuilder;
use gyre::wire::checksum::Sum;
use gyre::wire::ip::{Fragment, IpProtocol};
use gyre::wire::ipv4::Ipv4;
use gyre::wire::ipv6::Ipv6;
use gyre::wire::tcp::TcpFlags;
use proptest::prelude::*;
use support::*;

const CLIENTS: [&str; 2] = ["10.0.0.7", "fd00:c::7"];
const DR: [&str; 2] = ["10.1.0.1", "fd00:1::1"];
const FULLNAT: [&str; 2] = ["10.1.0.2", "fd00:1::2"];
const PROXY: [&str; 2] = ["10.1.0.3", "fd00:1::3"];
const NAT: [&str; 2] = ["10.1.0.5", "fd00:1::5"];
const EMPTY: [&str; 2] = ["10.1.0.4", "fd00:1::4"];
const RIPS: [&str; 2] = ["10.2.0.11", "fd00:2::b"];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn director() -> Director {
    let mut director = Director::new(KernelMode::Tap);
    let mut services = Vec::new();
    for (family, rip) in RIPS.into_iter().enumerate() {
        for vip in [DR, FULLNAT, PROXY, EMPTY, NAT].map(|vips| vips[family]) {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let key = ServiceKey::new(protocol, ip(vip), 80);
                let mut spec = ServiceSpec::new(key, SchedulerSpec::RoundRobin);
                spec.ttl = TtlPolicy::Decrement;
                let is_dr = [DR, EMPTY].concat().contains(&vip);
                let mode = match vip {
                    _ if is_dr => ForwardMode::DirectRoute,
                    _ if NAT.contains(&vip) => ForwardMode::Nat,
                    _ => ForwardMode::FullNat,
                };
                spec.forwarding = mode;
                spec.pool = (mode == ForwardMode::FullNat).then(|| "pool".into());
                if PROXY.contains(&vip) && protocol == Protocol::Tcp {
                    spec.client_address = ClientAddress::ProxyV1;
                }
                if !EMPTY.contains(&vip) {
                    spec.servers = vec![server(SocketAddr::new(ip(rip), 80), 1, mode)];
                }
                services.push(spec);
            }
        }
    }
    let wanted = desired(services);
    director.change(|registry, hops| registry.apply(&wanted, hops)).unwrap();
    director
}

/// The IP packet of a frame.
fn packet(frame: &[u8]) -> &[u8] {
    &frame[14..]
}

/// A frame's addresses, TTL, place in its datagram, and the bytes it has of that.
fn piece(frame: &[u8]) -> ((IpAddr, IpAddr), u8, Fragment, &[u8]) {
    if packet(frame)[0] >> 4 == 4 {
        let (ip, options, body) = Ipv4::parse_with_options(packet(frame)).unwrap();
        assert_eq!(ip.verify_checksum(options), Ok(()));
        ((ip.src().into(), ip.dst().into()), ip.ttl(), ip.fragment().unwrap(), body)
    } else {
        let (ip, body) = Ipv6::parse(packet(frame)).unwrap();
        let upper = ip.upper_layer(body).unwrap();
        let own = &body[upper.fragmentable_bytes..];
        ((ip.src().into(), ip.dst().into()), ip.hop_limit(), upper.fragment.unwrap(), own)
    }
}

/// A datagram's transport bytes, made by the builder so that its checksum is right.
fn udp(builder: IpBuilder, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let frame = builder.udp(ports.0, ports.1).payload(payload).build();
    let header = if packet(&frame)[0] >> 4 == 4 { 20 } else { 40 };
    packet(&frame)[header..].to_vec()
}

/// Cuts a datagram at these offsets.
fn cut(
    builder: &IpBuilder,
    id: u32,
    protocol: IpProtocol,
    bytes: &[u8],
    at: &[usize],
) -> Vec<Vec<u8>> {
    let mut ends: Vec<usize> = at.iter().copied().filter(|end| *end < bytes.len()).collect();
    ends.push(bytes.len());
    let mut start = 0;
    ends.into_iter()
        .map(|end| {
            let place = Fragment { id, offset_bytes: start as u16, more: end < bytes.len() };
            let frame = builder.clone().fragment(place).raw(protocol, &bytes[start..end]);
            start = end;
            frame.to_vec()
        })
        .collect()
}

/// Ends of pieces of so many bytes.
fn every(bytes: usize) -> Vec<usize> {
    (1..=u16::MAX as usize / bytes).map(|n| n * bytes).collect()
}

/// Puts pieces together; they agree on addresses, TTL and identification. Source, destination and
/// bytes, with the UDP checksum proven.
fn reassemble(frames: &[Vec<u8>]) -> (IpAddr, IpAddr, u32, Vec<u8>) {
    let (addresses, ttl, first, _) = piece(&frames[0]);
    let mut whole = Vec::new();
    let mut pieces: Vec<_> = frames.iter().map(|frame| piece(frame)).collect();
    pieces.sort_by_key(|(_, _, place, _)| place.offset_bytes);
    for (own, own_ttl, place, bytes) in &pieces {
        assert_eq!((*own, *own_ttl, place.id), (addresses, ttl, first.id));
        assert_eq!(usize::from(place.offset_bytes), whole.len());
        whole.extend_from_slice(bytes);
    }
    assert!(!pieces.last().unwrap().2.more);
    let length = whole.len();
    let pseudo = match addresses {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            Sum::pseudo_v4(src, dst, IpProtocol::UDP, length as u16)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            Sum::pseudo_v6(src, dst, IpProtocol::UDP, length as u32)
        }
        _ => unreachable!(),
    };
    assert!(pseudo.add_bytes(&whole).holds(), "UDP checksum");
    (addresses.0, addresses.1, first.id, whole)
}

/// Frames sent on a port because of these.
fn send(director: &mut Director, nic: NicId, frames: &[Vec<u8>]) -> Vec<(NicId, Vec<u8>)> {
    let mut sent = Vec::new();
    for frame in frames {
        let outcome = director.receive(nic, frame);
        if let Verdict::Transmit(nic) = outcome.verdict {
            sent.push((nic, outcome.frame));
        }
        sent.extend(outcome.extra);
    }
    sent
}

/// Sends a datagram's frames to the director; what it sends, all on one port.
fn through(director: &mut Director, from: NicId, to: NicId, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let sent = send(director, from, frames);
    assert!(sent.iter().all(|(nic, _)| *nic == to));
    sent.into_iter().map(|(_, frame)| frame).collect()
}

fn ports(bytes: &[u8]) -> (u16, u16) {
    (u16::from_be_bytes([bytes[0], bytes[1]]), u16::from_be_bytes([bytes[2], bytes[3]]))
}

/// A request and its reply in fragments, cut and sent in these orders.
fn exchange(
    vips: [&str; 2],
    family: usize,
    bytes: usize,
    order: impl Fn(&mut Vec<Vec<u8>>),
    at: &[usize],
) {
    let mut director = director();
    let (client, vip, rip) = (ip(CLIENTS[family]), ip(vips[family]), ip(RIPS[family]));
    let payload: Vec<u8> = (0..bytes).map(|n| (n * 31 / 8) as u8).collect();
    let request = udp(from_client(client, vip), (777, 80), &payload);
    let mut frames = cut(&from_client(client, vip), 0x1_2345, IpProtocol::UDP, &request, at);
    let count = frames.len();
    order(&mut frames);
    let sent = through(&mut director, CLIENT, SERVER, &frames);
    assert_eq!(sent.len(), count, "{vips:?}");
    let (src, dst, _, whole) = reassemble(&sent);
    assert_eq!(whole[8..], payload);
    if vips == DR {
        assert_eq!((src, dst, whole), (client, vip, request));
        return;
    }
    assert_eq!((dst, ports(&whole).1), (rip, 80));
    let local = ports(&whole).0;
    let reply = udp(from_server(rip, src), (80, local), &payload);
    let mut frames = cut(&from_server(rip, src), 0x5_4321, IpProtocol::UDP, &reply, at);
    order(&mut frames);
    let sent = through(&mut director, SERVER, CLIENT, &frames);
    assert_eq!(sent.len(), count);
    let (src, dst, _, whole) = reassemble(&sent);
    assert_eq!((src, dst, ports(&whole)), (vip, client, (80, 777)));
    assert_eq!(whole[8..], payload);
    let counters = &director.state.counters;
    assert_eq!(counters.drops.iter().map(|drops| drops.get()).sum::<u64>(), 0);
    let packets: u64 = counters.servers.iter().map(|s| s.in_packets.get()).sum();
    assert_eq!(packets, 1, "a datagram is one packet");
}

#[test]
fn datagram_of_60_kb_passes_in_every_order() {
    for (family, vips) in [0, 1].into_iter().flat_map(|f| [(f, DR), (f, NAT), (f, FULLNAT)]) {
        let at = every(if family == 0 { 1480 } else { 1448 });
        exchange(vips, family, 60_000, |_| {}, &at);
        exchange(vips, family, 60_000, |frames| frames.reverse(), &at);
        exchange(vips, family, 60_000, |frames| frames.rotate_left(20), &at);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 48,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_split_in_any_order_is_the_same_datagram(
        family in 0..2usize,
        mode in 0..3usize,
        bytes in 100..9000usize,
        mut at in prop::collection::vec(1..180usize, 1..12),
        seed in any::<u64>(),
    ) {
        at.sort_unstable();
        at.dedup();
        // Pieces that fit the MTU: no two ends further apart than that.
        let mut at: Vec<usize> = at.iter().map(|units| units * 8).collect();
        at.extend(every(1440));
        at.push(96);
        at.sort_unstable();
        at.dedup();
        let order = |frames: &mut Vec<Vec<u8>>| {
            let mut state = seed | 1;
            for n in (1..frames.len()).rev() {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                frames.swap(n, state as usize % (n + 1));
            }
        };
        exchange([DR, NAT, FULLNAT][mode], family, bytes, order, &at);
    }
}

/// Puts outer packets together and takes the tunnel's headers, `between` bytes, off.
fn out_of_tunnel(frames: &[Vec<u8>], between: usize) -> Vec<u8> {
    let mut whole = Vec::new();
    for (at, frame) in frames.iter().enumerate() {
        assert!(packet(frame).len() <= 1500);
        let (addresses, ttl, place, bytes) = piece(frame);
        assert_eq!((addresses, ttl), (piece(&frames[0]).0, 63));
        assert_eq!(place.id, piece(&frames[0]).2.id);
        assert_eq!(usize::from(place.offset_bytes), whole.len());
        assert_eq!(place.more, at + 1 < frames.len());
        whole.extend_from_slice(bytes);
    }
    whole[between..].to_vec()
}

/// The tunnel carries the datagram whole; its own packets are cut (recording frag-tun6).
#[test]
fn datagram_in_a_tunnel_travels_whole() {
    let gue = Tunnel::Gue { port: 6080, checksum: GueChecksum::Sum };
    let tunnels = [(Tunnel::Ipip, 0), (Tunnel::Gre { checksum: true }, 8), (gue, 12)];
    for (family, outer, (tunnel, between)) in
        (0..4).flat_map(|n| tunnels.map(|tunnel| (n / 2, n % 2, tunnel)))
    {
        for (bytes, size, turn) in [(60_000, 1400, 0), (60_000, 1400, 9), (3000, 1000, 2)] {
            let mut director = Director::new(KernelMode::Tap);
            let key = ServiceKey::new(Protocol::Udp, ip(DR[family]), 80);
            let mut spec = ServiceSpec::new(key, SchedulerSpec::RoundRobin);
            let tun = server(SocketAddr::new(ip(RIPS[outer]), 80), 1, ForwardMode::Tunnel);
            spec.servers = vec![ServerSpec { tunnel, ..tun }];
            let wanted = desired(vec![spec]);
            director.change(|registry, hops| registry.apply(&wanted, hops)).unwrap();
            let builder = from_client(ip(CLIENTS[family]), ip(DR[family]));
            let request = udp(builder.clone(), (777, 80), &vec![9; bytes]);
            let mut frames = cut(&builder, 5, IpProtocol::UDP, &request, &every(size));
            frames.rotate_left(turn);
            let sent = through(&mut director, CLIENT, SERVER, &frames);
            let inner = out_of_tunnel(&sent, between);
            let header = if family == 0 { 20 } else { 40 };
            assert_eq!(inner[header..], request, "{tunnel:?} {family} in {outer}");
            let (protocol, length) = match family {
                0 => {
                    let (ip, options, body) = Ipv4::parse_with_options(&inner).unwrap();
                    assert_eq!(ip.verify_checksum(options), Ok(()));
                    assert!(ip.fragment().is_none());
                    (ip.protocol(), body.len())
                }
                _ => {
                    let (ip, body) = Ipv6::parse(&inner).unwrap();
                    (ip.next_header(), body.len())
                }
            };
            assert_eq!((protocol, length), (IpProtocol::UDP, request.len()));
            assert_eq!(director.state.counters.drops.iter().map(|n| n.get()).sum::<u64>(), 0);
        }
    }
}

fn request(vips: [&str; 2], family: usize, id: u32) -> Vec<Vec<u8>> {
    let builder = from_client(ip(CLIENTS[family]), ip(vips[family]));
    let bytes = udp(builder.clone(), (777, 80), &[7; 1000]);
    cut(&builder, id, IpProtocol::UDP, &bytes, &[400, 800])
}

#[test]
fn what_waited_leaves_in_order_behind_the_first() {
    for family in 0..2 {
        let mut director = director();
        let mut frames = request(DR, family, 9);
        frames.reverse();
        for frame in &frames[..2] {
            assert_eq!(director.receive(CLIENT, frame).verdict, Verdict::Parked);
        }
        let outcome = director.receive(CLIENT, &frames[2]);
        assert_eq!(outcome.verdict, Verdict::Transmit(SERVER));
        let places: Vec<u16> =
            outcome.extra.iter().map(|(_, frame)| piece(frame).2.offset_bytes).collect();
        assert_eq!(places, [400, 800]);
    }
}

#[test]
fn duplicate_is_dropped_and_harms_nobody() {
    let mut director = director();
    let frames = request(FULLNAT, 0, 9);
    for frame in [&frames[0], &frames[2]] {
        assert_eq!(director.receive(CLIENT, frame).verdict, Verdict::Transmit(SERVER));
        let again = director.receive(CLIENT, frame).verdict;
        assert_eq!(again, Verdict::Drop(DropReason::FragmentDuplicate));
    }
    assert_eq!(director.receive(CLIENT, &frames[1]).verdict, Verdict::Transmit(SERVER));
}

#[test]
fn overlap_ends_the_whole_datagram() {
    for family in 0..2 {
        let mut director = director();
        let builder = from_client(ip(CLIENTS[family]), ip(DR[family]));
        let frames = request(DR, family, 9);
        let place = Fragment { id: 9, offset_bytes: 408, more: true };
        let forged = builder.fragment(place).raw(IpProtocol::UDP, &[0; 16]);
        assert_eq!(director.receive(CLIENT, &frames[1]).verdict, Verdict::Parked);
        // All of it was seen: a duplicate, whatever it says. Then one that is half new.
        let inside = director.receive(CLIENT, &forged).verdict;
        assert_eq!(inside, Verdict::Drop(DropReason::FragmentDuplicate));
        let place = Fragment { id: 9, offset_bytes: 392, more: true };
        let builder = from_client(ip(CLIENTS[family]), ip(DR[family]));
        let forged = builder.fragment(place).raw(IpProtocol::UDP, &[0; 16]);
        let overlap = Verdict::Drop(DropReason::FragmentOverlap);
        assert_eq!(director.receive(CLIENT, &forged).verdict, overlap);
        assert_eq!(director.resumed, [overlap], "what waited goes too");
        assert_eq!(director.receive(CLIENT, &frames[0]).verdict, overlap);
        assert_eq!(director.receive(CLIENT, &frames[2]).verdict, overlap);
        assert_eq!(director.drops(DropReason::FragmentOverlap), 4);
    }
}

#[test]
fn fragments_without_sense_are_refused() {
    for family in 0..2 {
        let mut director = director();
        let from = || from_client(ip(CLIENTS[family]), ip(DR[family]));
        let mut verdict = |offset_bytes, more, protocol, bytes: &[u8]| {
            let place = Fragment { id: u32::from(offset_bytes), offset_bytes, more };
            director.receive(CLIENT, &from().fragment(place).raw(protocol, bytes)).verdict
        };
        let malformed = Verdict::Drop(DropReason::FragmentMalformed);
        assert_eq!(verdict(8, true, IpProtocol::UDP, &[]), malformed);
        assert_eq!(verdict(16, true, IpProtocol::UDP, &[0; 9]), malformed);
        assert_eq!(verdict(65_528, false, IpProtocol::UDP, &[0; 64]), malformed);
        // RFC 1858: a first piece without the flags, and one that would overwrite them.
        let tiny = Verdict::Drop(DropReason::FragmentTiny);
        assert_eq!(verdict(0, true, IpProtocol::TCP, &[0; 16]), tiny);
    }
}

#[test]
fn a_first_fragment_that_never_comes_is_waited_for_30_seconds() {
    let mut director = director();
    let frames = request(FULLNAT, 0, 9);
    for frame in &frames[1..] {
        assert_eq!(director.receive(CLIENT, frame).verdict, Verdict::Parked);
    }
    director.advance(29.0);
    assert_eq!(director.drops(DropReason::FragmentTimeout), 0);
    director.advance(2.0);
    assert_eq!(director.drops(DropReason::FragmentTimeout), 2);
    assert!(director.state.flows.is_empty());
    // The same identification again is another datagram.
    assert_eq!(through(&mut director, CLIENT, SERVER, &frames).len(), 3);
}

/// Frames of each datagram of a flood: so few that the store is full before as many datagrams as
/// are followed have begun.
const EACH: u32 = 4;
const _: () = assert!(FRAGMENT_CHUNKS / (EACH as usize) < FRAGMENT_DATAGRAMS_MAX);

/// So many fragments of datagrams whose first one never comes, all of which find room.
fn flood(director: &mut Director, count: u32) {
    let builder = from_client(ip("10.0.0.66"), ip(DR[0]));
    for n in 0..count {
        let offset_bytes = 8 * (1 + n % EACH) as u16;
        let place = Fragment { id: n / EACH, offset_bytes, more: true };
        let frame = builder.clone().fragment(place).raw(IpProtocol::UDP, &[0; 8]);
        assert_eq!(director.receive(CLIENT, &frame).verdict, Verdict::Parked, "{n}");
    }
}

#[test]
fn an_endless_flood_takes_no_more_than_the_store() {
    let mut director = director();
    let (count, room) = (3 * FRAGMENT_CHUNKS as u32, FRAGMENT_CHUNKS as u32);
    flood(&mut director, count);
    let evicted = director.drops(DropReason::FragmentEvicted);
    assert_eq!(evicted, u64::from(count - room), "a datagram each time that there was no room");
    assert_eq!(director.drops(DropReason::FragmentStoreFull), 0);
    // Whoever is not slow gets through.
    let mut frames = request(DR, 0, 9);
    frames.reverse();
    assert_eq!(through(&mut director, CLIENT, SERVER, &frames).len(), 3);
    director.advance(31.0);
    let gone =
        director.drops(DropReason::FragmentEvicted) + director.drops(DropReason::FragmentTimeout);
    assert_eq!(gone, u64::from(count));
}

/// The oldest datagrams may have nothing in the store, as those whose last fragment was lost.
#[test]
fn room_is_made_by_those_that_wait_whoever_is_older() {
    let mut director = director();
    for id in 1000..1400 {
        let first = director.receive(CLIENT, &request(DR, 0, id)[0]);
        assert_eq!(first.verdict, Verdict::Transmit(SERVER));
    }
    flood(&mut director, FRAGMENT_CHUNKS as u32 + 100);
    assert_eq!(director.drops(DropReason::FragmentEvicted), 100);
    // The others go on.
    let last = director.receive(CLIENT, &request(DR, 0, 1000)[1]);
    assert_eq!(last.verdict, Verdict::Transmit(SERVER));
}

#[test]
fn as_many_make_way_as_a_large_fragment_needs() {
    let mut director = director();
    flood(&mut director, FRAGMENT_CHUNKS as u32);
    let place = Fragment { id: 9999, offset_bytes: 80, more: true };
    let builder = from_client(ip(CLIENTS[0]), ip(DR[0])).fragment(place);
    let frame = builder.raw(IpProtocol::UDP, &[0; 8960]);
    let mut bytes = vec![0; 128 + frame.len()];
    bytes[128..].copy_from_slice(&frame);
    let mut burst = Burst::new();
    let end = bytes.len();
    let rx = RxMeta { nic: CLIENT, ..RxMeta::default() };
    burst.push(Frame::new(&mut bytes, 128, end), rx).unwrap();
    process_burst(&mut director.state, &director.snapshot, &mut burst, director.now);
    assert_eq!(burst.verdicts().collect::<Vec<_>>(), [Verdict::Parked]);
    assert_eq!(director.drops(DropReason::FragmentEvicted), 8, "five chunks, four a datagram");
}

#[test]
fn one_datagram_has_a_share_of_the_store() {
    let mut director = director();
    let builder = from_client(ip(CLIENTS[0]), ip(DR[0]));
    let mut frame = |at: u16| {
        let place = Fragment { id: 1, offset_bytes: 8 * (at + 1), more: true };
        let frame = builder.clone().fragment(place).raw(IpProtocol::UDP, &[0; 8]);
        director.receive(CLIENT, &frame).verdict
    };
    assert!((0..FRAGMENT_FRAMES_MAX).all(|at| frame(at) == Verdict::Parked));
    assert_eq!(frame(FRAGMENT_FRAMES_MAX), Verdict::Drop(DropReason::FragmentStoreFull));
}

#[test]
fn pieces_share_the_first_ones_fate() {
    let mut director = director();
    let kernel = Verdict::ToKernel(CLIENT);
    let builder = from_client(ip(CLIENTS[0]), ip(DR[0]));
    // No service on that port.
    let bytes = udp(builder.clone(), (777, 53), &[7; 1000]);
    let frames = cut(&builder, 1, IpProtocol::UDP, &bytes, &[400, 800]);
    assert_eq!(director.receive(CLIENT, &frames[1]).verdict, Verdict::Parked);
    assert_eq!(director.receive(CLIENT, &frames[0]).verdict, kernel);
    assert_eq!(director.resumed, [kernel]);
    assert_eq!(director.receive(CLIENT, &frames[2]).verdict, kernel);
    // No server: the first one is answered.
    let frames = request(EMPTY, 0, 2);
    assert_eq!(director.receive(CLIENT, &frames[0]).verdict, Verdict::Transmit(CLIENT));
    let refused = Verdict::Drop(DropReason::FragmentRefused);
    assert_eq!(director.receive(CLIENT, &frames[1]).verdict, refused);
    // Nothing of ours is asked for.
    let own = from_client(ip(CLIENTS[0]), ip("192.168.100.1"));
    let place = Fragment { id: 3, offset_bytes: 800, more: false };
    let frame = own.fragment(place).raw(IpProtocol::UDP, &[0; 8]);
    assert_eq!(director.receive(CLIENT, &frame).verdict, kernel);
}

#[test]
fn clients_with_the_same_identification_are_kept_apart_behind_a_local_address() {
    for family in 0..2 {
        let mut director = director();
        let mut seen = Vec::new();
        for port in 0..20 {
            let builder = from_client(ip(CLIENTS[family]), ip(FULLNAT[family]));
            // Another client each: the identification is all they share.
            let other = match family {
                0 => ip(&format!("10.0.1.{port}")),
                _ => ip(&format!("fd00:c::1:{port}")),
            };
            let builder = from_client(other, piece_dst(&builder));
            let bytes = udp(builder.clone(), (777, 80), &[7; 1000]);
            let frames = cut(&builder, 5, IpProtocol::UDP, &bytes, &[400, 800]);
            seen.push(reassemble(&through(&mut director, CLIENT, SERVER, &frames)).2);
        }
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 20);
    }
}

fn piece_dst(builder: &IpBuilder) -> IpAddr {
    let frame = builder.clone().udp(1, 1).build();
    match packet(&frame)[0] >> 4 {
        4 => Ipv4::parse(packet(&frame)).unwrap().0.dst().into(),
        _ => Ipv6::parse(packet(&frame)).unwrap().0.dst().into(),
    }
}

/// A TCP segment's transport bytes.
fn segment(builder: &IpBuilder, seq: u32, flags: TcpFlags, payload: &[u8]) -> Vec<u8> {
    let tcp = builder.clone().tcp(777, 80).seq(seq).ack(1).flags(flags);
    let frame = tcp.payload(payload).build();
    let header = if packet(&frame)[0] >> 4 == 4 { 20 } else { 40 };
    packet(&frame)[header..].to_vec()
}

#[test]
fn fragmented_segment_passes_where_it_need_not_be_whole() {
    for family in 0..2 {
        let mut director = director();
        for (vips, passes) in [(FULLNAT, true), (DR, true), (PROXY, false)] {
            let builder = from_client(ip(CLIENTS[family]), ip(vips[family]));
            let syn = builder.clone().tcp(777, 80).seq(1000).flags(TcpFlags::SYN).build();
            assert_eq!(director.receive(CLIENT, &syn).verdict, Verdict::Transmit(SERVER));
            let bytes = segment(&builder, 1001, TcpFlags::ACK, &[7; 1000]);
            let frames = cut(&builder, 3, IpProtocol::TCP, &bytes, &[400, 800]);
            let first = director.receive(CLIENT, &frames[0]).verdict;
            let second = director.receive(CLIENT, &frames[1]).verdict;
            if passes {
                assert_eq!([first, second], [Verdict::Transmit(SERVER); 2]);
            } else {
                assert_eq!(first, Verdict::Drop(DropReason::FragmentInHandshake));
                assert_eq!(second, Verdict::Drop(DropReason::FragmentRefused));
            }
        }
    }
}

#[test]
fn pieces_of_an_ended_flow_are_dropped() {
    let mut director = director();
    let builder = from_client(ip(CLIENTS[0]), ip(DR[0]));
    let syn = builder.clone().tcp(777, 80).seq(1000).flags(TcpFlags::SYN).build();
    director.receive(CLIENT, &syn);
    let ack = builder.clone().tcp(777, 80).seq(1001).ack(1).flags(TcpFlags::ACK).build();
    director.receive(CLIENT, &ack);
    let bytes = segment(&builder, 1001, TcpFlags::RST | TcpFlags::ACK, &[7; 1000]);
    let frames = cut(&builder, 3, IpProtocol::TCP, &bytes, &[400, 800]);
    assert_eq!(director.receive(CLIENT, &frames[0]).verdict, Verdict::Transmit(SERVER));
    director.advance(15.0);
    assert!(director.state.flows.is_empty());
    let late = director.receive(CLIENT, &frames[1]).verdict;
    assert_eq!(late, Verdict::Drop(DropReason::FragmentNoFlow));
}

#[test]
fn further_pieces_cause_no_icmp_error() {
    let mut director = director();
    let builder = from_client(ip(CLIENTS[1]), ip(DR[1]));
    let bytes = udp(builder.clone(), (777, 80), &[7; 4000]);
    let frames = cut(&builder, 3, IpProtocol::UDP, &bytes, &[400, 2200]);
    assert_eq!(director.receive(CLIENT, &frames[0]).verdict, Verdict::Transmit(SERVER));
    let large = director.receive(CLIENT, &frames[1]).verdict;
    assert_eq!(large, Verdict::Drop(DropReason::TooBig));
    let dying = cut(&builder.ttl(1), 3, IpProtocol::UDP, &bytes, &[400, 2200]);
    let verdict = director.receive(CLIENT, &dying[2]).verdict;
    assert_eq!(verdict, Verdict::Drop(DropReason::TtlExpired));
}

/// IPv4 without "do not fragment" may be cut, and pieces may again.
#[test]
fn piece_too_large_for_the_path_is_cut_again() {
    for vips in [DR, NAT, FULLNAT] {
        let mut director = director();
        let builder = from_client(ip(CLIENTS[0]), ip(vips[0]));
        let bytes = udp(builder.clone(), (777, 80), &[7; 4000]);
        let frames = cut(&builder, 3, IpProtocol::UDP, &bytes, &[1600, 3200]);
        let sent = through(&mut director, CLIENT, SERVER, &frames);
        assert!(sent.len() > 3 && sent.iter().all(|frame| packet(frame).len() <= 1500));
        assert_eq!(reassemble(&sent).3[8..], [7; 4000]);
    }
}

/// One-packet scheduling: no entry stays, but while pieces are still to come.
#[test]
fn one_packet_flow_lasts_as_long_as_its_datagram() {
    let mut director = Director::new(KernelMode::Tap);
    let key = ServiceKey::new(Protocol::Udp, ip(DR[0]), 80);
    let mut spec = ServiceSpec::new(key, SchedulerSpec::RoundRobin);
    spec.one_packet = true;
    spec.servers = vec![server(SocketAddr::new(ip(RIPS[0]), 80), 1, ForwardMode::DirectRoute)];
    let wanted = desired(vec![spec]);
    director.change(|registry, hops| registry.apply(&wanted, hops)).unwrap();
    let mut frames = request(DR, 0, 9);
    frames.rotate_left(1);
    assert_eq!(through(&mut director, CLIENT, SERVER, &frames).len(), 3);
    assert!(director.state.flows.is_empty());
    let frames = request(DR, 0, 10);
    assert_eq!(through(&mut director, CLIENT, SERVER, &frames[..2]).len(), 2);
    assert_eq!(director.state.flows.len(), 1);
    director.advance(31.0);
    assert!(director.state.flows.is_empty());
    // So it does when its datagram makes way for others.
    let frames = request(DR, 0, 11);
    assert_eq!(through(&mut director, CLIENT, SERVER, &frames[..2]).len(), 2);
    let builder = from_client(ip("10.0.0.66"), ip(DR[0]));
    for id in 0..FRAGMENT_DATAGRAMS_MAX as u32 {
        assert_eq!(director.state.flows.len(), 1, "after {id}");
        let place = Fragment { id, offset_bytes: 8, more: true };
        director.receive(CLIENT, &builder.clone().fragment(place).raw(IpProtocol::UDP, &[0; 8]));
    }
    assert!(director.state.flows.is_empty());
}

/// One datagram's end leaves another its flow, which no reply finds.
#[test]
fn one_packet_flow_outlasts_the_other_datagrams_on_it() {
    let mut director = Director::new(KernelMode::Tap);
    let key = ServiceKey::new(Protocol::Udp, ip(NAT[0]), 80);
    let mut spec = ServiceSpec::new(key, SchedulerSpec::RoundRobin);
    spec.one_packet = true;
    spec.servers = vec![server(SocketAddr::new(ip(RIPS[0]), 8080), 1, ForwardMode::Nat)];
    let wanted = desired(vec![spec]);
    director.change(|registry, hops| registry.apply(&wanted, hops)).unwrap();
    let (one, two) = (request(NAT, 0, 9), request(NAT, 0, 10));
    assert_eq!(through(&mut director, CLIENT, SERVER, &one[..2]).len(), 2);
    let to_client = from_server(ip(RIPS[0]), ip(CLIENTS[0]));
    let bytes = udp(to_client.clone(), (8080, 777), &[7; 1000]);
    let reply = cut(&to_client, 3, IpProtocol::UDP, &bytes, &[400, 800]);
    assert_eq!(through(&mut director, SERVER, CLIENT, &reply).len(), 0, "left to the kernel");
    assert_eq!(through(&mut director, CLIENT, SERVER, &two).len(), 3);
    assert_eq!(through(&mut director, CLIENT, SERVER, &one[2..]).len(), 1);
    assert!(director.state.flows.is_empty());
}

/// The next header of a later fragment may be another extension header (RFC 8200 section 4.5).
#[test]
fn extension_headers_behind_the_fragment_header_are_part_of_the_datagram() {
    let mut director = director();
    let builder = from_client(ip(CLIENTS[1]), ip(DR[1]));
    let bytes = [vec![17, 0, 1, 4, 0, 0, 0, 0], udp(builder.clone(), (777, 80), &[7; 1000])];
    let frames = cut(&builder, 3, IpProtocol::DESTINATION, &bytes.concat(), &[400, 800]);
    assert_eq!(director.receive(CLIENT, &frames[2]).verdict, Verdict::Parked);
    let outcome = director.receive(CLIENT, &frames[0]);
    assert_eq!((outcome.verdict, outcome.extra.len()), (Verdict::Transmit(SERVER), 1));
    assert_eq!(director.receive(CLIENT, &frames[1]).verdict, Verdict::Transmit(SERVER));
}
