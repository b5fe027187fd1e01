//! The task between the kernel and `NextHops`: reads messages, dumps when it must, and sends the
//! keeper's requests.
//!
//! Events that arrive during a dump are told after it, in their order and without a gap. Each says
//! how one object is from then on, so telling one that the dump had already seen does no harm.

use std::io;
use std::time::{Duration, Instant};

use futures::channel::mpsc::UnboundedReceiver;
use futures::{FutureExt, StreamExt};
use netlink_packet_core::{NLM_F_REPLACE, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::sys::{AsyncSocket, SocketAddr};
use rtnetlink::{Handle, MulticastGroup, new_connection, new_multicast_connection};
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::model::next_hops::{KernelEvent, Knowledge};

use super::keeper::{Keeper, Request};
use super::translate::{Placing, Translator};
use super::{Command, NetlinkError, requests};
use crate::limits::{NETLINK_EVENTS_WAITING_MAX, NETLINK_MESSAGES_PER_BATCH_MAX};

/// Receive buffer asked for, bytes; the kernel gives what `net.core.rmem_max` allows.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;
/// Between the first sign that routes changed unannounced and the dump that shows how.
const ROUTES_PAUSE: Duration = Duration::from_millis(100);
/// Between two tries to open the socket or to dump.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

type Messages = UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>;

#[derive(Debug)]
pub(super) struct Watch {
    translator: Translator,
    keeper: Keeper,
    kernel: Messages,
    /// Requests have a socket of their own, so that dumps do not fill the buffer of messages.
    asks: Handle,
    batches: mpsc::Sender<Vec<KernelEvent>>,
    waiting: Vec<KernelEvent>,
    /// How many of `waiting` came one by one.
    waiting_live: usize,
    /// When everything is to be read again.
    resync_at: Option<Instant>,
    /// When routes are to be read again, and not before when.
    routes_at: Option<Instant>,
    routes_rest_until: Instant,
    denied: bool,
}

/// Why the task ends.
enum End {
    /// Nobody holds a handle or takes batches any more.
    Unused,
    /// It was told to.
    Stopped(tokio::sync::oneshot::Sender<()>),
}

impl Watch {
    /// Subscribes first, then dumps: nothing falls in between.
    pub(super) async fn open(
        interfaces: &[String],
        batches: mpsc::Sender<Vec<KernelEvent>>,
    ) -> Result<Self, NetlinkError> {
        let (kernel, asks) = open_sockets().map_err(NetlinkError::Open)?;
        let mut watch = Watch {
            translator: Translator::new(interfaces),
            keeper: Keeper::default(),
            kernel,
            asks,
            batches,
            waiting: Vec::new(),
            waiting_live: 0,
            resync_at: None,
            routes_at: None,
            routes_rest_until: Instant::now(),
            denied: false,
        };
        watch.resync().await?;
        let first = std::mem::take(&mut watch.waiting);
        // The channel is new and has room.
        let _ = watch.batches.try_send(first);
        Ok(watch)
    }

    pub(super) async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Command>) {
        let end = self.turn_until_end(&mut inbox).await;
        for request in self.keeper.release_all() {
            self.send(request).await;
        }
        if let End::Stopped(done) = end {
            let _ = done.send(());
        }
    }

    async fn turn_until_end(&mut self, inbox: &mut mpsc::UnboundedReceiver<Command>) -> End {
        let batches = self.batches.clone();
        loop {
            let due = self.next_due();
            tokio::select! {
                message = self.kernel.next() => self.receive(message).await,
                command = inbox.recv() => match command {
                    None => return End::Unused,
                    Some(Command::Stop(done)) => return End::Stopped(done),
                    Some(command) => self.obey(command),
                },
                permit = batches.reserve(), if !self.waiting.is_empty() => match permit {
                    Err(_) => return End::Unused,
                    Ok(permit) => {
                        self.waiting_live = 0;
                        permit.send(std::mem::take(&mut self.waiting));
                    }
                },
                () = sleep_until(due) => self.act().await,
            }
        }
    }

    fn next_due(&self) -> Option<Instant> {
        [self.resync_at, self.routes_at, self.keeper.next_due()].into_iter().flatten().min()
    }

    fn obey(&mut self, command: Command) {
        let now = Instant::now();
        match command {
            Command::Want(keys) => self.keeper.want(&keys, now),
            Command::Resolve(ifindex, address) => self.keeper.hurry((ifindex, address), now),
            Command::Stop(_) => {}
        }
    }

    /// Does what is due.
    async fn act(&mut self) {
        let now = Instant::now();
        if self.resync_at.is_some_and(|at| at <= now) {
            self.resync_at = None;
            if let Err(error) = self.resync().await {
                warn!("netlink: {error}; trying again");
                self.resync_at = Some(Instant::now() + RETRY_PAUSE);
            }
        } else if self.routes_at.is_some_and(|at| at <= now) {
            self.routes_at = None;
            if let Err(error) = self.read_routes().await {
                warn!("netlink: {error}; trying again");
                self.routes_at = Some(Instant::now() + RETRY_PAUSE);
            }
        }
        for request in self.keeper.take_due(Instant::now()) {
            self.send(request).await;
        }
    }

    async fn send(&mut self, request: Request) {
        let Err(error) = requests::send(&self.asks, request).await else { return };
        // Whatever else it is (the interface went, the table is full), the keeper asks again.
        if error.raw_os_error() == Some(libc::EPERM) && !self.denied {
            self.denied = true;
            warn!(
                "the kernel refuses to resolve neighbours for gyre, so servers may stay \
                 unreachable; run gyre as root or with CAP_NET_ADMIN"
            );
        }
    }

    async fn receive(&mut self, first: Option<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>) {
        let mut next = first;
        let from = self.waiting.len();
        for _ in 0..NETLINK_MESSAGES_PER_BATCH_MAX {
            let Some((message, _)) = next else {
                warn!("netlink: the socket ended; opening another");
                return self.reopen().await;
            };
            if let NetlinkPayload::Overrun(_) = message.payload {
                // What still waits in this socket is from before the loss and from after it; told
                // after the dump, it would bring back what the lost messages took away.
                info!("netlink: messages were lost; reading everything again");
                return self.reopen().await;
            }
            self.take(message);
            match self.kernel.next().now_or_never() {
                Some(message) => next = message,
                None => break,
            }
        }
        let now = Instant::now();
        self.keeper.observe(&self.waiting[from..], now);
        self.waiting_live += self.waiting.len() - from;
        if self.waiting_live > NETLINK_EVENTS_WAITING_MAX {
            self.waiting = Vec::new();
            self.waiting_live = 0;
            self.resync_at = Some(now);
        }
        if self.translator.take_doubt() {
            let at = self.routes_rest_until.max(now + ROUTES_PAUSE);
            self.routes_at = Some(self.routes_at.map_or(at, |before| before.min(at)));
        }
    }

    fn take(&mut self, message: NetlinkMessage<RouteNetlinkMessage>) {
        if let NetlinkPayload::InnerMessage(inner) = message.payload {
            let instead = message.header.flags & NLM_F_REPLACE != 0;
            let placing = if instead { Placing::Instead } else { Placing::Beside };
            self.waiting.extend(self.translator.translate(&inner, placing));
        }
    }

    /// Begins anew: an empty socket, then (by `resync_at`) a dump.
    async fn reopen(&mut self) {
        loop {
            match open_sockets() {
                Ok((kernel, asks)) => {
                    (self.kernel, self.asks) = (kernel, asks);
                    self.resync_at = Some(Instant::now());
                    return;
                }
                Err(error) => warn!("netlink: {}; trying again", NetlinkError::Open(error)),
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// Reads everything anew; what waited to be told is part of it.
    async fn resync(&mut self) -> Result<(), NetlinkError> {
        let links = requests::links(&self.asks).await?;
        let addresses = requests::addresses(&self.asks).await?;
        let routes = requests::routes(&self.asks).await?;
        let neighbours = requests::neighbours(&self.asks).await?;
        self.translator.forget_links();
        self.waiting = Vec::new();
        self.waiting_live = 0;
        self.tell_dump(Knowledge::Links, &links);
        self.tell_dump(Knowledge::Addresses, &addresses);
        self.tell_dump(Knowledge::Routes, &routes);
        self.tell_dump(Knowledge::Neighbours, &neighbours);
        self.keeper.observe(&self.waiting, Instant::now());
        Ok(())
    }

    async fn read_routes(&mut self) -> Result<(), NetlinkError> {
        let begun = Instant::now();
        let routes = requests::routes(&self.asks).await?;
        self.tell_dump(Knowledge::Routes, &routes);
        // A full table on a host whose interfaces come and go must not be all we do.
        self.routes_rest_until = Instant::now() + 10 * begun.elapsed();
        Ok(())
    }

    fn tell_dump(&mut self, knowledge: Knowledge, rows: &[RouteNetlinkMessage]) {
        self.waiting.push(KernelEvent::Forget(knowledge));
        let events = rows.iter().filter_map(|row| self.translator.translate(row, Placing::Beside));
        self.waiting.extend(events);
    }
}

fn open_sockets() -> Result<(Messages, Handle), io::Error> {
    let (mut connection, _, kernel) = new_multicast_connection(&[
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
        MulticastGroup::Neigh,
    ])?;
    connection.socket_mut().socket_ref().set_rx_buf_sz(RECEIVE_BUFFER_BYTES)?;
    tokio::spawn(connection);
    let (connection, asks, _) = new_connection()?;
    tokio::spawn(connection);
    Ok((kernel, asks))
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
