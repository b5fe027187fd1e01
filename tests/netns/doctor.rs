//! `gyre doctor` asks the network: a machine that has a VIP is found out, whether gyre runs or not.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::Case;
use crate::director::{Config, Director, Port, gyre};
use crate::lab::{Lab, Namespace};

pub const CASES: &[Case] =
    &[("doctor_finds_the_machine_that_has_a_vip", doctor_finds_the_machine_that_has_a_vip)];

const VIP4: &str = "10.1.0.80";
const VIP6: &str = "fd00::80";

/// Findings of the probe: severity and evidence.
fn probe(space: &Namespace, config: &Path) -> Vec<(String, String)> {
    let config = config.to_str().unwrap();
    let output = space.output(gyre(), &["doctor", "-j", "-c", config]);
    let findings: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {}", String::from_utf8_lossy(&output.stderr));
    });
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let ours = findings.iter().filter(|finding| finding["check"] == "vip_probe");
    ours.map(|finding| (text(&finding["severity"]), text(&finding["evidence"]))).collect()
}

/// One error for each VIP, each with the MAC address of `peer`.
fn assert_both_are_taken(found: &[(String, String)], peer: &Namespace, interface: &str) {
    let mac = peer.mac("eth0").map(|byte| format!("{byte:02x}")).join(":");
    assert_eq!(found.len(), 2, "{found:?}");
    for ((severity, evidence), vip) in found.iter().zip([VIP4, VIP6]) {
        assert_eq!(severity, "error", "{evidence}");
        assert!(evidence.starts_with(&mac), "{evidence} without {mac}");
        assert!(evidence.ends_with(&format!("answers for {vip} on {interface}")), "{evidence}");
    }
}

fn doctor_finds_the_machine_that_has_a_vip() {
    let mut lab = Lab::new();
    let (space, peer) = (lab.namespace("director"), lab.namespace("peer"));
    lab.cable((&space, "wan0"), (&peer, "eth0"));
    peer.ip("addr add 10.1.0.11/24 dev eth0");
    peer.ip("addr add fd00::11/64 dev eth0 nodad");
    let port = Port {
        name: "wan",
        device: "net_af_packet0,iface=wan0".into(),
        kernel: "tap",
        addresses: vec!["10.1.0.1/24".into(), "fd00::1/64".into()],
        more: String::new(),
    };
    let services = [format!("{VIP4}:80"), format!("[{VIP6}]:80")]
        .map(|vip| format!("[[service]]\naddress = \"{vip}\"\nforwarding = \"dr\"\n"))
        .concat();
    let config = Config { ports: vec![port], workers: 1, pools: String::new(), services };
    let path = lab.dir("file").join("gyre.toml");
    fs::write(&path, config.text(&lab.dir("file"))).unwrap();

    // gyre does not run: the interface below the port asks. On lo, as a real server has it: what a
    // server says that does not keep quiet is what is to be found out.
    let quiet = probe(&space, &path);
    assert_eq!(quiet.len(), 1, "{quiet:?}");
    assert_eq!(quiet[0], ("ok".into(), "asked for 2 VIPs on wan0, and nobody answers".into()));
    peer.ip(&format!("addr add {VIP4}/32 dev lo"));
    peer.ip(&format!("addr add {VIP6}/64 dev eth0 nodad"));
    let before = peer.ip("neigh show");
    assert_both_are_taken(&probe(&space, &path), &peer, "wan0");
    assert_eq!(peer.ip("neigh show"), before, "to ask is to change nobody's neighbour table");
    peer.sysctl("net/ipv4/conf/all/arp_ignore", "1");
    let found = probe(&space, &path);
    assert_eq!(found.len(), 1, "a server that keeps quiet about {VIP4}: {found:?}");
    peer.sysctl("net/ipv4/conf/all/arp_ignore", "0");

    // It runs and has the VIPs itself: through it, the port's own interface asks.
    let director = Director::start(&lab, &space, &config);
    let own = director.dir().join("gyre.toml");
    assert_both_are_taken(&probe(&space, &own), &peer, "wan");
    peer.ip(&format!("addr del {VIP4}/32 dev lo"));
    peer.ip(&format!("addr del {VIP6}/64 dev eth0"));
    let quiet = probe(&space, &own);
    assert_eq!(quiet.len(), 1, "{quiet:?}");
    assert_eq!(quiet[0].0, "ok");
}
