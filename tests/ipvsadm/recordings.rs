//! What ipvsadm 1.31 said to command lines on a kernel director, and what gyre says.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::director::{Answer, Director, shared};
use crate::exceptions::{Exceptions, fits};
use crate::traffic;

/// Seconds by which an entry's remaining time may differ: the recorded one counted on.
const EXPIRES_TOLERANCE_S: i64 = 2;

#[derive(Debug, Deserialize)]
struct Recording {
    name: String,
    #[serde(default)]
    base: Option<String>,
    #[serde(default)]
    commands: Vec<Step>,
    #[serde(default)]
    listings: Vec<Command>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Step {
    Command(Command),
    Traffic { traffic: String },
}

#[derive(Debug, Deserialize)]
struct Command {
    args: Vec<String>,
    #[serde(default)]
    stdin: String,
    exit: i32,
    stdout: String,
    stderr: String,
    rules_after: Option<String>,
}

impl Command {
    fn answer(&self) -> Answer {
        let (stdout, stderr) = (self.stdout.clone(), self.stderr.clone());
        Answer { exit: self.exit, stdout, stderr }
    }
}

/// One recording under way.
struct Run<'a> {
    director: &'a Director,
    exceptions: &'a Exceptions,
    name: &'a str,
    hidden: Vec<String>,
    differences: Vec<String>,
    compared: usize,
}

fn directory() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle/recordings");
    std::env::var_os("GYRE_ORACLE").map_or(own, PathBuf::from).join("cli")
}

fn recordings() -> Vec<Recording> {
    let directory = directory();
    let Ok(entries) = std::fs::read_dir(&directory) else {
        println!("{} is absent", directory.display());
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    let read = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).unwrap();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    paths.iter().map(read).collect()
}

/// The lines but for hidden ones.
fn visible(text: &str, hidden: &[String]) -> String {
    let is_hidden = |line: &&str| hidden.iter().any(|pattern| fits(pattern, line));
    let lines = text.split_inclusive('\n');
    lines.filter(|line| !is_hidden(&line.trim_end_matches('\n'))).collect()
}

/// A connection's line as its time left in seconds, and the rest.
fn connection(line: &str) -> (String, Option<i64>) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let time = words.get(1).and_then(|time| {
        let (minutes, seconds) = time.split_once(':')?;
        Some(minutes.parse::<i64>().ok()? * 60 + seconds.parse::<i64>().ok()?)
    });
    match time {
        Some(_) => (line.replacen(words[1], "*", 1), time),
        None => (line.to_owned(), None),
    }
}

/// Whether two connection lists are the same but for the order, which is that of a hash table, and
/// the time that passed.
fn same_connections(recorded: &str, own: &str) -> bool {
    let sorted = |text: &str| {
        let mut lines: Vec<_> = text.lines().map(connection).collect();
        lines.sort();
        lines
    };
    let (recorded, own) = (sorted(recorded), sorted(own));
    let near = |(recorded, own): (Option<i64>, Option<i64>)| {
        recorded.zip(own).map_or(recorded == own, |(r, o)| (r - o).abs() <= EXPIRES_TOLERANCE_S)
    };
    recorded.len() == own.len()
        && recorded.iter().zip(&own).all(|(r, o)| r.0 == o.0 && near((r.1, o.1)))
}

/// Services in blocks, without an order among them: without sorting that is the kernel's hash
/// table's. Servers keep theirs.
fn blocks(text: &str) -> Vec<String> {
    let mut blocks: Vec<String> = Vec::new();
    for line in text.split_inclusive('\n') {
        match blocks.last_mut() {
            Some(block) if line.starts_with("  ->") => block.push_str(line),
            _ => blocks.push(line.to_owned()),
        }
    }
    blocks.sort();
    blocks
}

fn is_same(args: &[String], recorded: &Answer, own: &Answer) -> bool {
    let has = |word: &str| args.iter().any(|arg| arg == word);
    let rest = (recorded.exit, &recorded.stderr) == (own.exit, &own.stderr);
    let is_connections = recorded.stdout.starts_with("IPVS connection entries");
    rest && match () {
        () if recorded.stdout == own.stdout => true,
        () if is_connections => same_connections(&recorded.stdout, &own.stdout),
        () if has("--nosort") => blocks(&recorded.stdout) == blocks(&own.stdout),
        () => false,
    }
}

impl Run<'_> {
    fn command(&mut self, command: &Command) {
        let args: Vec<&str> = command.args.iter().map(String::as_str).collect();
        let mut own = self.director.run_with(&args, &command.stdin);
        if command.stdout.starts_with("(usage text") {
            own.stdout = own.stdout.contains("Usage:").then(|| command.stdout.clone()).unwrap();
        }
        let mut recorded = command.answer();
        recorded.stdout = visible(&recorded.stdout, &self.hidden);
        self.compared += 1;
        let line = args.join(" ");
        let exception = self.exceptions.find(self.name, &line);
        let excused = exception.is_some_and(|e| e.excuses(&recorded, &own, &mut self.hidden));
        if !excused && !is_same(&command.args, &recorded, &own) {
            let name = self.name;
            self.differences.push(format!(
                "{name}: ipvsadm {line}\n--- recorded\n{recorded:#?}\n--- gyre\n{own:#?}"
            ));
        }
    }

    /// The rules after a command, where they are known.
    fn rules(&mut self, command: &Command, wanted: &str) {
        let (own, wanted) = (self.director.rules(), visible(wanted, &self.hidden));
        if own != wanted {
            let (name, args) = (self.name, command.args.join(" "));
            self.differences.push(format!(
                "{name}: after ipvsadm {args}\n--- recorded rules\n{wanted}\n--- gyre's\n{own}"
            ));
        }
    }

    /// Commands one after another on one director.
    fn sequence(&mut self, recording: &Recording) {
        let mut rules = String::new();
        for step in &recording.commands {
            match step {
                Step::Traffic { traffic } => traffic::run(self.director, traffic),
                Step::Command(command) => {
                    self.command(command);
                    if let Some(after) = &command.rules_after {
                        rules.clone_from(after);
                    }
                    self.rules(command, &rules);
                }
            }
        }
    }

    /// Commands each from the same rules.
    fn matrix(&mut self, recording: &Recording, base: &str) {
        self.director.reset(base);
        for step in &recording.commands {
            let Step::Command(command) = step else { continue };
            self.command(command);
            let after = command.rules_after.as_deref().unwrap_or(base);
            self.rules(command, after);
            if after != base {
                self.director.reset(base);
            }
            self.hidden.clear();
        }
    }
}

#[test]
fn what_ipvsadm_says_is_what_was_recorded() {
    let exceptions = Exceptions::load();
    let (mut differences, mut compared) = (Vec::new(), 0);
    for recording in recordings() {
        // As each was recorded: on a director that has nothing yet.
        let director = Director::start();
        let mut run = Run {
            director: &director,
            exceptions: &exceptions,
            name: &recording.name,
            hidden: Vec::new(),
            differences: Vec::new(),
            compared: 0,
        };
        match &recording.base {
            Some(base) => run.matrix(&recording, base),
            None => run.sequence(&recording),
        }
        for listing in &recording.listings {
            run.command(listing);
        }
        println!("{}: {} answers compared", recording.name, run.compared);
        compared += run.compared;
        differences.append(&mut run.differences);
    }
    if std::env::var_os("GYRE_ORACLE").is_none() {
        assert!(compared > 700, "only {compared} answers were compared");
        differences.extend(exceptions.unused());
    }
    let count = differences.len();
    differences.truncate(40);
    assert!(count == 0, "{count} differences\n{}", differences.join("\n\n"));
}

/// What `-S` printed on a kernel director, by number and by name, makes the same rules here.
#[test]
fn rules_of_a_kernel_director_are_restored_and_saved_again() {
    let director = shared();
    // What gyre lacks is refused line by line, and has its exceptions.
    let lacks = ["--sctp", "--pe ", "-b flag", "-b \n", "[::]:", "-w 65536", ":0 -m", "127.0.0.1"];
    let lacks_named = ["localhost", "10.1.0.1:90 ", "10.1.0.1:sip"];
    let mut restored = 0;
    for recording in recordings() {
        let saved = |words: &[&str]| {
            let listing = recording.listings.iter().find(|listing| listing.args == words);
            let lines = listing?.stdout.split_inclusive('\n');
            let has = |line: &&str| {
                !lacks.iter().chain(&lacks_named).any(|lacking| line.contains(lacking))
            };
            Some(lines.filter(has).collect::<String>())
        };
        let Some(numeric) = saved(&["-Sn"]).filter(|rules| !rules.is_empty()) else { continue };
        director.reset(&numeric);
        assert_eq!(director.rules(), numeric, "{}", recording.name);
        if let Some(named) = saved(&["-S"]) {
            director.reset(&named);
            assert_eq!(director.rules(), numeric, "{}", recording.name);
            assert_eq!(director.run(&["-S"]).stdout, named, "{}", recording.name);
        }
        restored += 1;
    }
    if std::env::var_os("GYRE_ORACLE").is_none() {
        assert!(restored >= 6, "only {restored} tables were restored");
    }
}

#[test]
fn a_difference_is_found() {
    let answer = |stdout: &str| Answer { exit: 0, stdout: stdout.into(), stderr: String::new() };
    let args = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let one = "IPVS connection entries\nTCP 04:55  ASSURED  a b c\nTCP 00:55  NONE  d e f\n";
    let other = "IPVS connection entries\nTCP 00:54  NONE  d e f\nTCP 04:56  ASSURED  a b c\n";
    let late = one.replace("04:55", "04:52");
    let same =
        |line: &str, one: &str, other: &str| is_same(&args(line), &answer(one), &answer(other));
    assert!(same("-Lcn", one, other) && !same("-Lcn", one, &late));
    let (one, other) = ("TCP a\n  -> x\n  -> y\nUDP b\n", "UDP b\nTCP a\n  -> x\n  -> y\n");
    assert!(same("-Ln --nosort", one, other) && !same("-Ln", one, other));
    let swapped = "UDP b\nTCP a\n  -> y\n  -> x\n";
    assert!(!same("-Ln --nosort", one, swapped));
    assert!(fits("-a*-w 65536", "-a -t x -w 65536") && !fits("-a*", "-d -a"));
}
