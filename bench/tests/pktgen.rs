//! gyre-pktgen end to end: one process sends, another reflects, over memif, over TAP ports behind
//! a bridge, and over af_packet ports with gyre between them.
//!
//! Bounded to seconds and to rates that a busy machine carries: nothing here is a measurement.
//! Namespaces need root; without it those tests are listed as not run, and say why.

#[path = "../../tests/harness/mod.rs"]
mod harness;
#[path = "../../tests/netns/lab.rs"]
#[allow(dead_code, reason = "made for tests/netns, which uses all of it")]
mod lab;

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use harness::namespaces;
use lab::{Lab, Namespace, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

const PKTGEN: &str = env!("CARGO_BIN_EXE_gyre-pktgen");

/// A process of ours, ended by SIGINT when dropped, as a user would.
struct Running(Option<Child>);

impl Running {
    fn start(command: &mut Command) -> Self {
        let piped = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Running(Some(piped.spawn().unwrap()))
    }

    fn interrupt(&self) {
        let child = self.0.as_ref().unwrap();
        kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
    }

    fn finish(mut self) -> Output {
        self.0.take().unwrap().wait_with_output().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A reflecting process, and where it counts.
struct Reflector {
    process: Running,
    json: PathBuf,
}

impl Reflector {
    fn start(dir: &Path, command: Command, port: &str, address: &str) -> Self {
        let json = dir.join("reflector.json");
        let mut command = command;
        command.args(["reflect", "--no-huge", "--idle", "yield", "--mbufs", "4095"]);
        command.args(["--port", port, "--address", address, "--json"]).arg(&json);
        Reflector { process: Running::start(&mut command), json }
    }

    /// Stops it; its counts.
    fn stop(self) -> Value {
        self.process.interrupt();
        succeeded(self.process.finish());
        read_json(&self.json)
    }
}

fn succeeded(output: Output) -> String {
    let (out, error) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{out}\n{error}", output.status);
    println!("{out}");
    out.into_owned()
}

fn read_json(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap()
}

fn count(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no count"))
}

fn memif(dir: &TempDir, role: &str) -> String {
    let socket = dir.path().join("memif.sock");
    format!("net_memif0,role={role},socket={},socket-abstract=no", socket.display())
}

/// A command that sends over memif; the reflector waits at its other end.
fn over_memif(dir: &TempDir, subcommand: &str) -> (Reflector, Command, PathBuf) {
    let (port, own) = (memif(dir, "server"), "198.19.0.1,2001:2:0:8000::1");
    let reflector = Reflector::start(dir.path(), Command::new(PKTGEN), &port, own);
    wait_for("the memif socket", 20, || dir.path().join("memif.sock").exists().then_some(()));
    let json = dir.path().join("report.json");
    let mut command = Command::new(PKTGEN);
    command.args([subcommand, "--no-huge", "--idle", "yield", "--mbufs", "4095"]);
    command.args(["--port", &memif(dir, "client"), "--wait", "20s", "--json"]).arg(&json);
    (reflector, command, json)
}

/// Why there are no two cores; `None` when there are.
fn two_cores() -> Option<String> {
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    (count < 2).then(|| "needs two cores".to_owned())
}

fn run(command: &mut Command, arguments: &str) -> String {
    succeeded(command.args(arguments.split_whitespace()).output().unwrap())
}

/// Every frame came back once, in order, and was timed.
fn assert_all_came_back(figure: &Value) {
    assert!(count(&figure["sent"]) > 500, "{figure}");
    assert_eq!(figure["sent"], figure["received"], "{figure}");
    for name in ["lost", "duplicates", "out_of_order", "out_of_order_any"] {
        assert_eq!(count(&figure[name]), 0, "{name}: {figure}");
    }
    let latency = &figure["latency_ns"];
    assert_eq!(latency["frames"], figure["received"]);
    let percentiles = ["min", "p50", "p90", "p99", "p99_9", "p99_99", "max"];
    let values = percentiles.map(|name| count(&latency[name]));
    assert!(values[0] > 0 && values.is_sorted(), "{latency}");
}

fn memif_brings_every_stamped_frame_back() {
    let dir = TempDir::new().unwrap();
    let (reflector, mut command, json) = over_memif(&dir, "run");
    let markdown = dir.path().join("report.md");
    let csv = dir.path().join("report.csv");
    command.arg("--markdown").arg(&markdown).arg("--csv").arg(&csv);
    let said = run(
        &mut command,
        "--rate 20kpps --duration 500ms --warm-up 200ms --flows 1000 --size 64,imix,1518",
    );
    assert!(said.contains("p99.99"), "{said}");
    let report = read_json(&json);
    let figures = report["figures"].as_array().unwrap();
    assert_eq!(figures.len(), 3);
    figures.iter().for_each(assert_all_came_back);
    assert!(report["dpdk"].as_str().unwrap().starts_with("DPDK "));
    assert_eq!(report["traffic"]["flows_touched"], 1000);
    let counts = reflector.stop();
    let sent: u64 = figures.iter().map(|figure| count(&figure["sent"])).sum();
    let opening = 3 * 1000;
    assert!(count(&counts["reflected"]) >= sent + opening, "{counts} {sent}");
    assert_eq!(counts["received"].as_u64(), Some(count(&counts["reflected"]) + 1), "one question");
    assert_eq!((count(&counts["answered"]), count(&counts["dropped"])), (1, 0), "{counts}");
    assert_eq!(fs::read_to_string(csv).unwrap().lines().count(), 4);
    assert!(fs::read_to_string(markdown).unwrap().contains("## Set-up"));
}

fn memif_carries_tcp_and_ipv6_too() {
    for arguments in ["--protocol tcp", "--ipv6", "--ipv6 --protocol tcp --distribution zipf:1.1"] {
        let dir = TempDir::new().unwrap();
        let (reflector, mut command, json) = over_memif(&dir, "run");
        let rest = "--rate 10kpps --duration 300ms --warm-up 100ms --flows 100";
        run(&mut command, &format!("{arguments} {rest}"));
        assert_all_came_back(&read_json(&json)["figures"][0]);
        reflector.stop();
    }
}

fn two_cores_send_and_receive_apart() {
    let dir = TempDir::new().unwrap();
    let (reflector, mut command, json) = over_memif(&dir, "run");
    run(&mut command, "--core 0 --rx-core 1 --rate 5kpps --duration 300ms --warm-up 100ms");
    assert_all_came_back(&read_json(&json)["figures"][0]);
    reflector.stop();
}

fn connections_open_ask_and_close() {
    let dir = TempDir::new().unwrap();
    let (reflector, mut command, json) = over_memif(&dir, "connections");
    run(&mut command, "--rate 2000 --duration 500ms --flows 4000 --timeout 3s");
    let report = read_json(&json);
    let counts = &report["connections"]["counts"];
    assert!(count(&counts["opened"]) > 500, "{counts}");
    for name in ["connected", "answered", "completed"] {
        assert_eq!(counts["opened"], counts[name], "{name}: {counts}");
    }
    for name in ["timed_out", "reset", "unexpected", "no_free_flow"] {
        assert_eq!(count(&counts[name]), 0, "{name}: {counts}");
    }
    let cycles = &report["connections"]["cycle_ns"];
    assert_eq!(cycles["frames"], counts["completed"]);
    let reflected = reflector.stop();
    // SYN, request and FIN are answered; the two bare ACKs are not.
    assert_eq!(count(&reflected["reflected"]), 3 * count(&counts["opened"]), "{reflected}");
    assert_eq!(count(&reflected["silent"]), 2 * count(&counts["opened"]), "{reflected}");
}

fn a_flood_counts_its_answers() {
    let dir = TempDir::new().unwrap();
    let (reflector, mut command, json) = over_memif(&dir, "syn-flood");
    run(&mut command, "--rate 5kpps --duration 300ms --flows 100000");
    let report = read_json(&json);
    let figure = &report["figures"][0];
    assert!(count(&figure["sent"]) > 500, "{figure}");
    assert_eq!(figure["sent"], figure["received"], "a SYN-ACK each: {figure}");
    reflector.stop();
}

/// What the search finds on a shared machine says nothing; that it ends, decides by full trials
/// and records them all does.
fn throughput_and_bursts_are_searched() {
    let dir = TempDir::new().unwrap();
    let (reflector, mut command, json) = over_memif(&dir, "throughput");
    run(
        &mut command,
        "--max-rate 20kpps --min-rate 1kpps --loss 0,5% --duration 200ms --first-duration 100ms \
         --precision 20% --trials-max 12 --latency-at 50 --warm-up 100ms --drain 200ms",
    );
    let report = read_json(&json);
    let trials = report["trials"].as_array().unwrap();
    assert!((1..=12).contains(&trials.len()));
    let pdr = report["figures"].as_array().unwrap().iter().find(|f| f["what"] == "PDR 5%");
    let remarks = report["remarks"].to_string();
    match pdr {
        Some(pdr) => assert!(pdr["loss_ratio"].as_f64().unwrap() <= 0.05, "{pdr}"),
        None => assert!(remarks.contains("PDR 5%, 64 bytes: not even"), "{remarks}"),
    }
    reflector.stop();
    let dir = TempDir::new().unwrap();
    let (reflector, mut command, json) = over_memif(&dir, "back-to-back");
    run(&mut command, "--rate 100kpps --burst-max 2ms --repeat 2 --warm-up 100ms");
    let report = read_json(&json);
    let burst = report["figures"][0]["burst_frames"].as_f64().unwrap();
    assert!(burst > 0.0 && burst <= 200.0, "{report}");
    reflector.stop();
}

fn sigint_ends_a_run_with_its_report() {
    let dir = TempDir::new().unwrap();
    let (reflector, mut command, json) = over_memif(&dir, "run");
    command.args(["--rate", "1kpps", "--duration", "60s", "--warm-up", "100ms"]);
    let generator = Running::start(&mut command);
    // The next hop is learnt and the trial runs when frames arrive; give it a second of them.
    std::thread::sleep(std::time::Duration::from_secs(4));
    generator.interrupt();
    succeeded(generator.finish());
    let report = read_json(&json);
    assert!(report["remarks"].to_string().contains("stopped by a signal"), "{report}");
    assert!(report["figures"][0]["duration_s"].as_f64().unwrap() < 30.0);
    reflector.stop();
}

fn bad_usage_exits_2_and_says_what_to_do() {
    for (arguments, words) in [
        ("run --port net_null0 --size 12", "64 to 9018"),
        ("run --port net_null0 --rate fast", "1.5Mpps"),
        ("run --port net_null0 --from 2001:2::1", "two families"),
        ("run --port !", "names no device"),
        ("run --port net_null0 --no-huge --core 4095", "--core 4095 is not among"),
        ("run --port net_null0 --no-huge --size 9000", "raise --mtu"),
        ("write", "--pcap"),
        ("write --trex /tmp/x.py --distribution zipf", "--pcap"),
        ("connections --port net_null0 --rate 5Mbit", "no number of connections"),
        ("frobnicate", "unrecognized subcommand"),
    ] {
        let output = Command::new(PKTGEN).args(arguments.split_whitespace()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments}: {said}");
        assert!(said.contains(words), "{arguments}: {said}");
    }
}

fn nobody_at_the_other_end_is_said() {
    let output = Command::new(PKTGEN)
        .args(["run", "--port", "net_null0", "--no-huge", "--wait", "300ms", "--rate", "1kpps"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("nobody answered for 198.19.0.1") && said.contains("--dst-mac"),
        "{said}"
    );
}

fn captures_and_scripts_need_no_port() {
    let dir = TempDir::new().unwrap();
    let file = |name: &str| dir.path().join(name);
    let mut command = Command::new(PKTGEN);
    command.arg("write").arg("--pcap").arg(file("a.pcap"));
    command.arg("--trex").arg(file("a.py")).arg("--pktgen-dpdk").arg(file("a.pkt"));
    run(&mut command, "--flows 100 --frames 250 --rate 1kpps --line-rate 1000 --size 128");
    let capture = fs::read(file("a.pcap")).unwrap();
    assert_eq!(capture.len(), 24 + 250 * (16 + 124));
    assert!(fs::read_to_string(file("a.pkt")).unwrap().contains("range 0 src ip 198.18.0.2"));
    let python = "import ast, sys; ast.parse(open(sys.argv[1]).read())";
    let parsed = Command::new("python3").args(["-c", python]).arg(file("a.py")).status();
    assert!(parsed.map_or(true, |status| status.success()), "the profile is no Python");
}

/// Two TAP ports that a kernel bridge joins.
fn tap_ports_carry_traffic_across_a_bridge() {
    let mut lab = Lab::new();
    let space = lab.switch();
    let dir = lab.dir("tap");
    let attach = |tap: &str, mac: &str| {
        wait_for(&format!("{tap} to appear"), 20, || {
            let shown = space.output("ip", &["link", "show", tap]);
            shown.status.success().then_some(())
        });
        // The kernel's end starts with the port's own address, and a bridge keeps what is
        // addressed to its members.
        space.ip(&format!("link set dev {tap} address {mac}"));
        space.ip(&format!("link set dev {tap} master br0"));
        space.ip(&format!("link set dev {tap} up"));
    };
    let port = "net_tap0,iface=pgfar";
    let reflector = Reflector::start(&dir, space.command(PKTGEN), port, "198.19.0.1");
    attach("pgfar", "02:00:00:00:99:01");
    let mut command = space.command(PKTGEN);
    command.args(["run", "--no-huge", "--idle", "yield", "--mbufs", "4095", "--wait", "20s"]);
    command.args(["--port", "net_tap0,iface=pgnear", "--json"]).arg(dir.join("report.json"));
    command.args("--rate 1kpps --duration 1s --warm-up 200ms --flows 50".split(' '));
    let generator = Running::start(&mut command);
    attach("pgnear", "02:00:00:00:99:02");
    succeeded(generator.finish());
    assert_all_came_back(&read_json(&dir.join("report.json"))["figures"][0]);
    assert_eq!(count(&reflector.stop()["dropped"]), 0);
}

/// gyre beside our own binary, built if it is not there.
fn gyre() -> PathBuf {
    let path = Path::new(PKTGEN).with_file_name("gyre");
    if !path.exists() {
        let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--bin", "gyre", "--manifest-path", manifest]);
        if path.parent().is_some_and(|folder| folder.ends_with("release")) {
            build.arg("--release");
        }
        assert!(build.status().unwrap().success(), "gyre does not build");
    }
    path
}

/// FULLNAT for UDP and TCP between two segments; the client's is the generator's, the servers' the
/// reflector's.
const DIRECTOR: &str = r#"
[[port]]
name = "wan"
device = "net_af_packet_wan,iface=wan0"
addresses = ["198.18.0.254/24"]

[[port]]
name = "lan"
device = "net_af_packet_lan,iface=lan0"
addresses = ["10.2.0.1/24"]

[local_addresses]
pool = { port = "lan", addresses = ["10.2.0.8"] }

[[service]]
address = "198.19.0.1:80"
protocol = "udp"
forwarding = "fullnat"
scheduler = "rr"
local_addresses = "pool"

[[service.server]]
address = "10.2.0.11:8000"

[[service]]
address = "198.19.0.1:80"
protocol = "tcp"
forwarding = "fullnat"
scheduler = "rr"
local_addresses = "pool"

[[service.server]]
address = "10.2.0.11:8000"
"#;

fn start_director(lab: &Lab, space: &Namespace) -> lab::Process {
    let dir = lab.dir("director");
    let (socket, file) = (dir.join("gyre.sock"), dir.join("gyre.toml"));
    let runtime = format!(
        "[runtime]\nworkers = 1\nidle = \"adaptive\"\nhugepages = \"never\"\n\
         control_socket = {socket:?}\nconnections = 50_000\n"
    );
    fs::write(&file, runtime + DIRECTOR).unwrap();
    let mut command = space.command(gyre().to_str().unwrap());
    command.arg("run").arg("-c").arg(&file);
    let process = space.start("gyre", &mut command, &dir.join("gyre.log"));
    wait_for("gyre's control socket", 30, || UnixStream::connect(&socket).ok());
    process
}

/// There through FULLNAT and back through it, all frames, each flow by its own source port.
fn gyre_in_between_brings_every_frame_back() {
    let mut lab = Lab::new();
    let near = lab.silent_namespace("generator");
    let middle = lab.namespace("director");
    let far = lab.silent_namespace("server");
    lab.cable((&near, "gen0"), (&middle, "wan0"));
    lab.cable((&middle, "lan0"), (&far, "srv0"));
    let dir = lab.dir("pktgen");
    let port = "net_af_packet0,iface=srv0";
    let reflector = Reflector::start(&dir, far.command(PKTGEN), port, "10.2.0.11");
    let mut director = start_director(&lab, &middle);
    let generator = |subcommand: &str| {
        let mut command = near.command(PKTGEN);
        command.args([subcommand, "--no-huge", "--idle", "yield", "--mbufs", "4095"]);
        command.args(["--port", "net_af_packet0,iface=gen0", "--gateway", "198.18.0.254"]);
        command.args(["--wait", "20s", "--json"]).arg(dir.join("report.json"));
        command
    };
    run(
        &mut generator("run"),
        "--flows 40 --hosts 4 --rate 1kpps --duration 2s --warm-up 2s --size 128",
    );
    let report = read_json(&dir.join("report.json"));
    assert_all_came_back(&report["figures"][0]);
    run(
        &mut generator("connections"),
        "--rate 200 --duration 1s --flows 1000 --hosts 4 --timeout 3s",
    );
    let connections = &read_json(&dir.join("report.json"))["connections"]["counts"];
    assert!(count(&connections["completed"]) > 100, "{connections}");
    assert_eq!(connections["completed"], connections["opened"], "{connections}");
    let counts = reflector.stop();
    assert!(count(&counts["reflected"]) >= count(&report["figures"][0]["sent"]), "{counts}");
    director.signal(Signal::SIGTERM);
    assert!(director.wait(10).success());
}

fn main() {
    let mut all = cases!(&[two_cores]; two_cores_send_and_receive_apart);
    all.extend(cases!(&[];
        memif_brings_every_stamped_frame_back,
        memif_carries_tcp_and_ipv6_too,
        connections_open_ask_and_close,
        a_flood_counts_its_answers,
        throughput_and_bursts_are_searched,
        sigint_ends_a_run_with_its_report,
        bad_usage_exits_2_and_says_what_to_do,
        nobody_at_the_other_end_is_said,
        captures_and_scripts_need_no_port,
    ));
    all.extend(cases!(&[namespaces];
        tap_ports_carry_traffic_across_a_bridge,
        gyre_in_between_brings_every_frame_back,
    ));
    harness::run_one_by_one(all)
}
