//! Starting, stopping and dying: nothing is left behind, nothing is lost that need not be.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::json;

use crate::Case;
use crate::director::gyre;
use crate::lab::{Lab, Namespace, wait_for};
use crate::servers::{HTTP, at};
use crate::site::{Layout, Plan, Site, VIP4, VIP6, curl, curl_many, service, web};

pub const CASES: &[Case] = &[
    ("sigterm_cleans_up_tap", || sigterm_cleans_up("tap")),
    ("sigterm_cleans_up_shared", || sigterm_cleans_up("shared")),
    ("sigkill_is_cleaned_up_by_the_next_start", sigkill_is_cleaned_up_by_the_next_start),
    ("an_unresolved_neighbour_loses_no_connection", unresolved_neighbour_loses_no_connection),
    ("a_second_gyre_is_refused", a_second_gyre_is_refused),
    ("ambient_capabilities_are_enough", ambient_capabilities_are_enough),
    ("shutdown_over_the_socket", shutdown_over_the_socket),
    ("nothing_leaks", nothing_leaks),
    ("tables_and_json_of_the_command_line", tables_and_json_of_the_command_line),
];

pub fn plan(kernel: &'static str) -> Plan {
    let layout = Layout::TwoSegments;
    let services = [VIP4, VIP6].map(|vip| service(layout, "tcp", vip, (HTTP, HTTP), ""));
    Plan { kernel, ..Plan::new(layout, services.concat()) }
}

/// What a gyre may leave in a namespace: interfaces and nftables tables.
pub fn belongings(space: &Namespace) -> (String, String) {
    let links = space.ip("-br link show");
    let names = links.lines().filter_map(|line| line.split([' ', '@']).next());
    (names.collect::<Vec<_>>().join(" "), space.run("nft", &["list", "ruleset"]))
}

fn sigterm_cleans_up(kernel: &'static str) {
    let mut site = Site::build(&plan(kernel));
    curl(&site.client, &web(VIP4)).unwrap();
    let (links, rules) = belongings(&site.director.space);
    assert_eq!(links.contains("wan lan") || links.contains("lan wan"), kernel == "tap", "{links}");
    assert!(rules.contains("ingress"), "{rules}");
    assert_eq!(site.director.stop(), Some(0), "{}", site.director.said());
    let (links, rules) = belongings(&site.director.space);
    assert_eq!(links, "lo wan0 lan0");
    assert_eq!(rules, "");
    assert!(!site.director.dir().join("gyre.sock").exists(), "the control socket is still there");
}

fn sigkill_is_cleaned_up_by_the_next_start() {
    for kernel in ["tap", "shared"] {
        let mut site = Site::build(&plan(kernel));
        curl(&site.client, &web(VIP4)).unwrap();
        let before = belongings(&site.director.space);
        site.director.process().signal(Signal::SIGKILL);
        site.director.process().wait(5);
        site.director.restart();
        curl(&site.client, &web(VIP4)).unwrap();
        let after = belongings(&site.director.space);
        assert_eq!(after.0, before.0);
        assert_eq!(after.1.matches("ingress").count(), before.1.matches("ingress").count());
        assert_eq!(site.director.stop(), Some(0), "{}", site.director.said());
        assert_eq!(belongings(&site.director.space), ("lo wan0 lan0".into(), String::new()));
    }
}

/// As systemd starts it with `User=` and `AmbientCapabilities=`: an ordinary user whose programs
/// (nft) inherit the two capabilities.
fn ambient_capabilities_are_enough() {
    let mut lab = Lab::new();
    let space = lab.namespace("director");
    space.ip("link add wan0 type veth peer name far0");
    let dir = lab.dir("nobody");
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o777)).unwrap();
    // The build's own directory may be closed to others.
    std::fs::copy(gyre(), dir.join("gyre")).unwrap();
    let socket = dir.join("gyre.sock");
    let config = format!(
        "[runtime]\ncontrol_socket = {socket:?}\nconnections = 1000\nhugepages = \"never\"\n\
         [[port]]\nname = \"wan\"\ndevice = \"net_af_packet0,iface=wan0\"\n"
    );
    std::fs::write(dir.join("gyre.toml"), config).unwrap();
    let mut command = space.command("setpriv");
    let capabilities = "+net_admin,+net_raw";
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.args([format!("--inh-caps={capabilities}"), format!("--ambient-caps={capabilities}")]);
    command.arg(dir.join("gyre")).arg("run").arg("-c").arg(dir.join("gyre.toml"));
    let mut process = space.start("gyre", &mut command, &dir.join("gyre.log"));
    wait_for("rules by an ordinary user", 20, || {
        assert!(process.ended().is_none(), "{}", process.said());
        space.run("nft", &["list", "ruleset"]).contains("\"wan0\"").then_some(())
    });
    wait_for("its control socket", 20, || socket.exists().then_some(()));
    process.signal(Signal::SIGTERM);
    assert_eq!(process.wait(10).code(), Some(0), "{}", process.said());
}

/// The first SYN after a flush waits for its neighbour instead of being lost: connecting takes
/// less than the second after which a client would send it again.
fn unresolved_neighbour_loses_no_connection() {
    for layout in [Layout::OneSegment, Layout::TwoSegments] {
        let services = [VIP4, VIP6].map(|vip| service(layout, "tcp", vip, (HTTP, HTTP), ""));
        let site = Site::build(&Plan::new(layout, services.concat()));
        for vip in [VIP4, VIP6] {
            for _ in 0..2 {
                // The kernel is asked for one neighbour at most once a second.
                std::thread::sleep(Duration::from_millis(1_200));
                site.director.space.ip("neigh flush all");
                let output =
                    ["-gsS", "--max-time", "5", "-o", "/dev/null", "-w", "%{time_connect}"];
                let url = web(vip);
                let seconds = site.client.run("curl", &[&output[..], &[&url]].concat());
                let seconds: f64 = seconds.parse().unwrap();
                assert!(seconds < 0.9, "{layout:?} {vip}: {seconds} s: the first SYN was lost");
            }
        }
    }
}

fn a_second_gyre_is_refused() {
    let site = Site::build(&plan("tap"));
    let config = site.director.dir().join("gyre.toml");
    let config = config.to_str().unwrap();
    let output = site.director.space.output(crate::director::gyre(), &["run", "-c", config]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("gyre.sock"), "it must name the socket:\n{said}");
    curl(&site.client, &web(VIP4)).unwrap();
}

fn shutdown_over_the_socket() {
    let mut site = Site::build(&plan("tap"));
    site.director.call("shutdown", json!({}));
    assert_eq!(site.director.process().wait(10).code(), Some(0), "{}", site.director.said());
    assert_eq!(belongings(&site.director.space), ("lo wan0 lan0".into(), String::new()));
}

/// Buffers, flows and source ports in use.
fn holdings(site: &Site) -> (u64, u64, u64) {
    let stats = site.director.call("stats", json!({}));
    let rows = |value: &serde_json::Value| value.as_array().unwrap().clone();
    let buffers = rows(&stats["ports"])
        .iter()
        .flat_map(|port| rows(&port["mempools"]))
        .map(|pool| pool["in_use"].as_u64().unwrap())
        .sum();
    let ports = rows(&stats["local_addresses"]).iter().map(|r| r["used"].as_u64().unwrap()).sum();
    (buffers, site.director.flows(), ports)
}

/// Connections that end by reset leave nothing in a server's TIME_WAIT, so all they held is free
/// as soon as their flows expire. (scripts/soak waits for the others.)
fn nothing_leaks() {
    let layout = Layout::TwoSegments;
    let extra = "timeouts = { close = 1, syn_recv = 2, established = 5 }\n";
    let site = Site::build(&Plan::new(layout, service(layout, "tcp", VIP4, (HTTP, HTTP), extra)));
    for _ in 0..300 {
        site.client.enter(|| ask_and_reset(at(VIP4, HTTP)));
    }
    assert!(site.director.flows() > 0);
    let end = std::time::Instant::now() + Duration::from_secs(20);
    while holdings(&site) != (0, 0, 0) && std::time::Instant::now() < end {
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(holdings(&site), (0, 0, 0), "buffers, flows and source ports in use");
}

fn ask_and_reset(address: SocketAddr) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    let at_once = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    setsockopt(&stream, sockopt::Linger, &at_once).unwrap();
}

fn tables_and_json_of_the_command_line() {
    let site = Site::build(&plan("tap"));
    curl_many(&site.client, &web(VIP4), 3);
    for noun in ["status", "services", "connections", "workers", "ports"] {
        let table = site.director.cli(&[noun]);
        assert!(table.status.success(), "{noun}: {}", String::from_utf8_lossy(&table.stderr));
        assert!(!table.stdout.is_empty(), "{noun}");
        let output = site.director.cli(&[noun, "-j"]);
        let parsed: Result<serde_json::Value, _> = serde_json::from_slice(&output.stdout);
        assert!(parsed.is_ok(), "{noun} -j: {}", String::from_utf8_lossy(&output.stdout));
    }
    let output = site.director.cli(&["connections", "-j"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("10.1.0.80:80"), "{text}");
    let missing = std::process::Command::new(crate::director::gyre())
        .args(["status", "--socket", "/nonexistent/gyre.sock"])
        .output()
        .unwrap();
    assert_eq!(missing.status.code(), Some(1));
    assert!(!Path::new("/nonexistent").exists());
    std::thread::sleep(Duration::ZERO);
}
