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

/// Prints an error: a file's problems a line each, as compilers do, others in one.
pub fn print(error: &anyhow::Error) {
    match error.downcast_ref::<BadConfig>() {
        Some(BadConfig { path, problems }) => {
            problems.iter().for_each(|problem| eprintln!("{path}:{problem}"));
        }
        None => eprintln!("gyre: {error:#}"),
    }
}

/// 2 for bad usage or configuration, here or in gyre's eyes; 1 for the rest.
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    let is_usage = error.chain().any(|cause| {
        cause.is::<BadUsage>()
            || cause.is::<BadConfig>()
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

/// Whether standard output's reader went away.
pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}
