//! Frames there and back.

use super::*;
use crate::clients::Client;
use crate::frame::{Content, Path, Stamp, Template, Transport};
use crate::incoming;
use gyre::wire::build::PacketBuilder;

const STAMP: Stamp = Stamp { stream: 5, sequence: 77, sent_ns: 123 };

fn stamped(service: &str, transport: Transport) -> Vec<u8> {
    let (src_mac, dst_mac) = (MacAddr([2; 6]), MacAddr([4; 6]));
    let path = Path { src_mac, dst_mac, service: service.parse().unwrap(), transport };
    let template = Template::new(&path, Content::Stamped, 128).unwrap();
    let mut frame = vec![0; template.len()];
    template.write(&mut frame, Client { address: 0xc612_0003, src_port: 1500 }, STAMP);
    frame
}

/// Whether the transport checksum holds.
fn holds(frame: &[u8]) -> bool {
    let found = locate(frame).unwrap();
    let length = found.segment.len();
    let pseudo = match (found.src, found.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            Sum::pseudo_v4(src, dst, found.protocol, length as u16)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            Sum::pseudo_v6(src, dst, found.protocol, length as u32)
        }
        _ => unreachable!(),
    };
    pseudo.add_bytes(found.segment).checksum() == 0
}

#[test]
fn stamped_frames_come_back_with_their_stamp_and_a_right_checksum() {
    for service in ["198.19.0.1:80", "[2001:2:0:8000::1]:80"] {
        for transport in [Transport::Udp, Transport::Tcp] {
            let sent = stamped(service, transport);
            let mut bytes = sent.clone();
            let length = bytes.len();
            let mut frame = Frame::new(&mut bytes, 0, length);
            assert_eq!(reflect(&mut frame, None), Reflected::Answer);
            let (there, back) = (locate(&sent).unwrap(), locate(frame.bytes()).unwrap());
            assert_eq!((back.src, back.dst), (there.dst, there.src));
            assert_eq!(frame.bytes()[..6], sent[6..12]);
            assert_eq!(back.segment[..2], there.segment[2..4], "ports too");
            assert!(holds(frame.bytes()), "{service} {transport:?}");
            assert_eq!(incoming::stamp(frame.bytes()), Some(STAMP));
        }
    }
}

#[test]
fn out_of_a_tunnel_the_answer_goes_to_the_client_by_the_given_mac() {
    let inner = stamped("198.19.0.1:80", Transport::Udp);
    let link = PacketBuilder::new().ethernet(MacAddr([2; 6]), MacAddr([4; 6]));
    let outer = link.ipv4([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
    let mut bytes = outer.raw(IpProtocol::IPV4, &inner[14..]).to_vec();
    let length = bytes.len();
    let mut frame = Frame::new(&mut bytes, 0, length);
    assert_eq!(reflect(&mut frame, Some(MacAddr([6; 6]))), Reflected::Answer);
    assert_eq!(frame.len(), inner.len(), "the outer header is gone");
    assert_eq!(frame.bytes()[..6], [6; 6]);
    assert_eq!(incoming::stamp(frame.bytes()), Some(STAMP));
}

#[test]
fn resets_bare_acknowledgments_and_foreign_frames_get_no_answer() {
    let link = PacketBuilder::new().ethernet(MacAddr([2; 6]), MacAddr([4; 6]));
    let ip = link.ipv4([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
    for (flags, expected) in [
        (TcpFlags::RST, Reflected::Silent),
        (TcpFlags::ACK, Reflected::Silent),
        (TcpFlags::SYN, Reflected::Answer),
    ] {
        let mut bytes = ip.clone().tcp(1, 2).flags(flags).build().to_vec();
        let length = bytes.len();
        assert_eq!(reflect(&mut Frame::new(&mut bytes, 0, length), None), expected, "{flags:?}");
    }
    let mut echo = ip.echo_request(1, 2).build().to_vec();
    let length = echo.len();
    assert_eq!(reflect(&mut Frame::new(&mut echo, 0, length), None), Reflected::Foreign);
}
