//! The control server over its socket, with workers that only answer: no DPDK, no root.

#[path = "control/support.rs"]
mod support;

#[path = "control/changes.rs"]
mod changes;
#[path = "control/clients.rs"]
mod clients;
#[path = "control/command_line.rs"]
mod command_line;
#[path = "control/configuration.rs"]
mod configuration;
#[path = "control/events.rs"]
mod events;
#[path = "control/health.rs"]
mod health;
#[path = "control/http.rs"]
mod http;
#[path = "control/lists.rs"]
mod lists;
#[path = "control/neighbours.rs"]
mod neighbours;
#[path = "control/top.rs"]
mod top;
#[path = "control/web.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod web;
