//! Packets to a server by its service's forwarding mode, through raw sockets: the kernel finds
//! interface, router and MAC address by the server's own address, whatever the packet says.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use super::super::{Failure, Target};
use super::refused;
use crate::model::{ForwardMode, Tunnel};
use crate::wire::checksum::Sum;
use crate::wire::ethernet::EtherType;
use crate::wire::gre::{GRE_CHECKSUM_BYTES, GRE_HEADER_BYTES, Gre};
use crate::wire::gue::{GUE_HEADER_BYTES, Gue};
use crate::wire::ip::IpProtocol;

/// Protocol of a socket whose packets bring their own IP header (Linux raw(7)).
const RAW: IpProtocol = IpProtocol(255);

/// Somebody far away in each family (RFC 5737, RFC 3849); only the way there is asked for.
const WORLD_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const WORLD_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// The director's address that a packet to the VIP is from: that which it has towards the server,
/// or, in a tunnel of the other family, towards the world.
pub(super) fn own_address(target: &Target, vip: SocketAddr) -> Result<IpAddr, Failure> {
    let towards = match (target.server.ip(), vip.ip()) {
        (IpAddr::V4(rip), IpAddr::V4(_)) => rip.into(),
        (IpAddr::V6(rip), IpAddr::V6(_)) => rip.into(),
        (_, IpAddr::V4(_)) => WORLD_V4.into(),
        (_, IpAddr::V6(_)) => WORLD_V6.into(),
    };
    let ask = || {
        let socket = UdpSocket::bind(any(towards))?;
        // Nothing is sent; any port does.
        socket.connect((towards, 9))?;
        Ok(socket.local_addr()?.ip())
    };
    let own = ask().map_err(|error: io::Error| match Failure::of_socket(&error, "a way") {
        unreachable @ Failure::Unreachable(_) => unreachable,
        _ => refused("a source address", &error),
    })?;
    // Its answers could not be told from a service's.
    match own == vip.ip() {
        false => Ok(own),
        true => Err(Failure::Director(format!(
            "the director has no address of its own to ask {vip} from, in that family"
        ))),
    }
}

/// Sends an IP packet to the server as the service's packets go.
pub(super) fn to_server(target: &Target, packet: &[u8]) -> Result<(), Failure> {
    let rip = target.server.ip();
    let inner = Inner::of(packet);
    let sent = match (target.mode, target.tunnel) {
        (ForwardMode::Tunnel, Tunnel::Ipip) => send_raw(rip, inner.protocol(), packet),
        (ForwardMode::Tunnel, Tunnel::Gre { checksum }) => {
            let sum = if checksum { GreSum::Written } else { GreSum::None };
            send_raw(rip, IpProtocol::GRE, &gre(inner, packet, sum))
        }
        // The kernel always writes the outer checksum: a far end that wants none takes it too.
        (ForwardMode::Tunnel, Tunnel::Gue { port, .. }) => send_gue(rip, port, &gue(inner, packet)),
        _ => send_raw(rip, RAW, packet),
    };
    sent.map_err(|error| match Failure::of_socket(&error, "a way") {
        unreachable @ Failure::Unreachable(_) => unreachable,
        _ => refused("sending", &error),
    })
}

fn any(family: IpAddr) -> SocketAddr {
    match family {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

/// A socket for one packet: it hears nothing.
fn send_raw(rip: IpAddr, protocol: IpProtocol, bytes: &[u8]) -> io::Result<()> {
    let domain = if rip.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let protocol = Protocol::from(i32::from(protocol.0));
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    // Return nothing of any packet.
    socket.attach_filter(&[SockFilter::new(0x06, 0, 0, 0)])?;
    socket.set_nonblocking(true)?;
    socket.send_to(bytes, &SocketAddr::new(rip, 0).into()).map(drop)
}

fn send_gue(rip: IpAddr, port: u16, bytes: &[u8]) -> io::Result<()> {
    let socket = UdpSocket::bind(any(rip))?;
    socket.set_nonblocking(true)?;
    socket.send_to(bytes, (rip, port)).map(drop)
}

/// Family of the packet inside a tunnel.
#[derive(Clone, Copy)]
enum Inner {
    V4,
    V6,
}

impl Inner {
    fn of(packet: &[u8]) -> Self {
        if packet.first().is_some_and(|byte| byte >> 4 == 6) { Inner::V6 } else { Inner::V4 }
    }

    fn protocol(self) -> IpProtocol {
        match self {
            Inner::V4 => IpProtocol::IPV4,
            Inner::V6 => IpProtocol::IPV6,
        }
    }

    fn ether_type(self) -> EtherType {
        match self {
            Inner::V4 => EtherType::IPV4,
            Inner::V6 => EtherType::IPV6,
        }
    }
}

/// Whether a GRE header has a checksum.
#[derive(Clone, Copy, PartialEq, Eq)]
enum GreSum {
    None,
    Written,
}

fn gre(inner: Inner, packet: &[u8], sum: GreSum) -> Vec<u8> {
    let mut bytes = vec![0; GRE_HEADER_BYTES];
    if let Ok((mut header, _)) = Gre::blank(&mut bytes) {
        header.set_ether_type(inner.ether_type());
        if sum == GreSum::Written {
            header.set_has_checksum();
        }
    }
    if sum == GreSum::Written {
        bytes.extend([0; GRE_CHECKSUM_BYTES]);
    }
    bytes.extend_from_slice(packet);
    if sum == GreSum::Written {
        let written = Sum::new().add_bytes(&bytes).checksum();
        bytes[GRE_HEADER_BYTES..GRE_HEADER_BYTES + 2].copy_from_slice(&written.to_be_bytes());
    }
    bytes
}

fn gue(inner: Inner, packet: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; GUE_HEADER_BYTES];
    if let Ok((mut header, _)) = Gue::blank(&mut bytes) {
        header.set_protocol(inner.protocol());
    }
    bytes.extend_from_slice(packet);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tunnels_say_what_is_inside() {
        let four = [&[0x45][..], &[7; 19]].concat();
        let six = [&[0x60][..], &[7; 39]].concat();
        let plain = gre(Inner::of(&four), &four, GreSum::None);
        assert_eq!(plain, [&[0, 0, 8, 0][..], &four].concat());
        let summed = gre(Inner::of(&six), &six, GreSum::Written);
        assert_eq!(summed[..4], [0x80, 0, 0x86, 0xdd]);
        assert!(Sum::new().add_bytes(&summed).holds(), "RFC 2784, 2.3");
        assert_eq!(gue(Inner::of(&six), &six)[..4], [0, 41, 0, 0]);
        assert_eq!(Inner::of(&four).protocol(), IpProtocol::IPV4);
    }
}
