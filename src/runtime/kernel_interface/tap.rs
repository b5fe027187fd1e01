//! A port's TAP as the director's interface: the port's MAC and MTU, its addresses, up.

use super::thread::{TapCounters, TapPort};
use crate::config::InterfaceAddress;
use crate::control::netlink::NetlinkError;
use crate::control::netlink::interface::{BlockingInterfaces, disable_duplicate_detection};
use crate::dpdk::tap::{Tap, TapError};
use crate::model::{NicId, WorkerId};

/// What a TAP is made with.
#[derive(Clone, Debug)]
pub struct TapPlan<'a> {
    /// The port.
    pub nic: NicId,
    /// The port's name, and the interface's.
    pub name: &'a str,
    /// The port's MAC address: the interface must have the same.
    pub mac: [u8; 6],
    /// The port's MTU in bytes.
    pub mtu: u16,
    /// The director's addresses.
    pub addresses: &'a [InterfaceAddress],
    /// The worker that will send what the kernel sends.
    pub worker: WorkerId,
}

/// Why there is no TAP.
#[derive(Debug, thiserror::Error)]
pub enum MakeTapError {
    /// The device cannot be made.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// It cannot be set up.
    #[error("kernel interface {name}: {source}")]
    SetUp {
        /// Its name.
        name: String,
        /// Why.
        source: NetlinkError,
    },
}

/// Makes a TAP and sets it up; on an error it is gone again.
pub fn make(plan: &TapPlan, kernel: &BlockingInterfaces) -> Result<TapPort, MakeTapError> {
    let tap = Tap::create(plan.name)?;
    set_up(plan, kernel)
        .map_err(|source| MakeTapError::SetUp { name: plan.name.to_owned(), source })?;
    Ok(TapPort { nic: plan.nic, tap, worker: plan.worker, counters: TapCounters::default().into() })
}

fn set_up(plan: &TapPlan, kernel: &BlockingInterfaces) -> Result<(), NetlinkError> {
    let ifindex = kernel.find(plan.name)?.ifindex;
    kernel.set_mac(ifindex, plan.mac)?;
    kernel.set_mtu(ifindex, plan.mtu.into())?;
    disable_duplicate_detection(plan.name)?;
    kernel.set_up(ifindex)?;
    for InterfaceAddress { address, bits } in plan.addresses {
        kernel.add_address(ifindex, *address, *bits)?;
    }
    Ok(())
}
