//! The `gyre` binary: parse, dispatch, exit code.
fn main() {}
