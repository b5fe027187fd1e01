//! A harness that can say "not run": what a test needs and the machine lacks makes it an ignored
//! test that names the reason. Without privileges nothing passes by doing nothing.
#![allow(dead_code, reason = "each test file uses its part")]

use std::path::Path;

use libtest_mimic::{Arguments, Failed, Trial};

/// Set for a copy of the test binary that runs one test in a namespace or process of its own.
pub const INSIDE: &str = "GYRE_TEST_INSIDE";

/// What a test needs: the reason when the machine lacks it.
pub type Need = fn() -> Option<String>;

/// A test, the name it is listed under, and what it needs.
pub struct Case {
    pub name: &'static str,
    pub run: fn(),
    pub needs: &'static [Need],
}

/// Cases by the names of their functions: `cases!(&[need, ...]; test, ...)`.
#[macro_export]
macro_rules! cases {
    ($needs:expr; $($test:ident),* $(,)?) => {
        vec![$($crate::harness::Case {
            name: stringify!($test),
            run: $test,
            needs: $needs,
        }),*]
    };
}

/// Network namespaces, which are root's. GYRE_REQUIRE_NETNS=1 (scripts/test sets it where they
/// work) makes their lack a failure.
pub fn namespaces() -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let user = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    let is_root = user.and_then(|ids| ids.split_whitespace().nth(1)) == Some("0");
    match (is_root, Path::new("/dev/net/tun").exists()) {
        (true, true) => None,
        (false, _) => Some("needs root for network namespaces".into()),
        (true, false) => Some("needs /dev/net/tun".into()),
    }
}

fn is_required(need: Need) -> bool {
    let named = std::env::var("GYRE_REQUIRE_NETNS").is_ok_and(|value| value == "1");
    named && std::ptr::fn_addr_eq(need, namespaces as Need)
}

fn trial(case: Case) -> Trial {
    let is_inside = std::env::var_os(INSIDE).is_some();
    let lacks = |need: &Need| (!is_inside).then(need).flatten().map(|reason| (*need, reason));
    let Some((need, reason)) = case.needs.iter().find_map(lacks) else {
        let run = case.run;
        return Trial::test(case.name, move || {
            run();
            Ok(())
        });
    };
    if is_required(need) {
        return Trial::test(case.name, move || Err(Failed::from(reason)));
    }
    let label = format!("{} (not run: {reason})", case.name);
    Trial::test(label, || Ok(())).with_ignored_flag(true)
}

/// Runs all of them one at a time, whatever the command line says: each loads every core.
pub fn run_one_by_one(cases: Vec<Case>) -> ! {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    libtest_mimic::run(&arguments, cases.into_iter().map(trial).collect()).exit()
}

/// Runs all of them, as the command line says.
pub fn run(cases: Vec<Case>) -> ! {
    let trials = cases.into_iter().map(trial).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit()
}
