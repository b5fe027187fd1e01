//! gyre's core by itself: the modules that workers run, from their files in `../src`. No code of
//! its own; what is above these layers (configuration, control, DPDK) is not here.
#![deny(unsafe_code)]

#[path = "../../src/counters.rs"]
pub mod counters;
#[path = "../../src/dataplane/mod.rs"]
pub mod dataplane;
#[path = "../../src/frame.rs"]
pub mod frame;
#[path = "../../src/limits.rs"]
pub mod limits;
#[path = "../../src/memory/mod.rs"]
pub mod memory;
#[path = "../../src/message.rs"]
pub mod message;
#[path = "../../src/model/mod.rs"]
pub mod model;
#[path = "../../src/ring.rs"]
pub mod ring;
#[path = "../../src/time.rs"]
pub mod time;
#[path = "../../src/wire/mod.rs"]
pub mod wire;
