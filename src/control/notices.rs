//! What happens, from the core to clients that asked to hear of it. Bounded: a client that is too
//! slow misses some and is told how many.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::broadcast::{self, Receiver, Sender};

use super::api::{Event, EventKind, Notice, SubscribeParams, SubscribeResult};
use crate::limits::EVENTS_UNSENT_MAX;

/// Where events are told. Clones share it.
#[derive(Clone, Debug)]
pub struct Notices {
    to: Sender<Arc<Notice>>,
    told: Arc<AtomicU64>,
}

impl Notices {
    /// With nobody who listens.
    pub fn new() -> Self {
        Notices { to: broadcast::channel(EVENTS_UNSENT_MAX).0, told: Arc::default() }
    }

    /// Whether anybody listens: what is dear to find out may be left.
    pub fn are_heard(&self) -> bool {
        self.to.receiver_count() > 0
    }

    /// Tells everybody.
    pub fn tell(&self, event: Event) {
        let number = self.told.fetch_add(1, Ordering::Relaxed) + 1;
        // Nobody there to hear it is no fault.
        let _ = self.to.send(Arc::new(Notice { number, time_ms: now_ms(), event }));
    }

    /// Somebody who may want to hear.
    pub fn listener(&self) -> Listener {
        Listener { source: self.clone(), heard: None }
    }
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// One client's ear.
#[derive(Debug)]
pub struct Listener {
    source: Notices,
    heard: Option<(Receiver<Arc<Notice>>, Vec<EventKind>)>,
}

impl Listener {
    /// Hears these kinds from now on, or all, or no more.
    pub fn subscribe(&mut self, params: SubscribeParams) -> SubscribeResult {
        let kinds = params.kinds.unwrap_or_else(|| EventKind::ALL.to_vec());
        self.heard = match (kinds.is_empty(), self.heard.take()) {
            (true, _) => None,
            // What waits of the new kinds is heard too.
            (false, Some((receiver, _))) => Some((receiver, kinds.clone())),
            (false, None) => Some((self.source.to.subscribe(), kinds.clone())),
        };
        SubscribeResult { kinds }
    }

    /// The next event; never, where nothing is wanted. May be given up and called again.
    pub async fn next(&mut self) -> Arc<Notice> {
        while let Some((receiver, kinds)) = &mut self.heard {
            match receiver.recv().await {
                Ok(notice) if kinds.contains(&notice.event.kind()) => return notice,
                Ok(_) => {}
                Err(RecvError::Lagged(count)) => {
                    let number = self.source.told.load(Ordering::Relaxed);
                    let event = Event::EventsLost { count };
                    return Arc::new(Notice { number, time_ms: now_ms(), event });
                }
                Err(RecvError::Closed) => self.heard = None,
            }
        }
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(worker: u8) -> Event {
        Event::WorkerStalled { worker }
    }

    #[test]
    fn a_listener_hears_its_kinds_and_what_it_missed() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(hears_and_misses());
    }

    async fn hears_and_misses() {
        let notices = Notices::new();
        let mut all = notices.listener();
        let mut few = notices.listener();
        assert!(!notices.are_heard());
        assert_eq!(all.subscribe(SubscribeParams::default()).kinds, EventKind::ALL);
        few.subscribe(SubscribeParams { kinds: Some(vec![EventKind::DrainDone]) });
        assert!(notices.are_heard());
        let drain = Event::DrainDone { service: "a".into(), server: "b".into() };
        notices.tell(worker(1));
        notices.tell(drain.clone());
        assert_eq!(few.next().await.event, drain);
        assert_eq!((all.next().await.number, all.next().await.number), (1, 2));
        let more = EVENTS_UNSENT_MAX as u64 + 10;
        (0..more).for_each(|_| notices.tell(worker(2)));
        assert_eq!(all.next().await.event, Event::EventsLost { count: 10 });
        assert_eq!(all.next().await.event, worker(2));
        few.subscribe(SubscribeParams { kinds: Some(Vec::new()) });
        all.subscribe(SubscribeParams { kinds: Some(Vec::new()) });
        assert!(!notices.are_heard());
    }
}
