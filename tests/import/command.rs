//! `gyre import` as people call it.

use std::fs;
use std::process::{Command, Output};

const KEEPALIVED: &str = "\
vrrp_instance VI_1 {
    interface eth7
}
virtual_server 192.0.2.80 80 {
    lb_algo rr
    lb_kind DR
    real_server 192.0.2.11 80 {
        weight 2
    }
    xyzzy
}
";

fn gyre(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_gyre")).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        let files = Files(tempfile::tempdir().unwrap());
        fs::write(files.path("k.conf"), KEEPALIVED).unwrap();
        files
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }
}

/// What only the operator knows is a stub; until it is filled in, that is all `gyre check` misses.
#[test]
fn ports_are_left_to_be_filled_in() {
    let files = Files::new();
    let (input, output) = (files.path("k.conf"), files.path("gyre.toml"));
    let imported = gyre(&["import", "keepalived", &input, "-o", &output]);
    assert!(imported.status.success(), "{imported:?}");
    assert_eq!(text(&imported.stdout), "");
    let told = text(&imported.stderr);
    assert!(told.contains(&format!("{input}:10: `xyzzy` is unknown in virtual_server")), "{told}");
    assert!(told.contains("TO BE FILLED IN"), "{told}");
    let checked = gyre(&["check", &output]);
    assert_eq!(checked.status.code(), Some(2));
    let problems = text(&checked.stderr);
    assert_eq!(problems.lines().count(), 1, "{problems}");
    assert!(problems.contains("there is no port"), "{problems}");
    // The interface that keepalived names is the one in the stub; as it stands it is right.
    let written = fs::read_to_string(&output).unwrap();
    let start = written.find("# [[port]]").unwrap();
    let (head, stub) = written.split_at(start);
    let (stub, rest) = stub.split_once("\n\n").unwrap();
    let stub: String = stub.lines().map(|line| format!("{}\n", &line[2..])).collect();
    assert!(stub.contains("iface=eth7"), "{stub}");
    fs::write(&output, format!("{head}{stub}\n{rest}")).unwrap();
    let checked = gyre(&["check", &output]);
    assert!(checked.status.success(), "{checked:?}");
    assert!(text(&checked.stdout).contains("1 service with 1 server"), "{checked:?}");
}

#[test]
fn with_its_ports_the_output_is_without_fault() {
    let files = Files::new();
    let (input, output) = (files.path("k.conf"), files.path("gyre.toml"));
    let port = "wan=eth1,192.0.2.2/24";
    let imported = gyre(&["import", "keepalived", &input, "--port", port]);
    assert!(imported.status.success(), "{imported:?}");
    assert!(!text(&imported.stderr).contains("TO BE FILLED IN"));
    fs::write(&output, &imported.stdout).unwrap();
    let checked = gyre(&["check", &output]);
    assert!(checked.status.success(), "{checked:?}");
}

#[test]
fn a_file_that_is_there_is_not_overwritten() {
    let files = Files::new();
    let (input, output) = (files.path("k.conf"), files.path("gyre.toml"));
    fs::write(&output, "mine").unwrap();
    let imported = gyre(&["import", "keepalived", &input, "-o", &output]);
    assert_eq!(imported.status.code(), Some(2));
    assert!(text(&imported.stderr).contains("left as it is"), "{imported:?}");
    assert_eq!(fs::read_to_string(&output).unwrap(), "mine");
}

#[test]
fn what_cannot_be_read_or_has_no_service_is_refused() {
    let files = Files::new();
    let (vrrp, folder) = (files.path("vrrp.conf"), files.path(""));
    fs::write(&vrrp, "vrrp_instance VI_1 {\n  interface eth0\n}\n").unwrap();
    for (format, file, what) in [
        ("keepalived", files.path("none"), "No such file"),
        ("keepalived", folder, "this is a directory"),
        ("keepalived", vrrp.clone(), "no virtual_server in it"),
        ("ldirectord", vrrp, "no virtual= in it"),
    ] {
        let refused = gyre(&["import", format, &file]);
        assert_eq!(refused.status.code(), Some(2), "{file}");
        assert_eq!(text(&refused.stdout), "");
        assert!(text(&refused.stderr).contains(what), "{}: {}", file, text(&refused.stderr));
    }
}

#[test]
fn another_programs_file_is_refused_in_a_few_lines() {
    let files = Files::new();
    let wrong = files.path("wrong.cf");
    fs::write(&wrong, "real=10.0.0.1:80 gate\n".repeat(40)).unwrap();
    let refused = gyre(&["import", "keepalived", &wrong]);
    let told = text(&refused.stderr);
    assert!(told.lines().count() == 7 && told.contains("and 35 more like these"), "{told}");
}

/// Old files have comments in whatever encoding.
#[test]
fn bytes_that_are_no_utf8_do_no_harm() {
    let files = Files::new();
    let input = files.path("latin1.conf");
    let mut bytes = b"# caf\xe9\n".to_vec();
    bytes.extend(KEEPALIVED.as_bytes());
    fs::write(&input, bytes).unwrap();
    let imported = gyre(&["import", "keepalived", &input]);
    assert!(imported.status.success(), "{imported:?}");
}

#[test]
fn includes_are_read_beside_their_file() {
    let files = Files::new();
    fs::create_dir(files.path("conf.d")).unwrap();
    fs::write(files.path("conf.d/a.conf"), "virtual_server 192.0.2.81 80 {\n}\n").unwrap();
    fs::write(files.path("main.conf"), "include conf.d/*.conf\n").unwrap();
    let imported = gyre(&["import", "keepalived", &files.path("main.conf")]);
    let written = text(&imported.stdout);
    assert!(written.contains("address = \"192.0.2.81:80\""), "{imported:?}");
    assert!(written.contains("conf.d/a.conf:1)"), "{written}");
}

#[test]
fn marks_and_the_id_are_given_on_the_command_line() {
    let files = Files::new();
    let input = files.path("m.conf");
    fs::write(&input, "@a virtual_server fwmark 3 {\n@b virtual_server fwmark 4 {\n}\n").unwrap();
    let imported = gyre(&[
        "import",
        "keepalived",
        &input,
        "--config-id",
        "a",
        "--mark",
        "3=udp:192.0.2.5:53",
        "--mark",
        "3=tcp:192.0.2.5:53",
    ]);
    let written = text(&imported.stdout);
    let expected = "[[service.match]]\naddress = \"192.0.2.5:53\"\nprotocol = \"udp\"\n\
                    [[service.match]]\naddress = \"192.0.2.5:53\"\n";
    assert!(written.contains(expected) && written.contains("mark = 3\n"), "{imported:?}");
}
