//! An external program: good when it ends with 0.
//!
//! It gets a process group of its own, which is killed as a whole when the time is over or the
//! check is removed, so that what a script started ends with it.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, Command};

use super::{Check, Deadline, Failure};
use crate::control::health::ending;

/// How much of what a program prints is kept, from the end.
const OUTPUT_BYTES_MAX: usize = 4096;
/// How long output that is on its way is waited for after the end. A program may leave a child
/// behind that holds the pipe open.
const OUTPUT_PATIENCE: Duration = Duration::from_millis(50);
/// Characters of its last line in a reason.
const REASON_CHARS_MAX: usize = 200;

/// Runs it.
pub(super) async fn attempt(
    check: &Check,
    command: &[String],
    deadline: Deadline,
) -> Result<(), Failure> {
    let path = command.first().map_or("", String::as_str);
    let (mut child, printed) = start(check, command)
        .map_err(|error| Failure::Director(format!("{path} cannot be started: {error}")))?;
    // Dropped before the child is waited for, or not at all: the number is still its own.
    let group = Group::of(&child);
    let mut output = Output::default();
    let ended = async {
        let status = output.follow(printed, &mut child).await;
        status.map_err(|error| Failure::Director(format!("{path} is lost: {error}")))
    };
    let status = match deadline.within("end of the program", ended).await {
        Err(late @ Failure::Timeout { .. }) => {
            return Err(Failure::Answer(with(late.to_string(), &output.last_line())));
        }
        other => other?,
    };
    group.release();
    match status.success() {
        true => Ok(()),
        false => Err(Failure::Answer(reason(status, &output.last_line()))),
    }
}

/// Starts it. Both its streams are one pipe, so that the last line is the last that it wrote.
fn start(check: &Check, command: &[String]) -> std::io::Result<(Child, Receiver)> {
    let [path, arguments @ ..] = command else {
        return Err(std::io::ErrorKind::NotFound.into());
    };
    let mut run = Command::new(path);
    let (printed, prints) = std::io::pipe()?;
    run.args(arguments).stdin(Stdio::null()).stdout(prints.try_clone()?).stderr(prints);
    // A program that could tell systemd of its state would speak for gyre.
    run.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC").env_remove("WATCHDOG_PID");
    let server = check.address();
    run.env("GYRE_RIP", server.ip().to_string()).env("GYRE_RPORT", server.port().to_string());
    match check.target.vip {
        Some(vip) => {
            run.env("GYRE_VIP", vip.ip().to_string()).env("GYRE_VPORT", vip.port().to_string());
        }
        None => {
            run.env_remove("GYRE_VIP").env_remove("GYRE_VPORT");
        }
    }
    let child = run.process_group(0).kill_on_drop(true).spawn()?;
    Ok((child, Receiver::from_owned_fd(printed.into())?))
}

/// A running program's process group; dropped, it is killed.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Group(child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?)))
    }

    /// The program has ended by itself; whom it left behind on purpose is left alone.
    fn release(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // It may have ended this moment.
        let _ = self.0.map(|group| kill_process_group(group, Signal::KILL));
    }
}

/// The end of what a program printed.
#[derive(Default)]
struct Output(Vec<u8>);

impl Output {
    /// Reads until the program ends.
    async fn follow(
        &mut self,
        mut printed: Receiver,
        child: &mut Child,
    ) -> std::io::Result<ExitStatus> {
        let status = tokio::select! {
            status = child.wait() => status,
            // It has closed its streams and goes on.
            () = self.read(&mut printed) => child.wait().await,
        };
        // Its children may hold the pipe for as long as they like.
        let _ = tokio::time::timeout(OUTPUT_PATIENCE, self.read(&mut printed)).await;
        status
    }

    /// Reads to the end, or to an error, which ends it as well.
    async fn read(&mut self, printed: &mut Receiver) {
        let mut buffer = [0; 1024];
        while let Ok(bytes @ 1..) = printed.read(&mut buffer).await {
            self.take(&buffer[..bytes]);
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        let excess = self.0.len().saturating_sub(OUTPUT_BYTES_MAX);
        self.0.drain(..excess);
    }

    fn last_line(&self) -> String {
        let text = String::from_utf8_lossy(&self.0);
        let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty());
        ending::shown(line.unwrap_or("")).chars().take(REASON_CHARS_MAX).collect()
    }
}

fn reason(status: ExitStatus, line: &str) -> String {
    with(format!("the program ended with {}", ending::words(status)), line)
}

fn with(end: String, line: &str) -> String {
    if line.is_empty() { end } else { format!("{end}: {line}") }
}
