//! SIGINT and SIGTERM raise control's wish to stop; a second one does not hurry anything, so that
//! queues are always drained and interfaces always removed.

use std::io;
use std::thread;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::info;

use crate::control::Stop;

/// Starts to watch, from now on, on a thread of its own that ends with the process.
pub fn watch(stop: Stop) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    let body = move || {
        loop {
            let name = runtime.block_on(next(&mut interrupt, &mut terminate));
            info!("{name}: stopping");
            stop.request();
        }
    };
    thread::Builder::new().name("gyre-signals".to_owned()).spawn(body).map(drop)
}

async fn next(interrupt: &mut Signal, terminate: &mut Signal) -> &'static str {
    tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    }
}
