//! Which exit code an error means.

use std::io;
use std::process::ExitCode;

use super::client::ClientError;
use crate::config::Problem;
use crate::control::api::{ApiError, ErrorCode};

/// Exit code of bad usage or configuration.
const BAD_USAGE: u8 = 2;

/// The user asked for something impossible: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadUsage(pub String);

/// A configuration file with faults: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {} problems", problems.len())]
pub struct BadConfig {
    /// The file.
    pub path: String,
    /// What is wrong with it.
    pub problems: Vec<Problem>,
}

/// What was examined is not well: nothing more to say, and this exit code.
#[derive(Debug, thiserror::Error)]
#[error("not well")]
pub struct Unwell(pub u8);

/// The same as a running gyre told it, a line each with the file's name.
#[derive(Debug, thiserror::Error)]
#[error("{} problems", .0.len())]
pub struct BadConfigLines(pub Vec<String>);

/// Prints an error: a file's problems a line each, as compilers do, others in one.
pub fn print(error: &anyhow::Error) {
    if let Some(BadConfig { path, problems }) = error.downcast_ref() {
        problems.iter().for_each(|problem| eprintln!("{path}:{problem}"));
    } else if let Some(BadConfigLines(lines)) = error.downcast_ref() {
        lines.iter().for_each(|line| eprintln!("{line}"));
    } else if !error.is::<Unwell>() {
        eprintln!("gyre: {}", on_one_line(error));
    }
}

/// 2 for bad usage or configuration, here or in gyre's eyes; 1 for the rest.
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    if let Some(Unwell(code)) = error.downcast_ref() {
        return ExitCode::from(*code);
    }
    let is_usage = error.chain().any(|cause| {
        cause.is::<BadUsage>()
            || cause.is::<BadConfig>()
            || cause.is::<BadConfigLines>()
            || cause.downcast_ref::<ClientError>().is_some_and(is_refusal)
    });
    if is_usage { ExitCode::from(BAD_USAGE) } else { ExitCode::FAILURE }
}

fn is_refusal(error: &ClientError) -> bool {
    const REFUSALS: [ErrorCode; 5] = [
        ErrorCode::ParseError,
        ErrorCode::InvalidRequest,
        ErrorCode::MethodNotFound,
        ErrorCode::InvalidParams,
        ErrorCode::InvalidConfig,
    ];
    let refused = |error: &ApiError| REFUSALS.iter().any(|code| code.number() == error.code);
    matches!(error, ClientError::Refused(error) if refused(error))
}

/// An error with its causes on one line. Many messages tell their cause already, in the place where
/// it reads best; such a cause is not told twice.
fn on_one_line(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

/// Whether standard output's reader went away.
pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_is_told_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("port wan: {source}; do this")]
        struct Telling {
            source: io::Error,
        }
        let telling = Telling { source: io::Error::other("no such thing") };
        let error = anyhow::Error::new(telling).context("gyre does not start");
        let expected = "gyre does not start: port wan: no such thing; do this";
        assert_eq!(on_one_line(&error), expected);
    }
}
