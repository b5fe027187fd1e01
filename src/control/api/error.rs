//! Error replies: JSON-RPC's own codes and gyre's, each with a stable name and a hint.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Declares error codes: variant, JSON-RPC number, stable name, meaning.
macro_rules! codes {
    ($($variant:ident = $number:literal, $name:literal, $meaning:literal;)*) => {
        /// What went wrong, in a word that programs may rely on.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum ErrorCode { $(#[doc = $meaning] $variant),* }

        impl ErrorCode {
            /// Every code.
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$variant),*];

            /// The number in JSON-RPC's `error.code`.
            pub const fn number(self) -> i32 {
                match self { $(ErrorCode::$variant => $number),* }
            }

            /// The stable name in `error.data.code`.
            pub const fn name(self) -> &'static str {
                match self { $(ErrorCode::$variant => $name),* }
            }

            /// One line for people.
            pub const fn meaning(self) -> &'static str {
                match self { $(ErrorCode::$variant => $meaning),* }
            }
        }
    };
}

codes! {
    ParseError = -32700, "parse_error", "the line is not JSON";
    InvalidRequest = -32600, "invalid_request", "JSON, but not a JSON-RPC 2.0 request";
    MethodNotFound = -32601, "method_not_found", "no such method";
    InvalidParams = -32602, "invalid_params",
        "a parameter is missing, unknown or of the wrong type";
    Internal = -32603, "internal", "a fault of gyre's own: please report it";
    NotFound = -32001, "not_found", "no such service or server";
    Exists = -32002, "exists", "the service or server is already there";
    InvalidConfig = -32003, "invalid_config",
        "the configuration is refused; every problem is listed, nothing has changed";
    NeedsRestart = -32004, "needs_restart",
        "the change cannot be made in a running gyre; nothing has changed";
    NoRoom = -32005, "no_room",
        "a table is full: too many services, servers, local addresses or requests at once";
    WorkerTimeout = -32006, "worker_timeout", "a worker did not answer in time";
    TooLarge = -32007, "too_large",
        "the request is longer than the socket takes; the connection is closed";
    TooManyClients = -32008, "too_many_clients",
        "the control socket serves no more clients; the connection is closed";
    Incomplete = -32009, "incomplete",
        "the rest of a request did not come in time; the connection is closed";
    ShuttingDown = -32010, "shutting_down", "gyre is stopping";
    Unsaved = -32011, "unsaved",
        "changes that were not saved would be lost; they are listed, nothing has changed";
    Unconfirmed = -32012, "unconfirmed",
        "a configuration waits to be confirmed, or none does; nothing has changed";
    FileChanged = -32013, "file_changed",
        "the configuration file is not the one that was loaded; nothing has changed";
    File = -32014, "file", "the configuration file cannot be read or written";
}

/// Details beside the message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorData {
    /// The stable name of the error.
    pub code: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Every problem of a refused configuration.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// JSON-RPC's `error` member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// JSON-RPC's number.
    pub code: i32,
    /// One line for people.
    pub message: String,
    /// Stable name, hint and problems. Foreign servers may leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<ErrorData>,
}

impl ApiError {
    /// An error of that kind.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let data = ErrorData { code: code.name().into(), hint: None, problems: Vec::new() };
        ApiError { code: code.number(), message: message.into(), data: Some(data) }
    }

    /// Adds what to do about it.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        if let Some(data) = &mut self.data {
            data.hint = Some(hint.into());
        }
        self
    }

    /// Adds the list of problems.
    pub fn problems(mut self, problems: Vec<String>) -> Self {
        if let Some(data) = &mut self.data {
            data.problems = problems;
        }
        self
    }

    /// The stable name, if the sender gave one.
    pub fn name(&self) -> Option<&str> {
        self.data.as_ref().map(|data| data.code.as_str())
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        let Some(data) = &self.data else { return Ok(()) };
        // A single problem is the message itself.
        for problem in data.problems.iter().filter(|problem| **problem != self.message) {
            write!(f, "\n  {problem}")?;
        }
        match &data.hint {
            Some(hint) if data.problems.len() < 2 => write!(f, "; {hint}"),
            Some(hint) => write!(f, "\n  {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ApiError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_distinct() {
        for (i, code) in ErrorCode::ALL.iter().enumerate() {
            for other in &ErrorCode::ALL[i + 1..] {
                assert_ne!(code.number(), other.number());
                assert_ne!(code.name(), other.name());
            }
        }
    }
}
