//! The gyre under test: its configuration, its process, its control socket.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::lab::{Lab, Namespace, Process, wait_for};

/// A gyre process in a namespace.
pub struct Director {
    pub space: Namespace,
    dir: PathBuf,
    process: Process,
}

/// One `[[port]]`.
pub struct Port {
    pub name: &'static str,
    /// DPDK devargs.
    pub device: String,
    /// `tap`, `shared` or `none`.
    pub kernel: &'static str,
    pub addresses: Vec<String>,
    /// Further lines, as TOML.
    pub more: String,
}

/// A configuration, made of parts that tests vary.
pub struct Config {
    pub ports: Vec<Port>,
    pub workers: usize,
    /// Name, port and addresses of pools, as TOML under `[local_addresses]`.
    pub pools: String,
    /// `[[service]]` tables, as TOML.
    pub services: String,
}

impl Config {
    pub fn text(&self, dir: &Path) -> String {
        let mut text = format!(
            "[runtime]\nworkers = {}\nidle = \"adaptive\"\ncontrol_socket = {:?}\n\
             connections = 50_000\n",
            self.workers,
            dir.join("gyre.sock")
        );
        for port in &self.ports {
            text += &format!(
                "\n[[port]]\nname = {:?}\ndevice = {:?}\nkernel = {:?}\naddresses = {:?}\n{}\n",
                port.name, port.device, port.kernel, port.addresses, port.more
            );
        }
        format!("{text}\n[local_addresses]\n{}\n\n{}", self.pools, self.services)
    }
}

/// The binary that cargo built for this test.
pub fn gyre() -> &'static str {
    env!("CARGO_BIN_EXE_gyre")
}

impl Director {
    /// Starts gyre in `space` and waits until its workers forward.
    pub fn start(lab: &Lab, space: &Namespace, config: &Config) -> Director {
        let dir = lab.dir("director");
        fs::write(dir.join("gyre.toml"), config.text(&dir)).unwrap();
        let process = Self::launch(space, &dir);
        let mut director = Director { space: space.clone(), dir, process };
        director.wait_until_ready();
        director
    }

    fn launch(space: &Namespace, dir: &Path) -> Process {
        let mut command = space.command(gyre());
        command.arg("run").arg("-c").arg(dir.join("gyre.toml")).env("RUST_BACKTRACE", "1");
        space.start("gyre", &mut command, &dir.join("gyre.log"))
    }

    /// Starts it again after it ended.
    pub fn restart(&mut self) {
        self.process = Self::launch(&self.space, &self.dir);
        self.wait_until_ready();
    }

    fn wait_until_ready(&mut self) {
        wait_for("gyre to be ready", 20, || {
            if let Some(status) = self.process.ended() {
                panic!("gyre ended with {status} instead of starting:\n{}", self.process.said());
            }
            self.try_call("status", json!({})).ok()
        });
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Its log so far.
    pub fn said(&self) -> String {
        self.process.said()
    }

    /// Where its files lie.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Calls a method of the control socket.
    pub fn try_call(&self, method: &str, params: Value) -> Result<Value, String> {
        let request = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let ask = || -> std::io::Result<String> {
            let mut stream = UnixStream::connect(self.dir.join("gyre.sock"))?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            writeln!(stream, "{request}")?;
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line)?;
            Ok(line)
        };
        let line = ask().map_err(|error| error.to_string())?;
        let reply: Value = serde_json::from_str(&line).map_err(|e| format!("{e}: {line}"))?;
        match reply.get("result") {
            Some(result) => Ok(result.clone()),
            None => Err(reply["error"].to_string()),
        }
    }

    /// Calls a method that must succeed.
    pub fn call(&self, method: &str, params: Value) -> Value {
        self.try_call(method, params).unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    /// Runs the command line against it.
    pub fn cli(&self, arguments: &[&str]) -> Output {
        let socket = self.dir.join("gyre.sock");
        Command::new(gyre()).args(arguments).arg("--socket").arg(socket).output().unwrap()
    }

    fn counts(&self, member: &str) -> BTreeMap<String, u64> {
        let stats = self.call("stats", json!({}));
        let rows = stats[member].as_array().unwrap_or_else(|| panic!("no {member}: {stats}"));
        let entry =
            |row: &Value| (row["name"].as_str().unwrap().into(), row["count"].as_u64().unwrap());
        rows.iter().map(entry).filter(|(_, count)| *count > 0).collect()
    }

    /// Dropped frames by reason; reasons at 0 left out.
    pub fn drops(&self) -> BTreeMap<String, u64> {
        self.counts("drops")
    }

    /// Drops by one reason.
    pub fn dropped(&self, reason: &str) -> u64 {
        self.drops().get(reason).copied().unwrap_or(0)
    }

    /// Frames handed between workers, by cause.
    pub fn hand_offs(&self) -> BTreeMap<String, u64> {
        self.counts("hand_offs")
    }

    /// Frames that the director answered with, by kind.
    pub fn replies(&self) -> BTreeMap<String, u64> {
        self.counts("replies")
    }

    /// What helpers did, by event; events at 0 left out.
    pub fn helpers(&self) -> BTreeMap<String, u64> {
        self.counts("helpers")
    }

    /// Live flows.
    pub fn flows(&self) -> u64 {
        self.call("status", json!({}))["flows"].as_u64().unwrap()
    }

    /// All counts in one line, for messages.
    fn summary(&self) -> String {
        let workers = self.try_call("workers.list", json!({}));
        let (drops, replies, hand_offs) = (self.drops(), self.replies(), self.hand_offs());
        format!("drops {drops:?}\nreplies {replies:?}\nhand-offs {hand_offs:?}\n{workers:?}")
    }

    /// Stops it as systemd would and waits; its exit code.
    pub fn stop(&mut self) -> Option<i32> {
        self.process.signal(Signal::SIGTERM);
        self.process.wait(10).code()
    }
}

impl Drop for Director {
    fn drop(&mut self) {
        if std::thread::panicking() && self.try_call("status", json!({})).is_ok() {
            eprintln!("---- gyre counted ----\n{}\n", self.summary());
        }
    }
}
