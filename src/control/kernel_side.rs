//! How control tells the kernel beside the ports what gyre serves. Filled by `runtime`, which owns
//! the rules and addresses there.

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::model::Snapshot;

/// Prepares the kernel for a snapshot: VIPs and LIPs become its addresses, and rules keep its
/// stack from answering for services on shared ports.
///
/// Call it with each snapshot and wait for the answer before the first worker gets that snapshot:
/// otherwise the kernel resets the clients of a service that it does not know to be gyre's. The
/// answer comes at once when nothing changed for the kernel, else within some 20 ms; an error was
/// logged and does not stop the publication. What the snapshot no longer serves is taken back a
/// little later without being asked.
pub type KernelSide = Arc<dyn Fn(&Arc<Snapshot>) -> oneshot::Receiver<()> + Send + Sync>;
