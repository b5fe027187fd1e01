//! What `scripts/check-fuzz` fuzzes guided by coverage, here with bytes of proptest's: valid texts,
//! mangled.

#[path = "../fuzz/entries.rs"]
mod entries;

use gyre::control::api::METHODS;
use proptest::prelude::*;

const KEEPALIVED: [&str; 5] = [
    include_str!("fixtures/import/keepalived/schedulers.conf"),
    include_str!("fixtures/import/keepalived/groups.conf"),
    include_str!("fixtures/import/keepalived/checks.conf"),
    include_str!("fixtures/import/keepalived/lexical.conf"),
    include_str!("fixtures/import/keepalived/slips.conf"),
];
const LDIRECTORD: [&str; 2] = [
    include_str!("fixtures/import/ldirectord/keys.cf"),
    include_str!("fixtures/import/ldirectord/slips.cf"),
];
const CONFIG: &str = include_str!("../docs/examples/fullnat.toml");

/// A request for any method by its own example, or a batch of some.
fn request() -> impl Strategy<Value = Vec<u8>> {
    let one = (0..METHODS.len()).prop_map(|at| {
        let (name, params) = (METHODS[at].name, METHODS[at].example.0);
        format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"{name}\",\"params\":{params}}}")
    });
    proptest::collection::vec(one, 1..4).prop_map(|calls| match &calls[..] {
        [one] => one.clone().into_bytes(),
        calls => format!("[{}]", calls.join(",")).into_bytes(),
    })
}

/// Some bytes replaced, put in, taken out or doubled.
fn mangle(mut bytes: Vec<u8>, edits: Vec<(u8, proptest::sample::Index, u8)>) -> Vec<u8> {
    for (kind, at, byte) in edits {
        if bytes.is_empty() {
            break;
        }
        let at = at.index(bytes.len());
        match kind % 4 {
            0 => bytes[at] = byte,
            1 => bytes.insert(at, byte),
            2 => drop(bytes.remove(at)),
            _ => {
                let tail: Vec<u8> = bytes[at..].iter().take(byte.into()).copied().collect();
                bytes.splice(at..at, tail);
            }
        }
    }
    bytes
}

fn edits() -> impl Strategy<Value = Vec<(u8, proptest::sample::Index, u8)>> {
    proptest::collection::vec(any::<(u8, proptest::sample::Index, u8)>(), 0..12)
}

/// Lines of all fixtures in any order: keywords in blocks that are not theirs.
fn lines() -> impl Strategy<Value = Vec<String>> {
    let texts = KEEPALIVED.iter().chain(&LDIRECTORD);
    let all: Vec<String> =
        texts.flat_map(|text| text.lines()).map(|line| format!("{line}\n")).collect();
    proptest::collection::vec(proptest::sample::select(all), 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn mangled_requests_are_read_or_refused(bytes in request(), edits in edits()) {
        entries::json_rpc(&mangle(bytes, edits));
    }

    #[test]
    fn any_bytes_are_read_or_refused_as_requests(bytes: Vec<u8>) {
        entries::json_rpc(&bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn mangled_configurations_are_read_or_refused(edits in edits()) {
        entries::config(&mangle(CONFIG.as_bytes().to_vec(), edits));
    }

    #[test]
    fn mangled_keepalived_is_imported_without_fault(at in 0..KEEPALIVED.len(), edits in edits()) {
        entries::keepalived(&mangle(KEEPALIVED[at].as_bytes().to_vec(), edits));
    }

    #[test]
    fn mangled_ldirectord_is_imported_without_fault(at in 0..LDIRECTORD.len(), edits in edits()) {
        entries::ldirectord(&mangle(LDIRECTORD[at].as_bytes().to_vec(), edits));
    }

    #[test]
    fn any_lines_are_imported_without_fault(picks in lines()) {
        let text = picks.concat();
        entries::keepalived(text.as_bytes());
        entries::ldirectord(text.as_bytes());
    }

    #[test]
    fn any_bytes_do_importers_no_harm(bytes: Vec<u8>) {
        entries::keepalived(&bytes);
        entries::ldirectord(&bytes);
    }
}
