//! A zeroed, shared, anonymous map of fixed size, on hugepages where they can be had, with a file
//! descriptor that a successor process can map again.
//!
//! Pages are taken when the region is made, on the calling thread's NUMA node; nothing faults
//! in later. What lies inside belongs to `array` and `slab`.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;

/// Size and alignment of a hugepage, in bytes.
const HUGE_BYTES: usize = 2 << 20;
/// Size and alignment of an ordinary page on x86_64, in bytes.
const PAGE_BYTES: usize = 4096;
/// Heap regions end this close to what was asked for, so that Miri and AddressSanitizer see a
/// step too far.
const LINE_BYTES: usize = 64;
/// `f_type` of a hugetlbfs file (linux/magic.h).
const HUGETLBFS_MAGIC: u32 = 0x9584_58f6;
/// Where the kernel says whether shared memory may have transparent hugepages.
const SHMEM_POLICY: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
/// Where the kernel says how much memory is to be had.
const MEMINFO: &str = "/proc/meminfo";
/// Pages taken between two looks at what is to be had, in bytes: other workers take theirs at the
/// same time.
const STEP_BYTES: usize = 16 << 20;
/// What stays to everybody else, in bytes. The kernel does not refuse pages but ends processes for
/// them, and not always ours.
const LEFT_BYTES: usize = 64 << 20;

/// What a region stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Reserved 2 MiB hugepages.
    HugeTlb,
    /// Ordinary pages that the kernel was asked, and allows itself, to make huge.
    Transparent,
    /// Ordinary 4 KiB pages: each look-up costs more, see docs on hugepages.
    Plain,
    /// The process's own heap: no file descriptor, nothing to pass to a successor.
    Heap,
}

/// Memory could not be had, or a passed map is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// A system call failed while the region was made.
    #[error(
        "{bytes} bytes of memory: {call}: {source}; \
         lower `runtime.connections` or give the machine more memory"
    )]
    System {
        /// The call that failed.
        call: &'static str,
        /// Size wanted.
        bytes: usize,
        /// The kernel's reason.
        source: io::Error,
    },
    /// Taking so much would have the kernel end processes.
    #[error(
        "{} MiB of memory wanted, {} MiB to be had; lower `runtime.connections` or give the \
         machine more memory",
        .wanted_bytes >> 20,
        .available_bytes >> 20
    )]
    Short {
        /// Still wanted.
        wanted_bytes: usize,
        /// To be had.
        available_bytes: usize,
    },
    /// Nothing was asked for, or more than addresses can hold.
    #[error("a table of {entries} entries cannot be made; 1 to {entries_max} are possible")]
    Capacity {
        /// Entries wanted.
        entries: u64,
        /// The most there may be.
        entries_max: u64,
    },
    /// A passed file descriptor could shrink under us.
    #[error("the passed memory is not sealed against shrinking; start without a predecessor")]
    NotSealed,
    /// A passed map was written by something else.
    #[error(
        "the passed memory is not this table: {field} is {found}, {wanted} wanted; \
         start without a predecessor"
    )]
    Mismatch {
        /// The header field that differs.
        field: &'static str,
        /// What it holds.
        found: u64,
        /// What it should hold.
        wanted: u64,
    },
}

/// A zeroed map of fixed size, unmapped on drop. See the module's comment.
#[derive(Debug)]
pub struct Region {
    base: NonNull<u8>,
    bytes: usize,
    backing: Backing,
    fd: Option<OwnedFd>,
}

// SAFETY: a `Region` owns its map, and the address is usable from any thread; access goes through
// views whose owners follow the borrow rules.
unsafe impl Send for Region {}
// SAFETY: `&Region` gives out numbers and a file descriptor, never access to the bytes.
unsafe impl Sync for Region {}

impl Region {
    /// Maps at least `bytes` zeroed bytes: reserved hugepages when enough are free (for regions
    /// of 2 MiB and more), else a plain shared map with hugepages asked for. Under Miri, and with
    /// `--cfg gyre_heap` (scripts/check-asan): on the heap.
    pub fn new(bytes: usize) -> Result<Self, MemoryError> {
        if cfg!(any(miri, gyre_heap)) {
            return Self::heap(bytes);
        }
        if bytes >= HUGE_BYTES
            && let Ok(region) = Self::huge_tlb(bytes)
        {
            return Ok(region);
        }
        Self::plain(bytes)
    }

    /// The same on the process's own heap: for tests and tools that show memory errors.
    pub fn heap(bytes: usize) -> Result<Self, MemoryError> {
        let bytes = round_up(bytes, LINE_BYTES)?;
        let layout = heap_layout(bytes)?;
        // SAFETY: the layout's size is not zero, `round_up` refuses that.
        let base = unsafe { alloc_zeroed(layout) };
        let base = NonNull::new(base).ok_or_else(|| {
            system_error("alloc", bytes, io::Error::from(io::ErrorKind::OutOfMemory))
        })?;
        Ok(Region { base, bytes, backing: Backing::Heap, fd: None })
    }

    /// Maps a region that a predecessor made and passed on. The predecessor must not write to it
    /// any more. `NotSealed` when the file could still shrink.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, MemoryError> {
        // SAFETY: F_GET_SEALS takes no argument and only reads the descriptor's state.
        let seals = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GET_SEALS) };
        let (bytes, huge) = file_facts(&fd).map_err(|e| system_error("fstat", 0, e))?;
        if seals < 0 || seals & libc::F_SEAL_SHRINK == 0 {
            return Err(MemoryError::NotSealed);
        }
        let base = map(&fd, bytes)?;
        let mut region = Region { base, bytes, backing: Backing::HugeTlb, fd: Some(fd) };
        if !huge {
            region.backing = region.ask_for_huge();
        }
        Ok(region)
    }

    /// Size of the map, at least what was asked for.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What the region stands on.
    pub fn backing(&self) -> Backing {
        self.backing
    }

    /// The descriptor to pass to a successor; `None` on the heap.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(AsFd::as_fd)
    }

    /// First byte; aligned to a page. Valid for `bytes()` bytes while the region lives.
    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }

    fn huge_tlb(bytes: usize) -> Result<Self, MemoryError> {
        let bytes = round_up(bytes, HUGE_BYTES)?;
        let fd = memory_file(bytes, libc::MFD_HUGETLB | libc::MFD_HUGE_2MB)?;
        // The map reserves its pages here or fails, so a later access cannot run out of them.
        let base = map(&fd, bytes)?;
        let region = Region { base, bytes, backing: Backing::HugeTlb, fd: Some(fd) };
        region.populate()?;
        Ok(region)
    }

    fn plain(bytes: usize) -> Result<Self, MemoryError> {
        let bytes = round_up(bytes, PAGE_BYTES)?;
        let fd = memory_file(bytes, 0)?;
        let base = map(&fd, bytes)?;
        let mut region = Region { base, bytes, backing: Backing::Plain, fd: Some(fd) };
        region.backing = region.ask_for_huge();
        region.populate()?;
        Ok(region)
    }

    fn ask_for_huge(&self) -> Backing {
        if self.bytes < HUGE_BYTES {
            return Backing::Plain;
        }
        // SAFETY: the range is our own map; the advice changes no content.
        let done = unsafe {
            libc::madvise(self.base.as_ptr().cast(), self.bytes, libc::MADV_HUGEPAGE) == 0
        };
        let allowed = fs::read_to_string(SHMEM_POLICY).is_ok_and(|policy| allows_huge(&policy));
        if done && allowed { Backing::Transparent } else { Backing::Plain }
    }

    /// Takes the pages now. Where memory is short this is an error here instead of a signal in
    /// the packet path.
    fn populate(&self) -> Result<(), MemoryError> {
        for offset in (0..self.bytes).step_by(STEP_BYTES) {
            let wanted_bytes = self.bytes - offset;
            // Reserved hugepages are nobody else's.
            if self.backing != Backing::HugeTlb {
                leave_some(wanted_bytes)?;
            }
            self.populate_step(offset, wanted_bytes.min(STEP_BYTES))?;
        }
        Ok(())
    }

    fn populate_step(&self, offset: usize, bytes: usize) -> Result<(), MemoryError> {
        // SAFETY: `offset` lies inside our own map.
        let address = unsafe { self.base.as_ptr().add(offset) };
        // SAFETY: the range is in our own map; populating writes nothing that can be seen.
        let failed =
            unsafe { libc::madvise(address.cast(), bytes, libc::MADV_POPULATE_WRITE) != 0 };
        if !failed {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EINVAL) {
            return Err(system_error("madvise", self.bytes, error));
        }
        // Kernels before 5.14 do not know the advice: touch every page.
        for page in (0..bytes).step_by(PAGE_BYTES) {
            // SAFETY: `page` lies inside our own writable map, which nobody else uses yet.
            unsafe { address.add(page).write_volatile(0) };
        }
        Ok(())
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        match (self.backing, heap_layout(self.bytes)) {
            (Backing::Heap, Ok(layout)) => {
                // SAFETY: `heap` allocated it with this very layout; no view outlives its owner.
                unsafe { dealloc(self.base.as_ptr(), layout) }
            }
            _ => {
                // SAFETY: this is the map made in `map`; no view outlives its owner.
                unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
            }
        }
    }
}

/// A new file in memory of `bytes`, sealed to that size: never grows, never shrinks.
fn memory_file(bytes: usize, flags: libc::c_uint) -> Result<OwnedFd, MemoryError> {
    let flags = flags | libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: the name is a C string; the call makes a new descriptor.
    let raw = unsafe { libc::memfd_create(c"gyre".as_ptr(), flags) };
    if raw < 0 {
        return Err(system_error("memfd_create", bytes, io::Error::last_os_error()));
    }
    // SAFETY: `raw` was just made and belongs to nobody else.
    let fd = unsafe { OwnedFd::from_raw_fd(raw) };
    let size = libc::off_t::try_from(bytes).map_err(|_| too_large(bytes))?;
    // SAFETY: plain calls on our own descriptor, no memory is passed.
    let done = unsafe {
        libc::ftruncate(raw, size) == 0
            && libc::fcntl(
                raw,
                libc::F_ADD_SEALS,
                libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL,
            ) == 0
    };
    if done { Ok(fd) } else { Err(system_error("ftruncate", bytes, io::Error::last_os_error())) }
}

fn map(fd: &OwnedFd, bytes: usize) -> Result<NonNull<u8>, MemoryError> {
    // SAFETY: a new map at an address of the kernel's choice touches no memory of ours.
    let base = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            fd.as_raw_fd(),
            0,
        )
    };
    if base == libc::MAP_FAILED {
        return Err(system_error("mmap", bytes, io::Error::last_os_error()));
    }
    NonNull::new(base.cast()).ok_or_else(|| too_large(bytes))
}

/// Size in bytes, and whether the file stands on reserved hugepages.
fn file_facts(fd: &OwnedFd) -> io::Result<(usize, bool)> {
    // SAFETY: both structures are plain integers, for which zero is a value.
    let (mut stat, mut fs): (libc::stat, libc::statfs) = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel fills the structures that we own.
    let done = unsafe {
        libc::fstat(fd.as_raw_fd(), &mut stat) == 0 && libc::fstatfs(fd.as_raw_fd(), &mut fs) == 0
    };
    if !done {
        return Err(io::Error::last_os_error());
    }
    let bytes = usize::try_from(stat.st_size).unwrap_or(0);
    Ok((bytes, fs.f_type as u32 == HUGETLBFS_MAGIC))
}

/// Whether a `shmem_enabled` file lets an advised map have hugepages.
fn allows_huge(policy: &str) -> bool {
    ["[always]", "[within_size]", "[advise]", "[force]"].iter().any(|word| policy.contains(word))
}

/// Refuses to take `wanted_bytes` where too little would be left.
fn leave_some(wanted_bytes: usize) -> Result<(), MemoryError> {
    let meminfo = fs::read_to_string(MEMINFO).unwrap_or_default();
    match available_bytes(&meminfo) {
        Some(available_bytes) if available_bytes < wanted_bytes.saturating_add(LEFT_BYTES) => {
            Err(MemoryError::Short { wanted_bytes, available_bytes })
        }
        // Where the kernel does not tell there is nothing to compare with.
        _ => Ok(()),
    }
}

/// `MemAvailable` of a `meminfo` file.
fn available_bytes(meminfo: &str) -> Option<usize> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: usize = line.trim().strip_suffix(" kB")?.parse().ok()?;
    kib.checked_mul(1024)
}

fn heap_layout(bytes: usize) -> Result<Layout, MemoryError> {
    Layout::from_size_align(bytes, PAGE_BYTES).map_err(|_| too_large(bytes))
}

fn round_up(bytes: usize, unit: usize) -> Result<usize, MemoryError> {
    match bytes.checked_next_multiple_of(unit) {
        Some(rounded) if rounded > 0 && rounded <= isize::MAX as usize => Ok(rounded),
        _ => Err(too_large(bytes)),
    }
}

fn too_large(bytes: usize) -> MemoryError {
    MemoryError::Capacity { entries: bytes as u64, entries_max: isize::MAX as u64 }
}

fn system_error(call: &'static str, bytes: usize, source: io::Error) -> MemoryError {
    MemoryError::System { call, bytes, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::FixedArray;

    #[test]
    fn region_is_page_aligned_and_at_least_as_large_as_asked() {
        for bytes in [1, 4096, 4097, 3 << 20] {
            for region in [Region::new(bytes).unwrap(), Region::heap(bytes).unwrap()] {
                assert!(region.bytes() >= bytes);
                assert_eq!(region.base().as_ptr() as usize % PAGE_BYTES, 0);
            }
        }
    }

    #[test]
    fn nothing_and_too_much_are_refused() {
        assert!(matches!(Region::new(0), Err(MemoryError::Capacity { .. })));
        assert!(matches!(Region::heap(usize::MAX), Err(MemoryError::Capacity { .. })));
    }

    #[test]
    #[cfg_attr(any(miri, gyre_heap), ignore = "needs a memfd")]
    fn more_than_there_is_names_the_remedy() {
        let available = available_bytes(&fs::read_to_string(MEMINFO).unwrap()).unwrap();
        for bytes in [available + (1 << 30), isize::MAX as usize - PAGE_BYTES] {
            let error = Region::new(bytes).unwrap_err();
            assert!(error.to_string().contains("lower `runtime.connections`"), "{error}");
        }
        let error = leave_some(available + (1 << 30)).unwrap_err();
        assert!(matches!(error, MemoryError::Short { .. }), "{error}");
    }

    #[test]
    fn available_memory_is_read_in_kib() {
        let meminfo = "MemTotal:       2048 kB\nMemAvailable:   1000 kB\nBuffers: 7 kB\n";
        assert_eq!(available_bytes(meminfo), Some(1_024_000));
        assert_eq!(available_bytes("MemTotal: 7 kB\n"), None);
    }

    #[test]
    #[cfg_attr(any(miri, gyre_heap), ignore = "needs a memfd")]
    fn size_is_sealed() {
        let region = Region::new(4096).unwrap();
        let raw = region.fd().unwrap().as_raw_fd();
        for size in [0, 1 << 20] {
            // SAFETY: a plain call on a descriptor that lives.
            assert_eq!(unsafe { libc::ftruncate(raw, size) }, -1);
        }
    }

    #[test]
    #[cfg_attr(any(miri, gyre_heap), ignore = "needs a memfd")]
    fn successor_sees_the_same_bytes() {
        let mut array = FixedArray::<u64>::new(1000).unwrap();
        array[999] = 77;
        let fd = array.region().fd().unwrap().try_clone_to_owned().unwrap();
        let bytes = array.region().bytes();
        drop(array);
        let region = Region::from_fd(fd).unwrap();
        assert_eq!(region.bytes(), bytes);
        assert_eq!(FixedArray::<u64>::adopt(region).unwrap()[999], 77);
    }

    #[test]
    #[cfg_attr(any(miri, gyre_heap), ignore = "needs a memfd")]
    fn unsealed_file_is_refused() {
        // SAFETY: the name is a C string; the new descriptor belongs to nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(libc::memfd_create(c"open".as_ptr(), 0)) };
        assert!(matches!(Region::from_fd(fd), Err(MemoryError::NotSealed)));
    }

    #[test]
    fn policy_file_is_read_by_its_marked_word() {
        assert!(allows_huge("always within_size [advise] never deny force\n"));
        assert!(!allows_huge("always within_size advise [never] deny force\n"));
    }
}
