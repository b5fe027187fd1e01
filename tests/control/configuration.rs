//! The whole configuration as transactions: reload, confirm, revisions, rollback, save.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use gyre::control::socket::SocketLimits;
use serde_json::{Value, json};

use crate::support::{CONFIG, Gyre};

/// A running gyre and its file.
struct Site {
    gyre: Gyre,
    path: PathBuf,
    _directory: tempfile::TempDir,
}

impl Site {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("gyre.toml");
        fs::write(&path, CONFIG).unwrap();
        let gyre = Gyre::of_file(&path, CONFIG, SocketLimits::default());
        Site { gyre, path, _directory: directory }
    }

    fn write(&self, text: &str) {
        fs::write(&self.path, text).unwrap();
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.path).unwrap()
    }

    fn weights(&self) -> Vec<u64> {
        let list = self.gyre.call("server.list", json!({}));
        let active = |row: &&Value| row["state"] == "active";
        let rows = list["servers"].as_array().unwrap().iter().filter(active);
        rows.map(|row| row["weight"].as_u64().unwrap()).collect()
    }

    /// Sets the second server's weight, 3 in the file.
    fn set_weight(&self, weight: u32) -> Value {
        let server = json!({"service": "web", "server": "192.0.2.12:8080", "weight": weight});
        self.gyre.call("server.set_weight", server)
    }

    fn wait_for_weights(&self, wanted: &[u64]) {
        self.gyre.wait_for("weights", |_| (self.weights() == wanted).then_some(()));
    }

    fn numbers(&self) -> Vec<u64> {
        let list = self.gyre.call("config.revisions", json!({}));
        let rows = list["revisions"].as_array().unwrap();
        rows.iter().map(|row| row["revision"].as_u64().unwrap()).collect()
    }
}

/// `CONFIG` with another weight of the second server.
fn weight(weight: u32) -> String {
    CONFIG.replace("weight = 3", &format!("weight = {weight}"))
}

fn line(new: u32, old: u32) -> Value {
    let text = format!("tcp 192.0.2.80:80: weight of 192.0.2.12:8080 is {new} (was {old})");
    json!([text])
}

#[test]
fn a_reload_applies_the_file_and_a_faulty_one_changes_nothing() {
    let site = Site::start();
    assert_eq!(site.gyre.call("config.reload", json!({}))["changes"], json!([]));
    site.write(&weight(9));
    let dry = site.gyre.call("config.reload", json!({"dry_run": true}));
    assert_eq!((&dry["changes"], site.weights()), (&line(9, 3), vec![1, 3]));
    assert_eq!(site.gyre.call("config.reload", json!({}))["changes"], line(9, 3));
    assert_eq!(site.weights(), [1, 9]);
    site.write(&weight(9).replace("rr", "rrr").replace("weight", "wait"));
    let (code, error) = site.gyre.refuse("config.reload", json!({}));
    assert_eq!(code, "invalid_config");
    let problems = error["data"]["problems"].as_array().unwrap();
    let place = format!("{}:14:13: ", site.path.display());
    assert!(problems[0].as_str().unwrap().starts_with(&place), "{place} {problems:?}");
    assert_eq!(problems.len(), 2, "{problems:?}");
    site.write(&weight(9).replace("workers = 2", "workers = 1"));
    let (code, error) = site.gyre.refuse("config.reload", json!({}));
    assert!(code == "needs_restart" && error.to_string().contains("runtime.workers"), "{error}");
    let dry = site.gyre.call("config.reload", json!({"dry_run": true}));
    assert_eq!(dry["needs_restart"], json!(["runtime.workers"]));
    fs::remove_file(&site.path).unwrap();
    assert_eq!(site.gyre.refuse("config.reload", json!({})).0, "file");
    assert_eq!(site.weights(), [1, 9]);
}

#[test]
fn a_reload_that_would_undo_unsaved_changes_says_so_and_is_refused() {
    let site = Site::start();
    site.set_weight(0);
    site.gyre.call("service.add", json!({"service": {"address": "192.0.2.90:80"}}));
    let unsaved = &site.gyre.call("config.revisions", json!({}))["unsaved"];
    assert_eq!(unsaved.as_array().unwrap().len(), 2, "{unsaved}");
    let (code, error) = site.gyre.refuse("config.reload", json!({}));
    assert_eq!((code.as_str(), &error["data"]["problems"]), ("unsaved", unsaved));
    assert_eq!(site.weights(), [1, 0]);
    // What the file says too is not lost by it.
    site.write(&(weight(0) + "[[service]]\naddress = \"192.0.2.90:80\"\n"));
    let done = site.gyre.call("config.reload", json!({}));
    assert_eq!((&done["lost"], &done["changes"]), (&json!([]), &json!([])));
    assert_eq!(site.gyre.call("config.revisions", json!({}))["unsaved"], json!([]));
    site.set_weight(4);
    let done = site.gyre.call("config.reload", json!({"discard": true}));
    assert_eq!((&done["lost"], &done["changes"]), (&line(4, 0), &line(0, 4)));
    assert_eq!(site.weights(), [1, 0]);
}

#[test]
fn hangup_reloads_and_what_it_undoes_can_be_had_back() {
    let site = Site::start();
    site.write(&weight(9));
    site.gyre.reload.request();
    site.wait_for_weights(&[1, 9]);
    site.set_weight(5);
    let before = site.numbers()[0];
    site.gyre.reload.request();
    site.wait_for_weights(&[1, 9]);
    site.gyre.call("config.rollback", json!({"revision": before}));
    assert_eq!(site.weights(), [1, 5]);
    // A faulty file is in the log alone.
    site.write("service = 1");
    site.gyre.reload.request();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(site.weights(), [1, 5]);
}

#[test]
fn what_is_not_confirmed_goes_back_by_itself() {
    let site = Site::start();
    let apply = |confirm_s| json!({"config": weight(9), "confirm_s": confirm_s});
    let done = site.gyre.call("config.apply", apply(1));
    assert_eq!((&done["confirm_within_s"], site.weights()), (&json!(1), vec![1, 9]));
    site.wait_for_weights(&[1, 3]);
    let list = site.gyre.call("config.revisions", json!({}));
    assert_eq!(list["confirm_within_s"], Value::Null);
    assert!(list["revisions"][0]["by"].as_str().unwrap().contains("not confirmed"), "{list}");
    let (code, _) = site.gyre.refuse("config.confirm", json!({}));
    assert_eq!((code.as_str(), site.weights()), ("unconfirmed", vec![1, 3]));
    let (code, _) = site.gyre.refuse("config.apply", apply(0));
    assert_eq!(code, "invalid_params");
}

#[test]
fn what_is_confirmed_stays_and_until_then_nothing_else_replaces_it() {
    let site = Site::start();
    let made = site.gyre.call("config.apply", json!({"config": weight(9), "confirm_s": 2}));
    let other = json!({"config": weight(7)});
    assert_eq!(site.gyre.refuse("config.apply", other.clone()).0, "unconfirmed");
    assert_eq!(site.gyre.refuse("config.save", json!({})).0, "unconfirmed");
    // Looking is allowed, and so are small changes.
    let dry = site.gyre.call("config.apply", json!({"config": weight(7), "dry_run": true}));
    assert_eq!(dry["changes"], line(7, 9));
    let confirmed = site.gyre.call("config.confirm", json!({}));
    assert_eq!(confirmed["revision"], made["revision"]);
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(site.weights(), [1, 9]);
    site.gyre.call("config.apply", other);
    // A rollback is an answer too.
    site.gyre.call("config.apply", json!({"config": CONFIG, "confirm_s": 100}));
    site.gyre.call("config.rollback", json!({}));
    assert_eq!(site.weights(), [1, 7]);
    assert_eq!(site.gyre.refuse("config.confirm", json!({})).0, "unconfirmed");
}

#[test]
fn revisions_are_listed_shown_and_gone_back_to() {
    let site = Site::start();
    site.gyre.call("config.apply", json!({"config": weight(5), "file": "/tmp/other.toml"}));
    site.set_weight(6);
    let more = weight(6).replace("192.0.2.11:8080", "192.0.2.13:8080");
    site.gyre.call("config.apply", json!({"config": more}));
    let list = site.gyre.call("config.revisions", json!({}));
    let by: Vec<&str> =
        list["revisions"].as_array().unwrap().iter().map(|r| r["by"].as_str().unwrap()).collect();
    let made = ["config.apply", "server.set_weight", "apply of /tmp/other.toml", "start"];
    assert_eq!(by, made);
    assert_eq!(list["revisions"][1]["changes"].as_array().unwrap().len(), 1);
    assert_eq!(
        (&list["revisions"][0]["running"], &list["revisions"][1]["running"]),
        (&json!(true), &json!(false))
    );
    let numbers = site.numbers();
    let shown = site.gyre.call("config.get", json!({"revision": numbers[2], "format": "toml"}));
    assert!(shown["config"].as_str().unwrap().contains("weight = 5"), "{shown}");
    let dry = site.gyre.call("config.rollback", json!({"revision": numbers[3], "dry_run": true}));
    assert_eq!(dry["changes"].as_array().unwrap().len(), 3, "{dry}");
    // The server that drained comes back.
    site.gyre.call("config.rollback", json!({"revision": numbers[3]}));
    assert_eq!(site.weights(), [1, 3]);
    // Back and forth.
    site.gyre.call("config.rollback", json!({}));
    assert!(site.weights().contains(&6));
    for params in [json!({"revision": 1_000_000}), json!({"revision": 0})] {
        assert_eq!(site.gyre.refuse("config.rollback", params.clone()).0, "not_found");
        assert_eq!(site.gyre.refuse("config.get", params).0, "not_found");
    }
}

#[test]
fn saving_writes_what_runs_and_leaves_the_rest_as_it_was_written() {
    let site = Site::start();
    let text = CONFIG.replace("name = \"web\"", "name = \"web\" # ask Ada");
    site.write(&text);
    site.gyre.call("config.reload", json!({}));
    assert_eq!(site.gyre.call("config.save", json!({}))["changes"], json!([]));
    assert_eq!(site.text(), text);
    site.set_weight(8);
    assert_eq!(site.gyre.call("config.save", json!({"dry_run": true}))["changes"], line(8, 3));
    assert_eq!(site.text(), text);
    let saved = site.gyre.call("config.save", json!({}));
    assert_eq!(saved["path"], json!(site.path));
    assert_eq!(site.text(), text.replace("weight = 3", "weight = 8"));
    assert_eq!(site.gyre.call("config.revisions", json!({}))["unsaved"], json!([]));
    assert_eq!(site.gyre.call("config.reload", json!({}))["changes"], json!([]));
}

#[test]
fn saving_does_not_overwrite_what_somebody_else_wrote() {
    let site = Site::start();
    site.set_weight(8);
    site.write(&CONFIG.replace("scheduler = \"rr\"", "scheduler = \"wlc\""));
    let (code, error) = site.gyre.refuse("config.save", json!({}));
    assert!(code == "file_changed" && error.to_string().contains("scheduler"), "{error}");
    site.write("half of");
    assert_eq!(site.gyre.refuse("config.save", json!({})).0, "file_changed");
    site.gyre.call("config.save", json!({"overwrite": true}));
    let config = gyre::config::check(&site.text()).unwrap().config;
    assert_eq!(config.service[0].server[1].weight, 8);
    assert_eq!(site.gyre.call("config.reload", json!({}))["changes"], json!([]));
}

#[test]
fn runtime_semantics_and_pools_go_back_with_the_rest() {
    let site = Site::start();
    let text = CONFIG.replace("[\"192.0.2.8\"]", "[\"192.0.2.8\", \"192.0.2.9\"]")
        + "[semantics]\nsloppy_tcp = true\n[[neighbour]]\naddress = \"192.0.2.11\"\n\
           mac = \"02:00:00:00:00:11\"\nport = \"wan\"\n";
    let done = site.gyre.call("config.apply", json!({"config": text}));
    assert_eq!(
        done["changes"],
        json!([
            "change local_addresses.pool1",
            "change semantics: sloppy_tcp true (was false)",
            "change static neighbours"
        ])
    );
    let back = site.gyre.call("config.rollback", json!({}));
    assert_eq!(back["changes"].as_array().unwrap().len(), 3);
    let now = site.gyre.call("config.get", json!({}));
    assert_eq!(now["config"]["local_addresses"]["pool1"]["addresses"], json!(["192.0.2.8"]));
    assert_eq!((now["config"].get("semantics"), now["config"].get("neighbour")), (None, None));
}

/// `services` of `servers` each, half of them wrr and half wlc.
fn large(services: usize, servers: usize, weight: usize) -> String {
    let mut text = CONFIG.to_owned();
    for at in 0..services {
        let (vip, scheduler) =
            (format!("10.{}.{}.80:80", at / 250, at % 250), ["wrr", "wlc"][at % 2]);
        text += &format!("[[service]]\naddress = \"{vip}\"\nscheduler = \"{scheduler}\"\n");
        for host in 0..servers {
            let weight = weight + host;
            let rip = format!("172.16.{}.{host}:80", at % 100);
            text += &format!("[[service.server]]\naddress = \"{rip}\"\nweight = {weight}\n");
        }
    }
    text
}

/// Prints how long each takes; in a debug build of a tenth of them. scripts/bench has the figure
/// of a worker that forwards meanwhile.
#[test]
fn thousands_of_services_are_applied_whole_again_and_beside_one_change() {
    let services = if cfg!(debug_assertions) { 1_000 } else { 10_000 };
    let slots = 131_072;
    let path = std::path::Path::new("/etc/gyre/test.toml");
    let gyre = Gyre::sized(slots, (path, CONFIG), SocketLimits::default());
    for (what, weight) in [("first", 1), ("other weights", 2), ("the same", 2)] {
        let config = json!({"config": large(services, 10, weight)});
        let start = std::time::Instant::now();
        gyre.call("config.apply", config);
        let took = start.elapsed();
        println!("{what}: {services} services of 10 servers applied in {took:?}");
    }
    let start = std::time::Instant::now();
    gyre.call(
        "server.set_weight",
        json!({"service": "web", "server": "192.0.2.12:8080", "weight": 7}),
    );
    println!("one weight beside them in {:?}", start.elapsed());
    assert_eq!(gyre.call("status", json!({}))["services"], services + 1);
}
