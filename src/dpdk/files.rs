//! Files that DPDK and its drivers open (hugepages, devices, sockets), most of them without the
//! mark that has them closed in programs which gyre starts.

use std::io;

/// Linux close_range(2).
const CLOSE_RANGE_CLOEXEC: libc::c_uint = 1 << 2;
/// Behind standard input, output and error.
const FIRST: libc::c_uint = 3;

/// Marks all files that are open now: no program started from here on inherits any but the
/// standard three. A check's program that outlives gyre would otherwise hold the devices and keep
/// the next gyre from them.
pub fn close_on_exec() -> io::Result<()> {
    // SAFETY: the call sets a flag of file descriptors and touches no memory of ours.
    let result = unsafe {
        libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, CLOSE_RANGE_CLOEXEC)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use nix::fcntl::{FcntlArg, FdFlag, fcntl};

    use super::*;

    #[test]
    fn programs_inherit_no_files_but_the_standard_three() {
        let file = std::fs::File::open("/dev/null").unwrap();
        fcntl(file.as_fd(), FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        let flags = || FdFlag::from_bits_truncate(fcntl(&file, FcntlArg::F_GETFD).unwrap());
        assert_eq!(flags(), FdFlag::empty());
        close_on_exec().unwrap();
        assert_eq!(flags(), FdFlag::FD_CLOEXEC);
    }
}
