//! The kernel beside the workers: TAPs, their thread, addresses, and the rules that keep the
//! kernel's stack from answering for services.

pub mod addresses;
pub mod nftables;
pub mod rules;
pub mod thread;
