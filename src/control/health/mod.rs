//! Health checks: carried out by `runner` on a thread of its own, one file of `probe` a kind. What
//! their results come to is `standing`'s and `board`'s, which are pure; the core makes it so.

pub(super) mod board;
mod ending;
pub(super) mod hooks;
mod names;
pub mod probe;
pub mod runner;
pub(super) mod standing;
pub(super) mod times;
