//! Where facts about links, routes and neighbours come from, and whom to ask for more.

use std::net::IpAddr;

use tokio::sync::mpsc;

use super::ControlError;
use super::netlink::{self, NetlinkHandle};
use crate::model::next_hops::KernelEvent;

/// A wish to the kernel, as `(interface index, address)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelAsk {
    /// Resolve these neighbours and keep them fresh, and no others.
    Want(Vec<(u32, IpAddr)>),
    /// Ask for this one now.
    Resolve(u32, IpAddr),
}

/// Where facts come from.
#[derive(Debug)]
pub enum KernelSource {
    /// The kernel, by rtnetlink, in the network namespace of control's thread: what concerns
    /// these interfaces, present or yet to come, and every route.
    Netlink(Vec<String>),
    /// Nowhere: what the configuration says is all there is.
    Silent,
    /// Whoever holds the other ends.
    Channel {
        /// Batches of events.
        events: mpsc::Receiver<Vec<KernelEvent>>,
        /// Wishes.
        asks: mpsc::UnboundedSender<KernelAsk>,
    },
}

/// Facts as they come.
pub(super) type KernelEvents = mpsc::Receiver<Vec<KernelEvent>>;

/// Whom to ask.
#[derive(Debug)]
pub(super) enum KernelAsks {
    Netlink(NetlinkHandle),
    Silent,
    Channel(mpsc::UnboundedSender<KernelAsk>),
}

impl KernelSource {
    /// Begins to listen.
    pub(super) async fn start(self) -> Result<(KernelAsks, Option<KernelEvents>), ControlError> {
        match self {
            KernelSource::Netlink(interfaces) => {
                let (handle, events) = netlink::start(&interfaces).await?;
                Ok((KernelAsks::Netlink(handle), Some(events)))
            }
            KernelSource::Silent => Ok((KernelAsks::Silent, None)),
            KernelSource::Channel { events, asks } => Ok((KernelAsks::Channel(asks), Some(events))),
        }
    }
}

impl KernelAsks {
    pub(super) fn want(&self, neighbours: Vec<(u32, IpAddr)>) {
        match self {
            KernelAsks::Netlink(handle) => handle.want(neighbours),
            KernelAsks::Silent => {}
            // Nobody listens: then nobody minds.
            KernelAsks::Channel(asks) => drop(asks.send(KernelAsk::Want(neighbours))),
        }
    }

    pub(super) fn resolve(&self, ifindex: u32, address: IpAddr) {
        match self {
            KernelAsks::Netlink(handle) => handle.resolve(ifindex, address),
            KernelAsks::Silent => {}
            KernelAsks::Channel(asks) => drop(asks.send(KernelAsk::Resolve(ifindex, address))),
        }
    }

    /// Lets the neighbours age again that were kept fresh.
    pub(super) async fn stop(&self) {
        match self {
            KernelAsks::Netlink(handle) => handle.stop().await,
            KernelAsks::Silent | KernelAsks::Channel(_) => {}
        }
    }
}
