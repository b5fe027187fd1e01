//! A laboratory of network namespaces: links, addresses, processes and threads inside, and their
//! end with the test, whatever ended it. It knows nothing of gyre.
//!
//! Names carry our pid, so that several test processes live side by side; what a killed one left
//! behind is swept by the next.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Names begin so; the pid follows.
const PREFIX: &str = "gyt";
const NETNS_DIR: &str = "/run/netns";

static LABS: AtomicU32 = AtomicU32::new(0);

/// Some namespaces and a directory, all gone when it is dropped.
pub struct Lab {
    prefix: String,
    dir: PathBuf,
    spaces: Vec<Namespace>,
}

/// One network namespace. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: Arc<str>,
}

/// A program of ours in the background; killed when dropped.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

/// What was missing to make namespaces; `None` when nothing is.
pub fn missing_privilege() -> Option<String> {
    if !nix::unistd::Uid::effective().is_root() {
        return Some("needs root: network namespaces and packet sockets".into());
    }
    let tools = [
        "ip",
        "nft",
        "ethtool",
        "nginx",
        "haproxy",
        "bird",
        "curl",
        "wrk",
        "ping",
        "iperf3",
        "dnsmasq",
        "dig",
        "ldirectord",
        "keepalived",
        "tshark",
    ];
    if let Some(tool) = tools.iter().find(|tool| !is_installed(tool)) {
        return Some(format!("needs `{tool}`: scripts/test installs it"));
    }
    let probe = format!("{PREFIX}{}p", std::process::id());
    let made = try_run(Command::new("ip").args(["netns", "add", &probe]));
    let _ = try_run(Command::new("ip").args(["netns", "del", &probe]));
    made.err().map(|error| format!("needs namespaces: {error}"))
}

fn is_installed(tool: &str) -> bool {
    ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].iter().any(|dir| Path::new(dir).join(tool).exists())
}

/// Runs to the end; output on success, what it said on failure.
pub fn try_run(command: &mut Command) -> Result<String, String> {
    let output = command.stdin(Stdio::null()).output().map_err(|e| format!("{command:?}: {e}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?}: {} {}", output.status, said.trim()))
}

/// Polls `probe` until it gives a value; panics with `what` after `seconds`.
pub fn wait_for<T>(what: &str, seconds: u64, mut probe: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(seconds);
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(Instant::now() < end, "waited {seconds} s for {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

impl Lab {
    /// An empty laboratory.
    pub fn new() -> Self {
        sweep_dead_labs();
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("{PREFIX}{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(&prefix);
        fs::create_dir_all(&dir).unwrap();
        Lab { prefix, dir, spaces: Vec::new() }
    }

    /// A directory of the laboratory's own.
    pub fn dir(&self, name: &str) -> PathBuf {
        let dir = self.dir.join(name);
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    /// A new namespace with loopback up, without address games of the kernel's.
    pub fn namespace(&mut self, role: &str) -> Namespace {
        let space = Namespace { name: format!("{}-{role}", self.prefix).into() };
        try_run(Command::new("ip").args(["netns", "add", &space.name])).unwrap();
        self.spaces.push(space.clone());
        space.ip("link set lo up");
        for family in ["all", "default"] {
            space.sysctl(&format!("net/ipv4/conf/{family}/rp_filter"), "0");
            space.sysctl(&format!("net/ipv6/conf/{family}/accept_dad"), "0");
            space.sysctl(&format!("net/ipv6/conf/{family}/accept_ra"), "0");
        }
        space
    }

    /// A namespace whose kernel says nothing by itself.
    pub fn silent_namespace(&mut self, role: &str) -> Namespace {
        let space = self.namespace(role);
        space.sysctl("net/ipv6/conf/all/disable_ipv6", "1");
        space.sysctl("net/ipv6/conf/default/disable_ipv6", "1");
        space
    }

    /// A namespace with a bridge, `br0`, that joins links made by `plug`.
    pub fn switch(&mut self) -> Namespace {
        self.named_switch("switch")
    }

    /// One more, under a name of its own.
    pub fn named_switch(&mut self, role: &str) -> Namespace {
        let switch = self.silent_namespace(role);
        switch.ip("link add br0 type bridge forward_delay 0 mcast_snooping 0");
        switch.ip("link set br0 up");
        switch
    }

    /// Joins interface `near.1` of `near.0` and `far.1` of `far.0` by a cable, both up, without
    /// checksum offload: packet sockets would see unfilled checksums.
    pub fn cable(&self, near: (&Namespace, &str), far: (&Namespace, &str)) {
        near.0
            .ip(&format!("link add {} type veth peer name {} netns {}", near.1, far.1, far.0.name));
        for (space, interface) in [near, far] {
            space.run("ethtool", &["-K", interface, "tx", "off"]);
            space.ip(&format!("link set dev {interface} up"));
        }
    }

    /// A cable from `space` to a bridge port of `switch`.
    pub fn plug(&self, space: &Namespace, interface: &str, switch: &Namespace) {
        static PORTS: AtomicU32 = AtomicU32::new(0);
        let port = format!("p{}", PORTS.fetch_add(1, Ordering::Relaxed));
        self.cable((space, interface), (switch, &port));
        switch.ip(&format!("link set dev {port} master br0"));
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for space in &self.spaces {
            let _ = try_run(Command::new("ip").args(["netns", "del", &space.name]));
        }
        if std::env::var_os("GYRE_KEEP_LAB").is_none() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// Removes namespaces and directories of test processes that no longer exist.
fn sweep_dead_labs() {
    let owner = |name: &str| -> Option<u32> {
        let rest = name.strip_prefix(PREFIX)?;
        let pid = &rest[..rest.find(|c: char| !c.is_ascii_digit())?];
        pid.parse().ok()
    };
    let dead =
        |name: &str| owner(name).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists());
    for (place, is_netns) in [(NETNS_DIR.into(), true), (std::env::temp_dir(), false)] {
        for entry in fs::read_dir::<PathBuf>(place).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            match dead(&name) {
                true if is_netns => drop(try_run(Command::new("ip").args(["netns", "del", &name]))),
                true => drop(fs::remove_dir_all(entry.path())),
                false => {}
            }
        }
    }
}

impl Namespace {
    /// The name under /run/netns.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `ip` with these blank-separated arguments, inside.
    pub fn ip(&self, arguments: &str) -> String {
        let mut command = Command::new("ip");
        command.args(["-n", &self.name]).args(arguments.split_whitespace());
        try_run(&mut command).unwrap()
    }

    /// Sets `/proc/sys/KEY`.
    pub fn sysctl(&self, key: &str, value: &str) {
        let path = Path::new("/proc/sys").join(key);
        self.enter(|| {
            fs::write(&path, value).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        });
    }

    /// A command that will run inside.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]).stdin(Stdio::null());
        command
    }

    /// Runs a program to its end; it must succeed.
    pub fn run(&self, program: &str, arguments: &[&str]) -> String {
        try_run(self.command(program).args(arguments)).unwrap()
    }

    /// Runs a program to its end, whatever it returns.
    pub fn output(&self, program: &str, arguments: &[&str]) -> Output {
        self.command(program).args(arguments).output().unwrap()
    }

    /// Starts a program with its output in `log`.
    pub fn start(&self, name: &str, command: &mut Command, log: &Path) -> Process {
        let file = File::options().create(true).append(true).open(log).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap_or_else(|e| panic!("{command:?}: {e}"));
        Process { name: name.into(), child, log: log.into() }
    }

    /// Runs `work` on a thread that lives in this namespace, and waits for it.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.move_thread();
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs `work` on a thread of its own in this namespace.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let space = self.clone();
        thread::spawn(move || {
            space.move_thread();
            work()
        })
    }

    fn move_thread(&self) {
        let file = File::open(Path::new(NETNS_DIR).join(&*self.name)).unwrap();
        setns(file, CloneFlags::CLONE_NEWNET).unwrap();
    }

    /// The MAC address of an interface.
    pub fn mac(&self, interface: &str) -> [u8; 6] {
        let text = self.ip(&format!("-br link show dev {interface}"));
        let mac = text.split_whitespace().find(|word| word.matches(':').count() == 5).unwrap();
        let mut bytes = [0; 6];
        for (byte, hex) in bytes.iter_mut().zip(mac.split(':')) {
            *byte = u8::from_str_radix(hex, 16).unwrap();
        }
        bytes
    }
}

impl Process {
    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for its end.
    pub fn wait(&mut self, seconds: u64) -> ExitStatus {
        let name = self.name.clone();
        wait_for(&format!("the end of {name}"), seconds, || self.ended())
    }

    /// All it has written so far.
    pub fn said(&self) -> String {
        let mut text = String::new();
        let _ = File::open(&self.log).and_then(|mut file| file.read_to_string(&mut text));
        text
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            let said = self.said();
            let lines: Vec<_> = said.lines().collect();
            let tail = &lines[lines.len().saturating_sub(40)..];
            eprintln!("---- {} said last ----\n{}\n", self.name, tail.join("\n"));
        }
        if self.ended().is_none() {
            let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
            let end = Instant::now() + Duration::from_secs(3);
            while Instant::now() < end && matches!(self.child.try_wait(), Ok(None)) {
                thread::sleep(Duration::from_millis(10));
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
