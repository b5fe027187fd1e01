//! Configurations of other directors: what comes of them is without fault, and lists as `ipvsadm`
//! would have listed them.
//!
//! Each fixture NAME.conf or NAME.cf has NAME.rules, written by hand: what the program itself would
//! have put into the kernel, as `ipvsadm -Sn` shows it, but for what gyre refuses; and
//! NAME.warnings.
//! `UPDATE_FIXTURES=1 cargo test --no-default-features --test import` writes the latter anew, to be
//! read before it is kept.

#[path = "../import_support/mod.rs"]
mod import_support;

mod command;
mod limits;

use std::fs;
use std::path::{Path, PathBuf};

use gyre::config;
use gyre::import::{self, Imported, Source};
use import_support::{Folder, options, rules};

fn fixtures(folder: &str, extension: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/import").join(folder);
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|found| found == extension));
    files.sort();
    assert!(files.len() >= 2, "{files:?}");
    files
}

fn keepalived(path: &Path) -> Imported {
    let text = fs::read_to_string(path).unwrap();
    // As somebody in the folder names it.
    let name = Path::new(path.file_name().unwrap());
    let world = Folder(path.parent().unwrap().to_owned());
    import::keepalived(Source { path: name, text: &text }, &world, &options()).unwrap()
}

fn ldirectord(path: &Path) -> Imported {
    let text = fs::read_to_string(path).unwrap();
    let name = Path::new(path.file_name().unwrap());
    let world = Folder(path.parent().unwrap().to_owned());
    import::ldirectord(Source { path: name, text: &text }, &world, &options()).unwrap()
}

fn check(path: &Path, imported: &Imported) {
    let checked = config::check(&imported.text).unwrap_or_else(|problems| {
        let shown: Vec<String> = problems.iter().map(ToString::to_string).collect();
        panic!("{}:\n{}\n{}", path.display(), shown.join("\n"), imported.text);
    });
    let expected = fs::read_to_string(path.with_extension("rules")).unwrap();
    assert_eq!(rules(&checked.desired), expected, "{}:\n{}", path.display(), imported.text);
    let warnings: String = imported.warnings.iter().map(|warning| format!("{warning}\n")).collect();
    let golden = path.with_extension("warnings");
    if std::env::var_os("UPDATE_FIXTURES").is_some() {
        fs::write(&golden, &warnings).unwrap();
    }
    assert_eq!(warnings, fs::read_to_string(&golden).unwrap_or_default(), "{}", path.display());
    for warning in &imported.warnings {
        assert!(imported.text.contains(&warning.what), "no comment tells {warning}");
    }
}

#[test]
fn keepalived_lists_as_in_the_kernel() {
    for path in fixtures("keepalived", "conf") {
        check(&path, &keepalived(&path));
    }
}

#[test]
fn ldirectord_lists_as_in_the_kernel() {
    for path in fixtures("ldirectord", "cf") {
        check(&path, &ldirectord(&path));
    }
}

fn fixture(folder: &str, name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/import").join(folder).join(name)
}

/// What stands between a line that contains `from` and the next table.
fn table<'t>(text: &'t str, from: &str) -> &'t str {
    let start = text.find(from).unwrap_or_else(|| panic!("no `{from}` in\n{text}"));
    let rest = &text[start..];
    let header = rest.find('[').map_or(0, |at| rest[at..].find('\n').unwrap_or(0) + at);
    let end = rest[header..].find("\n[").map_or(rest.len(), |at| header + at);
    &rest[..end]
}

#[test]
fn values_tell_the_line_they_were_made_of() {
    let text = keepalived(&fixture("keepalived", "checks.conf")).text;
    let service = table(&text, "# virtual_server 192.0.2.1 80 (checks.conf:2)");
    for line in [
        "address = \"192.0.2.1:80\"",
        "scheduler = \"rr\"  # lb_algo rr (line 4)",
        "forwarding = \"nat\"  # lb_kind NAT (line 5)",
        "on_failure = \"quiesce\"  # inhibit_on_failure",
        "starts_down = true",
        "quorum = 3  # quorum 3 (line 12)",
        "quorum_hysteresis = 1  # hysteresis 1 (line 13)",
        "quorum_up = [\"/usr/local/bin/announce\", \"add\", \"a b\"]",
        "quorum_down = [\"/usr/local/bin/withdraw\"]",
        "quorum_down_at_stop = true  # omega",
    ] {
        assert!(service.contains(line), "no `{line}` in\n{service}");
    }
    let sorry = table(&text, "# sorry_server 10.0.0.99 8080");
    assert!(sorry.contains("address = \"10.0.0.99:80\"\nforwarding = \"dr\""), "{sorry}");
}

#[test]
fn checks_come_with_their_times_and_what_they_ask_for() {
    let text = keepalived(&fixture("keepalived", "checks.conf")).text;
    for (from, lines) in [
        (
            "# HTTP_GET (checks.conf:37)",
            "kind = \"http\"\nport = 8081\ninterval_ms = 6000\ntimeout_ms = 5000\nretries = 3\n\
             retry_delay_ms = 3000\nrequest = \"/status\"\nhost = \"www.example.org\"\n\
             status = [\"200-299\", \"404\"]\nexpect_md5 = \"640205b7b0fc66c1ea91c463fac6334d\"",
        ),
        (
            "host = \"two.example.org\"",
            "host = \"two.example.org\"\nstatus = [\"200-299\"]\nsni = \"two.example.org\"",
        ),
        (
            "# TCP_CHECK (checks.conf:80)",
            "kind = \"tcp\"\ninterval_ms = 10000\ntimeout_ms = 3000\nretries = 2\n\
             retry_delay_ms = 1500",
        ),
        ("# SMTP_CHECK", "kind = \"smtp\"\nport = 25\n"),
        ("# PING_CHECK", "kind = \"icmp\"\ninterval_ms = 6000\ntimeout_ms = 3000\nretries = 4\n"),
        ("# MISC_CHECK", "command = [\"/usr/lib/checks/deep\", \"x y\", \"z\"]"),
        ("# DNS_CHECK", "name = \"www.example.org\"\nrecord = \"AAAA\""),
        ("# UDP_CHECK", "payload_hex = \"ab120f03\"\nexpect_reply = true"),
    ] {
        let check = table(&text, from);
        assert!(check.contains(lines), "no\n{lines}\nin\n{check}");
    }
    assert!(text.contains("expect_regex = \"(?is)all (is )?well\""), "{text}");
}

#[test]
fn checks_that_all_servers_have_are_the_services() {
    let text = keepalived(&fixture("keepalived", "checks.conf")).text;
    let last = &text[text.find("192.0.2.3:80").unwrap()..];
    assert_eq!(last.matches("[[service.check]]").count(), 1, "{last}");
    assert!(!last.contains("[[service.server.check]]"), "{last}");
}

#[test]
fn ldirectords_checks_come_with_its_own_times() {
    let text = ldirectord(&fixture("ldirectord", "keys.cf")).text;
    for (from, lines) in [
        (
            "checktype of virtual=192.0.2.1:80",
            "kind = \"http\"\nport = 8081\ninterval_ms = 2000\ntimeout_ms = 20000\nretries = 0\n\
             retry_delay_ms = 0\nfall = 2\nrequest = \"/index.html\"\nhost = \"www.example.org\"\n\
             status = [\"200-299\"]\nexpect_regex = \"Test (Page|Site)\"",
        ),
        ("request = \"/deep.html\"", "expect_regex = \"all well\""),
        ("checktype of virtual=192.0.2.2:443", "method = \"HEAD\"\nrequest = \"/ok\""),
        (
            "checktype of virtual=192.0.2.3:53",
            "name = \"www.example.org\"\nrecord = \"A\"\nrecord_address = \"192.0.2.80\"",
        ),
        (
            "checktype of virtual=192.0.2.3:22",
            "[\"/usr/local/bin/check\", \"-v\", \"192.0.2.3\", \"22\", \"10.0.0.1\", \"22\"]",
        ),
        (
            "checktype of virtual=192.0.2.3:26",
            "kind = \"icmp\"\ninterval_ms = 2000\ntimeout_ms = 10000\nretries = 2\n",
        ),
        ("checktype of virtual=192.0.2.3:27", "kind = \"icmp\""),
        (
            "checktype of virtual=192.0.2.3:28",
            "kind = \"tcp\"\ninterval_ms = 2000\ntimeout_ms = 4000\nretries = 0\n\
             retry_delay_ms = 0\nfall = 3",
        ),
        ("checktype of virtual=5", "kind = \"http\"\nport = 80\n"),
    ] {
        let check = table(&text, from);
        assert!(check.contains(lines), "no\n{lines}\nin\n{check}");
    }
    assert!(text.contains(
        "quorum_down = [\"/usr/local/bin/page\", \"--now\", \"start\", \"192.0.2.1:80\", \"tcp\"]"
    ));
    assert!(text.contains("quorum_up = [\"/bin/true\", \"stop\", \"192.0.2.3:28\", \"tcp\"]"));
}

/// The program's own default, which its manual has wrong; and its servers wait for a good check.
#[test]
fn ldirectords_servers_start_down_and_are_taken_out_unless_it_is_quiescent() {
    let service = "virtual=192.0.2.1:80\n    real=10.0.0.1:80 gate\n";
    let import = |text: &str| {
        let source = Source { path: Path::new("l.cf"), text };
        let world = Folder(PathBuf::new());
        import::ldirectord(source, &world, &options()).unwrap().text
    };
    for (before, more, line) in [
        ("", "", "on_failure = \"remove\"  # quiescent=no (ldirectord's default)\n"),
        ("quiescent=no\n", "", "on_failure = \"remove\"  # quiescent=no\n"),
        ("quiescent=no\n", "    quiescent=yes\n", "on_failure = \"quiesce\"  # quiescent=yes\n"),
    ] {
        let text = import(&format!("{before}{service}{more}"));
        assert!(text.contains(line) && text.contains("starts_down = true\n"), "{line}:\n{text}");
    }
    // Nobody would ever find them good.
    let unchecked = import(&format!("{service}    checktype=on\n"));
    assert!(!unchecked.contains("starts_down"), "{unchecked}");
}

/// DNS_CHECK asks for what gyre can ask for as well.
#[test]
fn every_type_of_record_that_keepalived_asks_for_is_asked_for() {
    for record in ["A", "NS", "CNAME", "SOA", "MX", "TXT", "AAAA", "RRSIG", "DNSKEY"] {
        let text = format!(
            "virtual_server 192.0.2.1 53 {{\nprotocol UDP\nreal_server 10.0.0.1 53 {{\n\
             DNS_CHECK {{\ntype {record}\nname example.org\n}}\n}}\n}}\n"
        );
        let source = Source { path: Path::new("k.conf"), text: &text };
        let world = Folder(PathBuf::new());
        let imported = import::keepalived(source, &world, &options()).unwrap();
        assert!(imported.text.contains(&format!("record = \"{record}\"\n")), "{}", imported.text);
        assert!(config::check(&imported.text).is_ok(), "{}", imported.text);
    }
}

/// VRRP goes on by keepalived, and the file says with what.
#[test]
fn vrrp_stays_with_keepalived() {
    let text = keepalived(&fixture("keepalived", "slips.conf")).text;
    assert!(text.contains("#   vrrp_instance VI_1 (slips.conf:5)\n"), "{text}");
}

/// Active and standby: keepalived moves VIPs, and a gyre that is standby must not have them.
#[test]
fn vips_that_vrrp_moves_are_left_to_it() {
    let service = |vip: &str| {
        format!(
            "virtual_server {vip} 80 {{\n  lb_kind DR\n  real_server 10.0.0.1 80 {{\n  }}\n}}\n"
        )
    };
    let import = |vrrp: &str, vips: &[&str]| {
        let services: String = vips.iter().map(|vip| service(vip)).collect();
        let text = format!("vrrp_instance A {{\n interface e1\n {vrrp}\n}}\n{services}");
        let source = Source { path: Path::new("k.conf"), text: &text };
        import::keepalived(source, &Folder(PathBuf::new()), &options()).unwrap()
    };
    let held = "virtual_ipaddress {\n  192.0.2.80/24 dev e1\n }\n virtual_ipaddress_excluded {\n  \
                2001:db8::80\n }";
    let imported = import(held, &["192.0.2.80", "2001:db8::80"]);
    let runtime = "[runtime]\nvip_addresses = \"others\"  # virtual_ipaddress (k.conf:4)\n";
    assert!(imported.text.contains(runtime), "{}", imported.text);
    assert!(config::check(&imported.text).is_ok(), "{}", imported.text);
    let told = |imported: &Imported| {
        imported.warnings.iter().any(|it| it.what.starts_with("192.0.2.81 is in no virtual_ip"))
    };
    assert!(!told(&imported));
    assert!(told(&import(held, &["192.0.2.80", "192.0.2.81"])));
    // VRRP's address is the routers' next hop here, and VIPs are gyre's.
    let routed = import("virtual_ipaddress {\n  192.0.2.1\n }", &["198.51.100.80"]);
    assert!(!routed.text.contains("vip_addresses") && !told(&routed), "{}", routed.text);
}
