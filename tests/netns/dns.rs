//! UDP between independent ends: dnsmasq as it comes from Debian, asked by dig, over UDP and over
//! TCP, one group of both protocols' port 53 for each family.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use crate::Case;
use crate::lab::{Lab, Process, wait_for};
use crate::servers::wait_for_listener;
use crate::site::{Layout, Plan, Server, Site, VIP4, VIP6, rip};

pub const CASES: &[Case] = &[
    ("dns_through_nat", dns_through_nat),
    ("dns_through_fullnat", dns_through_fullnat),
    ("dns_through_dr", dns_through_dr),
];

const DNS: u16 = 53;
/// Where servers listen whose mode maps ports.
const MAPPED: u16 = 5300;
/// Strings of a text record for which a plain UDP answer (512 bytes) has no room, and one with
/// EDNS has: dnsmasq sends up to 1232.
const BIG_STRINGS: usize = 5;
const STRING_BYTES: usize = 200;

/// A group of UDP and TCP port 53 with servers 1 to 3.
fn group(mode: &str, layout: Layout, vip: &str, server_port: u16) -> String {
    let v6 = vip.contains(':');
    let at = |address: &str, port| SocketAddr::new(address.parse().unwrap(), port);
    let mut text = format!(
        "[[service]]\ngroup = \"dns{}\"\nscheduler = \"rr\"\nforwarding = \"{mode}\"\n",
        if v6 { 6 } else { 4 }
    );
    if mode == "fullnat" {
        text += "local_addresses = \"pool\"\n";
    }
    for protocol in ["udp", "tcp"] {
        text += &format!(
            "[[service.match]]\nprotocol = \"{protocol}\"\naddress = \"{}\"\n",
            at(vip, DNS)
        );
    }
    for n in 1..=3 {
        let rip = rip(layout, v6, n);
        let server = if server_port == DNS { rip } else { at(&rip, server_port).to_string() };
        text += &format!("[[service.server]]\naddress = \"{server}\"\n");
    }
    text + "\n"
}

/// dnsmasq that knows two texts: `who`, its own name, and `big`.
pub fn start_dnsmasq(lab: &Lab, server: &Server, port: u16) -> Process {
    let log = lab.dir(&format!("{}-dns", server.name)).join("output");
    let big = vec!["b".repeat(STRING_BYTES); BIG_STRINGS].join(",");
    let mut command = server.space.command("/usr/sbin/dnsmasq");
    command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--pid-file=", "--user=root"]);
    command.args(["--no-resolv", "--no-hosts", "--log-facility=-"]);
    command.arg(format!("--port={port}"));
    command.arg(format!("--txt-record=who.test,{}", server.name));
    command.arg(format!("--txt-record=big.test,{big}"));
    let process = server.space.start("dnsmasq", &mut command, &log);
    wait_for_listener(&server.space, port);
    wait_for("dnsmasq", 10, || process.said().contains("started").then_some(()));
    process
}

/// What dig was answered; with one attempt, so that nothing lost is mended.
fn dig(site: &Site, vip: &str, name: &str, options: &[&str]) -> String {
    let server = format!("@{vip}");
    let plain = ["+short", "+tries=1", "+time=4", "-t", "TXT", &*server, name];
    let output = site.client.output("dig", &[&plain[..], options].concat());
    let text = String::from_utf8_lossy(&output.stdout).replace(['"', '\n'], "");
    let drops = site.director.drops();
    assert!(output.status.success(), "{name} {options:?} at {vip}: {text} {drops:?}");
    text
}

fn dns(mode: &str, layout: Layout, server_port: u16) {
    let services = [VIP4, VIP6].map(|vip| group(mode, layout, vip, server_port));
    let site = Site::build(&Plan::new(layout, services.concat()));
    let mut running = Vec::new();
    for server in &site.servers {
        if mode == "nat" {
            server.space.ip("route add default via 10.2.0.1");
            server.space.ip("-6 route add default via fd00:2::1");
        }
        running.push(start_dnsmasq(&site.lab, server, server_port));
    }
    for vip in [VIP4, VIP6] {
        for options in [&[][..], &["+tcp"]] {
            // Each of two workers goes through the three servers by itself: of six one has three.
            let names: Vec<String> = (0..6).map(|_| dig(&site, vip, "who.test", options)).collect();
            let servers: BTreeSet<&String> = names.iter().collect();
            assert_eq!(servers.len(), 3, "{vip} {options:?}: {names:?}");
            assert!(names.iter().all(|name| name.starts_with("server")), "{names:?}");
        }
        // Cut over UDP, so dig asks again over TCP; or whole over UDP.
        for options in [&["+bufsize=512"][..], &["+bufsize=4096", "+notcp", "+ignore"]] {
            let big = dig(&site, vip, "big.test", options).replace(' ', "");
            assert_eq!(big, "b".repeat(BIG_STRINGS * STRING_BYTES), "{vip} {options:?}");
        }
    }
}

fn dns_through_nat() {
    dns("nat", Layout::TwoSegments, MAPPED);
}

fn dns_through_fullnat() {
    dns("fullnat", Layout::TwoSegments, MAPPED);
}

fn dns_through_dr() {
    dns("dr", Layout::OneSegment, DNS);
}
