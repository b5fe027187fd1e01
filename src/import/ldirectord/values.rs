//! ldirectord's keys: which there are, and what their values mean.

use super::Entry;
use crate::config::{Forwarding, Protocol, Scheduler, SchedulerFlag};
use crate::import::draft::Service;
use crate::import::notes::Place;
use crate::import::texts;

/// A value of the file with its line.
type Told = Option<(String, Place)>;
/// Where warnings go.
pub(super) type Warn<'w> = &'w mut dyn FnMut(&Place, String);

/// What may stand outside of a virtual and, but for the fallbacks, within.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    pub(super) check_timeout_s: Option<u32>,
    pub(super) negotiate_timeout_s: Option<u32>,
    pub(super) check_interval_s: Option<u32>,
    pub(super) check_count: Option<u32>,
    pub(super) failure_count: Option<u32>,
    pub(super) quiescent: Option<bool>,
    pub(super) fallback: Told,
    pub(super) fallback6: Told,
    pub(super) fallback_command: Told,
    pub(super) forks: bool,
    pub(super) check: CheckSettings,
}

/// What a virtual says of its checks.
#[derive(Clone, Debug, Default)]
pub(super) struct CheckSettings {
    pub(super) kind: Told,
    pub(super) service: Told,
    pub(super) command: Option<String>,
    pub(super) port: Option<u16>,
    pub(super) request: Option<String>,
    pub(super) receive: Option<String>,
    pub(super) is_head: bool,
    pub(super) virtualhost: Option<String>,
}

/// Without the quotes around it.
fn unquoted(text: &str) -> &str {
    text.strip_prefix('"').map_or(text, |rest| rest.split('"').next().unwrap_or_default())
}

fn number(entry: &Entry<'_>, warn: Warn<'_>) -> Option<u32> {
    // Up to what stands behind it, as ldirectord takes the first digits.
    let end = entry.value.find(|c: char| !c.is_ascii_digit()).unwrap_or(entry.value.len());
    let number = entry.value[..end].parse().ok();
    if number.is_none() {
        warn(&entry.place, format!("{} wants a number; left out", entry.key));
    }
    number
}

fn yes(entry: &Entry<'_>, warn: Warn<'_>) -> Option<bool> {
    let yes = texts::yes(entry.value);
    if yes.is_none() {
        warn(&entry.place, format!("{} must be yes or no; left out", entry.key));
    }
    yes
}

impl Settings {
    /// Takes a line outside of a virtual, where it has any meaning there.
    pub(super) fn take(&mut self, entry: &Entry<'_>, mut warn: impl FnMut(&Place, String)) -> bool {
        let told = || Some((unquoted(entry.value).to_owned(), entry.place.clone()));
        match entry.key {
            "fallback" => self.fallback = told(),
            "fallback6" => self.fallback6 = told(),
            "fork" => self.forks = yes(entry, &mut warn).unwrap_or(false),
            _ => return self.take_shared(entry, &mut warn),
        }
        true
    }

    /// Takes what may stand at both places.
    fn take_shared(&mut self, entry: &Entry<'_>, warn: Warn<'_>) -> bool {
        match entry.key {
            "checktimeout" => self.check_timeout_s = number(entry, warn),
            "negotiatetimeout" => self.negotiate_timeout_s = number(entry, warn),
            "checkinterval" => self.check_interval_s = number(entry, warn),
            "checkcount" => self.check_count = number(entry, warn),
            "failurecount" => self.failure_count = number(entry, warn),
            "quiescent" => self.quiescent = yes(entry, warn),
            "fallbackcommand" => {
                let command = unquoted(entry.value).to_owned();
                self.fallback_command = Some((command, entry.place.clone()));
            }
            _ => return false,
        }
        true
    }

    /// Takes a line of a virtual, where it is about checks.
    pub(super) fn take_own(&mut self, entry: &Entry<'_>, warn: Warn<'_>) -> bool {
        if entry.key == "checkinterval" && !self.forks {
            let what = "checkinterval of a virtual counts with fork=yes alone; left out".into();
            warn(&entry.place, what);
            return true;
        }
        let text = || Some(unquoted(entry.value).to_owned());
        let told = || Some((entry.value.to_owned(), entry.place.clone()));
        let check = &mut self.check;
        match entry.key {
            "checktype" => check.kind = told(),
            "service" => check.service = told(),
            "checkcommand" => check.command = text(),
            "checkport" => {
                let port = number(entry, warn).and_then(|port| u16::try_from(port).ok());
                check.port = port.filter(|port| *port != 0);
            }
            "request" => check.request = text(),
            "receive" => check.receive = text().filter(|text| !text.is_empty()),
            "httpmethod" => check.is_head = entry.value.eq_ignore_ascii_case("HEAD"),
            "virtualhost" => check.virtualhost = text(),
            // Of protocols that gyre's checks do not speak, which is told with the check.
            "login" | "passwd" | "database" | "secret" | "load" | "comment" => {}
            _ => return self.take_shared(entry, warn),
        }
        true
    }
}

/// Takes a line of a virtual that is about packets.
pub(super) fn take(service: &mut Service, entry: &Entry<'_>, warn: Warn<'_>) -> bool {
    let field = match entry.key {
        "scheduler" => {
            match scheduler(entry.value) {
                Some(scheduler) => service.scheduler = scheduler,
                None => {
                    let what =
                        format!("scheduler={}: gyre has none such; taken as wrr", entry.value);
                    warn(&entry.place, what);
                }
            }
            "scheduler"
        }
        "schedflags" => {
            for word in entry.value.split(',').map(str::trim) {
                match flag(word) {
                    Some(flag) => service.flags.push(flag),
                    None => {
                        warn(&entry.place, format!("schedflags: `{word}` is unknown; left out"))
                    }
                }
            }
            "scheduler_flags"
        }
        "persistent" => {
            service.persistence_s = number(entry, warn).filter(|seconds| *seconds != 0);
            "persistence_timeout"
        }
        "netmask" => {
            service.persistence_prefix = texts::mask_bits(entry.value);
            if service.persistence_prefix.is_none() {
                warn(&entry.place, "netmask: this is none; left out".into());
            }
            "persistence_prefix"
        }
        "protocol" => {
            match entry.value {
                "tcp" => service.protocol = Protocol::Tcp,
                "udp" => service.protocol = Protocol::Udp,
                "fwm" => {}
                other => warn(&entry.place, format!("protocol={other}: not tcp, udp or fwm")),
            }
            "protocol"
        }
        "ops" => {
            service.one_packet = yes(entry, warn).unwrap_or(false);
            "one_packet"
        }
        "servicename" => {
            let name = unquoted(entry.value);
            service.name = Some(name.to_owned()).filter(|name| !name.is_empty());
            "name"
        }
        _ => return false,
    };
    let said = format!("{}={} (line {})", entry.key, entry.value, entry.place.line);
    service.said.insert(field, said);
    true
}

/// A scheduler by its name.
fn scheduler(word: &str) -> Option<Scheduler> {
    use Scheduler::*;
    let all = [Rr, Wrr, Lc, Wlc, Lblc, Lblcr, Dh, Sh, Sed, Nq, Fo, Ovf, Mh];
    all.into_iter().find(|one| one.word() == word)
}

fn flag(word: &str) -> Option<SchedulerFlag> {
    use SchedulerFlag::*;
    [ShPort, ShFallback, MhPort, MhFallback].into_iter().find(|flag| flag.word() == word)
}

/// Whether a key may stand within a virtual alone.
pub(super) fn is_of_virtual(key: &str) -> bool {
    const KEYS: [&str; 23] = [
        "real",
        "real6",
        "checktype",
        "service",
        "checkcommand",
        "checkport",
        "request",
        "receive",
        "httpmethod",
        "virtualhost",
        "login",
        "passwd",
        "database",
        "secret",
        "load",
        "scheduler",
        "schedflags",
        "persistent",
        "netmask",
        "protocol",
        "ops",
        "servicename",
        "comment",
    ];
    KEYS.contains(&key)
}

/// What becomes of keys that gyre needs in no way or has no counterpart for.
pub(super) fn lost(key: &str) -> Option<&'static str> {
    Some(match key {
        "emailalert" | "emailalertfreq" | "emailalertstatus" | "emailalertfrom" | "smtp" => {
            "gyre sends no mail: events, metrics and log lines tell it; left out"
        }
        "logfile" => "gyre logs to standard error, for the journal; left out",
        "autoreload" | "callback" => "a changed file is taken by `gyre reload`; left out",
        "supervised" | "execute" => "how gyre runs is the service manager's; left out",
        "readdquiescent" => "gyre's own table is what counts; left out",
        "cleanstop" => "services end with gyre; left out",
        "maintenancedir" => "take servers out by `gyre ctl server.set_weight` or ipvsadm; left out",
        "monitorfile" => "gyre logs each change of a server; left out",
        "connecttimeout" | "timeout" => "no longer means anything to ldirectord either; left out",
        _ => return None,
    })
}

fn forwarding(word: &str) -> Result<Forwarding, String> {
    match word {
        "gate" => Ok(Forwarding::Dr),
        "masq" => Ok(Forwarding::Nat),
        "ipip" => Ok(Forwarding::Tun),
        _ => Err("the method must be gate, masq or ipip".into()),
    }
}

/// A line `real =`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Real<'t> {
    pub(super) host: &'t str,
    pub(super) last: Option<&'t str>,
    pub(super) port: Option<&'t str>,
    pub(super) forwarding: Forwarding,
    pub(super) weight: u32,
    pub(super) request: Option<&'t str>,
    pub(super) receive: Option<&'t str>,
    pub(super) upper: u32,
    pub(super) lower: u32,
}

impl<'t> Real<'t> {
    /// `HOST[->HOST][:PORT] METHOD [WEIGHT] ["REQUEST", "RECEIVE"] [l:N] [u:N]`.
    pub(super) fn parse(text: &'t str) -> Result<Self, String> {
        let (endpoint, rest) = text
            .split_once(char::is_whitespace)
            .ok_or("the method is missing: gate, masq or ipip")?;
        let (hosts, port) = match endpoint.rsplit_once(':') {
            Some((hosts, port)) if !port.ends_with(']') => {
                (hosts.trim_end_matches(':'), Some(port).filter(|port| !port.is_empty()))
            }
            _ => (endpoint, None),
        };
        let (host, last) = match hosts.split_once("->") {
            Some((first, last)) => (first, Some(last)),
            None => (hosts, None),
        };
        let rest = rest.trim_start();
        let (method, mut rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        let mut real = Real {
            host,
            last,
            port,
            forwarding: forwarding(method)?,
            weight: 1,
            request: None,
            receive: None,
            upper: 0,
            lower: 0,
        };
        rest = rest.trim();
        while !rest.is_empty() {
            rest = real.option(rest)?.trim_start_matches([' ', '\t', ',']);
        }
        Ok(real)
    }

    /// Takes one option; the rest.
    fn option(&mut self, text: &'t str) -> Result<&'t str, String> {
        if let Some(quoted) = text.strip_prefix('"') {
            let (value, rest) = quoted.split_once('"').ok_or("a quote is not closed")?;
            if self.request.is_none() {
                self.request = Some(value);
            } else {
                self.receive = Some(value);
            }
            return Ok(rest);
        }
        let (word, rest) = text.split_once([' ', '\t']).unwrap_or((text, ""));
        let shown: String = word.chars().take(64).collect();
        let wrong = || format!("`{shown}` is no weight, no threshold and no string");
        if let Some(number) = word.strip_prefix("l:") {
            self.lower = number.parse().map_err(|_| wrong())?;
        } else if let Some(number) = word.strip_prefix("u:") {
            self.upper = number.parse().map_err(|_| wrong())?;
        } else {
            self.weight = word.parse().map_err(|_| wrong())?;
        }
        Ok(rest)
    }
}

/// What follows `fallback =`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fallback<'t> {
    pub(super) endpoint: &'t str,
    pub(super) forwarding: Forwarding,
}

impl<'t> Fallback<'t> {
    /// `HOST[:PORT] [METHOD]`; gate unless given.
    pub(super) fn parse(text: &'t str) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        let endpoint = words.next().ok_or("the address is missing")?;
        let forwarding = forwarding(words.next().unwrap_or("gate"))?;
        Ok(Fallback { endpoint, forwarding })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_lines_are_read_in_all_their_forms() {
        let real = Real::parse("10.0.0.1->10.0.0.9:http masq 5 \"a\", \"b c\" l:3 u:10").unwrap();
        assert_eq!((real.host, real.last, real.port), ("10.0.0.1", Some("10.0.0.9"), Some("http")));
        assert_eq!((real.forwarding, real.weight), (Forwarding::Nat, 5));
        assert_eq!((real.request, real.receive), (Some("a"), Some("b c")));
        assert_eq!((real.lower, real.upper), (3, 10));
        // A slip of the package's own sample, which ldirectord takes.
        assert_eq!(Real::parse("192.168.6.2::5060 gate").unwrap().port, Some("5060"));
        let v6 = Real::parse("[2001:db8::4] gate").unwrap();
        assert_eq!((v6.host, v6.port), ("[2001:db8::4]", None));
    }

    #[test]
    fn real_lines_that_are_none_are_refused() {
        for text in ["", "10.0.0.1", "10.0.0.1 gateway", "10.0.0.1 gate x", "h gate \"open"] {
            assert!(Real::parse(text).is_err(), "{text}");
        }
    }
}
