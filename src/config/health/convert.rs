//! Between written checks and what they mean.

use super::types::{Check, CheckKind, CheckMethod, CheckWay, DnsRecord, OnFailure, SorryServer};
use super::values::{Digest, HexBytes, StatusRange};
use crate::config::types::{Server, Service};
use crate::model::check::{self as model, CheckSpec, HealthSpec, HttpCheck, Reply, TlsCheck};
use crate::model::{ForwardMode, ServerSpec, ServiceSpec};

/// Statuses that are good unless said otherwise.
const GOOD_STATUSES: StatusRange = StatusRange(200, 299);
const PAYLOAD_BYTES: u16 = 56;
const HELO: &str = "localhost";
const REQUEST: &str = "/";

/// IANA "DNS Parameters", resource record types.
const RECORDS: [(DnsRecord, u16); 12] = [
    (DnsRecord::A, 1),
    (DnsRecord::Ns, 2),
    (DnsRecord::Cname, 5),
    (DnsRecord::Soa, 6),
    (DnsRecord::Ptr, 12),
    (DnsRecord::Mx, 15),
    (DnsRecord::Txt, 16),
    (DnsRecord::Aaaa, 28),
    (DnsRecord::Srv, 33),
    (DnsRecord::Rrsig, 46),
    (DnsRecord::Dnskey, 48),
    (DnsRecord::Any, 255),
];

impl Check {
    /// What is meant; whether it makes sense is not judged here.
    pub fn spec(&self) -> CheckSpec {
        let plain = CheckSpec::new(self.kind_spec());
        CheckSpec {
            port: self.port,
            way: match self.way.unwrap_or_default() {
                CheckWay::Server => model::CheckWay::Server,
                CheckWay::Service => model::CheckWay::Service,
            },
            interval_ms: self.interval_ms.unwrap_or(plain.interval_ms),
            timeout_ms: self.timeout_ms.unwrap_or(plain.timeout_ms),
            retries: self.retries.unwrap_or(plain.retries),
            retry_delay_ms: self.retry_delay_ms.unwrap_or(plain.retry_delay_ms),
            jitter_percent: self.jitter_percent.unwrap_or(plain.jitter_percent),
            rise: self.rise.unwrap_or(plain.rise),
            fall: self.fall.unwrap_or(plain.fall),
            kind: plain.kind,
        }
    }

    fn kind_spec(&self) -> model::CheckKind {
        match self.kind {
            CheckKind::Tcp => model::CheckKind::Tcp,
            CheckKind::Http => model::CheckKind::Http(self.http(None)),
            CheckKind::Https => {
                let verify = self.tls_verify.unwrap_or(false);
                let tls = TlsCheck { verify, sni: self.sni.clone() };
                model::CheckKind::Http(self.http(Some(tls)))
            }
            CheckKind::Udp => model::CheckKind::Udp {
                payload: match (&self.payload, &self.payload_hex) {
                    (Some(text), _) => text.clone().into_bytes(),
                    (None, Some(HexBytes(bytes))) => bytes.clone(),
                    (None, None) => Vec::new(),
                },
                reply: self.reply().or((self.expect_reply == Some(true)).then_some(Reply::Any)),
            },
            CheckKind::Dns => {
                let record = self.record.unwrap_or_default();
                let number = RECORDS.iter().find(|(word, _)| *word == record);
                model::CheckKind::Dns {
                    name: self.name.clone().unwrap_or_default(),
                    record: number.map_or(1, |(_, number)| *number),
                    address: self.record_address,
                }
            }
            CheckKind::Icmp => model::CheckKind::Icmp {
                payload_bytes: self.payload_bytes.unwrap_or(PAYLOAD_BYTES),
            },
            CheckKind::Smtp => {
                model::CheckKind::Smtp { helo: self.helo.clone().unwrap_or_else(|| HELO.into()) }
            }
            CheckKind::Program => {
                model::CheckKind::Program { command: self.command.clone().unwrap_or_default() }
            }
        }
    }

    fn http(&self, tls: Option<TlsCheck>) -> HttpCheck {
        let statuses = self.status.as_deref().unwrap_or(&[GOOD_STATUSES]);
        HttpCheck {
            tls,
            method: match self.method.unwrap_or_default() {
                CheckMethod::Get => model::HttpMethod::Get,
                CheckMethod::Head => model::HttpMethod::Head,
            },
            request: self.request.clone().unwrap_or_else(|| REQUEST.into()),
            host: self.host.clone(),
            statuses: statuses.iter().map(|range| (range.0, range.1)).collect(),
            body: self.reply(),
        }
    }

    fn reply(&self) -> Option<Reply> {
        let text = self.expect_text.clone().map(Reply::Text);
        text.or_else(|| self.expect_regex.clone().map(Reply::Regex))
            .or_else(|| self.expect_md5.map(|Digest(bytes)| Reply::Md5(bytes)))
            .or_else(|| self.expect_sha256.map(|Digest(bytes)| Reply::Sha256(bytes)))
    }

    fn set_reply(&mut self, reply: Option<&Reply>) {
        match reply {
            None => {}
            Some(Reply::Any) => self.expect_reply = Some(true),
            Some(Reply::Text(text)) => self.expect_text = Some(text.clone()),
            Some(Reply::Regex(text)) => self.expect_regex = Some(text.clone()),
            Some(Reply::Md5(bytes)) => self.expect_md5 = Some(Digest(*bytes)),
            Some(Reply::Sha256(bytes)) => self.expect_sha256 = Some(Digest(*bytes)),
        }
    }

    fn set_http(&mut self, http: &HttpCheck) {
        self.method = (http.method == model::HttpMethod::Head).then_some(CheckMethod::Head);
        self.request = Some(http.request.clone()).filter(|request| request != REQUEST);
        self.host = http.host.clone();
        let ranges: Vec<_> = http.statuses.iter().map(|(a, b)| StatusRange(*a, *b)).collect();
        self.status = Some(ranges).filter(|ranges| ranges[..] != [GOOD_STATUSES]);
        if let Some(tls) = &http.tls {
            self.tls_verify = tls.verify.then_some(true);
            self.sni = tls.sni.clone();
        }
        self.set_reply(http.body.as_ref());
    }

    fn set_kind(&mut self, kind: &model::CheckKind) {
        self.kind = word(kind);
        match kind {
            model::CheckKind::Tcp => {}
            model::CheckKind::Http(http) => self.set_http(http),
            model::CheckKind::Udp { payload, reply } => {
                match String::from_utf8(payload.clone()) {
                    Ok(text) if !text.chars().any(char::is_control) => {
                        self.payload = Some(text).filter(|text| !text.is_empty());
                    }
                    _ => self.payload_hex = Some(HexBytes(payload.clone())),
                }
                self.set_reply(reply.as_ref());
            }
            model::CheckKind::Dns { name, record, address } => {
                self.name = Some(name.clone());
                let known = RECORDS.iter().find(|(_, number)| number == record);
                let word = known.map_or(DnsRecord::A, |(word, _)| *word);
                self.record = Some(word).filter(|word| *word != DnsRecord::A);
                self.record_address = *address;
            }
            model::CheckKind::Icmp { payload_bytes } => {
                self.payload_bytes = Some(*payload_bytes).filter(|size| *size != PAYLOAD_BYTES);
            }
            model::CheckKind::Smtp { helo } => {
                self.helo = Some(helo.clone()).filter(|helo| helo != HELO);
            }
            model::CheckKind::Program { command } => self.command = Some(command.clone()),
        }
    }
}

/// What people call a kind of check.
fn word(kind: &model::CheckKind) -> CheckKind {
    match kind {
        model::CheckKind::Tcp => CheckKind::Tcp,
        model::CheckKind::Http(HttpCheck { tls: None, .. }) => CheckKind::Http,
        model::CheckKind::Http(HttpCheck { tls: Some(_), .. }) => CheckKind::Https,
        model::CheckKind::Udp { .. } => CheckKind::Udp,
        model::CheckKind::Dns { .. } => CheckKind::Dns,
        model::CheckKind::Icmp { .. } => CheckKind::Icmp,
        model::CheckKind::Smtp { .. } => CheckKind::Smtp,
        model::CheckKind::Program { .. } => CheckKind::Program,
    }
}

impl From<&CheckSpec> for Check {
    fn from(spec: &CheckSpec) -> Self {
        let plain = CheckSpec::new(spec.kind.clone());
        let other = |own: u32, default: u32| Some(own).filter(|own| *own != default);
        let mut check = Check {
            port: spec.port,
            way: (spec.way == model::CheckWay::Service).then_some(CheckWay::Service),
            interval_ms: other(spec.interval_ms, plain.interval_ms),
            timeout_ms: other(spec.timeout_ms, plain.timeout_ms),
            retries: other(spec.retries, plain.retries),
            retry_delay_ms: other(spec.retry_delay_ms, plain.retry_delay_ms),
            jitter_percent: Some(spec.jitter_percent).filter(|own| *own != plain.jitter_percent),
            rise: other(spec.rise, plain.rise),
            fall: other(spec.fall, plain.fall),
            ..Check::default()
        };
        check.set_kind(&spec.kind);
        check
    }
}

pub(in crate::config) fn written_checks(specs: &[CheckSpec]) -> Vec<Check> {
    specs.iter().map(Check::from).collect()
}

impl Service {
    pub(in crate::config) fn health_spec(&self) -> HealthSpec {
        let plain = HealthSpec::default();
        HealthSpec {
            on_failure: match self.on_failure.unwrap_or_default() {
                OnFailure::Quiesce => model::OnFailure::Quiesce,
                OnFailure::Remove => model::OnFailure::Remove,
            },
            starts_down: self.starts_down,
            quorum: self.quorum.unwrap_or(plain.quorum),
            quorum_hysteresis: self.quorum_hysteresis.unwrap_or(plain.quorum_hysteresis),
            quorum_up: self.quorum_up.clone(),
            quorum_down: self.quorum_down.clone(),
            down_at_stop: self.quorum_down_at_stop,
            slow_start_ms: self.slow_start_ms.unwrap_or(plain.slow_start_ms),
        }
    }

    pub(in crate::config) fn sorry_spec(&self, port: u16, mode: ForwardMode) -> Option<ServerSpec> {
        self.sorry_server.as_ref().map(|sorry| sorry.server().spec(port, mode))
    }
}

/// Writes what is not default into `service`.
pub(in crate::config) fn written_health(spec: &ServiceSpec, service: &mut Service) {
    let (health, plain) = (&spec.health, HealthSpec::default());
    let other = |own: u32, default: u32| Some(own).filter(|own| *own != default);
    service.on_failure =
        (health.on_failure == model::OnFailure::Remove).then_some(OnFailure::Remove);
    service.starts_down = health.starts_down;
    service.quorum = other(health.quorum, plain.quorum);
    service.quorum_hysteresis = other(health.quorum_hysteresis, plain.quorum_hysteresis);
    service.quorum_up = health.quorum_up.clone();
    service.quorum_down = health.quorum_down.clone();
    service.quorum_down_at_stop = health.down_at_stop;
    service.slow_start_ms = other(health.slow_start_ms, plain.slow_start_ms);
    service.check = written_checks(&spec.checks);
    service.sorry_server = spec.sorry_server.as_ref().map(|sorry| {
        let written = crate::config::convert::written_server(sorry, spec);
        SorryServer {
            address: written.address,
            forwarding: written.forwarding,
            tunnel: written.tunnel,
            tunnel_port: written.tunnel_port,
            tunnel_checksum: written.tunnel_checksum,
        }
    });
}

impl SorryServer {
    /// The same as a server.
    pub(in crate::config) fn server(&self) -> Server {
        Server {
            address: self.address,
            weight: 1,
            upper_threshold: 0,
            lower_threshold: 0,
            forwarding: self.forwarding,
            tunnel: self.tunnel,
            tunnel_port: self.tunnel_port,
            tunnel_checksum: self.tunnel_checksum,
            check: None,
        }
    }
}
