//! Problems of a configuration as error replies.

use crate::config::Problem;
use crate::control::api::{ApiError, ErrorCode};
use crate::limits::CHANGES_SHOWN_MAX;
use crate::model::{ProblemKind, SpecProblem};

/// What the schema or the meaning of a text refuses.
pub fn from_config(problems: Vec<Problem>) -> ApiError {
    let first = problems.first().map(ToString::to_string).unwrap_or_default();
    let lines = problems.iter().map(ToString::to_string).collect();
    error(ErrorCode::InvalidConfig, first, lines)
}

/// What the registry refuses.
pub fn from_specs(problems: Vec<SpecProblem>) -> ApiError {
    let has = |kind| problems.iter().any(|problem| problem.kind == kind);
    let code = if has(ProblemKind::NotFound) {
        ErrorCode::NotFound
    } else if has(ProblemKind::Exists) {
        ErrorCode::Exists
    } else if has(ProblemKind::Invalid) {
        ErrorCode::InvalidConfig
    } else {
        ErrorCode::NoRoom
    };
    let first = problems.first().map(ToString::to_string).unwrap_or_default();
    error(code, first, problems.iter().map(ToString::to_string).collect())
}

/// One problem is the message; several are listed.
fn error(code: ErrorCode, first: String, mut lines: Vec<String>) -> ApiError {
    if lines.len() < 2 {
        return ApiError::new(code, first).problems(lines);
    }
    let message = format!("{} problems; nothing has changed", lines.len());
    lines.truncate(CHANGES_SHOWN_MAX);
    ApiError::new(code, message).problems(lines)
}
