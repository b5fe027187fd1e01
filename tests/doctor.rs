//! `gyre doctor` as a program: exit codes, JSON, a real server looked at over `ssh`, which is a
//! program of this test's. What each check finds is tested beside it, on made-up trees.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Output};

const CONFIG: &str = "[[port]]\nname = \"gyt-none\"\ndevice = \"net_null0\"\n\
    addresses = [\"192.0.2.250/24\"]\n\
    [[service]]\naddress = \"192.0.2.80:80\"\nforwarding = \"dr\"\n\
    [[service.server]]\naddress = \"192.0.2.11\"\n\
    [[service]]\naddress = \"192.0.2.81:443\"\nforwarding = \"tun\"\n\
    [[service.server]]\naddress = \"192.0.2.11\"\n";

/// Runs doctor with the configuration above and no gyre, `path` before the rest of PATH.
fn doctor(directory: &Path, arguments: &[&str]) -> Output {
    let config = directory.join("gyre.toml");
    fs::write(&config, CONFIG).unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    Command::new(env!("CARGO_BIN_EXE_gyre"))
        .args(["doctor", "--socket"])
        .arg(directory.join("gyre.sock"))
        .arg("-c")
        .arg(config)
        .args(arguments)
        .env("PATH", format!("{}:{path}", directory.display()))
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// An `ssh` that notes how it was called and answers with `shown`.
fn fake_ssh(directory: &Path, shown: &str) {
    let script = format!(
        "#!/bin/sh\necho \"$@\" > {0}/called\ncat > {0}/asked\ncat <<'END'\n{shown}END\n",
        directory.display()
    );
    let path = directory.join("ssh");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn doctor_judges_this_machine_by_its_worst_finding() {
    let directory = tempfile::tempdir().unwrap();
    let output = doctor(directory.path(), &["-j"]);
    let findings: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let findings = findings.as_array().unwrap();
    let has = |severity: &str| findings.iter().any(|finding| finding["severity"] == severity);
    let expected = if has("error") {
        4
    } else if has("warning") {
        3
    } else {
        0
    };
    assert_eq!(output.status.code(), Some(expected), "{}", text(&output.stderr));
    for finding in findings {
        let is_bad = ["warning", "error"].contains(&finding["severity"].as_str().unwrap());
        assert!(!is_bad || finding["remedy"].is_string(), "{finding}");
    }
    let table = doctor(directory.path(), &[]);
    assert_eq!(table.status.code(), Some(expected));
    assert!(text(&table.stdout).contains("clock"), "{}", text(&table.stdout));
    assert_eq!(text(&table.stderr), "");
}

#[test]
fn doctor_prints_what_a_server_needs() {
    let directory = tempfile::tempdir().unwrap();
    let output = doctor(directory.path(), &["--server", "192.0.2.11"]);
    let said = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    for command in [
        "ip addr add 192.0.2.80/32 dev lo",
        "modprobe ipip",
        "ip link set tunl0 up",
        "ip addr add 192.0.2.81/32 dev tunl0",
    ] {
        assert!(said.lines().any(|line| line == command), "no {command} in:\n{said}");
    }
    assert_eq!(said.matches("arp_ignore=1").count(), 1, "{said}");
    let stranger = doctor(directory.path(), &["--server", "192.0.2.99"]);
    assert_eq!(stranger.status.code(), Some(2));
    assert!(text(&stranger.stderr).contains("192.0.2.99"));
}

/// "It does not run" is said of what does not run only.
#[test]
fn a_gyre_that_cannot_be_asked_is_no_gyre_that_does_not_run() {
    let directory = tempfile::tempdir().unwrap();
    // In place of the socket's directory there is a file.
    fs::write(directory.path().join("gyre.sock"), "").unwrap();
    let config = directory.path().join("gyre.toml");
    fs::write(&config, CONFIG).unwrap();
    let socket = directory.path().join("gyre.sock/gyre.sock");
    let ask = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gyre"));
        command.args(["doctor", "--socket"]).arg(&socket).arg("-c").arg(&config);
        command.args(more).output().unwrap()
    };
    let output = ask(&[]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    assert!(text(&output.stderr).contains(socket.to_str().unwrap()), "{}", text(&output.stderr));
    // What a server needs the file says alone.
    let output = ask(&["--server", "192.0.2.11"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn doctor_asks_at_the_socket_that_the_file_names() {
    let directory = tempfile::tempdir().unwrap();
    let (socket, config) = (directory.path().join("own"), directory.path().join("gyre.toml"));
    fs::write(&config, format!("[runtime]\ncontrol_socket = {socket:?}\n{CONFIG}")).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    let mute = std::thread::spawn(move || drop(listener.accept()));
    let mut command = Command::new(env!("CARGO_BIN_EXE_gyre"));
    command.arg("doctor").arg("-c").arg(config).env_remove("GYRE_SOCKET");
    let output = command.output().unwrap();
    // Should nobody have come: so that the test ends.
    let _ = UnixStream::connect(&socket);
    mute.join().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));
    assert!(text(&output.stderr).contains(socket.to_str().unwrap()), "{}", text(&output.stderr));
}

#[test]
fn doctor_looks_at_a_server_over_ssh_and_only_reads() {
    let directory = tempfile::tempdir().unwrap();
    fake_ssh(
        directory.path(),
        "addr 1: lo    inet 192.0.2.80/32 scope global lo\\ x\n\
        sysctl all/arp_ignore 0\nsysctl all/arp_announce 2\nend\n",
    );
    let arguments = ["--server", "192.0.2.11", "--ssh", "root@web1", "-j"];
    let output = doctor(directory.path(), &arguments);
    assert_eq!(output.status.code(), Some(4), "{}", text(&output.stderr));
    let findings = text(&output.stdout);
    for told in [
        "192.0.2.80/32 on lo",
        "`sysctl -w net.ipv4.conf.all.arp_ignore=1`",
        "192.0.2.81 is not an address of the server",
        "nothing listens on tcp port 443",
    ] {
        assert!(findings.contains(told), "no {told} in:\n{findings}");
    }
    let called = fs::read_to_string(directory.path().join("called")).unwrap();
    assert!(
        called.contains("BatchMode=yes") && called.ends_with("-- root@web1 sh -s\n"),
        "{called}"
    );
    let asked = fs::read_to_string(directory.path().join("asked")).unwrap();
    for word in ["sysctl -w", "ip addr add", "modprobe", " > /", "set "] {
        assert!(!asked.contains(word), "{word} in what is run on the server:\n{asked}");
    }
    // What is asked for runs in a plain shell, here.
    let here = Command::new("sh").arg("-c").arg(&asked).output().unwrap();
    let shown = text(&here.stdout);
    assert!(shown.ends_with("end\n") && shown.contains("sysctl all/arp_ignore "), "{shown}");
    assert!(
        shown.lines().any(|line| line.starts_with("addr ") && line.contains(" lo ")),
        "{shown}"
    );
}

#[test]
fn a_host_that_is_an_option_or_does_not_answer_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let option = doctor(directory.path(), &["--server", "192.0.2.11", "--ssh=-oProxyCommand=x"]);
    assert_eq!(option.status.code(), Some(2), "{}", text(&option.stderr));
    let ssh = directory.path().join("ssh");
    fs::write(&ssh, "#!/bin/sh\necho no route >&2\nexit 255\n").unwrap();
    fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755)).unwrap();
    let dead = doctor(directory.path(), &["--server", "192.0.2.11", "--ssh", "web1"]);
    assert_eq!(dead.status.code(), Some(1));
    assert!(text(&dead.stderr).contains("ssh web1: no route"), "{}", text(&dead.stderr));
}
