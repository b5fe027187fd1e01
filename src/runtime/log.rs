//! The log on standard error: lines for people, lines with priorities for the journal, or JSON;
//! and the last words of a panic, which ends the process.
//!
//! What is worth a line is for others to say.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::env;
use std::fmt;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::panic;
use std::process;

use tracing::{Event, Level, Subscriber, error};
use tracing_subscriber::fmt::format::{Compact, DefaultFields, Format, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent};
use tracing_subscriber::registry::LookupSpan;

use crate::config::{LogFormat, LogLevel};

/// Starts the log. A process has one: later calls change nothing.
pub fn start(level: LogLevel, format: LogFormat) {
    let level = match level {
        LogLevel::Error => Level::ERROR,
        LogLevel::Warn => Level::WARN,
        LogLevel::Info => Level::INFO,
        LogLevel::Debug => Level::DEBUG,
        LogLevel::Trace => Level::TRACE,
    };
    let log = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false)
        .with_ansi(false)
        .with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Json => log.json().flatten_event(true).with_current_span(false).try_init(),
        LogFormat::Text if is_journal() => log.event_format(ForJournal::default()).try_init(),
        LogFormat::Text => log.try_init(),
    };
    // A test that launches twice in one process has a log already.
    let _ = started;
}

/// Has any panic, of whatever thread, end the process at once, by a signal that the service manager
/// takes for a failure. Release builds do so by themselves; with this, every build does, and the
/// reason stands in the log in its format.
pub fn abort_on_panic() {
    panic::set_hook(Box::new(|info| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("?").to_owned();
        let backtrace = Backtrace::capture();
        let trace = match backtrace.status() {
            BacktraceStatus::Captured => format!("\n{backtrace}"),
            _ => String::new(),
        };
        error!(thread = name, "gyre ends by a fault of its own, please report it: {info}{trace}");
        process::abort();
    }));
}

/// Whether standard error is the journal's: then `JOURNAL_STREAM` names it (systemd.exec(5)).
fn is_journal() -> bool {
    let Ok(stream) = env::var("JOURNAL_STREAM") else { return false };
    let stderr = std::io::stderr().as_fd().try_clone_to_owned().map(File::from);
    let metadata = stderr.and_then(|stderr| stderr.metadata());
    metadata.is_ok_and(|it| stream == format!("{}:{}", it.dev(), it.ino()))
}

/// Lines as journald wants them: a priority (sd-daemon(3)) and no time, which it has itself.
struct ForJournal(Format<Compact, ()>);

impl Default for ForJournal {
    fn default() -> Self {
        let format = tracing_subscriber::fmt::format().compact().without_time();
        ForJournal(format.with_level(false).with_target(false).with_ansi(false))
    }
}

/// syslog's severity of a level.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> FormatEvent<S, DefaultFields> for ForJournal {
    fn format_event(
        &self,
        context: &FmtContext<'_, S, DefaultFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut text = String::new();
        self.0.format_event(context, Writer::new(&mut text), event)?;
        write_lines(&mut writer, priority(*event.metadata().level()), &text)
    }
}

/// Every line begins with its priority, else the rest of a long message would lose it.
fn write_lines(writer: &mut Writer<'_>, priority: u8, text: &str) -> fmt::Result {
    for line in text.lines() {
        writer.write_str(&format!("<{priority}>{line}\n"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use nix::sys::signal::Signal;
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn each_line_of_a_message_has_its_priority() {
        let mut text = String::new();
        let lines = "one\n<0>two\n";
        write_lines(&mut Writer::new(&mut text), priority(Level::WARN), lines).unwrap();
        assert_eq!(text, "<4>one\n<4><0>two\n");
    }

    const INSIDE: &str = "GYRE_TEST_PANICS_INSIDE";

    /// Runs itself again, as a process of which a thread panics.
    #[test]
    fn a_panic_of_any_thread_ends_the_process() {
        if env::var_os(INSIDE).is_some() {
            start(LogLevel::Info, LogFormat::Text);
            abort_on_panic();
            let _ = std::thread::Builder::new()
                .name("gyre-worker-7".into())
                .spawn(|| panic!("on purpose"))
                .unwrap()
                .join();
            // Only a build that goes on after a panic comes here.
            process::exit(0);
        }
        let name = "runtime::log::tests::a_panic_of_any_thread_ends_the_process";
        let mut command = Command::new(env::current_exe().unwrap());
        command.args([name, "--exact", "--nocapture"]).env(INSIDE, "1");
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.signal(), Some(Signal::SIGABRT as i32), "{said}");
        assert!(said.contains("gyre-worker-7") && said.contains("on purpose"), "{said}");
    }
}
