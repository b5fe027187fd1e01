//! Clients against a server that answers as told, and against the one of `reflection`.

use super::*;
use crate::frame::{Path, Transport};
use crate::incoming::locate;
use crate::reflection::{Reflected, reflect};
use crate::segment::Segment;
use gyre::frame::Frame;
use gyre::wire::ethernet::MacAddr;
use gyre::wire::tcp::Tcp;

const REQUEST: [u8; 64] = [b'x'; 64];

/// Carries `say` to the reflecting server as a frame and back.
fn exchange(path: &Path, say: Say) -> Option<Heard> {
    let client = "198.18.0.2:1024".parse().unwrap();
    let payload: &[u8] = if say.carries_request { &REQUEST } else { &[] };
    let macs = (path.src_mac, path.dst_mac);
    let numbers = (say.seq, say.ack);
    let segment =
        Segment { macs, src: client, dst: path.service, numbers, flags: say.flags, payload };
    let mut bytes = [0; 256];
    let length = segment.write(&mut bytes).unwrap();
    let mut frame = Frame::new(&mut bytes, 0, length);
    if reflect(&mut frame, None) != Reflected::Answer {
        return None;
    }
    let found = locate(frame.bytes()).unwrap();
    assert_eq!((found.dst, found.src), (client.ip(), path.service.ip()));
    let (tcp, _) = Tcp::parse(found.segment).unwrap();
    let payload_bytes = (found.segment.len() - tcp.header_bytes()) as u32;
    let (seq, ack, flags) = (tcp.sequence().0, tcp.acknowledgment().0, tcp.flags());
    Some(Heard { flow: say.flow, seq, ack, flags, payload_bytes })
}

fn path() -> Path {
    Path {
        src_mac: MacAddr([2; 6]),
        dst_mac: MacAddr([4; 6]),
        service: "198.19.0.1:80".parse().unwrap(),
        transport: Transport::Tcp,
    }
}

fn cycles(flows: u32) -> Cycles {
    Cycles::new(flows, REQUEST.len() as u16, 1_000_000_000, 1)
}

#[test]
fn a_cycle_with_the_reflecting_server_is_eight_segments() {
    let mut cycles = cycles(1);
    let mut now = 0;
    for _ in 0..3 {
        let mut to_say = vec![cycles.open_next(now).unwrap()];
        while let Some(say) = to_say.pop() {
            now += 1000;
            let Some(heard) = exchange(&path(), say) else { continue };
            to_say.extend(cycles.hear(heard, now).into_iter().flatten());
        }
    }
    let counts = cycles.counts();
    assert_eq!((counts.opened, counts.connected, counts.answered, counts.completed), (3, 3, 3, 3));
    assert_eq!((counts.segments_sent, counts.segments_received), (3 * 5, 3 * 3));
    assert_eq!((counts.unexpected, counts.timed_out, cycles.open()), (0, 0, 0));
    let (connect, cycle) = cycles.latencies();
    assert_eq!((connect.len(), cycle.len()), (3, 3));
    assert!(connect.max() < cycle.max());
}

#[test]
fn a_server_that_closes_first_completes_too() {
    let mut cycles = cycles(1);
    let syn = cycles.open_next(0).unwrap();
    let start = syn.seq.wrapping_add(1);
    let both = TcpFlags::SYN | TcpFlags::ACK;
    let heard = |seq, ack, flags, payload_bytes| Heard { flow: 0, seq, ack, flags, payload_bytes };
    let [ack, request] = cycles.hear(heard(500, start, both, 0), 1);
    assert_eq!(ack.unwrap().flags, TcpFlags::ACK);
    assert!(request.unwrap().carries_request);
    let end = start.wrapping_add(64);
    assert_eq!(cycles.hear(heard(501, end, TcpFlags::ACK, 0), 2), [None; 2], "only a bare ACK");
    let fin = TcpFlags::FIN | TcpFlags::ACK;
    let [say, _] = cycles.hear(heard(501, end, fin, 300), 3);
    let say = say.unwrap();
    assert_eq!((say.seq, say.ack, say.flags), (end, 802, fin), "data and FIN acknowledged");
    assert_eq!(cycles.counts().completed, 0);
    cycles.hear(heard(802, end.wrapping_add(1), TcpFlags::ACK, 0), 4);
    assert_eq!((cycles.counts().completed, cycles.open()), (1, 0));
}

#[test]
fn unanswered_connections_time_out_and_their_flow_is_free_again() {
    let mut cycles = cycles(2);
    cycles.open_next(0).unwrap();
    cycles.open_next(500_000_000).unwrap();
    assert_eq!(cycles.open_next(600_000_000), None, "every flow is in use");
    cycles.open_next(600_000_000);
    assert_eq!(cycles.counts().no_free_flow, 2);
    assert_eq!(cycles.expire(900_000_000), None);
    let reset = cycles.expire(1_000_000_000).unwrap();
    assert_eq!((reset.flow, reset.flags), (0, TcpFlags::RST | TcpFlags::ACK));
    assert_eq!(cycles.expire(1_000_000_000), None, "the second is younger");
    assert_eq!((cycles.counts().timed_out, cycles.open()), (1, 1));
    assert!(cycles.open_next(1_100_000_000).is_some());
}

#[test]
fn resets_and_answers_to_nobody_are_counted() {
    let mut cycles = cycles(1);
    let syn = cycles.open_next(0).unwrap();
    let wrong = Heard {
        flow: 0,
        seq: 9,
        ack: syn.seq,
        flags: TcpFlags::SYN | TcpFlags::ACK,
        payload_bytes: 0,
    };
    assert_eq!(cycles.hear(wrong, 1), [None; 2], "acknowledges another SYN");
    let reset = Heard { flags: TcpFlags::RST, ..wrong };
    cycles.hear(reset, 2);
    cycles.hear(wrong, 3);
    cycles.hear(Heard { flow: 77, ..wrong }, 4);
    let counts = cycles.counts();
    assert_eq!((counts.reset, counts.unexpected, cycles.open()), (1, 3, 0));
}
