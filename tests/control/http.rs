//! The API over HTTP: nothing without the token, the same answers with it, metrics and health.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use gyre::control::socket::SocketLimits;
use serde_json::{Value, json};

use crate::support::{CONFIG, Gyre, PATIENCE};
use crate::web::{TOKEN, Web};

#[test]
fn without_the_token_there_is_nothing() {
    let web = Web::start();
    for path in ["/rpc", "/metrics", "/healthz", "/events", "/", "/none"] {
        for header in [
            String::new(),
            "Authorization: Bearer wrong-token-of-some-length\r\n".into(),
            format!("Authorization: Bearer {TOKEN}x\r\n"),
            format!("Authorization: Basic {TOKEN}\r\n"),
            "Authorization: Bearer \r\n".into(),
        ] {
            for method in ["GET", "POST"] {
                let request = format!(
                    "{method} {path} HTTP/1.1\r\nHost: g\r\nConnection: close\r\n{header}\r\n"
                );
                let (status, head, body) = web.send(&request);
                assert_eq!(status, 401, "{request}");
                assert!(head.contains("www-authenticate: bearer"), "{head}");
                assert!(!body.contains("192.0.2"), "{body}");
            }
        }
    }
    assert_eq!(web.get("/none", "").0, 404);
}

#[test]
fn the_api_is_the_sockets() {
    let web = Web::start();
    let (status, reply) = web.rpc(r#"{"jsonrpc":"2.0","id":1,"method":"service.list"}"#);
    assert_eq!((status, &reply["id"]), (200, &json!(1)));
    let rows = |list: &Value| list["services"][0]["servers"].as_array().unwrap().len();
    assert_eq!(rows(&reply["result"]), rows(&web.gyre.call("service.list", json!({}))));
    // Pretty-printed JSON, a batch, a notification, nonsense.
    let batch = "[\n{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"status\"},\n\
                 {\"jsonrpc\":\"2.0\",\"method\":\"status\"},\n4]";
    let (_, reply) = web.rpc(batch);
    assert_eq!(reply.as_array().map(Vec::len), Some(2), "{reply}");
    assert_eq!(web.rpc(r#"{"jsonrpc":"2.0","method":"status"}"#), (204, Value::Null));
    assert_eq!(web.rpc("{").1["error"]["code"], -32700);
    let subscribe = r#"{"jsonrpc":"2.0","id":1,"method":"events.subscribe"}"#;
    assert_eq!(web.rpc(subscribe).1["error"]["data"]["code"], "invalid_request");
    // What HTTP is, only a restart can change.
    let (code, error) = web.gyre.refuse("config.apply", json!({"config": CONFIG}));
    assert!(code == "needs_restart" && error.to_string().contains("http"), "{error}");
}

#[test]
fn health_is_bad_while_a_worker_stands_still() {
    let web = Web::start();
    let (status, _, body) = web.get("/healthz", "");
    assert_eq!(status, 200);
    assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["workers"], 2);
    web.gyre.workers[0].stalled.store(true, Ordering::Relaxed);
    web.gyre.wait_for("bad health", |_| (web.get("/healthz", "").0 == 503).then_some(()));
    web.gyre.workers[0].stalled.store(false, Ordering::Relaxed);
    web.gyre.wait_for("good health", |_| (web.get("/healthz", "").0 == 200).then_some(()));
}

#[test]
fn events_stream_over_http() {
    let web = Web::start();
    let mut stream = web.stream();
    let request = format!(
        "GET /events?kinds=config.changed HTTP/1.1\r\nHost: g\r\n\
         Authorization: Bearer {TOKEN}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    assert!(lines.any(|line| line == "content-type: text/event-stream"));
    web.gyre.call("service.add", json!({"service": {"address": "192.0.2.90:80"}}));
    assert!(lines.any(|line| line == "event: config.changed"));
    let data = lines.find_map(|line| line.strip_prefix("data: ").map(str::to_owned)).unwrap();
    let data: Value = serde_json::from_str(&data).unwrap();
    assert_eq!(data["by"], "service.add");
    assert_eq!(web.get("/events?kinds=rain", "").0, 400);
}

/// The value of a sample.
fn sample(text: &str, start: &str) -> f64 {
    let line = text.lines().find(|line| line.starts_with(start));
    let line = line.unwrap_or_else(|| panic!("no {start} in {text}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn metrics_are_what_was_counted() {
    let web = Web::start();
    let worker = &web.gyre.workers[1].counters;
    worker.drops[gyre::counters::DropReason::NoServer as usize].add(5);
    worker.hand_offs[0].add(3);
    worker.busy_ns.set(2_500_000_000);
    worker.tsc_hz.set(2_000_000_000);
    worker.nics[0].rx_frames.set(100);
    [1, 2, 3, 64].into_iter().for_each(|frames| worker.burst(frames));
    worker.ring_depths[0].set(9);
    worker.flows.set(12);
    let server = web.gyre.adopted(1).services.iter().flatten().next().unwrap().servers[0].clone();
    worker.servers[server.id.index()].in_packets.add(77);
    let (status, head, text) = web.get("/metrics", "");
    assert_eq!(status, 200);
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    for (start, value) in [
        ("gyre_dropped_frames_total{worker=\"1\",reason=\"no_server\"}", 5.0),
        ("gyre_hand_offs_total{worker=\"1\",cause=\"flow\"}", 3.0),
        ("gyre_worker_busy_seconds_total{worker=\"1\"}", 2.5),
        ("gyre_worker_busy_cycles_total{worker=\"1\"}", 5e9),
        ("gyre_worker_burst_frames_bucket{le=\"4.0\",worker=\"1\"}", 3.0),
        ("gyre_worker_burst_frames_count{worker=\"1\"}", 4.0),
        ("gyre_worker_burst_frames_sum{worker=\"1\"}", 100.0),
        ("gyre_worker_ring_depth{worker=\"1\",ring=\"peers\"}", 9.0),
        ("gyre_worker_flows{worker=\"1\"}", 12.0),
        ("gyre_worker_flow_entries{worker=\"1\",family=\"ipv4\"}", 262_144.0),
        ("gyre_port_lost_frames_total{port=\"wan\",cause=\"rx_missed\"}", 7.0),
        ("gyre_port_speed_bytes{port=\"wan\"}", 1.25e9),
        ("gyre_server_weight{service=\"tcp 192.0.2.80:80\",server=\"192.0.2.12:8080\"}", 3.0),
        (
            "gyre_server_packets_total{service=\"tcp 192.0.2.80:80\",server=\"192.0.2.11:8080\",\
             direction=\"in\"}",
            77.0,
        ),
        ("gyre_service_servers_up{service=\"tcp 192.0.2.80:80\",name=\"web\"}", 0.0),
        ("gyre_source_ports_free{pool=\"pool1\",address=\"192.0.2.8\"}", 2048.0),
        ("gyre_config_unsaved_changes", 0.0),
        ("node_ipvs_incoming_packets_total", 77.0),
        (
            "node_ipvs_backend_weight{local_address=\"192.0.2.80\",local_port=\"80\",\
             remote_address=\"192.0.2.12\",remote_port=\"8080\",proto=\"TCP\",local_mark=\"\"}",
            3.0,
        ),
    ] {
        assert!((sample(&text, start) - value).abs() < 1e-6, "{start}: {}", sample(&text, start));
    }
    web.gyre.call("status", json!({}));
    let (_, head, open) = web.get("/metrics", "Accept: application/openmetrics-text\r\n");
    assert!(head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(open.ends_with("# EOF\n"));
    assert!(sample(&open, "gyre_control_request_duration_seconds_count{method=\"status\"}") >= 1.0);
}

#[test]
fn clients_that_are_stuck_do_not_hold_up_the_socket_and_are_let_go() {
    let web = Web::start();
    let mut stuck: Vec<TcpStream> = (0..300).map(|_| web.stream()).collect();
    for (at, stream) in stuck.iter_mut().enumerate() {
        let text = ["", "GET /metr", "POST /rpc HTTP/1.1\r\nContent-Length: 9999\r\n"][at % 3];
        stream.write_all(text.as_bytes()).unwrap();
    }
    let start = Instant::now();
    for _ in 0..20 {
        web.gyre.call("status", json!({}));
    }
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    // They have ten seconds for their headers.
    assert_eq!(web.get("/healthz", "").0, 200);
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
}

#[test]
fn a_listener_that_cannot_be_had_ends_the_start_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    let start = |address: &str| {
        let listen = format!("listen = \"{address}\"\ntoken_file = \"{}\"", token.display());
        let text = format!("{CONFIG}\n[http]\n{listen}\n");
        let gyre = Gyre::of_file(Path::new("/etc/gyre/t.toml"), &text, SocketLimits::default());
        gyre.wait_for("the end", |gyre| gyre.is_stopping().then_some(()));
        gyre.join().unwrap_err().to_string()
    };
    let mode = |mode| std::fs::set_permissions(&token, std::fs::Permissions::from_mode(mode));
    let refusal = start("127.0.0.1:0");
    assert!(refusal.contains("No such file") && refusal.contains("make one: `head"), "{refusal}");
    std::fs::write(&token, "short").unwrap();
    mode(0o644).unwrap();
    let refusal = start("127.0.0.1:0");
    assert!(refusal.contains("everybody may use it; `chmod 600 /"), "{refusal}");
    mode(0o600).unwrap();
    let refusal = start("127.0.0.1:0");
    assert!(refusal.contains("at least 16 letters and digits is needed; make one"), "{refusal}");
    std::fs::write(&token, TOKEN).unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let refusal = start(&address);
    assert!(refusal.contains(&address) && refusal.contains("set another address"), "{refusal}");
}
