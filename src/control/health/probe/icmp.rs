//! ICMP and ICMPv6 echo: one raw socket a family, whose answers go to the attempts by sequence.
//!
//! Raw sockets, as `CAP_NET_RAW` is needed anyway and the kernel's own echo sockets are closed to
//! everybody by default, root included (`net.ipv4.ping_group_range`). A filter in the kernel leaves
//! us nothing but echo replies with our identifier.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::HashMap;
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::{OnceCell, oneshot};
use tokio::task::JoinSet;

use super::{Deadline, Failure, random};
use crate::limits::CHECK_DATAGRAM_BYTES_MAX;
use crate::wire::checksum::Sum;
use crate::wire::icmp::{ICMP_HEADER_BYTES, IcmpType};
use crate::wire::icmpv6::Icmpv6Type;

const ANSWER: &str = "answer to an echo request";
/// Answers that may wait in the kernel: at 10,000 checks in 2 s a few milliseconds' worth.
const RECEIVE_BYTES: usize = 4 << 20;

/// The two sockets, opened when the first check needs them.
#[derive(Debug, Default)]
pub(super) struct Echoes {
    v4: OnceCell<Echo>,
    v6: OnceCell<Echo>,
}

impl Echoes {
    /// An echo request and its answer.
    pub(super) async fn attempt(
        &self,
        address: IpAddr,
        payload_bytes: u16,
        deadline: Deadline,
    ) -> Result<(), Failure> {
        let cell = if address.is_ipv4() { &self.v4 } else { &self.v6 };
        let echo = cell.get_or_try_init(async || Echo::open(Kind::of(address))).await?;
        deadline.within(ANSWER, echo.ask(address, payload_bytes)).await
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    V4,
    V6,
}

impl Kind {
    fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Kind::V4 } else { Kind::V6 }
    }

    /// Types of request and reply.
    fn types(self) -> (u8, u8) {
        match self {
            Kind::V4 => (IcmpType::ECHO_REQUEST.0, IcmpType::ECHO_REPLY.0),
            Kind::V6 => (Icmpv6Type::ECHO_REQUEST.0, Icmpv6Type::ECHO_REPLY.0),
        }
    }
}

/// Who waits: the attempt with this sequence, for an answer from this address.
type Waiting = HashMap<u16, (IpAddr, oneshot::Sender<Vec<u8>>)>;

/// One family's socket.
#[derive(Debug)]
struct Echo {
    kind: Kind,
    id: u16,
    socket: Arc<UdpSocket>,
    waiting: Arc<Mutex<Waiting>>,
    next: Mutex<u16>,
    /// Reads answers; ends with this.
    _reader: JoinSet<()>,
}

impl Echo {
    fn open(kind: Kind) -> Result<Self, Failure> {
        let id = random() as u16;
        let failed = |error: io::Error| match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => {
                Failure::Director("ICMP needs CAP_NET_RAW; run gyre as root or with it".to_owned())
            }
            _ => Failure::Director(format!("no socket for ICMP: {error}")),
        };
        let socket = Arc::new(raw_socket(kind, id).map_err(failed)?);
        let waiting = Arc::new(Mutex::default());
        let mut reader = JoinSet::new();
        reader.spawn(read(kind, socket.clone(), waiting.clone()));
        Ok(Echo { kind, id, socket, waiting, next: Mutex::new(0), _reader: reader })
    }

    async fn ask(&self, address: IpAddr, payload_bytes: u16) -> Result<(), Failure> {
        let (answered, answer) = oneshot::channel();
        let place = self.register(address, answered)?;
        let request = self.request(place.sequence, payload_bytes);
        let sent = self.socket.send_to(&request, SocketAddr::new(address, 0)).await;
        sent.map_err(|error| Failure::of_socket(&error, ANSWER))?;
        let got = answer.await.map_err(|_| Failure::Director("ICMP ended".to_owned()))?;
        match got == request[ICMP_HEADER_BYTES..] {
            true => Ok(()),
            false => Err(Failure::Answer("echo reply with other data than sent".to_owned())),
        }
    }

    /// Takes the next sequence that nobody waits for.
    fn register(
        &self,
        address: IpAddr,
        answered: oneshot::Sender<Vec<u8>>,
    ) -> Result<Place, Failure> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let mut waiting = locked(&self.waiting);
        for _ in 0..=u16::MAX {
            *next = next.wrapping_add(1);
            if !waiting.contains_key(&*next) {
                waiting.insert(*next, (address, answered));
                return Ok(Place { sequence: *next, waiting: self.waiting.clone() });
            }
        }
        Err(Failure::Director("too many echo requests wait for answers".to_owned()))
    }

    /// The kernel writes ICMPv6's checksum, which covers addresses that only it knows; ours is
    /// then written over.
    fn request(&self, sequence: u16, payload_bytes: u16) -> Vec<u8> {
        let mut message = vec![self.kind.types().0, 0, 0, 0];
        message.extend_from_slice(&self.id.to_be_bytes());
        message.extend_from_slice(&sequence.to_be_bytes());
        message.extend((0..payload_bytes).map(|n| n as u8));
        let sum = Sum::new().add_bytes(&message).checksum();
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        message
    }
}

/// A sequence in use; free again when dropped.
struct Place {
    sequence: u16,
    waiting: Arc<Mutex<Waiting>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        locked(&self.waiting).remove(&self.sequence);
    }
}

fn locked(waiting: &Mutex<Waiting>) -> MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

/// To tokio a raw socket is as good as one for UDP: it sends and receives with addresses.
fn raw_socket(kind: Kind, id: u16) -> io::Result<UdpSocket> {
    let (domain, protocol) = match kind {
        Kind::V4 => (Domain::IPV4, Protocol::ICMPV4),
        Kind::V6 => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    socket.set_nonblocking(true)?;
    socket.set_recv_buffer_size(RECEIVE_BYTES)?;
    socket.attach_filter(&filter(kind, id))?;
    UdpSocket::from_std(socket.into())
}

/// Classic BPF (Linux "Documentation/networking/filter.rst") that keeps echo replies with our
/// identifier. A raw IPv4 socket's packets begin with the IP header, an IPv6 one's behind it.
fn filter(kind: Kind, id: u16) -> Vec<SockFilter> {
    let mut program = match kind {
        // X becomes the IP header's length.
        Kind::V4 => vec![SockFilter::new(0xb1, 0, 0, 0)],
        Kind::V6 => vec![SockFilter::new(0x01, 0, 0, 0)],
    };
    program.extend([
        SockFilter::new(0x50, 0, 0, 0),
        SockFilter::new(0x15, 0, 3, kind.types().1.into()),
        SockFilter::new(0x48, 0, 0, 4),
        SockFilter::new(0x15, 0, 1, id.into()),
        SockFilter::new(0x06, 0, 0, u32::MAX),
        SockFilter::new(0x06, 0, 0, 0),
    ]);
    program
}

/// Hands answers to those who wait.
async fn read(kind: Kind, socket: Arc<UdpSocket>, waiting: Arc<Mutex<Waiting>>) {
    let mut buffer = vec![0; CHECK_DATAGRAM_BYTES_MAX];
    loop {
        // An error is of one packet (none was left, memory was short): the next may come.
        let Ok((bytes, from)) = socket.recv_from(&mut buffer).await else {
            tokio::task::yield_now().await;
            continue;
        };
        let Some((sequence, payload)) = parse(kind, &buffer[..bytes]) else { continue };
        let mut waiting = locked(&waiting);
        if waiting.get(&sequence).is_some_and(|(address, _)| *address == from.ip()) {
            // Nobody may wait any more.
            let _ = waiting.remove(&sequence).map(|(_, answer)| answer.send(payload.to_vec()));
        }
    }
}

/// Sequence and payload of an echo reply as a raw socket gives it.
fn parse(kind: Kind, packet: &[u8]) -> Option<(u16, &[u8])> {
    let message = match kind {
        Kind::V4 => packet.get(usize::from(packet.first()? & 0xf) * 4..)?,
        Kind::V6 => packet,
    };
    let (header, payload) = message.split_first_chunk::<ICMP_HEADER_BYTES>()?;
    (header[0] == kind.types().1).then_some(())?;
    Some((u16::from_be_bytes([header[6], header[7]]), payload))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn replies_are_read_behind_any_ip_header() {
        let mut packet = vec![0x46];
        packet.resize(24, 0);
        packet.extend([0, 0, 0, 0, 0, 9, 1, 2, b'x']);
        assert_eq!(parse(Kind::V4, &packet), Some((0x0102, &b"x"[..])));
        assert_eq!(parse(Kind::V4, &packet[..31]), None);
        assert_eq!(parse(Kind::V6, &[129, 0, 0, 0, 0, 9, 1, 2]), Some((0x0102, &b""[..])));
        assert_eq!(parse(Kind::V6, &[128, 0, 0, 0, 0, 9, 1, 2]), None);
    }

    proptest! {
        #[test]
        fn any_packet_is_read_without_harm(
            packet in proptest::collection::vec(any::<u8>(), 0..80),
        ) {
            for kind in [Kind::V4, Kind::V6] {
                let payload = parse(kind, &packet).map(|(_, payload)| payload.len());
                prop_assert!(payload.is_none_or(|bytes| bytes + ICMP_HEADER_BYTES <= packet.len()));
            }
        }
    }
}
