//! One mbuf, owned: freed when dropped, edited as a [`Frame`].
//!
//! Fields are reached by the offsets the C compiler gives, since several sit in anonymous unions
//! whose generated Rust names differ between DPDK releases. Cloned (reference-counted) and
//! indirect mbufs are never made here, so an owner is the only one to touch its buffer.

use std::ptr::{self, NonNull};
use std::slice;

use arrayvec::ArrayVec;
use dpdk_sys as sys;

use super::mempool::MbufPool;
use crate::frame::Frame;
use crate::limits::BURST_FRAMES_MAX;

/// A burst's worth of mbufs.
pub type MbufVec = ArrayVec<Mbuf, BURST_FRAMES_MAX>;

/// An mbuf and all its segments. Exactly a pointer, so that arrays of them go to drivers as is.
#[repr(transparent)]
pub struct Mbuf(NonNull<sys::rte_mbuf>);

const _: () = assert!(size_of::<Mbuf>() == size_of::<*mut sys::rte_mbuf>());
const _: () = assert!(size_of::<Option<Mbuf>>() == size_of::<*mut sys::rte_mbuf>());

/// Why there is no mbuf, or not such a one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MbufError {
    /// Every mbuf is out.
    #[error("mbuf pool is empty")]
    PoolEmpty,
    /// The bytes do not fit one mbuf.
    #[error("frame is larger than an mbuf's data room")]
    TooLarge,
}

// SAFETY: an mbuf may be used and freed on any thread; pools take them back from anywhere.
unsafe impl Send for Mbuf {}
// SAFETY: through a shared reference it is only read.
unsafe impl Sync for Mbuf {}

impl Drop for Mbuf {
    fn drop(&mut self) {
        // SAFETY: we own the mbuf, and its pool outlives it.
        unsafe { sys::gyre_mbuf_free(self.0.as_ptr()) }
    }
}

impl Mbuf {
    /// Takes an empty mbuf, `None` when all are out.
    pub fn alloc(pool: &MbufPool) -> Option<Self> {
        // SAFETY: the pool lives; what it gives is ours alone.
        NonNull::new(unsafe { sys::gyre_mbuf_alloc(pool.raw()) }).map(Mbuf)
    }

    /// Takes an mbuf and copies `bytes` into it, behind the usual headroom.
    pub fn alloc_from(pool: &MbufPool, bytes: &[u8]) -> Result<Self, MbufError> {
        let mut mbuf = Mbuf::alloc(pool).ok_or(MbufError::PoolEmpty)?;
        let mut frame = mbuf.frame();
        frame.set_len(bytes.len()).map_err(|_| MbufError::TooLarge)?;
        frame.bytes_mut().copy_from_slice(bytes);
        let (start, end) = frame.extent();
        mbuf.set_extent(start, end);
        Ok(mbuf)
    }

    /// Appends `count` empty mbufs, all or none; `false` when the pool or `into` has no room.
    pub fn alloc_bulk(pool: &MbufPool, into: &mut MbufVec, count: usize) -> bool {
        if count > into.remaining_capacity() {
            return false;
        }
        let len = into.len();
        // SAFETY: `count` more slots fit behind `len`, and Mbuf is a pointer; on success all of
        // them hold mbufs of ours.
        unsafe {
            let slots = into.as_mut_ptr().add(len).cast::<*mut sys::rte_mbuf>();
            if sys::gyre_mbuf_alloc_bulk(pool.raw(), slots, count as u32) != 0 {
                return false;
            }
            into.set_len(len + count);
        }
        true
    }

    /// Frees a whole burst at once, which is cheaper than one by one.
    pub fn free_bulk(mbufs: &mut MbufVec) {
        let len = mbufs.len();
        // SAFETY: the slots hold `len` mbufs we own; the length goes first so that none is
        // dropped a second time.
        unsafe {
            mbufs.set_len(0);
            sys::gyre_mbuf_free_bulk(mbufs.as_mut_ptr().cast(), len as u32);
        }
    }

    /// Moves all of `from` behind what is in `into`; what has no room there is freed.
    pub fn append(into: &mut MbufVec, from: &mut MbufVec) {
        let (len, count) = (into.len(), from.len().min(into.remaining_capacity()));
        // SAFETY: `count` slots are free behind `len`, in another array. They become owners as
        // those they are copied from cease to be.
        unsafe {
            ptr::copy_nonoverlapping(from.as_ptr(), into.as_mut_ptr().add(len), count);
            into.set_len(len + count);
        }
        forget_front(from, count);
        if !from.is_empty() {
            Mbuf::free_bulk(from);
        }
    }

    /// The first segment's whole buffer, framed at its data: for an unchained mbuf the frame with
    /// all its headroom and tailroom. Write a changed extent back with [`Mbuf::set_extent`].
    pub fn frame(&mut self) -> Frame<'_> {
        let start = usize::from(self.read::<u16>(sys::GYRE_MBUF_DATA_OFF));
        let len = usize::from(self.read::<u16>(sys::GYRE_MBUF_DATA_LEN));
        let buffer: *mut u8 = self.read(sys::GYRE_MBUF_BUF_ADDR);
        // SAFETY: buf_addr and buf_len describe the mbuf's own buffer, which nobody else uses
        // while we own the mbuf; the memory was mapped zeroed, so every byte is initialised.
        let buffer = unsafe { slice::from_raw_parts_mut(buffer, self.buffer_bytes()) };
        Frame::new(buffer, start, start + len)
    }

    /// As `set_extent` for the extent of a frame taken by `frame`, which may not have changed.
    #[inline]
    pub fn keep_extent(&mut self, start: usize, end: usize) {
        let was = usize::from(self.read::<u16>(sys::GYRE_MBUF_DATA_OFF));
        let len = usize::from(self.read::<u16>(sys::GYRE_MBUF_DATA_LEN));
        if (start, end) != (was, was + len) {
            self.set_extent(start, end);
        }
    }

    /// Makes the first segment's data `start..end` of its buffer; cut to the buffer.
    pub fn set_extent(&mut self, start: usize, end: usize) {
        let end = end.min(self.buffer_bytes());
        let start = start.min(end);
        let before = u32::from(self.read::<u16>(sys::GYRE_MBUF_DATA_LEN));
        let total = self.read::<u32>(sys::GYRE_MBUF_PKT_LEN);
        let len = (end - start) as u32;
        self.write::<u16>(sys::GYRE_MBUF_DATA_OFF, start as u16);
        self.write::<u16>(sys::GYRE_MBUF_DATA_LEN, len as u16);
        self.write::<u32>(sys::GYRE_MBUF_PKT_LEN, total.wrapping_sub(before).wrapping_add(len));
    }

    /// The frame's bytes (the first segment's, if chained).
    pub fn bytes(&self) -> &[u8] {
        let start = usize::from(self.read::<u16>(sys::GYRE_MBUF_DATA_OFF));
        let len = usize::from(self.read::<u16>(sys::GYRE_MBUF_DATA_LEN));
        let buffer: *const u8 = self.read(sys::GYRE_MBUF_BUF_ADDR);
        let end = (start + len).min(self.buffer_bytes());
        // SAFETY: the range lies in the mbuf's own buffer, which lives as long as `self`.
        unsafe { slice::from_raw_parts(buffer.add(start.min(end)), end - start.min(end)) }
    }

    /// Length of the whole frame in bytes, over all segments.
    pub fn len(&self) -> usize {
        self.read::<u32>(sys::GYRE_MBUF_PKT_LEN) as usize
    }

    /// Whether the frame has no byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the frame is spread over several segments, of which [`Mbuf::frame`] shows the
    /// first only. gyre asks no port for that; net_ring, net_pcap and net_tap may still do it.
    pub fn is_chained(&self) -> bool {
        self.read::<u16>(sys::GYRE_MBUF_NB_SEGS) > 1
    }

    /// Copies a chained frame into its first segment. An error leaves it as it was.
    pub fn linearise(&mut self) -> Result<(), MbufError> {
        // SAFETY: we own the mbuf and all its segments.
        match unsafe { sys::gyre_mbuf_linearize(self.0.as_ptr()) } {
            0 => Ok(()),
            _ => Err(MbufError::TooLarge),
        }
    }

    /// The tag control information of a VLAN tag that the port took off the frame.
    pub fn vlan_stripped(&self) -> Option<u16> {
        self.has_flag(sys::GYRE_MBUF_RX_VLAN_STRIPPED).then(|| self.read(sys::GYRE_MBUF_VLAN_TCI))
    }

    fn has_flag(&self, flag: u64) -> bool {
        self.read::<u64>(sys::GYRE_MBUF_OL_FLAGS) & flag != 0
    }

    fn buffer_bytes(&self) -> usize {
        usize::from(self.read::<u16>(sys::GYRE_MBUF_BUF_LEN))
    }

    /// Reads the field at `offset`, one of the `GYRE_MBUF_*` offsets with its type.
    fn read<T: Copy>(&self, offset: usize) -> T {
        // SAFETY: the mbuf is live while we own it and the offset names an aligned field of `T`.
        unsafe { self.0.as_ptr().byte_add(offset).cast::<T>().read() }
    }

    /// Writes the field at `offset`, likewise.
    fn write<T: Copy>(&mut self, offset: usize, value: T) {
        // SAFETY: as for `read`, and we are the only owner.
        unsafe { self.0.as_ptr().byte_add(offset).cast::<T>().write(value) }
    }
}

/// Removes the first `count` mbufs, which a driver has taken over, without freeing them.
pub(super) fn forget_front(mbufs: &mut MbufVec, count: usize) {
    let left = mbufs.len().saturating_sub(count);
    // SAFETY: moves the remaining slots to the front inside the array, then cuts the length, so
    // each of them is in it once and those taken over not at all.
    unsafe {
        let slots = mbufs.as_mut_ptr();
        mbufs.set_len(0);
        ptr::copy(slots.add(count), slots, left);
        mbufs.set_len(left);
    }
}
