//! What clients may do to the socket, and what it does not do to others.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use gyre::control::ControlError;
use gyre::control::socket::{BoundSocket, SocketLimits};
use serde_json::{Value, json};

use crate::support::{CONFIG, Client, Gyre};

const STATUS: &str = r#"{"jsonrpc":"2.0","id":1,"method":"status"}"#;

fn small() -> SocketLimits {
    SocketLimits {
        request_bytes_max: 1000,
        clients_max: 3,
        partial_max: Duration::from_millis(300),
        write_max: Duration::from_millis(500),
    }
}

#[test]
fn the_socket_is_its_owners_alone_and_goes_with_its_server() {
    let gyre = Gyre::start();
    let mode = std::fs::metadata(&gyre.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(gyre.call("shutdown", json!({})), json!({}));
    gyre.join().unwrap();
}

#[test]
fn a_live_socket_is_left_to_its_server() {
    let gyre = Gyre::start();
    let error = BoundSocket::bind(&gyre.path).unwrap_err();
    assert!(matches!(error, ControlError::SocketInUse { .. }), "{error}");
    assert_eq!(gyre.call("status", json!({}))["workers"], 2);
}

#[test]
fn many_requests_share_a_connection_and_are_answered_in_order() {
    let gyre = Gyre::start();
    let mut client = gyre.connect();
    for id in 0..50 {
        client.send(format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"workers.list"}}"#));
        client.send("\r\n\n");
    }
    for id in 0..50 {
        assert_eq!(client.reply()["id"], id);
    }
}

#[test]
fn malformed_lines_get_an_error_and_the_connection_goes_on() {
    let gyre = Gyre::start();
    let mut client = gyre.connect();
    for (line, code) in [
        ("{\"jsonrpc\":", -32700),
        ("\u{0}\u{1}", -32700),
        ("[]", -32600),
        ("{}", -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"sttus"}"#, -32601),
        (r#"{"jsonrpc":"2.0","id":1,"method":"status","params":{"x":1}}"#, -32602),
        (r#"{"jsonrpc":"2.0","id":1,"method":"status","params":[1]}"#, -32602),
    ] {
        client.send(format!("{line}\n"));
        let reply = client.reply();
        assert_eq!(reply["error"]["code"], code, "{line}: {reply}");
        assert!(reply["error"]["data"]["code"].is_string(), "{reply}");
    }
    client.send(b"\xff\xfe\n");
    assert_eq!(client.reply()["error"]["code"], -32700);
    assert!(client.call("status", json!({}))["result"].is_object());
}

#[test]
fn a_batch_is_answered_by_one_array_and_notifications_by_nothing() {
    let gyre = Gyre::start();
    let mut client = gyre.connect();
    let silent = r#"{"jsonrpc":"2.0","method":"status"}"#;
    client.send(format!("{silent}\n[{silent},{silent}]\n[{silent},{STATUS},5]\n"));
    let reply = client.reply();
    assert_eq!(reply.as_array().map(Vec::len), Some(2), "{reply}");
    assert_eq!(reply[0]["id"], 1);
    assert!(reply[0]["result"].is_object());
    assert_eq!((&reply[1]["id"], &reply[1]["error"]["code"]), (&Value::Null, &json!(-32600)));
}

#[test]
fn an_oversized_line_is_refused_and_costs_only_its_client() {
    let gyre = Gyre::with(CONFIG, small());
    let mut other = gyre.connect();
    let mut client = gyre.connect();
    client.send(vec![b'x'; 200_000]);
    let reply = client.reply();
    assert_eq!(reply["error"]["data"]["code"], "too_large");
    assert_eq!(reply["id"], Value::Null);
    assert_eq!(client.line(), None);
    other.send(format!("{STATUS}\n"));
    assert_eq!(other.reply()["id"], 1);
}

#[test]
fn half_a_request_waits_then_ends_its_client_alone() {
    let gyre = Gyre::with(CONFIG, small());
    let mut half = gyre.connect();
    half.send(&STATUS[..20]);
    let mut other = gyre.connect();
    for byte in STATUS[20..24].chars() {
        // Progress buys no more time than the line has.
        std::thread::sleep(small().partial_max / 8);
        half.send(byte.to_string());
        assert!(other.call("status", json!({}))["result"].is_object());
    }
    assert_eq!(half.reply()["error"]["data"]["code"], "incomplete");
    assert_eq!(half.line(), None);
    // A client that is silent between requests may stay.
    assert!(other.call("status", json!({}))["result"].is_object());
}

#[test]
fn a_last_line_needs_no_newline_and_half_of_one_is_an_error() {
    let gyre = Gyre::start();
    let mut whole = gyre.connect();
    whole.send(STATUS);
    whole.finish();
    assert_eq!(whole.reply()["id"], 1);
    assert_eq!(whole.line(), None);
    let mut half = gyre.connect();
    half.send(&STATUS[..20]);
    half.finish();
    assert_eq!(half.reply()["error"]["code"], -32700);
}

#[test]
fn a_client_that_does_not_read_is_dropped_and_others_are_served() {
    let gyre = Gyre::with(CONFIG, small());
    let mut deaf = gyre.connect();
    let request = r#"{"jsonrpc":"2.0","id":1,"method":"stats"}"#;
    let requests = format!("{request}\n").repeat(2000);
    let sender = std::thread::spawn(move || {
        deaf.send(requests);
        deaf
    });
    let mut other = gyre.connect();
    for _ in 0..20 {
        assert!(other.call("status", json!({}))["result"].is_object());
    }
    let mut deaf = sender.join().unwrap();
    std::thread::sleep(4 * small().write_max);
    let mut replies = 0;
    while deaf.line().is_some() {
        replies += 1;
    }
    assert!(replies < 2000, "{replies} replies");
}

#[test]
fn more_clients_than_allowed_are_turned_away_until_one_leaves() {
    let gyre = Gyre::with(CONFIG, small());
    let mut clients: Vec<Client> = (0..3).map(|_| gyre.connect()).collect();
    for client in &mut clients {
        assert!(client.call("status", json!({}))["result"].is_object());
    }
    assert_eq!(gyre.connect().reply()["error"]["data"]["code"], "too_many_clients");
    clients.pop();
    gyre.wait_for("a free place", |gyre| {
        let mut client = gyre.connect();
        client.send(format!("{STATUS}\n"));
        client.reply().get("result").map(drop)
    });
}

#[test]
fn two_clients_changing_at_once_lose_nothing() {
    let gyre = Gyre::start();
    std::thread::scope(|scope| {
        for net in 0..2 {
            let gyre = &gyre;
            scope.spawn(move || {
                for host in 1..=20 {
                    let address = format!("10.{net}.0.{host}:80");
                    gyre.call("service.add", json!({"service": {"address": address}}));
                }
            });
        }
    });
    let services = gyre.call("service.list", json!({}));
    assert_eq!(services["services"].as_array().unwrap().len(), 41);
}

#[test]
fn random_bytes_never_stop_the_server() {
    let gyre = Gyre::with(CONFIG, small());
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for round in 0..200 {
        let mut bytes = Vec::new();
        for _ in 0..(round % 40 + 1) * 8 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.push(b"{}[]\":,\n\\ 0aeflnrstu\xff"[(state % 21) as usize]);
        }
        let mut client = gyre.connect();
        client.send(&bytes);
        client.finish();
        while let Some(line) = client.line() {
            assert!(serde_json::from_str::<Value>(&line).is_ok(), "{line}");
        }
    }
    assert!(gyre.connect().call("status", json!({}))["result"].is_object());
}

/// Files for a thousand clients and both of their ends.
fn raise_open_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most.min(8192), most).unwrap();
}

/// Sends requests until the other side takes no more, and never reads a reply.
fn deafen(path: &std::path::Path) -> std::os::unix::net::UnixStream {
    use std::io::Write;
    let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
    stream.set_nonblocking(true).unwrap();
    let line = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"stats\"}\n".repeat(50);
    while stream.write(line.as_bytes()).is_ok_and(|written| written == line.len()) {}
    stream
}

#[test]
fn nine_hundred_stuck_clients_do_not_hold_up_a_hundred_others() {
    raise_open_files();
    let gyre = Gyre::start();
    let mut silent: Vec<Client> = (0..600).map(|_| gyre.connect()).collect();
    // Half of them have begun a request that never ends.
    silent.iter_mut().take(300).for_each(|client| client.send(&STATUS[..30]));
    let deaf: Vec<_> = (0..300).map(|_| deafen(&gyre.path)).collect();
    let mut slowest = Duration::ZERO;
    let mut others: Vec<Client> = (0..100).map(|_| gyre.connect()).collect();
    for weight in 0..3 {
        for client in &mut others {
            let start = std::time::Instant::now();
            assert!(client.call("status", json!({}))["result"].is_object());
            slowest = slowest.max(start.elapsed());
        }
        let server = json!({"service": "web", "server": "192.0.2.12:8080", "weight": weight});
        let start = std::time::Instant::now();
        gyre.call("server.set_weight", server);
        slowest = slowest.max(start.elapsed());
    }
    println!("the slowest of 303 calls took {slowest:?}");
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    drop((silent, deaf));
}
