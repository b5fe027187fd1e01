//! Source ports of checks by the service's path: held by sockets of the kernel, which neither
//! listen nor read, so that no connection of the director gets one of them.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use socket2::{Domain, Socket, Type};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::super::{Deadline, Failure, random};

/// UDP ports: as many datagrams may wait for an answer at one time. A block of so many, since the
/// filter looks at the high bits alone.
pub(super) const UDP_PORTS: u16 = 256;
/// TCP ports that SYNs come from: they are told apart by sequence numbers, so that a few do.
pub(super) const TCP_PORTS: u16 = 16;
/// TCP ports of whole connections, behind those: as many may be open at one time.
const STREAM_PORTS: u16 = UDP_PORTS - TCP_PORTS;
/// First of the blocks that are tried: above what Linux gives out by itself (32768 to 60999).
const FIRST_BLOCK: u16 = 0xee00;
/// Blocks up to the last port.
const BLOCKS: u16 = (u16::MAX - FIRST_BLOCK) / UDP_PORTS + 1;
/// What the kernel keeps of what comes to a held socket: nobody reads it.
const RECEIVE_BYTES: usize = 1;

/// A block of ports in one family.
#[derive(Debug)]
pub(super) struct Ports {
    first: u16,
    tcp: AtomicU16,
    /// In the order of their last use, so that a late answer finds nobody for as long as can be.
    udp: Arc<Mutex<VecDeque<u16>>>,
    _held: Vec<Socket>,
}

impl Ports {
    /// Holds the first block of which no port is in use, beginning anywhere.
    pub(super) fn hold(family: IpAddr) -> Result<Self, Failure> {
        let start = random() as u16 % BLOCKS;
        let mut last = None;
        for block in 0..BLOCKS {
            let first = FIRST_BLOCK + (start + block) % BLOCKS * UDP_PORTS;
            match hold_block(family, first) {
                Ok(held) => {
                    let udp = Arc::new(Mutex::new((first..=first + (UDP_PORTS - 1)).collect()));
                    return Ok(Ports { first, tcp: AtomicU16::new(0), udp, _held: held });
                }
                Err(error) => last = Some(error),
            }
        }
        let why = last.map_or(String::new(), |error| format!(": {error}"));
        Err(Failure::Director(format!(
            "no {UDP_PORTS} source ports in a row are free above {FIRST_BLOCK}{why}"
        )))
    }

    /// The lowest.
    pub(super) fn first(&self) -> u16 {
        self.first
    }

    /// A port for a connection; others may have it too.
    pub(super) fn next_tcp(&self) -> u16 {
        self.first + self.tcp.fetch_add(1, Ordering::Relaxed) % TCP_PORTS
    }

    /// A port for a datagram and its answer.
    pub(super) fn take_udp(&self) -> Result<UdpPort, Failure> {
        let taken = self.udp.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let number = taken.ok_or_else(|| {
            Failure::Director(format!(
                "more than {UDP_PORTS} UDP checks by the service's path wait for an answer"
            ))
        })?;
        Ok(UdpPort { number, free: self.udp.clone() })
    }
}

/// A port in use; free again when dropped.
#[derive(Debug)]
pub(super) struct UdpPort {
    number: u16,
    free: Arc<Mutex<VecDeque<u16>>>,
}

impl UdpPort {
    /// Its number.
    pub(super) fn number(&self) -> u16 {
        self.number
    }
}

impl Drop for UdpPort {
    fn drop(&mut self) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push_back(self.number);
    }
}

/// The ports of whole connections.
#[derive(Debug)]
pub(super) struct StreamPorts {
    free: Arc<Mutex<VecDeque<u16>>>,
    turns: Arc<Semaphore>,
    _held: Vec<Socket>,
}

impl StreamPorts {
    /// Holds those of a block that are not in use.
    pub(super) fn hold(family: IpAddr, first: u16) -> Result<Self, Failure> {
        let wanted = first + TCP_PORTS..=first + (UDP_PORTS - 1);
        let held = wanted.filter_map(|port| {
            let socket = hold_port(family, Type::STREAM, port).ok()?;
            Some((port, socket))
        });
        let (free, held): (VecDeque<u16>, Vec<Socket>) = held.unzip();
        if free.is_empty() {
            let why = format!("none of {STREAM_PORTS} source ports from {first} on could be had");
            return Err(Failure::Director(format!("{why}; raise LimitNOFILE")));
        }
        let turns = Arc::new(Semaphore::new(free.len()));
        Ok(StreamPorts { free: Arc::new(Mutex::new(free)), turns, _held: held })
    }

    /// A port that no other connection has, as soon as there is one.
    pub(super) async fn take(&self, deadline: Deadline) -> Result<StreamPort, Failure> {
        let turn = async {
            let gone = |_| Failure::Director("no source ports".to_owned());
            self.turns.clone().acquire_owned().await.map_err(gone)
        };
        let turn = deadline.within("source port", turn).await.map_err(|_| {
            Failure::Director(format!(
                "{STREAM_PORTS} connections of checks by the service's path are open already"
            ))
        })?;
        let taken = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let number = taken.ok_or_else(|| Failure::Director("no source ports".to_owned()))?;
        Ok(StreamPort { number, free: self.free.clone(), _turn: turn })
    }
}

/// A port in use; the last to be used again when dropped.
#[derive(Debug)]
pub(super) struct StreamPort {
    number: u16,
    free: Arc<Mutex<VecDeque<u16>>>,
    _turn: OwnedSemaphorePermit,
}

impl StreamPort {
    /// Its number.
    pub(super) fn number(&self) -> u16 {
        self.number
    }
}

impl Drop for StreamPort {
    fn drop(&mut self) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push_back(self.number);
    }
}

fn hold_block(family: IpAddr, first: u16) -> std::io::Result<Vec<Socket>> {
    let udp = (first..=first + (UDP_PORTS - 1)).map(|port| hold_port(family, Type::DGRAM, port));
    let tcp = (first..first + TCP_PORTS).map(|port| hold_port(family, Type::STREAM, port));
    udp.chain(tcp).collect()
}

fn hold_port(family: IpAddr, kind: Type, port: u16) -> std::io::Result<Socket> {
    let (domain, any): (_, IpAddr) = match family {
        IpAddr::V4(_) => (Domain::IPV4, Ipv4Addr::UNSPECIFIED.into()),
        IpAddr::V6(_) => (Domain::IPV6, Ipv6Addr::UNSPECIFIED.into()),
    };
    let socket = Socket::new(domain, kind, None)?;
    if family.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_recv_buffer_size(RECEIVE_BYTES)?;
    socket.bind(&SocketAddr::new(any, port).into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_held_given_out_in_turn_and_come_back_last() {
        let ports = Ports::hold(Ipv4Addr::LOCALHOST.into()).unwrap();
        let all: Vec<UdpPort> = (0..UDP_PORTS).map(|_| ports.take_udp().unwrap()).collect();
        assert_eq!(all[0].number(), ports.first());
        assert_eq!(ports.first() % UDP_PORTS, 0, "the filter looks at the high bits");
        assert!(ports.take_udp().unwrap_err().to_string().contains("more than 256"));
        for number in [ports.first(), ports.first() + (UDP_PORTS - 1)] {
            let taken = std::net::UdpSocket::bind(("127.0.0.1", number));
            assert_eq!(taken.unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
        }
        let freed = all[7].number();
        drop(all);
        assert!((0..UDP_PORTS - 1).all(|_| ports.take_udp().is_ok()));
        assert!(ports.udp.lock().unwrap().contains(&freed));
        // Another family's, or another process's, are other ones.
        assert!(Ports::hold(Ipv4Addr::LOCALHOST.into()).unwrap().first() != ports.first());
    }
}
