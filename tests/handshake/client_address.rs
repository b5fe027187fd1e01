//! TOA and PROXY, fact by fact.

use gyre::counters::ReplyKind;
use gyre::message::FlowState;
use gyre::model::ClientAddress;
use gyre::wire::tcp::TcpOption;

use crate::network::TOA_KIND;
use crate::support::{CLIENT, SERVER};
use crate::talk::*;

const TOA: ClientAddress = ClientAddress::Toa { kind: TOA_KIND, on_syn: false };
const TOA_ON_SYN: ClientAddress = ClientAddress::Toa { kind: TOA_KIND, on_syn: true };
/// PORT and the client's address, 198.51.100.7.
const TOA_V4: [u8; 6] = [0x9c, 0x40, 198, 51, 100, 7];
const TEXT: &[u8] = b"PROXY TCP4 198.51.100.7 192.0.2.80 40000 80\r\n";
const H: u32 = TEXT.len() as u32;
const BINARY: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc6\x33\x64\x07\xc0\0\x02\x50\x9c\x40\0\x50";

fn toa_of(said: &Said) -> Vec<(u8, Vec<u8>)> {
    said.one().others.clone()
}

#[test]
fn toa_rides_until_the_server_has_acknowledged_data() {
    let mut talk = Talk::new(0, TOA, false);
    let expected = vec![(TOA_KIND, TOA_V4.to_vec())];
    let (syn, _) = talk.open();
    assert_eq!(syn.others, []);
    assert_eq!(toa_of(&talk.client(ACK, C + 1, S + 1, b"")), expected);
    assert_eq!(toa_of(&talk.client(ACK, C + 1, S + 1, b"GET")), expected);
    talk.server(ACK, S + 1, C + 1, b"banner");
    assert_eq!(toa_of(&talk.client(ACK, C + 4, S + 7, b"")), expected, "nothing acknowledged");
    talk.server(ACK, S + 7, C + 4, b"");
    assert_eq!(toa_of(&talk.client(ACK, C + 4, S + 7, b"more")), []);
}

#[test]
fn toa_of_ipv6_has_twenty_bytes() {
    let mut talk = Talk::new(1, TOA, false);
    let (syn, answer) = talk.open();
    assert_eq!((syn.mss, answer.mss), (Some(1440), Some(1440)));
    let toa = toa_of(&talk.client(ACK, C + 1, S + 1, b""));
    assert_eq!((toa[0].0, &toa[0].1[..2], toa[0].1.len()), (TOA_KIND, &[0x9c, 0x40][..], 18));
    assert_eq!(toa[0].1[2..6], [0x20, 0x01, 0x0d, 0xb8]);
}

#[test]
fn toa_on_the_syn_is_asked_for() {
    let mut talk = Talk::new(0, TOA_ON_SYN, false);
    let (syn, answer) = talk.open();
    assert_eq!(syn.others, [(TOA_KIND, TOA_V4.to_vec())]);
    assert_eq!((syn.mss, answer.mss), (Some(1452), Some(1452)), "room for 8 bytes each way");
    assert_eq!(answer.others, []);
}

#[test]
fn toa_without_room_waits_for_the_next_segment() {
    let mut talk = Talk::new(0, TOA, false);
    talk.open();
    let blocks = [(S + 9, S + 10), (S + 20, S + 21), (S + 30, S + 31), (S + 40, S + 41)];
    let full = talk.client_segment().flags(ACK).seq(C + 1).ack(S + 1).sack(&blocks);
    assert_eq!(toa_of(&talk.send(CLIENT, full)), [], "34 bytes of options");
    assert_eq!(toa_of(&talk.client(ACK, C + 1, S + 1, &[0; 1460])), [], "1500 bytes");
    assert_eq!(toa_of(&talk.client(ACK, C + 1, S + 1, &[0; 1452])).len(), 1);
}

#[test]
fn reset_carries_no_toa() {
    let mut talk = Talk::new(0, TOA, false);
    talk.open();
    assert_eq!(toa_of(&talk.client(RST, C + 1, 0, b"")), []);
}

#[test]
fn header_goes_with_the_handshakes_ack() {
    for (address, header) in [(ClientAddress::ProxyV1, TEXT), (ClientAddress::ProxyV2, BINARY)] {
        let mut talk = Talk::new(0, address, false);
        let (syn, _) = talk.open();
        assert_eq!(syn.seq, C);
        let ack = talk.client(ACK, C + 1, S + 1, b"");
        assert_eq!((ack.one().seq, ack.one().payload.as_slice()), (C + 1, header));
        assert_eq!(ack.one().flags, ACK | PSH);
        let size = header.len() as u32;
        let answer = talk.server(ACK, S + 1, C + 1 + size, b"");
        assert_eq!(answer.one().ack, C + 1);
        let data = talk.client(ACK, C + 1, S + 1, b"GET");
        assert_eq!((data.one().seq, data.one().payload.as_slice()), (C + 1 + size, &b"GET"[..]));
        let answer = talk.server(ACK, S + 1, C + 4 + size, b"");
        assert_eq!(answer.one().ack, C + 4);
    }
}

#[test]
fn lost_header_goes_again_with_the_first_data() {
    let mut talk = Talk::new(0, ClientAddress::ProxyV1, false);
    talk.open();
    talk.client(ACK, C + 1, S + 1, b"");
    for _ in 0..2 {
        let data = talk.client(ACK | PSH, C + 1, S + 1, b"GET");
        assert_eq!((data.one().seq, data.one().payload.clone()), (C + 1, [TEXT, b"GET"].concat()));
    }
}

#[test]
fn lost_first_ack_leaves_the_header_to_the_data() {
    let mut talk = Talk::new(0, ClientAddress::ProxyV2, false);
    talk.open();
    let data = talk.client(ACK, C + 1, S + 1, b"odd");
    assert_eq!((data.one().seq, data.one().payload.clone()), (C + 1, [BINARY, b"odd"].concat()));
}

#[test]
fn full_first_segment_follows_a_header_of_its_own() {
    let mut talk = Talk::new(0, ClientAddress::ProxyV1, false);
    talk.open();
    let full = talk.client(ACK, C + 1, S + 1, &[7; 1460]);
    let [(_, header), (_, data)] = full.sent.as_slice() else { panic!("{full:?}") };
    assert_eq!((header.seq, header.ack, header.payload.as_slice()), (C + 1, S + 1, TEXT));
    assert_eq!((data.seq, data.payload.len()), (C + 1 + H, 1460));
    assert_eq!(talk.replies(ReplyKind::ProxyHeader), 1);
    // The server's MSS is what counts, not only the path.
    let fits = talk.client(ACK, C + 1, S + 1, &vec![7; 1460 - H as usize]);
    assert_eq!(fits.one().payload.len(), 1460);
}

#[test]
fn server_that_speaks_first_gets_the_header_without_its_client() {
    let mut talk = Talk::new(0, ClientAddress::ProxyV1, false);
    talk.open();
    let stamped = TcpOption::Timestamps { value: 55, echo: 66 };
    let ack = talk.client_segment().flags(ACK).seq(C + 1).ack(S + 1).window(512).option(stamped);
    talk.send(CLIENT, ack);
    let mut sent = Vec::new();
    for tick in 0..200 {
        for (nic, segment) in talk.wait(0.1) {
            assert_eq!((nic, segment.seq, segment.ack), (SERVER, C + 1, S + 1));
            assert_eq!((segment.payload.as_slice(), segment.timestamps), (TEXT, Some((55, 66))));
            assert_eq!(segment.window, 512);
            sent.push(tick);
        }
    }
    let gaps: Vec<u32> = sent.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(sent.len(), 5, "bounded: {sent:?}");
    assert!(gaps.windows(2).all(|pair| pair[1] > pair[0]), "ever more slowly: {sent:?}");
    assert!((2..5).contains(&sent[0]), "300 ms: {sent:?}");
}

#[test]
fn acknowledged_header_is_not_sent_again() {
    let mut talk = Talk::new(0, ClientAddress::ProxyV1, false);
    talk.open();
    talk.client(ACK, C + 1, S + 1, b"");
    let banner = talk.server(ACK | PSH, S + 1, C + 1 + H, b"220 smtp");
    assert_eq!((banner.one().ack, banner.one().payload.as_slice()), (C + 1, &b"220 smtp"[..]));
    assert_eq!(talk.wait(20.0), []);
    assert_eq!(talk.client(ACK, C + 1, S + 9, b"").one().payload, b"");
}

#[test]
fn banner_that_crosses_the_header_acknowledges_nothing_new() {
    let mut talk = Talk::new(0, ClientAddress::ProxyV1, false);
    talk.open();
    talk.client(ACK, C + 1, S + 1, b"");
    for part in [0, 1, H - 1] {
        let banner = talk.server(ACK | PSH, S + 1, C + 1 + part, b"220 smtp");
        assert_eq!(banner.one().ack, C + 1, "{part} bytes of the header acknowledged");
    }
}

#[test]
fn data_with_fin_at_once_keeps_both_behind_the_header() {
    let mut talk = Talk::new(0, ClientAddress::ProxyV1, false);
    talk.open();
    let last = talk.client(ACK | FIN, C + 1, S + 1, b"bye");
    assert_eq!((last.one().seq, last.one().flags), (C + 1, ACK | PSH | FIN));
    assert_eq!(last.one().payload, [TEXT, b"bye"].concat());
    let answer = talk.server(ACK, S + 1, C + 1 + H + 4, b"");
    assert_eq!(answer.one().ack, C + 5);
}

#[test]
fn data_before_the_ack_is_preceded_by_the_header() {
    let mut talk = Talk::new(0, ClientAddress::ProxyV1, false);
    talk.open();
    let later = talk.client(ACK, C + 1 + 100, S + 1, b"second");
    let [(_, header), (_, data)] = later.sent.as_slice() else { panic!("{later:?}") };
    assert_eq!((header.seq, header.payload.as_slice()), (C + 1, TEXT));
    assert_eq!((data.seq, data.payload.as_slice()), (C + 101 + H, &b"second"[..]));
    // Once sent it is repeated only at the first byte.
    assert_eq!(talk.client(ACK, C + 107, S + 1, b"third").sent.len(), 1);
    assert_eq!(talk.client(ACK, C + 1, S + 1, &[0; 100]).one().seq, C + 1);
}

#[test]
fn blocks_tell_nothing_while_the_header_is_missing() {
    let mut talk = Talk::new(0, ClientAddress::ProxyV1, false);
    talk.open();
    talk.client(ACK, C + 1, S + 1, &[0; 1460]);
    let gap = talk.server_segment().flags(ACK).seq(S + 1).ack(C + 1);
    let gap = talk.send(SERVER, gap.sack(&[(C + 1 + H, C + 1461 + H)]));
    let to_client = gap.sent.iter().find(|(nic, _)| *nic == CLIENT).unwrap();
    assert_eq!((to_client.1.ack, to_client.1.sacks.len()), (C + 1, 0));
    let repair = gap.sent.iter().find(|(nic, _)| *nic == SERVER).unwrap();
    assert_eq!((repair.1.seq, repair.1.payload.as_slice()), (C + 1, TEXT), "repaired at once");
}

#[test]
fn blocks_about_the_header_are_kept_from_the_client_and_others_shifted() {
    let mut talk = Talk::new(0, ClientAddress::ProxyV1, false);
    talk.open();
    talk.client(ACK, C + 1, S + 1, b"GET");
    for _ in 0..2 {
        let twice = talk.server_segment().flags(ACK).seq(S + 1).ack(C + 4 + H);
        let twice = talk.send(SERVER, twice.sack(&[(C + 1, C + 1 + H)]));
        assert_eq!((twice.one().ack, twice.one().sacks.len()), (C + 4, 0));
    }
    let gap = talk.server_segment().flags(ACK).seq(S + 1).ack(C + 4 + H);
    let gap = talk.send(SERVER, gap.sack(&[(C + 14 + H, C + 24 + H)]));
    assert_eq!(gap.one().sacks, [(C + 14, C + 24)]);
}

#[test]
fn keep_alive_at_the_syns_number_becomes_the_header() {
    let mut talk = Talk::new(0, ClientAddress::ProxyV1, false);
    talk.open();
    for garbage in [&b""[..], b"x"] {
        let probe = talk.client(ACK, C, S + 1, garbage);
        assert_eq!((probe.one().seq, probe.one().payload.as_slice()), (C + 1, TEXT));
    }
    talk.server(ACK, S + 1, C + 1 + H, b"");
    assert_eq!(talk.client(ACK, C, S + 1, b"").one().seq, C + H);
}

#[test]
fn resets_fit_exactly_before_and_behind_the_header() {
    let mut talk = Talk::new(0, ClientAddress::ProxyV1, false);
    talk.open();
    assert_eq!(talk.client(RST, C + 1, 0, b"").one().seq, C + 1);
    let mut talk = Talk::new(0, ClientAddress::ProxyV1, false);
    talk.open();
    talk.client(ACK, C + 1, S + 1, b"");
    assert_eq!(talk.client(RST, C + 1, 0, b"").one().seq, C + 1 + H);
    assert_eq!(talk.flow_state(), Some(FlowState::Close));
    assert_eq!(talk.wait(5.0), [], "nothing is sent after a reset");
}

#[test]
fn data_on_the_syn_does_not_get_ahead_of_the_header() {
    let mut talk = Talk::new(0, ClientAddress::ProxyV1, false);
    let syn = talk.client(SYN, C, 0, b"early");
    assert_eq!((syn.one().seq, syn.one().payload.len()), (C, 0));
}

#[test]
fn repeated_syn_is_the_same_syn() {
    let mut talk = Talk::new(0, ClientAddress::ProxyV1, false);
    for _ in 0..2 {
        assert_eq!(talk.client(SYN, C, 0, b"").one().seq, C);
    }
    talk.server(SYN | ACK, S, C + 1, b"");
    talk.client(ACK, C + 1, S + 1, b"");
    assert_eq!(talk.client(SYN, C, 0, b"").one().seq, C);
}

#[test]
fn urgent_data_stays_urgent_behind_the_header() {
    use gyre::wire::tcp::{Tcp, TcpFlags};
    let mut talk = Talk::new(0, ClientAddress::ProxyV1, false);
    talk.open();
    let segment = talk.client_segment().flags(ACK | TcpFlags::URG).seq(C + 1).ack(S + 1);
    let mut frame = segment.payload(b"!").build();
    // Urgent pointer 1, checksum less by as much.
    let sum = u16::from_be_bytes([frame[50], frame[51]]);
    frame[53] = 1;
    frame[50..52].copy_from_slice(&(sum - 1).to_be_bytes());
    let outcome = talk.director.receive(CLIENT, &frame);
    crate::segment::Segment::read(&outcome.frame);
    let (tcp, _) = Tcp::parse(&outcome.frame[34..]).unwrap();
    assert_eq!(u32::from(tcp.urgent()), 1 + H);
}

#[test]
fn port_taken_over_shifts_by_both() {
    let mut talk = Talk::new(0, ClientAddress::ProxyV1, false);
    talk.open();
    talk.client(ACK, C + 1, S + 1, b"GET");
    talk.server(ACK | FIN, S + 1, C + 4 + H, b"");
    talk.client(ACK | FIN, C + 4, S + 2, b"");
    talk.server(ACK, S + 2, C + 5 + H, b"");
    assert_eq!(talk.flow_state(), Some(FlowState::TimeWait));
    // Another client, same and only source port, a number below the old one's.
    talk.src_port = 40_001;
    let syn = talk.client(SYN, C - 5000, 0, b"").one().clone();
    assert!(syn.seq > C + 5 + H, "above what the server expects next: {}", syn.seq);
    let answer = talk.server(SYN | ACK, S, syn.seq + 1, b"");
    assert_eq!(answer.one().ack, C - 4999);
    let ack = talk.client(ACK, C - 4999, S + 1, b"");
    assert_eq!((ack.one().seq, ack.one().payload.len()), (syn.seq + 1, TEXT.len()));
    let answer = talk.server(ACK, S + 1, syn.seq + 1 + H, b"");
    assert_eq!(answer.one().ack, C - 4999);
}
