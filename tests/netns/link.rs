//! Raw frames on an interface: what the wire shows, and frames that no stack would send.
//!
//! The reader here is independent of gyre's own: a test must not share a mistake with its subject.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recvfrom, send,
    setsockopt, socket, sockopt,
};

use crate::lab::Namespace;

/// Packets that a host sends itself, in `sll_pkttype`.
const PACKET_OUTGOING: u8 = 4;
const FRAME_BYTES_MAX: usize = 65_600;

/// TCP flag bits.
pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

/// A packet socket on one interface. Make it on a thread inside the namespace.
pub struct RawPort {
    fd: OwnedFd,
    own_too: bool,
}

impl RawPort {
    /// Opens `interface`; `own_too` also receives what this host sends.
    pub fn open(interface: &str, own_too: bool) -> RawPort {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll).unwrap();
        setsockopt(&fd, sockopt::RcvBufForce, &(32 << 20)).unwrap();
        let is_link = |address: &nix::ifaddrs::InterfaceAddress| -> Option<LinkAddr> {
            let link = address.address.as_ref()?.as_link_addr()?;
            (address.interface_name == interface).then_some(*link)
        };
        let address = getifaddrs().unwrap().find_map(|address| is_link(&address));
        bind(fd.as_raw_fd(), &address.unwrap_or_else(|| panic!("no interface {interface}")))
            .unwrap();
        let port = RawPort { fd, own_too };
        // Until `bind` it heard every interface.
        while port.receive(Duration::ZERO).is_some() {}
        port
    }

    /// The next frame, or `None` after `timeout`.
    pub fn receive(&self, timeout: Duration) -> Option<Vec<u8>> {
        let mut buffer = vec![0; FRAME_BYTES_MAX];
        loop {
            match recvfrom::<LinkAddr>(self.fd.as_raw_fd(), &mut buffer) {
                Ok((_, Some(from))) if !self.own_too && from.pkttype() == PACKET_OUTGOING => {}
                Ok((len, _)) => {
                    buffer.truncate(len);
                    return Some(buffer);
                }
                Err(Errno::EAGAIN) => {
                    let millis = u16::try_from(timeout.as_millis()).unwrap();
                    let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
                    if poll(&mut fds, PollTimeout::from(millis)) != Ok(1) {
                        return None;
                    }
                }
                Err(Errno::ENETDOWN) => return None,
                Err(error) => panic!("packet socket: {error}"),
            }
        }
    }

    /// Sends a frame as it is.
    pub fn send(&self, frame: &[u8]) {
        while let Err(error) = send(self.fd.as_raw_fd(), frame, MsgFlags::empty()) {
            let full = matches!(error, Errno::EAGAIN | Errno::ENOBUFS);
            assert!(full, "packet socket: {error}");
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    /// To wait for several ports at once.
    pub fn poll_fd(&self) -> PollFd<'_> {
        PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)
    }
}

/// Sends `frames` out of `interface`.
pub fn inject(space: &Namespace, interface: &str, frames: &[Vec<u8>]) {
    space.enter(|| {
        let port = RawPort::open(interface, false);
        frames.iter().for_each(|frame| port.send(frame));
    });
}

/// Frames seen on an interface, both ways, from `start` to `stop`.
pub struct Capture {
    stop: Arc<AtomicBool>,
    frames: Arc<Mutex<Vec<Vec<u8>>>>,
    thread: Option<JoinHandle<()>>,
}

impl Capture {
    /// Begins; returns once the socket hears.
    pub fn start(space: &Namespace, interface: &str) -> Capture {
        let stop = Arc::new(AtomicBool::new(false));
        let frames = Arc::new(Mutex::new(Vec::new()));
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (stopped, kept, interface) = (stop.clone(), frames.clone(), interface.to_string());
        let thread = space.spawn(move || {
            let port = RawPort::open(&interface, true);
            ready.send(()).unwrap();
            while !stopped.load(Ordering::Relaxed) {
                if let Some(frame) = port.receive(Duration::from_millis(20)) {
                    kept.lock().unwrap().push(frame);
                }
            }
        });
        is_ready.recv().unwrap();
        Capture { stop, frames, thread: Some(thread) }
    }

    /// Packets so far.
    pub fn packets(&self) -> Vec<Packet> {
        self.frames.lock().unwrap().iter().filter_map(|frame| Packet::read(frame)).collect()
    }

    /// Frames so far.
    pub fn frames(&self) -> Vec<Vec<u8>> {
        self.frames.lock().unwrap().clone()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

/// An IP packet as read off the wire.
#[derive(Clone, Debug)]
pub struct Packet {
    pub src_mac: [u8; 6],
    pub dst_mac: [u8; 6],
    pub src: SocketAddr,
    pub dst: SocketAddr,
    pub ttl: u8,
    /// IP protocol number.
    pub protocol: u8,
    /// TCP flags.
    pub flags: u8,
    pub seq: u32,
    pub ack: u32,
    /// TCP options, kind and value.
    pub options: Vec<(u8, Vec<u8>)>,
    /// Behind the TCP or UDP header; for other protocols behind the IP header.
    pub payload: Vec<u8>,
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// An address pair, protocol, TTL, and the bytes behind the IP header.
type Network<'a> = (IpAddr, IpAddr, u8, u8, &'a [u8]);

fn read_ipv4(ip: &[u8]) -> Option<Network<'_>> {
    let header = usize::from(ip.first()? & 15) * 4;
    let total = usize::from(be16(ip, 2)?);
    let (src, dst) = (be32(ip, 12)?, be32(ip, 16)?);
    let rest = ip.get(header..total)?;
    Some((IpAddr::V4(src.into()), IpAddr::V4(dst.into()), *ip.get(9)?, *ip.get(8)?, rest))
}

fn read_ipv6(ip: &[u8]) -> Option<Network<'_>> {
    let address = |at: usize| -> Option<IpAddr> {
        let octets: [u8; 16] = ip.get(at..at + 16)?.try_into().ok()?;
        Some(IpAddr::V6(octets.into()))
    };
    let rest = ip.get(40..40 + usize::from(be16(ip, 4)?))?;
    Some((address(8)?, address(24)?, *ip.get(6)?, *ip.get(7)?, rest))
}

impl Packet {
    /// Reads an Ethernet frame; `None` when it is no whole IP packet.
    pub fn read(frame: &[u8]) -> Option<Packet> {
        let network = match be16(frame, 12)? {
            0x0800 => read_ipv4(&frame[14..])?,
            0x86dd => read_ipv6(&frame[14..])?,
            _ => return None,
        };
        let (src, dst, protocol, ttl, rest) = network;
        let mut packet = Packet {
            dst_mac: frame[0..6].try_into().ok()?,
            src_mac: frame[6..12].try_into().ok()?,
            src: SocketAddr::new(src, 0),
            dst: SocketAddr::new(dst, 0),
            ttl,
            protocol,
            flags: 0,
            seq: 0,
            ack: 0,
            options: Vec::new(),
            payload: rest.to_vec(),
        };
        match protocol {
            6 => packet.read_tcp(rest)?,
            17 => packet.read_ports(rest, 8)?,
            _ => {}
        }
        Some(packet)
    }

    fn read_ports(&mut self, segment: &[u8], header_bytes: usize) -> Option<()> {
        self.src.set_port(be16(segment, 0)?);
        self.dst.set_port(be16(segment, 2)?);
        self.payload = segment.get(header_bytes..)?.to_vec();
        Some(())
    }

    fn read_tcp(&mut self, segment: &[u8]) -> Option<()> {
        let header_bytes = usize::from(segment.get(12)? >> 4) * 4;
        self.read_ports(segment, header_bytes)?;
        (self.seq, self.ack) = (be32(segment, 4)?, be32(segment, 8)?);
        self.flags = *segment.get(13)?;
        let mut rest = segment.get(20..header_bytes)?;
        while let [kind, tail @ ..] = rest {
            let len = match kind {
                0 => break,
                1 => {
                    rest = tail;
                    continue;
                }
                _ => usize::from(*tail.first()?),
            };
            self.options.push((*kind, rest.get(2..len)?.to_vec()));
            rest = rest.get(len..)?;
        }
        Some(())
    }

    /// Whether this is TCP with exactly these of SYN, ACK, FIN, RST set.
    pub fn is_tcp(&self, flags: u8) -> bool {
        self.protocol == 6 && self.flags & (SYN | ACK | FIN | RST) == flags
    }

    /// The value of the first TCP option of a kind.
    pub fn option(&self, kind: u8) -> Option<&[u8]> {
        self.options.iter().find(|(k, _)| *k == kind).map(|(_, value)| &value[..])
    }
}
