//! Whether what went out is right: headers and checksums worked out anew here, with nothing of
//! gyre's own parsers.

use std::net::IpAddr;

use anyhow::{Context, ensure};
use gyre::model::ForwardMode;

use crate::director::NEIGHBOUR_MAC;
use crate::traffic::Traffic;

/// An IP packet taken apart.
struct Taken<'f> {
    src: IpAddr,
    dst: IpAddr,
    ttl: u8,
    protocol: u8,
    body: &'f [u8],
}

/// Checks a frame that was sent against the one that came out for it.
pub fn check(traffic: &Traffic, sent: &[u8], got: &[u8]) -> anyhow::Result<()> {
    ensure!(got.get(..6) == Some(&NEIGHBOUR_MAC.0[..]), "not to the next hop: {got:02x?}");
    let mode = traffic.mode;
    if mode == ForwardMode::DirectRoute {
        ensure!(got[12..] == sent[12..], "DR changed the packet");
        return Ok(());
    }
    let (was, is) = (take(&sent[14..])?, take(&got[14..])?);
    if mode == ForwardMode::Tunnel {
        ensure!(traffic.is_server(is.dst), "tunnel to {}", is.dst);
        let inner = take(is.body)?;
        ensure!((inner.src, inner.dst) == (was.src, was.dst), "another packet inside");
        ensure!(inner.ttl == was.ttl - 1, "TTL {} inside, {} before", inner.ttl, was.ttl);
        return transport(&inner);
    }
    ensure!(is.ttl == was.ttl - 1, "TTL {} after {}", is.ttl, was.ttl);
    let (from, to) = (ports(&is)?, ports(&was)?);
    if traffic.replies {
        ensure!(is.src == traffic.vip() && from.0 == 80, "reply from {}:{}", is.src, from.0);
        ensure!(traffic.is_client(is.dst), "reply to {}", is.dst);
    } else {
        ensure!(traffic.is_server(is.dst) && from.1 == 80, "to {}:{}", is.dst, from.1);
        let keeps = (is.src, from.0) == (was.src, to.0);
        let local = traffic.is_local(is.src);
        ensure!(if mode == ForwardMode::Nat { keeps } else { local }, "from {}", is.src);
    }
    transport(&is)
}

/// Whether the checksums of an IP packet are right.
pub fn checksums(packet: &[u8]) -> anyhow::Result<()> {
    transport(&take(packet)?)
}

fn take(packet: &[u8]) -> anyhow::Result<Taken<'_>> {
    let first = *packet.first().context("empty packet")?;
    let be = |at: usize| usize::from(packet[at]) << 8 | usize::from(packet[at + 1]);
    if first >> 4 == 4 {
        ensure!(first == 0x45 && packet.len() >= be(2), "IPv4 header {first:02x}");
        ensure!(sum(&[&packet[..20]]) == 0xffff, "IPv4 header checksum");
        let address = |at: usize| {
            let octets: [u8; 4] = packet[at..at + 4].try_into().expect("four bytes");
            IpAddr::from(octets)
        };
        let (src, dst, body) = (address(12), address(16), &packet[20..be(2)]);
        return Ok(Taken { src, dst, ttl: packet[8], protocol: packet[9], body });
    }
    ensure!(first >> 4 == 6 && packet.len() >= 40 + be(4), "IPv6 header {first:02x}");
    let address = |at: usize| {
        let octets: [u8; 16] = packet[at..at + 16].try_into().expect("sixteen bytes");
        IpAddr::from(octets)
    };
    let (src, dst, body) = (address(8), address(24), &packet[40..40 + be(4)]);
    Ok(Taken { src, dst, ttl: packet[7], protocol: packet[6], body })
}

fn ports(taken: &Taken) -> anyhow::Result<(u16, u16)> {
    let head: &[u8; 4] = taken.body.first_chunk().context("no transport header")?;
    Ok((u16::from_be_bytes([head[0], head[1]]), u16::from_be_bytes([head[2], head[3]])))
}

/// The transport's checksum, in full.
fn transport(taken: &Taken) -> anyhow::Result<()> {
    let (src, dst) = match (taken.src, taken.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => (src.octets().to_vec(), dst.octets().to_vec()),
        (IpAddr::V6(src), IpAddr::V6(dst)) => (src.octets().to_vec(), dst.octets().to_vec()),
        _ => anyhow::bail!("two families"),
    };
    let length = (taken.body.len() as u16).to_be_bytes();
    let pseudo = [&src[..], &dst[..], &[0, taken.protocol], &length, taken.body];
    ensure!(sum(&pseudo) == 0xffff, "transport checksum of {} to {}", taken.src, taken.dst);
    Ok(())
}

/// RFC 1071, the slow way.
fn sum(parts: &[&[u8]]) -> u32 {
    let mut sum = 0u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
    }
    sum
}
