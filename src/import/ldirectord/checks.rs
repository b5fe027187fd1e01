//! checktype and service: what ldirectord tries, as gyre's checks.

use super::values::{Real, Settings, Warn};
use crate::config::Protocol;
use crate::import::draft::{Body, Check, CheckKind, Http, Identity, Server, Service};
use crate::import::texts;

/// ldirectord's own, seconds.
const CHECK_TIMEOUT_S: u32 = 5;
const NEGOTIATE_TIMEOUT_S: u32 = 30;
const CHECK_INTERVAL_S: u32 = 10;

/// The services that ldirectord knows by port.
const SERVICES: [(u16, &str); 19] = [
    (21, "ftp"),
    (25, "smtp"),
    (53, "dns"),
    (80, "http"),
    (110, "pop"),
    (119, "nntp"),
    (143, "imap"),
    (389, "ldap"),
    (443, "https"),
    (587, "submission"),
    (636, "ldaps"),
    (993, "imaps"),
    (995, "pops"),
    (1521, "oracle"),
    (1812, "radius"),
    (3128, "http_proxy"),
    (3306, "mysql"),
    (5060, "sip"),
    (5432, "pgsql"),
];

/// The service that is checked for: the one named, else by port.
fn name_of<'s>(service: &Service, settings: &'s Settings) -> &'s str {
    if let Some((name, _)) = &settings.check.service {
        return name;
    }
    let port = service.port().unwrap_or(0);
    SERVICES.iter().find(|(known, _)| *known == port).map_or("none", |(_, name)| name)
}

/// Gives a server its checks.
pub(super) fn of_server(
    server: &mut Server,
    service: &Service,
    settings: &Settings,
    (real, warn): (&Real<'_>, Warn<'_>),
) {
    let (kind, place) = match &settings.check.kind {
        Some((kind, place)) => (kind.as_str(), place.clone()),
        None => ("negotiate", service.place.clone()),
    };
    let name = name_of(service, settings);
    let what = match kind {
        "on" => None,
        "off" => {
            server.weight = 0;
            let what = "checktype=off: ldirectord never puts the server to work; weight 0";
            warn(&place, what.into());
            None
        }
        "connect" if service.protocol == Protocol::Udp => Some(CheckKind::Icmp),
        "connect" => Some(CheckKind::Tcp),
        "ping" => Some(CheckKind::Icmp),
        "external" | "external-perl" => external(server, service, settings, warn),
        "negotiate" => negotiate(name, service, settings, (real, warn)),
        number if number.parse::<u32>().is_ok() => {
            let what = format!(
                "checktype={number}: gyre has no mix of connecting and asking; it asks each time"
            );
            warn(&place, what);
            negotiate(name, service, settings, (real, warn))
        }
        other => {
            let shown: String = other.chars().take(64).collect();
            let what = format!("checktype={} is unknown; taken as negotiate", shown.escape_debug());
            warn(&place, what);
            negotiate(name, service, settings, (real, warn))
        }
    };
    let Some(what) = what else { return };
    let one = check(what, server, service, settings);
    server.checks.push(one);
}

fn check(kind: CheckKind, server: &Server, service: &Service, settings: &Settings) -> Check {
    let asks = !matches!(kind, CheckKind::Tcp | CheckKind::Icmp | CheckKind::Program(_));
    let (one, other) = (settings.check_timeout_s, settings.negotiate_timeout_s);
    let timeout_s = match asks {
        true => other.or(one).unwrap_or(NEGOTIATE_TIMEOUT_S),
        false => one.or(other).unwrap_or(CHECK_TIMEOUT_S),
    };
    let name = name_of(service, settings);
    let by_name = SERVICES.iter().find(|(_, known)| *known == name).map(|(port, _)| *port);
    let port =
        settings.check.port.or(by_name.filter(|_| server.port == 0 && service.port().is_none()));
    // Only ping repeats within a round.
    let retries = match kind {
        CheckKind::Icmp => settings.check_count.unwrap_or(1).saturating_sub(1),
        _ => 0,
    };
    Check {
        place: server.place.clone(),
        title: format!("checktype of {}", service.title),
        port: port.filter(|_| !matches!(kind, CheckKind::Icmp | CheckKind::Program(_))),
        kind,
        interval_ms: settings.check_interval_s.unwrap_or(CHECK_INTERVAL_S).saturating_mul(1000),
        timeout_ms: timeout_s.saturating_mul(1000),
        retries,
        retry_delay_ms: 0,
        fall: settings.failure_count.unwrap_or(1).max(1),
    }
}

/// The program with ldirectord's four arguments, which are known by now.
fn external(
    server: &Server,
    service: &Service,
    settings: &Settings,
    warn: Warn<'_>,
) -> Option<CheckKind> {
    let mut words = texts::command(settings.check.command.as_deref().unwrap_or("/bin/true"));
    if !words.first().is_some_and(|path| path.starts_with('/')) {
        let what = "checkcommand: gyre runs programs by their absolute path; nothing checks this";
        warn(&server.place, what.into());
        return None;
    }
    if settings.check.kind.as_ref().is_some_and(|(kind, _)| kind == "external-perl") {
        let what = "external-perl: gyre runs the script as a program: it must be executable and \
                    begin with #!";
        warn(&server.place, what.into());
    }
    let (vip, vport) = match &service.identity {
        Identity::Address { vip, port } => (vip.to_string(), *port),
        Identity::Mark { number, .. } => (number.to_string(), 0),
    };
    let rport = if server.port == 0 { vport } else { server.port };
    words.extend([vip, vport.to_string(), server.address.to_string(), rport.to_string()]);
    Some(CheckKind::Program(words))
}

fn negotiate(
    name: &str,
    service: &Service,
    settings: &Settings,
    (real, warn): (&Real<'_>, Warn<'_>),
) -> Option<CheckKind> {
    let check = &settings.check;
    let request = real.request.or(check.request.as_deref()).unwrap_or("/");
    let receive = match real.request {
        Some(_) => real.receive.filter(|text| !text.is_empty()),
        None => check.receive.as_deref(),
    };
    let place = settings.check.service.as_ref().map_or(&service.place, |(_, place)| place);
    Some(match name {
        "none" => return None,
        "http" | "https" => {
            let path = match request.split_once("://") {
                Some((_, rest)) => {
                    let what =
                        format!("request {request}: gyre asks the server itself for the path");
                    warn(place, what);
                    rest.split_once('/').map_or("", |(_, path)| path)
                }
                None => request.trim_start_matches('/'),
            };
            CheckKind::Http(Http {
                tls: name == "https",
                is_head: check.is_head,
                request: format!("/{path}"),
                host: check.virtualhost.clone(),
                statuses: vec![(200, 299)],
                body: receive.filter(|_| !check.is_head).map(|text| Body::Regex(text.into())),
                sni: None,
            })
        }
        "smtp" | "submission" => CheckKind::Smtp { helo: None },
        "dns" => {
            let address = receive.and_then(|text| text.parse().ok());
            if receive.is_some() && address.is_none() {
                let what = "receive: gyre compares a record with an address, not with a pattern; \
                            any answer is good";
                warn(place, what.into());
            }
            let record =
                if matches!(address, Some(std::net::IpAddr::V6(_))) { "AAAA" } else { "A" };
            let name = request.trim_start_matches('/').to_owned();
            CheckKind::Dns { name, record: record.into(), address }
        }
        other => {
            let shown: String = other.chars().take(64).collect();
            let what = format!(
                "service={}: gyre's checks do not speak it; it checks that the port answers. A \
                 check of kind \"program\" can do more",
                shown.escape_debug()
            );
            warn(place, what);
            match service.protocol {
                Protocol::Tcp => CheckKind::Tcp,
                Protocol::Udp => CheckKind::Udp { payload_hex: None, any_reply: false },
            }
        }
    })
}
