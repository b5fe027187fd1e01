//! Checks by the service's own path: a packet as a client's comes to the server of a DR or TUN
//! service, so that a server without the virtual address is found out.
//!
//! The client is the director itself. A packet from its address to the VIP goes to the server by a
//! raw socket (`send`); the server answers straight to the director. The kernel cannot be asked for
//! that answer: it comes from an address of its own, the VIP, and is dropped as a martian in IPv4
//! and reset in IPv6. A packet socket sees it before (`hear`). Source ports are held by sockets of
//! the kernel, so that nothing else uses them (`ports`). Checks that speak have a TCP connection of
//! their own on top (`stream`). Gyre's workers see nothing special: what
//! the kernel sends leaves by its interface, and a packet to the director's address is the
//! kernel's.
//!
//! Packets have TTL 1: a server without the VIP that forwards would otherwise send the packet back
//! to the director, which would balance it, and another server's answer would pass for this one's.

mod hear;
mod ports;
mod send;
mod stream;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::HashMap;
use tokio::sync::{OnceCell, mpsc, oneshot};
use tokio::task::JoinSet;

use super::{Check, Deadline, Failure, Target, random};
use crate::model::ForwardMode;
use crate::model::check::{CheckKind, CheckWay};
use crate::wire::build::{IpBuilder, PacketBuilder};
use crate::wire::tcp::{TcpFlags, TcpOption};
use hear::{Answer, Ear, Key};
use ports::{Ports, StreamPort, StreamPorts};
use stream::{Line, Stream};

/// MSS that is offered: the least that Ethernet has with a tunnel around.
const MSS: u16 = 1220;
/// See the file's head.
const TTL: u8 = 1;
/// Packets of a whole connection that may wait for it.
const SEGMENTS_MAX: usize = 64;

/// Clients of services, one a family; set up when the first check needs them.
#[derive(Debug, Default)]
pub(super) struct Clients {
    v4: OnceCell<Client>,
    v6: OnceCell<Client>,
}

impl Clients {
    /// The virtual address, if the check is to take the service's path and that is another than
    /// the server's.
    pub(super) fn vip_of(check: &Check) -> Option<SocketAddr> {
        let has_path = matches!(check.target.mode, ForwardMode::DirectRoute | ForwardMode::Tunnel);
        let can = matches!(
            check.spec.kind,
            CheckKind::Tcp
                | CheckKind::Http(_)
                | CheckKind::Smtp { .. }
                | CheckKind::Udp { .. }
                | CheckKind::Dns { .. }
        );
        let wanted = check.spec.way == CheckWay::Service && has_path && can;
        check.target.vip.filter(|_| wanted)
    }

    /// The beginning of a connection: good when the server agrees to it.
    pub(super) async fn open(
        &self,
        vip: SocketAddr,
        target: &Target,
        deadline: Deadline,
    ) -> Result<(), Failure> {
        let client = self.client(vip).await?;
        let own = send::own_address(target, vip)?;
        let src_port = client.ports.next_tcp();
        let mut wait = client.wait(Key::Syn, vip)?;
        let isn = wait.isn(client.magic);
        let builder = || Ok::<_, Failure>(packet(own, vip.ip())?.tcp(src_port, vip.port()));
        let syn = builder()?.seq(isn).flags(TcpFlags::SYN).option(TcpOption::Mss(MSS));
        send::to_server(target, &syn.build())?;
        match deadline.within("answer to a SYN", wait.answer()).await {
            Ok(Answer::SynAck) => {
                let reset = builder()?.seq(isn.wrapping_add(1)).flags(TcpFlags::RST);
                // The server gives up by itself if this does not reach it.
                let _ = send::to_server(target, &reset.build());
                Ok(())
            }
            Ok(Answer::Reset) => Err(Failure::Answer(format!(
                "connection to {vip} refused: the server holds the address, but nobody listens"
            ))),
            Ok(other) => Err(unfit(&other, vip)),
            Err(Failure::Timeout { timeout_ms, .. }) => {
                Err(silence(format_args!("a SYN for {vip}"), timeout_ms))
            }
            Err(failure) => Err(failure),
        }
    }

    /// A whole connection.
    pub(super) async fn connect(
        &self,
        vip: SocketAddr,
        target: &Target,
        deadline: Deadline,
    ) -> Result<Stream, Failure> {
        let client = self.client(vip).await?;
        let own = send::own_address(target, vip)?;
        let (place, inbox) = client.place(vip, deadline).await?;
        let own = SocketAddr::new(own, place.port.number());
        let line = Line { target: target.clone(), own, vip, inbox, _place: place };
        match deadline.within("answer to a SYN", stream::open(line)).await {
            Err(Failure::Timeout { timeout_ms, .. }) => {
                Err(silence(format_args!("a SYN for {vip}"), timeout_ms))
            }
            other => other,
        }
    }

    /// A datagram, and the answer to it. `Failure::Timeout` when there is none.
    pub(super) async fn ask(
        &self,
        vip: SocketAddr,
        target: &Target,
        (payload, awaited): (&[u8], &'static str),
        deadline: Deadline,
    ) -> Result<Vec<u8>, Failure> {
        let client = self.client(vip).await?;
        let own = send::own_address(target, vip)?;
        let port = client.ports.take_udp()?;
        let mut wait = client.wait(|_| Key::Port(port.number()), vip)?;
        let datagram = packet(own, vip.ip())?.udp(port.number(), vip.port()).payload(payload);
        send::to_server(target, &datagram.build())?;
        match deadline.within(awaited, wait.answer()).await? {
            Answer::Datagram(bytes) => Ok(bytes),
            other => Err(unfit(&other, vip)),
        }
    }

    async fn client(&self, vip: SocketAddr) -> Result<&Client, Failure> {
        let cell = if vip.is_ipv4() { &self.v4 } else { &self.v6 };
        cell.get_or_try_init(async || Client::new(vip.ip())).await
    }
}

/// Why a silent server may be silent.
pub(super) fn silence(what: impl std::fmt::Display, timeout_ms: u32) -> Failure {
    Failure::Answer(format!(
        "no answer within {timeout_ms} ms to {what}: does the server hold that address on lo, and \
         no firewall drop the packet?"
    ))
}

/// An answer that is none to what was sent.
fn unfit(answer: &Answer, vip: SocketAddr) -> Failure {
    Failure::Answer(match answer {
        Answer::PortUnreachable => {
            format!("nobody listens at {vip} (ICMP port unreachable)")
        }
        Answer::Expired => format!(
            "the server does not hold {}: it tried to route the packet on (ICMP time exceeded)",
            vip.ip()
        ),
        Answer::Unreachable => {
            format!("{} is unreachable (ICMP), as the server or a router says", vip.ip())
        }
        Answer::SynAck | Answer::Reset | Answer::Datagram(_) | Answer::Segment(_) => {
            "an unfit answer".to_owned()
        }
    })
}

fn packet(own: IpAddr, vip: IpAddr) -> Result<IpBuilder, Failure> {
    let builder = PacketBuilder::new().ip(own, vip);
    // A family's addresses come from one place.
    let builder =
        builder.ok_or_else(|| Failure::Director(format!("no way from {own} to {vip}")))?;
    Ok(builder.ttl(TTL).id(random() as u16))
}

/// Who waits for an answer from a virtual address.
type Waiting = HashMap<(Key, SocketAddr), oneshot::Sender<Answer>>;

/// Who has a whole connection, by its source port: to which address, and where packets go.
type Talking = HashMap<u16, (SocketAddr, mpsc::Sender<Answer>)>;

/// One family's client.
#[derive(Debug)]
struct Client {
    /// High half of every connection's first sequence number: by it the answers are known.
    magic: u16,
    next: Mutex<u16>,
    ports: Ports,
    waiting: Arc<Mutex<Waiting>>,
    /// Held when the first check needs them.
    stream_ports: OnceCell<StreamPorts>,
    talking: Arc<Mutex<Talking>>,
    /// Hands answers out; ends with this.
    _reader: JoinSet<()>,
}

impl Client {
    fn new(family: IpAddr) -> Result<Self, Failure> {
        let magic = random() as u16;
        let ports = Ports::hold(family)?;
        let ear = Ear::open(family, magic, ports.first())?;
        let waiting = Arc::new(Mutex::new(Waiting::new()));
        let mut reader = JoinSet::new();
        let talking = Arc::new(Mutex::new(Talking::new()));
        let shared = (waiting.clone(), talking.clone());
        reader.spawn(ear.hear(move |key, vip, answer| match key {
            Key::Stream(port) => {
                let talking = locked(&shared.1);
                let inbox = talking.get(&port).filter(|(theirs, _)| *theirs == vip);
                // What finds no room is as good as lost on its way: it is sent again.
                let _ = inbox.map(|(_, inbox)| inbox.try_send(answer));
            }
            // Nobody may wait any more.
            _ => drop(locked(&shared.0).remove(&(key, vip)).map(|asker| asker.send(answer))),
        }));
        let (next, stream_ports) = (Mutex::new(0), OnceCell::new());
        Ok(Client { magic, next, ports, waiting, stream_ports, talking, _reader: reader })
    }

    /// A place for a whole connection, and where its packets come.
    async fn place(
        &self,
        vip: SocketAddr,
        deadline: Deadline,
    ) -> Result<(Place, mpsc::Receiver<Answer>), Failure> {
        let hold = async || StreamPorts::hold(vip.ip(), self.ports.first());
        let port = self.stream_ports.get_or_try_init(hold).await?.take(deadline).await?;
        let (sender, inbox) = mpsc::channel(SEGMENTS_MAX);
        locked(&self.talking).insert(port.number(), (vip, sender));
        Ok((Place { port, talking: self.talking.clone() }, inbox))
    }

    /// A place among those who wait, under a key that nobody has.
    fn wait(&self, key: impl Fn(u16) -> Key, vip: SocketAddr) -> Result<Wait, Failure> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let mut waiting = locked(&self.waiting);
        for _ in 0..=u16::MAX {
            // The number after it must have the same high half, so the last one is left out.
            *next = next.wrapping_add(1) % u16::MAX;
            let key = key(*next);
            if !waiting.contains_key(&(key, vip)) {
                let (asker, answer) = oneshot::channel();
                waiting.insert((key, vip), asker);
                return Ok(Wait { place: (key, vip), answer, waiting: self.waiting.clone() });
            }
        }
        Err(Failure::Director(format!("too many checks of {vip} at one time")))
    }
}

/// A place among those who wait; free again when dropped.
struct Wait {
    place: (Key, SocketAddr),
    answer: oneshot::Receiver<Answer>,
    waiting: Arc<Mutex<Waiting>>,
}

impl Wait {
    /// The first sequence number of a connection with this place.
    fn isn(&self, magic: u16) -> u32 {
        match self.place.0 {
            Key::Syn(number) | Key::Port(number) | Key::Stream(number) => {
                u32::from(magic) << 16 | u32::from(number)
            }
        }
    }

    async fn answer(&mut self) -> Result<Answer, Failure> {
        let ended = |_| Failure::Director("the packet socket is gone".to_owned());
        (&mut self.answer).await.map_err(ended)
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        locked(&self.waiting).remove(&self.place);
    }
}

/// A whole connection's port, to which packets come until it is dropped.
struct Place {
    port: StreamPort,
    talking: Arc<Mutex<Talking>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        locked(&self.talking).remove(&self.port.number());
    }
}

fn locked<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A socket that could not be made: what is missing.
fn refused(what: &str, error: &std::io::Error) -> Failure {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => Failure::Director(format!(
            "{what} for checks by the service's path needs CAP_NET_RAW; run gyre as root or with it"
        )),
        _ => Failure::Director(format!("{what} for checks by the service's path: {error}")),
    }
}
