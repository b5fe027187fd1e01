//! A TAP device: frames in and out of the kernel through a file descriptor.
//!
//! Owns the one ioctl that makes it, which is why it lives beside the other unsafe code; DPDK's
//! own `net_tap` is not used for this, since the kernel interface is no port. Addresses, MTU and
//! link state are set over rtnetlink by `runtime`. The device goes with its last descriptor.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

/// Bytes of an interface name, its terminator included (`IFNAMSIZ`).
const NAME_BYTES: usize = libc::IFNAMSIZ;

/// Why a TAP could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The driver is missing.
    #[error("/dev/net/tun cannot be opened: {0}; load the driver with `modprobe tun`")]
    Driver(io::Error),
    /// Not a name the kernel takes.
    #[error("`{0}` is no interface name: 1 to 15 bytes without `/`, blanks or `%`")]
    Name(String),
    /// An interface of that name is there already.
    #[error(
        "interface {0} exists already, and the port of that name needs it for its kernel \
         interface; rename the port or remove the interface with `ip link delete {0}`"
    )]
    Exists(String),
    /// Anything else.
    #[error("kernel interface {name} cannot be made: {source}; it needs CAP_NET_ADMIN")]
    Create {
        /// The interface's name.
        name: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// One TAP device, non-blocking, without packet information in front of frames and without
/// offloads: the kernel fills every checksum in before a frame leaves here.
#[derive(Debug)]
pub struct Tap {
    file: File,
    name: String,
}

impl Tap {
    /// Makes a new interface called `name`.
    pub fn create(name: &str) -> Result<Self, TapError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")
            .map_err(TapError::Driver)?;
        let mut request = request(name).ok_or_else(|| TapError::Name(name.to_owned()))?;
        // SAFETY: TUNSETIFF reads and writes one ifreq, which `request` is; the descriptor is open.
        let code = unsafe {
            libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&file), libc::TUNSETIFF, &mut request)
        };
        if code == 0 {
            return Ok(Tap { file, name: name.to_owned() });
        }
        let source = io::Error::last_os_error();
        let name = name.to_owned();
        Err(match source.raw_os_error() {
            // EBUSY: a TAP. EINVAL: an interface of another kind.
            Some(libc::EBUSY | libc::EEXIST | libc::EINVAL) => TapError::Exists(name),
            _ => TapError::Create { name, source },
        })
    }

    /// The interface's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Takes one frame that the kernel sent, `None` when there is none. A frame longer than
    /// `into` is cut.
    pub fn receive(&self, into: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match (&self.file).read(into) {
                Ok(len) => return Ok(Some(len)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives the kernel one frame. The kernel refuses while the interface is down.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        loop {
            match (&self.file).write(frame) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn request(name: &str) -> Option<libc::ifreq> {
    let bytes = name.as_bytes();
    let allowed = |byte: &u8| byte.is_ascii_graphic() && !b"/%:".contains(byte);
    if bytes.is_empty() || bytes.len() >= NAME_BYTES || !bytes.iter().all(allowed) {
        return None;
    }
    // SAFETY: ifreq is plain C data, for which all zeros is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(bytes) {
        *to = *from as libc::c_char;
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_TUN_EXCL;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    Some(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_the_kernel_would_bend_are_refused() {
        for name in ["", "a-name-of-sixteen", "a/b", "tap%d", "with blank", "ä"] {
            assert!(matches!(Tap::create(name), Err(TapError::Name(_))), "{name}");
        }
    }
}
