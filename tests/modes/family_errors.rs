//! ICMP errors between IPv4 and IPv6 (RFC 7915 sections 4.2, 4.3, 5.2, 5.3): each reaches the side
//! that it concerns, as that side's family says it, about the packet that it sent.

use std::net::IpAddr;

use gyre::counters::DropReason;
use gyre::dataplane::Verdict;
use gyre::model::*;
use gyre::wire::build::{IpBuilder, PacketBuilder};
use gyre::wire::checksum::Sum;
use gyre::wire::ip::{Fragment, IpProtocol};
use gyre::wire::ipv4::Ipv4;
use gyre::wire::ipv6::Ipv6;
use gyre::wire::tcp::{TcpFlags, TcpOption};

use crate::family::*;
use crate::support::*;

/// A router on either side.
const ROUTERS: [[&str; 2]; 2] = [["192.0.2.1", "fd00:f::1"], ["10.2.0.99", "fd00:2::63"]];

/// Type, code, and the header's second word.
type Said = (u8, u8, u32);

/// What an IPv4 error says in IPv6, for a packet of 28 bytes; none where it cannot be said.
fn in_v6((kind, code, word): Said) -> Option<Said> {
    Some(match (kind, code) {
        (3, 0 | 1 | 5 | 6 | 7 | 8 | 11 | 12) => (1, 0, 0),
        (3, 2) => (4, 1, 6),
        (3, 3) => (1, 4, 0),
        (3, 4) => (2, 0, (word + 20).clamp(1280, 1500)),
        (3, 9 | 10 | 13 | 15) => (1, 1, 0),
        (11, code) => (3, code, 0),
        (12, 0 | 2) => {
            let fields: [(u32, u32); 12] = [
                (0, 0),
                (1, 1),
                (2, 4),
                (3, 4),
                (8, 7),
                (9, 6),
                (12, 8),
                (13, 8),
                (15, 8),
                (16, 24),
                (18, 24),
                (19, 24),
            ];
            let (_, at) = fields.into_iter().find(|(at, _)| *at == word >> 24)?;
            (4, 0, at)
        }
        _ => return None,
    })
}

/// What an IPv6 error says in IPv4.
fn in_v4((kind, code, word): Said) -> Option<Said> {
    Some(match (kind, code) {
        (1, 0 | 2 | 3) => (3, 1, 0),
        (1, 1) => (3, 10, 0),
        (1, 4) => (3, 3, 0),
        (2, _) => (3, 4, word.clamp(1280, 1500) - 20),
        (3, code) => (11, code, 0),
        (4, 0) => {
            let fields: [(u32, u32); 10] = [
                (0, 0),
                (1, 1),
                (4, 2),
                (5, 2),
                (6, 9),
                (7, 8),
                (8, 12),
                (23, 12),
                (24, 16),
                (39, 16),
            ];
            let (_, at) = fields.into_iter().find(|(at, _)| *at == word)?;
            (12, 0, at << 24)
        }
        (4, 1) => (3, 2, 0),
        _ => return None,
    })
}

/// Every kind of error that is relayed at all, as `family` says it.
fn all_said(family: usize) -> Vec<Said> {
    let mut all = Vec::new();
    if family == 0 {
        all.extend((0..17).filter(|code| *code != 4).map(|code| (3, code, 0)));
        all.extend([68, 576, 1259, 1260, 1280, 1400, 1480, 1500, 9000].map(|mtu| (3, 4, mtu)));
        all.extend([(4, 0, 0), (11, 0, 0), (11, 1, 0), (12, 1, 0), (12, 2, 9 << 24), (12, 3, 0)]);
        let fields = [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 15, 16, 18, 19, 20, 255];
        all.extend(fields.map(|at| (12, 0, at << 24)));
    } else {
        all.extend((0..8).map(|code| (1, code, 0)));
        all.extend([0, 68, 1279, 1280, 1400, 1500, 9000, u32::MAX].map(|mtu| (2, 0, mtu)));
        all.extend([
            (3, 0, 0),
            (3, 1, 0),
            (4, 1, 40),
            (4, 2, 40),
            (4, 3, 0),
            (5, 0, 0),
            (100, 0, 0),
        ]);
        let fields = [0, 1, 2, 3, 4, 5, 6, 7, 8, 23, 24, 39, 40, u32::MAX];
        all.extend(fields.map(|at| (4, 0, at)));
    }
    all
}

fn family_of(packet: &[u8]) -> usize {
    usize::from(packet[0] >> 4 == 6)
}

fn addresses(packet: &[u8]) -> (IpAddr, IpAddr) {
    if family_of(packet) == 0 {
        let (ip, _) = Ipv4::parse_quoted(packet).unwrap();
        (ip.src().into(), ip.dst().into())
    } else {
        let (ip, _) = Ipv6::parse_quoted(packet).unwrap();
        (ip.src().into(), ip.dst().into())
    }
}

/// What an error says and quotes; its checksums hold.
fn error(frame: &[u8]) -> (Said, &[u8]) {
    let packet = &frame[14..];
    let (pseudo, message) = if family_of(packet) == 0 {
        let (ip, options, message) = Ipv4::parse_with_options(packet).unwrap();
        assert_eq!((ip.verify_checksum(options), ip.protocol()), (Ok(()), IpProtocol::ICMP));
        assert!(!ip.dont_fragment() && ip.total_length() <= 576);
        (Sum::new(), message)
    } else {
        let (ip, message) = Ipv6::parse(packet).unwrap();
        assert_eq!(ip.next_header(), IpProtocol::ICMPV6);
        assert!(frame.len() <= 14 + 1280);
        let length = message.len() as u32;
        (Sum::pseudo_v6(ip.src(), ip.dst(), IpProtocol::ICMPV6, length), message)
    };
    assert!(pseudo.add_bytes(message).holds(), "ICMP checksum");
    let word = u32::from_be_bytes(message[4..8].try_into().unwrap());
    ((message[0], message[1], word), &message[8..])
}

/// A packet as it is after one hop.
fn one_hop_on(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if family_of(&packet) == 0 {
        packet[8] -= 1;
        packet[10..12].fill(0);
        let checksum = Sum::new().add_bytes(&packet[..20]).checksum();
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    } else {
        packet[7] -= 1;
    }
    packet
}

/// A packet that went through the director: as it came, and as it left, both as IP packets.
struct Passed {
    came: Vec<u8>,
    left: Vec<u8>,
    /// The port that it left by.
    nic: NicId,
}

fn passed(director: &mut Director, from: NicId, frame: &[u8]) -> Passed {
    let out = director.receive(from, frame);
    let nic = out.sent_on().unwrap();
    Passed { came: frame[14..].to_vec(), left: out.frame[14..].to_vec(), nic }
}

/// A request, and an answer to it.
fn both_ways(director: &mut Director, family: usize) -> [Passed; 2] {
    let asked = passed(director, CLIENT, &to_vip(family).udp(777, 80).payload(b"why?").build());
    let lip = local(director);
    let answer = from_server(ip(RIPS[1 - family]), lip.ip()).udp(8080, lip.port());
    let answered = passed(director, SERVER, &answer.payload(b"because").build());
    [asked, answered]
}

/// An error about a packet that left the director, from a router on its way.
fn about(passed: &Passed) -> IpBuilder {
    let (us, _) = addresses(&passed.left);
    let router = ip(ROUTERS[passed.nic.index()][family_of(&passed.left)]);
    let macs = match passed.nic {
        CLIENT => (ROUTER_MAC, director_mac(CLIENT)),
        _ => (server_mac(router), director_mac(SERVER)),
    };
    PacketBuilder::new().ethernet(macs.0, macs.1).ip(router, us).unwrap()
}

fn said_about(passed: &Passed, (kind, code, word): Said) -> Vec<u8> {
    about(passed).icmp(kind, code, word).payload(&passed.left).build().to_vec()
}

#[test]
fn errors_between_families_say_what_the_other_family_says() {
    for family in 0..2 {
        let mut director = director(family);
        for sent in both_ways(&mut director, family) {
            let from = family_of(&sent.left);
            for said in all_said(from) {
                let out = director.receive(sent.nic, &said_about(&sent, said));
                let wanted = if from == 0 { in_v6(said) } else { in_v4(said) };
                let Some(wanted) = wanted else {
                    assert_eq!(out.verdict, Verdict::Drop(DropReason::OtherFamily), "{said:?}");
                    continue;
                };
                assert_eq!(out.sent_on(), Some(NicId(1 - sent.nic.0)), "{said:?}");
                let (got, quoted) = error(&out.frame);
                assert_eq!(got, wanted, "{said:?}");
                assert_eq!(quoted, one_hop_on(&sent.came), "{said:?}");
                // Whoever says it, the receiver hears it from whom it spoke to.
                let (receiver, spoken_to) = addresses(&sent.came);
                assert_eq!(addresses(&out.frame[14..]), (spoken_to, receiver));
            }
        }
    }
}

/// Not of flows within IPv4: there parameter problems are the host's, as in the kernel.
#[test]
fn redirects_and_errors_about_nothing_known_are_the_kernels_between_families_too() {
    let mut director = director(1);
    let [asked, _] = both_ways(&mut director, 1);
    for said in [(5, 0, 0), (12, 0, 0)] {
        let mut strange = Passed { left: asked.left.clone(), came: Vec::new(), nic: SERVER };
        if said.0 == 12 {
            strange.left[21] ^= 1;
        }
        let out = director.receive(SERVER, &said_about(&strange, said));
        assert_eq!(out.verdict, Verdict::ToKernel(SERVER));
    }
    let mut damaged = said_about(&asked, (3, 3, 0));
    *damaged.last_mut().unwrap() ^= 1;
    let out = director.receive(SERVER, &damaged);
    assert_eq!(out.verdict, Verdict::Drop(DropReason::BadIcmpChecksum));
}

fn sized(director: &mut Director, family: usize, bytes: usize) -> Passed {
    let payload = vec![7; bytes - [28, 48][family]];
    let datagram = to_vip(family).dont_fragment().udp(777, 80).payload(&payload).build();
    passed(director, CLIENT, &datagram)
}

/// The MTU that the client is told when a router before the server says `mtu` about its packet.
fn told(director: &mut Director, sent: &Passed, mtu: u32) -> u32 {
    let kind = if family_of(&sent.left) == 0 { (3, 4, mtu) } else { (2, 0, mtu) };
    let out = director.receive(SERVER, &said_about(sent, kind));
    assert_eq!(out.sent_on(), Some(CLIENT));
    error(&out.frame).0.2
}

#[test]
fn client_heeds_what_it_is_told_of_a_narrow_path_of_the_other_family() {
    for (family, path, fits) in [(0, 1280, 1260), (1, 1280, 1300), (0, 1400, 1380), (1, 576, 1280)]
    {
        let mut director = director(family);
        let sent = sized(&mut director, family, 1400);
        assert_eq!(told(&mut director, &sent, path), fits);
        // A sender that heeds it gets through, or lets the routers cut.
        let sent = sized(&mut director, family, fits as usize);
        let may_be_cut = family == 1 && sent.left[6] & 0x40 == 0;
        assert!(sent.left.len() as u32 <= path || may_be_cut);
        assert_eq!(may_be_cut, path < 1260);
    }
}

/// A router from before RFC 1191 says nothing: the next lower usual MTU is meant.
#[test]
fn a_router_that_does_not_say_its_mtu_means_the_next_usual_one() {
    let mut director = director(1);
    for slot in 0..8 {
        let hop = *director.state.next_hop(NextHopId(slot)).unwrap();
        director.state.set_next_hop(NextHopId(slot), NextHop { mtu: 9000, ..hop });
    }
    let mut sent = sized(&mut director, 1, 1520);
    assert_eq!(told(&mut director, &sent, 0), 1492 + 20, "of 1500 bytes");
    for (bytes, fits) in [(1492, 1280), (1493, 1512), (2002, 1512), (2003, 2022), (9000, 8186)] {
        // What is quoted says how long the packet was, however little of it is there.
        sent.left.truncate(28);
        sent.left[2..4].copy_from_slice(&u16::to_be_bytes(bytes));
        assert_eq!(told(&mut director, &sent, 0), fits, "of {bytes} bytes");
    }
}

/// No more is said than the links beside the director take.
#[test]
fn mtu_told_is_no_more_than_the_links_have() {
    for (family, mtus, fits) in [
        (0, [1500, 1400], 1380),
        (0, [1300, 1500], 1300),
        (1, [1500, 1400], 1420),
        (1, [1300, 1500], 1300),
    ] {
        let mut director = director(family);
        let sent = sized(&mut director, family, 1290);
        for slot in 0..8 {
            let hop = *director.state.next_hop(NextHopId(slot)).unwrap();
            let mtu = mtus[hop.nic.index()];
            director.state.set_next_hop(NextHopId(slot), NextHop { mtu, ..hop });
        }
        assert_eq!(told(&mut director, &sent, 9000), fits);
    }
}

#[test]
fn errors_between_families_quote_as_much_as_the_other_family_may() {
    for family in 0..2 {
        let mut director = director(family);
        let sent = sized(&mut director, family, 1400);
        let header = [40, 20][family];
        let said = [(1, 4, 0), (3, 3, 0)][family];
        // 1280 and 576 bytes with all headers; of less than that, all of it.
        for (quoted, kept) in [(8, 8), (100, 100), (1352, [528, 1192][family])] {
            let quoted = &sent.left[..(header + quoted).min(sent.left.len())];
            let build = about(&sent).icmp(said.0, said.1, said.2).payload(quoted).build();
            let out = director.receive(SERVER, &build);
            let got = error(&out.frame).1;
            let whole = one_hop_on(&sent.came);
            assert_eq!(got, &whole[..[20, 40][family] + kept], "{family}");
        }
    }
}

/// Extensions (RFC 4884) stand behind what is quoted, at a place that the header tells.
#[test]
fn extensions_of_errors_stay_on_their_side() {
    for family in 0..2 {
        let mut director = director(family);
        let sent = sized(&mut director, family, 1400);
        // 128 bytes, in eights or in fours.
        let said = [(3, 0, 16 << 24), (11, 0, 32 << 16)][family];
        let quoted = [&sent.left[..128], &[0x20, 0, 0, 0, 0, 8, 1, 1, 0, 0, 0, 0]].concat();
        let build = about(&sent).icmp(said.0, said.1, said.2).payload(&quoted).build();
        let out = director.receive(SERVER, &build);
        let (got, quoted) = error(&out.frame);
        assert_eq!(got, [(11, 0, 0), (3, 0, 0)][family]);
        let bytes = [128 - 20, 128 + 20][family];
        assert_eq!(quoted, &one_hop_on(&sent.came)[..bytes]);
    }
}

/// The fragment header takes room too; a piece stays one where it is quoted.
#[test]
fn error_about_a_piece_reaches_its_sender_between_families() {
    for (family, path, fits) in [(0, 1400, 1372), (1, 1400, 1420)] {
        let mut director = director(family);
        let datagram = to_vip(family).udp(777, 80).payload(&[7; 4000]).build();
        let datagram = &datagram[14 + [20, 40][family]..];
        let place = Fragment { id: 77, offset_bytes: 0, more: true };
        let piece = to_vip(family).fragment(place).raw(IpProtocol::UDP, &datagram[..1440]);
        let sent = passed(&mut director, CLIENT, &piece);
        assert_eq!(told(&mut director, &sent, path), fits);
        let said = [(1, 4, 0), (3, 3, 0)][family];
        let out = director.receive(SERVER, &said_about(&sent, said));
        let quoted = error(&out.frame).1;
        let mut wanted = one_hop_on(&sent.came);
        // But for the identification, which is the director's own on the other side.
        let mut got = quoted.to_vec();
        if family == 0 {
            for packet in [&mut wanted, &mut got] {
                packet[4..6].fill(0);
                packet[10..12].fill(0);
            }
        } else {
            wanted[44..48].fill(0);
            got[44..48].fill(0);
        }
        assert_eq!(got, wanted[..got.len()]);
        assert!(got.len() > 500);
    }
}

fn told_client(family: usize, client_address: ClientAddress) -> Director {
    let wanted = ServiceSpec { client_address, ..spec(family, Protocol::Tcp) };
    let mut director = Director::new(KernelMode::Tap);
    let wanted = desired(vec![wanted]);
    director.change(|registry, hops| registry.apply(&wanted, hops)).unwrap();
    director
}

/// TOA takes 8 or 20 bytes of each segment, which the client knows nothing of.
#[test]
fn mtu_told_between_families_leaves_room_for_the_clients_address() {
    for (family, fits) in [(0, 1400 - 20 - 8), (1, 1400 + 20 - 20)] {
        let toa = ClientAddress::Toa { kind: 254, on_syn: false };
        let mut director = told_client(family, toa);
        let syn = to_vip(family).tcp(777, 80).seq(1000).flags(TcpFlags::SYN).build();
        let sent = passed(&mut director, CLIENT, &syn);
        assert_eq!(told(&mut director, &sent, 1400), fits);
        assert_eq!(told(&mut director, &sent, 1280), [1280 - 20 - 8, 1280][family]);
        // What IPv6 surely takes, with the address in it, says nothing about fragments.
        let ack = to_vip(family).tcp(777, 80).seq(1001).ack(1).flags(TcpFlags::ACK);
        let data = ack.payload(&vec![7; 1280 - [40, 60][family]]).build();
        let sent = passed(&mut director, CLIENT, &data);
        assert_eq!(sent.left.len(), [1280 + 20 + 8, 1280 - 20 + 20][family]);
        assert!(family == 0 || sent.left[6] & 0x40 == 0);
    }
}

/// What the server gets is shifted by the header; the error has the client's own number again.
#[test]
fn quoted_sequence_numbers_between_families_are_those_of_the_receiver() {
    for family in 0..2 {
        let mut director = told_client(family, ClientAddress::ProxyV2);
        let client = |seq: u32, flags| to_vip(family).tcp(777, 80).seq(seq).flags(flags);
        let syn = client(1000, TcpFlags::SYN).option(TcpOption::Mss(1460)).build();
        let syn = passed(&mut director, CLIENT, &syn);
        let number = |packet: &[u8], at: usize| {
            let at = [20, 40][family_of(packet)] + at;
            u32::from_be_bytes(packet[at..at + 4].try_into().unwrap())
        };
        let lip = local(&director);
        let answer = from_server(ip(RIPS[1 - family]), lip.ip()).tcp(8080, lip.port());
        let answer = answer.seq(5000).ack(number(&syn.left, 4).wrapping_add(1));
        director.receive(SERVER, &answer.flags(TcpFlags::SYN | TcpFlags::ACK).build());
        let data = client(1001, TcpFlags::ACK).ack(5001).payload(b"GET /").build();
        let data = passed(&mut director, CLIENT, &data);
        let next = client(1006, TcpFlags::ACK).ack(5001).payload(b"index").build();
        let next = passed(&mut director, CLIENT, &next);
        assert!(number(&next.left, 4).wrapping_sub(number(&syn.left, 4)) > 6, "a header before");
        for (sent, own) in [(&syn, 1000), (&data, 1001), (&next, 1006)] {
            let said = [(1, 4, 0), (3, 3, 0)][family];
            let out = director.receive(SERVER, &said_about(sent, said));
            assert_eq!(out.sent_on(), Some(CLIENT));
            assert_eq!(number(error(&out.frame).1, 4), own);
        }
    }
}
