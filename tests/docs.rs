//! What the documents say exists: paths, links, commands, methods, names in the code; and their
//! configurations are without fault. What they say about behaviour is for people to keep true.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use gyre::control::api::METHODS;
use gyre::counters::DropReason;

/// Beginnings of words that are paths in the repository.
const PATH_STARTS: [&str; 6] = ["scripts/", "src/", "docs/", "tests/", "bench/", "dpdk-sys/"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn files_in(folder: &str, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join(folder)).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|found| found == extension));
    files.sort();
    files
}

/// One document.
struct Page {
    path: PathBuf,
    text: String,
}

impl Page {
    fn name(&self) -> String {
        self.path.strip_prefix(root()).unwrap().display().to_string()
    }

    /// Blocks between fences, with their language.
    fn blocks(&self) -> Vec<(String, String)> {
        let mut blocks = Vec::new();
        let mut open: Option<(usize, String, String)> = None;
        for line in self.text.lines() {
            let indent = line.len() - line.trim_start().len();
            open = match (open, line.trim_start().strip_prefix("```")) {
                (None, Some(language)) => Some((indent, language.to_owned(), String::new())),
                (None, None) => None,
                (Some((_, language, block)), Some(_)) => {
                    blocks.push((language, block));
                    None
                }
                (Some((indent, language, mut block)), None) => {
                    block.push_str(line.get(indent..).unwrap_or_default());
                    block.push('\n');
                    Some((indent, language, block))
                }
            };
        }
        assert!(open.is_none(), "{}: a block of code does not end", self.name());
        blocks
    }

    /// Everything outside fences.
    fn prose(&self) -> String {
        let outside = |(at, part): (usize, &str)| (at % 2 == 0).then(|| part.to_owned());
        self.text.split("```").enumerate().filter_map(outside).collect()
    }

    /// What stands between backticks, line breaks made blanks.
    fn inline_code(&self) -> Vec<String> {
        let prose = self.prose();
        let parts = prose.split('`').skip(1).step_by(2);
        parts.map(|code| code.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }

    /// All code that a reader may type, a line each.
    fn commands(&self) -> Vec<String> {
        let shell = self.blocks().into_iter().filter(|(language, _)| language == "sh");
        let lines = shell.flat_map(|(_, block)| {
            block.lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>()
        });
        lines.chain(self.inline_code()).collect()
    }

    /// Targets of links.
    fn links(&self) -> Vec<String> {
        let prose = self.prose();
        let starts = prose.split("](").skip(1);
        starts.filter_map(|rest| rest.split_once(')')).map(|(to, _)| to.to_owned()).collect()
    }

    /// Names that a link to a heading may have.
    fn anchors(&self) -> BTreeSet<String> {
        let headings = self.text.lines().filter_map(|line| line.strip_prefix('#'));
        let keep = |c: &char| c.is_alphanumeric() || " -_".contains(*c);
        headings
            .map(|heading| heading.trim_start_matches('#').trim().to_lowercase())
            .map(|heading| heading.chars().filter(keep).collect::<String>().replace(' ', "-"))
            .collect()
    }
}

fn page(path: PathBuf) -> Page {
    Page { text: read(&path), path }
}

fn pages() -> Vec<Page> {
    let top = ["README.md", "CHANGELOG.md"].map(|name| root().join(name));
    let pages: Vec<Page> = top.into_iter().chain(files_in("docs", "md")).map(page).collect();
    assert!(pages.len() >= 6, "README, CHANGELOG and four pages in docs are expected");
    pages
}

fn report(findings: Vec<String>) {
    assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
}

#[test]
fn configurations_in_documents_are_without_fault() {
    let examples = files_in("docs/examples", "toml");
    assert!(examples.len() >= 4, "examples: {examples:?}");
    let mut texts: Vec<(String, String)> =
        examples.iter().map(|path| (path.display().to_string(), read(path))).collect();
    for page in pages() {
        let blocks = page.blocks().into_iter().filter(|(language, _)| language == "toml");
        texts.extend(blocks.map(|(_, block)| (page.name(), block)));
    }
    assert!(texts.len() >= 6, "README has two configurations");
    let mut findings = Vec::new();
    for (name, text) in texts {
        let problems = gyre::config::check(&text).err().unwrap_or_default();
        findings.extend(problems.iter().map(|problem| format!("{name}: {problem}")));
    }
    report(findings);
}

/// As it comes there is no port in it; with the marks taken off the lines it is a whole one.
#[test]
fn the_packages_configuration_is_without_fault() {
    let text = read(&root().join("packaging/gyre.toml"));
    let told = gyre::config::check(&text).unwrap_err();
    assert!(told.len() == 1 && told[0].to_string().contains("there is no port"), "{told:?}");
    let unmarked = |line: &str| {
        line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).map(str::to_owned)
    };
    let whole: Vec<String> = text.lines().filter_map(unmarked).collect();
    let checked = gyre::config::check(&whole.join("\n")).unwrap();
    assert_eq!(checked.config.service[0].server.len(), 2);
}

#[test]
fn links_lead_somewhere() {
    let pages = pages();
    let anchors: BTreeMap<PathBuf, BTreeSet<String>> =
        pages.iter().map(|page| (page.path.canonicalize().unwrap(), page.anchors())).collect();
    let mut findings = Vec::new();
    for page in &pages {
        for link in page.links().iter().filter(|link| !link.contains("://")) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let to = match file {
                "" => page.path.clone(),
                file => page.path.parent().unwrap().join(file),
            };
            let Ok(to) = to.canonicalize() else {
                findings.push(format!("{}: no file behind the link {link}", page.name()));
                continue;
            };
            let known = anchors.get(&to).is_none_or(|anchors| anchors.contains(anchor));
            if !anchor.is_empty() && !known {
                findings.push(format!("{}: no heading behind the link {link}", page.name()));
            }
        }
    }
    report(findings);
}

#[test]
fn paths_in_documents_exist() {
    let mut findings = Vec::new();
    for page in pages() {
        for command in page.commands() {
            let words = command.split_whitespace();
            let paths = words.filter(|word| PATH_STARTS.iter().any(|at| word.starts_with(at)));
            for path in paths.filter(|path| !root().join(path).exists()) {
                findings.push(format!("{}: there is no {path}", page.name()));
            }
        }
    }
    report(findings);
}

fn help(arguments: &[&str]) -> String {
    let gyre = env!("CARGO_BIN_EXE_gyre");
    let output = Command::new(gyre).args(arguments).arg("--help").output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// What is wrong with a line that starts with `gyre`.
fn wrong_with(line: &str, subcommands: &BTreeMap<String, String>) -> Option<String> {
    let mut words = line.split_whitespace().skip(1);
    let subcommand = words.next().filter(|word| !word.starts_with('-'))?;
    let Some(help) = subcommands.get(subcommand) else {
        return Some(format!("there is no `gyre {subcommand}`"));
    };
    let own = line.split('|').next().unwrap_or_default();
    let options = own.split_whitespace().filter(|word| word.starts_with('-'));
    let unknown = |option: &&str| {
        !help.split([' ', ',', '\n']).any(|known| known == option.trim_matches('\''))
    };
    if let Some(option) = options.into_iter().find(unknown) {
        return Some(format!("`gyre {subcommand}` has no {option}"));
    }
    let method = words.next().filter(|word| subcommand == "ctl" && !word.starts_with('-'))?;
    let known = METHODS.iter().any(|known| known.name == method) || method == "METHOD";
    if !known {
        return Some(format!("the control socket has no {method}"));
    }
    let json = line.split('\'').nth(1)?;
    let parsed: Result<serde_json::Value, _> = serde_json::from_str(json);
    parsed.err().map(|error| format!("{json}: {error}"))
}

#[test]
fn commands_in_documents_are_understood() {
    let overview = help(&[]);
    let commands =
        overview.split("Commands:").nth(1).and_then(|rest| rest.split("Options:").next());
    let names = commands.unwrap().lines().filter_map(|line| line.split_whitespace().next());
    let subcommands: BTreeMap<String, String> =
        names.map(|name| (name.to_owned(), help(&[name]))).collect();
    assert!(subcommands.len() > 10, "{overview}");
    let mut findings = Vec::new();
    let mut seen = 0;
    for page in pages() {
        for line in page.commands().iter().filter(|line| line.starts_with("gyre ")) {
            seen += 1;
            let wrong = wrong_with(line, &subcommands);
            findings.extend(wrong.map(|what| format!("{}: {line}: {what}", page.name())));
        }
    }
    assert!(seen > 20, "{seen} commands were found");
    report(findings);
}

fn source_words(folder: &Path, words: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            source_words(&path, words);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = read(&path);
            let split = text.split(|c: char| !c.is_alphanumeric() && c != '_');
            words.extend(split.map(str::to_owned));
        }
    }
}

#[test]
fn names_in_the_architecture_exist_in_the_code() {
    let mut words = BTreeSet::new();
    source_words(&root().join("src"), &mut words);
    let page = page(root().join("docs/ARCHITECTURE.md"));
    let mut findings = Vec::new();
    for code in page.inline_code() {
        let name = code.split('(').next().unwrap();
        let path: Vec<&str> = name.split("::").collect();
        let is_name = path.iter().all(|part| {
            part.starts_with(|c: char| c.is_ascii_alphabetic())
                && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        });
        let in_code = path.len() > 1
            || name.contains('_')
            || code.contains('(')
            || name.starts_with(|c: char| c.is_ascii_uppercase());
        if is_name && in_code && !path.iter().all(|part| words.contains(*part)) {
            findings.push(format!("docs/ARCHITECTURE.md: nothing in src is named {name}"));
        }
    }
    report(findings);
}

#[test]
fn reasons_and_keys_in_differences_are_gyres_own() {
    let reference = read(&root().join("docs/CONFIGURATION.md"));
    let reasons: Vec<&str> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
    let page = page(root().join("docs/DIFFERENCES.md"));
    let prose = page.prose();
    let named: Vec<&str> = prose
        .split("(`")
        .skip(1)
        .filter_map(|rest| rest.split("`)").next())
        .flat_map(|inside| inside.split("`, `"))
        .filter(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
        .collect();
    assert!(named.len() > 5, "{named:?}");
    let unknown = named
        .into_iter()
        .filter(|name| !reasons.contains(name) && !reference.contains(&format!("| `{name}` |")));
    report(unknown.map(|name| format!("docs/DIFFERENCES.md: there is no `{name}`")).collect());
}

#[test]
fn the_replay_example_replays_a_recording() {
    let example = root().join("docs/examples/replay.toml");
    let line = read(&example);
    let line =
        line.lines().find_map(|line| line.trim_start_matches('#').trim().strip_prefix("gyre "));
    let arguments: Vec<&str> = line.unwrap().split_whitespace().collect();
    let mut replay = Command::new(env!("CARGO_BIN_EXE_gyre"));
    let output = replay.current_dir(root()).args(&arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("flows: 2 created"), "{text}");
    assert!(text.contains("transmit        5"), "{text}");
}

/// Names of functions under `#[test]` or `#[tokio::test]`, and of all where cases are a table, with
/// the names in it.
fn test_names(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            test_names(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = read(&path);
            let mut is_test = false;
            let netns = path.starts_with(root().join("tests/netns"));
            let table = netns || text.contains("cases!(");
            for line in text.lines().map(str::trim_start) {
                if netns
                    && let Some((name, _)) =
                        line.strip_prefix("(\"").and_then(|rest| rest.split_once("\", "))
                {
                    names.insert(name.to_owned());
                }
                is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
                let Some((_, rest)) = line.split_once("fn ") else { continue };
                if is_test || table {
                    names.insert(rest.split(['(', '<']).next().unwrap().to_owned());
                }
                is_test = false;
            }
        }
    }
}

#[test]
fn every_promise_names_a_test_that_exists() {
    let mut names = BTreeSet::new();
    for folder in ["src", "tests", "bench"] {
        test_names(&root().join(folder), &mut names);
    }
    let text = read(&root().join("docs/SPECIFICATION.md"));
    let mut promises = 0;
    let mut findings = Vec::new();
    for (at, line) in text.lines().enumerate().filter(|(_, line)| line.starts_with("- ")) {
        promises += 1;
        let place = format!("docs/SPECIFICATION.md:{}", at + 1);
        let Some((_, tests)) = line.rsplit_once(" | ") else {
            findings.push(format!("{place}: add ` | ` and the test that shows it"));
            continue;
        };
        let missing = tests.split(", ").filter(|test| !names.contains(test.trim()));
        findings.extend(missing.map(|test| format!("{place}: there is no test `{test}`")));
    }
    assert!(promises > 40, "{promises} promises were found");
    report(findings);
}
