//! The wish to stop: from a signal, from the socket, from a worker's end.

use std::sync::Arc;

use tokio::sync::watch;

/// A flag that anyone may raise and tasks may wait for. Clones share it.
#[derive(Clone, Debug)]
pub struct Stop(Arc<watch::Sender<bool>>);

impl Stop {
    /// A flag that is down.
    pub fn new() -> Self {
        Stop(Arc::new(watch::Sender::new(false)))
    }

    /// Raises the flag; again is harmless. Works from any thread.
    pub fn request(&self) {
        self.0.send_replace(true);
    }

    /// Whether the flag is up.
    pub fn is_requested(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until the flag is up.
    pub async fn requested(&self) {
        // Fails only without a sender, and we hold one.
        let _ = self.0.subscribe().wait_for(|up| *up).await;
    }
}

impl Default for Stop {
    fn default() -> Self {
        Stop::new()
    }
}
