//! What other programs make of gyre: Prometheus reads its metrics, rules and board; the example
//! clients talk to it.

mod harness;
mod import_support;
#[path = "control/support.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod support;
#[path = "control/web.rs"]
#[allow(dead_code, reason = "each test file uses its part")]
mod web;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use gyre::import::{self, Imported, Source, Warning};
use serde_json::{Value, json};
use web::{TOKEN, Web, free_address};

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples")
}

fn lacks(programs: &[&str]) -> Option<String> {
    let paths: Vec<PathBuf> =
        std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    let missing = programs.iter().find(|name| paths.iter().all(|path| !path.join(name).exists()));
    missing.map(|name| format!("needs {name}"))
}

fn prometheus() -> Option<String> {
    lacks(&["prometheus", "promtool", "curl"])
}

fn clients() -> Option<String> {
    lacks(&["python3", "sh", "nc", "curl", "jq"])
}

const KEEPALIVED: &str = "/usr/share/doc/keepalived/samples";
const LDIRECTORD: &str = "/usr/share/doc/ldirectord/examples/ldirectord.cf";

fn lacks_path(path: &str, package: &str) -> Option<String> {
    (!Path::new(path).exists()).then(|| format!("needs {path} (package {package})"))
}

fn keepalived() -> Option<String> {
    lacks_path(KEEPALIVED, "keepalived")
}

fn ldirectord() -> Option<String> {
    lacks_path(LDIRECTORD, "ldirectord")
}

/// What comes of an imported file: without fault, and with rules.
fn judged(path: &Path, imported: &Imported) -> String {
    let checked = gyre::config::check(&imported.text).unwrap_or_else(|problems| {
        let shown: Vec<String> = problems.iter().map(ToString::to_string).collect();
        panic!("{}:\n{}\n{}", path.display(), shown.join("\n"), imported.text);
    });
    import_support::rules(&checked.desired)
}

/// The files that come with the package, virtual servers as its authors wrote them.
fn every_sample_of_keepalived_is_imported() {
    let mut with_services = BTreeSet::new();
    for entry in std::fs::read_dir(KEEPALIVED).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let Some(name) = name.strip_prefix("keepalived.conf.") else { continue };
        let text = std::fs::read_to_string(&path).unwrap();
        let world = import_support::Folder(KEEPALIVED.into());
        let source = Source { path: Path::new(name), text: &text };
        let written = text.lines().filter(|line| line.starts_with("virtual_server ")).count();
        match import::keepalived(source, &world, &import_support::options()) {
            Ok(imported) => {
                let rules = judged(&path, &imported);
                let servers = rules.lines().filter(|line| line.starts_with("-a ")).count();
                assert!(imported.services >= written && servers > 0, "{name}: {rules}");
                let unknown = |one: &&Warning| one.what.contains("is unknown in");
                assert_eq!(imported.warnings.iter().find(unknown), None, "{name}");
                with_services.insert(name.to_owned());
            }
            Err(_) => assert_eq!(written, 0, "{name}"),
        }
    }
    assert!(with_services.len() >= 10, "{with_services:?}");
    for name in ["fwmark", "quorum", "virtual_server_group", "SMTP_CHECK", "status_code"] {
        assert!(with_services.contains(name), "{with_services:?}");
    }
}

/// As it is, and with each of its commented services.
fn the_sample_of_ldirectord_is_imported() {
    let stock = std::fs::read_to_string(LDIRECTORD).unwrap();
    let is_service = |line: &str| line.starts_with("#virtual") || line.starts_with("#\t");
    let all: String = stock
        .lines()
        .map(|line| if is_service(line) { &line[1..] } else { line })
        .map(|line| format!("{line}\n"))
        .collect();
    let world = import_support::Folder(std::env::temp_dir());
    let import = |text: &str| {
        let source = Source { path: Path::new("ldirectord.cf"), text };
        let imported = import::ldirectord(source, &world, &import_support::options()).unwrap();
        (judged(Path::new(LDIRECTORD), &imported), imported)
    };
    let first = "-A -t 192.168.6.240:80 -s rr\n-a -t 192.168.6.240:80 -r 192.168.6.2:80 -g -w 1\n\
                 -a -t 192.168.6.240:80 -r 192.168.6.3:80 -g -w 1\n\
                 -a -t 192.168.6.240:80 -r 192.168.6.6:80 -g -w 1\n";
    assert_eq!(import(&stock).0, first);
    let (rules, imported) = import(&all);
    assert!(rules.starts_with(first) && imported.services >= 18, "{rules}");
    let unknown = |one: &&Warning| one.what.contains("is unknown; left out");
    assert_eq!(imported.warnings.iter().find(unknown), None);
}

fn text(output: Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, errors) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{}: {out}{errors}", output.status);
    out
}

fn promtool(arguments: &[&str], input: &str) -> String {
    let mut child = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    text(child.wait_with_output().unwrap())
}

fn metrics(web: &Web) -> String {
    let (status, _, text) = web.get("/metrics", "");
    assert_eq!(status, 200);
    text
}

fn promtool_finds_nothing_to_complain_of() {
    let web = Web::start();
    promtool(&["check", "metrics"], &metrics(&web));
    let rules = examples().join("gyre.rules.yml");
    promtool(&["check", "rules", rules.to_str().unwrap()], "");
    let series = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/prometheus/health.yml");
    promtool(&["test", "rules", series.to_str().unwrap()], "");
    let config = examples().join("prometheus.yml");
    promtool(&["check", "config", "--syntax-only", config.to_str().unwrap()], "");
}

/// A running Prometheus that is killed with its owner.
struct Prometheus {
    child: Child,
    url: String,
    _directory: tempfile::TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Prometheus {
    fn start(web: &Web) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("prometheus.yml");
        let (rules, token) = (examples().join("gyre.rules.yml"), web.token_file.display());
        let text = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n\
             rule_files: [{}]\n\
             scrape_configs:\n\
             - job_name: gyre\n  \
               authorization: {{credentials_file: {token}}}\n  \
               static_configs: [{{targets: [\"{}\"]}}]\n",
            rules.display(),
            web.address,
        );
        std::fs::write(&config, text).unwrap();
        let address = free_address();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .args(["--log.level=error"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Prometheus { child, url: format!("http://{address}"), _directory: directory }
    }

    /// What the API answers; null while it does not.
    fn ask(&self, path: &str, parameter: &str) -> Value {
        let mut curl = Command::new("curl");
        curl.args(["-sG", &format!("{}{path}", self.url)]);
        if !parameter.is_empty() {
            curl.args(["--data-urlencode", parameter]);
        }
        serde_json::from_slice(&curl.output().unwrap().stdout).unwrap_or_default()
    }

    fn query(&self, expression: &str) -> Value {
        self.ask("/api/v1/query", &format!("query={expression}"))
    }

    fn wait_for(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !is_so(self) {
            assert!(start.elapsed() < Duration::from_secs(60), "waited in vain for {what}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

/// Every expression of the board, with its variables filled in.
fn board_expressions() -> Vec<String> {
    let text = std::fs::read_to_string(examples().join("grafana-dashboard.json")).unwrap();
    let board: Value = serde_json::from_str(&text).unwrap();
    let panels = board["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().cloned().unwrap_or_default());
    let filled = |target: Value| {
        let text = target["expr"].as_str().unwrap().to_owned();
        let text = text.replace("$__rate_interval", "1m");
        text.replace("$instance", ".*").replace("$service", ".*")
    };
    targets.map(filled).collect()
}

/// Words of an expression that are names of gyre's.
fn names(expression: &str) -> impl Iterator<Item = &str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    expression.split(move |c| !is_part(c)).filter(|word| word.starts_with("gyre_"))
}

fn prometheus_scrapes_evaluates_and_alerts() {
    let web = Web::start();
    let prometheus = Prometheus::start(&web);
    let count = |answer: &Value| answer["data"]["result"].as_array().map_or(0, Vec::len);
    prometheus.wait_for("a scrape", |p| count(&p.query("up{job=\"gyre\"} == 1")) == 1);
    // One that reads nothing but what node_exporter documents.
    let old = "sum by (local_address, proto) (node_ipvs_backend_connections_active)";
    prometheus.wait_for("node_ipvs", |p| count(&p.query(old)) == 1);

    let checked = |checks: Value| {
        web.gyre.call("service.edit", json!({"service": "web", "set": {"check": checks}}));
    };
    checked(json!([{"kind": "program", "command": ["/bin/true"], "interval_ms": 200}]));
    prometheus.wait_for("times of checks", |p| {
        count(&p.query("gyre_check_seconds_count{kind=\"program\"} > 1")) == 1
    });
    let known = metrics(&web);
    let samples: BTreeSet<&str> =
        known.lines().filter_map(|line| line.split(['{', ' ']).next()).collect();
    let expressions = board_expressions();
    assert!(expressions.len() > 20, "{}", expressions.len());
    let rules = std::fs::read_to_string(examples().join("gyre.rules.yml")).unwrap();
    for expression in expressions.iter().map(String::as_str).chain([&*rules]) {
        for name in names(expression) {
            assert!(samples.contains(name), "{name} is no metric of gyre's: {expression}");
        }
    }
    for expression in &expressions {
        let answer = prometheus.query(expression);
        assert_eq!(answer["status"], "success", "{expression}: {answer}");
    }
    let healthy = |p: &Prometheus| {
        let answer = p.ask("/api/v1/rules", "");
        let rules = answer["data"]["groups"][0]["rules"].as_array().cloned().unwrap_or_default();
        rules.len() > 10 && rules.iter().all(|rule| rule["health"] == "ok")
    };
    prometheus.wait_for("rules without errors", healthy);

    let firing = |p: &Prometheus, name: &str| {
        let answer = p.ask("/api/v1/alerts", "");
        let alerts = answer["data"]["alerts"].as_array().cloned().unwrap_or_default();
        alerts.iter().any(|a| a["labels"]["alertname"] == name && a["state"] == "firing")
    };
    web.gyre.workers[1].stalled.store(true, Ordering::Relaxed);
    prometheus.wait_for("an alert", |p| firing(p, "GyreWorkerStalled"));
    web.gyre.workers[1].stalled.store(false, Ordering::Relaxed);
    prometheus.wait_for("its end", |p| !firing(p, "GyreWorkerStalled"));
    let failing = json!([{"kind": "program", "command": ["/bin/false"], "interval_ms": 200,
                          "retries": 0}]);
    checked(failing);
    prometheus.wait_for("another alert", |p| firing(p, "GyreQuorumLost"));
    checked(Value::Null);
    prometheus.wait_for("its end", |p| !firing(p, "GyreQuorumLost"));
}

/// Runs an example against the socket.
fn example(web: &Web, program: &str, file: &str, arguments: &[&str]) -> String {
    let path = examples().join(file);
    let output = Command::new(program)
        .arg(path)
        .args(arguments)
        .env("GYRE_SOCKET", &web.gyre.path)
        .output()
        .unwrap();
    text(output)
}

fn the_python_client_calls_batches_and_listens() {
    let web = Web::start();
    let status = example(&web, "python3", "client.py", &["call", "status"]);
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["workers"], 2);
    let weight = r#"{"service":"web","server":"192.0.2.12:8080","weight":0}"#;
    let changed = example(&web, "python3", "client.py", &["call", "server.set_weight", weight]);
    assert!(changed.contains("weight of 192.0.2.12:8080 is 0"), "{changed}");
    let all = example(&web, "python3", "client.py", &["batch", "status", "workers.list"]);
    let all: Value = serde_json::from_str(&all).unwrap();
    assert_eq!(all.as_array().map(Vec::len), Some(2), "{all}");
    let refused = Command::new("python3")
        .arg(examples().join("client.py"))
        .args(["call", "service.remove", r#"{"service":"none"}"#])
        .env("GYRE_SOCKET", &web.gyre.path)
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("not_found"), "{refused:?}");
    let listener = Command::new("python3")
        .arg(examples().join("client.py"))
        .args(["events", "--count", "1", "config.changed"])
        .env("GYRE_SOCKET", &web.gyre.path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // It has subscribed at some time; then one of these changes is told.
    let start = Instant::now();
    let mut listener = listener;
    while listener.try_wait().unwrap().is_none() {
        assert!(start.elapsed() < Duration::from_secs(30), "no event");
        for weight in [1, 2] {
            let server = json!({"service": "web", "server": "192.0.2.12:8080", "weight": weight});
            web.gyre.call("server.set_weight", server);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(text(listener.wait_with_output().unwrap()).contains("server.set_weight"));
}

fn the_shell_client_calls_over_socket_and_http() {
    let web = Web::start();
    let status = example(&web, "sh", "client.sh", &["status"]);
    assert_eq!(serde_json::from_str::<Value>(&status).unwrap()["workers"], 2);
    let one = example(&web, "sh", "client.sh", &["service.list", r#"{"service":"web"}"#]);
    assert!(one.contains("192.0.2.11:8080"), "{one}");
    let over_http = Command::new("sh")
        .arg(examples().join("client.sh"))
        .arg("status")
        .env("GYRE_URL", format!("http://{}", web.address))
        .env("GYRE_TOKEN", TOKEN)
        .output()
        .unwrap();
    assert_eq!(serde_json::from_str::<Value>(&text(over_http)).unwrap()["workers"], 2);
    let refused = Command::new("sh")
        .arg(examples().join("client.sh"))
        .args(["service.remove", r#"{"service":"none"}"#])
        .env("GYRE_SOCKET", &web.gyre.path)
        .output()
        .unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("no service"), "{refused:?}");
}

fn root() -> Option<String> {
    let missing = lacks(&["python3"]);
    missing.or_else(|| (!nix::unistd::geteuid().is_root()).then(|| "needs root".into()))
}

fn another_user_gets_the_operating_systems_refusal() {
    use std::os::unix::fs::PermissionsExt;
    let web = Web::start();
    // The way there is open to all; the socket is not.
    let directory = web.gyre.path.parent().unwrap();
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).unwrap();
    let program = "import os, socket, sys\n\
                   os.setgroups([]); os.setgid(65534); os.setuid(65534)\n\
                   socket.socket(socket.AF_UNIX).connect(sys.argv[1])";
    let path = web.gyre.path.to_str().unwrap();
    let output = Command::new("python3").args(["-c", program, path]).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && errors.contains("Permission denied"), "{errors}");
    web.gyre.call("status", json!({}));
}

fn main() {
    let mut all = cases!(&[prometheus];
        promtool_finds_nothing_to_complain_of,
        prometheus_scrapes_evaluates_and_alerts,
    );
    all.extend(cases!(&[clients];
        the_python_client_calls_batches_and_listens,
        the_shell_client_calls_over_socket_and_http,
    ));
    all.extend(cases!(&[keepalived]; every_sample_of_keepalived_is_imported));
    all.extend(cases!(&[ldirectord]; the_sample_of_ldirectord_is_imported));
    all.extend(cases!(&[root]; another_user_gets_the_operating_systems_refusal));
    harness::run(all);
}
