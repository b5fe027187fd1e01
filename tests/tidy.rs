//! The architecture test: house rules that a machine can check, by plain scanning of files.
//!
//! It owns the import table and the limits on size. What needs a compiler (unsafe blocks without
//! a reason, missing docs) belongs to rustc and clippy. Every failure names file, line and remedy.

use std::fs;
use std::path::Path;

#[path = "tidy/source.rs"]
mod source;

use source::{Source, has_word, words};

const FUNCTION_LINES_MAX: usize = 70;
const FILE_LINES_MAX: usize = 800;
const COLUMNS_MAX: usize = 100;
/// Functions that take a `bool`; to be lowered with each that does not any more.
const BOOLEAN_ARGUMENTS_MAX: usize = 22;

/// What the modules of each layer may import from the crate. `*` is everything.
const IMPORTS: &[(&str, &[&str])] = &[
    ("limits", &[]),
    ("time", &[]),
    ("wire", &["limits", "time"]),
    ("ring", &["limits", "time"]),
    ("counters", &["limits", "time"]),
    ("frame", &["limits", "time", "memory"]),
    ("memory", &["limits", "time"]),
    ("model", &["limits", "time", "wire", "ring", "counters", "frame", "memory"]),
    ("message", &["limits", "time", "wire", "ring", "counters", "frame", "memory", "model"]),
    ("dataplane", &["wire", "frame", "memory", "model", "message", "counters", "limits", "time"]),
    ("dpdk", &["dpdk_sys", "frame", "limits", "time"]),
    ("config", &["model", "limits"]),
    ("import", &["config", "model", "limits"]),
    (
        // `memory` for its errors and `message` for the rows of flows, beside STYLE's list.
        "replay",
        &[
            "dataplane",
            "config",
            "model",
            "wire",
            "frame",
            "counters",
            "limits",
            "time",
            "memory",
            "message",
        ],
    ),
    (
        // `wire` beside STYLE's list, for the packets of health checks by a service's own path.
        "control",
        &["config", "model", "message", "ring", "counters", "limits", "time", "wire"],
    ),
    ("runtime", &["*"]),
    // `wire` for the questions that it puts to a link.
    ("doctor", &["control::api", "config", "model", "wire"]),
    ("cli", &["control::api", "config", "doctor", "import", "replay", "runtime"]),
    ("main", &["cli"]),
    ("lib", &["*"]),
];

/// Where `unsafe` may stand.
const UNSAFE_HOMES: &[&str] =
    &["dpdk-sys/", "src/dpdk/", "src/memory/", "src/ring.rs", "src/ring_loom.rs"];

/// Macros stand at the crate root; this is where they belong.
const MACRO_HOMES: &[(&str, &str)] = &[("pod_struct", "memory")];

/// Never on the packet path: each allocates, blocks, reads a clock, writes or can panic.
const PACKET_PATH_FORBIDS: &[&str] = &[
    ".unwrap()",
    ".expect(",
    "panic!",
    "format!",
    "Box::new",
    "Mutex",
    "Instant::now",
    "println!",
    "eprintln!",
    "log::",
];

/// Builds frames for tests and for the director's own replies, never for a frame in flight.
const PACKET_BUILDER: &str = "src/wire/build.rs";
const ALLOCATION_WORDS: &[&str] = &["format!", "Box::new"];

/// Unfinished work does not land.
const UNFINISHED: &[&str] = &["todo!", "unimplemented!", "dbg!"];

fn rust_sources() -> Vec<Source> {
    let mut sources = Vec::new();
    for place in ["build.rs", "src", "dpdk-sys/build.rs", "dpdk-sys/src", "bench", "tests"] {
        collect(Path::new(place), &mut sources);
    }
    assert!(sources.len() > 10, "tidy found only {} files: run it by cargo test", sources.len());
    source::mark_test_files(&mut sources);
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources
}

fn collect(path: &Path, sources: &mut Vec<Source>) {
    if path.is_dir() {
        let entries = fs::read_dir(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        entries.for_each(|entry| collect(&entry.unwrap().path(), sources));
    } else if path.extension().is_some_and(|extension| extension == "rs") && path.is_file() {
        let text = fs::read_to_string(path).unwrap();
        sources.push(Source::new(path.to_str().unwrap(), &text));
    }
}

/// Fails with every finding at once.
fn report(findings: Vec<String>) {
    assert!(findings.is_empty(), "{} findings:\n{}\n", findings.len(), findings.join("\n"));
}

fn check(rule: impl Fn(&Source) -> Vec<String>) {
    report(rust_sources().iter().flat_map(rule).collect());
}

// ---- rules: each gives "file:line: what; remedy" -------------------------------------------

fn long_functions(source: &Source) -> Vec<String> {
    source
        .functions()
        .into_iter()
        .filter(|function| function.lines > FUNCTION_LINES_MAX)
        .map(|f| {
            format!(
                "{}:{}: `{}` has {} lines, {FUNCTION_LINES_MAX} is the most; cut it by stage",
                source.path, f.line, f.name, f.lines
            )
        })
        .collect()
}

/// Functions that take a `bool`: at the call it says nothing.
fn boolean_arguments(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    let mut signature: Option<(usize, String)> = None;
    for line in source.lines.iter().filter(|line| !line.in_test) {
        if signature.is_none() && words(&line.code).any(|word| word == "fn") {
            signature = Some((line.number, String::new()));
        }
        let Some((start, text)) = &mut signature else { continue };
        text.push_str(&line.code);
        if line.code.contains(['{', ';']) {
            let arguments = text.split("->").next().unwrap_or_default();
            if has_word(arguments, "bool") && arguments.contains(": bool") {
                found.push(format!("{}:{start}: a boolean argument; use an enum", source.path));
            }
            signature = None;
        }
    }
    found
}

fn long_files(source: &Source) -> Vec<String> {
    let count = source.lines.len();
    let found = count > FILE_LINES_MAX;
    let text = format!(
        "{}:{count}: {count} lines, {FILE_LINES_MAX} is the most; find its joint and split it",
        source.path
    );
    found.then_some(text).into_iter().collect()
}

fn wide_lines(source: &Source) -> Vec<String> {
    let wide = |line: &&source::Line| line.raw.chars().count() > COLUMNS_MAX;
    let say = |line: &source::Line| {
        format!("{}:{}: wider than {COLUMNS_MAX} columns; break it", source.path, line.number)
    };
    source.lines.iter().filter(wide).map(say).collect()
}

fn missing_heads(source: &Source) -> Vec<String> {
    let headed = source.lines.first().is_some_and(|line| line.raw.starts_with("//! "));
    let text =
        format!("{}:1: no `//!` head; open with what it owns and what it does not", source.path);
    (!headed).then_some(text).into_iter().collect()
}

fn misplaced_unsafe(source: &Source) -> Vec<String> {
    if UNSAFE_HOMES.iter().any(|home| source.path.starts_with(home)) {
        return Vec::new();
    }
    let found = |line: &&source::Line| words(&line.code).any(|word| word == "unsafe");
    let say = |line: &source::Line| {
        format!(
            "{}:{}: `unsafe` outside {}; put a safe wrapper there and call it",
            source.path,
            line.number,
            UNSAFE_HOMES.join(", ")
        )
    };
    source.lines.iter().filter(found).map(say).collect()
}

fn wrong_imports(source: &Source) -> Vec<String> {
    let Some(layer) = source.layer() else { return Vec::new() };
    let Some((_, allowed)) = IMPORTS.iter().find(|(name, _)| *name == layer) else {
        return vec![format!(
            "{}:1: layer `{layer}` is not in the import table; add it to IMPORTS in tests/tidy.rs",
            source.path
        )];
    };
    let fits = |import: &source::Import| {
        let home = MACRO_HOMES.iter().find(|(name, _)| import.path == *name);
        let path = home.map_or(&*import.path, |(_, layer)| layer);
        source::path_starts_with(path, &layer)
            || allowed.iter().any(|a| *a == "*" || source::path_starts_with(path, a))
    };
    source
        .imports()
        .into_iter()
        .filter(|import| !import.in_test && !fits(import))
        .map(|import| {
            format!(
                "{}:{}: `{layer}` imports `{}`; it may import only: {}. Move what is shared to \
                 its left, or pass it in",
                source.path,
                import.line,
                import.path,
                allowed.join(" ")
            )
        })
        .collect()
}

fn forbidden_words(source: &Source) -> Vec<String> {
    let on_packet_path =
        source.path.starts_with("src/wire/") || source.path.starts_with("src/dataplane/");
    let mut forbidden = UNFINISHED.to_vec();
    if on_packet_path {
        let builder = source.path == PACKET_BUILDER;
        forbidden.extend(
            PACKET_PATH_FORBIDS.iter().filter(|w| !(builder && ALLOCATION_WORDS.contains(*w))),
        );
    }
    let mut findings = Vec::new();
    for line in source.lines.iter().filter(|line| !line.in_test) {
        for word in forbidden.iter().filter(|word| source::has_word(&line.code, word)) {
            findings.push(format!(
                "{}:{}: `{word}` in code that must not have it; return a DropReason, use the \
                 outbox or a counter, or finish it",
                source.path, line.number
            ));
        }
    }
    findings
}

fn serde_in_model(source: &Source) -> Vec<String> {
    let found = |line: &&source::Line| {
        source.path.starts_with("src/model/") && words(&line.code).any(|word| word == "serde")
    };
    let say = |line: &source::Line| {
        format!("{}:{}: serde in `model`; put the type in `config`", source.path, line.number)
    };
    source.lines.iter().filter(found).map(say).collect()
}

/// Variants and stable names of `DropReason` that no test mentions.
fn untested_reasons(counters: &Source, sources: &[Source]) -> Vec<String> {
    let reasons = counters.counted_enum("DropReason");
    assert!(!reasons.is_empty(), "DropReason not found in {}", counters.path);
    let mentioned = |reason: &source::Counted| {
        let variant = format!("DropReason::{}", reason.variant);
        let drop = format!("Drop({})", reason.variant);
        let name = format!("\"{}\"", reason.name);
        sources.iter().flat_map(|source| &source.lines).filter(|line| line.in_test).any(|line| {
            source::has_word(&line.code, &variant)
                || source::has_word(&line.code, &drop)
                || (line.raw.contains(&name) && !line.raw.trim_start().starts_with("//"))
        })
    };
    reasons
        .iter()
        .filter(|reason| !mentioned(reason))
        .map(|reason| {
            format!(
                "{}:{}: no test mentions DropReason::{} or \"{}\"; write the frame that gets it",
                counters.path, reason.line, reason.variant, reason.name
            )
        })
        .collect()
}

/// Methods of the control socket that its document does not describe.
fn undocumented_methods(api: &[&Source], document: &str) -> Vec<String> {
    let methods: Vec<_> = api.iter().flat_map(|source| source.methods()).collect();
    methods
        .iter()
        .filter(|(_, _, method)| !document.contains(&format!("`{method}`")))
        .map(|(path, line, method)| {
            format!("{path}:{line}: `{method}` is not in docs/CONTROL_API.md; describe it there")
        })
        .collect()
}

// ---- the rules over this repository --------------------------------------------------------

#[test]
fn functions_fit_on_one_screen() {
    check(long_functions);
}

/// A file with a harness of its own runs what its `cases!` list, and no `#[test]`.
#[test]
fn no_test_is_left_out_by_a_harness() {
    check(|source| {
        let lists = source.lines.iter().any(|line| line.code.contains("harness::run("));
        let attributes = source.lines.iter().filter(|line| line.code.trim() == "#[test]");
        let say = |line: &source::Line| {
            format!("{}:{}: never run; list it in `cases!` instead", source.path, line.number)
        };
        attributes.filter(|_| lists).map(say).collect()
    });
}

/// There were more; none is added.
#[test]
fn boolean_arguments_become_fewer() {
    let sources = rust_sources();
    let own = sources.iter().filter(|source| source.path.starts_with("src/"));
    let found: Vec<String> = own.flat_map(boolean_arguments).collect();
    let count = found.len();
    if count > BOOLEAN_ARGUMENTS_MAX {
        report(found);
    }
    println!("{count} functions take a bool, {BOOLEAN_ARGUMENTS_MAX} may");
}

#[test]
fn files_stay_readable() {
    check(long_files);
    check(wide_lines);
    check(missing_heads);
}

#[test]
fn unsafe_stays_in_its_homes() {
    check(misplaced_unsafe);
}

#[test]
fn imports_go_one_way() {
    check(wrong_imports);
    check(serde_in_model);
}

#[test]
fn the_packet_path_neither_allocates_nor_panics() {
    check(forbidden_words);
}

#[test]
fn every_drop_reason_has_a_test() {
    let sources = rust_sources();
    let counters = sources.iter().find(|source| source.path == "src/counters.rs").unwrap();
    report(untested_reasons(counters, &sources));
}

#[test]
fn every_api_method_is_documented() {
    let sources = rust_sources();
    let api: Vec<_> = sources.iter().filter(|s| s.path.starts_with("src/control/api")).collect();
    let methods: usize = api.iter().map(|source| source.methods().len()).sum();
    assert!(methods > 10, "only {methods} methods found in src/control/api");
    report(undocumented_methods(&api, &fs::read_to_string("docs/CONTROL_API.md").unwrap()));
}

// ---- the rules on bad examples: a rule that finds nothing in them checks nothing -----------

fn sample(path: &str, text: &str) -> Source {
    Source::new(path, text)
}

#[test]
fn a_function_of_71_lines_is_found_and_70_is_not() {
    let body =
        |lines: usize| format!("fn f() {{\n{}}}\n", "    g('{', \"}\"); // }\n".repeat(lines));
    assert_eq!(long_functions(&sample("src/a.rs", &body(68))), Vec::<String>::new());
    let found = long_functions(&sample("src/a.rs", &body(69)));
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("src/a.rs:1: `f` has 71 lines"), "{found:?}");
}

#[test]
fn a_boolean_argument_is_found_and_a_boolean_answer_is_not() {
    let text = "fn a(\n    x: u8,\n    y: bool,\n) {\n}\nfn b(x: u8) -> bool {\n    x > 0\n}\n\
                struct C { d: bool }\nfn e(f: bool) {}\n";
    let found = boolean_arguments(&sample("src/a.rs", text));
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("src/a.rs:1:") && found[1].starts_with("src/a.rs:10:"));
}

#[test]
fn length_counts_from_the_signature_whatever_stands_in_between() {
    let text = "/// fn not_one() {
impl X {
    pub fn a<'x, const N: usize>(
        v: [u8; { 2 }],
    ) -> &'x str
    where
        Y: Fn() -> u8,
    {
        /* { /* nested */ */ r#\"}\"#
    }
    fn b();
    fn c() { let f: fn(u8) = |_| {}; }
}
";
    let found: Vec<_> = sample("src/a.rs", text)
        .functions()
        .into_iter()
        .map(|f| (f.name, f.line, f.lines))
        .collect();
    assert_eq!(found, [("a".to_string(), 3, 8), ("c".to_string(), 12, 1)]);
}

#[test]
fn imports_against_the_table_are_found() {
    let found = |path, text| wrong_imports(&sample(path, text)).len();
    assert_eq!(found("src/wire/tcp.rs", "use crate::limits::X;\nuse crate::wire::Y;\n"), 0);
    assert_eq!(found("src/wire/tcp.rs", "use crate::{limits::X, model::{A, B}};\n"), 1);
    assert_eq!(found("src/wire/tcp.rs", "use super::super::model::A;\n"), 1);
    assert_eq!(found("src/dataplane/mod.rs", "fn f() { crate::control::go() }\n"), 1);
    assert_eq!(found("src/control/mod.rs", "use dpdk_sys::x;\n"), 1);
    assert_eq!(found("src/cli/run.rs", "use crate::control::api::X;\n"), 0);
    assert_eq!(found("src/cli/run.rs", "use crate::control::socket::X;\n"), 1);
    assert_eq!(found("src/novel/run.rs", "fn f() {}\n"), 1);
    let test = "#[cfg(test)]\nmod tests {\n    use crate::config::X;\n}\n";
    assert_eq!(found("src/dataplane/mod.rs", test), 0);
}

#[test]
fn forbidden_words_are_found_outside_tests_only() {
    let found = |path, text| forbidden_words(&sample(path, text)).len();
    let text = "fn f() { a.unwrap(); }\n#[cfg(test)]\nmod tests { fn g() { b.unwrap() } }\n";
    assert_eq!(found("src/wire/a.rs", text), 1);
    assert_eq!(found("src/control/a.rs", text), 0);
    assert_eq!(found("src/dataplane/a.rs", "// panic! in a comment, \n let s = \"panic!\";"), 0);
    assert_eq!(found("src/dataplane/a.rs", "catalog::x(); eprintln!(); Mutex::new(1)"), 2);
    assert_eq!(found("src/wire/build.rs", "Box::new(1); x.expect(2)"), 1);
    assert_eq!(found("src/control/a.rs", "todo!()"), 1);
}

#[test]
fn sizes_heads_and_unsafe_are_found() {
    let bad = sample("src/a.rs", &format!("fn f() {{ unsafe {{}} }}\n{}\n", "x".repeat(101)));
    assert_eq!(misplaced_unsafe(&bad).len(), 1);
    assert_eq!(misplaced_unsafe(&sample("src/lib.rs", "#![deny(unsafe_code)]")).len(), 0);
    assert_eq!(missing_heads(&bad).len(), 1);
    assert_eq!(wide_lines(&bad), ["src/a.rs:2: wider than 100 columns; break it"]);
    assert_eq!(long_files(&sample("src/a.rs", &"x\n".repeat(801))).len(), 1);
    assert_eq!(long_files(&sample("src/a.rs", &"x\n".repeat(800))).len(), 0);
    assert_eq!(serde_in_model(&sample("src/model/a.rs", "use serde::Serialize;")).len(), 1);
}

#[test]
fn a_method_without_a_description_is_found() {
    let text = "methods! {\n    \"status\" => Status(NoParams) -> Status, [],\n    \
                \"a.b\" => AB(NoParams) -> X, [],\n}\n";
    let api = sample("src/control/api/methods.rs", text);
    let found = undocumented_methods(&[&api], "`status` says");
    assert_eq!(found.len(), 1);
    assert!(found[0].contains("`a.b`"), "{found:?}");
}

#[test]
fn a_reason_without_a_test_is_found() {
    let counters = sample(
        "src/counters.rs",
        "    DropReason {\n  A = \"a\", \"x\";\n  B = \"b\", \"y\";\n    }\n",
    );
    let other = sample("src/a.rs", "#[cfg(test)]\nmod tests { use DropReason::B; }\n");
    let found = untested_reasons(&counters, &[other]);
    assert_eq!(found.len(), 1);
    assert!(found[0].contains("DropReason::A"), "{found:?}");
}
