//! A whole TCP connection by the service's path, for checks that speak: smoltcp is the director's
//! end of it, since the kernel cannot have one with an address that it holds itself. Its packets
//! leave by `send` and come back by `hear`, like all others of this folder.
//!
//! A connection that the server ended first is ended by a reset: the server would keep it in
//! TIME_WAIT and refuse the next one from the same port, of which there are few. By then the
//! server's program has closed it. Any other ends in order.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant as Moment;
use smoltcp::wire::{HardwareAddress, IpCidr};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::super::{Failure, Target, random};
use super::hear::Answer;
use super::{TTL, send, unfit};

/// Largest packet either way: what IPv6 asks of every link, and a tunnel fits around it.
const MTU: usize = 1280;
const RECEIVE_BYTES: usize = 32 << 10;
const SEND_BYTES: usize = 8 << 10;
/// How long the end of a connection may take that its check is done with.
const LINGER: Duration = Duration::from_secs(1);
/// Between two looks at a connection of which nothing is awaited.
const IDLE: Duration = Duration::from_secs(1);
/// The least between two looks.
const TICK: Duration = Duration::from_millis(1);

/// Where a connection's packets go and come from, and what is held as long as it lasts.
pub(super) struct Line<P> {
    pub target: Target,
    /// The director's address and port.
    pub own: SocketAddr,
    pub vip: SocketAddr,
    pub inbox: mpsc::Receiver<Answer>,
    pub _place: P,
}

/// Opens a connection; whoever asks gives up when it takes too long.
pub(super) async fn open<P: Send + 'static>(line: Line<P>) -> Result<Stream, Failure> {
    let vip = line.vip;
    let mut talk = Talk::new(line)?;
    loop {
        talk.turn()?;
        match talk.socket().state() {
            State::SynSent => {}
            State::Closed => {
                return Err(Failure::Answer(format!(
                    "connection to {vip} refused: the server holds the address, but nobody listens"
                )));
            }
            _ => break,
        }
        let rest = talk.rest();
        match timeout(rest, talk.line.inbox.recv()).await {
            Ok(Some(Answer::Segment(packet))) => talk.wire.inbox.push_back(packet),
            Ok(Some(error)) => return Err(unfit(&error, vip)),
            Ok(None) => return Err(Failure::Director("the packet socket is gone".to_owned())),
            Err(_) => {}
        }
    }
    let (near, far) = tokio::io::duplex(SEND_BYTES);
    let was_reset = Arc::new(AtomicBool::new(false));
    tokio::spawn(talk.carry(far, was_reset.clone()));
    Ok(Stream { near, was_reset })
}

/// An open connection.
pub(in crate::control::health::probe) struct Stream {
    near: DuplexStream,
    was_reset: Arc<AtomicBool>,
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let filled = buffer.filled().len();
        let read = Pin::new(&mut self.near).poll_read(context, buffer);
        let is_end = matches!(read, Poll::Ready(Ok(()))) && buffer.filled().len() == filled;
        match is_end && self.was_reset.load(Ordering::Acquire) {
            true => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            false => read,
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.near).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.near).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.near).poll_shutdown(context)
    }
}

/// What smoltcp takes for an interface: packets that came, and those that are to go.
#[derive(Default)]
struct Wire {
    inbox: VecDeque<Vec<u8>>,
    outbox: Vec<Vec<u8>>,
}

struct Received(Vec<u8>);
struct Sent<'w>(&'w mut Vec<Vec<u8>>);

impl smoltcp::phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

impl smoltcp::phy::TxToken for Sent<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        let mut packet = vec![0; length];
        let result = write(&mut packet);
        self.0.push(packet);
        result
    }
}

impl Device for Wire {
    type RxToken<'w> = Received;
    type TxToken<'w> = Sent<'w>;

    fn receive(&mut self, _: Moment) -> Option<(Received, Sent<'_>)> {
        Some((Received(self.inbox.pop_front()?), Sent(&mut self.outbox)))
    }

    fn transmit(&mut self, _: Moment) -> Option<Sent<'_>> {
        Some(Sent(&mut self.outbox))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU;
        // A packet socket sees packets of this very host before their checksum is written; those of
        // others a NIC has judged.
        let mut sums = ChecksumCapabilities::default();
        (sums.ipv4, sums.tcp) = (Checksum::Tx, Checksum::Tx);
        capabilities.checksum = sums;
        capabilities
    }
}

/// One connection and all that it needs.
struct Talk<P> {
    line: Line<P>,
    wire: Wire,
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
}

impl<P: Send + 'static> Talk<P> {
    /// About to send its SYN.
    fn new(line: Line<P>) -> Result<Self, Failure> {
        let mut wire = Wire::default();
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = random();
        let mut interface = Interface::new(config, &mut wire, Moment::now());
        let (own, bits) = (line.own.ip(), if line.own.is_ipv4() { 32 } else { 128 });
        // There is room for one address and one route.
        interface.update_ip_addrs(|all| {
            let _ = all.push(IpCidr::new(own.into(), bits));
        });
        match own {
            IpAddr::V4(own) => drop(interface.routes_mut().add_default_ipv4_route(own)),
            IpAddr::V6(own) => drop(interface.routes_mut().add_default_ipv6_route(own)),
        }
        let buffer = |bytes| SocketBuffer::new(vec![0; bytes]);
        let mut socket = Socket::new(buffer(RECEIVE_BYTES), buffer(SEND_BYTES));
        socket.set_nagle_enabled(false);
        socket.set_hop_limit(Some(TTL));
        let begun = socket.connect(interface.context(), line.vip, line.own);
        begun.map_err(|error| {
            Failure::Director(format!("no connection to {}: {error}", line.vip))
        })?;
        let mut sockets = SocketSet::new(Vec::new());
        let handle = sockets.add(socket);
        Ok(Talk { line, wire, interface, sockets, handle })
    }

    fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    /// Takes what came, and sends what is due.
    fn turn(&mut self) -> Result<(), Failure> {
        self.interface.poll(Moment::now(), &mut self.wire, &mut self.sockets);
        let target = &self.line.target;
        self.wire.outbox.drain(..).try_for_each(|packet| send::to_server(target, &packet))
    }

    /// Until when nothing is due.
    fn rest(&mut self) -> Duration {
        let rest = self.interface.poll_delay(Moment::now(), &self.sockets);
        rest.map_or(IDLE, |rest| Duration::from_micros(rest.total_micros())).max(TICK)
    }

    /// Carries bytes between the connection and the check, to the end of both.
    async fn carry(mut self, far: DuplexStream, was_reset: Arc<AtomicBool>) {
        let (mut from_check, mut to_check) = tokio::io::split(far);
        let (mut heard, mut said) = (Vec::new(), [0; 2048]);
        // Until when the end may take, once the check is done.
        let mut end: Option<Instant> = None;
        let (mut has_ended, mut is_told) = (false, false);
        loop {
            // What is lost is sent again.
            let _ = self.turn();
            let socket = self.socket();
            let state = socket.state();
            has_ended |= matches!(state, State::CloseWait | State::LastAck | State::Closing);
            if heard.is_empty() {
                heard = receive(socket);
            }
            if end.is_some() {
                heard.clear();
            }
            let is_over = end.is_some_and(|end| has_ended || end <= Instant::now());
            if is_over || matches!(state, State::Closed | State::TimeWait) {
                was_reset.store(state == State::Closed && !has_ended, Ordering::Release);
                socket.abort();
                let _ = self.turn();
                return;
            }
            if heard.is_empty() && has_ended && !socket.can_recv() && !is_told {
                is_told = true;
                let _ = to_check.shutdown().await;
            }
            let room = said.len().min(socket.send_capacity() - socket.send_queue());
            let wake = Instant::now() + self.rest();
            tokio::select! {
                answer = self.line.inbox.recv() => match answer {
                    Some(Answer::Segment(packet)) => self.wire.inbox.push_back(packet),
                    // An error about a packet of an open connection: TCP is patient.
                    Some(_) => {}
                    None => return,
                },
                read = from_check.read(&mut said[..room]), if end.is_none() && room > 0 => {
                    match read {
                        Ok(count @ 1..) => drop(self.socket().send_slice(&said[..count])),
                        _ => {
                            end = Some(Instant::now() + LINGER);
                            if !has_ended {
                                self.socket().close();
                            }
                        }
                    }
                }
                written = to_check.write(&heard), if !heard.is_empty() => match written {
                    Ok(count) => drop(heard.drain(..count)),
                    Err(_) => heard.clear(),
                },
                () = sleep_until(end.map_or(wake, |end| end.min(wake))) => {}
            }
        }
    }
}

/// What has come in order.
fn receive(socket: &mut Socket<'_>) -> Vec<u8> {
    if !socket.can_recv() {
        return Vec::new();
    }
    let mut bytes = vec![0; socket.recv_queue()];
    let count = socket.recv_slice(&mut bytes).unwrap_or(0);
    bytes.truncate(count);
    bytes
}
