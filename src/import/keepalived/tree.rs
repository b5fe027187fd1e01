//! keepalived.conf as statements: a keyword with its words, and a block between braces.

use super::lines::Line;
use crate::import::notes::{Notes, Place};

/// Blocks within blocks.
const DEPTH_MAX: usize = 32;

/// A keyword with what belongs to it.
#[derive(Debug)]
pub(super) struct Statement {
    /// Never empty.
    words: Vec<String>,
    pub(super) block: Option<Vec<Statement>>,
    pub(super) place: Place,
}

impl Statement {
    pub(super) fn keyword(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    /// The words after the keyword.
    pub(super) fn values(&self) -> &[String] {
        self.words.get(1..).unwrap_or_default()
    }

    /// The first of them.
    pub(super) fn value(&self) -> Option<&str> {
        self.values().first().map(String::as_str)
    }

    /// What is in its block.
    pub(super) fn inner(&self) -> &[Statement] {
        self.block.as_deref().unwrap_or_default()
    }

    /// Keyword and words, as in the file but for blanks.
    pub(super) fn title(&self) -> String {
        let title = self.words.join(" ");
        match title.char_indices().nth(120) {
            Some((end, _)) => format!("{}...", &title[..end]),
            None => title,
        }
    }
}

enum Token {
    Word(String),
    Open,
    Close,
}

/// The statements of a file.
pub(super) fn parse(lines: Vec<Line>, notes: &mut Notes) -> Vec<Statement> {
    let mut tree = Tree { done: Vec::new(), open: Vec::new(), notes };
    for Line { text, place } in lines {
        let mut words = Vec::new();
        for token in tokens(&text) {
            match token {
                Token::Word(word) => words.push(word),
                Token::Open => tree.open(std::mem::take(&mut words), &place),
                Token::Close => {
                    tree.statement(std::mem::take(&mut words), &place);
                    tree.close(&place);
                }
            }
        }
        tree.statement(words, &place);
    }
    tree.end()
}

struct Tree<'n> {
    /// Of the innermost open block, or of the file.
    done: Vec<Statement>,
    /// Open blocks, with what was done around each.
    open: Vec<(Statement, Vec<Statement>)>,
    notes: &'n mut Notes,
}

impl Tree<'_> {
    fn statement(&mut self, words: Vec<String>, place: &Place) {
        if !words.is_empty() {
            self.done.push(Statement { words, block: None, place: place.clone() });
        }
    }

    fn open(&mut self, words: Vec<String>, place: &Place) {
        let opened = if words.is_empty() {
            // The brace on a line of its own belongs to the statement before.
            match self.done.pop_if(|last| last.block.is_none()) {
                Some(last) => last,
                None => {
                    self.notes.warn(place, "`{` opens a block without a name");
                    Statement { words: vec![String::new()], block: None, place: place.clone() }
                }
            }
        } else {
            Statement { words, block: None, place: place.clone() }
        };
        if self.open.len() >= DEPTH_MAX {
            let what = format!("blocks are nested more than {DEPTH_MAX} deep");
            self.notes.warn(place, what);
            return self.done.push(opened);
        }
        self.open.push((opened, std::mem::take(&mut self.done)));
    }

    fn close(&mut self, place: &Place) {
        let Some((mut statement, around)) = self.open.pop() else {
            return self.notes.warn(place, "`}` closes nothing");
        };
        statement.block = Some(std::mem::replace(&mut self.done, around));
        self.done.push(statement);
    }

    fn end(mut self) -> Vec<Statement> {
        while let Some((statement, _)) = self.open.last() {
            let (what, place) = (statement.title(), statement.place.clone());
            self.notes
                .warn(&place, format!("`{what} {{` is not closed: taken to end with the file"));
            self.close(&place);
        }
        self.done
    }
}

/// Whether braces in a word are braces.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Quoted,
}

/// Words, quotes taken off and escapes resolved, and braces that stand by themselves or end a word.
fn tokens(line: &str) -> Vec<Token> {
    let (mut tokens, mut word, mut kind) = (Vec::new(), None::<String>, Kind::Plain);
    let mut characters = line.chars().peekable();
    while let Some(c) = characters.next() {
        match c {
            '"' | '\'' => {
                kind = Kind::Quoted;
                let text = word.get_or_insert_default();
                while let Some(inner) = characters.next() {
                    match inner {
                        '\\' => text.extend(escaped(&mut characters)),
                        inner if inner == c => break,
                        inner => text.push(inner),
                    }
                }
            }
            '\\' => word.get_or_insert_default().extend(escaped(&mut characters)),
            c if c.is_whitespace() => {
                finish(word.take(), std::mem::replace(&mut kind, Kind::Plain), &mut tokens);
            }
            c => word.get_or_insert_default().push(c),
        }
    }
    finish(word, kind, &mut tokens);
    tokens
}

fn finish(word: Option<String>, kind: Kind, tokens: &mut Vec<Token>) {
    let Some(word) = word else { return };
    if kind == Kind::Quoted {
        return tokens.push(Token::Word(word));
    }
    let brace = |c: char| match c {
        '{' => Some(Token::Open),
        '}' => Some(Token::Close),
        _ => None,
    };
    if let Some(braces) = word.chars().map(brace).collect::<Option<Vec<Token>>>() {
        return tokens.extend(braces);
    }
    match word.strip_suffix('{') {
        Some(start) if !start.ends_with('$') => {
            tokens.push(Token::Word(start.to_owned()));
            tokens.push(Token::Open);
        }
        _ => tokens.push(Token::Word(word)),
    }
}

/// The character that an escape stands for.
fn escaped(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<char> {
    Some(match rest.next()? {
        'a' => '\x07',
        'b' => '\x08',
        'E' => '\x1b',
        'f' => '\x0c',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\x0b',
        'c' => char::from(rest.next()? as u8 & 0x1f),
        'x' => {
            let mut code = 0u32;
            while let Some(digit) = rest.peek().and_then(|c| c.to_digit(16)) {
                code = (code << 4 | digit) & 0xff;
                rest.next();
            }
            char::from(code as u8)
        }
        digit @ '0'..='7' => {
            let mut code = digit as u32 - '0' as u32;
            for _ in 0..2 {
                let Some(next) = rest.peek().and_then(|c| c.to_digit(8)) else { break };
                code = code << 3 | next;
                rest.next();
            }
            char::from((code & 0xff) as u8)
        }
        other => other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (Vec<Statement>, Vec<String>) {
        let line = |(at, text): (usize, &str)| Line {
            text: text.into(),
            place: Place { file: "f".into(), line: at + 1 },
        };
        let mut notes = Notes::default();
        let tree = parse(text.lines().enumerate().map(line).collect(), &mut notes);
        (tree, notes.into_warnings().iter().map(ToString::to_string).collect())
    }

    #[test]
    fn braces_may_stand_anywhere() {
        for text in ["a b {\nc 1\n}", "a b\n{\nc 1\n}", "a b{\n c 1 }", "a b { c 1 }"] {
            let (tree, warnings) = parsed(text);
            assert_eq!(warnings, Vec::<String>::new(), "{text}");
            assert_eq!(tree.len(), 1, "{text}");
            assert_eq!((tree[0].title(), tree[0].inner()[0].title()), ("a b".into(), "c 1".into()));
        }
    }

    #[test]
    fn quotes_join_words_and_escapes_are_resolved() {
        let (tree, _) = parsed(r#"path ab" efg h "mnop "\x41\102\n{" '}'"#);
        assert_eq!(tree[0].values(), ["ab efg h mnop", "AB\n{", "}"]);
    }

    #[test]
    fn braces_that_do_not_match_are_told() {
        let (tree, warnings) = parsed("a {\nb\n");
        assert_eq!(tree[0].inner().len(), 1);
        assert_eq!(warnings, ["f:1: `a {` is not closed: taken to end with the file"]);
        assert_eq!(parsed("}\n").1, ["f:1: `}` closes nothing"]);
        let deep = "a {\n".repeat(100);
        assert!(parsed(&deep).1.iter().any(|one| one.contains("nested more than 32")));
    }
}
