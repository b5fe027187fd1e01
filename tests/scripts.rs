//! What the scripts do to the machine they run on: the parts that need no root and no network.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// bash with scripts/lib.sh read, and nothing done as another user.
fn with_lib(snippet: &str) -> Command {
    let lib = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/lib.sh");
    // Started in the background, the suite ignores SIGINT, and a shell cannot trap what it was
    // started to ignore.
    let mut command = Command::new("env");
    let text = format!(". {}; as_root() {{ \"$@\"; }}; {snippet}", lib.display());
    command.args(["--default-signal=INT", "bash", "-euc", &text]).stdin(Stdio::null());
    command
}

fn wait_until(what: &str, probe: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !probe() {
        assert!(Instant::now() < end, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// `policy-rc.d` keeps installed packages from starting; left behind it would do so for ever.
#[test]
fn an_interrupted_installation_leaves_no_policy_behind() {
    use nix::sys::signal::{Signal, killpg};
    let directory = tempfile::tempdir().unwrap();
    let policy = directory.path().join("policy-rc.d");
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut command = with_lib("POLICY=$0; without_services sleep 60");
        let mut running = command.arg(&policy).process_group(0).spawn().unwrap();
        wait_until("an executable policy", || {
            fs::metadata(&policy).is_ok_and(|policy| policy.permissions().mode() & 0o111 == 0o111)
        });
        killpg(nix::unistd::Pid::from_raw(running.id() as i32), signal).unwrap();
        wait_until("the policy to go", || !policy.exists());
        assert!(!running.wait().unwrap().success());
    }
}

#[test]
fn a_policy_of_the_operators_stays_and_one_of_a_killed_run_goes() {
    let directory = tempfile::tempdir().unwrap();
    let policy = directory.path().join("policy-rc.d");
    let run = || {
        let mut command = with_lib("POLICY=$0; without_services cat \"$POLICY\"");
        let output = command.arg(&policy).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let ours = run();
    assert!(ours.ends_with("exit 101\n") && !policy.exists());
    fs::write(&policy, ours).unwrap();
    run();
    assert!(!policy.exists());
    let theirs = "#!/bin/sh\nexit 101\n";
    fs::write(&policy, theirs).unwrap();
    assert_eq!(run(), theirs);
    assert_eq!(fs::read_to_string(&policy).unwrap(), theirs);
}

/// sudo's secure_path leaves rustup's directory out.
#[test]
fn cargo_is_found_at_home_when_the_path_lacks_it() {
    let home = tempfile::tempdir().unwrap();
    let bin = home.path().join(".cargo/bin");
    // A path without cargo, wherever this machine has it.
    let tools = tempfile::tempdir().unwrap();
    for tool in ["bash", "env", "basename", "dirname", "cut", "getent"] {
        symlink(Path::new("/usr/bin").join(tool), tools.path().join(tool)).unwrap();
    }
    let ask = || {
        let mut command = with_lib("need_rust; command -v cargo");
        command.env_clear().env("PATH", tools.path()).env("HOME", home.path());
        command.env("SUDO_USER", "nobody").output().unwrap()
    };
    let output = ask();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("install Rust by https://rustup.rs"));
    fs::create_dir_all(&bin).unwrap();
    fs::write(bin.join("cargo"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(bin.join("cargo"), fs::Permissions::from_mode(0o755)).unwrap();
    let output = ask();
    let found = String::from_utf8(output.stdout).unwrap();
    assert_eq!(Path::new(found.trim()), bin.join("cargo"));
}
