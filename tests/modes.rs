//! Forwarding modes beyond DR and FULLNAT: packets in, packets out, both families.

#[path = "support/mod.rs"]
mod support;

#[path = "modes/nat.rs"]
mod nat;
#[path = "modes/tunnel.rs"]
mod tunnel;
