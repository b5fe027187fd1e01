//! Replies to changes, held back until every worker runs on what was changed: whoever has the
//! reply finds the change in force. A worker that does not turn delays them for a bounded time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::control::api::rpc::Outcome;

/// How long a worker that does not adopt keeps a reply waiting, and the start.
pub const ADOPTION_PATIENCE: Duration = Duration::from_millis(500);

struct Held {
    revision: u64,
    until: Instant,
    outcome: Outcome,
    reply: oneshot::Sender<Outcome>,
}

/// The replies that wait, by revision.
#[derive(Default)]
pub struct Replies {
    held: VecDeque<Held>,
}

impl Replies {
    /// Holds a reply back until workers adopted `revision`; revisions come in order.
    pub fn hold(&mut self, revision: u64, outcome: Outcome, reply: oneshot::Sender<Outcome>) {
        let until = Instant::now() + ADOPTION_PATIENCE;
        self.held.push_back(Held { revision, until, outcome, reply });
    }

    /// Sends those that every worker's `adopted` revision has reached, and those that are overdue.
    pub fn release(&mut self, adopted: u64, now: Instant) {
        while let Some(first) = self.held.front()
            && (first.revision <= adopted || first.until <= now)
        {
            // A client that went away made its change all the same.
            let sent = self.held.pop_front().map(|held| held.reply.send(held.outcome));
            drop(sent);
        }
    }

    /// Sends all that wait.
    pub fn release_all(&mut self) {
        self.release(u64::MAX, Instant::now());
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;

    fn outcome() -> Outcome {
        Ok(RawValue::from_string("1".into()).unwrap())
    }

    #[test]
    fn a_reply_waits_for_its_revision_and_no_longer_than_it_may() {
        let mut replies = Replies::default();
        let (second, mut of_second) = oneshot::channel();
        let (third, mut of_third) = oneshot::channel();
        replies.hold(2, outcome(), second);
        replies.hold(3, outcome(), third);
        let now = Instant::now();
        replies.release(1, now);
        assert!(of_second.try_recv().is_err());
        replies.release(2, now);
        assert!(of_second.try_recv().is_ok());
        assert!(of_third.try_recv().is_err());
        replies.release(2, now + ADOPTION_PATIENCE);
        assert!(of_third.try_recv().is_ok());
        assert!(replies.is_empty());
    }
}
