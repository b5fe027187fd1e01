//! Takes the socket's path: refuses a live gyre's, replaces a dead one's, sets its mode.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{UnixSocket, UnixStream};

use crate::control::ControlError;

/// Connections the kernel keeps for us until they are accepted.
const BACKLOG: u32 = 128;
/// How often the directory's lock is tried, and the pause between.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// A listening socket whose file goes away with it.
#[derive(Debug)]
pub struct BoundSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of our file.
    identity: (u64, u64),
}

impl BoundSocket {
    /// Binds `path` for its owner only (mode 0600).
    ///
    /// The directory is made if it is missing. A socket that nobody serves is replaced; a served
    /// one, and any file that is no socket, is left alone and is an error.
    pub fn bind(path: &Path) -> Result<Self, ControlError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .map_err(ControlError::Runtime)?;
        // Two starting at once would each find the other's path stale: one at a time.
        let _lock = lock_directory(path)?;
        runtime.block_on(clear_stale(path))?;
        let failed = |error| ControlError::Socket { path: path.into(), error };
        let listener = runtime.block_on(listen(path)).map_err(failed)?;
        let metadata = fs::symlink_metadata(path).map_err(failed)?;
        let identity = (metadata.dev(), metadata.ino());
        Ok(BoundSocket { listener, path: path.into(), identity })
    }

    /// Another handle of the listener, non-blocking.
    pub fn listener(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }

    /// Where clients find it.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for BoundSocket {
    fn drop(&mut self) {
        let is_ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity);
        if is_ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Makes the directory and locks it until the handle is dropped.
fn lock_directory(path: &Path) -> Result<File, ControlError> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let failed = |error| ControlError::SocketDirectory { path: directory.into(), error };
    fs::create_dir_all(directory).map_err(failed)?;
    let handle = File::open(directory).map_err(failed)?;
    for _ in 0..LOCK_TRIES {
        match handle.try_lock() {
            Ok(()) => return Ok(handle),
            Err(TryLockError::WouldBlock) => std::thread::sleep(LOCK_PAUSE),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
    }
    Err(ControlError::DirectoryLocked { path: directory.into() })
}

/// Removes a socket that refuses connections; finds out who serves one that does not.
async fn clear_stale(path: &Path) -> Result<(), ControlError> {
    let failed = |error| ControlError::Socket { path: path.into(), error };
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => {}
        Ok(_) => return Err(ControlError::NotASocket { path: path.into() }),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    }
    match UnixStream::connect(path).await {
        Ok(peer) => {
            let pid = peer.peer_cred().ok().and_then(|credentials| credentials.pid());
            Err(ControlError::SocketInUse { path: path.into(), pid })
        }
        // Its backlog is full, so somebody holds it open.
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            Err(ControlError::SocketInUse { path: path.into(), pid: None })
        }
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

async fn listen(path: &Path) -> io::Result<UnixListener> {
    let socket = UnixSocket::new_stream()?;
    // The file takes its mode from the socket at bind (unix(7) on Linux): there is no moment at
    // which others could connect, and the umask, which belongs to the whole process, stays.
    File::from(socket.as_fd().try_clone_to_owned()?)
        .set_permissions(fs::Permissions::from_mode(0o600))?;
    socket.bind(path)?;
    socket.listen(BACKLOG)?.into_std()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn the_socket_is_its_owners_alone_and_goes_away_with_its_server() {
        let directory = directory();
        let path = directory.path().join("new/dir/gyre.sock");
        let bound = BoundSocket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(bound);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let directory = directory();
        let path = directory.path().join("gyre.sock");
        drop(UnixListener::bind(&path).unwrap());
        let bound = BoundSocket::bind(&path).unwrap();
        let error = BoundSocket::bind(&path).unwrap_err().to_string();
        assert!(error.contains(&format!("(pid {})", std::process::id())), "{error}");
        assert!(path.exists());
        drop(bound);
    }

    #[test]
    fn other_files_are_left_alone() {
        let directory = directory();
        let path = directory.path().join("notes.txt");
        fs::write(&path, "mine").unwrap();
        let error = BoundSocket::bind(&path).unwrap_err();
        assert!(matches!(error, ControlError::NotASocket { .. }), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        let error = BoundSocket::bind(&path.join("sub/gyre.sock")).unwrap_err();
        assert!(matches!(error, ControlError::SocketDirectory { .. }), "{error}");
    }

    #[test]
    fn a_successors_socket_survives_its_predecessors_end() {
        let directory = directory();
        let path = directory.path().join("gyre.sock");
        let first = BoundSocket::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let second = BoundSocket::bind(&path).unwrap();
        drop(first);
        assert!(path.exists());
        drop(second);
    }
}
