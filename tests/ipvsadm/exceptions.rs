//! Recorded answers that gyre gives otherwise, each with the reason. One that excuses nothing any
//! more fails the test.

use std::cell::Cell;
use std::path::Path;

use serde::Deserialize;

use crate::director::Answer;

/// An entry of `exceptions.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exception {
    /// The recording's name; `*` stands for anything.
    recording: String,
    /// The arguments, by blanks; likewise.
    args: String,
    /// gyre's exit code; the recorded one unless given.
    exit: Option<i32>,
    /// gyre's message; the recorded one unless given.
    stderr: Option<String>,
    /// gyre's output; the recorded one unless given.
    stdout: Option<String>,
    /// Lines of later outputs that follow from this and are not looked for.
    #[serde(default)]
    hides: Vec<String>,
    #[allow(dead_code, reason = "for people")]
    why: String,
    #[serde(skip)]
    used: Cell<bool>,
}

/// All of them, and what one recording's exceptions hide so far.
pub struct Exceptions {
    all: Vec<Exception>,
}

#[derive(Deserialize)]
struct File {
    exception: Vec<Exception>,
}

/// Whether `text` fits `pattern`, in which `*` stands for anything.
pub fn fits(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, rest)) => text.strip_prefix(start).is_some_and(|text| {
            (0..=text.len())
                .filter(|at| text.is_char_boundary(*at))
                .any(|at| fits(rest, &text[at..]))
        }),
    }
}

impl Exceptions {
    pub fn load() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ipvsadm/exceptions.toml");
        let file: File = toml_edit::de::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        Exceptions { all: file.exception }
    }

    /// The one for a command, if it is excused.
    pub fn find(&self, recording: &str, args: &str) -> Option<&Exception> {
        self.all.iter().find(|e| fits(&e.recording, recording) && fits(&e.args, args))
    }

    /// Those that excused nothing.
    pub fn unused(&self) -> Vec<String> {
        let unused = self.all.iter().filter(|exception| !exception.used.get());
        unused.map(|e| format!("{}: `{}` needs no excuse any more", e.recording, e.args)).collect()
    }
}

impl Exception {
    /// Whether it excuses `own` where `recorded` was recorded; then it may hide lines from here on.
    pub fn excuses(&self, recorded: &Answer, own: &Answer, hidden: &mut Vec<String>) -> bool {
        let fits_or = |pattern: &Option<String>, recorded: &str, own: &str| match pattern.as_deref()
        {
            Some(pattern) => fits(pattern, own),
            None => recorded == own,
        };
        let excused = own.exit == self.exit.unwrap_or(recorded.exit)
            && fits_or(&self.stderr, &recorded.stderr, &own.stderr)
            && fits_or(&self.stdout, &recorded.stdout, &own.stdout);
        if excused && recorded != own {
            self.used.set(true);
            hidden.extend(self.hides.iter().cloned());
        }
        excused
    }
}
