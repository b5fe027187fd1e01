//! Whatever a file asks for, it ends, and is told.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gyre::import::{self, Imported, Options, Source, Surroundings};

/// Every include is the same text.
struct Same(&'static str);

impl Surroundings for Same {
    fn included(&self, pattern: &str, _: &Path) -> Vec<(PathBuf, Result<String, String>)> {
        vec![(pattern.into(), Ok(self.0.into())), (pattern.into(), Ok(self.0.into()))]
    }

    fn resolve(&self, _: &str) -> Vec<IpAddr> {
        Vec::new()
    }

    fn service_port(&self, _: &str, _: &str) -> Option<u16> {
        None
    }
}

const SERVICE: &str = "virtual_server 192.0.2.1 80 {\n}\n";

fn keepalived(text: &str, included: &'static str) -> Imported {
    let (text, began) = (format!("{SERVICE}{text}"), Instant::now());
    let source = Source { path: Path::new("k.conf"), text: &text };
    let imported = import::keepalived(source, &Same(included), &Options::default()).unwrap();
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    imported
}

fn tells(imported: &Imported, what: &str) {
    let told = imported.warnings.iter().any(|warning| warning.what.contains(what));
    assert!(told, "nothing of `{what}` in {:#?}", &imported.warnings);
}

#[test]
fn includes_that_name_themselves_end() {
    let imported = keepalived("include a.conf\n", "include a.conf\n");
    tells(&imported, "includes are nested more than 16 deep");
    tells(&imported, "more than 512 files are included");
}

#[test]
fn definitions_that_grow_without_end_are_left_out() {
    tells(&keepalived("$A=${A}x\n${A}\n", ""), "make this line too long");
    tells(&keepalived("$A=${B} ${B}\n$B=${A} ${A}\n${A}\n", ""), "make this line too long");
    tells(&keepalived("$A= \\\n$A \\\n$A\n$A\n", ""), "refer to each other without end");
    let mut nested = String::new();
    for depth in 0..20 {
        nested += &format!("$A{}= \\\n", depth + 1);
        nested += &format!("$A{depth} \\\n").repeat(9);
        nested += &format!("$A{depth}\n");
    }
    tells(
        &keepalived(&format!("$A0=x\n{nested}$A20\n"), ""),
        "come of definitions and repetitions",
    );
}

#[test]
fn repetitions_are_bounded() {
    let line = "~SEQ(A,1,60000) ~SEQ(B,1,60000) x $A $B\n";
    tells(&keepalived(line, ""), "come of definitions and repetitions");
    tells(&keepalived("~SEQ(A,1,4294967295) x\n", ""), "more than 65536 rounds");
}

#[test]
fn ranges_are_bounded_and_the_way_out_is_told() {
    let group = "virtual_server_group G {\n10.0.0.0/8 80\n}\nvirtual_server group G {\n}\n";
    tells(&keepalived(group, ""), "has 16777216 addresses");
    tells(&keepalived(group, ""), "group = \"NAME\"");
    let text = "virtual=192.0.2.1:80\n    real=10.0.0.0->10.255.255.255:80 gate\n";
    let source = Source { path: Path::new("l.cf"), text };
    let imported = import::ldirectord(source, &Same(""), &Options::default()).unwrap();
    tells(&imported, "10.0.0.0->10.255.255.255 is 16777216 servers");
}

#[test]
fn a_large_file_is_read_whole_and_soon() {
    let mut text = String::new();
    for at in 0..2_000u32 {
        let vip = std::net::Ipv4Addr::from(0xc633_0000 + at);
        text += &format!("virtual_server {vip} 80 {{\nlb_algo rr\nlb_kind DR\n");
        for server in 1..=10 {
            text += &format!("real_server 10.0.0.{server} 80 {{\nTCP_CHECK {{\n}}\n}}\n");
        }
        text += "}\n";
    }
    let imported = keepalived(&text, "");
    assert_eq!((imported.services, imported.servers), (2_001, 20_000));
}
