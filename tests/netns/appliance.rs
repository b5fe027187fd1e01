//! gyre as an appliance: killed and started again by a supervisor; under keepalived.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::Case;
use crate::director::{Config, Director, Port};
use crate::lab::{Lab, Namespace, Process, wait_for};
use crate::life::{belongings, plan};
use crate::servers::{HTTP, at};
use crate::site::{Site, VIP4, VIP6, connects, curl, web};

pub const CASES: &[Case] = &[
    ("a_supervisor_brings_gyre_back_tap", || supervisor_brings_gyre_back("tap")),
    ("a_supervisor_brings_gyre_back_shared", || supervisor_brings_gyre_back("shared")),
    ("vrrp_loses_nothing_during_a_large_apply", vrrp_loses_nothing_during_a_large_apply),
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

/// Milliseconds between keepalived's advertisements (VRRP version 3).
const ADVERT_MS: u64 = 100;

const VIPS: usize = 250;
const PORTS: usize = 40;
const SERVERS: usize = 10;

/// 10,000 services with 10 servers each.
fn many_services() -> String {
    let mut text = String::new();
    for vip in 1..=VIPS {
        for port in 1..=PORTS {
            text += &format!(
                "[[service]]\naddress = \"10.3.0.{vip}:{}\"\nforwarding = \"dr\"\n",
                8000 + port
            );
            text += if port % 2 == 0 { "scheduler = \"wrr\"\n" } else { "" };
            for server in 0..SERVERS {
                text += &format!("[[service.server]]\naddress = \"10.1.0.{}\"\n", 11 + server);
            }
        }
    }
    text
}

/// keepalived in `space`: VRRP alone, on `interface`.
fn keepalived(lab: &Lab, space: &Namespace, interface: &str, priority: u8) -> Process {
    let name = format!("keepalived-{interface}");
    let dir = lab.dir(&name);
    let state = if priority > 100 { "MASTER" } else { "BACKUP" };
    let text = format!(
        "global_defs {{\n  router_id {interface}\n  vrrp_version 3\n  vrrp_priority -20\n}}\n\
         vrrp_instance pair {{\n  state {state}\n  interface {interface}\n  \
         virtual_router_id 51\n  priority {priority}\n  advert_int 0.1\n  \
         virtual_ipaddress {{\n    10.1.0.100/32\n  }}\n}}\n"
    );
    fs::write(dir.join("keepalived.conf"), text).unwrap();
    let mut command = space.command("keepalived");
    command.args(["--dont-fork", "--log-console", "--log-detail", "--vrrp", "--use-file"]);
    command.arg(dir.join("keepalived.conf"));
    command.arg("--pid").arg(dir.join("pid")).arg("--vrrp_pid").arg(dir.join("vrrp.pid"));
    space.start(&name, &mut command, &dir.join("log"))
}

/// Writes the time and the sender of each advertisement on `interface`, as they pass.
fn watch_adverts(lab: &Lab, space: &Namespace, interface: &str) -> Process {
    let log = lab.dir("adverts").join(interface);
    let mut command = space.command("tshark");
    command.args(["-nlQ", "-i", interface, "-f", "ip proto 112", "-T", "fields"]);
    command.args(["-e", "frame.time_epoch", "-e", "ip.src"]);
    space.start("tshark", &mut command, &log)
}

/// Times of the advertisements of one sender, in seconds.
fn adverts(watch: &Process, sender: &str) -> Vec<f64> {
    let row = |line: &str| {
        let (time, from) = line.split_once('\t')?;
        (from == sender).then(|| time.parse().ok())?
    };
    watch.said().lines().filter_map(row).collect()
}

/// A director with keepalived on gyre's interface and its peer on the same wire; while they talk
/// ten times a second, gyre takes a configuration of 10,000 services with 10 servers each.
fn vrrp_loses_nothing_during_a_large_apply() {
    let mut lab = Lab::new();
    let (space, peer) = (lab.namespace("director"), lab.namespace("peer"));
    lab.cable((&space, "wan0"), (&peer, "eth0"));
    peer.ip("addr add 10.1.0.2/16 dev eth0");
    let port = Port {
        name: "wan",
        device: "net_af_packet0,iface=wan0".into(),
        kernel: "tap",
        addresses: vec!["10.1.0.1/16".into()],
        more: String::new(),
    };
    let services = String::new();
    let config = Config { ports: vec![port], workers: 2, pools: String::new(), services };
    let director = Director::start(&lab, &space, &config);
    let at_peer = watch_adverts(&lab, &peer, "eth0");
    let at_tap = watch_adverts(&lab, &space, "wan");
    let backup = keepalived(&lab, &peer, "eth0", 90);
    let master = keepalived(&lab, &space, "wan", 200);
    wait_for("a master that is heard", 30, || {
        (adverts(&at_peer, "10.1.0.1").len() > 20).then_some(())
    });
    // It may have ruled alone until the master was heard.
    let (ruled, own) =
        (backup.said().matches("MASTER STATE").count(), adverts(&at_peer, "10.1.0.2"));

    let path = director.dir().join("large.toml");
    let running = fs::read_to_string(director.dir().join("gyre.toml")).unwrap();
    fs::write(&path, running + &many_services()).unwrap();
    let began = Instant::now();
    let applied = director.cli(&["apply", path.to_str().unwrap()]);
    let took = began.elapsed();
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
    std::thread::sleep(Duration::from_secs(3));
    let services = director.call("status", serde_json::json!({}))["services"].as_u64();
    assert_eq!(services, Some((VIPS * PORTS) as u64));

    // What left the master's kernel, against what arrived: those on the way are given a moment.
    let sent = adverts(&at_tap, "10.1.0.1");
    std::thread::sleep(Duration::from_millis(500));
    let heard = adverts(&at_peer, "10.1.0.1");
    let from = heard.first().copied().unwrap().max(sent.first().copied().unwrap()) + 0.05;
    let until = *sent.last().unwrap();
    let count =
        |times: &[f64]| times.iter().filter(|t| **t >= from - 0.02 && **t <= until + 0.05).count();
    let gap = |times: &[f64]| times.windows(2).map(|two| two[1] - two[0]).fold(0.0, f64::max);
    let expected = (until - from) / (ADVERT_MS as f64 / 1000.0);
    println!(
        "apply of {} services x {SERVERS}: {} ms; advertisements due {expected:.0}, sent {}, \
         heard {}; longest gap {:.0} ms sent, {:.0} ms heard",
        VIPS * PORTS,
        took.as_millis(),
        count(&sent),
        count(&heard),
        gap(&sent) * 1000.0,
        gap(&heard) * 1000.0
    );
    assert_eq!(count(&heard), count(&sent), "lost on the way through gyre");
    assert!(count(&heard) as f64 > 0.8 * expected, "{} of {expected}", count(&heard));
    assert!(gap(&heard) < gap(&sent) + 0.2, "held up by gyre");
    assert_eq!(backup.said().matches("MASTER STATE").count(), ruled, "{}", backup.said());
    assert_eq!(adverts(&at_peer, "10.1.0.2").len(), own.len(), "the peer took over");
    assert!(!master.said().contains("BACKUP STATE\n"), "{}", master.said());
}
