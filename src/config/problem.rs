//! What is wrong with a configuration, where, and what to do about it.

use std::fmt;

pub use super::node::Position;

/// One thing wrong. Printed after the file's name and a colon:
/// `12:5: service[0].server[1].weight: 70000 is out of range; use 0 to 65535`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// Where in the text; JSON from the socket has no lines.
    #[serde(flatten)]
    pub position: Option<Position>,
    /// Where in the schema: `service[0].server[1].weight`; empty for the whole.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Position { line, column }) = self.position {
            write!(f, "{line}:{column}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        if !self.remedy.is_empty() {
            write!(f, "; {}", self.remedy)?;
        }
        Ok(())
    }
}
