//! Checkers of a real_server.

use super::keywords::{self, Block};
use super::tree::Statement;
use super::values::{Times, Values};
use crate::import::draft::{Body, Check, CheckKind, Http, Server};
use crate::import::texts;

/// keepalived's own, seconds as milliseconds.
const CONNECT_TIMEOUT_MS: u32 = 5_000;
const DELAY_LOOP_MS: u32 = 60_000;
/// Payload and patterns longer than this are no check.
const HEX_MAX: usize = 4_096;

/// What a checker takes from around it.
#[derive(Clone, Copy)]
pub(super) struct Around<'a> {
    pub(super) times: Times,
    pub(super) virtualhost: Option<&'a str>,
}

/// Whether the keyword is a checker's.
pub(super) fn is_checker(keyword: &str) -> bool {
    matches!(keyword, "HTTP_GET" | "SSL_GET") || keyword.ends_with("_CHECK")
}

/// The checks that a checker comes to; several where it asks for several URLs.
pub(super) fn read(
    checker: &Statement,
    server: &Server,
    around: Around<'_>,
    values: &mut Values<'_>,
) -> (Vec<Check>, Times) {
    let mut reading = Reading::new(checker, around);
    for statement in checker.inner() {
        if !reading.times.take(statement, values) && !reading.connection(statement, server, values)
        {
            reading.special(statement, values);
        }
    }
    let times = reading.times;
    (reading.finish(values), times)
}

struct Reading<'s> {
    checker: &'s Statement,
    times: Times,
    port: Option<u16>,
    virtualhost: Option<String>,
    urls: Vec<Url>,
    has_sni: bool,
    helo: Option<String>,
    dns: (String, String),
    program: Option<Vec<String>>,
    program_timeout_ms: Option<u32>,
    payload_hex: Option<String>,
    wants_reply: bool,
}

#[derive(Default)]
struct Url {
    path: String,
    digest: Option<String>,
    statuses: Vec<(u16, u16)>,
    virtualhost: Option<String>,
    regex: Option<String>,
    flags: String,
    is_negated: bool,
}

impl<'s> Reading<'s> {
    fn new(checker: &'s Statement, around: Around<'_>) -> Self {
        Reading {
            checker,
            times: around.times,
            port: None,
            virtualhost: around.virtualhost.map(str::to_owned),
            urls: Vec::new(),
            has_sni: false,
            helo: None,
            dns: (".".into(), "SOA".into()),
            program: None,
            program_timeout_ms: None,
            payload_hex: None,
            wants_reply: false,
        }
    }

    fn is_http(&self) -> bool {
        matches!(self.checker.keyword(), "HTTP_GET" | "SSL_GET")
    }

    /// Where the check connects to and from.
    fn connection(
        &mut self,
        statement: &Statement,
        server: &Server,
        values: &mut Values<'_>,
    ) -> bool {
        match statement.keyword() {
            "connect_ip" => {
                let Some(text) = values.text(statement) else { return true };
                if texts::address(text) != Some(server.address) {
                    let what = format!(
                        "gyre checks the server at its own address, {}, not at another",
                        server.address
                    );
                    values.unmapped(statement, &what);
                }
            }
            "connect_port" => {
                let port = values.number(statement, 65_535).filter(|port| *port != 0);
                self.port = port.map(|port| port as u16).or(self.port);
            }
            "bindto" | "bind_if" | "bind_port" | "fwmark" => {
                let what = "the kernel chooses where gyre's checks come from; left out";
                values.unmapped(statement, what);
            }
            "log_all_failures" => {}
            // The old form of SMTP_CHECK: one more connection each.
            "host" => {
                for inner in statement.inner() {
                    if !self.connection(inner, server, values) {
                        values.stray(inner, Block::Check, "host");
                    }
                }
            }
            _ => return false,
        }
        true
    }

    /// What only this kind of checker has.
    fn special(&mut self, statement: &'s Statement, values: &mut Values<'_>) {
        let (kind, keyword) = (self.checker.keyword(), statement.keyword());
        match (kind, keyword) {
            ("HTTP_GET" | "SSL_GET", "url") => {
                let url = url(statement, values);
                self.urls.push(url);
            }
            ("HTTP_GET" | "SSL_GET", "virtualhost") => {
                self.virtualhost = values.text(statement).map(str::to_owned);
            }
            ("HTTP_GET" | "SSL_GET", "http_protocol") => {
                values.unmapped(statement, "gyre's checks speak HTTP/1.1; left out");
            }
            ("HTTP_GET" | "SSL_GET", "fast_recovery") => {}
            ("SSL_GET", "enable_sni") => self.has_sni = values.switch(statement),
            ("SMTP_CHECK", "helo_name") => self.helo = values.text(statement).map(str::to_owned),
            ("DNS_CHECK", "type") => {
                let Some(text) = values.text(statement) else { return };
                self.dns.1 = text.to_ascii_uppercase();
            }
            ("DNS_CHECK", "name") => {
                let Some(text) = values.text(statement) else { return };
                self.dns.0 = text.to_owned();
            }
            ("MISC_CHECK", "misc_path") => self.program = values.script(statement),
            ("MISC_CHECK", "misc_timeout") => self.program_timeout_ms = values.millis(statement),
            ("MISC_CHECK", "misc_dynamic") => {
                let what = "gyre takes exit status 0 as good and all others as bad: a status of 2 \
                            and more that meant a weight fails the server now";
                values.unmapped(statement, what);
            }
            ("MISC_CHECK", "user") => {
                values.unmapped(statement, "gyre runs it as its own user");
            }
            ("UDP_CHECK", "payload") => {
                self.payload_hex = hex(&statement.values().join(" "));
                if self.payload_hex.is_none() {
                    values.unmapped(statement, "these are no hexadecimal digits; left out");
                }
            }
            ("UDP_CHECK", "require_reply") => {
                self.wants_reply = true;
                if statement.value().is_some() {
                    let what = "gyre does not compare the bytes of a reply: any reply is good";
                    values.unmapped(statement, what);
                }
            }
            ("UDP_CHECK", "min_reply_length" | "max_reply_length") => {
                values.unmapped(statement, "gyre does not look at a reply's length; left out");
            }
            ("FILE_CHECK" | "BFD_CHECK", _) => {}
            _ => {
                let block = if self.is_http() { Block::HttpCheck } else { Block::Check };
                let title = self.checker.keyword();
                if keywords::is_known(keyword, block) {
                    let what = format!("`{keyword}` means nothing in {title}; left out");
                    values.warn(&statement.place, what);
                } else {
                    values.stray(statement, block, title);
                }
            }
        }
    }

    fn finish(mut self, values: &mut Values<'_>) -> Vec<Check> {
        let place = &self.checker.place;
        let kinds = match self.checker.keyword() {
            "TCP_CHECK" => vec![CheckKind::Tcp],
            "PING_CHECK" => vec![CheckKind::Icmp],
            "SMTP_CHECK" => vec![CheckKind::Smtp { helo: self.helo.take() }],
            "HTTP_GET" | "SSL_GET" => self.http(values),
            "UDP_CHECK" => {
                let payload_hex = self.payload_hex.take();
                vec![CheckKind::Udp { payload_hex, any_reply: self.wants_reply }]
            }
            "DNS_CHECK" => {
                let (name, record) = std::mem::take(&mut self.dns);
                vec![CheckKind::Dns { name, record, address: None }]
            }
            "MISC_CHECK" => match self.program.take() {
                Some(command) => vec![CheckKind::Program(command)],
                None => {
                    let what = "MISC_CHECK has no program that gyre can run: nothing checks this";
                    values.warn(place, what);
                    Vec::new()
                }
            },
            other => {
                let what = format!(
                    "{other} has no counterpart in gyre; left out. A check of kind \"program\" \
                     can do what it did"
                );
                values.warn(place, what);
                Vec::new()
            }
        };
        kinds.into_iter().map(|kind| self.check(kind)).collect()
    }

    fn check(&self, kind: CheckKind) -> Check {
        let times = &self.times;
        let interval_ms = times.delay_loop_ms.unwrap_or(DELAY_LOOP_MS);
        let (retries, retry_delay_ms) = match kind {
            CheckKind::Http(_) => (1, 3_000),
            CheckKind::Dns { .. } => (3, interval_ms),
            CheckKind::Program(_) => (0, 1_000),
            _ => (1, 1_000),
        };
        let timeout_ms = match kind {
            CheckKind::Program(_) => self.program_timeout_ms.unwrap_or(interval_ms),
            _ => times.connect_timeout_ms.unwrap_or(CONNECT_TIMEOUT_MS),
        };
        Check {
            place: self.checker.place.clone(),
            title: self.checker.title(),
            kind,
            port: self.port,
            interval_ms,
            timeout_ms,
            retries: times.retries.unwrap_or(retries),
            retry_delay_ms: times.delay_before_retry_ms.unwrap_or(retry_delay_ms),
            fall: 1,
        }
    }

    /// A check for each URL; two where it wants a digest and a pattern.
    fn http(&mut self, values: &mut Values<'_>) -> Vec<CheckKind> {
        let tls = self.checker.keyword() == "SSL_GET";
        let urls = std::mem::take(&mut self.urls);
        if urls.is_empty() {
            let what = "no url is asked for: taken as a connection alone";
            values.warn(&self.checker.place, what);
            return vec![CheckKind::Tcp];
        }
        let mut kinds = Vec::new();
        for url in urls {
            let host = url.virtualhost.or_else(|| self.virtualhost.clone());
            let http = Http {
                tls,
                is_head: false,
                request: url.path,
                sni: host.clone().filter(|_| tls && self.has_sni),
                host,
                statuses: url.statuses,
                body: None,
            };
            let pattern = url.regex.filter(|_| !url.is_negated);
            let pattern = pattern.map(|regex| match url.flags.as_str() {
                "" => regex,
                flags => format!("(?{flags}){regex}"),
            });
            let wanted: Vec<Body> =
                url.digest.map(Body::Md5).into_iter().chain(pattern.map(Body::Regex)).collect();
            for body in &wanted {
                kinds.push(CheckKind::Http(Http { body: Some(body.clone()), ..http.clone() }));
            }
            if wanted.is_empty() {
                kinds.push(CheckKind::Http(http));
            }
        }
        kinds
    }
}

fn url(block: &Statement, values: &mut Values<'_>) -> Url {
    let mut url = Url { path: "/".into(), ..Url::default() };
    for statement in block.inner() {
        match statement.keyword() {
            "path" => {
                let Some(path) = values.text(statement) else { continue };
                let slash = if path.starts_with('/') { "" } else { "/" };
                url.path = format!("{slash}{path}");
            }
            "digest" => {
                let Some(text) = values.text(statement) else { continue };
                let good = text.len() == 32 && text.chars().all(|c| c.is_ascii_hexdigit());
                match good {
                    true => url.digest = Some(text.to_ascii_lowercase()),
                    false => values.unmapped(statement, "no MD5 digest, 32 digits; left out"),
                }
            }
            "status_code" => statement.values().iter().for_each(|text| match status(text) {
                Some(range) => url.statuses.push(range),
                None => values.unmapped(statement, &format!("`{text}` is no status; left out")),
            }),
            "virtualhost" => url.virtualhost = values.text(statement).map(str::to_owned),
            "regex" => url.regex = values.text(statement).map(str::to_owned),
            "regex_no_match" => {
                url.is_negated = true;
                let what = "gyre has no check for text that must not be there; the pattern is \
                            left out";
                values.unmapped(statement, what);
            }
            "regex_options" => url.flags = regex_flags(statement, values),
            "regex_stack" => {}
            "regex_min_offset" | "regex_max_offset" => {
                values.unmapped(statement, "gyre looks at the whole body; left out");
            }
            _ => values.stray(statement, Block::Url, "url"),
        }
    }
    if url.statuses.is_empty() {
        url.statuses.push((200, 299));
    }
    url
}

fn status(text: &str) -> Option<(u16, u16)> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let (low, high) = (low.parse().ok()?, high.parse().ok()?);
    (100 <= low && low <= high && high <= 599).then_some((low, high))
}

/// PCRE's options as flags of the pattern.
fn regex_flags(statement: &Statement, values: &mut Values<'_>) -> String {
    let mut flags = String::new();
    for option in statement.values() {
        match option.as_str() {
            "caseless" => flags.push('i'),
            "multiline" => flags.push('m'),
            "dotall" => flags.push('s'),
            "extended" => flags.push('x'),
            "ungreedy" => flags.push('U'),
            "utf" | "ucp" | "no_auto_capture" | "no_auto_possess" | "no_start_optimize" => {}
            other => {
                let what = format!("`{other}` has no counterpart; left out");
                values.unmapped(statement, &what);
            }
        }
    }
    flags
}

/// Free-form hexadecimal as pairs of digits: a single digit before a blank is a byte of its own.
fn hex(text: &str) -> Option<String> {
    let mut digits = String::new();
    for word in text.split_whitespace() {
        if !word.chars().all(|c| c.is_ascii_hexdigit()) || digits.len() > HEX_MAX {
            return None;
        }
        if word.len() % 2 == 0 {
            digits.push_str(word);
        } else {
            let (pairs, last) = word.split_at(word.len() - 1);
            digits.push_str(pairs);
            digits.push('0');
            digits.push_str(last);
        }
    }
    (!digits.is_empty()).then(|| digits.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_is_read_as_the_manual_has_it() {
        // keepalived.conf(5): "Ab12f 3 456 546443123".
        assert_eq!(hex("Ab12f 3 456 546443123").as_deref(), Some("ab120f0345065464431203"));
        assert_eq!((hex(""), hex("xy")), (None, None));
    }

    #[test]
    fn statuses_are_one_or_a_range() {
        assert_eq!((status("200"), status("200-299")), (Some((200, 200)), Some((200, 299))));
        assert_eq!((status("299-200"), status("600"), status("2x")), (None, None, None));
    }
}
