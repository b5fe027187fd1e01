//! Stock ldirectord as it comes from Debian, which finds gyre where it looks for ipvsadm.

use std::fs;
use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::Case;
use crate::director::gyre;
use crate::lab::{Process, wait_for};
use crate::servers::{HTTP, at};
use crate::site::{Layout, Plan, Site, VIP4, connects, curl_many, rip, spread, web};

pub const CASES: &[Case] = &[
    ("ldirectord_takes_servers_in_and_out_dr", in_and_out_dr),
    ("ldirectord_takes_servers_in_and_out_nat", in_and_out_nat),
];

/// How long a check and what follows from it may take, in seconds.
const PATIENCE_S: u64 = 40;

/// Starts ldirectord beside gyre. `forward` is its word for the method; `quiescent` whether a dead
/// server gets weight 0 instead of being removed.
fn start(site: &Site, layout: Layout, forward: &str, quiescent: &str) -> Process {
    let dir = site.lab.dir("ldirectord");
    let vip = SocketAddr::new(VIP4.parse().unwrap(), HTTP);
    let reals: String = (1..=3)
        .map(|n| format!("\treal={}:{HTTP} {forward} {n}\n", rip(layout, false, n)))
        .collect();
    let text = format!(
        "checktimeout=1\nnegotiatetimeout=1\ncheckinterval=1\nautoreload=no\n\
         logfile=\"{}\"\nquiescent={quiescent}\n\n\
         virtual={vip}\n{reals}\tservice=http\n\trequest=\"/\"\n\treceive=\"server\"\n\
         \tscheduler=wrr\n\tprotocol=tcp\n\tchecktype=negotiate\n",
        dir.join("ldirectord.log").display()
    );
    let config = dir.join("ldirectord.cf");
    fs::write(&config, text).unwrap();
    // Mounts are the command's own: `ip netns exec` gives it a mount namespace.
    let script = "mount --bind \"$1\" /usr/sbin/ipvsadm && exec ldirectord -d \"$2\" start";
    let mut command = site.director.space.command("sh");
    command.args(["-c", script, "sh", gyre()]).arg(&config);
    command.env("GYRE_SOCKET", site.director.dir().join("gyre.sock"));
    site.director.space.start("ldirectord", &mut command, &dir.join("output"))
}

/// Weights by server, as the control socket tells them.
fn weights(site: &Site) -> Vec<(String, u64)> {
    let Ok(list) = site.director.try_call("server.list", json!({})) else { return Vec::new() };
    let row = |row: &Value| {
        (row["address"].as_str().unwrap().to_owned(), row["weight"].as_u64().unwrap())
    };
    let mut rows: Vec<_> = list["servers"].as_array().unwrap().iter().map(row).collect();
    rows.sort();
    rows
}

fn wait_for_weights(site: &Site, ldirectord: &Process, layout: Layout, wanted: &[(usize, u64)]) {
    let wanted: Vec<_> = wanted
        .iter()
        .map(|(n, weight)| (format!("{}:{HTTP}", rip(layout, false, *n)), *weight))
        .collect();
    let what = format!("{wanted:?}; ldirectord said {}", ldirectord.said());
    wait_for(&what, PATIENCE_S, || (weights(site) == wanted).then_some(()));
}

/// Requests to each server, all of them answered.
fn shares(site: &Site, count: usize) -> Vec<usize> {
    spread(&curl_many(&site.client, &web(VIP4), count), &site.servers)
}

/// Every server has a share, the heaviest the largest. Each worker goes round by itself.
fn by_weight(shares: &[usize]) {
    let is_sound = !shares.contains(&0) && shares[0] < shares[2] && shares[1] <= shares[2];
    assert!(is_sound, "{shares:?}");
}

/// A dead server gets weight 0 and its weight back.
fn in_and_out_dr() {
    let layout = Layout::OneSegment;
    let mut site = Site::build(&Plan::new(layout, String::new()));
    let ldirectord = start(&site, layout, "gate", "yes");
    wait_for_weights(&site, &ldirectord, layout, &[(1, 1), (2, 2), (3, 3)]);
    by_weight(&shares(&site, 12));

    site.servers[1].nginx.die();
    wait_for_weights(&site, &ldirectord, layout, &[(1, 1), (2, 0), (3, 3)]);
    let without = shares(&site, 12);
    assert_eq!((without[1], without.iter().sum::<usize>()), (0, 12), "{without:?}");

    site.servers[1].nginx.come_back();
    wait_for_weights(&site, &ldirectord, layout, &[(1, 1), (2, 2), (3, 3)]);
    by_weight(&shares(&site, 12));

    // What ldirectord set up is what ipvsadm shows, and what it saves.
    let mut save = site.director.space.command(gyre());
    save.args(["ipvsadm", "-Sn"]).env("GYRE_SOCKET", site.director.dir().join("gyre.sock"));
    let saved = String::from_utf8(save.output().unwrap().stdout).unwrap();
    let rules: Vec<&str> = saved.lines().collect();
    assert_eq!(rules[0], format!("-A -t {VIP4}:80 -s wrr"), "{saved}");
    assert_eq!(rules[2], format!("-a -t {VIP4}:80 -r {}:80 -g -w 2", rip(layout, false, 2)));
}

/// A dead server is removed and added again; without any the client hears of it.
fn in_and_out_nat() {
    let layout = Layout::TwoSegments;
    let mut site = Site::build(&Plan::new(layout, String::new()));
    for server in &site.servers {
        server.space.ip("route add default via 10.2.0.1");
    }
    let ldirectord = start(&site, layout, "masq", "no");
    wait_for_weights(&site, &ldirectord, layout, &[(1, 1), (2, 2), (3, 3)]);
    by_weight(&shares(&site, 12));

    site.servers[2].nginx.die();
    wait_for_weights(&site, &ldirectord, layout, &[(1, 1), (2, 2)]);
    assert_eq!(shares(&site, 6)[2], 0);

    for server in &mut site.servers[..2] {
        server.nginx.die();
    }
    wait_for_weights(&site, &ldirectord, layout, &[]);
    assert!(connects(&site.client, at(VIP4, HTTP)).is_err());

    for server in &mut site.servers {
        server.nginx.come_back();
    }
    wait_for_weights(&site, &ldirectord, layout, &[(1, 1), (2, 2), (3, 3)]);
    by_weight(&shares(&site, 12));
}
