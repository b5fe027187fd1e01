//! The `gyre` binary as people use it.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::support::{CONFIG, Gyre};

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gyre"));
    command.args(args).env_remove("GYRE_SOCKET");
    command
}

/// Exit code, standard output, standard error.
fn run(args: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// Runs against a running gyre.
fn ask(gyre: &Gyre, args: &[&str]) -> (i32, String, String) {
    let socket = gyre.path.to_str().unwrap();
    run(&[args, &["--socket", socket]].concat())
}

fn file(directory: &Path, text: &str) -> String {
    let path = directory.join("gyre.toml");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn bad_usage_exits_2_and_help_0() {
    for args in [&[][..], &["frobnicate"], &["ctl"], &["check"], &["ctl", "status", "[1"]] {
        let (code, _, errors) = run(args);
        assert_eq!((code, errors.is_empty()), (2, false), "{args:?}");
    }
    for args in [&["--help"][..], &["ctl", "--help"], &["--version"], &["completions", "bash"]] {
        let (code, out, errors) = run(args);
        assert_eq!((code, out.is_empty(), errors.as_str()), (0, false, ""), "{args:?}");
    }
    assert!(run(&["ctl", "--help"]).1.contains("server.set_weight"));
}

#[test]
fn an_absent_and_a_stale_socket_say_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("gyre.sock");
    let status = || run(&["status", "--socket", path.to_str().unwrap()]);
    let (code, out, errors) = status();
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(errors.contains("not running") && errors.contains("gyre run -c FILE"), "{errors}");
    assert_eq!(errors.lines().count(), 1);
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let (code, _, errors) = status();
    assert!(code == 1 && errors.contains("left over"), "{errors}");
}

#[test]
fn check_lists_every_problem_with_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let good = file(directory.path(), CONFIG);
    for args in [&["check", &good][..], &["check", "-c", &good]] {
        let (code, out, errors) = run(args);
        assert_eq!((code, errors.as_str()), (0, ""), "{args:?}");
        assert!(out.contains("1 service with 2 servers"), "{out}");
    }
    let bad = file(directory.path(), &CONFIG.replace("weight = 3", "weight = \"x\", size = 1"));
    let (code, out, errors) = run(&["check", &bad]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert_eq!(errors.lines().count(), 2, "{errors}");
    assert!(errors.lines().all(|line| line.starts_with(&format!("{bad}:17:"))), "{errors}");
    let (code, out, _) = run(&["check", "-j", &bad]);
    let problems: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, problems.as_array().unwrap().len()), (2, 2));
    let (code, _, errors) = run(&["check", "/nonexistent.toml"]);
    assert!(code == 2 && errors.contains("/nonexistent.toml"), "{errors}");
}

#[test]
fn ctl_calls_any_method() {
    let gyre = Gyre::start();
    let weight = r#"{"service":"web","server":"192.0.2.11:8080","weight":5}"#;
    let (code, out, errors) = ask(&gyre, &["ctl", "server.set_weight", weight]);
    assert_eq!((code, errors.as_str()), (0, ""));
    let changed: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(changed["changes"].as_array().unwrap().len(), 1);
    let (code, out, errors) = ask(&gyre, &["ctl", "server.setweight", weight]);
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(errors.contains("did you mean `server.set_weight`?"), "{errors}");
    let (code, _, errors) = ask(&gyre, &["ctl", "service.remove", r#"{"service":"x"}"#]);
    assert!(code == 1 && errors.contains("no service `x`"), "{errors}");

    let mut child = command(&["ctl", "server.list", "-", "--socket", gyre.path.to_str().unwrap()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(br#"{"service":"web"}"#).unwrap();
    let output = child.wait_with_output().unwrap();
    let servers: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(servers["servers"][0]["weight"], 5);
}

#[test]
fn apply_gives_a_running_gyre_a_file() {
    let gyre = Gyre::start();
    let directory = tempfile::tempdir().unwrap();
    let path = file(directory.path(), &CONFIG.replace("weight = 3", "weight = 9"));
    let line = "tcp 192.0.2.80:80: weight of 192.0.2.12:8080 is 9 (was 3)\n";
    assert_eq!(ask(&gyre, &["apply", "-n", &path]), (0, line.into(), String::new()));
    assert_eq!(ask(&gyre, &["apply", &path]), (0, line.into(), String::new()));
    assert_eq!(ask(&gyre, &["apply", &path]).1, "nothing to change\n");
    let bad = file(directory.path(), "[[service]]\nadress = 1\n");
    let (code, _, errors) = ask(&gyre, &["apply", &bad]);
    assert!(code == 2 && errors.contains("adress"), "{errors}");
    assert!(errors.contains(&format!("{bad}:2:1: service[0].adress")), "{errors}");
}

#[test]
fn a_change_is_shown_confirmed_saved_and_taken_back_by_commands() {
    let directory = tempfile::tempdir().unwrap();
    let own = directory.path().join("own.toml");
    std::fs::write(&own, CONFIG).unwrap();
    let gyre = Gyre::of_file(&own, CONFIG, Default::default());
    let path = file(directory.path(), &CONFIG.replace("weight = 3", "weight = 9"));
    let line = "tcp 192.0.2.80:80: weight of 192.0.2.12:8080 is 9 (was 3)\n";
    assert_eq!(ask(&gyre, &["diff", &path]), (0, line.into(), String::new()));
    let (code, out, errors) = ask(&gyre, &["apply", &path, "--confirm", "60"]);
    assert_eq!((code, out.as_str()), (0, line));
    assert!(errors.contains("`gyre confirm` within 60 s"), "{errors}");
    assert!(ask(&gyre, &["revisions"]).1.contains("to be confirmed within"));
    assert_eq!(ask(&gyre, &["save"]).0, 1);
    assert!(ask(&gyre, &["confirm"]).1.ends_with("stays\n"));
    let (code, _, errors) = ask(&gyre, &["reload"]);
    assert_eq!(code, 1);
    assert!(errors.contains("is 9 (was 3)") && errors.contains("gyre save"), "{errors}");
    let (_, out, _) = ask(&gyre, &["revisions"]);
    assert!(out.contains("not saved") && out.contains(&format!("apply of {path}")), "{out}");
    assert_eq!(ask(&gyre, &["save", "--to", "-"]).1.matches("weight = 9").count(), 1);
    let (code, out, _) = ask(&gyre, &["save"]);
    assert_eq!((code, out), (0, format!("{line}saved to {}\n", own.display())));
    assert_eq!(ask(&gyre, &["reload"]).1, "nothing to change\n");
    let (code, out, errors) = ask(&gyre, &["rollback"]);
    assert_eq!((code, errors.as_str()), (0, ""));
    assert!(out.contains("is 3 (was 9)"), "{out}");
    let (_, out, errors) = ask(&gyre, &["reload", "--discard"]);
    assert!(out.contains("is 9 (was 3)") && errors.contains("undone"), "{out}{errors}");
    assert_eq!(ask(&gyre, &["rollback", "9999"]).0, 1);
}

#[test]
fn tables_align_and_json_is_the_sockets() {
    let gyre = Gyre::start();
    for (name, method, wanted) in [
        ("status", "status", "workers:"),
        ("services", "service.list", "192.0.2.12:8080"),
        ("servers", "server.list", "192.0.2.12:8080"),
        ("stats", "stats", "pool1"),
        ("neighbors", "neighbours.list", "192.0.2.11"),
        ("connections", "connections.list", "CLIENT"),
        ("workers", "workers.list", "running"),
        ("ports", "ports.list", "300/1024"),
        ("neighbours", "neighbours.list", "192.0.2.11"),
        ("drops", "stats", "wan:rx_missed"),
        ("drops", "stats", "wan:kernel_refused"),
    ] {
        let (code, out, errors) = ask(&gyre, &[name]);
        assert_eq!((code, errors.as_str()), (0, ""), "{name}");
        assert!(out.contains(wanted), "{name}: {out}");
        let (_, out, _) = ask(&gyre, &[name, "-j"]);
        let shown: Value = serde_json::from_str(&out).unwrap();
        let called = gyre.call(method, json!({}));
        let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&shown), keys(&called), "{name}");
    }
    let (_, table, _) = ask(&gyre, &["services"]);
    let columns: Vec<_> = table.lines().map(|line| line.find("192.0.2.1").unwrap_or(0)).collect();
    assert_eq!(columns[1], columns[2], "{table}");
}

#[test]
fn a_closed_pipe_ends_a_list_quietly() {
    let gyre = Gyre::start();
    let socket = gyre.path.to_str().unwrap();
    let mut child = command(&["ctl", "stats", "--socket", socket])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut errors = String::new();
    child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert_eq!((child.wait().unwrap().code(), errors.as_str()), (Some(0), ""));
}

/// `script` gives the command a terminal.
fn on_a_terminal(gyre: &Gyre, words: &str, environment: (&str, &str)) -> String {
    let line =
        format!("{} {words} --socket {}", env!("CARGO_BIN_EXE_gyre"), gyre.path.to_str().unwrap());
    let output = Command::new("script")
        .args(["-qec", &line, "/dev/null"])
        .env("TERM", "xterm")
        .env_remove("NO_COLOR")
        .env(environment.0, environment.1)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    let gyre = Gyre::start();
    let none = ("GYRE_TEST", "");
    assert!(on_a_terminal(&gyre, "services", none).contains("\x1b[1mSERVER\x1b[0m"));
    assert!(on_a_terminal(&gyre, "services", none).contains("\x1b[31munreachable\x1b[0m"));
    assert!(on_a_terminal(&gyre, "status", none).contains("\x1b[31m"));
    for plain in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        assert!(!on_a_terminal(&gyre, "services", plain).contains('\x1b'), "{plain:?}");
    }
    assert!(!ask(&gyre, &["services"]).1.contains('\x1b'));
}

#[test]
fn anything_shown_can_be_watched() {
    let gyre = Gyre::start();
    for words in [&["status"][..], &["services", "web"], &["servers"], &["stats", "-a"]] {
        let (_, once, _) = ask(&gyre, words);
        let watch = [&["watch", "-n", "0.1", "--count", "3"], words].concat();
        let (code, thrice, errors) = ask(&gyre, &watch);
        assert_eq!((code, errors.as_str()), (0, ""), "{words:?}");
        let heading = once.lines().next().unwrap();
        let first: String = heading.split_whitespace().next().unwrap().into();
        let seen = thrice.lines().filter(|line| line.trim_start().starts_with(&first)).count();
        assert!(seen >= 3, "{words:?}: {thrice}");
    }
    let (code, lines, _) = ask(&gyre, &["watch", "-n", "0.1", "--count", "2", "workers", "-j"]);
    let documents = serde_json::Deserializer::from_str(&lines).into_iter::<Value>();
    assert_eq!((code, documents.map(Result::unwrap).count()), (0, 2));
    for bad in [&["watch", "frobnicate"][..], &["watch", "-n", "0", "status"], &["watch"]] {
        assert_eq!(run(bad).0, 2, "{bad:?}");
    }
}

#[test]
fn near_names_are_suggested() {
    let gyre = Gyre::start();
    let (code, _, errors) = run(&["servics"]);
    assert!(code == 2 && errors.contains("'services'"), "{errors}");
    let (code, _, errors) = run(&["connections", "--cleint", "::1"]);
    assert!(code == 2 && errors.contains("'--client'"), "{errors}");
    for (name, meant) in [("wbe", "web"), ("tcp 192.0.2.8:80", "tcp 192.0.2.80:80")] {
        let (code, _, errors) = ask(&gyre, &["services", name]);
        assert!(code == 1 && errors.contains(&format!("did you mean `{meant}`?")), "{errors}");
    }
    let (_, _, errors) = ask(&gyre, &["services", "mail"]);
    assert!(!errors.contains("did you mean"), "{errors}");
}

/// From the same description as the command line: a page for each command.
#[test]
fn manual_pages_are_made_of_the_command_line() {
    let (code, page, errors) = run(&["man"]);
    assert_eq!((code, errors.as_str()), (0, ""));
    assert!(page.starts_with(".ie") && page.contains(".TH gyre 1"), "{page}");
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(run(&["man", directory.path().to_str().unwrap()]).0, 0);
    for (name, option) in
        [("gyre-connections", "client"), ("gyre-watch", "interval"), ("gyre-ipvsadm", "fullnat")]
    {
        let path = directory.path().join(format!("{name}.1"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(text.contains(option), "{name}: {text}");
    }
    let (code, _, errors) = run(&["man", "/nonexistent"]);
    assert!(code == 1 && errors.contains("/nonexistent"), "{errors}");
}

#[test]
fn completions_know_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, script, _) = run(&["completions", shell]);
        assert_eq!(code, 0);
        for command in ["servers", "stats", "watch", "ipvsadm", "man", "neighbours"] {
            assert!(script.contains(command), "{shell}: {command}");
        }
    }
}

/// It is what `cargo test --no-default-features` leaves in target/debug, where people look for one
/// that runs.
#[cfg(not(feature = "dpdk"))]
#[test]
fn a_gyre_without_dpdk_says_what_it_is_and_what_to_build() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("gyre.toml");
    std::fs::write(&config, "[[port]]\nname = \"wan\"\ndevice = \"net_null0\"\n").unwrap();
    let (code, out, told) = run(&["run", "-c", config.to_str().unwrap()]);
    assert_eq!((code, out.as_str()), (1, ""), "{told}");
    let own = env!("CARGO_BIN_EXE_gyre");
    for words in [own, "built without DPDK", "cannot run", "`cargo build --release`"] {
        assert!(told.contains(words), "no {words} in: {told}");
    }
    // What is wrong with the file is told all the same.
    std::fs::write(&config, "[[prot]]\n").unwrap();
    let (code, _, told) = run(&["run", "-c", config.to_str().unwrap()]);
    assert_eq!(code, 2, "{told}");
    assert!(told.contains("gyre.toml:1:3"), "{told}");
}
