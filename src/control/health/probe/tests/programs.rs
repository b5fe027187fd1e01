//! External programs.

use std::path::Path;
use std::time::Instant;

use super::*;

fn shell(script: &str) -> CheckKind {
    CheckKind::Program { command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec() }
}

fn server_address() -> SocketAddr {
    "192.0.2.9:8080".parse().unwrap()
}

async fn run(script: &str) -> Result<(), String> {
    attempt(shell(script), server_address()).await
}

#[tokio::test]
async fn programs_decide_by_their_end_and_say_why_in_their_last_line() {
    assert_eq!(run("exit 0").await, Ok(()));
    assert_eq!(run("exit 3").await, Err("the program ended with exit status 3".to_owned()));
    let told = run("echo looking; echo 'disk full' >&2; echo; exit 1").await;
    assert_eq!(told, Err("the program ended with exit status 1: disk full".to_owned()));
    let signal = run("kill -9 $$").await;
    assert_eq!(signal, Err("the program ended with signal 9 (SIGKILL)".to_owned()));
}

#[tokio::test]
async fn programs_are_told_who_is_checked() {
    let told = "echo $GYRE_VIP $GYRE_VPORT $GYRE_RIP $GYRE_RPORT; exit 1";
    let reason = "the program ended with exit status 1: 192.0.2.80 443 192.0.2.9 8080";
    assert_eq!(run(told).await, Err(reason.to_owned()));
}

#[tokio::test]
async fn programs_that_cannot_be_started_do_not_blame_the_server() {
    let command = vec!["/does/not/exist".to_owned()];
    let failed = attempt_with(Probes::new(), CheckKind::Program { command }, server_address());
    let failed = failed.await.unwrap_err();
    assert!(!failed.is_servers());
    assert!(failed.to_string().contains("/does/not/exist cannot be started"), "{failed}");
}

#[tokio::test]
async fn output_without_end_is_read_and_bounded() {
    let endless = run("while :; do echo yes; done").await;
    let endless = endless.unwrap_err();
    assert!(endless.starts_with(&format!("no end of the program within {TIMEOUT_MS} ms: y")));
    let much = run("head -c 1000000 /dev/zero | tr '\\0' x; echo; echo last; exit 1").await;
    assert_eq!(much, Err("the program ended with exit status 1: last".to_owned()));
}

#[tokio::test]
async fn a_child_left_behind_does_not_hold_the_check_up() {
    let begun = Instant::now();
    assert_eq!(run("sleep 5 & exit 0").await, Ok(()));
    assert!(begun.elapsed() < Duration::from_secs(2));
}

/// Waits until the processes whose ids are in the file are gone.
async fn gone(file: &Path) {
    let ids = std::fs::read_to_string(file).unwrap();
    assert_eq!(ids.split_whitespace().count(), 2, "{ids}");
    for _ in 0..200 {
        // A zombie that nobody has waited for yet has no command line.
        let is_there = |id: &str| {
            std::fs::read(format!("/proc/{id}/cmdline")).is_ok_and(|line| !line.is_empty())
        };
        if !ids.split_whitespace().any(is_there) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{ids} are still there");
}

#[tokio::test]
async fn a_program_that_takes_too_long_is_killed_with_its_children() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let script = format!("sleep 60 & echo $$ $! > {}; wait", file.path().display());
    let reason = format!("no end of the program within {TIMEOUT_MS} ms");
    assert_eq!(run(&script).await, Err(reason));
    gone(file.path()).await;
}

#[tokio::test]
async fn a_check_that_is_given_up_kills_its_program() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let script = format!("sleep 60 & echo $$ $! > {}; wait", file.path().display());
    let task = tokio::spawn(async move { run(&script).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    task.abort();
    gone(file.path()).await;
}
