//! Benchmarks of gyre's packet path.
fn main() {}
