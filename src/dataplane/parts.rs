//! What only benchmarks reach for by itself. Nothing is promised about it, and nothing else of the
//! crate uses it.

pub use super::flow::NewFlow;
pub use super::schedule::Schedulers;
pub use super::synproxy::cookie::{Agreed, Answer, Check, Secrets};
