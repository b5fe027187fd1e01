//! UOA: a UDP client's address in the IP header of its first datagrams; and which kinds TOA takes.

mod support;

use std::net::IpAddr;

use gyre::model::*;
use gyre::wire::ip::IpProtocol;
use gyre::wire::ipv4::Ipv4;
use gyre::wire::ipv6::Ipv6;

use support::*;

const CIPS: [&str; 2] = ["10.0.0.7", "fd00:c::7"];
const VIPS: [&str; 2] = ["10.1.0.1", "fd00:1::1"];
const RIPS: [&str; 2] = ["10.2.0.11", "fd00:2::b"];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn service(family: usize, protocol: Protocol, address: ClientAddress) -> ServiceSpec {
    let key = ServiceKey::new(protocol, ip(VIPS[family]), 53);
    let mut spec = ServiceSpec::new(key, SchedulerSpec::RoundRobin);
    spec.client_address = address;
    spec.pool = Some("pool".into());
    spec.servers = vec![server((ip(RIPS[family]), 53).into(), 1, ForwardMode::FullNat)];
    spec
}

fn director() -> Director {
    let services = [0, 1].map(|family| service(family, Protocol::Udp, ClientAddress::Uoa));
    let mut director = Director::new(KernelMode::Tap);
    director.change(|registry, hops| registry.apply(&desired(services.to_vec()), hops)).unwrap();
    director
}

/// What a datagram of `bytes` from the client's port 4660 (0x1234) becomes.
fn ask(director: &mut Director, family: usize, bytes: usize) -> Vec<u8> {
    let packet = from_client(ip(CIPS[family]), ip(VIPS[family])).udp(0x1234, 53);
    let out = director.receive(CLIENT, &packet.payload(&vec![b'q'; bytes]).build());
    assert_eq!(out.sent_on(), Some(SERVER));
    out.frame
}

/// The server answers the flow's datagram `asked`.
fn answer(director: &mut Director, family: usize, asked: &[u8]) {
    let at = asked.len() - 8 - 1;
    let port = u16::from_be_bytes([asked[at], asked[at + 1]]);
    let lip = ip(["10.2.0.1", "fd00:2::1"][family]);
    let packet = from_server(ip(RIPS[family]), lip).udp(53, port).payload(b"a");
    assert_eq!(director.receive(SERVER, &packet.build()).sent_on(), Some(CLIENT));
}

/// What stands between the IP header and UDP.
fn inserted(frame: &[u8]) -> Vec<u8> {
    let l3 = &frame[14..];
    if l3[0] >> 4 == 4 {
        let (ip, options, udp) = Ipv4::parse_with_options(l3).unwrap();
        ip.verify_checksum(options).unwrap();
        assert_eq!(ip.protocol(), IpProtocol::UDP);
        assert_eq!(usize::from(u16::from_be_bytes([udp[4], udp[5]])), udp.len());
        return options.to_vec();
    }
    let (ip, rest) = Ipv6::parse(l3).unwrap();
    if ip.next_header() == IpProtocol::UDP {
        return Vec::new();
    }
    assert_eq!(ip.next_header(), IpProtocol(248));
    let bytes = usize::from(u16::from_be_bytes([rest[2], rest[3]]));
    let udp = &rest[bytes..];
    assert_eq!(usize::from(u16::from_be_bytes([udp[4], udp[5]])), udp.len());
    rest[..bytes].to_vec()
}

fn wanted(family: usize) -> Vec<u8> {
    match ip(CIPS[family]) {
        IpAddr::V4(client) => [&[31, 8, 0x12, 0x34][..], &client.octets()].concat(),
        IpAddr::V6(client) => {
            [&[0x20, 17, 0, 24, 31, 20, 0x12, 0x34][..], &client.octets()].concat()
        }
    }
}

#[test]
fn uoa_rides_on_a_clients_first_three_datagrams() {
    for family in 0..2 {
        let mut director = director();
        for n in 0..5 {
            let found = inserted(&ask(&mut director, family, 20));
            assert_eq!(found, if n < 3 { wanted(family) } else { Vec::new() }, "datagram {n}");
        }
    }
}

#[test]
fn uoa_ends_when_the_server_answers() {
    for family in 0..2 {
        let mut director = director();
        let first = ask(&mut director, family, 1);
        assert_eq!(inserted(&first), wanted(family));
        answer(&mut director, family, &first);
        assert!(inserted(&ask(&mut director, family, 1)).is_empty());
    }
}

#[test]
fn a_datagram_without_room_goes_without_uoa_and_the_next_one_has_it() {
    for (family, headers) in [(0, 28), (1, 48)] {
        let mut director = director();
        let most = 1500 - headers;
        assert!(inserted(&ask(&mut director, family, most)).is_empty());
        assert!(inserted(&ask(&mut director, family, most - wanted(family).len() + 1)).is_empty());
        let fits = ask(&mut director, family, most - wanted(family).len());
        assert_eq!((inserted(&fits), fits.len()), (wanted(family), 1514));
    }
}

#[test]
fn uoa_stands_before_other_ip_options_while_there_is_room() {
    for (bytes, has_room) in [(4, true), (32, true), (36, false)] {
        let mut director = director();
        let options = vec![1; bytes];
        let packet = from_client(ip(CIPS[0]), ip(VIPS[0])).ipv4_options(&options);
        let packet = packet.udp(0x1234, 53).payload(b"q").build();
        let found = inserted(&director.receive(CLIENT, &packet).frame);
        let first = if has_room { wanted(0) } else { Vec::new() };
        assert_eq!(found, [first, options].concat());
    }
}

#[test]
fn client_addresses_that_a_protocol_cannot_carry_are_refused() {
    let problems = |protocol, address| {
        let problems = validate(&desired(vec![service(0, protocol, address)]), 1);
        problems.into_iter().map(|problem| problem.what).collect::<Vec<_>>().join("; ")
    };
    let toa = |kind| ClientAddress::Toa { kind, on_syn: false };
    assert_eq!(problems(Protocol::Udp, ClientAddress::Uoa), "");
    assert_eq!(problems(Protocol::Tcp, ClientAddress::Uoa), "uoa works on UDP only");
    assert_eq!(problems(Protocol::Udp, toa(254)), "client_address works on TCP only");
    for kind in [254, 200, 252] {
        assert_eq!(problems(Protocol::Tcp, toa(kind)), "");
    }
    for kind in [0, 1, 2, 3, 4, 5, 8, 19, 29, 30, 34] {
        assert!(problems(Protocol::Tcp, toa(kind)).contains("means something else"), "{kind}");
    }
}
