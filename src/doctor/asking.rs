//! Asks a link who has an address, as a machine asks before it takes one: an ARP probe (RFC 5227
//! section 2.1.1), or a neighbour solicitation from no address (RFC 4862 section 5.4.2). The asker
//! has no address in either, so nobody's neighbour table changes. What an answer means is not
//! judged here.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{LinkAddr, bind};
use socket2::{Domain, Protocol, Socket, Type};

use crate::wire::WireError;
use crate::wire::arp::{ARP_MESSAGE_BYTES, Arp, ArpOperation};
use crate::wire::checksum::Sum;
use crate::wire::ethernet::{ETHERNET_HEADER_BYTES, EtherType, Ethernet, MacAddr};
use crate::wire::icmpv6::{ICMPV6_HEADER_BYTES, Icmpv6, Icmpv6Type};
use crate::wire::ip::IpProtocol;
use crate::wire::ipv6::{IPV6_HEADER_BYTES, Ipv6};

/// How often each address is asked for: a frame may be lost.
const ROUNDS: u32 = 3;
/// What there is to wait for an answer, each time.
const ROUND: Duration = Duration::from_millis(350);
/// How long one socket is listened to before it is the other's turn.
const GLANCE: Duration = Duration::from_millis(10);
/// A solicitation: its header, then the address asked for (RFC 4861 section 4.3).
const SOLICITATION_BYTES: usize = ICMPV6_HEADER_BYTES + 16;
/// Neither is forwarded, so it arrives with all its hops (RFC 4861 section 7.1).
const HOPS: u8 = 255;

/// An address and the machine that has it.
pub type Answer = (IpAddr, MacAddr);

/// Who on the link of `interface` has any of `addresses`; this machine is left out. Takes about a
/// second. Fails where the interface is none, is down, or packet sockets are not permitted.
pub fn ask(interface: &str, addresses: &[IpAddr]) -> io::Result<Vec<Answer>> {
    let links = links()?;
    let no_link = || io::Error::other("there is no such Ethernet interface");
    let own = links.iter().find(|(name, _)| name == interface).ok_or_else(no_link)?.1;
    let mac = mac_of(&own).ok_or_else(no_link)?;
    let ours: Vec<MacAddr> = links.iter().filter_map(|(_, link)| mac_of(link)).collect();
    let mut sockets = Vec::new();
    for (ether_type, is_wanted) in [
        (EtherType::ARP, addresses.iter().any(IpAddr::is_ipv4)),
        (EtherType::IPV6, addresses.iter().any(IpAddr::is_ipv6)),
    ] {
        if is_wanted {
            sockets.push(socket(&own, ether_type)?);
        }
    }
    let mut answers: Vec<Answer> = Vec::new();
    for _ in 0..ROUNDS {
        for address in addresses {
            let frame = question(mac, *address).map_err(io::Error::other)?;
            // Any of them sends any frame.
            sockets[0].send(&frame)?;
        }
        let until = Instant::now() + ROUND;
        while Instant::now() < until {
            for socket in &mut sockets {
                let Some(answer) = glance(socket)? else { continue };
                let is_news = addresses.contains(&answer.0) && !answers.contains(&answer);
                if is_news && !ours.contains(&answer.1) {
                    answers.push(answer);
                }
            }
        }
    }
    answers.sort();
    Ok(answers)
}

/// This machine's interfaces, as packet sockets name them.
fn links() -> io::Result<Vec<(String, LinkAddr)>> {
    let link = |it: nix::ifaddrs::InterfaceAddress| {
        it.address.as_ref()?.as_link_addr().map(|link| (it.interface_name.clone(), *link))
    };
    Ok(getifaddrs()?.filter_map(link).collect())
}

fn mac_of(link: &LinkAddr) -> Option<MacAddr> {
    link.addr().map(MacAddr).filter(MacAddr::is_unicast)
}

fn socket(link: &LinkAddr, ether_type: EtherType) -> io::Result<Socket> {
    let protocol = Protocol::from(i32::from(ether_type.0.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol))?;
    socket.set_read_timeout(Some(GLANCE))?;
    // The address names no protocol, so it stays the socket's (packet(7)).
    bind(socket.as_raw_fd(), link)?;
    Ok(socket)
}

/// What comes next, if it is an answer and comes soon.
fn glance(socket: &mut Socket) -> io::Result<Option<Answer>> {
    let mut bytes = [0; 256];
    match socket.read(&mut bytes) {
        Ok(count) => Ok(answer(&bytes[..count]).ok().flatten()),
        Err(error) => match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted => {
                Ok(None)
            }
            _ => Err(error),
        },
    }
}

/// A frame that asks for `address`.
fn question(mac: MacAddr, address: IpAddr) -> Result<Vec<u8>, WireError> {
    match address {
        IpAddr::V4(address) => probe(mac, address),
        IpAddr::V6(address) => solicitation(mac, address),
    }
}

fn probe(mac: MacAddr, address: Ipv4Addr) -> Result<Vec<u8>, WireError> {
    let mut frame = vec![0; ETHERNET_HEADER_BYTES + ARP_MESSAGE_BYTES];
    let (mut ethernet, payload) = Ethernet::parse_mut(&mut frame)?;
    ethernet.set_dst(MacAddr::BROADCAST);
    ethernet.set_src(mac);
    ethernet.set_ether_type(EtherType::ARP);
    let (mut arp, _) = Arp::blank(payload)?;
    arp.set_operation(ArpOperation::REQUEST);
    arp.set_sender(mac, Ipv4Addr::UNSPECIFIED);
    arp.set_target(MacAddr::ZERO, address);
    Ok(frame)
}

fn solicitation(mac: MacAddr, address: Ipv6Addr) -> Result<Vec<u8>, WireError> {
    let [.., a, b, c] = address.octets();
    // The solicited-node address (RFC 4291 section 2.7.1), and its Ethernet address (RFC 2464).
    let group =
        Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
    let mut frame = vec![0; ETHERNET_HEADER_BYTES + IPV6_HEADER_BYTES + SOLICITATION_BYTES];
    let (mut ethernet, packet) = Ethernet::parse_mut(&mut frame)?;
    ethernet.set_dst(MacAddr([0x33, 0x33, 0xff, a, b, c]));
    ethernet.set_src(mac);
    ethernet.set_ether_type(EtherType::IPV6);
    let (mut ip, message) = Ipv6::blank(packet)?;
    ip.set_payload_length(SOLICITATION_BYTES as u16);
    ip.set_next_header(IpProtocol::ICMPV6);
    ip.set_hop_limit(HOPS);
    ip.set_dst(group);
    message[ICMPV6_HEADER_BYTES..].copy_from_slice(&address.octets());
    let (mut icmp, _) = Icmpv6::parse_mut(message)?;
    icmp.set_type(Icmpv6Type::NEIGHBOR_SOLICITATION, 0);
    let pseudo =
        Sum::pseudo_v6(Ipv6Addr::UNSPECIFIED, group, IpProtocol::ICMPV6, SOLICITATION_BYTES as u32);
    let checksum = pseudo.add_bytes(message).checksum();
    Icmpv6::parse_mut(message)?.0.set_checksum(checksum);
    Ok(frame)
}

/// What a frame says of who has an address: ARP by its sender, of whatever kind it is; a neighbour
/// advertisement by its target. A probe is no claim.
fn answer(frame: &[u8]) -> Result<Option<Answer>, WireError> {
    let (ethernet, payload) = Ethernet::parse(frame)?;
    match ethernet.ether_type() {
        EtherType::ARP => {
            let (arp, _) = Arp::parse(payload)?;
            let sender = arp.sender_ip();
            Ok((!sender.is_unspecified()).then(|| (sender.into(), arp.sender_mac())))
        }
        EtherType::IPV6 => {
            let (ip, message) = Ipv6::parse(payload)?;
            if ip.next_header() != IpProtocol::ICMPV6 || ip.hop_limit() != HOPS {
                return Ok(None);
            }
            let (icmp, body) = Icmpv6::parse(message)?;
            let target = body.first_chunk::<16>().ok_or(WireError::Truncated)?;
            let is_answer = icmp.icmp_type() == Icmpv6Type::NEIGHBOR_ADVERTISEMENT;
            Ok(is_answer.then(|| (Ipv6Addr::from(*target).into(), ethernet.src())))
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

    #[test]
    fn an_arp_probe_names_no_sender_and_is_no_answer() {
        let frame = question(OWN, "192.0.2.80".parse().unwrap()).unwrap();
        assert_eq!(frame[..14], [255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1, 8, 6]);
        // RFC 826: Ethernet, IPv4, request, its MAC address; RFC 5227: no address of its own.
        assert_eq!(frame[14..28], [0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1]);
        assert_eq!(frame[28..], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 192, 0, 2, 80]);
        assert_eq!(answer(&frame), Ok(None));
    }

    #[test]
    fn an_arp_reply_and_an_announcement_are_answers() {
        let mut frame = question(OTHER, "192.0.2.80".parse().unwrap()).unwrap();
        frame[28..32].copy_from_slice(&[192, 0, 2, 80]);
        let expected = Ok(Some(("192.0.2.80".parse().unwrap(), OTHER)));
        assert_eq!(answer(&frame), expected);
        frame[21] = 2;
        assert_eq!(answer(&frame), expected);
        assert_eq!(answer(&frame[..41]), Err(WireError::Truncated));
    }

    /// By hand: RFC 4861 section 4.3 without options, RFC 4862 section 5.4.2.
    #[test]
    fn a_solicitation_comes_from_nowhere_and_goes_to_the_addresss_own_group() {
        let vip: Ipv6Addr = "2001:db8::1234:5680".parse().unwrap();
        let frame = question(OWN, vip.into()).unwrap();
        assert_eq!(frame[..14], [0x33, 0x33, 0xff, 0x34, 0x56, 0x80, 2, 0, 0, 0, 0, 1, 0x86, 0xdd]);
        assert_eq!(frame[14..22], [0x60, 0, 0, 0, 0, 24, 58, 255]);
        assert_eq!(frame[22..38], [0; 16]);
        let group: Ipv6Addr = "ff02::1:ff34:5680".parse().unwrap();
        assert_eq!(frame[38..54], group.octets());
        assert_eq!((frame[54], frame[55], &frame[62..]), (135, 0, &vip.octets()[..]));
        let sum = Sum::pseudo_v6(Ipv6Addr::UNSPECIFIED, group, IpProtocol::ICMPV6, 24);
        assert!(sum.add_bytes(&frame[54..]).holds());
        assert_eq!(answer(&frame), Ok(None));
    }

    #[test]
    fn an_advertisement_is_an_answer_unless_it_was_forwarded() {
        let vip: Ipv6Addr = "2001:db8::80".parse().unwrap();
        let mut frame = question(OTHER, vip.into()).unwrap();
        frame[54] = 136;
        assert_eq!(answer(&frame), Ok(Some((vip.into(), OTHER))));
        frame[21] = 254;
        assert_eq!(answer(&frame), Ok(None));
    }

    #[test]
    fn an_interface_that_is_none_is_told() {
        let error = ask("gyt-none", &["192.0.2.80".parse().unwrap()]).unwrap_err();
        assert!(error.to_string().contains("no such"), "{error}");
    }
}
