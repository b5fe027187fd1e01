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

/// What a run of wrk left, as `scripts/compare` judges it.
struct Round {
    directory: tempfile::TempDir,
    last: serde_json::Value,
}

impl Round {
    fn new(case: &str, requests: u32) -> Self {
        let last = serde_json::json!({
            "round": 0, "case": case, "profile": "kept", "connections": 4, "requests": requests,
            "seconds": 2.0, "machine_s": 3.0, "stolen_s": 0.0, "own_s": 1.0, "client_s": 0.5,
            "elapsed_s": 2.1,
            "errors": {"connect": 0, "read": 0, "write": 0, "status": 0, "timeout": 0},
            "latency_us": {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9, "max": 120.0},
        });
        let directory = tempfile::tempdir().unwrap();
        Round { directory, last }
    }

    /// So many lines in the first server's log from this peer.
    fn logged(self, peer: &str, lines: usize) -> Self {
        for server in 1..=3 {
            let folder = self.directory.path().join(format!("server{server}"));
            fs::create_dir_all(&folder).unwrap();
            let line = format!("1.5 {peer} - 1 200\n");
            let log = if server == 1 { line.repeat(lines) } else { String::new() };
            fs::write(folder.join("access.log"), log).unwrap();
        }
        self
    }

    fn tool(&self, arguments: &[&str]) -> (bool, String) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut command = Command::new("python3");
        command.arg(root.join("scripts/compare-tools.py")).arg(arguments[0]);
        command.arg(self.directory.path()).args(&arguments[1..]);
        let output = command.output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).unwrap())
    }

    fn judge(&self, peer: &str) -> (bool, String) {
        fs::write(self.directory.path().join("last.json"), self.last.to_string()).unwrap();
        self.tool(&["judge", peer])
    }
}

#[test]
fn a_compared_round_counts_only_when_every_request_came_the_way_it_is_named_for() {
    let good = Round::new("haproxy", 100).logged("10.2.0.3", 103);
    assert!(good.judge("10.2.0.3").0);
    let (counts, said) = good.judge("10.2.0.8");
    assert!(!counts && said.contains("servers saw others than 10.2.0.8"), "{said}");
    let (counts, said) = Round::new("haproxy", 100).logged("10.2.0.3", 99).judge("10.2.0.3");
    assert!(!counts && said.contains("100 requests answered, 99 in the servers' logs"), "{said}");
    let mut failed = Round::new("haproxy", 100).logged("10.2.0.3", 100);
    failed.last["errors"]["timeout"] = 1.into();
    let (counts, said) = failed.judge("10.2.0.3");
    assert!(!counts && said.contains("requests failed: {'timeout': 1}"), "{said}");
    let gyre = Round::new("gyre-dr", 100).logged("10.1.0.2", 100);
    let stats = |when: &str, frames: u32, flows: u32| {
        let text = serde_json::json!({"workers": [{"tx_frames": frames, "flows_created": flows}]});
        fs::write(gyre.directory.path().join(when), text.to_string()).unwrap();
    };
    stats("before.json", 50, 7);
    stats("after.json", 150, 11);
    assert!(gyre.judge("10.1.0.2").0);
    stats("after.json", 149, 10);
    let (counts, said) = gyre.judge("10.1.0.2");
    assert!(!counts && said.contains("gyre's tx_frames grew by 99, not 100"), "{said}");
    assert!(said.contains("gyre's flows_created grew by 3, not 4"), "{said}");
}

#[test]
fn a_comparison_reports_medians_and_what_is_beyond_the_direct_way() {
    let directory = tempfile::tempdir().unwrap();
    let mut rounds = Vec::new();
    for (round, requests) in [1000, 3000, 2000].into_iter().enumerate() {
        for (case, machine) in [("direct", 1.0), ("haproxy", 2.5)] {
            let mut row = Round::new(case, requests).last;
            row["round"] = round.into();
            row["machine_s"] = (machine * f64::from(requests) / 10_000.0).into();
            row["own_s"] = (f64::from(requests) / 50_000.0).into();
            rounds.push(row);
        }
    }
    fs::write(directory.path().join("rounds.json"), serde_json::json!(rounds).to_string()).unwrap();
    let (json, table) = (directory.path().join("a.json"), directory.path().join("a.md"));
    let report = Round { directory, last: serde_json::Value::Null };
    let flags = ["--json", json.to_str().unwrap(), "--markdown", table.to_str().unwrap()];
    let (done, said) = report.tool(&[&["report"], &flags[..]].concat());
    assert!(done && said.contains("12000 requests in 6 runs, none failed"), "{said}");
    let figures: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(json).unwrap()).unwrap();
    let case = figures["cases"].as_array().unwrap().iter().find(|case| case["case"] == "haproxy");
    let near =
        |name: &str, wanted: f64| (case.unwrap()[name].as_f64().unwrap() - wanted).abs() < 0.01;
    assert!(near("requests_per_s", 1000.0) && near("machine_us", 250.0), "{figures}");
    assert!(near("beyond_direct_us", 150.0) && near("own_us", 20.0), "{figures}");
    let row = "| haproxy | kept | 1000 | 100 % | 250.0 | 150.0 | 20.0 |";
    assert!(fs::read_to_string(table).unwrap().contains(row));
}

#[test]
fn a_device_as_fast_as_testpmd_is_labelled_as_limited_by_the_generator() {
    let directory = tempfile::tempdir().unwrap();
    let row = |device: &str, mpps: f64| {
        let latency = serde_json::json!({"p50": 20_000, "p99": 90_000, "p99_9": 99_000});
        serde_json::json!({"device": device, "flows": 16, "known": 16, "mpps": mpps, "loss": 0.01,
            "half_loss": 0.0, "latency_ns": latency, "half_limited_by": null})
    };
    let rows = [
        row("testpmd", 4.0),
        row("gyre-nat", 1.0),
        row("ovs-dnat", 1.0),
        row("gyre-nat", 3.7),
        row("gyre-nat", 3.8),
    ];
    fs::write(directory.path().join("rows.json"), serde_json::json!(rows).to_string()).unwrap();
    fs::write(directory.path().join("setup.json"), "{}").unwrap();
    let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/compare-packets-tools.py");
    let output =
        Command::new("python3").arg(tool).arg("report").arg(directory.path()).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    for line in [
        "| testpmd | 16 | 4.00 | 1.00 | 1.00% | 20 | 90 | 0.00% | generator and port |",
        "| gyre-nat | 16 | 3.70 | 0.93 | 1.00% | 20 | 90 | 0.00% | generator and port |",
        "| ovs-dnat | 16 | 1.00 | 0.25 | 1.00% | 20 | 90 | 0.00% | device |",
    ] {
        assert!(said.contains(line), "{said}");
    }
}
