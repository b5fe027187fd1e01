//! The packet path: a burst and a time go in, verdicts come out. No I/O, no clock, no allocation.
//!
//! `pipeline` is the story; each stage has a file. Workers, `replay`, tests and fuzzers call the
//! same functions. Control, configuration and DPDK are unknown here.

mod admit;
mod advance;
mod burst;
mod classify;
mod client_address;
mod defence;
mod expire;
mod fast_path;
mod flow;
mod flow_table;
mod forward;
mod fragment;
mod ftp;
mod glance;
mod icmp_error;
mod identification;
mod learned_mtu;
mod mss;
mod next_hop;
mod observe;
mod outbox;
#[doc(hidden)]
pub mod parts;
mod persistence;
mod pipeline;
mod plain_rewrite;
mod reply;
mod reuse;
mod schedule;
mod segment;
mod sequence;
mod source_ports;
mod state;
mod steer;
mod sweep;
mod synproxy;
mod takeover;
mod tcp_state;
mod templates;
pub mod timer;
mod track;

pub use burst::{Arrival, Burst, Errand, RxMeta, Verdict};
pub use classify::{Kind, Packet, Piece};
pub use flow::{Direction, FlowKey};
pub use flow_table::{FlowId, FlowTable, Hit};
pub use next_hop::{finish_next_hop, push_vlan};
pub use observe::{Observer, Part};
pub use persistence::Note;
pub use pipeline::{process_burst, process_observed};
pub use state::{WorkerConfig, WorkerState};
pub use templates::{Scope, TemplateId, TemplateKey};
