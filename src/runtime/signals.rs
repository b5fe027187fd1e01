//! SIGINT and SIGTERM raise control's wish to stop; a second one does not hurry anything, so that
//! queues are always drained and interfaces always removed. SIGHUP has the configuration read
//! again.

use std::io;
use std::thread;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::info;

use crate::control::{Reload, Stop};

/// Starts to watch, from now on, on a thread of its own that ends with the process.
pub fn watch(stop: Stop, reload: Reload) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut signals = {
        let _inside = runtime.enter();
        Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        }
    };
    let body = move || {
        loop {
            match runtime.block_on(signals.next()) {
                Some(name) => {
                    info!("{name}: stopping");
                    stop.request();
                }
                None => reload.request(),
            }
        }
    };
    thread::Builder::new().name("gyre-signals".to_owned()).spawn(body).map(drop)
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    /// The name of the next one that stops gyre, or `None` for SIGHUP.
    async fn next(&mut self) -> Option<&'static str> {
        tokio::select! {
            _ = self.interrupt.recv() => Some("SIGINT"),
            _ = self.terminate.recv() => Some("SIGTERM"),
            _ = self.hangup.recv() => None,
        }
    }
}
