//! The packet path: a burst and a time go in, verdicts come out. No I/O, no clock, no allocation.

pub mod timer;
