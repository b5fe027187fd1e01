//! `ipvsadm`, the product's binary called by that name, against a running control server whose
//! worker runs the product's packet path: no DPDK, no root.
//!
//! Recordings are in `tests/oracle/recordings/cli`, or in `cli` of the directory that
//! `GYRE_ORACLE` names. What differs for a reason is in `exceptions.toml`.

#[path = "../support/mod.rs"]
mod support;

mod commands;
mod director;
mod exceptions;
mod recordings;
mod traffic;
