//! How far a run is, in one line on the terminal; nothing where there is none.

use std::io::{IsTerminal, Write, stderr};
use std::time::Duration;

/// The line.
pub struct Progress {
    is_terminal: bool,
    /// What is going on.
    title: String,
    is_shown: bool,
}

impl Progress {
    /// On standard error, which leaves standard output to the report.
    pub fn new() -> Self {
        Progress { is_terminal: stderr().is_terminal(), title: String::new(), is_shown: false }
    }

    /// Says what comes next.
    pub fn title(&mut self, title: impl Into<String>) {
        self.title = title.into();
    }

    /// Shows counts so far.
    pub fn show(&mut self, elapsed: Duration, sent: u64, received: u64) {
        if !self.is_terminal {
            return;
        }
        let (title, seconds) = (&self.title, elapsed.as_secs_f64());
        // Back to the line's start, then clear to its end.
        let _ = write!(stderr(), "\r\x1b[K{title}: {seconds:.1} s, {sent} sent, {received} back");
        let _ = stderr().flush();
        self.is_shown = true;
    }

    /// Takes the line away.
    pub fn clear(&mut self) {
        if self.is_shown {
            let _ = write!(stderr(), "\r\x1b[K");
            let _ = stderr().flush();
            self.is_shown = false;
        }
    }
}
