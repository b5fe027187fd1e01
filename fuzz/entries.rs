//! What is fuzzed: one function an entry, called with any bytes. The targets of cargo-fuzz and the
//! tests that stand in for them where it is not installed call the same.

use gyre::config::check;
use gyre::control::api::Request;
use gyre::control::api::rpc::{Id, Line, write_reply};

/// A line from the control socket, or a body from HTTP: read, and every call in it typed. Whatever
/// is refused makes a reply that is JSON.
pub fn json_rpc(bytes: &[u8]) {
    let items = match Line::read(bytes) {
        Line::Blank => return,
        Line::One(item) => vec![item],
        Line::Batch(items) => items,
    };
    for item in items {
        let outcome = item.call.and_then(|call| Request::read(&call.method, call.params));
        if let Err(error) = outcome {
            let mut reply = Vec::new();
            write_reply(&mut reply, &item.reply_to.unwrap_or(Id::NULL), &Err(error));
            serde_json::from_slice::<serde_json::Value>(&reply).expect("a reply that is JSON");
        }
    }
}

/// A configuration file: what passes means the same when it is written and read again.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(checked) = check(text) else { return };
    let again = checked.config.to_toml().expect("a configuration can be written");
    let again = check(&again).expect("what is written can be read");
    assert_eq!(again.desired, checked.desired);
}
