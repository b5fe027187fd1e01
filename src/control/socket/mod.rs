//! The control socket: accepts clients, reads lines, writes replies. What a request means is the
//! core's business; this only carries it there and back.

mod bind;
mod client;
mod lines;

use std::time::Duration;

use tokio::net::UnixListener;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, warn};

pub use bind::BoundSocket;
pub use lines::{LineBuffer, TooLong};

use super::answer::Caller;
use super::http::Api;
use super::stop::Stop;
use crate::limits::{CONTROL_CLIENTS_MAX, REQUEST_BYTES_MAX};

/// How long clients have to take their last reply when gyre stops.
const FAREWELL: Duration = Duration::from_secs(1);
/// Pause after `accept` failed, usually for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Bounds on what clients may do.
#[derive(Clone, Copy, Debug)]
pub struct SocketLimits {
    /// Bytes of one line, newline included.
    pub request_bytes_max: usize,
    /// Clients at one time.
    pub clients_max: usize,
    /// How long the rest of a begun line may take.
    pub partial_max: Duration,
    /// How long a client may take to accept a reply.
    pub write_max: Duration,
}

impl Default for SocketLimits {
    fn default() -> Self {
        SocketLimits {
            request_bytes_max: REQUEST_BYTES_MAX,
            clients_max: CONTROL_CLIENTS_MAX,
            partial_max: Duration::from_secs(30),
            write_max: Duration::from_secs(10),
        }
    }
}

/// Serves clients until `stop`, each in a task of its own.
pub async fn serve(listener: UnixListener, limits: SocketLimits, api: Api, stop: Stop) {
    let mut clients = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = clients.join_next(), if !clients.is_empty() => continue,
            () = stop.requested() => break,
        };
        match accepted {
            Ok((stream, _)) if clients.len() >= limits.clients_max => {
                warn!(clients_max = limits.clients_max, "control socket: client turned away");
                clients.spawn(client::turn_away(stream, limits));
            }
            Ok((stream, _)) => {
                let caller = Caller {
                    core: api.core.clone(),
                    listener: Some(api.notices.listener()),
                    latencies: api.latencies.clone(),
                };
                let stop = stop.clone();
                clients.spawn(async move {
                    if let Err(error) = client::serve(stream, limits, caller, stop).await {
                        debug!(%error, "control socket: client lost");
                    }
                });
            }
            Err(error) => {
                warn!(%error, "control socket: accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let last = async { while clients.join_next().await.is_some() {} };
    let _ = timeout(FAREWELL, last).await;
}
