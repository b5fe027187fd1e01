//! What is fuzzed: one function an entry, called with any bytes. The targets of libFuzzer and the
//! tests that run in every suite call the same.

use std::cell::Cell;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use gyre::config::check;
use gyre::control::api::Request;
use gyre::control::api::rpc::{Id, Line, write_reply};
use gyre::import::{self, ImportError, Imported, Options, PortOption, Source, Surroundings};

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

/// Every include is this text, for as often as `includes_left` says, and every name resolves.
struct Everything<'t> {
    text: &'t str,
    includes_left: Cell<u8>,
}

/// Enough for the nesting that importers allow, and to pass it; more would only be slow.
const INCLUDES_MAX: u8 = 24;

impl Surroundings for Everything<'_> {
    fn included(&self, pattern: &str, _: &Path) -> Vec<(PathBuf, Result<String, String>)> {
        let Some(left) = self.includes_left.get().checked_sub(1) else { return Vec::new() };
        self.includes_left.set(left);
        vec![(pattern.into(), Ok(self.text.into())), ("gone".into(), Err("gone".into()))]
    }

    fn resolve(&self, host: &str) -> Vec<IpAddr> {
        vec![[192, 0, 2, host.len() as u8].into()]
    }

    fn service_port(&self, name: &str, _: &str) -> Option<u16> {
        Some(name.len() as u16)
    }
}

type Importer = fn(Source<'_>, &dyn Surroundings, &Options) -> Result<Imported, ImportError>;

fn imported(bytes: &[u8], importer: Importer) {
    let text = String::from_utf8_lossy(bytes);
    let mut options = Options { config_id: Some("a".into()), ..Options::default() };
    options.ports.push(PortOption {
        name: "wan".into(),
        device: "net_null0".into(),
        is_shared: false,
        addresses: ["203.0.113.2/24", "2001:db8:ffff::2/64"].map(|a| a.parse().unwrap()).into(),
    });
    let source = Source { path: Path::new("k.conf"), text: &text };
    let world = Everything { text: &text, includes_left: Cell::new(INCLUDES_MAX) };
    let Ok(imported) = importer(source, &world, &options) else { return };
    if let Err(problems) = check(&imported.text) {
        let shown: Vec<String> = problems.iter().map(ToString::to_string).collect();
        panic!("{}\nof\n{}\nof\n{text}", shown.join("\n"), imported.text);
    }
}

/// A keepalived.conf: whatever comes of it is a configuration without fault.
pub fn keepalived(bytes: &[u8]) {
    imported(bytes, import::keepalived);
}

/// A ldirectord.cf, likewise.
pub fn ldirectord(bytes: &[u8]) {
    imported(bytes, import::ldirectord);
}
