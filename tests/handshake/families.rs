//! Clients and servers of two families: what a server is told is the client's address as the
//! client has it, and no segment outgrows the longer header.

use gyre::model::ClientAddress;
use gyre::wire::tcp::TcpOption;

use crate::network::TOA_KIND;
use crate::support::{CLIENT, SERVER};
use crate::talk::*;

const TOA: ClientAddress = ClientAddress::Toa { kind: TOA_KIND, on_syn: false };
/// Headers of the client 198.51.100.7 or 2001:db8:c::7, port 40000, to 192.0.2.80 or
/// 2001:db8:1::80, port 80.
const TEXTS: [&[u8]; 2] = [
    b"PROXY TCP4 198.51.100.7 192.0.2.80 40000 80\r\n",
    b"PROXY TCP6 2001:db8:c::7 2001:db8:1::80 40000 80\r\n",
];
const BINARIES: [&[u8]; 2] = [
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc6\x33\x64\x07\xc0\0\x02\x50\x9c\x40\0\x50",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24\
      \x20\x01\x0d\xb8\0\x0c\0\0\0\0\0\0\0\0\0\x07\
      \x20\x01\x0d\xb8\0\x01\0\0\0\0\0\0\0\0\0\x80\x9c\x40\0\x50",
];
/// Port and client, as TOA has them.
const OPTIONS: [&[u8]; 2] =
    [b"\x9c\x40\xc6\x33\x64\x07", b"\x9c\x40\x20\x01\x0d\xb8\0\x0c\0\0\0\0\0\0\0\0\0\x07"];
/// Bytes of payload in a full segment: 1500 bytes with IPv6's header and TCP's.
const FULL: usize = 1440;

fn talk(family: usize, address: ClientAddress, synproxy: bool) -> Talk {
    Talk::between([family, 1 - family], address, synproxy)
}

#[test]
fn header_between_families_names_the_client_as_the_client_does() {
    for family in 0..2 {
        for (address, headers) in
            [(ClientAddress::ProxyV1, TEXTS), (ClientAddress::ProxyV2, BINARIES)]
        {
            let mut talk = talk(family, address, false);
            let (syn, _) = talk.open();
            assert_eq!((syn.seq, syn.src.unwrap().0.is_ipv4()), (C, family == 1));
            let header = headers[family];
            let ack = talk.client(ACK, C + 1, S + 1, b"");
            assert_eq!((ack.one().seq, ack.one().payload.as_slice()), (C + 1, header));
            let size = header.len() as u32;
            let answer = talk.server(ACK, S + 1, C + 1 + size, b"220");
            assert_eq!((answer.one().ack, answer.one().payload.as_slice()), (C + 1, &b"220"[..]));
            let data = talk.client(ACK, C + 1, S + 4, b"GET");
            assert_eq!(
                (data.one().seq, data.one().payload.as_slice()),
                (C + 1 + size, &b"GET"[..])
            );
        }
    }
}

/// A header goes with the first data where that leaves room in the server's family.
#[test]
fn header_between_families_has_a_segment_of_its_own_where_it_must() {
    for (family, header) in TEXTS.map(<[u8]>::len).into_iter().enumerate() {
        for (payload, segments) in [(FULL - header, 1), (FULL - header + 1, 2), (FULL, 2)] {
            let mut talk = talk(family, ClientAddress::ProxyV1, false);
            talk.open();
            let said = talk.client(ACK, C + 1, S + 1, &vec![7; payload]);
            assert_eq!(said.sent.len(), segments, "{family} {payload}");
        }
    }
}

#[test]
fn toa_between_families_names_the_client_and_leaves_room() {
    for (family, option) in OPTIONS.into_iter().enumerate() {
        let mut talk = talk(family, TOA, false);
        let (syn, answer) = talk.open();
        let bytes = option.len() + 2;
        let mss = (FULL - bytes) as u16;
        assert_eq!((syn.mss, answer.mss), (Some(mss), Some(mss)), "{family}");
        let wanted = [(TOA_KIND, option.to_vec())];
        assert_eq!(talk.client(ACK, C + 1, S + 1, b"").one().others, wanted);
        let full = talk.client(ACK, C + 1, S + 1, &vec![7; FULL - bytes]);
        assert_eq!(full.one().others, wanted);
        // Whoever sends more all the same gets it through without.
        let more = talk.client(ACK, C + 1, S + 1, &[7; FULL]);
        let fits = family == 1;
        assert_eq!(more.one().others.is_empty(), !fits, "IPv4 has 20 bytes to spare");
    }
}

#[test]
fn cookie_between_families_offers_what_fits_both() {
    for (family, option) in OPTIONS.into_iter().enumerate() {
        for (address, cost) in [(ClientAddress::None, 0), (TOA, option.len() + 2)] {
            let mut talk = talk(family, address, true);
            let syn = talk.client_segment().flags(SYN).seq(C).option(TcpOption::Mss(1460));
            let answer = talk.send(CLIENT, syn).one().clone();
            assert_eq!(answer.mss, Some((FULL - cost) as u16), "{family}");
            assert_eq!(answer.dst.unwrap().0.is_ipv4(), family == 0);
            // The proof opens the flow: the server hears of the client in its own family.
            let said = talk.client(ACK, C + 1, answer.seq.wrapping_add(1), b"");
            let syn = said.one();
            assert_eq!((said.sent[0].0, syn.flags, syn.seq), (SERVER, SYN, C));
            assert_eq!(syn.src.unwrap().0.is_ipv4(), family == 1);
            assert_eq!(syn.mss, Some((FULL - cost) as u16));
            // Its answer joins both: an ACK to it, and to the client a window in its numbers.
            let joined = talk.server_segment().flags(SYN | ACK).seq(S).ack(C + 1).window(5000);
            let joined = talk.send(SERVER, joined.option(TcpOption::Mss(1440)));
            let [(SERVER, ack), (CLIENT, update)] = joined.sent.as_slice() else {
                panic!("{joined:?}")
            };
            assert_eq!((ack.flags, ack.seq, ack.ack), (ACK, C + 1, S + 1));
            assert_eq!((update.seq, update.ack), (answer.seq.wrapping_add(1), C + 1));
            let data = talk.server(ACK, S + 1, C + 1, b"hello");
            let wanted = (answer.seq.wrapping_add(1), &b"hello"[..]);
            assert_eq!((data.one().seq, data.one().payload.as_slice()), wanted);
        }
    }
}
