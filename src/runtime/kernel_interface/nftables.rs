//! Puts rules into the kernel with the stock `nft` program, and takes dead instances' rules out.
//!
//! A table's name says whose it is: control socket, pid namespace, process and its start time. So
//! a table left by SIGKILL is told from one in use, and a recycled pid is not taken for its owner.

use std::fs;
use std::hash::Hasher;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use siphasher::sip::SipHasher13;

use super::rules::delete_table;

/// Where `nft` is looked for: `su` and some services leave the second out of PATH.
const PROGRAMS: [&str; 2] = ["nft", "/usr/sbin/nft"];

/// What all our tables' names start with.
const PREFIX: &str = "gyre_";

/// Why rules could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The program is not installed.
    #[error(
        "the program `nft` was not found, and it keeps the kernel from answering for gyre's \
         services; install it with `apt-get install nftables`"
    )]
    Missing,
    /// It could not be run.
    #[error("the program `nft` cannot be run: {0}")]
    Run(#[from] io::Error),
    /// The kernel or nft refused.
    #[error(
        "nftables rules were refused: {0}; they need CAP_NET_ADMIN and a kernel with nf_tables"
    )]
    Refused(String),
}

/// Runs one transaction: all of it or nothing.
pub fn apply(transaction: &str) -> Result<(), NftError> {
    nft(&["-f", "-"], transaction).map(drop)
}

fn nft(arguments: &[&str], input: &str) -> Result<String, NftError> {
    let spawn = |program: &str| {
        Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
    };
    let mut started = Err(io::Error::from(io::ErrorKind::NotFound));
    for program in PROGRAMS {
        started = spawn(program);
        match &started {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            _ => break,
        }
    }
    let mut child = started.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => NftError::Missing,
        _ => NftError::Run(error),
    })?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ended early says why on stderr, which is read below.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let first = errors.lines().next().unwrap_or("no reason given");
    Err(NftError::Refused(first.to_owned()))
}

/// One gyre process, as its table's name tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Hash of the control socket's path: no two live instances have the same.
    socket: u32,
    /// Inode of the pid namespace in which `pid` means something.
    pid_namespace: u64,
    pid: u32,
    /// Start time of the process in clock ticks since boot.
    started: u64,
}

impl Instance {
    /// This process.
    pub fn this(control_socket: &Path) -> Self {
        let mut hasher = SipHasher13::new();
        hasher.write(control_socket.as_os_str().as_encoded_bytes());
        let pid = std::process::id();
        Instance {
            socket: hasher.finish() as u32,
            pid_namespace: pid_namespace().unwrap_or(0),
            pid,
            started: start_time(pid).unwrap_or(0),
        }
    }

    /// A name that stays the same over restarts and is no other live instance's on this machine.
    pub fn lasting_name(&self) -> String {
        format!("gyre-{:08x}", self.socket)
    }

    /// The name of its table.
    pub fn table(&self) -> String {
        format!("{PREFIX}{:08x}_{}_{}_{}", self.socket, self.pid_namespace, self.pid, self.started)
    }

    fn parse(table: &str) -> Option<Instance> {
        let mut fields = table.strip_prefix(PREFIX)?.split('_');
        let instance = Instance {
            socket: u32::from_str_radix(fields.next()?, 16).ok()?,
            pid_namespace: fields.next()?.parse().ok()?,
            pid: fields.next()?.parse().ok()?,
            started: fields.next()?.parse().ok()?,
        };
        fields.next().is_none().then_some(instance)
    }

    /// Whether `other` is gone for sure: it had our control socket, which is ours alone by now, or
    /// its process is no more, where we can tell.
    fn outlives(&self, other: &Instance, started: impl Fn(u32) -> Option<u64>) -> bool {
        if self == other {
            return false;
        }
        let judged = self.pid_namespace == other.pid_namespace && self.pid_namespace != 0;
        self.socket == other.socket || judged && started(other.pid) != Some(other.started)
    }
}

/// Removes the tables of instances that ended without removing them; gives their names. Must come
/// after the control socket was found not to be in use.
pub fn remove_stale(this: &Instance) -> Result<Vec<String>, NftError> {
    let listing = nft(&["list", "tables", "netdev"], "")?;
    let stale: Vec<String> = listing
        .lines()
        .filter_map(|line| line.strip_prefix("table netdev "))
        .map(str::trim)
        .filter(|table| {
            Instance::parse(table).is_some_and(|other| this.outlives(&other, start_time))
        })
        .map(str::to_owned)
        .collect();
    for table in &stale {
        apply(&delete_table(table))?;
    }
    Ok(stale)
}

fn pid_namespace() -> Option<u64> {
    let link = fs::read_link("/proc/self/ns/pid").ok()?;
    link.to_str()?.strip_prefix("pid:[")?.strip_suffix(']')?.parse().ok()
}

/// Field 22 of `/proc/<pid>/stat`, counted behind the name, which may hold blanks.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_names_its_process() {
        let this = Instance::this(Path::new("/run/gyre/a.sock"));
        assert_eq!(this.pid, std::process::id());
        assert!(this.started > 0);
        assert_eq!(Instance::parse(&this.table()), Some(this));
        for foreign in ["gyre_", "gyre_x_1_2_3", "filter", "gyre_1_2_3_4_5"] {
            assert_eq!(Instance::parse(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn only_the_dead_are_outlived() {
        let this = Instance { socket: 1, pid_namespace: 9, pid: 100, started: 5_000 };
        let started = |pid| (pid == 200).then_some(4_000);
        let outlives = |other: Instance| this.outlives(&other, started);
        let other = Instance { socket: 2, pid_namespace: 9, pid: 200, started: 4_000 };
        assert!(!outlives(this.clone()), "ourselves");
        assert!(!outlives(other.clone()), "alive");
        assert!(outlives(Instance { started: 3_000, ..other.clone() }), "a recycled pid");
        assert!(outlives(Instance { pid: 300, ..other.clone() }), "no such process");
        assert!(!outlives(Instance { pid: 300, pid_namespace: 8, ..other.clone() }), "unknown");
        assert!(outlives(Instance { socket: 1, ..other }), "had our socket");
    }
}
