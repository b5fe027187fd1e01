//! A client of the control socket: one request at a time, blocking.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::{RawValue, to_raw_value};

use crate::control::api::ApiError;
use crate::control::api::rpc;

/// Longer than any answer takes, a configuration of the largest size included.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why there is no answer, or that it is a refusal.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No socket.
    #[error(
        "gyre is not running at {}: start it with `gyre run -c FILE`, or name its socket with \
         --socket",
        .0.display()
    )]
    NotRunning(PathBuf),
    /// A socket that nobody serves.
    #[error(
        "gyre is not running: {} is left over from one that ended; start it with \
         `gyre run -c FILE`",
        .0.display()
    )]
    Stale(PathBuf),
    /// No socket at all.
    #[error(
        "{} is no socket: name the one of `runtime.control_socket` with --socket",
        .0.display()
    )]
    NotASocket(PathBuf),
    /// Somebody else's socket.
    #[error("{}: permission denied; run this as root or as the user gyre runs as", .0.display())]
    Permission(PathBuf),
    /// Anything else about the socket.
    #[error("{}: {error}", path.display())]
    Socket {
        /// Its path.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// No reply in time.
    #[error(
        "{}: no answer within {} s; is gyre stopped or overloaded?",
        .0.display(),
        PATIENCE.as_secs()
    )]
    Silent(PathBuf),
    /// The connection ended before the reply.
    #[error("{}: gyre closed the connection without an answer; its log may tell why", .0.display())]
    Closed(PathBuf),
    /// A reply that is none.
    #[error("{}: not an answer of gyre's: {error}", path.display())]
    Foreign {
        /// The socket's path.
        path: PathBuf,
        /// What is odd about it.
        error: serde_json::Error,
    },
    /// gyre's own refusal.
    #[error(transparent)]
    Refused(ApiError),
}

/// A connection to a running gyre.
#[derive(Debug)]
pub struct Client {
    reader: BufReader<UnixStream>,
    path: PathBuf,
}

impl Client {
    /// Connects to the socket at `path`.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => ClientError::NotRunning(path.into()),
            ErrorKind::ConnectionRefused if !is_socket(path) => {
                ClientError::NotASocket(path.into())
            }
            ErrorKind::ConnectionRefused => ClientError::Stale(path.into()),
            ErrorKind::PermissionDenied => ClientError::Permission(path.into()),
            _ => ClientError::Socket { path: path.into(), error },
        })?;
        let bounded = stream
            .set_read_timeout(Some(PATIENCE))
            .and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
        bounded.map_err(|error| ClientError::Socket { path: path.into(), error })?;
        Ok(Client { reader: BufReader::new(stream), path: path.into() })
    }

    /// Calls `method`; the result's text.
    pub fn call_raw(
        &mut self,
        method: &str,
        params: Option<&RawValue>,
    ) -> Result<Box<RawValue>, ClientError> {
        let request = rpc::write_request(method, params);
        match self.reader.get_mut().write_all(&request) {
            // A refused request may leave its reason behind before the pipe breaks.
            Err(error) if error.kind() != ErrorKind::BrokenPipe => return Err(self.failed(error)),
            _ => {}
        }
        let mut line = Vec::new();
        self.reader.read_until(b'\n', &mut line).map_err(|error| self.failed(error))?;
        if line.is_empty() {
            return Err(ClientError::Closed(self.path.clone()));
        }
        let foreign = |error| ClientError::Foreign { path: self.path.clone(), error };
        rpc::read_reply(&line).map_err(foreign)?.map_err(ClientError::Refused)
    }

    /// Calls `method` with typed parameters and result.
    pub fn call<T: DeserializeOwned>(
        &mut self,
        method: &str,
        params: &impl Serialize,
    ) -> Result<(T, Box<RawValue>), ClientError> {
        let foreign = |error| ClientError::Foreign { path: self.path.clone(), error };
        let params = to_raw_value(params).map_err(foreign)?;
        let raw = self.call_raw(method, Some(&params))?;
        let foreign = |error| ClientError::Foreign { path: self.path.clone(), error };
        Ok((serde_json::from_str(raw.get()).map_err(foreign)?, raw))
    }

    fn failed(&self, error: std::io::Error) -> ClientError {
        let path = self.path.clone();
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => ClientError::Silent(path),
            ErrorKind::ConnectionReset => ClientError::Closed(path),
            _ => ClientError::Socket { path, error },
        }
    }
}

/// The kernel refuses a connection to any other file as to a socket that nobody serves.
fn is_socket(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_file_that_is_no_socket_is_not_taken_for_a_dead_gyres() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("file"), "").unwrap();
        drop(UnixListener::bind(path("dead")).unwrap());
        let refusal = |name: &str| Client::connect(&path(name)).unwrap_err();
        assert!(matches!(refusal("file"), ClientError::NotASocket(_)));
        assert!(matches!(refusal("."), ClientError::NotASocket(_)));
        assert!(matches!(refusal("dead"), ClientError::Stale(_)));
        assert!(matches!(refusal("none"), ClientError::NotRunning(_)));
    }
}
