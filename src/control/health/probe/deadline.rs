//! Until when an attempt may take, and what it was waiting for when that was over.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::Failure;

/// The end of an attempt.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    at: Instant,
    timeout_ms: u32,
}

impl Deadline {
    /// So many milliseconds from now.
    pub fn new(timeout_ms: u32) -> Self {
        let timeout = Duration::from_millis(timeout_ms.into());
        Deadline { at: Instant::now() + timeout, timeout_ms }
    }

    /// Waits for `work` until then; `awaited` says what did not come.
    pub async fn within<T>(
        &self,
        awaited: &'static str,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        match timeout_at(self.at, work).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Failure::Timeout { awaited, timeout_ms: self.timeout_ms }),
        }
    }

    /// When it is over.
    pub fn at(&self) -> Instant {
        self.at
    }

    /// Milliseconds it was given.
    pub fn timeout_ms(&self) -> u32 {
        self.timeout_ms
    }
}
