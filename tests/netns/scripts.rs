//! What scripts/lab.sh does about laboratories of runs that were killed, and of those kept.

use std::process::Command;

use crate::Case;
use crate::lab::try_run;

pub const CASES: &[Case] = &[(
    "labs_of_killed_runs_are_swept_and_kept_ones_stay",
    labs_of_killed_runs_are_swept_and_kept_ones_stay,
)];

fn bash(snippet: &str) -> String {
    let lab = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/lab.sh");
    let text = format!(". {}; . {lab}; {snippet}", lab.replace("lab.sh", "lib.sh"));
    try_run(Command::new("bash").args(["-euc", &text])).unwrap()
}

/// A process number that nobody has: the kernel gives none above its own bound.
const NOBODY: u32 = (1 << 22) + 7;

fn labs_of_killed_runs_are_swept_and_kept_ones_stay() {
    let dir = tempfile::tempdir().unwrap();
    let (killed, kept) = (format!("gyre-demo-{NOBODY}"), format!("gyre-soak-{NOBODY}"));
    // As a run leaves them that was ended by SIGKILL: a namespace with a process, a directory.
    let made = bash(&format!(
        "TMPDIR={}; for lab in {killed} {kept}; do mkdir $TMPDIR/$lab; ip netns add $lab-client; \
         ip netns exec $lab-client sleep 300 >$TMPDIR/$lab/log 2>&1 & echo $!; done; \
         : >$TMPDIR/{kept}/kept",
        dir.path().display()
    ));
    let pids: Vec<&str> = made.split_whitespace().collect();
    let runs = |pid: &str| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.contains("(sleep)") && !stat.contains(") Z ")
    };
    crate::lab::wait_for("both to run", 5, || pids.iter().all(|pid| runs(pid)).then_some(()));
    bash(&format!("TMPDIR={}; sweep_dead_labs", dir.path().display()));
    let spaces = bash("ip netns list");
    let swept = !runs(pids[0]) && !spaces.contains(&killed) && !dir.path().join(&killed).exists();
    let stayed = runs(pids[1]) && spaces.contains(&kept) && dir.path().join(&kept).exists();
    bash(&format!("TMPDIR={}; remove_spaces {killed}; remove_spaces {kept}", dir.path().display()));
    assert!(swept, "left over: {spaces}");
    assert!(stayed, "taken away although kept: {spaces}");
    assert!(!runs(pids[1]), "what is removed ends");
}
