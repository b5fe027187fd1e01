//! What may keep control from starting or end it.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::api::ApiError;
use super::netlink::NetlinkError;

/// A fault at start-up; the message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Health checks have no thread.
    #[error(transparent)]
    Checks(#[from] super::health::runner::RunnerError),
    /// A running gyre listens there.
    #[error(
        "control socket {}: a running process{} serves it; stop that one or set another \
         `runtime.control_socket`",
        path.display(),
        pid.map_or(String::new(), |pid| format!(" (pid {pid})"))
    )]
    SocketInUse {
        /// The socket's path.
        path: PathBuf,
        /// The process that listens, where the kernel tells.
        pid: Option<i32>,
    },
    /// Something that is no socket has the path.
    #[error(
        "control socket {}: a file that is no socket is there; remove it or set another \
         `runtime.control_socket`",
        path.display()
    )]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The directory cannot be made or opened.
    #[error(
        "control socket's directory {}: {error}; create it for the user that runs gyre",
        path.display()
    )]
    SocketDirectory {
        /// The directory.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Another gyre is taking a socket in the same directory and does not finish.
    #[error("{} stays locked by another process; is a second gyre starting there?", path.display())]
    DirectoryLocked {
        /// The directory.
        path: PathBuf,
    },
    /// Binding failed otherwise.
    #[error("control socket {}: {error}; see `runtime.control_socket`", path.display())]
    Socket {
        /// The socket's path.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The HTTP listener's address cannot be had.
    #[error("http.listen {address}: {error}; set another address")]
    Http {
        /// The address.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// The HTTP listener's token cannot be had.
    #[error("http.token_file {}: {what}", path.display())]
    Token {
        /// The file.
        path: PathBuf,
        /// Why.
        what: String,
    },
    /// The kernel's routes and neighbours cannot be watched.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The configuration that gyre starts with is refused.
    #[error("configuration: {0}")]
    Refused(ApiError),
    /// Control ended before it was ready.
    #[error("control ended before it was ready; the log tells why")]
    Ended,
    /// The event loop cannot start.
    #[error("the control thread cannot start: {0}")]
    Runtime(io::Error),
}
