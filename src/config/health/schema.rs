//! The schema of checks and of what follows from them: see `config::schema`.

use std::net::IpAddr;

use super::types::{CheckKind, CheckMethod, CheckWay, DnsRecord};
use super::values::{Digest, HexBytes, StatusRange};
use crate::config::schema::{field, required};
use crate::config::shape::{Field, Shape};
use crate::limits::{
    CHECK_INTERVAL_MS, CHECK_PAYLOAD_BYTES_MAX, CHECK_RETRIES_MAX, CHECK_RETRY_DELAY_MS_MAX,
    CHECK_ROUNDS_MAX, CHECK_TEXT_BYTES_MAX, CHECK_TIMEOUT_MS,
};

/// Text of which nothing can break out of the line it is put into.
fn one_line(text: &str) -> Result<(), String> {
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err(format!("`{}` is not one line of text", text.escape_debug()));
    }
    short(text)
}

fn short(text: &str) -> Result<(), String> {
    if text.len() > CHECK_TEXT_BYTES_MAX {
        return Err(format!("the text is longer than {CHECK_TEXT_BYTES_MAX} bytes"));
    }
    Ok(())
}

fn expected_text(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err("every answer contains an empty text".into());
    }
    short(text)
}

fn word(text: &str) -> Result<(), String> {
    let good = text.chars().all(|c| c.is_ascii_graphic());
    let wrong = || format!("`{}` has spaces or characters beyond ASCII", text.escape_debug());
    good.then_some(()).ok_or_else(wrong)?;
    one_line(text)
}

fn request(text: &str) -> Result<(), String> {
    if !text.starts_with('/') {
        return Err(format!("`{}` does not begin with a slash", text.escape_debug()));
    }
    word(text)
}

fn regex(text: &str) -> Result<(), String> {
    expected_text(text)?;
    // The engine draws a picture over several lines; its last says what is wrong.
    regex::bytes::Regex::new(text).map(drop).map_err(|error| {
        let whole = error.to_string();
        let what = whole.lines().last().unwrap_or_default();
        let what = what.trim_start_matches("error: ").to_owned();
        format!("`{}` is no regular expression: {what}", text.escape_debug())
    })
}

fn payload(text: &str) -> Result<(), String> {
    let good = text.len() <= CHECK_PAYLOAD_BYTES_MAX;
    good.then_some(()).ok_or_else(|| format!("more than {CHECK_PAYLOAD_BYTES_MAX} bytes"))
}

fn payload_hex(text: &str) -> Result<(), String> {
    text.parse::<HexBytes>().map(drop)
}

fn md5(text: &str) -> Result<(), String> {
    text.parse::<Digest<16>>().map(drop)
}

fn sha256(text: &str) -> Result<(), String> {
    text.parse::<Digest<32>>().map(drop)
}

fn status(text: &str) -> Result<(), String> {
    text.parse::<StatusRange>().map(drop)
}

fn ip(text: &str) -> Result<(), String> {
    text.parse::<IpAddr>().map(drop).map_err(|_| format!("`{text}` is no IP address"))
}

/// RFC 1035, section 2.3.4.
fn domain(text: &str) -> Result<(), String> {
    word(text)?;
    let name = text.strip_suffix('.').unwrap_or(text);
    let labels = name.split('.').all(|label| (1..=63).contains(&label.len()));
    let good = name.len() <= 253 && (labels || text == ".");
    good.then_some(()).ok_or_else(|| format!("`{text}` is no name in the DNS"))
}

fn part(text: &str) -> Result<(), String> {
    if text.contains('\0') { Err("an argument holds no NUL".into()) } else { short(text) }
}

const HOST: Shape = Shape::Parsed(word, "\"www.example.org\"");
/// A program and its arguments.
pub(in crate::config) const COMMAND: Shape =
    Shape::List(&Shape::Parsed(part, "\"/usr/local/bin/announce\""));
const ROUNDS: Shape = Shape::Integer(1, CHECK_ROUNDS_MAX as i64);

/// A check.
pub(in crate::config) const CHECK: &[Field] = &[
    required("kind", Shape::Choice(CheckKind::WORDS, &[]), "what is tried"),
    field("port", Shape::Integer(1, 65_535), "port on the server (the server's)"),
    field(
        "way",
        Shape::Choice(CheckWay::WORDS, &[]),
        "to the server's address, or as clients' packets go to the service, so that a dr or tun \
         server without the virtual address is found out; not icmp and program (server)",
    ),
    field(
        "interval_ms",
        Shape::Integer(CHECK_INTERVAL_MS[0] as i64, CHECK_INTERVAL_MS[1] as i64),
        "from the beginning of a round to the next, milliseconds (2000)",
    ),
    field(
        "timeout_ms",
        Shape::Integer(CHECK_TIMEOUT_MS[0] as i64, CHECK_TIMEOUT_MS[1] as i64),
        "what one attempt may take, milliseconds (1000)",
    ),
    field(
        "retries",
        Shape::Integer(0, CHECK_RETRIES_MAX as i64),
        "further attempts of a round after one that failed (1)",
    ),
    field(
        "retry_delay_ms",
        Shape::Integer(0, CHECK_RETRY_DELAY_MS_MAX as i64),
        "pause before each of them, milliseconds (500)",
    ),
    field(
        "jitter_percent",
        Shape::Integer(0, 50),
        "by how much of itself an interval may be longer or shorter (10)",
    ),
    field("rise", ROUNDS, "good rounds in a row that bring a failed server back (1)"),
    field("fall", ROUNDS, "bad rounds in a row that fail a server (1)"),
    field("method", Shape::Choice(CheckMethod::WORDS, &[]), "of http and https (GET)"),
    field("request", Shape::Parsed(request, "\"/health?full=1\""), "path and query (/)"),
    field("host", HOST, "Host header of http and https (the server's address)"),
    field(
        "status",
        Shape::List(&Shape::Parsed(status, "\"200\" or \"300-399\"")),
        "statuses that are good ([\"200-299\"])",
    ),
    field("tls_verify", Shape::Bool, "https: the certificate must be valid for `sni` (false)"),
    field("sni", HOST, "https: server name that is asked for (`host`)"),
    field(
        "expect_text",
        Shape::Parsed(expected_text, "\"OK\""),
        "text that the answer to http, https or udp contains",
    ),
    field(
        "expect_regex",
        Shape::Parsed(regex, "\"^OK\""),
        "regular expression that it matches (syntax of the Rust crate regex)",
    ),
    field(
        "expect_md5",
        Shape::Parsed(md5, "\"d41d8cd98f00b204e9800998ecf8427e\""),
        "MD5 digest of all of it, as `genhash` prints it",
    ),
    field(
        "expect_sha256",
        Shape::Parsed(
            sha256,
            "\"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\"",
        ),
        "SHA-256 digest of all of it",
    ),
    field("expect_reply", Shape::Bool, "udp: there must be an answer, whatever it says (false)"),
    field("payload", Shape::Parsed(payload, "\"ping\""), "udp: what is sent (nothing)"),
    field("payload_hex", Shape::Parsed(payload_hex, "\"00ff\""), "udp: the same as bytes"),
    field("name", Shape::Parsed(domain, "\"example.org\""), "dns: the name that is asked for"),
    field("record", Shape::Choice(DnsRecord::WORDS, &[]), "dns: type of record (A)"),
    field(
        "record_address",
        Shape::Parsed(ip, "\"192.0.2.1\" or \"2001:db8::1\""),
        "dns: address that must be in the answer (any record of the type)",
    ),
    field(
        "payload_bytes",
        Shape::Integer(0, CHECK_PAYLOAD_BYTES_MAX as i64),
        "icmp: bytes behind the header (56)",
    ),
    field("helo", HOST, "smtp: name that the director gives (localhost)"),
    field(
        "command",
        COMMAND,
        "program: absolute path and arguments; 0 is good. It is given GYRE_VIP, GYRE_VPORT, \
         GYRE_RIP and GYRE_RPORT",
    ),
];
