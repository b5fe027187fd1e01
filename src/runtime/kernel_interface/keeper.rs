//! The keeper: a thread that holds the kernel's addresses and rules to what gyre serves.
//!
//! A new snapshot is prepared before workers get it: what is new is added, what is old stays. Some
//! time later, when every worker has adopted it, what is old goes. A fault is logged and does not
//! stop anything: the packet path works without the kernel's help, only neighbours may not find it.

use std::collections::BTreeSet;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::{debug, warn};

use super::addresses::{self, AddressFile, AddressOn, KernelInterfaceSubnets};
use super::nftables::{self, Instance, NftError};
use super::rules::{self, Guarded, GuardedInterfaces};
use crate::config::VipAddresses;
use crate::control::KernelSide;
use crate::control::netlink::NetlinkError;
use crate::control::netlink::interface::BlockingInterfaces;
use crate::model::Snapshot;

/// After a publication, how long until what it no longer serves is taken back. A worker adopts
/// within a turn; this is long enough for one that the machine keeps waiting.
const SETTLE_AFTER: Duration = Duration::from_secs(1);

/// What the keeper keeps, and where.
#[derive(Debug)]
pub struct KeeperConfig {
    /// Names the table.
    pub instance: Instance,
    /// Interfaces with rules on them.
    pub guarded: GuardedInterfaces,
    /// The director's interfaces, in the order of ports.
    pub interfaces: Vec<KernelInterfaceSubnets>,
    /// Who puts VIPs there.
    pub vips_by: VipAddresses,
    /// Addresses wanted whatever is served: the shared ports' own.
    pub own: BTreeSet<AddressOn>,
    /// Remembers addresses on interfaces that outlive us.
    pub file: AddressFile,
}

struct Prepare {
    snapshot: Arc<Snapshot>,
    done: oneshot::Sender<()>,
}

/// The running keeper. Dropped, it takes back all that it put into the kernel.
pub struct Keeper {
    requests: Option<Sender<Prepare>>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Takes what a killed predecessor left out of the kernel, puts the first rules in and goes on
    /// in a thread of its own.
    pub fn start(config: KeeperConfig) -> Result<Self, KeeperError> {
        let mut kept = Kept::new(config)?;
        kept.begin()?;
        let (requests, inbox) = mpsc::channel();
        let body = move || kept.serve(&inbox);
        let thread = thread::Builder::new()
            .name("gyre-keeper".to_owned())
            .spawn(body)
            .map_err(KeeperError::Thread)?;
        Ok(Keeper { requests: Some(requests), thread: Some(thread) })
    }

    /// What control calls with each snapshot.
    pub fn kernel_side(&self) -> KernelSide {
        let requests = self.requests.clone();
        let last: Mutex<Option<Arc<Snapshot>>> = Mutex::new(None);
        Arc::new(move |snapshot| {
            let (done, answer) = oneshot::channel();
            let last = last.lock().unwrap_or_else(PoisonError::into_inner);
            let before = { last }.replace(Arc::clone(snapshot));
            let changed = before.is_none_or(|before| !serves_the_same(&before, snapshot));
            if let Some(requests) = requests.as_ref().filter(|_| changed) {
                // A keeper that is gone drops `done`, which answers too.
                let _ = requests.send(Prepare { snapshot: Arc::clone(snapshot), done });
            }
            answer
        })
    }
}

/// Whether the kernel need not be told of `new`: unchanged parts of snapshots are shared.
fn serves_the_same(old: &Snapshot, new: &Snapshot) -> bool {
    Arc::ptr_eq(&old.traffic, &new.traffic)
        && Arc::ptr_eq(&old.vips, &new.vips)
        && Arc::ptr_eq(&old.lips, &new.lips)
        && Arc::ptr_eq(&old.nat_servers, &new.nat_servers)
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Why the keeper does not start.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// No netlink, or a refusal.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// No rules.
    #[error(transparent)]
    Nft(#[from] NftError),
    /// The file beside the control socket.
    #[error(
        "{path}: {source}; let gyre write there: it notes the addresses that it adds to \
         interfaces which outlive it"
    )]
    File {
        /// Its path.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// No thread.
    #[error("the keeper's thread cannot start: {0}")]
    Thread(std::io::Error),
}

/// The kernel's state as far as it is ours.
struct Kept {
    config: KeeperConfig,
    table: String,
    kernel: BlockingInterfaces,
    /// Whether a table of ours is in force.
    has_table: bool,
    /// Guarded by it.
    in_force: Guarded,
    /// To be guarded once everything has settled.
    wanted: Guarded,
    /// Addresses we added.
    added: BTreeSet<AddressOn>,
    wanted_addresses: BTreeSet<AddressOn>,
    settle_at: Option<Instant>,
}

impl Kept {
    fn new(config: KeeperConfig) -> Result<Self, KeeperError> {
        Ok(Kept {
            table: config.instance.table(),
            kernel: BlockingInterfaces::open()?,
            has_table: false,
            in_force: Guarded::default(),
            wanted: Guarded::default(),
            added: BTreeSet::new(),
            wanted_addresses: config.own.clone(),
            settle_at: None,
            config,
        })
    }

    /// The state before the first snapshot. Faults here are reported, not only logged.
    fn begin(&mut self) -> Result<(), KeeperError> {
        for address in self.config.file.read() {
            debug!("removing {}/{} left on {}", address.address, address.bits, address.interface);
            self.delete(&address);
        }
        self.remember()?;
        if !self.config.guarded.is_empty() {
            nftables::remove_stale(&self.config.instance)?;
            self.put_rules(Guarded::default())?;
        }
        self.add_missing()
    }

    fn serve(mut self, inbox: &Receiver<Prepare>) {
        loop {
            let wait = self.settle_at.map(|at| at.saturating_duration_since(Instant::now()));
            let request = match wait {
                Some(wait) => inbox.recv_timeout(wait),
                None => inbox.recv().map_err(RecvTimeoutError::from),
            };
            match request {
                Ok(Prepare { snapshot, done }) => {
                    self.prepare(&snapshot);
                    let _ = done.send(());
                }
                Err(RecvTimeoutError::Timeout) => self.settle(),
                Err(RecvTimeoutError::Disconnected) => return self.clear(),
            }
        }
    }

    fn addresses_for(&self, snapshot: &Snapshot) -> BTreeSet<AddressOn> {
        addresses::wanted(snapshot, &self.config.interfaces, self.config.vips_by)
    }

    fn prepare(&mut self, snapshot: &Snapshot) {
        let wanted = Guarded::of(snapshot);
        let mut addresses = self.addresses_for(snapshot);
        addresses.extend(self.config.own.iter().cloned());
        if wanted == self.wanted && addresses == self.wanted_addresses {
            return;
        }
        self.wanted = wanted;
        self.wanted_addresses = addresses;
        let both = self.in_force.union(&self.wanted);
        if let Err(error) = self.put_rules(both) {
            warn!("the kernel may answer for services that are gyre's: {error}");
        }
        if let Err(error) = self.add_missing() {
            warn!("the kernel may not answer ARP for an address of gyre's: {error}");
        }
        self.settle_at = Some(Instant::now() + SETTLE_AFTER);
    }

    /// Takes back what is no longer wanted.
    fn settle(&mut self) {
        self.settle_at = None;
        if let Err(error) = self.put_rules(self.wanted.clone()) {
            warn!("the kernel does not answer for what is no longer gyre's: {error}");
        }
        let old: Vec<AddressOn> = self.added.difference(&self.wanted_addresses).cloned().collect();
        for address in old {
            self.delete(&address);
            self.added.remove(&address);
        }
        if let Err(error) = self.remember() {
            warn!("{error}");
        }
    }

    /// Takes back everything.
    fn clear(mut self) {
        for address in std::mem::take(&mut self.added) {
            self.delete(&address);
        }
        if let Err(error) = self.remember() {
            warn!("{error}");
        }
        if self.has_table
            && let Err(error) = nftables::apply(&rules::delete_table(&self.table))
        {
            warn!("rules stay behind in table {}: {error}", self.table);
        }
    }

    fn put_rules(&mut self, guarded: Guarded) -> Result<(), NftError> {
        let interfaces = &self.config.guarded;
        let same = self.has_table && (guarded == self.in_force || interfaces.shared.is_empty());
        if interfaces.is_empty() || same {
            return Ok(());
        }
        nftables::apply(&rules::replace_table(&self.table, interfaces, &guarded))?;
        self.has_table = true;
        self.in_force = guarded;
        Ok(())
    }

    /// Adds what is wanted and was not there; tries them all before it reports the first fault.
    fn add_missing(&mut self) -> Result<(), KeeperError> {
        let missing: Vec<AddressOn> =
            self.wanted_addresses.difference(&self.added).cloned().collect();
        let mut result = Ok(());
        for on_one in missing.chunk_by(|a, b| a.interface == b.interface) {
            result = result.and(self.add(on_one));
        }
        result
    }

    /// Adds addresses of one interface that are not there.
    fn add(&mut self, wanted: &[AddressOn]) -> Result<(), KeeperError> {
        let Some(first) = wanted.first() else { return Ok(()) };
        let ifindex = self.kernel.find(&first.interface)?.ifindex;
        let present = self.kernel.addresses(ifindex)?;
        let is_absent = |on: &&AddressOn| !present.iter().any(|(there, _)| *there == on.address);
        let absent: Vec<&AddressOn> = wanted.iter().filter(is_absent).collect();
        self.added.extend(absent.iter().map(|on| (*on).clone()));
        self.remember()?;
        let mut result = Ok(());
        for on in absent {
            if let Err(error) = self.kernel.add_address(ifindex, on.address, on.bits) {
                self.added.remove(on);
                result = result.and(Err(error.into()));
            }
        }
        result
    }

    fn delete(&self, address: &AddressOn) {
        let deleted = self.kernel.find(&address.interface).and_then(|link| {
            self.kernel.delete_address(link.ifindex, address.address, address.bits)
        });
        if let Err(error) = deleted {
            // The interface is gone, and the address with it.
            debug!("{}/{} on {}: {error}", address.address, address.bits, address.interface);
        }
    }

    /// Notes what we added to interfaces that outlive us.
    fn remember(&self) -> Result<(), KeeperError> {
        let lasting = &self.config.guarded.shared;
        let outlives = |on: &&AddressOn| lasting.contains(&on.interface);
        let noted = self.added.iter().filter(outlives).cloned().collect();
        self.config.file.write(&noted).map_err(|source| {
            let path = self.config.file.path().display().to_string();
            KeeperError::File { path, source }
        })
    }
}
