//! Command lines as popt reads them: short options in bundles, long ones by their whole name
//! alone, values behind `=` or in the next word. What is no option waits until the end.
//!
//! Which options there are is `options`'s to say.

use super::options::{Argument, OPTIONS, Opt};

/// The next thing on a command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// An option with its value.
    Option(Opt, Option<String>),
    /// A word that popt refuses, and why.
    Refused(String, &'static str),
    /// No more options.
    End,
}

/// A command line being read.
#[derive(Debug)]
pub struct Words<'a> {
    args: &'a [String],
    next: usize,
    /// What is left of a word of short options.
    bundle: &'a str,
    rest: Vec<&'a str>,
}

impl<'a> Words<'a> {
    /// Reads `args`, the program's name not among them.
    pub fn new(args: &'a [String]) -> Self {
        Words { args, next: 0, bundle: "", rest: Vec::new() }
    }

    /// The word that the last option stood in, or took its value from.
    pub fn last(&self) -> &'a str {
        self.next.checked_sub(1).and_then(|at| self.args.get(at)).map_or("", String::as_str)
    }

    /// The words that are no options and no values; whole once `next` came to the end.
    pub fn rest(&self) -> &[&'a str] {
        &self.rest
    }

    /// The next option.
    pub fn next(&mut self) -> Next {
        if let Some(letter) = self.bundle.chars().next() {
            return self.short(letter);
        }
        while let Some(word) = self.args.get(self.next) {
            self.next += 1;
            if word == "--" {
                self.rest.extend(self.args[self.next..].iter().map(String::as_str));
                self.next = self.args.len();
            } else if let Some(long) = word.strip_prefix("--") {
                return self.long(long);
            } else if let Some(letters) = word.strip_prefix('-').filter(|word| !word.is_empty()) {
                self.bundle = letters;
                return self.short(letters.chars().next().unwrap_or_default());
            } else {
                self.rest.push(word);
            }
        }
        Next::End
    }

    fn short(&mut self, letter: char) -> Next {
        let Some(row) = OPTIONS.iter().find(|row| row.short == Some(letter)) else {
            self.bundle = "";
            return self.refused("unknown option");
        };
        let behind = &self.bundle[letter.len_utf8()..];
        if row.argument == Argument::None {
            self.bundle = behind;
            return Next::Option(row.opt, None);
        }
        self.bundle = "";
        let own = behind.strip_prefix('=').unwrap_or(behind);
        self.valued(row.opt, row.argument, (!behind.is_empty()).then_some(own))
    }

    fn long(&mut self, word: &'a str) -> Next {
        let (name, own) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word, None),
        };
        let Some(row) = OPTIONS.iter().find(|row| row.long == name) else {
            return self.refused("unknown option");
        };
        match (row.argument, own) {
            (Argument::None, Some(_)) => self.refused("option does not take an argument"),
            (Argument::None, None) => Next::Option(row.opt, None),
            (argument, own) => self.valued(row.opt, argument, own),
        }
    }

    /// An option whose value is its `own`, or the next word.
    fn valued(&mut self, opt: Opt, argument: Argument, own: Option<&str>) -> Next {
        let next = self.args.get(self.next);
        let value = match (own, argument) {
            (Some(own), _) => return Next::Option(opt, Some(own.to_owned())),
            (None, Argument::Optional) => next.filter(|word| !word.starts_with('-')),
            (None, _) => next,
        };
        match value {
            Some(value) => {
                self.next += 1;
                Next::Option(opt, Some(value.clone()))
            }
            None if argument == Argument::Optional => Next::Option(opt, None),
            None => self.refused("missing argument"),
        }
    }

    fn refused(&self, why: &'static str) -> Next {
        Next::Refused(self.last().to_owned(), why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> (Vec<Next>, Vec<String>) {
        let args: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let mut words = Words::new(&args);
        let mut all = Vec::new();
        loop {
            match words.next() {
                Next::End => return (all, words.rest().iter().map(ToString::to_string).collect()),
                next @ Next::Refused(..) => {
                    all.push(next);
                    return (all, Vec::new());
                }
                next => all.push(next),
            }
        }
    }

    fn option(opt: Opt, value: &str) -> Next {
        Next::Option(opt, Some(value.into()))
    }

    #[test]
    fn values_stand_behind_in_the_next_word_or_after_an_equals_sign() {
        for line in
            ["-t a:1 -srr", "-ta:1 -s rr", "--tcp-service=a:1 --scheduler rr", "-t=a:1 -s=rr"]
        {
            let wanted = vec![option(Opt::TcpService, "a:1"), option(Opt::Scheduler, "rr")];
            assert_eq!(read(line), (wanted, Vec::new()), "{line}");
        }
        assert_eq!(read("-w -1").0, [option(Opt::Weight, "-1")]);
    }

    #[test]
    fn an_optional_value_is_no_option() {
        assert_eq!(read("-p 60").0, [option(Opt::Persistent, "60")]);
        let bare = Next::Option(Opt::Persistent, None);
        assert_eq!(read("-p -n").0, [bare.clone(), Next::Option(Opt::Numeric, None)]);
        assert_eq!(read("-p").0, [bare]);
    }

    #[test]
    fn names_are_not_shortened_and_the_rest_waits() {
        let refused = |word: &str, why| vec![Next::Refused(word.into(), why)];
        assert_eq!(read("--tcp a:1").0, refused("--tcp", "unknown option"));
        assert_eq!(read("-t").0, refused("-t", "missing argument"));
        assert_eq!(
            read("--numeric=1").0,
            refused("--numeric=1", "option does not take an argument")
        );
        let (options, rest) = read("x -Ln y -- -n");
        assert_eq!((options.len(), rest), (2, vec!["x".into(), "y".into(), "-n".into()]));
    }
}
