//! FULLNAT between IPv4 and IPv6. The expected packets are built whole, so every field and
//! checksum of the translated ones is compared with one made from nothing.

use std::net::{IpAddr, SocketAddr};

use gyre::model::*;
use gyre::wire::build::{IpBuilder, PacketBuilder};
use gyre::wire::ip::IpProtocol;
use gyre::wire::tcp::{TcpFlags, TcpOption};
use proptest::prelude::*;

use crate::support::*;

pub const CLIENTS: [&str; 2] = ["10.0.0.7", "fd00:c::7"];
pub const VIPS: [&str; 2] = ["10.1.0.1", "fd00:1::1"];
pub const RIPS: [&str; 2] = ["10.2.0.11", "fd00:2::b"];
pub const LIPS: [&str; 2] = ["10.2.0.1", "fd00:2::1"];

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn spec(family: usize, protocol: Protocol) -> ServiceSpec {
    let key = ServiceKey::new(protocol, ip(VIPS[family]), 80);
    let mut spec = ServiceSpec::new(key, SchedulerSpec::RoundRobin);
    spec.pool = Some("pool".into());
    spec.servers = vec![server((ip(RIPS[1 - family]), 8080).into(), 1, ForwardMode::FullNat)];
    spec
}

/// Services of one family whose server is of the other.
pub fn director(family: usize) -> Director {
    let all = [Protocol::Tcp, Protocol::Udp].map(|protocol| spec(family, protocol));
    let mut director = Director::new(KernelMode::Tap);
    director.change(|registry, hops| registry.apply(&desired(all.to_vec()), hops)).unwrap();
    director
}

pub fn to_vip(family: usize) -> IpBuilder {
    from_client(ip(CLIENTS[family]), ip(VIPS[family]))
}

pub fn number(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Without what a translator chooses: identification, and header checksum with it.
fn comparable(frame: &[u8]) -> Vec<u8> {
    let mut bytes = frame[12..].to_vec();
    if bytes[2] >> 4 == 4 {
        bytes[6..8].fill(0);
        bytes[12..14].fill(0);
    }
    bytes
}

fn ip_checksum_holds(frame: &[u8]) -> bool {
    let header = &frame[14..34];
    header[0] >> 4 != 4 || gyre::wire::checksum::Sum::new().add_bytes(header).holds()
}

/// The flow's address and port towards its server.
pub fn local(director: &Director) -> SocketAddr {
    SocketAddr::from(director.flows()[0].local.unwrap())
}

/// As it should come out: IPv4 says "do not fragment" only beyond what IPv6 surely takes.
fn expected(src: IpAddr, dst: IpAddr, bytes: usize) -> IpBuilder {
    let packet = PacketBuilder::new()
        .ethernet(director_mac(SERVER), director_mac(CLIENT))
        .ip(src, dst)
        .unwrap()
        .ttl(63)
        .tos(0x2e);
    if src.is_ipv4() && bytes > 1260 { packet.dont_fragment() } else { packet }
}

#[test]
fn full_nat_translates_between_families_there_and_back() {
    for family in 0..2 {
        for (protocol, size) in
            [(Protocol::Tcp, 0), (Protocol::Tcp, 1301), (Protocol::Udp, 7), (Protocol::Udp, 1400)]
        {
            let mut director = director(family);
            let payload = vec![0x5a; size];
            let build = |packet: IpBuilder, (src, dst): (u16, u16)| match protocol {
                Protocol::Tcp => {
                    packet.tcp(src, dst).flags(TcpFlags::ACK).payload(&payload).build()
                }
                Protocol::Udp => packet.udp(src, dst).payload(&payload).build(),
            };
            let headers = if protocol == Protocol::Tcp { 40 } else { 28 };
            if protocol == Protocol::Tcp {
                let syn = to_vip(family).tcp(40_001, 80).flags(TcpFlags::SYN).build();
                director.receive(CLIENT, &syn);
            }
            let sent = build(to_vip(family).tos(0x2e).dont_fragment(), (40_001, 80));
            let out = director.receive(CLIENT, &sent);
            assert_eq!(out.sent_on(), Some(SERVER));
            let (lip, rip) = (local(&director), ip(RIPS[1 - family]));
            assert_eq!(lip.ip(), ip(LIPS[1 - family]));
            let wanted = build(expected(lip.ip(), rip, size + headers), (lip.port(), 8080));
            assert_eq!(comparable(&out.frame), comparable(&wanted), "{family} {protocol} {size}");
            assert!(ip_checksum_holds(&out.frame));
            let answer = from_server(rip, lip.ip()).tos(0x2e).dont_fragment();
            let back = director.receive(SERVER, &build(answer, (8080, lip.port())));
            assert_eq!(back.sent_on(), Some(CLIENT));
            let (vip, client) = (ip(VIPS[family]), ip(CLIENTS[family]));
            let wanted = build(expected(vip, client, size + headers), (80, 40_001));
            assert_eq!(comparable(&back.frame), comparable(&wanted), "{family} {protocol} {size}");
            assert!(ip_checksum_holds(&back.frame));
        }
    }
}

#[test]
fn options_and_extension_headers_stay_on_their_side() {
    let mut four = director(0);
    let with_options = to_vip(0).ipv4_options(&[1, 1, 1, 0]).udp(5, 80).payload(b"x").build();
    let out = four.receive(CLIENT, &with_options);
    assert_eq!((out.frame.len(), out.frame[20]), (14 + 40 + 9, IpProtocol::UDP.0));
    let mut six = director(1);
    let extended = to_vip(1).extension(IpProtocol::HOP_BY_HOP, &[1, 4, 0, 0, 0, 0]);
    let out = six.receive(CLIENT, &extended.udp(5, 80).payload(b"x").build());
    assert_eq!((out.frame.len(), out.frame[14], out.frame[23]), (14 + 20 + 9, 0x45, 17));
}

#[test]
fn datagram_without_a_checksum_gets_one_for_ipv6() {
    let mut director = director(0);
    let bare = to_vip(0).udp(5, 80).payload(b"odd").no_checksum().build();
    let out = director.receive(CLIENT, &bare);
    let lip = local(&director);
    let wanted = expected(lip.ip(), ip(RIPS[1]), 0).tos(0).udp(lip.port(), 8080).payload(b"odd");
    assert_eq!(comparable(&out.frame), comparable(&wanted.build()));
}

#[test]
fn syns_offer_what_fits_the_longer_header() {
    for family in 0..2 {
        let mut director = director(family);
        let syn = to_vip(family).tcp(5, 80).flags(TcpFlags::SYN).option(TcpOption::Mss(8960));
        let out = director.receive(CLIENT, &syn.build());
        let at = 14 + [40, 20][family] + 22;
        assert_eq!(number(&out.frame, at), 1440);
        let lip = local(&director);
        let answer = from_server(ip(RIPS[1 - family]), lip.ip()).tcp(8080, lip.port());
        let answer = answer.flags(TcpFlags::SYN | TcpFlags::ACK).option(TcpOption::Mss(8960));
        let back = director.receive(SERVER, &answer.build());
        assert_eq!(number(&back.frame, 14 + [20, 40][family] + 22), 1440);
    }
}

#[test]
fn too_large_for_the_other_family_is_answered_in_the_senders_size() {
    // 20 bytes grow in the way to IPv6: so much less fits. Back it is so much more.
    for (family, mtu, told, fits) in [(0, 1500, 1480, 1480), (1, 1400, 1420, 1420)] {
        let mut director = director(family);
        for slot in 0..8 {
            let hop = *director.state.next_hop(NextHopId(slot)).unwrap();
            director.state.set_next_hop(NextHopId(slot), NextHop { mtu, ..hop });
        }
        let sized = |bytes: usize| {
            let headers = [28, 48][family];
            to_vip(family).dont_fragment().udp(5, 80).payload(&vec![7; bytes - headers]).build()
        };
        assert_eq!(director.receive(CLIENT, &sized(fits)).sent_on(), Some(SERVER));
        let out = director.receive(CLIENT, &sized(fits + 1));
        assert_eq!(out.sent_on(), Some(CLIENT));
        let icmp = &out.frame[14 + [20, 40][family]..];
        assert_eq!((number(icmp, 0), number(icmp, 6)), ([0x0304, 0x0200][family], told));
        // The same for the server's answers: there the families are the other way round.
        let ((lip, port), far) = (director.flows()[0].local.unwrap(), 1 - family);
        let answer = |bytes: usize| {
            let payload = vec![7; bytes - [28, 48][far]];
            let answer = from_server(ip(RIPS[far]), lip).dont_fragment();
            answer.udp(8080, port).payload(&payload).build()
        };
        let (fits, told) = if far == 0 { (mtu - 20, mtu - 20) } else { (mtu + 20, mtu + 20) };
        let out = director.receive(SERVER, &answer(usize::from(fits)));
        assert_eq!(out.sent_on(), Some(CLIENT));
        let out = director.receive(SERVER, &answer(usize::from(fits) + 1));
        assert_eq!(out.sent_on(), Some(SERVER));
        let icmp = &out.frame[14 + [20, 40][far]..];
        assert_eq!((number(icmp, 0), number(icmp, 6)), ([0x0304, 0x0200][far], told));
    }
}

#[test]
fn what_may_be_cut_leaves_in_pieces_of_the_other_family() {
    let mut director = director(0);
    let out = director.receive(CLIENT, &to_vip(0).udp(5, 80).payload(&[7; 1472]).build());
    assert_eq!((out.sent_on(), out.extra.len()), (Some(SERVER), 1));
    let (first, last) = (&out.extra[0].1, &out.frame);
    for (frame, more) in [(first, 1), (last, 0)] {
        assert_eq!((number(frame, 12), frame[20]), (0x86dd, IpProtocol::FRAGMENT.0));
        assert_eq!(number(frame, 14 + 42) & 1, more);
        assert!(frame.len() <= 14 + 1280, "what is cut gets through everywhere");
    }
    let payload = (first.len() - 14 - 48) + (last.len() - 14 - 48);
    assert_eq!(payload, 8 + 1472);
}

#[test]
fn pool_without_an_address_of_the_servers_family_is_refused() {
    let mut wanted = desired(vec![spec(1, Protocol::Tcp)]);
    wanted.pools[0].addresses = vec![ip(LIPS[1])];
    let mut director = Director::new(KernelMode::Tap);
    let problems = director.change(|registry, hops| registry.apply(&wanted, hops)).unwrap_err();
    let expected = "tcp [fd00:1::1]:80: pool `pool` has no IPv4 address; add one to the pool";
    assert!(problems[0].to_string().starts_with(expected), "{problems:?}");
}

#[test]
fn uoa_between_families_is_refused() {
    let told = ServiceSpec { client_address: ClientAddress::Uoa, ..spec(0, Protocol::Udp) };
    let wanted = desired(vec![told]);
    let mut director = Director::new(KernelMode::Tap);
    let problems = director.change(|registry, hops| registry.apply(&wanted, hops)).unwrap_err();
    let expected = "udp 10.1.0.1:80: uoa does not get from one address family to the other";
    assert!(problems.len() == 1 && problems[0].to_string().starts_with(expected), "{problems:?}");
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 60,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Translated checksums are those computed in full, for any bytes.
    #[test]
    fn checksums_between_families_are_those_computed_in_full(
        family in 0..2usize,
        client_port in 21..=u16::MAX,
        payload in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut director = director(family);
        let sent = to_vip(family).udp(client_port, 80).payload(&payload).build();
        let out = director.receive(CLIENT, &sent);
        let (lip, rip) = (local(&director), ip(RIPS[1 - family]));
        let whole = expected(lip.ip(), rip, 0).tos(0).udp(lip.port(), 8080).payload(&payload);
        prop_assert_eq!(comparable(&out.frame), comparable(&whole.build()));
    }
}
