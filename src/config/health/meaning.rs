//! Judges what of a check goes together. What depends on the server and the service beside it is
//! `model::validate`'s.

use super::types::{Check, CheckKind, CheckMethod, CheckWay, DnsRecord};
use crate::config::shape::{Walk, join};
use crate::config::types::Service;
use crate::limits::COMMAND_PARTS_MAX;

/// A list of checks, and the path at which it was written.
pub(in crate::config) struct Checks<'c>(
    pub(in crate::config) &'c [Check],
    pub(in crate::config) String,
);

use CheckKind::{Dns, Http, Https, Icmp, Program, Smtp, Tcp, Udp};

const HTTP: &[CheckKind] = &[Http, Https];
const ANSWERS: &[CheckKind] = &[Http, Https, Udp];
const PORTS: &[CheckKind] = &[Tcp, Http, Https, Udp, Dns, Smtp, Program];

/// Each field that not all kinds have: whether it is there, and who has it.
fn special(check: &Check) -> [(bool, &'static str, &'static [CheckKind]); 21] {
    [
        (check.port.is_some(), "port", PORTS),
        (check.way.is_some(), "way", &[Tcp, Http, Https, Udp, Dns, Smtp]),
        (check.method.is_some(), "method", HTTP),
        (check.request.is_some(), "request", HTTP),
        (check.host.is_some(), "host", HTTP),
        (check.status.is_some(), "status", HTTP),
        (check.tls_verify.is_some(), "tls_verify", &[Https]),
        (check.sni.is_some(), "sni", &[Https]),
        (check.expect_text.is_some(), "expect_text", ANSWERS),
        (check.expect_regex.is_some(), "expect_regex", ANSWERS),
        (check.expect_md5.is_some(), "expect_md5", ANSWERS),
        (check.expect_sha256.is_some(), "expect_sha256", ANSWERS),
        (check.expect_reply.is_some(), "expect_reply", &[Udp]),
        (check.payload.is_some(), "payload", &[Udp]),
        (check.payload_hex.is_some(), "payload_hex", &[Udp]),
        (check.name.is_some(), "name", &[Dns]),
        (check.record.is_some(), "record", &[Dns]),
        (check.record_address.is_some(), "record_address", &[Dns]),
        (check.payload_bytes.is_some(), "payload_bytes", &[Icmp]),
        (check.helo.is_some(), "helo", &[Smtp]),
        (check.command.is_some(), "command", &[Program]),
    ]
}

/// Judges a service's own: its checks, its servers' and what follows from them.
pub(in crate::config) fn judge(service: &Service, path: &str, walk: &mut Walk<'_>) {
    Checks(&service.check, join(path, "check")).judge(walk);
    let servers = join(path, "server");
    for (at, server) in service.server.iter().enumerate() {
        if let Some(checks) = &server.check {
            let list = join(&walk.element(&servers, at), "check");
            Checks(checks, list).judge(walk);
        }
    }
    if service.quorum_down_at_stop && service.quorum_down.is_empty() {
        let (what, remedy) = ("there is no quorum_down that could run", "add it, or leave it out");
        walk.push(&join(path, "quorum_down_at_stop"), what.into(), remedy.into());
    }
    for (name, hook) in [("quorum_up", &service.quorum_up), ("quorum_down", &service.quorum_down)] {
        if !hook.is_empty() {
            command(hook, &join(path, name), walk);
        }
    }
}

impl Checks<'_> {
    pub(in crate::config) fn judge(&self, walk: &mut Walk<'_>) {
        for (at, check) in self.0.iter().enumerate() {
            let path = walk.element(&self.1, at);
            fields(check, &path, walk);
            answers(check, &path, walk);
            match check.kind {
                Dns => dns(check, &path, walk),
                Program => match &check.command {
                    Some(parts) => command(parts, &join(&path, "command"), walk),
                    None => missing("command", "[\"/usr/lib/checks/x\"]", &path, walk),
                },
                _ => {}
            }
        }
    }
}

fn words(kinds: &[CheckKind]) -> String {
    let words: Vec<&str> = kinds.iter().map(|kind| kind.word()).collect();
    words.join(", ")
}

fn fields(check: &Check, path: &str, walk: &mut Walk<'_>) {
    let kind = check.kind;
    for (given, name, kinds) in special(check) {
        if given && !kinds.contains(&kind) {
            let what = format!("a check of kind {} has no {name}", kind.word());
            walk.push(&join(path, name), what, format!("leave it out; it is for {}", words(kinds)));
        }
    }
    let statuses = join(path, "status");
    if check.status.as_ref().is_some_and(Vec::is_empty) && !walk.any_dropped_in(&statuses) {
        let what = "no status would be good".into();
        walk.push(&statuses, what, "list some, or leave it out for 200-299".into());
    }
    if check.payload.is_some() && check.payload_hex.is_some() {
        let what = "`payload` and `payload_hex` both say what is sent".into();
        walk.push(&join(path, "payload_hex"), what, "leave one of them out".into());
    }
}

/// At most one thing is asked of an answer, and there must be one.
fn answers(check: &Check, path: &str, walk: &mut Walk<'_>) {
    let asked = [
        (check.expect_text.is_some(), "expect_text"),
        (check.expect_regex.is_some(), "expect_regex"),
        (check.expect_md5.is_some(), "expect_md5"),
        (check.expect_sha256.is_some(), "expect_sha256"),
    ];
    let mut asked = asked.iter().filter(|(given, _)| *given).map(|(_, name)| *name);
    let Some(first) = asked.next() else { return silence(check, path, walk) };
    for name in asked {
        let what = format!("`{first}` already says what the answer must be");
        walk.push(&join(path, name), what, "leave one of them out, or make two checks".into());
    }
    if check.method == Some(CheckMethod::Head) {
        let what = "an answer to HEAD has no body".into();
        walk.push(&join(path, first), what, "use method = \"GET\", or leave it out".into());
    }
    if check.expect_reply == Some(false) {
        let what = format!("`{first}` needs an answer");
        walk.push(&join(path, "expect_reply"), what, "leave it out".into());
    }
}

/// A server without the virtual address says nothing, and so does a good one that is not asked.
fn silence(check: &Check, path: &str, walk: &mut Walk<'_>) {
    let by_service = check.way == Some(CheckWay::Service);
    if check.kind == Udp && by_service && check.expect_reply != Some(true) {
        let what = "silence would be good, from a server without the virtual address too".into();
        let remedy = "add expect_reply = true, and a payload that the server answers".into();
        walk.push(&join(path, "way"), what, remedy);
    }
}

fn missing(name: &str, example: &str, path: &str, walk: &mut Walk<'_>) {
    if !walk.is_dropped(&join(path, name)) {
        walk.push(path, format!("`{name}` is missing"), format!("add {name} = {example}"));
    }
}

fn dns(check: &Check, path: &str, walk: &mut Walk<'_>) {
    if check.name.is_none() {
        missing("name", "\"example.org\", a name that the server knows", path, walk);
    }
    let Some(address) = check.record_address else { return };
    if walk.is_dropped(&join(path, "record")) {
        return;
    }
    let record = check.record.unwrap_or_default();
    let fits = if address.is_ipv4() { DnsRecord::A } else { DnsRecord::Aaaa };
    if record != fits {
        let what = format!("{address} is in no {} record", record.word());
        let remedy = format!("set record = \"{}\", or leave the address out", fits.word());
        walk.push(&join(path, "record_address"), what, remedy);
    }
}

/// A program is named by its whole path: it is run by nobody's shell, from no directory.
fn command(parts: &[String], path: &str, walk: &mut Walk<'_>) {
    if walk.any_dropped_in(path) {
        return;
    }
    match parts.first() {
        None => walk.push(path, "there is no program".into(), "give its absolute path".into()),
        Some(program) if !program.starts_with('/') => {
            let what = format!("`{}` is no absolute path", program.escape_debug());
            let program = walk.element(path, 0);
            walk.push(&program, what, "write it like \"/usr/local/bin/announce\"".into());
        }
        Some(_) => {}
    }
    if parts.len() > COMMAND_PARTS_MAX {
        let what = format!("{} arguments are too many", parts.len() - 1);
        walk.push(path, what, format!("use at most {}", COMMAND_PARTS_MAX - 1));
    }
}
