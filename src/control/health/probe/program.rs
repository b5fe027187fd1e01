//! An external program: good when it ends with 0.
//!
//! It gets a process group of its own, which is killed as a whole when the time is over or the
//! check is removed, so that what a script started ends with it.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};

use super::{Check, Deadline, Failure};

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
    let mut child = start(check, command)
        .map_err(|error| Failure::Director(format!("{path} cannot be started: {error}")))?;
    // Dropped before the child is waited for, or not at all: the number is still its own.
    let group = Group::of(&child);
    let mut output = Output::default();
    let ended = async {
        let status = output.follow(&mut child).await;
        status.map_err(|error| Failure::Director(format!("{path} is lost: {error}")))
    };
    let status = deadline.within("end of the program", ended).await?;
    group.release();
    match status.success() {
        true => Ok(()),
        false => Err(Failure::Answer(reason(status, &output.last_line()))),
    }
}

fn start(check: &Check, command: &[String]) -> std::io::Result<Child> {
    let [path, arguments @ ..] = command else {
        return Err(std::io::ErrorKind::NotFound.into());
    };
    let mut run = Command::new(path);
    run.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
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
    run.process_group(0).kill_on_drop(true).spawn()
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

/// The end of what a program printed, both streams together.
#[derive(Default)]
struct Output(Vec<u8>);

impl Output {
    /// Reads until the program ends.
    async fn follow(&mut self, child: &mut Child) -> std::io::Result<ExitStatus> {
        let (mut plain, mut errors) = (child.stdout.take(), child.stderr.take());
        loop {
            let (mut from_plain, mut from_errors) = ([0; 1024], [0; 1024]);
            tokio::select! {
                status = child.wait() => {
                    let rest = self.drain(&mut plain, &mut errors);
                    // Its children may hold the pipes for as long as they like.
                    let _ = tokio::time::timeout(OUTPUT_PATIENCE, rest).await;
                    return status;
                }
                bytes = read(&mut plain, &mut from_plain) => self.take(&from_plain[..bytes]),
                bytes = read(&mut errors, &mut from_errors) => self.take(&from_errors[..bytes]),
            }
        }
    }

    async fn drain(
        &mut self,
        plain: &mut Option<impl AsyncRead + Unpin>,
        errors: &mut Option<impl AsyncRead + Unpin>,
    ) {
        let mut buffer = [0; 1024];
        while plain.is_some() {
            let bytes = read(plain, &mut buffer).await;
            self.take(&buffer[..bytes]);
        }
        while errors.is_some() {
            let bytes = read(errors, &mut buffer).await;
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
        let printable = |c: &char| !c.is_control();
        line.unwrap_or("").chars().filter(printable).take(REASON_CHARS_MAX).collect()
    }
}

/// Reads from a stream; at its end, or an error, it is put away. Never ready without one.
async fn read(stream: &mut Option<impl AsyncRead + Unpin>, buffer: &mut [u8]) -> usize {
    let Some(open) = stream else { return std::future::pending().await };
    let bytes = open.read(buffer).await.unwrap_or(0);
    if bytes == 0 {
        *stream = None;
    }
    bytes
}

fn reason(status: ExitStatus, line: &str) -> String {
    use std::os::unix::process::ExitStatusExt;
    let end = match (status.code(), status.signal()) {
        (Some(code), _) => format!("the program ended with {code}"),
        (None, Some(signal)) => format!("the program was killed by signal {signal}"),
        (None, None) => "the program ended".to_owned(),
    };
    if line.is_empty() { end } else { format!("{end}: {line}") }
}
