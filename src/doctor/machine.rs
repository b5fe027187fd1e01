//! What of a machine can be seen: files below a root, what read-only programs print, and who
//! answers on its links. Tests bring a tree and answers of their own.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::asking::{self, Answer};

/// What a program printed, if it ran and succeeded.
type Ask = Box<dyn Fn(&[&str]) -> Option<String>>;

/// Who on an interface's link has any of some addresses, or why that cannot be asked.
type WhoHas = Box<dyn Fn(&str, &[IpAddr]) -> Result<Vec<Answer>, String>>;

/// See the module.
pub struct Machine {
    root: PathBuf,
    ask: Ask,
    who_has: WhoHas,
}

impl Machine {
    /// This one.
    pub fn this() -> Self {
        let who_has = |interface: &str, addresses: &[IpAddr]| {
            asking::ask(interface, addresses).map_err(|error| match error.kind() {
                io::ErrorKind::PermissionDenied => "needs root (CAP_NET_RAW)".into(),
                _ => error.to_string(),
            })
        };
        Machine { root: "/".into(), ask: Box::new(run), who_has: Box::new(who_has) }
    }

    /// One made of the tree below `root`, where programs print what `ask` says, without a network.
    pub fn made_of(root: &Path, ask: impl Fn(&[&str]) -> Option<String> + 'static) -> Self {
        let who_has = |_: &str, _: &[IpAddr]| Err("there is no network".to_owned());
        Machine { root: root.to_owned(), ask: Box::new(ask), who_has: Box::new(who_has) }
    }

    /// The same, where the machines on a link answer like this.
    pub fn answering(
        self,
        who_has: impl Fn(&str, &[IpAddr]) -> Result<Vec<Answer>, String> + 'static,
    ) -> Self {
        Machine { who_has: Box::new(who_has), ..self }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// A file's text without blanks around it.
    pub fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.path(path)).ok().map(|text| text.trim().to_owned())
    }

    /// A file's number.
    pub fn number(&self, path: &str) -> Option<i64> {
        self.read(path)?.parse().ok()
    }

    /// Whether there is such a file or directory.
    pub fn has(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// Names in a directory, sorted; none where there is no such directory.
    pub fn list(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(path)).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// The last part of what a link leads to.
    pub fn link(&self, path: &str) -> Option<String> {
        let target = fs::read_link(self.path(path)).ok()?;
        Some(target.file_name()?.to_string_lossy().into_owned())
    }

    /// A list of cores such as `2-5,8`.
    pub fn cores(&self, path: &str) -> BTreeSet<u32> {
        cores(&self.read(path).unwrap_or_default())
    }

    /// Who on the link of `interface` has any of `addresses`; this machine is left out.
    pub fn who_has(&self, interface: &str, addresses: &[IpAddr]) -> Result<Vec<Answer>, String> {
        (self.who_has)(interface, addresses)
    }

    /// What a program prints.
    pub fn ask(&self, words: &[&str]) -> Option<String> {
        (self.ask)(words)
    }
}

fn run(words: &[&str]) -> Option<String> {
    let (program, arguments) = words.split_first()?;
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .env("LC_ALL", "C")
        .output()
        .ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn cores(text: &str) -> BTreeSet<u32> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
    };
    text.split(',').filter_map(range).flatten().collect()
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A machine that consists of these files and answers; a value that begins with `->` is a
    /// link.
    pub fn machine(
        files: &[(&str, &str)],
        answers: &'static [(&'static str, &'static str)],
    ) -> (Machine, tempfile::TempDir) {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            match text.strip_prefix("->") {
                Some(target) => std::os::unix::fs::symlink(target, path).unwrap(),
                None => fs::write(path, text).unwrap(),
            }
        }
        let ask = |words: &[&str]| {
            let words = words.join(" ");
            answers.iter().find(|(command, _)| *command == words).map(|(_, said)| said.to_string())
        };
        (Machine::made_of(root.path(), ask), root)
    }

    #[test]
    fn lists_of_cores_are_read_as_the_kernel_writes_them() {
        assert_eq!(cores("2-4,8\n"), [2, 3, 4, 8].into());
        assert_eq!(cores(""), BTreeSet::new());
        assert_eq!(cores("(null)"), BTreeSet::new());
    }

    #[test]
    fn this_machine_can_be_looked_at() {
        let machine = Machine::this();
        assert!(machine.has("/proc/self/status"));
        assert_eq!(machine.ask(&["echo", "-n", "a"]).as_deref(), Some("a"));
        assert_eq!(machine.ask(&["/nonexistent/program"]), None);
        assert_eq!(machine.ask(&["false"]), None);
    }
}
