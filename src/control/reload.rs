//! The wish that the configuration file be read again: SIGHUP.

use std::sync::Arc;

use tokio::sync::Notify;

/// A bell that anyone may ring. Clones share it; rings that nobody has heard yet are one.
#[derive(Clone, Debug, Default)]
pub struct Reload(Arc<Notify>);

impl Reload {
    /// A bell that has not rung.
    pub fn new() -> Self {
        Reload::default()
    }

    /// Rings. Works from any thread.
    pub fn request(&self) {
        self.0.notify_one();
    }

    /// Waits until it rings.
    pub async fn requested(&self) {
        self.0.notified().await;
    }
}
