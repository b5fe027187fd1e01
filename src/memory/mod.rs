//! Memory that is taken at start-up and never grows: shared hugepage maps, fixed arrays and slabs
//! in them, and the flow look-up index. Beside it, for their `unsafe`, prefetches, a hash in
//! vector registers, and the window that a frame is.
//!
//! Entries hold ids and indexes only, never pointers, so that a successor process can map the
//! same file descriptors. What the entries mean belongs to `dataplane`; EAL's memory is not ours.
#![allow(unsafe_code)]

mod array;
mod header;
mod index;
mod number_set;
mod pod;
mod prefetch;
mod region;
mod siphash;
mod slab;
mod view;
mod window;

pub use array::FixedArray;
pub use index::{FlowIndex, IndexFull};
pub use pod::Pod;
pub use prefetch::{prefetch_read, prefetch_write};
pub use region::{Backing, MemoryError, Region};
pub use siphash::{LANES, SipLanes, Words};
pub use slab::Slab;
pub use window::Window;
