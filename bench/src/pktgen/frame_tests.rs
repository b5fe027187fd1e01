//! Frames against an independent calculation of what they must be.

use super::*;
use gyre::wire::tcp::Tcp;

/// RFC 1071 as its section 4.1 has it: words added one by one, carries folded.
fn naive(parts: &[&[u8]]) -> u16 {
    let bytes: Vec<u8> = parts.concat();
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// 0 when all checksums of the frame hold.
fn wrong_sums(frame: &[u8], is_ipv4: bool, protocol: u8) -> (u16, u16) {
    if is_ipv4 {
        let total = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
        let segment = &frame[34..14 + total];
        let length = (segment.len() as u16).to_be_bytes();
        let pseudo = naive(&[&frame[26..34], &[0, protocol], &length, segment]);
        return (naive(&[&frame[14..34]]), pseudo);
    }
    let payload = usize::from(u16::from_be_bytes([frame[18], frame[19]]));
    let segment = &frame[54..54 + payload];
    let length = (segment.len() as u32).to_be_bytes();
    (0, naive(&[&frame[22..54], &length, &[0, 0, 0, protocol], segment]))
}

fn path(service: &str, transport: Transport) -> Path {
    Path {
        src_mac: MacAddr([2, 0, 0, 0, 0, 1]),
        dst_mac: MacAddr([2, 0, 0, 0, 0, 2]),
        service: service.parse().unwrap(),
        transport,
    }
}

const PATHS: [(&str, Transport, u8, u16); 4] = [
    ("198.19.0.1:80", Transport::Udp, 17, 64),
    ("198.19.0.1:80", Transport::Tcp, 6, 76),
    ("[2001:2:0:8000::1]:80", Transport::Udp, 17, 84),
    ("[2001:2:0:8000::1]:80", Transport::Tcp, 6, 96),
];

#[test]
fn checksums_hold_for_every_size_protocol_family_and_client() {
    for (service, transport, protocol, least) in PATHS {
        let path = path(service, transport);
        assert_eq!(frame_bytes_min(path.service, transport), least);
        for size in [least, least + 1, 256, 1518] {
            let template = Template::new(&path, Content::Stamped, size).unwrap();
            let mut frame = vec![0xaa; template.len()];
            for n in 0..500u64 {
                let client = Client {
                    address: 0x2001_0002_0000_0000_0000_0000_0000_0000 + u128::from(n * 77_777),
                    src_port: 1024 + n as u16 * 13,
                };
                let sequence = (n as u32).wrapping_mul(0x0101_0301);
                let stamp = Stamp { stream: 7, sequence, sent_ns: n * 987_654_321 };
                template.write(&mut frame, client, stamp);
                let sums = wrong_sums(&frame, path.service.is_ipv4(), protocol);
                assert_eq!(sums, (0, 0), "{service} {transport:?} {size} {n}");
                let headers = usize::from(least - FCS_BYTES) - STAMP_BYTES;
                assert_eq!(Stamp::read(&frame[headers..]), Some(stamp));
                assert!(frame[headers + STAMP_BYTES..].iter().all(|&byte| byte == 0));
            }
        }
    }
}

#[test]
fn a_udp_checksum_of_zero_is_sent_as_ffff() {
    let path = path("198.19.0.1:80", Transport::Udp);
    let template = Template::new(&path, Content::Stamped, 64).unwrap();
    let mut frame = vec![0; template.len()];
    // One port of all makes the sum zero.
    let mut found = 0;
    for src_port in 0..=u16::MAX {
        let client = Client { address: 0xc612_0002, src_port };
        template.write(&mut frame, client, Stamp::default());
        assert_ne!(frame[40..42], [0, 0], "port {src_port} says no checksum");
        found += usize::from(frame[40..42] == [0xff, 0xff]);
    }
    assert_eq!(found, 1);
}

#[test]
fn bare_segments_are_padded_outside_their_checksum() {
    for (service, transport, protocol, _) in PATHS {
        if transport == Transport::Udp {
            continue;
        }
        let path = path(service, transport);
        let template = Template::new(&path, Content::Bare(TcpFlags::SYN), 64).unwrap();
        let mut frame = vec![0; template.len()];
        let client = Client { address: 0xc612_0009, src_port: 4000 };
        template.write(&mut frame, client, Stamp::default());
        let is_ipv4 = path.service.is_ipv4();
        assert_eq!(frame.len(), if is_ipv4 { 60 } else { 74 });
        assert_eq!(wrong_sums(&frame, is_ipv4, protocol), (0, 0), "{service}");
        let (tcp, _) = Tcp::parse(&frame[if is_ipv4 { 34 } else { 54 }..]).unwrap();
        assert_eq!((tcp.flags(), tcp.src_port(), tcp.dst_port()), (TcpFlags::SYN, 4000, 80));
    }
}

#[test]
fn frames_too_small_for_a_stamp_say_what_is_enough() {
    for (service, transport, _, least) in PATHS {
        let error = Template::new(&path(service, transport), Content::Stamped, 63).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(&format!("{least} bytes at least")), "{text}");
    }
}

#[test]
fn a_mix_uses_its_sizes_in_turn() {
    let path = path("198.19.0.1:80", Transport::Udp);
    let templates = Templates::new(&path, &"64:2+128:1".parse().unwrap()).unwrap();
    let lengths: Vec<usize> = (0..6).map(|n| templates.of(n).len()).collect();
    assert_eq!(lengths, [60, 124, 60, 60, 124, 60]);
}

#[test]
fn other_payloads_are_no_stamps() {
    assert_eq!(Stamp::read(b"gyPGtooshort"), None);
    assert_eq!(Stamp::read(&[0; 40]), None);
}
