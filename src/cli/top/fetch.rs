//! Asks gyre again and again, on a thread of its own: a gyre that is slow or gone never holds the
//! screen up.

use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use super::state::Sample;
use crate::cli::args::SocketArgs;
use crate::cli::client::{Client, ClientError};
use crate::control::api::{NoParams, Stats};

/// What was asked and when, newest last.
pub type Samples = Receiver<Sample>;

/// Begins to ask.
pub fn start(socket: SocketArgs, interval: Duration) -> Samples {
    let (sender, samples) = mpsc::sync_channel(4);
    std::thread::spawn(move || {
        let began = Instant::now();
        let mut client = None;
        loop {
            let asked = Instant::now();
            let sample = match ask(&mut client, &socket) {
                Ok(stats) => Sample::Stats { at_ms: began.elapsed().as_millis() as u64, stats },
                Err(error) => {
                    client = None;
                    Sample::Gone(error.to_string())
                }
            };
            if sender.send(sample).is_err() {
                return;
            }
            std::thread::sleep(interval.saturating_sub(asked.elapsed()));
        }
    });
    samples
}

fn ask(client: &mut Option<Client>, socket: &SocketArgs) -> Result<Box<Stats>, ClientError> {
    let client = match client {
        Some(client) => client,
        None => client.insert(Client::connect(&socket.socket)?),
    };
    let (stats, _): (Stats, _) = client.call("stats", &NoParams {})?;
    Ok(Box::new(stats))
}
