//! This program under valgrind's callgrind, and what that wrote. What is counted is `scene`'s.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, ensure};

/// How the line that names the processor's features begins.
pub const FEATURES_WORD: &str = "features: ";

/// What came of counting.
pub enum Outcome {
    /// Figures.
    Counted(Taken),
    /// Valgrind cannot be had here, and why.
    Impossible(String),
}

/// Figures, and what they depend on.
pub struct Taken {
    /// Instructions a packet, by case.
    pub instructions: BTreeMap<String, f64>,
    /// What the program found of the processor that valgrind shows it.
    pub features: String,
    /// Valgrind's version.
    pub valgrind: String,
}

/// Runs every case under callgrind.
pub fn count() -> anyhow::Result<Outcome> {
    let Ok(version) = Command::new("valgrind").arg("--version").output() else {
        return Ok(Outcome::Impossible("valgrind is not installed".into()));
    };
    let directory = tempfile::tempdir()?;
    let base = directory.path().join("counts");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--compress-strings=no"])
        // Collection begins and ends with one function; after each case its sum is written.
        .args(["--toggle-collect=*counted_burst*", "--dump-after=*case_ends*"])
        .arg(format!("--callgrind-out-file={}", base.display()))
        .arg(std::env::current_exe()?)
        .arg("run")
        .output()?;
    if !output.status.success() {
        return failed(&output);
    }
    let mut lines = std::str::from_utf8(&output.stdout)?.lines();
    let features = lines.next().and_then(|line| line.strip_prefix(FEATURES_WORD));
    let features = features.context("the program did not name its features")?.to_owned();
    let mut instructions = BTreeMap::new();
    for (at, line) in lines.enumerate() {
        let (name, packets) = line.split_once(' ').context("a line without packets")?;
        let sum = part(&base, at + 1)?;
        ensure!(sum > 0, "callgrind counted nothing for {name}: is the symbol table there?");
        instructions.insert(name.to_owned(), sum as f64 / packets.parse::<f64>()?);
    }
    ensure!(!instructions.is_empty(), "no case ran");
    let valgrind = String::from_utf8_lossy(&version.stdout).trim().to_owned();
    Ok(Outcome::Counted(Taken { instructions, features, valgrind }))
}

/// Valgrind that does not know an instruction cannot count here; all else is a fault of ours.
fn failed(output: &Output) -> anyhow::Result<Outcome> {
    let text = String::from_utf8_lossy(&output.stderr);
    let reason = text.lines().find(|line| line.contains("unhandled instruction"));
    if let Some(reason) = reason {
        return Ok(Outcome::Impossible(format!("valgrind cannot run it: {reason}")));
    }
    anyhow::bail!("{} under callgrind: {text}", output.status)
}

/// What was counted since the part before.
fn part(base: &Path, number: usize) -> anyhow::Result<u64> {
    let path = format!("{}.{number}", base.display());
    let text =
        fs::read_to_string(&path).with_context(|| format!("callgrind did not write {path}"))?;
    ensure!(text.contains("Trigger: --dump-after"), "{path} is not the end of a case");
    summary(&text).with_context(|| format!("{path} has no sum"))
}

fn summary(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("summary: "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_says_its_sum() {
        let text = "version: 1\ncmd: x\npart: 3\nevents: Ir\nsummary: 123456\n\nfn=a\n1 2\n";
        assert_eq!(summary(text), Some(123_456));
        assert_eq!(summary("version: 1\nevents: Ir\n"), None);
    }
}
