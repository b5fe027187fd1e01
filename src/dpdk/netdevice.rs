//! The kernel interface below an af_packet or af_xdp port: its MTU and flags by ioctl.
//!
//! These drivers neither know the interface's link nor accept a large MTU for it (af_packet tells
//! ethdev it cannot receive more than 1518 bytes, which is not so), hence this. Everything else
//! about interfaces is control's, over netlink.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// An interface in this thread's network namespace.
pub struct NetDevice {
    socket: OwnedFd,
    name: [libc::c_char; libc::IFNAMSIZ],
}

impl NetDevice {
    /// Opens the interface `name`; fails if there is none.
    pub fn open(name: &str) -> io::Result<Self> {
        if name.is_empty() || name.len() >= libc::IFNAMSIZ {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        // SAFETY: takes no pointers.
        let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let mut chars = [0; libc::IFNAMSIZ];
        for (to, from) in chars.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        let device = NetDevice { socket, name: chars };
        device.flags()?;
        Ok(device)
    }

    /// MTU in bytes.
    pub fn mtu(&self) -> io::Result<u32> {
        let mut request = self.request();
        self.ioctl(libc::SIOCGIFMTU, &mut request)?;
        // SAFETY: SIOCGIFMTU fills this member.
        Ok(unsafe { request.ifr_ifru.ifru_mtu } as u32)
    }

    /// Sets the MTU in bytes.
    pub fn set_mtu(&self, mtu: u16) -> io::Result<()> {
        let mut request = self.request();
        request.ifr_ifru.ifru_mtu = libc::c_int::from(mtu);
        self.ioctl(libc::SIOCSIFMTU, &mut request)
    }

    /// Whether the interface is administratively up.
    pub fn is_up(&self) -> io::Result<bool> {
        Ok(self.flags()? & libc::IFF_UP != 0)
    }

    /// Whether it is up and has a carrier.
    pub fn is_running(&self) -> io::Result<bool> {
        let both = libc::IFF_UP | libc::IFF_RUNNING;
        Ok(self.flags()? & both == both)
    }

    /// Sets it administratively up.
    pub fn set_up(&self) -> io::Result<()> {
        let mut request = self.request();
        request.ifr_ifru.ifru_flags = (self.flags()? | libc::IFF_UP) as libc::c_short;
        self.ioctl(libc::SIOCSIFFLAGS, &mut request)
    }

    fn flags(&self) -> io::Result<libc::c_int> {
        let mut request = self.request();
        self.ioctl(libc::SIOCGIFFLAGS, &mut request)?;
        // SAFETY: SIOCGIFFLAGS fills this member.
        Ok(libc::c_int::from(unsafe { request.ifr_ifru.ifru_flags }) & 0xffff)
    }

    fn request(&self) -> libc::ifreq {
        // SAFETY: ifreq is plain data, for which all zeroes is valid.
        let mut request: libc::ifreq = unsafe { mem::zeroed() };
        request.ifr_name = self.name;
        request
    }

    fn ioctl(&self, number: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
        // SAFETY: the three requests used here read and write one ifreq.
        match unsafe { libc::ioctl(self.socket.as_raw_fd(), number, request) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Whether this process may open packet sockets.
pub fn may_open_packet_sockets() -> bool {
    // SAFETY: takes no pointers.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return false;
    }
    // SAFETY: the descriptor is new and nobody else's.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_answers_and_an_absent_interface_does_not() {
        let loopback = NetDevice::open("lo").unwrap();
        assert!(loopback.mtu().unwrap() >= 1500);
        loopback.is_up().unwrap();
        for absent in ["gyre-absent0", "", "a-name-that-is-too-long"] {
            assert!(NetDevice::open(absent).is_err(), "{absent}");
        }
    }
}
