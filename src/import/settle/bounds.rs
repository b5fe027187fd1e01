//! What gyre's checks and their consequences take: values beyond that come to the nearest that is
//! taken, and what has none is left out; each with a warning.

use super::super::draft::{Body, Check, CheckKind, Health, Http, Service};
use super::About;

/// As the schema has them (docs/CONFIGURATION.md), which a test holds these to.
const INTERVAL_MS: (u32, u32) = (100, 86_400_000);
const TIMEOUT_MS: (u32, u32) = (10, 600_000);
const RETRIES_MAX: u32 = 100;
const RETRY_DELAY_MS_MAX: u32 = 600_000;
const ROUNDS_MAX: u32 = 1_000;
const TEXT_BYTES_MAX: usize = 4_096;
const PAYLOAD_DIGITS_MAX: usize = 2 * 1_232;
const COMMAND_PARTS_MAX: usize = 64;
const CHECKS_PER_SERVER_MAX: usize = 16;

/// Puts a service's checks and what follows from them in order.
pub(super) fn apply(service: &mut Service, about: &mut About<'_>) {
    health(service, about);
    let own = service.port();
    for server in &mut service.servers {
        let port = own.filter(|_| server.port == 0).unwrap_or(server.port);
        server.checks.retain_mut(|check| fits(check, port, about));
        if server.checks.len() > CHECKS_PER_SERVER_MAX {
            let what = format!(
                "`{}` has {} checks, {CHECKS_PER_SERVER_MAX} at most: the rest is left out",
                server.title,
                server.checks.len()
            );
            about.warn(&server.place, what);
            server.checks.truncate(CHECKS_PER_SERVER_MAX);
        }
    }
}

fn health(service: &mut Service, about: &mut About<'_>) {
    let place = &service.place;
    let Health { quorum, hysteresis, quorum_up, quorum_down, .. } = &mut service.health;
    if *quorum == 0 {
        about.warn(place, "a quorum of 0 is never lost: taken as 1");
        *quorum = 1;
    }
    if *hysteresis >= *quorum {
        if *hysteresis > 0 {
            let what = format!(
                "a hysteresis of {hysteresis} is not less than the quorum, {quorum}: the service \
                 would never be down; taken as {}",
                *quorum - 1
            );
            about.warn(place, what);
        }
        *hysteresis = *quorum - 1;
    }
    for (name, command) in [("quorum_up", quorum_up), ("quorum_down", quorum_down)] {
        if !is_command(command) && !command.is_empty() {
            about.warn(place, format!("the command of {name} is too long; left out"));
            command.clear();
        }
    }
}

fn is_command(command: &[String]) -> bool {
    let good = |part: &String| part.len() <= TEXT_BYTES_MAX && !part.contains('\0');
    (1..=COMMAND_PARTS_MAX).contains(&command.len()) && command.iter().all(good)
}

/// Brings a check's values within bounds; whether it is any use. `port` is its server's, 0 for
/// all.
fn fits(check: &mut Check, port: u16, about: &mut About<'_>) -> bool {
    if let Err(why) = kind(check, about) {
        about.warn(&check.place, format!("`{}`: {why}; left out", check.title));
        return false;
    }
    let usual = match &check.kind {
        CheckKind::Http(http) => Some(if http.tls { 443 } else { 80 }),
        CheckKind::Dns { .. } => Some(53),
        CheckKind::Smtp { .. } => Some(25),
        _ => None,
    };
    if check.port.is_none() && port == 0 {
        check.port = usual;
    }
    let needs_port = !matches!(check.kind, CheckKind::Icmp | CheckKind::Program(_));
    if needs_port && check.port.is_none() && port == 0 {
        let what = format!(
            "`{}` knows no port: neither the server nor the service has one; left out",
            check.title
        );
        about.warn(&check.place, what);
        return false;
    }
    if matches!(check.kind, CheckKind::Icmp) {
        check.port = None;
    }
    let Check { interval_ms, timeout_ms, retries, retry_delay_ms, fall, .. } = check;
    for (value, name, (low, high)) in [
        (interval_ms, "interval in ms", INTERVAL_MS),
        (timeout_ms, "timeout in ms", TIMEOUT_MS),
        (retries, "number of retries", (0, RETRIES_MAX)),
        (retry_delay_ms, "delay before retries in ms", (0, RETRY_DELAY_MS_MAX)),
        (fall, "number of failures", (1, ROUNDS_MAX)),
    ] {
        let near = (*value).clamp(low, high);
        if near != *value {
            let what = format!("{}: the {name} is {value}, {near} is taken", check.title);
            about.warn(&check.place, what);
            *value = near;
        }
    }
    true
}

/// What the kind of check asks of its texts.
fn kind(check: &mut Check, about: &mut About<'_>) -> Result<(), String> {
    match &mut check.kind {
        CheckKind::Tcp | CheckKind::Icmp => Ok(()),
        CheckKind::Http(http) => {
            let lost = self::http(http)?;
            lost.iter().for_each(|what| {
                about.warn(&check.place, format!("`{}`: {what}; left out", check.title));
            });
            Ok(())
        }
        CheckKind::Udp { payload_hex, .. } => {
            let length = payload_hex.as_ref().map_or(0, String::len);
            let good = length <= PAYLOAD_DIGITS_MAX;
            good.then_some(()).ok_or_else(|| "the payload does not fit one datagram".into())
        }
        CheckKind::Dns { name, record, .. } => {
            // Those that keepalived knows.
            const RECORDS: [&str; 9] =
                ["A", "NS", "CNAME", "SOA", "MX", "TXT", "AAAA", "RRSIG", "DNSKEY"];
            if !is_domain(name) {
                return Err(format!("`{}` is no name in the DNS", short(name)));
            }
            let known = RECORDS.contains(&record.as_str());
            known
                .then_some(())
                .ok_or_else(|| format!("`{}` is no known type of record", short(record)))
        }
        CheckKind::Smtp { helo } => {
            if let Some(name) = helo.take_if(|name| !is_word(name)) {
                let what = format!("`{}` is no name to greet with; left out", short(&name));
                about.warn(&check.place, what);
            }
            Ok(())
        }
        CheckKind::Program(command) => {
            is_command(command).then_some(()).ok_or_else(|| "the command is too long".into())
        }
    }
}

/// What of an HTTP check is left out, or why nothing of it can be.
fn http(http: &mut Http) -> Result<Vec<String>, String> {
    let mut lost = Vec::new();
    if !is_word(&http.request) {
        return Err(format!("`{}` is no path that can be asked for", short(&http.request)));
    }
    for name in [&mut http.host, &mut http.sni] {
        if let Some(name) = name.take_if(|name| !is_word(name)) {
            lost.push(format!("`{}` is no host's name", short(&name)));
        }
    }
    let pattern_is_bad = |body: &mut Body| match body {
        Body::Regex(text) => !is_pattern(text),
        Body::Md5(_) => false,
    };
    if let Some(Body::Regex(text)) = http.body.take_if(pattern_is_bad) {
        lost.push(format!(
            "`{}` is no pattern that gyre knows (it has no look-around and no references back)",
            short(&text)
        ));
    }
    Ok(lost)
}

fn is_pattern(text: &str) -> bool {
    !text.is_empty() && text.len() <= TEXT_BYTES_MAX && regex::bytes::Regex::new(text).is_ok()
}

fn is_word(text: &str) -> bool {
    (1..=TEXT_BYTES_MAX).contains(&text.len()) && text.chars().all(|c| c.is_ascii_graphic())
}

/// RFC 1035, section 2.3.4.
fn is_domain(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    let labels = name.split('.').all(|label| (1..=63).contains(&label.len()));
    is_word(text) && name.len() <= 253 && (labels || text == ".")
}

fn short(text: &str) -> String {
    text.chars().take(64).collect::<String>().escape_debug().to_string()
}
