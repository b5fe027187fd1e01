//! Properties that cross protocols: no bytes make a parser panic, and a patched checksum is the one
//! that a full sum gives.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::collection::vec;
use proptest::prelude::*;

use super::arp::Arp;
use super::build::{IpBuilder, PacketBuilder};
use super::checksum::{ChecksumDelta, Sum};
use super::ethernet::Ethernet;
use super::icmp::Icmp;
use super::icmpv6::Icmpv6;
use super::ip::{Fragment, IpProtocol};
use super::ipv4::Ipv4;
use super::ipv6::{Ipv6, walk_extensions};
use super::tcp::{SeqNum, Tcp, TcpOption, TcpOptions, TcpOptionsMut};
use super::transport::TransportStart;
use super::udp::Udp;
use super::vlan::Vlan;
use crate::limits::IPV6_EXTENSIONS_MAX;

/// A socket address pair, in either family.
type Ends = (IpAddr, u16, IpAddr, u16);

fn any_ends() -> impl Strategy<Value = Ends> {
    let v4 = any::<(Ipv4Addr, u16, Ipv4Addr, u16)>()
        .prop_map(|(src, src_port, dst, dst_port)| (src.into(), src_port, dst.into(), dst_port));
    let v6 = any::<(Ipv6Addr, u16, Ipv6Addr, u16)>()
        .prop_map(|(src, src_port, dst, dst_port)| (src.into(), src_port, dst.into(), dst_port));
    prop_oneof![v4, v6]
}

/// Two pairs of one family: before and after a rewrite.
fn any_rewrite() -> impl Strategy<Value = (Ends, Ends)> {
    (any_ends(), any_ends())
        .prop_filter("one family", |(old, new)| old.0.is_ipv4() == new.0.is_ipv4())
}

fn between(ends: &Ends) -> IpBuilder {
    PacketBuilder::new().ip(ends.0, ends.2).unwrap()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn delta_of(old: &Ends, new: &Ends) -> ChecksumDelta {
    ChecksumDelta::new()
        .replace_bytes(&octets(old.0), &octets(new.0))
        .replace_bytes(&octets(old.2), &octets(new.2))
        .replace_u16(old.1, new.1)
        .replace_u16(old.3, new.3)
}

/// What lies behind the IP header.
fn payload_of(packet: &[u8]) -> &[u8] {
    match packet[0] >> 4 {
        4 => Ipv4::parse(packet).unwrap().1,
        _ => Ipv6::parse(packet).unwrap().1,
    }
}

/// RFC 1071 in the plainest words, to hold the fast sum against.
fn plain_checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        let low = pair.get(1).copied().unwrap_or(0);
        sum += u32::from(pair[0]) << 8 | u32::from(low);
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

proptest! {
    #[test]
    fn fast_sum_is_the_plain_one(bytes in vec(any::<u8>(), 0..200), split in 0_usize..100) {
        let split = (split * 2).min(bytes.len());
        let sum = Sum::new().add_bytes(&bytes[..split]).add_bytes(&bytes[split..]);
        prop_assert_eq!(sum.checksum(), plain_checksum(&bytes));
    }

    #[test]
    fn words_sum_as_their_bytes_do(a in any::<u16>(), b in any::<u32>()) {
        let mut bytes = a.to_be_bytes().to_vec();
        bytes.extend(b.to_be_bytes());
        let sum = Sum::new().add_u16(a).add_u32(b);
        prop_assert_eq!(sum.checksum(), plain_checksum(&bytes));
    }

    #[test]
    fn patched_tcp_checksum_is_the_full_one(
        (old, new) in any_rewrite(),
        numbers in any::<(u32, u32)>(),
        payload in vec(any::<u8>(), 0..64),
    ) {
        let before = between(&old).tcp(old.1, old.3).seq(numbers.0).payload(&payload).build();
        let after = between(&new).tcp(new.1, new.3).seq(numbers.1).payload(&payload).build();
        let (tcp, _) = Tcp::parse(payload_of(&before)).unwrap();
        let (expected, _) = Tcp::parse(payload_of(&after)).unwrap();
        let stored = delta_of(&old, &new).bits();
        let delta = ChecksumDelta::from_bits(stored).replace_u32(numbers.0, numbers.1);
        prop_assert_eq!(delta.apply(tcp.checksum()), expected.checksum());
        prop_assert_eq!(delta.inverse().apply(expected.checksum()), tcp.checksum());
    }

    #[test]
    fn patched_udp_checksum_is_the_full_one(
        (old, new) in any_rewrite(),
        payload in vec(any::<u8>(), 0..64),
    ) {
        let before = between(&old).udp(old.1, old.3).payload(&payload).build();
        let after = between(&new).udp(new.1, new.3).payload(&payload).build();
        let (udp, _) = Udp::parse(payload_of(&before)).unwrap();
        let (expected, _) = Udp::parse(payload_of(&after)).unwrap();
        let delta = delta_of(&old, &new);
        prop_assert_eq!(delta.apply_udp(udp.checksum()), expected.checksum());
        prop_assert_eq!(delta.inverse().apply_udp(expected.checksum()), udp.checksum());
    }

    /// The last two bytes are chosen so that the sum after the rewrite is all ones: the case
    /// where 0 and 0xffff must not be confused, which random bytes hit once in 65,536.
    #[test]
    fn patched_udp_checksum_of_zero_is_stored_as_all_ones((old, new) in any_rewrite()) {
        let draft = between(&new).udp(new.1, new.3).payload(&[0, 0]).build();
        let fill = Udp::parse(payload_of(&draft)).unwrap().0.checksum().to_be_bytes();
        let before = between(&old).udp(old.1, old.3).payload(&fill).build();
        let (udp, _) = Udp::parse(payload_of(&before)).unwrap();
        prop_assert_eq!(delta_of(&old, &new).apply_udp(udp.checksum()), 0xffff);
        prop_assert_eq!(delta_of(&old, &new).apply(udp.checksum()), 0);
    }

    #[test]
    fn patched_icmpv6_checksum_is_the_full_one(
        old in any::<(Ipv6Addr, Ipv6Addr, u16)>(),
        new in any::<(Ipv6Addr, Ipv6Addr, u16)>(),
        data in vec(any::<u8>(), 0..64),
    ) {
        let message = |(src, dst, id)| {
            PacketBuilder::new().ipv6(src, dst).echo_request(id, 1).payload(&data).build()
        };
        let (before, after) = (message(old), message(new));
        let delta = ChecksumDelta::new()
            .replace_bytes(&old.0.octets(), &new.0.octets())
            .replace_bytes(&old.1.octets(), &new.1.octets())
            .replace_u16(old.2, new.2);
        let (icmp, _) = Icmpv6::parse(payload_of(&before)).unwrap();
        let (expected, _) = Icmpv6::parse(payload_of(&after)).unwrap();
        prop_assert_eq!(delta.apply(icmp.checksum()), expected.checksum());
    }

    /// A wrong checksum stays wrong by the same amount, as in the kernel.
    #[test]
    fn patched_wrong_checksum_stays_wrong((old, new) in any_rewrite()) {
        let before = between(&old).tcp(old.1, old.3).bad_checksum().build();
        let after = between(&new).tcp(new.1, new.3).build();
        let (tcp, _) = Tcp::parse(payload_of(&before)).unwrap();
        let (right, _) = Tcp::parse(payload_of(&after)).unwrap();
        let patched = delta_of(&old, &new).apply(tcp.checksum());
        // 0 and 0xffff say the same, hence the remainders.
        prop_assert_ne!(patched % 0xffff, right.checksum() % 0xffff);
    }

    #[test]
    fn bytes_at_any_offset_patch_as_a_full_sum(
        bytes in vec(any::<u8>(), 12..64),
        offset in 0_usize..60,
        new in vec(any::<u8>(), 1..12),
    ) {
        let offset = offset.min(bytes.len() - new.len());
        let mut edited = bytes.clone();
        edited[offset..offset + new.len()].copy_from_slice(&new);
        prop_assume!(bytes.iter().any(|&byte| byte != 0) && edited.iter().any(|&byte| byte != 0));
        let old = &bytes[offset..offset + new.len()];
        let delta = ChecksumDelta::new().replace_bytes_at(offset, old, &new);
        prop_assert_eq!(delta.apply(plain_checksum(&bytes)), plain_checksum(&edited));
    }

    /// As TOA does: an option put in between header and payload, and the data offset moved on.
    #[test]
    fn inserted_option_patches_as_a_full_sum(
        ends in any_ends(),
        payload in vec(any::<u8>(), 0..64),
        data in any::<[u8; 6]>(),
    ) {
        let tcp = between(&ends).tcp(ends.1, ends.3).payload(&payload);
        let after = tcp.clone().option(TcpOption::Other { kind: 254, data: &data }).build();
        let before = tcp.build();
        let (old, _) = Tcp::parse(payload_of(&before)).unwrap();
        let (new, options, _) = Tcp::parse_with_options(payload_of(&after)).unwrap();
        let length = |packet| u16::try_from(payload_of(packet).len()).unwrap();
        let delta = ChecksumDelta::new()
            .replace_bytes(&[], options)
            .replace_u16(old.offset_and_flags_word(), new.offset_and_flags_word())
            .replace_u16(length(&before), length(&after));
        prop_assert_eq!(delta.apply(old.checksum()), new.checksum());
    }

    #[test]
    fn ttl_decrement_keeps_the_header_checksum_right(
        addresses in any::<(Ipv4Addr, Ipv4Addr)>(),
        ttl in 1_u8..,
        id in any::<u16>(),
    ) {
        let ip = PacketBuilder::new().ipv4(addresses.0, addresses.1).ttl(ttl).id(id);
        let mut packet = ip.udp(1, 2).build();
        let (mut ip, _) = Ipv4::parse_mut(&mut packet).unwrap();
        ip.decrement_ttl();
        prop_assert_eq!(ip.ttl(), ttl - 1);
        prop_assert_eq!(ip.checksum(), ip.compute_checksum(&[]));
    }

    /// Whatever an accessor can be asked of arbitrary bytes.
    #[test]
    fn any_bytes_never_panic(bytes in any_header_bytes()) {
        touch_link(&bytes);
        touch_ipv4(&bytes);
        touch_ipv6(&bytes);
        touch_transport(&bytes);
        edit(&mut bytes.clone());
    }

    #[test]
    fn any_extension_chain_stays_inside_the_payload(
        first in prop_oneof![Just(0_u8), Just(43), Just(44), Just(60), any::<u8>()],
        payload in vec(prop_oneof![Just(0_u8), Just(60), any::<u8>()], 0..160),
    ) {
        if let Ok(upper) = walk_extensions(IpProtocol(first), &payload) {
            prop_assert!(upper.offset_bytes <= payload.len());
            prop_assert!(upper.offset_bytes <= IPV6_EXTENSIONS_MAX * 2048);
            prop_assert!(upper.offset_bytes.is_multiple_of(8));
        }
    }

    #[test]
    fn any_options_stay_in_bounds_and_read_the_same_both_ways(
        bytes in vec(prop_oneof![0_u8..12, any::<u8>()], 0..48),
    ) {
        let mut end = 0;
        let mut options = TcpOptions::new(&bytes);
        let mut seen = Vec::new();
        for (offset, option) in options.by_ref() {
            prop_assert_eq!(offset, end, "each starts where the last one ended");
            end = offset + wire_bytes(&option);
            if option != TcpOption::Nop {
                seen.push((offset, bytes[offset], bytes[offset + 2..end].to_vec()));
            }
        }
        prop_assert_eq!(options.offset(), end);
        prop_assert!(end <= bytes.len());
        prop_assert_eq!(options.next(), None, "the end is the end");
        let mut copy = bytes.clone();
        let edited: Vec<_> = TcpOptionsMut::new(&mut copy)
            .map(|option| (option.offset, option.kind, option.data.to_vec()))
            .collect();
        prop_assert_eq!(edited, seen);
    }

    #[test]
    fn before_and_after_are_opposites(a in any::<u32>(), step in 1_u32..0x8000_0000) {
        let (a, b) = (SeqNum(a), SeqNum(a).wrapping_add(step));
        prop_assert!(a.before(b) && b.after(a) && !b.before(a) && !a.after(b));
        prop_assert_eq!(b.since(a), step);
    }

    #[test]
    fn built_fragment_reads_back(
        ends in any_ends(),
        id in any::<u16>(),
        offset in 0_u16..0x2000,
        more in any::<bool>(),
    ) {
        let fragment = Fragment { id: u32::from(id), offset_bytes: offset * 8, more };
        let packet = between(&ends).fragment(fragment).raw(IpProtocol::UDP, &[0; 16]);
        let found = match packet[0] >> 4 {
            4 => Ipv4::parse(&packet).unwrap().0.fragment(),
            _ => {
                let (ip, payload) = Ipv6::parse(&packet).unwrap();
                ip.upper_layer(payload).unwrap().fragment
            }
        };
        let whole = packet[0] >> 4 == 4 && fragment.is_atomic();
        prop_assert_eq!(found, (!whole).then_some(fragment));
    }
}

/// Bytes that often get past the first check: plain noise nearly always fails at the version.
fn any_header_bytes() -> impl Strategy<Value = Vec<u8>> {
    let lead = prop_oneof![Just(0x45_u8), Just(0x46), Just(0x4f), Just(0x60), any::<u8>()];
    let length = prop_oneof![0_u8..120, any::<u8>()];
    (vec(any::<u8>(), 0..120), lead, length).prop_map(|(mut bytes, lead, length)| {
        if let [first, _, high, low, v6_high, v6_low, next, ..] = bytes.as_mut_slice() {
            (*first, *high, *low) = (lead, 0, length);
            if lead >> 4 == 6 {
                (*v6_high, *v6_low) = (0, length);
                *next %= 61;
            }
        }
        bytes
    })
}

fn wire_bytes(option: &TcpOption<'_>) -> usize {
    match option {
        TcpOption::Nop => 1,
        TcpOption::SackPermitted => 2,
        TcpOption::WindowScale(_) => 3,
        TcpOption::Mss(_) => 4,
        TcpOption::Timestamps { .. } => 10,
        TcpOption::Sack(blocks) => 2 + 8 * blocks.iter().count(),
        TcpOption::Other { data, .. } => 2 + data.len(),
    }
}

fn touch_link(bytes: &[u8]) {
    if let Ok((ethernet, payload)) = Ethernet::parse(bytes) {
        let _ = (ethernet.dst(), ethernet.src(), ethernet.ether_type());
        let _ = Vlan::parse(payload).map(|(tag, _)| (tag.id(), tag.priority(), tag.ether_type()));
    }
    if let Ok((arp, _)) = Arp::parse(bytes) {
        let _ = (arp.operation(), arp.sender_mac(), arp.target_mac());
        let _ = (arp.sender_ip(), arp.target_ip());
    }
}

fn touch_ipv4(bytes: &[u8]) {
    if let Ok((ip, options, payload)) = Ipv4::parse_with_options(bytes) {
        assert_eq!(ip.header_bytes(), 20 + options.len());
        assert_eq!(usize::from(ip.total_length()), 20 + options.len() + payload.len());
        let _ = (ip.tos(), ip.id(), ip.fragment(), ip.dont_fragment(), ip.ttl(), ip.protocol());
        let _ = (ip.src(), ip.dst(), ip.compute_checksum(options));
        let right = ip.checksum() == ip.compute_checksum(options);
        assert!(!right || ip.verify_checksum(options).is_ok());
        touch_transport(payload);
    }
    if let Ok((_, payload)) = Ipv4::parse_quoted(bytes) {
        touch_transport(payload);
    }
}

fn touch_ipv6(bytes: &[u8]) {
    if let Ok((ip, payload)) = Ipv6::parse(bytes) {
        assert_eq!(usize::from(ip.payload_length()), payload.len());
        let _ = (ip.traffic_class(), ip.flow_label(), ip.hop_limit(), ip.src(), ip.dst());
        if let Ok(upper) = ip.upper_layer(payload) {
            touch_transport(&payload[upper.offset_bytes..]);
        }
    }
    if let Ok((ip, payload)) = Ipv6::parse_quoted(bytes) {
        let _ = ip.upper_layer(payload);
    }
}

fn touch_transport(bytes: &[u8]) {
    if let Ok((tcp, options, _)) = Tcp::parse_with_options(bytes) {
        assert_eq!(tcp.header_bytes(), 20 + options.len());
        let _ = (tcp.src_port(), tcp.dst_port(), tcp.sequence(), tcp.acknowledgment());
        let _ = (tcp.flags(), tcp.window(), tcp.checksum(), tcp.urgent());
        assert!(TcpOptions::new(options).count() <= options.len());
    }
    let _ = Udp::parse(bytes).map(|(udp, _)| (udp.src_port(), udp.length(), udp.checksum()));
    let _ = TransportStart::parse(bytes).map(|(start, _)| (start.src_port(), start.dst_port()));
    let _ = Icmp::parse(bytes).map(|(icmp, _)| (icmp.icmp_type(), icmp.code(), icmp.mtu()));
    let _ = Icmpv6::parse(bytes).map(|(icmp, _)| (icmp.icmp_type(), icmp.code(), icmp.mtu()));
}

fn edit(bytes: &mut [u8]) {
    if let Ok((mut ip, payload)) = Ipv4::parse_quoted_mut(bytes) {
        ip.decrement_ttl();
        if let Ok((_, options, _)) = Tcp::parse_with_options_mut(payload) {
            TcpOptionsMut::new(options).for_each(|option| option.data.fill(0));
        }
    }
    if let Ok((mut ip, _)) = Ipv6::parse_quoted_mut(bytes) {
        ip.decrement_hop_limit();
    }
    let _ = Ipv4::parse_mut(bytes).map(|(mut ip, _)| ip.decrement_ttl());
    let _ = Ipv6::parse_mut(bytes).map(|(mut ip, _)| ip.decrement_hop_limit());
    let _ = Tcp::blank(bytes).map(|(mut tcp, _)| tcp.set_header_bytes(60));
    let _ = (Arp::blank(bytes).is_ok(), Udp::blank(bytes).is_ok());
    let _ = (Icmp::blank(bytes).is_ok(), Icmpv6::blank(bytes).is_ok());
    let _ = (Ipv4::blank(bytes).is_ok(), Ipv6::blank(bytes).is_ok());
}
