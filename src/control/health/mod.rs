//! Health checks: carried out by `runner` on a thread of its own, one file of `probe` a kind.

pub mod probe;
pub mod runner;
