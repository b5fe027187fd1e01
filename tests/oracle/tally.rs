//! The count of what was compared, and the exceptions: known differences, each with its reason.
//!
//! `exceptions.toml` is the only place in which a difference may be excused. An exception that
//! excuses nothing any more fails the test. With `GYRE_ORACLE_EXCUSED` set, what is excused is
//! shown.

use std::fmt::Debug;
use std::path::Path;

use serde::Deserialize;

/// Differences that are shown in full.
const SHOWN_MAX: usize = 200;

/// How ours differed from the recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Aspect {
    /// An answer: a scheduler's pick, a state, a counter.
    Answer,
    /// Frames sent.
    Frames,
    /// Frames of a datagram in fragments, right but at another moment than the kernel's.
    Moment,
    /// The connection table.
    Table,
    /// Counters of servers.
    Counters,
}

/// One difference of one step.
#[derive(Clone, Debug)]
pub struct Difference {
    pub aspect: Aspect,
    pub text: String,
}

impl Difference {
    pub fn new(aspect: Aspect, text: String) -> Self {
        Difference { aspect, text }
    }
}

/// An entry of `exceptions.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Exception {
    /// `schedulers`, `states` or `packets`.
    kind: String,
    /// Scenario names; `*` stands for anything.
    #[serde(default = "anything")]
    scenario: String,
    /// What of a step's place it is about; `*` stands for anything.
    #[serde(default = "anything")]
    step: String,
    /// Scenario names that it is not about, though they fit.
    #[serde(default)]
    but_not: String,
    /// Which aspects may differ.
    #[serde(default)]
    differs: Vec<Aspect>,
    /// What the difference must be, as it is told; `*` stands for anything.
    #[serde(default = "anything")]
    text: String,
    /// Instead of `differs`: what the scenario needs and gyre lacks.
    needs: Option<String>,
    /// The reason, for people.
    why: String,
    #[serde(skip)]
    met: bool,
    #[serde(skip)]
    used: bool,
}

impl Exception {
    fn is_about(&self, scenario: &str) -> bool {
        fits(&self.scenario, scenario) && !fits(&self.but_not, scenario)
    }
}

fn anything() -> String {
    "*".into()
}

#[derive(Deserialize)]
struct Exceptions {
    #[serde(default)]
    exception: Vec<Exception>,
}

/// Whether `text` is what `pattern` describes, where `*` stands for any run of characters.
fn fits(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(head) else { return false };
    loop {
        if fits(rest, text) {
            return true;
        }
        let mut chars = text.chars();
        if chars.next().is_none() {
            return false;
        }
        text = chars.as_str();
    }
}

/// What one kind of recordings came to.
#[derive(Debug)]
pub struct Tally {
    kind: &'static str,
    scenario: String,
    scenarios: usize,
    steps: usize,
    matched: usize,
    excepted: usize,
    exceptions: Vec<Exception>,
    mismatches: Vec<String>,
}

impl Tally {
    /// Nothing compared yet.
    pub fn new(kind: &'static str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oracle/exceptions.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        let all: Exceptions = toml_edit::de::from_str(&text).unwrap();
        assert!(all.exception.iter().all(|exception| !exception.why.is_empty()), "why?");
        let exceptions = all.exception.into_iter().filter(|e| e.kind == kind).collect();
        Tally {
            kind,
            scenario: String::new(),
            scenarios: 0,
            steps: 0,
            matched: 0,
            excepted: 0,
            exceptions,
            mismatches: Vec::new(),
        }
    }

    /// How many of the steps matched.
    pub fn matched_of(&self) -> (usize, usize) {
        (self.matched, self.steps)
    }

    /// What differs without an exception.
    pub fn unexcused(&self) -> &[String] {
        &self.mismatches
    }

    /// The steps that follow are of this scenario.
    pub fn begin(&mut self, scenario: &str) {
        self.scenario = scenario.into();
        self.scenarios += 1;
    }

    /// The scenario, of so many steps, needs what gyre lacks.
    pub fn cannot(&mut self, needs: &str, steps: usize) {
        let scenario = &self.scenario;
        let mut excused = false;
        for exception in self.exceptions.iter_mut().filter(|e| e.is_about(scenario)) {
            exception.met = true;
            if exception.needs.as_deref() == Some(needs) {
                exception.used = true;
                excused = true;
            }
        }
        self.steps += steps;
        if excused {
            self.excepted += steps;
        } else {
            self.mismatches.push(format!("{scenario}: needs what there is not: {needs}"));
        }
    }

    /// Notes one compared answer.
    pub fn compare<T: PartialEq + Debug>(&mut self, place: &str, ours: T, recorded: T) {
        let text = format!("recorded {recorded:?}, gyre {ours:?}");
        let differs = (ours != recorded).then(|| Difference::new(Aspect::Answer, text));
        self.step(place, differs.into_iter().collect());
    }

    /// Notes one compared step: it matches when nothing differs, is excepted when all that
    /// differs is excused.
    pub fn step(&mut self, place: &str, differences: Vec<Difference>) {
        self.steps += 1;
        let scenario = self.scenario.clone();
        let mut excused = vec![false; differences.len()];
        let meant = |e: &&mut Exception| e.is_about(&scenario) && fits(&e.step, place);
        for exception in self.exceptions.iter_mut().filter(meant) {
            exception.met = true;
            for (difference, excused) in differences.iter().zip(&mut excused) {
                let differs = exception.differs.contains(&difference.aspect);
                if differs && fits(&exception.text, &difference.text) {
                    exception.used = true;
                    *excused = true;
                }
            }
        }
        if std::env::var_os("GYRE_ORACLE_EXCUSED").is_some() {
            for (Difference { aspect, text }, _) in
                differences.iter().zip(&excused).filter(|(_, excused)| **excused)
            {
                println!("  excused: {scenario}: {place}: {aspect:?}: {text}");
            }
        }
        if differences.is_empty() {
            self.matched += 1;
        } else if excused.iter().all(|excused| *excused) {
            self.excepted += 1;
        } else {
            for (difference, _) in
                differences.iter().zip(&excused).filter(|(_, excused)| !**excused)
            {
                let Difference { aspect, text } = difference;
                self.mismatches.push(format!("{scenario}: {place}: {aspect:?}: {text}"));
            }
        }
    }

    /// Prints the line of this kind and fails on what no exception excuses, and on exceptions
    /// that excuse nothing. A kind of which others recorded nothing is not an error.
    pub fn report(self) {
        let Tally { kind, scenarios, steps, matched, excepted, .. } = self;
        println!(
            "oracle {kind}: scenarios {scenarios}, steps {steps}, matched {matched}, \
             excepted {excepted}"
        );
        for exception in self.exceptions.iter().filter(|exception| exception.used) {
            println!("  excepted in {kind} {}: {}", exception.scenario, exception.why);
        }
        for mismatch in self.mismatches.iter().take(SHOWN_MAX) {
            println!("  {mismatch}");
        }
        let own = std::env::var_os("GYRE_ORACLE").is_none();
        assert!(!own || steps > 0, "no {kind} recording was found");
        assert!(
            self.mismatches.is_empty(),
            "{} steps of {kind} differ without an exception; the first are above",
            self.mismatches.len()
        );
        // Other recordings may lack a scenario; those in the repository have all.
        let stale = self.exceptions.iter().filter(|e| !e.used && (own || e.met));
        let stale: Vec<_> = stale.map(|e| (&e.scenario, &e.step, &e.needs, &e.why)).collect();
        assert!(stale.is_empty(), "these exceptions excuse nothing, remove them: {stale:#?}");
    }
}

#[test]
fn a_pattern_fits_what_it_describes() {
    assert!(fits("*", "") && fits("frag-*6", "frag-nat6") && fits("a*b*c", "a-b-b-c"));
    assert!(!fits("frag-*6", "frag-nat4") && !fits("nat4", "nat4-tcp") && !fits("a*b*c", "acb"));
}
