//! The draft as a gyre.toml: values, with what they were made of behind them, and warnings above.

use std::fmt::{self, Display, Write as _};

use super::draft::{
    Body, Check, CheckKind, Draft, Health, Http, Identity, Method, Server, Service,
};
use super::notes::Place;
use super::{Options, PortOption, Source};
use crate::config::{Endpoint, Protocol, ServiceAddress, Tunnel, TunnelChecksum};
use crate::model::Ports;

/// Lines of TOML; a service that is left out stands as comments.
struct Page {
    text: String,
    prefix: &'static str,
}

impl Page {
    fn line(&mut self, line: impl Display) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{}{line}", self.prefix);
    }

    fn blank(&mut self) {
        self.text.push('\n');
    }

    fn comment(&mut self, text: impl Display) {
        let clean: String = text.to_string().chars().map(printable).collect();
        self.line(format_args!("# {clean}").to_string().trim_end());
    }

    fn value(&mut self, key: &str, value: impl Display) {
        self.line(format_args!("{key} = {value}"));
    }

    /// A value with what it was made of.
    fn said(&mut self, key: &'static str, value: impl Display, service: &Service) {
        match service.said.get(key) {
            Some(said) => {
                let clean: String = said.chars().map(printable).collect();
                self.line(format_args!("{key} = {value}  # {clean}"));
            }
            None => self.value(key, value),
        }
    }
}

fn printable(c: char) -> char {
    if c.is_control() { ' ' } else { c }
}

/// A TOML basic string.
struct Quoted<'a>(&'a str);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '"' | '\\' => write!(f, "\\{c}")?,
                '\n' => f.write_str("\\n")?,
                '\t' => f.write_str("\\t")?,
                c if c.is_control() => write!(f, "\\u{:04X}", u32::from(c))?,
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}

/// A TOML array of strings.
struct Strings<'a>(&'a [String]);

impl Display for Strings<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('[')?;
        for (at, one) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{}", Quoted(one))?;
        }
        f.write_char(']')
    }
}

/// The whole.
pub(super) fn document(
    draft: &Draft,
    source: Source<'_>,
    options: &Options,
    format: &str,
) -> String {
    let mut page = Page { text: String::new(), prefix: "" };
    head(draft, source, format, &mut page);
    if let Some(place) = &draft.vips_by_vrrp {
        page.blank();
        page.comment("VRRP puts VIPs on the interface of the director that is master.");
        page.line("[runtime]");
        let from = format!("  # virtual_ipaddress ({place})");
        page.value("vip_addresses", format_args!("\"others\"{from}"));
    }
    match options.ports.as_slice() {
        [] => port_stub(draft, &mut page),
        ports => ports.iter().for_each(|one| port(one, &mut page)),
    }
    for (at, one) in draft.services.iter().enumerate() {
        page.blank();
        for warning in draft.notes.of(Some(at)) {
            page.comment(format_args!("WARNING {warning}"));
        }
        if let Some(why) = &one.left_out {
            page.comment(format_args!("Left out: {why}"));
            page.prefix = "# ";
        }
        service(one, &mut page);
        page.prefix = "";
    }
    page.text
}

fn head(draft: &Draft, source: Source<'_>, format: &str, page: &mut Page) {
    let path = source.path.display();
    page.comment(format_args!("Made of {path} by `gyre import {format}`."));
    page.comment("Behind a value stands what it was made of. Check it: gyre check FILE");
    if !draft.stays.is_empty() {
        page.comment("");
        page.comment("Stays with keepalived, which runs on beside gyre:");
        draft.stays.iter().for_each(|one| page.comment(format_args!("  {one}")));
    }
    let mut warnings = draft.notes.of(None).peekable();
    if warnings.peek().is_some() {
        page.comment("");
        warnings.for_each(|warning| page.comment(format_args!("WARNING {warning}")));
    }
}

/// What only the operator knows.
fn port_stub(draft: &Draft, page: &mut Page) {
    page.blank();
    page.comment("TO BE FILLED IN: the ports that gyre uses, which the file does not know. Take");
    page.comment("the `#` away here, or import again with --port NAME=INTERFACE,ADDRESS/LENGTH.");
    page.comment("device is an interface as below or a PCI address such as \"0000:3b:00.0\";");
    page.comment("kernel = \"shared\" leaves an interface with the kernel, \"tap\" takes it over.");
    let eth0 = ["eth0".to_owned()];
    let names = if draft.interfaces.is_empty() { &eth0 } else { draft.interfaces.as_slice() };
    for (at, interface) in names.iter().enumerate() {
        page.comment("[[port]]");
        page.comment(format_args!("name = {}", Quoted(interface)));
        let device = format!("net_af_packet{at},iface={interface}");
        page.comment(format_args!("device = {}", Quoted(&device)));
        page.comment("kernel = \"shared\"");
        page.comment("addresses = [\"192.0.2.2/24\"]");
    }
}

fn port(port: &PortOption, page: &mut Page) {
    page.blank();
    page.line("[[port]]");
    page.value("name", Quoted(&port.name));
    page.value("device", Quoted(&port.device));
    page.value("kernel", if port.is_shared { "\"shared\"" } else { "\"tap\"" });
    if !port.addresses.is_empty() {
        let addresses: Vec<String> = port.addresses.iter().map(ToString::to_string).collect();
        page.value("addresses", Strings(&addresses));
    }
}

fn from(title: &str, place: &Place) -> String {
    format!("{title} ({place})")
}

fn service(service: &Service, page: &mut Page) {
    page.comment(from(&service.title, &service.place));
    page.line("[[service]]");
    match &service.identity {
        Identity::Address { vip, port } => {
            let address = ServiceAddress { vip: *vip, ports: Ports::one(*port) };
            page.value("address", Quoted(&address.to_string()));
            if service.protocol == Protocol::Udp {
                page.said("protocol", "\"udp\"", service);
            }
        }
        Identity::Mark { number, family, .. } => {
            let v6 = if *family == Some(super::draft::Family::V6) { "-v6" } else { "" };
            page.value("group", Quoted(&format!("mark-{number}{v6}")));
            page.value("mark", number);
        }
    }
    if let Some(name) = &service.name {
        page.said("name", Quoted(name), service);
    }
    page.said("scheduler", Quoted(service.scheduler.word()), service);
    if !service.flags.is_empty() {
        let flags: Vec<String> = service.flags.iter().map(|flag| flag.word().to_owned()).collect();
        page.said("scheduler_flags", Strings(&flags), service);
    }
    page.said("forwarding", Quoted(service.method.forwarding.word()), service);
    if let Some(seconds) = service.persistence_s {
        page.said("persistence_timeout", seconds, service);
    }
    if let Some(bits) = service.persistence_prefix {
        page.said("persistence_prefix", bits, service);
    }
    if service.one_packet {
        page.said("one_packet", true, service);
    }
    let checked = service.servers.iter().any(|server| !server.checks.is_empty());
    if checked || !service.checks.is_empty() {
        health(&service.health, service, page);
    }
    parts(service, page);
}

/// The tables within a service.
fn parts(service: &Service, page: &mut Page) {
    if let Identity::Mark { matches, .. } = &service.identity {
        for one in matches {
            page.line("[[service.match]]");
            page.value("address", Quoted(&one.address.to_string()));
            if one.protocol == Protocol::Udp {
                page.value("protocol", "\"udp\"");
            }
        }
        if matches.is_empty() {
            page.line("[[service.match]]");
            page.value("address", "\"ADDRESS:PORT\"  # what the packet filter marked");
        }
    }
    for one in &service.checks {
        page.comment(from(&one.title, &one.place));
        page.line("[[service.check]]");
        check(one, page);
    }
    if let Some(sorry) = &service.sorry {
        page.comment(from(&sorry.title, &sorry.place));
        page.line("[service.sorry_server]");
        endpoint(sorry, service, page);
        method(sorry, service, page);
    }
    for one in &service.servers {
        page.comment(from(&one.title, &one.place));
        page.line("[[service.server]]");
        server(one, service, page);
        for own in &one.checks {
            page.comment(from(&own.title, &own.place));
            page.line("[[service.server.check]]");
            check(own, page);
        }
    }
}

fn health(health: &Health, service: &Service, page: &mut Page) {
    let usual = Health::default();
    let word = if health.removes { "\"remove\"" } else { "\"quiesce\"" };
    page.said("on_failure", word, service);
    if health.starts_down {
        page.said("starts_down", true, service);
    }
    if health.quorum != usual.quorum {
        page.said("quorum", health.quorum, service);
    }
    if health.hysteresis != usual.hysteresis {
        page.said("quorum_hysteresis", health.hysteresis, service);
    }
    if !health.quorum_up.is_empty() {
        page.said("quorum_up", Strings(&health.quorum_up), service);
    }
    if !health.quorum_down.is_empty() {
        page.said("quorum_down", Strings(&health.quorum_down), service);
        if health.down_at_stop {
            page.said("quorum_down_at_stop", true, service);
        }
    }
}

fn endpoint(server: &Server, service: &Service, page: &mut Page) {
    let port = Some(server.port).filter(|port| *port != 0).or(service.port());
    let endpoint = Endpoint { address: server.address, port };
    page.value("address", Quoted(&endpoint.to_string()));
}

fn server(server: &Server, service: &Service, page: &mut Page) {
    endpoint(server, service, page);
    page.value("weight", server.weight);
    if server.upper != 0 {
        page.value("upper_threshold", server.upper);
    }
    if server.lower != 0 {
        page.value("lower_threshold", server.lower);
    }
    method(server, service, page);
}

fn method(server: &Server, service: &Service, page: &mut Page) {
    let Method { forwarding, tunnel, tunnel_port, checksum } = server.method;
    if forwarding != service.method.forwarding {
        page.value("forwarding", Quoted(forwarding.word()));
    }
    if tunnel != Tunnel::Ipip {
        page.value("tunnel", Quoted(tunnel.word()));
        if let Some(port) = tunnel_port.filter(|_| tunnel == Tunnel::Gue) {
            page.value("tunnel_port", port);
        }
        if checksum != TunnelChecksum::None {
            page.value("tunnel_checksum", Quoted(checksum.word()));
        }
    }
}

fn check(check: &Check, page: &mut Page) {
    let kind = match &check.kind {
        CheckKind::Tcp => "tcp",
        CheckKind::Http(http) if http.tls => "https",
        CheckKind::Http(_) => "http",
        CheckKind::Udp { .. } => "udp",
        CheckKind::Dns { .. } => "dns",
        CheckKind::Icmp => "icmp",
        CheckKind::Smtp { .. } => "smtp",
        CheckKind::Program(_) => "program",
    };
    page.value("kind", Quoted(kind));
    if let Some(port) = check.port {
        page.value("port", port);
    }
    page.value("interval_ms", check.interval_ms);
    page.value("timeout_ms", check.timeout_ms);
    page.value("retries", check.retries);
    page.value("retry_delay_ms", check.retry_delay_ms);
    if check.fall != 1 {
        page.value("fall", check.fall);
    }
    match &check.kind {
        CheckKind::Tcp | CheckKind::Icmp => {}
        CheckKind::Http(http) => self::http(http, page),
        CheckKind::Udp { payload_hex, any_reply } => {
            if let Some(payload) = payload_hex {
                page.value("payload_hex", Quoted(payload));
            }
            if *any_reply {
                page.value("expect_reply", true);
            }
        }
        CheckKind::Dns { name, record, address } => {
            page.value("name", Quoted(name));
            page.value("record", Quoted(record));
            if let Some(address) = address {
                page.value("record_address", Quoted(&address.to_string()));
            }
        }
        CheckKind::Smtp { helo } => {
            if let Some(helo) = helo {
                page.value("helo", Quoted(helo));
            }
        }
        CheckKind::Program(command) => page.value("command", Strings(command)),
    }
}

fn http(http: &Http, page: &mut Page) {
    if http.is_head {
        page.value("method", "\"HEAD\"");
    }
    page.value("request", Quoted(&http.request));
    if let Some(host) = &http.host {
        page.value("host", Quoted(host));
    }
    let range = |(low, high): &(u16, u16)| match low == high {
        true => low.to_string(),
        false => format!("{low}-{high}"),
    };
    let statuses: Vec<String> = http.statuses.iter().map(range).collect();
    page.value("status", Strings(&statuses));
    if let Some(sni) = &http.sni {
        page.value("sni", Quoted(sni));
    }
    match &http.body {
        Some(Body::Regex(pattern)) => page.value("expect_regex", Quoted(pattern)),
        Some(Body::Md5(digest)) => page.value("expect_md5", Quoted(digest)),
        None => {}
    }
}
