//! A source file as tidy sees it: its lines with comments and literals blanked, its functions,
//! its imports. No parser: enough of a lexer that braces and words in text do not count.

/// One line.
pub struct Line {
    /// Number, from 1.
    pub number: usize,
    /// As it stands in the file.
    pub raw: String,
    /// Comments, strings and characters blanked; columns kept.
    pub code: String,
    /// Inside an item that only tests compile.
    pub in_test: bool,
}

/// A function with a body.
pub struct Function {
    pub name: String,
    /// Line of the signature.
    pub line: usize,
    /// From the signature to the closing brace.
    pub lines: usize,
}

/// A path into the crate, `control::api` for `crate::control::api::X`.
pub struct Import {
    pub path: String,
    pub line: usize,
    pub in_test: bool,
}

/// A variant of a `counted!` enum and its stable name.
pub struct Counted {
    pub variant: String,
    pub name: String,
    pub line: usize,
}

/// One file.
pub struct Source {
    pub path: String,
    pub lines: Vec<Line>,
    code: Vec<char>,
}

/// Blanks what the compiler does not read as code.
fn blank(text: &str) -> Vec<char> {
    let chars: Vec<char> = text.chars().collect();
    let mut out = chars.clone();
    let mut at = 0;
    while at < chars.len() {
        let end = skipped_until(&chars, at);
        for c in &mut out[at..end] {
            if *c != '\n' {
                *c = ' ';
            }
        }
        at = end.max(at + 1);
    }
    out
}

/// Where the comment or literal that starts at `at` ends; `at` when none does.
fn skipped_until(chars: &[char], at: usize) -> usize {
    let next = |n: usize| chars.get(at + n).copied().unwrap_or(' ');
    let fresh = at == 0 || !is_word(chars[at - 1]);
    match chars[at] {
        '/' if next(1) == '/' => until(chars, at, |c, i| c[i] == '\n'),
        '/' if next(1) == '*' => block_comment(chars, at),
        '"' => until(chars, at + 1, |c, i| c[i] == '"' && !escaped(c, i)) + 1,
        'r' | 'b' | 'c' if fresh => raw_string(chars, at).unwrap_or(at),
        '\'' if next(1) == '\\' => until(chars, at + 3, |c, i| c[i] == '\'') + 1,
        '\'' if next(2) == '\'' => at + 3,
        _ => at,
    }
    .min(chars.len())
}

fn until(chars: &[char], from: usize, stop: impl Fn(&[char], usize) -> bool) -> usize {
    (from..chars.len()).find(|i| stop(chars, *i)).unwrap_or(chars.len())
}

fn escaped(chars: &[char], at: usize) -> bool {
    chars[..at].iter().rev().take_while(|c| **c == '\\').count() % 2 == 1
}

fn block_comment(chars: &[char], start: usize) -> usize {
    let mut depth = 0;
    let mut at = start;
    while at + 1 < chars.len() {
        match (chars[at], chars[at + 1]) {
            ('/', '*') => depth += 1,
            ('*', '/') => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    chars.len()
}

/// The end of `r"…"`, `r#"…"#`, `br"…"` and the like.
fn raw_string(chars: &[char], start: usize) -> Option<usize> {
    let letters = chars[start..].iter().take_while(|c| matches!(c, 'r' | 'b' | 'c')).count();
    if !chars[start..start + letters].contains(&'r') {
        return None;
    }
    let hashes = chars[start + letters..].iter().take_while(|c| **c == '#').count();
    let open = start + letters + hashes;
    if chars.get(open) != Some(&'"') {
        return None;
    }
    let closes = |c: &[char], i: usize| {
        c[i] == '"' && c[i + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes
    };
    Some(until(chars, open + 1, closes) + 1 + hashes)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The identifiers in `code`.
pub fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c| !is_word(c)).filter(|word| !word.is_empty())
}

/// Whether `needle` stands in `code` and is not part of a longer word.
pub fn has_word(code: &str, needle: &str) -> bool {
    let edge =
        |c: Option<char>, side: Option<char>| !side.is_some_and(is_word) || !c.is_some_and(is_word);
    code.match_indices(needle).any(|(at, _)| {
        edge(code[..at].chars().next_back(), needle.chars().next())
            && edge(code[at + needle.len()..].chars().next(), needle.chars().next_back())
    })
}

/// Whether module path `path` is `prefix` or lies below it.
pub fn path_starts_with(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Marks files that are test code as a whole: below `tests/`, or declared under `cfg(test)`.
pub fn mark_test_files(sources: &mut [Source]) {
    let mut test_modules = Vec::new();
    for source in sources.iter() {
        let folder = source.module_folder();
        for line in source.lines.iter().filter(|line| line.in_test) {
            if let Some(path) = line.raw.trim().strip_prefix("#[path = \"") {
                let beside = source.path.rsplit_once('/').map_or("", |(folder, _)| folder);
                let file = path.split('"').next().unwrap_or(path);
                test_modules.push(format!("{beside}/{file}"));
            }
            let code = line.code.trim();
            let name = code.rsplit("mod ").next().and_then(|rest| rest.strip_suffix(';'));
            if let (true, Some(name)) = (words(code).any(|word| word == "mod"), name) {
                test_modules.push(format!("{folder}/{name}.rs"));
                test_modules.push(format!("{folder}/{name}/"));
            }
        }
    }
    for source in sources {
        let declared = test_modules.iter().any(|module| source.path.starts_with(module.as_str()));
        if declared || source.path.starts_with("tests/") {
            source.lines.iter_mut().for_each(|line| line.in_test = true);
        }
    }
}

impl Source {
    /// Reads `text` as the file `path`, relative to the repository.
    pub fn new(path: &str, text: &str) -> Self {
        let code = blank(text);
        let blanked: String = code.iter().collect();
        let lines = text.lines().zip(blanked.lines()).enumerate();
        let lines = lines
            .map(|(i, (raw, code))| Line {
                number: i + 1,
                raw: raw.into(),
                code: code.into(),
                in_test: false,
            })
            .collect();
        let mut source = Source { path: path.into(), lines, code };
        source.mark_test_items();
        source
    }

    /// The top module under `src/`: `wire` for `src/wire/tcp.rs`. None elsewhere.
    pub fn layer(&self) -> Option<String> {
        let inside = self.path.strip_prefix("src/")?;
        let first = inside.split('/').next()?;
        let name = first.strip_suffix(".rs").unwrap_or(first);
        // `ring_tests.rs` beside `ring.rs`.
        let name = name.strip_suffix("_tests").or(name.strip_suffix("_loom")).unwrap_or(name);
        Some(name.into())
    }

    /// The folder that the file's own `mod x;` refer to.
    fn module_folder(&self) -> String {
        let stem = self.path.strip_suffix(".rs").unwrap_or(&self.path);
        let (folder, name) = stem.rsplit_once('/').unwrap_or(("", stem));
        let flat = matches!(name, "mod" | "lib" | "main") || folder == "tests";
        if flat { folder.into() } else { stem.into() }
    }

    fn line_of(&self, at: usize) -> usize {
        self.code[..at].iter().filter(|c| **c == '\n').count() + 1
    }

    /// Start of every occurrence of the word `word`.
    fn find_word(&self, word: &str) -> Vec<usize> {
        let wanted: Vec<char> = word.chars().collect();
        let edge = |at: Option<&char>| !at.copied().is_some_and(is_word);
        (0..self.code.len())
            .filter(|at| self.code[*at..].starts_with(&wanted))
            .filter(|at| *at == 0 || edge(self.code.get(at - 1)))
            .filter(|at| edge(self.code.get(at + wanted.len())))
            .collect()
    }

    /// Marks the items under `#[cfg(test)]`, `#[cfg(all(test, …))]` and `#[cfg(loom)]`.
    fn mark_test_items(&mut self) {
        for at in self.find_word("cfg") {
            let end = until(&self.code, at, |c, i| c[i] == ']');
            let condition: String = self.code[at..end].iter().collect();
            let negated = condition.contains("not(test)") || condition.contains("not(loom)");
            if negated || !words(&condition).any(|word| matches!(word, "test" | "loom")) {
                continue;
            }
            let (first, last) = (self.line_of(at), self.line_of(self.item_end(end + 1)));
            self.lines[first - 1..last].iter_mut().for_each(|line| line.in_test = true);
        }
    }

    /// The last character of the item that starts at `from`: its `;` or closing brace.
    fn item_end(&self, from: usize) -> usize {
        let mut nested = 0usize;
        for (at, c) in self.code.iter().enumerate().skip(from) {
            match c {
                '(' | '[' => nested += 1,
                ')' | ']' => nested = nested.saturating_sub(1),
                ';' if nested == 0 => return at,
                '{' if nested == 0 => return self.closing_brace(at),
                _ => {}
            }
        }
        self.code.len().saturating_sub(1)
    }

    fn closing_brace(&self, open: usize) -> usize {
        let mut depth = 0usize;
        for (at, c) in self.code.iter().enumerate().skip(open) {
            match c {
                '{' => depth += 1,
                '}' if depth == 1 => return at,
                '}' => depth -= 1,
                _ => {}
            }
        }
        self.code.len() - 1
    }

    /// Every function that has a name and a body.
    pub fn functions(&self) -> Vec<Function> {
        let mut found = Vec::new();
        for at in self.find_word("fn") {
            let rest: String = self.code[at + 2..].iter().take(120).collect();
            let name: String = rest.trim_start().chars().take_while(|c| is_word(*c)).collect();
            let end = self.item_end(at);
            if name.is_empty() || self.code[end] != '}' {
                continue;
            }
            let line = self.line_of(at);
            found.push(Function { name, line, lines: self.line_of(end) + 1 - line });
        }
        found
    }

    /// Every path into the crate or to `dpdk_sys`, in `use` or in place.
    pub fn imports(&self) -> Vec<Import> {
        let mut found = Vec::new();
        let depth = self.module_depth();
        for at in self.find_word("crate").into_iter().chain(self.find_word("gyre")) {
            let len = until(&self.code, at, |c, i| !is_word(c[i])) - at;
            self.push_paths(at, at + len, &mut found);
        }
        for at in self.find_word("super") {
            let mut levels = 0;
            let mut end = at;
            while self.code[end..].starts_with(&['s', 'u', 'p', 'e', 'r', ':', ':']) {
                levels += 1;
                end += 7;
            }
            let leading = at < 2 || self.code[at - 1] != ':';
            if leading && levels >= depth && levels > 0 {
                self.push_paths(at, end - 2, &mut found);
            }
        }
        for at in self.find_word("dpdk_sys") {
            found.push(self.import("dpdk_sys".into(), at));
        }
        found
    }

    /// How many `super` lead from this file's module to the crate root.
    fn module_depth(&self) -> usize {
        let inside = self.path.strip_prefix("src/").unwrap_or(&self.path);
        let parts = inside.split('/').count();
        if inside.ends_with("/mod.rs") { parts - 1 } else { parts }
    }

    fn import(&self, path: String, at: usize) -> Import {
        let line = self.line_of(at);
        Import { path, line, in_test: self.lines[line - 1].in_test }
    }

    /// Adds what follows `::` at `from`: one path, or each member of a `{…}` group.
    fn push_paths(&self, at: usize, from: usize, found: &mut Vec<Import>) {
        let rest: String = self.code[from..].iter().take(2000).collect();
        let Some(rest) = rest.strip_prefix("::") else { return };
        let Some(group) = rest.strip_prefix('{') else {
            found.push(self.import(two_segments(rest), at));
            return;
        };
        let mut depth = 0;
        let mut member = String::new();
        for c in group.chars() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    found.push(self.import(two_segments(member.trim()), at));
                    member.clear();
                    continue;
                }
                _ => {}
            }
            member.push(c);
        }
        if !member.trim().is_empty() {
            found.push(self.import(two_segments(member.trim()), at));
        }
    }

    /// The variants of the `counted!` enum `name`: lines `Variant = "name", "meaning";`.
    pub fn counted_enum(&self, name: &str) -> Vec<Counted> {
        let head = format!("{name} {{");
        let body = self.lines.iter().skip_while(|line| line.raw.trim() != head).skip(1);
        body.take_while(|line| line.raw.trim() != "}")
            .filter_map(|line| {
                let (variant, rest) = line.raw.trim().split_once(" = \"")?;
                let name = rest.split('"').next()?.to_string();
                Some(Counted { variant: variant.into(), name, line: line.number })
            })
            .collect()
    }

    /// JSON-RPC methods: what stands in lines `"name" => Variant(` of the table `methods!`.
    pub fn methods(&self) -> Vec<(String, usize, String)> {
        let row = |line: &Line| {
            let (name, rest) = line.raw.trim().strip_prefix('"')?.split_once("\" => ")?;
            let is_row = rest.starts_with(char::is_uppercase) && rest.contains('(');
            is_row.then(|| (self.path.clone(), line.number, name.to_string()))
        };
        let table = self.lines.iter().skip_while(|line| line.raw.trim() != "methods! {");
        table.filter_map(row).collect()
    }
}

/// The first two segments of a path, `a::b` for `a::b::{c, d}`.
fn two_segments(path: &str) -> String {
    let end = path.find(|c: char| !is_word(c) && c != ':').unwrap_or(path.len());
    let segments: Vec<_> = path[..end].split("::").filter(|s| !s.is_empty()).take(2).collect();
    segments.join("::")
}
