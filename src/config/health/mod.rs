//! Health checks as they are written: types, bounds and what fits together.
//!
//! What follows from a check's result is `control::health`'s.

mod convert;
mod meaning;
pub(super) mod schema;
mod types;
mod values;

#[cfg(test)]
mod tests;

pub(super) use convert::{written_checks, written_health};
pub(super) use meaning::{Checks, judge};
pub use types::{Check, CheckKind, CheckMethod, CheckWay, DnsRecord, OnFailure, SorryServer};
pub use values::{Digest, HexBytes, StatusRange};
