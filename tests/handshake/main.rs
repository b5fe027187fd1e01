//! Handshakes of FULLNAT flows: the client's address by TOA and PROXY, and SYNPROXY.
//!
//! `client_address` and `synproxy` have each promise as a fact, frame by frame. `runs` puts two
//! strict TCP ends on both sides of the director and loses and reorders by a seed: every byte must
//! arrive, the header once and first, and neither end may ever be told what its peer could not
//! have said.

#[path = "../support/mod.rs"]
mod support;

mod client_address;
mod endpoint;
mod families;
mod network;
mod runs;
mod segment;
mod synproxy;
mod talk;
