//! Health checks of real servers on loopback: what their end and return come to.

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use gyre::control::socket::SocketLimits;
use serde_json::{Value, json};

use crate::support::{Client, Gyre, PATIENCE};

const PORT: &str = "port = [{ name = \"wan\", device = \"net_null0\" }]\nruntime.workers = 2\n";

/// Two servers that accept connections, both at one port.
fn servers() -> (u16, [Option<TcpListener>; 2]) {
    loop {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = first.local_addr().unwrap().port();
        if let Ok(second) = TcpListener::bind(("127.0.0.2", port)) {
            return (port, [Some(first), Some(second)]);
        }
    }
}

fn listen(n: u8, port: u16) -> Option<TcpListener> {
    // Connections of the checks may still hold the port for a moment.
    let end = Instant::now() + PATIENCE;
    loop {
        match TcpListener::bind((std::net::Ipv4Addr::new(127, 0, 0, n), port)) {
            Ok(listener) => return Some(listener),
            Err(error) if Instant::now() > end => panic!("{error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// They serve one service, with `more` of its options; gyre is their director and their machine.
fn gyre(port: u16, more: &str) -> Gyre {
    let text = format!(
        "{PORT}[[service]]\naddress = \"192.0.2.90:{port}\"\nname = \"web\"\n\
         forwarding = \"local\"\n{more}\n\
         server = [{{ address = \"127.0.0.1\", weight = 3 }},\n\
         {{ address = \"127.0.0.2\", weight = 5 }}]\n"
    );
    Gyre::with(&text, SocketLimits::default())
}

const QUICK: &str = "check = [{ kind = \"tcp\", interval_ms = 100, retries = 0 }]";

fn listener(gyre: &Gyre, kinds: &[&str]) -> Client {
    let mut client = gyre.connect();
    client.call("events.subscribe", json!({"kinds": kinds}));
    client
}

fn next(client: &mut Client) -> Value {
    client.reply()["params"].clone()
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What workers have: address's last byte and weight.
fn published(gyre: &Gyre) -> Vec<(u8, u32)> {
    // A worker that has not turned yet has nothing.
    let Some(snapshot) = gyre.workers[0].snapshot.lock().unwrap().clone() else { return vec![] };
    let Some(service) = snapshot.services.iter().flatten().next() else { return vec![] };
    let row = |server: &gyre::model::RealServer| match server.address {
        std::net::IpAddr::V4(v4) => (v4.octets()[3], server.effective_weight()),
        std::net::IpAddr::V6(_) => panic!("{server:?}"),
    };
    service.servers.iter().map(row).collect()
}

fn row(gyre: &Gyre, n: usize) -> Value {
    gyre.call("server.list", json!({}))["servers"][n].clone()
}

#[test]
fn a_server_that_dies_loses_its_weight_and_gets_it_back() {
    let (port, mut listeners) = servers();
    let gyre = gyre(port, QUICK);
    let mut events = listener(&gyre, &["server.down", "server.up"]);
    wait_for("every check was good", || {
        let checks = gyre.call("check.list", json!({"service": "web"}));
        let rows = checks["checks"].as_array().unwrap();
        rows.len() == 2 && rows.iter().all(|row| row["last"] == "good")
    });
    let check = gyre.call("check.list", json!({}))["checks"][1].clone();
    let target = format!("127.0.0.2:{port}");
    assert_eq!((&check["check"], &check["target"]), (&json!("tcp"), &json!(target)), "{check}");
    assert_eq!((&check["state"], &check["interval_ms"]), (&json!("good"), &json!(100)));
    assert!(check["took_us"].is_u64() && check["last_ago_ms"].is_u64(), "{check}");

    listeners[0] = None;
    let down = next(&mut events);
    assert_eq!(
        (&down["kind"], &down["server"], &down["reason"]),
        (
            &json!("server.down"),
            &json!(format!("127.0.0.1:{port}")),
            &json!("tcp check: connection refused")
        )
    );
    wait_for("workers have it", || published(&gyre) == [(1, 0), (2, 5)]);
    let shown = row(&gyre, 0);
    assert_eq!((&shown["weight"], &shown["weight_asked"]), (&json!(0), &json!(3)), "{shown}");
    assert_eq!(
        (&shown["health"], &shown["health_reason"]),
        (&json!("down"), &json!("tcp check: connection refused"))
    );
    assert_eq!(gyre.call("status", json!({}))["servers_down"], 1);
    let checks = gyre.call("check.list", json!({}));
    assert_eq!(checks["checks"][0]["state"], "bad");
    assert_eq!(checks["checks"][0]["last"], "connection refused");
    // Nobody changed the configuration.
    let config = gyre.call("config.get", json!({"format": "json"}));
    assert_eq!(config["config"]["service"][0]["server"][0]["weight"], 3);
    assert_eq!(gyre.call("config.revisions", json!({}))["unsaved"], json!([]));

    listeners[0] = listen(1, port);
    let up = next(&mut events);
    let reason = up["reason"].as_str().unwrap();
    assert_eq!(up["kind"], "server.up", "{up}");
    assert!(reason.starts_with("tcp check: good again after "), "{up}");
    wait_for("workers have it", || published(&gyre) == [(1, 3), (2, 5)]);
    let shown = row(&gyre, 0);
    assert_eq!((&shown["health"], &shown["health_reason"]), (&json!("up"), &Value::Null));
}

#[test]
fn the_sorry_server_and_the_hooks_hear_of_a_lost_quorum() {
    let (port, mut listeners) = servers();
    let directory = tempfile::tempdir().unwrap();
    let told = directory.path().join("told");
    let hook = |word: &str| {
        format!("[\"/bin/sh\", \"-c\", \"echo {word} $GYRE_VPORT >> {}\"]", told.display())
    };
    let more = format!(
        "{QUICK}\non_failure = \"remove\"\nquorum_up = {}\nquorum_down = {}\n\
         sorry_server = {{ address = \"127.0.0.3\" }}",
        hook("add"),
        hook("remove")
    );
    let gyre = gyre(port, &more);
    let mut events = listener(&gyre, &["quorum.lost", "quorum.up", "sorry.in", "sorry.out"]);
    let hooks = || std::fs::read_to_string(&told).unwrap_or_default();
    wait_for("the first hook ran", || hooks() == format!("add {port}\n"));
    listeners = listeners.map(|_| None);
    let lost = next(&mut events);
    assert_eq!((&lost["kind"], &lost["weight"]), (&json!("quorum.lost"), &json!(0)), "{lost}");
    assert_eq!(next(&mut events)["kind"], "sorry.in");
    wait_for("workers have it alone", || published(&gyre) == [(3, 1)]);
    let out = row(&gyre, 1);
    assert_eq!((&out["state"], &out["weight_asked"]), (&json!("out"), &json!(3)), "{out}");
    wait_for("the second hook ran", || hooks().ends_with(&format!("remove {port}\n")));

    listeners[1] = listen(2, port);
    assert_eq!(next(&mut events)["kind"], "quorum.up");
    assert_eq!(next(&mut events)["kind"], "sorry.out");
    wait_for("the server is back", || published(&gyre).contains(&(2, 5)));
    wait_for("the third hook ran", || hooks().ends_with(&format!("add {port}\n")));
    wait_for("it has drained", || published(&gyre) == [(2, 5)]);
}

/// Where that is asked for; a quorum that is lost has told already.
#[test]
fn a_hook_hears_that_gyre_stops() {
    let wanted = "up\nstopping 0\n";
    for is_lost in [false, true] {
        let (port, mut listeners) = servers();
        let directory = tempfile::tempdir().unwrap();
        let told = directory.path().join("told");
        let hook = |words: &str| {
            format!("[\"/bin/sh\", \"-c\", \"sleep 0.2; echo {words} >> {}\"]", told.display())
        };
        let more = format!(
            "{QUICK}\nquorum_up = {}\nquorum_down = {}\nquorum_down_at_stop = true",
            hook("up"),
            hook("stopping $GYRE_WEIGHT")
        );
        let gyre = gyre(port, &more);
        let said = || std::fs::read_to_string(&told).unwrap_or_default();
        wait_for("the first hook ran", || said() == "up\n");
        if is_lost {
            listeners = listeners.map(|_| None);
            wait_for("the second hook ran", || said() == wanted);
        }
        drop(gyre);
        assert_eq!(said(), wanted, "lost before: {is_lost}");
        drop(listeners);
    }
}

#[test]
fn an_operators_change_changes_only_what_it_says() {
    let (port, mut listeners) = servers();
    let gyre = gyre(port, QUICK);
    listeners[0] = None;
    wait_for("it is down", || published(&gyre) == [(1, 0), (2, 5)]);
    let name = |n: u8| format!("127.0.0.{n}:{port}");
    let weight = |n: u8, weight: u32| {
        let server = json!({"service": "web", "server": name(n), "weight": weight});
        gyre.call("server.set_weight", server);
    };
    weight(1, 7);
    assert_eq!(
        (row(&gyre, 0)["weight"].clone(), published(&gyre)),
        (json!(0), vec![(1, 0), (2, 5)])
    );
    weight(2, 0);
    listeners[0] = listen(1, port);
    wait_for("it has the new weight", || published(&gyre) == [(1, 7), (2, 0)]);
    // Whose weight an operator makes 0 and more again is up for that reason.
    let mut events = listener(&gyre, &["server.up"]);
    weight(1, 0);
    weight(1, 7);
    assert_eq!(next(&mut events)["reason"], "weight 7");
    // The operator's 0 outlives failure and return.
    listeners[1] = None;
    wait_for("it is down", || row(&gyre, 1)["health"] == "down");
    listeners[1] = listen(2, port);
    wait_for("it is up", || row(&gyre, 1)["health"] == "up");
    assert_eq!(published(&gyre), [(1, 7), (2, 0)]);
    // Other checks, then none: what ran ends, what is asked for counts.
    let edit = |set: Value| gyre.call("service.edit", json!({"service": "web", "set": set}));
    let checks = json!([{"kind": "tcp", "port": 1, "interval_ms": 100, "retries": 0}]);
    let changed = edit(json!({"check": checks}));
    assert_eq!(changed["changes"], json!([format!("edit service tcp 192.0.2.90:{port}")]));
    wait_for("nobody listens there", || published(&gyre) == [(1, 0), (2, 0)]);
    let mut events = listener(&gyre, &["server.up"]);
    edit(json!({"check": null}));
    let reason = next(&mut events)["reason"].as_str().unwrap().to_owned();
    assert!(reason.starts_with("tcp check: no longer asked for, after "), "{reason}");
    wait_for("nothing can fail any more", || published(&gyre) == [(1, 7), (2, 0)]);
    assert_eq!(gyre.call("check.list", json!({}))["checks"], json!([]));
    assert_eq!(row(&gyre, 0)["health"], "unchecked");
}

/// Handshakes that clients see fail are as good as a round, and need not wait for one.
#[test]
fn refused_handshakes_have_a_server_checked_at_once() {
    let (port, mut listeners) = servers();
    let slow = "check = [{ kind = \"tcp\", interval_ms = 600000, retries = 0 }]";
    let gyre = gyre(port, slow);
    listeners[0] = None;
    wait_for("workers have it", || published(&gyre).len() == 2);
    let snapshot = gyre.workers[0].snapshot.lock().unwrap().clone().unwrap();
    let id = snapshot.services.iter().flatten().next().unwrap().servers[0].id;
    wait_for("it was checked", || {
        gyre.workers[1].counters.servers[id.index()].refused.add(1);
        published(&gyre) == [(1, 0), (2, 5)]
    });
    assert_eq!(row(&gyre, 1)["health"], "up");
}

/// A hundred servers that fail together are few snapshots.
#[test]
fn many_failures_are_few_snapshots() {
    let closed: SocketAddr = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let port = closed.port();
    let servers: Vec<String> =
        (1..=100).map(|n| format!("{{ address = \"127.0.1.{n}\" }}")).collect();
    let text = format!(
        "{PORT}[[service]]\naddress = \"192.0.2.90:{port}\"\nforwarding = \"local\"\n\
         check = [{{ kind = \"tcp\", interval_ms = 1000, retries = 0 }}]\nserver = [{}]\n",
        servers.join(", ")
    );
    let gyre = Gyre::with(&text, SocketLimits::default());
    let before = gyre.call("status", json!({}))["revision"].as_u64().unwrap();
    wait_for("all are down", || {
        let published = published(&gyre);
        published.len() == 100 && published.iter().all(|(_, weight)| *weight == 0)
    });
    let status = gyre.call("status", json!({}));
    assert_eq!(status["servers_down"], 100);
    let snapshots = status["revision"].as_u64().unwrap() - before;
    // One each 200 ms while rounds come, which is a second and what a busy machine adds.
    assert!((1..=30).contains(&snapshots), "{snapshots}");
}
