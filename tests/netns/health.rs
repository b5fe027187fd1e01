//! gyre's own health checks of real servers that die and come back.

use serde_json::{Value, json};

use crate::Case;
use crate::lab::wait_for;
use crate::servers::{HTTP, at};
use crate::site::{Layout, Plan, Site, VIP4, curl_many, rip, spread, web};

pub const CASES: &[Case] = &[
    ("health_takes_a_dead_server_out_and_eases_it_back", out_and_eased_back),
    ("health_has_the_sorry_server_answer", sorry),
    ("health_finds_a_dr_server_without_the_vip", without_vip),
    ("health_hears_of_a_silent_dr_server_from_its_client", heard_from_a_client),
];

/// How long what follows from a check may take on a busy machine, in seconds.
const PATIENCE_S: u64 = 30;
const LAYOUT: Layout = Layout::OneSegment;

/// A web service with servers 1 to `servers`, checked several times a second.
fn service(servers: usize, extra: &str) -> String {
    let mut text = format!(
        "[[service]]\naddress = \"{VIP4}:{HTTP}\"\nname = \"web\"\nscheduler = \"wrr\"\n\
         forwarding = \"dr\"\n{extra}\n\
         [[service.check]]\nkind = \"http\"\ninterval_ms = 300\ntimeout_ms = 1000\nretries = 0\n\
         status = [\"200\"]\nexpect_text = \"server\"\n"
    );
    for n in 1..=servers {
        let address = rip(LAYOUT, false, n);
        text += &format!("[[service.server]]\naddress = \"{address}\"\nweight = 20\n");
    }
    text
}

fn rows(site: &Site) -> Vec<Value> {
    site.director.call("server.list", json!({}))["servers"].as_array().unwrap().clone()
}

/// Weight of server `n`, from 1.
fn weight(site: &Site, n: usize) -> u64 {
    let address = format!("{}:{HTTP}", rip(LAYOUT, false, n));
    let all = rows(site);
    let row = all.iter().find(|row| row["address"] == address);
    row.unwrap_or_else(|| panic!("{address}: {all:?}"))["weight"].as_u64().unwrap()
}

fn wait_for_weight(site: &Site, n: usize, wanted: u64) {
    let what = format!("weight {wanted} of server {n}");
    wait_for(&what, PATIENCE_S, || (weight(site, n) == wanted).then_some(()));
}

/// Every check has had a good round.
fn wait_until_checked(site: &Site) {
    wait_for("good checks", PATIENCE_S, || {
        let checks = site.director.call("check.list", json!({}));
        let all = checks["checks"].as_array().unwrap();
        let good = all.iter().all(|check| check["last"] == "good");
        (good && !all.is_empty()).then_some(())
    });
}

/// Requests to each server, all of them answered.
fn shares(site: &Site, count: usize) -> Vec<usize> {
    spread(&curl_many(&site.client, &web(VIP4), count), &site.servers)
}

/// The way back takes so long.
const SLOW_START_MS: u64 = 5000;

fn out_and_eased_back() {
    let extra = format!("slow_start_ms = {SLOW_START_MS}");
    let mut site = Site::build(&Plan::new(LAYOUT, service(3, &extra)));
    wait_until_checked(&site);
    assert!(!shares(&site, 12).contains(&0));

    site.servers[1].nginx.die();
    wait_for_weight(&site, 2, 0);
    // From here on nobody's request is lost.
    let without = shares(&site, 30);
    assert_eq!((without[1], without.iter().sum::<usize>()), (0, 30), "{without:?}");
    let row = rows(&site).remove(1);
    assert_eq!((&row["health"], &row["weight_asked"]), (&json!("down"), &json!(20)), "{row}");
    let reason = row["health_reason"].as_str().unwrap();
    assert!(reason.starts_with("http check: "), "{reason}");
    let shown = String::from_utf8(site.director.cli(&["servers"]).stdout).unwrap();
    assert!(shown.contains(reason), "{shown}");
    let config = site.director.call("config.get", json!({"format": "json"}));
    assert_eq!(config["config"]["service"][0]["server"][1]["weight"], 20);

    site.servers[1].nginx.come_back();
    let mut weights: Vec<u64> = Vec::new();
    wait_for("its whole weight", PATIENCE_S, || {
        let now = weight(&site, 2);
        if weights.last() != Some(&now) {
            weights.push(now);
        }
        (now == 20).then_some(())
    });
    // 0, then tenths; a busy machine may have kept us from seeing some of them.
    assert!(weights.is_sorted() && weights.len() >= 4, "{weights:?}");
    assert!(weights.iter().all(|weight| weight % 2 == 0), "{weights:?}");
    assert!(!shares(&site, 12).contains(&0));
}

fn sorry() {
    let sorry = format!("sorry_server = {{ address = \"{}\" }}", rip(LAYOUT, false, 3));
    let mut site = Site::build(&Plan::new(LAYOUT, service(2, &sorry)));
    wait_until_checked(&site);
    assert_eq!(shares(&site, 10)[2], 0);

    for server in &mut site.servers[..2] {
        server.nginx.die();
    }
    wait_for_weight(&site, 1, 0);
    wait_for_weight(&site, 2, 0);
    let alone = || rows(&site).len() == 3 && weight(&site, 3) == 1;
    wait_for("the sorry server", PATIENCE_S, || alone().then_some(()));
    assert_eq!(shares(&site, 10), [0, 0, 10]);

    site.servers[0].nginx.come_back();
    wait_for_weight(&site, 1, 20);
    assert_eq!(shares(&site, 10), [10, 0, 0]);
    assert_eq!(site.director.call("status", json!({}))["servers_down"], 1);
}

/// The next round is ten minutes away, and the flow's end a minute: the client's third SYN tells.
fn heard_from_a_client() {
    let service = format!(
        "[[service]]\naddress = \"{VIP4}:{HTTP}\"\nforwarding = \"dr\"\n\
         server = [{{ address = \"{}\", weight = 20 }}]\n\
         check = [{{ kind = \"http\", way = \"service\", interval_ms = 600000, retries = 0 }}]\n",
        rip(LAYOUT, false, 1)
    );
    let site = Site::build(&Plan::new(LAYOUT, service));
    wait_until_checked(&site);
    site.servers[0].space.ip(&format!("addr del {VIP4}/32 dev lo"));
    let patient = std::time::Duration::from_secs(6);
    let begun = std::time::Instant::now();
    let answer =
        site.client.enter(|| std::net::TcpStream::connect_timeout(&at(VIP4, HTTP), patient));
    assert!(answer.is_err(), "nobody has the address");
    wait_for_weight(&site, 1, 0);
    assert!(begun.elapsed().as_secs() < 45, "the flow's end would tell too");
    let reason = rows(&site)[0]["health_reason"].as_str().unwrap().to_owned();
    assert!(reason.starts_with("http check by the service's path: no answer"), "{reason}");
}

/// Its nginx answers at its own address, so that only the service's path tells.
fn without_vip() {
    let extra = "[[service.check]]\nkind = \"tcp\"\nway = \"service\"\ninterval_ms = 300\n\
                 timeout_ms = 500\nretries = 0\n";
    let site = Site::build(&Plan::new(LAYOUT, service(3, extra)));
    wait_until_checked(&site);
    site.servers[2].space.ip(&format!("addr del {VIP4}/32 dev lo"));
    wait_for_weight(&site, 3, 0);
    let row = rows(&site).remove(2);
    let reason = row["health_reason"].as_str().unwrap();
    assert!(reason.contains("by the service's path"), "{reason}");
    let without = shares(&site, 20);
    assert_eq!((without[2], without.iter().sum::<usize>()), (0, 20), "{without:?}");
    site.servers[2].space.ip(&format!("addr add {VIP4}/32 dev lo"));
    wait_for_weight(&site, 3, 20);
    assert!(!shares(&site, 12).contains(&0));
}
