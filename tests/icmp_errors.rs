//! ICMP errors about a flow's packets reach the side that sent them, in its own numbers: every
//! mode, both families, both directions. What is quoted is what the director really sent.

#[path = "support/mod.rs"]
mod support;

use std::net::{IpAddr, SocketAddr};

use gyre::counters::DropReason;
use gyre::dataplane::Verdict;
use gyre::model::*;
use gyre::wire::build::{IpBuilder, PacketBuilder};
use gyre::wire::checksum::Sum;
use gyre::wire::ip::IpProtocol;
use gyre::wire::ipv4::Ipv4;
use gyre::wire::ipv6::Ipv6;
use gyre::wire::tcp::{TcpFlags, TcpOption};
use support::*;

const CLIENTS: [&str; 2] = ["10.0.0.7", "fd00:c::7"];
/// A router on the client side, and one on the server side.
const ROUTERS: [[&str; 2]; 2] = [["192.0.2.1", "10.2.0.99"], ["fd00:f::1", "fd00:2::63"]];
const DR: [&str; 2] = ["10.1.0.1", "fd00:1::1"];
const FULLNAT: [&str; 2] = ["10.1.0.2", "fd00:1::2"];
const NAT: [&str; 2] = ["10.1.0.5", "fd00:1::5"];
const PROXY: [&str; 2] = ["10.1.0.3", "fd00:1::3"];
const TOA: [&str; 2] = ["10.1.0.4", "fd00:1::4"];
const RIPS: [&str; 2] = ["10.2.0.11", "fd00:2::b"];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn service(family: usize, vip: &str, protocol: Protocol) -> ServiceSpec {
    let key = ServiceKey::new(protocol, ip(vip), 80);
    let mut spec = ServiceSpec::new(key, SchedulerSpec::RoundRobin);
    spec.ttl = TtlPolicy::Decrement;
    let is_dr = DR.contains(&vip);
    let mode = match vip {
        _ if is_dr => ForwardMode::DirectRoute,
        _ if NAT.contains(&vip) => ForwardMode::Nat,
        _ => ForwardMode::FullNat,
    };
    let port = if is_dr { 80 } else { 8080 };
    spec.forwarding = mode;
    spec.pool = (mode == ForwardMode::FullNat).then(|| "pool".into());
    if protocol == Protocol::Tcp && PROXY.contains(&vip) {
        spec.client_address = ClientAddress::ProxyV1;
    }
    if protocol == Protocol::Tcp && TOA.contains(&vip) {
        spec.client_address = ClientAddress::Toa { kind: 254, on_syn: false };
    }
    spec.servers = vec![server(SocketAddr::new(ip(RIPS[family]), port), 1, mode)];
    spec
}

fn director() -> Director {
    let mut director = Director::new(KernelMode::Tap);
    let mut services = Vec::new();
    for family in 0..2 {
        for vip in [DR, NAT, FULLNAT, PROXY, TOA] {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                services.push(service(family, vip[family], protocol));
            }
        }
    }
    let wanted = desired(services);
    director.change(|registry, hops| registry.apply(&wanted, hops)).unwrap();
    director
}

fn to(vips: [&str; 2], family: usize) -> IpBuilder {
    from_client(ip(CLIENTS[family]), ip(vips[family]))
}

/// The IP packet of a frame.
fn packet(frame: &[u8]) -> &[u8] {
    &frame[14..]
}

fn is_v4(frame: &[u8]) -> bool {
    packet(frame)[0] >> 4 == 4
}

fn addresses(packet: &[u8]) -> (IpAddr, IpAddr) {
    if packet[0] >> 4 == 4 {
        let (ip, _) = Ipv4::parse_quoted(packet).unwrap();
        (ip.src().into(), ip.dst().into())
    } else {
        let (ip, _) = Ipv6::parse_quoted(packet).unwrap();
        (ip.src().into(), ip.dst().into())
    }
}

/// Type, code, the header's second word, and what is quoted; its checksums hold.
fn error(frame: &[u8]) -> (u8, u8, u32, &[u8]) {
    let (pseudo, message) = if is_v4(frame) {
        let (ip, options, message) = Ipv4::parse_with_options(packet(frame)).unwrap();
        assert_eq!(ip.verify_checksum(options), Ok(()));
        (Sum::new(), message)
    } else {
        let (ip, message) = Ipv6::parse(packet(frame)).unwrap();
        let length = message.len() as u32;
        (Sum::pseudo_v6(ip.src(), ip.dst(), IpProtocol::ICMPV6, length), message)
    };
    assert!(pseudo.add_bytes(message).holds(), "ICMP checksum");
    let word = u32::from_be_bytes(message[4..8].try_into().unwrap());
    (message[0], message[1], word, &message[8..])
}

/// A packet with its hop count (and with it the IPv4 checksum) as `hops` says.
fn with_hops(packet: &[u8], hops: u8) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if packet[0] >> 4 == 4 {
        packet[8] = hops;
        packet[10..12].fill(0);
        let checksum = Sum::new().add_bytes(&packet[..20]).checksum();
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    } else {
        packet[7] = hops;
    }
    packet
}

/// A request and the frame it becomes.
fn request(director: &mut Director, vips: [&str; 2], family: usize) -> (Vec<u8>, Vec<u8>) {
    let frame = to(vips, family).udp(777, 80).payload(b"question").build();
    let sent = director.receive(CLIENT, &frame);
    assert_eq!(sent.verdict, Verdict::Transmit(SERVER));
    (frame.to_vec(), sent.frame)
}

/// The reply to a request, and the frame it becomes; under DR the server's own.
fn reply(director: &mut Director, vips: [&str; 2], forwarded: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let (local, server) = addresses(packet(forwarded));
    if vips == DR {
        let frame = PacketBuilder::new().ip(server, local).unwrap().udp(80, 777);
        let frame = [vec![0; 14], frame.payload(b"answer").build().to_vec()].concat();
        return (frame.clone(), frame);
    }
    let at = if is_v4(forwarded) { 20 } else { 40 };
    let port = u16::from_be_bytes(packet(forwarded)[at..at + 2].try_into().unwrap());
    let frame = from_server(server, local).udp(8080, port).payload(b"answer").build();
    let sent = director.receive(SERVER, &frame);
    assert_eq!(sent.verdict, Verdict::Transmit(CLIENT));
    (frame.to_vec(), sent.frame)
}

/// Kinds of error that are relayed: type, code, second word.
fn relayed(family: usize) -> &'static [(u8, u8, u32)] {
    const V4: [(u8, u8, u32); 5] = [(3, 3, 0), (3, 1, 0), (3, 4, 1300), (11, 0, 0), (4, 0, 0)];
    const V6: [(u8, u8, u32); 5] = [(1, 4, 0), (1, 3, 0), (2, 0, 1300), (3, 0, 0), (4, 0, 0)];
    if family == 0 { &V4 } else { &V6 }
}

#[test]
fn error_about_a_reply_reaches_its_server() {
    for (family, vips) in [0, 1].into_iter().flat_map(|f| [(f, DR), (f, NAT), (f, FULLNAT)]) {
        let mut director = director();
        let (_, forwarded) = request(&mut director, vips, family);
        let (said, seen) = reply(&mut director, vips, &forwarded);
        let vip = ip(vips[family]);
        for &(kind, code, word) in relayed(family) {
            for sender in [CLIENTS[family], ROUTERS[family][0]] {
                let frame = from_client(ip(sender), vip).icmp(kind, code, word);
                let sent = director.receive(CLIENT, &frame.payload(packet(&seen)).build());
                assert_eq!(sent.verdict, Verdict::Transmit(SERVER), "{vips:?} {kind}/{code}");
                let (got_kind, got_code, got_word, quoted) = error(&sent.frame);
                assert_eq!((got_kind, got_code, got_word), (kind, code, word));
                let hops = packet(&seen)[if family == 0 { 8 } else { 7 }];
                let own = with_hops(packet(&said), hops);
                assert_eq!(but_for_checksum(vips, quoted), but_for_checksum(vips, &own));
                let outer = addresses(packet(&sent.frame));
                let expected = match vips {
                    DR => (ip(sender), vip),
                    NAT => (ip(sender), ip(RIPS[family])),
                    // The server answers to the local address, and to nothing else.
                    _ => (addresses(packet(&said)).1, ip(RIPS[family])),
                };
                assert_eq!(outer, expected);
                assert_eq!(packet(&sent.frame)[if family == 0 { 8 } else { 7 }], 63);
            }
        }
    }
}

/// NAT leaves the quoted UDP checksum as it came, like the kernel (recordings icmp-nat*).
fn but_for_checksum(vips: [&str; 2], quoted: &[u8]) -> Vec<u8> {
    let mut quoted = quoted.to_vec();
    if vips == NAT {
        let at = if quoted[0] >> 4 == 4 { 20 } else { 40 };
        quoted[at + 6..at + 8].fill(0);
    }
    quoted
}

#[test]
fn error_about_a_request_reaches_its_client_from_the_vip() {
    for (family, vips) in [(0, NAT), (0, FULLNAT), (1, NAT), (1, FULLNAT)] {
        let mut director = director();
        let (said, seen) = request(&mut director, vips, family);
        let (local, _) = addresses(packet(&seen));
        for &(kind, code, word) in relayed(family) {
            for sender in [RIPS[family], ROUTERS[family][1]] {
                let frame = PacketBuilder::new()
                    .ethernet(server_mac(ip(RIPS[family])), director_mac(SERVER))
                    .ip(ip(sender), local)
                    .unwrap();
                let frame = frame.icmp(kind, code, word).payload(packet(&seen)).build();
                let sent = director.receive(SERVER, &frame);
                assert_eq!(sent.verdict, Verdict::Transmit(CLIENT));
                let (got_kind, got_code, got_word, quoted) = error(&sent.frame);
                assert_eq!((got_kind, got_code, got_word), (kind, code, word));
                let own = with_hops(packet(&said), 63);
                assert_eq!(but_for_checksum(vips, quoted), but_for_checksum(vips, &own));
                let outer = addresses(packet(&sent.frame));
                assert_eq!(outer, (ip(vips[family]), ip(CLIENTS[family])));
            }
        }
    }
}

#[test]
fn eight_quoted_bytes_are_enough_and_none_are_the_kernels() {
    let mut director = director();
    for family in 0..2 {
        let (said, seen) = request(&mut director, FULLNAT, family);
        let (local, server) = addresses(packet(&seen));
        let header = if family == 0 { 20 } else { 40 };
        let build = |bytes: usize| {
            from_server(server, local).port_unreachable(&packet(&seen)[..bytes]).build()
        };
        let sent = director.receive(SERVER, &build(header + 8));
        assert_eq!(sent.verdict, Verdict::Transmit(CLIENT));
        let expected = with_hops(packet(&said), 63);
        assert_eq!(error(&sent.frame).3, &expected[..header + 8]);
        let sent = director.receive(SERVER, &build(header));
        assert_eq!(sent.verdict, Verdict::ToKernel(SERVER));
    }
}

#[test]
fn errors_of_other_kinds_about_nothing_known_or_damaged_are_not_relayed() {
    let mut director = director();
    let (_, seen) = request(&mut director, FULLNAT, 0);
    let (local, server) = addresses(packet(&seen));
    let about = |quoted: &[u8]| from_server(server, local).port_unreachable(quoted);
    // Parameter problem, redirect: the host's.
    for kind in [12, 5] {
        let frame = from_server(server, local).icmp(kind, 0, 0).payload(packet(&seen)).build();
        assert_eq!(director.receive(SERVER, &frame).verdict, Verdict::ToKernel(SERVER));
    }
    let strange = PacketBuilder::new().ip(local, server).unwrap().udp(9, 8080).build();
    let sent = director.receive(SERVER, &about(&strange).build());
    assert_eq!(sent.verdict, Verdict::ToKernel(SERVER));
    let mut damaged = about(packet(&seen)).build();
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    let sent = director.receive(SERVER, &damaged);
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::BadIcmpChecksum));
    // No error answers an error, whatever its TTL.
    let dying = PacketBuilder::new()
        .ethernet(server_mac(server), director_mac(SERVER))
        .ip(server, local)
        .unwrap()
        .ttl(1)
        .port_unreachable(packet(&seen))
        .build();
    assert_eq!(director.receive(SERVER, &dying).verdict, Verdict::Drop(DropReason::TtlExpired));
}

#[test]
fn echo_to_a_vip_is_the_kernels() {
    let mut director = director();
    for family in 0..2 {
        for vips in [DR, FULLNAT] {
            let frame = to(vips, family).echo_request(1, 1).build();
            assert_eq!(director.receive(CLIENT, &frame).verdict, Verdict::ToKernel(CLIENT));
        }
    }
}

#[test]
fn error_keeps_its_flow_as_it_is_and_counts_as_a_packet() {
    let mut director = director();
    let (_, seen) = request(&mut director, FULLNAT, 0);
    let (local, server) = addresses(packet(&seen));
    let frame = from_server(server, local).port_unreachable(packet(&seen)).build();
    director.advance(100.0);
    let client = SocketAddr::new(ip(CLIENTS[0]), 777);
    let before = director.flow(client).unwrap();
    assert_eq!(director.receive(SERVER, &frame).verdict, Verdict::Transmit(CLIENT));
    let after = director.flow(client).unwrap();
    assert_eq!((before.state, before.expires_ms), (after.state, after.expires_ms));
    let counted: u64 = director.state.counters.servers.iter().map(|s| s.out_packets.get()).sum();
    assert_eq!(counted, 1);
}

fn quoted_sequence(quoted: &[u8]) -> u32 {
    let at = if quoted[0] >> 4 == 4 { 20 } else { 40 };
    u32::from_be_bytes(quoted[at + 4..at + 8].try_into().unwrap())
}

/// What the server gets is shifted by the header; the error has the client's own number again,
/// for a byte before the header as for one behind it.
#[test]
fn quoted_sequence_numbers_are_those_of_the_receiver() {
    for family in 0..2 {
        let mut director = director();
        let client = |seq: u32, flags| to(PROXY, family).tcp(777, 80).seq(seq).flags(flags);
        let syn = client(1000, TcpFlags::SYN).option(TcpOption::Mss(1460)).build();
        let syn_out = director.receive(CLIENT, &syn).frame;
        let (local, server) = addresses(packet(&syn_out));
        let at = 14 + if family == 0 { 20 } else { 40 };
        let port = u16::from_be_bytes(syn_out[at..at + 2].try_into().unwrap());
        let from_server = |seq: u32, ack: u32, flags| {
            support::from_server(server, local).tcp(8080, port).seq(seq).ack(ack).flags(flags)
        };
        let seq_of = |frame: &[u8]| quoted_sequence(packet(frame));
        let answer =
            from_server(5000, seq_of(&syn_out).wrapping_add(1), TcpFlags::SYN | TcpFlags::ACK);
        director.receive(SERVER, &answer.build());
        let ack = client(1001, TcpFlags::ACK).ack(5001).build();
        let ack_out = director.receive(CLIENT, &ack).frame;
        let data = client(1001, TcpFlags::ACK).ack(5001).payload(b"GET /").build();
        let data_out = director.receive(CLIENT, &data).frame;
        let next = client(1006, TcpFlags::ACK).ack(5001).payload(b"index").build();
        let next_out = director.receive(CLIENT, &next).frame;
        assert!(seq_of(&next_out).wrapping_sub(seq_of(&syn_out)) > 6, "a header went before");
        for (sent, own) in
            [(&syn_out, 1000), (&ack_out, 1001), (&data_out, 1001), (&next_out, 1006)]
        {
            let error_frame = support::from_server(server, local).too_big(1300, packet(sent));
            let relayed = director.receive(SERVER, &error_frame.build());
            assert_eq!(relayed.verdict, Verdict::Transmit(CLIENT));
            assert_eq!(quoted_sequence(error(&relayed.frame).3), own);
        }
    }
}

/// TOA takes 8 or 20 bytes of each segment, which the client knows nothing of.
#[test]
fn mtu_told_to_a_client_leaves_room_for_its_address() {
    for (family, fits) in [(0, 1292), (1, 1280)] {
        let mut director = director();
        let syn = to(TOA, family).tcp(777, 80).seq(1000).flags(TcpFlags::SYN).build();
        let sent = director.receive(CLIENT, &syn).frame;
        let (local, server) = addresses(packet(&sent));
        let frame = from_server(server, local).too_big(1300, packet(&sent)).build();
        let relayed = director.receive(SERVER, &frame);
        assert_eq!(relayed.verdict, Verdict::Transmit(CLIENT));
        assert_eq!(error(&relayed.frame).2, fits);
    }
}

/// A TUN service over IPv4, one packet of its client's, and what became of it.
fn tunnelled(tunnel: Tunnel) -> (Director, Vec<u8>, Vec<u8>) {
    tunnelled_in(tunnel, 0, 0)
}

/// The same for a client of family `inner` and a server of family `outer`.
fn tunnelled_in(tunnel: Tunnel, inner: usize, outer: usize) -> (Director, Vec<u8>, Vec<u8>) {
    let mut director = Director::new(KernelMode::Tap);
    let key = ServiceKey::new(Protocol::Udp, ip(DR[inner]), 80);
    let mut spec = ServiceSpec::new(key, SchedulerSpec::RoundRobin);
    let tun = server(SocketAddr::new(ip(RIPS[outer]), 80), 1, ForwardMode::Tunnel);
    spec.servers = vec![ServerSpec { tunnel, ..tun }];
    let wanted = desired(vec![spec]);
    director.change(|registry, hops| registry.apply(&wanted, hops)).unwrap();
    let asked = whole_from_client(inner, 1200);
    let sent = director.receive(CLIENT, &asked);
    assert_eq!(sent.verdict, Verdict::Transmit(SERVER));
    (director, asked, sent.frame)
}

/// A datagram to the TUN service that must not be cut.
fn whole_from_client(family: usize, bytes: usize) -> Vec<u8> {
    let to = to(DR, family);
    let to = if family == 0 { to.dont_fragment() } else { to };
    to.udp(777, 80).payload(&vec![7; bytes]).build().to_vec()
}

/// An error from a router of the server side to whoever sent the quoted packet.
fn about(sent: &[u8], kind: u8, code: u8, word: u32) -> Vec<u8> {
    let (director, _) = addresses(packet(sent));
    let frame = PacketBuilder::new()
        .ethernet(server_mac(ip(RIPS[0])), director_mac(SERVER))
        .ip(ip(ROUTERS[0][1]), director)
        .unwrap();
    frame.icmp(kind, code, word).payload(packet(sent)).build().to_vec()
}

#[test]
fn error_about_a_tunnels_packet_is_told_to_the_client_it_carried() {
    let gue = Tunnel::Gue { port: 6080, checksum: GueChecksum::None };
    let gre = |checksum| Tunnel::Gre { checksum };
    for (tunnel, overhead) in [(Tunnel::Ipip, 20), (gre(false), 24), (gre(true), 28), (gue, 32)] {
        let (mut director, asked, sent) = tunnelled(tunnel);
        for (kind, code, word, told) in
            // The first says what was known before, as the kernel's; the second what it learned.
            [
                (3, 1, 0, 0),
                (11, 0, 0, 0),
                (3, 4, 1300, 1500 - overhead),
                (3, 4, 1300, 1300 - overhead),
            ]
        {
            let relayed = director.receive(SERVER, &about(&sent, kind, code, word));
            assert_eq!(relayed.verdict, Verdict::Transmit(CLIENT), "{tunnel:?} {kind}/{code}");
            assert_eq!(addresses(packet(&relayed.frame)), (ip(DR[0]), ip(CLIENTS[0])));
            let (got_kind, got_code, got_word, quoted) = error(&relayed.frame);
            assert_eq!((got_kind, got_code, got_word), (kind, code, told), "{tunnel:?}");
            assert_eq!(quoted, &with_hops(packet(&asked), 63)[..548]);
        }
        // From now on the director says so itself.
        let large = to(DR, 0).dont_fragment().udp(777, 80).payload(&[7; 1272]).build();
        let refused = director.receive(CLIENT, &large);
        assert_eq!(refused.verdict, Verdict::Transmit(CLIENT));
        assert_eq!(error(&refused.frame).2, 1300 - overhead);
    }
}

/// The kernel's own stack takes these errors, and its routes remember; so does gyre.
#[test]
fn a_path_mtu_told_about_a_tunnel_with_ipv6_is_told_to_whoever_next_sends_too_much() {
    let gue = Tunnel::Gue { port: 6080, checksum: GueChecksum::None };
    let gre = |checksum| Tunnel::Gre { checksum };
    for (tunnel, more) in [(Tunnel::Ipip, 0), (gre(false), 4), (gre(true), 8), (gue, 12)] {
        for (inner, outer) in [(1, 1), (0, 1), (1, 0)] {
            let (mut director, _, sent) = tunnelled_in(tunnel, inner, outer);
            let large = whole_from_client(inner, 1380);
            let (us, server) = addresses(packet(&sent));
            let verdict = director.receive(CLIENT, &large).verdict;
            assert_eq!(verdict, Verdict::Transmit(SERVER), "{tunnel:?} {inner} in {outer}");
            let error_frame = from_server(server, us).too_big(1400, packet(&sent)).build();
            let taken = director.receive(SERVER, &error_frame).verdict;
            assert_eq!(taken, Verdict::ToKernel(SERVER), "{tunnel:?} {inner} in {outer}");
            let refused = director.receive(CLIENT, &large);
            assert_eq!(refused.verdict, Verdict::Transmit(CLIENT), "{tunnel:?} {inner} in {outer}");
            assert_eq!(error(&refused.frame).2, 1400 - more - [20, 40][outer]);
        }
    }
}

#[test]
fn errors_about_tunnels_of_others_and_those_nobody_waits_for_are_not_told() {
    let (mut director, _, sent) = tunnelled(Tunnel::Ipip);
    // Parameter problem; an inner tuple that is no flow's; another server's.
    assert_eq!(
        director.receive(SERVER, &about(&sent, 12, 0, 0)).verdict,
        Verdict::ToKernel(SERVER)
    );
    let mut strange = sent.clone();
    strange[14 + 20 + 20] ^= 1;
    let verdict = director.receive(SERVER, &about(&strange, 3, 1, 0)).verdict;
    assert_eq!(verdict, Verdict::ToKernel(SERVER));
    let mut elsewhere = sent.clone();
    elsewhere[14 + 19] ^= 1;
    let verdict = director.receive(SERVER, &about(&elsewhere, 3, 1, 0)).verdict;
    assert_eq!(verdict, Verdict::ToKernel(SERVER));
    // The outer packet could have been cut: whoever says it is too big has told us, not its client.
    let mut cuttable = sent;
    cuttable[14 + 6] &= !0x40;
    let verdict = director.receive(SERVER, &about(&cuttable, 3, 4, 1300)).verdict;
    assert_eq!(verdict, Verdict::Drop(DropReason::IcmpConsumed));
}

#[test]
fn server_is_told_of_packets_without_a_flow_only_where_asked_for() {
    for family in 0..2 {
        let mut director = director();
        let server = ip(RIPS[family]);
        let stray = |port: u16| from_server(server, ip(CLIENTS[family])).tcp(port, 9);
        let synack = stray(8080).flags(TcpFlags::SYN | TcpFlags::ACK).build();
        assert_eq!(director.receive(SERVER, &synack).verdict, Verdict::ToKernel(SERVER));
        let semantics = Semantics { nat_icmp_send: true, ..Semantics::default() };
        let applied = director.registry.set_semantics(semantics);
        director.publish(applied.snapshot);
        let answer = director.receive(SERVER, &synack);
        assert_eq!(answer.verdict, Verdict::Transmit(SERVER));
        let (kind, code, _, quoted) = error(&answer.frame);
        assert_eq!((kind, code), [(3, 3), (1, 4)][family]);
        assert_eq!(quoted, packet(&synack));
        assert_eq!(addresses(packet(&answer.frame)), (ip(OWN_ADDRESSES[1][family]), server));
        // No reset is answered, and no port that is no server's.
        let reset = stray(8080).flags(TcpFlags::RST).build();
        let other = stray(8081).flags(TcpFlags::SYN | TcpFlags::ACK).build();
        for frame in [reset, other] {
            assert_eq!(director.receive(SERVER, &frame).verdict, Verdict::ToKernel(SERVER));
        }
        assert_eq!(director.drops(DropReason::StrayReply), 1);
    }
}
