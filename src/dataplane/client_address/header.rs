//! PROXY protocol headers, versions 1 and 2 (the HAProxy specification, sections 2.1 and 2.2).
//! Only the command PROXY over TCP is written: what health checks send is LOCAL's business.

use std::fmt::Write;
use std::net::IpAddr;

use arrayvec::{ArrayString, ArrayVec};

/// Longest header of version 1; version 2 is 52 bytes at most.
pub(super) const HEADER_BYTES_MAX: usize = 107;

/// A header's bytes.
pub(super) type Header = ArrayVec<u8, HEADER_BYTES_MAX>;

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, command PROXY.
const VERSION_AND_COMMAND: u8 = 0x21;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

/// Version 1: one line of text. Empty when the addresses are of two families.
pub(super) fn version_1(client: (IpAddr, u16), service: (IpAddr, u16)) -> Header {
    let family = match (client.0, service.0) {
        (IpAddr::V4(_), IpAddr::V4(_)) => "TCP4",
        (IpAddr::V6(_), IpAddr::V6(_)) => "TCP6",
        _ => return Header::new(),
    };
    let mut line = ArrayString::<HEADER_BYTES_MAX>::new();
    // The longest line fits exactly: that is where the specification's 107 come from.
    let _ =
        write!(line, "PROXY {family} {} {} {} {}\r\n", client.0, service.0, client.1, service.1);
    line.bytes().collect()
}

/// Version 2: binary. Empty when the addresses are of two families.
pub(super) fn version_2(client: (IpAddr, u16), service: (IpAddr, u16)) -> Header {
    let mut header = Header::new();
    let mut put = |bytes: &[u8]| {
        let _ = header.try_extend_from_slice(bytes);
    };
    match (client.0, service.0) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            put(&SIGNATURE);
            put(&[VERSION_AND_COMMAND, TCP_OVER_IPV4, 0, 12]);
            put(&src.octets());
            put(&dst.octets());
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            put(&SIGNATURE);
            put(&[VERSION_AND_COMMAND, TCP_OVER_IPV6, 0, 36]);
            put(&src.octets());
            put(&dst.octets());
        }
        _ => return header,
    }
    put(&client.1.to_be_bytes());
    put(&service.1.to_be_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(client: &str, service: &str) -> ((IpAddr, u16), (IpAddr, u16)) {
        ((client.parse().unwrap(), 56324), (service.parse().unwrap(), 443))
    }

    #[test]
    fn text_is_the_specifications_example() {
        let (client, service) = pair("192.168.0.1", "192.168.0.11");
        let line = b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n";
        assert_eq!(version_1(client, service).as_slice(), line);
        let (client, service) = pair("2001:db8::1", "2001:db8::2");
        let line = b"PROXY TCP6 2001:db8::1 2001:db8::2 56324 443\r\n";
        assert_eq!(version_1(client, service).as_slice(), line);
    }

    #[test]
    fn longest_text_fits() {
        let address = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        let longest = (address.parse().unwrap(), 65535);
        let header = version_1(longest, longest);
        assert!(header.len() <= HEADER_BYTES_MAX && header.ends_with(b" 65535 65535\r\n"));
    }

    #[test]
    fn binary_has_family_length_and_ports() {
        let (client, service) = pair("192.168.0.1", "192.168.0.11");
        let header = version_2(client, service);
        assert_eq!(&header[..12], b"\r\n\r\n\0\r\nQUIT\n");
        let rest = [0x21, 0x11, 0, 12, 192, 168, 0, 1, 192, 168, 0, 11, 0xdc, 4, 1, 187];
        assert_eq!(&header[12..], rest);
        let (client, service) = pair("2001:db8::1", "2001:db8::2");
        let header = version_2(client, service);
        assert_eq!((header.len(), &header[12..16]), (52, &[0x21, 0x21, 0, 36][..]));
    }

    #[test]
    fn mixed_families_have_no_header() {
        let (client, service) = pair("192.168.0.1", "2001:db8::2");
        assert!(version_1(client, service).is_empty() && version_2(client, service).is_empty());
    }
}
