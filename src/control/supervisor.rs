//! What the service manager is told (sd_notify(3)): that gyre is ready, reloads, stops, what it is
//! at, and, for its watchdog, that every worker turns.
//!
//! Without `NOTIFY_SOCKET` there is nobody to tell, and nothing happens. Nothing here waits: a
//! manager that does not read misses a message.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tracing::warn;

use crate::counters::WorkerCounters;

/// Messages to the service manager. Clones send to the same one.
#[derive(Clone, Debug, Default)]
pub struct Supervisor {
    socket: Option<Arc<UnixDatagram>>,
    /// How long the manager waits for a sign of life before it ends gyre.
    watchdog: Option<Duration>,
}

impl Supervisor {
    /// The one that started this process, if any.
    pub fn from_environment() -> Self {
        let Some(address) = env::var_os("NOTIFY_SOCKET") else { return Supervisor::default() };
        let meant = |pid: String| pid.parse() == Ok(std::process::id());
        let is_ours = env::var("WATCHDOG_PID").map_or(true, meant);
        let usec = env::var("WATCHDOG_USEC").ok().filter(|_| is_ours);
        let usec = usec.and_then(|text| text.parse().ok()).filter(|usec| *usec > 0);
        Supervisor::at(&address, usec.map(Duration::from_micros)).unwrap_or_else(|error| {
            warn!(
                "NOTIFY_SOCKET={}: {error}; the service manager will not hear that gyre is ready",
                address.display()
            );
            Supervisor::default()
        })
    }

    /// One that listens at `address`: a path, or `@` and a name.
    pub fn at(address: &OsStr, watchdog: Option<Duration>) -> io::Result<Self> {
        let address = match address.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            _ => SocketAddr::from_pathname(address)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address)?;
        socket.set_nonblocking(true)?;
        Ok(Supervisor { socket: Some(Arc::new(socket)), watchdog })
    }

    fn tell(&self, message: &str) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = socket.send(message.as_bytes()) {
            warn!("the service manager was not told {message:?}: {error}");
        }
    }

    /// Ready: at start, or again after a reload.
    pub fn ready(&self) {
        self.tell("READY=1");
    }

    /// A reload has begun; `ready` says that it is over, done or refused.
    pub fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let usec = now.tv_sec.saturating_mul(1_000_000).saturating_add(now.tv_nsec / 1_000);
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={usec}"));
    }

    /// Gyre is about to end.
    pub fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=stopping");
    }

    /// The line of `systemctl status`.
    pub fn status(&self, line: &str) {
        self.tell(&format!("STATUS={line}"));
    }

    /// What feeds the watchdog, where there is one.
    pub fn heartbeat(&self) -> Option<Heartbeat> {
        self.watchdog.filter(|_| self.socket.is_some()).map(Heartbeat::new)
    }

    /// Feeds the watchdog.
    pub fn alive(&self) {
        self.tell("WATCHDOG=1");
    }
}

/// Says when the watchdog may be fed: every worker has completed a turn since it was fed last.
#[derive(Debug)]
pub struct Heartbeat {
    every: Duration,
    next: Option<Instant>,
    /// By worker, at the last beat.
    turns: Vec<u64>,
}

impl Heartbeat {
    /// Four beats within the manager's patience: one may be missed and another late.
    fn new(patience: Duration) -> Self {
        Heartbeat { every: patience / 4, next: None, turns: Vec::new() }
    }

    /// Whether to beat now; to be called more often than that.
    pub fn is_due(&mut self, workers: &[Arc<WorkerCounters>], now: Instant) -> bool {
        if self.next.is_some_and(|next| now < next) {
            return false;
        }
        let turns: Vec<u64> = workers.iter().map(|worker| worker.turns.get()).collect();
        let all_turn = turns.iter().enumerate().all(|(at, t)| self.turns.get(at) != Some(t));
        if all_turn {
            self.turns = turns;
            self.next = Some(now + self.every);
        }
        all_turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listening() -> (UnixDatagram, Supervisor, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let supervisor = Supervisor::at(path.as_os_str(), Some(Duration::from_secs(4))).unwrap();
        (manager, supervisor, directory)
    }

    fn heard(manager: &UnixDatagram) -> String {
        let mut bytes = [0; 512];
        let length = manager.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    #[test]
    fn the_manager_hears_what_it_is_told() {
        let (manager, supervisor, _directory) = listening();
        supervisor.ready();
        assert_eq!(heard(&manager), "READY=1");
        supervisor.reloading();
        let text = heard(&manager);
        let usec = text.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!(usec.parse::<u64>().unwrap() > 0, "{text}");
        supervisor.status("revision 3");
        assert_eq!(heard(&manager), "STATUS=revision 3");
        supervisor.stopping();
        assert!(heard(&manager).starts_with("STOPPING=1"));
    }

    #[test]
    fn an_abstract_address_is_reached_and_a_deaf_manager_holds_up_nobody() {
        let name = format!("gyre-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let manager = UnixDatagram::bind_addr(&address).unwrap();
        let supervisor = Supervisor::at(OsStr::new(&format!("@{name}")), None).unwrap();
        supervisor.ready();
        assert_eq!(heard(&manager), "READY=1");
        let began = Instant::now();
        (0..10_000).for_each(|_| supervisor.alive());
        assert!(began.elapsed() < Duration::from_secs(5));
        assert!(supervisor.heartbeat().is_none());
    }

    #[test]
    fn without_a_manager_nothing_happens() {
        let nobody = Supervisor::default();
        nobody.ready();
        nobody.stopping();
        assert!(nobody.heartbeat().is_none());
        assert!(Supervisor::at(OsStr::new("/nonexistent/notify"), None).is_err());
    }

    #[test]
    fn the_heart_beats_only_while_every_worker_turns() {
        let (_manager, supervisor, _directory) = listening();
        let workers: Vec<_> =
            (0..2).map(|_| Arc::new(WorkerCounters::with_bounds(0, 0, 0))).collect();
        let (mut heartbeat, start) = (supervisor.heartbeat().unwrap(), Instant::now());
        let mut beats = Vec::new();
        for step in 0..20u64 {
            workers[0].turns.add(1);
            if !(6..15).contains(&step) {
                workers[1].turns.add(1);
            }
            let now = start + Duration::from_millis(500) * step as u32;
            if heartbeat.is_due(&workers, now) {
                beats.push(step);
            }
        }
        // One a second; the turns since the last beat count once, then no more until it turns.
        assert_eq!(beats, [0, 2, 4, 6, 15, 17, 19]);
    }
}
