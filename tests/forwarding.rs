//! Frame in, verdict and frame out, over every mode: one table, then the stories that need more
//! than one packet.

#[path = "support/mod.rs"]
mod support;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::BytesMut;
use gyre::counters::DropReason;
use gyre::dataplane::Verdict;
use gyre::message::{FlowState, FromWorker};
use gyre::model::*;
use gyre::wire::build::{IpBuilder, PacketBuilder};
use gyre::wire::checksum::Sum;
use gyre::wire::ethernet::{Ethernet, MacAddr};
use gyre::wire::ip::IpProtocol;
use gyre::wire::ipv4::Ipv4;
use gyre::wire::ipv6::Ipv6;
use gyre::wire::tcp::{Tcp, TcpFlags, TcpOption};
use support::*;

const SYN: TcpFlags = TcpFlags::SYN;
const ACK: TcpFlags = TcpFlags::ACK;
const FIN: TcpFlags = TcpFlags::FIN;
const RST: TcpFlags = TcpFlags::RST;

const CLIENTS: [&str; 2] = ["10.0.0.7", "fd00:c::7"];
/// VIPs of the services in `director`: DR, DR with the kernel's TTL, FULLNAT.
const DR: [&str; 2] = ["10.1.0.1", "fd00:1::1"];
const DR_KERNEL: [&str; 2] = ["10.1.0.2", "fd00:1::2"];
const FULLNAT: [&str; 2] = ["10.1.0.3", "fd00:1::3"];
/// A service without servers, one that lists its clients, one with room for one connection.
const EMPTY: [&str; 2] = ["10.1.0.4", "fd00:1::4"];
const LISTED: [&str; 2] = ["10.1.0.5", "fd00:1::5"];
const SMALL: [&str; 2] = ["10.1.0.6", "fd00:1::6"];
/// A service that admits clients near the first two of `LISTED_CLIENTS`, and none near the second.
const ALLOWED: [&str; 2] = ["10.1.0.7", "fd00:1::7"];
const LISTED_CLIENTS: [[&str; 3]; 2] =
    [["10.3.1.7", "10.3.2.7", "10.3.3.7"], ["fd00:3:0:1::7", "fd00:3:0:2::7", "fd00:3:0:3::7"]];
const RIPS: [&str; 2] = ["10.2.0.11", "fd00:2::b"];
const LIPS: [&str; 2] = ["10.2.0.1", "fd00:2::1"];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn service(vip: &str, protocol: Protocol, mode: ForwardMode, rip: &str) -> ServiceSpec {
    let key = ServiceKey::new(protocol, ip(vip), 80);
    let mut spec = ServiceSpec::new(key, SchedulerSpec::RoundRobin);
    if mode == ForwardMode::FullNat {
        spec.pool = Some("pool".into());
        spec.ttl = TtlPolicy::Decrement;
    }
    spec.servers = vec![server(SocketAddr::new(ip(rip), 80), 1, mode)];
    spec
}

/// All services of the table, TCP and UDP, both families.
fn services() -> Vec<ServiceSpec> {
    let mut all = Vec::new();
    for family in 0..2 {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let dr = |vip: &str| service(vip, protocol, ForwardMode::DirectRoute, RIPS[family]);
            let mut kernel = dr(DR_KERNEL[family]);
            kernel.ttl = TtlPolicy::Decrement;
            let mut empty = dr(EMPTY[family]);
            empty.servers.clear();
            let mut listed = dr(LISTED[family]);
            listed.deny = vec![Prefix::new(ip(CLIENTS[family]), 16).unwrap()];
            let mut small = dr(SMALL[family]);
            small.connections_max = Some(1);
            let mut allowed = dr(ALLOWED[family]);
            let subnet = |n: usize| Prefix::new(ip(LISTED_CLIENTS[family][n]), [24, 64][family]);
            allowed.allow = vec![subnet(0).unwrap(), subnet(1).unwrap()];
            allowed.deny = vec![subnet(1).unwrap()];
            let nat = service(FULLNAT[family], protocol, ForwardMode::FullNat, RIPS[family]);
            all.extend([dr(DR[family]), kernel, nat, empty, listed, small, allowed]);
        }
    }
    all
}

fn director(kernel: KernelMode) -> Director {
    let mut director = Director::new(kernel);
    let wanted = desired(services());
    director.change(|registry, hops| registry.apply(&wanted, hops)).unwrap();
    director
}

fn to(vips: [&str; 2], family: usize) -> IpBuilder {
    from_client(ip(CLIENTS[family]), ip(vips[family]))
}

fn syn(vips: [&str; 2], family: usize) -> BytesMut {
    to(vips, family).tcp(40_001, 80).seq(1000).flags(SYN).option(TcpOption::Mss(1460)).build()
}

/// Everything behind the Ethernet header.
fn packet(frame: &[u8]) -> &[u8] {
    &frame[14..]
}

/// Source and destination with ports.
fn endpoints(frame: &[u8]) -> (SocketAddr, SocketAddr) {
    let (src, dst, l4) = match packet(frame)[0] >> 4 {
        4 => {
            let (ip, l4) = Ipv4::parse(packet(frame)).unwrap();
            (IpAddr::V4(ip.src()), IpAddr::V4(ip.dst()), l4)
        }
        _ => {
            let (ip, l4) = Ipv6::parse(packet(frame)).unwrap();
            (IpAddr::V6(ip.src()), IpAddr::V6(ip.dst()), l4)
        }
    };
    let port = |at: usize| u16::from_be_bytes([l4[at], l4[at + 1]]);
    ((src, port(0)).into(), (dst, port(2)).into())
}

/// Whether IP and transport checksums hold, computed from nothing but the bytes.
fn checksums_hold(frame: &[u8]) -> bool {
    let (pseudo, l4, ip_holds) = match packet(frame)[0] >> 4 {
        4 => {
            let (ip, options, l4) = Ipv4::parse_with_options(packet(frame)).unwrap();
            let pseudo = Sum::pseudo_v4(ip.src(), ip.dst(), ip.protocol(), l4.len() as u16);
            (pseudo, l4, ip.verify_checksum(options).is_ok())
        }
        _ => {
            let (ip, l4) = Ipv6::parse(packet(frame)).unwrap();
            (Sum::pseudo_v6(ip.src(), ip.dst(), ip.next_header(), l4.len() as u32), l4, true)
        }
    };
    let icmp4 = packet(frame)[0] >> 4 == 4 && packet(frame)[9] == IpProtocol::ICMP.0;
    let sum = if icmp4 { Sum::new() } else { pseudo };
    ip_holds && sum.add_bytes(l4).holds()
}

fn tcp(frame: &[u8]) -> (u32, u32, TcpFlags) {
    let l4 = match packet(frame)[0] >> 4 {
        4 => Ipv4::parse(packet(frame)).unwrap().1,
        _ => Ipv6::parse(packet(frame)).unwrap().1,
    };
    let (tcp, _) = Tcp::parse(l4).unwrap();
    (tcp.sequence().0, tcp.acknowledgment().0, tcp.flags())
}

/// A frame by itself: what it is, its bytes, its verdict.
type Row = (&'static str, BytesMut, Verdict);

fn check(table: Vec<Row>) {
    for (what, frame, verdict) in table {
        let mut director = director(KernelMode::Tap);
        let outcome = director.receive(CLIENT, &frame);
        assert_eq!(outcome.verdict, verdict, "{what}");
        if let Verdict::Drop(reason) = verdict {
            assert_eq!(director.drops(reason), 1, "{what}: counted once");
        }
    }
}

#[test]
fn what_a_service_takes() {
    let sent = Verdict::Transmit(SERVER);
    check(vec![
        ("SYN to a DR service", syn(DR, 0), sent),
        ("SYN to a DR service, IPv6", syn(DR, 1), sent),
        ("SYN to a FULLNAT service", syn(FULLNAT, 0), sent),
        ("SYN to a FULLNAT service, IPv6", syn(FULLNAT, 1), sent),
        ("datagram to a DR service", to(DR, 0).udp(9, 80).payload(b"x").build(), sent),
        ("datagram to a FULLNAT service", to(FULLNAT, 0).udp(9, 80).build(), sent),
        ("SYN-ACK schedules too", to(DR, 0).tcp(5, 80).flags(SYN | ACK).build(), sent),
        ("SYN-FIN schedules too", to(DR, 0).tcp(5, 80).flags(SYN | FIN).build(), sent),
        ("TTL 1 where DR keeps it", to(DR, 0).ttl(1).tcp(5, 80).flags(SYN).build(), sent),
    ]);
}

#[test]
fn what_is_left_to_the_kernel() {
    let router = PacketBuilder::new().ethernet(ROUTER_MAC, director_mac(CLIENT));
    let kernel = Verdict::ToKernel(CLIENT);
    check(vec![
        ("stray ACK", to(DR, 0).tcp(5, 80).flags(ACK).build(), kernel),
        ("SYN-RST", to(DR, 0).tcp(5, 80).flags(SYN | RST).build(), kernel),
        ("client port 20 is never scheduled", to(DR, 0).tcp(20, 80).flags(SYN).build(), kernel),
        ("datagram from port 20", to(DR, 0).udp(20, 80).build(), kernel),
        ("a VIP's port without service", to(DR, 0).tcp(5, 81).flags(SYN).build(), kernel),
        ("echo to the VIP", to(DR, 0).echo_request(1, 1).build(), kernel),
        ("another protocol", to(DR, 0).raw(IpProtocol::SCTP, &[0; 12]), kernel),
        ("no IP at all", router.raw(gyre::wire::ethernet::EtherType(0x88cc), b"lldp"), kernel),
        (
            "broadcast",
            {
                let mut frame = syn(DR, 0);
                frame[..6].fill(0xff);
                frame
            },
            kernel,
        ),
    ]);
}

#[test]
fn what_is_malformed() {
    use DropReason::*;
    let mut truncated = syn(DR, 0);
    truncated.truncate(50);
    let mut version = syn(DR, 0);
    version[14] = 0x65;
    let mut header = syn(DR, 0);
    header[14] = 0x44;
    let mut offset = syn(DR, 0);
    offset[46] = 0x40;
    let mut udp_length = to(DR, 0).udp(9, 80).payload(b"x").build();
    udp_length[38..40].copy_from_slice(&[0, 7]);
    check(vec![
        ("runt", BytesMut::from(&[0u8; 9][..]), Verdict::Drop(Truncated)),
        ("cut short", truncated, Verdict::Drop(Truncated)),
        ("IPv6 under IPv4's EtherType", version, Verdict::Drop(BadIpVersion)),
        ("IHL of 16 bytes", header, Verdict::Drop(BadIpHeader)),
        (
            "wrong header checksum",
            to(DR, 0).bad_ip_checksum().tcp(5, 80).flags(SYN).build(),
            Verdict::Drop(BadIpChecksum),
        ),
        ("data offset of 16 bytes", offset, Verdict::Drop(BadTransportHeader)),
        ("UDP length of 7", udp_length, Verdict::Drop(BadTransportHeader)),
    ]);
}

#[test]
fn allow_admits_its_clients_only_and_deny_goes_first() {
    for family in 0..2 {
        let mut director = director(KernelMode::Tap);
        let mut verdict = |client: &str| {
            let syn = from_client(ip(client), ip(ALLOWED[family])).tcp(5, 80).flags(SYN).build();
            director.receive(CLIENT, &syn).verdict
        };
        let [listed, in_both, in_neither] = LISTED_CLIENTS[family];
        assert_eq!(verdict(listed), Verdict::Transmit(SERVER));
        assert_eq!(verdict(in_both), Verdict::Drop(DropReason::Denied));
        assert_eq!(verdict(in_neither), Verdict::Drop(DropReason::Denied));
        assert_eq!(director.drops(DropReason::Denied), 2);
    }
}

#[test]
fn what_is_refused() {
    use DropReason::*;
    let vip = |builder: PacketBuilder| {
        builder.ipv4("10.0.0.7".parse().unwrap(), "10.1.0.1".parse().unwrap())
    };
    let other = MacAddr([2, 0, 0, 0, 9, 9]);
    check(vec![
        (
            "own frame",
            vip(PacketBuilder::new().ethernet(director_mac(CLIENT), director_mac(CLIENT)))
                .tcp(5, 80)
                .flags(SYN)
                .build(),
            Verdict::Drop(OwnFrame),
        ),
        (
            "another station's frame",
            vip(PacketBuilder::new().ethernet(ROUTER_MAC, other)).tcp(5, 80).flags(SYN).build(),
            Verdict::Drop(NotForUs),
        ),
        (
            "loopback as source",
            from_client(ip("127.0.0.1"), ip(DR[0])).tcp(5, 80).flags(SYN).build(),
            Verdict::Drop(MartianSource),
        ),
        (
            "VIP as source",
            from_client(ip(DR[0]), ip(DR[0])).tcp(5, 80).flags(SYN).build(),
            Verdict::Drop(MartianSource),
        ),
        ("denied client", syn(LISTED, 0), Verdict::Drop(Denied)),
        ("TTL 0", to(DR, 0).ttl(0).tcp(5, 80).flags(SYN).build(), Verdict::Drop(TtlExpired)),
    ]);
}

#[test]
fn direct_route_changes_nothing_but_mac_addresses() {
    for (family, rip) in RIPS.into_iter().enumerate() {
        let mut director = director(KernelMode::Tap);
        let frame = syn(DR, family);
        let out = director.receive(CLIENT, &frame);
        assert_eq!(packet(&out.frame), packet(&frame));
        let (ethernet, _) = Ethernet::parse(&out.frame).unwrap();
        assert_eq!(ethernet.dst(), server_mac(ip(rip)));
        assert_eq!(ethernet.src(), director_mac(SERVER));
    }
}

#[test]
fn kernels_ttl_is_one_less_and_its_checksum_patched() {
    for family in 0..2 {
        let mut director = director(KernelMode::Tap);
        let out = director.receive(CLIENT, &syn(DR_KERNEL, family));
        let expected = to(DR_KERNEL, family).ttl(63);
        let expected = expected.tcp(40_001, 80).seq(1000).flags(SYN).option(TcpOption::Mss(1460));
        assert_eq!(packet(&out.frame), packet(&expected.build()));
    }
}

/// The configuration is refused before it comes to this; the packet path does not rely on it.
#[test]
fn full_nat_without_a_local_address_of_the_family_is_counted() {
    let mut director = director(KernelMode::Tap);
    let mut snapshot = Snapshot::clone(&director.snapshot);
    for service in snapshot.services.iter_mut().flatten() {
        Arc::make_mut(service).local_addresses.clear();
    }
    director.publish(Arc::new(snapshot));
    for family in 0..2 {
        let out = director.receive(CLIENT, &syn(FULLNAT, family));
        assert_eq!(out.verdict, Verdict::Drop(DropReason::NoLocalAddress));
    }
    assert_eq!(director.drops(DropReason::NoLocalAddress), 2);
}

#[test]
fn full_nat_translates_there_and_back() {
    for family in 0..2 {
        let mut director = director(KernelMode::Tap);
        let client: SocketAddr = (ip(CLIENTS[family]), 40_001).into();
        let out = director.receive(CLIENT, &syn(FULLNAT, family));
        let (local, rip) = endpoints(&out.frame);
        assert_eq!((local.ip(), rip), (ip(LIPS[family]), (ip(RIPS[family]), 80).into()));
        assert!(checksums_hold(&out.frame));
        let answer = from_server(rip.ip(), local.ip()).tcp(80, local.port());
        let answer = answer.seq(5000).ack(1001).flags(SYN | ACK).build();
        let back = director.receive(SERVER, &answer);
        assert_eq!(back.sent_on(), Some(CLIENT));
        assert_eq!(endpoints(&back.frame), ((ip(FULLNAT[family]), 80).into(), client));
        assert_eq!(tcp(&back.frame), (5000, 1001, SYN | ACK));
        assert!(checksums_hold(&back.frame));
        assert_eq!(Ethernet::parse(&back.frame).unwrap().0.dst(), ROUTER_MAC);
    }
}

#[test]
fn udp_checksum_of_zero_stays_zero() {
    let mut director = director(KernelMode::Tap);
    let frame = to(FULLNAT, 0).udp(9, 80).payload(b"hi").no_checksum().build();
    let out = director.receive(CLIENT, &frame);
    assert_eq!(out.frame[40..42], [0, 0]);
}

#[test]
fn wrong_transport_checksum_stays_wrong() {
    let mut director = director(KernelMode::Tap);
    let frame = to(FULLNAT, 0).tcp(9, 80).flags(SYN).bad_checksum().build();
    let out = director.receive(CLIENT, &frame);
    assert_eq!(out.sent_on(), Some(SERVER));
    assert!(!checksums_hold(&out.frame));
}

#[test]
fn no_server_is_answered_with_port_unreachable() {
    for (family, icmp) in [(0, [3u8, 3]), (1, [1, 4])] {
        let mut director = director(KernelMode::Tap);
        let frame = syn(EMPTY, family);
        let out = director.receive(CLIENT, &frame);
        assert_eq!(out.sent_on(), Some(CLIENT));
        let header = if family == 0 { 20 } else { 40 };
        assert_eq!(packet(&out.frame)[header..header + 2], icmp);
        // The original packet is quoted as it came.
        assert_eq!(packet(&out.frame)[header + 8..], *packet(&frame));
        assert!(checksums_hold(&out.frame));
        assert_eq!(director.drops(DropReason::NoServer), 1);
    }
}

/// Recording dr-unreachable: the flow exists all the same, and goes on once there is a way.
#[test]
fn server_without_a_route_is_answered_with_host_unreachable() {
    for (family, icmp) in [(0, [3u8, 1]), (1, [1, 3])] {
        let mut director = director(KernelMode::Tap);
        let frame = syn(FULLNAT, family);
        let slots = (0..16).map(NextHopId);
        let hops: Vec<_> = slots.map(|id| (id, *director.state.next_hop(id).unwrap())).collect();
        for (id, hop) in hops.iter().filter(|(_, hop)| hop.nic == SERVER) {
            director.state.set_next_hop(*id, NextHop { resolved: false, mtu: 0, ..*hop });
        }
        let out = director.receive(CLIENT, &frame);
        assert_eq!(out.sent_on(), Some(CLIENT), "{:?}", out.verdict);
        let header = if family == 0 { 20 } else { 40 };
        assert_eq!(packet(&out.frame)[header..header + 2], icmp);
        assert_eq!(packet(&out.frame)[header + 8..], *packet(&frame));
        assert!(checksums_hold(&out.frame));
        assert_eq!((director.drops(DropReason::NoRoute), director.flows().len()), (1, 1));
        for (id, hop) in hops {
            director.state.set_next_hop(id, hop);
        }
        assert_eq!(director.receive(CLIENT, &frame).sent_on(), Some(SERVER));
    }
}

#[test]
fn expired_ttl_is_answered_after_the_packet_was_scheduled() {
    for family in 0..2 {
        let mut director = director(KernelMode::Tap);
        let frame = to(FULLNAT, family).ttl(1).tcp(5, 80).flags(SYN).build();
        let out = director.receive(CLIENT, &frame);
        let header = if family == 0 { 20 } else { 40 };
        assert_eq!(packet(&out.frame)[header], if family == 0 { 11 } else { 3 });
        assert_eq!(packet(&out.frame)[header + 8..], *packet(&frame));
        assert!(checksums_hold(&out.frame));
        assert_eq!(director.flows().len(), 1);
    }
}

#[test]
fn larger_than_the_path_is_answered_with_its_mtu() {
    for family in 0..2 {
        let mut director = director(KernelMode::Tap);
        director.receive(CLIENT, &syn(FULLNAT, family));
        for slot in 0..8 {
            let mut hop = *director.state.next_hop(NextHopId(slot)).unwrap();
            hop.mtu = 1400;
            director.state.set_next_hop(NextHopId(slot), hop);
        }
        let to = to(FULLNAT, family).dont_fragment();
        let frame = to.tcp(40_001, 80).flags(ACK).payload(&[0; 1400]).build();
        let out = director.receive(CLIENT, &frame);
        let header = if family == 0 { 20 } else { 40 };
        let icmp = &packet(&out.frame)[header..];
        assert_eq!(icmp[..2], if family == 0 { [3, 4] } else { [2, 0] });
        assert_eq!(u16::from_be_bytes([icmp[6], icmp[7]]), 1400);
        assert!(checksums_hold(&out.frame));
        assert!(packet(&out.frame).len() <= if family == 0 { 576 } else { 1280 });
        assert_eq!(director.drops(DropReason::TooBig), 1);
    }
}

#[test]
fn shared_port_resets_what_the_kernel_cannot_see() {
    for family in 0..2 {
        let mut director = director(KernelMode::Shared);
        let stray = to(DR, family).tcp(5, 80).seq(9).ack(77).flags(ACK).build();
        let out = director.receive(CLIENT, &stray);
        assert_eq!(out.sent_on(), Some(CLIENT));
        assert_eq!(tcp(&out.frame), (77, 0, RST));
        assert!(checksums_hold(&out.frame));
        assert_eq!(director.drops(DropReason::Unclassified), 1);
        // A reset is never answered.
        let reset = to(DR, family).tcp(5, 80).flags(RST).build();
        let out = director.receive(CLIENT, &reset);
        assert_eq!(out.verdict, Verdict::Drop(DropReason::Unclassified));
        assert_eq!(director.drops(DropReason::Unclassified), 2);
        assert_eq!(director.drops(DropReason::StrayReply), 0);
    }
}

#[test]
fn reply_without_a_flow_is_told_apart() {
    let mut director = director(KernelMode::Shared);
    let stray = from_server(ip(RIPS[0]), ip(LIPS[0])).tcp(80, 2000).seq(1).ack(5).flags(ACK);
    let out = director.receive(SERVER, &stray.build());
    assert_eq!(tcp(&out.frame), (5, 0, RST));
    assert_eq!(director.drops(DropReason::StrayReply), 1);
    let reset = from_server(ip(RIPS[0]), ip(LIPS[0])).tcp(80, 2000).flags(RST).build();
    let out = director.receive(SERVER, &reset);
    assert_eq!(out.verdict, Verdict::Drop(DropReason::StrayReply));
}

#[test]
fn frame_that_its_server_sends_back_is_a_loop() {
    let mut director = director(KernelMode::Tap);
    let out = director.receive(CLIENT, &syn(DR, 0));
    let mut back = out.frame;
    back[..6].copy_from_slice(&director_mac(SERVER).0);
    back[6..12].copy_from_slice(&server_mac(ip(RIPS[0])).0);
    let out = director.receive(SERVER, &back);
    assert_eq!(out.verdict, Verdict::Drop(DropReason::ForwardingLoop));
}

#[test]
fn connections_max_refuses_the_next_one() {
    let mut director = director(KernelMode::Tap);
    assert_eq!(director.receive(CLIENT, &syn(SMALL, 0)).sent_on(), Some(SERVER));
    let second = to(SMALL, 0).tcp(2, 80).flags(SYN).build();
    let verdict = director.receive(CLIENT, &second).verdict;
    assert_eq!(verdict, Verdict::Drop(DropReason::ServiceConnectionsMax));
    // The first one goes on, and its end makes room.
    assert_eq!(director.receive(CLIENT, &syn(SMALL, 0)).sent_on(), Some(SERVER));
    director.advance(70.0);
    assert_eq!(director.receive(CLIENT, &second).sent_on(), Some(SERVER));
}

#[test]
fn unresolved_neighbour_parks_the_frame_and_finishes_it_later() {
    let mut director = director(KernelMode::Tap);
    let slots: Vec<NextHop> =
        (0..8).map(|slot| *director.state.next_hop(NextHopId(slot)).unwrap()).collect();
    for (slot, hop) in slots.iter().enumerate() {
        director.state.set_next_hop(NextHopId(slot as u16), NextHop { resolved: false, ..*hop });
    }
    let out = director.receive(CLIENT, &syn(FULLNAT, 0));
    let Verdict::AwaitNeighbour(slot) = out.verdict else { panic!("{:?}", out.verdict) };
    director.state.set_next_hop(slot, slots[slot.index()]);
    let mut buffer = out.frame.clone();
    let len = buffer.len();
    let mut frame = gyre::frame::Frame::new(&mut buffer, 0, len);
    let verdict =
        gyre::dataplane::finish_next_hop(&director.state, &director.snapshot, &mut frame, slot);
    assert_eq!(verdict, Verdict::Transmit(SERVER));
    let (ethernet, _) = Ethernet::parse(frame.bytes()).unwrap();
    assert_eq!(ethernet.dst(), server_mac(ip(RIPS[0])));
}

#[test]
fn client_on_the_link_without_a_slot_is_asked_for() {
    let mut director = director(KernelMode::Tap);
    let on_link =
        RouteTable::new(&[("10.0.0.0/16".parse().unwrap(), RouteTarget::OnLink(CLIENT))], &[]);
    let applied = director.registry.set_routes(std::sync::Arc::new(on_link));
    director.publish(applied.snapshot);
    let out = director.receive(CLIENT, &syn(FULLNAT, 0));
    let (local, _) = endpoints(&out.frame);
    let answer = from_server(ip(RIPS[0]), local.ip()).tcp(80, local.port()).flags(SYN | ACK);
    let out = director.receive(SERVER, &answer.build());
    assert_eq!(out.verdict, Verdict::AwaitAddress(CLIENT, ip(CLIENTS[0])));
    let asked = director.state.events.iter().any(|event| {
        let client = ip(CLIENTS[0]);
        matches!(event, FromWorker::Resolve(CLIENT, address) if *address == client)
    });
    assert!(asked);
    let nowhere = director.registry.set_routes(std::sync::Arc::default());
    director.publish(nowhere.snapshot);
    let out = director.receive(SERVER, &answer.build());
    assert_eq!(out.verdict, Verdict::Drop(DropReason::NoRoute));
}

#[test]
fn vlan_port_takes_its_tag_off_and_puts_it_on() {
    let tagged = |id: NicId, vlan| NicModel {
        id,
        name: "p".into(),
        mac: director_mac(id).0,
        mtu: 1500,
        kernel: KernelMode::Tap,
        vlan,
        addresses: Vec::new(),
    };
    let mut director = Director::with_nics(vec![tagged(CLIENT, Some(5)), tagged(SERVER, Some(9))]);
    let wanted = desired(services());
    director.change(|registry, hops| registry.apply(&wanted, hops)).unwrap();
    let frame = |vlan: Option<u16>| {
        let ethernet = PacketBuilder::new().ethernet(ROUTER_MAC, director_mac(CLIENT));
        let ethernet = vlan.map_or(ethernet.clone(), |vlan| ethernet.vlan(vlan));
        ethernet.ip(ip(CLIENTS[0]), ip(FULLNAT[0])).unwrap().tcp(7, 80).flags(SYN).build()
    };
    let out = director.receive(CLIENT, &frame(Some(5)));
    assert_eq!(out.sent_on(), Some(SERVER));
    assert_eq!(out.frame[12..18], [0x81, 0, 0, 9, 8, 0]);
    for wrong in [None, Some(6)] {
        let verdict = director.receive(CLIENT, &frame(wrong)).verdict;
        assert_eq!(verdict, Verdict::Drop(DropReason::WrongVlan));
    }
}

#[test]
fn rst_closes_flow_in_both_directions() {
    for side in [CLIENT, SERVER] {
        let mut director = director(KernelMode::Tap);
        let local = establish(&mut director, 40_001, None);
        let reset = match side {
            CLIENT => to(FULLNAT, 0).tcp(40_001, 80).seq(1001).flags(RST).build(),
            _ => from_server(ip(RIPS[0]), local.ip()).tcp(80, local.port()).flags(RST).build(),
        };
        director.receive(side, &reset);
        assert_eq!(director.flows()[0].state, FlowState::Close);
        director.advance(15.0);
        assert!(director.flows().is_empty());
    }
}

/// What checks of health are hurried by: nothing else counts as a handshake that failed.
#[test]
fn handshakes_that_servers_refuse_or_leave_unanswered_are_counted() {
    let mut director = director(KernelMode::Tap);
    let refused = |director: &Director| -> u64 {
        director.state.counters.servers.iter().map(|server| server.refused.get()).sum()
    };
    let reset = |local: SocketAddr| {
        from_server(ip(RIPS[0]), local.ip()).tcp(80, local.port()).flags(RST | ACK).build()
    };
    // A connection that was established, then reset.
    let local = establish(&mut director, 40_001, None);
    director.receive(SERVER, &reset(local));
    assert_eq!(refused(&director), 0);
    // One that was refused.
    let out = director.receive(CLIENT, &to(FULLNAT, 0).tcp(40_002, 80).flags(SYN).build());
    director.receive(SERVER, &reset(endpoints(&out.frame).0));
    assert_eq!(refused(&director), 1);
    // By DR one that comes no further than its SYN, and one that does.
    director.receive(CLIENT, &syn(DR, 0));
    director.receive(CLIENT, &syn(DR, 1));
    director.receive(CLIENT, &to(DR, 1).tcp(40_001, 80).seq(1001).ack(1).flags(ACK).build());
    director.advance(61.0);
    assert_eq!(refused(&director), 2);
    director.advance(1000.0);
    assert!(director.flows().is_empty());
    assert_eq!(refused(&director), 2);
}

#[test]
fn idle_flow_expires_and_gives_everything_back() {
    let mut director = director(KernelMode::Tap);
    establish(&mut director, 40_001, None);
    director.receive(CLIENT, &syn(DR, 1));
    director.advance(899.0);
    assert_eq!(director.flows().len(), 1);
    director.advance(100.0);
    assert!(director.flows().is_empty());
    let counters = &director.state.counters;
    assert_eq!(counters.flows.get(), 0);
    assert!(counters.servers.iter().all(|s| s.flows.get() == 0 && s.active.get() == 0));
    assert!(counters.services.iter().all(|s| s.flows.get() == 0));
    assert!(counters.lips.iter().all(|lip| lip.used.get() == 0));
}

#[test]
fn flow_of_a_server_removed_at_once_is_dropped_and_revives() {
    let mut director = director(KernelMode::Tap);
    establish(&mut director, 40_001, None);
    let key = ServiceKey::new(Protocol::Tcp, ip(FULLNAT[0]), 80);
    let endpoint: SocketAddr = (ip(RIPS[0]), 80).into();
    director.change(|registry, _| registry.remove_server(&key, endpoint, Removal::Now)).unwrap();
    let data = to(FULLNAT, 0).tcp(40_001, 80).seq(1001).ack(5001).flags(ACK).build();
    let verdict = director.receive(CLIENT, &data).verdict;
    assert_eq!(verdict, Verdict::Drop(DropReason::ServerRemoved));
    let again = server(endpoint, 1, ForwardMode::FullNat);
    director.change(|registry, hops| registry.add_server(&key, &again, hops)).unwrap();
    assert_eq!(director.receive(CLIENT, &data).sent_on(), Some(SERVER));
}

#[test]
fn drained_server_keeps_its_flows_and_gets_no_new_ones() {
    let mut director = director(KernelMode::Tap);
    let key = ServiceKey::new(Protocol::Tcp, ip(FULLNAT[0]), 80);
    establish(&mut director, 40_001, None);
    let other = server((ip("10.2.0.12"), 80).into(), 1, ForwardMode::FullNat);
    director.change(|registry, hops| registry.add_server(&key, &other, hops)).unwrap();
    let drain = Removal::Drain { deadline: None };
    let endpoint: SocketAddr = (ip(RIPS[0]), 80).into();
    director.change(|registry, _| registry.remove_server(&key, endpoint, drain)).unwrap();
    let data = to(FULLNAT, 0).tcp(40_001, 80).seq(1001).ack(5001).flags(ACK).build();
    let out = director.receive(CLIENT, &data);
    assert_eq!(endpoints(&out.frame).1.ip(), ip(RIPS[0]));
    for port in 1..30u16 {
        if port == 20 {
            continue;
        }
        let fresh = to(FULLNAT, 0).tcp(port, 80).flags(SYN).build();
        let out = director.receive(CLIENT, &fresh);
        assert_eq!(endpoints(&out.frame).1.ip(), ip("10.2.0.12"));
    }
}

#[test]
fn full_table_refuses_new_flows_and_keeps_old_ones() {
    let mut director = director(KernelMode::Tap);
    for port in 1000..1000 + 1024u16 {
        let out = director.receive(CLIENT, &to(DR, 0).tcp(port, 80).flags(SYN).build());
        assert_eq!(out.sent_on(), Some(SERVER));
    }
    let late = to(DR, 0).tcp(999, 80).flags(SYN).build();
    assert_eq!(director.receive(CLIENT, &late).verdict, Verdict::Drop(DropReason::TableFull));
    let first = to(DR, 0).tcp(1000, 80).flags(ACK).build();
    assert_eq!(director.receive(CLIENT, &first).sent_on(), Some(SERVER));
}

/// Handshake of a FULLNAT connection; answers with its address towards the server.
fn establish(director: &mut Director, client_port: u16, timestamp: Option<u32>) -> SocketAddr {
    let (first, _) = open(director, client_port, 1000, timestamp);
    let (local, _) = endpoints(&first);
    let answer = from_server(ip(RIPS[0]), local.ip()).tcp(80, local.port());
    director.receive(SERVER, &answer.seq(5000).ack(1001).flags(SYN | ACK).build());
    let ack = to(FULLNAT, 0).tcp(client_port, 80).seq(1001).ack(5001).flags(ACK);
    director.receive(CLIENT, &ack.build());
    local
}

fn open(
    director: &mut Director,
    client_port: u16,
    seq: u32,
    timestamp: Option<u32>,
) -> (Vec<u8>, Verdict) {
    let mut syn = to(FULLNAT, 0).tcp(client_port, 80).seq(seq).flags(SYN);
    if let Some(value) = timestamp {
        syn = syn.option(TcpOption::Timestamps { value, echo: 0 });
    }
    let out = director.receive(CLIENT, &syn.build());
    (out.frame, out.verdict)
}

/// FULLNAT with only two source ports.
fn narrow() -> Director {
    let mut director = Director::new(KernelMode::Tap);
    let mut wanted =
        desired(vec![service(FULLNAT[0], Protocol::Tcp, ForwardMode::FullNat, RIPS[0])]);
    wanted.pools[0].ports = (3000, 3001);
    director.change(|registry, hops| registry.apply(&wanted, hops)).unwrap();
    director
}

/// The server closes first, as nginx does without keep-alive: it goes to TIME_WAIT.
fn close_by_server(director: &mut Director, client_port: u16, local: SocketAddr, seq: u32) {
    let server = |flags, seq, ack| {
        let tcp = from_server(ip(RIPS[0]), local.ip()).tcp(80, local.port());
        tcp.seq(seq).ack(ack).flags(flags).build()
    };
    director.receive(SERVER, &server(FIN | ACK, 5001, seq));
    let client = to(FULLNAT, 0).tcp(client_port, 80).seq(1001).ack(5002).flags(FIN | ACK);
    let client = client.option(TcpOption::Timestamps { value: 900, echo: 1 });
    director.receive(CLIENT, &client.build());
    director.receive(SERVER, &server(ACK, 5002, seq + 1));
}

#[test]
fn exhausted_source_ports_are_counted_and_answered_with_a_reset() {
    let mut director = narrow();
    establish(&mut director, 1, None);
    establish(&mut director, 2, None);
    let (frame, verdict) = open(&mut director, 3, 1000, None);
    assert_eq!(verdict, Verdict::Transmit(CLIENT));
    assert_eq!(tcp(&frame), (0, 1001, RST | ACK));
    assert_eq!(director.drops(DropReason::NoSourcePort), 1);
    assert_eq!(director.state.counters.lips[0].exhausted.get(), 1);
}

#[test]
fn closed_port_is_taken_over_with_numbers_above_the_old_ones() {
    let mut director = narrow();
    let local = establish(&mut director, 1, Some(500));
    establish(&mut director, 2, None);
    close_by_server(&mut director, 1, local, 1001);
    // The next client starts below the old connection, in sequence and in time.
    let (frame, verdict) = open(&mut director, 3, 100, Some(7));
    assert_eq!(verdict, Verdict::Transmit(SERVER));
    assert_eq!(endpoints(&frame).0, local);
    assert!(checksums_hold(&frame));
    let (seq, _, _) = tcp(&frame);
    assert!(seq > 1002, "the server in TIME_WAIT refuses {seq}");
    let (_, l4) = Ipv4::parse(packet(&frame)).unwrap();
    let (_, options, _) = Tcp::parse_with_options(l4).unwrap();
    let value = u32::from_be_bytes([options[2], options[3], options[4], options[5]]);
    assert!(value > 900, "PAWS refuses timestamp {value}");
    // What the server says about it comes back as if nothing had been shifted.
    let answer = from_server(ip(RIPS[0]), local.ip()).tcp(80, local.port());
    let answer = answer
        .seq(8000)
        .ack(seq + 1)
        .flags(SYN | ACK)
        .option(TcpOption::Timestamps { value: 77, echo: value });
    let back = director.receive(SERVER, &answer.build());
    assert_eq!(tcp(&back.frame), (8000, 101, SYN | ACK));
    assert!(checksums_hold(&back.frame));
    let (_, l4) = Ipv4::parse(packet(&back.frame)).unwrap();
    let (_, options, _) = Tcp::parse_with_options(l4).unwrap();
    assert_eq!(options[2..10], [0, 0, 0, 77, 0, 0, 0, 7]);
    assert_eq!(director.state.counters.lips[0].reused.get(), 1);
}

#[test]
fn every_port_comes_round_many_times() {
    let mut director = narrow();
    for round in 0..50u16 {
        let local = establish(&mut director, 100 + round, Some(u32::from(round)));
        let row = director.flow((ip(CLIENTS[0]), 100 + round).into()).unwrap();
        assert_eq!(row.state, FlowState::Established, "round {round}");
        // What the server expects next: the client's 1001 as it sees it.
        let ack = to(FULLNAT, 0).tcp(100 + round, 80).seq(1001).ack(5001).flags(ACK);
        let seen = director.receive(CLIENT, &ack.build());
        close_by_server(&mut director, 100 + round, local, tcp(&seen.frame).0);
    }
    assert_eq!(director.drops(DropReason::NoSourcePort), 0);
    director.advance(200.0);
    assert_eq!(director.state.counters.lips[0].used.get(), 0);
    assert_eq!(director.state.flows.len(), 0);
}
