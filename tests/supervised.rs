//! gyre under a service manager: what it says over NOTIFY_SOCKET and when, what its watchdog
//! notices, what its log looks like to the journal, and the unit that asks for all this. The
//! manager is this test; the packets of nobody, so no privileges are needed.
#![cfg(feature = "dpdk")]

mod harness;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

const SERVICES: usize = 40;

fn unit() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/systemd/gyre.service")
}

/// A service manager of our own and the gyre that it started.
struct Managed {
    child: Child,
    socket: UnixDatagram,
    directory: tempfile::TempDir,
}

fn configuration(directory: &Path, log_format: &str) -> String {
    let socket = directory.join("gyre.sock");
    let mut text = format!(
        "[runtime]\nworkers = 2\nidle = \"adaptive\"\nhugepages = \"never\"\nconnections = 1000\n\
         connections_ipv6 = 1000\ncontrol_socket = {socket:?}\nlog_format = \"{log_format}\"\n\
         [[port]]\nname = \"wan\"\ndevice = \"net_null0\"\nkernel = \"none\"\n"
    );
    for n in 1..=SERVICES {
        text += &format!("[[service]]\naddress = \"192.0.2.{n}:80\"\nforwarding = \"dr\"\n");
    }
    text
}

impl Managed {
    fn start(watchdog: Duration) -> Managed {
        Managed::with(watchdog, "text", &[])
    }

    fn with(watchdog: Duration, log_format: &str, environment: &[(&str, &str)]) -> Managed {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path();
        fs::write(place.join("gyre.toml"), configuration(place, log_format)).unwrap();
        let socket = UnixDatagram::bind(place.join("notify")).unwrap();
        let log = File::create(place.join("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_gyre"));
        command.arg("run").arg("-c").arg(place.join("gyre.toml")).stdin(Stdio::null());
        command.env("NOTIFY_SOCKET", place.join("notify"));
        command.env("WATCHDOG_USEC", watchdog.as_micros().to_string());
        command.envs(environment.iter().copied());
        let metadata = log.metadata().unwrap();
        let stream = format!("{}:{}", metadata.dev(), metadata.ino());
        if environment.iter().any(|(name, _)| *name == "GYRE_TEST_JOURNAL") {
            command.env("JOURNAL_STREAM", stream);
        }
        let child = command.stderr(log).spawn().unwrap();
        Managed { child, socket, directory }
    }

    /// The next message but for those of the watchdog and, unless asked for, of the status.
    fn hears(&self, patience: Duration) -> Option<String> {
        let end = Instant::now() + patience;
        loop {
            let message = self.any(end)?;
            if message != "WATCHDOG=1" && !message.starts_with("STATUS=") {
                return Some(message);
            }
        }
    }

    fn any(&self, end: Instant) -> Option<String> {
        let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        self.socket.set_read_timeout(Some(left)).unwrap();
        let mut bytes = [0; 1024];
        let length = self.socket.recv(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes[..length]).into_owned())
    }

    /// Waits for a message that begins so, past all others.
    fn waits_for(&self, beginning: &str, patience: Duration) -> String {
        let end = Instant::now() + patience;
        loop {
            let Some(message) = self.any(end) else {
                panic!("waited in vain for {beginning}; gyre said:\n{}", self.log());
            };
            if message.starts_with(beginning) {
                return message;
            }
        }
    }

    /// How many signs of life come within so long.
    fn beats(&self, within: Duration) -> usize {
        let end = Instant::now() + within;
        std::iter::from_fn(|| self.any(end)).filter(|message| message == "WATCHDOG=1").count()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap()
    }

    fn cli(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gyre"));
        command.args(arguments).arg("--socket").arg(self.directory.path().join("gyre.sock"));
        command.output().unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// The thread of this name.
    fn thread(&self, name: &str) -> Pid {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let is_it = |task: &PathBuf| fs::read_to_string(task.join("comm")).unwrap().trim() == name;
        let task = tasks.map(|task| task.unwrap().path()).find(is_it).unwrap();
        Pid::from_raw(task.file_name().unwrap().to_str().unwrap().parse().unwrap())
    }
}

impl Drop for Managed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const LONG: Duration = Duration::from_secs(30);

fn ready_comes_when_services_are_served_and_stopping_at_the_end() {
    let mut gyre = Managed::start(Duration::from_secs(60));
    // The very first word: nothing but READY announces a gyre that serves.
    assert_eq!(gyre.any(Instant::now() + LONG).as_deref(), Some("READY=1"), "{}", gyre.log());
    let status = gyre.cli(&["status", "-j"]);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["services"], SERVICES, "{status}");
    let workers = gyre.cli(&["workers", "-j"]);
    let workers: serde_json::Value = serde_json::from_slice(&workers.stdout).unwrap();
    let turns = workers["workers"].as_array().unwrap().iter().map(|row| row["turns"].as_u64());
    assert!(turns.clone().count() == 2 && turns.flatten().all(|turns| turns > 0), "{workers}");
    let line = gyre.waits_for("STATUS=", LONG);
    assert!(line.contains("40 services; 2 workers turn"), "{line}");
    gyre.signal(Signal::SIGTERM);
    assert!(gyre.hears(LONG).unwrap().starts_with("STOPPING=1"));
    assert_eq!(gyre.child.wait().unwrap().code(), Some(0), "{}", gyre.log());
}

fn a_reload_is_announced_and_ends_whether_it_is_done_or_refused() {
    let gyre = Managed::start(Duration::from_secs(60));
    gyre.waits_for("READY=1", LONG);
    let expect_reload = |what: &str| {
        let begins = gyre.hears(LONG).unwrap_or_default();
        assert!(begins.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{what}: {begins}");
        assert_eq!(gyre.hears(LONG).as_deref(), Some("READY=1"), "{what}");
    };
    let path = gyre.directory.path().join("gyre.toml");
    let mut file = File::options().append(true).open(&path).unwrap();
    file.write_all(b"[[service]]\naddress = \"192.0.2.99:80\"\nforwarding = \"dr\"\n").unwrap();
    assert!(gyre.cli(&["reload"]).status.success());
    expect_reload("gyre reload");
    let status = String::from_utf8(gyre.cli(&["status", "-j"]).stdout).unwrap();
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["services"], SERVICES + 1, "{status}");
    gyre.signal(Signal::SIGHUP);
    expect_reload("SIGHUP");
    file.write_all(b"nonsense\n").unwrap();
    let refused = gyre.cli(&["reload"]);
    assert!(!refused.status.success());
    expect_reload("a refused reload");
    // One that changes nothing by intention is none.
    gyre.cli(&["reload", "--dry-run"]);
    assert_eq!(gyre.hears(Duration::from_millis(600)), None);
}

/// One worker's thread is held by ptrace, as by a driver that never returns; all others run.
fn the_watchdog_starves_while_one_worker_stands_still() {
    let gyre = Managed::start(Duration::from_secs(2));
    gyre.waits_for("READY=1", LONG);
    assert!(gyre.beats(Duration::from_secs(2)) >= 2, "{}", gyre.log());
    let worker = gyre.thread("gyre-worker-1");
    ptrace::attach(worker).unwrap();
    waitpid(worker, Some(WaitPidFlag::__WALL)).unwrap();
    let line = gyre.waits_for("STATUS=", Duration::from_secs(5));
    assert!(line.contains("stalled: worker 1"), "{line}");
    // The manager's patience and half of it again.
    assert_eq!(gyre.beats(Duration::from_secs(3)), 0);
    // Control itself is as well as ever.
    assert!(gyre.cli(&["status"]).status.success());
    ptrace::detach(worker, None).unwrap();
    let line = gyre.waits_for("STATUS=", Duration::from_secs(5));
    assert!(line.contains("2 workers turn"), "{line}");
    gyre.waits_for("WATCHDOG=1", Duration::from_secs(5));
}

/// Lines that are gyre's; DPDK writes its own.
fn told_by_gyre(log: &str) -> Vec<&str> {
    log.lines().filter(|line| !line.starts_with(['E', 'T']) && !line.is_empty()).collect()
}

fn the_log_is_the_journals_or_json_or_for_people() {
    let journal = Managed::with(LONG, "text", &[("GYRE_TEST_JOURNAL", "1")]);
    journal.waits_for("READY=1", LONG);
    let log = journal.log();
    let lines = told_by_gyre(&log);
    assert!(lines.contains(&"<6>ready: every worker has the configuration"), "{log}");
    assert!(lines.iter().all(|line| line.starts_with('<')), "{log}");

    let json = Managed::with(LONG, "json", &[]);
    json.waits_for("READY=1", LONG);
    let log = json.log();
    let parsed: Vec<serde_json::Value> =
        log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let ready = parsed.iter().find(|line| line["message"] == "control socket is ready");
    let ready = ready.unwrap_or_else(|| panic!("{log}"));
    assert_eq!(ready["level"], "INFO");
    assert!(ready["socket"].as_str().unwrap().ends_with("gyre.sock"), "{ready}");
    assert!(ready["timestamp"].as_str().unwrap().ends_with('Z'), "{ready}");
    assert!(log.lines().filter(|line| line.starts_with('{')).count() == parsed.len(), "{log}");

    // A JOURNAL_STREAM that standard error is not, as in a shell that a service runs.
    let people = Managed::with(LONG, "text", &[("JOURNAL_STREAM", "1:2")]);
    people.waits_for("READY=1", LONG);
    let log = people.log();
    assert!(log.lines().any(|line| line.starts_with("20") && line.contains("Z  INFO ")), "{log}");
}

fn systemd() -> Option<String> {
    let found = Command::new("systemd-analyze").arg("--version").output().is_ok();
    (!found).then(|| "needs systemd-analyze (package systemd)".into())
}

fn systemd_finds_no_fault_with_the_unit() {
    let directory = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(unit()).unwrap();
    assert!(text.contains("\nExecStart=/usr/sbin/gyre run -c /etc/gyre/gyre.toml\n"));
    let path = directory.path().join("gyre.service");
    let verify = |text: &str| {
        fs::write(&path, text.replace("/usr/sbin/gyre", env!("CARGO_BIN_EXE_gyre"))).unwrap();
        let mut command = Command::new("systemd-analyze");
        let output = command.args(["verify", "--man=no"]).arg(&path).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        // Other packages' units come along; what is said of ours counts.
        let ours = said.lines().filter(|line| line.contains("gyre.service"));
        (output.status.success(), ours.collect::<Vec<_>>().join("\n"))
    };
    assert_eq!(verify(&text), (true, String::new()));
    let (_, said) = verify(&text.replace("Restart=on-failure", "Restart=now-and-then"));
    assert!(said.contains("now-and-then"), "verify notices nothing: {said}");
    for line in ["Type=notify", "WatchdogSec=10", "Restart=on-failure", "NoNewPrivileges=yes"] {
        assert!(text.lines().any(|found| found == line), "{line}");
    }
}

/// systemd leaves gyre these capabilities and no others; they are enough for a port, its TAP,
/// rules and addresses.
fn the_units_capabilities_are_enough() {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    let made =
        Command::new("ip").args("link add eth1 type veth peer name far1".split(' ')).status();
    assert!(made.unwrap().success());
    let text = fs::read_to_string(unit()).unwrap();
    let sets = text.lines().filter_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let names = sets.flat_map(str::split_whitespace).map(|name| name.replace("CAP_", "+"));
    let set = names.map(|name| name.to_lowercase()).collect::<Vec<_>>().join(",");
    let directory = tempfile::tempdir().unwrap();
    let port = "device = \"net_af_packet0,iface=eth1\"\naddresses = [\"192.0.2.250/24\"]";
    let config = configuration(directory.path(), "text")
        .replace("device = \"net_null0\"\nkernel = \"none\"", port);
    fs::write(directory.path().join("gyre.toml"), config).unwrap();
    let socket = UnixDatagram::bind(directory.path().join("notify")).unwrap();
    let log = File::create(directory.path().join("log")).unwrap();
    let mut command = Command::new("setpriv");
    command.arg(format!("--bounding-set=-all,{set}")).arg("--no-new-privs");
    command.arg(env!("CARGO_BIN_EXE_gyre")).args(["run", "-c"]);
    command.arg(directory.path().join("gyre.toml")).stderr(log);
    command.env("NOTIFY_SOCKET", directory.path().join("notify"));
    let mut gyre = Managed { child: command.spawn().unwrap(), socket, directory };
    gyre.waits_for("READY=1", LONG);
    let rules = Command::new("nft").args(["list", "ruleset"]).output().unwrap();
    assert!(String::from_utf8_lossy(&rules.stdout).contains("eth1"), "no rules: {}", gyre.log());
    gyre.signal(Signal::SIGTERM);
    assert_eq!(gyre.child.wait().unwrap().code(), Some(0), "{}", gyre.log());
}

/// cargo builds what ships by `release`, with `bench` after it.
fn builds_that_ship_abort_on_panic() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let manifest: toml_edit::DocumentMut = fs::read_to_string(path).unwrap().parse().unwrap();
    let profiles = manifest["profile"].as_table().unwrap();
    for (name, profile) in profiles.iter().filter(|(name, _)| !["dev", "test"].contains(name)) {
        let inherits = profile.get("inherits").and_then(|item| item.as_str()) == Some("release");
        let panic = profile.get("panic").and_then(|item| item.as_str());
        assert!(panic == Some("abort") || (inherits && panic.is_none()), "profile {name}");
    }
    assert_eq!(profiles["release"]["panic"].as_str(), Some("abort"));
}

fn main() {
    let mut cases = cases!(&[];
        ready_comes_when_services_are_served_and_stopping_at_the_end,
        a_reload_is_announced_and_ends_whether_it_is_done_or_refused,
        the_watchdog_starves_while_one_worker_stands_still,
        the_log_is_the_journals_or_json_or_for_people,
        builds_that_ship_abort_on_panic,
    );
    cases.extend(cases!(&[systemd]; systemd_finds_no_fault_with_the_unit));
    cases.extend(cases!(&[harness::namespaces]; the_units_capabilities_are_enough));
    harness::run(cases);
}
