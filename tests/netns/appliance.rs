//! gyre as an appliance: killed and started again by a supervisor.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::Case;
use crate::life::{belongings, plan};
use crate::servers::{HTTP, at};
use crate::site::{Site, VIP4, VIP6, connects, curl, web};

pub const CASES: &[Case] = &[
    ("a_supervisor_brings_gyre_back_tap", || supervisor_brings_gyre_back("tap")),
    ("a_supervisor_brings_gyre_back_shared", || supervisor_brings_gyre_back("shared")),
];

/// What `Restart=on-failure` does: waits for the end, starts again. SIGABRT is what a panic and
/// the watchdog end in, SIGKILL what the kernel does when memory is short.
fn supervisor_brings_gyre_back(kernel: &'static str) {
    let mut site = Site::build(&plan(kernel));
    curl(&site.client, &web(VIP4)).unwrap();
    let before = belongings(&site.director.space);
    let addresses = |site: &Site| {
        let interface = Site::kernel_interface(&plan(kernel), "wan");
        let shown = site.director.space.ip(&format!("-br addr show dev {interface}"));
        shown
            .split_whitespace()
            .skip(2)
            .map(str::to_owned)
            .collect::<std::collections::BTreeSet<_>>()
    };
    let addresses_before = addresses(&site);
    for signal in [Signal::SIGABRT, Signal::SIGKILL, Signal::SIGABRT] {
        let killed = Instant::now();
        site.director.process().signal(signal);
        let status = site.director.process().wait(5);
        assert!(!status.success(), "{status}");
        site.director.restart();
        let ready = killed.elapsed();
        let answered = loop {
            if connects(&site.client, at(VIP4, HTTP)).is_ok() {
                break killed.elapsed();
            }
            assert!(killed.elapsed() < Duration::from_secs(20), "it serves no more");
        };
        println!(
            "{kernel}, {signal}: ready after {} ms, serves after {} ms",
            ready.as_millis(),
            answered.as_millis()
        );
        for vip in [VIP4, VIP6] {
            curl(&site.client, &web(vip)).unwrap();
        }
        let after = belongings(&site.director.space);
        assert_eq!(after.0, before.0, "interfaces");
        assert_eq!(after.1.matches("ingress").count(), before.1.matches("ingress").count());
        assert_eq!(addresses(&site), addresses_before);
        // Nothing that the dead process left is taken for a fault.
        let said = site.director.said();
        let start = said.rfind("memory:").unwrap();
        assert!(!said[start..].contains("ERROR"), "{said}");
    }
    assert_eq!(site.director.stop(), Some(0), "{}", site.director.said());
    assert_eq!(belongings(&site.director.space), ("lo wan0 lan0".into(), String::new()));
}
