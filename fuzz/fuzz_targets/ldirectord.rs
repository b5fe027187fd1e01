//! cargo-fuzz target: ldirectord.cf.
#![no_main]

#[path = "../entries.rs"]
#[allow(dead_code)]
mod entries;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| entries::ldirectord(bytes));
