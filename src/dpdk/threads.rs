//! Worker threads that EAL knows, so that they have a mempool cache.
//!
//! A thread without an lcore id pays an atomic operation on the pool's ring for every mbuf. Owns
//! registering and spawning; what a worker does is not known here.

use std::ffi::{c_int, c_void};
use std::io;
use std::marker::PhantomData;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use dpdk_sys as sys;

use super::eal::{Eal, EalError};
use super::reason;

/// This thread is registered with EAL for as long as this lives.
pub struct RegisteredThread {
    lcore: u32,
    _eal: Eal,
    /// The registration is the thread's own: not `Send`.
    _here: PhantomData<*const ()>,
}

impl RegisteredThread {
    /// The logical core id EAL gave this thread; the index of its caches, not a CPU.
    pub fn lcore(&self) -> u32 {
        self.lcore
    }
}

impl Drop for RegisteredThread {
    fn drop(&mut self) {
        // SAFETY: EAL runs while `_eal` lives, and this thread is the one that registered.
        unsafe { sys::rte_thread_unregister() }
    }
}

/// A running worker.
/// Dropping it waits, like [`WorkerThread::join`].
pub struct WorkerThread(Option<Handle>);

enum Handle {
    Own(JoinHandle<()>),
    Lcore { index: usize, eal: Eal },
}

type Work = Box<dyn FnOnce() + Send>;

impl WorkerThread {
    /// Waits until the worker's function has returned. A panic in it ends here with the thread;
    /// release builds abort at once.
    pub fn join(self) {
        drop(self);
    }
}

impl Drop for WorkerThread {
    fn drop(&mut self) {
        match self.0.take() {
            None => {}
            Some(Handle::Own(thread)) => drop(thread.join()),
            Some(Handle::Lcore { index, eal }) => {
                // SAFETY: the lcore exists since EAL started with it, and is not this thread.
                unsafe { sys::rte_eal_wait_lcore(index as u32 + 1) };
                eal.running().lcores_busy[index].store(false, Ordering::Release);
            }
        }
    }
}

impl Eal {
    /// Registers the calling thread. Fails in multi-process mode, where registering would lock
    /// secondary processes out (`rte_mp_disable`): use [`Eal::spawn_worker`] there.
    pub fn register_worker_thread(&self) -> Result<RegisteredThread, EalError> {
        if self.is_multi_process() {
            let why = "in multi_process mode workers run on EAL's own lcores";
            return Err(EalError::Register(why.to_owned()));
        }
        // SAFETY: EAL runs while `self` lives.
        if unsafe { sys::rte_thread_register() } != 0 {
            // SAFETY: reads this thread's errno of DPDK.
            return Err(EalError::Register(reason(unsafe { sys::gyre_errno() })));
        }
        // SAFETY: reads a thread-local.
        let lcore = unsafe { sys::gyre_lcore_id() };
        let thread = RegisteredThread { lcore, _eal: self.clone(), _here: PhantomData };
        if lcore >= sys::RTE_MAX_LCORE {
            return Err(EalError::Register("EAL gave no lcore id".to_owned()));
        }
        Ok(thread)
    }

    /// Runs `work` on a thread of its own that is pinned to `core` and known to EAL, whatever the
    /// mode. Returns when the thread runs `work`, or with the reason why it does not.
    pub fn spawn_worker(
        &self,
        name: &str,
        core: usize,
        work: impl FnOnce() + Send + 'static,
    ) -> Result<WorkerThread, EalError> {
        if self.is_multi_process() {
            return self.launch_on_lcore(core, Box::new(work));
        }
        let (tell, told) = mpsc::sync_channel(1);
        let (eal, own_name) = (self.clone(), name.to_owned());
        let body = move || {
            let ready = pin(&own_name, core).and_then(|()| eal.register_worker_thread());
            let (answer, registered) = match ready {
                Ok(registered) => (Ok(()), Some(registered)),
                Err(error) => (Err(error), None),
            };
            let failed = answer.is_err();
            // The receiver waits below, so this cannot fail.
            let _ = tell.send(answer);
            if !failed {
                work();
            }
            drop(registered);
        };
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(body)
            .map_err(|source| EalError::Spawn { name: name.to_owned(), source })?;
        match told.recv() {
            Ok(Ok(())) => Ok(WorkerThread(Some(Handle::Own(thread)))),
            Ok(Err(error)) => {
                drop(thread.join());
                Err(error)
            }
            Err(_) => Err(EalError::Register("the thread ended early".to_owned())),
        }
    }

    fn launch_on_lcore(&self, core: usize, work: Work) -> Result<WorkerThread, EalError> {
        let busy = &self.running().lcores_busy;
        let free = |&(index, &worker_core): &(usize, &usize)| {
            worker_core == core && !busy[index].swap(true, Ordering::Acquire)
        };
        let Some((index, _)) = self.worker_cores().iter().enumerate().find(free) else {
            return Err(EalError::NoSuchLcore { core });
        };
        let raw = Box::into_raw(Box::new(work));
        // SAFETY: lcore `index + 1` was named at start and is idle, since its flag was down; the
        // box is turned back exactly once, by `run_work` or below.
        let code =
            unsafe { sys::rte_eal_remote_launch(Some(run_work), raw.cast(), index as u32 + 1) };
        if code != 0 {
            // SAFETY: the launch failed, so nobody else has the box.
            drop(unsafe { Box::from_raw(raw) });
            busy[index].store(false, Ordering::Release);
            return Err(EalError::Register(reason(code)));
        }
        Ok(WorkerThread(Some(Handle::Lcore { index, eal: self.clone() })))
    }
}

/// Entry point on an EAL lcore. A panic ends the process: it must not unwind into C.
unsafe extern "C" fn run_work(work: *mut c_void) -> c_int {
    // SAFETY: `launch_on_lcore` passed a box of this type and gave it up.
    let work = unsafe { Box::from_raw(work.cast::<Work>()) };
    work();
    0
}

fn pin(name: &str, core: usize) -> Result<(), EalError> {
    if core_affinity::set_for_current(core_affinity::CoreId { id: core }) {
        return Ok(());
    }
    Err(EalError::Spawn { name: name.to_owned(), source: io::Error::last_os_error() })
}
