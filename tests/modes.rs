//! Forwarding modes beyond DR and FULLNAT: packets in, packets out, both families.

#[path = "support/mod.rs"]
mod support;

#[path = "modes/family.rs"]
mod family;
#[path = "modes/family_errors.rs"]
mod family_errors;
#[path = "modes/family_fragments.rs"]
mod family_fragments;
#[path = "modes/local.rs"]
mod local;
#[path = "modes/mss.rs"]
mod mss;
#[path = "modes/nat.rs"]
mod nat;
#[path = "modes/tunnel.rs"]
mod tunnel;
