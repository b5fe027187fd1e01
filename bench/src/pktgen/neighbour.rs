//! Asking for a MAC address and answering those who ask: ARP and neighbour discovery, one
//! message at a time. When to ask and how long to wait is the caller's.

use std::net::{IpAddr, Ipv6Addr};

use gyre::wire::arp::{Arp, ArpOperation};
use gyre::wire::build::PacketBuilder;
use gyre::wire::ethernet::{EtherType, Ethernet, MacAddr};
use gyre::wire::icmpv6::{Icmpv6, Icmpv6Type};
use gyre::wire::ip::IpProtocol;
use gyre::wire::ipv6::Ipv6;

/// Neighbour discovery must come from this link (RFC 4861 section 7.1).
const HOP_LIMIT: u8 = 255;
const OPTION_SOURCE: u8 = 1;
const OPTION_TARGET: u8 = 2;
/// Solicited, and overriding what the asker knows (RFC 4861 section 4.4).
const ADVERTISEMENT_FLAGS: u32 = 0x6000_0000;

/// A station on the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Station {
    /// Its MAC address.
    pub mac: MacAddr,
    /// Its address.
    pub ip: IpAddr,
}

/// Asks who has `target`. `None` when the two addresses are of different families.
pub fn question(own: Station, target: IpAddr) -> Option<Vec<u8>> {
    match (own.ip, target) {
        (IpAddr::V4(ip), IpAddr::V4(target)) => {
            let link = PacketBuilder::new().ethernet(own.mac, MacAddr::BROADCAST).padding(18);
            let nobody = (MacAddr::ZERO, target);
            Some(link.arp(ArpOperation::REQUEST, (own.mac, ip), nobody).to_vec())
        }
        (IpAddr::V6(ip), IpAddr::V6(target)) => {
            let [.., a, b, c] = target.octets();
            let group = Ipv6Addr::from_bits(
                0xff02_0000_0000_0000_0000_0001_ff00_0000 | u128::from_be_bytes(low_bytes(a, b, c)),
            );
            let group_mac = MacAddr([0x33, 0x33, 0xff, a, b, c]);
            let link = PacketBuilder::new().ethernet(own.mac, group_mac);
            let message =
                link.ipv6(ip, group).ttl(HOP_LIMIT).icmp(Icmpv6Type::NEIGHBOR_SOLICITATION.0, 0, 0);
            let body = discovery_body(target, OPTION_SOURCE, own.mac);
            Some(message.payload(&body).build().to_vec())
        }
        _ => None,
    }
}

fn low_bytes(a: u8, b: u8, c: u8) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[13..].copy_from_slice(&[a, b, c]);
    bytes
}

fn discovery_body(target: Ipv6Addr, option: u8, mac: MacAddr) -> Vec<u8> {
    // Lengths of options count in eights.
    [&target.octets()[..], &[option, 1], &mac.0].concat()
}

/// The MAC address of `target`, if this frame tells it.
pub fn learnt(frame: &[u8], target: IpAddr) -> Option<MacAddr> {
    match target {
        IpAddr::V4(target) => {
            let arp = arp_of(frame)?;
            (arp.operation() == ArpOperation::REPLY && arp.sender_ip() == target)
                .then(|| arp.sender_mac())
        }
        IpAddr::V6(target) => {
            let (asked, option, _) = discovery_of(frame, Icmpv6Type::NEIGHBOR_ADVERTISEMENT)?;
            let ethernet = Ethernet::parse(frame).ok()?.0;
            // An answer to one may leave the option out (RFC 4861 section 4.4).
            (asked == target).then(|| option.unwrap_or(ethernet.src()))
        }
    }
}

/// The answer to a question for one of our addresses.
pub fn answer(frame: &[u8], mac: MacAddr, is_ours: impl Fn(IpAddr) -> bool) -> Option<Vec<u8>> {
    if let Some(arp) = arp_of(frame) {
        let (asker, target) = ((arp.sender_mac(), arp.sender_ip()), arp.target_ip());
        let is_asked = arp.operation() == ArpOperation::REQUEST && is_ours(target.into());
        let link = PacketBuilder::new().ethernet(mac, asker.0).padding(18);
        return is_asked.then(|| link.arp(ArpOperation::REPLY, (mac, target), asker).to_vec());
    }
    let (target, asker_mac, asker) = discovery_of(frame, Icmpv6Type::NEIGHBOR_SOLICITATION)?;
    // Probes for duplicates ask from nowhere; our addresses are not defended.
    if !is_ours(target.into()) || asker.is_unspecified() {
        return None;
    }
    let asker_mac = asker_mac.unwrap_or(Ethernet::parse(frame).ok()?.0.src());
    let link = PacketBuilder::new().ethernet(mac, asker_mac);
    let message = link.ipv6(target, asker).ttl(HOP_LIMIT);
    let kind = Icmpv6Type::NEIGHBOR_ADVERTISEMENT.0;
    let body = discovery_body(target, OPTION_TARGET, mac);
    Some(message.icmp(kind, 0, ADVERTISEMENT_FLAGS).payload(&body).build().to_vec())
}

fn arp_of(frame: &[u8]) -> Option<Arp<&[u8; 28]>> {
    let (ethernet, payload) = Ethernet::parse(frame).ok()?;
    (ethernet.ether_type() == EtherType::ARP).then(|| Arp::parse(payload).ok())?.map(|(arp, _)| arp)
}

/// Target, link-layer address option and source of a discovery message of `kind`.
fn discovery_of(frame: &[u8], kind: Icmpv6Type) -> Option<(Ipv6Addr, Option<MacAddr>, Ipv6Addr)> {
    let (ethernet, payload) = Ethernet::parse(frame).ok()?;
    if ethernet.ether_type() != EtherType::IPV6 {
        return None;
    }
    let (ip, payload) = Ipv6::parse(payload).ok()?;
    if ip.next_header() != IpProtocol::ICMPV6 || ip.hop_limit() != HOP_LIMIT {
        return None;
    }
    let message = payload.get(..usize::from(ip.payload_length()))?;
    let (icmp, body) = Icmpv6::parse(message).ok()?;
    let target: &[u8; 16] = body.first_chunk()?;
    let wanted =
        if kind == Icmpv6Type::NEIGHBOR_SOLICITATION { OPTION_SOURCE } else { OPTION_TARGET };
    (icmp.icmp_type() == kind).then(|| {
        let option = match body.get(16..24) {
            Some(&[option, 1, a, b, c, d, e, f]) if option == wanted => {
                Some(MacAddr([a, b, c, d, e, f]))
            }
            _ => None,
        };
        (Ipv6Addr::from(*target), option, ip.src())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKER: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const OWNER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

    fn talk(asker: &str, target: &str) {
        let (asker, target): (IpAddr, IpAddr) = (asker.parse().unwrap(), target.parse().unwrap());
        let asked = question(Station { mac: ASKER, ip: asker }, target).unwrap();
        assert!(asked.len() >= 60, "no runt");
        assert_eq!(answer(&asked, OWNER, |_| false), None, "not ours");
        assert_eq!(learnt(&asked, target), None, "a question tells nothing of its target");
        let said = answer(&asked, OWNER, |ip| ip == target).unwrap();
        assert_eq!(said[..6], ASKER.0, "to the asker only");
        assert_eq!(learnt(&said, target), Some(OWNER));
        assert_eq!(learnt(&said, asker), None);
        assert_eq!(answer(&said, OWNER, |_| true), None, "answers are not answered");
    }

    #[test]
    fn what_is_asked_is_answered_and_learnt_in_both_families() {
        talk("198.18.0.1", "198.19.0.1");
        talk("2001:2::1", "2001:2:0:8000::ab:cd01");
    }

    #[test]
    fn a_solicitation_goes_to_the_targets_group() {
        let own = Station { mac: ASKER, ip: "2001:2::1".parse().unwrap() };
        let asked = question(own, "2001:2::ab:cd01".parse().unwrap()).unwrap();
        assert_eq!(asked[..6], [0x33, 0x33, 0xff, 0xab, 0xcd, 0x01]);
        assert_eq!(asked[38..54], "ff02::1:ffab:cd01".parse::<Ipv6Addr>().unwrap().octets());
        assert_eq!(question(own, [198, 18, 0, 1].into()), None, "two families");
    }

    #[test]
    fn any_bytes_are_survived() {
        let own = Station { mac: ASKER, ip: "2001:2::1".parse().unwrap() };
        let asked = question(own, "2001:2::2".parse().unwrap()).unwrap();
        for length in 0..asked.len() {
            let _ = answer(&asked[..length], OWNER, |_| true);
            let _ = learnt(&asked[..length], own.ip);
        }
        let mut far = asked;
        far[21] = 64;
        assert_eq!(answer(&far, OWNER, |_| true), None, "not from this link");
    }
}
