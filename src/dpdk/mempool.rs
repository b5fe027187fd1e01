//! Pools of mbufs with a cache per lcore.

use std::ffi::CString;
use std::mem;
use std::ptr::NonNull;
use std::sync::Arc;

use dpdk_sys as sys;

use super::devargs::{self, Device, DeviceSyntax};
use super::eal::{Eal, EalError};
use super::reason;
use crate::limits::HEADROOM_BYTES;

const _: () = assert!(HEADROOM_BYTES <= sys::RTE_PKTMBUF_HEADROOM as usize);

/// A pool of mbufs; clones share it. All memory is taken when it is made.
#[derive(Clone)]
pub struct MbufPool(Arc<Pool>);

struct Pool {
    raw: NonNull<sys::rte_mempool>,
    name: String,
    count: u32,
    data_room_bytes: u16,
    eal: Eal,
}

// SAFETY: a pktmbuf pool's default ring takes and gives from any thread, and caches are per lcore;
// the pool itself is only freed once no clone is left.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

impl Drop for Pool {
    fn drop(&mut self) {
        if self.in_use() > 0 {
            // Somebody still holds mbufs that live in this pool's memory. Neither it nor EAL's
            // memory may go: leaking both is the only sound end.
            mem::forget(self.eal.clone());
            return;
        }
        // SAFETY: every mbuf is back and no handle is left, so nobody can reach the pool again.
        unsafe { sys::rte_mempool_free(self.raw.as_ptr()) }
    }
}

impl Pool {
    fn in_use(&self) -> u32 {
        // SAFETY: the pool lives as long as `self`.
        unsafe { sys::rte_mempool_in_use_count(self.raw.as_ptr()) }
    }
}

impl MbufPool {
    /// Makes a pool of `count` mbufs, each with `data_room_bytes` (headroom included; see
    /// [`MbufPool::data_room_for`]) and a cache of `cache` mbufs per lcore, cut to what EAL allows.
    pub fn create(
        eal: &Eal,
        name: &str,
        count: u32,
        cache: u32,
        data_room_bytes: u16,
    ) -> Result<Self, EalError> {
        let text = CString::new(name).map_err(|_| EalError::Nul(name.to_owned()))?;
        if !eal.claim_pool() {
            return Err(EalError::PoolAfterFastFree(name.to_owned()));
        }
        // A cache may hold 1.5 times its size, which must still fit the pool.
        let cache = cache.min(sys::RTE_MEMPOOL_CACHE_MAX_SIZE).min(count * 2 / 3);
        // SAFETY: EAL runs while `eal` lives; the name is copied; -1 is any NUMA node.
        let raw = unsafe {
            sys::rte_pktmbuf_pool_create(text.as_ptr(), count, cache, 0, data_room_bytes, -1)
        };
        let Some(raw) = NonNull::new(raw) else {
            // SAFETY: reads this thread's errno of DPDK.
            let errno = unsafe { sys::gyre_errno() };
            let (name, reason) = (name.to_owned(), reason(errno));
            let hint = hint_for(errno);
            return Err(EalError::Pool { name, count, data_room_bytes, reason, hint });
        };
        let (name, eal) = (name.to_owned(), eal.clone());
        Ok(MbufPool(Arc::new(Pool { raw, name, count, data_room_bytes, eal })))
    }

    /// Data room that holds any frame of a port with this `mtu`: headroom, Ethernet header, two
    /// VLAN tags and FCS included.
    pub const fn data_room_for(mtu: u16) -> u16 {
        let wanted = mtu as usize + super::nic::FRAME_OVERHEAD_BYTES + HEADROOM_BYTES;
        // What drivers take for granted (RTE_MBUF_DEFAULT_BUF_SIZE).
        let least = 2048 + sys::RTE_PKTMBUF_HEADROOM as usize;
        let room = if wanted > least { wanted.next_multiple_of(64) } else { least };
        if room > u16::MAX as usize { u16::MAX } else { room as u16 }
    }

    /// Data room for a port on `device` with this `mtu`: what [`MbufPool::data_room_for`] says, or
    /// more where the driver demands room for a whole ring frame (af_packet).
    pub fn data_room_for_device(device: &str, mtu: u16) -> Result<u16, DeviceSyntax> {
        let by_mtu = Self::data_room_for(mtu);
        let Device::Virtual(devargs) = Device::parse(device)? else { return Ok(by_mtu) };
        let data_bytes = devargs::complete(devargs, 1, mtu).mbuf_data_bytes_min();
        let by_driver = (data_bytes + sys::RTE_PKTMBUF_HEADROOM).next_multiple_of(64);
        Ok(by_mtu.max(u16::try_from(by_driver).unwrap_or(u16::MAX)))
    }

    /// About how much of EAL's memory a pool takes, in MiB, to set `memory_mib` by.
    pub fn memory_mib(count: u32, data_room_bytes: u16) -> u32 {
        let each = (sys::GYRE_MBUF_OVERHEAD + usize::from(data_room_bytes)).next_multiple_of(64);
        // Objects do not straddle pages, so a few per cent more than their sum.
        (each * count as usize * 33 / 32).div_ceil(1 << 20) as u32
    }

    /// mbufs that can still be taken, those in caches included.
    pub fn available(&self) -> u32 {
        // SAFETY: the pool lives as long as `self`.
        unsafe { sys::rte_mempool_avail_count(self.raw()) }
    }

    /// mbufs that are out: held by workers, rings and NICs.
    pub fn in_use(&self) -> u32 {
        self.0.in_use()
    }

    /// How many mbufs there are.
    pub fn count(&self) -> u32 {
        self.0.count
    }

    /// Data room of each mbuf in bytes, headroom included.
    pub fn data_room_bytes(&self) -> u16 {
        self.0.data_room_bytes
    }

    /// The pool's name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Whether the calling thread has a cache in this pool: what a worker asserts at start.
    pub fn has_cache_here(&self) -> bool {
        // SAFETY: the pool lives as long as `self`.
        unsafe { sys::gyre_mempool_has_cache_here(self.raw()) }
    }

    /// The EAL whose memory this is.
    pub fn eal(&self) -> &Eal {
        &self.0.eal
    }

    pub(super) fn raw(&self) -> *mut sys::rte_mempool {
        self.0.raw.as_ptr()
    }
}

fn hint_for(errno: i32) -> &'static str {
    match errno {
        libc::ENOMEM => "; give EAL more memory (hugepages, or `memory_mib` without them)",
        libc::EEXIST => "; choose another name",
        _ => "",
    }
}
