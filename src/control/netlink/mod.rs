//! The kernel's links, addresses, routes and neighbours by rtnetlink: subscribed, then dumped, and
//! dumped again only when the kernel says that it lost a message or is known to keep silent.
//!
//! Gives `KernelEvent` batches to whoever owns `NextHops`, and has the kernel resolve the
//! neighbours that are wanted. What events mean for next hops is not known here.

pub mod interface;
mod keeper;
mod requests;
mod translate;
mod watch;

use std::io;
use std::net::IpAddr;

use tokio::sync::{mpsc, oneshot};

use crate::model::next_hops::KernelEvent;

use crate::limits::NETLINK_BATCHES_MAX;
use watch::Watch;

/// What the kernel or the socket to it refused.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No netlink socket.
    #[error("no netlink socket: {0}; the kernel must offer NETLINK_ROUTE to this process")]
    Open(#[source] io::Error),
    /// A request failed.
    #[error("cannot {what}: {source}{}", hint(source))]
    Request {
        /// What was to be done, with the interface or address.
        what: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
}

/// A remedy where the error's name does not give it away.
fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM) => "; it takes root or CAP_NET_ADMIN in this network namespace",
        Some(libc::ENODEV) => "; the interface must exist in this network namespace",
        _ => "",
    }
}

/// What the handle asks of the task.
#[derive(Debug)]
enum Command {
    Want(Vec<(u32, IpAddr)>),
    Resolve(u32, IpAddr),
    Stop(oneshot::Sender<()>),
}

/// Asks of the kernel; cheap to clone. When the last one is dropped the task ends.
#[derive(Clone, Debug)]
pub struct NetlinkHandle {
    commands: mpsc::UnboundedSender<Command>,
}

impl NetlinkHandle {
    /// These neighbours, (interface, address), and no others are to be resolved and kept fresh:
    /// asked for again while they do not answer, and confirmed again when the kernel has not
    /// heard of them for a while, since forwarded traffic does not pass the kernel.
    pub fn want(&self, neighbours: Vec<(u32, IpAddr)>) {
        // The task is gone only when the process ends.
        let _ = self.commands.send(Command::Want(neighbours));
    }

    /// Has the kernel ask for one neighbour now, at most once a second each.
    pub fn resolve(&self, ifindex: u32, address: IpAddr) {
        let _ = self.commands.send(Command::Resolve(ifindex, address));
    }

    /// Ends the task once the kernel was told to let the wanted neighbours age again.
    pub async fn stop(&self) {
        let (done, ended) = oneshot::channel();
        if self.commands.send(Command::Stop(done)).is_ok() {
            let _ = ended.await;
        }
    }
}

/// Subscribes, dumps, and goes on reporting changes of `interfaces` (kernel names, present or yet
/// to come) and of every route. The first batch holds the whole of the dump. Must be called inside
/// a tokio runtime, on a thread of the network namespace to be watched.
pub async fn start(
    interfaces: &[String],
) -> Result<(NetlinkHandle, mpsc::Receiver<Vec<KernelEvent>>), NetlinkError> {
    let (commands, inbox) = mpsc::unbounded_channel();
    let (batches, receiver) = mpsc::channel(NETLINK_BATCHES_MAX);
    let watch = Watch::open(interfaces, batches).await?;
    tokio::spawn(watch.run(inbox));
    Ok((NetlinkHandle { commands }, receiver))
}
